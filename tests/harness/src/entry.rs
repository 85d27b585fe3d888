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

global_asm!(
    include_str!("entry.s"),
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
