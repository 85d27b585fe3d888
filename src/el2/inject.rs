// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exceptions given to EL1, as the CPU would take them there (Arm ARM, AArch64.TakeException).

use super::exception::class;
use super::guest::Frame;
use super::registers::GCSCR_EL1;
use super::{calls, copy, features, percpu};
use aarch64_cpu::registers::*;
use tagstash::addr::{PAGE_SIZE, PhysAddr};
use tagstash::events::Kind;
use tagstash::walk::Stage1;

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

/// ESR.IL: the instruction is 32 bits long. It is also set by every instruction abort, and by a
/// data abort whose ISV is 0, whatever the length.
const LONG: u64 = 1 << 25;
const CLASS_SHIFT: u64 = 26;
/// What a class of aborts of a lower level becomes for those of the same level.
const SAME_LEVEL: u64 = 1;

/// ISS of data aborts: bits that stay what they are. CM: of cache maintenance or address
/// translation; WnR: by a write, and for an instruction that both reads and writes what the CPU
/// reported. All others stay behind. ISV and what it vouches for (SAS, SSE, SRT, SF, AR) are there
/// for aborts of stage 2 only; FnV would say that FAR does not hold, which it does; EA and SET
/// would tell of an error that did not happen; S1PTW is for EL2. For an instruction abort CM and
/// WnR are reserved.
const ABORT_KEPT: u64 = 1 << 8 | 1 << 6;
/// ISS of aborts: the fault of stage 2 came while stage 1 was walked.
const WALK: u64 = 1 << 7;
/// DFSC and IFSC: synchronous external abort, not on a table walk.
const EXTERNAL_ABORT: u64 = 0x10;
/// The same on a walk, at level 0; the codes of other levels are above and below it.
const EXTERNAL_ABORT_ON_WALK: u64 = 0x14;

/// Gives the guest an undefined-instruction exception.
pub fn undefined(frame: &mut Frame) {
    calls::note(percpu::number_of(frame), Kind::UndefinedInjected, frame.esr);
    take(frame, LONG);
}

/// Gives the guest the abort in the frame as an external one: nothing answers at this address.
///
/// That is what EL1 would see of a machine that has no memory there. A walk that met no memory is
/// told apart by its level, and so are fetches, which have a class of their own; an AT whose
/// walk ends so is an exception as well, not a result in PAR_EL1 (Arm ARM, D8.14).
pub fn external_abort(frame: &mut Frame) {
    let from_el1 = frame.spsr & (pstate::MODE & !1) == pstate::EL1T;
    let class = frame.class() | if from_el1 { SAME_LEVEL } else { 0 };
    let kept = match frame.class() {
        class::DATA_ABORT_LOWER => frame.esr & ABORT_KEPT,
        _ => 0,
    };
    // Both before the walk, whose loads may abort: an exception at EL2 changes these registers.
    let (address, page) = (FAR_EL2.get(), faulting_page());
    let code = match frame.esr & WALK {
        0 => EXTERNAL_ABORT,
        _ => EXTERNAL_ABORT_ON_WALK.wrapping_add_signed(walk_level(address, page).into()),
    };
    let place = page.0 | address & (PAGE_SIZE - 1);
    calls::note(percpu::number_of(frame), Kind::AbortInjected, place);
    FAR_EL1.set(address);
    take(frame, class << CLASS_SHIFT | LONG | kept | code);
}

/// The page, in guest-physical addresses, whose fault came to EL2 (HPFAR_EL2.FIPA).
fn faulting_page() -> PhysAddr {
    PhysAddr((HPFAR_EL2.get() & 0x0fff_ffff_fff0) << 8)
}

/// The level of the guest's own walk for `address` that met the fault, in the table at `page`. The
/// syndrome at EL2 has that of stage 2.
fn walk_level(address: u64, page: PhysAddr) -> i32 {
    let regime = Stage1 { tcr: TCR_EL1.get(), ttbr0: TTBR0_EL1.get(), ttbr1: TTBR1_EL1.get() };
    regime.level_of(address, page, |descriptor| {
        calls::guest_ram()?.check(descriptor, size_of::<u64>() as u64)?;
        copy::load(descriptor)
    })
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
