// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Linux system calls that the program makes (arm64: include/uapi/asm-generic/unistd.h), with
//! the kernel's names for their arguments.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

global_asm!(
    // The stack pointer is all that the kernel gives a program; a frame record of zeros ends
    // every backtrace.
    ".global _start",
    "_start:",
    "mov x29, xzr",
    "mov x30, xzr",
    "mov x0, sp",
    "b {start}",
    start = sym crate::start,
);

const IOCTL: u64 = 29;
const CLOSE: u64 = 57;
const PIPE2: u64 = 59;
const READ: u64 = 63;
const WRITE: u64 = 64;
const EXIT_GROUP: u64 = 94;
const SCHED_SETAFFINITY: u64 = 122;
const RT_SIGACTION: u64 = 134;
const PRCTL: u64 = 167;
const GETCPU: u64 = 168;
const GETPID: u64 = 172;
const CLONE: u64 = 220;
const PERF_EVENT_OPEN: u64 = 241;
const WAIT4: u64 = 260;

const SIGILL: u64 = 4;
const SIGCHLD: u64 = 17;
const EINTR: i64 = -4;

/// An error number of the kernel, positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

/// What a call came to.
pub type Result<T> = core::result::Result<T, Errno>;

/// Makes a system call; negative results are error numbers.
///
/// # Safety
///
/// What the kernel does to memory on this call must be memory that no reference covers, or that
/// the caller lends it for writing.
unsafe fn call(number: u64, arguments: [u64; 6]) -> i64 {
    let [a, b, c, d, e, f] = arguments;
    let result;
    // SAFETY: the kernel keeps all registers but x0; what it does to memory is the caller's part.
    unsafe {
        asm!("svc #0", in("x8") number, inlateout("x0") a => result, in("x1") b, in("x2") c,
             in("x3") d, in("x4") e, in("x5") f, options(nostack));
    }
    result
}

/// Turns a system call's result into a value or an error.
fn checked(result: i64) -> Result<u64> {
    if result < 0 { Err(Errno(-result as i32)) } else { Ok(result as u64) }
}

/// Writes all of `bytes` to a file; what cannot be written is lost.
pub fn write(file: u64, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        // SAFETY: the kernel only reads from `bytes`.
        let written =
            unsafe { call(WRITE, [file, bytes.as_ptr() as u64, bytes.len() as u64, 0, 0, 0]) };
        match written {
            EINTR => {}
            1.. => bytes = bytes.get(written as usize..).unwrap_or_default(),
            _ => return,
        }
    }
}

/// Reads words from a file; returns how many bytes there were.
pub fn read_words(file: u64, words: &mut [u64]) -> Result<u64> {
    let length = size_of_val(words) as u64;
    // SAFETY: the kernel writes to `words` only, which is ours to lend; any bytes make a number.
    checked(unsafe { call(READ, [file, words.as_mut_ptr() as u64, length, 0, 0, 0]) })
}

/// Closes a file.
pub fn close(file: u64) {
    // SAFETY: it touches no memory.
    unsafe { call(CLOSE, [file, 0, 0, 0, 0, 0]) };
}

/// Makes a pipe; returns its reading and its writing end.
pub fn pipe() -> Result<(u64, u64)> {
    let mut ends = [0_u32; 2];
    // SAFETY: the kernel writes 8 bytes to `ends`.
    checked(unsafe { call(PIPE2, [&raw mut ends as u64, 0, 0, 0, 0, 0]) })?;
    Ok((ends[0].into(), ends[1].into()))
}

/// Ends the process.
pub fn exit(status: u64) -> ! {
    loop {
        // SAFETY: nothing runs after it.
        unsafe { call(EXIT_GROUP, [status, 0, 0, 0, 0, 0]) };
    }
}

/// The number of the process. A cheap way into the kernel and back.
pub fn own_id() -> u64 {
    // SAFETY: it touches no memory.
    unsafe { call(GETPID, [0; 6]) as u64 }
}

/// Makes a copy of the process, with memory of its own; returns its number, and 0 in the copy.
pub fn fork() -> Result<u64> {
    // SAFETY: without CLONE_VM the copy has memory of its own, with the stack's contents.
    checked(unsafe { call(CLONE, [SIGCHLD, 0, 0, 0, 0, 0]) })
}

/// Waits until a child ends.
pub fn wait(child: u64) -> Result<()> {
    loop {
        // SAFETY: with no address for the status it touches no memory.
        match unsafe { call(WAIT4, [child, 0, 0, 0, 0, 0]) } {
            EINTR => {}
            result => return checked(result).map(|_| ()),
        }
    }
}

/// Lets the process run on one CPU only.
pub fn pin(cpu: u64) -> Result<()> {
    let mask: u64 = 1_u64.checked_shl(cpu as u32).unwrap_or(0);
    // SAFETY: the kernel only reads the 8 bytes of `mask`.
    checked(unsafe { call(SCHED_SETAFFINITY, [0, 8, &raw const mask as u64, 0, 0, 0]) })?;
    let mut is = 0_u32;
    // SAFETY: the kernel writes 4 bytes to `is`.
    checked(unsafe { call(GETCPU, [&raw mut is as u64, 0, 0, 0, 0, 0]) })?;
    if u64::from(is) == cpu { Ok(()) } else { Err(Errno(22)) }
}

/// prctl with one argument, of those that touch no memory of the process.
pub fn control(operation: u64, argument: u64) -> Result<u64> {
    // SAFETY: the operations that the program uses change or tell the state of its registers.
    checked(unsafe { call(PRCTL, [operation, argument, 0, 0, 0, 0]) })
}

/// Opens a performance event of this process, on whatever CPU it is. `group` is the event to count
/// together with.
pub fn perf_event_open<T>(attributes: &T, group: Option<u64>) -> Result<u64> {
    let attributes = core::ptr::from_ref(attributes) as u64;
    // SAFETY: the kernel only reads the attributes, as many bytes as they say.
    checked(unsafe {
        call(PERF_EVENT_OPEN, [attributes, 0, u64::MAX, group.unwrap_or(u64::MAX), 0, 0])
    })
}

/// An ioctl whose argument is a number.
pub fn ioctl(file: u64, request: u64, argument: u64) -> Result<u64> {
    // SAFETY: the requests that the program uses take no address.
    checked(unsafe { call(IOCTL, [file, request, argument, 0, 0, 0]) })
}

/// struct sigaction as the kernel has it on arm64.
#[repr(C)]
struct SigAction {
    handler: u64,
    flags: u64,
    restorer: u64,
    mask: u64,
}

/// Where pc is in struct ucontext: 176 bytes before struct sigcontext (whose alignment is 16),
/// then fault_address, regs\[31\] and sp (arm64: uapi/asm/ucontext.h, uapi/asm/sigcontext.h).
const PC_OFFSET: usize = 176 + 8 + 31 * 8 + 8;

/// An instruction was undefined since this was last cleared.
static UNDEFINED: AtomicBool = AtomicBool::new(false);

/// Steps over instructions that are undefined, and takes note.
pub fn on_illegal_instruction() -> Result<()> {
    const SA_SIGINFO: u64 = 4;
    let handler = step_over as *const () as u64;
    let action = SigAction { handler, flags: SA_SIGINFO, restorer: 0, mask: 0 };
    let action = &raw const action as u64;
    // SAFETY: the kernel reads `action`, whose layout is its own; without SA_RESTORER it returns
    // from the handler through the vDSO.
    checked(unsafe { call(RT_SIGACTION, [SIGILL, action, 0, 8, 0, 0]) }).map(|_| ())
}

extern "C" fn step_over(_signal: i32, _info: u64, context: *mut u8) {
    UNDEFINED.store(true, Relaxed);
    // SAFETY: the kernel's ucontext_t has the pc there, on the stack, for this handler alone.
    unsafe {
        let pc = context.add(PC_OFFSET).cast::<u64>();
        pc.write(pc.read().wrapping_add(4));
    }
}

/// Runs `instruction`; says whether it was defined.
pub fn is_defined(instruction: impl FnOnce()) -> bool {
    UNDEFINED.store(false, Relaxed);
    instruction();
    !UNDEFINED.load(Relaxed)
}
