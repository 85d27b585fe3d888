// SPDX-License-Identifier: MIT OR Apache-2.0
//! Copies between guest pages and frames, and checksums, that survive an external abort.
//!
//! They are assembly because a frame's bytes may change while they are read, which would be
//! undefined behaviour in Rust, and because an abort in them is an error, not a crash: the
//! vector finds the faulting instruction between two labels and goes on at a third.

use super::cache::Machine;
use tagstash::addr::{PAGE_SIZE, PhysAddr, PhysRange};
use tagstash::platform::{CHUNK, CopyFault, PageMemory};

/// Bytes that one round of the assembly loops moves.
const ROUND: u64 = 64;

/// What the assembly returns after an abort: more than any checksum.
const FAULT: u64 = 1 << 32;

// Ten instructions for 64 bytes copied, fourteen for 64 bytes checksummed. x3-x10 may be
// changed by any call (AAPCS64), so nothing has to be saved; there is no stack frame, so the
// abort's way out is a plain return.
core::arch::global_asm!(
    ".pushsection .text.guarded, \"ax\"",
    ".arch_extension crc",
    ".balign 64",
    ".global guarded_begin, guarded_end, guarded_fault, guarded_copy, guarded_crc32c",
    "guarded_begin:",
    // x0: from, x1: to, x2: bytes, a multiple of 64, not 0.
    "guarded_copy:",
    "0:  ldp     x3, x4, [x0], #64",
    "    ldp     x5, x6, [x0, #-48]",
    "    ldp     x7, x8, [x0, #-32]",
    "    ldp     x9, x10, [x0, #-16]",
    "    stp     x3, x4, [x1], #64",
    "    stp     x5, x6, [x1, #-48]",
    "    stp     x7, x8, [x1, #-32]",
    "    stp     x9, x10, [x1, #-16]",
    "    subs    x2, x2, #64",
    "    b.ne    0b",
    "    mov     x0, #0",
    "    ret",
    // x0: seed, x1: from, x2: bytes, a multiple of 64, not 0.
    "guarded_crc32c:",
    "0:  ldp     x3, x4, [x1], #64",
    "    ldp     x5, x6, [x1, #-48]",
    "    ldp     x7, x8, [x1, #-32]",
    "    ldp     x9, x10, [x1, #-16]",
    "    crc32cx w0, w0, x3",
    "    crc32cx w0, w0, x4",
    "    crc32cx w0, w0, x5",
    "    crc32cx w0, w0, x6",
    "    crc32cx w0, w0, x7",
    "    crc32cx w0, w0, x8",
    "    crc32cx w0, w0, x9",
    "    crc32cx w0, w0, x10",
    "    subs    x2, x2, #64",
    "    b.ne    0b",
    "    ret",
    "guarded_end:",
    "guarded_fault:",
    "    mov     x0, #{fault}",
    "    ret",
    ".popsection",
    fault = const FAULT,
);

unsafe extern "C" {
    fn guarded_copy(from: u64, to: u64, bytes: u64) -> u64;
    fn guarded_crc32c(seed: u64, from: u64, bytes: u64) -> u64;
    safe static guarded_begin: u8;
    safe static guarded_end: u8;
    safe static guarded_fault: u8;
}

/// Returns where to go on after an abort at `address`, if that is in guarded code.
pub fn landing_after(address: u64) -> Option<u64> {
    let guarded = &raw const guarded_begin as u64..&raw const guarded_end as u64;
    if guarded.contains(&address) { Some(&raw const guarded_fault as u64) } else { None }
}

#[inline(always)]
fn copy(from: PhysAddr, to: PhysAddr, bytes: u64) -> Result<(), CopyFault> {
    // SAFETY: The service passes pages that it checked to be guest RAM, and frames, which are
    // nobody's Rust object; `line` reads mapped memory and writes a local. `bytes` is a
    // multiple of 64. What is not mapped ends in a fault.
    match unsafe { guarded_copy(from.0, to.0, bytes) } {
        0 => Ok(()),
        _ => Err(CopyFault),
    }
}

/// Words that one round copies.
const LINE: usize = (ROUND / 8) as usize;

/// Loads a line, aligned to [`ROUND`]; `None` after an external abort.
fn line(start: PhysAddr) -> Option<[u64; LINE]> {
    let mut line = [0; LINE];
    copy(start, PhysAddr(&raw mut line as u64), ROUND).ok()?;
    Some(line)
}

/// Says whether loads from each page of `range`, which is mapped, are answered.
pub fn answers(range: PhysRange) -> bool {
    let pages = range.page_cover().unwrap_or(range);
    let mut starts = (pages.start().0..pages.end().0).step_by(PAGE_SIZE as usize);
    starts.all(|page| line(PhysAddr(page)).is_some())
}

/// Loads one word of guest RAM, which the caller has checked to be that; `None` after an external
/// abort, and where `address` is not aligned.
pub fn load(address: PhysAddr) -> Option<u64> {
    if !address.is_aligned(8) {
        return None;
    }
    // A line lies in one page, so that all of it is guest RAM if the word is.
    let start = address.0 & !(ROUND - 1);
    line(PhysAddr(start))?.get(((address.0 - start) / 8) as usize).copied()
}

impl PageMemory for Machine {
    #[inline(always)]
    fn copy_chunk_in(&self, from: PhysAddr, to: PhysAddr) -> Result<(), CopyFault> {
        copy(from, to, CHUNK)
    }

    #[inline(always)]
    fn copy_page_out(&self, from: PhysAddr, to: PhysAddr) -> Result<(), CopyFault> {
        copy(from, to, PAGE_SIZE)
    }

    #[inline(always)]
    fn crc32c(&self, seed: u32, range: PhysRange) -> Result<u32, CopyFault> {
        // SAFETY: As in `copy`, and only reads. Every CPU with MTE2 has the CRC instructions
        // (FEAT_CRC32 is mandatory from Armv8.1), and without MTE2 nothing is verified.
        let crc = unsafe { guarded_crc32c(seed.into(), range.start().0, range.len()) };
        if crc == FAULT { Err(CopyFault) } else { Ok(crc as u32) }
    }
}

const _: () = assert!(CHUNK.is_multiple_of(ROUND) && PAGE_SIZE.is_multiple_of(ROUND));
