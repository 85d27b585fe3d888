// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the other caches keep for a page: nothing, or its 4 KiB.
//!
//! The stash has a frame for each page. So that the others need not ask the allocator for 4 KiB
//! at each put, a page that is dropped goes to a list of the thread that dropped it, and is
//! used again from there.

use crate::memory::Pages;
use std::cell::RefCell;
use tagstash::addr::PAGE_SIZE;

/// A page's bytes.
type Bytes = Box<[u8; PAGE_SIZE as usize]>;

/// Most free pages that a thread keeps.
const KEPT: usize = 1024;

thread_local! {
    static FREE: RefCell<Vec<Bytes>> = const { RefCell::new(Vec::new()) };
}

/// What a cache keeps as the value of a key.
pub trait Stored: Sized + Send + Sync + 'static {
    /// What all values need.
    type Memory: Sync + Send;
    /// Keeps guest page `page`.
    fn keep(memory: &Self::Memory, page: u32) -> Self;
    /// Writes it to guest page `page`.
    fn give(&self, memory: &Self::Memory, page: u32);
}

/// The number of the guest page, in place of its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Number(#[expect(dead_code, reason = "kept as a frame's number would be")] u32);

impl Stored for Number {
    type Memory = ();

    #[inline(always)]
    fn keep((): &(), page: u32) -> Number {
        Number(page)
    }

    #[inline(always)]
    fn give(&self, (): &(), _: u32) {
        std::hint::black_box(self);
    }
}

/// The page's bytes.
#[derive(Debug)]
pub struct Copied(Option<Bytes>);

impl Stored for Copied {
    type Memory = &'static Pages;

    #[inline(always)]
    fn keep(memory: &&'static Pages, page: u32) -> Copied {
        let mut bytes =
            FREE.with_borrow_mut(Vec::pop).unwrap_or_else(|| Box::new([0; PAGE_SIZE as usize]));
        let from = memory.page(page);
        // SAFETY: a whole page is there, and this thread's own.
        unsafe { from.copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) };
        Copied(Some(bytes))
    }

    #[inline(always)]
    fn give(&self, memory: &&'static Pages, page: u32) {
        let bytes = self.0.as_ref().expect("taken by drop only");
        let to = memory.page(page);
        // SAFETY: as above.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }
}

impl Clone for Copied {
    fn clone(&self) -> Copied {
        unreachable!("no cache copies a page to put, get or flush it")
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        let bytes = self.0.take();
        // Where the thread has ended its list is gone, and the page with it.
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < KEPT {
                free.extend(bytes);
            }
        });
    }
}
