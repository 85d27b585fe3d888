// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table: where a page may lie, and how one gets there and away.
//!
//! The steps and their orderings are numbered in `docs/architecture.md`, with the
//! counterexample behind each. A frame's bytes and its entry belong to the put that moved its
//! word to WRITING, until that put publishes or acknowledges. Readers are not counted: they
//! copy, and one compare-and-swap at the end says whether what they copied was the page.

use super::Put;
use super::epoch::Horizon;
use super::frame::{Fingerprint, StateWord, WRITING};
use super::key::PartKey;
use super::metadata::{Metadata, Set};
use super::stats::{CpuStats, Statistic};
use crate::addr::{PAGE_SIZE, PhysAddr, PhysRange};
use crate::platform::{CHUNK, CopyFault, PageMemory};
use crate::sync::{Ordering, fence};
use crate::tags::geometry::Regions;

/// A page that was found, and the word that its frame had then.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    set: Set<'a>,
    way: usize,
    word: StateWord,
    /// When it was put.
    pub stamp: u64,
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

    /// Copies the part at `source` into a frame and publishes it under `key`, in place of any
    /// earlier copy.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "a key, a page, and what it works with")]
    pub fn place<M: PageMemory>(
        &self,
        key: &PartKey,
        hash: u64,
        stamp: u64,
        verify: bool,
        source: PhysAddr,
        memory: &M,
        stats: &CpuStats,
    ) -> Put {
        let fingerprint = Fingerprint::of(hash);
        let set = self.metadata.set_of(hash);
        // Also when the put will fail: no earlier copy may remain.
        let Some((way, open)) = drop_and_choose(key, fingerprint, &set, stamp) else {
            return Put::Refused;
        };
        let writing = open.writing(fingerprint);
        // Acquire: the entry and the bytes are written after the frame is ours.
        if !set.swap(way, open, writing, Ordering::Acquire) {
            return Put::Refused;
        }
        if open.dropped() != open {
            stats.add(Statistic::Evictions, 1);
        }
        // Of two puts of one key, each has now said WRITING and looks for the other: with the
        // fences at least one of them sees the other's word.
        fence(Ordering::SeqCst);
        let filled = if has_rival(key, fingerprint, &set, way) {
            Err(Stop::Refused)
        } else {
            self.fill(&set, way, key, stamp, verify, source, memory)
        };
        match filled {
            // Release: who reads the word sees entry and bytes.
            Ok(()) if set.swap(way, writing, writing.published(), Ordering::Release) => Put::Kept,
            Ok(()) | Err(Stop::Refused) => {
                acknowledge(&set, way);
                Put::Refused
            }
            Err(Stop::Fault) => {
                acknowledge(&set, way);
                Put::Fault
            }
        }
    }

    /// Writes entry and bytes of a frame that this put owns, looking before each chunk
    /// whether it still does.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "a key, a page, and what it works with")]
    fn fill<M: PageMemory>(
        &self,
        set: &Set<'_>,
        way: usize,
        key: &PartKey,
        stamp: u64,
        verify: bool,
        source: PhysAddr,
        memory: &M,
    ) -> Result<(), Stop> {
        // A frame that does not exist is never active.
        let target = self.regions.frame_address(set.frame(way)).ok_or(Stop::Refused)?;
        set.entry(way).describe(key);
        set.stamp(way).store(stamp, Ordering::Relaxed);
        let mut crc = 0;
        for offset in (0..PAGE_SIZE).step_by(CHUNK as usize) {
            if set.load(way, Ordering::Relaxed).is_revoked() {
                return Err(Stop::Refused);
            }
            let from = PhysAddr(source.0 + offset);
            if verify {
                crc = memory.crc32c(crc, PhysRange::clamped(from, CHUNK))?;
            }
            memory.copy_chunk_in(from, PhysAddr(target.0 + offset))?;
        }
        if verify {
            set.entry(way).verify_with(key, crc);
        }
        Ok(())
    }

    /// Finds the page of `key`, if it is fresh. A copy that was flushed is dropped on the way.
    #[inline(always)]
    pub fn find(&self, key: &PartKey, hash: u64, horizon: Horizon) -> Option<Found<'a>> {
        let fingerprint = Fingerprint::of(hash);
        let set = self.metadata.set_of(hash);
        for (way, word) in set.words(Ordering::Acquire) {
            if word.is_live_with(fingerprint) && set.entry(way).is_of(key) {
                let stamp = set.stamp(way).load(Ordering::Relaxed);
                if horizon.is_fresh(stamp) {
                    return Some(Found { set, way, word, stamp });
                }
                set.swap(way, word, word.dropped(), Ordering::Relaxed);
            }
        }
        None
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
        let Some(source) = self.regions.frame_address(found.set.frame(found.way)) else {
            return Read::Fault;
        };
        if memory.copy_page_out(source, destination).is_err() {
            return Read::Fault;
        }
        let Some(expected) = found.set.entry(found.way).crc() else {
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
        found.set.swap(found.way, found.word, found.word.dropped(), Ordering::Release)
    }

    /// Says whether a page that was found is there still, and was all the time.
    #[inline(always)]
    pub fn confirm(&self, found: &Found<'_>) -> bool {
        fence(Ordering::Acquire);
        found.set.load(found.way, Ordering::Relaxed) == found.word
    }

    /// Drops every copy of `key`.
    #[inline(always)]
    pub fn drop_part(&self, key: &PartKey, hash: u64) {
        let fingerprint = Fingerprint::of(hash);
        let set = self.metadata.set_of(hash);
        for (way, word) in set.words(Ordering::Acquire) {
            if word.is_live_with(fingerprint) && set.entry(way).is_of(key) {
                set.swap(way, word, word.dropped(), Ordering::Relaxed);
            }
        }
    }
}

/// Drops every copy of `key` in its set, and chooses the frame for a new one: a free one, else
/// the one whose page is oldest. `None` if no candidate is open.
#[inline(always)]
fn drop_and_choose(
    key: &PartKey,
    fingerprint: Fingerprint,
    set: &Set<'_>,
    stamp: u64,
) -> Option<(usize, StateWord)> {
    let mut choice = None;
    // Acquire: the entry of a live frame is read after its word.
    for (way, mut word) in set.words(Ordering::Acquire) {
        if word.is_live_with(fingerprint) && set.entry(way).is_of(key) {
            // If the word has changed, this copy is gone already.
            if !set.swap(way, word, word.dropped(), Ordering::Relaxed) {
                continue;
            }
            word = word.dropped();
        }
        if word.is_free() {
            choice = Some((way, word));
        }
    }
    choice.or_else(|| oldest(set, stamp))
}

/// The open frame of a set whose page is oldest, and older than `stamp`: another part of the
/// same put must not give way.
#[inline(always)]
fn oldest(set: &Set<'_>, stamp: u64) -> Option<(usize, StateWord)> {
    let mut oldest = stamp;
    let mut choice = None;
    for (way, word) in set.words(Ordering::Relaxed) {
        let stamp = set.stamp(way).load(Ordering::Relaxed);
        if word.is_open() && stamp < oldest {
            oldest = stamp;
            choice = Some((way, word));
        }
    }
    choice
}

/// Says whether another frame of the set holds, or may be about to hold, the key.
#[inline(always)]
fn has_rival(key: &PartKey, fingerprint: Fingerprint, set: &Set<'_>, own: usize) -> bool {
    for (way, word) in set.words(Ordering::Acquire) {
        if word.is_lent_with(fingerprint)
            && way != own
            && (word.is_writing() || word.is_live() && set.entry(way).is_of(key))
        {
            return true;
        }
    }
    false
}

/// Gives a frame in WRITING back. Claims wait for this, so the frame is not touched after.
#[inline(always)]
fn acknowledge(set: &Set<'_>, way: usize) {
    set.state(way).fetch_and(!WRITING, Ordering::Release);
}
