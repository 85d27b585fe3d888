// SPDX-License-Identifier: MIT OR Apache-2.0
//! Copies between guest pages and frames, and checksums, that survive an external abort.
//!
//! They are assembly because a frame's bytes may change while they are read, which would be
//! undefined behaviour in Rust, and because an abort in them is an error, not a crash. Each piece
//! of guarded code says in the section `.guarded` where it begins and ends, and where to go on
//! after an abort in it; the vector looks there.

use super::cache::Machine;
use core::arch::asm;
use tagstash::addr::{PAGE_SIZE, PhysAddr, PhysRange};
use tagstash::platform::{CHUNK, CopyFault, PageMemory};

/// One piece of guarded code: three distances, each from the word that holds it.
#[repr(C)]
struct Guarded {
    begin: i32,
    end: i32,
    landing: i32,
}

unsafe extern "C" {
    safe static __guarded_start: Guarded;
    safe static __guarded_end: Guarded;
}

impl Guarded {
    /// All of them.
    fn all() -> &'static [Guarded] {
        let (start, end) = (&raw const __guarded_start, &raw const __guarded_end);
        let count = (end as usize - start as usize) / size_of::<Guarded>();
        // SAFETY: the linker script puts the section, which holds nothing but these, between the
        // two symbols.
        unsafe { core::slice::from_raw_parts(start, count) }
    }
}

/// The address that the distance in `word` leads to.
fn target(word: &i32) -> u64 {
    (core::ptr::from_ref(word) as u64).wrapping_add_signed((*word).into())
}

/// Returns where to go on after an abort at `address`, if that is in guarded code.
pub fn landing_after(address: u64) -> Option<u64> {
    let around = |piece: &&Guarded| (target(&piece.begin)..target(&piece.end)).contains(&address);
    Guarded::all().iter().find(around).map(|piece| target(&piece.landing))
}

/// Assembles guarded code. An abort in it goes to the label `landing`.
macro_rules! guarded {
    ($($line:expr,)* ; $($operand:tt)*) => {
        asm!(
            "8:",
            $($line,)*
            "9:",
            ".pushsection .guarded, \"a\"",
            ".balign 4",
            ".word 8b - ., 9b - ., {landing} - .",
            ".popsection",
            $($operand)*
            landing = label { return Err(CopyFault) },
            options(nostack),
        )
    };
}

/// Copies 64 bytes at an offset from `{from}` to `{to}`. Eight instructions.
macro_rules! copy_64_bytes {
    ($offset:literal) => {
        concat!(
            "ldp {a}, {b}, [{from}, #",
            $offset,
            "]\n",
            "ldp {c}, {d}, [{from}, #",
            $offset,
            " + 16]\n",
            "ldp {e}, {f}, [{from}, #",
            $offset,
            " + 32]\n",
            "ldp {g}, {h}, [{from}, #",
            $offset,
            " + 48]\n",
            "stp {a}, {b}, [{to}, #",
            $offset,
            "]\n",
            "stp {c}, {d}, [{to}, #",
            $offset,
            " + 16]\n",
            "stp {e}, {f}, [{to}, #",
            $offset,
            " + 32]\n",
            "stp {g}, {h}, [{to}, #",
            $offset,
            " + 48]\n",
        )
    };
}

/// Copies [`CHUNK`] bytes by pairs of registers.
#[inline(always)]
fn copy_by_pairs(from: PhysAddr, to: PhysAddr) -> Result<(), CopyFault> {
    // SAFETY: The service passes pages that it checked to be guest RAM, and frames, which are
    // nobody's Rust object. What is not mapped ends in a fault.
    unsafe {
        guarded!(
            copy_64_bytes!("0"),
            copy_64_bytes!("64"),
            copy_64_bytes!("128"),
            copy_64_bytes!("192"), ;
            from = in(reg) from.0, to = in(reg) to.0,
            a = out(reg) _, b = out(reg) _, c = out(reg) _, d = out(reg) _,
            e = out(reg) _, f = out(reg) _, g = out(reg) _, h = out(reg) _,
        );
    }
    Ok(())
}

/// Copies `bytes` with the instructions of FEAT_MOPS, which the CPU has.
#[inline(always)]
fn copy_by_mops(from: PhysAddr, to: PhysAddr, bytes: u64) -> Result<(), CopyFault> {
    // SAFETY: As in `copy_by_pairs`.
    unsafe {
        guarded!(
            ".arch_extension mops",
            "cpyfp [{to}]!, [{from}]!, {bytes}!",
            "cpyfm [{to}]!, [{from}]!, {bytes}!",
            "cpyfe [{to}]!, [{from}]!, {bytes}!",
            ".arch_extension nomops", ;
            from = inout(reg) from.0 => _, to = inout(reg) to.0 => _,
            bytes = inout(reg) bytes => _,
        );
    }
    Ok(())
}

/// Continues the CRC-32C `seed` over `range`, whole rounds of 64 bytes, at least one. Fourteen
/// instructions each.
#[inline(never)]
fn checksum(seed: u32, range: PhysRange) -> Result<u32, CopyFault> {
    let mut crc = u64::from(seed);
    // SAFETY: As in `copy_by_pairs`, and only reads, but for `crc`, which is this function's. Every
    // CPU with MTE2 has the CRC instructions (FEAT_CRC32 is mandatory from Armv8.1), and without
    // MTE2 nothing is verified.
    unsafe {
        guarded!(
            ".arch_extension crc",
            "2:  ldp     x2, x3, [x0], #64",
            "    ldp     x4, x5, [x0, #-48]",
            "    ldp     x6, x7, [x0, #-32]",
            "    ldp     x8, x9, [x0, #-16]",
            "    crc32cx w1, w1, x2",
            "    crc32cx w1, w1, x3",
            "    crc32cx w1, w1, x4",
            "    crc32cx w1, w1, x5",
            "    crc32cx w1, w1, x6",
            "    crc32cx w1, w1, x7",
            "    crc32cx w1, w1, x8",
            "    crc32cx w1, w1, x9",
            "    cmp     x0, x10",
            "    b.ne    2b",
            "    str     x1, [x11]", ;
            inout("x0") range.start().0 => _, inout("x1") crc => _,
            in("x10") range.end().0, in("x11") &raw mut crc,
            out("x2") _, out("x3") _, out("x4") _, out("x5") _,
            out("x6") _, out("x7") _, out("x8") _, out("x9") _,
        );
    }
    Ok(crc as u32)
}

/// Loads one word.
fn load_word(address: PhysAddr) -> Result<u64, CopyFault> {
    let mut word = 0u64;
    // SAFETY: As in `checksum`.
    unsafe {
        guarded!(
            "ldr x1, [x0]",
            "str x1, [x2]", ;
            in("x0") address.0, out("x1") _, in("x2") &raw mut word,
        );
    }
    Ok(word)
}

/// Says whether loads from each page of `range`, which is mapped, are answered.
pub fn answers(range: PhysRange) -> bool {
    let pages = range.page_cover().unwrap_or(range);
    let mut starts = (pages.start().0..pages.end().0).step_by(PAGE_SIZE as usize);
    starts.all(|page| load_word(PhysAddr(page)).is_ok())
}

/// Loads one word of guest RAM, which the caller has checked to be that; `None` after an external
/// abort, and where `address` is not aligned.
pub fn load(address: PhysAddr) -> Option<u64> {
    if !address.is_aligned(8) {
        return None;
    }
    load_word(address).ok()
}

impl<const MOPS: bool> PageMemory for Machine<MOPS> {
    #[inline(always)]
    fn copy_chunk_in(&self, from: PhysAddr, to: PhysAddr) -> Result<(), CopyFault> {
        if MOPS { copy_by_mops(from, to, CHUNK) } else { copy_by_pairs(from, to) }
    }

    #[inline(always)]
    fn copy_page_out(&self, from: PhysAddr, to: PhysAddr) -> Result<(), CopyFault> {
        if MOPS {
            return copy_by_mops(from, to, PAGE_SIZE);
        }
        for offset in (0..PAGE_SIZE).step_by(CHUNK as usize) {
            let at = |start: PhysAddr| PhysAddr(start.0.wrapping_add(offset));
            copy_by_pairs(at(from), at(to))?;
        }
        Ok(())
    }

    #[inline(always)]
    fn crc32c(&self, seed: u32, range: PhysRange) -> Result<u32, CopyFault> {
        checksum(seed, range)
    }
}

// The code above copies a chunk in four steps of 64 bytes.
const _: () = assert!(CHUNK == 4 * 64 && PAGE_SIZE.is_multiple_of(CHUNK));
