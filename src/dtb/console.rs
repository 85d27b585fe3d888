// SPDX-License-Identifier: MIT OR Apache-2.0
//! The serial port that `/chosen` names, found without a heap.

use super::blob::{Blob, MAX_DEPTH, Token, cells};
use super::node::{lists, text};
use crate::addr::PhysAddr;

/// A serial port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Console {
    /// First register, a CPU address.
    pub base: PhysAddr,
    /// Bytes of registers.
    pub length: u64,
    /// Its programming interface.
    pub kind: ConsoleKind,
}

/// Programming interface of a serial port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsoleKind {
    /// Arm PrimeCell UART (PL011): `compatible` holds `arm,pl011`.
    Pl011,
}

/// Finds the serial port that `stdout-path` of `/chosen` names by path or by alias, `:options`
/// ignored (section 3.6). Its address goes through the `ranges` of the buses above it (section
/// 2.3.8). Allocates nothing.
///
/// `None` where the blob is malformed, nothing is named, or what is named is not there, is not
/// enabled, is of another kind, or lies behind a bus that does not map it.
pub fn console(blob: &[u8]) -> Option<Console> {
    let blob = Blob::check(blob).ok()?;
    let stdout = text(find(&blob, "/chosen", "stdout-path")?.value?)?;
    let name = stdout.split(':').next()?;
    let path = match name.starts_with('/') {
        true => name,
        false => text(find(&blob, "/aliases", name)?.value?)?,
    };
    if !path.starts_with('/') {
        return None;
    }
    let port = find(&blob, path, "reg")?;
    let kind = find(&blob, path, "compatible")?.value?;
    let enabled = match find(&blob, path, "status")?.value {
        Some(status) => matches!(text(status), Some("okay" | "ok")),
        None => true,
    };
    if !enabled || !lists(kind, "arm,pl011") {
        return None;
    }

    let reg = port.value?;
    let bus = port.buses.get(port.depth.checked_sub(1)?)?;
    let address = cells(reg, bus.address_cells)?;
    let length = cells(reg.get(4 * bus.address_cells..)?, bus.size_cells)?;
    Some(Console {
        base: PhysAddr(port.to_cpu_address(address, length)?),
        length,
        kind: ConsoleKind::Pl011,
    })
}

/// What a node on a path says of the addresses of its children.
#[derive(Clone, Copy)]
struct Bus<'a> {
    address_cells: usize,
    size_cells: usize,
    ranges: Option<&'a [u8]>,
}

/// What a node has where it does not say (section 2.3.5).
const UNSAID: Bus<'static> = Bus { address_cells: 2, size_cells: 1, ranges: None };

/// A node, one of its properties, and the nodes above it.
struct Found<'a> {
    value: Option<&'a [u8]>,
    /// The nodes on the path from the root, `buses[0]`, to the node, `buses[depth]`.
    buses: [Bus<'a>; MAX_DEPTH],
    depth: usize,
}

impl Found<'_> {
    /// Takes `address`, of the node's parent's children, through all `ranges` up to the root.
    fn to_cpu_address(&self, address: u64, length: u64) -> Option<u64> {
        let mut address = address;
        let last = length.checked_sub(1)?;
        // Children of the root have CPU addresses, so the bus at index 0 maps nothing.
        for level in (1..self.depth).rev() {
            let (bus, parent) = (self.buses.get(level)?, self.buses.get(level - 1)?);
            let ranges = bus.ranges?;
            if ranges.is_empty() {
                continue;
            }
            let counts = [bus.address_cells, parent.address_cells, bus.size_cells];
            if !counts.iter().all(|count| matches!(count, 1..=2)) {
                return None;
            }
            let [child, up, size] = counts.map(|count| 4 * count);
            address = ranges.chunks_exact(child + up + size).find_map(|entry| {
                let from = cells(entry, bus.address_cells)?;
                let to = cells(entry.get(child..)?, parent.address_cells)?;
                let mapped = cells(entry.get(child + up..)?, bus.size_cells)?;
                let offset = address.checked_sub(from)?;
                if offset.checked_add(last)? < mapped { to.checked_add(offset) } else { None }
            })?;
        }
        Some(address)
    }
}

/// Finds the node at `path` and its `property`. A part of the path without a unit address
/// matches a name with any (section 2.2.3); the first match counts.
fn find<'a>(blob: &Blob<'a>, path: &str, property: &str) -> Option<Found<'a>> {
    let parts = || path.split('/').filter(|part| !part.is_empty());
    let mut found = Found { value: None, buses: [UNSAID; MAX_DEPTH], depth: parts().count() };
    // `depth` nodes have begun and not ended; the first `matched` parts of the path are theirs.
    let (mut depth, mut matched) = (0usize, 0usize);
    for token in blob.tokens() {
        match token {
            Token::Begin(name) => {
                if depth == matched + 1 && matched < found.depth {
                    let wanted = parts().nth(matched)?;
                    if wanted == name || name.split('@').next() == Some(wanted) {
                        matched += 1;
                    }
                }
                depth += 1;
            }
            Token::Property { name, value } if depth == matched + 1 => {
                let bus = found.buses.get_mut(matched)?;
                match name {
                    "#address-cells" => bus.address_cells = cells(value, 1)? as usize,
                    "#size-cells" => bus.size_cells = cells(value, 1)? as usize,
                    "ranges" => bus.ranges = Some(value),
                    _ => {}
                }
                if name == property && matched == found.depth {
                    found.value = Some(value);
                }
            }
            Token::Property { .. } => {}
            Token::End if depth == matched + 1 => {
                // The node that the path led to ends: it is the one, or a dead end.
                return if matched == found.depth { Some(found) } else { None };
            }
            Token::End => depth = depth.checked_sub(1)?,
        }
    }
    None
}
