// SPDX-License-Identifier: MIT OR Apache-2.0
//! The heap that a tree takes stays below what is said before, and the stack below what boots
//! have. One test, because the allocator counts for the whole program.

mod trees;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use tagstash::addr::{PhysAddr, PhysRange};
use tagstash::dtb::blob::{Blob, MAX_DEPTH, MAX_ITEMS};
use tagstash::dtb::patch::{GuestPlan, guest_tree};
use tagstash::dtb::read::{console, read};
use tagstash::tags::binding::regions;
use trees::{Tree, fvp, node, virt};

/// Counts bytes in use, each allocation as an allocator with a header and 16-byte alignment
/// would.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn cost(layout: Layout) -> usize {
    layout.size().next_multiple_of(16)
}

// SAFETY: the system's allocator does the work; this only counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = IN_USE.fetch_add(cost(layout), Relaxed) + cost(layout);
        PEAK.fetch_max(now, Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(cost(layout), Relaxed);
        // SAFETY: the pointer came from `alloc` above, that is from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Most heap in use during `work`, over what was in use before.
fn peak<T>(work: impl FnOnce() -> T) -> usize {
    let before = IN_USE.load(Relaxed);
    PEAK.store(before, Relaxed);
    drop(work());
    PEAK.load(Relaxed) - before
}

fn root() -> Tree {
    node("").with("#address-cells", [2u32]).with("#size-cells", [2u32])
}

/// A chain of nodes as deep as it may be below the root.
fn chain(tag: usize) -> Tree {
    let leaf = node("tags").with("compatible", "arm,mte-tag-storage");
    let links = MAX_DEPTH - 3;
    (0..links).fold(leaf, |below, _| node("a").child(below)).renamed(&format!("c{tag}"))
}

fn trees() -> Vec<(&'static str, Tree)> {
    let (mut wide, mut nodes, mut properties, mut chains) = (root(), root(), root(), root());
    for index in 0..MAX_ITEMS / 2 - 20 {
        wide.add(node(&format!("n{index:x}")).with("p", [index as u32]));
    }
    (0..MAX_ITEMS / 4).for_each(|index| nodes.add(node(&format!("{index:x}"))));
    for index in 0..MAX_ITEMS / 50 {
        properties.add_property(&format!("{index:x}"), ());
    }
    (0..MAX_ITEMS / MAX_DEPTH / 4).for_each(|index| chains.add(chain(index)));
    let mut boards = virt();
    boards.add(chain(0));
    // Long paths to many nodes.
    let mut long = (0..MAX_ITEMS / 4).fold(node(&"b".repeat(250)), |parent, index| {
        parent.child(node(&format!("{index:x}")).with("compatible", "arm,mte-tag-storage"))
    });
    for _ in 0..MAX_DEPTH - 4 {
        long = node(&"a".repeat(250)).child(long);
    }
    // Entries of `ranges` in the fewest bytes.
    let mut mapped = root().with("#address-cells", [1u32]);
    let entries: Vec<u32> = (0..MAX_ITEMS as u32).flat_map(|index| [index, index, 1]).collect();
    let reserved = node("reserved-memory").with("#address-cells", [1u32]);
    let reserved = reserved.with("#size-cells", [1u32]).with("ranges", entries.as_slice());
    mapped.add(reserved.child(node("a").with("reg", [1u32, 1])));
    // Ranges of memory in the fewest bytes, none next to another.
    let entries: Vec<u32> =
        (0..MAX_ITEMS as u32 * 2).flat_map(|index| [index << 13, 0x1000]).collect();
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

#[test]
fn p9_heap_and_stack_stay_within_what_is_said_before() {
    for (name, tree) in trees() {
        let blob = tree.flatten(&[(0x1000, 0x1000)], false);
        let needed = Blob::check(&blob).unwrap().heap_needed();
        let no_map = [PhysRange::new(PhysAddr(0x4020_0000), 0x20_0000).unwrap()];
        let plan = GuestPlan { no_map: &no_map, bootargs: Some("x"), initrd: None };
        assert_eq!(peak(|| console(&blob)), 0);
        let peaks = [
            peak(|| read(&blob).unwrap()),
            peak(|| regions(&blob)),
            peak(|| guest_tree(&blob, &plan).unwrap()),
        ];
        println!("{name}: {} bytes, needed {needed}, peaks {peaks:?}", blob.len());
        assert!(peaks.iter().all(|peak| *peak <= needed), "{name}: {needed} {peaks:?}");
    }

    // The deepest tree on a small stack.
    let mut tree = virt();
    tree.add(chain(0));
    let blob = tree.blob();
    let small = thread::Builder::new().stack_size(64 << 10).spawn(move || {
        (read(&blob).is_ok(), regions(&blob).is_err(), guest_tree(&blob, &GuestPlan::default()))
    });
    let (read, wrong, guest) = small.unwrap().join().unwrap();
    assert!(read && wrong && guest.is_ok());
}
