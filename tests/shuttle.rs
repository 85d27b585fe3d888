// SPDX-License-Identifier: MIT OR Apache-2.0
//! Long histories under randomised schedules: two to four CPUs with hundreds of calls each, through
//! `Service::call`, on a machine whose tag storage really aliases; every access to a shared word, and
//! every half chunk of a copy, is a place where another CPU may go on.
//!
//! Run with `make schedules`; a seed tells all of an execution. What is checked:
//!
//! * each key's calls, exactly: that each can have taken effect at one instant (`history`);
//! * that a page is all of one put; that nothing is written into a frame whose tags are in use, whose
//!   lines are clean; that tags stay as they were stored;
//! * that a claim waits for one chunk of a put at most, and its reply where the pages have an owner;
//! * that pools are found while they live and only then;
//! * when all is quiet: each page's claim, each block's count, every frame's return, and that nothing
//!   is refused any more;
//! * that enough gets hit, or the rest means little.
//!
//! Shuttle's executions are sequentially consistent. What weaker orders allow is not seen here.

#![cfg(shuttle)]

#[path = "shuttle/campaign.rs"]
mod campaign;
#[path = "shuttle/guest.rs"]
mod guest;
#[path = "shuttle/history.rs"]
mod history;
#[path = "shuttle/machine.rs"]
mod machine;
#[path = "shuttle/record.rs"]
mod record;
mod sim;

use campaign::{Choice, run};
use guest::{Action::*, Plan, PoolPlan, Tally};
use sim::Layout;
use tagstash::addr::PAGE_SIZE;

const SMALL: PoolPlan = PoolPlan { shift: 12, shared: false };
const SHARED: PoolPlan = PoolPlan { shift: 12, shared: true };
const MIDDLE: PoolPlan = PoolPlan { shift: 14, shared: false };
const MIDDLE_SHARED: PoolPlan = PoolPlan { shift: 14, shared: true };
const LARGE: PoolPlan = PoolPlan { shift: 16, shared: false };

fn plan(layout: Layout, cpus: usize, calls: usize) -> Plan {
    Plan {
        layout: Plan::with_buffers(layout, cpus),
        cpus,
        calls,
        pools: vec![SMALL],
        objects: 3,
        indexes: 4,
        claimed: 50,
        verify: false,
        actions: vec![],
    }
}

/// One set, few keys, hardly a claim: the same page is put, got and flushed all the time.
fn keys(seed: u64) -> Plan {
    Plan {
        pools: vec![SMALL, SHARED],
        objects: 2,
        indexes: 3,
        claimed: 25,
        verify: seed & 1 == 0,
        actions: vec![
            (Put, 40),
            (Get, 40),
            (FlushPage, 4),
            (FlushObject, 2),
            (FlushPool, 1),
            (Claim, 3),
            (Release, 4),
            (CheckTags, 2),
        ],
        ..plan(Layout::one(16, PAGE_SIZE), 2 + (seed >> 1) as usize % 3, 250)
    }
}

/// Two sets that are full: a put evicts.
fn full(seed: u64) -> Plan {
    Plan {
        pools: vec![SMALL, SHARED],
        objects: 4,
        indexes: 8,
        verify: seed & 1 == 0,
        actions: vec![(Put, 50), (Get, 40), (FlushPage, 1), (Claim, 2), (Release, 3), (Wild, 2)],
        ..plan(Layout::one(24, PAGE_SIZE), 3, 250)
    }
}

/// Claims and releases of pages and runs all the time, in blocks of one to four frames.
fn claims(seed: u64) -> Plan {
    let layout = match seed >> 1 & 3 {
        0 => Layout::one(8, PAGE_SIZE),
        1 => Layout::one(12, 3 * PAGE_SIZE),
        2 => Layout::one(8, 4 * PAGE_SIZE),
        _ => Layout::crossed(6),
    };
    Plan {
        claimed: 85,
        verify: seed & 1 == 0,
        actions: vec![
            (Put, 30),
            (Get, 25),
            (FlushPage, 1),
            (Claim, 30),
            (Release, 24),
            (Wild, 12),
            (CheckTags, 6),
        ],
        ..plan(layout, 2 + (seed >> 3) as usize % 3, 250)
    }
}

/// Pages of 4 and 16 parts.
fn parts(seed: u64) -> Plan {
    Plan {
        pools: vec![SMALL, MIDDLE, MIDDLE_SHARED, LARGE],
        objects: 1,
        indexes: 2,
        claimed: 20,
        verify: seed & 1 == 0,
        actions: vec![
            (Put, 40),
            (Get, 40),
            (FlushPage, 2),
            (FlushObject, 1),
            (Claim, 3),
            (Release, 6),
            (CheckTags, 2),
        ],
        ..plan(Layout::one(48, PAGE_SIZE), 3, 80)
    }
}

/// Pools that are destroyed and made again under way, flushes of objects and pools.
fn pools(seed: u64) -> Plan {
    Plan {
        pools: vec![SMALL, SHARED, SHARED, MIDDLE],
        objects: 2,
        indexes: 2,
        claimed: 10,
        verify: seed & 1 == 0,
        actions: vec![
            (Put, 40),
            (Get, 40),
            (FlushPage, 2),
            (FlushObject, 4),
            (FlushPool, 3),
            (Remake, 6),
            (Claim, 2),
            (Release, 3),
        ],
        ..plan(Layout::one(32, PAGE_SIZE), 3, 150)
    }
}

/// One CPU deactivates and activates while the others go on.
fn states(seed: u64) -> Plan {
    Plan {
        pools: vec![SMALL, SHARED],
        objects: 2,
        indexes: 3,
        claimed: 60,
        verify: seed & 1 == 0,
        actions: vec![
            (Put, 35),
            (Get, 30),
            (FlushPage, 1),
            (FlushPool, 1),
            (Claim, 14),
            (Release, 10),
            (Wild, 3),
            (CheckTags, 4),
            (Cycle, 8),
        ],
        ..plan(Layout::one(16, PAGE_SIZE << (seed >> 1 & 1)), 3, 200)
    }
}

/// One CPU takes blocks back, another lends them, both all the time, while the others put and claim.
fn race(seed: u64) -> Plan {
    Plan {
        objects: 2,
        indexes: 4,
        claimed: 30,
        verify: seed & 1 == 0,
        actions: vec![(Race, 80), (Put, 10), (Get, 5), (Claim, 3), (Release, 2), (Wild, 1)],
        ..plan(Layout::one(4, PAGE_SIZE << (seed >> 1 & 1)), 3 + (seed >> 2 & 1) as usize, 200)
    }
}

/// A run by which nothing was met proves nothing.
fn check_hits(tally: &Tally, least: u64) {
    let share = tally.hits * 100 / tally.gets.max(1);
    assert!(share >= least, "{share} % of {} gets hit: less than {least} %", tally.gets);
}

macro_rules! campaigns {
    ($($name:ident: $choice:ident, $seeds:expr, $plan:ident, |$tally:ident| $check:expr;)*) => {
        $(
            #[test]
            fn $name() {
                let $tally = run(stringify!($name), Choice::$choice, $seeds, $plan);
                $check
            }
        )*
    };
}

campaigns! {
    p2_p3_keys_by_random: Random, 40, keys, |tally| check_hits(&tally, 20);
    p2_p3_keys_by_pct: Pct, 10, keys, |tally| check_hits(&tally, 20);
    p2_full_by_random: Random, 40, full, |tally| check_hits(&tally, 20);
    p2_full_by_pct: Pct, 10, full, |tally| check_hits(&tally, 20);
    p1_p4_p6_claims_by_random: Random, 40, claims, |tally| assert!(tally.waits > 0, "{tally:?}");
    p1_p4_p6_claims_by_pct: Pct, 10, claims, |tally| assert!(tally.waits > 0, "{tally:?}");
    p2_parts_by_random: Random, 20, parts, |tally| check_hits(&tally, 10);
    p2_parts_by_pct: Pct, 5, parts, |tally| check_hits(&tally, 10);
    p3_pools_by_random: Random, 40, pools, |tally| assert!(tally.without_pool > 0, "{tally:?}");
    p3_pools_by_pct: Pct, 10, pools, |tally| check_hits(&tally, 10);
    p6_p8_states_by_random: Random, 40, states, |tally| assert!(tally.cycles > 0, "{tally:?}");
    p6_p8_states_by_pct: Pct, 10, states, |tally| assert!(tally.cycles > 0, "{tally:?}");
    p4_p6_p8_race_by_random: Random, 40, race, |tally| assert!(tally.kept > 0, "{tally:?}");
    p4_p6_p8_race_by_pct: Pct, 10, race, |tally| assert!(tally.kept > 0, "{tally:?}");
}
