// SPDX-License-Identifier: MIT OR Apache-2.0
//! PSCI and the calling convention's own functions as the shim relays them.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::abi::{self, Conduit};
use crate::arena;
use crate::cases::longest;
use crate::cpu::{self, read_register};
use crate::gic;
use crate::machine::machine;
use crate::stash::{self, Pool};
use crate::tags::{self, Store};
use crate::tap::{Outcome, Stop, Test, check, note, same};
use crate::{psci, smp};

/// Tests for any machine.
pub const TESTS: &[Test] = &[
    ("PSCI is 1.0 or later, SMCCC is 1.2 or later", versions),
    ("PSCI calls that would resume elsewhere are NOT_SUPPORTED", suspends),
    ("CPU_SUSPEND to a state that loses the context is INVALID_PARAMETERS", power_downs),
    ("CPU_SUSPEND to standby waits for an interrupt, which may be masked", standby),
    ("CPU_ON of a running CPU and of no CPU are errors", bad_cpu_on),
    ("probes of other services are harmless", probes),
    ("every CPU starts at EL1 and stops, again and again", hotplug),
    ("CPU_ON of a CPU that runs is ALREADY_ON", already_on),
    ("of two CPU_ONs at once exactly one succeeds", racing_cpu_on),
];

/// Tests with tag storage.
pub const WITH_STORAGE: &[Test] =
    &[("P1 P2 cached pages and claims outlast the CPUs that made them", stash_outlasts_cpus)];

const SMCCC_VERSION: u64 = 0x8000_0000;

/// Bit of a function number: 64-bit arguments.
const SMC64: u64 = 1 << 30;

/// What PSCI_FEATURES says of CPU_SUSPEND where `power_state` has an extended StateID.
const EXTENDED: i64 = 1 << 1;

fn versions() -> Outcome {
    let version = psci::call(psci::VERSION, [0; 3]);
    check!(version >= 0x1_0000, "PSCI_VERSION is {version:#x}");
    let smccc = psci::call(SMCCC_VERSION, [0; 3]);
    check!(smccc >= 0x1_0002, "SMCCC_VERSION is {smccc:#x}");
    for (name, function, wanted) in [
        ("CPU_ON", psci::CPU_ON, psci::SUCCESS),
        ("CPU_OFF", psci::CPU_OFF, psci::SUCCESS),
        ("SMCCC_VERSION", SMCCC_VERSION, psci::SUCCESS),
        ("SYSTEM_SUSPEND", psci::SYSTEM_SUSPEND, psci::NOT_SUPPORTED),
        ("CPU_DEFAULT_SUSPEND", psci::CPU_DEFAULT_SUSPEND, psci::NOT_SUPPORTED),
        ("PSCI_SET_SUSPEND_MODE", psci::SET_SUSPEND_MODE, psci::NOT_SUPPORTED),
    ] {
        same!(psci::call(psci::FEATURES, [function, 0, 0]), wanted, "PSCI_FEATURES of {name}");
    }
    for function in [psci::CPU_SUSPEND, psci::CPU_SUSPEND & !SMC64] {
        let features = psci::call(psci::FEATURES, [function, 0, 0]);
        // Without OS-initiated mode, bit 0.
        check!([0, EXTENDED].contains(&features), "PSCI_FEATURES of {function:#x}: {features:#x}");
    }
    Ok(())
}

fn suspends() -> Outcome {
    for function in [psci::SYSTEM_SUSPEND, psci::CPU_DEFAULT_SUSPEND] {
        for function in [function, function & !SMC64] {
            let status = psci::call(function, [0; 3]);
            same!(status, psci::NOT_SUPPORTED, "{function:#x}");
        }
    }
    Ok(())
}

fn power_downs() -> Outcome {
    // So that a relay that forwards them comes back as well: firmware finds an interrupt pending.
    let woken = gic::start();
    gic::interrupt_in(1);
    let extended = psci::call(psci::FEATURES, [psci::CPU_SUSPEND, 0, 0]) == EXTENDED;
    // StateType, and bits that must be 0.
    let bad: &[u32] = if extended { &[30, 31, 28, 29] } else { &[16, 17, 23, 26, 30, 31] };
    for function in [psci::CPU_SUSPEND, psci::CPU_SUSPEND & !SMC64] {
        for bit in bad {
            for state in [1u64 << bit, 1 << bit | 1 << 24, 1 << bit | 1, 1 << bit | 1 << 32] {
                let status = psci::call(function, [state, crate::entry::secondary_address(), 7]);
                same!(status, psci::INVALID_PARAMETERS, "{function:#x} to {state:#x}");
            }
        }
        let status = psci::call(function, [u64::MAX; 3]);
        same!(status, psci::INVALID_PARAMETERS, "{function:#x} with all bits set");
    }
    if woken {
        gic::stop();
    }
    Ok(())
}

fn standby() -> Outcome {
    if !gic::start() {
        return Err(Stop::Skipped("there is no GICv3"));
    }
    /// How often a CPU may come back for no reason that is seen here.
    const MOST_RETURNS: u32 = 8;
    let before = gic::taken();
    // An entry point that would show: the harness's own, for further CPUs.
    let arguments = |state: u64| [state, crate::entry::secondary_address(), 1];
    for function in [psci::CPU_SUSPEND, psci::CPU_SUSPEND & !SMC64] {
        // The upper half of a 32-bit argument is ignored.
        for state in [0, 1, 0xffff_ffff_0000_0001] {
            gic::interrupt_in(1);
            let status = psci::call(function, arguments(state));
            same!(status, psci::SUCCESS, "{function:#x} to {state:#x}, an interrupt pending");
            let (mut returns, start) = (0, cpu::counter());
            gic::interrupt_in(cpu::counter_frequency() / 100);
            while !gic::is_due() {
                let status = psci::call(function, arguments(state));
                same!(status, psci::SUCCESS, "{function:#x} to {state:#x}");
                returns += 1;
                check!(
                    returns <= MOST_RETURNS,
                    "{function:#x} to {state:#x} does not wait: {returns} returns in {} ticks",
                    cpu::counter() - start
                );
            }
            gic::stop();
        }
    }
    gic::interrupt_in(1);
    same!(psci::call(psci::CPU_SUSPEND, arguments(0)), psci::SUCCESS, "the last CPU_SUSPEND");
    same!(gic::taken(), before, "interrupts taken while masked");
    cpu::unmask_interrupts();
    cpu::isb();
    cpu::mask_interrupts();
    gic::stop();
    same!(gic::taken(), before + 1, "interrupts taken once unmasked");
    Ok(())
}

fn stash_outlasts_cpus() -> Outcome {
    smp::need(2)?;
    stash::fresh()?;
    const PAGES: u64 = 32;
    let pool = Pool::private()?;
    let buffers = arena::take(2 * smp::cpus() as u64);
    let buffer = |number: usize, part: u64| buffers.part(2 * number as u64 + part, 1);
    let cpus = smp::cpus();
    let last = cpus - 1;
    let tagged = longest(&machine().regions.all()[0]).start;
    // The last CPU claims a page and tags it, then each CPU puts pages. All are off after that.
    smp::on_all(&|number| {
        if number == last {
            let answer = abi::reclaim(tagged, 1);
            same!(answer.x2, 1, "pages newly claimed");
            tags::write(tagged, 1, Store::Stg);
        }
        Ok(())
    })?;
    let claimed = stash::census()?.tags;
    check!(claimed > 0, "the claim went with its CPU");
    smp::on_all(&|number| {
        for index in 0..PAGES {
            stash::put_kept(buffer(number, 0), pool.key(number as u64, index), index)?;
        }
        Ok(())
    })?;
    // Those of the last CPU, half from here while it is off, and half once it is back.
    for index in 0..PAGES / 2 {
        stash::get_hit(buffer(0, 1), pool.key(last as u64, index), index)?;
    }
    smp::on_all(&|number| {
        if number == last {
            for index in PAGES / 2..PAGES {
                stash::get_hit(buffer(number, 1), pool.key(number as u64, index), index)?;
            }
        }
        Ok(())
    })?;
    // And those of all others.
    for owner in 0..last as u64 {
        for index in 0..PAGES {
            stash::get_hit(buffer(0, 1), pool.key(owner, index), index)?;
        }
    }
    same!(stash::census()?.tags, claimed, "frames in tags");
    tags::verify(tagged, 1)?;
    tags::verify_stored(tagged, 1)?;
    same!(abi::release(tagged, 1).x2, 1, "claims given back by another CPU");
    same!(stash::census()?.tags, 0, "frames in tags at the end");
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
