// SPDX-License-Identifier: MIT OR Apache-2.0
//! What files contain. A file is made of cells of 64 bytes; a cell's bytes are computed from the
//! file, the cell's place in it and the version that it was written with, so that nothing but
//! versions has to be remembered, and so that wrong contents tell where they came from.

use core::fmt;

/// Words of a cell.
pub const CELL_WORDS: usize = 8;
/// Bytes of a cell.
pub const CELL: u64 = 64;
/// Bytes of a page, the smallest that Linux has on arm64.
pub const PAGE: u64 = 4096;
/// Cells of a page.
pub const PAGE_CELLS: u64 = PAGE / CELL;

/// Mixes all bits of a word (the finaliser of SplitMix64).
fn mix(mut word: u64) -> u64 {
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

/// A cell as it was written: by whom, where, when. It may have been moved since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The number of the file, over all processes.
    pub file: u32,
    /// The number of the cell in the file, when it was written.
    pub index: u64,
    /// The version, counted in the file; 0: never written, zeros.
    pub version: u32,
}

impl Cell {
    /// The contents.
    pub fn words(self) -> [u64; CELL_WORDS] {
        if self.version == 0 {
            return [0; CELL_WORDS];
        }
        let first = u64::from(self.file) << 32 | u64::from(self.version);
        let base = mix(first) ^ self.index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut words = [first, self.index, 0, 0, 0, 0, 0, 0];
        for (number, word) in (0_u64..).zip(&mut words).skip(2) {
            *word = mix(base.wrapping_add(number << 56));
        }
        words
    }

    /// Recognises contents: the cell that they were written as, if they are one cell's.
    fn recognise(words: &[u64]) -> Option<Cell> {
        let (&first, &index) = (words.first()?, words.get(1)?);
        let cell = Cell { file: (first >> 32) as u32, index, version: first as u32 };
        let cell =
            if words.iter().all(|&word| word == 0) { Cell { version: 0, ..cell } } else { cell };
        (cell.words() == words).then_some(cell)
    }
}

/// Wrong contents, in words.
pub struct Mismatch<'a> {
    /// The number of the cell that was read.
    pub index: u64,
    /// What ought to be there.
    pub expected: Cell,
    /// What is there.
    pub found: &'a [u64],
    /// By which operation it was read.
    pub by: &'a str,
}

impl fmt::Display for Mismatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mismatch { index: at, expected: Cell { file, index, version }, found, by } = self;
        write!(f, "MISMATCH in file {file} at offset {:#x}, {by}: expected ", at * CELL)?;
        match version {
            0 => write!(f, "zeros")?,
            _ if at == index => write!(f, "version {version}")?,
            _ => write!(f, "version {version}, moved from {:#x}", index * CELL)?,
        }
        match Cell::recognise(found) {
            Some(Cell { version: 0, .. }) => write!(f, ", found zeros"),
            Some(cell) if cell.file == *file && cell.index == *index => {
                write!(f, ", found version {} of the same place", cell.version)
            }
            Some(cell) => write!(
                f,
                ", found version {} of file {} at offset {:#x}",
                cell.version,
                cell.file,
                cell.index.wrapping_mul(CELL)
            ),
            None => {
                let own = Cell { file: *file, index: *index, version: *version }.words();
                let place = own.iter().zip(*found).position(|(is, wants)| is != wants).unwrap_or(0);
                write!(
                    f,
                    ", found neither: word {place} is {:#018x}, not {:#018x}",
                    found[place], own[place]
                )
            }
        }
    }
}
