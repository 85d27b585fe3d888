// SPDX-License-Identifier: MIT OR Apache-2.0
//! A model of the stash's table in which the design can be varied: ways, sets that a key may
//! lie in, which frame a put takes, and how flushes of objects are remembered. With the real
//! design it answers every call of a trace as the stash does, which is checked, so that what it
//! says of other designs is worth something.

use crate::cache::Cache;
use crate::keys;
use crate::trace::{File, Page, Trace};
use tagstash::stash::key::{FACTOR, fold};
use tagstash::stash::metadata::WAYS;
use tagstash::stash::pool::PoolId;

/// The sets in which a page may lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sets {
    /// One.
    One,
    /// One of each half of the table.
    OneOfEachHalf,
    /// Two of all, which may be the same one.
    AnyTwo,
}

/// Which free frame of the candidates a put takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Free {
    /// One that was never used, else the one whose last page is oldest: the order of state words.
    ByWord,
    /// One of the set that has more of them.
    EmptierSet,
}

/// Which page of the candidates gives way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// The one that was put first.
    Oldest,
    /// The first, beginning at a random one.
    Random,
    /// The first, beginning behind the last that gave way in this set.
    RoundRobin,
    /// The first.
    First,
}

/// How flushes of objects are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushes {
    /// A moment for each object.
    Exact,
    /// Moments shared by hash.
    Buckets {
        /// One bucket for so many frames.
        frames: u32,
        /// Buckets of an object, of which the earliest moment counts: 1 to 3.
        each: u32,
    },
}

/// What can be varied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Design {
    /// Frames of a set.
    pub ways: u32,
    /// Sets that a page may lie in.
    pub sets: Sets,
    /// Which free frame is taken.
    pub free: Free,
    /// Which page gives way.
    pub eviction: Eviction,
    /// How flushes of objects are remembered.
    pub flushes: Flushes,
}

impl Design {
    /// The stash's. What changes there changes here, or the suite says so.
    pub const REAL: Design = Design {
        ways: WAYS as u32,
        sets: Sets::OneOfEachHalf,
        free: Free::ByWord,
        eviction: Eviction::Oldest,
        flushes: Flushes::Buckets { frames: 1, each: 3 },
    };
}

const EMPTY: Page = Page::MAX;

/// The model.
#[derive(Debug)]
pub struct Table<'t> {
    design: Design,
    file_of: &'t [File],
    /// Sets in all.
    sets: u32,
    /// By slot, `set * ways + way`: the page, whether the slot is lent, when the page was put that
    /// it has or had last, and what its state word says of that page: zero before the first.
    pages: Vec<Page>,
    lent: Vec<bool>,
    stamps: Vec<u64>,
    words: Vec<u64>,
    /// By set: where round robin goes on.
    turns: Vec<u32>,
    /// By page: its slot, if that has it, and its hash.
    slots: Vec<u32>,
    hashes: Vec<u64>,
    /// By file.
    file_hashes: Vec<u64>,
    moments: Vec<u64>,
    buckets: Vec<u64>,
    clock: u64,
    held: u32,
}

/// The part of `count` that the upper half of `hash` chooses.
fn share(hash: u64, count: u32) -> u32 {
    (((hash >> 32) * u64::from(count)) >> 32) as u32
}

impl<'t> Table<'t> {
    /// An empty table, for the pages of a trace, whose pool has this id.
    pub fn new(trace: &'t Trace, design: Design, pool: PoolId) -> Table<'t> {
        let least = if design.sets == Sets::One { 1 } else { 2 };
        let sets = trace.frames.div_ceil(design.ways).max(least);
        let slots = (sets * design.ways) as usize;
        let lent = (0..slots as u32)
            .map(|slot| slot % design.ways * sets + slot / design.ways < trace.frames)
            .collect();
        let file_hashes: Vec<u64> =
            (0..trace.files.len()).map(|file| keys::object_hash(pool, file as File)).collect();
        let hashes = (0..trace.pages())
            .map(|page| {
                let (file, index) = trace.place(page as Page);
                keys::page_hash(pool, file, index, file_hashes[file as usize])
            })
            .collect();
        let buckets = match design.flushes {
            Flushes::Exact => 1,
            Flushes::Buckets { frames, .. } => (trace.frames / frames).max(1),
        };
        Table {
            design,
            file_of: &trace.file_of,
            sets,
            pages: vec![EMPTY; slots],
            lent,
            stamps: vec![0; slots],
            words: vec![0; slots],
            turns: vec![0; sets as usize],
            slots: vec![0; trace.pages()],
            hashes,
            file_hashes,
            moments: vec![0; trace.files.len()],
            buckets: vec![0; buckets as usize],
            clock: 0,
            held: 0,
        }
    }

    fn slot_of(&self, page: Page) -> Option<usize> {
        let slot = self.slots[page as usize] as usize;
        (self.pages[slot] == page).then_some(slot)
    }

    fn drop_slot(&mut self, slot: usize) {
        self.pages[slot] = EMPTY;
        self.held -= 1;
    }

    /// The buckets of a file: by pieces of its hash.
    fn buckets_of(&self, file: File) -> impl Iterator<Item = usize> + use<> {
        let each = match self.design.flushes {
            Flushes::Exact => 0,
            Flushes::Buckets { each, .. } => each as usize,
        };
        let (hash, count) = (self.file_hashes[file as usize], self.buckets.len() as u32);
        let hash = fold(hash, FACTOR);
        let bucket = move |turn| share(hash.rotate_right(turn), count) as usize;
        [0, 21, 42].into_iter().take(each).map(bucket)
    }

    fn horizon(&self, file: File) -> u64 {
        match self.design.flushes {
            Flushes::Exact => self.moments[file as usize],
            Flushes::Buckets { .. } => {
                self.buckets_of(file).map(|bucket| self.buckets[bucket]).min().unwrap_or(0)
            }
        }
    }

    /// The first slots of the sets in which a page may lie.
    fn sets_of(&self, page: Page) -> [usize; 2] {
        let (hash, half) = (self.hashes[page as usize], self.sets / 2);
        let sets = match self.design.sets {
            Sets::One => [share(hash, self.sets); 2],
            Sets::OneOfEachHalf => [share(hash, half), half + share(hash << 32, self.sets - half)],
            Sets::AnyTwo => [share(hash, self.sets), share(hash << 32, self.sets)],
        };
        sets.map(|set| (set * self.design.ways) as usize)
    }

    /// The slot for a new page.
    fn choose(&mut self, page: Page) -> Option<usize> {
        let ways = self.design.ways as usize;
        let sets = self.sets_of(page);
        let second = if sets[0] == sets[1] { 0..0 } else { sets[1]..sets[1] + ways };
        let both = || (sets[0]..sets[0] + ways).chain(second.clone());
        let is_free = |&slot: &usize| self.lent[slot] && self.pages[slot] == EMPTY;
        let free = |set: usize| (set..set + ways).filter(is_free);
        let found = match self.design.free {
            Free::ByWord => both().filter(is_free).min_by_key(|&slot| self.words[slot]),
            Free::EmptierSet if free(sets[0]).count() >= free(sets[1]).count() => {
                free(sets[0]).next()
            }
            Free::EmptierSet => free(sets[1]).next(),
        };
        if found.is_some() {
            return found;
        }
        let one = if self.clock % 2 == 1 { sets[1] } else { sets[0] };
        let from = |set: usize, way: usize| {
            (0..ways).map(move |n| set + (way + n) % ways).find(|&slot| self.lent[slot])
        };
        match self.design.eviction {
            Eviction::Oldest => {
                both().filter(|&slot| self.lent[slot]).min_by_key(|&slot| self.stamps[slot])
            }
            Eviction::Random => {
                let number = self.clock.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                from(one, share(number, self.design.ways) as usize)
            }
            Eviction::First => from(one, 0),
            Eviction::RoundRobin => {
                let set = one / ways;
                let slot = from(one, self.turns[set] as usize)?;
                self.turns[set] = ((slot - one + 1) % ways) as u32;
                Some(slot)
            }
        }
    }

    fn slot_of_frame(&self, frame: u32) -> usize {
        (frame % self.sets * self.design.ways + frame / self.sets) as usize
    }
}

impl Cache for Table<'_> {
    fn put(&mut self, page: Page) {
        self.flush_page(page);
        if let Some(slot) = self.choose(page) {
            self.held += u32::from(self.pages[slot] == EMPTY);
            self.pages[slot] = page;
            self.stamps[slot] = self.clock;
            // SEQUENCE, and below it the fingerprint.
            self.words[slot] = self.clock << 9 | self.hashes[page as usize] & 0x1ff;
            self.slots[page as usize] = slot as u32;
        }
        self.clock += 1;
    }

    fn get(&mut self, page: Page) -> bool {
        let Some(slot) = self.slot_of(page) else { return false };
        self.drop_slot(slot);
        self.stamps[slot] >= self.horizon(self.file_of[page as usize])
    }

    fn flush_page(&mut self, page: Page) {
        if let Some(slot) = self.slot_of(page) {
            self.drop_slot(slot);
        }
    }

    fn flush_file(&mut self, file: File) {
        self.moments[file as usize] = self.clock;
        for bucket in self.buckets_of(file) {
            self.buckets[bucket] = self.clock;
        }
    }

    fn claim(&mut self, first: u32, count: u32) {
        for frame in first..first + count {
            let slot = self.slot_of_frame(frame);
            self.lent[slot] = false;
            if self.pages[slot] != EMPTY {
                self.drop_slot(slot);
            }
        }
    }

    fn release(&mut self, first: u32, count: u32) {
        for frame in first..first + count {
            let slot = self.slot_of_frame(frame);
            self.lent[slot] = true;
        }
    }

    fn held(&self) -> u32 {
        self.held
    }
}
