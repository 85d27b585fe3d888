// SPDX-License-Identifier: MIT OR Apache-2.0
//! The device-tree binding of tag storage: nodes in, [`Region`]s out.
//!
//! There is no merged binding. Three dialects share `compatible = "arm,mte-tag-storage"` and are
//! told apart by property, never by node name or unit address: posted examples have wrong ones.
//!
//! | dialect | known by | where | module |
//! | --- | --- | --- | --- |
//! | Linux patches, version 3 (January 2024) | `tagged-memory` | `/reserved-memory` | [`linux`] |
//! | Linux patches, versions 1 and 2 (2023) | `memory` | the root | [`linux`] |
//! | Google, dynamic tag storage (2022) | `storage-base` | `/reserved-memory` | [`google`] |
//!
//! Each node is read in its own dialect, so a tree may mix them; the rules that concern several
//! regions hold across dialects. A node with the properties of two dialects contradicts itself.
//! `docs/device-tree.md` has the rules, and every message with what to change.

mod error;
mod google;
mod linux;
mod tree;

pub use error::BindingError;

use super::geometry::{GeometryError, MAX_REGIONS, Region};
use crate::addr::PhysRange;
use crate::dtb::blob::Blob;
use crate::dtb::bus::Bus;
use crate::dtb::node::{self, Cells};
use crate::dtb::read;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::ops::ControlFlow;
use fdt::Fdt;
use fdt::node::FdtNode;
use tree::Tree;

/// `compatible` of a tag-storage node, in every dialect.
pub const COMPATIBLE: &str = "arm,mte-tag-storage";

/// Path of the node that reservations are children of.
const RESERVED_MEMORY: &str = "/reserved-memory";

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
    /// All dialects.
    pub const ALL: [Dialect; 3] = [Self::LinuxV3, Self::LinuxV1, Self::Google];

    /// The property that a dialect is known by. It says where the tagged memory is.
    pub const fn property(self) -> &'static str {
        match self {
            Self::LinuxV3 => "tagged-memory",
            Self::LinuxV1 => "memory",
            Self::Google => "storage-base",
        }
    }

    /// Path of the node whose children describe tag storage.
    pub const fn parent(self) -> &'static str {
        match self {
            Self::LinuxV3 | Self::Google => RESERVED_MEMORY,
            Self::LinuxV1 => "/",
        }
    }

    /// The dialect of the node at `path`: the one whose property it has.
    fn of(node: FdtNode<'_, '_>, path: &str) -> Result<Dialect, BindingError> {
        let mut known = Self::ALL.iter().filter(|d| node.property(d.property()).is_some());
        match (known.next(), known.next()) {
            (Some(dialect), None) => Ok(*dialect),
            (Some(first), Some(second)) => Err(BindingError::TwoDialects {
                node: path.to_string(),
                first: *first,
                second: *second,
            }),
            (None, _) => Err(BindingError::NoDialect { node: path.to_string() }),
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
    find(root, &mut |place| {
        nodes.push((place.path.to_string(), place.parent.to_string(), place.node));
        // One too many is enough to name it.
        if nodes.len() > MAX_REGIONS { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    if nodes.is_empty() {
        return Ok(Vec::new());
    }

    let tree = Tree::new(&fdt, root)?;
    let mut regions: Vec<Described> = Vec::new();
    let mut frames: u64 = 0;
    for (path, parent, node) in nodes {
        let found = describe(&tree, path, &parent, node)?;
        if regions.len() == MAX_REGIONS {
            return Err(BindingError::TooMany { node: found.path });
        }
        for other in &regions {
            disjoint(&found, other)?;
        }
        frames = frames.saturating_add(u64::from(found.region.frames()));
        if frames > MAX_FRAMES {
            let error = GeometryError::TooManyFrames(frames);
            let property = found.dialect.property();
            return Err(BindingError::Geometry { node: found.path, property, error });
        }
        regions.push(found);
    }
    Ok(regions.into_iter().map(|found| found.region).collect())
}

/// A region and the node that describes it.
struct Described {
    path: String,
    dialect: Dialect,
    region: Region,
}

/// Checks the rules that concern the node at `path` alone.
fn describe(
    tree: &Tree<'_, '_, '_>,
    path: String,
    parent: &str,
    node: FdtNode<'_, '_>,
) -> Result<Described, BindingError> {
    let dialect = Dialect::of(node, &path)?;
    if parent != dialect.parent() {
        return Err(BindingError::Place { node: path, dialect });
    }
    let region = match dialect {
        Dialect::LinuxV3 | Dialect::LinuxV1 => linux::region(tree, &path, node, dialect),
        Dialect::Google => google::region(tree, &path, node),
    }?;
    tree.check_tagged(&path, dialect, &region)?;
    Ok(Described { path, dialect, region })
}

/// Checks that two regions share neither storage nor tagged memory, and that neither's storage
/// lies in memory whose tags the other holds: tag storage cannot be tagged.
fn disjoint(found: &Described, other: &Described) -> Result<(), BindingError> {
    let reg = |of: &Described| ("reg", of.region.storage());
    let tagged = |of: &Described| (of.dialect.property(), of.region.tagged());
    let pairs = [
        (reg(found), reg(other)),
        (tagged(found), tagged(other)),
        (reg(found), tagged(other)),
        (tagged(found), reg(other)),
    ];
    for ((property, range), (other_property, other_range)) in pairs {
        if range.overlaps(&other_range) {
            return Err(BindingError::Overlap {
                node: found.path.clone(),
                property,
                range,
                other: other.path.clone(),
                other_property,
                other_range,
            });
        }
    }
    Ok(())
}

/// Reads `reg` of every enabled tag-storage node of any dialect, wherever it stands, as far as
/// that is possible: memory that is no guest's even where [`regions`] refuses the nodes.
///
/// Addresses go through the `ranges` of all nodes above. Where one is malformed or has no entry
/// for an address, the address is taken as it is, which is what Linux does with every child of
/// `/reserved-memory`.
pub(crate) fn storage(fdt: &Fdt<'_>) -> Vec<PhysRange> {
    let mut ranges = Vec::new();
    let Ok(root) = read::root(fdt) else { return ranges };
    let Ok(root_cells) = Cells::of(root, "/", None) else { return ranges };
    find(root, &mut |place| {
        let found = place.storage(root_cells).unwrap_or_default();
        ranges.extend(found.into_iter().filter(|range| !range.is_empty()));
        ControlFlow::Continue(())
    });
    ranges
}

/// A tag-storage node and where it stands.
struct Place<'p, 'b, 'a> {
    path: &'p str,
    /// Path of the node above.
    parent: &'p str,
    /// The nodes above, from a child of the root down.
    above: &'p [FdtNode<'b, 'a>],
    node: FdtNode<'b, 'a>,
}

impl Place<'_, '_, '_> {
    /// CPU addresses of `reg`, as far as they can be read.
    fn storage(&self, root_cells: Cells) -> Option<Vec<PhysRange>> {
        let mut cells = root_cells;
        let mut buses = Vec::new();
        for node in self.above {
            let bus = Bus::of(*node, "", cells);
            cells = Cells::of(*node, "", Some(cells)).ok()?;
            buses.push(bus.unwrap_or(Bus::transparent(cells)));
        }
        let mut ranges = node::reg(self.node, "", cells).ok()?;
        for bus in buses.iter().rev() {
            for range in &mut ranges {
                *range = bus.to_parent(range).unwrap_or(*range);
            }
        }
        Some(ranges)
    }
}

/// Visits each enabled tag-storage node below the root, in tree order, until told to stop.
fn find<'b, 'a>(
    root: FdtNode<'b, 'a>,
    visit: &mut dyn FnMut(&Place<'_, 'b, 'a>) -> ControlFlow<()>,
) {
    fn walk<'b, 'a>(
        parent: FdtNode<'b, 'a>,
        parent_path: &str,
        above: &mut Vec<FdtNode<'b, 'a>>,
        visit: &mut dyn FnMut(&Place<'_, 'b, 'a>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        for node in parent.children() {
            let path = node::path(parent_path, node);
            if !node::is_compatible(node, COMPATIBLE) {
                above.push(node);
                walk(node, &path, above, visit)?;
                above.pop();
            } else if node::okay(node) {
                visit(&Place { path: &path, parent: parent_path, above, node })?;
            }
        }
        ControlFlow::Continue(())
    }
    // Whether the visitor stopped is the visitor's to know.
    let _ = walk(root, "/", &mut Vec::new(), visit);
}
