// SPDX-License-Identifier: MIT OR Apache-2.0
//! The structure check that every blob passes first, and the walk over its tokens.
//!
//! The `fdt` crate indexes and unwraps, and loses its way at a NOP token; `dtoolkit` expects a
//! valid blob. What has passed [`Blob::check`] and gone through [`Blob::compact`] is safe for
//! both. The check allocates nothing, so that a console can be found before there is a heap.

use super::error::TreeError;
use alloc::vec::Vec;

/// Most bytes in a blob: what arm64 Linux takes (its booting.rst).
pub const MAX_SIZE: usize = 2 << 20;
/// Deepest nesting of nodes, the root included. Readers and writers recurse once per level, and a
/// level takes up to 0.8 KiB of the 28 KiB of stack that a CPU has at EL2 (in dtoolkit's model).
/// Boards have less than ten levels.
pub const MAX_DEPTH: usize = 24;
/// Most nodes and properties together: bounds the heap that a copy of the tree takes.
pub const MAX_ITEMS: usize = 100_000;
/// Most entries of the memory reservation block.
pub const MAX_RESERVATIONS: usize = 1024;
/// Longest name of a node or property: bounds the time of a search through the names.
const MAX_NAME: usize = 255;

const MAGIC: u32 = 0xd00d_feed;
const VERSION: u32 = 17;
const COMPATIBLE_VERSION: usize = 16;
const HEADER_SIZE: usize = 40;
const RESERVATION_SIZE: usize = 16;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// Reads the total size in bytes from a header, the first 40 bytes of a blob, so that the
/// caller can map that much (section 5.2).
///
/// # Errors
///
/// [`TreeError`] where there are too few bytes, the magic is wrong, or the size is less than a
/// header or more than [`MAX_SIZE`].
pub fn total_size(header: &[u8]) -> Result<usize, TreeError> {
    let field = |index: usize| word(header, index * 4).ok_or(TreeError::NoHeader(header.len()));
    if field(0)? != MAGIC {
        return Err(TreeError::Magic(field(0)?));
    }
    let total = field(1)?;
    match usize::try_from(total) {
        Ok(size) if (HEADER_SIZE..=MAX_SIZE).contains(&size) => Ok(size),
        _ => Err(TreeError::TotalSize(total)),
    }
}

/// Reads `count` cells, big endian, from the front of `bytes`. `None` unless `count` is 1 or 2
/// and the bytes are there.
pub(crate) fn cells(bytes: &[u8], count: usize) -> Option<u64> {
    match count {
        1 => word(bytes, 0).map(u64::from),
        2 => Some(u64::from(word(bytes, 0)?) << 32 | u64::from(word(bytes, 4)?)),
        _ => None,
    }
}

/// The big-endian word at `offset`.
fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    let end = offset.checked_add(4)?;
    Some(u32::from_be_bytes(bytes.get(offset..end)?.try_into().ok()?))
}

/// One token of the structure block (section 5.4.1). NOPs are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token<'a> {
    /// A node of this name begins.
    Begin(&'a str),
    /// A property of the node that began last and has not ended.
    Property {
        /// Its name.
        name: &'a str,
        /// Its value.
        value: &'a [u8],
    },
    /// A node ends.
    End,
}

/// A blob whose structure has been checked.
#[derive(Clone, Copy, Debug)]
pub struct Blob<'a> {
    /// The entries of the memory reservation block, without the last, empty one.
    reservations: &'a [u8],
    structure: &'a [u8],
    strings: &'a [u8],
    boot_cpu: u32,
    nodes: usize,
    properties: usize,
}

impl<'a> Blob<'a> {
    /// Checks header, blocks and every token of `bytes`, which may be longer than the blob.
    ///
    /// Afterwards this holds: all tokens, names and values lie in their blocks; one root, named
    /// "", and other nodes with names; nodes are nested properly and at most [`MAX_DEPTH`] deep;
    /// properties come before children; names are printable ASCII without `/`;
    /// `#address-cells` and `#size-cells` have four bytes.
    ///
    /// # Errors
    ///
    /// The [`TreeError`] of the first thing that is wrong.
    pub fn check(bytes: &'a [u8]) -> Result<Blob<'a>, TreeError> {
        let total = total_size(bytes)?;
        let available = bytes.len();
        let bytes = bytes.get(..total).ok_or(TreeError::Truncated { total, available })?;
        let field = |index: usize| word(bytes, index * 4).ok_or(TreeError::NoHeader(available));

        let (version, compatible) = (field(5)?, field(6)?);
        if !(compatible..=version).contains(&VERSION) {
            return Err(TreeError::Version { version, compatible });
        }
        let structure = block(bytes, "structure", field(2)?, Some(field(9)?), 4)?;
        let strings = block(bytes, "strings", field(3)?, Some(field(8)?), 1)?;
        let reservations = block(bytes, "memory reservation", field(4)?, None, 8)?;
        let reservations = terminated(reservations, field(4)?)?;
        let boot_cpu = field(7)?;
        let blob = Blob { reservations, structure, strings, boot_cpu, nodes: 0, properties: 0 };
        let (nodes, properties) = blob.check_structure()?;
        Ok(Blob { nodes, properties, ..blob })
    }

    /// Checks every token and counts nodes and properties.
    fn check_structure(&self) -> Result<(usize, usize), TreeError> {
        let mut depth: usize = 0;
        let (mut nodes, mut properties) = (0, 0);
        let mut root_ended = false;
        // Properties may follow the name of a node or another property, and nothing else.
        let mut in_properties = false;
        let mut offset = 0;
        loop {
            let (token, next) = self.step(offset)?;
            let malformed = |rule| Err(TreeError::Structure { offset, rule });
            match token {
                Step::Nop => {}
                Step::Token(_) if root_ended => return malformed("the root has ended before"),
                Step::Token(Token::Begin(name)) => {
                    if name.is_empty() != (depth == 0) {
                        return malformed("the root and only the root has an empty name");
                    }
                    depth += 1;
                    nodes += 1;
                    in_properties = true;
                    if depth > MAX_DEPTH {
                        return Err(TreeError::Depth(offset));
                    }
                }
                Step::Token(Token::Property { name, value }) => {
                    properties += 1;
                    if !in_properties {
                        return malformed("a property stands outside a node or after a child");
                    }
                    if matches!(name, "#address-cells" | "#size-cells") && value.len() != 4 {
                        return malformed("#address-cells and #size-cells have four bytes");
                    }
                }
                Step::Token(Token::End) => {
                    in_properties = false;
                    let Some(left) = depth.checked_sub(1) else {
                        return malformed("a node ends that has not begun");
                    };
                    depth = left;
                    root_ended = depth == 0;
                }
                Step::Finish if root_ended => return Ok((nodes, properties)),
                Step::Finish => return malformed("the tree ends before its root does"),
            }
            if nodes + properties > MAX_ITEMS {
                return Err(TreeError::TooManyItems);
            }
            offset = next;
        }
    }

    /// The token at `offset` of the structure block, and the offset of the next one.
    fn step(&self, offset: usize) -> Result<(Step<'a>, usize), TreeError> {
        let malformed = |rule| TreeError::Structure { offset, rule };
        let cut = || malformed("it runs past the end of the block");
        let token = word(self.structure, offset).ok_or_else(cut)?;
        // The word just read lies in the block, so this and the sums of its kind do not overflow.
        let body = offset + 4;
        match token {
            BEGIN_NODE => {
                let rest = self.structure.get(body..).ok_or_else(cut)?;
                let name = name(rest).ok_or(malformed("bad node name"))?;
                Ok((
                    Step::Token(Token::Begin(name)),
                    aligned(body, name.len() + 1).ok_or_else(cut)?,
                ))
            }
            END_NODE => Ok((Step::Token(Token::End), body)),
            PROP => {
                let length = word(self.structure, body).ok_or_else(cut)? as usize;
                let name_offset = word(self.structure, body + 4).ok_or_else(cut)? as usize;
                let start = body + 8;
                let end = start.checked_add(length).ok_or_else(cut)?;
                let value = self.structure.get(start..end).ok_or_else(cut)?;
                let name = self.strings.get(name_offset..).and_then(name);
                match name {
                    Some(name) if !name.is_empty() => Ok((
                        Step::Token(Token::Property { name, value }),
                        aligned(start, length).ok_or_else(cut)?,
                    )),
                    _ => Err(malformed("bad property name")),
                }
            }
            NOP => Ok((Step::Nop, body)),
            END => Ok((Step::Finish, body)),
            token => Err(TreeError::Token { offset, token }),
        }
    }

    /// The tokens of the structure block, NOPs left out.
    pub fn tokens(&self) -> impl Iterator<Item = Token<'a>> + use<'a> {
        let blob = *self;
        let mut offset = 0;
        core::iter::from_fn(move || {
            loop {
                let (step, next) = blob.step(offset).ok()?;
                match step {
                    Step::Token(token) => {
                        offset = next;
                        return Some(token);
                    }
                    Step::Nop => offset = next,
                    Step::Finish => return None,
                }
            }
        })
    }

    /// Physical id of the CPU that boots, as the header has it.
    pub fn boot_cpu(&self) -> u32 {
        self.boot_cpu
    }

    /// Bytes of heap that are enough for each function of this module's siblings and of
    /// [`binding`](crate::tags::binding), an upper bound: allocation failure stops the firmware,
    /// so compare first.
    ///
    /// The guest's copy needs the most: a model with a growing array of children and of
    /// properties in each node, beside the compact blob and the one that is written. Only where
    /// nearly all of the tree is one `reg` do readers need more than that: ranges take twice the
    /// bytes that they have in the tree, and are copied once.
    pub fn heap_needed(&self) -> usize {
        const NODE: usize = 1024;
        const PROPERTY: usize = 512;
        const FIXED: usize = 64 << 10;
        // At most MAX_ITEMS and MAX_SIZE go in, so none of this overflows.
        let bytes = self.structure.len() + self.strings.len() + self.reservations.len();
        let model = self.nodes * NODE + self.properties * PROPERTY;
        FIXED + 4 * bytes + model.max(4 * bytes)
    }

    /// Writes the same tree as a blob without NOPs, slack and anything between the blocks.
    pub fn compact(&self) -> Vec<u8> {
        let reservations_at = HEADER_SIZE;
        let structure_at = reservations_at + self.reservations.len() + RESERVATION_SIZE;
        let mut out = Vec::with_capacity(structure_at + self.structure.len() + self.strings.len());
        out.resize(HEADER_SIZE, 0);
        out.extend_from_slice(self.reservations);
        out.resize(structure_at, 0);
        let mut offset = 0;
        while let Ok((step, next)) = self.step(offset) {
            if !matches!(step, Step::Nop) {
                out.extend_from_slice(self.structure.get(offset..next).unwrap_or_default());
            }
            if matches!(step, Step::Finish) {
                break;
            }
            offset = next;
        }
        let strings_at = out.len();
        out.extend_from_slice(self.strings);

        let header = [
            MAGIC as usize,
            out.len(),
            structure_at,
            strings_at,
            reservations_at,
            VERSION as usize,
            COMPATIBLE_VERSION,
            self.boot_cpu as usize,
            self.strings.len(),
            strings_at - structure_at,
        ];
        for (field, bytes) in header.iter().zip(out.chunks_exact_mut(4)) {
            // All of them are words of the blob or sizes below MAX_SIZE.
            bytes.copy_from_slice(&(*field as u32).to_be_bytes());
        }
        out
    }
}

enum Step<'a> {
    Token(Token<'a>),
    Nop,
    Finish,
}

/// `start + length` rounded up to the four bytes that tokens are aligned to.
fn aligned(start: usize, length: usize) -> Option<usize> {
    start.checked_add(length)?.checked_next_multiple_of(4)
}

/// The name at the front of `bytes`, without its NUL.
fn name(bytes: &[u8]) -> Option<&str> {
    // Graphic characters have the codes from 0x21 to 0x7e.
    let is_of_name = |byte: &u8| (0x21..=0x7e).contains(byte) && *byte != b'/';
    let length = bytes.iter().take(MAX_NAME + 1).position(|byte| !is_of_name(byte))?;
    let (name, end) = bytes.split_at_checked(length)?;
    if end.first() == Some(&0) { core::str::from_utf8(name).ok() } else { None }
}

/// The block of `length` bytes, or of all the rest, at `offset` of the blob.
fn block<'a>(
    bytes: &'a [u8],
    block: &'static str,
    offset: u32,
    length: Option<u32>,
    align: u32,
) -> Result<&'a [u8], TreeError> {
    let bad = TreeError::Block { block, offset };
    let rest = usize::try_from(offset).ok().and_then(|start| bytes.get(start..));
    let found = match length {
        Some(length) => rest.and_then(|rest| rest.get(..usize::try_from(length).ok()?)),
        None => rest,
    };
    if offset.is_multiple_of(align) { found.ok_or(bad) } else { Err(bad) }
}

/// The entries of the memory reservation block before the one that is all zero.
fn terminated(block: &[u8], offset: u32) -> Result<&[u8], TreeError> {
    let last = block
        .chunks_exact(RESERVATION_SIZE)
        .take(MAX_RESERVATIONS + 1)
        .position(|entry| entry.iter().all(|&byte| byte == 0));
    match last.and_then(|count| block.get(..count * RESERVATION_SIZE)) {
        Some(entries) => Ok(entries),
        None if block.len() / RESERVATION_SIZE > MAX_RESERVATIONS => {
            Err(TreeError::TooManyReservations)
        }
        None => Err(TreeError::Block { block: "memory reservation", offset }),
    }
}
