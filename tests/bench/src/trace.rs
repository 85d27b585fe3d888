// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a guest asks of a victim cache: a fixed sequence of operations for each thread.
//!
//! Each thread has files of its own and a page cache in front, first in, first out. A page that
//! is accessed and not there is asked of the cache, which gives it away if it has it, and the
//! page cache's oldest page is put, or, once in a while, flushed. The sequence does not depend
//! on what the cache answers, so every cache is asked the same.

use crate::random::Random;
use std::collections::HashSet;

/// One operation. Packed: two bits say what, the rest which page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step(u32);

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Get,
    Put,
    Flush,
}

impl Step {
    fn new(verb: Verb, page: u32) -> Step {
        Step((verb as u32) << 30 | page)
    }

    #[inline(always)]
    pub fn verb(self) -> Verb {
        match self.0 >> 30 {
            0 => Verb::Get,
            1 => Verb::Put,
            _ => Verb::Flush,
        }
    }

    #[inline(always)]
    pub fn page(self) -> u32 {
        self.0 & ((1 << 30) - 1)
    }
}

/// A kind of load.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    pub name: &'static str,
    pub what: &'static str,
    /// Pages of all files, in hundredths of the cache's capacity.
    universe: u64,
    /// Of so many pages that come in, one is asked of the cache; the others are written whole.
    gets: u64,
}

/// The kinds of load.
pub const MIXES: [Mix; 3] = [
    Mix {
        name: "hit-heavy",
        what: "files fill 90 % of cache and page cache",
        universe: 112,
        gets: 1,
    },
    Mix { name: "miss-heavy", what: "files are eight times the cache", universe: 800, gets: 1 },
    Mix {
        name: "put-heavy",
        what: "files are twice the cache, two of three pages are written whole, not asked for",
        universe: 200,
        gets: 3,
    },
];

/// A page is flushed, not put, once in so many times that the page cache gives one up.
const FLUSH_ONE_IN: u64 = 16;

impl Mix {
    /// The steps of thread `thread` of `threads`, `count` of them, for a cache of `capacity`
    /// pages.
    pub fn steps(&self, capacity: u32, threads: u32, thread: u32, count: usize) -> Vec<Step> {
        let mut random = Random::new(u64::from(thread) + 1);
        // The page caches together are a quarter of the cache.
        let cached = (capacity / 4 / threads).max(1) as usize;
        let pages = (u64::from(capacity) * self.universe / 100 / u64::from(threads)).max(1) as u32;
        let mut inside = vec![false; pages as usize];
        let mut queue = std::collections::VecDeque::with_capacity(cached + 1);
        let mut steps = Vec::with_capacity(count + 2);
        // Files of 64 pages belong to one thread.
        let name = |page: u32| (page / 64 * threads + thread) * 64 + page % 64;
        while steps.len() < count {
            let page = random.below(u64::from(pages)) as u32;
            if inside[page as usize] {
                continue;
            }
            if random.below(self.gets) == 0 {
                steps.push(Step::new(Verb::Get, name(page)));
            }
            inside[page as usize] = true;
            queue.push_back(page);
            if queue.len() > cached {
                let oldest = queue.pop_front().expect("it has pages");
                inside[oldest as usize] = false;
                let verb = if random.below(FLUSH_ONE_IN) == 0 { Verb::Flush } else { Verb::Put };
                steps.push(Step::new(verb, name(oldest)));
            }
        }
        steps.truncate(count);
        steps
    }
}

/// What is wrong with the traces, if anything: they are the same each time, threads share no
/// page, and every verb occurs often.
pub fn check() -> Option<String> {
    for mix in MIXES {
        let steps = |thread| mix.steps(1024, 2, thread, 20_000);
        let pages = |thread| steps(thread).iter().map(|s| s.page()).collect::<HashSet<_>>();
        if steps(0) != steps(0) {
            return Some(format!("{}: two traces of one thread differ", mix.name));
        }
        if !pages(0).is_disjoint(&pages(1)) {
            return Some(format!("{}: two threads share a page", mix.name));
        }
        for verb in [Verb::Get, Verb::Put, Verb::Flush] {
            let count = steps(0).iter().filter(|s| s.verb() == verb).count();
            if count < 400 {
                return Some(format!("{}: {count} of {verb:?}", mix.name));
            }
        }
    }
    None
}
