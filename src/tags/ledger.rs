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
use crate::stash::frame::{ACTIVE, CACHED, CLAIM, StateWord};
use crate::stash::metadata::Metadata;
use crate::stash::stats::{CpuStats, Statistic};
use crate::sync::Ordering;
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
        let mut progress = Progress::default();
        let mut runs = Batches { ledger: self, ram, range, rest: range };
        while let Some((placed, pages)) = runs.next(&mut progress, caller) {
            let changed = self.claim_batch(placed, &pages, cache, stats);
            progress.count(&pages, changed);
        }
        stats.add(Statistic::Claims, progress.changed);
        stats.add(Statistic::ClaimsHeld, progress.unchanged);
        progress
    }

    /// Says whether a page is claimed.
    #[inline(always)]
    pub fn is_claimed(&self, page: &TaggedPage<'_>) -> bool {
        let (frame, bit) = page.bit();
        self.metadata.claimed(frame).load(Ordering::Acquire) & bit != 0
    }

    /// Claims one page, which is guest RAM, as [`claim`](Self::claim) does: the call that kernels
    /// make. Returns how many pages were not claimed before.
    #[inline(always)]
    pub fn claim_page(
        &self,
        page: &TaggedPage<'_>,
        cache: &impl CacheMaintenance,
        stats: &CpuStats,
    ) -> u64 {
        let block = block_of(page.placed, page.placed.region.block_of_page(page.number));
        let was = self.count_up(&block, 1);
        if self.enters_tags(&block, was, stats) {
            count_polls(self.wait_for_writers(&block, cache), stats);
            cache.barrier_inner();
            cache.clean_invalidate_tags(pages_range(page.placed, page.number, 1));
            cache.barrier_inner();
            cache.clean_invalidate_data(block.storage);
            cache.barrier_system();
        }
        let (frame, bit) = page.bit();
        let held = self.metadata.claimed(frame).fetch_or(bit, Ordering::AcqRel) & bit != 0;
        if held {
            self.count_down(&block, 1);
        }
        stats.add(if held { Statistic::ClaimsHeld } else { Statistic::Claims }, 1);
        u64::from(!held)
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
        let mut progress = Progress::default();
        let mut runs = Batches { ledger: self, ram, range, rest: range };
        while let Some((placed, pages)) = runs.next(&mut progress, caller) {
            let mut changed = 0;
            for block in blocks(placed, &pages) {
                changed += self.release_block(placed, &block, &pages, cache);
            }
            progress.count(&pages, changed);
        }
        stats.add(Statistic::Releases, progress.changed);
        stats.add(Statistic::ReleasesRefused, progress.unchanged);
        progress
    }

    /// What is known of the page at `address`; `None` if it has no tag storage.
    pub fn query(&self, address: PhysAddr) -> Option<PageState> {
        let page = self.page(address)?;
        let word = self.metadata.load(page.bit().0, Ordering::Acquire);
        Some(PageState {
            claimed: self.is_claimed(&page),
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
        let is_active = |frame| self.metadata.load(frame, Ordering::Relaxed).is_active();
        if block.frames.clone().all(is_active) {
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
        for frame in block.frames {
            self.metadata.state(frame).fetch_or(ACTIVE, Ordering::Release);
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
        for frame in block.frames.clone() {
            self.metadata.state(frame).fetch_and(!(ACTIVE | CACHED), Ordering::Acquire);
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
            let word = self.metadata.load(frame, Ordering::Relaxed);
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
        pages: &Range<u64>,
        cache: &impl CacheMaintenance,
        stats: &CpuStats,
    ) -> u64 {
        // One bit for each block of the batch: counted up, and not in tags before.
        let (mut counted, mut entering) = (0u32, 0u32);
        for (n, block) in (0u32..).zip(blocks(placed, pages)) {
            let begun = self.begin_claim(placed, &block, pages, stats);
            counted |= u32::from(begun != Begun::Held) << n;
            entering |= u32::from(begun == Begun::Entering) << n;
        }
        if entering != 0 {
            let entering =
                || (0u32..).zip(blocks(placed, pages)).filter(|(n, _)| entering & 1 << n != 0);
            let mut polls = 0;
            for (_, block) in entering() {
                polls += self.wait_for_writers(&block, cache);
            }
            count_polls(polls, stats);
            // The loads above do not order cache maintenance; a DSB does.
            cache.barrier_inner();
            for (_, block) in entering() {
                cache.clean_invalidate_tags(block.data_of(placed, pages));
            }
            cache.barrier_inner();
            for (_, block) in entering() {
                cache.clean_invalidate_data(block.storage);
            }
            cache.barrier_system();
        }
        let mut changed = 0;
        for (n, block) in (0u32..).zip(blocks(placed, pages)) {
            if counted & 1 << n != 0 {
                changed += self.finish_claim(placed, &block, pages);
            }
        }
        changed
    }

    /// The steps of a claim before any wait: counts the pages of a block, and drops what is
    /// cached in it.
    #[inline(always)]
    fn begin_claim(
        &self,
        placed: &Placed,
        block: &Block,
        pages: &Range<u64>,
        stats: &CpuStats,
    ) -> Begun {
        let mut held = true;
        for (frame, mask) in block.masks(placed, pages) {
            held &= self.metadata.claimed(frame).load(Ordering::Acquire) & mask == mask;
        }
        if held {
            return Begun::Held;
        }
        let was = self.count_up(block, overlap(&block.pages, pages));
        if self.enters_tags(block, was, stats) { Begun::Entering } else { Begun::Counted }
    }

    /// Says whether a block whose claims have just been counted up, from `was`, has to be made
    /// ready for tags; then drops what is cached in it.
    #[inline(always)]
    fn enters_tags(&self, block: &Block, was: StateWord, stats: &CpuStats) -> bool {
        // The look at the bits comes after the count: a claim that is seen here holds its
        // count, and its claimer did what follows. Before it, it proves nothing.
        let mut bits = 0;
        for frame in block.frames.clone() {
            bits |= self.metadata.claimed(frame).load(Ordering::Acquire);
        }
        // Before the answer: a claim that came second may have set its bit already.
        if was.claims() == 0 && was.is_active() {
            stats.add(Statistic::BlocksTaken, 1);
        }
        if bits != 0 {
            return false;
        }
        let mut dropped = 0u64;
        for frame in block.frames.clone() {
            let word = self.metadata.state(frame).fetch_and(!CACHED, Ordering::Relaxed);
            dropped = dropped.wrapping_add((word & (ACTIVE | CACHED) == ACTIVE | CACHED).into());
        }
        stats.add(Statistic::PagesDropped, dropped);
        true
    }

    /// The last steps of a claim: sets the bits, and corrects the count for pages that another
    /// CPU claimed meanwhile. Returns how many pages were not claimed before.
    #[inline(always)]
    fn finish_claim(&self, placed: &Placed, block: &Block, pages: &Range<u64>) -> u64 {
        let mut again = 0;
        for (frame, mask) in block.masks(placed, pages) {
            let old = self.metadata.claimed(frame).fetch_or(mask, Ordering::AcqRel);
            again += u64::from((old & mask).count_ones());
        }
        if again > 0 {
            self.count_down(block, again);
        }
        overlap(&block.pages, pages) - again
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
        for (frame, mask) in block.masks(placed, pages) {
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
        let mut first = StateWord(0);
        for frame in block.frames.clone() {
            let word =
                self.metadata.state(frame).fetch_add(count.wrapping_mul(CLAIM), Ordering::Acquire);
            if frame == block.frames.start {
                first = StateWord(word);
            }
        }
        first
    }

    /// Release: what was done under the count is done before it goes.
    #[inline(always)]
    fn count_down(&self, block: &Block, count: u64) {
        for frame in block.frames.clone() {
            self.metadata.state(frame).fetch_sub(count.wrapping_mul(CLAIM), Ordering::Release);
        }
    }

    /// Waits until no put writes a frame of a block whose claims are counted. A writer looks at
    /// its word before each chunk, so this is one poll interval of each. Returns how often it
    /// looked in vain.
    #[inline(always)]
    fn wait_for_writers(&self, block: &Block, cache: &impl CacheMaintenance) -> u64 {
        let mut polls = 0;
        for frame in block.frames.clone() {
            while self.metadata.load(frame, Ordering::Acquire).is_writing() {
                polls += 1;
                cache.relax();
            }
        }
        polls
    }

    /// The page at `address`; `None` if it has no tag storage.
    #[inline(always)]
    pub fn page(&self, address: PhysAddr) -> Option<TaggedPage<'_>> {
        self.regions
            .as_slice()
            .iter()
            .find_map(|placed| Some(TaggedPage { placed, number: placed.region.page_of(address)? }))
    }

    /// Block number `number` of all, and its region.
    fn block(&self, number: u32) -> Option<(&Placed, Block)> {
        let (placed, own) = self.regions.block(number)?;
        Some((placed, block_of(placed, own)))
    }
}

/// A page of tagged memory.
#[derive(Clone, Copy, Debug)]
pub struct TaggedPage<'r> {
    placed: &'r Placed,
    /// Its number in the region.
    number: u64,
}

impl TaggedPage<'_> {
    /// The frame that stores its tags, and its claimed bit.
    #[inline(always)]
    fn bit(&self) -> (u32, u32) {
        let own = (self.number / u64::from(PAGES_PER_FRAME)) as u32;
        let frame = self.placed.first_frame.wrapping_add(own);
        (frame, 1 << (self.number % u64::from(PAGES_PER_FRAME)))
    }
}

/// How a claim of pages of one block has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begun {
    /// All are claimed already.
    Held,
    /// They are counted, and the block was in tags.
    Counted,
    /// They are counted, and the block has to be made ready for tags.
    Entering,
}

/// What is left of a run of pages, dealt out in batches.
struct Batches<'l, 'a> {
    ledger: &'l Ledger<'a>,
    ram: &'l GuestRam,
    range: PhysRange,
    rest: PhysRange,
}

impl<'l> Batches<'l, '_> {
    /// The next pages that are guest RAM and have tag storage, of one region and at most
    /// [`BATCH_FRAMES`] frames. `None` at the end of the run, or where a pending interrupt ends
    /// it, but not before one batch; `progress` then says how many pages were dealt with.
    #[inline(always)]
    fn next(
        &mut self,
        progress: &mut Progress,
        caller: &impl Caller,
    ) -> Option<(&'l Placed, Range<u64>)> {
        let start = self.range.start();
        let Some((placed, piece)) = self.ledger.next_piece(self.rest, self.ram) else {
            progress.pages = self.range.len() / PAGE_SIZE;
            return None;
        };
        if self.rest.start() != start && caller.interrupted() {
            // The caller goes on where there is something to do: that is guest RAM, which the
            // end of the last batch need not be.
            progress.pages = (piece.start().0 - start.0) / PAGE_SIZE;
            return None;
        }
        let region = &placed.region;
        let pages = region.pages_in(&piece)?;
        let blocks = (BATCH_FRAMES / region.frames_per_block()).max(1);
        let first = u64::from(region.block_of_page(pages.start));
        let limit = (first + u64::from(blocks)) * region.pages_per_block();
        let pages = pages.start..pages.end.min(limit);
        let next = PhysAddr(region.page_address(pages.end - 1).0 + PAGE_SIZE);
        self.rest = PhysRange::from_bounds(next, self.range.end())?;
        Some((placed, pages))
    }
}

impl Progress {
    /// Adds a batch of pages of which `changed` were changed.
    fn count(&mut self, pages: &Range<u64>, changed: u64) {
        self.changed += changed;
        self.unchanged += pages.end - pages.start - changed;
    }
}

impl Block {
    /// The frames that store tags of `pages`, each with the mask of its claimed bits.
    #[inline(always)]
    fn masks(
        &self,
        placed: &Placed,
        pages: &Range<u64>,
    ) -> impl Iterator<Item = (u32, u32)> + use<> {
        let (first_frame, pages) = (placed.first_frame, pages.clone());
        self.frames.clone().filter_map(move |frame| {
            let first = u64::from(frame - first_frame) * u64::from(PAGES_PER_FRAME);
            let own = first..first + u64::from(PAGES_PER_FRAME);
            let count = overlap(&own, &pages);
            let start = pages.start.max(first) - first;
            // In 64 bits: a mask of all 32 shifts everything out of fewer.
            (count > 0).then(|| (frame, (((1u64 << count) - 1) << start) as u32))
        })
    }

    /// The data of those of `pages` whose tags the block stores.
    #[inline(always)]
    fn data_of(&self, placed: &Placed, pages: &Range<u64>) -> PhysRange {
        pages_range(placed, pages.start.max(self.pages.start), overlap(&self.pages, pages))
    }
}

/// The blocks of one region that store the tags of `pages`, of which there is at least one.
#[inline(always)]
fn blocks(placed: &Placed, pages: &Range<u64>) -> impl Iterator<Item = Block> + use<> {
    let placed = *placed;
    let first = placed.region.block_of_page(pages.start);
    let last = placed.region.block_of_page(pages.end - 1);
    (first..=last).map(move |number| block_of(&placed, number))
}

/// Counts what a claim waited.
#[inline(always)]
fn count_polls(polls: u64, stats: &CpuStats) {
    if polls > 0 {
        stats.add(Statistic::WaitPolls, polls);
        stats.raise(Statistic::WorstWait, polls);
    }
}

/// Block number `number` of a region.
#[inline(always)]
fn block_of(placed: &Placed, number: u32) -> Block {
    // What `Region` has checked fits: nothing here wraps.
    let region = &placed.region;
    let frames = region.frames_per_block();
    let pages = region.pages_per_block();
    let first_frame = placed.first_frame.wrapping_add(number.wrapping_mul(frames));
    let first_page = u64::from(number).wrapping_mul(pages);
    Block {
        frames: first_frame..first_frame.wrapping_add(frames),
        pages: first_page..first_page.wrapping_add(pages),
        storage: region.block_storage(number),
    }
}

/// How many numbers the two ranges share.
#[inline(always)]
fn overlap(a: &Range<u64>, b: &Range<u64>) -> u64 {
    a.end.min(b.end).saturating_sub(a.start.max(b.start))
}

/// The addresses of `count` pages of a region from page number `first` on.
#[inline(always)]
fn pages_range(placed: &Placed, first: u64, count: u64) -> PhysRange {
    PhysRange::clamped(placed.region.page_address(first), count * PAGE_SIZE)
}
