// SPDX-License-Identifier: MIT OR Apache-2.0
//! Firmware at EL3 for tests, on QEMU's virt machine with `secure=on` (`qemu/run.py --monitor`).
//!
//! By itself QEMU resets registers and RAM to 0, and its usual machine has no EL3. This firmware is
//! as unhelpful as it may be: it opens to EL2 what Linux's booting.rst asks for and traps the rest, a
//! trap is the end of the run, and EL1's and EL2's registers are full of junk when a CPU is entered,
//! the first one as well as those that CPU_ON starts. All of it is assembly, in `monitor.s`.

#![no_std]
#![no_main]

core::arch::global_asm!(include_str!("monitor.s"));

/// Nothing here can panic.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
