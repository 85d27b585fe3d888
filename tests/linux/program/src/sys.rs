// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Linux system calls that several programs make (arm64: include/uapi/asm-generic/unistd.h),
//! with the kernel's names for their arguments.

use core::arch::asm;

const FTRUNCATE: u64 = 46;
const OPENAT: u64 = 56;
const CLOSE: u64 = 57;
const READ: u64 = 63;
const WRITE: u64 = 64;
const PREAD64: u64 = 67;
const EXIT_GROUP: u64 = 94;
const SCHED_SETAFFINITY: u64 = 122;
const GETCPU: u64 = 168;
const GETPID: u64 = 172;
const MUNMAP: u64 = 215;
/// Makes a copy of the process, or a thread.
pub const CLONE: u64 = 220;
const MMAP: u64 = 222;
const WAIT4: u64 = 260;

/// Paths begin at the working directory.
pub const AT_FDCWD: u64 = -100_i64 as u64;
const SIGCHLD: u64 = 17;

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

/// An error number of the kernel, positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

const EINTR: Errno = Errno(4);
/// Input or output failed.
pub const EIO: Errno = Errno(5);
const EINVAL: Errno = Errno(22);

/// What a call came to.
pub type Result<T> = core::result::Result<T, Errno>;

/// Makes a system call, again if a signal interrupts it. Arguments that are not given are 0.
///
/// # Safety
///
/// What the kernel does to memory on this call must be memory that no reference covers, or that
/// the caller lends it for writing.
pub unsafe fn call<const N: usize>(number: u64, arguments: [u64; N]) -> Result<u64> {
    let mut all = [0; 6];
    all[..N].copy_from_slice(&arguments);
    let [a, b, c, d, e, f] = all;
    loop {
        let result;
        // SAFETY: the kernel keeps all registers but x0; what it does to memory is the caller's
        // part.
        unsafe {
            asm!("svc #0", in("x8") number, inlateout("x0") a => result, in("x1") b, in("x2") c,
                 in("x3") d, in("x4") e, in("x5") f, options(nostack));
        }
        match checked(result) {
            Err(EINTR) => {}
            result => return result,
        }
    }
}

/// Turns a system call's result into a value or an error.
pub fn checked(result: i64) -> Result<u64> {
    if result < 0 { Err(Errno(-result as i32)) } else { Ok(result as u64) }
}

/// Writes all of `bytes` to a file; what cannot be written is lost.
pub fn write(file: u64, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match write_once(file, bytes) {
            Ok(written @ 1..) => bytes = bytes.get(written as usize..).unwrap_or_default(),
            _ => return,
        }
    }
}

/// Writes to a file by one call, as files of sysfs want it; returns how many of the bytes it took.
pub fn write_once(file: u64, bytes: &[u8]) -> Result<u64> {
    // SAFETY: the kernel only reads from `bytes`.
    unsafe { call(WRITE, [file, bytes.as_ptr() as u64, bytes.len() as u64]) }
}

/// Reads from a file into `bytes`; returns how many there were.
pub fn read(file: u64, bytes: &mut [u8]) -> Result<u64> {
    // SAFETY: the kernel writes to `bytes` only, which is ours to lend.
    unsafe { call(READ, [file, bytes.as_mut_ptr() as u64, bytes.len() as u64]) }
}

/// Reads words of a file; fewer than all is an error, since the caller knows how long it is.
pub fn pread(file: u64, words: &mut [u64], offset: u64) -> Result<()> {
    let (start, length) = (words.as_mut_ptr() as u64, size_of_val(words) as u64);
    let mut done = 0;
    while done < length {
        // SAFETY: the kernel writes to `words` only, which is ours to lend.
        match unsafe { call(PREAD64, [file, start + done, length - done, offset + done]) }? {
            0 => return Err(EIO),
            more => done += more,
        }
    }
    Ok(())
}

/// Opens a file; returns its number. `path` ends with a zero byte. A file that `flags` make is its
/// owner's to write.
pub fn open(path: &[u8], flags: u64) -> Result<u64> {
    assert!(path.ends_with(&[0]));
    // SAFETY: the kernel only reads from `path`, and it ends.
    unsafe { call(OPENAT, [AT_FDCWD, path.as_ptr() as u64, flags, 0o644]) }
}

/// Closes a file.
pub fn close(file: u64) {
    // SAFETY: closing a file touches no memory.
    let _ = unsafe { call(CLOSE, [file]) };
}

/// Sets a file's length.
pub fn truncate(file: u64, length: u64) -> Result<()> {
    // SAFETY: it touches no memory that is ours.
    unsafe { call(FTRUNCATE, [file, length]) }.map(|_| ())
}

/// Kinds of new memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Memory {
    /// The process's own.
    Private = MAP_ANONYMOUS | MAP_PRIVATE,
    /// That of the children that it will have too.
    Shared = MAP_ANONYMOUS | MAP_SHARED,
    /// The process's own, of huge pages, of the size that is usual on the machine.
    Huge = MAP_ANONYMOUS | MAP_PRIVATE | MAP_HUGETLB,
}

/// Maps new memory of zeros.
pub fn map(length: u64, protection: u64, memory: Memory) -> Result<u64> {
    // SAFETY: the kernel chooses a place where nothing is.
    unsafe { call(MMAP, [0, length, protection, memory as u64, u64::MAX]) }
}

/// Maps a file from its beginning on, which others may map too.
pub fn map_file(file: u64, length: u64, protection: u64) -> Result<u64> {
    // SAFETY: the kernel chooses a place where nothing is.
    unsafe { call(MMAP, [0, length, protection, MAP_SHARED, file]) }
}

/// Unmaps memory.
///
/// # Safety
///
/// Nothing may refer to it any more.
pub unsafe fn unmap(start: u64, length: u64) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { call(MUNMAP, [start, length]) }.map(|_| ())
}

/// The number of the process. A cheap way into the kernel and back.
pub fn own_id() -> u64 {
    // SAFETY: it touches no memory.
    unsafe { call(GETPID, []) }.unwrap_or_default()
}

/// Makes a copy of the process; returns the copy's number, and 0 in the copy.
///
/// # Safety
///
/// Memory that is shared with the copy must be used as memory that another thread writes.
pub unsafe fn fork() -> Result<u64> {
    // SAFETY: without CLONE_VM the copy has memory of its own, with the stack's contents.
    unsafe { call(CLONE, [SIGCHLD]) }
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
    // SAFETY: the kernel writes 4 bytes to `status`.
    unsafe { call(WAIT4, [child, &raw mut status as u64]) }?;
    let status = u64::from(status);
    Ok(match status & 0xff {
        0 => Change::Exited(status >> 8 & 0xff),
        0x7f => Change::Stopped(status >> 8 & 0xff),
        signal => Change::Killed(signal & 0x7f),
    })
}

/// Lets the process run on one CPU only.
pub fn pin(cpu: u64) -> Result<()> {
    allow(1_u64.checked_shl(cpu as u32).unwrap_or(0))?;
    let mut is = 0_u32;
    // SAFETY: the kernel writes 4 bytes to `is`.
    unsafe { call(GETCPU, [&raw mut is as u64]) }?;
    if u64::from(is) == cpu { Ok(()) } else { Err(EINVAL) }
}

/// Lets the process run on all CPUs again.
pub fn unpin() -> Result<()> {
    allow(u64::MAX)
}

/// Lets the process run on some CPUs, a bit each.
fn allow(cpus: u64) -> Result<()> {
    // SAFETY: the kernel only reads the 8 bytes of `cpus`.
    unsafe { call(SCHED_SETAFFINITY, [0, 8, &raw const cpus as u64]) }.map(|_| ())
}

/// Ends the process.
pub fn exit(status: u64) -> ! {
    loop {
        // SAFETY: nothing runs after it.
        let _ = unsafe { call(EXIT_GROUP, [status]) };
    }
}
