// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks of the modes in which a mismatch is reported, and of who inherits them.

use linux_program::println;
use linux_program::tags::{self, with_tag};
use linux_program::text::Text;

use crate::checks::{
    ALL_BUT_ZERO, Area, Check, KIB, Outcome, TAGGED, asymmetric, check, ended_well, in_child,
    on_cpu, skip, stay_on,
};
use crate::fault::{self, Fault, SEGV_MTEAERR, SEGV_MTESERR};
use crate::sys::{self, Change, Errno, TagCheck};

/// The checks in their order.
pub const CHECKS: [Check; 7] = [
    ("tags and faults on all other CPUs", other_cpus),
    ("where a CPU prefers synchronous faults", || preferred(Mode::Sync)),
    ("where a CPU prefers asynchronous faults", || preferred(Mode::Async)),
    ("where a CPU prefers asymmetric faults", || preferred(Mode::Asymm)),
    ("the kernel's own access by a wrong tag", kernel_access),
    ("IRG with each single tag, with none, with all excluded", masks),
    ("fork keeps mode and mask, exec clears them", inherited),
];

/// What becomes of a mismatch, by /sys/devices/system/cpu/cpuN/mte_tcf_preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Sync,
    Async,
    Asymm,
}

impl Mode {
    /// The kernel's word for it.
    fn word(self) -> &'static str {
        match self {
            Mode::Sync => "sync",
            Mode::Async => "async",
            Mode::Asymm => "asymm",
        }
    }
}

/// How many CPUs are online; they are numbered from 0 up.
pub fn cpus() -> Result<u64, Errno> {
    let mut count = 0;
    while count < 64 && sys::pin(count).is_ok() {
        count += 1;
    }
    sys::unpin()?;
    Ok(count)
}

fn other_cpus() -> Outcome {
    let count = cpus()?;
    if count <= 2 {
        skip!("there are two CPUs");
    }
    for cpu in 2..count {
        on_cpu(cpu, 64 * KIB)?;
    }
    sys::unpin()?;
    Ok(())
}

/// Makes a CPU prefer a mode.
fn prefer(cpu: u64, mode: Mode) -> Result<(), Errno> {
    let path = Text::new(format_args!("/sys/devices/system/cpu/cpu{cpu}/mte_tcf_preferred\0"));
    sys::write_file(path.bytes(), mode.word().as_bytes())
}

/// On each CPU in turn, a program that leaves the choice to the CPU.
fn preferred(mode: Mode) -> Outcome {
    if prefer(0, mode).is_err() && mode == Mode::Asymm && !asymmetric() {
        skip!("the CPU has no FEAT_MTE3");
    }
    let area = Area::new(4 * KIB, TAGGED)?;
    for cpu in 0..cpus()? {
        stay_on(cpu)?;
        prefer(cpu, mode)?;
        sys::set_tag_check(TagCheck::Preferred, ALL_BUT_ZERO)?;
        let result = one_cpu(&area, cpu, mode);
        // As it was: asynchronous is what a kernel begins with.
        prefer(cpu, Mode::Async)?;
        sys::set_tag_check(TagCheck::Sync, ALL_BUT_ZERO)?;
        result?;
    }
    sys::unpin()?;
    Ok(())
}

fn one_cpu(area: &Area, cpu: u64, mode: Mode) -> Outcome {
    const INDEX: u64 = 5;
    const RIGHT: u64 = 0x9;
    const WRONG: u64 = 0x6;
    area.stg(INDEX, RIGHT);
    area.store(INDEX, RIGHT, 1);
    let at_once = (1, Fault { code: SEGV_MTESERR, address: with_tag(area.granule(INDEX), WRONG) });
    let later = (1, Fault { code: SEGV_MTEAERR, address: 0 });
    let (load, store) = match mode {
        Mode::Sync => (at_once, at_once),
        Mode::Async => (later, later),
        Mode::Asymm => (at_once, later),
    };
    let seen = fault::watch(|| {
        let _ = area.load(INDEX, WRONG);
        sys::own_id();
    });
    check!(seen == load, "CPU {cpu}: a load gave {seen:x?}, not {load:x?}");
    let seen = fault::watch(|| {
        area.store(INDEX, WRONG, 2);
        sys::own_id();
    });
    check!(seen == store, "CPU {cpu}: a store gave {seen:x?}, not {store:x?}");
    let (is, wanted) = (area.load(INDEX, RIGHT), if store == later { 2 } else { 1 });
    check!(is == wanted, "CPU {cpu}: the store left {is}, not {wanted}");
    let seen = fault::watch(|| {
        area.store(INDEX, RIGHT, 3);
        sys::own_id();
    });
    check!(seen.0 == 0, "CPU {cpu}: a store with the right tag gave {seen:x?}");
    Ok(())
}

/// A system call that writes to the program's memory: checked as the program's own loads and
/// stores where those fault at once, and not at all where they fault later.
fn kernel_access() -> Outcome {
    const EFAULT: Errno = Errno(14);
    const RIGHT: u64 = 0x3;
    const WRONG: u64 = 0xc;
    let area = Area::new(4 * KIB, TAGGED)?;
    (0..area.granules()).for_each(|index| area.stg(index, RIGHT));
    for (check, tag, wanted) in [
        (TagCheck::Sync, RIGHT, Ok(())),
        (TagCheck::Sync, WRONG, Err(EFAULT)),
        (TagCheck::Async, WRONG, Ok(())),
        (TagCheck::None, WRONG, Ok(())),
    ] {
        sys::set_tag_check(check, ALL_BUT_ZERO)?;
        let mut is = Ok(());
        let seen = fault::watch(|| {
            // SAFETY: in the area, to which nothing refers.
            is = unsafe { sys::uname(with_tag(area.start, tag)) };
            sys::own_id();
        });
        sys::set_tag_check(TagCheck::Sync, ALL_BUT_ZERO)?;
        check!(is == wanted, "{check:?}, tag {tag:#x}: uname gave {is:?}, not {wanted:?}");
        check!(seen.0 == 0, "{check:?}, tag {tag:#x}: uname gave {seen:x?}");
    }
    Ok(())
}

/// The tags that IRG makes in so many tries, a bit each.
pub fn made(tries: u32, exclude: u64) -> u64 {
    (0..tries).fold(0, |made, _| made | 1 << tags::tag_of(tags::irg(0, exclude)))
}

fn masks() -> Outcome {
    const ALL: u64 = 0xffff;
    // Where nothing is left, the tag is 0.
    let single = (0..16).map(|tag| (1 << tag, 0, 1 << tag));
    let nothing = [(0, 0, 1), (0xfffe, ALL, 1), (0x00f0, 0x00f0, 1)];
    for (allowed, exclude, wanted) in single.chain(nothing) {
        sys::set_tag_check(TagCheck::Sync, allowed)?;
        let is = made(64, exclude);
        check!(is == wanted, "allowed {allowed:#x}, excluded {exclude:#x}: IRG made {is:#x}");
    }
    sys::set_tag_check(TagCheck::Sync, ALL_BUT_ZERO)?;
    Ok(())
}

/// What `mte-demo control` ends with where a program starts as it should.
const CLEARED: u64 = 64;

/// Says by an exit status whether tag checks are off and IRG makes tag 0 only.
pub fn control() -> u64 {
    match sys::get_tag_control() {
        Ok(0) if made(64, 0) == 1 => CLEARED,
        Ok(is) => {
            println!("# executed with control {is:#x}, IRG makes {:#x}", made(64, 0));
            1
        }
        Err(Errno(error)) => {
            println!("# executed, and the kernel tells no control: error {error}");
            1
        }
    }
}

fn inherited() -> Outcome {
    const MASK: u16 = 0x0a50;
    for check in [TagCheck::Sync, TagCheck::Async, TagCheck::Preferred] {
        sys::set_tag_check(check, MASK)?;
        let forked = in_child(|| {
            let (is, wanted) = (sys::get_tag_control()?, sys::tag_control(check, MASK));
            check!(is == wanted, "forked with control {is:#x}, not {wanted:#x}");
            let is = made(4096, 0);
            check!(is == u64::from(MASK), "IRG makes {is:#x} in the child, not {MASK:#x}");
            Ok(())
        });
        let executed = in_child(|| Ok(sys::execute_self(c"control")?));
        sys::set_tag_check(TagCheck::Sync, ALL_BUT_ZERO)?;
        ended_well(forked?)?;
        let change = sys::wait(executed?)?;
        check!(change == Change::Exited(CLEARED), "{check:?}: the program executed: {change:?}");
    }
    Ok(())
}
