"""What packing leaves: rows of pieces, and what they cost.

Legend: P pieces (a document, or a stretch of a long one), R rows, edges one more than rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8

from firstsight.data.packing.loss_counts import count_loss_targets
from firstsight.errors import QuantityError


@dataclass(frozen=True, kw_only=True, slots=True)
class Segments:
    """Stretches of an index's tokens that stay in one row, with the pictures that stand in them."""

    sample: Int32[np.ndarray, "P"]
    start: Int64[np.ndarray, "P"]
    """Into the index's tokens."""
    count: Int32[np.ndarray, "P"]
    """Tokens, slots not among them."""
    image_start: Int64[np.ndarray, "P"]
    """Into the index's `shown`."""
    image_count: Int32[np.ndarray, "P"]
    """Pictures in this piece."""
    has_next_token: Bool[np.ndarray, "P"]
    """A token follows behind this piece, and its last position aims at it."""

    def select(self, indices: Int64[np.ndarray, "Q"]) -> Segments:
        return Segments(
            sample=self.sample[indices],
            start=self.start[indices],
            count=self.count[indices],
            image_start=self.image_start[indices],
            image_count=self.image_count[indices],
            has_next_token=self.has_next_token[indices],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PackingStats:
    """What packing cost."""

    documents: int
    rows: int
    padding: float
    """Share of all row positions."""
    dropped_tokens: int
    """Tokens in no row: behind the cut of a caption or dialogue that is longer than a row."""
    truncated: int
    skipped: int
    """Captions and dialogues of which no whole turn, or no word, fits a row."""
    split: int
    """Documents that stand in several rows."""
    images_per_row: float
    loss_share: float
    """Targets with loss in every stage or before fine-tuning, as a share of all row positions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedRows:
    """All rows of a packed index: row r holds pieces first[r] to first[r + 1], each from its column on."""

    length: int
    image_tokens: int
    segment_offsets: Int64[np.ndarray, "edges"]
    segments: Segments
    column: Int32[np.ndarray, "P"]
    filled: Int32[np.ndarray, "R"]
    """Positions of each row that are not padding."""
    loss_always: Int32[np.ndarray, "R"]
    """Targets of each row that carry loss in every stage."""
    loss_before_finetuning: Int32[np.ndarray, "R"]
    """Targets of each row that carry loss only before fine-tuning."""
    stats: PackingStats
    loss: UInt8[np.ndarray, "tokens"]
    """The index's, to count the targets of rows that are cut."""

    @property
    def row_count(self) -> int:
        return len(self.filled)

    def split_rows(self, parts: int) -> PackedRows:
        """Rows of length / parts: row r becomes rows r * parts and on, with the same tokens and the same targets.

        Raises QuantityError for rows with pictures and where the parts would not be equal.
        """
        if parts < 1 or self.length % parts or self.segments.image_count.any():
            description = "rows with pictures" if self.segments.image_count.any() else f"{parts} parts of {self.length}"
            raise QuantityError(
                f"only rows without pictures are cut, into equal parts. Got {description}. Pack them anew."
            )
        return self if parts == 1 else _split_rows(self, parts)


def _split_rows(packed_rows: PackedRows, parts: int) -> PackedRows:
    length, segments = packed_rows.length // parts, packed_rows.segments
    ends = packed_rows.column + segments.count
    part_counts = np.maximum(1, (ends - 1) // length - packed_rows.column // length + 1)
    segment_ids = np.repeat(np.arange(len(part_counts)), part_counts)
    part_numbers = np.arange(len(segment_ids)) - np.repeat(np.cumsum(part_counts) - part_counts, part_counts)
    part_starts = (packed_rows.column[segment_ids] // length + part_numbers) * length
    begin, end = (
        np.maximum(part_starts, packed_rows.column[segment_ids]),
        np.minimum(part_starts + length, ends[segment_ids]),
    )
    offsets = begin - packed_rows.column[segment_ids]
    split_segments = Segments(
        sample=segments.sample[segment_ids],
        start=segments.start[segment_ids] + offsets,
        count=(end - begin).astype(np.int32),
        image_start=segments.image_start[segment_ids],
        image_count=segments.image_count[segment_ids],
        has_next_token=segments.has_next_token[segment_ids] | (end < ends[segment_ids]),
    )
    row_ids = (
        np.repeat(np.arange(packed_rows.row_count), np.diff(packed_rows.segment_offsets))[segment_ids] * parts
        + begin // length
    )
    return assemble_rows(
        split_segments,
        row_ids,
        packed_rows,
        shape=(length, packed_rows.row_count * parts),
        column=begin - begin // length * length,
    )


def assemble_rows(
    segments: Segments,
    row_ids: Int64[np.ndarray, "P"],
    original: PackedRows,
    *,
    shape: tuple[int, int],
    column: np.ndarray,
) -> PackedRows:
    """The table of cut pieces that are in the order of their rows; `shape` is (length, rows)."""
    length, row_count = shape
    loss_always, loss_before_finetuning = count_loss_targets(
        original.loss, segments.start + 1, segments.start + segments.count + segments.has_next_token
    )
    counts_by_row = (
        np.bincount(row_ids, weights=values, minlength=row_count).astype(np.int32)
        for values in (segments.count, loss_always, loss_before_finetuning)
    )
    filled, loss_always, loss_before_finetuning = counts_by_row
    return PackedRows(
        length=length,
        image_tokens=original.image_tokens,
        segment_offsets=np.searchsorted(row_ids, np.arange(row_count + 1)),
        segments=segments,
        column=column.astype(np.int32),
        filled=filled,
        loss_always=loss_always,
        loss_before_finetuning=loss_before_finetuning,
        stats=PackingStats(
            documents=original.stats.documents,
            rows=row_count,
            padding=original.stats.padding,
            dropped_tokens=original.stats.dropped_tokens,
            truncated=original.stats.truncated,
            skipped=original.stats.skipped,
            split=len(_split_samples(segments.sample)),
            images_per_row=0.0,
            loss_share=float(loss_always.sum() + loss_before_finetuning.sum()) / max(1, row_count * length),
        ),
        loss=original.loss,
    )


def _split_samples(sample: Int32[np.ndarray, "P"]) -> np.ndarray:
    """Which samples are there more than once."""
    sample_ids, counts = np.unique(sample, return_counts=True)
    return sample_ids[counts > 1]
