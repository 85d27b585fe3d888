// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changes to inputs, of two kinds: to bytes, which break the format, and to the tree in a blob, which keep the format
//! and get at what lies behind its check.

use crate::random::Random;
use crate::tree::{self, Node, Style, Tree};

/// Longest input that is made, in bytes.
pub const MAX_INPUT: usize = 12 << 10;

const NODES: [&str; 31] = [
    "chosen",
    "aliases",
    "reserved-memory",
    "reserved-memory@0",
    "memory@0",
    "memory@40000000",
    "memory",
    "cpus",
    "cpu@0",
    "cpu@1",
    "psci",
    "firmware",
    "soc",
    "pl011@9000000",
    "uart",
    "tag-storage@7e000000",
    "metadata@8f8000000",
    "module@1",
    "module",
    "hypervisor",
    "hypervisor@0",
    "reserved@0",
    "reserved@40000000",
    "reserved-1@40000000",
    "bus",
    "x@y",
    "fragment@0",
    "__overlay__",
    "__symbols__",
    "__fixups__",
    "__local_fixups__",
];

const NAMES: [&str; 39] = [
    "#address-cells",
    "#size-cells",
    "reg",
    "ranges",
    "compatible",
    "status",
    "device_type",
    "phandle",
    "linux,phandle",
    "stdout-path",
    "reg-shift",
    "reg-io-width",
    "reg-offset",
    "bootargs",
    "linux,initrd-start",
    "linux,initrd-end",
    "method",
    "no-map",
    "reusable",
    "size",
    "serial0",
    "/chosen",
    "block-size",
    "tagged-memory",
    "storage-base",
    "memory",
    "arm,mte-alloc",
    "arm,no-mte",
    "enable-method",
    "target",
    "target-path",
    "tags0",
    "dma-ranges",
    "virtual-reg",
    "numa-node-id",
    "name",
    "interrupt-parent",
    "x",
    "linux,usable-memory-range",
];

const TEXTS: [&str; 34] = [
    "okay",
    "ok",
    "disabled",
    "reserved",
    "fail",
    "memory",
    "cpu",
    "arm,pl011",
    "arm,pl011\0arm,primecell",
    "snps,dw-apb-uart\0ns16550a",
    "ns16550a",
    "arm,psci-1.0",
    "arm,psci-0.2",
    "smc",
    "hvc",
    "serial0",
    "serial0:115200n8",
    "/pl011@9000000",
    "/soc/uart",
    "/bus/uart:1",
    "/",
    "//",
    ":",
    "arm,mte-tag-storage",
    "arm,mte-tag-storage\0x",
    "multiboot,kernel",
    "multiboot,ramdisk",
    "multiboot,module",
    "simple-bus",
    "",
    "/memory@40000000",
    "/fragment@0:target:0",
    "xen,xen",
    "\u{e9}",
];

const WORDS: [u32; 22] = [
    0,
    1,
    2,
    3,
    4,
    5,
    8,
    9,
    12,
    16,
    17,
    40,
    0x7f,
    0xff,
    0x1000,
    0x4000_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_f000,
    0xffff_fff8,
    0xffff_ffff,
    0xd00d_feed,
];

/// Makes a new input of `input`, and sometimes of `other`.
pub fn mutate(random: &mut Random, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut out = match Tree::parse(input) {
        Some(mut tree) if !random.one_in(4) => {
            let donor = Tree::parse(other).map(|tree| tree.root);
            // What follows may be an overlay, a tree of its own.
            let overlay = Tree::parse(&tree.rest).filter(|_| !random.one_in(3));
            for _ in 0..1 + random.small(3) {
                change_tree(random, &mut tree, donor.as_ref());
            }
            if let Some(mut overlay) = overlay {
                for _ in 0..1 + random.small(2) {
                    change_tree(random, &mut overlay, donor.as_ref());
                }
                overlay.rest.clear();
                tree.rest = overlay.write(Style::default());
            }
            let style = match random.below(4) {
                0 => Style {
                    nops: random.below(3),
                    slack: 8 * random.below(4),
                    strings_first: random.one_in(2),
                    tails: random.one_in(2),
                },
                _ => Style::default(),
            };
            let mut out = tree.write(style);
            if random.one_in(16) {
                change_bytes(random, &mut out, other);
            }
            out
        }
        _ => {
            let mut out = input.to_vec();
            for _ in 0..1 + random.small(3) {
                change_bytes(random, &mut out, other);
            }
            if random.one_in(2) {
                let length = out.len() as u32;
                set_word(&mut out, 4, length);
            }
            out
        }
    };
    out.truncate(MAX_INPUT);
    out
}

fn word_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn set_word(bytes: &mut [u8], at: usize, word: u32) {
    if let Some(place) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *place = word.to_be_bytes();
    }
}

/// A word that hurts, or one near to `word`.
fn word(random: &mut Random, word: u32) -> u32 {
    let near = [1, 4, 8, 0x1000, 1 << random.below(32)];
    match random.below(5) {
        0 => *random.pick(&WORDS),
        1 => word.wrapping_add(*random.pick(&near)),
        2 => word.wrapping_sub(*random.pick(&near)),
        3 => word ^ *random.pick(&near),
        _ => random.next() as u32 >> random.below(32),
    }
}

/// A number that an address or a length may be.
fn number(random: &mut Random) -> u64 {
    match random.below(6) {
        0 => u64::from(*random.pick(&WORDS)),
        1 => (1 << random.below(64)) - random.below(2) as u64,
        2 => 0u64.wrapping_sub(0x1000 * random.below(3) as u64),
        3 => random.next() >> random.below(64),
        _ => 0x4000_0000 + 0x10_0000 * random.below(0x500) as u64,
    }
}

fn change_bytes(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = random.below(bytes.len().max(1));
    let length = random.small(6);
    let aligned = if random.one_in(4) { at } else { at & !3 };
    let end = (aligned + length).min(bytes.len());
    match random.below(9) {
        0 | 1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        2 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = random.next() as u8;
            }
        }
        3 | 4 => {
            // The header more often than the rest.
            let at = if random.one_in(3) { 4 * random.below(10) } else { aligned };
            if let Some(old) = word_at(bytes, at) {
                set_word(bytes, at, word(random, old));
            }
        }
        5 => drop(bytes.drain(aligned.min(end)..end)),
        6 if !other.is_empty() => {
            let from = random.below(other.len()) & !3;
            let piece = &other[from..(from + length).min(other.len())];
            let until = if random.one_in(2) { end } else { aligned.min(bytes.len()) };
            bytes.splice(aligned.min(until)..until, piece.iter().copied());
        }
        7 => {
            let text = if random.one_in(2) { *random.pick(&NAMES) } else { *random.pick(&TEXTS) };
            let end = (at + text.len()).min(bytes.len());
            bytes.splice(at.min(end)..end, text.bytes());
        }
        _ => {
            if random.one_in(4) {
                bytes.truncate(at);
            } else {
                // Tokens where tokens are not expected.
                set_word(bytes, aligned, *random.pick(&[1, 2, 3, 4, 9]));
            }
        }
    }
}

/// A value for a property of this name.
fn value(random: &mut Random, name: &[u8], root: &Node) -> Vec<u8> {
    let cells = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect();
    match (name, random.below(8)) {
        (b"#address-cells" | b"#size-cells", 0..7) => {
            cells(&[*random.pick(&[1, 2, 2, 2, 0, 3, u32::MAX])])
        }
        (b"tagged-memory" | b"memory" | b"phandle", 0..6) => cells(&[1 + random.below(4) as u32]),
        (b"reg" | b"ranges", 0..6) => {
            let mut out = Vec::new();
            for _ in 0..1 + random.below(2) {
                let start = number(random);
                let length = match random.below(4) {
                    0 => 0u64.wrapping_sub(start),
                    1 => number(random),
                    _ => 0x1000 << random.below(18),
                };
                match random.below(4) {
                    0 => out.extend(
                        [(start as u32).to_be_bytes(), (length as u32).to_be_bytes()].concat(),
                    ),
                    _ => out.extend([start.to_be_bytes(), length.to_be_bytes()].concat()),
                }
            }
            out
        }
        (b"compatible" | b"status" | b"device_type" | b"method", 0..7) | (_, 0) => {
            [random.pick(&TEXTS).as_bytes(), b"\0"].concat()
        }
        (b"no-map" | b"reusable" | b"arm,no-mte" | b"arm,mte-alloc", 0..6) => Vec::new(),
        (_, 1) => number(random).to_be_bytes().to_vec(),
        (_, 2) => cells(&[number(random) as u32]),
        (_, 3) => cells(&[*random.pick(&WORDS)]),
        (_, 4) => (0..random.below(24)).map(|_| random.next() as u8).collect(),
        (_, 5) => Vec::new(),
        // What another property of this tree has.
        _ => {
            let mut root = root.clone();
            let index = random.below(root.count());
            let node = root.nth(index).map(|node| node.properties.clone()).unwrap_or_default();
            let found = node.get(random.below(node.len()));
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        }
    }
}

fn node_name(random: &mut Random) -> Vec<u8> {
    match random.below(8) {
        0 => format!(
            "{}@{:x}",
            random.pick(&NODES).split('@').next().unwrap_or_default(),
            number(random)
        )
        .into_bytes(),
        1 => format!("n{:x}", random.next() as u8).into_bytes(),
        _ => random.pick(&NODES).as_bytes().to_vec(),
    }
}

fn property_name(random: &mut Random) -> Vec<u8> {
    match random.below(16) {
        0 => format!("p{:x}", random.next() as u8).into_bytes(),
        _ => random.pick(&NAMES).as_bytes().to_vec(),
    }
}

fn change_tree(random: &mut Random, tree: &mut Tree, donor: Option<&Node>) {
    match random.below(24) {
        0 => tree.boot_cpu = random.next() as u32,
        1 => {
            let pair = (number(random), number(random));
            let at = random.below(tree.reservations.len() + 1);
            match random.below(3) {
                0 => tree.reservations.insert(at, pair),
                1 if at < tree.reservations.len() => drop(tree.reservations.remove(at)),
                _ => {
                    if let Some(entry) = tree.reservations.get_mut(at) {
                        *entry =
                            if random.one_in(2) { (entry.0, pair.1) } else { (pair.0, entry.1) };
                    }
                }
            }
        }
        2 => tag_storage(random, tree),
        3 => bus(random, tree),
        5 if random.one_in(2) => overlay(random, tree),
        4 if random.one_in(4) => {
            let length = random.below(64);
            tree.rest = (0..length).map(|_| random.next() as u8).collect();
        }
        _ => change_node(random, tree, donor),
    }
}

/// Changes one node, its properties or its children.
fn change_node(random: &mut Random, tree: &mut Tree, donor: Option<&Node>) {
    let whole = tree.root.clone();
    let count = tree.root.count();
    let index = random.below(count);
    let Some(node) = tree.root.nth(index) else { return };
    let (properties, children) = (node.properties.len(), node.children.len());
    let (one, two) = (random.below(properties), random.below(properties));
    let child = random.below(children);
    match random.below(16) {
        // A property changes its value.
        0..=3 if properties > 0 => change_value(random, &mut node.properties[one], &whole),
        4 | 5 => {
            let name = property_name(random);
            let value = value(random, &name, &whole);
            match random.one_in(8) {
                true => node.properties.insert(one, (name, value)),
                false => node.set(&String::from_utf8_lossy(&name), &value),
            }
        }
        6 if properties > 0 => drop(node.properties.remove(one)),
        7 if properties > 0 => match random.below(4) {
            0 => node.properties[one].0 = property_name(random),
            1 => node.properties.swap(one, two),
            2 => node.properties[one].1 = node.properties[two].1.clone(),
            _ => {
                // Twice, which guests do not accept.
                let twin = node.properties[one].clone();
                node.properties.insert(two, twin);
            }
        },
        8 if children > 0 => drop(node.children.remove(child)),
        9 if children > 0 => {
            let mut twin = node.children[child].clone();
            if !random.one_in(8) {
                twin.name = node_name(random);
            }
            node.children.push(twin);
        }
        10 => {
            let name = node_name(random);
            if !node.children.iter().any(|child| child.name == name) || random.one_in(8) {
                node.children.insert(child, Node::new(&name));
            }
        }
        11 if index > 0 => node.name = node_name(random),
        12 if children > 1 => {
            let other = random.below(children);
            node.children.swap(child, other);
        }
        13 if children > 0 => {
            // A subtree goes somewhere else.
            let moved = node.children.remove(child);
            let to = random.below(tree.root.count());
            if let Some(parent) = tree.root.nth(to) {
                parent.children.push(moved);
            }
        }
        14 if random.one_in(4) => {
            // Deeper, by one level or to where nodes are too deep.
            let levels = if random.one_in(2) { 1 } else { random.below(28) };
            let grown = (0..levels).fold(std::mem::take(&mut node.children), |below, _| {
                vec![Node { name: b"d".to_vec(), properties: Vec::new(), children: below }]
            });
            node.children = grown;
        }
        _ => {
            if let Some(donor) = donor {
                let mut donor = donor.clone();
                let from = 1 + random.below(donor.count().saturating_sub(1));
                if let Some(piece) = donor.nth(from) {
                    let known = node.children.iter().position(|child| child.name == piece.name);
                    match known {
                        Some(known) => node.children[known] = piece.clone(),
                        None => node.children.push(piece.clone()),
                    }
                }
            }
        }
    }
}

fn change_value(random: &mut Random, property: &mut (Vec<u8>, Vec<u8>), root: &Node) {
    let (name, bytes) = property;
    let at = random.below(bytes.len().max(1));
    match random.below(10) {
        0..=2 => {
            if let Some(old) = word_at(bytes, at & !3) {
                set_word(bytes, at & !3, word(random, old));
            }
        }
        3 => {
            if let Some(place) = bytes.get_mut(at & !7..).and_then(|rest| rest.first_chunk_mut()) {
                *place = number(random).to_be_bytes();
            }
        }
        4 => {
            let old = bytes.clone();
            bytes.extend(old);
        }
        5 => bytes.truncate(at),
        6 => bytes.extend((0..1 + random.below(8)).map(|_| 0)),
        7 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = random.next() as u8;
            }
        }
        8 => {
            let text = random.pick(&TEXTS).bytes().chain([0]).collect::<Vec<u8>>();
            let start = bytes[..at.min(bytes.len())].iter().rposition(|byte| *byte == 0);
            let start = start.map_or(0, |nul| nul + 1);
            bytes.splice(start..start, text);
        }
        _ => *bytes = value(random, name, root),
    }
}

/// Adds tagged memory and the tag storage of it, in one of the dialects, right but for one number now and then.
fn tag_storage(random: &mut Random, tree: &mut Tree) {
    let pair = |start: u64, length: u64| [start.to_be_bytes(), length.to_be_bytes()].concat();
    let block = 0x1000 * *random.pick(&[1, 1, 1, 2, 3]);
    let length = block * (1 + random.below(64) as u64);
    let phandle = 0x100 + random.below(64) as u32;
    let start = 0x1_0000_0000 + 0x1000_0000 * random.below(256) as u64;
    let mut storage = match random.below(3) {
        0 => start + 32 * length,
        1 => start.saturating_sub(length),
        _ => 0x100_0000_0000 + 0x100_0000 * random.below(64) as u64,
    };
    let mut tagged = 32 * length;
    match random.below(12) {
        0 => tagged = tagged.wrapping_add(0x1000),
        1 => storage = storage.wrapping_add(0x800),
        2 => storage = start + random.below(2) as u64 * 0x1000,
        _ => {}
    }
    let root = &mut tree.root;
    root.set("#address-cells", &2u32.to_be_bytes());
    root.set("#size-cells", &2u32.to_be_bytes());

    let mut memory = Node::new(format!("memory@{start:x}").as_bytes());
    memory.set("device_type", b"memory\0");
    memory.set("reg", &pair(start, tagged));
    memory.set("phandle", &phandle.to_be_bytes());
    let mut tags = Node::new(format!("tags@{storage:x}").as_bytes());
    tags.set("compatible", b"arm,mte-tag-storage\0");
    tags.set("reg", &pair(storage, length));
    let dialect = random.below(3);
    match dialect {
        0 => tags.set("tagged-memory", &phandle.to_be_bytes()),
        1 => tags.set("memory", &phandle.to_be_bytes()),
        _ => {
            memory.set("arm,mte-alloc", b"");
            tags.set("storage-base", &start.to_be_bytes());
        }
    }
    if dialect < 2 {
        tags.set("block-size", &(block as u32).to_be_bytes());
    }
    if !random.one_in(8) {
        let mut holds = Node::new(format!("memory@{storage:x}").as_bytes());
        holds.set("device_type", b"memory\0");
        holds.set("reg", &pair(storage, length));
        root.children.push(holds);
    }
    root.children.push(memory);
    if dialect == 1 && !random.one_in(8) {
        root.children.push(tags);
        return;
    }
    let at = root.child("reserved-memory").unwrap_or_else(|| {
        let mut reserved = Node::new(b"reserved-memory");
        reserved.set("#address-cells", &2u32.to_be_bytes());
        reserved.set("#size-cells", &2u32.to_be_bytes());
        reserved.set("ranges", b"");
        root.children.push(reserved);
        root.children.len() - 1
    });
    root.children[at].children.push(tags);
}

/// Moves a child of the root, most often the one that holds a serial port, below a bus that maps its addresses, and names the
/// port as the console.
fn bus(random: &mut Random, tree: &mut Tree) {
    if tree.root.children.is_empty() {
        return;
    }
    let holds = tree.root.children.iter().position(|child| port(child).is_some());
    let index = match holds {
        Some(index) if !random.one_in(4) => index,
        _ => random.below(tree.root.children.len()),
    };
    let moved = std::mem::take(&mut tree.root.children[index]);
    let counts = [*random.pick(&[1u32, 2, 2]), *random.pick(&[1u32, 2, 2])];
    let up = tree.root.get("#address-cells").map_or(2, |count| tree::number(count) as u32);
    let cell = |count: u32, number: u64| match count {
        1 => (number as u32).to_be_bytes().to_vec(),
        _ => number.to_be_bytes().to_vec(),
    };
    // At both ends of the addresses, and around where the child is.
    let reg = moved.get("reg").map_or(0, tree::number);
    let top = u64::MAX - 0x1000 * random.below(3) as u64;
    let any = number(random);
    let from = *random.pick(&[0, reg, reg.saturating_sub(0x1000), any]);
    let to = *random.pick(&[0, 0x900_0000, top, top, any]);
    let length = *random.pick(&[0x1000, 0x1000_0000, top, top, any]);
    let mut bus = Node::new(if random.one_in(2) { b"bus" } else { b"soc@0" });
    bus.set("compatible", b"simple-bus\0");
    bus.set("#address-cells", &counts[0].to_be_bytes());
    bus.set("#size-cells", &counts[1].to_be_bytes());
    let mut ranges = [cell(counts[0], from), cell(up, to), cell(counts[1], length)].concat();
    if random.one_in(4) {
        ranges =
            [ranges, [cell(counts[0], 0), cell(up, 0), cell(counts[1], 0x1000)].concat()].concat();
    }
    bus.set("ranges", if random.one_in(4) { b"" } else { &ranges });
    bus.children.push(moved);
    tree.root.children[index] = bus;

    let Some(path) = port(&tree.root) else { return };
    let child = tree.root.child("chosen").unwrap_or_else(|| {
        tree.root.children.push(Node::new(b"chosen"));
        tree.root.children.len() - 1
    });
    tree.root.children[child].set("stdout-path", &[path.as_bytes(), b"\0"].concat());
}

/// Appends an overlay with one more fragment than there was: its target is a node of the tree by path, by phandle or by
/// label, its contents what that node or another has.
fn overlay(random: &mut Random, tree: &mut Tree) {
    let mut overlay = Tree::parse(&tree.rest).unwrap_or_default();
    let (mut node, mut path) = (&tree.root, String::new());
    while !node.children.is_empty() && !random.one_in(3) {
        node = random.pick(&node.children);
        path += &format!("/{}", String::from_utf8_lossy(&node.name));
    }
    let mut contents = Node::new(b"__overlay__");
    for _ in 0..random.below(3) {
        let name = property_name(random);
        contents.set(&String::from_utf8_lossy(&name), &value(random, &name, &tree.root));
    }
    if let Some(child) = node.children.first().filter(|_| random.one_in(2)) {
        contents.children.push(child.clone());
    }
    if random.one_in(2) {
        let mut added = Node::new(&node_name(random));
        added.set("x", &number(random).to_be_bytes());
        contents.children.push(added);
    }
    let name = format!("fragment@{:x}", overlay.root.children.len());
    let mut fragment = Node::new(name.as_bytes());
    let kind = random.below(4);
    let mut label = None;
    match node.get("phandle").map(<[u8]>::to_vec) {
        Some(phandle) if kind == 1 => fragment.set("target", &phandle),
        Some(_) if kind == 2 => {
            fragment.set("target", &u32::MAX.to_be_bytes());
            label = Some(format!("/{name}:target:0"));
        }
        _ if path.is_empty() => fragment.set("target-path", b"/\0"),
        _ => fragment.set("target-path", &[path.as_bytes(), b"\0"].concat()),
    }
    fragment.children.push(contents);
    overlay.root.children.insert(0, fragment);
    if let Some(entry) = label {
        let child = |root: &mut Node, name: &str| {
            root.child(name).unwrap_or_else(|| {
                root.children.push(Node::new(name.as_bytes()));
                root.children.len() - 1
            })
        };
        let symbols = child(&mut tree.root, "__symbols__");
        tree.root.children[symbols].set("label", &[path.as_bytes(), b"\0"].concat());
        let fixups = child(&mut overlay.root, "__fixups__");
        let known = overlay.root.children[fixups].get("label").unwrap_or_default().to_vec();
        overlay.root.children[fixups].set("label", &[&known, entry.as_bytes(), b"\0"].concat());
    }
    overlay.rest.clear();
    tree.rest = overlay.write(Style::default());
}

/// Path of the first serial port below `node`.
fn port(node: &Node) -> Option<String> {
    let is_port = |node: &Node| {
        let value = node.get("compatible").unwrap_or_default();
        value.split(|byte| *byte == 0).any(|entry| entry == b"arm,pl011" || entry == b"ns16550a")
    };
    if is_port(node) {
        return Some(String::new());
    }
    node.children.iter().find_map(|child| {
        Some(format!("/{}{}", String::from_utf8_lossy(&child.name), port(child)?))
    })
}
