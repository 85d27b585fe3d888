// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest: its registers while EL2 runs, and EL1's state when it is entered.

use super::registers::{FPMR, GCSCR_EL1, GCSCRE0_EL1, SVCR, TPIDR2_EL0};
use super::{cache, calls, cpu_controls, el1_state, features, percpu, stage2};
use aarch64_cpu::registers::*;
use tagstash::events::Kind;
use tagstash::hypercall::abi::Reply;

/// What the vectors save of an interrupted program, on the stack of its CPU. `vectors` holds
/// the assembly to this layout.
#[repr(C, align(16))]
pub struct Frame {
    /// x0 to x30. x19 to x28 are there on the slow way only.
    pub x: [u64; 31],
    /// Where the program goes on.
    pub elr: u64,
    /// Its PSTATE.
    pub spsr: u64,
    /// Why it was interrupted; on the slow way only.
    pub esr: u64,
}

impl Frame {
    /// The exception class in the syndrome.
    pub fn class(&self) -> u64 {
        self.esr >> 26 & 0x3f
    }

    /// Says whether the program was at EL1.
    pub fn is_el1(&self) -> bool {
        // M[4:0] is EL1t or EL1h.
        self.spsr & (MODE & !1) == EL1T
    }

    /// Puts the results of a call where the guest finds them.
    #[inline(always)]
    pub fn answer(&mut self, reply: Reply) {
        let Reply([x0, x1, x2, x3]) = reply;
        [self.x[0], self.x[1], self.x[2], self.x[3]] = [x0, x1, x2, x3];
    }

    /// Goes on after the instruction that was trapped, as executing it would.
    #[inline(always)]
    pub fn step_over(&mut self) {
        self.elr = self.elr.wrapping_add(4);
        self.spsr &= !STEPPED_OVER;
    }
}

/// SPSR bits of the exception level and stack pointer.
const MODE: u64 = 0x1f;
/// EL1 with SP_EL0; with SP_EL1 it is one more.
const EL1T: u64 = 0b0_0100;

/// SPSR bits that an instruction clears: its software step is done (SS), it is no landing pad
/// of a branch (BTYPE).
const STEPPED_OVER: u64 = 1 << 21 | 0b11 << 10;

/// SCTLR_EL1 as after a reset: RES1 bits, MMU and caches off, little endian.
const SCTLR_RESET: u64 = 0x30d0_0800;

/// EL1h, debug exceptions, SErrors, IRQs and FIQs masked.
const PSTATE: u64 = 0x3c5;

/// Gives EL1's own registers a known state, as Linux's booting.rst asks of what is above it.
fn reset_el1() {
    SCTLR_EL1.set(SCTLR_RESET);
    CPACR_EL1.set(0);
    TCR_EL1.set(0);
    TTBR0_EL1.set(0);
    TTBR1_EL1.set_baddr(0);
    MAIR_EL1.set(0);
    AMAIR_EL1.set(0);
    VBAR_EL1.set(0);
    CONTEXTIDR_EL1.set(0);
    ELR_EL1.set(0);
    SPSR_EL1.set(0);
    ESR_EL1.set(0);
    FAR_EL1.set(0);
    PAR_EL1.set(0);
    AFSR0_EL1.set(0);
    AFSR1_EL1.set(0);
    SP_EL0.set(0);
    SP_EL1.set(0);
    TPIDR_EL0.set(0);
    TPIDRRO_EL0.set(0);
    TPIDR_EL1.set(0);
    MDSCR_EL1.set(0);
    CNTKCTL_EL1.set(0);
    CNTP_CTL_EL0.set(0);
    CNTV_CTL_EL0.set(0);
    if features::tcr2() {
        TCR2_EL1.set(0);
    }
    if features::gcs() {
        GCSCR_EL1.set(0);
        GCSCRE0_EL1.set(0);
    }
    el1_state::reset();
}

// The target of the shim is compiled without them, so what is in these registers is the boot
// loader's or the firmware's. Writing a SIMD register clears the SVE register above it.
core::arch::global_asm!(
    ".pushsection .text.scrub, \"ax\"",
    ".arch_extension fp",
    ".arch_extension simd",
    ".global scrub_simd, scrub_sve",
    "scrub_simd:",
    "    .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    "    movi    v\\n\\().2d, #0",
    "    .endr",
    "    .irp    n, 16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
    "    movi    v\\n\\().2d, #0",
    "    .endr",
    "    msr     fpcr, xzr",
    "    msr     fpsr, xzr",
    "    ret",
    ".arch_extension sve",
    "scrub_sve:",
    "    .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    "    pfalse  p\\n\\().b",
    "    .endr",
    "    wrffr   p0.b",
    "    ret",
    ".popsection",
);

unsafe extern "C" {
    fn scrub_simd();
    fn scrub_sve();
}

/// Clears the registers of SIMD, floating point, SVE and SME. The controls are set: EL2 may use
/// them.
fn scrub() {
    if features::sme() {
        // First: in streaming mode the rest would be undefined.
        SVCR.set(0);
        TPIDR2_EL0.set(0);
    }
    // Firmware at EL3 need not open it (SCR_EL3.EnFPM).
    if features::fpmr() && !features::el3() {
        FPMR.set(0);
    }
    if !features::no_fp() {
        // SAFETY: Changes registers that the shim does not use, and that the CPU has.
        unsafe { scrub_simd() };
    }
    if features::sve() {
        // SAFETY: As above.
        unsafe { scrub_sve() };
    }
}

/// Enters the guest at `entry`, on this CPU, with `argument` in x0 and zero in x1 to x30.
/// The stack is given up: the next exception begins at its top. `event` is what is noted.
pub fn enter(event: Kind, entry: u64, argument: u64) -> ! {
    let here = 0u8;
    let cpu = percpu::number_of(&here);
    let stack_top = percpu::stack_top(cpu).0;
    calls::join();
    calls::note(cpu, event, entry);
    cpu_controls::apply();
    stage2::activate();
    reset_el1();
    scrub();
    ELR_EL2.set(entry);
    SPSR_EL2.set(PSTATE);
    // What TLBs and instruction caches hold is of whoever ran here before.
    cache::tlbi_alle1();
    cache::ic_ialluis();
    cache::dsb_ish();
    cache::isb();
    // SAFETY: EL2 and EL1 are set up. Nothing on the stack is used any more: this never returns,
    // and later exceptions bring what they need.
    unsafe {
        core::arch::asm!(
            "mov sp, x1",
            "mov x1, xzr",
            "mov x2, xzr",
            "mov x3, xzr",
            "mov x4, xzr",
            "mov x5, xzr",
            "mov x6, xzr",
            "mov x7, xzr",
            "mov x8, xzr",
            "mov x9, xzr",
            "mov x10, xzr",
            "mov x11, xzr",
            "mov x12, xzr",
            "mov x13, xzr",
            "mov x14, xzr",
            "mov x15, xzr",
            "mov x16, xzr",
            "mov x17, xzr",
            "mov x18, xzr",
            "mov x19, xzr",
            "mov x20, xzr",
            "mov x21, xzr",
            "mov x22, xzr",
            "mov x23, xzr",
            "mov x24, xzr",
            "mov x25, xzr",
            "mov x26, xzr",
            "mov x27, xzr",
            "mov x28, xzr",
            "mov x29, xzr",
            "mov x30, xzr",
            "eret",
            "dsb nsh",
            "isb",
            in("x0") argument,
            in("x1") stack_top,
            options(noreturn)
        )
    }
}
