// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is fuzzed, and what must hold of it for every input: the promises of the functions, checked against a model that
//! shares no code with them but the walk over a checked blob's tokens.
//!
//! An input is a blob and anything after it.

use crate::coverage::{self, Cost};
use crate::engine::Target;
use crate::heap;
use crate::mutate;
use crate::random::Random;
use crate::ranges::Set;
use crate::seeds;
use crate::tree::{Node, Style, Tree, number};
use std::collections::BTreeSet;
use std::fmt::Display;
use tagstash::addr::{PAGE_SIZE, PhysAddr, PhysRange};
use tagstash::dtb::blob::{Blob, MAX_SIZE, total_size};
use tagstash::dtb::console::console;
use tagstash::dtb::overlay;
use tagstash::dtb::patch::{GuestPlan, HYPERVISOR_COMPATIBLE, guest_tree};
use tagstash::dtb::read::{BootTree, read};
use tagstash::payload::{ALIGNMENT, Payload};
use tagstash::psci::Suspend;
use tagstash::space::Space;
use tagstash::tags::binding::{self, COMPATIBLE};
use tagstash::tags::geometry::{MAX_REGIONS, Region, Regions};

/// Most stack of a call, in bytes: what the deepest trees take here, with every check compiled in, and a fifth. The frames of the
/// firmware are smaller; a level more of recursion, or a larger frame in it, shows here as well.
const MOST_STACK: usize = 32 << 10;
/// Most edges of a call, for any input and for each byte of it.
const MOST_WORK: (usize, usize) = (20_000, 300);

/// How often the inputs got how far, and what they cost at most.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Inputs.
    pub inputs: u64,
    /// Blobs that pass the check.
    pub blobs: u64,
    /// Trees that read.
    pub trees: u64,
    /// Trees whose console is found.
    pub consoles: u64,
    /// Trees with tag storage that can be used.
    pub storages: u64,
    /// Guest's copies.
    pub copies: u64,
    /// Overlays that were applied.
    pub overlays: u64,
    /// Kernels.
    pub kernels: u64,
    /// Most edges for a byte of a blob over what any input may take.
    pub work: usize,
    /// Most stack of a call.
    pub stack: usize,
    /// Most heap of a call, in percent of what `heap_needed` said.
    pub heap: usize,
    /// Edges taken for this input, in all calls.
    pub last_work: usize,
}

/// The device-tree code.
#[derive(Default)]
pub struct Trees {
    tally: Tally,
}

impl Target for Trees {
    const NAME: &'static str = "trees";
    const MAX_INPUT: usize = mutate::MAX_INPUT;
    const UNITS: (usize, usize) = (0, 4);

    fn check(&mut self, input: &[u8]) -> Result<(), String> {
        check(input, &mut self.tally)
    }

    fn mutate(random: &mut Random, input: &[u8], other: &[u8]) -> Vec<u8> {
        mutate::mutate(random, input, other)
    }

    fn seeds() -> Vec<Vec<u8>> {
        seeds::seeds()
    }

    fn last_work(&self) -> usize {
        self.tally.last_work
    }

    fn summary(&self) -> Vec<String> {
        let tally = &self.tally;
        vec![
            format!(
                "of {} inputs: {} good blobs, {} trees read, {} consoles, {} with tag storage, {} copies, {} overlays, \
                 {} kernels",
                tally.inputs,
                tally.blobs,
                tally.trees,
                tally.consoles,
                tally.storages,
                tally.copies,
                tally.overlays,
                tally.kernels,
            ),
            format!(
                "at most: {} edges a byte, {} bytes of stack, {} % of the heap that was said",
                tally.work, tally.stack, tally.heap,
            ),
        ]
    }

    /// Each kind of outcome in no small part of the runs.
    fn got_far(&self, runs: u64) -> bool {
        let t = &self.tally;
        let kinds = [t.blobs, t.trees, t.consoles, t.storages, t.copies, t.overlays];
        kinds.iter().all(|kind| *kind > runs / 50)
    }

    fn oracles_bite() -> bool {
        oracles_bite()
    }
}

/// What a call may take.
struct Limits<'t> {
    most: Cost,
    heap: usize,
    length: usize,
    tally: &'t mut Tally,
}

impl Limits<'_> {
    /// Makes a call within the limits.
    fn call<T>(&mut self, name: &str, call: impl FnOnce() -> T) -> Result<T, String> {
        let ((out, cost), heap) = heap::peak(|| coverage::watch(self.most, call));
        self.tally.last_work += cost.work;
        self.tally.stack = self.tally.stack.max(cost.stack);
        let extra = cost.work.saturating_sub(MOST_WORK.0) / self.length.max(1);
        self.tally.work = self.tally.work.max(extra);
        let percent = (heap * 100).checked_div(self.heap).unwrap_or_default();
        self.tally.heap = self.tally.heap.max(percent);
        if heap > self.heap {
            return Err(format!("{name} takes {heap} bytes of heap, but {} were said", self.heap));
        }
        Ok(out)
    }
}

/// Runs all that reads a blob on `input` and checks what comes out.
///
/// # Errors
///
/// Which promise is broken.
fn check(input: &[u8], tally: &mut Tally) -> Result<(), String> {
    tally.inputs += 1;
    tally.last_work = 0;
    check_blob(input, tally)?;
    if let Some(merged) = check_overlay(input, tally)? {
        check_blob(&merged, tally).map_err(|error| format!("with the overlay: {error}"))?;
    }
    Ok(())
}

/// Applies what follows the blob as an overlay; returns the outcome.
fn check_overlay(input: &[u8], tally: &mut Tally) -> Result<Option<Vec<u8>>, String> {
    let split = total_size(input).ok().and_then(|size| input.split_at_checked(size));
    let Some((base, over)) = split.filter(|(_, over)| over.starts_with(&input[..4])) else {
        return Ok(None);
    };
    let length = input.len().min(2 * MAX_SIZE);
    let most = Cost { work: MOST_WORK.0 + 3 * MOST_WORK.1 * length, stack: MOST_STACK };
    let mut limits = Limits { most, heap: 0, length: 3 * length, tally };
    let needed = match (Blob::check(base), Blob::check(over)) {
        (Ok(base), Ok(over)) => overlay::heap_needed(&base, &over),
        _ => 0,
    };
    limits.heap = needed;
    let applied = limits.call("overlay::apply", || overlay::apply(base, over, usize::MAX))?;
    if let Some(less) = needed.checked_sub(1)
        && overlay::apply(base, over, less).is_ok()
    {
        return Err(format!("an overlay is applied in {less} bytes, but {needed} were said"));
    }
    let applied = match applied {
        Ok(applied) => applied,
        Err(error) => return message(&error).map(|()| None),
    };
    limits.tally.overlays += 1;
    let trees = (Tree::parse(base), Tree::parse(over), Tree::parse(&applied.blob));
    let (Some(base), Some(over), Some(merged)) = trees else {
        return Err("an overlay that is applied to what does not parse".to_string());
    };
    let fragments = over.root.children.iter().filter(|child| child.base_name() == b"fragment");
    let aligned =
        applied.blob.len().is_multiple_of(8) && total_size(&applied.blob) == Ok(applied.blob.len());
    let kept = merged.boot_cpu == base.boot_cpu && merged.reservations == base.reservations;
    if fragments.count() != applied.fragments || !aligned || !kept {
        return Err(format!("{} fragments, {} bytes", applied.fragments, applied.blob.len()));
    }
    // Nothing goes; what comes or changes is in the overlay.
    let mut names = BTreeSet::new();
    fn collect<'t>(node: &'t Node, names: &mut BTreeSet<&'t [u8]>) {
        names.insert(&node.name);
        names.extend(node.properties.iter().map(|(name, _)| name.as_slice()));
        node.children.iter().for_each(|child| collect(child, names));
    }
    collect(&over.root, &mut names);
    grown(&base.root, &merged.root, &names)?;
    Ok(Some(applied.blob))
}

/// Checks that `new` is `old` with more nodes and other properties, whose names are among `names`.
fn grown(old: &Node, new: &Node, names: &BTreeSet<&[u8]>) -> Result<(), String> {
    let gone = |name: &[u8]| Err(format!("the overlay removed {}", String::from_utf8_lossy(name)));
    for (name, value) in &old.properties {
        match new.properties.iter().find(|(other, _)| other == name) {
            Some((_, other)) if other == value || names.contains(name.as_slice()) => {}
            _ => return gone(name),
        }
    }
    for child in &old.children {
        match new.children.iter().find(|other| other.name == child.name) {
            Some(other) => grown(child, other, names)?,
            None => return gone(&child.name),
        }
    }
    let properties = new
        .properties
        .iter()
        .map(|(name, _)| name.as_slice())
        .filter(|name| !old.properties.iter().any(|(other, _)| other == name));
    let children = new
        .children
        .iter()
        .map(|child| child.name.as_slice())
        .filter(|name| !old.children.iter().any(|other| other.name == *name));
    match properties.chain(children).find(|name| !names.contains(name)) {
        Some(name) => Err(format!("{} comes from nowhere", String::from_utf8_lossy(name))),
        None => Ok(()),
    }
}

/// Runs all that reads a blob.
fn check_blob(input: &[u8], tally: &mut Tally) -> Result<(), String> {
    let length = input.len().min(MAX_SIZE);
    let most = Cost { work: MOST_WORK.0 + MOST_WORK.1 * length, stack: MOST_STACK };
    let mut limits = Limits { most, heap: 0, length, tally };

    kernel(input, &mut limits)?;
    let size = limits.call("total_size", || total_size(input))?;
    let port = limits.call("console", || console(input))?;
    let blob = match limits.call("Blob::check", || Blob::check(input))? {
        Ok(blob) => blob,
        Err(error) => {
            message(&error)?;
            return match port {
                None => Ok(()),
                Some(port) => Err(format!("a malformed blob has a console, {port:?}")),
            };
        }
    };
    limits.tally.blobs += 1;
    limits.tally.consoles += u64::from(port.is_some());
    let total = size.map_err(|error| format!("a good blob without a size: {error}"))?;
    limits.heap = blob.heap_needed();
    let compact = limits.call("compact", || blob.compact())?;
    if Blob::check(&compact).map(|again| again.tokens().eq(blob.tokens())) != Ok(true) {
        return Err("the compact blob has other tokens".to_string());
    }

    let input_tree = Tree::parse(input).ok_or("a good blob does not parse")?;
    let found = limits.call("read", || read(input))?;
    let regions = limits.call("regions", || binding::regions(input))?;
    // In this order: the reader's checks are the weaker ones.
    if let Ok(boot) = &found {
        limits.tally.trees += 1;
        if boot.console != port {
            return Err(format!("two consoles: {port:?} and {:?}", boot.console));
        }
        memory(boot)?;
    }
    match &regions {
        Ok(regions) => {
            limits.tally.storages += u64::from(!regions.is_empty());
            storage(&input_tree, regions, found.as_ref().ok())?;
        }
        Err(error) => message(error)?,
    }
    if let Err(error) = &found {
        message(error)?;
    }

    // The field that nothing reads but to copy it: the plan changes with the input, and is found again with it.
    let mut random = Random::new(u64::from(blob.boot_cpu()));
    let plan = Plan::random(&mut random, found.as_ref().ok());
    let guest = match limits.call("guest_tree", || guest_tree(input, &plan.plan()))? {
        Ok(guest) => guest,
        Err(error) => return message(&error),
    };
    limits.tally.copies += 1;
    copy(&input_tree, found.is_ok(), &plan, &guest)
        .map_err(|error| format!("{error}; the plan was {plan:x?}"))?;

    limits.heap = Blob::check(&guest).map_err(|error| error.to_string())?.heap_needed();
    limits.length = guest.len();
    limits.most.work += guest.len().saturating_sub(total) * MOST_WORK.1;
    let again = limits.call("guest_tree again", || guest_tree(&guest, &plan.plan()))?;
    let again = again.map_err(|error| format!("no copy of the copy: {error}"))?;
    match sorted(&again) == sorted(&guest) {
        true => Ok(()),
        false => Err(format!("the copy of the copy is another; the plan was {plan:x?}")),
    }
}

/// A message goes to the console as one line.
fn message(error: &dyn Display) -> Result<(), String> {
    let text = error.to_string();
    match text.is_empty() || text.chars().any(|c| c.is_control()) {
        true => Err(format!("a message that is no line: {text:?}")),
        false => Ok(()),
    }
}

/// The kernel's header: the place that it gets is large enough, aligned and free.
fn kernel(input: &[u8], limits: &mut Limits<'_>) -> Result<(), String> {
    let range = |start: u64, end: u64| PhysRange::from_bounds(PhysAddr(start), PhysAddr(end));
    // Modules are where the loader put them: aligned, badly aligned, and at the end of the addresses.
    let starts = [0x4020_0000, 0x4021_1000, 0u64.wrapping_sub(input.len() as u64 + 1)];
    for start in starts {
        let module = PhysRange::clamped(PhysAddr(start), input.len() as u64);
        let payload = match limits.call("Payload::read", || Payload::read(module, input))? {
            Ok(payload) => payload,
            Err(error) => {
                message(&error)?;
                continue;
            }
        };
        limits.tally.kernels += 1;
        if let Some(here) = limits.call("in_place", || payload.in_place())?
            && (here.start() != module.start() || here.len() < module.len())
        {
            return Err(format!("a kernel at {module} is in place at {here}"));
        }
        let memory: Vec<PhysRange> = [range(0x4000_0000, 0x8000_0000), range(1 << 63, u64::MAX)]
            .into_iter()
            .flatten()
            .collect();
        let space = Space::new(memory.clone(), vec![module]);
        match payload.place(&space) {
            Ok(place) => {
                let text_offset = input.get(8..16).map_or(0, |bytes| number(bytes).swap_bytes());
                let aligned = (place.start().0 % ALIGNMENT == text_offset % ALIGNMENT)
                    || number(input.get(16..24).unwrap_or_default()) == 0;
                let inside = memory.iter().any(|memory| memory.contains_range(&place));
                if !aligned || !inside || place.overlaps(&module) || place.len() < module.len() {
                    return Err(format!("the kernel at {module} is to be placed at {place}"));
                }
            }
            Err(error) => message(&error)?,
        }
    }
    Ok(())
}

/// Places in the memory that a tree describes are in it, aligned, and not taken.
fn memory(boot: &BootTree) -> Result<(), String> {
    let taken = [&boot.no_map[..], &boot.reserved, &boot.tag_storage].concat();
    let all = [&boot.memory[..], &taken].concat();
    if let Some(empty) = all.iter().find(|range| range.is_empty()) {
        return Err(format!("an empty range, {empty}"));
    }
    let space = Space::new(boot.memory.clone(), taken.clone());
    let memory = Set::of(&boot.memory);
    for (size, align) in [(0x1000, 0x1000), (0x20_0000, 0x20_0000), (0x4000_0000, 0x1000)] {
        for place in [space.highest(size, align), space.lowest(size, align)].into_iter().flatten() {
            let free = memory.contains(&place) && !taken.iter().any(|range| range.overlaps(&place));
            if !free || place.len() != size || !place.start().0.is_multiple_of(align) {
                return Err(format!(
                    "{place} is a place for {size:#x} bytes, aligned to {align:#x}"
                ));
            }
        }
    }
    Ok(())
}

/// The rules of the binding, of tag storage that was said to keep them.
fn storage(tree: &Tree, regions: &[Region], boot: Option<&BootTree>) -> Result<(), String> {
    // The first dialect alone has storage that no memory node describes.
    let nodes = || tree.root.children.iter();
    let is_first = |node: &&Node| compatible(node, &[COMPATIBLE]) && node.get("memory").is_some();
    let first_dialect = nodes().filter(is_first).count();
    let mut outside = 0;
    let mut untaggable = Vec::new();
    for node in nodes().filter(|node| node.get("arm,no-mte").is_some() && is_memory(node)) {
        let wide = |name: &str| tree.root.get(name).map(number) == Some(2);
        if let Some(reg) = node.get("reg").filter(|_| wide("#address-cells") && wide("#size-cells"))
        {
            let ranges = reg.chunks_exact(16).map(|pair| (number(pair), number(&pair[8..])));
            untaggable
                .extend(ranges.filter_map(|(start, len)| PhysRange::new(PhysAddr(start), len)));
        }
    }
    if regions.len() > MAX_REGIONS {
        return Err(format!("{} regions", regions.len()));
    }
    for (index, region) in regions.iter().enumerate() {
        let (tagged, storage, block) = (region.tagged(), region.storage(), region.block_size());
        let numbers = [tagged.start().0, tagged.end().0, storage.start().0, storage.end().0, block];
        let good = numbers.iter().all(|number| number.is_multiple_of(PAGE_SIZE))
            && block != 0
            && !storage.is_empty()
            && storage.len().is_multiple_of(block)
            && u128::from(storage.len()) * 32 == u128::from(tagged.len())
            && !tagged.overlaps(&storage);
        if !good {
            return Err(format!("a region that breaks a rule: {region:x?}"));
        }
        for other in &regions[..index] {
            let own = [tagged, storage];
            if own.iter().any(|own| own.overlaps(&other.tagged()) || own.overlaps(&other.storage()))
            {
                return Err(format!("regions that overlap: {region:x?} {other:x?}"));
            }
        }
        if let Some(boot) = boot {
            if !Set::of(&boot.tag_storage).contains(&storage) {
                return Err(format!("{storage} is not left out of the guest's memory"));
            }
            outside += usize::from(!Set::of(&boot.memory).contains(&storage));
            if !Set::of(&boot.memory).contains(&tagged) {
                return Err(format!("tagged {tagged} is no memory"));
            }
        }
        if untaggable.iter().any(|range| range.overlaps(&tagged)) {
            return Err(format!("tagged {tagged} cannot be tagged"));
        }
        arithmetic(region)?;
    }
    if outside > first_dialect {
        return Err(format!("{outside} storages are no memory: {regions:x?}"));
    }
    for cpus in [1, 8] {
        if let Ok(all) = Regions::new(regions.to_vec(), cpus) {
            let frames: u64 = regions.iter().map(|region| u64::from(region.frames())).sum();
            let last = all.frames().checked_sub(1);
            let found = last.is_none_or(|last| all.frame_address(last).is_some());
            if u64::from(all.frames()) != frames
                || all.frame_address(all.frames()).is_some()
                || !found
            {
                return Err(format!("{frames} frames are numbered {}", all.frames()));
            }
        }
    }
    Ok(())
}

/// Says whether the node is an enabled memory node.
fn is_memory(node: &Node) -> bool {
    let text = |name: &str| node.get(name).and_then(|value| value.split(|byte| *byte == 0).next());
    text("device_type") == Some(b"memory") && matches!(text("status"), None | Some(b"okay" | b"ok"))
}

/// The first and the last page of a region have their tags where they belong.
fn arithmetic(region: &Region) -> Result<(), String> {
    let (tagged, storage) = (region.tagged(), region.storage());
    for address in [tagged.start().0, tagged.end().0 - 1] {
        let page = region.page_of(PhysAddr(address)).ok_or("a page without a number")?;
        let block = region.block_of_page(page);
        let byte = region.storage_byte(PhysAddr(address)).ok_or("an address without tags")?;
        let expected = u128::from(storage.start().0) + u128::from(address - tagged.start().0) / 32;
        let good = u128::from(byte.0) == expected
            && block < region.blocks()
            && region.block_storage(block).contains(byte)
            && region.block_data(block).contains(PhysAddr(address))
            && storage.contains_range(&region.block_storage(block))
            && tagged.contains_range(&region.block_data(block));
        if !good {
            return Err(format!("the tags of {address:#x} are not where they belong: {region:x?}"));
        }
    }
    Ok(())
}

/// A plan that owns what it refers to.
#[derive(Debug)]
pub struct Plan {
    /// The holes.
    pub no_map: Vec<PhysRange>,
    /// The command line.
    pub bootargs: Option<&'static str>,
    /// The ramdisk.
    pub initrd: Option<PhysRange>,
    /// What firmware's CPU_SUSPEND reads.
    pub suspend: Suspend,
}

impl Plan {
    fn plan(&self) -> GuestPlan<'_> {
        let Plan { bootargs, initrd, suspend, .. } = *self;
        GuestPlan { no_map: &self.no_map, bootargs, initrd, suspend }
    }

    /// Holes inside memory and outside, across the bounds of memory and of reservations, overlapping, empty, at 0 and
    /// at the top of the address space.
    fn random(random: &mut Random, boot: Option<&BootTree>) -> Plan {
        let mut points =
            vec![0, 1, 0x1000, 0x4000_0000, 1 << 32, 1 << 48, u64::MAX - 0xfff, u64::MAX];
        if let Some(boot) = boot {
            let ranges = [&boot.memory, &boot.no_map, &boot.reserved, &boot.tag_storage];
            for range in ranges.into_iter().flatten() {
                let (start, end) = (range.start().0, range.end().0);
                let middle = (start / 2 + end / 2) & !0xfff;
                points.extend([
                    start,
                    end,
                    middle,
                    end.saturating_sub(0x1000),
                    start.wrapping_add(1),
                ]);
            }
        }
        let range = |random: &mut Random| {
            let (one, other) = (*random.pick(&points), *random.pick(&points));
            let short = one.saturating_add(0x1000 << random.below(12));
            let other = if random.one_in(2) { short } else { other };
            PhysRange::from_bounds(PhysAddr(one.min(other)), PhysAddr(one.max(other)))
        };
        let holes = random.below(6);
        Plan {
            no_map: (0..holes).filter_map(|_| range(random)).collect(),
            bootargs: *random.pick(&[None, Some("quiet"), Some(""), Some("console=ttyAMA0\0more")]),
            initrd: if random.one_in(2) { range(random) } else { None },
            suspend: *random.pick(&[Suspend::None, Suspend::Original, Suspend::Extended]),
        }
    }
}

/// Says whether one of `wanted` is in the node's `compatible`.
fn compatible(node: &Node, wanted: &[&str]) -> bool {
    let value = node.get("compatible").unwrap_or_default();
    value
        .split(|byte| *byte == 0)
        .any(|entry| wanted.iter().any(|wanted| entry == wanted.as_bytes()))
}

/// What the guest's tree must be, reservations aside: the tree less what goes, with what is set.
fn expected(input: &Tree, plan: &Plan) -> Tree {
    fn prune(node: &mut Node) {
        node.children.retain(|child| !compatible(child, &[COMPATIBLE]));
        node.children.iter_mut().for_each(prune);
    }
    let mut tree = Tree { rest: Vec::new(), ..input.clone() };
    prune(&mut tree.root);
    tree.root.children.retain(|child| child.base_name() != b"hypervisor");
    let at = tree.root.child("chosen").unwrap_or_else(|| {
        tree.root.children.push(Node::new(b"chosen"));
        tree.root.children.len() - 1
    });
    let chosen = &mut tree.root.children[at];
    let modules = ["multiboot,module", "multiboot,kernel", "multiboot,ramdisk"];
    chosen.children.retain(|child| !compatible(child, &modules));
    if let Some(bootargs) = plan.bootargs {
        let text = bootargs.split('\0').next().unwrap_or_default();
        chosen.set("bootargs", &[text.as_bytes(), b"\0"].concat());
    }
    if let Some(initrd) = plan.initrd {
        chosen.set("linux,initrd-start", &initrd.start().0.to_be_bytes());
        chosen.set("linux,initrd-end", &initrd.end().0.to_be_bytes());
    }
    tree
}

/// Checks the guest's copy of `input`, which reads if `reads`.
///
/// # Errors
///
/// What is wrong with the copy.
pub fn copy(input: &Tree, reads: bool, plan: &Plan, guest: &[u8]) -> Result<(), String> {
    let tree = Tree::parse(guest).ok_or("the copy is malformed")?;
    if !guest.len().is_multiple_of(8) || total_size(guest) != Ok(guest.len()) {
        return Err(format!("the copy has {} bytes", guest.len()));
    }
    let model = expected(input, plan);
    if tree.boot_cpu != model.boot_cpu {
        return Err("the copy boots another CPU".to_string());
    }
    let holes = Set::of(&plan.no_map);
    // The nodes of the holes come off first: one may have the name of a node that it takes the place of.
    let mut tree = tree;
    if let Some(at) = tree.root.child("reserved-memory") {
        let children = &mut tree.root.children[at].children;
        let before = children.len();
        let cells = |name: &str| model.root.get(name).map_or(0, number);
        let nodes = holes.values(cells("#address-cells"), cells("#size-cells"));
        children.retain(|node| {
            let reg = node.get("reg").unwrap_or_default();
            let plain = node.properties.len() == 2 && node.children.is_empty();
            !(plain && node.get("no-map") == Some(b"") && nodes.iter().any(|hole| hole == reg))
        });
        if before - children.len() != holes.len() {
            return Err(format!(
                "{holes:?} are the holes, but {} have nodes",
                before - children.len()
            ));
        }
    }
    let counts = |node: Option<&Node>| {
        let count = |name: &str| node.and_then(|node| node.get(name)).map(number);
        [count("#address-cells"), count("#size-cells")]
    };
    let reserved = tree.root.child("reserved-memory").map(|at| &tree.root.children[at]);
    let ranges = reserved.and_then(|node| node.get("ranges"));
    if counts(reserved) != counts(Some(&tree.root)) || ranges != Some(b"") {
        return Err("/reserved-memory does not have the root's addresses".to_string());
    }
    let mut added = Vec::new();
    same(&model.root, &tree.root, "/", &mut added)?;
    let had_reserved = model.root.child("reserved-memory").is_some();
    for (parent, node) in added {
        let good = match node.base_name() {
            b"hypervisor" => compatible(node, &[HYPERVISOR_COMPATIBLE]),
            b"reserved-memory" => !had_reserved && node.children.is_empty(),
            _ => false,
        };
        if parent != "/" || !good {
            return Err(format!("{parent}: a node was added: {node:?}"));
        }
    }
    if tree.root.children.iter().filter(|node| node.base_name() == b"hypervisor").count() != 1 {
        return Err("not one hypervisor node".to_string());
    }
    match binding::regions(guest) {
        Ok(regions) if regions.is_empty() => {}
        other => return Err(format!("the copy has tag storage: {other:?}")),
    }

    // What the guest reads is what the firmware's tree says, less the holes.
    let wanted = match read(&model.write(Style::default())) {
        Ok(wanted) => wanted,
        // A bad ramdisk that a module hid is bad in the copy too.
        Err(_) if reads && plan.initrd.is_some() => {
            return Err("the model does not read".to_string());
        }
        Err(_) => return Ok(()),
    };
    let found = read(guest).map_err(|error| format!("the copy does not read: {error}"))?;
    if !found.tag_storage.is_empty() || found.kernel.is_some() {
        return Err(format!("the copy has storage or a kernel: {found:?}"));
    }
    let no_map = Set::of(&[&wanted.no_map[..], &plan.no_map].concat());
    if Set::of(&found.no_map) != no_map {
        return Err(format!("no-map is {:?}, not {no_map:?}", Set::of(&found.no_map)));
    }
    let reserved = Set::of(&wanted.reserved).without(&holes);
    if Set::of(&found.reserved) != reserved {
        return Err(format!("reserved is {:?}, not {reserved:?}", Set::of(&found.reserved)));
    }
    // A node that reserved nothing but what is a hole went with all that was in it.
    let mut model = model;
    let mut gone = false;
    if let Some(at) = model.root.child("reserved-memory") {
        let parts = &mut model.root.children[at];
        let left = tree.root.children.iter().find(|node| node.name == parts.name);
        let left = |node: &Node| {
            left.is_some_and(|left| left.children.iter().any(|n| n.name == node.name))
        };
        let before = parts.children.len();
        parts.children.retain(left);
        gone = parts.children.len() < before;
    }
    let wanted = match gone {
        true => read(&model.write(Style::default())).map_err(|error| error.to_string())?,
        false => wanted,
    };
    let kept = |state: &Option<u32>| state.is_some_and(|state| plan.suspend.is_standby(state));
    let standby: Vec<_> = wanted.idle_states.iter().copied().filter(kept).collect();
    if found.idle_states != standby {
        return Err(format!("the copy has idle states {:?}, not {standby:?}", found.idle_states));
    }
    let rest = |boot: BootTree| BootTree {
        no_map: Vec::new(),
        reserved: Vec::new(),
        idle_states: Vec::new(),
        ..boot
    };
    let (wanted, found) = (rest(wanted), rest(found));
    match found == wanted {
        true => Ok(()),
        false => Err(format!("the copy reads {found:?}, not {wanted:?}")),
    }
}

/// Says whether the oracles refuse what they must: as the copy of a tree with tag storage, that tree itself, a copy made for
/// other holes, and a copy with one property changed.
fn oracles_bite() -> bool {
    let blob = crate::trees::virt().blob();
    let hole = |start: u64| PhysRange::clamped(PhysAddr(start), 0x20_0000);
    let suspend = Suspend::None;
    let plan = |start| Plan { no_map: vec![hole(start)], bootargs: None, initrd: None, suspend };
    let Some(tree) = Tree::parse(&blob) else { return false };
    let Ok(good) = guest_tree(&blob, &plan(0x4020_0000).plan()) else { return false };
    let Some(mut bad) = Tree::parse(&good) else { return false };
    let Some(psci) = bad.root.child("psci") else { return false };
    bad.root.children[psci].set("method", b"hvc\0");
    let refuses = |plan: &Plan, guest: &[u8]| copy(&tree, true, plan, guest).is_err();
    !refuses(&plan(0x4020_0000), &good)
        && refuses(&plan(0x4020_0000), &blob)
        && refuses(&plan(0x4040_0000), &good)
        && refuses(&plan(0x4020_0000), &bad.write(Style::default()))
}

/// The tree in a blob, children and properties in the order of their names.
fn sorted(blob: &[u8]) -> Option<Tree> {
    fn sort(node: &mut Node) {
        node.properties.sort();
        node.children.sort_by(|one, other| one.name.cmp(&other.name));
        node.children.iter_mut().for_each(sort);
    }
    let mut tree = Tree::parse(blob)?;
    sort(&mut tree.root);
    Some(tree)
}

/// Checks that `found` has all properties and nodes of `wanted` and no other property; collects the nodes that were
/// added. What is reserved is compared elsewhere.
fn same<'t>(
    wanted: &Node,
    found: &'t Node,
    path: &str,
    added: &mut Vec<(String, &'t Node)>,
) -> Result<(), String> {
    // The first node of that name is the one that counts, whatever its unit address.
    let path_of = |node: &Node| {
        let first = wanted.child("reserved-memory").map(|index| &wanted.children[index].name);
        match path {
            "/" if first == Some(&node.name) => "/reserved-memory".to_string(),
            "/" => format!("/ {}", String::from_utf8_lossy(&node.name)),
            _ => format!("{path}/{}", String::from_utf8_lossy(&node.name)),
        }
    };
    let reserved = path.strip_prefix("/reserved-memory/").is_some_and(|rest| !rest.contains('/'));
    // What depends on the cells and `ranges` of /reserved-memory, which become the root's and empty.
    let translated = |name: &str, old: &[u8], new: &[u8]| match name {
        "#address-cells" | "#size-cells" => path == "/reserved-memory",
        "ranges" => path == "/reserved-memory" && new.is_empty(),
        "reg" | "alloc-ranges" => reserved,
        "size" | "alignment" => reserved && new.len() <= 8 && number(old) == number(new),
        _ => false,
    };
    for (name, value) in &wanted.properties {
        let name = String::from_utf8_lossy(name);
        let new = found.get(&name);
        if new != Some(value) && !new.is_some_and(|new| translated(&name, value, new)) {
            return Err(format!("{path}: {name} is {new:02x?}, not {value:02x?}"));
        }
    }
    let extra = found.properties.len().saturating_sub(wanted.properties.len());
    let may = ["#address-cells", "#size-cells", "ranges"];
    let missing =
        may.iter().filter(|name| path == "/reserved-memory" && wanted.get(name).is_none());
    if extra != missing.count() {
        return Err(format!("{path}: {extra} properties were added"));
    }
    for child in &wanted.children {
        match found.children.iter().find(|other| other.name == child.name) {
            Some(other) => same(child, other, &path_of(child), added)?,
            // All that it reserved lies in holes: compared as ranges.
            None if path == "/reserved-memory" && child.get("reg").is_some() => {}
            None => return Err(format!("{} is gone", path_of(child))),
        }
    }
    let is_new = |node: &&Node| !wanted.children.iter().any(|child| child.name == node.name);
    added.extend(found.children.iter().filter(is_new).map(|node| (path.to_string(), node)));
    Ok(())
}
