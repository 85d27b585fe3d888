// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a hostile guest may try: calls from levels, with immediates, and in states of the CPU that
//! no kernel would make them from. None may reach more than a call may, and none may harm the shim.

use core::sync::atomic::{AtomicU64, Ordering};

use super::registers::system_registers;
use crate::abi::{self, Answer, Conduit, Key, event, function, status};
use crate::arena::{self, Pages};
use crate::cpu::{self, Registers, SetWay, read_register, write_register};
use crate::exceptions;
use crate::machine::machine;
use crate::mmu::{self, ALIAS_OFFSET, EL0_OFFSET, GUARDED_OFFSET};
use crate::pages;
use crate::prng::Random;
use crate::probes;
use crate::psci;
use crate::pstate::{self, Bare, State, class, spsr};
use crate::ranges::{PAGE, Range};
use crate::smp;
use crate::stash::{self, Pool};
use crate::tap::{Outcome, Stop, Test, check, fail, note, same};

/// Tests for any machine.
pub const ANYWHERE: &[Test] = &[
    ("P7 HVC and SMC of a program are undefined at EL1", calls_of_programs),
    ("P7 HVC and SMC with an immediate are NOT_SUPPORTED and change x0 only", immediates),
    ("P7 a step over a call ends behind the call, which is served once", steps),
    ("P7 illegal returns and illegal state end at EL1, and no call is made", illegal_states),
    ("P7 a branch to a call in a guarded page ends at EL1, and SMC clears BTYPE", branch_targets),
    ("P7 PSTATE is what it was after every call", pstate_kept),
    ("P7 calls use no stack of the guest's", wild_stacks),
    ("P7 calls work and keep q0-q31 while floating point is off", floating_point_off),
    ("P7 calls keep all of the SVE and SME registers", vectors_kept),
    ("P7 a CPU that has its MMU off and garbage in its registers makes calls", bare_cpu),
    ("P7 aborts go to vectors wherever they are mapped", other_vectors),
    ("P7 a CPU without vectors stops nobody, and comes back with them", lost_vectors),
    ("P7 EVENTS during a storm of aborts on other CPUs loses count of none", storm),
    ("P7 maintenance of all sets and ways is not trapped and changes nothing", set_way),
];

/// Tests with tag storage.
pub const TESTS: &[Test] =
    &[("P7 no call with valid arguments changes another register", valid_sweep)];

/// What makes a call: `x0`-`x7`, and `x0`-`x3` afterwards.
type Maker<'a> = dyn FnMut([u64; 8]) -> Result<[u64; 4], Stop> + 'a;

/// Makes every call there is with arguments that are valid where there is tag storage, whose
/// status must then be SUCCESS; DEACTIVATE only at the `end`. `page` is put and got.
fn every_call(page: Pages, end: bool, call: &mut Maker) -> Outcome {
    /// In registers that a call does not name.
    const NOISE: u64 = 0xfeed_0000_0000_0bad;
    let stored = machine().expects_storage();
    let mut make = |number: u64, arguments: &[u64]| -> Result<Answer, Stop> {
        let mut all = [NOISE; 8];
        all[0] = number;
        all[1..=arguments.len()].copy_from_slice(arguments);
        let [x0, x1, x2, x3] = call(all)?;
        if stored || number == function::VERSION {
            same!(x0, 0, "status of {number:#x} with valid arguments");
        }
        Ok(Answer::of(x0 as i64, x1, x2, x3))
    };
    let version = make(function::VERSION, &[])?;
    same!(version.x1 >> 16, 1, "major version");
    make(function::REGION, &[0])?;
    make(function::STATISTIC, &[0])?;
    make(function::CENSUS, &[0, 0, 64])?;
    make(function::STATE, &[])?;
    make(function::EVENTS, &[0, 0])?;
    make(function::ACTIVATE, &[0, 0])?;
    let pool = make(function::POOL_CREATE, &[12])?.x1;
    let key = Key { pool, object: [0x4057, 0x11e, 3], index: 7 };
    pages::write(page, key, 1);
    make(function::PUT, &abi::page_arguments(function::PUT, key, page.address(), 1)[1..])?;
    pages::spoil(page);
    make(function::GET, &abi::page_arguments(function::GET, key, page.address(), 1)[1..])?;
    if stored {
        same!(pages::read(page, key)?, 1, "sequence of the page that was put and got");
    }
    let [first, second, third] = key.object;
    make(function::FLUSH_PAGE, &[pool, first, second, third, 0, page.address(), 64])?;
    make(function::FLUSH_OBJECT, &[pool, first, second, third])?;
    make(function::FLUSH_POOL, &[pool])?;
    make(function::RECLAIM, &[page.address(), 1])?;
    make(function::QUERY, &[page.address()])?;
    make(function::RELEASE, &[page.address(), 1])?;
    make(function::POOL_DESTROY, &[pool])?;
    if end {
        make(function::DEACTIVATE, &[0])?;
    }
    Ok(())
}

/// How many calls that is.
const EVERY_CALL: u64 = 17;

/// Lends all storage where there is some.
fn lend() -> Outcome {
    if machine().expects_storage() { stash::active() } else { Ok(()) }
}

/// Does `work` on each CPU, one after the other.
fn in_turn(work: &(dyn Fn(usize) -> Outcome + Sync)) -> Outcome {
    let turn = AtomicU64::new(0);
    smp::on_all(&|number| {
        smp::wait_for("its turn", || turn.load(Ordering::SeqCst) == number as u64);
        let outcome = work(number);
        turn.fetch_add(1, Ordering::SeqCst);
        outcome
    })
}

/// Runs an instruction in a state. The class of the exception that ended it, where it was and the
/// PSTATE then.
fn run(state: &mut State) -> Result<(u64, u64, u64), Stop> {
    // SAFETY: tests pass GET only pages of their own, and use tags of claimed pages only.
    match unsafe { state.run() } {
        Some(met) => Ok((met.syndrome >> 26, met.at, met.state)),
        None => fail!("code at {:#x} did not end by an exception", state.code()),
    }
}

/// Makes a call in a state, which must end by BRK behind it. PSTATE then.
fn run_call(state: &mut State, what: core::fmt::Arguments<'_>) -> Result<u64, Stop> {
    let (class, at, pstate) = run(state)?;
    same!(class, class::BREAKPOINT, "{what}: class of the exception behind the call");
    check!(at > state.code(), "{what}: BRK at {at:#x}, the call is at {:#x}", state.code());
    Ok(pstate)
}

/// Checks that a state's registers are what they were.
fn unchanged(
    state: &State,
    before: &[u64; 17],
    from: usize,
    what: core::fmt::Arguments<'_>,
) -> Outcome {
    for (at, (is, wanted)) in state.general.iter().zip(before).enumerate().skip(from) {
        same!(*is, *wanted, "{what}: x{at}");
    }
    Ok(())
}

const MASKED_EL1H: u64 = spsr::DAIF | spsr::EL1H;

fn calls_of_programs() -> Outcome {
    check!(probes::map_for_el0(), "no room in the map for EL0");
    let bodies = [pstate::HVC, pstate::SMC].into_iter().chain(pstate::WITH_IMMEDIATE);
    let from = abi::next_event();
    smp::on_all(&|number| {
        for body in bodies.clone() {
            for function in [function::VERSION, function::DEACTIVATE, psci::CPU_OFF] {
                let mut state = State::new(body, spsr::DAIF | spsr::EL0T)
                    .arguments(&[function, 0, 0, 0, 0, 0, 0, 0])
                    .mapped(EL0_OFFSET);
                let before = state.general;
                let (class, at, pstate) = run(&mut state)?;
                let name = body.name;
                same!(class, class::UNKNOWN, "{name} at EL0 of CPU {number}: class");
                same!(at, state.code(), "{name} at EL0 of CPU {number}: ELR");
                same!(pstate & spsr::MODE, spsr::EL0T, "{name} at EL0 of CPU {number}: SPSR.M");
                unchanged(&state, &before, 0, format_args!("{name} at EL0 of CPU {number}"))?;
            }
        }
        Ok(())
    })?;
    // EL1 took them by itself: nothing came by way of the shim, apart from the CPUs' starts.
    let starts = smp::cpus() as u64 - 1;
    same!(abi::next_event(), from + starts, "the next event after HVC and SMC at EL0");
    Ok(())
}

fn immediates() -> Outcome {
    smp::on_all(&|number| {
        let functions =
            [function::VERSION, function::POOL_CREATE, function::UID, psci::VERSION, 0x8000_0000];
        for body in pstate::WITH_IMMEDIATE {
            for function in functions.into_iter().chain([psci::CPU_OFF, 0, 0xc600_01ff, u64::MAX]) {
                let mut state = State::new(body, MASKED_EL1H);
                state.general[0] = function;
                state.general[1] = 12;
                let (before, system) = (state.general, kept_by_exceptions());
                let what = format_args!("{} of {function:#x} on CPU {number}", body.name);
                let pstate = run_call(&mut state, what)?;
                same!(state.general[0] as i64, status::NOT_SUPPORTED, "{what}: x0");
                unchanged(&state, &before, 1, what)?;
                same!(pstate & !spsr::BTYPE, nop_pstate(MASKED_EL1H)?.1, "{what}: PSTATE");
                check!(kept_by_exceptions() == system, "{what}: EL1's registers");
            }
        }
        Ok(())
    })
}

/// Registers of EL1 that its own exceptions keep as well: not those for the return.
fn kept_by_exceptions() -> [u64; 16] {
    let mut registers = system_registers();
    // SP_EL0, ELR, SPSR, ESR, FAR.
    for at in [0, 4, 5, 6, 7] {
        registers[at] = 0;
    }
    registers
}

/// The judge of states: what becomes of one if no call is made. Class, and PSTATE without BTYPE.
fn nop_pstate(pstate: u64) -> Result<(u64, u64), Stop> {
    let (class, _, after) = run(&mut State::new(pstate::NOP, pstate))?;
    Ok((class, after & !spsr::BTYPE))
}

/// Lets this CPU step while `work` runs.
fn stepping<R>(work: impl FnOnce() -> R) -> R {
    const SS: u64 = 1;
    const KDE: u64 = 1 << 13;
    const LOCKED: u64 = 1 << 1;
    let locked = read_register!("oslsr_el1") & LOCKED != 0;
    write_register!("oslar_el1", 0);
    write_register!("mdscr_el1", SS | KDE);
    cpu::isb();
    let result = work();
    write_register!("mdscr_el1", 0);
    write_register!("oslar_el1", u64::from(locked));
    cpu::isb();
    result
}

fn steps() -> Outcome {
    const STEPPED: u64 = MASKED_EL1H & !spsr::D | spsr::SS;
    let hidden = machine().no_map.all()[0].start;
    lend()?;
    let all = arena::take(smp::cpus() as u64);
    // That the CPU steps at all.
    let (class, ..) = stepping(|| run(&mut State::new(pstate::NOP, STEPPED)))?;
    if class == class::BREAKPOINT {
        return Err(Stop::Skipped("the CPU does not step"));
    }
    in_turn(&|number| {
        let step = |mut state: State, name: &str| -> Result<State, Stop> {
            let (class, at, pstate) = stepping(|| run(&mut state))?;
            same!(class, class::STEP, "a step over {name} on CPU {number}: class");
            same!(at, state.code() + 4, "a step over {name} on CPU {number}: ELR");
            same!(pstate & spsr::SS, 0, "a step over {name} on CPU {number}: SPSR.SS");
            Ok(state)
        };
        step(State::new(pstate::NOP, STEPPED), "NOP")?;
        for body in [pstate::HVC, pstate::SMC] {
            every_call(all.part(number as u64, 1), false, &mut |arguments| {
                let state = State::new(body, STEPPED).arguments(&arguments);
                Ok(step(state, body.name)?.results())
            })?;
            if machine().expects_storage() {
                let from = abi::next_event();
                let arguments = [function::POOL_CREATE, 12, 0, 0, 0, 0, 0, 0];
                let state = State::new(body, STEPPED).arguments(&arguments);
                let pool = step(state, body.name)?.results();
                same!(abi::next_event(), from + 1, "events of one POOL_CREATE that is stepped");
                check!(abi::destroy(pool[1]).ok(), "POOL_DESTROY after a step: {pool:x?}");
            }
        }
        let mut refused = State::new(pstate::SMC, STEPPED);
        refused.general[0] = psci::SYSTEM_SUSPEND;
        let from = abi::next_event();
        let answer = step(refused, "SYSTEM_SUSPEND")?.results()[0];
        same!(answer as i64, psci::NOT_SUPPORTED, "SYSTEM_SUSPEND that is stepped");
        same!(abi::next_event(), from + 1, "events of one refused call that is stepped");
        // What is not executed is not stepped: the same as of an abort that EL1 took by itself.
        let mut pstates = [0; 2];
        for (pstate, address) in pstates.iter_mut().zip([hidden, mmu::OTHER]) {
            let mut state = State::new(pstate::LOAD, STEPPED);
            state.general[0] = address;
            let (class, at, met) = stepping(|| run(&mut state))?;
            same!(class, class::DATA_ABORT, "a step over a load from {address:#x}: class");
            same!(at, state.code(), "a step over a load from {address:#x}: ELR");
            *pstate = met;
        }
        same!(pstates[0], pstates[1], "SPSR of an injected abort while stepping");
        Ok(())
    })
}

fn illegal_states() -> Outcome {
    check!(probes::map_for_el0(), "no room in the map for EL0");
    let legal = [spsr::EL0T, spsr::EL1T, spsr::EL1H];
    // A program of AArch32, where EL0 has that.
    const USER32: u64 = 0x10;
    let returns = (0..32).filter(|mode| !legal.contains(mode) && *mode != USER32);
    let states = returns.chain([spsr::IL | spsr::EL1H, spsr::IL | spsr::EL1T]);
    smp::on_all(&|number| {
        for pstate in states.clone().chain([spsr::IL | spsr::EL0T]) {
            for body in [pstate::HVC, pstate::SMC] {
                let mut state = State::new(body, spsr::DAIF | pstate).arguments(&[
                    function::VERSION,
                    0,
                    0,
                    0,
                    0,
                    0,
                    0,
                    0,
                ]);
                if pstate & spsr::MODE == spsr::EL0T {
                    state = state.mapped(EL0_OFFSET);
                }
                let before = state.general;
                let (class, at, met) = run(&mut state)?;
                let what = format_args!("{} after ERET with {pstate:#x}, CPU {number}", body.name);
                same!(class, class::ILLEGAL_STATE, "{what}: class");
                same!(at, state.code(), "{what}: ELR");
                same!(met & spsr::IL, spsr::IL, "{what}: SPSR.IL");
                unchanged(&state, &before, 0, what)?;
            }
        }
        Ok(())
    })
}

fn branch_targets() -> Outcome {
    if read_register!("id_aa64pfr1_el1") & 0xf == 0 {
        return Err(Stop::Skipped("the CPU has no FEAT_BTI"));
    }
    check!(mmu::map_aliases(crate::image()), "no room in the map for guarded pages");
    let version = [function::VERSION, 0, 0, 0, 0, 0, 0, 0];
    smp::on_all(&|number| {
        for body in [pstate::HVC, pstate::SMC_BRK] {
            for btype in 0..4 {
                let what = format_args!("{} with BTYPE {btype} on CPU {number}", body.name);
                let new = || State::new(body, MASKED_EL1H | btype << 10).arguments(&version);
                // Not guarded: a call. SMC is stepped over by the shim. What SPSR says of BTYPE
                // after HVC is up to the CPU (Arm ARM, AArch64.TakeException).
                let mut state = new();
                let pstate = run_call(&mut state, what)?;
                same!(state.general[0], 0, "{what}: status");
                if body.address() == pstate::SMC_BRK.address() {
                    same!(pstate & spsr::BTYPE, 0, "{what}: BTYPE behind it");
                }
                let mut state = new().mapped(GUARDED_OFFSET);
                if btype == 0 {
                    run_call(&mut state, what)?;
                    same!(state.general[0], 0, "{what}, guarded: status");
                    continue;
                }
                let before = state.general;
                let (class, at, pstate) = run(&mut state)?;
                same!(class, class::BRANCH_TARGET, "{what}, guarded: class");
                same!(at, state.code(), "{what}, guarded: ELR");
                same!(pstate & spsr::BTYPE, btype << 10, "{what}, guarded: SPSR.BTYPE");
                unchanged(&state, &before, 0, what)?;
            }
        }
        Ok(())
    })
}

/// Bits of SPSR besides the mode that may be set in these tests: not IL, SS and BTYPE, which have
/// tests of their own.
fn free_bits() -> impl Iterator<Item = u64> + Clone {
    let own = spsr::IL | spsr::SS | spsr::BTYPE | spsr::MODE;
    (0..64).map(|at| 1 << at).filter(move |bit| bit & own == 0)
}

fn pstate_kept() -> Outcome {
    lend()?;
    let all = arena::take(smp::cpus() as u64);
    in_turn(&|number| {
        let mut stick = 0;
        for bit in free_bits() {
            if let (class::BREAKPOINT, after) = nop_pstate(bit | spsr::EL1H)? {
                stick |= after & bit;
            }
        }
        if number == 0 {
            note!("bits of PSTATE that can be set: {stick:#x}");
        }
        // NZCV and DAIF are there on any CPU.
        same!(stick & 0xf000_03c0, 0xf000_03c0, "bits of PSTATE that can be set");
        let daif = (0..16).map(|daif| daif << 6);
        let more = free_bits().chain([stick, 0]);
        for mode in [spsr::EL1H, spsr::EL1T] {
            for pstate in daif.clone().flat_map(|daif| more.clone().map(move |bit| daif | bit)) {
                let pstate = pstate | mode;
                let judge = nop_pstate(pstate)?;
                for body in [pstate::HVC, pstate::SMC] {
                    let mut state = State::new(body, pstate);
                    state.general[0] = function::VERSION;
                    let (class, _, after) = run(&mut state)?;
                    check!(
                        (class, after & !spsr::BTYPE) == judge,
                        "{} with PSTATE {pstate:#x} on CPU {number}: class {class:#x} and PSTATE \
                         {after:#x}, of NOP {judge:x?}",
                        body.name
                    );
                }
            }
        }
        // And every call with all of them set, and with none.
        for pstate in [stick | spsr::EL1H, spsr::EL1H, stick | spsr::EL1T, spsr::EL1T] {
            let judge = nop_pstate(pstate)?.1;
            for body in [pstate::HVC, pstate::SMC] {
                every_call(all.part(number as u64, 1), false, &mut |arguments| {
                    let mut state = State::new(body, pstate).arguments(&arguments);
                    let what = format_args!("{:#x} with PSTATE {pstate:#x}", arguments[0]);
                    let after = run_call(&mut state, what)?;
                    same!(after & !spsr::BTYPE, judge, "{what}: PSTATE");
                    Ok(state.results())
                })?;
            }
        }
        Ok(())
    })
}

fn wild_stacks() -> Outcome {
    lend()?;
    let hidden = machine().no_map.all()[0];
    let all = arena::take(smp::cpus() as u64);
    let stacks = [hidden.start, hidden.end, hidden.start + 0x123, 0, 1, u64::MAX, 1 << 55, !0xf];
    in_turn(&|number| {
        for stack in stacks {
            for body in [pstate::HVC, pstate::SMC] {
                for mode in [spsr::EL1H, spsr::EL1T] {
                    every_call(all.part(number as u64, 1), false, &mut |arguments| {
                        let mut state =
                            State::new(body, spsr::DAIF | mode).arguments(&arguments).stack(stack);
                        let before = state.general;
                        let what = format_args!("{:#x} with SP {stack:#x}", arguments[0]);
                        run_call(&mut state, what)?;
                        same!(state.stack_after(), stack, "{what}: SP");
                        unchanged(&state, &before, 4, what)?;
                        Ok(state.results())
                    })?;
                }
            }
        }
        Ok(())
    })
}

/// CPACR_EL1: floating point, SVE and SME may be used.
const FLOATING_POINT: u64 = 3 << 20;
const SCALABLE: u64 = 3 << 16;
const MATRICES: u64 = 3 << 24;

/// Pages of a buffer for vector registers.
const VECTOR_PAGES: u64 = pstate::VECTORS / PAGE;

/// Makes every call with vector registers full of noise, which must stay.
///
/// `bytes` are those that are compared; `cpacr` is CPACR_EL1 at the call.
fn with_vectors(
    own: Pages,
    cpacr: u64,
    flags: u64,
    bytes: &[(u64, u64)],
    random: &mut Random,
) -> Outcome {
    let (before, after) = (own.part(1, VECTOR_PAGES), own.part(1 + VECTOR_PAGES, VECTOR_PAGES));
    every_call(own.part(0, 1), false, &mut |mut arguments| {
        for word in 0..before.count() as usize * arena::WORDS {
            before.write(word, random.next());
        }
        // FFR is ones, then zeros. It follows P15.
        if let [(_, vectors), (ffr, length), ..] = bytes {
            debug_assert!(vectors == ffr);
            for at in 0..*length {
                write_byte(before, ffr + at, if at < length / 2 { 0xff } else { 0 });
            }
        }
        after.fill(0x5555_5555_5555_5555);
        let number = arguments[0];
        let (from, to) = (before.address(), after.address());
        // SAFETY: the buffers are large enough for any vector length, and the caller's flags fit.
        let svcr = unsafe { pstate::with_vectors(from, to, &mut arguments, cpacr, flags) };
        same!(svcr, flags >> 1 & 3, "{number:#x} with flags {flags:#x}: SVCR");
        for (start, length) in bytes {
            for at in *start..start + length {
                let (is, wanted) = (read_byte(after, at), read_byte(before, at));
                same!(is, wanted, "{number:#x} with flags {flags:#x}: byte {at:#x} of the vectors");
            }
        }
        Ok(core::array::from_fn(|at| arguments[at]))
    })
}

fn read_byte(pages: Pages, at: u64) -> u64 {
    pages.read(at as usize / 8) >> (at % 8 * 8) & 0xff
}

fn write_byte(pages: Pages, at: u64, byte: u64) {
    let (word, shift) = (at as usize / 8, at % 8 * 8);
    pages.write(word, pages.read(word) & !(0xff << shift) | byte << shift);
}

fn floating_point_off() -> Outcome {
    lend()?;
    const EACH: u64 = 1 + 2 * VECTOR_PAGES;
    let all = arena::take(EACH * smp::cpus() as u64);
    in_turn(&|number| {
        let mut random = Random::new(number as u64);
        let own = all.part(number as u64 * EACH, EACH);
        for cpacr in [FLOATING_POINT, 0, 1 << 20, 2 << 20] {
            for flags in [0, pstate::BY_SMC] {
                with_vectors(own, cpacr, flags, &[(0, 512)], &mut random)?;
            }
        }
        Ok(())
    })
}

fn vectors_kept() -> Outcome {
    if read_register!("id_aa64pfr0_el1") >> 32 & 0xf == 0 {
        return Err(Stop::Skipped("the CPU has no SVE"));
    }
    let matrices = read_register!("id_aa64pfr1_el1") >> 24 & 0xf != 0;
    lend()?;
    const EACH: u64 = 1 + 2 * VECTOR_PAGES;
    let all = arena::take(EACH * smp::cpus() as u64);
    in_turn(&|number| {
        let own = all.part(number as u64 * EACH, EACH);
        let usable = FLOATING_POINT | SCALABLE | if matrices { MATRICES } else { 0 };
        let outcome = scalable(own, usable, matrices, number);
        write_register!("cpacr_el1", FLOATING_POINT);
        cpu::isb();
        outcome
    })
}

/// All vector lengths that the CPU has, from the longest on.
fn scalable(own: Pages, usable: u64, matrices: bool, number: usize) -> Outcome {
    use pstate::{BY_SMC, STREAMING, SVE, ZA};
    write_register!("cpacr_el1", usable);
    cpu::isb();
    let mut random = Random::new(number as u64);
    let modes: &[u64] = if matrices { &[SVE, SVE | ZA, SVE | ZA | STREAMING] } else { &[SVE] };
    for mode in modes {
        for length in [0xf, 3, 0] {
            write_register!("s3_0_c1_c2_0", length); // ZCR_EL1
            if matrices {
                write_register!("s3_0_c1_c2_6", length); // SMCR_EL1
            }
            cpu::isb();
            // SAFETY: the CPU has SVE, and SME in the modes that need it.
            let (normal, streaming) =
                unsafe { (pstate::length(false), if matrices { pstate::length(true) } else { 0 }) };
            let bytes = if mode & STREAMING != 0 { streaming } else { normal };
            if number == 0 {
                note!("mode {mode}: vectors of {bytes} bytes");
            }
            let predicates = 32 * bytes + 2 * bytes;
            let ffr = if mode & STREAMING != 0 { 0 } else { bytes / 8 };
            let tile = if mode & ZA != 0 { streaming * streaming } else { 0 };
            let ranges = [(0, predicates), (predicates, ffr), (pstate::ZA_OFFSET, tile)];
            // SVE off at the call too.
            for cpacr in [usable, 0] {
                for conduit in [0, BY_SMC] {
                    with_vectors(own, cpacr, mode | conduit, &ranges, &mut random)?;
                }
            }
        }
    }
    Ok(())
}

fn bare_cpu() -> Outcome {
    smp::need(2)?;
    lend()?;
    let stored = machine().expects_storage();
    let pool = if stored { Some(Pool::private()?) } else { None };
    let key = Key::new(pool.as_ref().map_or(0, |pool| pool.id), 0xba2e, 1);
    let page = arena::take(1).address();
    let hidden = machine().no_map.all()[0].start;
    let put = |address| abi::page_arguments(function::PUT, key, address, 1);
    let get = |address| abi::page_arguments(function::GET, key, address, 1);
    let of = |function, first, second| [function, first, second, 0, 0, 0, 0, 0];
    use status::*;
    // Each with the statuses that it may have where there is tag storage. What PUT and GET move
    // from a CPU without caches is not said.
    let calls: [([u64; 8], &[i64]); 20] = [
        (of(function::VERSION, 0, 0), &[SUCCESS]),
        (of(function::STATE, 0, 0), &[SUCCESS]),
        (of(function::QUERY, page, 0), &[SUCCESS]),
        (of(function::QUERY, hidden, 0), &[INVALID_ADDRESS]),
        (of(function::RECLAIM, page, 1), &[SUCCESS]),
        (of(function::RECLAIM, hidden, 1), &[INVALID_ADDRESS]),
        (of(function::RELEASE, page, 1), &[SUCCESS]),
        (of(function::RELEASE, hidden, 1), &[INVALID_ADDRESS]),
        (put(page), &[SUCCESS, NOT_CACHED]),
        (get(page), &[SUCCESS, MISS]),
        (put(hidden), &[INVALID_ADDRESS]),
        (get(hidden), &[INVALID_ADDRESS]),
        (put(!0xfff), &[INVALID_ADDRESS]),
        (get(1 << 63), &[INVALID_ADDRESS]),
        (of(function::FLUSH_POOL, key.pool, 0), &[SUCCESS]),
        (of(function::EVENTS, 0, 0), &[SUCCESS]),
        (of(function::EVENTS, 0, 1), &[SUCCESS]),
        (of(function::EVENTS, u64::MAX, 0), &[SUCCESS]),
        (of(0xc600_01ff, !0, !0), &[NOT_SUPPORTED]),
        (of(psci::SYSTEM_SUSPEND, 0, 0), &[NOT_SUPPORTED]),
    ];
    let block = arena::take(1).address();
    const _: () = assert!(size_of::<Bare>() as u64 <= PAGE);
    let flush = || {
        (block..block + PAGE).step_by(16).for_each(cpu::clean_and_invalidate_line);
        cpu::dsb();
    };
    for number in 1..smp::cpus() {
        for (garbage, wild) in [(0, 0), (u64::MAX, hidden), (0x5a5a_5a5a_5a5a_5a5a, hidden + 0x123)]
        {
            // Once each call by HVC and once by SMC.
            for shift in [0, 1] {
                let bare = block as *mut Bare;
                // SAFETY: a page of the test's own, larger and more aligned than a Bare; the CPU
                // that gets it does not run yet.
                let bare = unsafe {
                    bare.write(Bare {
                        garbage,
                        wild,
                        sctlr: AtomicU64::new(!0),
                        count: (calls.len() + shift) as u64,
                        stack: AtomicU64::new(!wild),
                        _pad: [0; 3],
                        calls: [const { [const { AtomicU64::new(0) }; 8] }; pstate::BARE_CALLS],
                    });
                    &*bare
                };
                // With the shift there is one more in front, and all have the other conduit.
                for (arguments, place) in calls.iter().zip(&bare.calls[shift..]) {
                    for (value, place) in arguments.0.iter().zip(place) {
                        place.store(*value, Ordering::SeqCst);
                    }
                }
                flush();
                let arguments = [smp::mpidr(number), pstate::bare_address(), block];
                same!(psci::call(psci::CPU_ON, arguments), psci::SUCCESS, "CPU_ON of CPU {number}");
                // Firmware may say that it is off until it has begun.
                smp::wait_for("the CPU without MMU to make its calls", || {
                    flush();
                    bare.stack.load(Ordering::SeqCst) == wild
                });
                smp::wait_for("the CPU without MMU to be off", || smp::is_off(number));
                let sctlr = bare.sctlr.load(Ordering::SeqCst);
                same!(sctlr & 0x1005, 0, "CPU {number}: MMU and caches in SCTLR_EL1");
                for ((arguments, statuses), place) in calls.iter().zip(&bare.calls[shift..]) {
                    let results: [u64; 8] = place.each_ref().map(|at| at.load(Ordering::SeqCst));
                    let (function, status) = (arguments[0], results[0] as i64);
                    check!(
                        !stored || statuses.contains(&status),
                        "{function:#x} {:#x} on CPU {number} without MMU: status {status}",
                        arguments[1]
                    );
                    check!(
                        (-13..=0).contains(&status),
                        "{function:#x} on CPU {number} without MMU: status {status}"
                    );
                    check!(
                        results[4..] == arguments[4..],
                        "{function:#x} on CPU {number} without MMU: x4-x7 {:x?}",
                        &results[4..]
                    );
                }
            }
        }
    }
    every_call(arena::take(1), false, &mut by(Conduit::Hvc))
}

/// Makes calls as a kernel does.
fn by(conduit: Conduit) -> impl FnMut([u64; 8]) -> Result<[u64; 4], Stop> {
    move |arguments| {
        let Answer { status, x1, x2, x3 } = abi::call(conduit, arguments);
        Ok([status as u64, x1, x2, x3])
    }
}

fn other_vectors() -> Outcome {
    check!(mmu::map_aliases(crate::image()), "no room in the map for other vectors");
    lend()?;
    let hidden = machine().no_map.all()[0].start;
    let all = arena::take(smp::cpus() as u64);
    let tables = arena::take(2);
    tables.fill(0);
    tables.write(0, tables.part(1, 1).address() | 0b11);
    tables.part(1, 1).write(0, mmu::page_descriptor(pstate::recovery()));
    mmu::hang_table(Some(tables.address()));
    let outcome = in_turn(&|number| {
        // Vectors that come back from there only.
        let met = pstate::lose_vectors(hidden, mmu::OTHER);
        same!(met.syndrome, 0x25 << 26 | 1 << 25 | 0x10, "ESR at other vectors of CPU {number}");
        // Those of the harness, a second time.
        let own = read_register!("vbar_el1");
        write_register!("vbar_el1", own + ALIAS_OFFSET);
        cpu::isb();
        // SAFETY: it aborts.
        let abort = exceptions::expect(|| unsafe {
            cpu::load(hidden);
        });
        let outcome = every_call(all.part(number as u64, 1), false, &mut by(Conduit::Hvc));
        write_register!("vbar_el1", own);
        cpu::isb();
        let Some(abort) = abort else { fail!("a load from {hidden:#x} does not abort") };
        check!(abort.is_external_data(), "a load from {hidden:#x} with other vectors: {abort:x?}");
        outcome
    });
    mmu::hang_table(None);
    outcome
}

/// Where a fetch of a vector for an exception at EL1 aborts.
const VECTOR: u64 = 0x200;

fn lost_vectors() -> Outcome {
    smp::need(2)?;
    same!(pstate::recovery() % PAGE, 0, "alignment of the recovery vectors");
    let hidden = machine().no_map.all()[0].start;
    for lost in [1, 0] {
        lend()?;
        let (tables, page) = (arena::take(2), arena::take(1));
        tables.fill(0);
        let last = tables.part(1, 1);
        tables.write(0, last.address() | 0b11);
        last.write(0, mmu::page_descriptor(hidden));
        mmu::hang_table(Some(tables.address()));
        let outcome = smp::on(2, &|number| {
            if number != lost {
                let outcome = watch(lost, hidden, page);
                // Whatever that said, the other CPU is to come back.
                last.write(0, 0);
                cpu::forget_translations_everywhere();
                last.write(0, mmu::page_descriptor(pstate::recovery()));
                cpu::forget_translations_everywhere();
                return outcome;
            }
            let met = pstate::lose_vectors(hidden + 8, mmu::OTHER);
            same!(met.at, mmu::OTHER + VECTOR, "CPU {lost} came back from");
            // An external abort of a fetch at EL1, or its own translation fault of level 3 while
            // nothing was mapped there.
            let fetch = 0x21 << 26 | 1 << 25;
            check!(
                [fetch | 0x10, fetch | 0x07].contains(&met.syndrome),
                "CPU {lost} came back with ESR {:#x}",
                met.syndrome
            );
            Ok(())
        });
        mmu::hang_table(None);
        outcome?;
        every_call(arena::take(1), false, &mut by(Conduit::Hvc))?;
    }
    Ok(())
}

/// What others see while CPU `lost` takes one abort after the other: all calls go on, and its events
/// are in order.
fn watch(lost: usize, hidden: u64, page: Pages) -> Outcome {
    const ROUNDS: u64 = 20;
    let from = abi::next_event();
    smp::wait_for("the storm", || abi::next_event() > from + 100);
    let mut seen = 0;
    for round in 0..ROUNDS {
        for conduit in [Conduit::Hvc, Conduit::Smc] {
            every_call(page, false, &mut by(conduit))?;
        }
        let mut number = abi::next_event().saturating_sub(32);
        while let Ok(event) = abi::event_from(number) {
            check!(event.number >= number, "event {} after {number}", event.number);
            number = event.number + 1;
            if event.kind == event::ABORT_INJECTED {
                same!(event.cpu, lost as u64, "CPU of an abort in the storm");
                same!(event.argument, hidden + VECTOR, "argument of an abort in the storm");
                seen += 1;
            }
            if seen > 50 * (round + 1) {
                break;
            }
        }
    }
    check!(seen > 0, "no event of the storm was seen");
    Ok(())
}

fn storm() -> Outcome {
    smp::need(2)?;
    const EACH: u64 = 1500;
    let hidden = machine().no_map.all()[0];
    let others = smp::cpus() as u64 - 1;
    let from = abi::next_event();
    let done = AtomicU64::new(0);
    let seen = AtomicU64::new(0);
    smp::on_all(&|cpu| {
        if cpu != 0 {
            let mut missing = 0;
            for number in 0..EACH {
                let address = hidden.start + number % (PAGE / 8) * 8;
                // SAFETY: it aborts.
                let abort = exceptions::expect(|| unsafe {
                    cpu::load(address);
                });
                missing += u64::from(!abort.is_some_and(|abort| abort.is_external_data()));
            }
            done.fetch_add(1, Ordering::SeqCst);
            same!(missing, 0, "loads of CPU {cpu} that did not abort");
            return Ok(());
        }
        let (mut number, mut times) = (from, [0; 16]);
        loop {
            let last = done.load(Ordering::SeqCst) == others;
            match abi::event_from(number) {
                Ok(event) => {
                    check!(event.number >= number, "event {} after {number}", event.number);
                    let cpu = event.cpu as usize;
                    check!((1..smp::cpus()).contains(&cpu), "{event:x?} is nobody's");
                    match event.kind {
                        event::CPU_STARTED => {}
                        event::ABORT_INJECTED => {
                            let place = Range::of(event.argument, 8);
                            check!(hidden.holds(place), "{event:x?} is of no abort");
                        }
                        _ => fail!("{event:x?} is of no kind that happened"),
                    }
                    check!(
                        event.time == 0 || event.time >= times[cpu],
                        "{event:x?} is older than the one before, {}",
                        times[cpu]
                    );
                    times[cpu] = times[cpu].max(event.time);
                    number = event.number + 1;
                    seen.fetch_add(1, Ordering::SeqCst);
                }
                Err(next) if last => {
                    same!(next, number, "the number after the last event");
                    break;
                }
                Err(_) => {}
            }
        }
        Ok(())
    })?;
    same!(abi::next_event(), from + others * (EACH + 1), "the next event after the storm");
    let seen = seen.load(Ordering::SeqCst);
    note!("{seen} of {} events were read", others * (EACH + 1));
    check!(seen >= 32, "only {seen} events were read");
    Ok(())
}

/// Runs an instruction over all sets and ways of all data caches. How many.
fn over_caches(maintain: SetWay) -> u64 {
    let levels = read_register!("clidr_el1");
    let wide = read_register!("id_aa64mmfr2_el1") >> 20 & 0xf != 0;
    let mut made = 0;
    for level in (0..7u64).filter(|level| matches!(levels >> (3 * level) & 7, 2..=4)) {
        write_register!("csselr_el1", level << 1);
        cpu::isb();
        let shape = read_register!("ccsidr_el1");
        let line = (shape & 7) + 4;
        let (ways, sets) = match wide {
            true => ((shape >> 3 & 0x1f_ffff) + 1, (shape >> 32 & 0xff_ffff) + 1),
            false => ((shape >> 3 & 0x3ff) + 1, (shape >> 13 & 0x7fff) + 1),
        };
        let way_bits = ways.next_power_of_two().trailing_zeros();
        for set in 0..sets {
            for way in 0..ways {
                maintain(way << (32 - way_bits) | set << line | level << 1);
                made += 1;
            }
        }
    }
    cpu::dsb();
    made
}

fn set_way() -> Outcome {
    lend()?;
    const COUNT: u64 = 32;
    let cpus = smp::cpus() as u64;
    let all = arena::take(2 * cpus);
    let tagged: &[(&str, SetWay)] = if cpu::has_tag_memory() { &cpu::SET_WAY_OF_TAGS } else { &[] };
    let from = abi::next_event();
    smp::on_all(&|number| {
        let (source, own) = (all.part(2 * number as u64, 1), all.part(2 * number as u64 + 1, 1));
        let stored = machine().expects_storage();
        let pool = if stored { Some(Pool::private()?) } else { None };
        let mut cached = [false; COUNT as usize];
        for (name, maintain) in cpu::SET_WAY.iter().chain(tagged) {
            if let Some(pool) = &pool {
                for index in 0..COUNT {
                    // Another CPU may be at the same frames.
                    cached[index as usize] = stash::put(source, pool.key(5, index), index)?;
                }
                check!(cached.iter().filter(|is| **is).count() > 16, "too few pages are cached");
            }
            // Dirty lines, not yet written back.
            let mine = Key::new(number as u64, 0x5e7, 3);
            pages::write(own, mine, 9);
            let made = over_caches(*maintain);
            check!(made != 0, "no cache of data has a set");
            if number == 0 && *name == "dc isw" {
                note!("{made} lines by set and way");
            }
            same!(pages::read(own, mine)?, 9, "own page after {name}");
            if let Some(pool) = &pool {
                let mut hits = 0;
                for index in 0..COUNT {
                    let found = stash::get(own, pool.key(5, index))?;
                    check!(found.is_none_or(|is| is == index), "page {index} is {found:?}");
                    hits += u64::from(found.is_some());
                }
                check!(hits > 16, "{hits} hits of {COUNT} after {name} on CPU {number}");
            }
        }
        Ok(())
    })?;
    // Nothing came to EL2.
    let mut number = from;
    while let Ok(event) = abi::event_from(number) {
        let known = [event::CPU_STARTED, event::POOL_CREATED, event::POOL_DESTROYED];
        check!(known.contains(&event.kind), "{event:x?} during maintenance");
        number = event.number + 1;
    }
    Ok(())
}

fn valid_sweep() -> Outcome {
    let all = arena::take(smp::cpus() as u64);
    stash::active()?;
    in_turn(&|number| {
        let mut calls = 0;
        for conduit in [Conduit::Hvc, Conduit::Smc] {
            for fill in [0, !0, 0x5a5a_0000_0000_0001] {
                let end = fill == 0 && number == 0;
                every_call(all.part(number as u64, 1), end, &mut |arguments| {
                    calls += 1;
                    sweep_one(conduit, fill, &arguments)
                })?;
                if end {
                    check!(abi::state().x1 & 3 != stash::ACTIVE, "DEACTIVATE left STATE active");
                    stash::activate(0)?;
                }
            }
        }
        check!(calls >= 6 * EVERY_CALL, "only {calls} calls");
        if number == 0 {
            note!("{calls} calls");
        }
        Ok(())
    })
}

/// One call with all registers filled, which must keep what the contract keeps.
fn sweep_one(conduit: Conduit, fill: u64, arguments: &[u64; 8]) -> Result<[u64; 4], Stop> {
    let mut registers: Registers = core::array::from_fn(|at| fill ^ ((at as u64) << 48 & fill));
    registers[..8].copy_from_slice(arguments);
    let (before, system) = (registers, system_registers());
    match conduit {
        // SAFETY: the page that is got belongs to the test, and no tags are used.
        Conduit::Hvc => unsafe { cpu::hvc(&mut registers) },
        // SAFETY: as above.
        Conduit::Smc => unsafe { cpu::smc(&mut registers) },
    }
    let number = arguments[0];
    for at in 4..31 {
        same!(registers[at], before[at], "{number:#x} by {conduit:?}: x{at}");
    }
    check!(system_registers() == system, "{number:#x} by {conduit:?}: EL1's registers");
    let results = core::array::from_fn(|at| registers[at]);
    // Events tell of addresses that the guest named itself.
    if number != function::EVENTS {
        for (at, value) in results.into_iter().enumerate() {
            let hidden = machine().no_map.touch(Range::of(value, 1));
            check!(!hidden, "{number:#x} by {conduit:?}: x{at} is {value:#x}, hidden");
        }
    }
    Ok(results)
}
