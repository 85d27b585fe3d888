// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls from states of the CPU that no kernel makes them from (`pstate.s`): any PSTATE, any stack
//! pointer, any vectors, MMU off, vector registers of any length.

use core::arch::global_asm;
use core::sync::atomic::AtomicU64;

use crate::exceptions::{self, Abort};

global_asm!(include_str!("pstate.s"));

/// SPSR bits.
pub mod spsr {
    /// EL0.
    pub const EL0T: u64 = 0;
    /// EL1 with SP_EL0.
    pub const EL1T: u64 = 4;
    /// EL1 with SP_EL1.
    pub const EL1H: u64 = 5;
    /// Debug exceptions, SErrors, IRQs and FIQs masked.
    pub const DAIF: u64 = 0xf << 6;
    /// Debug exceptions masked.
    pub const D: u64 = 1 << 9;
    /// What kind of branch came here.
    pub const BTYPE: u64 = 3 << 10;
    /// Illegal execution state.
    pub const IL: u64 = 1 << 20;
    /// One instruction, then an exception.
    pub const SS: u64 = 1 << 21;
    /// Exception level and stack pointer.
    pub const MODE: u64 = 0x1f;
}

/// Classes of ESR_EL1.
pub mod class {
    /// An undefined instruction.
    pub const UNKNOWN: u64 = 0x00;
    /// A branch to what is no landing pad.
    pub const BRANCH_TARGET: u64 = 0x0d;
    /// PSTATE.IL was set.
    pub const ILLEGAL_STATE: u64 = 0x0e;
    /// A load or store at EL1.
    pub const DATA_ABORT: u64 = 0x25;
    /// A step at EL1 is done.
    pub const STEP: u64 = 0x33;
    /// BRK.
    pub const BREAKPOINT: u64 = 0x3c;
}

unsafe extern "C" {
    fn body_nop();
    fn body_hvc();
    fn body_hvc_1();
    fn body_hvc_4a();
    fn body_hvc_ffff();
    fn body_smc();
    fn body_smc_1();
    fn body_smc_4a();
    fn body_smc_ffff();
    fn body_load();
    fn body_smc_brk();
    fn recovery_vectors();
    fn bare_entry();
    fn run_in_state(state: *mut State);
    fn abort_with_vectors(address: u64, vectors: u64) -> Lost;
    fn call_with_vectors(
        before: u64,
        after: u64,
        arguments: *mut [u64; 8],
        cpacr: u64,
        flags: u64,
    ) -> u64;
    fn vector_length(streaming: bool) -> u64;
}

/// One instruction to be executed, and BRK behind it.
#[derive(Clone, Copy)]
pub struct Body {
    /// Its name.
    pub name: &'static str,
    code: unsafe extern "C" fn(),
}

impl Body {
    /// Its address.
    pub fn address(&self) -> u64 {
        self.code as *const () as u64
    }
}

/// Does nothing.
pub const NOP: Body = Body { name: "NOP", code: body_nop };
/// A call.
pub const HVC: Body = Body { name: "HVC #0", code: body_hvc };
/// The same by the other instruction.
pub const SMC: Body = Body { name: "SMC #0", code: body_smc };
/// A call with BRK next, for the stack of this CPU only.
pub const SMC_BRK: Body = Body { name: "SMC #0", code: body_smc_brk };
/// A load from where x0 says.
pub const LOAD: Body = Body { name: "LDR", code: body_load };
/// Calls with an immediate.
pub const WITH_IMMEDIATE: [Body; 6] = [
    Body { name: "HVC #1", code: body_hvc_1 },
    Body { name: "HVC #0x4a", code: body_hvc_4a },
    Body { name: "HVC #0xffff", code: body_hvc_ffff },
    Body { name: "SMC #1", code: body_smc_1 },
    Body { name: "SMC #0x4a", code: body_smc_4a },
    Body { name: "SMC #0xffff", code: body_smc_ffff },
];

/// A state, and what has become of it.
#[repr(C)]
pub struct State {
    /// `x0`-`x16`.
    pub general: [u64; 17],
    code: u64,
    pstate: u64,
    stack: u64,
    own_stack: u64,
    stack_after: u64,
}

impl State {
    /// A body, reached by an ERET with SPSR_EL1 as given, on the stack of this CPU.
    pub fn new(body: Body, pstate: u64) -> State {
        State {
            general: core::array::from_fn(|at| 0xc0de_0000_0000_0000 | (at as u64) << 8),
            code: body.address(),
            pstate,
            stack: 0,
            own_stack: 1,
            stack_after: 0,
        }
    }

    /// With these in the first registers.
    pub fn arguments(mut self, arguments: &[u64; 8]) -> State {
        self.general[..8].copy_from_slice(arguments);
        self
    }

    /// With this stack pointer. What is executed must not take an exception at EL1h.
    pub fn stack(mut self, stack: u64) -> State {
        (self.stack, self.own_stack) = (stack, 0);
        self
    }

    /// In another mapping of the code, so many bytes above.
    pub fn mapped(mut self, offset: u64) -> State {
        self.code += offset;
        self
    }

    /// What `x0`-`x3` say.
    pub fn results(&self) -> [u64; 4] {
        core::array::from_fn(|at| self.general[at])
    }

    /// Where the instruction is that is executed.
    pub fn code(&self) -> u64 {
        self.code
    }

    /// The stack pointer behind the instruction; 0 if that was not reached.
    pub fn stack_after(&self) -> u64 {
        self.stack_after
    }

    /// Runs it. The exception that ended it: BRK's, if all went well.
    ///
    /// # Safety
    ///
    /// As for `cpu::hvc`.
    pub unsafe fn run(&mut self) -> Option<Abort> {
        // SAFETY: the code keeps what must be kept; the call is the caller's.
        exceptions::expect(|| unsafe { run_in_state(self) })
    }
}

/// Where the abort came from that reached the recovery vectors.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Lost {
    /// ELR_EL1.
    pub at: u64,
    /// ESR_EL1.
    pub syndrome: u64,
}

/// Loads from hidden memory with VBAR_EL1 at `vectors`, where vectors may be missing at first.
/// Returns when [`recovery`] is mapped there.
pub fn lose_vectors(hidden: u64, vectors: u64) -> Lost {
    // SAFETY: the load must abort, and if it does not it changes nothing.
    unsafe { abort_with_vectors(hidden, vectors) }
}

/// The page of vectors that work anywhere.
pub fn recovery() -> u64 {
    recovery_vectors as *const () as u64
}

/// Most calls of a [`Bare`].
pub const BARE_CALLS: usize = 32;

/// What a CPU does that never turns its MMU on.
#[repr(C, align(64))]
pub struct Bare {
    /// For TCR, TTBR0, TTBR1 and MAIR.
    pub garbage: u64,
    /// For VBAR and SP.
    pub wild: u64,
    /// SCTLR_EL1 as it was.
    pub sctlr: AtomicU64,
    /// How many calls, odd ones from the end by HVC, others by SMC.
    pub count: u64,
    /// SP after the calls; 0 until then.
    pub stack: AtomicU64,
    /// Padding.
    pub _pad: [u64; 3],
    /// Arguments, and `x0`-`x7` afterwards.
    pub calls: [[AtomicU64; 8]; BARE_CALLS],
}

/// Where such a CPU starts; the context is the address of a [`Bare`].
pub fn bare_address() -> u64 {
    bare_entry as *const () as u64
}

/// Flag of [`with_vectors`]: Z, P and FFR rather than q registers.
pub const SVE: u64 = 1;
/// Flag: in streaming mode.
pub const STREAMING: u64 = 2;
/// Flag: ZA is there.
pub const ZA: u64 = 4;
/// Flag: by SMC.
pub const BY_SMC: u64 = 8;
/// Bytes of a buffer for vector registers.
pub const VECTORS: u64 = ZA_OFFSET + 256 * 256;
/// Where ZA is in it.
pub const ZA_OFFSET: u64 = 0x3000;

/// A call with vector registers filled from `before` and stored to `after`, while CPACR_EL1 is
/// `cpacr`. SVCR after it.
///
/// # Safety
///
/// As for `cpu::hvc`; the buffers are the caller's, and the CPU has what the flags say.
pub unsafe fn with_vectors(
    before: u64,
    after: u64,
    arguments: &mut [u64; 8],
    cpacr: u64,
    flags: u64,
) -> u64 {
    // SAFETY: the caller's.
    unsafe { call_with_vectors(before, after, arguments, cpacr, flags) }
}

/// Bytes of a vector.
///
/// # Safety
///
/// The CPU has SVE, or SME for `streaming`, and CPACR_EL1 lets it be used.
pub unsafe fn length(streaming: bool) -> u64 {
    // SAFETY: reads a length.
    unsafe { vector_length(streaming) }
}
