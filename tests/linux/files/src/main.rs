// SPDX-License-Identifier: MIT OR Apache-2.0
//! A Linux program that works on files and verifies every byte that it reads, run in the guest
//! whose page cache reaches into the stash. Arguments are `NAME=VALUE`, in any order:
//!
//! * `work DIRECTORY [processes=N] [files=N] [size=KIB] [operations=N] [seed=N]`: random reads,
//!   writes, truncates, mappings, O_DIRECT, hole punching and their like, by each process on files
//!   of its own
//! * `make DIRECTORY [files=N] [size=KIB] [first=N]`: files that the next one reads, numbered from
//!   `first`, which their contents depend on
//! * `pass DIRECTORY [files=N] [size=KIB] [first=N] [order=loop|uniform|skewed] [processes=N]
//!   [seed=N]`: reads as much as there is in them
//! * `tag MIB [seed=N]`: gives each granule of so much memory a random tag, says so, and reads all
//!   tags back when its input ends
//! * `hold MIB`: takes so much memory, says so, and gives it back when its input ends
//!
//! What is wrong is named with file, offset, what was expected and what was found. Exit status: 0
//! only if nothing was. The same seed gives the same operations.
//!
//! It has no C library: it is built with the target that the firmware is built with.

#![no_std]
#![no_main]

mod content;
mod file;
mod passes;
mod random;
mod sys;
mod tagged;
mod work;

use core::panic::PanicInfo;
use linux_program::{Start, println};

use crate::content::PAGE;
use crate::passes::{Order, Set};
use crate::random::Random;
use crate::work::{MOST_PROCESSES, Plan};

/// The words of the command line.
struct Arguments {
    start: Start,
}

impl Arguments {
    /// The value of an argument `NAME=VALUE` behind the second.
    fn value(&self, name: &str) -> Option<&str> {
        (3..).map_while(|index| self.start.argument(index)).find_map(|word| {
            let (is, value) = word.split_once('=')?;
            (is == name).then_some(value)
        })
    }

    /// The same as a number that lies in a range, or ends the program.
    fn number(&self, name: &str, least: u64, usual: u64, most: u64) -> u64 {
        let Some(text) = self.value(name) else { return usual };
        match text.parse() {
            Ok(number) if (least..=most).contains(&number) => number,
            _ => {
                println!("filework: {name}={text} is no number from {least} to {most}");
                sys::exit(2)
            }
        }
    }

    /// Ends the program if a word behind the second is none of those that are known.
    fn check(&self, names: &[&str]) {
        for word in (3..).map_while(|index| self.start.argument(index)) {
            if !names.iter().any(|name| word.split_once('=').is_some_and(|(is, _)| is == *name)) {
                println!("filework: '{word}' is not understood here");
                usage()
            }
        }
    }
}

linux_program::entry!(start);

/// Where the program starts.
extern "C" fn start(start: Start) -> ! {
    let arguments = Arguments { start };
    let status = match (start.argument(1), start.argument(2)) {
        (Some("work"), Some(directory)) => {
            arguments.check(&["processes", "files", "size", "operations", "seed"]);
            work::run(Plan {
                directory,
                processes: arguments.number("processes", 1, 2, MOST_PROCESSES),
                files: arguments.number("files", 1, 16, 1000),
                size: arguments.number("size", 64, 1024, 1 << 20),
                operations: arguments.number("operations", 1, 10_000, u64::MAX),
                seed: arguments.number("seed", 0, 1, u64::MAX),
            })
        }
        (Some(command @ ("make" | "pass")), Some(directory)) => {
            arguments.check(&["files", "size", "first", "order", "processes", "seed"]);
            let set = Set {
                directory,
                files: arguments.number("files", 1, 16, 1000),
                size: arguments.number("size", 4, 1024, 1 << 20) / 4 * 4,
                first: arguments.number("first", 0, 0, 90_000),
            };
            let order = match arguments.value("order") {
                None | Some("loop") => Order::Loop,
                Some("uniform") => Order::Uniform,
                Some("skewed") => Order::Skewed,
                Some(other) => {
                    println!("filework: order={other} is none of loop, uniform, skewed");
                    sys::exit(2)
                }
            };
            if command == "make" {
                set.make()
            } else {
                let processes = arguments.number("processes", 1, 1, MOST_PROCESSES);
                set.pass(order, arguments.number("seed", 0, 1, u64::MAX), processes)
            }
        }
        (Some("tag"), Some(mebibytes)) => match mebibytes.parse() {
            Ok(mebibytes @ 1..=65536) => {
                arguments.check(&["seed"]);
                tagged::run(mebibytes, arguments.number("seed", 0, 1, u64::MAX))
            }
            _ => usage(),
        },
        (Some("hold"), Some(mebibytes)) => match mebibytes.parse() {
            Ok(mebibytes @ 1..=65536) => hold(mebibytes),
            _ => usage(),
        },
        _ => usage(),
    };
    sys::exit(status)
}

fn usage() -> ! {
    println!(
        "usage: filework work DIRECTORY [processes=N] [files=N] [size=KIB] [operations=N] [seed=N]\n\
         \x20      filework make DIRECTORY [files=N] [size=KIB] [first=N]\n\
         \x20      filework pass DIRECTORY [files=N] [size=KIB] [first=N] [order=loop|uniform|skewed] \
         [processes=N] [seed=N]\n\
         \x20      filework tag MIB [seed=N]\n\
         \x20      filework hold MIB"
    );
    sys::exit(2)
}

/// Takes memory with contents that are no two pages' alike, until there is no more input.
fn hold(mebibytes: u64) -> u64 {
    let pages = mebibytes * (1 << 20) / PAGE;
    let Ok(memory) = file::words::<u64>(pages * PAGE / 8) else {
        println!("filework: there are no {mebibytes} MiB to hold");
        return 1;
    };
    let mut random = Random::new(1, 0);
    for page in memory.chunks_exact_mut((PAGE / 8) as usize) {
        page.fill_with(|| random.below(u64::MAX));
    }
    println!("filework: holding {mebibytes} MiB");
    while sys::read(0, &mut [0]) == Ok(1) {}
    0
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    println!("filework: panicked: {info}");
    sys::exit(101)
}
