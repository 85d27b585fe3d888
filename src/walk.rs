// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's own translation tables (stage 1), read to find the level at which a walk ended.
//!
//! A table of the guest that lies where the guest must not reach ends its walk with a fault of
//! stage 2. The syndrome that EL2 sees has the level of *stage 2's* walk; what EL1 has to be
//! told is the level of its own (Arm ARM, ESR_ELx, DFSC 0b0101xx). So the walk is done again,
//! up to the table in the page that HPFAR_EL2 names.
//!
//! Descriptors are 64 bits long here: of a guest that uses those of 128 (FEAT_D128) the level may
//! be another one.
//!
//! Whatever the registers and tables say, the walk ends after at most five reads, each of them
//! checked by whoever does the reading.

use crate::addr::PhysAddr;

/// Bytes of a descriptor, as a power of two.
const DESCRIPTOR_BITS: u32 = 3;
/// The last level, that of pages.
const LAST_LEVEL: i32 = 3;
/// Bits of addresses in descriptors and TTBRs unless they say more (FEAT_LPA, FEAT_LPA2).
const ADDRESS: u64 = 0x0000_ffff_ffff_ffff;
/// Bits 1:0 of a descriptor that leads to another table.
const TABLE: u64 = 0b11;
/// TCR_EL1.DS: descriptors of FEAT_LPA2, for granules of 4 and 16 KiB.
const TCR_DS: u64 = 1 << 59;
/// TCR_EL1.IPS: addresses of 52 bits.
const IPS_52: u64 = 6;

/// How the guest translates: EL1's registers.
#[derive(Clone, Copy, Debug)]
pub struct Stage1 {
    /// TCR_EL1.
    pub tcr: u64,
    /// TTBR0_EL1.
    pub ttbr0: u64,
    /// TTBR1_EL1.
    pub ttbr1: u64,
}

/// What TCR_EL1 says of one half of the address space.
struct Half {
    /// Log2 of the granule.
    granule: u32,
    /// Bits of an address in this half.
    bits: u32,
    /// The table where walks start.
    ttbr: u64,
    /// Descriptors as FEAT_LPA2 has them.
    ds: bool,
    /// Addresses have up to 52 bits.
    large: bool,
}

impl Stage1 {
    /// The level, -1 to 3, of the guest's walk for `address` at which the table was in the page
    /// at `table`. `read` gives the descriptor at an address, or nothing where that is not guest
    /// RAM. Where the tables no longer lead there, because another CPU has changed them or caches
    /// hold older ones, it is the level at which a walk starts.
    pub fn level_of(
        &self,
        address: u64,
        table: PhysAddr,
        read: impl Fn(PhysAddr) -> Option<u64>,
    ) -> i32 {
        let half = self.half(address);
        half.find(address, table, read).unwrap_or(half.start())
    }

    /// The half that `address` is in. Bit 55 decides, whether the byte above is ignored or not.
    fn half(&self, address: u64) -> Half {
        let upper = address >> 55 & 1 == 1;
        let (ttbr, field) =
            if upper { (self.ttbr1, self.tcr >> 16 & 0x3f) } else { (self.ttbr0, self.tcr & 0x3f) };
        // TG1 and TG0 have different codes for the same sizes.
        let granule = match (upper, self.tcr >> if upper { 30 } else { 14 } & 3) {
            (true, 1) | (false, 2) => 14,
            (true, 3) | (false, 1) => 16,
            _ => 12,
        };
        let ds = self.tcr & TCR_DS != 0 && granule != 16;
        let large = ds || granule == 16;
        // A size out of range behaves as the nearest one in range, or faults without a walk.
        let (least, most) = (if large { 12 } else { 16 }, if granule == 16 { 47 } else { 48 });
        let bits = 64 - (field as u32).clamp(least, most);
        Half { granule, bits, ttbr, ds, large: large && self.tcr >> 32 & 7 == IPS_52 }
    }
}

impl Half {
    /// Bits of an address that one level translates.
    fn stride(&self) -> u32 {
        self.granule - DESCRIPTOR_BITS
    }

    /// The level at which walks start.
    fn start(&self) -> i32 {
        let levels = (self.bits - self.granule).div_ceil(self.stride());
        (LAST_LEVEL + 1).saturating_sub_unsigned(levels)
    }

    /// The lowest of the bits that `level` translates.
    fn shift(&self, level: i32) -> u32 {
        self.granule + self.stride() * LAST_LEVEL.abs_diff(level)
    }

    /// The first table (TTBR_EL1.BADDR). It may be smaller than a granule, and is aligned to its
    /// own size, but not less than 64 bytes.
    fn first_table(&self) -> u64 {
        let size = (self.bits - self.shift(self.start()) + DESCRIPTOR_BITS).max(6);
        let high = if self.large { (self.ttbr >> 2 & 0xf) << 48 } else { 0 };
        self.ttbr & ADDRESS & !((1 << size) - 1) | high
    }

    /// The table that a descriptor leads to.
    fn next_table(&self, descriptor: u64) -> u64 {
        let low = descriptor & ADDRESS & !((1 << self.granule) - 1);
        match (self.ds, self.large) {
            // Bits 49:48 are in place, 51:50 in bits 9:8.
            (true, _) => low | descriptor & 3 << 48 | (descriptor >> 8 & 3) << 50,
            // A granule of 64 KiB: 51:48 in bits 15:12.
            (false, true) => low | (descriptor >> 12 & 0xf) << 48,
            (false, false) => low,
        }
    }

    fn find(
        &self,
        address: u64,
        wanted: PhysAddr,
        read: impl Fn(PhysAddr) -> Option<u64>,
    ) -> Option<i32> {
        let address = address & ((1 << self.bits) - 1);
        let mut table = self.first_table();
        for level in self.start()..=LAST_LEVEL {
            let index = address >> self.shift(level);
            let index = if level == self.start() { index } else { index % (1 << self.stride()) };
            let entry = table | index << DESCRIPTOR_BITS;
            if entry >> 12 == wanted.0 >> 12 {
                return Some(level);
            }
            match read(PhysAddr(entry)) {
                Some(descriptor) if descriptor & 3 == TABLE => table = self.next_table(descriptor),
                _ => return None,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::vec::Vec;

    /// The codes of TG0 and TG1 for a granule of 2^12, 2^14 and 2^16 bytes.
    const GRANULES: [(u32, u64, u64); 3] = [(12, 0, 2), (14, 2, 1), (16, 1, 3)];

    fn tcr(tg0: u64, tg1: u64, size: u64) -> u64 {
        size | tg0 << 14 | size << 16 | tg1 << 30
    }

    /// Tables of a walk for `address` from `start` down, and where each of its entries lies.
    /// Computed the other way round from the code above: level 3 translates the `stride` bits
    /// over the page offset, and so on upwards.
    fn tables(granule: u32, start: i32, bits: u32, address: u64) -> (Vec<u64>, HashMap<u64, u64>) {
        let stride = granule - 3;
        let mut entries = Vec::new();
        let mut memory = HashMap::new();
        for (n, level) in (start..=3).enumerate() {
            let base = 0x10_0000_0000 + ((n as u64) << 20);
            let shift = granule + stride * (3 - level) as u32;
            let width = if level == start { bits - shift } else { stride };
            let entry = base + (address >> shift & ((1 << width) - 1)) * 8;
            memory.insert(entry, (base + (1 << 20)) | 0b11);
            entries.push(entry);
        }
        (entries, memory)
    }

    /// Arm ARM, tables D8-12 and following: where a walk starts, by granule and size.
    #[test]
    fn each_level_of_each_granule_is_found_in_both_halves() {
        let starts: [(u64, [i32; 3]); 8] = [
            (16, [0, 0, 1]),
            (17, [0, 1, 1]),
            (22, [0, 1, 2]),
            (24, [0, 1, 2]),
            (25, [1, 1, 2]),
            (28, [1, 2, 2]),
            (34, [2, 2, 2]),
            (39, [2, 3, 3]),
        ];
        for (size, levels) in starts {
            for ((granule, tg0, tg1), start) in GRANULES.into_iter().zip(levels) {
                let bits = 64 - size as u32;
                for upper in [false, true] {
                    let low = 0x1234_5678_9abc_def0 & ((1 << bits) - 1);
                    let address = if upper { low | !((1 << bits) - 1) } else { low };
                    let (entries, memory) = tables(granule, start, bits, address);
                    let base = 0x10_0000_0000;
                    // ASID and CnP are not part of the address.
                    let ttbr = base | 0xabcd << 48 | 1;
                    let (ttbr0, ttbr1) = if upper { (0, ttbr) } else { (ttbr, 0) };
                    let regime = Stage1 { tcr: tcr(tg0, tg1, size), ttbr0, ttbr1 };
                    for (level, entry) in (start..).zip(&entries) {
                        let page = PhysAddr(entry & !0xfff);
                        // The table in question is not readable: it is not guest RAM.
                        let read = |at: PhysAddr| {
                            memory.get(&at.0).copied().filter(|_| at.0 >> 12 != entry >> 12)
                        };
                        let found = regime.level_of(address, page, read);
                        assert_eq!(found, level, "2^{granule}, size {size}, upper {upper}");
                    }
                }
            }
        }
    }

    #[test]
    fn tables_that_lead_elsewhere_give_the_first_level() {
        let regime = Stage1 { tcr: tcr(0, 2, 25), ttbr0: 0x4000_0000, ttbr1: 0 };
        let wanted = PhysAddr(0x5000_0000);
        for descriptor in [None, Some(0), Some(0x5000_0001), Some(0x6000_0003)] {
            assert_eq!(regime.level_of(0x1000, wanted, |_| descriptor), 1, "{descriptor:x?}");
        }
        // A table that leads to itself, for ever.
        assert_eq!(regime.level_of(0, wanted, |_| Some(0x4000_0003)), 1);
        let whole = Stage1 { tcr: tcr(0, 2, 16), ..regime };
        assert_eq!(whole.level_of(0, wanted, |_| None), 0);
    }

    /// FEAT_LPA2: five levels, and address bits 51:50 in bits 9:8.
    #[test]
    fn large_addresses_have_their_own_bits() {
        let five = Stage1 { tcr: tcr(0, 2, 12) | TCR_DS | 6 << 32, ttbr0: 0x1000, ttbr1: 0 };
        assert_eq!(five.level_of(0, PhysAddr(0x1000), |_| None), -1);
        let read =
            |at: PhysAddr| Some(if at.0 == 0x1000 { 0x5000 | 3 << 48 | 2 << 8 | 3 } else { 0 });
        assert_eq!(five.level_of(0, PhysAddr(0x5000 | 3 << 48 | 2 << 50), read), 0);

        // FEAT_LPA: a granule of 64 KiB, address bits 51:48 in bits 15:12 and in TTBR bits 5:2.
        let lpa = Stage1 { tcr: tcr(1, 3, 12) | 6 << 32, ttbr0: 0x2_0000 | 9 << 2, ttbr1: 0 };
        assert_eq!(lpa.level_of(0, PhysAddr(0x2_0000 | 9 << 48), |_| None), 1);
        let read = |at: PhysAddr| (at.0 == 0x2_0000 | 9 << 48).then_some(0x3_0000 | 7 << 12 | 3);
        assert_eq!(lpa.level_of(0, PhysAddr(0x3_0000 | 7 << 48), read), 2);
    }

    /// P7: whatever the guest has in its registers and tables, the walk ends, and within the
    /// levels that there are.
    #[test]
    fn p7_random_registers_and_tables_end_the_walk() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..if cfg!(miri) { 200 } else { 200_000 } {
            let regime = Stage1 { tcr: random(), ttbr0: random(), ttbr1: random() };
            let (address, table, descriptor) = (random(), PhysAddr(random()), random() | 3);
            let reads = core::cell::Cell::new(0);
            let level = regime.level_of(address, table, |at| {
                reads.set(reads.get() + 1);
                assert_eq!(at.0 % 8, 0);
                Some(descriptor)
            });
            assert!((-1..=3).contains(&level) && reads.get() <= 5, "{regime:x?}: {level}");
        }
    }
}
