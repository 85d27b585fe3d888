// SPDX-License-Identifier: MIT OR Apache-2.0
//! The identification registers, as MRS reads them at EL0: Linux answers for most of them
//! (Documentation/arch/arm64/cpu-feature-registers.rst), the rest the CPU answers itself.

use core::arch::asm;
use linux_program::println;

use crate::sys;

/// Reads registers and prints each, or that it is undefined.
macro_rules! registers {
    ($cpu:ident, $($name:expr),+) => {
        $({
            let mut value: u64 = 0;
            // SAFETY: registers that only identify; where one is undefined the handler of SIGILL
            // steps over the instruction, and `value` stays.
            let defined = sys::is_defined(|| unsafe {
                asm!(concat!("mrs {}, ", $name), inout(reg) value, options(nostack))
            });
            if defined {
                println!("# id: cpu {} {} {value:#x}", $cpu, $name);
            } else {
                println!("# id: cpu {} {} undefined", $cpu, $name);
            }
        })+
    };
}

/// The eight registers of each CRm: op0 3, op1 0, CRn 0.
macro_rules! groups {
    ($cpu:ident, $($crm:literal),+) => {
        $(registers!(
            $cpu,
            concat!("S3_0_C0_C", $crm, "_0"),
            concat!("S3_0_C0_C", $crm, "_1"),
            concat!("S3_0_C0_C", $crm, "_2"),
            concat!("S3_0_C0_C", $crm, "_3"),
            concat!("S3_0_C0_C", $crm, "_4"),
            concat!("S3_0_C0_C", $crm, "_5"),
            concat!("S3_0_C0_C", $crm, "_6"),
            concat!("S3_0_C0_C", $crm, "_7")
        );)+
    };
}

/// Prints those of this CPU, which is number `cpu`.
pub fn print(cpu: u64) {
    groups!(cpu, 0, 1, 2, 3, 4, 5, 6, 7);
    registers!(cpu, "CTR_EL0", "DCZID_EL0", "CNTFRQ_EL0");
}
