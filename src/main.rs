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

use alloc::vec::Vec;
use core::ptr::NonNull;
use el2::mmu::Stage1;
use el2::panic::stop;
use el2::{cache, calls, console, features, guest, heap, layout, mmu, pages, percpu};
use el2::{psci, smc, stage2};
use log::{info, warn};
use tagstash::addr::{PAGE_SIZE, PhysAddr, PhysRange};
use tagstash::dtb::blob::{Blob, total_size};
use tagstash::dtb::patch::{GuestPlan, guest_tree};
use tagstash::dtb::read::{BootTree, Conduit, read};
use tagstash::hypercall::abi;
use tagstash::hypercall::service::Service;
use tagstash::payload::{self, Payload};
use tagstash::ram::GuestRam;
use tagstash::space::Space;
use tagstash::stash::metadata::Metadata;
use tagstash::tags::binding;
use tagstash::tags::geometry::{Region, Regions};

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
    banner();
    check_size(blob);
    let tree = read(blob).unwrap_or_else(|error| stop(error));
    smc::init(tree.psci == Some(Conduit::Smc));
    let cpus = count_cpus(&tree);

    // What is taken already, then what the shim takes.
    let here = address_of(blob);
    let payload = find_payload(&mut stage1, &tree, here);
    let occupied = [Some(layout::image()), Some(here), Some(payload.module()), tree.ramdisk];
    let occupied: Vec<PhysRange> = occupied.into_iter().flatten().collect();
    let regions = find_tag_storage(blob, &occupied, cpus);
    let storage = hidden_storage(&tree, &occupied);
    let mut space = memory_space(&tree, &storage, here);
    let kernel = payload.place(&space).unwrap_or_else(|error| stop(error));
    space.take(payload.module());
    space.take(kernel);
    let (regions, carve_out) = carve_out(&mut space, regions, storage.len());
    map_carve_out(&mut stage1, &carve_out);

    // What is the guest's, and what it must never reach.
    let mut hidden = storage;
    hidden.extend([layout::image(), carve_out.range]);
    let holes: Vec<PhysRange> = tree.no_map.iter().chain(&hidden).copied().collect();
    let ram = GuestRam::new(&within(&tree.memory, stage2::range()), &holes);
    map_guest_memory(&mut stage1, &ram, &regions);
    let pool = pages::free();
    stage2::build(&hidden).unwrap_or_else(|error| stop(error));
    info!("guest's map: {} tables, {} left for changes", pool - pages::free(), pages::free());

    serve(regions, &carve_out, ram, cpus);

    let tree = place_guest_tree(&mut space, blob, &tree, &hidden);
    place_kernel(&payload, kernel);
    info!("heap: {} KiB used", heap::used() >> 10);
    info!("entering the guest at {}, EL1, device tree at {tree}", kernel.start());
    guest::enter(kernel.start().0, tree.0)
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
    let needed = Blob::check(blob).unwrap_or_else(|error| stop(error)).heap_needed();
    let free = heap::free();
    if needed > free {
        stop(format_args!(
            "the device tree may need {} KiB to read and rewrite, the heap has {} KiB: build the \
             shim with a larger arena (el2/heap.rs)",
            needed >> 10,
            free >> 10
        ))
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
        // SAFETY: The tree says that it is a PL011, and its registers are mapped.
        if let Some(port) = unsafe { console::Pl011::new(&found) } {
            console::init(port);
        }
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

/// Numbers the CPUs; returns how many are served.
fn count_cpus(tree: &BootTree) -> usize {
    let cpus = psci::init(&tree.cpus);
    let conduit = match tree.psci {
        Some(Conduit::Smc) => "PSCI by SMC",
        Some(Conduit::Hvc) => "PSCI by HVC, which nobody answers above EL2",
        None => "no PSCI",
    };
    let mte = match (features::mte(), features::mte2()) {
        (_, true) => "MTE with tag memory",
        (true, false) => "MTE without tag memory",
        _ => "no MTE",
    };
    info!("CPUs: {cpus}, {} address bits, {mte}, {conduit}", bits(stage2::range()));
    if tree.cpus.len() > cpus {
        warn!(
            "the device tree has {} CPUs: those after the first {} cannot be started",
            tree.cpus.len(),
            percpu::MAX_CPUS
        );
    }
    cpus
}

/// Finds the guest's kernel, and sees that what the loader put in memory does not overlap.
fn find_payload(stage1: &mut Stage1, tree: &BootTree, blob: PhysRange) -> Payload {
    let Some(module) = &tree.kernel else {
        stop(
            "no guest: /chosen has no multiboot,kernel module (on QEMU: -device \
             guest-loader,addr=ADDRESS,kernel=IMAGE)",
        )
    };
    let ram = GuestRam::new(&tree.memory, &[]);
    let modules = [("kernel", Some(module.range)), ("ramdisk", tree.ramdisk)];
    let modules = modules.iter().filter_map(|(name, range)| range.map(|range| (*name, range)));
    for (name, range) in modules {
        if ram.check(range.start(), range.len()).is_none() {
            stop(format_args!("the {name} at {range} is not in RAM: load it elsewhere"))
        }
        let others = [("shim", Some(layout::image())), ("device tree", Some(blob))];
        let ramdisk = ("ramdisk", tree.ramdisk.filter(|_| name != "ramdisk"));
        for (other, taken) in others.into_iter().chain([ramdisk]) {
            if let Some(taken) = taken.filter(|taken| taken.overlaps(&range)) {
                stop(format_args!(
                    "the {name} at {range} overlaps the {other} at {taken}: load it elsewhere"
                ))
            }
        }
    }
    if let Err(error) = stage1.map(module.range, mmu::CONSTANTS) {
        stop(error)
    }
    // SAFETY: Just mapped; the loader put it there, and nobody else runs.
    let read = Payload::read(module.range, unsafe { bytes(module.range) });
    read.unwrap_or_else(|error| stop(error))
}

/// Finds the tag storage to lend. None, with a message that says why, where the CPU has no
/// tags, where the tree describes none, or where it describes it wrongly.
fn find_tag_storage(blob: &[u8], occupied: &[PhysRange], cpus: usize) -> Regions {
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
    let conflict =
        |region: &Region| occupied.iter().find(|taken| taken.overlaps(&region.storage())).copied();
    if let Some((region, taken)) = found.iter().find_map(|r| conflict(r).map(|taken| (r, taken))) {
        warn!("tag storage {} overlaps {taken}, which is in use", region.storage());
        warn!("reuse of tag storage is off");
        return Regions::default();
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

/// The tag storage that the guest must not reach, lent or not, in whole pages. A description so
/// wrong that it covers what is to run is not believed: the guest has to boot.
fn hidden_storage(tree: &BootTree, occupied: &[PhysRange]) -> Vec<PhysRange> {
    let pages: Vec<PhysRange> = tree.tag_storage.iter().filter_map(PhysRange::page_cover).collect();
    let mut hidden = within(&pages, stage2::range());
    hidden.retain(|storage| !occupied.iter().any(|taken| taken.overlaps(storage)));
    hidden
}

/// RAM with all that is taken before the shim takes anything.
fn memory_space(tree: &BootTree, storage: &[PhysRange], blob: PhysRange) -> Space {
    let memory = within(&tree.memory, stage2::range());
    if memory.is_empty() {
        stop("the device tree describes no memory that this CPU can address")
    }
    let merged = GuestRam::new(&memory, &[]);
    info!("memory: {} MiB in {} ranges", mebibytes(&merged), merged.ranges().len());
    let mut taken = Vec::from([layout::image(), blob]);
    taken.extend(tree.ramdisk);
    taken.extend(tree.no_map.iter().chain(&tree.reserved).chain(storage));
    Space::new(memory, taken)
}

/// The parts of `ranges` that lie in `bounds`.
fn within(ranges: &[PhysRange], bounds: PhysRange) -> Vec<PhysRange> {
    let parts = ranges.iter().map(|range| range.intersection(&bounds));
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
fn carve_out(space: &mut Space, regions: Regions, storages: usize) -> (Regions, CarveOut) {
    let tables = (stage2::tables_for(storages + 2) + SPARE_TABLES) as u64 * PAGE_SIZE;
    let metadata = Metadata::bytes_for(&regions);
    let regions = match take(space, tables, metadata) {
        Some(taken) => return (regions, taken),
        None => {
            warn!("no {metadata:#x} bytes of RAM are free for metadata: reuse is off");
            Regions::default()
        }
    };
    let taken = take(space, tables, Metadata::bytes_for(&regions));
    let taken = taken.unwrap_or_else(|| stop("too little RAM for translation tables"));
    (regions, taken)
}

/// Takes `tables` and `metadata` bytes side by side.
fn take(space: &mut Space, tables: u64, metadata: u64) -> Option<CarveOut> {
    let size = tables.checked_add(metadata)?.checked_next_multiple_of(CARVE_OUT_ALIGNMENT)?;
    let range = space.highest(size, CARVE_OUT_ALIGNMENT)?;
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

/// Maps the carve-out and gives its first part to the tables.
fn map_carve_out(stage1: &mut Stage1, carve_out: &CarveOut) {
    if let Err(error) = stage1.map(carve_out.range, mmu::DATA) {
        stop(error)
    }
    // SAFETY: Whole pages, just mapped, that `Space` said nobody uses and nobody gets again.
    unsafe { pages::add(carve_out.tables) };
}

/// Maps what the service reads and writes: guest RAM, and tag storage.
fn map_guest_memory(stage1: &mut Stage1, ram: &GuestRam, regions: &Regions) {
    let storage = regions.as_slice().iter().map(|placed| placed.region.storage());
    for range in ram.ranges().iter().copied().chain(storage) {
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
fn serve(regions: Regions, carve_out: &CarveOut, ram: GuestRam, cpus: usize) {
    let start = carve_out.metadata.start().0 as *mut u8;
    let Some(base) = NonNull::new(start) else { stop("metadata at address 0") };
    // SAFETY: These bytes are mapped, page aligned, and belong to the shim for this purpose.
    let metadata = unsafe {
        base.write_bytes(0, carve_out.metadata.len() as usize);
        Metadata::from_zeroed(base, &regions)
    };
    let lse = features::lse();
    let (frames, blocks) = (regions.frames(), regions.blocks());
    calls::init(Service::new(regions, metadata, ram, cpus, cache::Machine), lse);
    info!(
        "service: {frames} frames in {blocks} blocks, dormant, {}",
        if lse { "atomics" } else { "exclusives" }
    );
}

/// Makes the guest's copy of the device tree and returns its address.
fn place_guest_tree(
    space: &mut Space,
    blob: &[u8],
    tree: &BootTree,
    hidden: &[PhysRange],
) -> PhysAddr {
    let bootargs = tree.kernel.as_ref().and_then(|module| module.bootargs.as_deref());
    let plan = GuestPlan { no_map: hidden, bootargs, initrd: tree.ramdisk };
    let copy = guest_tree(blob, &plan).unwrap_or_else(|error| stop(error));
    // Aligned so that it crosses no multiple of 2 MiB, as kernels before 4.2 ask.
    let place = space.highest(copy.len() as u64, payload::ALIGNMENT);
    let place = place.unwrap_or_else(|| stop("no RAM is free for the guest's device tree"));
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
        // SAFETY: Both are guest RAM, mapped; the place is free and thus not in the module.
        unsafe {
            core::ptr::copy_nonoverlapping(
                module.start().0 as *const u8,
                place.start().0 as *mut u8,
                module.len() as usize,
            );
        }
    }
    cache::clean_invalidate_data(place);
}
