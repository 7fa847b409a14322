"""`pack`: an index to its rows, a chunk of samples at a time, in memory or memory-mapped from a cache.

Rows of segments have the number of loss targets in each row, and can be split into shorter rows.
Shapes: P segments in row order, R rows, edges = R + 1.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Int64, UInt8

from firstsight.data.index import ArrayFile, Index, open_array_file, ragged_ranges
from firstsight.data.packing.bins import assign_rows
from firstsight.data.packing.segments import SEGMENT_ARRAYS, PackingConfig, SampleChunk, Segments, split_into_segments
from firstsight.data.tokenizer import LOSS_ALWAYS, LOSS_BEFORE_FINETUNING
from firstsight.errors import DataError, QuantityError
from firstsight.files import FileDigests, file_lock, file_sha256, staged_folder, write_atomic
from firstsight.recipe.mixture import PackingMode
from firstsight.resume_folder import seal_json, unseal_json

TOKENS_PER_BLOCK = 1 << 22
"""Tokens whose loss flags are read at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackingStats:
    """What was packed and what packing costs."""

    length: int
    documents: int = 0
    rows: int = 0
    filled: int = 0
    """Positions that are not padding."""
    images: int = 0
    loss_targets: int = 0
    """In every stage or before fine-tuning."""
    dropped_tokens: int = 0
    """Tokens in no row, cut from captions and dialogues that are longer than a row."""
    truncated: int = 0
    """Captions and dialogues of which the end was dropped."""
    skipped: int = 0
    """Captions without a token, and dialogues without a turn, that fits a row."""
    split: int = 0
    """Documents that continue in another row."""

    @property
    def padding(self) -> float:
        """Share of all row positions."""
        return 1 - self.filled / max(1, self.rows * self.length)

    def __add__(self, stats: PackingStats) -> PackingStats:
        sums = {name: value + getattr(stats, name) for name, value in asdict(self).items()}
        return PackingStats(**sums | {"length": self.length})


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedRows:
    """All rows of a packed index: row r consists of segments segment_offsets[r] to segment_offsets[r + 1]."""

    image_tokens: int
    segment_offsets: Int64[np.ndarray, "edges"]
    segments: Segments
    column: Int32[np.ndarray, "P"]
    """The first position of each segment in its row."""
    filled: Int32[np.ndarray, "R"]
    loss_always: Int32[np.ndarray, "R"]
    """Targets of each row in the loss of every stage."""
    loss_before_finetuning: Int32[np.ndarray, "R"]
    """Targets of each row in the loss only before fine-tuning."""
    stats: PackingStats
    loss: UInt8[np.ndarray, "tokens"]
    """The index's loss flags, to count the targets of split rows."""

    @property
    def length(self) -> int:
        return self.stats.length

    @property
    def row_count(self) -> int:
        return len(self.filled)

    def split_rows(self, parts: int) -> PackedRows:
        """Rows of length / parts: row r becomes the `parts` rows from r * parts, with the same tokens and targets.

        Raises QuantityError for rows with images and if the parts are not equal.
        """
        if parts < 1 or self.length % parts or self.segments.image_count.any():
            got = "rows with images" if self.segments.image_count.any() else f"{parts} parts of {self.length}"
            raise QuantityError(f"only rows without images are split, into equal parts. Got {got}. Pack them again.")
        return self if parts == 1 else _split_rows(self, self.length // parts)


def assemble_rows(
    segments: Segments,
    row_ids: Int64[np.ndarray, "P"],
    *,
    first_targets: Int64[np.ndarray, "P"],
    loss: UInt8[np.ndarray, "tokens"],
    image_tokens: int,
    stats: PackingStats,
) -> PackedRows:
    """Rows of `segments`, segment by segment in their order, where `row_ids` is the row of each.

    `first_targets` is the first token of each segment that is a target; `stats.rows` the number of rows. The sums that
    follow from the rows are added to `stats`.
    """
    sizes = segments.count + segments.image_count * image_tokens
    loss_counts = _count_loss_targets(loss, first_targets, segments.start + segments.count + segments.has_next_token)
    sums = (
        np.bincount(row_ids, weights=counts, minlength=stats.rows).astype(np.int32) for counts in (sizes, *loss_counts)
    )
    filled, loss_always, loss_before_finetuning = sums
    order = np.argsort(row_ids, kind="stable")
    offsets = np.searchsorted(row_ids[order], np.arange(stats.rows + 1))
    sizes = sizes[order]
    columns = np.cumsum(sizes, dtype=np.int64) - sizes
    columns -= np.repeat(np.cumsum(filled, dtype=np.int64) - filled, np.diff(offsets))
    return PackedRows(
        image_tokens=image_tokens,
        segment_offsets=offsets,
        segments=segments.select(order),
        column=columns.astype(np.int32),
        filled=filled,
        loss_always=loss_always,
        loss_before_finetuning=loss_before_finetuning,
        stats=replace(
            stats,
            filled=int(filled.sum(dtype=np.int64)),
            images=int(segments.image_count.sum(dtype=np.int64)),
            loss_targets=int(loss_counts[0].sum() + loss_counts[1].sum()),
        ),
        loss=loss,
    )


def _count_loss_targets(
    loss: UInt8[np.ndarray, "tokens"], starts: Int64[np.ndarray, "P"], stops: Int64[np.ndarray, "P"]
) -> tuple[Int64[np.ndarray, "P"], Int64[np.ndarray, "P"]]:
    """How many tokens of each range [start, stop) are in the loss of every stage, and how many only before fine-tuning.

    The loss flags are memory-mapped and read block by block.
    """
    always, before_finetuning = np.zeros(len(starts), dtype=np.int64), np.zeros(len(starts), dtype=np.int64)
    order, first = np.argsort(starts, kind="stable"), 0
    sorted_starts, sorted_stops = starts[order], stops[order]
    while first < len(order):
        block_start = int(sorted_starts[first])
        last = max(first + 1, int(np.searchsorted(sorted_starts, block_start + TOKENS_PER_BLOCK)))
        ids = order[first:last]
        block = loss[block_start : int(sorted_stops[first:last].max(initial=block_start))]
        for flag, counts in ((LOSS_ALWAYS, always), (LOSS_BEFORE_FINETUNING, before_finetuning)):
            cumulative = np.zeros(len(block) + 1, dtype=np.int64)
            np.cumsum(block == flag, out=cumulative[1:])
            counts[ids] = cumulative[stops[ids] - block_start] - cumulative[starts[ids] - block_start]
        first = last
    return always, before_finetuning


def _split_rows(rows: PackedRows, length: int) -> PackedRows:
    segments, begins = rows.segments, rows.column
    ends, parts_per_row = begins + segments.count, rows.length // length
    first_parts = begins // length
    parts, ids, _ = ragged_ranges(first_parts, np.maximum(1, (ends - 1) // length - first_parts + 1))
    starts, stops = np.maximum(parts * length, begins[ids]), np.minimum((parts + 1) * length, ends[ids])
    row_ids = np.repeat(np.arange(rows.row_count), np.diff(rows.segment_offsets))[ids] * parts_per_row + parts
    split = replace(
        segments.select(ids),
        start=segments.start[ids] + starts - begins[ids],
        count=(stops - starts).astype(np.int32),
        has_next_token=segments.has_next_token[ids] | (stops < ends[ids]),
    )
    counts = np.unique(split.sample, return_counts=True)[1]
    stats = replace(rows.stats, length=length, rows=rows.row_count * parts_per_row, split=int((counts > 1).sum()))
    return assemble_rows(
        split, row_ids, first_targets=split.start + 1, loss=rows.loss, image_tokens=rows.image_tokens, stats=stats
    )


SAMPLES_PER_CHUNK = 1 << 20
"""Samples that are packed at a time; no row contains records of two chunks."""
PACKED_FORMAT = 3
"""Increased manually if equal indexes get other rows or other files."""
PACKED_DTYPES: Mapping[str, str] = {
    "sample": "<i4", "start": "<i8", "count": "<i4", "image_start": "<i8", "image_count": "<i4",
    "has_next_token": "|b1",
    "column": "<i4", "segment_offsets": "<i8", "filled": "<i4", "loss_always": "<i4", "loss_before_finetuning": "<i4",
}  # fmt: skip


def pack(
    index: Index, *, length: int, image_tokens: int, packing: PackingMode, cache: Path | None = None
) -> PackedRows:
    """Rows of `length` tokens with every record of an index, the same on every run.

    Records without an image always share rows. Texts and interleaved documents that are longer than a row continue in
    the next one, captions are truncated, dialogues end after their last complete turn that fits. With a `cache` the
    rows are computed once and memory-mapped from there. Raises QuantityError if an image leaves no room for a token,
    DataError if the index contradicts itself.
    """
    if image_tokens >= length and len(index.images):
        raise QuantityError(f"a row of {length} tokens has no room for an image of {image_tokens}. Lengthen the rows.")
    config = PackingConfig(length, image_tokens, packing)
    chunks = _pack_chunks(index, config)
    if cache is not None:
        return _pack_cached(index, config, chunks, cache)
    columns = {name: [np.zeros(0, dtype=dtype)] for name, dtype in PACKED_DTYPES.items()}
    stats = _append_chunks(columns, chunks, length)
    return _rows(index, config, {name: np.concatenate(arrays) for name, arrays in columns.items()}, stats)


def _pack_chunks(index: Index, config: PackingConfig) -> Iterator[PackedRows]:
    for start in range(0, len(index.samples), SAMPLES_PER_CHUNK):
        stop = min(start + SAMPLES_PER_CHUNK, len(index.samples))
        _validate_samples(index, start, stop)
        chunk = SampleChunk(index, start, stop, config=config)
        segments, dropped = split_into_segments(chunk)
        sizes = (segments.count + segments.image_count * config.image_tokens).astype(np.int32)
        row_ids, row_count = assign_rows(sizes, segments.image_count > 0, config.length, packing=config.packing)
        yield assemble_rows(
            segments,
            row_ids,
            first_targets=segments.start + ~chunk.starts_with_image(segments),
            loss=index.loss,
            image_tokens=config.image_tokens,
            stats=PackingStats(length=config.length, documents=stop - start, rows=row_count, **dropped),
        )


def _append_chunks(
    columns: Mapping[str, list[np.ndarray]] | Mapping[str, ArrayFile], chunks: Iterable[PackedRows], length: int
) -> PackingStats:
    """Append the arrays of all chunks to `columns`, by name, with offsets counted through all chunks."""
    stats, segment_count = PackingStats(length=length), 0
    columns["segment_offsets"].append(np.zeros(1, dtype=np.int64))
    for chunk in chunks:
        for name in PACKED_DTYPES:
            array = getattr(chunk.segments if name in SEGMENT_ARRAYS else chunk, name)
            columns[name].append(array[1:] + segment_count if name == "segment_offsets" else array)
        stats, segment_count = stats + chunk.stats, segment_count + len(chunk.column)
    return stats


def _rows(index: Index, config: PackingConfig, arrays: dict[str, np.ndarray], stats: PackingStats) -> PackedRows:
    segments = Segments(**{name: arrays.pop(name) for name in SEGMENT_ARRAYS})
    return PackedRows(image_tokens=config.image_tokens, segments=segments, stats=stats, loss=index.loss, **arrays)


def _pack_cached(index: Index, config: PackingConfig, chunks: Iterable[PackedRows], cache: Path) -> PackedRows:
    """Rows mapped from the cache; `chunks` are computed only if they are not there, or damaged."""
    folder = cache / hashlib.sha256(json.dumps([index.digest, *config, PACKED_FORMAT]).encode()).hexdigest()[:32]
    with suppress(DataError):
        return _map_files(folder, index, config)
    with file_lock(cache / f"{folder.name}.lock", is_blocking=True):
        with suppress(DataError):  # another process was faster
            return _map_files(folder, index, config)
        with staged_folder(folder) as packed:
            _write_files(packed, chunks, config.length)
    return _map_files(folder, index, config)


def _write_files(folder: Path, chunks: Iterable[PackedRows], length: int) -> None:
    paths = {name: folder / f"{name}.npy" for name in PACKED_DTYPES}
    with ExitStack() as stack:
        writers = {name: open_array_file(path, np.dtype(PACKED_DTYPES[name])) for name, path in paths.items()}
        files = {name: stack.enter_context(writer) for name, writer in writers.items()}
        stats = _append_chunks(files, chunks, length)
    digests = {name: file_sha256(path) for name, path in paths.items()}
    write_atomic(folder / "table.json", seal_json({"stats": asdict(stats), "digests": digests}))


def _map_files(folder: Path, index: Index, config: PackingConfig) -> PackedRows:
    """The rows in a folder; raises DataError if a file is missing or not the one that table.json describes."""
    try:
        metadata = unseal_json((folder / "table.json").read_text())
        stats, arrays = PackingStats(**metadata["stats"]), dict[str, np.ndarray]()
        digests = FileDigests(folder)
        for name in PACKED_DTYPES:
            path = folder / f"{name}.npy"
            if digests.digest(path) != metadata["digests"][name]:
                raise DataError(f"{path}: wanted the array that was written. Got a changed one. Pack again.")
            has_entries = path.stat().st_size > 128  # an empty file cannot be mapped
            array = np.load(path, mmap_mode="r" if has_entries else None)
            arrays[name] = array.view(np.ndarray)
        with suppress(OSError):  # a cache that someone else wrote is verified at every opening
            digests.save()
    except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: wanted packed rows. Got {error!r}. Pack again.") from error
    return _rows(index, config, arrays, stats)


def _validate_samples(index: Index, start: int, stop: int) -> None:
    """Raise DataError if samples [start, stop) of an index overlap, leave gaps or point outside its arrays."""
    samples = index.samples[start:stop]
    counts = samples["tokens_count"].astype(np.int64)
    ends = samples["tokens_from"] + counts
    previous = index.samples[start - 1 : start]
    previous_end = previous["tokens_from"] + previous["tokens_count"] if start else [0]
    is_invalid = samples["tokens_from"] != np.concatenate([previous_end, ends[:-1]])
    is_invalid |= (counts < 1) | (ends > len(index.tokens))
    _raise_if_any(index, "samples", is_invalid, start, "tokens that start where those of the sample before end")
    last_end = int(ends[-1:].sum())
    if stop == len(index.samples) and not last_end == len(index.tokens) == len(index.loss):
        got = f"{last_end} in samples.npy, {len(index.tokens)} in tokens.npy, {len(index.loss)} in loss.npy"
        raise DataError(f"{index.path}: wanted equal numbers of tokens. Got {got}. Prepare it again.")
    _validate_images(index, samples, start)


def _validate_images(index: Index, samples: np.ndarray, start: int) -> None:
    ids = np.flatnonzero(samples["shown_count"])
    starts, counts = samples["shown_from"][ids], samples["shown_count"][ids].astype(np.int64)
    ends = starts + counts
    is_invalid = np.zeros(len(samples), dtype=bool)
    is_invalid[ids] = (counts < 0) | (starts < 0) | (ends > len(index.image_refs))
    is_invalid[ids] |= starts != np.append(starts[:1], ends[:-1])
    _raise_if_any(index, "samples", is_invalid, start, "images that start where those of the sample before end")
    if not len(ids):
        return
    refs, owners = index.image_refs[starts[0] : ends[-1]], np.repeat(ids, counts)
    is_invalid = np.append(False, (owners[1:] == owners[:-1]) & (np.diff(refs["at"]) < 0))
    is_invalid |= (refs["at"] < 0) | (refs["at"] >= np.repeat(samples["tokens_count"][ids], counts))
    is_invalid |= (refs["picture"] < 0) | (refs["picture"] >= len(index.images))
    expected = "numbers of images.npy before tokens of their sample, in order"
    _raise_if_any(index, "shown", is_invalid, int(starts[0]), expected)


def _raise_if_any(index: Index, name: str, is_invalid: np.ndarray, start: int, expected: str) -> None:
    if is_invalid.any():
        entry = start + int(np.argmax(is_invalid))
        value = (index.samples if name == "samples" else index.image_refs)[entry]
        raise DataError(
            f"{index.path / name}.npy: wanted {expected}. Got entry {entry:,}: {value}. "
            "Its files are not of one index, or damaged: prepare it again."
        )
