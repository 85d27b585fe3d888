// SPDX-License-Identifier: MIT OR Apache-2.0
//! The loop: pick an input, change it, run it, keep it if it went where none went before.

use crate::coverage;
use crate::mutate::{MAX_INPUT, mutate};
use crate::random::Random;
use crate::target::{self, Tally};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

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
pub struct Engine {
    entries: Vec<Entry>,
    known: BTreeSet<u64>,
    /// The buckets seen of each edge.
    seen: BTreeMap<u32, u8>,
    random: Random,
    /// Where the input under way is found should the process end.
    current: File,
    /// Where inputs that cover something new are kept.
    found: Option<PathBuf>,
    /// What was run.
    pub tally: Tally,
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

impl Engine {
    /// An engine without inputs.
    pub fn new(seed: u64, current: File, found: Option<PathBuf>) -> Engine {
        Engine {
            entries: Vec::new(),
            known: BTreeSet::new(),
            seen: BTreeMap::new(),
            random: Random::new(seed),
            current,
            found,
            tally: Tally::default(),
        }
    }

    /// Runs `input`; keeps it if it covers anything new. Ends the process where a promise is broken.
    pub fn run(&mut self, input: &[u8]) -> io::Result<bool> {
        let length = (input.len() as u32).to_le_bytes();
        self.current.write_all_at(&[&length, input].concat(), 0)?;
        if let Err(error) = target::check(input, &mut self.tally) {
            eprintln!("fuzz: {error}");
            std::process::exit(1);
        }
        let mut features = Vec::new();
        let mut new = false;
        coverage::collect(|edge, bucket| {
            features.push((edge, bucket));
            let seen = self.seen.entry(edge).or_default();
            new |= *seen & bucket == 0;
            *seen |= bucket;
        });
        if !new || !self.known.insert(name(input)) {
            return Ok(false);
        }
        let work = self.tally.last_work;
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
        let input =
            mutate(&mut self.random, &self.entries[index].bytes, &self.entries[other].bytes);
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
        self.seen.len()
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
        self.entries.retain(|entry| entry.bytes.len() <= MAX_INPUT);
        Ok(count)
    }
}
