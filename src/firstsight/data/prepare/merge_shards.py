"""Merges the parts of a source into one index: arrays are concatenated in streaming copies and references renumbered.

Memory: a chunk of one array; if several parts refer to the same image files, also one entry for each image.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from firstsight.data.index import ArrayFile, open_index_arrays
from firstsight.data.prepare.shard_writer import ShardPart
from firstsight.errors import DataError
from firstsight.files import open_atomic, write_atomic

COPY_ENTRIES = 1 << 20
"""Entries that are copied at once."""
MAX_IMAGES = 2**31 - 1
ImageNumbers = Int64[np.ndarray, "images"]


def merge_parts(parts: Sequence[ShardPart], out: Path, *, vocab_size: int) -> tuple[int, list[str]]:
    """Write the arrays of all parts and shards.json into `out`; the number of images and the files' digests."""
    names = list(dict.fromkeys(name for part in parts for name in part.image_shards))
    numbers = {name: number for number, name in enumerate(names)}
    shard_numbers = [np.array([numbers[name] for name in part.image_shards], dtype=np.int64) for part in parts]
    image_numbers = _image_ids(parts, shard_numbers)
    with open_index_arrays(out, vocab_size) as arrays:
        for part, part_shards, part_images in zip(parts, shard_numbers, image_numbers, strict=True):
            _append(arrays, part, part_shards, part_images)
    names_json = json.dumps(names, ensure_ascii=False, indent=0) + "\n"
    write_atomic(out / "shards.json", names_json, sync=True)
    digests = [*(array.digest for array in arrays.values()), hashlib.sha256(names_json.encode()).hexdigest()]
    return arrays["images"].count, digests


def _append(
    arrays: Mapping[str, ArrayFile], part: ShardPart, shards: Int64[np.ndarray, "shards"], images: ImageNumbers | int
) -> None:
    """Append one part; `images`: the numbers of its images in the merged index, or the first of them."""
    counts = {name: arrays[name].count for name in ("tokens", "shown", "images")}
    for name in ("tokens", "loss"):
        for chunk in _load_chunks(part, name):
            arrays[name].append(chunk)
    for chunk in map(np.copy, _load_chunks(part, "samples")):
        chunk["tokens_from"] += counts["tokens"]
        chunk["shown_from"] += counts["shown"]
        arrays["samples"].append(chunk)
    for chunk in map(np.copy, _load_chunks(part, "shown")):
        local = chunk["picture"]
        chunk["picture"] = images + local if isinstance(images, int) else images[local]
        arrays["shown"].append(chunk)
    start = 0
    for chunk in map(np.copy, _load_chunks(part, "images")):
        stop = start + len(chunk)
        chunk["shard"] = shards[chunk["shard"]]
        # Numbers rise with first appearance, so an image is new exactly if its number is not below the count.
        is_new = slice(None) if isinstance(images, int) else images[start:stop] >= counts["images"]
        arrays["images"].append(chunk[is_new])
        start = stop


def _load_chunks(part: ShardPart, name: str) -> Iterator[np.ndarray]:
    array = np.load(part.folder / f"{name}.npy", mmap_mode="r").view(np.ndarray)
    for start in range(0, len(array), COPY_ENTRIES):
        yield array[start : start + COPY_ENTRIES]


def _image_ids(parts: Sequence[ShardPart], shards: Sequence[Int64[np.ndarray, " _"]]) -> Iterator[ImageNumbers | int]:
    """For each part the numbers of its images in the merged index: by first appearance, one for each location.

    Only an int, the first number, if no two parts refer to images in the same file: then none can be shared.
    """
    name_counts = Counter(name for part in parts for name in part.image_shards)
    offsets = np.cumsum([0, *(part.counts["images"] for part in parts)])
    if max(name_counts.values(), default=1) == 1:
        _check_image_count(int(offsets[-1]))
        yield from (int(start) for start in offsets[:-1])
        return
    shard, offset = np.empty(offsets[-1], dtype=np.int64), np.empty(offsets[-1], dtype=np.int64)
    for part, shard_numbers, (start, stop) in zip(parts, shards, pairwise(offsets), strict=True):
        images = np.load(part.folder / "images.npy", mmap_mode="r")
        shard[start:stop], offset[start:stop] = shard_numbers[images["shard"]], images["offset"]
    numbers = _number_by_location(shard, offset)
    _check_image_count(int(numbers.max(initial=-1)) + 1)
    for start, stop in pairwise(offsets):
        yield numbers[start:stop]


def _number_by_location(shard: ImageNumbers, offset: ImageNumbers) -> ImageNumbers:
    """A number for each image, by first appearance, equal if shard and offset are."""
    order = np.lexsort((offset, shard))  # stable: among equals the first appearance comes first
    shard, offset = shard[order], offset[order]
    is_new = np.ones(len(order), dtype=np.bool_)
    is_new[1:] = (shard[1:] != shard[:-1]) | (offset[1:] != offset[:-1])
    first_index = np.empty(len(order), dtype=np.int64)
    first_index[order] = order[is_new][np.cumsum(is_new) - 1]
    return (np.cumsum(first_index == np.arange(len(order))) - 1)[first_index]


def _check_image_count(count: int) -> None:
    if count > MAX_IMAGES:
        raise DataError(f"wanted at most {MAX_IMAGES:,} images. Got {count:,}. Split the source.")


def merge_quarantines(parts: Sequence[ShardPart], out: Path) -> None:
    """Write all rejected records in the order of their shards."""
    with open_atomic(out / "quarantine.jsonl") as stream:
        for part in parts:
            stream.write((part.folder / "quarantine.jsonl").read_bytes())
