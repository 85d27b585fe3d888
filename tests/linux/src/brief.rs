// SPDX-License-Identifier: MIT OR Apache-2.0
//! Few checks for many machines: what could differ from one CPU or kernel to the next.

use core::fmt;
use linux_program::println;

use crate::checks::{self, Outcome};
use crate::sys;

/// What each CPU tries, in bytes.
const LENGTH: u64 = 4 << 10;

/// How many checks there are for so many CPUs.
pub fn count(cpus: u64) -> u64 {
    cpus + 2
}

/// Runs them, numbered from `first` up; returns the exit status.
pub fn run(first: u64, cpus: u64, capabilities: u64) -> u64 {
    let (mut number, mut failures) = (first, 0);
    let mut tell = |name: fmt::Arguments<'_>, outcome: Outcome| {
        match outcome {
            Ok(()) => println!("ok {number} - mte: {name}"),
            Err(words) => {
                println!("not ok {number} - mte: {name}: {words}");
                failures += 1;
            }
        }
        number += 1;
    };
    let offered = checks::offered(capabilities);
    tell(format_args!("the kernel offers MTE and takes SIGSEGV handlers"), offered);
    for cpu in 0..cpus {
        tell(format_args!("tags and faults on CPU {cpu}"), checks::on_cpu(cpu, LENGTH));
    }
    let copied = sys::pin(0).map_err(Into::into).and_then(|()| checks::copy_on_write());
    tell(format_args!("fork copies tags on write"), copied);
    u64::from(failures != 0)
}
