"""What packing leaves: rows of pieces, and what they cost.

Legend: P pieces (a document, or a stretch of a long one), R rows, edges one more than rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8

from firstsight.data.pack.targets import targets
from firstsight.errors import QuantityError


@dataclass(frozen=True, kw_only=True, slots=True)
class Pieces:
    """Stretches of an index's tokens that stay in one row, with the pictures that stand in them."""

    sample: Int32[np.ndarray, "P"]
    start: Int64[np.ndarray, "P"]
    """Into the index's tokens."""
    count: Int32[np.ndarray, "P"]
    """Tokens, slots not among them."""
    shown_from: Int64[np.ndarray, "P"]
    """Into the index's `shown`."""
    shown_count: Int32[np.ndarray, "P"]
    """Pictures in this piece."""
    goes_on: Bool[np.ndarray, "P"]
    """A token follows behind this piece, and its last position aims at it."""

    def taken(self, order: Int64[np.ndarray, "Q"]) -> Pieces:
        return Pieces(
            sample=self.sample[order],
            start=self.start[order],
            count=self.count[order],
            shown_from=self.shown_from[order],
            shown_count=self.shown_count[order],
            goes_on=self.goes_on[order],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Numbers:
    """What packing cost."""

    documents: int
    rows: int
    padding: float
    """Share of all row positions."""
    tokens_lost: int
    """Tokens in no row: behind the cut of a caption or dialogue that is longer than a row."""
    cut: int
    skipped: int
    """Captions and dialogues of which no whole turn, or no word, fits a row."""
    split: int
    """Documents that stand in several rows."""
    images_per_row: float
    loss_share: float
    """Targets with loss in every stage or before fine-tuning, as a share of all row positions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowTable:
    """All rows of a packed index: row r holds pieces first[r] to first[r + 1], each from its column on."""

    length: int
    image_tokens: int
    first: Int64[np.ndarray, "edges"]
    pieces: Pieces
    column: Int32[np.ndarray, "P"]
    filled: Int32[np.ndarray, "R"]
    """Positions of each row that are not padding."""
    always: Int32[np.ndarray, "R"]
    """Targets of each row that carry loss in every stage."""
    before: Int32[np.ndarray, "R"]
    """Targets of each row that carry loss only before fine-tuning."""
    numbers: Numbers
    loss: UInt8[np.ndarray, "tokens"]
    """The index's, to count the targets of rows that are cut."""

    @property
    def rows(self) -> int:
        return len(self.filled)

    def cut(self, parts: int) -> RowTable:
        """Rows of length / parts: row r becomes rows r * parts and on, with the same tokens and the same targets.

        Raises QuantityError for rows with pictures and where the parts would not be equal.
        """
        if parts < 1 or self.length % parts or self.pieces.shown_count.any():
            told = "rows with pictures" if self.pieces.shown_count.any() else f"{parts} parts of {self.length}"
            raise QuantityError(f"only rows without pictures are cut, into equal parts. Got {told}. Pack them anew.")
        return self if parts == 1 else _cut(self, parts)


def _cut(table: RowTable, parts: int) -> RowTable:
    length, held = table.length // parts, table.pieces
    ends = table.column + held.count
    halves = np.maximum(1, (ends - 1) // length - table.column // length + 1)
    piece = np.repeat(np.arange(len(halves)), halves)
    nth = np.arange(len(piece)) - np.repeat(np.cumsum(halves) - halves, halves)
    border = (table.column[piece] // length + nth) * length
    begin, end = np.maximum(border, table.column[piece]), np.minimum(border + length, ends[piece])
    inside = begin - table.column[piece]
    pieces = Pieces(
        sample=held.sample[piece],
        start=held.start[piece] + inside,
        count=(end - begin).astype(np.int32),
        shown_from=held.shown_from[piece],
        shown_count=held.shown_count[piece],
        goes_on=held.goes_on[piece] | (end < ends[piece]),
    )
    row = np.repeat(np.arange(table.rows), np.diff(table.first))[piece] * parts + begin // length
    return assembled(pieces, row, table, shape=(length, table.rows * parts), column=begin - begin // length * length)


def assembled(
    pieces: Pieces, row: Int64[np.ndarray, "P"], old: RowTable, *, shape: tuple[int, int], column: np.ndarray
) -> RowTable:
    """The table of cut pieces that are in the order of their rows; `shape` is (length, rows)."""
    length, rows = shape
    always, before = targets(old.loss, pieces.start + 1, pieces.start + pieces.count + pieces.goes_on)
    by_row = (
        np.bincount(row, weights=each, minlength=rows).astype(np.int32) for each in (pieces.count, always, before)
    )
    filled, always, before = by_row
    return RowTable(
        length=length,
        image_tokens=old.image_tokens,
        first=np.searchsorted(row, np.arange(rows + 1)),
        pieces=pieces,
        column=column.astype(np.int32),
        filled=filled,
        always=always,
        before=before,
        numbers=Numbers(
            documents=old.numbers.documents,
            rows=rows,
            padding=old.numbers.padding,
            tokens_lost=old.numbers.tokens_lost,
            cut=old.numbers.cut,
            skipped=old.numbers.skipped,
            split=len(_several(pieces.sample)),
            images_per_row=0.0,
            loss_share=float(always.sum() + before.sum()) / max(1, rows * length),
        ),
        loss=old.loss,
    )


def _several(sample: Int32[np.ndarray, "P"]) -> np.ndarray:
    """Which samples are there more than once."""
    found, times = np.unique(sample, return_counts=True)
    return found[times > 1]
