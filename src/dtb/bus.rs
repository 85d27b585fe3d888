// SPDX-License-Identifier: MIT OR Apache-2.0
//! A node whose children have addresses of their own: their cells, and `ranges`, which maps
//! them to the addresses of the node's parent (sections 2.3.5 and 2.3.8).

use super::blob;
use super::error::TreeError;
use super::node::Cells;
use crate::addr::{PhysAddr, PhysRange};
use alloc::string::ToString;
use alloc::vec::Vec;
use fdt::node::FdtNode;

/// How the children of a node write addresses, and what those are to the node's parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bus {
    cells: Cells,
    /// Empty where addresses stay as they are.
    entries: Vec<Entry>,
}

/// One entry of `ranges`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    /// Addresses of the children.
    child: PhysRange,
    /// What the first of them is to the parent. Adding the entry's length does not wrap.
    parent: PhysAddr,
}

impl Bus {
    /// Reads the cells and `ranges` of the node at `path`, whose own addresses have the cells
    /// `parent`. Without `ranges`, as with an empty one, addresses stay as they are: whoever
    /// minds the difference looks for the property.
    ///
    /// # Errors
    ///
    /// Those of [`Cells::of`]; [`TreeError::Length`] where `ranges` is no whole number of
    /// entries; [`TreeError::Wrap`] where an entry wraps around on either side.
    pub fn of(node: FdtNode<'_, '_>, path: &str, parent: Cells) -> Result<Bus, TreeError> {
        let cells = Cells::of(node, path, Some(parent))?;
        let value = node.property("ranges").map(|ranges| ranges.value).unwrap_or_default();
        let entries = entries(value, path, cells, parent)?;
        Ok(Bus { cells, entries })
    }

    /// A bus whose children write addresses as `cells` says and mean those of the parent.
    pub const fn transparent(cells: Cells) -> Bus {
        Bus { cells, entries: Vec::new() }
    }

    /// Cells of the children's addresses and sizes.
    pub const fn cells(&self) -> Cells {
        self.cells
    }

    /// Says whether addresses stay as they are.
    pub const fn is_transparent(&self) -> bool {
        self.entries.is_empty()
    }

    /// What a child's range is to the parent; `None` where no entry maps all of it. The first
    /// entry that does counts.
    pub fn to_parent(&self, range: &PhysRange) -> Option<PhysRange> {
        if self.is_transparent() {
            return Some(*range);
        }
        let entry = self.entries.iter().find(|entry| entry.child.contains_range(range))?;
        let offset = range.start().0.checked_sub(entry.child.start().0)?;
        PhysRange::new(entry.parent.checked_add(offset)?, range.len())
    }

    /// Reads all (address, size) pairs of a child's property, as the parent sees them. `path`
    /// is the child's, `bus` that of this node.
    ///
    /// # Errors
    ///
    /// Those of [`Cells::pairs`], and [`TreeError::NotMapped`] for a range that no entry maps.
    pub fn ranges(
        &self,
        bus: &str,
        path: &str,
        property: &'static str,
        value: &[u8],
    ) -> Result<Vec<PhysRange>, TreeError> {
        let mut ranges = self.cells.pairs(path, property, value)?;
        for range in &mut ranges {
            *range = self.to_parent(range).ok_or_else(|| TreeError::NotMapped {
                node: path.to_string(),
                property,
                range: *range,
                bus: bus.to_string(),
            })?;
        }
        Ok(ranges)
    }
}

/// Reads (child address, parent address, length) of each entry.
fn entries(value: &[u8], path: &str, cells: Cells, parent: Cells) -> Result<Vec<Entry>, TreeError> {
    let expected = 4 * (cells.address() + parent.address() + cells.size());
    if !value.len().is_multiple_of(expected) {
        return Err(TreeError::Length {
            node: path.to_string(),
            property: "ranges",
            length: value.len(),
            expected,
        });
    }
    let mut entries = Vec::new();
    for entry in value.chunks_exact(expected) {
        let (from, rest) = entry.split_at(4 * cells.address());
        let (to, length) = rest.split_at(4 * parent.address());
        let number = |bytes, count| blob::cells(bytes, count).unwrap_or_default();
        let length = number(length, cells.size());
        let range = |address| {
            PhysRange::new(PhysAddr(address), length).ok_or_else(|| TreeError::Wrap {
                node: path.to_string(),
                property: "ranges",
                address,
                length,
            })
        };
        let child = range(number(from, cells.address()))?;
        let parent = range(number(to, parent.address()))?.start();
        entries.push(Entry { child, parent });
    }
    Ok(entries)
}
