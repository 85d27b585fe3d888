// SPDX-License-Identifier: MIT OR Apache-2.0
//! The same promises with all CPUs at work at once. Pages describe themselves, every hit is
//! checked word by word, and its sequence number against what may be there: exactly for keys
//! that one CPU owns, by the [`Monitor`] for keys that all CPUs use. Every phase counts its hits
//! and fails if too few gets hit: a cache that never hits keeps most promises.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};

use crate::abi::{self, Answer, Key, statistic, status};
use crate::arena::{self, Pages};
use crate::cases::claims::longest;
use crate::entry::MAX_CPUS;
use crate::machine::machine;
use crate::pages;
use crate::prng::Random;
use crate::ranges::{PAGE, Range};
use crate::smp;
use crate::stash::{self, Pool};
use crate::tags::{self, Store};
use crate::tap::{self, Outcome, Stop, Test, check, fail, note, same};

/// Tests for several CPUs with tag storage.
pub const TESTS: &[Test] = &[
    ("P2 P3 all CPUs, own keys: exactly the model's pages", own_keys),
    ("P2 P3 all CPUs, the same keys: never an older page, never half a page", same_keys),
    ("P1 P2 P4 all CPUs, claims of shared blocks while the stash is at work", claim_storm),
    ("P1 P4 all CPUs, claims meet puts in few frames", claims_meet_writers),
    ("P6 all CPUs claim and release the same pages", same_claims),
    ("P2 P8 ACTIVATE and DEACTIVATE while the other CPUs go on", state_storm),
    ("all CPUs make, find and destroy pools", pool_storm),
];

/// What the workers counted.
#[derive(Default)]
struct Shares {
    puts: AtomicU64,
    kept: AtomicU64,
    /// Gets of pages that were put and, as far as known, not removed.
    gets: AtomicU64,
    hits: AtomicU64,
    claims: AtomicU64,
    tagged: AtomicU64,
}

impl Shares {
    /// Prints the shares; fails if fewer than `least` percent of the gets hit.
    fn at_least(&self, least: u64) -> Outcome {
        let [puts, kept, gets, hits, claims, tagged] =
            [&self.puts, &self.kept, &self.gets, &self.hits, &self.claims, &self.tagged]
                .map(|count| count.load(SeqCst));
        let share = |part: u64, whole: u64| part * 100 / whole.max(1);
        note!(
            "{puts} puts, {} % kept; {gets} gets of pages that were put, {} % hit (at least {least} %)",
            share(kept, puts),
            share(hits, gets)
        );
        if claims != 0 {
            note!("{claims} claims, {tagged} pages of tags verified");
        }
        check!(gets >= 1000, "only {gets} gets of pages that were put");
        check!(share(hits, gets) >= least, "only {hits} of {gets} gets hit, less than {least} %");
        Ok(())
    }
}

/// A pool as the workers see it.
#[derive(Clone, Copy)]
struct Where {
    id: u64,
    parts: u64,
    shared: bool,
}

impl Where {
    fn of(pool: &Pool, shared: bool) -> Where {
        Where { id: pool.id, parts: pool.parts, shared }
    }
}

/// Pages of 4 KiB in a worker's buffers.
const BUFFER: u64 = 16;

/// One CPU at work.
struct Worker<'a> {
    number: usize,
    random: Random,
    source: Pages,
    destination: Pages,
    shares: &'a Shares,
    next: u32,
}

impl<'a> Worker<'a> {
    fn new(number: usize, seed: u64, buffers: &[Pages], shares: &'a Shares) -> Worker<'a> {
        let both = buffers[number];
        Worker {
            number,
            random: Random::new(seed << 8 | number as u64),
            source: both.part(0, BUFFER),
            destination: both.part(BUFFER, BUFFER),
            shares,
            next: 1,
        }
    }

    fn key(&self, pool: Where, object: u64, index: u64) -> Key {
        Key { pool: pool.id, object: [object, self.number as u64, 0xffff], index }
    }

    /// Puts own pages and notes in `slots` what is there: the sequence number, 0 for nothing.
    /// False if the pool is gone.
    fn put(
        &mut self,
        pool: Where,
        object: u64,
        slots: &[AtomicU32],
        first: u64,
        count: u64,
    ) -> Result<bool, Stop> {
        for at in 0..count {
            let part = self.source.part(at * pool.parts, pool.parts);
            pages::write(part, self.key(pool, object, first + at), (self.next + at as u32).into());
        }
        let answer = abi::put(self.key(pool, object, first), self.source.address(), count);
        if answer.status == status::NO_SUCH_POOL {
            return Ok(false);
        }
        let all = u64::MAX >> (64 - count);
        let wanted = if answer.x2 == all { 0 } else { status::NOT_CACHED };
        check!(
            answer == Answer::of(wanted, count, answer.x2 & all, 0),
            "PUT of {count} pages: {answer:x?}"
        );
        for at in 0..count {
            let kept = answer.x2 >> at & 1 != 0;
            let sequence = if kept { self.next + at as u32 } else { 0 };
            slots[(first + at) as usize].store(sequence, SeqCst);
        }
        self.next += count as u32;
        self.shares.puts.fetch_add(count, SeqCst);
        self.shares.kept.fetch_add(answer.x2.count_ones().into(), SeqCst);
        Ok(true)
    }

    /// Gets own pages: each is exactly the one in its slot, or a miss. False if the pool is gone.
    fn get(
        &mut self,
        pool: Where,
        object: u64,
        slots: &[AtomicU32],
        first: u64,
        count: u64,
    ) -> Result<bool, Stop> {
        pages::spoil(self.destination.part(0, count * pool.parts));
        let answer = abi::get(self.key(pool, object, first), self.destination.address(), count);
        if answer.status == status::NO_SUCH_POOL {
            return Ok(false);
        }
        let all = u64::MAX >> (64 - count);
        let wanted = if answer.x2 == all { 0 } else { status::MISS };
        check!(
            answer == Answer::of(wanted, count, answer.x2 & all, 0),
            "GET of {count} pages: {answer:x?}"
        );
        for at in 0..count {
            let slot = &slots[(first + at) as usize];
            let there = slot.load(SeqCst);
            let hit = answer.x2 >> at & 1 != 0;
            if hit {
                let part = self.destination.part(at * pool.parts, pool.parts);
                let key = self.key(pool, object, first + at);
                let sequence = pages::read(part, key)?;
                check!(
                    sequence == u64::from(there),
                    "CPU {}: page {} has sequence {sequence}, {} was expected (0: none)",
                    self.number,
                    key.index,
                    there
                );
            }
            self.shares.gets.fetch_add(u64::from(there != 0), SeqCst);
            self.shares.hits.fetch_add(u64::from(hit), SeqCst);
            if !hit || !pool.shared {
                slot.store(0, SeqCst);
            }
        }
        Ok(true)
    }

    /// One random thing with own pages. False if the pool is gone.
    fn own_step(&mut self, pool: Where, object: u64, slots: &[AtomicU32]) -> Result<bool, Stop> {
        let keys = slots.len() as u64;
        let longest = (BUFFER / pool.parts).min(8).min(keys);
        let count = if self.random.chance(85) { 1 } else { 1 + self.random.below(longest) };
        let first = self.random.below(keys - count + 1);
        match self.random.below(10_000) {
            0..4600 => self.put(pool, object, slots, first, count),
            4600..9700 => self.get(pool, object, slots, first, count),
            9700..9997 => {
                let answer = abi::flush_page(self.key(pool, object, first), count);
                let own = &slots[first as usize..(first + count) as usize];
                own.iter().for_each(|slot| slot.store(0, SeqCst));
                Ok(answer.status != status::NO_SUCH_POOL)
            }
            _ => {
                let answer = abi::flush_object(pool.id, self.key(pool, object, 0).object);
                slots.iter().for_each(|slot| slot.store(0, SeqCst));
                Ok(answer.status != status::NO_SUCH_POOL)
            }
        }
    }
}

/// Buffers for all workers.
fn all_buffers() -> [Pages; MAX_CPUS] {
    let cpus = smp::cpus();
    let mut all = [arena::take_aligned(2 * BUFFER, BUFFER * PAGE); MAX_CPUS];
    for own in &mut all[1..cpus] {
        *own = arena::take_aligned(2 * BUFFER, BUFFER * PAGE);
    }
    all
}

/// Pools of every kind.
struct Pools([Pool; 4]);

impl Pools {
    fn new(seed: u64) -> Result<Pools, Stop> {
        Ok(Pools([
            Pool::private()?,
            Pool::shared_of(12, [seed, 12])?,
            Pool::private_of(14)?,
            Pool::shared_of(16, [seed, 16])?,
        ]))
    }

    fn places(&self) -> [Where; 4] {
        let [one, two, three, four] = &self.0;
        [
            Where::of(one, false),
            Where::of(two, true),
            Where::of(three, false),
            Where::of(four, true),
        ]
    }
}

/// Slots of own keys: for each CPU and pool some.
struct Slots {
    slots: &'static [AtomicU32],
    starts: [usize; 5],
}

impl Slots {
    /// As many keys in each of the pools as said.
    fn new(keys: [u64; 4]) -> Slots {
        let mut starts = [0; 5];
        for (at, keys) in keys.into_iter().enumerate() {
            starts[at + 1] = starts[at] + keys as usize;
        }
        let total = starts[4] * smp::cpus();
        Slots { slots: arena::shared_words(total as u64), starts }
    }

    fn of(&self, cpu: usize, pool: usize) -> &'static [AtomicU32] {
        let own = &self.slots[cpu * self.starts[4]..][..self.starts[4]];
        &own[self.starts[pool]..self.starts[pool + 1]]
    }
}

/// Which pool a step is about: large pages are dear, and rarer.
fn pick_pool(random: &mut Random) -> usize {
    match random.below(100) {
        0..46 => 0,
        46..90 => 1,
        90..97 => 2,
        _ => 3,
    }
}

fn own_keys() -> Outcome {
    smp::need(2)?;
    stash::fresh()?;
    let cpus = smp::cpus() as u64;
    let pools = Pools::new(1)?;
    let places = pools.places();
    // About as many pages as fit, so that CPUs evict each other's.
    let each = machine().frames() / cpus;
    let slots = Slots::new([each * 3 / 5, each * 3 / 5, each / 40 + 1, each / 160 + 1]);
    let buffers = all_buffers();
    let shares = Shares::default();
    smp::on_all(&|number| {
        let mut worker = Worker::new(number, 1, &buffers, &shares);
        for step in 0..80_000 / cpus {
            let pool = pick_pool(&mut worker.random);
            check!(
                worker.own_step(places[pool], 1, slots.of(number, pool))?,
                "step {step}: the pool is gone"
            );
            if tap::has_failed() {
                return Err(Stop::Failed);
            }
        }
        Ok(())
    })?;
    shares.at_least(60)
}

/// Finds out whether what CPUs see of shared keys can have happened in some order.
///
/// Every call about a key takes a number when it begins. A put's number is in its page. When a
/// put returns, it notes the number that the next call would have got: calls with that number
/// or a later one began after the put had returned. If such a call made the put's page old or
/// removed it (a put, a flush, a miss, a taking hit) and had returned before a get began, that
/// get must not find the page. The check never cries wolf; it misses only what too many calls
/// at once blur.
struct Monitor {
    keys: usize,
    next: &'static [AtomicU32],
    /// Highest number of a call that had returned and that made older pages disappear.
    passed: &'static [AtomicU32],
    /// Of the returned hits that left the page: number and page of the one with the highest.
    seen: &'static [AtomicU64],
    /// For each key and number: what is known of that put.
    puts: &'static [AtomicU32],
}

/// Calls that one key can have.
const CALLS: u32 = 8192;
/// This number belongs to a put.
const IS_PUT: u32 = 1 << 31;
/// The put has returned, saying that the page is not cached.
const REFUSED: u32 = 1 << 30;
/// A get of a private pool has taken the page.
const TAKEN: u32 = 1 << 29;
/// The number that a call got at the earliest which began after the put had returned; 0 before.
const AFTER: u32 = TAKEN - 1;

impl Monitor {
    fn new(keys: u64) -> Monitor {
        let next = arena::shared_words(keys);
        next.iter().for_each(|next| next.store(1, SeqCst));
        Monitor {
            keys: keys as usize,
            next,
            passed: arena::shared_words(keys),
            seen: arena::shared_longs(keys),
            puts: arena::shared_words(keys * u64::from(CALLS)),
        }
    }

    /// A number for a call that begins; none if the key has had enough calls.
    fn begin(&self, key: usize) -> Option<u32> {
        let number = self.next[key].fetch_add(1, SeqCst);
        (number < CALLS).then_some(number)
    }

    fn put_of(&self, key: usize, number: u32) -> &AtomicU32 {
        &self.puts[key * CALLS as usize + number as usize]
    }

    fn begin_put(&self, key: usize) -> Option<u32> {
        let number = self.begin(key)?;
        self.put_of(key, number).fetch_or(IS_PUT, SeqCst);
        Some(number)
    }

    fn end_put(&self, key: usize, number: u32, kept: bool) {
        let after = self.next[key].load(SeqCst);
        let refused = if kept { 0 } else { REFUSED };
        self.put_of(key, number).fetch_or(after | refused, SeqCst);
        self.passed[key].fetch_max(number, SeqCst);
    }

    /// A flush or a miss has returned.
    fn end_removal(&self, key: usize, number: u32) {
        self.passed[key].fetch_max(number, SeqCst);
    }

    /// What must be known before a get.
    fn before_get(&self, key: usize) -> Option<(u32, u32, u64)> {
        let passed = self.passed[key].load(SeqCst);
        let seen = self.seen[key].load(SeqCst);
        Some((self.begin(key)?, passed, seen))
    }

    fn end_hit(&self, key: usize, before: (u32, u32, u64), sequence: u64, shared: bool) -> Outcome {
        let (number, passed, seen) = before;
        check!(sequence < CALLS.into(), "key {key}: sequence {sequence:#x} was never put");
        let sequence = sequence as u32;
        let put = self.put_of(key, sequence).load(SeqCst);
        check!(put & IS_PUT != 0, "key {key}: call {sequence} was no put");
        let after = put & AFTER;
        if after != 0 {
            check!(
                passed < after,
                "key {key}: get {number} hits put {sequence}, which returned before call {after}; but \
                 call {passed} had returned and made it old"
            );
            let (seen_by, seen_put) = ((seen >> 32) as u32, seen as u32);
            check!(
                seen_by < after || seen_put == sequence,
                "key {key}: get {number} hits put {sequence}, which returned before call {after}; but \
                 get {seen_by} had found put {seen_put}"
            );
            check!(
                put & REFUSED == 0 || after > number,
                "key {key}: get {number} hits put {sequence}, which had been refused"
            );
        }
        if shared {
            let own = u64::from(number) << 32 | u64::from(sequence);
            self.seen[key].fetch_max(own, SeqCst);
        } else {
            let taken = self.put_of(key, sequence).fetch_or(TAKEN, SeqCst) & TAKEN;
            check!(taken == 0, "key {key}: put {sequence} of a private pool is found twice");
            self.end_removal(key, number);
        }
        Ok(())
    }
}

/// Keys of each object that all CPUs use.
const KEYS_OF_OBJECT: usize = 4;

impl Worker<'_> {
    /// One random thing with keys that all CPUs use. False if a key has had enough calls.
    fn same_step(&mut self, pool: Where, monitor: &Monitor) -> Result<bool, Stop> {
        let at = self.random.below(monitor.keys as u64) as usize;
        let object = (at / KEYS_OF_OBJECT) as u64;
        let key = Key::new(pool.id, object, at as u64);
        let source = self.source.part(0, pool.parts);
        let destination = self.destination.part(0, pool.parts);
        match self.random.below(1000) {
            0..400 => {
                let Some(number) = monitor.begin_put(at) else { return Ok(false) };
                let kept = stash::put(source, key, number.into())?;
                monitor.end_put(at, number, kept);
                self.shares.puts.fetch_add(1, SeqCst);
                self.shares.kept.fetch_add(kept.into(), SeqCst);
            }
            400..950 => {
                let put = monitor.passed[at].load(SeqCst);
                let put =
                    put != 0 && monitor.put_of(at, put).load(SeqCst) & (IS_PUT | REFUSED) == IS_PUT;
                let Some(before) = monitor.before_get(at) else { return Ok(false) };
                match stash::get(destination, key)? {
                    Some(sequence) => {
                        monitor.end_hit(at, before, sequence, pool.shared)?;
                        self.shares.hits.fetch_add(put.into(), SeqCst);
                    }
                    None => monitor.end_removal(at, before.0),
                }
                self.shares.gets.fetch_add(put.into(), SeqCst);
            }
            950..990 => {
                let Some(number) = monitor.begin(at) else { return Ok(false) };
                abi::flush_page(key, 1);
                monitor.end_removal(at, number);
            }
            990..998 => {
                let first = at / KEYS_OF_OBJECT * KEYS_OF_OBJECT;
                let last = (first + KEYS_OF_OBJECT).min(monitor.keys);
                let numbers: [Option<u32>; KEYS_OF_OBJECT] = core::array::from_fn(|key| {
                    if first + key < last { monitor.begin(first + key) } else { None }
                });
                abi::flush_object(pool.id, key.object);
                for (key, number) in numbers.into_iter().enumerate() {
                    if let Some(number) = number {
                        monitor.end_removal(first + key, number);
                    }
                }
            }
            _ => {
                const MOST: usize = 32;
                let mut numbers = [None; MOST];
                for (key, number) in numbers.iter_mut().enumerate().take(monitor.keys) {
                    *number = monitor.begin(key);
                }
                abi::flush_pool(pool.id);
                for (key, number) in numbers.into_iter().enumerate().take(monitor.keys) {
                    if let Some(number) = number {
                        monitor.end_removal(key, number);
                    }
                }
            }
        }
        Ok(true)
    }
}

fn same_keys() -> Outcome {
    smp::need(2)?;
    stash::fresh()?;
    let cpus = smp::cpus() as u64;
    let pools = Pools::new(2)?;
    let places = pools.places();
    let monitors = [16, 16, 8, 4].map(Monitor::new);
    let buffers = all_buffers();
    let shares = Shares::default();
    smp::on_all(&|number| {
        let mut worker = Worker::new(number, 2, &buffers, &shares);
        for _ in 0..120_000 / cpus {
            let pool = pick_pool(&mut worker.random);
            if !worker.same_step(places[pool], &monitors[pool])? || tap::has_failed() {
                break;
            }
        }
        Ok(())
    })?;
    check!(!tap::has_failed(), "a CPU failed");
    shares.at_least(80)
}

/// Pages whose tags the CPUs use, four in a row each in turn, so that every block is shared.
struct Tagged {
    window: Range,
    cpus: u64,
    /// The seed of each page's tags; 0 if it is not claimed.
    seeds: &'static [AtomicU32],
}

/// Pages in a row that one CPU owns.
const GROUP: u64 = 4;
/// Most groups in which one CPU has claims.
const HELD: usize = 40;

impl Tagged {
    fn new(window: Range) -> Tagged {
        Tagged { window, cpus: smp::cpus() as u64, seeds: arena::shared_words(window.pages()) }
    }

    fn address(&self, page: u64) -> u64 {
        self.window.start + page * PAGE
    }

    fn verify(&self, page: u64) -> Outcome {
        match self.seeds[page as usize].load(SeqCst) {
            0 => Ok(()),
            seed => tags::verify(self.address(page), seed.into()),
        }
    }

    /// Claims some own pages and tags them, or verifies the tags of some and releases them.
    /// `held` are the groups in which the worker holds claims: few, so that most blocks are lent
    /// most of the time and change hands often.
    fn step(&self, worker: &mut Worker<'_>, held: &mut [Option<u64>; HELD]) -> Outcome {
        let groups = self.window.pages() / GROUP / self.cpus;
        let slot = worker.random.below(HELD as u64) as usize;
        let group = match held[slot] {
            Some(group) => group,
            None => worker.random.below(groups) * self.cpus + worker.number as u64,
        };
        let count = 1 + worker.random.below(GROUP);
        let first = group * GROUP + worker.random.below(GROUP - count + 1);
        if held[slot].is_some() && worker.random.chance(80) {
            held[slot] = None;
            return self.release(worker, group * GROUP, GROUP);
        }
        held[slot] = Some(group);
        self.claim(worker, first, count)
    }

    fn claim(&self, worker: &mut Worker<'_>, first: u64, count: u64) -> Outcome {
        let own = &self.seeds[first as usize..(first + count) as usize];
        let had = own.iter().filter(|seed| seed.load(SeqCst) != 0).count() as u64;
        let answer = abi::reclaim(self.address(first), count);
        check!(
            answer == Answer::of(0, count, count - had, 0),
            "RECLAIM of {count} own pages, {had} claimed: {answer:x?}"
        );
        worker.shares.claims.fetch_add(count - had, SeqCst);
        for (seed, page) in own.iter().zip(first..) {
            if seed.load(SeqCst) == 0 {
                worker.next += 1;
                let store = if worker.random.chance(20) { Store::Stg } else { Store::Stgm };
                tags::write(self.address(page), worker.next.into(), store);
                seed.store(worker.next, SeqCst);
            }
        }
        Ok(())
    }

    fn release(&self, worker: &mut Worker<'_>, first: u64, count: u64) -> Outcome {
        let own = &self.seeds[first as usize..(first + count) as usize];
        let had = own.iter().filter(|seed| seed.load(SeqCst) != 0).count() as u64;
        for page in first..first + count {
            self.verify(page)?;
        }
        worker.shares.tagged.fetch_add(had, SeqCst);
        own.iter().for_each(|seed| seed.store(0, SeqCst));
        let answer = abi::release(self.address(first), count);
        let wanted = if had == count { 0 } else { status::NOT_CLAIMED };
        check!(
            answer == Answer::of(wanted, count, had, 0),
            "RELEASE of {count} own pages, {had} claimed: {answer:x?}"
        );
        Ok(())
    }

    /// Verifies all tags, by the guest's eyes and by the host's; gives all claims back.
    fn finish(&self) -> Result<u64, Stop> {
        let mut held = 0;
        for (page, seed) in self.seeds.iter().enumerate() {
            let seed = seed.load(SeqCst);
            if seed != 0 {
                let address = self.address(page as u64);
                tags::verify(address, seed.into())?;
                tags::verify_stored(address, seed.into())?;
                held += 1;
            }
        }
        let answer = abi::release(self.window.start, self.window.pages());
        same!(answer.x2, held, "claims given back at the end");
        Ok(held)
    }
}

/// From the first to the last page of guest RAM.
fn all_memory() -> Range {
    let ram = machine().ram.all();
    Range { start: ram[0].start, end: ram[ram.len() - 1].end }
}

/// Claims everything but some blocks, so that claims and pages meet in those. Their data.
fn lend_only(blocks: u64) -> Result<Range, Stop> {
    let region = machine().regions.all()[0];
    let piece = longest(&region);
    let start = region.data_of_block(region.block_of(piece.start + piece.length() / 3)).start;
    let window = Range::of(start, blocks * region.pages_of_block() * PAGE);
    check!(piece.holds(window), "the region is too small");
    let all = all_memory();
    let below = abi::reclaim(all.start, (window.start - all.start) / PAGE);
    let above = abi::reclaim(window.end, (all.end - window.end) / PAGE);
    check!(below.ok() && above.ok(), "RECLAIM of the rest: {below:x?}, {above:x?}");
    let lent = stash::census()?;
    note!("{} frames lent, {} in tags", lent.free, lent.tags);
    Ok(window)
}

/// Releases everything; no claim may be left.
fn release_all() -> Outcome {
    let all = all_memory();
    abi::release(all.start, all.pages());
    same!(stash::census()?.tags, 0, "frames in tags when everything is released");
    Ok(())
}

fn claim_storm() -> Outcome {
    smp::need(2)?;
    stash::fresh()?;
    let cpus = smp::cpus() as u64;
    let region = machine().regions.all()[0];
    let window = lend_only((region.blocks() / 8).clamp(32, 512) / region.frames_of_block())?;
    let lent = stash::census()?;

    let pools = Pools::new(3)?;
    let places = pools.places();
    let slots = Slots::new([lent.free / cpus / 4 + 1, lent.free / cpus / 4 + 1, 2, 1]);
    let monitors = [16, 16, 4, 2].map(Monitor::new);
    let tagged = Tagged::new(window);
    let buffers = all_buffers();
    let shares = Shares::default();
    let before = abi::statistics();
    smp::on_all(&|number| {
        let mut worker = Worker::new(number, 3, &buffers, &shares);
        let mut held = [None; HELD];
        for _ in 0..100_000 / cpus {
            let pool = pick_pool(&mut worker.random);
            match worker.random.below(10) {
                0..4 => {
                    worker.own_step(places[pool], 1, slots.of(number, pool))?;
                }
                4..6 => {
                    worker.same_step(places[pool], &monitors[pool])?;
                }
                _ => tagged.step(&mut worker, &mut held)?,
            }
            if tap::has_failed() {
                break;
            }
        }
        Ok(())
    })?;
    check!(!tap::has_failed(), "a CPU failed");
    let held = tagged.finish()?;
    release_all()?;
    let after = abi::statistics();
    let count = |number: u64| after[number as usize] - before[number as usize];
    note!(
        "{held} pages tagged at the end; {} blocks taken, {} pages dropped, {} polls, longest wait {}",
        count(statistic::BLOCKS_TAKEN),
        count(statistic::PAGES_DROPPED),
        count(statistic::WAIT_POLLS),
        after[statistic::WORST_WAIT as usize]
    );
    check!(held != 0, "no page was tagged at the end");
    check!(count(statistic::PAGES_DROPPED) != 0, "claims and cached pages never met");
    shares.at_least(40)
}

/// Blocks that several CPUs use for tags at the same time, each its own pages of them.
struct SharedBlocks {
    window: Range,
    /// Data of one block.
    data: u64,
    /// How many CPUs use each block now; [`LEAVING`] while the last one gives it back.
    users: &'static [AtomicU32],
}

/// The last user gives the block back.
const LEAVING: u32 = u32::MAX;

impl SharedBlocks {
    fn start(&self, block: usize) -> u64 {
        self.window.start + block as u64 * self.data
    }

    /// Claims the whole block, as other users may do at the same time. With `one_first` by two
    /// calls, of which the first is about one page.
    fn enter(&self, block: usize, one_first: bool) -> Outcome {
        let users = &self.users[block];
        loop {
            let now = users.load(SeqCst);
            if now != LEAVING && users.compare_exchange(now, now + 1, SeqCst, SeqCst).is_ok() {
                break;
            }
            core::hint::spin_loop();
        }
        let pages = self.data / PAGE;
        if one_first {
            let answer = abi::reclaim(self.start(block), 1);
            check!(answer.ok() && answer.x2 <= 1, "RECLAIM of a page: {answer:x?}");
        }
        let answer = abi::reclaim(self.start(block), pages);
        check!(
            answer == Answer::of(0, pages, answer.x2.min(pages), 0),
            "RECLAIM of a block of {pages} pages: {answer:x?}"
        );
        Ok(())
    }

    /// Leaves; the last user releases the whole block.
    fn leave(&self, block: usize) -> Outcome {
        let users = &self.users[block];
        if users.compare_exchange(1, LEAVING, SeqCst, SeqCst).is_ok() {
            let pages = self.data / PAGE;
            let answer = abi::release(self.start(block), pages);
            users.store(0, SeqCst);
            check!(
                answer == Answer::of(0, pages, pages, 0),
                "RELEASE of a claimed block of {pages} pages: {answer:x?}"
            );
        } else {
            // If the others leave in between, the next user or the end of the test releases.
            users.fetch_sub(1, SeqCst);
        }
        Ok(())
    }
}

/// Few frames are lent, some CPUs put into them without a pause, and the others claim their
/// blocks and at once write tags over the whole of them: a chunk that a put writes after a
/// claim has returned shows in the tags.
fn claims_meet_writers() -> Outcome {
    smp::need(2)?;
    stash::fresh()?;
    const BLOCKS: u64 = 48;
    const HELD: usize = 6;
    const KEYS: usize = 24;
    let cpus = smp::cpus();
    let taggers = (cpus / 2).min(4);
    let region = machine().regions.all()[0];
    let blocks = (BLOCKS / region.frames_of_block()) as usize;
    let window = lend_only(blocks as u64)?;
    let shared = SharedBlocks {
        window,
        data: region.pages_of_block() * PAGE,
        users: arena::shared_words(blocks as u64),
    };
    let slice = region.pages_of_block() / taggers as u64;
    let pool = Pool::shared()?;
    let place = Where::of(&pool, true);
    let buffers = all_buffers();
    let shares = Shares::default();
    let working = AtomicU64::new(taggers as u64);
    let last = AtomicU32::new(0);
    let before = abi::statistics();

    // Keys of each writer that only frames of the lent blocks can take: not those that find a
    // frame whose block serves no guest RAM, or find none.
    let keys = arena::shared_longs((MAX_CPUS * KEYS) as u64);
    let unnoticed = Shares::default();
    for number in taggers..cpus {
        let mut worker = Worker::new(number, 7, &buffers, &unnoticed);
        let slots = [const { AtomicU32::new(0) }; 1];
        let mut found = 0;
        for object in 1..20_000 {
            worker.put(place, object, &slots, 0, 1)?;
            if slots[0].load(SeqCst) == 0 {
                continue;
            }
            let claim = stash::Claim::of(window.start, window.pages())?;
            worker.get(place, object, &slots, 0, 1)?;
            drop(claim);
            if slots[0].load(SeqCst) == 0 {
                keys[number * KEYS + found].store(object, SeqCst);
                found += 1;
                if found == KEYS {
                    break;
                }
            }
        }
        check!(found == KEYS, "of 20,000 pages only {found} were kept in lent blocks");
    }

    let tag = |number: usize| -> Outcome {
        let mut random = Random::new(0x7a6 + number as u64);
        let mut held = [None; HELD];
        let mut seed = 0;
        let own = |block: usize| {
            let first = shared.start(block) + number as u64 * PAGE;
            (0..slice).map(move |page| first + page * taggers as u64 * PAGE)
        };
        let finish = |(block, seed): (usize, u64)| -> Outcome {
            for page in own(block) {
                check!(
                    tags::read(page) == tags::pattern(page, seed),
                    "CPU {number}: the tags of page {page:#x} have changed after its claim"
                );
            }
            shares.tagged.fetch_add(slice, SeqCst);
            shared.leave(block)
        };
        for _ in 0..12_000 / taggers {
            let slot = random.below(HELD as u64) as usize;
            // Often the block that another CPU may be waiting for right now.
            let block = match last.load(SeqCst) {
                latest if random.chance(50) => latest as usize,
                _ => random.below(blocks as u64) as usize,
            };
            if let Some(old) = held[slot].take() {
                finish(old)?;
            }
            if held.iter().flatten().any(|(own, _)| *own == block) {
                continue;
            }
            seed += 1;
            last.store(block as u32, SeqCst);
            shared.enter(block, random.chance(50))?;
            own(block).for_each(|page| tags::write(page, seed, Store::Stgm));
            shares.claims.fetch_add(1, SeqCst);
            held[slot] = Some((block, seed));
            if tap::has_failed() {
                break;
            }
        }
        held.into_iter().flatten().try_for_each(finish)
    };

    let write = |number: usize| -> Outcome {
        let mut worker = Worker::new(number, 6, &buffers, &shares);
        let slots = [const { AtomicU32::new(0) }; 1];
        let keys = &keys[number * KEYS..][..KEYS];
        while working.load(SeqCst) != 0 && !tap::has_failed() {
            let object = keys[worker.random.below(KEYS as u64) as usize].load(SeqCst);
            slots[0].store(0, SeqCst);
            worker.put(place, object, &slots, 0, 1)?;
            // The same page again and again, since making one takes longer than putting it.
            let key = worker.key(place, object, 0);
            let mut kept = slots[0].load(SeqCst);
            for _ in 0..6 {
                let again = stash::put_as_is(worker.source.part(0, 1), key)?;
                kept = if again { worker.next - 1 } else { 0 };
            }
            slots[0].store(kept, SeqCst);
            worker.get(place, object, &slots, 0, 1)?;
        }
        Ok(())
    };

    smp::on_all(&|number| {
        if number < taggers {
            let result = tag(number);
            working.fetch_sub(1, SeqCst);
            result
        } else {
            write(number)
        }
    })?;
    check!(!tap::has_failed(), "a CPU failed");
    release_all()?;
    let after = abi::statistics();
    let count = |number: u64| after[number as usize] - before[number as usize];
    note!(
        "{} blocks taken, {} pages dropped, {} polls, longest wait {}",
        count(statistic::BLOCKS_TAKEN),
        count(statistic::PAGES_DROPPED),
        count(statistic::WAIT_POLLS),
        after[statistic::WORST_WAIT as usize]
    );
    check!(count(statistic::PAGES_DROPPED) >= 100, "claims and cached pages hardly met");
    shares.at_least(20)
}

fn same_claims() -> Outcome {
    smp::need(2)?;
    stash::active()?;
    let cpus = smp::cpus() as u64;
    let region = machine().regions.all()[0];
    let piece = longest(&region);
    let window = Range::of(piece.start + PAGE, 6 * region.pages_of_block() * PAGE);
    let before = abi::statistics();
    let (taken, given) = (AtomicU64::new(0), AtomicU64::new(0));
    smp::on_all(&|number| {
        let mut random = Random::new(0x600 + number as u64);
        for _ in 0..60_000 / cpus {
            let first = random.below(window.pages());
            let count = 1 + random.below(40.min(window.pages() - first));
            let address = window.start + first * PAGE;
            if random.chance(50) {
                let answer = abi::reclaim(address, count);
                check!(
                    answer == Answer::of(0, count, answer.x2.min(count), 0),
                    "RECLAIM of {count} pages: {answer:x?}"
                );
                taken.fetch_add(answer.x2, SeqCst);
            } else {
                let answer = abi::release(address, count);
                let wanted = if answer.x2 == count { 0 } else { status::NOT_CLAIMED };
                check!(
                    answer == Answer::of(wanted, count, answer.x2.min(count), 0),
                    "RELEASE of {count} pages: {answer:x?}"
                );
                given.fetch_add(answer.x2, SeqCst);
            }
        }
        Ok(())
    })?;
    // Every claim was given back once, or is there still.
    let mut held = 0;
    for page in 0..window.pages() {
        held += abi::query(window.start + page * PAGE).x1 >> 1 & 1;
    }
    let (taken, given) = (taken.load(SeqCst), given.load(SeqCst));
    note!("{taken} claims, {given} given back, {held} left");
    same!(given + held, taken, "claims given back and left");
    let rest = abi::release(window.start, window.pages());
    same!(rest.x2, held, "claims given back at the end");
    same!(stash::census()?.tags, 0, "frames in tags at the end");
    let after = abi::statistics();
    let count = |number: u64| after[number as usize] - before[number as usize];
    same!(count(statistic::CLAIMS), taken, "statistic CLAIMS");
    same!(count(statistic::RELEASES), taken, "statistic RELEASES");
    stash::fresh()
}

fn state_storm() -> Outcome {
    smp::need(2)?;
    const ROUNDS: u64 = 5;
    const STEPS_BETWEEN: u64 = 1500;
    stash::fresh()?;
    let each = machine().frames() / smp::cpus() as u64 / 4;
    let slots = Slots::new([each, each, 0, 0]);
    let buffers = all_buffers();
    let shares = Shares::default();
    let ids = [const { AtomicU64::new(u64::MAX) }; 2];
    let steps = [const { AtomicU64::new(0) }; MAX_CPUS];
    let over = AtomicBool::new(false);
    let piece = longest(&machine().regions.all()[0]);
    let conduct = || -> Outcome {
        for round in 0..ROUNDS {
            let pools = [Pool::private()?, Pool::shared_of(12, [4, round])?];
            for (id, pool) in ids.iter().zip(&pools) {
                id.store(pool.id, SeqCst);
            }
            let goal = steps.each_ref().map(|own| own.load(SeqCst) + STEPS_BETWEEN);
            smp::wait_for("the other CPUs to go on", || {
                tap::has_failed()
                    || (1..smp::cpus()).all(|cpu| steps[cpu].load(SeqCst) >= goal[cpu])
            });
            if tap::has_failed() {
                return Err(Stop::Failed);
            }
            stash::deactivate()?;
            for pool in &pools {
                let answer = abi::flush_pool(pool.id);
                same!(answer.status, status::NO_SUCH_POOL, "a pool after DEACTIVATE");
            }
            stash::activate(if round % 2 == 0 { abi::VERIFY } else { 0 })?;
        }
        Ok(())
    };
    let work = |number: usize| -> Outcome {
        let mut worker = Worker::new(number, 4, &buffers, &shares);
        let mut known = [u64::MAX; 2];
        while !over.load(SeqCst) && !tap::has_failed() {
            steps[number].fetch_add(1, SeqCst);
            if worker.random.chance(10) {
                let first = worker.random.below(piece.pages() - 40);
                let count = 1 + worker.random.below(40);
                let address = piece.start + first * PAGE;
                let answer = if worker.random.chance(50) {
                    abi::reclaim(address, count)
                } else {
                    abi::release(address, count)
                };
                check!(
                    answer.ok() || answer.status == status::NOT_CLAIMED,
                    "a claim or release of {count} pages: {answer:x?}"
                );
                continue;
            }
            let pool = worker.random.below(2) as usize;
            let id = ids[pool].load(SeqCst);
            if id == u64::MAX {
                continue;
            }
            let own = slots.of(number, pool);
            if known[pool] != id {
                // A new pool: nothing is in it.
                own.iter().for_each(|slot| slot.store(0, SeqCst));
                known[pool] = id;
            }
            let place = Where { id, parts: 1, shared: pool == 1 };
            worker.own_step(place, 1, own)?;
        }
        Ok(())
    };
    smp::on_all(&|number| {
        if number != 0 {
            return work(number);
        }
        let result = conduct();
        over.store(true, SeqCst);
        result
    })?;
    check!(!tap::has_failed(), "a CPU failed");
    stash::fresh()?;
    shares.at_least(40)
}

fn pool_storm() -> Outcome {
    smp::need(2)?;
    stash::active()?;
    let cpus = smp::cpus() as u64;
    let buffers = all_buffers();
    let shares = Shares::default();
    let busy = AtomicU64::new(0);
    let patiently = |call: &dyn Fn() -> Answer| -> Result<Answer, Stop> {
        for _ in 0..1_000_000 {
            let answer = call();
            if answer.status != status::BUSY {
                return Ok(answer);
            }
            check!(answer == Answer::only(status::BUSY), "BUSY with results: {answer:x?}");
            busy.fetch_add(1, SeqCst);
        }
        fail!("BUSY a million times")
    };
    let common = Pool::shared_of(14, [0xc0, 0x3303])?;
    smp::on_all(&|number| {
        let mut worker = Worker::new(number, 5, &buffers, &shares);
        let mut last = u64::MAX;
        let slot = [const { AtomicU32::new(0) }; 4];
        for round in 0..6_000 / cpus {
            let own = patiently(&|| abi::create_private(12))?;
            check!(own.ok() && own.x1 != last, "POOL_CREATE in round {round}: {own:x?}");
            last = own.x1;
            let place = Where { id: own.x1, parts: 1, shared: false };
            slot.iter().for_each(|slot| slot.store(0, SeqCst));
            for index in 0..4 {
                worker.get(place, 1, &slot, index, 1)?;
                worker.put(place, 1, &slot, index, 1)?;
            }
            worker.get(place, 1, &slot, 0, 4)?;
            let found = patiently(&|| abi::create_shared(14, [0xc0, 0x3303]))?;
            check!(found == Answer::of(0, common.id, 0, 0), "the common pool: {found:x?}");
            let gone = abi::destroy(own.x1);
            check!(gone == Answer::only(0), "POOL_DESTROY in round {round}: {gone:x?}");
            check!(!worker.put(place, 1, &slot, 0, 1)?, "PUT to a destroyed pool works");
            // All CPUs make one and the same pool, and all try to destroy it.
            let made = patiently(&|| abi::create_shared(12, [1, round]))?;
            check!(made.ok(), "POOL_CREATE of a UUID in round {round}: {made:x?}");
            let gone = abi::destroy(made.x1);
            check!(
                gone.ok() || gone.status == status::NO_SUCH_POOL,
                "POOL_DESTROY of a UUID's pool in round {round}: {gone:x?}"
            );
            if tap::has_failed() {
                break;
            }
        }
        Ok(())
    })?;
    check!(!tap::has_failed(), "a CPU failed");
    note!("BUSY {} times", busy.load(SeqCst));
    shares.at_least(80)
}
