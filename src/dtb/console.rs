// SPDX-License-Identifier: MIT OR Apache-2.0
//! The serial port that `/chosen` names, found without a heap.

use super::blob::{Blob, MAX_DEPTH, Token, cells};
use super::node::{lists, text};
use crate::addr::PhysAddr;
use crate::serial::Layout;

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
    /// 8250 and its successors: `compatible` holds one of [`NS16550`].
    Ns16550(Layout),
}

/// `compatible` of ports that transmit as an 8250 does (Linux's serial 8250 and snps-dw-apb-uart
/// bindings).
const NS16550: [&str; 5] = ["ns8250", "ns16450", "ns16550", "ns16550a", "snps,dw-apb-uart"];

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
    let compatible = find(&blob, path, "compatible")?.value?;
    let enabled = match find(&blob, path, "status")?.value {
        Some(status) => matches!(text(status), Some("okay" | "ok")),
        None => true,
    };
    let is_pl011 = lists(compatible, "arm,pl011");
    if !enabled || !(is_pl011 || NS16550.iter().any(|name| lists(compatible, name))) {
        return None;
    }

    let reg = port.value?;
    let bus = port.buses.get(port.depth.checked_sub(1)?)?;
    let address = cells(reg, bus.address_cells)?;
    let length = cells(reg.get(4 * bus.address_cells..)?, bus.size_cells)?;
    let base = PhysAddr(port.to_cpu_address(address, length)?);
    let kind = match is_pl011 {
        true => ConsoleKind::Pl011,
        false => ConsoleKind::Ns16550(layout(&blob, path, base, length)?),
    };
    Some(Console { base, length, kind })
}

/// Reads how the registers of the port at `path` lie in its `reg`, `length` bytes at `base`.
fn layout(blob: &Blob<'_>, path: &str, base: PhysAddr, length: u64) -> Option<Layout> {
    // What is there and is not one cell is not what was meant.
    let number = |property, otherwise| match find(blob, path, property)?.value {
        None => Some(otherwise),
        Some(value) if value.len() == 4 => u32::try_from(cells(value, 1)?).ok(),
        Some(_) => None,
    };
    let (offset, shift) = (number("reg-offset", 0)?, number("reg-shift", 0)?);
    // A register of one byte has no order of bytes, and wider ones are little endian here.
    let width = number("reg-io-width", 1)?;
    if width > 1 && find(blob, path, "big-endian")?.value.is_some() {
        return None;
    }
    Layout::new(base, length, offset, shift, width)
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
