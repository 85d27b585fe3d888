// SPDX-License-Identifier: MIT OR Apache-2.0
//! System registers that aarch64-cpu has not, by their encoding.

use tock_registers::interfaces::{Readable, Writeable};

/// Makes a type for each register that is read (`get`) or written (`set`) like those of
/// aarch64-cpu.
macro_rules! system_registers {
    ($($(#[$doc:meta])* $name:ident = $encoding:literal: $($access:ident)+;)*) => {
        $($(#[$doc])* #[allow(
            non_camel_case_types,
            clippy::upper_case_acronyms,
            reason = "the architecture's names"
        )]
        pub struct $name;
        $(system_registers!(@$access $name $encoding);)+)*
    };
    (@get $name:ident $encoding:literal) => {
        impl Readable for $name {
            type T = u64;
            type R = ();

            #[inline(always)]
            fn get(&self) -> u64 {
                let value;
                // SAFETY: Reading one of these registers changes nothing. The ID space reads as
                // zero where nothing is defined; others are read only where the CPU has them.
                unsafe {
                    core::arch::asm!(
                        concat!("mrs {}, ", $encoding),
                        out(reg) value,
                        options(nomem, nostack, preserves_flags)
                    );
                }
                value
            }
        }
    };
    (@set $name:ident $encoding:literal) => {
        impl Writeable for $name {
            type T = u64;
            type R = ();

            #[inline(always)]
            fn set(&self, value: u64) {
                // SAFETY: These registers configure EL1 or traps to EL2; none of them affects
                // how EL2 accesses memory. They are written only where the CPU has them.
                unsafe {
                    core::arch::asm!(
                        concat!("msr ", $encoding, ", {}"),
                        in(reg) value,
                        options(nomem, nostack, preserves_flags)
                    );
                }
            }
        }
    };
}

system_registers! {
    /// See [`ID_AA64PFR2_EL1`].
    ID_AA64PFR2_EL1 = "S3_0_C0_C4_2": get;
    /// See [`ID_AA64PFR2_EL1`].
    ID_AA64SMFR0_EL1 = "S3_0_C0_C4_5": get;
    /// See [`ID_AA64PFR2_EL1`].
    ID_AA64DFR2_EL1 = "S3_0_C0_C5_2": get;
    /// See [`ID_AA64PFR2_EL1`].
    ID_AA64ISAR2_EL1 = "S3_0_C0_C6_2": get;
    /// See [`ID_AA64PFR2_EL1`].
    ID_AA64ISAR3_EL1 = "S3_0_C0_C6_3": get;
    /// See [`ID_AA64PFR2_EL1`].
    ID_AA64MMFR3_EL1 = "S3_0_C0_C7_3": get;
    /// See [`ID_AA64PFR2_EL1`].
    ID_AA64MMFR4_EL1 = "S3_0_C0_C7_4": get;
    /// Cache type: line sizes.
    CTR_EL0 = "S3_3_C0_C0_1": get;
    /// Interrupt status: what is pending, masked or not.
    ISR_EL1 = "S3_0_C12_C1_0": get;
    /// Streaming mode identification: priority mapping.
    SMIDR_EL1 = "S3_1_C0_C0_6": get;
    /// Performance monitors control: the number of counters.
    PMCR_EL0 = "S3_3_C9_C12_0": get;
    /// Profiling buffer identification: who owns the buffer.
    PMBIDR_EL1 = "S3_0_C9_C10_7": get;
    /// Trace buffer identification: who owns the buffer.
    TRBIDR_EL1 = "S3_0_C9_C11_7": get;
    /// MPAM identification.
    MPAMIDR_EL1 = "S3_0_C10_C4_4": get;
    /// Extended hypervisor configuration (FEAT_HCX).
    HCRX_EL2 = "S3_4_C1_C2_2": set;
    /// AArch32 System register traps.
    HSTR_EL2 = "S3_4_C1_C1_3": set;
    /// Further fine-grained read traps (FEAT_FGT2).
    HFGRTR2_EL2 = "S3_4_C3_C1_2": set;
    /// Further fine-grained write traps (FEAT_FGT2).
    HFGWTR2_EL2 = "S3_4_C3_C1_3": set;
    /// Further fine-grained instruction traps (FEAT_FGT2).
    HFGITR2_EL2 = "S3_4_C3_C1_7": set;
    /// Further fine-grained read traps of debug registers (FEAT_FGT2).
    HDFGRTR2_EL2 = "S3_4_C3_C1_0": set;
    /// Further fine-grained write traps of debug registers (FEAT_FGT2).
    HDFGWTR2_EL2 = "S3_4_C3_C1_1": set;
    /// EL2 virtual timer (FEAT_VHE).
    CNTHV_CTL_EL2 = "S3_4_C14_C3_1": set;
    /// What EL1 reads as MIDR_EL1.
    VPIDR_EL2 = "S3_4_C0_C0_0": set;
    /// SVE vector length of EL1 (FEAT_SVE).
    ZCR_EL2 = "S3_4_C1_C2_0": set;
    /// SME vector length of EL1 (FEAT_SME).
    SMCR_EL2 = "S3_4_C1_C2_6": set;
    /// Mapping of streaming mode priorities (FEAT_SME).
    SMPRIMAP_EL2 = "S3_4_C1_C2_5": set;
    /// Memory partition of EL2, and MPAM traps (FEAT_MPAM).
    MPAM2_EL2 = "S3_4_C10_C5_0": set;
    /// MPAM virtualisation (FEAT_MPAM).
    MPAMHCR_EL2 = "S3_4_C10_C4_0": set;
    /// PE-side bandwidth control of EL2, and its traps (FEAT_MPAM_PE_BW_CTRL).
    MPAMBW2_EL2 = "S3_4_C10_C5_4": set;
    /// Memory partition of EL1 (FEAT_MPAM).
    MPAM1_EL1 = "S3_0_C10_C5_0": set;
    /// Memory partition of EL0 (FEAT_MPAM).
    MPAM0_EL1 = "S3_0_C10_C5_1": set;
    /// Activity monitors: how many groups of counters.
    AMCFGR_EL0 = "S3_3_C13_C2_1": get;
    /// Activity monitors: how many counters in each group.
    AMCGCR_EL0 = "S3_3_C13_C2_2": get;
    /// Architected activity monitors that count (FEAT_AMUv1).
    AMCNTENSET0_EL0 = "S3_3_C13_C2_5": set;
    /// Auxiliary activity monitors that count (FEAT_AMUv1).
    AMCNTENSET1_EL0 = "S3_3_C13_C3_1": set;
    /// System performance monitors that EL1 may access (FEAT_SPMU).
    SPMACCESSR_EL2 = "S2_4_C9_C13_3": set;
    /// GICv5: fine-grained read traps (FEAT_GCIE).
    ICH_HFGRTR_EL2 = "S3_4_C12_C9_4": set;
    /// GICv5: fine-grained write traps (FEAT_GCIE).
    ICH_HFGWTR_EL2 = "S3_4_C12_C9_6": set;
    /// GICv5: fine-grained instruction traps (FEAT_GCIE).
    ICH_HFGITR_EL2 = "S3_4_C12_C9_7": set;
    /// Limited ordering regions (FEAT_LOR).
    LORC_EL1 = "S3_0_C10_C4_3": set;
    /// Statistical profiling of EL2 (FEAT_SPE).
    PMSCR_EL2 = "S3_4_C9_C9_0": set;
    /// Trace of EL2 (FEAT_TRF).
    TRFCR_EL2 = "S3_4_C1_C2_1": set;
    /// Branch records of EL2 (FEAT_BRBE).
    BRBCR_EL2 = "S2_4_C9_C0_0": set;
    /// Guarded control stacks of EL2 (FEAT_GCS).
    GCSCR_EL2 = "S3_4_C2_C5_0": set;
    /// Guarded control stacks of EL1 (FEAT_GCS).
    GCSCR_EL1 = "S3_0_C2_C5_0": get set;
    /// Guarded control stacks of EL0 (FEAT_GCS).
    GCSCRE0_EL1 = "S3_0_C2_C5_2": set;
    /// Streaming mode and ZA (FEAT_SME). Off: what ZA and ZT0 held is gone when they come on again.
    SVCR = "S3_3_C4_C2_2": set;
    /// Thread pointer for SME of EL0 (FEAT_SME).
    TPIDR2_EL0 = "S3_3_C13_C0_5": set;
    /// Floating-point modes (FEAT_FPMR).
    FPMR = "S3_3_C4_C4_2": set;
    /// Extended system control of EL1 (FEAT_SCTLR2).
    SCTLR2_EL1 = "S3_0_C1_C0_3": set;
    /// Which cache CCSIDR_EL1 describes.
    CSSELR_EL1 = "S3_2_C0_C0_0": set;
    /// Performance monitors: stops counters.
    PMCNTENCLR_EL0 = "S3_3_C9_C12_2": set;
    /// Performance monitors: takes the interrupt from counters.
    PMINTENCLR_EL1 = "S3_0_C9_C14_2": set;
    /// Performance monitors: forgets overflows.
    PMOVSCLR_EL0 = "S3_3_C9_C12_3": set;
    /// Performance monitors: what EL0 may access.
    PMUSERENR_EL0 = "S3_3_C9_C14_0": set;
    /// System performance monitors that EL0 may access (FEAT_SPMU).
    SPMACCESSR_EL1 = "S2_0_C9_C13_3": set;
    /// Profiling buffer limit, and whether it is used (FEAT_SPE).
    PMBLIMITR_EL1 = "S3_0_C9_C10_0": set;
    /// Statistical profiling of EL1 and EL0 (FEAT_SPE).
    PMSCR_EL1 = "S3_0_C9_C9_0": set;
    /// Trace buffer limit, and whether it is used (FEAT_TRBE).
    TRBLIMITR_EL1 = "S3_0_C9_C11_0": set;
    /// Trace of EL1 and EL0 (FEAT_TRF).
    TRFCR_EL1 = "S3_0_C1_C2_1": set;
    /// Branch records of EL1 and EL0 (FEAT_BRBE).
    BRBCR_EL1 = "S2_1_C9_C0_0": set;
    /// Memory partition of streaming mode (FEAT_MPAM, FEAT_SME).
    MPAMSM_EL1 = "S3_0_C10_C5_3": set;
    /// PE-side bandwidth control of EL1 (FEAT_MPAM_PE_BW_CTRL).
    MPAMBW1_EL1 = "S3_0_C10_C5_4": set;
    /// PE-side bandwidth control of EL0 (FEAT_MPAM_PE_BW_CTRL).
    MPAMBW0_EL1 = "S3_0_C10_C5_5": set;
    /// PE-side bandwidth control of streaming mode (FEAT_MPAM_PE_BW_CTRL, FEAT_SME).
    MPAMBWSM_EL1 = "S3_0_C10_C5_7": set;
    /// Counters that EL0 may access (FEAT_PMUv3p9).
    PMUACR_EL1 = "S3_0_C9_C14_4": set;
    /// Activity monitors: what EL0 may access (FEAT_AMUv1).
    AMUSERENR_EL0 = "S3_3_C13_C2_3": set;
    /// Bits of SCTLR_EL1 that EL1 cannot write (FEAT_SRMASK).
    SCTLRMASK_EL1 = "S3_0_C1_C4_0": set;
    /// Bits of CPACR_EL1 that EL1 cannot write (FEAT_SRMASK).
    CPACRMASK_EL1 = "S3_0_C1_C4_2": set;
    /// Bits of SCTLR2_EL1 that EL1 cannot write (FEAT_SRMASK, FEAT_SCTLR2).
    SCTLR2MASK_EL1 = "S3_0_C1_C4_3": set;
    /// Bits of TCR_EL1 that EL1 cannot write (FEAT_SRMASK).
    TCRMASK_EL1 = "S3_0_C2_C7_2": set;
    /// Bits of TCR2_EL1 that EL1 cannot write (FEAT_SRMASK, FEAT_TCR2).
    TCR2MASK_EL1 = "S3_0_C2_C7_3": set;
    /// SVE vector length of EL0 (FEAT_SVE).
    ZCR_EL1 = "S3_0_C1_C2_0": set;
    /// SME vector length of EL0 (FEAT_SME).
    SMCR_EL1 = "S3_0_C1_C2_6": set;
    /// Streaming mode priority (FEAT_SME).
    SMPRI_EL1 = "S3_0_C1_C2_4": set;
    /// Permission indirection of EL1 (FEAT_S1PIE).
    PIR_EL1 = "S3_0_C10_C2_3": set;
    /// Permission indirection of EL0 (FEAT_S1PIE).
    PIRE0_EL1 = "S3_0_C10_C2_2": set;
    /// Permission overlays of EL1 (FEAT_S1POE).
    POR_EL1 = "S3_0_C10_C2_4": set;
    /// Permission overlays of EL0 (FEAT_S1POE).
    POR_EL0 = "S3_3_C10_C2_4": set;
    /// Permission overlays of stage 2 (FEAT_S2POE).
    S2POR_EL1 = "S3_0_C10_C2_5": set;
    /// Further memory attributes (FEAT_AIE).
    MAIR2_EL1 = "S3_0_C10_C2_1": set;
    /// Further auxiliary memory attributes (FEAT_AIE).
    AMAIR2_EL1 = "S3_0_C10_C3_1": set;
    /// Bits of descriptors that RCW instructions may change (FEAT_THE).
    RCWMASK_EL1 = "S3_0_C13_C0_6": set;
    /// The same of software's bits (FEAT_THE).
    RCWSMASK_EL1 = "S3_0_C13_C0_3": set;
    /// Tags that IRG leaves out (FEAT_MTE2).
    GCR_EL1 = "S3_0_C1_C0_6": set;
    /// Seed of IRG (FEAT_MTE2).
    RGSR_EL1 = "S3_0_C1_C0_5": set;
    /// Tag check faults of EL1 (FEAT_MTE2).
    TFSR_EL1 = "S3_0_C5_C6_0": set;
    /// Tag check faults of EL0 (FEAT_MTE2).
    TFSRE0_EL1 = "S3_0_C5_C6_1": set;
}
