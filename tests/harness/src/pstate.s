// SPDX-License-Identifier: MIT OR Apache-2.0
// Calls from states of the CPU that no kernel makes them from: any PSTATE, any stack pointer, any
// vectors, MMU off, vector registers of any length. pstate.rs has the layouts.

    .section .text.pstate, "ax"
    .arch_extension fp
    .arch_extension simd

// What is executed in such a state. x20: the stack that was good. BRK takes PSTATE to EL1's vectors.
    .macro  body name, instruction:vararg
    .global body_\name
body_\name:
    \instruction
    mov     x23, sp
    mov     sp, x20
    brk     #0
    .endm

    body    nop, nop
    body    hvc, hvc #0
    body    hvc_1, hvc #1
    body    hvc_4a, hvc #0x4a
    body    hvc_ffff, hvc #0xffff
    body    smc, smc #0
    body    smc_1, smc #1
    body    smc_4a, smc #0x4a
    body    smc_ffff, smc #0xffff
    body    load, ldr x1, [x0]

// The same with BRK next, which shows what only the next instruction sees (BTYPE).
    .global body_smc_brk
body_smc_brk:
    smc     #0
    brk     #0

// fn(state: *mut State): goes to a body by ERET. The exception that ends it resumes at 2, which x17
// and x30 say (exceptions.rs), at EL1.
    .global run_in_state
run_in_state:
    stp     x29, x30, [sp, #-96]!
    stp     x19, x20, [sp, #16]
    stp     x21, x22, [sp, #32]
    stp     x23, x24, [sp, #48]
    stp     x25, x26, [sp, #64]
    stp     x27, x28, [sp, #80]
    mov     x19, x0
    mov     x20, sp
    ldr     x9, [x19, #136]
    msr     elr_el1, x9
    ldr     x9, [x19, #144]
    msr     spsr_el1, x9
    ldr     x10, [x19, #152]
    ldr     x11, [x19, #160]
    cmp     x11, #0
    csel    x10, x20, x10, ne
    msr     sp_el0, x10
    and     x9, x9, #0x1f
    cmp     x9, #5                          // EL1h
    b.ne    1f
    mov     sp, x10
1:  mov     x23, #0
    adr     x30, 2f
    mov     x17, x30
    ldp     x0, x1, [x19]
    ldp     x2, x3, [x19, #16]
    ldp     x4, x5, [x19, #32]
    ldp     x6, x7, [x19, #48]
    ldp     x8, x9, [x19, #64]
    ldp     x10, x11, [x19, #80]
    ldp     x12, x13, [x19, #96]
    ldp     x14, x15, [x19, #112]
    ldr     x16, [x19, #128]
    eret
2:  mov     sp, x20
    stp     x0, x1, [x19]
    stp     x2, x3, [x19, #16]
    stp     x4, x5, [x19, #32]
    stp     x6, x7, [x19, #48]
    stp     x8, x9, [x19, #64]
    stp     x10, x11, [x19, #80]
    stp     x12, x13, [x19, #96]
    stp     x14, x15, [x19, #112]
    str     x16, [x19, #128]
    str     x23, [x19, #168]
    ldp     x19, x20, [sp, #16]
    ldp     x21, x22, [sp, #32]
    ldp     x23, x24, [sp, #48]
    ldp     x25, x26, [sp, #64]
    ldp     x27, x28, [sp, #80]
    ldp     x29, x30, [sp], #96
    ret

// Vectors that go where TPIDR_EL0 says, whatever they are mapped at.
    .balign 4096
    .global recovery_vectors
recovery_vectors:
    .rept   16
    .balign 128
    mrs     x9, tpidr_el0
    br      x9
    .endr
    .balign 4096

// fn(address, vectors) -> (ELR_EL1, ESR_EL1): a load that aborts, with other vectors, of which only
// recovery_vectors come back here. Zeros if it does not abort.
    .global abort_with_vectors
abort_with_vectors:
    mrs     x10, vbar_el1
    mrs     x11, tpidr_el0
    adr     x12, 1f
    msr     tpidr_el0, x12
    msr     vbar_el1, x1
    isb
    ldr     x0, [x0]
    mov     x0, #0
    mov     x1, #0
    b       2f
1:  mrs     x0, elr_el1
    mrs     x1, esr_el1
2:  msr     vbar_el1, x10
    msr     tpidr_el0, x11
    mov     x9, #0x3c5                      // as before the exception
    msr     spsr_el1, x9
    msr     elr_el1, x30
    isb
    eret

// Where CPU_ON starts a CPU that never turns its MMU on. x0: a Bare. Ends with CPU_OFF.
    .global bare_entry
bare_entry:
    mov     x19, x0
    mrs     x9, sctlr_el1
    str     x9, [x19, #16]
    ldr     x9, [x19]                       // garbage for everything that the MMU would use
    msr     tcr_el1, x9
    msr     ttbr0_el1, x9
    msr     ttbr1_el1, x9
    msr     mair_el1, x9
    ldr     x9, [x19, #8]
    msr     vbar_el1, x9
    mov     sp, x9
    isb
    ldr     x20, [x19, #24]
    add     x21, x19, #64
1:  cbz     x20, 4f
    ldp     x0, x1, [x21]
    ldp     x2, x3, [x21, #16]
    ldp     x4, x5, [x21, #32]
    ldp     x6, x7, [x21, #48]
    tbz     x20, #0, 2f
    hvc     #0
    b       3f
2:  smc     #0
3:  stp     x0, x1, [x21]
    stp     x2, x3, [x21, #16]
    stp     x4, x5, [x21, #32]
    stp     x6, x7, [x21, #48]
    add     x21, x21, #64
    sub     x20, x20, #1
    b       1b
4:  mov     x9, sp
    str     x9, [x19, #32]
    dsb     sy
    movz    w0, #0x8400, lsl #16            // CPU_OFF
    movk    w0, #2
    smc     #0
5:  wfe
    b       5b

// fn(before, after, arguments: *mut [u64; 8], cpacr, flags): fills the vector registers from
// `before`, makes the call with CPACR_EL1 as given, and stores them to `after`. Flags: 0 SVE, 1
// streaming mode, 2 ZA, 3 SMC instead of HVC. Layout: Z0-Z31 (or q0-q31), P0-P15, FFR; from 0x3000 on
// ZA.
    .arch_extension sve
    .arch_extension sme
    .global call_with_vectors
call_with_vectors:
    stp     x29, x30, [sp, #-80]!
    stp     x19, x20, [sp, #16]
    stp     x21, x22, [sp, #32]
    stp     x23, x24, [sp, #48]
    stp     x25, x26, [sp, #64]
    mov     x19, x0
    mov     x23, x1
    mov     x20, x2
    mov     x21, x3
    mov     x22, x4
    mrs     x24, cpacr_el1
    ubfx    x9, x22, #1, #2
    cbz     x9, 1f
    msr     svcr, x9
1:  tbnz    x22, #0, 2f
    mov     x9, x19
    .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    ldr     q\n, [x9], #16
    .endr
    b       5f
2:  .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    ldr     z\n, [x19, #\n, mul vl]
    .endr
    rdvl    x9, #16
    add     x9, x19, x9, lsl #1
    tbnz    x22, #1, 3f                     // streaming mode may have no FFR
    ldr     p0, [x9, #16, mul vl]
    wrffr   p0.b
3:  .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
    ldr     p\n, [x9, #\n, mul vl]
    .endr
    tbz     x22, #2, 5f
    rdsvl   x10, #1
    add     x11, x19, #0x3000
    mov     w12, #0
4:  ldr     za[w12, 0], [x11]
    add     x11, x11, x10
    add     w12, w12, #1
    cmp     w12, w10
    b.ne    4b
5:  msr     cpacr_el1, x21
    isb
    ldp     x0, x1, [x20]
    ldp     x2, x3, [x20, #16]
    ldp     x4, x5, [x20, #32]
    ldp     x6, x7, [x20, #48]
    tbnz    x22, #3, 6f
    hvc     #0
    b       7f
6:  smc     #0
7:  msr     cpacr_el1, x24
    isb
    stp     x0, x1, [x20]
    stp     x2, x3, [x20, #16]
    tbnz    x22, #0, 8f
    mov     x9, x23
    .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    str     q\n, [x9], #16
    .endr
    b       11f
8:  .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    str     z\n, [x23, #\n, mul vl]
    .endr
    rdvl    x9, #16
    add     x9, x23, x9, lsl #1
    .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
    str     p\n, [x9, #\n, mul vl]
    .endr
    tbnz    x22, #1, 9f
    rdffr   p0.b
    str     p0, [x9, #16, mul vl]
9:  tbz     x22, #2, 11f
    rdsvl   x10, #1
    add     x11, x23, #0x3000
    mov     w12, #0
10: str     za[w12, 0], [x11]
    add     x11, x11, x10
    add     w12, w12, #1
    cmp     w12, w10
    b.ne    10b
11: mov     x0, #0
    ubfx    x9, x22, #1, #2
    cbz     x9, 12f
    mrs     x0, svcr
    msr     svcr, xzr
12: ldp     x19, x20, [sp, #16]
    ldp     x21, x22, [sp, #32]
    ldp     x23, x24, [sp, #48]
    ldp     x25, x26, [sp, #64]
    ldp     x29, x30, [sp], #80
    ret

// fn() -> bytes of a vector, in streaming mode if the flag is set.
    .global vector_length
vector_length:
    cbnz    x0, 1f
    rdvl    x0, #1
    ret
1:  rdsvl   x0, #1
    ret
