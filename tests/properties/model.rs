// SPDX-License-Identifier: MIT OR Apache-2.0
//! The reference model: what each call must answer, and what becomes of every frame, one CPU.
//!
//! It is exact. Hits and misses, evictions, counters, the census, the frame that each put takes: all
//! follow from the calls. What it takes from the library is [`Placement`]: in which frames a key may
//! lie, in which order a put looks at them, and which buckets an object has.

use crate::ground::Ground;
use crate::order::{Change, Changes};
use crate::traced::Copy;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use tagstash::addr::PAGE_SIZE;
use tagstash::hypercall::abi::{Function, Status};
use tagstash::platform::CHUNK;
use tagstash::stash::key::{FACTOR, Object, PartKey, fold};
use tagstash::stash::metadata::{CANDIDATES, Metadata};
use tagstash::stash::pool::PoolId;
use tagstash::stash::stats::Statistic;

/// Most pools.
const POOLS: usize = 64;
/// Most pages of a run of PUT or GET.
const MAX_RUN: u64 = 64;
/// Parts of 4 KiB that FLUSH_PAGE deals with in a step, and in a call.
const FLUSH_STEP: u64 = 16;
const MAX_FLUSH: u64 = 1024;
/// Most blocks that ACTIVATE and DEACTIVATE deal with in a call.
const MAX_BLOCKS: u64 = 256;
/// Frames in a step of RECLAIM and RELEASE, or one block.
const BATCH_FRAMES: usize = 32;

/// A call's status and `x1`-`x3`.
pub type Reply = (Status, [u64; 3]);

/// The words of 4 KiB.
pub type Words = Rc<[u64]>;

/// In which frames a key may lie, and which buckets an object has: the library's choice.
pub struct Placement(pub Metadata<'static>);

impl Placement {
    /// The frames of both sets, in the order in which a put looks at them.
    fn candidates(&self, key: &PartKey, frames: usize) -> Vec<usize> {
        let candidates = self.0.candidates(hash_of(key));
        (0..CANDIDATES)
            .map(|place| self.0.frame(&candidates.slot(place)) as usize)
            .filter(|&frame| frame < frames)
            .collect()
    }

    fn buckets(&self, object: &Object) -> [usize; 3] {
        let (hash, count) = (fold(object.hash(), FACTOR), self.0.moments().len() as u128);
        [0, 21, 42].map(|shift| {
            let half = hash.rotate_right(shift) >> 32;
            ((u128::from(half) * count) >> 32) as usize
        })
    }
}

fn hash_of(key: &PartKey) -> u64 {
    key.hash(key.object.hash())
}

/// What a frame's word keeps of the last put that took it, also when its page is gone: the low half
/// of the put's number and the key's fingerprint. All zero if there was none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Mark {
    sequence: u32,
    fingerprint: u64,
}

#[derive(Clone, Debug)]
struct Content {
    key: PartKey,
    stamp: u64,
    words: Words,
    /// Puts under verification keep a sum.
    verified: bool,
    /// Tags were stored over it.
    spoilt: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pool {
    shift: u64,
    uuid: Option<[u64; 2]>,
}

#[derive(Clone, Debug, Default)]
struct Block {
    claimed: BTreeSet<u64>,
    active: bool,
}

/// Where a page that was got must have come from, and what it must be.
#[derive(Debug)]
pub struct Arrival {
    pub at: u64,
    pub words: Words,
}

/// What a call must come to.
#[derive(Debug, Default)]
pub struct Verdict {
    /// By block: what the ledger changed.
    pub changes: Changes,
    /// Pages that were got.
    pub arrivals: Vec<Arrival>,
    /// Pages of guest RAM, 4 KiB each, that the call may have written.
    pub written: Vec<u64>,
}

/// See the module.
pub struct Model {
    pub ground: Ground,
    pub statistics: Vec<u64>,
    placement: Placement,
    contents: Vec<Option<Content>>,
    marks: Vec<Mark>,
    blocks: Vec<Block>,
    pools: BTreeMap<u64, Pool>,
    /// Every id that there ever was.
    ids: BTreeSet<u64>,
    clock: u64,
    object_moments: Vec<u64>,
    pool_moments: [u64; POOLS],
    verification: bool,
    mode: u64,
    /// Copies left until the next is an external abort.
    pub copies_left: usize,
}

/// The copies of a call, taken one by one.
struct Copies<'c> {
    left: &'c [Copy],
}

impl Copies<'_> {
    fn next(&mut self) -> Option<Copy> {
        let (first, rest) = self.left.split_first()?;
        self.left = rest;
        Some(*first)
    }
}

impl Model {
    pub fn new(ground: Ground, metadata: Metadata<'static>) -> Model {
        Model {
            statistics: vec![0; Statistic::ALL.len()],
            contents: vec![None; ground.frames()],
            marks: vec![Mark::default(); ground.frames()],
            blocks: vec![Block::default(); ground.blocks.len()],
            object_moments: vec![0; metadata.moments().len()],
            placement: Placement(metadata),
            pools: BTreeMap::new(),
            ids: BTreeSet::new(),
            clock: 0,
            pool_moments: [0; POOLS],
            verification: false,
            mode: 0,
            copies_left: usize::MAX,
            ground,
        }
    }

    fn count(&mut self, statistic: Statistic, by: u64) {
        self.statistics[statistic as usize] += by;
    }

    /// Ids of the pools that there are.
    pub fn pool_ids(&self) -> Vec<u64> {
        self.pools.keys().copied().collect()
    }

    /// Log2 of a pool's page size.
    pub fn shift_of(&self, pool: u64) -> Option<u64> {
        self.pools.get(&pool).map(|pool| pool.shift)
    }

    fn block_of_frame(&self, frame: usize) -> usize {
        let found = self.ground.blocks.iter().position(|block| block.frames.contains(&frame));
        found.expect("a frame is of a block")
    }

    fn is_open(&self, frame: usize) -> bool {
        let block = &self.blocks[self.block_of_frame(frame)];
        block.active && block.claimed.is_empty()
    }

    /// Says whether the tags of the page at `page` may be used: it is claimed, or its block is not
    /// lent.
    pub fn may_use_tags(&self, page: u64) -> bool {
        self.ground.block_of(page).is_some_and(|number| {
            let block = &self.blocks[number];
            !block.active || block.claimed.contains(&page)
        })
    }

    /// Says that tags of a page were stored that must not be: what lies there is spoilt. Says whether
    /// that can be told: what lies there is verified.
    pub fn spoil(&mut self, page: u64) -> bool {
        let Some((storage, _)) = self.ground.layout.tag_place(page) else {
            return false;
        };
        let Some(frame) = self.ground.frame_at(storage) else {
            return false;
        };
        match &mut self.contents[frame] {
            Some(content) if !content.verified => false,
            Some(content) => {
                content.spoilt = true;
                true
            }
            None => true,
        }
    }

    /// The pages of all keys that are cached whole: pool, object, index.
    pub fn cached(&self) -> Vec<(u64, [u64; 3], u64)> {
        let keys = self.contents.iter().flatten().map(|content| {
            (u64::from(content.key.object.pool.0), content.key.object.words, content.key.index)
        });
        let keys: BTreeSet<_> = keys.filter(|(pool, ..)| self.pools.contains_key(pool)).collect();
        keys.into_iter().collect()
    }

    /// In tags, cached, free, dormant.
    fn census_of(&self, frames: std::ops::Range<usize>) -> [u64; 4] {
        let mut census = [0; 4];
        for frame in frames {
            let block = &self.blocks[self.block_of_frame(frame)];
            let kind = if !block.claimed.is_empty() {
                0
            } else if !block.active {
                3
            } else if self.contents[frame].is_some() {
                1
            } else {
                2
            };
            census[kind] += 1;
        }
        census
    }

    /// The census of all frames.
    pub fn census(&self) -> [u64; 4] {
        self.census_of(0..self.contents.len())
    }

    /// Works out what the call must have come to, and checks its reply and its copies.
    ///
    /// `memory` are the words of a page of guest RAM before the call.
    ///
    /// # Errors
    ///
    /// What is not as it must be.
    pub fn call(
        &mut self,
        args: &[u64; 8],
        interrupted: bool,
        reply: Reply2,
        copies: &[Copy],
        memory: &dyn Fn(u64) -> Words,
    ) -> Result<Verdict, String> {
        let function = Function::decode(args[0] as u32).expect("a test calls functions that exist");
        let mut copies = Copies { left: copies };
        let mut verdict = Verdict::default();
        let (expected, exact) = match self.answer(
            function,
            args,
            interrupted,
            reply,
            &mut copies,
            memory,
            &mut verdict,
        ) {
            Ok(reply) => reply,
            Err(Wrong::Fault(status)) => ((status, [0; 3]), true),
            Err(Wrong::Call(why)) => return Err(why),
        };
        let as_expected = (expected.0 as i64, expected.1) == reply;
        if exact && !as_expected {
            return Err(format!("answered {reply:?}, to be {expected:?}"));
        }
        if !copies.left.is_empty() {
            return Err(format!("copies that nothing asks for: {:x?}", copies.left));
        }
        Ok(verdict)
    }

    #[expect(clippy::too_many_arguments, reason = "a call and all that came of it")]
    fn answer(
        &mut self,
        function: Function,
        args: &[u64; 8],
        interrupted: bool,
        reply: Reply2,
        copies: &mut Copies<'_>,
        memory: &dyn Fn(u64) -> Words,
        verdict: &mut Verdict,
    ) -> Result<(Reply, bool), Wrong> {
        let ok = |values| Ok(((Status::Success, values), true));
        match function {
            // What these answer is fixed, or not of the ledger and the stash.
            Function::Uid | Function::Revision | Function::Version => {
                Ok(((Status::Success, [0; 3]), false))
            }
            Function::Events => match args[2] {
                0 | 1 if reply.0 == 0 => Ok(((Status::Success, [0; 3]), false)),
                _ => Err(Wrong::Fault(Status::InvalidParameter)),
            },
            Function::Region => {
                let (piece, frames) = self.region(args[1])?;
                ok([frames.len() as u64, piece.block_size, piece.tagged_length() / PAGE_SIZE])
            }
            Function::Statistic => {
                let value = usize::try_from(args[1]).ok().and_then(|n| self.statistics.get(n));
                ok([*value.ok_or(Wrong::Fault(Status::InvalidParameter))?, 0, 0])
            }
            Function::Census => {
                let (_, frames) = self.region(args[1])?;
                if args[2] >= frames.len() as u64 || args[3] == 0 {
                    return Err(Wrong::Fault(Status::InvalidParameter));
                }
                let first = frames.start + args[2] as usize;
                let count = args[3].min(4096).min((frames.end - first) as u64);
                let [in_tags, cached, free, dormant] =
                    self.census_of(first..first + count as usize);
                ok([count, in_tags | cached << 32, free | dormant << 32])
            }
            Function::State => {
                let mode = self.mode | u64::from(self.verification) << 8;
                ok([mode, self.blocks.len() as u64, self.contents.len() as u64])
            }
            Function::PoolCreate => self.create_pool(args, reply),
            Function::PoolDestroy => {
                let (id, _) = self.pool(args)?;
                self.pools.remove(&id);
                ok([0; 3])
            }
            Function::Put => self.put(args, interrupted, copies, memory),
            Function::Get => self.get(args, interrupted, copies, verdict),
            Function::FlushPage => {
                let (object, pool, pages) = self.page_run(args, u64::from(u32::MAX))?;
                let parts = 1 << (pool.shift - 12);
                let most = if interrupted { FLUSH_STEP } else { MAX_FLUSH } / parts;
                let done = pages.min(most);
                for n in 0..done {
                    self.drop_page(&object, args[5] + n);
                }
                self.count(Statistic::PageFlushes, done);
                ok([done, 0, 0])
            }
            Function::FlushObject => {
                let (id, _) = self.pool(args)?;
                let object = object(id, args);
                for bucket in self.placement.buckets(&object) {
                    self.object_moments[bucket] = self.clock;
                }
                self.count(Statistic::ObjectFlushes, 1);
                ok([0; 3])
            }
            Function::FlushPool => {
                let (id, _) = self.pool(args)?;
                self.pool_moments[id as usize % POOLS] = self.clock;
                self.count(Statistic::PoolFlushes, 1);
                ok([0; 3])
            }
            Function::Reclaim | Function::Release => {
                self.claim_or_release(function, args, interrupted, reply, verdict)
            }
            Function::Query => {
                self.check_page(args[1])?;
                ok(match self.ground.block_of(args[1]) {
                    None => [0; 3],
                    Some(number) => {
                        let block = &self.blocks[number];
                        let claimed = u64::from(block.claimed.contains(&args[1]));
                        let flags = 1 | claimed << 1 | u64::from(block.active) << 2;
                        [flags, block.claimed.len() as u64, 0]
                    }
                })
            }
            Function::Activate => {
                if args[1] & !1 != 0 {
                    return Err(Wrong::Fault(Status::InvalidParameter));
                }
                let blocks = self.cursor(args[2], interrupted)?;
                self.verification = args[1] & 1 == 1;
                let end = blocks.end;
                for number in blocks {
                    if !self.blocks[number].active {
                        self.blocks[number].active = true;
                        verdict.changes.entry(number).or_default().activated = true;
                    }
                }
                self.mode = if end == self.blocks.len() { 2 } else { 1 };
                ok([end as u64, self.blocks.len() as u64, 0])
            }
            Function::Deactivate => {
                let blocks = self.cursor(args[1], interrupted)?;
                self.pools.clear();
                self.verification = false;
                let end = blocks.end;
                for number in blocks {
                    let frames = self.ground.blocks[number].frames.clone();
                    self.contents[frames].fill(None);
                    let block = &mut self.blocks[number];
                    block.active = false;
                    let released = std::mem::take(&mut block.claimed);
                    let voided = released.len() as u64;
                    verdict.changes.insert(
                        number,
                        Change {
                            deactivated: true,
                            claims_before: voided,
                            released,
                            ..Change::default()
                        },
                    );
                    self.count(Statistic::Releases, voided);
                }
                self.mode = if end == self.blocks.len() { 0 } else { 3 };
                ok([end as u64, self.blocks.len() as u64, 0])
            }
        }
    }

    fn region(&self, number: u64) -> Result<(crate::sim::Piece, std::ops::Range<usize>), Wrong> {
        let region = usize::try_from(number).ok().and_then(|n| self.ground.regions.get(n));
        region.cloned().ok_or(Wrong::Fault(Status::InvalidParameter))
    }

    fn pool(&self, args: &[u64; 8]) -> Result<(u64, Pool), Wrong> {
        let pool = self.pools.get(&args[1]).ok_or(Wrong::Fault(Status::NoSuchPool))?;
        Ok((args[1], *pool))
    }

    fn page_run(&self, args: &[u64; 8], most: u64) -> Result<(Object, Pool, u64), Wrong> {
        let (id, pool) = self.pool(args)?;
        let pages = args[7];
        if pages == 0 || pages > most || args[5].checked_add(pages - 1).is_none() {
            return Err(Wrong::Fault(Status::InvalidParameter));
        }
        Ok((object(id, args), pool, pages))
    }

    /// All bytes of a run of PUT or GET are guest RAM, and it is aligned.
    fn check_run(&self, address: u64, pool: Pool, pages: u64) -> Result<(), Wrong> {
        let size = pages << pool.shift;
        let all = address.checked_add(size).is_some_and(|end| {
            (address..end).step_by(PAGE_SIZE as usize).all(|page| self.ground.is_ram(page))
        });
        if address.is_multiple_of(1 << pool.shift) && all {
            Ok(())
        } else {
            Err(Wrong::Fault(Status::InvalidAddress))
        }
    }

    fn check_page(&self, address: u64) -> Result<(), Wrong> {
        if address.is_multiple_of(PAGE_SIZE) && self.ground.is_ram(address) {
            Ok(())
        } else {
            Err(Wrong::Fault(Status::InvalidAddress))
        }
    }

    /// The blocks that an ACTIVATE or DEACTIVATE deals with.
    fn cursor(&self, cursor: u64, interrupted: bool) -> Result<std::ops::Range<usize>, Wrong> {
        let end = self.blocks.len() as u64;
        if cursor > end {
            return Err(Wrong::Fault(Status::InvalidParameter));
        }
        let most = if interrupted { 1 } else { MAX_BLOCKS };
        Ok(cursor as usize..cursor.saturating_add(most).min(end) as usize)
    }

    fn create_pool(&mut self, args: &[u64; 8], reply: Reply2) -> Result<(Reply, bool), Wrong> {
        let (shift, flags) = (args[1] & 0xff, args[1] & !0xff);
        if flags & !0x100 != 0 || ![12, 14, 16].contains(&shift) {
            return Err(Wrong::Fault(Status::InvalidParameter));
        }
        let uuid = (flags != 0).then_some([args[2], args[3]]);
        if let Some((&id, pool)) = self.pools.iter().find(|(_, p)| uuid.is_some() && p.uuid == uuid)
        {
            if pool.shift != shift {
                return Err(Wrong::Fault(Status::PoolMismatch));
            }
            return Ok(((Status::Success, [id, 0, 0]), true));
        }
        if self.pools.len() == POOLS {
            return Err(Wrong::Fault(Status::NoFreePool));
        }
        let id = reply.1[0];
        let is_new = id < 1 << 27 && self.ids.insert(id);
        let has_place = self.pools.keys().all(|other| other % POOLS as u64 != id % POOLS as u64);
        if reply.0 == 0 && !(is_new && has_place) {
            return Err(Wrong::Call(format!("{id:#x} is no new pool's id")));
        }
        self.pool_moments[id as usize % POOLS] = self.clock;
        self.pools.insert(id, Pool { shift, uuid });
        Ok(((Status::Success, [id, 0, 0]), true))
    }

    /// The candidates that hold a part, of which there may be one.
    fn holders(&self, key: &PartKey) -> Vec<usize> {
        let candidates = self.placement.candidates(key, self.contents.len());
        let holds = |&frame: &usize| self.contents[frame].as_ref().is_some_and(|c| c.key == *key);
        candidates.into_iter().filter(holds).collect()
    }

    fn drop_page(&mut self, object: &Object, index: u64) {
        for part in 0..16 {
            for frame in self.holders(&PartKey { object: *object, index, part }) {
                self.contents[frame] = None;
            }
        }
    }

    fn put(
        &mut self,
        args: &[u64; 8],
        interrupted: bool,
        copies: &mut Copies<'_>,
        memory: &dyn Fn(u64) -> Words,
    ) -> Result<(Reply, bool), Wrong> {
        let (object, pool, pages) = self.page_run(args, MAX_RUN)?;
        self.check_run(args[6], pool, pages)?;
        let done = if interrupted { 1 } else { pages };
        let (mut bits, mut failure) = (0, Status::Success);
        for n in 0..done {
            let stamp = self.clock;
            // Each part has a number of its own.
            self.clock += 1 << (pool.shift - 12);
            self.count(Statistic::Puts, 1);
            let mut result = Status::Success;
            for part in 0..1 << (pool.shift - 12) {
                let key = PartKey { object, index: args[5] + n, part };
                let from = args[6] + (n << pool.shift) + u64::from(part) * PAGE_SIZE;
                result = self.put_part(key, stamp, from, copies, memory)?;
                if result != Status::Success {
                    self.drop_page(&object, args[5] + n);
                    break;
                }
            }
            match result {
                Status::Success => {
                    bits |= 1 << n;
                    self.count(Statistic::PutsCached, 1);
                }
                Status::CopyFault => self.count(Statistic::CopyFaults, 1),
                _ => {}
            }
            if failure == Status::Success {
                failure = result;
            }
        }
        Ok(((failure, [done, bits, 0]), true))
    }

    /// Puts one part: into a free frame, else in place of the oldest page, but of no part of the same
    /// put. Of free frames it takes the one that was taken longest ago, of those that never were the
    /// first.
    fn put_part(
        &mut self,
        key: PartKey,
        stamp: u64,
        from: u64,
        copies: &mut Copies<'_>,
        memory: &dyn Fn(u64) -> Words,
    ) -> Result<Status, Wrong> {
        for frame in self.holders(&key) {
            self.contents[frame] = None;
        }
        let candidates = self.placement.candidates(&key, self.contents.len());
        let open: Vec<usize> = candidates.into_iter().filter(|&f| self.is_open(f)).collect();
        let is_own = |frame: usize| self.contents[frame].as_ref().is_some_and(|c| c.stamp == stamp);
        let rank = |&frame: &usize| (self.contents[frame].is_some(), self.marks[frame]);
        // The first of equals.
        let Some(frame) = open.into_iter().filter(|&frame| !is_own(frame)).min_by_key(rank) else {
            return Ok(Status::NotCached);
        };
        let target = self.ground.frame_address(frame);
        let number = stamp + u64::from(key.part);
        self.marks[frame] = Mark { sequence: number as u32, fingerprint: hash_of(&key) % (1 << 9) };
        let chunks = PAGE_SIZE / CHUNK;
        let copied = chunks.min(self.copies_left as u64);
        // An abort ends a copy that was begun.
        let begun = (copied + 1).min(chunks);
        for n in 0..begun {
            let copy = copies.next().ok_or_else(|| Wrong::Call("a page was not copied".into()))?;
            let expected = (from + n * CHUNK, target + n * CHUNK, CHUNK);
            if copy != expected {
                return Err(Wrong::Call(format!("copied {copy:x?}, to be {expected:x?}")));
            }
        }
        if self.copies_left != usize::MAX {
            self.copies_left -= copied as usize;
        }
        if self.contents[frame].take().is_some() {
            self.count(Statistic::Evictions, 1);
        }
        if copied < chunks {
            return Ok(Status::CopyFault);
        }
        let verified = self.verification;
        let words = memory(from);
        self.contents[frame] = Some(Content { key, stamp, words, verified, spoilt: false });
        Ok(Status::Success)
    }

    fn is_fresh(&self, content: &Content) -> bool {
        let object = &content.key.object;
        // An object is flushed when all its buckets have moved.
        let moments = self.placement.buckets(object).map(|bucket| self.object_moments[bucket]);
        let pool = self.pool_moments[object.pool.0 as usize % POOLS];
        content.stamp >= pool && moments.iter().any(|&moment| content.stamp >= moment)
    }

    fn get(
        &mut self,
        args: &[u64; 8],
        interrupted: bool,
        copies: &mut Copies<'_>,
        verdict: &mut Verdict,
    ) -> Result<(Reply, bool), Wrong> {
        let (object, pool, pages) = self.page_run(args, MAX_RUN)?;
        self.check_run(args[6], pool, pages)?;
        let done = if interrupted { 1 } else { pages };
        let (mut bits, mut failure) = (0, Status::Success);
        let parts = 1u32 << (pool.shift - 12);
        for n in 0..done {
            self.count(Statistic::Gets, 1);
            let index = args[5] + n;
            let to = args[6] + (n << pool.shift);
            let found: Vec<(usize, Content)> = (0..parts)
                .filter_map(|part| {
                    let frame = *self.holders(&PartKey { object, index, part }).first()?;
                    Some((frame, self.contents[frame].clone()?))
                })
                .filter(|(_, content)| self.is_fresh(content))
                .collect();
            let whole = found.len() == parts as usize
                && found.iter().all(|(_, content)| content.stamp == found[0].1.stamp);
            let mut result = if whole { Status::Success } else { Status::Miss };
            for (part, (frame, content)) in (0..).zip(&found).take_while(|_| whole) {
                let at = to + part * PAGE_SIZE;
                let expected = (self.ground.frame_address(*frame), at, PAGE_SIZE);
                let copy = copies.next();
                if copy != Some(expected) {
                    return Err(Wrong::Call(format!("copied {copy:x?}, to be {expected:x?}")));
                }
                if self.copies_left == 0 {
                    result = Status::CopyFault;
                    break;
                }
                if self.copies_left != usize::MAX {
                    self.copies_left -= 1;
                }
                verdict.written.push(at);
                if content.spoilt {
                    result = Status::Miss;
                    self.count(Statistic::Mismatches, 1);
                    break;
                }
            }
            match result {
                Status::Success => {
                    bits |= 1 << n;
                    self.count(Statistic::Hits, 1);
                    for (part, (_, content)) in (0..).zip(found) {
                        let at = to + part * PAGE_SIZE;
                        verdict.arrivals.push(Arrival { at, words: content.words });
                    }
                }
                Status::CopyFault => self.count(Statistic::CopyFaults, 1),
                _ => {}
            }
            if failure == Status::Success {
                failure = result;
            }
            if result != Status::Success || pool.uuid.is_none() {
                self.drop_page(&object, index);
            }
        }
        Ok(((failure, [done, bits, 0]), true))
    }

    fn claim_or_release(
        &mut self,
        function: Function,
        args: &[u64; 8],
        interrupted: bool,
        reply: Reply2,
        verdict: &mut Verdict,
    ) -> Result<(Reply, bool), Wrong> {
        let (first, pages) = (args[1], args[2]);
        if pages == 0 {
            return Err(Wrong::Fault(Status::InvalidParameter));
        }
        self.check_page(first)?;
        let end = pages.checked_mul(PAGE_SIZE).and_then(|bytes| first.checked_add(bytes));
        let end = end.ok_or(Wrong::Fault(Status::InvalidAddress))?;
        self.check_page(end - PAGE_SIZE)?;
        // How far the run got: all of it, or where a step ended.
        let done = if interrupted { reply.1[0] } else { pages };
        if done == 0 || done > pages {
            return Err(Wrong::Call(format!("{done} of {pages} pages were dealt with")));
        }
        let dealt: Vec<u64> = (first..first + done * PAGE_SIZE)
            .step_by(PAGE_SIZE as usize)
            .filter(|&page| self.ground.is_ram(page) && self.ground.block_of(page).is_some())
            .collect();
        let mut by_block: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
        for page in dealt {
            let block = self.ground.block_of(page).expect("pages with tags were chosen");
            by_block.entry(block).or_default().push(page);
        }
        if interrupted && done < pages {
            let frames: usize =
                by_block.keys().map(|&number| self.ground.blocks[number].frames.len()).sum();
            if by_block.is_empty() || by_block.len() > 1 && frames > BATCH_FRAMES {
                return Err(Wrong::Call(format!("cut short after {} blocks", by_block.len())));
            }
            if !self.ground.is_ram(first + done * PAGE_SIZE) {
                return Err(Wrong::Call(format!("cut short before a hole, after {done} pages")));
            }
        }
        let (mut changed, mut unchanged) = (0, 0);
        for (number, pages) in by_block {
            let frames = self.ground.blocks[number].frames.clone();
            let block = &mut self.blocks[number];
            let before = block.claimed.len() as u64;
            let mut change = Change { claims_before: before, ..Change::default() };
            let named = pages.len() as u64;
            let mut own = 0;
            for page in pages {
                if function == Function::Reclaim {
                    if block.claimed.insert(page) {
                        own += 1;
                        let is_next =
                            change.entering.last().is_none_or(|last| last + PAGE_SIZE == page);
                        if is_next {
                            change.entering.insert(page);
                        }
                    }
                } else if block.claimed.remove(&page) {
                    own += 1;
                    change.released.insert(page);
                }
            }
            changed += own;
            unchanged += named - own;
            if function == Function::Reclaim && before > 0 {
                // In tags already: nothing to do, whichever pages are new.
                change.entering.clear();
            } else if !change.entering.is_empty() {
                let lent = u64::from(self.blocks[number].active);
                self.count(Statistic::BlocksTaken, lent);
                let dropped = self.contents[frames.clone()].iter().flatten().count() as u64;
                self.count(Statistic::PagesDropped, dropped);
                self.contents[frames].fill(None);
            }
            if !change.entering.is_empty() || !change.released.is_empty() {
                verdict.changes.insert(number, change);
            }
        }
        let status = if function == Function::Reclaim {
            self.count(Statistic::Claims, changed);
            self.count(Statistic::ClaimsHeld, unchanged);
            Status::Success
        } else {
            self.count(Statistic::Releases, changed);
            self.count(Statistic::ReleasesRefused, unchanged);
            if unchanged == 0 { Status::Success } else { Status::NotClaimed }
        };
        Ok(((status, [done, changed, 0]), true))
    }
}

/// A reply as it came: the status a number.
pub type Reply2 = (i64, [u64; 3]);

/// Why a call has no ordinary reply.
enum Wrong {
    /// It must be refused with this status.
    Fault(Status),
    /// It did what it must not.
    Call(String),
}

fn object(pool: u64, args: &[u64; 8]) -> Object {
    Object { pool: PoolId(pool as u32), words: [args[2], args[3], args[4]] }
}
