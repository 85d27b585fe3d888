// SPDX-License-Identifier: MIT OR Apache-2.0
//! Workloads: what programs read and write, page by page.

use crate::claims::Claims;
use crate::guest::Guest;
use crate::trace::{File, Page, Trace};
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};
use rand_xorshift::XorShiftRng;
use std::collections::VecDeque;
use std::fmt;

/// What is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Pages by Zipf's law with this exponent.
    Zipf(f64),
    /// The same, a fifth of the reads being scans of what is never read again.
    ZipfAndScans(f64),
    /// The same pages over and over: as many as the page cache has, and this part of the
    /// stash's frames in percent.
    Loop(u32),
    /// Any page as likely as any other.
    Uniform,
    /// Whole files, some of them hot; builds that write and delete; walks over inodes.
    Files,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Zipf(exponent) => write!(f, "Zipf {exponent:.1}"),
            Kind::ZipfAndScans(exponent) => write!(f, "Zipf {exponent:.1} and scans"),
            Kind::Loop(percent) => write!(f, "loop, cache + {percent} %"),
            Kind::Uniform => write!(f, "uniform"),
            Kind::Files => write!(f, "files"),
        }
    }
}

/// A workload, in front of a stash.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Workload {
    /// What is read.
    pub kind: Kind,
    /// Frames of the stash.
    pub frames: u32,
    /// Pages that the page cache has.
    pub cache: u32,
    /// Storage is claimed and released meanwhile.
    pub claims: bool,
    /// Pages that miss the page cache, in multiples of the stash's frames. The first half is
    /// for warming up.
    pub length: u32,
    /// Of the random numbers.
    pub seed: u64,
}

/// Pages of a file where files do not matter.
const FILE_PAGES: u32 = 64;
/// Pages that there are to read, in multiples of what page cache and stash hold together.
const UNIVERSE: u32 = 4;

struct Run {
    guest: Guest,
    random: XorShiftRng,
    claims: Option<Claims>,
    /// Misses of the page cache in all, and until now.
    misses: u64,
    missed: u64,
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cache = match self.cache.checked_div(self.frames) {
            Some(times) if times > 0 => format!("{times}x"),
            _ => format!("1/{}", self.frames / self.cache.max(1)),
        };
        let claims = if self.claims { ", claims" } else { "" };
        write!(f, "{}; {cache}{claims}", self.kind)
    }
}

impl Workload {
    /// Runs it, and returns what the stash is asked.
    pub fn trace(&self) -> Trace {
        let mut run = Run {
            guest: Guest::new(self.frames, self.cache),
            random: XorShiftRng::seed_from_u64(self.seed),
            claims: self.claims.then(|| Claims::new(self.frames)),
            misses: u64::from(self.frames) * u64::from(self.length),
            missed: 0,
        };
        let pages = (self.frames + self.cache) * UNIVERSE;
        match self.kind {
            Kind::Zipf(exponent) => run.zipf(pages, exponent, 0),
            Kind::ZipfAndScans(exponent) => run.zipf(pages, exponent, 2 * self.frames),
            Kind::Loop(percent) => run.round(self.cache + self.frames / 100 * percent),
            Kind::Uniform => run.uniform(2 * (self.cache + self.frames)),
            Kind::Files => run.whole_files(pages),
        }
        run.guest.trace
    }
}

impl Run {
    /// After each read or write. Says whether the run is over.
    fn tick(&mut self) -> bool {
        let missed = self.guest.misses();
        if missed == self.missed {
            return false;
        }
        self.missed = missed;
        if missed == self.misses / 2 {
            self.guest.warm();
        }
        if let Some(claims) = &mut self.claims
            && let Some(operation) = claims.step(&mut self.random)
        {
            self.guest.tag(operation);
        }
        missed >= self.misses
    }

    /// Files that have so many pages together.
    fn files(&mut self, pages: u32) -> u32 {
        let files = pages.div_ceil(FILE_PAGES);
        (0..files).for_each(|_| {
            self.guest.add_file(FILE_PAGES);
        });
        pages
    }

    /// The numbers below `count` in some order.
    fn shuffled(&mut self, count: u32) -> Vec<u32> {
        let mut order: Vec<u32> = (0..count).collect();
        for n in (1..order.len()).rev() {
            order.swap(n, self.random.random_range(0..=n));
        }
        order
    }

    /// Reads by rank; after every `5 * scan` reads the last `scan` are a scan.
    fn zipf(&mut self, pages: u32, exponent: f64, scan: u32) {
        self.files(pages);
        let by_rank = self.shuffled(pages);
        let law = Zipf::new(f64::from(pages), exponent).expect("a good exponent");
        loop {
            for _ in 0..4 * scan.max(1) {
                let rank = law.sample(&mut self.random) as usize;
                self.guest.read(by_rank[rank - 1]);
                if self.tick() {
                    return;
                }
            }
            if scan > 0 {
                let file = self.guest.add_file(scan);
                for page in self.guest.trace.files[file as usize].clone() {
                    self.guest.read(page);
                    if self.tick() {
                        return;
                    }
                }
            }
        }
    }

    fn round(&mut self, pages: u32) {
        self.files(pages);
        let mut page = 0;
        loop {
            self.guest.read(page);
            page = (page + 1) % pages;
            if self.tick() {
                return;
            }
        }
    }

    fn uniform(&mut self, pages: u32) {
        self.files(pages);
        loop {
            let page = self.random.random_range(0..pages);
            self.guest.read(page);
            if self.tick() {
                return;
            }
        }
    }

    /// Reads a file from its start, or writes it.
    fn sweep(&mut self, file: File, mut touch: impl FnMut(&mut Guest, Page)) -> bool {
        for page in self.guest.trace.files[file as usize].clone() {
            touch(&mut self.guest, page);
            if self.tick() {
                return true;
            }
        }
        false
    }

    /// Each round: a file is read whole; some inodes are looked at and nothing of them is read;
    /// now and then a file is written, read, and deleted again, or an old one is overwritten.
    /// Inodes are evicted in the order in which they were used last, but for those that
    /// have pages in the cache.
    fn whole_files(&mut self, pages: u32) {
        let size = |random: &mut XorShiftRng| {
            let x: f64 = random.random();
            (9.0 * x * x).exp2() as u32
        };
        let mut files: Vec<File> = vec![];
        while self.guest.trace.pages() < pages as usize {
            let size = size(&mut self.random);
            files.push(self.guest.add_file(size));
        }
        let by_rank = self.shuffled(files.len() as u32);
        let law = Zipf::new(files.len() as f64, 0.9).expect("a good exponent");
        let mut inodes: VecDeque<(File, u64)> = VecDeque::new();
        let mut used = vec![0; files.len()];
        let mut time = 0;
        let inodes_kept = files.len() * 2;
        loop {
            time += 1;
            let file = files[by_rank[law.sample(&mut self.random) as usize - 1] as usize];
            used[file as usize] = time;
            inodes.push_back((file, time));
            if self.sweep(file, Guest::read) {
                return;
            }
            for _ in 0..2 {
                // Looked at by a walk over a tree, say.
                let looked_at = self.guest.add_file(0);
                used.push(time);
                inodes.push_back((looked_at, time));
            }
            if time % 4 == 0 {
                let size = size(&mut self.random);
                let temporary = self.guest.add_file(size);
                used.push(0);
                if self.sweep(temporary, Guest::write) || self.sweep(temporary, Guest::read) {
                    return;
                }
                self.guest.truncate(temporary);
            }
            if time % 16 == 0 {
                let file = files[by_rank[law.sample(&mut self.random) as usize - 1] as usize];
                self.guest.truncate(file);
                if self.sweep(file, Guest::write) {
                    return;
                }
            }
            let mut turns = inodes.len();
            while inodes.len() > inodes_kept && turns > 0 {
                turns -= 1;
                let Some((file, last)) = inodes.pop_front() else { break };
                if used[file as usize] != last {
                    continue;
                }
                if self.guest.has_pages_of(file) {
                    inodes.push_back((file, last));
                } else {
                    self.guest.evict_inode(file);
                }
            }
        }
    }
}
