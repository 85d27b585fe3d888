// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest in front of the stash: a page cache that turns reads and writes of files into the
//! calls that Linux's page cache makes.
//!
//! * A page that leaves it is put if it was read from disk. One that was only written is not:
//!   Linux flushes it then, and so does this.
//! * A page that it misses is asked of the stash, after room was made for it.
//! * A truncate flushes each cached page, and the object before and after.
//! * An inode that is evicted flushes its object.

use crate::queue::Queue;
use crate::trace::{File, Operation, Page, Trace};

/// A page cache with LRU replacement, and the trace of what it asks.
#[derive(Debug)]
pub struct Guest {
    /// What was asked so far.
    pub trace: Trace,
    cached: Queue,
    capacity: u32,
    /// Read from disk, not written: what a put is made of.
    from_disk: Vec<bool>,
    misses: u64,
}

impl Guest {
    /// A page cache of `capacity` pages in front of a stash of `frames` frames.
    pub fn new(frames: u32, capacity: u32) -> Guest {
        let trace = Trace { frames, ..Trace::default() };
        Guest { trace, cached: Queue::new(0), capacity, from_disk: vec![], misses: 0 }
    }

    /// Adds a file of so many pages.
    pub fn add_file(&mut self, pages: u32) -> File {
        let file = self.trace.add_file(pages);
        self.cached.grow(self.trace.pages());
        self.from_disk.resize(self.trace.pages(), false);
        file
    }

    fn ask(&mut self, operation: Operation) {
        self.trace.operations.push(operation);
    }

    /// Makes room for one page more.
    fn make_room(&mut self) {
        if self.cached.len() < self.capacity {
            return;
        }
        if let Some(page) = self.cached.pop() {
            match self.from_disk[page as usize] {
                true => self.ask(Operation::Put(page)),
                false => self.ask(Operation::FlushPage(page)),
            }
        }
    }

    /// Reads a page.
    pub fn read(&mut self, page: Page) {
        if !self.cached.remove(page) {
            self.misses += 1;
            self.make_room();
            self.ask(Operation::Get(page));
            self.from_disk[page as usize] = true;
        }
        self.cached.push(page);
    }

    /// Writes a whole page, which need not be read before.
    pub fn write(&mut self, page: Page) {
        if !self.cached.remove(page) {
            self.misses += 1;
            self.make_room();
            self.from_disk[page as usize] = false;
        }
        self.cached.push(page);
    }

    /// Truncates a file to nothing, or deletes it.
    pub fn truncate(&mut self, file: File) {
        self.ask(Operation::FlushFile(file));
        for page in self.trace.files[file as usize].clone() {
            if self.cached.remove(page) {
                self.ask(Operation::FlushPage(page));
            }
        }
        self.ask(Operation::FlushFile(file));
    }

    /// Says whether any page of a file is cached.
    pub fn has_pages_of(&self, file: File) -> bool {
        self.trace.files[file as usize].clone().any(|page| self.cached.has(page))
    }

    /// Evicts the inode of a file that has no page in the cache.
    pub fn evict_inode(&mut self, file: File) {
        self.ask(Operation::FlushFile(file));
    }

    /// Claims or releases storage.
    pub fn tag(&mut self, operation: Operation) {
        self.ask(operation);
    }

    /// Pages that were read or written and not cached.
    pub fn misses(&self) -> u64 {
        self.misses
    }

    /// From here on hits are counted.
    pub fn warm(&mut self) {
        self.trace.warm_up = self.trace.operations.len();
    }
}
