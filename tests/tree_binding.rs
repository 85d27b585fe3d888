// SPDX-License-Identifier: MIT OR Apache-2.0
//! The binding of tag storage: what good trees give, and the message of every rule broken once,
//! in every dialect that it applies to.

mod trees;

use tagstash::addr::{PhysAddr, PhysRange};
use tagstash::tags::binding::regions;
use tagstash::tags::geometry::Region;
use trees::{Reg, Tree, fvp, node, virt, virt_google, virt_v1};

const TAGS: &str = "reserved-memory/tags@7e000000";

fn range(start: u64, length: u64) -> PhysRange {
    PhysRange::new(PhysAddr(start), length).unwrap()
}

fn region(tagged: u64, storage: u64, storage_length: u64, block_size: u64) -> Region {
    Region::new(range(tagged, storage_length * 32), range(storage, storage_length), block_size)
        .unwrap()
}

fn tags(name: &str, storage: Reg, block_size: u32, phandle: u32) -> Tree {
    node(name)
        .with("compatible", "arm,mte-tag-storage")
        .with("reg", storage)
        .with("block-size", [block_size])
        .with("tagged-memory", [phandle])
}

fn memory(name: &str, reg: Reg, phandle: u32) -> Tree {
    node(name).with("device_type", "memory").with("reg", reg).with("phandle", [phandle])
}

#[test]
fn one_region_and_none() {
    let mut tree = virt();
    assert_eq!(regions(&tree.blob()), Ok(vec![region(0x4000_0000, 0x7e00_0000, 0x1f0_0000, 4096)]));
    assert_eq!(regions(&tree.flatten(&[(0x4000, 0x1000)], true)), regions(&tree.blob()));
    tree.at("reserved-memory").remove("tags@7e000000");
    assert_eq!(regions(&tree.blob()), Ok(vec![]));
    tree.remove("reserved-memory");
    assert_eq!(regions(&tree.blob()), Ok(vec![]));
}

#[test]
fn the_fvp_has_two_regions_whatever_their_unit_addresses() {
    assert_eq!(
        regions(&fvp().blob()),
        Ok(vec![
            region(0x8000_0000, 0x8_f800_0000, 0x400_0000, 4096),
            region(0x8_8000_0000, 0x8_fc00_0000, 0x3c0_0000, 4096),
        ])
    );
}

/// The tags of low memory at the end of high memory and the other way round, with nothing
/// aligned to more than a page and blocks that are no power of two.
#[test]
fn storage_may_be_cross_placed_at_odd_bases_with_odd_blocks() {
    let mut tree = node("").with("#address-cells", [2u32]).with("#size-cells", [2u32]);
    tree.add(memory("memory@1", Reg(0x8000_3000, 0x30_0000 * 32), 1));
    tree.add(memory("memory@2", Reg(0xc000_0000, 0x60_0000), 2));
    tree.add(memory("memory@3", Reg(0x8_8000_5000, 0x60_0000 * 32), 3));
    tree.add(memory("memory@4", Reg(0x9_0000_0000, 0x40_0000), 4));
    tree.add(
        node("reserved-memory")
            .with("#address-cells", [2u32])
            .with("#size-cells", [2u32])
            .with("ranges", ())
            .child(tags("a", Reg(0x9_0000_7000, 0x30_0000), 0x3000, 1))
            .child(tags("b", Reg(0xc000_0000, 0x60_0000), 0x2000, 3)),
    );
    assert_eq!(
        regions(&tree.blob()),
        Ok(vec![
            region(0x8000_3000, 0x9_0000_7000, 0x30_0000, 12288),
            region(0x8_8000_5000, 0xc000_0000, 0x60_0000, 8192),
        ])
    );
}

#[test]
fn addresses_and_sizes_have_one_cell_or_two() {
    let mut tree = virt();
    tree.at("reserved-memory").set("#address-cells", [1u32]);
    tree.at("reserved-memory").set("#size-cells", [1u32]);
    tree.at(TAGS).set("reg", [0x7e00_0000u32, 0x1f0_0000]);
    let expected = Ok(vec![region(0x4000_0000, 0x7e00_0000, 0x1f0_0000, 4096)]);
    assert_eq!(regions(&tree.blob()), expected);

    tree.set("#address-cells", [2u32]);
    tree.set("#size-cells", [1u32]);
    tree.at("memory@40000000").set("reg", [0u32, 0x4000_0000, 0x3e00_0000]);
    tree.at("memory@7e000000").set("reg", [0u32, 0x7e00_0000, 0x200_0000]);
    assert_eq!(regions(&tree.blob()), expected);
}

#[test]
fn disabled_nodes_are_skipped_whatever_is_wrong_with_them() {
    let mut tree = fvp();
    tree.at("reserved-memory/tags@8f8000000").set("status", "disabled");
    tree.at("reserved-memory/tags@8f8000000").set("block-size", [0u32]);
    tree.at("reserved-memory/tags@8fc00000").set("status", "okay");
    assert_eq!(
        regions(&tree.blob()),
        Ok(vec![region(0x8_8000_0000, 0x8_fc00_0000, 0x3c0_0000, 4096)])
    );
}

/// A tree with `count` regions of one block each.
fn many(count: u32) -> Tree {
    let mut tree = node("").with("#address-cells", [2u32]).with("#size-cells", [2u32]);
    let mut reserved = node("reserved-memory")
        .with("#address-cells", [2u32])
        .with("#size-cells", [2u32])
        .with("ranges", ());
    tree.add(memory("memory@0", Reg(0x1000_0000, 0x100_0000), 1000));
    for index in 0..count {
        let base = 0x8000_0000 + u64::from(index) * 0x2_0000;
        tree.add(memory(&format!("memory@{base:x}"), Reg(base, 0x2_0000), index + 1));
        let storage = 0x1000_0000 + u64::from(index) * 0x1000;
        reserved.add(tags(&format!("tags@{storage:x}"), Reg(storage, 0x1000), 0x1000, index + 1));
    }
    tree.child(reserved)
}

#[test]
fn there_may_be_32_regions() {
    assert_eq!(regions(&many(32).blob()).unwrap().len(), 32);
}

/// All of it or none: a second, good region does not save a tree whose first is wrong.
#[test]
fn one_wrong_node_turns_all_off() {
    let mut tree = fvp();
    tree.at("reserved-memory/tags@8f8000000").set("block-size", [0x1800u32]);
    assert!(regions(&tree.blob()).is_err());
}

/// One good tree in each dialect: the same board, and where its tag-storage node is.
struct Board {
    tree: fn() -> Tree,
    /// Path of the tag-storage node from the root.
    tags: &'static str,
    /// The property that names the tagged memory.
    property: &'static str,
}

const V3: Board = Board { tree: virt, tags: TAGS, property: "tagged-memory" };
const V1: Board = Board { tree: virt_v1, tags: "metadata@7e000000", property: "memory" };
const GOOGLE: Board = Board { tree: virt_google, tags: TAGS, property: "storage-base" };

/// (address, size) in the cells of a root or of `/reserved-memory`.
fn pair(address: u64, size: u64, cells: (u32, u32)) -> Vec<u32> {
    let number = |value: u64, cells| match cells {
        1 => vec![u32::try_from(value).unwrap()],
        _ => vec![(value >> 32) as u32, value as u32],
    };
    [number(address, cells.0), number(size, cells.1)].concat()
}

/// The same board says the same in every dialect, whatever the cells of the root and of
/// `/reserved-memory` are.
#[test]
fn every_dialect_says_the_same_in_all_cells() {
    let counts = [(1u32, 1u32), (1, 2), (2, 1), (2, 2)];
    let expected = Ok(vec![region(0x4000_0000, 0x7e00_0000, 0x1f0_0000, 4096)]);
    for board in [&V3, &V1, &GOOGLE] {
        for root in counts {
            for reserved in counts {
                let mut tree = (board.tree)();
                let mut write = |path: &str, cells, (address, size)| {
                    tree.at(path).set("reg", pair(address, size, cells).as_slice());
                };
                let ram = if board.property == "storage-base" { 0x4000_0000 } else { 0x3e00_0000 };
                write("memory@40000000", root, (0x4000_0000, ram));
                if board.property == "tagged-memory" {
                    write("memory@7e000000", root, (0x7e00_0000, 0x200_0000));
                }
                let cells = if board.property == "memory" { root } else { reserved };
                write(board.tags, cells, (0x7e00_0000, 0x1f0_0000));
                for (path, cells) in [("", root), ("reserved-memory", reserved)] {
                    tree.at(path).set("#address-cells", [cells.0]);
                    tree.at(path).set("#size-cells", [cells.1]);
                }
                assert_eq!(regions(&tree.blob()), expected, "{} {root:?}", board.property);
            }
        }
    }
}

/// Regions of different dialects in one tree; each node is read in its own.
#[test]
fn dialects_may_be_mixed() {
    let mut tree = fvp();
    tree.at("reserved-memory").remove("tags@8f8000000");
    tree.add(tags("metadata@1", Reg(0x8_f800_0000, 0x400_0000), 0x2000, 1));
    tree.at("metadata@1").unset("tagged-memory");
    tree.at("metadata@1").set("memory", [1u32]);
    tree.add(memory("memory@900000000", Reg(0x9_0000_0000, 0x100_0000 * 33), 7));
    tree.at("reserved-memory").add(
        node("google")
            .with("compatible", "arm,mte-tag-storage")
            .with("reg", Reg(0x9_0000_0000, 0x100_0000))
            .with("storage-base", [9u32, 0x100_0000]),
    );
    assert_eq!(
        regions(&tree.blob()),
        Ok(vec![
            region(0x8_8000_0000, 0x8_fc00_0000, 0x3c0_0000, 4096),
            region(0x9_0100_0000, 0x9_0000_0000, 0x100_0000, 4096),
            region(0x8000_0000, 0x8_f800_0000, 0x400_0000, 8192),
        ])
    );
}

/// Good trees of each dialect, as boards and boot loaders have them.
#[test]
fn good_trees_give_their_regions() {
    type Change = fn(&mut Tree);
    let whole = || vec![region(0x4000_0000, 0x7e00_0000, 0x1f0_0000, 4096)];
    let cases: Vec<(&str, &Board, Change, Vec<Region>)> = vec![
        ("as it is", &V3, |_| {}, whole()),
        ("as it is", &V1, |_| {}, whole()),
        ("as it is", &GOOGLE, |_| {}, whole()),
        (
            "a memory node without unit address",
            &GOOGLE,
            |tree| {
                let memory = tree.remove("memory@40000000").renamed("memory");
                tree.add(memory);
            },
            whole(),
        ),
        (
            "storage-base in one cell",
            &GOOGLE,
            |tree| tree.at(TAGS).set("storage-base", [0x4000_0000u32]),
            whole(),
        ),
        (
            "block-size where none is needed",
            &GOOGLE,
            |tree| tree.at(TAGS).set("block-size", [0x2000u32]),
            vec![region(0x4000_0000, 0x7e00_0000, 0x1f0_0000, 8192)],
        ),
        (
            "the prototype's memory nodes",
            &GOOGLE,
            |tree| {
                let ram = tree.at("memory@40000000");
                ram.set("reg", Reg(0x4000_0000, 0x3e00_0000));
                ram.set("arm,mte-alloc", ());
                tree.add(memory("memory@7e000000", Reg(0x7e00_0000, 0x200_0000), 5));
                tree.at("memory@7e000000").set("arm,mte-alloc", ());
                tree.at("memory@7e000000").set("arm,no-mte", ());
            },
            whole(),
        ),
        (
            "memory with arm,mte-alloc whose tags are not in RAM",
            &GOOGLE,
            |tree| {
                tree.at("memory@40000000").set("arm,mte-alloc", ());
                tree.add(memory("memory@100000000", Reg(0x1_0000_0000, 0x4000_0000), 5));
                tree.at("memory@100000000").set("arm,mte-alloc", ());
            },
            whole(),
        ),
        (
            "tagged memory that spans memory nodes, and ranges of one node",
            &GOOGLE,
            |tree| {
                let parts = [Reg(0x6000_0000, 0x1800_0000), Reg(0x4000_0000, 0x2000_0000)];
                tree.at("memory@40000000").set("reg", parts);
                tree.at("memory@40000000").set("numa-node-id", [0u32]);
                tree.add(memory("memory@78000000", Reg(0x7800_0000, 0x800_0000), 5));
                tree.at("memory@78000000").set("numa-node-id", [1u32]);
            },
            whole(),
        ),
        (
            "one memory node rewritten to cover the others",
            &GOOGLE,
            |tree| {
                tree.at("memory@40000000").set("arm,mte-alloc", ());
                tree.add(memory("memory@7e000000", Reg(0x7e00_0000, 0x200_0000), 5));
                tree.at("memory@7e000000").set("arm,no-mte", ());
            },
            whole(),
        ),
        (
            "blocks of 12 KiB",
            &V1,
            |tree| {
                tree.at("metadata@7e000000").set("reg", Reg(0x7e00_0000, 0x1ef_f000));
                tree.at("metadata@7e000000").set("block-size", [0x3000u32]);
                tree.at("memory@40000000").set("reg", Reg(0x4000_0000, 0x1ef_f000 * 32));
            },
            vec![region(0x4000_0000, 0x7e00_0000, 0x1ef_f000, 12288)],
        ),
        (
            "storage in memory",
            &V1,
            |tree| tree.add(memory("memory@7e000000", Reg(0x7e00_0000, 0x200_0000), 5)),
            whole(),
        ),
        (
            "storage that begins in memory and ends outside",
            &V1,
            |tree| tree.add(memory("memory@7e000000", Reg(0x7e00_0000, 0x100_0000), 5)),
            whole(),
        ),
        (
            "storage in two memory nodes that touch",
            &V3,
            |tree| {
                tree.at("memory@7e000000").set("reg", Reg(0x7e00_0000, 0x100_0000));
                tree.add(memory("memory@7f000000", Reg(0x7f00_0000, 0x100_0000), 5));
            },
            whole(),
        ),
        ("no MTE elsewhere", &V3, |tree| tree.at("memory@7e000000").set("arm,no-mte", ()), whole()),
    ];
    for (name, board, change, expected) in cases {
        let mut tree = (board.tree)();
        change(&mut tree);
        assert_eq!(regions(&tree.blob()), Ok(expected), "{}: {name}", board.property);
    }
}

/// The FVP with two NUMA nodes in the older dialect and in Google's: storage of both above both.
#[test]
fn numa_boards_have_storage_for_each_node_in_every_dialect() {
    let expected = [
        region(0x8000_0000, 0x8_f800_0000, 0x400_0000, 4096),
        region(0x8_8000_0000, 0x8_fc00_0000, 0x3c0_0000, 4096),
    ];
    let numa = || {
        let mut tree = fvp();
        for (name, id) in [("memory@80000000", 0u32), ("memory@880000000", 1)] {
            tree.at(name).set("numa-node-id", [id]);
        }
        tree
    };
    assert_eq!(regions(&numa().blob()).unwrap(), expected);

    let mut tree = numa();
    tree.remove("memory@8f8000000");
    for name in ["tags@8f8000000", "tags@8fc00000"] {
        let mut tags = tree.at("reserved-memory").remove(name);
        let phandle = if name == "tags@8f8000000" { 1 } else { 2u32 };
        tags.unset("tagged-memory");
        tags.set("memory", [phandle]);
        tree.add(tags);
    }
    assert_eq!(regions(&tree.blob()).unwrap(), expected);

    let mut tree = numa();
    for (name, base) in
        [("tags@8f8000000", [0u32, 0x8000_0000]), ("tags@8fc00000", [8, 0x8000_0000])]
    {
        let tags = tree.at(&format!("reserved-memory/{name}"));
        tags.unset("tagged-memory");
        tags.unset("block-size");
        tags.set("storage-base", base);
    }
    assert_eq!(regions(&tree.blob()).unwrap(), expected);
}

/// Children of `/reserved-memory` have CPU addresses through its `ranges`.
#[test]
fn ranges_map_reserved_memory_to_cpu_addresses() {
    let whole = region(0x4000_0000, 0x7e00_0000, 0x1f0_0000, 4096);
    for board in [&V3, &GOOGLE] {
        let mut tree = (board.tree)();
        let reserved = tree.at("reserved-memory");
        reserved.set("#address-cells", [1u32]);
        reserved.set("#size-cells", [1u32]);
        reserved.set(
            "ranges",
            [0u32, 0, 0x4000_0000, 0x1000_0000, 0x3e00_0000, 0, 0x7e00_0000, 0x200_0000],
        );
        tree.at(TAGS).set("reg", [0x3e00_0000u32, 0x1f0_0000]);
        assert_eq!(regions(&tree.blob()), Ok(vec![whole]), "{}", board.property);
        // Up to the entry's end.
        tree.at("reserved-memory").set("ranges", [0x3e00_0000u32, 0, 0x7e00_0000, 0x1f0_0000]);
        assert_eq!(regions(&tree.blob()), Ok(vec![whole]));
        // One to one, written out.
        tree.at("reserved-memory").set("ranges", [0u32, 0, 0, 0xffff_ffff]);
        tree.at(TAGS).set("reg", [0x7e00_0000u32, 0x1f0_0000]);
        assert_eq!(regions(&tree.blob()), Ok(vec![whole]));
    }
    // They are nothing to children of the root.
    let mut tree = virt_v1();
    tree.at("reserved-memory").set("ranges", [0u32; 6]);
    assert_eq!(regions(&tree.blob()), Ok(vec![whole]));
}

type Break = fn(&mut Tree, &Board);

/// Breaks each tree once and compares what is said. `NODE` and `PROPERTY` stand for the path
/// and the property of the board.
fn broken(boards: &[&Board], cases: &[(Break, &str)]) {
    for board in boards {
        for (wreck, message) in cases {
            let mut tree = (board.tree)();
            wreck(&mut tree, board);
            let message = message.replace("NODE", &format!("/{}", board.tags));
            let message = message.replace("PROPERTY", board.property);
            match regions(&tree.blob()) {
                Ok(regions) => panic!("{regions:?} instead of: {message}"),
                Err(error) => assert_eq!(error.to_string(), message),
            }
        }
    }
}

/// The rules of `reg`, of the node's place in a good tree, and of what all dialects share.
#[test]
fn p9_each_rule_of_all_dialects_broken_once_names_node_property_and_value() {
    broken(
        &[&V3, &V1, &GOOGLE],
        &[
            (|tree, _| tree.unset("#size-cells"), "/: #size-cells is missing"),
            (
                |tree, _| tree.set("#address-cells", [0u8, 2]),
                "structure block at 0x8: #address-cells and #size-cells have four bytes",
            ),
            (|tree, _| tree.at("memory@40000000").unset("reg"), "/memory@40000000: reg is missing"),
            (
                |tree, board| {
                    tree.at(board.tags).unset(board.property);
                },
                "NODE: tagged-memory is missing, and so are memory and storage-base: add the one \
                 of your dialect",
            ),
            (|tree, board| tree.at(board.tags).unset("reg"), "NODE: reg is missing: add it"),
            (
                |tree, board| tree.at(board.tags).set("reg", ()),
                "NODE: reg has 0 bytes where 16 make an entry",
            ),
            (
                |tree, board| tree.at(board.tags).set("reg", [0u32, 0x7e00_0000, 0x1f0_0000]),
                "NODE: reg has 12 bytes where 16 make an entry",
            ),
            (
                |tree, board| {
                    let two = [Reg(0x7e00_0000, 0x1000), Reg(0x7e00_1000, 0x1000)];
                    tree.at(board.tags).set("reg", two);
                },
                "NODE: reg has 2 ranges, but tag storage is one: give each a node of its own",
            ),
            (
                |tree, board| {
                    tree.at(board.tags).set("reg", Reg(0xffff_ffff_ffff_f000, 0x1f0_0000))
                },
                "NODE: reg 0xfffffffffffff000 + 0x1f00000 wraps around",
            ),
            (
                |tree, board| tree.at(board.tags).set("reg", Reg(0x7e00_0000, 0)),
                "NODE: reg: tag storage has length 0: give it the length of the tag storage",
            ),
            (
                |tree, board| tree.at(board.tags).set("reg", Reg(0x7e00_0800, 0x1f0_0000)),
                "NODE: reg: tag storage 0x7e000800..0x7ff00800 is not aligned to 4 KiB: begin and \
                 end it on a multiple of 0x1000",
            ),
            (
                |tree, board| tree.at(board.tags).set("reg", Reg(0x7e00_0000, 0x1ef_f800)),
                "NODE: reg: tag storage 0x7e000000..0x7feff800 is not aligned to 4 KiB: begin and \
                 end it on a multiple of 0x1000",
            ),
            (
                |tree, board| tree.at(board.tags).set("reg", Reg(0x5000_0000, 0x1f0_0000)),
                "NODE: reg: tag storage 0x50000000..0x51f00000 overlaps its own tagged memory \
                 0x40000000..0x7e000000: end the tagged memory before it: tag storage has no tags",
            ),
            (
                |tree, board| tree.at(board.tags).set("block-size", [0u32]),
                "NODE: block-size 0x0 must be a multiple of 0x1000 and not 0: give it in bytes",
            ),
            (
                |tree, board| tree.at(board.tags).set("block-size", [0x1800u32]),
                "NODE: block-size 0x1800 must be a multiple of 0x1000 and not 0: give it in bytes",
            ),
            (
                |tree, board| tree.at(board.tags).set("block-size", [0x3000u32]),
                "NODE: block-size: storage length 0x1f00000 is no multiple of block-size 0x3000: \
                 correct one of the two",
            ),
            (
                |tree, board| tree.at(board.tags).set("block-size", [0u32, 0x1000]),
                "NODE: block-size has 8 bytes, but is one number of 4",
            ),
            (
                |tree, _| tree.at("memory@40000000").set("arm,no-mte", ()),
                "NODE: PROPERTY 0x40000000..0x7e000000 overlaps /memory@40000000, which says \
                 arm,no-mte: correct one of them",
            ),
        ],
    );
}

/// The rules of those dialects whose nodes are children of `/reserved-memory`.
#[test]
fn p9_each_rule_of_reserved_memory_broken_once_names_node_property_and_value() {
    broken(
        &[&V3, &GOOGLE],
        &[
            (
                |tree, _| tree.at("reserved-memory").unset("ranges"),
                "/reserved-memory: ranges is missing: add an empty one",
            ),
            (
                |tree, _| tree.at("reserved-memory").set("ranges", [0u32; 7]),
                "/reserved-memory: ranges has 28 bytes where 24 make an entry",
            ),
            (
                |tree, _| {
                    let entry = [0u32, 0, u32::MAX, u32::MAX, 0, 0x1000];
                    tree.at("reserved-memory").set("ranges", entry);
                },
                "/reserved-memory: ranges 0xffffffffffffffff + 0x1000 wraps around",
            ),
            (
                // Begins in the entry and ends behind it.
                |tree, _| {
                    let entry = [0u32, 0x7e00_0000, 0, 0x7e00_0000, 0, 0x1ef_ffff];
                    tree.at("reserved-memory").set("ranges", entry);
                },
                "NODE: reg 0x7e000000..0x7ff00000 is in no entry of ranges of /reserved-memory; \
                 add one, or make ranges empty",
            ),
            (
                // Begins before the entry.
                |tree, _| {
                    let entry = [0u32, 0x7e00_0001, 0, 0x7e00_0001, 0, 0x1000_0000];
                    tree.at("reserved-memory").set("ranges", entry);
                },
                "NODE: reg 0x7e000000..0x7ff00000 is in no entry of ranges of /reserved-memory; \
                 add one, or make ranges empty",
            ),
            (
                |tree, _| tree.at("reserved-memory").set("#address-cells", [3u32]),
                "/reserved-memory: #address-cells = 3, but only 1 and 2 are possible",
            ),
            (
                |tree, _| tree.at("reserved-memory").set("#size-cells", [0u32]),
                "/reserved-memory: #size-cells = 0, but only 1 and 2 are possible",
            ),
            (
                |tree, board| tree.at(board.tags).set("reg", Reg(0x8000_0000, 0x1f0_0000)),
                "NODE: reg 0x80000000..0x81f00000 does not lie in memory nodes: 0x80000000 is in \
                 none that is enabled; correct one of them",
            ),
            (
                |tree, board| tree.at(board.tags).set("reg", Reg(0x7e20_0000, 0x1f0_0000)),
                "NODE: reg 0x7e200000..0x80100000 does not lie in memory nodes: 0x80000000 is in \
                 none that is enabled; correct one of them",
            ),
        ],
    );
    let misplaced: Break = |tree, board| {
        let node = tree.at("reserved-memory").remove("tags@7e000000").renamed(board.property);
        tree.add(node);
    };
    broken(
        &[&V3],
        &[(
            misplaced,
            "/tagged-memory: compatible arm,mte-tag-storage with tagged-memory (Linux RFC v3), but \
             no child of /reserved-memory: move it there",
        )],
    );
    broken(
        &[&GOOGLE],
        &[(
            misplaced,
            "/storage-base: compatible arm,mte-tag-storage with storage-base (Google), but no \
             child of /reserved-memory: move it there",
        )],
    );
    broken(
        &[&V3],
        &[(
            |tree, _| {
                let tags = tree.at("reserved-memory").remove("tags@7e000000");
                tree.at("reserved-memory").add(node("inner").child(tags));
            },
            "/reserved-memory/inner/tags@7e000000: compatible arm,mte-tag-storage with \
             tagged-memory (Linux RFC v3), but no child of /reserved-memory: move it there",
        )],
    );
}

/// The rules of the Linux dialects, whose tagged memory a phandle names.
#[test]
fn p9_each_rule_of_the_linux_dialects_broken_once_names_node_property_and_value() {
    broken(
        &[&V3, &V1],
        &[
            (
                |tree, board| tree.at(board.tags).unset("block-size"),
                "NODE: block-size is missing: add it",
            ),
            (
                |tree, board| tree.at(board.tags).set(board.property, [0x8001u32, 0x8002]),
                "NODE: PROPERTY has 8 bytes, but is one number of 4",
            ),
            (
                |tree, board| tree.at(board.tags).set(board.property, [0x9999u32]),
                "NODE: PROPERTY 0x9999 is no node's phandle: name a memory node's",
            ),
            (
                |tree, board| {
                    tree.at("memory@40000000").set("phandle", [0u32]);
                    tree.at(board.tags).set(board.property, [0u32]);
                },
                "NODE: PROPERTY 0x0 is no node's phandle: name a memory node's",
            ),
            (
                |tree, board| {
                    tree.at("memory@40000000").set("phandle", [u32::MAX]);
                    tree.at(board.tags).set(board.property, [u32::MAX]);
                },
                "NODE: PROPERTY 0xffffffff is no node's phandle: name a memory node's",
            ),
            (
                |tree, board| {
                    tree.at("psci").set("phandle", [9u32]);
                    tree.at(board.tags).set(board.property, [9u32]);
                },
                "NODE: PROPERTY 0x9 is psci, which is no enabled memory node: name one that is",
            ),
            (
                |tree, _| tree.at("memory@40000000").set("status", "disabled"),
                "NODE: PROPERTY 0x8001 is memory@40000000, which is no enabled memory node: name \
                 one that is",
            ),
            (
                |tree, _| {
                    let two = [Reg(0x4000_0000, 0x1f00_0000), Reg(0x5f00_0000, 0x1f00_0000)];
                    tree.at("memory@40000000").set("reg", two);
                },
                "NODE: PROPERTY is /memory@40000000, whose reg has 2 ranges instead of one: give \
                 each a node of its own",
            ),
            (
                |tree, _| tree.at("memory@40000000").set("reg", Reg(0x4000_0800, 0x3dff_f000)),
                "NODE: PROPERTY: tagged memory 0x40000800..0x7dfff800 is not aligned to 4 KiB: \
                 begin and end it on a multiple of 0x1000",
            ),
            (
                |tree, _| tree.at("memory@40000000").set("reg", Reg(0x4000_0000, 0x3d00_0000)),
                "NODE: PROPERTY: storage length 0x1f00000 times 32 is not the tagged length \
                 0x3d000000: correct reg of this node or of the memory node",
            ),
        ],
    );
    broken(
        &[&V3],
        &[
            (
                |tree, _| tree.at("memory@7e000000").set("status", "disabled"),
                "NODE: reg 0x7e000000..0x7ff00000 does not lie in memory nodes: 0x7e000000 is in \
                 none that is enabled; correct one of them",
            ),
            (
                |tree, board| tree.at(board.tags).set("storage-base", [0x4000_0000u32]),
                "NODE: tagged-memory says Linux RFC v3, storage-base says Google: remove one of \
                 them",
            ),
            (
                |tree, board| tree.at(board.tags).set("memory", [0x8001u32]),
                "NODE: tagged-memory says Linux RFC v3, memory says Linux RFC v1/v2: remove one \
                 of them",
            ),
        ],
    );
    broken(
        &[&V1],
        &[
            (
                |tree, _| {
                    let tags = tree.remove("metadata@7e000000");
                    tree.at("reserved-memory").add(tags);
                },
                "/reserved-memory/metadata@7e000000: compatible arm,mte-tag-storage with memory \
                 (Linux RFC v1/v2), but no child of the root: move it there, or write \
                 tagged-memory for memory",
            ),
            (
                |tree, _| {
                    let tags = tree.remove("metadata@7e000000");
                    tree.add(node("soc").with("ranges", ()).child(tags));
                },
                "/soc/metadata@7e000000: compatible arm,mte-tag-storage with memory (Linux RFC \
                 v1/v2), but no child of the root: move it there, or write tagged-memory for memory",
            ),
            (
                |tree, board| tree.at(board.tags).set("storage-base", [0x4000_0000u32]),
                "NODE: memory says Linux RFC v1/v2, storage-base says Google: remove one of them",
            ),
        ],
    );
}

/// The rules of Google's dialect, whose tagged memory begins at an address.
#[test]
fn p9_each_rule_of_googles_dialect_broken_once_names_node_property_and_value() {
    broken(
        &[&GOOGLE],
        &[
            (
                |tree, board| tree.at(board.tags).set("storage-base", ()),
                "NODE: storage-base has 0 bytes, but is one address of 4 or 8",
            ),
            (
                |tree, board| tree.at(board.tags).set("storage-base", [0u32, 0, 0]),
                "NODE: storage-base has 12 bytes, but is one address of 4 or 8",
            ),
            (
                |tree, board| tree.at(board.tags).set("storage-base", [0x4000_0800u32]),
                "NODE: storage-base: tagged memory 0x40000800..0x7e000800 is not aligned to 4 KiB: \
                 begin and end it on a multiple of 0x1000",
            ),
            (
                |tree, board| {
                    tree.at(board.tags).set("storage-base", [0xffff_ffffu32, 0xffff_f000]);
                },
                "NODE: storage-base 0xfffffffffffff000 + 0x3e000000 wraps around",
            ),
            (
                // 32 times the storage does not fit 64 bits.
                |tree, board| {
                    tree.at(board.tags).set("reg", Reg(0, 1 << 60));
                },
                "NODE: storage-base 0x40000000 + 0xffffffffffffffff wraps around",
            ),
            (
                // A storage twice as long as memory has tags for.
                |tree, board| {
                    tree.at(board.tags).set("reg", Reg(0x3000_0000, 0x3e0_0000));
                    tree.add(memory("memory@30000000", Reg(0x3000_0000, 0x1000_0000), 5));
                },
                "NODE: storage-base 0x40000000..0xbc000000 does not lie in memory nodes: \
                 0x80000000 is in none that is enabled; correct one of them",
            ),
            (
                |tree, board| tree.at(board.tags).set("storage-base", [0x3000_0000u32]),
                "NODE: storage-base 0x30000000..0x6e000000 does not lie in memory nodes: \
                 0x30000000 is in none that is enabled; correct one of them",
            ),
            (
                // A hole between two memory nodes.
                |tree, _| {
                    tree.at("memory@40000000").set("reg", Reg(0x4000_0000, 0x1000_0000));
                    tree.add(memory("memory@50001000", Reg(0x5000_1000, 0x2fff_f000), 5));
                },
                "NODE: storage-base 0x40000000..0x7e000000 does not lie in memory nodes: \
                 0x50000000 is in none that is enabled; correct one of them",
            ),
            (
                |tree, _| tree.at("memory@40000000").set("status", "disabled"),
                "NODE: reg 0x7e000000..0x7ff00000 does not lie in memory nodes: 0x7e000000 is in \
                 none that is enabled; correct one of them",
            ),
            (
                // The storage reaches into memory that it holds the tags of by a page.
                |tree, board| tree.at(board.tags).set("storage-base", [0x4000_1000u32]),
                "NODE: reg: tag storage 0x7e000000..0x7ff00000 overlaps its own tagged memory \
                 0x40001000..0x7e001000: end the tagged memory before it: tag storage has no tags",
            ),
            (
                // A node that says so of a page of the tagged memory.
                |tree, _| {
                    tree.add(memory("memory@7dfff000", Reg(0x7dff_f000, 0x201000), 5));
                    tree.at("memory@7dfff000").set("arm,no-mte", ());
                },
                "NODE: storage-base 0x40000000..0x7e000000 overlaps /memory@7dfff000, which says \
                 arm,no-mte: correct one of them",
            ),
        ],
    );
}

/// Two regions of two dialects that overlap.
#[test]
fn p9_regions_of_different_dialects_may_not_overlap() {
    let mut tree = virt();
    let mut second = virt_google().at("reserved-memory").remove("tags@7e000000");
    second.set("reg", Reg(0x7e00_0000, 0x1000));
    second.set("storage-base", [0x7e10_0000u32]);
    tree.at("reserved-memory").add(second.clone().renamed("second"));
    assert_eq!(
        regions(&tree.blob()).unwrap_err().to_string(),
        "/reserved-memory/second: reg 0x7e000000..0x7e001000 overlaps reg 0x7e000000..0x7ff00000 \
         of /reserved-memory/tags@7e000000: correct one of them"
    );
    second.set("reg", Reg(0x7ff0_0000, 0x1000));
    second.set("storage-base", [0x5000_0000u32]);
    let mut tree = virt();
    tree.at("reserved-memory").add(second.clone().renamed("second"));
    assert_eq!(
        regions(&tree.blob()).unwrap_err().to_string(),
        "/reserved-memory/second: storage-base 0x50000000..0x50020000 overlaps tagged-memory \
         0x40000000..0x7e000000 of /reserved-memory/tags@7e000000: correct one of them"
    );
    let mut tree = virt_v1();
    tree.add(memory("memory@7ff00000", Reg(0x7ff0_0000, 0x10_0000), 5));
    tree.at("reserved-memory").add(second.renamed("second"));
    assert_eq!(
        regions(&tree.blob()).unwrap_err().to_string(),
        "/metadata@7e000000: memory 0x40000000..0x7e000000 overlaps storage-base \
         0x50000000..0x50020000 of /reserved-memory/second: correct one of them"
    );
}

/// The rules that concern two regions or all of them.
#[test]
fn p9_regions_may_not_overlap_and_are_at_most_32() {
    type Break = fn(&mut Tree);
    let cases: &[(Break, &str)] = &[
        (
            // Storage of both at one place.
            |tree| {
                tree.at("reserved-memory/tags@8fc00000").set("reg", Reg(0x8_fa00_0000, 0x3c0_0000));
            },
            "/reserved-memory/tags@8fc00000: reg 0x8fa000000..0x8fdc00000 overlaps reg \
             0x8f8000000..0x8fc000000 of /reserved-memory/tags@8f8000000: correct one of them",
        ),
        (
            // Both regions hold the tags of one memory node.
            |tree| {
                tree.at("reserved-memory/tags@8fc00000").set("reg", Reg(0x8_fc00_0000, 0x400_0000));
                tree.at("reserved-memory/tags@8fc00000").set("tagged-memory", [1u32]);
            },
            "/reserved-memory/tags@8fc00000: tagged-memory 0x80000000..0x100000000 overlaps \
             tagged-memory 0x80000000..0x100000000 of /reserved-memory/tags@8f8000000: correct one of them",
        ),
        (
            // The second's storage lies in what the first holds the tags of.
            |tree| {
                tree.at("reserved-memory/tags@8fc00000").set("reg", Reg(0x9000_0000, 0x3c0_0000));
            },
            "/reserved-memory/tags@8fc00000: reg 0x90000000..0x93c00000 overlaps tagged-memory \
             0x80000000..0x100000000 of /reserved-memory/tags@8f8000000: correct one of them",
        ),
        (
            // The first's storage lies in what the second holds the tags of.
            |tree| {
                tree.at("reserved-memory/tags@8f8000000")
                    .set("reg", Reg(0x8_9000_0000, 0x400_0000));
            },
            "/reserved-memory/tags@8fc00000: tagged-memory 0x880000000..0x8f8000000 overlaps reg \
             0x890000000..0x894000000 of /reserved-memory/tags@8f8000000: correct one of them",
        ),
    ];
    for (wreck, message) in cases {
        let mut tree = fvp();
        wreck(&mut tree);
        assert_eq!(regions(&tree.blob()).unwrap_err().to_string(), *message);
    }
    assert_eq!(
        regions(&many(33).blob()).unwrap_err().to_string(),
        "/reserved-memory/tags@10020000: compatible arm,mte-tag-storage more than 32 times: \
         join nodes that touch, or disable some"
    );
    // Half of 2^31 frames twice.
    let mut tree = node("").with("#address-cells", [2u32]).with("#size-cells", [2u32]);
    let storage: u64 = 1 << 42;
    tree.add(memory("memory@1", Reg(1 << 50, storage * 32), 1));
    tree.add(memory("memory@2", Reg(1 << 51, storage * 32), 2));
    tree.add(memory("memory@3", Reg(1 << 44, storage * 2), 3));
    tree.add(
        node("reserved-memory")
            .with("#address-cells", [2u32])
            .with("#size-cells", [2u32])
            .with("ranges", ())
            .child(tags("a", Reg(1 << 44, storage), 0x1000, 1))
            .child(tags("b", Reg((1 << 44) + storage, storage), 0x1000, 2)),
    );
    assert_eq!(
        regions(&tree.blob()).unwrap_err().to_string(),
        "/reserved-memory/b: reg: 2147483648 frames are not fewer than 2^31: describe less tag \
         storage"
    );
}
