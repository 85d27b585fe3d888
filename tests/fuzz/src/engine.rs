// SPDX-License-Identifier: MIT OR Apache-2.0
//! The loop: pick an input, change it, run it, keep it if it went where none went before.

use crate::coverage;
use crate::random::Random;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What is fuzzed.
pub trait Target {
    /// Its name: of its corpus and its findings.
    const NAME: &'static str;
    /// Longest input that is made, in bytes.
    const MAX_INPUT: usize;
    /// Bytes that an input begins with, and bytes of each piece that may be taken out of the rest.
    const UNITS: (usize, usize);

    /// Runs `input` and checks what comes out.
    ///
    /// # Errors
    ///
    /// Which promise is broken.
    fn check(&mut self, input: &[u8]) -> Result<(), String>;

    /// Makes a new input of `input`, and sometimes of `other`.
    fn mutate(random: &mut Random, input: &[u8], other: &[u8]) -> Vec<u8>;

    /// First inputs.
    fn seeds() -> Vec<Vec<u8>>;

    /// Edges taken for the last input.
    fn last_work(&self) -> usize;

    /// What the last input reached besides edges, as numbers below 2^16: worth keeping an input for, too.
    fn marks(&self) -> Vec<u32> {
        Vec::new()
    }

    /// What was run, as lines.
    fn summary(&self) -> Vec<String>;

    /// Says whether so many runs tested anything.
    fn got_far(&self, runs: u64) -> bool;

    /// Shows the checks something wrong, which they must refuse.
    fn oracles_bite() -> bool {
        true
    }

    /// Prints what is run from now on.
    fn explain(&mut self) {}
}

/// The features from here on are marks.
const MARKS: u32 = 1 << 16;

/// An input that is kept.
struct Entry {
    bytes: Vec<u8>,
    /// Edges that it takes, with how often: what it is worth, and what it costs.
    features: Vec<(u32, u8)>,
    work: usize,
    /// How often it was changed.
    picked: u64,
}

/// Inputs, and what they cover.
pub struct Engine<T> {
    entries: Vec<Entry>,
    known: BTreeSet<u64>,
    /// The buckets seen of each edge.
    seen: BTreeMap<u32, u8>,
    random: Random,
    /// Where the input under way is found should the process end.
    current: File,
    /// Where inputs that cover something new are kept.
    found: Option<PathBuf>,
    /// Inputs that were run.
    pub runs: u64,
    /// What is run.
    pub target: T,
}

/// A name for an input: FNV-1a of its bytes.
pub fn name(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// The files of a directory and their contents, by name; none if there is no such directory.
pub fn files(directory: &Path) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut paths = Vec::new();
    match fs::read_dir(directory) {
        Ok(entries) => {
            for entry in entries {
                paths.push(entry?.path());
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    paths.sort();
    paths.into_iter().map(|path| fs::read(&path).map(|bytes| (path, bytes))).collect()
}

impl<T: Target> Engine<T> {
    /// An engine without inputs.
    pub fn new(target: T, seed: u64, current: File, found: Option<PathBuf>) -> Engine<T> {
        Engine {
            entries: Vec::new(),
            known: BTreeSet::new(),
            seen: BTreeMap::new(),
            random: Random::new(seed),
            current,
            found,
            runs: 0,
            target,
        }
    }

    /// Runs `input`; keeps it if it covers anything new. Ends the process where a promise is broken.
    pub fn run(&mut self, input: &[u8]) -> io::Result<bool> {
        let length = (input.len() as u32).to_le_bytes();
        self.current.write_all_at(&[&length, input].concat(), 0)?;
        self.runs += 1;
        if let Err(error) = self.target.check(input) {
            eprintln!("fuzz: {error}");
            std::process::exit(1);
        }
        let mut features = Vec::new();
        let mut new = false;
        let mut see = |edge, bucket| {
            features.push((edge, bucket));
            let seen = self.seen.entry(edge).or_default();
            new |= *seen & bucket == 0;
            *seen |= bucket;
        };
        coverage::collect(&mut see);
        self.target.marks().into_iter().for_each(|mark| see(MARKS + mark, 1));
        if !new || !self.known.insert(name(input)) {
            return Ok(false);
        }
        let work = self.target.last_work();
        self.entries.push(Entry { bytes: input.to_vec(), features, work, picked: 0 });
        Ok(true)
    }

    /// Changes one input and runs what comes out.
    pub fn step(&mut self) -> io::Result<()> {
        // Of two, the one that was picked less, or the cheaper one.
        let [one, two] = [0; 2].map(|_| self.random.below(self.entries.len()));
        let (first, second) = (&self.entries[one], &self.entries[two]);
        let second_first = match self.random.one_in(2) {
            true => second.picked < first.picked,
            false => second.work < first.work,
        };
        let index = if second_first { two } else { one };
        let other = self.random.below(self.entries.len());
        let (input, other) = (&self.entries[index].bytes, &self.entries[other].bytes);
        let input = T::mutate(&mut self.random, input, other);
        self.entries[index].picked += 1;
        if self.run(&input)?
            && let Some(found) = &self.found
        {
            fs::write(found.join(format!("{:016x}", name(&input))), &input)?;
        }
        Ok(())
    }

    /// Edges covered.
    pub fn edges(&self) -> usize {
        self.seen.range(..MARKS).count()
    }

    /// Inputs kept, and their bytes.
    pub fn size(&self) -> (usize, usize) {
        (self.entries.len(), self.entries.iter().map(|entry| entry.bytes.len()).sum())
    }

    /// The smallest inputs that together cover every edge, and how often it was taken too if `often`.
    pub fn smallest(&self, often: bool) -> Vec<&[u8]> {
        let mut entries: Vec<&Entry> = self.entries.iter().collect();
        entries.sort_by_key(|entry| (entry.bytes.len(), name(&entry.bytes)));
        let mut covered = BTreeSet::new();
        let mut covers = |entry: &&&Entry| {
            let features = entry
                .features
                .iter()
                .map(|(edge, bucket)| (*edge, if often { *bucket } else { 0 }));
            let before = covered.len();
            covered.extend(features);
            covered.len() > before
        };
        entries.iter().filter(|entry| covers(entry)).map(|entry| entry.bytes.as_slice()).collect()
    }

    /// Runs inputs from elsewhere; those that are too long to change are run all the same.
    pub fn load(&mut self, inputs: impl IntoIterator<Item = Vec<u8>>) -> io::Result<usize> {
        let mut count = 0;
        for input in inputs {
            self.run(&input)?;
            count += 1;
        }
        self.entries.retain(|entry| entry.bytes.len() <= T::MAX_INPUT);
        Ok(count)
    }
}
