"""Duplicates inside a prepared source: images by their hash, texts by their tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np

from firstsight.data.audit import report
from firstsight.data.audit.hamming import group_hashes, uninformative_hashes
from firstsight.data.index import Index, ragged_ranges

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
    """Equal labels for equal rows of the columns."""
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
    """The largest groups of equal labels, earlier ones first among equals."""
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
    """Ranges of records with about _CHUNK tokens each."""
    edges = np.flatnonzero(np.diff(np.cumsum(counts) // _CHUNK, prepend=-1, append=-2))
    for start, stop in pairwise(edges):
        yield slice(int(start), int(stop))


def _hash_records(tokens: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """A polynomial of each record's tokens modulo 2**64."""
    hashes, nonempty = np.zeros(len(counts), dtype=np.uint64), np.flatnonzero(counts)
    if not len(nonempty):
        return hashes
    positions, _, offsets = ragged_ranges(starts, counts)
    powers = np.cumprod(np.full(int(counts.max()), _BASE))
    terms = (tokens[positions].astype(np.uint64) + np.uint64(1)) * powers[offsets]
    hashes[nonempty] = np.add.reduceat(terms, (np.cumsum(counts) - counts)[nonempty])
    return hashes


def _equal_records(tokens: np.ndarray, left: np.ndarray, right: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Whether the `counts` tokens from `left` and from `right` on are equal."""
    is_equal, nonempty = np.ones(len(counts), dtype=bool), np.flatnonzero(counts)
    if len(nonempty):
        equal_tokens = tokens[ragged_ranges(left, counts)[0]] == tokens[ragged_ranges(right, counts)[0]]
        is_equal[nonempty] = np.logical_and.reduceat(equal_tokens, (np.cumsum(counts) - counts)[nonempty])
    return is_equal
