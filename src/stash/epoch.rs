// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flushes in constant time: a clock that stamps every put, and the *moment* of the last flush
//! of each pool and each bucket of objects.
//!
//! A page is *fresh* if its stamp is not before the last flush of its pool and of its object.
//! One 64-bit stamp does three jobs: it tells fresh from flushed, it is the mark that all parts
//! of one large page share, and its low half goes into the frames' state words, where it is the
//! page's age and what tells it from the frame's other pages. For that last purpose a put draws
//! one number for each part of its page; its stamp is the first of them.
//!
//! Why this is right: a put takes its stamp in its first step, so every put that had returned
//! before a flush was called has a stamp below the clock that the flush reads, and a get that
//! is called after the flush returned sees the moved moment. A put that begins after the flush
//! returned draws a later stamp. What overlaps may go either way. Moments only move forward
//! and are never reset, so nothing that was flushed comes back when a pool id is used again.
//!
//! An object has three buckets, by three pieces of its hash, and is flushed when all have moved:
//! other objects' flushes seldom hit all three. `docs/performance.md` has what that is worth.

use super::key::{FACTOR, Object, fold};
use super::metadata::Metadata;
use super::pool::{POOLS, PoolId};
use crate::sync::{AtomicU64, Ordering};

/// When a page was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(pub u64);

/// The stamp of the next put, on cache lines of its own: every put writes it.
#[derive(Debug)]
#[repr(align(128))]
struct Clock(AtomicU64);

/// The clock and the moments of the last flushes.
#[derive(Debug)]
pub struct Epochs<'a> {
    clock: Clock,
    pools: [AtomicU64; POOLS],
    /// At least one.
    objects: &'a [AtomicU64],
}

/// The moment before which pages of an object are flushed, as a call saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Horizon(u64);

impl Horizon {
    /// Says whether a page with this stamp has not been flushed.
    #[inline(always)]
    pub fn is_fresh(self, stamp: Stamp) -> bool {
        stamp.0 >= self.0
    }
}

impl<'a> Epochs<'a> {
    /// Makes the clock at 0; nothing is flushed. The moments of objects are `metadata`'s.
    pub fn new(metadata: &Metadata<'a>) -> Epochs<'a> {
        Epochs {
            clock: Clock(AtomicU64::new(0)),
            pools: core::array::from_fn(|_| AtomicU64::new(0)),
            objects: metadata.moments(),
        }
    }

    /// Draws as many numbers for a put as its page has parts: its stamp, and those that follow.
    /// No other put has any of them.
    #[inline(always)]
    pub fn stamp(&self, parts: u32) -> Stamp {
        Stamp(self.clock.0.fetch_add(parts.into(), Ordering::Relaxed))
    }

    /// The horizon of an object, given its hash, as of now. A flush that had returned before the
    /// caller was called is in it, and it may hold later ones.
    #[inline(always)]
    pub fn horizon(&self, object: &Object, hash: u64) -> Horizon {
        let [a, b, c] = self.buckets(hash).map(|bucket| bucket.load(Ordering::Relaxed));
        let pool = self.pool(object.pool).load(Ordering::Relaxed);
        Horizon(a.min(b).min(c).max(pool))
    }

    /// Flushes an object, given its hash.
    #[inline(always)]
    pub fn flush_object(&self, hash: u64) {
        let now = self.clock.0.load(Ordering::Relaxed);
        for bucket in self.buckets(hash) {
            bucket.fetch_max(now, Ordering::Release);
        }
    }

    /// Flushes a pool.
    #[inline(always)]
    pub fn flush_pool(&self, pool: PoolId) {
        self.pool(pool).fetch_max(self.clock.0.load(Ordering::Relaxed), Ordering::Release);
    }

    #[inline(always)]
    fn pool(&self, pool: PoolId) -> &AtomicU64 {
        &self.pools[pool.place()]
    }

    #[inline(always)]
    fn buckets(&self, hash: u64) -> [&'a AtomicU64; 3] {
        let (count, hash) = (self.objects.len() as u64, fold(hash, FACTOR));
        [0, 21, 42].map(|shift| {
            // Fewer than 2^32 buckets: half a hash times that fits 64 bits.
            let half = hash.rotate_right(shift) >> 32;
            &self.objects[(half.wrapping_mul(count) >> 32) as usize]
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::stash::metadata::MetadataBuffer;
    use std::vec::Vec;

    const A: Object = Object { pool: PoolId(1), words: [1, 2, 3] };
    const B: Object = Object { pool: PoolId(1), words: [1, 2, 4] };
    const C: Object = Object { pool: PoolId(2), words: [1, 2, 3] };

    /// P3: a flush covers every put before it, and none after.
    #[test]
    fn p3_a_flush_covers_what_was_before_it_and_nothing_else() {
        let buffer = MetadataBuffer::with_frames(4096);
        let epochs = Epochs::new(&buffer.metadata());
        let fresh = |object: &Object, stamp| epochs.horizon(object, object.hash()).is_fresh(stamp);
        let old = epochs.stamp(1);
        assert!(fresh(&A, old) && fresh(&B, old) && fresh(&C, old));
        epochs.flush_object(A.hash());
        assert!(!fresh(&A, old) && fresh(&B, old) && fresh(&C, old));
        let new = epochs.stamp(1);
        assert!(new.0 > old.0 && fresh(&A, new));
        epochs.flush_pool(A.pool);
        assert!(!fresh(&A, new) && !fresh(&B, new) && fresh(&C, new));
        assert!(fresh(&A, epochs.stamp(1)));
    }

    /// A file system that evicts inodes all the time, one for every four pages that are put,
    /// must not empty the stash, whatever its size.
    #[test]
    fn p10_flushes_of_other_objects_leave_most_pages_alone() {
        for frames in [256, 4096, 65536] {
            let buffer = MetadataBuffer::with_frames(frames);
            let epochs = Epochs::new(&buffer.metadata());
            let object = |n: u64| Object { pool: PoolId(1), words: [n, 7, 0] };
            // As many puts as a full stash holds, oldest first.
            let stamps: Vec<Stamp> = (0..u64::from(frames))
                .map(|n| {
                    if n % 4 == 0 {
                        epochs.flush_object(object(1 << 40 | n).hash());
                    }
                    epochs.stamp(1)
                })
                .collect();
            let fresh = (0..)
                .zip(&stamps)
                .filter(|&(n, &stamp)| epochs.horizon(&object(n), object(n).hash()).is_fresh(stamp))
                .count();
            assert!(fresh * 100 >= stamps.len() * 75, "{fresh} of {frames}");
        }
    }
}
