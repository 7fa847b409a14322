"""Rows of segments with the number of loss targets in each row, and rows split into shorter ones.

Shapes: P segments in row order, R rows, edges = R + 1.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np
from jaxtyping import Int32, Int64, UInt8

from firstsight.data.index import ragged_ranges
from firstsight.data.packing.segments import Segments
from firstsight.data.tokenizer import LOSS_ALWAYS, LOSS_BEFORE_FINETUNING
from firstsight.errors import QuantityError

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
    sums = (np.bincount(row_ids, weights=each, minlength=stats.rows).astype(np.int32) for each in (sizes, *loss_counts))
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
