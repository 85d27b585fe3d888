// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs the model.

use protocol::config::{self, Config, Horizon};
use protocol::mutant::Mutant;
use protocol::search::{Report, Verdict, search};
use protocol::step::Seen;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

const HELP: &str = "\
protocol: goes through every interleaving of the frame protocol's steps.

  protocol [all]            every configuration, then every mutant
  protocol quick            the configurations that take seconds, and every mutant, as TAP
  protocol configs [NAME..] these configurations; all of them if none is named
  protocol mutants [NAME..] these mutants, with their traces; all of them, without, if none is named
  protocol list             names configurations and mutants

Options:
  --horizon WHEN   when a get loads the moments: before-scan, after-match
  --most N         gives up after N states of a configuration (default: 400 million)
";

/// Searches that run at once.
const WORKERS: usize = 2;

struct Options {
    command: String,
    names: Vec<String>,
    horizon: Option<Horizon>,
    most: u64,
}

fn options() -> Result<Options, String> {
    let mut options =
        Options { command: String::new(), names: Vec::new(), horizon: None, most: 400_000_000 };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} wants a value"));
        match word.as_str() {
            "--help" | "-h" => options.command = "help".into(),
            "--horizon" => {
                let name = value()?;
                let found = Horizon::ALL.iter().find(|(known, _)| *known == name);
                options.horizon = Some(found.ok_or(format!("no horizon is named {name}"))?.1);
            }
            "--most" => {
                let text = value()?;
                options.most = text.parse().map_err(|_| format!("--most {text}: not a number"))?;
            }
            _ if word.starts_with('-') => return Err(format!("there is no option {word}")),
            _ if options.command.is_empty() => options.command = word,
            _ => options.names.push(word),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(why) => {
            eprintln!("protocol: {why}; see protocol --help");
            return ExitCode::from(2);
        }
    };
    let known: Vec<&str> = match options.command.as_str() {
        "configs" => config::all().iter().map(|config| config.name).collect(),
        "mutants" => Mutant::ALL.iter().map(|mutant| mutant.about().name).collect(),
        _ => Vec::new(),
    };
    if let Some(name) = options.names.iter().find(|name| !known.contains(&name.as_str())) {
        eprintln!("protocol: {} has no {name}; see protocol list", options.command);
        return ExitCode::from(2);
    }
    let good = match options.command.as_str() {
        "help" => {
            print!("{HELP}");
            true
        }
        "list" => {
            list();
            true
        }
        "" | "all" => configs(&options) & mutants(&options),
        "configs" => configs(&options),
        "mutants" => mutants(&options),
        "quick" => quick(&options),
        other => {
            eprintln!("protocol: there is no command {other}; see protocol --help");
            return ExitCode::from(2);
        }
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn list() {
    for config in config::all() {
        let long = if config.long { " (long)" } else { "" };
        println!("{:20} {}{long}", config.name, config.about);
    }
    println!();
    for mutant in Mutant::ALL {
        let about = mutant.about();
        println!("{:28} {} [{}, {}]", about.name, about.what, about.config, about.promise);
    }
}

fn run(config: &Config, most: u64) -> Report {
    let mut told = Instant::now();
    search(config, most, |states, depth| {
        if told.elapsed().as_secs() >= 10 {
            told = Instant::now();
            eprintln!("    {}: {states} states, depth {depth} ...", config.name);
        }
    })
}

fn with_horizon(mut config: Config, options: &Options) -> Config {
    config.horizon = options.horizon.unwrap_or(config.horizon);
    config
}

fn show(trace: &[(usize, Seen)]) {
    let mut calls = [""; 8].map(String::from);
    for (number, (cpu, seen)) in (1..).zip(trace) {
        if let Some(call) = seen.called {
            calls[*cpu] = call.to_string();
        }
        println!("  {number:4}  CPU {cpu}  {:20} {seen}", calls[*cpu]);
    }
}

fn configs(options: &Options) -> bool {
    println!(
        "configuration          calls    states  transitions  at rest  depth     time  verdict"
    );
    let wanted = |config: &Config| {
        options.names.is_empty() || options.names.iter().any(|name| name == config.name)
    };
    let rest = Mutex::new(config::all().into_iter().filter(wanted));
    let total = Mutex::new((true, 0, 0));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    // Not in the loop's condition: the lock would be held while it searches.
                    let Some(config) = rest.lock().unwrap().next() else { break };
                    let config = with_horizon(config, options);
                    let report = run(&config, options.most);
                    let mut total = total.lock().unwrap();
                    tell(&config, &report);
                    total.0 &= matches!(report.verdict, Verdict::Holds);
                    total.1 += 1;
                    total.2 += report.states;
                }
            });
        }
    });
    let (good, count, states) = total.into_inner().unwrap();
    println!(
        "{count} configurations, {states} states: every interleaving of so many calls of each"
    );
    println!(
        "CPU, from a menu; those with more frames, CPUs or choices have fewer calls, to end soon"
    );
    good
}

fn tell(config: &Config, report: &Report) {
    let verdict = match &report.verdict {
        Verdict::Holds => "holds".to_string(),
        Verdict::CutOff => "CUT OFF".to_string(),
        Verdict::Broken(violation, _) => {
            format!("BROKEN {}: {}", violation.promise, violation.what)
        }
    };
    let calls: Vec<_> = config.menus.iter().map(|menu| menu.calls.to_string()).collect();
    let calls = calls.join("+");
    println!(
        "{:22} {calls:>5} {:9} {:12} {:8} {:6} {:6.1} s  {verdict}",
        config.name,
        report.states,
        report.transitions,
        report.quiescent,
        report.depth,
        report.time.as_secs_f64(),
    );
    if let Verdict::Broken(_, trace) = &report.verdict {
        show(trace);
    }
}

/// Looks for a mutant where it is known to be caught.
fn hunt(mutant: Mutant, options: &Options) -> Report {
    let configs = config::all();
    let config = configs.into_iter().find(|config| config.name == mutant.about().config);
    let mut config = config.expect("mutants name configurations");
    config.mutant = Some(mutant);
    run(&with_horizon(config, options), options.most)
}

/// Says whether a mutant was caught as it should be.
fn caught(mutant: Mutant, report: &Report) -> bool {
    let expected = mutant.about().promise;
    match &report.verdict {
        Verdict::Broken(violation, _) => expected.split('/').any(|e| violation.promise.contains(e)),
        _ => false,
    }
}

fn mutants(options: &Options) -> bool {
    println!("mutant                       promise  steps    states     time  by");
    let (mut good, mut count) = (true, 0);
    for &mutant in Mutant::ALL {
        let about = mutant.about();
        if !options.names.is_empty() && !options.names.iter().any(|name| name == about.name) {
            continue;
        }
        let report = hunt(mutant, options);
        let (promise, what, steps) = match &report.verdict {
            Verdict::Broken(violation, trace) => (violation.promise, violation.what, trace.len()),
            _ => ("-", "NOT CAUGHT", 0),
        };
        println!(
            "{:28} {promise:7} {steps:6} {:9} {:6.1} s  {what}",
            about.name,
            report.states,
            report.time.as_secs_f64(),
        );
        if !options.names.is_empty()
            && let Verdict::Broken(_, trace) = &report.verdict
        {
            println!("  {}", about.what);
            show(trace);
        }
        if !caught(mutant, &report) {
            println!("  expected: {}", about.promise);
            good = false;
        }
        count += 1;
    }
    println!("{count} mutants");
    good
}

fn quick(options: &Options) -> bool {
    let configs: Vec<_> = config::all().into_iter().filter(|config| !config.long).collect();
    println!("TAP version 14\n1..{}", configs.len() + Mutant::ALL.len());
    let mut good = true;
    let mut number = 0;
    let mut point = |right: bool, name: &str, report: &Report| {
        number += 1;
        println!("# {} states, {:.1} s", report.states, report.time.as_secs_f64());
        println!("{}ok {number} - {name}", if right { "" } else { "not " });
        good &= right;
    };
    for config in configs {
        let config = with_horizon(config, options);
        let report = run(&config, options.most);
        if let Verdict::Broken(violation, trace) = &report.verdict {
            println!("# {}: {}", violation.promise, violation.what);
            show(trace);
        }
        let name = format!("{}: {}", config.name, config.about);
        point(matches!(report.verdict, Verdict::Holds), &name, &report);
    }
    for &mutant in Mutant::ALL {
        let report = hunt(mutant, options);
        let name = format!("mutant {} is caught: {}", mutant.about().name, mutant.about().promise);
        point(caught(mutant, &report), &name, &report);
    }
    good
}
