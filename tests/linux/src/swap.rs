// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tags on their way to swap space and back. The kernel saves them beside the page, because a swap
//! device stores data only.

use crate::checks::{
    Area, Check, MIB, Outcome, PLAIN, TAGGED, Trouble, check, ended_well, in_child, pattern, skip,
};
use crate::sys::{self, Advice, Change, SIGSTOP};

/// The checks in their order.
pub const CHECKS: [Check; 4] = [
    ("tags and data come back from swap", there_and_back),
    ("swapped pages of a parent and a child come back to both", with_child),
    ("a page that was swapped is tagged anew and swapped again", again),
    ("memory that was swapped with tags comes back clean", left_behind),
];

const PAGE: u64 = 4096;
const LENGTH: u64 = 2 * MIB;

/// A counter of /proc/vmstat, if the kernel has it.
pub fn vmstat(name: &str) -> Result<Option<u64>, Trouble> {
    let mut bytes = [0; 8192];
    let text = sys::read_file(b"/proc/vmstat\0", &mut bytes)?;
    let text = str::from_utf8(text).unwrap_or_default();
    let value =
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    Ok(value)
}

/// Pages that went to swap space, and that came from it, since the kernel started.
fn counters() -> Result<(u64, u64), Trouble> {
    Ok((vmstat("pswpout")?.unwrap_or(0), vmstat("pswpin")?.unwrap_or(0)))
}

/// Skips what needs swap space where there is none.
fn need_swap() -> Outcome {
    let mut bytes = [0; 512];
    let text = sys::read_file(b"/proc/swaps\0", &mut bytes).unwrap_or_default();
    // The first line is the heading.
    if text.iter().filter(|&&byte| byte == b'\n').count() < 2 {
        skip!("the kernel has no swap space");
    }
    Ok(())
}

/// Sends an area to swap space, and sees that most of it went.
fn send(area: &Area) -> Outcome {
    let (before, _) = counters()?;
    sys::advise(area.start, area.length, Advice::PageOut)?;
    let went = counters()?.0 - before;
    let pages = area.length / PAGE;
    check!(went > pages * 3 / 4, "{went} of {pages} pages went to swap space");
    Ok(())
}

/// Sees that most of an area came from swap space since there were `before`.
fn came(area: &Area, before: u64) -> Outcome {
    let came = counters()?.1 - before;
    let pages = area.length / PAGE;
    check!(came > pages * 3 / 4, "{came} of {pages} pages came from swap space");
    Ok(())
}

/// Stores to every granule what tells it from all others.
fn fill(area: &Area) {
    (0..area.granules()).for_each(|index| area.store(index, 0, !index));
}

/// Checks tags and data; the loads are checked by the CPU as well.
fn verify(area: &Area, seed: u64, when: &str) -> Outcome {
    area.verify(seed, when)?;
    for index in 0..area.granules() {
        let is = area.load(index, pattern(seed, index));
        check!(is == !index, "{when}: granule {index} holds {is:#x}, not {:#x}", !index);
    }
    Ok(())
}

fn there_and_back() -> Outcome {
    need_swap()?;
    let area = Area::new(LENGTH, TAGGED)?;
    fill(&area);
    area.tag(30);
    for _ in 0..3 {
        let (_, before) = counters()?;
        send(&area)?;
        verify(&area, 30, "back from swap")?;
        came(&area, before)?;
    }
    Ok(())
}

fn with_child() -> Outcome {
    need_swap()?;
    let area = Area::new(LENGTH, TAGGED)?;
    fill(&area);
    area.tag(31);
    send(&area)?;
    let child = in_child(|| {
        sys::trace_me()?;
        sys::kill(sys::own_id(), SIGSTOP)?;
        verify(&area, 31, "in the child")?;
        area.tag(32);
        area.verify(32, "the child's own tags")
    })?;
    let change = sys::wait(child)?;
    check!(change == Change::Stopped(SIGSTOP as u64), "the child: {change:?}");
    let (_, before) = counters()?;
    verify(&area, 31, "in the parent")?;
    came(&area, before)?;
    area.tag(33);
    sys::trace_continue(child)?;
    ended_well(child)?;
    verify(&area, 33, "in the parent at the end")
}

fn again() -> Outcome {
    need_swap()?;
    let area = Area::new(LENGTH, TAGGED)?;
    fill(&area);
    area.tag(34);
    send(&area)?;
    area.verify(34, "back from swap")?;
    // Copies may still be in swap space, with the tags of before.
    area.tag(35);
    send(&area)?;
    verify(&area, 35, "back from swap again")
}

fn left_behind() -> Outcome {
    need_swap()?;
    let area = Area::new(LENGTH, TAGGED)?;
    fill(&area);
    area.tag(36);
    send(&area)?;
    drop(area);
    // The places in swap space that had tags are given to memory that has none.
    let area = Area::new(LENGTH, PLAIN)?;
    fill(&area);
    send(&area)?;
    // SAFETY: nothing refers to the area.
    unsafe { sys::protect(area.start, area.length, TAGGED)? };
    area.verify_zero("memory without tags back from swap")?;
    for index in 0..area.granules() {
        let is = area.load(index, 0);
        check!(is == !index, "granule {index} holds {is:#x}, not {:#x}", !index);
    }
    Ok(())
}
