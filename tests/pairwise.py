# SPDX-License-Identifier: MIT OR Apache-2.0
"""Picks few combinations of many settings such that any two values of two settings are together in one of them.

Most faults of a combination are those of two of its values, and pairs need tens of runs where all combinations need
thousands. The same settings give the same combinations, always.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Callable, Iterator, Sequence

# A combination: a value of each axis, in the order of the axes.
Combination = tuple[str, ...]
# Two values, each with the number of its axis.
Pair = tuple[tuple[int, str], tuple[int, str]]


def pairs(combination: Combination) -> Iterator[Pair]:
    """Lists the pairs of values in a combination."""
    return itertools.combinations(enumerate(combination), 2)


@dataclass(frozen=True)
class Cover:
    """The combinations picked, and the pairs that no combination can have."""

    combinations: list[Combination]
    impossible: list[Pair]


def cover(axes: Sequence[Sequence[str]], possible: Callable[[Combination], bool],
          cost: Callable[[Combination], float]) -> Cover:
    """Picks combinations: each time the one with most pairs that are still missing, the cheapest of several."""
    every = {pair: 1 << bit for bit, pair in enumerate(
        dict.fromkeys(pair for combination in itertools.product(*axes) for pair in pairs(combination)))}
    candidates = [(sum(every[pair] for pair in pairs(combination)), combination)
                  for combination in itertools.product(*axes) if possible(combination)]
    # Sorted by cost, so that the first of the best is the cheapest; sorting is stable.
    candidates.sort(key=lambda candidate: cost(candidate[1]))
    reachable = 0
    for bits, _ in candidates:
        reachable |= bits
    picked: list[Combination] = []
    missing = reachable
    while missing:
        bits, combination = max(candidates, key=lambda candidate: (candidate[0] & missing).bit_count())
        picked.append(combination)
        missing &= ~bits
    # In the order of the axes' values, which is easier to read than the order in which they were found.
    order = [{value: place for place, value in enumerate(axis)} for axis in axes]
    picked.sort(key=lambda combination: [order[axis][value] for axis, value in enumerate(combination)])
    return Cover(picked, [pair for pair, bit in every.items() if not bit & reachable])
