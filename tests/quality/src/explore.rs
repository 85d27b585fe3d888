// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was chosen and why: other designs of the table on the same workloads.

use crate::associative::{Design, Eviction, Flushes, Free, Sets, Table};
use crate::cache::{self, Cache};
use crate::ideal::{Fifo, Ideal, Pinned, Random};
use crate::row::run_stash;
use crate::workload::{Kind, Workload};

/// How the stash was built before it looked into two sets.
const BEFORE: Design = Design {
    ways: 16,
    sets: Sets::One,
    free: Free::ByWord,
    eviction: Eviction::Oldest,
    flushes: Flushes::Buckets { frames: 2, each: 2 },
};

/// The designs that are compared; the first is the stash's.
pub fn designs() -> Vec<Design> {
    let real = Design::REAL;
    let mut all = vec![real, BEFORE];
    let mut add = |design| {
        if !all.contains(&design) {
            all.push(design);
        }
    };
    for ways in [8, 12, 16, 32] {
        add(Design { ways, sets: Sets::One, ..real });
    }
    for ways in [4, 8, 16] {
        for sets in [Sets::OneOfEachHalf, Sets::AnyTwo] {
            add(Design { ways, sets, ..real });
        }
    }
    add(Design { free: Free::EmptierSet, ..real });
    for eviction in [Eviction::RoundRobin, Eviction::Random, Eviction::First] {
        add(Design { eviction, ..real });
    }
    for (frames, each) in
        [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3), (4, 2), (4, 3), (8, 2), (8, 3)]
    {
        add(Design { flushes: Flushes::Buckets { frames, each }, ..real });
    }
    add(Design { flushes: Flushes::Exact, ..real });
    all
}

/// Groups of workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// By chance: Zipf, with scans too, and uniform.
    Chance,
    /// Whole files.
    Files,
    /// Loops.
    Loops,
}

impl Group {
    /// All, in the order of tables.
    pub const ALL: [Group; 3] = [Group::Chance, Group::Files, Group::Loops];

    /// As tables say it.
    pub fn name(self) -> &'static str {
        match self {
            Group::Chance => "Zipf, scans, uniform",
            Group::Files => "files",
            Group::Loops => "loops",
        }
    }

    fn of(workload: &Workload) -> Group {
        match workload.kind {
            Kind::Zipf(_) | Kind::ZipfAndScans(_) | Kind::Uniform => Group::Chance,
            Kind::Files => Group::Files,
            Kind::Loop(_) => Group::Loops,
        }
    }
}

/// What a workload made of one design.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    group: Group,
    claims: bool,
    gap: f64,
    gap_pinned: f64,
    fill: f64,
}

/// Runs a workload on every design.
pub fn run(workload: &Workload) -> Vec<Sample> {
    let trace = workload.trace();
    let (_, pool, _) = run_stash(&trace);
    let rate = |cache: &mut dyn Cache| cache::run(&trace, cache);
    let lru = rate(&mut Ideal::new(&trace, Fifo::new(&trace)));
    let random = rate(&mut Ideal::new(&trace, Random::new(&trace)));
    let pinned = rate(&mut Pinned::new(&trace));
    let sample = |design| {
        let outcome = rate(&mut Table::new(&trace, design, pool));
        Sample {
            group: Group::of(workload),
            claims: workload.claims,
            gap: lru.rate().max(random.rate()) - outcome.rate(),
            gap_pinned: pinned.rate() - outcome.rate(),
            fill: 100.0 * outcome.fill / pinned.fill,
        }
    };
    designs().into_iter().map(sample).collect()
}

/// Samples of one group of workloads on one design, summed up.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    /// Points lost against the better of LRU and random, on average.
    pub mean: f64,
    /// At most.
    pub worst: f64,
    /// On average with claims, against LRU whose pages cannot move.
    pub pinned: f64,
    /// Least fill, in percent of that LRU's.
    pub fill: f64,
}

impl Summary {
    /// Sums up what all workloads of `group` made of design number `design`; `None` if there
    /// are none.
    pub fn of(samples: &[Vec<Sample>], group: Group, design: usize) -> Option<Summary> {
        let all: Vec<&Sample> =
            samples.iter().map(|of| &of[design]).filter(|s| s.group == group).collect();
        if all.is_empty() {
            return None;
        }
        let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len().max(1) as f64;
        Some(Summary {
            mean: mean(all.iter().map(|s| s.gap).collect()),
            worst: all.iter().map(|s| s.gap).fold(f64::MIN, f64::max),
            pinned: mean(all.iter().filter(|s| s.claims).map(|s| s.gap_pinned).collect()),
            fill: all.iter().map(|s| s.fill).fold(f64::MAX, f64::min),
        })
    }
}

impl std::fmt::Display for Design {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.sets {
            Sets::One => write!(f, "1 x {}", self.ways)?,
            Sets::OneOfEachHalf => write!(f, "2 x {}", self.ways)?,
            Sets::AnyTwo => write!(f, "2 x {}, any two sets", self.ways)?,
        }
        if self.free == Free::EmptierSet {
            write!(f, ", emptier set first")?;
        }
        let rule = match self.eviction {
            Eviction::Oldest => "oldest",
            Eviction::Random => "random",
            Eviction::RoundRobin => "round robin",
            Eviction::First => "first open",
        };
        write!(f, ", {rule}")?;
        match self.flushes {
            flushes if flushes == Design::REAL.flushes => Ok(()),
            Flushes::Exact => write!(f, ", exact flushes"),
            Flushes::Buckets { frames, each } => {
                write!(f, ", frames / {frames} moments, {each} an object")
            }
        }
    }
}
