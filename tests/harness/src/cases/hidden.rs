// SPDX-License-Identifier: MIT OR Apache-2.0
//! MTE hidden by the shim (`tagstash.mte=hide`): no register tells of it, no tag is stored or
//! read, and all tag storage is the stash's, whatever is claimed.

use crate::abi::{self, Answer, function, statistic};
use crate::console::println;
use crate::cpu::{self, read_register, write_register};
use crate::machine::{Region, machine};
use crate::pages;
use crate::ranges::{PAGE, Range};
use crate::stash::{self, Census, Pool};
use crate::tap::{Outcome, Stop, Test, check, fail, note, same};
use crate::{arena, exceptions, host, smp};

/// Tests for a guest from which MTE is hidden.
pub const TESTS: &[Test] = &[
    ("hidden: no ID register of any CPU tells of MTE", no_register_tells),
    (
        "hidden: an ID register is read into every general register, and nothing else changes",
        read_into_each,
    ),
    ("hidden: MTE's own registers are undefined instructions on every CPU", undefined),
    ("hidden: a tag store changes no byte of storage, a tag load reads 0", no_tags),
    ("P4 hidden: claims have nothing to do, and cached pages stay", nothing_to_claim),
    ("P10 hidden: every frame holds a page, whatever is claimed", all_frames),
];

/// ID_AA64PFR1_EL1: MTE, MTE_frac, MTEX.
const PFR1_FIELDS: u64 = 0x00f0_0f00_0000_0f00;
/// ID_AA64PFR2_EL1: MTEPERM, MTESTOREONLY, MTEFAR, MTEEIRG, VMTE, VMTETC, VMTETCL.
const PFR2_FIELDS: u64 = 0x0000_fff0_00f0_0fff;

/// SCTLR_EL1.ATA: what a kernel that believes in MTE sets.
const TAG_ACCESS: u64 = 1 << 43;

/// Prints every ID register of every CPU, so that two runs can be compared.
pub fn print_registers() {
    for number in 0..smp::cpus() {
        let printed = smp::on(number + 1, &|cpu| {
            if cpu == number {
                for (crm, op2) in cpu::id_registers() {
                    println!(
                        "# cpu {cpu} s3_0_c0_c{crm}_{op2} {:#018x}",
                        cpu::id_register(crm, op2)
                    );
                }
            }
            Ok(())
        });
        if printed.is_err() {
            println!("Bail out! CPU {number} does not take part");
        }
    }
}

fn no_register_tells() -> Outcome {
    smp::on_all(&|number| {
        same!(cpu::id_register(4, 1) & PFR1_FIELDS, 0, "ID_AA64PFR1_EL1 of CPU {number}");
        same!(cpu::id_register(4, 2) & PFR2_FIELDS, 0, "ID_AA64PFR2_EL1 of CPU {number}");
        // Not everything is hidden: ID_AA64PFR0_EL1 and ID_AA64MMFR0_EL1 cannot be 0.
        for (crm, op2) in [(4, 0), (7, 0)] {
            check!(cpu::id_register(crm, op2) != 0, "s3_0_c0_c{crm}_{op2} of CPU {number} is 0");
        }
        Ok(())
    })
}

fn read_into_each() -> Outcome {
    smp::on_all(&|number| {
        let wanted = cpu::id_register(4, 1);
        check!(wanted != 0, "ID_AA64PFR1_EL1 of CPU {number} is 0");
        for flags in [0x9000_0000, 0x6000_0000] {
            let mut registers = [0; 31];
            let after = cpu::read_id_into_each(&mut registers, flags);
            for (register, value) in registers.iter().enumerate() {
                same!(*value, wanted, "x{register} of CPU {number}");
            }
            same!(after, flags, "flags of CPU {number}");
        }
        Ok(())
    })
}

fn undefined() -> Outcome {
    smp::on_all(&|number| {
        for (name, probe) in cpu::MTE_REGISTERS {
            // SAFETY: where they are there, these registers change nothing but the CPU's tags.
            let met = exceptions::expect(|| unsafe { cpu::run_probe(probe) });
            let Some(met) = met else { fail!("{name} of CPU {number} is no exception") };
            // Unknown reason, an instruction of 32 bits.
            same!(met.syndrome, 1 << 25, "{name} of CPU {number}: syndrome");
        }
        Ok(())
    })
}

/// Runs `test` on each CPU with tag access enabled as far as EL1 can.
fn believing(test: &(dyn Fn(usize) -> Outcome + Sync)) -> Outcome {
    smp::on_all(&|number| {
        let control = read_register!("sctlr_el1");
        write_register!("sctlr_el1", control | TAG_ACCESS);
        cpu::isb();
        let result = test(number);
        write_register!("sctlr_el1", control);
        cpu::isb();
        result
    })
}

/// The region of a page, which the test was given and so must have one.
fn region_of(page: u64) -> Result<&'static Region, Stop> {
    match machine().region_of(page) {
        Some(region) => Ok(region),
        None => fail!("page {page:#x} has no tag storage"),
    }
}

fn no_tags() -> Outcome {
    // Dormant, so that what is written to the storage is nobody's page.
    stash::deactivate()?;
    let each = 4;
    let pages = arena::take(smp::cpus() as u64 * each);
    for number in 0..pages.count() {
        let page = pages.part(number, 1).address();
        host::write(region_of(page)?.storage_of(page), &[0xa5; (PAGE / 32) as usize]);
    }
    believing(&|number| {
        for own in 0..each {
            let page = pages.part(number as u64 * each + own, 1);
            page.fill(0x1122_3344_5566_7788);
            for granule in (page.address()..page.address() + PAGE).step_by(16) {
                // SAFETY: nothing is lent.
                unsafe { cpu::stg(granule, 0x6) };
                same!(cpu::ldg(granule), 0, "tag of {granule:#x} on CPU {number}");
            }
            same!(page.read(1), 0x1122_3344_5566_7788, "data after tag stores");
            // SAFETY: the page is the test's own.
            unsafe { cpu::stzg(page.address() + 16, 0x9) };
            check!(
                page.read(1) != 0 && page.read(2) == 0 && page.read(3) == 0,
                "STZG did not clear"
            );
            cpu::dsb();
        }
        Ok(())
    })?;
    for number in 0..pages.count() {
        let page = pages.part(number, 1).address();
        let mut bytes = [0; (PAGE / 32) as usize];
        host::read(region_of(page)?.storage_of(page), &mut bytes);
        check!(
            bytes == [0xa5; (PAGE / 32) as usize],
            "a tag store to {page:#x} changed storage: {:x?}",
            &bytes[..16]
        );
    }
    Ok(())
}

/// Puts a page, and finds guest RAM whose tags would lie where it is cached.
fn put_and_find(pool: &Pool, index: u64) -> Result<Option<u64>, Stop> {
    let (source, _) = stash::buffers(pool);
    let key = pool.key(0x41d, index);
    stash::put_kept(source, key, index)?;
    let Some(frame) = host::find_frame(&pages::first_line(key, index)) else {
        fail!("page {index} is cached, but no frame of the tag storage holds it")
    };
    let holder =
        machine().regions.all().iter().find(|region| region.storage.holds(Range::of(frame, PAGE)));
    let Some(region) = holder else { fail!("frame {frame:#x} is in no region") };
    let data = region.tagged.start + (frame - region.storage.start) * 32;
    Ok(machine().is_ram(Range::of(data, 32 * PAGE)).then_some(data))
}

fn nothing_to_claim() -> Outcome {
    stash::fresh()?;
    let pool = Pool::shared()?;
    let (_, destination) = stash::buffers(&pool);
    let before = abi::statistics();
    let mut tried = 0;
    for index in 0..16 {
        let Some(data) = put_and_find(&pool, index)? else { continue };
        tried += 1;
        believing(&|number| {
            let page = data + number as u64 * PAGE;
            for (name, call, pages) in [
                ("RECLAIM", function::RECLAIM, 1),
                ("RECLAIM", function::RECLAIM, 32 - number as u64),
                ("RELEASE", function::RELEASE, 1),
                ("RELEASE", function::RELEASE, 32 - number as u64),
            ] {
                let answer = abi::hvc(call, &[page, pages]);
                check!(answer == Answer::of(0, pages, 0, 0), "{name} answers {answer:x?}");
            }
            let answer = abi::query(page);
            check!(answer == Answer::only(0), "QUERY answers {answer:x?}");
            // The tags of this page would be in the cached page.
            // SAFETY: they are not: nothing is stored.
            unsafe { cpu::stg(page, 0xf) };
            cpu::dsb();
            Ok(())
        })?;
        stash::get_hit(destination, pool.key(0x41d, index), index)?;
    }
    note!("{tried} of 16 pages were cached where guest RAM would have its tags");
    check!(tried >= 8, "only {tried} of 16 pages were cached where guest RAM would have its tags");
    let now = abi::statistics();
    for (name, number) in [
        ("CLAIMS", statistic::CLAIMS),
        ("CLAIMS_HELD", statistic::CLAIMS_HELD),
        ("RELEASES", statistic::RELEASES),
        ("RELEASES_REFUSED", statistic::RELEASES_REFUSED),
        ("PAGES_DROPPED", statistic::PAGES_DROPPED),
    ] {
        same!(now[number as usize], before[number as usize], "{name}");
    }
    Ok(())
}

fn all_frames() -> Outcome {
    stash::fresh()?;
    // All of memory in one call.
    let ram = machine().ram.all();
    let (start, end) = (ram[0].start, ram[ram.len() - 1].end);
    let all = (end - start) / PAGE;
    let answer = abi::reclaim(start, all);
    check!(answer == Answer::of(0, all, 0, 0), "RECLAIM of all memory answers {answer:x?}");
    // What is asked for wrongly is still wrong.
    for (arguments, status) in [
        ([start + 1, 1], abi::status::INVALID_ADDRESS),
        ([start, 0], abi::status::INVALID_PARAMETER),
        ([machine().regions.all()[0].storage.start, 1], abi::status::INVALID_ADDRESS),
    ] {
        for call in [function::RECLAIM, function::RELEASE] {
            let answer = abi::hvc(call, &arguments);
            check!(answer == Answer::only(status), "{call:#x} of {arguments:x?}: {answer:x?}");
        }
    }

    let pool = Pool::shared()?;
    let (source, destination) = stash::buffers(&pool);
    let frames = machine().frames();
    // Four for each frame, so that every set has been full.
    let puts = 4 * frames;
    for index in 0..puts {
        stash::put_kept(source, pool.key(5, index), index)?;
    }
    let census = stash::census()?;
    check!(census == Census { cached: frames, ..Census::default() }, "{census:?}");
    let mut hits = 0;
    for index in 0..puts {
        hits += u64::from(stash::get(destination, pool.key(5, index))? == Some(index));
    }
    same!(hits, frames, "pages that hit");
    let answer = abi::release(start, all);
    check!(answer == Answer::of(0, all, 0, 0), "RELEASE of all memory answers {answer:x?}");
    same!(stash::census()?.cached, frames, "cached frames at the end");
    drop(pool);
    stash::deactivate()
}
