// SPDX-License-Identifier: MIT OR Apache-2.0
//! Coverage-guided fuzzing of what reads and patches device trees, and of the hypercalls: `make fuzz`, and docs/fuzzing.md.
//!
//! A loop of our own, in a process of its own per run, on the instrumentation that stable rustc has (SanitizerCoverage,
//! see `instrument.sh`). The fuzzers that are kept well by others were tried first. libFuzzer (`libfuzzer-sys`) is
//! C++, and a machine that builds Tagstash has a C compiler alone. LibAFL 0.15, with the fewest features that make an
//! in-process fuzzer, is 144 crates and four minutes of two cores, for a test that runs for half a minute. What is left
//! to write besides the mutations of trees and calls and the oracles, which no library has, is the loop in `engine` and
//! the two functions in `coverage`.
//!
//! | module | what it is for |
//! | --- | --- |
//! | [`target`] | device trees: what is run on an input, and what must hold |
//! | [`mutate`] | changes to bytes and to trees |
//! | [`tree`], [`ranges`] | the models that results are compared with |
//! | [`seeds`] | first trees |
//! | [`calls`] | hypercalls, the same |
//! | [`mod@engine`] | the loop, and the corpus |
//! | [`coverage`] | edges, work and stack of a call |
//! | [`heap`] | heap of a call |

mod calls;
mod coverage;
mod engine;
mod heap;
mod mutate;
mod random;
mod ranges;
mod seeds;
#[path = "../../sim/mod.rs"]
mod sim;
mod target;
mod tree;
#[path = "../../trees/mod.rs"]
mod trees;

use calls::Calls;
use engine::{Engine, Target, files, name};
use std::env;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use target::Trees;

const HELP: &str = "\
usage: fuzz test --target T [--runs N] [--seed N] [--least N]   replay the corpus and a number of runs, as TAP
       fuzz run [--target T] [--seconds N] [--seed N]           fuzz for a time, which both targets share
       fuzz minimise [--target T]                               rewrite the corpus with the smallest inputs that cover as much
       fuzz replay FILE...                                      run these inputs, and print their calls
       fuzz shrink FILE...                                      make a smaller input of each that fails as well
  --target T     trees (device trees) or calls (hypercalls); both if it is left out
  --corpus DIR   the corpus that is kept (default tests/fuzz/corpus)
  --build DIR    where new inputs and findings go (default build/fuzz)
Ends with 0 if nothing was found, 1 and the input's file if something was, 2 for a mistake.";

/// Names of corpus files that `minimise` keeps, whatever they cover.
const KEPT: [&str; 2] = ["seed-", "found-"];

/// The tests of `fuzz test`. One whose result is missing is the one that the process ended in.
const TESTS: [&str; 4] = [
    "the oracles refuse what is wrong",
    "the corpus is replayed",
    "the bounded run finds nothing",
    "the bounded run covers enough",
];

/// The worker's exit status where a test failed without a finding.
const UNFIT: i32 = 3;
/// The exit status for a mistake.
const MISTAKE: i32 = 2;

/// The names of what can be fuzzed.
const TARGETS: [&str; 2] = [Trees::NAME, Calls::NAME];

#[derive(Clone)]
struct Options {
    command: String,
    files: Vec<PathBuf>,
    targets: Vec<&'static str>,
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
            targets: TARGETS.to_vec(),
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
                "--target" => {
                    let wanted = value()?;
                    options.targets.retain(|name| name == wanted);
                    if options.targets.is_empty() {
                        return Err(format!(
                            "there is no target {wanted}, only {}",
                            TARGETS.join(" and ")
                        ));
                    }
                }
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
            "test" if options.targets.len() > 1 => Err("test needs a --target".to_string()),
            "test" | "run" | "minimise" if options.files.is_empty() => Ok(options),
            "replay" | "shrink" if !options.files.is_empty() => Ok(options),
            other => Err(format!("{other:?} is no command, or has files too many or too few")),
        }
    }

    /// What this process works on, where it is a worker or deals with one target at a time.
    fn target(&self) -> &'static str {
        self.targets[0]
    }

    fn corpus(&self) -> PathBuf {
        self.corpus.join(self.target())
    }

    fn build(&self) -> PathBuf {
        self.build.join(self.target())
    }

    fn current(&self) -> PathBuf {
        self.build().join("current")
    }

    /// The command line of a worker that does the same.
    fn worker(&self) -> io::Result<Command> {
        let mut worker = Command::new(env::current_exe()?);
        worker.arg(&self.command).args(&self.files).args(["--worker", "--target", self.target()]);
        for (name, value) in
            [("--runs", self.runs), ("--seconds", self.seconds), ("--seed", self.seed)]
        {
            worker.args([name, &value.to_string()]);
        }
        worker.args(["--least", &self.least.to_string()]);
        worker.arg("--corpus").arg(&self.corpus).arg("--build").arg(&self.build);
        Ok(worker)
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
        let outcome = match (options.worker, options.command.as_str(), options.target()) {
            (false, "shrink", _) => shrink(&options),
            (false, ..) => supervise_all(&options),
            (true, _, Calls::NAME) => worker(options, Calls::new),
            (true, ..) => worker(options, Trees::default),
        };
        outcome.map_err(|error| error.to_string())
    });
    outcome.unwrap_or_else(|error| {
        eprintln!("fuzz: {error}\n{HELP}");
        ExitCode::from(MISTAKE as u8)
    })
}

/// What a file is an input of.
fn target_of(file: &Path) -> io::Result<&'static str> {
    let bytes =
        fs::read(file).map_err(|error| io::Error::other(format!("{}: {error}", file.display())))?;
    Ok(if bytes.starts_with(calls::MAGIC) { Calls::NAME } else { Trees::NAME })
}

/// Does the work for one target after the other, up to the first finding.
fn supervise_all(options: &Options) -> io::Result<ExitCode> {
    let share = options.targets.len() as u64;
    for &target in &options.targets {
        let mut own = Options { targets: vec![target], ..options.clone() };
        own.seconds = options.seconds / share;
        if options.command == "replay" {
            own.files.clear();
            for file in &options.files {
                if target_of(file)? == target {
                    own.files.push(file.clone());
                }
            }
            if own.files.is_empty() {
                continue;
            }
        }
        if share > 1 {
            println!("# {target}");
        }
        let code = supervise(&own)?;
        if code != ExitCode::SUCCESS {
            return Ok(code);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs the work in a process of its own, which a panic, an endless loop or a stack that overflows ends; then
/// keeps the input that did it.
fn supervise(options: &Options) -> io::Result<ExitCode> {
    fs::create_dir_all(options.build().join("corpus"))?;
    fs::write(options.current(), [])?;
    if options.command == "test" {
        println!("1..{}", TESTS.len());
    }
    let status = options.worker()?.status()?;
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
    let file = options.build().join(format!("finding-{:016x}", name(input)));
    fs::write(&file, input)?;
    println!("fuzz: {status}; the input is kept: make fuzz REPLAY={}", file.display());
    Ok(ExitCode::FAILURE)
}

/// Takes out of each input what it fails without, and writes what is left beside it.
fn shrink(options: &Options) -> io::Result<ExitCode> {
    for file in &options.files {
        let target = target_of(file)?;
        let (header, unit) = match target {
            Calls::NAME => Calls::UNITS,
            _ => Trees::UNITS,
        };
        let small = file.with_extension("small");
        let own = Options {
            command: "replay".to_string(),
            files: vec![small.clone()],
            targets: vec![target],
            ..options.clone()
        };
        fs::create_dir_all(own.build().join("corpus"))?;
        fs::write(own.current(), [])?;
        let fails = |input: &[u8]| -> io::Result<bool> {
            fs::write(&small, input)?;
            let status = own.worker()?.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
            Ok(!status.success())
        };
        let mut input = fs::read(file)?;
        if !fails(&input)? {
            fs::remove_file(&small)?;
            println!("fuzz: nothing is wrong with {}", file.display());
            continue;
        }
        let mut length = input.len().saturating_sub(header) / unit;
        while length > 0 {
            let mut at = header;
            while at < input.len() {
                let end = input.len().min(at + length * unit);
                let less = [&input[..at], &input[end..]].concat();
                if fails(&less)? {
                    input = less;
                } else {
                    at = end;
                }
            }
            length /= 2;
        }
        for at in header.saturating_sub(3)..input.len() {
            let old = std::mem::take(&mut input[at]);
            if old != 0 && !fails(&input)? {
                input[at] = old;
            }
        }
        fs::write(&small, &input)?;
        println!("fuzz: {} bytes fail as well: make fuzz REPLAY={}", input.len(), small.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs the command on a thread whose stack is large: it is the watched calls' that is bounded.
fn worker<T: Target + 'static>(options: Options, target: fn() -> T) -> io::Result<ExitCode> {
    let work = move || {
        let target = target();
        match options.command.as_str() {
            "test" => test(&options, target),
            "run" => run(&options, target),
            "minimise" => minimise(&options, target),
            _ => replay(&options, target),
        }
    };
    let thread = thread::Builder::new().stack_size(8 << 20).spawn(work)?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the worker panicked")))
}

fn engine<T: Target>(
    options: &Options,
    target: T,
    found: Option<PathBuf>,
) -> io::Result<Engine<T>> {
    let current = File::options().write(true).open(options.current())?;
    Ok(Engine::new(target, options.seed, current, found))
}

/// The contents of a directory's files.
fn contents(directory: &Path) -> io::Result<impl Iterator<Item = Vec<u8>> + use<>> {
    Ok(files(directory)?.into_iter().map(|(_, bytes)| bytes))
}

fn show<T: Target>(engine: &Engine<T>, seconds: f64) {
    let (count, bytes) = engine.size();
    println!(
        "# {seconds:6.0} s: {} runs, {:.0}/s; {} edges; corpus {count} inputs, {} KiB",
        engine.runs,
        engine.runs as f64 / seconds.max(0.001),
        engine.edges(),
        bytes >> 10,
    );
    let _ = io::stdout().flush();
}

fn summary<T: Target>(engine: &Engine<T>) {
    for line in engine.target.summary() {
        println!("# {line}");
    }
}

fn test<T: Target>(options: &Options, target: T) -> io::Result<ExitCode> {
    let mut failed = false;
    let mut verdict = |number: usize, good: bool, more: String| {
        failed |= !good;
        println!("{}ok {number} - {}{more}", if good { "" } else { "not " }, TESTS[number - 1]);
        let _ = io::stdout().flush();
    };
    verdict(1, T::oracles_bite(), String::new());

    let mut engine = engine(options, target, None)?;
    engine.load(T::seeds())?;
    let replayed = engine.load(contents(&options.corpus())?)?;
    verdict(2, replayed > 0, format!(": {replayed} inputs, {} edges", engine.edges()));

    for _ in 0..options.runs {
        engine.step()?;
    }
    verdict(3, true, format!(": {} runs, seed {}", options.runs, options.seed));
    summary(&engine);
    let enough = engine.edges() >= options.least && engine.target.got_far(options.runs);
    verdict(4, enough, format!(": {} edges, at least {}", engine.edges(), options.least));
    Ok(if failed { ExitCode::from(UNFIT as u8) } else { ExitCode::SUCCESS })
}

fn run<T: Target>(options: &Options, target: T) -> io::Result<ExitCode> {
    let found = options.build().join("corpus");
    let mut engine = engine(options, target, Some(found.clone()))?;
    let started = Instant::now();
    engine.load(T::seeds())?;
    engine.load(contents(&options.corpus())?)?;
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
    summary(&engine);
    println!("# nothing was found");
    Ok(ExitCode::SUCCESS)
}

fn minimise<T: Target>(options: &Options, target: T) -> io::Result<ExitCode> {
    let (corpus, found) = (options.corpus(), options.build().join("corpus"));
    let mut engine = engine(options, target, None)?;
    let kept = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        KEPT.iter().any(|prefix| name.starts_with(prefix))
    };
    for directory in [&corpus, &found] {
        engine.load(contents(directory)?)?;
    }
    for (path, _) in files(&corpus)? {
        if !kept(&path) {
            fs::remove_file(path)?;
        }
    }
    fs::create_dir_all(&corpus)?;
    let smallest = engine.smallest(false);
    for input in &smallest {
        fs::write(corpus.join(format!("{:016x}", name(input))), input)?;
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

fn replay<T: Target>(options: &Options, mut target: T) -> io::Result<ExitCode> {
    target.explain();
    let mut engine = engine(options, target, None)?;
    for file in &options.files {
        println!("# {}", file.display());
        engine.run(&fs::read(file)?)?;
    }
    summary(&engine);
    println!("# nothing was found");
    Ok(ExitCode::SUCCESS)
}
