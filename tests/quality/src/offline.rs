// SPDX-License-Identifier: MIT OR Apache-2.0
//! The offline bound: what a cache could do that knows the future (Belady's MIN).
//!
//! A hit removes the page, so every put is worth at most one hit: at the next get of its page,
//! if no other put or flush of the page comes before. Keeping the pages whose get comes
//! soonest, and giving up the others, makes the most of any capacity, one that changes included:
//! it is the greedy choice of most intervals of which no more than the capacity overlap.

use crate::cache::Outcome;
use crate::trace::{Operation, Page, Trace};
use std::collections::BTreeSet;

const NEVER: u32 = u32::MAX;

/// Runs a trace with foresight.
pub fn run(trace: &Trace) -> Outcome {
    let next = next_gets(trace);
    let mut kept: BTreeSet<(u32, Page)> = BTreeSet::new();
    let mut until = vec![NEVER; trace.pages()];
    let mut capacity = trace.frames as usize;
    let mut outcome = Outcome::default();
    for (number, &operation) in trace.operations.iter().enumerate() {
        let counted = number >= trace.warm_up;
        match operation {
            // A put whose page is not asked for again is not worth a frame.
            Operation::Put(page) if next[number] != NEVER => {
                kept.insert((next[number], page));
                until[page as usize] = next[number];
            }
            Operation::Get(page) => {
                let hit =
                    until[page as usize] == number as u32 && kept.remove(&(number as u32, page));
                outcome.gets += u64::from(counted);
                outcome.hits += u64::from(counted && hit);
            }
            Operation::Claim(_, count) => capacity -= count as usize,
            Operation::Release(_, count) => capacity += count as usize,
            _ => {}
        }
        while kept.len() > capacity {
            kept.pop_last();
        }
    }
    outcome
}

/// For each put, the operation that gets its page again; [`NEVER`] where none does.
fn next_gets(trace: &Trace) -> Vec<u32> {
    let mut next = vec![NEVER; trace.operations.len()];
    let mut get_of = vec![NEVER; trace.pages()];
    for (number, &operation) in trace.operations.iter().enumerate().rev() {
        match operation {
            Operation::Put(page) => {
                next[number] = std::mem::replace(&mut get_of[page as usize], NEVER);
            }
            Operation::Get(page) => get_of[page as usize] = number as u32,
            Operation::FlushPage(page) => get_of[page as usize] = NEVER,
            Operation::FlushFile(file) => {
                let pages = trace.files[file as usize].clone();
                get_of[pages.start as usize..pages.end as usize].fill(NEVER);
            }
            _ => {}
        }
    }
    next
}
