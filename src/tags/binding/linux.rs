// SPDX-License-Identifier: MIT OR Apache-2.0
//! The dialects of the Linux patches: a phandle says whose tags the storage holds.
//!
//! Version 3, where tag storage is reserved memory and thus a part of RAM:
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
//! Versions 1 and 2 have the same node under the root, with `memory` for `tagged-memory`. There
//! the kernel itself adds the storage to RAM, so it need not lie in a memory node.
//!
//! In all of them the memory node has one range, and the storage holds the tags of all of it.

use super::error::BindingError;
use super::tree::{Tree, one_cell};
use super::{Dialect, error};
use crate::tags::geometry::Region;
use fdt::node::FdtNode;

/// Reads the node at `path`.
pub(super) fn region(
    tree: &Tree<'_, '_, '_>,
    path: &str,
    node: FdtNode<'_, '_>,
    dialect: Dialect,
) -> Result<Region, BindingError> {
    let storage = tree.storage(path, dialect.parent(), node)?;
    let tagged = tree.memory(path, node, dialect.property())?;
    let block_size = one_cell(path, node, "block-size")?;
    let region = Region::new(tagged, storage, u64::from(block_size))
        .map_err(|error| error::geometry(path, dialect, error))?;
    if dialect == Dialect::LinuxV3 {
        tree.check_in_memory(path, "reg", storage)?;
    }
    Ok(region)
}
