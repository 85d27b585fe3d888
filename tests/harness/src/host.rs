// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine's memory seen from outside: the host's file behind it, by semihosting. This is
//! how the harness reads tag storage, which no access of EL1 can reach.

use spin::Once;

use crate::machine::machine;
use crate::ranges::PAGE;
use crate::semihosting::File;

static FILE: Once<File> = Once::new();

/// Opens the file that the boot argument `ram=` names. False without one.
pub fn open() -> bool {
    let Some(path) = machine().argument("ram") else { return false };
    let mut with_zero = [0; 512];
    if path.len() >= with_zero.len() {
        return false;
    }
    with_zero[..path.len()].copy_from_slice(path.as_bytes());
    match File::open(&with_zero[..=path.len()]) {
        Some(file) => {
            FILE.call_once(|| file);
            true
        }
        None => false,
    }
}

fn offset(address: u64) -> u64 {
    address - machine().ram_base
}

/// Reads physical memory.
pub fn read(address: u64, buffer: &mut [u8]) {
    let file = FILE.get().expect("the file behind the memory is open");
    assert!(file.read(offset(address), buffer), "cannot read the file behind {address:#x}");
}

/// Writes physical memory.
pub fn write(address: u64, buffer: &[u8]) {
    let file = FILE.get().expect("the file behind the memory is open");
    assert!(file.write(offset(address), buffer), "cannot write the file behind {address:#x}");
}

/// Looks through all tag storage for a frame that begins with `bytes`: its address.
pub fn find_frame(bytes: &[u8]) -> Option<u64> {
    const FRAMES: usize = 8;
    let mut buffer = [0; FRAMES * PAGE as usize];
    for region in machine().regions.all() {
        let mut address = region.storage.start;
        while address < region.storage.end {
            let length = (region.storage.end - address).min(buffer.len() as u64);
            let part = &mut buffer[..length as usize];
            read(address, part);
            if let Some(at) = part.chunks(PAGE as usize).position(|frame| frame.starts_with(bytes))
            {
                return Some(address + at as u64 * PAGE);
            }
            address += length;
        }
    }
    None
}
