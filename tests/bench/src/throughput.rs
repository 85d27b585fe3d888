// SPDX-License-Identifier: MIT OR Apache-2.0
//! The stash beside other caches: operations a second, in one run, in turn.
//!
//! Every cache is given the same steps, on the same pinned threads, in rounds that go from one
//! cache to the next, so that whatever else the machine does meets all of them. Ratios are taken
//! round by round.

use crate::cache::pages::{Copied, Number};
use crate::cache::rivals::{Moka, MutexLru, QuickChoice};
use crate::cache::stash::{Called, Direct};
use crate::cache::{BUFFERS, Subject, Tally};
use crate::memory::{Backed, Pages, Unbacked};
use crate::pin::pin;
use crate::report::{Report, machine, version};
use crate::table::Table;
use crate::trace::{MIXES, Mix, Step};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How much is run.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    /// Pages that a cache holds.
    pub capacity: u32,
    /// Rounds that count.
    pub rounds: u32,
    /// Operations of one cache in one round, all threads together, without copies.
    pub steps: usize,
    /// The same, with copies.
    pub copied_steps: usize,
    /// Whether that is enough to judge by.
    pub judged: bool,
}

impl Amount {
    /// What gives figures.
    pub const FULL: Amount = Amount {
        capacity: 1 << 16,
        rounds: 5,
        steps: 1 << 17,
        copied_steps: 1 << 16,
        judged: true,
    };
    /// What shows that everything works.
    pub const SMOKE: Amount = Amount {
        capacity: 1 << 10,
        rounds: 1,
        steps: 1 << 15,
        copied_steps: 1 << 13,
        judged: false,
    };
}

/// Numbers of threads, least first.
const THREADS: [u32; 2] = [1, 2];
/// How often faster than the best of the others the stash has to be without copies.
const LEAST_RATIO: f64 = 2.0;
/// Where the stash was busy for less than this share of the time, other programs had the CPUs:
/// goals are then judged by CPU time. That favours the others, whose waits for locks it leaves out.
const QUIET: f64 = 0.97;
/// Rounds in which each configuration of `quick_cache` is tried.
const SWEEP_ROUNDS: u32 = 3;
/// Cache and page cache have been filled several times over after so many times the capacity.
const WARM_UP: usize = 4;

/// One cache in one round.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Million operations a second, by the clock, all threads together.
    rate: f64,
    /// The same by CPU time: what it would be if threads never waited, for a lock or for a CPU.
    unhindered: f64,
    /// CPU time by time on the clock: below 1 where threads did wait.
    busy: f64,
    tally: Tally,
}

/// The caches with one kind of value.
struct Field {
    name: &'static str,
    /// The first is the stash, the second the stash by call; the others follow.
    subjects: Vec<Box<dyn Subject>>,
    bytes: Option<&'static Pages>,
    steps: usize,
    least_ratio: f64,
}

/// All caches without copies.
fn index_only(amount: Amount, quick: QuickChoice) -> Field {
    let capacity = amount.capacity;
    Field {
        name: "without the copy",
        subjects: vec![
            Box::new(Direct::new(capacity, Unbacked)),
            Box::new(Called::new(capacity, Unbacked)),
            quick.make::<Number>(capacity, ()),
            Box::new(Moka::<Number>::new(capacity, ())),
            Box::new(MutexLru::<Number>::new(capacity, ())),
        ],
        bytes: None,
        steps: amount.steps,
        least_ratio: LEAST_RATIO,
    }
}

/// All caches with a copy of 4 KiB in and out.
fn copied(amount: Amount, quick: QuickChoice) -> Field {
    let capacity = amount.capacity;
    let guest: &'static Pages =
        Box::leak(Box::new(Pages::new(THREADS[THREADS.len() - 1] * BUFFERS)));
    let backed = || Backed { guest, frames: Pages::new(capacity) };
    Field {
        name: "with a copy of 4 KiB in and out",
        subjects: vec![
            Box::new(Direct::new(capacity, backed())),
            Box::new(Called::new(capacity, backed())),
            quick.make::<Copied>(capacity, guest),
            Box::new(Moka::<Copied>::new(capacity, guest)),
            Box::new(MutexLru::<Copied>::new(capacity, guest)),
        ],
        bytes: Some(guest),
        steps: amount.copied_steps,
        least_ratio: 1.0,
    }
}

/// Measures and reports. `Ok(true)` if every goal is met.
pub fn run(amount: Amount, directory: &Path) -> Result<bool, String> {
    let mut report = Report::default();
    report.text("# Throughput beside other caches");
    let rivals = ["quick_cache", "moka", "lru"].map(|name| format!("{name} {}", version(name)));
    report.text(&format!(
        "Millions of operations a second, all threads together: median of {} rounds, least and \
         most in brackets; hits of gets. {} pages of capacity. {}. Machine: {}.",
        amount.rounds,
        amount.capacity,
        rivals.join(", "),
        machine(),
    ));
    let quick = choose_quick(amount, &mut report);
    let mut results = vec![];
    for make in [index_only, copied] {
        let field = make(amount, quick);
        report.text(&format!("## {}", capital(field.name)));
        for mix in &MIXES {
            for threads in THREADS {
                results.push(compare(&field, mix, threads, amount, &mut report));
            }
        }
    }
    report.finish(
        directory,
        json!({
            "machine": machine(),
            "versions": rivals,
            "quick_cache": quick.to_string(),
            "capacity": amount.capacity,
            "results": results,
        }),
    )
}

fn capital(text: &str) -> String {
    let (first, rest) = text.split_at(1);
    first.to_uppercase() + rest
}

/// Tries `quick_cache` in every configuration, with 2 threads and no copies, and adds the table to
/// the report. Returns the fastest, by the measure by which goals are judged.
fn choose_quick(amount: Amount, report: &mut Report) -> QuickChoice {
    let threads = THREADS[THREADS.len() - 1];
    let steps = amount.steps / threads as usize;
    let warm_up = WARM_UP * amount.capacity as usize / threads as usize;
    let choices: Vec<QuickChoice> = QuickChoice::all().collect();
    let rounds = amount.rounds.min(SWEEP_ROUNDS) as usize;
    let length = warm_up + steps * rounds;
    // By choice and mix: the medians.
    let mut found: Vec<Vec<(f64, f64, f64)>> = vec![vec![]; choices.len()];
    for mix in &MIXES {
        let traces: Vec<Vec<Step>> =
            (0..threads).map(|n| mix.steps(amount.capacity, threads, n, length)).collect();
        let subjects: Vec<_> =
            choices.iter().map(|choice| choice.make::<Number>(amount.capacity, ())).collect();
        let mut samples: Vec<Vec<Sample>> = vec![vec![]; choices.len()];
        for subject in &subjects {
            sample(&**subject, &traces, 0..warm_up, None);
        }
        for round in 0..rounds {
            let part = warm_up + round * steps..warm_up + (round + 1) * steps;
            for turn in 0..choices.len() {
                let number = (turn + round) % choices.len();
                samples[number].push(sample(&*subjects[number], &traces, part.clone(), None));
            }
        }
        for (found, own) in found.iter_mut().zip(&samples) {
            let median = |of: fn(&Sample) -> f64| Spread::of(own.iter().map(of)).median;
            found.push((median(|s| s.rate), median(|s| s.unhindered), median(|s| s.busy)));
        }
    }
    let quiet = found.iter().flatten().all(|&(_, _, busy)| busy >= QUIET);
    // The geometric mean over the mixes.
    let score = |number: usize| {
        let rate = |&(rate, unhindered, _): &(f64, f64, f64)| if quiet { rate } else { unhindered };
        let logarithms = found[number].iter().map(|medians| rate(medians).ln());
        (logarithms.sum::<f64>() / MIXES.len() as f64).exp()
    };
    let head: Vec<&str> = ["quick_cache, 2 threads"]
        .into_iter()
        .chain(MIXES.iter().flat_map(|mix| [mix.name, "unhindered"]))
        .chain(["mean"])
        .collect();
    let mut table = Table::new(&head);
    for (number, choice) in choices.iter().enumerate() {
        let mut cells = vec![choice.to_string()];
        for (rate, unhindered, _) in &found[number] {
            cells.extend([format!("{rate:.2}"), format!("{unhindered:.2}")]);
        }
        cells.push(format!("{:.2}", score(number)));
        table.row(cells);
    }
    let best = (0..choices.len()).max_by(|&a, &b| score(a).total_cmp(&score(b)));
    let best = choices[best.expect("there are choices")];
    let by =
        if quiet { "by the clock" } else { "by CPU time, because other programs had the CPUs" };
    report.text("## Configurations of quick_cache");
    report.text(&table.markdown());
    report.text(&format!("The fastest {by}, and so the one below: {best}."));
    best
}

/// Runs all caches of `field` in turn on one load, and adds the table to the report.
fn compare(field: &Field, mix: &Mix, threads: u32, amount: Amount, report: &mut Report) -> Value {
    let steps = field.steps / threads as usize;
    let warm_up = WARM_UP * amount.capacity as usize / threads as usize;
    let length = warm_up + steps * amount.rounds as usize;
    let traces: Vec<Vec<Step>> =
        (0..threads).map(|thread| mix.steps(amount.capacity, threads, thread, length)).collect();
    for subject in &field.subjects {
        sample(&**subject, &traces, 0..warm_up, field.bytes);
    }
    let mut samples: Vec<Vec<Sample>> = vec![vec![]; field.subjects.len()];
    for round in 0..amount.rounds as usize {
        let part = warm_up + round * steps..warm_up + (round + 1) * steps;
        // Each round begins with another cache.
        for turn in 0..field.subjects.len() {
            let number = (turn + round) % field.subjects.len();
            let subject = &*field.subjects[number];
            samples[number].push(sample(subject, &traces, part.clone(), field.bytes));
        }
    }
    let head = format!("{}, {threads} thread{}", mix.name, if threads > 1 { "s" } else { "" });
    let mut table =
        Table::new(&[&head, "Mop/s", "", "unhindered", "hits", "busy", "stash is", "unhindered"]);
    let mut rows = vec![];
    // Ratios to the best of the others, by the clock and by CPU time.
    let (mut least, mut least_unhindered) = (f64::INFINITY, f64::INFINITY);
    // Whether the stash, which never waits, had its CPUs to itself.
    let quiet = Spread::of(samples[0].iter().map(|s| s.busy)).median >= QUIET;
    for (number, (subject, own)) in field.subjects.iter().zip(&samples).enumerate() {
        let rates = Spread::of(own.iter().map(|s| s.rate));
        // How much faster the stash was in the same round.
        let ratios = Spread::of(own.iter().zip(&samples[0]).map(|(s, stash)| stash.rate / s.rate));
        let unhindered = Spread::of(own.iter().map(|s| s.unhindered));
        let stash_unhindered =
            own.iter().zip(&samples[0]).map(|(s, t)| t.unhindered / s.unhindered);
        let stash_unhindered = Spread::of(stash_unhindered);
        let (gets, hits) =
            own.iter().fold((0, 0), |(g, h), s| (g + s.tally.gets, h + s.tally.hits));
        let share = hits as f64 / gets.max(1) as f64;
        let busy = Spread::of(own.iter().map(|s| s.busy));
        let times = |ratios: &Spread| match number {
            0 => String::new(),
            _ => format!("x {:.2} [{:.2}, {:.2}]", ratios.median, ratios.least, ratios.most),
        };
        if number >= 2 {
            least = least.min(ratios.median);
            least_unhindered = least_unhindered.min(stash_unhindered.median);
        }
        table.row(vec![
            subject.name().to_string(),
            format!("{:.2}", rates.median),
            format!("[{:.2}, {:.2}]", rates.least, rates.most),
            format!("{:.2}", unhindered.median),
            format!("{:.1} %", share * 100.0),
            format!("{:.2}", busy.median),
            times(&ratios),
            times(&stash_unhindered),
        ]);
        rows.push(json!({
            "cache": subject.name(),
            "Mop/s": rates.json(),
            "Mop/s unhindered": unhindered.json(),
            "hits": share,
            "busy": busy.json(),
            "stash faster by": ratios.json(),
            "stash faster by, unhindered": stash_unhindered.json(),
            "rounds": own.iter().map(|s| s.rate).collect::<Vec<_>>(),
        }));
    }
    report.text(&table.markdown());
    if threads == 2 && amount.judged {
        let (ratio, by) = match quiet {
            true => (least, "by the clock"),
            false => (least_unhindered, "by CPU time, because other programs had the CPUs"),
        };
        report.goal(
            format!(
                "{}, {}, 2 threads: at least {:.1} times the best of the others; x {ratio:.2} {by}",
                field.name, mix.name, field.least_ratio
            ),
            ratio >= field.least_ratio,
        );
    }
    json!({ "copy": field.bytes.is_some(), "mix": mix.name, "what": mix.what, "threads": threads, "caches": rows })
}

/// Runs one part of each thread's trace on one cache, all threads from the same moment.
fn sample(
    subject: &dyn Subject,
    traces: &[Vec<Step>],
    part: std::ops::Range<usize>,
    bytes: Option<&Pages>,
) -> Sample {
    let ready = AtomicU32::new(0);
    let run = |cpu: usize| {
        pin(cpu);
        let steps = &traces[cpu][part.clone()];
        ready.fetch_add(1, Ordering::AcqRel);
        while (ready.load(Ordering::Acquire) as usize) < traces.len() {
            std::hint::spin_loop();
        }
        let (start, cpu_start) = (Instant::now(), cpu_time());
        let tally = subject.run(cpu as u32, steps, bytes);
        (start, Instant::now(), cpu_time() - cpu_start, tally)
    };
    let ends: Vec<_> = std::thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = (0..traces.len()).map(|cpu| scope.spawn(move || run(cpu))).collect();
        threads.into_iter().map(|t| t.join().expect("a thread of the run failed")).collect()
    });
    let start = ends.iter().map(|end| end.0).min().expect("there is a thread");
    let end = ends.iter().map(|end| end.1).max().expect("there is a thread");
    let wall = (end - start).as_secs_f64();
    let busy = ends.iter().map(|end| end.2).sum::<Duration>().as_secs_f64();
    let threads = traces.len() as f64;
    let mut tally = Tally::default();
    for (.., own) in &ends {
        tally.gets += own.gets;
        tally.hits += own.hits;
    }
    let steps = part.len() * traces.len();
    Sample {
        rate: steps as f64 / wall / 1e6,
        unhindered: steps as f64 * threads / busy / 1e6,
        busy: busy / wall / threads,
        tally,
    }
}

/// Least, median and most of some numbers.
struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Spread {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        Spread {
            least: values[0],
            median: values[values.len() / 2],
            most: values[values.len() - 1],
        }
    }

    fn json(&self) -> Value {
        json!({ "least": self.least, "median": self.median, "most": self.most })
    }
}

/// CPU time of the calling thread.
pub fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a place for the result.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
