// SPDX-License-Identifier: MIT OR Apache-2.0
//! Claims: reclaim and release of pages and runs in any order, over block and region ends and
//! holes, and what QUERY, CENSUS and the statistics say of them.

use core::sync::atomic::Ordering::Relaxed;

use crate::abi::{self, Answer, Conduit, function, status};
use crate::arena;
use crate::machine::{Region, machine};
use crate::prng::Random;
use crate::ranges::{PAGE, Range};
use crate::stash::{self, Claim, Pool};
use crate::tap::{Outcome, Stop, Test, check, fail, note, same};

/// Tests with tag storage.
pub const TESTS: &[Test] = &[
    ("P6 reclaim and release of a page, twice", twice),
    ("P6 reclaim and release by SMC", by_smc),
    ("P6 runs over a block's end", block_ends),
    ("P4 runs over region ends and holes", holes),
    ("P4 pages without tag storage: nothing to do", without_storage),
    ("P6 a block's frames come back with its last claim", last_claim),
    ("P6 random reclaims and releases agree with the model", random_claims),
    ("P4 all of memory in one call, and back", everything),
    ("P6 capacity comes back", capacity),
    ("P3 claims drop what their blocks hold, and nothing comes back", dropped),
];

/// QUERY: the page has tag storage.
const HAS_STORAGE: u64 = 1;
/// QUERY: the page is claimed.
const CLAIMED: u64 = 2;
/// QUERY: the block is lent when nobody claims it.
const LENT: u64 = 4;

/// The longest piece of guest RAM in a region.
pub fn longest(region: &Region) -> Range {
    let pieces = machine().ram.all().iter().filter_map(|range| region.tagged.common(*range));
    pieces.max_by_key(Range::length).expect("a region has guest RAM")
}

/// Pages of a run that a claim counts: guest RAM with tag storage.
fn countable(run: Range) -> u64 {
    let regions = machine().regions.all();
    let ram = machine().ram.all();
    let pieces = ram.iter().filter_map(|range| range.common(run));
    pieces
        .flat_map(|piece| regions.iter().filter_map(move |own| own.tagged.common(piece)))
        .map(|piece| piece.pages())
        .sum()
}

/// Frames of the blocks that a run's pages use.
fn frames_of(run: Range) -> u64 {
    let regions = machine().regions.all().iter();
    regions
        .map(|region| {
            let touched = (0..region.blocks())
                .filter_map(|number| region.data_of_block(number).common(run))
                .filter(|data| machine().ram.touch(*data));
            touched.count() as u64 * region.frames_of_block()
        })
        .sum()
}

fn query_is(page: u64, bits: u64, claimed: u64) -> Outcome {
    let answer = abi::query(page);
    let wanted = Answer::of(0, bits, claimed, 0);
    check!(answer == wanted, "QUERY of {page:#x}: {answer:x?}, expected {wanted:x?}");
    Ok(())
}

fn reclaim_is(address: u64, pages: u64, new: u64) -> Outcome {
    let answer = abi::reclaim(address, pages);
    let wanted = Answer::of(0, pages, new, 0);
    check!(answer == wanted, "RECLAIM {address:#x} + {pages}: {answer:x?}, expected {wanted:x?}");
    Ok(())
}

fn release_is(address: u64, pages: u64, back: u64, wanted: i64) -> Outcome {
    let answer = abi::release(address, pages);
    let wanted = Answer::of(wanted, pages, back, 0);
    check!(answer == wanted, "RELEASE {address:#x} + {pages}: {answer:x?}, expected {wanted:x?}");
    Ok(())
}

fn twice() -> Outcome {
    stash::active()?;
    for region in machine().regions.all() {
        let piece = longest(region);
        for page in [piece.start, piece.start + 77 * PAGE, piece.end - PAGE] {
            let frames = region.frames_of_block();
            query_is(page, HAS_STORAGE | LENT, 0)?;
            reclaim_is(page, 1, 1)?;
            query_is(page, HAS_STORAGE | CLAIMED | LENT, 1)?;
            same!(stash::census()?.tags, frames, "frames in tags");
            reclaim_is(page, 1, 0)?;
            query_is(page, HAS_STORAGE | CLAIMED | LENT, 1)?;
            release_is(page, 1, 1, 0)?;
            query_is(page, HAS_STORAGE | LENT, 0)?;
            for _ in 0..3 {
                release_is(page, 1, 0, status::NOT_CLAIMED)?;
            }
            query_is(page, HAS_STORAGE | LENT, 0)?;
            same!(stash::census()?.tags, 0, "frames in tags after the release");
        }
    }
    Ok(())
}

fn by_smc() -> Outcome {
    stash::active()?;
    let page = longest(&machine().regions.all()[0]).start;
    let call = |function| abi::call(Conduit::Smc, [function, page, 5, 0, 0, 0, 0, 0]);
    for (function, wanted) in [
        (function::RECLAIM, Answer::of(0, 5, 5, 0)),
        (function::RECLAIM, Answer::of(0, 5, 0, 0)),
        (function::QUERY, abi::query(page)),
        (function::RELEASE, Answer::of(0, 5, 5, 0)),
        (function::RELEASE, Answer::of(status::NOT_CLAIMED, 5, 0, 0)),
    ] {
        let wanted = if function == function::QUERY { abi::query(page) } else { wanted };
        let answer = call(function);
        check!(answer == wanted, "{function:#x} by SMC: {answer:x?}, expected {wanted:x?}");
    }
    Ok(())
}

fn block_ends() -> Outcome {
    stash::active()?;
    for region in machine().regions.all() {
        let piece = longest(region);
        let number = region.block_of(piece.start + piece.length() / 2);
        let end = region.data_of_block(number).end;
        let lent = HAS_STORAGE | LENT;
        for (before, behind) in [(1, 1), (3, 5), (31, 1), (1, 31), (32, 33), (7, 100)] {
            let start = end - before * PAGE;
            let run = Range::of(start, (before + behind) * PAGE);
            reclaim_is(start, before + behind, before + behind)?;
            same!(stash::census()?.tags, frames_of(run), "frames of {before} + {behind} pages");
            // Blocks may be larger than the run.
            let own = region.pages_of_block();
            query_is(end - PAGE, lent | CLAIMED, before.min(own))?;
            query_is(end, lent | CLAIMED, behind.min(own))?;
            query_is(start - PAGE, lent, if before < own { before } else { 0 })?;
            // The middle goes first; then all of it, of which that part is not claimed.
            release_is(end - PAGE, 2, 2, 0)?;
            query_is(end - PAGE, lent, (before - 1).min(own - 1))?;
            let rest = before + behind - 2;
            release_is(start, before + behind, rest, status::NOT_CLAIMED)?;
            same!(stash::census()?.tags, 0, "frames in tags after {before} + {behind} pages");
        }
    }
    Ok(())
}

fn holes() -> Outcome {
    stash::active()?;
    let mut runs = 0;
    let mut over = |start: u64, end: u64| -> Outcome {
        let run = Range { start, end };
        let new = countable(run);
        reclaim_is(start, run.pages(), new)?;
        same!(stash::census()?.tags, frames_of(run), "frames of {start:#x}-{end:#x}");
        reclaim_is(start, run.pages(), 0)?;
        release_is(start, run.pages(), new, 0)?;
        let none = if new == 0 { 0 } else { status::NOT_CLAIMED };
        release_is(start, run.pages(), 0, none)?;
        same!(stash::census()?.tags, 0, "frames in tags after {start:#x}-{end:#x}");
        runs += 1;
        Ok(())
    };
    let ram = machine().ram.all();
    for (low, high) in ram.iter().zip(ram.iter().skip(1)) {
        for pages in [1, 2, 40] {
            let back = pages.min(low.pages()) * PAGE;
            let on = pages.min(high.pages()) * PAGE;
            over(low.end - back, high.start + on)?;
        }
    }
    for region in machine().regions.all() {
        for edge in [region.tagged.start, region.tagged.end] {
            for pages in [1, 33] {
                let run = Range { start: edge - pages * PAGE, end: edge + pages * PAGE };
                let ends = [Range::of(run.start, PAGE), Range::of(run.end - PAGE, PAGE)];
                if ends.iter().all(|end| machine().is_ram(*end)) {
                    over(run.start, run.end)?;
                }
            }
        }
    }
    note!("{runs} runs over holes and region ends");
    check!(runs != 0, "the machine has neither holes nor region ends inside RAM");
    Ok(())
}

fn without_storage() -> Outcome {
    stash::active()?;
    let mut rest = machine().ram;
    machine().regions.all().iter().for_each(|region| rest.remove(region.tagged));
    let Some(piece) = rest.whole_pages().all().first().copied() else {
        return Err(Stop::Skipped("all of RAM has tag storage"));
    };
    for page in [piece.start, piece.end - PAGE] {
        query_is(page, 0, 0)?;
        for _ in 0..2 {
            reclaim_is(page, 1, 0)?;
            release_is(page, 1, 0, 0)?;
        }
        query_is(page, 0, 0)?;
    }
    reclaim_is(piece.start, piece.pages(), 0)?;
    release_is(piece.start, piece.pages(), 0, 0)?;
    same!(stash::census()?.tags, 0, "frames in tags");
    Ok(())
}

fn last_claim() -> Outcome {
    stash::active()?;
    for region in machine().regions.all() {
        let piece = longest(region);
        let number = region.block_of(piece.start + piece.length() / 3);
        let data = region.data_of_block(number);
        let pages = region.pages_of_block();
        let frames = region.frames_of_block();
        // Steps of a number that has no factor in common with the pages: all of them, out of
        // order, and back in another order.
        let order = |step: u64, at: u64| data.start + at * step % pages * PAGE;
        for at in 0..pages {
            reclaim_is(order(7, at), 1, 1)?;
            query_is(data.start, abi::query(data.start).x1, at + 1)?;
            same!(stash::census()?.tags, frames, "frames in tags, {} pages claimed", at + 1);
        }
        for at in 0..pages {
            same!(stash::census()?.tags, frames, "frames in tags, {at} pages released");
            release_is(order(13, at), 1, 1, 0)?;
        }
        same!(stash::census()?.tags, 0, "frames in tags when all pages are released");
        release_is(data.start, pages, 0, status::NOT_CLAIMED)?;
    }
    Ok(())
}

fn random_claims() -> Outcome {
    const WINDOW: u64 = 4000;
    stash::active()?;
    let mut random = Random::new(6);
    for region in machine().regions.all() {
        let piece = longest(region);
        let pages = WINDOW.min(piece.pages() - 16);
        let window = Range::of(piece.start + 13 * PAGE, pages * PAGE);
        let claimed = arena::shared_words(pages);
        let address = |page: u64| window.start + page * PAGE;
        for step in 0..1500 {
            let first = random.below(pages);
            let longest = [1, 3, 40, 400][random.below(4) as usize];
            let count = 1 + random.below(longest.min(pages - first));
            let own = &claimed[first as usize..(first + count) as usize];
            let held = own.iter().filter(|page| page.load(Relaxed) != 0).count() as u64;
            if random.chance(50) {
                reclaim_is(address(first), count, count - held)?;
                own.iter().for_each(|page| page.store(1, Relaxed));
            } else {
                let wanted = if held == count { 0 } else { status::NOT_CLAIMED };
                release_is(address(first), count, held, wanted)?;
                own.iter().for_each(|page| page.store(0, Relaxed));
            }
            if step % 50 == 0 {
                let mut tags = 0;
                for number in region.block_of(window.start)..=region.block_of(window.end - 1) {
                    let data = region.data_of_block(number);
                    let mut held = 0;
                    for page in 0..pages {
                        let in_block = data.holds(Range::of(address(page), PAGE));
                        held += u64::from(in_block && claimed[page as usize].load(Relaxed) != 0);
                    }
                    tags += if held == 0 { 0 } else { region.frames_of_block() };
                    let inside = data.start.max(window.start);
                    let answer = abi::query(inside);
                    same!(answer.x2, held, "step {step}: claims in the block of {inside:#x}");
                }
                same!(stash::census()?.tags, tags, "step {step}: frames in tags");
            }
        }
        let held = claimed.iter().filter(|page| page.load(Relaxed) != 0).count() as u64;
        let wanted = if held == pages { 0 } else { status::NOT_CLAIMED };
        release_is(window.start, pages, held, wanted)?;
        same!(stash::census()?.tags, 0, "frames in tags when all is released");
    }
    Ok(())
}

/// From the first to the last page of guest RAM.
fn all_memory() -> Range {
    let ram = machine().ram.all();
    Range { start: ram[0].start, end: ram[ram.len() - 1].end }
}

fn everything() -> Outcome {
    stash::active()?;
    let all = all_memory();
    let (pages, new) = (all.pages(), countable(all));
    reclaim_is(all.start, pages, new)?;
    let census = stash::census()?;
    same!(census.tags, frames_of(all), "frames in tags");
    reclaim_is(all.start, pages, 0)?;
    release_is(all.start, pages, new, 0)?;
    same!(stash::census()?.tags, 0, "frames in tags after the release");
    release_is(all.start, pages, 0, status::NOT_CLAIMED)?;
    // Region by region, last one first; given back in another order.
    for region in machine().regions.all().iter().rev() {
        let piece = longest(region);
        reclaim_is(piece.start, piece.pages(), piece.pages())?;
    }
    for region in machine().regions.all() {
        let piece = longest(region);
        release_is(piece.start, piece.pages(), piece.pages(), 0)?;
    }
    same!(stash::census()?.tags, 0, "frames in tags after the regions");
    Ok(())
}

/// Fills the stash and takes everything out again: hits in percent of its frames.
fn hits_of_a_full_stash(pool: &Pool, round: u64) -> Result<u64, Stop> {
    let frames = machine().frames();
    let (source, destination) = stash::buffers(pool);
    for index in 0..2 * frames {
        stash::put(source, pool.key(round, index), index)?;
    }
    let mut hits = 0;
    for index in 0..2 * frames {
        if let Some(sequence) = stash::get(destination, pool.key(round, index))? {
            same!(sequence, index, "sequence of page {index}");
            hits += 1;
        }
    }
    Ok(hits * 100 / frames)
}

fn capacity() -> Outcome {
    stash::fresh()?;
    let pool = Pool::private()?;
    let before = hits_of_a_full_stash(&pool, 0)?;
    let all = all_memory();
    let claim = Claim::of(all.start, all.pages())?;
    let during = hits_of_a_full_stash(&pool, 1)?;
    drop(claim);
    let half = Range::of(all.start, all.length() / 2 / PAGE * PAGE);
    let halved = if machine().is_ram(Range::of(half.end - PAGE, PAGE)) {
        let claim = Claim::of(half.start, half.pages())?;
        let share = 100 - frames_of(half) * 100 / machine().frames();
        let hits = hits_of_a_full_stash(&pool, 2)?;
        drop(claim);
        note!("half of memory claimed: {hits} % of the frames hit, {share} % are lent");
        hits * 100 >= share * 80 && hits <= share + 1
    } else {
        true
    };
    let after = hits_of_a_full_stash(&pool, 3)?;
    note!("hits: {before} % of the frames, {during} % with all claimed, {after} % after that");
    same!(stash::census()?.tags, 0, "frames in tags");
    check!(before >= 95 && after >= 95, "hits before {before} %, after {after} %");
    let unclaimed = 100 - frames_of(all) * 100 / machine().frames();
    check!(during <= unclaimed, "{during} % hits with {unclaimed} % of the frames lent");
    check!(halved, "with half of memory claimed hits are out of proportion");
    Ok(())
}

fn dropped() -> Outcome {
    stash::fresh()?;
    let pool = Pool::shared()?;
    let (source, destination) = stash::buffers(&pool);
    let frames = machine().frames();
    for index in 0..frames {
        stash::put_kept(source, pool.key(1, index), index)?;
    }
    let cached = stash::census()?.cached;
    let before = abi::statistics();
    let mut random = Random::new(3);
    for _ in 0..200 {
        let regions = machine().regions.all();
        let piece = longest(&regions[random.below(regions.len() as u64) as usize]);
        let page = piece.start + random.below(piece.pages()) * PAGE;
        abi::reclaim(page, 1);
        release_is(page, 1, 1, 0)?;
    }
    let after = abi::statistics();
    let gone = after[abi::statistic::PAGES_DROPPED as usize]
        - before[abi::statistic::PAGES_DROPPED as usize];
    same!(stash::census()?.cached, cached - gone, "cached frames after {gone} were dropped");
    let mut hits = 0;
    for index in 0..frames {
        if let Some(sequence) = stash::get(destination, pool.key(1, index))? {
            same!(sequence, index, "sequence of page {index}");
            hits += 1;
        }
    }
    note!("{cached} pages, {gone} dropped by 200 claims, {hits} hits");
    check!(gone > 100, "200 claims dropped only {gone} pages of a full stash");
    if hits != cached - gone {
        fail!("{cached} pages, {gone} of them dropped, but {hits} hits");
    }
    Ok(())
}
