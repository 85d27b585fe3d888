// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pools: private and shared, their page sizes, their number, their ids.

use crate::abi::{self, Answer, status};
use crate::arena;
use crate::pages;
use crate::ranges::PAGE;
use crate::stash::{self, Pool};
use crate::tap::{Outcome, Test, check, fail, note, same};

/// Tests with tag storage.
pub const TESTS: &[Test] = &[
    ("a hit empties a private pool's page and leaves a shared pool's", exclusive_and_shared),
    ("shared pools are found by all 128 bits of their UUID", uuids),
    ("there are as many pools as VERSION says, then NO_FREE_POOL", all_pools),
    ("a destroyed pool's id is NO_SUCH_POOL for ever", stale_ids),
    ("P3 a destroyed pool's pages are gone, in its successor too", destroyed_pages),
    ("P2 pages of 16 KiB come back whole", pages_of_16k),
    ("P2 pages of 64 KiB come back whole", pages_of_64k),
    ("P2 parts of large pages are never mixed", parts),
    ("P10 a large page is kept and hits at once, however full the stash is", large_kept),
];

fn exclusive_and_shared() -> Outcome {
    stash::active()?;
    for bits in [12, 14, 16] {
        let private = Pool::private_of(bits)?;
        let shared = Pool::shared_of(bits, [bits, 1])?;
        let (source, destination) = stash::buffers(&private);
        for index in 0..20 {
            for pool in [&private, &shared] {
                stash::put_kept(source, pool.key(1, index), index)?;
            }
            for _ in 0..3 {
                stash::get_hit(destination, shared.key(1, index), index)?;
            }
            stash::get_hit(destination, private.key(1, index), index)?;
            stash::get_miss(destination, private.key(1, index))?;
        }
    }
    Ok(())
}

fn uuids() -> Outcome {
    stash::active()?;
    let uuid = [0x1122_3344_5566_7788, 0x99aa_bbcc_ddee_ff00];
    let pool = Pool::shared_of(14, uuid)?;
    let again = abi::create_shared(14, uuid);
    check!(again == Answer::of(0, pool.id, 0, 0), "the same UUID: {again:x?}, not {:#x}", pool.id);
    for bit in 0..128 {
        let mut other = uuid;
        other[bit / 64] ^= 1 << (bit % 64);
        let other = Pool::shared_of(14, other)?;
        check!(other.id != pool.id, "UUIDs that differ in bit {bit} share a pool");
    }
    // 0 is a UUID like others, and private pools are not found by any.
    let zero = Pool::shared_of(12, [0, 0])?;
    let private = Pool::private()?;
    check!(zero.id != private.id, "a private pool is shared");
    same!(abi::create_shared(12, [0, 0]).x1, zero.id, "UUID 0 again");
    // Users are not counted: one POOL_DESTROY is enough.
    let answer = abi::destroy(pool.id);
    check!(answer == Answer::only(0), "POOL_DESTROY answers {answer:x?}");
    same!(abi::flush_pool(pool.id).status, status::NO_SUCH_POOL, "after POOL_DESTROY");
    let other_size = Pool::shared_of(16, uuid)?;
    check!(other_size.id != pool.id, "a new pool of an old UUID has the old id");
    Ok(())
}

fn all_pools() -> Outcome {
    stash::active()?;
    let limit = (abi::version().x3 >> 16 & 0xffff) as usize;
    let mut ids = [0; 1024];
    let mut made = 0;
    let outcome = loop {
        let answer = abi::create_private(12);
        if !answer.ok() || made == ids.len() {
            break answer;
        }
        ids[made] = answer.x1;
        made += 1;
    };
    let shared = abi::create_shared(12, [9, 9]);
    // An id must work for the 64th pool as for the first.
    let page = arena::take(1);
    let last = abi::Key::new(ids[made.saturating_sub(1)], 1, 1);
    let put = abi::put(last, page.address(), 1);
    let mut unequal = true;
    for (number, id) in ids[..made].iter().enumerate() {
        unequal &= !ids[..number].contains(id);
        abi::destroy(*id);
    }
    check!(made == limit, "{made} pools can be made, VERSION says {limit}");
    check!(outcome == Answer::only(status::NO_FREE_POOL), "one more: {outcome:x?}");
    check!(shared == Answer::only(status::NO_FREE_POOL), "one more, shared: {shared:x?}");
    check!(put.ok(), "PUT to the last pool: {put:x?}");
    check!(unequal, "two pools have the same id");
    Pool::private().map(drop)
}

fn stale_ids() -> Outcome {
    stash::active()?;
    const ROUNDS: usize = 300;
    let source = arena::take(1);
    let mut ids = [0; ROUNDS];
    for round in 0..ROUNDS {
        let pool = Pool::private()?;
        check!(!ids[..round].contains(&pool.id), "id {:#x} is used again", pool.id);
        check!(pool.id < 1 << 27, "id {:#x} is not below 2^27", pool.id);
        ids[round] = pool.id;
        stash::put_kept(source, pool.key(1, 1), 1)?;
    }
    let live = Pool::private()?;
    for id in ids {
        let key = abi::Key::new(id, 1, 1);
        for (name, answer) in [
            ("PUT", abi::put(key, source.address(), 1)),
            ("GET", abi::get(key, source.address(), 1)),
            ("FLUSH_PAGE", abi::flush_page(key, 1)),
            ("FLUSH_OBJECT", abi::flush_object(id, key.object)),
            ("FLUSH_POOL", abi::flush_pool(id)),
            ("POOL_DESTROY", abi::destroy(id)),
        ] {
            if answer != Answer::only(status::NO_SUCH_POOL) {
                fail!("{name} with stale id {id:#x}: {answer:x?} (live: {:#x})", live.id);
            }
        }
    }
    Ok(())
}

fn destroyed_pages() -> Outcome {
    stash::active()?;
    let page = arena::take(1);
    for shared in [false, true] {
        let make = || if shared { Pool::shared() } else { Pool::private() };
        for _ in 0..70 {
            let pool = make()?;
            for index in 0..4 {
                // The contents are those of a key in no pool, so that a page of an earlier pool
                // shows as a hit and nothing else.
                let answer = abi::get(pool.key(1, index), page.address(), 1);
                check!(
                    answer == Answer::of(status::MISS, 1, 0, 0),
                    "a new pool has page {index}: {answer:x?}"
                );
                check!(stash::put_as_is(page, pool.key(1, index))?, "not cached");
            }
        }
    }
    Ok(())
}

fn pages_of_16k() -> Outcome {
    large(14)
}

fn pages_of_64k() -> Outcome {
    large(16)
}

fn large(bits: u64) -> Outcome {
    stash::fresh()?;
    for pool in [Pool::private_of(bits)?, Pool::shared_of(bits, [1, bits])?] {
        let (source, destination) = stash::buffers(&pool);
        for index in [0, 1, 2, 15, 16, 17, 1 << 31, 1 << 32, 1 << 60, 1 << 63, u64::MAX] {
            let key = pool.key(1, index);
            stash::get_miss(destination, key)?;
            for sequence in 0..3 {
                stash::put_kept(source, key, index ^ sequence)?;
            }
            stash::get_hit(destination, key, index ^ 2)?;
            abi::flush_page(key, 1);
            stash::get_miss(destination, key)?;
        }
        // Many at once, then by object and by pool.
        for object in 0..3 {
            for index in 0..8 {
                stash::put_kept(source, pool.key(object, index), index)?;
            }
        }
        abi::flush_object(pool.id, [0, 0, 0]);
        let mut hits = 0;
        for object in 0..2 {
            for index in 0..8 {
                if let Some(sequence) = stash::get(destination, pool.key(object, index))? {
                    check!(object != 0, "page {index} is there after FLUSH_OBJECT");
                    same!(sequence, index, "sequence of page {index}");
                    hits += 1;
                }
            }
        }
        check!(hits >= 6, "of 8 pages of 2^{bits} in a roomy stash only {hits} are there");
        abi::flush_pool(pool.id);
        for index in 0..8 {
            stash::get_miss(destination, pool.key(2, index))?;
        }
    }
    Ok(())
}

fn parts() -> Outcome {
    // More large pages than there is room for, several times over the same keys, with small
    // pages pushing parts out: what is found must be whole and of one put.
    stash::fresh()?;
    let frames = crate::machine::machine().frames();
    for bits in [14, 16] {
        let pool = Pool::shared_of(bits, [2, bits])?;
        let small = Pool::private()?;
        let (source, destination) = stash::buffers(&pool);
        let (small_source, _) = stash::buffers(&small);
        let keys = frames / pool.parts;
        let (mut gets, mut hits, mut kept) = (0_u64, 0_u64, 0_u64);
        for round in 0..3 {
            for index in 0..keys {
                kept += u64::from(stash::put(source, pool.key(1, index), round)?);
                stash::put_kept(small_source, small.key(round, index), 0)?;
            }
            for index in 0..keys {
                gets += 1;
                if let Some(sequence) = stash::get(destination, pool.key(1, index))? {
                    same!(sequence, round, "sequence of page {index}");
                    hits += 1;
                }
            }
        }
        note!("2^{bits}: {kept} of {gets} puts kept, {hits} of {gets} gets hit");
        same!(kept, gets, "puts kept");
        check!(hits * 5 >= gets, "only {hits} of {gets} large pages hit");
    }
    Ok(())
}

fn large_kept() -> Outcome {
    stash::active()?;
    let small = Pool::private()?;
    stash::flood(&small, 1, 2 * crate::machine::machine().frames())?;
    for bits in [14, 16] {
        let pool = Pool::private_of(bits)?;
        let (source, destination) = stash::buffers(&pool);
        for index in 0..200 {
            let key = pool.key(index, index * 3);
            stash::put_kept(source, key, index)?;
            stash::get_hit(destination, key, index)?;
        }
    }
    // A GET of a large page leaves what lies behind the destination alone.
    let pool = Pool::shared_of(16, [3, 3])?;
    let pages = arena::take_aligned(33, 16 * PAGE);
    let (source, destination, behind) = (pages.part(0, 16), pages.part(16, 16), pages.part(32, 1));
    behind.fill(77);
    pages::write(source, pool.key(1, 1), 1);
    check!(stash::put_as_is(source, pool.key(1, 1))?, "not cached");
    stash::get_hit(destination, pool.key(1, 1), 1)?;
    for word in 0..arena::WORDS {
        same!(behind.read(word), 77, "word {word} behind the destination");
    }
    Ok(())
}
