// SPDX-License-Identifier: MIT OR Apache-2.0
//! What EL1 is told when it or a program touches what it must not: a synchronous external abort,
//! as from a machine that has no memory there. The machine itself is the judge: where it has no
//! memory, the CPU reports an abort without the shim, and the shim's must be the same.

use crate::arena;
use crate::cpu::{self, read_register, write_register};
use crate::exceptions::Abort;
use crate::host;
use crate::machine::machine;
use crate::mmu::EL0_OFFSET;
use crate::probes::{self, Kind, Level, Probe};
use crate::ranges::{PAGE, Range};
use crate::smp;
use crate::stash;
use crate::tap::{Outcome, Test, check, fail, note, same};

/// Tests with tag storage.
pub const TESTS: &[Test] = &[
    ("P7 every access to no-map memory is the CPU's own external abort", every_access),
    ("P7 every access to no-map memory, on all CPUs at once", every_access_everywhere),
    ("P7 accesses to no-map memory change nothing there", nothing_changes),
    ("P7 accesses across the edge of no-map memory abort", crossing),
    ("P7 walks over tables in no-map memory abort with the level of the walk", walks),
    ("P7 walks over tables in no-map memory, on all CPUs at once", walks_everywhere),
    ("P7 addresses beyond the guest's map are external aborts", beyond),
];

const DATA_ABORT: u64 = 0x24;
const INSTRUCTION_ABORT: u64 = 0x20;
const WNR: u64 = 1 << 6;
const CM: u64 = 1 << 8;
const EXTERNAL: u64 = 0x10;
const EXTERNAL_ON_WALK: u64 = 0x14;

/// The syndrome of an abort: class, IL, code, and nothing else besides WnR and CM.
fn syndrome(kind: Kind, level: Level, code: u64) -> u64 {
    let class = match kind {
        Kind::Fetch => INSTRUCTION_ABORT,
        _ => DATA_ABORT,
    } | u64::from(level == Level::El1);
    let bits = match kind {
        Kind::Store | Kind::MayStore => WNR,
        // The architecture says that these count as writes.
        Kind::Upkeep => WNR | CM,
        _ => 0,
    };
    class << 26 | 1 << 25 | bits | code
}

/// Bits of a syndrome in which two implementations, or two runs, may differ: what is reported of
/// an atomic instruction; QEMU takes DC CVAP for a load.
fn undecided(probe: &Probe) -> u64 {
    match probe.kind {
        Kind::Both => WNR,
        Kind::Upkeep if !probe.name.starts_with("AT") => WNR | CM,
        _ => 0,
    }
}

/// Pages of every reservation: the first, one in the middle, the last. Ranges are those that the
/// device tree hides: the shim's code and data, its metadata, tag storage.
fn pages() -> impl Iterator<Item = u64> {
    machine().no_map.all().iter().flat_map(|range| {
        [range.start, range.start + range.length() / 2 / PAGE * PAGE, range.end - PAGE]
    })
}

/// Memory that the machine has not, where the CPU aborts by itself, in the last gigabyte of RAM.
fn nowhere() -> Option<Range> {
    const GIGABYTE: u64 = 1 << 30;
    let last = machine().memory.all().iter().filter(|range| Some(**range) != machine().absent);
    let end = last.map(|range| range.end).max()?;
    let nowhere = Range { start: end, end: end.next_multiple_of(GIGABYTE) };
    (nowhere.length() >= 1 << 20).then_some(nowhere)
}

/// Where an access finds memory: LDTR and STTR see what EL0 sees.
fn offset_for(probe: &Probe, level: Level) -> u64 {
    let unprivileged = ["LDTR", "STTR"].contains(&probe.name);
    if level == Level::El0 || unprivileged { EL0_OFFSET } else { 0 }
}

/// One access: it aborts as it must, and as it does where there is no memory.
fn check_access(probe: &Probe, level: Level, page: u64, own: u64, nowhere: Option<u64>) -> Outcome {
    let offset = offset_for(probe, level);
    let at = |address: u64| address & !3 | offset;
    let address = at(page);
    // SAFETY: it must abort; if it does not, the test fails.
    let met = unsafe { probe.run(level, address, own + offset) };
    let Some(abort) = met else {
        let free = matches!(probe.kind, Kind::Upkeep | Kind::MayStore);
        check!(free, "{} of {address:#x} at {level:?} does not abort", probe.name);
        return Ok(());
    };
    let wanted = syndrome(probe.kind, level, EXTERNAL);
    let name = probe.name;
    same!(
        abort.syndrome & !undecided(probe),
        wanted & !undecided(probe),
        "{name} of {address:#x} at {level:?}: ESR"
    );
    same!(abort.address, address + extra(probe), "{name} of {address:#x} at {level:?}: FAR");
    if probe.kind != Kind::MayStore {
        same!(abort.at, probe.place(level, address), "{name} of {address:#x} at {level:?}: ELR");
    }
    let mode = if level == Level::El1 { 5 } else { 0 };
    same!(abort.state & 0x1f, mode, "{name} of {address:#x} at {level:?}: SPSR.M");
    // The judge. Some tag stores do nothing where there is no memory.
    // SAFETY: nothing is there.
    let judge = nowhere.and_then(|page| unsafe { probe.run(level, at(page), own + offset) });
    if let (Some(judge), Some(page)) = (judge, nowhere) {
        let seen = |abort: Abort, base: u64| {
            (abort.syndrome & !undecided(probe), abort.address.wrapping_sub(base), abort.state)
        };
        let (is, wanted) = (seen(abort, address), seen(judge, at(page)));
        check!(
            is == wanted,
            "{name} of {address:#x} at {level:?}: (ESR, FAR, SPSR) {is:x?}, of no memory {wanted:x?}"
        );
    }
    Ok(())
}

/// How far behind its base register an access begins.
fn extra(probe: &Probe) -> u64 {
    if probe.name.ends_with("pre-index") { 8 } else { 0 }
}

fn access_table(own: u64, count: bool) -> Outcome {
    let nowhere = nowhere();
    let mut made = 0;
    probes::prepare_el0(|| {
        for page in pages() {
            // At the beginning of a page, and in its last 256 bytes, which STGM takes at once.
            for offset in [0, PAGE - 256] {
                let judge = nowhere.map(|range| range.end - PAGE + offset);
                for probe in probes::ALL {
                    check_access(probe, Level::El1, page + offset, own, judge)?;
                    made += 1;
                    if probe.el0 {
                        check_access(probe, Level::El0, page + offset, own, judge)?;
                        made += 1;
                    }
                }
            }
        }
        Ok(())
    })?;
    if count {
        note!("{made} accesses, {} kinds", probes::ALL.len());
    }
    Ok(())
}

fn every_access() -> Outcome {
    check!(probes::map_for_el0(), "no room in the map for EL0");
    let own = arena::take(1).address();
    // The probes themselves work: own memory does not abort, at either level.
    probes::prepare_el0(|| {
        for probe in probes::ALL.iter().filter(|probe| probe.kind != Kind::Fetch) {
            for level in [Level::El1, Level::El0] {
                if level == Level::El0 && !probe.el0 {
                    continue;
                }
                let offset = offset_for(probe, level);
                // SAFETY: own memory.
                let met = unsafe { probe.run(level, own + offset, own + offset) };
                check!(met.is_none(), "{} of own memory at {level:?}: {met:x?}", probe.name);
            }
        }
        Ok(())
    })?;
    for lent in [false, true] {
        if lent {
            stash::activate(0)?
        } else {
            stash::deactivate()?
        }
        access_table(own, lent)?;
    }
    // The judge was asked.
    let Some(nowhere) = nowhere() else { return Ok(()) };
    // SAFETY: nothing is there.
    let judge = unsafe { probes::ALL[0].run(Level::El1, nowhere.end - PAGE, own) };
    check!(
        judge.is_some(),
        "a load from {:#x}, where nothing is, does not abort",
        nowhere.end - PAGE
    );
    Ok(())
}

fn every_access_everywhere() -> Outcome {
    smp::need(2)?;
    check!(probes::map_for_el0(), "no room in the map for EL0");
    let own = arena::take(smp::cpus() as u64).address();
    smp::on_all(&|number| access_table(own + number as u64 * PAGE, false))
}

fn nothing_changes() -> Outcome {
    check!(probes::map_for_el0(), "no room in the map for EL0");
    stash::deactivate()?;
    let own = arena::take(1).address();
    let last = machine().regions.all().iter().map(|region| region.storage.end - PAGE);
    let first = machine().regions.all().iter().map(|region| region.storage.start);
    // The image begins with code, which nobody writes.
    let code = machine().no_map.all().iter().map(|range| range.start);
    probes::prepare_el0(|| {
        for page in first.chain(last).chain(code) {
            let (mut before, mut after) = ([0; PAGE as usize], [0; PAGE as usize]);
            host::read(page, &mut before);
            for probe in probes::ALL {
                check_access(probe, Level::El1, page, own, None)?;
                if probe.el0 {
                    check_access(probe, Level::El0, page, own, None)?;
                }
            }
            host::read(page, &mut after);
            check!(before == after, "the page at {page:#x} has changed");
        }
        Ok(())
    })?;
    stash::activate(0)
}

fn crossing() -> Outcome {
    check!(probes::map_for_el0(), "no room in the map for EL0");
    let mut made = 0;
    let edges = machine().no_map.all().iter().map(|range| range.start);
    for edge in edges.filter(|edge| machine().free.hold(Range::of(edge - PAGE, PAGE))) {
        for probe in probes::CROSSING {
            for level in [Level::El1, Level::El0] {
                let address = edge + offset_for(probe, level);
                // SAFETY: the page before is free, the one behind must abort.
                let met = unsafe { probe.run(level, address, edge - PAGE) };
                let name = probe.name;
                let Some(abort) = met else {
                    fail!("{name} across {address:#x} at {level:?} does not abort")
                };
                let wanted = syndrome(probe.kind, level, EXTERNAL);
                same!(abort.syndrome, wanted, "{name} across {address:#x} at {level:?}: ESR");
                check!(
                    (address - 4..=address).contains(&abort.address),
                    "{name} across {address:#x} at {level:?}: FAR {:#x}",
                    abort.address
                );
                made += 1;
            }
        }
    }
    note!("{made} accesses across an edge");
    check!(made != 0, "no reservation begins behind free memory");
    Ok(())
}

/// A way to divide the upper half of the address space.
struct Walk {
    granule: u32,
    /// TCR_EL1.TG1.
    code: u64,
    /// TCR_EL1.T1SZ.
    size: u64,
    /// The level at which walks start (Arm ARM, D8.2).
    start: u32,
}

const WALKS: [Walk; 9] = [
    Walk { granule: 12, code: 2, size: 16, start: 0 },
    Walk { granule: 12, code: 2, size: 24, start: 0 },
    Walk { granule: 12, code: 2, size: 25, start: 1 },
    Walk { granule: 12, code: 2, size: 34, start: 2 },
    Walk { granule: 14, code: 1, size: 16, start: 0 },
    Walk { granule: 14, code: 1, size: 17, start: 1 },
    Walk { granule: 14, code: 1, size: 28, start: 2 },
    Walk { granule: 16, code: 3, size: 16, start: 1 },
    Walk { granule: 16, code: 3, size: 22, start: 2 },
];

/// The granule that this CPU can have (ID_AA64MMFR0_EL1.TGran4, TGran16, TGran64).
fn has_granule(granule: u32) -> bool {
    let features = read_register!("id_aa64mmfr0_el1");
    match granule {
        12 => features >> 28 & 0xf != 0xf,
        14 => features >> 20 & 0xf != 0,
        _ => features >> 24 & 0xf != 0xf,
    }
}

/// Translates the upper half as `walk` says while `work` runs, from `table` on.
fn with_upper_half<R>(walk: &Walk, large: bool, table: u64, work: impl FnOnce() -> R) -> R {
    const FIELDS: u64 = 0xffff << 16;
    // Walks are write-back, inner shareable.
    const CACHED: u64 = 1 << 24 | 1 << 26 | 3 << 28;
    const IPS: u64 = 7 << 32;
    let (tcr, ttbr1) = (read_register!("tcr_el1"), read_register!("ttbr1_el1"));
    let ips = if large { 6 << 32 } else { tcr & IPS };
    let set = |tcr: u64, table: u64| {
        write_register!("tcr_el1", tcr);
        write_register!("ttbr1_el1", table);
        cpu::forget_translations();
    };
    set(tcr & !FIELDS & !IPS | ips | walk.size << 16 | walk.code << 30 | CACHED, table);
    let result = work();
    set(tcr, ttbr1);
    result
}

impl Walk {
    fn stride(&self) -> u32 {
        self.granule - 3
    }

    /// An address in the upper half whose index differs from level to level.
    fn address(&self) -> u64 {
        let bits = 64 - self.size as u32;
        0x1234_5678_9abc_d000 & ((1 << bits) - 1) | !((1 << bits) - 1)
    }

    /// Where the descriptor for the address is, in a table of `level`.
    fn index(&self, level: u32) -> u64 {
        let shift = self.granule + self.stride() * (3 - level);
        let bits = if level == self.start { 64 - self.size as u32 - shift } else { self.stride() };
        self.address() >> shift & ((1 << bits) - 1)
    }

    /// Writes tables down to `level`, where the table is `last`. The first table.
    fn build(&self, tables: arena::Pages, level: u32, last: u64) -> u64 {
        const PAGES: u64 = 16;
        let place = |of: u32| {
            if of == level { last } else { tables.address() + u64::from(of) * PAGES * PAGE }
        };
        for of in self.start..level {
            let own = tables.part(u64::from(of) * PAGES, PAGES);
            own.write(self.index(of) as usize, place(of + 1) | 0b11);
        }
        cpu::dsb();
        place(self.start)
    }
}

/// Walks with every granule that end at every level, for every kind of access.
fn walk_table(tables: arena::Pages, own: u64) -> Result<u32, crate::tap::Stop> {
    const GRANULE: u64 = 1 << 16;
    let probes = || {
        let names = ["LDR X", "STR X", "LDXR", "LDADD", "STG", "DC ZVA", "BR", "AT S1E1R"];
        let more = ["AT S1E1W", "AT S1E0R", "IC IVAU", "LDG"];
        probes::ALL.iter().filter(move |p| names.contains(&p.name) || more.contains(&p.name))
    };
    let hidden = machine().no_map.all().iter().filter(|range| range.length() >= 2 * GRANULE);
    let nowhere = nowhere().map(|range| range.end - GRANULE);
    let mut made = 0;
    for table in hidden.flat_map(|range| {
        [range.start.next_multiple_of(GRANULE), (range.end - GRANULE) & !(GRANULE - 1)]
    }) {
        for walk in WALKS.iter().filter(|walk| has_granule(walk.granule)) {
            for level in walk.start..=3 {
                let address = walk.address();
                let run = |probe: &Probe, el: Level, last: u64| {
                    let first = walk.build(tables, level, last);
                    let own = own + offset_for(probe, el);
                    // SAFETY: the walk cannot end well.
                    with_upper_half(walk, false, first, || unsafe { probe.run(el, address, own) })
                };
                for probe in probes() {
                    for el in [Level::El1, Level::El0] {
                        if el == Level::El0 && !probe.el0 {
                            continue;
                        }
                        let (name, granule) = (probe.name, 1 << walk.granule);
                        let Some(abort) = run(probe, el, table) else {
                            check!(
                                name == "IC IVAU",
                                "{name} at {el:?}, level {level} of {granule:#x}: no abort"
                            );
                            continue;
                        };
                        made += 1;
                        let wanted = syndrome(probe.kind, el, EXTERNAL_ON_WALK + u64::from(level));
                        let mask = !undecided(probe);
                        same!(
                            abort.syndrome & mask,
                            wanted & mask,
                            "{name} at {el:?}, size {}, granule {granule:#x}, table of level {level} \
                             at {table:#x}: ESR",
                            walk.size
                        );
                        same!(abort.address, address, "{name} at {el:?}, level {level}: FAR");
                        let place = probe.place(el, address);
                        same!(abort.at, place, "{name} at {el:?}, level {level}: ELR");
                        if let Some(judge) = nowhere.and_then(|last| run(probe, el, last)) {
                            check!(
                                (judge.syndrome & mask, judge.address)
                                    == (abort.syndrome & mask, abort.address),
                                "{name} at {el:?}, level {level}: {abort:x?}, of no memory {judge:x?}"
                            );
                        }
                    }
                }
            }
        }
    }
    Ok(made)
}

/// Pages of the tables of one CPU: 64 KiB for each level.
const TABLE_PAGES: u64 = 4 * 16;

fn walks() -> Outcome {
    check!(probes::map_for_el0(), "no room in the map for EL0");
    let tables = arena::take_aligned(TABLE_PAGES, 1 << 16);
    tables.fill(0);
    let own = arena::take(1).address();
    let made = probes::prepare_el0(|| walk_table(tables, own))?;
    note!("{made} walks ended in hidden memory");
    check!(made > 500, "only {made} walks ended in hidden memory");
    Ok(())
}

fn walks_everywhere() -> Outcome {
    smp::need(2)?;
    check!(probes::map_for_el0(), "no room in the map for EL0");
    let tables = arena::take_aligned(TABLE_PAGES * smp::cpus() as u64, 1 << 16);
    tables.fill(0);
    let own = arena::take(1).address();
    smp::on_all(&|number| {
        let tables = tables.part(number as u64 * TABLE_PAGES, TABLE_PAGES);
        probes::prepare_el0(|| walk_table(tables, own))?;
        Ok(())
    })
}

/// A page at an address that no stage 2 of 48 bits has, by way of a granule of 64 KiB and 52 bits.
fn beyond() -> Outcome {
    if read_register!("id_aa64mmfr0_el1") & 0xf < 6 || !has_granule(16) {
        return Err(crate::tap::Stop::Skipped("the CPU has no addresses of 52 bits"));
    }
    let tables = arena::take_aligned(TABLE_PAGES, 1 << 16);
    tables.fill(0);
    let own = arena::take(1).address();
    let walk = Walk { granule: 16, code: 3, size: 22, start: 2 };
    let first = walk.build(tables, 3, tables.address() + 3 * 16 * PAGE);
    // Address bits 51:48 are bits 15:12; a page, inner shareable, AF.
    tables.part(3 * 16, 16).write(walk.index(3) as usize, 4 << 12 | 0x703);
    cpu::dsb();
    for probe in probes::ALL.iter().filter(|probe| ["LDR X", "STR X", "BR"].contains(&probe.name)) {
        let address = walk.address();
        // SAFETY: nothing is there.
        let met =
            with_upper_half(&walk, true, first, || unsafe { probe.run(Level::El1, address, own) });
        let Some(abort) = met else { fail!("{} of 2^50 does not abort", probe.name) };
        let wanted = syndrome(probe.kind, Level::El1, EXTERNAL);
        same!(abort.syndrome, wanted, "{} of 2^50: ESR", probe.name);
        same!(abort.address, address, "{} of 2^50: FAR", probe.name);
    }
    Ok(())
}
