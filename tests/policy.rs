// SPDX-License-Identifier: MIT OR Apache-2.0
//! What boot options change in the calls: tags that are hidden from the guest, and verification
//! that it cannot do without.

mod sim;

use sim::*;
use tagstash::addr::PAGE_SIZE;
use tagstash::hypercall::abi::{Function, Status};
use tagstash::hypercall::service::{Policy, Service};
use tagstash::stash::metadata::MetadataBuffer;

const MISS: i64 = Status::Miss as i64;
const INVALID_PARAMETER: i64 = Status::InvalidParameter as i64;
const INVALID_ADDRESS: i64 = Status::InvalidAddress as i64;
const FRAMES: u64 = 64;
const OBJECT: [u64; 3] = [1, 2, 3];
/// STATE: active, with verification.
const VERIFIED: u64 = 2 | 1 << 8;

fn under(policy: Policy, test: impl FnOnce(&Cpu<'_, '_, Dram>, &Dram, &[u64])) {
    let layout = Layout::one(FRAMES, PAGE_SIZE);
    let (regions, ram) = (layout.regions(1), layout.ram());
    let buffer = MetadataBuffer::new(&regions);
    let pages = layout.guest_pages();
    let service = Service::new(regions, buffer.metadata(), ram, 1, Dram::new(layout));
    let service = service.with_policy(policy);
    test(&Cpu::new(&service, 0), service.platform(), &pages);
}

#[test]
fn version_says_whether_tags_are_hidden() {
    for tags_hidden in [false, true] {
        under(Policy { tags_hidden, ..Policy::default() }, |cpu, _, _| {
            let features = cpu.call(Function::Version, &[]).1[1];
            assert_eq!(features, 0b011 | u64::from(tags_hidden) << 2);
        });
    }
}

#[test]
fn with_hidden_tags_claims_have_nothing_to_do() {
    under(Policy { tags_hidden: true, ..Policy::default() }, |cpu, dram, pages| {
        let all = FRAMES * 32;
        assert_eq!(cpu.reclaim(pages[0], all), (OK, [all, 0, 0]), "dormant");
        cpu.activate(0);
        let pool = cpu.create_pool(12);
        fill(dram, pages[0], PAGE_SIZE, 1);
        // Hits of a private pool empty frames: count what a full stash holds.
        let mut kept = 0;
        for index in 0..8 * FRAMES {
            kept += u64::from(cpu.put(pool, (OBJECT, index), pages[0]) == OK);
        }
        assert_eq!(kept, 8 * FRAMES, "a put is never refused");
        assert_eq!(cpu.census(), [0, FRAMES, 0, 0]);
        for call in [Cpu::reclaim, Cpu::release] {
            assert_eq!(call(cpu, pages[0], all), (OK, [all, 0, 0]));
            assert_eq!(call(cpu, pages[3], 1), (OK, [1, 0, 0]));
            // Wrong arguments are still wrong.
            assert_eq!(call(cpu, pages[0], 0), (INVALID_PARAMETER, [0; 3]));
            assert_eq!(call(cpu, pages[0] + 1, 1), (INVALID_ADDRESS, [0; 3]));
            assert_eq!(call(cpu, 0, 1), (INVALID_ADDRESS, [0; 3]));
        }
        assert_eq!(cpu.call(Function::Query, &[pages[3]]), (OK, [0; 3]));
        assert_eq!(cpu.call(Function::Query, &[pages[3] + 1]), (INVALID_ADDRESS, [0; 3]));
        assert_eq!(cpu.census(), [0, FRAMES, 0, 0]);
        let hits = (0..8 * FRAMES).filter(|&n| cpu.get(pool, (OBJECT, n), pages[1]) == OK);
        assert_eq!(hits.count() as u64, FRAMES, "every frame holds a page that hits");
        for statistic in 9..15 {
            assert_eq!(cpu.statistic(statistic), 0, "statistic {statistic}");
        }
        cpu.deactivate();
        assert_eq!(cpu.census(), [0, 0, 0, FRAMES]);
    });
}

#[test]
fn verification_by_policy_needs_no_flag() {
    under(Policy { verify: true, ..Policy::default() }, |cpu, dram, pages| {
        for flags in [0, 1, 0] {
            cpu.activate(flags);
            assert_eq!(cpu.call(Function::State, &[]).1[0], VERIFIED, "flags {flags}");
        }
        let pool = cpu.create_pool(12);
        fill(dram, pages[0], PAGE_SIZE, 3);
        assert_eq!(cpu.put(pool, (OBJECT, 0), pages[0]), OK);
        assert_eq!(cpu.get(pool, (OBJECT, 0), pages[1]), OK);
        assert_eq!(cpu.put(pool, (OBJECT, 0), pages[0]), OK);
        pages[..(FRAMES * 32) as usize].iter().for_each(|&page| dram.store_tag(page, 15));
        assert_eq!(cpu.get(pool, (OBJECT, 0), pages[1]), MISS);
        assert_eq!(cpu.statistic(5), 1, "mismatches");
        cpu.deactivate();
        assert_eq!(cpu.call(Function::State, &[]).1[0], 0);
    });
    under(Policy::default(), |cpu, _, _| {
        cpu.activate(0);
        assert_eq!(cpu.call(Function::State, &[]).1[0], 2, "the guest's flag decides");
    });
}
