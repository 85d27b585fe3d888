// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is said to a loader that entered where the shim cannot run: the message, and a stop.
//!
//! This runs with the MMU off and at any exception level, so it uses no heap, no lock and no
//! atomic: on memory without attributes they may not work.

use super::cache::wfe;
use super::console::Port;
use core::fmt::Write;
use tagstash::dtb::blob::total_size;
use tagstash::dtb::console::console;

/// Reason: EL2 can only be a host here. Reasons below are the exception level's number.
pub const E2H_STUCK: u64 = 4;

/// Reason: the device tree lies where the shim's bss, stacks and heap will be.
pub const TREE_INSIDE: u64 = 5;

/// Bytes of a device tree that say how long it is.
const HEADER: usize = 40;

/// Says what to change, and stops. `tree` is what the loader passed in x0.
pub extern "C" fn refuse(tree: u64, reason: u64) -> ! {
    if let Some(mut port) = find_port(tree) {
        let _ = writeln!(port, "tagstash: error: {}", advice(reason));
        let _ = writeln!(port, "tagstash: stopped");
    }
    loop {
        wfe();
    }
}

/// What the loader has to do otherwise.
fn advice(reason: u64) -> &'static str {
    match reason {
        1 => {
            "entered at EL1, needs EL2: start QEMU with -machine virt,virtualization=on, or have \
             the loader enter at EL2"
        }
        3 => {
            "entered at EL3, needs EL2: have the loader drop to non-secure EL2 (on QEMU: leave \
             secure=on out, or run firmware at EL3)"
        }
        E2H_STUCK => "this CPU has no EL2 besides that of a host: HCR_EL2.E2H cannot be cleared",
        TREE_INSIDE => {
            "the device tree lies within the memory of the shim: it takes image_size bytes (of its \
             Image header) from its load address on, more than its file has; load the tree elsewhere"
        }
        _ => "entered at EL0, needs EL2",
    }
}

/// The serial port of the tree at `address`.
fn find_port(address: u64) -> Option<Port> {
    if address == 0 || !address.is_multiple_of(8) {
        return None;
    }
    let start = address as *const u8;
    // SAFETY: The boot protocol puts a device tree here, and nothing writes to it. What only
    // looks like one is found out by its magic number.
    let header = unsafe { core::slice::from_raw_parts(start, HEADER) };
    let length = total_size(header).ok()?;
    // SAFETY: As above; this many bytes the tree says that it has, 2 MiB at most.
    let blob = unsafe { core::slice::from_raw_parts(start, length) };
    let found = console(blob)?;
    // SAFETY: The tree says what it is; with the MMU off all is Device memory.
    unsafe { Port::new(&found) }
}
