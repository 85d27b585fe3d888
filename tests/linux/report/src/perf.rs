// SPDX-License-Identifier: MIT OR Apache-2.0
//! Performance counters: which events there are, whether they count in programs and in the kernel,
//! how many counters count at once, and that they interrupt when they overflow.

use core::array;
use linux_program::println;

use crate::sys::{self, Errno};

/// struct perf_event_attr, version 0 (include/uapi/linux/perf_event.h).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    config1: u64,
}

const PERF_TYPE_HARDWARE: u32 = 0;
const PERF_TYPE_RAW: u32 = 4;
/// PERF_FORMAT_TOTAL_TIME_ENABLED and PERF_FORMAT_TOTAL_TIME_RUNNING.
const TIMES: u64 = 3;
const DISABLED: u64 = 1 << 0;
const PINNED: u64 = 1 << 2;
const EXCLUDE_USER: u64 = 1 << 4;
const EXCLUDE_KERNEL: u64 = 1 << 5;
const EXCLUDE_HYPERVISOR: u64 = 1 << 6;
const ENABLE: u64 = 0x2400;
const DISABLE: u64 = 0x2401;
/// The ioctl is for the whole group.
const GROUP: u64 = 1;

/// PERF_COUNT_HW_CPU_CYCLES.
const CYCLES: u64 = 0;
/// CPU_CYCLES as the PMU numbers it.
const RAW_CYCLES: u64 = 0x11;
/// The generic events, by number.
const EVENTS: [&str; 10] = [
    "cycles",
    "instructions",
    "cache references",
    "cache misses",
    "branches",
    "branch misses",
    "bus cycles",
    "stalled in front",
    "stalled behind",
    "reference cycles",
];
/// More counters than a PMU has.
const MOST_COUNTERS: usize = 40;
/// How often an event is to overflow, and how many cycles lie between.
const OVERFLOWS: u64 = 8;
const PERIOD: u64 = 1_000_000;
/// Most rounds of work that are done for that.
const MOST_ROUNDS: u64 = 100_000;

/// Opens an event of this process.
fn open(kind: u32, config: u64, flags: u64, period: u64, group: Option<u64>) -> sys::Result<u64> {
    let attributes = Attributes {
        kind,
        size: size_of::<Attributes>() as u32,
        config,
        sample_period: period,
        read_format: TIMES,
        flags,
        ..Attributes::default()
    };
    sys::perf_event_open(&attributes, group)
}

/// What an event came to.
struct Count {
    events: u64,
    /// How long it was to count, and how long it had a counter.
    enabled: u64,
    running: u64,
}

fn read(event: u64) -> Count {
    let mut words = [0; 3];
    // A pinned event that got no counter reads as nothing.
    let _ = sys::read_words(event, &mut words);
    let [events, enabled, running] = words;
    Count { events, enabled, running }
}

/// Work for programs, and for the kernel.
fn work() {
    for round in 0..2000_u64 {
        core::hint::black_box(round);
    }
    sys::own_id();
}

/// Counts while some work is done.
fn count(event: u64) -> Count {
    let _ = sys::ioctl(event, ENABLE, 0);
    for _ in 0..200 {
        work();
    }
    let _ = sys::ioctl(event, DISABLE, 0);
    read(event)
}

/// Prints what there is on this CPU, which is number `cpu`.
pub fn print(cpu: u64) {
    for (config, name) in (0..).zip(EVENTS) {
        say(cpu, name, open(PERF_TYPE_HARDWARE, config, DISABLED, 0, None));
    }
    for (name, flags) in [
        ("cycles of programs", EXCLUDE_KERNEL | EXCLUDE_HYPERVISOR),
        ("cycles of the kernel", EXCLUDE_USER | EXCLUDE_HYPERVISOR),
        ("cycles but of a hypervisor", EXCLUDE_HYPERVISOR),
    ] {
        say(cpu, name, open(PERF_TYPE_HARDWARE, CYCLES, DISABLED | flags, 0, None));
    }
    counters(cpu);
    overflows(cpu);
}

/// Prints whether an event counts, and closes it.
fn say(cpu: u64, name: &str, event: sys::Result<u64>) {
    match event {
        Ok(event) => {
            let count = count(event);
            let what = match (count.events, count.running) {
                (_, 0) => "gets no counter",
                (0, _) => "counts nothing",
                _ => "counts",
            };
            println!("# perf: cpu {cpu} {name}: {what}");
            sys::close(event);
        }
        Err(Errno(error)) => println!("# perf: cpu {cpu} {name}: error {error}"),
    }
}

/// Prints how many events can count at once, and how many of them do.
fn counters(cpu: u64) {
    let mut events: [Option<u64>; MOST_COUNTERS] = [None; MOST_COUNTERS];
    let mut opened = 0;
    for slot in 0..MOST_COUNTERS {
        let leader = events[0];
        let flags = if leader.is_none() { PINNED } else { 0 };
        // The kernel takes no more than there are counters for. A group that is disabled would need
        // none, so this one counts from the beginning.
        let Ok(event) = open(PERF_TYPE_RAW, RAW_CYCLES, flags, 0, leader) else { break };
        events[slot] = Some(event);
        opened += 1;
    }
    let mut counting = 0;
    if let Some(leader) = events[0] {
        for _ in 0..200 {
            work();
        }
        let _ = sys::ioctl(leader, DISABLE, GROUP);
        let counts: [Option<Count>; MOST_COUNTERS] = array::from_fn(|slot| events[slot].map(read));
        let all_the_time = |count: &&Count| {
            count.events > 0 && count.enabled == count.running && count.running > 0
        };
        counting = counts.iter().flatten().filter(all_the_time).count();
    }
    println!("# perf: cpu {cpu} counters at once: {opened}, of which count: {counting}");
    for event in events.into_iter().flatten() {
        sys::close(event);
    }
}

/// Lets an event overflow, which /proc/interrupts shows.
fn overflows(cpu: u64) {
    let Ok(event) = open(PERF_TYPE_HARDWARE, CYCLES, DISABLED, PERIOD, None) else {
        println!("# perf: cpu {cpu} sampling: refused");
        return;
    };
    let _ = sys::ioctl(event, ENABLE, 0);
    let mut rounds = 0;
    while read(event).events < OVERFLOWS * PERIOD && rounds < MOST_ROUNDS {
        work();
        rounds += 1;
    }
    let _ = sys::ioctl(event, DISABLE, 0);
    let what = if rounds < MOST_ROUNDS { "counts" } else { "counts too little" };
    println!("# perf: cpu {cpu} sampling: {what}");
    sys::close(event);
}
