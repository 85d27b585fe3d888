// SPDX-License-Identifier: MIT OR Apache-2.0
//! What happened in the races of this process, counted: a search that never met a hit, a wait or
//! a refusal has shown nothing about it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a race may come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    PutKept,
    PutRefused,
    Hit,
    Miss,
    Claimed,
    ClaimHeld,
    Waited,
    PoolThere,
    PoolGone,
}

/// How many of them there are.
pub const SEEN: usize = 9;

/// What each is called.
pub const NAMES: [&str; SEEN] = [
    "puts kept",
    "puts refused",
    "gets that hit",
    "gets that missed",
    "claims made",
    "claims held already",
    "claims and deactivations that waited for a put",
    "calls whose pool was there",
    "calls whose pool was gone",
];

static COUNTS: [AtomicU64; SEEN] = [const { AtomicU64::new(0) }; SEEN];

/// Counts one.
pub fn saw(seen: Seen) {
    COUNTS[seen as usize].fetch_add(1, Relaxed);
}

/// Takes the counts; they begin at 0 again.
pub fn take() -> [u64; SEEN] {
    COUNTS.each_ref().map(|count| count.swap(0, Relaxed))
}
