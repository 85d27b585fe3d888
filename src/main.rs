// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tagstash, the firmware: the boot story, read from top to bottom.
//!
//! `el2::head` has put the CPU into a known state, relocated the image and turned the MMU on.
//! Here the shim finds its console and what the device tree says, takes its memory, builds its
//! own map and the guest's, begins to serve hypercalls, and enters the guest at EL1.

#![no_std]
#![no_main]

extern crate alloc;

mod el2;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt::Display;
use core::ptr::NonNull;
use el2::mmu::Stage1;
use el2::panic::stop;
use el2::{cache, calls, console, copy, features, guest, heap, hide, layout, mmu, pages, percpu};
use el2::{psci, slot, smc, stage2};
use log::{debug, info, warn};
use tagstash::addr::{PAGE_SIZE, PhysAddr, PhysRange};
use tagstash::appended::{Appended, AppendedError};
use tagstash::dtb::blob::{Blob, total_size};
use tagstash::dtb::overlay::{self, OverlayError};
use tagstash::dtb::patch::{GuestPlan, guest_tree};
use tagstash::dtb::read::{BootTree, Conduit, Module, read};
use tagstash::events::Kind;
use tagstash::hypercall::abi;
use tagstash::hypercall::service::{Policy, Service};
use tagstash::loaded::{Loaded, Name};
use tagstash::options::Options;
use tagstash::payload::{self, Payload};
use tagstash::ram::GuestRam;
use tagstash::space::Space;
use tagstash::stash::metadata::Metadata;
use tagstash::tags::binding;
use tagstash::tags::geometry::{Region, Regions};
use tagstash::translation::pa_bits;

/// Alignment of the shim's carve-out: one block of the guest's map, so that hiding it splits
/// none into pages.
const CARVE_OUT_ALIGNMENT: u64 = 2 << 20;

/// Tables kept in hand for later changes of the guest's map.
const SPARE_TABLES: usize = 128;

/// Bytes of a device tree that say how long it is.
const TREE_HEADER: u64 = 40;

/// Boots the machine on the first CPU. `tree` is what the loader passed in x0, `next_table` the
/// first of the early tables that the entry code left unused.
extern "C" fn boot(tree: u64, next_table: u64) -> ! {
    // SAFETY: The entry code calls this once, with its own account of the tables.
    let stage1 = unsafe { Stage1::adopt(PhysAddr(next_table)) };
    let mut stage1 = stage1.unwrap_or_else(|error| stop(error));
    heap::init();

    let blob = map_tree(&mut stage1, PhysAddr(tree));
    find_console(&mut stage1, blob);
    check_size(blob);
    let (blob, overlay) = with_overlay(blob);
    let mut tree = read(blob).unwrap_or_else(|error| stop_early(error));
    let appended = Appended::read(slot::appended(), layout::image());
    let in_chosen = tree.kernel.is_some();
    use_appended(&mut tree, &appended);
    let options = read_options(&tree);
    match overlay {
        None => {}
        Some(Ok(fragments)) => info!("the image's overlay: {fragments} fragments applied"),
        Some(Err(error)) => warn!("the image's overlay: {error}: it is not applied"),
    }
    smc::init(tree.psci == Some(Conduit::Smc));
    refuse_spin_table(&tree);
    let cpus = count_cpus(&tree);

    // What is taken already, then what the shim takes.
    let loaded = find_loaded(&tree, blob);
    match appended {
        Err(error) if in_chosen => warn!("{error}; going by the module in /chosen"),
        Err(error) => stop(error),
        Ok(None) => {}
        Ok(Some(_)) if in_chosen => info!(
            "what is appended to the image is passed over: /chosen has a multiboot,kernel module"
        ),
        Ok(Some(pieces)) => check_appended(&mut stage1, &tree, &pieces),
    }
    let payload = find_payload(&mut stage1, &tree);
    let regions = find_tag_storage(blob, &loaded, cpus, &options);
    let storage = hidden_storage(&tree, &loaded);
    let mut space = memory_space(&tree, &storage, &loaded);
    let kernel = find_kernel_place(&mut stage1, &mut space, &payload);
    space.take(payload.module());
    space.take(kernel);
    // Each piece of RAM has ends in EL2's map, each piece of storage in the guest's map as well.
    let pieces = tree.memory.len() + tree.no_map.len() + storage.len();
    let (regions, carve_out) = carve_out(&mut stage1, &mut space, regions, pieces);
    // SAFETY: Whole pages, mapped, that `Space` said nobody uses and nobody gets again.
    unsafe { pages::add(carve_out.tables) };
    let regions = map_storage(&mut stage1, regions, &tree);

    // What is the guest's, and what it must never reach.
    let mut hidden = storage;
    hidden.extend([layout::image(), carve_out.range]);
    let holes: Vec<PhysRange> = tree.no_map.iter().chain(&hidden).copied().collect();
    let ram = GuestRam::new(&within(&tree.memory, stage2::range()), &holes);
    map_guest_memory(&mut stage1, &ram);
    let pool = pages::free();
    stage2::build(&hidden).unwrap_or_else(|error| stop(error));
    info!("guest's map: {} tables, {} left for changes", pool - pages::free(), pages::free());

    hide_mte(&options);
    let policy = Policy { verify: options.verify, tags_hidden: hide::hidden() };
    serve(regions, &carve_out, ram, cpus, policy, options.mops);

    let tree = place_guest_tree(&mut stage1, &mut space, blob, &tree, &hidden);
    place_kernel(&payload, kernel);
    info!("heap: {} KiB used", heap::used() >> 10);
    info!("entering the guest at {}, EL1, device tree at {tree}", kernel.start());
    guest::enter(Kind::GuestEntered, kernel.start().0, tree.0)
}

/// Maps the device tree that the loader left at `address`. Without one there is no console to
/// say so on.
fn map_tree(stage1: &mut Stage1, address: PhysAddr) -> &'static [u8] {
    let mut find = || {
        if address == PhysAddr(0) || !address.is_aligned(8) {
            return None;
        }
        let header = PhysRange::new(address, TREE_HEADER)?;
        stage1.map(header, mmu::CONSTANTS).ok()?;
        // SAFETY: Just mapped; the boot protocol puts a device tree here.
        let length = total_size(unsafe { bytes(header) }).ok()?;
        let blob = PhysRange::new(address, length as u64)?;
        stage1.map(blob, mmu::CONSTANTS).ok()?;
        // SAFETY: As above. Until the guest is entered only the shim runs, and it writes to free
        // memory only, which the tree is not.
        Some(unsafe { bytes(blob) })
    };
    find().unwrap_or_else(|| stop("x0 does not point to a device tree"))
}

/// Stops if the heap cannot hold what reading and rewriting the tree may need.
fn check_size(blob: &[u8]) {
    let needed = Blob::check(blob).unwrap_or_else(|error| stop_early(error)).heap_needed();
    let free = heap::free();
    if needed > free {
        stop_early(format_args!(
            "the device tree may need {} KiB to read and rewrite, the heap has {} KiB: build the \
             shim with a larger arena (el2/heap.rs)",
            needed >> 10,
            free >> 10
        ))
    }
}

/// The tree to go by: the loader's with the image's overlay applied, in the heap, if there is
/// one; and how many fragments that has, or why it is wrong. A wrong overlay is not applied,
/// because the guest has to boot.
fn with_overlay(blob: &'static [u8]) -> (&'static [u8], Option<Result<usize, OverlayError>>) {
    let Some(overlay) = slot::overlay() else { return (blob, None) };
    match overlay::apply(blob, overlay, heap::free()) {
        // Without room to grow, which nobody has counted.
        Ok(applied) => (Box::leak(applied.blob.into_boxed_slice()), Some(Ok(applied.fragments))),
        Err(error) => (blob, Some(Err(error))),
    }
}

/// The bytes of `range`.
///
/// # Safety
///
/// `range` is mapped, and is not written to as long as the slice is used.
unsafe fn bytes(range: PhysRange) -> &'static [u8] {
    // SAFETY: The caller's promise; an identity map, and ranges do not wrap.
    unsafe { core::slice::from_raw_parts(range.start().0 as *const u8, range.len() as usize) }
}

/// Where a slice is.
fn address_of(slice: &[u8]) -> PhysRange {
    let start = PhysAddr(slice.as_ptr() as u64);
    PhysRange::new(start, slice.len() as u64).unwrap_or_else(|| stop("device tree wraps around"))
}

/// Makes the serial port of `/chosen` the sink of messages, if there is one.
fn find_console(stage1: &mut Stage1, blob: &[u8]) {
    if let Some(found) = tagstash::dtb::console::console(blob)
        && let Some(registers) = PhysRange::new(found.base, found.length)
        && stage1.map(registers, mmu::DEVICE).is_ok()
    {
        // SAFETY: The tree says what it is, and its registers are mapped.
        if let Some(port) = unsafe { console::Port::new(&found) } {
            console::init(port);
        }
    }
}

/// Stops because the tree cannot be read, and with it no option: says who this is first.
fn stop_early(reason: impl Display) -> ! {
    banner();
    stop(reason)
}

/// Gives `tree` the pieces that were appended to the image. A kernel of `/chosen` has precedence
/// over all of them, a ramdisk of `/chosen` over theirs: a loader that goes to the length of naming
/// one means it.
fn use_appended(tree: &mut BootTree, appended: &Result<Option<Appended<'_>>, AppendedError>) {
    if let Ok(Some(pieces)) = appended
        && tree.kernel.is_none()
    {
        let bootargs = pieces.bootargs.map(Into::into);
        tree.kernel = Some(Module { range: pieces.kernel, bootargs });
        tree.ramdisk = tree.ramdisk.or(pieces.ramdisk);
    }
}

/// Reads the boot options: those of `/chosen`, then those of the kernel's module, which win. The
/// words stay in the guest's boot arguments, whose kernel passes over them.
fn read_options(tree: &BootTree) -> Options {
    let module = tree.kernel.as_ref().and_then(|module| module.bootargs.as_deref());
    let arguments = || tree.bootargs.as_deref().into_iter().chain(module);
    let options = Options::read(arguments(), |_| {});
    // Before the first message; the complaints come after the banner.
    log::set_max_level(options.log);
    banner();
    Options::read(arguments(), |complaint| warn!("{complaint}"));
    debug!("{options:?}");
    if let Some(bits) = options.pa_bits
        && let Err(own) = stage2::cap(bits)
    {
        let asked = pa_bits(bits.pa_range());
        warn!("tagstash.pa-bits={asked} is ignored: this CPU has {own} address bits");
    }
    options
}

/// Hides MTE, if that is asked for.
fn hide_mte(options: &Options) {
    if !options.hide_mte {
        return;
    }
    if hide::init() {
        info!("MTE is hidden from the guest, no page of which needs tag storage");
    } else {
        info!("tagstash.mte=hide: nothing to hide, the CPU has no tag memory (FEAT_MTE2)");
    }
}

/// Says who this is.
fn banner() {
    info!(
        "version {}, commit {}, ABI {}.{}",
        env!("CARGO_PKG_VERSION"),
        option_env!("TAGSTASH_COMMIT").unwrap_or("unknown"),
        abi::VERSION_MAJOR,
        abi::VERSION_MINOR
    );
    info!("image at {}", layout::image());
}

/// Stops if a CPU besides this one waits in a spin table: the guest would release it into itself at
/// EL2, where all is open to it, and nothing that the shim can do to the tree or to the guest's map
/// takes that away for certain.
fn refuse_spin_table(tree: &BootTree) {
    if let Some(cpu) = tree.spin_table.iter().find(|cpu| **cpu != psci::this_cpu()) {
        stop(format_args!(
            "CPU {cpu:#x} waits in a spin table (enable-method), from which the guest would start it at \
             EL2, past the shim: have firmware start CPUs by PSCI"
        ))
    }
}

/// Numbers the CPUs; returns how many are served.
fn count_cpus(tree: &BootTree) -> usize {
    let cpus = psci::init(&tree.cpus, tree.psci == Some(Conduit::Smc));
    let mte = match (features::mte(), features::mte2()) {
        (_, true) => "MTE with tag memory",
        (true, false) => "MTE without tag memory",
        _ => "no MTE",
    };
    info!("CPUs: {cpus}, {} address bits, {mte}", bits(stage2::range()));
    if tree.cpus.len() > cpus {
        warn!(
            "the device tree has {} CPUs: those after the first {} cannot be started; build the \
             shim with a larger MAX_CPUS (platform.rs)",
            tree.cpus.len(),
            percpu::MAX_CPUS
        );
    }
    let states = tree.idle_states.len();
    let offered =
        |state: &Option<u32>| state.is_some_and(|state| psci::suspend().is_standby(state));
    let lost = states - tree.idle_states.iter().filter(|state| offered(state)).count();
    if lost != 0 {
        info!(
            "idle states: {lost} of {states} are not offered, because they are no standby states"
        );
    }
    let psci = match tree.psci {
        Some(Conduit::Smc) => return cpus,
        Some(Conduit::Hvc) => "the device tree says PSCI by HVC, which nobody answers above EL2",
        None => {
            "the device tree has no PSCI 0.2 or later (compatible arm,psci-0.2 or arm,psci-1.0)"
        }
    };
    warn!("{psci}: no further CPU can be started; have firmware offer PSCI by SMC");
    cpus
}

/// Sees that what the loader put in memory is in RAM, each piece apart from the others.
fn find_loaded(tree: &BootTree, blob: &[u8]) -> Loaded {
    let (end, bits) = (stage2::range().end(), bits(stage2::range()));
    for range in tree.memory.iter().filter(|range| range.end() > end) {
        let start = range.start().max(end);
        warn!("memory {range} is left out from {start} on: the guest's map has {bits} bits");
    }
    let ram = GuestRam::new(&within(&tree.memory, stage2::range()), &[]);
    if ram.ranges().is_empty() {
        stop(
            "the device tree describes no memory that this CPU can address: have firmware write its memory nodes",
        )
    }
    let mut loaded = Loaded::new(layout::image(), address_of(blob));
    let kernel = tree.kernel.as_ref().map(|module| module.range);
    for (name, range) in [(Name::Kernel, kernel), (Name::Ramdisk, tree.ramdisk)] {
        if let Some(range) = range {
            loaded.add(name, range, &ram).unwrap_or_else(|error| stop(error));
        }
    }
    loaded
}

/// Stops unless all of the file was loaded that the pieces were appended to.
fn check_appended(stage1: &mut Stage1, tree: &BootTree, appended: &Appended<'_>) {
    let seal = appended.seal();
    let ram = GuestRam::new(&within(&tree.memory, stage2::range()), &[]);
    let mut checked = appended.check(&[]);
    if ram.check(seal.start(), seal.len()).is_some()
        && stage1.map(seal, mmu::DATA).is_ok()
        && copy::answers(seal)
    {
        // SAFETY: Just mapped, RAM that the file's end was loaded to. Nobody else uses it, and the
        // slice ends before it is written to.
        checked = appended.check(unsafe { crate::bytes(seal) });
        if checked.is_ok() {
            // RAM may keep it over a reset, and the next load of this file be cut off.
            // SAFETY: As above.
            unsafe { core::ptr::write_bytes(seal.start().0 as *mut u8, 0, seal.len() as usize) };
            cache::clean_data(seal);
        }
    }
    checked.unwrap_or_else(|error| stop(error));
    let length = seal.end().0 - layout::image().start().0;
    let ramdisk = match (appended.ramdisk, tree.ramdisk) {
        (None, _) => "no ramdisk",
        (ours, used) if ours == used => "and ramdisk",
        _ => "and a ramdisk that is passed over, because /chosen has one",
    };
    info!(
        "appended to the image: kernel at {}, {ramdisk}; {} KiB in all",
        appended.kernel,
        length >> 10
    );
}

/// Reads the guest's kernel.
fn find_payload(stage1: &mut Stage1, tree: &BootTree) -> Payload {
    let Some(module) = &tree.kernel else {
        stop(
            "no guest: /chosen has no multiboot,kernel module (on QEMU: -device \
             guest-loader,addr=ADDRESS,kernel=IMAGE), and no kernel is appended to the image \
             (boot/pack.py)",
        )
    };
    let range = module.range;
    if let Err(error) = stage1.map(range, mmu::CONSTANTS) {
        stop(error)
    }
    if !copy::answers(range) {
        stop(format_args!("the kernel at {range} cannot be read: there is no RAM at this address"))
    }
    // SAFETY: Just mapped; the loader put it there, and nobody else runs.
    let read = Payload::read(range, unsafe { bytes(range) });
    read.unwrap_or_else(|error| stop(error))
}

/// Finds the place where the kernel will run, in RAM that is there.
fn find_kernel_place(stage1: &mut Stage1, space: &mut Space, payload: &Payload) -> PhysRange {
    loop {
        let place = payload.place(space).unwrap_or_else(|error| stop(error));
        if is_there(stage1, space, place) {
            return place;
        }
    }
}

/// Says whether there is RAM at `place`, which is free, and maps it. Where there is none, a
/// message says so and the free range around it is given up.
fn is_there(stage1: &mut Stage1, space: &mut Space, place: PhysRange) -> bool {
    if let Err(error) = stage1.map(place, mmu::DATA) {
        stop(error)
    }
    if copy::answers(place) {
        return true;
    }
    let given_up = space.free_around(place.start()).unwrap_or(place);
    warn!(
        "no RAM answers at {place}, though a memory node has it: nothing is placed in {given_up}; \
         correct the memory node"
    );
    space.take(given_up);
    false
}

/// Finds the tag storage to lend. None, with a message that says why, where an option says so,
/// where the CPU has no tags, where the tree describes none, or where it describes it wrongly.
fn find_tag_storage(blob: &[u8], loaded: &Loaded, cpus: usize, options: &Options) -> Regions {
    if !options.reuse {
        info!("tag storage: reuse is off (tagstash.off)");
        return Regions::default();
    }
    let found = match binding::regions(blob) {
        Ok(found) => found,
        Err(error) => {
            warn!("{error}: reuse is off");
            return Regions::default();
        }
    };
    if found.is_empty() {
        info!("tag storage: none described, reuse is off");
        return Regions::default();
    }
    if !features::mte2() {
        info!("tag storage: the CPU has no tag memory (FEAT_MTE2), reuse is off");
        return Regions::default();
    }
    for storage in found.iter().map(Region::storage) {
        let core = stage2::core_range();
        if !core.contains_range(&storage) {
            warn!(
                "tag storage {storage} does not lie within the {} address bits of this CPU: reuse is \
                 off; correct reg",
                bits(core)
            );
            return Regions::default();
        }
        if let Some((name, taken)) = loaded.overlapping(storage) {
            warn!(
                "tag storage {storage} overlaps the {name} at {taken}: reuse is off; load the \
                 {name} elsewhere"
            );
            return Regions::default();
        }
    }
    match Regions::new(found, cpus) {
        Ok(regions) => {
            for placed in regions.as_slice() {
                let region = placed.region;
                info!(
                    "tag storage {} for memory {}: {} blocks of {} KiB",
                    region.storage(),
                    region.tagged(),
                    region.blocks(),
                    region.block_size() >> 10
                );
            }
            regions
        }
        Err(error) => {
            warn!("tag storage: {error}: reuse is off");
            Regions::default()
        }
    }
}

/// The registers of the serial port.
fn serial_port(tree: &BootTree) -> Option<PhysRange> {
    tree.console.and_then(|port| PhysRange::new(port.base, port.length))
}

/// The tag storage that the guest must not reach, lent or not, in whole pages. A description so
/// wrong that it covers what is to run, or the serial port, is not believed: the guest has to boot.
fn hidden_storage(tree: &BootTree, loaded: &Loaded) -> Vec<PhysRange> {
    let pages: Vec<PhysRange> = tree.tag_storage.iter().filter_map(PhysRange::page_cover).collect();
    let mut hidden = within(&pages, stage2::range());
    let port = serial_port(tree);
    hidden.retain(|storage| {
        let covers = port.is_some_and(|port| port.overlaps(storage));
        if covers {
            warn!("tag storage {storage} is not hidden: it overlaps the serial port");
        }
        !covers
    });
    hidden.retain(|storage| match loaded.overlapping(*storage) {
        None => true,
        Some((name, taken)) => {
            warn!("tag storage {storage} is not hidden: it overlaps the {name} at {taken}");
            false
        }
    });
    hidden
}

/// RAM with all that is taken before the shim takes anything.
fn memory_space(tree: &BootTree, storage: &[PhysRange], loaded: &Loaded) -> Space {
    let memory = within(&tree.memory, stage2::range());
    let merged = GuestRam::new(&memory, &[]);
    info!("memory: {} MiB in {} ranges", mebibytes(&merged), merged.ranges().len());
    let mut taken: Vec<PhysRange> = loaded.fixed().collect();
    taken.extend(tree.no_map.iter().chain(&tree.reserved).chain(storage));
    Space::new(memory, taken)
}

/// The parts of `ranges` that lie in `bounds`.
fn within(ranges: &[PhysRange], bounds: PhysRange) -> Vec<PhysRange> {
    let parts = ranges.iter().map(|range| range.intersection(&bounds));
    parts.filter(|part| !part.is_empty()).collect()
}

/// The parts of `ranges` that lie above `bounds`, which begin at 0. In whole pages, as far as
/// they can be had.
fn beyond(ranges: &[PhysRange], bounds: PhysRange) -> Vec<PhysRange> {
    let parts = ranges.iter().filter_map(|range| {
        let start = range.start().max(bounds.end());
        PhysRange::from_bounds(start, range.end())?.page_cover()
    });
    parts.filter(|part| !part.is_empty()).collect()
}

/// The log2 of a range's length.
fn bits(range: PhysRange) -> u32 {
    range.len().ilog2()
}

/// Memory that the shim takes for itself.
struct CarveOut {
    range: PhysRange,
    /// For translation tables.
    tables: PhysRange,
    /// For the service.
    metadata: PhysRange,
}

/// Takes memory for tables and, behind them, metadata. Where there is too little of it the
/// metadata, and with it reuse, is done without.
fn carve_out(
    stage1: &mut Stage1,
    space: &mut Space,
    regions: Regions,
    pieces: usize,
) -> (Regions, CarveOut) {
    // The shim and the carve-out are two more.
    let tables = (stage2::tables_for(pieces + 2) + SPARE_TABLES) as u64 * PAGE_SIZE;
    let metadata = Metadata::bytes_for(&regions);
    if let Some(taken) = take(stage1, space, tables, metadata) {
        return (regions, taken);
    }
    if !regions.as_slice().is_empty() {
        warn!(
            "no {} KiB of contiguous RAM are free for metadata: reuse is off; give the guest more \
             RAM, or reserve less of it",
            metadata >> 10
        );
    }
    let regions = Regions::default();
    let taken = take(stage1, space, tables, Metadata::bytes_for(&regions));
    let taken = taken.unwrap_or_else(|| {
        stop(format_args!(
            "no {} KiB of contiguous RAM are free for translation tables: give the guest more \
             RAM, or reserve less of it",
            tables >> 10
        ))
    });
    (regions, taken)
}

/// Takes `tables` and `metadata` bytes side by side, and maps them.
fn take(stage1: &mut Stage1, space: &mut Space, tables: u64, metadata: u64) -> Option<CarveOut> {
    let size = tables.checked_add(metadata)?.checked_next_multiple_of(CARVE_OUT_ALIGNMENT)?;
    let range = loop {
        let range = space.highest(size, CARVE_OUT_ALIGNMENT)?;
        if is_there(stage1, space, range) {
            break range;
        }
    };
    let metadata_start = PhysAddr(range.end().0 - metadata.next_multiple_of(PAGE_SIZE));
    let tables = PhysRange::from_bounds(range.start(), metadata_start)?;
    let metadata = PhysRange::new(metadata_start, metadata)?;
    space.take(range);
    info!(
        "carve-out {range}: {} KiB for tables, {} KiB for metadata",
        tables.len() >> 10,
        metadata.len() >> 10
    );
    Some(CarveOut { range, tables, metadata })
}

/// Maps the tag storage that is to be lent. None is lent where some of it is no memory: a put
/// there would be the first to notice.
fn map_storage(stage1: &mut Stage1, regions: Regions, tree: &BootTree) -> Regions {
    let port = serial_port(tree);
    for storage in regions.as_slice().iter().map(|placed| placed.region.storage()) {
        if port.is_some_and(|port| port.overlaps(&storage)) {
            warn!("tag storage {storage} overlaps the serial port: reuse is off; correct reg");
            return Regions::default();
        }
        if let Err(error) = stage1.map(storage, mmu::DATA) {
            stop(error)
        }
        if !copy::answers(storage) {
            warn!("tag storage {storage} does not answer: reuse is off; correct reg");
            return Regions::default();
        }
    }
    regions
}

/// Maps what the service reads and writes besides tag storage: guest RAM.
fn map_guest_memory(stage1: &mut Stage1, ram: &GuestRam) {
    for range in ram.ranges().iter().copied() {
        if let Err(error) = stage1.map(range, mmu::DATA) {
            stop(error)
        }
    }
    info!("guest RAM: {} MiB in {} ranges", mebibytes(ram), ram.ranges().len());
}

/// Length of all ranges, which do not overlap.
fn mebibytes(ram: &GuestRam) -> u64 {
    ram.ranges().iter().map(PhysRange::len).sum::<u64>() >> 20
}

/// Begins to serve hypercalls.
fn serve(
    regions: Regions,
    carve_out: &CarveOut,
    ram: GuestRam,
    cpus: usize,
    policy: Policy,
    mops: bool,
) {
    let start = carve_out.metadata.start().0 as *mut u8;
    let Some(base) = NonNull::new(start) else { stop("metadata at address 0") };
    // SAFETY: These bytes are mapped, page aligned, and belong to the shim for this purpose.
    let metadata = unsafe {
        base.write_bytes(0, carve_out.metadata.len() as usize);
        Metadata::from_zeroed(base, &regions)
    };
    let (frames, blocks) = (regions.frames(), regions.blocks());
    let service = Service::new(regions, metadata, ram, cpus, cache::Machine);
    let instructions = calls::init(service.with_policy(policy), mops);
    info!("service: {frames} frames in {blocks} blocks, dormant, {instructions}");
}

/// Makes the guest's copy of the device tree and returns its address.
fn place_guest_tree(
    stage1: &mut Stage1,
    space: &mut Space,
    blob: &[u8],
    tree: &BootTree,
    hidden: &[PhysRange],
) -> PhysAddr {
    let bootargs = tree.kernel.as_ref().and_then(|module| module.bootargs.as_deref());
    // The guest knows nothing of where its map ends.
    let no_map = [hidden, &beyond(&tree.memory, stage2::range())].concat();
    let suspend = psci::suspend();
    let plan = GuestPlan { no_map: &no_map, bootargs, initrd: tree.ramdisk, suspend };
    let copy = guest_tree(blob, &plan).unwrap_or_else(|error| stop(error));
    // Aligned so that it crosses no multiple of 2 MiB, as kernels before 4.2 ask.
    let place = loop {
        let Some(place) = space.highest(copy.len() as u64, payload::ALIGNMENT) else {
            stop(format_args!(
                "no {} bytes of RAM are free for the guest's device tree: give the guest more RAM, \
                 or reserve less of it",
                copy.len()
            ))
        };
        if is_there(stage1, space, place) {
            break place;
        }
    };
    space.take(place);
    // SAFETY: Free guest RAM, mapped.
    unsafe {
        core::ptr::copy_nonoverlapping(copy.as_ptr(), place.start().0 as *mut u8, copy.len());
    }
    cache::clean_data(place);
    info!("guest device tree: {} bytes", copy.len());
    place.start()
}

/// Puts the kernel where it will run, and makes it visible to a CPU without caches.
fn place_kernel(payload: &Payload, place: PhysRange) {
    let module = payload.module();
    if module.start() != place.start() {
        info!("kernel moved from {} to {}", module.start(), place.start());
        // SAFETY: Both are RAM, mapped, and nobody reads the module after this. The place is free for
        // a kernel that moves, so the two may overlap.
        unsafe {
            core::ptr::copy(
                module.start().0 as *const u8,
                place.start().0 as *mut u8,
                module.len() as usize,
            );
        }
    }
    cache::clean_invalidate_data(place);
}
