// SPDX-License-Identifier: MIT OR Apache-2.0
//! Barriers, cache maintenance by address, TLB maintenance: one function an instruction, and
//! the loops over them.

use super::registers::CTR_EL0;
use tagstash::addr::{PhysAddr, PhysRange};
use tagstash::platform::CacheMaintenance;
use tock_registers::interfaces::Readable;

/// Bytes of a tag granule: no line of tags stands for less data.
const GRANULE: u64 = 16;

/// Makes a function for each instruction without operands.
macro_rules! instructions {
    ($($(#[$doc:meta])* $name:ident = $instruction:literal;)*) => {
        $($(#[$doc])* #[inline(always)]
        pub fn $name() {
            // SAFETY: Barriers and maintenance change no value that a correct program sees. No
            // `nomem`: memory accesses are not moved across them.
            unsafe { core::arch::asm!($instruction, options(nostack, preserves_flags)) }
        })*
    };
}

instructions! {
    /// Instruction synchronization barrier.
    isb = "isb";
    /// Data synchronization barrier, inner shareable.
    dsb_ish = "dsb ish";
    /// Data synchronization barrier, inner shareable, stores only.
    dsb_ishst = "dsb ishst";
    /// Data synchronization barrier, full system.
    dsb_sy = "dsb sy";
    /// Hint that the core polls.
    yield_core = "yield";
    /// Waits for an event: of a core that has nothing left to do.
    wfe = "wfe";
    /// Invalidates all instruction caches of the inner shareable domain.
    ic_ialluis = "ic ialluis";
    /// Invalidates all translations of EL1 and EL0 on this CPU.
    tlbi_alle1 = "tlbi alle1";
    /// Invalidates this VMID's combined translations on every CPU.
    tlbi_vmalle1is = "tlbi vmalle1is";
}

/// Makes a function for each instruction that takes an address.
macro_rules! by_address {
    ($($(#[$doc:meta])* $name:ident = $instruction:literal;)*) => {
        $($(#[$doc])* #[inline(always)]
        fn $name(operand: u64) {
            // SAFETY: As above. Cleaning, and cleaning with invalidation, lose no data.
            unsafe {
                core::arch::asm!(
                    $instruction,
                    in(reg) operand,
                    options(nostack, preserves_flags)
                );
            }
        })*
    };
}

by_address! {
    /// Cleans a data line to the point of coherency.
    dc_cvac = "dc cvac, {}";
    /// Cleans and invalidates a data line to the point of coherency.
    dc_civac = "dc civac, {}";
    /// Cleans and invalidates a line of allocation tags to the point of coherency: DC CIGVAC
    /// (FEAT_MTE2), by encoding because the target's baseline does not know it.
    dc_cigvac = "sys #3, c7, c14, #3, {}";
    /// Invalidates stage 2 translations of an address, on every CPU.
    tlbi_ipas2e1is = "tlbi ipas2e1is, {}";
    /// Invalidates EL2's translations of an address, on every CPU.
    tlbi_vae2is = "tlbi vae2is, {}";
}

/// TLB maintenance takes bits 55:12 of an address.
const TLBI_SHIFT: u32 = 12;

/// Invalidates EL2's translations of `address`, on every CPU.
pub fn invalidate_stage1(address: PhysAddr) {
    tlbi_vae2is(address.0 >> TLBI_SHIFT);
}

/// Invalidates the guest's stage 2 translations of `address`, on every CPU.
pub fn invalidate_stage2(address: PhysAddr) {
    tlbi_ipas2e1is(address.0 >> TLBI_SHIFT);
}

/// Smallest line, in bytes, of the data caches (CTR_EL0.DminLine).
#[inline(always)]
fn data_line() -> u64 {
    4 << (CTR_EL0.get() >> 16 & 0xf)
}

/// Bytes of data whose tags lie in the smallest line of tags. CTR_EL0.TminLine reads as 0 on
/// cores that do not say; a line of data then stands for its tags. Never less than a granule,
/// and never more than a line of data, which is what those without lines of tags alone have.
#[inline(always)]
fn tag_line(data_line: u64) -> u64 {
    match CTR_EL0.get() >> 32 & 0x3f {
        0 => data_line,
        log2_words => (4u64 << log2_words.min(16)).clamp(GRANULE, data_line.max(GRANULE)),
    }
}

/// Lines dealt with in one turn of a loop.
const UNROLLED: u64 = 8;

/// Calls `line` for each line of `step` bytes, a power of two, that `range` touches. A claim's
/// time is mostly spent here, so the loop is unrolled.
#[inline(always)]
fn each_line(range: PhysRange, step: u64, line: impl Fn(u64)) {
    let mut address = range.start().0 & !(step - 1);
    // Not past the end of a range, which does not wrap, nor past one line after it.
    let bytes = range.end().0.saturating_sub(address);
    let lines = bytes.wrapping_add(step - 1) >> step.trailing_zeros();
    let mut lines_at_once = |count| {
        for _ in 0..count {
            line(address);
            address = address.wrapping_add(step);
        }
    };
    for _ in 0..lines / UNROLLED {
        lines_at_once(UNROLLED);
    }
    lines_at_once(lines % UNROLLED);
}

/// Cleans `range` to the point of coherency: what EL2 wrote and others read without caches.
pub fn clean_data(range: PhysRange) {
    each_line(range, data_line(), dc_cvac);
    dsb_sy();
}

/// Cleans and invalidates `range` to the point of coherency.
pub fn clean_invalidate_data(range: PhysRange) {
    each_line(range, data_line(), dc_civac);
    dsb_sy();
}

/// This machine, as the service sees it, with FEAT_MOPS or without. The instructions need no
/// state.
#[derive(Clone, Copy)]
pub struct Machine<const MOPS: bool = false>;

impl<const MOPS: bool> CacheMaintenance for Machine<MOPS> {
    #[inline(always)]
    fn barrier_inner(&self) {
        dsb_ish();
    }

    #[inline(always)]
    fn barrier_system(&self) {
        dsb_sy();
    }

    #[inline(always)]
    fn clean_invalidate_tags(&self, range: PhysRange) {
        each_line(range, tag_line(data_line()), dc_cigvac);
    }

    #[inline(always)]
    fn clean_invalidate_data(&self, range: PhysRange) {
        each_line(range, data_line(), dc_civac);
    }

    #[inline(always)]
    fn relax(&self) {
        yield_core();
    }
}
