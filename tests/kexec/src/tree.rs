// SPDX-License-Identifier: MIT OR Apache-2.0
//! The device tree for the next kernel: the running one's, with another `/chosen`.

use alloc::format;
use alloc::vec::Vec;
use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};

use crate::Result;
use crate::iomem::Range;

/// What the next kernel finds in `/chosen`.
pub struct Chosen<'a> {
    /// Its command line.
    pub words: &'a str,
    /// Its ramdisk.
    pub ramdisk: Range,
    /// For a kernel that follows a panic: the memory that it may use, and its ELF core header.
    pub crash: Option<(Range, Range)>,
}

/// Makes the tree.
pub fn build(running: &[u8], chosen: &Chosen<'_>) -> Result<Vec<u8>> {
    let fdt = Fdt::new(running).map_err(|error| format!("/sys/firmware/fdt: {error}"))?;
    let mut tree = DeviceTree::from_fdt(&fdt);
    let node = tree.root.child_mut("chosen").ok_or("/sys/firmware/fdt has no /chosen")?;
    // Random numbers are used once, and the kernel has wiped those that it used.
    for name in ["kaslr-seed", "rng-seed"] {
        node.remove_property(name);
    }
    set(node, "bootargs", [chosen.words.as_bytes(), b"\0"].concat());
    set(node, "linux,initrd-start", chosen.ramdisk.start.to_be_bytes().to_vec());
    set(node, "linux,initrd-end", chosen.ramdisk.end.to_be_bytes().to_vec());
    for name in ["linux,usable-memory-range", "linux,elfcorehdr"] {
        node.remove_property(name);
    }
    if let Some((usable, header)) = chosen.crash {
        set(node, "linux,usable-memory-range", cells(usable));
        set(node, "linux,elfcorehdr", cells(header));
    }
    Ok(tree.to_dtb())
}

/// Address and length, two cells each, which are the root's on every arm64 board here.
fn cells(range: Range) -> Vec<u8> {
    [range.start.to_be_bytes(), range.length().to_be_bytes()].concat()
}

fn set(node: &mut DeviceTreeNode, name: &str, value: Vec<u8>) {
    node.add_property(DeviceTreeProperty::new_unchecked(name, value));
}
