// SPDX-License-Identifier: MIT OR Apache-2.0
//! System registers by their encoding: what a trapped MRS or MSR named, and which fields of the
//! ID registers tell of MTE.

/// A System register, by the five numbers of its encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SysReg {
    /// `op0`.
    pub op0: u8,
    /// `op1`.
    pub op1: u8,
    /// `CRn`.
    pub crn: u8,
    /// `CRm`.
    pub crm: u8,
    /// `op2`.
    pub op2: u8,
}

impl SysReg {
    /// Makes the register with this encoding.
    pub const fn new(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> SysReg {
        SysReg { op0, op1, crn, crm, op2 }
    }

    /// An ID register that HCR_EL2.TID3 traps: `op0` 3, `op1` 0, `CRn` 0, `CRm` 1 to 7. Those
    /// without a name are reserved and read as zero; on a CPU without FEAT_FGT they need not
    /// trap, and neither do named ones that are zero (Arm ARM, HCR_EL2.TID3). What MTE is told
    /// by is not zero where there is MTE.
    pub const fn is_id_group_3(self) -> bool {
        matches!(self, SysReg { op0: 3, op1: 0, crn: 0, crm: 1..=7, op2: 0..=7 })
    }
}

/// ID_AA64PFR1_EL1.
pub const ID_AA64PFR1_EL1: SysReg = SysReg::new(3, 0, 0, 4, 1);
/// ID_AA64PFR2_EL1.
pub const ID_AA64PFR2_EL1: SysReg = SysReg::new(3, 0, 0, 4, 2);

/// Bits of a field of four bits.
const fn field(lowest: u32) -> u64 {
    0xf << lowest
}

/// The fields of ID registers that tell of MTE (Arm ARM, D24.2). No register for AArch32 has
/// any.
const MTE_FIELDS: &[(SysReg, u64)] = &[
    // MTE, MTE_frac, MTEX.
    (ID_AA64PFR1_EL1, field(8) | field(40) | field(52)),
    // MTEPERM, MTESTOREONLY, MTEFAR, MTEEIRG; VMTE, VMTETC, VMTETCL.
    (
        ID_AA64PFR2_EL1,
        field(0) | field(4) | field(8) | field(20) | field(36) | field(40) | field(44),
    ),
];

/// The bits of an ID register that tell of MTE.
pub fn mte_fields(register: SysReg) -> u64 {
    let found = MTE_FIELDS.iter().find(|(other, _)| *other == register);
    found.map_or(0, |(_, fields)| *fields)
}

/// A trapped MRS or MSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// What was accessed.
    pub register: SysReg,
    /// MRS, else MSR.
    pub is_read: bool,
    /// The general register, `None` for XZR.
    pub general: Option<u8>,
}

impl Access {
    /// Decodes the syndrome of exception class 0x18 (Arm ARM, ESR_ELx, "an exception from MSR,
    /// MRS, or System instruction execution in AArch64 state").
    pub const fn decode(esr: u64) -> Access {
        Access {
            register: SysReg::new(
                (esr >> 20 & 0x3) as u8,
                (esr >> 14 & 0x7) as u8,
                (esr >> 10 & 0xf) as u8,
                (esr >> 1 & 0xf) as u8,
                (esr >> 17 & 0x7) as u8,
            ),
            is_read: esr & 1 != 0,
            general: match (esr >> 5 & 0x1f) as u8 {
                31 => None,
                number => Some(number),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The syndrome of an access, from the fields of the instruction itself: `MRS` is
    /// 1101 0101 0011 op0 op1 CRn CRm op2 Rt, in which op0 has its upper bit set.
    fn syndrome(instruction: u64) -> u64 {
        let bits = |lowest: u64, count: u64| instruction >> lowest & ((1 << count) - 1);
        let (op0, op1, crn, crm, op2) =
            (bits(19, 2), bits(16, 3), bits(12, 4), bits(8, 4), bits(5, 3));
        0x18 << 26
            | 1 << 25
            | op0 << 20
            | op2 << 17
            | op1 << 14
            | crn << 10
            | bits(0, 5) << 5
            | crm << 1
            | bits(21, 1)
    }

    #[test]
    fn a_syndrome_says_what_the_instruction_said() {
        // As an assembler encodes them.
        let table = [
            // mrs x5, id_aa64pfr1_el1
            (0xd538_0425, SysReg::new(3, 0, 0, 4, 1), true, Some(5)),
            // mrs xzr, id_aa64pfr2_el1
            (0xd538_045f, SysReg::new(3, 0, 0, 4, 2), true, None),
            // mrs x30, gmid_el1
            (0xd539_009e, SysReg::new(3, 1, 0, 0, 4), true, Some(30)),
            // msr rgsr_el1, x0
            (0xd518_10a0, SysReg::new(3, 0, 1, 0, 5), false, Some(0)),
            // mrs x17, tfsr_el1
            (0xd538_5611, SysReg::new(3, 0, 5, 6, 0), true, Some(17)),
        ];
        for (instruction, register, is_read, general) in table {
            assert_eq!(
                Access::decode(syndrome(instruction)),
                Access { register, is_read, general },
                "{instruction:#x}"
            );
        }
    }

    #[test]
    fn group_3_is_what_tid3_traps() {
        let group = |register: SysReg| register.is_id_group_3();
        for crm in 0..16 {
            for op2 in 0..8 {
                assert_eq!(group(SysReg::new(3, 0, 0, crm, op2)), (1..=7).contains(&crm));
                for (op0, op1, crn) in [(2, 0, 0), (3, 1, 0), (3, 3, 0), (3, 4, 0), (3, 0, 1)] {
                    assert!(!group(SysReg::new(op0, op1, crn, crm, op2)));
                }
            }
        }
    }

    #[test]
    fn the_fields_are_those_of_mte_alone() {
        assert_eq!(mte_fields(SysReg::new(3, 0, 0, 4, 1)), 0x00f0_0f00_0000_0f00);
        assert_eq!(mte_fields(SysReg::new(3, 0, 0, 4, 2)), 0x0000_fff0_00f0_0fff);
        let mut others = 0;
        for crm in 0..8 {
            for op2 in 0..8 {
                others += u32::from(mte_fields(SysReg::new(3, 0, 0, crm, op2)) == 0);
            }
        }
        assert_eq!(others, 62, "no other register is touched");
        for (register, _) in MTE_FIELDS {
            assert!(register.is_id_group_3(), "{register:?} is not trapped");
        }
    }
}
