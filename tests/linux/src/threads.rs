// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads of one process: each has a mode and a mask of its own, and the kernel changes both with
//! the thread.

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};
use linux_program::println;
use linux_program::tags::with_tag;

use crate::checks::{Area, Check, KIB, Outcome, PLAIN, TAGGED, check, pattern, stay_on};
use crate::fault::{self, Fault, SEGV_MTEAERR, SEGV_MTESERR, Watch};
use crate::modes::{cpus, made};
use crate::sys::{self, TagCheck};

/// The checks in their order.
pub const CHECKS: [Check; 2] = [
    ("threads on all CPUs, each with its own mode and mask", || run(Place::Pinned)),
    ("the same threads wherever the kernel puts them", || run(Place::Anywhere)),
];

/// Threads that take part; more than there are CPUs, so that each CPU has several.
const THREADS: usize = 10;
const ROUNDS: u64 = 24;
const STACK: u64 = 64 * KIB;

/// Where the threads run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Each on one CPU.
    Pinned,
    /// On any.
    Anywhere,
}

/// What one thread works with; it lies in memory that all share.
struct Work {
    number: u64,
    cpu: Option<u64>,
    /// The memory that all tag, every [`THREADS`]th granule each.
    start: u64,
    length: u64,
    /// What the thread has to say: 0 nothing yet, 1 all is well, 2 it failed.
    verdict: AtomicU32,
}

static WATCHES: [Watch; THREADS] = [const { Watch::new() }; THREADS];
static ALIVE: [AtomicU32; THREADS] = [const { AtomicU32::new(0) }; THREADS];

fn run(place: Place) -> Outcome {
    let cpus = cpus()?;
    let area = Area::new(256 * KIB, TAGGED)?;
    let stacks = Area::new(THREADS as u64 * STACK, PLAIN)?;
    let works: [Work; THREADS] = core::array::from_fn(|number| Work {
        number: number as u64,
        cpu: (place == Place::Pinned).then_some(number as u64 % cpus),
        start: area.start,
        length: area.length,
        verdict: AtomicU32::new(0),
    });
    let mut started = Ok(());
    for ((work, watch), alive) in works.iter().zip(&WATCHES).zip(&ALIVE) {
        let stack = stacks.start + (work.number + 1) * STACK;
        let own = &raw const *watch as u64;
        // SAFETY: a stack of its own; all that the thread is given stays until it was joined.
        started = unsafe { sys::start_thread(stack, own, thread, &raw const *work as u64, alive) };
        if started.is_err() {
            break;
        }
    }
    ALIVE.iter().for_each(sys::join);
    started?;
    for work in &works {
        let verdict = work.verdict.load(SeqCst);
        check!(verdict == 1, "thread {} ended with verdict {verdict}", work.number);
    }
    for index in 0..area.granules() {
        let seed = seed(index % THREADS as u64, ROUNDS - 1);
        let (is, wanted) = (area.ldg(index), pattern(seed, index));
        check!(is == wanted, "at the end granule {index} has {is:#x}, not {wanted:#x}");
    }
    Ok(())
}

/// The seed of a thread's tags in a round.
fn seed(number: u64, round: u64) -> u64 {
    number << 32 | round
}

extern "C" fn thread(work: u64) -> ! {
    // SAFETY: what `run` started the thread with, which it keeps until the thread is gone.
    let work = unsafe { &*(work as *const Work) };
    let verdict = match tag_and_fault(work) {
        Ok(()) => 1,
        Err(trouble) => {
            println!("# thread {}: {trouble}", work.number);
            2
        }
    };
    work.verdict.store(verdict, SeqCst);
    sys::exit_thread()
}

fn tag_and_fault(work: &Work) -> Outcome {
    if let Some(cpu) = work.cpu {
        stay_on(cpu)?;
    }
    let number = work.number;
    let modes = [TagCheck::Sync, TagCheck::Async, TagCheck::None];
    let mode = modes[number as usize % modes.len()];
    let mask = 1 << (number + 1);
    sys::set_tag_check(mode, mask)?;
    // Never dropped: the area is that of `run`.
    let area = core::mem::ManuallyDrop::new(Area { start: work.start, length: work.length });
    let mine = || (0..area.granules()).filter(|index| index % THREADS as u64 == number);
    for round in 0..ROUNDS {
        let seed = seed(number, round);
        mine().for_each(|index| area.stg(index, pattern(seed, index)));
        sys::give_way();
        for index in mine() {
            let (is, wanted) = (area.ldg(index), pattern(seed, index));
            check!(is == wanted, "round {round}: granule {index} has {is:#x}, not {wanted:#x}");
        }
        let is = made(64, 0);
        check!(
            is == u64::from(mask),
            "round {round}: IRG made {is:#x} where {mask:#x} was allowed"
        );
        let index = number + THREADS as u64 * round;
        let wrong = pattern(seed, index) ^ 0x5;
        let seen = fault::watch(|| {
            area.store(index, wrong, round);
            sys::own_id();
        });
        let (count, fault) = match mode {
            TagCheck::Sync => {
                let address = with_tag(area.granule(index), wrong);
                (1, Fault { code: SEGV_MTESERR, address })
            }
            TagCheck::Async => (1, Fault { code: SEGV_MTEAERR, address: 0 }),
            TagCheck::None | TagCheck::Preferred => (0, seen.1),
        };
        check!(seen == (count, fault), "round {round}, {mode:?}: a store gave {seen:x?}");
    }
    Ok(())
}
