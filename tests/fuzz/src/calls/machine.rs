// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine that calls are made on: the simulated DRAM of the host tests, whose tag storage aliases, with a log of
//! all that the shim does to it, external aborts and interrupts at a chosen moment.

use crate::sim::{Dram, Layout};
use std::cell::{Cell, RefCell};
use tagstash::addr::{PAGE_SIZE, PhysAddr, PhysRange};
use tagstash::platform::{CHUNK, CacheMaintenance, Caller, CopyFault, PageMemory};

/// One thing that the shim did. The shim has no other way to memory than these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Copied a chunk into a frame.
    In { from: u64, to: u64, fault: bool },
    /// Copied a frame to a page.
    Out { from: u64, to: u64, fault: bool },
    /// Read for a checksum.
    Crc { start: u64, end: u64, fault: bool },
    /// Cleaned the tags of this data.
    Tags { start: u64, end: u64 },
    /// Cleaned this storage.
    Data { start: u64, end: u64 },
    /// Asked whether an interrupt is pending, and the answer.
    Poll(bool),
}

/// More than any call does.
const LOG: usize = 1 << 17;

/// An external abort to come.
#[derive(Clone, Copy, Debug)]
pub struct Abort {
    /// Accesses before it.
    pub after: u32,
    /// All that follow abort too.
    pub lasting: bool,
}

pub struct Machine {
    pub dram: Dram,
    log: RefCell<Vec<Access>>,
    /// Pages that were written since the machine was made.
    dirty: RefCell<(Vec<bool>, Vec<u64>)>,
    pub abort: Cell<Option<Abort>>,
    /// Looks at pending interrupts before one is there; none comes if `None`.
    pub interrupt: Cell<Option<u32>>,
}

impl Machine {
    /// A machine whose memory is that of `largest`.
    pub fn new(largest: Layout) -> Machine {
        let pages = (largest.length / PAGE_SIZE) as usize;
        let (base, end) = (largest.base, largest.base + largest.length);
        let dram = Dram::new(largest);
        // What a page takes when it is first touched would count as the shim's heap.
        (base..end).step_by(PAGE_SIZE as usize).for_each(|page| _ = dram.load(page));
        Machine {
            dram,
            log: RefCell::new(Vec::with_capacity(LOG)),
            dirty: RefCell::new((vec![false; pages], Vec::with_capacity(pages))),
            abort: Cell::new(None),
            interrupt: Cell::new(None),
        }
    }

    /// Starts again, zeroed, as another machine of the same base and no more memory.
    pub fn reset(&mut self, layout: Layout) {
        let (dirty, list) = &mut *self.dirty.borrow_mut();
        for page in list.drain(..) {
            (0..PAGE_SIZE).step_by(8).for_each(|offset| self.dram.store(page + offset, 0));
            dirty[((page - self.dram.layout.base) / PAGE_SIZE) as usize] = false;
        }
        self.dram.layout = layout;
    }

    /// Stores one word; every store of anybody goes through here or [`touch`](Self::touch).
    pub fn store(&self, address: u64, value: u64) {
        self.touch(address);
        self.dram.store(address, value);
    }

    /// Remembers that a page is written.
    pub fn touch(&self, address: u64) {
        let page = address & !(PAGE_SIZE - 1);
        let (dirty, list) = &mut *self.dirty.borrow_mut();
        let known = &mut dirty[((page - self.dram.layout.base) / PAGE_SIZE) as usize];
        if !*known {
            *known = true;
            list.push(page);
        }
    }

    /// What was done since this was last called.
    pub fn take_log(&self, out: &mut Vec<Access>) {
        out.clear();
        out.append(&mut self.log.borrow_mut());
    }

    fn note(&self, access: Access) {
        let mut log = self.log.borrow_mut();
        // It would count as the shim's heap.
        assert!(log.len() < LOG, "a call does more than any call has to");
        log.push(access);
    }

    /// Says whether this access aborts.
    fn aborts(&self) -> bool {
        match self.abort.get() {
            None => false,
            Some(Abort { after: 0, lasting }) => {
                self.abort.set(lasting.then_some(Abort { after: 0, lasting }));
                true
            }
            Some(abort) => {
                self.abort.set(Some(Abort { after: abort.after - 1, ..abort }));
                false
            }
        }
    }

    fn copy(&self, from: u64, to: u64, length: u64, fault: bool) -> Result<(), CopyFault> {
        self.touch(to);
        // An abort leaves part of it written.
        self.dram.copy(from, to, if fault { length / 2 } else { length });
        if fault { Err(CopyFault) } else { Ok(()) }
    }
}

impl PageMemory for Machine {
    fn copy_chunk_in(&self, from: PhysAddr, to: PhysAddr) -> Result<(), CopyFault> {
        let fault = self.aborts();
        self.note(Access::In { from: from.0, to: to.0, fault });
        self.copy(from.0, to.0, CHUNK, fault)
    }

    fn copy_page_out(&self, from: PhysAddr, to: PhysAddr) -> Result<(), CopyFault> {
        let fault = self.aborts();
        self.note(Access::Out { from: from.0, to: to.0, fault });
        self.copy(from.0, to.0, PAGE_SIZE, fault)
    }

    fn crc32c(&self, seed: u32, range: PhysRange) -> Result<u32, CopyFault> {
        let (start, end) = (range.start().0, range.end().0);
        // Which frame a put has taken shows at its first copy: what reads before that aborts there.
        let first = range.len() == CHUNK && start.is_multiple_of(PAGE_SIZE);
        let fault = !first && self.aborts();
        self.note(Access::Crc { start, end, fault });
        if fault { Err(CopyFault) } else { Ok(self.dram.crc(seed, range)) }
    }
}

impl CacheMaintenance for Machine {
    fn barrier_inner(&self) {}

    fn barrier_system(&self) {}

    fn clean_invalidate_tags(&self, range: PhysRange) {
        self.dram.clean_invalidate_tags(range);
        self.note(Access::Tags { start: range.start().0, end: range.end().0 });
    }

    fn clean_invalidate_data(&self, range: PhysRange) {
        self.dram.clean_invalidate_data(range);
        self.note(Access::Data { start: range.start().0, end: range.end().0 });
    }

    fn relax(&self) {
        panic!("a call waits, and nobody else runs");
    }
}

/// A CPU of the machine.
pub struct Vcpu<'m> {
    pub machine: &'m Machine,
    pub number: usize,
    pub now: u64,
}

impl Caller for Vcpu<'_> {
    fn cpu(&self) -> usize {
        self.number
    }

    fn interrupted(&self) -> bool {
        let left = self.machine.interrupt.get();
        self.machine.interrupt.set(left.map(|left| left.saturating_sub(1)));
        self.machine.note(Access::Poll(left == Some(0)));
        left == Some(0)
    }

    fn now(&self) -> u64 {
        self.now
    }
}
