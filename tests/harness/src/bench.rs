// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bench: what every call of docs/abi.md costs, in instructions, as lines for `tests/costs.py`.
//!
//! ```text
//! cost NAME PER COUNTxCALLS COUNTxCALLS ...
//! ```
//!
//! PER is the number of things that one call dealt with (pages of a run, blocks). Every value that
//! was counted is there, so that whoever reads the lines makes the statistics.
//!
//! `part=` picks what is measured: `calls`, each call in each of its cases, in a stash that holds
//! what the case needs; `claims`, the same of RECLAIM and RELEASE alone, for other layouts;
//! `states`, the calls that kernels make often, whatever the ledger and the stash hold.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::abi::{self, Key, function, statistic, status};
use crate::arena::{self, Pages};
use crate::cases::longest;
use crate::console::println;
use crate::cpu;
use crate::machine::machine;
use crate::prng::Random;
use crate::ranges::{PAGE, Range};
use crate::stash::{self, Pool};
use crate::tap::{Outcome, Stop, check, fail, same};

/// How often each case is measured.
const CALLS: u64 = 64;
/// Pages of the runs that are measured: a page-cache batch.
const RUN: u64 = 16;
/// Frames in which a page may lie, as docs/abi.md says of PUT's cost.
const CANDIDATES: u64 = 16;

/// Measures and prints.
pub fn run() -> Outcome {
    check!(machine().expects_storage(), "a machine without tag storage has little to measure");
    for _ in 0..8 {
        let own = cpu::timed_sixteen().wrapping_sub(cpu::timed_nothing());
        check!(
            cpu::counter_frequency() == 1_000_000_000 && own == 16,
            "a tick of the counter is no instruction: this needs -icount shift=0 and -cpu max"
        );
    }
    // SAFETY: nothing was taken before.
    unsafe { arena::reset() };
    println!("shape {} {}", machine().frames(), machine().regions.all()[0].block);
    match machine().argument("part") {
        Some("calls") => {
            floor();
            information()?;
            pools()?;
            pages()?;
            refusals()?;
            large_pages(14, "16k")?;
            large_pages(16, "64k")?;
            verification()?;
            claims()?;
            blocks()?;
            errors()
        }
        Some("claims") => claims(),
        Some("states") => states(),
        other => fail!("part= is {other:?}, and should be calls, claims or states"),
    }
}

// ---- counting -------------------------------------------------------------------------------

/// The numbers of instructions that a case took, each with how often it did.
struct Cost {
    name: &'static str,
    /// Things that one call deals with.
    per: u64,
    /// Instructions in the high half, calls in the low half; 0 behind the last.
    counts: &'static [AtomicU64],
}

impl Cost {
    fn of(name: &'static str) -> Cost {
        Cost::per(name, 1)
    }

    fn per(name: &'static str, per: u64) -> Cost {
        Cost { name, per, counts: arena::shared_longs(PAGE / 8) }
    }

    /// Notes one call.
    fn add(&self, instructions: u64) {
        for count in self.counts {
            let now = count.load(Ordering::Relaxed);
            if now == 0 || now >> 32 == instructions {
                count.store((instructions << 32) + (now & 0xffff_ffff) + 1, Ordering::Relaxed);
                return;
            }
        }
        panic!("{}: more different counts than there is room for", self.name);
    }

    /// Makes a call and notes what it takes. Its status and `x1`-`x3`.
    fn call(&self, arguments: [u64; 8]) -> abi::Answer {
        let (instructions, answer) = timed(arguments);
        self.add(instructions);
        answer
    }

    /// As [`call`](Self::call); the status must be `wanted`.
    fn call_for(&self, wanted: i64, arguments: [u64; 8]) -> Result<abi::Answer, Stop> {
        let answer = self.call(arguments);
        same!(answer.status, wanted, "{}: status", self.name);
        Ok(answer)
    }

    fn calls(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed) & 0xffff_ffff).sum()
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "cost {} {}", self.name, self.per)?;
        for count in self.counts.iter().map(|count| count.load(Ordering::Relaxed)) {
            if count != 0 {
                write!(formatter, " {}x{}", count >> 32, count & 0xffff_ffff)?;
            }
        }
        Ok(())
    }
}

/// Printed at its end.
impl Drop for Cost {
    fn drop(&mut self) {
        println!("{self}");
    }
}

/// A call's instructions, from the HVC to the one behind it, and its answer.
fn timed(arguments: [u64; 8]) -> (u64, abi::Answer) {
    // SAFETY: pages in the arguments are the bench's own.
    let (ticks, [status, x1, x2, x3]) = unsafe { cpu::timed_hvc(&arguments) };
    let own = cpu::timed_nothing();
    (ticks - own, abi::Answer::of(status as i64, x1, x2, x3))
}

/// The registers of a call with few arguments.
fn plain(function: u64, arguments: &[u64]) -> [u64; 8] {
    let mut all = [0; 8];
    all[0] = function;
    all[1..=arguments.len()].copy_from_slice(arguments);
    all
}

/// The registers of PUT, GET and FLUSH_PAGE of one page.
fn page(function: u64, key: Key, pages: Pages) -> [u64; 8] {
    abi::page_arguments(function, key, pages.address(), 1)
}

fn object(function: u64, pool: &Pool, object: u64) -> [u64; 8] {
    plain(function, &[pool.id, object, 0, 0])
}

fn claim(function: u64, address: u64, pages: u64) -> [u64; 8] {
    plain(function, &[address, pages])
}

// ---- the floor ------------------------------------------------------------------------------

/// What no call can do without: the null call, a bare copy, and the cache maintenance of a claim.
fn floor() {
    let (null, copy) = (Cost::of("version"), Cost::of("floor.copy"));
    let maintenance = Cost::of("floor.maintenance");
    let pages = arena::take(2);
    for _ in 0..CALLS {
        null.call(plain(function::VERSION, &[]));
        // SAFETY: the pages are ours.
        let ticks = unsafe { cpu::timed_copy(pages.address(), pages.address() + PAGE) };
        copy.add(ticks - cpu::timed_nothing());
        let begin = cpu::counter();
        maintain(pages.address(), pages.address() + PAGE);
        maintenance.add(cpu::counter() - begin - cpu::timed_nothing());
    }
}

/// What a claim of a page does to the caches when its block of one frame enters tags, with the
/// loop of `src/el2/cache.rs`, line sizes from CTR_EL0 included.
#[inline(never)]
fn maintain(data: u64, frame: u64) {
    let cache_type = cpu::read_register!("ctr_el0");
    let data_line = 4 << (cache_type >> 16 & 0xf);
    let tag_line = match cache_type >> 32 & 0x3f {
        0 => data_line,
        log2_words => (4u64 << log2_words.min(16)).clamp(16, data_line.max(16)),
    };
    cpu::dsb_inner();
    each_line(Range::of(data, PAGE), tag_line, cpu::clean_and_invalidate_tag_line);
    cpu::dsb_inner();
    each_line(Range::of(frame, PAGE), data_line, cpu::clean_and_invalidate_line);
    cpu::dsb();
}

#[inline(always)]
fn each_line(range: Range, step: u64, line: impl Fn(u64)) {
    const UNROLLED: u64 = 8;
    let mut address = range.start & !(step - 1);
    let lines = range.end.saturating_sub(address).wrapping_add(step - 1) >> step.trailing_zeros();
    let mut lines_at_once = |count| {
        for _ in 0..count {
            line(address);
            address = address.wrapping_add(step);
        }
    };
    for _ in 0..lines / UNROLLED {
        lines_at_once(UNROLLED);
    }
    lines_at_once(lines % UNROLLED);
}

// ---- calls that tell ------------------------------------------------------------------------

fn information() -> Outcome {
    stash::active()?;
    let costs = [
        ("uid", plain(function::UID, &[])),
        ("revision", plain(function::REVISION, &[])),
        ("region", plain(function::REGION, &[0])),
        ("statistic", plain(function::STATISTIC, &[statistic::HITS])),
        ("census.1", plain(function::CENSUS, &[0, 0, 1])),
        ("census.4096", plain(function::CENSUS, &[0, 0, 4096])),
        ("state", plain(function::STATE, &[])),
        ("events.found", plain(function::EVENTS, &[0, 0])),
        ("events.none", plain(function::EVENTS, &[u64::MAX, 0])),
    ];
    for (name, arguments) in costs {
        let cost = Cost::of(name);
        for _ in 0..CALLS {
            let answer = cost.call(arguments);
            if name == "census.4096" {
                same!(answer.x1, 4096, "frames counted");
            }
        }
    }
    let cost = Cost::of("query");
    let region = machine().regions.all()[0];
    for at in 0..CALLS {
        cost.call_for(0, plain(function::QUERY, &[longest(&region).start + at * PAGE]))?;
    }
    Ok(())
}

fn pools() -> Outcome {
    stash::active()?;
    let (private, made) = (Cost::of("pool_create.private"), Cost::of("pool_create.shared"));
    let (found, destroyed) = (Cost::of("pool_create.found"), Cost::of("pool_destroy"));
    let create = |cost: &Cost, flags: u64, n: u64| -> Result<u64, Stop> {
        Ok(cost.call_for(0, plain(function::POOL_CREATE, &[12 | flags, 7, n]))?.x1)
    };
    // Places fill up, so that the last looks at all of them. Half of each kind.
    let mut ids = [0; 64];
    for n in 0..32 {
        ids[n as usize] = create(&private, 0, n)?;
        ids[32 + n as usize] = create(&made, abi::SHARED, n)?;
        same!(create(&found, abi::SHARED, n)?, ids[32 + n as usize], "the shared pool found");
        same!(create(&found, abi::SHARED, n / 2)?, ids[32 + n as usize / 2], "the pool found");
    }
    for id in ids {
        destroyed.call_for(0, plain(function::POOL_DESTROY, &[id]))?;
    }
    for n in 0..32 {
        ids[n as usize] = create(&private, 0, n)?;
        ids[32 + n as usize] = create(&made, abi::SHARED, n)?;
    }
    for id in ids {
        abi::destroy(id);
    }
    Ok(())
}

// ---- pages ----------------------------------------------------------------------------------

/// Puts pages of an object that nobody looks at, until the stash is full.
fn fill(pool: &Pool, object: u64, source: Pages, count: u64) {
    for index in 0..count {
        abi::put(pool.key(object, index), source.address(), 1);
    }
}

/// Calls on 4 KiB pages.
fn pages() -> Outcome {
    stash::fresh()?;
    let pool = Pool::private()?;
    let (source, destination) = stash::buffers(&pool);
    let (free, replaced) = (Cost::of("put.free"), Cost::of("put.replacing"));
    let (hit, miss) = (Cost::of("get.hit"), Cost::of("get.miss"));
    let (there, gone) = (Cost::of("flush_page.there"), Cost::of("flush_page.gone"));
    let (flush_object, flush_pool) = (Cost::of("flush_object"), Cost::of("flush_pool"));
    let stale = Cost::of("get.stale");
    for index in 0..CALLS {
        let key = pool.key(1, index);
        free.call_for(0, page(function::PUT, key, source))?;
        replaced.call_for(0, page(function::PUT, key, source))?;
        hit.call_for(0, page(function::GET, key, destination))?;
        miss.call_for(status::MISS, page(function::GET, key, destination))?;
        abi::put(key, source.address(), 1);
        there.call_for(0, page(function::FLUSH_PAGE, key, source))?;
        gone.call_for(0, page(function::FLUSH_PAGE, key, source))?;
        abi::put(key, source.address(), 1);
        flush_object.call_for(0, object(function::FLUSH_OBJECT, &pool, 1))?;
        stale.call_for(status::MISS, page(function::GET, key, destination))?;
        flush_pool.call_for(0, plain(function::FLUSH_POOL, &[pool.id]))?;
    }
    runs(&pool)?;

    let shared = Pool::shared()?;
    let found = Cost::of("get.shared");
    for index in 0..CALLS {
        let key = shared.key(1, index);
        abi::put(key, source.address(), 1);
        found.call_for(0, page(function::GET, key, destination))?;
    }
    // Full, so that most puts evict; some find a frame that is free still. Hits leave a shared
    // pool's pages where they are.
    fill(&shared, 2, source, 3 * machine().frames());
    let evicting = Cost::of("put.evicting");
    let evictions = || abi::statistic(statistic::EVICTIONS);
    for index in 0..16 * CALLS {
        let before = evictions();
        let (instructions, answer) = timed(page(function::PUT, pool.key(3, index), source));
        same!(answer.status, 0, "PUT into a full stash");
        if evictions() == before + 1 {
            evicting.add(instructions);
        }
    }
    check!(evicting.calls() >= CALLS, "only {} puts evicted", evicting.calls());
    Ok(())
}

/// Runs of pages.
fn runs(pool: &Pool) -> Outcome {
    let (put, got) = (Cost::per("put.run16", RUN), Cost::per("get.run16", RUN));
    let flushed = Cost::per("flush_page.run16", RUN);
    let source = arena::take(RUN);
    let run =
        |function, n| abi::page_arguments(function, pool.key(4, n * RUN), source.address(), RUN);
    for n in 0..CALLS {
        put.call_for(0, run(function::PUT, n))?;
        got.call_for(0, run(function::GET, n))?;
        abi::put(pool.key(4, n * RUN), source.address(), RUN);
        flushed.call_for(0, run(function::FLUSH_PAGE, n))?;
    }
    Ok(())
}

/// A put that finds no frame: all are in tags.
fn refusals() -> Outcome {
    let pool = Pool::private()?;
    let (source, _) = stash::buffers(&pool);
    let everything = Everything::claimed()?;
    let refused = Cost::of("put.refused");
    // The shim's own memory and other holes are no guest RAM: their frames take some pages first.
    for index in 0..16 * CALLS {
        let (instructions, answer) = timed(page(function::PUT, pool.key(6, index), source));
        if answer.status == status::NOT_CACHED {
            refused.add(instructions);
        }
    }
    check!(refused.calls() >= CALLS, "only {} puts were refused", refused.calls());
    everything.release()
}

/// Pages of several parts.
fn large_pages(bits: u64, size: &'static str) -> Outcome {
    stash::active()?;
    let pool = Pool::private_of(bits)?;
    let (source, destination) = stash::buffers(&pool);
    let of_16k = size == "16k";
    let (put, hit) = if of_16k { ("put.16k", "get.16k") } else { ("put.64k", "get.64k") };
    let (put, hit) = (Cost::per(put, pool.parts), Cost::per(hit, pool.parts));
    for index in 0..CALLS {
        let key = pool.key(7, index);
        put.call_for(0, page(function::PUT, key, source))?;
        hit.call_for(0, page(function::GET, key, destination))?;
    }
    Ok(())
}

/// Pages with a CRC.
fn verification() -> Outcome {
    stash::deactivate()?;
    stash::activate(abi::VERIFY)?;
    let pool = Pool::private()?;
    let (source, destination) = stash::buffers(&pool);
    let (put, hit) = (Cost::of("put.verified"), Cost::of("get.verified"));
    for index in 0..CALLS {
        let key = pool.key(8, index);
        put.call_for(0, page(function::PUT, key, source))?;
        hit.call_for(0, page(function::GET, key, destination))?;
    }
    Ok(())
}

// ---- claims ---------------------------------------------------------------------------------

/// All of memory.
struct Everything {
    start: u64,
    pages: u64,
}

impl Everything {
    fn claimed() -> Result<Everything, Stop> {
        let ram = machine().ram.all();
        let (start, end) = (ram[0].start, ram[ram.len() - 1].end);
        let pages = (end - start) / PAGE;
        same!(abi::reclaim(start, pages).x1, pages, "pages of everything that RECLAIM dealt with");
        Ok(Everything { start, pages })
    }

    fn release(&self) -> Outcome {
        same!(abi::release(self.start, self.pages).x1, self.pages, "pages that RELEASE dealt with");
        Ok(())
    }
}

/// Blocks of the first region whose data are guest RAM as a whole.
fn whole_blocks() -> impl Iterator<Item = Range> {
    let region = machine().regions.all()[0];
    (0..region.blocks())
        .map(move |number| region.data_of_block(number))
        .filter(|data| machine().is_ram(*data))
}

/// RECLAIM and RELEASE.
fn claims() -> Outcome {
    stash::fresh()?;
    single_claims()?;
    runs_of_claims()?;
    stash::deactivate()?;
    let dormant = Cost::of("reclaim.dormant");
    for data in whole_blocks().take(CALLS as usize) {
        same!(dormant.call(claim(function::RECLAIM, data.start, 1)).x2, 1, "RECLAIM, dormant");
    }
    let ram = machine().ram.all().iter().rev();
    let last = ram.map(|range| range.end - PAGE);
    let first = machine().ram.all().iter().map(|range| range.start);
    let without = last.chain(first).find(|page| machine().region_of(*page).is_none());
    if let Some(address) = without {
        let none = Cost::of("reclaim.without");
        for _ in 0..CALLS {
            same!(none.call(claim(function::RECLAIM, address, 1)).x2, 0, "RECLAIM without tags");
        }
    }
    stash::deactivate()
}

/// One page a call.
fn single_claims() -> Outcome {
    let free = Cost::of("reclaim.free");
    let (held, further) = (Cost::of("reclaim.held"), Cost::of("reclaim.further"));
    let (more, last) = (Cost::of("release.not_last"), Cost::of("release.last"));
    let refused = Cost::of("release.not_claimed");
    for data in whole_blocks().take(CALLS as usize) {
        let (first, second) = (data.start, data.end - PAGE);
        same!(free.call(claim(function::RECLAIM, first, 1)).x2, 1, "RECLAIM");
        same!(held.call(claim(function::RECLAIM, first, 1)).x2, 0, "RECLAIM again");
        same!(further.call(claim(function::RECLAIM, second, 1)).x2, 1, "RECLAIM of another page");
        same!(more.call(claim(function::RELEASE, first, 1)).x2, 1, "RELEASE");
        same!(last.call(claim(function::RELEASE, second, 1)).x2, 1, "RELEASE of the last");
        refused.call_for(status::NOT_CLAIMED, claim(function::RELEASE, second, 1))?;
    }
    let pool = Pool::shared()?;
    let (source, _) = stash::buffers(&pool);
    fill(&pool, 5, source, 4 * machine().frames());
    let cached = Cost::of("reclaim.cached");
    let dropped = || abi::statistic(statistic::PAGES_DROPPED);
    let frames = machine().regions.all()[0].frames_of_block();
    for data in whole_blocks().take(2 * CALLS as usize) {
        let before = dropped();
        let (instructions, _) = timed(claim(function::RECLAIM, data.start, 1));
        if dropped() == before + frames {
            cached.add(instructions);
        }
        abi::release(data.start, 1);
    }
    check!(cached.calls() >= CALLS, "only {} claims found all frames cached", cached.calls());
    Ok(())
}

/// Many pages a call.
fn runs_of_claims() -> Outcome {
    let pages = machine().regions.all()[0].pages_of_block();
    let block = Cost::of("reclaim.block");
    let released = Cost::of("release.block");
    for data in whole_blocks().take(CALLS as usize) {
        let answer = block.call(claim(function::RECLAIM, data.start, pages));
        same!(answer.x2, pages, "RECLAIM of a block's pages");
        let answer = released.call(claim(function::RELEASE, data.start, pages));
        same!(answer.x2, pages, "RELEASE of a block's pages");
    }
    // 2 MiB, as a huge page.
    let blocks = (512 / pages).max(1);
    let (huge, back) = (Cost::per("reclaim.2mib", blocks), Cost::per("release.2mib", blocks));
    let piece = longest(&machine().regions.all()[0]);
    let start =
        whole_blocks().find(|data| piece.holds(*data)).map_or(piece.start, |data| data.start);
    for n in 0..CALLS {
        let address = start + n * (2 << 20);
        same!(huge.call(claim(function::RECLAIM, address, 512)).x2, 512, "RECLAIM of 2 MiB");
        same!(back.call(claim(function::RELEASE, address, 512)).x2, 512, "RELEASE of 2 MiB");
    }
    Ok(())
}

/// ACTIVATE and DEACTIVATE of blocks whose data are guest RAM, as many a call as one deals with.
fn blocks() -> Outcome {
    const MOST: u64 = 256;
    const ROUNDS: u64 = 8;
    stash::deactivate()?;
    let region = machine().regions.all()[0];
    let piece = longest(&region);
    let mut ahead = (0..region.blocks()).filter(|n| piece.holds(region.data_of_block(*n)));
    let first = ahead.next().unwrap_or(0);
    check!(ahead.count() as u64 + 1 >= MOST, "not {MOST} blocks with memory in a row");
    let data = region.data_of_block(first);
    let (lent, again) = (Cost::per("activate", MOST), Cost::per("activate.active", MOST));
    let free = Cost::per("deactivate.free", MOST);
    let claimed = Cost::per("deactivate.claimed", MOST);
    let step = |cost: &Cost, function: u64| -> Outcome {
        let arguments = if function == function::ACTIVATE { [0, first] } else { [first, 0] };
        let answer = cost.call_for(0, plain(function, &arguments))?;
        same!(answer.x1, first + MOST, "{}: cursor", cost.name);
        Ok(())
    };
    for _ in 0..ROUNDS {
        step(&lent, function::ACTIVATE)?;
        step(&again, function::ACTIVATE)?;
        step(&free, function::DEACTIVATE)?;
        step(&lent, function::ACTIVATE)?;
        let pages = MOST * region.pages_of_block();
        same!(abi::reclaim(data.start, pages).x2, pages, "pages newly claimed");
        step(&claimed, function::DEACTIVATE)?;
    }
    stash::deactivate()
}

/// Every error that one CPU can bring about.
fn errors() -> Outcome {
    stash::active()?;
    let cost = Cost::of("errors");
    let pool = Pool::private()?;
    let shared = Pool::shared()?;
    let (source, _) = stash::buffers(&pool);
    let (key, address) = (pool.key(1, 0), source.address());
    let other = Key { pool: pool.id + 1, ..key };
    let last = Key { index: u64::MAX, ..key };
    let uuid = [0x5ba2_ed00, 0x1234_5678];
    let wrong = [
        (status::NOT_SUPPORTED, plain(0xc600_01ff, &[])),
        (status::NOT_SUPPORTED, plain(0xc600_0142, &[])),
        (status::NOT_SUPPORTED, plain(0x8600_0100, &[])),
        (status::INVALID_PARAMETER, plain(function::REGION, &[u64::MAX])),
        (status::INVALID_PARAMETER, plain(function::STATISTIC, &[statistic::COUNT])),
        (status::INVALID_PARAMETER, plain(function::CENSUS, &[0, 0, 0])),
        (status::INVALID_PARAMETER, plain(function::CENSUS, &[0, u64::MAX, 1])),
        (status::INVALID_PARAMETER, plain(function::CENSUS, &[99, 0, 1])),
        (status::INVALID_PARAMETER, plain(function::EVENTS, &[0, 2])),
        (status::INVALID_PARAMETER, plain(function::POOL_CREATE, &[13])),
        (status::INVALID_PARAMETER, plain(function::POOL_CREATE, &[12 | 1 << 9])),
        (
            status::POOL_MISMATCH,
            plain(function::POOL_CREATE, &[14 | abi::SHARED, uuid[0], uuid[1]]),
        ),
        (status::NO_SUCH_POOL, plain(function::POOL_DESTROY, &[u64::MAX])),
        (status::NO_SUCH_POOL, page(function::PUT, other, source)),
        (status::NO_SUCH_POOL, page(function::GET, other, source)),
        (status::NO_SUCH_POOL, page(function::FLUSH_PAGE, other, source)),
        (status::NO_SUCH_POOL, plain(function::FLUSH_OBJECT, &[other.pool])),
        (status::NO_SUCH_POOL, plain(function::FLUSH_POOL, &[other.pool])),
        (status::INVALID_PARAMETER, abi::page_arguments(function::PUT, key, address, 0)),
        (status::INVALID_PARAMETER, abi::page_arguments(function::PUT, key, address, 65)),
        (status::INVALID_PARAMETER, abi::page_arguments(function::PUT, last, address, 2)),
        (status::INVALID_PARAMETER, abi::page_arguments(function::GET, key, address, 0)),
        (status::INVALID_PARAMETER, abi::page_arguments(function::FLUSH_PAGE, key, address, 0)),
        (status::INVALID_ADDRESS, abi::page_arguments(function::PUT, key, address + 8, 1)),
        (status::INVALID_ADDRESS, abi::page_arguments(function::PUT, key, 0, 1)),
        (status::INVALID_ADDRESS, abi::page_arguments(function::GET, key, u64::MAX - 4095, 2)),
        (status::INVALID_PARAMETER, claim(function::RECLAIM, address, 0)),
        (status::INVALID_ADDRESS, claim(function::RECLAIM, address + 1, 1)),
        (status::INVALID_ADDRESS, claim(function::RECLAIM, address, u64::MAX)),
        (status::INVALID_PARAMETER, claim(function::RELEASE, address, 0)),
        (status::INVALID_ADDRESS, claim(function::RELEASE, 0, 1)),
        (status::INVALID_ADDRESS, plain(function::QUERY, &[address + 8])),
        (status::INVALID_PARAMETER, plain(function::ACTIVATE, &[2, 0])),
        (status::INVALID_PARAMETER, plain(function::ACTIVATE, &[0, u64::MAX])),
        (status::INVALID_PARAMETER, plain(function::DEACTIVATE, &[u64::MAX])),
    ];
    for (wanted, arguments) in wrong.iter().chain(&wrong) {
        let answer = cost.call(*arguments);
        same!(answer.status, *wanted, "status of {arguments:x?}");
    }
    // And with all pools made.
    let mut ids = [None; 64];
    for id in &mut ids {
        let answer = abi::create_private(12);
        *id = answer.ok().then_some(answer.x1);
    }
    let answer = cost.call(plain(function::POOL_CREATE, &[12]));
    same!(answer.status, status::NO_FREE_POOL, "POOL_CREATE when all are made");
    for id in ids.iter().flatten() {
        abi::destroy(*id);
    }
    drop(shared);
    Ok(())
}

// ---- every state ----------------------------------------------------------------------------

/// The calls that kernels make often, each by what came of it.
struct Often {
    put: Cost,
    put_refused: Cost,
    get_hit: Cost,
    get_miss: Cost,
    flush_there: Cost,
    flush_gone: Cost,
    flush_object: Cost,
    reclaim_held: Cost,
    reclaim_further: Cost,
    reclaim_entering: Cost,
    release: Cost,
    release_refused: Cost,
}

impl Often {
    fn new() -> Often {
        Often {
            put: Cost::of("any.put"),
            put_refused: Cost::of("any.put_refused"),
            get_hit: Cost::of("any.get_hit"),
            get_miss: Cost::of("any.get_miss"),
            flush_there: Cost::of("any.flush_page_there"),
            flush_gone: Cost::of("any.flush_page_gone"),
            flush_object: Cost::of("any.flush_object"),
            reclaim_held: Cost::of("any.reclaim_held"),
            reclaim_further: Cost::of("any.reclaim_further"),
            reclaim_entering: Cost::of("any.reclaim_entering"),
            release: Cost::of("any.release"),
            release_refused: Cost::of("any.release_not_claimed"),
        }
    }
}

/// Rounds of every call in each state.
const ROUNDS: u64 = 256;

/// Drives stash and ledger through their states, and counts every call in each.
fn states() -> Outcome {
    let often = Often::new();
    stash::deactivate()?;
    around(&often, 1)?;
    // In 64ths: no frame is claimed before, few, half, all but few, all of a set and more.
    for tagged in [0, 4, 32, 56, 64] {
        // Pages for each frame: an empty stash, a half full one, a full one.
        for halves in [0, 1, 6] {
            stash::fresh()?;
            let pool = Pool::shared()?;
            let (source, _) = stash::buffers(&pool);
            let mut random = Random::new(tagged << 8 | halves);
            for region in machine().regions.all() {
                for number in 0..region.blocks() {
                    let data = region.data_of_block(number);
                    let page = data.start + random.below(data.pages()) * PAGE;
                    if random.below(64) < tagged && machine().is_ram(Range::of(page, PAGE)) {
                        abi::reclaim(page, 1);
                    }
                }
            }
            fill(&pool, 9, source, halves * machine().frames() / 2);
            around(&often, tagged << 8 | halves)?;
            if halves == 6 {
                // Full of pages that were flushed.
                abi::flush_pool(pool.id);
                around(&often, tagged << 8 | 7)?;
            }
        }
    }
    stash::deactivate()
}

/// Makes every call in the state that there is.
fn around(often: &Often, seed: u64) -> Outcome {
    let (private, shared) = (Pool::private()?, Pool::shared_of(12, [1, seed])?);
    let (source, destination) = stash::buffers(&private);
    let mut random = Random::new(seed);
    for _ in 0..ROUNDS {
        let pool = if random.chance(50) { &private } else { &shared };
        let key = pool.key(random.below(8), random.below(4 * CANDIDATES));
        for _ in 0..2 {
            let (instructions, answer) = timed(page(function::PUT, key, source));
            let kept = answer.status == 0;
            (if kept { &often.put } else { &often.put_refused }).add(instructions);
        }
        let asked = match random.below(3) {
            0 => pool.key(random.below(8), random.below(4 * CANDIDATES)),
            1 => pool.key(99, random.next()),
            _ => key,
        };
        let (instructions, answer) = timed(page(function::GET, asked, destination));
        let hit = answer.status == 0;
        (if hit { &often.get_hit } else { &often.get_miss }).add(instructions);
        if random.chance(10) {
            often.flush_object.call(object(function::FLUSH_OBJECT, pool, random.below(8)));
            often.get_miss.call_for(status::MISS, {
                // Of an object that was never put, or was just flushed.
                page(function::GET, pool.key(100, random.next()), destination)
            })?;
        }
        // Whether it is there the next GET would say, and change; so put it first, or not.
        let there = random.chance(50) && stash::put_as_is(source, key)?;
        let flushed = if there { key } else { pool.key(101, random.next()) };
        let cost = if there { &often.flush_there } else { &often.flush_gone };
        cost.call_for(0, page(function::FLUSH_PAGE, flushed, source))?;
        claims_around(often, &mut random)?;
    }
    Ok(())
}

/// Claims and releases of pages, which are afterwards claimed or not as before.
fn claims_around(often: &Often, random: &mut Random) -> Outcome {
    let regions = machine().regions.all();
    let region = &regions[random.below(regions.len() as u64) as usize];
    let address = region.tagged.start + random.below(region.tagged.pages()) * PAGE;
    if !machine().is_ram(Range::of(address, PAGE)) {
        return Ok(());
    }
    let before = abi::query(address);
    let claimed = before.x1 & 2 != 0;
    let (instructions, answer) = timed(claim(function::RECLAIM, address, 1));
    same!(answer.x2, u64::from(!claimed), "pages newly claimed");
    (if claimed {
        &often.reclaim_held
    } else if before.x2 > 0 {
        &often.reclaim_further
    } else {
        &often.reclaim_entering
    })
    .add(instructions);
    often.release.call_for(0, claim(function::RELEASE, address, 1))?;
    often.release_refused.call_for(status::NOT_CLAIMED, claim(function::RELEASE, address, 1))?;
    if claimed {
        abi::reclaim(address, 1);
    }
    Ok(())
}
