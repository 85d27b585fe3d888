// SPDX-License-Identifier: MIT OR Apache-2.0
// All CPUs begin here, at EL3, at address 0. The first one goes on to the boot loader's stub at
// EL2, the others wait for CPU_ON. MMU and caches stay off.

    .equ    BOOT_STUB, 0x40f00000           // where qemu/run.py puts it
    .equ    DISTRIBUTOR, 0x08000000
    .equ    UART, 0x09000000
    .equ    SECURE_GPIO, 0x090b0000
    .equ    STACKS, 0x0e000000              // secure RAM, one page for each CPU
    .equ    MAILBOXES, 0x0e100000           // 64 bytes for each CPU: state, entry point, context
    .equ    CPUS, 8

    // States of a CPU; 0 is one that is not there.
    .equ    OFF, 1
    .equ    PENDING, 2
    .equ    ON, 3

    // NS, RES1, HCE, RW, APK, API, ATA, FGTEn, HXEn, GCSEn, EnTP2, TCR2En, PIEn, FGTEn2: those of
    // booting.rst. Bits of features that the CPU lacks do not stick.
    .equ    SCR, 0x08002ac00c030531
    // TTRF traps trace filters. EnPM2 and SBRBE open what booting.rst says; profiling and trace
    // buffers are secure.
    .equ    MDCR, 0x0000000100080080
    // EZ, ESM; TTA traps trace registers.
    .equ    CPTR, 0x101100

    .section .head, "ax"
    .global image_head
image_head:
    msr     daifset, #0xf
    adr     x0, vectors
    msr     vbar_el3, x0
    mrs     x20, mpidr_el1
    and     x20, x20, #0xff
    ldr     x23, =MAILBOXES
    add     x23, x23, x20, lsl #6
    ldr     x0, =STACKS
    add     x0, x0, x20, lsl #12
    add     sp, x0, #0x1000
    cbnz    x20, hold
    ldr     x0, =DISTRIBUTOR                // GICD_CTLR.DS: interrupts are the non-secure world's
    mov     w1, #(1 << 6)
    str     w1, [x0]
    ldr     x21, =BOOT_STUB
    mov     x22, #0
    b       enter

// A CPU that is off.
hold:
    mov     x0, #OFF
    str     x0, [x23]
1:  wfe
    ldr     x0, [x23]
    cmp     x0, #PENDING
    b.ne    1b
    ldp     x21, x22, [x23, #8]

// To EL2 at x21, x22 in x0.
enter:
    mov     x0, #ON
    str     x0, [x23]
    ldr     x0, =SCR
    msr     scr_el3, x0
    ldr     x0, =MDCR
    msr     mdcr_el3, x0
    ldr     x0, =CPTR
    msr     cptr_el3, x0
    isb
    mov     x0, #0xf
    msr     s3_6_c1_c2_0, x0                // ZCR_EL3
    ldr     x0, =0xc000000f
    msr     s3_6_c1_c2_6, x0                // SMCR_EL3: FA64, EZT0, LEN
    mov     x0, #0xf
    msr     s3_6_c12_c12_5, x0              // ICC_SRE_EL3
    isb
    ldr     x0, =0x30c50830
    msr     sctlr_el2, x0

// Junk. Registers that the CPU has not are passed over by the vector below. Left alone is what
// booting.rst says of EL2's own: MMU and caches off, GCSCR_EL2, floating point, that the bits which
// EL2 cannot know (ACTLR_EL2, FPMR, SCTLR2_ELx ...) are initialised.
    ldr     x0, =0x5a5a5a5a5a5a5a58
    .irp    name, tcr_el1, ttbr0_el1, ttbr1_el1, mair_el1, amair_el1, vbar_el1, contextidr_el1, elr_el1, esr_el1, far_el1, par_el1, afsr0_el1, afsr1_el1, sp_el0, sp_el1, tpidr_el0, tpidrro_el0, tpidr_el1
    msr     \name, x0
    .endr
    .irp    name, vbar_el2, ttbr0_el2, tcr_el2, mair_el2, tpidr_el2, elr_el2, esr_el2, far_el2, hpfar_el2, vttbr_el2, vpidr_el2, vmpidr_el2, cntvoff_el2
    msr     \name, x0
    .endr
    msr     s3_0_c2_c0_3, x0                // TCR2_EL1
    msr     s3_0_c10_c2_2, x0               // PIRE0_EL1
    msr     s3_0_c10_c2_3, x0               // PIR_EL1
    msr     s3_0_c10_c2_4, x0               // POR_EL1
    msr     s3_3_c10_c2_4, x0               // POR_EL0
    msr     s3_3_c13_c0_5, x0               // TPIDR2_EL0
    msr     s3_4_c2_c0_3, x0                // TCR2_EL2
    mov     x0, #-1
    .irp    name, sctlr_el1, cpacr_el1
    msr     \name, x0
    .endr
    msr     s3_3_c9_c12_1, x0               // PMCNTENSET_EL0
    msr     s3_0_c9_c14_1, x0               // PMINTENSET_EL1
    msr     s3_3_c9_c14_3, x0               // PMOVSSET_EL0
    msr     s3_3_c9_c14_0, x0               // PMUSERENR_EL0
    msr     s3_0_c1_c0_5, x0                // RGSR_EL1
    msr     s3_0_c1_c0_6, x0                // GCR_EL1
    msr     s3_0_c5_c6_0, x0                // TFSR_EL1
    msr     s3_0_c5_c6_1, x0                // TFSRE0_EL1
    msr     s3_0_c2_c5_0, x0                // GCSCR_EL1
    msr     s3_0_c2_c5_2, x0                // GCSCRE0_EL1
    msr     s3_4_c1_c1_4, x0                // HFGRTR_EL2
    msr     s3_4_c1_c1_5, x0                // HFGWTR_EL2
    msr     s3_4_c1_c1_6, x0                // HFGITR_EL2
    msr     s3_4_c3_c1_4, x0                // HDFGRTR_EL2
    msr     s3_4_c3_c1_5, x0                // HDFGWTR_EL2
    msr     s3_4_c1_c1_3, x0                // HSTR_EL2
    mov     x0, #1
    msr     s3_0_c1_c2_0, x0                // ZCR_EL1
    msr     s3_0_c1_c2_6, x0                // SMCR_EL1
    msr     s3_0_c1_c2_4, x0                // SMPRI_EL1
    msr     s3_0_c10_c4_3, x0               // LORC_EL1
    msr     s3_4_c1_c2_0, x0                // ZCR_EL2
    msr     s3_4_c1_c2_6, x0                // SMCR_EL2
    mov     x0, #2
    msr     csselr_el1, x0
    mov     x0, #3                          // on, and masked
    .irp    name, cntp_ctl_el0, cntv_ctl_el0, cnthp_ctl_el2, cntkctl_el1
    msr     \name, x0
    .endr
    msr     s3_4_c14_c3_1, x0               // CNTHV_CTL_EL2
    msr     cnthctl_el2, xzr                // traps the physical counter
    mov     x0, #(1 << 12)
    msr     mdscr_el1, x0                   // TDCC
    msr     s3_4_c12_c11_0, x0              // ICH_HCR_EL2.TALL1
    ldr     x0, =0x3c4
    msr     spsr_el1, x0
    msr     spsr_el2, x0
    ldr     x0, =0xd01013ff                 // TCPAC, TAM, TTA, TSM, TZ: not TFP
    msr     cptr_el2, x0
    mov     x0, #0xe60                      // traps of debug and PMU, no counter for EL1
    msr     mdcr_el2, x0
    msr     s3_4_c1_c2_2, xzr               // HCRX_EL2: nothing is open
    ldr     x0, =0x84640000                 // RW, TVM, TSW, TACR, TID3
    msr     hcr_el2, x0

    .arch_extension fp
    .arch_extension simd
    .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    movi    v\n\().16b, #0xa5
    .endr
    msr     elr_el3, x21
    mov     x0, #0x3c9                      // EL2h, all masked
    msr     spsr_el3, x0
    mov     x0, x22
    ldr     x1, =0x5a5a5a5a5a5a5a58
    .irp    n, 2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30
    mov     x\n, x1
    .endr
    isb
    eret

// PSCI 1.1. All registers but x0 keep their values.
smc_call:
    stp     x1, x2, [sp, #-32]!
    str     x3, [sp, #16]
    .macro  service number, label
    ldr     w3, =\number
    cmp     w0, w3
    b.eq    \label
    .endm
    service 0x84000000, version
    service 0x8400000a, features
    service 0x84000001, suspend
    service 0xc4000001, suspend
    service 0x84000002, cpu_off
    service 0x84000003, cpu_on
    service 0xc4000003, cpu_on
    service 0x84000004, affinity_info
    service 0xc4000004, affinity_info
    service 0x84000008, off
    service 0x84000009, off
not_supported:
    mov     x0, #-1
answer:
    ldr     x3, [sp, #16]
    ldp     x1, x2, [sp], #32
    ldp     x29, x30, [sp], #16
    eret
version:
    mov     x0, #0x10000
    orr     x0, x0, #1
    b       answer
features:                                   // of CPU_SUSPEND: the original format
    mov     w0, w1
    .irp    number, 0x84000000, 0x8400000a, 0x84000001, 0xc4000001, 0x84000002, 0x84000003, 0xc4000003, 0x84000004, 0xc4000004, 0x84000008, 0x84000009
    service \number, success
    .endr
    b       not_supported
suspend:                                    // standby
    wfi
success:
    mov     x0, #0
    b       answer
cpu_off:
    add     sp, sp, #48
    b       hold_again
cpu_on:
    mov     x0, #-2                         // INVALID_PARAMETERS
    cmp     x1, #CPUS
    b.hs    answer
    ldr     x3, =MAILBOXES
    add     x3, x3, x1, lsl #6
    ldr     x1, [x3]
    cbz     x1, answer
    mov     x0, #-4                         // ALREADY_ON
    cmp     x1, #ON
    b.eq    answer
    mov     x0, #-5                         // ON_PENDING
    cmp     x1, #PENDING
    b.eq    answer
    str     x2, [x3, #8]
    ldr     x0, [sp, #16]                   // x3 of the caller
    str     x0, [x3, #16]
    mov     x0, #PENDING
    dmb     sy
    str     x0, [x3]
    dsb     sy
    sev
    b       success
affinity_info:
    mov     x0, #-2
    cmp     x1, #CPUS
    b.hs    answer
    ldr     x3, =MAILBOXES
    add     x3, x3, x1, lsl #6
    ldr     x1, [x3]
    cbz     x1, answer
    cmp     x1, #ON
    b.eq    success
    mov     x0, x1                          // OFF, PENDING: 1 and 2
    b       answer

hold_again:
    mrs     x20, mpidr_el1
    and     x20, x20, #0xff
    ldr     x23, =MAILBOXES
    add     x23, x23, x20, lsl #6
    b       hold

// What must not come here: says so, and turns the machine off.
fatal:
    adr     x2, message
    ldr     x1, =UART
1:  ldrb    w0, [x2], #1
    cbz     w0, 2f
    str     w0, [x1]
    b       1b
2:  mrs     x3, esr_el3
    bl      print
    mrs     x3, elr_el3
    bl      print
    mov     w0, #'\n'
    str     w0, [x1]
off:
    ldr     x1, =SECURE_GPIO                // PL061, line 0: power
    mov     w0, #1
    str     w0, [x1, #0x400]
    str     w0, [x1, #(1 << 2)]
3:  wfi
    b       3b

// x3 in hexadecimal digits.
print:
    mov     w0, #' '
    str     w0, [x1]
    mov     x2, #64
4:  sub     x2, x2, #4
    lsr     x4, x3, x2
    and     w4, w4, #0xf
    cmp     w4, #10
    add     w0, w4, #'0'
    add     w4, w4, #('a' - 10)
    csel    w0, w0, w4, lo
    str     w0, [x1]
    cbnz    x2, 4b
    ret

message:
    .asciz  "\nBail out! monitor: trapped to EL3: ESR_EL3, ELR_EL3"

    .balign 0x800
vectors:
    .rept   4
    b       fatal
    .balign 0x80
    .endr
    // From EL3 itself: a register that the CPU has not. On to the next.
    mrs     x16, esr_el3
    lsr     x16, x16, #26
    cbnz    x16, fatal
    mrs     x16, elr_el3
    add     x16, x16, #4
    msr     elr_el3, x16
    eret
    .balign 0x80
    .rept   3
    b       fatal
    .balign 0x80
    .endr
    // From EL2 and EL1.
    stp     x29, x30, [sp, #-16]!
    mrs     x30, esr_el3
    lsr     x30, x30, #26
    cmp     x30, #0x17
    b.ne    fatal
    b       smc_call
    .balign 0x80
    .rept   7
    b       fatal
    .balign 0x80
    .endr
    .ltorg
