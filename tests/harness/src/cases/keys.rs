// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keys are compared whole: pool, all 192 bits of the object, all 64 bits of the index.

use crate::abi::Key;
use crate::stash::{self, Pool};
use crate::tap::{Outcome, Test, check, note};

/// Tests with tag storage.
pub const TESTS: &[Test] = &[
    ("P2 keys that differ in one bit are other keys", one_bit),
    ("P2 the same object and index in other pools are other keys", other_pools),
    ("P3 a flush of a key that differs in one bit flushes another page", one_bit_flush),
];

const BITS: u64 = 192 + 64;

fn flipped(key: Key, bit: u64) -> Key {
    let mut other = key;
    match bit {
        0..192 => other.object[(bit / 64) as usize] ^= 1 << (bit % 64),
        _ => other.index ^= 1 << (bit - 192),
    }
    other
}

fn one_bit() -> Outcome {
    stash::fresh()?;
    for base in [[0, 0, 0], [0x0123_4567_89ab_cdef, 0x1357_9bdf_0246_8ace, u64::MAX]] {
        let pool = Pool::shared()?;
        let (source, destination) = stash::buffers(&pool);
        let key = Key { pool: pool.id, object: base, index: 0x8000_0001 };
        stash::put_kept(source, key, 1000)?;
        for bit in 0..BITS {
            stash::get_miss(destination, flipped(key, bit))?;
        }
        stash::get_hit(destination, key, 1000)?;
        for bit in 0..BITS {
            stash::put_kept(source, flipped(key, bit), bit)?;
        }
        let mut hits = 0;
        for bit in 0..BITS {
            if let Some(is) = stash::get(destination, flipped(key, bit))? {
                check!(is == bit, "bit {bit}: the page of bit {is}");
                hits += 1;
            }
        }
        note!("{hits} of {BITS} neighbours of a key are cached at once");
        check!(hits * 10 >= BITS * 9, "only {hits} of {BITS} neighbours are cached at once");
    }
    Ok(())
}

fn other_pools() -> Outcome {
    stash::fresh()?;
    let pools = [Pool::private()?, Pool::private()?, Pool::shared()?, Pool::private()?];
    let (source, destination) = stash::buffers(&pools[0]);
    for (number, pool) in pools.iter().enumerate() {
        stash::get_miss(destination, pool.key(1, 1))?;
        stash::put_kept(source, pool.key(1, 1), number as u64)?;
        for other in &pools[number + 1..] {
            stash::get_miss(destination, other.key(1, 1))?;
        }
    }
    for (number, pool) in pools.iter().enumerate() {
        stash::get_hit(destination, pool.key(1, 1), number as u64)?;
    }
    Ok(())
}

fn one_bit_flush() -> Outcome {
    stash::fresh()?;
    let pool = Pool::shared()?;
    let (source, destination) = stash::buffers(&pool);
    let key = Key { pool: pool.id, object: [3, 1 << 63, 5], index: 6 };
    for bit in 0..BITS {
        stash::put_kept(source, key, bit)?;
        crate::abi::flush_page(flipped(key, bit), 1);
        stash::get_hit(destination, key, bit)?;
    }
    crate::abi::flush_page(key, 1);
    stash::get_miss(destination, key)
}
