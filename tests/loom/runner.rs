// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs cases on all CPUs: one process each, since threads of one process would stand in line for
//! the memory of stacks, and since a case that takes its process down is one failure, not the end.
//!
//! A race is explored without preemptions first, then with more and more: up to the bound that the case asks for
//! whatever it costs, and on from there while the next bound is likely to stay within a budget of
//! executions. So the depth depends on the code and on nothing else: the same cases, bounds and
//! executions on any machine. A bound that took no more executions than the one before it cut
//! nothing off: these were all schedules.

use crate::cases::{self, Body, Case};
use crate::matrix;
use crate::race;
use crate::tally::{self, SEEN};
use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::panic::{self, AssertUnwindSafe};
use std::process::{self, Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

const HELP: &str = "\
usage: run [NAME...]     explore at full depth; only cases whose name contains one of these
       test [NAME...]    the part that `make test` runs, as TAP: smaller budget, threes on one frame
       list              the matrix of pairs, and all other cases
  --budget N   explore further preemptions while that is likely to take at most N executions
  --jobs N     processes (default: one for each CPU)
Ends with 0 if nothing was found, 1 if something was, 2 for a mistake.";

/// Executions at one bound that are worth their time.
const FULL_BUDGET: usize = 1_000;
const TEST_BUDGET: usize = 300;

/// Of all gets in races, the least share that must hit, in percent.
const LEAST_HITS: u64 = 10;

const MISTAKE: u8 = 2;

struct Options {
    command: String,
    names: Vec<String>,
    budget: Option<usize>,
    jobs: usize,
    /// As in `test`.
    shallow: bool,
}

/// How far a race was explored.
#[derive(Clone, Copy, Debug, Default)]
struct Depth {
    /// Most preemptions.
    bound: usize,
    /// Schedules with more are left out.
    is_cut: bool,
    /// Executions at the last bound, and at all of them.
    last: usize,
    all: usize,
}

/// What came of a case.
#[derive(Debug)]
struct Outcome {
    number: usize,
    /// `None` if it failed.
    depth: Option<Depth>,
    seconds: f64,
    seen: [u64; SEEN],
    messages: Vec<String>,
}

pub fn main() -> ExitCode {
    let options = match parse(env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("model: {message}\n{HELP}");
            return ExitCode::from(MISTAKE);
        }
    };
    let cases = cases::all();
    match options.command.as_str() {
        "help" => println!("{HELP}"),
        "list" => list(&cases),
        "work" => work(&cases, &options),
        _ => return explore(cases, &options),
    }
    ExitCode::SUCCESS
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    let (command, names) = (String::new(), Vec::new());
    let mut options = Options { command, names, budget: None, jobs, shallow: false };
    let number = |word: Option<String>, name: &str| {
        let word = word.ok_or(format!("{name} needs a number"))?;
        let number = word.parse().ok().filter(|number| *number > 0);
        number.ok_or(format!("{name}: '{word}' is no number above 0"))
    };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--budget" => options.budget = Some(number(words.next(), "--budget")?),
            "--shallow" => options.shallow = true,
            "--jobs" => options.jobs = number(words.next(), "--jobs")?,
            "-h" | "--help" => options.command = "help".to_owned(),
            option if option.starts_with('-') => return Err(format!("no option {option}")),
            _ if options.command.is_empty() => options.command = word,
            _ => options.names.push(word),
        }
    }
    if options.command.is_empty() {
        options.command = "run".to_owned();
    }
    if !["run", "test", "list", "work", "help"].contains(&options.command.as_str()) {
        return Err(format!("no command '{}'", options.command));
    }
    Ok(options)
}

fn list(cases: &[Case]) {
    let pairs = matrix::pairs();
    println!("Every two operations. e, h, f: with the frames empty, half full, full;");
    println!("=: the race of another cell; .: no race, because");
    let reasons = pairs.iter().filter_map(|case| match case.body {
        Body::Gap(reason) => Some(reason),
        _ => None,
    });
    for reason in reasons.collect::<BTreeSet<_>>() {
        println!("   {reason}");
    }
    println!("\n{}", matrix::table(&pairs));
    println!("Other cases:\n");
    for case in &cases[pairs.len()..] {
        match &case.body {
            Body::Gap(_) => {}
            Body::Same(other) => println!("{}: is {other}", case.name),
            _ => println!("{}: {}", case.name, case.why),
        }
    }
}

// ------------------------------------------------------------------------------------------------
// One process of several

/// What the first panic said.
static FIRST_PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Runs the cases whose numbers come in, each in a line, and says in lines what came of them.
fn work(cases: &[Case], options: &Options) {
    let budget = options.budget.unwrap_or(FULL_BUDGET);
    panic::set_hook(Box::new(|info| {
        if let Ok(mut first) = FIRST_PANIC.lock() {
            first.get_or_insert_with(|| info.to_string());
        }
    }));
    // The end of the orders ends a case under way, too: nobody waits for it any more.
    let (sender, orders) = mpsc::channel();
    thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            if let Ok(number) = line.parse::<usize>() {
                let _ = sender.send(number);
            }
        }
        process::exit(0);
    });
    while let Ok(case) = orders.recv().map(|number| &cases[number]) {
        let least =
            if options.shallow { case.test_least.unwrap_or(case.least) } else { case.least };
        let result = panic::catch_unwind(AssertUnwindSafe(|| dive(case, least, budget)));
        let said = FIRST_PANIC.lock().expect("the hook does not panic").take();
        let seen = tally::take().map(|count| count.to_string()).join(" ");
        match result {
            Ok(depth) => {
                let Depth { bound, is_cut, last, all } = depth;
                println!("done {bound} {} {last} {all} {seen}", u8::from(is_cut));
            }
            Err(_) => {
                println!("| {}: {}", case.name, case.why);
                if let Body::Race(race) = &case.body {
                    println!("| {:?}", race.shape);
                    println!("| {:?} at once, after {:?}", race.threads, race.before);
                }
                println!("| execution {} at its bound", race::executions());
                for line in said.unwrap_or_default().lines() {
                    println!("| {line}");
                }
                println!("failed");
                // What the checker left behind is not worth another case.
                return;
            }
        }
    }
}

/// Explores a case as deep as is worth it.
fn dive(case: &Case, least: usize, budget: usize) -> Depth {
    match &case.body {
        Body::Race(race) => {
            let mut depth = Depth::default();
            for bound in 0.. {
                let before = depth.last;
                depth.last = race.clone().explore(bound);
                depth.all += depth.last;
                depth.bound = bound;
                depth.is_cut = depth.last != before;
                let next = depth.last * depth.last.div_ceil(before.max(1)).min(4);
                if !depth.is_cut || bound >= least && next > budget {
                    break;
                }
            }
            assert!(depth.last > 1, "nothing raced");
            depth
        }
        Body::Fault(races, says) => {
            let explored = panic::catch_unwind(AssertUnwindSafe(|| {
                for race in races {
                    race.clone().explore(least);
                }
            }));
            let said = FIRST_PANIC.lock().expect("the hook does not panic").take();
            let said = said.unwrap_or_default();
            assert!(explored.is_err(), "the fault went unseen");
            assert!(said.contains(says), "it should have said '{says}': {said}");
            let last = race::executions();
            Depth { bound: least, is_cut: true, last, all: last }
        }
        Body::Check(check) => {
            let executions = check();
            Depth { bound: 0, is_cut: false, last: executions, all: executions }
        }
        Body::Same(_) | Body::Gap(_) => unreachable!("not run"),
    }
}

/// A process that works.
struct Worker {
    process: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    fn new(budget: usize, shallow: bool) -> io::Result<Worker> {
        let mut process = Command::new(env::current_exe()?)
            .args(["work", "--budget", &budget.to_string()])
            .args(shallow.then_some("--shallow"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let pipes = (process.stdin.take(), process.stdout.take());
        let (Some(orders), Some(answers)) = pipes else { unreachable!("both are piped") };
        Ok(Worker { process, orders, answers: BufReader::new(answers) })
    }

    fn end(self) {
        let Worker { mut process, orders, .. } = self;
        drop(orders);
        let _ = process.wait();
    }

    /// Runs case `number`. Says too whether the process can run another.
    fn run(&mut self, number: usize) -> (Outcome, bool) {
        let begun = Instant::now();
        let mut messages = Vec::new();
        let mut depth = None;
        let mut seen = [0; SEEN];
        let mut lives = writeln!(self.orders, "{number}").is_ok();
        while lives {
            let mut line = String::new();
            if self.answers.read_line(&mut line).unwrap_or(0) == 0 {
                messages.push(match self.process.wait() {
                    Ok(status) => format!("the process ended: {status}"),
                    Err(error) => format!("the process ended: {error}"),
                });
                lives = false;
            } else if let Some(message) = line.strip_prefix("| ") {
                messages.push(message.trim_end().to_owned());
            } else if let Some(numbers) = line.strip_prefix("done ") {
                let numbers: Vec<u64> = numbers.split_whitespace().flat_map(str::parse).collect();
                let [bound, is_cut, last, all, counts @ ..] = &numbers[..] else { break };
                seen.copy_from_slice(counts);
                depth = Some(Depth {
                    bound: *bound as usize,
                    is_cut: *is_cut != 0,
                    last: *last as usize,
                    all: *all as usize,
                });
                break;
            } else {
                lives = false;
            }
        }
        if depth.is_none() {
            let _ = self.process.wait();
        }
        let seconds = begun.elapsed().as_secs_f64();
        (Outcome { number, depth, seconds, seen, messages }, lives)
    }
}

// ------------------------------------------------------------------------------------------------
// All of them

/// What all cases came to.
#[derive(Default)]
struct Summary {
    failed: Vec<String>,
    executions: usize,
    /// Races by how deep they were explored, and whether that cut schedules off.
    depths: BTreeMap<(usize, bool), usize>,
    seen: [u64; SEEN],
}

fn explore(cases: Vec<Case>, options: &Options) -> ExitCode {
    let tap = options.command == "test";
    let is_chosen = |case: &Case| {
        let names = &options.names;
        case.is_run()
            && !(tap && case.test_least.is_none())
            && (names.is_empty() || names.iter().any(|name| case.name.contains(name)))
    };
    let numbers = (0..cases.len()).filter(|&number| is_chosen(&cases[number]));
    let chosen: Vec<usize> = numbers.collect();
    if chosen.is_empty() {
        eprintln!("model: no case has {} in its name; see `list`", options.names.join(" or "));
        return ExitCode::from(MISTAKE);
    }
    let budget = options.budget.unwrap_or(if tap { TEST_BUDGET } else { FULL_BUDGET });
    let mut left: BTreeMap<&str, (usize, bool)> = BTreeMap::new();
    for &number in &chosen {
        left.entry(&cases[number].group).or_default().0 += 1;
    }
    let groups = left.len();
    let is_whole = options.names.is_empty();
    if tap {
        say(&format!("TAP version 14\n1..{}", groups + usize::from(is_whole)));
    }
    let begun = Instant::now();
    let mut summary = Summary::default();
    let mut points = 0;
    for (n, outcome) in (1..).zip(start(&chosen, budget, tap, options.jobs)) {
        let case = &cases[outcome.number];
        say(&format!(
            "{}[{n:4}/{}] {}",
            if tap { "# " } else { "" },
            chosen.len(),
            line(case, &outcome)
        ));
        for message in &outcome.messages {
            say(&format!("#   {message}"));
        }
        summary.add(case, &outcome);
        let (cases_left, has_failed) = left.get_mut(case.group.as_str()).expect("it was counted");
        *cases_left -= 1;
        *has_failed |= outcome.depth.is_none();
        if tap && *cases_left == 0 {
            points += 1;
            say(&format!("{}ok {points} - {}", if *has_failed { "not " } else { "" }, case.group));
        }
    }
    let met = summary.has_met_all();
    if tap && is_whole {
        say(&format!("{}ok {} - all was met", if met { "" } else { "not " }, points + 1));
    }
    summary.print(&cases, chosen.len(), groups, begun.elapsed());
    if summary.failed.is_empty() && (met || !is_whole) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Deals the cases out to processes; yields what comes of them, as it comes.
fn start(chosen: &[usize], budget: usize, shallow: bool, jobs: usize) -> mpsc::Receiver<Outcome> {
    let (sender, receiver) = mpsc::channel();
    let chosen: Arc<[usize]> = chosen.into();
    let next = Arc::new(AtomicUsize::new(0));
    for _ in 0..jobs.min(chosen.len()) {
        let (sender, chosen, next) = (sender.clone(), chosen.clone(), next.clone());
        thread::spawn(move || {
            let mut worker = None;
            while let Some(&number) = chosen.get(next.fetch_add(1, Relaxed)) {
                let mut present = worker
                    .take()
                    .unwrap_or_else(|| Worker::new(budget, shallow).expect("a process"));
                let (outcome, lives) = present.run(number);
                worker = lives.then_some(present);
                if sender.send(outcome).is_err() {
                    break;
                }
            }
            if let Some(worker) = worker {
                worker.end();
            }
        });
    }
    receiver
}

/// What a case came to, in one line.
fn line(case: &Case, outcome: &Outcome) -> String {
    let depth = match (outcome.depth, &case.body) {
        (None, _) => "FAILED".to_owned(),
        (Some(depth), Body::Race(_)) => {
            let cut = if depth.is_cut { "cut off there" } else { "every schedule" };
            format!("{:7} executions, {} preemptions, {cut}", depth.all, depth.bound)
        }
        (Some(depth), Body::Fault(..)) => format!("{:7} executions until it was seen", depth.all),
        (Some(depth), _) => format!("{:7} executions", depth.all),
    };
    format!("{:44} {depth}, {:.1} s", case.name, outcome.seconds)
}

impl Summary {
    fn add(&mut self, case: &Case, outcome: &Outcome) {
        let Some(depth) = outcome.depth else {
            self.failed.push(case.name.clone());
            return;
        };
        self.executions += depth.all;
        if matches!(case.body, Body::Race(_)) {
            // The bound before the last one was enough where nothing was cut off.
            let bound = depth.bound - usize::from(!depth.is_cut);
            *self.depths.entry((bound, depth.is_cut)).or_default() += 1;
        }
        for (sum, count) in self.seen.iter_mut().zip(outcome.seen) {
            *sum += count;
        }
    }

    /// Says whether all that may happen in a race happened, and enough gets hit.
    fn has_met_all(&self) -> bool {
        let [_, _, hit, missed, ..] = self.seen;
        self.seen.iter().all(|count| *count > 0) && hit * 100 >= (hit + missed) * LEAST_HITS
    }

    fn print(&self, cases: &[Case], run: usize, groups: usize, time: Duration) {
        let count = |what: fn(&Body) -> bool| cases.iter().filter(|case| what(&case.body)).count();
        let same = count(|body| matches!(body, Body::Same(_)));
        let gaps = count(|body| matches!(body, Body::Gap(_)));
        say(&format!(
            "# {run} cases in {groups} groups ({same} further cells are the race of another, {gaps} are none)"
        ));
        say(&format!("# {} executions, {:.0} s", self.executions, time.as_secs_f64()));
        for ((bound, is_cut), races) in &self.depths {
            let cut = if *is_cut { "; more were left out" } else { ", which are all schedules" };
            say(&format!("# {races:4} races: up to {bound} preemptions{cut}"));
        }
        for (count, name) in self.seen.iter().zip(tally::NAMES) {
            say(&format!("# {count:9} {name}"));
        }
        for name in &self.failed {
            say(&format!("# failed: {name} (again: make model MODEL='run {name}')"));
        }
        let failed = self.failed.len();
        say(&format!("# model: {} cases passed, {failed} failed", run - failed));
    }
}

/// Prints a line at once, for a reader or a log that follows.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
