// SPDX-License-Identifier: MIT OR Apache-2.0
//! A queue of pages from which any page can be taken: the order of a page cache, and of ideal
//! caches. Linked through two arrays over all pages.

use crate::trace::Page;

const NONE: Page = Page::MAX;
/// Marks a page that is not in the queue.
const ABSENT: Page = Page::MAX - 1;

/// Pages in the order in which they entered.
#[derive(Clone, Debug)]
pub struct Queue {
    /// The next younger page, or [`ABSENT`].
    younger: Vec<Page>,
    older: Vec<Page>,
    oldest: Page,
    youngest: Page,
    length: u32,
}

impl Queue {
    /// An empty queue for pages below `pages`.
    pub fn new(pages: usize) -> Queue {
        let (younger, older) = (vec![ABSENT; pages], vec![NONE; pages]);
        Queue { younger, older, oldest: NONE, youngest: NONE, length: 0 }
    }

    /// Makes room for pages below `pages`.
    pub fn grow(&mut self, pages: usize) {
        self.younger.resize(pages, ABSENT);
        self.older.resize(pages, NONE);
    }

    /// Pages in the queue.
    pub fn len(&self) -> u32 {
        self.length
    }

    /// Says whether a page is in the queue.
    pub fn has(&self, page: Page) -> bool {
        self.younger[page as usize] != ABSENT
    }

    /// The page that entered first.
    pub fn oldest(&self) -> Option<Page> {
        (self.oldest != NONE).then_some(self.oldest)
    }

    /// The page that entered after `page`.
    pub fn after(&self, page: Page) -> Option<Page> {
        let next = self.younger[page as usize];
        (next < ABSENT).then_some(next)
    }

    /// Adds a page that is not in the queue.
    pub fn push(&mut self, page: Page) {
        debug_assert!(!self.has(page));
        self.older[page as usize] = self.youngest;
        self.younger[page as usize] = NONE;
        match self.youngest {
            NONE => self.oldest = page,
            last => self.younger[last as usize] = page,
        }
        self.youngest = page;
        self.length += 1;
    }

    /// Takes a page out. Says whether it was there.
    pub fn remove(&mut self, page: Page) -> bool {
        if !self.has(page) {
            return false;
        }
        let (older, younger) = (self.older[page as usize], self.younger[page as usize]);
        match older {
            NONE => self.oldest = younger,
            older => self.younger[older as usize] = younger,
        }
        match younger {
            NONE => self.youngest = older,
            younger => self.older[younger as usize] = older,
        }
        self.younger[page as usize] = ABSENT;
        self.length -= 1;
        true
    }

    /// Takes the oldest page out.
    pub fn pop(&mut self) -> Option<Page> {
        let page = self.oldest()?;
        self.remove(page);
        Some(page)
    }
}
