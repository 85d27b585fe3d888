// SPDX-License-Identifier: MIT OR Apache-2.0
//! What every cache that is compared can do, and how it is measured.

use crate::trace::{File, Operation, Page, Trace};

/// A cache of pages from which a hit removes.
pub trait Cache {
    /// Offers a page.
    fn put(&mut self, page: Page);
    /// Asks for a page and takes it out. Says whether it was there.
    fn get(&mut self, page: Page) -> bool;
    /// Drops a page.
    fn flush_page(&mut self, page: Page);
    /// Drops a file's pages.
    fn flush_file(&mut self, file: File);
    /// Takes frames away.
    fn claim(&mut self, first: u32, count: u32);
    /// Gives frames back.
    fn release(&mut self, first: u32, count: u32);
    /// Pages that it holds.
    fn held(&self) -> u32;
}

/// What came of a trace.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Pages asked for after the warm-up.
    pub gets: u64,
    /// Of these, found.
    pub hits: u64,
    /// Share of the lent frames that held a page, average over time.
    pub fill: f64,
}

impl Outcome {
    /// Hits in percent of gets.
    pub fn rate(&self) -> f64 {
        100.0 * self.hits as f64 / self.gets.max(1) as f64
    }
}

/// Samples of the fill after the warm-up.
const SAMPLES: usize = 200;

/// Runs a trace.
pub fn run(trace: &Trace, cache: &mut (impl Cache + ?Sized)) -> Outcome {
    let mut outcome = Outcome::default();
    let mut lent = trace.frames;
    let (mut fill, mut samples) = (0.0, 0);
    let stride = ((trace.operations.len() - trace.warm_up) / SAMPLES).max(1);
    for (number, &operation) in trace.operations.iter().enumerate() {
        let counted = number >= trace.warm_up;
        match operation {
            Operation::Put(page) => cache.put(page),
            Operation::Get(page) => {
                let hit = cache.get(page);
                outcome.gets += u64::from(counted);
                outcome.hits += u64::from(counted && hit);
            }
            Operation::FlushPage(page) => cache.flush_page(page),
            Operation::FlushFile(file) => cache.flush_file(file),
            Operation::Claim(first, count) => {
                cache.claim(first, count);
                lent -= count;
            }
            Operation::Release(first, count) => {
                cache.release(first, count);
                lent += count;
            }
        }
        if counted && number % stride == 0 {
            fill += f64::from(cache.held()) / f64::from(lent.max(1));
            samples += 1;
        }
    }
    outcome.fill = fill / f64::from(samples.max(1));
    outcome
}
