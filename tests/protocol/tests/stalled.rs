// SPDX-License-Identifier: MIT OR Apache-2.0
//! P4, step by step: puts are held before each of their steps in turn (every access to an atomic
//! integer, every fence, both ends and the middle of every chunk), and another CPU claims the
//! blocks that they write. Counted are the chunks that the claim waited for: at most one for each
//! put, and none is written after the claim has returned.
//!
//! Prints a table, which `make bench` shows.

#![cfg(traced)]

#[path = "../../sim/mod.rs"]
mod sim;

use sim::*;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tagstash::addr::{PAGE_SIZE, PhysAddr, PhysRange};
use tagstash::hypercall::abi::Status;
use tagstash::platform::{CHUNK, CacheMaintenance, CopyFault, PageMemory};
use tagstash::sync::{Event, Kind, set_hook};

const CHUNKS: usize = (PAGE_SIZE / CHUNK) as usize;
const NOT_CACHED: i64 = Status::NotCached as i64;

/// What a put does next.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Atomic(Kind),
    Fence,
    Checksum,
    Chunk,
    MiddleOfChunk,
    EndOfChunk,
}

/// Where a put is stopped.
#[derive(Default)]
struct Gate(AtomicUsize);

impl Gate {
    const STOPPED: usize = 1;
    const OPEN: usize = 2;
    const RETURNED: usize = 3;

    fn stop(&self) {
        if self.0.compare_exchange(0, Self::STOPPED, SeqCst, SeqCst).is_ok() {
            while self.0.load(SeqCst) != Self::OPEN {
                std::thread::yield_now();
            }
        }
    }

    fn wait(&self) {
        while self.0.load(SeqCst) == 0 {
            std::thread::yield_now();
        }
    }
}

/// A put on this thread.
struct Writer {
    stop_at: usize,
    /// The steps made before it was stopped, and the one that came next.
    steps: Vec<Step>,
    gate: Arc<Gate>,
}

thread_local! {
    static WRITER: RefCell<Option<Writer>> = const { RefCell::new(None) };
}

fn step(step: Step) {
    let gate = WRITER.with_borrow_mut(|writer| {
        let writer = writer.as_mut()?;
        if writer.steps.len() <= writer.stop_at {
            writer.steps.push(step);
        }
        (writer.steps.len() == writer.stop_at + 1).then(|| writer.gate.clone())
    });
    if let Some(gate) = gate {
        gate.stop();
    }
}

fn on_event(event: Event) {
    match event {
        Event::Before(_, kind) => step(Step::Atomic(kind)),
        Event::Fence(_) => step(Step::Fence),
        Event::After(..) => {}
    }
}

/// What a put was doing when it was stopped, in the order of its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Window {
    Before,
    Taken,
    InChunk,
    BetweenChunks,
    Copied,
    Published,
}

impl Window {
    fn of(steps: &[Step]) -> Window {
        let (next, made) = steps.split_last().expect("it was stopped");
        let count = |wanted: Step| made.iter().filter(|&&step| step == wanted).count();
        let swaps = count(Step::Atomic(Kind::CompareExchange));
        match (swaps, next, count(Step::EndOfChunk)) {
            (0, ..) => Window::Before,
            (1, Step::Atomic(_) | Step::Fence, 0) => Window::Taken,
            (1, Step::Atomic(_) | Step::Fence, CHUNKS) => Window::Copied,
            (1, Step::Atomic(_) | Step::Fence, _) => Window::BetweenChunks,
            (1, ..) => Window::InChunk,
            _ => Window::Published,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Window::Before => "before it takes a frame",
            Window::Taken => "taken, before it looks at its word",
            Window::InChunk => "in one of the 16 chunks",
            Window::BetweenChunks => "between chunks, before it looks",
            Window::Copied => "copied, before it publishes",
            Window::Published => "published",
        }
    }
}

struct Machine {
    dram: Dram,
    gates: Vec<Arc<Gate>>,
    chunks: AtomicUsize,
}

impl Machine {
    fn let_go(&self) {
        for gate in &self.gates {
            let _ = gate.0.compare_exchange(Gate::STOPPED, Gate::OPEN, SeqCst, SeqCst);
        }
    }
}

impl PageMemory for Machine {
    fn copy_chunk_in(&self, from: PhysAddr, to: PhysAddr) -> Result<(), CopyFault> {
        step(Step::Chunk);
        self.dram.copy(from.0, to.0, CHUNK / 2);
        step(Step::MiddleOfChunk);
        self.dram.copy(from.0 + CHUNK / 2, to.0 + CHUNK / 2, CHUNK / 2);
        step(Step::EndOfChunk);
        self.chunks.fetch_add(1, SeqCst);
        Ok(())
    }

    fn copy_page_out(&self, from: PhysAddr, to: PhysAddr) -> Result<(), CopyFault> {
        self.dram.copy_page_out(from, to)
    }

    fn crc32c(&self, seed: u32, range: PhysRange) -> Result<u32, CopyFault> {
        step(Step::Checksum);
        self.dram.crc32c(seed, range)
    }
}

impl CacheMaintenance for Machine {
    fn barrier_inner(&self) {
        self.dram.barrier_inner();
    }

    fn barrier_system(&self) {
        self.dram.barrier_system();
    }

    fn clean_invalidate_tags(&self, range: PhysRange) {
        self.dram.clean_invalidate_tags(range);
    }

    fn clean_invalidate_data(&self, range: PhysRange) {
        self.dram.clean_invalidate_data(range);
    }

    fn relax(&self) {
        // The claim waits: now, and not before, the writers go on.
        self.let_go();
        std::thread::yield_now();
    }
}

/// What the puts write, and what is claimed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Case {
    puts: usize,
    blocks: usize,
    verify: bool,
}

/// Stops the puts in their step number `stop_at`, and claims all blocks in one call. Returns the
/// window, and the chunks that the claim waited for; `None` if a put has no such step.
fn race(case: Case, stop_at: usize) -> Option<(Window, usize)> {
    let frames = case.puts as u64;
    let layout = Layout::one(frames, frames * PAGE_SIZE / case.blocks as u64);
    let pages = layout.guest_pages();
    let gates: Vec<Arc<Gate>> = (0..case.puts).map(|_| Arc::default()).collect();
    let machine = Machine { dram: Dram::new(layout.clone()), gates, chunks: AtomicUsize::new(0) };
    with_service(&layout, 1 + case.puts, machine, |service| {
        let machine = service.platform();
        let claimer = Cpu::new(service, 0);
        claimer.activate(u64::from(case.verify));
        let pool = claimer.create_pool(12);
        let writers: Vec<_> = (1..=case.puts).map(|cpu| Cpu::new(service, cpu)).collect();
        std::thread::scope(|scope| {
            let puts: Vec<_> = writers
                .iter()
                .zip(&machine.gates)
                .map(|(cpu, gate)| {
                    let source = pages[pages.len() - cpu.number];
                    let put = scope.spawn(move || {
                        let writer = Writer { stop_at, steps: Vec::new(), gate: gate.clone() };
                        WRITER.set(Some(writer));
                        set_hook(Some(on_event));
                        let status = cpu.put(pool, ([cpu.number as u64, 0, 0], 0), source);
                        set_hook(None);
                        let _ = gate.0.compare_exchange(0, Gate::RETURNED, SeqCst, SeqCst);
                        (status, WRITER.take().expect("it was set").steps)
                    });
                    // One after the other, so that each finds the frames of those before it taken.
                    gate.wait();
                    put
                })
                .collect();
            let before = machine.chunks.load(SeqCst);
            let all = frames * 32;
            assert_eq!(claimer.reclaim(pages[0], all), (OK, [all, all, 0]));
            let after = machine.chunks.load(SeqCst);
            machine.let_go();
            let done: Vec<_> =
                puts.into_iter().map(|put| put.join().expect("it returns")).collect();
            assert_eq!(machine.chunks.load(SeqCst), after, "P1: a chunk after the claim returned");
            assert_eq!(claimer.census(), [frames, 0, 0, 0]);
            let (_, steps) = &done[0];
            if steps.len() <= stop_at {
                return None;
            }
            let window = Window::of(steps);
            if window != Window::Published {
                assert!(done.iter().all(|(status, _)| *status == NOT_CACHED), "{window:?}");
            }
            Some((window, after - before))
        })
    })
}

#[test]
fn p4_a_claim_waits_for_one_chunk_of_each_put_at_most() {
    let case = |puts, blocks, verify| Case { puts, blocks, verify };
    let cases = [case(1, 1, false), case(2, 1, false), case(2, 2, false), case(1, 1, true)];
    let mut table: BTreeMap<Window, [(usize, usize); 4]> = BTreeMap::new();
    for (column, case) in cases.into_iter().enumerate() {
        for stop_at in 0.. {
            let Some((window, waited)) = race(case, stop_at) else { break };
            assert!(waited <= case.puts, "{window:?}: waited for {waited} chunks");
            if window == Window::InChunk {
                assert_eq!(waited, case.puts, "it was not stopped there");
            }
            let (steps, most) = &mut table.entry(window).or_default()[column];
            *steps += 1;
            *most = waited.max(*most);
        }
    }
    let steps = |window: Window| table[&window].map(|(steps, _)| steps);
    // Both ends and the middle of each chunk, and the checksum; the look at the word between.
    assert_eq!(steps(Window::InChunk), [3 * CHUNKS, 3 * CHUNKS, 3 * CHUNKS, 4 * CHUNKS]);
    assert_eq!(steps(Window::BetweenChunks), [CHUNKS - 1; 4]);
    for window in [Window::Before, Window::Taken, Window::Copied] {
        assert!(steps(window).iter().all(|&steps| steps > 0), "{window:?} was never met");
    }
    println!("stalled: {:36} steps  1 put  2 puts  2 blocks  verified", "the put is stopped");
    for (window, row) in &table {
        let [one, two, blocks, verified] = row.map(|(_, most)| most);
        let (words, steps) = (window.words(), row[0].0);
        println!("stalled: {words:36} {steps:5} {one:6} {two:7} {blocks:9} {verified:9}");
    }
}
