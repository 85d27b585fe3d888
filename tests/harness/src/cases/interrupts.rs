// SPDX-License-Identifier: MIT OR Apache-2.0
//! Long calls end early for a pending interrupt, where the caller had interrupts unmasked, and
//! only there.

use core::cell::Cell;

use crate::abi::{self, Answer};
use crate::arena;
use crate::cases::claims::longest;
use crate::cpu;
use crate::gic;
use crate::machine::machine;
use crate::ranges::PAGE;
use crate::stash::{self, Pool};
use crate::tap::{Outcome, Stop, Test, check, note, same};

/// Tests with tag storage.
pub const TESTS: &[Test] = &[
    ("P4 RECLAIM and RELEASE end early for an interrupt", claims),
    ("ACTIVATE and DEACTIVATE end early for an interrupt", states),
    ("FLUSH_PAGE ends early for an interrupt", flushes),
    ("PUT and GET end early for an interrupt", copies),
    ("with interrupts masked a call is not cut short", masked),
];

fn start() -> Outcome {
    if gic::start() { Ok(()) } else { Err(Stop::Skipped("there is no GICv3")) }
}

/// Makes a call with interrupts unmasked and the timer to come while it runs: until `cut` says
/// that the answer was cut short. A few delays are tried, since how fast the machine is, is not
/// known, and that `rounds` times; `prepare` comes before each.
fn interrupted(
    rounds: usize,
    prepare: impl Fn() -> Outcome,
    call: impl Fn() -> Answer,
    cut: impl Fn(&Answer) -> bool,
) -> Result<Option<Answer>, Stop> {
    const DELAYS: [u64; 8] = [50, 200, 10, 1_000, 20, 5_000, 100, 500];
    for microseconds in [DELAYS; 40].into_iter().take(rounds).flatten() {
        prepare()?;
        let before = gic::taken();
        gic::interrupt_in(cpu::counter_frequency() / 1_000_000 * microseconds);
        cpu::unmask_interrupts();
        let answer = call();
        cpu::mask_interrupts();
        gic::stop();
        if cut(&answer) {
            // Taken right after the call, at the latest.
            same!(gic::taken(), before + 1, "timer interrupts taken");
            return Ok(Some(answer));
        }
    }
    Ok(None)
}

fn claims() -> Outcome {
    start()?;
    stash::active()?;
    let region = machine().regions.all()[0];
    let piece = longest(&region);
    let pages = piece.pages().min(16_384);
    // The step is 32 frames or one block; the first block may be cut by the start of memory.
    let blocks = (32 / region.frames_of_block()).max(1);
    let least = (blocks - 1) * region.pages_of_block() + 1;
    for (name, call) in
        [("RECLAIM", abi::reclaim as fn(u64, u64) -> Answer), ("RELEASE", abi::release)]
    {
        let undo = if name == "RECLAIM" { abi::release } else { abi::reclaim };
        let answer = interrupted(
            4,
            || {
                undo(piece.start, pages);
                Ok(())
            },
            || call(piece.start, pages),
            |answer| answer.x1 < pages,
        )?;
        let Some(answer) = answer else {
            crate::tap::fail!("{name} of {pages} pages is never cut short")
        };
        check!(answer.ok(), "{name} that was cut short: {answer:x?}");
        check!(answer.x1 >= least, "{name}: only {} pages before the interrupt", answer.x1);
        same!(answer.x2, answer.x1, "{name}: pages changed in what was dealt with");
        note!("{name} of {pages} pages was cut short after {}", answer.x1);
        let rest = call(piece.start + answer.x1 * PAGE, pages - answer.x1);
        let left = pages - answer.x1;
        check!(rest == Answer::of(0, left, left, 0), "{name} of the rest: {rest:x?}");
    }
    same!(stash::census()?.tags, 0, "frames in tags");
    Ok(())
}

/// Most blocks that one ACTIVATE or DEACTIVATE deals with.
const MOST_BLOCKS: u64 = 256;

fn states() -> Outcome {
    start()?;
    for (name, between, activate) in
        [("ACTIVATE", stash::ACTIVATING, true), ("DEACTIVATE", stash::DEACTIVATING, false)]
    {
        let call =
            |cursor| if activate { abi::activate(0, cursor) } else { abi::deactivate(cursor) };
        // Call after call along the blocks; at the end all over again.
        let (from, next) = (Cell::new(0), Cell::new(0));
        let answer = interrupted(
            8,
            || match next.get() {
                0 if activate => stash::deactivate(),
                0 => stash::activate(0),
                _ => Ok(()),
            },
            || {
                let answer = call(next.get());
                from.set(next.get());
                next.set(if answer.x1 < answer.x2 { answer.x1 } else { 0 });
                answer
            },
            |answer| answer.x1 < answer.x2.min(from.get() + MOST_BLOCKS),
        )?;
        let Some(mut answer) = answer else { crate::tap::fail!("{name} is never cut short") };
        check!(answer.ok() && answer.x1 > from.get(), "{name} that was cut short: {answer:x?}");
        note!("{name} from {} of {} was cut short at {}", from.get(), answer.x2, answer.x1);
        same!(abi::state().x1, between, "STATE in between");
        let census = stash::census()?;
        check!(
            census.dormant > 0 && census.free + census.cached > 0,
            "{name} that was cut short: {census:?}"
        );
        while answer.x1 < answer.x2 {
            let next = call(answer.x1);
            check!(next.ok() && next.x1 > answer.x1, "{name} from {}: {next:x?}", answer.x1);
            answer = next;
        }
        let wanted = if activate { stash::ACTIVE } else { stash::DORMANT };
        same!(abi::state().x1, wanted, "STATE at the end");
    }
    Ok(())
}

fn flushes() -> Outcome {
    start()?;
    stash::active()?;
    let pool = Pool::private()?;
    const PAGES: u64 = u32::MAX as u64;
    const MOST: u64 = 1024;
    let answer = interrupted(
        40,
        || Ok(()),
        || abi::flush_page(pool.key(1, 1 << 40), PAGES),
        |answer| answer.x1 < MOST,
    )?;
    let Some(answer) = answer else { crate::tap::fail!("FLUSH_PAGE is never cut short") };
    check!(answer.ok() && answer.x1 >= 16, "FLUSH_PAGE that was cut short: {answer:x?}");
    note!("FLUSH_PAGE was cut short after {} pages", answer.x1);
    Ok(())
}

fn copies() -> Outcome {
    start()?;
    stash::fresh()?;
    const PAGES: u64 = abi::RUN;
    let pool = Pool::shared_of(16, [5, 5])?;
    let pages = arena::take_aligned(PAGES * pool.parts, pool.parts * PAGE);
    for (name, call) in [("PUT", abi::put as fn(abi::Key, u64, u64) -> Answer), ("GET", abi::get)] {
        let key = pool.key(1, 0);
        let answer = interrupted(
            40,
            || Ok(()),
            || call(key, pages.address(), PAGES),
            |answer| answer.x1 < PAGES,
        )?;
        let Some(answer) = answer else {
            crate::tap::fail!("{name} of 64 pages of 64 KiB is never cut short")
        };
        let done = u64::MAX >> (64 - answer.x1.clamp(1, 64));
        check!(answer.x1 >= 1 && answer.x2 & !done == 0, "{name} cut short: {answer:x?}");
        note!("{name} of 64 pages of 64 KiB was cut short after {}", answer.x1);
        let rest = PAGES - answer.x1;
        let again = abi::Key { index: answer.x1, ..key };
        let rest_answer = call(again, pages.address() + answer.x1 * pool.parts * PAGE, rest);
        same!(rest_answer.x1, rest, "{name}: the rest, with interrupts masked");
    }
    Ok(())
}

fn masked() -> Outcome {
    start()?;
    stash::active()?;
    let piece = longest(&machine().regions.all()[0]);
    let pages = piece.pages();
    let before = gic::taken();
    gic::interrupt_in(1);
    // Those that set a most do all of it.
    for (bits, most) in [(12, 1024), (14, 256), (16, 64)] {
        let pool = Pool::private_of(bits)?;
        let answer = abi::flush_page(pool.key(1, 1), u32::MAX.into());
        check!(answer == Answer::of(0, most, 0, 0), "FLUSH_PAGE of 2^{bits}: {answer:x?}");
        let answer = abi::flush_page(pool.key(1, 1), most - 1);
        check!(answer == Answer::of(0, most - 1, 0, 0), "FLUSH_PAGE of 2^{bits}: {answer:x?}");
        let pages = arena::take_aligned(abi::RUN * pool.parts, pool.parts * PAGE);
        let answer = abi::put(pool.key(1, 1), pages.address(), abi::RUN);
        same!(answer.x1, abi::RUN, "PUT of 64 pages of 2^{bits}: pages dealt with");
        let answer = abi::get(pool.key(1, 1), pages.address(), abi::RUN);
        same!(answer.x1, abi::RUN, "GET of 64 pages of 2^{bits}: pages dealt with");
    }
    let step = abi::activate(0, 0);
    same!(step.x1, step.x2.min(MOST_BLOCKS), "cursor of ACTIVATE");
    stash::activate(0)?;
    let claim = abi::reclaim(piece.start, pages);
    let release = abi::release(piece.start, pages);
    check!(claim == Answer::of(0, pages, pages, 0), "RECLAIM: {claim:x?}");
    check!(release == Answer::of(0, pages, pages, 0), "RELEASE: {release:x?}");
    same!(gic::taken(), before, "interrupts taken while masked");
    // It was pending all along.
    cpu::unmask_interrupts();
    cpu::isb();
    cpu::mask_interrupts();
    gic::stop();
    same!(gic::taken(), before + 1, "interrupts taken once unmasked");
    Ok(())
}
