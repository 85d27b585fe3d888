// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every documented error of every call, from one table, and the order in which arguments are
//! checked. COPY_FAULT needs memory that aborts: see the `absent=` argument.

use crate::abi::{self, Answer, Conduit, Key, function, status};
use crate::arena;
use crate::cases::claims::longest;
use crate::machine::machine;
use crate::prng::Random;
use crate::ranges::{PAGE, Range};
use crate::smp;
use crate::stash::{self, Pool};
use crate::tap::{Outcome, Stop, Test, check, fail, note, same};

/// Tests with tag storage.
pub const TESTS: &[Test] = &[
    ("P7 every documented error, by HVC and by SMC", every_error),
    ("P7 an external abort in a copy is COPY_FAULT", copy_fault),
    ("P4 copies that abort leave no frame behind, with claims on other CPUs", copy_fault_races),
];

/// One wrong call: what is wrong with it, its registers, its status.
type Row = (&'static str, [u64; 8], i64);

const BIG: u64 = u64::MAX;
use status::{COPY_FAULT, INVALID_ADDRESS, INVALID_PARAMETER, NO_SUCH_POOL, POOL_MISMATCH};

fn row(what: &'static str, function: u64, arguments: &[u64], status: i64) -> Row {
    let mut all = [0; 8];
    all[0] = function;
    all[1..=arguments.len()].copy_from_slice(arguments);
    (what, all, status)
}

fn run(rows: &[Row]) -> Outcome {
    for conduit in [Conduit::Hvc, Conduit::Smc] {
        for (what, arguments, status) in rows {
            let answer = abi::call(conduit, *arguments);
            if answer != Answer::only(*status) {
                fail!(
                    "{:#x} with {what}, by {conduit:?}: {answer:x?}, expected status {status} and 0s",
                    arguments[0]
                );
            }
        }
    }
    Ok(())
}

fn every_error() -> Outcome {
    use function::*;
    stash::active()?;
    let pool = Pool::private()?;
    let large = Pool::private_of(16)?;
    let shared = Pool::shared_of(14, [7, 8])?;
    let (source, destination) = stash::buffers(&pool);
    let kept = pool.key(1, 1);
    stash::put_kept(source, kept, 5)?;
    let gone = {
        let gone = Pool::private()?;
        gone.id
    };
    let ram = arena::take_aligned(64, 1 << 16).address();
    let regions = abi::regions();
    let frames = abi::region(0).x1;
    let storage = machine().regions.all()[0].storage;
    let end = abi::activate(0, 0).x2;

    run(&[
        row("a region too many", REGION, &[regions], INVALID_PARAMETER),
        row("region 2^64 - 1", REGION, &[BIG], INVALID_PARAMETER),
        row("region 2^32", REGION, &[1 << 32], INVALID_PARAMETER),
        row("a statistic too many", STATISTIC, &[abi::statistic::COUNT], INVALID_PARAMETER),
        row("statistic 2^64 - 1", STATISTIC, &[BIG], INVALID_PARAMETER),
        row("statistic 2^32", STATISTIC, &[1 << 32], INVALID_PARAMETER),
        row("a region too many", CENSUS, &[regions, 0, 1], INVALID_PARAMETER),
        row("a first frame beyond the region", CENSUS, &[0, frames, 1], INVALID_PARAMETER),
        row("a first frame of 2^64 - 1", CENSUS, &[0, BIG, BIG], INVALID_PARAMETER),
        row("no frames", CENSUS, &[0, 0, 0], INVALID_PARAMETER),
        row("form 2", EVENTS, &[0, 2], INVALID_PARAMETER),
        row("form 2^64 - 1", EVENTS, &[BIG, BIG], INVALID_PARAMETER),
        row("a page size of 2^0", POOL_CREATE, &[0], INVALID_PARAMETER),
        row("a page size of 2^11", POOL_CREATE, &[11], INVALID_PARAMETER),
        row("a page size of 2^13", POOL_CREATE, &[13], INVALID_PARAMETER),
        row("a page size of 2^15", POOL_CREATE, &[15], INVALID_PARAMETER),
        row("a page size of 2^17", POOL_CREATE, &[17], INVALID_PARAMETER),
        row("a page size of 2^255", POOL_CREATE, &[255], INVALID_PARAMETER),
        row("flag bit 9", POOL_CREATE, &[1 << 9 | 12], INVALID_PARAMETER),
        row("flag bit 32", POOL_CREATE, &[1 << 32 | 12], INVALID_PARAMETER),
        row("flag bit 63", POOL_CREATE, &[1 << 63 | 12], INVALID_PARAMETER),
        row("another page size", POOL_CREATE, &[abi::SHARED | 12, 7, 8], POOL_MISMATCH),
        row("another page size", POOL_CREATE, &[abi::SHARED | 16, 7, 8], POOL_MISMATCH),
        row("a destroyed pool", POOL_DESTROY, &[gone], NO_SUCH_POOL),
        row("pool 2^64 - 1", POOL_DESTROY, &[BIG], NO_SUCH_POOL),
        row("pool bit 32", POOL_DESTROY, &[pool.id | 1 << 32], NO_SUCH_POOL),
        row("a destroyed pool", FLUSH_OBJECT, &[gone, 1, 0, 0], NO_SUCH_POOL),
        row("pool bit 63", FLUSH_OBJECT, &[pool.id | 1 << 63, 1, 0, 0], NO_SUCH_POOL),
        row("a destroyed pool", FLUSH_POOL, &[gone], NO_SUCH_POOL),
        row("pool bit 40", FLUSH_POOL, &[pool.id | 1 << 40], NO_SUCH_POOL),
        row("a destroyed pool", FLUSH_PAGE, &[gone, 1, 0, 0, 1, 0, 1], NO_SUCH_POOL),
        row("a destroyed pool and no page", FLUSH_PAGE, &[gone, 1, 0, 0, 1, 0, 0], NO_SUCH_POOL),
        row("no page", FLUSH_PAGE, &[pool.id, 1, 0, 0, 1, 0, 0], INVALID_PARAMETER),
        row("2^32 pages", FLUSH_PAGE, &[pool.id, 1, 0, 0, 1, 0, 1 << 32], INVALID_PARAMETER),
        row("2^64 - 1 pages", FLUSH_PAGE, &[pool.id, 1, 0, 0, 1, 0, BIG], INVALID_PARAMETER),
        row("a run past the end", FLUSH_PAGE, &[pool.id, 1, 0, 0, BIG, 0, 2], INVALID_PARAMETER),
        row("flag bit 1", ACTIVATE, &[2, 0], INVALID_PARAMETER),
        row("flag bit 63", ACTIVATE, &[1 << 63, 0], INVALID_PARAMETER),
        row("a cursor beyond the end", ACTIVATE, &[0, end + 1], INVALID_PARAMETER),
        row("a cursor of 2^64 - 1", ACTIVATE, &[0, BIG], INVALID_PARAMETER),
        row("a cursor beyond the end", DEACTIVATE, &[end + 1], INVALID_PARAMETER),
        row("a cursor of 2^64 - 1", DEACTIVATE, &[BIG], INVALID_PARAMETER),
    ])?;

    for call in [PUT, GET] {
        let one = pool.id;
        run(&[
            row("a destroyed pool", call, &[gone, 1, 0, 0, 1, ram, 1], NO_SUCH_POOL),
            row("pool 2^64 - 1", call, &[BIG, 1, 0, 0, 1, ram, 1], NO_SUCH_POOL),
            row("pool bit 32", call, &[one | 1 << 32, 1, 0, 0, 1, ram, 1], NO_SUCH_POOL),
            row("nothing right", call, &[gone, 1, 0, 0, BIG, 1, 0], NO_SUCH_POOL),
            row("no page", call, &[one, 1, 0, 0, 1, ram, 0], INVALID_PARAMETER),
            row("65 pages", call, &[one, 1, 0, 0, 1, ram, 65], INVALID_PARAMETER),
            row("2^32 + 1 pages", call, &[one, 1, 0, 0, 1, ram, 1 << 32 | 1], INVALID_PARAMETER),
            row("2^64 - 1 pages", call, &[one, 1, 0, 0, 1, ram, BIG], INVALID_PARAMETER),
            row("a run past the end", call, &[one, 1, 0, 0, BIG, ram, 2], INVALID_PARAMETER),
            row("64 past the end", call, &[one, 1, 0, 0, BIG - 62, ram, 64], INVALID_PARAMETER),
            row("0 pages at 1", call, &[one, 1, 0, 0, 1, 1, 0], INVALID_PARAMETER),
            row("a run past the end at 1", call, &[one, 1, 0, 0, BIG, 1, 2], INVALID_PARAMETER),
            row("address + 1", call, &[one, 1, 0, 0, 1, ram + 1, 1], INVALID_ADDRESS),
            row("address + 2048", call, &[one, 1, 0, 0, 1, ram + 2048, 1], INVALID_ADDRESS),
            row("4 KiB alignment", call, &[large.id, 1, 0, 0, 1, ram + PAGE, 1], INVALID_ADDRESS),
            row("4 KiB alignment", call, &[shared.id, 1, 0, 0, 1, ram + PAGE, 1], INVALID_ADDRESS),
            row("address 0", call, &[one, 1, 0, 0, 1, 0, 1], INVALID_ADDRESS),
            row("the last page", call, &[one, 1, 0, 0, 1, BIG - 4095, 1], INVALID_ADDRESS),
            row("a wrap", call, &[one, 1, 0, 0, 1, BIG - 4095, 64], INVALID_ADDRESS),
            row("tag storage", call, &[one, 1, 0, 0, 1, storage.start, 1], INVALID_ADDRESS),
            row("the UART", call, &[one, 1, 0, 0, 1, 0x0900_0000, 1], INVALID_ADDRESS),
        ])?;
        for range in machine().no_map.all() {
            let last = range.end - PAGE;
            run(&[
                row("no-map", call, &[one, 1, 0, 0, 1, range.start, 1], INVALID_ADDRESS),
                row("no-map's end", call, &[one, 1, 0, 0, 1, last, 1], INVALID_ADDRESS),
            ])?;
        }
        for range in machine().ram.all() {
            let (first, last) = (range.start, range.end - PAGE);
            run(&[
                row("a run out of RAM", call, &[one, 1, 0, 0, 1, last, 2], INVALID_ADDRESS),
                row("a run into RAM", call, &[one, 1, 0, 0, 1, first - PAGE, 2], INVALID_ADDRESS),
            ])?;
        }
    }

    let first = machine().ram.all()[0].start;
    let last = machine().ram.all().last().map_or(0, |range| range.end);
    for call in [RECLAIM, RELEASE] {
        run(&[
            row("no page", call, &[ram, 0], INVALID_PARAMETER),
            row("no page at 1", call, &[1, 0], INVALID_PARAMETER),
            row("address + 1", call, &[ram + 1, 1], INVALID_ADDRESS),
            row("address + 2048", call, &[ram + 2048, 1], INVALID_ADDRESS),
            row("address 0", call, &[0, 1], INVALID_ADDRESS),
            row("the last page", call, &[BIG - 4095, 1], INVALID_ADDRESS),
            row("a wrap", call, &[ram, 1 << 52], INVALID_ADDRESS),
            row("2^64 - 1 pages", call, &[ram, BIG], INVALID_ADDRESS),
            row("tag storage", call, &[storage.start, 1], INVALID_ADDRESS),
            row("an end in tag storage", call, &[storage.start - PAGE, 2], INVALID_ADDRESS),
            row("a run into RAM", call, &[first - PAGE, 2], INVALID_ADDRESS),
            row("a run out of RAM", call, &[last - PAGE, 2], INVALID_ADDRESS),
        ])?;
    }
    run(&[
        row("address + 1", QUERY, &[ram + 1], INVALID_ADDRESS),
        row("address 0", QUERY, &[0], INVALID_ADDRESS),
        row("2^64 - 1", QUERY, &[BIG], INVALID_ADDRESS),
        row("the last page", QUERY, &[BIG - 4095], INVALID_ADDRESS),
        row("tag storage", QUERY, &[storage.start], INVALID_ADDRESS),
    ])?;

    // What failed has changed nothing.
    check!(abi::create_shared(14, [7, 8]).x1 == shared.id, "the shared pool is another one");
    stash::get_hit(destination, kept, 5)
}

/// A page size, whether GET leaves pages there, and whether they are verified.
type Way = (u64, bool, bool);

const WAYS: [Way; 8] = [
    (12, false, false),
    (12, true, true),
    (14, false, true),
    (14, true, false),
    (16, false, false),
    (16, true, true),
    (12, false, true),
    (16, false, true),
];

fn pool_of((bits, shared, _): Way) -> Result<Pool, Stop> {
    if shared { Pool::shared_of(bits, [0xab, bits]) } else { Pool::private_of(bits) }
}

fn absent_memory() -> Result<Range, Stop> {
    machine().absent.ok_or(Stop::Skipped("no memory of this machine aborts (absent=)"))
}

fn copy_fault() -> Outcome {
    let absent = absent_memory()?;
    for way in WAYS {
        let (bits, _, verify) = way;
        stash::deactivate()?;
        stash::activate(if verify { abi::VERIFY } else { 0 })?;
        let before = abi::statistic(abi::statistic::COPY_FAULTS);
        let pool = pool_of(way)?;
        let (source, destination) = stash::buffers(&pool);
        let key = pool.key(1, bits);
        let nowhere = absent.start.next_multiple_of(1 << bits);
        let event = abi::next_event();
        // A put that fails leaves no earlier page.
        stash::put_kept(source, key, 1)?;
        let answer = abi::put(key, nowhere, 1);
        check!(answer == Answer::of(COPY_FAULT, 1, 0, 0), "PUT from nowhere, {way:?}: {answer:x?}");
        stash::get_miss(destination, key)?;
        // A get that fails drops the page, of a shared pool too.
        stash::put_kept(source, key, 2)?;
        let answer = abi::get(key, nowhere, 1);
        check!(answer == Answer::of(COPY_FAULT, 1, 0, 0), "GET to nowhere, {way:?}: {answer:x?}");
        stash::get_miss(destination, key)?;
        stash::put_kept(source, key, 3)?;
        stash::get_hit(destination, key, 3)?;
        for number in [event, event + 1] {
            let is = abi::event_from(number);
            check!(
                is.is_ok_and(|is| (is.kind, is.argument) == (abi::event::COPY_FAULT, nowhere)),
                "event {number} after copies from and to {nowhere:#x}: {is:x?}"
            );
        }
        // Runs: each page of them fails, and no frame stays behind.
        let pages = 8 >> ((bits - 12) / 2);
        let runs = abi::put(key, nowhere, pages);
        check!(runs == Answer::of(COPY_FAULT, pages, 0, 0), "PUT of a run, {way:?}: {runs:x?}");
        for number in 0..pages {
            stash::put_kept(source, Key { index: key.index + number, ..key }, number)?;
        }
        let runs = abi::get(key, nowhere, pages);
        check!(runs == Answer::of(COPY_FAULT, pages, 0, 0), "GET of a run, {way:?}: {runs:x?}");
        let faults = abi::statistic(abi::statistic::COPY_FAULTS) - before;
        check!(faults >= 2 + 2 * pages, "{} copies failed, {faults} counted", 2 + 2 * pages);
        frames_come_back(&pool)?;
    }
    stash::fresh()
}

/// Every frame can be claimed at once, and used again after that: none is left as being written,
/// for which a claim would wait for ever.
fn frames_come_back(pool: &Pool) -> Outcome {
    for region in machine().regions.all() {
        let piece = longest(region);
        let claim = stash::Claim::of(piece.start, piece.pages())?;
        drop(claim);
    }
    let census = stash::census()?;
    check!(census.tags == 0, "after claims of everything and their release: {census:?}");
    let kept = stash::flood(pool, 0xfa, 2 * machine().frames() / pool.parts);
    kept.map(|_| ())
}

/// Some CPUs put from where nothing is and get to it, others claim and release the blocks.
fn copy_fault_races() -> Outcome {
    let absent = absent_memory()?;
    smp::need(2)?;
    stash::fresh()?;
    let pools = [12, 14, 16].map(Pool::private_of);
    let [Ok(small), Ok(middle), Ok(large)] = &pools else { fail!("no pools") };
    let before = abi::statistic(abi::statistic::COPY_FAULTS);
    let piece = longest(&machine().regions.all()[0]);
    let sources = arena::take_aligned(16 * smp::cpus() as u64, 1 << 16);
    smp::on_all(&|number| {
        let mut random = Random::new(0xfa17 + number as u64);
        for round in 0..3000 {
            if number % 2 == 1 {
                let page = piece.start + random.below(piece.pages() - 64) * PAGE;
                let pages = 1 + random.below(64);
                let answer = abi::reclaim(page, pages);
                check!(answer.ok() && answer.x1 == pages, "RECLAIM of {pages} pages: {answer:x?}");
                abi::release(page, pages);
                continue;
            }
            let pool = [small, middle, large][round % 3];
            let key = pool.key(number as u64, random.below(500));
            let nowhere = absent.start.next_multiple_of(1 << 16);
            let source = sources.part(16 * number as u64, pool.parts);
            let put = abi::put(key, if random.chance(50) { nowhere } else { source.address() }, 1);
            let known = [status::SUCCESS, status::NOT_CACHED, COPY_FAULT];
            check!(known.contains(&put.status), "PUT: {put:x?}");
            if random.chance(50) {
                let get = abi::get(key, nowhere, 1);
                check!([status::MISS, COPY_FAULT].contains(&get.status), "GET: {get:x?}");
            }
        }
        Ok(())
    })?;
    let faults = abi::statistic(abi::statistic::COPY_FAULTS) - before;
    note!("{faults} copies ended by an abort");
    check!(faults > 500, "only {faults} copies ended by an abort");
    frames_come_back(small)?;
    drop(pools);
    same!(stash::census()?.tags, 0, "frames in tags");
    Ok(())
}
