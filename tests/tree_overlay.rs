// SPDX-License-Identifier: MIT OR Apache-2.0
//! Overlays: what they change, each way in which one can be wrong, and that no bytes panic.

mod trees;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::cell::Cell;
use tagstash::addr::{PhysAddr, PhysRange};
use tagstash::dtb::blob::MAX_DEPTH;
use tagstash::dtb::blob::{Blob, Token};
use tagstash::dtb::error::TreeError;
use tagstash::dtb::overlay::{Applied, Fault, OverlayError, apply, heap_needed};
use tagstash::dtb::patch::{GuestPlan, PatchError, guest_tree};
use tagstash::dtb::read::read;
use tagstash::ram::GuestRam;
use tagstash::tags::binding::{self, regions};
use trees::{Reg, Tree, node, virt};

/// More heap than any of these needs.
const HEAP: usize = 64 << 20;

fn range(start: u64, length: u64) -> PhysRange {
    PhysRange::new(PhysAddr(start), length).unwrap()
}

/// An overlay of one fragment.
fn overlay(fragment: Tree) -> Tree {
    node("").child(fragment)
}

/// A fragment that goes to a path.
fn fragment(index: usize, path: &str, contents: Tree) -> Tree {
    node(&format!("fragment@{index}"))
        .with("target-path", path)
        .child(contents.renamed("__overlay__"))
}

fn applied(base: &Tree, overlay: &Tree) -> Result<Applied, OverlayError> {
    apply(&base.blob(), &overlay.blob(), HEAP)
}

/// The board without a word on tag storage, RAM in one node of this name.
fn bare(memory: &str) -> Tree {
    let mut board = virt();
    board.remove("memory@40000000");
    board.remove("memory@7e000000");
    board.remove("reserved-memory");
    board
        .add(node(memory).with("device_type", "memory").with("reg", Reg(0x4000_0000, 0x4000_0000)));
    board
}

/// Tag storage for that board, as dtc compiles it: the overlay's own phandle is 1, and
/// `__local_fixups__` says where it is referred to.
fn storage() -> Tree {
    let memory = |name: &str, start, length| {
        node(name).with("device_type", "memory").with("reg", Reg(start, length))
    };
    let contents = node("")
        .child(memory("memory@40000000", 0x4000_0000, 0x3e00_0000).with("phandle", [1u32]))
        .child(memory("memory@7e000000", 0x7e00_0000, 0x200_0000))
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
                        .with("tagged-memory", [1u32]),
                ),
        );
    let places =
        node("fragment@0").child(node("__overlay__").child(
            node("reserved-memory").child(node("tags@7e000000").with("tagged-memory", [0u32])),
        ));
    overlay(fragment(0, "/", contents)).child(places.in_node("__local_fixups__"))
}

#[test]
fn storage_is_described_by_an_overlay() {
    // As U-Boot leaves it, where there was none before, and as QEMU has it.
    for memory in ["memory", "memory@40000000"] {
        let base = bare(memory);
        assert_eq!(regions(&base.blob()).unwrap(), []);
        let done = applied(&base, &storage()).unwrap();
        assert_eq!(done.fragments, 1);
        let found = regions(&done.blob).unwrap();
        assert_eq!(found.len(), 1, "{memory}");
        assert_eq!(found[0].tagged(), range(0x4000_0000, 0x3e00_0000));
        assert_eq!(found[0].storage(), range(0x7e00_0000, 0x1f0_0000));

        let tree = read(&done.blob).unwrap();
        let ram = GuestRam::new(&tree.memory, &[]);
        assert_eq!(ram.ranges(), [range(0x4000_0000, 0x4000_0000)], "{memory}");
        assert_eq!(tree.tag_storage, [range(0x7e00_0000, 0x1f0_0000)]);
        assert_eq!(tree.cpus, [0, 1]);
        let plan = GuestPlan { no_map: &tree.tag_storage, ..GuestPlan::default() };
        let guest = read(&guest_tree(&done.blob, &plan).unwrap()).unwrap();
        assert!(guest.no_map.contains(&range(0x7e00_0000, 0x1f0_0000)));
    }
}

/// The overlay's phandles go past those of the tree, and so do the references.
#[test]
fn phandles_are_renumbered() {
    let mut base = bare("memory");
    base.set("phandle", [0x8123u32]);
    // One with the number that the overlay uses itself.
    base.at("psci").set("linux,phandle", [1u32]);
    let done = applied(&base, &storage()).unwrap();
    assert_eq!(regions(&done.blob).unwrap().len(), 1);
    let expected = 0x8124u32.to_be_bytes();
    let tokens: Vec<_> = Blob::check(&done.blob).unwrap().tokens().collect();
    for name in ["phandle", "tagged-memory"] {
        let known = tokens.iter().any(|token| {
            matches!(token, Token::Property { name: found, value }
                if *found == name && **value == expected)
        });
        assert!(known, "{name}");
    }
}

#[test]
fn bootargs_and_modules_come_by_an_overlay() {
    let contents = node("").with("bootargs", "from the overlay").child(
        node("module@50000000")
            .with("compatible", ["multiboot,kernel", "multiboot,module"])
            .with("reg", Reg(0x5000_0000, 0x20_0000))
            .with("bootargs", "x=1"),
    );
    let mut base = virt();
    base.at("chosen").remove("module@0x46000000");
    assert_eq!(read(&base.blob()).unwrap().kernel, None);
    let done = applied(&base, &overlay(fragment(0, "/chosen", contents))).unwrap();
    let tree = read(&done.blob).unwrap();
    assert_eq!(tree.bootargs.as_deref(), Some("from the overlay"));
    let kernel = tree.kernel.unwrap();
    assert_eq!(kernel.range, range(0x5000_0000, 0x20_0000));
    assert_eq!(kernel.bootargs.as_deref(), Some("x=1"));
    assert_eq!(tree.ramdisk, read(&virt().blob()).unwrap().ramdisk);
}

/// The merged tree, written out by hand: an outcome is compared with it token by token.
fn same(outcome: &[u8], expected: &Tree) {
    let expected = expected.blob();
    let tokens = |blob| Blob::check(blob).unwrap().tokens().collect::<Vec<_>>();
    assert_eq!(tokens(outcome), tokens(&expected));
}

#[test]
fn properties_replace_and_children_merge() {
    let base = node("")
        .with("a", [1u32])
        .with("b", [2u32])
        .child(node("x@1").with("c", "old").child(node("y").with("d", ())));
    let contents = node("")
        .with("b", "new")
        .with("e", [5u32])
        .child(node("x@1").with("c", [1u8]).child(node("z")).child(node("y").with("f", ())))
        .child(node("w"));
    let expected = node("")
        .with("a", [1u32])
        .with("b", "new")
        .with("e", [5u32])
        .child(
            node("x@1")
                .with("c", [1u8])
                .child(node("y").with("d", ()).with("f", ()))
                .child(node("z")),
        )
        .child(node("w"));
    let done = applied(&base, &overlay(fragment(0, "/", contents.clone()))).unwrap();
    same(&done.blob, &expected);

    // The same with NOPs in both; reservations and boot CPU stay.
    let base = base.flatten(&[(0x1000, 0x2000)], true);
    let over = overlay(fragment(0, "/", contents)).flatten(&[(5, 6)], true);
    let done = apply(&base, &over, HEAP).unwrap();
    same(&done.blob, &expected);
    assert_eq!(done.blob.len() % 8, 0);
    assert_eq!(Blob::check(&done.blob).unwrap().boot_cpu(), 3);
    let fdt = fdt::Fdt::new(&done.blob).unwrap();
    let entries: Vec<_> =
        fdt.memory_reservations().map(|r| (r.address() as u64, r.size())).collect();
    assert_eq!(entries, [(0x1000, 0x2000)]);
}

/// In order, each seeing what those before it did; unit addresses may be left out.
#[test]
fn fragments_are_applied_in_order() {
    let base = node("").child(node("x@1").with("a", [1u32]));
    let over = node("")
        .child(fragment(0, "/x", node("").child(node("new@2"))))
        .child(fragment(7, "/x@1/new", node("").with("b", [1u32])))
        .child(fragment(8, "/x/new@2", node("").with("b", [2u32])))
        .child(fragment(9, "/", node("").child(node("x").with("c", ()))));
    let done = applied(&base, &over).unwrap();
    assert_eq!(done.fragments, 4);
    let new = node("new@2").with("b", [2u32]);
    same(&done.blob, &node("").child(node("x@1").with("a", [1u32]).with("c", ()).child(new)));
}

/// A tree with labels, and an overlay that refers to two of them.
fn labelled() -> (Tree, Tree) {
    let base = node("")
        .child(node("gic@1").with("phandle", [7u32]))
        .child(node("uart@2").with("linux,phandle", [9u32]))
        .child(node("bare@3"))
        .child(
            node("__symbols__")
                .with("gic", "/gic@1")
                .with("uart", "/uart@2")
                .with("bare", "/bare@3")
                .with("gone", "/gone@4"),
        );
    let over = node("")
        .child(
            node("fragment@0").with("target", [u32::MAX]).child(
                node("__overlay__")
                    .with("refs", [1u32, u32::MAX, u32::MAX])
                    .child(node("own").with("phandle", [1u32])),
            ),
        )
        .child(
            node("__fixups__")
                .with("uart", ["/fragment@0:target:0", "/fragment@0/__overlay__:refs:8"])
                .with("gic", "/fragment@0/__overlay__:refs:4"),
        )
        .child(
            node("fragment@0")
                .child(node("__overlay__").with("refs", [0u32]))
                .in_node("__local_fixups__"),
        )
        .child(node("__symbols__").with("own", "/fragment@0/__overlay__/own"));
    (base, over)
}

#[test]
fn labels_become_phandles() {
    let (base, over) = labelled();
    let mut expected = base.clone();
    expected.at("uart@2").set("refs", [10u32, 7, 9]);
    expected.at("uart@2").add(node("own").with("phandle", [10u32]));
    same(&applied(&base, &over).unwrap().blob, &expected);
}

/// Each fault once: an overlay with a labelled tree, and the message.
#[test]
fn a_wrong_overlay_is_named() {
    let contents = || node("__overlay__").with("p", [0u32]);
    let one = |fragment: Tree| overlay(fragment.renamed("fragment@5"));
    let fixups = |label: &str, place: &str| {
        one(fragment(0, "/", contents())).child(node("__fixups__").with(label, place))
    };
    let local = |fixups: Tree| {
        one(fragment(0, "/", contents().child(node("n").with("p", [0u32]))))
            .child(fixups.in_node("__local_fixups__"))
    };
    let in_five = |tree: Tree| node("fragment@5").child(tree.renamed("__overlay__"));
    let table = [
        (node(""), "it has no fragment"),
        (node("").child(node("__symbols__")), "it has no fragment"),
        (bare("memory"), "/chosen is no fragment"),
        (one(node("").with("target-path", "/")), "fragment@5: __overlay__ is missing"),
        (one(node("").child(contents())), "fragment@5: exactly one of target and target-path"),
        (
            one(fragment(0, "/", contents()).with("target", [7u32])),
            "fragment@5: exactly one of target and target-path",
        ),
        (
            one(node("").with("target", [7u32, 7]).child(contents())),
            "fragment@5: exactly one of target and target-path",
        ),
        (one(fragment(0, "/none", contents())), "fragment@5: target-path /none is no node"),
        (one(fragment(0, "gic", contents())), "fragment@5: target-path gic is no node"),
        (one(fragment(0, "", contents())), "fragment@5: target-path  is no node"),
        (
            one(node("").with("target", [0x77u32]).child(contents())),
            "fragment@5: target 0x77 is no node's phandle",
        ),
        (
            one(node("").with("target", [u32::MAX]).child(contents())),
            "fragment@5: target 0xffffffff is no node's phandle",
        ),
        (fixups("nobody", "/fragment@5/__overlay__:p:0"), "fragment@5: label nobody is not in"),
        (fixups("bare", "/fragment@5/__overlay__:p:0"), "fragment@5: label bare is of no node"),
        (fixups("gone", "/fragment@5/__overlay__:p:0"), "fragment@5: label gone is of no node"),
        (
            fixups("gic", "/fragment@5/__overlay__:p:1"),
            "fragment@5: label gic: __fixups__ entry '/fragment@5/__overlay__:p:1' names no cell",
        ),
        (fixups("gic", "/fragment@5/__overlay__:q:0"), "fragment@5: label gic: __fixups__ entry"),
        (fixups("gic", "/fragment@5/none:p:0"), "fragment@5: label gic: __fixups__ entry"),
        (fixups("gic", "/fragment@5/__overlay__:p"), "fragment@5: label gic: __fixups__ entry"),
        (fixups("gic", "/fragment@5/__overlay__:p:-4"), "fragment@5: label gic: __fixups__ entry"),
        (
            fixups("gic", "/fragment@5/__overlay__:p:18446744073709551615"),
            "fragment@5: label gic: __fixups__ entry",
        ),
        (fixups("gic", "/fragment@5/__overlay__:p:0:0"), "fragment@5: label gic: __fixups__"),
        (fixups("gic", ""), "__fixups__: label gic: __fixups__ entry ''"),
        (
            local(in_five(node("").with("q", [0u32]))),
            "fragment@5: __local_fixups__: /fragment@5/__overlay__: q is not there or too short",
        ),
        (
            local(in_five(node("").child(node("n").with("p", [1u32])))),
            "fragment@5: __local_fixups__: /fragment@5/__overlay__/n: p is not there or too short",
        ),
        (
            local(in_five(node("").with("p", [0u8, 0, 0]))),
            "fragment@5: __local_fixups__: /fragment@5/__overlay__: p is not there",
        ),
        (
            local(in_five(node("").child(node("m")))),
            "fragment@5: __local_fixups__: /fragment@5/__overlay__: m is not there",
        ),
        (local(node("fragment@6")), "fragment@6: __local_fixups__: /: fragment@6 is not there"),
        (
            one(fragment(0, "/", contents().with("phandle", [u32::MAX - 1]))),
            "fragment@5: its phandles do not fit",
        ),
        (
            one(fragment(0, "/gic@1", contents().with("phandle", [1u32]))),
            "fragment@5: /gic@1 has phandle 0x7 already",
        ),
        (
            one(fragment(0, "/", contents().child(node("uart@2").with("phandle", [1u32])))),
            "fragment@5: /uart@2 has phandle 0x9 already",
        ),
        (
            one(fragment(0, "/", contents().child(node("n")).child(node("n")))),
            "its blob: /fragment@5/__overlay__: n is there twice",
        ),
    ];
    let (base, _) = labelled();
    for (over, expected) in table {
        let error = applied(&base, &over).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{expected:?}: {error:?}");
    }
}

#[test]
fn wrong_blobs_are_told_apart() {
    let (base, over) = labelled();
    let (base, over) = (base.blob(), over.blob());
    let magic = |error| matches!(error, PatchError::Tree(TreeError::Magic(_)));
    match apply(&[0; 40], &over, HEAP) {
        Err(OverlayError::Base(error)) => assert!(magic(error)),
        other => panic!("{other:?}"),
    }
    match apply(&base, b"/dts-v1/; /plugin/; &{/} { a; }; // not compiled", HEAP) {
        Err(OverlayError::Overlay(error)) => assert!(magic(error)),
        other => panic!("{other:?}"),
    }
    let twice = node("").child(node("a")).child(node("a"));
    match apply(&twice.blob(), &over, HEAP) {
        Err(OverlayError::Base(PatchError::Duplicate { .. })) => {}
        other => panic!("{other:?}"),
    }
}

/// Nested past the limit by trees that each keep it: found out before anybody walks the tree, on a
/// stack that holds no more levels than may be.
#[test]
fn p9_a_tree_that_gets_too_deep_is_refused_on_a_small_stack() {
    let chain = |links| (1..links).fold(node("a"), |below, _| node("a").child(below));
    let base = node("").child(chain(MAX_DEPTH - 4)).blob();
    // Each fragment goes to where the one before ended.
    let (links, count) = (MAX_DEPTH - 5, 40);
    let grown = (0..count).fold(node(""), |over, n| {
        let path = "/a".repeat(MAX_DEPTH - 4 + n * links);
        over.child(fragment(n, &path, node("").child(chain(links))))
    });
    let exact = |levels| {
        let path = "/a".repeat(MAX_DEPTH - 4);
        overlay(fragment(0, &path, node("").child(chain(levels)))).blob()
    };
    let (grown, fits, past) = (grown.blob(), exact(3), exact(4));
    let small = std::thread::Builder::new().stack_size(64 << 10).spawn(move || {
        assert!(apply(&base, &fits, HEAP).is_ok());
        for over in [past, grown] {
            let error = apply(&base, &over, HEAP).unwrap_err();
            let fragment = "fragment@0".to_string();
            assert_eq!(error, OverlayError::Fragment { fragment, fault: Fault::Depth });
        }
    });
    small.unwrap().join().unwrap();
}

/// Where the heap may be too small nothing is begun.
#[test]
fn a_small_heap_is_an_error() {
    let (base, over) = labelled();
    let (base, over) = (base.blob(), over.blob());
    let needed = heap_needed(&Blob::check(&base).unwrap(), &Blob::check(&over).unwrap());
    assert!(apply(&base, &over, needed).is_ok());
    let error = apply(&base, &over, needed - 1).unwrap_err();
    assert_eq!(error, OverlayError::Heap { needed, free: needed - 1 });
}

#[test]
fn messages_have_no_loose_ends() {
    let fragment = "fragment@0".to_string();
    let fault = Fault::PhandleTaken { node: "/".to_string(), phandle: 5 };
    let error = OverlayError::Fragment { fragment, fault }.to_string();
    assert!(error.starts_with("fragment@0: / has phandle 0x5 already; "), "{error}");
}

/// Values, unlike names, may hold anything; a message is one line all the same.
#[test]
fn p9_messages_are_one_line_whatever_values_hold() {
    let path = fragment(0, "/memory\u{10}\u{1b}[2J\n", node("x"));
    let (base, mut labels) = labelled();
    labels.at("__fixups__").set("gic", "/fragment\n@0\u{7}:refs:4");
    for (base, over) in [(virt(), overlay(path)), (base, labels)] {
        let error = applied(&base, &over).unwrap_err().to_string();
        assert!(error.is_ascii() && !error.contains(|c: char| c.is_control()), "{error:?}");
    }
}

/// What comes out of two blobs: if it is a tree, then everything that reads trees takes it.
fn exercise(base: &[u8], over: &[u8]) -> bool {
    let Ok(done) = apply(base, over, HEAP) else { return false };
    assert!(Blob::check(&done.blob).is_ok());
    let _ = (read(&done.blob), binding::regions(&done.blob));
    let _ = guest_tree(&done.blob, &GuestPlan::default());
    true
}

fn good() -> Vec<(Vec<u8>, Vec<u8>)> {
    let (base, over) = labelled();
    vec![
        (base.blob(), over.blob()),
        (base.flatten(&[(1, 2)], true), over.flatten(&[], true)),
        (bare("memory").blob(), storage().blob()),
        (virt().blob(), storage().blob()),
    ]
}

/// One change of a blob.
#[derive(Clone, Debug)]
enum Change {
    Byte(usize, u8),
    Word(usize, u32),
    Cut(usize),
    Copy(usize, usize, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let word = prop_oneof![
        prop::sample::select(vec![0, 1, 2, 3, 4, 5, 7, 9, 0x7fff_ffff, 0xffff_fffc, u32::MAX]),
        any::<u32>()
    ];
    prop_oneof![
        4 => (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        4 => (any::<usize>(), word).prop_map(|(at, word)| Change::Word(at, word)),
        1 => any::<usize>().prop_map(Change::Cut),
        2 => (any::<usize>(), any::<usize>(), 1usize..64)
            .prop_map(|(from, to, length)| Change::Copy(from, to, length)),
    ]
}

fn changed(blob: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut blob = blob.to_vec();
    for change in changes {
        let length = blob.len();
        match *change {
            _ if length < 8 => return blob,
            Change::Byte(at, byte) => blob[at % length] = byte,
            Change::Word(at, word) => {
                let at = (at % (length - 4)) & !3;
                blob[at..at + 4].copy_from_slice(&word.to_be_bytes());
            }
            Change::Cut(at) => {
                blob.truncate(at % length);
                let length = blob.len() as u32;
                if let Some(field) = blob.get_mut(4..8) {
                    field.copy_from_slice(&length.to_be_bytes());
                }
            }
            Change::Copy(from, to, count) => {
                let (from, to) = ((from % length) & !3, (to % length) & !3);
                let count = count.min(length - from).min(length - to);
                blob.copy_within(from..from + count, to);
            }
        }
    }
    blob
}

/// A tree of the names that the applier looks for, with values that hurt.
fn nonsense() -> impl Strategy<Value = Tree> {
    let name = prop::sample::select(vec![
        "fragment@0",
        "fragment@1",
        "fragment",
        "__overlay__",
        "__symbols__",
        "__fixups__",
        "__local_fixups__",
        "gic@1",
        "uart",
        "own",
    ]);
    let property = prop::sample::select(vec![
        "target",
        "target-path",
        "phandle",
        "linux,phandle",
        "refs",
        "gic",
        "uart",
        "own",
    ]);
    let value = prop_oneof![
        prop::sample::select(vec![
            "/",
            "",
            "/gic@1",
            "/fragment@0:target:0",
            "/fragment@0/__overlay__:refs:4",
            "/fragment@1/__overlay__/own:phandle:0",
            ":::",
            "/fragment@0/__overlay__",
        ])
        .prop_map(|text| trees::Value::bytes(&text)),
        prop::collection::vec(prop::sample::select(vec![0u32, 1, 2, 4, 8, 7, 9, u32::MAX]), 0..3)
            .prop_map(|cells| trees::Value::bytes(&&cells[..])),
        prop::collection::vec(any::<u8>(), 0..6),
    ];
    let properties = prop::collection::btree_map(property, value, 0..4);
    let leaf = (name.clone(), properties.clone()).prop_map(|(name, properties)| {
        properties.iter().fold(node(name), |tree, (name, value)| tree.with(name, &value[..]))
    });
    leaf.prop_recursive(4, 24, 4, move |below| {
        (name.clone(), properties.clone(), prop::collection::vec(below, 0..4)).prop_map(
            |(name, properties, children)| {
                let tree = node(name);
                let tree =
                    properties.iter().fold(tree, |tree, (name, value)| tree.with(name, &value[..]));
                children.into_iter().fold(tree, Tree::child)
            },
        )
    })
}

#[test]
fn good_overlays_are_good() {
    let (last, rest) =
        good().split_last().map(|(last, rest)| (last.clone(), rest.to_vec())).unwrap();
    assert!(rest.iter().all(|(base, over)| exercise(base, over)));
    // Its memory node has a phandle already.
    assert!(!exercise(&last.0, &last.1));
}

/// Runs `case` on values of `strategy`; one in `least` must have come to a tree, or the test has
/// not reached what it is for.
fn many<S: Strategy>(strategy: S, least: u32, case: impl Fn(S::Value) -> bool) {
    const CASES: u32 = 20_000;
    let config = ProptestConfig { cases: CASES, failure_persistence: None, ..Default::default() };
    let trees = Cell::new(0);
    let outcome = TestRunner::new(config).run(&strategy, |value| {
        trees.set(trees.get() + u32::from(case(value)));
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    println!("{} of {CASES} are trees", trees.get());
    assert!(trees.get() > CASES / least, "{} of {CASES}", trees.get());
}

#[test]
fn p9_no_changed_overlay_panics() {
    let base = prop::option::of(prop::collection::vec(change(), 0..3));
    let strategy = (0usize..4, prop::collection::vec(change(), 0..6), base);
    let good = good();
    many(strategy, 20, |(pair, over_changes, base_changes)| {
        let (base, over) = &good[pair];
        exercise(&changed(base, &base_changes.unwrap_or_default()), &changed(over, &over_changes))
    });
}

/// Well-formed, so that what comes after the structure check gets the work: nonsense beside a
/// good fragment, and in it.
#[test]
fn p9_no_nonsensical_overlay_panics() {
    let (base, good) = labelled();
    let base = base.blob();
    let parts = prop::collection::vec((nonsense(), any::<bool>()), 1..4);
    many(parts, 20, |parts| {
        let mut over = good.clone();
        for (part, inside) in parts {
            let place = if inside { "fragment@0/__overlay__" } else { "" };
            over.at(place).add(part);
        }
        exercise(&base, &over.blob())
    });
}
