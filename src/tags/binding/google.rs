// SPDX-License-Identifier: MIT OR Apache-2.0
//! Google's dialect: an address says where the tagged memory begins.
//!
//! ```text
//! memory@80000000 {
//!     device_type = "memory"; reg = <0x0 0x80000000 0x0 0x42000000>; arm,mte-alloc;
//! };
//! reserved-memory {
//!     #address-cells = <2>; #size-cells = <2>; ranges;
//!     tags@c0000000 {
//!         compatible = "arm,mte-tag-storage";
//!         reg = <0x0 0xc0000000 0x0 0x2000000>;
//!         storage-base = <0x0 0x80000000>;
//!     };
//! };
//! ```
//!
//! The length of the tagged memory follows from that of the storage, so no memory node has to
//! end where it ends: one node may cover all of RAM, storage included, and the dialect survives
//! boot loaders that rewrite memory nodes.
//!
//! * `storage-base` is a CPU address in one cell or two. The value says itself which.
//! * A block is one page of storage. A `block-size` that stands there all the same is believed:
//!   claiming more than is needed is safe, claiming less is not.
//! * `arm,mte-alloc` on a memory node says that if its tags lie in RAM at all, a node describes
//!   where. It may be set on memory that has no tag storage in RAM, so it demands no region, and
//!   the reader does not need it. `arm,no-mte` says that the memory cannot be tagged.

use super::error::BindingError;
use super::tree::{Tree, one_cell, required};
use super::{Dialect, error};
use crate::addr::{PAGE_SIZE, PhysAddr, PhysRange};
use crate::dtb::blob;
use crate::dtb::error::TreeError;
use crate::tags::geometry::{DATA_PER_STORAGE_BYTE, Region};
use alloc::string::ToString;
use fdt::node::FdtNode;

const DIALECT: Dialect = Dialect::Google;

/// Reads the node at `path`.
pub(super) fn region(
    tree: &Tree<'_, '_, '_>,
    path: &str,
    node: FdtNode<'_, '_>,
) -> Result<Region, BindingError> {
    let storage = tree.storage(path, DIALECT.parent(), node)?;
    let tagged = tagged(path, node, storage)?;
    let block_size = match node.property("block-size") {
        Some(_) => u64::from(one_cell(path, node, "block-size")?),
        None => PAGE_SIZE,
    };
    let region = Region::new(tagged, storage, block_size)
        .map_err(|error| error::geometry(path, DIALECT, error))?;
    tree.check_in_memory(path, "reg", storage)?;
    tree.check_in_memory(path, DIALECT.property(), tagged)?;
    Ok(region)
}

/// The memory whose tags `storage` holds.
fn tagged(
    path: &str,
    node: FdtNode<'_, '_>,
    storage: PhysRange,
) -> Result<PhysRange, BindingError> {
    let property = DIALECT.property();
    let value = required(path, node, property)?.value;
    let base = match value.len() {
        length @ (4 | 8) => blob::cells(value, length / 4),
        _ => None,
    };
    let Some(base) = base else {
        let (node, length) = (path.to_string(), value.len());
        return Err(BindingError::NotAnAddress { node, property, length });
    };
    let length = storage.len().saturating_mul(DATA_PER_STORAGE_BYTE);
    PhysRange::new(PhysAddr(base), length).ok_or_else(|| {
        TreeError::Wrap { node: path.to_string(), property, address: base, length }.into()
    })
}
