// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks of kinds of memory: that becomes tagged later, that several mappings share, that comes in
//! huge pages.

use linux_program::tags::{GRANULE, untagged};

use crate::checks::{
    Area, Check, KIB, MIB, Outcome, PLAIN, TAGGED, Trouble, check, ended_well, fail, in_child,
    pattern, skip,
};
use crate::fault::{self, SEGV_ACCERR};
use crate::swap::vmstat;
use crate::sys::{self, Advice, Errno, Memory, PROT_MTE, PROT_READ};

/// The checks in their order.
pub const CHECKS: [Check; 7] = [
    ("mprotect adds PROT_MTE to memory with contents, and cannot take it away", later),
    ("PROT_NONE and back keeps tags", out_of_reach),
    ("two mappings of a memory file share their tags, in two processes", file),
    ("a shared mapping's tags are one for parent and child", shared),
    ("transparent huge pages, tagged, split, copied on write", transparent),
    ("most of memory holds data and tags at once", most),
    ("hugetlb pages, tagged, copied on write, given back", hugetlb),
];

const HUGE: u64 = 2 * MIB;

fn later() -> Outcome {
    let area = Area::new(MIB, PLAIN)?;
    let pages_untouched = area.granules() / 2;
    (0..pages_untouched).for_each(|index| area.store(index, 0, !index));
    // SAFETY: nothing refers to the area.
    unsafe { sys::protect(area.start, area.length, TAGGED)? };
    area.verify_zero("after PROT_MTE was added")?;
    for index in 0..area.granules() {
        let (is, wanted) = (area.load(index, 0), if index < pages_untouched { !index } else { 0 });
        check!(is == wanted, "granule {index} holds {is:#x}, not {wanted:#x}");
    }
    area.tag(20);
    area.verify(20, "after STG")?;
    // SAFETY: as above.
    unsafe { sys::protect(area.start, area.length, PLAIN)? };
    area.verify(20, "after mprotect without PROT_MTE")
}

fn out_of_reach() -> Outcome {
    let area = Area::new(MIB, TAGGED)?;
    area.tag(21);
    // SAFETY: nothing refers to the area; the one access that follows is awaited.
    unsafe { sys::protect(area.start, area.length, PROT_MTE)? };
    let (count, fault) = fault::watch(|| area.stg(9, 1));
    let is = (count, untagged(fault.address), fault.code);
    let wanted = (1, area.granule(9), SEGV_ACCERR);
    check!(is == wanted, "STG out of reach gave {is:x?}, not {wanted:x?}");
    // SAFETY: as above.
    unsafe { sys::protect(area.start, area.length, TAGGED)? };
    area.verify(21, "after PROT_NONE")
}

fn file() -> Outcome {
    let file = sys::memory_file(MIB)?;
    let one = Area { start: sys::map_file(file, MIB, TAGGED)?, length: MIB };
    let other = Area { start: sys::map_file(file, MIB, TAGGED)?, length: MIB };
    let untagged = Area { start: sys::map_file(file, MIB, PLAIN)?, length: MIB };
    sys::close(file);
    one.tag(22);
    other.verify(22, "in the other mapping")?;
    untagged.verify_zero("in the mapping without PROT_MTE")?;
    let child = in_child(|| {
        one.verify(22, "in the child")?;
        other.tag(23);
        Ok(())
    })?;
    ended_well(child)?;
    one.verify(23, "after the child")
}

fn shared() -> Outcome {
    let area = Area::shared(MIB, TAGGED)?;
    area.tag(24);
    let child = in_child(|| {
        area.verify(24, "in the child")?;
        area.tag(25);
        Ok(())
    })?;
    ended_well(child)?;
    area.verify(25, "after the child")
}

/// Copies on write one way and the other, and looks at every granule each time.
fn copied(area: &Area, seed: u64) -> Outcome {
    let child = in_child(|| {
        area.verify(seed, "the parent's tags in the child")?;
        area.touch(seed);
        area.verify(seed, "the tags of copied pages")?;
        area.tag(seed + 1);
        area.verify(seed + 1, "the child's own tags")
    })?;
    ended_well(child)?;
    area.verify(seed, "the parent's tags after the child's")
}

fn transparent() -> Outcome {
    let before = vmstat("thp_fault_alloc")?;
    let Some(before) = before else { skip!("the kernel has no transparent huge pages") };
    let area = Area::new(2 * HUGE, TAGGED)?;
    if sys::advise(area.start, area.length, Advice::HugePage).is_err() {
        skip!("the kernel gives no transparent huge pages");
    }
    area.verify_zero("new huge pages")?;
    area.tag(26);
    let came = vmstat("thp_fault_alloc")?.unwrap_or(0) - before;
    check!(came >= 1, "{came} transparent huge pages came, for {} MiB", area.length / MIB);
    area.verify(26, "after STG")?;
    // A part of each changes, so each is mapped by small pages from now on.
    let (part, rest) = (HUGE / 4, area.length - HUGE / 4);
    // SAFETY: nothing refers to the area.
    unsafe { sys::protect(area.start + part, HUGE, PROT_READ | PROT_MTE)? };
    area.verify(26, "after mprotect in the middle")?;
    // SAFETY: as above.
    unsafe { sys::protect(area.start + part, HUGE, TAGGED)? };
    copied(&area, 26)?;
    // SAFETY: as above. The rest is looked at, and then unmapped with the area.
    unsafe { sys::unmap(area.start + rest, part)? };
    let kept = Area { start: area.start, length: rest };
    core::mem::forget(area);
    kept.verify(26, "after munmap of the last part")
}

/// Bytes that the kernel can give without sending others to swap space.
fn available() -> Result<u64, Trouble> {
    let mut bytes = [0; 2048];
    let text = sys::read_file(b"/proc/meminfo\0", &mut bytes)?;
    let text = str::from_utf8(text).unwrap_or_default();
    let kib = |line: &str| -> Option<u64> {
        line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?.parse().ok()
    };
    match text.lines().find_map(kib) {
        Some(kib) => Ok(kib * KIB),
        None => fail!("/proc/meminfo does not say what is available"),
    }
}

/// Every byte of tag storage is other memory's tags: were one of these pages in it, the tags of
/// the others would be in its data. Writes to each page where the first granules' tags of other
/// pages would be, 128 bytes apart, and tags the first granule.
fn most() -> Outcome {
    const PAGE: u64 = 4096;
    const PER_PAGE: u64 = PAGE / GRANULE;
    const STEP: usize = (128 / GRANULE) as usize;
    let length = available()? / 4 * 3 / PAGE * PAGE;
    let area = Area::new(length, TAGGED)?;
    let pages = || (0..area.granules()).step_by(PER_PAGE as usize);
    let words = |page: u64| (page + STEP as u64..page + PER_PAGE).step_by(STEP);
    for page in pages() {
        area.stg(page, pattern(28, page));
        words(page).for_each(|index| area.store(index, 0, !index));
    }
    for page in pages() {
        let (is, wanted) = (area.ldg(page), pattern(28, page));
        check!(is == wanted, "page {}: tag {is:#x}, not {wanted:#x}", page / PER_PAGE);
        for index in words(page) {
            let is = area.load(index, 0);
            check!(is == !index, "granule {index} holds {is:#x}, not {:#x}", !index);
        }
    }
    Ok(())
}

fn hugetlb() -> Outcome {
    const EINVAL: Errno = Errno(22);
    const ENOMEM: Errno = Errno(12);
    let start = match sys::map(2 * HUGE, TAGGED, Memory::Huge) {
        Ok(start) => start,
        Err(EINVAL) => {
            // Not because there is no hugetlb at all.
            match sys::map(HUGE, PLAIN, Memory::Huge) {
                Ok(start) => drop(Area { start, length: HUGE }),
                Err(error) => fail!("hugetlb pages without PROT_MTE: error {}", error.0),
            }
            skip!("this kernel refuses PROT_MTE for hugetlb pages, EINVAL")
        }
        Err(ENOMEM) => skip!("the kernel has no hugetlb pages"),
        Err(error) => fail!("hugetlb pages with PROT_MTE: error {}", error.0),
    };
    let area = Area { start, length: 2 * HUGE };
    area.verify_zero("new hugetlb pages")?;
    area.tag(27);
    area.verify(27, "after STG")?;
    copied(&area, 27)?;
    let (is, wanted) = (area.ldg(1), pattern(27, 1));
    check!(is == wanted, "granule 1 has {is:#x}, not {wanted:#x}");
    drop(area);
    // The same pages again.
    let area = Area { start: sys::map(2 * HUGE, TAGGED, Memory::Huge)?, length: 2 * HUGE };
    area.verify_zero("hugetlb pages that come back")
}
