// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory that describes the frames: state words, entries, eras, claimed bits, and the
//! moments of flushes. 64 bytes a frame.
//!
//! Frames are set-associative: a key hashes to [`CHOICES`] sets, and may lie in any of their
//! [`WAYS`] frames, its *candidates*. Frame `way * sets + set` belongs to way `way` of set `set`,
//! so that a contiguous run of tagged memory, which takes contiguous frames, costs every set the
//! same few ways. What describes the frames of one set is adjacent.

use super::frame::StateWord;
use super::key::{OBJECT_WORDS, OWNER_BITS, PartKey};
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::tags::geometry::Regions;

/// Frames of a set. (The model checker needs few steps: two.)
pub const WAYS: usize = if cfg!(loom) { 2 } else { 8 };
/// Sets in which a page may lie. A put takes the best frame of both, which fills the frames
/// evenly: see `docs/performance.md`.
pub const CHOICES: usize = if cfg!(loom) { 1 } else { 2 };
/// Frames in which a page may lie.
pub const CANDIDATES: usize = WAYS * CHOICES;

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

/// What describes the frames of one set, by way.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Set {
    /// Adjacent, because every call looks at all of them. The word of a frame that does not
    /// exist, in the last ways, stays zero: dormant.
    states: [AtomicU64; WAYS],
    entries: [Entry; WAYS],
}

const _: () = assert!(cfg!(loom) || size_of::<Set>() == WAYS * 48);
const _: () = assert!(CHOICES == 1 || CHOICES == 2);

impl Set {
    /// The frame of way `way` of this set, which is number `set`.
    #[inline(always)]
    fn slot(&self, set: u32, way: usize) -> Slot<'_> {
        Slot { state: &self.states[way], entry: &self.entries[way], set, way }
    }

    /// The first frame from way `from` on whose word is as `wanted` says.
    #[inline(always)]
    fn next(&self, from: usize, wanted: impl Fn(StateWord) -> bool) -> Option<(usize, StateWord)> {
        for way in from..WAYS {
            let word = StateWord(self.states[way].load(Ordering::Relaxed));
            if wanted(word) {
                return Some((way, word));
            }
        }
        None
    }

    /// Says whether a frame's word is as `wanted` says.
    #[inline(always)]
    fn has(&self, wanted: impl Fn(StateWord) -> bool) -> bool {
        // No branch for each word: the compiler makes a chain of conditional compares.
        self.states
            .iter()
            .fold(false, |has, state| has | wanted(StateWord(state.load(Ordering::Relaxed))))
    }
}

/// The metadata of all frames.
#[derive(Clone, Copy, Debug)]
pub struct Metadata<'a> {
    sets: &'a [Set],
    /// By set and way: the high half of the number of the put whose low half is in the frame's
    /// word. Read and written as entries are.
    eras: &'a [[AtomicU32; WAYS]],
    /// By bucket of objects: see [`super::epoch`].
    moments: &'a [AtomicU64],
    /// By frame: one bit for each of the 32 pages whose tags the frame holds.
    claimed: &'a [AtomicU32],
}

/// How many of what a number of frames needs.
struct Shape {
    sets: usize,
    frames: usize,
    buckets: usize,
}

impl Shape {
    fn of(frames: u32) -> Shape {
        let frames = frames as usize;
        // A key's sets are different ones.
        let sets = frames.div_ceil(WAYS).max(CHOICES);
        // Enough that the flush of one object seldom drops another's pages, however large the
        // stash is: as many buckets as 64 bytes a frame leave room for. (The model checker is
        // to see an object whose buckets differ.)
        let buckets = frames.max(if cfg!(loom) { 2 } else { 1 });
        Shape { sets, frames, buckets }
    }
}

impl<'a> Metadata<'a> {
    /// Bytes of zeroed memory, 64-byte aligned, that [`from_zeroed`](Self::from_zeroed) needs.
    #[cfg(not(loom))]
    pub fn bytes_for(regions: &Regions) -> u64 {
        let shape = Shape::of(regions.frames());
        (shape.sets * (size_of::<Set>() + size_of::<[AtomicU32; WAYS]>())
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
        let sets = base.cast::<Set>();
        // SAFETY: the four arrays lie one behind the other in the bytes that the caller vouches
        // for: their sizes are the summands of `bytes_for`. Each begins aligned, because the
        // alignments fall from 64 to 8 to 4. Zero is a valid value of every atomic integer.
        unsafe {
            let moments = sets.add(shape.sets).cast::<AtomicU64>();
            let eras = moments.add(shape.buckets).cast::<[AtomicU32; WAYS]>();
            let claimed = eras.add(shape.sets).cast::<AtomicU32>();
            Metadata {
                sets: core::slice::from_raw_parts(sets.as_ptr(), shape.sets),
                eras: core::slice::from_raw_parts(eras.as_ptr(), shape.sets),
                moments: core::slice::from_raw_parts(moments.as_ptr(), shape.buckets),
                claimed: core::slice::from_raw_parts(claimed.as_ptr(), shape.frames),
            }
        }
    }

    /// The candidates of a key with this hash.
    #[inline(always)]
    pub fn candidates(&self, hash: u64) -> Candidates<'a> {
        // One set in each of as many parts of the table as there are choices, so they are
        // different ones. Fewer than 2^32 sets: half a hash times that fits 64 bits.
        let part = self.sets.len() / CHOICES;
        Candidates {
            sets: core::array::from_fn(|choice| {
                let half = hash.rotate_right(32 * choice as u32) >> 32;
                let last = choice + 1 == CHOICES;
                let start = choice.wrapping_mul(part);
                let count = if last { self.sets.len().wrapping_sub(start) } else { part };
                let offset = (half.wrapping_mul(count as u64) >> 32) as usize;
                let number = start.wrapping_add(offset);
                (&self.sets[number], number as u32)
            }),
        }
    }

    /// The number of a frame.
    #[inline(always)]
    pub fn frame(&self, slot: &Slot<'_>) -> u32 {
        (slot.way as u32).wrapping_mul(self.sets.len() as u32).wrapping_add(slot.set)
    }

    /// The high half of the number of the put whose low half is in the frame's word.
    #[inline(always)]
    pub fn era(&self, slot: &Slot<'_>) -> &'a AtomicU32 {
        &self.eras[slot.set as usize][slot.way % WAYS]
    }

    /// The state word of frame number `frame`.
    #[inline(always)]
    pub fn state(&self, frame: u32) -> &'a AtomicU64 {
        let sets = self.sets.len() as u32;
        &self.sets[(frame % sets) as usize].states[(frame / sets) as usize % WAYS]
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

/// The frames in which a key may lie.
#[derive(Clone, Copy, Debug)]
pub struct Candidates<'a> {
    /// The sets, each with its number.
    sets: [(&'a Set, u32); CHOICES],
}

impl<'a> Candidates<'a> {
    /// Says whether there is a candidate whose word is as `wanted` says. The loads are relaxed.
    #[inline(always)]
    pub fn has(&self, wanted: impl Fn(StateWord) -> bool) -> bool {
        for (set, _) in &self.sets {
            if set.has(&wanted) {
                return true;
            }
        }
        false
    }

    /// The first candidate whose word is as `wanted` says: its place, for [`slot`](Self::slot), and
    /// the word. Mostly there is none, so that this is one quick look at the words. The loads are
    /// relaxed: who goes on to read what the word guards needs an acquire fence.
    #[inline(always)]
    pub fn first(&self, wanted: impl Fn(StateWord) -> bool) -> Option<(usize, StateWord)> {
        for (choice, (set, _)) in self.sets.iter().enumerate() {
            if set.has(&wanted)
                && let Some((way, word)) = set.next(0, &wanted)
            {
                return Some((choice * WAYS + way, word));
            }
        }
        None
    }

    /// The next such candidate behind the one at `place`.
    #[inline(always)]
    pub fn next(
        &self,
        place: usize,
        wanted: impl Fn(StateWord) -> bool,
    ) -> Option<(usize, StateWord)> {
        let mut way = place % WAYS + 1;
        for choice in place / WAYS..CHOICES {
            if let Some((way, word)) = self.sets[choice].0.next(way, &wanted) {
                return Some((choice * WAYS + way, word));
            }
            way = 0;
        }
        None
    }

    /// Calls `look` for each candidate's word, loaded when its turn comes, with the place for
    /// [`slot`](Self::slot). The loads are relaxed.
    #[inline(always)]
    pub fn look(&self, mut look: impl FnMut(usize, StateWord)) {
        // Two loops with bounds known to the compiler, which unrolls them.
        for (choice, (set, _)) in self.sets.iter().enumerate() {
            for (way, state) in set.states.iter().enumerate() {
                look(choice * WAYS + way, StateWord(state.load(Ordering::Relaxed)));
            }
        }
    }

    /// The candidate at `place`, below [`CANDIDATES`].
    #[inline(always)]
    pub fn slot(&self, place: usize) -> Slot<'a> {
        let (set, number) = self.sets[if place < WAYS { 0 } else { CHOICES - 1 }];
        set.slot(number, place % WAYS)
    }
}

/// One frame: its state word and its entry.
#[derive(Clone, Copy, Debug)]
pub struct Slot<'a> {
    state: &'a AtomicU64,
    entry: &'a Entry,
    set: u32,
    way: usize,
}

impl<'a> Slot<'a> {
    /// The frame's state word.
    #[inline(always)]
    pub fn state(&self) -> &'a AtomicU64 {
        self.state
    }

    /// The frame's entry.
    #[inline(always)]
    pub fn entry(&self) -> &'a Entry {
        self.entry
    }

    /// Says whether the two are one frame.
    #[inline(always)]
    pub fn is(&self, other: &Slot<'_>) -> bool {
        core::ptr::eq(self.state, other.state)
    }

    /// The frame's word, as it is now.
    #[inline(always)]
    pub fn load(&self, order: Ordering) -> StateWord {
        StateWord(self.state.load(order))
    }

    /// Swaps the word, if it is still `from`, for `to`. Says whether it was.
    #[inline(always)]
    pub fn swap(&self, from: StateWord, to: StateWord, order: Ordering) -> bool {
        self.state.compare_exchange(from.0, to.0, order, Ordering::Relaxed).is_ok()
    }
}

/// Metadata in ordinary memory, for hosts: tests and models.
#[derive(Debug)]
pub struct MetadataBuffer {
    sets: alloc::vec::Vec<Set>,
    eras: alloc::vec::Vec<[AtomicU32; WAYS]>,
    moments: alloc::vec::Vec<AtomicU64>,
    claimed: alloc::vec::Vec<AtomicU32>,
}

impl MetadataBuffer {
    /// Allocates the metadata of `regions`, all zero.
    pub fn new(regions: &Regions) -> MetadataBuffer {
        Self::with_frames(regions.frames())
    }

    /// Allocates the metadata of so many frames, all zero.
    pub fn with_frames(frames: u32) -> MetadataBuffer {
        let shape = Shape::of(frames);
        let zero = |_| AtomicU64::new(0);
        let entry =
            |_| Entry { object: core::array::from_fn(zero), index: zero(0), owner: zero(0) };
        let set =
            |_| Set { states: core::array::from_fn(zero), entries: core::array::from_fn(entry) };
        MetadataBuffer {
            sets: (0..shape.sets).map(set).collect(),
            eras: (0..shape.sets).map(|_| core::array::from_fn(|_| AtomicU32::new(0))).collect(),
            moments: (0..shape.buckets).map(zero).collect(),
            claimed: (0..shape.frames).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// Borrows it as the stash and the ledger want it.
    pub fn metadata(&self) -> Metadata<'_> {
        Metadata {
            sets: &self.sets,
            eras: &self.eras,
            moments: &self.moments,
            claimed: &self.claimed,
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

    #[test]
    fn every_frame_has_one_slot_and_the_two_numberings_agree() {
        let (sizes, rounds): (&[u64], u64) = if cfg!(miri) {
            (&[1, 9, 17], 20)
        } else {
            (&[1, 7, 8, 9, 15, 16, 17, 100, 1984], 200)
        };
        for &frames in sizes {
            let buffer = MetadataBuffer::new(&regions(frames));
            let metadata = buffer.metadata();
            let mut seen = HashSet::new();
            let mut hash = 0u64;
            for _ in 0..rounds * frames.min(200) {
                for slot in (0..CANDIDATES).map(|n| metadata.candidates(hash).slot(n)) {
                    let frame = metadata.frame(&slot);
                    if u64::from(frame) < frames {
                        assert!(core::ptr::eq(metadata.state(frame), slot.state()));
                        seen.insert(frame);
                    }
                }
                hash = hash.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1);
            }
            assert_eq!(seen.len() as u64, frames);
        }
    }

    #[test]
    fn the_sets_of_a_key_are_two() {
        for frames in [1, 16, 17, 24, 1984] {
            let buffer = MetadataBuffer::new(&regions(frames));
            let corners = [0, 1, 1 << 31, 1 << 32, u64::from(u32::MAX), u64::MAX << 32, u64::MAX];
            for hash in corners {
                let candidates = buffer.metadata().candidates(hash);
                let mut places = vec![];
                candidates.look(|place, _| places.push(place));
                assert_eq!(places, Vec::from_iter(0..CANDIDATES));
                for (n, m) in (0..CANDIDATES).flat_map(|n| (0..CANDIDATES).map(move |m| (n, m))) {
                    assert_eq!(candidates.slot(n).is(&candidates.slot(m)), n == m, "{hash:x}");
                }
            }
        }
    }

    /// Every choice of candidates is found again, in order, by `first` and `next`.
    #[test]
    fn candidates_are_found_by_their_words() {
        let buffer = MetadataBuffer::new(&regions(64));
        let candidates = buffer.metadata().candidates(0x1234_5678_9abc_def0);
        let wanted = |word: StateWord| word == StateWord(5);
        for chosen in (0..1u32 << CANDIDATES).step_by(if cfg!(miri) { 1021 } else { 1 }) {
            for place in 0..CANDIDATES {
                let word = if chosen >> place & 1 == 1 { 5 } else { 4 };
                candidates.slot(place).state().store(word, Ordering::Relaxed);
            }
            assert_eq!(candidates.has(wanted), chosen != 0);
            let mut found = 0u32;
            let mut next = candidates.first(wanted);
            while let Some((place, word)) = next {
                assert!(word == StateWord(5) && found >> place == 0);
                found |= 1 << place;
                next = candidates.next(place, wanted);
            }
            assert_eq!(found, chosen);
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
        let last = metadata.candidates(u64::MAX).slot(CANDIDATES - 1);
        last.state().store(u64::MAX, Ordering::Relaxed);
        metadata.claimed(99).store(u32::MAX, Ordering::Relaxed);
        assert_eq!((metadata.era(&last).load(Ordering::Relaxed), last.entry().crc()), (0, None));
        assert!(metadata.moments().iter().all(|moment| moment.load(Ordering::Relaxed) == 0));
        let last_claimed = core::ptr::from_ref(metadata.claimed(99)) as usize;
        assert_eq!(last_claimed + 4, base.as_ptr() as usize + bytes);
    }

    #[test]
    fn keys_that_differ_in_any_field_are_different() {
        let buffer = MetadataBuffer::new(&regions(16));
        let slot = buffer.metadata().candidates(0).slot(3);
        let entry = slot.entry();
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
