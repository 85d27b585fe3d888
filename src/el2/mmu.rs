// SPDX-License-Identifier: MIT OR Apache-2.0
//! EL2's own map (stage 1): addresses are physical, nothing is both writable and executable.
//!
//! The entry code begins the tables, with the image in pages and each kind of memory as it will
//! stay, because the MMU is on before Rust touches memory. The boot story adds to them: the
//! device tree, the serial port, guest RAM, tag storage. All memory is Normal, write-back,
//! inner shareable, and none of it Tagged: EL2 has no tags, and to tag storage it is data.

use super::cache::{dsb_ish, invalidate_stage1, isb};
use super::{cache, layout, pages, percpu};
use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;
use tagstash::addr::{PhysAddr, PhysRange};
use tagstash::translation::{ENTRIES, IdentityMap, Regime, Shape, Table, TableError};

/// Memory attributes by index: 0 Normal write-back, 1 Device-nGnRE.
pub const MAIR: u64 = 0x04_ff;

/// TCR_EL2 without PS: 48 bits, 4 KiB, walks write-back and inner shareable, RES1 bits.
pub const TCR: u64 = 1 << 31 | 1 << 23 | 0b11 << 12 | 0b01 << 10 | 0b01 << 8 | (64 - 48);

/// SCTLR_EL2: the RES1 bits and no more, little endian, MMU and caches off.
pub const SCTLR_OFF: u64 = 0x30c5_0830;

/// SCTLR_EL2: MMU and caches on, SP alignment checked, writable memory never executed.
pub const SCTLR_ON: u64 = SCTLR_OFF | 1 << 0 | 1 << 2 | 1 << 3 | 1 << 12 | 1 << 19;

const ACCESSED: u64 = 1 << 10;
const INNER_SHAREABLE: u64 = 0b11 << 8;
const READ_ONLY: u64 = 1 << 7;
/// `AP[1]`, which EL2 alone reads as one.
const RES1: u64 = 1 << 6;
const NEVER_EXECUTED: u64 = 1 << 54;

/// Attributes of code.
pub const CODE: u64 = ACCESSED | INNER_SHAREABLE | READ_ONLY | RES1;
/// Attributes of constants.
pub const CONSTANTS: u64 = CODE | NEVER_EXECUTED;
/// Attributes of data.
pub const DATA: u64 = ACCESSED | INNER_SHAREABLE | RES1 | NEVER_EXECUTED;
/// Attributes of device registers.
pub const DEVICE: u64 = ACCESSED | RES1 | NEVER_EXECUTED | 1 << 2;

/// Tables in the image. The entry code takes at most eight for the image (linker.ld limits its
/// size); the rest is for what has to be mapped before there is a pool of pages.
const EARLY: usize = 32;

/// The root, and behind it further tables.
pub static EARLY_TABLES: [Table; EARLY] =
    [const { Table([const { AtomicU64::new(0) }; ENTRIES]) }; EARLY];

/// EL2's map.
pub struct Stage1(IdentityMap);

impl Stage1 {
    /// Takes over the tables that the entry code began and the pages that it left, and unmaps
    /// the guard pages.
    ///
    /// # Errors
    ///
    /// [`TableError`], which is not to be expected.
    ///
    /// # Safety
    ///
    /// Called once; `next_free` is what the entry code says is its first unused table.
    pub unsafe fn adopt(next_free: PhysAddr) -> Result<Stage1, TableError> {
        let root = NonNull::from(&EARLY_TABLES).cast();
        let end = PhysAddr((&raw const EARLY_TABLES).wrapping_add(1) as u64);
        if let Some(rest) = PhysRange::from_bounds(next_free, end) {
            // SAFETY: The rest of the early tables, which are data of the image.
            unsafe { pages::add(rest) };
        }
        // SAFETY: The entry code made a map of this shape, at this root.
        let mut map = unsafe { IdentityMap::new(root, Shape::STAGE1) };
        for guard in percpu::guards() {
            map.set(&mut Live, guard, 0)?;
        }
        Ok(Stage1(map))
    }

    /// Maps the pages that `range` touches.
    ///
    /// # Errors
    ///
    /// [`TableError`]; `OutOfSpace` also where the range touches the image, whose attributes
    /// stay.
    pub fn map(&mut self, range: PhysRange, attributes: u64) -> Result<(), TableError> {
        let pages = range.page_cover().ok_or(TableError::OutOfSpace(range))?;
        if pages.overlaps(&layout::image()) {
            return Err(TableError::OutOfSpace(range));
        }
        self.0.set(&mut Live, pages, attributes)?;
        dsb_ish();
        isb();
        Ok(())
    }
}

/// Tables that are in use.
struct Live;

impl Regime for Live {
    fn allocate(&mut self) -> Option<NonNull<Table>> {
        pages::tables(1)
    }

    fn publish(&self) {
        cache::dsb_ishst();
    }

    fn invalidate(&self, address: PhysAddr, _level: u32) {
        invalidate_stage1(address);
        dsb_ish();
        isb();
    }
}
