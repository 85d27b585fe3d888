// SPDX-License-Identifier: MIT OR Apache-2.0
//! P4 and P5, step by step: a put is held in the middle of a chunk, and the other CPU does what
//! races with it. What is waited for, and for how long, is counted in the shim's own steps.

mod sim;

use sim::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use tagstash::addr::{PAGE_SIZE, PhysAddr, PhysRange};
use tagstash::hypercall::abi::Status;
use tagstash::platform::{CHUNK, CacheMaintenance, CopyFault, PageMemory};

const NOT_CACHED: i64 = Status::NotCached as i64;
const MISS: i64 = Status::Miss as i64;
const A: [u64; 3] = [1, 2, 3];
const CHUNKS: usize = (PAGE_SIZE / CHUNK) as usize;
const NEVER: usize = usize::MAX;

/// A machine on which a put stops in one of its chunks until it is let go.
struct Stalling {
    dram: Dram,
    /// The chunk in which the next put stops.
    stall_at: AtomicUsize,
    /// 0 running, 1 stopped, 2 let go.
    phase: AtomicUsize,
    /// Chunks begun.
    chunks: AtomicUsize,
    /// Polls of waiting claims.
    polls: AtomicUsize,
}

impl Stalling {
    fn new(layout: &Layout) -> Stalling {
        let number = AtomicUsize::new;
        Stalling {
            dram: Dram::new(layout.clone()),
            stall_at: number(NEVER),
            phase: number(0),
            chunks: number(0),
            polls: number(0),
        }
    }

    fn wait_until_stalled(&self) {
        while self.phase.load(Ordering::SeqCst) != 1 {
            std::thread::yield_now();
        }
    }

    fn let_go(&self) {
        self.phase.store(2, Ordering::SeqCst);
    }
}

/// Lets the writer go when the test is done with it, also when it failed: nothing hangs.
struct LetGo<'m>(&'m Stalling);

impl Drop for LetGo<'_> {
    fn drop(&mut self) {
        self.0.let_go();
    }
}

impl PageMemory for Stalling {
    fn copy_chunk_in(&self, from: PhysAddr, to: PhysAddr) -> Result<(), CopyFault> {
        let chunk = self.chunks.fetch_add(1, Ordering::SeqCst);
        if chunk == self.stall_at.load(Ordering::SeqCst) {
            self.phase.store(1, Ordering::SeqCst);
            while self.phase.load(Ordering::SeqCst) != 2 {
                std::thread::yield_now();
            }
        }
        self.dram.copy_chunk_in(from, to)
    }

    fn copy_page_out(&self, from: PhysAddr, to: PhysAddr) -> Result<(), CopyFault> {
        self.dram.copy_page_out(from, to)
    }

    fn crc32c(&self, seed: u32, range: PhysRange) -> Result<u32, CopyFault> {
        self.dram.crc32c(seed, range)
    }
}

impl CacheMaintenance for Stalling {
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
        // The claim waits, as it must: now the writer may go on.
        self.polls.fetch_add(1, Ordering::SeqCst);
        self.let_go();
        std::thread::yield_now();
    }
}

/// As [`race_under`], without verification.
fn race(
    stall_at: usize,
    frames: u64,
    racing: impl FnOnce(&Cpu<'_, '_, Stalling>, u64, &[u64]),
) -> (i64, usize) {
    race_under(0, stall_at, frames, racing)
}

/// Starts a put of (A, 0) that stops in chunk `stall_at`, lets `racing` run on another CPU, and
/// returns what the put came to and how many chunks it began. `flags` is for the activation.
fn race_under(
    flags: u64,
    stall_at: usize,
    frames: u64,
    racing: impl FnOnce(&Cpu<'_, '_, Stalling>, u64, &[u64]),
) -> (i64, usize) {
    let layout = Layout::one(frames, PAGE_SIZE);
    let pages = layout.guest_pages();
    with_service(&layout, 2, Stalling::new(&layout), |service| {
        let machine = service.platform();
        let (first, second) = (Cpu::new(service, 0), Cpu::new(service, 1));
        second.activate(flags);
        let pool = second.create_pool(12);
        machine.stall_at.store(stall_at, Ordering::SeqCst);
        std::thread::scope(|scope| {
            let put = scope.spawn(|| first.put(pool, (A, 0), pages[pages.len() - 1]));
            machine.wait_until_stalled();
            let stalled = LetGo(machine);
            // Others' puts are not held.
            machine.stall_at.store(NEVER, Ordering::SeqCst);
            racing(&second, pool, &pages);
            let before = machine.chunks.load(Ordering::SeqCst);
            assert!(before > stall_at, "it is in chunk {stall_at}");
            drop(stalled);
            let status = put.join().expect("the put returns");
            (status, machine.chunks.load(Ordering::SeqCst))
        })
    })
}

/// P4: the claim waits for the chunk under way and for no other; the put is refused.
#[test]
fn p4_a_claim_waits_for_one_chunk() {
    let chunks = [0, 1, CHUNKS / 2, CHUNKS - 1];
    // With verification and without: each has a copy loop of its own.
    for (stall_at, verify) in chunks.into_iter().flat_map(|chunk| [(chunk, 0), (chunk, 1)]) {
        let (status, chunks) = race_under(verify, stall_at, 1, |cpu, _, pages| {
            assert_eq!(cpu.reclaim(pages[0], 1), (OK, [1, 1, 0]));
            let machine = cpu.service.platform();
            assert!(machine.polls.load(Ordering::SeqCst) > 0, "it did not wait for the writer");
            assert!(cpu.statistic(15) > 0 && cpu.statistic(16) > 0);
            // P1: nothing is written any more.
            (0..256).for_each(|g| machine.dram.store_tag(pages[0] + 16 * g, 5));
            let chunks = machine.chunks.load(Ordering::SeqCst);
            assert_eq!(chunks, stall_at + 1, "no chunk after the one that was under way");
        });
        assert_eq!((status, chunks), (NOT_CACHED, stall_at + 1));
    }
}

/// P5: puts, gets and flushes of the same key do not wait for a writer, whatever it does.
#[test]
fn p5_nothing_but_a_claim_waits() {
    for frames in [1, 16] {
        let (status, _) = race(3, frames, |cpu, pool, pages| {
            assert_eq!(cpu.get(pool, (A, 0), pages[0]), MISS);
            assert_eq!(cpu.flush_page(pool, (A, 0)), OK);
            assert_eq!(cpu.flush_object(pool, A), OK);
            assert_eq!(cpu.flush_pool(pool), OK);
            // Counterexample 1: a second put of the key finds the first one under way. With
            // another frame free it must still not make a second copy.
            assert_eq!(cpu.put(pool, (A, 0), pages[0]), NOT_CACHED);
            assert_eq!(cpu.service.platform().polls.load(Ordering::SeqCst), 0);
        });
        assert_eq!(status, OK);
    }
}

/// P3: a put that was under way when its object was flushed may be found or not, but a put
/// that began after the flush is found.
#[test]
fn p3_a_flush_under_a_put_leaves_later_puts_alone() {
    race(3, 16, |cpu, pool, pages| {
        assert_eq!(cpu.flush_object(pool, A), OK);
        assert_eq!(cpu.put(pool, (A, 1), pages[0]), OK);
        assert_eq!(cpu.get(pool, (A, 1), pages[1]), OK);
    });
}

/// Counterexample 6: deactivation makes the writer stop and waits for it, and no count is
/// left over.
#[test]
fn p8_a_deactivation_waits_for_one_chunk_and_balances() {
    let (status, chunks) = race(4, 1, |cpu, _, _| {
        cpu.deactivate();
        assert!(cpu.service.platform().polls.load(Ordering::SeqCst) > 0);
        assert_eq!(cpu.census(), [0, 0, 0, 1]);
        cpu.activate(0);
        assert_eq!(cpu.census(), [0, 0, 1, 0]);
    });
    assert_eq!((status, chunks), (NOT_CACHED, 5));
}

/// Counterexample 3: claim and release behind a writer's back. The claim waits for the
/// writer, so the writer never takes the frame for its own again.
#[test]
fn p1_a_claim_that_is_released_at_once_still_stops_the_writer() {
    let (status, chunks) = race(4, 1, |cpu, _, pages| {
        assert_eq!(cpu.reclaim(pages[0], 1), (OK, [1, 1, 0]));
        assert_eq!(cpu.release(pages[0], 1), (OK, [1, 1, 0]));
        assert_eq!(cpu.census(), [0, 0, 1, 0]);
    });
    assert_eq!((status, chunks), (NOT_CACHED, 5));
}
