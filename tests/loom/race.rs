// SPDX-License-Identifier: MIT OR Apache-2.0
//! A race: calls made one after the other, then by threads at once, under every schedule with at
//! most so many preemptions, with every value that a load may see.

use crate::history::MAIN;
use crate::machine::{CPUS, Machine, Op, Pages, Shape, Trust};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tagstash::sync::{Ordering, set_racing, set_sequential, switch_point};

/// One frame, dormant at first.
pub const ONE: Shape = Shape {
    frames: 1,
    block_frames: 1,
    large: false,
    pools: false,
    sequential: false,
    verify: false,
    prompt: false,
    ordered: false,
    drops_data: false,
    drops_tags: false,
};
/// Two frames, a set of two ways, each a block.
pub const TWO: Shape = Shape { frames: 2, ..ONE };
/// One block of two frames, a set of two ways.
pub const BLOCK: Shape = Shape { frames: 2, block_frames: 2, ..ONE };
/// Four frames, two sets of two ways, each frame a block; pages of four parts. Sequentially
/// consistent: the orderings are those of small pages.
pub const LARGE: Shape = Shape { frames: 4, large: true, sequential: true, ..ONE };

/// Calls made one after the other, then by threads at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Race {
    pub shape: Shape,
    pub before: Vec<Op>,
    pub threads: Vec<Vec<Op>>,
}

/// A race on `shape` after `before`.
pub fn race<const N: usize>(shape: Shape, before: &[Op], threads: [&[Op]; N]) -> Race {
    let threads = threads.map(<[Op]>::to_vec).to_vec();
    Race { shape, before: before.to_vec(), threads }
}

impl Race {
    /// How much a claimer may rely on its claim (a deactivation: on the dormancy of its block).
    fn trust(&self, thread: usize, op: Op) -> Trust {
        let others = || {
            let others = self.threads.iter().enumerate().filter(|&(number, _)| number != thread);
            others.flat_map(|(_, ops)| ops.iter().copied())
        };
        if let Op::Deactivate(block) = op {
            let contested = others().any(|other| other == Op::Activate(block));
            return if contested { Trust::Never } else { Trust::Always };
        }
        let claims = op.claims();
        let releases = |other: &Op| other.releases(self.shape.block_frames) & claims != 0;
        let before = self.before.iter().fold(0 as Pages, |held, op| held | op.claims());
        let held = before & claims == claims;
        match others().filter(releases).count() {
            0 => Trust::Always,
            1 if held => Trust::IfNew,
            _ => Trust::Never,
        }
    }

    /// Runs it under every schedule with at most `bound` preemptions. Returns how many executions
    /// that took.
    pub fn explore(self, bound: usize) -> usize {
        assert!(self.threads.len() < CPUS);
        check(bound, move || {
            let machine = Rc::new(Machine::new(self.shape));
            for &op in &self.before {
                machine.cpu(MAIN).run(op, Trust::Always);
            }
            let (shared, race) = (machine.clone(), self.clone());
            at_once(self.threads.len(), move |thread| {
                for &op in &race.threads[thread] {
                    shared.cpu(thread + 1).run(op, race.trust(thread, op));
                }
            });
            machine.check_at_rest();
        })
    }
}

/// Executions of the last [`check`].
static EXECUTIONS: AtomicUsize = AtomicUsize::new(0);

/// How many executions the last [`check`] took, or has taken so far.
pub fn executions() -> usize {
    EXECUTIONS.load(Relaxed)
}

/// Runs `model` under every schedule with at most `bound` preemptions. Returns how many
/// executions that took.
pub fn check(bound: usize, model: impl Fn() + Send + Sync + 'static) -> usize {
    EXECUTIONS.store(0, Relaxed);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(bound);
    builder.max_branches = 20_000;
    builder.check(move || {
        EXECUTIONS.fetch_add(1, Relaxed);
        set_racing(false);
        set_sequential(false);
        model();
    });
    executions()
}

/// Runs `body` in `threads` threads at once, and returns when each has returned. It does not
/// join them, for loom would try every order of the joins and the ends, all of them the same.
pub fn at_once(threads: usize, body: impl Fn(usize) + 'static) {
    let body = Rc::new(body);
    let ended = Rc::new(loom::sync::atomic::AtomicUsize::new(0));
    let main = loom::thread::current();
    set_racing(true);
    // The checker tries another thread first only if this one had a place to switch before.
    switch_point();
    for thread in 0..threads {
        let (body, ended, main) = (body.clone(), ended.clone(), main.clone());
        loom::thread::spawn(move || {
            body(thread);
            loom::stop_exploring();
            let last = ended.fetch_add(1, Ordering::AcqRel) + 1 == threads;
            loom::explore();
            if last {
                main.unpark();
            }
        });
    }
    loom::thread::park();
    set_racing(false);
}
