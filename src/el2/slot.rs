// SPDX-License-Identifier: MIT OR Apache-2.0
//! The places in the image that are filled after it has been built: for a device-tree overlay, by
//! `boot/embed.py`, and for the table of what is appended, by `boot/pack.py` (see [`mod@appended`]).
//!
//! That of the overlay:
//!
//! | bytes | what |
//! | --- | --- |
//! | 0 to 15 | [`MAGIC`], by which the place is found in the file |
//! | 16 to 19 | bytes of room, little endian |
//! | 20 to 23 | bytes of the overlay, little endian; 0: there is none |
//! | 64 on | room |

use super::layout;
use tagstash::appended;

/// What the place begins with.
const MAGIC: [u8; 16] = *b"TAGSTASH-OVERLAY";

/// Bytes of the place, and of its head.
const SIZE: usize = 64 << 10;
const HEAD: usize = 64;

/// Where the length is.
const LENGTH: usize = 20;

#[repr(C, align(64))]
struct Slot {
    magic: [u8; 16],
    room: [u8; 4],
    length: [u8; 4],
    unused: [u8; HEAD - 24],
    bytes: [u8; SIZE - HEAD],
}

/// The place as it is built. Nothing reads it by this name: the compiler would take what is here
/// for what is there.
#[used]
#[unsafe(link_section = ".overlay")]
static SLOT: Slot = Slot {
    magic: MAGIC,
    room: ((SIZE - HEAD) as u32).to_le_bytes(),
    length: [0; 4],
    unused: [0; HEAD - 24],
    bytes: [0; SIZE - HEAD],
};

/// The table of appended pieces as it is built, not read by this name either.
#[used]
#[unsafe(link_section = ".appended")]
static APPENDED: Table = Table(appended::EMPTY);

#[repr(C, align(64))]
struct Table([u8; appended::EMPTY.len()]);

/// The table of appended pieces. Not checked.
pub fn appended() -> &'static [u8] {
    layout::appended()
}

/// The overlay that the image carries, if it does. Not checked: a length that is too large
/// gives all of the room.
pub fn overlay() -> Option<&'static [u8]> {
    let slot = layout::overlay();
    let length = slot.get(LENGTH..LENGTH + 4)?.try_into().ok()?;
    let room = slot.get(HEAD..)?;
    match u32::from_le_bytes(length) as usize {
        0 => None,
        length => Some(room.get(..length).unwrap_or(room)),
    }
}
