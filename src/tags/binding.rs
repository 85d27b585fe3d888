// SPDX-License-Identifier: MIT OR Apache-2.0
//! The device-tree binding of tag storage: nodes in, [`Region`]s out.
//!
//! There is no merged binding. The dialect read here is that of version 3 of the Linux patches
//! (January 2024):
//!
//! ```text
//! memory0: memory@80000000 { device_type = "memory"; reg = <0x00 0x80000000 0x00 0x80000000>; };
//! reserved-memory {
//!     #address-cells = <2>; #size-cells = <2>; ranges;
//!     tags0: tag-storage@8f8000000 {
//!         compatible = "arm,mte-tag-storage";
//!         reg = <0x08 0xf8000000 0x00 0x4000000>;
//!         block-size = <0x1000>;            /* bytes */
//!         tagged-memory = <&memory0>;
//!     };
//! };
//! ```
//!
//! Dialects are told apart by property, never by node name or unit address: posted examples
//! have wrong ones.

use super::geometry::{GeometryError, MAX_REGIONS, Region};
use crate::addr::PhysRange;
use crate::dtb::blob::Blob;
use crate::dtb::error::TreeError;
use crate::dtb::node::{self, Cells};
use crate::dtb::read;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use fdt::Fdt;
use fdt::node::{FdtNode, NodeProperty};

/// `compatible` of a tag-storage node, in every dialect.
pub const COMPATIBLE: &str = "arm,mte-tag-storage";

/// Frames that the metadata can number, in all regions together.
const MAX_FRAMES: u64 = (1 << 31) - 1;

/// A way to describe tag storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Version 3 of the Linux patches: `tagged-memory`.
    LinuxV3,
    /// Versions 1 and 2 of the Linux patches: `memory`.
    LinuxV1,
    /// Google's dynamic tag storage: `storage-base`.
    Google,
}

impl Dialect {
    /// The property that a dialect is known by.
    pub const fn property(self) -> &'static str {
        match self {
            Self::LinuxV3 => "tagged-memory",
            Self::LinuxV1 => "memory",
            Self::Google => "storage-base",
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LinuxV3 => "Linux RFC v3",
            Self::LinuxV1 => "Linux RFC v1/v2",
            Self::Google => "Google",
        })
    }
}

/// Why the tag storage that a tree describes cannot be used. `node` is the path of the
/// tag-storage node that is wrong; lengths and addresses are bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindingError {
    /// The tree itself, its memory nodes, or the format of a tag-storage node's `reg`.
    Tree(TreeError),
    /// The node is written in a dialect that is not read.
    Dialect {
        /// Path of the node.
        node: String,
        /// The dialect.
        dialect: Dialect,
    },
    /// The node is not a child of `/reserved-memory`.
    Place {
        /// Path of the node.
        node: String,
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
    /// `reg` has more than one range.
    RegCount {
        /// Path of the node.
        node: String,
        /// The ranges.
        count: usize,
    },
    /// `tagged-memory` is no phandle of a node in the tree.
    Phandle {
        /// Path of the node.
        node: String,
        /// The phandle.
        phandle: u32,
    },
    /// `tagged-memory` is the phandle of a node that is no enabled memory node.
    NotMemory {
        /// Path of the node.
        node: String,
        /// The phandle.
        phandle: u32,
        /// Name of the node that has it.
        target: String,
    },
    /// `tagged-memory` is the phandle of a memory node with more than one range.
    MemoryRegCount {
        /// Path of the node.
        node: String,
        /// Path of the memory node.
        memory: String,
        /// The ranges.
        count: usize,
    },
    /// The numbers of one region do not fit together.
    Geometry {
        /// Path of the node.
        node: String,
        /// What does not fit, with its values.
        error: GeometryError,
    },
    /// The tag storage does not lie in a memory node.
    NotInMemory {
        /// Path of the node.
        node: String,
        /// The tag storage.
        storage: PhysRange,
    },
    /// Two regions share memory.
    Overlap {
        /// Path of the node.
        node: String,
        /// The property whose range is shared: `reg` (storage) or `tagged-memory`.
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

/// What a geometry error's message lacks: the property that holds the values, if it does not
/// begin with it.
const fn property_of(error: &GeometryError) -> &'static str {
    match error {
        GeometryError::TaggedUnaligned(_) | GeometryError::Length { .. } => "tagged-memory: ",
        GeometryError::PartialBlock { .. } => "block-size: ",
        GeometryError::BlockSize(_) => "",
        _ => "reg: ",
    }
}

impl fmt::Display for BindingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tree(error) => error.fmt(f),
            Self::Dialect { node, dialect } => write!(
                f,
                "{node}: {} says that this is the {dialect} dialect; only {} (tagged-memory) is \
                 read yet",
                dialect.property(),
                Dialect::LinuxV3
            ),
            Self::Place { node } => {
                write!(f, "{node}: compatible {COMPATIBLE}, but no child of /reserved-memory")
            }
            Self::NoRanges { node } => {
                write!(f, "{node}: ranges is missing; it must be there and empty")
            }
            Self::Missing { node, property } => write!(f, "{node}: {property} is missing"),
            Self::NotOneCell { node, property, length } => {
                write!(f, "{node}: {property} has {length} bytes, but is one number of 4")
            }
            Self::RegCount { node, count } => {
                write!(f, "{node}: reg has {count} ranges, but tag storage is one")
            }
            Self::Phandle { node, phandle } => {
                write!(f, "{node}: tagged-memory {phandle:#x} is no node's phandle")
            }
            Self::NotMemory { node, phandle, target } => write!(
                f,
                "{node}: tagged-memory {phandle:#x} is {target}, which is no enabled memory node"
            ),
            Self::MemoryRegCount { node, memory, count } => write!(
                f,
                "{node}: tagged-memory is {memory}, whose reg has {count} ranges instead of one"
            ),
            Self::Geometry { node, error } => {
                write!(f, "{node}: {}{error}", property_of(error))
            }
            Self::NotInMemory { node, storage } => {
                write!(f, "{node}: reg {storage} does not lie in a memory node")
            }
            Self::Overlap { node, property, range, other, other_property, other_range } => write!(
                f,
                "{node}: {property} {range} overlaps {other_property} {other_range} of {other}"
            ),
            Self::TooMany { node } => {
                write!(f, "{node}: compatible {COMPATIBLE} more than {MAX_REGIONS} times")
            }
        }
    }
}

impl core::error::Error for BindingError {}

impl From<TreeError> for BindingError {
    fn from(error: TreeError) -> BindingError {
        BindingError::Tree(error)
    }
}

/// Reads all tag storage that the tree describes, in tree order: all of it or none. Nodes that
/// are not enabled are skipped. No node is no region and no error.
///
/// # Errors
///
/// The [`BindingError`] of the first node that breaks a rule.
pub fn regions(blob: &[u8]) -> Result<Vec<Region>, BindingError> {
    let compact = Blob::check(blob)?.compact();
    let fdt = read::open(&compact)?;
    let root = read::root(&fdt)?;
    let mut nodes = Vec::new();
    find(root, "/", &mut nodes);
    if nodes.is_empty() {
        return Ok(Vec::new());
    }

    let root_cells = Cells::of(root, "/", None)?;
    let tree = Tree { fdt: &fdt, root_cells, memory: read::memory_nodes(root, root_cells)? };
    let mut regions: Vec<(String, Region)> = Vec::new();
    let mut frames: u64 = 0;
    for (path, parent, node) in nodes {
        let region = tree.region(&path, &parent, node)?;
        if regions.len() == MAX_REGIONS {
            return Err(BindingError::TooMany { node: path });
        }
        for (other_path, other) in &regions {
            disjoint(&path, &region, other_path, other)?;
        }
        frames = frames.saturating_add(u64::from(region.frames()));
        if frames > MAX_FRAMES {
            let error = GeometryError::TooManyFrames(frames);
            return Err(BindingError::Geometry { node: path, error });
        }
        regions.push((path, region));
    }
    Ok(regions.into_iter().map(|(_, region)| region).collect())
}

/// Reads `reg` of every enabled tag-storage node of any dialect, as far as that is possible:
/// memory that is no guest's even where [`regions`] refuses the nodes.
pub(crate) fn storage(fdt: &Fdt<'_>) -> Vec<PhysRange> {
    let mut ranges = Vec::new();
    let Ok(root) = read::root(fdt) else { return ranges };
    let Ok(root_cells) = Cells::of(root, "/", None) else { return ranges };
    let mut nodes = Vec::new();
    find(root, "/", &mut nodes);
    for (path, parent, node) in nodes {
        let cells = match parent.as_str() {
            "/" => Ok(root_cells),
            parent => match fdt.find_node(parent) {
                Some(parent_node) => Cells::of(parent_node, parent, Some(root_cells)),
                None => continue,
            },
        };
        if let Ok(found) = cells.and_then(|cells| node::reg(node, &path, cells)) {
            ranges.extend(found.into_iter().filter(|range| !range.is_empty()));
        }
    }
    ranges
}

/// Collects path, parent's path and node of each enabled tag-storage node below `parent`.
fn find<'b, 'a>(
    parent: FdtNode<'b, 'a>,
    path: &str,
    found: &mut Vec<(String, String, FdtNode<'b, 'a>)>,
) {
    for child in parent.children() {
        let child_path = node::path(path, child);
        if !node::is_compatible(child, COMPATIBLE) {
            find(child, &child_path, found);
        } else if node::okay(child) {
            found.push((child_path, path.to_string(), child));
        }
    }
}

/// What the rules of one node refer to.
struct Tree<'t, 'b, 'a> {
    fdt: &'t Fdt<'a>,
    root_cells: Cells,
    memory: Vec<(FdtNode<'b, 'a>, String, Vec<PhysRange>)>,
}

impl Tree<'_, '_, '_> {
    /// Checks the rules that concern the node at `path` alone.
    fn region(
        &self,
        path: &str,
        parent: &str,
        node: FdtNode<'_, '_>,
    ) -> Result<Region, BindingError> {
        let name = || path.to_string();
        for dialect in [Dialect::LinuxV1, Dialect::Google] {
            let v3 = node.property(Dialect::LinuxV3.property()).is_some();
            if !v3 && node.property(dialect.property()).is_some() {
                return Err(BindingError::Dialect { node: name(), dialect });
            }
        }
        if parent != "/reserved-memory" {
            return Err(BindingError::Place { node: name() });
        }

        let storage = self.storage(path, parent, node)?;
        let (memory, tagged) = self.tagged(path, node)?;
        let block_size = one_cell(path, node, "block-size")?;
        let [tagged] = tagged else {
            let memory = memory.to_string();
            return Err(BindingError::MemoryRegCount { node: name(), memory, count: tagged.len() });
        };
        let region = Region::new(*tagged, storage, u64::from(block_size))
            .map_err(|error| BindingError::Geometry { node: name(), error })?;
        if !self
            .memory
            .iter()
            .any(|(_, _, ranges)| ranges.iter().any(|r| r.contains_range(&storage)))
        {
            return Err(BindingError::NotInMemory { node: name(), storage });
        }
        Ok(region)
    }

    /// The one range of the node's `reg`.
    fn storage(
        &self,
        path: &str,
        parent: &str,
        node: FdtNode<'_, '_>,
    ) -> Result<PhysRange, BindingError> {
        let reg = required(path, node, "reg")?;
        let reserved = self.fdt.find_node(parent);
        let cells = match reserved {
            Some(reserved) => {
                match reserved.property("ranges") {
                    Some(ranges) if ranges.value.is_empty() => {}
                    Some(ranges) => {
                        let (node, length) = (parent.to_string(), ranges.value.len());
                        return Err(TreeError::Ranges { node, length }.into());
                    }
                    None => return Err(BindingError::NoRanges { node: parent.to_string() }),
                }
                Cells::of(reserved, parent, Some(self.root_cells))?
            }
            None => self.root_cells,
        };
        match cells.ranges(path, reg.value)?.as_slice() {
            [storage] => Ok(*storage),
            ranges => Err(BindingError::RegCount { node: path.to_string(), count: ranges.len() }),
        }
    }

    /// The path and the ranges of the memory node that `tagged-memory` refers to.
    fn tagged(
        &self,
        path: &str,
        node: FdtNode<'_, '_>,
    ) -> Result<(&str, &[PhysRange]), BindingError> {
        let phandle = one_cell(path, node, Dialect::LinuxV3.property())?;
        let refers = |node: &FdtNode<'_, '_>| {
            let found = node.property("phandle").and_then(|found| found.as_usize());
            found == usize::try_from(phandle).ok()
        };
        // 0 and all ones are no phandles (section 2.3.3).
        let valid = !matches!(phandle, 0 | u32::MAX);
        match self.memory.iter().find(|(memory, _, _)| valid && refers(memory)) {
            Some((_, path, ranges)) => Ok((path, ranges)),
            None => Err(match self.fdt.find_phandle(phandle).filter(|_| valid) {
                Some(target) => BindingError::NotMemory {
                    node: path.to_string(),
                    phandle,
                    target: target.name.to_string(),
                },
                None => BindingError::Phandle { node: path.to_string(), phandle },
            }),
        }
    }
}

/// The property of this name.
fn required<'a>(
    path: &str,
    node: FdtNode<'_, 'a>,
    property: &'static str,
) -> Result<NodeProperty<'a>, BindingError> {
    node.property(property).ok_or(BindingError::Missing { node: path.to_string(), property })
}

/// The one cell that the property of this name is.
fn one_cell(
    path: &str,
    node: FdtNode<'_, '_>,
    property: &'static str,
) -> Result<u32, BindingError> {
    let value = required(path, node, property)?.value;
    match value.try_into() {
        Ok(bytes) => Ok(u32::from_be_bytes(bytes)),
        Err(_) => {
            let (node, length) = (path.to_string(), value.len());
            Err(BindingError::NotOneCell { node, property, length })
        }
    }
}

/// Checks that two regions share neither storage nor tagged memory, and that neither's storage
/// lies in memory whose tags the other holds: tag storage cannot be tagged.
fn disjoint(
    path: &str,
    region: &Region,
    other_path: &str,
    other: &Region,
) -> Result<(), BindingError> {
    let reg = |region: &Region| ("reg", region.storage());
    let tagged = |region: &Region| ("tagged-memory", region.tagged());
    let pairs = [
        (reg(region), reg(other)),
        (tagged(region), tagged(other)),
        (reg(region), tagged(other)),
        (tagged(region), reg(other)),
    ];
    for ((property, range), (other_property, other_range)) in pairs {
        if range.overlaps(&other_range) {
            return Err(BindingError::Overlap {
                node: path.to_string(),
                property,
                range,
                other: other_path.to_string(),
                other_property,
                other_range,
            });
        }
    }
    Ok(())
}
