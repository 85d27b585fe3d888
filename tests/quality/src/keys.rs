// SPDX-License-Identifier: MIT OR Apache-2.0
//! The keys under which the pages of a trace are put: those of a file system whose inodes
//! are numbered one after the other, as exportfs writes them.

use crate::trace::File;
use tagstash::stash::key::{Object, PartKey};
use tagstash::stash::pool::PoolId;

/// The 192 bits of a file: inode number and generation in the first two 32-bit words.
pub fn words(file: File) -> [u64; 3] {
    let (inode, generation) = (u64::from(file) + 12, 0x5f37_59df);
    [inode | generation << 32, 0, 0]
}

/// The hash of a file.
pub fn object_hash(pool: PoolId, file: File) -> u64 {
    Object { pool, words: words(file) }.hash()
}

/// The hash of a page, given that of its file.
pub fn page_hash(pool: PoolId, file: File, index: u32, object_hash: u64) -> u64 {
    let object = Object { pool, words: words(file) };
    PartKey { object, index: u64::from(index), part: 0 }.hash(object_hash)
}
