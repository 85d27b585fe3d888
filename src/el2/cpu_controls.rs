// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every EL2 control over EL1, set on purpose, from one table.
//!
//! The aim is that EL1 sees each CPU feature as it would without the shim: no trap that is not
//! needed, each enable that is closed by default opened. Needed are stage 2, the trap of SMC
//! and little else. The list of what Linux expects is its Documentation/arch/arm64/booting.rst;
//! bits and conditions are those of the Arm ARM, D24.2. Bits of features that a CPU lacks are
//! reserved there, so each is set only where an ID register shows its feature. The exception is
//! the registers whose every bit is one that must be set not to trap: there all are set.
//!
//! EL3 may trap accesses at EL2, of registers that the CPU has, and firmware of a board that boots
//! Linux well need not come back from that. So a row needs one of these, here and in `el1_state`:
//!
//! * EL3 has no trap for the register;
//! * booting.rst obliges firmware to open it, or every Linux entered at EL2 accesses it
//!   (ICC_SRE_EL2, CPTR_EL2, LORC_EL1);
//! * a register says who owns it (PMBIDR_EL1.P, TRBIDR_EL1.P);
//! * there is no EL3. Where there is, registers that nobody is obliged to open are as its firmware
//!   left them, which booting.rst asks to initialise all that EL2 can write.
//!
//! docs/boards.md lists what firmware has to open. The test is above a monitor that opens nothing
//! else (tests/monitor).
//!
//! Two registers are not here, because what is in them is the core's own and only its firmware
//! knows it: ACTLR_EL2 and HACR_EL2 stay as they were. How EL1's own registers begin is in
//! `guest`, stage 2 in `stage2`, what EL2 runs with in `head`.

use super::features::*;
use super::hide::{hidden, mte2_shown};
use super::registers::*;
use aarch64_cpu::registers::*;

/// True on each CPU.
pub fn always() -> bool {
    true
}

/// No scalable vectors: their trap bit reads as one.
fn no_sve() -> bool {
    !sve()
}

/// No scalable matrices: their trap bit reads as one.
fn no_sme() -> bool {
    !sme()
}

/// FEAT_FGT and FEAT_AMUv1: fine-grained traps of activity monitors.
fn fine_traps_of_monitors() -> bool {
    fine_traps() && activity_monitors()
}

/// Activity monitors that EL2 enables, because there is no EL3 to do it.
fn activity_monitors_owned() -> bool {
    activity_monitors() && !el3()
}

/// Of these, monitors that are not architected (AMCFGR_EL0.NCG: groups besides the first).
fn auxiliary_monitors_owned() -> bool {
    activity_monitors_owned() && AMCFGR_EL0.get() >> 28 & 0xf != 0
}

/// The GIC's EL2 registers can be reached: `ICC_SRE_EL2.SRE` stuck when it was set.
fn gic_registers_enabled() -> bool {
    gic_registers() && ICC_SRE_EL2.is_set(ICC_SRE_EL2::SRE)
}

/// The profiling buffer belongs to this security state (PMBIDR_EL1.P).
pub fn spe_owned() -> bool {
    spe() && PMBIDR_EL1.get() & 1 << 4 == 0
}

/// The trace buffer belongs to this security state (TRBIDR_EL1.P).
pub fn trace_buffer_owned() -> bool {
    trace_buffer() && TRBIDR_EL1.get() & 1 << 4 == 0
}

/// Streaming mode has priorities that can be mapped (SMIDR_EL1.SMPS).
fn priority_mapping() -> bool {
    sme() && SMIDR_EL1.get() & 1 << 15 != 0
}

/// Streaming mode has all of A64 (ID_AA64SMFR0_EL1.FA64).
fn sme_fa64() -> bool {
    sme() && ID_AA64SMFR0_EL1.get() >> 63 != 0
}

/// FEAT_SME2: ZT0 (ID_AA64SMFR0_EL1.SMEver).
fn sme2() -> bool {
    sme() && ID_AA64SMFR0_EL1.get() >> 56 & 0xf != 0
}

/// MPAM that EL2 enables, because there is no EL3 to do it. Where there is, it traps all registers
/// of MPAM, those that identify it too, unless its firmware opened them (MPAM3_EL3.TRAPLOWER).
pub fn mpam_owned() -> bool {
    (mpam() || mpam_frac()) && !el3()
}

/// Of this, MPAM with virtualisation (MPAMIDR_EL1.HAS_HCR).
fn mpam_hcr() -> bool {
    mpam_owned() && MPAMIDR_EL1.get() & 1 << 17 != 0
}

/// MPAM with a partition for streaming mode, MPAMSM_EL1.
pub fn mpam_streaming() -> bool {
    mpam_owned() && sme()
}

/// MPAM with PE-side bandwidth control (MPAMIDR_EL1.HAS_BW_CTRL).
pub fn mpam_bandwidth() -> bool {
    mpam_owned() && MPAMIDR_EL1.get() & 1 << 56 != 0
}

/// The same with a limit for streaming mode, MPAMBWSM_EL1.
pub fn mpam_streaming_bandwidth() -> bool {
    mpam_bandwidth() && sme()
}

/// Trace filtering that no EL3 may trap (MDCR_EL3.TTRF).
pub fn trace_filter_owned() -> bool {
    trace_filter() && !el3()
}

/// System PMU that EL3 does not trap: MDCR_EL3.EnPM2, which booting.rst asks for with PMUv3p9.
pub fn system_pmu_open() -> bool {
    system_pmu() && (pmu_v3p9() || !el3())
}

/// Masks of System register bits that no EL3 may trap (SCR_EL3.SRMASKEn).
pub fn register_masks_owned() -> bool {
    register_masks() && !el3()
}

/// PMUv3 (ID_AA64DFR0_EL1.PMUVer; 0xf is another PMU).
pub fn pmu() -> bool {
    !matches!(pmu_version(), 0 | 0xf)
}

/// PMUv3 for v8.1: counting at EL2 can be forbidden.
fn pmu_v8p1() -> bool {
    pmu() && pmu_version() >= 4
}

/// PMUv3 for v8.5: cycle counting at EL2 can be forbidden.
fn pmu_v8p5() -> bool {
    pmu() && pmu_version() >= 6
}

/// Multi-threaded PMU events can be disabled by EL2 (FEAT_MTPMU; 0xf is its absence).
fn pmu_multithreaded() -> bool {
    matches!(ID_AA64DFR0_EL1.get() >> 48 & 0xf, 1..0xf)
}

/// PMUv3 with registers that MDCR_EL3.EnPM2 opens.
pub fn pmu_v3p9() -> bool {
    pmu() && pmu_version() >= 9
}

fn pmu_version() -> u64 {
    ID_AA64DFR0_EL1.get() >> 8 & 0xf
}

/// A condition, and bits that are set where it holds.
type Rule = (fn() -> bool, u64);

/// What a register is set to.
enum Value {
    /// The bits whose condition holds, all others 0.
    Bits(&'static [Rule]),
    /// What a function says.
    Of(fn() -> u64),
}

use Value::{Bits, Of};

/// One EL2 register.
struct Control {
    /// Whether the CPU has the register.
    present: fn() -> bool,
    /// Writes it.
    set: fn(u64),
    /// What it is set to.
    value: Value,
}

/// Makes the row of a register.
macro_rules! control {
    ($register:ident, $present:expr, $value:expr) => {
        Control { present: $present, set: |value| $register.set(value), value: $value }
    };
}

/// Bits `nNAME` of HFGRTR_EL2 and HFGWTR_EL2: 1 means not trapped.
const REGISTERS_NOT_TRAPPED: &[Rule] = &[
    (ls64_accdata, 1 << 50),                     // nACCDATA_EL1
    (gcs, 1 << 52 | 1 << 53),                    // nGCS_EL0, nGCS_EL1
    (sme, 1 << 54 | 1 << 55),                    // nSMPRI_EL1, nTPIDR2_EL0
    (hardening, 1 << 56),                        // nRCWMASK_EL1
    (permission_indirection, 1 << 57 | 1 << 58), // nPIRE0_EL1, nPIR_EL1
    (permission_overlays, 1 << 59 | 1 << 60),    // nPOR_EL0, nPOR_EL1
    (permission_overlays2, 1 << 61),             // nS2POR_EL1
    (attribute_index, 1 << 62 | 1 << 63),        // nMAIR2_EL1, nAMAIR2_EL1
];

/// All bits that HFGRTR2_EL2 has: PFAR, ERXGSR, RCWSMASK, the masks and aliases of FEAT_SRMASK.
/// 1 means not trapped in each of them.
const READS2_NOT_TRAPPED: u64 = 0x7fff;

/// All that HFGWTR2_EL2 has: not ERXGSR, which cannot be written.
const WRITES2_NOT_TRAPPED: u64 = READS2_NOT_TRAPPED & !(1 << 1);

/// All bits that HDFGRTR2_EL2 has: not PMZR, which cannot be read. 1 means not trapped in each.
const DEBUG_READS2_NOT_TRAPPED: u64 = 0x01ff_ffff & !(1 << 21);

/// All that HDFGWTR2_EL2 has: not PMSSDATA, SPMID and SPMDEVAFF, which cannot be written.
const DEBUG_WRITES2_NOT_TRAPPED: u64 = 0x01ff_ffff & !(1 << 6 | 1 << 17 | 1 << 18);

/// The table. Rows are written from top to bottom: CPTR_EL2 before what it traps, ICC_SRE_EL2
/// before ICH_HCR_EL2.
static CONTROLS: &[Control] = &[
    // Interrupts and SErrors stay EL1's (AMO, IMO, FMO 0), so do its ID registers (TID0-5 0; where
    // MTE is hidden TID3 and TID5 are 1), waits (TWI, TWE 0) and maintenance. SWIO: EL1's
    // invalidation by set and way would drop dirty lines of EL2; it cleans as well. TSC: PSCI
    // calls carry entry points.
    control!(
        HCR_EL2,
        always,
        Bits(&[
            (
                always,
                HCR_EL2::VM::SET.value
                    | HCR_EL2::SWIO::SET.value
                    | HCR_EL2::TSC::SET.value
                    | HCR_EL2::RW::SET.value,
            ),
            (pauth_architected, HCR_EL2::APK::SET.value | HCR_EL2::API::SET.value),
            (pauth_own, HCR_EL2::APK::SET.value | HCR_EL2::API::SET.value),
            (pauth_qarma3, HCR_EL2::APK::SET.value | HCR_EL2::API::SET.value),
            (transactions, HCR_EL2::TME::SET.value),
            (ras_v1p1, HCR_EL2::FIEN::SET.value),
            (ras_frac, HCR_EL2::FIEN::SET.value),
            (context_numbers, HCR_EL2::EnSCXT::SET.value),
            (context_numbers_frac, HCR_EL2::EnSCXT::SET.value),
            (mte2_shown, HCR_EL2::ATA::SET.value),
            (hidden, HCR_EL2::TID3::SET.value | HCR_EL2::TID5::SET.value),
        ])
    ),
    // MCE2 0: exceptions of memory copies go to EL1, as without EL2. A hypervisor that moves a guest
    // from one kind of CPU to another has to serve them itself, and booting.rst asks for that;
    // this one never moves it, so they come only where EL1 itself moved a program.
    // SRMASKEn 0 with EL3: what is in the masks is unknown then, and 0 makes it count for nothing.
    control!(
        HCRX_EL2,
        hcrx,
        Bits(&[
            (ls64_accdata, 1 << 0),          // EnAS0
            (ls64, 1 << 1),                  // EnALS
            (ls64_v, 1 << 2),                // EnASR
            (mops, 1 << 11),                 // MSCEn
            (tcr2, 1 << 14),                 // TCR2En
            (sctlr2, 1 << 15),               // SCTLR2En
            (hardening, 1 << 16),            // PTTWI
            (d128, 1 << 17),                 // D128En
            (anerr, 1 << 18),                // EnSNERR
            (aderr, 1 << 20),                // EnSDERR
            (sysreg128, 1 << 21),            // EnIDCP128
            (gcs, 1 << 22),                  // GCSEn
            (fpmr, 1 << 23),                 // EnFPM
            (pauth_lr, 1 << 24),             // PACMEn
            (register_masks_owned, 1 << 26), // SRMASKEn
        ])
    ),
    // Nothing trapped: not floating point (TFP), SVE (TZ), SME (TSM), trace (TTA), activity
    // monitors (TAM), CPACR_EL1 (TCPAC). What is set reads as one.
    control!(CPTR_EL2, always, Bits(&[(always, 0x22ff), (no_sve, 1 << 8), (no_sme, 1 << 12)])),
    control!(HSTR_EL2, always, Bits(&[])),
    // All PMU counters are EL1's (HPMN, else EL1 has fewer), and none counts at EL2. The buffers
    // of profiling and trace use EL1's translation, so that EL1 owns them and EL2 is in neither.
    control!(
        MDCR_EL2,
        always,
        Of(|| {
            bits(&[
                (pmu_v8p1, MDCR_EL2::HPMD::SET.value),
                (pmu_v8p5, MDCR_EL2::HCCD::SET.value),
                (pmu_multithreaded, MDCR_EL2::MTPME::SET.value),
                (spe, MDCR_EL2::E2PB::OwnedByEL1.value),
                (trace_buffer_owned, MDCR_EL2::E2TB::EL1OwnerNotTrapped.value),
                (system_pmu, MDCR_EL2::EnSPM::SET.value),
                (pmu_snapshot, MDCR_EL2::PMSSE::ControlledByPMECR.value),
                (pmu_exceptions, MDCR_EL2::PMEE::ControlledByPMECR.value),
                (debug_v8p9, MDCR_EL2::EBWE::SET.value),
                (step2, MDCR_EL2::EnSTEPOP::SET.value),
            ]) | if pmu() { PMCR_EL0.get() >> 11 & 0x1f } else { 0 }
        })
    ),
    control!(PMSCR_EL2, spe_owned, Bits(&[(always, 1 << 4 | 1 << 6)])), // PA, PCT: EL1 may ask
    control!(TRFCR_EL2, trace_filter_owned, Bits(&[])),
    control!(BRBCR_EL2, brbe, Bits(&[(always, 1 << 3 | 1 << 4)])), // CC, MPRED: EL1 may ask
    // Fine-grained traps: bits NAME trap where 1, bits nNAME where 0.
    control!(HFGRTR_EL2, fine_traps, Bits(REGISTERS_NOT_TRAPPED)),
    control!(HFGWTR_EL2, fine_traps, Bits(REGISTERS_NOT_TRAPPED)),
    control!(
        HFGITR_EL2,
        fine_traps,
        Bits(&[
            (brbe, 1 << 55 | 1 << 56),          // nBRBINJ, nBRBIALL
            (gcs, 1 << 57 | 1 << 58 | 1 << 59), // nGCSPUSHM_EL1, nGCSSTR_EL1, nGCSEPP
        ])
    ),
    control!(
        HDFGRTR_EL2,
        fine_traps,
        Bits(&[
            (brbe, 1 << 59 | 1 << 60 | 1 << 61), // nBRBIDR, nBRBCTL, nBRBDATA
            (spe_fne, 1 << 62),                  // nPMSNEVFR_EL1
        ])
    ),
    control!(
        HDFGWTR_EL2,
        fine_traps,
        Bits(&[
            (brbe, 1 << 60 | 1 << 61), // nBRBCTL, nBRBDATA
            (spe_fne, 1 << 62),        // nPMSNEVFR_EL1
        ])
    ),
    control!(HAFGRTR_EL2, fine_traps_of_monitors, Bits(&[])),
    control!(HFGRTR2_EL2, fine_traps2, Bits(&[(always, READS2_NOT_TRAPPED)])),
    control!(HFGWTR2_EL2, fine_traps2, Bits(&[(always, WRITES2_NOT_TRAPPED)])),
    control!(HFGITR2_EL2, fine_traps2, Bits(&[(always, 1 << 0)])), // nDCCIVAPS
    control!(HDFGRTR2_EL2, fine_traps2, Bits(&[(always, DEBUG_READS2_NOT_TRAPPED)])),
    control!(HDFGWTR2_EL2, fine_traps2, Bits(&[(always, DEBUG_WRITES2_NOT_TRAPPED)])),
    // EL1 has the physical counter and timer, neither masked nor offset (ECV 0); the virtual
    // counter is the physical one. The event stream is EL1's own, in CNTKCTL_EL1.
    control!(
        CNTHCTL_EL2,
        always,
        Bits(&[(always, CNTHCTL_EL2::EL1PCTEN::SET.value | CNTHCTL_EL2::EL1PCEN::SET.value,)])
    ),
    control!(CNTVOFF_EL2, always, Bits(&[])),
    control!(CNTHP_CTL_EL2, always, Bits(&[])),
    control!(CNTHV_CTL_EL2, vhe, Bits(&[])),
    // EL1 reads the CPU's own numbers.
    control!(VPIDR_EL2, always, Of(|| MIDR_EL1.get())),
    control!(VMPIDR_EL2, always, Of(|| MPIDR_EL1.get())),
    // The GIC's System registers, open to EL1.
    control!(
        ICC_SRE_EL2,
        gic_registers,
        Bits(&[(
            always,
            ICC_SRE_EL2::SRE::SET.value
                | ICC_SRE_EL2::DFB::SET.value
                | ICC_SRE_EL2::DIB::SET.value
                | ICC_SRE_EL2::ENABLE::SET.value,
        )])
    ),
    control!(ICH_HCR_EL2, gic_registers_enabled, Bits(&[])),
    // GICv5 has fine-grained traps of its own. 1 means not trapped in each of them.
    control!(ICH_HFGRTR_EL2, gic_v5, Bits(&[(always, 0x1f_00ff)])),
    control!(ICH_HFGWTR_EL2, gic_v5, Bits(&[(always, 0x1e_0065)])),
    control!(ICH_HFGITR_EL2, gic_v5, Bits(&[(always, 0x7ff)])),
    // The longest vectors there are.
    control!(ZCR_EL2, sve, Bits(&[(always, 0x1ff)])),
    control!(SMCR_EL2, sme, Bits(&[(always, 0x1ff), (sme2, 1 << 30), (sme_fa64, 1 << 31)])),
    control!(SMPRIMAP_EL2, priority_mapping, Bits(&[])),
    // EL2 in the default partition. EL1 chooses its own, which takes MPAMEN: without EL3 nobody
    // else sets it, and EL1 cannot. Nothing trapped (EnMPAMSM: MPAMSM_EL1), no partition mapped.
    control!(MPAM2_EL2, mpam_owned, Bits(&[(mpam_streaming, 1 << 50), (always, 1 << 63)])),
    control!(MPAMHCR_EL2, mpam_hcr, Bits(&[])),
    // No limit for EL2; nTRAP_MPAMBWSM, BW1, BW0, BWIDR.
    control!(MPAMBW2_EL2, mpam_bandwidth, Bits(&[(always, 0xf << 49)])),
    // The four architected counters run, as Linux expects, and whatever others there are.
    control!(AMCNTENSET0_EL0, activity_monitors_owned, Bits(&[(always, 0xf)])),
    control!(
        AMCNTENSET1_EL0,
        auxiliary_monitors_owned,
        Of(|| (1 << (AMCGCR_EL0.get() >> 8 & 0x1f)) - 1)
    ),
    // Each System PMU, two bits: EL1 reads and writes it.
    control!(SPMACCESSR_EL2, system_pmu_open, Bits(&[(always, u64::MAX)])),
    control!(LORC_EL1, ordering_regions, Bits(&[])),
    control!(GCSCR_EL2, gcs, Bits(&[])),
];

/// The bits whose condition holds.
fn bits(list: &[Rule]) -> u64 {
    list.iter().filter(|(condition, _)| condition()).fold(0, |value, (_, bits)| value | bits)
}

/// Sets every EL2 control over EL1, on this CPU.
pub fn apply() {
    for control in CONTROLS {
        if (control.present)() {
            (control.set)(match control.value {
                Bits(list) => bits(list),
                Of(value) => value(),
            });
            // Some registers are reached only once those before them are in force.
            super::cache::isb();
        }
    }
}
