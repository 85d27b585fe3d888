// SPDX-License-Identifier: MIT OR Apache-2.0
//! MTE hidden from the guest: `tagstash.mte=hide`.
//!
//! | what EL1 does | control | what it sees |
//! | --- | --- | --- |
//! | reads an ID register | HCR_EL2.TID3 | the CPU's own, without the fields of MTE |
//! | reads GMID_EL1 | HCR_EL2.TID5 | an undefined instruction |
//! | accesses GCR, RGSR, TFSR, TFSRE0 | HCR_EL2.ATA = 0 | an undefined instruction |
//! | LDG, LDGM | HCR_EL2.ATA = 0 | tag 0 |
//! | STG, STGM and the like | HCR_EL2.ATA = 0 | no tag is stored |
//! | checked accesses | HCR_EL2.ATA = 0 | none is checked |
//!
//! `cpu_controls` sets the controls on each CPU; this file serves the reads. Not to be hidden is
//! that the instructions are there, which are undefined on a CPU without FEAT_MTE: IRG, GMI,
//! ADDG, SUBP, the tag loads and stores, PSTATE.TCO. So are bits that a CPU without MTE
//! reserves: SCTLR_EL1.ATA and TCF (they have no effect), CTR_EL0.TminLine, tag caches in
//! CLIDR_EL1. A kernel that goes by the ID registers uses none of them.

use super::features;
use super::guest::Frame;
use core::sync::atomic::{AtomicBool, Ordering};
use tagstash::sysreg::{Access, SysReg, mte_fields};

/// MTE is hidden.
static HIDDEN: AtomicBool = AtomicBool::new(false);

/// Hides MTE on every CPU that enters the guest from now on. Returns false, and does nothing,
/// where there is no tag memory that could be hidden.
pub fn init() -> bool {
    let there = features::mte2();
    HIDDEN.store(there, Ordering::Relaxed);
    there
}

/// Says whether MTE is hidden.
pub fn hidden() -> bool {
    HIDDEN.load(Ordering::Relaxed)
}

/// Says whether the guest has tag memory and may use it.
pub fn mte2_shown() -> bool {
    features::mte2() && !hidden()
}

/// Serves a trapped access to a System register. Returns false where it is none of those that
/// are emulated, and changes nothing then.
pub fn serve(frame: &mut Frame) -> bool {
    let access = Access::decode(frame.esr);
    if !hidden() || !access.is_read || !frame.is_el1() {
        return false;
    }
    let Some(value) = id_register(access.register) else { return false };
    let shown = value & !mte_fields(access.register);
    if let Some(general) = access.general.and_then(|number| frame.x.get_mut(usize::from(number))) {
        *general = shown;
    }
    frame.step_over();
    true
}

/// Makes the match arms of all ID registers: MRS takes no register number at run time.
macro_rules! id_registers {
    ($register:ident: $($crm:literal)+) => {
        match $register.crm {
            $($crm => id_registers!(@$crm $register: 0 1 2 3 4 5 6 7),)+
            _ => return None,
        }
    };
    (@$crm:literal $register:ident: $($op2:literal)+) => {
        match $register.op2 {
            $($op2 => {
                let value: u64;
                // SAFETY: Reading an ID register changes nothing; the reserved ones read as zero.
                unsafe {
                    core::arch::asm!(
                        concat!("mrs {}, S3_0_C0_C", $crm, "_", $op2),
                        out(reg) value,
                        options(nomem, nostack, preserves_flags)
                    );
                }
                value
            })+
            _ => return None,
        }
    };
}

/// This CPU's value of an ID register of group 3; `None` for other registers.
fn id_register(register: SysReg) -> Option<u64> {
    if !register.is_id_group_3() {
        return None;
    }
    Some(id_registers!(register: 1 2 3 4 5 6 7))
}
