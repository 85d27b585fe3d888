// SPDX-License-Identifier: MIT OR Apache-2.0
//! The stash: a lossy cache of pages in the frames of idle tag storage.
//!
//! Every rule that several CPUs must agree on is a transition of a frame's state word:
//!
//! ```text
//!                put takes it           put publishes
//!    free ----------------------> WRITING ----------> live (CACHED)
//!     ^                              |                   |
//!     |   put gives up (acknowledge) |                   | get, flush, eviction
//!     +------------------------------+-------------------+
//!
//!    at any instant a claim adds to CLAIMS: nothing of the frame is read from then on,
//!    the put under way notices before its next chunk and acknowledges
//! ```
//!
//! Nothing here is retried and nothing waits: a lost race is a miss or a refused put.

pub mod epoch;
pub mod frame;
pub mod key;
pub mod metadata;
pub mod pool;
pub mod stats;
pub mod table;

use crate::addr::{PAGE_SIZE, PhysAddr};
use crate::platform::PageMemory;
use crate::sync::{AtomicU32, Ordering};
use crate::tags::geometry::Regions;
use epoch::{Epochs, Horizon};
use key::{MAX_PARTS, Object, PartKey};
use metadata::Metadata;
use pool::{Pool, PoolError, PoolId, PoolTable};
use stats::{CpuStats, Statistic};
use table::{Found, Offer, Read, Table};

/// What came of offering a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is cached.
    Kept,
    /// It is not, and no copy of an earlier put remains.
    Refused,
    /// An external abort ended the copy; as `Refused`.
    Fault,
}

/// What came of asking for a page. But for `Hit` the destination's contents are unspecified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Get {
    /// The destination holds the page.
    Hit,
    /// It is not cached, or was not for long enough.
    Miss,
    /// Its CRC is wrong: somebody else wrote the frame. It is dropped.
    Mismatch,
    /// An external abort ended the copy. It is dropped.
    Fault,
}

/// One page of an object, with the object's hash worked out once for a run.
#[derive(Clone, Copy, Debug)]
pub struct Page<'p> {
    pool: &'p Pool,
    object: Object,
    object_hash: u64,
    index: u64,
}

impl<'p> Page<'p> {
    /// Names a page.
    #[inline(always)]
    pub fn new(pool: &'p Pool, object: Object, index: u64) -> Page<'p> {
        Page { pool, object, object_hash: object.hash(), index }
    }

    /// The key of part `part`, its hash, and the offset of the part in the page.
    #[inline(always)]
    fn part(&self, part: u32) -> (PartKey, u64, u64) {
        let key = PartKey { object: self.object, index: self.index, part };
        (key, key.hash(self.object_hash), u64::from(part) * PAGE_SIZE)
    }

    fn parts(&self) -> u32 {
        self.pool.page_size.parts()
    }
}

/// The stash.
#[derive(Debug)]
pub struct Stash<'a> {
    table: Table<'a>,
    epochs: Epochs<'a>,
    pools: PoolTable,
    /// Not 0: puts keep a CRC of their page.
    verification: AtomicU32,
}

impl<'a> Stash<'a> {
    /// Makes the stash over the frames of `regions`, described by zeroed `metadata`.
    pub fn new(regions: Regions, metadata: Metadata<'a>) -> Stash<'a> {
        Stash {
            epochs: Epochs::new(&metadata),
            table: Table::new(regions, metadata),
            pools: PoolTable::new(),
            verification: AtomicU32::new(0),
        }
    }

    /// Switches verification of the pages that are put from now on.
    pub fn set_verification(&self, on: bool) {
        self.verification.store(u32::from(on), Ordering::Relaxed);
    }

    /// Says whether pages that are put are verified when they are got.
    pub fn verification(&self) -> bool {
        self.verification.load(Ordering::Relaxed) != 0
    }

    /// The pool of this id, if there is one.
    #[inline(always)]
    pub fn pool(&self, id: PoolId) -> Option<Pool> {
        self.pools.find(id)
    }

    /// The pool that a caller named, if there is one and its pages are of 4 KiB.
    #[inline(always)]
    pub fn usual_pool(&self, id: u64) -> Option<Pool> {
        self.pools.find_usual(id)
    }

    /// Makes a pool, or finds a shared one.
    ///
    /// # Errors
    ///
    /// As [`PoolTable::create`].
    #[inline(always)]
    pub fn create_pool(
        &self,
        page_size: pool::PageSize,
        uuid: Option<pool::Uuid>,
    ) -> Result<PoolId, PoolError> {
        self.pools.create(page_size, uuid, &self.epochs)
    }

    /// Destroys a pool and all its pages. Says whether there was one.
    #[inline(always)]
    pub fn destroy_pool(&self, id: PoolId) -> bool {
        self.pools.destroy(id)
    }

    /// Destroys all pools.
    #[inline(always)]
    pub fn destroy_pools(&self) {
        self.pools.destroy_all();
    }

    /// Offers pages of guest RAM from `source` and `index` on. `run` yields the places of the
    /// pages in the run, from 0 on; `done` is called with each place and what came of it.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "a key, a run, and what it works with")]
    pub fn put<M: PageMemory>(
        &self,
        pool: &Pool,
        object: Object,
        index: u64,
        source: PhysAddr,
        memory: &M,
        stats: &CpuStats,
        run: impl Iterator<Item = u64>,
        mut done: impl FnMut(u64, Put),
    ) {
        let first = Page::new(pool, object, index);
        for n in run {
            let page = Page { index: index + n, ..first };
            let from = PhysAddr(source.0 + n * pool.page_size.bytes());
            done(n, self.put_page(&page, page.parts(), from, memory, stats));
        }
    }

    /// Offers one page, in `parts` parts: as many as its pool's pages have.
    #[inline(always)]
    pub fn put_page<M: PageMemory>(
        &self,
        page: &Page<'_>,
        parts: u32,
        source: PhysAddr,
        memory: &M,
        stats: &CpuStats,
    ) -> Put {
        stats.add(Statistic::Puts, 1);
        let result = self.put_parts(page, parts, source, memory, stats);
        match result {
            Put::Kept => stats.add(Statistic::PutsCached, 1),
            Put::Refused => {}
            Put::Fault => stats.add(Statistic::CopyFaults, 1),
        }
        result
    }

    #[inline(always)]
    fn put_parts<M: PageMemory>(
        &self,
        page: &Page<'_>,
        parts: u32,
        source: PhysAddr,
        memory: &M,
        stats: &CpuStats,
    ) -> Put {
        let verify = self.verification();
        let stamp = self.epochs.stamp(parts);
        for part in 0..parts {
            let (key, hash, offset) = page.part(part);
            let source = PhysAddr(source.0.wrapping_add(offset));
            let offer = Offer { key, hash, stamp, parts, verify, source };
            let result = self.table.place(&offer, memory, stats);
            if result != Put::Kept {
                // What is there of this page now is no page: parts of an earlier put behind
                // this one, parts of this put before it.
                if parts > 1 {
                    self.drop_page(page, parts);
                }
                return result;
            }
        }
        Put::Kept
    }

    /// Asks for pages, as [`put`](Self::put) offers them.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "a key, a run, and what it works with")]
    pub fn get<M: PageMemory>(
        &self,
        pool: &Pool,
        object: Object,
        index: u64,
        destination: PhysAddr,
        memory: &M,
        stats: &CpuStats,
        run: impl Iterator<Item = u64>,
        mut done: impl FnMut(u64, Get),
    ) {
        let first = Page::new(pool, object, index);
        for n in run {
            let page = Page { index: index + n, ..first };
            let to = PhysAddr(destination.0 + n * pool.page_size.bytes());
            done(n, self.get_page(&page, page.parts(), to, memory, stats));
        }
    }

    /// Says whether a page of one part is surely not there: then a get is a miss, which is
    /// counted, and is done.
    #[inline(always)]
    pub fn misses(&self, page: &Page<'_>, stats: &CpuStats) -> bool {
        let (_, hash, _) = page.part(0);
        let misses = !self.table.may_hold(hash);
        if misses {
            stats.add(Statistic::Gets, 1);
        }
        misses
    }

    /// Asks for one page, in `parts` parts: as many as its pool's pages have.
    #[inline(always)]
    pub fn get_page<M: PageMemory>(
        &self,
        page: &Page<'_>,
        parts: u32,
        destination: PhysAddr,
        memory: &M,
        stats: &CpuStats,
    ) -> Get {
        stats.add(Statistic::Gets, 1);
        let result = match parts {
            1 => self.get_one(page, destination, memory),
            _ => self.get_parts(page, destination, memory),
        };
        match result {
            Get::Hit => stats.add(Statistic::Hits, 1),
            Get::Miss => {}
            Get::Mismatch => stats.add(Statistic::Mismatches, 1),
            Get::Fault => stats.add(Statistic::CopyFaults, 1),
        }
        result
    }

    /// What of the page's object was flushed before now.
    #[inline(always)]
    fn horizon(&self, page: &Page<'_>) -> Horizon {
        self.epochs.horizon(&page.object, page.object_hash)
    }

    #[inline(always)]
    fn get_one<M: PageMemory>(&self, page: &Page<'_>, destination: PhysAddr, memory: &M) -> Get {
        let (key, hash, _) = page.part(0);
        let Some(found) = self.table.find(&key, hash, || self.horizon(page)) else {
            return Get::Miss;
        };
        let read = self.table.read(&found, destination, memory);
        // Only after this is it known that what was copied was the page.
        let valid = if page.pool.shared && read == Read::Good {
            self.table.confirm(&found)
        } else {
            self.table.take(&found)
        };
        match read {
            Read::Fault => Get::Fault,
            _ if !valid => Get::Miss,
            Read::Good => Get::Hit,
            Read::Corrupt => Get::Mismatch,
        }
    }

    /// A page of several parts hits only if all are there and carry the stamp of one put.
    /// Otherwise what was found is removed: it can never become a page again.
    #[inline(always)]
    fn get_parts<M: PageMemory>(&self, page: &Page<'_>, destination: PhysAddr, memory: &M) -> Get {
        let mut parts: [Option<Found<'_>>; MAX_PARTS as usize] = [None; MAX_PARTS as usize];
        let parts = &mut parts[..page.parts() as usize];
        for (number, found) in (0..).zip(parts.iter_mut()) {
            let (key, hash, _) = page.part(number);
            *found = self.table.find(&key, hash, || self.horizon(page));
        }
        let stamp = parts[0].map(|found| found.stamp);
        let mut result = match stamp {
            Some(_) if parts.iter().all(|found| found.map(|f| f.stamp) == stamp) => Get::Hit,
            _ => Get::Miss,
        };
        if result == Get::Hit {
            for (number, found) in (0..).zip(parts.iter().flatten()) {
                let to = PhysAddr(destination.0 + number * PAGE_SIZE);
                match self.table.read(found, to, memory) {
                    Read::Good => continue,
                    Read::Corrupt => result = Get::Mismatch,
                    Read::Fault => result = Get::Fault,
                }
                break;
            }
        }
        let mut valid = true;
        for found in parts.iter().flatten() {
            valid &= if page.pool.shared && result == Get::Hit {
                self.table.confirm(found)
            } else {
                self.table.take(found)
            };
        }
        if valid || result == Get::Fault { result } else { Get::Miss }
    }

    /// Drops pages from `index` on, as [`put`](Self::put) offers them.
    #[inline(always)]
    pub fn flush_pages(
        &self,
        pool: &Pool,
        object: Object,
        index: u64,
        stats: &CpuStats,
        run: impl Iterator<Item = u64>,
        mut done: impl FnMut(u64),
    ) {
        let first = Page::new(pool, object, index);
        for n in run {
            let page = Page { index: index + n, ..first };
            self.flush_page(&page, page.parts(), stats);
            done(n);
        }
    }

    /// Drops one page, in `parts` parts: as many as its pool's pages have.
    #[inline(always)]
    pub fn flush_page(&self, page: &Page<'_>, parts: u32, stats: &CpuStats) {
        self.drop_page(page, parts);
        stats.add(Statistic::PageFlushes, 1);
    }

    #[inline(always)]
    fn drop_page(&self, page: &Page<'_>, parts: u32) {
        for part in 0..parts {
            let (key, hash, _) = page.part(part);
            self.table.drop_part(&key, hash);
        }
    }

    /// Drops every page of an object. Constant time.
    #[inline(always)]
    pub fn flush_object(&self, object: &Object, stats: &CpuStats) {
        self.epochs.flush_object(object.hash());
        stats.add(Statistic::ObjectFlushes, 1);
    }

    /// Drops every page of a pool. Constant time.
    #[inline(always)]
    pub fn flush_pool(&self, id: PoolId, stats: &CpuStats) {
        self.epochs.flush_pool(id);
        stats.add(Statistic::PoolFlushes, 1);
    }
}
