// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the bytes of an input mean: a board, then records of 12 bytes, each one call or something that the guest does.
//!
//! A byte chooses a register's value by the register's role, most often one that leads somewhere (a pool that exists, an
//! address in guest RAM), often one at an edge, sometimes any that hurts.

use super::machine::Abort;
use super::model::*;
use crate::random::Random;
use tagstash::addr::PAGE_SIZE;

/// How an input of calls begins, by which it is told from a tree.
pub const MAGIC: &[u8; 5] = b"calls";
/// The magic, and the three bytes of the board.
pub const HEADER: usize = 8;
/// Bytes of a record.
pub const RECORD: usize = 12;
/// Most records in an input that is made.
pub const MAX_RECORDS: usize = 80;

/// What a record does.
pub enum Step {
    /// A call, and under which circumstances.
    Call { args: [u64; 8], cpu: usize, interrupt: Option<u32>, abort: Option<Abort> },
    /// The guest stores tags of a page.
    Tag(u64),
    /// The guest writes a page.
    Fill(u64),
}

/// The kinds of records; the wrong numbers have function 0, the guest's own deeds these.
const TAG: u32 = 1;
const FILL: u32 = 2;
const WRONG: u32 = 0;

const KINDS: [u32; 64] = [
    PUT,
    PUT,
    PUT,
    PUT,
    PUT,
    PUT,
    PUT,
    PUT,
    PUT,
    PUT,
    PUT,
    GET,
    GET,
    GET,
    GET,
    GET,
    GET,
    GET,
    GET,
    GET,
    FLUSH_PAGE,
    FLUSH_PAGE,
    FLUSH_PAGE,
    FLUSH_OBJECT,
    FLUSH_OBJECT,
    FLUSH_POOL,
    RECLAIM,
    RECLAIM,
    RECLAIM,
    RECLAIM,
    RECLAIM,
    RECLAIM,
    RELEASE,
    RELEASE,
    RELEASE,
    RELEASE,
    RELEASE,
    ACTIVATE,
    ACTIVATE,
    ACTIVATE,
    ACTIVATE,
    DEACTIVATE,
    POOL_CREATE,
    POOL_CREATE,
    POOL_CREATE,
    POOL_CREATE,
    POOL_DESTROY,
    QUERY,
    QUERY,
    CENSUS,
    CENSUS,
    EVENTS,
    EVENTS,
    STATISTIC,
    STATE,
    REGION,
    VERSION,
    UID,
    REVISION,
    WRONG,
    WRONG,
    TAG,
    TAG,
    FILL,
];

/// Function numbers that this version does not know.
const UNKNOWN: [u32; 20] = [
    0x8600_ff00,
    0x8600_ff02,
    0x8600_0000,
    0xc600_0000,
    0xc600_0002,
    0xc600_00ff,
    0xc600_0106,
    0xc600_0112,
    0xc600_0125,
    0xc600_0133,
    0xc600_0142,
    0x8600_0100,
    0x8600_0120,
    0x4600_0120,
    0xc400_0120,
    0xc602_0120,
    0xc600_8120,
    0,
    0xffff_ffff,
    0xc600_0180,
];

/// Values that hurt, whatever the register is for.
const NASTY: [u64; 24] = [
    0,
    1,
    2,
    63,
    64,
    65,
    0xfff,
    0x1000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x1_0000_0001,
    1 << 52,
    (1 << 52) - 1,
    0x7fff_ffff_ffff_ffff,
    1 << 63,
    0xffff_ffff_8000_0000,
    0xffff_ffff_ffff_f000,
    0xffff_ffff_ffff_fff8,
    u64::MAX - 1,
    u64::MAX,
    0x4000_3000,
];

/// One record of an input.
pub struct Record<'i>(pub &'i [u8; RECORD]);

impl Record<'_> {
    /// The byte that chooses `x`*n*.
    fn chooser(&self, n: usize) -> u8 {
        self.0[2 + n]
    }

    /// How often it is done, with the index, page, or whatever counts, one further each time.
    pub fn times(&self) -> u64 {
        let last = self.0[11];
        if last >= 0xe0 { 1 << (last & 7) } else { 1 }
    }

    /// What the record does for the `round`-th time; `cursors` are what the last ACTIVATE and
    /// DEACTIVATE said.
    pub fn step(&self, model: &Model<'_>, round: u64, cursors: &[u64; 2]) -> Step {
        let spare = u64::from(self.0[10]);
        let kind = KINDS[usize::from(self.0[0]) % KINDS.len()];
        let page = u64::from(self.chooser(1)) << 8 | spare;
        let near = page * model.machine_pages() / 65536;
        match kind {
            TAG if self.chooser(2) < 0x80 => {
                let over = model.page_over_cached(page + round);
                return Step::Tag(over.unwrap_or(model.address(near + round)));
            }
            TAG => return Step::Tag(model.address(near + round)),
            FILL => return Step::Fill(model.address(near + round)),
            _ => {}
        }
        let how = self.0[1];
        let function = match kind {
            WRONG if how & 0x80 != 0 => PUT ^ 1 << ((page + round) & 31),
            WRONG => UNKNOWN[(page + round) as usize % UNKNOWN.len()],
            function => function,
        };
        let mut args = [u64::from(function), 0, 0, 0, 0, 0, 0, 0];
        if how & 0x80 != 0 {
            // The hint, and what W0 leaves out.
            args[0] ^= 0xabcd_0000_0001_0000;
        }
        for (n, arg) in args.iter_mut().enumerate().skip(1) {
            let chooser = self.chooser(n);
            *arg = match chooser {
                0xe8.. => NASTY[usize::from(chooser - 0xe8)],
                _ => self.sane(model, function, n, round, cursors),
            };
        }
        self.place(model, function, near, round, &mut args);
        let interrupt = match how >> 3 & 3 {
            2 => Some(0),
            3 => Some(u32::from(self.0[10] & 15)),
            _ => None,
        };
        let after = u32::from(self.0[11] & 0x1f) * if self.0[10] & 1 == 1 { 1 } else { 5 };
        let abort = (how >> 5 & 3 == 3).then_some(Abort { after, lasting: self.0[10] & 2 != 0 });
        Step::Call { args, cpu: usize::from(how & 7) % model.board.cpus, interrupt, abort }
    }

    /// A value for `x`*n* that makes sense there.
    fn sane(
        &self,
        model: &Model<'_>,
        function: u32,
        n: usize,
        round: u64,
        cursors: &[u64; 2],
    ) -> u64 {
        let chooser = self.chooser(n);
        let value = u64::from(chooser);
        match (function, n) {
            (POOL_DESTROY | PUT | GET | FLUSH_PAGE | FLUSH_OBJECT | FLUSH_POOL, 1) => {
                self.pool(model)
            }
            (PUT | GET | FLUSH_PAGE, 2) | (FLUSH_OBJECT, 2) => value & 3,
            (PUT | GET | FLUSH_PAGE | FLUSH_OBJECT, 3 | 4) => value >> 7 << (9 * n),
            (PUT | GET | FLUSH_PAGE, 5) => match chooser {
                0..0xa0 => (value & 15) + round,
                0xa0..0xc8 => u64::MAX - (value & 31) + round.min(value & 31),
                _ => 1 << (value & 63) | round,
            },
            (PUT | GET, 7) => match chooser {
                0..0x80 => 1,
                0x80..0xa8 => 1 + (value & 7),
                0xa8..0xb0 => 64,
                0xb0 => 65,
                0xb1 => 0,
                _ => 1 + (value & 63),
            },
            (FLUSH_PAGE, 7) => match chooser {
                0..0x80 => 1 + (value & 31),
                _ => [63, 64, 65, 255, 256, 257, 1023, 1024, 1025, 0xffff_ffff]
                    [usize::from(chooser) % 10],
            },
            (RECLAIM | RELEASE, 2) => match chooser {
                0..0x60 => 1,
                0x60..0xa0 => 1 + (value & 63),
                0xa0..0xc0 => 32 * (1 + (value & 15)),
                0xc0..0xd0 => 1024 + (value & 15) * 64,
                _ => model.machine_pages(),
            },
            (POOL_CREATE, 1) => match chooser {
                0..0x60 => 12,
                0x60..0x90 => 14,
                0x90..0xb8 => 16,
                0xb8..0xd8 => [12, 12, 14, 16][usize::from(chooser) & 3] | 1 << 8,
                _ => [13, 15, 17, 11, 12 | 1 << 9, 14 | 1 << 63, 12 | 1 << 32, 0x100]
                    [usize::from(chooser) & 7],
            },
            (POOL_CREATE, 2 | 3) => value & 1,
            (REGION | CENSUS, 1) => value & 3,
            (CENSUS, 2) => value & 63,
            (CENSUS, 3) => match chooser {
                0..0x80 => u64::MAX >> (value & 63),
                _ => value & 63,
            },
            (STATISTIC, 1) => (value + round) % (STATISTICS + 2),
            (EVENTS, 1) => match chooser {
                0..0x40 => round,
                0x40..0xa0 => (model.event_count() + 4).saturating_sub(value & 63) + round,
                _ => u64::MAX,
            },
            (EVENTS, 2) => value & 1 | value >> 7 << 1,
            (ACTIVATE, 1) => value & 1,
            (ACTIVATE, 2) => self.cursor(model, n, cursors[0]),
            (DEACTIVATE, 1) => self.cursor(model, n, cursors[1]),
            // Registers that the call does not name.
            _ => NASTY[usize::from(chooser) % NASTY.len()],
        }
    }

    fn pool(&self, model: &Model<'_>) -> u64 {
        let value = usize::from(self.chooser(1));
        let live = |n: usize| model.pools.get(n % model.pools.len().max(1)).map(|(id, _)| *id);
        let Some(id) = live(value % 8) else { return value as u64 & 1 };
        let id = u64::from(id);
        match value {
            0..0xc0 => id,
            0xc0..0xd0 => model.issued[value % model.issued.len()].into(),
            0xd0..0xd8 => id ^ 1 << (usize::from(self.0[10]) & 63),
            0xd8..0xe0 => id.wrapping_add(64 * (value as u64 & 3)),
            _ => id | [1 << 27, 1 << 31, 1 << 32, 0xffff_ffff_0000_0000][value & 3],
        }
    }

    fn cursor(&self, model: &Model<'_>, n: usize, last: u64) -> u64 {
        let value = u64::from(self.chooser(n));
        match value {
            0..0x80 => last,
            0x80..0xa0 => 0,
            0xa0..0xc0 => model.block_count() + (value & 1),
            _ => value & 63,
        }
    }

    /// Puts an address into the register that takes one.
    fn place(&self, model: &Model<'_>, function: u32, near: u64, round: u64, args: &mut [u64; 8]) {
        match function {
            PUT | GET => {
                if function == GET && (0xc8..0xe8).contains(&self.chooser(5)) {
                    let seed = u64::from(self.chooser(2)) << 8 | u64::from(self.0[10]);
                    if let Some((pool, [a, b, c], index)) = model.neighbour(seed + round * 257) {
                        // A run, because neighbours of one key are often kept too, and each is another chance.
                        args[1..6].copy_from_slice(&[pool.into(), a, b, c, index & !63]);
                        args[7] = 64;
                    }
                }
                let chooser = self.chooser(6);
                let Some((_, pool)) = model.pool(args[1]) else { return };
                let chosen = u64::from(chooser) << 8 | u64::from(self.0[10]);
                let near = chosen * model.machine_pages() / 65536;
                let size = 1u64 << pool.shift;
                let fit = model.place(pool.shift, args[7].min(64), near);
                args[6] = match chooser {
                    0..0xc8 => fit.unwrap_or(model.address(near)),
                    0xc8..0xd0 => {
                        fit.unwrap_or_default() + [1, 8, 256, 2048][usize::from(chooser) & 3]
                    }
                    0xd0..0xd8 => fit.unwrap_or_default() + size / 2,
                    0xd8..0xe8 => model.address(near + round),
                    _ => args[6],
                };
            }
            RECLAIM | RELEASE | QUERY => {
                let chooser = self.chooser(1);
                let mut address = model.address(near + round);
                match chooser {
                    0..0xd0 => {
                        // Most often both ends are guest RAM.
                        let mut tries = 0..128;
                        while !model.is_ram(address) && tries.next().is_some() {
                            address += PAGE_SIZE;
                        }
                    }
                    0xd0..0xe0 => {}
                    0xe0..0xe8 => address += [1, 16, 2048, 4095][usize::from(chooser) & 3],
                    _ => return,
                }
                args[1] = address;
                if self.chooser(2) < 0xe0 && function != QUERY && args[2] > 1 {
                    let last =
                        |pages: u64| address.wrapping_add((pages - 1).wrapping_mul(PAGE_SIZE));
                    let most = args[2].min(model.machine_pages());
                    let good = (1..=most).rev().find(|pages| model.is_ram(last(*pages)));
                    args[2] = good.unwrap_or(args[2]);
                }
            }
            _ => {}
        }
    }
}

/// Makes a new input of `input`, and sometimes of `other`.
pub fn mutate(random: &mut Random, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut header: [u8; HEADER] = *b"calls\0\0\0";
    if let Some(own) = input.first_chunk::<HEADER>() {
        header[MAGIC.len()..].copy_from_slice(&own[MAGIC.len()..]);
    }
    let records = |bytes: &[u8]| -> Vec<[u8; RECORD]> {
        bytes.get(HEADER..).unwrap_or_default().as_chunks().0.to_vec()
    };
    let (mut own, donor) = (records(input), records(other));
    if random.one_in(8) {
        let byte = MAGIC.len() + random.below(HEADER - MAGIC.len());
        header[byte] = random.next() as u8;
    }
    for _ in 0..1 + random.small(3) {
        let at = random.below(own.len() + 1);
        match random.below(12) {
            0..3 if at < own.len() => {
                let byte = random.below(RECORD);
                own[at][byte] = random.next() as u8;
            }
            3 if at < own.len() => {
                let byte = random.below(RECORD);
                own[at][byte] ^= 1 << random.below(8);
            }
            4..6 => own.insert(at, fresh(random)),
            6 if !own.is_empty() => {
                let again = *random.pick(&own);
                own.insert(at, again);
            }
            // The same call with another function: a get of what was put, a release of what was claimed.
            7 if !own.is_empty() => {
                let mut again = *random.pick(&own);
                again[0] = random.next() as u8;
                own.insert(at, again);
            }
            8 if at < own.len() => {
                let count = 1 + random.small(4);
                own.drain(at..own.len().min(at + count));
            }
            9..11 if !donor.is_empty() => {
                let from = random.below(donor.len());
                let count = 1 + random.small(4);
                let part = donor[from..donor.len().min(from + count)].to_vec();
                own.splice(at..at, part);
            }
            11 if own.len() > 1 => {
                let with = random.below(own.len());
                let at = at.min(own.len() - 1);
                own.swap(at, with);
            }
            _ => own.push(fresh(random)),
        }
    }
    own.truncate(MAX_RECORDS);
    [header.as_slice(), own.as_flattened()].concat()
}

/// A record as random as it can be; most are of calls that nothing out of the ordinary happens to.
fn fresh(random: &mut Random) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record.iter_mut().for_each(|byte| *byte = random.next() as u8);
    if !random.one_in(3) {
        record[1] &= 7;
    }
    if !random.one_in(6) {
        record[11] &= 0x7f;
    }
    record
}

/// First inputs: on each board a pool, puts, gets, claims and releases, dormant and active.
pub fn seeds() -> Vec<Vec<u8>> {
    let of = |kind: u32| KINDS.iter().position(|known| *known == kind).expect("a kind") as u8;
    let call = |function: u32, registers: [u8; 7], times: u8| {
        let [a, b, c, d, e, f, g] = registers;
        [of(function), 0, 0, a, b, c, d, e, f, g, 0, times]
    };
    let [first, second, third] = [0u8, 1, 2];
    let get = |object: u8, times: u8| call(GET, [0, object, 0, 0, 0, 60, 0], times);
    let aborts = |record: [u8; RECORD]| {
        let mut record = record;
        (record[1], record[10], record[11]) = (0x60, 1, 9);
        record
    };
    (0..32u8)
        .map(|n| {
            // 4, 16 and 64 KiB, private and shared; verified or not.
            let size = [0, 0x60, 0xb8, 0, 0xba, 0x90][usize::from(n) % 6];
            let story = [
                call(POOL_CREATE, [size, 0, 0, 0, 0, 0, 0], 0),
                call(PUT, [0; 7], 0),
                call(RECLAIM, [0; 7], 0),
                call(ACTIVATE, [n >> 1, 0, 0, 0, 0, 0, 0], 0),
                call(ACTIVATE, [n >> 1, 0, 0, 0, 0, 0, 0], 0),
                call(PUT, [0, first, 0, 0, 0, 0, 0], 0xe4),
                call(PUT, [0, second, 0, 0, 0, 0, 0x83], 0xe2),
                get(first, 0xe3),
                call(TAG, [0; 7], 0xe5),
                get(first, 0xe3),
                aborts(call(PUT, [0, third, 0, 0, 0, 0, 0x87], 0)),
                aborts(call(GET, [0, second, 0, 0, 0, 60, 0x87], 0)),
                call(RECLAIM, [0, 0xd0, 0, 0, 0, 0, 0], 0),
                call(PUT, [0; 7], 0),
                call(RELEASE, [0, 0xd0, 0, 0, 0, 0, 0], 0),
                call(PUT, [0, second, 0, 0, 0, 0, 0], 0xe5),
                call(GET, [0, n, 0, 0, 0xc8, 60, 0], 0xe4),
                call(FLUSH_PAGE, [0, second, 0, 0, 3, 0, 24], 0),
                get(second, 0xe5),
                call(PUT, [0, second, 0, 0, 0, 0, 0], 0xe2),
                call(FLUSH_OBJECT, [0; 7], 0),
                get(second, 0xe2),
                call(WRONG, [0; 7], 0xe5),
                call(DEACTIVATE, [0; 7], 0),
            ];
            [b"calls", [n, n.wrapping_mul(37), n].as_slice(), story.as_flattened()].concat()
        })
        .collect()
}
