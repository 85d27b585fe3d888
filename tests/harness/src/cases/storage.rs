// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tag storage seen from both sides: the guest's tags by LDG and LDGM, and the bytes behind
//! them through the host. Tags survive whatever the stash does, and pages lie where they should.

use crate::abi;
use crate::arena;
use crate::cases::claims::longest;
use crate::host;
use crate::machine::{Region, machine};
use crate::pages;
use crate::prng::{Random, mix};
use crate::ranges::{PAGE, Range};
use crate::stash::{self, Census, Claim, Pool};
use crate::tags::{self, Store};
use crate::tap::{Outcome, Stop, Test, check, fail, note, same};

/// Tests that come first, because they are about the state at boot.
pub const DORMANT_TESTS: &[Test] = &[
    ("P8 dormant at boot: all storage is the tags'", dormant_at_boot),
    ("P8 dormant: the tags of every block lie where the binding says", every_block),
];

/// Tests with tag storage.
pub const TESTS: &[Test] = &[
    ("cached pages lie in tag storage that is lent", cached_in_storage),
    ("P4 a claim takes exactly the block behind its page", right_block),
    ("P1 tags of claimed pages survive a stash that is driven hard", survive),
    ("P1 claimed storage changes by tag stores only", only_tags),
    ("P1 tags survive claims and releases of their neighbours", neighbours),
    ("the tags of every block lie right after the storage was lent", every_block_again),
];

fn dormant_at_boot() -> Outcome {
    same!(abi::state().x1, stash::DORMANT, "STATE");
    let frames = machine().frames();
    let is = stash::census()?;
    check!(is == Census { dormant: frames, ..Census::default() }, "{is:?}");
    Ok(())
}

/// A page of guest RAM in a block, from its beginning or its end.
fn page_of_block(region: &Region, number: u64, from_end: bool) -> Option<u64> {
    let data = region.data_of_block(number);
    let pieces = || machine().ram.all().iter().filter_map(move |ram| ram.common(data));
    if from_end {
        pieces().next_back().map(|piece| piece.end - PAGE)
    } else {
        pieces().next().map(|piece| piece.start)
    }
}

fn store_for(page: u64) -> Store {
    if (page / PAGE).is_multiple_of(4) { Store::Stg } else { Store::Stgm }
}

/// Tags pages at both ends of every block and looks for them in storage.
fn every_block() -> Outcome {
    let mut blocks = 0;
    for region in machine().regions.all() {
        for number in 0..region.blocks() {
            for from_end in [false, true] {
                if let Some(page) = page_of_block(region, number, from_end) {
                    tags::write(page, 1, store_for(page));
                    tags::verify_stored(page, 1)?;
                    blocks += u64::from(from_end);
                }
            }
        }
    }
    // Later ones have not written over earlier ones.
    for region in machine().regions.all() {
        for number in 0..region.blocks() {
            for from_end in [false, true] {
                if let Some(page) = page_of_block(region, number, from_end) {
                    check!(
                        tags::read(page) == tags::pattern(page, 1),
                        "tags of page {page:#x} have changed"
                    );
                }
            }
        }
    }
    note!("{blocks} of {} blocks serve guest RAM", machine().blocks());
    check!(blocks * 2 > machine().blocks(), "only {blocks} blocks serve guest RAM");
    Ok(())
}

fn every_block_again() -> Outcome {
    stash::active()?;
    let pool = Pool::private()?;
    stash::flood(&pool, 1, 2 * machine().frames())?;
    drop(pool);
    stash::deactivate()?;
    every_block()
}

/// Puts a page and finds the frame that holds it.
fn put_and_find(pool: &Pool, source: arena::Pages, index: u64) -> Result<u64, Stop> {
    let key = pool.key(0xf1d0, index);
    let sequence = mix(index ^ 0x9a9e);
    stash::put_kept(source, key, sequence)?;
    match host::find_frame(&pages::first_line(key, sequence)) {
        Some(frame) => Ok(frame),
        None => fail!("page {index} is cached, but no frame of the tag storage holds it"),
    }
}

fn cached_in_storage() -> Outcome {
    stash::fresh()?;
    let pool = Pool::shared()?;
    let (source, destination) = stash::buffers(&pool);
    for index in 0..20 {
        let frame = put_and_find(&pool, source, index)?;
        let mut bytes = [0; PAGE as usize];
        host::read(frame, &mut bytes);
        for (word, bytes) in bytes.chunks(8).enumerate() {
            let is = u64::from_le_bytes(bytes.try_into().unwrap_or([0; 8]));
            same!(is, source.read(word), "word {word} of page {index} in frame {frame:#x}");
        }
        stash::get_hit(destination, pool.key(0xf1d0, index), mix(index ^ 0x9a9e))?;
    }
    Ok(())
}

fn right_block() -> Outcome {
    stash::fresh()?;
    let pool = Pool::shared()?;
    let (source, destination) = stash::buffers(&pool);
    let mut random = Random::new(4);
    let mut tried = 0;
    for index in 0..48 {
        let key = pool.key(0xf1d0, index);
        let sequence = mix(index ^ 0x9a9e);
        let frame = put_and_find(&pool, source, index)?;
        let region = machine()
            .regions
            .all()
            .iter()
            .find(|region| region.storage.holds(Range::of(frame, PAGE)));
        let Some(region) = region else { fail!("frame {frame:#x} is in no region") };
        let number = (frame - region.storage.start) / region.block;
        // The block below, the one above, another one: the page stays.
        let others = [number.wrapping_sub(1), number + 1, random.below(region.blocks())];
        for other in others.into_iter().filter(|at| *at < region.blocks() && *at != number) {
            for from_end in [false, true] {
                if let Some(page) = page_of_block(region, other, from_end) {
                    let _claim = Claim::of(page, 1)?;
                    stash::get_hit(destination, key, sequence)?;
                }
            }
        }
        // A page of the block itself: the cached page goes, whichever it is.
        let pages = region.pages_of_block();
        let data = region.data_of_block(number);
        let page = match index % 3 {
            0 => data.start,
            1 => data.end - PAGE,
            _ => data.start + random.below(pages) * PAGE,
        };
        if machine().is_ram(Range::of(page, PAGE)) {
            tried += 1;
            let before = abi::statistic(abi::statistic::PAGES_DROPPED);
            let claim = Claim::of(page, 1)?;
            let gone = abi::statistic(abi::statistic::PAGES_DROPPED) - before;
            check!(gone >= 1, "the claim of {page:#x} dropped {gone} pages");
            stash::get_miss(destination, key)?;
            drop(claim);
            stash::get_miss(destination, key)?;
        }
    }
    check!(tried >= 24, "only {tried} of 48 pages could be claimed");
    Ok(())
}

/// Pages, `each` of them in every one of `blocks` blocks, spread over all regions.
fn sample(blocks: u64, each: u64, seed: u64) -> impl Iterator<Item = u64> {
    let regions = machine().regions.all();
    let own = blocks.div_ceil(regions.len() as u64);
    regions.iter().flat_map(move |region| {
        let piece = longest(region);
        let first = region.block_of(piece.start) + 1;
        let last = region.block_of(piece.end - 1);
        (0..own).flat_map(move |at| {
            let number = first + at * (last - first) / own;
            let start = region.data_of_block(number).start;
            let pages = region.pages_of_block();
            let offset = mix(seed ^ number) % pages;
            // An odd step meets no page twice where the number of pages is a power of two,
            // and a block of another size only repeats a page.
            (0..each).map(move |page| start + (offset + page * 11) % pages * PAGE)
        })
    })
}

/// Work for every path of the stash: puts, gets, flushes, pages of all sizes.
fn drive_hard(seed: u64) -> Outcome {
    let frames = machine().frames();
    for bits in [12, 16, 14, 12] {
        let pool = Pool::private_of(bits)?;
        stash::flood(&pool, seed, 2 * frames / pool.parts)?;
        abi::flush_page(pool.key(seed, 0), 200);
        abi::flush_object(pool.id, [seed, 0, 0]);
        stash::flood(&pool, seed + 1, frames / pool.parts / 2)?;
        abi::flush_pool(pool.id);
    }
    Ok(())
}

fn survive() -> Outcome {
    stash::active()?;
    // Some are claimed while their frames are free, the others while they are full.
    let early = || sample(40, 3, 1);
    let late = || sample(40, 3, 2);
    let result = (|| {
        for page in early() {
            abi::reclaim(page, 1);
            tags::write(page, 2, store_for(page));
        }
        drive_hard(1)?;
        for page in late() {
            abi::reclaim(page, 1);
        }
        for page in late().chain(early()) {
            tags::write(page, 3, store_for(page));
        }
        for page in early().chain(late()) {
            tags::verify(page, 3)?;
            tags::verify_stored(page, 3)?;
        }
        drive_hard(3)?;
        for page in early().chain(late()) {
            tags::verify(page, 3)?;
            tags::verify_stored(page, 3)?;
        }
        Ok(())
    })();
    early().chain(late()).for_each(|page| {
        abi::release(page, 1);
    });
    same!(stash::census()?.tags, 0, "frames in tags after the releases");
    result
}

/// A number that stands for all storage bytes of a page's block.
fn block_digest(page: u64) -> u64 {
    let region = machine().region_of(page).expect("the page has tag storage");
    let mut digest = 0;
    let mut frame = region.storage.start + region.block_of(page) * region.block;
    for _ in 0..region.frames_of_block() {
        let mut bytes = [0; PAGE as usize];
        host::read(frame, &mut bytes);
        for word in bytes.chunks(8) {
            digest = mix(digest ^ u64::from_le_bytes(word.try_into().unwrap_or([0; 8])));
        }
        frame += PAGE;
    }
    digest
}

fn only_tags() -> Outcome {
    stash::active()?;
    let pool = Pool::private()?;
    stash::flood(&pool, 9, 2 * machine().frames())?;
    let own = || sample(64, 2, 5);
    let digests = arena::shared_longs(own().count() as u64);
    use core::sync::atomic::Ordering::Relaxed;
    let result = (|| {
        for page in own() {
            abi::reclaim(page, 1);
        }
        for page in own() {
            tags::write(page, 6, store_for(page));
        }
        // The rest of each block belongs to pages whose tags nobody has written yet: whatever
        // lies there must stay there.
        for (page, digest) in own().zip(digests) {
            digest.store(block_digest(page), Relaxed);
        }
        for round in 0..2 {
            drive_hard(round * 10)?;
            for (page, digest) in own().zip(digests) {
                check!(
                    block_digest(page) == digest.load(Relaxed),
                    "the storage of page {page:#x}'s block has changed"
                );
                tags::verify_stored(page, 6)?;
                tags::verify(page, 6)?;
            }
        }
        // The digest sees a single tag.
        let page = own().next().expect("there are pages");
        let before = block_digest(page);
        let tag = crate::cpu::ldg(page) ^ 1;
        // SAFETY: the page is claimed.
        unsafe { crate::cpu::stg(page, tag) };
        check!(block_digest(page) != before, "a tag store does not change the storage");
        Ok(())
    })();
    own().for_each(|page| {
        abi::release(page, 1);
    });
    result
}

fn neighbours() -> Outcome {
    stash::active()?;
    let pool = Pool::private()?;
    let mut random = Random::new(8);
    let own = || sample(24, 1, 7);
    let result = (|| {
        for page in own() {
            abi::reclaim(page, 1);
            tags::write(page, 8, store_for(page));
        }
        for round in 0..6 {
            for page in own() {
                let region = machine().region_of(page).expect("the page has tag storage");
                let data = region.data_of_block(region.block_of(page));
                for _ in 0..4 {
                    let other = data.start + random.below(region.pages_of_block()) * PAGE;
                    if other == page {
                        continue;
                    }
                    if random.chance(60) {
                        abi::reclaim(other, 1);
                        tags::write(other, round, store_for(other));
                    } else {
                        abi::release(other, 1);
                    }
                }
            }
            stash::flood(&pool, round, machine().frames())?;
            for page in own() {
                tags::verify(page, 8)?;
                tags::verify_stored(page, 8)?;
            }
        }
        Ok(())
    })();
    for page in own() {
        let region = machine().region_of(page).expect("the page has tag storage");
        let data = region.data_of_block(region.block_of(page));
        abi::release(data.start, data.pages());
    }
    same!(stash::census()?.tags, 0, "frames in tags after the releases");
    result
}
