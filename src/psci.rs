// SPDX-License-Identifier: MIT OR Apache-2.0
//! PSCI function numbers (Arm DEN 0022), and what becomes of a call of the guest.
//!
//! Calls that carry an entry point must not reach firmware as they are: it would start the
//! guest there at EL2. CPU_ON starts the CPU in the shim; CPU_SUSPEND, CPU_DEFAULT_SUSPEND and
//! SYSTEM_SUSPEND are not offered. What is not on the short list of calls that pass is not
//! offered either.

/// Bit 30 of a function number: arguments of 64 bits.
pub const WIDE: u32 = 1 << 30;
const VERSION: u32 = 0x8400_0000;
const CPU_OFF: u32 = 0x8400_0002;
/// Starts a CPU.
pub const CPU_ON: u32 = 0x8400_0003;
const AFFINITY_INFO: u32 = 0x8400_0004;
const MIGRATE: u32 = 0x8400_0005;
const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
const MIGRATE_INFO_UP_CPU: u32 = 0x8400_0007;
/// Turns the machine off.
pub const SYSTEM_OFF: u32 = 0x8400_0008;
const SYSTEM_RESET: u32 = 0x8400_0009;
const FEATURES: u32 = 0x8400_000a;
const SYSTEM_RESET2: u32 = 0x8400_0012;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Firmware answers it as it is.
    Pass,
    /// The shim starts a CPU.
    Start,
    /// The shim says what is offered.
    Ask,
    /// It is not offered.
    Refuse,
}

/// Classifies a PSCI function number.
pub const fn fate(function: u32) -> Fate {
    const MIGRATE_WIDE: u32 = MIGRATE | WIDE;
    const MIGRATE_INFO_UP_CPU_WIDE: u32 = MIGRATE_INFO_UP_CPU | WIDE;
    const AFFINITY_INFO_WIDE: u32 = AFFINITY_INFO | WIDE;
    const SYSTEM_RESET2_WIDE: u32 = SYSTEM_RESET2 | WIDE;
    const CPU_ON_WIDE: u32 = CPU_ON | WIDE;
    match function {
        VERSION | CPU_OFF | MIGRATE_INFO_TYPE | SYSTEM_OFF | SYSTEM_RESET => Fate::Pass,
        AFFINITY_INFO | AFFINITY_INFO_WIDE => Fate::Pass,
        MIGRATE | MIGRATE_WIDE | MIGRATE_INFO_UP_CPU | MIGRATE_INFO_UP_CPU_WIDE => Fate::Pass,
        SYSTEM_RESET2 | SYSTEM_RESET2_WIDE => Fate::Pass,
        CPU_ON | CPU_ON_WIDE => Fate::Start,
        FEATURES => Fate::Ask,
        _ => Fate::Refuse,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each number of the range, in both widths: what is not named here is refused.
    #[test]
    fn p7_no_call_with_an_entry_point_reaches_firmware() {
        for number in 0..0x20 {
            let narrow = match number {
                0x00 | 0x02 | 0x04..=0x09 | 0x12 => Fate::Pass,
                0x03 => Fate::Start,
                0x0a => Fate::Ask,
                _ => Fate::Refuse,
            };
            let wide = match number {
                0x04 | 0x05 | 0x07 | 0x12 => Fate::Pass,
                0x03 => Fate::Start,
                _ => Fate::Refuse,
            };
            assert_eq!(fate(0x8400_0000 | number), narrow, "{number:#x}");
            assert_eq!(fate(0xc400_0000 | number), wide, "{number:#x}, 64 bits");
        }
        for other in [0, 0x8000_0000, 0x8500_0003, 0xc400_0023, u32::MAX] {
            assert_eq!(fate(other), Fate::Refuse, "{other:#x}");
        }
    }
}
