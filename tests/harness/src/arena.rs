// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory for tests: pages of guest RAM that belong to nobody else. A test takes what it needs;
//! before the next one everything is free again.

use core::sync::atomic::{AtomicU32, AtomicU64};

use spin::Mutex;

use crate::machine::machine;
use crate::ranges::{PAGE, Range, Ranges};

static FREE: Mutex<Option<Ranges>> = Mutex::new(None);

/// Makes all pages free again.
///
/// # Safety
///
/// Nobody may use what was taken before.
pub unsafe fn reset() {
    *FREE.lock() = Some(machine().free);
}

/// Pages of guest memory at consecutive addresses. The shim reads and writes them behind the
/// compiler's back, so all accesses are volatile.
#[derive(Clone, Copy, Debug)]
pub struct Pages {
    range: Range,
}

/// Words of a page.
pub const WORDS: usize = (PAGE / 8) as usize;

/// Takes `count` pages of 4 KiB, aligned to `alignment` bytes.
pub fn take_aligned(count: u64, alignment: u64) -> Pages {
    let mut lock = FREE.lock();
    let free = lock.as_mut().expect("the arena is set up before the tests");
    let length = count * PAGE;
    for range in free.all() {
        let piece = Range::of(range.start.next_multiple_of(alignment), length);
        if range.holds(piece) {
            free.remove(piece);
            return Pages { range: piece };
        }
    }
    drop(lock);
    panic!("no {count} free pages for a test: give the machine more memory");
}

/// Takes pages.
pub fn take(count: u64) -> Pages {
    take_aligned(count, PAGE)
}

/// Takes room for numbers that CPUs share, all of them 0.
pub fn shared_words(count: u64) -> &'static [AtomicU32] {
    let pages = take((count * 4).div_ceil(PAGE));
    pages.fill(0);
    // SAFETY: the pages are nobody else's until the next reset, whose caller promises that
    // nobody uses them then; any bytes are valid numbers.
    unsafe { core::slice::from_raw_parts(pages.range.start as *const AtomicU32, count as usize) }
}

/// The same of 64-bit numbers.
pub fn shared_longs(count: u64) -> &'static [AtomicU64] {
    let pages = take((count * 8).div_ceil(PAGE));
    pages.fill(0);
    // SAFETY: as above.
    unsafe { core::slice::from_raw_parts(pages.range.start as *const AtomicU64, count as usize) }
}

impl Pages {
    /// Address of the first.
    pub fn address(&self) -> u64 {
        self.range.start
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.range.pages()
    }

    /// `count` of them from number `first` on.
    pub fn part(&self, first: u64, count: u64) -> Pages {
        let range = Range::of(self.range.start + first * PAGE, count * PAGE);
        assert!(self.range.holds(range));
        Pages { range }
    }

    fn pointer(&self, word: usize) -> *mut u64 {
        assert!((word as u64) < self.range.length() / 8);
        (self.range.start as *mut u64).wrapping_add(word)
    }

    /// Word `word` of all of them.
    pub fn read(&self, word: usize) -> u64 {
        // SAFETY: inside the pages, which are the test's own.
        unsafe { self.pointer(word).read_volatile() }
    }

    /// Changes a word.
    pub fn write(&self, word: usize, value: u64) {
        // SAFETY: as above.
        unsafe { self.pointer(word).write_volatile(value) }
    }

    /// Writes the same word everywhere.
    pub fn fill(&self, value: u64) {
        for word in 0..self.count() as usize * WORDS {
            self.write(word, value);
        }
    }
}
