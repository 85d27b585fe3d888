// SPDX-License-Identifier: MIT OR Apache-2.0
//! The stash itself, through its hypercalls, on memory that keeps one word of each page. Each
//! page says which put it is of, and a get that returns another, or one that was flushed, ends the
//! run.

use crate::cache::Cache;
use crate::keys;
use crate::trace::{File, Page, Trace};
use std::cell::Cell;
use tagstash::addr::{PAGE_SIZE, PhysAddr, PhysRange};
use tagstash::hypercall::abi::{Function, Status};
use tagstash::hypercall::service::Service;
use tagstash::platform::{CacheMaintenance, Caller, CopyFault, PageMemory};
use tagstash::ram::GuestRam;
use tagstash::stash::metadata::MetadataBuffer;
use tagstash::stash::pool::PoolId;
use tagstash::tags::geometry::{PAGES_PER_FRAME, Region, Regions};

const TAGGED: u64 = 1 << 30;
const OK: i64 = Status::Success as i64;
const NOT_CACHED: i64 = Status::NotCached as i64;
const MISS: i64 = Status::Miss as i64;

/// One word for each frame, and one for the only page of guest RAM that is used.
struct Words {
    storage: PhysRange,
    frames: Vec<Cell<u64>>,
    guest: Cell<u64>,
}

impl Words {
    fn frame(&self, address: PhysAddr) -> &Cell<u64> {
        &self.frames[((address.0 - self.storage.start().0) / PAGE_SIZE) as usize]
    }
}

impl PageMemory for Words {
    fn copy_chunk_in(&self, _: PhysAddr, to: PhysAddr) -> Result<(), CopyFault> {
        self.frame(to).set(self.guest.get());
        Ok(())
    }

    fn copy_page_out(&self, from: PhysAddr, _: PhysAddr) -> Result<(), CopyFault> {
        self.guest.set(self.frame(from).get());
        Ok(())
    }

    fn crc32c(&self, seed: u32, _: PhysRange) -> Result<u32, CopyFault> {
        Ok(seed)
    }
}

impl CacheMaintenance for Words {
    fn barrier_inner(&self) {}
    fn barrier_system(&self) {}
    fn clean_invalidate_tags(&self, _: PhysRange) {}
    fn clean_invalidate_data(&self, _: PhysRange) {}
    fn relax(&self) {
        panic!("one CPU would wait for ever");
    }
}

/// The only CPU.
struct Cpu;

impl Caller for Cpu {
    fn cpu(&self) -> usize {
        0
    }

    fn interrupted(&self) -> bool {
        false
    }
}

/// The stash, with one pool.
pub struct Real<'a> {
    service: Service<'a, Words>,
    trace: &'a Trace,
    pool: u64,
    puts: u64,
    /// The put of each page that came last; 0 after a flush, which no put has for its number.
    last_put: Vec<u64>,
    /// Puts that were refused.
    pub refused: u64,
}

/// The regions of a stash of so many frames.
pub fn regions(frames: u32) -> Regions {
    let length = u64::from(frames) * PAGE_SIZE;
    let tagged = PhysRange::clamped(PhysAddr(TAGGED), length * 32);
    let storage = PhysRange::clamped(tagged.end(), length);
    let region = Region::new(tagged, storage, PAGE_SIZE).expect("a good region");
    Regions::new(vec![region], 1).expect("few frames")
}

impl<'a> Real<'a> {
    /// Makes it, active, for a trace.
    pub fn new(trace: &'a Trace, buffer: &'a MetadataBuffer) -> Real<'a> {
        let regions = regions(trace.frames);
        let region = regions.as_slice()[0].region;
        let memory = Words {
            storage: region.storage(),
            frames: vec![Cell::new(0); trace.frames as usize],
            guest: Cell::new(0),
        };
        let ram = GuestRam::new(&[region.tagged()], &[]);
        let service = Service::new(regions, buffer.metadata(), ram, 1, memory);
        let last_put = vec![0; trace.pages()];
        let mut real = Real { service, trace, pool: 0, puts: 0, last_put, refused: 0 };
        let mut cursor = 0;
        loop {
            let (status, [next, end, _]) =
                real.call(Function::Activate, [0, cursor, 0, 0, 0, 0, 0]);
            assert_eq!(status, OK);
            if next == end {
                break;
            }
            cursor = next;
        }
        let (status, [pool, ..]) = real.call(Function::PoolCreate, [12, 0, 0, 0, 0, 0, 0]);
        assert_eq!(status, OK);
        real.pool = pool;
        real
    }

    /// The pool's id.
    pub fn pool(&self) -> PoolId {
        PoolId(self.pool as u32)
    }

    #[inline(never)]
    fn call(&self, function: Function, [a, b, c, d, e, f, g]: [u64; 7]) -> (i64, [u64; 3]) {
        let arguments = [u64::from(function as u32), a, b, c, d, e, f, g];
        let [status, x, y, z] = self.service.call(&Cpu, &arguments).0;
        (status as i64, [x, y, z])
    }

    fn of_page(&self, function: Function, page: Page) -> i64 {
        let (file, index) = self.trace.place(page);
        let [a, b, c] = keys::words(file);
        self.call(function, [self.pool, a, b, c, index.into(), TAGGED, 1]).0
    }

    fn of_frames(&self, function: Function, first: u32, count: u32) {
        let per_frame = u64::from(PAGES_PER_FRAME);
        let address = TAGGED + u64::from(first) * per_frame * PAGE_SIZE;
        let pages = u64::from(count) * per_frame;
        let (status, [done, changed, _]) = self.call(function, [address, pages, 0, 0, 0, 0, 0]);
        assert_eq!((status, done, changed), (OK, pages, pages));
    }
}

impl Cache for Real<'_> {
    fn put(&mut self, page: Page) {
        self.puts += 1;
        self.last_put[page as usize] = self.puts;
        self.service.platform().guest.set(self.puts);
        match self.of_page(Function::Put, page) {
            OK => {}
            NOT_CACHED => self.refused += 1,
            status => panic!("a put returned {status}"),
        }
    }

    fn get(&mut self, page: Page) -> bool {
        match self.of_page(Function::Get, page) {
            OK => {
                let got = self.service.platform().guest.get();
                assert_eq!(got, self.last_put[page as usize], "the page of another put");
                true
            }
            MISS => false,
            status => panic!("a get returned {status}"),
        }
    }

    fn flush_page(&mut self, page: Page) {
        self.last_put[page as usize] = 0;
        assert_eq!(self.of_page(Function::FlushPage, page), OK);
    }

    fn flush_file(&mut self, file: File) {
        let pages = &self.trace.files[file as usize];
        self.last_put[pages.start as usize..pages.end as usize].fill(0);
        let [a, b, c] = keys::words(file);
        let (status, _) = self.call(Function::FlushObject, [self.pool, a, b, c, 0, 0, 0]);
        assert_eq!(status, OK);
    }

    fn claim(&mut self, first: u32, count: u32) {
        self.of_frames(Function::Reclaim, first, count);
    }

    fn release(&mut self, first: u32, count: u32) {
        self.of_frames(Function::Release, first, count);
    }

    fn held(&self) -> u32 {
        let (mut cached, mut first) = (0, 0);
        loop {
            let (status, [counted, pair, _]) =
                self.call(Function::Census, [0, first, u32::MAX.into(), 0, 0, 0, 0]);
            if status != OK {
                return cached;
            }
            cached += (pair >> 32) as u32;
            first += counted;
        }
    }
}
