// SPDX-License-Identifier: MIT OR Apache-2.0
//! The instructions of FEAT_MTE that programs have, and accesses through tagged addresses.
//!
//! Addresses are numbers here. The memory they name is made by mmap and never covered by a
//! reference, because an access with the wrong tag is what many of the checks are about.

use core::arch::asm;

/// Bytes that share one tag.
pub const GRANULE: u64 = 16;

/// Puts a tag into an address (bits 59:56).
pub const fn with_tag(address: u64, tag: u64) -> u64 {
    address & !(0xf << 56) | (tag & 0xf) << 56
}

/// The tag in an address.
pub const fn tag_of(address: u64) -> u64 {
    address >> 56 & 0xf
}

/// The address without its tag.
pub const fn untagged(address: u64) -> u64 {
    with_tag(address, 0)
}

/// Puts a random tag into an address, none of those in `exclude` (a bit each).
pub fn irg(address: u64, exclude: u64) -> u64 {
    let result;
    // SAFETY: IRG changes its result register only.
    unsafe {
        asm!(".arch_extension memtag", "irg {}, {}, {}", out(reg) result, in(reg) address,
             in(reg) exclude, options(nomem, nostack, preserves_flags));
    }
    result
}

/// Gives a granule the tag that is in its address.
///
/// # Safety
///
/// The granule must be mapped memory that no reference covers, or the fault must be awaited.
pub unsafe fn stg(address: u64) {
    // SAFETY: the caller's promise; data stay as they are.
    unsafe {
        asm!(".arch_extension memtag", "stg {0}, [{0}]", in(reg) address, options(nostack));
    }
}

/// Gives two granules the tag that is in the address.
///
/// # Safety
///
/// As for [`stg`], for both.
pub unsafe fn st2g(address: u64) {
    // SAFETY: the caller's promise; data stay as they are.
    unsafe {
        asm!(".arch_extension memtag", "st2g {0}, [{0}]", in(reg) address, options(nostack));
    }
}

/// Gives a granule the tag that is in its address, and zeroes it.
///
/// # Safety
///
/// As for [`stg`].
pub unsafe fn stzg(address: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(".arch_extension memtag", "stzg {0}, [{0}]", in(reg) address, options(nostack));
    }
}

/// The granule's tag.
///
/// # Safety
///
/// The granule must be mapped.
pub unsafe fn ldg(address: u64) -> u64 {
    let mut result = address;
    // SAFETY: the caller's promise; LDG reads a tag and checks none.
    unsafe {
        asm!(".arch_extension memtag", "ldg {0}, [{0}]", inout(reg) result,
             options(nostack, readonly, preserves_flags));
    }
    tag_of(result)
}

/// Loads a word, in one instruction of four bytes. 0 if a handler stepped over it.
///
/// # Safety
///
/// The word must be mapped memory that no reference covers, or the fault must be awaited.
pub unsafe fn load(address: u64) -> u64 {
    let result;
    // SAFETY: the caller's promise.
    unsafe {
        asm!("mov {0}, xzr", "ldr {0}, [{1}]", out(reg) result, in(reg) address,
             options(nostack, readonly, preserves_flags));
    }
    result
}

/// Stores a word, in one instruction of four bytes.
///
/// # Safety
///
/// As for [`load`].
pub unsafe fn store(address: u64, value: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("str {1}, [{0}]", in(reg) address, in(reg) value, options(nostack, preserves_flags));
    }
}
