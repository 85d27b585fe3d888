// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random numbers: the same for the same seed, for ever.

/// A generator (xorshift64*, Vigna 2016).
pub struct Random(u64);

impl Random {
    /// Begins a sequence.
    pub fn new(seed: u64, stream: u64) -> Random {
        let mut random =
            Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ stream << 48 ^ 0x5bd1_e995);
        if random.0 == 0 {
            random.0 = 1;
        }
        // Neighbouring seeds begin alike.
        for _ in 0..16 {
            random.next();
        }
        random
    }

    /// The next number.
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }
}
