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

/// Sets up the handler, for this process and its children.
pub fn set_up() -> sys::Result<()> {
    sys::on_fault(handle)
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
        // SAFETY: the kernel's ucontext_t has the pc there, on the stack, for this handler alone.
        unsafe {
            let pc = context.add(PC_OFFSET).cast::<u64>();
            pc.write(pc.read().wrapping_add(4));
        }
    }
}
