// SPDX-License-Identifier: MIT OR Apache-2.0
//! SIGSEGV: what the kernel said of it, and how the program goes on after one that it awaited.

use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::sys::{self, SIGSEGV, SigInfo};
use crate::text::println;

/// si_code: the mapping does not permit the access.
pub const SEGV_ACCERR: i32 = 2;
/// si_code: tags differed, reported some time later.
pub const SEGV_MTEAERR: i32 = 8;
/// si_code: tags differed, reported at the access.
pub const SEGV_MTESERR: i32 = 9;

/// Where pc is in struct ucontext: 176 bytes before struct sigcontext (whose alignment is 16),
/// then fault_address, regs\[31\] and sp (arm64: uapi/asm/ucontext.h, uapi/asm/sigcontext.h).
const PC_OFFSET: usize = 176 + 8 + 31 * 8 + 8;

static AWAITED: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicU32 = AtomicU32::new(0);
static CODE: AtomicI32 = AtomicI32::new(0);
static ADDRESS: AtomicU64 = AtomicU64::new(0);

/// A SIGSEGV that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Why: si_code.
    pub code: i32,
    /// Where: si_addr, with the tag of the address that was used; 0 if the kernel does not know.
    pub address: u64,
}

/// Sets up the handler, for this process and its children.
pub fn set_up() -> sys::Result<()> {
    sys::on_fault(handle)
}

/// Runs `access`; returns how many SIGSEGVs came of it, and the last one.
///
/// The instruction at fault is stepped over, so `access` must have no other memory access that
/// may fault than those of `tags`.
pub fn watch(access: impl FnOnce()) -> (u32, Fault) {
    COUNT.store(0, Relaxed);
    AWAITED.store(true, Relaxed);
    access();
    AWAITED.store(false, Relaxed);
    let fault = Fault { code: CODE.load(Relaxed), address: ADDRESS.load(Relaxed) };
    (COUNT.load(Relaxed), fault)
}

extern "C" fn handle(_signal: i32, info: &SigInfo, context: *mut u8) {
    if !AWAITED.load(Relaxed) {
        println!("# SIGSEGV that nobody awaited: code {}, address {:#x}", info.code, info.address);
        sys::exit(128 + SIGSEGV as u64);
    }
    COUNT.fetch_add(1, Relaxed);
    CODE.store(info.code, Relaxed);
    ADDRESS.store(info.address, Relaxed);
    if info.code != SEGV_MTEAERR {
        // SAFETY: the kernel's ucontext_t has the pc there, on the stack, for this handler alone.
        unsafe {
            let pc = context.add(PC_OFFSET).cast::<u64>();
            pc.write(pc.read().wrapping_add(4));
        }
    }
}
