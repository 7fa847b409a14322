"""Duplicates inside a prepared source: images whose perceptual hashes are similar, texts with equal tokens.

Similar hashes differ in few bits; they are found exactly, without comparing all pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations, pairwise
from math import comb
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from firstsight.data.audit import report
from firstsight.data.audit.report import MAX_BUCKET_SIZE, MAX_HAMMING_DISTANCE, MIN_INFORMATIVE_BITS
from firstsight.data.index import Index, ragged_ranges

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


_CHUNK = 1 << 21
_BASE = np.uint64(0x9E3779B97F4A7C13)


def find_duplicates(index: Index) -> report.DuplicateReport:
    """Images and texts that an index contains more than once."""
    images, finder = index.images, report.ImageRecordFinder(index)
    is_uninformative = uninformative_hashes(images["hash"])
    image_ids = np.flatnonzero(~is_uninformative)
    hashes = images["hash"][image_ids]
    identical = _label_equal_rows(hashes, images["size"][image_ids])
    first_images = np.sort(np.unique(identical, return_index=True)[1])
    distinct_hashes, hash_ids = np.unique(hashes, return_inverse=True)
    labels, is_crowded = group_hashes(distinct_hashes)
    similar = labels[hash_ids][first_images]
    texts = label_equal_texts(index)
    return report.DuplicateReport(
        form=index.form,
        images=len(images),
        identical_images=_duplicate_count(identical),
        similar_images=_duplicate_count(similar),
        uninformative_images=int(is_uninformative.sum()),
        crowded_images=int(is_crowded[hash_ids].sum()),
        records=len(texts),
        repeated_texts=_duplicate_count(texts),
        largest_identical=_largest_clusters(identical, image_ids, finder.locate),
        largest_similar=_largest_clusters(similar, image_ids[first_images], finder.locate),
        largest_repeated=_largest_clusters(texts, np.arange(len(texts)), report.RecordLocation),
    )


def _label_equal_rows(*columns: np.ndarray) -> np.ndarray:
    order = np.lexsort(columns)
    is_new = np.zeros(len(order), dtype=bool)
    for column in columns:
        is_new[1:] |= np.diff(column[order].view(np.int64)) != 0
    labels = np.empty(len(order), dtype=np.int64)
    labels[order] = np.cumsum(is_new)
    return labels


def _duplicate_count(labels: np.ndarray) -> int:
    return len(labels) - len(np.unique(labels))


def _largest_clusters(
    labels: np.ndarray, item_ids: np.ndarray, locate: Callable[[int], report.RecordLocation]
) -> tuple[report.DuplicateCluster, ...]:
    order = np.argsort(labels, kind="stable")
    _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    ids = item_ids[order]
    ranked = np.lexsort((ids[starts], -sizes))[: report.MAX_LISTED_CLUSTERS]
    return tuple(
        report.DuplicateCluster(
            size=int(sizes[group]),
            members=tuple(map(locate, ids[starts[group] :][: min(sizes[group], report.MAX_LISTED_MEMBERS)].tolist())),
        )
        for group in ranked
        if sizes[group] > 1
    )


def label_equal_texts(index: Index) -> np.ndarray:
    """Equal labels for records of exactly equal tokens: sorted by a hash, then compared token by token."""
    starts, counts = (index.samples[name].astype(np.int64) for name in ("tokens_from", "tokens_count"))
    hashes = np.zeros(len(starts), dtype=np.uint64)
    for chunk in _token_chunks(counts):
        hashes[chunk] = _hash_records(index.tokens, starts[chunk], counts[chunk])
    order = np.lexsort((hashes, counts))
    is_repeat = np.zeros(len(order), dtype=bool)
    is_repeat[1:] = (np.diff(counts[order]) == 0) & (hashes[order][1:] == hashes[order][:-1])
    candidates = np.flatnonzero(is_repeat)
    earlier, later = order[candidates - 1], order[candidates]
    for chunk in _token_chunks(counts[earlier]):
        left, right = earlier[chunk], later[chunk]
        is_repeat[candidates[chunk]] = _equal_records(index.tokens, starts[left], starts[right], counts[left])
    labels = np.empty(len(order), dtype=np.int64)
    labels[order] = np.cumsum(~is_repeat)
    return labels


def _token_chunks(counts: np.ndarray) -> Iterator[slice]:
    for start, stop in pairwise(np.flatnonzero(np.diff(np.cumsum(counts) // _CHUNK, prepend=-1, append=-2))):
        yield slice(int(start), int(stop))


def _hash_records(tokens: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """A polynomial of each record's tokens modulo 2**64."""
    hashes, nonempty = np.zeros(len(counts), dtype=np.uint64), np.flatnonzero(counts)
    if not len(nonempty):
        return hashes
    indices, _, offsets = ragged_ranges(starts, counts)
    terms = (tokens[indices].astype(np.uint64) + np.uint64(1)) * np.cumprod(np.full(int(counts.max()), _BASE))[offsets]
    hashes[nonempty] = np.add.reduceat(terms, (np.cumsum(counts) - counts)[nonempty])
    return hashes


def _equal_records(tokens: np.ndarray, left: np.ndarray, right: np.ndarray, counts: np.ndarray) -> np.ndarray:
    is_equal, nonempty = np.ones(len(counts), dtype=bool), np.flatnonzero(counts)
    if len(nonempty):
        equal_tokens = tokens[ragged_ranges(left, counts)[0]] == tokens[ragged_ranges(right, counts)[0]]
        is_equal[nonempty] = np.logical_and.reduceat(equal_tokens, (np.cumsum(counts) - counts)[nonempty])
    return is_equal
