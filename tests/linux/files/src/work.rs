// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random operations by several processes, each on files of its own, and every byte that is read
//! is compared with the model.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use linux_program::println;

use crate::content::PAGE_CELLS;
use crate::file::{File, MOST_CELLS, SECTOR_CELLS, Way, words};
use crate::random::Random;
use crate::sys::{self, Change, Errno, Mapping, Memory, Range, Result};

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// Where the files are.
    pub directory: &'a str,
    /// How many processes.
    pub processes: u64,
    /// Files of each.
    pub files: u64,
    /// KiB that a file has at most.
    pub size: u64,
    /// Operations of each process.
    pub operations: u64,
    /// What the random numbers begin with.
    pub seed: u64,
}

/// Most processes.
pub const MOST_PROCESSES: u64 = 64;
/// Operations between two lines of progress, over all processes.
const PROGRESS: u64 = 5_000;

/// What is done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Read,
    Write,
    MapRead,
    MapWrite,
    DirectRead,
    DirectWrite,
    Shorten,
    Lengthen,
    Punch,
    Zero,
    Collapse,
    Insert,
    Sync,
    Drop,
    Recreate,
}

use Operation::{
    Collapse, DirectRead, DirectWrite, Drop, Insert, Lengthen, MapRead, MapWrite, Punch, Read,
    Recreate, Shorten, Sync, Write, Zero,
};

/// The operations, how often each is picked, and their names.
const MIX: [(Operation, u64, &str); 15] = [
    (Read, 450, "reads"),
    (Write, 120, "writes"),
    (MapRead, 150, "reads by mmap"),
    (MapWrite, 60, "writes by mmap"),
    (DirectRead, 30, "reads by O_DIRECT"),
    (DirectWrite, 20, "writes by O_DIRECT"),
    (Shorten, 20, "truncates to less"),
    (Lengthen, 20, "truncates to more"),
    (Punch, 30, "holes punched"),
    (Zero, 15, "ranges zeroed"),
    (Collapse, 3, "ranges collapsed"),
    (Insert, 3, "ranges inserted"),
    (Sync, 5, "syncs"),
    (Drop, 80, "drops from the page cache"),
    (Recreate, 10, "files made anew"),
];

/// The place of writes among them.
const WRITES: usize = 1;

/// Tells which operations make Linux drop all that the stash has of the file. Half of the files are
/// spared them, or pages would not stay there for long enough that one that is stale could show.
fn is_violent(operation: Operation) -> bool {
    matches!(
        operation,
        DirectWrite | Shorten | Lengthen | Punch | Zero | Collapse | Insert | Recreate
    )
}

/// What the processes share.
#[repr(C)]
struct Shared {
    done: [AtomicU64; MIX.len()],
    all: AtomicU64,
    wrong: AtomicU64,
}

/// Does all of it; returns the exit status: 0 only if every process came to its end and nothing
/// was wrong.
pub fn run(plan: Plan<'_>) -> u64 {
    let Ok(mapping) = Mapping::anonymous(size_of::<Shared>() as u64, Memory::Shared) else {
        println!("filework: no memory");
        return 1;
    };
    // SAFETY: zeros are a valid value of these atomics, which all processes use as such; the
    // mapping lasts until the end of this function.
    let shared = unsafe { &*(mapping.start() as *const Shared) };
    let mut children = [0; MOST_PROCESSES as usize];
    let mut failed = 0;
    for (number, child) in (0..plan.processes).zip(&mut children) {
        // SAFETY: what is shared are atomics.
        match unsafe { sys::fork() } {
            Ok(0) => {
                let status = match Worker::new(plan, number).and_then(|worker| worker.work(shared))
                {
                    Ok(()) => 0,
                    Err(Errno(error)) => {
                        println!("filework: process {number} gives up: error {error}");
                        1
                    }
                };
                sys::exit(status)
            }
            Ok(id) => *child = id,
            Err(Errno(error)) => {
                println!("filework: process {number} cannot be made: error {error}");
                failed += 1;
            }
        }
    }
    for child in children.into_iter().filter(|&child| child != 0) {
        if sys::wait(child) != Ok(Change::Exited(0)) {
            failed += 1;
        }
    }
    for ((_, _, name), done) in MIX.iter().zip(&shared.done) {
        println!("filework: {} {name}", done.load(Relaxed));
    }
    let wrong = shared.wrong.load(Relaxed);
    println!(
        "filework: {} operations, {wrong} mismatches, {failed} processes failed",
        shared.all.load(Relaxed)
    );
    u64::from(wrong != 0 || failed != 0)
}

/// One process.
struct Worker {
    plan_operations: u64,
    random: Random,
    files: &'static mut [Option<File>],
    buffer: &'static mut [u64],
}

impl Worker {
    fn new(plan: Plan<'_>, number: u64) -> Result<Worker> {
        let files = slots(plan.files)?;
        for (id, file) in (number * plan.files..).zip(files.iter_mut()) {
            let made =
                File::create(plan.directory, id as u32, plan.size * 1024 / crate::content::CELL)?;
            *file = Some(made);
        }
        Ok(Worker {
            plan_operations: plan.operations,
            random: Random::new(plan.seed, number),
            files,
            buffer: words(MOST_CELLS * crate::content::CELL_WORDS as u64)?,
        })
    }

    /// Does the operations, and reads everything at the end.
    fn work(mut self, shared: &Shared) -> Result<()> {
        let weights = MIX.iter().map(|(_, weight, _)| weight).sum();
        for _ in 0..self.plan_operations {
            let mut at = self.random.below(weights);
            let kind = MIX.iter().position(|&(_, weight, _)| {
                let here = at < weight;
                at = at.wrapping_sub(weight);
                here
            });
            let mut kind = kind.unwrap_or(0);
            let which = self.random.below(self.files.len() as u64) as usize;
            if which.is_multiple_of(2) && is_violent(MIX[kind].0) {
                kind = WRITES;
            }
            let Some(file) = &mut self.files[which] else { continue };
            let wrong = operate(MIX[kind].0, file, &mut self.random, self.buffer)
                .inspect_err(|error| println!("filework: {}: error {}", MIX[kind].2, error.0))?;
            shared.done[kind].fetch_add(1, Relaxed);
            shared.wrong.fetch_add(wrong, Relaxed);
            let all = shared.all.fetch_add(1, Relaxed) + 1;
            if all.is_multiple_of(PROGRESS) {
                println!("filework: {all} operations so far");
            }
            // One wrong read tells what is wrong; more of it would only fill the console.
            if shared.wrong.load(Relaxed) > 100 {
                println!("filework: too many mismatches to go on");
                return Err(Errno(5));
            }
        }
        for file in self.files.iter().flatten() {
            let mut at = 0;
            while at < file.cells() {
                let cells = (file.cells() - at).min(MOST_CELLS);
                shared.wrong.fetch_add(file.read(Way::Call, at, cells, self.buffer)?, Relaxed);
                at += cells;
            }
        }
        Ok(())
    }
}

/// Makes room for files.
fn slots(count: u64) -> Result<&'static mut [Option<File>]> {
    let mapping = Mapping::anonymous(count * size_of::<Option<File>>() as u64, Memory::Private)?;
    let start = mapping.start() as *mut Option<File>;
    core::mem::forget(mapping);
    for index in 0..count as usize {
        // SAFETY: inside the new memory, which nothing else refers to and is never unmapped.
        unsafe { start.add(index).write(None) };
    }
    // SAFETY: all of it was written just now.
    Ok(unsafe { core::slice::from_raw_parts_mut(start, count as usize) })
}

/// Picks how many cells an operation is about: mostly a page or less, now and then many.
fn pick_length(random: &mut Random) -> u64 {
    let most = match random.below(16) {
        0 => MOST_CELLS,
        1..4 => 4 * PAGE_CELLS,
        _ => PAGE_CELLS,
    };
    1 + random.below(most)
}

/// Picks a range inside the file, in units of so many cells; None if it has not even one.
fn pick_inside(file: &File, random: &mut Random, unit: u64) -> Option<(u64, u64)> {
    let units = file.cells() / unit;
    if units == 0 {
        return None;
    }
    let first = random.below(units);
    let length = pick_length(random).div_ceil(unit).min(units - first);
    Some((first * unit, length * unit))
}

/// Picks a range to write, which may reach past the end but leaves no gap that is larger than an
/// operation.
fn pick_write(file: &File, random: &mut Random, unit: u64) -> (u64, u64) {
    let reach = (file.cells() + MOST_CELLS).min(file.most_cells()) / unit;
    let first = random.below(reach);
    (first * unit, pick_length(random).div_ceil(unit).min(reach - first).max(1) * unit)
}

/// Does one operation; returns how many cells were wrong. What does not fit the file as it is does
/// nothing.
fn operate(
    operation: Operation,
    file: &mut File,
    random: &mut Random,
    buffer: &mut [u64],
) -> Result<u64> {
    match operation {
        Read | MapRead | DirectRead => {
            let way = match operation {
                Read => Way::Call,
                MapRead => Way::Map,
                _ => Way::Direct,
            };
            let unit = if way == Way::Direct { SECTOR_CELLS } else { 1 };
            if let Some((first, cells)) = pick_inside(file, random, unit) {
                return file.read(way, first, cells, buffer);
            }
        }
        Write | DirectWrite => {
            let (way, unit) = match operation {
                DirectWrite => (Way::Direct, SECTOR_CELLS),
                // Whole pages are written without being read first: what the stash has of them is
                // then not asked for, and has to be dropped.
                _ if random.below(2) == 0 => (Way::Call, PAGE_CELLS),
                _ => (Way::Call, 1),
            };
            let (first, cells) = pick_write(file, random, unit);
            file.write(way, first, cells, buffer, false)?;
        }
        MapWrite => {
            if let Some((first, cells)) = pick_inside(file, random, 1) {
                let sync = random.below(8) == 0;
                file.write(Way::Map, first, cells, buffer, sync)?;
            }
        }
        Shorten => {
            // Mostly a little, so that files do not stay short.
            let most =
                if random.below(8) == 0 { file.cells() } else { file.cells().min(MOST_CELLS) };
            file.truncate(file.cells() - random.below(most + 1))?;
        }
        Lengthen => {
            let room = (file.most_cells() - file.cells()).min(2 * MOST_CELLS);
            file.truncate(file.cells() + random.below(room + 1))?;
        }
        Punch | Zero => {
            let range = if operation == Punch { Range::Punch } else { Range::Zero };
            if let Some((first, cells)) = pick_inside(file, random, 1) {
                file.zero(range, first, cells)?;
            }
        }
        Collapse => {
            if let Some((first, cells)) = pick_inside(file, random, PAGE_CELLS) {
                // A range that reaches the end is refused: truncating is for that.
                if first + cells < file.cells() {
                    file.collapse(first, cells)?;
                }
            }
        }
        Insert => {
            if let Some((first, cells)) = pick_inside(file, random, PAGE_CELLS)
                && file.cells() + cells <= file.most_cells()
            {
                file.insert(first, cells)?;
            }
        }
        Sync => file.sync()?,
        Drop => {
            if random.below(16) == 0 {
                file.sync()?;
            }
            match pick_inside(file, random, PAGE_CELLS) {
                Some((first, cells)) if random.below(4) != 0 => file.drop_cached(first, cells)?,
                _ => file.drop_cached(0, 0)?,
            }
        }
        Recreate => file.recreate()?,
    }
    Ok(0)
}
