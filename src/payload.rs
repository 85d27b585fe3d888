// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's kernel: an arm64 Image (Linux's booting.rst), checked, and put where it asks.

use crate::addr::{PhysAddr, PhysRange};
use crate::space::Space;
use core::fmt;

/// What Images are aligned to.
pub const ALIGNMENT: u64 = 2 << 20;

/// Length of the header.
const HEADER: usize = 64;
const MAGIC: &[u8; 4] = b"ARM\x64";
/// Flag: the kernel is big endian.
const BIG_ENDIAN: u64 = 1 << 0;
/// First bytes of formats that kernels are packed in.
const COMPRESSED: [(&[u8], &str); 6] = [
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x02\x21\x4c\x18", "lz4"),
    (b"\x89LZO", "lzo"),
];
/// text_offset of kernels before 3.17, whose header says no size.
const OLD_TEXT_OFFSET: u64 = 0x8_0000;

/// Why a module cannot be booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadError {
    /// It does not have the header of an Image.
    NotAnImage(PhysRange),
    /// It is compressed, or an EFI program with a compressed kernel in it.
    Compressed {
        /// The module.
        module: PhysRange,
        /// How: the name of the format.
        format: &'static str,
    },
    /// It wants to run big endian.
    BigEndian(PhysRange),
    /// Its image_size and text_offset add up to more than an address has.
    TooLong(u64),
    /// There is no room for it.
    NoRoom(u64),
}

impl fmt::Display for PayloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnImage(range) => write!(
                f,
                "the kernel module at {range} is not an arm64 Image: load an uncompressed Image"
            ),
            Self::Compressed { module, format } => write!(
                f,
                "the kernel module at {module} is compressed ({format}): have the loader unpack it, \
                 or load the Image that it was made of"
            ),
            Self::BigEndian(range) => {
                write!(f, "the kernel module at {range} is a big-endian Image, which cannot run")
            }
            Self::TooLong(size) => write!(f, "the kernel's image_size {size:#x} cannot be true"),
            Self::NoRoom(size) => {
                write!(f, "no {size:#x} bytes of RAM are free for the kernel: give it more RAM")
            }
        }
    }
}

/// A kernel that was found to be an Image.
#[derive(Clone, Copy, Debug)]
pub struct Payload {
    /// What the loader put in memory.
    module: PhysRange,
    text_offset: u64,
    image_size: u64,
}

impl Payload {
    /// Reads the header of `module`, whose bytes are `bytes`.
    ///
    /// # Errors
    ///
    /// [`PayloadError`].
    pub fn read(module: PhysRange, bytes: &[u8]) -> Result<Payload, PayloadError> {
        let not_an_image = PayloadError::NotAnImage(module);
        let header: &[u8; HEADER] = bytes.first_chunk().ok_or(not_an_image)?;
        if let Some((_, format)) = COMPRESSED.iter().find(|(magic, _)| header.starts_with(magic)) {
            return Err(PayloadError::Compressed { module, format });
        }
        if header[..2] == *b"MZ" && header[4..8] == *b"zimg" {
            return Err(PayloadError::Compressed { module, format: "EFI zboot" });
        }
        if header[56..60] != MAGIC[..] {
            return Err(not_an_image);
        }
        let word = |offset: usize| {
            let bytes = header.get(offset..).and_then(|bytes| bytes.first_chunk());
            bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
        };
        let (text_offset, image_size, flags) = (word(8), word(16), word(24));
        if flags & BIG_ENDIAN != 0 {
            return Err(PayloadError::BigEndian(module));
        }
        let (text_offset, image_size) = match image_size {
            0 => (OLD_TEXT_OFFSET, module.len()),
            _ => (text_offset, image_size.max(module.len())),
        };
        if text_offset >= ALIGNMENT || image_size > u64::MAX - ALIGNMENT {
            return Err(PayloadError::TooLong(image_size));
        }
        Ok(Payload { module, text_offset, image_size })
    }

    /// All memory that the kernel takes before it knows of memory, where it is now; `None`
    /// where it cannot run there, being badly aligned.
    pub fn in_place(&self) -> Option<PhysRange> {
        let base = self.module.start().0.checked_sub(self.text_offset)?;
        if !base.is_multiple_of(ALIGNMENT) {
            return None;
        }
        PhysRange::new(self.module.start(), self.image_size)
    }

    /// Finds the place where the kernel will run: where it is, if that is aligned and all of it
    /// is free, else another.
    ///
    /// # Errors
    ///
    /// [`PayloadError::NoRoom`].
    pub fn place(&self, space: &Space) -> Result<PhysRange, PayloadError> {
        if let Some(here) = self.in_place().filter(|here| space.is_free(*here)) {
            return Ok(here);
        }
        let size = self.text_offset + self.image_size;
        let base = space.lowest(size, ALIGNMENT).ok_or(PayloadError::NoRoom(size))?;
        let start = PhysAddr(base.start().0 + self.text_offset);
        PhysRange::new(start, self.image_size).ok_or(PayloadError::NoRoom(size))
    }

    /// The module, as the loader put it in memory.
    pub fn module(&self) -> PhysRange {
        self.module
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    const MODULE: u64 = 0x5000_0000;

    fn range(start: u64, length: u64) -> PhysRange {
        PhysRange::new(PhysAddr(start), length).unwrap()
    }

    fn image(text_offset: u64, image_size: u64, flags: u64) -> [u8; 128] {
        let mut image = [0; 128];
        for (offset, value) in [(8, text_offset), (16, image_size), (24, flags)] {
            image[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
        }
        image[56..60].copy_from_slice(MAGIC);
        image
    }

    fn read_at(start: u64, bytes: &[u8]) -> Result<Payload, PayloadError> {
        Payload::read(range(start, bytes.len() as u64), bytes)
    }

    #[test]
    fn what_is_no_image_is_refused_with_where_it_is() {
        let mut other = image(0, 0x1000, 0xa);
        other[56] = 0x1f;
        let not = PayloadError::NotAnImage(range(MODULE, 128));
        assert_eq!(read_at(MODULE, &other).unwrap_err(), not);
        let short = PayloadError::NotAnImage(range(MODULE, 63));
        assert_eq!(read_at(MODULE, &image(0, 0x1000, 0xa)[..63]).unwrap_err(), short);
        let big = PayloadError::BigEndian(range(MODULE, 128));
        assert_eq!(read_at(MODULE, &image(0, 0x1000, 0xb)).unwrap_err(), big);
        for (text_offset, image_size) in [(ALIGNMENT, 1), (0, u64::MAX), (u64::MAX, 1)] {
            let error = read_at(MODULE, &image(text_offset, image_size, 0xa)).unwrap_err();
            assert_eq!(error, PayloadError::TooLong(image_size.max(128)));
        }
    }

    #[test]
    fn a_compressed_kernel_is_refused_with_its_format() {
        let packed = |first: &[u8]| {
            let mut bytes = [0; 128];
            bytes[..first.len()].copy_from_slice(first);
            read_at(MODULE, &bytes).unwrap_err()
        };
        let module = range(MODULE, 128);
        for (magic, format) in COMPRESSED {
            assert_eq!(packed(magic), PayloadError::Compressed { module, format });
        }
        let zboot = PayloadError::Compressed { module, format: "EFI zboot" };
        assert_eq!(packed(b"MZ\0\0zimg"), zboot);
        assert_eq!(packed(b"MZ\0\0zimh"), PayloadError::NotAnImage(module));
    }

    #[test]
    fn an_aligned_kernel_with_room_for_its_bss_stays_where_it_is() {
        let space = Space::new(vec![range(0x4000_0000, 0x2000_0000)], vec![]);
        let payload = read_at(MODULE, &image(0, 0x60_0000, 0xa)).unwrap();
        assert_eq!(payload.place(&space), Ok(range(MODULE, 0x60_0000)));
        let payload = read_at(MODULE + 0x8_0000, &image(0x8_0000, 0x60_0000, 0xa)).unwrap();
        assert_eq!(payload.place(&space), Ok(range(MODULE + 0x8_0000, 0x60_0000)));
        let old = read_at(MODULE + 0x8_0000, &image(0, 0, 0)).unwrap();
        assert_eq!(old.place(&space), Ok(range(MODULE + 0x8_0000, 128)));
    }

    #[test]
    fn a_kernel_that_cannot_stay_is_moved_to_free_memory() {
        let ramdisk = range(MODULE + 0x40_0000, 0x1000);
        let taken = vec![range(0x4000_0000, 0x1000), ramdisk];
        let space = Space::new(vec![range(0x4000_0000, 0x2000_0000)], taken);
        let crowded = read_at(MODULE, &image(0, 0x60_0000, 0xa)).unwrap();
        assert_eq!(crowded.place(&space), Ok(range(0x4020_0000, 0x60_0000)));
        let unaligned = read_at(MODULE + 0x1000, &image(0x8_0000, 0x1000, 0xa)).unwrap();
        assert_eq!(unaligned.place(&space), Ok(range(0x4028_0000, 0x1000)));
        let huge = read_at(MODULE, &image(0, 0x4000_0000, 0xa)).unwrap();
        assert_eq!(huge.place(&space), Err(PayloadError::NoRoom(0x4000_0000)));
    }
}
