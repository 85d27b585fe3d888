// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is read from the device tree for the boot, and what is said of a tree that is wrong.

mod trees;

use tagstash::addr::{PhysAddr, PhysRange};
use tagstash::dtb::blob::MAX_DEPTH;
use tagstash::dtb::read::{
    BootTree, Conduit, Console, ConsoleKind, Module, TreeError, console, read, total_size,
};
use tagstash::serial::Layout;
use tagstash::tags::binding::regions;
use trees::{Reg, Tree, fvp, node, virt, virt_google, virt_v1};

fn range(start: u64, length: u64) -> PhysRange {
    PhysRange::new(PhysAddr(start), length).unwrap()
}

fn pl011(base: u64, length: u64) -> Option<Console> {
    Some(Console { base: PhysAddr(base), length, kind: ConsoleKind::Pl011 })
}

#[test]
fn a_board_is_read_as_a_whole() {
    let expected = BootTree {
        memory: vec![range(0x4000_0000, 0x3e00_0000), range(0x7e00_0000, 0x200_0000)],
        no_map: vec![range(0x7ff0_0000, 0x10_0000)],
        reserved: vec![
            range(0x4000_0000, 0x1000),
            range(0x6000_0001, 0x123),
            range(0x5000_0000, 0x1_0000),
        ],
        tag_storage: vec![range(0x7e00_0000, 0x1f0_0000)],
        console: pl011(0x900_0000, 0x1000),
        kernel: Some(Module {
            range: range(0x4600_0000, 0x180_0000),
            bootargs: Some("console=ttyAMA0 root=/dev/ram".into()),
        }),
        ramdisk: Some(range(0x4a00_0000, 0x12_3456)),
        bootargs: Some("quiet tagstash.log=debug".into()),
        psci: Some(Conduit::Smc),
        cpus: vec![0, 1],
        spin_table: vec![],
        idle_states: vec![],
    };
    let reservations = [(0x4000_0000, 0x1000), (0x6000_0001, 0x123)];
    for nops in [false, true] {
        let mut blob = virt().flatten(&reservations, nops);
        assert_eq!(read(&blob), Ok(expected.clone()));
        assert_eq!(console(&blob), expected.console);
        assert_eq!(total_size(&blob[..40]), Ok(blob.len()));
        // Loaders leave room behind the tree.
        blob.resize(blob.len() + 1000, 0xa5);
        assert_eq!(read(&blob), Ok(expected.clone()));
    }
}

#[test]
fn what_is_missing_is_none() {
    let tree = node("").with("#address-cells", [2u32]).with("#size-cells", [1u32]);
    assert_eq!(read(&tree.blob()), Ok(BootTree::default()));
}

#[test]
fn tag_storage_is_listed_in_every_dialect_however_wrong_and_not_as_reserved() {
    let mut tree = fvp();
    tree.at("reserved-memory/tags@8f8000000").unset("tagged-memory");
    tree.at("reserved-memory/tags@8f8000000").set("no-map", ());
    tree.at("reserved-memory/tags@8fc00000").set("block-size", [3u32]);
    tree.add(
        node("metadata@1")
            .with("compatible", "arm,mte-tag-storage")
            .with("reg", [Reg(0x1_0000, 0x1000), Reg(0x2_0000, 0)]),
    );
    let read = read(&tree.blob()).unwrap();
    let storage = [(0x8_f800_0000, 0x400_0000), (0x8_fc00_0000, 0x3c0_0000), (0x1_0000, 0x1000)];
    assert_eq!(read.tag_storage, storage.map(|(start, length)| range(start, length)));
    assert_eq!((read.no_map, read.reserved), (vec![], vec![]));
    assert_eq!(read.memory.len(), 3);
}

/// Storage is listed for all dialects, in CPU addresses, from places where no dialect has it, and
/// also where the binding refuses it.
#[test]
fn tag_storage_is_listed_wherever_it_stands() {
    for tree in [virt(), virt_v1(), virt_google()] {
        let read = read(&tree.blob()).unwrap();
        assert_eq!(read.tag_storage, [range(0x7e00_0000, 0x1f0_0000)]);
        assert!(!read.no_map.contains(&range(0x7e00_0000, 0x1f0_0000)));
    }
    let tags = |address, length| {
        node("tags").with("compatible", "arm,mte-tag-storage").with("reg", [address, length])
    };
    let mut tree = virt();
    tree.at("reserved-memory").remove("tags@7e000000");
    // Two buses that map, the outer one only a part of what the inner one does.
    let inner = node("inner")
        .with("#address-cells", [1u32])
        .with("#size-cells", [1u32])
        .with("ranges", [0u32, 0x1000_0000, 0x100_0000, 0x800_0000, 0x3000_0000, 0x1000])
        .child(tags(0x1000u32, 0x2000))
        .child(tags(0x0800_0000, 0x1000).renamed("unmapped"))
        .child(tags(0x0900_0000, 0x1000).renamed("as-it-is"));
    let soc = node("soc")
        .with("#address-cells", [1u32])
        .with("#size-cells", [1u32])
        .with("ranges", [0x1000_0000u32, 8, 0x4000_0000, 0x2000_0000])
        .child(inner);
    tree.add(soc);
    // A bus whose `ranges` is malformed, and one whose cells are: nothing can be read there.
    let bad = node("bad").with("#address-cells", [1u32]).with("#size-cells", [1u32]);
    tree.add(bad.with("ranges", [1u32]).child(tags(0x5000_0000, 0x1000)));
    tree.add(node("worse").with("#address-cells", [3u32]).child(tags(0x5100_0000, 0x1000)));
    let found = read(&tree.blob()).unwrap();
    let expected = [
        (0x8_4000_1000, 0x2000),
        (0x3000_0000, 0x1000),
        (0x0900_0000, 0x1000),
        (0x5000_0000, 0x1000),
    ];
    assert_eq!(found.tag_storage, expected.map(|(start, length)| range(start, length)));
    assert!(regions(&tree.blob()).is_err());
}

/// `/reserved-memory` may have cells of its own and map its addresses.
#[test]
fn reserved_memory_is_read_through_its_ranges() {
    let mut tree = virt();
    let reserved = tree.at("reserved-memory");
    reserved.set("#address-cells", [1u32]);
    reserved.set("#size-cells", [1u32]);
    reserved.set("ranges", [0u32, 0, 0x4000_0000, 0x4000_0000, 0x8000_0000, 9, 0, 0x1000]);
    reserved.at("tags@7e000000").set("reg", [0x3e00_0000u32, 0x1f0_0000]);
    reserved.at("secure@7ff00000").set("reg", [0x3ff0_0000u32, 0x10_0000]);
    reserved.at("buffer@50000000").set("reg", [0x1000_0000u32, 0x1_0000, 0x8000_0000, 0x1000]);
    let found = read(&tree.blob()).unwrap();
    assert_eq!(found.tag_storage, [range(0x7e00_0000, 0x1f0_0000)]);
    assert_eq!(found.no_map, [range(0x7ff0_0000, 0x10_0000)]);
    assert_eq!(found.reserved, [range(0x5000_0000, 0x1_0000), range(0x9_0000_0000, 0x1000)]);
    // A tag-storage node outside all entries is refused, and listed as Linux would reserve it.
    tree.at("reserved-memory/tags@7e000000").set("reg", [0x7e00_0000u32, 0x1f0_0000]);
    let found = read(&tree.blob()).unwrap();
    assert_eq!(found.tag_storage, [range(0x7e00_0000, 0x1f0_0000)]);
    assert!(regions(&tree.blob()).is_err());
}

#[test]
fn only_enabled_nodes_count_and_only_device_type_makes_memory() {
    let mut tree = virt();
    tree.at("memory@7e000000").set("status", "disabled");
    tree.at("reserved-memory/secure@7ff00000").set("status", "disabled");
    tree.at("reserved-memory/buffer@50000000").set("status", "ok");
    tree.at("psci").set("status", "fail");
    tree.at("cpus/cpu@0").set("status", "fail-cache");
    tree.at("cpus/cpu@1").set("status", "disabled");
    tree.at("pl011@9000000").set("status", "reserved");
    tree.add(node("memory@0").with("reg", Reg(0, 0x1000)));
    let read = read(&tree.blob()).unwrap();
    assert_eq!(read.memory, [range(0x4000_0000, 0x3e00_0000)]);
    assert_eq!(read.no_map, []);
    assert_eq!(read.reserved, [range(0x5000_0000, 0x1_0000)]);
    assert_eq!(read.psci, None);
    assert_eq!(read.console, None);
    // To a CPU, disabled means not started.
    assert_eq!(read.cpus, [1]);
}

#[test]
fn modules_have_the_cells_of_chosen_or_else_of_the_root() {
    let mut tree = virt();
    let chosen = tree.at("chosen");
    chosen.set("#address-cells", [1u32]);
    chosen.set("#size-cells", [1u32]);
    chosen.at("module@0x46000000").set("reg", [0x4600_0000u32, 0x180_0000]);
    chosen.at("module@0x4a000000").set("reg", [0x4a00_0000u32, 0x12_3456]);
    chosen.at("module@0x46000000").unset("bootargs");
    let found = read(&tree.blob()).unwrap();
    assert_eq!(
        found.kernel,
        Some(Module { range: range(0x4600_0000, 0x180_0000), bootargs: None })
    );
    assert_eq!(found.ramdisk, Some(range(0x4a00_0000, 0x12_3456)));
}

#[test]
fn a_ramdisk_may_come_as_linux_has_it() {
    let mut tree = virt();
    let chosen = tree.at("chosen");
    chosen.remove("module@0x4a000000");
    chosen.set("linux,initrd-start", [0x4800_0000u32]);
    chosen.set("linux,initrd-end", [0u32, 0x4800_1234]);
    assert_eq!(read(&tree.blob()).unwrap().ramdisk, Some(range(0x4800_0000, 0x1234)));
    tree.at("chosen").set("linux,initrd-end", [0x4800_0000u32]);
    assert_eq!(read(&tree.blob()).unwrap().ramdisk, None);
}

#[test]
fn cpus_have_one_cell_or_two_and_a_number_for_each_thread() {
    let mut tree = virt();
    tree.at("cpus").set("#address-cells", [2u32]);
    tree.at("cpus/cpu@0").set("reg", [1u32, 0x100, 1, 0x101]);
    tree.at("cpus/cpu@1").set("reg", [0u32, 0x8000_0000]);
    let found = read(&tree.blob()).unwrap();
    assert_eq!(found.cpus, [0x1_0000_0100, 0x1_0000_0101, 0x8000_0000]);
}

#[test]
fn p7_cpus_that_wait_in_a_spin_table_are_listed() {
    let spinning = |change: fn(&mut Tree)| {
        let mut tree = virt();
        change(&mut tree);
        let tree = read(&tree.blob()).unwrap();
        assert_eq!(tree.cpus.first(), Some(&0));
        tree.spin_table
    };
    assert_eq!(spinning(|tree| tree.at("cpus/cpu@1").set("enable-method", "psci")), []);
    assert_eq!(spinning(|tree| tree.at("cpus/cpu@1").set("enable-method", "spin-table")), [1]);
    assert_eq!(
        spinning(|tree| tree.at("cpus/cpu@1").set("enable-method", ["psci", "spin-table"])),
        [1]
    );
    // Not started yet, which is what a spin table is for.
    assert_eq!(
        spinning(|tree| {
            tree.at("cpus/cpu@1").set("enable-method", "spin-table");
            tree.at("cpus/cpu@1").set("status", "disabled");
        }),
        [1]
    );
    assert_eq!(
        spinning(|tree| {
            tree.at("cpus/cpu@1").set("enable-method", "spin-table");
            tree.at("cpus/cpu@1").set("status", "fail");
        }),
        []
    );
    // For all CPUs at once, but for one that has its own.
    assert_eq!(
        spinning(|tree| {
            tree.at("cpus").set("enable-method", "spin-table");
            tree.at("cpus/cpu@1").set("enable-method", "psci");
        }),
        [0]
    );
}

#[test]
fn idle_states_are_listed_where_they_are_entered_by_psci() {
    let mut tree = virt();
    let state = |name: &str| {
        node(name)
            .with("compatible", "arm,idle-state")
            .with("arm,psci-suspend-param", [0x1_0000u32])
    };
    tree.at("cpus").add(
        node("idle-states")
            .child(state("a"))
            .child(state("b").with("status", "disabled"))
            .child(node("c").with("compatible", "arm,idle-state"))
            .child(node("d").with("arm,psci-suspend-param", [4u32]))
            .child(state("f").with("arm,psci-suspend-param", [0u8, 0, 2])),
    );
    tree.add(
        node("domains").child(
            node("e")
                .with("compatible", ["vendor,state", "domain-idle-state"])
                .with("arm,psci-suspend-param", [5u32]),
        ),
    );
    let found = read(&tree.blob()).unwrap().idle_states;
    assert_eq!(found, [Some(0x1_0000), Some(0x1_0000), None, Some(5)]);
}

#[test]
fn the_console_is_found_by_path_and_by_alias() {
    let with = |path: &str| {
        let mut tree = virt();
        tree.at("chosen").set("stdout-path", path);
        let read = read(&tree.blob()).unwrap().console;
        assert_eq!(console(&tree.flatten(&[], true)), read);
        read
    };
    let found = pl011(0x900_0000, 0x1000);
    assert_eq!(with("serial0"), found);
    assert_eq!(with("/pl011@9000000"), found);
    assert_eq!(with("/pl011@9000000:115200n8"), found);
    assert_eq!(with("/pl011"), found);
    assert_eq!(with("serial1"), None);
    assert_eq!(with("pl011@9000000"), None);
    assert_eq!(with("/pl011@9000001"), None);
    assert_eq!(with("/pl011@9000000/x"), None);
    assert_eq!(with("/psci"), None);
    assert_eq!(with("/"), None);
    assert_eq!(with(""), None);
    let mut tree = virt();
    tree.at("aliases").set("serial0", "serial0");
    assert_eq!(console(&tree.blob()), None);
    tree.at("chosen").set("stdout-path", ());
    assert_eq!(console(&tree.blob()), None);
    tree.remove("chosen");
    assert_eq!(console(&tree.blob()), None);
}

/// The virt board with its serial port as another kind, with these properties.
fn ns16550(compatible: &str, properties: &[(&str, u32)]) -> Option<Console> {
    let mut tree = virt();
    let port = tree.at("pl011@9000000");
    port.set("compatible", compatible);
    port.set("reg", Reg(0x900_0000, 0x100));
    for (name, value) in properties {
        port.set(name, [*value]);
    }
    console(&tree.blob())
}

#[test]
fn an_8250_is_a_console_however_its_registers_lie() {
    let base = PhysAddr(0x900_0000);
    let port = |offset, shift, width| {
        let layout = Layout::new(base, 0x100, offset, shift, width).unwrap();
        Some(Console { base, length: 0x100, kind: ConsoleKind::Ns16550(layout) })
    };
    for name in ["ns8250", "ns16450", "ns16550", "ns16550a", "snps,dw-apb-uart"] {
        assert_eq!(ns16550(name, &[]), port(0, 0, 1), "{name}");
    }
    let dw = |properties: &[(&str, u32)]| ns16550("snps,dw-apb-uart", properties);
    assert_eq!(dw(&[("reg-shift", 2), ("reg-io-width", 4)]), port(0, 2, 4));
    assert_eq!(dw(&[("reg-shift", 1), ("reg-io-width", 2)]), port(0, 1, 2));
    assert_eq!(dw(&[("reg-shift", 2), ("reg-offset", 0x40)]), port(0x40, 2, 1));
    // What cannot be: no console, and no panic.
    for shift in [6, 31, 32, 40, 63, 64, u32::MAX] {
        assert_eq!(dw(&[("reg-shift", shift)]), None, "{shift}");
    }
    for width in [0, 3, 8, u32::MAX] {
        assert_eq!(dw(&[("reg-shift", 2), ("reg-io-width", width)]), None, "{width}");
    }
    assert_eq!(dw(&[("reg-io-width", 4)]), None);
    assert_eq!(dw(&[("reg-shift", 2), ("reg-io-width", 4), ("reg-offset", 2)]), None);
    assert_eq!(dw(&[("reg-offset", 0xfb)]), None);
    assert_eq!(dw(&[("reg-offset", u32::MAX)]), None);
    assert_eq!(ns16550("nvidia,tegra20-uart", &[("reg-shift", 2)]), None);
    let mut tree = virt();
    tree.at("pl011@9000000").set("compatible", "ns16550a");
    tree.at("pl011@9000000").set("reg-shift", [0u32, 2]);
    assert_eq!(console(&tree.blob()), None);
    tree.at("pl011@9000000").set("reg-shift", [2u32]);
    tree.at("pl011@9000000").set("reg-io-width", [4u32]);
    assert!(console(&tree.blob()).is_some());
    tree.at("pl011@9000000").set("big-endian", ());
    assert_eq!(console(&tree.blob()), None);
    tree.at("pl011@9000000").set("reg-io-width", [1u32]);
    assert!(console(&tree.blob()).is_some());
}

/// The FVP's serial port: two buses with ranges, cells of 1 and 2 and chip selects, between
/// others that match in part.
fn buses() -> Tree {
    node("")
        .with("#address-cells", [2u32])
        .with("#size-cells", [2u32])
        .child(node("chosen").with("stdout-path", "/bus@8000000/iofpga-bus/uart@90000"))
        .child(node("bus").child(node("bus@8000000")))
        .child(
            node("bus@8000000")
                .with("#address-cells", [2u32])
                .with("#size-cells", [1u32])
                .with(
                    "ranges",
                    [
                        0,
                        0,
                        0,
                        0x800_0000,
                        0x400_0000u32, //
                        3,
                        0,
                        0,
                        0x1c00_0000,
                        0x400_0000,
                    ],
                )
                .child(node("uart@90000").with("compatible", "arm,pl011").with("reg", [0u32; 3]))
                .child(
                    node("iofpga-bus@300000000")
                        .with("#address-cells", [1u32])
                        .with("#size-cells", [1u32])
                        .with("ranges", [0, 3, 0, 0x20_0000u32])
                        .child(
                            node("uart@90000")
                                .with("compatible", ["arm,pl011", "arm,primecell"])
                                .with("reg", [0x9_0000u32, 0x1000]),
                        ),
                ),
        )
}

#[test]
fn the_console_address_goes_through_the_buses_above() {
    let uart = "bus@8000000/iofpga-bus@300000000/uart@90000";
    let mut tree = buses();
    assert_eq!(console(&tree.blob()), pl011(0x1c09_0000, 0x1000));
    // Not mapped, mapped in part, no CPU address, cells that cannot be.
    tree.at(uart).set("reg", [0x20_0000u32, 0x1000]);
    assert_eq!(console(&tree.blob()), None);
    tree.at(uart).set("reg", [0x1f_f000u32, 0x1001]);
    assert_eq!(console(&tree.blob()), None);
    tree.at(uart).set("reg", [0x1f_f000u32, 0x1000]);
    assert_eq!(console(&tree.blob()), pl011(0x1c1f_f000, 0x1000));
    tree.at(uart).set("reg", [0x1f_f000u32, 0]);
    assert_eq!(console(&tree.blob()), None);
    let mut tree = buses();
    tree.at("bus@8000000").unset("ranges");
    assert_eq!(console(&tree.blob()), None);
    let mut tree = buses();
    tree.at("bus@8000000").set("#size-cells", [0u32]);
    assert_eq!(console(&tree.blob()), None);
    // No cells at all, where the port itself has some.
    let mut tree = buses();
    tree.set("#address-cells", [0u32]);
    tree.at("bus@8000000").set("#address-cells", [0u32]);
    tree.at("bus@8000000").set("#size-cells", [0u32]);
    tree.at("bus@8000000/iofpga-bus@300000000").set("ranges", ());
    assert_eq!(console(&tree.blob()), None);
    // An empty `ranges` maps one to one.
    let mut tree = buses();
    tree.at("bus@8000000").set("ranges", ());
    assert_eq!(console(&tree.blob()), pl011(0x3_0009_0000, 0x1000));
}

/// Each thing that can be wrong with a node, and what is said of it.
#[test]
fn p9_wrong_nodes_are_named_with_property_and_value() {
    type Break = fn(&mut Tree);
    let cases: &[(Break, &str)] = &[
        (|tree| tree.unset("#address-cells"), "/: #address-cells is missing"),
        (
            |tree| tree.set("#address-cells", [3u32]),
            "/: #address-cells = 3, but only 1 and 2 are possible",
        ),
        (
            |tree| tree.set("#size-cells", [0u32]),
            "/: #size-cells = 0, but only 1 and 2 are possible",
        ),
        (|tree| tree.at("memory@40000000").unset("reg"), "/memory@40000000: reg is missing"),
        (
            |tree| tree.at("memory@40000000").set("reg", [0u32; 5]),
            "/memory@40000000: reg has 20 bytes where 16 make an entry",
        ),
        (
            |tree| tree.at("memory@7e000000").set("reg", Reg(u64::MAX, 1)),
            "/memory@7e000000: reg 0xffffffffffffffff + 0x1 wraps around",
        ),
        (
            |tree| tree.at("reserved-memory").set("ranges", [0u32]),
            "/reserved-memory: ranges has 4 bytes where 24 make an entry",
        ),
        (
            |tree| tree.at("reserved-memory").set("ranges", [0u32, 0, 0, 0, 0, 0x7ff0_0000]),
            "/reserved-memory/secure@7ff00000: reg 0x7ff00000..0x80000000 is in no entry of \
             ranges of /reserved-memory; add one, or make ranges empty",
        ),
        (
            |tree| tree.at("reserved-memory/secure@7ff00000").set("reg", [0u32]),
            "/reserved-memory/secure@7ff00000: reg has 4 bytes where 16 make an entry",
        ),
        (
            |tree| tree.at("chosen/module@0x46000000").unset("reg"),
            "/chosen/module@0x46000000: reg is missing",
        ),
        (
            |tree| tree.at("chosen/module@0x4a000000").set("reg", [1u32, 2, 3]),
            "/chosen/module@0x4a000000: reg has 12 bytes where 16 make an entry",
        ),
        (
            |tree| {
                tree.at("chosen").remove("module@0x4a000000");
                tree.at("chosen").set("linux,initrd-end", [1u32, 2, 3]);
            },
            "/chosen: linux,initrd-end has 12 bytes where 8 make an entry",
        ),
        (
            |tree| {
                let chosen = tree.at("chosen");
                chosen.remove("module@0x4a000000");
                chosen.set("linux,initrd-start", [0x4810_0000u32]);
                chosen.set("linux,initrd-end", [0x4800_0000u32]);
            },
            "/chosen: linux,initrd-end 0x48000000 is below linux,initrd-start 0x48100000: have \
             the loader write both",
        ),
        (
            |tree| tree.at("cpus").set("#address-cells", [0u32]),
            "/cpus: #address-cells = 0, but only 1 and 2 are possible",
        ),
        (|tree| tree.at("cpus/cpu@1").unset("reg"), "/cpus/cpu@1: reg is missing"),
        (
            |tree| tree.at("cpus/cpu@1").set("reg", [1u8, 2]),
            "/cpus/cpu@1: reg has 2 bytes where 4 make an entry",
        ),
    ];
    for (wreck, message) in cases {
        let mut tree = virt();
        wreck(&mut tree);
        assert_eq!(read(&tree.blob()).unwrap_err().to_string(), *message);
    }
    let wrapping = virt().flatten(&[(u64::MAX - 1, 2)], false);
    assert_eq!(
        read(&wrapping).unwrap_err().to_string(),
        "/memreserve/: entry 0xfffffffffffffffe + 0x2 wraps around"
    );
}

/// Words of the header and of the structure block, and what is said of wrong ones.
#[test]
fn p9_a_malformed_blob_is_refused_with_the_reason() {
    let good = virt().flatten(&[(0x4000_0000, 0x1000)], false);
    let field = |index: usize, value: u32| {
        let mut blob = good.clone();
        blob[index * 4..][..4].copy_from_slice(&value.to_be_bytes());
        read(&blob).unwrap_err()
    };
    let length = good.len();
    let huge = u32::MAX;
    assert_eq!(read(&[]), Err(TreeError::NoHeader(0)));
    assert_eq!(read(&good[..7]), Err(TreeError::NoHeader(7)));
    assert_eq!(field(0, 0xedfe_0dd0), TreeError::Magic(0xedfe_0dd0));
    assert_eq!(field(1, 39), TreeError::TotalSize(39));
    assert_eq!(field(1, 0x20_0001), TreeError::TotalSize(0x20_0001));
    assert_eq!(
        field(1, length as u32 + 1),
        TreeError::Truncated { total: length + 1, available: length }
    );
    assert_eq!(field(5, 16), TreeError::Version { version: 16, compatible: 16 });
    assert_eq!(field(6, 18), TreeError::Version { version: 17, compatible: 18 });
    for (index, block) in [(2, "structure"), (3, "strings"), (4, "memory reservation")] {
        assert_eq!(field(index, huge - 7), TreeError::Block { block, offset: huge - 7 });
    }
    let strings_at = u32::from_be_bytes(good[12..16].try_into().unwrap());
    assert_eq!(field(8, huge), TreeError::Block { block: "strings", offset: strings_at });
    assert_eq!(field(9, huge), TreeError::Block { block: "structure", offset: 72 });
    assert_eq!(field(2, 70), TreeError::Block { block: "structure", offset: 70 });
    assert_eq!(field(4, 44), TreeError::Block { block: "memory reservation", offset: 44 });
    // A structure block that stops early, and tokens where they do not belong. It begins at 72:
    // the root, its name, and its first property.
    assert_eq!(
        field(9, 8),
        TreeError::Structure { offset: 8, rule: "it runs past the end of the block" }
    );
    let rule = |rule| move |offset| TreeError::Structure { offset, rule };
    assert_eq!(field(18, 3), rule("a property stands outside a node or after a child")(0));
    assert_eq!(field(18, 2), rule("a node ends that has not begun")(0));
    assert_eq!(field(18, 9), rule("the tree ends before its root does")(0));
    assert_eq!(field(18, 5), TreeError::Token { offset: 0, token: 5 });
    let a = u32::from_be_bytes(*b"a\0\0\0");
    assert_eq!(field(19, a), rule("the root and only the root has an empty name")(0));
    assert_eq!(field(19, u32::from_be_bytes(*b"a/\0\0")), rule("bad node name")(0));
    assert_eq!(field(19, u32::from_be_bytes(*b"a\xff\0\0")), rule("bad node name")(0));
    assert_eq!(field(21, huge), rule("it runs past the end of the block")(8));
    assert_eq!(field(22, huge), rule("bad property name")(8));
    assert_eq!(field(20, 2), TreeError::Token { offset: 16, token: 0 });

    // The second child becomes a property, of no value and of the name at offset 2.
    let mut blob = node("").with("abc", ()).child(node("a")).child(node("")).blob();
    let second: Vec<u8> = [1u32, 0, 2].iter().flat_map(|word| word.to_be_bytes()).collect();
    let at = blob.windows(12).rposition(|window| window == second).unwrap();
    blob[at + 3] = 3;
    let misplaced = rule("a property stands outside a node or after a child");
    assert_eq!(read(&blob), Err(misplaced(at - 56)));
    // The first child ends twice, and with it the root.
    let mut blob = node("").child(node("a")).child(node("b")).blob();
    blob[72 + 7] = 2;
    blob.copy_within(72 + 4..72 + 8, 72 + 8);
    assert_eq!(read(&blob), Err(rule("the root has ended before")(24)));

    let message = |tree: &Tree| read(&tree.blob()).unwrap_err().to_string();
    let mut deep = node("a");
    for _ in 0..MAX_DEPTH - 2 {
        deep = node("a").child(deep);
    }
    let root = node("").with("#address-cells", [2u32]).with("#size-cells", [2u32]);
    assert_eq!(read(&root.clone().child(deep.clone()).blob()), Ok(BootTree::default()));
    let too_deep = root.clone().child(node("a").child(deep));
    assert!(message(&too_deep).ends_with("nodes are more than 24 deep"), "{}", message(&too_deep));
    let mut wide = root.clone();
    (0..100_000).for_each(|_| wide.add(node("a")));
    assert_eq!(message(&wide), "more than 100000 nodes and properties");
    assert!(message(&root.clone().child(node(&"a".repeat(256)))).ends_with("bad node name"));
    assert!(read(&root.clone().child(node(&"a".repeat(255))).blob()).is_ok());
    let reservations = vec![(0x1000, 0x1000); 1025];
    assert_eq!(read(&root.flatten(&reservations, false)), Err(TreeError::TooManyReservations));
    assert_eq!(read(&root.flatten(&reservations[1..], false)).unwrap().reserved.len(), 1024);
}
