// SPDX-License-Identifier: MIT OR Apache-2.0
//! What cache maintenance a call must have done, in which order, and that it did no other.

use crate::ground::Ground;
use crate::traced::{Kind, Op};
use std::collections::{BTreeMap, BTreeSet};
use tagstash::addr::PAGE_SIZE;

/// What a call did to one block, as the model says. Pages by address.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Claimed pages of a block that had no claims before, up to the first hole in guest RAM: those
    /// behind it are further pages of a block in tags, and need nothing.
    pub entering: BTreeSet<u64>,
    /// Pages whose claims were given back or voided, and claims on the block before.
    pub released: BTreeSet<u64>,
    pub claims_before: u64,
    /// The block was lent, or taken back.
    pub activated: bool,
    pub deactivated: bool,
}

/// Changes by block.
pub type Changes = BTreeMap<usize, Change>;

/// Checks the operations of one call.
///
/// # Errors
///
/// What is missing, too much, or out of order.
pub fn check(ops: &[Op], changes: &Changes, ground: &Ground) -> Result<(), String> {
    let mut explained = vec![false; ops.len()];
    for (&number, change) in changes {
        let of = |kind| {
            let own = move |(_, op): &(usize, &Op)| op.kind == kind && op.block == number;
            ops.iter().enumerate().filter(own).map(|(at, _)| at).collect::<Vec<usize>>()
        };
        let (mut tags, mut data) = (of(Kind::Tags), of(Kind::Data));
        tags.iter().chain(&data).for_each(|&at| explained[at] = true);
        let block = &ground.blocks[number];
        if change.deactivated {
            // The storage first, while a count is held and nothing is lent any more; then as a
            // release of all that was claimed.
            let storage = take_last(&mut data, 1);
            covers(ops, &storage, &all_pages(block.storage.start().0, block.storage.end().0))?;
            between(ops, None, &storage, Some(Kind::BarrierSystem))?;
            for &at in &storage {
                hold(ops[at].claims > 0, "counted while the storage is cleaned", ops, at)?;
                hold(!ops[at].active, "not lent while the storage is cleaned", ops, at)?;
            }
            if let (Some(&last), Some(&first)) = (storage.last(), tags.first()) {
                hold(last < first, "the storage before the voided claims", ops, first)?;
            }
        }
        if !change.released.is_empty() {
            covers(ops, &tags, &change.released)?;
            between(ops, None, &tags, Some(Kind::BarrierSystem))?;
            for &at in &tags {
                hold(ops[at].own_bits == 0, "bits clear before the tags are cleaned", ops, at)?;
                // Where guest RAM has a hole, what lies before it is given back first.
                let kept = change.claims_before - change.released.len() as u64;
                let own = (ops[at].end - ops[at].start) / PAGE_SIZE;
                let counted = ops[at].claims >= kept + own;
                hold(counted, "still counted while the tags are cleaned", ops, at)?;
            }
            tags.clear();
        }
        if !change.entering.is_empty() {
            covers(ops, &tags, &change.entering)?;
            covers(ops, &data, &all_pages(block.storage.start().0, block.storage.end().0))?;
            between(ops, None, &tags, Some(Kind::BarrierInner))?;
            between(ops, tags.last().copied(), &data, Some(Kind::BarrierSystem))?;
            for &at in tags.iter().chain(&data) {
                let counted = ops[at].claims >= change.entering.len() as u64;
                hold(counted, "counted before the maintenance", ops, at)?;
                hold(ops[at].bits == 0, "bits last", ops, at)?;
            }
            tags.clear();
            data.clear();
        }
        if change.activated {
            let pages = all_pages(block.data.start().0, block.data.end().0);
            let pages = pages.into_iter().filter(|&page| ground.is_ram(page)).collect();
            covers(ops, &tags, &pages)?;
            covers(ops, &data, &all_pages(block.storage.start().0, block.storage.end().0))?;
            if !tags.is_empty() {
                between(ops, None, &tags, Some(Kind::BarrierSystem))?;
            }
            between(ops, tags.last().copied(), &data, Some(Kind::BarrierSystem))?;
            for &at in tags.iter().chain(&data) {
                hold(!ops[at].active, "lent only after the maintenance", ops, at)?;
            }
            tags.clear();
            data.clear();
        }
        if !tags.is_empty() || !data.is_empty() {
            return Err(format!("block {number}: more maintenance than {change:?} asks for"));
        }
    }
    let extra = ops
        .iter()
        .zip(&explained)
        .find(|(op, explained)| !**explained && matches!(op.kind, Kind::Tags | Kind::Data));
    if let Some((op, _)) = extra {
        return Err(format!("nothing asks for {op:?}"));
    }
    if changes.is_empty() && !ops.is_empty() {
        return Err("a call that changed nothing had barriers".into());
    }
    Ok(())
}

fn hold(is: bool, what: &str, ops: &[Op], at: usize) -> Result<(), String> {
    if is { Ok(()) } else { Err(format!("not so: {what}: operation {at}, {:?}", ops[at])) }
}

fn take_last(list: &mut Vec<usize>, count: usize) -> Vec<usize> {
    list.split_off(list.len().saturating_sub(count))
}

fn all_pages(start: u64, end: u64) -> BTreeSet<u64> {
    (start..end).step_by(PAGE_SIZE as usize).collect()
}

/// The operations at `places` together name each of `pages` once, and no other.
fn covers(ops: &[Op], places: &[usize], pages: &BTreeSet<u64>) -> Result<(), String> {
    let mut named = BTreeSet::new();
    for &at in places {
        for page in all_pages(ops[at].start, ops[at].end) {
            if !named.insert(page) {
                return Err(format!("page {page:#x} is maintained twice"));
            }
        }
    }
    if &named == pages {
        Ok(())
    } else {
        Err(format!("maintained: {named:x?}; to be maintained: {pages:x?}"))
    }
}

/// A barrier lies before the first of the operations at `places`, and after operation `behind`; one
/// of kind `then` at least behind the last of them.
fn between(
    ops: &[Op],
    behind: Option<usize>,
    places: &[usize],
    then: Option<Kind>,
) -> Result<(), String> {
    let (Some(&first), Some(&last)) = (places.first(), places.last()) else {
        return Err("no maintenance where there must be some".into());
    };
    let is_barrier = |op: &Op| matches!(op.kind, Kind::BarrierInner | Kind::BarrierSystem);
    let start = behind.map_or(0, |at| at + 1);
    if start > first || !ops[start..first].iter().any(is_barrier) {
        return Err(format!("no barrier before operation {first}, {:?}", ops[first]));
    }
    let enough = |op: &Op| match then {
        Some(Kind::BarrierSystem) => op.kind == Kind::BarrierSystem,
        _ => is_barrier(op),
    };
    if then.is_some() && !ops[last..].iter().any(enough) {
        return Err(format!("no {then:?} behind operation {last}, {:?}", ops[last]));
    }
    Ok(())
}
