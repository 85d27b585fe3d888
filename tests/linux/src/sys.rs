// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Linux system calls that the program makes (arm64: include/uapi/asm-generic/unistd.h), with
//! the kernel's names for their arguments.

use core::arch::{asm, global_asm};
use core::ffi::CStr;
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

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

const FTRUNCATE: u64 = 46;
const OPENAT: u64 = 56;
const CLOSE: u64 = 57;
const READ: u64 = 63;
const WRITE: u64 = 64;
const PREAD64: u64 = 67;
const PPOLL: u64 = 73;
const EXIT: u64 = 93;
const EXIT_GROUP: u64 = 94;
const FUTEX: u64 = 98;
const PTRACE: u64 = 117;
const SCHED_SETAFFINITY: u64 = 122;
const SCHED_YIELD: u64 = 124;
const KILL: u64 = 129;
const RT_SIGACTION: u64 = 134;
const UNAME: u64 = 160;
const PRCTL: u64 = 167;
const GETCPU: u64 = 168;
const GETPID: u64 = 172;
const MUNMAP: u64 = 215;
const MREMAP: u64 = 216;
const CLONE: u64 = 220;
const EXECVE: u64 = 221;
const MMAP: u64 = 222;
const MPROTECT: u64 = 226;
const MLOCK: u64 = 228;
const MADVISE: u64 = 233;
const WAIT4: u64 = 260;
const MEMFD_CREATE: u64 = 279;

/// mmap and mprotect: the memory may be read.
pub const PROT_READ: u64 = 1;
/// It may be written.
pub const PROT_WRITE: u64 = 2;
/// It has tags.
pub const PROT_MTE: u64 = 0x20;
const MAP_SHARED: u64 = 1;
const MAP_PRIVATE: u64 = 2;
const MAP_ANONYMOUS: u64 = 0x20;
const MAP_HUGETLB: u64 = 0x4_0000;
const MREMAP_MAYMOVE: u64 = 1;

/// A memory fault.
pub const SIGSEGV: i32 = 11;
/// Stops a process.
pub const SIGSTOP: i32 = 19;
const SIGCHLD: u64 = 17;

const PR_SET_TAGGED_ADDR_CTRL: u64 = 55;
const PR_GET_TAGGED_ADDR_CTRL: u64 = 56;
const PR_TAGGED_ADDR_ENABLE: u64 = 1;
const PR_MTE_TAG_SHIFT: u32 = 3;

const PTRACE_TRACEME: u64 = 0;
const PTRACE_CONT: u64 = 7;
const PTRACE_PEEKMTETAGS: u64 = 33;
const PTRACE_POKEMTETAGS: u64 = 34;

const AT_FDCWD: u64 = -100_i64 as u64;
const EINTR: i64 = -4;

/// An error number of the kernel, positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

/// What a call came to.
pub type Result<T> = core::result::Result<T, Errno>;

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

/// Reads from a file into `bytes`; returns how many there were.
pub fn read(file: u64, bytes: &mut [u8]) -> Result<u64> {
    // SAFETY: the kernel writes to `bytes` only, which is ours to lend.
    checked(unsafe { call(READ, [file, bytes.as_mut_ptr() as u64, bytes.len() as u64, 0, 0, 0]) })
}

/// Reads a 64-bit word of a file. `path` ends with a zero byte.
pub fn read_word(path: &[u8], offset: u64) -> Result<u64> {
    let mut word = [0; 8];
    let file = open(path, 0)?;
    // SAFETY: the kernel writes 8 bytes at most to `word`, which has 8.
    let length = unsafe { call(PREAD64, [file, word.as_mut_ptr() as u64, 8, offset, 0, 0]) };
    close(file);
    match checked(length)? {
        8 => Ok(u64::from_le_bytes(word)),
        _ => Err(Errno(5)),
    }
}

/// Opens a file; returns its number. `path` ends with a zero byte.
fn open(path: &[u8], flags: u64) -> Result<u64> {
    assert!(path.ends_with(&[0]));
    // SAFETY: the kernel only reads from `path`, and it ends.
    checked(unsafe { call(OPENAT, [AT_FDCWD, path.as_ptr() as u64, flags, 0, 0, 0]) })
}

/// Closes a file.
pub fn close(file: u64) {
    // SAFETY: closing a file touches no memory.
    unsafe { call(CLOSE, [file, 0, 0, 0, 0, 0]) };
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
    // SAFETY: the kernel only reads from `text`.
    let written = unsafe { call(WRITE, [file, text.as_ptr() as u64, text.len() as u64, 0, 0, 0]) };
    close(file);
    checked(written).map(|_| ())
}

/// Ends the process.
pub fn exit(status: u64) -> ! {
    loop {
        // SAFETY: nothing runs after it.
        unsafe { call(EXIT_GROUP, [status, 0, 0, 0, 0, 0]) };
    }
}

/// Maps new memory of zeros.
pub fn map(length: u64, protection: u64, shared: bool) -> Result<u64> {
    let flags = MAP_ANONYMOUS | if shared { MAP_SHARED } else { MAP_PRIVATE };
    // SAFETY: the kernel chooses a place where nothing is.
    checked(unsafe { call(MMAP, [0, length, protection, flags, u64::MAX, 0]) })
}

/// Maps new memory of huge pages, of the size that is usual on the machine.
pub fn map_huge(length: u64, protection: u64) -> Result<u64> {
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB;
    // SAFETY: the kernel chooses a place where nothing is.
    checked(unsafe { call(MMAP, [0, length, protection, flags, u64::MAX, 0]) })
}

/// Maps a file that others may map too.
pub fn map_file(file: u64, length: u64, protection: u64) -> Result<u64> {
    // SAFETY: the kernel chooses a place where nothing is.
    checked(unsafe { call(MMAP, [0, length, protection, MAP_SHARED, file, 0]) })
}

/// Makes a file that is memory only; returns its number.
pub fn memory_file(length: u64) -> Result<u64> {
    // SAFETY: the kernel only reads the name, which ends with a zero byte.
    let file = checked(unsafe { call(MEMFD_CREATE, [c"tags".as_ptr() as u64, 0, 0, 0, 0, 0]) })?;
    // SAFETY: it touches no memory.
    checked(unsafe { call(FTRUNCATE, [file, length, 0, 0, 0, 0]) })?;
    Ok(file)
}

/// What [`advise`] may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Advice {
    /// Huge pages, where they fit.
    HugePage = 14,
    /// Out of memory with it, into the swap space.
    PageOut = 21,
}

/// Advises the kernel on memory, in a way that keeps its contents.
pub fn advise(start: u64, length: u64, advice: Advice) -> Result<()> {
    // SAFETY: neither kind of advice changes contents.
    checked(unsafe { call(MADVISE, [start, length, advice as u64, 0, 0, 0]) }).map(|_| ())
}

/// Unmaps memory.
///
/// # Safety
///
/// Nothing may refer to it any more.
pub unsafe fn unmap(start: u64, length: u64) -> Result<()> {
    // SAFETY: the caller's promise.
    checked(unsafe { call(MUNMAP, [start, length, 0, 0, 0, 0]) }).map(|_| ())
}

/// Changes what may be done with memory of [`map`].
///
/// # Safety
///
/// No reference may need what is taken away.
pub unsafe fn protect(start: u64, length: u64, protection: u64) -> Result<()> {
    // SAFETY: the caller's promise.
    checked(unsafe { call(MPROTECT, [start, length, protection, 0, 0, 0]) }).map(|_| ())
}

/// Makes a mapping longer, moving it if need be; returns where it is then.
///
/// # Safety
///
/// Nothing may refer to it any more by its old address.
pub unsafe fn remap(start: u64, length: u64, longer: u64) -> Result<u64> {
    // SAFETY: the caller's promise.
    checked(unsafe { call(MREMAP, [start, length, longer, MREMAP_MAYMOVE, 0, 0]) })
}

/// Keeps memory where it is.
pub fn lock(start: u64, length: u64) -> Result<()> {
    // SAFETY: it changes no contents.
    checked(unsafe { call(MLOCK, [start, length, 0, 0, 0, 0]) }).map(|_| ())
}

/// Chooses what becomes of accesses with the wrong tag, and which tags IRG may make (a bit each).
pub fn set_tag_check(check: TagCheck, allowed: u16) -> Result<()> {
    let control = tag_control(check, allowed);
    // SAFETY: prctl changes how this thread's accesses are checked, no memory.
    checked(unsafe { call(PRCTL, [PR_SET_TAGGED_ADDR_CTRL, control, 0, 0, 0, 0]) })?;
    if get_tag_control()? == control { Ok(()) } else { Err(Errno(22)) }
}

/// The number by which the kernel knows such a choice.
pub fn tag_control(check: TagCheck, allowed: u16) -> u64 {
    PR_TAGGED_ADDR_ENABLE | check as u64 | u64::from(allowed) << PR_MTE_TAG_SHIFT
}

/// Asks the kernel for the choice that holds.
pub fn get_tag_control() -> Result<u64> {
    // SAFETY: it only reads.
    checked(unsafe { call(PRCTL, [PR_GET_TAGGED_ADDR_CTRL, 0, 0, 0, 0, 0]) })
}

/// Lets the kernel write its name to 390 bytes at `address`.
///
/// # Safety
///
/// They must be mapped memory that no reference covers.
pub unsafe fn uname(address: u64) -> Result<()> {
    // SAFETY: the caller's promise.
    checked(unsafe { call(UNAME, [address, 0, 0, 0, 0, 0]) }).map(|_| ())
}

/// The number of the process. A cheap way into the kernel and back.
pub fn own_id() -> u64 {
    // SAFETY: it touches no memory.
    unsafe { call(GETPID, [0; 6]) as u64 }
}

/// Sends a signal to a process.
pub fn kill(process: u64, signal: i32) -> Result<()> {
    // SAFETY: it touches no memory of ours, unless by a handler, and those say what they touch.
    checked(unsafe { call(KILL, [process, signal as u64, 0, 0, 0, 0]) }).map(|_| ())
}

/// Makes a copy of the process; returns the copy's number, and 0 in the copy.
///
/// # Safety
///
/// Raw memory that is shared with the copy must be used as memory that another thread writes.
pub unsafe fn fork() -> Result<u64> {
    // SAFETY: without CLONE_VM the copy has memory of its own, with the stack's contents.
    checked(unsafe { call(CLONE, [SIGCHLD, 0, 0, 0, 0, 0]) })
}

/// Runs this very program in the process's place, with one argument. Returns only if it cannot.
pub fn execute_self(argument: &CStr) -> Errno {
    let arguments = [c"mte-demo".as_ptr(), argument.as_ptr(), core::ptr::null()];
    let environment = [core::ptr::null::<u8>()];
    // SAFETY: the kernel only reads the texts, which end, and the lists, which end with a null.
    let result = unsafe {
        let path = c"/proc/self/exe".as_ptr() as u64;
        call(EXECVE, [path, arguments.as_ptr() as u64, environment.as_ptr() as u64, 0, 0, 0])
    };
    Errno(-result as i32)
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
        unsafe { call(EXIT, [0; 6]) };
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
        unsafe { call(FUTEX, [alive.as_ptr() as u64, FUTEX_WAIT, u64::from(value), 0, 0, 0]) };
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
    unsafe { call(SCHED_YIELD, [0; 6]) };
}

/// How a child's state changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It ended with a status.
    Exited(u64),
    /// A signal ended it.
    Killed(u64),
    /// A signal stopped it.
    Stopped(u64),
}

/// Waits until a child ends, or stops where it is traced.
pub fn wait(child: u64) -> Result<Change> {
    let mut status = 0_u32;
    loop {
        // SAFETY: the kernel writes 4 bytes to `status`.
        let result = unsafe { call(WAIT4, [child, &raw mut status as u64, 0, 0, 0, 0]) };
        if result != EINTR {
            checked(result)?;
            break;
        }
    }
    let status = u64::from(status);
    Ok(match status & 0xff {
        0 => Change::Exited(status >> 8 & 0xff),
        0x7f => Change::Stopped(status >> 8 & 0xff),
        signal => Change::Killed(signal & 0x7f),
    })
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

/// Lets the process run on all CPUs again.
pub fn unpin() -> Result<()> {
    let mask = u64::MAX;
    // SAFETY: the kernel only reads the 8 bytes of `mask`.
    checked(unsafe { call(SCHED_SETAFFINITY, [0, 8, &raw const mask as u64, 0, 0, 0]) }).map(|_| ())
}

/// Waits for so many milliseconds.
pub fn pause(milliseconds: u64) {
    let time = [milliseconds / 1000, milliseconds % 1000 * 1_000_000];
    // SAFETY: ppoll with no files reads `time` and writes nothing.
    unsafe { call(PPOLL, [0, 0, time.as_ptr() as u64, 0, 0, 0]) };
}

/// Lets the parent trace this process.
pub fn trace_me() -> Result<()> {
    // SAFETY: it touches no memory.
    checked(unsafe { call(PTRACE, [PTRACE_TRACEME, 0, 0, 0, 0, 0]) }).map(|_| ())
}

/// Lets a stopped child go on.
pub fn trace_continue(child: u64) -> Result<()> {
    // SAFETY: it touches no memory of ours.
    checked(unsafe { call(PTRACE, [PTRACE_CONT, child, 0, 0, 0, 0]) }).map(|_| ())
}

/// Reads (`write` false) or writes tags of a stopped child, one byte a tag; returns how many.
pub fn trace_tags(child: u64, address: u64, tags: &mut [u8], write: bool) -> Result<u64> {
    let mut vector = [tags.as_mut_ptr() as u64, tags.len() as u64];
    let request = if write { PTRACE_POKEMTETAGS } else { PTRACE_PEEKMTETAGS };
    // SAFETY: the kernel writes to `tags`, as many as `vector` says it has, and the length to it.
    checked(unsafe { call(PTRACE, [request, child, address, vector.as_mut_ptr() as u64, 0, 0]) })?;
    Ok(vector[1])
}

/// struct sigaction as the kernel has it on arm64.
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
    /// Why, in SIGSEGV's own codes.
    pub code: i32,
    pad: i32,
    /// Where, with the tag if that was asked for.
    pub address: u64,
}

/// A signal handler. The last argument is the ucontext_t of what was interrupted.
pub type Handler = extern "C" fn(i32, &SigInfo, *mut u8);

const SA_SIGINFO: u64 = 4;
/// No kernel knows this flag, and one that clears it clears all flags that it does not know.
const SA_UNSUPPORTED: u64 = 0x400;
const SA_EXPOSE_TAGBITS: u64 = 0x800;

/// Says whether handlers are given addresses with their tags, which kernels before 5.11 do not. To
/// be asked once there is a handler of SIGSEGV.
pub fn tags_exposed() -> Result<bool> {
    let mut action = SigAction { handler: 0, flags: 0, restorer: 0, mask: 0 };
    let is = &raw mut action as u64;
    // SAFETY: the kernel writes to `action`, whose layout is its own, and reads nothing.
    checked(unsafe { call(RT_SIGACTION, [SIGSEGV as u64, 0, is, 8, 0, 0]) })?;
    Ok(action.flags & SA_UNSUPPORTED == 0 && action.flags & SA_EXPOSE_TAGBITS != 0)
}

/// Sets the handler of SIGSEGV; it is given the address with its tag where the kernel does so.
pub fn on_fault(handler: Handler) -> Result<()> {
    let flags = SA_SIGINFO | SA_UNSUPPORTED | SA_EXPOSE_TAGBITS;
    let action = SigAction { handler: handler as usize as u64, flags, restorer: 0, mask: 0 };
    let action = &raw const action as u64;
    // SAFETY: the kernel reads `action`, whose layout is its own; without SA_RESTORER it returns
    // from the handler through the vDSO.
    checked(unsafe { call(RT_SIGACTION, [SIGSEGV as u64, action, 0, 8, 0, 0]) }).map(|_| ())
}
