// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stage 1: an identity map of gigabyte blocks, one table of 512 entries. Memory is Normal
//! Tagged write-back inner shareable, devices are Device-nGnRE.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::cpu;

/// The only table. The entry code writes the entries of the image and the device tree.
#[repr(C, align(4096))]
pub struct Table([AtomicU64; 512]);

/// The table that every CPU's TTBR0 names.
pub static TABLE: Table = Table([const { AtomicU64::new(0) }; 512]);

const GIGABYTE: u64 = 1 << 30;
const MEMORY: u64 = 0x701;
const DEVICE: u64 = 0x60_0000_0000_0405;

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
