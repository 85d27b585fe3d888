// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory whose tag storage really aliases, and a record of all copies and all cache maintenance of a
//! call, each with what the ledger said at its time.

use crate::ground::Ground;
use crate::sim::Dram;
use std::cell::RefCell;
use tagstash::addr::{PAGE_SIZE, PhysAddr, PhysRange};
use tagstash::platform::{CHUNK, CacheMaintenance, CopyFault, PageMemory};
use tagstash::stash::metadata::Metadata;
use tagstash::sync::Ordering;

/// What was asked of the caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    BarrierInner,
    BarrierSystem,
    Tags,
    Data,
}

/// One operation, and the ledger at its time.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    pub kind: Kind,
    /// Of `Tags` and `Data`: what it was asked for, and the block.
    pub start: u64,
    pub end: u64,
    pub block: usize,
    /// The least of the claims that the block's frames count.
    pub claims: u64,
    /// Pages of the block whose claimed bit is set, and of these those in the range (`Tags`).
    pub bits: u32,
    pub own_bits: u32,
    /// A frame of the block is lent.
    pub active: bool,
}

/// A copy: from, to, bytes.
pub type Copy = (u64, u64, u64);

/// See the module. For one thread.
pub struct Traced {
    pub dram: Dram,
    pub ground: Ground,
    pub ops: RefCell<Vec<Op>>,
    pub copies: RefCell<Vec<Copy>>,
    metadata: Metadata<'static>,
}

impl Traced {
    pub fn new(ground: Ground, metadata: Metadata<'static>) -> Traced {
        Traced {
            dram: Dram::new(ground.layout.clone()),
            ground,
            ops: RefCell::default(),
            copies: RefCell::default(),
            metadata,
        }
    }

    fn barrier(&self, kind: Kind) {
        let op = Op {
            kind,
            start: 0,
            end: 0,
            block: usize::MAX,
            claims: 0,
            bits: 0,
            own_bits: 0,
            active: false,
        };
        self.ops.borrow_mut().push(op);
    }

    fn record(&self, kind: Kind, range: PhysRange) {
        let (start, end) = (range.start().0, range.end().0);
        let place = |b: &crate::ground::Block| if kind == Kind::Tags { b.data } else { b.storage };
        let number = self.ground.blocks.iter().position(|b| place(b).contains_range(&range));
        let number = number.unwrap_or_else(|| panic!("{kind:?} {range} is not of one block"));
        let block = &self.ground.blocks[number];
        let words = || {
            let frames = block.frames.clone();
            frames.map(|frame| self.metadata.load(frame as u32, Ordering::Relaxed))
        };
        let (mut bits, mut own_bits) = (0, 0);
        for (n, page) in (0..).zip((block.data.start().0..block.data.end().0).step_by(4096)) {
            let frame = (block.frames.start + n / 32) as u32;
            let set = self.metadata.claimed(frame).load(Ordering::Relaxed) >> (n % 32) & 1;
            bits += set;
            own_bits += if kind == Kind::Tags && page >= start && page < end { set } else { 0 };
        }
        self.ops.borrow_mut().push(Op {
            kind,
            start,
            end,
            block: number,
            claims: words().map(|word| word.claims()).min().unwrap_or(0),
            bits,
            own_bits,
            active: words().any(|word| word.is_active()),
        });
    }
}

impl PageMemory for Traced {
    fn copy_chunk_in(&self, from: PhysAddr, to: PhysAddr) -> Result<(), CopyFault> {
        // Also where it ends in an abort.
        self.copies.borrow_mut().push((from.0, to.0, CHUNK));
        self.dram.copy_chunk_in(from, to)
    }

    fn copy_page_out(&self, from: PhysAddr, to: PhysAddr) -> Result<(), CopyFault> {
        self.copies.borrow_mut().push((from.0, to.0, PAGE_SIZE));
        self.dram.copy_page_out(from, to)
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

impl CacheMaintenance for Traced {
    fn barrier_inner(&self) {
        self.barrier(Kind::BarrierInner);
    }

    fn barrier_system(&self) {
        self.barrier(Kind::BarrierSystem);
    }

    fn clean_invalidate_tags(&self, range: PhysRange) {
        self.record(Kind::Tags, range);
    }

    fn clean_invalidate_data(&self, range: PhysRange) {
        self.record(Kind::Data, range);
    }

    fn relax(&self) {
        panic!("one thread would wait for ever");
    }
}
