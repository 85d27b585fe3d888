// SPDX-License-Identifier: MIT OR Apache-2.0
//! The binding of tag storage: what good trees give, and the message of every rule broken once.

mod trees;

use tagstash::addr::{PhysAddr, PhysRange};
use tagstash::tags::binding::regions;
use tagstash::tags::geometry::Region;
use trees::{Reg, Tree, fvp, node, virt};

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

/// Each rule broken once in an otherwise good tree, and what is said of it.
#[test]
fn p9_each_rule_broken_once_names_node_property_and_value() {
    type Break = fn(&mut Tree);
    let cases: &[(Break, &str)] = &[
        // The node and where it stands.
        (
            |tree| {
                let node = tree.at("reserved-memory").remove("tags@7e000000");
                tree.add(node);
            },
            "/tags@7e000000: compatible arm,mte-tag-storage, but no child of /reserved-memory",
        ),
        (
            |tree| {
                let tags = tree.at("reserved-memory").remove("tags@7e000000");
                tree.at("reserved-memory").add(node("inner").child(tags));
            },
            "/reserved-memory/inner/tags@7e000000: compatible arm,mte-tag-storage, but no child of \
             /reserved-memory",
        ),
        (
            |tree| tree.at("reserved-memory").unset("ranges"),
            "/reserved-memory: ranges is missing; it must be there and empty",
        ),
        (
            |tree| tree.at("reserved-memory").set("ranges", [0u32; 6]),
            "/reserved-memory: ranges has 24 bytes, but must be empty",
        ),
        (
            |tree| tree.at("reserved-memory").set("#address-cells", [3u32]),
            "/reserved-memory: #address-cells = 3, but only 1 and 2 are possible",
        ),
        (
            |tree| tree.at("reserved-memory").set("#size-cells", [0u32]),
            "/reserved-memory: #size-cells = 0, but only 1 and 2 are possible",
        ),
        (|tree| tree.unset("#size-cells"), "/: #size-cells is missing"),
        // The other dialects.
        (
            |tree| {
                tree.at(TAGS).unset("tagged-memory");
                tree.at(TAGS).set("memory", [0x8001u32]);
            },
            "/reserved-memory/tags@7e000000: memory says that this is the Linux RFC v1/v2 \
             dialect; only Linux RFC v3 (tagged-memory) is read yet",
        ),
        (
            |tree| {
                let mut node = tree.at("reserved-memory").remove("tags@7e000000");
                node.unset("tagged-memory");
                node.set("memory", [0x8001u32]);
                tree.add(node);
            },
            "/tags@7e000000: memory says that this is the Linux RFC v1/v2 dialect; only Linux \
             RFC v3 (tagged-memory) is read yet",
        ),
        (
            |tree| {
                tree.at(TAGS).unset("tagged-memory");
                tree.at(TAGS).set("storage-base", [0u32, 0x4000_0000]);
            },
            "/reserved-memory/tags@7e000000: storage-base says that this is the Google dialect; \
             only Linux RFC v3 (tagged-memory) is read yet",
        ),
        // reg.
        (|tree| tree.at(TAGS).unset("reg"), "/reserved-memory/tags@7e000000: reg is missing"),
        (
            |tree| tree.at(TAGS).set("reg", ()),
            "/reserved-memory/tags@7e000000: reg has 0 bytes where 16 make an entry",
        ),
        (
            |tree| tree.at(TAGS).set("reg", [0u32, 0x7e00_0000, 0x1f0_0000]),
            "/reserved-memory/tags@7e000000: reg has 12 bytes where 16 make an entry",
        ),
        (
            |tree| tree.at(TAGS).set("reg", [Reg(0x7e00_0000, 0x1000), Reg(0x7e00_1000, 0x1000)]),
            "/reserved-memory/tags@7e000000: reg has 2 ranges, but tag storage is one",
        ),
        (
            |tree| tree.at(TAGS).set("reg", Reg(0xffff_ffff_ffff_f000, 0x1f0_0000)),
            "/reserved-memory/tags@7e000000: reg 0xfffffffffffff000 + 0x1f00000 wraps around",
        ),
        (
            |tree| tree.at(TAGS).set("reg", Reg(0x7e00_0000, 0)),
            "/reserved-memory/tags@7e000000: reg: tag storage has length 0",
        ),
        (
            |tree| tree.at(TAGS).set("reg", Reg(0x7e00_0800, 0x1f0_0000)),
            "/reserved-memory/tags@7e000000: reg: tag storage 0x7e000800..0x7ff00800 is not \
             aligned to 4 KiB",
        ),
        (
            |tree| tree.at(TAGS).set("reg", Reg(0x7e10_0001, 0x1f0_0000)),
            "/reserved-memory/tags@7e000000: reg: tag storage 0x7e100001..0x80000001 is not \
             aligned to 4 KiB",
        ),
        (
            |tree| tree.at(TAGS).set("reg", Reg(0x7e20_0000, 0x1f0_0000)),
            "/reserved-memory/tags@7e000000: reg 0x7e200000..0x80100000 does not lie in a memory \
             node",
        ),
        (
            |tree| tree.at("memory@7e000000").set("status", "disabled"),
            "/reserved-memory/tags@7e000000: reg 0x7e000000..0x7ff00000 does not lie in a memory \
             node",
        ),
        // block-size.
        (
            |tree| tree.at(TAGS).unset("block-size"),
            "/reserved-memory/tags@7e000000: block-size is missing",
        ),
        (
            |tree| tree.at(TAGS).set("block-size", [0u32, 0x1000]),
            "/reserved-memory/tags@7e000000: block-size has 8 bytes, but is one number of 4",
        ),
        (
            |tree| tree.at(TAGS).set("block-size", [0u32]),
            "/reserved-memory/tags@7e000000: block-size 0x0 must be a multiple of \
             0x1000 and not 0",
        ),
        (
            |tree| tree.at(TAGS).set("block-size", [0x1800u32]),
            "/reserved-memory/tags@7e000000: block-size 0x1800 must be a multiple of \
             0x1000 and not 0",
        ),
        (
            |tree| tree.at(TAGS).set("block-size", [0x3000u32]),
            "/reserved-memory/tags@7e000000: block-size: storage length 0x1f00000 is no multiple \
             of block-size 0x3000",
        ),
        // tagged-memory.
        (
            |tree| tree.at(TAGS).unset("tagged-memory"),
            "/reserved-memory/tags@7e000000: tagged-memory is missing",
        ),
        (
            |tree| tree.at(TAGS).set("tagged-memory", [0x8001u32, 0x8002]),
            "/reserved-memory/tags@7e000000: tagged-memory has 8 bytes, but is one number of 4",
        ),
        (
            |tree| tree.at(TAGS).set("tagged-memory", [0x9999u32]),
            "/reserved-memory/tags@7e000000: tagged-memory 0x9999 is no node's phandle",
        ),
        (
            |tree| {
                tree.at("memory@40000000").set("phandle", [0u32]);
                tree.at(TAGS).set("tagged-memory", [0u32]);
            },
            "/reserved-memory/tags@7e000000: tagged-memory 0x0 is no node's phandle",
        ),
        (
            |tree| {
                tree.at("cpus/cpu@1").set("phandle", [0x8003u32]);
                tree.at(TAGS).set("tagged-memory", [0x8003u32]);
            },
            "/reserved-memory/tags@7e000000: tagged-memory 0x8003 is cpu@1, which is no enabled \
             memory node",
        ),
        (
            |tree| tree.at("memory@40000000").set("status", "disabled"),
            "/reserved-memory/tags@7e000000: tagged-memory 0x8001 is memory@40000000, which is no \
             enabled memory node",
        ),
        (
            |tree| {
                tree.at("memory@40000000")
                    .set("reg", [Reg(0x4000_0000, 0x1f00_0000), Reg(0x5f00_0000, 0x1f00_0000)]);
            },
            "/reserved-memory/tags@7e000000: tagged-memory is /memory@40000000, whose reg has 2 \
             ranges instead of one",
        ),
        (|tree| tree.at("memory@40000000").unset("reg"), "/memory@40000000: reg is missing"),
        (
            |tree| tree.at("memory@40000000").set("reg", Reg(0x4000_0800, 0x3dff_f000)),
            "/reserved-memory/tags@7e000000: tagged-memory: tagged memory 0x40000800..0x7dfff800 \
             is not aligned to 4 KiB",
        ),
        (
            |tree| tree.at("memory@40000000").set("reg", Reg(0x4000_0000, 0x3d00_0000)),
            "/reserved-memory/tags@7e000000: tagged-memory: storage length 0x1f00000 times 32 is \
             not the tagged length 0x3d000000",
        ),
        (
            |tree| tree.at("memory@40000000").set("reg", Reg(0x4200_0000, 0x3e00_0000)),
            "/reserved-memory/tags@7e000000: reg: tag storage 0x7e000000..0x7ff00000 overlaps its \
             own tagged memory 0x42000000..0x80000000",
        ),
        // The blob.
        (
            |tree| tree.set("#address-cells", [0u8, 2]),
            "structure block at 0x8: #address-cells and #size-cells have four bytes",
        ),
    ];
    for (wreck, message) in cases {
        let mut tree = virt();
        wreck(&mut tree);
        match regions(&tree.blob()) {
            Ok(regions) => panic!("{regions:?} instead of: {message}"),
            Err(error) => assert_eq!(error.to_string(), *message),
        }
    }
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
             0x8f8000000..0x8fc000000 of /reserved-memory/tags@8f8000000",
        ),
        (
            // Both regions hold the tags of one memory node.
            |tree| {
                tree.at("reserved-memory/tags@8fc00000").set("reg", Reg(0x8_fc00_0000, 0x400_0000));
                tree.at("reserved-memory/tags@8fc00000").set("tagged-memory", [1u32]);
            },
            "/reserved-memory/tags@8fc00000: tagged-memory 0x80000000..0x100000000 overlaps \
             tagged-memory 0x80000000..0x100000000 of /reserved-memory/tags@8f8000000",
        ),
        (
            // The second's storage lies in what the first holds the tags of.
            |tree| {
                tree.at("reserved-memory/tags@8fc00000").set("reg", Reg(0x9000_0000, 0x3c0_0000));
            },
            "/reserved-memory/tags@8fc00000: reg 0x90000000..0x93c00000 overlaps tagged-memory \
             0x80000000..0x100000000 of /reserved-memory/tags@8f8000000",
        ),
        (
            // The first's storage lies in what the second holds the tags of.
            |tree| {
                tree.at("reserved-memory/tags@8f8000000")
                    .set("reg", Reg(0x8_9000_0000, 0x400_0000));
            },
            "/reserved-memory/tags@8fc00000: tagged-memory 0x880000000..0x8f8000000 overlaps reg \
             0x890000000..0x894000000 of /reserved-memory/tags@8f8000000",
        ),
    ];
    for (wreck, message) in cases {
        let mut tree = fvp();
        wreck(&mut tree);
        assert_eq!(regions(&tree.blob()).unwrap_err().to_string(), *message);
    }
    assert_eq!(
        regions(&many(33).blob()).unwrap_err().to_string(),
        "/reserved-memory/tags@10020000: compatible arm,mte-tag-storage more than 32 times"
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
        "/reserved-memory/b: reg: 2147483648 frames are not fewer than 2^31"
    );
}
