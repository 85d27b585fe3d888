// SPDX-License-Identifier: MIT OR Apache-2.0
//! HVC and SMC from the guest: who answers which function (SMC Calling Convention 1.2).
//!
//! | function | by HVC | by SMC |
//! | --- | --- | --- |
//! | vendor-specific hypervisor service | the service | the service |
//! | SMCCC_VERSION | 1.2 | 1.2 |
//! | SMCCC_ARCH_FEATURES, workarounds | firmware | firmware |
//! | PSCI | unknown | the relay |
//! | SDEI | unknown | unknown: it carries entry points |
//! | all others | unknown | firmware |

use super::cache::Machine;
use super::guest::Frame;
use super::registers::ISR_EL1;
use super::smc::{self, NOT_SUPPORTED, Registers};
use super::{percpu, psci};
use aarch64_cpu::registers::CNTPCT_EL0;
use core::sync::atomic::{AtomicBool, Ordering};
use spin::Once;
use tagstash::events::Kind;
use tagstash::hypercall::abi::{Function, Reply, is_vendor_hypervisor};
use tagstash::hypercall::service::Service;
use tagstash::platform::Caller;
use tagstash::ram::GuestRam;
use tock_registers::interfaces::Readable;

/// The service, on this machine.
pub type MachineService = Service<'static, Machine>;

const SMCCC_VERSION: u32 = 0x8000_0000;
const SMCCC_ARCH_FEATURES: u32 = 0x8000_0001;
/// The null call.
const VERSION: u32 = Function::Version as u32;
/// SMCCC 1.2: x4-x17 are kept unless they are results.
const VERSION_1_2: u64 = 0x1_0002;
const SUCCESS: u64 = 0;

/// SMCCC_ARCH_WORKAROUND_1 to 4: mitigations that firmware does for its callers.
const WORKAROUNDS: [u32; 4] = [0x8000_8000, 0x8000_7fff, 0x8000_3fff, 0x8000_0004];

/// SPSR and ISR bits of IRQ and FIQ.
const IRQ_AND_FIQ: u64 = 1 << 7 | 1 << 6;

/// Bit of ESR that is set for SMC and clear for HVC.
const BY_SMC: u64 = 1 << 26;
/// The immediate of the instruction, which the convention wants to be 0.
const IMMEDIATE: u64 = 0xffff;

static SERVICE: Once<MachineService> = Once::new();

/// The CPUs have atomic instructions.
static LSE: AtomicBool = AtomicBool::new(false);

/// Begins to serve. `lse` says whether the CPUs have atomic instructions (FEAT_LSE).
pub fn init(service: MachineService, lse: bool) {
    LSE.store(lse, Ordering::Relaxed);
    SERVICE.call_once(|| service);
}

/// What is guest RAM, once there is a guest.
pub fn guest_ram() -> Option<&'static GuestRam> {
    SERVICE.get().map(Service::ram)
}

/// Notes an event of CPU `cpu`, which is this one, once there is a service.
#[cold]
pub fn note(cpu: usize, kind: Kind, argument: u64) {
    struct This(usize);

    impl Caller for This {
        fn cpu(&self) -> usize {
            self.0
        }

        fn interrupted(&self) -> bool {
            false
        }

        fn now(&self) -> u64 {
            CNTPCT_EL0.get()
        }
    }

    if let Some(service) = SERVICE.get() {
        service.note(&This(cpu), kind, argument);
    }
}

/// The guest at the moment of a call.
struct Guest<'a>(&'a Frame);

impl Caller for Guest<'_> {
    #[inline(always)]
    fn cpu(&self) -> usize {
        percpu::number_of(self.0)
    }

    #[inline(always)]
    fn interrupted(&self) -> bool {
        ISR_EL1.get() & !self.0.spsr & IRQ_AND_FIQ != 0
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        CNTPCT_EL0.get()
    }
}

/// Answers HVC and SMC. The vectors' fast way: x19 to x28 of the frame are not saved.
///
/// This function is small, so that the null call does not pay for the registers that the others
/// need.
pub extern "C" fn call(frame: &mut Frame, esr: u64) {
    if esr & BY_SMC != 0 {
        // HVC returns past itself; a trapped SMC has to be stepped over, as executing it would.
        frame.step_over();
    }
    let function = frame.x[0] as u32;
    if !is_vendor_hypervisor(function) || esr & IMMEDIATE != 0 {
        return others(frame, esr, function);
    }
    let Some(service) = SERVICE.get() else { return };
    if function == VERSION {
        let Reply(results) = service.call(&Guest(frame), &[VERSION.into(), 0, 0, 0, 0, 0, 0, 0]);
        frame.x[..4].copy_from_slice(&results);
    } else if LSE.load(Ordering::Relaxed) {
        // SAFETY: `init` was told that the CPUs have FEAT_LSE.
        unsafe { serve_with_lse(service, frame) }
    } else {
        serve_without_lse(service, frame);
    }
}

/// Serves with atomic instructions: their read-modify-writes are one instruction, which cannot
/// fail and never waits.
#[target_feature(enable = "lse")]
fn serve_with_lse(service: &MachineService, frame: &mut Frame) {
    serve(service, frame);
}

/// Serves with exclusive loads and stores, on CPUs before Armv8.1. None has MTE.
#[inline(never)]
fn serve_without_lse(service: &MachineService, frame: &mut Frame) {
    serve(service, frame);
}

#[inline(always)]
fn serve(service: &MachineService, frame: &mut Frame) {
    if let Some(args) = frame.x.first_chunk::<8>() {
        let Reply(results) = service.call(&Guest(frame), args);
        frame.x[..4].copy_from_slice(&results);
    }
}

/// Answers what is not for the service.
#[cold]
#[inline(never)]
fn others(frame: &mut Frame, esr: u64, function: u32) {
    let by_smc = esr & BY_SMC != 0;
    let cpu = percpu::number_of(frame);
    let Some(registers) = frame.x.first_chunk_mut::<18>() else {
        return;
    };
    if esr & IMMEDIATE != 0 {
        registers[0] = NOT_SUPPORTED;
        return;
    }
    match function {
        SMCCC_VERSION => registers[0] = VERSION_1_2,
        SMCCC_ARCH_FEATURES => arch_features(registers, by_smc),
        _ if WORKAROUNDS.contains(&function) => smc::relay(registers),
        _ if !by_smc => registers[0] = NOT_SUPPORTED,
        0x8400_0000..=0x8400_001f | 0xc400_0000..=0xc400_001f => {
            psci::serve(cpu, function, registers)
        }
        0x8400_0020..=0x8400_003f | 0xc400_0020..=0xc400_003f => {
            note(cpu, Kind::CallRefused, function.into());
            registers[0] = NOT_SUPPORTED;
        }
        _ => smc::relay(registers),
    }
}

/// SMCCC_ARCH_FEATURES: the shim's own functions, else what firmware says of those that the
/// caller reaches.
fn arch_features(registers: &mut Registers, by_smc: bool) {
    match registers[1] as u32 {
        SMCCC_VERSION | SMCCC_ARCH_FEATURES => registers[0] = SUCCESS,
        asked if by_smc || WORKAROUNDS.contains(&asked) => smc::relay(registers),
        _ => registers[0] = NOT_SUPPORTED,
    }
}
