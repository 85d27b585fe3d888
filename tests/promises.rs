// SPDX-License-Identifier: MIT OR Apache-2.0
//! The promises of `docs/abi.md`, one CPU, through the hypercalls, on simulated memory whose
//! tag storage really aliases. Each test is named for the promise that it keeps.

mod sim;

use sim::*;
use tagstash::addr::PAGE_SIZE;
use tagstash::hypercall::abi::{Function, Status};
use tagstash::hypercall::service::Service;

const NOT_CACHED: i64 = Status::NotCached as i64;
const MISS: i64 = Status::Miss as i64;
const NOT_CLAIMED: i64 = Status::NotClaimed as i64;
const INVALID_PARAMETER: i64 = Status::InvalidParameter as i64;
const INVALID_ADDRESS: i64 = Status::InvalidAddress as i64;
const NO_SUCH_POOL: i64 = Status::NoSuchPool as i64;
const NO_REUSE: i64 = Status::NoReuse as i64;

const A: [u64; 3] = [1, 2, 3];
const B: [u64; 3] = [1, 2, 4];

fn on(layout: Layout, test: impl FnOnce(&Cpu<'_, '_, Dram>, &Dram, &[u64])) {
    let pages = layout.guest_pages();
    with_service(&layout.clone(), 2, Dram::new(layout), |service: &Service<'_, Dram>| {
        let cpu = Cpu::new(service, 0);
        test(&cpu, service.platform(), &pages);
    });
}

/// One region of 64 frames, active, with a private pool of 4 KiB pages.
fn active(test: impl FnOnce(&Cpu<'_, '_, Dram>, &Dram, &[u64], u64)) {
    on(Layout::one(64, PAGE_SIZE), |cpu, dram, pages| {
        cpu.activate(0);
        let pool = cpu.create_pool(12);
        test(cpu, dram, pages, pool);
    });
}

#[test]
#[cfg_attr(miri, ignore = "long; the same code runs in the others")]
fn p1_claimed_storage_is_not_written_until_its_last_claim_is_released() {
    for layout in [Layout::one(64, PAGE_SIZE), Layout::one(64, 4 * PAGE_SIZE), Layout::crossed(32)]
    {
        on(layout, |cpu, dram, pages| {
            cpu.activate(0);
            let pool = cpu.create_pool(12);
            let source = pages[pages.len() - 1];
            // Every 41st page: some blocks with several claims, some with one, some with none.
            let tagged: Vec<u64> = pages
                .iter()
                .copied()
                .filter(|&p| {
                    (p / PAGE_SIZE).is_multiple_of(41) && dram.layout.tag_place(p).is_some()
                })
                .collect();
            let tag = |page: u64, granule: u64| ((page >> 12) + granule * 7) as u8 & 15;
            for round in 0..3u64 {
                for index in 0..300 {
                    fill(dram, source, PAGE_SIZE, !0);
                    cpu.put(pool, (A, index), source);
                }
                for &page in &tagged {
                    let (status, [done, new, _]) = cpu.reclaim(page, 1);
                    assert_eq!((status, done, new), (OK, 1, 1));
                    (0..256).for_each(|g| dram.store_tag(page + g * 16, tag(page, g)));
                }
                for index in 0..600 {
                    fill(dram, source, PAGE_SIZE, index);
                    cpu.put(pool, (B, index + round), source);
                    cpu.get(pool, (B, index / 2), source);
                }
                for &page in &tagged {
                    for granule in 0..256 {
                        let address = page + granule * 16;
                        assert_eq!(dram.load_tag(address), tag(page, granule), "{address:#x}");
                    }
                }
                for &page in &tagged {
                    assert_eq!(cpu.release(page, 1), (OK, [1, 1, 0]));
                }
                assert_eq!(cpu.census()[0], 0);
            }
        });
    }
}

#[test]
fn p2_a_get_returns_the_newest_put_or_nothing() {
    active(|cpu, dram, pages, pool| {
        for seed in [1, 2, 3] {
            fill(dram, pages[0], PAGE_SIZE, seed);
            assert_eq!(cpu.put(pool, (A, 9), pages[0]), OK);
        }
        assert_eq!(cpu.get(pool, (A, 9), pages[1]), OK);
        assert!(is_filled(dram, pages[1], PAGE_SIZE, 3));
        // Exclusive: it is gone, and no older copy comes to light.
        assert_eq!(cpu.get(pool, (A, 9), pages[1]), MISS);
    });
}

#[test]
fn p2_keys_are_compared_whole() {
    active(|cpu, dram, pages, pool| {
        fill(dram, pages[0], PAGE_SIZE, 5);
        let other = cpu.create_pool(12);
        assert_eq!(cpu.put(pool, (A, 9), pages[0]), OK);
        for bit in 0..64 {
            for word in 0..3 {
                let mut object = A;
                object[word] ^= 1 << bit;
                assert_eq!(cpu.get(pool, (object, 9), pages[1]), MISS);
            }
            assert_eq!(cpu.get(pool, (A, 9 ^ 1 << bit), pages[1]), MISS);
        }
        assert_eq!(cpu.get(other, (A, 9), pages[1]), MISS);
        assert_eq!(cpu.get(pool, (A, 9), pages[1]), OK);
    });
}

#[test]
#[cfg_attr(miri, ignore = "long; the same code runs in the others")]
fn p2_large_pages_are_whole_or_not_there() {
    on(Layout::one(64, PAGE_SIZE), |cpu, dram, pages| {
        cpu.activate(0);
        let space = |size: u64| {
            let aligned = pages[0].next_multiple_of(size);
            (aligned, aligned + 4 * size)
        };
        for (shift, parts) in [(14, 4), (16, 16)] {
            let (size, pool) = (1u64 << shift, cpu.create_pool(shift));
            let (from, to) = space(size);
            let mut hits = 0;
            for index in 0..20 {
                fill(dram, from, size, index);
                assert_eq!(cpu.put(pool, (A, index), from), OK);
            }
            for index in 0..20 {
                if cpu.get(pool, (A, index), to) == OK {
                    assert!(is_filled(dram, to, size, index), "{index}");
                    hits += 1;
                }
            }
            // 64 frames, and an unlucky part takes a page with it: some must be there.
            assert!(hits >= 16 / parts, "{hits} hits of {parts} parts");
            // A claim takes parts of it. What is left is no page.
            let mut missed = 0;
            for frames in 1..=64 {
                fill(dram, from, size, frames);
                assert_eq!(cpu.put(pool, (B, 0), from), OK);
                cpu.reclaim(pages[0], frames * 32);
                cpu.release(pages[0], frames * 32);
                if cpu.get(pool, (B, 0), to) == OK {
                    assert!(is_filled(dram, to, size, frames), "{frames}");
                } else {
                    missed += 1;
                    assert_eq!(cpu.get(pool, (B, 0), to), MISS);
                }
            }
            assert!(missed > 0, "all 64 frames were claimed once");
        }
    });
}

#[test]
fn p2_shared_pools_keep_what_is_got() {
    active(|cpu, dram, pages, _| {
        let pool = cpu.create_shared(12, [7, 8]);
        fill(dram, pages[0], PAGE_SIZE, 11);
        assert_eq!(cpu.put(pool, (A, 0), pages[0]), OK);
        for &to in &pages[1..4] {
            assert_eq!(cpu.get(cpu.create_shared(12, [7, 8]), (A, 0), to), OK);
            assert!(is_filled(dram, to, PAGE_SIZE, 11));
        }
        assert_eq!(cpu.get(cpu.create_shared(12, [7, 9]), (A, 0), pages[1]), MISS);
    });
}

#[test]
fn p3_flushes_at_three_levels_drop_what_they_name_and_nothing_else() {
    active(|cpu, _, pages, pool| {
        let other = cpu.create_pool(12);
        let all = [(pool, (A, 0)), (pool, (A, 1)), (pool, (B, 0)), (other, (A, 0))];
        let here = || all.map(|(pool, page)| cpu.get(pool, page, pages[1]) == OK);
        let flushes: [(&dyn Fn() -> i64, [bool; 4]); 4] = [
            (&|| OK, [true, true, true, true]),
            (&|| cpu.flush_page(pool, (A, 0)), [false, true, true, true]),
            (&|| cpu.flush_object(pool, A), [false, false, true, true]),
            (&|| cpu.flush_pool(pool), [false, false, false, true]),
        ];
        for (flush, expected) in flushes {
            for (pool, page) in all {
                assert_eq!(cpu.put(pool, page, pages[0]), OK);
            }
            assert_eq!(flush(), OK);
            assert_eq!(here(), expected);
        }
    });
}

#[test]
fn p3_a_destroyed_pool_takes_its_pages_along() {
    active(|cpu, _, pages, pool| {
        assert_eq!(cpu.put(pool, (A, 0), pages[0]), OK);
        assert_eq!(cpu.call(Function::PoolDestroy, &[pool]).0, OK);
        assert_eq!(cpu.get(pool, (A, 0), pages[1]), NO_SUCH_POOL);
        let again = cpu.create_pool(12);
        assert_ne!(again, pool);
        assert_eq!(cpu.get(again, (A, 0), pages[1]), MISS);
    });
}

#[test]
fn p3_a_refused_put_leaves_no_earlier_copy() {
    active(|cpu, dram, pages, pool| {
        assert_eq!(cpu.put(pool, (A, 0), pages[0]), OK);
        dram.abort_after.store(3, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(cpu.put(pool, (A, 0), pages[0]), Status::CopyFault as i64);
        dram.abort_after.store(usize::MAX, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(cpu.get(pool, (A, 0), pages[1]), MISS);
        // The frame was given back: every frame can be claimed without a wait.
        assert_eq!(cpu.reclaim(pages[0], pages.len() as u64).0, OK);
        assert_eq!(cpu.statistic(15), 0);
        // All frames in tags: every put is refused, and drops the copy it would replace.
        assert_eq!(cpu.put(pool, (A, 0), pages[0]), NOT_CACHED);
    });
}

#[test]
fn p4_reclaim_succeeds_for_every_valid_range_and_says_what_is_not() {
    on(Layout::crossed(32), |cpu, _, pages| {
        cpu.activate(0);
        let all = pages[pages.len() - 1] / PAGE_SIZE - pages[0] / PAGE_SIZE + 1;
        let with_storage = 2 * 32 * 32;
        // Across a hole, two regions and a rest without storage, in one call.
        assert_eq!(cpu.reclaim(pages[0], all), (OK, [all, with_storage, 0]));
        assert_eq!(cpu.reclaim(pages[0], all), (OK, [all, 0, 0]));
        assert_eq!(cpu.census(), [64, 0, 0, 0]);
        let last = pages[pages.len() - 1];
        assert_eq!(cpu.reclaim(last, 1), (OK, [1, 0, 0]));
        assert_eq!(cpu.release(last, 1), (OK, [1, 0, 0]));
        for (address, count, error) in [
            (pages[0], 0, INVALID_PARAMETER),
            (pages[0] + 8, 1, INVALID_ADDRESS),
            (pages[0] - PAGE_SIZE, 1, INVALID_ADDRESS),
            (pages[0], all + 1, INVALID_ADDRESS),
            (pages[0], u64::MAX, INVALID_ADDRESS),
            (pages[0], 1 << 52, INVALID_ADDRESS),
            (!4095, 1, INVALID_ADDRESS),
        ] {
            assert_eq!(cpu.reclaim(address, count), (error, [0; 3]), "{address:#x} {count}");
            assert_eq!(cpu.release(address, count), (error, [0; 3]), "{address:#x} {count}");
        }
        assert_eq!(cpu.release(pages[0], all), (OK, [all, with_storage, 0]));
        assert_eq!(cpu.census(), [0, 0, 64, 0]);
    });
}

#[test]
fn p4_a_pending_interrupt_ends_a_run_after_a_batch() {
    on(Layout::one(128, PAGE_SIZE), |cpu, _, pages| {
        cpu.interrupted.store(true, std::sync::atomic::Ordering::Relaxed);
        let batch = 32 * 32;
        let (first, all) = (pages[0] + 5 * PAGE_SIZE, 128 * 32 - 5);
        assert_eq!(cpu.reclaim(first, all), (OK, [batch - 5, batch - 5, 0]));
        let next = first + (batch - 5) * PAGE_SIZE;
        assert_eq!(cpu.reclaim(next, all - batch + 5), (OK, [batch, batch, 0]));
        assert_eq!(cpu.release(next, all - batch + 5), (OK, [batch, batch, 0]));
        cpu.activate(0);
        assert_eq!(cpu.census(), [32, 0, 96, 0]);
        let pool = cpu.create_pool(12);
        assert_eq!(cpu.put_run(pool, (A, 0), pages[0], 64), (OK, [1, 1, 0]));
        assert_eq!(cpu.get_run(pool, (A, 0), pages[0], 64), (OK, [1, 1, 0]));
        assert_eq!(
            cpu.call(Function::FlushPage, &[pool, 1, 2, 3, 0, 0, 1 << 20]),
            (OK, [16, 0, 0])
        );
        cpu.interrupted.store(false, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(
            cpu.call(Function::FlushPage, &[pool, 1, 2, 3, 0, 0, u64::from(u32::MAX)]),
            (OK, [1024, 0, 0])
        );
        cpu.interrupted.store(true, std::sync::atomic::Ordering::Relaxed);
        cpu.deactivate();
        assert_eq!(cpu.census(), [0, 0, 0, 128]);
    });
}

/// The rest of a run that was cut short is a valid run again, wherever it was cut: also just
/// before a hole.
#[test]
fn p4_a_run_that_is_cut_short_can_always_be_continued() {
    on(Layout::crossed(32), |cpu, _, pages| {
        cpu.interrupted.store(true, std::sync::atomic::Ordering::Relaxed);
        let last = pages[pages.len() - 1];
        for call in [Function::Reclaim, Function::Release] {
            let (mut address, mut calls, mut changed) = (pages[0], 0, 0);
            while address <= last {
                let (status, [done, some, _]) =
                    cpu.call(call, &[address, (last - address) / PAGE_SIZE + 1]);
                assert_eq!(status, OK, "{call:?} {address:#x}");
                assert!(done > 0);
                address += done * PAGE_SIZE;
                changed += some;
                calls += 1;
            }
            assert_eq!(changed, 2 * 32 * 32, "{call:?}");
            assert!(calls > 1, "nothing was cut short");
        }
    });
}

/// A page of 16 parts in one set of which 8 frames are in tags: it cannot be kept whole, so it
/// is refused, and does not claim to be there. With all 16 frames it is kept.
#[test]
fn p10_a_large_page_does_not_push_its_own_parts_out() {
    on(Layout::one(16, PAGE_SIZE), |cpu, dram, pages| {
        cpu.activate(0);
        let pool = cpu.create_pool(16);
        let from = pages[0].next_multiple_of(1 << 16);
        let to = from + (1 << 16);
        fill(dram, from, 1 << 16, 3);
        cpu.reclaim(pages[0], 8 * 32);
        assert_eq!(cpu.put(pool, (A, 0), from), NOT_CACHED);
        assert_eq!(cpu.get(pool, (A, 0), to), MISS);
        assert_eq!(cpu.census(), [8, 0, 8, 0]);
        cpu.release(pages[0], 8 * 32);
        for index in 0..3 {
            assert_eq!(cpu.put(pool, (A, index), from), OK);
        }
        assert_eq!(cpu.get(pool, (A, 2), to), OK);
        assert!(is_filled(dram, to, 1 << 16, 3));
    });
}

#[test]
#[cfg_attr(miri, ignore = "long; the same code runs in the others")]
fn p6_claims_balance_whatever_the_order() {
    for block_size in [1, 2, 4] {
        on(Layout::one(16, block_size * PAGE_SIZE), |cpu, dram, pages| {
            cpu.activate(0);
            let tagged = 16 * 32;
            let mut claimed = vec![false; tagged];
            let mut random = 12345u64;
            for _ in 0..4000 {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let first = (random >> 33) as usize % tagged;
                let count = ((random >> 20) as usize % 100 + 1).min(tagged - first);
                let run = &mut claimed[first..first + count];
                let held = run.iter().filter(|&&c| c).count() as u64;
                let count = count as u64;
                if random >> 63 == 0 {
                    let new = count - held;
                    assert_eq!(cpu.reclaim(pages[first], count), (OK, [count, new, 0]));
                    run.fill(true);
                } else {
                    let status = if held == count { OK } else { NOT_CLAIMED };
                    assert_eq!(cpu.release(pages[first], count), (status, [count, held, 0]));
                    run.fill(false);
                }
                let per_block = 32 * block_size as usize;
                let in_tags = claimed.chunks(per_block).filter(|c| c.contains(&true)).count();
                let frames = in_tags as u64 * block_size;
                assert_eq!(cpu.census(), [frames, 0, 16 - frames, 0]);
                let n = (random >> 40) as usize % tagged;
                let of_block = claimed.chunks(per_block).nth(n / per_block).unwrap();
                let claims = of_block.iter().filter(|&&c| c).count() as u64;
                let flags = 0b101 | u64::from(claimed[n]) << 1;
                assert_eq!(cpu.call(Function::Query, &[pages[n]]), (OK, [flags, claims, 0]));
            }
            assert!(dram.layout.tag_place(pages[0]).is_some());
        });
    }
}

#[test]
#[cfg_attr(miri, ignore = "long; the same code runs in the others")]
fn p6_capacity_comes_back_with_the_last_release() {
    active(|cpu, dram, pages, pool| {
        cpu.reclaim(pages[0], 64 * 32);
        assert_eq!(cpu.put(pool, (A, 0), pages[0]), NOT_CACHED);
        for &page in &pages[1..64 * 32] {
            assert_eq!(cpu.release(page, 1), (OK, [1, 1, 0]));
        }
        assert_eq!(cpu.census(), [1, 0, 63, 0]);
        cpu.release(pages[0], 1);
        assert_eq!(cpu.release(pages[0], 1), (NOT_CLAIMED, [1, 0, 0]));
        assert_eq!(cpu.census(), [0, 0, 64, 0]);
        let mut hits = 0;
        for index in 0..40 {
            fill(dram, pages[0], PAGE_SIZE, index);
            assert_eq!(cpu.put(pool, (A, index), pages[0]), OK);
        }
        for index in 0..40 {
            hits += u64::from(cpu.get(pool, (A, index), pages[1]) == OK);
        }
        assert!(hits >= 36, "{hits} of 40 in 64 frames");
    });
}

#[test]
#[cfg_attr(miri, ignore = "long; the same code runs in the others")]
fn p7_no_arguments_crash_or_reach_beyond_guest_ram() {
    on(Layout::crossed(16), |cpu, dram, pages| {
        cpu.activate(1);
        let pool = cpu.create_pool(12);
        let (storage, base, end) = {
            let layout = &dram.layout;
            (layout.pieces[0].storage, layout.base, layout.base + layout.length)
        };
        for bad in [storage, storage + PAGE_SIZE, base - PAGE_SIZE, end, 0, !4095, pages[0] + 1] {
            assert_eq!(cpu.put(pool, (A, 0), bad), INVALID_ADDRESS, "{bad:#x}");
            assert_eq!(cpu.get(pool, (A, 0), bad), INVALID_ADDRESS, "{bad:#x}");
            assert_eq!(cpu.call(Function::Query, &[bad]).0, INVALID_ADDRESS, "{bad:#x}");
        }
        // Runs that begin in guest RAM and leave it: into a hole, into storage, at the end.
        let last_of_ranges: Vec<u64> =
            (pages.iter().copied()).filter(|page| !pages.contains(&(page + PAGE_SIZE))).collect();
        assert!(last_of_ranges.len() > 1);
        for last in last_of_ranges {
            for count in [2, 64] {
                let refused = (INVALID_ADDRESS, [0; 3]);
                assert_eq!(cpu.put_run(pool, (A, 0), last, count), refused, "{last:#x}");
                assert_eq!(cpu.get_run(pool, (A, 0), last, count), refused, "{last:#x}");
            }
            assert_eq!(cpu.put_run(pool, (A, 0), last - PAGE_SIZE, 2).1[0], 2, "{last:#x}");
        }
        // Any mix of interesting and arbitrary values, in any register: `Dram` panics on an
        // address that it does not have.
        let interesting = [
            0,
            1,
            2,
            12,
            14,
            16,
            64,
            65,
            0x10c,
            4096,
            pages[0],
            pages[7],
            storage,
            end,
            pool,
            pool + 1,
            1 << 31,
            1 << 32,
            (1 << 32) - 1,
            1 << 52,
            1 << 63,
            u64::MAX,
            u64::MAX - 1,
            !4095,
        ];
        let mut random = 99u64;
        let mut next = || {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            random >> 11
        };
        for _ in 0..200_000 {
            let function = Function::ALL[next() as usize % Function::ALL.len()];
            let arguments: [u64; 7] = core::array::from_fn(|_| match next() % 4 {
                0 => next() << 11,
                1 => next() % 100,
                _ => interesting[next() as usize % interesting.len()],
            });
            cpu.interrupted.store(next() % 2 == 0, std::sync::atomic::Ordering::Relaxed);
            let (status, _) = cpu.call(function, &arguments);
            let known = (-13..=0).contains(&status) && status != -2;
            assert!(known || matches!(function, Function::Uid | Function::Revision));
        }
        cpu.interrupted.store(false, std::sync::atomic::Ordering::Relaxed);
        cpu.deactivate();
        assert_eq!(cpu.census(), [0, 0, 0, 32]);
        cpu.activate(0);
        let pool = cpu.create_pool(12);
        fill(dram, pages[0], PAGE_SIZE, 1);
        assert_eq!(cpu.put(pool, (A, 0), pages[0]), OK);
        assert_eq!(cpu.get(pool, (A, 0), pages[1]), OK);
        assert!(is_filled(dram, pages[1], PAGE_SIZE, 1));
    });
}

#[test]
#[cfg_attr(miri, ignore = "long; the same code runs in the others")]
fn p8_until_activation_all_storage_stays_with_tags() {
    on(Layout::one(64, PAGE_SIZE), |cpu, dram, pages| {
        let pool = cpu.create_pool(12);
        for page in &pages[..64 * 32] {
            dram.store_tag(*page, 9);
        }
        fill(dram, pages[0], PAGE_SIZE, 1);
        for index in 0..1000 {
            assert_eq!(cpu.put(pool, (A, index), pages[0]), NOT_CACHED);
            assert_eq!(cpu.get(pool, (A, index), pages[1]), MISS);
        }
        assert!(pages[..64 * 32].iter().all(|&page| dram.load_tag(page) == 9));
        assert_eq!(cpu.census(), [0, 0, 0, 64]);
    });
}

#[test]
fn p8_deactivation_voids_everything_and_activation_begins_afresh() {
    active(|cpu, _, pages, pool| {
        assert_eq!(cpu.put(pool, (A, 0), pages[0]), OK);
        cpu.reclaim(pages[0], 100);
        cpu.deactivate();
        cpu.deactivate();
        assert_eq!(cpu.census(), [0, 0, 0, 64]);
        assert_eq!(cpu.call(Function::State, &[]), (OK, [0, 64, 64]));
        assert_eq!(cpu.get(pool, (A, 0), pages[1]), NO_SUCH_POOL);
        assert_eq!(cpu.release(pages[0], 1).0, NOT_CLAIMED);
        cpu.reclaim(pages[40], 1);
        cpu.activate(0);
        cpu.activate(0);
        assert_eq!(cpu.call(Function::State, &[]), (OK, [2, 64, 64]));
        assert_eq!(cpu.census(), [1, 0, 63, 0]);
        let pool = cpu.create_pool(12);
        assert_eq!(cpu.get(pool, (A, 0), pages[1]), MISS);
        assert_eq!(cpu.put(pool, (A, 0), pages[0]), OK);
        assert_eq!(cpu.get(pool, (A, 0), pages[1]), OK);
    });
}

#[test]
fn p9_without_regions_every_call_is_answered() {
    let layout = Layout { base: 0x4000_0000, length: 64 * PAGE_SIZE, pieces: vec![] };
    on(layout, |cpu, _, pages| {
        assert_eq!(cpu.call(Function::Version, &[]).1[1] & 1, 0);
        assert_eq!(cpu.call(Function::PoolCreate, &[12]), (NO_REUSE, [0; 3]));
        assert_eq!(cpu.call(Function::Activate, &[0, 0]), (NO_REUSE, [0; 3]));
        assert_eq!(cpu.call(Function::Deactivate, &[0]), (OK, [0; 3]));
        assert_eq!(cpu.put(0, (A, 0), pages[0]), NO_SUCH_POOL);
        assert_eq!(cpu.reclaim(pages[0], 64), (OK, [64, 0, 0]));
        assert_eq!(cpu.release(pages[0], 64), (OK, [64, 0, 0]));
        assert_eq!(cpu.call(Function::Query, &[pages[0]]), (OK, [0; 3]));
        assert_eq!(cpu.call(Function::Region, &[0]).0, INVALID_PARAMETER);
        assert_eq!(cpu.call(Function::Census, &[0, 0, 1]).0, INVALID_PARAMETER);
    });
}

#[test]
#[cfg_attr(miri, ignore = "long; the same code runs in the others")]
fn p10_it_really_caches() {
    active(|cpu, dram, pages, pool| {
        // One at a time: never refused, and the next get hits, whatever is in tags but one
        // frame of the set. Here: none.
        for index in 0..5000 {
            fill(dram, pages[0], PAGE_SIZE, index);
            assert_eq!(cpu.put(pool, (A, index), pages[0]), OK);
            assert_eq!(cpu.get(pool, (A, index), pages[1]), OK);
            assert!(is_filled(dram, pages[1], PAGE_SIZE, index));
        }
        // Filled to overflowing, all frames are at work and the newest pages are there.
        for index in 0..1000 {
            fill(dram, pages[0], PAGE_SIZE, index);
            assert_eq!(cpu.put(pool, (B, index), pages[0]), OK);
        }
        assert_eq!(cpu.census(), [0, 64, 0, 0]);
        assert_eq!(cpu.statistic(2), 1000 - 64);
        let mut hits = 0;
        for index in 0..1000 {
            if cpu.get(pool, (B, index), pages[1]) == OK {
                assert!(is_filled(dram, pages[1], PAGE_SIZE, index));
                hits += 1;
                assert!(index > 800, "{index} outlived younger pages");
            }
        }
        assert_eq!(hits, 64);
    });
}

#[test]
#[cfg_attr(miri, ignore = "long; the same code runs in the others")]
fn p10_a_set_gives_up_ways_evenly_to_a_contiguous_run_of_tagged_memory() {
    on(Layout::one(256, PAGE_SIZE), |cpu, dram, pages| {
        cpu.activate(0);
        let pool = cpu.create_pool(12);
        // 7 of 8 ways of every set in tags: puts are still never refused.
        cpu.reclaim(pages[0], 224 * 32);
        for index in 0..500 {
            fill(dram, pages[0], PAGE_SIZE, index);
            assert_eq!(cpu.put(pool, (A, index), pages[0]), OK);
            assert_eq!(cpu.get(pool, (A, index), pages[1]), OK);
        }
    });
}

#[test]
#[cfg_attr(miri, ignore = "long; the same code runs in the others")]
fn verification_turns_a_forgotten_claim_into_a_counted_miss() {
    on(Layout::one(64, PAGE_SIZE), |cpu, dram, pages| {
        cpu.activate(1);
        assert_eq!(cpu.call(Function::State, &[]).1[0], 2 | 1 << 8);
        for (shift, pool) in [(12, cpu.create_pool(12)), (14, cpu.create_pool(14))] {
            let from = pages[0].next_multiple_of(1 << shift);
            let to = from + (1 << shift);
            fill(dram, from, 1 << shift, 3);
            assert_eq!(cpu.put(pool, (A, 0), from), OK);
            assert_eq!(cpu.get(pool, (A, 0), to), OK);
            assert!(is_filled(dram, to, 1 << shift, 3));
            assert_eq!(cpu.put(pool, (A, 0), from), OK);
            let before = cpu.statistic(5);
            // Tags of every page, unclaimed: the guest's mistake.
            pages[..64 * 32].iter().for_each(|&page| {
                (0..256).for_each(|g| dram.store_tag(page + 16 * g, 15));
            });
            assert_eq!(cpu.get(pool, (A, 0), to), MISS);
            assert_eq!(cpu.statistic(5), before + 1);
            assert_eq!(cpu.get(pool, (A, 0), to), MISS);
            assert_eq!(cpu.statistic(5), before + 1, "dropped after it was noticed");
        }
    });
}

#[test]
fn runs_report_each_page() {
    active(|cpu, dram, pages, pool| {
        for (n, &page) in (0..16).zip(pages) {
            fill(dram, page, PAGE_SIZE, n);
        }
        assert_eq!(cpu.put_run(pool, (A, 100), pages[0], 16), (OK, [16, 0xffff, 0]));
        cpu.flush_page(pool, (A, 103));
        cpu.call(Function::FlushPage, &[pool, A[0], A[1], A[2], 110, 0, 2]);
        let expected = 0xffff & !(1 << 3 | 1 << 10 | 1 << 11);
        assert_eq!(cpu.get_run(pool, (A, 100), pages[32], 16), (MISS, [16, expected, 0]));
        for n in (0..16).filter(|n| expected >> n & 1 == 1) {
            assert!(is_filled(dram, pages[32 + n], PAGE_SIZE, n as u64));
        }
        for count in [0, 65, u64::MAX] {
            assert_eq!(cpu.put_run(pool, (A, 0), pages[0], count), (INVALID_PARAMETER, [0; 3]));
        }
        cpu.reclaim(pages[0], 64 * 32);
        assert_eq!(cpu.put_run(pool, (A, 0), pages[0], 4), (NOT_CACHED, [4, 0, 0]));
        cpu.release(pages[0], 64 * 32);
        let last = (A, u64::MAX);
        assert_eq!(cpu.put(pool, last, pages[0]), OK);
        assert_eq!(cpu.get(pool, last, pages[0]), OK);
        assert_eq!(cpu.put_run(pool, last, pages[0], 2), (INVALID_PARAMETER, [0; 3]));
    });
}
