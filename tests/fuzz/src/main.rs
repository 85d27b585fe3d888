// SPDX-License-Identifier: MIT OR Apache-2.0
//! Coverage-guided fuzzing of what reads and patches device trees: `make fuzz`, and docs/fuzzing.md.
//!
//! A loop of our own, in a process of its own per run, on the instrumentation that stable rustc has (SanitizerCoverage,
//! see `instrument.sh`). The fuzzers that are kept well by others were tried first. libFuzzer (`libfuzzer-sys`) is
//! C++, and a machine that builds Tagstash has a C compiler alone. LibAFL 0.15, with the fewest features that make an
//! in-process fuzzer, is 144 crates and four minutes of two cores, for a test that runs for half a minute. What is left
//! to write besides the mutations of trees and the oracles, which no library has, is the loop in `engine` and the
//! two functions in `coverage`.
//!
//! | module | what it is for |
//! | --- | --- |
//! | [`target`] | what is run on an input, and what must hold |
//! | [`mutate`] | changes to bytes and to trees |
//! | [`mod@engine`] | the loop, and the corpus |
//! | [`coverage`] | edges, work and stack of a call |
//! | [`heap`] | heap of a call |
//! | [`tree`], [`ranges`] | the models that results are compared with |
//! | [`seeds`] | first inputs |

mod coverage;
mod engine;
mod heap;
mod mutate;
mod random;
mod ranges;
mod seeds;
mod target;
mod tree;
#[path = "../../trees/mod.rs"]
mod trees;

use engine::{Engine, files, name};
use std::env;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};
use target::Tally;

const HELP: &str = "\
usage: fuzz test [--runs N] [--seed N] [--least N]   replay the corpus and a number of runs, as TAP
       fuzz run [--seconds N] [--seed N]             fuzz for a time
       fuzz minimise                                 rewrite the corpus with the smallest inputs that cover as much
       fuzz replay FILE...                           run these inputs
  --corpus DIR   the corpus that is kept (default tests/fuzz/corpus)
  --build DIR    where new inputs and findings go (default build/fuzz)
Ends with 0 if nothing was found, 1 and the input's file if something was, 2 for a mistake.";

/// Names of corpus files that `minimise` keeps, whatever they cover.
const KEPT: [&str; 2] = ["seed-", "found-"];

/// The tests of `fuzz test`. One whose result is missing is the one that the process ended in.
const TESTS: [&str; 4] = [
    "the oracles refuse a copy that is not one",
    "the corpus is replayed",
    "the bounded run finds nothing",
    "the bounded run covers enough",
];

/// The worker's exit status where a test failed without a finding.
const UNFIT: i32 = 3;
/// The exit status for a mistake.
const MISTAKE: i32 = 2;

struct Options {
    command: String,
    files: Vec<PathBuf>,
    runs: u64,
    seconds: u64,
    seed: u64,
    least: usize,
    corpus: PathBuf,
    build: PathBuf,
    worker: bool,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Options, String> {
        let mut options = Options {
            command: String::new(),
            files: Vec::new(),
            runs: 50_000,
            seconds: 60,
            seed: 1,
            least: 1,
            corpus: PathBuf::from("tests/fuzz/corpus"),
            build: PathBuf::from("build/fuzz"),
            worker: false,
        };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            let number = |text: &String| text.parse().map_err(|_| format!("{text} is no number"));
            match argument.as_str() {
                "--runs" => options.runs = number(value()?)?,
                "--seconds" => options.seconds = number(value()?)?,
                "--seed" => options.seed = number(value()?)?,
                "--least" => options.least = number(value()?)? as usize,
                "--corpus" => options.corpus = PathBuf::from(value()?),
                "--build" => options.build = PathBuf::from(value()?),
                "--worker" => options.worker = true,
                option if option.starts_with('-') => return Err(format!("{option} is no option")),
                command if options.command.is_empty() => options.command = command.to_string(),
                file => options.files.push(PathBuf::from(file)),
            }
        }
        match options.command.as_str() {
            "test" | "run" | "minimise" if options.files.is_empty() => Ok(options),
            "replay" if !options.files.is_empty() => Ok(options),
            other => Err(format!("{other:?} is no command, or has files too many or too few")),
        }
    }

    fn current(&self) -> PathBuf {
        self.build.join("current")
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help") {
        println!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let outcome = Options::parse(&arguments).and_then(|options| {
        if coverage::edges() == 0 {
            return Err("built without instrumentation: use `make fuzz`".to_string());
        }
        match options.worker {
            true => worker(options).map_err(|error| error.to_string()),
            false => supervise(&options, &arguments).map_err(|error| error.to_string()),
        }
    });
    outcome.unwrap_or_else(|error| {
        eprintln!("fuzz: {error}\n{HELP}");
        ExitCode::from(MISTAKE as u8)
    })
}

/// Runs the work in a process of its own, which a panic, an endless loop or a stack that overflows ends; then
/// keeps the input that did it.
fn supervise(options: &Options, arguments: &[String]) -> io::Result<ExitCode> {
    fs::create_dir_all(options.build.join("corpus"))?;
    fs::write(options.current(), [])?;
    if options.command == "test" {
        println!("1..{}", TESTS.len());
    }
    let status = Command::new(env::current_exe()?).args(arguments).arg("--worker").status()?;
    if status.success() {
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(code @ (UNFIT | MISTAKE)) = status.code() {
        let code = if code == UNFIT { 1 } else { MISTAKE as u8 };
        return Ok(ExitCode::from(code));
    }
    let state = fs::read(options.current())?;
    let Some((length, rest)) = state.split_first_chunk() else {
        println!("fuzz: {status}, before any input");
        return Ok(ExitCode::FAILURE);
    };
    let input = rest.get(..u32::from_le_bytes(*length) as usize).unwrap_or(rest);
    let file = options.build.join(format!("finding-{:016x}", name(input)));
    fs::write(&file, input)?;
    println!("fuzz: {status}; the input is kept: make fuzz REPLAY={}", file.display());
    Ok(ExitCode::FAILURE)
}

/// Runs the command on a thread whose stack is large: it is the watched calls' that is bounded.
fn worker(options: Options) -> io::Result<ExitCode> {
    let work = move || match options.command.as_str() {
        "test" => test(&options),
        "run" => run(&options),
        "minimise" => minimise(&options),
        _ => replay(&options),
    };
    let thread = thread::Builder::new().stack_size(8 << 20).spawn(work)?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the worker panicked")))
}

fn engine(options: &Options, found: Option<PathBuf>) -> io::Result<Engine> {
    Ok(Engine::new(options.seed, File::options().write(true).open(options.current())?, found))
}

/// The contents of a directory's files.
fn contents(directory: &Path) -> io::Result<impl Iterator<Item = Vec<u8>> + use<>> {
    Ok(files(directory)?.into_iter().map(|(_, bytes)| bytes))
}

fn show(engine: &Engine, seconds: f64) {
    let (count, bytes) = engine.size();
    let tally = &engine.tally;
    println!(
        "# {seconds:6.0} s: {} runs, {:.0}/s; {} edges; corpus {count} inputs, {} KiB",
        tally.inputs,
        tally.inputs as f64 / seconds.max(0.001),
        engine.edges(),
        bytes >> 10,
    );
    let _ = io::stdout().flush();
}

fn summary(tally: &Tally) {
    println!(
        "# of {} inputs: {} good blobs, {} trees read, {} consoles, {} with tag storage, {} copies, {} overlays, {} kernels",
        tally.inputs,
        tally.blobs,
        tally.trees,
        tally.consoles,
        tally.storages,
        tally.copies,
        tally.overlays,
        tally.kernels,
    );
    println!(
        "# at most: {} edges a byte, {} bytes of stack, {} % of the heap that was said",
        tally.work, tally.stack, tally.heap,
    );
}

fn test(options: &Options) -> io::Result<ExitCode> {
    let mut failed = false;
    let mut verdict = |number: usize, good: bool, more: String| {
        failed |= !good;
        println!("{}ok {number} - {}{more}", if good { "" } else { "not " }, TESTS[number - 1]);
        let _ = io::stdout().flush();
    };
    verdict(1, target::oracles_bite(), String::new());

    let mut engine = engine(options, None)?;
    engine.load(seeds::seeds())?;
    let replayed = engine.load(contents(&options.corpus)?)?;
    verdict(2, replayed > 0, format!(": {replayed} inputs, {} edges", engine.edges()));

    for _ in 0..options.runs {
        engine.step()?;
    }
    verdict(3, true, format!(": {} runs, seed {}", options.runs, options.seed));
    summary(&engine.tally);
    let tally = engine.tally;
    // Each kind of outcome in no small part of the runs.
    let kinds =
        [tally.blobs, tally.trees, tally.consoles, tally.storages, tally.copies, tally.overlays];
    let enough =
        engine.edges() >= options.least && kinds.iter().all(|kind| *kind > options.runs / 50);
    verdict(4, enough, format!(": {} edges, at least {}", engine.edges(), options.least));
    Ok(if failed { ExitCode::from(UNFIT as u8) } else { ExitCode::SUCCESS })
}

fn run(options: &Options) -> io::Result<ExitCode> {
    let found = options.build.join("corpus");
    let mut engine = engine(options, Some(found.clone()))?;
    let started = Instant::now();
    engine.load(seeds::seeds())?;
    engine.load(contents(&options.corpus)?)?;
    engine.load(contents(&found)?)?;
    show(&engine, started.elapsed().as_secs_f64());
    let end = Duration::from_secs(options.seconds);
    let mut next = Duration::from_secs(10);
    while started.elapsed() < end {
        for _ in 0..64 {
            engine.step()?;
        }
        if started.elapsed() >= next {
            show(&engine, started.elapsed().as_secs_f64());
            next = started.elapsed() + Duration::from_secs(30).min(started.elapsed() / 2);
        }
    }
    show(&engine, started.elapsed().as_secs_f64());
    summary(&engine.tally);
    println!("# nothing was found");
    Ok(ExitCode::SUCCESS)
}

fn minimise(options: &Options) -> io::Result<ExitCode> {
    let found = options.build.join("corpus");
    let mut engine = engine(options, None)?;
    let kept = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        KEPT.iter().any(|prefix| name.starts_with(prefix))
    };
    for directory in [&options.corpus, &found] {
        engine.load(contents(directory)?)?;
    }
    for (path, _) in files(&options.corpus)? {
        if !kept(&path) {
            fs::remove_file(path)?;
        }
    }
    fs::create_dir_all(&options.corpus)?;
    let smallest = engine.smallest(false);
    for input in &smallest {
        fs::write(options.corpus.join(format!("{:016x}", name(input))), input)?;
    }
    let bytes: usize = smallest.iter().map(|input| input.len()).sum();
    println!("# {} inputs, {} KiB cover {} edges", smallest.len(), bytes >> 10, engine.edges());
    // What was found beyond that is of use to the next run, if no input takes another's place.
    let keep: Vec<PathBuf> = engine
        .smallest(true)
        .iter()
        .map(|input| found.join(format!("{:016x}", name(input))))
        .collect();
    for (path, _) in files(&found)? {
        if !keep.contains(&path) {
            fs::remove_file(path)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn replay(options: &Options) -> io::Result<ExitCode> {
    let mut engine = engine(options, None)?;
    for file in &options.files {
        println!("# {}", file.display());
        engine.run(&fs::read(file)?)?;
    }
    summary(&engine.tally);
    println!("# nothing was found");
    Ok(ExitCode::SUCCESS)
}
