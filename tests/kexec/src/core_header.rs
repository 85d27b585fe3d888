// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ELF header that describes the memory of a kernel that panics: /proc/vmcore of the next one.
//!
//! Notes and memory lie where they are: offsets in the file are physical addresses.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::iomem::{Memory, Range};
use crate::{Result, sys};

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// Read, write, execute.
const RWX: u32 = 7;
const HEADER: usize = 64;
const ENTRY: usize = 56;

/// Makes it: the notes of each CPU, those of the kernel, its RAM.
pub fn build(memory: &Memory) -> Result<Vec<u8>> {
    let mut entries: Vec<(u32, Range)> = Vec::new();
    for cpu in 0.. {
        let directory = format!("/sys/devices/system/cpu/cpu{cpu}");
        let Ok(address) = text(&format!("{directory}/crash_notes")) else { break };
        let size = text(&format!("{directory}/crash_notes_size"))?;
        entries.push((PT_NOTE, Range::of(number(&address, 16)?, number(&size, 10)?)));
    }
    if entries.is_empty() {
        return Err("the kernel has no crash notes".into());
    }
    let kernel = text("/sys/kernel/vmcoreinfo")?;
    let (address, size) = kernel.split_once(' ').ok_or("/sys/kernel/vmcoreinfo is odd")?;
    entries.push((PT_NOTE, Range::of(number(address, 16)?, number(size, 16)?)));
    entries.extend(memory.ram.iter().map(|range| (PT_LOAD, *range)));

    let mut bytes = Vec::with_capacity(HEADER + entries.len() * ENTRY);
    // 64 bits, little endian, version 1; ET_CORE, EM_AARCH64, version 1.
    bytes.extend(b"\x7fELF\x02\x01\x01");
    bytes.resize(16, 0);
    bytes.extend(4u16.to_le_bytes());
    bytes.extend(183u16.to_le_bytes());
    bytes.extend(1u32.to_le_bytes());
    bytes.extend([0u64, HEADER as u64, 0].map(u64::to_le_bytes).concat());
    bytes.extend(0u32.to_le_bytes());
    let counts = [HEADER as u16, ENTRY as u16, entries.len() as u16, 0, 0, 0];
    bytes.extend(counts.map(u16::to_le_bytes).concat());
    for (kind, range) in entries {
        let flags = if kind == PT_LOAD { RWX } else { 0 };
        bytes.extend([kind, flags].map(u32::to_le_bytes).concat());
        let length = range.length();
        // Offset, virtual and physical address, length in the file and in memory, alignment.
        let words = [range.start, range.start, range.start, length, length, 0];
        bytes.extend(words.map(u64::to_le_bytes).concat());
    }
    Ok(bytes)
}

fn text(path: &str) -> Result<String> {
    let text = String::from_utf8(sys::read_file(path)?);
    Ok(text.map_err(|_| format!("{path} is no text"))?.trim().into())
}

fn number(digits: &str, base: u32) -> Result<u64> {
    let plain = digits.trim_start_matches("0x");
    u64::from_str_radix(plain, base).map_err(|_| format!("'{digits}' is no number"))
}
