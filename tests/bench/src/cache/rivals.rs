// SPDX-License-Identifier: MIT OR Apache-2.0
//! The other caches.

use super::pages::Stored;
use super::{Cache, Subject};
use crate::key::{Fields, Key, Passing};
use lru::LruCache;
use moka::policy::EvictionPolicy;
use quick_cache::sync::DefaultLifecycle;
use quick_cache::{DefaultHashBuilder, OptionsBuilder, UnitWeighter};
use std::fmt;
use std::hash::{BuildHasher, Hash};
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

/// What can be chosen of `quick_cache`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuickChoice {
    pub shards: usize,
    /// Its own hash function, in place of the stash's.
    pub own_hash: bool,
}

impl QuickChoice {
    /// All that are tried.
    pub fn all() -> impl Iterator<Item = QuickChoice> {
        let shards = [4, 16, 64, 256, 1024];
        shards
            .into_iter()
            .flat_map(|shards| [false, true].map(|own_hash| QuickChoice { shards, own_hash }))
    }

    /// Makes the cache.
    pub fn make<S: Stored + Clone>(self, capacity: u32, memory: S::Memory) -> Box<dyn Subject> {
        if self.own_hash {
            Box::new(Quick::<S, Fields, DefaultHashBuilder>::new(capacity, self.shards, memory))
        } else {
            Box::new(Quick::<S, Key, Passing>::new(capacity, self.shards, memory))
        }
    }
}

impl fmt::Display for QuickChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = if self.own_hash { "its own" } else { "the stash's" };
        write!(f, "{} shards, {whose} hash function", self.shards)
    }
}

/// `quick_cache`, sharded.
pub struct Quick<S: Stored, K, B> {
    map: quick_cache::sync::Cache<K, S, UnitWeighter, B>,
    memory: S::Memory,
}

impl<S, K, B> Quick<S, K, B>
where
    S: Stored + Clone,
    K: Hash + Eq,
    B: BuildHasher + Default + Clone,
{
    pub fn new(capacity: u32, shards: usize, memory: S::Memory) -> Self {
        let options = OptionsBuilder::new()
            .estimated_items_capacity(capacity as usize)
            .weight_capacity(capacity.into())
            .shards(shards)
            .build()
            .expect("a capacity and an estimate are all that it needs");
        let lifecycle = DefaultLifecycle::default();
        let map =
            quick_cache::sync::Cache::with_options(options, UnitWeighter, B::default(), lifecycle);
        Quick { map, memory }
    }
}

impl<S, K, B> Cache for Quick<S, K, B>
where
    S: Stored + Clone,
    K: Hash + Eq + Clone + From<Key> + Send + Sync,
    B: BuildHasher + Clone + Send + Sync,
{
    fn name(&self) -> &'static str {
        "quick_cache"
    }

    #[inline(always)]
    fn put(&self, _: u32, key: &Key, page: u32) {
        self.map.insert(K::from(*key), S::keep(&self.memory, page));
    }

    #[inline(always)]
    fn get(&self, _: u32, key: &Key, page: u32) -> bool {
        let value = self.map.remove(&K::from(*key));
        value.inspect(|(_, value)| value.give(&self.memory, page)).is_some()
    }

    #[inline(always)]
    fn flush(&self, _: u32, key: &Key) {
        self.map.remove(&K::from(*key));
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
