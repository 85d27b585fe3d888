// SPDX-License-Identifier: MIT OR Apache-2.0
//! Several CPUs at once, on simulated memory whose tag storage really aliases. Every page says
//! in each word whose it is, so that a torn, a stale or a foreign page shows at the first get.

mod sim;

use sim::*;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tagstash::addr::PAGE_SIZE;
use tagstash::hypercall::abi::{Function, Status};
use tagstash::hypercall::service::Service;

const CPUS: usize = 4;
const KEYS: u64 = 48;
const NOT_CACHED: i64 = Status::NotCached as i64;
const MISS: i64 = Status::Miss as i64;
const NO_SUCH_POOL: i64 = Status::NoSuchPool as i64;

/// A generator of its own for each CPU, seeded, so that a run can be repeated as far as the
/// threads' timing allows.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % limit
    }
}

/// What all CPUs know of the keys. A key is put and flushed by one CPU and got by all.
struct Known {
    /// The least sequence number that a get of this key which begins now may return: that of
    /// the newest put that returned, or one more after a flush that returned.
    least: Vec<AtomicU64>,
}

/// What a CPU saw.
#[derive(Default)]
struct Seen {
    gets: u64,
    hits: u64,
    /// (key, sequence) of every hit.
    taken: Vec<(u64, u64)>,
}

fn object(key: u64) -> [u64; 3] {
    [key % 4, 0, key]
}

/// The seed that a page of this key and sequence is filled with.
fn seed(key: u64, sequence: u64) -> u64 {
    key << 32 | sequence
}

/// The sequence number that a page claims to have, if it is a whole page of this key.
fn sequence_of(dram: &Dram, page: u64, length: u64, key: u64) -> Option<u64> {
    // The first word gives the seed away: content() at offset 0 is invertible by search over
    // what can be; every other word must agree.
    let first = dram.load(page);
    let candidates = 0..if cfg!(miri) { 64 } else { 1 << 16 };
    candidates
        .into_iter()
        .find(|&s| content(seed(key, s), 0) == first)
        .filter(|&s| is_filled(dram, page, length, seed(key, s)))
}

/// One CPU's share: puts and flushes its own keys, gets anybody's, claims and tags its own
/// pages and checks them.
fn worker(
    cpu: &Cpu<'_, '_, Dram>,
    pool: u64,
    size: u64,
    pages: &[u64],
    known: &Known,
    rounds: u64,
    exclusive: bool,
) -> Seen {
    let dram = cpu.service.platform();
    let me = cpu.number as u64;
    let mut random = Random(me * 77 + 5);
    let mut seen = Seen::default();
    // The last pages of RAM are buffers, far from each other's.
    let top = pages[pages.len() - 1] + PAGE_SIZE;
    let buffer = top / size * size - (me + 1) * size;
    // Every CPU has pages of its own in the same blocks as the others'.
    let own: Vec<u64> = pages[..12 * 32].iter().copied().skip(cpu.number).step_by(CPUS).collect();
    let mut tagged: Vec<(u64, u8)> = vec![];
    let mut next = vec![1u64; KEYS as usize];
    for round in 0..rounds {
        let key = random.below(KEYS);
        let page = (object(key), key);
        match random.below(16) {
            0..6 => {
                let key = key / CPUS as u64 * CPUS as u64 + me;
                let page = (object(key), key);
                let sequence = next[key as usize];
                next[key as usize] += 1;
                fill(dram, buffer, size, seed(key, sequence));
                let status = cpu.put(pool, page, buffer);
                assert!(status == OK || status == NOT_CACHED, "{status}");
                // Refused or not, no earlier copy remains.
                known.least[key as usize].store(sequence, Ordering::SeqCst);
            }
            6..12 => {
                let least = known.least[key as usize].load(Ordering::SeqCst);
                seen.gets += 1;
                match cpu.get(pool, page, buffer) {
                    OK => {
                        let sequence = sequence_of(dram, buffer, size, key)
                            .unwrap_or_else(|| panic!("CPU {me}: no whole page of key {key}"));
                        assert!(sequence >= least, "key {key}: {sequence} after {least}");
                        seen.hits += 1;
                        seen.taken.push((key, sequence));
                    }
                    status => assert_eq!(status, MISS),
                }
            }
            12 if round % 8 == 0 => {
                let key = key / CPUS as u64 * CPUS as u64 + me;
                let sequence = next[key as usize];
                match random.below(2) {
                    0 => assert_eq!(cpu.flush_page(pool, (object(key), key)), OK),
                    _ => assert_eq!(cpu.flush_object(pool, object(key)), OK),
                }
                known.least[key as usize].store(sequence, Ordering::SeqCst);
            }
            12..14 if tagged.len() < 8 => {
                let page = own[random.below(own.len() as u64) as usize];
                assert_eq!(cpu.reclaim(page, 1).0, OK);
                let tag = random.below(16) as u8;
                (0..256).for_each(|g| dram.store_tag(page + 16 * g, tag));
                tagged.retain(|&(p, _)| p != page);
                tagged.push((page, tag));
            }
            14 => {
                if let Some((page, tag)) = tagged.first().copied() {
                    check_tags(dram, page, tag);
                    tagged.remove(0);
                    assert_eq!(cpu.release(page, 1).0, OK);
                }
            }
            _ => tagged.iter().for_each(|&(page, tag)| check_tags(dram, page, tag)),
        }
    }
    for (page, tag) in tagged {
        check_tags(dram, page, tag);
        assert_eq!(cpu.release(page, 1), (OK, [1, 1, 0]));
    }
    if !exclusive {
        seen.taken.clear();
    }
    seen
}

fn check_tags(dram: &Dram, page: u64, tag: u8) {
    for granule in 0..256 {
        assert_eq!(dram.load_tag(page + 16 * granule), tag, "tag of {page:#x} + {granule}");
    }
}

fn stress(layout: Layout, shift: u64, shared: bool, rounds: u64, least_share: u64) {
    // Miri looks at a few calls of each CPU, with values as old as its memory model allows.
    let (rounds, least_share) = if cfg!(miri) { (12, 0) } else { (rounds, least_share) };
    let pages = layout.guest_pages();
    with_service(&layout.clone(), CPUS, Dram::new(layout), |service: &Service<'_, Dram>| {
        let boot = Cpu::new(service, 0);
        boot.activate(0);
        let pool = if shared { boot.create_shared(shift, [1, 2]) } else { boot.create_pool(shift) };
        let known = Known { least: (0..KEYS).map(|_| AtomicU64::new(0)).collect() };
        let seen: Vec<Seen> = std::thread::scope(|scope| {
            let spawn = |number| {
                let (known, pages) = (&known, &pages);
                scope.spawn(move || {
                    let cpu = Cpu::new(service, number);
                    worker(&cpu, pool, 1 << shift, pages, known, rounds, !shared)
                })
            };
            let threads: Vec<_> = (0..CPUS).map(spawn).collect();
            threads.into_iter().map(|thread| thread.join().expect("a CPU failed")).collect()
        });
        let (gets, hits) =
            seen.iter().fold((0, 0), |(gets, hits), s| (gets + s.gets, hits + s.hits));
        assert!(hits * 100 >= gets * least_share, "{hits} hits of {gets} gets prove nothing");
        let mut taken = HashSet::new();
        for pair in seen.iter().flat_map(|s| &s.taken) {
            assert!(taken.insert(*pair), "{pair:?} was got twice of a private pool");
        }
        let census = boot.census();
        assert_eq!((census[0], census[3]), (0, 0), "the ledger balances: {census:?}");
        assert_eq!(boot.statistic(9), boot.statistic(11));
    });
}

#[test]
fn p1_p2_p3_p6_four_cpus_one_region() {
    stress(Layout::one(48, PAGE_SIZE), 12, false, 60_000, 20);
}

#[test]
fn p1_p2_p3_p6_four_cpus_blocks_of_several_frames() {
    stress(Layout::one(48, 4 * PAGE_SIZE), 12, false, 50_000, 10);
}

#[test]
fn p1_p2_p3_p6_four_cpus_shared_pool() {
    stress(Layout::one(48, PAGE_SIZE), 12, true, 50_000, 30);
}

#[test]
fn p1_p2_p3_p6_four_cpus_pages_of_four_parts() {
    stress(Layout::one(192, PAGE_SIZE), 14, false, 20_000, 10);
}

/// Deactivation and activation while other CPUs put, get and claim: nothing of an earlier
/// time comes back, and at the end all storage is with tags.
#[test]
#[cfg_attr(miri, ignore = "waits for many hits")]
fn p6_p8_deactivation_and_activation_under_way() {
    let layout = Layout::one(48, PAGE_SIZE);
    let pages = layout.guest_pages();
    with_service(&layout.clone(), CPUS, Dram::new(layout), |service: &Service<'_, Dram>| {
        let (dram, stop) = (service.platform(), AtomicBool::new(false));
        let (pool, hits) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for number in 1..CPUS {
                let (pages, stop, pool, hits) = (&pages, &stop, &pool, &hits);
                scope.spawn(move || {
                    let cpu = Cpu::new(service, number);
                    let buffer = pages[pages.len() - number];
                    let mut random = Random(number as u64);
                    let mut sequence = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let pool = pool.load(Ordering::SeqCst);
                        let key = random.below(64) * CPUS as u64 + number as u64;
                        sequence += 1;
                        fill(dram, buffer, PAGE_SIZE, seed(key, sequence & 0xffff));
                        let status = cpu.put(pool, (object(key), key), buffer);
                        assert!([OK, NOT_CACHED, NO_SUCH_POOL].contains(&status), "{status}");
                        let status = cpu.get(pool, (object(key), key), buffer);
                        if status == OK {
                            let got = sequence_of(dram, buffer, PAGE_SIZE, key);
                            assert_eq!(got, Some(sequence & 0xffff));
                            hits.fetch_add(1, Ordering::Relaxed);
                        }
                        let page = pages[random.below(40 * 32) as usize];
                        assert_eq!(cpu.reclaim(page, 1).0, OK);
                        cpu.release(page, 1);
                    }
                });
            }
            let cpu = Cpu::new(service, 0);
            for _ in 0..60 {
                cpu.activate(0);
                pool.store(cpu.create_pool(12), Ordering::SeqCst);
                // Until the others have had some use of it, by their own count.
                let before = hits.load(Ordering::Relaxed);
                while hits.load(Ordering::Relaxed) < before + 20 {
                    std::thread::yield_now();
                }
                cpu.deactivate();
            }
            stop.store(true, Ordering::Relaxed);
        });
        let cpu = Cpu::new(service, 0);
        cpu.deactivate();
        assert_eq!(cpu.census(), [0, 0, 0, 48]);
        assert_eq!(cpu.call(Function::State, &[]).1[0], 0);
        // At least what the rounds waited for.
        assert!(hits.load(Ordering::Relaxed) >= 60 * 20);
    });
}
