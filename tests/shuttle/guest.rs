// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest: CPUs that make hundreds of calls each, at random, and check what comes back.

use crate::history::Call;
use crate::machine::{Machine, this_cpu};
use crate::record::{Record, Times};
use crate::sim::{Cpu, Layout, OK};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tagstash::addr::PAGE_SIZE;
use tagstash::hypercall::abi::{Function, Status};
use tagstash::hypercall::service::Service;
use tagstash::sync::switch_point;

const NOT_CACHED: i64 = Status::NotCached as i64;
const MISS: i64 = Status::Miss as i64;
const NOT_CLAIMED: i64 = Status::NotClaimed as i64;
const NO_SUCH_POOL: i64 = Status::NoSuchPool as i64;
const BUSY: i64 = Status::Busy as i64;

/// Bytes at the end of RAM, without tags, that each CPU copies from and to.
const BUFFER: u64 = 4 << 16;
/// Claimed pages of which each has an owner lie in runs of 1 and of 21: runs of one owner and of
/// several, within blocks and across them.
const SPANS: [u64; 2] = [1, 21];
/// Pages in a run of claims that nobody owns, at most.
const WILD_RUN: u64 = 70;

/// What a guest can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Put,
    Get,
    FlushPage,
    FlushObject,
    FlushPool,
    /// Destroys a pool and makes another in its place.
    Remake,
    /// Claims a page or a run of its own and uses the tags.
    Claim,
    Release,
    /// Claims or releases a run of pages that every CPU claims and releases.
    Wild,
    CheckTags,
    /// Deactivates and activates: one CPU alone does it.
    Cycle,
    /// One CPU deactivates a block, another activates all of them, the others put.
    Race,
}

/// A pool that a plan has, whichever its id is at the moment.
#[derive(Clone, Copy, Debug)]
pub struct PoolPlan {
    /// Log2 of the page size.
    pub shift: u64,
    pub shared: bool,
}

/// What the guests of an execution do.
#[derive(Clone, Debug)]
pub struct Plan {
    pub layout: Layout,
    pub cpus: usize,
    /// Calls of each CPU.
    pub calls: usize,
    pub pools: Vec<PoolPlan>,
    pub objects: u64,
    pub indexes: u64,
    /// The share of tagged memory whose pages are claimed, in percent.
    pub claimed: u64,
    pub verify: bool,
    pub actions: Vec<(Action, u32)>,
}

impl Plan {
    /// RAM for the plan's CPUs behind `layout`: pages without tags.
    pub fn with_buffers(layout: Layout, cpus: usize) -> Layout {
        let end = (layout.base + layout.length).next_multiple_of(1 << 16);
        let length = end + (cpus as u64 + 1) * BUFFER - layout.base;
        Layout { length, ..layout }
    }

    /// Storage is taken back under way, which voids claims.
    fn cycles(&self) -> bool {
        self.actions.iter().any(|&(action, _)| matches!(action, Action::Cycle | Action::Race))
    }

    /// Storage is taken back at any time, so that no claim can be relied on.
    fn races(&self) -> bool {
        self.actions.iter().any(|&(action, _)| action == Action::Race)
    }
}

/// What was done, and what came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub executions: u64,
    pub switches: u64,
    pub calls: u64,
    pub puts: u64,
    pub kept: u64,
    pub gets: u64,
    pub hits: u64,
    pub claims: u64,
    /// Looks of claims that found a writer.
    pub waits: u64,
    pub tag_checks: u64,
    pub remade: u64,
    pub cycles: u64,
    pub without_pool: u64,
}

impl Tally {
    /// Adds another's counts.
    pub fn add(&mut self, other: &Tally) {
        self.executions += other.executions;
        self.switches += other.switches;
        self.calls += other.calls;
        self.puts += other.puts;
        self.kept += other.kept;
        self.gets += other.gets;
        self.hits += other.hits;
        self.claims += other.claims;
        self.waits += other.waits;
        self.tag_checks += other.tag_checks;
        self.remade += other.remade;
        self.cycles += other.cycles;
        self.without_pool += other.without_pool;
    }
}

/// What all CPUs of an execution share.
pub struct World<'s, 'a> {
    pub plan: &'s Plan,
    pub service: &'s Service<'a, Machine>,
    pub record: Mutex<Record>,
    pub tally: Mutex<Tally>,
    /// Ids of the plan's pools.
    ids: Vec<AtomicU64>,
    /// Odd from the begin of a deactivation to the end of the activation behind it. Where the two
    /// race, it is odd throughout.
    generation: AtomicU64,
    /// Claims of pages that nobody owns, less releases.
    wild: AtomicU64,
    tagged: Vec<u64>,
}

impl<'s, 'a> World<'s, 'a> {
    /// Makes the world, and the pools.
    pub fn new(plan: &'s Plan, service: &'s Service<'a, Machine>) -> World<'s, 'a> {
        let layout = &plan.layout;
        let has_tags = |&page: &u64| layout.tag_place(page).is_some();
        let world = World {
            plan,
            service,
            record: Mutex::default(),
            tally: Mutex::default(),
            ids: plan.pools.iter().map(|_| AtomicU64::new(0)).collect(),
            generation: AtomicU64::new(plan.races().into()),
            wild: AtomicU64::new(0),
            tagged: layout.guest_pages().into_iter().filter(has_tags).collect(),
        };
        let mut guest = Guest::new(&world, 0);
        guest.cpu.activate(u64::from(plan.verify));
        (0..plan.pools.len()).for_each(|slot| guest.make_pool(slot));
        guest.end();
        world
    }

    /// The pages that are claimed now and then: the first share, in order of their addresses.
    /// Half of them have owners, and are split once by 1 and once by 21.
    fn claimed(&self) -> &[u64] {
        let count = self.tagged.len() as u64 * self.plan.claimed / 100;
        &self.tagged[..count as usize]
    }

    /// Who owns page number `n` of those that are claimed now and then; 0: nobody does.
    fn owner(&self, n: u64) -> usize {
        let quarter = self.claimed().len() as u64 / 4;
        match n / quarter.max(1) {
            part @ (0 | 1) => 1 + (n / SPANS[part as usize]) as usize % self.plan.cpus,
            _ => 0,
        }
    }

    /// What must be true when all is quiet.
    pub fn end(self) -> (Record, Tally) {
        let mut guest = Guest::new(&self, 0);
        guest.settle();
        guest.end();
        let mut tally = self.tally.into_inner().expect("no thread panicked");
        tally.executions = 1;
        tally.switches = shuttle::current::context_switches() as u64;
        (self.record.into_inner().expect("no thread panicked"), tally)
    }
}

/// A page whose tags are in use, and what they are.
#[derive(Clone, Copy)]
struct Tagged {
    seed: u64,
    generation: u64,
}

/// One CPU.
pub struct Guest<'w, 's, 'a> {
    world: &'w World<'s, 'a>,
    cpu: Cpu<'s, 'a, Machine>,
    random: u64,
    /// Pages of its own whose tags it uses.
    tagged: BTreeMap<u64, Tagged>,
    tally: Tally,
}

impl<'w, 's, 'a> Guest<'w, 's, 'a> {
    /// Makes the CPU that runs in this task.
    pub fn new(world: &'w World<'s, 'a>, seed: u64) -> Self {
        let number = this_cpu();
        Guest {
            world,
            cpu: Cpu::new(world.service, number),
            random: seed.wrapping_add(number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            tagged: BTreeMap::new(),
            tally: Tally::default(),
        }
    }

    /// Makes all its calls.
    pub fn run(mut self) {
        let actions = &self.world.plan.actions;
        let total = actions.iter().map(|&(_, weight)| weight).sum::<u32>();
        for _ in 0..self.world.plan.calls {
            let mut left = self.below(total.into()) as u32;
            let chosen = actions.iter().find(|&&(_, weight)| {
                let found = left < weight;
                left = left.wrapping_sub(weight);
                found
            });
            let interrupted = self.below(4) == 0;
            self.cpu.interrupted.store(interrupted, Relaxed);
            self.tally.calls += 1;
            match chosen.expect("the weights add up").0 {
                Action::Put => self.put(),
                Action::Get => self.get(),
                Action::FlushPage => self.flush_page(),
                Action::FlushObject => self.flush_object(),
                Action::FlushPool => self.flush_pool(),
                Action::Remake => self.remake(),
                Action::Claim => self.claim(),
                Action::Release => self.release(),
                Action::Wild => self.wild(),
                Action::CheckTags => self.check_some(),
                Action::Cycle if self.cpu.number == 1 => self.cycle(),
                Action::Cycle => {}
                Action::Race => match self.cpu.number {
                    1 => self.take_back(),
                    2 => self.lend_all(),
                    _ => self.put(),
                },
            }
        }
        let pages: Vec<u64> = self.tagged.keys().copied().collect();
        pages.into_iter().for_each(|page| self.check_tags(page));
        self.end();
    }

    fn end(self) {
        self.world.tally.lock().expect("no thread panicked").add(&self.tally);
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % limit
    }

    fn machine(&self) -> &'s Machine {
        self.world.service.platform()
    }

    fn record(&self, add: impl FnOnce(&mut Record)) {
        add(&mut self.world.record.lock().expect("no thread panicked"));
    }

    /// Makes a call; returns what it answered, and when it began and ended.
    fn call(&self, function: Function, arguments: &[u64]) -> (i64, [u64; 3], Times) {
        let begin = self.machine().tick();
        let (status, values) = self.cpu.call(function, arguments);
        (status, values, (begin, self.machine().tick()))
    }

    /// A pool of the plan: its number there, its id, and what it is like.
    fn pool(&mut self) -> (usize, u64, PoolPlan) {
        let slot = self.below(self.world.ids.len() as u64) as usize;
        (slot, self.world.ids[slot].load(Relaxed), self.world.plan.pools[slot])
    }

    fn buffer(&self) -> u64 {
        let layout = &self.world.plan.layout;
        layout.base + layout.length - (self.cpu.number as u64 + 1) * BUFFER
    }

    /// A run of a random pool: its id, size of a page, object, index, and pages.
    fn page_run(&mut self) -> (u64, PoolPlan, u64, u64, u64) {
        let (_, id, plan) = self.pool();
        let object = self.below(self.world.plan.objects);
        let index = self.below(self.world.plan.indexes);
        let most = (self.world.plan.indexes - index).min(BUFFER >> plan.shift).min(3);
        let pages = if self.below(3) == 0 { 1 + self.below(most) } else { 1 };
        (id, plan, object, index, pages)
    }

    /// Says whether there was such a pool.
    fn found(&mut self, pool: u64, status: i64, times: Times) -> bool {
        let existed = status != NO_SUCH_POOL;
        self.record(|record| record.used(pool, times, existed));
        self.tally.without_pool += u64::from(!existed);
        existed
    }

    /// How many pages of a run were dealt with, as its caller must expect.
    fn check_done(&self, pages: u64, done: u64) {
        let interrupted = self.cpu.interrupted.load(Relaxed);
        assert_eq!(done, if interrupted { 1 } else { pages }, "of {pages} pages");
    }

    fn put(&mut self) {
        let (id, plan, object, index, pages) = self.page_run();
        let buffer = self.buffer();
        let machine = self.machine();
        let stamps: Vec<u64> = (0..pages).map(|_| machine.tick()).collect();
        for (n, &stamp) in (0..).zip(&stamps) {
            for offset in (0..1 << plan.shift).step_by(8) {
                machine.dram.store(buffer + (n << plan.shift) + offset, content(stamp, offset));
            }
        }
        let arguments = [id, object, 0, !object, index, buffer, pages];
        let (status, [done, bits, _], times) = self.call(Function::Put, &arguments);
        if !self.found(id, status, times) {
            return;
        }
        self.check_done(pages, done);
        let all = bits == (1 << done) - 1;
        assert_eq!(status, if all { OK } else { NOT_CACHED }, "{done} pages, {bits:#b}");
        for n in 0..done {
            let kept = bits >> n & 1 == 1;
            self.tally.puts += 1;
            self.tally.kept += u64::from(kept);
            let call = if kept { Call::Kept(stamps[n as usize]) } else { Call::Refused };
            self.record(|record| record.call((id, object, index + n), times, call));
        }
    }

    fn get(&mut self) {
        let (id, plan, object, index, pages) = self.page_run();
        let buffer = self.buffer();
        let arguments = [id, object, 0, !object, index, buffer, pages];
        let (status, [done, bits, _], times) = self.call(Function::Get, &arguments);
        if !self.found(id, status, times) {
            return;
        }
        self.check_done(pages, done);
        let all = bits == (1 << done) - 1;
        assert_eq!(status, if all { OK } else { MISS }, "{done} pages, {bits:#b}");
        for n in 0..done {
            self.tally.gets += 1;
            let call = if bits >> n & 1 == 1 {
                self.tally.hits += 1;
                let value = self.whole_page(buffer + (n << plan.shift), 1 << plan.shift);
                Call::Hit { value, shared: plan.shared }
            } else {
                Call::Miss
            };
            self.record(|record| record.call((id, object, index + n), times, call));
        }
    }

    /// The stamp of the page at `address`, all of it.
    fn whole_page(&self, address: u64, length: u64) -> u64 {
        let dram = &self.machine().dram;
        let stamp = dram.load(address) >> STAMP_SHIFT;
        for offset in (0..length).step_by(8) {
            let (is, of) = (dram.load(address + offset), content(stamp, offset));
            assert_eq!(is, of, "not a page in one piece: offset {offset:#x}, stamp {stamp}");
        }
        stamp
    }

    fn flush_page(&mut self) {
        let (id, plan, object, index, pages) = self.page_run();
        let arguments = [id, object, 0, !object, index, 0, pages];
        let (status, [done, ..], times) = self.call(Function::FlushPage, &arguments);
        if !self.found(id, status, times) {
            return;
        }
        let step = (16 << 12 >> plan.shift).min(pages);
        let interrupted = self.cpu.interrupted.load(Relaxed);
        assert_eq!((status, done), (OK, if interrupted { step } else { pages }));
        for n in 0..done {
            self.record(|record| record.call((id, object, index + n), times, Call::Flush));
        }
    }

    fn flush_object(&mut self) {
        let (_, id, _) = self.pool();
        let object = self.below(self.world.plan.objects);
        let (status, _, times) = self.call(Function::FlushObject, &[id, object, 0, !object]);
        if self.found(id, status, times) {
            assert_eq!(status, OK);
            self.record(|record| record.flush(id, Some(object), times));
        }
    }

    fn flush_pool(&mut self) {
        let (_, id, _) = self.pool();
        let (status, _, times) = self.call(Function::FlushPool, &[id]);
        if self.found(id, status, times) {
            assert_eq!(status, OK);
            self.record(|record| record.flush(id, None, times));
        }
    }

    fn remake(&mut self) {
        let (slot, id, _) = self.pool();
        let (status, _, times) = self.call(Function::PoolDestroy, &[id]);
        assert!([OK, NO_SUCH_POOL].contains(&status), "{status}");
        self.record(|record| record.destroyed(id, times, status == OK));
        self.make_pool(slot);
        self.tally.remade += 1;
    }

    fn make_pool(&mut self, slot: usize) {
        let plan = self.world.plan.pools[slot];
        let flags = plan.shift | u64::from(plan.shared) << 8;
        let (status, [id, ..], times) = self.call(Function::PoolCreate, &[flags, slot as u64, !0]);
        if status != BUSY {
            assert_eq!(status, OK);
            self.record(|record| record.made(id, plan.shared, times));
            self.world.ids[slot].store(id, Relaxed);
        }
    }

    /// A run of pages that this CPU owns, `None` if it came across another's.
    fn own_run(&mut self) -> Option<Vec<u64>> {
        let world = self.world;
        let pages = world.claimed();
        let n = self.below(pages.len() as u64 / 2);
        let most = 1 + self.below(21);
        let own = |n: &u64| *n < pages.len() as u64 && world.owner(*n) == self.cpu.number;
        let run: Vec<u64> = (n..n + most).take_while(own).map(|n| pages[n as usize]).collect();
        let ends = run.windows(2).position(|pair| pair[1] != pair[0] + PAGE_SIZE);
        let run = run[..ends.map_or(run.len(), |end| end + 1)].to_vec();
        (!run.is_empty()).then_some(run)
    }

    fn claim(&mut self) {
        let Some(run) = self.own_run() else {
            return;
        };
        self.forget_void();
        let machine = self.machine();
        let before = self.world.generation.load(Relaxed);
        let piece = |page: u64| {
            machine
                .dram
                .layout
                .pieces
                .iter()
                .position(|p| (p.tagged..p.tagged + p.tagged_length()).contains(&page))
        };
        let batch: Vec<u64> =
            run.iter().copied().filter(|&page| piece(page) == piece(run[0])).collect();
        machine.begin_claim(batch.into_iter());
        let count = run.len() as u64;
        let (status, [done, new, _], _) = self.call(Function::Reclaim, &[run[0], count]);
        assert_eq!(status, OK, "a claim of {run:x?} failed");
        let run = &run[..done as usize];
        let held = run.iter().filter(|page| self.tagged.contains_key(page)).count() as u64;
        self.tally.claims += new;
        let after = self.world.generation.load(Relaxed);
        if !self.world.plan.cycles() {
            assert_eq!((done, new), (count, count - held), "{run:x?}, {held} of them held");
        } else if before != after || before % 2 == 1 {
            // A deactivation was under way: nothing is known.
            return;
        }
        // All of the run at one instant: from now on the tags are the guest's.
        let fresh: Vec<u64> =
            run.iter().copied().filter(|page| !self.tagged.contains_key(page)).collect();
        for &page in &fresh {
            machine.hold(page);
            let seed = machine.tick();
            self.tagged.insert(page, Tagged { seed, generation: after });
            self.store_tags(page, seed);
        }
        for page in fresh.into_iter().take(2) {
            switch_point();
            if self.is_held(page) {
                self.check_tags(page);
            }
        }
    }

    /// Stores all tags of a page, by the words of its storage: 128 bytes.
    fn store_tags(&self, page: u64, seed: u64) {
        let dram = &self.machine().dram;
        let (storage, _) = dram.layout.tag_place(page).expect("a page with tags");
        for offset in (0..PAGE_SIZE / 32).step_by(8) {
            dram.store(storage + offset, tags(seed, offset));
        }
    }

    /// Says whether the tags of a page can be relied on: no deactivation has begun since.
    fn is_held(&self, page: u64) -> bool {
        let generation = self.world.generation.load(Relaxed);
        self.tagged.get(&page).is_some_and(|tagged| tagged.generation == generation)
    }

    fn forget_void(&mut self) {
        let generation = self.world.generation.load(Relaxed);
        self.tagged.retain(|_, tagged| tagged.generation == generation);
    }

    fn check_tags(&mut self, page: u64) {
        if !self.is_held(page) {
            return;
        }
        let dram = &self.machine().dram;
        let (storage, _) = dram.layout.tag_place(page).expect("a page with tags");
        let seed = self.tagged[&page].seed;
        for offset in (0..PAGE_SIZE / 32).step_by(8) {
            let (is, of) = (dram.load(storage + offset), tags(seed, offset));
            assert_eq!(is, of, "tags of page {page:#x} changed, from granule {}", offset * 2);
        }
        self.tally.tag_checks += 1;
    }

    fn check_some(&mut self) {
        let pages: Vec<u64> = self.tagged.keys().copied().collect();
        pages.into_iter().for_each(|page| self.check_tags(page));
    }

    fn release(&mut self) {
        let Some(run) = self.own_run() else {
            return;
        };
        self.forget_void();
        let known: Vec<u64> =
            run.iter().copied().filter(|page| self.tagged.contains_key(page)).collect();
        for &page in &known {
            self.check_tags(page);
            self.tagged.remove(&page);
            self.machine().let_go(page);
        }
        let count = run.len() as u64;
        let (status, [done, released, _], _) = self.call(Function::Release, &[run[0], count]);
        if !self.world.plan.cycles() {
            assert_eq!((done, released), (count, known.len() as u64), "{run:x?}");
        }
        assert_eq!(status, if released == done { OK } else { NOT_CLAIMED });
    }

    /// Runs of pages that nobody owns: replies cannot be told beforehand, but they add up.
    fn wild(&mut self) {
        let world = self.world;
        let pages = &world.claimed()[world.claimed().len() / 2..];
        // Whole pages of guest RAM at both ends, and whatever lies between.
        // Often one page of very few, so that several CPUs claim the same one at a time.
        let (few, run) = if self.below(2) == 0 { (2, 1) } else { (pages.len() as u64, WILD_RUN) };
        let first = self.below(few.min(pages.len() as u64));
        let last = (first + self.below(run)).min(pages.len() as u64 - 1);
        let (first, last) = (pages[first as usize], pages[last as usize]);
        let count = (last - first) / PAGE_SIZE + 1;
        let claims = self.below(2) == 0;
        let function = if claims { Function::Reclaim } else { Function::Release };
        // It may come to several batches: how long it waits is not looked at.
        self.machine().begin_claim(std::iter::empty());
        let (status, [done, changed, _], _) = self.call(function, &[first, count]);
        assert!(1 <= done && done <= count && changed <= done, "{done}, {changed} of {count}");
        if claims {
            assert_eq!(status, OK);
            world.wild.fetch_add(changed, Relaxed);
            self.tally.claims += changed;
        } else {
            assert!([OK, NOT_CLAIMED].contains(&status), "{status}");
            world.wild.fetch_sub(changed, Relaxed);
        }
    }

    fn cycle(&mut self) {
        self.world.generation.fetch_add(1, Relaxed);
        self.machine().let_all_go();
        self.cpu.interrupted.store(false, Relaxed);
        self.each_block(Function::Deactivate, |cursor| vec![cursor]);
        let verify = self.below(2);
        self.each_block(Function::Activate, |cursor| vec![verify, cursor]);
        (0..self.world.ids.len()).for_each(|slot| self.make_pool(slot));
        self.world.generation.fetch_add(1, Relaxed);
        self.tally.cycles += 1;
    }

    /// Takes one block back, whoever lends it meanwhile. It waits for one chunk of each put at most,
    /// as a claim does.
    fn take_back(&mut self) {
        let piece = self.world.plan.layout.pieces[0];
        let block = self.below(piece.storage_length / piece.block_size);
        let (blocks_data, size) = (piece.tagged, piece.block_size * 32);
        self.machine().begin_claim(std::iter::once(blocks_data + block * size));
        self.cpu.interrupted.store(true, Relaxed);
        let (status, [next, ..], times) = self.call(Function::Deactivate, &[block]);
        assert_eq!((status, next), (OK, block + 1));
        self.record(|record| record.deactivated(times));
        (0..self.world.ids.len()).for_each(|slot| self.make_pool(slot));
        self.tally.cycles += 1;
    }

    fn lend_all(&mut self) {
        self.cpu.interrupted.store(false, Relaxed);
        let (status, [next, end, _], _) = self.call(Function::Activate, &[0, 0]);
        assert_eq!((status, next), (OK, end));
    }

    /// Makes the calls of an activation or a deactivation.
    fn each_block(&mut self, function: Function, arguments: impl Fn(u64) -> Vec<u64>) {
        let mut cursor = 0;
        loop {
            let interrupted = self.below(2) == 0;
            self.cpu.interrupted.store(interrupted, Relaxed);
            let (status, [next, end, _], times) = self.call(function, &arguments(cursor));
            assert!(status == OK && (next > cursor || next == end), "{status} {cursor} {next}");
            if function == Function::Deactivate {
                self.record(|record| record.deactivated(times));
            }
            if next == end {
                return;
            }
            cursor = next;
        }
    }

    /// All is quiet: the ledger balances, all frames come back, and the stash works.
    fn settle(&mut self) {
        let world = self.world;
        let frames = world.plan.layout.pieces.iter().map(|p| p.storage_length / PAGE_SIZE).sum();
        self.cpu.interrupted.store(false, Relaxed);
        if world.plan.cycles() {
            self.cycle();
            self.cpu.interrupted.store(false, Relaxed);
        } else {
            self.check_ledger();
        }
        let all = |guest: &Self, function| {
            let pages = &world.tagged;
            let count = (pages[pages.len() - 1] - pages[0]) / PAGE_SIZE + 1;
            guest.call(function, &[pages[0], count])
        };
        self.machine().begin_claim(std::iter::empty());
        assert_eq!(all(self, Function::Reclaim).0, OK);
        assert_eq!(self.cpu.census(), [frames, 0, 0, 0], "not all frames are in tags");
        let (status, [_, released, _], _) = all(self, Function::Release);
        assert_eq!((status, released), (OK, world.tagged.len() as u64));
        self.machine().let_all_go();
        assert_eq!(self.cpu.census(), [0, 0, frames, 0], "not all frames came back");
        assert_eq!(self.cpu.statistic(9), self.cpu.statistic(11), "claims and releases");
        assert_eq!(self.cpu.statistic(5), 0, "pages that failed verification");
        self.tally.waits += self.cpu.statistic(15);
        // P10: nothing is refused any more, and what is put is found.
        let (buffer, size) = (self.buffer(), PAGE_SIZE);
        let id = self.cpu.create_pool(12);
        for index in 0..2 * frames {
            let stamp = self.machine().tick();
            for offset in (0..size).step_by(8) {
                self.machine().dram.store(buffer + offset, content(stamp, offset));
            }
            let key = ([9, 9, 9], index);
            assert_eq!(self.cpu.put(id, key, buffer), OK, "a put of {frames} quiet frames");
            assert_eq!(self.cpu.get(id, key, buffer), OK, "a get behind its put");
            assert_eq!(self.whole_page(buffer, size), stamp);
        }
    }

    /// Every page is claimed or not as its owner knows, and each block counts its pages.
    fn check_ledger(&self) {
        let world = self.world;
        let mut blocks: BTreeMap<(usize, u64), (u64, u64)> = BTreeMap::new();
        let mut wild = 0;
        for (n, &page) in (0..).zip(&world.tagged) {
            let (status, [flags, claims, _], _) = self.call(Function::Query, &[page]);
            assert_eq!((status, flags & 0b101), (OK, 0b101));
            let claimed = flags >> 1 & 1;
            if n >= world.claimed().len() as u64 {
                assert_eq!(claimed, 0, "page {page:#x} was never named");
            } else if world.owner(n) == 0 {
                wild += claimed;
            } else {
                assert_eq!(claimed == 1, self.machine().is_held(page), "page {page:#x}");
            }
            let pieces = &world.plan.layout.pieces;
            let region = pieces
                .iter()
                .position(|p| (p.tagged..p.tagged + p.tagged_length()).contains(&page));
            let region = region.expect("a page with tags");
            let piece = &pieces[region];
            let block = (page - piece.tagged) / 32 / piece.block_size;
            let counted = blocks.entry((region, block)).or_default();
            *counted = (counted.0 + claimed, claims);
        }
        for (block, (claimed, claims)) in blocks {
            assert_eq!(claims, claimed, "block {block:?} counts {claims}");
        }
        assert_eq!(wild, world.wild.load(Relaxed), "pages claimed, less pages released");
    }
}

const STAMP_SHIFT: u32 = 14;

/// The word at `offset` of a page of this stamp: whose it is, and where.
fn content(stamp: u64, offset: u64) -> u64 {
    stamp << STAMP_SHIFT | offset / 8
}

/// Sixteen tags of a page, from byte `offset` of its 128 bytes of storage on.
fn tags(seed: u64, offset: u64) -> u64 {
    !(seed << 32 | offset << 8) ^ 0x5a5a
}
