// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cache maintenance: its order, traced, and its effect, on a simulated machine whose data view
//! and tag view of the storage are cached apart and written back whenever a seed likes.

mod sim;

use sim::*;
use std::collections::HashMap;
use tagstash::addr::PAGE_SIZE;
use tagstash::hypercall::abi::Status;
use tagstash::hypercall::service::Service;
use tagstash::stash::metadata::{Metadata, MetadataBuffer};
use tagstash::sync::Ordering;

const MISS: i64 = Status::Miss as i64;
const NOT_CACHED: i64 = Status::NotCached as i64;

/// A service whose metadata outlives it, so that the trace can look at it.
fn traced(
    layout: &Layout,
    seed: u64,
    test: impl FnOnce(&Cpu<'_, '_, Cached>, &Cached, Metadata<'static>),
) {
    let regions = layout.regions(1);
    let buffer: &'static MetadataBuffer = Box::leak(Box::new(MetadataBuffer::new(&regions)));
    let metadata = buffer.metadata();
    let cached = Cached::new(layout.clone(), seed);
    let service = Service::new(regions, metadata, layout.ram(), 1, cached);
    let cpu = Cpu::new(&service, 0);
    test(&cpu, service.platform(), metadata);
}

fn ops(cached: &Cached) -> Vec<(Op, u64)> {
    cached.trace.take()
}

/// P1: while the maintenance of a claim runs, the block is counted and the bit is not set; of
/// a release, the bit is clear and the block still counted.
#[test]
fn p1_maintenance_lies_between_the_count_and_the_bit() {
    let layout = Layout::one(16, PAGE_SIZE);
    let pages = layout.guest_pages();
    let piece = layout.pieces[0];
    let (tags, data) =
        (|n: usize| Op::Tags(range(pages[n], PAGE_SIZE)), range(piece.storage, 4096));
    traced(&layout, 1, |cpu, cached, metadata| {
        cpu.activate(0);
        ops(cached);
        // Claims on frame 0 in the low half, its claimed bits in the high half.
        *cached.watch.borrow_mut() = Box::new(move || {
            let word = metadata.load(0, Ordering::Relaxed);
            word.claims() | u64::from(metadata.claimed(0).load(Ordering::Relaxed)) << 32
        });
        let bits = |bits: u64| bits << 32;

        cpu.reclaim(pages[3], 1);
        let seen = 1 | bits(0);
        assert_eq!(
            ops(cached),
            [
                (Op::BarrierInner, seen),
                (tags(3), seen),
                (Op::BarrierInner, seen),
                (Op::Data(data), seen),
                (Op::BarrierSystem, seen),
            ]
        );
        // The block is in tags: a further page needs nothing, and neither does the same page.
        cpu.reclaim(pages[5], 1);
        cpu.reclaim(pages[3], 1);
        assert_eq!(ops(cached), []);
        cpu.release(pages[3], 1);
        let seen = 2 | bits(1 << 5);
        assert_eq!(
            ops(cached),
            [(Op::BarrierInner, seen), (tags(3), seen), (Op::BarrierSystem, seen)]
        );
        cpu.release(pages[3], 1);
        assert_eq!(ops(cached), [], "a page that is not claimed is not maintained");
        cpu.release(pages[5], 1);
        let seen = 1 | bits(0);
        assert_eq!(
            ops(cached),
            [(Op::BarrierInner, seen), (tags(5), seen), (Op::BarrierSystem, seen)]
        );
    });
}

#[test]
fn p1_a_run_is_counted_whole_before_its_maintenance_and_maintained_block_by_block() {
    let layout = Layout::one(16, 2 * PAGE_SIZE);
    let pages = layout.guest_pages();
    let piece = layout.pieces[0];
    traced(&layout, 1, |cpu, cached, metadata| {
        cpu.activate(0);
        ops(cached);
        *cached.watch.borrow_mut() = Box::new(move || {
            let claims = |f| metadata.load(f, Ordering::Relaxed).claims();
            claims(0) | claims(1) << 16 | claims(2) << 32 | claims(3) << 48
        });
        // The last 10 pages of block 0 and the first 20 of block 1: two frames each.
        cpu.reclaim(pages[54], 30);
        let seen = 10 | 10 << 16 | 20 << 32 | 20 << 48;
        let block = |n: u64| Op::Data(range(piece.storage + n * 8192, 8192));
        assert_eq!(
            ops(cached),
            [
                (Op::BarrierInner, seen),
                (Op::Tags(range(pages[54], 10 * PAGE_SIZE)), seen),
                (Op::Tags(range(pages[64], 20 * PAGE_SIZE)), seen),
                (Op::BarrierInner, seen),
                (block(0), seen),
                (block(1), seen),
                (Op::BarrierSystem, seen),
            ]
        );
    });
}

#[test]
fn activation_cleans_all_tags_of_a_block_before_it_is_lent() {
    let layout = Layout::one(2, PAGE_SIZE);
    let piece = layout.pieces[0];
    traced(&layout, 1, |cpu, cached, metadata| {
        *cached.watch.borrow_mut() = Box::new(move || {
            let active = |f| metadata.load(f, Ordering::Relaxed).is_active();
            u64::from(active(0)) | u64::from(active(1)) << 1
        });
        cpu.activate(0);
        let step = |block: u64, seen: u64| {
            [
                (Op::BarrierInner, seen),
                (Op::Tags(range(piece.tagged + block * 0x2_0000, 0x2_0000)), seen),
                (Op::BarrierSystem, seen),
                (Op::Data(range(piece.storage + block * 4096, 4096)), seen),
                (Op::BarrierSystem, seen),
            ]
        };
        assert_eq!(ops(cached), [step(0, 0), step(1, 1)].concat());
        cpu.activate(0);
        assert_eq!(ops(cached), [], "nothing is done twice");
        cpu.deactivate();
        let step = |block: u64, seen: u64| {
            [
                (Op::BarrierInner, seen),
                (Op::Data(range(piece.storage + block * 4096, 4096)), seen),
                (Op::BarrierSystem, seen),
            ]
        };
        assert_eq!(ops(cached), [step(0, 2), step(1, 0)].concat());
    });
}

/// What the guest of the random walk knows.
#[derive(Default)]
struct Guest {
    /// Tags of the pages that it uses tags of, by page number.
    tagged: HashMap<usize, u8>,
    /// The newest put of each key and what was put; absent after a flush or a hit.
    cached: HashMap<(u64, Page), u64>,
    active: bool,
}

/// P1, P2, P3, P6, P8: a long random walk, everything checked after each step, with caches
/// that write back when they like.
#[test]
fn p1_tags_and_cached_pages_survive_caches_that_are_not_coherent() {
    let layouts = [
        Layout::one(16, PAGE_SIZE),
        Layout::one(12, 4 * PAGE_SIZE),
        Layout::one(18, 3 * PAGE_SIZE),
        Layout::crossed(8),
    ];
    for (number, layout) in (0u64..).zip(&layouts) {
        for seed in 1..=6 {
            walk(layout, seed * 1000 + number);
        }
    }
}

fn walk(layout: &Layout, seed: u64) {
    let pages = layout.guest_pages();
    let with_tags: Vec<usize> =
        (0..pages.len()).filter(|&n| layout.tag_place(pages[n]).is_some()).collect();
    // The last page of all is used for copies, and never tagged.
    let buffer = pages[pages.len() - 1];
    let mut hits = 0;
    let mut gets = 0;
    traced(layout, seed, |cpu, cached, _| {
        let mut guest = Guest::default();
        let mut pools = vec![];
        let tag = |page: usize, tag: u8| {
            // Some granules at both ends and in the middle.
            [0, 16, 2032, 2048, 4080].map(|o| (pages[page] + o, tag ^ (o >> 4) as u8 & 15))
        };
        for step in 0..1500u64 {
            let r = cached.random() as usize;
            // Tags are used in a window that moves on, so that most frames can be lent.
            let window = with_tags.len() / 4;
            let page = with_tags[step as usize / 500 * window + r / 64 % window];
            let key = (
                pools.get(r / 8192 % 2).copied().unwrap_or(0),
                ([r as u64 >> 20 & 1, 0, 0], r as u64 >> 24 & 3),
            );
            match r % 64 {
                0..22 if guest.active => {
                    for offset in (0..PAGE_SIZE).step_by(8) {
                        cached.store(buffer + offset, content(step, offset));
                    }
                    guest.cached.remove(&key);
                    match cpu.put(key.0, key.1, buffer) {
                        OK => drop(guest.cached.insert(key, step)),
                        status => assert_eq!(status, NOT_CACHED),
                    }
                }
                22..44 if guest.active => {
                    gets += 1;
                    match cpu.get(key.0, key.1, buffer) {
                        OK => {
                            let put = guest.cached.remove(&key);
                            let put = put.unwrap_or_else(|| panic!("seed {seed}: {key:?} is back"));
                            for offset in (0..PAGE_SIZE).step_by(8) {
                                let word = cached.load(buffer + offset);
                                assert_eq!(word, content(put, offset), "seed {seed} step {step}");
                            }
                            hits += 1;
                        }
                        status => {
                            assert_eq!(status, MISS);
                            guest.cached.remove(&key);
                        }
                    }
                }
                44..49 => {
                    // Begin to use tags, or change them. Dormant, no claim is needed.
                    if guest.active || r >> 40 & 1 == 0 {
                        assert_eq!(cpu.reclaim(pages[page], 1).0, OK);
                    }
                    guest.tagged.insert(page, step as u8 & 15);
                    (0..256).for_each(|g| cached.store_tag(pages[page] + 16 * g, 0));
                    for (address, value) in tag(page, step as u8 & 15) {
                        cached.store_tag(address, value);
                    }
                }
                49..54 => {
                    let Some(page) = guest.tagged.keys().copied().min() else {
                        continue;
                    };
                    guest.tagged.remove(&page);
                    cpu.release(pages[page], 1);
                }
                54 if guest.active => {
                    cpu.flush_object(key.0, key.1.0);
                    guest.cached.retain(|k, _| (k.0, k.1.0) != (key.0, key.1.0));
                }
                55 if guest.active => {
                    cpu.flush_pool(key.0);
                    guest.cached.retain(|k, _| k.0 != key.0);
                }
                56..58 if guest.active => {
                    cpu.flush_page(key.0, key.1);
                    guest.cached.remove(&key);
                }
                58 if step % 3 == 0 => {
                    if guest.active {
                        cpu.deactivate();
                        guest.cached.clear();
                    } else {
                        // As section 6 of the ABI says: claim what is tagged, then activate.
                        for &page in guest.tagged.keys() {
                            cpu.reclaim(pages[page], 1);
                        }
                        cpu.activate(seed & 1);
                        pools = vec![cpu.create_pool(12), cpu.create_pool(12)];
                    }
                    guest.active = !guest.active;
                }
                _ => cached.evict_some(),
            }
            for (&page, &value) in &guest.tagged {
                for (address, value) in tag(page, value) {
                    assert_eq!(cached.load_tag(address), value, "seed {seed} step {step}");
                }
            }
        }
        assert_eq!(cpu.statistic(5), 0, "seed {seed}: mismatches");
    });
    // A stash that never hits proves nothing.
    assert!(hits * 6 >= gets, "seed {seed}: {hits} hits of {gets} gets");
}
