// SPDX-License-Identifier: MIT OR Apache-2.0
//! The key that every cache is given, and its hash.
//!
//! The other caches hash with the stash's own function, so that no difference comes from hashing.
//! `quick_cache` is tried with its own as well, on [`Fields`].

use std::hash::{BuildHasher, Hash, Hasher};
use tagstash::stash::key::{OBJECT_WORDS, Object, PartKey};
use tagstash::stash::pool::PoolId;

/// Pages of one file.
const PAGES_PER_FILE: u32 = 64;

/// Pool, six 32-bit words of object, and index: all that the stash compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub pool: u32,
    pub object: [u64; OBJECT_WORDS],
    pub index: u64,
}

impl Key {
    /// The key of page number `page` of all files'. An object as file systems make them: an
    /// inode number, a generation, and the parent's.
    #[inline(always)]
    pub fn of(pool: u32, page: u32) -> Key {
        let file = u64::from(page / PAGES_PER_FILE);
        let object = [file + 0x20_0000, file.wrapping_mul(0x9e37_79b9) & 0xffff_ffff, file >> 6];
        Key { pool, object, index: u64::from(page % PAGES_PER_FILE) }
    }

    /// The object, as the stash takes it.
    #[inline(always)]
    pub fn object(&self) -> Object {
        Object { pool: PoolId(self.pool), words: self.object }
    }
}

impl Hash for Key {
    #[inline(always)]
    fn hash<H: Hasher>(&self, state: &mut H) {
        let object = self.object();
        let key = PartKey { object, index: self.index, part: 0 };
        state.write_u64(key.hash(object.hash()));
    }
}

/// The same key for a hash function that is to hash all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fields {
    pool: u32,
    object: [u64; OBJECT_WORDS],
    index: u64,
}

impl From<Key> for Fields {
    #[inline(always)]
    fn from(Key { pool, object, index }: Key) -> Fields {
        Fields { pool, object, index }
    }
}

/// Passes on the hash that [`Key`] has worked out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Passing(u64);

impl Hasher for Passing {
    #[inline(always)]
    fn write(&mut self, _: &[u8]) {
        unreachable!("a key writes one 64-bit word");
    }

    #[inline(always)]
    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }

    #[inline(always)]
    fn finish(&self) -> u64 {
        self.0
    }
}

impl BuildHasher for Passing {
    type Hasher = Passing;

    #[inline(always)]
    fn build_hasher(&self) -> Passing {
        Passing(0)
    }
}
