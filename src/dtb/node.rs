// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cells, `reg`, `compatible` and `status` of one node, read without trust.
//!
//! The `fdt` crate finds nodes and properties; its own `reg` drops what does not fit and never
//! ends where both cell counts are 0.

use super::blob;
use super::error::TreeError;
use crate::addr::{PhysAddr, PhysRange};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use fdt::node::FdtNode;

/// Cells of a child's addresses and sizes, each 1 or 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cells {
    address: usize,
    size: usize,
}

impl Cells {
    /// Reads `#address-cells` and `#size-cells` of `node`, whose path is `path`. Where one is
    /// missing it is that of `otherwise`.
    ///
    /// # Errors
    ///
    /// [`TreeError::Missing`] where one is missing and there is no `otherwise`;
    /// [`TreeError::Cells`] where one is neither 1 nor 2.
    pub fn of(
        node: FdtNode<'_, '_>,
        path: &str,
        otherwise: Option<Cells>,
    ) -> Result<Cells, TreeError> {
        let count = |property: &'static str, otherwise: Option<usize>| {
            let found = node.property(property).and_then(|p| p.as_usize()).or(otherwise);
            match found {
                Some(value @ 1..=2) => Ok(value),
                Some(value) => Err(TreeError::Cells { node: path.to_string(), property, value }),
                None => Err(TreeError::Missing { node: path.to_string(), property }),
            }
        };
        Ok(Cells {
            address: count("#address-cells", otherwise.map(|cells| cells.address))?,
            size: count("#size-cells", otherwise.map(|cells| cells.size))?,
        })
    }

    /// Cells of an address.
    pub const fn address(&self) -> usize {
        self.address
    }

    /// Cells of a size.
    pub const fn size(&self) -> usize {
        self.size
    }

    /// Reads all (address, size) pairs of `value`, the `reg` of the node at `path` (section
    /// 2.3.6).
    ///
    /// # Errors
    ///
    /// Those of [`Cells::pairs`].
    pub fn ranges(&self, path: &str, value: &[u8]) -> Result<Vec<PhysRange>, TreeError> {
        self.pairs(path, "reg", value)
    }

    /// Reads all (address, size) pairs of `value`, which is `property` of the node at `path`.
    ///
    /// # Errors
    ///
    /// [`TreeError::Length`] where the value is empty or no whole number of pairs,
    /// [`TreeError::Wrap`] where a range wraps around.
    pub fn pairs(
        &self,
        path: &str,
        property: &'static str,
        value: &[u8],
    ) -> Result<Vec<PhysRange>, TreeError> {
        let expected = 4 * (self.address + self.size);
        if value.is_empty() || !value.len().is_multiple_of(expected) {
            return Err(TreeError::Length {
                node: path.to_string(),
                property,
                length: value.len(),
                expected,
            });
        }
        let mut ranges = Vec::with_capacity(value.len() / expected);
        for entry in value.chunks_exact(expected) {
            let (address, length) = entry.split_at(4 * self.address);
            let address = blob::cells(address, self.address).unwrap_or_default();
            let length = blob::cells(length, self.size).unwrap_or_default();
            ranges.push(PhysRange::new(PhysAddr(address), length).ok_or_else(|| {
                TreeError::Wrap { node: path.to_string(), property, address, length }
            })?);
        }
        Ok(ranges)
    }

    /// Writes `range` as one (address, size) pair; `None` where a number does not fit.
    pub fn encode(&self, range: &PhysRange) -> Option<Vec<u8>> {
        let mut out = write(range.start().0, self.address)?;
        out.extend(self.encode_size(range.len())?);
        Some(out)
    }

    /// Reads a size without an address: `property` of the node at `path`.
    ///
    /// # Errors
    ///
    /// [`TreeError::Length`] where the value is no single size.
    pub fn read_size(
        &self,
        path: &str,
        property: &'static str,
        value: &[u8],
    ) -> Result<u64, TreeError> {
        let expected = 4 * self.size;
        match blob::cells(value, self.size).filter(|_| value.len() == expected) {
            Some(size) => Ok(size),
            None => Err(TreeError::Length {
                node: path.to_string(),
                property,
                length: value.len(),
                expected,
            }),
        }
    }

    /// Writes a size without an address; `None` where it does not fit.
    pub fn encode_size(&self, size: u64) -> Option<Vec<u8>> {
        write(size, self.size)
    }
}

/// Writes a number as one cell or two; `None` where it does not fit.
fn write(number: u64, cells: usize) -> Option<Vec<u8>> {
    match cells {
        1 => Some(u32::try_from(number).ok()?.to_be_bytes().to_vec()),
        _ => Some(number.to_be_bytes().to_vec()),
    }
}

/// Returns the path of `child` under the node at `parent`.
pub fn path(parent: &str, child: FdtNode<'_, '_>) -> String {
    format!("{}/{}", parent.trim_end_matches('/'), child.name)
}

/// Says whether the node is there for use: no `status`, `okay` or `ok` (section 2.3.4).
pub fn okay(node: FdtNode<'_, '_>) -> bool {
    match node.property("status") {
        Some(status) => matches!(text(status.value), Some("okay" | "ok")),
        None => true,
    }
}

/// Says whether `wanted` is among the strings of the node's `compatible` (section 2.3.1).
pub fn is_compatible(node: FdtNode<'_, '_>, wanted: &str) -> bool {
    node.property("compatible").is_some_and(|property| lists(property.value, wanted))
}

/// Says whether `wanted` is one of the NUL-terminated strings in `value`.
pub fn lists(value: &[u8], wanted: &str) -> bool {
    value.split(|&byte| byte == 0).any(|entry| entry == wanted.as_bytes())
}

/// Returns the first string of `value`, up to its NUL or the end; `None` where that is not
/// UTF-8.
pub fn text(value: &[u8]) -> Option<&str> {
    core::str::from_utf8(value.split(|&byte| byte == 0).next()?).ok()
}

/// Says whether the node describes memory: its `device_type` is `memory` (section 3.4). Linux
/// goes by that, not by the name.
pub fn is_memory(node: FdtNode<'_, '_>) -> bool {
    node.property("device_type").is_some_and(|property| text(property.value) == Some("memory"))
}

/// Reads the ranges of `node`'s `reg`, none where it has no `reg`.
///
/// # Errors
///
/// Those of [`Cells::ranges`].
pub fn reg(node: FdtNode<'_, '_>, path: &str, cells: Cells) -> Result<Vec<PhysRange>, TreeError> {
    match node.property("reg") {
        Some(property) => cells.ranges(path, property.value),
        None => Ok(Vec::new()),
    }
}
