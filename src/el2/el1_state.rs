// SPDX-License-Identifier: MIT OR Apache-2.0
//! EL1's registers that a CPU may or may not have, as the guest finds them.
//!
//! After a reset they are unknown, and Linux's booting.rst asks whoever enters it at EL1 to
//! initialise what is writable there. These are off, or zero: nobody samples, traces, counts or
//! partitions on behalf of what ran before. Those that every CPU has are in `guest`.
//!
//! A row needs what `cpu_controls` says of EL3. So what its firmware need not open is not here, or
//! only where there is no EL3. SCXTNUM_EL1 and SCXTNUM_EL0 (FEAT_CSV2_2) are in no row: they are
//! hints of whose predictions to use, and any value does.

use super::cpu_controls::{always, mpam_bandwidth, mpam_owned, mpam_streaming};
use super::cpu_controls::{mpam_streaming_bandwidth, pmu, pmu_v3p9, register_masks_owned};
use super::cpu_controls::{spe_owned, system_pmu_open, trace_buffer_owned, trace_filter_owned};
use super::features::*;
use super::hide::mte2_shown;
use super::registers::*;
use tock_registers::interfaces::Writeable;

/// One register, or several of one feature.
struct Initial {
    /// Whether the CPU has them.
    present: fn() -> bool,
    /// Gives them the value that they begin with.
    set: fn(),
}

/// Makes the row of registers that begin as 0, or as what follows them.
macro_rules! initial {
    ($present:expr, $($register:ident $(= $value:expr)?),+) => {
        Initial { present: $present, set: || { $($register.set(initial!(@ $($value)?));)+ } }
    };
    (@) => { 0 };
    (@ $value:expr) => { $value };
}

/// Written to a register that clears the bits written as 1: 31 counters, the cycle counter, and the
/// instruction counter of FEAT_PMUv3_ICNTR, whose bit is ignored where it is not there or not open.
const ALL: u64 = 0x1_ffff_ffff;

/// Permission overlays that EL3 does not trap: SCR_EL3.PIEn, which booting.rst asks for with
/// permission indirection.
fn overlays_open() -> bool {
    permission_overlays() && (permission_indirection() || !el3())
}

/// The same of stage 2.
fn overlays2_open() -> bool {
    permission_overlays2() && (permission_indirection() || !el3())
}

/// Further memory attributes that no EL3 may trap (SCR_EL3.AIEn).
fn attribute_index_owned() -> bool {
    attribute_index() && !el3()
}

/// Translation hardening, whose masks no EL3 may trap (SCR_EL3.RCWMASKEn).
fn hardening_owned() -> bool {
    hardening() && !el3()
}

/// Extended system control that no EL3 may trap (SCR_EL3.SCTLR2En). Closed, it counts as 0.
fn sctlr2_owned() -> bool {
    sctlr2() && !el3()
}

/// Masks of SCTLR2_EL1 that no EL3 may trap.
fn sctlr2_mask_owned() -> bool {
    register_masks_owned() && sctlr2()
}

/// Masks of TCR2_EL1 that no EL3 may trap.
fn tcr2_mask_owned() -> bool {
    register_masks_owned() && tcr2()
}

static INITIAL: &[Initial] = &[
    // First, because they say which bits of the others can be written.
    initial!(register_masks_owned, SCTLRMASK_EL1, CPACRMASK_EL1, TCRMASK_EL1),
    initial!(sctlr2_mask_owned, SCTLR2MASK_EL1),
    initial!(tcr2_mask_owned, TCR2MASK_EL1),
    initial!(sctlr2_owned, SCTLR2_EL1),
    initial!(always, CSSELR_EL1),
    // No counter counts, none interrupts, none has overflown; not for EL0.
    initial!(pmu, PMCNTENCLR_EL0 = ALL, PMINTENCLR_EL1 = ALL, PMOVSCLR_EL0 = ALL, PMUSERENR_EL0),
    initial!(pmu_v3p9, PMUACR_EL1),
    initial!(system_pmu_open, SPMACCESSR_EL1),
    initial!(activity_monitors, AMUSERENR_EL0),
    // No sampling, no trace, no branch records: the buffers would be at anybody's addresses.
    initial!(spe_owned, PMBLIMITR_EL1, PMSCR_EL1),
    initial!(trace_buffer_owned, TRBLIMITR_EL1),
    initial!(trace_filter_owned, TRFCR_EL1),
    initial!(brbe, BRBCR_EL1),
    initial!(mpam_owned, MPAM1_EL1, MPAM0_EL1),
    initial!(mpam_streaming, MPAMSM_EL1),
    initial!(mpam_bandwidth, MPAMBW1_EL1, MPAMBW0_EL1),
    initial!(mpam_streaming_bandwidth, MPAMBWSM_EL1),
    initial!(sve, ZCR_EL1),
    initial!(sme, SMCR_EL1, SMPRI_EL1),
    initial!(permission_indirection, PIR_EL1, PIRE0_EL1),
    initial!(overlays_open, POR_EL1, POR_EL0),
    initial!(overlays2_open, S2POR_EL1),
    initial!(attribute_index_owned, MAIR2_EL1, AMAIR2_EL1),
    initial!(hardening_owned, RCWMASK_EL1, RCWSMASK_EL1),
    initial!(mte2_shown, GCR_EL1, RGSR_EL1, TFSR_EL1, TFSRE0_EL1),
];

/// Initialises them, on this CPU. The controls of EL2 must be in force.
pub fn reset() {
    for initial in INITIAL {
        if (initial.present)() {
            (initial.set)();
        }
    }
}
