// SPDX-License-Identifier: MIT OR Apache-2.0
//! What happened lately, for the guest to ask: the console is the guest's once it runs, so the
//! shim notes rare events in memory and a call reads them.
//!
//! Each CPU has a ring of its own, which it alone writes, so that a writer never waits, loses
//! nothing but what is older than its last [`DEPTH`] events, and a storm on one CPU leaves the
//! others' events alone. One counter numbers the events of all CPUs.
//!
//! # Ordering
//!
//! An entry has a mark: odd while it is written, twice the event's number plus 2 when it is whole.
//!
//! | writer | reader |
//! | --- | --- |
//! | 1. mark odd (relaxed) | 1. load the counter (acquire): events below it are numbered |
//! | 2. draw a number (release) | 2. load a mark (acquire), the entry (relaxed) |
//! | 3. fence (release), then the entry (relaxed) | 3. fence (acquire), load the mark again (relaxed) |
//! | 4. mark whole (release) | 4. equal and even: the entry is of one piece |
//!
//! Writer 2 and reader 1: a reader that knows a number sees its entry being written, or whole, or
//! overwritten, never untouched. So it cannot take an event that is on its way for one that is
//! gone: where any mark is odd, it does not go past the number that was asked for. Writer 3 and
//! reader 3: who reads a new word sees the mark odd, or newer.

use crate::sync::{AtomicU64, Ordering, fence};
use alloc::vec::Vec;

/// Events that each CPU keeps. (The model checker needs few steps.)
pub const DEPTH: usize = if cfg!(loom) { 2 } else { 32 };

/// What happened; the number is the ABI's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The guest was entered on the first CPU; the argument is where.
    GuestEntered = 1,
    /// A CPU that CPU_ON started came to the guest; the argument is where.
    CpuStarted = 2,
    /// An external abort was given to the guest; the argument is the guest-physical address.
    AbortInjected = 3,
    /// An undefined-instruction exception was given to the guest; the argument is ESR_EL2.
    UndefinedInjected = 4,
    /// An external abort ended a copy; the argument is the address of the guest's page.
    CopyFault = 5,
    /// A page failed verification; the argument is the address that it was to be copied to.
    Mismatch = 6,
    /// ACTIVATE came to its end; the argument is its flags.
    Activated = 7,
    /// DEACTIVATE came to its end.
    Deactivated = 8,
    /// POOL_CREATE made or found a pool; the argument is its id.
    PoolCreated = 9,
    /// POOL_DESTROY destroyed a pool; the argument is its id.
    PoolDestroyed = 10,
    /// A PSCI or SDEI call was kept from firmware; the argument is its function number.
    CallRefused = 11,
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its number, from 0 at boot, over all CPUs.
    pub number: u64,
    /// When, in ticks of the caller's counter.
    pub time: u64,
    /// The CPU it happened on.
    pub cpu: u8,
    /// The number of its [`Kind`].
    pub kind: u8,
    /// What the kind says.
    pub argument: u64,
}

/// What a reader gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The first event that is still there, of the number asked for or a later one.
    Event(Event),
    /// None now; ask again for this number.
    Later(u64),
}

/// An entry that is being written has this mark.
const BUSY: u64 = 1;

/// The mark of the entry of event `number`.
const fn whole(number: u64) -> u64 {
    (number << 1).wrapping_add(2)
}

#[derive(Debug)]
struct Entry {
    mark: AtomicU64,
    time: AtomicU64,
    kind: AtomicU64,
    argument: AtomicU64,
}

/// What one entry holds.
enum Held {
    /// Nothing yet.
    Nothing,
    /// Something that is being written.
    Busy,
    /// An event: number, time, kind, argument.
    Event(u64, u64, u64, u64),
}

impl Entry {
    fn new() -> Entry {
        Entry {
            mark: AtomicU64::new(0),
            time: AtomicU64::new(0),
            kind: AtomicU64::new(0),
            argument: AtomicU64::new(0),
        }
    }

    fn read(&self) -> Held {
        let mark = self.mark.load(Ordering::Acquire);
        if mark == 0 {
            return Held::Nothing;
        }
        if mark & BUSY != 0 {
            return Held::Busy;
        }
        let time = self.time.load(Ordering::Relaxed);
        let kind = self.kind.load(Ordering::Relaxed);
        let argument = self.argument.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        if self.mark.load(Ordering::Relaxed) != mark {
            return Held::Busy;
        }
        Held::Event((mark - 2) >> 1, time, kind, argument)
    }
}

/// One CPU's ring.
#[derive(Debug)]
#[repr(align(128))]
struct Ring {
    /// Events so far. Its CPU's alone.
    written: AtomicU64,
    entries: [Entry; DEPTH],
}

/// The events of all CPUs.
#[derive(Debug)]
pub struct Events {
    /// The number of the next event.
    next: AtomicU64,
    rings: Vec<Ring>,
}

impl Events {
    /// Makes rings for `cpus` CPUs, at least one.
    pub fn new(cpus: usize) -> Events {
        let ring =
            || Ring { written: AtomicU64::new(0), entries: core::array::from_fn(|_| Entry::new()) };
        Events { next: AtomicU64::new(0), rings: (0..cpus.max(1)).map(|_| ring()).collect() }
    }

    /// Notes an event of CPU `cpu`, which is the one that calls. EL2 is not preempted, so a CPU
    /// writes one event at a time.
    #[inline(always)]
    pub fn note(&self, cpu: usize, time: u64, kind: Kind, argument: u64) {
        let ring = &self.rings[cpu % self.rings.len()];
        let written = ring.written.load(Ordering::Relaxed);
        ring.written.store(written.wrapping_add(1), Ordering::Relaxed);
        let entry = &ring.entries[written as usize % DEPTH];
        entry.mark.store(BUSY, Ordering::Relaxed);
        let number = self.next.fetch_add(1, Ordering::Release);
        fence(Ordering::Release);
        entry.time.store(time, Ordering::Relaxed);
        entry.kind.store(kind as u64, Ordering::Relaxed);
        entry.argument.store(argument, Ordering::Relaxed);
        entry.mark.store(whole(number), Ordering::Release);
    }

    /// Finds the first event from number `wanted` on. Never waits: an event that is being written
    /// is one for later.
    pub fn first_from(&self, wanted: u64) -> Found {
        let next = self.next.load(Ordering::Acquire);
        if wanted >= next {
            return Found::Later(next);
        }
        let mut busy = false;
        let mut first: Option<Event> = None;
        for (cpu, ring) in self.rings.iter().enumerate() {
            for entry in &ring.entries {
                match entry.read() {
                    Held::Nothing => {}
                    Held::Busy => busy = true,
                    // A number that was drawn after `next` was loaded may have older ones on
                    // their way that this scan has not seen.
                    Held::Event(number, time, kind, argument) => {
                        let nearer = first.is_none_or(|first| number < first.number);
                        if (wanted..next).contains(&number) && nearer {
                            let (cpu, kind) = (cpu as u8, kind as u8);
                            first = Some(Event { number, time, cpu, kind, argument });
                        }
                    }
                }
            }
        }
        match first {
            Some(event) if event.number == wanted || !busy => Found::Event(event),
            _ if busy => Found::Later(wanted),
            _ => Found::Later(next),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn all(events: &Events, mut from: u64) -> Vec<Event> {
        let mut found = Vec::new();
        while let Found::Event(event) = events.first_from(from) {
            from = event.number + 1;
            found.push(event);
        }
        found
    }

    #[test]
    fn events_come_back_in_order_and_whole() {
        let events = Events::new(2);
        assert_eq!(events.first_from(0), Found::Later(0));
        assert_eq!(events.first_from(u64::MAX), Found::Later(0));
        for n in 0..20 {
            events.note(n as usize % 2, 100 + n, Kind::CopyFault, n << 32);
        }
        let wanted: Vec<Event> = (0..20)
            .map(|n| Event {
                number: n,
                time: 100 + n,
                cpu: n as u8 % 2,
                kind: 5,
                argument: n << 32,
            })
            .collect();
        assert_eq!(all(&events, 0), wanted);
        assert_eq!(all(&events, 17), wanted[17..]);
        assert_eq!(events.first_from(20), Found::Later(20));
    }

    #[test]
    fn a_storm_on_one_cpu_leaves_the_others_events_alone() {
        let events = Events::new(3);
        events.note(0, 1, Kind::GuestEntered, 2);
        for n in 0..1000 {
            events.note(1, n, Kind::AbortInjected, n);
        }
        events.note(2, 3, Kind::CpuStarted, 4);
        let found = all(&events, 0);
        assert_eq!(found.len(), DEPTH + 2);
        assert_eq!((found[0].number, found[0].cpu, found[0].kind), (0, 0, 1));
        assert_eq!(found[1].number, 1001 - DEPTH as u64);
        assert_eq!(found[DEPTH + 1].number, 1001);
    }

    #[test]
    fn an_event_that_is_being_written_is_one_for_later() {
        let events = Events::new(2);
        events.note(0, 0, Kind::Activated, 0);
        // CPU 1 has drawn number 1 and is not done; CPU 0 has gone on.
        events.rings[1].entries[0].mark.store(BUSY, Ordering::Relaxed);
        assert_eq!(events.next.fetch_add(1, Ordering::Relaxed), 1);
        events.note(0, 0, Kind::Activated, 2);
        assert!(matches!(events.first_from(0), Found::Event(Event { number: 0, .. })));
        assert_eq!(events.first_from(1), Found::Later(1));
        assert!(matches!(events.first_from(2), Found::Event(Event { number: 2, .. })));
        events.rings[1].entries[0].mark.store(whole(1), Ordering::Relaxed);
        assert!(matches!(events.first_from(1), Found::Event(Event { number: 1, cpu: 1, .. })));
    }
}
