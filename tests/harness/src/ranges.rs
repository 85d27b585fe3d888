// SPDX-License-Identifier: MIT OR Apache-2.0
//! Address ranges, and small sets of them.

/// A page of 4 KiB.
pub const PAGE: u64 = 4096;

/// From `start` up to, not including, `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
}

impl Range {
    /// The range of `length` bytes at `start`.
    pub const fn of(start: u64, length: u64) -> Range {
        Range { start, end: start.saturating_add(length) }
    }

    /// Bytes in it.
    pub const fn length(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whole pages in it.
    pub const fn pages(&self) -> u64 {
        self.length() / PAGE
    }

    /// Whether `other` lies in it.
    pub const fn holds(&self, other: Range) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// What both cover.
    pub fn common(&self, other: Range) -> Option<Range> {
        let start = self.start.max(other.start);
        let end = self.end.min(other.end);
        (start < end).then_some(Range { start, end })
    }
}

/// At most `N` values.
#[derive(Clone, Copy)]
pub struct List<T, const N: usize> {
    items: [T; N],
    used: usize,
}

impl<T: Copy + Default, const N: usize> List<T, N> {
    /// None yet.
    pub fn new() -> Self {
        List { items: [T::default(); N], used: 0 }
    }

    /// One more; there must be room.
    pub fn push(&mut self, item: T) {
        assert!(self.used < N, "a list of at most {N} is full");
        self.items[self.used] = item;
        self.used += 1;
    }

    /// All of them.
    pub fn all(&self) -> &[T] {
        &self.items[..self.used]
    }

    /// All of them, to be changed.
    pub fn all_mut(&mut self) -> &mut [T] {
        &mut self.items[..self.used]
    }
}

/// A set of ranges, ascending and apart from each other.
pub type Ranges = List<Range, 64>;

impl Ranges {
    /// Adds a range; what it overlaps or touches becomes one range with it.
    pub fn add(&mut self, range: Range) {
        if range.length() == 0 {
            return;
        }
        let mut merged = range;
        let mut rest = Ranges::new();
        for &other in self.all() {
            if other.start <= merged.end && merged.start <= other.end {
                merged.start = merged.start.min(other.start);
                merged.end = merged.end.max(other.end);
            } else {
                rest.push(other);
            }
        }
        rest.push(merged);
        rest.all_mut().sort_unstable_by_key(|range| range.start);
        *self = rest;
    }

    /// Takes a range out.
    pub fn remove(&mut self, range: Range) {
        let mut rest = Ranges::new();
        for &other in self.all() {
            for piece in [
                Range { start: other.start, end: other.end.min(range.start) },
                Range { start: other.start.max(range.end), end: other.end },
            ] {
                if piece.start < piece.end {
                    rest.push(piece);
                }
            }
        }
        *self = rest;
    }

    /// Whether all of a range is in the set.
    pub fn hold(&self, range: Range) -> bool {
        self.all().iter().any(|own| own.holds(range))
    }

    /// Whether any of a range is in the set.
    pub fn touch(&self, range: Range) -> bool {
        self.all().iter().any(|own| own.common(range).is_some())
    }

    /// The set with every range cut down to whole pages.
    pub fn whole_pages(&self) -> Ranges {
        let mut result = Ranges::new();
        for range in self.all() {
            let start = range.start.next_multiple_of(PAGE);
            let end = range.end / PAGE * PAGE;
            if start < end {
                result.push(Range { start, end });
            }
        }
        result
    }
}
