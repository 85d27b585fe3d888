// SPDX-License-Identifier: MIT OR Apache-2.0
//! A page with known tags that holds still, for whoever looks at the tag storage from outside.

use linux_program::{println, tags};

use crate::checks::mix;
use crate::sys::{self, Memory, PROT_MTE, PROT_READ, PROT_WRITE, TagCheck};

const PAGE: u64 = 4096;
const GRANULES: usize = (PAGE / tags::GRANULE) as usize;

/// Tags a page, says where and how, waits for a line of input, and says which tags it has then.
pub fn run() -> u64 {
    match hold() {
        Ok(()) => 0,
        Err(error) => {
            println!("mte-demo: hold: error {} of the kernel (are you root?)", error.0);
            1
        }
    }
}

fn hold() -> sys::Result<()> {
    sys::set_tag_check(TagCheck::Sync, 0xfffe)?;
    let page = sys::map(PAGE, PROT_READ | PROT_WRITE | PROT_MTE, Memory::Private)?;
    sys::lock(page, PAGE)?;
    for granule in 0..GRANULES as u64 {
        // SAFETY: inside the page, to which nothing refers.
        unsafe {
            tags::stg(tags::with_tag(page + granule * tags::GRANULE, mix(sys::own_id() ^ granule)));
        }
    }
    let physical = physical_address(page)?;
    say(page, physical);
    println!("# change tags from outside, or do not; then press Enter");
    let mut line = [0; 64];
    sys::read(0, &mut line)?;
    say(page, physical_address(page)?);
    Ok(())
}

/// Prints the page's place, and its tags, lowest granule first, a digit each.
fn say(page: u64, physical: u64) {
    let digits: [u8; GRANULES] = core::array::from_fn(|granule| {
        // SAFETY: inside the page, which is mapped.
        let tag = unsafe { tags::ldg(page + granule as u64 * tags::GRANULE) };
        char::from_digit(tag as u32, 16).map_or(b'?', |digit| digit as u8)
    });
    println!("hold: physical {physical:#x} tags {}", str::from_utf8(&digits).unwrap_or("?"));
}

/// Where a page of the process is in physical memory (Linux: Documentation/admin-guide/mm/pagemap.rst).
fn physical_address(page: u64) -> sys::Result<u64> {
    const PRESENT: u64 = 1 << 63;
    const FRAME: u64 = (1 << 55) - 1;
    let entry = sys::read_word(b"/proc/self/pagemap\0", page / PAGE * 8)?;
    match entry & FRAME {
        0 => Err(sys::Errno(1)),
        _ if entry & PRESENT == 0 => Err(sys::Errno(14)),
        frame => Ok(frame * PAGE),
    }
}
