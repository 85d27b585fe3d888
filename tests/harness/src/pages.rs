// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages that describe themselves: every 64 bytes hold the whole key, a sequence number, their
//! place in the page and a check word, so that a page of another key, an older page, half a page
//! or a part in the wrong place shows.

use crate::abi::Key;
use crate::arena::Pages;
use crate::prng::mix;
use crate::tap::{Stop, fail};

/// Words of one line of 64 bytes.
const LINE: usize = 8;
/// Which word of a line is the sequence number.
const SEQUENCE: usize = 5;
const LINES_OF_PAGE: usize = 4096 / 64;

fn seed(key: Key) -> u64 {
    let [first, second, third] = key.object;
    mix(first ^ mix(second ^ mix(third ^ mix(key.index ^ mix(key.pool)))))
}

fn line(key: Key, seed: u64, number: usize, sequence: u64) -> [u64; LINE] {
    let [first, second, third] = key.object;
    let place = key.pool << 32 | number as u64;
    let check = mix(seed ^ sequence.rotate_left(20) ^ number as u64);
    [first, second, third, key.index, place, sequence, !check, check]
}

/// The first line of the page that [`write()`] makes: to be searched for.
pub fn first_line(key: Key, sequence: u64) -> [u8; 64] {
    let mut bytes = [0; 64];
    for (bytes, word) in bytes.chunks_mut(8).zip(line(key, seed(key), 0, sequence)) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// Fills a page (of any size) for a key.
pub fn write(pages: Pages, key: Key, sequence: u64) {
    let seed = seed(key);
    for number in 0..pages.count() as usize * LINES_OF_PAGE {
        for (at, word) in line(key, seed, number, sequence).into_iter().enumerate() {
            pages.write(number * LINE + at, word);
        }
    }
}

/// Makes every line wrong, so that what is right afterwards was written by a GET.
pub fn spoil(pages: Pages) {
    for number in 0..pages.count() as usize * LINES_OF_PAGE {
        pages.write(number * LINE + SEQUENCE, u64::MAX);
    }
}

/// Checks every line of a page that a GET found; its sequence number.
pub fn read(pages: Pages, key: Key) -> Result<u64, Stop> {
    let seed = seed(key);
    let sequence = pages.read(SEQUENCE);
    for number in 0..pages.count() as usize * LINES_OF_PAGE {
        for (at, wanted) in line(key, seed, number, sequence).into_iter().enumerate() {
            let is = pages.read(number * LINE + at);
            if is != wanted {
                fail!(
                    "page {:#x} of object {:#x} in pool {:#x}, sequence {sequence}: word {at} of line \
                     {number} is {is:#x}, expected {wanted:#x}",
                    key.index,
                    key.object[0],
                    key.pool
                );
            }
        }
    }
    Ok(sequence)
}
