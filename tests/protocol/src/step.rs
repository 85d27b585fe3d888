// SPDX-License-Identifier: MIT OR Apache-2.0
//! The steps of the stash and the ledger, one access to shared memory each.
//!
//! A step is one access and all that its CPU does with what it saw, up to the next access. The
//! call is part of its first step and the return part of its last: whatever happens between the
//! two and another CPU's accesses changes nothing but how much the history allows.

use crate::config::{Config, Horizon};
use crate::monitor::{Answer, Effect};
use crate::mutant::Mutant;
use crate::state::{ALL_GARBAGE, CPUS, Call, Cpu, Found, GARBAGE, KEYS, Outcome, State, Word};
use std::fmt;

/// The step that is next. Each is named by what it does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "`Pc::name` says what each does")]
pub enum Pc {
    #[default]
    Idle,
    FindPool,
    MayLook,
    FindAgain,
    Stamp,
    KillLook,
    KillLoad,
    KillEntry,
    KillSwap,
    ChooseLook,
    ChooseOther,
    Take,
    RivalCount,
    RivalLook,
    RivalLoad,
    RivalEntry,
    Describe,
    StoreEra,
    Poll,
    ChunkIn,
    Publish,
    LateRivalLoad,
    LateRivalEntry,
    LateDrop,
    Acknowledge,
    DropLook,
    DropLoad,
    DropEntry,
    DropSwap,
    Moment0,
    Moment1,
    Moment2,
    PoolMoment,
    FindLook,
    FindLoad,
    FindEntry,
    FindEra,
    LateMoment0,
    LateMoment1,
    LateMoment2,
    LatePoolMoment,
    FindSwap,
    ChunkOut,
    ReadCrc,
    TakePage,
    Confirm,
    Clock,
    FlushBucket0,
    FlushBucket1,
    FlushBucket2,
    FlushPool,
    ClaimFast,
    ClaimHeld,
    ClaimEarlyBits,
    ClaimUp,
    ClaimBits,
    ClaimDrop,
    ClaimWait,
    ClaimBarrier,
    ClaimTags,
    ClaimTagBarrier,
    ClaimData,
    ClaimDataBarrier,
    ClaimSet,
    ClaimDown,
    ClaimRest,
    ClaimLateDrop,
    ActivateLoad,
    ActivateBarrier,
    ActivateTags,
    ActivateTagBarrier,
    ActivateData,
    ActivateDataBarrier,
    ActivateSet,
    DeactivateUp,
    DeactivateClear,
    DeactivateWait,
    DeactivateBarrier,
    DeactivateData,
    DeactivateDataBarrier,
    DeactivateDown,
    ReleaseClear,
    ReleaseBarrier,
    ReleaseTags,
    ReleaseDataBarrier,
    ReleaseDown,
    CreateLock,
    CreateScan,
    CreateName,
    CreateClock,
    CreateFlush,
    CreateWord,
    CreateUnlock,
    DestroyFind,
    DestroyLoad,
    DestroySwap,
}

impl Pc {
    /// What the step does, for traces.
    pub fn name(self) -> &'static str {
        match self {
            Pc::Idle => "nothing",
            Pc::FindPool => "finds the pool",
            Pc::MayLook => "looks whether it may be there",
            Pc::FindAgain => "finds the pool again",
            Pc::Stamp => "draws its stamp",
            Pc::KillLook => "kill scan, first look",
            Pc::KillLoad => "kill scan",
            Pc::KillEntry => "kill scan, key",
            Pc::KillSwap => "kill scan, drops the copy",
            Pc::ChooseLook => "chooses a frame",
            Pc::ChooseOther => "chooses another page's frame",
            Pc::Take => "takes the frame",
            Pc::RivalCount => "counts frames at work",
            Pc::RivalLook => "looks for a rival, first look",
            Pc::RivalLoad => "looks for a rival",
            Pc::RivalEntry => "looks for a rival, key",
            Pc::Describe => "stores the key",
            Pc::StoreEra => "stores the era",
            Pc::Poll => "polls its word",
            Pc::ChunkIn => "writes a chunk",
            Pc::Publish => "publishes",
            Pc::LateRivalLoad => "looks for a rival late (mutant)",
            Pc::LateRivalEntry => "looks for a rival late, key (mutant)",
            Pc::LateDrop => "drops its own copy (mutant)",
            Pc::Acknowledge => "acknowledges",
            Pc::DropLook => "drop scan, first look",
            Pc::DropLoad => "drop scan",
            Pc::DropEntry => "drop scan, key",
            Pc::DropSwap => "drop scan, drops the copy",
            Pc::Moment0 | Pc::LateMoment0 => "horizon, first bucket",
            Pc::Moment1 | Pc::LateMoment1 => "horizon, second bucket",
            Pc::Moment2 | Pc::LateMoment2 => "horizon, third bucket",
            Pc::PoolMoment | Pc::LatePoolMoment => "horizon, pool",
            Pc::FindLook => "find scan, first look",
            Pc::FindLoad => "find scan",
            Pc::FindEntry => "find scan, key",
            Pc::FindEra => "find scan, era",
            Pc::FindSwap => "drops a flushed copy",
            Pc::ChunkOut => "copies a chunk",
            Pc::ReadCrc => "looks for a CRC",
            Pc::TakePage => "takes the page",
            Pc::Confirm => "confirms the page",
            Pc::Clock | Pc::CreateClock => "reads the clock",
            Pc::FlushBucket0 => "moves the first bucket",
            Pc::FlushBucket1 => "moves the second bucket",
            Pc::FlushBucket2 => "moves the third bucket",
            Pc::FlushPool | Pc::CreateFlush => "moves the pool's moment",
            Pc::ClaimFast => "looks whether it is claimed",
            Pc::ClaimHeld => "looks whether all are claimed",
            Pc::ClaimEarlyBits => "looks at the bits before it counts (mutant)",
            Pc::ClaimUp => "counts up",
            Pc::ClaimBits => "looks at the bits",
            Pc::ClaimDrop => "drops what is cached",
            Pc::ClaimWait | Pc::DeactivateWait => "waits for the writer",
            Pc::ClaimTags | Pc::ActivateTags | Pc::ReleaseTags => "maintains tags",
            Pc::ClaimData | Pc::ActivateData | Pc::DeactivateData => "maintains data",
            Pc::ClaimBarrier
            | Pc::ClaimTagBarrier
            | Pc::ClaimDataBarrier
            | Pc::ActivateBarrier
            | Pc::ActivateTagBarrier
            | Pc::ActivateDataBarrier
            | Pc::DeactivateBarrier
            | Pc::DeactivateDataBarrier
            | Pc::ReleaseBarrier
            | Pc::ReleaseDataBarrier => "barrier",
            Pc::ClaimSet => "sets the bits",
            Pc::ClaimDown => "counts down what was claimed already",
            Pc::ClaimRest => "counts the rest (mutant)",
            Pc::ClaimLateDrop => "drops what is cached, late (mutant)",
            Pc::ActivateLoad => "looks whether it is lent",
            Pc::ActivateSet => "lends the frame",
            Pc::DeactivateUp => "counts up",
            Pc::DeactivateClear => "takes the frame back",
            Pc::DeactivateDown => "counts down",
            Pc::ReleaseClear => "clears the bits",
            Pc::ReleaseDown => "counts down",
            Pc::CreateLock => "locks the making of pools",
            Pc::CreateScan => "looks for a free place",
            Pc::CreateName => "stores the name",
            Pc::CreateWord => "makes the pool",
            Pc::CreateUnlock => "unlocks the making of pools",
            Pc::DestroyFind => "finds the pool",
            Pc::DestroyLoad => "loads the pool's word",
            Pc::DestroySwap => "destroys the pool",
        }
    }
}

/// What an access is made to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the design")]
pub enum Place {
    Word(u8),
    Entry(u8),
    Era(u8),
    Data(u8, u8),
    Clock,
    Moment(u8),
    PoolMoment,
    PoolWord(u8),
    PoolName,
    Making,
    Claimed(u8),
    Tags,
    Block(u8),
    InnerBarrier,
    SystemBarrier,
}

/// What is done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the atomics' methods")]
pub enum Kind {
    Load,
    Store,
    Swap,
    Add,
    Sub,
    And,
    Or,
    Max,
    CopyIn,
    CopyOut,
    Maintain,
}

/// A step, as it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The step.
    pub pc: Pc,
    /// What was accessed.
    pub place: Place,
    /// How.
    pub kind: Kind,
    /// The value before.
    pub before: u64,
    /// The value after.
    pub after: u64,
    /// A sequentially consistent fence comes before it.
    pub fenced: bool,
    /// The call that begins with it.
    pub called: Option<Call>,
    /// What came of the call that ends with it.
    pub returned: Option<Outcome>,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Seen { before, after, .. } = self;
        write!(f, "{}", self.pc.name())?;
        match self.place {
            Place::Word(way) => {
                write!(f, ": frame {way} {}", Word(*before as u32))?;
                match self.kind {
                    Kind::Load => {}
                    Kind::Swap if before == after => write!(f, ", lost")?,
                    _ => write!(f, " -> {}", Word(*after as u32))?,
                }
            }
            Place::Data(way, chunk) if self.kind == Kind::CopyIn => {
                write!(f, ": frame {way} chunk {chunk}, v{after}")?;
            }
            Place::Data(way, chunk) => {
                write!(f, ": frame {way} chunk {chunk}, ")?;
                if *before == GARBAGE { write!(f, "tags")? } else { write!(f, "v{before}")? }
            }
            Place::Claimed(way) => {
                write!(f, ": frame {way} {before:#b}")?;
                if after != before {
                    write!(f, " -> {after:#b}")?;
                }
            }
            Place::Entry(way) => write!(f, ": frame {way} {after:#x}")?,
            Place::Era(way) => write!(f, ": frame {way}")?,
            Place::Block(block) => write!(f, ": block {block}")?,
            Place::InnerBarrier | Place::SystemBarrier | Place::Tags | Place::PoolName => {}
            _ if before == after => write!(f, ": {before}")?,
            _ => write!(f, ": {before} -> {after}")?,
        }
        if let Some(outcome) = self.returned {
            write!(f, "; returns: {outcome}")?;
        }
        Ok(())
    }
}

/// A promise that was broken, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The promises that it may be one of.
    pub promise: &'static str,
    /// What was wrong.
    pub what: &'static str,
}

/// Shorthand for a broken promise.
fn broken<T>(promise: &'static str, what: &'static str) -> Result<T, Violation> {
    Err(Violation { promise, what })
}

/// Whether a call begins an activation, deactivation or release, that covers a page.
fn covers(config: &Config, call: Call, page: u8) -> bool {
    match call {
        Call::Claim(first, count) | Call::Release(first, count) => {
            (first..first + count).contains(&page)
        }
        Call::Activate(block) | Call::Deactivate(block) => config.block_of_page(page) == block,
        _ => false,
    }
}

fn key_of(call: Call) -> u8 {
    match call {
        Call::Put(key) | Call::Get(key) | Call::FlushPage(key) => key,
        _ => 0,
    }
}

/// What a call does to the cell of a key, if anything.
fn effect(config: &Config, cpu: &Cpu, key: usize) -> Option<Effect> {
    match cpu.call? {
        Call::Put(k) if usize::from(k) == key => Some(Effect::Put(cpu.version)),
        Call::Get(k) if usize::from(k) == key => {
            Some(if config.shared { Effect::Look } else { Effect::Get })
        }
        Call::FlushPage(k) if usize::from(k) == key => Some(Effect::Flush),
        Call::FlushObject(object) if config.keys.get(key)?.object == object => Some(Effect::Flush),
        Call::FlushPool | Call::Destroy => Some(Effect::Flush),
        _ => None,
    }
}

/// Steps that change nothing and see nothing that another CPU changes.
fn is_silent(config: &Config, cpu: &Cpu) -> bool {
    match cpu.pc {
        Pc::FindPool | Pc::FindAgain => !config.pools,
        Pc::PoolMoment | Pc::LatePoolMoment => !config.flushes_pool(),
        Pc::Moment0 | Pc::Moment1 | Pc::Moment2 => !config.flushes_object(),
        Pc::LateMoment0 | Pc::LateMoment1 | Pc::LateMoment2 => !config.flushes_object(),
        // Claimed or not, the own frame is no rival. When frames are counted it matters.
        Pc::RivalLook | Pc::RivalLoad => {
            cpu.choice.is_some_and(|(own, _)| own == cpu.way) && config.order.is_empty()
        }
        // Eras are of the numbers beyond 2^32, and all are 0 here.
        Pc::StoreEra | Pc::FindEra => true,
        Pc::ReadCrc
        | Pc::CreateName
        | Pc::ClaimBarrier
        | Pc::ClaimTagBarrier
        | Pc::ClaimDataBarrier
        | Pc::ActivateBarrier
        | Pc::ActivateTagBarrier
        | Pc::ActivateDataBarrier
        | Pc::DeactivateBarrier
        | Pc::DeactivateDataBarrier
        | Pc::ReleaseBarrier
        | Pc::ReleaseDataBarrier => true,
        _ => false,
    }
}

/// Lets a CPU take one step, which begins `call` if it has none under way, and the silent ones
/// after it. Steps seen are added to `seen`.
///
/// # Errors
///
/// A promise was broken.
pub fn step(
    config: &Config,
    state: &mut State,
    cpu: usize,
    call: Option<Call>,
    seen: &mut Vec<Seen>,
) -> Result<(), Violation> {
    let mut called = None;
    if let Some(call) = call.filter(|_| state.cpus[cpu].call.is_none()) {
        begin(config, state, cpu, call);
        called = Some(call);
    }
    let mut visible = false;
    loop {
        visible |= !is_silent(config, &state.cpus[cpu]);
        one(config, state, cpu, called.take(), seen)?;
        let after = &state.cpus[cpu];
        if after.call.is_none() || visible && !is_silent(config, after) {
            return Ok(());
        }
    }
}

/// Lets a CPU take exactly one step.
///
/// # Errors
///
/// A promise was broken.
pub fn single(
    config: &Config,
    state: &mut State,
    cpu: usize,
    call: Option<Call>,
    seen: &mut Vec<Seen>,
) -> Result<(), Violation> {
    let begins = if state.cpus[cpu].call.is_none() { call } else { None };
    if let Some(call) = begins {
        begin(config, state, cpu, call);
    }
    one(config, state, cpu, begins, seen)
}

/// Begins a call: registers and ghosts.
fn begin(config: &Config, state: &mut State, number: usize, call: Call) {
    let version = if let Call::Put(_) = call { state.unused_version(config) } else { 0 };
    let named = state.named;
    let cpu = &mut state.cpus[number];
    cpu.call = Some(call);
    cpu.left = cpu.left.saturating_sub(1);
    cpu.generation = named;
    cpu.version = version;
    cpu.valid = true;
    cpu.pc = match call {
        Call::Put(_)
        | Call::Get(_)
        | Call::FlushPage(_)
        | Call::FlushObject(_)
        | Call::FlushPool => Pc::FindPool,
        Call::Claim(first, 1) => {
            cpu.way = config.pages[usize::from(first)];
            Pc::ClaimFast
        }
        Call::Claim(first, _) => {
            cpu.block = config.block_of_page(first);
            cpu.way = config.first_masked(call, cpu.block);
            Pc::ClaimHeld
        }
        Call::Release(first, _) => {
            cpu.block = config.block_of_page(first);
            cpu.way = config.first_masked(call, cpu.block);
            Pc::ReleaseClear
        }
        Call::Activate(block) => {
            cpu.block = block;
            cpu.way = config.frames_of(block).start;
            Pc::ActivateLoad
        }
        Call::Deactivate(block) => {
            cpu.block = block;
            cpu.way = config.frames_of(block).start;
            if config.is(Mutant::DeactivateWithoutCount) {
                Pc::DeactivateClear
            } else {
                Pc::DeactivateUp
            }
        }
        Call::Create => Pc::CreateLock,
        Call::Destroy => Pc::DestroyFind,
    };
    // What the guest may no longer rely on.
    for page in 0..config.pages.len() as u8 {
        if matches!(call, Call::Release(..) | Call::Deactivate(_)) && covers(config, call, page) {
            state.owned &= !(1 << page);
        }
    }
    // A deactivation that an activation overlaps promises nothing.
    match call {
        Call::Activate(block) => {
            state.dormant &= !(1 << block);
            let against = state.cpus.iter_mut();
            against
                .filter(|cpu| cpu.call == Some(Call::Deactivate(block)))
                .for_each(|cpu| cpu.valid = false);
        }
        Call::Deactivate(block) => {
            let against = Some(Call::Activate(block));
            state.cpus[number].valid = state.cpus.iter().all(|cpu| cpu.call != against);
        }
        _ => {}
    }
    for key in 0..config.keys.len().min(KEYS) {
        if effect(config, &state.cpus[number], key).is_some() {
            state.monitors[key].call(number);
        }
    }
}

/// One access.
struct Access<'s> {
    config: &'s Config,
    state: &'s mut State,
    number: usize,
    seen: Option<(Place, Kind, u64, u64)>,
    fenced: bool,
}

impl Access<'_> {
    fn cpu(&mut self) -> &mut Cpu {
        &mut self.state.cpus[self.number]
    }

    fn note(&mut self, place: Place, kind: Kind, before: u64, after: u64) {
        debug_assert!(self.seen.is_none(), "one access a step");
        self.seen = Some((place, kind, before, after));
    }

    fn load(&mut self, way: u8) -> Word {
        // Ways beyond the last frame are dormant for ever.
        let word = self.state.words.get(usize::from(way)).copied().unwrap_or_default();
        self.note(Place::Word(way), Kind::Load, word.0.into(), word.0.into());
        word
    }

    fn swap(&mut self, way: u8, from: Word, to: Word) -> bool {
        let word = &mut self.state.words[usize::from(way)];
        let before = *word;
        if before == from {
            *word = to;
        }
        let after = *word;
        self.note(Place::Word(way), Kind::Swap, before.0.into(), after.0.into());
        before == from
    }

    fn update(&mut self, way: u8, kind: Kind, update: impl FnOnce(Word) -> Word) -> Word {
        let word = &mut self.state.words[usize::from(way)];
        let before = *word;
        *word = update(before);
        let after = *word;
        self.note(Place::Word(way), kind, before.0.into(), after.0.into());
        before
    }

    fn claims(&mut self, way: u8, change: i32) -> Result<(), Violation> {
        let claims = self.state.words[usize::from(way)].claims() as i32 + change;
        let kind = if change > 0 { Kind::Add } else { Kind::Sub };
        if claims < 0 {
            self.update(way, kind, |word| word);
            return broken("P6", "the count of a frame's claims falls below zero");
        }
        self.update(way, kind, |word| Word(word.0 & !0xff | claims as u32));
        Ok(())
    }

    fn entry(&mut self, way: u8) -> u16 {
        let entry = self.state.entries.get(usize::from(way)).copied().unwrap_or_default();
        self.note(Place::Entry(way), Kind::Load, entry.into(), entry.into());
        entry
    }

    fn era(&mut self, way: u8, kind: Kind) {
        self.note(Place::Era(way), kind, 0, 0);
    }

    fn moment(&mut self, bucket: u8) -> u16 {
        let moment = self.state.moments[usize::from(bucket)];
        self.note(Place::Moment(bucket), Kind::Load, moment.into(), moment.into());
        moment
    }

    fn claimed(&mut self, way: u8) -> u8 {
        let bits = self.state.claimed & self.config.pages_of_frame(way);
        self.note(Place::Claimed(way), Kind::Load, bits.into(), bits.into());
        bits
    }

    fn own_key(&mut self) -> u16 {
        let (config, cpu) = (self.config, self.cpu());
        config.entry(key_of(cpu.call.expect("a call")), cpu.part, cpu.generation)
    }

    fn is_own_key(&mut self, entry: u16) -> bool {
        entry == self.own_key() || self.config.is(Mutant::FingerprintOnly)
    }

    fn fingerprint(&mut self) -> u32 {
        let config = self.config;
        let cpu = self.cpu();
        config.fingerprint(key_of(cpu.call.expect("a call")), cpu.part)
    }

    fn matches(&mut self, word: Word) -> bool {
        word.is_live() && word.fingerprint() == self.fingerprint()
    }

    /// Goes to a step about a way.
    fn go(&mut self, pc: Pc, way: u8) {
        let cpu = self.cpu();
        cpu.pc = pc;
        cpu.way = way;
        cpu.word = Word::default();
    }

    /// Goes to the next way of a scan; says whether there is one.
    fn next_way(&mut self, pc: Pc) -> bool {
        let ways = self.config.ways;
        let way = self.cpu().way + 1;
        if way < ways {
            self.go(pc, way);
        }
        way < ways
    }

    /// Goes on with a scan's first look, after a candidate whose word is as wanted or not: a set
    /// that has one such word is looked through again. Says whether the scan is at its end.
    fn looked_at(&mut self, wanted: bool, look: Pc, load: Pc) -> bool {
        let config = self.config;
        let cpu = self.cpu();
        cpu.saw |= wanted;
        let next = cpu.way + 1;
        if !next.is_multiple_of(config.set_ways) {
            self.go(look, next);
            return false;
        }
        if core::mem::take(&mut cpu.saw) {
            self.go(load, next - config.set_ways);
            return false;
        }
        if next < config.ways && !config.is(Mutant::OneSet) {
            self.go(look, next);
            return false;
        }
        true
    }

    /// Goes on with a scan's second look after a candidate. Once one was as wanted, the sets that
    /// follow have no first look. Says whether the scan is at its end.
    fn passed(&mut self, look: Pc, load: Pc) -> bool {
        let config = self.config;
        let cpu = self.cpu();
        let next = cpu.way + 1;
        if next == config.ways {
            cpu.deep = false;
            return true;
        }
        let again = next.is_multiple_of(config.set_ways) && !cpu.deep;
        self.go(if again { look } else { load }, next);
        false
    }

    /// Looks at a candidate in the second look of a scan, and goes on to its entry if its word is
    /// as wanted. Says whether it is.
    fn looked_again(&mut self, word: Word, wanted: bool, entry: Pc) -> bool {
        if wanted {
            let cpu = self.cpu();
            cpu.word = word;
            cpu.deep = true;
            cpu.pc = entry;
        }
        wanted
    }

    /// Checks and writes one chunk of a frame.
    fn chunk_in(&mut self) -> Result<(), Violation> {
        let cpu = self.cpu();
        let (chunk, version) = (cpu.chunk, u64::from(cpu.version));
        let (way, _) = cpu.choice.expect("a frame");
        let data = &mut self.state.data[usize::from(way)];
        let before = *data >> (4 * chunk) & 15;
        *data = *data & !(15 << (4 * chunk)) | version << (4 * chunk);
        self.note(Place::Data(way, chunk), Kind::CopyIn, before, version);
        let config = self.config;
        let block = config.block_of_frame(way);
        self.state.data_dirty |= 1 << way;
        let pages = config.pages_of_block(block);
        if self.state.owned & pages != 0 || self.state.dormant & 1 << block != 0 {
            return broken("P1", "a put writes a frame that is in tags");
        }
        if self.state.tag_dirty & pages != 0 {
            return broken("P2", "a dirty tag line of the block is still to land on this page");
        }
        let writer = self.number;
        for waiter in 0..CPUS {
            let cpu = &mut self.state.cpus[waiter];
            let waits = match cpu.pc {
                Pc::ClaimWait => cpu.entering & 1 << block != 0,
                Pc::DeactivateWait => cpu.block == block,
                _ => false,
            };
            if waits && waiter != writer {
                cpu.waited[writer] += 1;
                if cpu.waited[writer] > 1 {
                    return broken("P4", "a claim waits for more than one chunk of one put");
                }
            }
        }
        Ok(())
    }

    /// The next step of a claim, after `phase` of all its blocks.
    fn after(&mut self, phase: Phase) -> Result<Option<Outcome>, Violation> {
        let config = self.config;
        let early = [Mutant::BitsBeforeWait, Mutant::BitsBeforeWaitUntrusted]
            .into_iter()
            .any(|mutant| config.is(mutant));
        let middle = [Mutant::BitsBeforeMaintenance, Mutant::BitsBeforeMaintenanceInvalidate]
            .into_iter()
            .any(|mutant| config.is(mutant));
        let next = match phase {
            Phase::Begin if early => Phase::Set,
            Phase::Set if early => Phase::Wait,
            Phase::Maintain if early || middle => Phase::End,
            Phase::Wait if middle => Phase::Set,
            Phase::Set if middle => Phase::Maintain,
            Phase::Begin => Phase::Wait,
            Phase::Wait => Phase::Maintain,
            Phase::Maintain => Phase::Set,
            Phase::Set if config.is(Mutant::CountRestLate) => Phase::Rest,
            Phase::Set if config.is(Mutant::DropAfterBits) => Phase::LateDrop,
            Phase::Set | Phase::Rest | Phase::LateDrop | Phase::End => Phase::End,
        };
        let (counted, entering) = (self.cpu().counted, self.cpu().entering);
        let first = |blocks: u8| blocks.trailing_zeros() as u8;
        let call = self.cpu().call.expect("a claim");
        match next {
            Phase::Wait if entering == 0 => return self.after(Phase::Wait),
            Phase::Maintain if entering == 0 => return self.after(Phase::Maintain),
            Phase::Set if counted == 0 => return self.after(Phase::Set),
            Phase::Rest | Phase::LateDrop if counted == 0 => return Ok(Some(Outcome::Changed(0))),
            Phase::Wait => {
                let block = first(entering);
                self.cpu().block = block;
                self.go(Pc::ClaimWait, config.frames_of(block).start);
            }
            Phase::Maintain => {
                self.cpu().waited = [0; CPUS];
                self.cpu().block = first(entering);
                self.go(Pc::ClaimBarrier, 0);
            }
            Phase::Set => {
                self.cpu().waited = [0; CPUS];
                self.cpu().block = first(counted);
                self.go(Pc::ClaimSet, config.first_masked(call, first(counted)));
            }
            Phase::Rest | Phase::LateDrop => {
                let block = first(counted);
                self.cpu().block = block;
                let pc = if next == Phase::Rest { Pc::ClaimRest } else { Pc::ClaimLateDrop };
                self.go(pc, config.frames_of(block).start);
            }
            Phase::Begin | Phase::End => return Ok(Some(Outcome::Changed(self.cpu().changed))),
        }
        Ok(None)
    }

    /// The next block of the claim's blocks in `mask`, after the present one.
    fn next_block(&mut self, mask: u8) -> Option<u8> {
        let block = self.cpu().block;
        let later = mask & !((2u8 << block).wrapping_sub(1));
        (later != 0).then(|| later.trailing_zeros() as u8)
    }

    /// The next block of the range, or the end of the claim's beginning.
    fn begin_next_block(&mut self) -> Result<Option<Outcome>, Violation> {
        let config = self.config;
        let call = self.cpu().call.expect("a claim");
        self.cpu().bits = 0;
        self.cpu().valid = true;
        let block = self.cpu().block + 1;
        if config.is(Mutant::WaitBetweenBlocks) && self.cpu().entering & 1 << (block - 1) != 0 {
            self.cpu().block = block - 1;
            self.go(Pc::ClaimWait, config.frames_of(block - 1).start);
            return Ok(None);
        }
        if block <= config.last_block(call) {
            self.cpu().block = block;
            self.go(Pc::ClaimHeld, config.first_masked(call, block));
            return Ok(None);
        }
        self.after(Phase::Begin)
    }

    /// Goes on with a put after it placed, or failed to place, a part.
    fn placed(&mut self, kept: bool) -> Option<Outcome> {
        let config = self.config;
        let cpu = self.cpu();
        cpu.choice = None;
        cpu.chunk = 0;
        cpu.unseen = false;
        if kept && cpu.part + 1 < config.parts {
            cpu.part += 1;
            let again = config.is(Mutant::StampPerPart);
            self.go(if again { Pc::Stamp } else { Pc::KillLook }, 0);
            return None;
        }
        if kept {
            return Some(Outcome::Kept);
        }
        cpu.part = 0;
        cpu.stamp = 0;
        if config.parts > 1 {
            self.go(Pc::DropLook, 0);
            return None;
        }
        Some(Outcome::Refused)
    }

    /// The frame of the candidate that a scan is at.
    fn frame(&mut self) -> u8 {
        let (config, cpu) = (self.config, self.cpu());
        config.frame_at(key_of(cpu.call.expect("a call")), cpu.part, cpu.way)
    }

    /// Keeps a frame as the put's choice if it is better than the one so far.
    fn consider(&mut self, frame: u8, word: Word) {
        if self.config.is(Mutant::NoEviction) && word.is_cached() {
            return;
        }
        let cpu = self.cpu();
        if cpu.choice.is_none_or(|(_, best)| word.is_preferred_to(best)) {
            cpu.choice = Some((frame, word));
        }
    }

    /// Goes on with a put that has looked at all candidates.
    fn chosen(&mut self) -> Option<Outcome> {
        match self.cpu().choice {
            Some((frame, word)) if word.is_open() => {
                self.go(Pc::Take, frame);
                None
            }
            _ => self.placed(false),
        }
    }

    /// Goes on with a put that has looked at all candidates for the best.
    fn looked(&mut self) -> Option<Outcome> {
        let config = self.config;
        let cpu = self.cpu();
        let own = |word: Word| word.is_cached() && word.is_of_put(cpu.stamp, config.parts);
        if cpu.choice.is_some_and(|(_, word)| own(word)) && !config.is(Mutant::EvictOwnPart) {
            cpu.choice = None;
            self.go(Pc::ChooseOther, 0);
            return None;
        }
        self.chosen()
    }

    /// Goes on with a drop scan that has come to its end.
    fn dropped_part(&mut self, outcome: Outcome) -> Option<Outcome> {
        let config = self.config;
        if self.cpu().part + 1 < config.parts {
            self.cpu().part += 1;
            self.go(Pc::DropLook, 0);
            return None;
        }
        Some(outcome)
    }

    /// Goes on with a get's scan after a candidate that does not have the page.
    fn not_there(&mut self) -> Option<Outcome> {
        if self.passed(Pc::FindLook, Pc::FindLoad) { self.searched() } else { None }
    }

    /// Goes on with a get that has found a part, or not, among all its candidates.
    fn searched(&mut self) -> Option<Outcome> {
        let config = self.config;
        let early = config.horizon == Horizon::BeforeScan;
        let cpu = self.cpu();
        cpu.horizon = if early { cpu.horizon } else { 0 };
        cpu.deep = false;
        if self.cpu().part + 1 < config.parts {
            self.cpu().part += 1;
            self.go(Pc::FindLook, 0);
            return None;
        }
        let cpu = self.cpu();
        cpu.part = 0;
        cpu.horizon = 0;
        let parts = &cpu.found[..usize::from(config.parts)];
        let whole = parts.iter().all(|part| part.some)
            && (config.is(Mutant::StampsNotCompared)
                || parts.iter().all(|part| part.stamp == parts[0].stamp));
        cpu.valid = whole;
        if whole {
            let way = cpu.found[0].way;
            self.go(Pc::ChunkOut, way);
            return None;
        }
        self.validate(0)
    }

    /// Goes on with the validation of what a get found, from a part on.
    fn validate(&mut self, part: u8) -> Option<Outcome> {
        let config = self.config;
        let cpu = self.cpu();
        // That all were found is known from the buffers: they are filled only then.
        let hit = cpu.buffer.iter().take(config.parts.into()).all(|&bytes| bytes != 0);
        let next = (part..config.parts).find(|&part| cpu.found[usize::from(part)].some);
        if let Some(part) = next
            && !(config.is(Mutant::NoValidation))
        {
            cpu.part = part;
            let way = cpu.found[usize::from(part)].way;
            self.go(if config.shared && hit { Pc::Confirm } else { Pc::TakePage }, way);
            return None;
        }
        if !hit || !cpu.valid {
            return Some(Outcome::Miss);
        }
        let version = cpu.buffer[0] & 15;
        let uniform = (0..config.parts).all(|part| {
            let bytes = cpu.buffer[usize::from(part)];
            (0..config.chunks).all(|chunk| bytes >> (4 * chunk) & 15 == version)
        });
        Some(Outcome::Hit(if uniform { version as u8 } else { GARBAGE as u8 }))
    }

    /// The frame of a block after the present one.
    fn next_frame(&mut self, pc: Pc) -> bool {
        let config = self.config;
        let frames = config.frames_of(self.cpu().block);
        let way = self.cpu().way + 1;
        if way < frames.end {
            self.go(pc, way);
        }
        way < frames.end
    }

    /// The frame of the block after the present one that stores tags of pages of the call.
    fn next_masked(&mut self, pc: Pc) -> bool {
        let config = self.config;
        let (call, way) = (self.cpu().call.expect("a call"), self.cpu().way);
        let frames = config.frames_of(self.cpu().block);
        let next = (way + 1..frames.end).find(|&way| config.looks_at(call, way));
        if let Some(way) = next {
            self.go(pc, way);
        }
        next.is_some()
    }

    fn first_frame(&mut self, pc: Pc) {
        let way = self.config.frames_of(self.cpu().block).start;
        self.go(pc, way);
    }

    /// Goes on with a release after a block.
    fn released_block(&mut self) -> Option<Outcome> {
        let config = self.config;
        let call = self.cpu().call.expect("a release");
        self.cpu().again = 0;
        self.cpu().bits = 0;
        let block = self.cpu().block + 1;
        if block <= config.last_block(call) {
            self.cpu().block = block;
            self.go(Pc::ReleaseClear, config.first_masked(call, block));
            return None;
        }
        let changed = self.cpu().changed;
        Some(match call {
            Call::Deactivate(_) => Outcome::Done,
            _ => Outcome::Changed(changed),
        })
    }

    /// Goes on with a release after the bits of a frame.
    fn released_frame(&mut self) -> Option<Outcome> {
        let config = self.config;
        self.cpu().bits = 0;
        if self.next_masked(Pc::ReleaseClear) {
            return None;
        }
        if self.cpu().again > 0 && !config.is(Mutant::ReleaseCountsFirst) {
            self.go(Pc::ReleaseDataBarrier, 0);
            return None;
        }
        self.released_block()
    }

    fn barrier(&mut self, place: Place, then: Pc) {
        self.note(place, Kind::Maintain, 0, 0);
        self.cpu().pc = then;
    }

    /// Cleans and invalidates tag lines: those that the guest may store to are dirty again.
    fn clean_tags(&mut self, pages: u8) {
        self.note(Place::Tags, Kind::Maintain, pages.into(), pages.into());
        self.state.tag_dirty &= !pages | self.state.owned;
    }

    fn clean_data(&mut self, block: u8) {
        self.note(Place::Block(block), Kind::Maintain, 0, 0);
        for way in self.config.frames_of(block) {
            self.state.data_dirty &= !(1 << way);
        }
    }
}

/// The phases of a claim.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Begin,
    Wait,
    Maintain,
    Set,
    Rest,
    LateDrop,
    End,
}

fn one(
    config: &Config,
    state: &mut State,
    number: usize,
    called: Option<Call>,
    seen: &mut Vec<Seen>,
) -> Result<(), Violation> {
    let cpu = &state.cpus[number];
    let pc = cpu.pc;
    let call = cpu.call.expect("a call under way");
    let stash = matches!(
        call,
        Call::Put(_) | Call::Get(_) | Call::FlushPage(_) | Call::FlushObject(_) | Call::FlushPool
    );
    let before = stash.then(|| rank(config, cpu));
    let mut access = Access { config, state, number, seen: None, fenced: false };
    let result = match call {
        Call::Put(_) => put(&mut access, pc),
        Call::Get(_) => get(&mut access, pc),
        Call::FlushPage(_) | Call::FlushObject(_) | Call::FlushPool => flush(&mut access, pc),
        Call::Claim(..) => claim(&mut access, pc),
        Call::Release(..) => release(&mut access, pc),
        Call::Activate(_) | Call::Deactivate(_) => lend(&mut access, pc),
        Call::Create | Call::Destroy => pool(&mut access, pc),
    };
    let (place, kind, value, after) = access.seen.expect("every step is an access");
    let fenced = access.fenced;
    let returned = result.unwrap_or_default();
    seen.push(Seen { pc, place, kind, before: value, after, fenced, called, returned });
    let outcome = result?;
    if state.words.iter().any(|word| word.is_cached() && word.is_writing()) {
        return broken("P2", "a frame is being written and can be read");
    }
    if let Some(outcome) = outcome {
        return finish(config, state, number, outcome);
    }
    if before.is_some_and(|before| rank(config, &state.cpus[number]) <= before) {
        return broken("P5", "a call that may not wait takes a step twice");
    }
    Ok(())
}

/// How far a put, get or flush has got.
fn rank(config: &Config, cpu: &Cpu) -> (u8, u8, u8, u8, Pc) {
    // A scan looks at one set, then perhaps at it again, then at the next.
    let look = cpu.way / config.set_ways * 64 + cpu.way % config.set_ways;
    let load = look + 32;
    let (phase, step, place) = match cpu.pc {
        Pc::Idle | Pc::FindPool => (0, 0, 0),
        Pc::MayLook => (0, 1, look),
        Pc::FindAgain => (0, 2, 0),
        Pc::Moment0 | Pc::Moment1 | Pc::Moment2 | Pc::PoolMoment => (1, 0, 0),
        Pc::Stamp => (2, 0, 0),
        Pc::KillLook => (2, 1, look),
        Pc::KillLoad | Pc::KillEntry | Pc::KillSwap => (2, 1, load),
        Pc::ChooseLook => (2, 3, cpu.way),
        Pc::ChooseOther => (2, 4, cpu.way),
        Pc::Take => (2, 5, 0),
        Pc::RivalCount => (2, 6, cpu.way),
        Pc::RivalLook => (2, 7, look),
        Pc::RivalLoad | Pc::RivalEntry => (2, 7, load),
        Pc::Describe | Pc::StoreEra => (2, 8, 0),
        Pc::Poll | Pc::ChunkIn => (2, 9, cpu.chunk),
        Pc::Publish => (2, 10, 0),
        Pc::LateRivalLoad | Pc::LateRivalEntry => (2, 11, cpu.way),
        Pc::LateDrop | Pc::Acknowledge => (2, 12, 0),
        Pc::DropLook | Pc::FindLook => (3, 0, look),
        Pc::ChunkOut => (4, 0, cpu.chunk),
        Pc::ReadCrc => (4, 1, 0),
        Pc::TakePage | Pc::Confirm => (5, 0, 0),
        // The steps of a scan's second look, and of flushes, follow one another as they are
        // declared.
        _ => (3, 0, load),
    };
    (phase, cpu.part, step, place, cpu.pc)
}

/// The call returns: ghosts and monitors.
fn finish(
    config: &Config,
    state: &mut State,
    number: usize,
    outcome: Outcome,
) -> Result<(), Violation> {
    let call = state.cpus[number].call.expect("a call");
    match call {
        Call::Claim(..) => own(config, state, number, call)?,
        Call::Deactivate(block) => {
            let contested = !state.cpus[number].valid;
            let frames = config.frames_of(block);
            let dark = frames.clone().all(|way| !state.words[usize::from(way)].is_active());
            if dark && !contested {
                give_to_tags(config, state, block)?;
                state.dormant |= 1 << block;
                state.tag_dirty |= config.pages_of_block(block);
            }
        }
        _ => {}
    }
    if outcome == Outcome::Hit(GARBAGE as u8) {
        return broken("P2", "a get hits and returns bytes that no put wrote");
    }
    let answer = match outcome {
        Outcome::Kept => Answer::Kept,
        Outcome::Hit(version) => Answer::Hit(version),
        _ => Answer::Empty,
    };
    for key in 0..config.keys.len().min(KEYS) {
        if effect(config, &state.cpus[number], key).is_some() {
            if outcome == Outcome::No {
                state.monitors[key].withdraw(number);
                continue;
            }
            let mut effects = [None; CPUS];
            for (effect_of, cpu) in effects.iter_mut().zip(&state.cpus) {
                *effect_of = effect(config, cpu, key);
            }
            if !state.monitors[key].answer(number, answer, effects) {
                return broken("P2/P3", "no order of the calls explains this answer");
            }
        }
    }
    let left = state.cpus[number].left;
    state.cpus[number] = Cpu { left, ..Cpu::default() };
    if state.is_quiescent() {
        for way in 0..config.frames {
            let word = state.words[way];
            let pages = config.pages_of_block(config.block_of_frame(way as u8));
            if word.claims() != (state.claimed & pages).count_ones() {
                return broken("P6", "at rest, a frame's count is not its claimed pages");
            }
            if word.is_writing() {
                return broken("P6", "at rest, a frame is being written");
            }
        }
    }
    Ok(())
}

/// A claim returned: the guest stores tags.
fn own(config: &Config, state: &mut State, number: usize, call: Call) -> Result<(), Violation> {
    for page in 0..config.pages.len() as u8 {
        let bit = 1 << page;
        // A release that has not yet cleared the bit may come after this claim.
        let released = state.cpus.iter().enumerate().any(|(other, cpu)| {
            other != number
                && cpu.cleared & bit == 0
                && cpu.call.is_some_and(|call| {
                    matches!(call, Call::Release(..) | Call::Deactivate(_))
                        && covers(config, call, page)
                })
        });
        if covers(config, call, page) && state.claimed & bit != 0 && !released {
            give_to_tags(config, state, config.block_of_page(page))?;
            state.owned |= bit;
            state.tag_dirty |= bit;
        }
    }
    Ok(())
}

/// The block is the guest's: no dirty line of data may remain, and its bytes are tags.
fn give_to_tags(config: &Config, state: &mut State, block: u8) -> Result<(), Violation> {
    for way in config.frames_of(block) {
        if state.data_dirty & 1 << way != 0 {
            return broken("P1", "a dirty data line is still to land on tags");
        }
        state.data[usize::from(way)] = ALL_GARBAGE;
    }
    Ok(())
}

type Next = Result<Option<Outcome>, Violation>;

fn put(a: &mut Access<'_>, pc: Pc) -> Next {
    let config = a.config;
    match pc {
        Pc::FindPool => return Ok(find_pool(a, Pc::Stamp, Outcome::No)),
        Pc::Stamp => {
            let clock = a.state.clock;
            if !config.is(Mutant::StampNotUnique) {
                a.state.clock += u16::from(config.parts);
            }
            let after = a.state.clock;
            a.note(Place::Clock, Kind::Add, clock.into(), after.into());
            a.cpu().stamp = clock;
            a.go(if config.is(Mutant::NoKillScan) { Pc::ChooseLook } else { Pc::KillLook }, 0);
        }
        Pc::KillLook => {
            let frame = a.frame();
            let word = a.load(frame);
            let wanted = a.matches(word);
            if a.looked_at(wanted, Pc::KillLook, Pc::KillLoad) {
                a.go(Pc::ChooseLook, 0);
            }
        }
        Pc::KillLoad => {
            let frame = a.frame();
            let word = a.load(frame);
            let wanted = a.matches(word);
            if !a.looked_again(word, wanted, Pc::KillEntry) {
                killed(a);
            }
        }
        Pc::KillEntry => {
            let frame = a.frame();
            let entry = a.entry(frame);
            if a.is_own_key(entry) {
                a.cpu().pc = Pc::KillSwap;
            } else {
                killed(a);
            }
        }
        Pc::KillSwap => {
            let (frame, word) = (a.frame(), a.cpu().word);
            a.swap(frame, word, word.dropped());
            killed(a);
        }
        Pc::ChooseLook => {
            let frame = a.frame();
            let word = a.load(frame);
            a.consider(frame, word);
            if !a.next_way(Pc::ChooseLook) {
                return Ok(a.looked());
            }
        }
        Pc::ChooseOther => {
            let frame = a.frame();
            let word = a.load(frame);
            let stamp = a.cpu().stamp;
            if !(word.is_cached() && word.is_of_put(stamp, config.parts)) {
                a.consider(frame, word);
            }
            if !a.next_way(Pc::ChooseOther) {
                return Ok(a.chosen());
            }
        }
        Pc::Take => {
            let (way, open) = a.cpu().choice.expect("a frame");
            let fingerprint = a.fingerprint();
            let cpu = a.cpu();
            let mut writing = Word::writing(fingerprint, cpu.stamp + u16::from(cpu.part));
            if config.is(Mutant::SequenceStays) {
                writing = writing.with_sequence(open.sequence());
            }
            if config.is(Mutant::TakeKeepsCached) {
                writing = Word(writing.0 | open.0 & Word::CACHED);
            }
            if !a.swap(way, open, writing) {
                return Ok(a.placed(false));
            }
            a.cpu().choice = Some((way, writing));
            let late = config.is(Mutant::NoRivalLook) || config.is(Mutant::RivalLookLate);
            a.go(if late { Pc::Describe } else { Pc::RivalCount }, 0);
        }
        Pc::RivalCount | Pc::RivalLook | Pc::RivalLoad | Pc::RivalEntry => rival(a, pc),
        Pc::LateRivalLoad | Pc::LateRivalEntry => return late_rival(a, pc),
        Pc::Describe => {
            let (way, _) = a.cpu().choice.expect("a frame");
            let key = a.own_key();
            let before = core::mem::replace(&mut a.state.entries[usize::from(way)], key);
            a.note(Place::Entry(way), Kind::Store, before.into(), key.into());
            a.go(Pc::StoreEra, 0);
        }
        Pc::StoreEra => {
            let (way, _) = a.cpu().choice.expect("a frame");
            a.era(way, Kind::Store);
            a.cpu().pc = if config.is(Mutant::NoPoll) { Pc::ChunkIn } else { Pc::Poll };
        }
        Pc::Poll => {
            let (way, writing) = a.cpu().choice.expect("a frame");
            let word = a.load(way);
            let go_on = word == writing || config.is(Mutant::PollIgnoresClaims) && word.is_active();
            a.cpu().pc = if go_on { Pc::ChunkIn } else { Pc::Acknowledge };
        }
        Pc::ChunkIn => {
            a.chunk_in()?;
            a.cpu().chunk += 1;
            a.cpu().pc = if a.cpu().chunk == config.chunks {
                Pc::Publish
            } else if config.is(Mutant::NoPoll) || config.is(Mutant::PollOnce) {
                Pc::ChunkIn
            } else {
                Pc::Poll
            };
        }
        Pc::Publish => {
            let (way, writing) = a.cpu().choice.expect("a frame");
            if config.is(Mutant::PublishWithoutCompare) {
                a.update(way, Kind::Swap, Word::published);
            } else if !a.swap(way, writing, writing.published()) {
                a.cpu().pc = Pc::Acknowledge;
                return Ok(None);
            }
            if a.cpu().unseen {
                return broken("P2/P3", "a put that did not count its own frame publishes it");
            }
            if config.is(Mutant::RivalLookLate) {
                a.go(Pc::LateRivalLoad, 0);
            } else {
                return Ok(a.placed(true));
            }
        }
        Pc::LateDrop => {
            let (way, writing) = a.cpu().choice.expect("a frame");
            a.swap(way, writing.published(), writing.published().dropped());
            return Ok(a.placed(false));
        }
        Pc::Acknowledge => {
            let (way, _) = a.cpu().choice.expect("a frame");
            let lost = config.is(Mutant::NoAcknowledge);
            a.update(
                way,
                Kind::And,
                |word| if lost { word } else { Word(word.0 & !Word::WRITING) },
            );
            return Ok(a.placed(false));
        }
        Pc::DropLook | Pc::DropLoad | Pc::DropEntry | Pc::DropSwap => {
            return drop_scan(a, pc, Outcome::Refused);
        }
        _ => unreachable!("not a step of put"),
    }
    Ok(None)
}

/// Goes on with a kill scan after a candidate.
fn killed(a: &mut Access<'_>) {
    if a.passed(Pc::KillLook, Pc::KillLoad) {
        a.go(Pc::ChooseLook, 0);
    }
}

fn rival(a: &mut Access<'_>, pc: Pc) {
    let config = a.config;
    let frame = a.frame();
    if pc == Pc::RivalEntry {
        let other = a.entry(frame);
        if a.is_own_key(other) {
            found_rival(a);
        } else if a.passed(Pc::RivalLook, Pc::RivalLoad) {
            a.go(Pc::Describe, 0);
        }
        return;
    }
    a.fenced = pc == Pc::RivalCount && a.cpu().way == 0;
    let word = a.load(frame);
    let fingerprint = a.fingerprint();
    if pc == Pc::RivalCount {
        let at_work = word.is_at_work_with(fingerprint);
        a.cpu().at_work += u8::from(at_work);
        a.cpu().unseen |= a.cpu().choice.is_some_and(|(own, _)| own == frame) && !at_work;
        if !a.next_way(Pc::RivalCount) {
            let most = if config.is(Mutant::TwoAtWork) { 2 } else { 1 };
            let alone = core::mem::take(&mut a.cpu().at_work) <= most;
            a.cpu().unseen &= alone;
            a.go(if alone { Pc::Describe } else { Pc::RivalLook }, 0);
        }
        return;
    }
    let (_, writing) = a.cpu().choice.expect("a frame");
    let ignored = word.is_writing() && config.is(Mutant::RivalIgnoresWriting);
    let may_be = word.is_at_work_with(fingerprint) && word != writing && !ignored;
    let ended = if pc == Pc::RivalLook {
        a.looked_at(may_be, Pc::RivalLook, Pc::RivalLoad)
    } else if may_be && word.is_writing() {
        return found_rival(a);
    } else if a.looked_again(word, may_be, Pc::RivalEntry) {
        false
    } else {
        a.passed(Pc::RivalLook, Pc::RivalLoad)
    };
    if ended {
        a.go(Pc::Describe, 0);
    }
}

/// Goes on with a put that has found a rival.
fn found_rival(a: &mut Access<'_>) {
    a.cpu().deep = false;
    a.go(Pc::Acknowledge, 0);
}

/// The look of a mutant: after it published.
fn late_rival(a: &mut Access<'_>, pc: Pc) -> Next {
    let frame = a.frame();
    let (own, _) = a.cpu().choice.expect("a frame");
    if pc == Pc::LateRivalEntry {
        let other = a.entry(frame);
        if a.is_own_key(other) {
            a.go(Pc::LateDrop, 0);
            return Ok(None);
        }
    } else {
        // It meets what is being written only after it was published, or not.
        let word = a.load(frame);
        if frame != own && a.matches(word) {
            a.cpu().word = word;
            a.cpu().pc = Pc::LateRivalEntry;
            return Ok(None);
        }
    }
    Ok(if a.next_way(Pc::LateRivalLoad) { None } else { a.placed(true) })
}

fn drop_scan(a: &mut Access<'_>, pc: Pc, outcome: Outcome) -> Next {
    let way = a.frame();
    let ended = match pc {
        Pc::DropLook => {
            let word = a.load(way);
            let wanted = a.matches(word);
            a.looked_at(wanted, Pc::DropLook, Pc::DropLoad)
        }
        Pc::DropLoad => {
            let word = a.load(way);
            let wanted = a.matches(word);
            !a.looked_again(word, wanted, Pc::DropEntry) && a.passed(Pc::DropLook, Pc::DropLoad)
        }
        Pc::DropEntry => {
            let entry = a.entry(way);
            if a.is_own_key(entry) {
                a.cpu().pc = Pc::DropSwap;
                return Ok(None);
            }
            a.passed(Pc::DropLook, Pc::DropLoad)
        }
        _ => {
            let word = a.cpu().word;
            a.swap(way, word, word.dropped());
            a.passed(Pc::DropLook, Pc::DropLoad)
        }
    };
    Ok(if ended { a.dropped_part(outcome) } else { None })
}

/// A get or flush of a page of one part first looks whether it may be there; what calls it
/// `missing` is the answer if not.
fn may_look(a: &mut Access<'_>, missing: Outcome) -> Next {
    let config = a.config;
    let frame = a.frame();
    let word = a.load(frame);
    let wanted = a.matches(word);
    // One set with such a word is enough.
    let ended = a.looked_at(wanted, Pc::MayLook, Pc::FindAgain);
    if a.cpu().pc == Pc::FindAgain {
        a.go(Pc::FindAgain, 0);
    }
    debug_assert!(config.parts == 1, "only pages of one part are looked for first");
    Ok(ended.then_some(missing))
}

fn find_pool(a: &mut Access<'_>, then: Pc, missing: Outcome) -> Option<Outcome> {
    let (live, generation) = a.state.pool;
    let value = u64::from(live) | u64::from(generation) << 1;
    a.note(Place::PoolWord(0), Kind::Load, value, value);
    if !live || generation != a.cpu().generation {
        return Some(missing);
    }
    a.go(then, 0);
    None
}

fn get(a: &mut Access<'_>, pc: Pc) -> Next {
    let config = a.config;
    let way = a.cpu().way;
    let part = usize::from(a.cpu().part);
    let buckets = config.buckets(key_of(a.cpu().call.expect("a get")));
    let before = config.horizon == Horizon::BeforeScan;
    let after_pool = if before { Pc::Moment0 } else { Pc::FindLook };
    match pc {
        Pc::FindPool => {
            let then = if config.parts == 1 { Pc::MayLook } else { after_pool };
            return Ok(find_pool(a, then, Outcome::No));
        }
        Pc::MayLook => return may_look(a, Outcome::Miss),
        Pc::FindAgain => return Ok(find_pool(a, after_pool, Outcome::No)),
        Pc::Moment0 | Pc::LateMoment0 => {
            let moment = a.moment(buckets[0]);
            a.cpu().horizon = moment;
            a.cpu().pc = if pc == Pc::Moment0 { Pc::Moment1 } else { Pc::LateMoment1 };
        }
        Pc::Moment1 | Pc::LateMoment1 | Pc::Moment2 | Pc::LateMoment2 => {
            let third = matches!(pc, Pc::Moment2 | Pc::LateMoment2);
            let moment = a.moment(buckets[1 + usize::from(third)]);
            let horizon = &mut a.cpu().horizon;
            *horizon = if config.is(Mutant::LaterBucket) {
                moment.max(*horizon)
            } else {
                moment.min(*horizon)
            };
            a.cpu().pc = match pc {
                Pc::Moment1 => Pc::Moment2,
                Pc::LateMoment1 => Pc::LateMoment2,
                Pc::Moment2 => Pc::PoolMoment,
                _ => Pc::LatePoolMoment,
            };
        }
        Pc::PoolMoment | Pc::LatePoolMoment => {
            let moment = a.state.pool_moment;
            a.note(Place::PoolMoment, Kind::Load, moment.into(), moment.into());
            if !config.is(Mutant::PoolMomentIgnored) {
                a.cpu().horizon = moment.max(a.cpu().horizon);
            }
            if pc == Pc::LatePoolMoment {
                return Ok(judge(a));
            }
            a.go(Pc::FindLook, 0);
        }
        Pc::FindLook => {
            let frame = a.frame();
            let word = a.load(frame);
            let wanted = a.matches(word);
            if a.looked_at(wanted, Pc::FindLook, Pc::FindLoad) {
                return Ok(a.searched());
            }
        }
        Pc::FindLoad => {
            let frame = a.frame();
            let word = a.load(frame);
            let wanted = a.matches(word);
            if !a.looked_again(word, wanted, Pc::FindEntry) {
                return Ok(a.not_there());
            }
        }
        Pc::FindEntry => {
            let frame = a.frame();
            let entry = a.entry(frame);
            if !a.is_own_key(entry) {
                return Ok(a.not_there());
            }
            a.cpu().pc = Pc::FindEra;
        }
        Pc::FindEra => {
            let frame = a.frame();
            a.era(frame, Kind::Load);
            let cpu = a.cpu();
            cpu.stamp = (cpu.word.sequence() as u16).wrapping_sub(cpu.part.into());
            if config.horizon == Horizon::BeforeScan {
                return Ok(judge(a));
            }
            a.cpu().pc = Pc::LateMoment0;
        }
        Pc::FindSwap => {
            let (frame, word) = (a.frame(), a.cpu().word);
            a.swap(frame, word, word.dropped());
            a.cpu().horizon = if before { a.cpu().horizon } else { 0 };
            return Ok(a.not_there());
        }
        Pc::ChunkOut => {
            let chunk = a.cpu().chunk;
            let version = a.state.data[usize::from(way)] >> (4 * chunk) & 15;
            a.note(Place::Data(way, chunk), Kind::CopyOut, version, version);
            let cpu = a.cpu();
            cpu.buffer[part] |= version << (4 * chunk);
            cpu.chunk += 1;
            if cpu.chunk == config.chunks {
                cpu.chunk = 0;
                cpu.pc = Pc::ReadCrc;
            }
        }
        Pc::ReadCrc => {
            a.entry(way);
            if part + 1 < usize::from(config.parts) {
                a.cpu().part += 1;
                let way = a.cpu().found[part + 1].way;
                a.go(Pc::ChunkOut, way);
            } else {
                return Ok(a.validate(0));
            }
        }
        Pc::TakePage => {
            let word = a.cpu().found[part].word;
            let valid = a.swap(way, word, word.dropped());
            a.cpu().valid &= valid;
            return Ok(a.validate(part as u8 + 1));
        }
        Pc::Confirm => {
            let valid = a.load(way) == a.cpu().found[part].word;
            a.cpu().valid &= valid;
            return Ok(a.validate(part as u8 + 1));
        }
        _ => unreachable!("not a step of get"),
    }
    Ok(None)
}

/// Says whether what was found is fresh.
fn judge(a: &mut Access<'_>) -> Option<Outcome> {
    let (config, frame) = (a.config, a.frame());
    let cpu = a.cpu();
    let (stamp, horizon) = (cpu.stamp, cpu.horizon);
    let fresh = if config.is(Mutant::FreshIfLater) {
        stamp > horizon
    } else {
        stamp >= horizon || config.is(Mutant::NoHorizon)
    };
    cpu.stamp = 0;
    if fresh {
        let found = Found { some: true, way: frame, word: cpu.word, stamp };
        cpu.found[usize::from(cpu.part)] = found;
        return a.searched();
    }
    cpu.pc = Pc::FindSwap;
    None
}

fn flush(a: &mut Access<'_>, pc: Pc) -> Next {
    let config = a.config;
    let call = a.cpu().call.expect("a flush");
    match (pc, call) {
        (Pc::FindPool, Call::FlushPage(_)) => return Ok(find_pool(a, Pc::DropLook, Outcome::No)),
        (Pc::FindPool, _) => return Ok(find_pool(a, Pc::Clock, Outcome::No)),
        (Pc::Clock, _) => {
            let clock = a.state.clock;
            a.note(Place::Clock, Kind::Load, clock.into(), clock.into());
            a.cpu().stamp = if config.is(Mutant::MomentEarly) {
                clock.saturating_sub(1)
            } else if config.is(Mutant::MomentLate) {
                clock + 1
            } else {
                clock
            };
            let pool = call == Call::FlushPool;
            a.go(if pool { Pc::FlushPool } else { Pc::FlushBucket0 }, 0);
        }
        (Pc::FlushBucket0 | Pc::FlushBucket1 | Pc::FlushBucket2, Call::FlushObject(object)) => {
            let (number, next) = match pc {
                Pc::FlushBucket0 => (0, Pc::FlushBucket1),
                Pc::FlushBucket1 => (1, Pc::FlushBucket2),
                _ => (2, Pc::Idle),
            };
            let bucket = config.objects[usize::from(object)][number];
            let now = a.cpu().stamp;
            let moment = &mut a.state.moments[usize::from(bucket)];
            let before = *moment;
            *moment = if config.is(Mutant::MomentStored) { now } else { before.max(now) };
            let after = *moment;
            a.note(Place::Moment(bucket), Kind::Max, before.into(), after.into());
            if next == Pc::Idle || config.is(Mutant::OneBucket) {
                return Ok(Some(Outcome::Done));
            }
            a.cpu().pc = next;
        }
        (Pc::FlushPool, _) => {
            move_pool(a);
            return Ok(Some(Outcome::Done));
        }
        _ => return drop_scan(a, pc, Outcome::Done),
    }
    Ok(None)
}

fn move_pool(a: &mut Access<'_>) {
    let (now, before) = (a.cpu().stamp, a.state.pool_moment);
    let stored = a.config.is(Mutant::MomentStored);
    a.state.pool_moment = if stored { now } else { before.max(now) };
    let after = a.state.pool_moment;
    a.note(Place::PoolMoment, Kind::Max, before.into(), after.into());
}

fn claim(a: &mut Access<'_>, pc: Pc) -> Next {
    let config = a.config;
    let call = a.cpu().call.expect("a claim");
    let (way, block) = (a.cpu().way, a.cpu().block);
    let mask = config.mask(call, way);
    let trusts = !config.is(Mutant::BitsBeforeWaitUntrusted)
        && !config.is(Mutant::BitsBeforeMaintenanceInvalidate);
    let pages = config.count(call, block);
    match pc {
        Pc::ClaimFast => {
            let bits = a.claimed(way);
            if bits & mask != 0 && trusts {
                return Ok(Some(Outcome::Changed(0)));
            }
            let block = config.block_of_frame(way);
            a.cpu().block = block;
            a.cpu().valid = false;
            let early = config.is(Mutant::LooksBeforeItCounts);
            a.first_frame(if early { Pc::ClaimEarlyBits } else { Pc::ClaimUp });
        }
        Pc::ClaimHeld => {
            let bits = a.claimed(way);
            a.cpu().valid &= bits & mask == mask && trusts;
            if a.next_masked(Pc::ClaimHeld) {
                return Ok(None);
            }
            if a.cpu().valid {
                return a.begin_next_block();
            }
            a.cpu().valid = false;
            let early = config.is(Mutant::LooksBeforeItCounts);
            a.first_frame(if early { Pc::ClaimEarlyBits } else { Pc::ClaimUp });
        }
        Pc::ClaimEarlyBits => {
            let bits = a.claimed(way);
            a.cpu().bits |= bits;
            if !a.next_frame(Pc::ClaimEarlyBits) {
                a.first_frame(Pc::ClaimUp);
            }
        }
        Pc::ClaimUp => {
            let count = if config.is(Mutant::CountRestLate) { 1 } else { i32::from(pages) };
            a.claims(way, count)?;
            if config.is(Mutant::CountsFirstFrame) || !a.next_frame(Pc::ClaimUp) {
                a.cpu().counted |= 1 << block;
                if !config.is(Mutant::LooksBeforeItCounts) {
                    a.first_frame(Pc::ClaimBits);
                } else if a.cpu().bits != 0 {
                    return a.begin_next_block();
                } else {
                    a.first_frame(Pc::ClaimDrop);
                }
            }
        }
        Pc::ClaimBits => {
            let bits = a.claimed(way);
            a.cpu().bits |= if trusts { bits } else { 0 };
            if a.next_frame(Pc::ClaimBits) {
                return Ok(None);
            }
            if a.cpu().bits != 0 {
                return a.begin_next_block();
            }
            if config.is(Mutant::DropAfterBits) {
                a.cpu().entering |= 1 << block;
                return a.begin_next_block();
            }
            a.first_frame(Pc::ClaimDrop);
        }
        Pc::ClaimDrop => {
            let kept = config.is(Mutant::ClaimKeepsCached);
            a.update(way, Kind::And, |word| if kept { word } else { word.dropped() });
            if !a.next_frame(Pc::ClaimDrop) {
                a.cpu().entering |= 1 << block;
                return a.begin_next_block();
            }
        }
        Pc::ClaimWait => {
            let word = a.load(way);
            if word.is_writing() && !config.is(Mutant::NoWait) {
                return Ok(None);
            }
            if a.next_frame(Pc::ClaimWait) {
                return Ok(None);
            }
            if config.is(Mutant::WaitBetweenBlocks) && block < config.last_block(call) {
                let next = block + 1;
                a.cpu().block = next;
                a.go(Pc::ClaimHeld, config.first_masked(call, next));
                return Ok(None);
            }
            let entering = a.cpu().entering;
            match a.next_block(entering) {
                Some(next) if !config.is(Mutant::WaitBetweenBlocks) => {
                    a.cpu().block = next;
                    a.first_frame(Pc::ClaimWait);
                }
                _ => return a.after(Phase::Wait),
            }
        }
        Pc::ClaimBarrier => a.barrier(Place::InnerBarrier, Pc::ClaimTags),
        Pc::ClaimTags => {
            let pages = config.mask_of_block(call, block);
            a.clean_tags(pages);
            let entering = a.cpu().entering;
            match a.next_block(entering) {
                Some(next) => a.cpu().block = next,
                None => {
                    a.cpu().block = entering.trailing_zeros() as u8;
                    a.cpu().pc = Pc::ClaimTagBarrier;
                }
            }
        }
        Pc::ClaimTagBarrier => a.barrier(Place::InnerBarrier, Pc::ClaimData),
        Pc::ClaimData => {
            if config.is(Mutant::BitsBeforeMaintenanceInvalidate) {
                // Lines that are dirty now are lost.
                for way in config.frames_of(block) {
                    if a.state.data_dirty & 1 << way != 0 {
                        a.state.data[usize::from(way)] = ALL_GARBAGE;
                    }
                }
            }
            a.clean_data(block);
            let entering = a.cpu().entering;
            match a.next_block(entering) {
                Some(next) => a.cpu().block = next,
                None => a.cpu().pc = Pc::ClaimDataBarrier,
            }
        }
        Pc::ClaimDataBarrier => {
            a.note(Place::SystemBarrier, Kind::Maintain, 0, 0);
            return a.after(Phase::Maintain);
        }
        Pc::ClaimSet => {
            let old = a.state.claimed & config.pages_of_frame(way);
            a.state.claimed |= mask;
            a.note(Place::Claimed(way), Kind::Or, old.into(), (old | mask).into());
            a.cpu().again += (old & mask).count_ones() as u8;
            if a.next_masked(Pc::ClaimSet) {
                return Ok(None);
            }
            let again = a.cpu().again;
            a.cpu().changed += pages - again;
            if again > 0 && !config.is(Mutant::NoCorrection) {
                a.first_frame(Pc::ClaimDown);
                return Ok(None);
            }
            return set_next_block(a);
        }
        Pc::ClaimDown => {
            let again = i32::from(a.cpu().again);
            a.claims(way, -again)?;
            if !a.next_frame(Pc::ClaimDown) {
                return set_next_block(a);
            }
        }
        Pc::ClaimRest => {
            a.claims(way, i32::from(pages) - 1)?;
            if !a.next_frame(Pc::ClaimRest) {
                let counted = a.cpu().counted;
                match a.next_block(counted) {
                    Some(next) => {
                        a.cpu().block = next;
                        a.first_frame(Pc::ClaimRest);
                    }
                    None => return a.after(Phase::Rest),
                }
            }
        }
        Pc::ClaimLateDrop => {
            a.update(way, Kind::And, Word::dropped);
            if !a.next_frame(Pc::ClaimLateDrop) {
                return a.after(Phase::LateDrop);
            }
        }
        _ => unreachable!("not a step of claim"),
    }
    Ok(None)
}

/// Goes on with the last steps of a claim after a block.
fn set_next_block(a: &mut Access<'_>) -> Next {
    let config = a.config;
    let call = a.cpu().call.expect("a claim");
    a.cpu().again = 0;
    let counted = a.cpu().counted;
    match a.next_block(counted) {
        Some(next) => {
            a.cpu().block = next;
            a.go(Pc::ClaimSet, config.first_masked(call, next));
            Ok(None)
        }
        None => a.after(Phase::Set),
    }
}

fn release(a: &mut Access<'_>, pc: Pc) -> Next {
    let config = a.config;
    let call = a.cpu().call.expect("a release");
    let way = a.cpu().way;
    let mask = config.mask(call, way);
    match pc {
        Pc::ReleaseClear => {
            let old = a.state.claimed & config.pages_of_frame(way);
            a.state.claimed &= !mask;
            a.note(Place::Claimed(way), Kind::And, old.into(), (old & !mask).into());
            let got = if config.is(Mutant::ReleaseCountsAll) { mask } else { old & mask };
            let cpu = a.cpu();
            cpu.cleared |= mask;
            if got == 0 {
                return Ok(a.released_frame());
            }
            cpu.again += got.count_ones() as u8;
            cpu.changed += got.count_ones() as u8;
            cpu.bits = got;
            let first = config.is(Mutant::ReleaseCountsFirst);
            if first {
                a.first_frame(Pc::ReleaseDown);
            } else {
                a.cpu().pc = Pc::ReleaseBarrier;
            }
        }
        Pc::ReleaseBarrier => a.barrier(Place::InnerBarrier, Pc::ReleaseTags),
        Pc::ReleaseTags => {
            let pages = a.cpu().bits;
            if config.is(Mutant::ReleaseInvalidates) && a.state.owned & pages != 0 {
                a.note(Place::Tags, Kind::Maintain, pages.into(), pages.into());
                return broken("P1", "the release of a page drops tags that were stored since");
            }
            a.clean_tags(pages);
            return Ok(a.released_frame());
        }
        Pc::ReleaseDataBarrier => {
            a.note(Place::SystemBarrier, Kind::Maintain, 0, 0);
            a.first_frame(Pc::ReleaseDown);
        }
        Pc::ReleaseDown => {
            let released = i32::from(a.cpu().again);
            a.claims(way, -released)?;
            if !a.next_frame(Pc::ReleaseDown) {
                if config.is(Mutant::ReleaseCountsFirst) {
                    // The rest of the frames of a block are not for this mutant.
                    a.cpu().again = 0;
                    let way = config.first_masked(call, a.cpu().block);
                    a.go(Pc::ReleaseBarrier, way);
                    return Ok(None);
                }
                return Ok(a.released_block());
            }
        }
        _ => unreachable!("not a step of release"),
    }
    Ok(None)
}

fn lend(a: &mut Access<'_>, pc: Pc) -> Next {
    let config = a.config;
    let (way, block) = (a.cpu().way, a.cpu().block);
    match pc {
        Pc::ActivateLoad => {
            let word = a.load(way);
            if !word.is_active() {
                let straight = config.is(Mutant::ActivateWithoutMaintenance);
                a.first_frame(if straight { Pc::ActivateSet } else { Pc::ActivateBarrier });
            } else if !a.next_frame(Pc::ActivateLoad) {
                return Ok(Some(Outcome::Done));
            }
        }
        Pc::ActivateBarrier => a.barrier(Place::InnerBarrier, Pc::ActivateTags),
        Pc::ActivateTags => {
            a.clean_tags(config.pages_of_block(block));
            a.cpu().pc = Pc::ActivateTagBarrier;
        }
        Pc::ActivateTagBarrier => a.barrier(Place::SystemBarrier, Pc::ActivateData),
        Pc::ActivateData => {
            a.clean_data(block);
            a.cpu().pc = Pc::ActivateDataBarrier;
        }
        Pc::ActivateDataBarrier => {
            a.note(Place::SystemBarrier, Kind::Maintain, 0, 0);
            a.first_frame(Pc::ActivateSet);
        }
        Pc::ActivateSet => {
            a.update(way, Kind::Or, |word| Word(word.0 | Word::ACTIVE));
            if !a.next_frame(Pc::ActivateSet) {
                return Ok(Some(Outcome::Done));
            }
        }
        Pc::DeactivateUp => {
            a.claims(way, 1)?;
            if !a.next_frame(Pc::DeactivateUp) {
                a.first_frame(Pc::DeactivateClear);
            }
        }
        Pc::DeactivateClear => {
            let void = if config.is(Mutant::DeactivateVoidsCount) { 0xff } else { 0 };
            let gone = Word::ACTIVE | Word::CACHED | void;
            a.update(way, Kind::And, |word| Word(word.0 & !gone));
            if !a.next_frame(Pc::DeactivateClear) {
                a.first_frame(Pc::DeactivateWait);
            }
        }
        Pc::DeactivateWait => {
            let word = a.load(way);
            if !word.is_writing() && !a.next_frame(Pc::DeactivateWait) {
                a.cpu().waited = [0; CPUS];
                a.go(Pc::DeactivateBarrier, 0);
            }
        }
        Pc::DeactivateBarrier => a.barrier(Place::InnerBarrier, Pc::DeactivateData),
        Pc::DeactivateData => {
            a.clean_data(block);
            a.cpu().pc = Pc::DeactivateDataBarrier;
        }
        Pc::DeactivateDataBarrier => {
            a.note(Place::SystemBarrier, Kind::Maintain, 0, 0);
            if config.is(Mutant::DeactivateWithoutCount) {
                a.first_frame(Pc::ReleaseClear);
            } else {
                a.first_frame(Pc::DeactivateDown);
            }
        }
        Pc::DeactivateDown => {
            a.claims(way, -1)?;
            if !a.next_frame(Pc::DeactivateDown) {
                a.first_frame(Pc::ReleaseClear);
            }
        }
        _ => return release(a, pc),
    }
    Ok(None)
}

fn pool(a: &mut Access<'_>, pc: Pc) -> Next {
    let config = a.config;
    let (live, generation) = a.state.pool;
    let value = u64::from(live) | u64::from(generation) << 1;
    match pc {
        Pc::CreateLock => {
            let was = core::mem::replace(&mut a.state.making, true);
            a.note(Place::Making, Kind::Swap, was.into(), 1);
            if was {
                return Ok(Some(Outcome::No));
            }
            a.go(Pc::CreateScan, 0);
        }
        Pc::CreateScan => {
            // Only the first place is the model's; the others are looked at.
            let way = a.cpu().way;
            let word = if way == 0 { value } else { 0 };
            a.note(Place::PoolWord(way), Kind::Load, word, word);
            if way == 0 {
                a.cpu().valid = !live;
                a.cpu().bits = generation;
            }
            if way + 1 < config.places {
                a.go(Pc::CreateScan, way + 1);
            } else if a.cpu().valid {
                a.go(Pc::CreateName, 0);
            } else {
                a.go(Pc::CreateUnlock, 0);
            }
        }
        Pc::CreateName => {
            a.note(Place::PoolName, Kind::Store, 0, 0);
            a.cpu().pc =
                if config.is(Mutant::ReuseWithoutFlush) { Pc::CreateWord } else { Pc::CreateClock };
        }
        Pc::CreateClock => {
            let clock = a.state.clock;
            a.note(Place::Clock, Kind::Load, clock.into(), clock.into());
            a.cpu().stamp = clock;
            a.cpu().pc = Pc::CreateFlush;
        }
        Pc::CreateFlush => {
            if config.is(Mutant::ReuseResetsMoment) {
                let before = core::mem::take(&mut a.state.pool_moment);
                a.note(Place::PoolMoment, Kind::Store, before.into(), 0);
            } else {
                move_pool(a);
            }
            a.cpu().stamp = 0;
            a.cpu().pc = Pc::CreateWord;
        }
        Pc::CreateWord => {
            let generation = (a.cpu().bits + 1) % config.generations;
            a.state.pool = (true, generation);
            a.note(Place::PoolWord(0), Kind::Store, value, 1 | u64::from(generation) << 1);
            a.cpu().pc = Pc::CreateUnlock;
        }
        Pc::CreateUnlock => {
            a.state.making = false;
            a.note(Place::Making, Kind::Store, 1, 0);
            let made = a.cpu().valid;
            if made {
                a.state.named = a.state.pool.1;
            }
            return Ok(Some(if made { Outcome::Done } else { Outcome::No }));
        }
        Pc::DestroyFind => return Ok(find_pool(a, Pc::DestroyLoad, Outcome::No)),
        Pc::DestroyLoad => {
            a.note(Place::PoolWord(0), Kind::Load, value, value);
            if !live || generation != a.cpu().generation {
                return Ok(Some(Outcome::No));
            }
            a.cpu().pc = Pc::DestroySwap;
        }
        _ => {
            let mine = live && generation == a.cpu().generation;
            if mine {
                a.state.pool.0 = false;
            }
            let after = u64::from(a.state.pool.0) | u64::from(generation) << 1;
            a.note(Place::PoolWord(0), Kind::Swap, value, after);
            return Ok(Some(if mine { Outcome::Done } else { Outcome::No }));
        }
    }
    Ok(None)
}
