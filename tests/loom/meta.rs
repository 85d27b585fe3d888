// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks of the checks.

use crate::cases::{Body, Case};
use crate::history::self_test::what_cannot_be_explained_is_refused;
use crate::race::{at_once, check};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use tagstash::sync::{AtomicU64, Ordering, set_sequential};

/// All of them.
pub fn cases() -> Vec<Case> {
    let case = |name: &str, why: &str, check| Case {
        group: name.to_owned(),
        name: name.to_owned(),
        body: Body::Check(check),
        least: 0,
        test_least: Some(0),
        why: why.to_owned(),
    };
    vec![
        case("history", "histories whose verdict is known", || {
            what_cannot_be_explained_is_refused();
            1
        }),
        case(
            "search",
            "the search meets every order of accesses within its bound",
            the_search_is_exhaustive_within_its_bound,
        ),
    ]
}

/// That a search finds nothing says something only if it goes everywhere: two threads with
/// four loads each, of the same or of different words.
fn the_search_is_exhaustive_within_its_bound() -> usize {
    const STEPS: usize = 4;
    let mut executions = 0;
    let all = [false, true].map(|sequential| {
        [1, 2, 3].map(|bound| [true, false].map(|same| (sequential, bound, same)))
    });
    for (sequential, bound, same) in all.into_iter().flatten().flatten() {
        let seen: Arc<Mutex<BTreeSet<Vec<usize>>>> = Arc::default();
        let collected = seen.clone();
        executions += check(bound, move || {
            let order = Rc::new(RefCell::new(Vec::new()));
            let words = Rc::new([AtomicU64::new(0), AtomicU64::new(0)]);
            set_sequential(sequential);
            let log = order.clone();
            at_once(2, move |thread| {
                for step in 0..STEPS {
                    words[if same { step % 2 } else { thread }].load(Ordering::Relaxed);
                    log.borrow_mut().push(thread);
                }
            });
            collected.lock().expect("no panic").insert(order.take());
        });
        let orders = (0u32..1 << (2 * STEPS)).filter(|bits| bits.count_ones() == STEPS as u32);
        let within = orders.filter(|bits| {
            let thread = |step: usize| (bits >> step & 1) as usize;
            let mut done = [0; 2];
            let preemptions = (1..2 * STEPS).filter(|&step| {
                done[thread(step - 1)] += 1;
                thread(step) != thread(step - 1) && done[thread(step - 1)] < STEPS
            });
            preemptions.count() <= bound
        });
        assert_eq!(
            seen.lock().expect("no panic").len(),
            within.count(),
            "{sequential} {bound} {same}"
        );
    }
    executions
}
