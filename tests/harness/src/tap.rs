// SPDX-License-Identifier: MIT OR Apache-2.0
//! Test results in the Test Anything Protocol: outcomes, the words for a failure, and the loop
//! over all tests.

use core::fmt::{self, Write};

use spin::Mutex;

use crate::console::println;
use crate::machine::machine;
use crate::{abi, arena, cpu};

/// Why a test did not pass.
#[derive(Clone, Copy, Debug)]
pub enum Stop {
    /// Something is not as promised; [`WHY`] has the words.
    Failed,
    /// It cannot run here.
    Skipped(&'static str),
}

/// What a test ends with.
pub type Outcome = Result<(), Stop>;

/// The words for the first failure of a test, whichever CPU met it.
pub struct Words {
    text: [u8; 320],
    used: usize,
}

/// The words for the failure at hand.
pub static WHY: Mutex<Words> = Mutex::new(Words { text: [0; 320], used: 0 });

impl Write for Words {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.used < self.text.len() {
                self.text[self.used] = byte;
                self.used += 1;
            }
        }
        Ok(())
    }
}

impl Words {
    /// The words so far.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.text[..self.used]).unwrap_or("(words cut short)")
    }
}

/// Notes the words of a failure unless one is noted already.
pub fn failed(words: fmt::Arguments<'_>) -> Stop {
    let mut why = WHY.lock();
    if why.used == 0 {
        let _ = why.write_fmt(words);
    }
    Stop::Failed
}

/// Whether a failure is noted: other CPUs may stop.
pub fn has_failed() -> bool {
    WHY.lock().used != 0
}

/// Ends the test as failed, with words.
macro_rules! fail {
    ($($words:tt)*) => { return Err($crate::tap::failed(format_args!($($words)*))) };
}
pub(crate) use fail;

/// Fails the test unless the condition holds.
macro_rules! check {
    ($condition:expr, $($words:tt)*) => {
        if !$condition {
            $crate::tap::fail!($($words)*);
        }
    };
}
pub(crate) use check;

/// Fails the test unless two numbers are equal; prints both.
macro_rules! same {
    ($is:expr, $wanted:expr, $($words:tt)*) => {{
        let (is, wanted) = ($is, $wanted);
        if is != wanted {
            $crate::tap::fail!("{}: is {is:#x}, expected {wanted:#x}", format_args!($($words)*));
        }
    }};
}
pub(crate) use same;

/// Prints a diagnostic line.
macro_rules! note {
    ($($words:tt)*) => { $crate::console::println!("# {}", format_args!($($words)*)) };
}
pub(crate) use note;

/// One test: the promise it keeps and what it does, and how.
pub type Test = (&'static str, fn() -> Outcome);

/// How many tests ended how.
#[derive(Default)]
pub struct Tally {
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl Tally {
    /// Runs tests, those whose name has one of the texts of the `tagstash.test=` argument in it.
    pub fn run(&mut self, tests: &[Test]) {
        let wanted = machine().argument("tagstash.test").unwrap_or("");
        for (name, test) in tests {
            if wanted.split(',').any(|text| contains(name, text)) {
                self.run_one(name, *test);
            }
        }
    }

    fn run_one(&mut self, name: &str, test: fn() -> Outcome) {
        WHY.lock().used = 0;
        // SAFETY: the test before has ended, on all CPUs.
        unsafe { arena::reset() };
        let start = cpu::counter();
        let outcome = test().and_then(|()| abi::registers_kept());
        if machine().argument("times").is_some() {
            let milliseconds = (cpu::counter() - start) * 1000 / cpu::counter_frequency();
            note!("{milliseconds} ms");
        }
        let number = self.passed + self.failed + self.skipped + 1;
        match outcome {
            Ok(()) => {
                self.passed += 1;
                println!("ok {number} - {name}");
            }
            Err(Stop::Skipped(reason)) => {
                self.skipped += 1;
                println!("ok {number} - {name} # SKIP {reason}");
            }
            Err(Stop::Failed) => {
                self.failed += 1;
                println!("not ok {number} - {name}");
                println!("# {}", WHY.lock().as_str());
            }
        }
    }

    /// Prints the plan and the last line. The exit status that belongs to it.
    pub fn finish(&self) -> u64 {
        let Tally { passed, failed, skipped } = self;
        println!("1..{}", passed + failed + skipped);
        println!("# harness complete: {passed} passed, {failed} failed, {skipped} skipped");
        // A run in which nothing was tested proves nothing.
        u64::from(*failed != 0 || *passed == 0)
    }
}

/// Whether `text` has `part` in it, letters of either case, `_` for a space.
fn contains(text: &str, part: &str) -> bool {
    let alike = |(a, b): (u8, u8)| a.eq_ignore_ascii_case(&b) || (a == b' ' && b == b'_');
    part.is_empty()
        || text
            .as_bytes()
            .windows(part.len())
            .any(|window| window.iter().copied().zip(part.bytes()).all(alike))
}
