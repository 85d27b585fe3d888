// SPDX-License-Identifier: MIT OR Apache-2.0
//! Translation tables with 4 KiB granule: levels, entries, the largest pages that fit.
//!
//! One walker writes both of the shim's identity maps, EL2's own (stage 1) and the guest's
//! (stage 2), and takes them apart later. It knows descriptors and levels (Arm ARM, D8) and
//! nothing of TLBs: what has to be ordered or invalidated it asks of a [`Regime`].
//!
//! ```text
//!   level      0          1        2        3
//!   entry   512 GiB     1 GiB    2 MiB    4 KiB
//!              table  | block  | block  | page
//! ```

use crate::addr::{PAGE_SIZE, PhysAddr, PhysRange};
use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

/// Entries in one 4 KiB table.
pub const ENTRIES: usize = 512;
/// The level whose entries are pages.
const LAST_LEVEL: u32 = 3;
/// Most address bits that four levels of 4 KiB tables translate.
const MAX_BITS: u32 = 48;

const VALID: u64 = 1;
/// With [`VALID`]: a table at levels 0 to 2, a page at level 3. Alone, [`VALID`] is a block.
const TABLE_OR_PAGE: u64 = 1 << 1;
/// Bits of an entry that hold an address.
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// One translation table.
#[repr(C, align(4096))]
pub struct Table(pub [AtomicU64; ENTRIES]);

/// Size of the input address space and what it needs at the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bits of an input address.
    pub bits: u32,
    /// Level at which a walk begins.
    pub start_level: u32,
    /// Tables that lie side by side at the root and are walked as one.
    pub root_tables: usize,
}

impl Shape {
    /// Stage 1 of 48 bits, the most without FEAT_LVA.
    pub const STAGE1: Shape = Shape { bits: MAX_BITS, start_level: 0, root_tables: 1 };

    /// Returns the shape of a stage 2 that spans the physical addresses of a core, given as the
    /// PARange field of ID_AA64MMFR0_EL1; more than 48 bits are cut to 48.
    ///
    /// A walk may begin at level 0 only on cores of 44 bits and more. Below that it begins at
    /// level 1, with up to 16 concatenated tables for the bits above 39 (Arm ARM, D8.2).
    pub const fn stage2(pa_range: u64) -> Shape {
        let bits = pa_bits(pa_range);
        if bits > 43 {
            Shape { bits, start_level: 0, root_tables: 1 }
        } else {
            let root_tables = if bits > 39 { 1 << (bits - 39) } else { 1 };
            Shape { bits, start_level: 1, root_tables }
        }
    }

    /// Tables that an identity map of everything takes where no entry has to be split.
    pub const fn tables(&self) -> usize {
        let level1 = if self.start_level == 0 { 1 << (self.bits - 39) } else { 0 };
        self.root_tables + level1
    }

    /// All addresses of this shape.
    pub const fn range(&self) -> PhysRange {
        // A shape has at most 48 bits, so the range cannot wrap.
        match PhysRange::new(PhysAddr(0), 1 << self.bits) {
            Some(range) => range,
            None => unreachable!(),
        }
    }
}

/// Decodes PARange of ID_AA64MMFR0_EL1 into address bits, at most 48.
pub const fn pa_bits(pa_range: u64) -> u32 {
    match pa_range & 0xf {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        4 => 44,
        _ => MAX_BITS,
    }
}

/// Returns the log2 of the bytes that one entry at `level` translates.
const fn shift(level: u32) -> u32 {
    39 - 9 * level
}

/// What the walker asks of the translation regime whose tables it writes.
pub trait Regime {
    /// Gives a table of zeroes that nothing else uses, mapped where its address says; `None`
    /// where there is no more memory for tables.
    fn allocate(&mut self) -> Option<NonNull<Table>>;

    /// Makes table writes before this call visible to walks before table writes after it.
    fn publish(&self);

    /// Invalidates, on every CPU, what TLBs hold of the entry at `level` that covers `address`.
    fn invalidate(&self, address: PhysAddr, level: u32);
}

/// Why a map could not be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableError {
    /// There is no more memory for tables.
    OutOfTables,
    /// The range does not consist of whole pages.
    Unaligned(PhysRange),
    /// The range is not in the input address space.
    OutOfSpace(PhysRange),
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfTables => write!(f, "no memory left for translation tables"),
            Self::Unaligned(range) => write!(f, "{range} is not made of whole pages"),
            Self::OutOfSpace(range) => write!(f, "{range} is beyond the translated addresses"),
        }
    }
}

/// An identity map: each address either leads to itself, with some attributes, or nowhere.
pub struct IdentityMap {
    root: NonNull<Table>,
    shape: Shape,
}

// SAFETY: The tables belong to the map alone (`IdentityMap::new`), and their entries are atomics.
unsafe impl Send for IdentityMap {}

impl IdentityMap {
    /// Makes the map whose root tables begin at `root`.
    ///
    /// # Safety
    ///
    /// `shape.root_tables` tables lie at `root`, and belong to this map from now on. They are
    /// zeroes, or describe a map whose tables are all used by it alone and lie, for loads and
    /// stores, where their descriptors say.
    pub const unsafe fn new(root: NonNull<Table>, shape: Shape) -> IdentityMap {
        IdentityMap { root, shape }
    }

    /// Address of the root, for a translation table base register.
    pub fn root(&self) -> PhysAddr {
        PhysAddr(self.root.as_ptr() as u64)
    }

    /// Gives all of `range` these attributes, with blocks where they fit; 0 unmaps it.
    ///
    /// `attributes` are the bits of a leaf besides its address and its two lowest bits. Where a
    /// block covers more than the range it is split. A valid entry is changed break before make
    /// (Arm ARM, D8): nothing that runs meanwhile may use what the changed *entry* maps.
    ///
    /// # Errors
    ///
    /// [`TableError`]. After `OutOfTables` a first part of the range has changed.
    pub fn set<R: Regime>(
        &mut self,
        regime: &mut R,
        range: PhysRange,
        attributes: u64,
    ) -> Result<(), TableError> {
        if !range.start().is_aligned(PAGE_SIZE) || !range.end().is_aligned(PAGE_SIZE) {
            return Err(TableError::Unaligned(range));
        }
        if !self.shape.range().contains_range(&range) {
            return Err(TableError::OutOfSpace(range));
        }
        // SAFETY: `new` asks for that many tables at the root, and a `Table` is its entries.
        let root: &[AtomicU64] = unsafe {
            core::slice::from_raw_parts(self.root.as_ptr().cast(), self.shape.root_tables * ENTRIES)
        };
        set_entries(regime, root, self.shape.start_level, range, attributes, true)?;
        regime.publish();
        Ok(())
    }

    /// Returns the attributes at `address`, as [`IdentityMap::set`] takes them, and the length
    /// of the block or page they are of; `None` where nothing is mapped.
    #[cfg(test)]
    fn get(&self, address: PhysAddr) -> Option<(u64, u64)> {
        // SAFETY: As in `set`.
        let mut entries: &[AtomicU64] = unsafe {
            core::slice::from_raw_parts(self.root.as_ptr().cast(), self.shape.root_tables * ENTRIES)
        };
        let mut level = self.shape.start_level;
        loop {
            let index = (address.0 >> shift(level)) as usize
                & if level == self.shape.start_level { usize::MAX } else { ENTRIES - 1 };
            let entry = entries[index].load(Ordering::Relaxed);
            if entry & VALID == 0 {
                return None;
            }
            if is_table(entry, level) {
                entries = &table_of(entry).0;
                level += 1;
                continue;
            }
            let offset = address.0 & ((1 << shift(level)) - 1);
            assert_eq!(entry & ADDRESS, address.0 - offset, "an identity map");
            let kind = if level == LAST_LEVEL { VALID | TABLE_OR_PAGE } else { VALID };
            assert_eq!(entry & 3, kind);
            return Some((entry & !ADDRESS & !3, 1 << shift(level)));
        }
    }
}

/// Says whether a valid entry at `level` leads to a table.
const fn is_table(entry: u64, level: u32) -> bool {
    level < LAST_LEVEL && entry & TABLE_OR_PAGE != 0
}

/// Returns the table that a table descriptor leads to.
fn table_of<'a>(entry: u64) -> &'a Table {
    // SAFETY: `IdentityMap::new` and `Regime::allocate` say that tables lie where descriptors
    // say; none is ever freed, and entries are atomics, so that shared references are right.
    unsafe { &*core::ptr::with_exposed_provenance((entry & ADDRESS) as usize) }
}

/// Returns the entry that maps `address` to itself at `level`; invalid for no attributes.
const fn leaf(address: u64, level: u32, attributes: u64) -> u64 {
    match attributes {
        0 => 0,
        _ if level == LAST_LEVEL => address | attributes | VALID | TABLE_OR_PAGE,
        _ => address | attributes | VALID,
    }
}

/// [`IdentityMap::set`] in one table, whose entries cover all of `range`. A table that is not
/// `live` can be reached by no walk yet.
fn set_entries<R: Regime>(
    regime: &mut R,
    entries: &[AtomicU64],
    level: u32,
    range: PhysRange,
    attributes: u64,
    live: bool,
) -> Result<(), TableError> {
    let size = 1u64 << shift(level);
    let mut at = range.start().0;
    while at < range.end().0 {
        if level > 0 && !live {
            let filled = fill(entries, level, at..range.end().0, attributes);
            if filled > 0 {
                at += filled;
                continue;
            }
        }
        let start = at & !(size - 1);
        // An input address has at most 48 bits.
        let end = start + size;
        let entry = &entries[(start >> shift(level)) as usize % entries.len()];
        let old = entry.load(Ordering::Relaxed);
        let part = range.intersection(&span(start, size));
        let whole = part.len() == size;

        if old & VALID != 0 && is_table(old, level) {
            set_entries(regime, &table_of(old).0, level + 1, part, attributes, live)?;
        } else if whole && level > 0 {
            let new = leaf(start, level, attributes);
            replace(regime, entry, PhysAddr(start), level, new, live);
        } else if attributes != 0 || old & VALID != 0 {
            // Part of an entry: a table takes its place, which says the same at first.
            let table = regime.allocate().ok_or(TableError::OutOfTables)?;
            // SAFETY: `allocate` gives a table that nothing else uses.
            let below = unsafe { table.as_ref() };
            if old & VALID != 0 {
                for (index, entry) in (0..).zip(&below.0) {
                    let address = start + (index << shift(level + 1));
                    let same = leaf(address, level + 1, old & !ADDRESS & !3);
                    entry.store(same, Ordering::Relaxed);
                }
            }
            set_entries(regime, &below.0, level + 1, part, attributes, false)?;
            let descriptor = table.as_ptr().expose_provenance() as u64 | VALID | TABLE_OR_PAGE;
            replace(regime, entry, PhysAddr(start), level, descriptor, live);
        }
        at = end;
    }
    Ok(())
}

/// Maps what whole, empty entries at the start of `range` cover, in a table that no walk can reach
/// yet. Returns how many bytes that are. A map of all addresses consists of a quarter of a million
/// such entries and little else.
fn fill(entries: &[AtomicU64], level: u32, range: Range<u64>, attributes: u64) -> u64 {
    let size = 1u64 << shift(level);
    if attributes == 0 || range.start & (size - 1) != 0 {
        return 0;
    }
    // An entry is its address and these bits.
    let bits = leaf(0, level, attributes);
    let first = (range.start >> shift(level)) as usize % entries.len();
    let count = ((range.end - range.start) >> shift(level)) as usize;
    let mut at = range.start;
    for entry in &entries[first..entries.len().min(first + count)] {
        if entry.load(Ordering::Relaxed) != 0 {
            break;
        }
        entry.store(at | bits, Ordering::Relaxed);
        // Below 2^49, so it does not wrap.
        at = at.wrapping_add(size);
    }
    at - range.start
}

/// The range of `size` bytes at `start`; both come from 48-bit addresses.
const fn span(start: u64, size: u64) -> PhysRange {
    match PhysRange::new(PhysAddr(start), size) {
        Some(range) => range,
        None => unreachable!(),
    }
}

/// Writes one entry, breaking the old one first where a walk may have seen it.
fn replace<R: Regime>(
    regime: &R,
    entry: &AtomicU64,
    address: PhysAddr,
    level: u32,
    new: u64,
    live: bool,
) {
    let old = entry.load(Ordering::Relaxed);
    if old == new {
        return;
    }
    if live && old & VALID != 0 {
        entry.store(0, Ordering::Relaxed);
        regime.publish();
        regime.invalidate(address, level);
    }
    // The table that a new descriptor leads to must be there before the descriptor is.
    if live && new != 0 {
        regime.publish();
    }
    entry.store(new, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::RefCell;
    use std::boxed::Box;
    use std::vec::Vec;

    const GIB: u64 = 1 << 30;
    const MIB: u64 = 1 << 20;
    const RAM: u64 = 0x7c0;
    const DEVICE: u64 = 0x400;

    fn range(start: u64, end: u64) -> PhysRange {
        PhysRange::from_bounds(PhysAddr(start), PhysAddr(end)).unwrap()
    }

    fn table() -> NonNull<Table> {
        NonNull::from(Box::leak(Box::new(Table([const { AtomicU64::new(0) }; ENTRIES]))))
    }

    /// Gives a limited number of tables and records what was invalidated.
    struct Host {
        left: usize,
        invalidated: RefCell<Vec<(u64, u32)>>,
    }

    impl Host {
        fn with(tables: usize) -> Host {
            Host { left: tables, invalidated: RefCell::new(Vec::new()) }
        }
    }

    impl Regime for Host {
        fn allocate(&mut self) -> Option<NonNull<Table>> {
            self.left = self.left.checked_sub(1)?;
            Some(table())
        }

        fn publish(&self) {}

        fn invalidate(&self, address: PhysAddr, level: u32) {
            self.invalidated.borrow_mut().push((address.0, level));
        }
    }

    fn map(shape: Shape) -> IdentityMap {
        let tables: Vec<Table> =
            (0..shape.root_tables).map(|_| Table([const { AtomicU64::new(0) }; ENTRIES])).collect();
        let root = NonNull::from(Box::leak(tables.into_boxed_slice())).cast();
        // SAFETY: As many zeroed tables as the shape says, leaked for this map alone.
        unsafe { IdentityMap::new(root, shape) }
    }

    #[test]
    fn a_walk_begins_at_level_0_only_from_44_bits_on() {
        let shapes: Vec<_> = (0..=7)
            .map(Shape::stage2)
            .map(|shape| (shape.bits, shape.start_level, shape.root_tables, shape.tables()))
            .collect();
        assert_eq!(
            shapes,
            [
                (32, 1, 1, 1),
                (36, 1, 1, 1),
                (40, 1, 2, 2),
                (42, 1, 8, 8),
                (44, 0, 1, 33),
                (48, 0, 1, 513),
                (48, 0, 1, 513),
                (48, 0, 1, 513),
            ]
        );
    }

    /// For all values that PARange has, 52 and 56 bits included, and those that are reserved.
    #[test]
    fn a_root_spans_its_addresses_and_no_more_in_as_few_tables_as_can_be() {
        for pa_range in 0..16 {
            let shape = Shape::stage2(pa_range);
            let bits = [32, 36, 40, 42, 44].get(pa_range as usize).copied().unwrap_or(48);
            assert_eq!(shape.bits, bits, "PARange {pa_range}");
            let entries = 1 << (bits - shift(shape.start_level));
            assert_eq!(shape.root_tables, usize::max(entries / ENTRIES, 1), "PARange {pa_range}");
            // Arm ARM, D8.2: up to 16 tables side by side; T0SZ between 16 and 48 bits.
            assert!(shape.root_tables <= 16 && shape.root_tables.is_power_of_two());
            assert!(shape.start_level == 1 || bits >= 44, "PARange {pa_range}");
            assert_eq!(shape.range().len(), 1 << bits);
        }
    }

    #[test]
    fn everything_is_mapped_with_exactly_the_tables_foretold() {
        // Under Miri the smallest of each form: without level 0 and with it.
        for pa_range in if cfg!(miri) { vec![0, 4] } else { (0..=5).collect() } {
            let shape = Shape::stage2(pa_range);
            let mut host = Host::with(shape.tables() - shape.root_tables);
            let mut map = map(shape);
            map.set(&mut host, shape.range(), RAM).unwrap();
            assert_eq!(host.left, 0);
            for address in [0, 1, GIB, (1 << shape.bits) - 1] {
                assert_eq!(map.get(PhysAddr(address)), Some((RAM, GIB)));
            }
        }
    }

    #[test]
    fn a_hole_splits_only_what_it_must_and_breaks_before_it_makes() {
        let shape = Shape::stage2(2);
        let mut map = map(shape);
        let mut host = Host::with(16);
        map.set(&mut host, shape.range(), RAM).unwrap();
        assert!(host.invalidated.borrow().is_empty(), "nothing was valid before");

        // 2 MiB and one page, in the last GiB but one of the second root table.
        let hole = range(0xff_8020_0000, 0xff_8040_1000);
        map.set(&mut host, hole, 0).unwrap();
        assert_eq!(host.left, 14, "one table of 2 MiB blocks, one of pages");
        assert_eq!(*host.invalidated.borrow(), [(0xff_8000_0000, 1)]);
        assert_eq!(map.get(PhysAddr(0xff_801f_ffff)), Some((RAM, 2 * MIB)));
        assert_eq!(map.get(PhysAddr(0xff_8020_0000)), None);
        assert_eq!(map.get(PhysAddr(0xff_803f_f000)), None);
        assert_eq!(map.get(PhysAddr(0xff_8040_0fff)), None);
        assert_eq!(map.get(PhysAddr(0xff_8040_1000)), Some((RAM, 4096)));
        assert_eq!(map.get(PhysAddr(0xff_8060_0000)), Some((RAM, 2 * MIB)));
        assert_eq!(map.get(PhysAddr(0xff_c000_0000)), Some((RAM, GIB)));
    }

    #[test]
    fn attributes_of_one_run_change_and_change_back() {
        let shape = Shape::stage2(if cfg!(miri) { 4 } else { 5 });
        let mut map = map(shape);
        let mut host = Host::with(shape.tables() - shape.root_tables + 2);
        map.set(&mut host, shape.range(), RAM).unwrap();
        let run = range(0x4002_0000, 0x4004_0000);
        map.set(&mut host, run, DEVICE).unwrap();
        for (address, expected) in [
            (0x4001_ffff, (RAM, 4096)),
            (0x4002_0000, (DEVICE, 4096)),
            (0x4003_ffff, (DEVICE, 4096)),
            (0x4004_0000, (RAM, 4096)),
        ] {
            assert_eq!(map.get(PhysAddr(address)), Some(expected));
        }
        host.invalidated.borrow_mut().clear();
        map.set(&mut host, run, RAM).unwrap();
        assert_eq!(host.invalidated.borrow().len(), 32, "each page of the run, nothing else");
        assert!(host.invalidated.borrow().iter().all(|&(_, level)| level == 3));
        map.set(&mut host, run, RAM).unwrap();
        assert_eq!(host.invalidated.borrow().len(), 32, "the same again changes nothing");
    }

    #[test]
    fn odd_ranges_and_a_lack_of_tables_are_errors() {
        let mut map = map(Shape::stage2(1));
        let mut host = Host::with(1);
        let odd = range(0x1000, 0x2800);
        assert_eq!(map.set(&mut host, odd, RAM), Err(TableError::Unaligned(odd)));
        let far = range(0, (1 << 36) + 4096);
        assert_eq!(map.set(&mut host, far, RAM), Err(TableError::OutOfSpace(far)));
        let page = range(0x1000, 0x2000);
        assert_eq!(map.set(&mut host, page, RAM), Err(TableError::OutOfTables));
        assert_eq!(map.get(PhysAddr(0x1000)), None);
        assert_eq!(map.set(&mut host, range(5 * MIB, 5 * MIB), RAM), Ok(()));
    }
}
