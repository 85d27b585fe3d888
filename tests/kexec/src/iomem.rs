// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory as the running kernel lists it.

use alloc::string::String;
use alloc::vec::Vec;

use crate::{Result, sys};

/// A range of physical addresses.
#[derive(Clone, Copy)]
pub struct Range {
    /// The first address.
    pub start: u64,
    /// The first address after it.
    pub end: u64,
}

impl Range {
    /// A range by its length.
    pub fn of(start: u64, length: u64) -> Range {
        Range { start, end: start + length }
    }

    /// Its bytes.
    pub fn length(&self) -> u64 {
        self.end - self.start
    }
}

/// What /proc/iomem says.
pub struct Memory {
    /// RAM, without what is reserved for a crash kernel.
    pub ram: Vec<Range>,
    /// What is reserved for a crash kernel.
    pub crash: Option<Range>,
}

/// Reads it.
pub fn read() -> Result<Memory> {
    let text = String::from_utf8(sys::read_file("/proc/iomem")?).unwrap_or_default();
    let mut memory = Memory { ram: Vec::new(), crash: None };
    for line in text.lines() {
        let Some((range, name)) = line.split_once(" : ") else { continue };
        let Some((start, end)) = range.trim_start().split_once('-') else { continue };
        let address = |digits| u64::from_str_radix(digits, 16).map_err(|_| "/proc/iomem is odd");
        let range = Range { start: address(start)?, end: address(end)? + 1 };
        match name {
            "System RAM" if !line.starts_with(' ') => memory.ram.push(range),
            "Crash kernel" => memory.crash = Some(range),
            _ => {}
        }
    }
    if let Some(hole) = memory.crash {
        let parts = memory.ram.iter().flat_map(|range| {
            let below = Range { start: range.start, end: range.end.min(hole.start) };
            let above = Range { start: range.start.max(hole.end), end: range.end };
            [below, above].into_iter().filter(|part| part.start < part.end)
        });
        memory.ram = parts.collect();
    }
    Ok(memory)
}
