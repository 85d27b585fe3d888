// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a cache of pages must do on one CPU: the newest page or none, flushes at three levels,
//! eviction when it is full.

use crate::abi::{self, Answer, statistic};
use crate::arena;
use crate::cases::claims::longest;
use crate::machine::machine;
use crate::prng::Random;
use crate::stash::{self, Pool};
use crate::tap::{Outcome, Test, check, note, same};

/// Tests with tag storage.
pub const TESTS: &[Test] = &[
    ("P2 put, get: the very page comes back", put_get),
    ("P2 put, put, get: the newest comes back", put_put_get),
    ("P2 a page is copied: later stores to it change nothing", copies),
    ("P2 PUT leaves its page alone, GET writes no other page", neighbours),
    ("P3 get, get: after a miss, misses until a put", get_get),
    ("P3 FLUSH_PAGE drops the pages it names and no others", flush_page),
    ("P3 FLUSH_OBJECT drops an object", flush_object),
    ("P3 FLUSH_POOL drops a pool's pages and no others", flush_pool),
    ("P2 eviction: a full stash keeps what it says", eviction),
    ("P10 a put is kept and hits at once, however full the stash is", always_kept),
    ("statistics count every call of a story", statistics),
    ("a random story agrees with the model", model),
];

fn put_get() -> Outcome {
    stash::active()?;
    for pool in [Pool::private()?, Pool::shared()?] {
        let (source, destination) = stash::buffers(&pool);
        for index in [0, 1, 2, 63, 64, 1 << 31, 1 << 32, 1 << 63, u64::MAX] {
            stash::put_kept(source, pool.key(3, index), index ^ 7)?;
            stash::get_hit(destination, pool.key(3, index), index ^ 7)?;
        }
    }
    Ok(())
}

fn put_put_get() -> Outcome {
    stash::active()?;
    for pool in [Pool::private()?, Pool::shared()?] {
        let (source, destination) = stash::buffers(&pool);
        for key in (0..200).map(|index| pool.key(index % 3, index)) {
            for sequence in 0..5 {
                stash::put_kept(source, key, sequence)?;
            }
            stash::get_hit(destination, key, 4)?;
        }
        // The same with other puts in between.
        for sequence in 0..4 {
            for index in 0..100 {
                stash::put_kept(source, pool.key(9, index), sequence << 32 | index)?;
            }
        }
        let mut hits = 0;
        for index in 0..100 {
            if let Some(sequence) = stash::get(destination, pool.key(9, index))? {
                same!(sequence, 3 << 32 | index, "sequence of page {index}");
                hits += 1;
            }
        }
        check!(hits >= 90, "of 100 pages in a roomy stash only {hits} are there");
    }
    Ok(())
}

fn copies() -> Outcome {
    stash::active()?;
    let pool = Pool::shared()?;
    let (source, destination) = stash::buffers(&pool);
    let key = pool.key(1, 1);
    stash::put_kept(source, key, 10)?;
    source.fill(0x5555);
    stash::get_hit(destination, key, 10)?;
    destination.fill(0x6666);
    stash::get_hit(destination, key, 10)
}

fn neighbours() -> Outcome {
    stash::active()?;
    let pool = Pool::shared()?;
    let pages = arena::take(5);
    for page in 0..5 {
        pages.part(page, 1).fill(0xaaaa_0000 + page);
    }
    let (source, destination) = (pages.part(1, 1), pages.part(3, 1));
    let unchanged = |page: u64, value: u64| -> Outcome {
        let page_words = pages.part(page, 1);
        for word in 0..arena::WORDS {
            same!(page_words.read(word), value, "page {page} of 5, word {word}");
        }
        Ok(())
    };
    check!(stash::put_as_is(source, pool.key(1, 1))?, "not cached");
    unchanged(1, 0xaaaa_0001)?;
    let answer = abi::get(pool.key(1, 1), destination.address(), 1);
    check!(answer == Answer::of(0, 1, 1, 0), "GET answers {answer:x?}");
    unchanged(3, 0xaaaa_0001)?;
    unchanged(0, 0xaaaa_0000)?;
    unchanged(1, 0xaaaa_0001)?;
    unchanged(2, 0xaaaa_0002)?;
    unchanged(4, 0xaaaa_0004)
}

fn get_get() -> Outcome {
    stash::active()?;
    let (private, shared) = (Pool::private()?, Pool::shared()?);
    let (source, destination) = stash::buffers(&private);
    for index in 0..50 {
        let key = private.key(5, index);
        stash::get_miss(destination, key)?;
        stash::put_kept(source, key, index)?;
        stash::get_hit(destination, key, index)?;
        stash::get_miss(destination, key)?;
        stash::get_miss(destination, key)?;
        let key = shared.key(5, index);
        stash::get_miss(destination, key)?;
        stash::put_kept(source, key, index)?;
        stash::get_hit(destination, key, index)?;
        stash::get_hit(destination, key, index)?;
    }
    Ok(())
}

/// Puts pages 0 to `count` - 1 of an object.
fn fill(pool: &Pool, object: u64, count: u64) -> Outcome {
    let (source, _) = stash::buffers(pool);
    for index in 0..count {
        stash::put_kept(source, pool.key(object, index), index)?;
    }
    Ok(())
}

/// Gets pages 0 to `count` - 1; how many are there. None of those that `gone` tells may be.
fn hits(
    pool: &Pool,
    object: u64,
    count: u64,
    gone: impl Fn(u64) -> bool,
) -> Result<u64, crate::tap::Stop> {
    let (_, destination) = stash::buffers(pool);
    let mut hits = 0;
    for index in 0..count {
        if let Some(sequence) = stash::get(destination, pool.key(object, index))? {
            check!(!gone(index), "page {index} of object {object} is there after its flush");
            same!(sequence, index, "sequence of page {index} of object {object}");
            hits += 1;
        }
    }
    Ok(hits)
}

fn flush_page() -> Outcome {
    stash::fresh()?;
    for pool in [Pool::private()?, Pool::shared()?] {
        fill(&pool, 1, 300)?;
        fill(&pool, 2, 100)?;
        let answer = abi::flush_page(pool.key(1, 3), 1);
        check!(answer == Answer::of(0, 1, 0, 0), "FLUSH_PAGE answers {answer:x?}");
        let answer = abi::flush_page(pool.key(1, 50), 200);
        check!(answer == Answer::of(0, 200, 0, 0), "FLUSH_PAGE of 200 answers {answer:x?}");
        // Nothing there, the end of the index, twice: all of it success.
        for (index, pages) in [(3, 1), (5000, 100), (u64::MAX, 1), (u64::MAX - 99, 100)] {
            let answer = abi::flush_page(pool.key(1, index), pages);
            check!(answer == Answer::of(0, pages, 0, 0), "FLUSH_PAGE answers {answer:x?}");
        }
        let left = hits(&pool, 1, 300, |index| index == 3 || (50..250).contains(&index))?;
        check!(left >= 90, "of the 99 pages that were not flushed only {left} are there");
        let others = hits(&pool, 2, 100, |_| false)?;
        check!(others >= 90, "of 100 pages of another object only {others} are there");
    }
    Ok(())
}

fn flush_object() -> Outcome {
    stash::fresh()?;
    for pool in [Pool::private()?, Pool::shared()?] {
        for object in 0..40 {
            fill(&pool, object, 5)?;
        }
        let (source, destination) = stash::buffers(&pool);
        // Objects that differ in their higher words only.
        let third = [0, 0, 77];
        let key = abi::Key { pool: pool.id, object: third, index: 1 };
        stash::put_kept(source, key, 1)?;
        for object in [[7, 0, 0], third, [1 << 60, 1, 1]] {
            let answer = abi::flush_object(pool.id, object);
            check!(answer == Answer::only(0), "FLUSH_OBJECT answers {answer:x?}");
        }
        stash::get_miss(destination, key)?;
        same!(hits(&pool, 7, 5, |_| true)?, 0, "pages of a flushed object");
        let mut others = 0;
        for object in (0..40).filter(|object| *object != 7) {
            others += hits(&pool, object, 5, |_| false)?;
        }
        // Objects share 4,096 counters: a few may go along.
        check!(others >= 175, "of 195 pages of other objects only {others} are there");
        // The object lives on.
        stash::put_kept(source, pool.key(7, 1), 9)?;
        stash::get_hit(destination, pool.key(7, 1), 9)?;
    }
    Ok(())
}

fn flush_pool() -> Outcome {
    stash::fresh()?;
    let (one, other) = (Pool::private()?, Pool::shared()?);
    for pool in [&one, &other] {
        for object in 0..10 {
            fill(pool, object, 10)?;
        }
    }
    let answer = abi::flush_pool(one.id);
    check!(answer == Answer::only(0), "FLUSH_POOL answers {answer:x?}");
    let mut others = 0;
    for object in 0..10 {
        same!(hits(&one, object, 10, |_| true)?, 0, "pages of a flushed pool");
        others += hits(&other, object, 10, |_| false)?;
    }
    check!(others >= 95, "of 100 pages of another pool only {others} are there");
    fill(&one, 3, 10)?;
    check!(hits(&one, 3, 10, |_| false)? == 10, "the flushed pool does not cache any more");
    Ok(())
}

fn eviction() -> Outcome {
    stash::fresh()?;
    let frames = machine().frames();
    let offered = 2 * frames;
    let before = abi::statistics();
    let pool = Pool::private()?;
    let (source, destination) = stash::buffers(&pool);
    for index in 0..offered {
        stash::put_kept(source, pool.key(index % 5, index), index)?;
    }
    let census = stash::census()?;
    let filled = census.cached * 100 / frames;
    let mut found = 0;
    for index in 0..offered {
        if let Some(sequence) = stash::get(destination, pool.key(index % 5, index))? {
            same!(sequence, index, "sequence of page {index}");
            found += 1;
        }
    }
    let after = abi::statistics();
    let evicted = after[statistic::EVICTIONS as usize] - before[statistic::EVICTIONS as usize];
    note!("{offered} puts to {frames} frames: {filled} % full, {found} hits, {evicted} evictions");
    check!(census.cached <= frames && filled >= 95, "only {filled} % of the frames are full");
    check!(found * 100 >= frames * 95, "{found} hits in {frames} frames");
    same!(found + evicted, offered, "hits and evictions together");
    same!(stash::census()?.cached, 0, "cached frames when every page was taken");
    Ok(())
}

fn always_kept() -> Outcome {
    stash::active()?;
    let (private, shared) = (Pool::private()?, Pool::shared()?);
    let (source, destination) = stash::buffers(&private);
    let mut random = Random::new(10);
    for round in 0..3 * machine().frames() {
        let pool = if round % 2 == 0 { &private } else { &shared };
        let key = pool.key(random.below(100), random.next());
        stash::put_kept(source, key, round)?;
        stash::get_hit(destination, key, round)?;
        if round % 2 == 0 {
            // Fills the room that the exclusive get made.
            stash::put_kept(source, key, round + 1)?;
        }
    }
    Ok(())
}

fn statistics() -> Outcome {
    use statistic::*;
    stash::fresh()?;
    let before = abi::statistics();
    let pool = Pool::private()?;
    let (source, destination) = stash::buffers(&pool);
    for index in 0..10 {
        stash::put_kept(source, pool.key(1, index), index)?;
    }
    for index in 0..4 {
        stash::get_hit(destination, pool.key(1, index), index)?;
        stash::get_miss(destination, pool.key(1, index))?;
    }
    abi::flush_page(pool.key(1, 4), 3);
    abi::flush_object(pool.id, [9, 9, 9]);
    abi::flush_object(pool.id, [8, 9, 9]);
    abi::flush_pool(pool.id);
    let page = longest(&machine().regions.all()[0]).start;
    abi::reclaim(page, 2);
    abi::reclaim(page, 3);
    abi::release(page, 4);
    drop(pool);
    let after = abi::statistics();
    for (number, wanted) in [
        (PUTS, 10),
        (PUTS_CACHED, 10),
        (EVICTIONS, 0),
        (GETS, 8),
        (HITS, 4),
        (MISMATCHES, 0),
        (PAGE_FLUSHES, 3),
        (OBJECT_FLUSHES, 2),
        (POOL_FLUSHES, 1),
        (CLAIMS, 3),
        (CLAIMS_HELD, 2),
        (RELEASES, 3),
        (RELEASES_REFUSED, 1),
        (WAIT_POLLS, 0),
        (COPY_FAULTS, 0),
    ] {
        let is = after[number as usize] - before[number as usize];
        same!(is, wanted, "statistic {}", NAMES[number as usize]);
    }
    let taken = after[BLOCKS_TAKEN as usize] - before[BLOCKS_TAKEN as usize];
    check!((1..=2).contains(&taken), "3 pages in a row took {taken} blocks");
    Ok(())
}

/// Thousands of random calls against what a map would say; the stash may forget, never invent.
fn model() -> Outcome {
    const OBJECTS: u64 = 4;
    const INDEXES: u64 = 128;
    stash::active()?;
    let pools = [Pool::private()?, Pool::shared()?];
    let newest = arena::shared_words(2 * OBJECTS * INDEXES);
    let slot = |pool: u64, object: u64, index: u64| {
        &newest[((pool * OBJECTS + object) * INDEXES + index) as usize]
    };
    use core::sync::atomic::Ordering::Relaxed;
    let (source, destination) = stash::buffers(&pools[0]);
    let mut random = Random::new(2);
    let (mut gets, mut hits) = (0_u64, 0_u64);
    for sequence in 1..20_000_u32 {
        let (pool, object, index) = (random.below(2), random.below(OBJECTS), random.below(INDEXES));
        let own = &pools[pool as usize];
        let key = own.key(object, index);
        let slot_now = slot(pool, object, index);
        match random.below(1000) {
            0..450 => {
                stash::put_kept(source, key, sequence.into())?;
                slot_now.store(sequence, Relaxed);
            }
            450..950 => {
                let wanted = slot_now.load(Relaxed);
                gets += u64::from(wanted != 0);
                match stash::get(destination, key)? {
                    Some(is) => {
                        same!(is, u64::from(wanted), "step {sequence}: page {index}");
                        hits += 1;
                        if pool == 0 {
                            slot_now.store(0, Relaxed);
                        }
                    }
                    None => slot_now.store(0, Relaxed),
                }
            }
            950..997 => {
                let pages = 1 + random.below(8.min(INDEXES - index));
                abi::flush_page(key, pages);
                (index..index + pages).for_each(|at| slot(pool, object, at).store(0, Relaxed));
            }
            997..999 => {
                abi::flush_object(own.id, key.object);
                (0..INDEXES).for_each(|at| slot(pool, object, at).store(0, Relaxed));
            }
            _ => {
                abi::flush_pool(own.id);
                for object in 0..OBJECTS {
                    (0..INDEXES).for_each(|at| slot(pool, object, at).store(0, Relaxed));
                }
            }
        }
    }
    note!("{hits} of {gets} gets of pages that were put are hits");
    check!(gets >= 2000, "only {gets} gets of pages that were put");
    check!(hits * 100 >= gets * 90, "only {hits} of {gets} gets hit, nothing being short");
    Ok(())
}
