"""Rows of packed tables to the tensors of a batch.

Legend: B rows of T tokens, n of them from one feed, N pictures in the batch (varies, may be 0) of I tokens of width W,
or of S x S pixels; P pieces, K pictures of a feed in the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float16, Int8, Int32, Int64, UInt8
from torch import Tensor

from firstsight.data.loader.feeds import Feed, Pictures
from firstsight.data.pack import Pieces
from firstsight.data.tokenizer import ALWAYS, NONE

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


class Spread(NamedTuple):
    """Where a feed's rows lie when they stand one behind the other, from place 0 on."""

    pieces: Pieces
    nth: Int64[np.ndarray, "P"]
    """Of its row."""
    begin: Int64[np.ndarray, "P"]
    end: Int64[np.ndarray, "P"]
    filled: Int64[np.ndarray, "n"]
    """Where the padding of each row begins."""
    pictures: Int64[np.ndarray, "K"]
    """Into the index's `shown`."""
    slots: Int64[np.ndarray, "K"]
    """Where each picture's slots begin."""
    behind: Int64[np.ndarray, "K"]
    """The token behind each picture, by its place in the index."""
    holder: Int64[np.ndarray, "K"]
    """Which of the pieces holds each picture."""


class Blank:
    """A batch while it is filled."""

    def __init__(self, batch: int, length: int, pad: int) -> None:
        shape = (batch, length)
        self.pad = pad
        self.tokens = np.full(shape, pad, dtype=np.int64)
        self.targets = np.full(shape, IGNORED, dtype=np.int64)
        self.docs = np.full(shape, -1, dtype=np.int32)
        self.positions = np.zeros(shape, dtype=np.int32)
        self.slots = np.full(shape, -1, dtype=np.int64)
        self.kinds = np.zeros(batch, dtype=np.int8)
        self.images: list[np.ndarray] = []

    def put(self, feed: Feed, kind: int, *, places: Int64[np.ndarray, "n"], rows: Int64[np.ndarray, "n"]) -> None:
        """Write `rows` of a feed's table into the batch's rows `places`."""
        if not len(rows):
            return
        spread = _spread(feed, rows)
        self.kinds[places] = kind
        self._words(feed, spread, places)
        if feed.pictures is not None and len(spread.pictures) and feed.table.image_tokens:
            self._pictures(feed, feed.pictures, spread, places)

    def _words(self, feed: Feed, spread: Spread, places: Int64[np.ndarray, "n"]) -> None:
        """Tokens, and one place to their left the targets; a piece that goes on also aims at the token behind it."""
        shape, image_tokens = (len(places), self.tokens.shape[1]), feed.table.image_tokens
        owner, origin, length = _stretches(spread, image_tokens, shape)
        place = np.arange(shape[0] * shape[1])
        source = place + np.repeat(origin, length)
        docs = np.repeat(np.append(spread.nth, -1)[owner].astype(np.int32), length)
        token = feed.index.tokens.take(source, mode="clip").astype(np.int64)
        loss = feed.index.loss.take(source, mode="clip")
        positions = place.astype(np.int32) - np.repeat(np.append(spread.begin, 0)[owner].astype(np.int32), length)
        slots = (spread.slots[:, None] + np.arange(image_tokens)).ravel()
        padding = np.flatnonzero(docs < 0)
        token[padding], positions[padding], token[slots] = self.pad, 0, self.pad
        wanted = loss == ALWAYS if feed.answers_only else loss != NONE
        wanted[padding] = wanted[slots] = wanted[spread.begin[spread.end > spread.begin]] = False
        targets = np.append(token[1:], IGNORED)
        targets[np.flatnonzero(~wanted[1:])] = IGNORED
        _aim_on(feed, spread, targets)
        for name, part in (("tokens", token), ("targets", targets), ("docs", docs), ("positions", positions)):
            if shape == self.tokens.shape:  # one feed fills the batch, and its rows come in order
                setattr(self, name, part.reshape(shape))
            else:
                getattr(self, name)[places] = part.reshape(shape)

    def _pictures(self, feed: Feed, pictures: Pictures, spread: Spread, places: Int64[np.ndarray, "n"]) -> None:
        length, each = self.tokens.shape[1], feed.table.image_tokens
        before = sum(len(array) for array in self.images) * each
        aim = places[spread.slots // length] * length + spread.slots % length
        stands = before + np.arange(len(aim) * each).reshape(-1, each)
        self.slots.reshape(-1)[aim[:, None] + np.arange(each)] = stands
        self.images.append(pictures.take(feed.index.shown["picture"][spread.pictures].astype(np.int64)))

    def finished(self, pictures: Pictures | None) -> Batch:
        if pictures is None:
            images = np.zeros((0, 0, 0), dtype=np.float16)
        elif self.images:
            images = self.images[0] if len(self.images) == 1 else np.concatenate(self.images)
        else:
            images = pictures.take(np.zeros(0, dtype=np.int64))
        return Batch(
            tokens=torch.from_numpy(self.tokens),
            targets=torch.from_numpy(self.targets),
            docs=torch.from_numpy(self.docs),
            positions=torch.from_numpy(self.positions),
            slots=torch.from_numpy(self.slots),
            images=torch.from_numpy(images),
            kinds=torch.from_numpy(self.kinds),
        )


def _spread(feed: Feed, rows: Int64[np.ndarray, "n"]) -> Spread:
    table = feed.table
    pieces, nth, row = _ranges(table.first[rows], table.first[rows + 1])
    held, head = table.pieces.taken(pieces), np.arange(len(rows)) * table.length
    begin = head[row] + table.column[pieces]
    pictures, of_piece, holder = _ranges(held.shown_from, held.shown_from + held.shown_count)
    first = feed.index.samples["tokens_from"][held.sample[holder]]
    behind = first + feed.index.shown["at"][pictures]
    return Spread(
        pieces=held,
        nth=nth,
        begin=begin,
        end=begin + held.count + held.shown_count * table.image_tokens,
        filled=head + table.filled[rows],
        pictures=pictures,
        slots=begin[holder] + behind - held.start[holder] + of_piece * table.image_tokens,
        behind=behind,
        holder=holder,
    )


def _stretches(
    spread: Spread, image_tokens: int, shape: tuple[int, int]
) -> tuple[Int64[np.ndarray, "s"], Int64[np.ndarray, "s"], Int64[np.ndarray, "s"]]:
    """All places as stretches: whose piece (-1 is padding), which token would stand at place 0, how long.

    A stretch is a row's padding, a piece's tokens before its first picture, or a picture's slots and the tokens behind.
    """
    count = len(spread.begin)
    owner = np.concatenate([np.full(len(spread.filled), -1), np.arange(count), spread.holder])
    start = np.concatenate([spread.filled, spread.begin, spread.slots])
    origin = np.concatenate(
        [np.zeros_like(spread.filled), spread.pieces.start - spread.begin, spread.behind - spread.slots - image_tokens]
    )
    order = np.argsort(start, kind="stable")  # padding ends a row before the next begins, words stand before pictures
    return owner[order], origin[order], np.diff(start[order], append=shape[0] * shape[1])


def _aim_on(feed: Feed, spread: Spread, targets: Int64[np.ndarray, "places"]) -> None:
    """The last position of a piece that goes on aims at the token behind the piece."""
    on = spread.pieces.goes_on
    behind, last = (spread.pieces.start + spread.pieces.count)[on], spread.end[on] - 1
    loss = feed.index.loss[behind]
    wanted = loss == ALWAYS if feed.answers_only else loss != NONE
    targets[last[wanted]] = feed.index.tokens[behind[wanted]]


def _ranges(start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The numbers of all ranges [start, stop) in a row, each one's place inside its range, and which range that is."""
    count = stop - start
    owner = np.repeat(np.arange(len(count)), count)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    return start[owner] + within, within, owner
