// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many executions of a plan, by one of shuttle's schedulers, each from a seed that tells all of it:
//! the calls and the schedule.

use crate::guest::{Guest, Plan, Tally, World};
use crate::machine::Machine;
use crate::sim::with_service;
use shuttle::rand::Rng;
use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tagstash::sync::set_racing;

/// Where a run begins that is not told otherwise.
const SEED: u64 = 20_240_213;
/// Executions of one seed under PCT. The first tells how long an execution is, so that the places of
/// the preemptions can be chosen in the others.
const PCT_EXECUTIONS: usize = 4;
/// Preemptions in an execution under PCT, besides those of claims that wait.
const PCT_DEPTH: usize = 60;
/// Steps after which an execution is taken for one that never ends.
const MOST_STEPS: usize = 20_000_000;
/// Campaigns that there are, for their shares of the time.
const CAMPAIGNS: f64 = 14.0;

/// How the next thread to run is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Any, at each step.
    Random,
    /// The thread of the highest priority; at a few steps chosen beforehand it becomes the lowest
    /// (probabilistic concurrency testing, Burckhardt et al. 2010).
    Pct,
}

fn from_environment<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// Runs `plan`, which makes a plan of a number, so many seeds by `choice`, or what the environment
/// says: `SCHEDULES_SEED`, `SCHEDULES_ITERATIONS`, `SCHEDULES_SECONDS`, `SCHEDULES_REPLAY`. `name` is
/// the test's.
pub fn run(name: &str, choice: Choice, seeds: u64, plan: fn(u64) -> Plan) -> Tally {
    let total = Arc::new(Mutex::new(Tally::default()));
    if let Ok(file) = std::env::var("SCHEDULES_REPLAY").map(|f| f.trim().to_owned())
        && !file.is_empty()
    {
        let scheduler = ReplayScheduler::new_from_file(&file)
            .unwrap_or_else(|why| panic!("SCHEDULES_REPLAY={file}: {why}"));
        execute(scheduler, plan, &total);
        return *total.lock().expect("it did not fail");
    }
    let first: u64 = from_environment("SCHEDULES_SEED").unwrap_or(SEED);
    let seeds = from_environment("SCHEDULES_ITERATIONS").unwrap_or(seeds);
    let threads = std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64);
    let share = from_environment::<f64>("SCHEDULES_SECONDS")
        .map(|seconds| Duration::from_secs_f64(seconds * threads / CAMPAIGNS));
    let start = Instant::now();
    for n in 0.. {
        if share.map_or(n >= seeds, |share| n > 0 && start.elapsed() >= share) {
            break;
        }
        let seed = first.wrapping_add(n);
        let result = catch_unwind(AssertUnwindSafe(|| match choice {
            Choice::Random => execute(RandomScheduler::new_from_seed(seed, 1), plan, &total),
            Choice::Pct => {
                let scheduler = PctScheduler::new_from_seed(seed, PCT_DEPTH, PCT_EXECUTIONS);
                execute(scheduler, plan, &total);
            }
        }));
        set_racing(false);
        if let Err(why) = result {
            say(&format!(
                "{name} failed: scheduler {choice:?}, seed {seed}. To run it again:\n\
                 make schedules TEST={name} SEED={seed} ITERATIONS=1\n\
                 or, that one execution: make schedules TEST={name} REPLAY=the file named above"
            ));
            resume_unwind(why);
        }
    }
    let tally = *total.lock().expect("it did not fail");
    let share = |part: u64, of: u64| part * 100 / of.max(1);
    say(&format!(
        "{name}: {} executions from seed {first}, {} calls, {} switches; {} puts ({} % kept), \
         {} gets ({} % hit), {} claims ({} waits), {} pages' tags checked, {} pools remade, \
         {} calls without pool, {} deactivations",
        tally.executions,
        tally.calls,
        tally.switches,
        tally.puts,
        share(tally.kept, tally.puts),
        tally.gets,
        share(tally.hits, tally.gets),
        tally.claims,
        tally.waits,
        tally.tag_checks,
        tally.remade,
        tally.without_pool,
        tally.cycles,
    ));
    tally
}

/// Writes a line that is shown also where the test's output is not.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn execute<S: Scheduler + 'static>(scheduler: S, plan: fn(u64) -> Plan, total: &Arc<Mutex<Tally>>) {
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    config.max_steps = MaxSteps::FailAfter(MOST_STEPS);
    config.silence_warnings = true;
    config.failure_persistence = FailurePersistence::File(Some(env!("CARGO_TARGET_TMPDIR").into()));
    config.ungraceful_shutdown_config.immediately_return_on_panic = true;
    let total = total.clone();
    Runner::new(scheduler, config).run(move || {
        let seed = shuttle::rand::thread_rng().gen_range(0..=u64::MAX);
        let tally = one(&plan(seed), seed);
        total.lock().expect("no execution failed").add(&tally);
    });
}

/// One execution.
fn one(plan: &Plan, seed: u64) -> Tally {
    let machine = Machine::new(plan.layout.clone());
    with_service(&plan.layout, plan.cpus + 1, machine, |service| {
        let world = World::new(plan, service);
        set_racing(true);
        shuttle::thread::scope(|scope| {
            for _ in 0..plan.cpus {
                scope.spawn(|| Guest::new(&world, seed).run());
            }
        });
        set_racing(false);
        let (record, tally) = world.end();
        record.judge();
        tally
    })
}
