// SPDX-License-Identifier: MIT OR Apache-2.0
//! No blob, however malformed, panics anything that reads it: good trees cut, flipped, spliced
//! and built at random. Each test says its seed; `TREE_SEED` sets another.

mod trees;

use std::panic::catch_unwind;
use tagstash::addr::{PhysAddr, PhysRange};
use tagstash::dtb::blob::MAX_DEPTH;
use tagstash::dtb::patch::{GuestPlan, guest_tree};
use tagstash::dtb::read::{BootTree, console, read, total_size};
use tagstash::tags::binding::regions;
use tagstash::tags::geometry::{MAX_REGIONS, Region};
use trees::{Reg, Tree, fvp, node, virt, virt_google, virt_v1};

/// Cases of each test.
const CASES: u32 = 20_000;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn new() -> Random {
        let seed = std::env::var("TREE_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or(0x7a67_5374_6173_6821);
        println!("TREE_SEED={seed}");
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// What became of a number of cases.
#[derive(Debug, Default)]
struct Tally {
    read: u32,
    regions: u32,
    console: u32,
    patched: u32,
}

/// Runs all that reads a blob on `blob`. What guest_tree makes must read back, with what was
/// planned in it and no tag storage left.
fn exercise(blob: &[u8], tally: &mut Tally) {
    let ranges = [(0x7e00_0000, 0x1f0_0000), (0x4020_0000, 0x20_0000)]
        .map(|(start, length)| PhysRange::new(PhysAddr(start), length).unwrap());
    let outcome = catch_unwind(|| {
        let plan = GuestPlan {
            no_map: &ranges,
            bootargs: Some("x"),
            initrd: Some(ranges[1]),
            ..GuestPlan::default()
        };
        let _ = total_size(blob);
        (console(blob), read(blob), regions(blob), guest_tree(blob, &plan))
    });
    let Ok((console, boot, regions, guest)) = outcome else {
        panic!("a blob panicked its reader: {blob:02x?}");
    };
    tally.console += u32::from(console.is_some());
    if let (Ok(regions), Ok(boot)) = (&regions, &boot) {
        check_regions(regions, boot);
    }
    tally.regions += u32::from(regions.is_ok_and(|regions| !regions.is_empty()));
    tally.patched += u32::from(guest.is_ok());
    if let Ok(boot) = boot {
        tally.read += 1;
        assert_eq!(boot.console, console);
        if let Ok(guest) = guest {
            let guest = read(&guest).expect("the guest's tree of a tree that reads reads");
            // A memory or CPU node that says that it is tag storage goes as such.
            assert!(guest.memory.iter().all(|range| boot.memory.contains(range)));
            let mut sure = boot.memory.iter().filter(|range| !boot.tag_storage.contains(range));
            assert!(sure.all(|range| guest.memory.contains(range)), "{boot:?} {guest:?}");
            assert!(guest.cpus.iter().all(|cpu| boot.cpus.contains(cpu)));
            assert_eq!(guest.tag_storage, []);
            for range in ranges {
                assert!(guest.no_map.contains(&range), "{guest:?}");
                let reserved = guest.no_map.iter().chain(&guest.reserved);
                assert_eq!(reserved.filter(|other| other.overlaps(&range)).count(), 1);
            }
        }
    }
}

/// A board whose `/reserved-memory` has cells of its own and maps its addresses.
fn mapped() -> Tree {
    let mut tree = virt_google();
    let reserved = tree.at("reserved-memory");
    reserved.set("#address-cells", [1u32]);
    reserved.set("#size-cells", [1u32]);
    reserved.set("ranges", [0u32, 0, 0x4000_0000, 0x4000_0000]);
    reserved.at("tags@7e000000").set("reg", [0x3e00_0000u32, 0x1f0_0000]);
    reserved.at("secure@7ff00000").set("reg", [0x3ff0_0000u32, 0x10_0000]);
    reserved.at("buffer@50000000").set("reg", [0x1000_0000u32, 0x1_0000]);
    reserved.at("pool").set("size", [0x10_0000u32]);
    reserved.at("pool").set("alloc-ranges", [0x1000_0000u32, 0x1000_0000]);
    tree
}

/// Trees of all dialects, with and without `ranges`.
fn boards() -> [Tree; 5] {
    [virt(), fvp(), virt_v1(), virt_google(), mapped()]
}

fn good() -> Vec<Vec<u8>> {
    boards()
        .iter()
        .flat_map(|tree| {
            [
                tree.flatten(&[], false),
                tree.flatten(&[(0x4000_0000, 0x100_0000), (0x7dff_0000, 0x3_0000)], true),
            ]
        })
        .collect()
}

/// What holds of all regions, whatever tree they are read from.
fn check_regions(regions: &[Region], boot: &BootTree) {
    assert!(regions.len() <= MAX_REGIONS);
    for (index, region) in regions.iter().enumerate() {
        assert_eq!(region.storage().len() * 32, region.tagged().len());
        // What is lent is what is hidden, page for page.
        assert!(boot.tag_storage.contains(&region.storage()), "{region:?} {boot:?}");
        let touches = |range: PhysRange| boot.memory.iter().any(|memory| memory.overlaps(&range));
        assert!(touches(region.tagged()), "{region:?} {boot:?}");
        assert!(!region.tagged().overlaps(&region.storage()));
        for other in &regions[index + 1..] {
            for range in [region.tagged(), region.storage()] {
                assert!(!range.overlaps(&other.tagged()) && !range.overlaps(&other.storage()));
            }
        }
    }
}

fn set_word(blob: &mut [u8], at: usize, word: u32) {
    if let Some(bytes) = blob.get_mut(at..at + 4) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
}

#[test]
fn good_trees_are_good() {
    let mut tally = Tally::default();
    good().iter().for_each(|blob| exercise(blob, &mut tally));
    assert_eq!((tally.read, tally.regions, tally.console, tally.patched), (10, 10, 8, 10));
}

/// Cut anywhere, with the old total size and with one that fits.
#[test]
fn p9_no_cut_blob_panics() {
    let mut tally = Tally::default();
    for blob in good() {
        for length in 0..blob.len() {
            let mut cut = blob[..length].to_vec();
            exercise(&cut, &mut tally);
            set_word(&mut cut, 4, length as u32);
            exercise(&cut, &mut tally);
        }
    }
    assert_eq!(tally.read, 0);
}

/// One to six bytes, or words set to what hurts.
#[test]
fn p9_no_flipped_blob_panics() {
    const WORDS: [u32; 16] = [
        0,
        1,
        2,
        3,
        4,
        5,
        9,
        12,
        0x7f,
        0x1000,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_fff8,
        0xffff_fffc,
        0xffff_ffff,
        0xd00d_feed,
    ];
    let (mut random, mut tally) = (Random::new(), Tally::default());
    let good = good();
    for _ in 0..CASES {
        let mut blob = random.pick(&good).clone();
        for _ in 0..1 + random.below(6) {
            let at = random.below(blob.len());
            match random.below(3) {
                0 => blob[at] ^= 1 << random.below(8),
                1 => blob[at] = random.next() as u8,
                _ => {
                    let word = *random.pick(&WORDS);
                    set_word(&mut blob, at & !3, word);
                }
            }
        }
        exercise(&blob, &mut tally);
    }
    println!("{tally:?}");
    assert!(tally.read > CASES / 20 && tally.patched > CASES / 20, "{tally:?}");
}

/// Pieces of blobs moved, doubled and left out, with a total size that fits.
#[test]
fn p9_no_spliced_blob_panics() {
    let (mut random, mut tally) = (Random::new(), Tally::default());
    let good = good();
    for _ in 0..CASES {
        let mut blob = random.pick(&good).clone();
        for _ in 0..1 + random.below(3) {
            let piece = random.pick(&good);
            let from = random.below(piece.len()) & !3;
            let length = random.below(64.min(piece.len() - from)) & !3;
            let at = random.below(blob.len()) & !3;
            let replaced = random.below(64.min(blob.len() - at)) & !3;
            let replaced =
                if random.below(2) == 0 { length.min(blob.len() - at) } else { replaced };
            blob.splice(at..at + replaced, piece[from..from + length].iter().copied());
        }
        let length = blob.len() as u32;
        set_word(&mut blob, 4, length);
        exercise(&blob, &mut tally);
    }
    println!("{tally:?}");
    assert!(tally.read > CASES / 50, "{tally:?}");
}

/// Well-formed trees, good ones with nonsense grown into them: names that the readers look for,
/// values of all lengths. These pass the structure check, so what comes after it gets the work.
#[test]
fn p9_no_nonsensical_tree_panics() {
    const NODES: [&str; 14] = [
        "chosen",
        "aliases",
        "reserved-memory",
        "memory@0",
        "cpus",
        "cpu@0",
        "psci",
        "uart",
        "tags",
        "module@1",
        "hypervisor",
        "reserved@40200000",
        "bus",
        "x@y",
    ];
    const NAMES: [&str; 24] = [
        "#address-cells",
        "#size-cells",
        "reg",
        "ranges",
        "compatible",
        "status",
        "device_type",
        "phandle",
        "stdout-path",
        "bootargs",
        "linux,initrd-start",
        "linux,initrd-end",
        "method",
        "no-map",
        "serial0",
        "block-size",
        "tagged-memory",
        "storage-base",
        "memory",
        "arm,no-mte",
        "arm,mte-alloc",
        "size",
        "alignment",
        "alloc-ranges",
    ];
    const TEXTS: [&str; 14] = [
        "okay",
        "disabled",
        "memory",
        "cpu",
        "arm,pl011",
        "arm,psci-1.0",
        "smc",
        "serial0",
        "/uart:1",
        "/bus/uart",
        "arm,mte-tag-storage",
        "multiboot,kernel",
        "multiboot,ramdisk",
        "",
    ];
    fn grow(random: &mut Random, tree: &mut Tree, depth: usize) {
        if depth == 0 || random.below(2) == 0 {
            tree.set("#address-cells", [1 + random.below(2) as u32]);
            tree.set("#size-cells", [1 + random.below(2) as u32]);
        }
        for _ in 0..random.below(6) {
            let name = *random.pick(&NAMES);
            if random.below(50) > 0 && (depth == 0 || random.below(2) == 0) && name.contains('#') {
                continue;
            }
            match random.below(5) {
                0 => tree.set(name, *random.pick(&TEXTS)),
                1 => tree.set(name, [random.next() as u8]),
                2 => tree.set(name, [random.below(4) as u32]),
                3 => {
                    let base = random.below(8) as u32 * 0x1000_0000;
                    tree.set(name, [0, base, 0, random.next() as u32 & 0x1fff_f000]);
                }
                _ => tree.set(name, &[0u32, 0x7000_0000, 0x1000][..random.below(4)]),
            }
        }
        if depth < 4 {
            let mut names = NODES.to_vec();
            for _ in 0..random.below(7) {
                let mut child = node(names.remove(random.below(names.len())));
                grow(random, &mut child, depth + 1);
                tree.add(child);
            }
        }
    }
    let (mut random, mut tally) = (Random::new(), Tally::default());
    let mut starts = boards().to_vec();
    starts.push(node(""));
    for _ in 0..CASES {
        let mut tree = random.pick(&starts).clone();
        for _ in 0..1 + random.below(3) {
            let index = random.below(tree.count());
            grow(&mut random, tree.nth(index).unwrap(), 2);
        }
        let nops = random.below(2) == 0;
        exercise(&tree.flatten(&[(0x4010_0000, random.next() & 0xffff_ffff)], nops), &mut tally);
    }
    println!("{tally:?}");
    let least = tally.read.min(tally.regions).min(tally.console).min(tally.patched);
    assert!(least > CASES / 20, "{tally:?}");
}

/// What could take for ever or overflow the stack: names that run to the end of a large block,
/// the deepest and the widest tree, aliases that refer to themselves.
#[test]
fn p9_nothing_takes_for_ever_or_recurses_without_end() {
    let mut tally = Tally::default();
    let root = || node("").with("#address-cells", [2u32]).with("#size-cells", [2u32]);

    let mut wide = root();
    for index in 0..49_000u32 {
        wide.add(node(&format!("n{index:x}")).with("p", [index]));
    }
    exercise(&wide.blob(), &mut tally);

    let mut deep = node("tags").with("compatible", "arm,mte-tag-storage");
    for _ in 0..MAX_DEPTH - 2 {
        deep = node("a").child(deep).child(node("b")).child(node("c"));
    }
    exercise(&root().child(deep).blob(), &mut tally);

    let mut circular = virt();
    circular.at("aliases").set("serial0", "serial1");
    circular.at("aliases").set("serial1", "serial0");
    circular.remove("chosen");
    circular.add(node("chosen").with("stdout-path", "serial0").with("chosen", "chosen"));
    exercise(&circular.blob(), &mut tally);
    assert_eq!((tally.read, tally.patched), (3, 3));

    // As many ranges of memory as fit, none next to another, and regions that look through them.
    let mut scattered = virt_google();
    let ranges: Vec<u32> = (0..110_000u32).flat_map(|index| [1, index << 13, 0, 0x1000]).collect();
    scattered.at("memory@40000000").set("reg", ranges.as_slice());
    scattered.add(
        node("memory").with("device_type", "memory").with("reg", Reg(0x4000_0000, 0x4000_0000)),
    );
    for index in 1..32u32 {
        let tags = node(&format!("tags{index}")).with("compatible", "arm,mte-tag-storage");
        let tags = tags.with("reg", Reg(0x2_0000_0000, 0x1000)).with("storage-base", [1u32, 0]);
        scattered.at("reserved-memory").add(tags);
    }
    exercise(&scattered.blob(), &mut tally);
    assert_eq!((tally.read, tally.patched), (4, 4));

    // The fdt crate takes a path that it does not find for an alias, again and again.
    let mut circular = virt();
    circular.remove("chosen");
    circular.at("aliases").set("/chosen", "/chosen");
    exercise(&circular.blob(), &mut tally);
    assert_eq!((tally.read, tally.patched), (4, 4));

    // 50,000 properties whose name is the same 1.4 million bytes: refused at the first.
    let mut long = root();
    (0..50_000).for_each(|_| long.add_property("x", ()));
    let mut blob = long.blob();
    let strings = blob.len() - 2;
    blob.splice(strings.., std::iter::repeat_n(b'x', 1_400_000));
    let (length, size) = (blob.len() as u32, (blob.len() - strings) as u32);
    set_word(&mut blob, 4, length);
    set_word(&mut blob, 32, size);
    exercise(&blob, &mut tally);
    assert_eq!((tally.read, tally.patched), (4, 4));

    // Every address through every entry of `ranges`: refused at the first.
    let entries = |count: u32| (0..count).flat_map(|at| [at, 0, at, 1]).collect::<Vec<u32>>();
    let mut mapped = |count| {
        let reserved = node("reserved-memory")
            .with("#address-cells", [1u32])
            .with("#size-cells", [1u32])
            .with("ranges", entries(count).as_slice())
            .child(node("a").with("reg", [0u32, 1].repeat(50_000).as_slice()));
        exercise(&root().child(reserved).blob(), &mut tally);
        tally.read
    };
    assert_eq!((mapped(256), mapped(257), mapped(50_000)), (5, 5, 5));
}
