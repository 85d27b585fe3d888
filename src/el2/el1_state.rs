// SPDX-License-Identifier: MIT OR Apache-2.0
//! EL1's registers that a CPU may or may not have, as the guest finds them.
//!
//! After a reset they are unknown, and Linux's booting.rst asks whoever enters it at EL1 to
//! initialise what is writable there. All are off, or zero: nobody samples, traces, counts or
//! partitions on behalf of what ran before. Those that every CPU has are in `guest`.

use super::cpu_controls::{always, mpam_any, mpam_streaming, pmu, spe_owned, trace_buffer_owned};
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

/// Written to a register that clears the bits written as 1.
const ALL: u64 = 0xffff_ffff;

static INITIAL: &[Initial] = &[
    initial!(always, CSSELR_EL1),
    // No counter counts, none interrupts, none has overflown; not for EL0.
    initial!(pmu, PMCNTENCLR_EL0 = ALL, PMINTENCLR_EL1 = ALL, PMOVSCLR_EL0 = ALL, PMUSERENR_EL0),
    initial!(system_pmu, SPMACCESSR_EL1),
    // No sampling, no trace, no branch records: the buffers would be at anybody's addresses.
    initial!(spe_owned, PMBLIMITR_EL1, PMSCR_EL1),
    initial!(trace_buffer_owned, TRBLIMITR_EL1),
    initial!(trace_filter, TRFCR_EL1),
    initial!(brbe, BRBCR_EL1),
    initial!(mpam_any, MPAM1_EL1, MPAM0_EL1),
    initial!(mpam_streaming, MPAMSM_EL1),
    initial!(context_numbers, SCXTNUM_EL1, SCXTNUM_EL0),
    initial!(context_numbers_frac, SCXTNUM_EL1, SCXTNUM_EL0),
    initial!(sve, ZCR_EL1),
    initial!(sme, SMCR_EL1, SMPRI_EL1),
    initial!(permission_indirection, PIR_EL1, PIRE0_EL1),
    initial!(permission_overlays, POR_EL1, POR_EL0),
    initial!(permission_overlays2, S2POR_EL1),
    initial!(attribute_index, MAIR2_EL1, AMAIR2_EL1),
    initial!(hardening, RCWMASK_EL1),
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
