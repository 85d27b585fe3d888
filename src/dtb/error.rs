// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can be wrong with a device tree, with the values that are wrong.

use crate::addr::PhysRange;
use alloc::string::String;
use core::fmt;

/// Why a device tree cannot be used. Offsets and lengths are bytes; offsets without a node are
/// from the start of the structure block.
///
/// The variants up to [`TreeError::TooManyReservations`] concern the blob (sections 5.2 to 5.4)
/// and own no heap memory; the others concern a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TreeError {
    /// Too few bytes for a header of version 17.
    NoHeader(usize),
    /// The first word is not 0xd00dfeed.
    Magic(u32),
    /// The header's total size is less than a header or more than
    /// [`MAX_SIZE`](super::blob::MAX_SIZE).
    TotalSize(u32),
    /// The header's total size is more than the bytes there are.
    Truncated {
        /// Total size that the header states.
        total: usize,
        /// Bytes that there are.
        available: usize,
    },
    /// The format is not compatible with version 17.
    Version {
        /// Version of the blob.
        version: u32,
        /// Oldest version that the blob says it is compatible with.
        compatible: u32,
    },
    /// A block is not aligned or does not lie in the blob.
    Block {
        /// `memory reservation`, `structure` or `strings`.
        block: &'static str,
        /// Offset from the start of the blob.
        offset: u32,
    },
    /// A word in the structure block is no token that may stand there.
    Token {
        /// Where it stands.
        offset: usize,
        /// The word.
        token: u32,
    },
    /// A node or property in the structure block is malformed.
    Structure {
        /// Where its token stands.
        offset: usize,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// Nodes are nested more than [`MAX_DEPTH`](super::blob::MAX_DEPTH) deep.
    Depth(usize),
    /// More than [`MAX_ITEMS`](super::blob::MAX_ITEMS) nodes and properties.
    TooManyItems,
    /// More than [`MAX_RESERVATIONS`](super::blob::MAX_RESERVATIONS) memory reservations.
    TooManyReservations,
    /// A node lacks a property.
    Missing {
        /// Path of the node.
        node: String,
        /// Name of the property.
        property: &'static str,
    },
    /// A cell count is neither 1 nor 2 (section 2.3.5).
    Cells {
        /// Path of the node.
        node: String,
        /// `#address-cells` or `#size-cells`.
        property: &'static str,
        /// The count.
        value: usize,
    },
    /// A property's value does not have the length that its format asks for.
    Length {
        /// Path of the node.
        node: String,
        /// Name of the property.
        property: &'static str,
        /// Length of the value.
        length: usize,
        /// What it must be, or be a multiple of.
        expected: usize,
    },
    /// A range of addresses wraps around.
    Wrap {
        /// Path of the node; `/memreserve/` for the memory reservation block.
        node: String,
        /// Name of the property.
        property: &'static str,
        /// Start of the range.
        address: u64,
        /// Length of the range.
        length: u64,
    },
    /// `linux,initrd-end` of `/chosen` is below `linux,initrd-start`.
    Initrd {
        /// The ramdisk's first address.
        start: u64,
        /// The first address after it.
        end: u64,
    },
    /// `ranges` has more than [`MAX_ENTRIES`](super::bus::MAX_ENTRIES) entries.
    TooManyEntries {
        /// Path of the node.
        node: String,
        /// The entries.
        count: usize,
    },
    /// The node above maps addresses, and has no entry for this range (section 2.3.8).
    NotMapped {
        /// Path of the node.
        node: String,
        /// Name of the property.
        property: &'static str,
        /// The range, as the property has it.
        range: PhysRange,
        /// Path of the node above, whose `ranges` lacks it.
        bus: String,
    },
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHeader(length) => write!(f, "{length} bytes are too few for a header"),
            Self::Magic(magic) => write!(f, "magic is {magic:#010x}, not 0xd00dfeed"),
            Self::TotalSize(size) => {
                write!(
                    f,
                    "total size {size:#x} is not between 0x28 and {:#x}",
                    super::blob::MAX_SIZE
                )
            }
            Self::Truncated { total, available } => {
                write!(f, "total size {total:#x} is more than the {available:#x} bytes there are")
            }
            Self::Version { version, compatible } => write!(
                f,
                "version {version} (compatible with {compatible} and later) is not version 17"
            ),
            Self::Block { block, offset } => {
                write!(f, "{block} block at {offset:#x} is not aligned or not in the tree")
            }
            Self::Token { offset, token } => {
                write!(f, "structure block at {offset:#x}: token {token:#x} does not belong here")
            }
            Self::Structure { offset, rule } => {
                write!(f, "structure block at {offset:#x}: {rule}")
            }
            Self::Depth(offset) => write!(
                f,
                "structure block at {offset:#x}: nodes are more than {} deep",
                super::blob::MAX_DEPTH
            ),
            Self::TooManyItems => {
                write!(f, "more than {} nodes and properties", super::blob::MAX_ITEMS)
            }
            Self::TooManyReservations => {
                write!(f, "more than {} memory reservations", super::blob::MAX_RESERVATIONS)
            }
            Self::Missing { node, property } => write!(f, "{node}: {property} is missing"),
            Self::Cells { node, property, value } => {
                write!(f, "{node}: {property} = {value}, but only 1 and 2 are possible")
            }
            Self::Length { node, property, length, expected } => {
                write!(f, "{node}: {property} has {length} bytes where {expected} make an entry")
            }
            Self::Wrap { node, property, address, length } => {
                write!(f, "{node}: {property} {address:#x} + {length:#x} wraps around")
            }
            Self::Initrd { start, end } => write!(
                f,
                "/chosen: linux,initrd-end {end:#x} is below linux,initrd-start {start:#x}: have the \
                 loader write both"
            ),
            Self::TooManyEntries { node, count } => {
                write!(
                    f,
                    "{node}: ranges has {count} entries, more than {}",
                    super::bus::MAX_ENTRIES
                )
            }
            Self::NotMapped { node, property, range, bus } => write!(
                f,
                "{node}: {property} {range} is in no entry of ranges of {bus}; add one, or make \
                 ranges empty"
            ),
        }
    }
}

impl core::error::Error for TreeError {}
