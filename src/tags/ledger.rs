// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ledger: who needs which block for tags.
//!
//! A claim is one tagged page's hold on the block that stores its tags. Each frame has a word
//! of *claimed bits*, one for each of its 32 pages, and the state word of every frame of a
//! block counts the claims on the block. The count goes up *first* and the bit is set *last*:
//!
//! ```text
//!   claim    count up | drop what is cached | wait for writers | maintain | set bits
//!   release  clear bits | maintain | count down
//! ```
//!
//! Whoever sees a bit set may therefore rely on all that its claimer did. Whoever sees none
//! does all of it for itself, so that no claimer waits for another. The bits balance the
//! count: only who set one may leave its count up, only who cleared one may take it down.

use super::geometry::{PAGES_PER_FRAME, Placed, Regions};
use crate::addr::{PAGE_SIZE, PhysAddr, PhysRange};
use crate::platform::{CacheMaintenance, Caller};
use crate::ram::GuestRam;
use crate::stash::frame::{ACTIVE, CACHED, StateWord};
use crate::stash::metadata::{Metadata, Slot};
use crate::stash::stats::{CpuStats, Statistic};
use crate::sync::{AtomicU32, Ordering};
use core::ops::Range;

/// Frames that a claim or release deals with between two looks at pending interrupts, or one
/// block if it is larger. A batch has a bit of a `u32` for each of its blocks.
const BATCH_FRAMES: u32 = 32;

/// How far a run of pages got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Pages dealt with, from the first on.
    pub pages: u64,
    /// Of these, pages whose claim was made or given back.
    pub changed: u64,
    /// Of these, pages with tag storage that were left as they were.
    pub unchanged: u64,
}

/// What the ledger knows of one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageState {
    /// The page is claimed.
    pub claimed: bool,
    /// Its block is lent to the stash when nobody claims it.
    pub active: bool,
    /// Claims on its block, those of calls under way included.
    pub claims: u64,
}

/// What the frames of a range hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Claimed.
    pub in_tags: u32,
    /// Holding a page, or being written.
    pub cached: u32,
    /// Lent and empty.
    pub free: u32,
    /// Neither claimed nor lent.
    pub dormant: u32,
}

/// The ledger.
#[derive(Debug)]
pub struct Ledger<'a> {
    regions: Regions,
    metadata: Metadata<'a>,
}

/// One block: its frames in the common numbering, and its pages in the region's.
#[derive(Clone, Debug)]
struct Block {
    frames: Range<u32>,
    pages: Range<u64>,
    storage: PhysRange,
}

impl<'a> Ledger<'a> {
    /// Makes the ledger of `regions`, without claims, over the same zeroed `metadata` that the
    /// stash has.
    pub fn new(regions: Regions, metadata: Metadata<'a>) -> Ledger<'a> {
        Ledger { regions, metadata }
    }

    /// The regions.
    pub fn regions(&self) -> &Regions {
        &self.regions
    }

    /// Claims the pages of `range` that are guest RAM and have tag storage. Whole pages.
    ///
    /// Cannot fail. Waits for writers that are at work in the blocks named, at most one poll
    /// interval of each other CPU, because all blocks of a batch are counted before the first
    /// wait.
    #[inline(always)]
    pub fn claim(
        &self,
        range: PhysRange,
        ram: &GuestRam,
        cache: &impl CacheMaintenance,
        caller: &impl Caller,
        stats: &CpuStats,
    ) -> Progress {
        if range.len() == PAGE_SIZE && self.is_claimed(range.start()) {
            stats.add(Statistic::ClaimsHeld, 1);
            return Progress { pages: 1, changed: 0, unchanged: 1 };
        }
        let progress = self
            .run(range, ram, caller, |placed, pages| self.claim_batch(placed, pages, cache, stats));
        stats.add(Statistic::Claims, progress.changed);
        stats.add(Statistic::ClaimsHeld, progress.unchanged);
        progress
    }

    /// Gives back the claims of the pages of `range`. Whole pages. Pages that were not claimed
    /// are left as they are, and counted as unchanged.
    #[inline(always)]
    pub fn release(
        &self,
        range: PhysRange,
        ram: &GuestRam,
        cache: &impl CacheMaintenance,
        caller: &impl Caller,
        stats: &CpuStats,
    ) -> Progress {
        let progress = self.run(range, ram, caller, |placed, pages| {
            let mut changed = 0;
            for block in self.blocks(placed, &pages) {
                changed += self.release_block(placed, &block, &pages, cache);
            }
            changed
        });
        stats.add(Statistic::Releases, progress.changed);
        stats.add(Statistic::ReleasesRefused, progress.unchanged);
        progress
    }

    /// What is known of the page at `address`; `None` if it has no tag storage.
    pub fn query(&self, address: PhysAddr) -> Option<PageState> {
        let (frame, bit) = self.bit_of(address)?;
        let word = self.metadata.load(self.metadata.slot_of_frame(frame), Ordering::Acquire);
        Some(PageState {
            claimed: self.metadata.claimed(frame).load(Ordering::Acquire) & bit != 0,
            active: word.is_active(),
            claims: word.claims(),
        })
    }

    /// Lends block number `number` to the stash, from the moment on when nobody claims it.
    /// Idempotent. Does nothing for a block that does not exist.
    #[inline(always)]
    pub fn activate_block(&self, number: u32, ram: &GuestRam, cache: &impl CacheMaintenance) {
        let Some((placed, block)) = self.block(number) else {
            return;
        };
        if self.slots(&block).all(|s| self.metadata.load(s, Ordering::Relaxed).is_active()) {
            return;
        }
        // While the block was dormant anybody may have stored tags of any of its pages without
        // a claim: dirty tag lines must not land on what will be cached. Only guest RAM can
        // have had any, and nothing else is mapped.
        cache.barrier_inner();
        let data = placed.region.block_data(number - placed.first_block);
        for part in ram.parts(data) {
            cache.clean_invalidate_tags(part);
        }
        cache.barrier_system();
        cache.clean_invalidate_data(block.storage);
        cache.barrier_system();
        for slot in self.slots(&block) {
            self.metadata.state(slot).fetch_or(ACTIVE, Ordering::Release);
        }
    }

    /// Takes block number `number` back for tags and voids its claims. Idempotent. Does nothing
    /// for a block that does not exist.
    #[inline(always)]
    pub fn deactivate_block(&self, number: u32, cache: &impl CacheMaintenance, stats: &CpuStats) {
        let Some((placed, block)) = self.block(number) else {
            return;
        };
        // A count is held throughout, so that no put begins and a put under way notices.
        self.count_up(&block, 1);
        for slot in self.slots(&block) {
            self.metadata.state(slot).fetch_and(!(ACTIVE | CACHED), Ordering::Acquire);
        }
        self.wait_for_writers(&block, cache);
        cache.barrier_inner();
        cache.clean_invalidate_data(block.storage);
        cache.barrier_system();
        self.count_down(&block, 1);
        let voided = self.release_block(placed, &block, &block.pages, cache);
        stats.add(Statistic::Releases, voided);
    }

    /// Counts the frames of region number `region` from `first` on, at most `count`, by what
    /// they hold. Returns how many were counted too; `None` if there is no such region or
    /// frame.
    pub fn census(&self, region: usize, first: u32, count: u32) -> Option<(u32, Census)> {
        let placed = self.regions.as_slice().get(region)?;
        let left = placed.region.frames().checked_sub(first).filter(|&left| left > 0)?;
        let count = count.min(left);
        let mut census = Census::default();
        for frame in (placed.first_frame + first..).take(count as usize) {
            let slot = self.metadata.slot_of_frame(frame);
            let word = self.metadata.load(slot, Ordering::Relaxed);
            let kind = if word.claims() > 0 {
                &mut census.in_tags
            } else if !word.is_active() {
                &mut census.dormant
            } else if word.is_free() {
                &mut census.free
            } else {
                &mut census.cached
            };
            *kind += 1;
        }
        Some((count, census))
    }

    /// Calls `batch` for the pages of `range` that are guest RAM and have tag storage, in
    /// ascending order, a region and at most [`BATCH_FRAMES`] frames at a time. `batch` returns
    /// how many pages it changed. Ends early for a pending interrupt, but not before one batch.
    #[inline(always)]
    fn run(
        &self,
        range: PhysRange,
        ram: &GuestRam,
        caller: &impl Caller,
        mut batch: impl FnMut(&Placed, Range<u64>) -> u64,
    ) -> Progress {
        let mut progress = Progress::default();
        let mut rest = range;
        while let Some((placed, piece)) = self.next_piece(rest, ram) {
            if rest.start() != range.start() && caller.interrupted() {
                // The caller goes on where there is something to do: that is guest RAM, which
                // the end of the last batch need not be.
                progress.pages = (piece.start().0 - range.start().0) / PAGE_SIZE;
                return progress;
            }
            let region = &placed.region;
            let Some(pages) = region.pages_in(&piece) else {
                break;
            };
            let first_block = u64::from(region.block_of_page(pages.start));
            let blocks = (BATCH_FRAMES / region.frames_per_block()).max(1);
            let limit = (first_block + u64::from(blocks)) * region.pages_per_block();
            let pages = pages.start..pages.end.min(limit);
            let count = pages.end - pages.start;
            let next = PhysAddr(region.page_address(pages.end - 1).0 + PAGE_SIZE);
            let changed = batch(placed, pages);
            progress.changed += changed;
            progress.unchanged += count - changed;
            match PhysRange::from_bounds(next, range.end()) {
                Some(left) => rest = left,
                None => break,
            }
        }
        progress.pages = range.len() / PAGE_SIZE;
        progress
    }

    /// The first part of `range` that is guest RAM and lies in one region.
    #[inline(always)]
    fn next_piece(&self, range: PhysRange, ram: &GuestRam) -> Option<(&Placed, PhysRange)> {
        for part in ram.parts(range) {
            for placed in self.regions.as_slice() {
                let piece = placed.region.tagged().intersection(&part);
                if !piece.is_empty() {
                    return Some((placed, piece));
                }
            }
        }
        None
    }

    /// Claims `pages` of one region, in at most [`BATCH_FRAMES`] blocks. Returns how many were
    /// not claimed before.
    #[inline(always)]
    fn claim_batch(
        &self,
        placed: &Placed,
        pages: Range<u64>,
        cache: &impl CacheMaintenance,
        stats: &CpuStats,
    ) -> u64 {
        // One bit for each block of the batch: counted up here, and not in tags before.
        let (mut counted, mut entering) = (0u32, 0u32);
        for (n, block) in (0u32..).zip(self.blocks(placed, &pages)) {
            if self.all_claimed(placed, &block, &pages) {
                continue;
            }
            counted |= 1 << n;
            let was = self.count_up(&block, overlap(&block.pages, &pages));
            // The look at the bits comes after the count: a claim that is seen here holds its
            // count, and its claimer did what follows. Before it, it proves nothing.
            if self.any_claimed(&block) {
                continue;
            }
            entering |= 1 << n;
            let mut dropped = 0;
            for slot in self.slots(&block) {
                let word = self.metadata.state(slot).fetch_and(!CACHED, Ordering::Relaxed);
                dropped += u64::from(word & (ACTIVE | CACHED) == ACTIVE | CACHED);
            }
            stats.add(Statistic::BlocksTaken, u64::from(was.claims() == 0 && was.is_active()));
            stats.add(Statistic::PagesDropped, dropped);
        }
        if entering != 0 {
            let entering_blocks = || {
                (0u32..)
                    .zip(self.blocks(placed, &pages))
                    .filter_map(move |(n, block)| (entering & 1 << n != 0).then_some(block))
            };
            let mut polls = 0;
            for block in entering_blocks() {
                polls += self.wait_for_writers(&block, cache);
            }
            stats.add(Statistic::WaitPolls, polls);
            stats.raise(Statistic::WorstWait, polls);
            // The loads above do not order cache maintenance; a DSB does.
            cache.barrier_inner();
            for block in entering_blocks() {
                let first = pages.start.max(block.pages.start);
                let data = pages_range(placed, first, overlap(&block.pages, &pages));
                cache.clean_invalidate_tags(data);
            }
            cache.barrier_inner();
            for block in entering_blocks() {
                cache.clean_invalidate_data(block.storage);
            }
            cache.barrier_system();
        }
        let mut changed = 0;
        for (n, block) in (0u32..).zip(self.blocks(placed, &pages)) {
            if counted & 1 << n == 0 {
                continue;
            }
            let mut again = 0;
            for (bits, mask) in self.bits(placed, &block, &pages) {
                again += u64::from((bits.fetch_or(mask, Ordering::AcqRel) & mask).count_ones());
            }
            if again > 0 {
                self.count_down(&block, again);
            }
            changed += overlap(&block.pages, &pages) - again;
        }
        changed
    }

    /// Gives back the claims of those of `pages` that are in `block`. Returns how many there
    /// were.
    #[inline(always)]
    fn release_block(
        &self,
        placed: &Placed,
        block: &Block,
        pages: &Range<u64>,
        cache: &impl CacheMaintenance,
    ) -> u64 {
        let mut released = 0;
        for (frame, mask) in self.masks(placed, block, pages) {
            let bits = self.metadata.claimed(frame);
            let mut got = bits.fetch_and(!mask, Ordering::AcqRel) & mask;
            if got == 0 {
                continue;
            }
            released += u64::from(got.count_ones());
            // Clean *and* invalidate: a claim of the same page on another CPU may have stored
            // tags by now, and they must not be lost.
            cache.barrier_inner();
            let first = u64::from(frame - placed.first_frame) * u64::from(PAGES_PER_FRAME);
            while got != 0 {
                let start = got.trailing_zeros();
                let length = (got >> start).trailing_ones();
                let data = pages_range(placed, first + u64::from(start), u64::from(length));
                cache.clean_invalidate_tags(data);
                // In 64 bits: a run of 32 shifts everything out.
                got &= !(((1u64 << length) - 1) << start) as u32;
            }
        }
        if released > 0 {
            cache.barrier_system();
            self.count_down(block, released);
        }
        released
    }

    /// Adds `count` to the claims of every frame of a block. Returns the first frame's word as
    /// it was.
    #[inline(always)]
    fn count_up(&self, block: &Block, count: u64) -> StateWord {
        let mut first = None;
        for slot in self.slots(block) {
            let word = self.metadata.state(slot).fetch_add(count, Ordering::Acquire);
            first = first.or(Some(word));
        }
        StateWord(first.unwrap_or(0))
    }

    /// Release: what was done under the count is done before it goes.
    #[inline(always)]
    fn count_down(&self, block: &Block, count: u64) {
        for slot in self.slots(block) {
            self.metadata.state(slot).fetch_sub(count, Ordering::Release);
        }
    }

    /// Waits until no put writes a frame of a block whose claims are counted. A writer looks at
    /// its word before each chunk, so this is one poll interval of each. Returns how often it
    /// looked in vain.
    #[inline(always)]
    fn wait_for_writers(&self, block: &Block, cache: &impl CacheMaintenance) -> u64 {
        let mut polls = 0;
        for slot in self.slots(block) {
            while self.metadata.load(slot, Ordering::Acquire).is_writing() {
                polls += 1;
                cache.relax();
            }
        }
        polls
    }

    /// Says whether the page at `address` is claimed.
    #[inline(always)]
    fn is_claimed(&self, address: PhysAddr) -> bool {
        self.bit_of(address).is_some_and(|(frame, bit)| {
            self.metadata.claimed(frame).load(Ordering::Acquire) & bit != 0
        })
    }

    /// The frame that stores the tags of the page at `address`, and the page's claimed bit.
    #[inline(always)]
    fn bit_of(&self, address: PhysAddr) -> Option<(u32, u32)> {
        self.regions.as_slice().iter().find_map(|placed| {
            let page = placed.region.page_of(address)?;
            let frame = placed.first_frame + (page / u64::from(PAGES_PER_FRAME)) as u32;
            Some((frame, 1 << (page % u64::from(PAGES_PER_FRAME))))
        })
    }

    fn all_claimed(&self, placed: &Placed, block: &Block, pages: &Range<u64>) -> bool {
        self.bits(placed, block, pages)
            .all(|(bits, mask)| bits.load(Ordering::Acquire) & mask == mask)
    }

    fn any_claimed(&self, block: &Block) -> bool {
        block.frames.clone().any(|frame| self.metadata.claimed(frame).load(Ordering::Acquire) != 0)
    }

    /// The words of claimed bits of a block, each with the mask of those of `pages` that it
    /// has. Words without any are left out.
    fn bits(
        &self,
        placed: &Placed,
        block: &Block,
        pages: &Range<u64>,
    ) -> impl Iterator<Item = (&AtomicU32, u32)> {
        self.masks(placed, block, pages).map(|(frame, mask)| (self.metadata.claimed(frame), mask))
    }

    /// The frames of a block, each with the mask of those of `pages` whose tags it stores.
    fn masks(
        &self,
        placed: &Placed,
        block: &Block,
        pages: &Range<u64>,
    ) -> impl Iterator<Item = (u32, u32)> + use<> {
        let (first_frame, pages) = (placed.first_frame, pages.clone());
        block.frames.clone().filter_map(move |frame| {
            let first = u64::from(frame - first_frame) * u64::from(PAGES_PER_FRAME);
            let own = first..first + u64::from(PAGES_PER_FRAME);
            let count = overlap(&own, &pages);
            let start = pages.start.max(first) - first;
            (count > 0).then(|| (frame, (((1u64 << count) - 1) << start) as u32))
        })
    }

    fn slots(&self, block: &Block) -> impl Iterator<Item = Slot> + use<'a> {
        let metadata = self.metadata;
        block.frames.clone().map(move |frame| metadata.slot_of_frame(frame))
    }

    /// The blocks of one region that store the tags of `pages`, ascending.
    fn blocks(&self, placed: &Placed, pages: &Range<u64>) -> impl Iterator<Item = Block> + use<> {
        let placed = *placed;
        let first = placed.region.block_of_page(pages.start);
        let last = placed.region.block_of_page(pages.end - 1);
        (first..=last).map(move |number| block_of(&placed, number))
    }

    fn block(&self, number: u32) -> Option<(&Placed, Block)> {
        let (placed, own) = self.regions.block(number)?;
        Some((placed, block_of(placed, own)))
    }
}

/// Block number `number` of a region.
fn block_of(placed: &Placed, number: u32) -> Block {
    let region = &placed.region;
    let frames = region.frames_per_block();
    let pages = region.pages_per_block();
    let first_frame = placed.first_frame + number * frames;
    let first_page = u64::from(number) * pages;
    Block {
        frames: first_frame..first_frame + frames,
        pages: first_page..first_page + pages,
        storage: region.block_storage(number),
    }
}

/// How many numbers the two ranges share.
fn overlap(a: &Range<u64>, b: &Range<u64>) -> u64 {
    a.end.min(b.end).saturating_sub(a.start.max(b.start))
}

/// The addresses of `count` pages of a region from page number `first` on.
fn pages_range(placed: &Placed, first: u64, count: u64) -> PhysRange {
    PhysRange::clamped(placed.region.page_address(first), count * PAGE_SIZE)
}
