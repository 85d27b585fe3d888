// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory that describes the frames: state words, entries, stamps, claimed bits, and the
//! moments of flushes. 64 bytes a frame.
//!
//! Frames are set-associative: a key hashes to one set, and may lie in any of the set's
//! [`WAYS`] frames. Frame `way * sets + set` belongs to way `way` of set `set`, so that a
//! contiguous run of tagged memory, which takes contiguous frames, costs every set the same
//! few ways. What describes the frames of one set is adjacent: *slot* `set * WAYS + way`.

use super::frame::StateWord;
use super::key::{OBJECT_WORDS, OWNER_BITS, PartKey};
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::tags::geometry::Regions;

/// Frames in which a page may lie. (The model checker needs few steps: two.)
pub const WAYS: usize = if cfg!(loom) { 2 } else { 16 };

/// The full key of the page in a frame, and what else there is to know about the page. Read
/// and written without order: the state word's transitions say when it is valid.
#[repr(C)]
#[derive(Debug)]
pub struct Entry {
    object: [AtomicU64; OBJECT_WORDS],
    index: AtomicU64,
    /// [`PartKey::owner`] in the low bits, [`VERIFIED`], and the page's CRC-32C in the high
    /// half.
    owner: AtomicU64,
}

/// Flag in [`Entry::owner`]: the CRC is valid.
const VERIFIED: u64 = 1 << OWNER_BITS;
const CRC_SHIFT: u32 = 32;

const _: () = assert!(OWNER_BITS < CRC_SHIFT);
const _: () = assert!(cfg!(loom) || size_of::<Entry>() == 40);

impl Entry {
    /// Says whether the entry is of `key`.
    #[inline(always)]
    pub fn is_of(&self, key: &PartKey) -> bool {
        self.object[0].load(Ordering::Relaxed) == key.object.words[0]
            && self.index.load(Ordering::Relaxed) == key.index
            && self.object[1].load(Ordering::Relaxed) == key.object.words[1]
            && self.object[2].load(Ordering::Relaxed) == key.object.words[2]
            && self.owner.load(Ordering::Relaxed) & (VERIFIED - 1) == key.owner()
    }

    /// The CRC-32C of the page, if it was put under verification.
    #[inline(always)]
    pub fn crc(&self) -> Option<u32> {
        let owner = self.owner.load(Ordering::Relaxed);
        (owner & VERIFIED != 0).then_some((owner >> CRC_SHIFT) as u32)
    }

    /// Describes a page that is about to be copied. The caller has the frame in WRITING.
    #[inline(always)]
    pub fn describe(&self, key: &PartKey) {
        for (word, value) in self.object.iter().zip(key.object.words) {
            word.store(value, Ordering::Relaxed);
        }
        self.index.store(key.index, Ordering::Relaxed);
        self.owner.store(key.owner(), Ordering::Relaxed);
    }

    /// Adds the CRC-32C of the page, once it is copied. The caller has the frame in WRITING.
    #[inline(always)]
    pub fn verify_with(&self, key: &PartKey, crc: u32) {
        let owner = key.owner() | VERIFIED | u64::from(crc) << CRC_SHIFT;
        self.owner.store(owner, Ordering::Relaxed);
    }
}

/// The metadata of all frames.
#[derive(Clone, Copy, Debug)]
pub struct Metadata<'a> {
    /// By slot. Words of slots beyond the last frame stay zero: dormant.
    states: &'a [AtomicU64],
    /// By slot.
    entries: &'a [Entry],
    /// By slot: when the page was put. Read and written as entries are, and apart from them,
    /// because eviction compares the stamps of a whole set.
    stamps: &'a [AtomicU64],
    /// By bucket of objects: see [`super::epoch`].
    moments: &'a [AtomicU64],
    /// By frame: one bit for each of the 32 pages whose tags the frame holds.
    claimed: &'a [AtomicU32],
    sets: u32,
}

/// How many of what a number of frames needs.
struct Shape {
    sets: usize,
    slots: usize,
    frames: usize,
    buckets: usize,
}

impl Shape {
    fn of(frames: u32) -> Shape {
        let frames = frames as usize;
        let sets = frames.div_ceil(WAYS);
        // Enough that the flush of one object seldom drops another's pages, however large the
        // stash is: as many buckets as 64 bytes a frame leave room for. (The model checker is
        // to see an object whose two buckets differ.)
        let buckets = (frames / 2).max(if cfg!(loom) { 2 } else { 1 });
        Shape { sets, slots: sets * WAYS, frames, buckets }
    }
}

impl<'a> Metadata<'a> {
    /// Bytes of zeroed memory, 64-byte aligned, that [`from_zeroed`](Self::from_zeroed) needs.
    #[cfg(not(loom))]
    pub fn bytes_for(regions: &Regions) -> u64 {
        let shape = Shape::of(regions.frames());
        (shape.slots * (2 * size_of::<AtomicU64>() + size_of::<Entry>())
            + shape.buckets * size_of::<AtomicU64>()
            + shape.frames * size_of::<AtomicU32>()) as u64
    }

    /// Lays the metadata of `regions` out in memory at `base`.
    ///
    /// # Safety
    ///
    /// `base` is aligned to 64 bytes and points to [`bytes_for`](Self::bytes_for) bytes that
    /// are zero, readable and writable for `'a`, and accessed through the result only.
    #[cfg(not(loom))]
    pub unsafe fn from_zeroed(base: core::ptr::NonNull<u8>, regions: &Regions) -> Metadata<'a> {
        let shape = Shape::of(regions.frames());
        let states = base.cast::<AtomicU64>();
        // SAFETY: the five arrays lie one behind the other in the bytes that the caller vouches
        // for: their sizes are the summands of `bytes_for`. Each begins aligned, because the
        // arrays of 8-byte words come before those of 4-byte words. Zero is a valid value of every atomic integer.
        unsafe {
            let entries = states.add(shape.slots).cast::<Entry>();
            let stamps = entries.add(shape.slots).cast::<AtomicU64>();
            let moments = stamps.add(shape.slots);
            let claimed = moments.add(shape.buckets).cast::<AtomicU32>();
            Metadata {
                states: core::slice::from_raw_parts(states.as_ptr(), shape.slots),
                entries: core::slice::from_raw_parts(entries.as_ptr(), shape.slots),
                stamps: core::slice::from_raw_parts(stamps.as_ptr(), shape.slots),
                moments: core::slice::from_raw_parts(moments.as_ptr(), shape.buckets),
                claimed: core::slice::from_raw_parts(claimed.as_ptr(), shape.frames),
                sets: shape.sets as u32,
            }
        }
    }

    /// The set that `hash` chooses, by its high bits. There is one: pools, without which there
    /// are no keys, are made only where there are frames.
    #[inline(always)]
    pub fn set_of(&self, hash: u64) -> Set<'a> {
        let number = (((hash >> 32) * u64::from(self.sets)) >> 32) as usize;
        let ways = number * WAYS..number * WAYS + WAYS;
        Set {
            number: number as u32,
            sets: self.sets,
            states: &self.states[ways.clone()],
            entries: &self.entries[ways.clone()],
            stamps: &self.stamps[ways],
        }
    }

    /// The state word of frame number `frame`.
    #[inline(always)]
    pub fn state(&self, frame: u32) -> &'a AtomicU64 {
        let (way, set) = (frame / self.sets, frame % self.sets);
        &self.states[set as usize * WAYS + way as usize]
    }

    /// The state word of frame number `frame`, as it is now.
    #[inline(always)]
    pub fn load(&self, frame: u32, order: Ordering) -> StateWord {
        StateWord(self.state(frame).load(order))
    }

    /// The moments of the last flushes, by bucket of objects.
    pub fn moments(&self) -> &'a [AtomicU64] {
        self.moments
    }

    /// The claimed bits of frame number `frame`: bit *i* is the *i*-th page whose tags it holds.
    #[inline(always)]
    pub fn claimed(&self, frame: u32) -> &'a AtomicU32 {
        &self.claimed[frame as usize]
    }
}

/// One set: the frames in which a key may lie. Ways are numbers below [`WAYS`].
#[derive(Clone, Copy, Debug)]
pub struct Set<'a> {
    number: u32,
    sets: u32,
    states: &'a [AtomicU64],
    entries: &'a [Entry],
    stamps: &'a [AtomicU64],
}

impl<'a> Set<'a> {
    /// The number of the frame of way `way`. Some frames of the last ways may not exist: their
    /// word is dormant for ever.
    #[inline(always)]
    pub fn frame(&self, way: usize) -> u32 {
        way as u32 * self.sets + self.number
    }

    /// The state word of a way.
    #[inline(always)]
    pub fn state(&self, way: usize) -> &'a AtomicU64 {
        &self.states[way]
    }

    /// The state word of a way, as it is now.
    #[inline(always)]
    pub fn load(&self, way: usize, order: Ordering) -> StateWord {
        StateWord(self.states[way].load(order))
    }

    /// All state words, each loaded when its turn comes, with their ways.
    #[inline(always)]
    pub fn words(&self, order: Ordering) -> impl Iterator<Item = (usize, StateWord)> + use<'a> {
        self.states.iter().enumerate().map(move |(way, state)| (way, StateWord(state.load(order))))
    }

    /// Swaps a way's word, if it is still `from`, for `to`. Says whether it was.
    #[inline(always)]
    pub fn swap(&self, way: usize, from: StateWord, to: StateWord, order: Ordering) -> bool {
        self.states[way].compare_exchange(from.0, to.0, order, Ordering::Relaxed).is_ok()
    }

    /// The entry of a way.
    #[inline(always)]
    pub fn entry(&self, way: usize) -> &'a Entry {
        &self.entries[way]
    }

    /// When the page in a way's frame was put.
    #[inline(always)]
    pub fn stamp(&self, way: usize) -> &'a AtomicU64 {
        &self.stamps[way]
    }
}

/// Metadata in ordinary memory, for hosts: tests and models.
#[derive(Debug)]
pub struct MetadataBuffer {
    states: alloc::vec::Vec<AtomicU64>,
    entries: alloc::vec::Vec<Entry>,
    stamps: alloc::vec::Vec<AtomicU64>,
    moments: alloc::vec::Vec<AtomicU64>,
    claimed: alloc::vec::Vec<AtomicU32>,
    sets: u32,
}

impl MetadataBuffer {
    /// Allocates the metadata of `regions`, all zero.
    pub fn new(regions: &Regions) -> MetadataBuffer {
        Self::with_frames(regions.frames())
    }

    /// Allocates the metadata of so many frames, all zero.
    pub fn with_frames(frames: u32) -> MetadataBuffer {
        let shape = Shape::of(frames);
        let zeros = |count| (0..count).map(|_| AtomicU64::new(0)).collect();
        let entry = || Entry {
            object: core::array::from_fn(|_| AtomicU64::new(0)),
            index: AtomicU64::new(0),
            owner: AtomicU64::new(0),
        };
        MetadataBuffer {
            states: zeros(shape.slots),
            entries: (0..shape.slots).map(|_| entry()).collect(),
            stamps: zeros(shape.slots),
            moments: zeros(shape.buckets),
            claimed: (0..shape.frames).map(|_| AtomicU32::new(0)).collect(),
            sets: shape.sets as u32,
        }
    }

    /// Borrows it as the stash and the ledger want it.
    pub fn metadata(&self) -> Metadata<'_> {
        Metadata {
            states: &self.states,
            entries: &self.entries,
            stamps: &self.stamps,
            moments: &self.moments,
            claimed: &self.claimed,
            sets: self.sets,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::addr::{PhysAddr, PhysRange};
    use crate::stash::key::Object;
    use crate::stash::pool::PoolId;
    use crate::tags::geometry::Region;
    use std::collections::HashSet;

    fn regions(frames: u64) -> Regions {
        let storage = PhysRange::new(PhysAddr(1 << 45), frames * 4096).unwrap();
        let tagged = PhysRange::new(PhysAddr(1 << 30), frames * 4096 * 32).unwrap();
        Regions::new(vec![Region::new(tagged, storage, 4096).unwrap()], 4).unwrap()
    }

    /// A hash whose high bits choose set `number`.
    fn hash_of_set(metadata: &Metadata<'_>, number: u32) -> u64 {
        (u64::from(number) << 32).div_ceil(u64::from(metadata.sets)) << 32
    }

    #[test]
    fn every_frame_has_one_slot_and_the_two_numberings_agree() {
        for frames in [1, 15, 16, 17, 100, 1984] {
            let buffer = MetadataBuffer::new(&regions(frames));
            let metadata = buffer.metadata();
            let mut seen = HashSet::new();
            for number in 0..metadata.sets {
                let set = metadata.set_of(hash_of_set(&metadata, number));
                assert_eq!(set.number, number);
                for way in 0..WAYS {
                    let frame = set.frame(way);
                    if u64::from(frame) < frames {
                        assert!(core::ptr::eq(metadata.state(frame), set.state(way)));
                        seen.insert(frame);
                    }
                }
            }
            assert_eq!(seen.len() as u64, frames);
            let top = metadata.set_of(u64::MAX);
            assert_eq!(top.number, metadata.sets - 1);
        }
    }

    #[test]
    fn a_frame_costs_at_most_64_bytes() {
        for frames in [4096, 1 << 20, 8 << 20] {
            assert!(Metadata::bytes_for(&regions(frames)) <= frames * 64);
        }
    }

    #[test]
    fn metadata_laid_out_in_memory_uses_exactly_its_bytes() {
        let regions = regions(100);
        let bytes = Metadata::bytes_for(&regions) as usize;
        let mut memory = vec![0u64; bytes.div_ceil(8) + 8];
        let skip = memory.as_ptr().align_offset(64);
        let base = core::ptr::NonNull::new(memory[skip..].as_mut_ptr().cast::<u8>()).unwrap();
        // SAFETY: `memory` holds `bytes` zero bytes from the aligned `base` on, and is not
        // touched otherwise while `metadata` is used.
        let metadata = unsafe { Metadata::from_zeroed(base, &regions) };
        let set = metadata.set_of(u64::MAX);
        let last = WAYS - 1;
        set.state(last).store(u64::MAX, Ordering::Relaxed);
        metadata.claimed(99).store(u32::MAX, Ordering::Relaxed);
        assert_eq!(set.stamp(last).load(Ordering::Relaxed), 0);
        assert_eq!(set.entry(last).crc(), None);
        let last_claimed = core::ptr::from_ref(metadata.claimed(99)) as usize;
        assert_eq!(last_claimed + 4, base.as_ptr() as usize + bytes);
    }

    #[test]
    fn keys_that_differ_in_any_field_are_different() {
        let buffer = MetadataBuffer::new(&regions(16));
        let entry = buffer.metadata().set_of(0).entry(3);
        let object = Object { pool: PoolId(1), words: [5, 6, 7] };
        let key = PartKey { object, index: 8, part: 1 };
        entry.describe(&key);
        assert!(entry.is_of(&key) && entry.crc().is_none());
        entry.verify_with(&key, u32::MAX - 1);
        assert!(entry.is_of(&key) && entry.crc() == Some(u32::MAX - 1));
        for other in [
            PartKey { part: 2, ..key },
            PartKey { index: 9, ..key },
            PartKey { object: Object { pool: PoolId(2), ..object }, ..key },
            PartKey { object: Object { words: [4, 6, 7], ..object }, ..key },
            PartKey { object: Object { words: [5, 7, 7], ..object }, ..key },
            PartKey { object: Object { words: [5, 6, 6], ..object }, ..key },
        ] {
            assert!(!entry.is_of(&other), "{other:?}");
        }
    }
}
