// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests to the host: files, and the end of the run.

use crate::cpu;

const OPEN: u64 = 0x01;
const WRITE: u64 = 0x05;
const READ: u64 = 0x06;
const SEEK: u64 = 0x0a;
const EXIT_EXTENDED: u64 = 0x20;

const APPLICATION_EXIT: u64 = 0x2_0026;
const READ_AND_WRITE_BYTES: u64 = 3;

fn request(operation: u64, block: &[u64]) -> u64 {
    // SAFETY: every caller below passes the block that the operation asks for, and buffers in it
    // are exclusively borrowed while the request runs.
    unsafe { cpu::semihosting(operation, block.as_ptr() as u64) }
}

/// A file of the host, open for reading and writing.
pub struct File(u64);

impl File {
    /// Opens a file that exists. The path must end in a zero byte.
    pub fn open(path_with_zero: &[u8]) -> Option<File> {
        let (&last, path) = path_with_zero.split_last()?;
        assert!(last == 0);
        let block = [path_with_zero.as_ptr() as u64, READ_AND_WRITE_BYTES, path.len() as u64];
        match request(OPEN, &block) {
            u64::MAX => None,
            handle => Some(File(handle)),
        }
    }

    fn seek(&self, offset: u64) -> bool {
        request(SEEK, &[self.0, offset]) == 0
    }

    /// Fills the buffer from `offset`. False if the file ends before.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> bool {
        self.seek(offset)
            && request(READ, &[self.0, buffer.as_mut_ptr() as u64, buffer.len() as u64]) == 0
    }

    /// Writes the buffer at `offset`.
    pub fn write(&self, offset: u64, buffer: &[u8]) -> bool {
        self.seek(offset)
            && request(WRITE, &[self.0, buffer.as_ptr() as u64, buffer.len() as u64]) == 0
    }
}

/// Ends the emulator with an exit status.
pub fn exit(status: u64) -> ! {
    loop {
        request(EXIT_EXTENDED, &[APPLICATION_EXIT, status]);
    }
}
