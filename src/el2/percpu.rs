// SPDX-License-Identifier: MIT OR Apache-2.0
//! What each CPU has of its own at EL2: a stack with a guard page below it, and a number.
//!
//! ```text
//!   one slot, 32 KiB:  | guard 4 KiB | stack, growing down                      <-|
//!                      not mapped                              SP_EL2 while in EL1
//! ```
//!
//! A CPU's number is that of the slot that its stack pointer is in, so no register has to hold
//! it. TPIDR_EL2 is free for the vectors: it keeps x0 while they find out whether the stack
//! can be used.

use core::cell::UnsafeCell;
use tagstash::addr::{PAGE_SIZE, PhysAddr, PhysRange};
pub use tagstash::platform::MAX_CPUS;

/// Bytes of one CPU's slot. A power of two, so that the vectors can tell the guard page by
/// bits of SP.
pub const SLOT: usize = 32 << 10;

/// Bytes of the guard page.
pub const GUARD: usize = PAGE_SIZE as usize;

/// Bytes of the emergency stack.
const EMERGENCY: usize = 16 << 10;

/// A stack and the guard page below it.
#[repr(C, align(4096))]
pub struct GuardedStack<const BYTES: usize> {
    guard: [u8; GUARD],
    stack: UnsafeCell<[u8; BYTES]>,
}

// SAFETY: Stacks are used through SP alone: each slot by its own CPU, the emergency stack by
// code that ends in a power-off.
unsafe impl<const BYTES: usize> Sync for GuardedStack<BYTES> {}

impl<const BYTES: usize> GuardedStack<BYTES> {
    const fn new() -> Self {
        Self { guard: [0; GUARD], stack: UnsafeCell::new([0; BYTES]) }
    }

    /// The page below the stack.
    fn guard(&self) -> PhysRange {
        range(&raw const self.guard as u64, GUARD)
    }

    /// The stack without its guard.
    fn stack(&self) -> PhysRange {
        range(self.stack.get() as u64, BYTES)
    }
}

/// The slots of all CPUs.
pub static SLOTS: [GuardedStack<{ SLOT - GUARD }>; MAX_CPUS] =
    [const { GuardedStack::new() }; MAX_CPUS];

/// The stack that is used once a CPU's own cannot be. One for all: the first fault of a stack
/// is the end.
pub static EMERGENCY_STACK: GuardedStack<EMERGENCY> = GuardedStack::new();

const _: () = assert!(size_of_val(&SLOTS) == MAX_CPUS * SLOT && SLOT.is_power_of_two());

/// A range inside the image, which does not wrap around.
fn range(start: u64, bytes: usize) -> PhysRange {
    match PhysRange::new(PhysAddr(start), bytes as u64) {
        Some(range) => range,
        None => unreachable!(),
    }
}

/// Returns the number of the CPU whose stack `pointer` points into.
#[inline(always)]
pub fn number_of<T>(pointer: &T) -> usize {
    let offset = (core::ptr::from_ref(pointer) as usize).wrapping_sub(&raw const SLOTS as usize);
    offset / SLOT % MAX_CPUS
}

/// Returns the initial stack pointer of CPU `number`.
pub fn stack_top(number: usize) -> PhysAddr {
    SLOTS[number].stack().end()
}

/// The pages that must not be mapped: below each stack, the emergency stack included.
pub fn guards() -> impl Iterator<Item = PhysRange> {
    SLOTS.iter().map(GuardedStack::guard).chain([EMERGENCY_STACK.guard()])
}

/// The stack, of a CPU or of emergencies, that holds `address`.
pub fn stack_around(address: u64) -> Option<PhysRange> {
    let mut stacks = SLOTS.iter().map(GuardedStack::stack).chain([EMERGENCY_STACK.stack()]);
    stacks.find(|stack| stack.contains(PhysAddr(address)))
}
