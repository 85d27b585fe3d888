// SPDX-License-Identifier: MIT OR Apache-2.0
//! The simulated machine under shuttle: memory whose tag storage really aliases, copies that other
//! threads may come between, and ghosts that watch what no CPU can see.

use crate::sim::{Dram, Layout};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tagstash::addr::{PAGE_SIZE, PhysAddr, PhysRange};
use tagstash::platform::{CHUNK, CacheMaintenance, CopyFault, PageMemory};
use tagstash::sync::switch_point;

/// Most CPUs: the main task, which runs before and after the others, and four more.
pub const CPUS: usize = 5;

/// The CPU that runs now: shuttle's number of the task.
pub fn this_cpu() -> usize {
    shuttle::current::me().into()
}

/// See the module.
pub struct Machine {
    pub dram: Dram,
    ghost: Mutex<Ghost>,
    clock: AtomicU64,
}

/// What is known of the machine besides its memory.
struct Ghost {
    /// Pages whose tags are in use, by address, and how many there are in each block.
    held: BTreeSet<u64>,
    held_in: Vec<u32>,
    /// Frames that were written since their last maintenance.
    dirty: Vec<bool>,
    /// By CPU: the frames that its claim names, and whether it waits for their writers.
    claims: [(Range<usize>, bool); CPUS],
    /// By CPU that waits and CPU that writes: chunks written since the wait began.
    chunks: [[u32; CPUS]; CPUS],
}

impl Machine {
    pub fn new(layout: Layout) -> Machine {
        let frames = layout.pieces.iter().map(|p| p.storage_length / PAGE_SIZE).sum::<u64>();
        let ghost = Ghost {
            held: BTreeSet::new(),
            held_in: vec![0; frames as usize],
            dirty: vec![false; frames as usize],
            claims: [const { (0..0, false) }; CPUS],
            chunks: [[0; CPUS]; CPUS],
        };
        Machine { dram: Dram::new(layout), ghost: Mutex::new(ghost), clock: AtomicU64::new(1) }
    }

    /// A number larger than any before: a time, or the stamp of a page.
    pub fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Relaxed)
    }

    fn ghost<R>(&self, change: impl FnOnce(&mut Ghost) -> R) -> R {
        // A thread that failed may have had it: the failure that is shown is that one.
        change(&mut self.ghost.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    /// The frames of the block that stores byte `storage`, in the order of the layout's pieces.
    fn block_of(&self, storage: u64) -> Option<Range<usize>> {
        let mut first = 0;
        for piece in &self.dram.layout.pieces {
            let frames = (piece.storage_length / PAGE_SIZE) as usize;
            if (piece.storage..piece.storage + piece.storage_length).contains(&storage) {
                let size = (piece.block_size / PAGE_SIZE) as usize;
                let start = first + ((storage - piece.storage) / piece.block_size) as usize * size;
                return Some(start..start + size);
            }
            first += frames;
        }
        None
    }

    fn frame_of(&self, storage: u64) -> usize {
        let block = self.block_of(storage).expect("a copy goes into tag storage");
        let piece = self
            .dram
            .layout
            .pieces
            .iter()
            .find(|p| (p.storage..p.storage + p.storage_length).contains(&storage));
        let piece = piece.expect("it has a block");
        block.start + ((storage - piece.storage) % piece.block_size / PAGE_SIZE) as usize
    }

    fn block_of_page(&self, page: u64) -> Option<Range<usize>> {
        self.dram.layout.tag_place(page).and_then(|(byte, _)| self.block_of(byte))
    }

    /// Says that a claim of `pages` begins on this CPU. They are of one region and one batch: all
    /// are counted before the first wait.
    pub fn begin_claim(&self, pages: impl Iterator<Item = u64>) {
        let blocks = pages.filter_map(|page| self.block_of_page(page));
        let frames = blocks.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end));
        self.ghost(|ghost| ghost.claims[this_cpu()] = (frames.unwrap_or(0..0), false));
    }

    /// Says that the tags of a page are in use from now on: it was claimed.
    pub fn hold(&self, page: u64) {
        let Some(block) = self.block_of_page(page) else {
            return;
        };
        self.ghost(|ghost| {
            if ghost.held.insert(page) {
                ghost.held_in[block.start] += 1;
            }
            for frame in block {
                assert!(!ghost.dirty[frame], "frame {frame} is in tags and has dirty data lines");
            }
        });
    }

    /// Says whether the tags of a page are in use.
    pub fn is_held(&self, page: u64) -> bool {
        self.ghost(|ghost| ghost.held.contains(&page))
    }

    /// Says that the tags of a page are in use no more.
    pub fn let_go(&self, page: u64) {
        let Some(block) = self.block_of_page(page) else {
            return;
        };
        self.ghost(|ghost| {
            if ghost.held.remove(&page) {
                ghost.held_in[block.start] -= 1;
            }
        });
    }

    /// Says that no page's tags can be relied on.
    pub fn let_all_go(&self) {
        self.ghost(|ghost| {
            ghost.held.clear();
            ghost.held_in.fill(0);
        });
    }
}

impl PageMemory for Machine {
    fn copy_chunk_in(&self, from: PhysAddr, to: PhysAddr) -> Result<(), CopyFault> {
        let (me, frame) = (this_cpu(), self.frame_of(to.0));
        let block = self.block_of(to.0).expect("it is a frame's");
        for half in [0, CHUNK / 2] {
            // After the look at the state word, and in the midst of the chunk.
            switch_point();
            self.ghost(|ghost| {
                let held = ghost.held_in[block.start];
                assert_eq!(held, 0, "frame {frame} was written, and {held} pages use its block");
                ghost.dirty[frame] = true;
                for (waiting, (frames, waits)) in ghost.claims.iter().enumerate() {
                    if half == 0 && *waits && frames.contains(&frame) {
                        let chunks = &mut ghost.chunks[waiting][me];
                        *chunks += 1;
                        assert!(*chunks <= 1, "a claim waited for {chunks} chunks of one put");
                    }
                }
            });
            self.dram.copy(from.0 + half, to.0 + half, CHUNK / 2);
        }
        Ok(())
    }

    fn copy_page_out(&self, from: PhysAddr, to: PhysAddr) -> Result<(), CopyFault> {
        for offset in (0..PAGE_SIZE).step_by(CHUNK as usize) {
            switch_point();
            self.dram.copy(from.0 + offset, to.0 + offset, CHUNK);
        }
        Ok(())
    }

    /// Not a CRC, and quick: a sum in which every word and its place count.
    fn crc32c(&self, seed: u32, range: PhysRange) -> Result<u32, CopyFault> {
        let words = (range.start().0..range.end().0).step_by(8);
        Ok(words.fold(seed, |sum, address| {
            let word = self.dram.load(address);
            sum.wrapping_mul(0x9e37_79b1).wrapping_add((word ^ word >> 32) as u32 + 1)
        }))
    }
}

impl CacheMaintenance for Machine {
    /// A claim looks for writers no more when it comes to a barrier.
    fn barrier_inner(&self) {
        switch_point();
        let me = this_cpu();
        self.ghost(|ghost| {
            ghost.claims[me] = (0..0, false);
            ghost.chunks[me] = [0; CPUS];
        });
    }

    fn barrier_system(&self) {
        switch_point();
    }

    fn clean_invalidate_tags(&self, range: PhysRange) {
        switch_point();
        self.dram.clean_invalidate_tags(range);
    }

    fn clean_invalidate_data(&self, range: PhysRange) {
        switch_point();
        self.dram.clean_invalidate_data(range);
        self.ghost(|ghost| {
            for page in (range.start().0..range.end().0).step_by(PAGE_SIZE as usize) {
                ghost.dirty[self.frame_of(page)] = false;
            }
        });
    }

    fn relax(&self) {
        self.ghost(|ghost| ghost.claims[this_cpu()].1 = true);
        shuttle::thread::yield_now();
    }
}
