// SPDX-License-Identifier: MIT OR Apache-2.0
//! PSCI and the calling convention's own functions as the shim relays them.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::abi::{self, Conduit};
use crate::cpu::read_register;
use crate::tap::{Outcome, Test, check, note, same};
use crate::{psci, smp};

/// Tests for any machine.
pub const TESTS: &[Test] = &[
    ("PSCI is 1.0 or later, SMCCC is 1.2 or later", versions),
    ("PSCI calls that would resume elsewhere are NOT_SUPPORTED", suspends),
    ("CPU_ON of a running CPU and of no CPU are errors", bad_cpu_on),
    ("probes of other services are harmless", probes),
    ("every CPU starts at EL1 and stops, again and again", hotplug),
    ("CPU_ON of a CPU that runs is ALREADY_ON", already_on),
    ("of two CPU_ONs at once exactly one succeeds", racing_cpu_on),
];

const SMCCC_VERSION: u64 = 0x8000_0000;

fn versions() -> Outcome {
    let version = psci::call(psci::VERSION, [0; 3]);
    check!(version >= 0x1_0000, "PSCI_VERSION is {version:#x}");
    let smccc = psci::call(SMCCC_VERSION, [0; 3]);
    check!(smccc >= 0x1_0002, "SMCCC_VERSION is {smccc:#x}");
    for (name, function, wanted) in [
        ("CPU_ON", psci::CPU_ON, psci::SUCCESS),
        ("CPU_OFF", psci::CPU_OFF, psci::SUCCESS),
        ("SMCCC_VERSION", SMCCC_VERSION, psci::SUCCESS),
        ("CPU_SUSPEND", psci::CPU_SUSPEND, psci::NOT_SUPPORTED),
        ("SYSTEM_SUSPEND", psci::SYSTEM_SUSPEND, psci::NOT_SUPPORTED),
        ("CPU_DEFAULT_SUSPEND", psci::CPU_DEFAULT_SUSPEND, psci::NOT_SUPPORTED),
    ] {
        same!(psci::call(psci::FEATURES, [function, 0, 0]), wanted, "PSCI_FEATURES of {name}");
    }
    Ok(())
}

fn suspends() -> Outcome {
    const SMC64: u64 = 1 << 30;
    for function in [psci::CPU_SUSPEND, psci::SYSTEM_SUSPEND, psci::CPU_DEFAULT_SUSPEND] {
        for function in [function, function & !SMC64] {
            // Power state 0 is standby, so that a relay that forwards them comes back as well.
            let status = psci::call(function, [0; 3]);
            same!(status, psci::NOT_SUPPORTED, "{function:#x}");
        }
    }
    Ok(())
}

fn bad_cpu_on() -> Outcome {
    same!(smp::switch_on(0), psci::ALREADY_ON, "CPU_ON of this CPU");
    for mpidr in [0xff_00ff_fffe, 1 << 24, 1 << 63, u64::MAX, 0xfe] {
        let entry = crate::entry::secondary_address();
        let status = psci::call(psci::CPU_ON, [mpidr, entry, 0]);
        same!(status, psci::INVALID_PARAMETERS, "CPU_ON of MPIDR {mpidr:#x}");
    }
    Ok(())
}

fn probes() -> Outcome {
    const TRNG_VERSION: u64 = 0x8400_0050;
    const ARCH_FEATURES: u64 = 0x8000_0001;
    const STANDARD_HYPERVISOR: u64 = 0x8500_0020;
    const TRUSTED_OS: u64 = 0xbf00_ff01;
    for function in [TRNG_VERSION, ARCH_FEATURES, STANDARD_HYPERVISOR, TRUSTED_OS] {
        for conduit in [Conduit::Smc, Conduit::Hvc] {
            let answer = abi::call(conduit, [function, SMCCC_VERSION, 0, 0, 0, 0, 0, 0]);
            note!("{function:#x} by {conduit:?} answers {:#x}", answer.status);
        }
    }
    // By SMC nobody is there on this machine; ARCH_FEATURES is the calling convention's own.
    for function in [TRNG_VERSION, STANDARD_HYPERVISOR, TRUSTED_OS] {
        same!(psci::call(function, [0; 3]) as i32, -1, "{function:#x} by SMC");
    }
    check!(abi::version().ok(), "VERSION fails after the probes");
    Ok(())
}

fn hotplug() -> Outcome {
    smp::need(2)?;
    for round in 0..3 {
        let seen = [const { AtomicU64::new(0) }; crate::entry::MAX_CPUS];
        smp::on_all(&|number| {
            same!(read_register!("CurrentEL") >> 2 & 3, 1, "CPU {number}: exception level");
            let mpidr = read_register!("mpidr_el1") & 0xff_00ff_ffff;
            same!(mpidr, smp::mpidr(number), "CPU {number}: MPIDR");
            check!(abi::version().ok(), "VERSION on CPU {number}");
            seen[number].fetch_add(1, Ordering::SeqCst);
            Ok(())
        })?;
        for (number, seen) in seen.iter().enumerate().take(smp::cpus()) {
            same!(seen.load(Ordering::SeqCst), 1, "round {round}: visits of CPU {number}");
        }
    }
    Ok(())
}

fn already_on() -> Outcome {
    smp::need(2)?;
    let asked = AtomicBool::new(false);
    smp::on(2, &|number| {
        if number == 0 {
            let status = smp::switch_on(1);
            asked.store(true, Ordering::SeqCst);
            same!(status, psci::ALREADY_ON, "CPU_ON of CPU 1, which runs");
        }
        smp::wait_for("CPU 0 to ask", || asked.load(Ordering::SeqCst));
        Ok(())
    })
}

fn racing_cpu_on() -> Outcome {
    smp::need(3)?;
    const ROUNDS: u64 = 20;
    let before = smp::strays(2);
    let statuses = [const { AtomicU64::new(0) }; 2];
    let turn = [const { AtomicU64::new(0) }; 2];
    smp::on(2, &|number| {
        let mut starts = 0;
        for round in 1..=ROUNDS {
            // Both at once; CPU 2 has no work here and switches itself off.
            turn[number].store(2 * round, Ordering::SeqCst);
            smp::wait_for("the other CPU", || turn[1 - number].load(Ordering::SeqCst) >= 2 * round);
            statuses[number].store(smp::switch_on(2) as u64, Ordering::SeqCst);
            turn[number].store(2 * round + 1, Ordering::SeqCst);
            smp::wait_for("the other CPU", || turn[1 - number].load(Ordering::SeqCst) > 2 * round);
            let both = [0, 1].map(|at: usize| statuses[at].load(Ordering::SeqCst) as i64);
            for status in both {
                check!(
                    [psci::SUCCESS, psci::ALREADY_ON, psci::ON_PENDING].contains(&status),
                    "CPU_ON answers {status}"
                );
            }
            // CPU 2 may have come and gone between the two: then both succeed.
            check!(both.contains(&psci::SUCCESS), "neither CPU_ON succeeds: {both:?}");
            starts += both.iter().filter(|status| **status == psci::SUCCESS).count() as u64;
            smp::wait_for("CPU 2 to start", || smp::strays(2) - before >= starts);
            smp::wait_for("CPU 2 to be off", || smp::is_off(2));
            same!(smp::strays(2) - before, starts, "starts of CPU 2");
        }
        Ok(())
    })?;
    let starts = smp::strays(2) - before;
    note!("{ROUNDS} races started CPU 2 {starts} times");
    check!((ROUNDS..=2 * ROUNDS).contains(&starts), "{ROUNDS} races, {starts} starts");
    Ok(())
}
