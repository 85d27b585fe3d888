// SPDX-License-Identifier: MIT OR Apache-2.0
//! A case: a race with a name, or something else to check, and how deep to look.

use crate::race::Race;
use crate::{counterexamples, events, matrix, meta, pools};

/// What a case is.
#[derive(Clone, Debug)]
pub enum Body {
    /// To be explored: without preemptions first, then with more.
    Race(Race),
    /// Races of a machine with a fault: one of them must fail, and say this.
    Fault(Vec<Race>, &'static str),
    /// Checks itself, at a bound of its own; returns how many executions that took.
    Check(fn() -> usize),
    /// The very race of the case of this name.
    Same(String),
    /// No race, and why.
    Gap(&'static str),
}

/// A case.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it is counted with.
    pub group: String,
    /// Unique.
    pub name: String,
    pub body: Body,
    /// Preemptions that are explored whatever it costs.
    pub least: usize,
    /// The same in `make test`; `None` leaves the case to `make model`.
    pub test_least: Option<usize>,
    pub why: String,
}

impl Case {
    /// Says whether there is anything to run.
    pub fn is_run(&self) -> bool {
        !matches!(self.body, Body::Same(_) | Body::Gap(_))
    }
}

/// All cases: the matrix first.
pub fn all() -> Vec<Case> {
    let parts = [
        matrix::pairs(),
        matrix::triples(),
        matrix::large_triples(),
        counterexamples::cases(),
        pools::cases(),
        events::cases(),
        meta::cases(),
    ];
    let cases = parts.concat();
    for (n, case) in cases.iter().enumerate() {
        assert!(cases[..n].iter().all(|other| other.name != case.name), "two cases {}", case.name);
    }
    cases
}
