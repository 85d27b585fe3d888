// SPDX-License-Identifier: MIT OR Apache-2.0
//! Handlers of signals.

use crate::sys::{Result, call};

const RT_SIGACTION: u64 = 134;

/// An instruction that is undefined.
pub const SIGILL: i32 = 4;
/// A memory fault.
pub const SIGSEGV: i32 = 11;

/// The handler is given a [`SigInfo`], as all that [`handle`] sets are.
const SA_SIGINFO: u64 = 4;

/// struct sigaction as the kernel has it on arm64.
#[derive(Default)]
#[repr(C)]
struct SigAction {
    handler: u64,
    flags: u64,
    restorer: u64,
    mask: u64,
}

/// What the kernel gives a handler besides the number: si_signo, si_errno, si_code, si_addr.
#[repr(C)]
pub struct SigInfo {
    signal: i32,
    errno: i32,
    /// Why, in the signal's own codes.
    pub code: i32,
    pad: i32,
    /// Where, with the tag if that was asked for.
    pub address: u64,
}

/// A signal handler. The last argument is the ucontext_t of what was interrupted.
pub type Handler = extern "C" fn(i32, &SigInfo, *mut u8);

/// Sets the handler of a signal.
pub fn handle(signal: i32, handler: Handler, flags: u64) -> Result<()> {
    let (handler, flags) = (handler as usize as u64, flags | SA_SIGINFO);
    let action = SigAction { handler, flags, ..SigAction::default() };
    // SAFETY: the kernel reads `action`, whose layout is its own; without SA_RESTORER it returns
    // from the handler through the vDSO.
    unsafe { call(RT_SIGACTION, [signal as u64, &raw const action as u64, 0, 8]) }.map(|_| ())
}

/// The flags that the kernel keeps of those that the handler of a signal was set with.
pub fn kept_flags(signal: i32) -> Result<u64> {
    let mut action = SigAction::default();
    // SAFETY: the kernel writes to `action`, whose layout is its own, and reads nothing.
    unsafe { call(RT_SIGACTION, [signal as u64, 0, &raw mut action as u64, 8]) }?;
    Ok(action.flags)
}

/// Lets what was interrupted go on behind the instruction where it was.
///
/// # Safety
///
/// `context` is what the kernel gave the handler that calls this.
pub unsafe fn step_over(context: *mut u8) {
    /// Where pc is in struct ucontext: 176 bytes before struct sigcontext (whose alignment is 16),
    /// then fault_address, regs\[31\] and sp (arm64: uapi/asm/ucontext.h, uapi/asm/sigcontext.h).
    const PC_OFFSET: usize = 176 + 8 + 31 * 8 + 8;
    // SAFETY: the kernel's ucontext_t has the pc there, on the stack, for this handler alone.
    unsafe {
        let pc = context.add(PC_OFFSET).cast::<u64>();
        pc.write(pc.read().wrapping_add(4));
    }
}
