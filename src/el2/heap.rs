// SPDX-License-Identifier: MIT OR Apache-2.0
//! The heap, for what is built at boot: the reading of the device tree, the guest's copy of it,
//! the service's tables. Nothing is allocated while the guest runs.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ptr;
use linked_list_allocator::Heap;
use spin::Mutex;

/// Bytes of the arena: room for the tree of a large board, some 1,500 nodes with 10,000
/// properties, taken apart and written again. What a tree needs is compared before it is read.
const ARENA: usize = 8 << 20;

#[repr(C, align(4096))]
struct Arena(UnsafeCell<MaybeUninit<[u8; ARENA]>>);

// SAFETY: The arena is given to the allocator once, which hands each byte to one owner.
unsafe impl Sync for Arena {}

// No part of bss, which takes two million instructions to clear at this size.
#[unsafe(link_section = ".uninit")]
static MEMORY: Arena = Arena(UnsafeCell::new(MaybeUninit::uninit()));

struct Locked(Mutex<Heap>);

#[global_allocator]
static HEAP: Locked = Locked(Mutex::new(Heap::empty()));

// SAFETY: The heap gives out disjoint parts of the arena that fit their layouts, under a lock.
unsafe impl GlobalAlloc for Locked {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let block = self.0.lock().allocate_first_fit(layout);
        block.map_or(ptr::null_mut(), |block| block.as_ptr())
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = ptr::NonNull::new(block) {
            // SAFETY: The caller had `block` from `alloc` with this layout.
            unsafe { self.0.lock().deallocate(block, layout) }
        }
    }
}

/// Gives the heap its memory. Called once, before anything is allocated.
pub fn init() {
    let mut heap = HEAP.0.lock();
    if heap.size() == 0 {
        // SAFETY: The arena is used by nothing else, and the check makes this the only time.
        unsafe { heap.init(MEMORY.0.get().cast(), ARENA) }
    }
}

/// Bytes that are free.
pub fn free() -> usize {
    HEAP.0.lock().free()
}

/// Bytes in use.
pub fn used() -> usize {
    HEAP.0.lock().used()
}
