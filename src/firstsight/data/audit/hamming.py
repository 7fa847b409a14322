"""Pairs of perceptual hashes that differ in few bits, found exactly without comparing all pairs.

The 64 bits are divided into bands. If two hashes differ in at most MAX_HAMMING_DISTANCE bits, all but that many bands
are equal. So for every choice of that many bands to ignore, only hashes that are equal in the other bands are
compared. Hashes that equal more than MAX_BUCKET_SIZE others there are not compared for this choice, and reported.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise
from math import comb
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from firstsight.data.index import ragged_ranges

MAX_HAMMING_DISTANCE = 4
"""Bits in which the hashes of an image and of its rescaled or re-encoded copy may differ."""
MIN_INFORMATIVE_BITS = 8
"""A hash with fewer bits set, or fewer unset, is that of a plain area or a gradient: it does not identify an image."""
MAX_BUCKET_SIZE = 1000
"""Hashes with equal bands that are compared; larger buckets are skipped."""
_BITS = 64
_CHUNK = 1 << 14
_MAX_PENDING_PAIRS = 1 << 20

HashArray = UInt64[np.ndarray, "_"]


class HammingPairs(NamedTuple):
    """Some of the pairs within MAX_HAMMING_DISTANCE, as indices; a pair may be repeated for another choice of bands."""

    left: Int64[np.ndarray, "pairs"]
    right: Int64[np.ndarray, "pairs"]
    distance: UInt8[np.ndarray, "pairs"]
    crowded: Int64[np.ndarray, "skipped"]
    """Indices of left hashes that were not compared for this choice."""


def uninformative_hashes(hashes: np.ndarray) -> np.ndarray:
    """Which hashes have too few bits set or unset to identify an image."""
    bits = np.bitwise_count(hashes)
    return (bits < MIN_INFORMATIVE_BITS) | (bits > _BITS - MIN_INFORMATIVE_BITS)


def hamming_neighbors(left: HashArray, right: HashArray) -> Iterator[HammingPairs]:
    """Every pair of a left and a right hash within MAX_HAMMING_DISTANCE, except in skipped buckets."""
    for mask in band_masks(choose_band_count(len(left), len(right))):
        left_order, right_order = np.argsort(left & mask), np.argsort(right & mask)
        right_keys = (right & mask)[right_order]
        for start in range(0, len(left), _CHUNK):
            ids = left_order[start : start + _CHUNK]
            keys = left[ids] & mask
            first = np.searchsorted(right_keys, keys, side="left")
            counts = np.searchsorted(right_keys, keys, side="right") - first
            is_crowded = counts > MAX_BUCKET_SIZE
            counts[is_crowded] = 0
            positions, owners, _ = ragged_ranges(first, counts)
            left_ids, right_ids = ids[owners], right_order[positions]
            distance = np.bitwise_count(left[left_ids] ^ right[right_ids])
            near = distance <= MAX_HAMMING_DISTANCE
            yield HammingPairs(left_ids[near], right_ids[near], distance[near], ids[is_crowded])


def choose_band_count(left: int, right: int) -> int:
    """The number of bands for which sorting and comparing that many hashes are cheapest together."""

    def cost(bands: int) -> float:
        by_chance = left * right / 2 ** (_BITS * (bands - MAX_HAMMING_DISTANCE) / bands)
        return comb(bands, MAX_HAMMING_DISTANCE) * (30 * (left + right) + by_chance)

    return min(range(MAX_HAMMING_DISTANCE + 1, 2 * MAX_HAMMING_DISTANCE + 1), key=cost)


def band_masks(bands: int) -> list[np.uint64]:
    """A mask for every choice of all but MAX_HAMMING_DISTANCE bands: that many changed bits leave one choice equal."""
    edges = [_BITS * band // bands for band in range(bands + 1)]
    band_bits = [(1 << stop) - (1 << start) for start, stop in pairwise(edges)]
    return [np.uint64(sum(subset)) for subset in combinations(band_bits, bands - MAX_HAMMING_DISTANCE)]


def group_hashes(hashes: HashArray) -> tuple[Int64[np.ndarray, "_"], Bool[np.ndarray, "_"]]:
    """(label, crowded) of distinct hashes: similar ones have equal labels, directly or through others.

    Crowded hashes were skipped for some choice of bands, so that a pair may be missing.
    """
    labels, crowded = np.arange(len(hashes)), np.zeros(len(hashes), dtype=bool)
    pending: list[tuple[np.ndarray, np.ndarray]] = []
    for left, right, _, skipped in hamming_neighbors(hashes, hashes):
        crowded[skipped] = True
        is_new = labels[left] != labels[right]
        if is_new.any():
            pending.append((left[is_new], right[is_new]))
        if sum(len(ids) for ids, _ in pending) > _MAX_PENDING_PAIRS:
            labels, pending = _link_labels(labels, pending), []
    return _link_labels(labels, pending), crowded


def _link_labels(labels: np.ndarray, pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    if not pairs:
        return labels
    left, right = (labels[np.concatenate(ids)] for ids in zip(*pairs, strict=True))
    graph = coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=(len(labels), len(labels)))
    return connected_components(graph, directed=False)[1].astype(np.int64)[labels]
