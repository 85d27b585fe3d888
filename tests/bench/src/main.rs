// SPDX-License-Identifier: MIT OR Apache-2.0
//! Measures the portable part on the machine it is built on: `throughput` beside other caches,
//! `scale` from the smallest stash to the largest. `--help` says more.

mod cache;
mod key;
mod memory;
mod pin;
mod random;
mod report;
mod scale;
mod steps;
mod table;
mod throughput;
mod trace;

use std::path::Path;
use std::process::ExitCode;
use steps::Probe;
use throughput::Amount;

const HELP: &str = "\
bench measures the portable part of Tagstash on this machine.

  bench throughput [ROUNDS]  the stash beside quick_cache, moka and a mutex around an LRU map:
                             ROUNDS rounds (5), without and with copies, 1 and 2 threads.
                             Needs 2 CPUs that are idle, 1.5 GiB of memory, a minute
  bench scale                metadata and steps of each call, 16 MiB to 32 GiB of storage
  bench test                 a bounded check of both, as TAP

Reports go to build/throughput and build/scale, as Markdown and JSON. The status is 0 if every
goal is met, 1 if not, 2 if something could not be run.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let met = match words[..] {
        ["--help" | "-h" | "help"] => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        ["throughput"] => throughput::run(Amount::FULL, Path::new("build/throughput")),
        ["throughput", rounds] => match rounds.parse() {
            Ok(rounds @ 1..=1000) => {
                let amount = Amount { rounds, ..Amount::FULL };
                throughput::run(amount, Path::new("build/throughput"))
            }
            _ => Err(format!("ROUNDS is 1 to 1000, not {rounds}")),
        },
        ["scale"] => {
            steps::with_probe(|probe| verdict(scale::run(probe, Path::new("build/scale"))))
                .map(|status| status == 0)
        }
        ["test"] => return test(),
        _ => Err(format!("what is '{}'? --help says what there is", words.join(" "))),
    };
    verdict(met)
}

/// Turns what came of a run into the process's status.
fn verdict(met: Result<bool, String>) -> ExitCode {
    match met {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("bench: {why}");
            ExitCode::from(2)
        }
    }
}

/// Runs the bounded check, as TAP.
fn test() -> ExitCode {
    println!("TAP version 14");
    let smoke = throughput::run(Amount::SMOKE, Path::new("build/throughput/smoke")).err();
    let others = vec![
        ("throughput runs on every cache".to_string(), smoke),
        ("traces are repeatable, and no two threads' meet".to_string(), trace::check()),
    ];
    match steps::with_probe(|probe| results(&[counted_tests(probe), others.clone()].concat())) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(why) => {
            let skipped = (format!("steps of calls # SKIP {why}"), None);
            results(&[others.clone(), vec![skipped]].concat())
        }
    }
}

/// What a test is called, and what is wrong.
type Test = (String, Option<String>);

/// The tests of scale, in a process whose instructions can be counted.
fn counted_tests(probe: &Probe) -> Vec<Test> {
    let all: Vec<_> = scale::ENDS.iter().map(|&mib| scale::measure(probe, mib, 1, false)).collect();
    scale::check(&all)
}

/// Prints what came of tests.
fn results(tests: &[Test]) -> ExitCode {
    println!("1..{}", tests.len());
    for (number, (what, broken)) in (1..).zip(tests) {
        if let Some(why) = broken {
            println!("# {why}");
        }
        println!("{}ok {number} - {what}", if broken.is_some() { "not " } else { "" });
    }
    let failed = tests.iter().any(|(_, broken)| broken.is_some());
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
