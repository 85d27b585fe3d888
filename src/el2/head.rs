// SPDX-License-Identifier: MIT OR Apache-2.0
//! The arm64 Image header and the way of each CPU from its first instruction into Rust.
//!
//! The CPU that boots relocates the image, clears bss, maps the image page by page, turns the
//! MMU on and goes on in Rust. What it wrote with its MMU off went past the caches, so those
//! lines are invalidated before caches go on. Further CPUs find all that done. They read nothing
//! before their own MMU is on, and walk the tables through the caches, so that nothing of it has
//! to be cleaned for them.
//!
//! Nothing is assumed about the load address but that it is page aligned.

use super::psci::{self, StartSlot};
use super::vectors::exception_vectors;
use super::{mmu, percpu, refusal};
use core::mem::offset_of;

/// R_AARCH64_RELATIVE: the word at the offset becomes the load address plus the addend.
const RELATIVE: u64 = 0x403;

/// Flags of the Image header: little endian, 4 KiB pages, placed anywhere in memory.
const FLAGS: u64 = 0xa;

/// HCR_EL2 while EL2 prepares itself: EL1 is AArch64, EL2 is no host (E2H, TGE 0).
const HCR: u64 = 1 << 31;
/// HCR_EL2.E2H, which some CPUs cannot clear (FEAT_E2H0 absent).
const E2H_BIT: u64 = 34;

/// Bits of a page descriptor besides its attributes.
const PAGE: u64 = 0b11;

/// The bits of a descriptor that are its lowest 16, and its highest 16; there are no others.
const fn low(attributes: u64) -> u64 {
    assert!(attributes & 0x0000_ffff_ffff_0000 == 0);
    attributes & 0xffff
}

const fn high(attributes: u64) -> u64 {
    attributes >> 48
}

core::arch::global_asm!(
    ".pushsection .head, \"ax\"",
    ".global image_head",
    "image_head:",
    "    b       entry",
    "    .long   0",
    "    .quad   0",             // text_offset
    "    .quad   __image_size",  // bss, stacks and heap included
    "    .quad   {flags}",
    "    .quad   0, 0, 0",
    "    .ascii  \"ARM\\x64\"",
    "    .long   0",
    // x19: device tree, x20: load address, x21: why to refuse, or 0.
    "entry:",
    "    msr     daifset, #0xf",
    "    mov     x19, x0",
    "    adrp    x20, image_head",
    "    mov     x21, #0",
    "    mrs     x0, CurrentEL",
    "    ubfx    x0, x0, #2, #2",
    "    cmp     x0, #2",
    "    b.eq    1f",
    "    mov     x21, x0",
    "    b       2f",
    "1:  bl      el2_known_state",
    "    cbz     x0, 0f",
    "    mov     x21, #{stuck}",
    "    b       2f",
    // A device tree where bss, stacks or heap will be would be lost: its loader went by the
    // length of the file.
    "0:  adrp    x0, __image_end",
    "    cmp     x19, x20",
    "    b.lo    2f",
    "    cmp     x19, x0",
    "    b.hs    2f",
    "    mov     x21, #{tree_inside}",
    // Relocation. Another type than the one that a static image has: stop.
    "2:  adrp    x0, __rela_start",
    "    add     x0, x0, #:lo12:__rela_start",
    "    adrp    x1, __rela_end",
    "    add     x1, x1, #:lo12:__rela_end",
    "3:  cmp     x0, x1",
    "    b.hs    4f",
    "    ldp     x2, x3, [x0], #16",
    "    ldr     x4, [x0], #8",
    "    cmp     x3, #{relative}",
    "    b.ne    park",
    "    add     x4, x4, x20",
    "    str     x4, [x20, x2]",
    "    b       3b",
    "4:  cbnz    x21, refuse",
    // bss.
    "    adrp    x0, __bss_start",
    "    adrp    x1, __bss_end",
    "5:  cmp     x0, x1",
    "    b.hs    6f",
    "    stp     xzr, xzr, [x0], #16",
    "    b       5b",
    "6:",
    // The map of the image. x10: root, x11: first table that is not used yet, x12: end.
    "    adrp    x10, {tables}",
    "    add     x11, x10, #4096",
    "    add     x12, x10, #{tables_size}",
    "    mov     x0, x20",
    "    adrp    x1, __text_end",
    "    movz    x2, #{code_low}",
    "    movk    x2, #{code_high}, lsl #48",
    "    bl      map_pages",
    "    adrp    x1, __rodata_end",
    "    movz    x2, #{constants_low}",
    "    movk    x2, #{constants_high}, lsl #48",
    "    bl      map_pages",
    "    adrp    x1, __image_end",
    "    movz    x2, #{data_low}",
    "    movk    x2, #{data_high}, lsl #48",
    "    bl      map_pages",
    // Caches may hold older copies of the lines that were just written past them.
    "    mrs     x3, ctr_el0",
    "    ubfx    x3, x3, #16, #4",
    "    mov     x2, #4",
    "    lsl     x2, x2, x3",
    "    sub     x3, x2, #1",
    "    adrp    x0, __relro_start",
    "    add     x0, x0, #:lo12:__relro_start",
    "    bic     x0, x0, x3",
    "    adrp    x1, __bss_end",
    "    dsb     sy",
    "7:  dc      ivac, x0",
    "    add     x0, x0, x2",
    "    cmp     x0, x1",
    "    b.lo    7b",
    "    dsb     sy",
    "    bl      mmu_on",
    "    adrp    x0, {slots}",
    "    add     sp, x0, #{slot}",
    "    mov     x0, x19",
    "    mov     x1, x11",
    "    mov     x29, xzr",
    "    mov     x30, xzr",
    "    b       {boot}",
    // Not at EL2, or not an EL2 that the shim can use, or a tree that would be lost. The MMU
    // stays as it is, off, and bss as it was: what runs now uses none of it but a stack.
    "refuse:",
    "    adrp    x0, {slots}",
    "    add     sp, x0, #{slot}",
    "    mov     x0, x19",
    "    mov     x1, x21",
    "    mov     x29, xzr",
    "    mov     x30, xzr",
    "    b       {refuse}",
    // A CPU that CPU_ON started. x0: its StartSlot.
    ".global secondary_entry",
    "secondary_entry:",
    "    msr     daifset, #0xf",
    "    mov     x19, x0",
    "    mrs     x0, CurrentEL",
    "    ubfx    x0, x0, #2, #2",
    "    cmp     x0, #2",
    "    b.ne    park",
    "    bl      el2_known_state",
    "    cbnz    x0, park",
    "    bl      mmu_on",
    "    ldr     x0, [x19, #{stack_top}]",
    "    mov     sp, x0",
    "    mov     x0, x19",
    "    mov     x29, xzr",
    "    mov     x30, xzr",
    "    b       {started}",
    ".global park",
    "park:",
    "    wfe",
    "    b       park",
    // EL2 as no host, MMU and caches off. x0 out: 0, or 1 where E2H cannot be cleared.
    "el2_known_state:",
    "    movz    x0, #{hcr}, lsl #16",
    "    msr     hcr_el2, x0",
    "    isb",
    "    mrs     x0, hcr_el2",
    "    ubfx    x0, x0, #{e2h}, #1",
    "    movz    x1, #{sctlr_off_low}",
    "    movk    x1, #{sctlr_off_high}, lsl #16",
    "    msr     sctlr_el2, x1",
    "    isb",
    "    ret",
    // Maps pages from x0 to x1 to themselves, x2: bits of their descriptors. x0 out: x1. Walks
    // the four levels for each page and makes the tables that are missing. Uses x3 to x6.
    "map_pages:",
    "1:  cmp     x0, x1",
    "    b.hs    5f",
    "    mov     x3, x10",
    "    mov     x4, #39",
    "2:  lsr     x5, x0, x4",
    "    and     x5, x5, #0x1ff",
    "    cmp     x4, #12",
    "    b.eq    4f",
    "    ldr     x6, [x3, x5, lsl #3]",
    "    cbnz    x6, 3f",
    "    cmp     x11, x12",
    "    b.hs    park",
    "    orr     x6, x11, #{page}",
    "    str     x6, [x3, x5, lsl #3]",
    "    add     x11, x11, #4096",
    "3:  and     x3, x6, #0x0000fffffffff000",
    "    sub     x4, x4, #9",
    "    b       2b",
    "4:  orr     x6, x0, x2",
    "    str     x6, [x3, x5, lsl #3]",
    "    add     x0, x0, #4096",
    "    b       1b",
    "5:  ret",
    // MMU and caches on, with this CPU's physical address size, at most 48 bits. Uses x0, x1.
    "mmu_on:",
    "    mrs     x0, id_aa64mmfr0_el1",
    "    and     x0, x0, #0xf",
    "    cmp     x0, #5",
    "    mov     x1, #5",
    "    csel    x0, x0, x1, lo",
    "    movz    x1, #{tcr_low}",
    "    movk    x1, #{tcr_high}, lsl #16",
    "    bfi     x1, x0, #16, #3",
    "    msr     tcr_el2, x1",
    "    movz    x0, #{mair}",
    "    msr     mair_el2, x0",
    "    adrp    x0, {tables}",
    "    msr     ttbr0_el2, x0",
    "    adrp    x0, {vectors}",
    "    add     x0, x0, #:lo12:{vectors}",
    "    msr     vbar_el2, x0",
    // TCR2_EL2 and SCTLR2_EL2 (FEAT_TCR2, FEAT_SCTLR2) may hold anything after a reset. An EL3
    // need not open the second to us (SCR_EL3.SCTLR2En): closed it counts as 0.
    "    mrs     x0, S3_0_C0_C7_3",
    "    tst     x0, #0xf",
    "    b.eq    1f",
    "    msr     S3_4_C2_C0_3, xzr",
    "1:  tst     x0, #0xf0",
    "    b.eq    2f",
    "    mrs     x0, id_aa64pfr0_el1",
    "    tst     x0, #0xf000",
    "    b.ne    2f",
    "    msr     S3_4_C1_C0_3, xzr",
    "2:  isb",
    "    tlbi    alle2",
    "    ic      iallu",
    "    dsb     nsh",
    "    isb",
    "    movz    x0, #{sctlr_on_low}",
    "    movk    x0, #{sctlr_on_high}, lsl #16",
    "    msr     sctlr_el2, x0",
    "    isb",
    "    ret",
    ".popsection",
    flags = const FLAGS,
    stuck = const refusal::E2H_STUCK,
    tree_inside = const refusal::TREE_INSIDE,
    relative = const RELATIVE,
    tables = sym mmu::EARLY_TABLES,
    tables_size = const size_of_val(&mmu::EARLY_TABLES),
    code_low = const low(mmu::CODE | PAGE),
    code_high = const high(mmu::CODE),
    constants_low = const low(mmu::CONSTANTS | PAGE),
    constants_high = const high(mmu::CONSTANTS),
    data_low = const low(mmu::DATA | PAGE),
    data_high = const high(mmu::DATA),
    page = const PAGE,
    slots = sym percpu::SLOTS,
    slot = const percpu::SLOT,
    boot = sym crate::boot,
    refuse = sym refusal::refuse,
    stack_top = const offset_of!(StartSlot, stack_top),
    started = sym psci::started,
    hcr = const HCR >> 16,
    e2h = const E2H_BIT,
    sctlr_off_low = const mmu::SCTLR_OFF & 0xffff,
    sctlr_off_high = const mmu::SCTLR_OFF >> 16,
    sctlr_on_low = const mmu::SCTLR_ON & 0xffff,
    sctlr_on_high = const mmu::SCTLR_ON >> 16,
    tcr_low = const mmu::TCR & 0xffff,
    tcr_high = const mmu::TCR >> 16,
    mair = const mmu::MAIR,
    vectors = sym exception_vectors,
);

const _: () = assert!(mmu::SCTLR_ON >> 32 == 0 && mmu::TCR >> 32 == 0 && mmu::MAIR >> 16 == 0);
const _: () = assert!(HCR == (HCR >> 16) << 16 && HCR >> 32 == 0);

/// Address of code that a CPU never leaves, at whatever level and with its MMU off.
pub fn park() -> u64 {
    unsafe extern "C" {
        safe static park: u8;
    }
    &raw const park as u64
}

/// Address at which firmware starts further CPUs.
pub fn secondary_entry() -> u64 {
    unsafe extern "C" {
        safe static secondary_entry: u8;
    }
    &raw const secondary_entry as u64
}
