// SPDX-License-Identifier: MIT OR Apache-2.0
//! The interleavings that shaped the protocol (`docs/architecture.md` numbers them), and what the
//! matrix does not reach: threads of several calls, ranges, calls ordered by their callers,
//! verification, faults of the machine.

use crate::cases::{Body, Case};
use crate::machine::{Key::*, Op, Op::*, Shape};
use crate::race::{BLOCK, LARGE, ONE, Race, TWO, race};

/// The first and another page whose tags the first frame stores, and one of the second's.
const P: u64 = 0;
const Q: u64 = 16;
const R: u64 = 32;

const LENT: [Op; 2] = [Activate(0), Activate(1)];

fn named(group: &str, why: &str, races: Vec<(usize, Race)>) -> Vec<Case> {
    let case = |(n, (least, race)): (usize, (usize, Race))| Case {
        group: group.to_owned(),
        name: format!("{group}/{}", n + 1),
        body: Body::Race(race),
        least,
        test_least: Some(least),
        why: why.to_owned(),
    };
    races.into_iter().enumerate().map(case).collect()
}

fn fault(name: &str, why: &str, races: Vec<(usize, Race)>, says: &'static str) -> Vec<Case> {
    vec![Case {
        group: name.to_owned(),
        name: name.to_owned(),
        body: Body::Fault(races.into_iter().map(|(_, race)| race).collect(), says),
        least: 3,
        test_least: Some(3),
        why: why.to_owned(),
    }]
}

/// All of them.
pub fn cases() -> Vec<Case> {
    [
        two_copies(),
        claims_and_bits(),
        short_waits(),
        pages_that_come_back(),
        maintenance(),
        deactivations(),
        ranges(),
        in_tags_already(),
        flushes(),
        ordered_calls(),
        same_key(),
        verification(),
    ]
    .concat()
}

/// Number 1: A: frame 0 in WRITING, copying. B: the scan for older copies passes it by. A publishes. B
/// puts into frame 1: two copies of one key.
///
/// Number 1b: Looking again only after publishing: B publishes frame 1, looks (frame 0 still in WRITING)
/// and returns; A publishes frame 0: a get finds the one, then another get the other.
fn two_copies() -> Vec<Case> {
    let full = [&LENT[..], &[Put(B, 9)]].concat();
    // The second frame is the better one, until a get of B frees the first: two puts take different
    // frames without a look at each other's, so that the fence alone stands between them.
    let apart = [&LENT[..], &[Put(B, 9), Put(A, 8), Get(A)]].concat();
    let first = vec![
        (3, race(TWO, &LENT, [&[Put(A, 1)], &[Put(A, 2)]])),
        (3, race(TWO, &full, [&[Put(A, 1)], &[Put(A, 2)]])),
        (2, race(TWO, &apart, [&[Put(A, 1)], &[Get(B), Put(A, 2)]])),
    ];
    let second = vec![
        (2, race(TWO, &LENT, [&[Put(A, 1)], &[Put(A, 2), Get(A)]])),
        (1, race(TWO, &LENT, [&[Put(A, 1)], &[Put(A, 2)], &[Get(A), Get(A)]])),
    ];
    [
        named("01-two-puts", "of two puts of a key one copy remains", first),
        named("01b-no-copy-after-another", "no copy comes to light after another", second),
    ]
    .concat()
}

/// Number 2: The page's bit set before the wait: B sees it and returns; a put that has looked at its word
/// already stores a chunk over tags.
///
/// Number 2b: The bit set after the wait and before the maintenance: B returns while lines are dirty.
fn claims_and_bits() -> Vec<Case> {
    let full = [Activate(0), Put(A, 1), Put(B, 1)];
    let first = vec![
        (2, race(ONE, &[Activate(0)], [&[Claim(P)], &[Claim(P)], &[Put(A, 2)]])),
        (1, race(ONE, &[Activate(0)], [&[Claim(P)], &[Claim(Q)], &[Put(A, 2)]])),
        (1, race(BLOCK, &[Activate(0)], [&[Claim(R)], &[Claim(R)], &[Put(A, 2)]])),
    ];
    let second = vec![
        (3, race(ONE, &full, [&[Claim(P)], &[Claim(P)]])),
        (3, race(ONE, &full, [&[Claim(P)], &[Claim(Q)]])),
        (3, race(BLOCK, &full, [&[Claim(P)], &[Claim(R)]])),
    ];
    [
        named("02-bits-last", "a claim that sees a bit relies on it", first),
        named("02b-bits-after-maintenance", "a bit is set after the maintenance", second),
    ]
    .concat()
}

/// Number 3: A counts and sets its bit; R clears the bit and counts down to 0; the put sees 0 and goes
/// on: A waits for a whole page. Here a put under way sees a waiting claim at its next look,
/// and may store one chunk more.
fn short_waits() -> Vec<Case> {
    let prompt = |shape| Shape { prompt: true, ..shape };
    let (one, block) = (prompt(ONE), prompt(BLOCK));
    let before = [Activate(0)];
    let races = vec![
        (2, race(one, &before, [&[Claim(P)], &[Put(A, 2)]])),
        (2, race(one, &before, [&[Deactivate(0)], &[Put(A, 2)]])),
        (2, race(one, &before, [&[Claim(P)], &[Release(P)], &[Put(A, 2)]])),
        (1, race(one, &before, [&[Claim(P)], &[Claim(Q), Release(Q)], &[Put(A, 2)]])),
        (2, race(block, &before, [&[Claim(P)], &[Put(A, 2)]])),
    ];
    named("03-one-chunk", "a claim waits for one chunk", races)
}

/// Number 4: A frame holds a page; A counts; a get misses, a flush returns or a put is refused, for all
/// pass a counted frame by; the claim is undone before CACHED was cleared: the page comes back.
fn pages_that_come_back() -> Vec<Case> {
    let one = [Activate(0), Put(A, 1)];
    let two = [Activate(0), Activate(1), Put(A, 1)];
    let large = [Activate(0), Activate(1), Activate(2), Activate(3), Put(A, 1)];
    let undone = [Claim(P), Release(P)];
    let races = vec![
        (2, race(ONE, &one, [&undone, &[Get(A), Get(A)]])),
        (2, race(ONE, &one, [&undone, &[Peek(A), Peek(A)]])),
        (2, race(ONE, &one, [&undone, &[FlushPage(A), Get(A)]])),
        (2, race(ONE, &one, [&undone, &[Put(A, 2), Get(A)]])),
        (2, race(TWO, &two, [&[Claim(R), Release(R)], &[Put(A, 2), Get(A)]])),
        (1, race(ONE, &one, [&[Claim(P)], &undone, &[Get(A), Get(A)]])),
        (1, race(BLOCK, &one, [&[Claim(P)], &[Release(P)], &[Get(A), Get(A)]])),
        // The last part of a page is in the first frame.
        (1, race(LARGE, &large, [&undone, &[Get(A), Get(A)]])),
    ];
    named("04-gone-is-gone", "a page does not come back after a claim", races)
}

fn activations_with_puts(shape: Shape) -> Vec<(usize, Race)> {
    let puts = [Activate(0), Put(A, 2), Get(A)];
    vec![
        (3, race(shape, &[], [&[Activate(0)], &puts])),
        (3, race(shape, &[], [&[Deactivate(0)], &puts])),
        (2, race(shape, &[Activate(0), Put(A, 1)], [&[Deactivate(0)], &puts])),
    ]
}

fn releases_with_claims(shape: Shape) -> Vec<(usize, Race)> {
    let before = [Activate(0), Claim(P)];
    vec![
        (3, race(shape, &before, [&[Release(P)], &[Claim(P)]])),
        (3, race(shape, &before, [&[Release(P)], &[Claim(P), Release(P)]])),
        (3, race(shape, &[Activate(0)], [&[Claim(P)], &[Claim(P)]])),
    ]
}

/// Number 5: A is past its wait, a put stores a chunk, and A's maintenance drops the line: a torn page.
/// A claim holds its count so that none can; two activations can.
///
/// Number 7: R clears the bit; another claim of the page returns and stores tags; R's maintenance drops
/// them.
///
/// Number 8: Activation without tag maintenance: a dirty tag line of the dormant time lands on a page.
///
/// Two of these once more, on a machine whose maintenance does what it must not: it must not go
/// unseen here.
fn maintenance() -> Vec<Case> {
    let drops_data = Shape { drops_data: true, ..ONE };
    let drops_tags = Shape { drops_tags: true, ..ONE };
    let tags = [releases_with_claims(ONE), releases_with_claims(BLOCK)].concat();
    let dormant = [StoreTags(P), StoreTags(Q)];
    let two = [StoreTags(P), StoreTags(R), StoreTags(R + Q)];
    let puts = [Put(A, 1), Put(A, 2)];
    let activations = vec![
        (3, race(ONE, &dormant, [&[Activate(0)], &puts])),
        (3, race(ONE, &dormant, [&[Activate(0)], &[Activate(0), Put(A, 2)]])),
        (3, race(BLOCK, &two, [&[Activate(0)], &puts])),
        // And a release, before the frame is a put's again.
        (3, race(ONE, &[Activate(0), Claim(P)], [&[Release(P)], &puts])),
    ];
    [
        named("05-no-page-lost", "maintenance loses no page", activations_with_puts(ONE)),
        fault(
            "05-would-be-seen",
            "maintenance that invalidates data only is seen",
            activations_with_puts(drops_data),
            "half a page",
        ),
        named("07-no-tags-lost", "maintenance loses no tags", tags),
        fault(
            "07-would-be-seen",
            "maintenance that invalidates tags only is seen",
            releases_with_claims(drops_tags),
            "were lost",
        ),
        named("08-activation-cleans", "activation cleans the tags of dormant times", activations),
    ]
    .concat()
}

/// Number 6: Dormancy swapped in before counting, or a deactivation that holds no count: the count
/// underflows, or a put under way never notices.
fn deactivations() -> Vec<Case> {
    let one = Shape { prompt: true, ..ONE };
    let lent = [Activate(0)];
    let held = [Activate(0), Put(A, 1)];
    let claimed = [Activate(0), Claim(P)];
    let races = vec![
        (2, race(one, &lent, [&[Deactivate(0)], &[Activate(0)], &[Put(A, 2)]])),
        (1, race(one, &lent, [&[Deactivate(0)], &[Claim(P)], &[Put(A, 2)]])),
        (2, race(one, &claimed, [&[Deactivate(0)], &[Release(P), Query(P)]])),
        (2, race(one, &claimed, [&[Deactivate(0)], &[Release(P)], &[Query(P)]])),
        (1, race(one, &claimed, [&[Deactivate(0)], &[Claim(Q)], &[Query(P)]])),
        (1, race(one, &claimed, [&[Deactivate(0)], &[Deactivate(0)], &[Query(P)]])),
        // What was there before does not come back, with tags of the time between in it.
        (2, race(ONE, &held, [&[Deactivate(0), StoreTags(P), Activate(0)], &[Get(A), Get(A)]])),
    ];
    named("06-deactivation-counts", "a deactivation holds a count", races)
}

/// Number 9: A range counted by one first and the rest after its bits are set: the release of one of its
/// pages takes the count below 0. And one call that takes several blocks, in one batch.
fn ranges() -> Vec<Case> {
    let count = Q + 1;
    let lent = [Activate(0)];
    let whole = [ReleaseRange(P, count), Query(P)];
    let counted = vec![
        (2, race(ONE, &lent, [&[ClaimRange(P, count)], &[Release(Q), Query(P)]])),
        (2, race(ONE, &[Activate(0), Claim(Q)], [&[ClaimRange(P, count)], &whole])),
        (
            2,
            race(
                ONE,
                &[Activate(0), Put(A, 1)],
                [&[ClaimRange(P, 2)], &[ReleaseRange(P, 2)], &[Query(P), Query(P)]],
            ),
        ),
        (2, race(BLOCK, &lent, [&[ClaimRange(P, R + 1)], &[ReleaseRange(R, 1), Query(P)]])),
    ];
    let full = [Activate(0), Activate(1), Put(A, 1), Put(B, 1)];
    let both = [ClaimRange(R - 1, 2)];
    let blocks = vec![
        (2, race(TWO, &full, [&both, &[Put(A, 2)]])),
        (2, race(TWO, &full, [&both, &[Get(A)]])),
        (2, race(TWO, &full, [&both, &[Claim(P)]])),
        (2, race(TWO, &LENT, [&both, &[ReleaseRange(R - 1, 2), Query(P)]])),
    ];
    [
        named("09-ranges-are-counted-whole", "a range is counted whole", counted),
        named("two-blocks", "a claim of two blocks takes both", blocks),
    ]
    .concat()
}

/// Number 10: "The block is in tags already" tested before counting: the other page is released, a put
/// starts, then the count goes up without a wait.
fn in_tags_already() -> Vec<Case> {
    let races = vec![
        (2, race(ONE, &[Activate(0), Claim(Q)], [&[Claim(P)], &[Release(Q)], &[Put(A, 2)]])),
        (1, race(BLOCK, &[Activate(0), Claim(R)], [&[Claim(P)], &[Release(R)], &[Put(A, 2)]])),
    ];
    named("10-in-tags-after-counting", "that a block is in tags is known after counting", races)
}

/// What a flush names is gone when it has returned, and a put that began later is not.
fn flushes() -> Vec<Case> {
    let one = [Activate(0), Put(A, 1)];
    let races = [FlushPage(A), FlushObject(A), FlushPool].map(|flush| {
        [
            (2, race(ONE, &one, [&[flush, Get(A)], &[Put(A, 2)]])),
            (1, race(ONE, &one, [&[flush, Put(A, 2), Get(A)], &[Get(A)]])),
            (2, race(ONE, &one, [&[flush, Get(A)], &[Peek(A)]])),
        ]
    });
    named("flushes", "a flush covers what was before it", races.concat())
}

/// Calls of different CPUs whose callers order them.
fn ordered_calls() -> Vec<Case> {
    let one = Shape { ordered: true, ..ONE };
    let two = Shape { ordered: true, ..TWO };
    let before = [Activate(0), Put(A, 1)];
    let puts = [Put(A, 1), Put(A, 2)];
    let races = vec![
        (1, race(one, &before, [&[Put(A, 2)], &[FlushObject(A)], &[Get(A)]])),
        (2, race(one, &before, [&[Put(A, 2)], &[FlushPage(A), Get(A)]])),
        (2, race(two, &LENT, [&puts, &[Get(A), Get(A)]])),
        (1, race(two, &LENT, [&puts, &[Peek(A), Peek(A)]])),
    ];
    named("ordered-calls", "calls that their callers order see each other", races)
}

/// A frame whose page went away and came back, with the same key, is another page.
fn same_key() -> Vec<Case> {
    let one = [Activate(0), Put(A, 1)];
    let races = vec![
        (1, race(ONE, &one, [&[Peek(A)], &[Put(A, 2), Put(A, 3)]])),
        (2, race(ONE, &one, [&[Peek(A)], &[FlushPage(A), Put(A, 2)]])),
        (2, race(ONE, &one, [&[Get(A)], &[FlushPage(A), Put(A, 2)]])),
        (2, race(ONE, &one, [&[Get(A)], &[Get(A), Put(A, 2)]])),
    ];
    named("same-key", "a get is not fooled by the same key", races)
}

/// A CRC that is wrong says that the guest broke its word: it never is here.
fn verification() -> Vec<Case> {
    let shape = Shape { verify: true, ..ONE };
    let one = [Activate(0), Put(A, 1)];
    let races = vec![
        (2, race(shape, &one, [&[Get(A)], &[Put(A, 2)]])),
        (2, race(shape, &one, [&[Peek(A)], &[Put(Twin, 2)]])),
        (1, race(shape, &one, [&[Get(A)], &[Claim(P), Release(P), Put(A, 2)]])),
    ];
    named("verification", "verification blames nobody without cause", races)
}
