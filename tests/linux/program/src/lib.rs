// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the Linux programs of the tests need in place of a C library: an entry point, system calls,
//! lines of text, the instructions of memory tagging. Empty but for the bare-metal target, with
//! which these programs are built.

#![no_std]
#![cfg(target_os = "none")]

pub mod signal;
pub mod sys;
pub mod tags;
pub mod text;

use core::ffi::{CStr, c_char};

/// What the kernel gives a program on its stack: the argument count, the arguments, a zero, the
/// environment, a zero, and the auxiliary vector, which the key 0 ends.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Start {
    words: *const u64,
}

impl Start {
    /// Word `index` from the stack pointer up.
    fn word(&self, index: usize) -> u64 {
        // SAFETY: `entry` makes it of the first stack pointer; neither caller goes past the end of
        // what is described above.
        unsafe { self.words.add(index).read() }
    }

    /// Argument `index` of the command line, 0 being the program.
    pub fn argument(&self, index: usize) -> Option<&'static str> {
        if index as u64 >= self.word(0) {
            return None;
        }
        // SAFETY: the kernel's pointers are to texts that end with a zero and stay.
        unsafe { CStr::from_ptr(self.word(index + 1) as *const c_char) }.to_str().ok()
    }

    /// The keys of the auxiliary vector, each with its value.
    pub fn auxiliary(&self) -> impl Iterator<Item = (u64, u64)> {
        const AT_NULL: u64 = 0;
        let mut at = self.word(0) as usize + 2;
        while self.word(at) != 0 {
            at += 1;
        }
        let pair = move |at| (self.word(at), self.word(at + 1));
        (at + 1..).step_by(2).map(pair).take_while(|(key, _)| *key != AT_NULL)
    }
}

/// Makes an `extern "C" fn(Start) -> !` the place where the program starts.
#[macro_export]
macro_rules! entry {
    ($start:path) => {
        const _: extern "C" fn($crate::Start) -> ! = $start;

        core::arch::global_asm!(
            // The stack pointer is all that the kernel gives a program; a frame record of zeros
            // ends every backtrace.
            ".global _start",
            "_start:",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, sp",
            "b {start}",
            start = sym $start,
        );
    };
}
