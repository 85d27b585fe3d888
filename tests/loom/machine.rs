// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine for the model checker: a stash and a ledger over one to four frames, memory of two
//! words for each 4 KiB, and ghosts that watch what no CPU can see.
//!
//! A frame's two halves are atomics of the checker, so that a copy may be torn or stale. The
//! rest is ordinary state, looked at in the order in which the checker lets the threads run:
//! who holds a page for tags, which cache lines are dirty, how long a claim waits.

use crate::history::{Call, Event, KEYS, MAIN, is_linearizable};
use crate::tally::{Seen, saw};
use loom::sync::atomic::AtomicU64 as Word;
use std::sync::atomic::{AtomicU64 as Plain, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};
use tagstash::addr::{PAGE_SIZE, PhysAddr, PhysRange};
use tagstash::platform::{CHUNK, CacheMaintenance, Caller, CopyFault, PageMemory};
use tagstash::ram::GuestRam;
use tagstash::stash::frame::Fingerprint;
use tagstash::stash::key::{Object, PartKey};
use tagstash::stash::metadata::{Metadata, MetadataBuffer};
use tagstash::stash::pool::{PageSize, Pool, PoolError, PoolId, Uuid};
use tagstash::stash::stats::Stats;
use tagstash::stash::{Get, Put, Stash};
use tagstash::sync::{Ordering, fence, set_sequential, switch_point};
use tagstash::tags::geometry::{Region, Regions};
use tagstash::tags::ledger::{Ledger, Progress};

/// CPUs that make calls, the first of them before and after the others.
pub const CPUS: usize = 4;
/// Pages whose tags one frame stores.
const PAGES: u64 = 32;
/// Pages whose tags one half of a frame stores.
const PAGES_PER_HALF: u64 = PAGES / 2;
/// First address of the tagged memory.
const TAGGED: u64 = 0x4000_0000;
/// First address of its storage.
const STORAGE: u64 = 0x8000_0000;
/// First of the guest pages that calls copy from and to, one for each CPU. It has no tags.
const GUEST: u64 = 0x1000_0000;
/// What a tag store leaves in a frame: no put's value.
const TAGS: u64 = 0x7a65;

/// Most frames.
const FRAMES: usize = 4;
/// Most parts of a page, of two halves each.
const PARTS: u64 = 4;

/// A set of pages with tags, one bit for each.
pub type Pages = u128;

/// The pool that keys are in where pools neither come nor go.
const POOL: PoolId = PoolId(1);
/// Where they do: the first pool that is made, and the one that is made in its place.
pub const FIRST_POOL: PoolId = PoolId(2);
pub const NEXT_POOL: PoolId = PoolId(4);
/// Name of the shared pools.
const NAME: Uuid = [3, 4];

/// The keys: two pages of one object whose fingerprints are equal, two pages of another object,
/// and the first once more, in the pool that is made in place of the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    A = 0,
    Twin = 1,
    B = 2,
    C = 3,
    Reborn = 4,
}

impl Key {
    const ALL: [Key; KEYS] = [Key::A, Key::Twin, Key::B, Key::C, Key::Reborn];

    fn pool(self, shape: &Shape) -> PoolId {
        match self {
            _ if !shape.pools => POOL,
            Key::Reborn => NEXT_POOL,
            _ => FIRST_POOL,
        }
    }

    fn object(self, shape: &Shape) -> Object {
        let words = if matches!(self, Key::B | Key::C) { [9, 9, 9] } else { [1, 2, 3] };
        Object { pool: self.pool(shape), words }
    }

    /// The first index whose page can lie in the machine whole (where it has several parts, two of
    /// them in each of two sets), and which is not the other page's.
    fn index(self, shape: &Shape) -> u64 {
        static INDEXES: [OnceLock<[u64; KEYS]>; 3] = [const { OnceLock::new() }; 3];
        let variant = if shape.large { 2 } else { usize::from(shape.pools) };
        INDEXES[variant].get_or_init(|| Key::ALL.map(|key| key.search(shape)))[self as usize]
    }

    fn search(self, shape: &Shape) -> u64 {
        let object = self.object(shape);
        let hash = |index, part| PartKey { object, index, part }.hash(object.hash());
        let in_upper_set = |index, part: &u32| hash(index, *part) >> 63 != 0;
        let fits = |index: &u64| {
            let upper = (0..PARTS as u32).filter(|part| in_upper_set(*index, part)).count();
            // The last part takes the first frame, which the matrix has claimed.
            let is_last_lower = !in_upper_set(*index, &(PARTS as u32 - 1));
            !shape.large || upper as u64 == PARTS / 2 && is_last_lower
        };
        let mut fitting = (0..).filter(fits);
        let first = fitting.next().expect("there are many indexes");
        match self {
            Key::A | Key::B | Key::Reborn => first,
            Key::C => fitting.next().expect("there are many indexes"),
            Key::Twin => {
                let fingerprint = |index| Fingerprint::of(hash(index, 0));
                let twin = fitting.find(|&index| fingerprint(index) == fingerprint(first));
                twin.expect("there are few fingerprints")
            }
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// One call. Pages are numbered from the start of the tagged memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Put(Key, u64),
    /// From a private pool: a hit removes the page.
    Get(Key),
    /// From a shared pool: a hit leaves it.
    Peek(Key),
    FlushPage(Key),
    FlushObject(Key),
    FlushPool,
    Claim(u64),
    /// First page and number of pages.
    ClaimRange(u64, u64),
    Release(u64),
    ReleaseRange(u64, u64),
    Query(u64),
    Activate(u32),
    Deactivate(u32),
    /// The guest stores tags of a page that it has not claimed: its right in dormant storage.
    StoreTags(u64),
    /// Makes a private pool, of this id if it is to be known.
    MakePool(Option<PoolId>),
    /// Makes or finds the shared pool.
    JoinPool,
    DestroyPool(PoolId),
    /// What the DEACTIVATE call does first.
    DestroyPools,
}

impl Op {
    /// The pages that it claims.
    pub fn claims(self) -> Pages {
        match self {
            Op::Claim(page) => pages(page, 1),
            Op::ClaimRange(page, count) => pages(page, count),
            _ => 0,
        }
    }

    /// The pages whose claims it may end.
    pub fn releases(self, block_frames: u64) -> Pages {
        match self {
            Op::Release(page) => pages(page, 1),
            Op::ReleaseRange(page, count) => pages(page, count),
            Op::Deactivate(block) => {
                pages(u64::from(block) * block_frames * PAGES, block_frames * PAGES)
            }
            _ => 0,
        }
    }
}

/// `count` pages from `first` on.
fn pages(first: u64, count: u64) -> Pages {
    (Pages::MAX >> (Pages::BITS as u64 - count)) << first
}

fn page_range(first: u64, count: u64) -> PhysRange {
    range(TAGGED + first * PAGE_SIZE, count * PAGE_SIZE)
}

fn range(start: u64, length: u64) -> PhysRange {
    PhysRange::new(PhysAddr(start), length).expect("a test range does not wrap")
}

/// How much a claimer may rely on its claim, given what the other threads do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Nobody else ends it.
    Always,
    /// One other call may have ended an older claim: what is newly claimed now stays.
    IfNew,
    /// It may be gone already.
    Never,
}

/// What a machine is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub frames: u64,
    pub block_frames: u64,
    /// Pages of 16 KiB, in four parts.
    pub large: bool,
    /// Pools are made and destroyed, and calls look theirs up.
    pub pools: bool,
    /// Sequentially consistent: loads see the newest value only.
    pub sequential: bool,
    /// Puts keep CRCs.
    pub verify: bool,
    /// A put under way sees at once that a claim waits for it, as on hardware, where a store
    /// becomes visible in finite time. Without, a put may look away for ever.
    pub prompt: bool,
    /// Calls of different CPUs are ordered by their callers, where one ends before the other
    /// begins.
    pub ordered: bool,
    /// For tests of the tests: maintenance that drops dirty lines, of data or of tags.
    pub drops_data: bool,
    pub drops_tags: bool,
}

/// What the caches and the memory hold of half a frame.
#[derive(Clone, Copy, Debug, Default)]
struct Half {
    /// What a cleaned line left in memory.
    memory: u64,
    /// What a put stored, while its line is dirty.
    dirty: Option<u64>,
}

/// What the caches and the memory hold of one page's tags.
#[derive(Clone, Copy, Debug, Default)]
struct PageTags {
    memory: u64,
    dirty: Option<u64>,
}

#[derive(Debug)]
struct Ghost {
    halves: [[Half; 2]; FRAMES],
    tags: [PageTags; FRAMES * PAGES as usize],
    /// Pages that somebody holds for tags: a claim has returned and no release was called.
    held: Pages,
    /// Blocks that nobody may use but for tags.
    dormant: [bool; FRAMES],
    /// The frames that a CPU's claim or deactivation is about, one bit for each.
    targets: [u32; CPUS],
    /// The same, once the CPU had to wait for a writer, until it waits no more.
    waits: [Option<u32>; CPUS],
    /// Chunks that a CPU (second) stored while another (first) waited.
    chunks: [[u32; CPUS]; CPUS],
    /// Puts under way, and who waits for the end of one.
    putting: usize,
    waiters: Vec<loom::thread::Thread>,
    ticks: u32,
    events: Vec<Event>,
    /// What makers of the shared pool were told, and which pools were destroyed.
    joined: Vec<PoolId>,
    destroyed: Vec<PoolId>,
}

/// The machine.
pub struct Machine {
    pub shape: Shape,
    // Before `buffer`, so that they go before what they borrow.
    stash: Stash<'static>,
    ledger: Ledger<'static>,
    metadata: Metadata<'static>,
    buffer: *mut MetadataBuffer,
    ram: GuestRam,
    stats: Stats,
    frames: Vec<[Word; 2]>,
    /// The same, out of the checker's sight.
    newest: [[Plain; 2]; FRAMES],
    guest: [[Plain; 2 * PARTS as usize]; CPUS],
    /// Orders a waiting claim before the chunks that follow.
    prompt: Word,
    /// Orders calls.
    order: Word,
    ghost: Mutex<Ghost>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        // SAFETY: it came from a box in `new`, and what borrows it has no destructor that
        // looks at it.
        drop(unsafe { Box::from_raw(self.buffer) });
    }
}

impl Machine {
    pub fn new(shape: Shape) -> Machine {
        set_sequential(shape.sequential);
        let storage = range(STORAGE, shape.frames * PAGE_SIZE);
        let tagged = range(TAGGED, shape.frames * PAGES * PAGE_SIZE);
        let region = Region::new(tagged, storage, shape.block_frames * PAGE_SIZE);
        let regions = Regions::new(vec![region.expect("a good region")], CPUS).expect("few frames");
        let buffer = Box::into_raw(Box::new(MetadataBuffer::new(&regions)));
        // SAFETY: it lives until the machine is dropped, which is after all that borrows it.
        let metadata = unsafe { &*buffer }.metadata();
        let machine = Machine {
            shape,
            stash: Stash::new(regions.clone(), metadata),
            ledger: Ledger::new(regions, metadata),
            metadata,
            buffer,
            ram: GuestRam::new(&[range(GUEST, CPUS as u64 * PARTS * PAGE_SIZE), tagged], &[]),
            stats: Stats::new(CPUS),
            frames: (0..shape.frames).map(|_| [Word::new(0), Word::new(0)]).collect(),
            newest: [const { [const { Plain::new(0) }; 2] }; FRAMES],
            guest: [const { [const { Plain::new(0) }; 2 * PARTS as usize] }; CPUS],
            prompt: Word::new(0),
            order: Word::new(0),
            ghost: Mutex::new(Ghost {
                halves: Default::default(),
                tags: [PageTags::default(); FRAMES * PAGES as usize],
                held: 0,
                dormant: [true; FRAMES],
                waits: [None; CPUS],
                targets: [0; CPUS],
                chunks: [[0; CPUS]; CPUS],
                putting: 0,
                waiters: Vec::new(),
                ticks: 0,
                events: Vec::new(),
                joined: Vec::new(),
                destroyed: Vec::new(),
            }),
        };
        if shape.verify {
            machine.stash.set_verification(true);
        }
        machine
    }

    pub fn cpu(&self, number: usize) -> Cpu<'_> {
        Cpu { machine: self, number }
    }

    /// Stores half a frame, without a place of its own where threads may switch.
    fn store(&self, frame: usize, half: usize, value: u64) {
        self.newest[frame][half].store(value, Relaxed);
        if !self.shape.sequential {
            loom::stop_exploring();
            self.frames[frame][half].store(value, Ordering::Relaxed);
            loom::explore();
        }
    }

    /// Orders what a waiting claim did (release) before what a put does next (acquire).
    fn meet_claims(&self, order: Ordering) {
        loom::stop_exploring();
        self.prompt.fetch_add(1, order);
        loom::explore();
    }

    fn block_of(&self, page: u64) -> usize {
        (page / PAGES / self.shape.block_frames) as usize
    }

    /// The frames of a block, one bit for each.
    fn frames_of_block(&self, block: usize) -> u32 {
        ((1 << self.shape.block_frames) - 1) << (block as u64 * self.shape.block_frames)
    }

    /// The pages whose tags the frames of a block store.
    fn pages_of_block(&self, block: usize) -> Pages {
        let count = self.shape.block_frames * PAGES;
        pages(block as u64 * count, count)
    }

    fn blocks_of(&self, pages: Pages) -> impl Iterator<Item = usize> {
        let blocks = (self.shape.frames / self.shape.block_frames) as usize;
        (0..blocks).filter(move |&block| self.pages_of_block(block) & pages != 0)
    }

    fn frames_of(&self, pages: Pages) -> u32 {
        self.blocks_of(pages).fold(0, |all, block| all | self.frames_of_block(block))
    }

    /// What must be so when nobody is at work, and what the calls answered; then the capacity
    /// must come back.
    pub fn check_at_rest(&self) {
        let cpu = self.cpu(MAIN);
        let keys = self.ghost.lock().expect("no thread panicked").keys();
        for key in Key::ALL.into_iter().filter(|key| keys & key.bit() != 0) {
            cpu.run(Op::Get(key), Trust::Always);
            cpu.run(Op::Get(key), Trust::Always);
        }
        let (held, events) = {
            let ghost = self.ghost.lock().expect("no thread panicked");
            (ghost.held, ghost.events.clone())
        };
        assert!(is_linearizable(&events, self.shape.ordered), "no order explains {events:#?}");
        cpu.check_tags(held);
        let mut claims = [0; FRAMES];
        let mut claimed: Pages = 0;
        for frame in 0..self.shape.frames {
            let bits = self.metadata.claimed(frame as u32).load(Ordering::Relaxed);
            claims[self.block_of(frame * PAGES)] += u64::from(bits.count_ones());
            claimed |= Pages::from(bits) << (frame * PAGES);
        }
        assert_eq!(held & !claimed, 0, "a claim was lost: held {held:#x}, claimed {claimed:#x}");
        let word_of = |frame: u64| self.metadata.load(frame as u32, Ordering::Relaxed);
        for frame in 0..self.shape.frames {
            let word = word_of(frame);
            assert!(!word.is_writing(), "frame {frame} stays in WRITING");
            assert_eq!(word.claims(), claims[self.block_of(frame * PAGES)], "frame {frame}");
        }
        if self.shape.pools {
            self.check_pools();
        }
        let is_open = |frame: &u64| word_of(*frame).is_open();
        // Pages of one part need one frame of the one set that there is.
        if !self.shape.large && (0..self.shape.frames).any(|frame| is_open(&frame)) {
            cpu.check_caching();
        }
        let progress = cpu.release(0, self.shape.frames * PAGES);
        assert_eq!(progress.changed, claims.iter().sum::<u64>());
        for frame in 0..self.shape.frames {
            let word = word_of(frame);
            let is_back = word.is_open() || !word.is_active() && word.claims() == 0;
            assert!(is_back, "the capacity of frame {frame} did not come back: {word:?}");
        }
        if (0..self.shape.frames).all(|frame| is_open(&frame)) {
            cpu.check_caching();
        }
    }

    /// Each pool is destroyed once or is there, and the shared one is one.
    fn check_pools(&self) {
        let (joined, destroyed) = {
            let ghost = self.ghost.lock().expect("no thread panicked");
            (ghost.joined.clone(), ghost.destroyed.clone())
        };
        for (n, id) in destroyed.iter().enumerate() {
            assert!(!destroyed[..n].contains(id), "{id:?} was destroyed twice");
            assert_eq!(self.stash.pool(*id), None, "{id:?} was destroyed");
        }
        let left = joined.iter().filter(|id| !destroyed.contains(id));
        let live: Vec<&PoolId> = left.collect();
        assert!(live.iter().all(|id| *id == live[0]), "one name, several pools: {live:?}");
        assert!(live.iter().all(|id| self.stash.pool(**id).is_some_and(|pool| pool.shared)));
    }
}

/// One CPU: it makes calls, and is what the library asks for copies and maintenance.
#[derive(Clone, Copy)]
pub struct Cpu<'m> {
    machine: &'m Machine,
    number: usize,
}

impl Caller for Cpu<'_> {
    fn cpu(&self) -> usize {
        self.number
    }

    fn interrupted(&self) -> bool {
        false
    }
}

impl Cpu<'_> {
    fn ghost<R>(&self, change: impl FnOnce(&mut Ghost) -> R) -> R {
        change(&mut self.machine.ghost.lock().expect("no thread panicked"))
    }

    fn tick(&self) -> u32 {
        self.ghost(|ghost| {
            ghost.ticks += 1;
            ghost.ticks
        })
    }

    /// Makes a call, and remembers what it answered if it was one on keys.
    pub fn run(&self, op: Op, trust: Trust) {
        let machine = self.machine;
        let stats = machine.stats.of(self.number);
        let ordered = machine.shape.ordered && self.number != MAIN;
        if ordered {
            machine.order.fetch_add(1, Ordering::Acquire);
        }
        let begin = self.tick();
        let mut keys = 0;
        let mut call = None;
        match op {
            Op::Put(key, value) => {
                keys = key.bit();
                let pool = self.pool(key, false);
                let kept = pool.is_some_and(|pool| self.put(&pool, key, value) == Put::Kept);
                self.saw(if kept { Seen::PutKept } else { Seen::PutRefused });
                call = Some(Call::Put { value, kept });
            }
            Op::Get(key) | Op::Peek(key) => {
                keys = key.bit();
                let shared = matches!(op, Op::Peek(_));
                let found = self.pool(key, shared).and_then(|pool| self.get(&pool, key));
                self.saw(if found.is_some() { Seen::Hit } else { Seen::Miss });
                call = Some(Call::Get { shared, found });
            }
            Op::FlushPage(key) => {
                keys = key.bit();
                call = Some(Call::Flush);
                if let Some(pool) = self.pool(key, false) {
                    let object = key.object(&machine.shape);
                    let index = key.index(&machine.shape);
                    machine.stash.flush_pages(&pool, object, index, stats, 0..1, |_| {});
                }
            }
            Op::FlushObject(key) => {
                let object = key.object(&machine.shape);
                keys = self.keys_where(|key| key.object(&machine.shape) == object);
                call = Some(Call::Flush);
                machine.stash.flush_object(&object, stats);
            }
            Op::FlushPool => {
                let pool = Key::A.pool(&machine.shape);
                keys = self.keys_where(|key| key.pool(&machine.shape) == pool);
                call = Some(Call::Flush);
                machine.stash.flush_pool(pool, stats);
            }
            Op::DestroyPool(id) => {
                keys = self.keys_where(|key| key.pool(&machine.shape) == id);
                call = Some(Call::Flush);
                if machine.stash.destroy_pool(id) {
                    assert_eq!(machine.stash.pool(id), None, "{id:?} is there after its end");
                    self.ghost(|ghost| ghost.destroyed.push(id));
                }
            }
            Op::DestroyPools => {
                keys = self.keys_where(|key| key != Key::Reborn);
                call = Some(Call::Flush);
                machine.stash.destroy_pools();
            }
            Op::MakePool(expected) => self.make_pool(expected),
            Op::JoinPool => self.join_pool(),
            Op::Claim(page) => self.claim(page, 1, trust),
            Op::ClaimRange(page, count) => self.claim(page, count, trust),
            Op::Release(page) => drop(self.release(page, 1)),
            Op::ReleaseRange(page, count) => drop(self.release(page, count)),
            Op::Query(page) => {
                let address = PhysAddr(TAGGED + page * PAGE_SIZE);
                let state = machine.ledger.query(address).expect("every page has storage");
                assert!(state.claims <= 4 * PAGES, "{state:?}");
            }
            Op::Activate(block) => self.activate(block),
            Op::Deactivate(block) => self.deactivate(block, trust),
            Op::StoreTags(page) => self.store_tags(page),
        }
        if ordered {
            machine.order.fetch_add(1, Ordering::Release);
        }
        let end = self.tick();
        if let Some(call) = call {
            let event = Event { cpu: self.number, keys, call, begin, end };
            self.ghost(|ghost| ghost.events.push(event));
        }
    }

    /// The page that this CPU copies from and to.
    fn own_page(&self) -> PhysAddr {
        PhysAddr(GUEST + self.number as u64 * PARTS * PAGE_SIZE)
    }

    /// The half page of its own that this CPU copies from or to.
    fn guest_half(&self, address: PhysAddr) -> &Plain {
        let offset = address.0 - self.own_page().0;
        &self.machine.guest[self.number][(offset / CHUNK) as usize]
    }

    /// Counts what happened in a race.
    fn saw(&self, seen: Seen) {
        if self.number != MAIN {
            saw(seen);
        }
    }

    fn keys_where(&self, is_one: impl Fn(Key) -> bool) -> u8 {
        Key::ALL.into_iter().filter(|&key| is_one(key)).fold(0, |keys, key| keys | key.bit())
    }

    /// The pool of a key, if there is one.
    fn pool(&self, key: Key, shared: bool) -> Option<Pool> {
        let shape = &self.machine.shape;
        let id = key.pool(shape);
        if shape.pools {
            let found = self.machine.stash.pool(id);
            self.saw(if found.is_some() { Seen::PoolThere } else { Seen::PoolGone });
            return found.map(|pool| Pool { shared, ..pool });
        }
        Some(Pool { id, page_size: page_size(shape), shared })
    }

    fn make_pool(&self, expected: Option<PoolId>) {
        let made = self.machine.stash.create_pool(page_size(&self.machine.shape), None);
        match (made, expected) {
            (Ok(id), Some(expected)) => assert_eq!(id, expected),
            // Another CPU is making one.
            (Ok(_), None) | (Err(PoolError::Busy), None) => {}
            (Err(error), _) => panic!("a pool cannot be made: {error:?}"),
        }
    }

    fn join_pool(&self) {
        match self.machine.stash.create_pool(page_size(&self.machine.shape), Some(NAME)) {
            Ok(id) => self.ghost(|ghost| ghost.joined.push(id)),
            Err(PoolError::Busy) => {}
            Err(error) => panic!("a pool cannot be joined: {error:?}"),
        }
    }

    /// What is put when nobody else is at work is kept, and the next get finds it.
    fn check_caching(&self) {
        const VALUE: u64 = 0x600d;
        let machine = self.machine;
        let mut pool = self.pool(Key::A, false);
        if machine.shape.pools {
            machine.stash.destroy_pools();
            let made = machine.stash.create_pool(page_size(&machine.shape), None);
            pool = machine.stash.pool(made.expect("there is none"));
        }
        let pool = pool.expect("it was made");
        let put = self.put(&pool, Key::A, VALUE);
        assert_eq!(put, Put::Kept, "there is room, and nobody else is at work");
        assert_eq!(self.get(&pool, Key::A), Some(VALUE), "a page that was just put");
    }

    fn put(&self, pool: &Pool, key: Key, value: u64) -> Put {
        let machine = self.machine;
        let object = Object { pool: pool.id, ..key.object(&machine.shape) };
        machine.guest[self.number].iter().for_each(|half| half.store(value, Relaxed));
        let mut result = None;
        self.ghost(|ghost| ghost.putting += 1);
        machine.stash.put(
            pool,
            object,
            key.index(&machine.shape),
            self.own_page(),
            self,
            machine.stats.of(self.number),
            0..1,
            |_, put| result = Some(put),
        );
        let waiters = self.ghost(|ghost| {
            ghost.putting -= 1;
            std::mem::take(&mut ghost.waiters)
        });
        waiters.iter().for_each(loom::thread::Thread::unpark);
        result.expect("one page was offered")
    }

    fn get(&self, pool: &Pool, key: Key) -> Option<u64> {
        let machine = self.machine;
        let object = Object { pool: pool.id, ..key.object(&machine.shape) };
        let mut result = None;
        machine.stash.get(
            pool,
            object,
            key.index(&machine.shape),
            self.own_page(),
            self,
            machine.stats.of(self.number),
            0..1,
            |_, get| result = Some(get),
        );
        match result.expect("one page was asked for") {
            Get::Hit => {
                let halves = machine.guest[self.number].each_ref().map(|half| half.load(Relaxed));
                let page = &halves[..2 * pool.page_size.parts() as usize];
                assert!(page.iter().all(|half| *half == page[0]), "half a page: {page:?}");
                Some(page[0])
            }
            Get::Miss => None,
            other => panic!("{other:?}"),
        }
    }

    fn claim(&self, page: u64, count: u64, trust: Trust) {
        let machine = self.machine;
        let claimed = pages(page, count);
        self.ghost(|ghost| ghost.targets[self.number] = machine.frames_of(claimed));
        let stats = machine.stats.of(self.number);
        let range = page_range(page, count);
        let progress = machine.ledger.claim(range, &machine.ram, self, self, stats);
        assert_eq!(progress.changed + progress.unchanged, count);
        self.saw(if progress.changed > 0 { Seen::Claimed } else { Seen::ClaimHeld });
        self.end_of_wait();
        let sure = match trust {
            Trust::Always => true,
            Trust::IfNew => progress.changed == count,
            Trust::Never => false,
        };
        if !sure {
            return;
        }
        self.ghost(|ghost| {
            ghost.check_clean(machine.frames_of(claimed));
            ghost.held |= claimed;
        });
        // The guest uses the tags of its pages.
        for page in page..page + count {
            self.store_tags(page);
        }
    }

    fn release(&self, page: u64, count: u64) -> Progress {
        let machine = self.machine;
        let released = pages(page, count);
        let held = self.ghost(|ghost| ghost.held & released);
        self.check_tags(held);
        self.ghost(|ghost| ghost.held &= !released);
        let stats = machine.stats.of(self.number);
        let range = page_range(page, count);
        machine.ledger.release(range, &machine.ram, self, self, stats)
    }

    fn activate(&self, block: u32) {
        let machine = self.machine;
        self.ghost(|ghost| ghost.dormant[block as usize] = false);
        machine.ledger.activate_block(block, &machine.ram, self);
    }

    /// `trust`: [`Trust::Always`] if nobody activates the block meanwhile.
    fn deactivate(&self, block: u32, trust: Trust) {
        let machine = self.machine;
        let frames = machine.frames_of_block(block as usize);
        self.check_tags(self.ghost(|ghost| ghost.held) & machine.pages_of_block(block as usize));
        self.ghost(|ghost| {
            ghost.held &= !machine.pages_of_block(block as usize);
            ghost.targets[self.number] = frames;
        });
        let stats = machine.stats.of(self.number);
        machine.ledger.deactivate_block(block, self, stats);
        self.end_of_wait();
        if trust == Trust::Always {
            self.ghost(|ghost| {
                ghost.check_clean(frames);
                ghost.dormant[block as usize] = true;
            });
        }
    }

    /// The half of a frame that stores a page's tags.
    fn place_of_tags(page: u64) -> (usize, usize) {
        ((page / PAGES) as usize, (page % PAGES / PAGES_PER_HALF) as usize)
    }

    /// Stores tags of a page: into a dirty line, of a cache that knows nothing of data lines.
    fn store_tags(&self, page: u64) {
        self.ghost(|ghost| ghost.tags[page as usize].dirty = Some(TAGS + page));
    }

    /// The tags of these pages are as they were stored.
    fn check_tags(&self, pages: Pages) {
        self.ghost(|ghost| {
            for (page, tags) in (0u64..).zip(&ghost.tags) {
                if pages & 1 << page as u32 != 0 {
                    let now = tags.dirty.unwrap_or(tags.memory);
                    assert_eq!(now, TAGS + page, "tags of page {page} were lost");
                }
            }
        });
    }

    fn end_of_wait(&self) {
        self.ghost(|ghost| {
            if ghost.waits[self.number].take().is_some() {
                self.saw(Seen::Waited);
            }
            ghost.chunks[self.number] = [0; CPUS];
        });
    }
}

fn page_size(shape: &Shape) -> PageSize {
    PageSize::from_shift(if shape.large { 14 } else { 12 }).expect("a page size")
}

impl Ghost {
    /// The keys that calls were on, but for flushes.
    fn keys(&self) -> u8 {
        let events = self.events.iter().filter(|event| event.call != Call::Flush);
        events.fold(0, |keys, event| keys | event.keys)
    }

    /// No line of these frames is dirty, so that none can land on tags.
    fn check_clean(&self, frames: u32) {
        for (frame, halves) in self.halves.iter().enumerate() {
            if frames & 1 << frame != 0 {
                let clean = halves.iter().all(|half| half.dirty.is_none());
                assert!(clean, "frame {frame} is in tags and has dirty data lines");
            }
        }
    }
}

impl PageMemory for Cpu<'_> {
    fn copy_chunk_in(&self, from: PhysAddr, to: PhysAddr) -> Result<(), CopyFault> {
        let machine = self.machine;
        let half = (to.0 / CHUNK % 2) as usize;
        let value = self.guest_half(from).load(Relaxed);
        let frame = ((to.0 - STORAGE) / PAGE_SIZE) as usize;
        let block = machine.block_of(frame as u64 * PAGES);
        // After the look at the state word, before the store.
        switch_point();
        if machine.shape.prompt {
            machine.meet_claims(Ordering::Acquire);
        }
        machine.store(frame, half, value);
        self.ghost(|ghost| {
            let in_tags = ghost.held & machine.pages_of_block(block);
            assert_eq!(in_tags, 0, "a chunk was stored into frame {frame}, which is in tags");
            assert!(!ghost.dormant[block], "a chunk was stored into frame {frame}, dormant");
            for (page, tags) in (0..).zip(&mut ghost.tags) {
                if Self::place_of_tags(page) == (frame, half) {
                    assert_eq!(tags.dirty, None, "dirty tags of page {page} can land on data");
                    tags.memory = value;
                }
            }
            ghost.halves[frame][half].dirty = Some(value);
            for waiting in 0..CPUS {
                if ghost.waits[waiting].is_some_and(|frames| frames & 1 << frame != 0) {
                    let chunks = &mut ghost.chunks[waiting][self.number];
                    *chunks += 1;
                    let most = if machine.shape.prompt { 1 } else { 2 };
                    assert!(*chunks <= most, "a claim waited for {chunks} chunks of one put");
                }
            }
        });
        Ok(())
    }

    fn copy_page_out(&self, from: PhysAddr, to: PhysAddr) -> Result<(), CopyFault> {
        let machine = self.machine;
        let frame = ((from.0 - STORAGE) / PAGE_SIZE) as usize;
        for half in 0..2 {
            let value = if machine.shape.sequential {
                switch_point();
                machine.newest[frame][half].load(Relaxed)
            } else {
                machine.frames[frame][half].load(Ordering::Relaxed)
            };
            self.guest_half(PhysAddr(to.0 + half as u64 * CHUNK)).store(value, Relaxed);
        }
        Ok(())
    }

    fn crc32c(&self, seed: u32, range: PhysRange) -> Result<u32, CopyFault> {
        let start = range.start().0;
        Ok((start..start + range.len()).step_by(CHUNK as usize).fold(seed, |crc, half| {
            let value = self.guest_half(PhysAddr(half)).load(Relaxed);
            crc.wrapping_mul(31).wrapping_add(value as u32 + 1)
        }))
    }
}

impl CacheMaintenance for Cpu<'_> {
    /// A claim looks for writers no more when it comes to a barrier.
    fn barrier_inner(&self) {
        self.end_of_wait();
        fence(Ordering::SeqCst);
    }

    fn barrier_system(&self) {
        fence(Ordering::SeqCst);
    }

    fn clean_invalidate_tags(&self, range: PhysRange) {
        let machine = self.machine;
        switch_point();
        for page in 0..machine.shape.frames * PAGES {
            if !range.contains(PhysAddr(TAGGED + page * PAGE_SIZE)) {
                continue;
            }
            let line = self.ghost(|ghost| ghost.tags[page as usize].dirty.take());
            if let Some(line) = line
                && !machine.shape.drops_tags
            {
                self.ghost(|ghost| ghost.tags[page as usize].memory = line);
                let (frame, half) = Self::place_of_tags(page);
                machine.store(frame, half, line);
            }
        }
    }

    fn clean_invalidate_data(&self, range: PhysRange) {
        let machine = self.machine;
        switch_point();
        for frame in 0..machine.shape.frames as usize {
            if !range.contains(PhysAddr(STORAGE + frame as u64 * PAGE_SIZE)) {
                continue;
            }
            for half in 0..2 {
                let (dirty, memory) = self.ghost(|ghost| {
                    let line = &mut ghost.halves[frame][half];
                    (line.dirty.take(), line.memory)
                });
                if let Some(dirty) = dirty {
                    if machine.shape.drops_data {
                        machine.store(frame, half, memory);
                    } else {
                        self.ghost(|ghost| ghost.halves[frame][half].memory = dirty);
                    }
                }
            }
        }
    }

    fn relax(&self) {
        if self.machine.shape.prompt {
            self.machine.meet_claims(Ordering::Release);
        }
        let is_putting = self.ghost(|ghost| {
            let targets = ghost.targets[self.number];
            ghost.waits[self.number].get_or_insert(targets);
            if ghost.putting > 0 {
                ghost.waiters.push(loom::thread::current());
            }
            ghost.putting > 0
        });
        // A writer's last step on a frame is the last of its put. To look before that is no
        // use, and two claims that look in turns would keep the checker busy for ever.
        if is_putting {
            loom::thread::park();
        } else {
            loom::thread::yield_now();
        }
    }
}
