// SPDX-License-Identifier: MIT OR Apache-2.0
//! Single accesses of every kind, made at EL1 or at EL0, for memory that must not be reached
//! (`probes.s`).

use core::arch::global_asm;

use crate::cpu::{self, read_register, write_register};
use crate::exceptions::{self, Abort};
use crate::machine::machine;
use crate::mmu::{self, EL0_OFFSET};

global_asm!(include_str!("probes.s"));

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads.
    Load,
    /// Writes.
    Store,
    /// Reads and writes: either may be what is reported.
    Both,
    /// Writes, or fails before.
    MayStore,
    /// Is executed.
    Fetch,
    /// Cache maintenance or address translation, which need no access.
    Upkeep,
}

/// A level that a probe runs at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// A program.
    El0,
    /// The kernel.
    El1,
}

/// One kind of access.
pub struct Probe {
    /// The instruction.
    pub name: &'static str,
    /// What it does.
    pub kind: Kind,
    /// Whether EL0 may execute it too.
    pub el0: bool,
    code: unsafe extern "C" fn(),
}

macro_rules! probes {
    ($($function:ident $name:literal $kind:ident $($level:ident)?;)*) => {
        unsafe extern "C" {
            $(fn $function();)*
        }

        /// All of them.
        pub const ALL: &[Probe] = &[
            $(Probe {
                name: $name,
                kind: Kind::$kind,
                el0: probes!(@ $($level)?),
                code: $function,
            },)*
        ];
    };
    (@ el1) => { false };
    (@) => { true };
}

probes! {
    probe_ldrb "LDRB" Load;
    probe_ldrsb "LDRSB" Load;
    probe_ldrh "LDRH" Load;
    probe_ldr_w "LDR W" Load;
    probe_ldr_x "LDR X" Load;
    probe_ldr_post "LDR, post-index" Load;
    probe_ldp "LDP" Load;
    probe_ldar "LDAR" Load;
    probe_ldxr "LDXR" Load;
    probe_ldaxp "LDAXP" Load;
    probe_ldtr "LDTR" Load;
    probe_ldr_q "LDR Q" Load;
    probe_ld4 "LD4" Load;
    probe_strb "STRB" Store;
    probe_strh "STRH" Store;
    probe_str_w "STR W" Store;
    probe_str_x "STR X" Store;
    probe_str_pre "STR, pre-index" Store;
    probe_stp "STP" Store;
    probe_stnp "STNP" Store;
    probe_stlr "STLR" Store;
    probe_sttr "STTR" Store;
    probe_stp_q "STP Q" Store;
    probe_stxr "STXR" MayStore;
    probe_ldadd "LDADD" Both;
    probe_swpalb "SWPALB" Both;
    probe_cas "CAS" Both;
    probe_casp "CASP" Both;
    probe_stset "STSET" Both;
    probe_ldg "LDG" Load;
    probe_stg "STG" Store;
    probe_st2g "ST2G" Store;
    probe_stzg "STZG" Store;
    probe_stz2g "STZ2G" Store;
    probe_stgp "STGP" Store;
    probe_stgm "STGM" Store el1;
    probe_ldgm "LDGM" Load el1;
    probe_stzgm "STZGM" Store el1;
    probe_dc_zva "DC ZVA" Store;
    probe_dc_gva "DC GVA" Store;
    probe_dc_gzva "DC GZVA" Store;
    probe_dc_ivac "DC IVAC" Upkeep el1;
    probe_dc_cvac "DC CVAC" Upkeep;
    probe_dc_civac "DC CIVAC" Upkeep;
    probe_dc_cvap "DC CVAP" Upkeep;
    probe_dc_cigvac "DC CIGVAC" Upkeep;
    probe_ic_ivau "IC IVAU" Upkeep;
    probe_at_s1e1r "AT S1E1R" Upkeep el1;
    probe_at_s1e1w "AT S1E1W" Upkeep el1;
    probe_at_s1e0r "AT S1E0R" Upkeep el1;
    probe_jump "BR" Fetch;
}

/// Accesses that begin four bytes before an address and end four bytes behind it.
pub const CROSSING: &[Probe] = &[
    Probe { name: "LDUR", kind: Kind::Load, el0: true, code: probe_ldur },
    Probe { name: "STUR", kind: Kind::Store, el0: true, code: probe_stur },
];

unsafe extern "C" {
    fn probe_ldur();
    fn probe_stur();
    fn leave_el0();
    fn enter_el0(program: u64, address: u64, own: u64, leave: u64);
    fn enter_el1(program: u64, address: u64, own: u64);
}

/// ESR: the class of SVC, by which a program at EL0 ends.
const SVC64: u64 = 0x15;

impl Probe {
    /// Makes the access to `address` at `level`; `own` is memory that may be read. What it met, if
    /// anything. EL0 must be [prepared](prepare_el0) for.
    ///
    /// # Safety
    ///
    /// If the access does not abort, it must be harmless.
    pub unsafe fn run(&self, level: Level, address: u64, own: u64) -> Option<Abort> {
        let code = self.code as *const () as u64;
        let leave = leave_el0 as *const () as u64 + EL0_OFFSET;
        let met = exceptions::expect(|| match level {
            // SAFETY: the caller vouches for the access; the code keeps what must be kept.
            Level::El1 => unsafe { enter_el1(code, address, own) },
            // SAFETY: as above; what runs at EL0 is the same code, then SVC.
            Level::El0 => unsafe { enter_el0(code + EL0_OFFSET, address, own, leave) },
        });
        met.filter(|abort| abort.syndrome >> 26 != SVC64)
    }

    /// What ELR_EL1 says after an abort: the instruction, except of a fetch.
    pub fn place(&self, level: Level, address: u64) -> u64 {
        let code = self.code as *const () as u64;
        match (self.kind, level) {
            (Kind::Fetch, _) => address,
            (_, Level::El1) => code,
            (_, Level::El0) => code + EL0_OFFSET,
        }
    }
}

/// Maps memory for EL0. False if there is no room in the map.
pub fn map_for_el0() -> bool {
    let image = [crate::image()];
    machine().memory.all().iter().chain(&image).all(|range| mmu::map_for_el0(*range))
}

/// Lets EL0 of this CPU use tags, DC ZVA and cache maintenance while `work` runs.
pub fn prepare_el0<R>(work: impl FnOnce() -> R) -> R {
    const DZE: u64 = 1 << 14;
    const UCI: u64 = 1 << 26;
    const ATA0: u64 = 1 << 42;
    let before = read_register!("sctlr_el1");
    write_register!("sctlr_el1", before | DZE | UCI | ATA0);
    cpu::isb();
    let result = work();
    write_register!("sctlr_el1", before);
    cpu::isb();
    result
}
