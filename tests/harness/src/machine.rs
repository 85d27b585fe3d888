// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the harness runs on: memory, CPUs and devices from the device tree; where the tag
//! storage really lies, from the boot arguments, because the shim does not tell.

use fdt::Fdt;
use fdt::node::FdtNode;
use spin::Once;

use crate::console;
use crate::entry::MAX_CPUS;
use crate::mmu::{self, Kind};
use crate::ranges::{List, PAGE, Range, Ranges};

/// A piece of tag storage and the memory whose tags it holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Region {
    /// The tagged memory.
    pub tagged: Range,
    /// Where its tags lie.
    pub storage: Range,
    /// Bytes of storage that serve one contiguous run of tagged memory.
    pub block: u64,
}

impl Region {
    /// Frames of storage.
    pub fn frames(&self) -> u64 {
        self.storage.pages()
    }

    /// Blocks of storage.
    pub fn blocks(&self) -> u64 {
        self.storage.length() / self.block
    }

    /// Frames of one block.
    pub fn frames_of_block(&self) -> u64 {
        self.block / PAGE
    }

    /// Pages whose tags lie in one block.
    pub fn pages_of_block(&self) -> u64 {
        self.frames_of_block() * 32
    }

    /// Where the tag of the granule at `address` lies: the byte; its low nibble is the even
    /// granule's.
    pub fn storage_of(&self, address: u64) -> u64 {
        self.storage.start + (address - self.tagged.start) / 32
    }

    /// The memory whose tags lie in block `number`.
    pub fn data_of_block(&self, number: u64) -> Range {
        let bytes = self.block * 32;
        Range::of(self.tagged.start + number * bytes, bytes)
    }

    /// The block that holds the tags of `address`.
    pub fn block_of(&self, address: u64) -> u64 {
        (self.storage_of(address) - self.storage.start) / self.block
    }
}

/// Everything that is known about the machine.
pub struct Machine {
    /// The device tree.
    pub tree: Fdt<'static>,
    /// Its address, as x0 said.
    pub tree_address: u64,
    /// The tree's memory nodes.
    pub memory: Ranges,
    /// Reserved memory nodes with `no-map`.
    pub no_map: Ranges,
    /// Guest RAM: memory less `no-map`, whole pages.
    pub ram: Ranges,
    /// Guest RAM that is nobody's: not the image, the tree, an initrd or reserved.
    pub free: Ranges,
    /// MPIDRs, this CPU's first.
    pub cpus: List<u64, MAX_CPUS>,
    /// Distributor and first redistributor of the GICv3.
    pub gic: Option<(u64, u64)>,
    /// The boot arguments.
    pub arguments: &'static str,
    /// The tag storage that the boot arguments describe.
    pub regions: List<Region, 32>,
    /// Memory that the tree has and the machine has not: accesses abort.
    pub absent: Option<Range>,
    /// Where the file behind the memory begins.
    pub ram_base: u64,
}

static MACHINE: Once<Machine> = Once::new();

/// The machine, after [`learn`].
pub fn machine() -> &'static Machine {
    MACHINE.get().expect("the device tree is read first")
}

impl Machine {
    /// The value of the boot argument `name=value`.
    pub fn argument(&self, name: &str) -> Option<&'static str> {
        self.arguments_named(name).next()
    }

    fn arguments_named(&self, name: &str) -> impl Iterator<Item = &'static str> {
        values(self.arguments, name)
    }

    /// Whether the machine is meant to have tag storage.
    pub fn expects_storage(&self) -> bool {
        self.argument("expect") != Some("no-storage")
    }

    /// Whether the shim is meant to hide MTE.
    pub fn expects_hidden(&self) -> bool {
        self.argument("expect") == Some("hidden")
    }

    /// Whether every activation is meant to verify.
    pub fn expects_verification(&self) -> bool {
        self.argument("expect") == Some("verification")
    }

    /// Whether the ID registers are wanted rather than tests.
    pub fn wants_registers(&self) -> bool {
        self.argument("mode") == Some("registers")
    }

    /// Whether every System register is wanted rather than tests.
    pub fn wants_sweep(&self) -> bool {
        self.argument("mode") == Some("sweep")
    }

    /// Whether numbers of instructions are wanted rather than tests.
    pub fn wants_report(&self) -> bool {
        self.argument("mode") == Some("report")
    }

    /// Whether the instructions of every call are wanted rather than tests.
    pub fn wants_bench(&self) -> bool {
        self.argument("mode") == Some("bench")
    }

    /// The region that holds the tags of a page.
    pub fn region_of(&self, page: u64) -> Option<&Region> {
        self.regions.all().iter().find(|region| region.tagged.holds(Range::of(page, PAGE)))
    }

    /// Whether all of a range is guest RAM.
    pub fn is_ram(&self, range: Range) -> bool {
        self.ram.hold(range)
    }

    /// All frames of all regions.
    pub fn frames(&self) -> u64 {
        self.regions.all().iter().map(Region::frames).sum()
    }

    /// All blocks of all regions.
    pub fn blocks(&self) -> u64 {
        self.regions.all().iter().map(Region::blocks).sum()
    }
}

fn values<'a>(arguments: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    arguments
        .split_ascii_whitespace()
        .filter_map(|word| word.split_once('='))
        .filter(move |(key, _)| *key == name)
        .map(|(_, value)| value)
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn region(text: &str) -> Option<Region> {
    let mut fields = text.split(',').map(number);
    let mut next = || fields.next().flatten();
    let (tagged, length, storage, block) = (next()?, next()?, next()?, next()?);
    let whole = fields.next().is_none() && block % PAGE == 0 && length % 32 == 0;
    (whole && block != 0).then(|| Region {
        tagged: Range::of(tagged, length),
        storage: Range::of(storage, length / 32),
        block,
    })
}

fn range(text: &str) -> Option<Range> {
    let (base, length) = text.split_once(',')?;
    Some(Range::of(number(base)?, number(length)?))
}

/// The ranges of a node's `reg`.
pub fn reg<'a>(node: FdtNode<'_, 'a>) -> impl Iterator<Item = Range> + use<'a> {
    node.reg()
        .into_iter()
        .flatten()
        .map(|entry| Range::of(entry.starting_address as u64, entry.size.unwrap_or(0) as u64))
}

/// Whether a node is compatible with `name`.
pub fn is_compatible(node: FdtNode<'_, '_>, name: &str) -> bool {
    node.compatible().is_some_and(|all| all.all().any(|one| one == name))
}

fn is_enabled(node: FdtNode<'_, '_>) -> bool {
    node.property("status").and_then(|status| status.as_str()).is_none_or(|text| text == "okay")
}

/// A 32- or 64-bit number in a property.
fn property_number(node: FdtNode<'_, '_>, name: &str) -> Option<u64> {
    node.property(name)?.as_usize().map(|value| value as u64)
}

/// Reads the device tree at `address` and maps what it describes. What is wrong, if anything.
pub fn learn(address: u64, image: Range, mpidr: u64) -> Result<&'static Machine, &'static str> {
    // SAFETY: the boot protocol puts the tree there; it is mapped and nobody writes it.
    let tree = unsafe { Fdt::from_ptr(address as *const u8) }
        .map_err(|_| "x0 does not hold the address of a device tree")?;
    let root = tree.find_node("/").ok_or("the device tree has no root")?;

    let mut memory = Ranges::new();
    let mut gic = None;
    for node in root.children() {
        if node.property("device_type").and_then(|kind| kind.as_str()) == Some("memory")
            && is_enabled(node)
        {
            reg(node).for_each(|range| memory.add(range));
        }
        if is_compatible(node, "arm,gic-v3") {
            let mut frames = reg(node);
            gic =
                frames.next().zip(frames.next()).map(|(first, second)| (first.start, second.start));
        }
    }

    let mut no_map = Ranges::new();
    let mut taken = Ranges::new();
    if let Some(reserved) = tree.find_node("/reserved-memory") {
        for node in reserved.children().filter(|node| is_enabled(*node)) {
            for range in reg(node) {
                taken.add(range);
                if node.property("no-map").is_some() {
                    no_map.add(range);
                }
            }
        }
    }
    for entry in tree.memory_reservations() {
        taken.add(Range::of(entry.address() as u64, entry.size() as u64));
    }
    taken.add(image);
    taken.add(Range::of(address, tree.total_size() as u64));
    let chosen = tree.find_node("/chosen").ok_or("the device tree has no /chosen")?;
    if let (Some(start), Some(end)) =
        (property_number(chosen, "linux,initrd-start"), property_number(chosen, "linux,initrd-end"))
    {
        taken.add(Range { start, end });
    }

    let mut cpus = List::new();
    cpus.push(mpidr);
    if let Some(node) = tree.find_node("/cpus") {
        for cpu in node.children().filter(|node| node.name.starts_with("cpu@")) {
            let own = reg(cpu).next().map(|range| range.start);
            if let Some(own) = own.filter(|own| *own != mpidr) {
                cpus.push(own);
            }
        }
    }

    let arguments =
        chosen.property("bootargs").and_then(|property| property.as_str()).unwrap_or("");
    let mut regions = List::new();
    for text in values(arguments, "region") {
        regions.push(region(text).ok_or("a region= argument is not base,length,storage,block")?);
    }
    let absent = match values(arguments, "absent").next() {
        Some(text) => Some(range(text).ok_or("absent= is not base,length")?),
        None => None,
    };
    absent.iter().for_each(|range| taken.add(*range));
    let mut ram = memory;
    no_map.all().iter().for_each(|range| ram.remove(*range));
    let ram = ram.whole_pages();
    let mut free = ram;
    taken.all().iter().for_each(|range| free.remove(*range));
    let free = free.whole_pages();

    let ram_base = match values(arguments, "ram-base").next() {
        Some(text) => number(text).ok_or("ram-base= is not a number")?,
        None => memory.all().first().map_or(0, |range| range.start),
    };

    let uart = stdout(&tree);
    let mut mapped = true;
    for device in uart.iter().chain(gic.iter().flat_map(|(first, second)| [first, second])) {
        mapped &= mmu::map(*device, *device + PAGE, Kind::Device);
    }
    // The harness never touches what is absent, so that it may share a gigabyte with devices.
    for range in memory.all().iter().filter(|range| absent != Some(**range)) {
        mapped &= mmu::map(range.start, range.end, Kind::Memory);
    }
    if !mapped {
        return Err("memory or a device lies where the harness's one page table cannot map it");
    }
    if let Some(base) = uart {
        console::set_base(base);
    }

    let machine = Machine {
        tree,
        tree_address: address,
        memory,
        no_map,
        ram,
        free,
        cpus,
        gic,
        arguments,
        regions,
        absent,
        ram_base,
    };
    Ok(MACHINE.call_once(|| machine))
}

/// The UART that `/chosen` names as the console.
fn stdout(tree: &Fdt<'_>) -> Option<u64> {
    let path = tree.find_node("/chosen")?.property("stdout-path")?.as_str()?;
    let path = path.split(':').next()?;
    let node = tree.find_node(path)?;
    is_compatible(node, "arm,pl011").then(|| reg(node).next().map(|range| range.start))?
}
