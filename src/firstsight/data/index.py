"""`Index`: what `prepare` left of a source, memory-mapped; the pictures stay where they are.

samples.npy        tokens_from, tokens_count, shown_from, shown_count, one a record
shown.npy          picture, at: which pictures a record shows, each before which of the record's tokens
tokens.npy         all tokens in a row; loss.npy beside it (0 never, 1 always, 2 only before fine-tuning)
images.npy         offset, size, hash, shard of every picture's encoded bytes in the source; shards.json names them
read.json          what was read: files, their sizes, stamps and digests; about this machine, so outside the digest
manifest.json      counts, form, tokenizer, special ids, digest of the source, digest of all of the above
quarantine.jsonl   what was refused: reason, shard, where, detail
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8

from firstsight.data import readers, tokenizer
from firstsight.errors import DataError
from firstsight.recipe import serialize
from firstsight.recipe.mixture import DataSource, ExternalForm
from firstsight.site import Location

SAMPLE_DTYPE = np.dtype(
    [("tokens_from", "<i8"), ("tokens_count", "<i4"), ("shown_count", "<i4"), ("shown_from", "<i8")]
)
IMAGE_REF_DTYPE = np.dtype([("picture", "<i4"), ("at", "<i4")])
IMAGE_DTYPE = np.dtype([("offset", "<i8"), ("size", "<i8"), ("hash", "<u8"), ("shard", "<i4")])
INDEX_ARRAYS = ("samples", "shown", "tokens", "loss", "images")
INDEX_FORMAT = 3
"""Raised when an older firstsight could not read what this one writes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardInfo:
    """A shard as it was when it was read."""

    name: str
    split: str
    size: int
    stamp: str
    start: int
    stop: int
    sha256: str
    """Of every byte that was read for it: the shard, captions that were joined, loose pictures."""
    records: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """A prepared source, memory-mapped: opening one is instant, holding one costs nothing."""

    path: Path
    form: ExternalForm
    samples: np.ndarray
    image_refs: np.ndarray
    tokens: Integer[np.ndarray, "tokens"]
    loss: UInt8[np.ndarray, "tokens"]
    images: np.ndarray
    image_shards: tuple[str, ...]
    """What the pictures lie in: `images["shard"]` counts these; see `records.Place.shard`."""
    source_shards: tuple[ShardInfo, ...]
    """What was read, in order."""
    source: DataSource
    special_ids: tokenizer.SpecialTokenIds
    tokenizer_digest: str
    source_digest: str
    """The identity of the data, whatever the tokenizer."""
    digest: str

    @classmethod
    def open(cls, path: Path) -> Index:
        """The index in a folder; raises DataError when the folder is none or its arrays contradict its manifest."""
        manifest = read_manifest(path)
        arrays = {name: _load_array(path / f"{name}.npy", manifest["counts"]) for name in INDEX_ARRAYS}
        _check_array_ends(path, arrays)
        source_metadata = json.loads((path / "read.json").read_text())
        return cls(
            path=path,
            form=manifest["form"],
            image_shards=tuple(json.loads((path / "shards.json").read_text())),
            source_shards=tuple(ShardInfo(**shard) for shard in source_metadata["shards"]),
            source=serialize.from_json(source_metadata["source"]),
            special_ids=tokenizer.SpecialTokenIds(**manifest["special"]),
            tokenizer_digest=manifest["tokenizer"],
            source_digest=manifest["source"],
            digest=manifest["digest"],
            image_refs=arrays.pop("shown"),
            **arrays,
        )


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a prepared source; DataError where there is none, or one of another format."""
    file = path / "manifest.json"
    if not file.is_file():
        raise DataError(f"{path}: wanted the folder of a prepared source. Got no manifest.json. Prepare it first.")
    manifest = json.loads(file.read_text())
    if manifest["format"] != INDEX_FORMAT:
        raise DataError(f"{file}: wanted format {INDEX_FORMAT}. Got {manifest['format']}. Prepare the source again.")
    return manifest


def _load_array(file: Path, counts: Mapping[str, int]) -> np.ndarray:
    try:
        array = np.load(file, mmap_mode="r").view(np.ndarray)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: wanted an array of a prepared source. Got {error}. Prepare it again.") from None
    expected = counts["tokens" if file.stem == "loss" else file.stem]
    if len(array) != expected:
        raise DataError(f"{file}: wanted {expected} entries, says its manifest. Got {len(array)}. Prepare it again.")
    return array


def _check_array_ends(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """The last record must end where tokens and shown pictures do."""
    for name in ("tokens", "shown"):
        samples, expected = arrays["samples"], len(arrays[name])
        end = int(samples[-1][f"{name}_from"]) + int(samples[-1][f"{name}_count"]) if len(samples) else 0
        if end != expected:
            raise DataError(f"{path}: wanted the last record to end at {expected} {name}. Got {end}. Prepare it again.")


def check_source_unchanged(index: Index, location: Location) -> None:
    """Raise DataError when a shard of the source is gone, or holds other bytes than when it was prepared.

    Equal stamps are believed; where one moved (a copy, a touch) or there is none, the shard is read and its digest
    compared.
    """
    current_shards = {
        (shard.name, shard.start, shard.stop): shard for shard in readers.list_shards(location, index.form)
    }
    names = {name for name, _, _ in current_shards}
    advice = f"Put the old one back, or prepare the source again (then {index.path} is another index)."
    for recorded in index.source_shards:
        label = f"{location.path}: shard {recorded.name}"
        current = current_shards.get((recorded.name, recorded.start, recorded.stop))
        if recorded.name not in names:
            raise DataError(f"{label}: wanted the file that was prepared. Got none of that name. {advice}")
        if current is None or current.size != recorded.size:
            raise DataError(
                f"{label}: wanted the {recorded.size:,} bytes that were prepared. Got other items. {advice}"
            )
        is_modified = current.stamp != recorded.stamp or not current.stamp
        if is_modified and (digest := _shard_digest(index, location, current)) != recorded.sha256:
            raise DataError(f"{label}: wanted bytes of digest {recorded.sha256[:12]}. Got {digest[:12]}. {advice}")


def _shard_digest(index: Index, location: Location, shard: readers.Shard) -> str:
    record_stream = readers.RecordReader(location, index.form, source=index.source).read(shard)
    for _ in record_stream:
        pass
    return record_stream.digest
