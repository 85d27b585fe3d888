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
use super::{features, percpu, psci};
use aarch64_cpu::registers::CNTPCT_EL0;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use spin::Once;
use tagstash::events::Kind;
use tagstash::hypercall::abi::{self, Function, is_vendor_hypervisor};
use tagstash::hypercall::service::Service;
use tagstash::platform::Caller;
use tagstash::ram::GuestRam;
use tock_registers::interfaces::Readable;

/// The service, on this machine.
pub type MachineService = Service<'static, Machine>;

// The calls that have ways of their own, by the low byte of their number.
const VERSION: u8 = Function::Version as u32 as u8;
const GET: u8 = Function::Get as u32 as u8;
const PUT: u8 = Function::Put as u32 as u8;
const FLUSH_PAGE: u8 = Function::FlushPage as u32 as u8;
const RECLAIM: u8 = Function::Reclaim as u32 as u8;

const SMCCC_VERSION: u32 = 0x8000_0000;
const SMCCC_ARCH_FEATURES: u32 = 0x8000_0001;
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

/// The service once it serves, if the CPUs have FEAT_LSE. A pointer, so that the fast ways reach
/// its parts from one register.
static FAST: AtomicPtr<MachineService> = AtomicPtr::new(core::ptr::null_mut());

/// What all CPUs have that run so far: [`PLAIN`], [`WITH_LSE`] or [`WITH_MOPS`].
static CPUS: AtomicU32 = AtomicU32::new(PLAIN);
/// Exclusive loads and stores only.
const PLAIN: u32 = 0;
/// Atomic instructions: FEAT_LSE.
const WITH_LSE: u32 = 1;
/// Memory copy instructions too: FEAT_MOPS.
const WITH_MOPS: u32 = 2;

/// What this CPU has.
fn this_cpu() -> u32 {
    match (features::lse(), features::mops()) {
        (false, _) => PLAIN,
        (true, false) => WITH_LSE,
        (true, true) => WITH_MOPS,
    }
}

/// Begins to serve, with what this CPU has; without memory copy instructions unless `mops`. Returns
/// what that is, in words.
pub fn init(service: MachineService, mops: bool) -> &'static str {
    let cpus = this_cpu().min(if mops { WITH_MOPS } else { WITH_LSE });
    CPUS.store(cpus, Ordering::Relaxed);
    let service = SERVICE.call_once(|| service);
    if cpus >= WITH_LSE {
        FAST.store(core::ptr::from_ref(service).cast_mut(), Ordering::Release);
    }
    match cpus {
        PLAIN => "exclusives",
        WITH_LSE => "atomics",
        _ => "atomics and memory copies",
    }
}

/// Takes note of what this CPU has, before it runs the guest: no CPU is served with instructions
/// that it lacks.
pub fn join() {
    CPUS.fetch_min(this_cpu(), Ordering::Relaxed);
    // Each such CPU does it for itself: another may be about to.
    if this_cpu() == PLAIN {
        FAST.store(core::ptr::null_mut(), Ordering::Relaxed);
    }
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
    let own = if esr & IMMEDIATE == 0 { abi::own(function) } else { None };
    // SAFETY: `init` stores the address of what lives for ever and is not changed.
    let service = unsafe { FAST.load(Ordering::Acquire).as_ref() };
    let (Some(own), Some(service)) = (own, service) else {
        return others(frame, esr, function);
    };
    if own == VERSION {
        return frame.answer(service.version());
    }
    // SAFETY: All CPUs have FEAT_LSE.
    unsafe {
        match own {
            GET => get_with_lse(service, frame),
            RECLAIM => reclaim_with_lse(service, frame),
            PUT if CPUS.load(Ordering::Relaxed) == WITH_MOPS => put_page_with_mops(service, frame),
            PUT => put_page_by_pairs(service, frame),
            FLUSH_PAGE => flush_page_with_lse(service, frame),
            _ => serve_with_lse(service, frame),
        }
    }
}

/// Makes functions that serve a call if they can, and otherwise go on with another one. Each is for
/// calls that are made often, so that these save no more registers than they need. With atomic
/// instructions read-modify-writes are one instruction, which cannot fail and never waits.
macro_rules! often {
    ($($name:ident = |$service:ident, $caller:ident, $args:ident| $reply:expr, else $other:ident;)*) => {
        $(
            #[target_feature(enable = "lse")]
            #[inline(never)]
            fn $name($service: &MachineService, frame: &mut Frame) {
                let Some($args) = frame.x.first_chunk::<8>() else { return };
                let $caller = &Guest(frame);
                match $reply {
                    Some(reply) => frame.answer(reply),
                    None => $other($service, frame),
                }
            }
        )*
    };
}

/// With the memory copy instructions, and without.
const MOPS: Machine<true> = Machine;
const NO_MOPS: Machine<false> = Machine;

often! {
    get_with_lse = |service, caller, args|
        service.serve_nothing(Function::Get, caller, args), else get_page;
    get_page_by_pairs = |service, caller, args|
        service.serve_page(Function::Get, &NO_MOPS, caller, args), else serve_with_lse;
    get_page_with_mops = |service, caller, args|
        service.serve_page(Function::Get, &MOPS, caller, args), else get_run_with_mops;
    get_run_with_mops = |service, caller, args|
        Some(service.serve(Function::Get, &MOPS, caller, args)), else serve_with_lse;
    put_page_by_pairs = |service, caller, args|
        service.serve_page(Function::Put, &NO_MOPS, caller, args), else serve_with_lse;
    put_page_with_mops = |service, caller, args|
        service.serve_page(Function::Put, &MOPS, caller, args), else put_run_with_mops;
    put_run_with_mops = |service, caller, args|
        Some(service.serve(Function::Put, &MOPS, caller, args)), else serve_with_lse;
    flush_page_with_lse = |service, caller, args|
        service.serve_page(Function::FlushPage, &NO_MOPS, caller, args), else serve_with_lse;
    reclaim_with_lse = |service, caller, args|
        service.serve_nothing(Function::Reclaim, caller, args), else reclaim_page;
    reclaim_page = |service, caller, args|
        service.serve_page(Function::Reclaim, &NO_MOPS, caller, args), else serve_with_lse;
}

/// Copies a page out by what the CPUs have.
#[target_feature(enable = "lse")]
fn get_page(service: &MachineService, frame: &mut Frame) {
    match CPUS.load(Ordering::Relaxed) {
        WITH_MOPS => get_page_with_mops(service, frame),
        _ => get_page_by_pairs(service, frame),
    }
}

/// Serves the other calls with atomic instructions.
#[target_feature(enable = "lse")]
#[inline(never)]
fn serve_with_lse(service: &MachineService, frame: &mut Frame) {
    serve_any(service, frame);
}

/// Serves with exclusive loads and stores, on CPUs before Armv8.1. None has MTE.
#[inline(never)]
fn serve_without_lse(service: &MachineService, frame: &mut Frame) {
    serve_any(service, frame);
}

#[inline(always)]
fn serve_any(service: &MachineService, frame: &mut Frame) {
    if let Some(args) = frame.x.first_chunk::<8>() {
        frame.answer(service.call(&Guest(frame), args));
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
    if is_vendor_hypervisor(function) {
        // UID and revision, numbers that are nobody's, and all on CPUs before Armv8.1.
        if let Some(service) = SERVICE.get() {
            serve_without_lse(service, frame);
        }
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
