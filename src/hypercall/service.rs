// SPDX-License-Identifier: MIT OR Apache-2.0
//! The dispatch: decode, validate, call, encode. One method a function of the ABI.

use super::abi::{Function, Reply, Status, UID, VERSION_MAJOR, VERSION_MINOR};
use crate::addr::{PAGE_SIZE, PhysAddr, PhysRange};
use crate::events::{Events, Found, Kind};
use crate::platform::{Caller, Platform};
use crate::ram::GuestRam;
use crate::stash::key::{MAX_PARTS, Object};
use crate::stash::metadata::Metadata;
use crate::stash::pool::{POOLS, PageSize, Pool, PoolError, PoolId};
use crate::stash::stats::{CpuStats, Statistic, Stats};
use crate::stash::{Get, Page, Put, Stash};
use crate::sync::{AtomicU32, Ordering};
use crate::tags::geometry::Regions;
use crate::tags::ledger::{Ledger, Progress, TaggedPage};

/// Most pages in a run of PUT or GET: their results are bits of one register.
const MAX_RUN: u64 = 64;
/// Parts of 4 KiB that FLUSH_PAGE deals with between two looks at pending interrupts.
const FLUSH_STEP: u64 = 16;
/// Most parts that one FLUSH_PAGE deals with, whether interrupts are masked or not.
const MAX_FLUSH: u64 = 1024;
/// Most frames in one CENSUS.
const MAX_CENSUS: u64 = 4096;
/// Most blocks that one ACTIVATE or DEACTIVATE deals with.
const MAX_BLOCKS: u64 = 256;

const _: () = assert!(FLUSH_STEP >= MAX_PARTS as u64);

/// VERSION: there is tag storage to lend.
const FEATURE_REUSE: u64 = 1 << 0;
/// VERSION: ACTIVATE takes [`ACTIVATE_VERIFY`].
const FEATURE_VERIFY: u64 = 1 << 1;
/// VERSION: the guest has no MTE, so that no page needs tag storage (since 1.1).
const FEATURE_TAGS_HIDDEN: u64 = 1 << 2;
/// ACTIVATE: keep and check CRCs.
const ACTIVATE_VERIFY: u64 = 1 << 0;
/// POOL_CREATE: the pool is found by its UUID.
const POOL_SHARED: u64 = 1 << 8;
/// STATE: verification is on.
const STATE_VERIFICATION: u64 = 1 << 8;

/// EVENTS: the answer has the time instead of the argument.
const EVENT_TIME: u64 = 1;

/// What the last ACTIVATE or DEACTIVATE said; the value is STATE's. It decides nothing: what
/// may be done with a frame is said by its own word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum Mode {
    Dormant = 0,
    Activating = 1,
    Active = 2,
    Deactivating = 3,
}

/// What the machine's owner decided, instead of the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Every activation verifies.
    pub verify: bool,
    /// MTE is hidden from the guest: no page has tags, and claims have nothing to do.
    pub tags_hidden: bool,
}

/// Everything that serves hypercalls.
#[derive(Debug)]
pub struct Service<'a, P> {
    stash: Stash<'a>,
    ledger: Ledger<'a>,
    ram: GuestRam,
    stats: Stats,
    mode: AtomicU32,
    /// As VERSION returns them.
    features: u64,
    /// Every activation verifies.
    verify: bool,
    events: Events,
    platform: P,
}

/// An argument was refused; the status says how.
type Fault = Status;

/// The arguments that PUT, GET and FLUSH_PAGE have in common, validated.
struct PageRun {
    pool: Pool,
    object: Object,
    index: u64,
    pages: u64,
}

impl PageRun {
    /// Where page `n` of a run at `address` is. Such a run has been checked not to wrap.
    fn page(&self, address: PhysAddr, n: u64) -> PhysAddr {
        PhysAddr(address.0.wrapping_add(n.wrapping_mul(self.pool.page_size.bytes())))
    }
}

impl<'a, P: Platform> Service<'a, P> {
    /// Makes the service, dormant.
    ///
    /// `metadata` is zeroed memory laid out for `regions`; `ram` is what the guest may name;
    /// `cpus` is the number of CPUs that may call at once, for which `regions` was made.
    pub fn new(
        regions: Regions,
        metadata: Metadata<'a>,
        ram: GuestRam,
        cpus: usize,
        platform: P,
    ) -> Service<'a, P> {
        let reuse = if regions.frames() > 0 { FEATURE_REUSE } else { 0 };
        Service {
            stash: Stash::new(regions.clone(), metadata),
            ledger: Ledger::new(regions, metadata),
            ram,
            stats: Stats::new(cpus),
            mode: AtomicU32::new(Mode::Dormant as u32),
            features: reuse | FEATURE_VERIFY,
            verify: false,
            events: Events::new(cpus),
            platform,
        }
    }

    /// The same service under a policy.
    pub fn with_policy(self, policy: Policy) -> Service<'a, P> {
        let hidden = if policy.tags_hidden { FEATURE_TAGS_HIDDEN } else { 0 };
        Service { features: self.features | hidden, verify: policy.verify, ..self }
    }

    /// Says whether no page of the guest has tags.
    #[inline(always)]
    fn tags_hidden(&self) -> bool {
        self.features & FEATURE_TAGS_HIDDEN != 0
    }

    /// The machine under it, for tests.
    pub fn platform(&self) -> &P {
        &self.platform
    }

    /// What is guest RAM.
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// Notes an event of the CPU that calls.
    #[inline(always)]
    pub fn note(&self, caller: &impl Caller, kind: Kind, argument: u64) {
        self.events.note(caller.cpu(), caller.now(), kind, argument);
    }

    /// Serves one call: `args` are `x0`-`x7`. A number that is not in the ABI is
    /// [`Status::NotSupported`].
    #[inline(always)]
    pub fn call(&self, caller: &impl Caller, args: &[u64; 8]) -> Reply {
        match Function::decode(args[0] as u32) {
            Some(function) => self.serve(function, &self.platform, caller, args),
            None => Reply::of(Status::NotSupported),
        }
    }

    /// Serves one call of a function that is decoded already.
    ///
    /// Inlined whole into its caller, which chooses the instructions that the atomics compile
    /// to, and who names one function gets the code of that function alone. `platform` is the
    /// same machine as the service's own, by other instructions perhaps.
    #[inline(always)]
    pub fn serve(
        &self,
        function: Function,
        platform: &impl Platform,
        caller: &impl Caller,
        args: &[u64; 8],
    ) -> Reply {
        let stats = self.stats.of(caller.cpu());
        let result = match function {
            Function::Version => Ok(self.version()),
            Function::Put => self.put(args, platform, caller, stats),
            Function::Get => self.get(args, platform, caller, stats),
            Function::Reclaim => self.reclaim(args, platform, caller, stats),
            Function::Release => self.release(args, platform, caller, stats),
            Function::FlushPage => self.flush_page(args, caller, stats),
            Function::FlushObject => self.flush_object(args, stats),
            Function::FlushPool => self.flush_pool(args, stats),
            _ => self.rare(function, args, platform, caller, stats),
        };
        result.unwrap_or_else(Reply::of)
    }

    /// Serves a call as kernels mostly make it: right, for one page, of a pool of 4 KiB pages.
    /// `None`, and nothing is changed, if it is not that simple, and for other functions:
    /// [`serve`](Self::serve) does any.
    ///
    /// Inlined as that is.
    #[inline(always)]
    pub fn serve_page(
        &self,
        function: Function,
        platform: &impl Platform,
        caller: &impl Caller,
        args: &[u64; 8],
    ) -> Option<Reply> {
        const GOOD: Reply = Reply::with([1, 1, 0]);
        let stats = self.stats.of(caller.cpu());
        if function == Function::Reclaim {
            return self.reclaim_page(args, platform, stats);
        }
        let (pool, object, index) = self.usual_page(args)?;
        let page = Page::new(&pool, object, index);
        if function == Function::FlushPage {
            self.stash.flush_page(&page, 1, stats);
            return Some(Reply::with([1, 0, 0]));
        }
        let address = self.page_address(args)?;
        let odd = match function {
            Function::Put => match self.stash.put_page(&page, 1, address, platform, stats) {
                Put::Kept => return Some(GOOD),
                Put::Refused => return Some(Reply::new(Status::NotCached, [1, 0, 0])),
                Put::Fault => (Kind::CopyFault, Status::CopyFault),
            },
            Function::Get => match self.stash.get_page(&page, 1, address, platform, stats) {
                Get::Hit => return Some(GOOD),
                Get::Miss => return Some(Reply::new(Status::Miss, [1, 0, 0])),
                Get::Mismatch => (Kind::Mismatch, Status::Miss),
                Get::Fault => (Kind::CopyFault, Status::CopyFault),
            },
            _ => return None,
        };
        self.note(caller, odd.0, address.0);
        Some(Reply::new(odd.1, [1, 0, 0]))
    }

    /// Serves such a call if it has next to nothing to do: a get of a page that is not there, a
    /// reclaim of a page that is claimed. `None`, and nothing is changed, if there may be
    /// more to do, and for other functions.
    ///
    /// Inlined as [`serve`](Self::serve) is, into a function that needs few registers.
    #[inline(always)]
    pub fn serve_nothing(
        &self,
        function: Function,
        caller: &impl Caller,
        args: &[u64; 8],
    ) -> Option<Reply> {
        let stats = || self.stats.of(caller.cpu());
        match function {
            Function::Get => {
                let (pool, object, index) = self.usual_page(args)?;
                self.page_address(args)?;
                let page = Page::new(&pool, object, index);
                let misses = self.stash.misses(&page, stats());
                misses.then_some(Reply::new(Status::Miss, [1, 0, 0]))
            }
            Function::Reclaim => {
                let page = self.claimable_page(args)?;
                // A page that is claimed is guest RAM, and tags are not hidden.
                if !self.ledger.is_claimed(&page) {
                    return None;
                }
                stats().add(Statistic::ClaimsHeld, 1);
                Some(Reply::with([1, 0, 0]))
            }
            _ => None,
        }
    }

    /// The page that a call names, if it is one, of a pool of 4 KiB pages.
    #[inline(always)]
    fn usual_page(&self, args: &[u64; 8]) -> Option<(Pool, Object, u64)> {
        let [_, pool, o0, o1, o2, index, _, 1] = *args else { return None };
        let pool = self.stash.usual_pool(pool)?;
        Some((pool, Object { pool: pool.id, words: [o0, o1, o2] }, index))
    }

    /// The address of one 4 KiB page that PUT or GET names, if it is guest RAM.
    #[inline(always)]
    fn page_address(&self, args: &[u64; 8]) -> Option<PhysAddr> {
        let address = PhysAddr(args[6]);
        self.ram.has_page(address).then_some(address)
    }

    /// The page that RECLAIM names, if it is one and has tag storage.
    #[inline(always)]
    fn claimable_page(&self, args: &[u64; 8]) -> Option<TaggedPage<'_>> {
        let (address, 1) = (PhysAddr(args[1]), args[2]) else { return None };
        self.ledger.page(address).filter(|_| address.is_aligned(PAGE_SIZE))
    }

    /// RECLAIM of one page that has tag storage.
    #[inline(always)]
    fn reclaim_page(
        &self,
        args: &[u64; 8],
        platform: &impl Platform,
        stats: &CpuStats,
    ) -> Option<Reply> {
        let page = self.claimable_page(args)?;
        if self.tags_hidden() || !self.ram.has_page(PhysAddr(args[1])) {
            return None;
        }
        let changed = self.ledger.claim_page(&page, platform, stats);
        Some(Reply::with([1, changed, 0]))
    }

    /// The calls whose speed does not matter. Inlined all the same: see [`serve`](Self::serve).
    #[inline(always)]
    fn rare(
        &self,
        function: Function,
        args: &[u64; 8],
        platform: &impl Platform,
        caller: &impl Caller,
        stats: &CpuStats,
    ) -> Result<Reply, Fault> {
        match function {
            Function::Uid => Ok(Reply(UID.map(u64::from))),
            Function::Revision => {
                Ok(Reply([u64::from(VERSION_MAJOR), u64::from(VERSION_MINOR), 0, 0]))
            }
            Function::Region => self.region(args),
            Function::Statistic => self.statistic(args),
            Function::Census => self.census(args),
            Function::State => Ok(self.state()),
            Function::Events => self.event(args),
            Function::PoolCreate => self.pool_create(args, caller),
            Function::PoolDestroy => self.pool_destroy(args, caller),
            Function::Query => self.query(args),
            Function::Activate => self.activate(args, platform, caller),
            Function::Deactivate => self.deactivate(args, platform, caller, stats),
            _ => Err(Status::NotSupported),
        }
    }

    /// Says whether there is tag storage to lend.
    fn has_storage(&self) -> bool {
        self.ledger.regions().frames() > 0
    }

    /// VERSION, the null call.
    #[inline(always)]
    pub fn version(&self) -> Reply {
        let regions = self.ledger.regions();
        Reply::with([
            u64::from(VERSION_MAJOR) << 16 | u64::from(VERSION_MINOR),
            self.features,
            MAX_RUN
                | (POOLS as u64) << 16
                | (self.stats.cpus() as u64 & 0xff) << 32
                | (regions.as_slice().len() as u64) << 40,
        ])
    }

    fn region(&self, args: &[u64; 8]) -> Result<Reply, Fault> {
        let placed = usize::try_from(args[1])
            .ok()
            .and_then(|number| self.ledger.regions().as_slice().get(number))
            .ok_or(Status::InvalidParameter)?;
        let region = &placed.region;
        Ok(Reply::with([u64::from(region.frames()), region.block_size(), region.pages()]))
    }

    fn statistic(&self, args: &[u64; 8]) -> Result<Reply, Fault> {
        let statistic = usize::try_from(args[1])
            .ok()
            .and_then(|number| Statistic::ALL.get(number))
            .ok_or(Status::InvalidParameter)?;
        Ok(Reply::with([self.stats.total(*statistic), 0, 0]))
    }

    fn census(&self, args: &[u64; 8]) -> Result<Reply, Fault> {
        let region = usize::try_from(args[1]).map_err(|_| Status::InvalidParameter)?;
        let first = u32::try_from(args[2]).map_err(|_| Status::InvalidParameter)?;
        let count = match args[3] {
            0 => return Err(Status::InvalidParameter),
            count => count.min(MAX_CENSUS) as u32,
        };
        let (counted, census) =
            self.ledger.census(region, first, count).ok_or(Status::InvalidParameter)?;
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        Ok(Reply::with([
            u64::from(counted),
            pair(census.in_tags, census.cached),
            pair(census.free, census.dormant),
        ]))
    }

    fn state(&self) -> Reply {
        let verification = if self.stash.verification() { STATE_VERIFICATION } else { 0 };
        let regions = self.ledger.regions();
        Reply::with([
            u64::from(self.mode.load(Ordering::Relaxed)) | verification,
            u64::from(regions.blocks()),
            u64::from(regions.frames()),
        ])
    }

    fn event(&self, args: &[u64; 8]) -> Result<Reply, Fault> {
        let with_time = match args[2] {
            0 => false,
            EVENT_TIME => true,
            _ => return Err(Status::InvalidParameter),
        };
        Ok(Reply::with(match self.events.first_from(args[1]) {
            Found::Later(number) => [number, 0, 0],
            Found::Event(event) => [
                event.number,
                u64::from(event.kind) | u64::from(event.cpu) << 8,
                if with_time { event.time } else { event.argument },
            ],
        }))
    }

    #[inline(always)]
    fn pool_create(&self, args: &[u64; 8], caller: &impl Caller) -> Result<Reply, Fault> {
        let flags = args[1] & !0xff;
        if flags & !POOL_SHARED != 0 {
            return Err(Status::InvalidParameter);
        }
        let page_size = PageSize::from_shift(args[1] & 0xff).ok_or(Status::InvalidParameter)?;
        if !self.has_storage() {
            return Err(Status::NoReuse);
        }
        let uuid = (flags & POOL_SHARED != 0).then_some([args[2], args[3]]);
        match self.stash.create_pool(page_size, uuid) {
            Ok(id) => {
                self.note(caller, Kind::PoolCreated, id.0.into());
                Ok(Reply::with([u64::from(id.0), 0, 0]))
            }
            Err(PoolError::Busy) => Err(Status::Busy),
            Err(PoolError::Mismatch) => Err(Status::PoolMismatch),
            Err(PoolError::Full) => Err(Status::NoFreePool),
        }
    }

    #[inline(always)]
    fn pool_destroy(&self, args: &[u64; 8], caller: &impl Caller) -> Result<Reply, Fault> {
        let pool = self.pool(args)?;
        if self.stash.destroy_pool(pool.id) {
            self.note(caller, Kind::PoolDestroyed, pool.id.0.into());
            Ok(Reply::of(Status::Success))
        } else {
            Err(Status::NoSuchPool)
        }
    }

    #[inline(always)]
    fn pool(&self, args: &[u64; 8]) -> Result<Pool, Fault> {
        let id = u32::try_from(args[1]).map_err(|_| Status::NoSuchPool)?;
        self.stash.pool(PoolId(id)).ok_or(Status::NoSuchPool)
    }

    /// Validates pool, object, index and count; the count is at most `most`.
    #[inline(always)]
    fn page_run(&self, args: &[u64; 8], most: u64) -> Result<PageRun, Fault> {
        let pool = self.pool(args)?;
        let [_, _, o0, o1, o2, index, _, pages] = *args;
        if pages == 0 || pages > most || index.checked_add(pages - 1).is_none() {
            return Err(Status::InvalidParameter);
        }
        let object = Object { pool: pool.id, words: [o0, o1, o2] };
        Ok(PageRun { pool, object, index, pages })
    }

    /// Validates the address of a run of PUT or GET.
    #[inline(always)]
    fn run_address(&self, args: &[u64; 8], run: &PageRun) -> Result<PhysAddr, Fault> {
        let address = PhysAddr(args[6]);
        let size = run.pool.page_size.bytes();
        if !address.is_aligned(size) || self.ram.check(address, run.pages * size).is_none() {
            return Err(Status::InvalidAddress);
        }
        Ok(address)
    }

    #[inline(always)]
    fn put(
        &self,
        args: &[u64; 8],
        platform: &impl Platform,
        caller: &impl Caller,
        stats: &CpuStats,
    ) -> Result<Reply, Fault> {
        let run = self.page_run(args, MAX_RUN)?;
        let address = self.run_address(args, &run)?;
        let mut tally = Tally::default();
        self.stash.put(
            &run.pool,
            run.object,
            run.index,
            address,
            platform,
            stats,
            steps(run.pages, 1, caller),
            |n, put| {
                let status = match put {
                    Put::Kept => Status::Success,
                    Put::Refused => Status::NotCached,
                    Put::Fault => tally.odd(n, Kind::CopyFault, Status::CopyFault),
                };
                tally.add(n, status);
            },
        );
        self.note_odd(caller, &run, address, &tally);
        Ok(tally.reply())
    }

    #[inline(always)]
    fn get(
        &self,
        args: &[u64; 8],
        platform: &impl Platform,
        caller: &impl Caller,
        stats: &CpuStats,
    ) -> Result<Reply, Fault> {
        let run = self.page_run(args, MAX_RUN)?;
        let address = self.run_address(args, &run)?;
        let mut tally = Tally::default();
        self.stash.get(
            &run.pool,
            run.object,
            run.index,
            address,
            platform,
            stats,
            steps(run.pages, 1, caller),
            |n, get| {
                let status = match get {
                    Get::Hit => Status::Success,
                    Get::Miss => Status::Miss,
                    Get::Mismatch => tally.odd(n, Kind::Mismatch, Status::Miss),
                    Get::Fault => tally.odd(n, Kind::CopyFault, Status::CopyFault),
                };
                tally.add(n, status);
            },
        );
        self.note_odd(caller, &run, address, &tally);
        Ok(tally.reply())
    }

    /// Notes what was out of the ordinary in a run.
    #[inline(always)]
    fn note_odd(&self, caller: &impl Caller, run: &PageRun, address: PhysAddr, tally: &Tally) {
        if let Some((n, kind)) = tally.odd {
            self.note(caller, kind, run.page(address, n.into()).0);
        }
    }

    #[inline(always)]
    fn flush_page(
        &self,
        args: &[u64; 8],
        caller: &impl Caller,
        stats: &CpuStats,
    ) -> Result<Reply, Fault> {
        let run = self.page_run(args, u64::from(u32::MAX))?;
        let parts = u64::from(run.pool.page_size.parts());
        let mut pages = 0;
        self.stash.flush_pages(
            &run.pool,
            run.object,
            run.index,
            stats,
            steps(run.pages.min(MAX_FLUSH / parts), FLUSH_STEP / parts, caller),
            |n| pages = n + 1,
        );
        Ok(Reply::with([pages, 0, 0]))
    }

    #[inline(always)]
    fn flush_object(&self, args: &[u64; 8], stats: &CpuStats) -> Result<Reply, Fault> {
        let pool = self.pool(args)?;
        let object = Object { pool: pool.id, words: [args[2], args[3], args[4]] };
        self.stash.flush_object(&object, stats);
        Ok(Reply::of(Status::Success))
    }

    #[inline(always)]
    fn flush_pool(&self, args: &[u64; 8], stats: &CpuStats) -> Result<Reply, Fault> {
        let pool = self.pool(args)?;
        self.stash.flush_pool(pool.id, stats);
        Ok(Reply::of(Status::Success))
    }

    /// Validates the run of RECLAIM or RELEASE: its first and last page are guest RAM.
    #[inline(always)]
    fn tag_range(&self, args: &[u64; 8]) -> Result<PhysRange, Fault> {
        let (address, pages) = (PhysAddr(args[1]), args[2]);
        if pages == 0 {
            return Err(Status::InvalidParameter);
        }
        if !self.ram.has_page(address) {
            return Err(Status::InvalidAddress);
        }
        let range = pages
            .checked_mul(PAGE_SIZE)
            .and_then(|bytes| PhysRange::new(address, bytes))
            .ok_or(Status::InvalidAddress)?;
        if pages > 1 && !self.ram.has_page(PhysAddr(range.end().0 - PAGE_SIZE)) {
            return Err(Status::InvalidAddress);
        }
        Ok(range)
    }

    #[inline(always)]
    fn reclaim(
        &self,
        args: &[u64; 8],
        platform: &impl Platform,
        caller: &impl Caller,
        stats: &CpuStats,
    ) -> Result<Reply, Fault> {
        let range = self.tag_range(args)?;
        if self.tags_hidden() {
            return Ok(Reply::with([args[2], 0, 0]));
        }
        let Progress { pages, changed, .. } =
            self.ledger.claim(range, &self.ram, platform, caller, stats);
        Ok(Reply::with([pages, changed, 0]))
    }

    #[inline(always)]
    fn release(
        &self,
        args: &[u64; 8],
        platform: &impl Platform,
        caller: &impl Caller,
        stats: &CpuStats,
    ) -> Result<Reply, Fault> {
        let range = self.tag_range(args)?;
        if self.tags_hidden() {
            return Ok(Reply::with([args[2], 0, 0]));
        }
        let Progress { pages, changed, unchanged } =
            self.ledger.release(range, &self.ram, platform, caller, stats);
        let status = if unchanged == 0 { Status::Success } else { Status::NotClaimed };
        Ok(Reply::new(status, [pages, changed, 0]))
    }

    fn query(&self, args: &[u64; 8]) -> Result<Reply, Fault> {
        let address = PhysAddr(args[1]);
        if !self.ram.has_page(address) {
            return Err(Status::InvalidAddress);
        }
        Ok(match self.ledger.query(address).filter(|_| !self.tags_hidden()) {
            None => Reply::of(Status::Success),
            Some(page) => {
                let flags = 1 | u64::from(page.claimed) << 1 | u64::from(page.active) << 2;
                Reply::with([flags, page.claims, 0])
            }
        })
    }

    /// The cursor of a run over all blocks, and their number.
    fn cursor(&self, cursor: u64) -> Result<(u32, u32), Fault> {
        let end = self.ledger.regions().blocks();
        match u32::try_from(cursor) {
            Ok(cursor) if cursor <= end => Ok((cursor, end)),
            _ => Err(Status::InvalidParameter),
        }
    }

    #[inline(always)]
    fn activate(
        &self,
        args: &[u64; 8],
        platform: &impl Platform,
        caller: &impl Caller,
    ) -> Result<Reply, Fault> {
        if args[1] & !ACTIVATE_VERIFY != 0 {
            return Err(Status::InvalidParameter);
        }
        let (cursor, end) = self.cursor(args[2])?;
        if !self.has_storage() {
            return Err(Status::NoReuse);
        }
        self.stash.set_verification(self.verify || args[1] & ACTIVATE_VERIFY != 0);
        self.set_mode(Mode::Activating);
        let mut next = cursor;
        for step in steps(u64::from(end - cursor).min(MAX_BLOCKS), 1, caller) {
            self.ledger.activate_block(cursor + step as u32, &self.ram, platform);
            next = cursor + step as u32 + 1;
        }
        if next == end {
            self.set_mode(Mode::Active);
            self.note(caller, Kind::Activated, args[1]);
        }
        Ok(Reply::with([u64::from(next), u64::from(end), 0]))
    }

    #[inline(always)]
    fn deactivate(
        &self,
        args: &[u64; 8],
        platform: &impl Platform,
        caller: &impl Caller,
        stats: &CpuStats,
    ) -> Result<Reply, Fault> {
        let (cursor, end) = self.cursor(args[1])?;
        self.stash.destroy_pools();
        self.stash.set_verification(false);
        self.set_mode(Mode::Deactivating);
        let mut next = cursor;
        for step in steps(u64::from(end - cursor).min(MAX_BLOCKS), 1, caller) {
            self.ledger.deactivate_block(cursor + step as u32, platform, stats);
            next = cursor + step as u32 + 1;
        }
        if next == end {
            self.set_mode(Mode::Dormant);
            self.note(caller, Kind::Deactivated, 0);
        }
        Ok(Reply::with([u64::from(next), u64::from(end), 0]))
    }

    fn set_mode(&self, mode: Mode) {
        self.mode.store(mode as u32, Ordering::Relaxed);
    }
}

/// The numbers below `count`, as far as a run gets: ends where an interrupt is pending after
/// a multiple of `step`, but not before the first step.
#[inline(always)]
fn steps(count: u64, step: u64, caller: &impl Caller) -> impl Iterator<Item = u64> {
    (0..count).take_while(move |&n| n == 0 || n % step != 0 || !caller.interrupted())
}

/// The results of a run of PUT or GET.
#[derive(Default)]
struct Tally {
    pages: u64,
    bits: u64,
    first_failure: Option<Status>,
    /// The last page of which an event is to be noted, and the event.
    odd: Option<(u8, Kind)>,
}

impl Tally {
    #[inline(always)]
    fn add(&mut self, n: u64, status: Status) {
        self.pages = n + 1;
        if status == Status::Success {
            self.bits |= 1 << n;
        } else {
            self.first_failure = self.first_failure.or(Some(status));
        }
    }

    /// Remembers that page `n` is worth an event. Noted after the run, so that the code for it is
    /// not in the run's loop.
    #[inline(always)]
    fn odd(&mut self, n: u64, kind: Kind, status: Status) -> Status {
        self.odd = Some((n as u8, kind));
        status
    }

    #[inline(always)]
    fn reply(&self) -> Reply {
        Reply::new(self.first_failure.unwrap_or(Status::Success), [self.pages, self.bits, 0])
    }
}
