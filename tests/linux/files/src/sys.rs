// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Linux system calls that the program makes (arm64: include/uapi/asm-generic/unistd.h), with
//! the kernel's names for their arguments.

use core::arch::{asm, global_asm};

use crate::content::PAGE;

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

const UNLINKAT: u64 = 35;
const FTRUNCATE: u64 = 46;
const FALLOCATE: u64 = 47;
const OPENAT: u64 = 56;
const CLOSE: u64 = 57;
const READ: u64 = 63;
const WRITE: u64 = 64;
const PREAD64: u64 = 67;
const PWRITE64: u64 = 68;
const FDATASYNC: u64 = 83;
const EXIT_GROUP: u64 = 94;
const MUNMAP: u64 = 215;
const CLONE: u64 = 220;
const MMAP: u64 = 222;
const FADVISE64: u64 = 223;
const MSYNC: u64 = 227;
const WAIT4: u64 = 260;

const AT_FDCWD: u64 = -100_i64 as u64;
const EINTR: i64 = -4;
const EIO: i32 = 5;
const SIGCHLD: u64 = 17;

const O_RDWR: u64 = 2;
const O_CREAT: u64 = 0o100;
const O_DIRECT: u64 = 0o200_000;

const PROT_READ: u64 = 1;
const PROT_WRITE: u64 = 2;
const PROT_MTE: u64 = 0x20;
const MAP_SHARED: u64 = 1;
const MAP_PRIVATE: u64 = 2;
const MAP_ANONYMOUS: u64 = 0x20;
const MS_SYNC: u64 = 4;
const POSIX_FADV_DONTNEED: u64 = 4;

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
unsafe fn call(number: u64, arguments: [u64; 6]) -> Result<u64> {
    let [a, b, c, d, e, f] = arguments;
    loop {
        let result: i64;
        // SAFETY: the kernel keeps all registers but x0; what it does to memory is the caller's
        // part.
        unsafe {
            asm!("svc #0", in("x8") number, inlateout("x0") a => result, in("x1") b, in("x2") c,
                 in("x3") d, in("x4") e, in("x5") f, options(nostack));
        }
        match result {
            EINTR => {}
            0.. => return Ok(result as u64),
            _ => return Err(Errno(-result as i32)),
        }
    }
}

/// Writes all of `bytes` to a file; what cannot be written is lost.
pub fn write(file: u64, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        // SAFETY: the kernel only reads from `bytes`.
        match unsafe { call(WRITE, [file, bytes.as_ptr() as u64, bytes.len() as u64, 0, 0, 0]) } {
            Ok(written @ 1..) => bytes = bytes.get(written as usize..).unwrap_or_default(),
            _ => return,
        }
    }
}

/// Reads a byte of a file; returns whether there was one.
pub fn read_byte(file: u64) -> Result<bool> {
    let mut byte = 0_u8;
    // SAFETY: the kernel writes one byte at most.
    unsafe { call(READ, [file, &raw mut byte as u64, 1, 0, 0, 0]) }.map(|read| read == 1)
}

/// Opens a file for reading and writing, making it if need be. `path` ends with a zero byte.
pub fn open(path: &[u8], direct: bool) -> Result<u64> {
    assert!(path.ends_with(&[0]));
    let flags = O_RDWR | O_CREAT | if direct { O_DIRECT } else { 0 };
    // SAFETY: the kernel only reads from `path`, and it ends.
    unsafe { call(OPENAT, [AT_FDCWD, path.as_ptr() as u64, flags, 0o644, 0, 0]) }
}

/// Closes a file.
pub fn close(file: u64) {
    // SAFETY: closing a file touches no memory.
    let _ = unsafe { call(CLOSE, [file, 0, 0, 0, 0, 0]) };
}

/// Removes a file's name. `path` ends with a zero byte.
pub fn unlink(path: &[u8]) -> Result<()> {
    assert!(path.ends_with(&[0]));
    // SAFETY: the kernel only reads from `path`, and it ends.
    unsafe { call(UNLINKAT, [AT_FDCWD, path.as_ptr() as u64, 0, 0, 0, 0]) }.map(|_| ())
}

/// Reads words of a file; fewer than all is an error, since the caller knows how long it is.
pub fn pread(file: u64, words: &mut [u64], offset: u64) -> Result<()> {
    let (start, length) = (words.as_mut_ptr() as u64, size_of_val(words) as u64);
    let mut done = 0;
    while done < length {
        // SAFETY: the kernel writes to `words` only, which is ours to lend.
        let more =
            unsafe { call(PREAD64, [file, start + done, length - done, offset + done, 0, 0]) }?;
        if more == 0 {
            return Err(Errno(EIO));
        }
        done += more;
    }
    Ok(())
}

/// Writes words to a file.
pub fn pwrite(file: u64, words: &[u64], offset: u64) -> Result<()> {
    let (start, length) = (words.as_ptr() as u64, size_of_val(words) as u64);
    let mut done = 0;
    while done < length {
        // SAFETY: the kernel only reads from `words`.
        let more =
            unsafe { call(PWRITE64, [file, start + done, length - done, offset + done, 0, 0]) }?;
        if more == 0 {
            return Err(Errno(EIO));
        }
        done += more;
    }
    Ok(())
}

/// Sets a file's length.
pub fn truncate(file: u64, length: u64) -> Result<()> {
    // SAFETY: it touches no memory that is ours.
    unsafe { call(FTRUNCATE, [file, length, 0, 0, 0, 0]) }.map(|_| ())
}

/// What [`allocate`] does with a range of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Range {
    /// A hole, which reads as zeros; the length stays.
    Punch = 0x03,
    /// Takes the range out, what is behind it moves down.
    Collapse = 0x08,
    /// Zeros, in blocks that stay allocated; the length stays.
    Zero = 0x11,
    /// Makes room for a hole, what is behind it moves up.
    Insert = 0x20,
}

/// Changes a range of a file otherwise than by writing.
pub fn allocate(file: u64, range: Range, offset: u64, length: u64) -> Result<()> {
    // SAFETY: it touches no memory that is ours.
    unsafe { call(FALLOCATE, [file, range as u64, offset, length, 0, 0]) }.map(|_| ())
}

/// Waits until a file's contents are on the disk.
pub fn sync(file: u64) -> Result<()> {
    // SAFETY: it touches no memory that is ours.
    unsafe { call(FDATASYNC, [file, 0, 0, 0, 0, 0]) }.map(|_| ())
}

/// Lets the page cache drop clean pages of a file; a length of 0 means to its end.
pub fn drop_cached(file: u64, offset: u64, length: u64) -> Result<()> {
    // SAFETY: it touches no memory that is ours.
    unsafe { call(FADVISE64, [file, offset, length, POSIX_FADV_DONTNEED, 0, 0]) }.map(|_| ())
}

/// A mapping, undone at its end.
pub struct Mapping {
    start: u64,
    length: u64,
}

impl Mapping {
    /// Maps new memory of zeros, for this process alone or for the children it will have too.
    pub fn anonymous(length: u64, shared: bool) -> Result<Mapping> {
        let flags = MAP_ANONYMOUS | if shared { MAP_SHARED } else { MAP_PRIVATE };
        let arguments = [0, length, PROT_READ | PROT_WRITE, flags, u64::MAX, 0];
        // SAFETY: the kernel chooses a place where nothing is.
        Ok(Mapping { start: unsafe { call(MMAP, arguments) }?, length })
    }

    /// Maps new memory of zeros that has tags.
    pub fn tagged(length: u64) -> Result<Mapping> {
        let protection = PROT_READ | PROT_WRITE | PROT_MTE;
        let flags = MAP_ANONYMOUS | MAP_PRIVATE;
        // SAFETY: the kernel chooses a place where nothing is.
        let start = unsafe { call(MMAP, [0, length, protection, flags, u64::MAX, 0]) }?;
        Ok(Mapping { start, length })
    }

    /// Maps a file from its beginning on, beyond its end too.
    pub fn file(file: u64, length: u64) -> Result<Mapping> {
        let arguments = [0, length, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0];
        // SAFETY: the kernel chooses a place where nothing is.
        Ok(Mapping { start: unsafe { call(MMAP, arguments) }?, length })
    }

    /// Where it is.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Waits until what was written to a range of a mapped file is on the disk.
    pub fn sync(&self, offset: u64, length: u64) -> Result<()> {
        let first = (self.start + offset) / PAGE * PAGE;
        let length = self.start + offset + length - first;
        // SAFETY: it reads what is mapped.
        unsafe { call(MSYNC, [first, length, MS_SYNC, 0, 0, 0]) }.map(|_| ())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: whoever refers to it borrows or outlives it by leaking.
        let _ = unsafe { call(MUNMAP, [self.start, self.length, 0, 0, 0, 0]) };
    }
}

/// Makes a copy of the process; returns the copy's number, and 0 in the copy.
///
/// # Safety
///
/// Memory that is shared with the copy must be used as memory that another thread writes.
pub unsafe fn fork() -> Result<u64> {
    // SAFETY: without CLONE_VM the copy has memory of its own, with the stack's contents.
    unsafe { call(CLONE, [SIGCHLD, 0, 0, 0, 0, 0]) }
}

/// Waits for a child's end; returns its status as the kernel has it, 0 if all was well.
pub fn wait(child: u64) -> Result<u32> {
    let mut status = 0_u32;
    // SAFETY: the kernel writes 4 bytes to `status`.
    unsafe { call(WAIT4, [child, &raw mut status as u64, 0, 0, 0, 0]) }.map(|_| status)
}

/// Ends the process.
pub fn exit(status: u64) -> ! {
    loop {
        // SAFETY: nothing runs after it.
        let _ = unsafe { call(EXIT_GROUP, [status, 0, 0, 0, 0, 0]) };
    }
}
