"""Documents to rows of fixed length: who sits in which row at which column, as plain arrays; and prompts.

Legend: P pieces (a document, or a stretch of a long one), R rows, edges one more than rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int32, Int64

from firstsight.data.index import Index
from firstsight.data.tokenizer import ALWAYS, BEFORE, Tokenizer, lay, prompt_parts
from firstsight.errors import DataError, QuantityError
from firstsight.recipe.mix import Packing

WINDOW = 8192
"""Pieces that are sorted and fitted together; rows never mix records from further apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pieces:
    """Stretches of an index's tokens that stay in one row, each headed by its picture's slots if it has one."""

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
    """The document goes on behind this piece: its last token still has a target."""

    def taken(self, order: Int64[np.ndarray, "P"]) -> Pieces:
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
    """Dialogues whose first turn alone is longer than a row."""
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

    @property
    def rows(self) -> int:
        return len(self.filled)


def pack(index: Index, *, length: int, image_tokens: int, packing: Packing) -> RowTable:
    """Rows of `length` for every record of an index, the same on every run; what has no picture is always fitted.

    Texts longer than a row go on in the next, captions are cut, dialogues end after their last whole turn that fits.
    Raises QuantityError when a picture leaves no room for a word.
    """
    if image_tokens >= length and len(index.images):
        raise QuantityError(f"a row of {length} tokens has no room for a picture of {image_tokens}. Lengthen the rows.")
    pieces, lost = _split(index, length) if index.form == "text" else _cut(index, length, image_tokens)
    size = pieces.count + pieces.shown_count * image_tokens
    row, rows = _rows(size, pieces.shown_count > 0, length, packing)
    order = np.argsort(row, kind="stable")
    first = np.searchsorted(row[order], np.arange(rows + 1))
    return _table(index, pieces.taken(order), first, size[order], shape=(length, image_tokens), lost=lost)


def _split(index: Index, length: int) -> tuple[Pieces, tuple[int, int, int]]:
    """Stretches of at most `length` tokens; a last token that is only a target gets no piece of its own."""
    start, count = index.samples["tokens_from"], index.samples["tokens_count"].astype(np.int64)
    parts = np.maximum(1, -(-(count - 1) // length))
    sample = np.repeat(np.arange(len(count)), parts)
    nth = np.arange(len(sample)) - np.repeat(np.cumsum(parts) - parts, parts)
    held = np.minimum(length, count[sample] - nth * length)
    pieces = Pieces(
        sample=sample.astype(np.int32),
        start=start[sample] + nth * length,
        count=held.astype(np.int32),
        shown_from=np.zeros(len(sample), dtype=np.int64),
        shown_count=np.zeros(len(sample), dtype=np.int32),
        goes_on=nth * length + held < count[sample],
    )
    return pieces, (0, 0, 0)


def _cut(index: Index, length: int, image_tokens: int) -> tuple[Pieces, tuple[int, int, int]]:
    """One piece a record, shortened to fit, and (tokens lost, records cut, records skipped)."""
    samples = index.samples
    count = samples["tokens_count"].astype(np.int64)
    room = length - samples["shown_count"].astype(np.int64) * image_tokens
    held = np.minimum(count, room)
    if index.form == "dialogues":
        for number in np.flatnonzero(count > room):
            held[number] = _whole_turns(index, int(samples["tokens_from"][number]), int(room[number]))
    kept = np.flatnonzero(held > 0)
    pieces = Pieces(
        sample=kept.astype(np.int32),
        start=samples["tokens_from"][kept],
        count=held[kept].astype(np.int32),
        shown_from=samples["shown_from"][kept],
        shown_count=samples["shown_count"][kept],
        goes_on=(held < count)[kept] & (index.form == "captions"),
    )
    skipped = len(count) - len(kept)
    return pieces, (int((count - held).sum()), int((held < count).sum()) - skipped, skipped)


def _whole_turns(index: Index, start: int, room: int) -> int:
    """How many of the tokens from `start` end with the last answer that `room` holds."""
    ends = np.flatnonzero(index.tokens[start : start + room] == index.special.answer)
    return int(ends[-1]) + 1 if len(ends) else 0


def _rows(size: Int32[np.ndarray, "P"], pictured: Bool[np.ndarray, "P"], length: int, packing: Packing):
    """(row of each piece, number of rows)."""
    if packing == "best_fit":
        return best_fit(size, length)
    row = np.zeros(len(size), dtype=np.int64)
    alone = int(pictured.sum())
    row[pictured] = np.arange(alone)
    fitted, more = best_fit(size[~pictured], length)
    row[~pictured] = alone + fitted
    return row, alone + more


def best_fit(size: Int32[np.ndarray, "P"], length: int) -> tuple[Int64[np.ndarray, "P"], int]:
    """(row of each piece, number of rows): in each window the longest first, into the fullest row with room."""
    row = np.zeros(len(size), dtype=np.int64)
    rows = 0
    for start in range(0, len(size), WINDOW):
        window = size[start : start + WINDOW]
        order = np.argsort(-window, kind="stable")
        found, rows = _fitted(window[order].tolist(), length, rows)
        row[start + order] = found
    return row, rows


def _fitted(sizes: list[int], length: int, rows: int) -> tuple[list[int], int]:
    """Rows for pieces of falling size; open rows wait by their room, and the bits of `free` say which rooms exist."""
    waiting: list[list[int]] = [[] for _ in range(length + 1)]
    found, free = [0] * len(sizes), 0
    for number, size in enumerate(sizes):
        fits = free >> size
        if fits:
            room = size + (fits & -fits).bit_length() - 1
            row = waiting[room].pop()
            if not waiting[room]:
                free ^= 1 << room
        else:
            room, row, rows = length, rows, rows + 1
        found[number] = row
        if left := room - size:
            waiting[left].append(row)
            free |= 1 << left
    return found, rows


def _table(
    index: Index,
    pieces: Pieces,
    first: Int64[np.ndarray, "edges"],
    size: Int32[np.ndarray, "P"],
    *,
    shape: tuple[int, int],
    lost: tuple[int, int, int],
) -> RowTable:
    """Everything that follows from which pieces, in this order, are in which row; `shape` is (length, image tokens)."""
    ends = np.concatenate([[0], np.cumsum(size, dtype=np.int64)])
    filled = np.diff(ends[first])
    column = ends[:-1] - np.repeat(ends[first[:-1]], np.diff(first))
    always, before = (_targets(index, pieces, first, kind) for kind in (ALWAYS, BEFORE))
    room = max(1, len(filled) * shape[0])
    numbers = Numbers(
        documents=len(index.samples),
        rows=len(filled),
        padding=1 - float(filled.sum()) / room,
        tokens_lost=lost[0],
        cut=lost[1],
        skipped=lost[2],
        images_per_row=float(pieces.shown_count.sum()) / max(1, len(filled)),
        loss_share=float(always.sum() + before.sum()) / room,
    )
    return RowTable(
        length=shape[0],
        image_tokens=shape[1],
        first=first,
        pieces=pieces,
        column=column.astype(np.int32),
        filled=filled.astype(np.int32),
        always=always,
        before=before,
        numbers=numbers,
    )


def _targets(index: Index, pieces: Pieces, first: Int64[np.ndarray, "edges"], kind: int) -> Int32[np.ndarray, "R"]:
    """Targets of one loss kind: a piece's tokens but a first one that nothing precedes, and the next if it goes on."""
    so_far = np.concatenate([[0], np.cumsum(index.loss == kind, dtype=np.int64)])
    begin = pieces.start + (pieces.shown_count == 0)
    stop = pieces.start + pieces.count + pieces.goes_on
    sums = np.concatenate([[0], np.cumsum(so_far[stop] - so_far[begin])])
    return np.diff(sums[first]).astype(np.int32)


def prompt(tokenizer: Tokenizer, human: str, *, image_tokens: int) -> list[int]:
    """Tokens up to where the answer begins, as in training rows: slots (pad ids) first, or the start token."""
    [(ids, _)] = lay(tokenizer, [(prompt_parts(human), image_tokens > 0)])
    return [tokenizer.special.pad] * image_tokens + ids.tolist()


def context(tokenizer: Tokenizer, text: str) -> list[int]:
    """Tokens of a text document that has begun and is to be continued."""
    if not text.strip():
        raise DataError("a context needs words. Got nothing but white space.")
    [ids] = tokenizer.encode([text])
    return [tokenizer.special.end, *ids]
