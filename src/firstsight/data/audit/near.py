"""Perceptual hashes that differ in few bits: found exactly, without comparing each with each.

A pair that differs in at most NEAR of 64 bits leaves all but NEAR of any set of bands untouched. So for every choice of
that many bands, only hashes which are equal there are compared; hashes that share a choice with more than CROWD others
are skipped in it and reported.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import comb

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

NEAR = 4
"""Bits in which two hashes may differ and still be taken for one picture, encoded or scaled anew."""
PLAIN = 8
"""A hash with fewer bits set, or fewer unset, is that of an even area or a slope: it tells no pictures apart."""
CROWD = 1000
"""Hashes that may share the bands of one choice; more of them are not compared there."""
_BITS = 64
_CHUNK = 1 << 14
_MERGED = 1 << 20

Hashes = UInt64[np.ndarray, "_"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs:
    """Some pairs that are near, by number; a pair may come again with another choice of bands."""

    left: Int64[np.ndarray, "pairs"]
    right: Int64[np.ndarray, "pairs"]
    distance: UInt8[np.ndarray, "pairs"]
    crowded: Int64[np.ndarray, "skipped"]
    """Numbers on the left that were not compared in this choice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Groups:
    """Which hashes hang together: equal labels are linked by near pairs, directly or over others."""

    labels: Int64[np.ndarray, "hashes"]
    crowded: Bool[np.ndarray, "hashes"]
    """Was skipped in a choice of bands, so that a neighbour may have been missed."""


def plain(hashes: np.ndarray) -> np.ndarray:
    """Which hashes say too little to compare pictures by."""
    bits = np.bitwise_count(hashes)
    return (bits < PLAIN) | (bits > _BITS - PLAIN)


def near(left: Hashes, right: Hashes) -> Iterator[Pairs]:
    """Every pair of a left and a right hash that differ in at most NEAR bits, crowds aside."""
    for mask in masks(bands(len(left), len(right))):
        ours, theirs = _by(left & mask), _by(right & mask)
        for start in range(0, len(left), _CHUNK):
            yield _compared((left, right), ours.part(start), theirs)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sorted:
    """Keys in ascending order, and the number of the hash that each belongs to."""

    keys: Hashes
    numbers: Int64[np.ndarray, "hashes"]

    def part(self, start: int) -> _Sorted:
        stop = start + _CHUNK
        return _Sorted(keys=self.keys[start:stop], numbers=self.numbers[start:stop])


def _by(keys: Hashes) -> _Sorted:
    numbers = np.argsort(keys)
    return _Sorted(keys=keys[numbers], numbers=numbers)


def bands(left: int, right: int) -> int:
    """How many bands make sorting and comparing that many hashes cheapest together."""

    def work(number: int) -> float:
        by_chance = left * right / 2 ** (_BITS * (number - NEAR) / number)
        return comb(number, NEAR) * (30 * (left + right) + by_chance)

    return min(range(NEAR + 1, 2 * NEAR + 1), key=work)


def masks(number: int) -> list[np.uint64]:
    """One mask for every choice of all but NEAR of so many bands: NEAR bits anywhere leave one of them untouched."""
    edges = [_BITS * one // number for one in range(number + 1)]
    parts = [(1 << stop) - (1 << start) for start, stop in pairwise(edges)]
    return [np.uint64(sum(chosen)) for chosen in combinations(parts, number - NEAR)]


def _compared(hashes: tuple[Hashes, Hashes], ours: _Sorted, theirs: _Sorted) -> Pairs:
    """Near pairs among those that have equal keys."""
    first = np.searchsorted(theirs.keys, ours.keys, side="left")
    count = np.searchsorted(theirs.keys, ours.keys, side="right") - first
    crowd = count > CROWD
    count[crowd] = 0
    left = np.repeat(ours.numbers, count)
    within = np.arange(len(left)) - np.repeat(np.cumsum(count) - count, count)
    right = theirs.numbers[np.repeat(first, count) + within]
    distance = np.bitwise_count(hashes[0][left] ^ hashes[1][right])
    close = distance <= NEAR
    return Pairs(left=left[close], right=right[close], distance=distance[close], crowded=ours.numbers[crowd])


def groups(hashes: Hashes) -> Groups:
    """What hangs together among distinct hashes."""
    labels = np.arange(len(hashes))
    crowded = np.zeros(len(hashes), dtype=bool)
    held: list[tuple[np.ndarray, np.ndarray]] = []
    for pairs in near(hashes, hashes):
        crowded[pairs.crowded] = True
        new = labels[pairs.left] != labels[pairs.right]
        if new.any():
            held.append((pairs.left[new], pairs.right[new]))
        if sum(len(ours) for ours, _ in held) > _MERGED:
            labels, held = _joined(labels, held), []
    return Groups(labels=_joined(labels, held), crowded=crowded)


def _joined(labels: np.ndarray, held: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """`labels` after the pairs in `held` have been linked."""
    if not held:
        return labels
    ours = labels[np.concatenate([left for left, _ in held])]
    theirs = labels[np.concatenate([right for _, right in held])]
    size = len(labels)
    graph = coo_array((np.ones(len(ours), dtype=np.int8), (ours, theirs)), shape=(size, size))
    return connected_components(graph, directed=False)[1].astype(np.int64)[labels]
