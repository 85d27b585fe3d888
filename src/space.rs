// SPDX-License-Identifier: MIT OR Apache-2.0
//! RAM at boot: what is taken already, and free places for what is to come.

use crate::addr::{PhysAddr, PhysRange};
use crate::ram::GuestRam;
use alloc::vec::Vec;

/// RAM, and what in it is taken.
pub struct Space {
    memory: Vec<PhysRange>,
    taken: Vec<PhysRange>,
    free: GuestRam,
}

impl Space {
    /// Makes the space of `memory` in which `taken` must not be used.
    pub fn new(memory: Vec<PhysRange>, taken: Vec<PhysRange>) -> Space {
        let free = GuestRam::new(&memory, &taken);
        Space { memory, taken, free }
    }

    /// Takes one more range.
    pub fn take(&mut self, range: PhysRange) {
        self.taken.push(range);
        self.free = GuestRam::new(&self.memory, &self.taken);
    }

    /// Says whether all of `range` is free.
    pub fn is_free(&self, range: PhysRange) -> bool {
        range
            .page_cover()
            .is_some_and(|pages| self.free.check(pages.start(), pages.len()).is_some())
    }

    /// Returns all of the free range that `address` is in.
    pub fn free_around(&self, address: PhysAddr) -> Option<PhysRange> {
        self.free.ranges().iter().copied().find(|range| range.contains(address))
    }

    /// Returns the free range of `size` bytes with the highest address that is a multiple of
    /// `align`, a power of two. What the shim keeps for itself goes high: low memory is
    /// what kernels and devices are short of.
    pub fn highest(&self, size: u64, align: u64) -> Option<PhysRange> {
        self.free.ranges().iter().rev().find_map(|range| {
            let start = range.end().0.checked_sub(size)? & !(align - 1);
            if start < range.start().0 { None } else { PhysRange::new(PhysAddr(start), size) }
        })
    }

    /// The same with the lowest address.
    pub fn lowest(&self, size: u64, align: u64) -> Option<PhysRange> {
        self.free.ranges().iter().find_map(|range| {
            let start = PhysAddr(range.start().0.checked_next_multiple_of(align)?);
            PhysRange::new(start, size).filter(|place| range.contains_range(place))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    const MIB: u64 = 1 << 20;

    fn range(start: u64, end: u64) -> PhysRange {
        PhysRange::from_bounds(PhysAddr(start), PhysAddr(end)).unwrap()
    }

    #[test]
    fn places_are_aligned_free_and_as_high_or_low_as_asked() {
        let mut space = Space::new(
            vec![range(0x4000_0000, 0x5000_0000), range(0x8000_0000, 0x8030_0000)],
            vec![range(0x4000_0000, 0x4020_1000), range(0x8020_0000, 0x8020_0800)],
        );
        assert_eq!(space.highest(MIB, 2 * MIB), Some(range(0x8000_0000, 0x8010_0000)));
        assert_eq!(space.highest(4096, 4096), Some(range(0x802f_f000, 0x8030_0000)));
        assert_eq!(space.lowest(MIB, 2 * MIB), Some(range(0x4040_0000, 0x4050_0000)));
        assert_eq!(space.highest(4 * MIB, 2 * MIB), Some(range(0x4fc0_0000, 0x5000_0000)));

        let place = space.highest(4 * MIB, 2 * MIB).unwrap();
        assert!(space.is_free(place));
        space.take(place);
        assert!(!space.is_free(place));
        assert_eq!(space.highest(4 * MIB, 2 * MIB), Some(range(0x4f80_0000, 0x4fc0_0000)));

        let around = space.free_around(PhysAddr(0x4fd0_0000));
        assert_eq!(around, None);
        let around = space.free_around(PhysAddr(0x4f80_0000));
        assert_eq!(around, Some(range(0x4020_1000, 0x4fc0_0000)));
    }

    #[test]
    fn what_does_not_fit_has_no_place() {
        let space = Space::new(vec![range(0x1000, 0x30_0000)], vec![]);
        assert_eq!(space.highest(2 * MIB, 2 * MIB), None);
        assert_eq!(space.lowest(2 * MIB, 2 * MIB), None);
        assert_eq!(space.highest(u64::MAX, 4096), None);
        assert_eq!(space.lowest(u64::MAX, 1 << 63), None);
        assert!(!space.is_free(range(0x1000, 0x30_0001)));
        assert!(!space.is_free(range(0x1000, u64::MAX)));
    }
}
