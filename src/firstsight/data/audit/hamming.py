"""Pairs of perceptual hashes that differ in few bits, found exactly without comparing all pairs.

The 64 bits are divided into bands. If two hashes differ in at most MAX_HAMMING_DISTANCE bits, all but that many bands
are equal. So for every choice of that many bands to ignore, only hashes that are equal in the other bands are
compared. Hashes that equal more than MAX_BUCKET_SIZE others there are not compared for this choice, and reported.
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


@dataclass(frozen=True, kw_only=True, slots=True)
class HammingPairs:
    """Some of the pairs within MAX_HAMMING_DISTANCE, as indices; a pair may be repeated for another choice of bands."""

    left: Int64[np.ndarray, "pairs"]
    right: Int64[np.ndarray, "pairs"]
    distance: UInt8[np.ndarray, "pairs"]
    crowded: Int64[np.ndarray, "skipped"]
    """Indices of left hashes that were not compared for this choice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HashGroups:
    """Connected components of hashes: equal labels are linked by pairs, directly or through others."""

    labels: Int64[np.ndarray, "hashes"]
    crowded: Bool[np.ndarray, "hashes"]
    """Skipped for some choice of bands, so that a pair may be missing."""


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
            yield HammingPairs(
                left=left_ids[near], right=right_ids[near], distance=distance[near], crowded=ids[is_crowded]
            )


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


def group_hashes(hashes: HashArray) -> HashGroups:
    """Connected components of distinct hashes."""
    labels, crowded = np.arange(len(hashes)), np.zeros(len(hashes), dtype=bool)
    pending: list[tuple[np.ndarray, np.ndarray]] = []
    for pairs in hamming_neighbors(hashes, hashes):
        crowded[pairs.crowded] = True
        is_new = labels[pairs.left] != labels[pairs.right]
        if is_new.any():
            pending.append((pairs.left[is_new], pairs.right[is_new]))
        if sum(len(left) for left, _ in pending) > _MAX_PENDING_PAIRS:
            labels, pending = _link_labels(labels, pending), []
    return HashGroups(labels=_link_labels(labels, pending), crowded=crowded)


def _link_labels(labels: np.ndarray, pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """`labels` after linking `pairs`."""
    if not pairs:
        return labels
    left, right = (labels[np.concatenate(ids)] for ids in zip(*pairs, strict=True))
    graph = coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=(len(labels), len(labels)))
    return connected_components(graph, directed=False)[1].astype(np.int64)[labels]
