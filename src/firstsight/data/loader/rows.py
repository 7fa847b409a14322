"""Rows of packed tables to the tensors of a batch.

Legend: B rows of T tokens, N pictures in the batch (varies, may be 0) of I tokens of width W, or of S x S pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float16, Int8, Int32, Int64, UInt8
from torch import Tensor

from firstsight.data.loader.feeds import Feed, Pictures
from firstsight.data.pack import Pieces
from firstsight.data.tokenizer import ALWAYS, BEFORE

IGNORED = -100


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """B rows of T tokens; what is not a token (picture slots, padding) holds the pad id."""

    tokens: Int64[Tensor, "B T"]
    targets: Int64[Tensor, "B T"]
    """The next token where it carries loss, IGNORED elsewhere."""
    docs: Int32[Tensor, "B T"]
    """Document within the row from 0, -1 for padding."""
    positions: Int32[Tensor, "B T"]
    """Within the document, from 0."""
    slots: Int64[Tensor, "B T"]
    """Row of `images` flattened to [N*I, W] that belongs here, -1 elsewhere."""
    images: Float16[Tensor, "N I W"] | UInt8[Tensor, "N S S 3"]
    kinds: Int8[Tensor, "B"]
    """0 text, 1 and up the image sources in the order of the mix."""


class Blank:
    """A batch while it is filled: flat arrays, so that every feed writes all its rows with one indexing each."""

    def __init__(self, batch: int, length: int, pad: int) -> None:
        self.shape, places = (batch, length), batch * length
        self.tokens = np.full(places, pad, dtype=np.int64)
        self.targets = np.full(places, IGNORED, dtype=np.int64)
        self.docs = np.full(places, -1, dtype=np.int32)
        self.positions = np.zeros(places, dtype=np.int32)
        self.slots = np.full(places, -1, dtype=np.int64)
        self.kinds = np.zeros(batch, dtype=np.int8)
        self.images: list[np.ndarray] = []

    def put(self, feed: Feed, kind: int, places: Int64[np.ndarray, "n"], rows: Int64[np.ndarray, "n"]) -> None:
        """Write `rows` of a feed's table into the batch's rows `places`."""
        table = feed.table
        first, stop = table.first[rows], table.first[rows + 1]
        pieces, nth = _ranges(first, stop)
        held = table.pieces.taken(pieces)
        start = np.repeat(places, stop - first) * self.shape[1] + table.column[pieces]
        slots = held.shown_count * table.image_tokens
        whole, within = _ranges(start, start + slots + held.count)
        self.kinds[places] = kind
        self.docs[whole] = np.repeat(nth, slots + held.count)
        self.positions[whole] = within
        self._words(feed, held, start, slots)
        self._pictures(feed, held, start)

    def _words(self, feed: Feed, held: Pieces, start: np.ndarray, slots: np.ndarray) -> None:
        """Tokens, and one place to their left the targets; a piece that goes on also aims at the token behind it."""
        source, within = _ranges(held.start, held.start + held.count + held.goes_on)
        aim = np.repeat(start + slots, held.count + held.goes_on) + within
        token, loss = feed.index.tokens[source], feed.index.loss[source]
        inside = within < np.repeat(held.count, held.count + held.goes_on)
        self.tokens[aim[inside]] = token[inside]
        carries = (loss == ALWAYS) | ((loss == BEFORE) & (not feed.answers_only))
        carries &= (within > 0) | np.repeat(slots > 0, held.count + held.goes_on)
        self.targets[aim[carries] - 1] = token[carries]

    def _pictures(self, feed: Feed, held: Pieces, start: np.ndarray) -> None:
        if feed.pictures is None:
            return
        tokens, pictured = feed.table.image_tokens, np.flatnonzero(held.shown_count)
        numbers = feed.index.shown["picture"][held.shown_from[pictured]]
        before = sum(len(array) for array in self.images)
        aim, _ = _ranges(start[pictured], start[pictured] + tokens)
        self.slots[aim] = before * tokens + np.arange(len(aim))
        self.images.append(feed.pictures.take(numbers.astype(np.int64)))

    def finished(self, pictures: Pictures | None) -> Batch:
        if pictures is None:
            images = np.zeros((0, 0, 0), dtype=np.float16)
        elif self.images:
            images = np.concatenate(self.images)
        else:
            images = pictures.take(np.zeros(0, dtype=np.int64))
        flat = (self.tokens, self.targets, self.docs, self.positions, self.slots)
        tokens, targets, docs, positions, slots = (torch.from_numpy(array.reshape(self.shape)) for array in flat)
        return Batch(
            tokens=tokens,
            targets=targets,
            docs=docs,
            positions=positions,
            slots=slots,
            images=torch.from_numpy(images),
            kinds=torch.from_numpy(self.kinds),
        )


def _ranges(start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of all ranges [start, stop) in a row, and each one's place inside its range."""
    count = stop - start
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return np.repeat(start, count) + within, within
