// SPDX-License-Identifier: MIT OR Apache-2.0
//! PSCI, by SMC as the device tree says.

use crate::abi::{self, Conduit};

/// Which version.
pub const VERSION: u64 = 0x8400_0000;
/// Suspends this CPU (64-bit call).
pub const CPU_SUSPEND: u64 = 0xc400_0001;
/// Stops this CPU.
pub const CPU_OFF: u64 = 0x8400_0002;
/// Starts a CPU.
pub const CPU_ON: u64 = 0xc400_0003;
/// Whether a CPU is on.
pub const AFFINITY_INFO: u64 = 0xc400_0004;
/// Whether a function is there.
pub const FEATURES: u64 = 0x8400_000a;
/// Suspends this CPU to its default state.
pub const CPU_DEFAULT_SUSPEND: u64 = 0xc400_000c;
/// Chooses who decides on the states of CPUs that share power.
pub const SET_SUSPEND_MODE: u64 = 0x8400_000f;
/// Suspends the machine.
pub const SYSTEM_SUSPEND: u64 = 0xc400_000e;

/// Done.
pub const SUCCESS: i64 = 0;
/// No such function.
pub const NOT_SUPPORTED: i64 = -1;
/// No such CPU.
pub const INVALID_PARAMETERS: i64 = -2;
/// The CPU runs.
pub const ALREADY_ON: i64 = -4;
/// The CPU is starting.
pub const ON_PENDING: i64 = -5;

/// AFFINITY_INFO: the CPU is off.
pub const IS_OFF: i64 = 1;

/// A call. Results of 32-bit calls are sign-extended.
pub fn call(function: u64, arguments: [u64; 3]) -> i64 {
    let [first, second, third] = arguments;
    let answer = abi::call(Conduit::Smc, [function, first, second, third, 0, 0, 0, 0]);
    if function & 1 << 30 == 0 { i64::from(answer.status as i32) } else { answer.status }
}
