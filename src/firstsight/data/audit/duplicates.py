"""What a prepared source holds more than once: pictures by their hash, texts word for word."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from firstsight.data.audit.hamming import (
    MAX_BUCKET_SIZE,
    MAX_HAMMING_DISTANCE,
    MIN_INFORMATIVE_BITS,
    group_hashes,
    uninformative_hashes,
)
from firstsight.data.audit.record_locations import ImageRecordFinder, RecordLocation, format_share, text_location
from firstsight.data.index import Index

MAX_LISTED_CLUSTERS = 5
"""Clusters that are named."""
MAX_LISTED_MEMBERS = 3
"""Members that are named of each."""
_CHUNK = 1 << 21
_BASE = np.uint64(0x9E3779B97F4A7C13)


@dataclass(frozen=True, kw_only=True, slots=True)
class DuplicateCluster:
    """Pictures or texts that are taken for one; the first few of them."""

    size: int
    members: tuple[RecordLocation, ...]

    def __str__(self) -> str:
        return (
            f"{self.size:,} x: "
            + ", ".join(map(str, self.members))
            + (", ..." if self.size > MAX_LISTED_MEMBERS else "")
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class DuplicateReport:
    """Counts of what is there more than once; the first of its kind is never counted."""

    form: str
    images: int
    identical_images: int
    """Pictures with the hash and the size in bytes of an earlier one. Their bytes were not compared."""
    similar_images: int
    """Pictures, beyond the same ones, that are linked to an earlier one by hashes at most NEAR bits apart."""
    uninformative_images: int
    """Pictures whose hash says too little; they are in none of the counts."""
    crowded_images: int
    """Pictures with a hash of which not every neighbour could be looked at; `alike` may be too low by some of them."""
    records: int
    repeated_texts: int
    """Records with exactly the tokens of an earlier one."""
    largest_identical: tuple[DuplicateCluster, ...]
    largest_similar: tuple[DuplicateCluster, ...]
    largest_repeated: tuple[DuplicateCluster, ...]

    def summary_lines(self) -> tuple[str, ...]:
        """The findings as plain sentences."""
        noun = "captions" if self.form == "captions" else "records"
        text_lines = [f"{format_share(self.repeated_texts, self.records)} {noun} repeat an earlier one word for word."]
        text_lines += [f"  {cluster}" for cluster in self.largest_repeated]
        return (*self._image_lines(), *text_lines)

    def _image_lines(self) -> Iterator[str]:
        if not self.images:
            return
        yield (
            f"{format_share(self.identical_images, self.images)} pictures repeat an earlier one: equal perceptual hash and equal size "
            "in bytes (their bytes were not compared)."
        )
        yield from (f"  {cluster}" for cluster in self.largest_identical)
        yield (
            f"{format_share(self.similar_images, self.images)} more look like an earlier one: a hash linked to another's by at most "
            f"{MAX_HAMMING_DISTANCE} of 64 bits."
        )
        yield from (f"  {cluster}" for cluster in self.largest_similar)
        if self.uninformative_images:
            yield (
                f"{format_share(self.uninformative_images, self.images)} pictures were left out, because they are too plain to tell apart "
                f"(fewer than {MIN_INFORMATIVE_BITS} bits of the hash are set, or unset)."
            )
        if self.crowded_images:
            yield (
                f"{format_share(self.crowded_images, self.images)} pictures have a hash that shares its bits with more than "
                f"{MAX_BUCKET_SIZE:,} others; some that look like them may be missing above."
            )


def find_duplicates(index: Index) -> DuplicateReport:
    """What an index holds more than once; nothing is removed."""
    images, record_finder = index.images, ImageRecordFinder(index)
    is_uninformative = uninformative_hashes(images["hash"])
    image_ids = np.flatnonzero(~is_uninformative)
    identical_labels = _label_equal_rows(images["hash"][image_ids], images["size"][image_ids])
    first_images = np.sort(np.unique(identical_labels, return_index=True)[1])
    distinct_hashes, hash_ids = np.unique(images["hash"][image_ids], return_inverse=True)
    hash_groups = group_hashes(distinct_hashes)
    similar_labels = hash_groups.labels[hash_ids][first_images]
    text_labels = label_equal_texts(index)
    return DuplicateReport(
        form=index.form,
        images=len(images),
        identical_images=_duplicate_count(identical_labels),
        similar_images=_duplicate_count(similar_labels),
        uninformative_images=int(is_uninformative.sum()),
        crowded_images=int(hash_groups.crowded[hash_ids].sum()),
        records=len(text_labels),
        repeated_texts=_duplicate_count(text_labels),
        largest_identical=_largest_clusters(identical_labels, image_ids, record_finder.locate),
        largest_similar=_largest_clusters(similar_labels, image_ids[first_images], record_finder.locate),
        largest_repeated=_largest_clusters(text_labels, np.arange(len(text_labels)), text_location),
    )


def _label_equal_rows(*columns: np.ndarray) -> np.ndarray:
    """Equal numbers for equal rows of the columns."""
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
    labels: np.ndarray, item_ids: np.ndarray, locate: Callable[[int], RecordLocation]
) -> tuple[DuplicateCluster, ...]:
    """The largest groups of equal labels, earlier ones first among equals."""
    order = np.argsort(labels, kind="stable")
    _, start, size = np.unique(labels[order], return_index=True, return_counts=True)
    first = item_ids[order[start]] if len(start) else start
    ranked = [group for group in np.lexsort((first, -size))[:MAX_LISTED_CLUSTERS] if size[group] > 1]
    return tuple(
        DuplicateCluster(
            size=int(size[group]),
            members=tuple(
                locate(int(item_ids[order[position]]))
                for position in range(start[group], start[group] + min(int(size[group]), MAX_LISTED_MEMBERS))
            ),
        )
        for group in ranked
    )


def label_equal_texts(index: Index) -> np.ndarray:
    """Equal numbers for records of exactly equal tokens: found by a hash of each, then compared token by token."""
    starts, counts = (index.samples[name].astype(np.int64) for name in ("tokens_from", "tokens_count"))
    hashes = np.zeros(len(starts), dtype=np.uint64)
    for chunk in _token_chunks(counts):
        hashes[chunk] = _hash_records(index.tokens, starts[chunk], counts[chunk])
    order = np.lexsort((hashes, counts))
    is_repeat = np.zeros(len(order), dtype=bool)
    is_repeat[1:] = (np.diff(counts[order]) == 0) & (hashes[order][1:] == hashes[order][:-1])
    repeat_positions = np.flatnonzero(is_repeat)
    earlier, later = order[repeat_positions - 1], order[repeat_positions]
    for chunk in _token_chunks(counts[earlier]):
        is_repeat[repeat_positions[chunk]] = _equal_records(
            index.tokens, starts[earlier[chunk]], starts[later[chunk]], counts[earlier[chunk]]
        )
    labels = np.empty(len(order), dtype=np.int64)
    labels[order] = np.cumsum(~is_repeat)
    return labels


def _token_chunks(count: np.ndarray) -> Iterator[slice]:
    """Stretches of records with about _CHUNK tokens each."""
    edges = np.flatnonzero(np.diff(np.cumsum(count) // _CHUNK, prepend=-1, append=-2))
    for start, stop in pairwise(edges):
        yield slice(int(start), int(stop))


def _token_positions(start: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every token position of the records in turn, and its distance from its record's start."""
    offsets = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    return np.repeat(start, count) + offsets, offsets


def _hash_records(tokens: np.ndarray, start: np.ndarray, count: np.ndarray) -> np.ndarray:
    """A polynomial of each record's tokens modulo 2**64."""
    hashes, nonempty = np.zeros(len(count), dtype=np.uint64), np.flatnonzero(count)
    if not len(nonempty):
        return hashes
    positions, offsets = _token_positions(start, count)
    powers = np.cumprod(np.full(int(count.max()), _BASE))
    terms = (tokens[positions].astype(np.uint64) + np.uint64(1)) * powers[offsets]
    hashes[nonempty] = np.add.reduceat(terms, (np.cumsum(count) - count)[nonempty])
    return hashes


def _equal_records(
    tokens: np.ndarray, first_starts: np.ndarray, second_starts: np.ndarray, count: np.ndarray
) -> np.ndarray:
    """Whether the tokens from `one` and from `other` on are the same."""
    equal, nonempty = np.ones(len(count), dtype=bool), np.flatnonzero(count)
    if len(nonempty):
        token_equal = (
            tokens[_token_positions(first_starts, count)[0]] == tokens[_token_positions(second_starts, count)[0]]
        )
        equal[nonempty] = np.logical_and.reduceat(token_equal, (np.cumsum(count) - count)[nonempty])
    return equal
