// SPDX-License-Identifier: MIT OR Apache-2.0
//! Read-only passes over a set of files: made once, then read whole, in order or at random.

use linux_program::println;

use crate::content::{CELL, CELL_WORDS, Cell, PAGE, PAGE_CELLS};
use crate::file::{File, MOST_CELLS, Path, compare, words};
use crate::random::Random;
use crate::sys::{self, Change, Errno, Result};

/// The set of files.
#[derive(Clone, Copy, Debug)]
pub struct Set<'a> {
    /// Where they are.
    pub directory: &'a str,
    /// How many.
    pub files: u64,
    /// KiB of each.
    pub size: u64,
    /// The number of the first: sets with other numbers have other contents.
    pub first: u64,
}

/// In which order a pass reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// File by file from the beginning to the end, 64 KiB at a time.
    Loop,
    /// As many pages as there are, picked at random, each alike.
    Uniform,
    /// As many pages as there are, picked at random, four of five of them from a fifth of the set.
    Skewed,
}

impl Set<'_> {
    fn cells(&self) -> u64 {
        self.size * 1024 / CELL
    }

    /// Writes all files to the disk; returns the exit status.
    pub fn make(&self) -> u64 {
        finish("make", self.try_make().map(|()| 0))
    }

    fn try_make(&self) -> Result<()> {
        let buffer = words(MOST_CELLS * CELL_WORDS as u64)?;
        for id in 0..self.files {
            let mut file = File::create(self.directory, (self.first + id) as u32, self.cells())?;
            // By one version, so that whoever reads them knows it.
            file.fill(buffer)?;
            file.sync()?;
        }
        println!("filework: {} files of {} KiB made", self.files, self.size);
        Ok(())
    }

    /// Reads by several processes at once, each a whole pass; returns the exit status.
    pub fn pass(&self, order: Order, seed: u64, processes: u64) -> u64 {
        let mut children = [0; crate::work::MOST_PROCESSES as usize];
        for (number, child) in (1..processes).zip(&mut children) {
            // SAFETY: nothing is shared.
            match unsafe { sys::fork() } {
                Ok(0) => sys::exit(finish("pass", self.try_pass(order, seed, number))),
                Ok(id) => *child = id,
                Err(Errno(error)) => {
                    println!("filework: a process cannot be made: error {error}");
                    return 1;
                }
            }
        }
        let mut status = finish("pass", self.try_pass(order, seed, 0));
        for child in children.into_iter().filter(|&child| child != 0) {
            if sys::wait(child) != Ok(Change::Exited(0)) {
                status = 1;
            }
        }
        status
    }

    fn try_pass(&self, order: Order, seed: u64, process: u64) -> Result<u64> {
        let buffer = words(MOST_CELLS * CELL_WORDS as u64)?;
        let files = words(self.files)?;
        for (id, file) in (0..).zip(files.iter_mut()) {
            let path = Path::new(self.directory, self.first as u32 + id).ok_or(Errno(36))?;
            *file = sys::make(path.bytes(), false)?;
        }
        let mut read = |id: u64, first: u64, cells: u64| {
            let words = &mut buffer[..cells as usize * CELL_WORDS];
            sys::pread(files[id as usize], words, first * CELL)?;
            let file = (self.first + id) as u32;
            Ok(compare(words, first, "read", |index| Cell { file, index, version: 1 }))
        };
        let mut random = Random::new(seed, process);
        let mut wrong = 0;
        let pages = self.files * self.size * 1024 / PAGE;
        if order == Order::Loop {
            for id in 0..self.files {
                // Processes begin at different files, so that they do not do each other's reading.
                let id = (id + process * self.files / 2) % self.files;
                let mut at = 0;
                while at < self.cells() {
                    let cells = (self.cells() - at).min(MOST_CELLS);
                    wrong += read(id, at, cells)?;
                    at += cells;
                }
            }
        } else {
            for _ in 0..pages {
                let hot = order == Order::Skewed && random.below(5) != 0;
                let page = random.below(if hot { pages.div_ceil(5) } else { pages });
                // Spread, so that the hot ones are not one file's.
                wrong += read(page % self.files, page / self.files * PAGE_CELLS, PAGE_CELLS)?;
            }
        }
        println!("filework: pass read {pages} pages, {wrong} mismatches");
        Ok(wrong)
    }
}

/// Says what went wrong; returns the exit status.
fn finish(what: &str, result: Result<u64>) -> u64 {
    match result {
        Ok(wrong) => u64::from(wrong != 0),
        Err(Errno(error)) => {
            println!("filework: {what}: error {error}");
            1
        }
    }
}
