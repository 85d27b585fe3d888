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
    use crate::addr::{PhysAddr, PhysRange};
    use crate::platform::{CopyFault, PageMemory};
    use crate::stash::frame::ACTIVE;
    use crate::stash::metadata::MetadataBuffer;
    use crate::stash::pool::{PageSize, Pool};
    use crate::stash::stats::Stats;
    use crate::stash::{Get, Put, Stash};
    use crate::tags::geometry::{Region, Regions};
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

    /// Each part of a page has a number that no other put's part has.
    #[test]
    fn no_two_puts_share_a_number() {
        let buffer = MetadataBuffer::with_frames(1);
        let epochs = Epochs::new(&buffer.metadata());
        let mut next = epochs.stamp(1).0 + 1;
        for parts in [1, 16, 4, 1, 16, 16, 1] {
            let stamp = epochs.stamp(parts).0;
            assert!(stamp >= next, "{stamp} is in use");
            next = stamp + u64::from(parts);
        }
    }

    /// A memory whose copies copy nothing.
    struct Nothing;

    impl PageMemory for Nothing {
        fn copy_chunk_in(&self, _: PhysAddr, _: PhysAddr) -> Result<(), CopyFault> {
            Ok(())
        }

        fn copy_page_out(&self, _: PhysAddr, _: PhysAddr) -> Result<(), CopyFault> {
            Ok(())
        }

        fn crc32c(&self, seed: u32, _: PhysRange) -> Result<u32, CopyFault> {
            Ok(seed)
        }
    }

    /// A frame's word has the low half of its put's number, and the era the rest: a page that was
    /// put before a flush stays flushed and one that was put after it is there, also where the
    /// low halves say otherwise, and where a page's parts have different eras.
    #[test]
    fn p2_a_page_is_found_across_the_wrap_of_its_number() {
        let storage = PhysRange::new(PhysAddr(1 << 40), 64 << 12).unwrap();
        let tagged = PhysRange::new(PhysAddr(1 << 30), 64 << 17).unwrap();
        let region = Region::new(tagged, storage, 4096).unwrap();
        let regions = Regions::new(vec![region], 1).unwrap();
        let buffer = MetadataBuffer::new(&regions);
        let stash = Stash::new(regions, buffer.metadata());
        (0..64).for_each(|f| buffer.metadata().state(f).store(ACTIVE, Ordering::Relaxed));
        let (stats, ram) = (Stats::new(1), PhysAddr(1 << 30));
        for (shift, parts) in [(12, 1), (14, 4), (16, 16)] {
            let page_size = PageSize::from_shift(shift).unwrap();
            let pool = Pool { id: A.pool, page_size, shared: false };
            let put = |index| {
                let mut result = None;
                let done = |_, put| result = Some(put);
                stash.put(&pool, A, index, ram, &Nothing, stats.of(0), 0..1, done);
                assert_eq!(result, Some(Put::Kept));
            };
            let get = |index| {
                let mut result = None;
                let done = |_, get| result = Some(get);
                stash.get(&pool, A, index, ram, &Nothing, stats.of(0), 0..1, done);
                result.unwrap()
            };
            for (era, before) in [(1u64, 0), (2, 1), (3, parts / 2), (4, parts), (5, 3 * parts)] {
                let wrap = (shift * 8 + era) << 32;
                stash.epochs.clock.0.store(wrap - before, Ordering::Relaxed);
                put(1);
                stash.flush_object(&A, stats.of(0));
                put(2);
                assert_eq!((get(1), get(2), get(2)), (Get::Miss, Get::Hit, Get::Miss), "{before}");
            }
        }
    }

    /// A file system that evicts inodes all the time, one for every four pages that are put,
    /// must not empty the stash, whatever its size.
    #[test]
    fn p10_flushes_of_other_objects_leave_most_pages_alone() {
        for frames in if cfg!(miri) { [64; 3] } else { [256, 4096, 65536] } {
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
