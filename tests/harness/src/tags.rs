// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tags with a pattern: written by STG or STGM, read back by LDG and LDGM, and looked for in the
//! storage bytes through the host.

use crate::cpu;
use crate::host;
use crate::machine::machine;
use crate::prng::mix;
use crate::ranges::PAGE;
use crate::tap::{Outcome, check, fail};

/// Granules whose tags fill one 64-bit word.
const GRANULES: u64 = 16;
/// Data bytes of them.
const CHUNK: u64 = GRANULES * 16;
/// Such words for each page.
pub const WORDS: usize = (PAGE / CHUNK) as usize;

/// The tags of a page, as they lie in storage.
pub type PageTags = [u64; WORDS];

/// The pattern that belongs to a page and a seed.
pub fn pattern(page: u64, seed: u64) -> PageTags {
    core::array::from_fn(|word| mix(mix(page ^ seed.rotate_left(40)) ^ word as u64))
}

/// Which instruction stores the tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// One granule at a time.
    Stg,
    /// As many as the CPU takes at once.
    Stgm,
}

/// Writes all tags of a page. The page must be claimed, or nothing lent.
pub fn write(page: u64, seed: u64, store: Store) {
    let step = match store {
        Store::Stg => 16,
        Store::Stgm => cpu::tag_block_bytes(),
    };
    for (word, tags) in pattern(page, seed).into_iter().enumerate() {
        let start = page + word as u64 * CHUNK;
        let mut address = start;
        while address < start + CHUNK {
            let tag = tags >> ((address - start) / 16 * 4) & 0xf;
            match store {
                // SAFETY: the storage is not lent, says the caller.
                Store::Stg => unsafe { cpu::stg(address, tag) },
                // SAFETY: as above.
                Store::Stgm => unsafe { cpu::stgm(address, tags) },
            }
            address += step;
        }
    }
}

/// All tags of a page by LDGM.
pub fn read(page: u64) -> PageTags {
    let step = cpu::tag_block_bytes();
    core::array::from_fn(|word| {
        let start = page + word as u64 * CHUNK;
        (0..CHUNK / step).fold(0, |tags, part| tags | cpu::ldgm(start + part * step))
    })
}

/// Checks all tags of a page by LDG and by LDGM.
pub fn verify(page: u64, seed: u64) -> Outcome {
    let wanted = pattern(page, seed);
    let is = read(page);
    if let Some(word) = (0..WORDS).find(|word| is[*word] != wanted[*word]) {
        fail!(
            "tags of page {page:#x} by LDGM: word {word} is {:#018x}, expected {:#018x}",
            is[word],
            wanted[word]
        );
    }
    for granule in 0..PAGE / 16 {
        let is = cpu::ldg(page + granule * 16);
        let wanted = wanted[(granule / GRANULES) as usize] >> (granule % GRANULES * 4) & 0xf;
        check!(
            is == wanted,
            "tag of granule {granule} of page {page:#x} by LDG is {is:#x}, expected {wanted:#x}"
        );
    }
    Ok(())
}

/// What lies in storage where the page's tags belong, seen from the host.
pub fn stored(page: u64) -> PageTags {
    let region = machine().region_of(page).expect("the page has tag storage");
    let mut bytes = [0; WORDS * 8];
    host::read(region.storage_of(page), &mut bytes);
    core::array::from_fn(|word| {
        let mut own = [0; 8];
        own.copy_from_slice(&bytes[word * 8..][..8]);
        u64::from_le_bytes(own)
    })
}

/// Checks that the storage bytes are the page's tags.
pub fn verify_stored(page: u64, seed: u64) -> Outcome {
    let wanted = pattern(page, seed);
    let is = stored(page);
    match (0..WORDS).find(|word| is[*word] != wanted[*word]) {
        None => Ok(()),
        Some(word) => fail!(
            "storage of page {page:#x}: word {word} is {:#018x}, its tags are {:#018x}",
            is[word],
            wanted[word]
        ),
    }
}
