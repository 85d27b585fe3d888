// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls to the firmware at EL3, by the SMC Calling Convention 1.2.

use super::features;
use core::sync::atomic::{AtomicBool, Ordering};

/// SMCCC: the function is not implemented.
pub const NOT_SUPPORTED: u64 = -1i64 as u64;

/// Registers that carry arguments and results: x0 to x17.
pub type Registers = [u64; 18];

// x18 holds the array: it is the one register that neither the call nor AAPCS64 makes us keep.
// After the call it is loaded again, for firmware that knows SMCCC 1.0 only.
core::arch::global_asm!(
    ".pushsection .text.smc, \"ax\"",
    ".global smc_relay",
    "smc_relay:",
    "    stp     x29, x30, [sp, #-32]!",
    "    mov     x29, sp",
    "    str     x0, [sp, #16]",
    "    mov     x18, x0",
    "    ldp     x0, x1, [x18, #0]",
    "    ldp     x2, x3, [x18, #16]",
    "    ldp     x4, x5, [x18, #32]",
    "    ldp     x6, x7, [x18, #48]",
    "    ldp     x8, x9, [x18, #64]",
    "    ldp     x10, x11, [x18, #80]",
    "    ldp     x12, x13, [x18, #96]",
    "    ldp     x14, x15, [x18, #112]",
    "    ldp     x16, x17, [x18, #128]",
    "    smc     #0",
    "    ldr     x18, [sp, #16]",
    "    stp     x0, x1, [x18, #0]",
    "    stp     x2, x3, [x18, #16]",
    "    stp     x4, x5, [x18, #32]",
    "    stp     x6, x7, [x18, #48]",
    "    stp     x8, x9, [x18, #64]",
    "    stp     x10, x11, [x18, #80]",
    "    stp     x12, x13, [x18, #96]",
    "    stp     x14, x15, [x18, #112]",
    "    stp     x16, x17, [x18, #128]",
    "    ldp     x29, x30, [sp], #32",
    "    ret",
    ".popsection",
);

unsafe extern "C" {
    fn smc_relay(registers: *mut Registers);
}

/// Something answers SMC.
static ANSWERED: AtomicBool = AtomicBool::new(false);

/// Says what the device tree says: PSCI is called by SMC. A CPU without EL3 leaves SMC
/// undefined, except under an emulator that answers it itself.
pub fn init(psci_by_smc: bool) {
    ANSWERED.store(psci_by_smc || features::el3(), Ordering::Relaxed);
}

/// Passes a call on, x0 to x17 both ways.
pub fn relay(registers: &mut Registers) {
    if ANSWERED.load(Ordering::Relaxed) {
        // SAFETY: An array of that type. Whatever EL3 does for its callers at EL1 and EL2, it
        // keeps the memory and registers that the convention says it keeps. Calls that carry
        // entry points are not passed on, so it never starts the guest at EL2.
        unsafe { smc_relay(registers) }
    } else {
        registers[0] = NOT_SUPPORTED;
    }
}

/// Makes a call of the shim's own, with up to three arguments; returns x0.
pub fn call(function: u32, arguments: [u64; 3]) -> u64 {
    let mut registers: Registers = [0; 18];
    registers[0] = function.into();
    registers[1..4].copy_from_slice(&arguments);
    relay(&mut registers);
    registers[0]
}
