// SPDX-License-Identifier: MIT OR Apache-2.0
//! The matrix: every two operations, and chosen threes, on every geometry, on the same key and page
//! and on others, with the frames empty, half full and full.
//!
//! | geometry | frames | sets | blocks | pages |
//! | --- | --- | --- | --- | --- |
//! | `one` | 1 | 1 of 1 way | 1 of 1 frame | 4 KiB |
//! | `two` | 2 | 1 of 2 ways | 2 of 1 frame | 4 KiB |
//! | `block` | 2 | 1 of 2 ways | 1 of 2 frames | 4 KiB |
//! | `large` | 4 | 2 of 2 ways | 4 of 1 frame | 16 KiB, four parts; sequentially consistent |
//!
//! The first operation is on key A, and on the page whose tags the last frame stores: the frame that
//! A is in. Where the two differ (`other`), the second is on another key with the same
//! fingerprint, and on another page: of the same frame (`one`), of another block (`two`, `large`), of
//! the other frame of the same block (`block`).
//!
//! All of them are made by loops over the tables below, so none is missing. A cell that comes out
//! as the very race of another is named and not run again; `list` shows which.

use crate::cases::{Body, Case};
use crate::machine::{Key, Key::*, Op, Op::*, Shape};
use crate::race::{BLOCK, LARGE, ONE, Race, TWO};

/// What races.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Put,
    Get,
    Peek,
    FlushPage,
    FlushObject,
    FlushPool,
    Evict,
    Claim,
    Release,
    Activate,
    Deactivate,
}

use Kind as K;

/// Every operation, and its name. A *peek* is a get of a shared pool, which leaves the page; an
/// *evict* a put of a key that is nowhere yet, while all frames are full.
pub const OPERATIONS: [(Kind, &str); 11] = [
    (K::Put, "put"),
    (K::Get, "get"),
    (K::Peek, "peek"),
    (K::FlushPage, "flush-page"),
    (K::FlushObject, "flush-object"),
    (K::FlushPool, "flush-pool"),
    (K::Evict, "evict"),
    (K::Claim, "claim"),
    (K::Release, "release"),
    (K::Activate, "activate"),
    (K::Deactivate, "deactivate"),
];

/// Every geometry, and its name.
pub const GEOMETRIES: [(Shape, &str); 4] =
    [(ONE, "one"), (TWO, "two"), (BLOCK, "block"), (LARGE, "large")];

/// Whether the two are on one key and page.
pub const RELATIONS: [(bool, &str); 2] = [(false, "same"), (true, "other")];

/// What the frames hold at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    Empty,
    /// A, in the last frame.
    Held,
    /// A in the last frame and the other key in the first.
    Full,
}

/// Every content, and its name.
pub const FILLS: [(Fill, &str); 3] =
    [(Fill::Empty, "empty"), (Fill::Held, "held"), (Fill::Full, "full")];

/// Threes that race, and why these. The third is on the key and page of the first; the second too,
/// or on the other ones.
const TRIPLES: [([Kind; 3], &str); 32] = [
    ([K::Claim, K::Claim, K::Put], "who sees a bit relies on its claimer's wait (2, 2b)"),
    ([K::Claim, K::Claim, K::Evict], "the same, with a dirty page to give way (2b)"),
    ([K::Claim, K::Release, K::Put], "a release lets a put begin beside a claim (3, 10)"),
    ([K::Claim, K::Release, K::Get], "a page that a claim hid does not come back (4)"),
    ([K::Claim, K::Release, K::Claim], "three at one count: it stays balanced (9)"),
    ([K::Release, K::Release, K::Claim], "a page given back twice is counted down once"),
    ([K::Put, K::Put, K::Get], "of two copies of a key one remains (1, 1b)"),
    ([K::Put, K::Put, K::Peek], "the same, where the get leaves the page (1, 1b)"),
    ([K::Put, K::Put, K::Put], "three that look for each other (1)"),
    ([K::Put, K::Put, K::FlushPage], "a flush meets neither, one or both copies"),
    ([K::Put, K::Put, K::Claim], "a claim waits for two writers, one chunk of each (3)"),
    ([K::FlushPage, K::Put, K::Get], "what was flushed stays away, what is new may stay"),
    ([K::FlushObject, K::Put, K::Get], "the same by moments"),
    ([K::FlushPool, K::Put, K::Get], "the same by the pool's moment"),
    ([K::Get, K::Get, K::Put], "one page is given out once, and never an old one after a new"),
    ([K::Peek, K::Get, K::Put], "a shared look beside a removal and a writer"),
    ([K::Get, K::Put, K::Claim], "a reader, a writer and a claim of one frame"),
    ([K::Peek, K::Put, K::Claim], "the same, where the get leaves the page"),
    ([K::FlushPage, K::Put, K::Claim], "a flush passes by a frame that is counted (4)"),
    ([K::Evict, K::Evict, K::Get], "two take the oldest frame while it is read"),
    ([K::Evict, K::Get, K::Put], "the page that gives way is got and put again"),
    ([K::Evict, K::Peek, K::Claim], "the page that gives way is looked at and claimed"),
    ([K::Deactivate, K::Claim, K::Put], "two that count and wait for one writer (6)"),
    ([K::Deactivate, K::Activate, K::Put], "a put in between that must notice (6)"),
    ([K::Deactivate, K::Release, K::Put], "claims are voided and given back at once (6)"),
    ([K::Deactivate, K::Deactivate, K::Put], "two hold a count each (6)"),
    ([K::Deactivate, K::Claim, K::Release], "claims made, voided and given back (6)"),
    ([K::Deactivate, K::Get, K::Put], "a page does not outlive the lending"),
    ([K::Activate, K::Activate, K::Put], "one lends what the other still cleans (5, 8)"),
    ([K::Activate, K::Claim, K::Put], "lent and claimed at once (8)"),
    ([K::Activate, K::Release, K::Put], "lent and given back at once"),
    ([K::Activate, K::Put, K::Get], "the first page of a frame that is just lent (8)"),
];

impl Kind {
    pub fn name(self) -> &'static str {
        OPERATIONS.iter().find(|(kind, _)| *kind == self).expect("every kind is listed").1
    }

    /// Works page by page, so that pages of several parts are another case.
    fn is_on_one_key(self) -> bool {
        matches!(self, K::Put | K::Get | K::Peek | K::FlushPage | K::Evict)
    }

    fn is_on_pages(self) -> bool {
        matches!(self, K::Claim | K::Release | K::Activate | K::Deactivate)
    }

    /// The operation of thread `thread`. `other`: on the other key and page. `apart`: another thread
    /// is on a page too, so that another page of the same frame is another race.
    fn op(self, shape: Shape, thread: usize, other: bool, apart: bool) -> Op {
        let frame_pages = 32;
        let last = (shape.frames - 1) * frame_pages;
        let page = match (other, shape.frames) {
            (false, _) => last,
            (true, 1) if apart => frame_pages / 2,
            (true, _) => 0,
        };
        let key: Key = if other { Twin } else { A };
        let block = (page / frame_pages / shape.block_frames) as u32;
        let value = 2 + thread as u64;
        match self {
            K::Put => Put(key, value),
            K::Get => Get(key),
            K::Peek => Peek(key),
            K::FlushPage => FlushPage(key),
            // The twin is of the same object.
            K::FlushObject => FlushObject(if other { B } else { A }),
            K::FlushPool => FlushPool,
            K::Evict => Put(if other { C } else { B }, value),
            K::Claim => Claim(page),
            K::Release => Release(page),
            K::Activate => Activate(block),
            K::Deactivate => Deactivate(block),
        }
    }
}

/// Why a cell of the matrix is no race.
fn gap(kinds: &[Kind], shape: Shape, fill: Fill) -> Option<&'static str> {
    let has = |kind| kinds.contains(&kind);
    if shape.large && !kinds.iter().any(|kind| kind.is_on_one_key()) {
        return Some("parts are nothing to it");
    }
    if has(K::Evict) && fill != Fill::Full {
        return Some("there is a free frame");
    }
    if !has(K::Put) && fill == Fill::Empty {
        return Some("nothing is there, and nothing comes");
    }
    None
}

/// The race of `kinds` in one cell.
fn race_of(kinds: &[Kind], shape: Shape, other: bool, fill: Fill) -> Race {
    let paged = kinds.iter().filter(|kind| kind.is_on_pages()).count();
    let op =
        |(thread, kind): (usize, &Kind)| kind.op(shape, thread, thread == 1 && other, paged > 1);
    let ops: Vec<Op> = kinds.iter().enumerate().map(op).collect();
    let blocks = (shape.frames / shape.block_frames) as u32;
    let is_lent = |block: &u32| !ops.contains(&Activate(*block));
    let mut before = Vec::new();
    for block in (0..blocks).filter(|block| !is_lent(block)) {
        // What a guest may do while nothing is lent.
        before.push(StoreTags(u64::from(block) * shape.block_frames * 32));
    }
    before.extend((0..blocks).filter(is_lent).map(Activate));
    // A large page takes all frames; of one frame there is no half.
    let room = if shape.large { 1 } else { shape.frames as usize };
    let held = match fill {
        Fill::Empty => 0,
        Fill::Held => 1,
        Fill::Full => 2,
    };
    before.extend([Put(A, 1), Put(Twin, 5)].into_iter().take(held.min(room)));
    for op in &ops {
        if let Release(page) = *op
            && !before.contains(&Claim(page))
        {
            before.push(Claim(page));
        }
    }
    Race { shape, before, threads: ops.into_iter().map(|op| vec![op]).collect() }
}

/// Every cell of one row, on `geometries`.
fn row(kinds: &[Kind], geometries: &[(Shape, &str)], least: usize, why: &str) -> Vec<Case> {
    let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
    let group = names.join("+");
    let mut cells: Vec<Case> = Vec::new();
    for &(shape, geometry) in geometries {
        for (other, relation) in RELATIONS {
            for (fill, content) in FILLS {
                let name = format!("{group}/{geometry}/{relation}/{content}");
                let body = match gap(kinds, shape, fill) {
                    Some(reason) => Body::Gap(reason),
                    None => {
                        let race = race_of(kinds, shape, other, fill);
                        let is_it = |cell: &&Case| matches!(&cell.body, Body::Race(other) if *other == race);
                        match cells.iter().find(is_it) {
                            Some(cell) => Body::Same(cell.name.clone()),
                            None => Body::Race(race),
                        }
                    }
                };
                // Steps of four parts are many: fewer preemptions.
                let least = if shape.large { 1 } else { least };
                // Threes on one frame say most for their time.
                let is_tested = kinds.len() < 3 || shape == ONE || shape.large;
                let test_least = is_tested.then_some(if kinds.len() < 3 { 1 } else { 0 });
                let (group, why) = (group.clone(), why.to_owned());
                cells.push(Case { group, name, body, least, test_least, why });
            }
        }
    }
    cells
}

/// Every two operations, an operation beside itself included.
pub fn pairs() -> Vec<Case> {
    let mut cases = Vec::new();
    for (n, (a, _)) in OPERATIONS.iter().enumerate() {
        for (b, _) in &OPERATIONS[n..] {
            cases.extend(row(&[*a, *b], &GEOMETRIES, 2, "every pair"));
        }
    }
    cases
}

/// The chosen threes.
pub fn triples() -> Vec<Case> {
    let small = &GEOMETRIES[..3];
    TRIPLES.iter().flat_map(|(kinds, why)| row(kinds, small, 1, why)).collect()
}

/// Three of the threes, on pages of several parts.
pub fn large_triples() -> Vec<Case> {
    const CHOSEN: [([Kind; 3], &str); 3] = [
        ([K::Put, K::Put, K::Get], "parts of two puts are no page"),
        ([K::Put, K::Get, K::Claim], "a part is taken away meanwhile"),
        ([K::FlushPage, K::Put, K::Get], "some parts flushed before a put, some behind it"),
    ];
    CHOSEN.iter().flat_map(|(kinds, why)| row(kinds, &GEOMETRIES[3..], 1, why)).collect()
}

/// The matrix of pairs as a table: a row for each pair, a column for each geometry and relation,
/// and in it a letter for each content that is run, `=` for one that is the race of another cell,
/// `.` for one that is none.
pub fn table(cases: &[Case]) -> String {
    let mut text = format!("{:28}", "");
    for (_, geometry) in GEOMETRIES {
        for (_, relation) in RELATIONS {
            text += &format!(" {:12}", format!("{geometry}/{relation}"));
        }
    }
    for row in cases.chunk_by(|a, b| a.group == b.group) {
        text += &format!("\n{:28}", row[0].group);
        for cells in row.chunks(FILLS.len()) {
            let letters = cells.iter().zip(FILLS).map(|(cell, (_, content))| match cell.body {
                Body::Race(_) => &content[..1],
                Body::Same(_) => "=",
                _ => ".",
            });
            text += &format!(" {:12}", letters.collect::<String>());
        }
    }
    text + "\n"
}
