// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sets of addresses.

use std::fmt;
use tagstash::addr::PhysRange;

/// A set of addresses: ranges in ascending order that neither overlap nor touch.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Set(Vec<(u64, u64)>);

impl Set {
    /// All addresses in `ranges`.
    pub fn of(ranges: &[PhysRange]) -> Set {
        let pairs = ranges.iter().map(|range| (range.start().0, range.end().0));
        let mut pairs: Vec<(u64, u64)> = pairs.filter(|(start, end)| start < end).collect();
        pairs.sort_unstable();
        let mut set: Vec<(u64, u64)> = Vec::new();
        for (start, end) in pairs {
            match set.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => set.push((start, end)),
            }
        }
        Set(set)
    }

    /// The addresses that are not in `other`.
    pub fn without(&self, other: &Set) -> Set {
        let mut left = Vec::new();
        for &(start, end) in &self.0 {
            let mut from = start;
            for &(hole, hole_end) in other.0.iter().filter(|hole| hole.0 < end && hole.1 > start) {
                if from < hole {
                    left.push((from, hole));
                }
                from = hole_end;
            }
            if from < end {
                left.push((from, end));
            }
        }
        Set(left)
    }

    /// Says whether all of `range` is in the set.
    pub fn contains(&self, range: &PhysRange) -> bool {
        let (start, end) = (range.start().0, range.end().0);
        start == end || self.0.iter().any(|part| part.0 <= start && end <= part.1)
    }

    /// Each range as a device tree's `reg` has it, in so many cells.
    pub fn values(&self, address_cells: u64, size_cells: u64) -> Vec<Vec<u8>> {
        let cells = |number: u64, cells: u64| match cells {
            1 => (number as u32).to_be_bytes().to_vec(),
            _ => number.to_be_bytes().to_vec(),
        };
        let value = |&(start, end): &(u64, u64)| {
            [cells(start, address_cells), cells(end - start, size_cells)].concat()
        };
        self.0.iter().map(value).collect()
    }

    /// Number of ranges.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(a, b)| format!("{a:#x}..{b:#x}"))).finish()
    }
}
