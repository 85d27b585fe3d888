// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory under the caches: guest pages, frames, and how a page is copied.
//!
//! Addresses are invented: guest RAM begins at [`RAM`], storage at [`STORAGE`]. What lies behind
//! them is either nothing ([`Unbacked`]) or real memory ([`Backed`]).

use std::ptr::NonNull;
use std::sync::atomic::{Ordering, fence};
use tagstash::addr::{PAGE_SIZE, PhysAddr, PhysRange};
use tagstash::platform::{CHUNK, CacheMaintenance, CopyFault, PageMemory};

/// First address of guest RAM, all of it tagged memory.
pub const RAM: u64 = 1 << 30;
/// First address of tag storage.
pub const STORAGE: u64 = 1 << 45;

/// Address of guest page number `page`.
#[inline(always)]
pub fn guest_address(page: u32) -> PhysAddr {
    PhysAddr(RAM + u64::from(page) * PAGE_SIZE)
}

/// Memory whose pages have no bytes: copies do nothing.
#[derive(Clone, Copy, Debug)]
pub struct Unbacked;

impl PageMemory for Unbacked {
    #[inline(always)]
    fn copy_chunk_in(&self, _: PhysAddr, _: PhysAddr) -> Result<(), CopyFault> {
        Ok(())
    }

    #[inline(always)]
    fn copy_page_out(&self, _: PhysAddr, _: PhysAddr) -> Result<(), CopyFault> {
        Ok(())
    }

    #[inline(always)]
    fn crc32c(&self, _: u32, _: PhysRange) -> Result<u32, CopyFault> {
        Ok(0)
    }
}

impl CacheMaintenance for Unbacked {
    #[inline(always)]
    fn barrier_inner(&self) {
        fence(Ordering::SeqCst);
    }

    #[inline(always)]
    fn barrier_system(&self) {
        fence(Ordering::SeqCst);
    }

    #[inline(always)]
    fn clean_invalidate_tags(&self, _: PhysRange) {}

    #[inline(always)]
    fn clean_invalidate_data(&self, _: PhysRange) {}

    #[inline(always)]
    fn relax(&self) {
        std::hint::spin_loop();
    }
}

/// A number of 4 KiB pages that several threads use, each page its own, by raw address.
#[derive(Debug)]
pub struct Pages {
    base: NonNull<u8>,
    count: u32,
}

// SAFETY: the memory is the process's until it ends, and is used through raw pointers only. Who
// may use which page when is up to the callers of `page`.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    /// Allocates pages that are never freed, and touches each.
    pub fn new(count: u32) -> Pages {
        let bytes = vec![1u8; (count as usize + 1) * PAGE_SIZE as usize].leak();
        let skip = bytes.as_ptr().align_offset(PAGE_SIZE as usize);
        Pages { base: NonNull::from(&mut bytes[skip]), count }
    }

    /// Where page number `page` is.
    #[inline(always)]
    pub fn page(&self, page: u32) -> *mut u8 {
        assert!(page < self.count);
        // SAFETY: inside the allocation, by the line above.
        unsafe { self.base.as_ptr().add(page as usize * PAGE_SIZE as usize) }
    }

    /// Writes the first word of a page.
    #[inline(always)]
    pub fn mark(&self, page: u32, word: u64) {
        // SAFETY: a whole page is there, aligned; the caller's thread owns it.
        unsafe { self.page(page).cast::<u64>().write(word) }
    }

    /// Reads the first word of a page.
    #[inline(always)]
    pub fn first_word(&self, page: u32) -> u64 {
        // SAFETY: as for `mark`.
        unsafe { self.page(page).cast::<u64>().read() }
    }

    /// Where `length` bytes at `offset` are.
    #[inline(always)]
    fn at(&self, offset: u64, length: u64) -> *mut u8 {
        assert!(offset + length <= u64::from(self.count) * PAGE_SIZE);
        // SAFETY: inside the allocation, by the line above.
        unsafe { self.base.as_ptr().add(offset as usize) }
    }
}

/// Guest pages and frames that are there.
#[derive(Debug)]
pub struct Backed<'p> {
    pub guest: &'p Pages,
    pub frames: Pages,
}

impl PageMemory for Backed<'_> {
    #[inline(always)]
    fn copy_chunk_in(&self, from: PhysAddr, to: PhysAddr) -> Result<(), CopyFault> {
        let from = self.guest.at(from.0 - RAM, CHUNK);
        let to = self.frames.at(to.0 - STORAGE, CHUNK);
        // SAFETY: `at` checked both.
        unsafe { copy::<{ CHUNK as usize }>(from, to) };
        Ok(())
    }

    #[inline(always)]
    fn copy_page_out(&self, from: PhysAddr, to: PhysAddr) -> Result<(), CopyFault> {
        let from = self.frames.at(from.0 - STORAGE, PAGE_SIZE);
        let to = self.guest.at(to.0 - RAM, PAGE_SIZE);
        // SAFETY: `at` checked both.
        unsafe { copy::<{ PAGE_SIZE as usize }>(from, to) };
        Ok(())
    }

    fn crc32c(&self, _: u32, _: PhysRange) -> Result<u32, CopyFault> {
        unimplemented!("verification is not measured")
    }
}

impl CacheMaintenance for Backed<'_> {
    fn barrier_inner(&self) {
        Unbacked.barrier_inner();
    }

    fn barrier_system(&self) {
        Unbacked.barrier_system();
    }

    fn clean_invalidate_tags(&self, _: PhysRange) {}

    fn clean_invalidate_data(&self, _: PhysRange) {}

    fn relax(&self) {
        Unbacked.relax();
    }
}

/// Copies `N` bytes, a multiple of 128, that another thread may be writing or reading: by
/// assembly, as the firmware does, so that a torn copy is plain data and no undefined behaviour.
///
/// # Safety
///
/// Both are readable, `to` writable, for `N` bytes, aligned to 16, and do not overlap.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn copy<const N: usize>(from: *const u8, to: *mut u8) {
    // SAFETY: the loop touches `N` bytes of each, which the caller vouches for; it uses the
    // registers named and no stack.
    unsafe {
        core::arch::asm!(
            "2:",
            "movaps xmm0, [{from}]",
            "movaps xmm1, [{from} + 16]",
            "movaps xmm2, [{from} + 32]",
            "movaps xmm3, [{from} + 48]",
            "movaps xmm4, [{from} + 64]",
            "movaps xmm5, [{from} + 80]",
            "movaps xmm6, [{from} + 96]",
            "movaps xmm7, [{from} + 112]",
            "movaps [{to}], xmm0",
            "movaps [{to} + 16], xmm1",
            "movaps [{to} + 32], xmm2",
            "movaps [{to} + 48], xmm3",
            "movaps [{to} + 64], xmm4",
            "movaps [{to} + 80], xmm5",
            "movaps [{to} + 96], xmm6",
            "movaps [{to} + 112], xmm7",
            "sub {from}, -128",
            "sub {to}, -128",
            "sub {left}, 128",
            "jnz 2b",
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            left = inout(reg) N => _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            options(nostack),
        );
    }
}

/// As above, by words.
///
/// # Safety
///
/// As above.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
unsafe fn copy<const N: usize>(from: *const u8, to: *mut u8) {
    use std::sync::atomic::AtomicU64;
    for offset in (0..N).step_by(8) {
        // SAFETY: inside the `N` bytes, aligned; all threads use atomics here.
        let (from, to) = unsafe {
            (&*from.add(offset).cast::<AtomicU64>(), &*to.add(offset).cast::<AtomicU64>())
        };
        to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}
