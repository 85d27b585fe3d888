// SPDX-License-Identifier: MIT OR Apache-2.0
//! What happens when an exception comes: the expected abort of a probe, the timer, or the end.

use core::cell::Cell;

use crate::cpu::{self, read_register, write_register};
use crate::entry::MAX_CPUS;
use crate::{console, gic, semihosting};

/// The registers of the interrupted code, as the vectors store them.
#[repr(C)]
pub struct Frame {
    registers: [u64; 31],
    elr: u64,
    spsr: u64,
    _pad: u64,
}

/// An abort that a probe met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    /// ESR_EL1.
    pub syndrome: u64,
    /// FAR_EL1.
    pub address: u64,
    /// ELR_EL1.
    pub at: u64,
    /// SPSR_EL1.
    pub state: u64,
}

impl Abort {
    /// Whether this is a synchronous external abort of a load or a store, not of a table walk.
    pub fn is_external_data(&self) -> bool {
        self.syndrome >> 26 == 0x25 && self.syndrome & 0x3f == 0x10
    }

    /// The same of an instruction fetch.
    pub fn is_external_fetch(&self) -> bool {
        self.syndrome >> 26 == 0x21 && self.syndrome & 0x3f == 0x10
    }
}

/// What belongs to one CPU; TPIDR_EL1 names its entry.
struct PerCpu {
    expecting: Cell<bool>,
    met: Cell<Option<Abort>>,
}

struct AllCpus([PerCpu; MAX_CPUS]);

// SAFETY: each CPU uses its own entry only, and its exceptions interrupt its own code only
// between the accesses of `expect`, which are all of single cells.
unsafe impl Sync for AllCpus {}

static CPUS: AllCpus =
    AllCpus([const { PerCpu { expecting: Cell::new(false), met: Cell::new(None) } }; MAX_CPUS]);

/// Remembers which CPU this is.
pub fn set_cpu(number: usize) {
    write_register!("tpidr_el1", number as u64);
}

/// Which CPU this is.
pub fn this_cpu() -> usize {
    read_register!("tpidr_el1") as usize
}

/// Runs one of the probes of `cpu` or `probes`; the abort it met, if any. An abort resumes where
/// the probe returns to, a program at EL0 where x17 says.
pub fn expect(probe: impl FnOnce()) -> Option<Abort> {
    let own = &CPUS.0[this_cpu()];
    own.met.set(None);
    own.expecting.set(true);
    cpu::dsb();
    probe();
    cpu::dsb();
    own.expecting.set(false);
    own.met.get()
}

const SYNCHRONOUS_ON_SP0: u64 = 0;
const SYNCHRONOUS: u64 = 4;
const INTERRUPT: u64 = 5;
const SYNCHRONOUS_FROM_EL0: u64 = 8;
/// EL1h, all masked: as the shim starts the harness.
const EL1H: u64 = 0x3c5;

/// Called by the vectors with all registers saved. `kind` is the vector's number.
pub extern "C" fn exception_taken(kind: u64, frame: &mut Frame) {
    if kind == INTERRUPT && gic::timer_taken() {
        return;
    }
    let number = this_cpu();
    let syndrome = read_register!("esr_el1");
    let address = read_register!("far_el1");
    if let Some(own) = CPUS.0.get(number)
        && own.expecting.replace(false)
        && matches!(kind, SYNCHRONOUS_ON_SP0 | SYNCHRONOUS | SYNCHRONOUS_FROM_EL0)
    {
        own.met.set(Some(Abort { syndrome, address, at: frame.elr, state: frame.spsr }));
        frame.elr = frame.registers[if kind == SYNCHRONOUS_FROM_EL0 { 17 } else { 30 }];
        // Nothing stays of the state that the probe was in.
        frame.spsr = EL1H;
        return;
    }
    console::print_at_once(format_args!(
        "\nBail out! unexpected exception (vector {kind}) on CPU {number}: ESR {syndrome:#x} \
         ELR {:#x} FAR {address:#x} LR {:#x} SPSR {:#x}\n",
        frame.elr, frame.registers[30], frame.spsr
    ));
    semihosting::exit(2)
}
