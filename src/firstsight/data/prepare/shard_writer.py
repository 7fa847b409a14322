"""One shard to one part: its records checked by the reader, tokenized, and written as a small index of its own.

A part appears under its name in one move, with everything in it; what a killed process left is begun again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from firstsight.data import readers, tokenizer
from firstsight.data.array_writer import IndexWriter
from firstsight.data.index import IMAGE_DTYPE, IMAGE_REF_DTYPE, SAMPLE_DTYPE
from firstsight.data.prepare.job import PrepareJob
from firstsight.data.records import (
    Dialogue,
    Document,
    ImageLocation,
    ImageText,
    InterleavedDocument,
    Record,
    RejectedRecord,
    TokenizedChunk,
)
from firstsight.files import write_atomic

BATCH_RECORDS = 4096
"""Records that are tokenized together at most,"""
BATCH_CHARACTERS = 1 << 21
"""or as many as have so many letters: long documents must not fill the memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardPart:
    """A finished part: where it lies, and what its note says."""

    folder: Path
    key: str
    shard: readers.Shard
    digest: str
    """sha256 of every byte that was read for the shard."""
    counts: Mapping[str, int]
    refusals: Mapping[str, tuple[int, RejectedRecord]]
    """How many for each reason, and the first of them."""
    caption_counts: Mapping[str, int]
    image_shards: tuple[str, ...]
    """What the part's pictures lie in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardProgress:
    """How far a shard is."""

    records: int
    tokens: int
    bytes: int


def part_name(shard: readers.Shard) -> str:
    """The folder of a shard's part: the same whichever shards stand beside it."""
    identity = json.dumps([shard.name, shard.start, shard.stop])
    return hashlib.sha256(identity.encode()).hexdigest()[:20]


def load_finished_part(job: PrepareJob, shard: readers.Shard) -> ShardPart | None:
    """The part of a shard, if it is there and was made of this very shard by an equal task."""
    metadata_path = job.parts_path / part_name(shard) / "part.json"
    if not metadata_path.is_file():
        return None
    metadata = json.loads(metadata_path.read_text())
    part = ShardPart(
        folder=metadata_path.parent,
        key=metadata["key"],
        shard=readers.Shard(**metadata["shard"]),
        digest=metadata["digest"],
        counts=metadata["counts"],
        refusals={reason: (count, RejectedRecord(**first)) for reason, (count, first) in metadata["refused"].items()},
        caption_counts=metadata["captions"],
        image_shards=tuple(metadata["places"]),
    )
    return part if part.key == job.key and part.shard == shard else None


class ShardWriter:
    """Makes parts of shards; a process has one, so that the tokenizer is loaded once."""

    def __init__(self, job: PrepareJob) -> None:
        self._job = job
        self._tokenizer = tokenizer.load_tokenizer(job.tokenizer_path)
        self._reader = readers.RecordReader(job.location, job.form, source=job.source)

    def write(self, shard: readers.Shard) -> Iterator[ShardProgress]:
        """Write the part of `shard`; gives after every batch how far it is. OSError where the disk is full."""
        part_path = self._job.parts_path / part_name(shard)
        temporary_path = part_path.with_suffix(".new")
        shutil.rmtree(temporary_path, ignore_errors=True)
        temporary_path.mkdir(parents=True)
        try:
            yield from self._write_part(shard, temporary_path)
        except OSError:
            shutil.rmtree(temporary_path, ignore_errors=True)  # half a part is worth less than its room
            raise
        shutil.rmtree(part_path, ignore_errors=True)
        temporary_path.rename(part_path)

    def _write_part(self, shard: readers.Shard, folder: Path) -> Iterator[ShardProgress]:
        shard_records = self._reader.read(shard)
        with PartWriter(folder, self._tokenizer, self._job) as part_writer:
            for batch in batch_records(shard_records):
                part_writer.write_batch(batch)
                yield ShardProgress(records=part_writer.records, tokens=part_writer.count("tokens"), bytes=0)
        metadata = {
            "key": self._job.key,
            "shard": asdict(shard),
            "digest": shard_records.digest,
            "counts": part_writer.counts(),
            "refused": {
                reason: (count, asdict(part_writer.first_bad[reason]))
                for reason, count in part_writer.bad_counts.items()
            },
            "captions": dict(part_writer.caption_counts),
            "places": list(part_writer.image_shards),
        }
        write_atomic(folder / "part.json", json.dumps(metadata, ensure_ascii=False, sort_keys=True), sync=True)
        yield ShardProgress(
            records=part_writer.records, tokens=part_writer.count("tokens"), bytes=shard.stop - shard.start
        )


def batch_records(shard_records: readers.ShardRecords) -> Iterator[list[Record | RejectedRecord]]:
    """The records of a reading in lists that are worth a call of the tokenizer and fit into memory."""
    batch: list[Record | RejectedRecord] = []
    character_count = 0
    for record in shard_records:
        batch.append(record)
        character_count += _count_characters(record)
        if len(batch) == BATCH_RECORDS or character_count >= BATCH_CHARACTERS:
            yield batch
            batch, character_count = [], 0
    if batch:
        yield batch


def _count_characters(record: Record | RejectedRecord) -> int:
    match record:
        case Document():
            return len(record.text)
        case TokenizedChunk():
            return len(record.tokens)
        case ImageText():
            return len(record.caption)
        case InterleavedDocument():
            return sum(len(part) for part in record.parts if isinstance(part, str))
        case Dialogue():
            return sum(map(len, record.turns))
        case RejectedRecord():
            return 0


def image_locations(record: Record) -> tuple[ImageLocation, ...]:
    """Where the pictures of a record lie, in reading order."""
    match record:
        case ImageText():
            return (record.image,)
        case Dialogue():
            return () if record.image is None else (record.image,)
        case InterleavedDocument():
            return tuple(part for part in record.parts if isinstance(part, ImageLocation))
        case Document() | TokenizedChunk():
            return ()


class PartWriter:
    """The arrays of one part while its records come in."""

    def __init__(self, folder: Path, text_tokenizer: tokenizer.Tokenizer, job: PrepareJob) -> None:
        self.bad_counts, self.caption_counts = Counter[str](), Counter[str]()
        self.first_bad: dict[str, RejectedRecord] = {}
        self.image_shards: dict[str, int] = {}
        self._tokenizer, self._loss_token_count = text_tokenizer, 0
        self._has_unique_images = job.form == "captions"
        """Every picture is shown by one record only, so that no place need be remembered."""
        self._image_numbers: dict[ImageLocation, int] = {}
        self._index_writer = IndexWriter(folder, job.vocab_size)
        self._arrays = self._index_writer.arrays
        self._quarantine = (folder / "quarantine.jsonl").open("w", encoding="utf-8")

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, *exception_info: object) -> None:
        with self._quarantine, self._index_writer:
            pass

    @property
    def records(self) -> int:
        """Good and bad ones."""
        return self.count("samples") + self.bad_counts.total()

    def count(self, name: str) -> int:
        """Entries of an array so far."""
        return self._arrays[name].count

    def counts(self) -> dict[str, int]:
        """Entries of every array, tokens with loss, and refused records."""
        array_counts = {name: self.count(name) for name in ("samples", "shown", "tokens", "images")}
        return {**array_counts, "loss tokens": self._loss_token_count, "bad": self.bad_counts.total()}

    def write_batch(self, batch: Sequence[Record | RejectedRecord]) -> None:
        """Write a batch behind what is there; refused records to the quarantine."""
        for bad_record in (record for record in batch if isinstance(record, RejectedRecord)):
            self.bad_counts[bad_record.reason] += 1
            self.first_bad.setdefault(bad_record.reason, bad_record)
            self._quarantine.write(json.dumps(asdict(bad_record), sort_keys=True) + "\n")
        valid_records = [record for record in batch if not isinstance(record, RejectedRecord)]
        image_texts = (record for record in valid_records if isinstance(record, ImageText))
        self.caption_counts.update("synthetic" if record.synthetic else "real" for record in image_texts)
        if token_layouts := tokenizer.tokenize_records(self._tokenizer, valid_records):
            self._write_samples(
                token_layouts, [image_locations(valid_records[layout.record_number]) for layout in token_layouts]
            )

    def _write_samples(
        self, token_layouts: Sequence[tokenizer.TokenLayout], sample_images: Sequence[tuple[ImageLocation, ...]]
    ) -> None:
        samples = np.zeros(len(token_layouts), dtype=SAMPLE_DTYPE)
        samples["tokens_count"] = [len(layout.ids) for layout in token_layouts]
        samples["shown_count"] = [len(locations) for locations in sample_images]
        for name in ("tokens", "shown"):
            counts = samples[f"{name}_count"].astype(np.int64)
            samples[f"{name}_from"] = self.count(name) + np.cumsum(counts) - counts
        image_entries = np.zeros(int(samples["shown_count"].sum()), dtype=IMAGE_REF_DTYPE)
        image_entries["picture"] = self._number_images(
            [location for locations in sample_images for location in locations]
        )
        image_entries["at"] = [token_position for layout in token_layouts for token_position in layout.image_positions]
        loss = np.concatenate([layout.loss for layout in token_layouts])
        self._loss_token_count += int(np.count_nonzero(loss))
        self._arrays["samples"].append(samples)
        self._arrays["shown"].append(image_entries)
        self._arrays["tokens"].append(np.concatenate([layout.ids for layout in token_layouts]))
        self._arrays["loss"].append(loss)

    def _number_images(self, locations: Sequence[ImageLocation]) -> list[int]:
        """The pictures' numbers: by first appearance, once for all records that share one."""
        first_number = self.count("images")
        if self._has_unique_images:
            new_locations, numbers = list(locations), list(range(first_number, first_number + len(locations)))
        else:
            new_locations = [location for location in dict.fromkeys(locations) if location not in self._image_numbers]
            self._image_numbers |= {location: first_number + offset for offset, location in enumerate(new_locations)}
            numbers = [self._image_numbers[location] for location in locations]
        rows = [
            (new_location.offset, new_location.size, new_location.hash, self._image_shard_number(new_location.shard))
            for new_location in new_locations
        ]
        self._arrays["images"].append(np.array(rows, dtype=IMAGE_DTYPE))
        return numbers

    def _image_shard_number(self, name: str) -> int:
        return self.image_shards.setdefault(name, len(self.image_shards))
