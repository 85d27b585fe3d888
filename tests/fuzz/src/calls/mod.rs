// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is fuzzed here: hypercalls, from their registers to their effects on memory, against a model of the contract.
//!
//! | module | what it is for |
//! | --- | --- |
//! | [`board`] | regions, blocks, holes, policy: what the first bytes of an input choose |
//! | [`machine`] | memory whose tag storage aliases, with a log, aborts and interrupts |
//! | [`input`] | what the other bytes mean, and how they are changed |
//! | [`model`] | what `docs/abi.md` says that each call does |

mod board;
mod input;
mod machine;
mod model;

use crate::coverage::{self, Cost};
use crate::engine::Target;
use crate::heap;
use crate::random::Random;
use board::Board;
use input::{HEADER, Record, Step};
use machine::{Abort, Access, Machine, Vcpu};
use model::{Called, Depth, Model};
use shim::{Port, call};
use tagstash::addr::PAGE_SIZE;
use tagstash::hypercall::service::Service;
use tagstash::stash::metadata::MetadataBuffer;

pub use input::MAGIC;

/// Most stack of a call, in bytes, on the machine that fuzzes, with every check compiled in.
const MOST_STACK: usize = 16 << 10;
/// Most edges of a call, whatever it does, and for each page of the machine or of a run that it names.
const MOST_WORK: (usize, usize) = (2_000, 1_500);
/// What an input may make the guest do, in pages written and compared; the rest of it is left out.
const MOST_EFFORT: u64 = 1_500;
/// Calls that an input may make: enough for all pools and many more.
const MOST_CALLS: u64 = 250;

/// The service on the simulated machine.
pub struct Calls {
    machine: Machine,
    log: Vec<Access>,
    depth: Depth,
    inputs: u64,
    last_work: usize,
    marks: Vec<u32>,
    /// The most that a call took.
    most: Cost,
    most_pages: u64,
    /// Print each call.
    verbose: bool,
    /// Change this register of the reply to the call of this number.
    lie: Option<(u64, usize)>,
}

impl Calls {
    /// The target.
    pub fn new() -> Calls {
        Calls {
            machine: Machine::new(Board::largest()),
            log: Vec::with_capacity(1 << 12),
            depth: Depth::default(),
            inputs: 0,
            last_work: 0,
            marks: Vec::new(),
            most: Cost::default(),
            most_pages: 0,
            verbose: false,
            lie: None,
        }
    }
}

/// A call about to be made.
struct Plan {
    args: [u64; 8],
    cpu: usize,
    now: u64,
    interrupt: Option<u32>,
    abort: Option<Abort>,
}

/// One input under way.
struct Session<'s, 'm, 'b> {
    machine: &'m Machine,
    service: &'s Service<'b, Port<'m>>,
    model: Model<'m>,
    log: &'s mut Vec<Access>,
    work: usize,
    most: Cost,
    calls: u64,
    lie: Option<(u64, usize)>,
    verbose: bool,
}

impl Session<'_, '_, '_> {
    /// Makes a call and checks it; returns `x0`-`x3`.
    fn call(&mut self, plan: &Plan) -> Result<[u64; 4], String> {
        self.machine.abort.set(plan.abort);
        self.machine.interrupt.set(plan.interrupt);
        let vcpu = Vcpu { machine: self.machine, number: plan.cpu, now: plan.now };
        let pages = self.model.machine_pages() as usize;
        let most = Cost { work: MOST_WORK.0 + MOST_WORK.1 * pages, stack: MOST_STACK };
        let (service, args) = (self.service, &plan.args);
        if self.verbose {
            println!("{}", describe(plan));
        }
        let ((reply, cost), heap) =
            heap::peak(|| coverage::watch(most, || call(service, &vcpu, args)));
        let mut reply = reply.0;
        if let Some((call, register)) = self.lie
            && call == self.calls
        {
            reply[register] ^= 1;
        }
        self.calls += 1;
        self.work += cost.work;
        self.most.work = self.most.work.max(cost.work);
        self.most.stack = self.most.stack.max(cost.stack);
        self.machine.take_log(self.log);
        if self.verbose {
            let [status, a, b, c] = reply;
            println!("    {} {a:#x} {b:#x} {c:#x}, {} accesses", status as i64, self.log.len());
        }
        let (cpu, now, interrupt) = (plan.cpu, plan.now, plan.interrupt);
        let called = Called { args: plan.args, cpu, now, interrupt, reply, log: self.log };
        let checked = match heap {
            0 => self.model.check(&called),
            bytes => Err(format!("takes {bytes} bytes of heap")),
        };
        checked.map_err(|error| format!("{}: {error}", describe(plan)))?;
        Ok(reply)
    }

    /// A call that nothing happens to.
    fn plain(&mut self, args: [u64; 8], now: u64) -> Result<[u64; 4], String> {
        self.call(&Plan { args, cpu: 0, now, interrupt: None, abort: None })
    }

    fn run(&mut self, input: &[u8]) -> Result<(), String> {
        let mut cursors = [0; 2];
        let mut now = 0;
        let records = input.get(HEADER..).unwrap_or_default().as_chunks().0;
        for record in records {
            let record = Record(record);
            for round in 0..record.times() {
                if self.model.effort > MOST_EFFORT || now > MOST_CALLS {
                    return self.finish(now);
                }
                now += 1;
                match record.step(&self.model, round, &cursors) {
                    Step::Tag(address) => self.model.tag(address),
                    Step::Fill(address) => self.model.fill(address),
                    Step::Call { args, cpu, interrupt, abort } => {
                        let function = args[0] as u32 & !(1 << 16);
                        self.prepare(function, &args);
                        let [status, next, end, _] =
                            self.call(&Plan { args, cpu, now, interrupt, abort })?;
                        if status == 0
                            && let Some(cursor) = match function {
                                model::ACTIVATE => Some(&mut cursors[0]),
                                model::DEACTIVATE => Some(&mut cursors[1]),
                                _ => None,
                            }
                        {
                            *cursor = if next == end { 0 } else { next };
                        }
                    }
                }
            }
        }
        self.finish(now)
    }

    /// What the guest does before a put: it writes the first page, and those that hold it knows not
    /// what.
    fn prepare(&mut self, function: u32, args: &[u64; 8]) {
        let (address, pages) = (args[6], args[7]);
        if function != model::PUT || pages > 64 {
            return;
        }
        let Some((_, pool)) = self.model.pool(args[1]) else { return };
        let length = pages << pool.shift;
        if address.is_multiple_of(PAGE_SIZE) && self.model.all_ram(address, length) {
            self.model.fill(address);
            for page in (address..address + length).step_by(PAGE_SIZE as usize) {
                self.model.fill_unknown(page);
            }
        }
    }

    /// Asks for everything, gets what is left, asks again.
    fn finish(&mut self, now: u64) -> Result<(), String> {
        self.model.check_memory()?;
        for args in self.model.audit() {
            self.plain(args, now)?;
        }
        for (pool, [a, b, c], index) in self.model.keys() {
            let Some((_, known)) = self.model.pool(pool.into()) else { continue };
            let Some(place) = self.model.place(known.shift, 1, 0) else { continue };
            self.plain([model::GET.into(), pool.into(), a, b, c, index, place, 1], now)?;
        }
        for args in self.model.audit() {
            self.plain(args, now)?;
        }
        self.model.check_memory()
    }
}

/// A call as a line.
fn describe(plan: &Plan) -> String {
    let [function, rest @ ..] = plan.args;
    let name = tagstash::hypercall::abi::Function::decode(function as u32);
    let name = name.map_or("unknown".to_string(), |name| format!("{name:?}"));
    let more = match (plan.interrupt, plan.abort) {
        (None, None) => String::new(),
        (interrupt, abort) => format!(", interrupt {interrupt:?}, {abort:?}"),
    };
    format!("CPU {}: {name} {function:#x} {rest:x?}{more}", plan.cpu)
}

impl Target for Calls {
    const NAME: &'static str = "calls";
    const MAX_INPUT: usize = HEADER + input::MAX_RECORDS * input::RECORD;
    const UNITS: (usize, usize) = (HEADER, input::RECORD);

    fn check(&mut self, input: &[u8]) -> Result<(), String> {
        self.inputs += 1;
        let chosen = input.get(MAGIC.len()..HEADER).unwrap_or(&[0; 3]);
        let board = Board::new(chosen.try_into().expect("three bytes"));
        self.machine.reset(board.layout.clone());
        let regions = board.layout.regions(board.cpus);
        let buffer = MetadataBuffer::new(&regions);
        let port = Port(&self.machine);
        let service = Service::new(regions, buffer.metadata(), board.ram(), board.cpus, port)
            .with_policy(board.policy);
        let model = Model::new(&board, &self.machine);
        if self.verbose {
            println!("{:x?}, {:?}, {} CPUs", board.layout, board.policy, board.cpus);
        }
        let mut session = Session {
            machine: &self.machine,
            service: &service,
            model,
            log: &mut self.log,
            work: 0,
            most: self.most,
            calls: 0,
            lie: self.lie,
            verbose: self.verbose,
        };
        let result = session.run(input);
        self.depth.add(&session.model.depth);
        let statuses = session.model.statuses.iter();
        let statuses = statuses
            .map(|(function, status)| 1024 + (function & 0x1ff) * 32 + (-status as u32 & 31));
        self.marks = session.model.depth.marks().chain(statuses).collect();
        self.most_pages = self.most_pages.max(session.model.effort);
        (self.last_work, self.most) = (session.work, session.most);
        result
    }

    fn mutate(random: &mut Random, input: &[u8], other: &[u8]) -> Vec<u8> {
        input::mutate(random, input, other)
    }

    fn seeds() -> Vec<Vec<u8>> {
        input::seeds()
    }

    fn last_work(&self) -> usize {
        self.last_work
    }

    fn marks(&self) -> Vec<u32> {
        self.marks.clone()
    }

    fn summary(&self) -> Vec<String> {
        let depth = &self.depth;
        vec![
            format!("{} inputs: {depth}", self.inputs),
            format!(
                "at most: {} edges and {} bytes of stack a call, {} pages an input",
                self.most.work, self.most.stack, self.most_pages,
            ),
        ]
    }

    fn got_far(&self, runs: u64) -> bool {
        self.depth.got_far(runs)
    }

    /// One wrong bit in any result of any call of some good inputs is refused, at once or later.
    fn oracles_bite() -> bool {
        let mut calls = Calls::new();
        input::seeds().iter().step_by(9).all(|seed| {
            calls.lie = None;
            let before = calls.depth;
            if calls.check(seed).is_err() {
                return false;
            }
            let count = calls.depth.calls() - before.calls();
            (0..count).all(|call| {
                (0..4).all(|register| {
                    calls.lie = Some((call, register));
                    calls.check(seed).is_err()
                })
            })
        })
    }

    fn explain(&mut self) {
        self.verbose = true;
    }
}
