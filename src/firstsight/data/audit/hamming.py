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

MAX_HAMMING_DISTANCE = 4
"""Bits in which two hashes may differ and still be taken for one picture, encoded or scaled anew."""
MIN_INFORMATIVE_BITS = 8
"""A hash with fewer bits set, or fewer unset, is that of an even area or a slope: it tells no pictures apart."""
MAX_BUCKET_SIZE = 1000
"""Hashes that may share the bands of one choice; more of them are not compared there."""
_BITS = 64
_CHUNK = 1 << 14
_MAX_PENDING_PAIRS = 1 << 20

HashArray = UInt64[np.ndarray, "_"]


@dataclass(frozen=True, kw_only=True, slots=True)
class HammingPairs:
    """Some pairs that are near, by number; a pair may come again with another choice of bands."""

    left: Int64[np.ndarray, "pairs"]
    right: Int64[np.ndarray, "pairs"]
    distance: UInt8[np.ndarray, "pairs"]
    crowded: Int64[np.ndarray, "skipped"]
    """Numbers on the left that were not compared in this choice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HashGroups:
    """Which hashes hang together: equal labels are linked by near pairs, directly or over others."""

    labels: Int64[np.ndarray, "hashes"]
    crowded: Bool[np.ndarray, "hashes"]
    """Was skipped in a choice of bands, so that a neighbour may have been missed."""


def uninformative_hashes(hashes: np.ndarray) -> np.ndarray:
    """Which hashes say too little to compare pictures by."""
    bits = np.bitwise_count(hashes)
    return (bits < MIN_INFORMATIVE_BITS) | (bits > _BITS - MIN_INFORMATIVE_BITS)


def hamming_neighbors(left: HashArray, right: HashArray) -> Iterator[HammingPairs]:
    """Every pair of a left and a right hash that differ in at most NEAR bits, crowds aside."""
    for mask in band_masks(choose_band_count(len(left), len(right))):
        left_keys, right_keys = _sort_keys(left & mask), _sort_keys(right & mask)
        for start in range(0, len(left), _CHUNK):
            yield _compare_equal_keys((left, right), left_keys.chunk(start), right_keys)


@dataclass(frozen=True, kw_only=True, slots=True)
class _SortedKeys:
    """Keys in ascending order, and the number of the hash that each belongs to."""

    keys: HashArray
    numbers: Int64[np.ndarray, "hashes"]

    def chunk(self, start: int) -> _SortedKeys:
        stop = start + _CHUNK
        return _SortedKeys(keys=self.keys[start:stop], numbers=self.numbers[start:stop])


def _sort_keys(keys: HashArray) -> _SortedKeys:
    numbers = np.argsort(keys)
    return _SortedKeys(keys=keys[numbers], numbers=numbers)


def choose_band_count(left: int, right: int) -> int:
    """How many bands make sorting and comparing that many hashes cheapest together."""

    def cost(band_count: int) -> float:
        by_chance = left * right / 2 ** (_BITS * (band_count - MAX_HAMMING_DISTANCE) / band_count)
        return comb(band_count, MAX_HAMMING_DISTANCE) * (30 * (left + right) + by_chance)

    return min(range(MAX_HAMMING_DISTANCE + 1, 2 * MAX_HAMMING_DISTANCE + 1), key=cost)


def band_masks(band_count: int) -> list[np.uint64]:
    """One mask for every choice of all but NEAR of so many bands: NEAR bits anywhere leave one of them untouched."""
    edges = [_BITS * band // band_count for band in range(band_count + 1)]
    band_bits = [(1 << stop) - (1 << start) for start, stop in pairwise(edges)]
    return [np.uint64(sum(band_subset)) for band_subset in combinations(band_bits, band_count - MAX_HAMMING_DISTANCE)]


def _compare_equal_keys(
    hashes: tuple[HashArray, HashArray], left_keys: _SortedKeys, right_keys: _SortedKeys
) -> HammingPairs:
    """Near pairs among those that have equal keys."""
    first = np.searchsorted(right_keys.keys, left_keys.keys, side="left")
    counts = np.searchsorted(right_keys.keys, left_keys.keys, side="right") - first
    is_crowded = counts > MAX_BUCKET_SIZE
    counts[is_crowded] = 0
    left = np.repeat(left_keys.numbers, counts)
    offsets = np.arange(len(left)) - np.repeat(np.cumsum(counts) - counts, counts)
    right = right_keys.numbers[np.repeat(first, counts) + offsets]
    distance = np.bitwise_count(hashes[0][left] ^ hashes[1][right])
    is_near = distance <= MAX_HAMMING_DISTANCE
    return HammingPairs(
        left=left[is_near], right=right[is_near], distance=distance[is_near], crowded=left_keys.numbers[is_crowded]
    )


def group_hashes(hashes: HashArray) -> HashGroups:
    """What hangs together among distinct hashes."""
    labels = np.arange(len(hashes))
    crowded = np.zeros(len(hashes), dtype=bool)
    pending_pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for pairs in hamming_neighbors(hashes, hashes):
        crowded[pairs.crowded] = True
        is_new = labels[pairs.left] != labels[pairs.right]
        if is_new.any():
            pending_pairs.append((pairs.left[is_new], pairs.right[is_new]))
        if sum(len(left_ids) for left_ids, _ in pending_pairs) > _MAX_PENDING_PAIRS:
            labels, pending_pairs = _link_labels(labels, pending_pairs), []
    return HashGroups(labels=_link_labels(labels, pending_pairs), crowded=crowded)


def _link_labels(labels: np.ndarray, pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """`labels` after the pairs in `held` have been linked."""
    if not pairs:
        return labels
    left_labels = labels[np.concatenate([left for left, _ in pairs])]
    right_labels = labels[np.concatenate([right for _, right in pairs])]
    size = len(labels)
    graph = coo_array((np.ones(len(left_labels), dtype=np.int8), (left_labels, right_labels)), shape=(size, size))
    return connected_components(graph, directed=False)[1].astype(np.int64)[labels]
