// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the smallest stash to the largest: metadata, set-up, and the steps of each call.
//!
//! Steps are instructions of this machine, counted one by one. Frames have no bytes here: what
//! copies and cache maintenance cost is the same for every page, and left out.

use crate::cache::stash::{CPUS, activate, arguments, call, ram, regions, succeed};
use crate::memory::{RAM, Unbacked, guest_address};
use crate::report::{Report, machine};
use crate::steps::Probe;
use crate::table::Table;
use crate::throughput::cpu_time;
use serde_json::{Value, json};
use std::cell::Cell;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use tagstash::addr::{PAGE_SIZE, PhysAddr, PhysRange};
use tagstash::hypercall::abi::{Function, Status};
use tagstash::hypercall::service::Service;
use tagstash::platform::{CacheMaintenance, Caller, CopyFault, PageMemory};
use tagstash::stash::frame::Fingerprint;
use tagstash::stash::key::{Object, PartKey};
use tagstash::stash::metadata::{CANDIDATES, CHOICES, Metadata, WAYS};
use tagstash::stash::pool::PoolId;

/// MiB of storage: RAM of 512 MiB to 1 TiB.
pub const SIZES: [u32; 6] = [16, 64, 512, 2048, 8192, 32768];
/// The least and the largest, for `make test`.
pub const ENDS: [u32; 2] = [16, 32768];
/// Bytes of metadata that a frame may cost.
const MOST_METADATA: f64 = 64.0;
/// Steps that making the service may take: most are the allocator's, and differ by its mood. The
/// least stash has 4,096 frames, the largest 8 million.
const MOST_SETUP: u64 = 10_000;
/// Blocks that one ACTIVATE deals with at most (docs/abi.md).
const MOST_BLOCKS: u64 = 256;
/// Frames that a RECLAIM deals with at most before it looks for an interrupt.
const MOST_FRAMES: u64 = 32;
/// Keys whose calls are measured, with their sets spread over all.
const KEYS: u64 = 4;
/// Of a key's candidates, each so-many-th is measured, the last one among them.
const STRIDE: usize = 5;
/// Regions, as few and as many as there can be.
const REGIONS: [u32; 2] = [1, 32];

/// Machine without bytes that counts the pages whose maintenance is asked for.
#[derive(Default)]
struct Counted {
    frames: Cell<u64>,
    tagged: Cell<u64>,
}

impl PageMemory for Counted {
    fn copy_chunk_in(&self, from: PhysAddr, to: PhysAddr) -> Result<(), CopyFault> {
        Unbacked.copy_chunk_in(from, to)
    }

    fn copy_page_out(&self, from: PhysAddr, to: PhysAddr) -> Result<(), CopyFault> {
        Unbacked.copy_page_out(from, to)
    }

    fn crc32c(&self, seed: u32, range: PhysRange) -> Result<u32, CopyFault> {
        Unbacked.crc32c(seed, range)
    }
}

impl CacheMaintenance for Counted {
    fn barrier_inner(&self) {}

    fn barrier_system(&self) {}

    fn clean_invalidate_tags(&self, range: PhysRange) {
        self.tagged.set(self.tagged.get() + range.len() / PAGE_SIZE);
    }

    fn clean_invalidate_data(&self, range: PhysRange) {
        self.frames.set(self.frames.get() + range.len() / PAGE_SIZE);
    }

    fn relax(&self) {
        unreachable!("nobody else writes");
    }
}

/// A caller with an interrupt pending all the time.
struct Interrupted;

impl Caller for Interrupted {
    fn cpu(&self) -> usize {
        0
    }

    fn interrupted(&self) -> bool {
        true
    }
}

/// What was found at one size.
pub struct Measured {
    mib: u32,
    regions: u32,
    pub metadata_a_frame: f64,
    /// Steps of making the service.
    setup: u64,
    /// KiB of metadata that making the service touched.
    touched: u64,
    /// Each call, with its most steps.
    calls: Vec<(&'static str, u64)>,
    /// Most frames and tagged pages of maintenance in one RECLAIM of a page.
    reclaim: (u64, u64),
    /// Most blocks in one ACTIVATE.
    activate: u64,
    /// Pages of a RECLAIM of everything that an interrupt ends.
    cut: u64,
    /// Nanoseconds: a put and a get of it, of random keys, and activation, a frame.
    wall: (f64, f64),
}

/// Memory that the kernel zeroes when it is first touched, for the life of the process.
fn lazy_memory(bytes: u64) -> NonNull<u8> {
    // SAFETY: a new mapping, which nothing else knows.
    let page = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes as usize,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    assert_ne!(page, libc::MAP_FAILED, "no {bytes} bytes of address space");
    NonNull::new(page.cast()).expect("not at 0")
}

/// Gives [`lazy_memory`] back.
fn give_back(memory: NonNull<u8>, bytes: u64) {
    // SAFETY: the whole of a mapping that is not used any more.
    unsafe { libc::munmap(memory.as_ptr().cast(), bytes as usize) };
}

/// KiB of this process that are resident.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4
}

/// Measures one size. `wall`: times too.
pub fn measure(probe: &Probe, mib: u32, count: u32, wall: bool) -> Measured {
    let frames = mib * 256;
    let regions = regions(frames, count);
    let bytes = Metadata::bytes_for(&regions);
    let memory = lazy_memory(bytes);
    // SAFETY: fresh zeroed pages of that size, for this stash alone, until the end of the block.
    let metadata = unsafe { Metadata::from_zeroed(memory, &regions) };
    let before = resident();
    let mut made = None;
    let ram = ram(frames);
    let again = regions.clone();
    let setup = probe.steps(|| {
        made = Some(Service::new(again, metadata, ram, CPUS, Counted::default()));
    });
    let touched = resident().saturating_sub(before);
    let service = made.expect("it was made");

    // One ACTIVATE, then the rest.
    let mut calls = vec![];
    let first = arguments(Function::Activate, [0, 0]);
    let mut activated = 0;
    calls.push(("ACTIVATE, one call", probe.steps(|| activated = succeed(&service, &first))));
    let start = cpu_time();
    activate(&service);
    let activation = (cpu_time() - start).as_nanos() as f64 / f64::from(frames);
    let pool = succeed(&service, &arguments(Function::PoolCreate, [12])) as u32;

    calls.extend(cache_calls(probe, &service, &metadata, pool));
    let (tag_calls, reclaim) = tag_calls(probe, &service, frames);
    calls.extend(tag_calls);
    let all = arguments(Function::Reclaim, [RAM, u64::from(frames) * 32]);
    let cut = service.call(&Interrupted, &all).0[1];
    let pair = if wall { pair_time(&service, pool, frames) } else { 0.0 };
    drop(service);
    give_back(memory, bytes);
    Measured {
        mib,
        regions: count,
        metadata_a_frame: bytes as f64 / f64::from(frames),
        setup,
        touched,
        calls,
        reclaim,
        activate: activated,
        cut,
        wall: (pair, activation),
    }
}

/// PUT, GET and the flushes of keys whose candidates go from empty to full.
fn cache_calls(
    probe: &Probe,
    service: &Service<'_, Counted>,
    metadata: &Metadata<'_>,
    pool: u32,
) -> Vec<(&'static str, u64)> {
    let mut most: Vec<(&'static str, u64)> = vec![];
    let mut note =
        |name: &'static str, steps: u64| match most.iter_mut().find(|(known, _)| *known == name) {
            Some((_, most)) => *most = steps.max(*most),
            None => most.push((name, steps)),
        };
    for subject in subjects(metadata, pool) {
        let measure = |function, expected: Status| {
            let rest = [u64::from(pool), 7, 8, 9, subject.index, guest_address(0).0, 1];
            let args = arguments(function, rest);
            let mut status = 0;
            let steps = probe.steps(|| status = call(service, 0, &args).0[0]);
            assert_eq!(status, expected as u64, "{function:?}");
            steps
        };
        let quickly = |function, index: u64| {
            let rest = [u64::from(pool), 7, 8, 9, index, guest_address(0).0, 1];
            succeed(service, &arguments(function, rest));
        };
        let (put, get, flush) = (Function::Put, Function::Get, Function::FlushPage);
        note("GET, a miss", measure(get, Status::Miss));
        note("PUT, all candidates are empty", measure(put, Status::Success));
        quickly(get, subject.index);
        for filler in &subject.fillers {
            // A page goes to one of its two sets only while the other one's frames are claimed.
            let claim = |function: Function| {
                for &frame in &filler.others {
                    let address = RAM + u64::from(frame) * 32 * PAGE_SIZE;
                    succeed(service, &arguments(function, [address, 1]));
                }
            };
            claim(Function::Reclaim);
            quickly(put, filler.index);
            claim(Function::Release);
        }
        let full = subject.frames.iter().all(|&f| metadata.load(f, Ordering::Relaxed).is_live());
        assert!(full, "the candidates of page {} are full", subject.index);
        note("GET, the candidates are full, a miss", measure(get, Status::Miss));
        note("FLUSH_PAGE, not there", measure(flush, Status::Success));
        note("PUT, evicts", measure(put, Status::Success));
        note("PUT, the key is there", measure(put, Status::Success));
        note("FLUSH_PAGE", measure(flush, Status::Success));
        for filler in subject.fillers.iter().step_by(STRIDE).skip(1) {
            // The page takes the frame whose last page is oldest, which is this one's.
            quickly(flush, filler.index);
            note("PUT, a frame is free", measure(put, Status::Success));
            note("GET, a hit", measure(get, Status::Success));
        }
    }
    let object = arguments(Function::FlushObject, [pool.into(), 7, 8, 9]);
    note("FLUSH_OBJECT", probe.steps(|| _ = succeed(service, &object)));
    let whole = arguments(Function::FlushPool, [pool.into()]);
    note("FLUSH_POOL", probe.steps(|| _ = succeed(service, &whole)));
    most
}

/// A page whose calls are measured.
struct Subject {
    index: u64,
    hash: u64,
    /// Its candidates.
    frames: [u32; CANDIDATES],
    /// Pages that fill them.
    fillers: Vec<Filler>,
}

/// A page that has one set in common with the page that is measured.
struct Filler {
    index: u64,
    /// The frames of its other set.
    others: [u32; WAYS],
}

/// The pages that are measured, all of one object.
fn subjects(metadata: &Metadata<'_>, pool: u32) -> Vec<Subject> {
    let object = Object { pool: PoolId(pool), words: [7, 8, 9] };
    let object_hash = object.hash();
    let hash = |index| PartKey { object, index, part: 0 }.hash(object_hash);
    let subject = |index| {
        let hash = hash(index);
        let candidates = metadata.candidates(hash);
        let frames = std::array::from_fn(|place| metadata.frame(&candidates.slot(place)));
        Subject { index, hash, frames, fillers: vec![] }
    };
    // The top bits of a hash's halves say where the sets are: no two pages have one in common.
    let lies_in =
        |index: u64, part: u64| [32, 0].iter().all(|s| hash(index) >> s >> 30 & 3 == part);
    let part = |part: u64| (0..).find(|&index| lies_in(index, part));
    let mut all: Vec<Subject> = (0..KEYS).filter_map(part).map(subject).collect();
    let next = all.iter().map(|subject| subject.index + 1).max().unwrap_or(0);
    for choice in 0..CHOICES {
        let first = choice * WAYS;
        for index in next.. {
            let candidates = metadata.candidates(hash(index));
            let set = metadata.frame(&candidates.slot(first));
            for subject in all.iter_mut().filter(|subject| subject.frames[first] == set) {
                let other = CHOICES - 1 - choice;
                let others: [u32; WAYS] =
                    std::array::from_fn(|way| metadata.frame(&candidates.slot(other * WAYS + way)));
                // Pages of equal fingerprint would be compared with it: left out, so that sizes
                // can be compared.
                let same = Fingerprint::of(hash(index)) == Fingerprint::of(subject.hash);
                let both = subject.frames.contains(&others[0]);
                if !same && !both && subject.fillers.len() < first + WAYS {
                    subject.fillers.push(Filler { index, others });
                }
            }
            if all.iter().all(|subject| subject.fillers.len() == first + WAYS) {
                break;
            }
        }
    }
    all
}

/// RECLAIM, RELEASE and QUERY, at the beginning, in the middle and at the end of RAM. Returns the
/// most maintenance of one RECLAIM of a page as well.
fn tag_calls(
    probe: &Probe,
    service: &Service<'_, Counted>,
    frames: u32,
) -> (Vec<(&'static str, u64)>, (u64, u64)) {
    let last = (u64::from(frames) - 1) * 32;
    let mut most: Vec<(&'static str, u64)> = vec![];
    let mut maintenance = (0, 0);
    for page in [0, last / 2 / 32 * 32, last] {
        let address = RAM + page * PAGE_SIZE;
        let script = [
            ("RECLAIM, takes the block", Function::Reclaim, address),
            ("RECLAIM, claimed already", Function::Reclaim, address),
            ("RECLAIM, another page of the block", Function::Reclaim, address + PAGE_SIZE),
            ("QUERY", Function::Query, address),
            ("RELEASE", Function::Release, address),
            ("RELEASE, the last of the block", Function::Release, address + PAGE_SIZE),
        ];
        for (name, function, address) in script {
            let machine = service.platform();
            machine.frames.set(0);
            machine.tagged.set(0);
            let args = arguments(function, [address, 1]);
            let steps = probe.steps(|| _ = succeed(service, &args));
            if function == Function::Reclaim {
                maintenance.0 = machine.frames.get().max(maintenance.0);
                maintenance.1 = machine.tagged.get().max(maintenance.1);
            }
            match most.iter_mut().find(|(known, _)| *known == name) {
                Some((_, most)) => *most = steps.max(*most),
                None => most.push((name, steps)),
            }
        }
    }
    (most, maintenance)
}

/// Nanoseconds of a put and a get of the same random key, each of them cold.
fn pair_time(service: &Service<'_, Counted>, pool: u32, frames: u32) -> f64 {
    const PAIRS: u64 = 200_000;
    let key = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let run = |function: Function, n: u64| {
        let rest = [u64::from(pool), 1, 2, 3, key(n), guest_address(0).0, 1];
        call(service, 0, &arguments(function, rest)).0[0]
    };
    // The pages of the stash are touched once, as far as it has so many.
    (0..PAIRS.min(frames.into())).for_each(|n| _ = run(Function::Put, n));
    let start = cpu_time();
    (0..PAIRS).for_each(|n| _ = run(Function::Put, n));
    (0..PAIRS).rev().for_each(|n| _ = run(Function::Get, n));
    (cpu_time() - start).as_nanos() as f64 / PAIRS as f64
}

/// Every rule, for all sizes with the same number of regions: what it is, and what breaks it.
pub fn check(all: &[Measured]) -> Vec<(String, Option<String>)> {
    let mut rules = vec![];
    let mut rule = |what: &str, broken: Vec<String>| {
        rules.push((what.to_string(), (!broken.is_empty()).then(|| broken.join("; "))));
    };
    let each = |wrong: &dyn Fn(&Measured) -> Option<String>| -> Vec<String> {
        all.iter().filter_map(|m| wrong(m).map(|why| format!("{} MiB: {why}", m.mib))).collect()
    };
    rule(
        &format!("metadata is at most {MOST_METADATA} bytes a frame"),
        each(&|m| {
            let bytes = m.metadata_a_frame;
            (bytes > MOST_METADATA).then(|| format!("{bytes:.3} bytes"))
        }),
    );
    rule(
        "making the service touches no metadata",
        each(&|m| (m.touched > 1024).then(|| format!("{} KiB", m.touched))),
    );
    rule(
        &format!("making the service takes at most {MOST_SETUP} steps"),
        each(&|m| (m.setup > MOST_SETUP).then(|| format!("{} steps", m.setup))),
    );
    for (number, (name, _)) in all[0].calls.iter().enumerate() {
        let steps: Vec<u64> = all.iter().map(|m| m.calls[number].1).collect();
        let grown = steps.windows(2).any(|pair| pair[1] > pair[0]);
        let broken = if grown { vec![format!("{steps:?} steps")] } else { vec![] };
        rule(&format!("{name}: no more steps in a larger stash"), broken);
    }
    rule(
        "RECLAIM of a page looks after one page and one frame",
        each(&|m| (m.reclaim != (1, 1)).then(|| format!("{:?}", m.reclaim))),
    );
    rule(
        &format!("ACTIVATE deals with at most {MOST_BLOCKS} blocks"),
        each(&|m| (m.activate > MOST_BLOCKS).then(|| format!("{}", m.activate))),
    );
    rule(
        &format!("a RECLAIM that is interrupted ends after at most {MOST_FRAMES} frames"),
        each(&|m| (m.cut > MOST_FRAMES * 32).then(|| format!("{} pages", m.cut))),
    );
    rules
}

/// Measures all sizes and reports. `Ok(true)` if every goal is met.
pub fn run(probe: &Probe, directory: &Path) -> Result<bool, String> {
    let mut report = Report::default();
    report.text("# What grows with the stash");
    report.text(&format!(
        "Columns are tag storage, 1/32 of RAM. Calls are the most instructions that one took on \
         this machine, for {KEYS} keys spread over the stash, or at the beginning, middle and end \
         of RAM; copies and cache maintenance are empty. Machine: {}.",
        machine(),
    ));
    let mut results = vec![];
    let mut last: Vec<Vec<(&'static str, u64)>> = vec![];
    for count in REGIONS {
        let all: Vec<Measured> = SIZES
            .iter()
            .map(|&mib| {
                eprintln!("measuring {mib} MiB in {count} region(s)");
                measure(probe, mib, count, true)
            })
            .collect();
        let plural = if count > 1 { "s" } else { "" };
        report.text(&format!("## {count} region{plural}"));
        report.text(&table(&all).markdown());
        for (what, broken) in check(&all) {
            let found = broken.as_ref().map_or(String::new(), |why| format!(" ({why})"));
            report.goal(format!("{what}, {count} region{plural}{found}"), broken.is_none());
        }
        last.push(all[all.len() - 1].calls.clone());
        results.extend(all.iter().map(Measured::json));
    }
    let mut table = Table::new(&["steps, 32 GiB", "1 region", "32 regions"]);
    for ((name, one), (_, many)) in last[0].iter().zip(&last[1]) {
        table.row(vec![(*name).to_string(), one.to_string(), many.to_string()]);
    }
    report.text("## Regions");
    report.text(&table.markdown());
    report.finish(directory, json!({ "machine": machine(), "results": results }))
}

/// All sizes side by side.
fn table(all: &[Measured]) -> Table {
    let sizes: Vec<String> = all
        .iter()
        .map(|m| match m.mib {
            mib if mib >= 1024 => format!("{} GiB", mib / 1024),
            mib => format!("{mib} MiB"),
        })
        .collect();
    let head: Vec<&str> = ["storage"].into_iter().chain(sizes.iter().map(String::as_str)).collect();
    let mut table = Table::new(&head);
    let mut row = |name: &str, cell: &dyn Fn(&Measured) -> String| {
        table.row([name.to_string()].into_iter().chain(all.iter().map(cell)).collect());
    };
    row("metadata, bytes a frame", &|m| format!("{:.3}", m.metadata_a_frame));
    row("metadata touched by set-up, KiB", &|m| m.touched.to_string());
    row("steps: set-up of the service", &|m| m.setup.to_string());
    for (number, (name, _)) in all[0].calls.iter().enumerate() {
        row(name, &|m| m.calls[number].1.to_string());
    }
    row("frames that RECLAIM of a page looks after", &|m| m.reclaim.0.to_string());
    row("blocks in one ACTIVATE", &|m| m.activate.to_string());
    row("pages of an interrupted RECLAIM of all RAM", &|m| m.cut.to_string());
    row("information: activation, ns of CPU time a frame", &|m| format!("{:.0}", m.wall.1));
    row("information: put and get of a cold key, ns of CPU time", &|m| format!("{:.0}", m.wall.0));
    table
}

impl Measured {
    fn json(&self) -> Value {
        let calls: serde_json::Map<String, Value> =
            self.calls.iter().map(|(name, steps)| ((*name).to_string(), json!(steps))).collect();
        json!({
            "storage MiB": self.mib,
            "regions": self.regions,
            "metadata bytes a frame": self.metadata_a_frame,
            "metadata touched by set-up KiB": self.touched,
            "steps of set-up": self.setup,
            "steps": calls,
            "frames of a RECLAIM of a page": self.reclaim.0,
            "blocks of an ACTIVATE": self.activate,
            "pages of an interrupted RECLAIM of all RAM": self.cut,
            "ns of a put and a get": self.wall.0,
            "ns of activation a frame": self.wall.1,
        })
    }
}
