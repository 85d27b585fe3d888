// SPDX-License-Identifier: MIT OR Apache-2.0
//! Device trees for tests: a builder that flattens them, and two boards.

#![allow(dead_code, reason = "each test uses a part")]

/// A node under construction.
#[derive(Clone, Debug)]
pub struct Tree {
    name: String,
    properties: Vec<(String, Vec<u8>)>,
    children: Vec<Tree>,
}

/// The value of a property.
pub trait Value {
    fn bytes(&self) -> Vec<u8>;
}

impl Value for &str {
    fn bytes(&self) -> Vec<u8> {
        [self.as_bytes(), b"\0"].concat()
    }
}

impl<const N: usize> Value for [u32; N] {
    fn bytes(&self) -> Vec<u8> {
        self.iter().flat_map(|cell| cell.to_be_bytes()).collect()
    }
}

impl Value for &[u32] {
    fn bytes(&self) -> Vec<u8> {
        self.iter().flat_map(|cell| cell.to_be_bytes()).collect()
    }
}

impl<const N: usize> Value for [&str; N] {
    fn bytes(&self) -> Vec<u8> {
        self.iter().flat_map(Value::bytes).collect()
    }
}

impl<const N: usize> Value for [u8; N] {
    fn bytes(&self) -> Vec<u8> {
        self.to_vec()
    }
}

impl Value for &[u8] {
    fn bytes(&self) -> Vec<u8> {
        self.to_vec()
    }
}

impl Value for () {
    fn bytes(&self) -> Vec<u8> {
        Vec::new()
    }
}

/// (address, size) in two cells each.
#[derive(Clone, Copy)]
pub struct Reg(pub u64, pub u64);

impl Value for Reg {
    fn bytes(&self) -> Vec<u8> {
        [self.0.to_be_bytes(), self.1.to_be_bytes()].concat()
    }
}

impl<const N: usize> Value for [Reg; N] {
    fn bytes(&self) -> Vec<u8> {
        self.iter().flat_map(Value::bytes).collect()
    }
}

/// A node of this name; the root's is empty.
pub fn node(name: &str) -> Tree {
    Tree { name: name.to_string(), properties: Vec::new(), children: Vec::new() }
}

impl Tree {
    pub fn with(mut self, name: &str, value: impl Value) -> Tree {
        self.set(name, value);
        self
    }

    pub fn child(mut self, child: Tree) -> Tree {
        self.children.push(child);
        self
    }

    /// A node of this name with this one in it.
    pub fn in_node(self, name: &str) -> Tree {
        node(name).child(self)
    }

    pub fn renamed(mut self, name: &str) -> Tree {
        self.name = name.to_string();
        self
    }

    pub fn set(&mut self, name: &str, value: impl Value) {
        match self.properties.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value.bytes(),
            None => self.properties.push((name.to_string(), value.bytes())),
        }
    }

    pub fn unset(&mut self, name: &str) {
        self.properties.retain(|(known, _)| known != name);
    }

    pub fn add(&mut self, child: Tree) {
        self.children.push(child);
    }

    /// Adds a property even if there is one of that name.
    pub fn add_property(&mut self, name: &str, value: impl Value) {
        self.properties.push((name.to_string(), value.bytes()));
    }

    pub fn remove(&mut self, child: &str) -> Tree {
        let index = self.children.iter().position(|node| node.name == child).unwrap();
        self.children.remove(index)
    }

    /// The node at a path of full names from here; `""` is this one.
    pub fn at(&mut self, path: &str) -> &mut Tree {
        path.split('/').filter(|part| !part.is_empty()).fold(self, |node, part| {
            node.children.iter_mut().find(|child| child.name == part).expect(part)
        })
    }

    /// Number of nodes from here on.
    pub fn count(&self) -> usize {
        1 + self.children.iter().map(Tree::count).sum::<usize>()
    }

    /// The node of this number, this one being number 0.
    pub fn nth(&mut self, index: usize) -> Option<&mut Tree> {
        let mut left = match index.checked_sub(1) {
            Some(left) => left,
            None => return Some(self),
        };
        for child in &mut self.children {
            let count = child.count();
            if left < count {
                return child.nth(left);
            }
            left -= count;
        }
        None
    }

    pub fn blob(&self) -> Vec<u8> {
        self.flatten(&[], false)
    }

    /// Flattens the tree, with a memory reservation block, and with a NOP before every token
    /// if asked for.
    pub fn flatten(&self, reservations: &[(u64, u64)], nops: bool) -> Vec<u8> {
        let (mut structure, mut strings) = (Vec::new(), Vec::new());
        self.write(&mut structure, &mut strings, nops);
        token(&mut structure, 9, nops);
        let reservations: Vec<u8> = reservations
            .iter()
            .chain(&[(0, 0)])
            .flat_map(|(address, size)| Reg(*address, *size).bytes())
            .collect();
        let structure_at = 40 + reservations.len();
        let strings_at = structure_at + structure.len();
        let total = strings_at + strings.len();
        let header = [
            0xd00d_feed,
            total,
            structure_at,
            strings_at,
            40,
            17,
            16,
            3,
            strings.len(),
            structure.len(),
        ];
        let header: Vec<u8> =
            header.iter().flat_map(|field| (*field as u32).to_be_bytes()).collect();
        [header, reservations, structure, strings].concat()
    }

    fn write(&self, structure: &mut Vec<u8>, strings: &mut Vec<u8>, nops: bool) {
        token(structure, 1, nops);
        structure.extend(self.name.as_bytes());
        structure.push(0);
        pad(structure);
        for (name, value) in &self.properties {
            token(structure, 3, nops);
            let name = [name.as_bytes(), b"\0"].concat();
            let known = strings.windows(name.len()).position(|window| window == name);
            let at = known.unwrap_or_else(|| {
                strings.extend(&name);
                strings.len() - name.len()
            });
            structure.extend((value.len() as u32).to_be_bytes());
            structure.extend((at as u32).to_be_bytes());
            structure.extend(value);
            pad(structure);
        }
        for child in &self.children {
            child.write(structure, strings, nops);
        }
        token(structure, 2, nops);
    }
}

fn token(structure: &mut Vec<u8>, token: u32, nop: bool) {
    if nop {
        structure.extend(4u32.to_be_bytes());
    }
    structure.extend(token.to_be_bytes());
}

fn pad(structure: &mut Vec<u8>) {
    structure.resize(structure.len().next_multiple_of(4), 0);
}

/// Like QEMU's `virt` with 1 GiB of RAM, the tags of the lower 992 MiB in its last 32 MiB, and a
/// kernel and a ramdisk from its guest-loader, whose modules have the root's cells.
pub fn virt() -> Tree {
    node("")
        .with("#address-cells", [2u32])
        .with("#size-cells", [2u32])
        .with("compatible", "linux,dummy-virt")
        .child(
            node("chosen")
                .with("stdout-path", "serial0:115200n8")
                .with("bootargs", "quiet tagstash.log=debug")
                .with("rng-seed", [1u8, 2, 3, 4, 5])
                .with("kaslr-seed", [7u32, 8])
                .child(
                    node("module@0x46000000")
                        .with("compatible", ["multiboot,module", "multiboot,kernel"])
                        .with("reg", Reg(0x4600_0000, 0x180_0000))
                        .with("bootargs", "console=ttyAMA0 root=/dev/ram"),
                )
                .child(
                    node("module@0x4a000000")
                        .with("compatible", ["multiboot,module", "multiboot,ramdisk"])
                        .with("reg", Reg(0x4a00_0000, 0x12_3456)),
                ),
        )
        .child(node("aliases").with("serial0", "/pl011@9000000"))
        .child(
            node("psci")
                .with("compatible", ["arm,psci-1.0", "arm,psci-0.2", "arm,psci"])
                .with("method", "smc"),
        )
        .child(
            node("cpus")
                .with("#address-cells", [1u32])
                .with("#size-cells", [0u32])
                .child(node("cpu-map"))
                .child(node("cpu@0").with("device_type", "cpu").with("reg", [0u32]))
                .child(node("cpu@1").with("device_type", "cpu").with("reg", [1u32])),
        )
        .child(
            node("memory@40000000")
                .with("device_type", "memory")
                .with("reg", Reg(0x4000_0000, 0x3e00_0000))
                .with("phandle", [0x8001u32]),
        )
        .child(
            node("memory@7e000000")
                .with("device_type", "memory")
                .with("reg", Reg(0x7e00_0000, 0x200_0000))
                .with("phandle", [0x8002u32]),
        )
        .child(
            node("reserved-memory")
                .with("#address-cells", [2u32])
                .with("#size-cells", [2u32])
                .with("ranges", ())
                .child(
                    node("tags@7e000000")
                        .with("compatible", "arm,mte-tag-storage")
                        .with("reg", Reg(0x7e00_0000, 0x1f0_0000))
                        .with("block-size", [0x1000u32])
                        .with("tagged-memory", [0x8001u32])
                        .with("reusable", ()),
                )
                .child(
                    node("secure@7ff00000")
                        .with("reg", Reg(0x7ff0_0000, 0x10_0000))
                        .with("no-map", ()),
                )
                .child(node("buffer@50000000").with("reg", Reg(0x5000_0000, 0x1_0000)))
                .child(node("pool").with("size", [0u32, 0x10_0000])),
        )
        .child(
            node("pl011@9000000")
                .with("compatible", ["arm,pl011", "arm,primecell"])
                .with("reg", Reg(0x900_0000, 0x1000)),
        )
}

/// The same board in the dialect of versions 1 and 2 of the Linux patches: the node is a child
/// of the root, and its storage lies in no memory node.
pub fn virt_v1() -> Tree {
    let mut tree = virt();
    tree.remove("memory@7e000000");
    tree.at("reserved-memory").remove("tags@7e000000");
    tree.child(
        node("metadata@7e000000")
            .with("compatible", "arm,mte-tag-storage")
            .with("reg", Reg(0x7e00_0000, 0x1f0_0000))
            .with("block-size", [0x1000u32])
            .with("memory", [0x8001u32]),
    )
}

/// The same board in Google's dialect, with one memory node for all of RAM, as boot loaders
/// that rewrite memory nodes leave it.
pub fn virt_google() -> Tree {
    let mut tree = virt();
    tree.remove("memory@7e000000");
    let memory = tree.at("memory@40000000");
    memory.unset("phandle");
    memory.set("reg", Reg(0x4000_0000, 0x4000_0000));
    let tags = tree.at("reserved-memory/tags@7e000000");
    tags.unset("tagged-memory");
    tags.unset("block-size");
    tags.set("storage-base", [0u32, 0x4000_0000]);
    tree
}

/// The FVP's memory and tag storage as the Linux patches describe them: two regions, storage
/// of both above both.
pub fn fvp() -> Tree {
    let memory = |name: &str, phandle: u32, address: u64, size: u64| {
        node(name)
            .with("device_type", "memory")
            .with("reg", Reg(address, size))
            .with("phandle", [phandle])
    };
    let tags = |name: &str, phandle: u32, address: u64, size: u64| {
        node(name)
            .with("compatible", "arm,mte-tag-storage")
            .with("reg", Reg(address, size))
            .with("block-size", [0x1000u32])
            .with("tagged-memory", [phandle])
            .with("reusable", ())
    };
    node("")
        .with("#address-cells", [2u32])
        .with("#size-cells", [2u32])
        .child(memory("memory@80000000", 1, 0x8000_0000, 0x8000_0000))
        .child(memory("memory@880000000", 2, 0x8_8000_0000, 0x7800_0000))
        .child(memory("memory@8f8000000", 3, 0x8_f800_0000, 0x800_0000))
        .child(
            node("reserved-memory")
                .with("#address-cells", [2u32])
                .with("#size-cells", [2u32])
                .with("ranges", ())
                // The unit addresses are as wrong as in the patches.
                .child(tags("tags@8f8000000", 1, 0x8_f800_0000, 0x400_0000))
                .child(tags("tags@8fc00000", 2, 0x8_fc00_0000, 0x3c0_0000)),
        )
}
