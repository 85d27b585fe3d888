// SPDX-License-Identifier: MIT OR Apache-2.0
//! Inputs to begin with, besides the corpus: the tests' trees, and the smallest of what is read.

use crate::trees::{Reg, Tree, fvp, node, virt};

/// The first inputs.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for tree in [virt(), fvp(), narrow()] {
        out.push(tree.blob());
        out.push(tree.flatten(&[(0x4000_0000, 0x100_0000), (0x7dff_0000, 0x3_0000)], true));
    }
    out.push(node("").blob());
    out.push(kernel(0, 0x180_0000, 0xa));
    out.push(kernel(0x8_0000, 0, 0));
    out
}

/// The header of an arm64 Image.
fn kernel(text_offset: u64, image_size: u64, flags: u64) -> Vec<u8> {
    let mut image = vec![0; 64];
    for (offset, value) in [(8, text_offset), (16, image_size), (24, flags)] {
        image[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
    }
    image[56..60].copy_from_slice(b"ARM\x64");
    image
}

/// A 32-bit board: one cell for addresses and sizes, a serial port behind two buses.
fn narrow() -> Tree {
    let uart = node("serial@1000")
        .with("compatible", ["arm,pl011", "arm,primecell"])
        .with("reg", [0x1000u32, 0x1000]);
    let inner = node("bus@0")
        .with("#address-cells", [1u32])
        .with("#size-cells", [1u32])
        .with("ranges", [0u32, 0x10_0000, 0x1_0000])
        .child(uart);
    let outer = node("soc")
        .with("#address-cells", [1u32])
        .with("#size-cells", [1u32])
        .with("ranges", [0u32, 0x900_0000, 0x100_0000])
        .child(inner);
    node("")
        .with("#address-cells", [1u32])
        .with("#size-cells", [1u32])
        .child(node("aliases").with("serial0", "/soc/bus@0/serial@1000"))
        .child(
            node("chosen")
                .with("stdout-path", "serial0")
                .with("bootargs", "root=/dev/vda")
                .with("linux,initrd-start", [0x4800_0000u32])
                .with("linux,initrd-end", [0x4810_0000u32]),
        )
        .child(
            node("memory")
                .with("device_type", "memory")
                .with("reg", [0x4000_0000u32, 0x1000_0000, 0x6000_0000, 0x1000_0000]),
        )
        .child(
            node("reserved-memory")
                .with("#address-cells", [1u32])
                .with("#size-cells", [1u32])
                .with("ranges", ())
                .child(
                    node("optee@4e000000")
                        .with("reg", [0x4e00_0000u32, 0x200_0000])
                        .with("no-map", ()),
                )
                .child(node("fb@6f000000").with("reg", [0x6f00_0000u32, 0x100_0000])),
        )
        .child(
            node("firmware")
                .child(node("psci").with("compatible", "arm,psci-0.2").with("method", "hvc")),
        )
        .child(
            node("cpus")
                .with("#address-cells", [2u32])
                .with("#size-cells", [0u32])
                .child(node("cpu@100").with("device_type", "cpu").with("reg", Reg(0x100, 0x101))),
        )
        .child(outer)
}
