// SPDX-License-Identifier: MIT OR Apache-2.0
//! Says which tag bytes live where in guest RAM: the list of pieces, read and checked.
//!
//! QEMU keeps one byte of tag memory for every 32 bytes of RAM, in address order. A piece says: the
//! tags of this run of data are to live at that place in RAM. Pieces need not be in order, and the
//! storage may lie anywhere.

use std::fmt;

/// Bytes of data whose tags fill one byte of tag memory.
pub const DATA_PER_TAG_BYTE: u64 = 32;

/// The unit that a mapping can be moved in: a page of the machine that QEMU runs on.
pub const STORAGE_ALIGN: u64 = 4096;

/// The data whose tags fill one such page.
pub const DATA_ALIGN: u64 = STORAGE_ALIGN * DATA_PER_TAG_BYTE;

/// A run of data and the place of its tags. All values are in bytes, offsets from the start of RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where the data begins.
    pub data: u64,
    /// Where its tags are kept.
    pub storage: u64,
    /// How much data it is; the storage is a 32nd of that.
    pub length: u64,
}

impl Piece {
    /// Returns where the data ends.
    pub fn data_end(&self) -> u64 {
        self.data + self.length
    }

    /// Returns how many bytes of storage the tags take.
    pub fn storage_length(&self) -> u64 {
        self.length / DATA_PER_TAG_BYTE
    }

    /// Returns where the storage ends.
    pub fn storage_end(&self) -> u64 {
        self.storage + self.storage_length()
    }

    /// Returns where QEMU's tag memory holds the tags of this data.
    pub fn tag_offset(&self) -> u64 {
        self.data / DATA_PER_TAG_BYTE
    }
}

/// What is wrong with a list of pieces. Positions count from zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PieceError {
    /// The list is empty.
    Empty,
    /// A piece is not three numbers separated by colons.
    Shape {
        /// The piece as it was written.
        text: String,
    },
    /// A number is not one: decimal, or hexadecimal after `0x`.
    Number {
        /// The number as it was written.
        text: String,
    },
    /// The size of RAM is zero or no multiple of the data of one tag page.
    Ram {
        /// The size given.
        bytes: u64,
    },
    /// A value is not aligned as it has to be.
    Alignment {
        /// The piece's position.
        piece: usize,
        /// Which of its values.
        what: &'static str,
        /// The value.
        value: u64,
        /// The alignment asked for.
        align: u64,
    },
    /// A piece has no length.
    NoLength {
        /// The piece's position.
        piece: usize,
    },
    /// A piece reaches past the end of RAM.
    OutsideRam {
        /// The piece's position.
        piece: usize,
        /// Which of its ranges.
        what: &'static str,
        /// Where that range begins.
        start: u64,
        /// How long it is.
        length: u64,
        /// The size of RAM.
        ram: u64,
    },
    /// Two ranges share bytes that they may not share.
    Overlap {
        /// One piece's position.
        first: usize,
        /// Which of its ranges.
        first_what: &'static str,
        /// The other piece's position.
        second: usize,
        /// Which of its ranges.
        second_what: &'static str,
    },
}

impl fmt::Display for PieceError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(out, "the list of pieces is empty"),
            Self::Shape { text } => {
                write!(out, "'{text}' is not a piece: expected data:storage:length")
            }
            Self::Number { text } => write!(out, "'{text}' is not a number"),
            Self::Ram { bytes } => write!(
                out,
                "a RAM size of {bytes:#x} is not a multiple of {DATA_ALIGN:#x} above zero"
            ),
            Self::Alignment { piece, what, value, align } => {
                write!(out, "piece {piece}: {what} {value:#x} is not a multiple of {align:#x}")
            }
            Self::NoLength { piece } => write!(out, "piece {piece}: its length is zero"),
            Self::OutsideRam { piece, what, start, length, ram } => write!(
                out,
                "piece {piece}: {what} at {start:#x}, {length:#x} bytes, \
                 reaches past the {ram:#x} bytes of RAM"
            ),
            Self::Overlap { first, first_what, second, second_what } => write!(
                out,
                "the {first_what} of piece {first} overlaps the {second_what} of piece {second}"
            ),
        }
    }
}

impl std::error::Error for PieceError {}

/// Reads a number in decimal, or in hexadecimal after `0x`.
pub fn parse_number(text: &str) -> Result<u64, PieceError> {
    let text = text.trim();
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        // from_str_radix takes a sign, which has no place here.
        Some(digits) if !digits.starts_with(['+', '-']) => u64::from_str_radix(digits, 16),
        None if !text.starts_with('+') => text.parse(),
        _ => return Err(PieceError::Number { text: text.to_owned() }),
    };
    parsed.map_err(|_| PieceError::Number { text: text.to_owned() })
}

/// Reads and checks a list such as `0x0:0x1f000000:0x1f000000,…` (data, storage, length of data)
/// for RAM of `ram` bytes.
pub fn parse(list: &str, ram: u64) -> Result<Vec<Piece>, PieceError> {
    let mut pieces = Vec::new();
    for text in list.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        let mut numbers = text.split(':');
        let (Some(data), Some(storage), Some(length), None) =
            (numbers.next(), numbers.next(), numbers.next(), numbers.next())
        else {
            return Err(PieceError::Shape { text: text.to_owned() });
        };
        pieces.push(Piece {
            data: parse_number(data)?,
            storage: parse_number(storage)?,
            length: parse_number(length)?,
        });
    }
    check(&pieces, ram)?;
    Ok(pieces)
}

/// Checks alignment, bounds and overlaps of pieces.
fn check(pieces: &[Piece], ram: u64) -> Result<(), PieceError> {
    if ram == 0 || !ram.is_multiple_of(DATA_ALIGN) {
        return Err(PieceError::Ram { bytes: ram });
    }
    if pieces.is_empty() {
        return Err(PieceError::Empty);
    }
    for (index, piece) in pieces.iter().enumerate() {
        if piece.length == 0 {
            return Err(PieceError::NoLength { piece: index });
        }
        for (what, value, align) in [
            ("data", piece.data, DATA_ALIGN),
            ("storage", piece.storage, STORAGE_ALIGN),
            ("length", piece.length, DATA_ALIGN),
        ] {
            if !value.is_multiple_of(align) {
                return Err(PieceError::Alignment { piece: index, what, value, align });
            }
        }
        for (what, start, length) in
            [("data", piece.data, piece.length), ("storage", piece.storage, piece.storage_length())]
        {
            if start.checked_add(length).is_none_or(|end| end > ram) {
                return Err(PieceError::OutsideRam { piece: index, what, start, length, ram });
            }
        }
    }
    check_overlaps(pieces)
}

/// Checks that no byte has two sets of tags, or holds tags twice, or holds tags and has tags kept
/// elsewhere.
fn check_overlaps(pieces: &[Piece]) -> Result<(), PieceError> {
    let overlap = |a: (u64, u64), b: (u64, u64)| a.0 < b.1 && b.0 < a.1;
    let ranges = |piece: &Piece| {
        [
            ("data", (piece.data, piece.data_end())),
            ("storage", (piece.storage, piece.storage_end())),
        ]
    };
    for (second, b) in pieces.iter().enumerate() {
        // A piece's two ranges are compared with each other too, hence `..=`.
        for (first, a) in pieces[..=second].iter().enumerate() {
            for (first_what, a_range) in ranges(a) {
                for (second_what, b_range) in ranges(b) {
                    let itself = first == second && first_what == second_what;
                    if !itself && overlap(a_range, b_range) {
                        return Err(PieceError::Overlap { first, first_what, second, second_what });
                    }
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAM: u64 = 512 << 20;

    #[test]
    fn reads_one_piece() {
        let pieces = parse("0x0:0x1f000000:0x1f000000", RAM).unwrap();
        assert_eq!(pieces, [Piece { data: 0, storage: 0x1f00_0000, length: 0x1f00_0000 }]);
        assert_eq!(pieces[0].storage_length(), 0xf8_0000);
        assert_eq!(pieces[0].tag_offset(), 0);
    }

    #[test]
    fn reads_decimal_spaces_and_several_pieces() {
        let pieces = parse(" 0:268435456:131072 , 0x20000:0x10001000:0x20000,", RAM).unwrap();
        assert_eq!(pieces.len(), 2);
        assert_eq!(pieces[0].length, DATA_ALIGN);
        assert_eq!(pieces[1].storage, 0x1000_1000);
        assert_eq!(pieces[1].tag_offset(), 4096);
    }

    #[test]
    fn storage_of_each_may_lie_behind_the_other() {
        let half = RAM / 2;
        let tagged = half - half / 32;
        let list = format!("0:{}:{tagged},{half}:{tagged}:{tagged}", half + tagged);
        assert_eq!(parse(&list, RAM).unwrap().len(), 2);
    }

    #[test]
    fn refuses_an_empty_list() {
        assert_eq!(parse("", RAM), Err(PieceError::Empty));
        assert_eq!(parse(" , ", RAM), Err(PieceError::Empty));
    }

    #[test]
    fn refuses_what_is_not_three_numbers() {
        for text in ["1:2", "1:2:3:4", "12"] {
            assert_eq!(parse(text, RAM), Err(PieceError::Shape { text: text.to_owned() }));
        }
        for (list, number) in [
            ("x:0:0x20000", "x"),
            ("0:-1:0x20000", "-1"),
            ("0:0x:0x20000", "0x"),
            ("+0:0:0", "+0"),
            ("0:0x+1:0", "0x+1"),
            ("0:0:99999999999999999999", "99999999999999999999"),
            ("::", ""),
        ] {
            assert_eq!(
                parse(list, RAM),
                Err(PieceError::Number { text: number.to_owned() }),
                "{list}"
            );
        }
    }

    #[test]
    fn refuses_a_bad_size_of_ram() {
        for bytes in [0, DATA_ALIGN - 1, DATA_ALIGN + 4096] {
            assert_eq!(parse("0:0:0x20000", bytes), Err(PieceError::Ram { bytes }));
        }
    }

    #[test]
    fn refuses_misaligned_values() {
        for (list, what, value, align) in [
            ("0x10000:0x1000000:0x20000", "data", 0x1_0000, DATA_ALIGN),
            ("0:0x1000800:0x20000", "storage", 0x100_0800, STORAGE_ALIGN),
            ("0:0x1000000:0x30000", "length", 0x3_0000, DATA_ALIGN),
        ] {
            assert_eq!(
                parse(list, RAM),
                Err(PieceError::Alignment { piece: 0, what, value, align }),
                "{list}"
            );
        }
    }

    #[test]
    fn refuses_a_piece_without_length() {
        assert_eq!(parse("0:0x1000000:0", RAM), Err(PieceError::NoLength { piece: 0 }));
    }

    #[test]
    fn refuses_what_lies_outside_ram() {
        let error = parse("0x1ffe0000:0:0x40000", RAM).unwrap_err();
        assert!(matches!(error, PieceError::OutsideRam { piece: 0, what: "data", .. }));
        let error = parse("0:0x1ffff000:0x40000", RAM).unwrap_err();
        assert!(matches!(error, PieceError::OutsideRam { piece: 0, what: "storage", .. }));
        // The sum wraps around.
        let error = parse("0xfffffffffffe0000:0:0x40000", RAM).unwrap_err();
        assert!(matches!(error, PieceError::OutsideRam { piece: 0, what: "data", .. }));
    }

    #[test]
    fn accepts_pieces_that_end_with_ram() {
        assert!(parse("0:0x1ffff000:0x20000", RAM).is_ok());
        assert!(parse("0x1ffe0000:0:0x20000", RAM).is_ok());
    }

    #[test]
    fn refuses_overlaps() {
        for (list, first, first_what, second, second_what) in [
            // The same data twice.
            ("0:0x1000000:0x40000,0x20000:0x1100000:0x20000", 0, "data", 1, "data"),
            // The same storage twice.
            ("0:0x1000000:0x40000,0x40000:0x1001000:0x20000", 0, "storage", 1, "storage"),
            // Storage inside another piece's data.
            ("0:0x1000000:0x20000,0x1000000:0x2000000:0x20000", 0, "storage", 1, "data"),
            ("0x1000000:0x2000000:0x20000,0:0x1000000:0x20000", 0, "data", 1, "storage"),
            // Storage inside its own data.
            ("0:0x10000:0x20000", 0, "data", 0, "storage"),
        ] {
            let error = parse(list, RAM).unwrap_err();
            let PieceError::Overlap { first: a, first_what: b, second: c, second_what: d } = error
            else {
                panic!("{list}: {error}");
            };
            // Which of two ranges of one piece is named first does not matter.
            let mut found = [(a, b), (c, d)];
            let mut expected = [(first, first_what), (second, second_what)];
            found.sort();
            expected.sort();
            assert_eq!(found, expected, "{list}");
        }
    }

    #[test]
    fn messages_name_the_piece_and_the_value() {
        let text = parse("0:0x1000000:0x20000,0:0x1000800:0x20000", RAM).unwrap_err().to_string();
        assert_eq!(text, "piece 1: storage 0x1000800 is not a multiple of 0x1000");
    }
}
