// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages for translation tables. They outlive boot: attributes of the guest's map may change
//! later, for which blocks have to be split.

use buddy_system_allocator::Heap;
use core::alloc::Layout;
use core::ptr::NonNull;
use spin::Mutex;
use tagstash::addr::{PAGE_SIZE, PhysRange};
use tagstash::translation::Table;

/// Largest order the allocator deals in: 2^31 pages are more than any pool.
const ORDERS: usize = 32;

static PAGES: Mutex<Heap<ORDERS>> = Mutex::new(Heap::empty());

/// Adds memory.
///
/// # Safety
///
/// `range` is whole pages, mapped for EL2 as data, and nothing uses it, now or later.
pub unsafe fn add(range: PhysRange) {
    // SAFETY: The caller's promise; identity map.
    unsafe { PAGES.lock().add_to_heap(range.start().0 as usize, range.end().0 as usize) }
}

/// Allocates `count` tables of zeroes side by side, aligned to their length where `count` is a
/// power of two. `None` if there is no such piece of memory.
pub fn tables(count: usize) -> Option<NonNull<Table>> {
    let bytes = count.checked_mul(size_of::<Table>())?;
    let layout = Layout::from_size_align(bytes, bytes.next_power_of_two()).ok()?;
    let block = PAGES.lock().alloc(layout).ok()?;
    // SAFETY: The allocator gave these bytes to this call alone; zero is a table's valid value.
    unsafe { block.write_bytes(0, bytes) };
    Some(block.cast())
}

/// Pages that are left.
pub fn free() -> u64 {
    let pages = PAGES.lock();
    (pages.stats_total_bytes() - pages.stats_alloc_actual()) as u64 / PAGE_SIZE
}
