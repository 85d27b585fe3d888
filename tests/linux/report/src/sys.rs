// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Linux system calls that no other program makes (arm64: include/uapi/asm-generic/unistd.h),
//! with the kernel's names for their arguments; and instructions that may be undefined.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use linux_program::signal::{self, SIGILL, SigInfo};

pub use linux_program::sys::*;

const IOCTL: u64 = 29;
const PIPE2: u64 = 59;
const READ: u64 = 63;
/// Changes or tells something of the process.
pub const PRCTL: u64 = 167;
const PERF_EVENT_OPEN: u64 = 241;

/// Reads words from a file; returns how many bytes there were.
pub fn read_words(file: u64, words: &mut [u64]) -> Result<u64> {
    let length = size_of_val(words) as u64;
    // SAFETY: the kernel writes to `words` only, which is ours to lend; any bytes make a number.
    unsafe { call(READ, [file, words.as_mut_ptr() as u64, length]) }
}

/// Makes a pipe; returns its reading and its writing end.
pub fn pipe() -> Result<(u64, u64)> {
    let mut ends = [0_u32; 2];
    // SAFETY: the kernel writes 8 bytes to `ends`.
    unsafe { call(PIPE2, [&raw mut ends as u64]) }?;
    Ok((ends[0].into(), ends[1].into()))
}

/// prctl with one argument, of those that touch no memory of the process.
pub fn control(operation: u64, argument: u64) -> Result<u64> {
    // SAFETY: the operations that the program uses change or tell the state of its registers.
    unsafe { call(PRCTL, [operation, argument]) }
}

/// Opens a performance event of this process, on whatever CPU it is. `group` is the event to count
/// together with.
pub fn perf_event_open<T>(attributes: &T, group: Option<u64>) -> Result<u64> {
    let attributes = core::ptr::from_ref(attributes) as u64;
    let group = group.unwrap_or(u64::MAX);
    // SAFETY: the kernel only reads the attributes, as many bytes as they say.
    unsafe { call(PERF_EVENT_OPEN, [attributes, 0, u64::MAX, group]) }
}

/// An ioctl whose argument is a number.
pub fn ioctl(file: u64, request: u64, argument: u64) -> Result<u64> {
    // SAFETY: the requests that the program uses take no address.
    unsafe { call(IOCTL, [file, request, argument]) }
}

/// An instruction was undefined since this was last cleared.
static UNDEFINED: AtomicBool = AtomicBool::new(false);

/// Steps over instructions that are undefined, and takes note.
pub fn on_illegal_instruction() -> Result<()> {
    signal::handle(SIGILL, step_over, 0)
}

extern "C" fn step_over(_signal: i32, _info: &SigInfo, context: *mut u8) {
    UNDEFINED.store(true, Relaxed);
    // SAFETY: what the kernel gave this handler.
    unsafe { signal::step_over(context) };
}

/// Runs `instruction`; says whether it was defined.
pub fn is_defined(instruction: impl FnOnce()) -> bool {
    UNDEFINED.store(false, Relaxed);
    instruction();
    !UNDEFINED.load(Relaxed)
}
