// SPDX-License-Identifier: MIT OR Apache-2.0
//! The serial port (Arm PL011, or an 8250-like one) as a sink of `log`. It is the shim's until the
//! guest is entered; from then on only a panic writes to it.

use core::fmt::{self, Write};
use core::ptr::NonNull;
use spin::{Mutex, Once};
use tagstash::addr::PhysAddr;
use tagstash::dtb::console::{Console, ConsoleKind};
use tagstash::serial::{Bus, Ns16550, Width, wait_until};
use tock_registers::interfaces::{ReadWriteable, Readable, Writeable};
use tock_registers::registers::{ReadOnly, ReadWrite};
use tock_registers::{register_bitfields, register_structs};

register_bitfields! {u32,
    /// Flags.
    FLAGS [
        TRANSMIT_FULL OFFSET(5) NUMBITS(1) [],
        BUSY OFFSET(3) NUMBITS(1) [],
    ],
    /// Control.
    CONTROL [
        TRANSMIT OFFSET(8) NUMBITS(1) [],
        UART OFFSET(0) NUMBITS(1) [],
    ],
}

register_structs! {
    Registers {
        (0x00 => data: ReadWrite<u32>),
        (0x04 => _reserved0),
        (0x18 => flags: ReadOnly<u32, FLAGS::Register>),
        (0x1c => _reserved1),
        (0x30 => control: ReadWrite<u32, CONTROL::Register>),
        (0x34 => @END),
    }
}

/// A PL011. Line settings are firmware's.
#[derive(Clone, Copy)]
pub struct Pl011(NonNull<Registers>);

// SAFETY: The registers may be accessed from any CPU; what is written at once interleaves.
unsafe impl Send for Pl011 {}
// SAFETY: As above.
unsafe impl Sync for Pl011 {}

impl Pl011 {
    /// Makes the port, and enables it where firmware has not.
    ///
    /// # Safety
    ///
    /// `console` is a PL011, and its registers can be accessed: mapped as Device memory, or with
    /// the MMU off.
    unsafe fn new(console: &Console) -> Option<Pl011> {
        let registers = NonNull::new(console.base.0 as *mut Registers)?;
        if !registers.is_aligned() || console.length < size_of::<Registers>() as u64 {
            return None;
        }
        let port = Pl011(registers);
        port.registers().control.modify(CONTROL::UART::SET + CONTROL::TRANSMIT::SET);
        Some(port)
    }

    fn registers(&self) -> &Registers {
        // SAFETY: `new` asks for registers of this layout.
        unsafe { self.0.as_ref() }
    }

    fn put(&self, byte: u8) -> bool {
        let ready = wait_until(|| !self.registers().flags.is_set(FLAGS::TRANSMIT_FULL));
        if ready {
            self.registers().data.set(byte.into());
        }
        ready
    }

    fn drain(&self) {
        wait_until(|| !self.registers().flags.is_set(FLAGS::BUSY));
    }
}

/// Device registers at their physical addresses.
#[derive(Clone, Copy)]
pub struct Mmio(());

impl Bus for Mmio {
    fn read(&self, address: PhysAddr, width: Width) -> u32 {
        // SAFETY: `Port::new`, which alone makes this type, asks for registers that can be accessed.
        // `Layout` has seen that they are aligned, and none at address 0.
        unsafe {
            match width {
                Width::One => (address.0 as *const u8).read_volatile().into(),
                Width::Two => (address.0 as *const u16).read_volatile().into(),
                Width::Four => (address.0 as *const u32).read_volatile(),
            }
        }
    }

    fn write(&self, address: PhysAddr, width: Width, value: u32) {
        // SAFETY: As above.
        unsafe {
            match width {
                Width::One => (address.0 as *mut u8).write_volatile(value as u8),
                Width::Two => (address.0 as *mut u16).write_volatile(value as u16),
                Width::Four => (address.0 as *mut u32).write_volatile(value),
            }
        }
    }
}

/// A serial port of one of the kinds that the shim knows.
#[derive(Clone, Copy)]
pub enum Port {
    /// Arm PL011.
    Pl011(Pl011),
    /// 8250, 16550, Synopsys DesignWare.
    Ns16550(Ns16550<Mmio>),
}

impl Port {
    /// Makes the port.
    ///
    /// # Safety
    ///
    /// `console` is a port of its kind, and its registers can be accessed: mapped as Device memory,
    /// or with the MMU off.
    pub unsafe fn new(console: &Console) -> Option<Port> {
        match console.kind {
            // SAFETY: The caller's promise.
            ConsoleKind::Pl011 => unsafe { Pl011::new(console) }.map(Port::Pl011),
            ConsoleKind::Ns16550(layout) => Some(Port::Ns16550(Ns16550::new(layout, Mmio(())))),
        }
    }

    /// Sends a byte. An error where the port never takes it, which ends the line: the boot goes on.
    fn put(&self, byte: u8) -> fmt::Result {
        let sent = match self {
            Port::Pl011(port) => port.put(byte),
            Port::Ns16550(port) => port.put(byte),
        };
        if sent { Ok(()) } else { Err(fmt::Error) }
    }

    /// Waits until all has left the port, which a power-off would cut.
    pub fn drain(&self) {
        match self {
            Port::Pl011(port) => port.drain(),
            Port::Ns16550(port) => port.drain(),
        }
    }
}

impl Write for Port {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.put(b'\r')?;
            }
            self.put(byte)?;
        }
        Ok(())
    }
}

/// The port, once it is known.
static PORT: Once<Port> = Once::new();
/// Held for each line.
static LINE: Mutex<()> = Mutex::new(());

/// Makes `port` the sink of `log`.
pub fn init(port: Port) {
    PORT.call_once(|| port);
    // It fails where there is a logger already, which then is this one.
    let _ = log::set_logger(&Lines);
    log::set_max_level(log::LevelFilter::Info);
}

/// The port, if there is one, for those who cannot wait for a lock.
pub fn port() -> Option<Port> {
    PORT.get().copied()
}

struct Lines;

impl log::Log for Lines {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if let Some(mut port) = port() {
            let _line = LINE.lock();
            let level = match record.level() {
                log::Level::Error => "error: ",
                log::Level::Warn => "warning: ",
                log::Level::Debug | log::Level::Trace => "debug: ",
                log::Level::Info => "",
            };
            let _ = writeln!(port, "tagstash: {level}{}", record.args());
        }
    }

    fn flush(&self) {}
}
