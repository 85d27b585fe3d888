// SPDX-License-Identifier: MIT OR Apache-2.0
//! The caches that are compared, behind one interface.

pub mod pages;
pub mod rivals;
pub mod stash;

use crate::key::Key;
use crate::memory::Pages;
use crate::trace::{Step, Verb};

/// Guest pages that each thread puts from and gets into, in turn. They fit a second-level cache.
pub const BUFFERS: u32 = 64;

/// A cache of pages for several threads. `page` is a guest page of the thread's own.
pub trait Cache: Sync {
    /// What it is called in the table.
    fn name(&self) -> &'static str;
    /// Offers a page.
    fn put(&self, cpu: u32, key: &Key, page: u32);
    /// Asks for a page, which is removed. Says whether it was there.
    fn get(&self, cpu: u32, key: &Key, page: u32) -> bool;
    /// Drops a page.
    fn flush(&self, cpu: u32, key: &Key);
    /// The pool that keys name.
    fn pool(&self) -> u32 {
        1
    }
}

/// What a thread counted while it ran.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub gets: u64,
    pub hits: u64,
}

/// A cache that runs traces.
pub trait Subject: Sync {
    /// What it is called in the table.
    fn name(&self) -> &'static str;
    /// Runs `steps` as thread `cpu`. With `bytes`, the guest's pages are marked before each put,
    /// and checked after each hit.
    fn run(&self, cpu: u32, steps: &[Step], bytes: Option<&Pages>) -> Tally;
}

impl<C: Cache> Subject for C {
    fn name(&self) -> &'static str {
        Cache::name(self)
    }

    fn run(&self, cpu: u32, steps: &[Step], bytes: Option<&Pages>) -> Tally {
        let (mut tally, pool) = (Tally::default(), self.pool());
        let mut next = 0;
        for step in steps {
            let key = Key::of(pool, step.page());
            let page = cpu * BUFFERS + next;
            next = (next + 1) % BUFFERS;
            match step.verb() {
                Verb::Put => {
                    if let Some(bytes) = bytes {
                        bytes.mark(page, u64::from(step.page()));
                    }
                    self.put(cpu, &key, page);
                }
                Verb::Get => {
                    let hit = self.get(cpu, &key, page);
                    if let Some(bytes) = bytes.filter(|_| hit) {
                        let word = bytes.first_word(page);
                        assert_eq!(word, u64::from(step.page()), "{}", Cache::name(self));
                    }
                    tally.gets += 1;
                    tally.hits += u64::from(hit);
                }
                Verb::Flush => self.flush(cpu, &key),
            }
        }
        tally
    }
}
