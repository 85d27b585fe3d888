// SPDX-License-Identifier: MIT OR Apache-2.0
//! One workload, run on the stash and on what it is compared with, and the goal.

use crate::associative::{Design, Table};
use crate::cache::{self, Outcome};
use crate::ideal::{Fifo, Ideal, Pinned, Random, Sieve};
use crate::offline;
use crate::real::Real;
use crate::trace::Trace;
use crate::workload::Workload;
use tagstash::stash::metadata::MetadataBuffer;
use tagstash::stash::pool::PoolId;

/// Points of hit rate that the stash may lose against the best.
pub const GAP: f64 = 2.0;
/// Least fill, in percent of what an LRU cache in the same frames has filled. (Frames that were
/// released a moment ago are empty in any cache.)
pub const FILL: f64 = 95.0;

/// A workload that misses the goal, and is known to.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Points that it may lose at most.
    pub gap: f64,
    /// Its least fill.
    pub fill: f64,
    /// Why.
    pub reason: &'static str,
}

/// What came of a goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Met.
    Met,
    /// Missed as is known, and no more.
    Known,
    /// Missed.
    Missed,
}

impl Verdict {
    /// As tables say it.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Met => "met",
            Verdict::Known => "known",
            Verdict::Missed => "MISSED",
        }
    }
}

/// A workload and what came of it.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The workload.
    pub workload: Workload,
    /// Whether, and why, it misses the goal.
    pub known: Option<Known>,
    /// The stash.
    pub stash: Outcome,
    /// Puts that the stash refused.
    pub refused: u64,
    /// Ideal caches: the offline bound, LRU (and FIFO), the same with pages that cannot move,
    /// random, SIEVE with memory.
    pub offline: Outcome,
    /// LRU, which is FIFO.
    pub lru: Outcome,
    /// LRU whose pages cannot move.
    pub pinned: Outcome,
    /// Any page goes.
    pub random: Outcome,
    /// SIEVE with memory.
    pub sieve: Outcome,
    /// The stash with a moment for each object.
    pub exact: Outcome,
    /// The model of the stash answered as the stash did.
    pub modelled: bool,
    /// What was asked.
    pub operations: usize,
}

/// Runs the stash. Returns its pool too, whose id is in all keys, and how many puts it refused.
pub fn run_stash(trace: &Trace) -> (Outcome, PoolId, u64) {
    let buffer = MetadataBuffer::with_frames(trace.frames);
    let mut stash = Real::new(trace, &buffer);
    let outcome = cache::run(trace, &mut stash);
    (outcome, stash.pool(), stash.refused)
}

impl Row {
    /// Runs a workload on everything.
    pub fn run(workload: Workload, known: Option<Known>) -> Row {
        let trace = workload.trace();
        let (stash, pool, refused) = run_stash(&trace);
        let design = |design| cache::run(&trace, &mut Table::new(&trace, design, pool));
        let exact = Design { flushes: crate::associative::Flushes::Exact, ..Design::REAL };
        Row {
            workload,
            known,
            stash,
            refused,
            offline: offline::run(&trace),
            lru: cache::run(&trace, &mut Ideal::new(&trace, Fifo::new(&trace))),
            pinned: cache::run(&trace, &mut Pinned::new(&trace)),
            random: cache::run(&trace, &mut Ideal::new(&trace, Random::new(&trace))),
            sieve: cache::run(&trace, &mut Ideal::new(&trace, Sieve::new(&trace))),
            exact: design(exact),
            modelled: design(Design::REAL) == stash,
            operations: trace.operations.len(),
        }
    }

    /// The best rate of the caches that know what they hold and no more.
    pub fn best(&self) -> f64 {
        self.lru.rate().max(self.random.rate())
    }

    /// Points that the stash loses against the best.
    pub fn gap(&self) -> f64 {
        self.best() - self.stash.rate()
    }

    /// Fill in percent of what an LRU cache in the same frames has filled.
    pub fn fill(&self) -> f64 {
        100.0 * self.stash.fill / self.pinned.fill
    }

    /// Says whether the goal is met.
    pub fn verdict(&self) -> Verdict {
        let within = |gap, fill| self.gap() <= gap && self.fill() >= fill;
        match self.known {
            _ if within(GAP, FILL) => Verdict::Met,
            Some(known) if within(known.gap, known.fill) => Verdict::Known,
            _ => Verdict::Missed,
        }
    }
}
