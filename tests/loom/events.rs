// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ring of events under the model checker: two CPUs that write, one of them all the way round
//! its ring, and a reader.

use crate::cases::{Body, Case};
use crate::race::{at_once, check};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tagstash::events::{DEPTH, Event, Events, Found, Kind};

/// The words of an event that CPU `cpu` writes as its `n`th: each says both.
fn words(cpu: usize, n: u64) -> (u64, u64) {
    let word = (cpu as u64 + 1) << 8 | n;
    (word << 16, word << 32)
}

/// All of them, with the bounds they have.
pub fn cases() -> Vec<Case> {
    let case = |name: &str, why: &str, check| Case {
        group: "events".to_owned(),
        name: format!("events/{name}"),
        body: Body::Check(check),
        least: 0,
        test_least: Some(0),
        why: why.to_owned(),
    };
    vec![
        case(
            "whole, in order (bound 1)",
            "two CPUs that note events and one that reads them",
            events_are_found_whole_and_in_order,
        ),
        case(
            "on their way (bound 3)",
            "an event on its way is not taken for one that is gone",
            events_on_their_way_are_waited_for,
        ),
    ]
}

/// Checks that an event is of one piece; returns its CPU and which of that CPU's it is.
fn place(event: Event) -> (usize, u64) {
    let cpu = usize::from(event.cpu);
    let n = event.time >> 16 & 0xff;
    assert_eq!((event.time, event.argument), words(cpu, n), "{event:?} is of two pieces");
    (cpu, n)
}

/// What two writers write, a reader finds whole, in each CPU's order, and nothing twice. What
/// it passes by is older than the last [`DEPTH`] of its CPU.
fn events_are_found_whole_and_in_order() -> usize {
    const CPU_0: u64 = DEPTH as u64 + 1;
    let found = Arc::new([const { AtomicUsize::new(0) }; 3]);
    let counts = found.clone();
    let executions = check(1, move || {
        let events = Rc::new(Events::new(2));
        // One is there before, so that the reader meets an entry that is written again.
        let (time, argument) = words(0, 0);
        events.note(0, time, Kind::CopyFault, argument);
        let (shared, counts) = (events.clone(), counts.clone());
        at_once(3, move |thread| match thread {
            cpu @ (0 | 1) => {
                let more = if cpu == 0 { 1..CPU_0 } else { 0..1 };
                for n in more {
                    let (time, argument) = words(cpu, n);
                    shared.note(cpu, time, Kind::CopyFault, argument);
                }
            }
            _ => {
                let mut from = 0;
                let mut least = [0; 2];
                let mut seen = 0;
                for _ in 0..2 {
                    match shared.first_from(from) {
                        Found::Event(event) => {
                            let (cpu, n) = place(event);
                            assert!(event.number >= from && n >= least[cpu], "{event:?}");
                            least[cpu] = n + 1;
                            from = event.number + 1;
                            seen += 1;
                        }
                        Found::Later(next) => {
                            assert!(next >= from, "sent back to {next}");
                            from = next;
                        }
                    }
                }
                counts[seen].fetch_add(1, Relaxed);
            }
        });
        // All is quiet: the last DEPTH of CPU 0 and the one of CPU 1 are there.
        let mut from = 0;
        let mut left = [0; 2];
        while let Found::Event(event) = events.first_from(from) {
            left[place(event).0] += 1;
            from = event.number + 1;
        }
        assert_eq!((left, from), ([DEPTH, 1], CPU_0 + 1));
    });
    let seen: Vec<usize> = found.iter().map(|count| count.load(Relaxed)).collect();
    // Races were met: in some the reader found nothing new, in others much.
    assert!(seen.iter().filter(|count| **count != 0).count() >= 2, "{seen:?}");
    executions
}

/// A reader that goes past a number has seen its event, unless it is overwritten: an event on its
/// way is not taken for one that is gone.
fn events_on_their_way_are_waited_for() -> usize {
    check(3, || {
        let events = Rc::new(Events::new(2));
        let shared = events.clone();
        at_once(3, move |thread| match thread {
            cpu @ (0 | 1) => {
                let (time, argument) = words(cpu, 0);
                shared.note(cpu, time, Kind::CopyFault, argument);
            }
            _ => {
                // Nobody overwrites, so what is found first is number 0.
                match shared.first_from(0) {
                    Found::Event(event) => {
                        place(event);
                        assert_eq!(event.number, 0, "passed by an event on its way");
                    }
                    Found::Later(next) => assert_eq!(next, 0, "passed by {next} events"),
                }
            }
        });
    })
}
