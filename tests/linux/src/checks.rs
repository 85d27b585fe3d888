// SPDX-License-Identifier: MIT OR Apache-2.0
//! The checks: what Linux promises of memory tagging (Documentation/arm64/memory-tagging-extension.rst),
//! which holds only if tag memory is what the kernel thinks it is.

use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use linux_program::println;
use linux_program::tags::{self, GRANULE, untagged, with_tag};
use linux_program::text::Text;

use crate::fault::{self, Fault, SEGV_ACCERR, SEGV_MTEAERR, SEGV_MTESERR};
use crate::sys::{self, Change, Errno, Memory, PROT_MTE, PROT_READ, PROT_WRITE, SIGSTOP, TagCheck};
use crate::{memory, modes, swap, threads};

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
/// Memory with tags.
pub const TAGGED: u64 = PLAIN | PROT_MTE;
/// Memory without.
pub const PLAIN: u64 = PROT_READ | PROT_WRITE;
/// All tags but 0, a bit each.
pub const ALL_BUT_ZERO: u16 = 0xfffe;

/// Why a check did not pass.
pub enum Trouble {
    /// What it asks for is not so.
    Failed(Text),
    /// What it needs is not there.
    Skipped(Text),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Trouble::Failed(words) | Trouble::Skipped(words)) = self;
        words.fmt(f)
    }
}

/// What a check came to.
pub type Outcome = Result<(), Trouble>;

/// Ends a check that failed.
macro_rules! fail {
    ($($words:tt)*) => {
        return Err($crate::checks::Trouble::Failed(linux_program::text::Text::new(format_args!($($words)*))))
    };
}

/// Ends a check that this kernel, or this CPU, cannot run.
macro_rules! skip {
    ($($words:tt)*) => {
        return Err($crate::checks::Trouble::Skipped(linux_program::text::Text::new(format_args!($($words)*))))
    };
}

/// Ends a check that failed, if the condition does not hold.
macro_rules! check {
    ($condition:expr, $($words:tt)*) => { if !$condition { $crate::checks::fail!($($words)*); } };
}

pub(crate) use {check, fail, skip};

impl From<Errno> for Trouble {
    fn from(error: Errno) -> Trouble {
        Trouble::Failed(Text::new(format_args!("a system call ended with error {}", error.0)))
    }
}

/// A check, with its name.
pub type Check = (&'static str, fn() -> Outcome);

/// How often is looked for what another process or CPU has to do, a millisecond apart.
const PATIENCE: u32 = 10_000;

/// The checks in their order.
const CHECKS: [Check; 15] = [
    ("tags and faults on CPU 0", || on_cpu(0, 64 * KIB)),
    ("tags and faults on CPU 1", || on_cpu(1, 64 * KIB)),
    ("new memory has tag 0", new_memory),
    ("8 MiB of random tags are read back and the data stay", random_tags),
    ("ST2G and STZG store tags, STZG zeroes", other_stores),
    ("IRG makes the allowed tags only", irg),
    ("an asynchronous mismatch is SEGV_MTEAERR", asynchronous),
    ("without tag checks a mismatch goes through", unchecked),
    ("memory without PROT_MTE keeps no tags", untagged_memory),
    ("mprotect keeps tags, and read-only memory refuses them", protection),
    ("mremap keeps tags", moved),
    ("memory that was tagged comes back with tag 0", reuse),
    ("fork copies tags on write", copy_on_write),
    ("ptrace reads and writes a child's tags", traced),
    ("two CPUs tag neighbouring granules at once", two_cpus),
];

/// The lists of checks that run one after the other. Those after the first want a kernel that was
/// prepared for them, and skip what it does not have.
fn lists(all: bool) -> &'static [&'static [Check]] {
    const LISTS: [&[Check]; 5] =
        [&CHECKS, &modes::CHECKS, &threads::CHECKS, &memory::CHECKS, &swap::CHECKS];
    if all { &LISTS } else { &LISTS[..1] }
}

/// How many checks there are.
pub fn count(all: bool) -> usize {
    lists(all).iter().map(|list| list.len()).sum::<usize>() + 1
}

/// Runs them, numbered from `first` up; returns the exit status.
pub fn run(first: usize, all: bool, capabilities: u64) -> u64 {
    CAPABILITIES.store(capabilities, SeqCst);
    let mut failures = 0;
    let mut tell = |number: usize, name: &str, outcome: Outcome| match outcome {
        Ok(()) => println!("ok {number} - mte: {name}"),
        Err(Trouble::Skipped(words)) => println!("ok {number} - mte: {name} # SKIP {words}"),
        Err(Trouble::Failed(words)) => {
            println!("not ok {number} - mte: {name}: {words}");
            failures += 1;
        }
    };
    tell(first, "the kernel offers MTE and takes SIGSEGV handlers", offered(capabilities));
    for (index, (name, check)) in lists(all).iter().copied().flatten().enumerate() {
        tell(first + 1 + index, name, check());
    }
    u64::from(failures != 0)
}

/// What the kernel said in the auxiliary vector, AT_HWCAP2.
static CAPABILITIES: AtomicU64 = AtomicU64::new(0);

/// Says whether the CPUs have FEAT_MTE3, asymmetric faults.
pub fn asymmetric() -> bool {
    const HWCAP2_MTE3: u64 = 1 << 22;
    CAPABILITIES.load(SeqCst) & HWCAP2_MTE3 != 0
}

/// Spreads the bits of a number over all 64 (the finaliser of SplitMix64).
pub const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The tag that a granule has under a seed.
pub fn pattern(seed: u64, granule: u64) -> u64 {
    mix(mix(seed) ^ granule) & 0xf
}

/// Memory of [`sys::map`] that goes when this does.
pub struct Area {
    /// Its first byte.
    pub start: u64,
    /// How many it has.
    pub length: u64,
}

impl Area {
    pub fn new(length: u64, protection: u64) -> Result<Area, Trouble> {
        Ok(Area { start: sys::map(length, protection, Memory::Private)?, length })
    }

    pub fn shared(length: u64, protection: u64) -> Result<Area, Trouble> {
        Ok(Area { start: sys::map(length, protection, Memory::Shared)?, length })
    }

    pub fn granules(&self) -> u64 {
        self.length / GRANULE
    }

    pub fn granule(&self, index: u64) -> u64 {
        assert!(index < self.granules());
        self.start + index * GRANULE
    }

    pub fn stg(&self, index: u64, tag: u64) {
        // SAFETY: in the area, to which nothing refers.
        unsafe { tags::stg(with_tag(self.granule(index), tag)) }
    }

    pub fn ldg(&self, index: u64) -> u64 {
        // SAFETY: in the area, which is mapped.
        unsafe { tags::ldg(self.granule(index)) }
    }

    /// Stores to a granule through an address with this tag.
    pub fn store(&self, index: u64, tag: u64, value: u64) {
        // SAFETY: in the area, to which nothing refers; whoever takes a wrong tag awaits the fault.
        unsafe { tags::store(with_tag(self.granule(index), tag), value) }
    }

    /// Loads from a granule through an address with this tag.
    pub fn load(&self, index: u64, tag: u64) -> u64 {
        // SAFETY: as for `store`.
        unsafe { tags::load(with_tag(self.granule(index), tag)) }
    }

    /// Tags the granules with a seed's pattern.
    pub fn tag(&self, seed: u64) {
        (0..self.granules()).for_each(|index| self.stg(index, pattern(seed, index)));
    }

    /// Stores to each page and to no tag, through addresses with a seed's pattern: it is copied then,
    /// tags and all, if it is shared.
    pub fn touch(&self, seed: u64) {
        for index in (0..self.granules()).step_by(4 * KIB as usize / GRANULE as usize) {
            self.store(index, pattern(seed, index), index);
        }
    }

    /// Checks that the granules have the tags of a seed's pattern.
    pub fn verify(&self, seed: u64, when: &str) -> Outcome {
        for index in 0..self.granules() {
            let (is, wanted) = (self.ldg(index), pattern(seed, index));
            check!(is == wanted, "{when}: granule {index} has tag {is:#x}, not {wanted:#x}");
        }
        Ok(())
    }

    /// Checks that the granules have tag 0.
    pub fn verify_zero(&self, when: &str) -> Outcome {
        for index in 0..self.granules() {
            let is = self.ldg(index);
            check!(is == 0, "{when}: granule {index} has tag {is:#x}, not 0");
        }
        Ok(())
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: its users are gone. An error would leave it mapped, which hurts nobody.
        let _ = unsafe { sys::unmap(self.start, self.length) };
    }
}

/// Says whether the kernel offers MTE, and takes the signals of faults from here on.
pub fn offered(capabilities: u64) -> Outcome {
    const HWCAP2_MTE: u64 = 1 << 18;
    check!(capabilities & HWCAP2_MTE != 0, "AT_HWCAP2 is {capabilities:#x}, without MTE (bit 18)");
    sys::set_tag_check(TagCheck::Sync, ALL_BUT_ZERO)?;
    fault::set_up()?;
    Ok(())
}

/// Lets the process run on one CPU only; waits for it where CPUs go off and on.
pub fn stay_on(cpu: u64) -> Outcome {
    let mut patience = PATIENCE;
    while sys::pin(cpu).is_err() {
        check!(patience > 0, "CPU {cpu} is not online");
        patience -= 1;
        sys::pause(1);
    }
    Ok(())
}

/// Each CPU has control registers of its own, so each is asked: are tags kept, are they checked?
/// Tried on `length` bytes.
pub fn on_cpu(cpu: u64, length: u64) -> Outcome {
    stay_on(cpu)?;
    sys::set_tag_check(TagCheck::Sync, ALL_BUT_ZERO)?;
    let exposed = fault::tags_exposed()?;
    let area = Area::new(length, TAGGED)?;
    area.tag(cpu);
    area.verify(cpu, "after STG")?;
    for index in 0..area.granules() {
        let right = pattern(cpu, index);
        let wrong = right ^ (1 + mix(index) % 15);
        let (count, fault) = fault::watch(|| area.store(index, right, index));
        check!(count == 0, "granule {index}: a store with its own tag gave {fault:?}");
        let seen = if exposed { wrong } else { 0 };
        let wanted =
            (1, Fault { code: SEGV_MTESERR, address: with_tag(area.granule(index), seen) });
        let stored = fault::watch(|| area.store(index, wrong, !index));
        check!(stored == wanted, "granule {index}: a store gave {stored:x?}, not {wanted:x?}");
        let loaded = fault::watch(|| _ = area.load(index, wrong));
        check!(loaded == wanted, "granule {index}: a load gave {loaded:x?}, not {wanted:x?}");
        let is = area.load(index, right);
        check!(is == index, "granule {index}: holds {is:#x} after a store that faulted");
    }
    Ok(())
}

fn new_memory() -> Outcome {
    let area = Area::new(8 * MIB, TAGGED)?;
    area.verify_zero("new memory")?;
    for index in 0..area.granules() {
        let is = area.load(index, 0);
        check!(is == 0, "granule {index} of new memory holds {is:#x}");
    }
    Ok(())
}

fn random_tags() -> Outcome {
    let area = Area::new(8 * MIB, TAGGED)?;
    (0..area.granules()).for_each(|index| area.store(index, 0, mix(index)));
    for seed in [1, 2] {
        area.tag(seed);
        area.verify(seed, "after STG")?;
        for index in 0..area.granules() {
            let is = area.load(index, pattern(seed, index));
            check!(is == mix(index), "granule {index}: data became {is:#x} while it was tagged");
        }
    }
    Ok(())
}

fn other_stores() -> Outcome {
    let area = Area::new(64 * KIB, TAGGED)?;
    for pair in 0..area.granules() / 2 {
        let tag = pattern(3, pair);
        area.store(2 * pair, 0, 5);
        area.store(2 * pair + 1, 0, 7);
        // SAFETY: in the area, to which nothing refers.
        unsafe { tags::st2g(with_tag(area.granule(2 * pair), tag)) };
        let is = (area.ldg(2 * pair), area.ldg(2 * pair + 1));
        check!(is == (tag, tag), "pair {pair}: ST2G of {tag:#x} gave {is:x?}");
        let other = tag ^ 0xf;
        // SAFETY: as above.
        unsafe { tags::stzg(with_tag(area.granule(2 * pair), other)) };
        let is = (area.ldg(2 * pair), area.ldg(2 * pair + 1));
        check!(is == (other, tag), "pair {pair}: STZG of {other:#x} gave {is:x?}");
        let data = (area.load(2 * pair, other), area.load(2 * pair + 1, tag));
        check!(data == (0, 7), "pair {pair}: STZG left {data:x?}");
    }
    Ok(())
}

fn irg() -> Outcome {
    for (allowed, exclude) in [(0x00f0_u16, 0_u64), (0xfffe, 0x0ff0), (0x8000, 0)] {
        sys::set_tag_check(TagCheck::Sync, allowed)?;
        let wanted = u64::from(allowed) & !exclude;
        let mut made = 0;
        for _ in 0..4096 {
            let address = tags::irg(0x1234_5670, exclude);
            check!(untagged(address) == 0x1234_5670, "IRG changed the address to {address:#x}");
            made |= 1 << tags::tag_of(address);
        }
        check!(made == wanted, "IRG made tags {made:#x} where {wanted:#x} were allowed");
    }
    sys::set_tag_check(TagCheck::Sync, ALL_BUT_ZERO)?;
    Ok(())
}

fn asynchronous() -> Outcome {
    let area = Area::new(4 * KIB, TAGGED)?;
    area.stg(3, 9);
    sys::set_tag_check(TagCheck::Async, ALL_BUT_ZERO)?;
    let seen = fault::watch(|| {
        area.store(3, 4, 0x77);
        sys::own_id();
    });
    let right = fault::watch(|| {
        area.store(3, 9, 0x99);
        sys::own_id();
    });
    sys::set_tag_check(TagCheck::Sync, ALL_BUT_ZERO)?;
    let wanted = (1, Fault { code: SEGV_MTEAERR, address: 0 });
    check!(seen == wanted, "a store with the wrong tag gave {seen:x?}, not {wanted:x?}");
    check!(right.0 == 0, "a store with the right tag gave {right:x?}");
    Ok(())
}

fn unchecked() -> Outcome {
    let area = Area::new(4 * KIB, TAGGED)?;
    area.stg(5, 6);
    sys::set_tag_check(TagCheck::None, ALL_BUT_ZERO)?;
    let seen = fault::watch(|| {
        area.store(5, 1, 0x55);
        sys::own_id();
    });
    sys::set_tag_check(TagCheck::Sync, ALL_BUT_ZERO)?;
    check!(seen.0 == 0, "a store with the wrong tag gave {seen:x?}");
    let is = area.load(5, 6);
    check!(is == 0x55, "the store left {is:#x}");
    Ok(())
}

fn untagged_memory() -> Outcome {
    let area = Area::new(64 * KIB, PROT_READ | PROT_WRITE)?;
    area.tag(4);
    area.verify_zero("after STG without PROT_MTE")?;
    let seen = fault::watch(|| area.store(1, 0xb, 1));
    check!(seen.0 == 0, "a store through a tagged address gave {seen:x?}");
    Ok(())
}

fn protection() -> Outcome {
    let area = Area::new(64 * KIB, TAGGED)?;
    area.tag(5);
    // SAFETY: nothing refers to the area; the one store that follows is awaited.
    unsafe { sys::protect(area.start, area.length, PROT_READ | PROT_MTE)? };
    area.verify(5, "after mprotect to PROT_READ")?;
    let (count, fault) = fault::watch(|| area.stg(7, 1));
    let place = (untagged(fault.address), fault.code);
    let wanted = (area.granule(7), SEGV_ACCERR);
    check!(count == 1 && place == wanted, "STG to it gave {count} faults, {fault:x?}");
    // SAFETY: as above.
    unsafe { sys::protect(area.start, area.length, TAGGED)? };
    area.verify(5, "after mprotect to PROT_WRITE")?;
    area.tag(6);
    area.verify(6, "after more STG")
}

fn moved() -> Outcome {
    // Mappings grow downwards in memory: the second has the first behind it and must move.
    let _behind = Area::new(MIB, PROT_READ)?;
    let mut area = Area::new(MIB, TAGGED)?;
    area.tag(7);
    let (place, old) = (area.start, area.granules());
    // SAFETY: nothing refers to the area.
    area.start = unsafe { sys::remap(area.start, area.length, 16 * MIB)? };
    area.length = 16 * MIB;
    check!(area.start != place, "it stayed at {place:#x}, so nothing was tried");
    for index in 0..old {
        let (is, wanted) = (area.ldg(index), pattern(7, index));
        check!(is == wanted, "granule {index} has tag {is:#x}, not {wanted:#x}");
    }
    let fresh = area.ldg(old);
    check!(fresh == 0, "the first new granule has tag {fresh:#x}");
    Ok(())
}

fn reuse() -> Outcome {
    for round in 0..8 {
        let area = Area::new(2 * MIB, TAGGED)?;
        area.verify_zero("memory of an earlier round")?;
        area.tag(round);
        area.verify(round, "after STG")?;
    }
    Ok(())
}

/// Runs `child` in a copy of the process, and expects it to return without complaint.
pub fn in_child(child: impl FnOnce() -> Outcome) -> Result<u64, Trouble> {
    // SAFETY: memory that is shared with the copy holds tags, and words accessed as atomics.
    let process = unsafe { sys::fork()? };
    if process == 0 {
        sys::exit(match child() {
            Ok(()) => 0,
            Err(trouble) => {
                println!("# child: {trouble}");
                1
            }
        });
    }
    Ok(process)
}

pub fn ended_well(child: u64) -> Outcome {
    let change = sys::wait(child)?;
    check!(change == Change::Exited(0), "the child: {change:?}");
    Ok(())
}

/// Tags are copied when a process's memory is, whichever side writes first.
pub fn copy_on_write() -> Outcome {
    let area = Area::new(MIB, TAGGED)?;
    area.tag(8);
    // The child changes pages that are still the parent's.
    let child = in_child(|| {
        area.verify(8, "the parent's tags in the child")?;
        area.touch(8);
        area.verify(8, "the tags of copied pages")?;
        area.tag(9);
        area.verify(9, "the child's own tags")
    })?;
    ended_well(child)?;
    area.verify(8, "the parent's tags after the child's")?;
    // The parent changes pages while a child that has them too is stopped.
    let child = in_child(|| {
        sys::trace_me()?;
        sys::kill(sys::own_id(), SIGSTOP)?;
        area.verify(8, "the child's tags after the parent's")
    })?;
    let change = sys::wait(child)?;
    check!(change == Change::Stopped(SIGSTOP as u64), "the second child: {change:?}");
    area.tag(10);
    sys::trace_continue(child)?;
    ended_well(child)?;
    area.verify(10, "the parent's new tags")
}

fn traced() -> Outcome {
    const COUNT: usize = 16;
    let area = Area::new(4 * KIB, TAGGED)?;
    area.tag(11);
    let child = in_child(|| {
        area.tag(12);
        sys::trace_me()?;
        sys::kill(sys::own_id(), SIGSTOP)?;
        for index in 0..area.granules() {
            let seed = if index < COUNT as u64 { 13 } else { 12 };
            let (is, wanted) = (area.ldg(index), pattern(seed, index));
            check!(is == wanted, "granule {index} has tag {is:#x}, not {wanted:#x}");
        }
        Ok(())
    })?;
    let change = sys::wait(child)?;
    check!(change == Change::Stopped(SIGSTOP as u64), "the child: {change:?}");
    let mut bytes = [0xff; COUNT];
    let count = sys::trace_tags(child, area.start, &mut bytes, false)?;
    check!(count == COUNT as u64, "PTRACE_PEEKMTETAGS gave {count} tags, not {COUNT}");
    for (index, is) in bytes.iter_mut().enumerate() {
        let wanted = pattern(12, index as u64) as u8;
        check!(*is == wanted, "PTRACE_PEEKMTETAGS: tag {index} is {is:#x}, not {wanted:#x}");
        *is = pattern(13, index as u64) as u8;
    }
    let count = sys::trace_tags(child, area.start, &mut bytes, true)?;
    check!(count == COUNT as u64, "PTRACE_POKEMTETAGS took {count} tags, not {COUNT}");
    sys::trace_continue(child)?;
    ended_well(child)?;
    area.verify(11, "the parent's tags")
}

/// Two granules' tags share a byte of storage. Each process owns every other granule of memory
/// that both share; neither may disturb the other's half of a byte. Between rounds each tags
/// memory of its own that the kernel takes back and clears.
fn two_cpus() -> Outcome {
    const ROUNDS: u64 = 16;
    let area = Area::shared(MIB, TAGGED)?;
    let meeting = Area::shared(4 * KIB, PROT_READ | PROT_WRITE)?;
    // SAFETY: mapped, aligned, of zeros, accessed as an atomic only, and gone after its users.
    let arrived = unsafe { AtomicU32::from_ptr(meeting.start as *mut u32) };
    let work = |own: u64| -> Outcome {
        stay_on(own)?;
        arrived.fetch_add(1, SeqCst);
        let mut patience = PATIENCE;
        while arrived.load(SeqCst) < 2 {
            check!(patience > 0, "the other process never came");
            patience -= 1;
            sys::pause(1);
        }
        for round in 0..ROUNDS {
            let mine = || (0..area.granules()).filter(|index| index % 2 == own);
            let seed = 2 * round + own;
            mine().for_each(|index| area.stg(index, pattern(seed, index)));
            for index in mine() {
                let (is, wanted) = (area.ldg(index), pattern(seed, index));
                check!(is == wanted, "round {round}: granule {index} has {is:#x}, not {wanted:#x}");
            }
            let private = Area::new(128 * KIB, TAGGED)?;
            private.verify_zero("new memory while both CPUs tag")?;
            private.tag(seed);
            private.verify(seed, "own memory while both CPUs tag")?;
        }
        Ok(())
    };
    let child = in_child(|| work(1))?;
    let own = work(0);
    ended_well(child)?;
    own?;
    for index in 0..area.granules() {
        let wanted = pattern(2 * (ROUNDS - 1) + index % 2, index);
        let is = area.ldg(index);
        check!(is == wanted, "at the end granule {index} has {is:#x}, not {wanted:#x}");
    }
    Ok(())
}
