// SPDX-License-Identifier: MIT OR Apache-2.0
//! The arithmetic from data addresses to tag storage. Pure: no memory, no device tree.
//!
//! ```text
//!   tagged memory   m ........ p ................ m + len
//!                              |  one 4 KiB page has 128 bytes of tags
//!   tag storage     t .. t + (p - m) / 32 .. t + len / 32
//!                   |frame|frame|frame|frame|      4 KiB each, 32 pages of data
//!                   |   block   |   block   |      block_size bytes
//! ```
//!
//! `m` is page aligned and nothing more, so a naturally aligned run of pages may straddle
//! blocks: always compute the first *and* the last block of a range.

use crate::addr::{PAGE_SIZE, PhysAddr, PhysRange};
use alloc::vec::Vec;
use core::fmt;

/// Bytes of data whose tags fill one byte of tag storage: two granules of 16 bytes.
pub const DATA_PER_STORAGE_BYTE: u64 = 32;
/// Bytes of tags that one 4 KiB page of data has.
pub const TAG_BYTES_PER_PAGE: u64 = PAGE_SIZE / DATA_PER_STORAGE_BYTE;
/// Pages of data whose tags fill one 4 KiB frame.
pub const PAGES_PER_FRAME: u32 = (PAGE_SIZE / TAG_BYTES_PER_PAGE) as u32;
/// Bound of the claims that one block can have: a state word counts in 20 bits.
pub const MAX_CLAIMS: u64 = 1 << 20;
/// Most regions that a device tree may describe.
pub const MAX_REGIONS: usize = 32;

/// Why a region cannot be used. Values are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeometryError {
    /// The tag storage is not aligned to 4 KiB.
    StorageUnaligned(PhysRange),
    /// The tagged memory is not aligned to 4 KiB.
    TaggedUnaligned(PhysRange),
    /// The tag storage has no bytes.
    Empty,
    /// The block size is zero or no multiple of 4 KiB.
    BlockSize(u64),
    /// The storage is no multiple of the block size.
    PartialBlock {
        /// Length of the tag storage.
        storage: u64,
        /// The block size.
        block_size: u64,
    },
    /// The storage times 32 is not the length of the tagged memory.
    Length {
        /// Length of the tag storage.
        storage: u64,
        /// Length of the tagged memory.
        tagged: u64,
    },
    /// The tag storage lies in the memory that it holds the tags of.
    StorageInTagged {
        /// The tag storage.
        storage: PhysRange,
        /// Its tagged memory.
        tagged: PhysRange,
    },
    /// A block is so large that the claims on it could overflow their count.
    BlockTooLarge {
        /// The block size.
        block_size: u64,
        /// CPUs that may claim at once.
        cpus: usize,
    },
    /// More frames than the metadata can number (2^31 in all regions together).
    TooManyFrames(u64),
}

impl fmt::Display for GeometryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::StorageUnaligned(range) => {
                write!(f, "tag storage {range} is not aligned to 4 KiB")
            }
            Self::TaggedUnaligned(range) => {
                write!(f, "tagged memory {range} is not aligned to 4 KiB")
            }
            Self::Empty => write!(f, "tag storage has length 0"),
            Self::BlockSize(size) => {
                write!(f, "block-size {size:#x} must be a multiple of 0x1000 and not 0")
            }
            Self::PartialBlock { storage, block_size } => {
                write!(
                    f,
                    "storage length {storage:#x} is no multiple of block-size {block_size:#x}"
                )
            }
            Self::Length { storage, tagged } => write!(
                f,
                "storage length {storage:#x} times 32 is not the tagged length {tagged:#x}"
            ),
            Self::StorageInTagged { storage, tagged } => {
                write!(f, "tag storage {storage} overlaps its own tagged memory {tagged}")
            }
            Self::BlockTooLarge { block_size, cpus } => write!(
                f,
                "block-size {block_size:#x} is too large to count the claims of {cpus} CPUs on a block"
            ),
            Self::TooManyFrames(frames) => write!(f, "{frames} frames are not fewer than 2^31"),
        }
    }
}

/// One region of tag storage and the memory it belongs to. A value of this type keeps the
/// rules of the binding that concern one region alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    tagged: PhysRange,
    storage: PhysRange,
    block_size: u64,
}

impl Region {
    /// Checks the numbers of one region and makes it.
    ///
    /// # Errors
    ///
    /// A [`GeometryError`] that names the first rule broken, with the values that break it.
    pub fn new(
        tagged: PhysRange,
        storage: PhysRange,
        block_size: u64,
    ) -> Result<Region, GeometryError> {
        if storage.is_empty() {
            return Err(GeometryError::Empty);
        }
        if !storage.start().is_aligned(PAGE_SIZE) || !storage.end().is_aligned(PAGE_SIZE) {
            return Err(GeometryError::StorageUnaligned(storage));
        }
        if !tagged.start().is_aligned(PAGE_SIZE) || !tagged.end().is_aligned(PAGE_SIZE) {
            return Err(GeometryError::TaggedUnaligned(tagged));
        }
        if block_size == 0 || !block_size.is_multiple_of(PAGE_SIZE) {
            return Err(GeometryError::BlockSize(block_size));
        }
        if !storage.len().is_multiple_of(block_size) {
            return Err(GeometryError::PartialBlock { storage: storage.len(), block_size });
        }
        if storage.len().checked_mul(DATA_PER_STORAGE_BYTE) != Some(tagged.len()) {
            return Err(GeometryError::Length { storage: storage.len(), tagged: tagged.len() });
        }
        if storage.overlaps(&tagged) {
            return Err(GeometryError::StorageInTagged { storage, tagged });
        }
        let frames = storage.len() / PAGE_SIZE;
        if frames >= 1 << 31 {
            return Err(GeometryError::TooManyFrames(frames));
        }
        Ok(Region { tagged, storage, block_size })
    }

    /// The memory whose tags are stored here.
    #[inline(always)]
    pub const fn tagged(&self) -> PhysRange {
        self.tagged
    }

    /// The tag storage.
    #[inline(always)]
    pub const fn storage(&self) -> PhysRange {
        self.storage
    }

    /// Bytes of tag storage in one block.
    #[inline(always)]
    pub const fn block_size(&self) -> u64 {
        self.block_size
    }

    /// Frames in one block.
    #[inline(always)]
    pub const fn frames_per_block(&self) -> u32 {
        (self.block_size / PAGE_SIZE) as u32
    }

    /// Frames in the region.
    #[inline(always)]
    pub const fn frames(&self) -> u32 {
        (self.storage.len() / PAGE_SIZE) as u32
    }

    /// Blocks in the region.
    #[inline(always)]
    pub const fn blocks(&self) -> u32 {
        (self.storage.len() / self.block_size) as u32
    }

    /// Pages of tagged memory in the region.
    #[inline(always)]
    pub const fn pages(&self) -> u64 {
        self.tagged.len() / PAGE_SIZE
    }

    /// Number of the page that holds `address`, counted from the start of the tagged memory.
    /// `None` if the address is not in the tagged memory.
    #[inline(always)]
    pub const fn page_of(&self, address: PhysAddr) -> Option<u64> {
        if self.tagged.contains(address) {
            Some(address.0.wrapping_sub(self.tagged.start().0) / PAGE_SIZE)
        } else {
            None
        }
    }

    /// The pages of tagged memory, numbered from its start, that `range` touches, as
    /// `first..end`; `None` if it touches none.
    #[inline]
    pub fn pages_in(&self, range: &PhysRange) -> Option<core::ops::Range<u64>> {
        let part = self.tagged.intersection(range);
        if part.is_empty() {
            return None;
        }
        let first = (part.start().0 - self.tagged.start().0) / PAGE_SIZE;
        let last = (part.end().0 - 1 - self.tagged.start().0) / PAGE_SIZE;
        Some(first..last + 1)
    }

    /// Pages whose tags one block holds.
    #[inline(always)]
    pub const fn pages_per_block(&self) -> u64 {
        self.frames_per_block() as u64 * PAGES_PER_FRAME as u64
    }

    /// The block that holds the tags of page number `page`.
    #[inline(always)]
    pub const fn block_of_page(&self, page: u64) -> u32 {
        (page / self.pages_per_block()) as u32
    }

    /// First address of tagged memory page number `page`.
    #[inline(always)]
    pub const fn page_address(&self, page: u64) -> PhysAddr {
        PhysAddr(self.tagged.start().0.wrapping_add(page.wrapping_mul(PAGE_SIZE)))
    }

    /// First address of frame number `frame` of this region.
    #[inline(always)]
    pub const fn frame_address(&self, frame: u32) -> PhysAddr {
        PhysAddr(self.storage.start().0.wrapping_add(frame as u64 * PAGE_SIZE))
    }

    /// The storage of block number `block`.
    #[inline(always)]
    pub const fn block_storage(&self, block: u32) -> PhysRange {
        let offset = (block as u64).wrapping_mul(self.block_size);
        let start = PhysAddr(self.storage.start().0.wrapping_add(offset));
        PhysRange::clamped(start, self.block_size)
    }

    /// The data whose tags block number `block` holds.
    pub const fn block_data(&self, block: u32) -> PhysRange {
        let length = self.block_size * DATA_PER_STORAGE_BYTE;
        let start = PhysAddr(self.tagged.start().0 + block as u64 * length);
        PhysRange::clamped(start, length)
    }

    /// The byte of tag storage that holds the tags of the two granules at `address`; `None`
    /// if the address is not in the tagged memory.
    pub const fn storage_byte(&self, address: PhysAddr) -> Option<PhysAddr> {
        if !self.tagged.contains(address) {
            return None;
        }
        let offset = (address.0 - self.tagged.start().0) / DATA_PER_STORAGE_BYTE;
        Some(PhysAddr(self.storage.start().0 + offset))
    }
}

/// All regions, sorted by the memory they belong to, with their frames numbered in one
/// sequence. Tagged ranges do not overlap (the binding's rule).
#[derive(Clone, Debug, Default)]
pub struct Regions {
    regions: Vec<Placed>,
    frames: u32,
    blocks: u32,
}

/// A region and where its frames and blocks begin in the common numbering.
#[derive(Clone, Copy, Debug)]
pub struct Placed {
    /// The region.
    pub region: Region,
    /// Number of its first frame.
    pub first_frame: u32,
    /// Number of its first block.
    pub first_block: u32,
}

impl Regions {
    /// Numbers the frames of `regions`, for `cpus` CPUs that may make calls at once.
    ///
    /// # Errors
    ///
    /// [`GeometryError::TooManyFrames`] for 2^31 frames or more (8 TiB of storage), and
    /// [`GeometryError::BlockTooLarge`] where each CPU claiming a whole block on top of a
    /// claimed block, while all take it back, would not fit the count of a state word.
    pub fn new(mut regions: Vec<Region>, cpus: usize) -> Result<Regions, GeometryError> {
        regions.sort_by_key(|region| region.tagged().start());
        let mut all = Regions::default();
        for region in regions {
            let most_claims = (region.pages_per_block())
                .saturating_mul(1 + cpus as u64)
                .saturating_add(cpus as u64);
            if most_claims >= MAX_CLAIMS {
                return Err(GeometryError::BlockTooLarge { block_size: region.block_size(), cpus });
            }
            let total = u64::from(all.frames) + u64::from(region.frames());
            if total >= 1 << 31 {
                return Err(GeometryError::TooManyFrames(total));
            }
            all.regions.push(Placed { region, first_frame: all.frames, first_block: all.blocks });
            all.frames += region.frames();
            all.blocks += region.blocks();
        }
        Ok(all)
    }

    /// Frames in all regions.
    #[inline(always)]
    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// Blocks in all regions.
    #[inline(always)]
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// The regions in ascending order of their tagged memory.
    #[inline(always)]
    pub fn as_slice(&self) -> &[Placed] {
        &self.regions
    }

    /// First address of frame number `frame`; `None` if there is no such frame.
    #[inline(always)]
    pub fn frame_address(&self, frame: u32) -> Option<PhysAddr> {
        self.regions.iter().find_map(|placed| {
            let own = frame.wrapping_sub(placed.first_frame);
            (own < placed.region.frames()).then(|| placed.region.frame_address(own))
        })
    }

    /// The region of block number `block` and the block's number in it; `None` if there is no
    /// such block.
    pub fn block(&self, block: u32) -> Option<(&Placed, u32)> {
        self.regions.iter().find_map(|placed| {
            let own = block.wrapping_sub(placed.first_block);
            (own < placed.region.blocks()).then_some((placed, own))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn range(start: u64, length: u64) -> PhysRange {
        PhysRange::new(PhysAddr(start), length).unwrap()
    }

    fn region(tagged: u64, storage: u64, storage_length: u64, block_size: u64) -> Region {
        Region::new(range(tagged, storage_length * 32), range(storage, storage_length), block_size)
            .unwrap()
    }

    #[test]
    fn tags_of_a_page_lie_at_a_thirty_second_of_its_offset() {
        let r = region(0x4000_0000, 0x7e00_0000, 31 * MIB, 4096);
        assert_eq!(r.storage_byte(PhysAddr(0x4000_0000)), Some(PhysAddr(0x7e00_0000)));
        assert_eq!(r.storage_byte(PhysAddr(0x4000_001f)), Some(PhysAddr(0x7e00_0000)));
        assert_eq!(r.storage_byte(PhysAddr(0x4000_0020)), Some(PhysAddr(0x7e00_0001)));
        assert_eq!(r.storage_byte(PhysAddr(0x4002_0000)), Some(PhysAddr(0x7e00_1000)));
        assert_eq!(r.storage_byte(PhysAddr(0x7dff_ffff)), Some(PhysAddr(0x7fef_ffff)));
        assert_eq!(r.storage_byte(PhysAddr(0x7e00_0000)), None);
        assert_eq!(r.storage_byte(PhysAddr(0x3fff_ffff)), None);
    }

    /// For odd bases and block sizes: the block of a page is the block of the storage byte
    /// of each of its granules, and of no other page's.
    #[test]
    fn the_block_of_a_page_holds_the_storage_byte_of_each_of_its_granules() {
        for block_size in [4096, 8192, 12288] {
            let r = region(0x8000_3000, 0x2_0000_5000, 12288 * 6, block_size);
            for page in 0..r.pages() {
                let block = r.block_storage(r.block_of_page(page));
                for offset in [0, 16, 2048, 4080, 4095] {
                    let address = PhysAddr(r.page_address(page).0 + offset);
                    assert!(block.contains(r.storage_byte(address).unwrap()));
                    assert_eq!(r.page_of(address), Some(page));
                    assert!(r.block_data(r.block_of_page(page)).contains(address));
                }
            }
        }
    }

    #[test]
    fn an_unaligned_base_makes_an_aligned_run_straddle_two_blocks() {
        let r = region(0x8000_3000, 0x2_0000_0000, 2 * MIB, 8192);
        // 256 KiB, naturally aligned in the address space, but not in the tagged memory.
        let run = range(0x8004_0000, 0x4_0000);
        let pages = r.pages_in(&run).unwrap();
        assert_eq!(pages, 61..125);
        assert_eq!(r.block_of_page(pages.start), 0);
        assert_eq!(r.block_of_page(pages.end - 1), 1);
    }

    #[test]
    fn frames_and_blocks_of_several_regions_are_numbered_in_one_sequence() {
        let high = region(0x8_0000_0000, 0x4100_0000, 16 * 4096, 8192);
        let low = region(0x4000_0000, 0x9_0000_0000, 6 * 4096, 4096);
        let all = Regions::new(vec![high, low], 4).unwrap();
        assert_eq!((all.frames(), all.blocks()), (22, 14));
        assert_eq!(all.as_slice()[0].region, low);
        assert_eq!(all.frame_address(5), Some(PhysAddr(0x9_0000_5000)));
        assert_eq!(all.frame_address(6), Some(PhysAddr(0x4100_0000)));
        assert_eq!(all.frame_address(21), Some(PhysAddr(0x4100_f000)));
        assert_eq!(all.frame_address(22), None);
        assert_eq!(all.block(5).map(|(p, own)| (p.region, own)), Some((low, 5)));
        assert_eq!(all.block(13).map(|(p, own)| (p.region, own)), Some((high, 7)));
        assert!(all.block(14).is_none());
    }

    /// 32 pages a frame, 9 shares: (2^20 - 1 - 8) / (32 * 9) = 3640.8 frames.
    #[test]
    fn a_block_whose_claims_could_overflow_is_refused() {
        for (frames, fits) in [(3640, true), (3641, false)] {
            let region = region(1 << 30, 1 << 20, frames * 4096, frames * 4096);
            let result = Regions::new(vec![region], 8);
            assert_eq!(result.is_ok(), fits, "{frames}: {result:?}");
            assert!(Regions::new(vec![region], 1).is_ok());
        }
    }

    #[test]
    fn a_range_is_cut_to_the_tagged_memory() {
        let r = region(0x1_0000, 0x100_0000, 4096, 4096);
        assert_eq!(r.pages_in(&range(0, 0x1_0000)), None);
        assert_eq!(r.pages_in(&range(0, 0x1_0001)), Some(0..1));
        assert_eq!(r.pages_in(&range(0, u64::MAX)), Some(0..32));
        assert_eq!(r.pages_in(&range(0x2_f000, 0x10_0000)), Some(31..32));
        assert_eq!(r.pages_in(&range(0x3_0000, 0x10_0000)), None);
    }

    #[test]
    fn each_rule_broken_once_is_named_with_its_values() {
        let good = (range(0x4000_0000, 32 * MIB), range(0x8000_0000, MIB), 4096);
        assert!(Region::new(good.0, good.1, good.2).is_ok());
        let cases = [
            ((good.0, range(0x8000_0000, 0), 4096), GeometryError::Empty),
            (
                (good.0, range(0x8000_0800, MIB), 4096),
                GeometryError::StorageUnaligned(range(0x8000_0800, MIB)),
            ),
            (
                (range(0x4000_0010, 32 * MIB), good.1, 4096),
                GeometryError::TaggedUnaligned(range(0x4000_0010, 32 * MIB)),
            ),
            ((good.0, good.1, 0), GeometryError::BlockSize(0)),
            ((good.0, good.1, 6000), GeometryError::BlockSize(6000)),
            (
                (good.0, good.1, 12288),
                GeometryError::PartialBlock { storage: MIB, block_size: 12288 },
            ),
            (
                (range(0x4000_0000, 16 * MIB), good.1, 4096),
                GeometryError::Length { storage: MIB, tagged: 16 * MIB },
            ),
            (
                (range(0x4000_0000, 32 * MIB), range(0x4100_0000, MIB), 4096),
                GeometryError::StorageInTagged {
                    storage: range(0x4100_0000, MIB),
                    tagged: range(0x4000_0000, 32 * MIB),
                },
            ),
        ];
        for ((tagged, storage, block_size), expected) in cases {
            assert_eq!(Region::new(tagged, storage, block_size), Err(expected));
        }
    }
}
