// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table: where a page may lie, and how one gets there and away.
//!
//! The steps and their orderings are numbered in `docs/architecture.md`, with the
//! counterexample behind each. A frame's bytes and its entry belong to the put that moved its
//! word to WRITING, until that put publishes or acknowledges. Readers are not counted: they
//! copy, and one compare-and-swap at the end says whether what they copied was the page.

use super::Put;
use super::epoch::{Horizon, Stamp};
use super::frame::{Fingerprint, Half, Rank, StateWord, WRITING};
use super::key::PartKey;
use super::metadata::{Candidates, Metadata, Slot};
use super::stats::{CpuStats, Statistic};
use crate::addr::{PAGE_SIZE, PhysAddr, PhysRange};
use crate::platform::{CHUNK, CopyFault, PageMemory};
use crate::sync::{Ordering, fence};
use crate::tags::geometry::Regions;

/// A page that was found, and the word that its frame had then.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    slot: Slot<'a>,
    word: StateWord,
    /// When it was put.
    pub stamp: Stamp,
}

/// What came of reading a page that was found. It counts only if the frame's word has not
/// changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// Copied, and the CRC, if there is one, is right.
    Good,
    /// Copied, and the CRC is wrong.
    Corrupt,
    /// An external abort.
    Fault,
}

/// A page, or a part of one, that is put.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// Its key.
    pub key: PartKey,
    /// The key's hash.
    pub hash: u64,
    /// The put's stamp.
    pub stamp: Stamp,
    /// Parts of the page, each of which has a number of the stamp's.
    pub parts: u32,
    /// A CRC is to be kept of it.
    pub verify: bool,
    /// Where its bytes are.
    pub source: PhysAddr,
}

impl Offer {
    /// This part's own number: the first part's is the stamp.
    #[inline(always)]
    fn number(&self) -> u64 {
        self.stamp.0.wrapping_add(self.key.part.into())
    }
}

/// Why a put stopped after it had taken a frame.
enum Stop {
    /// Another copy of the key, or a claim.
    Refused,
    /// An external abort.
    Fault,
}

impl From<CopyFault> for Stop {
    fn from(_: CopyFault) -> Stop {
        Stop::Fault
    }
}

/// The frames, as a set-associative table.
#[derive(Debug)]
pub struct Table<'a> {
    regions: Regions,
    metadata: Metadata<'a>,
}

impl<'a> Table<'a> {
    /// Makes the table over the frames of `regions`.
    pub fn new(regions: Regions, metadata: Metadata<'a>) -> Table<'a> {
        Table { regions, metadata }
    }

    /// Copies what is offered into a frame and publishes it under its key, in place of any
    /// earlier copy.
    #[inline(always)]
    pub fn place<M: PageMemory>(&self, offer: &Offer, memory: &M, stats: &CpuStats) -> Put {
        let fingerprint = Fingerprint::of(offer.hash);
        let candidates = self.metadata.candidates(offer.hash);
        let Some((slot, open)) = drop_and_choose(offer, fingerprint, &candidates) else {
            return Put::Refused;
        };
        let writing = StateWord::writing(fingerprint, offer.number());
        // Acquire: the entry and the bytes are written after the frame is ours.
        if !slot.swap(open, writing, Ordering::Acquire) {
            return Put::Refused;
        }
        if open.is_cached() {
            stats.add(Statistic::Evictions, 1);
        }
        // Directly behind the swap. Of two puts of one key, each has now said WRITING and looks for
        // the other: with the fences at least one of them sees the other's word. And who confirms
        // a copy that has bytes of this page in it must see the word too.
        fence(Ordering::SeqCst);
        let filled = if has_rival(&offer.key, fingerprint, &candidates, writing) {
            Err(Stop::Refused)
        } else {
            self.fill(offer, &slot, writing, memory)
        };
        match filled {
            // Release: who reads the word sees entry and bytes.
            Ok(()) if slot.swap(writing, writing.published(), Ordering::Release) => Put::Kept,
            Ok(()) | Err(Stop::Refused) => {
                acknowledge(&slot);
                Put::Refused
            }
            Err(Stop::Fault) => {
                acknowledge(&slot);
                Put::Fault
            }
        }
    }

    /// Writes entry and bytes of a frame that this put owns, looking before each chunk
    /// whether it still does.
    #[inline(always)]
    fn fill<M: PageMemory>(
        &self,
        offer: &Offer,
        slot: &Slot<'_>,
        writing: StateWord,
        memory: &M,
    ) -> Result<(), Stop> {
        // A frame that does not exist is never active.
        let frame = self.metadata.frame(slot);
        let target = self.regions.frame_address(frame).ok_or(Stop::Refused)?;
        slot.entry().describe(&offer.key);
        self.metadata.era(slot).store((offer.number() >> 32) as u32, Ordering::Relaxed);
        let mut crc = 0;
        let (mut from, mut to) = (offer.source, target);
        let end = PhysAddr(target.0.wrapping_add(PAGE_SIZE));
        // Two loops, so that the usual one does not ask each time.
        while !offer.verify && to != end {
            if slot.load(Ordering::Relaxed) != writing {
                return Err(Stop::Refused);
            }
            memory.copy_chunk_in(from, to)?;
            (from, to) = (behind_chunk(from), behind_chunk(to));
        }
        while to != end {
            if slot.load(Ordering::Relaxed) != writing {
                return Err(Stop::Refused);
            }
            crc = memory.crc32c(crc, PhysRange::clamped(from, CHUNK))?;
            memory.copy_chunk_in(from, to)?;
            (from, to) = (behind_chunk(from), behind_chunk(to));
        }
        if offer.verify {
            slot.entry().verify_with(&offer.key, crc);
        }
        Ok(())
    }

    /// Finds the page of `key`, if it is fresh. A copy that was flushed is dropped on the way.
    ///
    /// `horizon` is asked once a page of that key is found, which is seldom enough to be worth
    /// it. It then holds every flush that had returned before the get was called.
    #[inline(always)]
    pub fn find(
        &self,
        key: &PartKey,
        hash: u64,
        horizon: impl Fn() -> Horizon,
    ) -> Option<Found<'a>> {
        let fingerprint = Fingerprint::of(hash);
        let candidates = self.metadata.candidates(hash);
        let live = |word: StateWord| word.is_live_with(fingerprint);
        let mut next = candidates.first(live);
        while let Some((place, word)) = next {
            let slot = candidates.slot(place);
            if holds(&slot, key) {
                let era = self.metadata.era(&slot).load(Ordering::Relaxed);
                let number = u64::from(era) << 32 | u64::from(word.sequence());
                let stamp = Stamp(number.wrapping_sub(key.part.into()));
                if horizon().is_fresh(stamp) {
                    return Some(Found { slot, word, stamp });
                }
                slot.swap(word, word.dropped(), Ordering::Relaxed);
            }
            next = candidates.next(place, live);
        }
        None
    }

    /// Says whether the key of this hash may be among its candidates. Where it says no, a get is a
    /// miss.
    #[inline(always)]
    pub fn may_hold(&self, hash: u64) -> bool {
        let fingerprint = Fingerprint::of(hash);
        self.metadata.candidates(hash).has(|word| word.is_live_with(fingerprint))
    }

    /// Copies a page that was found to `destination` and checks its CRC. What it says and what
    /// was copied count only if [`take`](Self::take) or [`confirm`](Self::confirm) agrees.
    #[inline(always)]
    pub fn read<M: PageMemory>(
        &self,
        found: &Found<'_>,
        destination: PhysAddr,
        memory: &M,
    ) -> Read {
        let frame = self.metadata.frame(&found.slot);
        let Some(source) = self.regions.frame_address(frame) else {
            return Read::Fault;
        };
        if memory.copy_page_out(source, destination).is_err() {
            return Read::Fault;
        }
        let Some(expected) = found.slot.entry().crc() else {
            return Read::Good;
        };
        match memory.crc32c(0, PhysRange::clamped(destination, PAGE_SIZE)) {
            Ok(crc) if crc == expected => Read::Good,
            Ok(_) => Read::Corrupt,
            Err(CopyFault) => Read::Fault,
        }
    }

    /// Removes a page that was found. Says whether it was there all the time.
    ///
    /// Release: the loads of the copy come before the swap, or the frame's next owner could
    /// write bytes that this copy still reads.
    #[inline(always)]
    pub fn take(&self, found: &Found<'_>) -> bool {
        found.slot.swap(found.word, found.word.dropped(), Ordering::Release)
    }

    /// Says whether a page that was found is there still, and was all the time.
    #[inline(always)]
    pub fn confirm(&self, found: &Found<'_>) -> bool {
        fence(Ordering::Acquire);
        found.slot.load(Ordering::Relaxed) == found.word
    }

    /// Drops every copy of `key`.
    #[inline(always)]
    pub fn drop_part(&self, key: &PartKey, hash: u64) {
        drop_copies(key, Fingerprint::of(hash), &self.metadata.candidates(hash));
    }
}

/// Drops every copy of `key` among its candidates.
#[inline(always)]
fn drop_copies(key: &PartKey, fingerprint: Fingerprint, candidates: &Candidates<'_>) {
    let live = |word: StateWord| word.is_live_with(fingerprint);
    let mut next = candidates.first(live);
    while let Some((place, word)) = next {
        let slot = candidates.slot(place);
        if holds(&slot, key) {
            // If the word has changed, this copy is gone already.
            slot.swap(word, word.dropped(), Ordering::Relaxed);
        }
        next = candidates.next(place, live);
    }
}

/// Where the next chunk begins, in a page.
#[inline(always)]
fn behind_chunk(chunk: PhysAddr) -> PhysAddr {
    PhysAddr(chunk.0.wrapping_add(CHUNK))
}

/// Says whether a frame whose word was found *live* holds `key`.
#[inline(always)]
fn holds(slot: &Slot<'_>, key: &PartKey) -> bool {
    // The entry is read after its word.
    fence(Ordering::Acquire);
    slot.entry().is_of(key)
}

/// Drops every copy of the key among its candidates, and chooses the frame for a new one: a free
/// one, else the one whose page is oldest, but no other part's of the same put. `None` if no
/// candidate is open; no earlier copy remains then either.
#[inline(always)]
fn drop_and_choose<'a>(
    offer: &Offer,
    fingerprint: Fingerprint,
    candidates: &Candidates<'a>,
) -> Option<(Slot<'a>, StateWord)> {
    drop_copies(&offer.key, fingerprint, candidates);
    let half = Half::of(offer.stamp);
    let mut best = choose(candidates, half, |_| true);
    let own = |word: StateWord| word.is_cached() && word.is_of_put(offer.stamp, offer.parts);
    if own(best.1.word(half)) {
        best = choose(candidates, half, |word| !own(word));
    }
    let word = best.1.word(half);
    word.is_open().then(|| (candidates.slot(best.0), word))
}

/// Chooses the best candidate of those that `may` be chosen.
#[inline(always)]
fn choose(
    candidates: &Candidates<'_>,
    half: Half,
    may: impl Fn(StateWord) -> bool,
) -> (usize, Rank) {
    let mut best = (0, Rank::LAST);
    candidates.look(|place, word| {
        if may(word) && word.rank(half) < best.1 {
            best = (place, word.rank(half));
        }
    });
    best
}

/// Says whether a frame other than the put's own, whose word is `own`, holds, or may be about to
/// hold, the key.
#[inline(always)]
fn has_rival(
    key: &PartKey,
    fingerprint: Fingerprint,
    candidates: &Candidates<'_>,
    own: StateWord,
) -> bool {
    // Mostly the own frame is the only one with this fingerprint. If it is claimed it is none, and
    // another one might stand in for it: then this put, which is to look at its word before it
    // goes on, stops there, because a claim of a frame in WRITING stays until that is answered.
    let mut at_work = 0u32;
    candidates.look(|_, word| {
        at_work = at_work.wrapping_add(word.is_at_work_with(fingerprint).into());
    });
    if at_work <= 1 {
        return false;
    }
    // No other word is equal: the number in it is this put's.
    let may_be = |word: StateWord| word.is_at_work_with(fingerprint) && word != own;
    let mut next = candidates.first(may_be);
    while let Some((place, word)) = next {
        if word.is_writing() || holds(&candidates.slot(place), key) {
            return true;
        }
        next = candidates.next(place, may_be);
    }
    false
}

/// Gives a frame in WRITING back. Claims wait for this, so the frame is not touched after.
#[inline(always)]
fn acknowledge(slot: &Slot<'_>) {
    slot.state().fetch_and(!WRITING, Ordering::Release);
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::stash::frame::ACTIVE;
    use crate::stash::key::Object;
    use crate::stash::metadata::{CANDIDATES, MetadataBuffer};
    use crate::stash::pool::PoolId;
    use crate::stash::stats::Stats;
    use crate::tags::geometry::Region;

    /// Memory whose bytes are of no account.
    struct Memory;

    impl PageMemory for Memory {
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

    /// P10: where SEQUENCE wraps, and where its top bit changes, a full table goes on keeping the
    /// pages that were put last.
    #[test]
    fn p10_the_oldest_page_gives_way_wherever_the_clock_stands() {
        let frames = CANDIDATES as u64;
        let storage = PhysRange::new(PhysAddr(1 << 45), frames * PAGE_SIZE).unwrap();
        let tagged = PhysRange::new(PhysAddr(1 << 30), frames * PAGE_SIZE * 32).unwrap();
        let regions =
            Regions::new(vec![Region::new(tagged, storage, PAGE_SIZE).unwrap()], 1).unwrap();
        let stats = Stats::new(1);
        // Under Miri only where the clock's lower half ends.
        let (firsts, offers): (&[u64], u64) = if cfg!(miri) {
            (&[0xffff_fff0], frames + 3)
        } else {
            (&[0, 0x7fff_fff0, 0xffff_fff0, 0x1_7fff_fff0], 3 * frames)
        };
        for &first in firsts {
            let buffer = MetadataBuffer::new(&regions);
            let metadata = buffer.metadata();
            for frame in 0..frames as u32 {
                metadata.state(frame).store(ACTIVE, Ordering::Relaxed);
            }
            let table = Table::new(regions.clone(), metadata);
            let key = |number: u64| PartKey {
                object: Object { pool: PoolId(1), words: [1, 2, 3] },
                index: number,
                part: 0,
            };
            let hash = |number| key(number).hash(key(number).object.hash());
            for number in first..first + offers {
                let offer = Offer {
                    key: key(number),
                    hash: hash(number),
                    stamp: Stamp(number),
                    parts: 1,
                    verify: false,
                    source: PhysAddr(1 << 30),
                };
                assert_eq!(table.place(&offer, &Memory, stats.of(0)), Put::Kept);
                let oldest = first.max((number + 1).saturating_sub(frames));
                for kept in oldest..=number {
                    assert!(table.may_hold(hash(kept)), "{kept:#x} is gone at {number:#x}");
                }
            }
        }
    }
}
