// SPDX-License-Identifier: MIT OR Apache-2.0
//! The exception vectors: what is saved on the way in and restored on the way out.
//!
//! ```text
//!   from            SP_EL0     SP_EL2     EL1 AArch64        EL0 AArch32
//!   synchronous     fatal      fatal, or  HVC, SMC: fast     slow
//!                              a copy's   others: slow
//!   IRQ FIQ SError  fatal      fatal      fatal              fatal
//! ```
//!
//! The fast way saves what a Rust function may change (AAPCS64), the slow way everything. Both
//! leave a [`Frame`] on the stack, whose layout is what the assembly below is built from.

use super::exception;
use super::guest::Frame;
use super::percpu::{EMERGENCY_STACK, GUARD, MAX_CPUS, SLOT, SLOTS};
use core::mem::{offset_of, size_of};

/// Which vector an exception came by, for those that end in [`exception::at_el2`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Vector {
    /// Synchronous, with SP_EL0 selected, which EL2 never does.
    SynchronousSp0,
    /// Interrupt at EL2, where all are masked.
    Irq,
    /// See [`Vector::Irq`].
    Fiq,
    /// Error at EL2.
    SError,
    /// Synchronous at EL2.
    Synchronous,
    /// Synchronous at EL2, without a stack that can be used.
    StackOverflow,
    /// IRQ, FIQ or SError from a lower level, which are not routed here.
    LowerAsynchronous,
}

// The loads and stores of pairs below take the registers at the offsets that Frame has.
const _: () = assert!(offset_of!(Frame, x) == 0);
const _: () = assert!(offset_of!(Frame, elr) == 31 * 8);
const _: () = assert!(offset_of!(Frame, spsr) == 32 * 8);
const _: () = assert!(offset_of!(Frame, esr) == 33 * 8);
const _: () = assert!(size_of::<Frame>() == 34 * 8 && size_of::<Frame>().is_multiple_of(16));

// The checks of SP: a compare with all slots' length, and the bits that are zero in a guard page.
const _: () = assert!(MAX_CPUS * SLOT < 1 << 24 && (MAX_CPUS * SLOT).is_multiple_of(1 << 12));
const _: () = assert!(GUARD == 1 << 12);

unsafe extern "C" {
    /// The vectors, aligned as VBAR_EL2 wants them.
    pub safe static exception_vectors: u8;
}

core::arch::global_asm!(
    // x0-x18, x29, x30 in 11 stores; ELR and SPSR too, because an abort in a copy overwrites
    // them. x0 and x1 are still what they were.
    ".macro save_volatile",
    "    sub     sp, sp, #{frame}",
    "    stp     x0, x1, [sp, #0]",
    ".endm",
    ".macro save_volatile_rest",
    "    stp     x2, x3, [sp, #16]",
    "    stp     x4, x5, [sp, #32]",
    "    stp     x6, x7, [sp, #48]",
    "    stp     x8, x9, [sp, #64]",
    "    stp     x10, x11, [sp, #80]",
    "    stp     x12, x13, [sp, #96]",
    "    stp     x14, x15, [sp, #112]",
    "    stp     x16, x17, [sp, #128]",
    "    str     x18, [sp, #144]",
    "    stp     x29, x30, [sp, #232]",
    "    mrs     x29, elr_el2",
    "    mrs     x30, spsr_el2",
    "    stp     x29, x30, [sp, #248]",
    ".endm",
    // The other registers, for those who look at any of them.
    ".macro save_preserved",
    "    stp     x19, x20, [sp, #152]",
    "    stp     x21, x22, [sp, #168]",
    "    stp     x23, x24, [sp, #184]",
    "    stp     x25, x26, [sp, #200]",
    "    stp     x27, x28, [sp, #216]",
    "    mrs     x29, esr_el2",
    "    str     x29, [sp, #264]",
    ".endm",
    // Fatal vectors. The stack may be what is wrong: check it with x0 alone, kept in TPIDR_EL2.
    ".macro at_el2 vector",
    ".balign 128",
    "    sub     sp, sp, #{frame}",
    "    msr     tpidr_el2, x0",
    "    adrp    x0, {slots}",
    "    sub     x0, sp, x0",
    "    cmp     x0, #{all_slots}",
    "    b.hs    1f",
    "    and     x0, x0, #{stack_bits}",
    "    cbz     x0, 1f",
    "    mrs     x0, tpidr_el2",
    "    stp     x0, x1, [sp, #0]",
    "    mov     x1, #\\vector",
    "    add     x0, sp, #{frame}",
    "    b       fatal",
    "1:  b       stack_overflow",
    ".endm",
    ".macro from_lower_asynchronous",
    ".balign 128",
    "    sub     sp, sp, #{frame}",
    "    stp     x0, x1, [sp, #0]",
    "    add     x0, sp, #{frame}",
    "    mov     x1, #{lower_asynchronous}",
    "    b       fatal",
    ".endm",
    ".pushsection .text.vectors, \"ax\"",
    ".balign 2048",
    "exception_vectors:",
    ".global exception_vectors",
    // Current level, SP_EL0.
    "    at_el2  {synchronous_sp0}",
    "    at_el2  {irq}",
    "    at_el2  {fiq}",
    "    at_el2  {serror}",
    // Current level, SP_EL2.
    "    at_el2  {synchronous}",
    "    at_el2  {irq}",
    "    at_el2  {fiq}",
    "    at_el2  {serror}",
    // Lower level, AArch64. 24 instructions to the Rust function, 17 back to the guest.
    ".balign 128",
    "    save_volatile",
    "    save_volatile_rest",
    "    mrs     x1, esr_el2",
    "    lsr     w2, w1, #26",
    "    orr     w2, w2, #1",
    "    cmp     w2, #{smc}",
    "    b.ne    slow",
    "    mov     x0, sp",
    "    mov     x29, xzr",
    "    bl      {call}",
    "    b       return_to_guest",
    "    from_lower_asynchronous",
    "    from_lower_asynchronous",
    "    from_lower_asynchronous",
    // Lower level, AArch32: a program at EL0.
    ".balign 128",
    "    save_volatile",
    "    save_volatile_rest",
    "    b       slow",
    "    from_lower_asynchronous",
    "    from_lower_asynchronous",
    "    from_lower_asynchronous",
    ".balign 128",
    "slow:",
    "    save_preserved",
    "    mov     x0, sp",
    "    mov     x29, xzr",
    "    bl      {from_guest}",
    "return_all:",
    "    ldp     x19, x20, [sp, #152]",
    "    ldp     x21, x22, [sp, #168]",
    "    ldp     x23, x24, [sp, #184]",
    "    ldp     x25, x26, [sp, #200]",
    "    ldp     x27, x28, [sp, #216]",
    "return_to_guest:",
    "    ldp     x0, x1, [sp, #248]",
    "    msr     elr_el2, x0",
    "    msr     spsr_el2, x1",
    "    ldp     x2, x3, [sp, #16]",
    "    ldp     x4, x5, [sp, #32]",
    "    ldp     x6, x7, [sp, #48]",
    "    ldp     x8, x9, [sp, #64]",
    "    ldp     x10, x11, [sp, #80]",
    "    ldp     x12, x13, [sp, #96]",
    "    ldp     x14, x15, [sp, #112]",
    "    ldp     x16, x17, [sp, #128]",
    "    ldr     x18, [sp, #144]",
    "    ldp     x29, x30, [sp, #232]",
    "    ldp     x0, x1, [sp, #0]",
    "    add     sp, sp, #{frame}",
    "    eret",
    // No speculation past the return.
    "    dsb     nsh",
    "    isb",
    // x0: SP at the exception, x1: vector; what they held is saved. The function returns only
    // if the exception was one that a copy expects.
    "fatal:",
    "    save_volatile_rest",
    "    save_preserved",
    "    ldr     x29, [sp, #232]",
    "    mov     x2, sp",
    "    bl      {at_el2}",
    "    b       return_all",
    // SP, already lowered by a frame, points into a guard page or nowhere; x0 is in TPIDR_EL2.
    "stack_overflow:",
    "    adrp    x0, {emergency}",
    "    add     x0, x0, #{emergency_size}",
    "    sub     x0, x0, #{frame}",
    "    str     x1, [x0, #8]",
    "    add     x1, sp, #{frame}",
    "    mov     sp, x0",
    "    mrs     x0, tpidr_el2",
    "    str     x0, [sp]",
    "    mov     x0, x1",
    "    mov     x1, #{overflow}",
    "    b       fatal",
    ".popsection",
    frame = const size_of::<Frame>(),
    slots = sym SLOTS,
    all_slots = const MAX_CPUS * SLOT,
    stack_bits = const SLOT - GUARD,
    emergency = sym EMERGENCY_STACK,
    emergency_size = const core::mem::size_of_val(&EMERGENCY_STACK),
    smc = const exception::class::SMC64,
    call = sym super::calls::call,
    from_guest = sym exception::from_guest,
    at_el2 = sym exception::at_el2,
    synchronous_sp0 = const Vector::SynchronousSp0 as u64,
    irq = const Vector::Irq as u64,
    fiq = const Vector::Fiq as u64,
    serror = const Vector::SError as u64,
    synchronous = const Vector::Synchronous as u64,
    overflow = const Vector::StackOverflow as u64,
    lower_asynchronous = const Vector::LowerAsynchronous as u64,
);
