"""`pack`: an index to its rows, a chunk of samples at a time, kept in a cache where one is given.

Legend: P pieces of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from firstsight.data.index import Index
from firstsight.data.packing import cache as kept
from firstsight.data.packing.bins import assign_rows
from firstsight.data.packing.cache import PackedChunk, PackingConfig, PackingTotals
from firstsight.data.packing.loss_counts import count_loss_targets
from firstsight.data.packing.packed_rows import PackedRows, Segments
from firstsight.data.packing.segments import SampleChunk, split_into_segments
from firstsight.data.packing.validate import validate_samples
from firstsight.errors import QuantityError
from firstsight.recipe.mixture import PackingMode

SAMPLES_PER_CHUNK = 1 << 20
"""Samples that are packed at a time; rows never mix records of two chunks."""


def pack(
    index: Index, *, length: int, image_tokens: int, packing: PackingMode, cache: Path | None = None
) -> PackedRows:
    """Rows of `length` for every record of an index, the same on every run; what has no picture is always fitted.

    Texts and interleaved documents longer than a row go on in the next, captions are cut, dialogues end after their
    last whole turn that fits. With a `cache` the table is made once and memory-mapped from there.
    Raises QuantityError when a picture leaves no room for a word, DataError when the index contradicts itself.
    """
    if image_tokens >= length and len(index.images):
        raise QuantityError(f"a row of {length} tokens has no room for a picture of {image_tokens}. Lengthen the rows.")
    config = PackingConfig(length, image_tokens, packing)
    chunks = _pack_chunks(index, config)
    return (
        kept.collect_packed_rows(index, config, chunks)
        if cache is None
        else kept.open_packed_rows(cache, index, config, chunks=chunks)
    )


def _pack_chunks(index: Index, config: PackingConfig) -> Iterator[PackedChunk]:
    """The rows of chunk after chunk."""
    for start in range(0, len(index.samples), SAMPLES_PER_CHUNK):
        stop = min(start + SAMPLES_PER_CHUNK, len(index.samples))
        validate_samples(index, start, stop)
        yield _pack_chunk(
            SampleChunk.from_index(index, (start, stop), config[:2], packing=config.packing), config.packing
        )


def _pack_chunk(chunk: SampleChunk, packing: PackingMode) -> PackedChunk:
    """Everything that follows from which pieces a chunk has; rows are numbered from 0."""
    segments, dropped = split_into_segments(chunk)
    target_starts = segments.start + ~chunk.starts_with_image(segments)
    loss_counts = count_loss_targets(
        chunk.index.loss, target_starts, segments.start + segments.count + segments.has_next_token
    )
    sizes = segments.count + segments.image_count * chunk.image_tokens
    row_ids, row_count = assign_rows(sizes.astype(np.int32), segments.image_count > 0, chunk.length, packing=packing)
    filled, loss_always, loss_before_finetuning = (
        np.bincount(row_ids, weights=values, minlength=row_count).astype(np.int32) for values in (sizes, *loss_counts)
    )
    order = np.argsort(row_ids, kind="stable")
    segment_ends, sizes = np.searchsorted(row_ids[order], np.arange(1, row_count + 1)), sizes[order]
    segment_starts = np.cumsum(sizes, dtype=np.int64) - sizes
    columns = segment_starts - np.repeat(np.cumsum(filled, dtype=np.int64) - filled, np.diff(segment_ends, prepend=0))
    ordered_segments = segments.select(order)
    arrays = {name: getattr(ordered_segments, name) for name in Segments.__dataclass_fields__}
    arrays |= {
        "ends": segment_ends,
        "column": columns.astype(np.int32),
        "filled": filled,
        "loss_always": loss_always,
        "loss_before_finetuning": loss_before_finetuning,
    }
    totals = PackingTotals(
        documents=len(chunk.samples),
        rows=row_count,
        filled=int(filled.sum(dtype=np.int64)),
        images=int(segments.image_count.sum(dtype=np.int64)),
        loss_targets=int(loss_counts[0].sum() + loss_counts[1].sum()),
        **{f"{name}": value for name, value in dropped._asdict().items()},
    )
    return PackedChunk(arrays, totals)
