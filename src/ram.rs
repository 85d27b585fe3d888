// SPDX-License-Identifier: MIT OR Apache-2.0
//! Guest RAM, and the check that turns what the guest says into an address that is in it.

use crate::addr::{PAGE_SIZE, PhysAddr, PhysRange};
use alloc::vec::Vec;

/// The ranges of memory that belong to the guest: the memory nodes less every `no-map`
/// reservation, the shim and the tag storage. Sorted, whole pages, neither touching nor
/// overlapping.
#[derive(Clone, Debug, Default)]
pub struct GuestRam {
    ranges: Vec<PhysRange>,
}

impl GuestRam {
    /// Makes guest RAM of `memory` less `holes`, in any order, overlapping or not. Memory is
    /// rounded inwards to whole pages, holes outwards.
    pub fn new(memory: &[PhysRange], holes: &[PhysRange]) -> GuestRam {
        let mut ranges: Vec<PhysRange> =
            memory.iter().map(PhysRange::page_interior).filter(|r| !r.is_empty()).collect();
        ranges.sort_by_key(|r| r.start());
        let mut merged: Vec<PhysRange> = Vec::new();
        for range in ranges {
            match merged.last_mut() {
                Some(last) if range.start() <= last.end() => {
                    let end = last.end().max(range.end());
                    if let Some(joined) = PhysRange::from_bounds(last.start(), end) {
                        *last = joined;
                    }
                }
                _ => merged.push(range),
            }
        }
        for hole in holes {
            merged = merged.iter().flat_map(|range| without(range, hole)).collect();
        }
        GuestRam { ranges: merged }
    }

    /// The ranges, sorted.
    pub fn ranges(&self) -> &[PhysRange] {
        &self.ranges
    }

    /// The parts of `range` that are guest RAM, in ascending order.
    #[inline]
    pub fn parts(&self, range: PhysRange) -> impl Iterator<Item = PhysRange> + '_ {
        self.ranges.iter().map(move |r| r.intersection(&range)).filter(|part| !part.is_empty())
    }

    /// Says whether there is a page at `address`, page aligned, and it is guest RAM.
    #[inline(always)]
    pub fn has_page(&self, address: PhysAddr) -> bool {
        // Whole pages: what holds the first byte holds all.
        address.is_aligned(PAGE_SIZE) && self.ranges.iter().any(|r| r.contains(address))
    }

    /// Returns the range at `address` if all of its `length` bytes are guest RAM; `None` also
    /// where it is empty or wraps around.
    #[inline]
    pub fn check(&self, address: PhysAddr, length: u64) -> Option<PhysRange> {
        let wanted = PhysRange::new(address, length)?;
        if !wanted.is_empty() && self.ranges.iter().any(|r| r.contains_range(&wanted)) {
            Some(wanted)
        } else {
            None
        }
    }
}

/// `range` less `hole`, in whole pages: no, one or two ranges.
fn without(range: &PhysRange, hole: &PhysRange) -> impl Iterator<Item = PhysRange> + use<> {
    let page = PAGE_SIZE;
    let cut_start = PhysAddr(hole.start().0 & !(page - 1));
    // A hole that ends in the last page of the address space has no end to round up to.
    let cut_end = hole
        .end()
        .checked_add(page - 1)
        .map_or(PhysAddr(u64::MAX), |end| PhysAddr(end.0 & !(page - 1)));
    let untouched = hole.is_empty() || cut_end <= range.start() || range.end() <= cut_start;
    let parts = if untouched {
        [Some(*range), None]
    } else {
        [
            PhysRange::from_bounds(range.start(), cut_start),
            PhysRange::from_bounds(cut_end, range.end()),
        ]
    };
    parts.into_iter().flatten().filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> PhysRange {
        PhysRange::from_bounds(PhysAddr(start), PhysAddr(end)).unwrap()
    }

    #[test]
    fn holes_are_cut_out_in_any_order() {
        let memory = [range(0x8000_0000, 0x9000_0000), range(0x4000_0000, 0x8000_0000)];
        let holes = [
            range(0x5000_0800, 0x5000_0801),
            range(0x4000_0000, 0x4010_0000),
            range(0x7fff_f000, 0x8000_1000),
            range(0x5000_0000, 0x5000_1000),
            range(0x8fff_f001, u64::MAX),
            range(0x6000_0000, 0x6000_0000),
        ];
        assert_eq!(
            GuestRam::new(&memory, &holes).ranges(),
            [
                range(0x4010_0000, 0x5000_0000),
                range(0x5000_1000, 0x7fff_f000),
                range(0x8000_1000, 0x8fff_f000),
            ]
        );
    }

    #[test]
    fn memory_is_rounded_inwards_and_merged() {
        let memory = [range(0x1000, 0x3000), range(0x3000, 0x5800), range(0x7001, 0x7fff)];
        assert_eq!(GuestRam::new(&memory, &[]).ranges(), [range(0x1000, 0x5000)]);
    }

    /// P7: what the guest says is an address only if all of it is guest RAM.
    #[test]
    fn p7_a_range_must_lie_in_guest_ram_as_a_whole() {
        let ram = GuestRam::new(&[range(0x1000, 0x9000)], &[range(0x4000, 0x5000)]);
        assert_eq!(ram.check(PhysAddr(0x1000), 0x3000), Some(range(0x1000, 0x4000)));
        assert_eq!(ram.check(PhysAddr(0x1000), 0x3001), None);
        assert_eq!(ram.check(PhysAddr(0x3000), 0x3000), None);
        assert_eq!(ram.check(PhysAddr(0x4000), 0x1000), None);
        assert_eq!(ram.check(PhysAddr(0x8000), 0x1000), Some(range(0x8000, 0x9000)));
        assert_eq!(ram.check(PhysAddr(0x8000), 0x1001), None);
        assert_eq!(ram.check(PhysAddr(0), 0x1000), None);
        assert_eq!(ram.check(PhysAddr(0x1000), 0), None);
        assert_eq!(ram.check(PhysAddr(u64::MAX - 0xfff), 0x1000), None);
        assert_eq!(ram.check(PhysAddr(0x2000), u64::MAX), None);
    }
}
