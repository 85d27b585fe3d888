// SPDX-License-Identifier: MIT OR Apache-2.0
//! Just enough of a GICv3 and the virtual timer to have an interrupt arrive during a call.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::cpu::{self, read_register, write_register};
use crate::machine::machine;

/// INTID of the virtual timer.
const TIMER: u64 = 27;

static TAKEN: AtomicU32 = AtomicU32::new(0);

fn write(address: u64, value: u32) {
    // SAFETY: a register of the GIC, mapped as a device.
    unsafe { (address as *mut u32).write_volatile(value) }
}

fn read(address: u64) -> u32 {
    // SAFETY: as above.
    unsafe { (address as *const u32).read_volatile() }
}

/// Lets the virtual timer of the first CPU interrupt it. False without a GICv3.
pub fn start() -> bool {
    let Some((distributor, redistributor)) = machine().gic else { return false };
    const WAKER: u64 = 0x14;
    const ASLEEP: u32 = 1 << 2;
    const SGI_FRAME: u64 = 0x1_0000;
    // Affinity routing first, then group 1.
    write(distributor, 1 << 4);
    write(distributor, 1 << 4 | 1 << 1);
    write(redistributor + WAKER, 0);
    while read(redistributor + WAKER) & ASLEEP != 0 {
        cpu::spin();
    }
    let frame = redistributor + SGI_FRAME;
    write(frame + 0x80, read(frame + 0x80) | 1 << TIMER); // group 1
    write(frame + 0x100, 1 << TIMER); // enabled
    write_register!("icc_sre_el1", 1);
    cpu::isb();
    write_register!("icc_pmr_el1", 0xff);
    write_register!("icc_igrpen1_el1", 1);
    cpu::isb();
    true
}

/// Makes the timer interrupt after so many ticks.
pub fn interrupt_in(ticks: u64) {
    write_register!("cntv_cval_el0", cpu::counter() + ticks);
    write_register!("cntv_ctl_el0", 1);
    cpu::isb();
}

/// Whether the timer asks for its interrupt, masked or not.
pub fn is_due() -> bool {
    const ISTATUS: u64 = 1 << 2;
    read_register!("cntv_ctl_el0") & ISTATUS != 0
}

/// Stops the timer.
pub fn stop() {
    write_register!("cntv_ctl_el0", 0);
    cpu::isb();
}

/// Timer interrupts taken so far.
pub fn taken() -> u32 {
    TAKEN.load(Ordering::SeqCst)
}

/// Whether the interrupt at hand is the timer's; if so it is dealt with.
pub fn timer_taken() -> bool {
    let number = read_register!("icc_iar1_el1");
    if number == TIMER {
        stop();
        write_register!("icc_eoir1_el1", number);
        TAKEN.fetch_add(1, Ordering::SeqCst);
    }
    number == TIMER || number == 1023
}
