// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `boot/pack.py` appended to the image: the guest's kernel, a ramdisk, boot arguments.
//!
//! The image has a table for it, which is empty as built. Pieces lie behind all memory that the
//! shim takes, because what follows the image's file in memory is bss, and is cleared.
//!
//! | bytes | what, little endian |
//! | --- | --- |
//! | 0 to 15 | [`MAGIC`], by which the table is found in the file |
//! | 16 to 19 | bytes of room for boot arguments |
//! | 20 to 23 | bytes of the boot arguments; 0: none |
//! | 24 to 31 | bytes of memory that the shim takes, bss included; 0: nothing is appended |
//! | 32 to 47 | the kernel: offset from the load address, bytes |
//! | 48 to 63 | the ramdisk, the same; 0 bytes: none |
//! | 64 to 71 | offset of the seal, which ends the file |
//! | 80 to 95 | a hash of kernel, ramdisk and boot arguments |
//! | 128 on | boot arguments |
//!
//! The seal is [`SEAL_MAGIC`] and the hash once more. Where it is missing the loader did not load
//! the whole file. A seal that an earlier boot left in memory would be taken for this file's if
//! the pieces are the same, so whoever has checked it clears it.

use crate::addr::{PhysAddr, PhysRange};
use crate::loaded::Name;
use core::fmt;

/// What the table begins with.
pub const MAGIC: [u8; 16] = *b"TAGSTASH-PAYLOAD";
/// What the seal begins with.
pub const SEAL_MAGIC: [u8; 16] = *b"TAGSTASH-PACKED.";
/// Bytes of the table before the boot arguments.
pub const HEAD: usize = 128;
/// Bytes of room for boot arguments: arm64 Linux takes 2048, the NUL included.
pub const ROOM: usize = 2048;
/// Bytes of the seal.
const SEAL: u64 = 32;

const ARGUMENTS_LENGTH: usize = 20;
const SHIM: usize = 24;
const KERNEL: usize = 32;
const RAMDISK: usize = 48;
const SEAL_OFFSET: usize = 64;
const HASH: usize = 80;

/// The table as the image is built with it: nothing is appended.
pub const EMPTY: [u8; HEAD + ROOM] = {
    let mut table = [0; HEAD + ROOM];
    let mut index = 0;
    while index < MAGIC.len() {
        table[index] = MAGIC[index];
        index += 1;
    }
    let room = (ROOM as u32).to_le_bytes();
    let mut index = 0;
    while index < room.len() {
        table[MAGIC.len() + index] = room[index];
        index += 1;
    }
    table
};

/// Why what was appended cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendedError {
    /// The table cannot be true.
    Table {
        /// What is wrong.
        what: &'static str,
        /// With which value.
        value: u64,
    },
    /// A piece cannot be where the table says.
    Piece {
        /// The piece.
        name: Name,
        /// What is wrong with it.
        what: &'static str,
        /// With which value.
        value: u64,
    },
    /// The seal is not where it should be.
    Cut {
        /// Where it should be.
        seal: PhysRange,
    },
}

impl fmt::Display for AppendedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table { what, value } => write!(
                f,
                "the image's table of appended pieces is damaged: {what} ({value:#x}): pack the file \
                 again (boot/pack.py)"
            ),
            Self::Piece { name, what, value } => write!(
                f,
                "the image's table of appended pieces is damaged: the {name} {what} ({value:#x}): pack \
                 the file again (boot/pack.py)"
            ),
            Self::Cut { seal } => write!(
                f,
                "the end of the packed file is not at {seal}: have the loader load the whole file, and \
                 put nothing else there"
            ),
        }
    }
}

impl core::error::Error for AppendedError {}

/// Pieces that were appended: apart from each other and from the shim, in the address space.
/// Whether there is RAM is for others to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended<'a> {
    /// The guest's kernel.
    pub kernel: PhysRange,
    /// Its initial ramdisk.
    pub ramdisk: Option<PhysRange>,
    /// Its command line.
    pub bootargs: Option<&'a str>,
    /// What ends the file.
    seal: PhysRange,
    hash: [u8; 16],
}

impl<'a> Appended<'a> {
    /// Reads the table of an image that takes the memory `shim`, bss included. `None` where
    /// nothing is appended.
    ///
    /// # Errors
    ///
    /// [`AppendedError::Table`].
    pub fn read(table: &'a [u8], shim: PhysRange) -> Result<Option<Appended<'a>>, AppendedError> {
        let wrong = |what, value| Err(AppendedError::Table { what, value });
        let Some(head) = table.first_chunk::<HEAD>() else {
            return wrong("it is too short", table.len() as u64);
        };
        let word = |offset: usize| {
            let bytes = head.get(offset..).and_then(|bytes| bytes.first_chunk());
            bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
        };
        match word(SHIM) {
            0 => return Ok(None),
            length if length == shim.len() => {}
            length => return wrong("it is another image's: that takes other memory", length),
        }
        // A range of the file, in memory.
        let piece = |offset: u64, length: u64| {
            PhysRange::new(PhysAddr(shim.start().0.checked_add(offset)?), length)
        };
        let Some(seal) = piece(word(SEAL_OFFSET), SEAL) else {
            return wrong("the seal wraps around", word(SEAL_OFFSET));
        };
        let between = |name: Name, at: usize| {
            let (offset, length) = (word(at), word(at + 8));
            let (what, value) = match piece(offset, length) {
                None => ("wraps around", length),
                Some(range) if range.start() < shim.end() => ("begins within the shim", offset),
                Some(range) if range.end() > seal.start() => ("goes past the seal", length),
                Some(range) if range.is_empty() => ("has no bytes", length),
                Some(range) => return Ok(range),
            };
            Err(AppendedError::Piece { name, what, value })
        };
        let kernel = between(Name::Kernel, KERNEL)?;
        let ramdisk = match word(RAMDISK + 8) {
            0 => None,
            _ => Some(between(Name::Ramdisk, RAMDISK)?),
        };
        if ramdisk.is_some_and(|ramdisk| ramdisk.overlaps(&kernel)) {
            let (what, value) = ("overlaps the kernel", word(RAMDISK));
            return Err(AppendedError::Piece { name: Name::Ramdisk, what, value });
        }
        let length = head.get(ARGUMENTS_LENGTH..).and_then(|bytes| bytes.first_chunk());
        let length = length.map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let Some(bootargs) = table.get(HEAD..).and_then(|room| room.get(..length as usize)) else {
            return wrong("the boot arguments are longer than their room", length.into());
        };
        // A NUL would end them for the kernel, and not for us.
        let bootargs = match core::str::from_utf8(bootargs) {
            Ok(text) if !text.contains('\0') => Some(text).filter(|text| !text.is_empty()),
            _ => return wrong("the boot arguments are no text", length.into()),
        };
        let mut hash = [0; 16];
        hash.copy_from_slice(&head[HASH..HASH + 16]);
        Ok(Some(Appended { kernel, ramdisk, bootargs, seal, hash }))
    }

    /// Where the seal has to be.
    pub fn seal(&self) -> PhysRange {
        self.seal
    }

    /// Checks the seal: `bytes` is what is where it has to be.
    ///
    /// # Errors
    ///
    /// [`AppendedError::Cut`].
    pub fn check(&self, bytes: &[u8]) -> Result<(), AppendedError> {
        match bytes.split_at_checked(SEAL_MAGIC.len()) {
            Some((magic, hash)) if *magic == SEAL_MAGIC && *hash == self.hash => Ok(()),
            _ => Err(AppendedError::Cut { seal: self.seal }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;
    use std::vec::Vec;

    const MIB: u64 = 1 << 20;
    const BASE: u64 = 0x4020_0000;
    const SIZE: u64 = 0x8a_b000;

    fn range(start: u64, length: u64) -> PhysRange {
        PhysRange::new(PhysAddr(start), length).unwrap()
    }

    fn shim() -> PhysRange {
        range(BASE, SIZE)
    }

    fn set(table: &mut [u8], offset: usize, value: u64) {
        table[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
    }

    fn set_arguments(table: &mut [u8], text: &[u8]) {
        table[ARGUMENTS_LENGTH..24].copy_from_slice(&(text.len() as u32).to_le_bytes());
        table[HEAD..HEAD + text.len()].copy_from_slice(text);
    }

    /// As pack.py writes it: a ramdisk of 5 MiB behind the shim, then a kernel of 30 MiB.
    fn table() -> Vec<u8> {
        let mut table = EMPTY.to_vec();
        set(&mut table, SHIM, SIZE);
        set(&mut table, KERNEL, 14 * MIB);
        set(&mut table, KERNEL + 8, 30 * MIB);
        set(&mut table, RAMDISK, SIZE);
        set(&mut table, RAMDISK + 8, 5 * MIB);
        set(&mut table, SEAL_OFFSET, 44 * MIB);
        table[HASH..HASH + 16].copy_from_slice(b"0123456789abcdef");
        set_arguments(&mut table, b"console=ttyAMA0");
        table
    }

    #[test]
    fn pieces_are_where_the_table_says() {
        assert_eq!(Appended::read(&EMPTY, shim()), Ok(None));
        let table = table();
        let found = Appended::read(&table, shim()).unwrap().unwrap();
        assert_eq!(found.kernel, range(BASE + 14 * MIB, 30 * MIB));
        assert_eq!(found.ramdisk, Some(range(BASE + SIZE, 5 * MIB)));
        assert_eq!(found.bootargs, Some("console=ttyAMA0"));
        assert_eq!(found.seal(), range(BASE + 44 * MIB, 32));
        let mut bare = table.clone();
        set(&mut bare, RAMDISK + 8, 0);
        set_arguments(&mut bare, b"");
        let found = Appended::read(&bare, shim()).unwrap().unwrap();
        assert_eq!((found.ramdisk, found.bootargs), (None, None));
    }

    #[test]
    fn the_seal_is_this_files_or_none() {
        let table = table();
        let found = Appended::read(&table, shim()).unwrap().unwrap();
        let mut seal = [SEAL_MAGIC, *b"0123456789abcdef"].concat();
        assert_eq!(found.check(&seal), Ok(()));
        let cut = Err(AppendedError::Cut { seal: range(BASE + 44 * MIB, 32) });
        for length in 0..32 {
            assert_eq!(found.check(&seal[..length]), cut, "{length}");
        }
        for index in 0..32 {
            seal[index] ^= 1;
            assert_eq!(found.check(&seal), cut, "{index}");
            seal[index] ^= 1;
        }
    }

    #[test]
    fn a_table_that_cannot_be_true_is_refused_with_what_is_wrong() {
        let cases: [(usize, u64, &str); 12] = [
            (SHIM, SIZE + 4096, "it is another image's: that takes other memory (0x8ac000)"),
            (KERNEL + 8, 0, "the kernel has no bytes (0x0)"),
            (KERNEL, u64::MAX - BASE + 1, "the kernel wraps around (0x1e00000)"),
            (KERNEL + 8, u64::MAX, "the kernel wraps around (0xffffffffffffffff)"),
            (KERNEL, SIZE - 1, "the kernel begins within the shim (0x8aafff)"),
            (KERNEL + 8, 30 * MIB + 1, "the kernel goes past the seal (0x1e00001)"),
            (RAMDISK, 0, "the ramdisk begins within the shim (0x0)"),
            (RAMDISK, 44 * MIB, "the ramdisk goes past the seal (0x500000)"),
            (RAMDISK + 8, u64::MAX - BASE, "the ramdisk wraps around (0xffffffffbfdfffff)"),
            (RAMDISK, 9 * MIB + 1, "the ramdisk overlaps the kernel (0x900001)"),
            (SEAL_OFFSET, u64::MAX - BASE, "the seal wraps around (0xffffffffbfdfffff)"),
            (SEAL_OFFSET, 0, "the kernel goes past the seal (0x1e00000)"),
        ];
        for (offset, value, message) in cases {
            let mut table = table();
            set(&mut table, offset, value);
            let text = Appended::read(&table, shim()).unwrap_err().to_string();
            let expected = "the image's table of appended pieces is damaged: ".to_string()
                + message
                + ": pack the file again (boot/pack.py)";
            assert_eq!(text, expected);
        }
        let mut table = table();
        for text in [&b"a\0b"[..], b"\xff"] {
            set_arguments(&mut table, text);
            let text = Appended::read(&table, shim()).unwrap_err().to_string();
            assert!(text.contains("the boot arguments are no text"), "{text}");
        }
        set_arguments(&mut table, &[b'x'; ROOM]);
        assert!(Appended::read(&table, shim()).is_ok());
        table[ARGUMENTS_LENGTH..24].copy_from_slice(&(ROOM as u32 + 1).to_le_bytes());
        let text = Appended::read(&table, shim()).unwrap_err().to_string();
        assert!(text.contains("longer than their room (0x801)"), "{text}");
        for length in 0..HEAD {
            assert!(Appended::read(&table[..length], shim()).is_err());
        }
    }

    /// Tables of any bytes, most of them nearly right: no panic, and pieces that are accepted lie
    /// where pieces may lie.
    #[test]
    fn what_is_accepted_lies_apart_behind_the_shim() {
        let mut state = 1u64;
        let mut random = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            state >> 33
        };
        let numbers =
            [0, 1, SIZE - 1, SIZE, SIZE + 1, 14 * MIB, 44 * MIB, u64::MAX - BASE, u64::MAX];
        let rounds = if cfg!(miri) { 20 } else { 100_000 };
        let mut accepted = 0;
        for _ in 0..rounds {
            let mut table = table();
            for _ in 0..=random() % 4 {
                match random() % 3 {
                    0 => {
                        let offset = random() as usize % HEAD;
                        table[offset] = random() as u8;
                    }
                    _ => {
                        let value = numbers[random() as usize % numbers.len()];
                        let value = value.wrapping_add(random() % 3).wrapping_sub(1);
                        set(&mut table, SHIM + 8 * (random() as usize % 6), value);
                    }
                }
            }
            let Ok(Some(found)) = Appended::read(&table, shim()) else { continue };
            accepted += 1;
            let (kernel, seal) = (found.kernel, found.seal());
            assert!(
                !kernel.is_empty()
                    && kernel.start() >= shim().end()
                    && kernel.end() <= seal.start()
            );
            if let Some(ramdisk) = found.ramdisk {
                assert!(!ramdisk.is_empty() && !ramdisk.overlaps(&kernel));
                assert!(ramdisk.start() >= shim().end() && ramdisk.end() <= seal.start());
            }
        }
        assert!(accepted > rounds / 100, "{accepted}");
    }
}
