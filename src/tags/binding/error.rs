// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can be wrong with a description of tag storage, and what to change.

use super::{COMPATIBLE, Dialect};
use crate::addr::{PhysAddr, PhysRange};
use crate::dtb::error::TreeError;
use crate::tags::geometry::{GeometryError, MAX_REGIONS};
use alloc::string::{String, ToString};
use core::fmt;

/// Why the tag storage that a tree describes cannot be used. `node` is the path of the
/// tag-storage node that is wrong; lengths and addresses are bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindingError {
    /// The tree itself, its memory nodes, or the format of a tag-storage node's `reg`.
    Tree(TreeError),
    /// The node has the property of no dialect.
    NoDialect {
        /// Path of the node.
        node: String,
    },
    /// The node has the properties of two dialects.
    TwoDialects {
        /// Path of the node.
        node: String,
        /// One of the dialects.
        first: Dialect,
        /// Another one.
        second: Dialect,
    },
    /// The node does not stand where nodes of its dialect do.
    Place {
        /// Path of the node.
        node: String,
        /// Its dialect.
        dialect: Dialect,
    },
    /// `/reserved-memory` has no `ranges`, so its children have no CPU addresses.
    NoRanges {
        /// Path of `/reserved-memory`.
        node: String,
    },
    /// A property is missing.
    Missing {
        /// Path of the node.
        node: String,
        /// Name of the property.
        property: &'static str,
    },
    /// A property is not one number of 32 bits.
    NotOneCell {
        /// Path of the node.
        node: String,
        /// Name of the property.
        property: &'static str,
        /// Length of the value.
        length: usize,
    },
    /// A property is not one address of 32 or 64 bits.
    NotAnAddress {
        /// Path of the node.
        node: String,
        /// Name of the property.
        property: &'static str,
        /// Length of the value.
        length: usize,
    },
    /// `reg` has more than one range.
    RegCount {
        /// Path of the node.
        node: String,
        /// The ranges.
        count: usize,
    },
    /// A property is no phandle of a node in the tree.
    Phandle {
        /// Path of the node.
        node: String,
        /// Name of the property.
        property: &'static str,
        /// The phandle.
        phandle: u32,
    },
    /// A property is the phandle of a node that is no enabled memory node.
    NotMemory {
        /// Path of the node.
        node: String,
        /// Name of the property.
        property: &'static str,
        /// The phandle.
        phandle: u32,
        /// Name of the node that has it.
        target: String,
    },
    /// A property is the phandle of a memory node with more than one range.
    MemoryRegCount {
        /// Path of the node.
        node: String,
        /// Name of the property.
        property: &'static str,
        /// Path of the memory node.
        memory: String,
        /// The ranges.
        count: usize,
    },
    /// The numbers of one region do not fit together.
    Geometry {
        /// Path of the node.
        node: String,
        /// The property that the dialect names the tagged memory by.
        property: &'static str,
        /// What does not fit, with its values.
        error: GeometryError,
    },
    /// Tag storage or tagged memory does not lie in memory nodes.
    NotInMemory {
        /// Path of the node.
        node: String,
        /// The property that describes the range.
        property: &'static str,
        /// The range.
        range: PhysRange,
        /// The first address in no memory node.
        at: PhysAddr,
    },
    /// A memory node says that a part of the tagged memory cannot be tagged.
    NoMte {
        /// Path of the node.
        node: String,
        /// The property that describes the tagged memory.
        property: &'static str,
        /// The tagged memory.
        tagged: PhysRange,
        /// Path of the memory node.
        memory: String,
    },
    /// Two regions share memory.
    Overlap {
        /// Path of the node.
        node: String,
        /// The property whose range is shared: `reg` (storage), or the dialect's (tagged memory).
        property: &'static str,
        /// The range.
        range: PhysRange,
        /// Path of the other node.
        other: String,
        /// The other node's property.
        other_property: &'static str,
        /// The other node's range.
        other_range: PhysRange,
    },
    /// More regions than [`MAX_REGIONS`].
    TooMany {
        /// Path of the first node too many.
        node: String,
    },
}

/// Says which node's numbers do not fit together.
pub(super) fn geometry(path: &str, dialect: Dialect, error: GeometryError) -> BindingError {
    BindingError::Geometry { node: path.to_string(), property: dialect.property(), error }
}

/// The property that is wrong, where a geometry error's own words do not begin with it, and what
/// to change. `tagged` is the property that names the tagged memory.
fn advice(error: &GeometryError, tagged: &'static str) -> (&'static str, &'static str) {
    match error {
        GeometryError::StorageUnaligned(_) => ("reg", "begin and end it on a multiple of 0x1000"),
        GeometryError::TaggedUnaligned(_) => (tagged, "begin and end it on a multiple of 0x1000"),
        GeometryError::Empty => ("reg", "give it the length of the tag storage"),
        GeometryError::BlockSize(_) => ("", "give it in bytes"),
        GeometryError::PartialBlock { .. } => ("block-size", "correct one of the two"),
        GeometryError::Length { .. } => (tagged, "correct reg of this node or of the memory node"),
        GeometryError::StorageInTagged { .. } => {
            ("reg", "end the tagged memory before it: tag storage has no tags")
        }
        GeometryError::BlockTooLarge { .. } => ("", "correct it"),
        GeometryError::TooManyFrames(_) => ("reg", "describe less tag storage"),
    }
}

impl fmt::Display for BindingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tree(error) => error.fmt(f),
            Self::NoDialect { node } => {
                let [v3, v1, google] = Dialect::ALL.map(Dialect::property);
                write!(
                    f,
                    "{node}: {v3} is missing, and so are {v1} and {google}: add the one of your \
                     dialect"
                )
            }
            Self::TwoDialects { node, first, second } => write!(
                f,
                "{node}: {} says {first}, {} says {second}: remove one of them",
                first.property(),
                second.property()
            ),
            Self::Place { node, dialect } => {
                let property = dialect.property();
                let (place, move_it) = match dialect {
                    Dialect::LinuxV1 => ("the root", "there, or write tagged-memory for memory"),
                    _ => ("/reserved-memory", "there"),
                };
                write!(
                    f,
                    "{node}: compatible {COMPATIBLE} with {property} ({dialect}), but no child of \
                     {place}: move it {move_it}"
                )
            }
            Self::NoRanges { node } => write!(f, "{node}: ranges is missing: add an empty one"),
            Self::Missing { node, property } => write!(f, "{node}: {property} is missing: add it"),
            Self::NotOneCell { node, property, length } => {
                write!(f, "{node}: {property} has {length} bytes, but is one number of 4")
            }
            Self::NotAnAddress { node, property, length } => {
                write!(f, "{node}: {property} has {length} bytes, but is one address of 4 or 8")
            }
            Self::RegCount { node, count } => write!(
                f,
                "{node}: reg has {count} ranges, but tag storage is one: give each a node of its own"
            ),
            Self::Phandle { node, property, phandle } => write!(
                f,
                "{node}: {property} {phandle:#x} is no node's phandle: name a memory node's"
            ),
            Self::NotMemory { node, property, phandle, target } => write!(
                f,
                "{node}: {property} {phandle:#x} is {target}, which is no enabled memory node: \
                 name one that is"
            ),
            Self::MemoryRegCount { node, property, memory, count } => write!(
                f,
                "{node}: {property} is {memory}, whose reg has {count} ranges instead of one: give \
                 each a node of its own"
            ),
            Self::Geometry { node, property, error } => {
                let (property, change) = advice(error, property);
                let colon = if property.is_empty() { "" } else { ": " };
                write!(f, "{node}: {property}{colon}{error}: {change}")
            }
            Self::NotInMemory { node, property, range, at } => write!(
                f,
                "{node}: {property} {range} does not lie in memory nodes: {at} is in none that is \
                 enabled; correct one of them"
            ),
            Self::NoMte { node, property, tagged, memory } => write!(
                f,
                "{node}: {property} {tagged} overlaps {memory}, which says arm,no-mte: correct one \
                 of them"
            ),
            Self::Overlap { node, property, range, other, other_property, other_range } => write!(
                f,
                "{node}: {property} {range} overlaps {other_property} {other_range} of {other}: \
                 correct one of them"
            ),
            Self::TooMany { node } => write!(
                f,
                "{node}: compatible {COMPATIBLE} more than {MAX_REGIONS} times: join nodes that \
                 touch, or disable some"
            ),
        }
    }
}

impl core::error::Error for BindingError {}

impl From<TreeError> for BindingError {
    fn from(error: TreeError) -> BindingError {
        BindingError::Tree(error)
    }
}
