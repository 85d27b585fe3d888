// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pools that come and go beside the calls that name them.

use crate::cases::{Body, Case};
use crate::machine::{FIRST_POOL, Key::*, NEXT_POOL, Op, Op::*, Shape};
use crate::race::{ONE, TWO, race};

const SHAPE: Shape = Shape { pools: true, ..ONE };
const WIDE: Shape = Shape { pools: true, ..TWO };

/// One frame lent, the first pool made, with a page in it.
const HELD: [Op; 3] = [Activate(0), MakePool(Some(FIRST_POOL)), Put(A, 1)];
/// Ends the first pool and makes the next one in its place.
const REPLACE: [Op; 2] = [DestroyPool(FIRST_POOL), MakePool(Some(NEXT_POOL))];

/// All of them. The names of the two groups of keys: `A` is of the first pool, `Reborn` the same page
/// of the same file in the pool that is made in the first one's place.
pub fn cases() -> Vec<Case> {
    let replace = |more: &[Op]| [&REPLACE[..], more].concat();
    let wide = [&[Activate(1)], &HELD[..]].concat();
    let renewed = [Activate(0)];
    let races = [
        (
            "destroy+put",
            race(SHAPE, &HELD, [&[DestroyPool(FIRST_POOL), Get(A)], &[Put(A, 2), Get(A)]]),
        ),
        ("destroy+get", race(SHAPE, &HELD, [&[DestroyPool(FIRST_POOL)], &[Get(A), Get(A)]])),
        ("destroy+peek", race(SHAPE, &HELD, [&[DestroyPool(FIRST_POOL)], &[Peek(A), Peek(A)]])),
        (
            "destroy+flush-page",
            race(SHAPE, &HELD, [&[DestroyPool(FIRST_POOL)], &[FlushPage(A), Get(A)]]),
        ),
        (
            "destroy+claim",
            race(SHAPE, &HELD, [&[DestroyPool(FIRST_POOL), Get(A)], &[Claim(0), Release(0)]]),
        ),
        (
            "destroy+destroy",
            race(SHAPE, &HELD, [&[DestroyPool(FIRST_POOL)], &[DestroyPool(FIRST_POOL)]]),
        ),
        ("replace+put", race(SHAPE, &HELD, [&replace(&[Get(Reborn)]), &[Put(A, 2), Get(A)]])),
        (
            "replace+put, both put",
            race(SHAPE, &HELD, [&replace(&[Put(Reborn, 3), Get(Reborn)]), &[Put(A, 2)]]),
        ),
        (
            "replace+get",
            race(SHAPE, &HELD, [&replace(&[Put(Reborn, 3), Get(Reborn)]), &[Get(A), Get(A)]]),
        ),
        ("replace+peek", race(SHAPE, &HELD, [&replace(&[Put(Reborn, 3)]), &[Peek(A), Peek(A)]])),
        (
            "replace+get of the next",
            race(SHAPE, &HELD, [&replace(&[Put(Reborn, 3)]), &[Get(Reborn), Get(A)]]),
        ),
        (
            "replace+put of the next",
            race(SHAPE, &HELD, [&replace(&[Get(Reborn)]), &[Put(Reborn, 3), Get(A)]]),
        ),
        ("replace+destroy", race(SHAPE, &HELD, [&REPLACE, &[DestroyPool(FIRST_POOL), Get(A)]])),
        (
            "replace+destroy of the next",
            race(SHAPE, &HELD, [&replace(&[Put(Reborn, 3)]), &[DestroyPool(NEXT_POOL)]]),
        ),
        (
            "replace+put, two frames",
            race(WIDE, &wide, [&replace(&[Put(Reborn, 3), Get(Reborn)]), &[Put(A, 2), Get(A)]]),
        ),
        (
            "replace+put+get",
            race(SHAPE, &HELD, [&replace(&[Get(Reborn)]), &[Put(A, 2)], &[Get(A)]]),
        ),
        ("make+make", race(SHAPE, &renewed, [&[MakePool(None)], &[MakePool(None)]])),
        (
            "make+destroy",
            race(SHAPE, &HELD, [&[MakePool(None)], &[DestroyPool(FIRST_POOL), Get(A)]]),
        ),
        ("join+join", race(SHAPE, &renewed, [&[JoinPool], &[JoinPool]])),
        ("join+join+join", race(SHAPE, &renewed, [&[JoinPool], &[JoinPool], &[JoinPool]])),
        (
            "join+destroy",
            race(SHAPE, &[Activate(0), JoinPool], [&[JoinPool], &[DestroyPool(FIRST_POOL)]]),
        ),
        (
            "join+join after a destroy",
            race(SHAPE, &HELD, [&[DestroyPool(FIRST_POOL), JoinPool], &[JoinPool]]),
        ),
        (
            "deactivate+put",
            race(SHAPE, &HELD, [&[DestroyPools, Deactivate(0), Get(A)], &[Put(A, 2), Get(A)]]),
        ),
        (
            "deactivate+activate+put",
            race(
                SHAPE,
                &HELD,
                [&[DestroyPools, Deactivate(0)], &[Activate(0), Get(A)], &[Put(A, 2)]],
            ),
        ),
    ];
    let why = "a page of a pool that is gone is in no pool, and each pool is made and ended once";
    let case = |(name, race): (&str, _)| Case {
        group: "pools".to_owned(),
        name: format!("pools/{name}"),
        body: Body::Race(race),
        least: 1,
        test_least: Some(1),
        why: why.to_owned(),
    };
    races.map(case).to_vec()
}
