// SPDX-License-Identifier: MIT OR Apache-2.0
//! PSCI function numbers (Arm DEN 0022), and what becomes of a call of the guest.
//!
//! Calls that carry an entry point must not reach firmware as they are: it would start the
//! guest there at EL2. CPU_ON starts the CPU in the shim. CPU_SUSPEND passes where it asks for
//! standby, from which the CPU goes on where it was; states that lose the CPU's context, and with
//! them CPU_DEFAULT_SUSPEND and SYSTEM_SUSPEND, are not offered. What is not on the short list of
//! calls that pass is not offered either.

/// Bit 30 of a function number: arguments of 64 bits.
pub const WIDE: u32 = 1 << 30;
/// Says which PSCI this is.
pub const VERSION: u32 = 0x8400_0000;
/// Suspends the calling CPU.
pub const CPU_SUSPEND: u32 = 0x8400_0001;
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
/// Says whether a function is there, and how.
pub const FEATURES: u32 = 0x8400_000a;
const SYSTEM_RESET2: u32 = 0x8400_0012;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Firmware answers it as it is.
    Pass,
    /// The shim starts a CPU.
    Start,
    /// Firmware suspends the CPU, if that is what [`Suspend::is_standby`] says.
    Suspend,
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
    const CPU_SUSPEND_WIDE: u32 = CPU_SUSPEND | WIDE;
    match function {
        VERSION | CPU_OFF | MIGRATE_INFO_TYPE | SYSTEM_OFF | SYSTEM_RESET => Fate::Pass,
        AFFINITY_INFO | AFFINITY_INFO_WIDE => Fate::Pass,
        MIGRATE | MIGRATE_WIDE | MIGRATE_INFO_UP_CPU | MIGRATE_INFO_UP_CPU_WIDE => Fate::Pass,
        SYSTEM_RESET2 | SYSTEM_RESET2_WIDE => Fate::Pass,
        CPU_ON | CPU_ON_WIDE => Fate::Start,
        CPU_SUSPEND | CPU_SUSPEND_WIDE => Fate::Suspend,
        FEATURES => Fate::Ask,
        _ => Fate::Refuse,
    }
}

/// The CPU_SUSPEND of firmware: whether it is there, and how it reads `power_state` (DEN 0022,
/// 5.4).
///
/// | bits | original format | extended StateID |
/// | --- | --- | --- |
/// | StateType: 1 loses the context | 16 | 30 |
/// | state | 15:0, power level 25:24 | 27:0 |
/// | must be 0 | 31:26, 23:17 | 31, 29:28 |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Suspend {
    /// It is not there.
    #[default]
    None,
    /// Original format.
    Original,
    /// Extended StateID.
    Extended,
}

impl Suspend {
    /// Goes by what firmware answers to PSCI_VERSION, and to PSCI_FEATURES of CPU_SUSPEND.
    pub const fn of(version: u64, features: u64) -> Suspend {
        /// Bit of the features: `power_state` has an extended StateID.
        const EXTENDED: i32 = 1 << 1;
        let (version, features) = (version as i32, features as i32);
        match (version, features) {
            // Nobody answers.
            (..0, _) => Suspend::None,
            (_, 0..) if features & EXTENDED != 0 => Suspend::Extended,
            (_, 0..) => Suspend::Original,
            // PSCI 0.2 cannot be asked. It has to have the call, in the only format of its time.
            (0..0x1_0000, _) => Suspend::Original,
            _ => Suspend::None,
        }
    }

    /// What PSCI_FEATURES answers, if CPU_SUSPEND is there: the format, and never OS-initiated
    /// mode (bit 0), because the call that chooses it is not offered.
    pub const fn features(self) -> Option<u64> {
        match self {
            Suspend::None => None,
            Suspend::Original => Some(0),
            Suspend::Extended => Some(1 << 1),
        }
    }

    /// Says whether `power_state` is a standby state: a well-formed one that keeps the context
    /// of the CPU, which then goes on after its call and never at an entry point.
    pub const fn is_standby(self, power_state: u32) -> bool {
        match self {
            Suspend::None => false,
            Suspend::Original => power_state & !0x0300_ffff == 0,
            Suspend::Extended => power_state & !0x0fff_ffff == 0,
        }
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
                0x01 => Fate::Suspend,
                0x03 => Fate::Start,
                0x0a => Fate::Ask,
                _ => Fate::Refuse,
            };
            let wide = match number {
                0x04 | 0x05 | 0x07 | 0x12 => Fate::Pass,
                0x01 => Fate::Suspend,
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

    const NOT_SUPPORTED: u64 = -1i64 as u64;

    #[test]
    fn cpu_suspend_is_there_as_firmware_says() {
        for (version, features, expected) in [
            (0x1_0001, 0, Suspend::Original),
            (0x1_0001, 1, Suspend::Original),
            (0x1_0000, 2, Suspend::Extended),
            (0x1_0003, 3, Suspend::Extended),
            (0x1_0001, NOT_SUPPORTED, Suspend::None),
            // As a 32-bit result without its sign.
            (0x1_0001, 0xffff_ffff, Suspend::None),
            (2, NOT_SUPPORTED, Suspend::Original),
            (NOT_SUPPORTED, NOT_SUPPORTED, Suspend::None),
            (0xffff_ffff, 0, Suspend::None),
        ] {
            assert_eq!(Suspend::of(version, features), expected, "{version:#x} {features:#x}");
        }
    }

    #[test]
    fn the_guest_learns_the_format_and_no_os_initiated_mode() {
        for (features, answer) in [(0, Some(0)), (1, Some(0)), (2, Some(2)), (3, Some(2))] {
            assert_eq!(Suspend::of(0x1_0001, features).features(), answer);
        }
        assert_eq!(Suspend::None.features(), None);
    }

    /// Each bit of `power_state`, alone and with all bits that a standby state may have.
    #[test]
    fn p7_no_power_state_that_loses_the_context_is_standby() {
        for (suspend, may) in [
            (Suspend::None, None),
            (Suspend::Original, Some(0x0300_ffff)),
            (Suspend::Extended, Some(0x0fff_ffff)),
        ] {
            assert_eq!(suspend.is_standby(0), may.is_some());
            let may = may.unwrap_or(0);
            for bit in 0..32 {
                let allowed = may >> bit & 1 != 0;
                assert_eq!(suspend.is_standby(1 << bit), allowed, "{suspend:?}, bit {bit}");
                assert_eq!(suspend.is_standby(may | 1 << bit), allowed, "{suspend:?}, bit {bit}");
            }
        }
    }
}
