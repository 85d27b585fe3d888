// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the shim notes of what happened, read by EVENTS.

use crate::abi::{self, Answer, Event, event, function};
use crate::arena;
use crate::cpu;
use crate::exceptions;
use crate::machine::machine;
use crate::psci;
use crate::smp;
use crate::stash::{self, Pool};
use crate::tap::{Outcome, Test, check, fail, same};

/// Tests for any machine.
pub const ANYWHERE: &[Test] = &[
    ("events: the first is the guest's entry", first),
    ("events: there is nothing beyond the last", nothing_beyond),
    ("events: a refused call is noted, with CPU and time", refused),
    ("events: each CPU's own come in order, from all CPUs at once", all_cpus),
];

/// Tests with tag storage.
pub const TESTS: &[Test] = &[
    ("events: pools, activation and aborts are noted in order", story),
    ("events: a storm overwrites the oldest and says so", storm),
];

/// A call that the shim keeps from firmware.
const REFUSED: u64 = psci::SYSTEM_SUSPEND;

fn refuse() {
    psci::call(REFUSED, [0; 3]);
}

/// Checks that the events from `from` on are these, on this CPU. The number after them.
fn expect(from: u64, wanted: &[(u64, u64)]) -> Result<u64, crate::tap::Stop> {
    let mut number = from;
    for (kind, argument) in wanted {
        let is = abi::event_from(number);
        let Ok(is) = is else { fail!("event {number}: none, expected kind {kind}") };
        check!(
            (is.number, is.kind, is.argument, is.cpu) == (number, *kind, *argument, 0),
            "{is:x?}, expected event {number:#x} of kind {kind} with {argument:#x} on CPU 0"
        );
        number += 1;
    }
    match abi::event_from(number) {
        Err(next) => same!(next, number, "the next event"),
        Ok(more) => fail!("one too many: {more:x?}"),
    }
    Ok(number)
}

fn first() -> Outcome {
    let Ok(is) = abi::event_from(0) else { fail!("no event is noted") };
    let entry = crate::image().start;
    check!(
        (is.number, is.kind, is.argument, is.cpu) == (0, event::GUEST_ENTERED, entry, 0),
        "{is:x?}, expected the entry at {entry:#x}"
    );
    check!(is.time <= cpu::counter(), "the entry at {}, which is not yet", is.time);
    Ok(())
}

fn nothing_beyond() -> Outcome {
    let next = abi::next_event();
    check!(next > 0, "no event is noted, not even the guest's entry");
    for from in [next, next + 1, 1 << 32, u64::MAX - 1, u64::MAX] {
        for form in [0, 1] {
            let answer = abi::hvc(function::EVENTS, &[from, form]);
            check!(answer == Answer::of(0, next, 0, 0), "EVENTS from {from:#x}: {answer:x?}");
        }
    }
    Ok(())
}

fn refused() -> Outcome {
    let from = abi::next_event();
    let before = cpu::counter();
    refuse();
    let after = cpu::counter();
    expect(from, &[(event::CALL_REFUSED, REFUSED)])?;
    let Ok(Event { time, .. }) = abi::event_from(from) else { fail!("the event is gone") };
    check!((before..=after).contains(&time), "time {time}, the call was {before} to {after}");
    Ok(())
}

fn all_cpus() -> Outcome {
    smp::need(2)?;
    const EACH: u64 = 10;
    let from = abi::next_event();
    smp::on_all(&|_| {
        for _ in 0..EACH {
            refuse();
        }
        Ok(())
    })?;
    let mut number = from;
    let (mut refusals, mut starts, mut time) = ([0; 16], [0; 16], [0; 16]);
    while let Ok(event) = abi::event_from(number) {
        same!(event.number, number, "the number after the one before");
        let cpu = event.cpu as usize;
        check!(cpu < smp::cpus(), "{event:x?} on a CPU that there is not");
        check!(event.time >= time[cpu], "{event:x?} is older than the one before, {}", time[cpu]);
        time[cpu] = event.time;
        match (event.kind, event.argument) {
            (event::CALL_REFUSED, REFUSED) => refusals[cpu] += 1,
            (event::CPU_STARTED, entry) => {
                same!(entry, crate::entry::secondary_address(), "entry of CPU {cpu}");
                same!(refusals[cpu], 0, "refusals on CPU {cpu} before its start");
                starts[cpu] += 1;
            }
            _ => fail!("{event:x?} is nobody's"),
        }
        number += 1;
    }
    for cpu in 0..smp::cpus() {
        same!(refusals[cpu], EACH, "refusals on CPU {cpu}");
        same!(starts[cpu], u64::from(cpu != 0), "starts of CPU {cpu}");
    }
    Ok(())
}

fn story() -> Outcome {
    stash::deactivate()?;
    let from = abi::next_event();
    stash::activate(abi::VERIFY)?;
    stash::deactivate()?;
    let from = expect(from, &[(event::ACTIVATED, abi::VERIFY), (event::DEACTIVATED, 0)])?;
    let pool = Pool::private()?;
    let id = pool.id;
    drop(pool);
    let from = expect(from, &[(event::POOL_CREATED, id), (event::POOL_DESTROYED, id)])?;
    // What fails changes nothing, and is not noted.
    abi::destroy(id);
    abi::create_private(13);
    let from = expect(from, &[])?;
    let mut wanted = [(0, 0); 3];
    let hidden = machine().no_map.all()[0].start + 0x128;
    for (wanted, address) in wanted.iter_mut().zip([hidden, hidden + 4096, hidden + 8]) {
        // SAFETY: it aborts.
        let abort = exceptions::expect(|| unsafe {
            cpu::load(address);
        });
        check!(abort.is_some(), "a load from {address:#x} does not abort");
        *wanted = (event::ABORT_INJECTED, address);
    }
    expect(from, &wanted)?;
    stash::activate(0)?;
    // Puts, gets, flushes and claims are no events.
    let from = abi::next_event();
    let page = arena::take(1).address();
    abi::reclaim(page, 1);
    abi::release(page, 1);
    expect(from, &[])?;
    Ok(())
}

fn storm() -> Outcome {
    let from = abi::next_event();
    for _ in 0..1000 {
        refuse();
    }
    let next = abi::next_event();
    same!(next, from + 1000, "the next event after 1000");
    let Ok(first) = abi::event_from(from) else { fail!("nothing is left of a storm") };
    check!(first.number > from, "event {from} is still there after 1000 others");
    let mut left = 0;
    for number in first.number..next {
        let Ok(event) = abi::event_from(number) else { fail!("event {number} is gone") };
        same!(event.number, number, "the number after the one before");
        same!(event.kind, event::CALL_REFUSED, "kind of event {number}");
        left += 1;
    }
    check!(left >= 32, "only the last {left} of 1000 are left");
    Ok(())
}
