"""Parts to one index: their arrays one behind the other, numbers moved on, in streaming copies.

Memory holds a chunk of one array; for pictures that several parts show, one entry a picture as well.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from firstsight.data.prepare.pages import Pages, write_whole
from firstsight.data.prepare.part import Part
from firstsight.errors import DataError

CHUNK = 1 << 20
"""Entries that are copied at once."""
MOST_PICTURES = 2**31 - 1
Numbers = Int64[np.ndarray, "pictures"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Merged:
    """What came together."""

    pictures: int
    digests: tuple[str, ...]
    """Of the arrays in their order, and of the names of what the pictures lie in."""


def merge(parts: Sequence[Part], out: Path, *, vocabulary: int) -> Merged:
    """Write the arrays of all parts and shards.json into `out`."""
    places = {name: None for part in parts for name in part.places}
    shards = {name: number for number, name in enumerate(places)}
    own = [np.array([shards[name] for name in part.places], dtype=np.int64) for part in parts]
    with Pages(out, vocabulary) as pages:
        for part, shard, numbers in zip(parts, own, _numbered(parts, own), strict=True):
            _append(pages, part, shard=shard, numbers=numbers)
    names = json.dumps(list(places), ensure_ascii=False, indent=0) + "\n"
    write_whole(out / "shards.json", names)
    arrays = [array.digest for array in pages.arrays.values()]
    return Merged(
        pictures=pages.arrays["images"].count,
        digests=(*arrays, hashlib.sha256(names.encode()).hexdigest()),
    )


def _append(pages: Pages, part: Part, *, shard: Int64[np.ndarray, "places"], numbers: Numbers | int) -> None:
    """One part behind what is there; `numbers` are its pictures' in the whole, or the first of them."""
    before = {name: pages.arrays[name].count for name in ("tokens", "shown", "images")}
    for name in ("tokens", "loss"):
        for chunk in _chunks(part, name):
            pages.arrays[name].append(chunk)
    for chunk in _chunks(part, "samples"):
        moved = chunk.copy()
        moved["tokens_from"] += before["tokens"]
        moved["shown_from"] += before["shown"]
        pages.arrays["samples"].append(moved)
    for chunk in _chunks(part, "shown"):
        moved = chunk.copy()
        moved["picture"] = numbers + chunk["picture"] if isinstance(numbers, int) else numbers[chunk["picture"]]
        pages.arrays["shown"].append(moved)
    start = 0
    for chunk in _chunks(part, "images"):
        moved = chunk.copy()
        moved["shard"] = shard[chunk["shard"]]
        mine = slice(start, start + len(chunk))
        # Numbers rise with first appearance, so a picture is new exactly where its number is not behind us.
        fresh = moved if isinstance(numbers, int) else moved[numbers[mine] >= before["images"]]
        pages.arrays["images"].append(fresh)
        start += len(chunk)


def _chunks(part: Part, name: str) -> Iterator[np.ndarray]:
    whole = np.load(part.folder / f"{name}.npy", mmap_mode="r").view(np.ndarray)
    for start in range(0, len(whole), CHUNK):
        yield whole[start : start + CHUNK]


def _numbered(parts: Sequence[Part], shards: Sequence[Int64[np.ndarray, " _"]]) -> Iterator[Numbers | int]:
    """For every part its pictures' numbers in the whole: by first appearance, one a place.

    Only an int, the first number, where no two parts show pictures of the same file: then none can be shared.
    """
    seen = Counter(name for part in parts for name in part.places)
    sizes = [part.counts["images"] for part in parts]
    ends = np.cumsum([0, *sizes])
    if max(seen.values(), default=1) == 1:
        _refuse_many(int(ends[-1]))
        yield from (int(start) for start in ends[:-1])
        return
    shard, offset = np.empty(ends[-1], dtype=np.int64), np.empty(ends[-1], dtype=np.int64)
    for part, own, start, stop in zip(parts, shards, ends, ends[1:], strict=False):
        images = np.load(part.folder / "images.npy", mmap_mode="r")
        shard[start:stop], offset[start:stop] = own[images["shard"]], images["offset"]
    numbers = _by_place(shard, offset)
    _refuse_many(int(numbers.max(initial=-1)) + 1)
    for start, stop in pairwise(ends):
        yield numbers[start:stop]


def _by_place(shard: Numbers, offset: Numbers) -> Numbers:
    """A number for every picture, by first appearance, equal where shard and offset are."""
    order = np.lexsort((offset, shard))  # stable: among equals the first appearance comes first
    shard, offset = shard[order], offset[order]
    new = np.ones(len(order), dtype=np.bool_)
    new[1:] = (shard[1:] != shard[:-1]) | (offset[1:] != offset[:-1])
    first = np.empty(len(order), dtype=np.int64)
    first[order] = order[new][np.cumsum(new) - 1]
    kept = first == np.arange(len(order))
    return (np.cumsum(kept) - 1)[first]


def _refuse_many(pictures: int) -> None:
    if pictures > MOST_PICTURES:
        raise DataError(f"wanted at most {MOST_PICTURES:,} pictures. Got {pictures:,}. Split the source.")


def quarantine(parts: Sequence[Part], out: Path) -> None:
    """All refused records in the order of their shards."""
    new = out / "quarantine.jsonl.new"
    with new.open("wb") as whole:
        for part in parts:
            whole.write((part.folder / "quarantine.jsonl").read_bytes())
    new.replace(out / "quarantine.jsonl")
