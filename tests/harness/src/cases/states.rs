// SPDX-License-Identifier: MIT OR Apache-2.0
//! Dormant, active, deactivated, active again.

use crate::abi::{self, Answer, status};
use crate::arena;
use crate::cases::claims::longest;
use crate::machine::machine;
use crate::ranges::PAGE;
use crate::stash::{self, Census, Pool};
use crate::tags::{self, Store};
use crate::tap::{Outcome, Test, check, same};

/// Tests with tag storage.
pub const TESTS: &[Test] = &[
    ("P8 dormant: puts are refused, gets miss", dormant),
    ("claims made while dormant are remembered", claims_before),
    ("tags in use before activation stay when their pages are claimed", tags_before),
    ("DEACTIVATE voids claims, destroys pools and drops pages", deactivated),
    ("active, dormant and active again: nothing comes back", again),
    ("ACTIVATE and DEACTIVATE may be repeated", repeated),
];

fn dormant() -> Outcome {
    stash::deactivate()?;
    let frames = machine().frames();
    let census = stash::census()?;
    check!(census == Census { dormant: frames, ..Census::default() }, "{census:?}");
    for bits in [12, 16] {
        let pool = Pool::private_of(bits)?;
        let (source, destination) = stash::buffers(&pool);
        check!(!stash::put(source, pool.key(1, 1), 1)?, "a page is cached while dormant");
        stash::get_miss(destination, pool.key(1, 1))?;
        let pages = arena::take_aligned(3 * pool.parts, pool.parts * PAGE);
        let answer = abi::put(pool.key(1, 1), pages.address(), 3);
        check!(answer == Answer::of(status::NOT_CACHED, 3, 0, 0), "PUT of a run: {answer:x?}");
        let answer = abi::get(pool.key(1, 1), pages.address(), 3);
        check!(answer == Answer::of(status::MISS, 3, 0, 0), "GET of a run: {answer:x?}");
        // The pool outlives the activation.
        stash::activate(0)?;
        stash::put_kept(source, pool.key(1, 1), 2)?;
        stash::get_hit(destination, pool.key(1, 1), 2)?;
        stash::deactivate()?;
    }
    Ok(())
}

fn claims_before() -> Outcome {
    stash::deactivate()?;
    for region in machine().regions.all() {
        let page = longest(region).start + 5 * PAGE;
        let frames = region.frames_of_block();
        same!(abi::query(page).x1, 1, "QUERY while dormant");
        let answer = abi::reclaim(page, 1);
        check!(answer == Answer::of(0, 1, 1, 0), "RECLAIM while dormant: {answer:x?}");
        check!(abi::query(page) == Answer::of(0, 3, 1, 0), "QUERY: {:x?}", abi::query(page));
        let census = stash::census()?;
        same!(census.tags, frames, "frames in tags while dormant");
        stash::activate(0)?;
        let census = stash::census()?;
        same!(census.tags, frames, "frames in tags when active");
        same!(census.free, machine().frames() - frames, "free frames when active");
        check!(abi::query(page) == Answer::of(0, 7, 1, 0), "QUERY: {:x?}", abi::query(page));
        let answer = abi::release(page, 1);
        check!(answer == Answer::of(0, 1, 1, 0), "RELEASE: {answer:x?}");
        same!(stash::census()?.free, machine().frames(), "free frames after the release");
        stash::deactivate()?;
    }
    Ok(())
}

fn tags_before() -> Outcome {
    stash::deactivate()?;
    let pages = || {
        machine().regions.all().iter().flat_map(|region| {
            let piece = longest(region);
            let step = piece.pages() / 40 * PAGE;
            (0..40).map(move |at| piece.start + at * step)
        })
    };
    pages().for_each(|page| tags::write(page, 11, Store::Stgm));
    for page in pages() {
        same!(abi::reclaim(page, 1).status, 0, "RECLAIM of {page:#x}");
        tags::verify(page, 11)?;
    }
    stash::activate(0)?;
    let pool = Pool::private()?;
    stash::flood(&pool, 1, 2 * machine().frames())?;
    for page in pages() {
        tags::verify(page, 11)?;
        tags::verify_stored(page, 11)?;
    }
    stash::deactivate()?;
    for page in pages() {
        tags::verify(page, 11)?;
        tags::verify_stored(page, 11)?;
    }
    Ok(())
}

fn deactivated() -> Outcome {
    stash::fresh()?;
    let pool = Pool::private()?;
    let shared = Pool::shared()?;
    let (source, _) = stash::buffers(&pool);
    stash::put_kept(source, pool.key(1, 1), 1)?;
    let piece = longest(&machine().regions.all()[0]);
    let page = piece.start;
    same!(abi::reclaim(page, 100).x2, 100, "pages newly claimed");
    stash::deactivate()?;
    check!(abi::query(page) == Answer::of(0, 1, 0, 0), "QUERY: {:x?}", abi::query(page));
    let answer = abi::release(page, 100);
    check!(answer == Answer::of(status::NOT_CLAIMED, 100, 0, 0), "RELEASE: {answer:x?}");
    for id in [pool.id, shared.id] {
        let answer = abi::put(abi::Key::new(id, 1, 1), source.address(), 1);
        check!(answer == Answer::only(status::NO_SUCH_POOL), "PUT to an old pool: {answer:x?}");
        let answer = abi::destroy(id);
        check!(answer == Answer::only(status::NO_SUCH_POOL), "POOL_DESTROY: {answer:x?}");
    }
    let frames = machine().frames();
    let census = stash::census()?;
    check!(census == Census { dormant: frames, ..Census::default() }, "{census:?}");
    // Claims can be made anew, and the count begins at 0.
    same!(abi::reclaim(page, 100).x2, 100, "pages newly claimed after DEACTIVATE");
    same!(abi::release(page, 100).x2, 100, "claims given back after DEACTIVATE");
    stash::activate(0)?;
    same!(stash::census()?.free, frames, "free frames when active again");
    let new = Pool::shared()?;
    check!(new.id != shared.id, "the shared pool has its old id again");
    Ok(())
}

fn again() -> Outcome {
    stash::fresh()?;
    let mut ids = [0; 5];
    for round in 0..ids.len() {
        let pool = if round % 2 == 0 { Pool::private()? } else { Pool::shared()? };
        check!(!ids[..round].contains(&pool.id), "id {:#x} is used again", pool.id);
        ids[round] = pool.id;
        let (source, destination) = stash::buffers(&pool);
        for index in 0..64 {
            let answer = abi::get(pool.key(1, index), destination.address(), 1);
            same!(answer.status, status::MISS, "round {round}: GET of page {index}");
            stash::put_kept(source, pool.key(1, index), round as u64)?;
        }
        let mut hits = 0;
        for index in 0..64 {
            if let Some(is) = stash::get(destination, pool.key(1, index))? {
                same!(is, round as u64, "page {index}: round");
                hits += 1;
            }
        }
        check!(hits >= 58, "round {round}: of 64 pages only {hits} are there");
        for index in 0..64 {
            stash::put_kept(source, pool.key(1, index), round as u64)?;
        }
        stash::deactivate()?;
        stash::activate(0)?;
    }
    Ok(())
}

fn repeated() -> Outcome {
    stash::fresh()?;
    let pool = Pool::shared()?;
    let (source, destination) = stash::buffers(&pool);
    let page = longest(&machine().regions.all()[0]).start;
    same!(abi::reclaim(page, 1).x2, 1, "pages newly claimed");
    stash::put_kept(source, pool.key(1, 1), 4)?;
    stash::activate(0)?;
    same!(abi::query(page).x1, 7, "QUERY after a second ACTIVATE");
    stash::get(destination, pool.key(1, 1))?;
    stash::put_kept(source, pool.key(1, 1), 5)?;
    stash::get_hit(destination, pool.key(1, 1), 5)?;
    let end = abi::activate(0, 0).x2;
    check!(end != 0, "ACTIVATE has nothing to do on a machine with storage");
    let answer = abi::activate(0, end);
    check!(answer == Answer::of(0, end, end, 0), "ACTIVATE from its end: {answer:x?}");
    same!(abi::release(page, 1).x2, 1, "claims given back");
    stash::deactivate()?;
    stash::deactivate()?;
    let answer = abi::deactivate(end);
    check!(answer == Answer::of(0, end, end, 0), "DEACTIVATE from its end: {answer:x?}");
    same!(abi::state().x1, stash::DORMANT, "STATE");
    Ok(())
}
