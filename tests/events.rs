// SPDX-License-Identifier: MIT OR Apache-2.0
//! EVENTS through the hypercalls, on simulated memory: what is noted, in which order, and what a
//! reader is told of what is gone or not there yet.

mod sim;

use sim::*;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use tagstash::addr::PAGE_SIZE;
use tagstash::events::{DEPTH, Kind};
use tagstash::hypercall::abi::{Function, Status};
use tagstash::hypercall::service::Service;

const COPY_FAULT: i64 = Status::CopyFault as i64;
const INVALID_PARAMETER: i64 = Status::InvalidParameter as i64;

fn on(test: impl FnOnce(&Service<'_, Dram>, &Cpu<'_, '_, Dram>, &Dram, &[u64])) {
    let layout = Layout::one(64, PAGE_SIZE);
    let pages = layout.guest_pages();
    with_service(&layout.clone(), 2, Dram::new(layout), |service| {
        let cpu = Cpu::new(service, 1);
        test(service, &cpu, service.platform(), &pages);
    });
}

/// Number, kind, CPU and argument of the first event from `number` on.
fn event(cpu: &Cpu<'_, '_, Dram>, number: u64) -> Option<(u64, u64, u64, u64)> {
    let (status, [number, what, argument]) = cpu.call(Function::Events, &[number, 0]);
    assert_eq!(status, OK);
    (what != 0).then_some((number, what & 0xff, what >> 8, argument))
}

#[test]
fn a_story_is_noted_in_order() {
    on(|_, cpu, dram, pages| {
        assert_eq!(cpu.call(Function::Events, &[0, 0]), (OK, [0; 3]));
        cpu.activate(1);
        let pool = cpu.create_pool(12);
        let key = ([1, 2, 3], 4);
        fill(dram, pages[0], PAGE_SIZE, 1);
        assert_eq!(cpu.put(pool, key, pages[0]), OK);
        assert_eq!(cpu.get(pool, key, pages[1]), OK);
        // The second page of a run of three aborts, and so does the third.
        dram.abort_after.store(PAGE_SIZE as usize / 256 + 3, Relaxed);
        assert_eq!(cpu.put_run(pool, key, pages[4], 3), (COPY_FAULT, [3, 1, 0]));
        dram.abort_after.store(usize::MAX, Relaxed);
        assert_eq!(cpu.put(pool, key, pages[0]), OK);
        // Tags of every page, unclaimed: the guest's mistake.
        pages[..64 * 32].iter().for_each(|&page| {
            (0..256).for_each(|g| dram.store_tag(page + 16 * g, 15));
        });
        cpu.get(pool, key, pages[1]);
        cpu.call(Function::PoolDestroy, &[pool]);
        cpu.call(Function::PoolDestroy, &[pool]);
        cpu.deactivate();
        let wanted = [
            (Kind::Activated, 1),
            (Kind::PoolCreated, pool),
            (Kind::CopyFault, pages[6]),
            (Kind::Mismatch, pages[1]),
            (Kind::PoolDestroyed, pool),
            (Kind::Deactivated, 0),
        ];
        for (number, (kind, argument)) in (0..).zip(wanted) {
            assert_eq!(event(cpu, number), Some((number, kind as u64, 1, argument)));
        }
        let end = wanted.len() as u64;
        assert_eq!(cpu.call(Function::Events, &[end, 0]), (OK, [end, 0, 0]));
        assert_eq!(cpu.call(Function::Events, &[u64::MAX, 1]), (OK, [end, 0, 0]));
        for form in [2, 3, 1 << 32, u64::MAX] {
            let answer = cpu.call(Function::Events, &[0, form]);
            assert_eq!(answer, (INVALID_PARAMETER, [0; 3]));
        }
    });
}

#[test]
fn older_events_give_way_and_the_answer_says_so() {
    on(|service, cpu, _, _| {
        let other = Cpu::new(service, 0);
        service.note(&other, Kind::GuestEntered, 7);
        for argument in 0..100 {
            service.note(cpu, Kind::CallRefused, argument);
        }
        assert_eq!(event(cpu, 0), Some((0, 1, 0, 7)));
        let first = 101 - DEPTH as u64;
        for number in [1, first - 1, first] {
            assert_eq!(event(cpu, number), Some((first, 11, 1, first - 1)));
        }
        assert_eq!(event(cpu, 100), Some((100, 11, 1, 99)));
        assert_eq!(event(cpu, 101), None);
    });
}

/// Two CPUs write as fast as they can, a third reads: each event is of one piece, numbers grow,
/// and each CPU's arguments come in their order.
#[test]
fn events_of_racing_cpus_are_whole_and_in_order() {
    on(|service, reader, _, _| {
        let ended = AtomicBool::new(false);
        let (mut found, mut gone) = (0u64, 0u64);
        std::thread::scope(|scope| {
            let writers = [0, 1].map(|number| {
                scope.spawn(move || {
                    let cpu = Cpu::new(service, number);
                    for n in 0..50_000u64 {
                        let kind = if number == 0 { Kind::CpuStarted } else { Kind::AbortInjected };
                        service.note(&cpu, kind, n << 8 | number as u64);
                    }
                })
            });
            let ended = &ended;
            let done = scope.spawn(move || {
                writers.into_iter().for_each(|writer| writer.join().expect("no panic"));
                ended.store(true, Relaxed);
            });
            let (mut number, mut least) = (0, [0; 2]);
            loop {
                let last = ended.load(Relaxed);
                match event(reader, number) {
                    Some((is, kind, cpu, argument)) => {
                        assert!(is >= number && cpu < 2, "{is} {cpu}");
                        assert_eq!((argument & 0xff, kind), (cpu, if cpu == 0 { 2 } else { 3 }));
                        let n = argument >> 8;
                        assert!(n >= least[cpu as usize], "event {n} of CPU {cpu} comes late");
                        least[cpu as usize] = n + 1;
                        gone += is - number;
                        number = is + 1;
                        found += 1;
                    }
                    None if last => break,
                    None => std::thread::yield_now(),
                }
            }
            assert_eq!(number, 100_000);
            done.join().expect("no panic");
        });
        assert_eq!(found + gone, 100_000);
        assert!(found >= DEPTH as u64, "{found} events found");
    });
}
