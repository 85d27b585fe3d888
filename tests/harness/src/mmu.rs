// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stage 1: an identity map of gigabyte blocks, one table of 512 entries. Memory is Normal
//! Tagged write-back inner shareable, devices are Device-nGnRE.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::cpu;
use crate::ranges::Range;

/// The only table. The entry code writes the entries of the image and the device tree.
#[repr(C, align(4096))]
pub struct Table([AtomicU64; 512]);

/// The table that every CPU's TTBR0 names.
pub static TABLE: Table = Table([const { AtomicU64::new(0) }; 512]);

const GIGABYTE: u64 = 1 << 30;
const MEMORY: u64 = 0x701;
const DEVICE: u64 = 0x60_0000_0000_0405;

/// The same for EL0 too.
const MEMORY_FOR_EL0: u64 = MEMORY | 1 << 6;
/// Where EL0 finds memory: so many bytes above its address.
pub const EL0_OFFSET: u64 = 256 * GIGABYTE;

/// A page whose code is entered by landing pads only, for branches through registers (GP).
const GUARDED: u64 = 1 << 50;
/// Where EL1 finds the image once more, guarded.
pub const GUARDED_OFFSET: u64 = 384 * GIGABYTE;
/// Where EL1 finds the image once more.
pub const ALIAS_OFFSET: u64 = 416 * GIGABYTE;
/// An address that only [`hang_table`] maps.
pub const OTHER: u64 = 448 * GIGABYTE;

/// How an address is used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Normal Tagged memory.
    Memory,
    /// Device registers, never executed.
    Device,
}

/// Maps the gigabytes that a range touches, where they are not mapped yet. False if a gigabyte
/// is out of reach or is mapped as the other kind.
pub fn map(start: u64, end: u64, kind: Kind) -> bool {
    let wanted = if kind == Kind::Memory { MEMORY } else { DEVICE };
    let mut ok = true;
    for number in start / GIGABYTE..end.div_ceil(GIGABYTE) {
        let Some(entry) = TABLE.0.get(number as usize) else { return false };
        let value = (number * GIGABYTE) | wanted;
        match entry.load(Ordering::Relaxed) {
            0 => entry.store(value, Ordering::Relaxed),
            there => ok &= there == value,
        }
    }
    // From invalid to valid: nothing to invalidate, but the walker must see it.
    cpu::dsb();
    cpu::isb();
    ok
}

/// Maps the gigabytes that a range touches once more, for EL0, [`EL0_OFFSET`] above. EL1 cannot
/// execute there. False if they are out of reach.
pub fn map_for_el0(range: Range) -> bool {
    for number in range.start / GIGABYTE..range.end.div_ceil(GIGABYTE) {
        let slot = (number + EL0_OFFSET / GIGABYTE) as usize;
        let Some(entry) = TABLE.0.get(slot) else { return false };
        entry.store((number * GIGABYTE) | MEMORY_FOR_EL0, Ordering::Relaxed);
    }
    cpu::dsb();
    cpu::isb();
    true
}

/// Maps the gigabytes that a range touches twice more, for EL1: [`ALIAS_OFFSET`] above, and guarded
/// [`GUARDED_OFFSET`] above. False if they are out of reach.
pub fn map_aliases(range: Range) -> bool {
    let limit = (ALIAS_OFFSET - GUARDED_OFFSET) / GIGABYTE;
    for number in range.start / GIGABYTE..range.end.div_ceil(GIGABYTE) {
        if number >= limit {
            return false;
        }
        for (offset, bits) in [(GUARDED_OFFSET, MEMORY | GUARDED), (ALIAS_OFFSET, MEMORY)] {
            let slot = (number + offset / GIGABYTE) as usize;
            TABLE.0[slot].store((number * GIGABYTE) | bits, Ordering::Relaxed);
        }
    }
    cpu::dsb();
    cpu::isb();
    true
}

/// Maps the gigabyte at [`OTHER`] by a table of level 2, or not at all.
pub fn hang_table(table: Option<u64>) {
    let entry = table.map_or(0, |table| table | 0b11);
    TABLE.0[(OTHER / GIGABYTE) as usize].store(entry, Ordering::Relaxed);
    cpu::forget_translations_everywhere();
}

/// A descriptor of level 3 for a page of memory.
pub fn page_descriptor(page: u64) -> u64 {
    page | MEMORY | 0b10
}
