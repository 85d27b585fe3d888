// SPDX-License-Identifier: MIT OR Apache-2.0
//! The sweep (`mode=sweep`): reads, writes and executes every encoding of a System register and of
//! a System instruction at EL1, and prints which are defined. Run with the shim and without it,
//! the same lines must come: whatever EL2 traps is undefined here, or ends in another exception
//! (tests/compare.py).
//!
//! A register that can be read is written with what it held. One that cannot be read is written
//! with 0, which in all registers that can only be written does nothing, or what it does is
//! done to nobody: no interrupt is active, no software generated interrupt has a target. System
//! instructions are given the address of a page that is nobody's.

use core::arch::asm;

use crate::console::println;
use crate::cpu::{self, write_register};
use crate::exceptions;

/// Where an instruction is written, followed by RET: a cache line of its own.
#[repr(C, align(64))]
struct Code([u32; 16]);

/// Memory that cache maintenance and DC ZVA are let loose on.
#[repr(C, align(4096))]
struct Page([u64; 512]);

static mut CODE: Code = Code([0; 16]);
static mut PAGE: Page = Page([0; 512]);

/// MRS, MSR (register) and SYS, without the fields of the encoding.
const MRS: u32 = 0xd530_0000;
const MSR: u32 = 0xd510_0000;
const SYS: u32 = 0xd508_0000;
const RET: u32 = 0xd65f_03c0;
/// The registers' part of the encoding space: op0 is 2 or 3.
const REGISTERS: core::ops::Range<u32> = 0..2 << 14;

/// CPACR_EL1: SMEN, FPEN, ZEN and, for EL0's overlays, E0POE.
const NOTHING_TRAPPED: u64 = 1 << 29 | 3 << 24 | 3 << 20 | 3 << 16;

/// Registers besides the ID space (CRn 0) that tell of the CPU, and hold what they hold after a
/// reset. All others change.
const CONSTANT: &[(u32, u32, u32, u32, u32)] = &[
    (3, 0, 5, 3, 0),   // ERRIDR_EL1
    (3, 0, 9, 9, 7),   // PMSIDR_EL1
    (3, 0, 9, 10, 7),  // PMBIDR_EL1
    (3, 0, 9, 11, 7),  // TRBIDR_EL1
    (3, 0, 9, 14, 6),  // PMMIR_EL1
    (3, 0, 10, 4, 4),  // MPAMIDR_EL1
    (3, 0, 10, 4, 7),  // LORID_EL1
    (3, 0, 12, 12, 4), // ICC_CTLR_EL1
    (3, 0, 12, 12, 5), // ICC_SRE_EL1
    (3, 3, 9, 12, 0),  // PMCR_EL0
    (3, 3, 9, 12, 6),  // PMCEID0_EL0
    (3, 3, 9, 12, 7),  // PMCEID1_EL0
    (3, 3, 13, 2, 1),  // AMCFGR_EL0
    (3, 3, 13, 2, 2),  // AMCGCR_EL0
    (3, 3, 14, 0, 0),  // CNTFRQ_EL0
];

/// Runs one instruction with `value` in x0; what is in x0 then, or the exception's class.
///
/// # Safety
///
/// The instruction must leave memory that is somebody's as it is, and this CPU able to go on.
unsafe fn execute(instruction: u32, value: u64) -> Result<u64, u64> {
    let code = (&raw mut CODE).cast::<u32>();
    // SAFETY: one CPU runs this, and nothing refers to the code as data while it runs.
    unsafe {
        code.write_volatile(instruction);
        code.add(1).write_volatile(RET);
        asm!("dc cvau, {0}", "dsb ish", "ic ivau, {0}", "dsb ish", "isb", in(reg) code,
            options(nostack));
    }
    let mut x0 = value;
    // SAFETY: the code is the instruction and RET; the rest is the caller's promise.
    let met = exceptions::expect(|| unsafe {
        asm!("blr {code}", code = in(reg) code, inout("x0") x0, clobber_abi("C"));
    });
    match met {
        None => Ok(x0),
        Some(abort) => Err(abort.syndrome >> 26),
    }
}

/// What is printed of an exception class: nothing of what is undefined, which most are.
fn say(what: &str, name: (u32, u32, u32, u32, u32), result: Result<Option<u64>, u64>) {
    let (op0, op1, crn, crm, op2) = name;
    match result {
        Ok(Some(value)) => println!("# {what}: s{op0}_{op1}_c{crn}_c{crm}_{op2} {value:#x}"),
        Ok(None) => println!("# {what}: s{op0}_{op1}_c{crn}_c{crm}_{op2}"),
        Err(0) => {}
        Err(class) => {
            println!("# {what}: s{op0}_{op1}_c{crn}_c{crm}_{op2} exception class {class:#x}");
        }
    }
}

/// Runs it, on this CPU.
pub fn run() {
    write_register!("cpacr_el1", NOTHING_TRAPPED);
    cpu::isb();
    let page = &raw mut PAGE as u64;
    for number in REGISTERS {
        let fields = number << 5;
        let name = (
            2 + (number >> 14),
            number >> 11 & 7,
            number >> 7 & 0xf,
            number >> 3 & 0xf,
            number & 7,
        );
        // SAFETY: no register's reading harms anybody: no interrupt is pending that it would take.
        let read = unsafe { execute(MRS | fields, 0) };
        let constant = name.2 == 0 && name.0 == 3 || CONSTANT.contains(&name);
        say("read", name, read.map(|value| constant.then_some(value)));
        // SAFETY: what the head of this file says of writing.
        let written = unsafe { execute(MSR | fields, read.unwrap_or(0)) };
        say("write", name, written.map(|_| None));
    }
    for number in 0..1_u32 << 14 {
        let name = (1, number >> 11 & 7, number >> 7 & 0xf, number >> 3 & 0xf, number & 7);
        // SAFETY: maintenance of caches and TLBs, address translation, and DC ZVA on our own page.
        let executed = unsafe { execute(SYS | number << 5, page) };
        say("execute", name, executed.map(|_| None));
    }
}
