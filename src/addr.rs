// SPDX-License-Identifier: MIT OR Apache-2.0
//! Physical addresses and ranges of them.
//!
//! Stage 2 is an identity map, so a guest's intermediate physical address and the physical
//! address are the same number. What the guest supplied becomes a [`PhysAddr`] only through
//! the checks of [`crate::ram::GuestRam`].

use core::fmt;

/// Bytes in a page of guest memory and in a frame of tag storage.
pub const PAGE_SIZE: u64 = 4096;
/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;

/// A physical address, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PhysAddr(pub u64);

impl PhysAddr {
    /// Says whether the address is a multiple of `align`, a power of two.
    #[inline(always)]
    pub const fn is_aligned(self, align: u64) -> bool {
        self.0 & (align - 1) == 0
    }

    /// Returns the address `bytes` further on, or `None` where that leaves 64 bits.
    #[inline(always)]
    pub const fn checked_add(self, bytes: u64) -> Option<PhysAddr> {
        match self.0.checked_add(bytes) {
            Some(sum) => Some(PhysAddr(sum)),
            None => None,
        }
    }
}

impl fmt::Debug for PhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for PhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A half-open range of physical addresses, `start..end`, with `start <= end`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PhysRange {
    start: PhysAddr,
    end: PhysAddr,
}

impl PhysRange {
    /// Makes the range of `length` bytes at `start`; `None` if it wraps around.
    #[inline(always)]
    pub const fn new(start: PhysAddr, length: u64) -> Option<PhysRange> {
        match start.checked_add(length) {
            Some(end) => Some(PhysRange { start, end }),
            None => None,
        }
    }

    /// Makes the range of `length` bytes at `start`, cut off at the top of the address space.
    /// For ranges inside others that are known not to wrap.
    #[inline(always)]
    pub const fn clamped(start: PhysAddr, length: u64) -> PhysRange {
        PhysRange { start, end: PhysAddr(start.0.saturating_add(length)) }
    }

    /// Makes the range `start..end`; `None` if it ends before it starts.
    pub const fn from_bounds(start: PhysAddr, end: PhysAddr) -> Option<PhysRange> {
        if start.0 <= end.0 { Some(PhysRange { start, end }) } else { None }
    }

    /// First byte.
    #[inline(always)]
    pub const fn start(&self) -> PhysAddr {
        self.start
    }

    /// First byte after the range.
    #[inline(always)]
    pub const fn end(&self) -> PhysAddr {
        self.end
    }

    /// Length in bytes.
    #[inline(always)]
    pub const fn len(&self) -> u64 {
        self.end.0 - self.start.0
    }

    /// Says whether the range holds no byte.
    #[inline(always)]
    pub const fn is_empty(&self) -> bool {
        self.start.0 == self.end.0
    }

    /// Says whether `address` lies in the range.
    #[inline(always)]
    pub const fn contains(&self, address: PhysAddr) -> bool {
        // One compare: below the start is far above, modulo 2^64.
        address.0.wrapping_sub(self.start.0) < self.end.0.wrapping_sub(self.start.0)
    }

    /// Says whether all of `other` lies in the range.
    #[inline(always)]
    pub const fn contains_range(&self, other: &PhysRange) -> bool {
        self.start.0 <= other.start.0 && other.end.0 <= self.end.0
    }

    /// Says whether the two ranges share a byte.
    pub const fn overlaps(&self, other: &PhysRange) -> bool {
        !self.intersection(other).is_empty()
    }

    /// Returns the shared part; empty where there is none.
    #[inline(always)]
    pub const fn intersection(&self, other: &PhysRange) -> PhysRange {
        let start = if self.start.0 > other.start.0 { self.start } else { other.start };
        let end = if self.end.0 < other.end.0 { self.end } else { other.end };
        if start.0 < end.0 { PhysRange { start, end } } else { PhysRange { start, end: start } }
    }

    /// Returns the smallest range of whole pages that covers this one; `None` if rounding up
    /// leaves 64 bits.
    pub const fn page_cover(&self) -> Option<PhysRange> {
        let start = PhysAddr(self.start.0 & !(PAGE_SIZE - 1));
        match self.end.checked_add(PAGE_SIZE - 1) {
            Some(end) => Some(PhysRange { start, end: PhysAddr(end.0 & !(PAGE_SIZE - 1)) }),
            None => None,
        }
    }

    /// Returns the largest range of whole pages inside this one; empty where there is none.
    pub const fn page_interior(&self) -> PhysRange {
        let end = PhysAddr(self.end.0 & !(PAGE_SIZE - 1));
        match self.start.checked_add(PAGE_SIZE - 1) {
            Some(up) => {
                let start = PhysAddr(up.0 & !(PAGE_SIZE - 1));
                if start.0 < end.0 {
                    PhysRange { start, end }
                } else {
                    PhysRange { start, end: start }
                }
            }
            None => PhysRange { start: end, end },
        }
    }
}

impl fmt::Debug for PhysRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start.0, self.end.0)
    }
}

impl fmt::Display for PhysRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> PhysRange {
        PhysRange::from_bounds(PhysAddr(start), PhysAddr(end)).unwrap()
    }

    #[test]
    fn ranges_that_wrap_or_run_backwards_do_not_exist() {
        assert_eq!(PhysRange::new(PhysAddr(u64::MAX - 4095), 4096), None);
        assert!(PhysRange::new(PhysAddr(u64::MAX - 4095), 4095).is_some());
        assert_eq!(PhysRange::from_bounds(PhysAddr(2), PhysAddr(1)), None);
    }

    #[test]
    fn intersections_of_disjoint_and_touching_ranges_are_empty() {
        assert!(!range(0, 10).overlaps(&range(10, 20)));
        assert!(!range(10, 20).overlaps(&range(0, 10)));
        assert!(range(0, 11).overlaps(&range(10, 20)));
        assert_eq!(range(0, 15).intersection(&range(10, 20)), range(10, 15));
        assert!(!range(0, 15).overlaps(&range(7, 7)));
    }

    #[test]
    fn page_rounding_goes_outwards_and_inwards_without_wrapping() {
        assert_eq!(range(1, 4097).page_cover(), Some(range(0, 8192)));
        assert_eq!(range(1, 8193).page_interior(), range(4096, 8192));
        assert!(range(1, 4097).page_interior().is_empty());
        assert_eq!(range(5, u64::MAX).page_cover(), None);
        assert!(range(u64::MAX - 3, u64::MAX).page_interior().is_empty());
    }
}
