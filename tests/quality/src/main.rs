// SPDX-License-Identifier: MIT OR Apache-2.0
//! How good a cache the stash is: `make quality`.
//!
//! The stash is an exclusive victim cache: it gets what a page cache lets go of, and a hit takes
//! the page out. Traces of what a page cache asks are run on the stash itself, through its
//! hypercalls, and on ideal caches of the same capacity.
//!
//! | module | what it is for |
//! | --- | --- |
//! | [`workload`], [`claims`] | what programs read and write; who needs tags |
//! | [`guest`], [`mod@trace`] | the page cache in front, and what it asks |
//! | [`real`] | the stash |
//! | [`ideal`], [`offline`] | what it is compared with |
//! | [`associative`], [`explore`] | a model of its table, in which the design varies |
//! | [`cache`], [`row`], [`cases`] | measuring, goals, and the workloads |
//! | [`report`], [`plot`] | tables, JSON, plot |
//! | [`keys`], [`queue`] | keys of files; the order of pages |

mod associative;
mod cache;
mod cases;
mod claims;
mod explore;
mod guest;
mod ideal;
mod keys;
mod offline;
mod plot;
mod queue;
mod real;
mod report;
mod row;
mod trace;
mod workload;

#[cfg(test)]
mod suite;

use row::{Row, Verdict};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use std::{env, fs, io, thread};
use workload::Workload;

const HELP: &str = "\
usage: quality [--seed N] [--only TEXT] [--no-explore] [--build DIR]
  --seed N       of the workloads' random numbers (default 1; what is known to miss is known for 1)
  --only TEXT    only workloads whose name has TEXT in it, such as 'Zipf 0.9' or 'claims'
  --no-explore   leave the comparison of designs out
  --build DIR    where quality.md, quality.json and quality.svg go (default build/quality)
Ends with 0 if every goal is met, or missed as is known; with 1 if not; with 2 for a mistake.";

struct Options {
    seed: u64,
    only: String,
    explore: bool,
    build: PathBuf,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options {
            seed: 1,
            only: String::new(),
            explore: true,
            build: PathBuf::from("build/quality"),
        };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--seed" => {
                    let text = value()?;
                    options.seed = text.parse().map_err(|_| format!("{text} is no number"))?;
                }
                "--only" => options.only = value()?,
                "--no-explore" => options.explore = false,
                "--build" => options.build = PathBuf::from(value()?),
                other => return Err(format!("{other} is no option")),
            }
        }
        Ok(options)
    }
}

fn main() -> ExitCode {
    if env::args().any(|argument| argument == "--help") {
        println!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let options = match Options::parse(env::args().skip(1)) {
        Ok(options) => options,
        Err(why) => {
            eprintln!("quality: {why}\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("quality: {why}");
            ExitCode::from(2)
        }
    }
}

/// Does a job for each workload, on all CPUs, and says on standard error how far it is.
fn on_all<T: Send>(
    what: &str,
    workloads: &[Workload],
    job: impl Fn(&Workload) -> T + Sync,
) -> Vec<T> {
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let results: Vec<Mutex<Option<T>>> = workloads.iter().map(|_| Mutex::new(None)).collect();
    let started = Instant::now();
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(workload) = workloads.get(number) else { return };
            let result = job(workload);
            *results[number].lock().expect("no job panicked") = Some(result);
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            let (all, seconds) = (workloads.len(), started.elapsed().as_secs());
            eprintln!(
                "{what} [{done:2}/{all}] {seconds:3} s  {workload}; {} frames",
                workload.frames
            );
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let take = |slot: Mutex<Option<T>>| slot.into_inner().expect("no job panicked");
    results.into_iter().filter_map(take).collect()
}

/// Runs everything, and says whether all goals are met.
fn run(options: &Options) -> io::Result<bool> {
    let chosen = |workloads: Vec<Workload>| -> Vec<Workload> {
        workloads.into_iter().filter(|w| w.to_string().contains(&options.only)).collect()
    };
    let measure = |what: &str, workloads: &[Workload]| {
        on_all(what, workloads, |&workload| Row::run(workload, cases::known(&workload)))
    };
    let workloads = chosen(cases::table(options.seed));
    if workloads.is_empty() {
        let why = format!("no workload's name has {:?} in it", options.only);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let mut rows = measure("rows", &workloads);
    let title = format!(
        "Hit rates, {} frames ({} MiB), seed {}",
        cases::FRAMES,
        cases::FRAMES / 256,
        options.seed
    );
    let mut text = format!("# How good a cache the stash is\n\n{}\n", report::legend());
    text += &report::rows(&title, &rows, false);
    let plot = plot::svg(&title, &rows);
    let sizes = measure("sizes", &chosen(cases::sizes(options.seed)));
    if !sizes.is_empty() {
        text += "\n";
        text += &report::rows("Stashes of 16 MiB to 1 GiB", &sizes, true);
    }
    rows.extend(sizes);
    if options.explore {
        let samples = on_all("designs", &chosen(cases::designs(options.seed)), explore::run);
        text += "\n";
        text += &report::designs_table(&samples);
    }
    fs::create_dir_all(&options.build)?;
    fs::write(options.build.join("quality.md"), &text)?;
    fs::write(options.build.join("quality.json"), report::json(options.seed, &rows))?;
    fs::write(options.build.join("quality.svg"), plot)?;
    println!("{text}");
    let strays: Vec<&Row> = rows.iter().filter(|row| !row.modelled).collect();
    for row in &strays {
        println!("The model answered otherwise than the stash: {}", row.workload);
    }
    let refused: u64 = rows.iter().map(|row| row.refused).sum();
    let missed = rows.iter().filter(|row| row.verdict() == Verdict::Missed).count();
    let operations: usize = rows.iter().map(|row| row.operations).sum();
    let build = options.build.display();
    println!("{build}: quality.md, quality.json, quality.svg");
    println!(
        "{} rows, {operations} calls on the stash, {refused} puts refused, {} rows not modelled, {missed} goals missed",
        rows.len(),
        strays.len()
    );
    Ok(missed == 0 && strays.is_empty())
}
