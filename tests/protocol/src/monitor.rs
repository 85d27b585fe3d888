// SPDX-License-Identifier: MIT OR Apache-2.0
//! The reference model of one key, and every way in which the calls so far can be put in order.
//!
//! The reference is a cell: a put fills it, or empties it if it is refused; a get that hits
//! takes what it holds, a get that misses and a flush empty it; and it may empty itself at any
//! time. A history is right if every call can be given an instant between its call and its
//! return, so that the cell gives the answers that the calls got. The monitor keeps all that is
//! possible: what the cell holds, and which of the calls under way have had their instant.

use crate::state::CPUS;

/// What a call does to a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Fills it with this version, or empties it.
    Put(u8),
    /// Takes what it holds.
    Get,
    /// Looks at what it holds.
    Look,
    /// Empties it.
    Flush,
}

/// What a call said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A put that was refused, a get that missed, or a flush.
    Empty,
    /// A put that was kept.
    Kept,
    /// A get that hit this version.
    Hit(u8),
}

impl Answer {
    fn code(self) -> u64 {
        match self {
            Answer::Empty => 2,
            Answer::Kept => 3,
            Answer::Hit(version) => 4 | u64::from(version) << 4,
        }
    }
}

const PENDING: u64 = 1;

/// One possibility: the version in the low 4 bits, then 8 bits for each CPU.
type Possible = u64;

fn slot(cpu: usize) -> u32 {
    4 + 8 * cpu as u32
}

fn of(possible: Possible, cpu: usize) -> u64 {
    possible >> slot(cpu) & 0xff
}

fn with(possible: Possible, cpu: usize, code: u64) -> Possible {
    possible & !(0xff << slot(cpu)) | code << slot(cpu)
}

/// All that is possible for one key; sorted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Monitor(Vec<Possible>);

impl Default for Monitor {
    fn default() -> Monitor {
        Monitor(vec![0])
    }
}

impl Monitor {
    /// A call begins.
    pub fn call(&mut self, cpu: usize) {
        self.0.iter_mut().for_each(|possible| *possible = with(*possible, cpu, PENDING));
        self.0.sort_unstable();
    }

    /// A call returns. Says whether that is possible. `effects` are those of the calls under
    /// way, this one included.
    pub fn answer(&mut self, cpu: usize, answer: Answer, effects: [Option<Effect>; CPUS]) -> bool {
        let mut all = self.0.clone();
        let mut next = 0;
        while let Some(&possible) = all.get(next) {
            next += 1;
            for (cpu, effect) in effects.iter().enumerate() {
                let Some(effect) = effect.filter(|_| of(possible, cpu) == PENDING) else {
                    continue;
                };
                let held = possible & 15;
                let mut add = |cell: u64, answer: Answer| {
                    let then = with(possible & !15 | cell, cpu, answer.code());
                    if !all.contains(&then) {
                        all.push(then);
                    }
                };
                match effect {
                    Effect::Put(version) => {
                        add(version.into(), Answer::Kept);
                        add(0, Answer::Empty);
                    }
                    Effect::Flush => add(0, Answer::Empty),
                    Effect::Get | Effect::Look => {
                        add(0, Answer::Empty);
                        if held != 0 {
                            let left = if effect == Effect::Get { 0 } else { held };
                            add(left, Answer::Hit(held as u8));
                        }
                    }
                }
            }
        }
        all.retain(|&possible| of(possible, cpu) == answer.code());
        all.iter_mut().for_each(|possible| *possible = with(*possible, cpu, 0));
        all.sort_unstable();
        all.dedup();
        // A cell that holds something may empty itself, so that an empty one adds nothing.
        let fuller: Vec<_> = all.iter().filter(|p| *p & 15 != 0).map(|p| p & !15).collect();
        all.retain(|possible| possible & 15 != 0 || !fuller.contains(possible));
        self.0 = all;
        !self.0.is_empty()
    }

    /// A call returns without having been made: there was no pool.
    pub fn withdraw(&mut self, cpu: usize) {
        self.0.retain(|&possible| of(possible, cpu) == PENDING);
        self.0.iter_mut().for_each(|possible| *possible = with(*possible, cpu, 0));
        self.0.sort_unstable();
    }

    /// The versions that are remembered, as a mask.
    pub fn versions(&self) -> u32 {
        let mut versions = 0;
        for &possible in &self.0 {
            versions |= 1 << (possible & 15);
            for cpu in 0..CPUS {
                let code = of(possible, cpu);
                if code & 4 != 0 {
                    versions |= 1 << (code >> 4);
                }
            }
        }
        versions
    }

    /// Renames two CPUs.
    pub fn swap(&mut self, a: usize, b: usize) {
        for possible in &mut self.0 {
            let (at_a, at_b) = (of(*possible, a), of(*possible, b));
            *possible = with(with(*possible, a, at_b), b, at_a);
        }
        self.0.sort_unstable();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [Option<Effect>; CPUS] = [None; CPUS];

    fn effects<const N: usize>(of: [(usize, Effect); N]) -> [Option<Effect>; CPUS] {
        let mut all = NONE;
        of.into_iter().for_each(|(cpu, effect)| all[cpu] = Some(effect));
        all
    }

    /// Calls one after the other.
    fn sequence(calls: &[(Effect, Answer)]) -> bool {
        let mut monitor = Monitor::default();
        calls.iter().all(|&(effect, answer)| {
            monitor.call(0);
            monitor.answer(0, answer, effects([(0, effect)]))
        })
    }

    #[test]
    fn sequences_are_told_right_from_wrong() {
        use Answer::{Empty, Hit, Kept};
        use Effect::{Flush, Get, Look, Put};
        assert!(sequence(&[(Put(1), Kept), (Get, Hit(1)), (Get, Empty)]));
        assert!(sequence(&[(Put(1), Kept), (Look, Hit(1)), (Look, Hit(1)), (Look, Empty)]));
        assert!(sequence(&[(Put(1), Kept), (Put(2), Kept), (Get, Hit(2))]));
        assert!(!sequence(&[(Get, Hit(1))]));
        assert!(!sequence(&[(Put(1), Kept), (Get, Hit(1)), (Get, Hit(1))]));
        assert!(!sequence(&[(Put(1), Kept), (Get, Empty), (Get, Hit(1))]));
        assert!(!sequence(&[(Put(1), Kept), (Put(2), Kept), (Get, Hit(1))]));
        assert!(!sequence(&[(Put(1), Kept), (Put(2), Empty), (Get, Hit(1))]));
        assert!(!sequence(&[(Put(1), Kept), (Flush, Empty), (Get, Hit(1))]));
    }

    #[test]
    fn calls_that_overlap_may_come_in_either_order() {
        let both = effects([(0, Effect::Put(1)), (1, Effect::Flush)]);
        for (hit, right) in [(Answer::Hit(1), true), (Answer::Empty, true), (Answer::Hit(2), false)]
        {
            let mut monitor = Monitor::default();
            monitor.call(0);
            monitor.call(1);
            assert!(monitor.answer(1, Answer::Empty, both));
            assert!(monitor.answer(0, Answer::Kept, effects([(0, Effect::Put(1))])));
            monitor.call(0);
            assert_eq!(monitor.answer(0, hit, effects([(0, Effect::Get)])), right);
        }
    }

    #[test]
    fn renaming_cpus_renames_their_calls() {
        let mut monitor = Monitor::default();
        monitor.call(0);
        monitor.swap(0, 1);
        assert!(monitor.answer(1, Answer::Kept, effects([(1, Effect::Put(3))])));
        assert_eq!(monitor.versions(), 1 << 3);
    }
}
