// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pools: one filesystem's name space each, with a page size and a way of getting.

use super::epoch::Epochs;
use crate::addr::PAGE_SHIFT;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use alloc::vec::Vec;

/// Pools that can exist at once.
pub const POOLS: usize = if cfg!(loom) { 2 } else { 64 };

/// Name of a pool that exists or did: its place in the table in the low bits, and the place's
/// generation. It is part of every key, so a page of a pool that is gone is in no other pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolId(pub u32);

impl PoolId {
    /// The pool's place in the table, below [`POOLS`].
    #[inline(always)]
    pub const fn place(self) -> usize {
        self.0 as usize % POOLS
    }

    const fn generation(self) -> u64 {
        self.0 as u64 >> PLACE_BITS
    }

    fn of(place: usize, word: u64) -> PoolId {
        PoolId(((word >> GENERATION_SHIFT) << PLACE_BITS) as u32 | place as u32)
    }
}

/// Why a pool could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolError {
    /// Another CPU is making one.
    Busy,
    /// The shared pool of this UUID has another page size.
    Mismatch,
    /// Every place is taken.
    Full,
}

/// Page size of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageSize(u8);

impl PageSize {
    /// Makes a page size of 2^`shift` bytes: 12, 14 or 16, the translation granules of the
    /// architecture. `None` for any other.
    pub const fn from_shift(shift: u64) -> Option<PageSize> {
        match shift {
            12 | 14 | 16 => Some(PageSize(shift as u8)),
            _ => None,
        }
    }

    /// The page size in bytes.
    #[inline(always)]
    pub const fn bytes(self) -> u64 {
        1 << self.0
    }

    /// Parts of 4 KiB in a page: 1, 4 or 16.
    #[inline(always)]
    pub const fn parts(self) -> u32 {
        1 << (self.0 as u32 - PAGE_SHIFT)
    }
}

/// A pool that a call named and that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its id.
    pub id: PoolId,
    /// Its page size.
    pub page_size: PageSize,
    /// A get leaves the page where it is.
    pub shared: bool,
}

/// Name of a shared pool: 128 bits.
pub type Uuid = [u64; 2];

/// Bits of an id. It fits an entry's owner, and a careless client's signed id stays positive.
pub const POOL_ID_BITS: u32 = 27;
const PLACE_BITS: u32 = POOLS.trailing_zeros();
/// Generations of a place before its ids repeat.
const GENERATIONS: u64 = 1 << (POOL_ID_BITS - PLACE_BITS);

/// A place's word: `LIVE`, `SHARED`, page size and generation.
const LIVE: u64 = 1;
const SHARED: u64 = 2;
const SIZE_SHIFT: u32 = 8;
const GENERATION_SHIFT: u32 = 32;

/// All pools.
#[derive(Debug)]
pub struct PoolTable {
    words: [AtomicU64; POOLS],
    /// Written with `making` held, before the word says LIVE.
    uuids: Vec<[AtomicU64; 2]>,
    /// 1 while a CPU makes a pool, so that two of them never make one UUID twice.
    making: AtomicU32,
}

impl Default for PoolTable {
    fn default() -> Self {
        Self::new()
    }
}

impl PoolTable {
    /// Makes the table, without pools.
    pub fn new() -> PoolTable {
        PoolTable {
            words: core::array::from_fn(|_| AtomicU64::new(0)),
            uuids: (0..POOLS).map(|_| [AtomicU64::new(0), AtomicU64::new(0)]).collect(),
            making: AtomicU32::new(0),
        }
    }

    /// The pool of this id; `None` if there is none.
    #[inline(always)]
    pub fn find(&self, id: PoolId) -> Option<Pool> {
        let word = self.words[id.place()].load(Ordering::Acquire);
        if !is_live_as(word, id) {
            return None;
        }
        Some(Pool { id, page_size: size_of_page(word)?, shared: word & SHARED != 0 })
    }

    /// The pool that a caller named by `id`, if there is one and its pages are of 4 KiB: the
    /// usual pool, found with few steps.
    #[inline(always)]
    pub fn find_usual(&self, id: u64) -> Option<Pool> {
        const USUAL: u32 = (LIVE | (PAGE_SHIFT as u64) << SIZE_SHIFT) as u32;
        let word = self.words[id as usize % POOLS].load(Ordering::Acquire);
        // The generation has fewer bits than the high half: an id that equals it is no longer
        // than an id is.
        if word as u32 & !(SHARED as u32) != USUAL || word >> GENERATION_SHIFT != id >> PLACE_BITS {
            return None;
        }
        Some(Pool {
            id: PoolId(id as u32),
            page_size: PageSize(PAGE_SHIFT as u8),
            shared: word & SHARED != 0,
        })
    }

    /// Makes a pool, or finds the shared one of this UUID. Returns its id.
    ///
    /// # Errors
    ///
    /// As [`PoolError`] says.
    #[inline(always)]
    pub fn create(
        &self,
        page_size: PageSize,
        uuid: Option<Uuid>,
        epochs: &Epochs<'_>,
    ) -> Result<PoolId, PoolError> {
        if self.making.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return Err(PoolError::Busy);
        }
        let result = self.create_alone(page_size, uuid, epochs);
        self.making.store(0, Ordering::Release);
        result
    }

    #[inline(always)]
    fn create_alone(
        &self,
        page_size: PageSize,
        uuid: Option<Uuid>,
        epochs: &Epochs<'_>,
    ) -> Result<PoolId, PoolError> {
        let mut free = None;
        for (place, word) in self.words.iter().enumerate() {
            let word = word.load(Ordering::Acquire);
            if word & LIVE == 0 {
                free = free.or(Some((place, word)));
            } else if let Some(uuid) = uuid
                && word & SHARED != 0
                && self.uuid(place) == uuid
            {
                return match size_of_page(word) {
                    Some(size) if size == page_size => Ok(PoolId::of(place, word)),
                    _ => Err(PoolError::Mismatch),
                };
            }
        }
        let (place, old) = free.ok_or(PoolError::Full)?;
        for (kept, given) in self.uuids[place].iter().zip(uuid.unwrap_or_default()) {
            kept.store(given, Ordering::Relaxed);
        }
        let generation = (old >> GENERATION_SHIFT).wrapping_add(1) % GENERATIONS;
        let word = LIVE
            | if uuid.is_some() { SHARED } else { 0 }
            | u64::from(page_size.0) << SIZE_SHIFT
            | generation << GENERATION_SHIFT;
        let id = PoolId::of(place, word);
        // For the day when the generations of a place have all been used.
        epochs.flush_pool(id);
        self.words[place].store(word, Ordering::Release);
        Ok(id)
    }

    /// Destroys the pool of this id. Says whether there was one.
    #[inline(always)]
    pub fn destroy(&self, id: PoolId) -> bool {
        let word = &self.words[id.place()];
        let old = word.load(Ordering::Acquire);
        is_live_as(old, id)
            && word.compare_exchange(old, old & !LIVE, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Destroys every pool.
    #[inline(always)]
    pub fn destroy_all(&self) {
        for word in &self.words {
            word.fetch_and(!LIVE, Ordering::AcqRel);
        }
    }

    fn uuid(&self, place: usize) -> Uuid {
        [0, 1].map(|half| self.uuids[place][half].load(Ordering::Relaxed))
    }
}

#[inline(always)]
fn is_live_as(word: u64, id: PoolId) -> bool {
    word & LIVE != 0 && word >> GENERATION_SHIFT == id.generation()
}

fn size_of_page(word: u64) -> Option<PageSize> {
    PageSize::from_shift(word >> SIZE_SHIFT & 0xff)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::stash::key::Object;
    use crate::stash::metadata::MetadataBuffer;

    const SMALL: PageSize = PageSize(12);
    const LARGE: PageSize = PageSize(16);

    #[test]
    fn page_sizes_are_the_translation_granules() {
        let sizes: Vec<_> = (0..70).filter_map(PageSize::from_shift).collect();
        assert_eq!(sizes, [PageSize(12), PageSize(14), PageSize(16)]);
        assert_eq!(sizes.iter().map(|s| s.parts()).collect::<Vec<_>>(), [1, 4, 16]);
        assert_eq!(sizes[2].bytes(), 65536);
    }

    #[test]
    fn ids_are_found_only_whole_and_only_while_the_pool_lives() {
        let (table, buffer) = (PoolTable::new(), MetadataBuffer::with_frames(1));
        let epochs = Epochs::new(&buffer.metadata());
        let id = table.create(LARGE, None, &epochs).unwrap();
        let pool = table.find(id).unwrap();
        assert_eq!(pool, Pool { id, page_size: LARGE, shared: false });
        assert_eq!(table.find_usual(id.0.into()), None, "its pages are not of 4 KiB");
        for other in (0..32).map(|bit| PoolId(id.0 ^ 1 << bit)) {
            assert_eq!(table.find(other), None, "{other:?}");
            assert!(!table.destroy(other), "{other:?}");
        }
        assert!(table.destroy(id));
        assert_eq!(table.find(id), None);
        assert!(!table.destroy(id));
        let next = table.create(LARGE, None, &epochs).unwrap();
        assert_ne!(next, id);
        assert_eq!((table.find(id), next.place()), (None, id.place()));
    }

    #[test]
    fn usual_pools_are_found_only_whole_and_only_while_they_live() {
        let (table, buffer) = (PoolTable::new(), MetadataBuffer::with_frames(1));
        let epochs = Epochs::new(&buffer.metadata());
        table.destroy(table.create(SMALL, None, &epochs).unwrap());
        for uuid in [None, Some([1, 2])] {
            let id = table.create(SMALL, uuid, &epochs).unwrap();
            let named = u64::from(id.0);
            assert_eq!(table.find_usual(named), table.find(id));
            assert!(table.find(id).is_some_and(|pool| pool.shared == uuid.is_some()));
            for other in (0..64).map(|bit| named ^ 1 << bit) {
                let found = u32::try_from(other).ok().and_then(|other| table.find(PoolId(other)));
                assert_eq!(table.find_usual(other), found, "{other:#x}");
            }
        }
        table.destroy_all();
        assert!((0..1 << 16).all(|id| table.find_usual(id).is_none()));
    }

    /// P3: when the generations of a place have all been used, an old pool's id is given again, and
    /// its pages may still lie in frames.
    #[test]
    fn p3_an_id_that_is_used_again_has_none_of_its_old_pages() {
        let (table, buffer) = (PoolTable::new(), MetadataBuffer::with_frames(1));
        let epochs = Epochs::new(&buffer.metadata());
        let id = table.create(SMALL, None, &epochs).unwrap();
        let object = Object { pool: id, words: [1, 2, 3] };
        let old = epochs.stamp(1);
        assert!(table.destroy(id));
        // As it is after the last generation.
        table.words[id.place()].store(0, Ordering::Relaxed);
        assert_eq!(table.create(SMALL, None, &epochs), Ok(id));
        assert!(!epochs.horizon(&object, object.hash()).is_fresh(old));
        assert!(epochs.horizon(&object, object.hash()).is_fresh(epochs.stamp(1)));
    }

    #[test]
    fn a_shared_pool_is_found_by_all_its_128_bits() {
        let (table, buffer) = (PoolTable::new(), MetadataBuffer::with_frames(1));
        let epochs = Epochs::new(&buffer.metadata());
        let create = |uuid| table.create(SMALL, uuid, &epochs).unwrap();
        let first = create(Some([1, 2]));
        assert_eq!(create(Some([1, 2])), first);
        let mut ids = vec![first, create(Some([1, 3])), create(Some([3, 2])), create(None)];
        assert_eq!(table.create(LARGE, Some([1, 2]), &epochs), Err(PoolError::Mismatch));
        assert!(table.find(first).unwrap().shared);
        ids.sort_by_key(|id| id.0);
        ids.dedup();
        assert_eq!(ids.len(), 4);
        // A private pool has no name, whatever lies in its place.
        assert!(!ids.contains(&create(Some([0, 0]))));
    }

    #[test]
    fn the_table_fills_up_and_empties() {
        let (table, buffer) = (PoolTable::new(), MetadataBuffer::with_frames(1));
        let epochs = Epochs::new(&buffer.metadata());
        let ids: Vec<_> = (0..POOLS).map(|_| table.create(SMALL, None, &epochs).unwrap()).collect();
        assert_eq!(table.create(SMALL, None, &epochs), Err(PoolError::Full));
        assert!(ids.iter().all(|&id| table.find(id).is_some() && id.0 < 1 << POOL_ID_BITS));
        table.destroy_all();
        assert!(ids.iter().all(|&id| table.find(id).is_none()));
        assert!(table.create(SMALL, None, &epochs).is_ok());
    }

    #[test]
    fn a_pool_in_the_making_elsewhere_is_busy() {
        let (table, buffer) = (PoolTable::new(), MetadataBuffer::with_frames(1));
        let epochs = Epochs::new(&buffer.metadata());
        table.making.store(1, Ordering::Relaxed);
        assert_eq!(table.create(SMALL, None, &epochs), Err(PoolError::Busy));
        table.making.store(0, Ordering::Relaxed);
        assert!(table.create(SMALL, None, &epochs).is_ok());
    }
}
