// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's copy of the device tree.

use super::blob::{Blob, MAX_SIZE};
use super::bus::Bus;
use super::error::TreeError;
use super::idle;
use super::node::{self, Cells};
use super::read;
use crate::addr::{PhysAddr, PhysRange};
use crate::psci::Suspend;
use crate::tags::binding;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use dtoolkit::memreserve::MemoryReservation;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, Property, ToPropertyValue};
use fdt::node::FdtNode;

/// `compatible` of the `/hypervisor` node: names the hypercall ABI.
pub const HYPERVISOR_COMPATIBLE: &str = "tagstash,tagstash-1";

/// Path of the node that reservations are children of.
const RESERVED_MEMORY: &str = "/reserved-memory";

/// What the guest may not have, and what it is to boot with.
#[derive(Clone, Copy, Debug, Default)]
pub struct GuestPlan<'a> {
    /// Memory that the guest must not map: shim, metadata, tag storage. In any order; ranges
    /// that overlap or touch become one node.
    pub no_map: &'a [PhysRange],
    /// The kernel's command line. `None` leaves what `/chosen` has.
    pub bootargs: Option<&'a str>,
    /// The initial ramdisk. `None` leaves what `/chosen` has.
    pub initrd: Option<PhysRange>,
    /// Which idle states are relayed to firmware; the others go.
    pub suspend: Suspend,
}

/// Why the guest's copy cannot be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatchError {
    /// The firmware's tree is malformed.
    Tree(TreeError),
    /// Two children or two properties of a node have the same name (sections 2.2.2 and 2.2.4).
    Duplicate {
        /// Path of the node that has them.
        node: String,
        /// The name.
        name: String,
    },
    /// A reserved range has more bits than the root's cells, which `/reserved-memory` has to have.
    DoesNotFit {
        /// The range.
        range: PhysRange,
        /// The cells.
        cells: Cells,
    },
    /// A size has more bits than the root's cells.
    SizeDoesNotFit {
        /// Path of the node.
        node: String,
        /// Name of the property.
        property: &'static str,
        /// The size.
        size: u64,
        /// The cells.
        cells: Cells,
    },
    /// The copy has more than [`MAX_SIZE`] bytes.
    TooBig(usize),
}

impl fmt::Display for PatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tree(error) => error.fmt(f),
            Self::Duplicate { node, name } => write!(f, "{node}: {name} is there twice"),
            Self::DoesNotFit { range, cells } => write!(
                f,
                "/reserved-memory: {range} does not fit #address-cells, #size-cells = {}, {} of \
                 the root: give the root 2, 2",
                cells.address(),
                cells.size()
            ),
            Self::SizeDoesNotFit { node, property, size, cells } => write!(
                f,
                "{node}: {property} {size:#x} does not fit #size-cells = {} of the root: give the \
                 root 2",
                cells.size()
            ),
            Self::TooBig(size) => {
                write!(f, "the guest's tree has {size:#x} bytes, more than {MAX_SIZE:#x}")
            }
        }
    }
}

impl core::error::Error for PatchError {}

impl From<TreeError> for PatchError {
    fn from(error: TreeError) -> PatchError {
        PatchError::Tree(error)
    }
}

/// Makes the guest's copy of the tree in `blob`: version 17, a multiple of 8 bytes long, without
/// NOPs.
///
/// * Tag-storage nodes and multiboot modules are removed; each range of `plan.no_map` is an
///   anonymous `no-map` node in `/reserved-memory`, and there only: older kernels refuse a node
///   whose range is reserved in another way too, and keep it mapped. So those ranges are cut
///   out of the memory reservation block and of all other nodes in `/reserved-memory`.
/// * `/reserved-memory` gets the root's cells and an empty `ranges`, and its children the same
///   addresses in those terms. Kernels read them as CPU addresses whatever `ranges` says, and
///   pass over a node with other cells, and with it every reservation in it. Written like this
///   the tree says one thing to a kernel that translates and to one that does not.
/// * Idle states whose CPU_SUSPEND would be refused are removed, with what refers to them.
/// * `bootargs`, `linux,initrd-start` and `linux,initrd-end` are set.
/// * `/hypervisor` names the shim. One that is there already is replaced: its calls would come
///   to the shim, which does not answer them.
/// * All else stays, memory nodes, PSCI and seeds included.
///
/// # Errors
///
/// A [`PatchError`]; there is no copy then.
pub fn guest_tree(blob: &[u8], plan: &GuestPlan<'_>) -> Result<Vec<u8>, PatchError> {
    let checked = Blob::check(blob)?;
    let compact = checked.compact();
    let fdt = read::open(&compact)?;
    let root = read::root(&fdt)?;
    let root_cells = Cells::of(root, "/", None)?;
    // The model below keeps one of each name.
    if let Some((node, name)) = duplicate(root, "/") {
        return Err(PatchError::Duplicate { node, name });
    }
    let bus = match fdt.find_node(RESERVED_MEMORY) {
        Some(reserved) => Bus::of(reserved, RESERVED_MEMORY, root_cells)?,
        None => Bus::transparent(root_cells),
    };

    // Compact has written what `Fdt::new` would check, except for its narrower rules for names.
    let mut tree = DeviceTree::from_fdt(&dtoolkit::fdt::Fdt::new_unchecked(&compact));
    remove_tag_storage(&mut tree.root);
    straighten(&mut tree, &bus, root_cells)?;
    reserve(&mut tree, &merged(plan.no_map), root_cells)?;
    idle::remove_refused(&mut tree.root, plan.suspend);
    choose(&mut tree.root, plan);
    announce(&mut tree.root);
    finish(&tree, checked.boot_cpu())
}

/// Path of a node with two children or two properties of one name, and that name.
pub(super) fn duplicate(parent: FdtNode<'_, '_>, path: &str) -> Option<(String, String)> {
    let mut seen = BTreeSet::new();
    if let Some(twice) = parent.properties().find(|property| !seen.insert(property.name)) {
        return Some((path.to_string(), twice.name.to_string()));
    }
    let mut seen = BTreeSet::new();
    parent.children().find_map(|child| match seen.insert(child.name) {
        true => duplicate(child, &node::path(path, child)),
        false => Some((path.to_string(), child.name.to_string())),
    })
}

/// Removes tag-storage nodes, wherever they stand: a guest that knows the binding would manage
/// storage that is not its own.
fn remove_tag_storage(parent: &mut DeviceTreeNode) {
    remove_children(parent, |child| lists(child, "compatible", &[binding::COMPATIBLE]));
    let names: Vec<String> = parent.children().map(|child| child.name().to_string()).collect();
    for name in names {
        if let Some(child) = parent.child_mut(&name) {
            remove_tag_storage(child);
        }
    }
}

/// Rewrites the children of `/reserved-memory`, whose addresses are those of `bus`, to CPU
/// addresses in the root's cells.
fn straighten(tree: &mut DeviceTree, bus: &Bus<'_>, cells: Cells) -> Result<(), PatchError> {
    let reserved = child_or_new(&mut tree.root, "reserved-memory");
    if bus.is_transparent() {
        return Ok(());
    }
    set(reserved, "ranges", [0u8; 0]);
    let names: Vec<String> = reserved.children().map(|child| child.name().to_string()).collect();
    for name in names {
        let path = format!("{RESERVED_MEMORY}/{name}");
        let Some(child) = reserved.child_mut(&name) else { continue };
        let result = straighten_child(child, &path, bus, cells);
        // Nobody reads a disabled node, and what is wrong in it is nobody's trouble.
        if enabled(child) {
            result?;
        }
    }
    Ok(())
}

/// Rewrites the addresses and sizes of one child (Linux's reserved-memory binding).
fn straighten_child(
    child: &mut DeviceTreeNode,
    path: &str,
    bus: &Bus<'_>,
    cells: Cells,
) -> Result<(), PatchError> {
    for property in ["reg", "alloc-ranges"] {
        let Some(found) = child.property_mut(property) else { continue };
        let mut value = Vec::new();
        for range in bus.ranges(RESERVED_MEMORY, path, property, (&*found).value())? {
            value.extend(encode(&range, cells)?);
        }
        found.set_value(value);
    }
    for property in ["size", "alignment"] {
        let Some(found) = child.property_mut(property) else { continue };
        let size = bus.cells().read_size(path, property, (&*found).value())?;
        let node = || path.to_string();
        found.set_value(cells.encode_size(size).ok_or_else(|| PatchError::SizeDoesNotFit {
            node: node(),
            property,
            size,
            cells,
        })?);
    }
    Ok(())
}

/// Says whether the node is there for use, as [`node::okay`] does.
fn enabled(node: &DeviceTreeNode) -> bool {
    Node::property(&node, "status")
        .is_none_or(|status| matches!(node::text(status.value()), Some("okay" | "ok")))
}

/// Takes `holes` out of every reservation and makes a `no-map` node of each.
fn reserve(tree: &mut DeviceTree, holes: &[PhysRange], cells: Cells) -> Result<(), PatchError> {
    let mut kept = Vec::new();
    for entry in &tree.memory_reservations {
        match PhysRange::new(PhysAddr(entry.address()), entry.size()) {
            Some(range) => kept.extend(
                without(range, holes)
                    .iter()
                    .map(|part| MemoryReservation::new(part.start().0, part.len())),
            ),
            None => kept.push(*entry),
        }
    }
    tree.memory_reservations = kept;

    let reserved = child_or_new(&mut tree.root, "reserved-memory");
    set(reserved, "#address-cells", cells.address() as u32);
    set(reserved, "#size-cells", cells.size() as u32);
    if reserved.property_mut("ranges").is_none() {
        set(reserved, "ranges", [0u8; 0]);
    }
    let names: Vec<String> = reserved.children().map(|child| child.name().to_string()).collect();
    for name in names {
        let path = format!("{RESERVED_MEMORY}/{name}");
        let Some(child) = reserved.child_mut(&name) else { continue };
        // Kernels pass over a disabled node, and so does the reader.
        let enabled = enabled(child);
        let Some(reg) = child.property_mut("reg").filter(|_| enabled) else { continue };
        let ranges = cells.ranges(&path, (&*reg).value())?;
        if !ranges.iter().any(|range| holes.iter().any(|hole| hole.overlaps(range))) {
            continue;
        }
        let mut value = Vec::new();
        for part in ranges.iter().flat_map(|range| without(*range, holes)) {
            value.extend(encode(&part, cells)?);
        }
        if value.is_empty() {
            reserved.remove_child(&name);
        } else {
            reg.set_value(value);
        }
    }
    for hole in holes {
        let mut node = DeviceTreeNode::new_unchecked(unused_name(reserved, hole));
        set(&mut node, "reg", encode(hole, cells)?);
        set(&mut node, "no-map", [0u8; 0]);
        reserved.add_child(node);
    }
    Ok(())
}

/// `reg` of one range.
fn encode(range: &PhysRange, cells: Cells) -> Result<Vec<u8>, PatchError> {
    cells.encode(range).ok_or(PatchError::DoesNotFit { range: *range, cells })
}

/// A name for the node of `range` that no child of `parent` has yet.
fn unused_name(parent: &DeviceTreeNode, range: &PhysRange) -> String {
    let taken = |name: &str| parent.children().any(|child| child.name() == name);
    let mut name = format!("reserved@{:x}", range.start().0);
    let mut number = 1u32;
    // Ends: there are fewer children than numbers.
    while taken(&name) {
        name = format!("reserved-{number}@{:x}", range.start().0);
        number = number.saturating_add(1);
    }
    name
}

/// Removes the modules from `/chosen` and sets what the guest boots with.
fn choose(root: &mut DeviceTreeNode, plan: &GuestPlan<'_>) {
    const MODULES: [&str; 3] = ["multiboot,module", "multiboot,kernel", "multiboot,ramdisk"];
    let chosen = child_or_new(root, "chosen");
    remove_children(chosen, |child| lists(child, "compatible", &MODULES));
    if let Some(bootargs) = plan.bootargs {
        let end = bootargs.find('\0').unwrap_or(bootargs.len());
        set(chosen, "bootargs", bootargs.get(..end).unwrap_or_default());
    }
    if let Some(initrd) = plan.initrd {
        set(chosen, "linux,initrd-start", initrd.start().0);
        set(chosen, "linux,initrd-end", initrd.end().0);
    }
}

/// Adds the node that names the shim and its hypercall ABI.
fn announce(root: &mut DeviceTreeNode) {
    remove_children(root, |child| child.name_without_address() == "hypervisor");
    let mut hypervisor = DeviceTreeNode::new_unchecked("hypervisor");
    set(&mut hypervisor, "compatible", HYPERVISOR_COMPATIBLE);
    set(&mut hypervisor, "method", "hvc");
    root.add_child(hypervisor);
}

/// Writes the tree and what dtoolkit leaves out: the boot CPU and the padding.
pub(super) fn finish(tree: &DeviceTree, boot_cpu: u32) -> Result<Vec<u8>, PatchError> {
    const TOTAL_SIZE: usize = 4;
    const BOOT_CPU: usize = 28;
    let mut out = tree.to_dtb();
    let total = out.len().next_multiple_of(8);
    if total > MAX_SIZE {
        return Err(PatchError::TooBig(total));
    }
    out.resize(total, 0);
    for (offset, value) in [(TOTAL_SIZE, total as u32), (BOOT_CPU, boot_cpu)] {
        if let Some(field) = out.get_mut(offset..offset + 4) {
            field.copy_from_slice(&value.to_be_bytes());
        }
    }
    Blob::check(&out)?;
    Ok(out)
}

/// The child of this name, with or without a unit address; made if there is none.
fn child_or_new<'t>(parent: &'t mut DeviceTreeNode, name: &str) -> &'t mut DeviceTreeNode {
    let found = parent.child(name).map(|child| child.name().to_string());
    let full = found.unwrap_or_else(|| name.to_string());
    // Adds the new node only where there is none of that name.
    parent.add_child_mut(DeviceTreeNode::new_unchecked(full))
}

/// Removes the children that `doomed` says.
fn remove_children(parent: &mut DeviceTreeNode, doomed: impl Fn(&DeviceTreeNode) -> bool) {
    let names: Vec<String> = parent
        .children()
        .filter(|child| doomed(child))
        .map(|child| child.name().to_string())
        .collect();
    for name in names {
        parent.remove_child(&name);
    }
}

/// Says whether one of `wanted` is in the string list that the property is.
fn lists(node: &DeviceTreeNode, property: &str, wanted: &[&str]) -> bool {
    match Node::property(&node, property) {
        Some(found) => wanted.iter().any(|wanted| node::lists(found.value(), wanted)),
        None => false,
    }
}

/// Sets a property, new or not.
fn set(node: &mut DeviceTreeNode, name: &str, value: impl ToPropertyValue) {
    node.add_property(DeviceTreeProperty::new_unchecked(name, value));
}

/// `ranges` sorted, those that overlap or touch made one, empty ones left out.
fn merged(ranges: &[PhysRange]) -> Vec<PhysRange> {
    let mut sorted: Vec<PhysRange> = ranges.iter().copied().filter(|r| !r.is_empty()).collect();
    sorted.sort_by_key(|range| range.start());
    let mut out: Vec<PhysRange> = Vec::new();
    for range in sorted {
        match out.last_mut() {
            Some(last) if range.start() <= last.end() => {
                let end = last.end().max(range.end());
                *last = PhysRange::from_bounds(last.start(), end).unwrap_or(*last);
            }
            _ => out.push(range),
        }
    }
    out
}

/// `range` less `holes`, which are sorted and do not overlap.
fn without(range: PhysRange, holes: &[PhysRange]) -> Vec<PhysRange> {
    let mut parts = Vec::new();
    let mut start = range.start();
    for hole in holes.iter().filter(|hole| hole.overlaps(&range)) {
        parts.extend(PhysRange::from_bounds(start, hole.start()));
        start = hole.end();
    }
    parts.extend(PhysRange::from_bounds(start, range.end()));
    parts.retain(|part| !part.is_empty());
    parts
}
