// SPDX-License-Identifier: MIT OR Apache-2.0
//! A trace: what a guest asks of the stash, in order. It does not depend on what the stash
//! answers, because a page that is missed is read from disk and enters the page cache all the
//! same, so that every cache can be given the same one.

use std::ops::Range;

/// A page of a file, numbered over all files of a trace.
pub type Page = u32;

/// A file, by its place in [`Trace::files`].
pub type File = u32;

/// One thing that the guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// The page cache lets go of a page.
    Put(Page),
    /// The page cache misses a page.
    Get(Page),
    /// A page is overwritten or truncated.
    FlushPage(Page),
    /// An inode is evicted or a file truncated.
    FlushFile(File),
    /// Tags are needed for the pages of these frames.
    Claim(u32, u32),
    /// And no longer: first frame, and how many.
    Release(u32, u32),
}

/// What a guest asks of a stash.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// In order.
    pub operations: Vec<Operation>,
    /// The pages of each file, in the order of their indexes.
    pub files: Vec<Range<Page>>,
    /// The file of each page.
    pub file_of: Vec<File>,
    /// Frames of the stash that it was made for.
    pub frames: u32,
    /// Operations before which nothing is counted.
    pub warm_up: usize,
}

impl Trace {
    /// Adds a file of so many pages.
    pub fn add_file(&mut self, pages: u32) -> File {
        let first = self.file_of.len() as Page;
        let file = self.files.len() as File;
        self.files.push(first..first + pages);
        self.file_of.extend((0..pages).map(|_| file));
        file
    }

    /// Number of pages of all files.
    pub fn pages(&self) -> usize {
        self.file_of.len()
    }

    /// File and index of a page.
    pub fn place(&self, page: Page) -> (File, u32) {
        let file = self.file_of[page as usize];
        (file, page - self.files[file as usize].start)
    }
}
