// SPDX-License-Identifier: MIT OR Apache-2.0
//! Numbers that look random and are the same in every run.

/// Spreads the bits of a number over all 64 (the finaliser of SplitMix64).
pub const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// SplitMix64.
pub struct Random(u64);

impl Random {
    /// The sequence that belongs to a seed.
    pub const fn new(seed: u64) -> Random {
        Random(mix(seed ^ 0x7461_6773_7461_7368))
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}
