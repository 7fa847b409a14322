"""Prepares one shard: its records are checked by the reader, tokenized, and written as a small index, its part.

A part is written under another name and then renamed; what a killed process left unfinished is written again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from firstsight.data import readers, tokenizer
from firstsight.data.index import IMAGE_DTYPE, IMAGE_REF_DTYPE, SAMPLE_DTYPE, open_index_arrays, stored_array_digest
from firstsight.data.readers.source_reader import ShardRecords
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
from firstsight.errors import DataError
from firstsight.files import file_sha256, fsync_path, write_atomic
from firstsight.limits import Limits
from firstsight.recipe.mixture import DataSource, ExternalForm
from firstsight.resume_folder import check_regular, remove_path, seal_json, unseal_json
from firstsight.site import Location

BATCH_RECORDS, BATCH_CHARACTERS = 4096, 1 << 21
"""Records are tokenized together once there are this many, or once they have this many characters."""


QUARANTINE = "quarantine.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareJob:
    """All that a process needs to prepare any shard of a source."""

    source: DataSource
    location: Location
    form: ExternalForm
    tokenizer_path: Path
    parts_path: Path
    """The folder of finished shards until all are finished."""
    tokenizer_digest: str
    special_tokens: tokenizer.SpecialTokenIds
    vocab_size: int
    limits: Limits
    key: str
    """Equal for two jobs whose parts can be merged: digest of source, location, tokenizer and format."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardPart:
    """A finished part: its folder and the content of its part.json."""

    folder: Path
    shard: readers.Shard
    digest: str
    """sha256 of every byte that was read for the shard."""
    counts: Mapping[str, int]
    rejections: Mapping[str, tuple[int, RejectedRecord]]
    """For each reason the number of rejected records and the first of them."""
    caption_counts: Mapping[str, int]
    notices: Mapping[str, tuple[int, str]]
    """What of the shard was not read, by reason: a count and the first place."""
    image_shards: tuple[str, ...]

    @property
    def record_count(self) -> int:
        """Accepted and rejected ones."""
        return self.counts["samples"] + self.counts["bad"]


class ShardProgress(NamedTuple):
    """What has been written of a shard; `bytes` is 0 until its end."""

    records: int
    tokens: int
    bytes: int


def _part_folder(job: PrepareJob, shard: readers.Shard) -> Path:
    return job.parts_path / hashlib.sha256(json.dumps([shard.name, shard.start, shard.stop]).encode()).hexdigest()[:20]


def load_finished_part(job: PrepareJob, shard: readers.Shard, *, is_new: bool) -> ShardPart | None:
    """The part of a shard, if it exists and was made of the same shard by an equal job.

    DataError if a byte of it has changed since it was written; of a part that `is_new` only part.json is checked.
    """
    folder = _part_folder(job, shard)
    path = folder / "part.json"
    if not (path.exists() or folder.is_symlink()):
        return None
    try:
        check_regular(path)
        metadata = unseal_json(path.read_text())
        if metadata["key"] != job.key or readers.Shard(**metadata["shard"]) != shard:
            return None
        if not is_new:
            _check_part_files(folder, metadata["sha256"])
        return ShardPart(
            folder=folder,
            shard=shard,
            digest=metadata["digest"],
            counts=metadata["counts"],
            rejections={
                reason: (count, RejectedRecord(**first)) for reason, (count, first) in metadata["refused"].items()
            },
            caption_counts=metadata["captions"],
            notices=metadata["notices"],
            image_shards=tuple(metadata["places"]),
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, DataError) as error:
        raise DataError(f"{folder}: the part of {shard.name} is damaged: {error}") from error


def _check_part_files(folder: Path, digests: Mapping[str, str]) -> None:
    if folder.is_symlink():
        raise DataError("it is a link.")
    for name, sha256 in digests.items():
        check_regular(folder / name)
        is_array = name.endswith(".npy")
        actual = stored_array_digest(folder / name) if is_array else file_sha256(folder / name)
        if actual != sha256:
            raise DataError(f"{name} does not have the content that was written.")


class ShardWriter:
    """Writes the parts of shards; one in each process, so that the tokenizer is loaded once."""

    def __init__(self, job: PrepareJob) -> None:
        self._job = job
        self._tokenizer = tokenizer.load_tokenizer(job.tokenizer_path)
        self._reader = readers.RecordReader(job.location, job.form, source=job.source)

    def write(self, shard: readers.Shard) -> Iterator[ShardProgress]:
        """Write the part of `shard` and yield its progress after every batch. OSError when the disk is full."""
        path = _part_folder(self._job, shard)
        temporary = path.with_suffix(".new")
        remove_path(temporary)
        temporary.mkdir(parents=True)
        try:
            yield from self._write_part(shard, temporary)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)  # frees the disk: an unfinished part is of no use
            raise
        remove_path(path)
        temporary.rename(path)

    def _write_part(self, shard: readers.Shard, folder: Path) -> Iterator[ShardProgress]:
        records = self._reader.read(shard)
        with closing(PartWriter(folder, self._tokenizer, self._job)) as part:
            for batch in batch_records(records):
                part.write_batch(batch)
                yield part.progress()
        metadata = {
            "key": self._job.key,
            "shard": asdict(shard),
            "digest": records.digest,
            "counts": part.counts(),
            "refused": {reason: (count, asdict(first)) for reason, (count, first) in part.rejections.items()},
            "captions": dict(part.caption_counts),
            "notices": records.notices.entries,
            "places": list(part.image_shards),
            "sha256": part.file_digests(),
        }
        write_atomic(folder / "part.json", seal_json(metadata), sync=True)
        yield part.progress()._replace(bytes=shard.byte_count)


def batch_records(records: ShardRecords) -> Iterator[list[Record | RejectedRecord]]:
    """The records of a shard in lists that are worth a call of the tokenizer and fit into memory."""
    batch: list[Record | RejectedRecord] = []
    characters = 0
    for record in records:
        batch.append(record)
        characters += _count_characters(record)
        if len(batch) == BATCH_RECORDS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _count_characters(record: Record | RejectedRecord) -> int:
    match record:
        case Document(text=text) | ImageText(caption=text):
            return len(text)
        case TokenizedChunk():
            return len(record.tokens)
        case InterleavedDocument():
            return sum(len(part) for part in record.parts if isinstance(part, str))
        case Dialogue():
            return sum(map(len, record.turns))
        case RejectedRecord():
            return 0


def image_locations(record: Record) -> tuple[ImageLocation, ...]:
    """The locations of a record's images, in reading order."""
    match record:
        case InterleavedDocument():
            return tuple(part for part in record.parts if isinstance(part, ImageLocation))
        case ImageText(image=ImageLocation() as image) | Dialogue(image=ImageLocation() as image):
            return (image,)
        case _:
            return ()


class PartWriter:
    """Writes the arrays and quarantine.jsonl of one part, batch by batch."""

    def __init__(self, folder: Path, text_tokenizer: tokenizer.Tokenizer, job: PrepareJob) -> None:
        self.caption_counts, self.image_shards = Counter[str](), dict[str, int]()
        self.rejections: dict[str, tuple[int, RejectedRecord]] = {}
        self._folder, self._tokenizer, self._loss_tokens = folder, text_tokenizer, 0
        self._has_unique_images = job.form == "captions"
        """Each image belongs to one record only, so that locations need not be remembered."""
        self._image_numbers: dict[ImageLocation, int] = {}
        self._files = ExitStack()
        self._arrays = self._files.enter_context(open_index_arrays(folder, job.vocab_size))
        self._quarantine = self._files.enter_context((folder / QUARANTINE).open("w", encoding="utf-8"))

    def close(self) -> None:
        """Wait until all files are on the disk."""
        self._files.close()
        fsync_path(self._folder / QUARANTINE)

    def file_digests(self) -> dict[str, str]:
        """The digest of each file, once they are closed."""
        digests = {f"{name}.npy": array.digest for name, array in self._arrays.items()}
        return digests | {QUARANTINE: file_sha256(self._folder / QUARANTINE)}

    def counts(self) -> dict[str, int]:
        """Entries of every array, tokens with loss, and rejected records."""
        counts = {name: self._arrays[name].count for name in ("samples", "shown", "tokens", "images")}
        return {**counts, "loss tokens": self._loss_tokens, "bad": sum(count for count, _ in self.rejections.values())}

    def progress(self) -> ShardProgress:
        counts = self.counts()
        return ShardProgress(records=counts["samples"] + counts["bad"], tokens=counts["tokens"], bytes=0)

    def write_batch(self, batch: Sequence[Record | RejectedRecord]) -> None:
        """Append a batch; rejected records go to quarantine.jsonl."""
        records: list[Record] = []
        for record in batch:
            if isinstance(record, RejectedRecord):
                count, first = self.rejections.get(record.reason, (0, record))
                self.rejections[record.reason] = count + 1, first
                self._quarantine.write(json.dumps(asdict(record), sort_keys=True) + "\n")
                continue
            records.append(record)
            if isinstance(record, ImageText):
                self.caption_counts["synthetic" if record.synthetic else "real"] += 1
        if layouts := tokenizer.tokenize_records(self._tokenizer, records):
            self._write_samples(layouts, [image_locations(records[layout.record_number]) for layout in layouts])

    def _write_samples(self, layouts: list[tokenizer.TokenLayout], images: list[tuple[ImageLocation, ...]]) -> None:
        samples = np.zeros(len(layouts), dtype=SAMPLE_DTYPE)
        samples["tokens_count"] = [len(layout.ids) for layout in layouts]
        samples["shown_count"] = [len(locations) for locations in images]
        for name in ("tokens", "shown"):
            counts = samples[f"{name}_count"].astype(np.int64)
            samples[f"{name}_from"] = self._arrays[name].count + np.cumsum(counts) - counts
        image_refs = np.zeros(int(samples["shown_count"].sum()), dtype=IMAGE_REF_DTYPE)
        image_refs["picture"] = self._number_images([location for locations in images for location in locations])
        image_refs["at"] = [position for layout in layouts for position in layout.image_positions]
        loss = np.concatenate([layout.loss for layout in layouts])
        self._loss_tokens += int(np.count_nonzero(loss))
        self._arrays["samples"].append(samples)
        self._arrays["shown"].append(image_refs)
        self._arrays["tokens"].append(np.concatenate([layout.ids for layout in layouts]))
        self._arrays["loss"].append(loss)

    def _number_images(self, locations: Sequence[ImageLocation]) -> list[int]:
        first = self._arrays["images"].count
        if self._has_unique_images:
            new, numbers = list(locations), list(range(first, first + len(locations)))
        else:
            new = [location for location in dict.fromkeys(locations) if location not in self._image_numbers]
            self._image_numbers |= {location: first + offset for offset, location in enumerate(new)}
            numbers = [self._image_numbers[location] for location in locations]
        shards = self.image_shards
        rows = [(ref.offset, ref.size, ref.hash, shards.setdefault(ref.shard, len(shards))) for ref in new]
        self._arrays["images"].append(np.array(rows, dtype=IMAGE_DTYPE))
        return numbers
