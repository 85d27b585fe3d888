// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages whose tags the kernel takes for initialised though nobody has cleared them: from 6.2 on those
//! of a huge page that is split while one of its small pages is tagged, from 5.14 to 6.1 those that
//! come back from swap space. And pages that a debugger reads tags of, from 6.1 on, though nothing
//! has prepared them for tags.

use linux_program::{println, tags};

use crate::checks::{Area, MIB, PLAIN, TAGGED, Trouble, in_child};
use crate::swap::vmstat;
use crate::sys::{self, Advice, PROT_MTE, SIGSTOP, TagCheck};

const PAGE: u64 = 4096;
const HUGE: u64 = 2 * MIB;
/// A page in the middle, on whose account the huge page is split.
const SPLIT: u64 = HUGE / 2;
/// What the program stores in the end.
const SEED: u64 = 40;

/// Has a huge page split; says which tags its pages have, and its copies in a child; stores tags,
/// and says how many of them are wrong. Waits for a line of input between the steps.
pub fn run() -> u64 {
    match split() {
        Ok(()) => 0,
        Err(trouble) => {
            println!("mte-demo: split: {trouble}");
            1
        }
    }
}

fn split() -> Result<(), Trouble> {
    sys::set_tag_check(TagCheck::None, 0xfffe)?;
    let before = vmstat("thp_fault_alloc")?;
    let room = Area::new(2 * HUGE, PLAIN)?;
    let start = room.start.next_multiple_of(HUGE);
    let area = core::mem::ManuallyDrop::new(Area { start, length: HUGE });
    sys::advise(area.start, area.length, Advice::HugePage)?;
    for page in 0..HUGE / PAGE {
        area.store(page * PAGE / tags::GRANULE, 0, page);
    }
    match (before, vmstat("thp_fault_alloc")?) {
        (Some(before), Some(after)) => println!("split: huge pages {}", after - before),
        _ => println!("split: huge pages unknown"),
    }
    // SAFETY: nothing refers to the area.
    unsafe { sys::protect(area.start, PAGE, TAGGED)? };
    area.stg(0, 5);
    sys::advise(area.start + SPLIT, PAGE, Advice::Cold)?;
    // From 5.14 to 6.1 the same is done to what comes back from swap space, if there is any.
    let swapped = Area::new(MIB, PLAIN)?;
    let pages = || (0..swapped.length / PAGE).map(|page| page * PAGE / tags::GRANULE);
    pages().for_each(|index| swapped.store(index, 0, index));
    sys::advise(swapped.start, swapped.length, Advice::PageOut)?;
    let kept = pages().filter(|&index| swapped.load(index, 0) == index).count();
    println!("split: pages kept {kept} of {}", swapped.length / PAGE);
    println!("split: done");
    wait()?;
    println!("split: a debugger sees not zero {}", out_of_reach()?);
    // SAFETY: nothing refers to the area.
    unsafe { sys::protect(swapped.start, swapped.length, TAGGED)? };
    println!("split: swapped, tags not zero {}", not_zero(&swapped, 0));
    in_child(|| {
        // Half of them, which are copied by being written to.
        let copies =
            core::mem::ManuallyDrop::new(Area { start: start + SPLIT, length: HUGE - SPLIT });
        for page in 0..copies.length / PAGE {
            copies.store(page * PAGE / tags::GRANULE + 1, 0, page);
        }
        // SAFETY: nothing refers to the area.
        unsafe { sys::protect(copies.start, copies.length, TAGGED)? };
        println!("split: copies' tags not zero {}", not_zero(&copies, 0));
        Ok(())
    })?;
    // SAFETY: as above.
    unsafe { sys::protect(area.start + PAGE, HUGE - PAGE, TAGGED)? };
    println!("split: tags not zero {}", not_zero(&area, PAGE / tags::GRANULE));
    area.tag(SEED);
    println!("split: tagged");
    wait()?;
    let wrong = (0..area.granules())
        .filter(|&index| area.ldg(index) != crate::checks::pattern(SEED, index))
        .count();
    println!("split: tags wrong {wrong}");
    Ok(())
}

/// How many granules have another tag than 0 that a debugger reads of memory that was never within
/// its program's reach with tags. 5.10 clears them as it maps the memory.
fn out_of_reach() -> Result<usize, Trouble> {
    let area = Area::new(MIB, PLAIN)?;
    let pages = || (0..area.length / PAGE).map(|page| page * PAGE / tags::GRANULE);
    let child = in_child(|| {
        pages().for_each(|index| area.store(index, 0, index));
        // SAFETY: nothing refers to the area, and nobody comes to it any more.
        unsafe { sys::protect(area.start, area.length, PROT_MTE)? };
        sys::trace_me()?;
        sys::kill(sys::own_id(), SIGSTOP)?;
        Ok(())
    })?;
    sys::wait(child)?;
    let mut count = 0;
    for index in pages() {
        let mut bytes = [0; (PAGE / tags::GRANULE) as usize];
        if sys::trace_tags(child, area.granule(index), &mut bytes, false).is_ok() {
            count += bytes.iter().filter(|&&tag| tag != 0).count();
        }
    }
    sys::trace_continue(child)?;
    sys::wait(child)?;
    Ok(count)
}

/// How many granules have another tag than 0, from number `first` on.
fn not_zero(area: &Area, first: u64) -> usize {
    (first..area.granules()).filter(|&index| area.ldg(index) != 0).count()
}

/// Waits for a line of input.
fn wait() -> sys::Result<()> {
    let mut line = [0; 64];
    sys::read(0, &mut line).map(|_| ())
}
