// SPDX-License-Identifier: MIT OR Apache-2.0
//! The model and the real code, step by step.
//!
//! The real stash and ledger run on a thread for each CPU, held up before every access to an
//! atomic integer, every chunk of a copy and every cache maintenance operation. A seeded
//! schedule says who makes the next one. The model takes the same step, and both must agree on
//! what was accessed, how, on the values before and after, on the fence before it, and on what
//! the calls return. A change of the code that adds, drops or swaps an access fails here, also
//! on the ways that only a race takes, and says which model step it is.
//!
//! Orderings are not compared, but for a sequentially consistent fence: the model has only one.
//!
//! Run with `make protocol`. `PROTOCOL_SEED` and `PROTOCOL_STEPS` change the schedules.

#![cfg(traced)]

use protocol::config::{CODE, Config, Key, Menu};
use protocol::state::{ALL_GARBAGE, Call, GARBAGE, Outcome, State, Word};
use protocol::step::{Kind, Pc, Place, Seen, single};
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use tagstash::addr::{PAGE_SIZE, PhysAddr, PhysRange};
use tagstash::platform::{CHUNK, CacheMaintenance, Caller, CopyFault, PageMemory};
use tagstash::ram::GuestRam;
use tagstash::stash::frame::{Fingerprint, StateWord};
use tagstash::stash::key::{Object, PartKey};
use tagstash::stash::metadata::{CANDIDATES, Metadata, MetadataBuffer, WAYS};
use tagstash::stash::pool::{POOLS, PageSize, PoolId};
use tagstash::stash::stats::Stats;
use tagstash::stash::{Get, Page, Put, Stash};
use tagstash::sync::{self, Event, Ordering, set_hook};
use tagstash::tags::geometry::{Region, Regions};
use tagstash::tags::ledger::Ledger;

const TAGGED: u64 = 0x4000_3000;
const CHUNKS: u64 = PAGE_SIZE / CHUNK;

/// What a thread is about to do.
#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    Atomic(usize, sync::Kind),
    Fence(Ordering),
    CopyIn(u64),
    CopyOut(u64),
    Tags(PhysRange),
    Data(PhysRange),
    InnerBarrier,
    SystemBarrier,
}

/// What a thread tells the schedule.
#[derive(Debug)]
enum Told {
    Next(What),
    Made(u64, u64),
    Returned(Outcome),
}

struct Gate {
    tell: Sender<Told>,
    go: Receiver<()>,
}

thread_local! {
    static GATE: RefCell<Option<Gate>> = const { RefCell::new(None) };
    /// What was accessed, while a single thread finds out which address is what.
    static NOTED: RefCell<Vec<(usize, sync::Kind)>> = const { RefCell::new(Vec::new()) };
}

fn wait_for(what: What) {
    GATE.with_borrow(|gate| {
        if let Some(gate) = gate {
            gate.tell.send(Told::Next(what)).expect("the schedule lives");
            gate.go.recv().expect("the schedule lives");
        }
    });
}

fn made(before: u64, after: u64) {
    GATE.with_borrow(|gate| {
        if let Some(gate) = gate {
            gate.tell.send(Told::Made(before, after)).expect("the schedule lives");
        }
    });
}

fn on_event(event: Event) {
    match event {
        Event::Before(address, kind) => wait_for(What::Atomic(address, kind)),
        Event::After(before, after) => made(before, after),
        Event::Fence(order) => {
            wait_for(What::Fence(order));
            made(0, 0);
        }
    }
}

fn on_note(event: Event) {
    if let Event::Before(address, kind) = event {
        NOTED.with_borrow_mut(|noted| noted.push((address, kind)));
    }
}

/// The accesses that `calls` makes.
fn noted(calls: impl FnOnce()) -> Vec<(usize, sync::Kind)> {
    set_hook(Some(on_note));
    calls();
    set_hook(None);
    NOTED.take()
}

/// A version for each chunk.
struct Memory(Mutex<HashMap<u64, u64>>);

impl Memory {
    fn load(&self, address: u64) -> u64 {
        self.0.lock().unwrap().get(&address).copied().unwrap_or(GARBAGE)
    }

    fn store(&self, address: u64, version: u64) {
        self.0.lock().unwrap().insert(address, version);
    }

    fn fill(&self, address: u64, pages: u64, version: u64) {
        for chunk in 0..pages * CHUNKS {
            self.store(address + chunk * CHUNK, version);
        }
    }
}

impl PageMemory for Memory {
    fn copy_chunk_in(&self, from: PhysAddr, to: PhysAddr) -> Result<(), CopyFault> {
        wait_for(What::CopyIn(to.0));
        let (before, after) = (self.load(to.0), self.load(from.0));
        self.store(to.0, after);
        made(before, after);
        Ok(())
    }

    fn copy_page_out(&self, from: PhysAddr, to: PhysAddr) -> Result<(), CopyFault> {
        for offset in (0..PAGE_SIZE).step_by(CHUNK as usize) {
            wait_for(What::CopyOut(from.0 + offset));
            let version = self.load(from.0 + offset);
            self.store(to.0 + offset, version);
            made(version, version);
        }
        Ok(())
    }

    fn crc32c(&self, _: u32, _: PhysRange) -> Result<u32, CopyFault> {
        Ok(0)
    }
}

fn maintain(what: What) {
    wait_for(what);
    made(0, 0);
}

impl CacheMaintenance for Memory {
    fn barrier_inner(&self) {
        maintain(What::InnerBarrier);
    }

    fn barrier_system(&self) {
        maintain(What::SystemBarrier);
    }

    fn clean_invalidate_tags(&self, range: PhysRange) {
        maintain(What::Tags(range));
    }

    fn clean_invalidate_data(&self, range: PhysRange) {
        maintain(What::Data(range));
    }

    fn relax(&self) {}
}

struct Quiet(usize);

impl Caller for Quiet {
    fn cpu(&self) -> usize {
        self.0
    }

    fn interrupted(&self) -> bool {
        false
    }
}

/// A machine of the model, with what only the real one needs.
struct Machine {
    config: Config,
    /// The number, in the region, of each page of the model's.
    pages: Vec<u64>,
    keys: Vec<(Object, u64)>,
    /// The objects by key, of pools made later: their hashes lead to the same places.
    later: Vec<Vec<Object>>,
    page_size: u64,
}

impl Machine {
    fn storage(&self) -> u64 {
        TAGGED + self.config.frames as u64 * 32 * PAGE_SIZE
    }

    fn page_address(&self, page: u8) -> u64 {
        TAGGED + self.pages[usize::from(page)] * PAGE_SIZE
    }

    fn regions(&self) -> Regions {
        let length = self.config.frames as u64 * PAGE_SIZE;
        let range = |start, length| PhysRange::new(PhysAddr(start), length).unwrap();
        let block = u64::from(self.config.block_frames) * PAGE_SIZE;
        let region =
            Region::new(range(TAGGED, length * 32), range(self.storage(), length), block).unwrap();
        Regions::new(vec![region], self.config.menus.len()).unwrap()
    }

    fn ram(&self) -> GuestRam {
        let length = self.config.frames as u64 * PAGE_SIZE;
        let all = PhysRange::new(PhysAddr(TAGGED), length * 33).unwrap();
        let hole = PhysRange::new(PhysAddr(self.storage()), length).unwrap();
        GuestRam::new(&[all], &[hole])
    }

    fn part_key(&self, key: usize, part: u32) -> PartKey {
        let (object, index) = self.keys[key];
        PartKey { object, index, part }
    }

    fn hash(&self, key: usize, part: u32) -> u64 {
        let (object, _) = self.keys[key];
        self.part_key(key, part).hash(object.hash())
    }

    /// The model's word for a real one. Claims, flags and sequence are the same; fingerprints
    /// are numbered.
    fn word(&self, real: u64) -> Word {
        let word = StateWord(real);
        let mut flags = 0;
        for (is, flag) in [
            (word.is_active(), Word::ACTIVE),
            (word.is_cached(), Word::CACHED),
            (word.is_writing(), Word::WRITING),
        ] {
            flags |= if is { flag } else { 0 };
        }
        // Wherever the word has its fields.
        let made = |hash, number| StateWord::writing(Fingerprint::of(hash), number).0;
        let zero = made(0, 0);
        let (fingerprints, sequences) = (made(u64::MAX, 0) ^ zero, made(0, u64::MAX) ^ zero);
        let fingerprint = (0..self.keys.len()).find_map(|key| {
            let parts = 0..u32::from(self.config.parts);
            let is = |part: &u32| made(self.hash(key, *part), 0) ^ zero == real & fingerprints;
            Some(self.config.fingerprint(key as u8, parts.into_iter().find(is)? as u8))
        });
        // A frame that was never written has the fingerprint 0, which is no key's here.
        let fingerprint = fingerprint.filter(|_| real & fingerprints != 0).unwrap_or(0);
        let sequence = (real & sequences) >> sequences.trailing_zeros();
        Word::new(word.claims() as u32, flags, fingerprint, sequence as u32 & 0xffff)
    }

    /// The model's pages of a real range.
    fn pages_in(&self, range: PhysRange) -> u64 {
        let holds = |page: &u8| range.contains(PhysAddr(self.page_address(*page)));
        (0..self.pages.len() as u8).filter(holds).fold(0, |mask, page| mask | 1 << page)
    }
}

/// Which address is what.
struct Atlas {
    places: HashMap<usize, Place>,
    /// Read by the code on the way, and not the protocol's.
    ignored: Vec<usize>,
}

impl Atlas {
    /// Finds out; makes the pool, and completes the machine's configuration.
    fn new(machine: &mut Machine, stash: &Stash<'_>, metadata: &Metadata<'_>) -> (Atlas, PoolId) {
        let mut places = HashMap::new();
        for frame in 0..machine.config.frames as u8 {
            let address = |word| core::ptr::from_ref(word) as usize;
            places.insert(address(metadata.state(frame.into())), Place::Word(frame));
            places.insert(
                core::ptr::from_ref(metadata.claimed(frame.into())) as usize,
                Place::Claimed(frame),
            );
        }
        // Slots beyond the last frame have words, and the model's scans look at them.
        for hash in [0, 1 << 63] {
            for place in 0..CANDIDATES {
                let slot = metadata.candidates(hash).slot(place);
                let frame = metadata.frame(&slot) as u8;
                places.insert(core::ptr::from_ref(slot.state()) as usize, Place::Word(frame));
                places.insert(core::ptr::from_ref(metadata.era(&slot)) as usize, Place::Era(frame));
                let start = core::ptr::from_ref(slot.entry()) as usize;
                for address in (start..start + 40).step_by(8) {
                    places.insert(address, Place::Entry(frame));
                }
            }
        }
        let ignored = noted(|| _ = stash.verification()).into_iter().map(|(a, _)| a).collect();
        let size = PageSize::from_shift(machine.page_size.ilog2().into()).unwrap();
        let uuid = machine.config.shared.then_some([1, 2]);
        let mut pool = PoolId(0);
        let create = noted(|| pool = stash.create_pool(size, uuid).unwrap());
        let kinds: Vec<_> = create.iter().map(|&(_, kind)| kind).collect();
        use sync::Kind::{CompareExchange, Load, Max, Store};
        let mut expected = vec![CompareExchange];
        expected.extend([Load; POOLS]);
        expected.extend([Store, Store, Load, Max, Store, Store]);
        assert_eq!(kinds, expected, "how a pool is made");
        let at = |n: usize| create[n].0;
        places.insert(at(0), Place::Making);
        for place in 0..POOLS {
            places.insert(at(1 + place), Place::PoolWord(place as u8));
        }
        places.insert(at(POOLS + 1), Place::PoolName);
        places.insert(at(POOLS + 2), Place::PoolName);
        places.insert(at(POOLS + 3), Place::Clock);
        places.insert(at(POOLS + 4), Place::PoolMoment);
        for (object, _) in &mut machine.keys {
            object.pool = pool;
        }
        let stats = Stats::new(1);
        let moment = |address: usize| {
            let start = metadata.moments().as_ptr() as usize;
            ((address - start) / 8) as u8
        };
        let objects = machine.keys.iter().map(|(object, _)| {
            let flush = noted(|| stash.flush_object(object, stats.of(0)));
            let [_, (a, Max), (b, Max), (c, Max)] = flush[..] else {
                panic!("how an object is flushed: {flush:?}")
            };
            for address in [a, b, c] {
                places.insert(address, Place::Moment(moment(address)));
            }
            [a, b, c].map(moment)
        });
        machine.config.objects = objects.collect();
        let buckets = |object: &Object| {
            let flush = noted(|| stash.flush_object(object, stats.of(0)));
            flush[1..].iter().map(|&(address, _)| address).collect::<Vec<_>>()
        };
        let makes = machine.config.menus[0].choices.contains(&Call::Create);
        for generation in 2..if makes { 100 } else { 0 } {
            let like = |key: usize| {
                let (first, index) = machine.keys[key];
                let hash = |object: Object| PartKey { object, index, part: 0 }.hash(object.hash());
                let order =
                    |object: Object| metadata.frame(&metadata.candidates(hash(object)).slot(0));
                (1000..)
                    .map(|n| Object { pool: id_of(generation), words: [n, 7, 0] })
                    .find(|&object| {
                        Fingerprint::of(hash(object)) == Fingerprint::of(hash(first))
                            && order(object) == order(first)
                            && buckets(&object) == buckets(&first)
                    })
                    .expect("numbers do not run out")
            };
            machine.later.push((0..machine.keys.len()).map(like).collect());
        }
        let candidates = |key, part| {
            let candidates = metadata.candidates(machine.hash(key, part));
            let frames = (0..CANDIDATES).map(|n| metadata.frame(&candidates.slot(n)) as u8);
            frames.collect::<Vec<u8>>()
        };
        let parts = u32::from(machine.config.parts);
        machine.config.order = (0..machine.keys.len())
            .map(|key| (0..parts).map(|part| candidates(key, part)).collect())
            .collect();
        (Atlas { places, ignored }, pool)
    }
}

fn kind_of(kind: sync::Kind) -> Kind {
    match kind {
        sync::Kind::Load => Kind::Load,
        sync::Kind::Store => Kind::Store,
        sync::Kind::CompareExchange => Kind::Swap,
        sync::Kind::Add => Kind::Add,
        sync::Kind::Sub => Kind::Sub,
        sync::Kind::Max => Kind::Max,
        sync::Kind::And => Kind::And,
        sync::Kind::Or => Kind::Or,
    }
}

/// A call for a thread.
struct Order {
    call: Call,
    version: u64,
    generation: u8,
}

/// Where a CPU's guest has its pages.
fn buffer(cpu: usize) -> u64 {
    0x1000_0000 + cpu as u64 * 0x10_0000
}

fn id_of(generation: u8) -> PoolId {
    PoolId(u32::from(generation) * POOLS as u32)
}

/// Makes calls until there are no more.
fn serve(
    machine: &Machine,
    stash: &Stash<'_>,
    ledger: &Ledger<'_>,
    memory: &Memory,
    cpu: usize,
    orders: Receiver<Order>,
    tell: Sender<Told>,
) {
    let stats = Stats::new(1);
    let (stats, ram, caller) = (stats.of(0), machine.ram(), Quiet(cpu));
    let pages = u64::from(machine.config.parts);
    for order in orders {
        let id = id_of(order.generation);
        let object = |key: u8| match order.generation {
            1 => machine.keys[usize::from(key)].0,
            later => machine.later[usize::from(later) - 2][usize::from(key)],
        };
        let index = |key: u8| machine.keys[usize::from(key)].1;
        let range = |first: u8, count: u8| {
            let length = u64::from(count) * PAGE_SIZE;
            PhysRange::new(PhysAddr(machine.page_address(first)), length).unwrap()
        };
        let at = PhysAddr(buffer(cpu));
        let page_size = PageSize::from_shift(machine.page_size.ilog2().into()).unwrap();
        let got = |get: Get| {
            if get != Get::Hit {
                return Outcome::Miss;
            }
            let version = memory.load(at.0);
            let same = |n| memory.load(at.0 + n * CHUNK) == version;
            assert!((0..pages * CHUNKS).all(same), "half a page");
            Outcome::Hit(version as u8)
        };
        set_hook(Some(on_event));
        let outcome = match order.call {
            Call::Create => match stash.create_pool(page_size, None) {
                Ok(_) => Outcome::Done,
                Err(_) => Outcome::No,
            },
            Call::Claim(first, 1) => {
                // As the service does.
                let page = ledger.page(PhysAddr(machine.page_address(first))).unwrap();
                let held = ledger.is_claimed(&page);
                let claim = || ledger.claim_page(&page, memory, stats);
                Outcome::Changed(if held { 0 } else { claim() as u8 })
            }
            Call::Claim(first, count) => {
                let progress = ledger.claim(range(first, count), &ram, memory, &caller, stats);
                Outcome::Changed(progress.changed as u8)
            }
            Call::Release(first, count) => {
                let progress = ledger.release(range(first, count), &ram, memory, &caller, stats);
                Outcome::Changed(progress.changed as u8)
            }
            Call::Activate(block) => {
                ledger.activate_block(block.into(), &ram, memory);
                Outcome::Done
            }
            Call::Deactivate(block) => {
                ledger.deactivate_block(block.into(), memory, stats);
                Outcome::Done
            }
            // As the service does: first whether it is a miss, then the get.
            Call::Get(key) if pages == 1 => {
                let (object, index) = (object(key), index(key));
                let usual = || stash.usual_pool(id.0.into());
                match usual().map(|pool| stash.misses(&Page::new(&pool, object, index), stats)) {
                    None => Outcome::No,
                    Some(true) => Outcome::Miss,
                    Some(false) => usual().map_or(Outcome::No, |pool| {
                        let page = Page::new(&pool, object, index);
                        got(stash.get_page(&page, 1, at, memory, stats))
                    }),
                }
            }
            Call::FlushPage(key) if pages == 1 => match stash.usual_pool(id.0.into()) {
                None => Outcome::No,
                Some(pool) => {
                    stash.flush_page(&Page::new(&pool, object(key), index(key)), 1, stats);
                    Outcome::Done
                }
            },
            call => match (stash.pool(id), call) {
                (None, _) => Outcome::No,
                (Some(pool), Call::Put(key)) => {
                    memory.fill(buffer(cpu), pages, order.version);
                    let (object, mut put) = (object(key), None);
                    let run = 0..1u64;
                    stash.put(&pool, object, index(key), at, memory, stats, run, |_, result| {
                        put = Some(result);
                    });
                    if put == Some(Put::Kept) { Outcome::Kept } else { Outcome::Refused }
                }
                (Some(pool), Call::Get(key)) => {
                    let (object, mut get) = (object(key), None);
                    let run = 0..1u64;
                    stash.get(&pool, object, index(key), at, memory, stats, run, |_, result| {
                        get = Some(result);
                    });
                    got(get.expect("a run of one"))
                }
                (Some(pool), Call::FlushPage(key)) => {
                    let run = 0..1u64;
                    stash.flush_pages(&pool, object(key), index(key), stats, run, |_| {});
                    Outcome::Done
                }
                (Some(_), Call::FlushObject(key)) => {
                    stash.flush_object(&object(key), stats);
                    Outcome::Done
                }
                (Some(_), Call::FlushPool) => {
                    stash.flush_pool(id, stats);
                    Outcome::Done
                }
                (Some(_), _) => {
                    if stash.destroy_pool(id) {
                        Outcome::Done
                    } else {
                        Outcome::No
                    }
                }
            },
        };
        set_hook(None);
        tell.send(Told::Returned(outcome)).expect("the schedule lives");
    }
    GATE.take();
}

/// A thread, as the schedule sees it.
struct Thread {
    orders: Sender<Order>,
    told: Receiver<Told>,
    go: Sender<()>,
    next: Option<What>,
    fenced: bool,
}

/// The model, the threads, and what they agreed on.
struct Pair<'m> {
    machine: &'m Machine,
    atlas: Atlas,
    memory: &'m Memory,
    state: State,
    threads: Vec<Thread>,
    recent: Vec<String>,
}

impl Pair<'_> {
    fn fail(&self, what: &str) -> ! {
        let start = self.recent.len().saturating_sub(40);
        for line in &self.recent[start..] {
            println!("  {line}");
        }
        panic!("model and code differ: {what}");
    }

    /// Lets a thread go on to its next access, or to its return.
    fn advance(&mut self, cpu: usize) -> Option<Outcome> {
        loop {
            let thread = &mut self.threads[cpu];
            match thread.told.recv().expect("the thread lives") {
                Told::Next(What::Fence(order)) => {
                    thread.fenced |= order == Ordering::SeqCst;
                    self.make(cpu);
                }
                Told::Next(What::Atomic(address, _)) if self.atlas.ignored.contains(&address) => {
                    self.make(cpu);
                }
                Told::Next(what) => {
                    thread.next = Some(what);
                    return None;
                }
                Told::Returned(outcome) => {
                    thread.next = None;
                    return Some(outcome);
                }
                Told::Made(..) => unreachable!("an access nobody asked for"),
            }
        }
    }

    /// Lets a thread make the access that it waits for.
    fn make(&self, cpu: usize) -> (u64, u64) {
        let thread = &self.threads[cpu];
        thread.go.send(()).expect("the thread lives");
        match thread.told.recv().expect("the thread lives") {
            Told::Made(before, after) => (before, after),
            told => unreachable!("{told:?}"),
        }
    }

    fn place(&self, what: What) -> (Option<Place>, Kind) {
        let storage = self.machine.storage();
        let chunk = |address: u64| {
            let offset = address - storage;
            Place::Data((offset / PAGE_SIZE) as u8, (offset % PAGE_SIZE / CHUNK) as u8)
        };
        match what {
            What::Atomic(address, kind) => {
                (self.atlas.places.get(&address).copied(), kind_of(kind))
            }
            What::CopyIn(to) => (Some(chunk(to)), Kind::CopyIn),
            What::CopyOut(from) => (Some(chunk(from)), Kind::CopyOut),
            What::Tags(_) => (Some(Place::Tags), Kind::Maintain),
            What::Data(range) => {
                let block = (range.start().0 - storage) / range.len();
                (Some(Place::Block(block as u8)), Kind::Maintain)
            }
            What::InnerBarrier => (Some(Place::InnerBarrier), Kind::Maintain),
            What::SystemBarrier => (Some(Place::SystemBarrier), Kind::Maintain),
            What::Fence(_) => unreachable!("fences are passed"),
        }
    }

    /// The model's value for a real one.
    fn value(&self, place: Place, value: u64) -> u64 {
        match place {
            Place::Word(_) => self.machine.word(value).0.into(),
            Place::Claimed(frame) => (0..self.machine.pages.len())
                .filter(|&page| self.machine.config.pages[page] == frame)
                .filter(|&page| value & 1 << (self.machine.pages[page] % 32) != 0)
                .fold(0, |mask, page| mask | 1 << page),
            Place::PoolWord(_) => value & 1 | (value >> 32) << 1,
            _ => value,
        }
    }

    /// Both take one step.
    fn step(&mut self, cpu: usize, call: Option<Call>) -> (Pc, Option<Outcome>) {
        let mut seen = Vec::new();
        let generation = self.state.named;
        let result = single(&self.machine.config, &mut self.state, cpu, call, &mut seen);
        let seen: Seen = seen[0];
        if let Some(call) = seen.called {
            self.recent.push(format!("CPU {cpu} calls {call}"));
        }
        self.recent.push(format!("CPU {cpu}  {seen}"));
        if let Err(violation) = result {
            self.fail(&format!("{}: {}", violation.promise, violation.what));
        }
        if let Some(call) = seen.called {
            let registers = &self.state.cpus[cpu];
            let order = Order { call, version: registers.version.into(), generation };
            self.threads[cpu].orders.send(order).expect("the thread lives");
            if let Some(outcome) = self.advance(cpu) {
                self.fail(&format!("the code returns {outcome} at once"));
            }
        }
        let Some(what) = self.threads[cpu].next else { self.fail("the code has returned") };
        let (place, kind) = self.place(what);
        if (place, kind) != (Some(seen.place), seen.kind) {
            self.fail(&format!(
                "the model {} ({:?} of {:?}), the code does {kind:?} of {place:?} ({what:x?})",
                seen.pc.name(),
                seen.kind,
                seen.place,
            ));
        }
        let fenced = std::mem::take(&mut self.threads[cpu].fenced);
        if fenced != seen.fenced {
            self.fail(&format!("a fence before it: model {}, code {fenced}", seen.fenced));
        }
        let (mut before, mut after) = self.make(cpu);
        let mut returned = self.advance(cpu);
        let mut tags = if let What::Tags(range) = what { self.machine.pages_in(range) } else { 0 };
        // The key is several words, and tags may be several ranges: one step of the model's.
        while let Some(next) = self.threads[cpu].next
            && self.place(next) == (place, kind)
            && (matches!(seen.place, Place::Entry(_) | Place::PoolName)
                || seen.place == Place::Tags && tags != seen.before)
        {
            if let What::Tags(range) = next {
                tags |= self.machine.pages_in(range);
            }
            (before, after) = self.make(cpu);
            returned = self.advance(cpu);
        }
        match seen.place {
            Place::Tags => (before, after) = (tags, tags),
            Place::Entry(_) | Place::PoolName => (before, after) = (seen.before, seen.after),
            place => (before, after) = (self.value(place, before), self.value(place, after)),
        }
        if (before, after) != (seen.before, seen.after) {
            self.fail(&format!(
                "the values are {:#x} -> {:#x} in the model, {before:#x} -> {after:#x} in the code",
                seen.before, seen.after,
            ));
        }
        if returned != seen.returned {
            self.fail(&format!("the code returns {returned:?}"));
        }
        // The guest stores tags over what it claimed.
        for frame in 0..self.machine.config.frames {
            if seen.returned.is_some() && self.state.data[frame] == ALL_GARBAGE {
                let address = self.machine.storage() + frame as u64 * PAGE_SIZE;
                self.memory.fill(address, 1, GARBAGE);
            }
        }
        (seen.pc, seen.returned)
    }
}

/// A generator of numbers: Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) % limit as u64) as usize
    }
}

/// One schedule of one machine. The steps that were taken.
fn walk(mut machine: Machine, seed: u64, steps: usize, covered: &mut BTreeSet<Pc>) -> usize {
    let buffer: &MetadataBuffer = &MetadataBuffer::new(&machine.regions());
    let metadata = buffer.metadata();
    let stash = Stash::new(machine.regions(), metadata);
    let ledger = Ledger::new(machine.regions(), metadata);
    let (atlas, pool) = Atlas::new(&mut machine, &stash, &metadata);
    let state = State::new(&machine.config);
    assert_eq!(id_of(state.named), pool);
    let memory = &Memory(Mutex::new(HashMap::new()));
    let machine = &machine;
    let (stash, ledger) = (&stash, &ledger);
    let mut random = Random(seed | 1);
    std::thread::scope(|scope| {
        let threads = (0..machine.config.menus.len()).map(|cpu| {
            let (orders, ordered) = channel();
            let (tell, told) = channel();
            let (go, gone) = channel();
            scope.spawn(move || {
                GATE.set(Some(Gate { tell: tell.clone(), go: gone }));
                serve(machine, stash, ledger, memory, cpu, ordered, tell);
            });
            Thread { orders, told, go, next: None, fenced: false }
        });
        let threads = threads.collect();
        let mut pair = Pair { machine, atlas, memory, state, threads, recent: Vec::new() };
        let mut taken = 0;
        let mut run = |pair: &mut Pair<'_>, cpu, call| {
            let (pc, outcome) = pair.step(cpu, call);
            covered.insert(pc);
            taken += 1;
            outcome
        };
        for block in 0..machine.config.blocks() {
            while run(&mut pair, 0, Some(Call::Activate(block))).is_none() {}
        }
        for _ in 0..steps {
            let cpu = random.below(machine.config.menus.len());
            let choices = &machine.config.menus[cpu].choices;
            let call = choices[random.below(choices.len())];
            if pair.state.cpus[cpu].call.is_none() {
                // The model has one place for pools, so one that is made must get it.
                let making = pair.state.cpus.iter().any(|cpu| cpu.call == Some(Call::Create));
                if call == Call::Create && (making || pair.state.pool.0) {
                    continue;
                }
            }
            // Some of the time, a CPU runs for a while.
            for _ in 0..[1, 1, 3, 40][random.below(4)] {
                if run(&mut pair, cpu, Some(call)).is_some() {
                    break;
                }
            }
        }
        while let Some(cpu) = (0..pair.threads.len()).find(|&n| pair.state.cpus[n].call.is_some()) {
            // Round and round, because a claim may wait for a put.
            for other in cpu..pair.threads.len() {
                if pair.state.cpus[other].call.is_some() {
                    run(&mut pair, other, None);
                }
            }
        }
        // The threads end when nobody orders any more.
        drop(pair);
        taken
    })
}

fn machine(
    frames: usize,
    block_frames: u8,
    pages: &[u64],
    page_size: u64,
    shared: bool,
    collide: bool,
    choices: &[Call],
) -> Machine {
    let parts = page_size / PAGE_SIZE;
    let object = |n| Object { pool: id_of(1), words: [n, 7, 0] };
    let hash = |index, part| PartKey { object: object(2), index, part }.hash(object(2).hash());
    let first = PartKey { object: object(1), index: 5, part: 0 }.hash(object(1).hash());
    let index = (6..)
        .find(|&index| !collide || Fingerprint::of(hash(index, 0)) == Fingerprint::of(first))
        .unwrap();
    let second = if collide { 1 } else { 1 + parts as u8 };
    let config = Config {
        name: "in step",
        about: "the real code's shape",
        frames,
        ways: CANDIDATES as u8,
        set_ways: WAYS as u8,
        block_frames,
        pages: pages.iter().map(|page| (page / 32) as u8).collect(),
        chunks: CHUNKS as u8,
        parts: parts as u8,
        shared,
        keys: vec![Key { object: 0, fingerprint: 1 }, Key { object: 1, fingerprint: second }],
        objects: Vec::new(),
        order: Vec::new(),
        places: POOLS as u8,
        generations: 200,
        pools: true,
        horizon: CODE,
        before: Vec::new(),
        menus: vec![Menu { calls: 255, choices: choices.to_vec() }; 3],
        mutant: None,
        long: false,
    };
    let keys = vec![(object(1), 5), (object(2), index)];
    Machine { config, pages: pages.to_vec(), keys, later: Vec::new(), page_size }
}

fn number(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number")),
        Err(_) => otherwise,
    }
}

#[test]
fn model_and_code_take_the_same_steps() {
    use Call::*;
    let (seed, steps) = (number("PROTOCOL_SEED", 1), number("PROTOCOL_STEPS", 60_000) as usize);
    let stash = [Put(0), Put(0), Put(1), Get(0), Get(0), Get(1), FlushPage(0)];
    let flushes = [FlushObject(0), FlushObject(1), FlushPool];
    let with = |more: &[Call]| [&stash[..], more].concat();
    let pairs =
        [Claim(0, 1), Claim(0, 2), Release(0, 1), Release(0, 2), Claim(1, 1), Release(1, 1)];
    let all = [&pairs[..], &[Activate(0), Deactivate(0), Claim(0, 3), Release(0, 3)]].concat();
    let pools = [Create, Create, Destroy, FlushPool];
    type Make = Box<dyn Fn() -> Machine>;
    let of = |frames, block, pages: &[u64], size, shared, collide, choices: Vec<Call>| -> Make {
        let pages = pages.to_vec();
        Box::new(move || machine(frames, block, &pages, size, shared, collide, &choices))
    };
    let machines: [(&str, Make); 8] = [
        ("two frames, flushes", of(2, 1, &[0], 4096, false, false, with(&flushes))),
        ("one frame, colliding keys", of(1, 1, &[0], 4096, false, true, with(&flushes))),
        ("shared pool", of(2, 1, &[0], 4096, true, true, with(&[Claim(0, 1), Release(0, 1)]))),
        ("claims over two blocks", of(2, 1, &[30, 31, 32], 4096, false, false, with(&all))),
        ("a block of two frames", of(4, 2, &[31, 32, 63], 4096, false, true, with(&pairs))),
        ("pages of four parts", of(5, 1, &[0, 1], 16384, false, false, with(&pairs))),
        ("pages of four parts, shared", of(6, 2, &[31, 32], 16384, true, false, with(&flushes))),
        ("pools", of(2, 1, &[0], 4096, false, false, with(&pools))),
    ];
    let mut covered = BTreeSet::new();
    let mut taken = 0;
    for (number, (name, make)) in (1..).zip(&machines) {
        println!("{name}: seed {seed}");
        for walk_number in 0..8 {
            let seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (number << 32 | walk_number) << 7;
            taken += walk(make(), seed, steps / 64 / 4, &mut covered);
        }
    }
    println!("{taken} steps, {} of the model's {} kinds", covered.len(), EVERY.len());
    let missed: Vec<_> = EVERY.iter().filter(|pc| !covered.contains(pc)).collect();
    assert!(missed.is_empty(), "no schedule came by {missed:?}: more steps?");
}

/// The steps that the code has.
const EVERY: &[Pc] = &[
    Pc::FindPool,
    Pc::MayLook,
    Pc::FindAgain,
    Pc::Stamp,
    Pc::KillLook,
    Pc::KillLoad,
    Pc::KillEntry,
    Pc::KillSwap,
    Pc::ChooseLook,
    Pc::ChooseOther,
    Pc::Take,
    Pc::RivalCount,
    Pc::RivalLook,
    Pc::RivalLoad,
    Pc::RivalEntry,
    Pc::Describe,
    Pc::StoreEra,
    Pc::Poll,
    Pc::ChunkIn,
    Pc::Publish,
    Pc::Acknowledge,
    Pc::DropLook,
    Pc::DropLoad,
    Pc::DropEntry,
    Pc::DropSwap,
    Pc::FindLook,
    Pc::FindLoad,
    Pc::FindEntry,
    Pc::FindEra,
    Pc::LateMoment0,
    Pc::LateMoment1,
    Pc::LateMoment2,
    Pc::LatePoolMoment,
    Pc::FindSwap,
    Pc::ChunkOut,
    Pc::ReadCrc,
    Pc::TakePage,
    Pc::Confirm,
    Pc::Clock,
    Pc::FlushBucket0,
    Pc::FlushBucket1,
    Pc::FlushBucket2,
    Pc::FlushPool,
    Pc::ClaimFast,
    Pc::ClaimHeld,
    Pc::ClaimUp,
    Pc::ClaimBits,
    Pc::ClaimDrop,
    Pc::ClaimWait,
    Pc::ClaimBarrier,
    Pc::ClaimTags,
    Pc::ClaimTagBarrier,
    Pc::ClaimData,
    Pc::ClaimDataBarrier,
    Pc::ClaimSet,
    Pc::ClaimDown,
    Pc::ActivateLoad,
    Pc::ActivateBarrier,
    Pc::ActivateTags,
    Pc::ActivateTagBarrier,
    Pc::ActivateData,
    Pc::ActivateDataBarrier,
    Pc::ActivateSet,
    Pc::DeactivateUp,
    Pc::DeactivateClear,
    Pc::DeactivateWait,
    Pc::DeactivateBarrier,
    Pc::DeactivateData,
    Pc::DeactivateDataBarrier,
    Pc::DeactivateDown,
    Pc::ReleaseClear,
    Pc::ReleaseBarrier,
    Pc::ReleaseTags,
    Pc::ReleaseDataBarrier,
    Pc::ReleaseDown,
    Pc::CreateLock,
    Pc::CreateScan,
    Pc::CreateName,
    Pc::CreateClock,
    Pc::CreateFlush,
    Pc::CreateWord,
    Pc::CreateUnlock,
    Pc::DestroyFind,
    Pc::DestroyLoad,
    Pc::DestroySwap,
];
