// SPDX-License-Identifier: MIT OR Apache-2.0
//! What all CPUs saw in one execution, and the verdict on it.

use crate::history::{Call, Event, explain};
use std::collections::BTreeMap;

/// A key: pool, object, index.
pub type Key = (u64, u64, u64);

/// When a call began and ended.
pub type Times = (u64, u64);

/// What is known of one pool.
#[derive(Default)]
struct Pool {
    shared: bool,
    /// Of the calls that made or found it, the first begin and the first end.
    made: Option<Times>,
    /// Calls that destroyed it.
    destroyed: Vec<Times>,
    /// Calls that may have destroyed it.
    endangered: Vec<Times>,
    /// Calls that named it, and whether they found it.
    used: Vec<(Times, bool)>,
}

/// See the module.
#[derive(Default)]
pub struct Record {
    calls: BTreeMap<Key, Vec<Event>>,
    flushes: Vec<(u64, Option<u64>, Times)>,
    pools: BTreeMap<u64, Pool>,
    deactivations: Vec<Times>,
}

impl Record {
    /// Adds a call on one key.
    pub fn call(&mut self, key: Key, (begin, end): Times, call: Call) {
        self.calls.entry(key).or_default().push(Event { call, begin, end });
    }

    /// Adds a flush of an object, or of a pool.
    pub fn flush(&mut self, pool: u64, object: Option<u64>, times: Times) {
        self.flushes.push((pool, object, times));
    }

    /// Adds a call that named a pool, and whether there was one.
    pub fn used(&mut self, pool: u64, times: Times, existed: bool) {
        self.pools.entry(pool).or_default().used.push((times, existed));
    }

    /// Adds a call that made or found a pool.
    pub fn made(&mut self, id: u64, shared: bool, (begin, end): Times) {
        let pool = self.pools.entry(id).or_default();
        assert!(shared || pool.made.is_none(), "pool {id:#x} was made twice");
        pool.shared = shared;
        let (first_begin, first_end) = pool.made.unwrap_or((begin, end));
        pool.made = Some((first_begin.min(begin), first_end.min(end)));
        pool.used.push(((begin, end), true));
    }

    /// Adds a call that was to destroy a pool, and whether it says that it did.
    pub fn destroyed(&mut self, id: u64, times: Times, done: bool) {
        let pool = self.pools.entry(id).or_default();
        if done {
            assert!(pool.destroyed.is_empty(), "pool {id:#x} was destroyed twice");
            pool.destroyed.push(times);
        } else {
            pool.used.push((times, false));
        }
    }

    /// Adds one call of a deactivation, which destroys all pools.
    pub fn deactivated(&mut self, times: Times) {
        self.deactivations.push(times);
    }

    /// The verdict.
    ///
    /// # Panics
    ///
    /// If there is a call that cannot be explained.
    pub fn judge(mut self) {
        for (id, pool) in &mut self.pools {
            let made = pool.made.expect("pools are made before they are used");
            pool.endangered.extend(&pool.destroyed);
            for &(begin, end) in &self.deactivations {
                if made.1 < begin {
                    pool.destroyed.push((begin, end));
                }
                if made.0 < end {
                    pool.endangered.push((begin, end));
                }
            }
            for &((begin, end), existed) in &pool.used {
                let gone = pool.destroyed.iter().any(|destroyed| destroyed.1 < begin);
                assert!(!(existed && gone), "pool {id:#x} was found at {begin} after its end");
                let safe = pool.endangered.iter().all(|endangered| end < endangered.0);
                assert!(existed || !safe, "pool {id:#x} was not found at {begin} before its end");
            }
            self.flushes.extend(pool.destroyed.iter().map(|&times| (*id, None, times)));
        }
        for (&(pool, object, index), calls) in &mut self.calls {
            for &(flushed, of, (begin, end)) in &self.flushes {
                if flushed == pool && of.is_none_or(|of| of == object) {
                    calls.push(Event { call: Call::Flush, begin, end });
                }
            }
            if let Err(why) = explain(calls) {
                calls.sort_unstable_by_key(|event| event.begin);
                let lines: Vec<String> = calls.iter().map(|event| format!("  {event:?}")).collect();
                let lines = lines.join("\n");
                panic!(
                    "pool {pool:#x}, object {object}, index {index}: {why}; its calls:\n{lines}"
                );
            }
        }
    }
}
