// SPDX-License-Identifier: MIT OR Apache-2.0
//! The heap that a tree takes stays below what is said before, and the stack below what boots
//! have. One test, because the allocator counts for the whole program.

#[path = "fuzz/src/heap.rs"]
mod heap;
mod trees;

use std::thread;
use tagstash::addr::{PhysAddr, PhysRange};
use tagstash::dtb::blob::{Blob, MAX_DEPTH, MAX_ITEMS};
use tagstash::dtb::bus::MAX_ENTRIES;
use tagstash::dtb::overlay;
use tagstash::dtb::patch::{GuestPlan, guest_tree};
use tagstash::dtb::read::{console, read};
use tagstash::tags::binding::regions;
use trees::{Tree, fvp, node, virt};

/// Most heap in use during `work`, over what was in use before.
fn peak<T>(work: impl FnOnce() -> T) -> usize {
    heap::peak(work).1
}

fn root() -> Tree {
    node("").with("#address-cells", [2u32]).with("#size-cells", [2u32])
}

/// A chain of nodes as deep as it may be below the root.
fn chain(tag: usize) -> Tree {
    chain_of(tag, MAX_DEPTH - 3)
}

fn chain_of(tag: usize, links: usize) -> Tree {
    let leaf = node("tags").with("compatible", "arm,mte-tag-storage");
    (0..links).fold(leaf, |below, _| node("a").child(below)).renamed(&format!("c{tag}"))
}

/// Trees with a share of the most that there may be of something.
fn trees(share: usize, links: usize) -> Vec<(&'static str, Tree)> {
    let (mut wide, mut nodes, mut properties, mut chains) = (root(), root(), root(), root());
    for index in 0..MAX_ITEMS / 2 / share - 20 {
        wide.add(node(&format!("n{index:x}")).with("p", [index as u32]));
    }
    (0..MAX_ITEMS / 4 / share).for_each(|index| nodes.add(node(&format!("{index:x}"))));
    for index in 0..MAX_ITEMS / 50 / share {
        properties.add_property(&format!("{index:x}"), ());
    }
    let count = MAX_ITEMS / MAX_DEPTH / 4 / share;
    (0..count).for_each(|index| chains.add(chain_of(index, links)));
    let mut boards = virt();
    boards.add(chain_of(0, links));
    // Long paths to many nodes.
    let mut long = (0..MAX_ITEMS / 4 / share).fold(node(&"b".repeat(250)), |parent, index| {
        parent.child(node(&format!("{index:x}")).with("compatible", "arm,mte-tag-storage"))
    });
    for _ in 0..links - 1 {
        long = node(&"a".repeat(250)).child(long);
    }
    // As many entries of `ranges` as there may be, and ranges that go through them.
    let mut mapped = root().with("#address-cells", [1u32]);
    let entries: Vec<u32> = (0..MAX_ENTRIES as u32).flat_map(|index| [index, index, 1]).collect();
    let reserved = node("reserved-memory").with("#address-cells", [1u32]);
    let reserved = reserved.with("#size-cells", [1u32]).with("ranges", entries.as_slice());
    let reg = [1u32, 1].repeat(MAX_ITEMS / share);
    mapped.add(reserved.child(node("a").with("reg", reg.as_slice())));
    // Ranges of memory in the fewest bytes, none next to another.
    let entries: Vec<u32> =
        (0..(MAX_ITEMS / share) as u32 * 2).flat_map(|index| [index << 13, 0x1000]).collect();
    let mut scattered = node("").with("#address-cells", [1u32]).with("#size-cells", [1u32]);
    scattered.add(node("memory").with("device_type", "memory").with("reg", entries.as_slice()));
    let tags = node("tags").with("compatible", "arm,mte-tag-storage");
    let tags = tags.with("reg", [0u32, 0x1000]).with("storage-base", [0x2000u32]);
    scattered.add(node("reserved-memory").with("ranges", ()).child(tags));
    vec![
        ("virt", virt()),
        ("fvp", fvp()),
        ("virt and a chain", boards),
        ("nodes with a property", wide),
        ("nodes", nodes),
        ("properties", properties),
        ("chains", chains),
        ("long paths", root().child(long)),
        ("ranges", mapped),
        ("memory", scattered),
    ]
}

/// Overlays: a good many labels, and each tree as what the root is to get.
fn overlays() -> Vec<(&'static str, Tree)> {
    let mut contents = node("__overlay__");
    (0..1000).for_each(|index| contents.add_property(&format!("p{index}"), [0u32]));
    let places: Vec<String> =
        (0..1000).map(|index| format!("/fragment@0/__overlay__:p{index}:0\0")).collect();
    let fixups = node("__fixups__").with("label", places.concat().as_bytes());
    let mut all = vec![(
        "labels",
        node("").child(node("fragment@0").with("target-path", "/").child(contents)).child(fixups),
    )];
    for (name, tree) in trees(32, MAX_DEPTH - 5) {
        let contents = tree.renamed("__overlay__");
        all.push((
            name,
            node("").child(node("fragment@0").with("target-path", "/").child(contents)),
        ));
    }
    all
}

/// A tree with a label, as wide and as deep as the others.
fn labelled(tree: Tree) -> Tree {
    tree.child(node("here").with("phandle", [0x9999u32]))
        .child(node("__symbols__").with("label", "/here"))
}

#[test]
fn p9_heap_and_stack_stay_within_what_is_said_before() {
    for (name, tree) in trees(1, MAX_DEPTH - 3) {
        let blob = tree.flatten(&[(0x1000, 0x1000)], false);
        let needed = Blob::check(&blob).unwrap().heap_needed();
        let no_map = [PhysRange::new(PhysAddr(0x4020_0000), 0x20_0000).unwrap()];
        let plan = GuestPlan { no_map: &no_map, bootargs: Some("x"), ..GuestPlan::default() };
        assert_eq!(peak(|| console(&blob)), 0);
        let peaks = [
            peak(|| read(&blob).unwrap()),
            peak(|| regions(&blob)),
            peak(|| guest_tree(&blob, &plan).unwrap()),
        ];
        println!("{name}: {} bytes, needed {needed}, peaks {peaks:?}", blob.len());
        assert!(peaks.iter().all(|peak| *peak <= needed), "{name}: {needed} {peaks:?}");
    }

    // Applying an overlay, result included; and what the result needs is enough after it.
    let mut outcomes = 0;
    for (base_name, base) in trees(8, MAX_DEPTH - 3) {
        let base = labelled(base).blob();
        for (name, over) in overlays() {
            let over = over.blob();
            let (checked, over_checked) =
                (Blob::check(&base).unwrap(), Blob::check(&over).unwrap());
            let needed = overlay::heap_needed(&checked, &over_checked);
            let mut outcome = None;
            let peak = peak(|| outcome = Some(overlay::apply(&base, &over, usize::MAX)));
            println!("{base_name} with {name}: needed {needed}, peak {peak}");
            assert!(peak <= needed, "{base_name} with {name}: {needed} {peak}");
            outcomes += u32::from(outcome.is_some_and(|outcome| outcome.is_ok()));
        }
    }
    assert!(outcomes > 30, "{outcomes}");

    // The deepest tree on a small stack.
    let mut tree = virt();
    tree.add(chain(0));
    let blob = tree.blob();
    let over = node("fragment@0")
        .with("target-path", "/")
        .child(chain_of(1, MAX_DEPTH - 5).in_node("__overlay__"));
    let over = node("").child(over).blob();
    let small = thread::Builder::new().stack_size(64 << 10).spawn(move || {
        let applied = overlay::apply(&blob, &over, usize::MAX).map(|_| ());
        let guest = guest_tree(&blob, &GuestPlan::default());
        (read(&blob).is_ok(), regions(&blob).is_err(), guest, applied)
    });
    let (read, wrong, guest, applied) = small.unwrap().join().unwrap();
    assert!(read && wrong && guest.is_ok());
    assert!(applied.is_ok(), "{applied:?}");
}
