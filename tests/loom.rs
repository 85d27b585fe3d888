// SPDX-License-Identifier: MIT OR Apache-2.0
//! The real stash and ledger under the model checker: every two racing operations, and the
//! interleavings that shaped the protocol (`docs/architecture.md` numbers them).
//!
//! Run with `make model`. Each test prints how many executions it took to go through every
//! schedule with at most so many preemptions, with every value that a load may see.

#![cfg(loom)]

#[path = "loom/events.rs"]
mod events;
#[path = "loom/history.rs"]
mod history;
#[path = "loom/machine.rs"]
mod machine;

use history::MAIN;
use machine::{CPUS, Key::*, Machine, Op, Op::*, Shape, Trust};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::Write;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use tagstash::sync::{AtomicU64, Ordering, set_racing};

/// One frame, dormant at first.
const ONE: Shape = Shape {
    frames: 1,
    block_frames: 1,
    verify: false,
    prompt: false,
    ordered: false,
    drops_data: false,
    drops_tags: false,
};
/// Two frames, a set of two ways, each a block.
const TWO: Shape = Shape { frames: 2, ..ONE };
/// One block of two frames, a set of two ways.
const BLOCK: Shape = Shape { frames: 2, block_frames: 2, ..ONE };

/// The first and another page whose tags the first frame stores, and one of the second's.
const P: u64 = 0;
const Q: u64 = 16;
const R: u64 = 32;

/// Calls made one after the other, then by threads at once.
#[derive(Clone, Debug)]
struct Race {
    shape: Shape,
    before: Vec<Op>,
    threads: Vec<Vec<Op>>,
    /// Most preemptions.
    bound: usize,
}

/// A race on `shape` after `before`.
fn race<const N: usize>(bound: usize, shape: Shape, before: &[Op], threads: [&[Op]; N]) -> Race {
    let threads = threads.map(<[Op]>::to_vec).to_vec();
    Race { shape, before: before.to_vec(), threads, bound }
}

impl Race {
    /// How much a claimer may rely on its claim (a deactivation: on the dormancy of its block).
    fn trust(&self, thread: usize, op: Op) -> Trust {
        let others = || {
            let others = self.threads.iter().enumerate().filter(|&(number, _)| number != thread);
            others.flat_map(|(_, ops)| ops.iter().copied())
        };
        if let Deactivate(block) = op {
            let contested = others().any(|other| other == Activate(block));
            return if contested { Trust::Never } else { Trust::Always };
        }
        let claims = op.claims();
        let releases = |other: &Op| other.releases(self.shape.block_frames) & claims != 0;
        let held = self.before.iter().fold(0, |held, op| held | op.claims()) & claims == claims;
        match others().filter(releases).count() {
            0 => Trust::Always,
            1 if held => Trust::IfNew,
            _ => Trust::Never,
        }
    }

    /// Runs it under every schedule within its bound. Returns how many executions that took.
    fn explore(self) -> usize {
        assert!(self.threads.len() < CPUS);
        let _named = NameOnPanic(self.clone());
        check(self.bound, move || {
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

/// Says which race it was that failed.
struct NameOnPanic(Race);

impl Drop for NameOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Race { shape, before, threads, .. } = &self.0;
            eprintln!("in the race of {threads:?} after {before:?} on {shape:?}");
        }
    }
}

/// Runs `model` under every schedule with at most `bound` preemptions. Returns how many
/// executions that took.
fn check(bound: usize, model: impl Fn() + Send + Sync + 'static) -> usize {
    let executions = Arc::new(AtomicUsize::new(0));
    let counter = executions.clone();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(bound);
    builder.max_branches = 20_000;
    builder.check(move || {
        counter.fetch_add(1, Relaxed);
        set_racing(false);
        model();
    });
    executions.load(Relaxed)
}

/// Runs `body` in `threads` threads at once, and returns when each has returned. It does not
/// join them, for loom would try every order of the joins and the ends, all of them the same.
fn at_once(threads: usize, body: impl Fn(usize) + 'static) {
    let body = Rc::new(body);
    let ended = Rc::new(loom::sync::atomic::AtomicUsize::new(0));
    let main = loom::thread::current();
    set_racing(true);
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

/// Explores `races`, says what it took, and fails if that was next to nothing.
fn explore(name: &str, races: impl IntoIterator<Item = Race>) {
    let races: Vec<Race> = races.into_iter().collect();
    let bounds: BTreeSet<String> = races.iter().map(|race| race.bound.to_string()).collect();
    let bounds = Vec::from_iter(bounds).join(" and ");
    let executions: usize = races.into_iter().map(Race::explore).sum();
    // Not `println`: the numbers belong into the log of a run that passes, too.
    let line = format!("{name}: {executions} executions, preemption bound {bounds}\n");
    let _ = std::io::stdout().lock().write_all(line.as_bytes());
    assert!(executions > 100, "{name} explored too little");
}

/// One of the operations that race.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Put,
    Get,
    Peek,
    FlushPage,
    FlushObject,
    FlushPool,
    Claim,
    Release,
    Activate,
    Deactivate,
}

impl Kind {
    fn is_on_one_key(self) -> bool {
        matches!(self, Kind::Put | Kind::Get | Kind::Peek | Kind::FlushPage)
    }

    fn is_on_any_key(self) -> bool {
        self.is_on_one_key() || matches!(self, Kind::FlushObject | Kind::FlushPool)
    }

    /// The operation of one of two threads: on key A and the last frame, or, of the second
    /// thread where the two are not `near`, on another key, page and block.
    fn op(self, shape: Shape, second: bool, near: bool) -> Op {
        let far = second && !near;
        let key = if far { Twin } else { A };
        let page = match (far, shape.frames) {
            (false, 1) | (true, 2) => P,
            (true, _) => Q,
            (false, _) => R,
        };
        let block = (page / R / shape.block_frames) as u32;
        match self {
            Kind::Put => Put(key, if second { 3 } else { 2 }),
            Kind::Get => Get(key),
            Kind::Peek => Peek(key),
            Kind::FlushPage => FlushPage(key),
            Kind::FlushObject => FlushObject(if far { B } else { A }),
            Kind::FlushPool => FlushPool,
            Kind::Claim => Claim(page),
            Kind::Release => Release(page),
            Kind::Activate => Activate(block),
            Kind::Deactivate => Deactivate(block),
        }
    }
}

/// Every way in which two operations race: on each shape, on the same key, page and block and
/// on others, with one copy of A in the last frame, and with all frames full.
fn races_of(a: Kind, b: Kind, bound: usize) -> Vec<Race> {
    let on_keys = (a.is_on_any_key(), b.is_on_any_key());
    let mut races = Vec::new();
    for (shape, near) in
        [(ONE, true), (ONE, false), (TWO, true), (TWO, false), (BLOCK, true), (BLOCK, false)]
    {
        let both = on_keys == (true, true);
        // Where only one works on keys, or on blocks, some would be the same once more.
        let same = both && shape.block_frames == 2
            || on_keys.0 != on_keys.1 && !near && (shape.frames == 1 || shape.block_frames == 2);
        if same && (a.is_on_one_key() || b.is_on_one_key()) {
            continue;
        }
        let ops = [a.op(shape, false, near), b.op(shape, true, near)];
        let blocks = 0..(shape.frames / shape.block_frames) as u32;
        let lent = blocks.map(Activate).filter(|activate| !ops.contains(activate));
        let mut before: Vec<Op> = lent.chain([Put(A, 1)]).collect();
        for op in ops {
            if let Release(page) = op
                && !before.contains(&Claim(page))
            {
                before.push(Claim(page));
            }
        }
        let threads = ops.map(|op| vec![op]).to_vec();
        if both && shape.frames == 2 && near && [a, b].contains(&Kind::Put) {
            let before = [&before[..], &[Put(B, 4)]].concat();
            let mut threads = threads.clone();
            if let Put(_, value) = threads[0][0] {
                // Not the key that is there: a page must give way.
                threads[0][0] = Put(Twin, value);
            }
            races.push(Race { shape, before, threads, bound });
        }
        races.push(Race { shape, before, threads, bound });
    }
    races
}

macro_rules! pairs {
    ($($name:ident: $a:ident, $b:ident, $bound:expr;)*) => {
        $(#[test]
        fn $name() {
            explore(stringify!($name), races_of(Kind::$a, Kind::$b, $bound));
        })*
    };
}

pairs! {
    put_and_put: Put, Put, 2;
    put_and_get: Put, Get, 2;
    put_and_peek: Put, Peek, 2;
    put_and_flush_page: Put, FlushPage, 3;
    put_and_flush_object: Put, FlushObject, 3;
    put_and_flush_pool: Put, FlushPool, 3;
    put_and_claim: Put, Claim, 3;
    put_and_release: Put, Release, 3;
    put_and_activate: Put, Activate, 3;
    put_and_deactivate: Put, Deactivate, 2;
    get_and_get: Get, Get, 3;
    get_and_peek: Get, Peek, 3;
    get_and_flush_page: Get, FlushPage, 3;
    get_and_flush_object: Get, FlushObject, 3;
    get_and_flush_pool: Get, FlushPool, 3;
    get_and_claim: Get, Claim, 3;
    get_and_release: Get, Release, 3;
    get_and_activate: Get, Activate, 3;
    get_and_deactivate: Get, Deactivate, 3;
    peek_and_peek: Peek, Peek, 3;
    peek_and_flush_page: Peek, FlushPage, 3;
    peek_and_flush_object: Peek, FlushObject, 3;
    peek_and_flush_pool: Peek, FlushPool, 3;
    peek_and_claim: Peek, Claim, 2;
    peek_and_release: Peek, Release, 3;
    peek_and_activate: Peek, Activate, 3;
    peek_and_deactivate: Peek, Deactivate, 2;
    flush_page_and_flush_page: FlushPage, FlushPage, 3;
    flush_page_and_flush_object: FlushPage, FlushObject, 3;
    flush_page_and_flush_pool: FlushPage, FlushPool, 3;
    flush_page_and_claim: FlushPage, Claim, 3;
    flush_page_and_release: FlushPage, Release, 3;
    flush_page_and_activate: FlushPage, Activate, 3;
    flush_page_and_deactivate: FlushPage, Deactivate, 3;
    flush_object_and_flush_object: FlushObject, FlushObject, 3;
    flush_object_and_flush_pool: FlushObject, FlushPool, 3;
    flush_object_and_claim: FlushObject, Claim, 3;
    flush_object_and_release: FlushObject, Release, 3;
    flush_object_and_activate: FlushObject, Activate, 3;
    flush_object_and_deactivate: FlushObject, Deactivate, 3;
    flush_pool_and_flush_pool: FlushPool, FlushPool, 3;
    flush_pool_and_claim: FlushPool, Claim, 3;
    flush_pool_and_release: FlushPool, Release, 3;
    flush_pool_and_activate: FlushPool, Activate, 3;
    flush_pool_and_deactivate: FlushPool, Deactivate, 3;
    claim_and_claim: Claim, Claim, 3;
    claim_and_release: Claim, Release, 4;
    claim_and_activate: Claim, Activate, 3;
    claim_and_deactivate: Claim, Deactivate, 3;
    release_and_release: Release, Release, 4;
    release_and_activate: Release, Activate, 3;
    release_and_deactivate: Release, Deactivate, 3;
    activate_and_activate: Activate, Activate, 3;
    activate_and_deactivate: Activate, Deactivate, 3;
    deactivate_and_deactivate: Deactivate, Deactivate, 3;
}

const LENT: [Op; 2] = [Activate(0), Activate(1)];

/// A: frame 0 in WRITING, copying. B: the scan for older copies passes it by. A publishes. B
/// puts into frame 1: two copies of one key.
#[test]
fn counterexample_01_two_puts_leave_one_copy() {
    explore(
        "counterexample_01",
        [
            race(3, TWO, &LENT, [&[Put(A, 1)], &[Put(A, 2)]]),
            race(3, TWO, &[&LENT[..], &[Put(B, 9)]].concat(), [&[Put(A, 1)], &[Put(A, 2)]]),
        ],
    );
}

/// Looking again only after publishing: B publishes frame 1, looks (frame 0 still in WRITING)
/// and returns; A publishes frame 0: a get finds the one, then another get the other.
#[test]
fn counterexample_01b_no_copy_comes_to_light_after_another() {
    explore(
        "counterexample_01b",
        [
            race(2, TWO, &LENT, [&[Put(A, 1)], &[Put(A, 2), Get(A)]]),
            race(1, TWO, &LENT, [&[Put(A, 1)], &[Put(A, 2)], &[Get(A), Get(A)]]),
        ],
    );
}

/// The page's bit set before the wait: B sees it and returns; a put that has looked at its word
/// already stores a chunk over tags.
#[test]
fn counterexample_02_a_claim_that_sees_a_bit_relies_on_it() {
    explore(
        "counterexample_02",
        [
            race(2, ONE, &[Activate(0)], [&[Claim(P)], &[Claim(P)], &[Put(A, 2)]]),
            race(1, ONE, &[Activate(0)], [&[Claim(P)], &[Claim(Q)], &[Put(A, 2)]]),
            race(1, BLOCK, &[Activate(0)], [&[Claim(R)], &[Claim(R)], &[Put(A, 2)]]),
        ],
    );
}

/// The bit set after the wait and before the maintenance: B returns while lines are dirty.
#[test]
fn counterexample_02b_a_bit_is_set_after_the_maintenance() {
    let full = [Activate(0), Put(A, 1), Put(B, 1)];
    explore(
        "counterexample_02b",
        [
            race(3, ONE, &full, [&[Claim(P)], &[Claim(P)]]),
            race(3, ONE, &full, [&[Claim(P)], &[Claim(Q)]]),
            race(3, BLOCK, &full, [&[Claim(P)], &[Claim(R)]]),
        ],
    );
}

/// A counts and sets its bit; R clears the bit and counts down to 0; the put sees 0 and goes
/// on: A waits for a whole page. Here a put under way sees a waiting claim at its next look,
/// and may store one chunk more.
#[test]
fn counterexample_03_a_claim_waits_for_one_chunk() {
    let prompt = |shape| Shape { prompt: true, ..shape };
    let (one, block) = (prompt(ONE), prompt(BLOCK));
    explore(
        "counterexample_03",
        [
            race(2, one, &[Activate(0)], [&[Claim(P)], &[Put(A, 2)]]),
            race(2, one, &[Activate(0)], [&[Deactivate(0)], &[Put(A, 2)]]),
            race(2, one, &[Activate(0)], [&[Claim(P)], &[Release(P)], &[Put(A, 2)]]),
            race(1, one, &[Activate(0)], [&[Claim(P)], &[Claim(Q), Release(Q)], &[Put(A, 2)]]),
            race(2, block, &[Activate(0)], [&[Claim(P)], &[Put(A, 2)]]),
        ],
    );
}

/// A frame holds a page; A counts; a get misses, a flush returns or a put is refused, for all
/// pass a counted frame by; the claim is undone before CACHED was cleared: the page comes back.
#[test]
fn counterexample_04_a_page_does_not_come_back_after_a_claim() {
    let one = [Activate(0), Put(A, 1)];
    let two = [Activate(0), Activate(1), Put(A, 1)];
    explore(
        "counterexample_04",
        [
            race(2, ONE, &one, [&[Claim(P), Release(P)], &[Get(A), Get(A)]]),
            race(2, ONE, &one, [&[Claim(P), Release(P)], &[Peek(A), Peek(A)]]),
            race(2, ONE, &one, [&[Claim(P), Release(P)], &[FlushPage(A), Get(A)]]),
            race(2, ONE, &one, [&[Claim(P), Release(P)], &[Put(A, 2), Get(A)]]),
            race(2, TWO, &two, [&[Claim(R), Release(R)], &[Put(A, 2), Get(A)]]),
            race(1, ONE, &one, [&[Claim(P)], &[Claim(P), Release(P)], &[Get(A), Get(A)]]),
            race(1, BLOCK, &one, [&[Claim(P)], &[Release(P)], &[Get(A), Get(A)]]),
        ],
    );
}

fn activations_with_puts(shape: Shape) -> [Race; 3] {
    let puts = [Activate(0), Put(A, 2), Get(A)];
    [
        race(3, shape, &[], [&[Activate(0)], &puts]),
        race(3, shape, &[], [&[Deactivate(0)], &puts]),
        race(2, shape, &[Activate(0), Put(A, 1)], [&[Deactivate(0)], &puts]),
    ]
}

/// A is past its wait, a put stores a chunk, and A's maintenance drops the line: a torn page.
/// A claim holds its count so that none can; two activations can.
#[test]
fn counterexample_05_maintenance_loses_no_page() {
    explore("counterexample_05", activations_with_puts(ONE));
}

/// The same with maintenance that only invalidates data: it must not go unseen here.
#[test]
#[should_panic = "half a page"]
fn counterexample_05_would_be_seen() {
    let shape = Shape { drops_data: true, ..ONE };
    explore("counterexample_05 with the fault", activations_with_puts(shape));
}

/// Dormancy swapped in before counting, or a deactivation that holds no count: the count
/// underflows, or a put under way never notices.
#[test]
fn counterexample_06_a_deactivation_holds_a_count() {
    let one = Shape { prompt: true, ..ONE };
    explore(
        "counterexample_06",
        [
            race(2, one, &[Activate(0)], [&[Deactivate(0)], &[Activate(0)], &[Put(A, 2)]]),
            race(1, one, &[Activate(0)], [&[Deactivate(0)], &[Claim(P)], &[Put(A, 2)]]),
            race(2, one, &[Activate(0), Claim(P)], [&[Deactivate(0)], &[Release(P), Query(P)]]),
            race(2, one, &[Activate(0), Claim(P)], [&[Deactivate(0)], &[Release(P)], &[Query(P)]]),
            race(1, one, &[Activate(0), Claim(P)], [&[Deactivate(0)], &[Claim(Q)], &[Query(P)]]),
            race(
                1,
                one,
                &[Activate(0), Claim(P)],
                [&[Deactivate(0)], &[Deactivate(0)], &[Query(P)]],
            ),
        ],
    );
}

fn releases_with_claims(shape: Shape) -> [Race; 3] {
    [
        race(3, shape, &[Activate(0), Claim(P)], [&[Release(P)], &[Claim(P)]]),
        race(3, shape, &[Activate(0), Claim(P)], [&[Release(P)], &[Claim(P), Release(P)]]),
        race(3, shape, &[Activate(0)], [&[Claim(P)], &[Claim(P)]]),
    ]
}

/// R clears the bit; another claim of the page returns and stores tags; R's maintenance drops
/// them.
#[test]
fn counterexample_07_maintenance_loses_no_tags() {
    let races = [releases_with_claims(ONE), releases_with_claims(BLOCK)];
    explore("counterexample_07", races.concat());
}

/// The same with maintenance that only invalidates tags: it must not go unseen here.
#[test]
#[should_panic = "were lost"]
fn counterexample_07_would_be_seen() {
    let shape = Shape { drops_tags: true, ..ONE };
    explore("counterexample_07 with the fault", releases_with_claims(shape));
}

/// Activation without tag maintenance: a dirty tag line of the dormant time lands on a page.
#[test]
fn counterexample_08_activation_cleans_tags() {
    let dormant = [StoreTags(P), StoreTags(Q)];
    let two = [StoreTags(P), StoreTags(R), StoreTags(R + Q)];
    explore(
        "counterexample_08",
        [
            race(3, ONE, &dormant, [&[Activate(0)], &[Put(A, 1), Put(A, 2)]]),
            race(3, ONE, &dormant, [&[Activate(0)], &[Activate(0), Put(A, 2)]]),
            race(3, BLOCK, &two, [&[Activate(0)], &[Put(A, 1), Put(A, 2)]]),
            // And a release, before the frame is a put's again.
            race(3, ONE, &[Activate(0), Claim(P)], [&[Release(P)], &[Put(A, 1), Put(A, 2)]]),
        ],
    );
}

/// A range counted by one first and the rest after its bits are set: the release of one of its
/// pages takes the count below 0.
#[test]
fn counterexample_09_a_range_is_counted_whole() {
    let count = Q + 1;
    explore(
        "counterexample_09",
        [
            race(2, ONE, &[Activate(0)], [&[ClaimRange(P, count)], &[Release(Q), Query(P)]]),
            race(
                2,
                ONE,
                &[Activate(0), Claim(Q)],
                [&[ClaimRange(P, count)], &[ReleaseRange(P, count), Query(P)]],
            ),
            race(
                2,
                ONE,
                &[Activate(0), Put(A, 1)],
                [&[ClaimRange(P, 2)], &[ReleaseRange(P, 2)], &[Query(P), Query(P)]],
            ),
            race(
                2,
                BLOCK,
                &[Activate(0)],
                [&[ClaimRange(P, R + 1)], &[ReleaseRange(R, 1), Query(P)]],
            ),
        ],
    );
}

/// "The block is in tags already" tested before counting: the other page is released, a put
/// starts, then the count goes up without a wait.
#[test]
fn counterexample_10_a_block_in_tags_is_known_after_counting() {
    explore(
        "counterexample_10",
        [
            race(2, ONE, &[Activate(0), Claim(Q)], [&[Claim(P)], &[Release(Q)], &[Put(A, 2)]]),
            race(1, BLOCK, &[Activate(0), Claim(R)], [&[Claim(P)], &[Release(R)], &[Put(A, 2)]]),
        ],
    );
}

/// One call takes several blocks, in one batch.
#[test]
fn a_claim_of_two_blocks_takes_both() {
    let full = [Activate(0), Activate(1), Put(A, 1), Put(B, 1)];
    let both = [ClaimRange(R - 1, 2)];
    explore(
        "a_claim_of_two_blocks",
        [
            race(2, TWO, &full, [&both, &[Put(A, 2)]]),
            race(2, TWO, &full, [&both, &[Get(A)]]),
            race(2, TWO, &full, [&both, &[Claim(P)]]),
            race(2, TWO, &LENT, [&both, &[ReleaseRange(R - 1, 2), Query(P)]]),
        ],
    );
}

/// What a flush names is gone when it has returned, and a put that began later is not.
#[test]
fn flushes_cover_what_was_before_them() {
    let one = [Activate(0), Put(A, 1)];
    let races = [FlushPage(A), FlushObject(A), FlushPool].map(|flush| {
        [
            race(2, ONE, &one, [&[flush, Get(A)], &[Put(A, 2)]]),
            race(1, ONE, &one, [&[flush, Put(A, 2), Get(A)], &[Get(A)]]),
            race(2, ONE, &one, [&[flush, Get(A)], &[Peek(A)]]),
        ]
    });
    explore("flushes", races.concat());
}

/// Calls of different CPUs whose callers order them.
#[test]
fn ordered_calls_see_each_other() {
    let one = Shape { ordered: true, ..ONE };
    let two = Shape { ordered: true, ..TWO };
    let before = [Activate(0), Put(A, 1)];
    explore(
        "ordered_calls",
        [
            race(1, one, &before, [&[Put(A, 2)], &[FlushObject(A)], &[Get(A)]]),
            race(2, one, &before, [&[Put(A, 2)], &[FlushPage(A), Get(A)]]),
            race(2, two, &LENT, [&[Put(A, 1), Put(A, 2)], &[Get(A), Get(A)]]),
            race(1, two, &LENT, [&[Put(A, 1), Put(A, 2)], &[Peek(A), Peek(A)]]),
        ],
    );
}

/// A frame whose page went away and came back, with the same key, is another page.
#[test]
fn a_get_is_not_fooled_by_the_same_key() {
    let one = [Activate(0), Put(A, 1)];
    explore(
        "same_key",
        [
            race(1, ONE, &one, [&[Peek(A)], &[Put(A, 2), Put(A, 3)]]),
            race(2, ONE, &one, [&[Peek(A)], &[FlushPage(A), Put(A, 2)]]),
            race(2, ONE, &one, [&[Get(A)], &[FlushPage(A), Put(A, 2)]]),
            race(2, ONE, &one, [&[Get(A)], &[Get(A), Put(A, 2)]]),
        ],
    );
}

/// A CRC that is wrong says that the guest broke its word: it never is here.
#[test]
fn verification_blames_nobody_without_cause() {
    let shape = Shape { verify: true, ..ONE };
    let one = [Activate(0), Put(A, 1)];
    explore(
        "verification",
        [
            race(2, shape, &one, [&[Get(A)], &[Put(A, 2)]]),
            race(2, shape, &one, [&[Peek(A)], &[Put(Twin, 2)]]),
            race(1, shape, &one, [&[Get(A)], &[Claim(P), Release(P), Put(A, 2)]]),
        ],
    );
}

/// That a search finds nothing says something only if it goes everywhere: two threads with
/// four loads each, of the same or of different words.
#[test]
fn the_search_is_exhaustive_within_its_bound() {
    const STEPS: usize = 4;
    for (bound, same) in [(1, true), (1, false), (2, true), (2, false), (3, true), (3, false)] {
        let seen: Arc<Mutex<BTreeSet<Vec<usize>>>> = Arc::default();
        let collected = seen.clone();
        check(bound, move || {
            let order = Rc::new(RefCell::new(Vec::new()));
            let words = Rc::new([AtomicU64::new(0), AtomicU64::new(0)]);
            words[0].load(Ordering::Relaxed);
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
        assert_eq!(seen.lock().expect("no panic").len(), within.count(), "{bound} {same}");
    }
}
