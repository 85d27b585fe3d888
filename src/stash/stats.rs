// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counters. Each CPU has its own, on its own cache lines, and is the only one to write them.

use crate::platform::MAX_CPUS;
use crate::sync::{Counter, Ordering};

macro_rules! statistics {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What is counted; the number is the ABI's.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Statistic {
            $($(#[$doc])* $name,)*
        }

        impl Statistic {
            /// All of them, in the ABI's order.
            pub const ALL: &'static [Statistic] = &[$(Statistic::$name,)*];
        }
    };
}

statistics! {
    /// Pages offered to PUT.
    Puts,
    /// Of these, pages kept.
    PutsCached,
    /// Frames whose page gave way to another page.
    Evictions,
    /// Pages asked of GET.
    Gets,
    /// Of these, pages found.
    Hits,
    /// Gets that missed because verification failed.
    Mismatches,
    /// Pages named by FLUSH_PAGE.
    PageFlushes,
    /// FLUSH_OBJECT calls.
    ObjectFlushes,
    /// FLUSH_POOL calls.
    PoolFlushes,
    /// Pages newly claimed.
    Claims,
    /// Pages that were claimed already.
    ClaimsHeld,
    /// Claims given back.
    Releases,
    /// Pages named by RELEASE that were not claimed.
    ReleasesRefused,
    /// Blocks that a claim took from the stash.
    BlocksTaken,
    /// Frames whose cached page a claim dropped.
    PagesDropped,
    /// Times a claim found a writer still under way.
    WaitPolls,
    /// Most such polls by one batch of a claim.
    WorstWait,
    /// External aborts in copies.
    CopyFaults,
}

/// One CPU's counters.
#[derive(Debug)]
#[repr(align(128))]
pub struct CpuStats([Counter; Statistic::ALL.len()]);

impl CpuStats {
    /// Adds `count`. Only the CPU that owns the counters calls this, and EL2 is not preempted,
    /// so a load and a store do.
    #[inline(always)]
    pub fn add(&self, statistic: Statistic, count: u64) {
        let counter = &self.0[statistic as usize];
        counter.store(counter.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// Raises a worst case to `value`.
    #[inline(always)]
    pub fn raise(&self, statistic: Statistic, value: u64) {
        let counter = &self.0[statistic as usize];
        if counter.load(Ordering::Relaxed) < value {
            counter.store(value, Ordering::Relaxed);
        }
    }
}

/// All CPUs' counters.
#[derive(Debug)]
pub struct Stats {
    counters: [CpuStats; MAX_CPUS],
    cpus: usize,
}

impl Stats {
    /// Makes counters for `cpus` CPUs, of which there are from 1 to [`MAX_CPUS`], all zero.
    pub fn new(cpus: usize) -> Stats {
        let zeros = |_| CpuStats([const { Counter::new(0) }; Statistic::ALL.len()]);
        Stats { counters: core::array::from_fn(zeros), cpus: cpus.clamp(1, MAX_CPUS) }
    }

    /// Number of CPUs.
    pub fn cpus(&self) -> usize {
        self.cpus
    }

    /// The counters of one CPU.
    #[inline(always)]
    pub fn of(&self, cpu: usize) -> &CpuStats {
        &self.counters[cpu % MAX_CPUS]
    }

    /// The sum over all CPUs; of a worst case, the largest.
    pub fn total(&self, statistic: Statistic) -> u64 {
        let values =
            self.counters.iter().map(|cpu| cpu.0[statistic as usize].load(Ordering::Relaxed));
        match statistic {
            Statistic::WorstWait => values.max().unwrap_or(0),
            _ => values.fold(0, u64::wrapping_add),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_sums_and_worst_cases_are_maxima() {
        let stats = Stats::new(3);
        for cpu in 0..3 {
            stats.of(cpu).add(Statistic::Hits, 1 << cpu);
            stats.of(cpu).raise(Statistic::WorstWait, 10 - cpu as u64);
            stats.of(cpu).raise(Statistic::WorstWait, 3);
        }
        assert_eq!(stats.total(Statistic::Hits), 7);
        assert_eq!(stats.total(Statistic::WorstWait), 10);
        assert_eq!(stats.total(Statistic::Gets), 0);
    }

    #[test]
    fn the_abi_numbers_them_in_this_order() {
        assert_eq!(Statistic::ALL.len(), 18);
        for (number, statistic) in Statistic::ALL.iter().enumerate() {
            assert_eq!(*statistic as usize, number);
        }
        assert_eq!(Statistic::Hits as usize, 4);
        assert_eq!(Statistic::CopyFaults as usize, 17);
    }
}
