// SPDX-License-Identifier: MIT OR Apache-2.0
//! The reference model: what `docs/abi.md` says that each call does, for one call at a time.
//!
//! It is written from that page and knows nothing of the code. Where the page leaves a choice (which frame a put takes,
//! where a run is cut, which pages of other objects a flush drops), the model looks at what was chosen,
//! checks that it may be chosen, and holds the shim to it: a page that was put is there until something in the page's own
//! frames, or a flush, takes it away.

use super::board::Board;
use super::machine::{Access, Machine};
use crate::random::Random;
use crate::sim::is_filled;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use tagstash::addr::PAGE_SIZE;

pub const SUCCESS: i64 = 0;
pub const NOT_SUPPORTED: i64 = -1;
pub const INVALID_PARAMETER: i64 = -3;
pub const INVALID_ADDRESS: i64 = -4;
pub const NO_REUSE: i64 = -5;
pub const NO_SUCH_POOL: i64 = -6;
pub const NO_FREE_POOL: i64 = -7;
pub const POOL_MISMATCH: i64 = -8;
pub const NOT_CACHED: i64 = -10;
pub const MISS: i64 = -11;
pub const NOT_CLAIMED: i64 = -12;
pub const COPY_FAULT: i64 = -13;

pub const UID: u32 = 0x8600_ff01;
pub const REVISION: u32 = 0x8600_ff03;
pub const VERSION: u32 = 0xc600_0100;
pub const REGION: u32 = 0xc600_0101;
pub const STATISTIC: u32 = 0xc600_0102;
pub const CENSUS: u32 = 0xc600_0103;
pub const STATE: u32 = 0xc600_0104;
pub const EVENTS: u32 = 0xc600_0105;
pub const POOL_CREATE: u32 = 0xc600_0110;
pub const POOL_DESTROY: u32 = 0xc600_0111;
pub const PUT: u32 = 0xc600_0120;
pub const GET: u32 = 0xc600_0121;
pub const FLUSH_PAGE: u32 = 0xc600_0122;
pub const FLUSH_OBJECT: u32 = 0xc600_0123;
pub const FLUSH_POOL: u32 = 0xc600_0124;
pub const RECLAIM: u32 = 0xc600_0130;
pub const RELEASE: u32 = 0xc600_0131;
pub const QUERY: u32 = 0xc600_0132;
pub const ACTIVATE: u32 = 0xc600_0140;
pub const DEACTIVATE: u32 = 0xc600_0141;

/// The statistics, by their numbers.
#[derive(Clone, Copy)]
#[expect(dead_code, reason = "nobody is there to be waited for")]
enum Stat {
    Puts,
    PutsCached,
    Evictions,
    Gets,
    Hits,
    Mismatches,
    PageFlushes,
    ObjectFlushes,
    PoolFlushes,
    Claims,
    ClaimsHeld,
    Releases,
    ReleasesRefused,
    BlocksTaken,
    PagesDropped,
    WaitPolls,
    WorstWait,
    CopyFaults,
}

pub const STATISTICS: u64 = Stat::CopyFaults as u64 + 1;

const EVENT_COPY_FAULT: u64 = 5;
const EVENT_MISMATCH: u64 = 6;
const EVENT_ACTIVATED: u64 = 7;
const EVENT_DEACTIVATED: u64 = 8;
const EVENT_POOL_CREATED: u64 = 9;
const EVENT_POOL_DESTROYED: u64 = 10;
/// Events of each CPU that are kept at least.
const KEPT: usize = 32;

const MAX_POOLS: usize = 64;
const PAGES_PER_FRAME: u64 = 32;
/// Frames in a step of RECLAIM.
const STEP_FRAMES: u32 = 32;
/// Blocks that one ACTIVATE or DEACTIVATE deals with.
const MOST_BLOCKS: u64 = 256;
/// Pages that are asked for at the end.
const QUERIES: usize = 40;
const CHUNKS: u16 = u16::MAX;

/// A call that was made.
pub struct Called<'c> {
    pub args: [u64; 8],
    pub cpu: usize,
    pub now: u64,
    /// An interrupt is pending and unmasked after so many looks.
    pub interrupt: Option<u32>,
    pub reply: [u64; 4],
    pub log: &'c [Access],
}

impl Called<'_> {
    fn status(&self) -> i64 {
        self.reply[0] as i64
    }

    fn interrupted(&self) -> bool {
        self.log.contains(&Access::Poll(true))
    }

    /// Checks all four results, and that nothing was copied.
    fn exactly(&self, status: i64, [a, b, c]: [u64; 3]) -> Result<(), String> {
        let expected = [status as u64, a, b, c];
        if self.reply != expected {
            let show = |reply: &[u64; 4]| {
                format!("{} {:#x} {:#x} {:#x}", reply[0] as i64, reply[1], reply[2], reply[3])
            };
            return Err(format!("returns {}, not {}", show(&self.reply), show(&expected)));
        }
        if status < 0 && status != NOT_CLAIMED && !self.log.is_empty() {
            return Err(format!("refused, and yet does {:x?}", self.log[0]));
        }
        self.copies_nothing()
    }

    fn copies_nothing(&self) -> Result<(), String> {
        let copies = |access: &&Access| {
            matches!(access, Access::In { .. } | Access::Out { .. } | Access::Crc { .. })
        };
        self.log.iter().find(copies).map_or(Ok(()), |a| Err(format!("touches memory: {a:x?}")))
    }

    /// Checks how far a run of at most `most` steps or pages got, `step` at a time.
    fn got_as_far(&self, dealt: u64, most: u64, step: u64) -> Result<(), String> {
        let cut = self.interrupted();
        let good = match () {
            () if dealt > most => false,
            () if self.interrupt == Some(0) => dealt == most.min(step),
            () if cut => dealt > 0 && (dealt == most || dealt.is_multiple_of(step)),
            () => dealt == most,
        };
        if good { Ok(()) } else { Err(format!("deals with {dealt} of {most}, interrupted: {cut}")) }
    }
}

#[derive(Clone, Copy)]
pub struct Pool {
    pub shift: u64,
    uuid: Option<[u64; 2]>,
}

/// A key: pool, object, index.
pub type Key = (u32, [u64; 3], u64);

/// What is known of the newest put of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// A get hits.
    Live,
    /// Another object was flushed since: a get hits or misses.
    Maybe,
    /// Flushed, and its frames not used since.
    Flushed,
    /// Some of its frames have been taken away.
    Broken,
}

struct Kept {
    fate: Fate,
    frames: Vec<u32>,
    stamps: Vec<u64>,
    verified: bool,
    number: u64,
}

/// Whether CENSUS counts a frame as cached, when it is in no tags and lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    Nothing,
    Page,
    /// The contract leaves it open.
    Either,
}

struct Frame {
    address: u64,
    block: u32,
    /// The first of the pages whose tags it stores.
    first_page: usize,
    holds: Holds,
    /// The key, and the number of its put.
    owner: Option<(Key, u64)>,
    /// The guest stored tags in it that it had no claim for.
    rogue: bool,
}

struct Block {
    region: usize,
    frames: std::ops::Range<u32>,
    active: bool,
    claims: u64,
}

struct Area {
    first_frame: u32,
    frames: u32,
    frames_per_block: u32,
    pages: u64,
}

#[derive(Clone, Copy)]
struct Event {
    kind: u64,
    cpu: usize,
    argument: u64,
    time: u64,
}

/// How often the inputs got how far.
#[derive(Clone, Copy, Debug)]
pub enum Reached {
    Calls,
    Refused,
    Kept,
    Hits,
    /// Gets of pages that a flush of another object might have dropped.
    Doubtful,
    /// Of these, hits.
    Spared,
    Claimed,
    Released,
    /// Cached pages that claims dropped.
    Dropped,
    /// Runs that an interrupt cut short.
    Cut,
    Faults,
    Mismatches,
    /// Times that every pool existed.
    Full,
}

const REACHED: [(Reached, &str); 13] = [
    (Reached::Calls, "calls"),
    (Reached::Refused, "refused"),
    (Reached::Kept, "pages kept"),
    (Reached::Hits, "hits"),
    (Reached::Doubtful, "gets after another object's flush"),
    (Reached::Spared, "of them hits"),
    (Reached::Claimed, "claims"),
    (Reached::Released, "releases"),
    (Reached::Dropped, "pages dropped by claims"),
    (Reached::Cut, "runs cut short"),
    (Reached::Faults, "aborts"),
    (Reached::Mismatches, "mismatches"),
    (Reached::Full, "times no pool free"),
];

/// What was reached, and how often.
#[derive(Clone, Copy, Debug, Default)]
pub struct Depth([u64; REACHED.len()]);

impl Depth {
    /// Adds what another input came to.
    pub fn add(&mut self, other: &Depth) {
        self.0.iter_mut().zip(other.0).for_each(|(count, more)| *count += more);
    }

    /// Calls that were made.
    pub fn calls(&self) -> u64 {
        self.of(Reached::Calls)
    }

    fn more(&mut self, what: Reached, count: u64) {
        self.0[what as usize] += count;
    }

    fn of(&self, what: Reached) -> u64 {
        self.0[what as usize]
    }

    /// A number below 1,024 for each kind, and the power of two that its count has reached, up to 64.
    pub fn marks(&self) -> impl Iterator<Item = u32> + '_ {
        let reached = (0..).zip(self.0).filter(|(_, count)| *count > 0);
        reached.map(|(kind, count): (u32, u64)| kind * 64 + count.ilog2().min(6))
    }

    /// Says whether so many runs tested anything: each kind of outcome came up, and a flush of one object left others'
    /// pages alone more often than not.
    pub fn got_far(&self, runs: u64) -> bool {
        use Reached::*;
        let many = [Calls, Refused, Kept, Hits, Claimed, Released];
        let some = [Cut, Faults, Dropped, Doubtful, Mismatches, Full];
        many.iter().all(|kind| self.of(*kind) > runs / 2)
            && some.iter().all(|kind| self.of(*kind) > runs / 100)
            && self.of(Spared) * 2 > self.of(Doubtful)
    }
}

impl fmt::Display for Depth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (kind, name)) in REACHED.iter().enumerate() {
            write!(f, "{}{} {name}", if n > 0 { ", " } else { "" }, self.of(*kind))?;
        }
        Ok(())
    }
}

pub struct Model<'m> {
    machine: &'m Machine,
    base: u64,
    /// By page of the machine: guest RAM; the frame that it is; the frame that stores its tags.
    ram: Vec<bool>,
    frame_at: Vec<Option<u32>>,
    home: Vec<Option<u32>>,
    areas: Vec<Area>,
    blocks: Vec<Block>,
    frames: Vec<Frame>,
    pub board: &'m Board,
    claimed: Vec<bool>,
    /// What the guest last stored, 0 for unknown: as data, and as tags of claimed pages.
    data: Vec<u64>,
    tags: Vec<u64>,
    pub pools: Vec<(u32, Pool)>,
    pub issued: Vec<u32>,
    pages: HashMap<Key, Kept>,
    /// Frames that parts of keys have been in: they may be put there again.
    places: HashMap<(Key, usize), BTreeSet<u32>>,
    stats: [(u64, u64); STATISTICS as usize],
    events: Vec<Event>,
    mode: u64,
    verify: bool,
    stamp: u64,
    pub depth: Depth,
    /// 4 KiB that were filled, compared or offered.
    pub effort: u64,
    /// Functions and the statuses that they returned.
    pub statuses: BTreeSet<(u32, i64)>,
}

type Checked = Result<(), String>;

impl<'m> Model<'m> {
    pub fn new(board: &'m Board, machine: &'m Machine) -> Model<'m> {
        let layout = &board.layout;
        let count = (layout.length / PAGE_SIZE) as usize;
        let page = |address: u64| ((address - layout.base) / PAGE_SIZE) as usize;
        let (mut ram, mut frame_at, mut home) =
            (vec![true; count], vec![None; count], vec![None; count]);
        let (mut areas, mut blocks, mut frames) = (Vec::new(), Vec::new(), Vec::new());
        let mut pieces = layout.pieces.clone();
        pieces.sort_by_key(|piece| piece.tagged);
        for (region, piece) in pieces.iter().enumerate() {
            let first_frame = frames.len() as u32;
            let own = (piece.storage_length / PAGE_SIZE) as u32;
            let per_block = (piece.block_size / PAGE_SIZE) as u32;
            for n in 0..own {
                let address = piece.storage + u64::from(n) * PAGE_SIZE;
                if n % per_block == 0 {
                    let frames = first_frame + n..first_frame + n + per_block;
                    blocks.push(Block { region, frames, active: false, claims: 0 });
                }
                let block = blocks.len() as u32 - 1;
                let first_page = page(piece.tagged + u64::from(n) * PAGES_PER_FRAME * PAGE_SIZE);
                let (holds, owner, rogue) = (Holds::Nothing, None, false);
                frames.push(Frame { address, block, first_page, holds, owner, rogue });
                ram[page(address)] = false;
                frame_at[page(address)] = Some(first_frame + n);
                home[first_page..][..PAGES_PER_FRAME as usize].fill(Some(first_frame + n));
            }
            let pages = u64::from(own) * PAGES_PER_FRAME;
            areas.push(Area { first_frame, frames: own, frames_per_block: per_block, pages });
        }
        for &(start, pages) in &board.holes {
            ram[page(start)..][..pages as usize].fill(false);
        }
        Model {
            machine,
            base: layout.base,
            ram,
            frame_at,
            home,
            areas,
            blocks,
            frames,
            board,
            claimed: vec![false; count],
            data: vec![0; count],
            tags: vec![0; count],
            pools: Vec::new(),
            issued: Vec::new(),
            pages: HashMap::new(),
            places: HashMap::new(),
            stats: [(0, 0); STATISTICS as usize],
            events: Vec::new(),
            mode: 0,
            verify: false,
            stamp: 0,
            depth: Depth::default(),
            effort: 0,
            statuses: BTreeSet::new(),
        }
    }

    /// Pages of the machine, guest RAM or not.
    pub fn machine_pages(&self) -> u64 {
        self.ram.len() as u64
    }

    pub fn block_count(&self) -> u64 {
        self.blocks.len() as u64
    }

    pub fn event_count(&self) -> u64 {
        self.events.len() as u64
    }

    /// The number of the page at `address`, wherever in it, if the machine has it.
    fn page(&self, address: u64) -> Option<usize> {
        let page = address.checked_sub(self.base)? / PAGE_SIZE;
        (page < self.ram.len() as u64).then_some(page as usize)
    }

    /// Says whether the page at `address` is the guest's.
    pub fn is_ram(&self, address: u64) -> bool {
        self.page(address).is_some_and(|page| self.ram[page])
    }

    /// Says whether `length` bytes at `address` are guest RAM.
    pub fn all_ram(&self, address: u64, length: u64) -> bool {
        let end = u128::from(address) + u128::from(length);
        end <= u128::from(self.base + self.ram.len() as u64 * PAGE_SIZE)
            && (address..end as u64).step_by(PAGE_SIZE as usize).all(|page| self.is_ram(page))
    }

    fn count(&mut self, stat: Stat, add: u64) {
        self.count_between(stat, add, add);
    }

    fn count_between(&mut self, stat: Stat, least: u64, most: u64) {
        let (low, high) = &mut self.stats[stat as usize];
        (*low, *high) = (*low + least, *high + most);
    }

    fn note(&mut self, call: &Called<'_>, kind: u64, argument: u64) {
        self.events.push(Event { kind, cpu: call.cpu, argument, time: call.now });
    }

    pub fn pool(&self, id: u64) -> Option<(u32, Pool)> {
        self.pools.iter().find(|(known, _)| u64::from(*known) == id).copied()
    }

    /// Checks one call.
    ///
    /// # Errors
    ///
    /// What the call should have done.
    pub fn check(&mut self, call: &Called<'_>) -> Checked {
        let function = call.args[0] as u32 & !(1 << 16);
        self.depth.more(Reached::Calls, 1);
        if call.status() <= 0 {
            self.statuses.insert((function, call.status()));
        }
        self.depth.more(Reached::Refused, u64::from((NO_FREE_POOL..0).contains(&call.status())));
        self.depth.more(Reached::Cut, u64::from(call.interrupted()));
        let mut after = call.log.iter().skip_while(|access| **access != Access::Poll(true)).skip(1);
        if let Some(access) = after.next() {
            return Err(format!("goes on after an interrupt: {access:x?}"));
        }
        match function {
            UID => call.exactly(0xc2d3_957a, [0x6e4f_0b5e, 0xc864_1a9d, 0x503b_f7a1]),
            REVISION => call.exactly(1, [1, 0, 0]),
            VERSION => self.version(call),
            REGION => self.region(call),
            STATISTIC => self.statistic(call),
            CENSUS => self.census(call),
            STATE => self.state(call),
            EVENTS => self.event(call),
            POOL_CREATE => self.pool_create(call),
            POOL_DESTROY => self.pool_destroy(call),
            PUT | GET => self.put_or_get(call, function == PUT),
            FLUSH_PAGE => self.flush_page(call),
            FLUSH_OBJECT => self.flush_object(call),
            FLUSH_POOL => self.flush_pool(call),
            RECLAIM | RELEASE => self.claim_or_release(call, function == RECLAIM),
            QUERY => self.query(call),
            ACTIVATE => self.activate(call),
            DEACTIVATE => self.deactivate(call),
            _ => call.exactly(NOT_SUPPORTED, [0; 3]),
        }
    }

    fn version(&self, call: &Called<'_>) -> Checked {
        let reuse = u64::from(!self.frames.is_empty());
        let hidden = u64::from(self.board.policy.tags_hidden);
        let limits = 64
            | (MAX_POOLS as u64) << 16
            | (self.board.cpus as u64) << 32
            | (self.areas.len() as u64) << 40;
        call.exactly(SUCCESS, [1 << 16 | 1, reuse | 1 << 1 | hidden << 2, limits])
    }

    fn region(&self, call: &Called<'_>) -> Checked {
        match usize::try_from(call.args[1]).ok().and_then(|n| self.areas.get(n)) {
            None => call.exactly(INVALID_PARAMETER, [0; 3]),
            Some(area) => {
                let block = u64::from(area.frames_per_block) * PAGE_SIZE;
                call.exactly(SUCCESS, [area.frames.into(), block, area.pages])
            }
        }
    }

    fn statistic(&self, call: &Called<'_>) -> Checked {
        let Some(&(low, high)) = usize::try_from(call.args[1]).ok().and_then(|n| self.stats.get(n))
        else {
            return call.exactly(INVALID_PARAMETER, [0; 3]);
        };
        let value = call.reply[1];
        if !(low..=high).contains(&value) {
            return Err(format!("counts {value}, not {low} to {high}"));
        }
        call.exactly(SUCCESS, [value, 0, 0])
    }

    fn census(&self, call: &Called<'_>) -> Checked {
        let [_, region, first, count, ..] = call.args;
        let area = usize::try_from(region).ok().and_then(|n| self.areas.get(n));
        let Some(area) = area.filter(|area| first < u64::from(area.frames) && count != 0) else {
            return call.exactly(INVALID_PARAMETER, [0; 3]);
        };
        let counted = count.min(u64::from(area.frames) - first).min(4096);
        let start = area.first_frame as usize + first as usize;
        let (mut in_tags, mut dormant, mut cached, mut either) = (0, 0, 0, 0);
        for frame in &self.frames[start..][..counted as usize] {
            let block = &self.blocks[frame.block as usize];
            *match (block.claims, block.active, frame.holds) {
                (1.., ..) => &mut in_tags,
                (0, false, _) => &mut dormant,
                (0, true, Holds::Page) => &mut cached,
                (0, true, Holds::Either) => &mut either,
                (0, true, Holds::Nothing) => continue,
            } += 1;
        }
        let said = call.reply[2] >> 32;
        if !(cached..=cached + either).contains(&said) {
            return Err(format!("{said} frames cached, not {cached} to {}", cached + either));
        }
        let free = counted - in_tags - dormant - said;
        call.exactly(SUCCESS, [counted, in_tags | said << 32, free | dormant << 32])
    }

    fn state(&self, call: &Called<'_>) -> Checked {
        let verification = u64::from(self.verify) << 8;
        let (blocks, frames) = (self.blocks.len() as u64, self.frames.len() as u64);
        call.exactly(SUCCESS, [self.mode | verification, blocks, frames])
    }

    fn event(&self, call: &Called<'_>) -> Checked {
        let (wanted, with_time) = (call.args[1], call.args[2]);
        if with_time > 1 {
            return call.exactly(INVALID_PARAMETER, [0; 3]);
        }
        let end = self.events.len() as u64;
        if wanted >= end {
            return call.exactly(SUCCESS, [end, 0, 0]);
        }
        // The last of each CPU are there; older ones may be.
        let is_kept = |number: usize| {
            let later = &self.events[number + 1..];
            later.iter().filter(|e| e.cpu == self.events[number].cpu).count() < KEPT
        };
        let latest = (wanted as usize..self.events.len()).find(|number| is_kept(*number));
        let latest = latest.expect("the last event is kept") as u64;
        let number = call.reply[1];
        if !(wanted..=latest).contains(&number) {
            return Err(format!("event {number}, not {wanted} to {latest}"));
        }
        let event = &self.events[number as usize];
        let value = if with_time == 1 { event.time } else { event.argument };
        call.exactly(SUCCESS, [number, event.kind | (event.cpu as u64) << 8, value])
    }

    fn pool_create(&mut self, call: &Called<'_>) -> Checked {
        let [_, flags, a, b, ..] = call.args;
        let (shift, shared) = (flags & 0xff, flags >> 8 == 1);
        if flags >> 8 > 1 || ![12, 14, 16].contains(&shift) {
            return call.exactly(INVALID_PARAMETER, [0; 3]);
        }
        if self.frames.is_empty() {
            return call.exactly(NO_REUSE, [0; 3]);
        }
        let uuid = shared.then_some([a, b]);
        let known = self.pools.iter().find(|(_, pool)| shared && pool.uuid == uuid).copied();
        if let Some((id, pool)) = known {
            if pool.shift != shift {
                return call.exactly(POOL_MISMATCH, [0; 3]);
            }
            self.note(call, EVENT_POOL_CREATED, id.into());
            return call.exactly(SUCCESS, [id.into(), 0, 0]);
        }
        if self.pools.len() == MAX_POOLS {
            self.depth.more(Reached::Full, 1);
            return call.exactly(NO_FREE_POOL, [0; 3]);
        }
        let id = call.reply[1];
        call.exactly(SUCCESS, [id, 0, 0])?;
        if id >= 1 << 27 || self.issued.contains(&(id as u32)) {
            return Err(format!("pool id {id:#x} is too large or was used before"));
        }
        self.issued.push(id as u32);
        self.pools.push((id as u32, Pool { shift, uuid }));
        self.note(call, EVENT_POOL_CREATED, id);
        Ok(())
    }

    fn pool_destroy(&mut self, call: &Called<'_>) -> Checked {
        let Some((id, _)) = self.pool(call.args[1]) else {
            return call.exactly(NO_SUCH_POOL, [0; 3]);
        };
        self.flush_where(|key| key.0 == id);
        self.pools.retain(|(known, _)| *known != id);
        self.note(call, EVENT_POOL_DESTROYED, id.into());
        call.exactly(SUCCESS, [0; 3])
    }

    /// The pool and the index of a run, or why there is none.
    fn run(&self, call: &Called<'_>, most: u64) -> Result<(u32, Pool), i64> {
        let (id, pool) = self.pool(call.args[1]).ok_or(NO_SUCH_POOL)?;
        let (index, pages) = (call.args[5], call.args[7]);
        let last = u128::from(index) + u128::from(pages);
        if pages == 0 || pages > most || last > 1 << 64 {
            return Err(INVALID_PARAMETER);
        }
        Ok((id, pool))
    }

    fn put_or_get(&mut self, call: &Called<'_>, put: bool) -> Checked {
        let (id, pool) = match self.run(call, 64) {
            Ok(run) => run,
            Err(status) => return call.exactly(status, [0; 3]),
        };
        let [_, _, a, b, c, index, address, pages] = call.args;
        let size = 1 << pool.shift;
        if !address.is_multiple_of(size) || !self.all_ram(address, pages * size) {
            return call.exactly(INVALID_ADDRESS, [0; 3]);
        }
        let [_, dealt, bits, zero] = call.reply;
        call.got_as_far(dealt, pages, 1)?;
        if zero != 0 || dealt < 64 && bits >> dealt != 0 {
            return Err(format!("bits {bits:#x} of {dealt} pages, {zero}"));
        }
        let (mut status, mut odd) = (SUCCESS, None);
        let mut log = call.log.iter().copied().filter(|a| !matches!(a, Access::Poll(_))).peekable();
        for n in 0..dealt {
            let key = (id, [a, b, c], index + n);
            let at = address + n * size;
            let own = |access: &Access| {
                let place = match *access {
                    Access::In { from, .. } => from,
                    Access::Out { to, .. } => to,
                    Access::Crc { start, .. } => start,
                    Access::Tags { .. } | Access::Data { .. } | Access::Poll(_) => return false,
                };
                (at..at + size).contains(&place)
            };
            let accesses: Vec<Access> = std::iter::from_fn(|| log.next_if(own)).collect();
            let good = bits >> n & 1 == 1;
            let parts = (size / PAGE_SIZE) as usize;
            let outcome = match put {
                true => self.put_page(key, at, parts, &accesses, good),
                false => self.get_page(key, at, &pool, &accesses, good),
            };
            let outcome = outcome.map_err(|error| format!("page {n}, {key:x?}: {error}"))?;
            let failure = match outcome {
                Outcome::Good => SUCCESS,
                Outcome::Fault => COPY_FAULT,
                Outcome::Bad if put => NOT_CACHED,
                Outcome::Bad | Outcome::Mismatch => MISS,
            };
            status = if status == SUCCESS { failure } else { status };
            match outcome {
                Outcome::Fault => odd = Some((EVENT_COPY_FAULT, at)),
                Outcome::Mismatch => odd = Some((EVENT_MISMATCH, at)),
                Outcome::Good | Outcome::Bad => {}
            }
        }
        if let Some(access) = log.next() {
            return Err(format!("touches memory that is not the page's: {access:x?}"));
        }
        if call.status() != status {
            return Err(format!("status {}, not {status}", call.status()));
        }
        self.count(if put { Stat::Puts } else { Stat::Gets }, dealt);
        if let Some((kind, at)) = odd {
            self.note(call, kind, at);
        }
        Ok(())
    }

    /// The frame at `address`, into or out of which a page may be copied.
    fn lent_frame(&self, address: u64) -> Result<u32, String> {
        let frame = self.page(address).and_then(|page| self.frame_at[page]);
        let frame = frame.ok_or(format!("{address:#x} is no frame"))?;
        if !self.is_open(frame) {
            return Err(format!("the frame {address:#x} is in tags"));
        }
        Ok(frame)
    }

    fn is_open(&self, frame: u32) -> bool {
        let block = &self.blocks[self.frames[frame as usize].block as usize];
        block.active && block.claims == 0
    }

    /// Takes away whatever `frame` holds. Says how many pages gave way, at least and at most.
    fn empty(&mut self, frame: u32) -> (u64, u64) {
        let place = &mut self.frames[frame as usize];
        let owner = place.owner.take();
        let was = std::mem::replace(&mut place.holds, Holds::Nothing);
        place.rogue = false;
        if let Some((key, number)) = owner
            && let Some(kept) = self.pages.get_mut(&key)
            && kept.number == number
        {
            kept.fate = Fate::Broken;
        }
        (u64::from(was == Holds::Page), u64::from(was != Holds::Nothing))
    }

    /// Forgets the newest put of a key, whose frames then hold nothing, or nobody knows what.
    fn forget(&mut self, key: &Key, holds: Holds) {
        let Some(kept) = self.pages.remove(key) else { return };
        for frame in kept.frames {
            let place = &mut self.frames[frame as usize];
            if place.owner == Some((*key, kept.number)) {
                place.owner = None;
                place.holds = holds;
            }
        }
    }

    /// What the frames of a page hold that is dropped now: nothing, but the parts of one that was
    /// no page any more.
    fn dropped(&self, key: &Key) -> Holds {
        match self.pages.get(key).map(|kept| kept.fate) {
            Some(Fate::Live | Fate::Maybe) => Holds::Nothing,
            _ => Holds::Either,
        }
    }

    fn put_page(
        &mut self,
        key: Key,
        source: u64,
        parts: usize,
        accesses: &[Access],
        kept: bool,
    ) -> Result<Outcome, String> {
        self.effort += parts as u64;
        self.forget(&key, self.dropped(&key));
        let mut frames: Vec<Option<u32>> = vec![None; parts];
        let mut chunks = vec![0u16; parts];
        let mut fault = false;
        for access in accesses {
            if fault {
                return Err(format!("goes on after an abort: {access:x?}"));
            }
            match *access {
                Access::In { from, to, fault: aborts } => {
                    let part = ((from - source) / PAGE_SIZE) as usize;
                    let frame = self.lent_frame(to)?;
                    let elsewhere = (0..parts).any(|n| n != part && frames[n] == Some(frame));
                    let aligned =
                        to.is_multiple_of(256) && to % PAGE_SIZE == (from - source) % PAGE_SIZE;
                    if !aligned || elsewhere {
                        return Err(format!("copies to the wrong place: {access:x?}"));
                    }
                    if *frames[part].get_or_insert(frame) != frame {
                        return Err(format!("copies a part to two frames: {access:x?}"));
                    }
                    if chunks[part] == 0 {
                        let (least, most) = self.empty(frame);
                        self.count_between(Stat::Evictions, least, most);
                    }
                    chunks[part] |= 1 << (from % PAGE_SIZE / 256);
                    fault = aborts;
                }
                Access::Crc { start, end, fault: aborts } => {
                    if end > source + parts as u64 * PAGE_SIZE || end < start {
                        return Err(format!("reads beyond the page: {access:x?}"));
                    }
                    fault = aborts;
                }
                _ => return Err(format!("a put does {access:x?}")),
            }
        }
        let placed: Vec<u32> = frames.iter().flatten().copied().collect();
        if kept {
            if fault || placed.len() < parts || chunks.iter().any(|done| *done != CHUNKS) {
                return Err(format!("said to be cached, after {} accesses", accesses.len()));
            }
            let stamps = (0..parts as u64)
                .map(|part| self.data[self.page(source + part * PAGE_SIZE).unwrap()])
                .collect();
            self.stamp += 1;
            for (part, frame) in placed.iter().enumerate() {
                let place = &mut self.frames[*frame as usize];
                place.holds = Holds::Page;
                place.owner = Some((key, self.stamp));
                self.places.entry((key, part)).or_default().insert(*frame);
            }
            let (fate, verified, number) = (Fate::Live, self.verify, self.stamp);
            self.pages.insert(key, Kept { fate, frames: placed, stamps, verified, number });
            self.count(Stat::PutsCached, 1);
            self.depth.more(Reached::Kept, 1);
            return Ok(Outcome::Good);
        }
        for frame in &placed {
            self.frames[*frame as usize].holds =
                if parts == 1 { Holds::Nothing } else { Holds::Either };
        }
        if fault {
            self.count(Stat::CopyFaults, 1);
            self.depth.more(Reached::Faults, 1);
            return Ok(Outcome::Fault);
        }
        if self.has_room(&key, parts) {
            return Err("refused, with a candidate frame for each part".to_string());
        }
        Ok(Outcome::Bad)
    }

    /// Says whether each part of a page is known to have a candidate frame, whichever the other
    /// parts take: as many as there are parts, then.
    fn has_room(&self, key: &Key, parts: usize) -> bool {
        if parts == 1
            && !self.frames.is_empty()
            && (0..self.frames.len() as u32).all(|frame| self.is_open(frame))
        {
            return true;
        }
        (0..parts).all(|part| {
            let places = self.places.get(&(*key, part)).into_iter().flatten();
            places.filter(|&&frame| self.is_open(frame)).count() >= parts
        })
    }

    fn get_page(
        &mut self,
        key: Key,
        destination: u64,
        pool: &Pool,
        accesses: &[Access],
        hit: bool,
    ) -> Result<Outcome, String> {
        let parts = (1u64 << pool.shift) / PAGE_SIZE;
        let mut fault = false;
        for access in accesses {
            if fault {
                return Err(format!("goes on after an abort: {access:x?}"));
            }
            match *access {
                Access::Out { from, to, fault: aborts } => {
                    self.lent_frame(from)?;
                    let inside = to + PAGE_SIZE <= destination + parts * PAGE_SIZE;
                    if from % PAGE_SIZE != 0 || to % PAGE_SIZE != 0 || !inside {
                        return Err(format!("copies to the wrong place: {access:x?}"));
                    }
                    fault = aborts;
                }
                Access::Crc { start, end, fault: aborts } => {
                    if end > destination + parts * PAGE_SIZE || end < start {
                        return Err(format!("reads beyond the page: {access:x?}"));
                    }
                    fault = aborts;
                }
                _ => return Err(format!("a get does {access:x?}")),
            }
        }
        let fate = self.pages.get(&key).map(|kept| kept.fate);
        let there = matches!(fate, Some(Fate::Live | Fate::Maybe));
        for part in 0..parts {
            let page = self.page(destination + part * PAGE_SIZE).expect("guest RAM");
            self.data[page] = 0;
        }
        self.depth.more(Reached::Doubtful, u64::from(fate == Some(Fate::Maybe)));
        if fault {
            if hit || !there {
                return Err(format!("a copy aborted: hit {hit}, {fate:?}"));
            }
            self.forget(&key, Holds::Nothing);
            self.count(Stat::CopyFaults, 1);
            self.depth.more(Reached::Faults, 1);
            return Ok(Outcome::Fault);
        }
        let corrupt = there && self.is_corrupt(&key);
        if hit {
            let Some(kept) = self.pages.get_mut(&key).filter(|_| there) else {
                return Err(format!("a hit of what is not there: {fate:?}"));
            };
            if corrupt {
                return Err("a hit of what tags were stored over".to_string());
            }
            kept.fate = Fate::Live;
            let stamps = kept.stamps.clone();
            self.effort += parts;
            for (part, stamp) in (0..).zip(stamps) {
                let at = destination + part * PAGE_SIZE;
                if !is_filled(&self.machine.dram, at, PAGE_SIZE, stamp) {
                    return Err(format!("part {part} is not what was put"));
                }
                let page = self.page(at).expect("guest RAM");
                self.data[page] = stamp;
            }
            if pool.uuid.is_none() {
                self.forget(&key, Holds::Nothing);
            }
            self.count(Stat::Hits, 1);
            self.depth.more(Reached::Hits, 1);
            self.depth.more(Reached::Spared, u64::from(fate == Some(Fate::Maybe)));
            return Ok(Outcome::Good);
        }
        if corrupt && (fate == Some(Fate::Live) || !accesses.is_empty()) {
            self.forget(&key, Holds::Nothing);
            self.count(Stat::Mismatches, 1);
            self.depth.more(Reached::Mismatches, 1);
            return Ok(Outcome::Mismatch);
        }
        if fate == Some(Fate::Live) {
            return Err("missed, though nothing took it away".to_string());
        }
        // What was flushed no longer counts as cached once a get came across it.
        let one = parts == 1 && fate != Some(Fate::Broken);
        self.forget(&key, if one { Holds::Nothing } else { Holds::Either });
        Ok(Outcome::Bad)
    }

    /// Says whether the guest stored tags over a page that was put under verification.
    fn is_corrupt(&self, key: &Key) -> bool {
        let kept = &self.pages[key];
        kept.verified
            && kept.frames.iter().zip(&kept.stamps).any(|(frame, stamp)| {
                let frame = &self.frames[*frame as usize];
                frame.rogue && !is_filled(&self.machine.dram, frame.address, PAGE_SIZE, *stamp)
            })
    }

    /// Marks the pages of some keys as flushed.
    fn flush_where(&mut self, which: impl Fn(&Key) -> bool) {
        for (key, kept) in &mut self.pages {
            if which(key) && matches!(kept.fate, Fate::Live | Fate::Maybe) {
                kept.fate = Fate::Flushed;
            }
        }
    }

    fn flush_page(&mut self, call: &Called<'_>) -> Checked {
        let (id, pool) = match self.run(call, u64::from(u32::MAX)) {
            Ok(run) => run,
            Err(status) => return call.exactly(status, [0; 3]),
        };
        let [_, _, a, b, c, index, _, pages] = call.args;
        let parts = (1 << pool.shift) / PAGE_SIZE;
        let dealt = call.reply[1];
        call.got_as_far(dealt, pages.min(1024 / parts), 16 / parts)?;
        for n in 0..dealt {
            let key = (id, [a, b, c], index + n);
            self.forget(&key, self.dropped(&key));
        }
        self.count(Stat::PageFlushes, dealt);
        call.exactly(SUCCESS, [dealt, 0, 0])
    }

    fn flush_object(&mut self, call: &Called<'_>) -> Checked {
        let Some((id, _)) = self.pool(call.args[1]) else {
            return call.exactly(NO_SUCH_POOL, [0; 3]);
        };
        let object = [call.args[2], call.args[3], call.args[4]];
        self.flush_where(|key| (key.0, key.1) == (id, object));
        for kept in self.pages.values_mut().filter(|kept| kept.fate == Fate::Live) {
            kept.fate = Fate::Maybe;
        }
        self.count(Stat::ObjectFlushes, 1);
        call.exactly(SUCCESS, [0; 3])
    }

    fn flush_pool(&mut self, call: &Called<'_>) -> Checked {
        let Some((id, _)) = self.pool(call.args[1]) else {
            return call.exactly(NO_SUCH_POOL, [0; 3]);
        };
        self.flush_where(|key| key.0 == id);
        self.count(Stat::PoolFlushes, 1);
        call.exactly(SUCCESS, [0; 3])
    }

    fn claim_or_release(&mut self, call: &Called<'_>, claim: bool) -> Checked {
        let [_, address, pages, ..] = call.args;
        if pages == 0 {
            return call.exactly(INVALID_PARAMETER, [0; 3]);
        }
        let last = u128::from(address) + (u128::from(pages) - 1) * u128::from(PAGE_SIZE);
        let last = u64::try_from(last).unwrap_or(u64::MAX);
        if !address.is_multiple_of(PAGE_SIZE) || !self.is_ram(address) || !self.is_ram(last) {
            return call.exactly(INVALID_ADDRESS, [0; 3]);
        }
        if self.board.policy.tags_hidden {
            return call.exactly(SUCCESS, [pages, 0, 0]);
        }
        let dealt = call.reply[1];
        if dealt > pages || dealt < pages && !call.interrupted() {
            return Err(format!("deals with {dealt} of {pages} pages"));
        }
        let first = self.page(address).expect("guest RAM");
        let works = |page: &usize| self.ram[*page] && self.home[*page].is_some();
        let all = first..first + pages as usize;
        let work: Vec<usize> = (first..first + dealt as usize).filter(works).collect();
        let next = (first + dealt as usize..all.end).find(works);
        self.check_step(call, &work, next)?;
        let cleaned = Cleaned::of(self, call.log);
        let (mut changed, mut unchanged) = (0, 0);
        for page in work {
            if self.claimed[page] == claim {
                unchanged += 1;
                continue;
            }
            changed += 1;
            self.change_claim(page, claim, &cleaned)?;
        }
        let (done, refused) = match claim {
            true => (Stat::Claims, Stat::ClaimsHeld),
            false => (Stat::Releases, Stat::ReleasesRefused),
        };
        self.count(done, changed);
        self.count(refused, unchanged);
        self.depth.more(if claim { Reached::Claimed } else { Reached::Released }, changed);
        self.effort += (changed + unchanged) / 4;
        let refused = !claim && unchanged > 0;
        call.exactly(if refused { NOT_CLAIMED } else { SUCCESS }, [dealt, changed, 0])
    }

    /// Checks where a run of RECLAIM or RELEASE was cut, between `work` and `next`.
    fn check_step(&self, call: &Called<'_>, work: &[usize], next: Option<usize>) -> Checked {
        let Some(next) = next else { return Ok(()) };
        let Some(&last) = work.last() else {
            return Err("ends before the first step".to_string());
        };
        let home = |page: usize| self.home[page].expect("has tag storage");
        let block = |page: usize| self.frames[home(page) as usize].block as usize;
        if next == last + 1 && block(next) == block(last) {
            return Err("ends within a block".to_string());
        }
        if call.interrupt == Some(0) {
            let region = self.blocks[block(last)].region;
            let step = self.areas[region].frames_per_block.max(STEP_FRAMES);
            let first = work[0];
            let far = self.blocks[block(first)].region != region
                || home(last) - self.blocks[block(first)].frames.start >= step;
            if far {
                return Err("holds off an interrupt for more than a step".to_string());
            }
        }
        Ok(())
    }

    /// The pages whose tags a frame stores.
    fn pages_of(&self, frame: u32) -> std::ops::Range<usize> {
        let first = self.frames[frame as usize].first_page;
        first..first + PAGES_PER_FRAME as usize
    }

    /// Makes or gives back the claim of one page.
    fn change_claim(&mut self, page: usize, claim: bool, cleaned: &Cleaned) -> Checked {
        self.claimed[page] = claim;
        let frame = self.home[page].expect("has tag storage");
        let number = self.frames[frame as usize].block as usize;
        let address = self.base + page as u64 * PAGE_SIZE;
        if !claim {
            self.check_tags(page)?;
            self.tags[page] = 0;
            self.blocks[number].claims -= 1;
            return cleaned.page(page, address);
        }
        self.blocks[number].claims += 1;
        if self.blocks[number].claims == 1 {
            self.count(Stat::BlocksTaken, u64::from(self.blocks[number].active));
            let (mut least, mut most) = (0, 0);
            for frame in self.blocks[number].frames.clone() {
                let (low, high) = self.empty(frame);
                (least, most) = (least + low, most + high);
                cleaned.frame(self, frame)?;
            }
            self.count_between(Stat::PagesDropped, least, most);
            self.depth.more(Reached::Dropped, least);
            cleaned.page(page, address)?;
        }
        self.store_tags(page);
        Ok(())
    }

    /// The storage bytes of the tags of a page.
    fn tag_words(&self, page: usize) -> impl Iterator<Item = u64> + use<> {
        let address = self.base + page as u64 * PAGE_SIZE;
        let place = self.machine.dram.layout.tag_place(address);
        let (start, _) = place.expect("has tag storage");
        (start..start + PAGE_SIZE / 32).step_by(8)
    }

    /// Stores new tags, as the guest does.
    fn store_tags(&mut self, page: usize) {
        self.stamp += 1;
        self.tags[page] = self.stamp;
        for word in self.tag_words(page) {
            self.machine.store(word, tag_word(self.stamp, word));
        }
    }

    fn check_tags(&self, page: usize) -> Checked {
        let stamp = self.tags[page];
        let good = |word| self.machine.dram.load(word) == tag_word(stamp, word);
        if stamp == 0 || self.tag_words(page).all(good) {
            return Ok(());
        }
        Err(format!("tags of {:#x} have changed", self.base + page as u64 * PAGE_SIZE))
    }

    fn query(&self, call: &Called<'_>) -> Checked {
        let address = call.args[1];
        let Some(page) =
            self.page(address).filter(|page| self.ram[*page] && address.is_multiple_of(PAGE_SIZE))
        else {
            return call.exactly(INVALID_ADDRESS, [0; 3]);
        };
        let Some(frame) = self.home[page].filter(|_| !self.board.policy.tags_hidden) else {
            return call.exactly(SUCCESS, [0; 3]);
        };
        let block = &self.blocks[self.frames[frame as usize].block as usize];
        let flags = 1 | u64::from(self.claimed[page]) << 1 | u64::from(block.active) << 2;
        call.exactly(SUCCESS, [flags, block.claims, 0])
    }

    /// Checks the cursor of a run over all blocks; returns how far it went.
    fn went(&self, call: &Called<'_>, cursor: u64) -> Result<std::ops::Range<usize>, String> {
        let next = call.reply[1];
        let dealt = next.checked_sub(cursor).ok_or(format!("the cursor goes back to {next}"))?;
        call.got_as_far(dealt, (self.block_count() - cursor).min(MOST_BLOCKS), 1)?;
        call.exactly(SUCCESS, [next, self.block_count(), 0])?;
        Ok(cursor as usize..next as usize)
    }

    fn activate(&mut self, call: &Called<'_>) -> Checked {
        let [_, flags, cursor, ..] = call.args;
        if flags > 1 || cursor > self.block_count() {
            return call.exactly(INVALID_PARAMETER, [0; 3]);
        }
        if self.frames.is_empty() {
            return call.exactly(NO_REUSE, [0; 3]);
        }
        let blocks = self.went(call, cursor)?;
        let done = blocks.end == self.blocks.len();
        let cleaned = Cleaned::of(self, call.log);
        for number in blocks {
            if std::mem::replace(&mut self.blocks[number].active, true) {
                continue;
            }
            for frame in self.blocks[number].frames.clone() {
                cleaned.frame(self, frame)?;
                self.frames[frame as usize].rogue = false;
                for page in self.pages_of(frame).filter(|page| self.ram[*page]) {
                    cleaned.page(page, self.base + page as u64 * PAGE_SIZE)?;
                }
            }
        }
        self.verify = self.board.policy.verify || flags == 1;
        self.mode = if done { 2 } else { 1 };
        if done {
            self.note(call, EVENT_ACTIVATED, flags);
        }
        Ok(())
    }

    fn deactivate(&mut self, call: &Called<'_>) -> Checked {
        let cursor = call.args[1];
        if cursor > self.block_count() {
            return call.exactly(INVALID_PARAMETER, [0; 3]);
        }
        let blocks = self.went(call, cursor)?;
        let done = blocks.end == self.blocks.len();
        self.flush_where(|_| true);
        self.pools.clear();
        let cleaned = Cleaned::of(self, call.log);
        let mut voided = 0;
        for number in blocks {
            for frame in self.blocks[number].frames.clone() {
                self.empty(frame);
                cleaned.frame(self, frame)?;
                for page in self.pages_of(frame) {
                    if std::mem::take(&mut self.claimed[page]) {
                        // Tags keep their values.
                        self.check_tags(page)?;
                        voided += 1;
                    }
                }
            }
            self.blocks[number].active = false;
            self.blocks[number].claims = 0;
        }
        self.count(Stat::Releases, voided);
        self.verify = false;
        self.mode = if done { 0 } else { 3 };
        if done {
            self.note(call, EVENT_DEACTIVATED, 0);
        }
        Ok(())
    }

    /// The guest writes a page of its own.
    pub fn fill(&mut self, address: u64) {
        let Some(page) = self.page(address).filter(|page| self.ram[*page]) else { return };
        self.stamp += 1;
        self.effort += 1;
        self.data[page] = self.stamp;
        self.machine.touch(address);
        crate::sim::fill(&self.machine.dram, address, PAGE_SIZE, self.stamp);
    }

    /// The guest writes a page unless it is known what is in it.
    pub fn fill_unknown(&mut self, address: u64) {
        if self.page(address).is_some_and(|page| self.data[page] == 0) {
            self.fill(address);
        }
    }

    /// The guest stores tags: of a claimed page, or, where that does no harm that it is not told
    /// of, of one that it forgot to claim.
    pub fn tag(&mut self, address: u64) {
        let Some(page) = self.page(address).filter(|page| self.ram[*page]) else { return };
        let Some(frame) = self.home[page].filter(|_| !self.board.policy.tags_hidden) else {
            return;
        };
        if self.claimed[page] {
            return self.store_tags(page);
        }
        let unverified = |(key, number): &(Key, u64)| {
            self.pages.get(key).is_some_and(|kept| kept.number == *number && !kept.verified)
        };
        if self.frames[frame as usize].owner.as_ref().is_some_and(unverified) {
            return;
        }
        self.store_tags(page);
        // What it stored is not looked at: the stash may write there.
        self.tags[page] = 0;
        self.frames[frame as usize].rogue = true;
    }

    /// A page whose tags lie in a frame that holds a page, if there is one.
    pub fn page_over_cached(&self, n: u64) -> Option<u64> {
        let cached: Vec<&Frame> = self.frames.iter().filter(|f| f.owner.is_some()).collect();
        let frame = cached.get((n / PAGES_PER_FRAME) as usize % cached.len().max(1))?;
        Some(self.base + (frame.first_page as u64 + n % PAGES_PER_FRAME) * PAGE_SIZE)
    }

    /// Checks what the guest finds in its memory, tags of claimed pages included.
    pub fn check_memory(&self) -> Checked {
        for page in 0..self.ram.len() {
            let address = self.base + page as u64 * PAGE_SIZE;
            let stamp = self.data[page];
            if stamp != 0 && !is_filled(&self.machine.dram, address, PAGE_SIZE, stamp) {
                return Err(format!("guest page {address:#x} has changed"));
            }
            if self.claimed[page] {
                self.check_tags(page)?;
            }
        }
        Ok(())
    }

    /// The calls that say all there is to say about the state.
    pub fn audit(&self) -> Vec<[u64; 8]> {
        let call = |function: u32, arguments: [u64; 3]| {
            let [a, b, c] = arguments;
            [function.into(), a, b, c, 0, 0, 0, 0]
        };
        let mut calls = vec![call(STATE, [0; 3]), call(EVENTS, [0; 3])];
        calls.extend((0..STATISTICS).map(|number| call(STATISTIC, [number, 0, 0])));
        calls.extend((0..self.areas.len() as u64).map(|n| call(CENSUS, [n, 0, u64::MAX])));
        // Some pages, not always the same.
        let step = self.ram.len() / QUERIES + 1;
        let first = self.stamp as usize % step;
        for page in (first..self.ram.len()).step_by(step).filter(|page| self.ram[*page]) {
            calls.push(call(QUERY, [self.base + page as u64 * PAGE_SIZE, 0, 0]));
        }
        calls
    }

    /// Single keys that were put, for GETs at the end.
    pub fn keys(&self) -> Vec<Key> {
        let mut keys: Vec<Key> = self.pages.keys().copied().collect();
        keys.sort_unstable();
        keys
    }

    /// A key that differs from one that was put in one bit, or in the pool: one in 512 that share candidates has the same
    /// hash as far as frames keep it.
    pub fn neighbour(&self, seed: u64) -> Option<Key> {
        let keys = self.keys();
        let random = Random::new(seed).next();
        let (mut pool, mut object, mut index) = *keys.get(random as usize % keys.len().max(1))?;
        let bit = 1 << (random >> 32 & 63);
        match random >> 40 & 7 {
            word @ 0..6 => object[word as usize % 3] ^= bit,
            6 => index ^= bit,
            _ => pool = self.pools.get((random >> 48) as usize % self.pools.len().max(1))?.0,
        }
        Some((pool, object, index))
    }

    /// Where a page of 2^`shift` bytes may be copied to, from page number `from` on.
    pub fn place(&self, shift: u64, pages: u64, from: u64) -> Option<u64> {
        let (size, end) = (1u64 << shift, self.machine_pages());
        let step = size / PAGE_SIZE;
        let start = (self.base + (from % end) * PAGE_SIZE).next_multiple_of(size);
        let limit = self.base + end * PAGE_SIZE;
        let low = self.base.next_multiple_of(size);
        let fits = |address: &u64| self.all_ram(*address, pages * size);
        let near = (0..64).map(|n| start + n * step * PAGE_SIZE).take_while(|a| *a < limit);
        let anywhere = (0..64).map(|n| low + n * step * PAGE_SIZE);
        near.chain(anywhere).find(fits)
    }

    /// The address of page number `n` of the machine, the guest's or not.
    pub fn address(&self, n: u64) -> u64 {
        self.base + n % self.machine_pages() * PAGE_SIZE
    }
}

/// The word at `address` of tags stored with this stamp.
fn tag_word(stamp: u64, address: u64) -> u64 {
    (stamp << 24 ^ address).wrapping_mul(0xd1b5_4a32_d192_ed03) ^ stamp
}

/// What became of one page of a run.
enum Outcome {
    Good,
    Bad,
    Fault,
    Mismatch,
}

/// What a call cleaned: the pages whose tags, and the storage.
struct Cleaned {
    tags: Vec<bool>,
    data: Vec<bool>,
}

impl Cleaned {
    fn of(model: &Model<'_>, log: &[Access]) -> Cleaned {
        let none = || vec![false; model.ram.len()];
        let mut cleaned = Cleaned { tags: none(), data: none() };
        for access in log {
            let (list, start, end) = match *access {
                Access::Tags { start, end } => (&mut cleaned.tags, start, end),
                Access::Data { start, end } => (&mut cleaned.data, start, end),
                _ => continue,
            };
            for address in (start..end).step_by(PAGE_SIZE as usize) {
                if let Some(page) = model.page(address) {
                    list[page] = true;
                }
            }
        }
        cleaned
    }

    /// Checks that the tags of a page were cleaned.
    fn page(&self, page: usize, address: u64) -> Checked {
        if self.tags[page] { Ok(()) } else { Err(format!("tags of {address:#x} not cleaned")) }
    }

    /// Checks that a frame was cleaned.
    fn frame(&self, model: &Model<'_>, frame: u32) -> Checked {
        let address = model.frames[frame as usize].address;
        let page = model.page(address).expect("storage is memory");
        if self.data[page] { Ok(()) } else { Err(format!("frame {address:#x} not cleaned")) }
    }
}
