// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exceptions given to EL1, as the CPU would take them there (Arm ARM, AArch64.TakeException).

use super::exception::class;
use super::features;
use super::guest::Frame;
use super::registers::GCSCR_EL1;
use aarch64_cpu::registers::*;

/// PSTATE as SPSR holds it.
mod pstate {
    pub const MODE: u64 = 0x1f;
    pub const AARCH32: u64 = 1 << 4;
    pub const EL1T: u64 = 0b0100;
    pub const EL1H: u64 = 0b0101;
    pub const DAIF: u64 = 0xf << 6;
    pub const SSBS: u64 = 1 << 12;
    pub const ALLINT: u64 = 1 << 13;
    pub const PAN: u64 = 1 << 22;
    pub const DIT: u64 = 1 << 24;
    pub const TCO: u64 = 1 << 25;
    pub const NZCV: u64 = 0xf << 28;
    pub const PM: u64 = 1 << 32;
    pub const EXLOCK: u64 = 1 << 34;
}

/// SCTLR_EL1 bits that say how an exception is taken.
mod sctlr {
    pub const SPAN: u64 = 1 << 23;
    pub const DSSBS: u64 = 1 << 44;
    pub const SPINTMASK: u64 = 1 << 62;
}

/// GCSCR_EL1: PSTATE.EXLOCK is set by exceptions from EL1.
const EXLOCKEN: u64 = 1 << 6;

/// ESR: the instruction is 32 bits long.
const LONG: u64 = 1 << 25;
const CLASS_SHIFT: u64 = 26;
/// What a class of aborts of a lower level becomes for those of the same level.
const SAME_LEVEL: u64 = 1;

/// ISS of aborts: bits that stay what they are. CM: of cache maintenance; WnR: by a write. For an
/// instruction abort both are reserved and 0.
const ABORT_KEPT: u64 = 1 << 8 | 1 << 6;
/// DFSC and IFSC: synchronous external abort, not on a table walk.
const EXTERNAL_ABORT: u64 = 0x10;

/// Gives the guest an undefined-instruction exception.
pub fn undefined(frame: &mut Frame) {
    take(frame, LONG);
}

/// Gives the guest the abort in the frame as an external one: nothing answers at this address.
pub fn external_abort(frame: &mut Frame) {
    let from_el1 = frame.spsr & (pstate::MODE & !1) == pstate::EL1T;
    let class = frame.class() | if from_el1 { SAME_LEVEL } else { 0 };
    let kept = match frame.class() {
        class::DATA_ABORT_LOWER => frame.esr & ABORT_KEPT,
        _ => 0,
    };
    let long = frame.esr & LONG;
    FAR_EL1.set(FAR_EL2.get());
    take(frame, class << CLASS_SHIFT | long | kept | EXTERNAL_ABORT);
}

/// Makes the guest take a synchronous exception with this syndrome where it is.
fn take(frame: &mut Frame, syndrome: u64) {
    let old = frame.spsr;
    let from_el1 = matches!(old & pstate::MODE, pstate::EL1T | pstate::EL1H);
    let vector = match old & pstate::MODE {
        pstate::EL1T => 0x000,
        pstate::EL1H => 0x200,
        mode if mode & pstate::AARCH32 == 0 => 0x400,
        _ => 0x600,
    };

    let sctlr = SCTLR_EL1.get();
    let mut new = old & (pstate::NZCV | pstate::DIT | pstate::PAN) | pstate::DAIF | pstate::EL1H;
    let rules = [
        (features::pan() && sctlr & sctlr::SPAN == 0, pstate::PAN),
        (features::ssbs() && sctlr & sctlr::DSSBS != 0, pstate::SSBS),
        (features::mte(), pstate::TCO),
        (features::nmi() && sctlr & sctlr::SPINTMASK == 0, pstate::ALLINT),
        (features::pmu_exceptions(), pstate::PM),
        (features::gcs() && from_el1 && GCSCR_EL1.get() & EXLOCKEN != 0, pstate::EXLOCK),
    ];
    for (applies, bits) in rules {
        if applies {
            new |= bits;
        }
    }

    ELR_EL1.set(frame.elr);
    SPSR_EL1.set(old);
    ESR_EL1.set(syndrome);
    frame.elr = VBAR_EL1.get().wrapping_add(vector);
    frame.spsr = new;
}
