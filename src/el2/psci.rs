// SPDX-License-Identifier: MIT OR Apache-2.0
//! The PSCI relay: the guest's calls that [`tagstash::psci`] lets pass reach firmware, and a CPU
//! that the guest starts comes to EL1 by way of EL2.

use super::smc::{self, NOT_SUPPORTED, Registers};
use super::{cache, calls, guest, head, percpu};
use aarch64_cpu::registers::MPIDR_EL1;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use spin::Once;
use tagstash::addr::{PhysAddr, PhysRange};
use tagstash::events::Kind;
use tagstash::psci::{CPU_ON, Fate, SYSTEM_OFF, WIDE, fate};
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

/// Affinity of each CPU, by number.
static CPUS: Once<Vec<u64>> = Once::new();

/// Affinity fields of MPIDR_EL1.
const AFFINITY: u64 = 0xff_00ff_ffff;

/// Numbers the CPUs, the one that runs now being 0, and prepares their slots. Returns how many
/// are served; those in the tree beyond [`percpu::MAX_CPUS`] cannot be started.
pub fn init(in_tree: &[u64]) -> usize {
    let this = MPIDR_EL1.get() & AFFINITY;
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
        Fate::Ask => registers[0] = offered(registers),
        Fate::Refuse => {
            calls::note(cpu, Kind::CallRefused, function.into());
            registers[0] = NOT_SUPPORTED;
        }
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
