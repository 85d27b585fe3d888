// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the instrumented code calls at every edge of its control flow: counts the edges taken,
//! and bounds the work and the stack of a call without a clock.
//!
//! One thread is watched, one call at a time, so plain loads and stores of atomics will do.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize};

/// Edges that can be told apart; those beyond share numbers.
const MAX_EDGES: usize = 1 << 16;

static COUNTS: [AtomicU8; MAX_EDGES] = [const { AtomicU8::new(0) }; MAX_EDGES];
/// The edges whose count is not 0, in the order in which they were first taken.
static TOUCHED: [AtomicU32; MAX_EDGES] = [const { AtomicU32::new(0) }; MAX_EDGES];
static TOUCHES: AtomicUsize = AtomicUsize::new(0);
/// Edges in the program.
static EDGES: AtomicUsize = AtomicUsize::new(0);

static WATCHING: AtomicBool = AtomicBool::new(false);
/// Edges taken in the call that is watched, or since the last one.
static WORK: AtomicUsize = AtomicUsize::new(0);
static MOST_WORK: AtomicUsize = AtomicUsize::new(MOST_TOTAL);
/// Edges between two calls that are watched, where results are compared: no bound, but an end.
const MOST_TOTAL: usize = 1 << 30;
/// The lowest address that a stack frame of the call had.
static LOWEST: AtomicUsize = AtomicUsize::new(usize::MAX);
/// An address on the stack that the call may not go below.
static FLOOR: AtomicUsize = AtomicUsize::new(0);

/// What a call took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Edges taken.
    pub work: usize,
    /// Bytes of stack, as far down as instrumented code reached.
    pub stack: usize,
}

/// Numbers the edges of one module.
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_trace_pc_guard_init(start: *mut u32, stop: *mut u32) {
    let mut guard = start;
    while guard < stop {
        // SAFETY: SanitizerCoverage passes the bounds of an array of u32 of its own, in which `guard`
        // is, before any other thread runs.
        unsafe {
            if *guard == 0 {
                *guard = EDGES.fetch_add(1, Relaxed) as u32 + 1;
            }
            guard = guard.add(1);
        }
    }
}

/// One edge is taken.
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_trace_pc_guard(guard: *mut u32) {
    let work = WORK.load(Relaxed) + 1;
    WORK.store(work, Relaxed);
    if work > MOST_WORK.load(Relaxed) {
        exceeded("too many edges", work - 1);
    }
    if !WATCHING.load(Relaxed) {
        return;
    }
    // SAFETY: SanitizerCoverage passes an element of the array whose bounds the function above got; nobody
    // writes it any more.
    let edge = unsafe { *guard } as usize % MAX_EDGES;
    let count = COUNTS[edge].load(Relaxed);
    if count == 0 {
        let touches = TOUCHES.load(Relaxed);
        TOUCHED[touches].store(edge as u32, Relaxed);
        TOUCHES.store(touches + 1, Relaxed);
    }
    COUNTS[edge].store(count.saturating_add(1), Relaxed);

    let here = (&raw const work).addr();
    if here < LOWEST.load(Relaxed) {
        LOWEST.store(here, Relaxed);
        if here < FLOOR.load(Relaxed) {
            exceeded("too much stack, edges so far", work);
        }
    }
}

/// Ends the process: a panic would run more instrumented code on what is left of the stack.
#[cold]
fn exceeded(what: &str, work: usize) -> ! {
    MOST_WORK.store(usize::MAX, Relaxed);
    WATCHING.store(false, Relaxed);
    eprintln!("fuzz: a call takes {what}: {work}");
    std::process::abort();
}

/// Runs `call` and counts its edges. One that takes more than `most.work` edges or more than `most.stack` bytes
/// of stack ends the process.
pub fn watch<T>(most: Cost, call: impl FnOnce() -> T) -> (T, Cost) {
    let here = (&raw const most).addr();
    WORK.store(0, Relaxed);
    MOST_WORK.store(most.work, Relaxed);
    LOWEST.store(here, Relaxed);
    FLOOR.store(here.saturating_sub(most.stack), Relaxed);
    WATCHING.store(true, Relaxed);
    let out = call();
    WATCHING.store(false, Relaxed);
    let work = WORK.swap(0, Relaxed);
    MOST_WORK.store(MOST_TOTAL, Relaxed);
    let stack = here.saturating_sub(LOWEST.load(Relaxed));
    (out, Cost { work, stack })
}

/// Edges in the program; 0 where it was built without instrumentation.
pub fn edges() -> usize {
    EDGES.load(Relaxed)
}

/// Gives `see` the number of each edge taken since this was last called, with a bit for how often: once, twice, 3 times, 4 to 7,
/// 8 to 15, 16 to 31, 32 to 127, or more.
pub fn collect(mut see: impl FnMut(u32, u8)) {
    for touched in &TOUCHED[..TOUCHES.load(Relaxed)] {
        let edge = touched.load(Relaxed);
        let bucket = match COUNTS[edge as usize].swap(0, Relaxed) {
            0..=1 => 1,
            2 => 2,
            3 => 4,
            4..=7 => 8,
            8..=15 => 16,
            16..=31 => 32,
            32..=127 => 64,
            _ => 128,
        };
        see(edge, bucket);
    }
    TOUCHES.store(0, Relaxed);
}
