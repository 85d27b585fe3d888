// SPDX-License-Identifier: MIT OR Apache-2.0
//! What most tests begin and end with: a state of the shim, pools and claims that are given back
//! when the test is over.

use crate::abi::{self, Key};
use crate::arena::Pages;
use crate::machine::machine;
use crate::pages;
use crate::ranges::PAGE;
use crate::tap::{Outcome, Stop, check, fail, same};

/// STATE: nothing is lent.
pub const DORMANT: u64 = 0;
/// STATE: some blocks are lent, others not yet.
pub const ACTIVATING: u64 = 1;
/// STATE: all blocks without claims are lent.
pub const ACTIVE: u64 = 2;
/// STATE: some blocks are back, others not yet.
pub const DEACTIVATING: u64 = 3;
/// STATE: checksums are kept.
pub const VERIFYING: u64 = 1 << 8;

/// What frames hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Claimed for tags.
    pub tags: u64,
    /// Lent, with a page.
    pub cached: u64,
    /// Lent, without a page.
    pub free: u64,
    /// Neither claimed nor lent.
    pub dormant: u64,
}

impl Census {
    /// All frames counted.
    pub fn sum(&self) -> u64 {
        self.tags + self.cached + self.free + self.dormant
    }

    fn add(&mut self, answer: abi::Answer) {
        self.tags += answer.x2 & 0xffff_ffff;
        self.cached += answer.x2 >> 32;
        self.free += answer.x3 & 0xffff_ffff;
        self.dormant += answer.x3 >> 32;
    }
}

/// Counts some frames of one region.
pub fn census_of(region: u64, first: u64, frames: u64) -> Result<Census, Stop> {
    let mut total = Census::default();
    let mut at = first;
    while at < first + frames {
        let answer = abi::census(region, at, first + frames - at);
        same!(answer.status, 0, "CENSUS of region {region} from frame {at}");
        let wanted = (first + frames - at).min(4096);
        same!(answer.x1, wanted, "CENSUS of region {region} from frame {at}: frames counted");
        let sum = total.sum();
        total.add(answer);
        same!(total.sum() - sum, wanted, "CENSUS of region {region} from frame {at}: sum");
        at += wanted;
    }
    Ok(total)
}

/// Counts all frames; the sums must be right.
pub fn census() -> Result<Census, Stop> {
    let mut total = Census::default();
    for number in 0..abi::regions() {
        let region = abi::region(number);
        check!(region.ok(), "REGION {number}: status {}", region.status);
        let own = census_of(number, 0, region.x1)?;
        total.tags += own.tags;
        total.cached += own.cached;
        total.free += own.free;
        total.dormant += own.dormant;
    }
    same!(total.sum(), machine().frames(), "frames in all of CENSUS");
    Ok(total)
}

/// ACTIVATE until done.
pub fn activate(flags: u64) -> Outcome {
    let mut cursor = 0;
    loop {
        let answer = abi::activate(flags, cursor);
        same!(answer.status, 0, "ACTIVATE from {cursor}");
        same!(answer.x3, 0, "ACTIVATE from {cursor}: x3");
        if answer.x1 == answer.x2 {
            break;
        }
        check!(
            answer.x1 > cursor && answer.x1 < answer.x2,
            "ACTIVATE from {cursor} gets to {}, end {}",
            answer.x1,
            answer.x2
        );
        cursor = answer.x1;
    }
    let always = machine().expects_verification();
    let verifying = if always || flags & abi::VERIFY != 0 { VERIFYING } else { 0 };
    same!(abi::state().x1, ACTIVE | verifying, "STATE after ACTIVATE");
    Ok(())
}

/// DEACTIVATE until done.
pub fn deactivate() -> Outcome {
    let mut cursor = 0;
    loop {
        let answer = abi::deactivate(cursor);
        same!(answer.status, 0, "DEACTIVATE from {cursor}");
        if answer.x1 == answer.x2 {
            break;
        }
        check!(
            answer.x1 > cursor && answer.x1 < answer.x2,
            "DEACTIVATE from {cursor} gets to {}, end {}",
            answer.x1,
            answer.x2
        );
        cursor = answer.x1;
    }
    same!(abi::state().x1 & 3, DORMANT, "STATE after DEACTIVATE");
    Ok(())
}

/// Active, without claims, pools or pages.
pub fn fresh() -> Outcome {
    deactivate()?;
    activate(0)?;
    let frames = machine().frames();
    let census = census()?;
    same!(census.free, frames, "free frames of a fresh stash");
    Ok(())
}

/// Active, without claims; pages of destroyed pools may still take up frames.
pub fn active() -> Outcome {
    if abi::state().x1 == ACTIVE && census()?.tags == 0 { Ok(()) } else { fresh() }
}

/// A pool that is destroyed at the end.
pub struct Pool {
    /// Its id.
    pub id: u64,
    /// 4 KiB pages in each of its pages.
    pub parts: u64,
}

impl Pool {
    fn made(answer: abi::Answer, bits: u64) -> Result<Pool, Stop> {
        match answer {
            abi::Answer { status: 0, x1, x2: 0, x3: 0 } if x1 >> 32 == 0 => {
                Ok(Pool { id: x1, parts: 1 << (bits - 12) })
            }
            _ => fail!("POOL_CREATE with 2^{bits} bytes: {answer:x?}"),
        }
    }

    /// A private pool of 2^`bits` bytes a page. Another CPU may be making one: it is asked for again
    /// then, as clients are told to.
    pub fn private_of(bits: u64) -> Result<Pool, Stop> {
        let mut answer = abi::create_private(bits);
        for _ in 0..1_000_000 {
            if answer.status != abi::status::BUSY {
                break;
            }
            answer = abi::create_private(bits);
        }
        Pool::made(answer, bits)
    }

    /// A private pool of 4 KiB pages.
    pub fn private() -> Result<Pool, Stop> {
        Pool::private_of(12)
    }

    /// A shared pool of 2^`bits` bytes a page.
    pub fn shared_of(bits: u64, uuid: [u64; 2]) -> Result<Pool, Stop> {
        Pool::made(abi::create_shared(bits, uuid), bits)
    }

    /// A shared pool of 4 KiB pages, known to this test only.
    pub fn shared() -> Result<Pool, Stop> {
        Pool::shared_of(12, [0x5ba2_ed00, 0x1234_5678])
    }

    /// A key in this pool.
    pub fn key(&self, object: u64, index: u64) -> Key {
        Key::new(self.id, object, index)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        abi::destroy(self.id);
    }
}

/// Claims that are given back at the end.
pub struct Claim {
    address: u64,
    pages: u64,
}

impl Claim {
    /// Claims pages; all of them must be dealt with.
    pub fn of(address: u64, pages: u64) -> Result<Claim, Stop> {
        let answer = abi::reclaim(address, pages);
        same!(answer.status, 0, "RECLAIM of {pages} pages at {address:#x}");
        same!(answer.x1, pages, "RECLAIM of {pages} pages at {address:#x}: pages dealt with");
        Ok(Claim { address, pages })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        abi::release(self.address, self.pages);
    }
}

/// Writes a page for a key and puts it. Whether it is cached.
pub fn put(source: Pages, key: Key, sequence: u64) -> Result<bool, Stop> {
    pages::write(source, key, sequence);
    put_as_is(source, key)
}

/// Puts a page whose contents are ready.
pub fn put_as_is(source: Pages, key: Key) -> Result<bool, Stop> {
    let answer = abi::put(key, source.address(), 1);
    if answer == abi::Answer::of(0, 1, 1, 0) {
        Ok(true)
    } else if answer == abi::Answer::of(abi::status::NOT_CACHED, 1, 0, 0) {
        Ok(false)
    } else {
        fail!("PUT of page {:#x}: {answer:x?}", key.index)
    }
}

/// Puts a page that must be cached.
pub fn put_kept(source: Pages, key: Key, sequence: u64) -> Outcome {
    check!(put(source, key, sequence)?, "page {:#x} was not cached", key.index);
    Ok(())
}

/// Gets a page; if it is found all of it is checked. Its sequence number.
pub fn get(destination: Pages, key: Key) -> Result<Option<u64>, Stop> {
    pages::spoil(destination);
    let answer = abi::get(key, destination.address(), 1);
    if answer == abi::Answer::of(0, 1, 1, 0) {
        pages::read(destination, key).map(Some)
    } else if answer == abi::Answer::of(abi::status::MISS, 1, 0, 0) {
        Ok(None)
    } else {
        fail!("GET of page {:#x}: {answer:x?}", key.index)
    }
}

/// Gets a page that must be there.
pub fn get_hit(destination: Pages, key: Key, sequence: u64) -> Outcome {
    match get(destination, key)? {
        None => fail!("page {:#x} of object {:#x}: MISS", key.index, key.object[0]),
        Some(is) => {
            same!(is, sequence, "page {:#x} of object {:#x}: sequence", key.index, key.object[0]);
            Ok(())
        }
    }
}

/// Gets a page that must not be there.
pub fn get_miss(destination: Pages, key: Key) -> Outcome {
    match get(destination, key)? {
        None => Ok(()),
        Some(is) => {
            fail!("page {:#x} of object {:#x} is there, sequence {is}", key.index, key.object[0])
        }
    }
}

/// Two buffers for pages of a pool: to put from and to get into.
pub fn buffers(pool: &Pool) -> (Pages, Pages) {
    let alignment = pool.parts * PAGE;
    let both = crate::arena::take_aligned(2 * pool.parts, alignment);
    (both.part(0, pool.parts), both.part(pool.parts, pool.parts))
}

/// Puts `count` pages of an object: drives the stash hard when `count` is a multiple of its
/// frames. How many were cached.
pub fn flood(pool: &Pool, object: u64, count: u64) -> Result<u64, Stop> {
    let (source, destination) = buffers(pool);
    let mut cached = 0;
    for index in 0..count {
        cached += u64::from(put(source, pool.key(object, index), index)?);
        // Some of them come back at once, so that every path of the stash is at work.
        if index % 8 == 7 {
            let key = pool.key(object, index - index % 7);
            if let Some(sequence) = get(destination, key)? {
                same!(sequence, key.index, "sequence of page {:#x}", key.index);
            }
        }
    }
    Ok(cached)
}
