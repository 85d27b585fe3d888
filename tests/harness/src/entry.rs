// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a CPU comes from the shim into Rust: the image header, relocation, stacks, the first
//! page table and the vectors (`entry.s`).

use core::arch::global_asm;
use core::cell::UnsafeCell;

use crate::{exceptions, mmu};

/// Most CPUs that the harness runs on: as many as there are stacks.
pub const MAX_CPUS: usize = 16;

const STACK_SIZE: usize = 0x1_0000;

/// One stack for each CPU, written by the CPUs only.
#[repr(C, align(4096))]
struct Stacks(UnsafeCell<[[u8; STACK_SIZE]; MAX_CPUS]>);

// SAFETY: Rust code never looks inside; each CPU pushes to its own stack only.
unsafe impl Sync for Stacks {}

static STACKS: Stacks = Stacks(UnsafeCell::new([[0; STACK_SIZE]; MAX_CPUS]));

/// What a CPU had in its registers when it entered, as `entry.s` stores it.
#[derive(Clone, Copy)]
#[repr(C, align(1024))]
pub struct EntryState {
    /// `x0`-`x30`.
    pub general: [u64; 31],
    /// SP.
    pub stack: u64,
    /// The registers of [`NAMES`].
    pub system: [u64; NAMES.len()],
    _pad: [u64; 2],
    /// `q0`-`q31`, two words each.
    pub vectors: [u64; 64],
}

/// The System registers of an [`EntryState`], in their order.
pub const NAMES: [&str; 22] = [
    "SP_EL0",
    "TPIDR_EL0",
    "TPIDRRO_EL0",
    "TPIDR_EL1",
    "ELR_EL1",
    "SPSR_EL1",
    "ESR_EL1",
    "FAR_EL1",
    "PAR_EL1",
    "VBAR_EL1",
    "CONTEXTIDR_EL1",
    "AFSR0_EL1",
    "AFSR1_EL1",
    "MAIR_EL1",
    "AMAIR_EL1",
    "TCR_EL1",
    "TTBR0_EL1",
    "TTBR1_EL1",
    "CPACR_EL1",
    "SCTLR_EL1",
    "FPCR",
    "FPSR",
];

const _: () = assert!(size_of::<EntryState>() == 1 << 10);
const _: () = assert!(core::mem::offset_of!(EntryState, vectors) == 448);

/// One for each CPU, written by its first instructions only.
#[repr(C)]
struct EntryStates(UnsafeCell<[EntryState; MAX_CPUS]>);

// SAFETY: a CPU's own is written before it runs Rust, and read once it has been started.
unsafe impl Sync for EntryStates {}

// Not in .bss, which the first CPU clears after it has written its own.
#[unsafe(link_section = ".data.entry_states")]
static ENTRY_STATES: EntryStates = EntryStates(UnsafeCell::new(
    [EntryState { general: [!0; 31], stack: !0, system: [!0; 22], _pad: [0; 2], vectors: [!0; 64] };
        MAX_CPUS],
));

/// What CPU `number` last entered with. It must have been on.
pub fn entry_state(number: usize) -> EntryState {
    // SAFETY: written before, and in one piece: the CPU has got further than that.
    unsafe { (&raw const (*ENTRY_STATES.0.get())[number]).read_volatile() }
}

global_asm!(
    include_str!("entry.s"),
    entry_states = sym ENTRY_STATES,
    entry_state_size = const size_of::<EntryState>(),
    stack_size = const STACK_SIZE,
    stacks = sym STACKS,
    table = sym mmu::TABLE,
    primary_main = sym crate::primary_main,
    secondary_main = sym crate::secondary_main,
    exception_taken = sym exceptions::exception_taken,
);

unsafe extern "C" {
    fn secondary_entry();
}

/// Where CPU_ON starts a CPU; it takes its number as context.
pub fn secondary_address() -> u64 {
    secondary_entry as *const () as u64
}
