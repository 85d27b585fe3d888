// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs: several pages in one PUT, GET or FLUSH_PAGE, and the bitmaps that say which.

use crate::abi::{self, Answer, status};
use crate::arena;
use crate::pages;
use crate::prng::Random;
use crate::stash::{self, Pool};
use crate::tap::{Outcome, Test, check, note, same};

/// Tests with tag storage.
pub const TESTS: &[Test] = &[
    ("P2 a run of 1 to 64 pages comes back, page by page", lengths),
    ("P2 a run's bitmap tells what is there", bitmaps),
    ("P2 runs and single pages name the same pages", mixed),
    ("runs of 16 and 64 KiB pages", large_runs),
];

/// The lowest `count` bits.
fn bits(count: u64) -> u64 {
    u64::MAX >> (64 - count)
}

fn lengths() -> Outcome {
    stash::fresh()?;
    let pool = Pool::private()?;
    let source = arena::take(abi::RUN);
    let destination = arena::take(abi::RUN);
    for count in 1..=abi::RUN {
        let first = u64::MAX - count + 1;
        for index in [count * 1000, first] {
            for page in 0..count {
                pages::write(source.part(page, 1), pool.key(count, index + page), page);
            }
            let answer = abi::put(pool.key(count, index), source.address(), count);
            check!(answer == Answer::of(0, count, bits(count), 0), "PUT of {count}: {answer:x?}");
            pages::spoil(destination);
            let answer = abi::get(pool.key(count, index), destination.address(), count);
            check!(answer.x1 == count && answer.x3 == 0, "GET of {count}: {answer:x?}");
            check!(answer.x2 & !bits(count) == 0, "GET of {count}: {answer:x?}");
            let whole = answer.x2 == bits(count);
            check!(answer.ok() == whole, "GET of {count}: {answer:x?}");
            check!(
                answer.x2.count_ones() as u64 * 10 >= count * 9,
                "GET of {count} in a roomy stash: {answer:x?}"
            );
            for page in (0..count).filter(|page| answer.x2 >> page & 1 != 0) {
                let key = pool.key(count, index + page);
                let sequence = pages::read(destination.part(page, 1), key)?;
                same!(sequence, page, "sequence of page {page} of {count}");
            }
        }
    }
    Ok(())
}

fn bitmaps() -> Outcome {
    stash::fresh()?;
    let pool = Pool::shared()?;
    let source = arena::take(abi::RUN);
    let destination = arena::take(abi::RUN);
    let mut random = Random::new(64);
    let (mut wanted_hits, mut hits) = (0, 0);
    for round in 0..100 {
        let base = round * abi::RUN;
        for page in 0..abi::RUN {
            pages::write(source.part(page, 1), pool.key(1, base + page), round);
        }
        let answer = abi::put(pool.key(1, base), source.address(), abi::RUN);
        check!(answer == Answer::of(0, abi::RUN, u64::MAX, 0), "PUT of 64: {answer:x?}");
        let gone = random.next() & random.next();
        for page in (0..abi::RUN).filter(|page| gone >> page & 1 != 0) {
            abi::flush_page(pool.key(1, base + page), 1);
        }
        pages::spoil(destination);
        let answer = abi::get(pool.key(1, base), destination.address(), abi::RUN);
        same!(answer.x1, abi::RUN, "pages dealt with");
        same!(answer.x2 & gone, 0, "flushed pages in the bitmap");
        let wanted = if answer.x2 == u64::MAX { 0 } else { status::MISS };
        same!(answer.status, wanted, "GET of a run with holes {gone:#x}, bitmap {:#x}", answer.x2);
        for page in (0..abi::RUN).filter(|page| answer.x2 >> page & 1 != 0) {
            let sequence = pages::read(destination.part(page, 1), pool.key(1, base + page))?;
            same!(sequence, round, "sequence of page {page}");
        }
        wanted_hits += (!gone).count_ones();
        hits += answer.x2.count_ones();
        abi::flush_object(pool.id, [1, 0, 0]);
    }
    note!("{hits} of {wanted_hits} pages in runs with holes are hits");
    check!(hits * 10 >= wanted_hits * 9, "only {hits} of {wanted_hits} pages are hits");
    // Nothing there at all.
    let answer = abi::get(pool.key(7, 0), destination.address(), 5);
    check!(answer == Answer::of(status::MISS, 5, 0, 0), "GET of nothing: {answer:x?}");
    Ok(())
}

fn mixed() -> Outcome {
    stash::fresh()?;
    let pool = Pool::private()?;
    let source = arena::take(16);
    let destination = arena::take(16);
    for page in 0..16 {
        stash::put_kept(source.part(page, 1), pool.key(1, 100 + page), page)?;
    }
    pages::spoil(destination);
    let answer = abi::get(pool.key(1, 100), destination.address(), 16);
    check!(answer == Answer::of(0, 16, bits(16), 0), "GET of singles as a run: {answer:x?}");
    for page in 0..16 {
        same!(pages::read(destination.part(page, 1), pool.key(1, 100 + page))?, page, "sequence");
    }
    let answer = abi::put(pool.key(1, 100), source.address(), 16);
    check!(answer == Answer::of(0, 16, bits(16), 0), "PUT of a run: {answer:x?}");
    for page in (0..16).rev() {
        stash::get_hit(destination.part(0, 1), pool.key(1, 100 + page), page)?;
    }
    Ok(())
}

fn large_runs() -> Outcome {
    stash::fresh()?;
    for (size, count) in [(14, 64), (14, 5), (16, 3), (16, 17)] {
        let pool = Pool::private_of(size)?;
        let source = arena::take_aligned(count * pool.parts, pool.parts * 4096);
        let destination = arena::take_aligned(count * pool.parts, pool.parts * 4096);
        let part = |all: arena::Pages, page: u64| all.part(page * pool.parts, pool.parts);
        for page in 0..count {
            pages::write(part(source, page), pool.key(1, page), page);
        }
        let answer = abi::put(pool.key(1, 0), source.address(), count);
        check!(answer == Answer::of(0, count, bits(count), 0), "PUT of {count}: {answer:x?}");
        pages::spoil(destination);
        let answer = abi::get(pool.key(1, 0), destination.address(), count);
        same!(answer.x1, count, "GET of {count} pages of 2^{size}: pages dealt with");
        let mut hits = 0;
        for page in (0..count).filter(|page| answer.x2 >> page & 1 != 0) {
            let sequence = pages::read(part(destination, page), pool.key(1, page))?;
            same!(sequence, page, "sequence of page {page} of 2^{size}");
            hits += 1;
        }
        check!(answer.x2 & !bits(count) == 0, "GET of {count}: {answer:x?}");
        check!(answer.ok() == (hits == count), "GET of {count}: {answer:x?}");
        check!(hits * 4 >= count * 3, "of {count} pages of 2^{size} only {hits} are there");
    }
    Ok(())
}
