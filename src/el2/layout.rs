// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the parts of the image are: the linker script's symbols as ranges.

use core::fmt::{self, Display, Formatter};
use tagstash::addr::{PhysAddr, PhysRange};

unsafe extern "C" {
    static __image_start: u8;
    static __text_end: u8;
    static __overlay_start: u8;
    static __overlay_end: u8;
    static __appended_start: u8;
    static __appended_end: u8;
    static __image_end: u8;
    static __build_id_start: u8;
    static __build_id_end: u8;
}

/// Returns the range between two symbols of the linker script, which orders them.
fn between(start: *const u8, end: *const u8) -> PhysRange {
    match PhysRange::from_bounds(PhysAddr(start as u64), PhysAddr(end as u64)) {
        Some(range) => range,
        None => unreachable!(),
    }
}

/// The image as a whole, with bss, stacks and heap.
pub fn image() -> PhysRange {
    between(&raw const __image_start, &raw const __image_end)
}

/// Code.
pub fn text() -> PhysRange {
    between(&raw const __image_start, &raw const __text_end)
}

/// The bytes of the place for an overlay: constants of the image.
pub fn overlay() -> &'static [u8] {
    let range = between(&raw const __overlay_start, &raw const __overlay_end);
    // SAFETY: The image's own bytes, mapped, which are written only while the file is made.
    unsafe { core::slice::from_raw_parts(&raw const __overlay_start, range.len() as usize) }
}

/// The bytes of the table of appended pieces: constants of the image.
pub fn appended() -> &'static [u8] {
    let range = between(&raw const __appended_start, &raw const __appended_end);
    // SAFETY: As above.
    unsafe { core::slice::from_raw_parts(&raw const __appended_start, range.len() as usize) }
}

/// Bytes of a build-id note before the id: three lengths and the name `GNU`.
const NOTE_HEADER: usize = 16;

/// The linker's hash of this very build (`--build-id`), printed in hexadecimal. The ELF file with the
/// symbols has the same one.
pub struct BuildId;

impl Display for BuildId {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let note = between(&raw const __build_id_start, &raw const __build_id_end);
        // SAFETY: The linker script puts these bytes into the image's constants.
        let note = unsafe {
            core::slice::from_raw_parts(note.start().0 as *const u8, note.len() as usize)
        };
        match note.get(NOTE_HEADER..) {
            Some(id) => id.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
            None => f.write_str("unknown"),
        }
    }
}
