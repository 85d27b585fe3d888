// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads that stay on one CPU.

/// Keeps the calling thread on the `number`-th of the CPUs that the process may use. Where that
/// cannot be done the thread runs where it likes.
pub fn pin(number: usize) {
    // SAFETY: the sets are plain data that live across the calls, of the size that is passed;
    // every index is below CPU_SETSIZE.
    unsafe {
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        let size = size_of::<libc::cpu_set_t>();
        if libc::sched_getaffinity(0, size, &mut allowed) != 0 {
            return;
        }
        let cpus = (0..libc::CPU_SETSIZE as usize).filter(|&cpu| libc::CPU_ISSET(cpu, &allowed));
        let cpus: Vec<usize> = cpus.collect();
        let mut own: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpus[number % cpus.len()], &mut own);
        libc::sched_setaffinity(0, size, &own);
    }
}
