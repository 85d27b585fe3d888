// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Linux system calls that no other program makes (arm64: include/uapi/asm-generic/unistd.h),
//! with the kernel's names for their arguments.

pub use linux_program::sys::*;

use crate::content::PAGE;

const UNLINKAT: u64 = 35;
const FALLOCATE: u64 = 47;
const PWRITE64: u64 = 68;
const FDATASYNC: u64 = 83;
const FADVISE64: u64 = 223;
const MSYNC: u64 = 227;

const O_RDWR: u64 = 2;
const O_CREAT: u64 = 0o100;
const O_DIRECT: u64 = 0o200_000;

const MS_SYNC: u64 = 4;
const POSIX_FADV_DONTNEED: u64 = 4;

/// Opens a file for reading and writing, making it if need be. `path` ends with a zero byte.
pub fn make(path: &[u8], direct: bool) -> Result<u64> {
    open(path, O_RDWR | O_CREAT | if direct { O_DIRECT } else { 0 })
}

/// Removes a file's name. `path` ends with a zero byte.
pub fn unlink(path: &[u8]) -> Result<()> {
    assert!(path.ends_with(&[0]));
    // SAFETY: the kernel only reads from `path`, and it ends.
    unsafe { call(UNLINKAT, [AT_FDCWD, path.as_ptr() as u64]) }.map(|_| ())
}

/// Writes words to a file.
pub fn pwrite(file: u64, words: &[u64], offset: u64) -> Result<()> {
    let (start, length) = (words.as_ptr() as u64, size_of_val(words) as u64);
    let mut done = 0;
    while done < length {
        // SAFETY: the kernel only reads from `words`.
        match unsafe { call(PWRITE64, [file, start + done, length - done, offset + done]) }? {
            0 => return Err(EIO),
            more => done += more,
        }
    }
    Ok(())
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
    unsafe { call(FALLOCATE, [file, range as u64, offset, length]) }.map(|_| ())
}

/// Waits until a file's contents are on the disk.
pub fn sync(file: u64) -> Result<()> {
    // SAFETY: it touches no memory that is ours.
    unsafe { call(FDATASYNC, [file]) }.map(|_| ())
}

/// Lets the page cache drop clean pages of a file; a length of 0 means to its end.
pub fn drop_cached(file: u64, offset: u64, length: u64) -> Result<()> {
    // SAFETY: it touches no memory that is ours.
    unsafe { call(FADVISE64, [file, offset, length, POSIX_FADV_DONTNEED]) }.map(|_| ())
}

/// A mapping, undone at its end.
pub struct Mapping {
    start: u64,
    length: u64,
}

impl Mapping {
    /// Maps new memory of zeros.
    pub fn anonymous(length: u64, memory: Memory) -> Result<Mapping> {
        Ok(Mapping { start: map(length, PROT_READ | PROT_WRITE, memory)?, length })
    }

    /// Maps new memory of zeros that has tags.
    pub fn tagged(length: u64) -> Result<Mapping> {
        let protection = PROT_READ | PROT_WRITE | PROT_MTE;
        Ok(Mapping { start: map(length, protection, Memory::Private)?, length })
    }

    /// Maps a file from its beginning on, beyond its end too.
    pub fn file(file: u64, length: u64) -> Result<Mapping> {
        Ok(Mapping { start: map_file(file, length, PROT_READ | PROT_WRITE)?, length })
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
        unsafe { call(MSYNC, [first, length, MS_SYNC]) }.map(|_| ())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: whoever refers to it borrows or outlives it by leaking.
        let _ = unsafe { unmap(self.start, self.length) };
    }
}
