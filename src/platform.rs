// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the portable part asks of the machine, as three small traits.
//!
//! The firmware implements them with instructions, host tests with a simulated memory whose
//! tag storage really aliases, and a tracing implementation records the order of cache
//! maintenance, because no emulator shows a missing one.

use crate::addr::{PhysAddr, PhysRange};

/// Bytes that a put copies between two looks at its frame's state word. (The model checker
/// needs few steps: half a page.)
pub const CHUNK: u64 = if cfg!(loom) { 2048 } else { 256 };

/// Most CPUs that are served.
pub const MAX_CPUS: usize = 8;

/// An external abort ended a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyFault;

/// Copies between guest pages and frames.
///
/// A frame's bytes may change under a reader: implementations copy in a way that makes a torn
/// read plain data (assembly, or per-word atomics), and the caller throws it away.
pub trait PageMemory {
    /// Copies [`CHUNK`] bytes at `from`, guest RAM, to `to`, in a frame. Both are aligned to
    /// [`CHUNK`].
    ///
    /// # Errors
    ///
    /// [`CopyFault`] after an external abort; part of the chunk may have been written.
    fn copy_chunk_in(&self, from: PhysAddr, to: PhysAddr) -> Result<(), CopyFault>;

    /// Copies one 4 KiB page at `from`, a frame, to `to`, guest RAM.
    ///
    /// # Errors
    ///
    /// [`CopyFault`] after an external abort; part of the page may have been written.
    fn copy_page_out(&self, from: PhysAddr, to: PhysAddr) -> Result<(), CopyFault>;

    /// Returns the CRC-32C (Castagnoli) of `range`, guest RAM, continued from `seed`.
    ///
    /// # Errors
    ///
    /// [`CopyFault`] after an external abort.
    fn crc32c(&self, seed: u32, range: PhysRange) -> Result<u32, CopyFault>;
}

/// Cache maintenance by address, and the barriers around it. Ranges are whole pages.
pub trait CacheMaintenance {
    /// DSB ISH: all loads and stores and maintenance before it are complete for this core's
    /// shareability domain.
    fn barrier_inner(&self);

    /// DSB SY: the same for the whole system, the memory controller included.
    fn barrier_system(&self);

    /// Cleans and invalidates the *tag* lines of the data in `range` to the point of coherency
    /// (DC CIGVAC). Never only invalidates: another CPU's tags may be among them.
    fn clean_invalidate_tags(&self, range: PhysRange);

    /// Cleans and invalidates the *data* lines of `range` to the point of coherency (DC CIVAC).
    fn clean_invalidate_data(&self, range: PhysRange);

    /// Tells the core that it polls (YIELD).
    fn relax(&self);
}

/// The CPU that makes a hypercall.
pub trait Caller {
    /// Number of the CPU, below the number that the service was built for.
    fn cpu(&self) -> usize;

    /// Says whether the caller had interrupts unmasked and one is pending now.
    fn interrupted(&self) -> bool;

    /// The time, in ticks of a counter that all CPUs share; 0 where there is none.
    fn now(&self) -> u64 {
        0
    }
}

/// All that the machine does for the service.
pub trait Platform: PageMemory + CacheMaintenance {}

impl<T: PageMemory + CacheMaintenance> Platform for T {}
