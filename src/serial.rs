// SPDX-License-Identifier: MIT OR Apache-2.0
//! The transmitter of an 8250 serial port and its successors (16550, Synopsys DesignWare), on
//! whatever accesses registers. Line settings and interrupts are firmware's and stay as they are.
//!
//! The registers are those of the National Semiconductor PC16550D data sheet. How they lie in the
//! address space differs from one SoC to the next, and the device tree says how (Linux's serial
//! 8250 binding): see [`Layout`].

use crate::addr::PhysAddr;

/// Transmitter holding register, on write, with DLAB = 0.
const THR: u64 = 0;
/// Line status register.
const LSR: u64 = 5;
/// LSR: the holding register, or the FIFO, is empty.
const LSR_THRE: u32 = 1 << 5;
/// LSR: the shift register is empty, too.
const LSR_TEMT: u32 = 1 << 6;

/// Polls after which a port that does not become ready is given up for the time being. A byte takes
/// 100 us at 115,200 baud, a FIFO of 256 of them 25 ms, and a poll of a device rarely less than
/// 100 ns.
const PATIENCE: u32 = if cfg!(miri) { 1 << 6 } else { 1 << 20 };

/// Says whether `ready` holds before patience ends. Firmware may have left a port's clock off, and
/// the boot goes on without it.
pub fn wait_until(ready: impl Fn() -> bool) -> bool {
    (0..PATIENCE).any(|_| {
        core::hint::spin_loop();
        ready()
    })
}

/// Bytes of an access: `reg-io-width`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 8 bits.
    One = 1,
    /// 16 bits.
    Two = 2,
    /// 32 bits.
    Four = 4,
}

/// How the registers of a port lie in its `reg`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Address of the first register.
    base: PhysAddr,
    /// log2 of the distance from one register to the next.
    shift: u32,
    width: Width,
}

impl Layout {
    /// The layout that a node's properties describe: `reg` is `length` bytes at `base`, and
    /// `reg-offset`, `reg-shift` and `reg-io-width` (0, 0 and 1 where they are missing) are
    /// `offset`, `shift` and `width`. `None` where no port can be like that: an access would be
    /// unaligned, of a size that there is none of, wider than a register, outside of `reg`, or at
    /// address 0, where no board has a port, and which no pointer may have.
    pub fn new(base: PhysAddr, length: u64, offset: u32, shift: u32, width: u32) -> Option<Layout> {
        let width = match width {
            1 => Width::One,
            2 => Width::Two,
            4 => Width::Four,
            _ => return None,
        };
        let distance = 1u64.checked_shl(shift)?;
        let first = base.checked_add(offset.into())?;
        // The last register that is used.
        let end = LSR.checked_mul(distance)?.checked_add(width as u64)?;
        let fits = end.checked_add(offset.into())? <= length && base.checked_add(length).is_some();
        let aligned = first.is_aligned(width as u64) && distance >= width as u64;
        let somewhere = first != PhysAddr(0);
        (fits && aligned && somewhere).then_some(Layout { base: first, shift, width })
    }

    fn address(&self, register: u64) -> PhysAddr {
        // `new` has seen that the last register is in the address space.
        PhysAddr(self.base.0 + (register << self.shift))
    }
}

/// Accesses to registers.
pub trait Bus {
    /// Reads a register.
    fn read(&self, address: PhysAddr, width: Width) -> u32;
    /// Writes a register.
    fn write(&self, address: PhysAddr, width: Width, value: u32);
}

/// An 8250 or a successor of it.
#[derive(Clone, Copy, Debug)]
pub struct Ns16550<B> {
    layout: Layout,
    bus: B,
}

impl<B: Bus> Ns16550<B> {
    /// Makes the port. Nothing is written to it.
    pub fn new(layout: Layout, bus: B) -> Ns16550<B> {
        Ns16550 { layout, bus }
    }

    /// Sends a byte. `false` where the port does not become ready, such as one whose clock is
    /// off: the byte is lost, and who has more of them should not try each.
    pub fn put(&self, byte: u8) -> bool {
        let ready = self.wait_for(LSR_THRE);
        if ready {
            self.bus.write(self.layout.address(THR), self.layout.width, byte.into());
        }
        ready
    }

    /// Waits until all has left the port, but not for ever.
    pub fn drain(&self) {
        self.wait_for(LSR_THRE | LSR_TEMT);
    }

    /// Says whether all of `bits` came up in the line status register.
    fn wait_for(&self, bits: u32) -> bool {
        let (status, width) = (self.layout.address(LSR), self.layout.width);
        wait_until(|| self.bus.read(status, width) & bits == bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::RefCell;
    use std::vec::Vec;

    const BASE: u64 = 0x2830_0000;

    /// A port as a SoC might have it: looks at address and width of each access, is busy for some
    /// polls after each byte, and keeps what is sent.
    struct Simulated {
        base: u64,
        shift: u32,
        width: Width,
        busy_for: u32,
        state: RefCell<State>,
    }

    #[derive(Default)]
    struct State {
        sent: Vec<u8>,
        /// Polls until the holding register is empty, and until the shift register is as well.
        holding: u32,
        shifting: u32,
        polls: u32,
    }

    impl Simulated {
        fn new(base: u64, shift: u32, width: Width, busy_for: u32) -> Simulated {
            Simulated { base, shift, width, busy_for, state: RefCell::default() }
        }

        fn register(&self, address: PhysAddr, width: Width) -> u64 {
            assert_eq!(width, self.width);
            let offset = address.0 - self.base;
            assert_eq!(offset % (1 << self.shift), 0, "{offset:#x} is between two registers");
            offset >> self.shift
        }
    }

    impl Bus for &Simulated {
        fn read(&self, address: PhysAddr, width: Width) -> u32 {
            assert_eq!(self.register(address, width), 5, "only the line status is read");
            let mut state = self.state.borrow_mut();
            state.polls += 1;
            let status = match (state.holding, state.shifting) {
                (0, 0) => 0x60,
                (0, _) => 0x20,
                _ => 0,
            };
            state.holding = state.holding.saturating_sub(1);
            state.shifting = state.shifting.saturating_sub(1);
            // Received data, a break, an error in the FIFO: none of our business.
            status | 0x91
        }

        fn write(&self, address: PhysAddr, width: Width, value: u32) {
            assert_eq!(self.register(address, width), 0, "only the holding register is written");
            let mut state = self.state.borrow_mut();
            assert_eq!(state.holding, 0, "a byte is overwritten");
            state.sent.push(u8::try_from(value).unwrap());
            state.holding = self.busy_for;
            state.shifting = self.busy_for.saturating_mul(3);
        }
    }

    #[test]
    fn bytes_go_out_one_after_the_other_however_the_registers_lie() {
        let layouts = [
            (0, 0, 1),
            (0, 2, 4),
            (0, 2, 1),
            (0, 1, 2),
            (0x100, 2, 4),
            (3, 0, 1),
            (0x40, 3, 4),
            (0, 7, 2),
        ];
        for (offset, shift, width) in layouts {
            let layout = Layout::new(PhysAddr(BASE), 0x1000, offset, shift, width).unwrap();
            let first = BASE + u64::from(offset);
            let simulated = Simulated::new(first, shift, layout.width, 7);
            let port = Ns16550::new(layout, &simulated);
            for byte in b"tagstash\r\n\xff" {
                assert!(port.put(*byte));
            }
            port.drain();
            let state = simulated.state.borrow();
            assert_eq!(state.sent, b"tagstash\r\n\xff");
            assert_eq!((state.holding, state.shifting), (0, 0), "drained");
        }
    }

    #[test]
    fn a_port_that_never_becomes_ready_stops_nobody() {
        let layout = Layout::new(PhysAddr(BASE), 0x100, 0, 2, 4).unwrap();
        let simulated = Simulated::new(BASE, 2, Width::Four, u32::MAX);
        let port = Ns16550::new(layout, &simulated);
        assert!(port.put(b'a'));
        assert!(!port.put(b'b'));
        port.drain();
        assert_eq!(simulated.state.borrow().sent, b"a");
        assert_eq!(simulated.state.borrow().polls, 1 + 2 * PATIENCE);
    }

    #[test]
    fn a_layout_that_no_port_can_have_is_refused() {
        let layout = |offset, shift, width| Layout::new(PhysAddr(BASE), 0x20, offset, shift, width);
        assert!(
            layout(0, 2, 4).is_some() && layout(0, 0, 1).is_some() && layout(0x1a, 0, 1).is_some()
        );
        // Widths that there are none of, and that are wider than a register.
        for width in [0, 3, 5, 8, 16, u32::MAX] {
            assert_eq!(layout(0, 2, width), None, "{width}");
        }
        assert_eq!(layout(0, 0, 4), None);
        assert_eq!(layout(0, 1, 4), None);
        // Unaligned, and outside of `reg`.
        assert_eq!(layout(2, 2, 4), None);
        assert_eq!(layout(0x1b, 0, 1), None);
        assert_eq!(layout(0x0c, 2, 4), None);
        assert_eq!(layout(u32::MAX, 0, 1), None);
        for shift in [3, 40, 61, 62, 63, 64, 128, u32::MAX] {
            assert_eq!(layout(0, shift, 1), None, "{shift}");
        }
        // At the end of the address space.
        let high = PhysAddr(u64::MAX - 0x1f);
        assert_eq!(Layout::new(high, 0x100, 0, 2, 4), None);
        assert_eq!(Layout::new(high, u64::MAX, 0x20, 0, 1), None);
        assert_eq!(Layout::new(PhysAddr(0), u64::MAX, 0, 62, 1), None);
        let widest = Layout::new(PhysAddr(4), u64::MAX - 4, 0, 61, 4).unwrap();
        assert_eq!(widest.address(LSR), PhysAddr(4 + (5 << 61)));
        // A port at address 0, which would be RAM.
        assert_eq!(Layout::new(PhysAddr(0), 0x100, 0, 2, 4), None);
    }
}
