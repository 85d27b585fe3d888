// SPDX-License-Identifier: MIT OR Apache-2.0
//! Instructions and registers of EL0 that EL2 can take away: which are defined.

use core::arch::asm;
use linux_program::println;

use crate::sys;

/// A page of data that the instructions may read and write.
#[repr(C, align(4096))]
struct Page([u64; 512]);

/// Runs each instruction and prints whether it was defined. x9 is the address of data that it may
/// use, x10 to x15 are free, and so are the vector registers.
macro_rules! instructions {
    ($cpu:ident, $data:ident: $($name:literal = $($line:literal)+;)+) => {
        $({
            // SAFETY: each has no other effect than on the registers named and on the data; those
            // that are undefined are stepped over by the handler of SIGILL.
            let defined = sys::is_defined(|| unsafe {
                asm!(
                    $($line,)+
                    inout("x9") $data => _,
                    out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _,
                    out("x15") _, options(nostack)
                )
            });
            println!("# instruction: cpu {} {} {}", $cpu, $name,
                if defined { "runs" } else { "undefined" });
        })+
    };
}

/// Prints what there is on this CPU, which is number `cpu`. By encoding, so that it does not matter
/// what the assembler knows.
pub fn print(cpu: u64) {
    let mut page = Page([0; 512]);
    let data = &raw mut page as u64;
    instructions!(cpu, data:
        "CNTVCT_EL0" = "mrs x10, S3_3_C14_C0_2";
        "CNTPCT_EL0" = "mrs x10, S3_3_C14_C0_1";
        "CNTVCTSS_EL0" = "mrs x10, S3_3_C14_C0_6";
        "CNTPCTSS_EL0" = "mrs x10, S3_3_C14_C0_5";
        "TPIDR2_EL0" = "mrs x10, S3_3_C13_C0_5" "msr S3_3_C13_C0_5, x10";
        "SCXTNUM_EL0" = "mrs x10, S3_3_C13_C0_7" "msr S3_3_C13_C0_7, x10";
        "POR_EL0" = "mrs x10, S3_3_C10_C2_4" "msr S3_3_C10_C2_4, x10";
        "FPMR" = "mrs x10, S3_3_C4_C4_2" "msr S3_3_C4_C4_2, x10";
        "SVCR" = "mrs x10, S3_3_C4_C2_2";
        "GCSPR_EL0" = "mrs x10, S3_3_C2_C5_1";
        "RNDR" = "mrs x10, S3_3_C2_C4_0";
        "PMCCNTR_EL0" = "mrs x10, S3_3_C9_C13_0";
        "AMEVCNTR00_EL0" = "mrs x10, S3_3_C13_C4_0";
        "PACIA, AUTIA" = "mov x10, x9" "mov x11, #5" ".inst 0xdac1016a" ".inst 0xdac1116a";
        "PACGA" = ".inst 0x9aca314b";
        "LDADD" = "mov x10, #1" ".inst 0xf82a012b";
        "LDAPR" = ".inst 0xf8bfc12a";
        "CPYFP, CPYFM, CPYFE" = "add x10, x9, #64" "mov x11, #16"
            ".inst 0x1909056a" ".inst 0x1949056a" ".inst 0x1989056a";
        "DC ZVA" = "dc zva, x9";
        "DC CVAP" = "sys #3, c7, c12, #1, x9";
        "DC CVADP" = "sys #3, c7, c13, #1, x9";
        "DC GVA" = "sys #3, c7, c4, #3, x9";
        "DC CVAC" = "dc cvac, x9";
        "DC CIVAC" = "dc civac, x9";
        "IC IVAU" = "ic ivau, x9";
        "CFP RCTX" = "sys #3, c7, c3, #4, xzr";
        "DVP RCTX" = "sys #3, c7, c3, #5, xzr";
        "SB" = ".inst 0xd50330ff";
        "MSR SSBS" = ".inst 0xd503413f";
        "MSR DIT" = ".inst 0xd503415f";
        "MSR TCO" = ".inst 0xd503409f";
        "IRG" = ".inst 0x9adf112a";
        "FP: FMOV" = ".inst 0x9e6703e0";
        "SVE: CNTB" = ".inst 0x0420e3ea";
        "SVE2: HISTSEG" = ".inst 0x4521a000";
        "SME: RDSVL" = ".inst 0x04bf582a";
        "SME: SMSTART, SMSTOP" = ".inst 0xd503477f" ".inst 0xd503467f";
        "SME FA64: AESE in streaming mode"
            = ".inst 0xd503437f" ".inst 0x4e284820" ".inst 0xd503427f";
        "SME2: ZERO ZT0" = ".inst 0xd503477f" ".inst 0xc0480001" ".inst 0xd503467f";
        "WFI" = "wfi";
        "TSTART, TCOMMIT" = ".inst 0xd523306a" ".inst 0xd503307f";
        "ABS" = ".inst 0xdac0212a";
    );
}
