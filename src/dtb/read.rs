// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the shim needs to know from the firmware's device tree.

pub use super::blob::total_size;
pub use super::console::{Console, ConsoleKind, console};
pub use super::error::TreeError;

use super::blob::{self, Blob};
use super::bus::Bus;
use super::idle;
use super::node::{self, Cells};
use crate::addr::{PhysAddr, PhysRange};
use crate::tags::binding;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use fdt::Fdt;
use fdt::node::FdtNode;

/// What the device tree says of the machine and of what to boot. Ranges are in tree order,
/// neither merged nor rounded to pages, and never empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootTree {
    /// RAM: `reg` of the enabled memory nodes (section 3.4).
    pub memory: Vec<PhysRange>,
    /// `reg` of the enabled `no-map` children of `/reserved-memory` (section 3.5), tag storage
    /// left out.
    pub no_map: Vec<PhysRange>,
    /// All other reserved ranges: the memory reservation block (section 5.3) and `reg` of the
    /// other enabled children of `/reserved-memory`, tag storage left out.
    pub reserved: Vec<PhysRange>,
    /// `reg` of the enabled tag-storage nodes of any dialect, wherever they stand, as far as it
    /// can be read. For the case that [`binding::regions`] refuses them: no guest may use this
    /// memory even so. Whoever hides it hides all pages that it touches.
    pub tag_storage: Vec<PhysRange>,
    /// The serial port that `stdout-path` of `/chosen` names.
    pub console: Option<Console>,
    /// The guest's kernel: the first child of `/chosen` compatible with `multiboot,kernel`.
    pub kernel: Option<Module>,
    /// The guest's initial ramdisk: the first child of `/chosen` compatible with
    /// `multiboot,ramdisk`, else `linux,initrd-start` and `-end` of `/chosen`.
    pub ramdisk: Option<PhysRange>,
    /// `bootargs` of `/chosen`, where it is UTF-8.
    pub bootargs: Option<String>,
    /// How PSCI 0.2 or later is called.
    pub psci: Option<Conduit>,
    /// MPIDR affinity values of the CPUs (Linux's arm cpus binding): all in `/cpus` whose
    /// status is not `fail` or `reserved`. A `disabled` CPU is one that is not started yet
    /// (section 3.8.1).
    pub cpus: Vec<u64>,
    /// Those of them that wait for a kernel to release them from a spin table (`enable-method`,
    /// section 3.8.1).
    pub spin_table: Vec<u64>,
    /// `power_state` of the idle states that are entered by PSCI (Linux's idle-states binding),
    /// disabled or not; `None` where it is not one cell.
    pub idle_states: Vec<Option<u32>>,
}

/// A kernel that the loader has put in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Where it is.
    pub range: PhysRange,
    /// Its command line, where the module has one.
    pub bootargs: Option<String>,
}

/// The instruction that calls firmware: `method` of the PSCI node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// SMC #0.
    Smc,
    /// HVC #0.
    Hvc,
}

/// Reads the device tree. `blob` may be longer than the tree in it.
///
/// # Errors
///
/// The [`TreeError`] of the first thing that is wrong in the blob's structure, or in memory,
/// reserved, module and CPU nodes. Wrong tag-storage nodes are no error here.
pub fn read(blob: &[u8]) -> Result<BootTree, TreeError> {
    let compact = Blob::check(blob)?.compact();
    let fdt = open(&compact)?;
    let root = root(&fdt)?;
    let root_cells = Cells::of(root, "/", None)?;

    let mut tree = BootTree { console: console(blob), ..BootTree::default() };
    for (_, _, ranges) in memory_nodes(root, root_cells)? {
        tree.memory.extend(ranges);
    }
    read_reservations(&fdt, &mut tree)?;
    if let Some(reserved) = fdt.find_node("/reserved-memory") {
        read_reserved(reserved, root_cells, &mut tree)?;
    }
    tree.tag_storage = binding::storage(&fdt);
    if let Some(chosen) = fdt.find_node("/chosen") {
        read_chosen(chosen, root_cells, &mut tree)?;
    }
    tree.psci = fdt.find_compatible(&["arm,psci-1.0", "arm,psci-0.2"]).and_then(conduit);
    if let Some(cpus) = fdt.find_node("/cpus") {
        read_cpus(cpus, &mut tree)?;
    }
    tree.idle_states = idle::states(&fdt);
    for ranges in [&mut tree.memory, &mut tree.no_map, &mut tree.reserved] {
        ranges.retain(|range| !range.is_empty());
    }
    Ok(tree)
}

/// Opens the bytes that [`Blob::compact`] wrote.
pub(crate) fn open(compact: &[u8]) -> Result<Fdt<'_>, TreeError> {
    Fdt::new(compact).map_err(|_| TreeError::NoHeader(compact.len()))
}

/// The root node.
pub(crate) fn root<'b, 'a>(fdt: &'b Fdt<'a>) -> Result<FdtNode<'b, 'a>, TreeError> {
    fdt.find_node("/").ok_or(TreeError::Structure { offset: 0, rule: "there is no root" })
}

/// The enabled memory nodes, each with its path and the ranges of its `reg`.
pub(crate) fn memory_nodes<'b, 'a>(
    root: FdtNode<'b, 'a>,
    cells: Cells,
) -> Result<Vec<(FdtNode<'b, 'a>, String, Vec<PhysRange>)>, TreeError> {
    let mut nodes = Vec::new();
    for memory in root.children().filter(|child| node::is_memory(*child) && node::okay(*child)) {
        let path = node::path("/", memory);
        let Some(reg) = memory.property("reg") else {
            return Err(TreeError::Missing { node: path, property: "reg" });
        };
        let ranges = cells.ranges(&path, reg.value)?;
        nodes.push((memory, path, ranges));
    }
    Ok(nodes)
}

fn read_reservations(fdt: &Fdt<'_>, tree: &mut BootTree) -> Result<(), TreeError> {
    for entry in fdt.memory_reservations() {
        let (address, length) = (entry.address() as u64, entry.size() as u64);
        tree.reserved.push(PhysRange::new(PhysAddr(address), length).ok_or_else(|| {
            TreeError::Wrap { node: "/memreserve/".to_string(), property: "entry", address, length }
        })?);
    }
    Ok(())
}

fn read_reserved(
    reserved: FdtNode<'_, '_>,
    root_cells: Cells,
    tree: &mut BootTree,
) -> Result<(), TreeError> {
    let path = "/reserved-memory";
    let bus = Bus::of(reserved, path, root_cells)?;
    let others = |child: &FdtNode<'_, '_>| {
        node::okay(*child) && !node::is_compatible(*child, binding::COMPATIBLE)
    };
    for child in reserved.children().filter(others) {
        let Some(reg) = child.property("reg") else { continue };
        let ranges = bus.ranges(path, &node::path(path, child), "reg", reg.value)?;
        match child.property("no-map") {
            Some(_) => tree.no_map.extend(ranges),
            None => tree.reserved.extend(ranges),
        }
    }
    Ok(())
}

/// Reads modules as Xen's Documentation/misc/arm/device-tree/booting.txt has them. Where
/// `/chosen` has no cell counts those of the root count, as QEMU's guest-loader and Xen assume.
fn read_chosen(
    chosen: FdtNode<'_, '_>,
    root_cells: Cells,
    tree: &mut BootTree,
) -> Result<(), TreeError> {
    let string =
        |node: FdtNode<'_, '_>| Some(node::text(node.property("bootargs")?.value)?.to_string());
    tree.bootargs = string(chosen);
    for child in chosen.children() {
        let is_kernel = node::is_compatible(child, "multiboot,kernel");
        if !is_kernel && !node::is_compatible(child, "multiboot,ramdisk") {
            continue;
        }
        let cells = Cells::of(chosen, "/chosen", Some(root_cells))?;
        let path = node::path("/chosen", child);
        let Some(&range) = node::reg(child, &path, cells)?.first() else {
            return Err(TreeError::Missing { node: path, property: "reg" });
        };
        if is_kernel && tree.kernel.is_none() {
            tree.kernel = Some(Module { range, bootargs: string(child) });
        } else if !is_kernel && tree.ramdisk.is_none() {
            tree.ramdisk = Some(range);
        }
    }
    if tree.ramdisk.is_none() {
        tree.ramdisk = linux_initrd(chosen)?;
    }
    Ok(())
}

/// Reads `linux,initrd-start` and `linux,initrd-end`, 32 or 64 bits each.
fn linux_initrd(chosen: FdtNode<'_, '_>) -> Result<Option<PhysRange>, TreeError> {
    let address = |property: &'static str| match chosen.property(property) {
        Some(found) => match blob::cells(found.value, found.value.len() / 4) {
            Some(address) => Ok(Some(PhysAddr(address))),
            None => Err(TreeError::Length {
                node: "/chosen".to_string(),
                property,
                length: found.value.len(),
                expected: 8,
            }),
        },
        None => Ok(None),
    };
    match (address("linux,initrd-start")?, address("linux,initrd-end")?) {
        (Some(start), Some(end)) => match PhysRange::from_bounds(start, end) {
            Some(range) => Ok(Some(range).filter(|range| !range.is_empty())),
            None => Err(TreeError::Initrd { start: start.0, end: end.0 }),
        },
        // Without its other half an address says nothing, and Linux passes over it too.
        _ => Ok(None),
    }
}

/// Reads `method` of a PSCI node (Linux's arm/psci binding).
fn conduit(psci: FdtNode<'_, '_>) -> Option<Conduit> {
    if !node::okay(psci) {
        return None;
    }
    match node::text(psci.property("method")?.value)? {
        "smc" => Some(Conduit::Smc),
        "hvc" => Some(Conduit::Hvc),
        _ => None,
    }
}

fn read_cpus(cpus: FdtNode<'_, '_>, tree: &mut BootTree) -> Result<(), TreeError> {
    let count = cpus.property("#address-cells").and_then(|count| count.as_usize());
    let count = match count.unwrap_or(2) {
        count @ 1..=2 => count,
        value => {
            let node = "/cpus".to_string();
            return Err(TreeError::Cells { node, property: "#address-cells", value });
        }
    };
    for cpu in cpus.children() {
        let kind = cpu.property("device_type").and_then(|kind| node::text(kind.value));
        let status = cpu.property("status").and_then(|status| node::text(status.value));
        let usable = matches!(status, None | Some("okay" | "ok" | "disabled"));
        if kind != Some("cpu") || !usable {
            continue;
        }
        let node = node::path("/cpus", cpu);
        let Some(reg) = cpu.property("reg") else {
            return Err(TreeError::Missing { node, property: "reg" });
        };
        let (length, expected) = (reg.value.len(), 4 * count);
        if length == 0 || !length.is_multiple_of(expected) {
            return Err(TreeError::Length { node, property: "reg", length, expected });
        }
        // One number for each thread of the CPU.
        let ids = reg.value.chunks_exact(expected).filter_map(|id| blob::cells(id, count));
        // What all CPUs have in common may stand in the node above (section 3.8).
        let method = cpu.property("enable-method").or_else(|| cpus.property("enable-method"));
        if method.is_some_and(|method| node::lists(method.value, "spin-table")) {
            tree.spin_table.extend(ids.clone());
        }
        tree.cpus.extend(ids);
    }
    Ok(())
}
