// SPDX-License-Identifier: MIT OR Apache-2.0
//! A Linux program that uses memory tagging as programs do, and checks it: run in the guest of
//! `make linux`, as `mte-demo`.
//!
//! * without arguments: shows an overflow being caught
//! * `count`: says how many checks there are
//! * `tap FIRST`: runs the checks and prints results in the Test Anything Protocol, numbered from
//!   FIRST
//! * `count CPUS`, `brief FIRST CPUS`: the same for a few checks on each of so many CPUs
//! * `count all`, `tap FIRST all`: the same with those that `/mte` prepares the kernel for
//! * `control`: says by its exit status whether it was started with tag checks off (it is what a
//!   check executes)
//! * `hold`: tags a page, says where it is in physical memory and with which tags, waits for a
//!   line of input, and says which tags it has then
//! * `copies`: the check of fork's copies alone, on any CPU; says by its exit status how it went
//! * `split`: has a huge page split of which one small page is tagged, and says which tags the
//!   others have; waits for two lines of input in between
//!
//! It has no C library: it is built with the target that the firmware is built with, and makes its
//! system calls itself.

#![no_std]
#![no_main]
#![expect(clippy::result_large_err, reason = "there is no heap to put a failure's words on")]

mod brief;
mod checks;
mod fault;
mod hold;
mod memory;
mod modes;
mod split;
mod swap;
mod sys;
mod threads;

use core::panic::PanicInfo;
use linux_program::{Start, println, tags};

use crate::sys::{Memory, TagCheck};

/// A key of the auxiliary vector: what the CPUs can do, as HWCAP2 bits.
const AT_HWCAP2: u64 = 26;

linux_program::entry!(start);

/// Where the program starts.
extern "C" fn start(start: Start) -> ! {
    let capabilities = start.auxiliary().find(|(key, _)| *key == AT_HWCAP2);
    let capabilities = capabilities.map_or(0, |(_, value)| value);
    let arguments = [start.argument(1), start.argument(2), start.argument(3)];
    let status = match arguments {
        [None, ..] => show(),
        [Some("count"), all @ (None | Some("all")), None] => {
            println!("{}", checks::count(all.is_some()));
            0
        }
        [Some("count"), Some(cpus), None] => match cpus.parse() {
            Ok(cpus) => {
                println!("{}", brief::count(cpus));
                0
            }
            Err(_) => usage(),
        },
        [Some("brief"), Some(first), Some(cpus)] => match (first.parse(), cpus.parse()) {
            (Ok(first), Ok(cpus)) => brief::run(first, cpus, capabilities),
            _ => usage(),
        },
        [Some("tap"), Some(first), all @ (None | Some("all"))] => match first.parse() {
            Ok(first) => checks::run(first, all.is_some(), capabilities),
            Err(_) => usage(),
        },
        [Some("control"), None, None] => modes::control(),
        [Some("hold"), None, None] => hold::run(),
        [Some("split"), None, None] => split::run(),
        [Some("copies"), None, None] => match checks::copy_on_write() {
            Ok(()) => 0,
            Err(trouble) => {
                println!("mte-demo: copies: {trouble}");
                1
            }
        },
        _ => usage(),
    };
    sys::exit(status)
}

fn usage() -> u64 {
    println!(
        "usage: mte-demo [count [all | CPUS] | tap FIRST [all] | brief FIRST CPUS | control | hold | \
         split | copies]"
    );
    2
}

/// Shows what tagging is for: an access past the end of an object is caught.
fn show() -> u64 {
    match show_overflow() {
        Ok(()) => 0,
        Err(error) => {
            println!("mte-demo: the kernel refuses memory tagging, error {}", error.0);
            1
        }
    }
}

fn show_overflow() -> sys::Result<()> {
    sys::set_tag_check(TagCheck::Sync, 0xfffe)?;
    fault::set_up()?;
    let page = sys::map(4096, sys::PROT_READ | sys::PROT_WRITE | sys::PROT_MTE, Memory::Private)?;
    let object = tags::irg(page, 0);
    let neighbour = tags::irg(page + 32, 1 << tags::tag_of(object));
    // SAFETY: both lie in the new page, to which nothing refers.
    unsafe {
        tags::st2g(object);
        tags::st2g(neighbour);
    }
    println!("An object of 32 bytes at {page:#x}, tag {:#x}.", tags::tag_of(object));
    println!("Its neighbour at {:#x}, tag {:#x}.", page + 32, tags::tag_of(neighbour));
    // SAFETY: inside the object.
    let (count, _) = fault::watch(|| unsafe { tags::store(object + 24, 1) });
    println!("Storing to bytes 24-31 of the object: {count} faults.");
    // SAFETY: the fault is awaited.
    let (count, fault) = fault::watch(|| unsafe { tags::store(object + 32, 2) });
    // SAFETY: the neighbour's own tag.
    let kept = unsafe { tags::load(neighbour) } == 0;
    println!(
        "Storing to bytes 32-39, one too far: {count} fault, SIGSEGV code {} at {:#x} (9 is \
         SEGV_MTESERR).",
        fault.code, fault.address
    );
    println!("The neighbour was {}.", if kept { "not changed" } else { "CHANGED" });
    Ok(())
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    println!("# mte-demo panicked: {info}");
    sys::exit(101)
}
