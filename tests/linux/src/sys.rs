// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Linux system calls that no other program makes (arm64: include/uapi/asm-generic/unistd.h),
//! with the kernel's names for their arguments.

use core::arch::asm;
use core::ffi::CStr;
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

pub use linux_program::sys::*;

const PPOLL: u64 = 73;
const EXIT: u64 = 93;
const FUTEX: u64 = 98;
const PTRACE: u64 = 117;
const SCHED_YIELD: u64 = 124;
const KILL: u64 = 129;
const UNAME: u64 = 160;
const PRCTL: u64 = 167;
const MREMAP: u64 = 216;
const EXECVE: u64 = 221;
const MPROTECT: u64 = 226;
const MLOCK: u64 = 228;
const MADVISE: u64 = 233;
const MEMFD_CREATE: u64 = 279;

const MREMAP_MAYMOVE: u64 = 1;

/// Stops a process.
pub const SIGSTOP: i32 = 19;

const PR_SET_TAGGED_ADDR_CTRL: u64 = 55;
const PR_GET_TAGGED_ADDR_CTRL: u64 = 56;
const PR_TAGGED_ADDR_ENABLE: u64 = 1;
const PR_MTE_TAG_SHIFT: u32 = 3;

const PTRACE_TRACEME: u64 = 0;
const PTRACE_CONT: u64 = 7;
const PTRACE_PEEKMTETAGS: u64 = 33;
const PTRACE_POKEMTETAGS: u64 = 34;

/// What becomes of an access whose tags differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum TagCheck {
    /// Nothing.
    None = 0,
    /// The access faults at once.
    Sync = 1 << 1,
    /// The fault is reported at the next entry into the kernel.
    Async = 1 << 2,
    /// As the CPU prefers: one of the above, or loads synchronous and stores asynchronous.
    Preferred = 1 << 1 | 1 << 2,
}

/// Reads a 64-bit word of a file. `path` ends with a zero byte.
pub fn read_word(path: &[u8], offset: u64) -> Result<u64> {
    let mut word = [0];
    let file = open(path, 0)?;
    let result = pread(file, &mut word, offset);
    close(file);
    result.map(|()| word[0])
}

/// Reads the beginning of a file, as much as goes into `bytes`. `path` ends with a zero byte.
pub fn read_file<'a>(path: &[u8], bytes: &'a mut [u8]) -> Result<&'a [u8]> {
    let file = open(path, 0)?;
    let mut used = 0;
    let result = loop {
        match read(file, &mut bytes[used..]) {
            Ok(0) => break Ok(()),
            Ok(more) => used += more as usize,
            Err(error) => break Err(error),
        }
    };
    close(file);
    result.map(|()| &bytes[..used])
}

/// Writes a text to a file by one call, as files of sysfs want it. `path` ends with a zero byte.
pub fn write_file(path: &[u8], text: &[u8]) -> Result<()> {
    const O_WRONLY: u64 = 1;
    let file = open(path, O_WRONLY)?;
    let written = write_once(file, text);
    close(file);
    written.map(|_| ())
}

/// Makes a file that is memory only; returns its number.
pub fn memory_file(length: u64) -> Result<u64> {
    // SAFETY: the kernel only reads the name, which ends with a zero byte.
    let file = unsafe { call(MEMFD_CREATE, [c"tags".as_ptr() as u64]) }?;
    truncate(file, length)?;
    Ok(file)
}

/// What [`advise`] may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Advice {
    /// Huge pages, where they fit.
    HugePage = 14,
    /// Not needed soon. A part of a huge page is split off for that.
    Cold = 20,
    /// Out of memory with it, into the swap space.
    PageOut = 21,
}

/// Advises the kernel on memory, in a way that keeps its contents.
pub fn advise(start: u64, length: u64, advice: Advice) -> Result<()> {
    // SAFETY: neither kind of advice changes contents.
    unsafe { call(MADVISE, [start, length, advice as u64]) }.map(|_| ())
}

/// Changes what may be done with memory of [`map`].
///
/// # Safety
///
/// No reference may need what is taken away.
pub unsafe fn protect(start: u64, length: u64, protection: u64) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { call(MPROTECT, [start, length, protection]) }.map(|_| ())
}

/// Makes a mapping longer, moving it if need be; returns where it is then.
///
/// # Safety
///
/// Nothing may refer to it any more by its old address.
pub unsafe fn remap(start: u64, length: u64, longer: u64) -> Result<u64> {
    // SAFETY: the caller's promise.
    unsafe { call(MREMAP, [start, length, longer, MREMAP_MAYMOVE]) }
}

/// Keeps memory where it is.
pub fn lock(start: u64, length: u64) -> Result<()> {
    // SAFETY: it changes no contents.
    unsafe { call(MLOCK, [start, length]) }.map(|_| ())
}

/// Chooses what becomes of accesses with the wrong tag, and which tags IRG may make (a bit each).
pub fn set_tag_check(check: TagCheck, allowed: u16) -> Result<()> {
    let control = tag_control(check, allowed);
    // SAFETY: prctl changes how this thread's accesses are checked, no memory.
    unsafe { call(PRCTL, [PR_SET_TAGGED_ADDR_CTRL, control]) }?;
    if get_tag_control()? == control { Ok(()) } else { Err(Errno(22)) }
}

/// The number by which the kernel knows such a choice.
pub fn tag_control(check: TagCheck, allowed: u16) -> u64 {
    PR_TAGGED_ADDR_ENABLE | check as u64 | u64::from(allowed) << PR_MTE_TAG_SHIFT
}

/// Asks the kernel for the choice that holds.
pub fn get_tag_control() -> Result<u64> {
    // SAFETY: it only reads.
    unsafe { call(PRCTL, [PR_GET_TAGGED_ADDR_CTRL]) }
}

/// Lets the kernel write its name to 390 bytes at `address`.
///
/// # Safety
///
/// They must be mapped memory that no reference covers.
pub unsafe fn uname(address: u64) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { call(UNAME, [address]) }.map(|_| ())
}

/// Sends a signal to a process.
pub fn kill(process: u64, signal: i32) -> Result<()> {
    // SAFETY: it touches no memory of ours, unless by a handler, and those say what they touch.
    unsafe { call(KILL, [process, signal as u64]) }.map(|_| ())
}

/// Runs this very program in the process's place, with one argument. Returns only if it cannot.
pub fn execute_self(argument: &CStr) -> Result<()> {
    let path = c"/proc/self/exe".as_ptr() as u64;
    let arguments = [c"mte-demo".as_ptr(), argument.as_ptr(), core::ptr::null()];
    let environment = [core::ptr::null::<u8>()];
    // SAFETY: the kernel only reads the texts, which end, and the lists, which end with a null.
    unsafe { call(EXECVE, [path, arguments.as_ptr() as u64, environment.as_ptr() as u64]) }
        .map(|_| ())
}

/// Starts a thread of this process, which runs `body(argument)` on a stack of its own. `own` is
/// what [`thread_pointer`] gives there. `alive` becomes non-zero, and zero when it is gone.
///
/// # Safety
///
/// `stack` is the upper end, aligned to 16, of memory that nobody else uses until the thread is
/// gone. `alive` lives that long too.
pub unsafe fn start_thread(
    stack: u64,
    own: u64,
    body: extern "C" fn(u64) -> !,
    argument: u64,
    alive: &AtomicU32,
) -> Result<()> {
    const CLONE_VM: u64 = 0x100;
    const CLONE_FS: u64 = 0x200;
    const CLONE_FILES: u64 = 0x400;
    const CLONE_SIGHAND: u64 = 0x800;
    const CLONE_THREAD: u64 = 0x1_0000;
    const CLONE_SYSVSEM: u64 = 0x4_0000;
    const CLONE_SETTLS: u64 = 0x8_0000;
    const CLONE_CHILD_CLEARTID: u64 = 0x20_0000;
    let flags = CLONE_VM
        | CLONE_FS
        | CLONE_FILES
        | CLONE_SIGHAND
        | CLONE_THREAD
        | CLONE_SYSVSEM
        | CLONE_SETTLS
        | CLONE_CHILD_CLEARTID;
    alive.store(1, SeqCst);
    let result: i64;
    // SAFETY: the new thread comes out of the call with these registers, 0 in x0 and its own
    // stack, and leaves for `body`, which never comes back. The kernel writes to `alive`, an
    // atomic. For this thread it is a call that changes x0 only.
    unsafe {
        asm!("svc #0", "cbnz x0, 1f", "mov x0, {argument}", "mov x16, {body}", "mov x29, xzr",
             "mov x30, xzr", "br x16", "1:", argument = in(reg) argument, body = in(reg) body,
             in("x8") CLONE, inlateout("x0") flags => result, in("x1") stack, in("x2") 0_u64,
             in("x3") own, in("x4") alive.as_ptr(), out("x16") _);
    }
    if result < 0 {
        alive.store(0, SeqCst);
    }
    checked(result).map(|_| ())
}

/// Ends this thread.
pub fn exit_thread() -> ! {
    loop {
        // SAFETY: nothing of the thread runs after it.
        let _ = unsafe { call(EXIT, []) };
    }
}

/// Waits for the end of a thread of [`start_thread`].
pub fn join(alive: &AtomicU32) {
    const FUTEX_WAIT: u64 = 0;
    loop {
        let value = alive.load(SeqCst);
        if value == 0 {
            return;
        }
        // SAFETY: the kernel only reads the word.
        let _ = unsafe { call(FUTEX, [alive.as_ptr() as u64, FUTEX_WAIT, u64::from(value)]) };
    }
}

/// What the thread was started with; 0 on the first one.
pub fn thread_pointer() -> u64 {
    let value;
    // SAFETY: reads a register that the kernel keeps for each thread.
    unsafe { asm!("mrs {}, tpidr_el0", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Lets others run on this CPU.
pub fn give_way() {
    // SAFETY: it touches no memory.
    let _ = unsafe { call(SCHED_YIELD, []) };
}

/// Waits for so many milliseconds.
pub fn pause(milliseconds: u64) {
    let time = [milliseconds / 1000, milliseconds % 1000 * 1_000_000];
    // SAFETY: ppoll with no files reads `time` and writes nothing.
    let _ = unsafe { call(PPOLL, [0, 0, time.as_ptr() as u64]) };
}

/// Lets the parent trace this process.
pub fn trace_me() -> Result<()> {
    // SAFETY: it touches no memory.
    unsafe { call(PTRACE, [PTRACE_TRACEME]) }.map(|_| ())
}

/// Lets a stopped child go on.
pub fn trace_continue(child: u64) -> Result<()> {
    // SAFETY: it touches no memory of ours.
    unsafe { call(PTRACE, [PTRACE_CONT, child]) }.map(|_| ())
}

/// Reads (`write` false) or writes tags of a stopped child, one byte a tag; returns how many.
pub fn trace_tags(child: u64, address: u64, tags: &mut [u8], write: bool) -> Result<u64> {
    let mut vector = [tags.as_mut_ptr() as u64, tags.len() as u64];
    let request = if write { PTRACE_POKEMTETAGS } else { PTRACE_PEEKMTETAGS };
    // SAFETY: the kernel writes to `tags`, as many as `vector` says it has, and the length to it.
    unsafe { call(PTRACE, [request, child, address, vector.as_mut_ptr() as u64]) }?;
    Ok(vector[1])
}
