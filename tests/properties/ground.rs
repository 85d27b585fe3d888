// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where memory lies: regions, storage, holes, at random, and the arithmetic of it, which is on
//! purpose not the library's.

use crate::sim::{Layout, Piece, range};
use proptest::prelude::*;
use std::ops::Range;
use tagstash::addr::{PAGE_SIZE, PhysRange};
use tagstash::ram::GuestRam;

/// Bytes of data whose tags one byte of storage holds.
const DATA_PER_BYTE: u64 = 32;
/// RAM without tags, at the end, aligned to 64 KiB: what is put and got lies here.
pub const BUFFER: u64 = 8 << 16;

/// A region to be: blocks, and frames in a block.
#[derive(Clone, Copy, Debug)]
pub struct RegionPlan {
    pub blocks: u64,
    pub block_frames: u64,
}

/// What a test's memory is made of. Shrinks towards one small region without holes.
#[derive(Clone, Debug)]
pub struct GroundPlan {
    pub regions: Vec<RegionPlan>,
    /// In which order tagged memories and storages lie, and how many pages are between them.
    pub order: Vec<(u16, u8)>,
    pub base_page: u16,
    /// Where in RAM, as a fraction of it, and how many pages.
    pub holes: Vec<(u16, u8)>,
}

impl GroundPlan {
    /// Any such plan.
    pub fn any() -> impl Strategy<Value = GroundPlan> {
        let size = prop_oneof![Just(1u64), Just(2), Just(3), Just(4), Just(5), Just(8), Just(16)];
        let region = (1..=5u64, size).prop_map(|(blocks, block_frames)| RegionPlan {
            blocks: if block_frames == 1 { blocks * 4 } else { blocks },
            block_frames,
        });
        (
            prop::collection::vec(region, 1..=3),
            prop::collection::vec((any::<u16>(), 0..40u8), 6),
            0..64u16,
            prop::collection::vec((any::<u16>(), 1..50u8), 0..4),
        )
            .prop_map(|(regions, order, base_page, holes)| GroundPlan {
                regions,
                order,
                base_page,
                holes,
            })
    }
}

/// One block: its storage, the data it belongs to, and its frames in the common numbering.
#[derive(Clone, Debug)]
pub struct Block {
    pub storage: PhysRange,
    pub data: PhysRange,
    pub frames: Range<usize>,
}

/// Memory that is laid out.
#[derive(Clone, Debug)]
pub struct Ground {
    pub layout: Layout,
    pub holes: Vec<PhysRange>,
    /// In the order of the common numbering: by region, regions by their tagged memory.
    pub blocks: Vec<Block>,
    /// By region: its frames in the common numbering.
    pub regions: Vec<(Piece, Range<usize>)>,
    /// Guest pages with tags, in ascending order.
    pub tagged: Vec<u64>,
    /// First byte of [`BUFFER`].
    pub buffer: u64,
    ram: Vec<bool>,
}

impl Ground {
    /// Lays a plan out.
    pub fn new(plan: &GroundPlan) -> Ground {
        let base = 0x4000_0000 + u64::from(plan.base_page) * PAGE_SIZE;
        // Number 2 n is the tagged memory of region n, number 2 n + 1 its storage.
        let mut order: Vec<usize> = (0..2 * plan.regions.len()).collect();
        order.sort_by_key(|&n| plan.order[n].0);
        let mut starts = vec![0; order.len()];
        let mut next = base;
        for n in order {
            let RegionPlan { blocks, block_frames } = plan.regions[n / 2];
            let storage = blocks * block_frames * PAGE_SIZE;
            starts[n] = next;
            next += if n % 2 == 0 { storage * DATA_PER_BYTE } else { storage };
            next += u64::from(plan.order[n].1) * PAGE_SIZE;
        }
        let buffer = next.next_multiple_of(1 << 16);
        let mut pieces: Vec<Piece> = (0..)
            .zip(&plan.regions)
            .map(|(n, region): (usize, _)| Piece {
                tagged: starts[2 * n],
                storage: starts[2 * n + 1],
                storage_length: region.blocks * region.block_frames * PAGE_SIZE,
                block_size: region.block_frames * PAGE_SIZE,
            })
            .collect();
        pieces.sort_by_key(|piece| piece.tagged);
        let pages = (buffer - base) / PAGE_SIZE;
        let holes = plan
            .holes
            .iter()
            .map(|&(at, length)| {
                let first = (pages * u64::from(at)) >> 16;
                let length = u64::from(length).min(pages - first);
                range(base + first * PAGE_SIZE, length * PAGE_SIZE)
            })
            .collect();
        let layout = Layout { base, length: buffer + BUFFER - base, pieces: pieces.clone() };
        let mut ground = Ground {
            layout,
            holes,
            blocks: vec![],
            regions: vec![],
            tagged: vec![],
            buffer,
            ram: vec![],
        };
        let mut frames = 0;
        for piece in pieces {
            let first = frames;
            for n in 0..piece.storage_length / piece.block_size {
                let end = frames + (piece.block_size / PAGE_SIZE) as usize;
                let data = piece.block_size * DATA_PER_BYTE;
                ground.blocks.push(Block {
                    storage: range(piece.storage + n * piece.block_size, piece.block_size),
                    data: range(piece.tagged + n * data, data),
                    frames: frames..end,
                });
                frames = end;
            }
            ground.regions.push((piece, first..frames));
        }
        let end = base + ground.layout.length;
        let free = |page: u64| {
            let is_in = |r: &PhysRange| page >= r.start().0 && page < r.end().0;
            !ground.holes.iter().any(is_in) && !ground.blocks.iter().any(|b| is_in(&b.storage))
        };
        ground.ram = (base..end).step_by(PAGE_SIZE as usize).map(free).collect();
        ground.tagged = (base..end)
            .step_by(PAGE_SIZE as usize)
            .filter(|&page| ground.is_ram(page) && ground.block_of(page).is_some())
            .collect();
        ground
    }

    /// Guest RAM, as the shim is told.
    pub fn guest_ram(&self) -> GuestRam {
        let storage = self.layout.pieces.iter().map(|p| range(p.storage, p.storage_length));
        let holes: Vec<PhysRange> = storage.chain(self.holes.iter().copied()).collect();
        GuestRam::new(&[range(self.layout.base, self.layout.length)], &holes)
    }

    /// Says whether the page at `address` is guest RAM.
    pub fn is_ram(&self, address: u64) -> bool {
        address
            .checked_sub(self.layout.base)
            .and_then(|offset| self.ram.get((offset / PAGE_SIZE) as usize))
            .is_some_and(|&is| is)
    }

    /// Frames in all regions.
    pub fn frames(&self) -> usize {
        self.blocks.last().map_or(0, |block| block.frames.end)
    }

    /// The number of the block that stores the tags of the byte at `address`.
    pub fn block_of(&self, address: u64) -> Option<usize> {
        self.blocks.iter().position(|b| address >= b.data.start().0 && address < b.data.end().0)
    }

    /// The first byte of frame number `frame`.
    pub fn frame_address(&self, frame: usize) -> u64 {
        let block = self.blocks.iter().find(|block| block.frames.contains(&frame));
        let block = block.expect("there is such a frame");
        block.storage.start().0 + (frame - block.frames.start) as u64 * PAGE_SIZE
    }

    /// The number of the frame at `address`.
    pub fn frame_at(&self, address: u64) -> Option<usize> {
        let is_in = |b: &&Block| address >= b.storage.start().0 && address < b.storage.end().0;
        let block = self.blocks.iter().find(is_in)?;
        Some(block.frames.start + ((address - block.storage.start().0) / PAGE_SIZE) as usize)
    }
}
