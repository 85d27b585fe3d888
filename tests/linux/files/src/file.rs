// SPDX-License-Identifier: MIT OR Apache-2.0
//! A file and the model of it: for each of its cells, with which version and where it was written.
//! Each operation changes both, or compares what it read with what the model says.

use core::fmt::Write;
use linux_program::println;

use crate::content::{CELL, CELL_WORDS, Cell, Mismatch};
use crate::sys::{self, Mapping, Memory, Range, Result};

/// Cells that one operation deals with at most.
pub const MOST_CELLS: u64 = 1024;
/// Cells of a sector, which is what O_DIRECT counts in.
pub const SECTOR_CELLS: u64 = 8;

/// A path name, ended by a zero byte.
pub struct Path {
    bytes: [u8; 128],
    used: usize,
}

impl Path {
    /// The name of a file in a directory; None if it is too long.
    pub fn new(directory: &str, id: u32) -> Option<Path> {
        let mut path = Path { bytes: [0; 128], used: 0 };
        write!(path, "{directory}/{id:05}\0").ok()?;
        Some(path)
    }

    /// Its bytes, with the zero.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.used]
    }
}

impl Write for Path {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let end = self.used + text.len();
        self.bytes
            .get_mut(self.used..end)
            .ok_or(core::fmt::Error)?
            .copy_from_slice(text.as_bytes());
        self.used = end;
        Ok(())
    }
}

/// How a file is read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By pread and pwrite.
    Call,
    /// By O_DIRECT, past the page cache.
    Direct,
    /// By mmap.
    Map,
}

/// What the model says of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Written {
    /// 0: never.
    version: u32,
    /// Where, as the number of a cell.
    index: u32,
}

const NEVER: Written = Written { version: 0, index: 0 };

/// A file that one process works on.
pub struct File {
    id: u32,
    path: Path,
    buffered: u64,
    direct: u64,
    /// All that it can have, so what is beyond its end must not be touched.
    mapping: Mapping,
    /// Cells that it has.
    cells: u64,
    /// The model of as many cells as it can have.
    model: &'static mut [Written],
    newest: u32,
}

impl File {
    /// Makes a file, over an older one of its name.
    pub fn create(directory: &str, id: u32, most_cells: u64) -> Result<File> {
        let path = Path::new(directory, id).ok_or(sys::Errno(36))?;
        let _ = sys::unlink(path.bytes());
        let model = words(most_cells)?;
        let (buffered, direct) = (sys::make(path.bytes(), false)?, sys::make(path.bytes(), true)?);
        let mapping = Mapping::file(buffered, most_cells * CELL)?;
        Ok(File { id, path, buffered, direct, mapping, cells: 0, model, newest: 0 })
    }

    /// How many cells it has.
    pub fn cells(&self) -> u64 {
        self.cells
    }

    /// How many it can have.
    pub fn most_cells(&self) -> u64 {
        self.model.len() as u64
    }

    /// Reads a range and compares it; returns the number of wrong cells. It lies in the file, on
    /// sectors where it is read by O_DIRECT.
    pub fn read(&self, way: Way, first: u64, cells: u64, buffer: &mut [u64]) -> Result<u64> {
        let words = &mut buffer[..(cells as usize) * CELL_WORDS];
        match way {
            Way::Call => sys::pread(self.buffered, words, first * CELL)?,
            Way::Direct => sys::pread(self.direct, words, first * CELL)?,
            Way::Map => {
                let start = self.address(first) as *const u64;
                // SAFETY: mapped, inside the file, and only this process changes it.
                let mapped = unsafe { core::slice::from_raw_parts(start, words.len()) };
                return Ok(self.compare(mapped, first, "read by mmap"));
            }
        }
        Ok(self.compare(words, first, if way == Way::Call { "read" } else { "read by O_DIRECT" }))
    }

    /// Writes a new version of a range, which may lie beyond the end but for a mapping; `sync`
    /// waits until a mapping is on the disk.
    pub fn write(
        &mut self,
        way: Way,
        first: u64,
        cells: u64,
        buffer: &mut [u64],
        sync: bool,
    ) -> Result<()> {
        self.newest += 1;
        let words = &mut buffer[..(cells as usize) * CELL_WORDS];
        for (index, cell) in (first..).zip(words.chunks_exact_mut(CELL_WORDS)) {
            cell.copy_from_slice(&Cell { file: self.id, index, version: self.newest }.words());
        }
        match way {
            Way::Call => sys::pwrite(self.buffered, words, first * CELL)?,
            Way::Direct => sys::pwrite(self.direct, words, first * CELL)?,
            Way::Map => {
                let start = self.address(first) as *mut u64;
                // SAFETY: mapped, inside the file, and only this process uses it.
                unsafe { core::slice::from_raw_parts_mut(start, words.len()) }
                    .copy_from_slice(words);
                if sync {
                    self.mapping.sync(first * CELL, cells * CELL)?;
                }
            }
        }
        self.cells = self.cells.max(first + cells);
        let version = self.newest;
        for (index, cell) in (first..).zip(self.range(first, cells)) {
            *cell = Written { version, index: index as u32 };
        }
        Ok(())
    }

    /// Sets the length.
    pub fn truncate(&mut self, cells: u64) -> Result<()> {
        sys::truncate(self.buffered, cells * CELL)?;
        if cells < self.cells {
            let gone = self.cells - cells;
            self.range(cells, gone).fill(NEVER);
        }
        self.cells = cells;
        Ok(())
    }

    /// Zeroes a range of the file.
    pub fn zero(&mut self, range: Range, first: u64, cells: u64) -> Result<()> {
        sys::allocate(self.buffered, range, first * CELL, cells * CELL)?;
        self.range(first, cells).fill(NEVER);
        Ok(())
    }

    /// Takes whole pages out, before the last page.
    pub fn collapse(&mut self, first: u64, cells: u64) -> Result<()> {
        sys::allocate(self.buffered, Range::Collapse, first * CELL, cells * CELL)?;
        let end = self.cells;
        self.model.copy_within((first + cells) as usize..end as usize, first as usize);
        self.cells -= cells;
        self.range(end - cells, cells).fill(NEVER);
        Ok(())
    }

    /// Puts whole pages of zeros in.
    pub fn insert(&mut self, first: u64, cells: u64) -> Result<()> {
        sys::allocate(self.buffered, Range::Insert, first * CELL, cells * CELL)?;
        self.model.copy_within(first as usize..self.cells as usize, (first + cells) as usize);
        self.cells += cells;
        self.range(first, cells).fill(NEVER);
        Ok(())
    }

    /// Gives it contents to its full length, all of version 1.
    pub fn fill(&mut self, buffer: &mut [u64]) -> Result<()> {
        while self.cells < self.most_cells() {
            self.newest = 0;
            let cells = (self.most_cells() - self.cells).min(MOST_CELLS);
            self.write(Way::Call, self.cells, cells, buffer, false)?;
        }
        Ok(())
    }

    /// Waits until it is on the disk.
    pub fn sync(&self) -> Result<()> {
        sys::sync(self.buffered)
    }

    /// Has the page cache drop what is clean of a range, in whole pages. It keeps what is mapped, so
    /// the file is mapped anew.
    pub fn drop_cached(&mut self, first: u64, cells: u64) -> Result<()> {
        self.mapping = Mapping::file(self.buffered, self.most_cells() * CELL)?;
        sys::drop_cached(self.buffered, first * CELL, cells * CELL)
    }

    /// Removes it and makes it anew: empty, perhaps with the same inode number.
    pub fn recreate(&mut self) -> Result<()> {
        sys::close(self.buffered);
        sys::close(self.direct);
        sys::unlink(self.path.bytes())?;
        (self.buffered, self.direct) =
            (sys::make(self.path.bytes(), false)?, sys::make(self.path.bytes(), true)?);
        self.mapping = Mapping::file(self.buffered, self.most_cells() * CELL)?;
        let all = self.cells;
        self.range(0, all).fill(NEVER);
        self.cells = 0;
        Ok(())
    }

    fn range(&mut self, first: u64, cells: u64) -> &mut [Written] {
        &mut self.model[first as usize..(first + cells) as usize]
    }

    /// Where a cell is mapped.
    fn address(&self, cell: u64) -> u64 {
        self.mapping.start() + cell * CELL
    }

    /// Compares contents with the model.
    fn compare(&self, words: &[u64], first: u64, by: &str) -> u64 {
        compare(words, first, by, |index| {
            let Written { version, index } = self.model[index as usize];
            Cell { file: self.id, index: u64::from(index), version }
        })
    }
}

/// Compares contents of a file, from cell `first` on, with what ought to be there, and names the
/// first cell that is wrong; returns how many are.
pub fn compare(words: &[u64], first: u64, by: &str, model: impl Fn(u64) -> Cell) -> u64 {
    let mut wrong = 0;
    for (index, found) in (first..).zip(words.chunks_exact(CELL_WORDS)) {
        let expected = model(index);
        if expected.words() != found {
            wrong += 1;
            if wrong == 1 {
                println!("filework: {}", Mismatch { index, expected, found, by });
            }
        }
    }
    if wrong > 1 {
        println!("filework: ... {wrong} cells of 64 bytes of that read are wrong");
    }
    wrong
}

/// Memory for a program's life.
pub fn words<T: Copy + 'static>(count: u64) -> Result<&'static mut [T]> {
    let mapping = Mapping::anonymous((count * size_of::<T>() as u64).max(1), Memory::Private)?;
    let start = mapping.start() as *mut T;
    core::mem::forget(mapping);
    // SAFETY: new memory of zeros, never unmapped, to which nothing else refers; only integers are
    // made of it.
    Ok(unsafe { core::slice::from_raw_parts_mut(start, count as usize) })
}
