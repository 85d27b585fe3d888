// SPDX-License-Identifier: MIT OR Apache-2.0
//! The state of the model: shared memory, the CPUs' registers, and ghosts that no step reads.

use crate::config::Config;
use crate::monitor::Monitor;
use crate::step::Pc;
use std::fmt;

/// Most CPUs.
pub const CPUS: usize = 3;
/// Most frames.
pub const FRAMES: usize = 6;
/// Most parts of a page.
pub const PARTS: usize = 4;
/// Most keys.
pub const KEYS: usize = 2;
/// Most buckets of objects.
pub const BUCKETS: usize = 6;

/// The version that stands for tags: bytes that no put wrote.
pub const GARBAGE: u64 = 15;
/// Every chunk is tags.
pub const ALL_GARBAGE: u64 = u64::MAX;

/// A frame's state word, in fewer bits: claims, flags, a small fingerprint, a short sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Word(pub u32);

impl Word {
    const CLAIMS: u32 = 0xff;
    /// Lent to the stash.
    pub const ACTIVE: u32 = 1 << 8;
    /// Holds a page.
    pub const CACHED: u32 = 1 << 9;
    /// Being written.
    pub const WRITING: u32 = 1 << 10;
    const FINGERPRINT_SHIFT: u32 = 11;
    const FINGERPRINT: u32 = 0x1f << Self::FINGERPRINT_SHIFT;
    const SEQUENCE_SHIFT: u32 = 16;

    /// Puts a word together.
    pub fn new(claims: u32, flags: u32, fingerprint: u32, sequence: u32) -> Word {
        let fields = fingerprint << Self::FINGERPRINT_SHIFT | sequence << Self::SEQUENCE_SHIFT;
        Word(claims | flags | fields)
    }

    /// Claims on the block.
    pub fn claims(self) -> u32 {
        self.0 & Self::CLAIMS
    }

    /// The fingerprint; 0 in a frame that never held a page.
    pub fn fingerprint(self) -> u32 {
        (self.0 & Self::FINGERPRINT) >> Self::FINGERPRINT_SHIFT
    }

    /// The sequence number.
    pub fn sequence(self) -> u32 {
        self.0 >> Self::SEQUENCE_SHIFT
    }

    /// The same word with another sequence number.
    pub fn with_sequence(self, sequence: u32) -> Word {
        Word(self.0 & 0xffff | sequence << Self::SEQUENCE_SHIFT)
    }

    fn flags(self) -> u32 {
        self.0 & (Self::CLAIMS | Self::ACTIVE | Self::CACHED | Self::WRITING)
    }

    /// Lent to the stash when nobody claims it.
    pub fn is_active(self) -> bool {
        self.0 & Self::ACTIVE != 0
    }

    /// A put writes it.
    pub fn is_writing(self) -> bool {
        self.0 & Self::WRITING != 0
    }

    /// It holds a page.
    pub fn is_cached(self) -> bool {
        self.0 & Self::CACHED != 0
    }

    /// A get may read it.
    pub fn is_live(self) -> bool {
        self.flags() == Self::ACTIVE | Self::CACHED
    }

    /// A put may take it.
    pub fn is_open(self) -> bool {
        self.flags() & !Self::CACHED == Self::ACTIVE
    }

    /// *open*, and without a page.
    pub fn is_free(self) -> bool {
        self.flags() == Self::ACTIVE
    }

    /// The stash has it, and a page with this fingerprint is in it or is being written.
    pub fn is_at_work_with(self, fingerprint: u32) -> bool {
        let flags = self.flags();
        self.fingerprint() == fingerprint
            && (flags == Self::ACTIVE | Self::CACHED || flags == Self::ACTIVE | Self::WRITING)
    }

    /// Without its page.
    pub fn dropped(self) -> Word {
        Word(self.0 & !Self::CACHED)
    }

    /// Being written, under this number.
    pub fn writing(fingerprint: u32, number: u16) -> Word {
        Word::new(0, Self::ACTIVE | Self::WRITING, fingerprint, number.into())
    }

    /// A put should rather take this frame than the other's.
    pub fn is_preferred_to(self, other: Word) -> bool {
        let order = |word: Word| {
            let taken = (!word.is_active(), word.claims(), word.is_writing(), word.is_cached());
            (taken, word.sequence(), word.fingerprint())
        };
        order(self) < order(other)
    }

    /// It was made by a put that drew its numbers from `stamp` on.
    pub fn is_of_put(self, stamp: u16, numbers: u8) -> bool {
        self.sequence().wrapping_sub(stamp.into()) < numbers.into()
    }

    /// Written.
    pub fn published(self) -> Word {
        Word((self.0 | Self::CACHED) & !Self::WRITING)
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[claims {}", self.claims())?;
        for (flag, name) in
            [(Self::ACTIVE, "active"), (Self::CACHED, "cached"), (Self::WRITING, "writing")]
        {
            if self.0 & flag != 0 {
                write!(f, " {name}")?;
            }
        }
        write!(f, " fp {} seq {}]", self.fingerprint(), self.sequence())
    }
}

/// What a CPU of the guest may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// Offers the page of a key.
    Put(u8),
    /// Asks for the page of a key.
    Get(u8),
    /// Drops the page of a key.
    FlushPage(u8),
    /// Drops all pages of an object.
    FlushObject(u8),
    /// Drops all pages of the pool.
    FlushPool,
    /// Claims pages from a first on, so many.
    Claim(u8, u8),
    /// Releases pages from a first on, so many.
    Release(u8, u8),
    /// Lends a block.
    Activate(u8),
    /// Takes a block back.
    Deactivate(u8),
    /// Makes the pool again.
    Create,
    /// Destroys the pool.
    Destroy,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = |key: &u8| char::from(b'A' + key);
        match self {
            Call::Put(k) => write!(f, "put {}", key(k)),
            Call::Get(k) => write!(f, "get {}", key(k)),
            Call::FlushPage(k) => write!(f, "flush page {}", key(k)),
            Call::FlushObject(o) => write!(f, "flush object {o}"),
            Call::FlushPool => write!(f, "flush pool"),
            Call::Claim(p, 1) => write!(f, "claim page {p}"),
            Call::Claim(p, n) => write!(f, "claim pages {p}..{}", p + n),
            Call::Release(p, 1) => write!(f, "release page {p}"),
            Call::Release(p, n) => write!(f, "release pages {p}..{}", p + n),
            Call::Activate(b) => write!(f, "activate block {b}"),
            Call::Deactivate(b) => write!(f, "deactivate block {b}"),
            Call::Create => write!(f, "make pool"),
            Call::Destroy => write!(f, "destroy pool"),
        }
    }
}

/// What came of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A put: it is cached.
    Kept,
    /// A put: it is not.
    Refused,
    /// A get: it hit; this is the version of the bytes.
    Hit(u8),
    /// A get: it is not cached.
    Miss,
    /// A claim or release: so many pages changed.
    Changed(u8),
    /// Anything else: done.
    Done,
    /// There is no such pool, or one is there already.
    No,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Kept => write!(f, "cached"),
            Outcome::Refused => write!(f, "not cached"),
            Outcome::Hit(version) => write!(f, "hit, bytes of put v{version}"),
            Outcome::Miss => write!(f, "miss"),
            Outcome::Changed(pages) => write!(f, "success, {pages} changed"),
            Outcome::Done => write!(f, "success"),
            Outcome::No => write!(f, "no pool"),
        }
    }
}

/// A page that a get found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Found {
    /// There is one.
    pub some: bool,
    /// Its frame.
    pub way: u8,
    /// The word that the frame had.
    pub word: Word,
    /// When it was put.
    pub stamp: u16,
}

/// The registers of a CPU. They are zero where their call does not use them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cpu {
    /// The call under way.
    pub call: Option<Call>,
    /// Calls that may follow.
    pub left: u8,
    /// The step that is next.
    pub pc: Pc,
    /// The frame that the step is about; of a scan, the candidate; or the place of a pool.
    pub way: u8,
    /// The part of the page.
    pub part: u8,
    /// The chunk of the part.
    pub chunk: u8,
    /// The word last loaded.
    pub word: Word,
    /// A scan's first look at a set has seen a word as it wants.
    pub saw: bool,
    /// A scan has had a candidate as it wants.
    pub deep: bool,
    /// Frames counted at work.
    pub at_work: u8,
    /// A frame was chosen: which, and the word it had.
    pub choice: Option<(u8, Word)>,
    /// The stamp of the put, or the clock that a flush read.
    pub stamp: u16,
    /// The horizon, as far as it is known.
    pub horizon: u16,
    /// Pages found, by part.
    pub found: [Found; PARTS],
    /// Bytes got, by part: a version of four bits for each chunk.
    pub buffer: [u64; PARTS],
    /// The version that is put.
    pub version: u8,
    /// Generation of the pool id that was named.
    pub generation: u8,
    /// What was found is valid so far, a claim's pages are all held so far, a deactivation is
    /// overlapped by no activation.
    pub valid: bool,
    /// The block of a claim or release that the step is about.
    pub block: u8,
    /// Blocks that were counted.
    pub counted: u8,
    /// Blocks that enter tags.
    pub entering: u8,
    /// Claimed bits seen, or cleared in a frame.
    pub bits: u8,
    /// Pages to take off a block's count.
    pub again: u8,
    /// Pages changed.
    pub changed: u8,
    /// Ghost: the put went on without a look for a rival, and had not counted its own frame.
    pub unseen: bool,
    /// Ghost: pages whose bit this release has cleared.
    pub cleared: u8,
    /// Ghost: chunks that each other CPU wrote while this claim waited for it.
    pub waited: [u8; CPUS],
}

/// The whole state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// State words, by frame.
    pub words: [Word; FRAMES],
    /// Keys in the entries, by frame: [`Config::entry`].
    pub entries: [u16; FRAMES],
    /// Bytes, by frame: a version of four bits for each chunk.
    pub data: [u64; FRAMES],
    /// The clock.
    pub clock: u16,
    /// Moments of objects, by bucket.
    pub moments: [u16; BUCKETS],
    /// The moment of the pool.
    pub pool_moment: u16,
    /// The pool lives, and its place's generation.
    pub pool: (bool, u8),
    /// A CPU makes the pool.
    pub making: bool,
    /// The generation that the guest names.
    pub named: u8,
    /// Claimed bits of all frames, by page.
    pub claimed: u8,
    /// The CPUs.
    pub cpus: [Cpu; CPUS],
    /// Ghost: pages that the guest may store tags of.
    pub owned: u8,
    /// Ghost: blocks that are dormant, so that the guest may store tags of any page.
    pub dormant: u8,
    /// Ghost: frames of which a data line may be dirty.
    pub data_dirty: u8,
    /// Ghost: pages of which a tag line may be dirty.
    pub tag_dirty: u8,
    /// Ghost: what the calls so far may have left, by key.
    pub monitors: [Monitor; KEYS],
}

impl State {
    /// A machine that has just booted, with the pool made and every block dormant.
    pub fn new(config: &Config) -> State {
        let mut state = State {
            words: Default::default(),
            entries: [0; FRAMES],
            data: [ALL_GARBAGE; FRAMES],
            clock: 0,
            moments: [0; BUCKETS],
            pool_moment: 0,
            pool: (true, 1 % config.generations),
            making: false,
            named: 1 % config.generations,
            claimed: 0,
            cpus: Default::default(),
            owned: 0,
            dormant: (1 << config.blocks()) - 1,
            data_dirty: 0,
            tag_dirty: (1u16 << config.pages.len()).wrapping_sub(1) as u8,
            monitors: Default::default(),
        };
        for (cpu, menu) in state.cpus.iter_mut().zip(&config.menus) {
            cpu.left = menu.calls;
        }
        state
    }

    /// Says whether no call is under way.
    pub fn is_quiescent(&self) -> bool {
        self.cpus.iter().all(|cpu| cpu.call.is_none())
    }

    /// The least version that nothing remembers.
    pub fn unused_version(&self, config: &Config) -> u8 {
        let mut used: u32 = 1 | 1 << GARBAGE;
        let mut mark = |chunks: u64| {
            for chunk in 0..config.chunks {
                used |= 1 << (chunks >> (4 * chunk) & 15);
            }
        };
        self.data.iter().take(config.frames).for_each(|&data| mark(data));
        for cpu in &self.cpus {
            cpu.buffer.iter().for_each(|&data| mark(data));
            mark(cpu.version.into());
        }
        for monitor in &self.monitors {
            used |= monitor.versions();
        }
        used.trailing_ones() as u8
    }

    /// The same state with everything renamed that only has a name: stamps, moments and sequence
    /// numbers by their ranks, CPUs with equal menus by their registers.
    ///
    /// `order` says which CPU each of them was before, and is brought up to date.
    pub fn canonical(mut self, config: &Config, order: &mut [usize; CPUS]) -> State {
        self.rank_stamps(config);
        self.sort_cpus(config, order);
        self
    }

    /// Visits every number that was drawn from the clock: stamps and moments, and then sequence
    /// numbers.
    fn each_number(
        &mut self,
        config: &Config,
        mut stamp: impl FnMut(&mut u16),
        mut word: impl FnMut(&mut Word),
    ) {
        self.moments.iter_mut().for_each(&mut stamp);
        stamp(&mut self.pool_moment);
        stamp(&mut self.clock);
        self.words.iter_mut().take(config.frames).for_each(&mut word);
        for cpu in self.cpus.iter_mut().filter(|cpu| cpu.call.is_some()) {
            stamp(&mut cpu.stamp);
            stamp(&mut cpu.horizon);
            word(&mut cpu.word);
            if let Some((_, chosen)) = &mut cpu.choice {
                word(chosen);
            }
            for found in &mut cpu.found {
                stamp(&mut found.stamp);
                word(&mut found.word);
            }
        }
    }

    fn rank_stamps(&mut self, config: &Config) {
        // The numbers are few and small: their set is a mask. Where one number of a put is known,
        // all of them are kept: those of two puts must not become those of one.
        let parts = u32::from(config.parts);
        let numbers = (1u128 << parts) - 1;
        let seen = std::cell::Cell::new(numbers);
        let see = |number: u32| seen.set(seen.get() | numbers << (number - number % parts));
        self.each_number(config, |stamp| see((*stamp).into()), |word| see(word.sequence()));
        let rank = |number: u32| (seen.get() & ((1 << number) - 1)).count_ones();
        self.each_number(
            config,
            |stamp| *stamp = rank((*stamp).into()) as u16,
            |word| *word = word.with_sequence(rank(word.sequence())),
        );
    }

    fn sort_cpus(&mut self, config: &Config, order: &mut [usize; CPUS]) {
        // Few enough for the simplest sort there is.
        for end in (1..config.menus.len()).rev() {
            for n in 0..end {
                if config.menus[n] == config.menus[n + 1] && self.key_of(n) > self.key_of(n + 1) {
                    self.cpus.swap(n, n + 1);
                    order.swap(n, n + 1);
                    for cpu in &mut self.cpus {
                        cpu.waited.swap(n, n + 1);
                    }
                    for monitor in &mut self.monitors {
                        monitor.swap(n, n + 1);
                    }
                }
            }
        }
    }

    fn key_of(&self, cpu: usize) -> u64 {
        use std::hash::{Hash, Hasher};
        let mut hasher = crate::search::Fast::default();
        let cpu = &self.cpus[cpu];
        (cpu.call, cpu.left, cpu.pc, cpu.way, cpu.part, cpu.chunk).hash(&mut hasher);
        (cpu.saw, cpu.deep, cpu.at_work).hash(&mut hasher);
        (cpu.word, cpu.choice, cpu.stamp, cpu.horizon, cpu.version).hash(&mut hasher);
        hasher.finish()
    }
}
