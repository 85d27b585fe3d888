// SPDX-License-Identifier: MIT OR Apache-2.0
//! A client of the hypercall interface, written from docs/abi.md alone: one function for each
//! call. Every call loads all 31 registers and looks at what became of those that the contract
//! keeps.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::cpu;
use crate::tap::{Outcome, check};

/// Function numbers.
pub mod function {
    /// The standard number that asks who answers.
    pub const UID: u64 = 0x8600_ff01;
    /// The standard number that asks for its revision.
    pub const REVISION: u64 = 0x8600_ff03;
    /// Version, features and limits.
    pub const VERSION: u64 = 0xc600_0100;
    /// One region of tag storage.
    pub const REGION: u64 = 0xc600_0101;
    /// One counter.
    pub const STATISTIC: u64 = 0xc600_0102;
    /// What frames hold.
    pub const CENSUS: u64 = 0xc600_0103;
    /// Dormant or active.
    pub const STATE: u64 = 0xc600_0104;
    /// One event.
    pub const EVENTS: u64 = 0xc600_0105;
    /// Makes or finds a pool.
    pub const POOL_CREATE: u64 = 0xc600_0110;
    /// Ends a pool.
    pub const POOL_DESTROY: u64 = 0xc600_0111;
    /// Offers pages.
    pub const PUT: u64 = 0xc600_0120;
    /// Asks for pages.
    pub const GET: u64 = 0xc600_0121;
    /// Drops pages.
    pub const FLUSH_PAGE: u64 = 0xc600_0122;
    /// Drops an object.
    pub const FLUSH_OBJECT: u64 = 0xc600_0123;
    /// Drops a pool's pages.
    pub const FLUSH_POOL: u64 = 0xc600_0124;
    /// Claims pages for tags.
    pub const RECLAIM: u64 = 0xc600_0130;
    /// Gives claims back.
    pub const RELEASE: u64 = 0xc600_0131;
    /// Looks at one page's claim.
    pub const QUERY: u64 = 0xc600_0132;
    /// Lends storage.
    pub const ACTIVATE: u64 = 0xc600_0140;
    /// Takes all storage back.
    pub const DEACTIVATE: u64 = 0xc600_0141;
    /// All calls of version 1.1.
    pub const ALL: [u64; 18] = [
        VERSION,
        REGION,
        STATISTIC,
        CENSUS,
        STATE,
        EVENTS,
        POOL_CREATE,
        POOL_DESTROY,
        PUT,
        GET,
        FLUSH_PAGE,
        FLUSH_OBJECT,
        FLUSH_POOL,
        RECLAIM,
        RELEASE,
        QUERY,
        ACTIVATE,
        DEACTIVATE,
    ];
}

/// Statuses.
pub mod status {
    /// Done.
    pub const SUCCESS: i64 = 0;
    /// No such function.
    pub const NOT_SUPPORTED: i64 = -1;
    /// An argument is out of its range.
    pub const INVALID_PARAMETER: i64 = -3;
    /// An address is misaligned or not guest RAM.
    pub const INVALID_ADDRESS: i64 = -4;
    /// No tag storage to lend.
    pub const NO_REUSE: i64 = -5;
    /// No pool of this id.
    pub const NO_SUCH_POOL: i64 = -6;
    /// All pools are in use.
    pub const NO_FREE_POOL: i64 = -7;
    /// The shared pool has another page size.
    pub const POOL_MISMATCH: i64 = -8;
    /// Another CPU is at the pools.
    pub const BUSY: i64 = -9;
    /// A page was not kept.
    pub const NOT_CACHED: i64 = -10;
    /// A page was not there.
    pub const MISS: i64 = -11;
    /// A page was not claimed.
    pub const NOT_CLAIMED: i64 = -12;
    /// An external abort ended a copy.
    pub const COPY_FAULT: i64 = -13;
}

/// Statistics.
pub mod statistic {
    /// Pages offered.
    pub const PUTS: u64 = 0;
    /// Pages kept.
    pub const PUTS_CACHED: u64 = 1;
    /// Frames whose page gave way to another.
    pub const EVICTIONS: u64 = 2;
    /// Pages asked for.
    pub const GETS: u64 = 3;
    /// Pages found.
    pub const HITS: u64 = 4;
    /// Pages that failed verification.
    pub const MISMATCHES: u64 = 5;
    /// Pages named by FLUSH_PAGE.
    pub const PAGE_FLUSHES: u64 = 6;
    /// FLUSH_OBJECT calls.
    pub const OBJECT_FLUSHES: u64 = 7;
    /// FLUSH_POOL calls.
    pub const POOL_FLUSHES: u64 = 8;
    /// Pages newly claimed.
    pub const CLAIMS: u64 = 9;
    /// Pages claimed already.
    pub const CLAIMS_HELD: u64 = 10;
    /// Claims given back.
    pub const RELEASES: u64 = 11;
    /// Pages that had no claim to give back.
    pub const RELEASES_REFUSED: u64 = 12;
    /// Blocks taken from the stash.
    pub const BLOCKS_TAKEN: u64 = 13;
    /// Frames whose page a claim dropped.
    pub const PAGES_DROPPED: u64 = 14;
    /// Polls for a writer.
    pub const WAIT_POLLS: u64 = 15;
    /// Most polls of one batch.
    pub const WORST_WAIT: u64 = 16;
    /// External aborts in copies.
    pub const COPY_FAULTS: u64 = 17;
    /// How many there are.
    pub const COUNT: u64 = 18;
    /// Their names.
    pub const NAMES: [&str; COUNT as usize] = [
        "PUTS",
        "PUTS_CACHED",
        "EVICTIONS",
        "GETS",
        "HITS",
        "MISMATCHES",
        "PAGE_FLUSHES",
        "OBJECT_FLUSHES",
        "POOL_FLUSHES",
        "CLAIMS",
        "CLAIMS_HELD",
        "RELEASES",
        "RELEASES_REFUSED",
        "BLOCKS_TAKEN",
        "PAGES_DROPPED",
        "WAIT_POLLS",
        "WORST_WAIT",
        "COPY_FAULTS",
    ];
}

/// Most pages of one PUT or GET.
pub const RUN: u64 = 64;
/// POOL_CREATE: the pool is shared.
pub const SHARED: u64 = 1 << 8;
/// ACTIVATE: keep and check checksums.
pub const VERIFY: u64 = 1;
/// VERSION: there is tag storage to lend.
pub const FEATURE_REUSE: u64 = 1;
/// VERSION: ACTIVATE takes [`VERIFY`].
pub const FEATURE_VERIFY: u64 = 2;
/// VERSION: MTE is hidden, claims have nothing to do.
pub const FEATURE_TAGS_HIDDEN: u64 = 4;

/// `x0`-`x3` of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: i64,
    /// `x1`.
    pub x1: u64,
    /// `x2`.
    pub x2: u64,
    /// `x3`.
    pub x3: u64,
}

impl Answer {
    /// The answer's four registers.
    pub const fn of(status: i64, x1: u64, x2: u64, x3: u64) -> Answer {
        Answer { status, x1, x2, x3 }
    }

    /// A status, and 0 in the rest.
    pub const fn only(status: i64) -> Answer {
        Answer::of(status, 0, 0, 0)
    }

    /// Whether the status is SUCCESS.
    pub fn ok(&self) -> bool {
        self.status == status::SUCCESS
    }
}

/// Which instruction makes the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// HVC #0.
    Hvc,
    /// SMC #0.
    Smc,
}

/// Calls that changed a register that they must keep.
static CHANGED: AtomicU64 = AtomicU64::new(0);
/// The first of them: function, and register in bits 63:32.
static CHANGED_FIRST: AtomicU64 = AtomicU64::new(0);

fn canary(register: usize) -> u64 {
    0xc0de_5afe_0000_0000 | (register as u64) << 8 | register as u64
}

/// Makes a call with `x0`-`x7` given; all of `x4`-`x30` must keep their values.
pub fn call(conduit: Conduit, arguments: [u64; 8]) -> Answer {
    let mut registers = core::array::from_fn(canary);
    registers[..8].copy_from_slice(&arguments);
    let before: cpu::Registers = registers;
    match conduit {
        // SAFETY: tests pass GET only pages of their own, and use tags of claimed pages only.
        Conduit::Hvc => unsafe { cpu::hvc(&mut registers) },
        // SAFETY: as above.
        Conduit::Smc => unsafe { cpu::smc(&mut registers) },
    }
    if let Some(at) = (4..31).find(|at| registers[*at] != before[*at])
        && CHANGED.fetch_add(1, Ordering::Relaxed) == 0
    {
        let first = (at as u64) << 32 | arguments[0] & 0xffff_ffff;
        CHANGED_FIRST.store(first, Ordering::Relaxed);
    }
    Answer::of(registers[0] as i64, registers[1], registers[2], registers[3])
}

/// Fails if some call since the last look changed a register that it must keep.
pub fn registers_kept() -> Outcome {
    let changed = CHANGED.swap(0, Ordering::Relaxed);
    let first = CHANGED_FIRST.load(Ordering::Relaxed);
    check!(
        changed == 0,
        "{changed} calls changed a register of x4-x30; first {:#x} changed x{}",
        first & 0xffff_ffff,
        first >> 32
    );
    Ok(())
}

/// What stands in registers that a call does not name: such arguments are ignored.
const UNNAMED: u64 = 0xdead_0000_0000_beef;

/// HVC with `x0`, and arguments from `x1` on; the rest is noise.
pub fn hvc(function: u64, arguments: &[u64]) -> Answer {
    let mut all = [UNNAMED; 8];
    all[0] = function;
    all[1..=arguments.len()].copy_from_slice(arguments);
    call(Conduit::Hvc, all)
}

/// A page's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The pool's id.
    pub pool: u64,
    /// The object's three words.
    pub object: [u64; 3],
    /// The page of the object.
    pub index: u64,
}

impl Key {
    /// A key in an object with one small number.
    pub const fn new(pool: u64, object: u64, index: u64) -> Key {
        Key { pool, object: [object, 0, 0], index }
    }
}

/// The arguments of PUT and GET.
pub fn page_arguments(function: u64, key: Key, address: u64, pages: u64) -> [u64; 8] {
    let [first, second, third] = key.object;
    [function, key.pool, first, second, third, key.index, address, pages]
}

/// PUT of a run.
pub fn put(key: Key, address: u64, pages: u64) -> Answer {
    call(Conduit::Hvc, page_arguments(function::PUT, key, address, pages))
}

/// GET of a run. The pages at `address` must be the caller's.
pub fn get(key: Key, address: u64, pages: u64) -> Answer {
    call(Conduit::Hvc, page_arguments(function::GET, key, address, pages))
}

/// FLUSH_PAGE of a run.
pub fn flush_page(key: Key, pages: u64) -> Answer {
    call(Conduit::Hvc, page_arguments(function::FLUSH_PAGE, key, UNNAMED, pages))
}

/// FLUSH_OBJECT.
pub fn flush_object(pool: u64, object: [u64; 3]) -> Answer {
    hvc(function::FLUSH_OBJECT, &[pool, object[0], object[1], object[2]])
}

/// FLUSH_POOL.
pub fn flush_pool(pool: u64) -> Answer {
    hvc(function::FLUSH_POOL, &[pool])
}

/// POOL_CREATE of a private pool.
pub fn create_private(page_bits: u64) -> Answer {
    hvc(function::POOL_CREATE, &[page_bits])
}

/// POOL_CREATE of a shared pool.
pub fn create_shared(page_bits: u64, uuid: [u64; 2]) -> Answer {
    hvc(function::POOL_CREATE, &[page_bits | SHARED, uuid[0], uuid[1]])
}

/// POOL_DESTROY.
pub fn destroy(pool: u64) -> Answer {
    hvc(function::POOL_DESTROY, &[pool])
}

/// RECLAIM.
pub fn reclaim(address: u64, pages: u64) -> Answer {
    hvc(function::RECLAIM, &[address, pages])
}

/// RELEASE.
pub fn release(address: u64, pages: u64) -> Answer {
    hvc(function::RELEASE, &[address, pages])
}

/// QUERY.
pub fn query(address: u64) -> Answer {
    hvc(function::QUERY, &[address])
}

/// VERSION.
pub fn version() -> Answer {
    hvc(function::VERSION, &[])
}

/// STATE.
pub fn state() -> Answer {
    hvc(function::STATE, &[])
}

/// REGION.
pub fn region(number: u64) -> Answer {
    hvc(function::REGION, &[number])
}

/// CENSUS.
pub fn census(region: u64, first: u64, frames: u64) -> Answer {
    hvc(function::CENSUS, &[region, first, frames])
}

/// One step of ACTIVATE.
pub fn activate(flags: u64, cursor: u64) -> Answer {
    hvc(function::ACTIVATE, &[flags, cursor])
}

/// One step of DEACTIVATE.
pub fn deactivate(cursor: u64) -> Answer {
    hvc(function::DEACTIVATE, &[cursor])
}

/// A statistic, which must exist.
pub fn statistic(number: u64) -> u64 {
    let answer = hvc(function::STATISTIC, &[number]);
    assert!(answer.ok(), "STATISTIC {number}: status {}", answer.status);
    answer.x1
}

/// All statistics.
pub fn statistics() -> [u64; statistic::COUNT as usize] {
    core::array::from_fn(|number| statistic(number as u64))
}

/// What happened, as EVENTS tells it.
pub mod event {
    /// The guest was entered.
    pub const GUEST_ENTERED: u64 = 1;
    /// A CPU was started.
    pub const CPU_STARTED: u64 = 2;
    /// An external abort was given to the guest.
    pub const ABORT_INJECTED: u64 = 3;
    /// An external abort ended a copy.
    pub const COPY_FAULT: u64 = 5;
    /// A page failed verification.
    pub const MISMATCH: u64 = 6;
    /// ACTIVATE came to its end.
    pub const ACTIVATED: u64 = 7;
    /// DEACTIVATE came to its end.
    pub const DEACTIVATED: u64 = 8;
    /// A pool was made or found.
    pub const POOL_CREATED: u64 = 9;
    /// A pool was destroyed.
    pub const POOL_DESTROYED: u64 = 10;
    /// A call was not passed on to firmware.
    pub const CALL_REFUSED: u64 = 11;
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its number.
    pub number: u64,
    /// What happened.
    pub kind: u64,
    /// Where.
    pub cpu: u64,
    /// What the kind says.
    pub argument: u64,
    /// Ticks of the counter.
    pub time: u64,
}

/// The first event from `number` on, by both calls; or the number to ask for later.
pub fn event_from(number: u64) -> Result<Event, u64> {
    let first = hvc(function::EVENTS, &[number, 0]);
    assert!(first.ok(), "EVENTS from {number}: status {}", first.status);
    if first.x2 == 0 {
        assert!(first.x3 == 0, "EVENTS without an event: {first:x?}");
        return Err(first.x1);
    }
    let second = hvc(function::EVENTS, &[first.x1, 1]);
    // Between the two the event may have been overwritten.
    let time = if second.x1 == first.x1 && second.x2 != 0 { second.x3 } else { 0 };
    let (kind, cpu) = (first.x2 & 0xff, first.x2 >> 8);
    Ok(Event { number: first.x1, kind, cpu, argument: first.x3, time })
}

/// The number that the next event will have.
pub fn next_event() -> u64 {
    event_from(u64::MAX).err().unwrap_or(u64::MAX)
}

/// Number of regions, from VERSION.
pub fn regions() -> u64 {
    (version().x3 >> 40) & 0xff
}
