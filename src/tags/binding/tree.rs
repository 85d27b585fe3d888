// SPDX-License-Identifier: MIT OR Apache-2.0
//! What tag-storage nodes of every dialect refer to, and the rules that all dialects share.

use super::error::BindingError;
use super::{Dialect, RESERVED_MEMORY};
use crate::addr::PhysRange;
use crate::dtb::bus::Bus;
use crate::dtb::error::TreeError;
use crate::dtb::node::Cells;
use crate::dtb::read;
use crate::tags::geometry::Region;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use fdt::Fdt;
use fdt::node::{FdtNode, NodeProperty};

/// Property of a memory node that cannot be mapped Tagged (Google).
const NO_MTE: &str = "arm,no-mte";

/// What the rules of one node refer to.
pub(super) struct Tree<'t, 'b, 'a> {
    fdt: &'t Fdt<'a>,
    root_cells: Cells,
    /// The enabled memory nodes: path, ranges of `reg`.
    memory: Vec<(FdtNode<'b, 'a>, String, Vec<PhysRange>)>,
    /// Their ranges, sorted, those that touch or overlap made one: nodes may split RAM anywhere,
    /// and boot loaders that rewrite one of them leave others that it overlaps.
    merged: Vec<PhysRange>,
}

impl<'t, 'b, 'a> Tree<'t, 'b, 'a> {
    /// Reads the memory nodes.
    pub(super) fn new(
        fdt: &'t Fdt<'a>,
        root: FdtNode<'b, 'a>,
    ) -> Result<Tree<'t, 'b, 'a>, TreeError> {
        let root_cells = Cells::of(root, "/", None)?;
        let memory = read::memory_nodes(root, root_cells)?;
        let count = memory.iter().map(|(_, _, ranges)| ranges.len()).sum();
        let mut merged: Vec<PhysRange> = Vec::with_capacity(count);
        merged.extend(memory.iter().flat_map(|(_, _, ranges)| ranges));
        merged.sort_unstable_by_key(|range| range.start());
        merged.dedup_by(|next, last| {
            let joined = PhysRange::from_bounds(last.start(), last.end().max(next.end()));
            match joined.filter(|_| next.start() <= last.end()) {
                Some(joined) => {
                    *last = joined;
                    true
                }
                None => false,
            }
        });
        Ok(Tree { fdt, root_cells, memory, merged })
    }

    /// The one range of the node's `reg`, in CPU addresses. The node is a child of `parent`.
    pub(super) fn storage(
        &self,
        path: &str,
        parent: &str,
        node: FdtNode<'_, '_>,
    ) -> Result<PhysRange, BindingError> {
        let reg = required(path, node, "reg")?;
        let bus = match self.fdt.find_node(parent).filter(|_| parent == RESERVED_MEMORY) {
            Some(reserved) => {
                if reserved.property("ranges").is_none() {
                    return Err(BindingError::NoRanges { node: parent.to_string() });
                }
                Bus::of(reserved, parent, self.root_cells)?
            }
            None => Bus::transparent(self.root_cells),
        };
        // Counted first: what is wrong with two ranges is that they are two.
        let count = bus.cells().ranges(path, reg.value)?.len();
        match bus.ranges(parent, path, "reg", reg.value)?.as_slice() {
            [storage] => Ok(*storage),
            _ => Err(BindingError::RegCount { node: path.to_string(), count }),
        }
    }

    /// The range of the memory node whose phandle the `property` of the node at `path` is.
    pub(super) fn memory(
        &self,
        path: &str,
        node: FdtNode<'_, '_>,
        property: &'static str,
    ) -> Result<PhysRange, BindingError> {
        let phandle = one_cell(path, node, property)?;
        let refers = |node: &FdtNode<'_, '_>| {
            let found = node.property("phandle").and_then(|found| found.as_usize());
            found == usize::try_from(phandle).ok()
        };
        // 0 and all ones are no phandles (section 2.3.3).
        let valid = !matches!(phandle, 0 | u32::MAX);
        let name = || path.to_string();
        let found = self.memory.iter().find(|(memory, _, _)| valid && refers(memory));
        let Some((_, memory, ranges)) = found else {
            return Err(match self.fdt.find_phandle(phandle).filter(|_| valid) {
                Some(target) => BindingError::NotMemory {
                    node: name(),
                    property,
                    phandle,
                    target: target.name.to_string(),
                },
                None => BindingError::Phandle { node: name(), property, phandle },
            });
        };
        match ranges.as_slice() {
            [range] => Ok(*range),
            _ => Err(BindingError::MemoryRegCount {
                node: name(),
                property,
                memory: memory.clone(),
                count: ranges.len(),
            }),
        }
    }

    /// Checks that all of `range`, which `property` of the node at `path` describes, lies in
    /// enabled memory nodes.
    pub(super) fn check_in_memory(
        &self,
        path: &str,
        property: &'static str,
        range: PhysRange,
    ) -> Result<(), BindingError> {
        if self.merged.iter().any(|memory| memory.contains_range(&range)) {
            return Ok(());
        }
        let first = self.merged.iter().find(|memory| memory.contains(range.start()));
        let at = first.map_or(range.start(), |memory| memory.end());
        Err(BindingError::NotInMemory { node: path.to_string(), property, range, at })
    }

    /// Checks that the region's tagged memory can be tagged at all: no memory node says
    /// `arm,no-mte` of a part of it.
    pub(super) fn check_tagged(
        &self,
        path: &str,
        dialect: Dialect,
        region: &Region,
    ) -> Result<(), BindingError> {
        let tagged = region.tagged();
        let untaggable = self.memory.iter().find(|(memory, _, ranges)| {
            memory.property(NO_MTE).is_some() && ranges.iter().any(|range| range.overlaps(&tagged))
        });
        match untaggable {
            Some((_, memory, _)) => Err(BindingError::NoMte {
                node: path.to_string(),
                property: dialect.property(),
                tagged,
                memory: memory.clone(),
            }),
            None => Ok(()),
        }
    }
}

/// The property of this name.
pub(super) fn required<'a>(
    path: &str,
    node: FdtNode<'_, 'a>,
    property: &'static str,
) -> Result<NodeProperty<'a>, BindingError> {
    node.property(property).ok_or(BindingError::Missing { node: path.to_string(), property })
}

/// The one cell that the property of this name is.
pub(super) fn one_cell(
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
