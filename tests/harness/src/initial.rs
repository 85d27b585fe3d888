// SPDX-License-Identifier: MIT OR Apache-2.0
//! EL1's registers that a CPU may or may not have, as it finds them when it enters: all at rest.
//! Those that `entry.s` stores are in every CPU.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::cpu::{self, read_register, write_register};
use crate::entry::MAX_CPUS;

/// One register.
pub struct Register {
    /// Its name.
    pub name: &'static str,
    present: fn() -> bool,
    read: fn() -> u64,
}

/// Makes the table. `name = encoding, ID register [lowest bit] >= value, bits that count;`.
macro_rules! registers {
    ($($name:ident = $encoding:literal, $id:literal[$shift:literal] >= $least:literal, $bits:literal;)*) => {
        /// All of them.
        pub const ALL: &[Register] = &[$(Register {
            name: stringify!($name),
            present: || read_register!($id) >> $shift & 0xf >= $least,
            read: || read_register!($encoding) & $bits,
        }),*];
    };
}

registers! {
    // These every CPU has that has EL1.
    CSSELR_EL1 = "s3_2_c0_c0_0", "id_aa64pfr0_el1"[4] >= 1, 0xf;
    MDSCR_EL1 = "s2_0_c0_c2_2", "id_aa64pfr0_el1"[4] >= 1, 0xffff_ffff;
    CNTKCTL_EL1 = "s3_0_c14_c1_0", "id_aa64pfr0_el1"[4] >= 1, 0xffff_ffff;
    // Not ISTATUS, which is unknown while the timer is off.
    CNTP_CTL_EL0 = "s3_3_c14_c2_1", "id_aa64pfr0_el1"[4] >= 1, 3;
    CNTV_CTL_EL0 = "s3_3_c14_c3_1", "id_aa64pfr0_el1"[4] >= 1, 3;
    PMCNTENSET_EL0 = "s3_3_c9_c12_1", "id_aa64dfr0_el1"[8] >= 1, 0xffff_ffff_ffff_ffff;
    PMINTENSET_EL1 = "s3_0_c9_c14_1", "id_aa64dfr0_el1"[8] >= 1, 0xffff_ffff_ffff_ffff;
    PMOVSSET_EL0 = "s3_3_c9_c14_3", "id_aa64dfr0_el1"[8] >= 1, 0xffff_ffff_ffff_ffff;
    PMUSERENR_EL0 = "s3_3_c9_c14_0", "id_aa64dfr0_el1"[8] >= 1, 0xffff_ffff_ffff_ffff;
    ZCR_EL1 = "s3_0_c1_c2_0", "id_aa64pfr0_el1"[32] >= 1, 0xffff_ffff_ffff_ffff;
    SMCR_EL1 = "s3_0_c1_c2_6", "id_aa64pfr1_el1"[24] >= 1, 0xffff_ffff_ffff_ffff;
    SMPRI_EL1 = "s3_0_c1_c2_4", "id_aa64pfr1_el1"[24] >= 1, 0xffff_ffff_ffff_ffff;
    TPIDR2_EL0 = "s3_3_c13_c0_5", "id_aa64pfr1_el1"[24] >= 1, 0xffff_ffff_ffff_ffff;
    TCR2_EL1 = "s3_0_c2_c0_3", "s3_0_c0_c7_3"[0] >= 1, 0xffff_ffff_ffff_ffff;
    PIR_EL1 = "s3_0_c10_c2_3", "s3_0_c0_c7_3"[8] >= 1, 0xffff_ffff_ffff_ffff;
    PIRE0_EL1 = "s3_0_c10_c2_2", "s3_0_c0_c7_3"[8] >= 1, 0xffff_ffff_ffff_ffff;
    POR_EL1 = "s3_0_c10_c2_4", "s3_0_c0_c7_3"[16] >= 1, 0xffff_ffff_ffff_ffff;
    POR_EL0 = "s3_3_c10_c2_4", "s3_0_c0_c7_3"[16] >= 1, 0xffff_ffff_ffff_ffff;
    GCSCR_EL1 = "s3_0_c2_c5_0", "id_aa64pfr1_el1"[44] >= 1, 0xffff_ffff_ffff_ffff;
    GCSCRE0_EL1 = "s3_0_c2_c5_2", "id_aa64pfr1_el1"[44] >= 1, 0xffff_ffff_ffff_ffff;
    GCR_EL1 = "s3_0_c1_c0_6", "id_aa64pfr1_el1"[8] >= 2, 0xffff_ffff_ffff_ffff;
    RGSR_EL1 = "s3_0_c1_c0_5", "id_aa64pfr1_el1"[8] >= 2, 0xffff_ffff_ffff_ffff;
    TFSR_EL1 = "s3_0_c5_c6_0", "id_aa64pfr1_el1"[8] >= 2, 0xffff_ffff_ffff_ffff;
    TFSRE0_EL1 = "s3_0_c5_c6_1", "id_aa64pfr1_el1"[8] >= 2, 0xffff_ffff_ffff_ffff;
}

/// What each CPU last read, by number.
static FOUND: [[AtomicU64; ALL.len()]; MAX_CPUS] =
    [const { [const { AtomicU64::new(0) }; ALL.len()] }; MAX_CPUS];

/// CPACR_EL1: SMEN, FPEN, ZEN.
const NOTHING_TRAPPED: u64 = 3 << 24 | 3 << 20 | 3 << 16;

/// Reads them, on CPU `number`, before anything writes one. One that is not there is 0.
pub fn note(number: usize) {
    write_register!("cpacr_el1", NOTHING_TRAPPED);
    cpu::isb();
    for (register, found) in ALL.iter().zip(&FOUND[number]) {
        let value = if (register.present)() { (register.read)() } else { 0 };
        found.store(value, Ordering::SeqCst);
    }
}

/// What CPU `number` read.
pub fn found(number: usize) -> impl Iterator<Item = (&'static str, u64)> {
    let values = FOUND[number].iter().map(|value| value.load(Ordering::SeqCst));
    ALL.iter().map(|register| register.name).zip(values)
}

/// How many of them this CPU has.
pub fn present() -> usize {
    ALL.iter().filter(|register| (register.present)()).count()
}
