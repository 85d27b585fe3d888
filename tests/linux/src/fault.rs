// SPDX-License-Identifier: MIT OR Apache-2.0
//! SIGSEGV: what the kernel said of it, and how the program goes on after one that it awaited.

use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering::Relaxed};
use linux_program::println;
use linux_program::signal::{self, SIGSEGV, SigInfo};

use crate::sys;

/// si_code: the mapping does not permit the access.
pub const SEGV_ACCERR: i32 = 2;
/// si_code: tags differed, reported some time later.
pub const SEGV_MTEAERR: i32 = 8;
/// si_code: tags differed, reported at the access.
pub const SEGV_MTESERR: i32 = 9;

/// No kernel knows this flag, and one that clears it clears all flags that it does not know.
const SA_UNSUPPORTED: u64 = 0x400;
const SA_EXPOSE_TAGBITS: u64 = 0x800;

/// What a thread awaits and what came.
pub struct Watch {
    awaited: AtomicBool,
    count: AtomicU32,
    code: AtomicI32,
    address: AtomicU64,
}

impl Watch {
    /// One that awaits nothing.
    pub const fn new() -> Watch {
        Watch {
            awaited: AtomicBool::new(false),
            count: AtomicU32::new(0),
            code: AtomicI32::new(0),
            address: AtomicU64::new(0),
        }
    }

    /// That of this thread: what its thread pointer names, and the first thread's has none.
    fn own() -> &'static Watch {
        static FIRST: Watch = Watch::new();
        match sys::thread_pointer() {
            0 => &FIRST,
            // SAFETY: `threads` starts each thread with the address of one in a static.
            other => unsafe { &*(other as *const Watch) },
        }
    }
}

/// A SIGSEGV that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Why: si_code.
    pub code: i32,
    /// Where: si_addr, with the tag of the address that was used; 0 if the kernel does not know.
    pub address: u64,
}

/// Sets up the handler, for this process and its children; it is given the address with its tag
/// where the kernel does so.
pub fn set_up() -> sys::Result<()> {
    signal::handle(SIGSEGV, handle, SA_UNSUPPORTED | SA_EXPOSE_TAGBITS)
}

/// Says whether the handler is given addresses with their tags, which kernels before 5.11 do not.
/// To be asked once it is set up.
pub fn tags_exposed() -> sys::Result<bool> {
    let flags = signal::kept_flags(SIGSEGV)?;
    Ok(flags & SA_UNSUPPORTED == 0 && flags & SA_EXPOSE_TAGBITS != 0)
}

/// Runs `access`; returns how many SIGSEGVs this thread had of it, and the last one.
///
/// The instruction at fault is stepped over, so `access` must have no other memory access that
/// may fault than those of `tags`.
pub fn watch(access: impl FnOnce()) -> (u32, Fault) {
    let own = Watch::own();
    own.count.store(0, Relaxed);
    own.awaited.store(true, Relaxed);
    access();
    own.awaited.store(false, Relaxed);
    let fault = Fault { code: own.code.load(Relaxed), address: own.address.load(Relaxed) };
    (own.count.load(Relaxed), fault)
}

extern "C" fn handle(_signal: i32, info: &SigInfo, context: *mut u8) {
    let own = Watch::own();
    if !own.awaited.load(Relaxed) {
        println!("# SIGSEGV that nobody awaited: code {}, address {:#x}", info.code, info.address);
        sys::exit(128 + SIGSEGV as u64);
    }
    own.count.fetch_add(1, Relaxed);
    own.code.store(info.code, Relaxed);
    own.address.store(info.address, Relaxed);
    if info.code != SEGV_MTEAERR {
        // SAFETY: what the kernel gave this handler.
        unsafe { signal::step_over(context) };
    }
}
