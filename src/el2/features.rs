// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the CPU has, by the fields of its ID registers (Arm ARM, D24.2).

use super::registers::*;
use aarch64_cpu::registers::*;

/// Names features after what their ID register fields say (Arm ARM, D24.2).
///
/// `name = REGISTER[lowest bit] >= value` makes a function that says whether the field of four
/// bits holds at least `value`.
macro_rules! features {
    ($($(#[$doc:meta])* $name:ident = $register:ident[$shift:literal] >= $least:literal;)*) => {
        $($(#[$doc])* pub fn $name() -> bool {
            ($register.get() >> $shift) & 0xf >= $least
        })*
    };
}

features! {
    /// Statistical profiling: FEAT_SPE.
    spe = ID_AA64DFR0_EL1[32] >= 1;
    /// Filtering of profiles by inverted events: FEAT_SPE_FnE.
    spe_fne = ID_AA64DFR0_EL1[32] >= 3;
    /// Trace filtering: FEAT_TRF.
    trace_filter = ID_AA64DFR0_EL1[40] >= 1;
    /// Trace buffer: FEAT_TRBE.
    trace_buffer = ID_AA64DFR0_EL1[44] >= 1;
    /// Branch records: FEAT_BRBE.
    brbe = ID_AA64DFR0_EL1[52] >= 1;
    /// More than 16 breakpoints: FEAT_Debugv8p9.
    debug_v8p9 = ID_AA64DFR0_EL1[0] >= 0xb;
    /// PMU snapshots: FEAT_PMUv3_SS.
    pmu_snapshot = ID_AA64DFR0_EL1[16] >= 1;
    /// System PMU: FEAT_SPMU.
    system_pmu = ID_AA64DFR1_EL1[32] >= 1;
    /// Exceptions of the PMU: FEAT_EBEP.
    pmu_exceptions = ID_AA64DFR1_EL1[48] >= 1;
    /// Step with an instruction of choice: FEAT_STEP2.
    step2 = ID_AA64DFR2_EL1[0] >= 1;
    /// Large atomic loads and stores: FEAT_LS64.
    ls64 = ID_AA64ISAR1_EL1[60] >= 1;
    /// The same with a result: FEAT_LS64_V.
    ls64_v = ID_AA64ISAR1_EL1[60] >= 2;
    /// The same with EL1's data: FEAT_LS64_ACCDATA.
    ls64_accdata = ID_AA64ISAR1_EL1[60] >= 3;
    /// Transactions: FEAT_TME.
    transactions = ID_AA64ISAR0_EL1[24] >= 1;
    /// Atomic instructions: FEAT_LSE.
    lse = ID_AA64ISAR0_EL1[20] >= 2;
    /// Pointer authentication by the architected algorithm.
    pauth_architected = ID_AA64ISAR1_EL1[4] >= 1;
    /// Pointer authentication by the core's own algorithm.
    pauth_own = ID_AA64ISAR1_EL1[8] >= 1;
    /// Pointer authentication by QARMA3.
    pauth_qarma3 = ID_AA64ISAR2_EL1[12] >= 1;
    /// Memory copy and set instructions: FEAT_MOPS.
    mops = ID_AA64ISAR2_EL1[16] >= 1;
    /// 128-bit System registers: FEAT_SYSREG128.
    sysreg128 = ID_AA64ISAR2_EL1[32] >= 1;
    /// Signing with the address of the instruction: FEAT_PAuth_LR.
    pauth_lr = ID_AA64ISAR3_EL1[12] >= 1;
    /// Fine-grained traps: FEAT_FGT.
    fine_traps = ID_AA64MMFR0_EL1[56] >= 1;
    /// More of them: FEAT_FGT2.
    fine_traps2 = ID_AA64MMFR0_EL1[56] >= 2;
    /// EL2 as a host: FEAT_VHE.
    vhe = ID_AA64MMFR1_EL1[8] >= 1;
    /// Limited ordering regions: FEAT_LOR.
    ordering_regions = ID_AA64MMFR1_EL1[16] >= 1;
    /// HCRX_EL2: FEAT_HCX.
    hcrx = ID_AA64MMFR1_EL1[40] >= 1;
    /// TCR2_EL1: FEAT_TCR2.
    tcr2 = ID_AA64MMFR3_EL1[0] >= 1;
    /// SCTLR2_EL1: FEAT_SCTLR2.
    sctlr2 = ID_AA64MMFR3_EL1[4] >= 1;
    /// Permission indirection: FEAT_S1PIE.
    permission_indirection = ID_AA64MMFR3_EL1[8] >= 1;
    /// Permission overlays: FEAT_S1POE.
    permission_overlays = ID_AA64MMFR3_EL1[16] >= 1;
    /// Permission overlays of stage 2: FEAT_S2POE.
    permission_overlays2 = ID_AA64MMFR3_EL1[20] >= 1;
    /// Attribute index enhancement: FEAT_AIE.
    attribute_index = ID_AA64MMFR3_EL1[24] >= 1;
    /// 128-bit translation tables: FEAT_D128.
    d128 = ID_AA64MMFR3_EL1[32] >= 1;
    /// Errors of stores to Normal memory, both ways: FEAT_ANERR.
    anerr = ID_AA64MMFR3_EL1[44] >= 2;
    /// Errors of loads from Device memory, both ways: FEAT_ADERR.
    aderr = ID_AA64MMFR3_EL1[52] >= 2;
    /// Masks of System register bits: FEAT_SRMASK.
    register_masks = ID_AA64MMFR4_EL1[44] >= 1;
    /// No floating point and no SIMD.
    no_fp = ID_AA64PFR0_EL1[16] >= 0xf;
    /// EL3.
    el3 = ID_AA64PFR0_EL1[12] >= 1;
    /// GIC CPU interface by System registers.
    gic_registers = ID_AA64PFR0_EL1[24] >= 1;
    /// Errors records, v1.1: FEAT_RASv1p1.
    ras_v1p1 = ID_AA64PFR0_EL1[28] >= 2;
    /// The same, written as a fraction.
    ras_frac = ID_AA64PFR1_EL1[12] >= 1;
    /// Scalable vectors: FEAT_SVE.
    sve = ID_AA64PFR0_EL1[32] >= 1;
    /// Memory partitioning: FEAT_MPAM.
    mpam = ID_AA64PFR0_EL1[40] >= 1;
    /// The same, v0.1.
    mpam_frac = ID_AA64PFR1_EL1[16] >= 1;
    /// Activity monitors: FEAT_AMUv1.
    activity_monitors = ID_AA64PFR0_EL1[44] >= 1;
    /// Software context numbers: FEAT_CSV2_2.
    context_numbers = ID_AA64PFR0_EL1[56] >= 2;
    /// The same, written as a fraction.
    context_numbers_frac = ID_AA64PFR1_EL1[32] >= 2;
    /// Memory tagging with tag memory: FEAT_MTE2.
    mte2 = ID_AA64PFR1_EL1[8] >= 2;
    /// Scalable matrices: FEAT_SME.
    sme = ID_AA64PFR1_EL1[24] >= 1;
    /// Guarded control stacks: FEAT_GCS.
    gcs = ID_AA64PFR1_EL1[44] >= 1;
    /// Translation hardening: FEAT_THE.
    hardening = ID_AA64PFR1_EL1[48] >= 1;
    /// GICv5's CPU interface: FEAT_GCIE.
    gic_v5 = ID_AA64PFR2_EL1[12] >= 1;
    /// FPMR: FEAT_FPMR.
    fpmr = ID_AA64PFR2_EL1[32] >= 1;
    /// Privileged access never: FEAT_PAN.
    pan = ID_AA64MMFR1_EL1[20] >= 1;
    /// Speculative store bypass safe: FEAT_SSBS.
    ssbs = ID_AA64PFR1_EL1[4] >= 1;
    /// Memory tagging, instructions at least: FEAT_MTE.
    mte = ID_AA64PFR1_EL1[8] >= 1;
    /// Non-maskable interrupts: FEAT_NMI.
    nmi = ID_AA64PFR1_EL1[36] >= 1;
}
