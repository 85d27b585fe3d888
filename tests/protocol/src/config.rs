// SPDX-License-Identifier: MIT OR Apache-2.0
//! Configurations: a machine, and what its CPUs may call.

use crate::mutant::Mutant;
use crate::state::{Call, KEYS};
use std::ops::Range;

/// When a get loads the moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Horizon {
    /// Before it looks for the page.
    BeforeScan,
    /// After it found a live word and the key.
    AfterMatch,
}

impl Horizon {
    /// All of them, with their names on the command line.
    pub const ALL: [(&'static str, Horizon); 2] =
        [("before-scan", Horizon::BeforeScan), ("after-match", Horizon::AfterMatch)];
}

/// When the code's get loads them. `tests/in_step.rs` fails if this is wrong.
pub const CODE: Horizon = Horizon::AfterMatch;

/// A key: its object, and the fingerprints of its parts are numbered from this on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its object.
    pub object: u8,
    /// The fingerprint of its first part; each further part has the next.
    pub fingerprint: u8,
}

/// What a CPU may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Menu {
    /// So many calls.
    pub calls: u8,
    /// Each one of these.
    pub choices: Vec<Call>,
}

/// A machine, and what its CPUs may call.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// Frames.
    pub frames: usize,
    /// Candidates of a key; those beyond the last frame are dormant for ever.
    pub ways: u8,
    /// Candidates of each set of a key's.
    pub set_ways: u8,
    /// Frames of a block.
    pub block_frames: u8,
    /// The frame that stores the tags of each page.
    pub pages: Vec<u8>,
    /// Chunks of a part.
    pub chunks: u8,
    /// Parts of a page.
    pub parts: u8,
    /// A get leaves the page.
    pub shared: bool,
    /// The keys.
    pub keys: Vec<Key>,
    /// The buckets of each object.
    pub objects: Vec<[u8; 3]>,
    /// The frames of the candidates, by key and part, where they are not simply all frames.
    pub order: Vec<Vec<Vec<u8>>>,
    /// Places of pools.
    pub places: u8,
    /// Generations of a place before its ids repeat.
    pub generations: u8,
    /// Pools come and go.
    pub pools: bool,
    /// When a get loads the moments.
    pub horizon: Horizon,
    /// Calls made before the race.
    pub before: Vec<Call>,
    /// What each CPU may call.
    pub menus: Vec<Menu>,
    /// The rule that is broken.
    pub mutant: Option<Mutant>,
    /// It takes long: not for a quick run.
    pub long: bool,
}

impl Config {
    /// Says whether this rule is broken.
    #[inline(always)]
    pub fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Number of blocks.
    pub fn blocks(&self) -> u8 {
        self.frames as u8 / self.block_frames
    }

    /// The block of a frame.
    pub fn block_of_frame(&self, way: u8) -> u8 {
        way / self.block_frames
    }

    /// The block that stores the tags of a page.
    pub fn block_of_page(&self, page: u8) -> u8 {
        self.block_of_frame(self.pages[usize::from(page)])
    }

    /// The frames of a block.
    pub fn frames_of(&self, block: u8) -> Range<u8> {
        block * self.block_frames..(block + 1) * self.block_frames
    }

    /// The pages whose tags a frame stores, as a mask.
    pub fn pages_of_frame(&self, way: u8) -> u8 {
        let pages = self.pages.iter().enumerate().filter(|&(_, &frame)| frame == way);
        pages.fold(0, |mask, (page, _)| mask | 1 << page)
    }

    /// The pages whose tags a block stores, as a mask.
    pub fn pages_of_block(&self, block: u8) -> u8 {
        self.frames_of(block).fold(0, |mask, way| mask | self.pages_of_frame(way))
    }

    /// The pages of a call whose tags a frame stores, as a mask.
    pub fn mask(&self, call: Call, way: u8) -> u8 {
        let pages = match call {
            Call::Claim(first, count) | Call::Release(first, count) => {
                (((1u16 << count) - 1) << first) as u8
            }
            _ => u8::MAX,
        };
        pages & self.pages_of_frame(way)
    }

    /// The pages of a call whose tags a block stores, as a mask.
    pub fn mask_of_block(&self, call: Call, block: u8) -> u8 {
        self.frames_of(block).fold(0, |mask, way| mask | self.mask(call, way))
    }

    /// How many pages of a call a block stores the tags of.
    pub fn count(&self, call: Call, block: u8) -> u8 {
        self.mask_of_block(call, block).count_ones() as u8
    }

    /// Says whether a call looks at the claimed bits of a frame.
    pub fn looks_at(&self, call: Call, way: u8) -> bool {
        matches!(call, Call::Deactivate(_)) || self.mask(call, way) != 0
    }

    /// The first frame of a block of which a call looks at the claimed bits.
    pub fn first_masked(&self, call: Call, block: u8) -> u8 {
        let frames = self.frames_of(block);
        let start = frames.start;
        frames.into_iter().find(|&way| self.looks_at(call, way)).unwrap_or(start)
    }

    /// The last block that a call is about.
    pub fn last_block(&self, call: Call) -> u8 {
        match call {
            Call::Claim(first, count) | Call::Release(first, count) => {
                self.block_of_page(first + count - 1)
            }
            Call::Activate(block) | Call::Deactivate(block) => block,
            _ => 0,
        }
    }

    /// What an entry of this part of a page holds. Not 0.
    pub fn entry(&self, key: u8, part: u8, generation: u8) -> u16 {
        0x1000 | u16::from(generation) << 8 | u16::from(part) << 4 | u16::from(key)
    }

    /// The fingerprint of a part of a page. Not 0.
    pub fn fingerprint(&self, key: u8, part: u8) -> u32 {
        u32::from(self.keys[usize::from(key)].fingerprint + part)
    }

    /// The frame of a candidate of a part of a page.
    #[inline(always)]
    pub fn frame_at(&self, key: u8, part: u8, place: u8) -> u8 {
        let order = self.order.get(usize::from(key)).and_then(|parts| parts.get(usize::from(part)));
        order.map_or(place, |frames| frames[usize::from(place)])
    }

    /// The buckets of a key's object.
    pub fn buckets(&self, key: u8) -> [u8; 3] {
        self.objects[usize::from(self.keys[usize::from(key)].object)]
    }

    fn calls(&self) -> impl Iterator<Item = Call> {
        self.menus.iter().flat_map(|menu| menu.choices.iter().copied())
    }

    /// Says whether anybody moves the pool's moment.
    pub fn flushes_pool(&self) -> bool {
        self.calls().any(|call| matches!(call, Call::FlushPool | Call::Create))
    }

    /// Says whether anybody moves an object's moments.
    pub fn flushes_object(&self) -> bool {
        self.calls().any(|call| matches!(call, Call::FlushObject(_)))
    }
}

/// One frame, one page, one key; active.
fn base(name: &'static str, about: &'static str) -> Config {
    Config {
        name,
        about,
        frames: 1,
        ways: 1,
        set_ways: 1,
        block_frames: 1,
        pages: vec![0],
        chunks: 2,
        parts: 1,
        shared: false,
        keys: vec![Key { object: 0, fingerprint: 1 }],
        objects: vec![[0, 1, 2]],
        order: Vec::new(),
        places: 1,
        generations: 1,
        pools: false,
        horizon: CODE,
        before: vec![Call::Activate(0)],
        menus: Vec::new(),
        mutant: None,
        long: false,
    }
}

impl Config {
    fn frames(mut self, frames: u8, block_frames: u8, pages: &[u8]) -> Config {
        self.frames = frames.into();
        self.ways = frames;
        self.set_ways = frames;
        self.block_frames = block_frames;
        self.pages = pages.to_vec();
        self.before = (0..self.blocks()).map(Call::Activate).collect();
        self
    }

    fn cpus(mut self, cpus: usize, calls: u8, choices: &[Call]) -> Config {
        let menu = Menu { calls, choices: choices.to_vec() };
        self.menus.extend(std::iter::repeat_n(menu, cpus));
        self
    }

    /// Two keys of two objects whose fingerprints collide.
    fn two_keys(mut self) -> Config {
        self.keys.push(Key { object: 1, fingerprint: 1 });
        self.objects.push([1, 2, 3]);
        assert!(self.keys.len() <= KEYS);
        self
    }

    /// Each frame is a set of its own.
    fn sets(mut self) -> Config {
        self.set_ways = 1;
        self
    }

    fn shared(mut self) -> Config {
        self.shared = true;
        self
    }
}

/// Those that take more than some seconds.
const LONG: &[&str] = &[
    "one-frame-3",
    "two-frames-calls",
    "two-frames-3",
    "two-keys",
    "two-keys-2",
    "claims-3",
    "block",
    "block-range",
    "flush-calls",
    "flush-3",
    "flush-evict",
    "parts",
    "parts-shared",
    "pool-calls",
];

/// The standard configurations.
pub fn all() -> Vec<Config> {
    use Call::*;
    let stash = [Put(0), Get(0), FlushPage(0)];
    let claims = [Put(0), Get(0), Claim(0, 1), Release(0, 1)];
    let flushes = [Put(0), Get(0), FlushObject(0), FlushPool];
    let parts = |config: Config| Config { parts: 2, ..config };
    vec![
        base("one-frame", "one key, one frame").cpus(2, 3, &stash),
        base("one-frame-3", "one key, one frame").cpus(2, 1, &stash).cpus(1, 2, &stash),
        base("one-frame-shared", "as one-frame, gets leave the page").shared().cpus(2, 3, &stash),
        base("two-frames", "one key, two frames").frames(2, 1, &[0, 1]).cpus(2, 2, &stash),
        base("two-frames-calls", "as two-frames, more calls")
            .frames(2, 1, &[0, 1])
            .cpus(2, 3, &stash),
        base("two-frames-shared", "as two-frames, gets leave the page")
            .shared()
            .frames(2, 1, &[0, 1])
            .cpus(2, 2, &stash),
        base("two-sets", "one key, two sets of one frame")
            .frames(2, 1, &[0, 1])
            .sets()
            .cpus(2, 2, &stash),
        base("rival-claims", "two puts of a key, and claims of either's frame")
            .frames(2, 1, &[0, 1])
            .cpus(2, 1, &[Put(0)])
            .cpus(1, 3, &[Claim(0, 1), Release(0, 1), Get(0)]),
        base("rival-lend", "two puts of a key, and a frame that comes and goes")
            .frames(2, 1, &[0, 1])
            .cpus(2, 1, &[Put(0)])
            .cpus(1, 3, &[Deactivate(0), Activate(0), Get(0)]),
        base("two-frames-3", "one key, two frames")
            .frames(2, 1, &[0, 1])
            .cpus(2, 1, &[Put(0)])
            .cpus(1, 2, &[Put(0), Get(0)]),
        base("two-keys", "two keys of one fingerprint, one frame").two_keys().cpus(
            2,
            3,
            &[Put(0), Put(1), Get(0)],
        ),
        base("two-keys-2", "two keys of one fingerprint, two frames")
            .two_keys()
            .frames(2, 1, &[0, 1])
            .cpus(2, 2, &[Put(0), Put(1), Get(0), Get(1)]),
        base("claims", "one frame comes and goes").cpus(2, 3, &claims),
        base("claims-3", "one frame comes and goes").cpus(2, 1, &claims).cpus(1, 2, &claims),
        base("claims-pages", "two pages of one frame")
            .frames(1, 1, &[0, 0])
            .cpus(2, 2, &[Claim(0, 1), Claim(1, 1), Claim(0, 2), Release(0, 1), Release(0, 2)])
            .cpus(1, 2, &[Put(0), Get(0)]),
        base("block", "one block of two frames")
            .frames(2, 2, &[0, 1])
            .cpus(1, 2, &[Claim(0, 1), Claim(1, 1), Release(0, 1), Release(1, 1)])
            .cpus(1, 1, &[Claim(0, 1), Claim(1, 1)])
            .cpus(1, 2, &[Put(0), Get(0)]),
        base("block-range", "one block of two frames, claims of both pages")
            .frames(2, 2, &[0, 1])
            .cpus(1, 2, &[Claim(0, 2), Claim(1, 1), Release(0, 2)])
            .cpus(1, 1, &[Claim(0, 2), Claim(1, 1)])
            .cpus(1, 2, &[Put(0), Get(0)]),
        base("range", "two blocks, claims of both")
            .frames(2, 1, &[0, 1])
            .cpus(1, 3, &[Claim(0, 2), Release(0, 2)])
            .cpus(1, 3, &[Put(0), Release(0, 1), Claim(1, 1)]),
        base("flush", "flushes of object and pool").cpus(2, 2, &flushes),
        base("flush-calls", "as flush, more calls").cpus(2, 3, &flushes),
        base("flush-3", "flushes of object and pool").cpus(2, 1, &flushes).cpus(1, 2, &flushes),
        base("flush-evict", "flushes, evictions, one frame").two_keys().cpus(
            2,
            3,
            &[Put(0), Put(1), Get(1), FlushObject(1)],
        ),
        base("buckets", "flushes of objects that share buckets, two frames")
            .two_keys()
            .frames(2, 1, &[0, 1])
            .cpus(2, 2, &[Put(0), Get(0), FlushObject(0), FlushObject(1)]),
        parts(base("parts", "pages of two parts, two frames")).frames(2, 1, &[0, 1]).cpus(
            2,
            2,
            &[Put(0), Get(0), FlushObject(0)],
        ),
        parts(base("parts-shared", "as parts, gets leave the page"))
            .shared()
            .frames(2, 1, &[0, 1])
            .cpus(2, 2, &[Put(0), Get(0), FlushPage(0)]),
        parts(base("parts-claims", "pages of two parts, a claim"))
            .frames(2, 1, &[0, 1])
            .cpus(1, 3, &[Put(0), Get(0)])
            .cpus(1, 2, &[Claim(0, 1), Release(0, 1), Get(0)]),
        parts(base("parts-one-frame", "a page of two parts does not fit")).cpus(2, 2, &[Put(0)]),
        base("lend", "a block comes and goes as a whole, from dormant on")
            .cpus(1, 2, &[Put(0), Get(0)])
            .cpus(1, 3, &[Activate(0), Deactivate(0), Claim(0, 1), Release(0, 1)])
            .cpus(1, 2, &[Activate(0), Deactivate(0)]),
        base("pool", "the pool is destroyed and made again, with the same id").cpus(
            2,
            2,
            &[Put(0), Get(0), Destroy, Create, FlushPool],
        ),
        base("pool-generations", "the pool is destroyed and made again, with another id").cpus(
            2,
            2,
            &[Put(0), Get(0), Destroy, Create],
        ),
        base("pool-calls", "as pool-generations, more calls").cpus(
            2,
            3,
            &[Put(0), Get(0), Destroy, Create],
        ),
    ]
    .into_iter()
    .map(|config| Config { long: LONG.contains(&config.name), ..config })
    .map(|config| match config.name {
        "pool" => Config { pools: true, ..config },
        "pool-generations" | "pool-calls" => Config { pools: true, generations: 3, ..config },
        _ => config,
    })
    .collect()
}
