// SPDX-License-Identifier: MIT OR Apache-2.0
//! The other caches, each in the best configuration that was found.

use super::Cache;
use super::pages::Stored;
use crate::key::{Key, Passing};
use lru::LruCache;
use moka::policy::EvictionPolicy;
use quick_cache::sync::DefaultLifecycle;
use quick_cache::{OptionsBuilder, UnitWeighter};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

/// A mutex around a map in the order of last use.
pub struct MutexLru<S: Stored> {
    map: Mutex<LruCache<Key, S, Passing>>,
    memory: S::Memory,
}

impl<S: Stored> MutexLru<S> {
    pub fn new(capacity: u32, memory: S::Memory) -> Self {
        let capacity = NonZeroUsize::new(capacity as usize).expect("a cache has pages");
        MutexLru { map: Mutex::new(LruCache::with_hasher(capacity, Passing::default())), memory }
    }
}

impl<S: Stored> Cache for MutexLru<S> {
    fn name(&self) -> &'static str {
        "mutex + lru"
    }

    // Pages are copied, and given up, outside the lock.
    #[inline(always)]
    fn put(&self, _: u32, key: &Key, page: u32) {
        let value = S::keep(&self.memory, page);
        let old = self.map.lock().expect("no thread panics").push(*key, value);
        drop(old);
    }

    #[inline(always)]
    fn get(&self, _: u32, key: &Key, page: u32) -> bool {
        let value = self.map.lock().expect("no thread panics").pop(key);
        value.inspect(|value| value.give(&self.memory, page)).is_some()
    }

    #[inline(always)]
    fn flush(&self, _: u32, key: &Key) {
        let old = self.map.lock().expect("no thread panics").pop(key);
        drop(old);
    }
}

/// `quick_cache`, sharded.
pub struct Quick<S: Stored + Clone> {
    map: quick_cache::sync::Cache<Key, S, UnitWeighter, Passing>,
    memory: S::Memory,
}

impl<S: Stored + Clone> Quick<S> {
    pub fn new(capacity: u32, shards: usize, memory: S::Memory) -> Self {
        let options = OptionsBuilder::new()
            .estimated_items_capacity(capacity as usize)
            .weight_capacity(capacity.into())
            .shards(shards)
            .build()
            .expect("a capacity and an estimate are all that it needs");
        let lifecycle = DefaultLifecycle::default();
        let map = quick_cache::sync::Cache::with_options(
            options,
            UnitWeighter,
            Passing::default(),
            lifecycle,
        );
        Quick { map, memory }
    }
}

impl<S: Stored + Clone> Cache for Quick<S> {
    fn name(&self) -> &'static str {
        "quick_cache"
    }

    #[inline(always)]
    fn put(&self, _: u32, key: &Key, page: u32) {
        self.map.insert(*key, S::keep(&self.memory, page));
    }

    #[inline(always)]
    fn get(&self, _: u32, key: &Key, page: u32) -> bool {
        let value = self.map.remove(key);
        value.inspect(|(_, value)| value.give(&self.memory, page)).is_some()
    }

    #[inline(always)]
    fn flush(&self, _: u32, key: &Key) {
        self.map.remove(key);
    }
}

/// `moka`, by last use: its default refuses pages that were seen once, which a victim cache has.
pub struct Moka<S: Stored> {
    map: moka::sync::Cache<Key, Arc<S>, Passing>,
    memory: S::Memory,
}

impl<S: Stored> Moka<S> {
    pub fn new(capacity: u32, memory: S::Memory) -> Self {
        let map = moka::sync::Cache::builder()
            .max_capacity(capacity.into())
            .initial_capacity(capacity as usize)
            .eviction_policy(EvictionPolicy::lru())
            .build_with_hasher(Passing::default());
        Moka { map, memory }
    }
}

impl<S: Stored> Cache for Moka<S> {
    fn name(&self) -> &'static str {
        "moka"
    }

    #[inline(always)]
    fn put(&self, _: u32, key: &Key, page: u32) {
        self.map.insert(*key, Arc::new(S::keep(&self.memory, page)));
    }

    #[inline(always)]
    fn get(&self, _: u32, key: &Key, page: u32) -> bool {
        let value = self.map.remove(key);
        value.inspect(|value| value.give(&self.memory, page)).is_some()
    }

    #[inline(always)]
    fn flush(&self, _: u32, key: &Key) {
        self.map.invalidate(key);
    }
}
