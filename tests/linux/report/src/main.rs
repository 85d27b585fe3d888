// SPDX-License-Identifier: MIT OR Apache-2.0
//! A Linux program that prints what a program sees of the CPUs, a line `# KIND: TEXT` each, so that
//! two machines can be compared (tests/compare.py). Whatever EL2 keeps from EL1 or from programs
//! shows as a line that differs: a register that reads otherwise, an instruction that is
//! undefined, a shorter vector, a performance counter fewer.
//!
//! It prints nothing that two runs on one machine do not share: no time, no count, no address.
//! It has no C library: it is built with the target that the firmware is built with.

#![no_std]
#![no_main]

mod control_stack;
mod identification;
mod instructions;
mod interrupts;
mod perf;
mod sys;
mod vectors;

use core::panic::PanicInfo;
use linux_program::{Start, println};

/// Keys of the auxiliary vector that tell of the CPU.
const CAPABILITIES: [(u64, &str); 5] =
    [(6, "AT_PAGESZ"), (16, "AT_HWCAP"), (26, "AT_HWCAP2"), (29, "AT_HWCAP3"), (30, "AT_HWCAP4")];
/// Most CPUs that are looked for.
const MAX_CPUS: u64 = 64;

linux_program::entry!(start);

/// Where the program starts.
extern "C" fn start(start: Start) -> ! {
    print_capabilities(start);
    if sys::on_illegal_instruction().is_err() {
        println!("# trouble: no handler of SIGILL");
        sys::exit(1);
    }
    vectors::print();
    for cpu in 0..MAX_CPUS {
        // A CPU that is not online cannot be chosen.
        if sys::pin(cpu).is_ok() {
            identification::print(cpu);
            instructions::print(cpu);
            perf::print(cpu);
            control_stack::print(cpu);
        }
    }
    interrupts::provoke();
    println!("# cpu-report complete");
    sys::exit(0)
}

/// Prints the hardware capabilities that the kernel gives programs.
fn print_capabilities(start: Start) {
    for (key, value) in start.auxiliary() {
        if let Some((_, name)) = CAPABILITIES.iter().find(|(known, _)| *known == key) {
            println!("# capabilities: {name} {value:#x}");
        }
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    println!("# trouble: cpu-report panicked: {info}");
    sys::exit(101)
}
