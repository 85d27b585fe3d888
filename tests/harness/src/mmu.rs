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
