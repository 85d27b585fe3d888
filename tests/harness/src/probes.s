// SPDX-License-Identifier: MIT OR Apache-2.0
// One access each, for the table in probes.rs. x0: where, x1 to x4: data, x30: where to go on. None
// of them touches the stack, x17 or a register that the procedure call standard keeps, so that
// they run at EL0 as well.

    .section .text.probes, "ax"
    .arch_extension lse
    .arch_extension memtag
    .arch_extension fp
    .arch_extension simd

    .macro  probe name, instruction:vararg
    .global probe_\name
probe_\name:
    \instruction
    ret
    .endm

    probe   ldrb, ldrb w1, [x0]
    probe   ldrsb, ldrsb x1, [x0]
    probe   ldrh, ldrh w1, [x0]
    probe   ldr_w, ldr w1, [x0]
    probe   ldr_x, ldr x1, [x0]
    probe   ldr_post, ldr x1, [x0], #8
    probe   ldur, ldur x1, [x0, #-4]
    probe   ldp, ldp x1, x2, [x0]
    probe   ldar, ldar x1, [x0]
    probe   ldxr, ldxr x1, [x0]
    probe   ldaxp, ldaxp x1, x2, [x0]
    probe   ldtr, ldtr x1, [x0]
    probe   ldr_q, ldr q0, [x0]
    probe   ld4, ld4 {{v0.16b-v3.16b}}, [x0]
    probe   strb, strb w1, [x0]
    probe   strh, strh w1, [x0]
    probe   str_w, str w1, [x0]
    probe   str_x, str x1, [x0]
    probe   str_pre, str x1, [x0, #8]!
    probe   stur, stur x1, [x0, #-4]
    probe   stp, stp x1, x2, [x0]
    probe   stnp, stnp x1, x2, [x0]
    probe   stlr, stlr x1, [x0]
    probe   sttr, sttr x1, [x0]
    probe   stp_q, stp q0, q1, [x0]
    probe   ldadd, ldadd x1, x2, [x0]
    probe   swpalb, swpalb w1, w2, [x0]
    probe   cas, cas x1, x2, [x0]
    probe   casp, casp x2, x3, x4, x5, [x0]
    probe   stset, stset x1, [x0]
    probe   ldg, ldg x1, [x0]
    probe   stg, stg x1, [x0]
    probe   st2g, st2g x1, [x0]
    probe   stzg, stzg x1, [x0]
    probe   stz2g, stz2g x1, [x0]
    probe   stgp, stgp x1, x2, [x0]
    probe   stgm, stgm x1, [x0]
    probe   ldgm, ldgm x1, [x0]
    probe   stzgm, stzgm x1, [x0]
    probe   dc_zva, dc zva, x0
    probe   dc_gva, dc gva, x0
    probe   dc_gzva, dc gzva, x0
    probe   dc_ivac, dc ivac, x0
    probe   dc_cvac, dc cvac, x0
    probe   dc_civac, dc civac, x0
    probe   dc_cvap, sys #3, c7, c12, #1, x0
    probe   dc_cigvac, sys #3, c7, c14, #3, x0
    probe   ic_ivau, ic ivau, x0
    probe   at_s1e1r, at s1e1r, x0
    probe   at_s1e1w, at s1e1w, x0
    probe   at_s1e0r, at s1e0r, x0
    probe   jump, br x0
    // A store-exclusive after the load of own memory, at x3, that it needs. It may fail without an
    // access, because it is not for the same address.
    probe   stxr, ldxr x1, [x3]; stxr w2, x1, [x0]

// Ends a program at EL0.
    .global leave_el0
leave_el0:
    svc     #0

// fn(program, x0, x3, leave): runs `program` at EL0; `leave` is where leave_el0 is for EL0. The
// exception that ends it resumes where x17 says (exceptions.rs).
    .global enter_el0
enter_el0:
    msr     elr_el1, x0
    mov     x9, #0x3c0                      // EL0t, all masked
    msr     spsr_el1, x9
    mov     x17, x30
    mov     x30, x3
    mov     x0, x1
    mov     x3, x2
    mov     x1, #0
    mov     x2, #0
    mov     x4, #0
    mov     x5, #0
    eret

// fn(probe, x0, x3): runs `probe` at this level. An abort resumes behind the call.
    .global enter_el1
enter_el1:
    mov     x9, x0
    mov     x0, x1
    mov     x3, x2
    mov     x1, #0
    mov     x2, #0
    mov     x4, #0
    mov     x5, #0
    mov     x17, x30
    blr     x9
    mov     x30, x17
    ret
