// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keys: which page of which object of which pool, and their hashes.

use super::pool::{POOL_ID_BITS, PoolId};

/// Words of an object: 192 bits, six 32-bit words as exportfs file handles need.
pub const OBJECT_WORDS: usize = 3;
/// Most 4 KiB parts that a page of a pool has (64 KiB).
pub const MAX_PARTS: u32 = 16;

/// Bits that tell pool and part.
pub const OWNER_BITS: u32 = POOL_ID_BITS + MAX_PARTS.trailing_zeros();

/// A file, in one pool's name space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object {
    /// The pool.
    pub pool: PoolId,
    /// The file's 192 bits.
    pub words: [u64; OBJECT_WORDS],
}

impl Object {
    /// Hashes the object. Equal objects have equal hashes; nothing is ever decided on a hash
    /// alone, except that a flush of one object may drop another's pages.
    ///
    /// The pool's bits are low ones; [`fold`] the result before bits of it are used.
    #[inline(always)]
    pub fn hash(&self) -> u64 {
        let [a, b, c] = self.words;
        let words = fold(a ^ FACTOR, b.rotate_right(17) ^ FACTOR);
        words.wrapping_add(c.wrapping_mul(FACTOR)) ^ u64::from(self.pool.0)
    }
}

/// One 4 KiB part of one page: what a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartKey {
    /// The file.
    pub object: Object,
    /// The page's offset in the file, in pages of the pool's page size.
    pub index: u64,
    /// The part of the page, below [`MAX_PARTS`].
    pub part: u32,
}

impl PartKey {
    /// Hashes the part, given the hash of its object. All bits are good.
    #[inline(always)]
    pub fn hash(&self, object_hash: u64) -> u64 {
        fold(object_hash.wrapping_add(u64::from(self.part) << 56), self.index ^ FACTOR)
    }

    /// Pool and part in [`OWNER_BITS`] bits, as an entry keeps them.
    #[inline(always)]
    pub fn owner(&self) -> u64 {
        u64::from(self.part) << POOL_ID_BITS | u64::from(self.object.pool.0)
    }
}

/// An odd number without a pattern: a power of 5, modulo 2^64. One constant for all, because each
/// costs four instructions to load.
pub const FACTOR: u64 = pow(5, 101);

const fn pow(base: u64, mut exponent: u32) -> u64 {
    let mut power = 1u64;
    while exponent > 0 {
        power = power.wrapping_mul(base);
        exponent -= 1;
    }
    power
}

/// Multiplies to 128 bits and folds the halves: every bit of both factors reaches the result.
#[inline(always)]
pub fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn key() -> PartKey {
        PartKey {
            object: Object { pool: PoolId(3), words: [0x1234, 0, 0x9999_0000_0000] },
            index: 77,
            part: 2,
        }
    }

    fn full_hash(key: &PartKey) -> u64 {
        key.hash(key.object.hash())
    }

    #[test]
    fn a_change_of_any_one_bit_of_a_key_changes_its_hash() {
        let mut hashes = HashSet::from([full_hash(&key())]);
        let mut count = 1;
        let mut add = |changed: PartKey| {
            assert_ne!(changed, key());
            hashes.insert(full_hash(&changed));
            count += 1;
        };
        for bit in (0..64).step_by(if cfg!(miri) { 21 } else { 1 }) {
            for word in 0..OBJECT_WORDS {
                let mut changed = key();
                changed.object.words[word] ^= 1 << bit;
                add(changed);
            }
            add(PartKey { index: key().index ^ 1 << bit, ..key() });
        }
        for bit in 0..POOL_ID_BITS {
            let mut changed = key();
            changed.object.pool.0 ^= 1 << bit;
            add(changed);
        }
        for part in (0..MAX_PARTS).filter(|&part| part != key().part) {
            add(PartKey { part, ..key() });
        }
        assert_eq!(hashes.len(), count);
    }

    /// A run of indexes, and the parts of a page, must spread over the sets: what a bad hash
    /// would ruin first.
    #[test]
    fn runs_of_indexes_and_parts_spread_over_buckets() {
        const BUCKETS: u64 = 256;
        let mut counts = [0u32; BUCKETS as usize];
        for index in 0..64 * BUCKETS / 16 {
            for part in 0..16 {
                let hash = full_hash(&PartKey { index, part, ..key() });
                counts[((u128::from(hash) * u128::from(BUCKETS)) >> 64) as usize] += 1;
            }
        }
        // 64 expected in each; a Poisson tail stays within 64 +- 6 * 8.
        assert!(counts.iter().all(|&n| (16..112).contains(&n)), "{counts:?}");
    }

    #[test]
    fn owners_tell_pools_and_parts_apart() {
        let mut owners = HashSet::new();
        let pools = [0, 1, 63, 64, 1 << (POOL_ID_BITS - 1), (1 << POOL_ID_BITS) - 1];
        for pool in pools {
            for part in 0..MAX_PARTS {
                let object = Object { pool: PoolId(pool), ..key().object };
                let owner = PartKey { object, part, ..key() }.owner();
                assert_eq!(owner >> OWNER_BITS, 0);
                owners.insert(owner);
            }
        }
        assert_eq!(owners.len(), pools.len() * MAX_PARTS as usize);
    }
}
