// SPDX-License-Identifier: MIT OR Apache-2.0
//! The suite: small workloads with the goals as assertions, the parts of the tool on cases that
//! can be checked by hand, and how much a goal is worth: that broken designs miss it.

use crate::associative::{Design, Eviction, Flushes, Free, Sets, Table};
use crate::cache::{self, Cache, Outcome};
use crate::cases;
use crate::ideal::{Fifo, Ideal, Pinned, Random, Sieve};
use crate::offline;
use crate::row::{GAP, Row, Verdict};
use crate::trace::Operation::{Claim, FlushFile, FlushPage, Get, Put, Release};
use crate::trace::{Operation, Trace};
use crate::workload::{Kind, Workload};
use std::sync::OnceLock;
use std::thread;
use tagstash::stash::pool::PoolId;

/// The rows of the suite, run once for all tests.
fn rows() -> &'static [Row] {
    static ROWS: OnceLock<Vec<Row>> = OnceLock::new();
    ROWS.get_or_init(|| {
        let run = |workload: Workload| move || Row::run(workload, cases::known(&workload));
        let threads: Vec<_> = cases::suite().into_iter().map(run).map(thread::spawn).collect();
        threads.into_iter().map(|thread| thread.join().expect("a row ran")).collect()
    })
}

/// Two files of four pages each: pages 0 to 3, and 4 to 7.
fn trace(frames: u32, operations: &[Operation]) -> Trace {
    let mut trace = Trace { frames, operations: operations.to_vec(), ..Trace::default() };
    trace.add_file(4);
    trace.add_file(4);
    trace
}

fn hits(outcome: Outcome) -> u64 {
    outcome.hits
}

/// Hits of LRU, of the same with pages that cannot move, of SIEVE with memory, and offline.
fn all_hits(trace: &Trace) -> [u64; 4] {
    [
        hits(cache::run(trace, &mut Ideal::new(trace, Fifo::new(trace)))),
        hits(cache::run(trace, &mut Pinned::new(trace))),
        hits(cache::run(trace, &mut Ideal::new(trace, Sieve::new(trace)))),
        hits(offline::run(trace)),
    ]
}

#[test]
fn every_goal_is_met() {
    let mut text = String::new();
    for row in rows() {
        text += &format!(
            "{}: {:.1} % of gets hit, the best {:.1} %, fill {:.1} %: {}\n",
            row.workload,
            row.stash.rate(),
            row.best(),
            row.fill(),
            row.verdict().word()
        );
    }
    println!("{text}");
    assert!(rows().iter().all(|row| row.verdict() != Verdict::Missed), "\n{text}");
}

#[test]
fn few_workloads_are_known_to_miss_the_goal() {
    let known = rows().iter().filter(|row| row.verdict() == Verdict::Known).count();
    assert!(known <= 2, "{known} of {}", rows().len());
}

/// A run of which too few gets hit would prove nothing.
#[test]
fn enough_gets_hit_and_no_put_is_refused() {
    for row in rows() {
        let Outcome { gets, .. } = row.stash;
        assert!(gets >= 4 * u64::from(row.workload.frames), "{}: {gets} gets", row.workload);
        assert!(row.stash.rate() >= 8.0, "{}: {:.1} %", row.workload, row.stash.rate());
        assert_eq!(row.refused, 0, "{}", row.workload);
    }
}

#[test]
fn flushes_of_other_files_cost_few_hits() {
    for row in rows() {
        let lost = row.exact.rate() - row.stash.rate();
        let most = if row.workload.kind == Kind::Files { 1.0 } else { 0.0 };
        assert!(lost <= most, "{}: {lost:.2} points", row.workload);
    }
}

#[test]
fn the_model_answers_as_the_stash_does() {
    for row in rows() {
        assert!(row.modelled, "{}: is Design::REAL what the stash does?", row.workload);
    }
}

#[test]
fn nobody_beats_the_offline_bound() {
    for row in rows() {
        for outcome in [row.stash, row.lru, row.pinned, row.random, row.sieve, row.exact] {
            assert!(outcome.hits <= row.offline.hits, "{}", row.workload);
        }
    }
}

/// What the goal is worth: designs that are worse miss it.
#[test]
fn other_rules_of_eviction_miss_the_goal() {
    let workload = cases::suite().into_iter().find(|w| w.kind == Kind::Zipf(1.2)).expect("a row");
    let trace = workload.trace();
    let best = cache::run(&trace, &mut Ideal::new(&trace, Fifo::new(&trace))).rate();
    for eviction in [Eviction::Random, Eviction::First] {
        let design = Design { eviction, ..Design::REAL };
        let rate = cache::run(&trace, &mut Table::new(&trace, design, PoolId(0))).rate();
        assert!(best - rate > GAP, "{eviction:?}: {rate:.1} beside {best:.1}");
    }
}

#[test]
fn workloads_are_the_same_every_time() {
    for workload in cases::suite() {
        let [one, two] = [workload.trace(), workload.trace()];
        assert!(one.operations == two.operations && one.files == two.files, "{workload}");
        let other = Workload { seed: 2, ..workload }.trace();
        let by_chance = !matches!(workload.kind, Kind::Loop(_));
        assert_eq!(one.operations != other.operations, by_chance, "{workload}");
    }
}

/// The guest puts what it does not have, and asks for what neither it nor the stash must have.
#[test]
fn a_page_is_in_the_page_cache_or_in_the_stash() {
    for workload in cases::suite() {
        let trace = workload.trace();
        let mut cached = vec![false; trace.pages()];
        for &operation in &trace.operations {
            match operation {
                Get(page) => assert!(!std::mem::replace(&mut cached[page as usize], true)),
                Put(page) => assert!(std::mem::replace(&mut cached[page as usize], false)),
                FlushPage(page) => cached[page as usize] = false,
                _ => {}
            }
        }
        assert!(trace.warm_up > 0 && trace.warm_up < trace.operations.len(), "{workload}");
    }
}

#[test]
fn claims_come_in_bursts_and_do_not_overlap() {
    let workload = cases::suite().into_iter().find(|w| w.claims).expect("a row");
    let trace = workload.trace();
    let mut taken = vec![false; trace.frames as usize];
    let (mut least, mut most) = (usize::MAX, 0);
    for (number, &operation) in trace.operations.iter().enumerate() {
        let (frames, taking) = match operation {
            Claim(first, count) => (first..first + count, true),
            Release(first, count) => (first..first + count, false),
            _ => continue,
        };
        for frame in frames {
            assert_eq!(std::mem::replace(&mut taken[frame as usize], taking), !taking);
        }
        let count = taken.iter().filter(|&&taken| taken).count();
        most = most.max(count);
        if number > trace.warm_up {
            least = least.min(count);
        }
    }
    let percent = |count| count * 100 / trace.frames as usize;
    assert!((40..50).contains(&percent(most)) && percent(least) <= 5, "{least} to {most}");
}

#[test]
fn lru_drops_the_oldest_and_foresight_what_is_needed_last() {
    // Two frames. LRU drops page 0; what is needed last is page 1.
    let operations = [Put(0), Put(1), Put(2), Get(0), Get(2), Put(3), Put(4), Get(1)];
    assert_eq!(all_hits(&trace(2, &operations)), [1, 1, 1, 2]);
}

#[test]
fn a_hit_removes_and_so_do_flushes() {
    for operations in [
        [Put(0), Get(0), Get(0), Get(4)],
        [Put(0), FlushPage(0), Put(5), Get(5)],
        [Put(0), FlushFile(0), Get(0), Get(1)],
    ] {
        let expected = u64::from(!operations.contains(&FlushFile(0)));
        let trace = trace(2, &operations);
        assert_eq!(all_hits(&trace), [expected; 4]);
        for flushes in [Flushes::Exact, Design::REAL.flushes] {
            let mut table = Table::new(&trace, Design { flushes, ..Design::REAL }, PoolId(0));
            assert_eq!(hits(cache::run(&trace, &mut table)), expected);
        }
    }
    // Another file's pages stay.
    assert_eq!(all_hits(&trace(2, &[Put(0), Put(4), FlushFile(1), Get(0)])), [1; 4]);
}

#[test]
fn a_claim_takes_a_frame_with_its_page_or_the_oldest_page() {
    // Two frames: LRU gives up the oldest page, one that cannot move what lies in the frame.
    // Of pages 0 and 1 one must go, and with foresight it is the one that is not asked for.
    for (page, lru) in [(0, 0), (1, 1)] {
        let operations = [Put(0), Put(1), Claim(0, 1), Get(page), Release(0, 1), Put(2), Get(2)];
        let [moving, still, _, offline] = all_hits(&trace(2, &operations));
        assert_eq!((moving, offline), (lru + 1, 2));
        assert!((1..=2).contains(&still));
    }
    let operations = [Put(0), Put(1), Claim(0, 1), Get(0), Get(1)];
    assert_eq!(all_hits(&trace(2, &operations))[1], 1);
    let operations = [Claim(0, 2), Put(0), Get(0), Release(0, 2), Put(0), Get(0)];
    assert_eq!(all_hits(&trace(2, &operations)), [1; 4]);
}

#[test]
fn sieve_spares_what_was_found_before() {
    // Page 0 is found, comes again, and is spared once.
    let operations = [Put(0), Get(0), Put(0), Put(1), Put(2), Get(0)];
    assert_eq!(all_hits(&trace(2, &operations))[..3], [1, 1, 2]);
}

#[test]
fn a_random_cache_holds_what_fits_and_never_more() {
    let operations = [Put(0), Put(1), Put(2), Get(0), Get(1), Get(2)];
    let run = |frames| {
        let trace = trace(frames, &operations);
        hits(cache::run(&trace, &mut Ideal::new(&trace, Random::new(&trace))))
    };
    assert_eq!([run(1), run(2), run(3)], [1, 2, 3]);
}

/// All ways to keep and to give up, for short traces.
fn best_by_search(operations: &[Operation], capacity: usize, held: &[u32]) -> u64 {
    let Some((&operation, rest)) = operations.split_first() else { return 0 };
    let without = |page: u32| held.iter().copied().filter(move |&other| other != page).collect();
    match operation {
        Put(page) => {
            let mut all: Vec<u32> = without(page);
            all.push(page);
            if all.len() <= capacity {
                return best_by_search(rest, capacity, &all);
            }
            (0..all.len())
                .map(|n| {
                    let mut fewer = all.clone();
                    fewer.remove(n);
                    best_by_search(rest, capacity, &fewer)
                })
                .max()
                .unwrap_or(0)
        }
        Get(page) => {
            let fewer: Vec<u32> = without(page);
            u64::from(held.contains(&page)) + best_by_search(rest, capacity, &fewer)
        }
        FlushPage(page) => best_by_search(rest, capacity, &without(page)),
        _ => best_by_search(rest, capacity, held),
    }
}

#[test]
fn foresight_is_as_good_as_the_best_of_all_choices() {
    let mut state = 1u64;
    let mut random = move |end: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % end
    };
    for _ in 0..300 {
        let operations: Vec<Operation> = (0..16)
            .map(|_| {
                let page = random(6) as u32;
                match random(9) {
                    0..4 => Put(page),
                    4..8 => Get(page),
                    _ => FlushPage(page),
                }
            })
            .collect();
        let trace = trace(2, &operations);
        assert_eq!(
            hits(offline::run(&trace)),
            best_by_search(&operations, 2, &[]),
            "{operations:?}"
        );
    }
}

/// What a set may hold is what it holds.
#[test]
fn the_model_fills_every_frame_whatever_its_sets() {
    let mut long = Trace { frames: 64, ..Trace::default() };
    long.add_file(4096);
    let model = |ways, sets, free| {
        Table::new(&long, Design { ways, sets, free, ..Design::REAL }, PoolId(0))
    };
    for (ways, sets) in [
        (4, Sets::One),
        (16, Sets::One),
        (4, Sets::OneOfEachHalf),
        (8, Sets::OneOfEachHalf),
        (8, Sets::AnyTwo),
    ] {
        for free in [Free::ByWord, Free::EmptierSet] {
            let mut table = model(ways, sets, free);
            for page in 0..4096 {
                table.put(page);
            }
            assert_eq!(table.held(), 64, "{ways} {sets:?} {free:?}");
            table.claim(0, 32);
            assert_eq!(table.held(), 32, "{ways} {sets:?} {free:?}");
            table.release(0, 32);
            for page in 0..4096 {
                table.put(page);
            }
            assert_eq!(table.held(), 64, "{ways} {sets:?} {free:?}");
        }
    }
    // With a choice of two sets a table fills sooner, and soonest from the emptier one.
    let filled = |sets, free| {
        let mut table = model(4, sets, free);
        (0..64).for_each(|page| table.put(page));
        table.held()
    };
    let [one, two] = [Sets::One, Sets::OneOfEachHalf].map(|sets| filled(sets, Free::ByWord));
    assert!(one < two && two <= filled(Sets::OneOfEachHalf, Free::EmptierSet));
}
