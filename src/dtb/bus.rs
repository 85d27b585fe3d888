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

/// Most entries of `ranges`. Every address below goes through them: without a bound, a blob full
/// of entries and of addresses would keep the boot busy for minutes.
pub const MAX_ENTRIES: usize = 256;

/// How the children of a node write addresses, and what those are to the node's parent.
/// `ranges` stays where it is in the tree: it may be as long as the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bus<'a> {
    cells: Cells,
    parent: Cells,
    /// Whole entries that do not wrap around. None where addresses stay as they are.
    ranges: &'a [u8],
}

/// One entry of `ranges`.
struct Entry {
    /// First address of the children.
    child: u64,
    /// What that is to the parent.
    parent: u64,
    length: u64,
}

impl<'a> Bus<'a> {
    /// Reads the cells and `ranges` of the node at `path`, whose own addresses have the cells
    /// `parent`. Without `ranges`, as with an empty one, addresses stay as they are: whoever
    /// minds the difference looks for the property.
    ///
    /// # Errors
    ///
    /// Those of [`Cells::of`]; [`TreeError::Length`] where `ranges` is no whole number of
    /// entries; [`TreeError::TooManyEntries`]; [`TreeError::Wrap`] where an entry wraps around on either side.
    pub fn of(node: FdtNode<'_, 'a>, path: &str, parent: Cells) -> Result<Bus<'a>, TreeError> {
        let cells = Cells::of(node, path, Some(parent))?;
        let ranges = node.property("ranges").map(|ranges| ranges.value).unwrap_or_default();
        let bus = Bus { cells, parent, ranges };
        let (length, expected) = (ranges.len(), bus.entry_size());
        if !length.is_multiple_of(expected) {
            let (node, property) = (path.to_string(), "ranges");
            return Err(TreeError::Length { node, property, length, expected });
        }
        let count = length / expected;
        if count > MAX_ENTRIES {
            return Err(TreeError::TooManyEntries { node: path.to_string(), count });
        }
        for entry in bus.entries() {
            for address in [entry.child, entry.parent] {
                if PhysRange::new(PhysAddr(address), entry.length).is_none() {
                    let (node, length) = (path.to_string(), entry.length);
                    return Err(TreeError::Wrap { node, property: "ranges", address, length });
                }
            }
        }
        Ok(bus)
    }

    /// A bus whose children write addresses as `cells` says and mean those of the parent, whose
    /// own have the same cells.
    pub const fn transparent(cells: Cells) -> Bus<'static> {
        Bus { cells, parent: cells, ranges: &[] }
    }

    /// Cells of the children's addresses and sizes.
    pub const fn cells(&self) -> Cells {
        self.cells
    }

    /// Says whether addresses stay as they are, in the same cells.
    pub fn is_transparent(&self) -> bool {
        self.ranges.is_empty() && self.cells == self.parent
    }

    /// What a child's range is to the parent; `None` where no entry maps all of it. The first
    /// entry that does counts.
    pub fn to_parent(&self, range: &PhysRange) -> Option<PhysRange> {
        if self.ranges.is_empty() {
            return Some(*range);
        }
        self.entries().find_map(|entry| {
            let child = PhysRange::new(PhysAddr(entry.child), entry.length)?;
            if !child.contains_range(range) {
                return None;
            }
            let offset = range.start().0.checked_sub(entry.child)?;
            PhysRange::new(PhysAddr(entry.parent.checked_add(offset)?), range.len())
        })
    }

    /// Bytes in an entry: child's address, parent's address, length.
    const fn entry_size(&self) -> usize {
        4 * (self.cells.address() + self.parent.address() + self.cells.size())
    }

    /// The entries of `ranges`.
    fn entries(&self) -> impl Iterator<Item = Entry> + use<'a> {
        let (cells, parent) = (self.cells, self.parent);
        self.ranges.chunks_exact(self.entry_size()).filter_map(move |entry| {
            let (child, rest) = entry.split_at_checked(4 * cells.address())?;
            let (up, length) = rest.split_at_checked(4 * parent.address())?;
            Some(Entry {
                child: blob::cells(child, cells.address())?,
                parent: blob::cells(up, parent.address())?,
                length: blob::cells(length, cells.size())?,
            })
        })
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
