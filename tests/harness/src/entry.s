// SPDX-License-Identifier: MIT OR Apache-2.0
// The first instructions of every CPU, the exception vectors and the calls that need all
// registers at once. Everything else is Rust.

// ---- arm64 Image header ---------------------------------------------------------------------

    .section .head, "ax"
    .global image_head
image_head:
    b       primary_entry
    .long   0
    .quad   0                               // text_offset
    .quad   __image_end - image_head        // image_size, bss and stacks included
    .quad   0xa                             // little endian, 4 KiB pages, anywhere
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0

// ---- what a CPU starts with ---------------------------------------------------------------------

// Stores all registers as they were at entry, before any of them is used, for tests to look at.
// CNTV_CVAL_EL0 keeps x30 while that is the pointer. The layout is that of entry.rs.
    .arch_extension fp
    .arch_extension simd
    .macro  store_entry_state
    stp     x0, x1, [x30]
    stp     x2, x3, [x30, #16]
    stp     x4, x5, [x30, #32]
    stp     x6, x7, [x30, #48]
    stp     x8, x9, [x30, #64]
    stp     x10, x11, [x30, #80]
    stp     x12, x13, [x30, #96]
    stp     x14, x15, [x30, #112]
    stp     x16, x17, [x30, #128]
    stp     x18, x19, [x30, #144]
    stp     x20, x21, [x30, #160]
    stp     x22, x23, [x30, #176]
    stp     x24, x25, [x30, #192]
    stp     x26, x27, [x30, #208]
    stp     x28, x29, [x30, #224]
    mrs     x1, cntv_cval_el0
    mov     x2, sp
    stp     x1, x2, [x30, #240]
    add     x3, x30, #256
    .irp    name, sp_el0, tpidr_el0, tpidrro_el0, tpidr_el1, elr_el1, spsr_el1, esr_el1, far_el1, par_el1, vbar_el1, contextidr_el1, afsr0_el1, afsr1_el1, mair_el1, amair_el1, tcr_el1, ttbr0_el1, ttbr1_el1, cpacr_el1, sctlr_el1
    mrs     x1, \name
    str     x1, [x3], #8
    .endr
    mrs     x2, cpacr_el1
    mov     x1, #(3 << 20)
    msr     cpacr_el1, x1
    isb
    mrs     x1, fpcr
    str     x1, [x3], #8
    mrs     x1, fpsr
    str     x1, [x3], #8
    add     x3, x30, #448
    .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    str     q\n, [x3], #16
    .endr
    msr     cpacr_el1, x2
    isb
    .endm

// ---- first CPU: x0 = device tree, MMU and caches off ----------------------------------------

    .section .text.entry, "ax"
primary_entry:
    msr     cntv_cval_el0, x30
    mrs     x30, CurrentEL
    cmp     x30, #(1 << 2)
    b.ne    hang
    adrp    x30, {entry_states}             // in .data, which is not cleared below
    add     x30, x30, :lo12:{entry_states}
    store_entry_state
    mov     x19, x0
    adrp    x20, image_head                 // linked at 0: the load address is the offset
    add     x20, x20, :lo12:image_head

    adrp    x1, __rela_start
    add     x1, x1, :lo12:__rela_start
    adrp    x2, __rela_end
    add     x2, x2, :lo12:__rela_end
1:  cmp     x1, x2
    b.hs    2f
    ldp     x3, x4, [x1], #16
    ldr     x5, [x1], #8
    cmp     x4, #1027                       // R_AARCH64_RELATIVE, the only kind
    b.ne    hang
    add     x5, x5, x20
    str     x5, [x20, x3]
    b       1b

2:  adrp    x1, __bss_start
    add     x1, x1, :lo12:__bss_start
    adrp    x2, __bss_end
    add     x2, x2, :lo12:__bss_end
3:  cmp     x1, x2
    b.hs    4f
    stp     xzr, xzr, [x1], #16
    b       3b

    // The first table: one gigabyte for the image and one for the device tree. The rest is
    // added by mmu.rs when the device tree has been read.
4:  adrp    x0, {table}
    add     x0, x0, :lo12:{table}
    mov     x3, #0x701                      // block, AttrIndx 0, inner shareable, AF
    lsr     x1, x20, #30
    lsl     x2, x1, #30
    orr     x2, x2, x3
    str     x2, [x0, x1, lsl #3]
    lsr     x1, x19, #30
    lsl     x2, x1, #30
    orr     x2, x2, x3
    str     x2, [x0, x1, lsl #3]

    // What was written with the MMU off must not be hidden by older cache lines.
    dsb     sy
    adrp    x1, __rodata_end
    add     x1, x1, :lo12:__rodata_end
    adrp    x2, __image_end
    add     x2, x2, :lo12:__image_end
    mrs     x3, ctr_el0
    ubfx    x3, x3, #16, #4
    mov     x4, #4
    lsl     x3, x4, x3
5:  dc      ivac, x1
    add     x1, x1, x3
    cmp     x1, x2
    b.lo    5b
    dsb     sy

    adrp    x1, {stacks}
    add     x1, x1, :lo12:{stacks}
    mov     x2, #{stack_size}
    add     sp, x1, x2
    bl      mmu_on
    mov     x29, xzr
    mov     x0, x19
    bl      {primary_main}
    b       hang

// ---- other CPUs: x0 = their number, from CPU_ON ---------------------------------------------

    .global secondary_entry
secondary_entry:
    msr     cntv_cval_el0, x30
    mrs     x30, CurrentEL
    cmp     x30, #(1 << 2)
    b.ne    hang
    adrp    x30, {entry_states}
    add     x30, x30, :lo12:{entry_states}
    add     x30, x30, x0, lsl #10           // {entry_state_size} bytes each
    store_entry_state
    // Nobody may find older copies of what was written past the caches.
    mrs     x3, ctr_el0
    ubfx    x3, x3, #16, #4
    mov     x1, #4
    lsl     x3, x1, x3
    add     x1, x30, #{entry_state_size}
    dsb     sy
1:  dc      ivac, x30
    add     x30, x30, x3
    cmp     x30, x1
    b.lo    1b
    dsb     sy
    mov     x19, x0
    adrp    x1, {stacks}
    add     x1, x1, :lo12:{stacks}
    mov     x2, #{stack_size}
    madd    x1, x2, x19, x1
    add     sp, x1, x2
    bl      mmu_on
    mov     x29, xzr
    mov     x0, x19
    bl      {secondary_main}
hang:
    wfe
    b       hang

// Vectors, identity map, MMU and caches on. 39-bit addresses, 4 KiB granule, tags in the top
// byte ignored. AttrIndx 0 is Normal Tagged write-back, 1 Device-nGnRE, 2 Normal write-back.
mmu_on:
    adrp    x9, vectors
    add     x9, x9, :lo12:vectors
    msr     vbar_el1, x9
    ldr     x9, =0x0000000000ff04f0
    msr     mair_el1, x9
    ldr     x9, =0x0000002200803519
    msr     tcr_el1, x9
    adrp    x9, {table}
    add     x9, x9, :lo12:{table}
    msr     ttbr0_el1, x9
    isb
    tlbi    vmalle1
    dsb     nsh
    isb
    ldr     x9, =0x0000000030d0180d
    msr     sctlr_el1, x9
    isb
    ic      iallu
    dsb     nsh
    isb
    ret

// ---- exceptions -----------------------------------------------------------------------------

    .macro  vector kind
    .balign 0x80
    sub     sp, sp, #272
    stp     x0, x1, [sp]
    mov     x0, #\kind
    b       take_exception
    .endm

    .balign 0x800
vectors:
    .irp    kind, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    vector  \kind
    .endr

take_exception:
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    mrs     x2, elr_el1
    stp     x30, x2, [sp, #240]
    mrs     x3, spsr_el1
    str     x3, [sp, #256]
    mov     x1, sp
    bl      {exception_taken}
    ldp     x30, x2, [sp, #240]
    ldr     x3, [sp, #256]
    msr     elr_el1, x2
    msr     spsr_el1, x3
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldp     x18, x19, [sp, #144]
    ldp     x20, x21, [sp, #160]
    ldp     x22, x23, [sp, #176]
    ldp     x24, x25, [sp, #192]
    ldp     x26, x27, [sp, #208]
    ldp     x28, x29, [sp, #224]
    ldp     x0, x1, [sp]
    add     sp, sp, #272
    eret

// ---- calls with all registers ---------------------------------------------------------------

// fn(registers: *mut [u64; 31]): loads x0-x30, makes the call, stores x0-x30.
    .macro  whole_call name, instruction
    .global \name
\name:
    sub     sp, sp, #112
    stp     x19, x20, [sp]
    stp     x21, x22, [sp, #16]
    stp     x23, x24, [sp, #32]
    stp     x25, x26, [sp, #48]
    stp     x27, x28, [sp, #64]
    stp     x29, x30, [sp, #80]
    str     x0, [sp, #96]
    mov     x30, x0
    ldp     x0, x1, [x30]
    ldp     x2, x3, [x30, #16]
    ldp     x4, x5, [x30, #32]
    ldp     x6, x7, [x30, #48]
    ldp     x8, x9, [x30, #64]
    ldp     x10, x11, [x30, #80]
    ldp     x12, x13, [x30, #96]
    ldp     x14, x15, [x30, #112]
    ldp     x16, x17, [x30, #128]
    ldp     x18, x19, [x30, #144]
    ldp     x20, x21, [x30, #160]
    ldp     x22, x23, [x30, #176]
    ldp     x24, x25, [x30, #192]
    ldp     x26, x27, [x30, #208]
    ldp     x28, x29, [x30, #224]
    ldr     x30, [x30, #240]
    \instruction #0
    str     x30, [sp, #104]
    ldr     x30, [sp, #96]
    stp     x0, x1, [x30]
    stp     x2, x3, [x30, #16]
    stp     x4, x5, [x30, #32]
    stp     x6, x7, [x30, #48]
    stp     x8, x9, [x30, #64]
    stp     x10, x11, [x30, #80]
    stp     x12, x13, [x30, #96]
    stp     x14, x15, [x30, #112]
    stp     x16, x17, [x30, #128]
    stp     x18, x19, [x30, #144]
    stp     x20, x21, [x30, #160]
    stp     x22, x23, [x30, #176]
    stp     x24, x25, [x30, #192]
    stp     x26, x27, [x30, #208]
    stp     x28, x29, [x30, #224]
    ldr     x0, [sp, #104]
    str     x0, [x30, #240]
    ldp     x19, x20, [sp]
    ldp     x21, x22, [sp, #16]
    ldp     x23, x24, [sp, #32]
    ldp     x25, x26, [sp, #48]
    ldp     x27, x28, [sp, #64]
    ldp     x29, x30, [sp, #80]
    add     sp, sp, #112
    ret
    .endm

    whole_call hvc_whole, hvc
    whole_call smc_whole, smc

// fn(address) -> u64 and fn(address, value): an access that may abort. The address where an
// expected exception resumes is the same for all of them: x30.
    .global load_word
load_word:
    ldr     x0, [x0]
    ret
    .global store_word
store_word:
    str     x1, [x0]
    ret
    .global jump_to
jump_to:
    br      x0

// fn(): an access to a register of MTE, undefined where MTE is hidden.
    .macro  mte_access name, instruction:vararg
    .global \name
\name:
    \instruction
    ret
    .endm

    mte_access  read_gmid, mrs x0, s3_1_c0_c0_4
    mte_access  read_rgsr, mrs x0, s3_0_c1_c0_5
    mte_access  write_rgsr, msr s3_0_c1_c0_5, xzr
    mte_access  read_gcr, mrs x0, s3_0_c1_c0_6
    mte_access  write_gcr, msr s3_0_c1_c0_6, xzr
    mte_access  read_tfsr, mrs x0, s3_0_c5_c6_0
    mte_access  write_tfsr, msr s3_0_c5_c6_0, xzr
    mte_access  read_tfsre0, mrs x0, s3_0_c5_c6_1
    mte_access  write_tfsre0, msr s3_0_c5_c6_1, xzr

// fn(values: *mut [u64; 31], flags) -> flags: reads an ID register into each general register.
    .global read_into_each
read_into_each:
    stp     x19, x20, [sp, #-96]!
    stp     x21, x22, [sp, #16]
    stp     x23, x24, [sp, #32]
    stp     x25, x26, [sp, #48]
    stp     x27, x28, [sp, #64]
    stp     x29, x30, [sp, #80]
    sub     sp, sp, #256
    str     x0, [sp, #248]
    msr     nzcv, x1
    mrs     xzr, s3_0_c0_c4_1
    .irp    number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30
    mov     x\number, #0
    mrs     x\number, s3_0_c0_c4_1
    str     x\number, [sp, #8 * \number]
    .endr
    mrs     x0, nzcv
    ldr     x1, [sp, #248]
    .irp    number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30
    ldr     x2, [sp, #8 * \number]
    str     x2, [x1, #8 * \number]
    .endr
    add     sp, sp, #256
    ldp     x21, x22, [sp, #16]
    ldp     x23, x24, [sp, #32]
    ldp     x25, x26, [sp, #48]
    ldp     x27, x28, [sp, #64]
    ldp     x29, x30, [sp, #80]
    ldp     x19, x20, [sp], #96
    ret

// fn(registers: *mut SimdState, arguments: *mut [u64; 8]): fills q0-q31, FPCR and the flags from
// the state, makes the call, and stores what they are then.
    .arch_extension fp
    .arch_extension simd
    .global hvc_with_simd
hvc_with_simd:
    stp     x29, x30, [sp, #-48]!
    stp     x19, x20, [sp, #16]
    stp     x0, x1, [sp, #32]
    mov     x19, x0
    mov     x20, x1
    ldp     q0, q1, [x19]
    ldp     q2, q3, [x19, #32]
    ldp     q4, q5, [x19, #64]
    ldp     q6, q7, [x19, #96]
    ldp     q8, q9, [x19, #128]
    ldp     q10, q11, [x19, #160]
    ldp     q12, q13, [x19, #192]
    ldp     q14, q15, [x19, #224]
    ldp     q16, q17, [x19, #256]
    ldp     q18, q19, [x19, #288]
    ldp     q20, q21, [x19, #320]
    ldp     q22, q23, [x19, #352]
    ldp     q24, q25, [x19, #384]
    ldp     q26, q27, [x19, #416]
    ldp     q28, q29, [x19, #448]
    ldp     q30, q31, [x19, #480]
    ldr     x9, [x19, #512]
    msr     fpcr, x9
    ldr     x9, [x19, #520]
    msr     nzcv, x9
    ldp     x0, x1, [x20]
    ldp     x2, x3, [x20, #16]
    ldp     x4, x5, [x20, #32]
    ldp     x6, x7, [x20, #48]
    hvc     #0
    stp     x0, x1, [x20]
    stp     x2, x3, [x20, #16]
    mrs     x9, nzcv
    str     x9, [x19, #520]
    mrs     x9, fpcr
    str     x9, [x19, #512]
    stp     q0, q1, [x19]
    stp     q2, q3, [x19, #32]
    stp     q4, q5, [x19, #64]
    stp     q6, q7, [x19, #96]
    stp     q8, q9, [x19, #128]
    stp     q10, q11, [x19, #160]
    stp     q12, q13, [x19, #192]
    stp     q14, q15, [x19, #224]
    stp     q16, q17, [x19, #256]
    stp     q18, q19, [x19, #288]
    stp     q20, q21, [x19, #320]
    stp     q22, q23, [x19, #352]
    stp     q24, q25, [x19, #384]
    stp     q26, q27, [x19, #416]
    stp     q28, q29, [x19, #448]
    stp     q30, q31, [x19, #480]
    msr     fpcr, xzr
    ldp     x19, x20, [sp, #16]
    ldp     x29, x30, [sp], #48
    ret

// fn(destination, source): one 4 KiB page by LDP and STP, unrolled to 64 bytes: the floor under
// every put and get that copies with general registers.
    .global copy_page
copy_page:
    add     x2, x1, #4096
1:  ldp     x3, x4, [x1]
    ldp     x5, x6, [x1, #16]
    ldp     x7, x8, [x1, #32]
    ldp     x9, x10, [x1, #48]
    add     x1, x1, #64
    stp     x3, x4, [x0]
    stp     x5, x6, [x0, #16]
    stp     x7, x8, [x0, #32]
    stp     x9, x10, [x0, #48]
    add     x0, x0, #64
    cmp     x1, x2
    b.lo    1b
    ret
    .ltorg
