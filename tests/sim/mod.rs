// SPDX-License-Identifier: MIT OR Apache-2.0
//! A simulated machine for host tests: DRAM whose tag storage really aliases.
//!
//! [`Dram`] is memory that several threads may use. Tags are stored where the binding says, by
//! arithmetic of its own, so that a wrong factor in the library shows.
//!
//! [`Cached`] puts the two views of tag storage behind caches of their own, which need not be
//! coherent: stores to frames stay in a data cache, tag stores in a tag cache, until they are
//! cleaned by address or evicted at a moment chosen by a seed. A missing or misplaced
//! maintenance operation, which no emulator shows, corrupts memory here. It also records the
//! operations in their order.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use tagstash::addr::{PAGE_SIZE, PhysAddr, PhysRange};
use tagstash::hypercall::abi::{Function, Status};
use tagstash::hypercall::service::Service;
use tagstash::platform::{CHUNK, CacheMaintenance, Caller, CopyFault, PageMemory, Platform};
use tagstash::ram::GuestRam;
use tagstash::stash::metadata::MetadataBuffer;
use tagstash::tags::geometry::{Region, Regions};

/// Physical addresses of a region, as the device tree would say them.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    pub tagged: u64,
    pub storage: u64,
    pub storage_length: u64,
    pub block_size: u64,
}

impl Piece {
    pub fn tagged_length(&self) -> u64 {
        self.storage_length * 32
    }

    pub fn region(&self) -> Region {
        Region::new(
            range(self.tagged, self.tagged_length()),
            range(self.storage, self.storage_length),
            self.block_size,
        )
        .expect("a test describes a good region")
    }
}

pub fn range(start: u64, length: u64) -> PhysRange {
    PhysRange::new(PhysAddr(start), length).expect("a test range does not wrap")
}

/// What memory a test has. RAM is one range; storage lies in it, and is no guest RAM.
#[derive(Clone, Debug)]
pub struct Layout {
    pub base: u64,
    pub length: u64,
    pub pieces: Vec<Piece>,
}

impl Layout {
    /// One region of `frames` frames with blocks of `block_size`: tagged memory first, then its
    /// storage, at a base that is aligned to a page and no more.
    pub fn one(frames: u64, block_size: u64) -> Layout {
        let base = 0x4000_3000;
        let storage_length = frames * PAGE_SIZE;
        let storage = base + storage_length * 32;
        let piece = Piece { tagged: base, storage, storage_length, block_size };
        Layout { base, length: storage_length * 33, pieces: vec![piece] }
    }

    /// Two regions, the storage of each behind the other's memory, with different block sizes,
    /// and a part of RAM that has no tag storage at the end.
    pub fn crossed(frames: u64) -> Layout {
        let base = 0x4000_3000;
        let length = frames * PAGE_SIZE;
        let data = length * 32;
        let low = Piece {
            tagged: base,
            storage: base + data + length + data,
            storage_length: length,
            block_size: PAGE_SIZE,
        };
        let high = Piece {
            tagged: base + data + length,
            storage: base + data,
            storage_length: length,
            block_size: 2 * PAGE_SIZE,
        };
        Layout { base, length: 2 * (data + length) + 16 * PAGE_SIZE, pieces: vec![low, high] }
    }

    pub fn ram(&self) -> GuestRam {
        let holes: Vec<_> =
            self.pieces.iter().map(|p| range(p.storage, p.storage_length)).collect();
        GuestRam::new(&[range(self.base, self.length)], &holes)
    }

    pub fn regions(&self, cpus: usize) -> Regions {
        Regions::new(self.pieces.iter().map(Piece::region).collect(), cpus)
            .expect("a test describes few frames")
    }

    /// First bytes of all guest pages.
    pub fn guest_pages(&self) -> Vec<u64> {
        let ram = self.ram();
        let pages = |r: &PhysRange| (r.start().0..r.end().0).step_by(PAGE_SIZE as usize);
        ram.ranges().iter().flat_map(pages).collect()
    }

    /// The byte that stores the tag of the granule at `address`, and whether it is the high
    /// half. On purpose not the library's arithmetic.
    pub fn tag_place(&self, address: u64) -> Option<(u64, bool)> {
        for piece in &self.pieces {
            if address >= piece.tagged && address < piece.tagged + piece.tagged_length() {
                let granule = (address - piece.tagged) >> 4;
                return Some((piece.storage + (granule >> 1), granule & 1 == 1));
            }
        }
        None
    }
}

const WORDS_PER_PAGE: usize = PAGE_SIZE as usize / 8;

/// The words of one page.
type Words = Box<[AtomicU64; WORDS_PER_PAGE]>;

/// Memory, by words, for any number of threads. A page that nobody touched takes no space.
pub struct Dram {
    pub layout: Layout,
    #[expect(clippy::vec_box, reason = "Miri looks at each cell of a slice that is borrowed")]
    pages: Vec<Box<OnceLock<Words>>>,
    /// Chunk copies left until the next is an external abort; a large number for never.
    pub abort_after: AtomicUsize,
}

impl Dram {
    pub fn new(layout: Layout) -> Dram {
        let pages = (0..layout.length.div_ceil(PAGE_SIZE)).map(|_| Box::default()).collect();
        Dram { layout, pages, abort_after: AtomicUsize::new(usize::MAX) }
    }

    fn word(&self, address: u64) -> &AtomicU64 {
        assert!(address.is_multiple_of(8), "{address:#x}");
        let offset = address.checked_sub(self.layout.base).expect("below RAM");
        assert!(offset < self.layout.length, "{address:#x} is beyond RAM");
        let page = self.pages[(offset / PAGE_SIZE) as usize]
            .get_or_init(|| Box::new([const { AtomicU64::new(0) }; WORDS_PER_PAGE]));
        &page[(offset % PAGE_SIZE / 8) as usize]
    }

    pub fn load(&self, address: u64) -> u64 {
        self.word(address).load(Ordering::Relaxed)
    }

    pub fn store(&self, address: u64, value: u64) {
        self.word(address).store(value, Ordering::Relaxed);
    }

    pub fn copy(&self, from: u64, to: u64, length: u64) {
        for offset in (0..length).step_by(8) {
            self.store(to + offset, self.load(from + offset));
        }
    }

    pub fn load_byte(&self, address: u64) -> u8 {
        (self.load(address & !7) >> (8 * (address & 7))) as u8
    }

    /// Changes the bits of `mask` in one byte, in one step.
    fn update_byte(&self, address: u64, mask: u8, value: u8) {
        let shift = 8 * (address & 7);
        let update =
            |word: u64| Some(word & !(u64::from(mask) << shift) | u64::from(value & mask) << shift);
        let word = self.word(address & !7);
        word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update).expect("never refused");
    }

    /// Stores the tag of one granule, as STG does.
    pub fn store_tag(&self, address: u64, tag: u8) {
        if let Some((byte, high)) = self.layout.tag_place(address) {
            let (mask, value) = if high { (0xf0, tag << 4) } else { (0x0f, tag) };
            self.update_byte(byte, mask, value);
        }
    }

    /// Loads the tag of one granule, as LDG does.
    pub fn load_tag(&self, address: u64) -> u8 {
        self.layout
            .tag_place(address)
            .map_or(0, |(byte, high)| self.load_byte(byte) >> if high { 4 } else { 0 } & 15)
    }

    fn abort(&self) -> Result<(), CopyFault> {
        match self.abort_after.load(Ordering::Relaxed) {
            usize::MAX => Ok(()),
            0 => Err(CopyFault),
            left => {
                self.abort_after.store(left - 1, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    pub fn crc(&self, seed: u32, range: PhysRange) -> u32 {
        let words = (range.start().0..range.end().0).step_by(8);
        !words.flat_map(|address| self.load(address).to_le_bytes()).fold(!seed, crc_step)
    }
}

/// CRC-32C of every byte.
const CRC: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < table.len() {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

fn crc_step(crc: u32, byte: u8) -> u32 {
    crc >> 8 ^ CRC[usize::from(crc as u8 ^ byte)]
}

impl PageMemory for Dram {
    fn copy_chunk_in(&self, from: PhysAddr, to: PhysAddr) -> Result<(), CopyFault> {
        self.abort()?;
        self.copy(from.0, to.0, CHUNK);
        Ok(())
    }

    fn copy_page_out(&self, from: PhysAddr, to: PhysAddr) -> Result<(), CopyFault> {
        self.abort()?;
        self.copy(from.0, to.0, PAGE_SIZE);
        Ok(())
    }

    fn crc32c(&self, seed: u32, range: PhysRange) -> Result<u32, CopyFault> {
        Ok(self.crc(seed, range))
    }
}

impl CacheMaintenance for Dram {
    fn barrier_inner(&self) {
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    fn barrier_system(&self) {
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    fn clean_invalidate_tags(&self, range: PhysRange) {
        for page in (range.start().0..range.end().0).step_by(PAGE_SIZE as usize) {
            assert!(self.layout.tag_place(page).is_some(), "{page:#x} has no tags");
        }
    }

    fn clean_invalidate_data(&self, range: PhysRange) {
        let storage =
            self.layout.pieces.iter().any(|p| {
                range.start().0 >= p.storage && range.end().0 <= p.storage + p.storage_length
            });
        assert!(storage, "{range} is no tag storage");
    }

    fn relax(&self) {
        std::thread::yield_now();
    }
}

/// One step of maintenance, as it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    BarrierInner,
    BarrierSystem,
    Tags(PhysRange),
    Data(PhysRange),
}

const LINE: u64 = 64;

/// A write-back cache of one view of memory: dirty bits by mask, so that a line written back
/// carries its own stores and nothing else.
type Lines = HashMap<u64, [(u8, u8); LINE as usize]>;

/// [`Dram`] behind two caches that know nothing of each other. For one thread.
pub struct Cached {
    pub dram: Dram,
    data: RefCell<Lines>,
    tags: RefCell<Lines>,
    /// The operations in their order, each with what `watch` said at its time.
    pub trace: RefCell<Vec<(Op, u64)>>,
    /// Looks at something, for the trace.
    pub watch: RefCell<Box<dyn Fn() -> u64>>,
    random: RefCell<u64>,
}

impl Cached {
    pub fn new(layout: Layout, seed: u64) -> Cached {
        Cached {
            dram: Dram::new(layout),
            data: RefCell::default(),
            tags: RefCell::default(),
            trace: RefCell::default(),
            watch: RefCell::new(Box::new(|| 0)),
            random: RefCell::new(seed | 1),
        }
    }

    pub fn random(&self) -> u64 {
        let mut state = self.random.borrow_mut();
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    fn write(lines: &RefCell<Lines>, address: u64, mask: u8, value: u8) {
        let mut lines = lines.borrow_mut();
        let line = lines.entry(address & !(LINE - 1)).or_insert([(0, 0); LINE as usize]);
        let (dirty, byte) = &mut line[(address % LINE) as usize];
        *dirty |= mask;
        *byte = *byte & !mask | value & mask;
    }

    fn read(&self, lines: &RefCell<Lines>, address: u64) -> u8 {
        let memory = self.dram.load_byte(address);
        lines.borrow().get(&(address & !(LINE - 1))).map_or(memory, |line| {
            let (dirty, byte) = line[(address % LINE) as usize];
            memory & !dirty | byte & dirty
        })
    }

    fn write_back(&self, lines: &RefCell<Lines>, line: u64) {
        let Some(bytes) = lines.borrow_mut().remove(&line) else {
            return;
        };
        for (address, (dirty, byte)) in (line..).zip(bytes) {
            if dirty != 0 {
                self.dram.update_byte(address, dirty, byte);
            }
        }
    }

    /// Writes some dirty lines of either view back, as a cache does when it likes.
    pub fn evict_some(&self) {
        for lines in [&self.data, &self.tags] {
            let mut dirty: Vec<u64> = lines.borrow().keys().copied().collect();
            dirty.sort_unstable();
            for line in dirty {
                if self.random().is_multiple_of(4) {
                    self.write_back(lines, line);
                }
            }
        }
    }

    pub fn load(&self, address: u64) -> u64 {
        u64::from_le_bytes(core::array::from_fn(|n| self.read(&self.data, address + n as u64)))
    }

    pub fn store(&self, address: u64, value: u64) {
        for (n, byte) in (0..).zip(value.to_le_bytes()) {
            Self::write(&self.data, address + n, 0xff, byte);
        }
    }

    pub fn store_tag(&self, address: u64, tag: u8) {
        if let Some((byte, high)) = self.dram.layout.tag_place(address) {
            let (mask, value) = if high { (0xf0, tag << 4) } else { (0x0f, tag) };
            Self::write(&self.tags, byte, mask, value);
        }
    }

    pub fn load_tag(&self, address: u64) -> u8 {
        self.dram
            .layout
            .tag_place(address)
            .map_or(0, |(byte, high)| self.read(&self.tags, byte) >> if high { 4 } else { 0 } & 15)
    }

    fn record(&self, op: Op) {
        let seen = self.watch.borrow()();
        self.trace.borrow_mut().push((op, seen));
    }

    fn copy(&self, from: PhysAddr, to: PhysAddr, length: u64) {
        for offset in (0..length).step_by(8) {
            self.store(to.0 + offset, self.load(from.0 + offset));
        }
    }
}

impl PageMemory for Cached {
    fn copy_chunk_in(&self, from: PhysAddr, to: PhysAddr) -> Result<(), CopyFault> {
        self.dram.abort()?;
        self.copy(from, to, CHUNK);
        Ok(())
    }

    fn copy_page_out(&self, from: PhysAddr, to: PhysAddr) -> Result<(), CopyFault> {
        self.dram.abort()?;
        self.copy(from, to, PAGE_SIZE);
        Ok(())
    }

    fn crc32c(&self, seed: u32, range: PhysRange) -> Result<u32, CopyFault> {
        let bytes = range.start().0..range.end().0;
        Ok(!bytes.map(|address| self.read(&self.data, address)).fold(!seed, crc_step))
    }
}

impl CacheMaintenance for Cached {
    fn barrier_inner(&self) {
        self.record(Op::BarrierInner);
    }

    fn barrier_system(&self) {
        self.record(Op::BarrierSystem);
    }

    fn clean_invalidate_tags(&self, range: PhysRange) {
        self.record(Op::Tags(range));
        for granule in (range.start().0..range.end().0).step_by(32) {
            if let Some((byte, _)) = self.dram.layout.tag_place(granule) {
                self.write_back(&self.tags, byte & !(LINE - 1));
            }
        }
    }

    fn clean_invalidate_data(&self, range: PhysRange) {
        self.record(Op::Data(range));
        for line in (range.start().0..range.end().0).step_by(LINE as usize) {
            self.write_back(&self.data, line);
        }
    }

    fn relax(&self) {
        panic!("one thread would wait for ever");
    }
}

/// A CPU that makes calls.
pub struct Cpu<'s, 'a, P> {
    pub service: &'s Service<'a, P>,
    pub number: usize,
    /// An interrupt is pending and unmasked.
    pub interrupted: AtomicBool,
}

impl<P> Caller for Cpu<'_, '_, P> {
    fn cpu(&self) -> usize {
        self.number
    }

    fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}

/// Status and `x1`-`x3`.
pub type Answer = (i64, [u64; 3]);

pub const OK: i64 = Status::Success as i64;

/// The 192 bits of an object, and the index.
pub type Page = ([u64; 3], u64);

impl<'s, 'a, P: Platform> Cpu<'s, 'a, P> {
    pub fn new(service: &'s Service<'a, P>, number: usize) -> Self {
        Cpu { service, number, interrupted: AtomicBool::new(false) }
    }

    pub fn call(&self, function: Function, arguments: &[u64]) -> Answer {
        let mut args = [0; 8];
        args[0] = function as u32 as u64;
        args[1..=arguments.len()].copy_from_slice(arguments);
        let reply = self.serve(&args);
        (reply[0] as i64, [reply[1], reply[2], reply[3]])
    }

    /// Makes a call by its registers, and serves it as the firmware does: quickly, where it is one
    /// that kernels often make.
    pub fn serve(&self, args: &[u64; 8]) -> [u64; 4] {
        serve(self.service, self, args)
    }

    fn run(&self, function: Function, pool: u64, page: Page, address: u64, pages: u64) -> Answer {
        let ([a, b, c], index) = page;
        self.call(function, &[pool, a, b, c, index, address, pages])
    }

    pub fn put(&self, pool: u64, page: Page, address: u64) -> i64 {
        self.run(Function::Put, pool, page, address, 1).0
    }

    pub fn put_run(&self, pool: u64, page: Page, address: u64, pages: u64) -> Answer {
        self.run(Function::Put, pool, page, address, pages)
    }

    pub fn get(&self, pool: u64, page: Page, address: u64) -> i64 {
        self.run(Function::Get, pool, page, address, 1).0
    }

    pub fn get_run(&self, pool: u64, page: Page, address: u64, pages: u64) -> Answer {
        self.run(Function::Get, pool, page, address, pages)
    }

    pub fn flush_page(&self, pool: u64, page: Page) -> i64 {
        self.run(Function::FlushPage, pool, page, 0, 1).0
    }

    pub fn flush_object(&self, pool: u64, [a, b, c]: [u64; 3]) -> i64 {
        self.call(Function::FlushObject, &[pool, a, b, c]).0
    }

    pub fn flush_pool(&self, pool: u64) -> i64 {
        self.call(Function::FlushPool, &[pool]).0
    }

    pub fn create_pool(&self, shift: u64) -> u64 {
        let (status, [id, ..]) = self.call(Function::PoolCreate, &[shift]);
        assert_eq!(status, OK);
        id
    }

    pub fn create_shared(&self, shift: u64, uuid: [u64; 2]) -> u64 {
        let (status, [id, ..]) =
            self.call(Function::PoolCreate, &[shift | 1 << 8, uuid[0], uuid[1]]);
        assert_eq!(status, OK);
        id
    }

    pub fn reclaim(&self, address: u64, pages: u64) -> Answer {
        self.call(Function::Reclaim, &[address, pages])
    }

    pub fn release(&self, address: u64, pages: u64) -> Answer {
        self.call(Function::Release, &[address, pages])
    }

    pub fn activate(&self, flags: u64) {
        let mut cursor = 0;
        loop {
            let (status, [next, end, _]) = self.call(Function::Activate, &[flags, cursor]);
            assert_eq!(status, OK);
            assert!(next == end || next > cursor);
            if next == end {
                return;
            }
            cursor = next;
        }
    }

    pub fn deactivate(&self) {
        let mut cursor = 0;
        loop {
            let (status, [next, end, _]) = self.call(Function::Deactivate, &[cursor]);
            assert_eq!(status, OK);
            assert!(next == end || next > cursor);
            if next == end {
                return;
            }
            cursor = next;
        }
    }

    pub fn statistic(&self, number: u64) -> u64 {
        let (status, [value, ..]) = self.call(Function::Statistic, &[number]);
        assert_eq!(status, OK);
        value
    }

    /// In tags, cached, free, dormant, of all regions.
    pub fn census(&self) -> [u64; 4] {
        let mut sum = [0; 4];
        for region in 0.. {
            let mut first = 0;
            loop {
                let (status, [counted, a, b]) =
                    self.call(Function::Census, &[region, first, u64::MAX]);
                if status != OK {
                    break;
                }
                first += counted;
                let parts = [a & 0xffff_ffff, a >> 32, b & 0xffff_ffff, b >> 32];
                assert_eq!(parts.iter().sum::<u64>(), counted);
                sum.iter_mut().zip(parts).for_each(|(sum, part)| *sum += part);
            }
            if first == 0 {
                return sum;
            }
        }
        sum
    }
}

/// Runs `test` on a service over `platform` with `cpus` CPUs.
pub fn with_service<P: Platform, R>(
    layout: &Layout,
    cpus: usize,
    platform: P,
    test: impl FnOnce(&Service<'_, P>) -> R,
) -> R {
    let regions = layout.regions(cpus);
    let buffer = MetadataBuffer::new(&regions);
    test(&Service::new(regions, buffer.metadata(), layout.ram(), cpus, platform))
}

/// Fills the page at `address` with words that say `seed`, each its own place in the page.
pub fn fill(dram: &Dram, address: u64, length: u64, seed: u64) {
    for offset in (0..length).step_by(8) {
        dram.store(address + offset, content(seed, offset));
    }
}

/// The word at `offset` of a page filled with `seed`.
pub fn content(seed: u64, offset: u64) -> u64 {
    (seed << 20 | offset).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed
}

/// Says whether a page is as [`fill`] leaves it.
pub fn is_filled(dram: &Dram, address: u64, length: u64, seed: u64) -> bool {
    (0..length).step_by(8).all(|o| dram.load(address + o) == content(seed, o))
}

/// Serves a call as the firmware does (`src/el2/calls.rs`): by the ways for calls that have next to
/// nothing to do, then by those for one page, then by the one for any.
pub fn serve<P: Platform>(
    service: &Service<'_, P>,
    caller: &impl Caller,
    args: &[u64; 8],
) -> [u64; 4] {
    let quick = Function::decode(args[0] as u32).and_then(|function| {
        service
            .serve_nothing(function, caller, args)
            .or_else(|| service.serve_page(function, service.platform(), caller, args))
    });
    quick.unwrap_or_else(|| service.call(caller, args)).0
}
