// SPDX-License-Identifier: MIT OR Apache-2.0
//! The workloads of the long run and of the suite, and which of them miss the goal, and why.

use crate::row::Known;
use crate::workload::{Kind, Workload};

/// Frames in the long run: 64 MiB of tag storage, that of 2 GiB of memory.
pub const FRAMES: u32 = 16384;
/// Frames in the suite.
#[cfg(test)]
pub const SMALL: u32 = 2048;

const LOOP: &str = "a loop longer than what there is gives an age-ordered cache nothing: LRU has 0 %, and \
    the nearer the stash comes to LRU, the less it has; one that just fits would need every pair of sets to get its \
    share to the page";

const FILES: &str = "files come back whole, at one distance in time, so that what a pair of sets has too little \
    costs as in a loop: the more, the fewer files fit";

/// What is known of a workload.
pub fn known(workload: &Workload) -> Option<Known> {
    match workload.kind {
        Kind::Loop(_) => Some(Known { gap: 65.0, fill: 85.0, reason: LOOP }),
        Kind::Files if workload.frames < 4096 => {
            Some(Known { gap: 2.5, fill: 95.0, reason: FILES })
        }
        _ => None,
    }
}

/// The workloads of the table.
pub fn table(seed: u64) -> Vec<Workload> {
    let mut all = vec![];
    let mut add = |kind, caches: &[u32]| {
        for &cache in caches {
            for claims in [false, true] {
                all.push(Workload { kind, frames: FRAMES, cache, claims, length: 16, seed });
            }
        }
    };
    let both = [4 * FRAMES, FRAMES];
    for exponent in [0.6, 0.8, 0.9, 1.0, 1.2] {
        add(Kind::Zipf(exponent), &both);
    }
    add(Kind::ZipfAndScans(0.9), &both);
    add(Kind::Uniform, &both);
    add(Kind::Files, &both);
    add(Kind::Loop(90), &[FRAMES]);
    add(Kind::Loop(110), &[4 * FRAMES, FRAMES, FRAMES / 16]);
    all
}

/// Some of them for stashes of 16 MiB to 1 GiB.
pub fn sizes(seed: u64) -> Vec<Workload> {
    let mut all = vec![];
    for kind in [Kind::Zipf(0.9), Kind::Files] {
        for frames in [4096, 16384, 65536, 262_144] {
            all.push(Workload { kind, frames, cache: frames, claims: true, length: 16, seed });
        }
    }
    all
}

/// Those on which designs are compared.
pub fn designs(seed: u64) -> Vec<Workload> {
    let small = |workload: Workload| Workload {
        frames: workload.frames / 4,
        cache: workload.cache / 4,
        ..workload
    };
    table(seed).into_iter().map(small).collect()
}

/// Those of the suite.
#[cfg(test)]
pub fn suite() -> Vec<Workload> {
    let small =
        |kind, claims| Workload { kind, frames: SMALL, cache: SMALL, claims, length: 16, seed: 1 };
    vec![
        small(Kind::Zipf(0.8), false),
        small(Kind::Zipf(1.2), false),
        small(Kind::Zipf(1.0), true),
        small(Kind::ZipfAndScans(0.9), false),
        small(Kind::Uniform, true),
        small(Kind::Files, false),
        small(Kind::Loop(90), false),
    ]
}
