// SPDX-License-Identifier: MIT OR Apache-2.0
//! The PSCI relay: the guest's calls that [`tagstash::psci`] lets pass reach firmware, and a CPU
//! that the guest starts comes to EL1 by way of EL2. A CPU in standby stays in the guest's call:
//! firmware waits for an interrupt, of which a pending one is enough, whatever EL2 and the guest
//! mask, and the guest takes it when the call returns.

use super::smc::{self, NOT_SUPPORTED, Registers};
use super::{cache, calls, guest, head, percpu};
use aarch64_cpu::registers::MPIDR_EL1;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use spin::Once;
use tagstash::addr::{PhysAddr, PhysRange};
use tagstash::events::Kind;
use tagstash::psci::{
    CPU_ON, CPU_SUSPEND, FEATURES, Fate, SYSTEM_OFF, Suspend, VERSION, WIDE, fate,
};
use tock_registers::interfaces::Readable;

/// Status codes (DEN 0022, 5.2.2).
const SUCCESS: u64 = 0;
const INVALID_PARAMETERS: u64 = -2i64 as u64;
const ON_PENDING: u64 = -5i64 as u64;

/// SMCCC_VERSION, of which PSCI_FEATURES is asked.
const SMCCC_VERSION: u32 = 0x8000_0000;

/// Where the guest wants a CPU to begin. The CPU that starts it takes the slot; the CPU that
/// is started gives it back, so that a second start of the same CPU cannot change what the
/// first one reads.
#[repr(C, align(64))]
pub struct StartSlot {
    /// Initial SP_EL2. The entry code reads it, as the first field.
    pub stack_top: AtomicU64,
    taken: AtomicU32,
    entry: AtomicU64,
    context: AtomicU64,
}

static SLOTS: [StartSlot; percpu::MAX_CPUS] = [const {
    StartSlot {
        stack_top: AtomicU64::new(0),
        taken: AtomicU32::new(0),
        entry: AtomicU64::new(0),
        context: AtomicU64::new(0),
    }
}; percpu::MAX_CPUS];

/// How firmware suspends CPUs.
static SUSPEND: Once<Suspend> = Once::new();

/// Affinity of each CPU, by number.
static CPUS: Once<Vec<u64>> = Once::new();

/// Affinity fields of MPIDR_EL1.
const AFFINITY: u64 = 0xff_00ff_ffff;

/// Affinity of the CPU that runs.
pub fn this_cpu() -> u64 {
    MPIDR_EL1.get() & AFFINITY
}

/// How firmware suspends CPUs, as [`init`] found it.
pub fn suspend() -> Suspend {
    SUSPEND.get().copied().unwrap_or_default()
}

/// Numbers the CPUs, the one that runs now being 0, prepares their slots, and asks firmware how it
/// suspends them, if there is PSCI by SMC: EL3 without it may not come back. Returns how many are
/// served; those in the tree beyond [`percpu::MAX_CPUS`] cannot be started.
pub fn init(in_tree: &[u64], by_smc: bool) -> usize {
    if by_smc {
        let version = smc::call(VERSION, [0; 3]);
        let features = smc::call(FEATURES, [(CPU_SUSPEND | WIDE).into(), 0, 0]);
        SUSPEND.call_once(|| Suspend::of(version, features));
    }
    let this = this_cpu();
    let others = in_tree.iter().map(|mpidr| mpidr & AFFINITY).filter(|mpidr| *mpidr != this);
    let cpus: Vec<u64> = [this].into_iter().chain(others).take(percpu::MAX_CPUS).collect();
    for (number, slot) in SLOTS.iter().enumerate() {
        slot.stack_top.store(percpu::stack_top(number).0, Ordering::Relaxed);
    }
    CPUS.call_once(|| cpus).len()
}

/// Serves a PSCI call of the guest on CPU `cpu`: function in x0, arguments from x1 on.
pub fn serve(cpu: usize, function: u32, registers: &mut Registers) {
    match fate(function) {
        Fate::Pass => smc::relay(registers),
        Fate::Start => {
            let width = if function & WIDE != 0 { u64::MAX } else { u32::MAX.into() };
            let [_, target, entry, context, ..] = registers.map(|value| value & width);
            registers[0] = start(target, entry, context);
        }
        Fate::Suspend => {
            registers[0] = standby(registers[1] as u32).unwrap_or_else(|refusal| {
                calls::note(cpu, Kind::CallRefused, function.into());
                refusal
            });
        }
        Fate::Ask => registers[0] = offered(registers),
        Fate::Refuse => {
            calls::note(cpu, Kind::CallRefused, function.into());
            registers[0] = NOT_SUPPORTED;
        }
    }
}

/// CPU_SUSPEND: firmware's answer, or why it is not asked. A state that is not there is
/// INVALID_PARAMETERS (DEN 0022, 5.4); DENIED would be about the states of other CPUs.
fn standby(power_state: u32) -> Result<u64, u64> {
    let suspend = suspend();
    match suspend.is_standby(power_state) {
        // The guest's entry point and context mean nothing in standby. Firmware that starts the
        // CPU somewhere even so finds a place that it cannot leave.
        true => Ok(smc::call(CPU_SUSPEND | WIDE, [power_state.into(), head::park(), 0])),
        false if suspend == Suspend::None => Err(NOT_SUPPORTED),
        false => Err(INVALID_PARAMETERS),
    }
}

/// PSCI_FEATURES: what is offered is what [`serve`] does.
fn offered(registers: &mut Registers) -> u64 {
    match registers[1] as u32 {
        SMCCC_VERSION => SUCCESS,
        asked => match fate(asked) {
            Fate::Pass => {
                smc::relay(registers);
                registers[0]
            }
            Fate::Start | Fate::Ask => SUCCESS,
            Fate::Suspend => suspend().features().unwrap_or(NOT_SUPPORTED),
            Fate::Refuse => NOT_SUPPORTED,
        },
    }
}

/// CPU_ON: starts the CPU `target` in the shim, which will enter the guest at `entry`.
fn start(target: u64, entry: u64, context: u64) -> u64 {
    let cpus = CPUS.get().map_or(&[][..], Vec::as_slice);
    let Some(number) = cpus.iter().position(|cpu| *cpu == target) else {
        return INVALID_PARAMETERS;
    };
    let slot = &SLOTS[number];
    if slot.taken.swap(1, Ordering::Acquire) != 0 {
        return ON_PENDING;
    }
    slot.entry.store(entry, Ordering::Relaxed);
    slot.context.store(context, Ordering::Relaxed);
    // The target reads the slot with its MMU on; cleaning covers firmware that keeps it out of
    // the coherent domain until then.
    let address = &raw const *slot as u64;
    clean(address);
    let status = smc::call(CPU_ON | WIDE, [target, head::secondary_entry(), address]);
    if status != SUCCESS {
        // It did not start, so nobody else gives the slot back.
        slot.taken.store(0, Ordering::Release);
    }
    status
}

/// Cleans a slot to the point of coherency.
fn clean(slot: u64) {
    if let Some(range) = PhysRange::new(PhysAddr(slot), size_of::<StartSlot>() as u64) {
        cache::clean_data(range);
    }
}

/// Where a CPU that CPU_ON started enters Rust, on its own stack, with the MMU on.
pub extern "C" fn started(slot: &'static StartSlot) -> ! {
    let entry = slot.entry.load(Ordering::Relaxed);
    let context = slot.context.load(Ordering::Relaxed);
    // From here on firmware itself says that this CPU is on.
    slot.taken.store(0, Ordering::Release);
    guest::enter(Kind::CpuStarted, entry, context)
}

/// Turns the machine off; returns only if nothing answers.
pub fn power_off() {
    smc::call(SYSTEM_OFF, [0; 3]);
}
