// SPDX-License-Identifier: MIT OR Apache-2.0
//! The end: a reason, the registers, the call chain as offsets into the image, power off.
//!
//! Reasons are stable strings. A configuration that cannot work ends in [`stop`], a fault of
//! the shim itself in a panic.

use super::guest::Frame;
use super::vectors::Vector;
use super::{cache, console, layout, percpu, psci};
use aarch64_cpu::registers::*;
use core::fmt::{Display, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU64, Ordering};
use tagstash::addr::PhysAddr;

/// Most calls of a chain that are printed.
const MOST_CALLS: usize = 32;

/// Affinity of the CPU that ends the machine, plus [`CLAIMED`].
static ENDING: AtomicU64 = AtomicU64::new(0);
const CLAIMED: u64 = 1 << 63;

/// Writes a line, past `log` and its lock: the CPU that holds it may be this one.
macro_rules! say {
    ($($argument:tt)*) => {
        if let Some(mut port) = console::port() {
            let _ = writeln!(port, "tagstash: {}", format_args!($($argument)*));
        }
    };
}

/// Ends the boot because of what the machine or the loader gave: `reason` says what to change.
pub fn stop(reason: impl Display) -> ! {
    begin();
    say!("error: {reason}");
    say!("stopped");
    end()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    begin();
    say!("panic: {}", info.message());
    if let Some(location) = info.location() {
        say!("  at {location}");
    }
    say!(
        "  last exception: esr {:#x} elr {:#x} far {:#x} spsr {:#x}",
        ESR_EL2.get(),
        ELR_EL2.get(),
        FAR_EL2.get(),
        SPSR_EL2.get()
    );
    let frame_pointer: u64;
    // SAFETY: Reads a register.
    unsafe {
        core::arch::asm!("mov {}, x29", out(reg) frame_pointer, options(nomem, nostack));
    }
    call_chain(None, frame_pointer);
    end()
}

/// Ends on an exception that nobody expects.
pub fn exception(sp: u64, vector: Vector, frame: &Frame) -> ! {
    begin();
    let reason = match vector {
        Vector::Synchronous => "unexpected exception at EL2",
        Vector::SynchronousSp0 => "unexpected exception at EL2 with SP_EL0",
        Vector::Irq => "unexpected IRQ at EL2",
        Vector::Fiq => "unexpected FIQ at EL2",
        Vector::SError => "SError at EL2",
        Vector::StackOverflow => "stack overflow at EL2",
        Vector::LowerAsynchronous => "unexpected interrupt of the guest at EL2",
    };
    say!("panic: {reason}");
    say!("  class {:#x} esr {:#x} far {:#x}", frame.class(), frame.esr, FAR_EL2.get());
    say!("  elr {:#x} spsr {:#x} sp {sp:#x}", frame.elr, frame.spsr);
    for (row, values) in (0..).step_by(4).zip(frame.x.chunks(4)) {
        match values {
            [a, b, c, d] => say!("  x{row:<2} {a:016x} {b:016x} {c:016x} {d:016x}"),
            [a, b, c] => say!("  x{row:<2} {a:016x} {b:016x} {c:016x}"),
            _ => {}
        }
    }
    match vector {
        Vector::LowerAsynchronous => {}
        _ => call_chain(Some(frame.elr), frame.x[29]),
    }
    end()
}

/// Lets one CPU go on to the end. A panic while it is under way turns the machine off at once.
fn begin() {
    let this = MPIDR_EL1.get() | CLAIMED;
    match ENDING.compare_exchange(0, this, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => {}
        Err(other) if other == this => {
            psci::power_off();
            halt()
        }
        Err(_) => halt(),
    }
}

fn end() -> ! {
    if let Some(port) = console::port() {
        port.drain();
    }
    psci::power_off();
    halt()
}

fn halt() -> ! {
    loop {
        cache::wfe();
    }
}

/// Prints where the code is and who called it, from the chain of frame records (AAPCS64,
/// 6.4.6), as far as that stays on one of the stacks.
fn call_chain(at: Option<u64>, frame_pointer: u64) {
    let image = layout::image();
    say!("  build id {}", layout::BuildId);
    say!("  image at {:#x}, call chain as offsets into it:", image.start().0);
    let show = |address: u64| {
        if layout::text().contains(PhysAddr(address)) {
            say!("    +{:#x}", address - image.start().0);
            true
        } else {
            say!("    {address:#x} (not code)");
            false
        }
    };
    if let Some(address) = at {
        show(address);
    }
    let mut record = frame_pointer;
    for _ in 0..MOST_CALLS {
        let on_stack = percpu::stack_around(record)
            .is_some_and(|stack| stack.end().0 - record >= 16 && record.is_multiple_of(8));
        if !on_stack {
            break;
        }
        // SAFETY: Sixteen bytes of a stack, aligned.
        let [caller, address] = unsafe { core::ptr::read_volatile(record as *const [u64; 2]) };
        // Callers are further up; the first of them returns nowhere.
        if address == 0 || !show(address) || caller <= record {
            break;
        }
        record = caller;
    }
}
