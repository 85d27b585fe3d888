// SPDX-License-Identifier: MIT OR Apache-2.0
//! Work on several CPUs. They are switched on for each piece of work and off after it, so that
//! idle ones cost the host nothing.

use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use crate::entry::{self, MAX_CPUS};
use crate::machine::machine;
use crate::tap::{Outcome, Stop, check, fail};
use crate::{cpu, exceptions, mmu, psci};

/// Seconds after which a CPU that others wait for is given up.
const PATIENCE: u64 = 240;

/// Work that some CPUs do together.
struct Job<'a> {
    work: &'a (dyn Fn(usize) -> Outcome + Sync),
    cpus: usize,
    arrived: AtomicU32,
    ended: AtomicU32,
    failed: AtomicBool,
}

static JOB: AtomicPtr<Job<'static>> = AtomicPtr::new(ptr::null_mut());

/// Starts of CPUs that had no part in the work at hand.
static STRAYS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// CPUs that may be used: those of the device tree, or as many as the `cpus=` argument says.
pub fn cpus() -> usize {
    let all = machine().cpus.all().len();
    let wanted = machine().argument("cpus").and_then(|text| text.parse().ok());
    wanted.unwrap_or(all).clamp(1, all)
}

/// Skips the test unless there are at least `count` CPUs.
pub fn need(count: usize) -> Outcome {
    match (cpus() >= count, count) {
        (true, _) => Ok(()),
        (false, 2) => Err(Stop::Skipped("needs 2 CPUs")),
        (false, _) => Err(Stop::Skipped("needs 3 CPUs")),
    }
}

/// Spins until something becomes true; ends the run if that takes minutes.
pub fn wait_for(what: &str, done: impl Fn() -> bool) {
    let limit = cpu::counter() + PATIENCE * cpu::counter_frequency();
    while !done() {
        cpu::spin();
        assert!(cpu::counter() < limit, "waited {PATIENCE} s for {what}");
    }
}

/// CPU_ON by number.
pub fn switch_on(number: usize) -> i64 {
    psci::call(psci::CPU_ON, [mpidr(number), entry::secondary_address(), number as u64])
}

/// The MPIDR of a CPU.
pub fn mpidr(number: usize) -> u64 {
    machine().cpus.all()[number]
}

/// Whether a CPU is off, says PSCI.
pub fn is_off(number: usize) -> bool {
    psci::call(psci::AFFINITY_INFO, [mpidr(number), 0, 0]) == psci::IS_OFF
}

/// How often a CPU was started without work so far.
pub fn strays(number: usize) -> u64 {
    STRAYS[number].load(Ordering::SeqCst)
}

/// Does `work` on CPUs 0 to `cpus` - 1, all of them beginning at the same time. Fails if any of
/// them does; the words are those of the first.
pub fn on(cpus: usize, work: &(dyn Fn(usize) -> Outcome + Sync)) -> Outcome {
    let job = Job {
        work,
        cpus,
        arrived: AtomicU32::new(0),
        ended: AtomicU32::new(0),
        failed: AtomicBool::new(false),
    };
    JOB.store((&raw const job).cast::<Job<'static>>().cast_mut(), Ordering::SeqCst);
    // CPUs that start read these before their caches are on.
    clean(&raw const mmu::TABLE, size_of::<mmu::Table>() as u64);
    for number in 1..cpus {
        let status = switch_on(number);
        if status != psci::SUCCESS {
            fail!("CPU_ON of CPU {number}: {status}");
        }
    }
    job.take_part(0);
    wait_for("the other CPUs to end", || job.ended.load(Ordering::SeqCst) == cpus as u32);
    wait_for("the other CPUs to be off", || (1..cpus).all(is_off));
    JOB.store(ptr::null_mut(), Ordering::SeqCst);
    check!(!job.failed.load(Ordering::SeqCst), "a CPU failed without words");
    Ok(())
}

/// Does `work` on all CPUs.
pub fn on_all(work: &(dyn Fn(usize) -> Outcome + Sync)) -> Outcome {
    on(cpus(), work)
}

fn clean<T>(start: *const T, length: u64) {
    for offset in (0..length).step_by(64) {
        cpu::clean_line(start as u64 + offset);
    }
    cpu::dsb();
}

impl Job<'_> {
    fn take_part(&self, number: usize) {
        self.arrived.fetch_add(1, Ordering::SeqCst);
        wait_for("all CPUs to arrive", || self.arrived.load(Ordering::SeqCst) == self.cpus as u32);
        if (self.work)(number).is_err() {
            self.failed.store(true, Ordering::SeqCst);
        }
        self.ended.fetch_add(1, Ordering::SeqCst);
    }
}

/// The other CPUs' whole life.
pub extern "C" fn secondary_main(number: usize) -> ! {
    exceptions::set_cpu(number);
    crate::initial::note(number);
    crate::prepare_cpu();
    let job = JOB.load(Ordering::SeqCst);
    // SAFETY: `on` keeps the job alive until every CPU that has part in it is off.
    match unsafe { job.as_ref() } {
        Some(job) if number < job.cpus => job.take_part(number),
        _ => {
            STRAYS[number].fetch_add(1, Ordering::SeqCst);
        }
    }
    psci::call(psci::CPU_OFF, [0; 3]);
    panic!("CPU_OFF came back");
}
