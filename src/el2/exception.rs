// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is done about each exception that comes to EL2, apart from calls.

use super::guest::Frame;
use super::vectors::Vector;
use super::{copy, hide, inject, panic};

/// Exception classes, ESR_EL2 bits 31:26.
pub mod class {
    use aarch64_cpu::registers::ESR_EL2::EC::Value;

    /// Instruction abort of the guest.
    pub const INSTRUCTION_ABORT_LOWER: u64 = Value::InstrAbortLowerEL as u64;
    /// Data abort of the guest.
    pub const DATA_ABORT_LOWER: u64 = Value::DataAbortLowerEL as u64;
    /// Data abort at EL2.
    pub const DATA_ABORT_SAME: u64 = Value::DataAbortCurrentEL as u64;
    /// MSR, MRS or System instruction of the guest that is trapped.
    pub const SYSTEM_ACCESS: u64 = 0x18;
    /// SMC of the guest.
    pub const SMC64: u64 = Value::SMC64 as u64;
}

/// Serves a synchronous exception of the guest that is not a call. Nothing is trapped that the
/// guest may do, apart from reads of ID registers that [`hide`] answers, so it gets the exception
/// back: an abort of stage 2 as an external abort, what else there is as an undefined
/// instruction.
pub extern "C" fn from_guest(frame: &mut Frame) {
    match frame.class() {
        class::DATA_ABORT_LOWER | class::INSTRUCTION_ABORT_LOWER => inject::external_abort(frame),
        class::SYSTEM_ACCESS if hide::serve(frame) => {}
        _ => inject::undefined(frame),
    }
}

/// Serves an exception at EL2, or an asynchronous one that should not come here. Returns if a
/// copy expects it; otherwise it is the end. `sp` is the stack pointer at the exception.
pub extern "C" fn at_el2(sp: u64, vector: Vector, frame: &mut Frame) {
    if vector == Vector::Synchronous
        && frame.class() == class::DATA_ABORT_SAME
        && let Some(landing) = copy::landing_after(frame.elr)
    {
        frame.elr = landing;
        return;
    }
    panic::exception(sp, vector, frame)
}
