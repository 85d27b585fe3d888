// SPDX-License-Identifier: MIT OR Apache-2.0
//! The hypercall service, compiled for a machine that is behind trait objects.
//!
//! The service is generic over its machine, so its code is made in the crate that names one. Here
//! that is this crate, which is compiled with a call at every edge (`instrument.sh`), and the
//! machine is in another, which is not: edges are the shim's alone.

use tagstash::addr::{PhysAddr, PhysRange};
use tagstash::hypercall::abi::{Function, Reply};
use tagstash::hypercall::service::Service;
use tagstash::platform::{CacheMaintenance, Caller, CopyFault, PageMemory, Platform};

/// A machine that somebody else implements.
pub struct Port<'m>(pub &'m dyn Platform);

impl PageMemory for Port<'_> {
    fn copy_chunk_in(&self, from: PhysAddr, to: PhysAddr) -> Result<(), CopyFault> {
        self.0.copy_chunk_in(from, to)
    }

    fn copy_page_out(&self, from: PhysAddr, to: PhysAddr) -> Result<(), CopyFault> {
        self.0.copy_page_out(from, to)
    }

    fn crc32c(&self, seed: u32, range: PhysRange) -> Result<u32, CopyFault> {
        self.0.crc32c(seed, range)
    }
}

impl CacheMaintenance for Port<'_> {
    fn barrier_inner(&self) {
        self.0.barrier_inner();
    }

    fn barrier_system(&self) {
        self.0.barrier_system();
    }

    fn clean_invalidate_tags(&self, range: PhysRange) {
        self.0.clean_invalidate_tags(range);
    }

    fn clean_invalidate_data(&self, range: PhysRange) {
        self.0.clean_invalidate_data(range);
    }

    fn relax(&self) {
        self.0.relax();
    }
}

/// A CPU that somebody else implements.
struct Cpu<'c>(&'c dyn Caller);

impl Caller for Cpu<'_> {
    fn cpu(&self) -> usize {
        self.0.cpu()
    }

    fn interrupted(&self) -> bool {
        self.0.interrupted()
    }

    fn now(&self) -> u64 {
        self.0.now()
    }
}

/// Makes one call: `args` are `x0`-`x7`. It is served as the firmware serves it (`src/el2/calls.rs`): by the ways for calls
/// that have next to nothing to do, then by those for one page, then by the one for any.
pub fn call(service: &Service<'_, Port<'_>>, caller: &dyn Caller, args: &[u64; 8]) -> Reply {
    let caller = &Cpu(caller);
    let quick = Function::decode(args[0] as u32).and_then(|function| {
        service
            .serve_nothing(function, caller, args)
            .or_else(|| service.serve_page(function, service.platform(), caller, args))
    });
    quick.unwrap_or_else(|| service.call(caller, args))
}
