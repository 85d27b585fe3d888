// SPDX-License-Identifier: MIT OR Apache-2.0
//! Interrupts between CPUs: makes them come, so that /proc/interrupts can be asked.

use crate::sys;

/// How often another CPU is woken.
const ROUNDS: u64 = 50;
/// Most CPUs that are looked for.
const MAX_CPUS: u64 = 64;

/// Lets each other CPU wake this one a few times, which takes an interrupt.
pub fn provoke() {
    let Some(here) = (0..MAX_CPUS).find(|cpu| sys::pin(*cpu).is_ok()) else { return };
    for other in here + 1..MAX_CPUS {
        if sys::pin(other).is_ok() {
            bounce(here, other);
            bounce(other, here);
        }
    }
}

/// Passes a word between a process on one CPU and a process on the other, each asleep meanwhile.
fn bounce(one: u64, other: u64) {
    let (Ok(there), Ok(back)) = (sys::pipe(), sys::pipe()) else { return };
    // SAFETY: no memory is shared.
    let Ok(child) = (unsafe { sys::fork() }) else { return };
    if child == 0 {
        let _ = sys::pin(other);
        let mut word = [0; 8];
        for _ in 0..ROUNDS {
            let _ = sys::read(there.0, &mut word);
            sys::write(back.1, &[0; 8]);
        }
        sys::exit(0);
    }
    let _ = sys::pin(one);
    let mut word = [0; 8];
    for _ in 0..ROUNDS {
        sys::write(there.1, &[0; 8]);
        let _ = sys::read(back.0, &mut word);
    }
    let _ = sys::wait(child);
    for end in [there.0, there.1, back.0, back.1] {
        sys::close(end);
    }
}
