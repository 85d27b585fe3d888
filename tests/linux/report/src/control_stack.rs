// SPDX-License-Identifier: MIT OR Apache-2.0
//! Guarded control stacks (FEAT_GCS): whether a call is recorded, once the kernel has given the
//! program such a stack. EL2 can switch them off without a trap, and nothing else shows it.

use core::arch::asm;
use linux_program::println;

use crate::sys::{self, Errno, PRCTL};

/// PR_SET_SHADOW_STACK_STATUS (include/uapi/linux/prctl.h).
const SET_STATUS: u64 = 75;
/// PR_SHADOW_STACK_ENABLE.
const ENABLE: u64 = 1;

/// Prints it for this CPU, which is number `cpu`. In a process of its own: the kernel gives a
/// program such a stack once.
pub fn print(cpu: u64) {
    // SAFETY: no memory is shared.
    match unsafe { sys::fork() } {
        Ok(0) => {
            match try_it() {
                Ok(true) => println!("# gcs: cpu {cpu} records calls"),
                Ok(false) => println!("# gcs: cpu {cpu} is on and records nothing"),
                Err(Errno(error)) => println!("# gcs: cpu {cpu} error {error}"),
            }
            sys::exit(0);
        }
        Ok(child) => {
            let _ = sys::wait(child);
        }
        Err(Errno(error)) => println!("# trouble: fork ends with error {error}"),
    }
}

/// Turns the stack on, makes a call, turns it off.
fn try_it() -> sys::Result<bool> {
    let result: i64;
    let (before, inside): (u64, u64);
    // SAFETY: between the two system calls there are no other calls and returns than the one
    // here, so that the stack's records fit; what they were before and afterwards is nobody's
    // concern. GCSPR_EL0 can be read only once the first one has succeeded.
    unsafe {
        asm!(
            "svc    #0",
            "cbnz   x0, 4f",
            "mrs    x10, S3_3_C2_C5_1",
            "bl     2f",
            "b      3f",
            "2: mrs x11, S3_3_C2_C5_1",
            "ret",
            "3: mov x0, {set}",
            "mov    x1, xzr",
            "svc    #0",
            "mov    x0, xzr",
            "4:",
            set = const SET_STATUS,
            in("x8") PRCTL,
            inlateout("x0") SET_STATUS as i64 => result,
            inlateout("x1") ENABLE => _,
            in("x2") 0, in("x3") 0, in("x4") 0, in("x5") 0,
            inlateout("x10") 0_u64 => before,
            inlateout("x11") 0_u64 => inside,
            out("x30") _,
            options(nostack)
        );
    }
    sys::checked(result).map(|_| before.wrapping_sub(inside) == 8)
}
