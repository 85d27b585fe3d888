// SPDX-License-Identifier: MIT OR Apache-2.0
//! Verification: pages that were harmed in storage are counted misses.

use crate::abi::{self, Answer, statistic, status};
use crate::cpu;
use crate::host;
use crate::machine::machine;
use crate::pages;
use crate::prng::Random;
use crate::ranges::{PAGE, Range};
use crate::stash::{self, Pool};
use crate::tap::{Outcome, Stop, Test, check, fail, note, same};

/// Tests with tag storage.
pub const TESTS: &[Test] = &[
    ("verification: unharmed pages hit, and none mismatches", unharmed),
    ("verification: a page harmed in storage is a counted miss", harmed),
    ("verification: tags of a page nobody claimed are a counted miss", forgotten_claim),
    ("verification: a large page with one harmed part is a miss", harmed_part),
    ("verification can be switched on and off", switched),
];

fn verifying() -> Outcome {
    stash::deactivate()?;
    // Where the shim verifies always, the flag is not needed.
    stash::activate(if machine().expects_verification() { 0 } else { abi::VERIFY })
}

/// Runs a test with verification on and leaves it off.
fn with_verification(test: impl Fn() -> Outcome) -> Outcome {
    verifying()?;
    let result = test();
    stash::deactivate()?;
    result
}

fn mismatches() -> u64 {
    abi::statistic(statistic::MISMATCHES)
}

fn unharmed() -> Outcome {
    with_verification(|| {
        let before = mismatches();
        for bits in [12, 14, 16] {
            let pool = Pool::private_of(bits)?;
            let (source, destination) = stash::buffers(&pool);
            for index in 0..200 {
                stash::put_kept(source, pool.key(1, index), index)?;
                stash::get_hit(destination, pool.key(1, index), index)?;
            }
            stash::flood(&pool, 2, 2 * machine().frames() / pool.parts)?;
        }
        same!(mismatches(), before, "mismatches of unharmed pages");
        Ok(())
    })
}

/// The frame that holds a page which was just put.
fn frame_of(key: abi::Key, sequence: u64) -> Result<u64, Stop> {
    match host::find_frame(&pages::first_line(key, sequence)) {
        Some(frame) => Ok(frame),
        None => fail!("page {} is cached, but no frame of the tag storage holds it", key.index),
    }
}

/// A GET that must miss and count one mismatch; gets after it must miss too.
fn mismatches_once(pool: &Pool, key: abi::Key) -> Outcome {
    let (_, destination) = stash::buffers(pool);
    let before = mismatches();
    let next = abi::next_event();
    let answer = abi::get(key, destination.address(), 1);
    check!(answer == Answer::of(status::MISS, 1, 0, 0), "GET of a harmed page answers {answer:x?}");
    let event = abi::event_from(next);
    let wanted = (abi::event::MISMATCH, destination.address());
    check!(
        event.is_ok_and(|event| (event.kind, event.argument) == wanted),
        "the event of a harmed page is {event:x?}"
    );
    same!(mismatches(), before + 1, "mismatches after a GET of a harmed page");
    let answer = abi::get(key, destination.address(), 1);
    check!(answer == Answer::of(status::MISS, 1, 0, 0), "the next GET answers {answer:x?}");
    Ok(())
}

fn harmed() -> Outcome {
    with_verification(|| {
        let mut random = Random::new(17);
        for pool in [Pool::private()?, Pool::shared()?] {
            let (source, destination) = stash::buffers(&pool);
            for index in 0..12 {
                let key = pool.key(2, index);
                stash::put_kept(source, key, index)?;
                let frame = frame_of(key, index)?;
                let byte = match index {
                    0 => 0,
                    1 => PAGE - 1,
                    _ => random.below(PAGE),
                };
                let mut value = [0];
                host::read(frame + byte, &mut value);
                host::write(frame + byte, &[value[0] ^ 1 << random.below(8)]);
                mismatches_once(&pool, key)?;
                stash::put_kept(source, key, index + 100)?;
                stash::get_hit(destination, key, index + 100)?;
            }
        }
        Ok(())
    })
}

fn forgotten_claim() -> Outcome {
    with_verification(|| {
        let pool = Pool::private()?;
        let (source, _) = stash::buffers(&pool);
        let mut harmed = 0;
        for index in 0..12 {
            let key = pool.key(3, index);
            stash::put_kept(source, key, index)?;
            let frame = frame_of(key, index)?;
            let region = machine()
                .regions
                .all()
                .iter()
                .find(|region| region.storage.holds(Range::of(frame, PAGE)));
            let Some(region) = region else { fail!("frame {frame:#x} is in no region") };
            // The data whose tag lies in byte 1000 of the frame.
            let address = region.tagged.start + (frame + 1000 - region.storage.start) * 32;
            if machine().is_ram(Range::of(address / PAGE * PAGE, PAGE)) {
                // SAFETY: the storage is lent: what changes is a cached page of this test.
                unsafe { cpu::stg(address, cpu::ldg(address) ^ 0xf) };
                cpu::dsb();
                mismatches_once(&pool, key)?;
                harmed += 1;
            }
        }
        note!("{harmed} of 12 pages were harmed by a tag store");
        check!(harmed >= 6, "only {harmed} of 12 pages could be harmed by a tag store");
        Ok(())
    })
}

fn harmed_part() -> Outcome {
    with_verification(|| {
        let pool = Pool::shared_of(16, [1, 1])?;
        let (source, destination) = stash::buffers(&pool);
        for index in 0..4 {
            let key = pool.key(4, index);
            stash::put_kept(source, key, index)?;
            stash::get_hit(destination, key, index)?;
            let frame = frame_of(key, index)?;
            let mut value = [0];
            host::read(frame + 64, &mut value);
            host::write(frame + 64, &[!value[0]]);
            let before = mismatches();
            for _ in 0..2 {
                let answer = abi::get(key, destination.address(), 1);
                check!(
                    answer == Answer::of(status::MISS, 1, 0, 0),
                    "GET of a page with a harmed part answers {answer:x?}"
                );
            }
            same!(mismatches(), before + 1, "mismatches after GETs of a page with a harmed part");
        }
        Ok(())
    })
}

fn switched() -> Outcome {
    stash::deactivate()?;
    stash::activate(0)?;
    let result = (|| {
        let pool = Pool::shared()?;
        let (source, destination) = stash::buffers(&pool);
        let (early, late) = (pool.key(1, 1), pool.key(1, 2));
        let before = mismatches();
        stash::put_kept(source, early, 1)?;
        stash::activate(abi::VERIFY)?;
        // A page from before has no checksum: there is nothing to compare.
        if let Some(sequence) = stash::get(destination, early)? {
            same!(sequence, 1, "sequence of the early page");
        }
        stash::put_kept(source, late, 2)?;
        stash::get_hit(destination, late, 2)?;
        stash::activate(0)?;
        stash::get(destination, late)?;
        stash::put_kept(source, late, 3)?;
        stash::get_hit(destination, late, 3)?;
        same!(mismatches(), before, "mismatches");
        Ok(())
    })();
    stash::deactivate()?;
    result
}
