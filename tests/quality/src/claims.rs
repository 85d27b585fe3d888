// SPDX-License-Identifier: MIT OR Apache-2.0
//! Claims and releases in bursts: programs with tagged heaps start, and end.
//!
//! What is tagged is what an allocator gave: contiguous runs of 2^n frames' worth of memory,
//! aligned to their size, each size as likely as any other.

use crate::trace::Operation;
use rand::RngExt;
use rand_xorshift::XorShiftRng;

/// Part of the frames in tags in quiet times and in busy ones, in percent.
const TARGETS: [u32; 2] = [5, 40];
/// Misses of the page cache between two steps of a burst.
const PACE: u64 = 16;

/// Who needs tags.
#[derive(Debug)]
pub struct Claims {
    frames: u32,
    taken: Vec<bool>,
    runs: Vec<(u32, u32)>,
    in_tags: u32,
    /// Misses of the page cache since the start.
    time: u64,
    /// The target of this time was reached.
    settled: bool,
}

impl Claims {
    /// Nobody yet.
    pub fn new(frames: u32) -> Claims {
        let taken = vec![false; frames as usize];
        Claims { frames, taken, runs: vec![], in_tags: 0, time: 0, settled: false }
    }

    /// Lets the time of one miss of the page cache go by. Returns the claim or release that it
    /// brings, if it brings one.
    ///
    /// Quiet and busy times take turns, each for twice as many misses as the stash has frames;
    /// each begins with a burst that brings about what it needs.
    pub fn step(&mut self, random: &mut XorShiftRng) -> Option<Operation> {
        let length = u64::from(2 * self.frames);
        if self.time.is_multiple_of(length) {
            self.settled = false;
        }
        let busy = self.time / length % 2 == 1;
        self.time += 1;
        if self.settled || !self.time.is_multiple_of(PACE) {
            return None;
        }
        let target = self.frames / 100 * TARGETS[usize::from(busy)];
        let step = if busy { self.claim(random) } else { self.release(random) };
        self.settled = if busy { self.in_tags >= target } else { self.in_tags <= target };
        step
    }

    fn claim(&mut self, random: &mut XorShiftRng) -> Option<Operation> {
        let largest = (self.frames / 16).ilog2();
        let length = 1 << random.random_range(0..=largest);
        let first = random.random_range(0..self.frames / length) * length;
        let run = first as usize..(first + length) as usize;
        if self.taken[run.clone()].contains(&true) {
            return None;
        }
        self.taken[run].fill(true);
        self.runs.push((first, length));
        self.in_tags += length;
        Some(Operation::Claim(first, length))
    }

    fn release(&mut self, random: &mut XorShiftRng) -> Option<Operation> {
        if self.runs.is_empty() {
            return None;
        }
        let (first, length) = self.runs.swap_remove(random.random_range(0..self.runs.len()));
        self.taken[first as usize..(first + length) as usize].fill(false);
        self.in_tags -= length;
        Some(Operation::Release(first, length))
    }
}
