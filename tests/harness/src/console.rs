// SPDX-License-Identifier: MIT OR Apache-2.0
//! The PL011 behind `println!`, one line at a time over all CPUs.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering};

use spin::Mutex;

/// QEMU virt's first UART: used until the device tree has been read.
const DEFAULT: u64 = 0x0900_0000;

static BASE: AtomicU64 = AtomicU64::new(DEFAULT);
static LINE: Mutex<()> = Mutex::new(());

/// Says where the UART is.
pub fn set_base(base: u64) {
    BASE.store(base, Ordering::Relaxed);
}

/// Where the UART is.
pub fn base() -> u64 {
    BASE.load(Ordering::Relaxed)
}

struct Uart(*mut u32);

impl Uart {
    fn byte(&self, byte: u8) {
        const DATA: usize = 0;
        const FLAGS: usize = 0x18 / 4;
        const TRANSMIT_FULL: u32 = 1 << 5;
        // SAFETY: the UART's registers, mapped as a device.
        unsafe {
            while self.0.add(FLAGS).read_volatile() & TRANSMIT_FULL != 0 {}
            self.0.add(DATA).write_volatile(u32::from(byte));
        }
    }
}

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.byte(b'\r');
            }
            self.byte(byte);
        }
        Ok(())
    }
}

/// Prints what `println!` formats.
pub fn print_whole(arguments: fmt::Arguments<'_>) {
    let _line = LINE.lock();
    let _ = Uart(base() as *mut u32).write_fmt(arguments);
}

/// Prints without waiting for anyone: for the last words of a CPU.
pub fn print_at_once(arguments: fmt::Arguments<'_>) {
    let _line = LINE.try_lock();
    let _ = Uart(base() as *mut u32).write_fmt(arguments);
}

/// Prints a line to the console.
macro_rules! println {
    () => { $crate::console::print_whole(format_args!("\n")) };
    ($($text:tt)*) => { $crate::console::print_whole(format_args!("{}\n", format_args!($($text)*))) };
}
pub(crate) use println;
