// SPDX-License-Identifier: MIT OR Apache-2.0
//! Registers: what a CPU starts with, and what calls leave in them. Nothing of the shim's or of the
//! firmware's is ever to be seen.

use crate::abi::{self, Conduit, function};
use crate::cpu::{self, Registers, read_register};
use crate::entry::{self, NAMES};
use crate::initial;
use crate::machine::machine;
use crate::psci;
use crate::ranges::Range;
use crate::smp;
use crate::tap::{Outcome, Test, check, note, same};

/// Tests for any machine.
pub const TESTS: &[Test] = &[
    ("P7 the first CPU starts with nothing in its registers", first_cpu),
    ("P7 other CPUs start with nothing in their registers", other_cpus),
    ("P7 each CPU starts with what it may or may not have at rest", optional),
    ("P7 no call changes another register or tells of the shim's memory", sweep),
];

/// SCTLR_EL1 with MMU and caches off.
const SCTLR: u64 = 0x30d0_0800;

/// Checks that CPU `number` started with nothing besides `argument` in x0.
fn check_entry(number: usize, argument: u64) -> Outcome {
    let state = entry::entry_state(number);
    same!(state.general[0], argument, "CPU {number}: x0 at entry");
    for (at, value) in state.general.into_iter().enumerate().skip(1) {
        same!(value, 0, "CPU {number}: x{at} at entry");
    }
    same!(state.stack, 0, "CPU {number}: SP at entry");
    for (name, value) in NAMES.into_iter().zip(state.system) {
        let wanted = if name == "SCTLR_EL1" { SCTLR } else { 0 };
        same!(value, wanted, "CPU {number}: {name} at entry");
    }
    for (at, value) in state.vectors.into_iter().enumerate() {
        same!(value, 0, "CPU {number}: word {} of q{} at entry", at % 2, at / 2);
    }
    Ok(())
}

fn first_cpu() -> Outcome {
    check_entry(0, machine().tree_address)
}

fn other_cpus() -> Outcome {
    smp::need(2)?;
    smp::on_all(&|_| Ok(()))?;
    (1..smp::cpus()).try_for_each(|number| check_entry(number, number as u64))
}

/// Registers that not every CPU has, as each CPU found them.
fn optional() -> Outcome {
    smp::on_all(&|_| Ok(()))?;
    note!("{} of {} registers are there", initial::present(), initial::ALL.len());
    for number in 0..smp::cpus() {
        for (name, value) in initial::found(number) {
            same!(value, 0, "CPU {number}: {name} at entry");
        }
    }
    Ok(())
}

/// Registers of EL1 that no call may change.
pub fn system_registers() -> [u64; 16] {
    [
        read_register!("sp_el0"),
        read_register!("tpidr_el0"),
        read_register!("tpidrro_el0"),
        read_register!("tpidr_el1"),
        read_register!("elr_el1"),
        read_register!("spsr_el1"),
        read_register!("esr_el1"),
        read_register!("far_el1"),
        read_register!("par_el1"),
        read_register!("vbar_el1"),
        read_register!("contextidr_el1"),
        read_register!("sctlr_el1"),
        read_register!("tcr_el1"),
        read_register!("ttbr0_el1"),
        read_register!("mair_el1"),
        read_register!("cpacr_el1"),
    ]
}

/// Function numbers: all of this ABI, unknown ones in both widths, those of other services.
fn functions() -> impl Iterator<Item = u64> {
    let near = (0xc600_0000..0xc600_0200).chain(0x8600_0000..0x8600_0040);
    let discovery = 0x8600_fef0..0x8600_ff10;
    // Calls of PSCI that come back and change nothing, and those that are refused.
    let psci = [psci::VERSION, psci::AFFINITY_INFO, psci::FEATURES, psci::CPU_SUSPEND];
    let psci = psci.into_iter().chain([psci::SYSTEM_SUSPEND, psci::CPU_DEFAULT_SUSPEND]);
    let others = [0x8000_0000, 0x8000_0001, 0x8000_8000, 0x8400_0020, 0xc400_0023, 0x8400_0050];
    let odd = [0, 0xbf00_ff01, 0x8500_0020, 0xc500_0020, 0xffff_ffff, 0x0600_0100, 0x4600_0100];
    let ours = |number: &u64| *number != function::ACTIVATE && *number != function::DEACTIVATE;
    near.filter(ours).chain(discovery).chain(psci).chain(others).chain(odd)
}

/// Calls every function with every register filled. Arguments are no address of RAM and no pool.
fn sweep() -> Outcome {
    let mut calls = 0;
    for conduit in [Conduit::Hvc, Conduit::Smc] {
        for number in functions() {
            for fill in [0u64, 1, 0xffff_ffff_ffff_ffff, 0x5a5a_0000_0000_0001] {
                if number == psci::CPU_SUSPEND && fill != u64::MAX {
                    continue; // Standby, which would wait for an interrupt.
                }
                let mut registers: Registers =
                    core::array::from_fn(|at| fill ^ ((at as u64) << 48 & fill));
                registers[0] = number;
                let before = registers;
                let system = system_registers();
                match conduit {
                    // SAFETY: none of the arguments is an address of memory that is written.
                    Conduit::Hvc => unsafe { cpu::hvc(&mut registers) },
                    // SAFETY: as above.
                    Conduit::Smc => unsafe { cpu::smc(&mut registers) },
                }
                calls += 1;
                if let Some(at) = (4..31).find(|at| registers[*at] != before[*at]) {
                    same!(registers[at], before[at], "{number:#x} by {conduit:?}: x{at}");
                }
                check!(system_registers() == system, "{number:#x} by {conduit:?}: EL1's registers");
                if number == function::UID {
                    continue;
                }
                // The time of an event counts up from 0, through any address.
                let results = if number == function::EVENTS && before[2] == 1 { 3 } else { 4 };
                for (at, value) in registers.into_iter().enumerate().take(results) {
                    let hidden = machine().no_map.touch(Range::of(value, 1));
                    check!(!hidden, "{number:#x} by {conduit:?}: x{at} is {value:#x}, hidden");
                }
                let ours = number & 0x3f00_0000 == 0x0600_0000 && number >> 31 == 1;
                if ours && (registers[0] as i64) < 0 {
                    for (at, value) in registers.into_iter().enumerate().take(4).skip(1) {
                        same!(value, 0, "{number:#x} fails by {conduit:?}: x{at}");
                    }
                }
            }
        }
    }
    note!("{calls} calls");
    check!(abi::version().ok(), "VERSION fails after the sweep");
    Ok(())
}
