// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random registers for every call, from one CPU and from all. The shim must survive, and keep
//! its promises afterwards.

use crate::abi::{self, Conduit, function, statistic, status};
use crate::arena::{self, Pages};
use crate::cases::claims::longest;
use crate::machine::machine;
use crate::prng::Random;
use crate::ranges::{PAGE, Range};
use crate::smp;
use crate::stash::{self, Pool};
use crate::tags::{self, Store};
use crate::tap::{Outcome, Test, check, note, same};

/// Tests with tag storage.
pub const TESTS: &[Test] = &[
    ("P7 30,000 calls with random registers", one_cpu),
    ("P7 calls with random registers from all CPUs", all_cpus),
];

/// Pages that a GET of fuzz may write: a run of 64 pages of 64 KiB and as much again.
const SCRATCH: u64 = 2 * 64 * 16;

/// A number of the kinds that break things.
fn odd_number(random: &mut Random) -> u64 {
    match random.below(10) {
        0 => 0,
        1 => random.below(70),
        2 => u64::MAX - random.below(3),
        3 => 1 << random.below(64),
        4 => (1 << random.below(64)) - 1,
        5 => random.next() & 0xffff_ffff,
        6 => 12 + 2 * random.below(3),
        7 => random.below(1 << 20),
        _ => random.next(),
    }
}

/// An address near something.
fn odd_address(random: &mut Random, scratch: Pages) -> u64 {
    let machine = machine();
    let pick = |ranges: &[Range], random: &mut Random| {
        let range = ranges[random.below(ranges.len() as u64) as usize];
        match random.below(3) {
            0 => range.start,
            1 => range.end - PAGE,
            _ => range.start + random.below(range.pages()) * PAGE,
        }
    };
    let base = match random.below(6) {
        0 | 1 => scratch.address() + random.below(SCRATCH) * PAGE,
        2 => pick(machine.no_map.all(), random),
        3 => pick(machine.ram.all(), random),
        4 => pick(machine.memory.all(), random),
        _ => odd_number(random),
    };
    match random.below(8) {
        0 => base.wrapping_add(random.next() >> random.below(64)),
        1 => base.wrapping_sub(PAGE * random.below(65)),
        _ => base,
    }
}

/// One random call. A GET may write to the scratch pages only, so that an address in guest RAM
/// is replaced by one there.
fn one_call(random: &mut Random, scratch: Pages, pools: &[u64]) -> Outcome {
    let number = match random.below(20) {
        0 => 0xc600_0100 + random.below(256),
        1 => random.next() & 0x3f00_ffff | 0x8600_0000,
        // These two rarely: they undo what the others have done.
        2 if random.chance(90) => function::QUERY,
        _ => function::ALL[random.below(function::ALL.len() as u64) as usize],
    };
    let number = match number {
        function::ACTIVATE | function::DEACTIVATE if random.chance(99) => function::PUT,
        number => number,
    };
    let mut arguments: [u64; 8] = core::array::from_fn(|_| odd_number(random));
    arguments[0] = number;
    if random.chance(70) {
        arguments[1] = pools[random.below(pools.len() as u64) as usize];
        arguments[2..5].fill(0);
        arguments[5] = random.below(50);
    }
    match number {
        function::PUT | function::GET => {
            arguments[6] = odd_address(random, scratch);
            if random.chance(60) {
                arguments[7] = 1 + random.below(66);
            }
            let page = Range::of(arguments[6], 1);
            if number == function::GET && machine().ram.touch(page) {
                arguments[6] = scratch.address() + arguments[6] % (SCRATCH / 2 * PAGE);
            }
        }
        function::RECLAIM | function::RELEASE | function::QUERY => {
            arguments[1] = odd_address(random, scratch);
            if random.chance(70) {
                arguments[2] = random.below(200);
            }
        }
        // With interrupts masked a flush of 2^32 pages takes its time.
        function::FLUSH_PAGE if arguments[7] < 1 << 32 => arguments[7] %= 3000,
        _ => (),
    }
    let conduit = if random.chance(80) { Conduit::Hvc } else { Conduit::Smc };
    let answer = abi::call(conduit, arguments);
    let known = function::ALL.contains(&number);
    check!(
        (status::COPY_FAULT..=0).contains(&answer.status) && answer.status != -2 || !known,
        "{arguments:x?} answers {answer:x?}"
    );
    if known && matches!(answer.status, -9..=-3) {
        same!(answer.x1, 0, "x1 of a call that failed: {arguments:x?}");
    }
    Ok(())
}

/// ACTIVATE until done, whatever other CPUs do meanwhile.
fn activate_again(flags: u64) {
    let mut cursor = 0;
    loop {
        let answer = abi::activate(flags, cursor);
        if !answer.ok() || answer.x1 == answer.x2 || answer.x1 == cursor {
            break;
        }
        cursor = answer.x1;
    }
}

fn fuzz(seed: u64, calls: u64, scratch: Pages) -> Outcome {
    let mut random = Random::new(seed);
    let mut pools = [0; 8];
    for step in 0..calls {
        if step % 1000 == 0 {
            activate_again(random.next() & abi::VERIFY);
        }
        if random.chance(3) {
            let bits = 12 + 2 * random.below(3);
            let answer = if random.chance(50) {
                abi::create_private(bits)
            } else {
                abi::create_shared(bits, [random.below(4), 0])
            };
            if answer.ok() {
                pools[random.below(8) as usize] = answer.x1;
            } else if answer.status == status::NO_FREE_POOL {
                pools.iter().for_each(|id| {
                    abi::destroy(*id);
                });
            }
        }
        one_call(&mut random, scratch, &pools)?;
    }
    Ok(())
}

/// The shim still does all it should.
fn works() -> Outcome {
    stash::fresh()?;
    let pool = Pool::private()?;
    let (source, destination) = stash::buffers(&pool);
    let page = longest(&machine().regions.all()[0]).start;
    same!(abi::reclaim(page, 1).x2, 1, "pages newly claimed");
    tags::write(page, 5, Store::Stgm);
    for index in 0..2000 {
        stash::put_kept(source, pool.key(1, index), index)?;
        stash::get_hit(destination, pool.key(1, index), index)?;
    }
    tags::verify(page, 5)?;
    tags::verify_stored(page, 5)?;
    same!(abi::release(page, 1).x2, 1, "claims given back");
    same!(stash::census()?.tags, 0, "frames in tags");
    Ok(())
}

fn one_cpu() -> Outcome {
    stash::fresh()?;
    let scratch = arena::take_aligned(SCRATCH, 16 * PAGE);
    let before = abi::statistics();
    fuzz(0xf022, 30_000, scratch)?;
    let census = stash::census()?;
    let after = abi::statistics();
    let count = |number: u64| after[number as usize] - before[number as usize];
    let (puts, hits) = (count(statistic::PUTS_CACHED), count(statistic::HITS));
    note!("{puts} pages cached, {hits} hits; after the storm {census:?}");
    check!(puts > 300 && hits > 30, "random calls reach little: {puts} puts, {hits} hits");
    works()
}

fn all_cpus() -> Outcome {
    smp::need(2)?;
    stash::fresh()?;
    let cpus = smp::cpus();
    let mut scratch = [arena::take_aligned(SCRATCH, 16 * PAGE); crate::entry::MAX_CPUS];
    for own in &mut scratch[1..cpus] {
        *own = arena::take_aligned(SCRATCH, 16 * PAGE);
    }
    smp::on_all(&|number| {
        let calls = 40_000 / cpus as u64;
        fuzz(0xa11 + number as u64, calls, scratch[number])
    })?;
    works()
}
