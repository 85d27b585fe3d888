// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ideal caches of the same capacity: a page may lie anywhere, and when frames are taken away
//! the cache chooses what to give up.

use crate::cache::Cache;
use crate::queue::Queue;
use crate::trace::{File, Page, Trace};
use rand::{RngExt, SeedableRng};
use rand_xorshift::XorShiftRng;
use std::ops::Range;

/// Which page gives way.
pub trait Order {
    /// A page comes in.
    fn insert(&mut self, page: Page);
    /// A page goes, if it was there. `hit`: because it was asked for.
    fn remove(&mut self, page: Page, hit: bool) -> bool;
    /// Takes a page out to make room.
    fn evict(&mut self);
    /// Pages that are in.
    fn len(&self) -> u32;
}

/// A fully associative cache.
#[derive(Debug)]
pub struct Ideal<'t, O> {
    order: O,
    files: &'t [Range<Page>],
    capacity: u32,
}

impl<'t, O: Order> Ideal<'t, O> {
    /// An empty cache, of the capacity that a trace was made for.
    pub fn new(trace: &'t Trace, order: O) -> Ideal<'t, O> {
        Ideal { order, files: &trace.files, capacity: trace.frames }
    }
}

impl<O: Order> Cache for Ideal<'_, O> {
    fn put(&mut self, page: Page) {
        self.order.remove(page, false);
        while self.order.len() >= self.capacity.max(1) {
            self.order.evict();
        }
        if self.capacity > 0 {
            self.order.insert(page);
        }
    }

    fn get(&mut self, page: Page) -> bool {
        self.order.remove(page, true)
    }

    fn flush_page(&mut self, page: Page) {
        self.order.remove(page, false);
    }

    fn flush_file(&mut self, file: File) {
        for page in self.files[file as usize].clone() {
            self.order.remove(page, false);
        }
    }

    fn claim(&mut self, _: u32, count: u32) {
        self.capacity -= count;
        while self.order.len() > self.capacity {
            self.order.evict();
        }
    }

    fn release(&mut self, _: u32, count: u32) {
        self.capacity += count;
    }

    fn held(&self) -> u32 {
        self.order.len()
    }
}

/// The page that was put first goes first. A hit takes the page out, so the page that was put
/// first is also the one that was used least lately: LRU and FIFO are one.
#[derive(Debug)]
pub struct Fifo(Queue);

impl Fifo {
    /// For the pages of a trace.
    pub fn new(trace: &Trace) -> Fifo {
        Fifo(Queue::new(trace.pages()))
    }
}

impl Order for Fifo {
    fn insert(&mut self, page: Page) {
        self.0.push(page);
    }

    fn remove(&mut self, page: Page, _: bool) -> bool {
        self.0.remove(page)
    }

    fn evict(&mut self) {
        self.0.pop();
    }

    fn len(&self) -> u32 {
        self.0.len()
    }
}

/// SIEVE: a hand goes from old to young and takes the first page without a mark. In a cache
/// from which a hit removes no page could ever be marked, and SIEVE would be FIFO. Here a page
/// that was found has its mark when it comes again: a memory of pages that are not there.
#[derive(Debug)]
pub struct Sieve {
    queue: Queue,
    marked: Vec<bool>,
    found: Vec<bool>,
    hand: Option<Page>,
}

impl Sieve {
    /// For the pages of a trace.
    pub fn new(trace: &Trace) -> Sieve {
        let none = vec![false; trace.pages()];
        Sieve { queue: Queue::new(trace.pages()), marked: none.clone(), found: none, hand: None }
    }
}

impl Order for Sieve {
    fn insert(&mut self, page: Page) {
        self.queue.push(page);
        self.marked[page as usize] = self.found[page as usize];
    }

    fn remove(&mut self, page: Page, hit: bool) -> bool {
        if self.hand == Some(page) {
            self.hand = self.queue.after(page);
        }
        let was = self.queue.remove(page);
        if was {
            self.found[page as usize] = hit;
        }
        was
    }

    fn evict(&mut self) {
        while let Some(page) = self.hand.or(self.queue.oldest()) {
            self.hand = self.queue.after(page);
            if !std::mem::take(&mut self.marked[page as usize]) {
                self.queue.remove(page);
                self.found[page as usize] = false;
                return;
            }
        }
    }

    fn len(&self) -> u32 {
        self.queue.len()
    }
}

/// Any page goes.
#[derive(Debug)]
pub struct Random {
    pages: Vec<Page>,
    /// Where each page is in `pages`.
    places: Vec<u32>,
    random: XorShiftRng,
}

impl Random {
    /// For the pages of a trace.
    pub fn new(trace: &Trace) -> Random {
        let places = vec![u32::MAX; trace.pages()];
        Random { pages: vec![], places, random: XorShiftRng::seed_from_u64(1) }
    }
}

impl Order for Random {
    fn insert(&mut self, page: Page) {
        self.places[page as usize] = self.len();
        self.pages.push(page);
    }

    fn remove(&mut self, page: Page, _: bool) -> bool {
        let place = std::mem::replace(&mut self.places[page as usize], u32::MAX);
        if place == u32::MAX {
            return false;
        }
        self.pages.swap_remove(place as usize);
        if let Some(&moved) = self.pages.get(place as usize) {
            self.places[moved as usize] = place;
        }
        true
    }

    fn evict(&mut self) {
        if !self.pages.is_empty() {
            let page = self.pages[self.random.random_range(0..self.pages.len())];
            self.remove(page, false);
        }
    }

    fn len(&self) -> u32 {
        self.pages.len() as u32
    }
}

/// An LRU cache whose pages do not move: what lies in a frame that is taken away is lost. What
/// no rule of placement can do better than, unless it knows which frames will be claimed.
#[derive(Debug)]
pub struct Pinned<'t> {
    queue: Queue,
    files: &'t [Range<Page>],
    /// By frame.
    pages: Vec<Option<Page>>,
    lent: Vec<bool>,
    free: Vec<u32>,
    /// By page.
    frames: Vec<u32>,
}

impl<'t> Pinned<'t> {
    /// An empty cache, of the frames that a trace was made for.
    pub fn new(trace: &'t Trace) -> Pinned<'t> {
        let frames = trace.frames as usize;
        let mut free: Vec<u32> = (0..trace.frames).collect();
        let mut random = XorShiftRng::seed_from_u64(2);
        for n in (1..frames).rev() {
            free.swap(n, random.random_range(0..=n));
        }
        Pinned {
            queue: Queue::new(trace.pages()),
            files: &trace.files,
            pages: vec![None; frames],
            lent: vec![true; frames],
            free,
            frames: vec![0; trace.pages()],
        }
    }

    fn drop_page(&mut self, page: Page) -> bool {
        let was = self.queue.remove(page);
        if was {
            let frame = self.frames[page as usize];
            self.pages[frame as usize] = None;
            self.free.push(frame);
        }
        was
    }

    /// A free frame. Those that were claimed since they became free are still in the list.
    fn pop_free(&mut self) -> Option<u32> {
        while let Some(frame) = self.free.pop() {
            if self.lent[frame as usize] && self.pages[frame as usize].is_none() {
                return Some(frame);
            }
        }
        None
    }
}

impl Cache for Pinned<'_> {
    fn put(&mut self, page: Page) {
        self.drop_page(page);
        let frame = self.pop_free().or_else(|| {
            let oldest = self.queue.oldest()?;
            self.drop_page(oldest);
            self.pop_free()
        });
        if let Some(frame) = frame {
            self.pages[frame as usize] = Some(page);
            self.frames[page as usize] = frame;
            self.queue.push(page);
        }
    }

    fn get(&mut self, page: Page) -> bool {
        self.drop_page(page)
    }

    fn flush_page(&mut self, page: Page) {
        self.drop_page(page);
    }

    fn flush_file(&mut self, file: File) {
        for page in self.files[file as usize].clone() {
            self.drop_page(page);
        }
    }

    fn claim(&mut self, first: u32, count: u32) {
        for frame in first..first + count {
            if let Some(page) = self.pages[frame as usize] {
                self.drop_page(page);
            }
            self.lent[frame as usize] = false;
        }
    }

    fn release(&mut self, first: u32, count: u32) {
        for frame in first..first + count {
            self.lent[frame as usize] = true;
            self.free.push(frame);
        }
    }

    fn held(&self) -> u32 {
        self.queue.len()
    }
}
