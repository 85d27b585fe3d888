// SPDX-License-Identifier: MIT OR Apache-2.0
//! The stash, called as a library and by hypercall numbers.

use super::Cache;
use crate::key::Key;
use crate::memory::{RAM, STORAGE, guest_address};
use tagstash::addr::{PAGE_SIZE, PhysAddr, PhysRange};
use tagstash::hypercall::abi::{Function, Reply, Status};
use tagstash::hypercall::service::Service;
use tagstash::platform::{Caller, Platform};
use tagstash::ram::GuestRam;
use tagstash::stash::metadata::{Metadata, MetadataBuffer};
use tagstash::stash::pool::{PageSize, Pool};
use tagstash::stash::stats::Stats;
use tagstash::stash::{Get, Put, Stash};
use tagstash::tags::geometry::{PAGES_PER_FRAME, Region, Regions};
use tagstash::tags::ledger::Ledger;

/// CPUs that the stash is made for.
pub const CPUS: usize = 8;

/// `frames` frames in `regions` regions of equal size, one behind the other in tagged memory and
/// in storage.
pub fn regions(frames: u32, regions: u32) -> Regions {
    let storage = u64::from(frames / regions) * PAGE_SIZE;
    let tagged = storage * u64::from(PAGES_PER_FRAME);
    let region = |n: u32| {
        let range = |base, length| PhysRange::new(PhysAddr(base + u64::from(n) * length), length);
        let ranges = range(RAM, tagged).zip(range(STORAGE, storage));
        let (tagged, storage) = ranges.expect("addresses do not wrap");
        Region::new(tagged, storage, PAGE_SIZE).expect("a good region")
    };
    Regions::new((0..regions).map(region).collect(), CPUS).expect("few enough frames")
}

/// Guest RAM: the tagged memory of `frames` frames.
pub fn ram(frames: u32) -> GuestRam {
    let length = u64::from(frames) * u64::from(PAGES_PER_FRAME) * PAGE_SIZE;
    GuestRam::new(&[PhysRange::new(PhysAddr(RAM), length).expect("it does not wrap")], &[])
}

/// Metadata for the life of the process.
pub fn metadata(regions: &Regions) -> Metadata<'static> {
    Box::leak(Box::new(MetadataBuffer::new(regions))).metadata()
}

/// The stash, by its own functions.
pub struct Direct<M> {
    stash: Stash<'static>,
    pool: Pool,
    stats: Stats,
    memory: M,
}

impl<M: Platform> Direct<M> {
    /// Makes an active stash of so many frames.
    pub fn new(frames: u32, memory: M) -> Direct<M> {
        let regions = regions(frames, 1);
        let metadata = metadata(&regions);
        let ledger = Ledger::new(regions.clone(), metadata);
        let ram = ram(frames);
        (0..regions.blocks()).for_each(|block| ledger.activate_block(block, &ram, &memory));
        let stash = Stash::new(regions, metadata);
        let size = PageSize::from_shift(12).expect("4 KiB is a page size");
        let id = stash.create_pool(size, None).expect("there is room for a pool");
        let pool = stash.pool(id).expect("it was just made");
        Direct { stash, pool, stats: Stats::new(CPUS), memory }
    }
}

impl<M: Platform + Sync> Cache for Direct<M> {
    fn name(&self) -> &'static str {
        "stash"
    }

    #[inline(always)]
    fn put(&self, cpu: u32, key: &Key, page: u32) {
        let (stats, from) = (self.stats.of(cpu as usize), guest_address(page));
        let done = |_, put| debug_assert_ne!(put, Put::Fault);
        let (object, run) = (key.object(), 0..1);
        self.stash.put(&self.pool, object, key.index, from, &self.memory, stats, run, done);
    }

    #[inline(always)]
    fn get(&self, cpu: u32, key: &Key, page: u32) -> bool {
        let (stats, to) = (self.stats.of(cpu as usize), guest_address(page));
        let mut hit = false;
        let done = |_, get| hit = get == Get::Hit;
        let (object, run) = (key.object(), 0..1);
        self.stash.get(&self.pool, object, key.index, to, &self.memory, stats, run, done);
        hit
    }

    #[inline(always)]
    fn flush(&self, cpu: u32, key: &Key) {
        let stats = self.stats.of(cpu as usize);
        self.stash.flush_pages(&self.pool, key.object(), key.index, stats, 0..1, |_| ());
    }

    fn pool(&self) -> u32 {
        self.pool.id.0
    }
}

/// The stash, by hypercall.
pub struct Called<M> {
    pub service: Service<'static, M>,
    pool: u32,
}

/// A CPU that makes calls and has no interrupt pending.
pub struct Cpu(pub u32);

impl Caller for Cpu {
    #[inline(always)]
    fn cpu(&self) -> usize {
        self.0 as usize
    }

    #[inline(always)]
    fn interrupted(&self) -> bool {
        false
    }
}

/// The arguments of a call.
#[inline(always)]
pub fn arguments<const N: usize>(function: Function, rest: [u64; N]) -> [u64; 8] {
    let mut args = [0; 8];
    args[0] = function as u32 as u64;
    args[1..=N].copy_from_slice(&rest);
    args
}

/// Makes a call, out of line, as the firmware's handler of exceptions does.
#[inline(never)]
pub fn call<M: Platform>(service: &Service<'_, M>, cpu: u32, args: &[u64; 8]) -> Reply {
    service.call(&Cpu(cpu), args)
}

/// Makes a call that succeeds; returns `x1`.
pub fn succeed<M: Platform>(service: &Service<'_, M>, args: &[u64; 8]) -> u64 {
    let Reply([status, value, ..]) = call(service, 0, args);
    assert_eq!(status, Status::Success as u64, "{args:x?}");
    value
}

/// Activates all blocks.
pub fn activate<M: Platform>(service: &Service<'_, M>) {
    let end = service.call(&Cpu(0), &arguments(Function::State, [])).0[2];
    let mut cursor = 0;
    while cursor < end {
        cursor = succeed(service, &arguments(Function::Activate, [0, cursor]));
    }
}

impl<M: Platform> Called<M> {
    /// Makes an active stash of so many frames.
    pub fn new(frames: u32, memory: M) -> Called<M> {
        let regions = regions(frames, 1);
        let metadata = metadata(&regions);
        let service = Service::new(regions, metadata, ram(frames), CPUS, memory);
        activate(&service);
        let pool = succeed(&service, &arguments(Function::PoolCreate, [12])) as u32;
        Called { service, pool }
    }

    #[inline(always)]
    fn page_call(&self, function: Function, cpu: u32, key: &Key, page: u32) -> u64 {
        let [a, b, c] = key.object;
        let rest = [key.pool.into(), a, b, c, key.index, guest_address(page).0, 1];
        call(&self.service, cpu, &arguments(function, rest)).0[0]
    }
}

impl<M: Platform + Sync> Cache for Called<M> {
    fn name(&self) -> &'static str {
        "stash, by call"
    }

    #[inline(always)]
    fn put(&self, cpu: u32, key: &Key, page: u32) {
        self.page_call(Function::Put, cpu, key, page);
    }

    #[inline(always)]
    fn get(&self, cpu: u32, key: &Key, page: u32) -> bool {
        self.page_call(Function::Get, cpu, key, page) == Status::Success as u64
    }

    #[inline(always)]
    fn flush(&self, cpu: u32, key: &Key) {
        self.page_call(Function::FlushPage, cpu, key, 0);
    }

    fn pool(&self) -> u32 {
        self.pool
    }
}
