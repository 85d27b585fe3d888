// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest for Tagstash that tests it: an EL1 program that the shim starts as it would start
//! Linux. It makes every call of docs/abi.md, tags memory, looks at the tag storage from outside
//! through the host, and prints results in the Test Anything Protocol; or, with `mode=report`, a
//! report for a reader.
//!
//! Boot arguments:
//!
//! * `mode=test` (default), `mode=report`, `mode=registers`: the ID registers of every CPU,
//!   `mode=sweep`: every System register, without the shim too, or `mode=bench`: the instructions
//!   of every call, of which `part=` picks some
//! * `tagstash.test=TEXT,...`: the tests whose name has a TEXT in it (`_` for a space)
//! * `cpus=N`: use no more than N CPUs
//! * `times=yes`: say how long each test took
//! * `expect=no-storage`: the machine has no usable tag storage, and the shim must say so
//! * `expect=hidden`: the shim hides MTE (`tagstash.mte=hide`)
//! * `expect=verification`: the shim verifies always (`tagstash.verify=on`)
//! * `ram=PATH`, `ram-base=ADDRESS`: the host's file behind the memory
//! * `absent=BASE,LENGTH`: memory that the device tree has and the machine has not
//! * `region=TAGGED,LENGTH,STORAGE,BLOCK`: where tag storage really lies; once for each region

#![no_std]
#![no_main]

mod abi;
mod arena;
mod bench;
mod cases;
mod console;
mod cpu;
mod entry;
mod exceptions;
mod gic;
mod host;
mod initial;
mod machine;
mod mmu;
mod pages;
mod prng;
mod probes;
mod psci;
mod pstate;
mod ranges;
mod report;
mod semihosting;
mod smp;
mod stash;
mod sweep;
mod tags;
mod tap;

use core::panic::PanicInfo;

use crate::abi::status;
use crate::console::println;
use crate::cpu::{read_register, write_register};
use crate::machine::Machine;
use crate::ranges::{PAGE, Range};
pub use crate::smp::secondary_main;
use crate::tap::Tally;

/// Ends the run because nothing it could still find out would mean anything.
macro_rules! bail_out {
    ($($words:tt)*) => {{
        println!("Bail out! {}", format_args!($($words)*));
        semihosting::exit(1)
    }};
}

/// What every CPU does first: floating point for the test that looks at it, tags for EL1.
pub fn prepare_cpu() {
    const FLOATING_POINT: u64 = 3 << 20;
    const TAG_ACCESS: u64 = 1 << 43;
    write_register!("cpacr_el1", FLOATING_POINT);
    if cpu::has_tag_memory() {
        // Tag check faults stay off (TCF 0): tests use tags as data.
        write_register!("sctlr_el1", read_register!("sctlr_el1") | TAG_ACCESS);
        cpu::isb();
        write_register!("s3_0_c1_c0_6", 0); // GCR_EL1
        write_register!("s3_0_c5_c6_0", 0); // TFSR_EL1
    }
    cpu::isb();
}

/// The first CPU's whole life. `tree` is the device tree's address.
pub extern "C" fn primary_main(tree: u64) -> ! {
    exceptions::set_cpu(0);
    initial::note(0);
    prepare_cpu();
    let mpidr = read_register!("mpidr_el1") & 0xff_00ff_ffff;
    let machine = match machine::learn(tree, image(), mpidr) {
        Ok(machine) => machine,
        Err(why) => bail_out!("{why}"),
    };
    if machine.wants_sweep() {
        sweep::run();
        println!("# sweep complete");
        semihosting::exit(0)
    }
    find_shim(machine);
    if machine.wants_registers() {
        cases::print_registers();
        println!("# registers complete");
        semihosting::exit(0)
    }
    if machine.expects_hidden() {
        // Without tags there is nothing to prove it with; that it is on the host says.
        open_memory();
    } else if machine.expects_storage() {
        prove_aliasing(machine);
    }
    if machine.wants_report() {
        match report::run() {
            Ok(()) => {
                println!("# report complete");
                semihosting::exit(0)
            }
            Err(_) => bail_out!("the report's story failed: {}", tap::WHY.lock().as_str()),
        }
    }
    if machine.wants_bench() {
        match bench::run() {
            Ok(()) => {
                println!("# bench complete");
                semihosting::exit(0)
            }
            Err(_) => bail_out!("the bench failed: {}", tap::WHY.lock().as_str()),
        }
    }
    let mut tally = Tally::default();
    cases::run(&mut tally);
    semihosting::exit(tally.finish())
}

/// Where the harness itself lies.
pub fn image() -> Range {
    unsafe extern "C" {
        static image_head: u8;
        static __image_end: u8;
    }
    Range { start: (&raw const image_head) as u64, end: (&raw const __image_end) as u64 }
}

/// Steps 1 of docs/abi.md section 6: the node, the UID, the version.
fn find_shim(machine: &Machine) {
    let node = machine.tree.find_node("/hypervisor");
    if !node.is_some_and(|node| machine::is_compatible(node, "tagstash,tagstash-1")) {
        bail_out!("the device tree has no node /hypervisor that is compatible with tagstash-1");
    }
    let uid = abi::hvc(abi::function::UID, &[]);
    if uid != cases::UID {
        bail_out!("the UID is {uid:x?}");
    }
    let version = abi::version();
    if version.status != status::SUCCESS || version.x1 >> 16 != 1 {
        bail_out!("VERSION answers {version:x?}, and this is a client of version 1");
    }
    let hidden = version.x2 & abi::FEATURE_TAGS_HIDDEN != 0;
    if hidden != machine.expects_hidden() && !machine.wants_registers() {
        bail_out!("MTE is hidden: {hidden}, but expected {}", machine.expects_hidden());
    }
    let reuse = version.x2 & abi::FEATURE_REUSE != 0;
    if reuse != machine.expects_storage() {
        bail_out!("tag storage to lend: {reuse}, but expected {}", machine.expects_storage());
    }
}

/// Opens the file behind the memory.
fn open_memory() {
    if !host::open() {
        bail_out!("the ram= argument does not name a file that the host can open");
    }
}

/// The storage bytes must follow the tags, or nothing that is seen in them means anything.
fn prove_aliasing(machine: &Machine) {
    if machine.regions.all().is_empty() {
        bail_out!("no region= argument: where the tag storage lies is not known");
    }
    if !cpu::has_tag_memory() {
        bail_out!("the CPU has no tag memory");
    }
    open_memory();
    if abi::state().x1 != stash::DORMANT {
        bail_out!("the shim is not dormant at boot: STATE is {:#x}", abi::state().x1);
    }
    for region in machine.regions.all() {
        let Some(page) = machine.free.all().iter().find_map(|free| region.tagged.common(*free))
        else {
            continue;
        };
        let page = page.start.next_multiple_of(PAGE);
        let mut byte = [0];
        for (even, odd) in [(0x5, 0xa), (0xc, 0x3)] {
            // SAFETY: dormant: no storage is lent.
            unsafe {
                cpu::stg(page + 32, even);
                cpu::stg(page + 48, odd);
            }
            cpu::dsb();
            host::read(region.storage_of(page) + 1, &mut byte);
            let wanted = (odd << 4 | even) as u8;
            if byte[0] != wanted {
                bail_out!(
                    "tag storage is not aliased: after STG of {even:#x} and {odd:#x} to {:#x} the \
                     byte at {:#x} is {:#x}",
                    page + 32,
                    region.storage_of(page) + 1,
                    byte[0]
                );
            }
        }
    }
}

#[panic_handler]
fn panic(information: &PanicInfo<'_>) -> ! {
    console::print_at_once(format_args!("\nBail out! {information}\n"));
    semihosting::exit(3)
}
