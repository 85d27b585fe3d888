// SPDX-License-Identifier: MIT OR Apache-2.0
//! Breadth-first search through every state that a configuration allows.
//!
//! States are remembered by 64 bits of a hash: of *n* states, two fall together unseen with a
//! chance of about n^2 / 2^65, which for ten million is one in 370,000.

use crate::config::Config;
use crate::state::{Call, Outcome, State};
use crate::step::{Seen, Violation, single, step};
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::time::{Duration, Instant};

/// A fast hash of 64 bits, by multiplication and folding.
#[derive(Clone, Debug, Default)]
pub struct Fast(u64);

impl Fast {
    fn mix(&mut self, value: u64) {
        let product = u128::from(self.0 ^ value ^ 0x9e37_79b9_7f4a_7c15)
            * u128::from(value.rotate_left(32) ^ 0xd1b5_4a32_d192_ed03);
        self.0 = self.0.rotate_left(23) ^ product as u64 ^ (product >> 64) as u64;
    }
}

impl Hasher for Fast {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.mix(value.into());
    }

    fn write_u16(&mut self, value: u16) {
        self.mix(value.into());
    }

    fn write_u32(&mut self, value: u32) {
        self.mix(value.into());
    }

    fn write_u64(&mut self, value: u64) {
        self.mix(value);
    }

    fn write_usize(&mut self, value: usize) {
        self.mix(value as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A hash of a hash is itself.
#[derive(Clone, Debug, Default)]
struct Same(u64);

impl Hasher for Same {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only hashes are kept");
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// What a search came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// States that were reached.
    pub states: u64,
    /// Steps between them.
    pub transitions: u64,
    /// Of the states, those with no call under way.
    pub quiescent: u64,
    /// Steps of the longest way.
    pub depth: u32,
    /// How long it took.
    pub time: Duration,
    /// What went wrong.
    pub verdict: Verdict,
}

/// How a search ended.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// Every state was reached, and all was right.
    Holds,
    /// A promise was broken.
    Broken(Violation, Vec<(usize, Seen)>),
    /// There were more states than allowed.
    CutOff,
}

/// How one state was reached: by which from which.
#[derive(Clone, Copy)]
struct Origin {
    parent: u32,
    cpu: u8,
    /// 1 more than the call's place in the CPU's menu; 0 if none begins.
    choice: u8,
}

/// Runs calls one after the other on the first CPU. What each came to.
fn alone(
    config: &Config,
    state: &mut State,
    calls: &[Call],
    seen: &mut Vec<Seen>,
) -> Result<Vec<Outcome>, Violation> {
    let mut outcomes = Vec::new();
    for &call in calls {
        loop {
            single(config, state, 0, Some(call), seen)?;
            if let Some(outcome) = seen.last().and_then(|last| last.returned) {
                outcomes.push(outcome);
                break;
            }
        }
    }
    Ok(outcomes)
}

/// At rest: a put is kept if there is room, and the next get hits. The page is still there
/// after a flush of another object.
fn caches(config: &Config, state: &State, seen: &mut Vec<Seen>) -> Result<(), Violation> {
    if !state.pool.0 || state.making {
        return Ok(());
    }
    let open = state.words[..config.frames].iter().filter(|word| word.is_open()).count();
    for key in 0..config.keys.len() as u8 {
        let mut copy = state.clone();
        seen.clear();
        let kept = alone(config, &mut copy, &[Call::Put(key)], seen)? == [Outcome::Kept];
        if !kept && open >= usize::from(config.parts) {
            let what = "at rest, a put is refused though a frame is open";
            return Err(Violation { promise: "P10", what });
        }
        if !kept {
            continue;
        }
        let own = config.keys[usize::from(key)].object;
        let others = (0..config.objects.len() as u8).filter(|&object| object != own);
        let shares_all = |object: u8| {
            let [mut a, mut b] = [own, object].map(|object| config.objects[usize::from(object)]);
            a.sort_unstable();
            b.sort_unstable();
            a == b
        };
        let mut calls: Vec<_> =
            others.filter(|&other| !shares_all(other)).map(Call::FlushObject).collect();
        calls.push(Call::Get(key));
        let outcomes = alone(config, &mut copy, &calls, seen)?;
        if !matches!(outcomes.last(), Some(Outcome::Hit(_))) {
            let what = "at rest, a page that was put is not there for the next get";
            return Err(Violation { promise: "P10", what });
        }
    }
    Ok(())
}

/// Searches; `progress` is called now and then with the states so far and the depth.
pub fn search(config: &Config, most: u64, mut progress: impl FnMut(u64, u32)) -> Report {
    let started = Instant::now();
    let mut initial = State::new(config);
    let mut seen = Vec::new();
    let mut report = Report {
        states: 1,
        transitions: 0,
        quiescent: 0,
        depth: 0,
        time: Duration::ZERO,
        verdict: Verdict::Holds,
    };
    let left = initial.cpus[0].left;
    if let Err(violation) = alone(config, &mut initial, &config.before, &mut seen) {
        let trace = seen.into_iter().map(|seen| (0, seen)).collect();
        report.verdict = Verdict::Broken(violation, trace);
        return report;
    }
    initial.cpus[0].left = left;
    let first = initial.clone().canonical(config, &mut [0, 1, 2]);
    let mut known: HashSet<u64, BuildHasherDefault<Same>> = HashSet::default();
    let hash = |state: &State| {
        let mut hasher = Fast::default();
        state.hash(&mut hasher);
        hasher.finish()
    };
    known.insert(hash(&first));
    let mut origins = vec![Origin { parent: 0, cpu: 0, choice: 0 }];
    let mut level = vec![(0u32, first.clone())];
    let mut looked = 0u32;
    while !level.is_empty() {
        let mut next = Vec::new();
        for (number, state) in level {
            looked += 1;
            if looked & 0xffff == 0 {
                progress(report.states, report.depth);
            }
            if state.is_quiescent() {
                report.quiescent += 1;
                if let Err(violation) = caches(config, &state, &mut seen) {
                    let end = std::mem::take(&mut seen);
                    let mut trace = replay(config, &first, &origins, number, None);
                    trace.extend(end.into_iter().map(|seen| (0, seen)));
                    report.verdict = Verdict::Broken(violation, trace);
                    report.time = started.elapsed();
                    return report;
                }
            }
            let (mut moved, mut busy) = (false, false);
            for cpu in 0..config.menus.len() {
                let menu = &config.menus[cpu];
                let idle = state.cpus[cpu].call.is_none();
                busy |= !idle;
                let choices = if !idle {
                    0..1
                } else if state.cpus[cpu].left > 0 {
                    1..menu.choices.len() + 1
                } else {
                    0..0
                };
                for choice in choices {
                    let origin = Origin { parent: number, cpu: cpu as u8, choice: choice as u8 };
                    let call = choice.checked_sub(1).map(|choice| menu.choices[choice]);
                    let mut then = state.clone();
                    seen.clear();
                    report.transitions += 1;
                    if let Err(violation) = step(config, &mut then, cpu, call, &mut seen) {
                        let trace = replay(config, &first, &origins, number, Some(origin));
                        report.verdict = Verdict::Broken(violation, trace);
                        report.depth += 1;
                        report.time = started.elapsed();
                        return report;
                    }
                    let then = then.canonical(config, &mut [0, 1, 2]);
                    moved |= then != state;
                    if known.insert(hash(&then)) {
                        report.states += 1;
                        if report.states > most {
                            report.verdict = Verdict::CutOff;
                            report.time = started.elapsed();
                            return report;
                        }
                        let own = origins.len() as u32;
                        origins.push(origin);
                        next.push((own, then));
                    }
                }
            }
            if busy && !moved {
                let trace = replay(config, &first, &origins, number, None);
                let what = "everybody waits, for ever";
                report.verdict = Verdict::Broken(Violation { promise: "P4", what }, trace);
                report.time = started.elapsed();
                return report;
            }
        }
        if !next.is_empty() {
            report.depth += 1;
        }
        level = next;
    }
    report.time = started.elapsed();
    report
}

/// The steps that led to a state, and one more.
fn replay(
    config: &Config,
    first: &State,
    origins: &[Origin],
    number: u32,
    last: Option<Origin>,
) -> Vec<(usize, Seen)> {
    let mut way: Vec<Origin> = last.into_iter().collect();
    let mut number = number as usize;
    while number != 0 {
        way.push(origins[number]);
        number = origins[number].parent as usize;
    }
    let mut state = first.clone();
    let mut trace = Vec::new();
    // CPUs are renamed on the way: a trace has the names that they had at its start.
    let mut names = [0, 1, 2];
    for origin in way.into_iter().rev() {
        let cpu = usize::from(origin.cpu);
        let choice = usize::from(origin.choice).checked_sub(1);
        let call = choice.map(|choice| config.menus[cpu].choices[choice]);
        let mut seen = Vec::new();
        let result = step(config, &mut state, cpu, call, &mut seen);
        trace.extend(seen.into_iter().map(|seen| (names[cpu], seen)));
        if result.is_err() {
            break;
        }
        state = state.canonical(config, &mut names);
    }
    trace
}
