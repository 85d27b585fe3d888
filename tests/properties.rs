// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random memory, random calls, one CPU, and a reference model that knows every answer beforehand.
//!
//! Regions, block sizes, base addresses, the places of storage and holes in guest RAM are drawn at
//! random; then calls with arguments good and bad, interrupts that cut runs short, external aborts, tags
//! that a guest uses rightly and wrongly. After *every* step: the reply, all counters and the census are
//! the model's; each copy went where it must; the cache maintenance was what the ledger's changes ask
//! for, in its order; the tags and data of all pages whose tags are in use are as they were stored.
//!
//! A case that fails is shrunk and printed; its seed is kept in `target/`, and it is run first the next
//! time. `PROPTEST_CASES=n` runs more of them and `PROPTEST_RNG_SEED=n` others.

#![cfg(not(any(loom, shuttle)))]

#[path = "properties/ground.rs"]
mod ground;
#[path = "properties/model.rs"]
mod model;
#[path = "properties/order.rs"]
mod order;
mod sim;
#[path = "properties/steps.rs"]
mod steps;
#[path = "properties/traced.rs"]
mod traced;

use ground::{Ground, GroundPlan};
use model::{Model, Words};
use proptest::prelude::*;
use proptest::test_runner::{
    Config, FileFailurePersistence, RngAlgorithm, RngSeed, TestCaseError, TestError, TestRunner,
};
use sim::{Cpu, Dram, range};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use steps::{Action, Step, pick};
use tagstash::addr::PAGE_SIZE;
use tagstash::hypercall::abi::Function;
use tagstash::hypercall::service::Service;
use tagstash::stash::metadata::MetadataBuffer;
use tagstash::stash::stats::Statistic;
use tagstash::tags::geometry::Regions;
use traced::Traced;

/// What all cases came to.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    cases: u64,
    calls: u64,
    refused: u64,
    gets: u64,
    hits: u64,
    claims: u64,
    evictions: u64,
    pages_checked: u64,
    longest: usize,
}

/// Whether storage is lent at the beginning, and with verification.
#[derive(Clone, Copy, Debug)]
enum Start {
    Active { verify: bool },
    Dormant,
}

#[test]
fn every_answer_is_the_models() {
    let kept = concat!(env!("CARGO_TARGET_TMPDIR"), "/properties.txt");
    let default = Config::default();
    let from_environment = std::env::var_os("PROPTEST_CASES").is_some();
    let config = Config {
        cases: if from_environment { default.cases } else { 900 },
        rng_algorithm: RngAlgorithm::ChaCha,
        rng_seed: match default.rng_seed {
            RngSeed::Random => RngSeed::Fixed(20_240_213),
            fixed => fixed,
        },
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(kept))),
        max_shrink_iters: 20_000,
        ..default
    };
    let start = prop_oneof![
        5 => any::<bool>().prop_map(|verify| Start::Active { verify }),
        1 => Just(Start::Dormant),
    ];
    let strategy = (GroundPlan::any(), start, prop::collection::vec(Step::any(), 1..160));
    let tally = RefCell::new(Tally::default());
    let result = TestRunner::new(config).run(&strategy, |(plan, start, steps)| {
        case(&plan, start, &steps, &mut tally.borrow_mut()).map_err(TestCaseError::fail)
    });
    let tally = tally.into_inner();
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, (plan, start, steps))) => {
            let steps: Vec<String> =
                (1..).zip(&steps).map(|(n, step): (u32, _)| format!("  {n}. {step:?}")).collect();
            panic!("{why}\non {plan:?}\n{start:?}\n{}", steps.join("\n"));
        }
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
    println!("{tally:?}");
    // A model that never meets a hit, an eviction or a refusal proves little.
    let enough = tally.hits * 8 >= tally.gets && tally.evictions > 100 && tally.refused > 100;
    assert!(enough || tally.cases < 100, "{tally:?}");
}

/// A page whose tags the guest uses: its tags and its data.
struct Used {
    tags: u64,
    data: Words,
}

/// A guest, and the model of what serves it.
struct Case<'c, 's> {
    cpu: Cpu<'s, 'static, Traced>,
    model: Model,
    used: BTreeMap<u64, Used>,
    stamps: u64,
    tally: &'c mut Tally,
}

fn case(plan: &GroundPlan, start: Start, steps: &[Step], tally: &mut Tally) -> Result<(), String> {
    let ground = Ground::new(plan);
    let regions: Vec<_> = ground.regions.iter().map(|(piece, _)| piece.region()).collect();
    let regions = Regions::new(regions, 1).expect("few frames");
    // The trace looks at it, and outlives nothing that it could borrow from.
    let metadata = Box::leak(Box::new(MetadataBuffer::new(&regions))).metadata();
    let machine = Traced::new(ground.clone(), metadata);
    let service = Service::new(regions, metadata, ground.guest_ram(), 1, machine);
    let model = Model::new(ground, metadata);
    let cpu = Cpu::new(&service, 0);
    let mut case = Case { cpu, model, used: BTreeMap::new(), stamps: 0, tally };
    case.tally.cases += 1;
    case.tally.longest = case.tally.longest.max(steps.len());
    if let Start::Active { verify } = start {
        let mut cursor = 0;
        while cursor < case.model.ground.blocks.len() as u64 {
            cursor = case.call(&activate(verify, cursor), false)?[1];
        }
    }
    for shift in [12, 14, 12 | 1 << 8] {
        case.call(&[Function::PoolCreate as u32 as u64, shift, 9, 9, 0, 0, 0, 0], false)?;
    }
    for (n, step) in (1..).zip(steps) {
        case.step(step).map_err(|why| format!("step {n}, {step:?}: {why}"))?;
    }
    case.finish()
}

fn activate(verify: bool, cursor: u64) -> [u64; 8] {
    [Function::Activate as u32 as u64, verify.into(), cursor, 0, 0, 0, 0, 0]
}

impl Case<'_, '_> {
    fn dram(&self) -> &Dram {
        &self.cpu.service.platform().dram
    }

    fn words(&self, page: u64) -> Words {
        (page..page + PAGE_SIZE).step_by(8).map(|address| self.dram().load(address)).collect()
    }

    /// Fills guest pages with what was never there before.
    fn fill(&mut self, address: u64, length: u64) {
        for page in (address..address + length).step_by(PAGE_SIZE as usize) {
            self.stamps += 1;
            for offset in (0..PAGE_SIZE).step_by(8) {
                self.dram().store(page + offset, self.stamps << 12 | offset);
            }
        }
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        match step.action {
            Action::UseTags { page, seed } => {
                let Some(n) = pick(&self.model.ground.tagged, page) else {
                    return Ok(());
                };
                let page = self.model.ground.tagged[n];
                if self.model.may_use_tags(page) {
                    self.use_tags(page, seed);
                }
            }
            Action::Spoil { page } => {
                let Some(n) = pick(&self.model.ground.tagged, page) else {
                    return Ok(());
                };
                let page = self.model.ground.tagged[n];
                if !self.model.may_use_tags(page) && self.model.spoil(page) {
                    let (storage, _) =
                        self.dram().layout.tag_place(page).expect("a page with tags");
                    self.dram().store(storage, self.dram().load(storage).wrapping_add(1));
                }
            }
            _ => {
                let args = step.call(&self.model).expect("the others are calls");
                if let Action::Put { at: steps::Place::Buffer(_), pages, .. } = step.action
                    && step.spoilt.is_none()
                {
                    let shift = self.model.shift_of(args[1]).unwrap_or(12);
                    let end = self.model.ground.buffer + ground::BUFFER;
                    self.fill(args[6], (u64::from(pages) << shift).min(end - args[6]));
                }
                if matches!(step.action, Action::Put { .. } | Action::Get { .. })
                    && let Some(left) = step.abort
                {
                    self.dram().abort_after.store(left.into(), Relaxed);
                    self.model.copies_left = left.into();
                }
                self.call(&args, step.interrupted)?;
                self.dram().abort_after.store(usize::MAX, Relaxed);
                self.model.copies_left = usize::MAX;
            }
        }
        self.check_used()
    }

    /// The guest stores tags and data of a page.
    fn use_tags(&mut self, page: u64, seed: u8) {
        self.fill(page, PAGE_SIZE);
        let (storage, _) = self.dram().layout.tag_place(page).expect("a page with tags");
        let tags = (self.stamps << 8 | u64::from(seed)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for offset in (0..PAGE_SIZE / 32).step_by(8) {
            self.dram().store(storage + offset, tags ^ offset);
        }
        self.used.insert(page, Used { tags, data: self.words(page) });
    }

    /// Makes a call and has it judged. Returns `x0`-`x3`.
    fn call(&mut self, args: &[u64; 8], interrupted: bool) -> Result<[u64; 4], String> {
        let machine = self.cpu.service.platform();
        machine.ops.borrow_mut().clear();
        machine.copies.borrow_mut().clear();
        self.cpu.interrupted.store(interrupted, Relaxed);
        // What was in the pages that a put names, before the call. A put writes no guest page, so that
        // they may be read after it.
        let reply = self.cpu.serve(args);
        self.cpu.interrupted.store(false, Relaxed);
        let answer = (reply[0] as i64, [reply[1], reply[2], reply[3]]);
        let (ops, copies) = (machine.ops.take(), machine.copies.take());
        let dram = &machine.dram;
        let memory = |page: u64| -> Words {
            (page..page + PAGE_SIZE).step_by(8).map(|address| dram.load(address)).collect()
        };
        let verdict = self.model.call(args, interrupted, answer, &copies, &memory)?;
        order::check(&ops, &verdict.changes, &self.model.ground)?;
        for arrival in &verdict.arrivals {
            if self.words(arrival.at) != arrival.words {
                return Err(format!("what was got at {:#x} is not what was put", arrival.at));
            }
        }
        for page in verdict.written {
            let data = self.words(page);
            self.used.entry(page).and_modify(|used| used.data = data);
        }
        // A release, or an activation, ends the use of the tags.
        let model = &self.model;
        self.used.retain(|&page, _| model.may_use_tags(page));
        self.tally.calls += 1;
        self.tally.refused += u64::from(reply[0] as i64 == -3 || reply[0] as i64 == -4);
        for statistic in Statistic::ALL {
            let (is, of) =
                (self.cpu.statistic(*statistic as u64), self.model.statistics[*statistic as usize]);
            if is != of {
                return Err(format!("{statistic:?} is {is}, to be {of}"));
            }
        }
        let (is, of) = (self.cpu.census(), self.model.census());
        if is != of {
            return Err(format!("in tags, cached, free, dormant: {is:?}, to be {of:?}"));
        }
        Ok(reply)
    }

    /// The tags and data of all pages whose tags are in use.
    fn check_used(&mut self) -> Result<(), String> {
        for (&page, used) in &self.used {
            let (storage, _) = self.dram().layout.tag_place(page).expect("a page with tags");
            for offset in (0..PAGE_SIZE / 32).step_by(8) {
                if self.dram().load(storage + offset) != used.tags ^ offset {
                    return Err(format!("tags of page {page:#x} changed, at byte {offset}"));
                }
            }
            if self.words(page) != used.data {
                return Err(format!("data of page {page:#x} changed"));
            }
        }
        self.tally.pages_checked += self.used.len() as u64;
        Ok(())
    }

    /// Everything that is cached is found, and every page's claim is as the model says.
    fn finish(mut self) -> Result<(), String> {
        let buffer = self.model.ground.buffer;
        for (pool, [a, b, c], index) in self.model.cached() {
            let get = Function::Get as u32 as u64;
            self.call(&[get, pool, a, b, c, index, buffer, 1], false)?;
        }
        for page in self.model.ground.tagged.clone() {
            let query = [Function::Query as u32 as u64, page, 0, 0, 0, 0, 0, 0];
            let reply = self.cpu.serve(&query);
            let answer = (reply[0] as i64, [reply[1], reply[2], reply[3]]);
            self.model.call(&query, false, answer, &[], &|_| Words::default())?;
        }
        self.tally.gets += self.model.statistics[Statistic::Gets as usize];
        self.tally.hits += self.model.statistics[Statistic::Hits as usize];
        self.tally.claims += self.model.statistics[Statistic::Claims as usize];
        self.tally.evictions += self.model.statistics[Statistic::Evictions as usize];
        self.check_used()?;
        // No access went beyond RAM, or the memory would have said so.
        let layout = &self.model.ground.layout;
        assert!(!range(layout.base, layout.length).is_empty());
        Ok(())
    }
}
