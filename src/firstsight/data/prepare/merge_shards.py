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

from firstsight.data.array_writer import IndexWriter
from firstsight.data.prepare.shard_writer import ShardPart
from firstsight.errors import DataError
from firstsight.files import write_atomic

COPY_ENTRIES = 1 << 20
"""Entries that are copied at once."""
MAX_IMAGES = 2**31 - 1
ImageNumbers = Int64[np.ndarray, "pictures"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MergedIndex:
    """What came together."""

    image_count: int
    digests: tuple[str, ...]
    """Of the arrays in their order, and of the names of what the pictures lie in."""


def merge_parts(parts: Sequence[ShardPart], out: Path, *, vocab_size: int) -> MergedIndex:
    """Write the arrays of all parts and shards.json into `out`."""
    shard_names = {name: None for part in parts for name in part.image_shards}
    shard_numbers = {name: number for number, name in enumerate(shard_names)}
    part_shard_numbers = [
        np.array([shard_numbers[name] for name in part.image_shards], dtype=np.int64) for part in parts
    ]
    with IndexWriter(out, vocab_size) as writer:
        for part, local_to_global, image_numbers in zip(
            parts, part_shard_numbers, _number_images(parts, part_shard_numbers), strict=True
        ):
            _append_part(writer, part, shard_numbers=local_to_global, image_numbers=image_numbers)
    names_json = json.dumps(list(shard_names), ensure_ascii=False, indent=0) + "\n"
    write_atomic(out / "shards.json", names_json, sync=True)
    array_digests = [array.digest for array in writer.arrays.values()]
    return MergedIndex(
        image_count=writer.arrays["images"].count,
        digests=(*array_digests, hashlib.sha256(names_json.encode()).hexdigest()),
    )


def _append_part(
    writer: IndexWriter,
    part: ShardPart,
    *,
    shard_numbers: Int64[np.ndarray, "places"],
    image_numbers: ImageNumbers | int,
) -> None:
    """One part behind what is there; `numbers` are its pictures' in the whole, or the first of them."""
    lengths = {name: writer.arrays[name].count for name in ("tokens", "shown", "images")}
    for name in ("tokens", "loss"):
        for chunk in _load_chunks(part, name):
            writer.arrays[name].append(chunk)
    for chunk in _load_chunks(part, "samples"):
        shifted = chunk.copy()
        shifted["tokens_from"] += lengths["tokens"]
        shifted["shown_from"] += lengths["shown"]
        writer.arrays["samples"].append(shifted)
    for chunk in _load_chunks(part, "shown"):
        shifted = chunk.copy()
        shifted["picture"] = (
            image_numbers + chunk["picture"] if isinstance(image_numbers, int) else image_numbers[chunk["picture"]]
        )
        writer.arrays["shown"].append(shifted)
    start = 0
    for chunk in _load_chunks(part, "images"):
        shifted = chunk.copy()
        shifted["shard"] = shard_numbers[chunk["shard"]]
        chunk_slice = slice(start, start + len(chunk))
        # Numbers rise with first appearance, so a picture is new exactly where its number is not behind us.
        new_images = (
            shifted if isinstance(image_numbers, int) else shifted[image_numbers[chunk_slice] >= lengths["images"]]
        )
        writer.arrays["images"].append(new_images)
        start += len(chunk)


def _load_chunks(part: ShardPart, name: str) -> Iterator[np.ndarray]:
    array = np.load(part.folder / f"{name}.npy", mmap_mode="r").view(np.ndarray)
    for start in range(0, len(array), COPY_ENTRIES):
        yield array[start : start + COPY_ENTRIES]


def _number_images(
    parts: Sequence[ShardPart], part_shard_numbers: Sequence[Int64[np.ndarray, " _"]]
) -> Iterator[ImageNumbers | int]:
    """For every part its pictures' numbers in the whole: by first appearance, one a place.

    Only an int, the first number, where no two parts show pictures of the same file: then none can be shared.
    """
    name_counts = Counter(name for part in parts for name in part.image_shards)
    sizes = [part.counts["images"] for part in parts]
    offsets = np.cumsum([0, *sizes])
    if max(name_counts.values(), default=1) == 1:
        _check_image_count(int(offsets[-1]))
        yield from (int(start) for start in offsets[:-1])
        return
    shard, offset = np.empty(offsets[-1], dtype=np.int64), np.empty(offsets[-1], dtype=np.int64)
    for part, shard_numbers, start, stop in zip(parts, part_shard_numbers, offsets, offsets[1:], strict=False):
        images = np.load(part.folder / "images.npy", mmap_mode="r")
        shard[start:stop], offset[start:stop] = shard_numbers[images["shard"]], images["offset"]
    numbers = _number_by_location(shard, offset)
    _check_image_count(int(numbers.max(initial=-1)) + 1)
    for start, stop in pairwise(offsets):
        yield numbers[start:stop]


def _number_by_location(shard: ImageNumbers, offset: ImageNumbers) -> ImageNumbers:
    """A number for every picture, by first appearance, equal where shard and offset are."""
    order = np.lexsort((offset, shard))  # stable: among equals the first appearance comes first
    shard, offset = shard[order], offset[order]
    is_new = np.ones(len(order), dtype=np.bool_)
    is_new[1:] = (shard[1:] != shard[:-1]) | (offset[1:] != offset[:-1])
    first_index = np.empty(len(order), dtype=np.int64)
    first_index[order] = order[is_new][np.cumsum(is_new) - 1]
    is_first = first_index == np.arange(len(order))
    return (np.cumsum(is_first) - 1)[first_index]


def _check_image_count(image_count: int) -> None:
    if image_count > MAX_IMAGES:
        raise DataError(f"wanted at most {MAX_IMAGES:,} pictures. Got {image_count:,}. Split the source.")


def merge_quarantines(parts: Sequence[ShardPart], out: Path) -> None:
    """All refused records in the order of their shards."""
    temporary_path = out / "quarantine.jsonl.new"
    with temporary_path.open("wb") as stream:
        for part in parts:
            stream.write((part.folder / "quarantine.jsonl").read_bytes())
    temporary_path.replace(out / "quarantine.jsonl")
