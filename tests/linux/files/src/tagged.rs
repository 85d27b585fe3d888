// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory with a random tag on each granule, held for a while and then read back.

use linux_program::println;
use linux_program::tags::{GRANULE, ldg, stg, with_tag};

use crate::random::Random;
use crate::sys::{self, Errno, Mapping};

/// Granules whose tags are one random number: 16 tags of 4 bits.
const GROUP: u64 = 16;

/// Tags so much memory, waits for the end of the input, and reads all tags back; returns the exit
/// status.
pub fn run(mebibytes: u64, seed: u64) -> u64 {
    let length = mebibytes << 20;
    let memory = match Mapping::tagged(length) {
        Ok(memory) => memory,
        Err(Errno(error)) => {
            println!("filework: there are no {mebibytes} MiB of memory with tags: error {error}");
            return 1;
        }
    };
    for_each(&memory, length, seed, |granule, tag| {
        // SAFETY: inside the mapping, which no reference covers.
        unsafe { stg(with_tag(granule, tag)) };
    });
    println!("filework: {mebibytes} MiB tagged");
    while sys::read(0, &mut [0]) == Ok(1) {}
    let mut wrong = 0_u64;
    for_each(&memory, length, seed, |granule, tag| {
        // SAFETY: inside the mapping.
        let found = unsafe { ldg(granule) };
        if found != tag {
            wrong += 1;
            if wrong <= 3 {
                let offset = granule - memory.start();
                println!(
                    "filework: TAG MISMATCH at offset {offset:#x}: expected {tag}, found {found}"
                );
            }
        }
    });
    println!("filework: {} tags read back, {wrong} mismatches", length / GRANULE);
    u64::from(wrong != 0)
}

/// Calls a function with each granule and its tag.
fn for_each(memory: &Mapping, length: u64, seed: u64, mut call: impl FnMut(u64, u64)) {
    let mut random = Random::new(seed, 0);
    for group in 0..length / (GRANULE * GROUP) {
        let tags = random.below(u64::MAX);
        for place in 0..GROUP {
            let granule = memory.start() + (group * GROUP + place) * GRANULE;
            call(granule, tags >> (4 * place) & 0xf);
        }
    }
}
