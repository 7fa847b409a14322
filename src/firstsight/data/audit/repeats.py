"""What a prepared source holds more than once: pictures by their hash, texts word for word."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from firstsight.data.audit.near import CROWD, NEAR, PLAIN, groups, plain
from firstsight.data.audit.seen import Seen, Shown, part, text_at
from firstsight.data.index import Index

LARGEST = 5
"""Clusters that are named."""
EXAMPLES = 3
"""Members that are named of each."""
_CHUNK = 1 << 21
_BASE = np.uint64(0x9E3779B97F4A7C13)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """Pictures or texts that are taken for one; the first few of them."""

    size: int
    members: tuple[Seen, ...]

    def __str__(self) -> str:
        return f"{self.size:,} x: " + ", ".join(map(str, self.members)) + (", ..." if self.size > EXAMPLES else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Duplicates:
    """Counts of what is there more than once; the first of its kind is never counted."""

    form: str
    pictures: int
    same: int
    """Pictures with the hash and the size in bytes of an earlier one. Their bytes were not compared."""
    alike: int
    """Pictures, beyond the same ones, that are linked to an earlier one by hashes at most NEAR bits apart."""
    plain: int
    """Pictures whose hash says too little; they are in none of the counts."""
    crowded: int
    """Pictures with a hash of which not every neighbour could be looked at; `alike` may be too low by some of them."""
    records: int
    repeated: int
    """Records with exactly the tokens of an earlier one."""
    largest_same: tuple[Cluster, ...]
    largest_alike: tuple[Cluster, ...]
    largest_repeated: tuple[Cluster, ...]

    def lines(self) -> tuple[str, ...]:
        """The findings as plain sentences."""
        words = "captions" if self.form == "captions" else "records"
        found = [f"{part(self.repeated, self.records)} {words} repeat an earlier one word for word."]
        found += [f"  {cluster}" for cluster in self.largest_repeated]
        return (*self._pictures(), *found)

    def _pictures(self) -> Iterator[str]:
        if not self.pictures:
            return
        yield (
            f"{part(self.same, self.pictures)} pictures repeat an earlier one: equal perceptual hash and equal size "
            "in bytes (their bytes were not compared)."
        )
        yield from (f"  {cluster}" for cluster in self.largest_same)
        yield (
            f"{part(self.alike, self.pictures)} more look like an earlier one: a hash linked to another's by at most "
            f"{NEAR} of 64 bits."
        )
        yield from (f"  {cluster}" for cluster in self.largest_alike)
        if self.plain:
            yield (
                f"{part(self.plain, self.pictures)} pictures were left out, because they are too plain to tell apart "
                f"(fewer than {PLAIN} bits of the hash are set, or unset)."
            )
        if self.crowded:
            yield (
                f"{part(self.crowded, self.pictures)} pictures have a hash that shares its bits with more than "
                f"{CROWD:,} others; some that look like them may be missing above."
            )


def duplicates(index: Index) -> Duplicates:
    """What an index holds more than once; nothing is removed."""
    images, find = index.images, Shown(index)
    apart = plain(images["hash"])
    numbers = np.flatnonzero(~apart)
    same = _labels(images["hash"][numbers], images["size"][numbers])
    single = np.sort(np.unique(same, return_index=True)[1])
    distinct, which = np.unique(images["hash"][numbers], return_inverse=True)
    linked = groups(distinct)
    alike = linked.labels[which][single]
    words = repeats(index)
    return Duplicates(
        form=index.form,
        pictures=len(images),
        same=_surplus(same),
        alike=_surplus(alike),
        plain=int(apart.sum()),
        crowded=int(linked.crowded[which].sum()),
        records=len(words),
        repeated=_surplus(words),
        largest_same=_largest(same, numbers, find.seen),
        largest_alike=_largest(alike, numbers[single], find.seen),
        largest_repeated=_largest(words, np.arange(len(words)), text_at),
    )


def _labels(*columns: np.ndarray) -> np.ndarray:
    """Equal numbers for equal rows of the columns."""
    order = np.lexsort(columns)
    new = np.zeros(len(order), dtype=bool)
    for column in columns:
        new[1:] |= np.diff(column[order].view(np.int64)) != 0
    labels = np.empty(len(order), dtype=np.int64)
    labels[order] = np.cumsum(new)
    return labels


def _surplus(labels: np.ndarray) -> int:
    return len(labels) - len(np.unique(labels))


def _largest(labels: np.ndarray, numbers: np.ndarray, seen: Callable[[int], Seen]) -> tuple[Cluster, ...]:
    """The largest groups of equal labels, earlier ones first among equals."""
    order = np.argsort(labels, kind="stable")
    _, start, size = np.unique(labels[order], return_index=True, return_counts=True)
    first = numbers[order[start]] if len(start) else start
    ranked = [group for group in np.lexsort((first, -size))[:LARGEST] if size[group] > 1]
    return tuple(
        Cluster(
            size=int(size[group]),
            members=tuple(
                seen(int(numbers[order[at]]))
                for at in range(start[group], start[group] + min(int(size[group]), EXAMPLES))
            ),
        )
        for group in ranked
    )


def repeats(index: Index) -> np.ndarray:
    """Equal numbers for records of exactly equal tokens: found by a hash of each, then compared token by token."""
    start, count = (index.samples[name].astype(np.int64) for name in ("tokens_from", "tokens_count"))
    hashes = np.zeros(len(start), dtype=np.uint64)
    for some in _stretches(count):
        hashes[some] = _hashed(index.tokens, start[some], count[some])
    order = np.lexsort((hashes, count))
    again = np.zeros(len(order), dtype=bool)
    again[1:] = (np.diff(count[order]) == 0) & (hashes[order][1:] == hashes[order][:-1])
    places = np.flatnonzero(again)
    one, other = order[places - 1], order[places]
    for some in _stretches(count[one]):
        again[places[some]] = _equal(index.tokens, start[one[some]], start[other[some]], count[one[some]])
    labels = np.empty(len(order), dtype=np.int64)
    labels[order] = np.cumsum(~again)
    return labels


def _stretches(count: np.ndarray) -> Iterator[slice]:
    """Stretches of records with about _CHUNK tokens each."""
    edges = np.flatnonzero(np.diff(np.cumsum(count) // _CHUNK, prepend=-1, append=-2))
    for start, stop in pairwise(edges):
        yield slice(int(start), int(stop))


def _positions(start: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every token position of the records in turn, and its distance from its record's start."""
    within = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    return np.repeat(start, count) + within, within


def _hashed(tokens: np.ndarray, start: np.ndarray, count: np.ndarray) -> np.ndarray:
    """A polynomial of each record's tokens modulo 2**64."""
    hashes, held = np.zeros(len(count), dtype=np.uint64), np.flatnonzero(count)
    if not len(held):
        return hashes
    places, within = _positions(start, count)
    powers = np.cumprod(np.full(int(count.max()), _BASE))
    terms = (tokens[places].astype(np.uint64) + np.uint64(1)) * powers[within]
    hashes[held] = np.add.reduceat(terms, (np.cumsum(count) - count)[held])
    return hashes


def _equal(tokens: np.ndarray, one: np.ndarray, other: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Whether the tokens from `one` and from `other` on are the same."""
    equal, held = np.ones(len(count), dtype=bool), np.flatnonzero(count)
    if len(held):
        same = tokens[_positions(one, count)[0]] == tokens[_positions(other, count)[0]]
        equal[held] = np.logical_and.reduceat(same, (np.cumsum(count) - count)[held])
    return equal
