// SPDX-License-Identifier: MIT OR Apache-2.0
//! The boards that calls are tried on: regions, block sizes, placement, holes in guest RAM.

use crate::sim::{Layout, Piece, range};
use tagstash::addr::PAGE_SIZE;
use tagstash::hypercall::service::Policy;
use tagstash::ram::GuestRam;

/// Aligned to a page and no more, as the tests' layouts are.
const BASE: u64 = 0x4000_3000;
/// Pages of RAM without tag storage at the end of every board.
const PLAIN: u64 = 24;

/// Frames and frames a block of each region. The tagged memory and storage lie in this order, each
/// region's storage behind the next one's memory if `crossed`.
struct Shape {
    regions: &'static [(u64, u64)],
    crossed: bool,
}

const fn shape(regions: &'static [(u64, u64)], crossed: bool) -> Shape {
    Shape { regions, crossed }
}

/// One set of candidates, several, a last one that is not full; blocks of 4, 8, 12 and 64 KiB, and one that is larger than
/// a step of RECLAIM; more blocks than one ACTIVATE deals with.
const SHAPES: [Shape; 16] = [
    shape(&[(16, 1)], false),
    shape(&[(1, 1)], false),
    shape(&[(17, 1)], false),
    shape(&[(32, 2)], false),
    shape(&[(96, 1)], false),
    shape(&[(48, 3)], false),
    shape(&[(64, 16)], false),
    shape(&[(80, 40)], false),
    shape(&[(300, 1)], false),
    shape(&[(16, 1), (16, 2)], true),
    shape(&[(40, 2), (40, 1)], true),
    shape(&[(16, 16), (33, 3)], true),
    shape(&[(8, 1), (12, 3), (16, 4)], true),
    shape(&[(5, 1), (2, 2), (6, 3)], false),
    shape(&[(36, 1), (36, 36)], false),
    shape(&[], false),
];

/// Everything that an input chooses before its first call.
pub struct Board {
    pub layout: Layout,
    /// Reserved memory besides the tag storage: first page and pages.
    pub holes: Vec<(u64, u64)>,
    pub cpus: usize,
    pub policy: Policy,
}

impl Board {
    /// The board that three bytes choose.
    pub fn new([shape, holes, rest]: [u8; 3]) -> Board {
        let layout = layout(&SHAPES[usize::from(shape) % SHAPES.len()]);
        let pages = layout.length / PAGE_SIZE;
        let at = |page: u64| layout.base + page.min(pages - 1) * PAGE_SIZE;
        let inner = 1 + u64::from(holes >> 3) * 7 % (pages - 1);
        let holes = match holes & 7 {
            1 => vec![(at(inner), 1)],
            2 => vec![(at(inner), 5)],
            3 => vec![(at(31), 2), (at(inner), 1)],
            4 => vec![(at(0), 1 + inner % 40)],
            5 => vec![(at(pages - 1), 1)],
            6 => vec![(at(inner), 1), (at(inner + 2), 1), (at(inner + 40), 70)],
            _ => Vec::new(),
        };
        let end = layout.base + layout.length;
        let cut = |(start, count): (u64, u64)| (start, count.min((end - start) / PAGE_SIZE));
        Board {
            holes: holes.into_iter().map(cut).collect(),
            cpus: 1 + usize::from(rest & 7),
            policy: Policy { verify: rest >> 3 & 3 == 3, tags_hidden: rest >> 5 == 7 },
            layout,
        }
    }

    /// The board with the most memory.
    pub fn largest() -> Layout {
        let layouts = SHAPES.iter().map(layout);
        layouts.max_by_key(|layout| layout.length).expect("there are boards")
    }

    /// Guest RAM as the service is told.
    pub fn ram(&self) -> GuestRam {
        let storage = self.layout.pieces.iter().map(|p| range(p.storage, p.storage_length));
        let holes = self.holes.iter().map(|&(start, pages)| range(start, pages * PAGE_SIZE));
        let memory = range(self.layout.base, self.layout.length);
        GuestRam::new(&[memory], &storage.chain(holes).collect::<Vec<_>>())
    }
}

fn layout(shape: &Shape) -> Layout {
    let count = shape.regions.len();
    let mut pieces: Vec<Piece> = shape
        .regions
        .iter()
        .map(|&(frames, block)| Piece {
            tagged: 0,
            storage: 0,
            storage_length: frames * PAGE_SIZE,
            block_size: block * PAGE_SIZE,
        })
        .collect();
    let mut end = BASE;
    for n in 0..count {
        pieces[n].tagged = end;
        end += pieces[n].tagged_length();
        let stored = if shape.crossed { (n + count - 1) % count } else { n };
        pieces[stored].storage = end;
        end += pieces[stored].storage_length;
    }
    end += PLAIN * PAGE_SIZE;
    Layout { base: BASE, length: end - BASE, pieces }
}
