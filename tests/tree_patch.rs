// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's copy of the device tree, read back.

mod trees;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};
use std::collections::BTreeMap;
use tagstash::addr::{PhysAddr, PhysRange};
use tagstash::dtb::patch::{GuestPlan, PatchError, guest_tree};
use tagstash::dtb::read::{BootTree, TreeError, read};
use tagstash::psci::Suspend;
use tagstash::tags::binding::regions;
use trees::{Reg, Tree, fvp, node, virt, virt_google, virt_v1};

const STORAGE: (u64, u64) = (0x7e00_0000, 0x1f0_0000);
const SHIM: (u64, u64) = (0x4020_0000, 0x20_0000);

fn range((start, length): (u64, u64)) -> PhysRange {
    PhysRange::new(PhysAddr(start), length).unwrap()
}

fn patch(tree: &Tree, no_map: &[(u64, u64)]) -> Vec<u8> {
    patch_blob(&tree.blob(), no_map)
}

fn patch_blob(blob: &[u8], no_map: &[(u64, u64)]) -> Vec<u8> {
    let no_map: Vec<PhysRange> = no_map.iter().copied().map(range).collect();
    guest_tree(blob, &GuestPlan { no_map: &no_map, ..GuestPlan::default() }).unwrap()
}

/// All properties of a tree by path.
fn flat(blob: &[u8]) -> BTreeMap<String, Vec<u8>> {
    fn walk(path: &str, node: FdtNode<'_>, out: &mut BTreeMap<String, Vec<u8>>) {
        for property in node.properties() {
            let name = format!("{path}:{}", property.name());
            assert_eq!(out.insert(name, property.value().to_vec()), None);
        }
        for child in node.children() {
            walk(&format!("{path}/{}", child.name()), child, out);
        }
    }
    let mut out = BTreeMap::new();
    walk("", Fdt::new(blob).unwrap().root(), &mut out);
    out
}

/// What the second tree has that the first has not, and the other way round, as paths of
/// properties with the values of the second.
fn difference(old: &[u8], new: &[u8]) -> (BTreeMap<String, Vec<u8>>, Vec<String>) {
    let (old, mut new) = (flat(old), flat(new));
    let gone = old.keys().filter(|path| !new.contains_key(*path)).cloned().collect();
    new.retain(|path, value| old.get(path) != Some(value));
    (new, gone)
}

fn cells(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

/// Every change to a board's tree, and nothing else.
#[test]
fn the_guest_sees_the_board_without_shim_storage_and_modules() {
    let no_map = [range(STORAGE), range(SHIM)];
    let plan = GuestPlan {
        no_map: &no_map,
        bootargs: Some("console=ttyAMA0"),
        initrd: Some(range((0x4a00_0000, 0x12_3456))),
        ..GuestPlan::default()
    };
    for nops in [false, true] {
        let old = virt().flatten(&[(0x6000_0000, 0x1000)], false);
        let new = guest_tree(&virt().flatten(&[(0x6000_0000, 0x1000)], nops), &plan).unwrap();
        let (added, gone) = difference(&old, &new);
        let expected: BTreeMap<String, Vec<u8>> = [
            ("/chosen:bootargs", b"console=ttyAMA0\0".to_vec()),
            ("/chosen:linux,initrd-start", cells(&[0x4a00_0000])),
            ("/chosen:linux,initrd-end", cells(&[0x4a12_3456])),
            ("/hypervisor:compatible", b"tagstash,tagstash-1\0".to_vec()),
            ("/hypervisor:method", b"hvc\0".to_vec()),
            ("/reserved-memory/reserved@40200000:no-map", vec![]),
            ("/reserved-memory/reserved@40200000:reg", cells(&[SHIM.0, SHIM.1])),
            ("/reserved-memory/reserved@7e000000:no-map", vec![]),
            ("/reserved-memory/reserved@7e000000:reg", cells(&[STORAGE.0, STORAGE.1])),
        ]
        .map(|(path, value)| (path.to_string(), value))
        .into();
        assert_eq!(added, expected);
        let tags = "/reserved-memory/tags@7e000000";
        let expected_gone = [
            "/chosen/module@0x46000000:bootargs".to_string(),
            "/chosen/module@0x46000000:compatible".to_string(),
            "/chosen/module@0x46000000:reg".to_string(),
            "/chosen/module@0x4a000000:compatible".to_string(),
            "/chosen/module@0x4a000000:reg".to_string(),
            format!("{tags}:block-size"),
            format!("{tags}:compatible"),
            format!("{tags}:reg"),
            format!("{tags}:reusable"),
            format!("{tags}:tagged-memory"),
        ];
        assert_eq!(gone, expected_gone);

        let (before, after) = (read(&old).unwrap(), read(&new).unwrap());
        let guest = BootTree {
            no_map: vec![range((0x7ff0_0000, 0x10_0000)), range(SHIM), range(STORAGE)],
            tag_storage: vec![],
            kernel: None,
            bootargs: Some("console=ttyAMA0".into()),
            ..before
        };
        assert_eq!(after, guest);
        assert_eq!(regions(&new), Ok(vec![]));
    }
}

#[test]
fn the_copy_is_version_17_padded_to_8_and_keeps_the_boot_cpu() {
    let mut tree = virt();
    // All lengths of the strings block.
    for length in 1..16 {
        tree.set(&"x".repeat(length), ());
        let new = patch(&tree, &[STORAGE]);
        let field = |index: usize| u32::from_be_bytes(new[index * 4..][..4].try_into().unwrap());
        assert_eq!(new.len() % 8, 0);
        assert_eq!(field(1) as usize, new.len());
        assert_eq!((field(5), field(6), field(7)), (17, 16, 3));
    }
}

/// The copy of the copy is the copy: nothing is added twice, and the old shim's nodes go.
#[test]
fn patching_twice_changes_nothing_more() {
    let once = patch(&fvp(), &[(0x8_f800_0000, 0x800_0000)]);
    assert_eq!(flat(&patch_blob(&once, &[(0x8_f800_0000, 0x800_0000)])), flat(&once));
}

#[test]
fn without_a_plan_bootargs_and_ramdisk_stay() {
    let mut tree = virt();
    tree.at("chosen").set("linux,initrd-start", [0x4800_0000u32]);
    let new = flat(&patch(&tree, &[]));
    assert_eq!(new["/chosen:bootargs"], b"quiet tagstash.log=debug\0");
    assert_eq!(new["/chosen:linux,initrd-start"], 0x4800_0000u32.to_be_bytes());
    assert!(!new.contains_key("/chosen:linux,initrd-end"));
}

#[test]
fn old_values_of_bootargs_and_ramdisk_are_replaced() {
    let mut tree = virt();
    tree.at("chosen").set("linux,initrd-start", [0x4800_0000u32]);
    tree.at("chosen").set("linux,initrd-end", [0x4800_1000u32]);
    let plan = GuestPlan {
        bootargs: Some("a b\0c"),
        initrd: Some(range((0x8_0000_0000, 0x1000))),
        ..GuestPlan::default()
    };
    let new = flat(&guest_tree(&tree.blob(), &plan).unwrap());
    assert_eq!(new["/chosen:bootargs"], b"a b\0");
    assert_eq!(new["/chosen:linux,initrd-start"], cells(&[0x8_0000_0000]));
    assert_eq!(new["/chosen:linux,initrd-end"], cells(&[0x8_0000_1000]));
    assert_eq!(new["/chosen:kaslr-seed"], [0, 0, 0, 7, 0, 0, 0, 8]);
    assert_eq!(new["/chosen:rng-seed"], [1, 2, 3, 4, 5]);
}

/// A tree without /chosen and /reserved-memory gets both, with the root's cells.
#[test]
fn what_is_missing_is_made() {
    for (address, size) in [(1u32, 1u32), (1, 2), (2, 1), (2, 2)] {
        let tree = node("").with("#address-cells", [address]).with("#size-cells", [size]);
        let plan = GuestPlan {
            no_map: &[range(SHIM)],
            bootargs: Some("x"),
            initrd: Some(range((0x4000_0000, 1))),
            ..GuestPlan::default()
        };
        let new = guest_tree(&tree.blob(), &plan).unwrap();
        let properties = flat(&new);
        assert_eq!(properties["/reserved-memory:#address-cells"], address.to_be_bytes());
        assert_eq!(properties["/reserved-memory:#size-cells"], size.to_be_bytes());
        assert_eq!(properties["/reserved-memory:ranges"], []);
        assert_eq!(properties["/chosen:bootargs"], b"x\0");
        let guest = read(&new).unwrap();
        assert_eq!(guest.no_map, [range(SHIM)]);
        assert_eq!(guest.ramdisk, plan.initrd);
    }
}

/// Older kernels keep a range mapped that is reserved in another way too.
#[test]
fn what_is_not_mapped_is_reserved_by_its_node_only() {
    let mut tree = virt();
    let reserved = tree.at("reserved-memory");
    reserved.add(node("inside").with("reg", Reg(0x7e10_0000, 0x1000)).with("phandle", [5u32]));
    reserved.add(node("both").with("reg", [Reg(0x7dff_f000, 0x2000), Reg(0x5100_0000, 0x1000)]));
    reserved.add(node("off").with("reg", Reg(0x7e10_0000, 0x1000)).with("status", "disabled"));
    reserved.add(node("over").with("reg", Reg(0x4010_0000, 0x100_0000)).with("no-map", ()));
    let reservations = [
        (0x4000_0000, 0x10_0000),
        (0x4018_0000, 0x10_0000),
        (0x4020_0000, 0x20_0000),
        (0x4028_0000, 0x10),
        (0x4038_0000, 0x4000_0000),
    ];
    let new = patch_blob(&tree.flatten(&reservations, false), &[STORAGE, SHIM]);
    let guest = read(&new).unwrap();
    let expected = [
        (0x4000_0000, 0x10_0000),
        (0x4018_0000, 0x8_0000),
        (0x4040_0000, 0x7e00_0000 - 0x4040_0000),
        (0x7ff0_0000, 0x8038_0000 - 0x7ff0_0000),
        (0x5000_0000, 0x1_0000),
        (0x7dff_f000, 0x1000),
        (0x5100_0000, 0x1000),
    ];
    assert_eq!(guest.reserved, expected.map(range));
    let expected = [
        (0x7ff0_0000, 0x10_0000),
        (0x4010_0000, 0x10_0000),
        (0x4040_0000, 0xd0_0000),
        SHIM,
        STORAGE,
    ];
    assert_eq!(guest.no_map, expected.map(range));
    assert!(!flat(&new).contains_key("/reserved-memory/inside:reg"));
    assert!(flat(&new).contains_key("/reserved-memory/off:reg"));
}

/// Reservations over a part of the storage, which firmware makes so that nobody uses it, in the
/// memory reservation block and as nodes, in every dialect.
#[test]
fn storage_of_every_dialect_is_reserved_by_its_node_only() {
    for mut tree in [virt(), virt_v1(), virt_google()] {
        let belt = node("belt").with("reg", Reg(0x7df0_0000, 0x20_0000)).with("no-map", ());
        tree.at("reserved-memory").add(belt);
        let reservations = [(0x7d00_0000, 0x200_0000), (0x7e80_0000, 0x1000)];
        let blob = tree.flatten(&reservations, false);
        let storage: Vec<(u64, u64)> = read(&blob)
            .unwrap()
            .tag_storage
            .iter()
            .map(|range| (range.start().0, range.len()))
            .collect();
        assert_eq!(storage, [STORAGE]);
        let new = patch_blob(&blob, &storage);
        let guest = read(&new).unwrap();
        let reserved = [(0x7d00_0000, 0x100_0000), (0x5000_0000, 0x1_0000)];
        assert_eq!(guest.reserved, reserved.map(range));
        let no_map = [(0x7ff0_0000, 0x10_0000), (0x7df0_0000, 0x10_0000), STORAGE];
        assert_eq!(guest.no_map, no_map.map(range));
        assert_eq!((guest.tag_storage, regions(&new)), (vec![], Ok(vec![])));
    }
}

/// Linux takes what is in `/reserved-memory` for CPU addresses in the root's cells, and others
/// translate: the copy means the same to both.
#[test]
fn reserved_memory_gets_cpu_addresses_in_the_roots_cells() {
    let mut tree = virt();
    let reserved = tree.at("reserved-memory");
    reserved.set("#address-cells", [1u32]);
    reserved.set("#size-cells", [1u32]);
    reserved.set("ranges", [0u32, 0, 0x4000_0000, 0x4000_0000, 0x8000_0000, 9, 0, 0x1000]);
    // What is wrong in a node that goes, or that is disabled, is no matter.
    reserved.at("tags@7e000000").set("reg", [1u32]);
    reserved.at("secure@7ff00000").set("reg", [0x3ff0_0000u32, 0x10_0000]);
    reserved.at("buffer@50000000").set("reg", [0x1000_0000u32, 0x1_0000, 0x8000_0000, 0x1000]);
    reserved.at("buffer@50000000").set("phandle", [77u32]);
    reserved.at("pool").set("size", [0x10_0000u32]);
    reserved.at("pool").set("alignment", [0x2000u32]);
    reserved.at("pool").set("alloc-ranges", [0x2000_0000u32, 0x1000_0000]);
    reserved.add(node("off").with("reg", [0xf000_0000u32, 1]).with("status", "disabled"));
    let old = tree.blob();
    let new = patch(&tree, &[STORAGE, SHIM]);
    let properties = flat(&new);
    let property = |name: &str| properties[&format!("/reserved-memory{name}")].clone();
    assert_eq!(property(":#address-cells"), [0, 0, 0, 2]);
    assert_eq!(property(":#size-cells"), [0, 0, 0, 2]);
    assert_eq!(property(":ranges"), []);
    assert_eq!(property("/secure@7ff00000:reg"), cells(&[0x7ff0_0000, 0x10_0000]));
    assert_eq!(
        property("/buffer@50000000:reg"),
        cells(&[0x5000_0000, 0x1_0000, 0x9_0000_0000, 0x1000])
    );
    assert_eq!(property("/buffer@50000000:phandle"), [0, 0, 0, 77]);
    assert_eq!(property("/pool:size"), cells(&[0x10_0000]));
    assert_eq!(property("/pool:alignment"), cells(&[0x2000]));
    assert_eq!(property("/pool:alloc-ranges"), cells(&[0x6000_0000, 0x1000_0000]));
    assert_eq!(property("/reserved@40200000:reg"), cells(&[SHIM.0, SHIM.1]));
    assert_eq!(property("/reserved@7e000000:reg"), cells(&[STORAGE.0, STORAGE.1]));
    let (before, after) = (read(&old).unwrap(), read(&new).unwrap());
    assert_eq!(after.reserved, before.reserved);
    assert_eq!(after.no_map, [before.no_map, vec![range(SHIM), range(STORAGE)]].concat());
    assert_eq!(flat(&patch_blob(&new, &[STORAGE, SHIM])), properties);

    // From two cells to one, where the numbers fit.
    let mut tree = node("").with("#address-cells", [1u32]).with("#size-cells", [1u32]);
    let buffer = node("buffer").with("reg", Reg(0x5000_0000, 0x1000));
    let reserved = node("reserved-memory").with("#address-cells", [2u32]);
    tree.add(reserved.with("#size-cells", [2u32]).with("ranges", ()).child(buffer));
    let properties = flat(&patch(&tree, &[]));
    let expected = [0x5000_0000u32.to_be_bytes(), 0x1000u32.to_be_bytes()].concat();
    assert_eq!(properties["/reserved-memory/buffer:reg"], expected);
}

#[test]
fn ranges_that_overlap_or_touch_become_one_node_and_names_do_not_collide() {
    let mut tree = virt();
    tree.at("reserved-memory").add(node("reserved@60000000").with("size", [1u32, 1]));
    tree.at("reserved-memory").add(node("reserved-1@60000000").with("size", [1u32, 1]));
    let new = patch(
        &tree,
        &[(0x6000_2000, 0x1000), (0x6000_0000, 0x1000), (0x6000_1000, 0x1800), (0x6100_0000, 0)],
    );
    assert_eq!(read(&new).unwrap().no_map[1..], [range((0x6000_0000, 0x3000))]);
    assert_eq!(
        flat(&new)["/reserved-memory/reserved-2@60000000:reg"],
        cells(&[0x6000_0000, 0x3000])
    );
    assert_eq!(flat(&new)["/reserved-memory/reserved@60000000:size"], [0, 0, 0, 1, 0, 0, 0, 1]);
}

#[test]
fn another_hypervisor_makes_room() {
    let mut tree = virt();
    tree.add(
        node("hypervisor")
            .with("compatible", ["xen,xen-4.17", "xen,xen"])
            .with("reg", Reg(0x3800_0000, 0x1000))
            .child(node("uefi")),
    );
    tree.add(node("hypervisor@1"));
    let new = patch(&tree, &[]);
    let fdt = Fdt::new(&new).unwrap();
    assert!(fdt.find_node("/hypervisor@1").is_none());
    let node = fdt.find_node("/hypervisor").unwrap();
    assert_eq!(node.children().count(), 0);
    let names: Vec<String> =
        node.properties().map(|property| property.name().to_string()).collect();
    assert_eq!(names, ["compatible", "method"]);
}

#[test]
fn tag_storage_of_every_dialect_goes_disabled_or_not() {
    let mut tree = fvp();
    tree.at("reserved-memory/tags@8fc00000").set("status", "disabled");
    tree.add(node("metadata@1").with("compatible", "arm,mte-tag-storage"));
    tree.add(node("bus").child(node("metadata@2").with("compatible", "arm,mte-tag-storage")));
    let new = flat(&patch(&tree, &[]));
    assert!(new.keys().all(|path| !path.contains("tags") && !path.contains("metadata")), "{new:?}");
    assert!(new.contains_key("/memory@8f8000000:reg"));
}

/// A board with idle states of CPUs and of power domains: standby and powered down, in the original
/// format and, by their extended StateIDs, the other way round.
fn idle_board() -> Tree {
    let state = |name: &str, compatible: &str, parameter: u32, phandle: u32| {
        node(name)
            .with("compatible", compatible)
            .with("arm,psci-suspend-param", [parameter])
            .with("phandle", [phandle])
    };
    let mut tree = virt();
    tree.at("cpus").add(
        node("idle-states")
            .with("entry-method", "psci")
            .child(state("off", "arm,idle-state", 0x1_0000, 0x51))
            .child(state("retention", "arm,idle-state", 0x2, 0x52))
            .child(state("deep", "arm,idle-state", 0x4000_0003, 0x53))
            // Not entered by PSCI.
            .child(node("other").with("compatible", "arm,idle-state").with("phandle", [0x54u32])),
    );
    tree.at("cpus").add(
        node("domain-idle-states")
            .child(state("cluster-off", "domain-idle-state", 0x101_0000, 0x61))
            .child(state("cluster-retention", "domain-idle-state", 0x100_0000, 0x62)),
    );
    tree.at("cpus/cpu@0").set("cpu-idle-states", [0x51u32, 0x52, 0x53, 0x54]);
    tree.at("cpus/cpu@1").set("cpu-idle-states", [0x51u32, 0x53]);
    tree.at("psci").add(node("power-domain").with("domain-idle-states", [0x62u32, 0x61]));
    // No idle state, whatever its property is called.
    tree.add(node("clock").with("arm,psci-suspend-param", [0x1_0000u32]));
    tree
}

/// No state is left that CPU_SUSPEND refuses, and no hole in any list.
#[test]
fn idle_states_that_are_refused_go_with_what_refers_to_them() {
    let tree = idle_board();
    let old = tree.blob();
    for (suspend, gone, lists) in [
        (
            Suspend::Original,
            vec!["idle-states/off", "idle-states/deep", "domain-idle-states/cluster-off"],
            [Some(vec![0x52u32, 0x54]), None, Some(vec![0x62])],
        ),
        (
            Suspend::Extended,
            vec!["idle-states/deep"],
            [Some(vec![0x51, 0x52, 0x54]), Some(vec![0x51]), Some(vec![0x62, 0x61])],
        ),
        (
            Suspend::None,
            vec![
                "idle-states/off",
                "idle-states/retention",
                "idle-states/deep",
                "domain-idle-states/cluster-off",
                "domain-idle-states/cluster-retention",
            ],
            [Some(vec![0x54]), None, None],
        ),
    ] {
        let new = guest_tree(&old, &GuestPlan { suspend, ..GuestPlan::default() }).unwrap();
        let mut expected = flat(&guest_tree(&virt().blob(), &GuestPlan::default()).unwrap());
        for (path, value) in flat(&old) {
            let parts: Vec<&str> = path.split(':').collect();
            let is_gone = gone.iter().any(|state| parts[0] == format!("/cpus/{state}"));
            let is_list = parts[1].ends_with("idle-states");
            let is_ours = path.contains("idle-state") || path.contains("/clock:");
            if is_ours && !is_gone && !is_list {
                expected.insert(path, value);
            }
        }
        let places = ["/cpus/cpu@0:cpu", "/cpus/cpu@1:cpu", "/psci/power-domain:domain"];
        for (place, list) in places.into_iter().zip(lists) {
            if let Some(list) = list {
                let value = list.iter().flat_map(|phandle| phandle.to_be_bytes()).collect();
                expected.insert(format!("{place}-idle-states"), value);
            }
        }
        assert_eq!(flat(&new), expected, "{suspend:?}");
        let left = read(&new).unwrap().idle_states;
        let standby = |state: &Option<u32>| state.is_some_and(|state| suspend.is_standby(state));
        assert!(left.iter().all(standby), "{left:x?}");
    }
}

/// A list or a parameter of odd length: what can be told of it.
#[test]
fn idle_states_that_are_malformed_go_and_lists_keep_what_is_no_phandle() {
    let mut tree = idle_board();
    tree.at("cpus/idle-states/retention").set("arm,psci-suspend-param", [0u8, 0, 2]);
    tree.at("cpus/idle-states/off").unset("phandle");
    tree.at("cpus/cpu@1").set("cpu-idle-states", [0u8, 0, 0, 0x52, 0, 0, 0, 0x51, 0, 7]);
    let plan = GuestPlan { suspend: Suspend::Original, ..GuestPlan::default() };
    let new = flat(&guest_tree(&tree.blob(), &plan).unwrap());
    assert!(new.keys().all(|path| !path.contains("/retention") && !path.contains("/off")));
    assert_eq!(new["/cpus/cpu@1:cpu-idle-states"], [0, 0, 0, 0x51, 0, 7]);
    assert_eq!(new["/cpus/cpu@0:cpu-idle-states"], [0, 0, 0, 0x51, 0, 0, 0, 0x54]);
}

/// Names that the specification does not allow, but boards have.
#[test]
fn odd_names_survive() {
    let mut tree = virt();
    tree.set("a-property-of-more-than-thirty-one-characters!", [1u32]);
    tree.add(node("@0").child(node("two@at@signs")).child(node("a~node")).with("b", ()));
    tree.at("@0/a~node").set("c", "d");
    let new = patch(&tree, &[STORAGE]);
    let old = tree.blob();
    let fdt = Fdt::new_unchecked(&new);
    assert!(fdt.find_node("/@0/two@at@signs").is_some());
    let property = fdt.root().property("a-property-of-more-than-thirty-one-characters!");
    assert_eq!(property.unwrap().value(), [0, 0, 0, 1]);
    assert_eq!(read(&new).unwrap().memory, read(&old).unwrap().memory);
}

/// Each way in which no copy can be made, and what is said of it.
#[test]
fn p9_what_cannot_be_patched_is_named_with_its_values() {
    type Break = fn(&mut Tree);
    let cases: &[(Break, &str)] = &[
        (
            |tree| tree.at("reserved-memory").set("#address-cells", [1u32]),
            "/reserved-memory/secure@7ff00000: reg has 16 bytes where 12 make an entry",
        ),
        (
            |tree| {
                tree.at("reserved-memory").set("#size-cells", [1u32]);
                tree.at("reserved-memory/secure@7ff00000").set("reg", [0, 0x7ff0_0000u32, 1]);
                tree.at("reserved-memory/buffer@50000000").set("reg", [0, 0x5000_0000u32, 1]);
            },
            "/reserved-memory/pool: size has 8 bytes where 4 make an entry",
        ),
        (
            |tree| tree.at("reserved-memory").set("ranges", [0u32, 0, 0, 0, 0, 0x7ff0_0000]),
            "/reserved-memory/secure@7ff00000: reg 0x7ff00000..0x80000000 is in no entry of \
             ranges of /reserved-memory; add one, or make ranges empty",
        ),
        (
            |tree| {
                tree.at("reserved-memory").set("ranges", [0u32, 0, 0, 0, 1, 0]);
                tree.at("reserved-memory/pool").set("alloc-ranges", Reg(0xffff_f000, 0x2000));
            },
            "/reserved-memory/pool: alloc-ranges 0xfffff000..0x100001000 is in no entry of ranges \
             of /reserved-memory; add one, or make ranges empty",
        ),
        (
            |tree| tree.at("reserved-memory").set("#size-cells", [3u32]),
            "/reserved-memory: #size-cells = 3, but only 1 and 2 are possible",
        ),
        (
            |tree| tree.at("reserved-memory/secure@7ff00000").set("reg", [1u32]),
            "/reserved-memory/secure@7ff00000: reg has 4 bytes where 16 make an entry",
        ),
        (|tree| tree.unset("#size-cells"), "/: #size-cells is missing"),
        (|tree| tree.at("cpus").add(node("cpu@1")), "/cpus: cpu@1 is there twice"),
        (|tree| tree.at("chosen").add_property("rng-seed", ()), "/chosen: rng-seed is there twice"),
        (
            |tree| (0..100_000).for_each(|_| tree.add(node("a"))),
            "more than 100000 nodes and properties",
        ),
    ];
    for (wreck, message) in cases {
        let mut tree = virt();
        wreck(&mut tree);
        let plan = GuestPlan { no_map: &[range(STORAGE)], ..GuestPlan::default() };
        assert_eq!(guest_tree(&tree.blob(), &plan).unwrap_err().to_string(), *message);
    }

    let tree = node("").with("#address-cells", [1u32]).with("#size-cells", [1u32]);
    let plan = GuestPlan { no_map: &[range((0x1_0000_0000, 0x1000))], ..GuestPlan::default() };
    assert_eq!(
        guest_tree(&tree.blob(), &plan).unwrap_err().to_string(),
        "/reserved-memory: 0x100000000..0x100001000 does not fit #address-cells, #size-cells = 1, \
         1 of the root: give the root 2, 2"
    );
    let pool = node("pool").with("size", [1u32, 0]);
    let reserved = node("reserved-memory").with("#address-cells", [2u32]);
    let reserved = reserved.with("#size-cells", [2u32]).with("ranges", ()).child(pool);
    assert_eq!(
        guest_tree(&tree.clone().child(reserved).blob(), &GuestPlan::default())
            .unwrap_err()
            .to_string(),
        "/reserved-memory/pool: size 0x100000000 does not fit #size-cells = 1 of the root: give \
         the root 2"
    );
    let bootargs = "x".repeat(2 << 20);
    let plan = GuestPlan { bootargs: Some(&bootargs), ..GuestPlan::default() };
    assert!(matches!(guest_tree(&tree.blob(), &plan), Err(PatchError::TooBig(_))));
    assert_eq!(guest_tree(&[0; 40], &plan), Err(PatchError::Tree(TreeError::Magic(0))));
}
