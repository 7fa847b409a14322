"""A batch read back as a reader would: documents, tokens with their loss, pictures in their place, padding.

It is read from the tensors that the model gets, so what the page shows is what is trained on, mistakes included.
Legend: T positions of a row.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image

from firstsight.data.loader import IGNORED, Batch
from firstsight.report.preview.spelling import Speller, Spelt

Sort = Literal["loss", "free", "picture", "padding"]
SMALL, LARGEST = 96, 320
"""Sides in pixels: up to SMALL a picture is inlined to the bit; one above LARGEST is drawn smaller."""
BRIEF = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """Where a document of a row comes from."""

    number: int
    place: str
    """Shard and place in it, as far as the index knows them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A token, or a picture on its slots, at its column."""

    sort: Literal["token", "picture", "beyond"]
    """`beyond`: a target that is not the row's next token; it counts as loss here."""
    column: int
    position: int
    loss: bool
    token: int = -1
    spelt: Spelt | None = None
    slots: int = 0
    picture: str = ""
    """A data URI."""
    pixelated: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A stretch of a row that attends to nothing outside of it."""

    number: int
    first: int
    """Column."""
    position: int
    """Of its first token."""
    length: int
    record: Record | None
    begins: bool
    """With the start token or a picture; else it goes on from another row, or its template is wrong."""
    ends: Literal["closed", "goes on", "cut"]
    shown: tuple[Shown, ...]

    @property
    def brief(self) -> bool:
        """So few tokens that several such documents may stand side by side."""
        return sum(shown.sort == "token" for shown in self.shown) <= BRIEF


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of a stage."""

    at: int
    """Of the stage's rows, from 0."""
    kind: int
    documents: tuple[Document, ...]
    padding: int
    tokens: int
    """Padding not among them, slots are."""
    loss: int
    pictures: int
    strip: tuple[tuple[Sort, int, int], ...]
    """(what, column, length) of stretches of one sort, broken at borders."""


@dataclass(frozen=True, slots=True)
class _Line:
    """One row's arrays, and which of its tokens are aimed at from inside the row."""

    tokens: Int[np.ndarray, "T"]
    targets: Int[np.ndarray, "T"]
    docs: Int[np.ndarray, "T"]
    positions: Int[np.ndarray, "T"]
    slots: Int[np.ndarray, "T"]
    aimed: Bool[np.ndarray, "T"]
    beyond: Bool[np.ndarray, "T"]


def read(
    batch: Batch,
    *,
    at: Sequence[int],
    image_tokens: int,
    origin: Callable[[int, int], Record | None],
    speller: Speller,
    closers: Sequence[int],
) -> list[Row]:
    """All rows of a batch, in order.

    `at`: their numbers; `origin(row of the batch, document)`: where it comes from; `closers`: ids that end a document.
    """
    desk = _Desk(batch=batch, image_tokens=image_tokens, origin=origin, speller=speller, closers=frozenset(closers))
    return [_row(desk, nth, number) for nth, number in enumerate(at)]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Desk:
    batch: Batch
    image_tokens: int
    origin: Callable[[int, int], Record | None]
    speller: Speller
    closers: frozenset[int]

    def line(self, nth: int) -> _Line:
        batch = self.batch
        wanted = (batch.tokens, batch.targets, batch.docs, batch.positions, batch.slots)
        tokens, targets, docs, positions, slots = (tensor[nth].numpy() for tensor in wanted)
        carries = targets != IGNORED
        inside = carries[:-1] & (docs[1:] == docs[:-1]) & (targets[:-1] == tokens[1:]) & (slots[1:] < 0)
        aimed, beyond = np.zeros(len(tokens), dtype=bool), carries.copy()
        aimed[1:] = inside
        beyond[:-1] &= ~inside
        return _Line(tokens, targets, docs, positions, slots, aimed, beyond)

    def picture(self, number: int) -> tuple[str, bool]:
        return inlined(self.batch.images[number].numpy())


def _row(desk: _Desk, nth: int, number: int) -> Row:
    line = desk.line(nth)
    stretches = [(a, b) for a, b in _runs(line.docs) if line.docs[a] >= 0]
    documents = tuple(_document(desk, line, nth, a, b) for a, b in stretches)
    padding = int((line.docs < 0).sum())
    return Row(
        at=number,
        kind=int(desk.batch.kinds[nth]),
        documents=documents,
        padding=padding,
        tokens=len(line.docs) - padding,
        loss=int((line.targets != IGNORED).sum()),
        pictures=sum(shown.sort == "picture" for document in documents for shown in document.shown),
        strip=tuple(_strip(line)),
    )


def _document(desk: _Desk, line: _Line, nth: int, start: int, stop: int) -> Document:
    number = int(line.docs[start])
    first, last = int(line.tokens[start]), int(line.tokens[stop - 1])
    closed = last in desk.closers and line.slots[stop - 1] < 0
    on = bool(line.beyond[stop - 1])
    return Document(
        number=number,
        first=start,
        position=int(line.positions[start]),
        length=stop - start,
        record=desk.origin(nth, number),
        begins=bool(line.slots[start] >= 0) or first in desk.closers,
        ends="goes on" if on else "closed" if closed else "cut",
        shown=tuple(_shown(desk, line, start, stop)),
    )


def _shown(desk: _Desk, line: _Line, start: int, stop: int) -> Iterator[Shown]:
    """Tokens and pictures of one document in order, and targets that are nowhere in it."""
    picture = np.where(line.slots[start:stop] < 0, -1, line.slots[start:stop] // max(1, desk.image_tokens))
    for a, b in _runs(picture):
        if picture[a] >= 0:
            yield _picture(desk, line, start + a, start + b)
            yield from _beyond(desk, line, start + a, start + b)
        else:
            yield from _words(desk, line, start + a, start + b)


def _picture(desk: _Desk, line: _Line, start: int, stop: int) -> Shown:
    uri, pixelated = desk.picture(int(line.slots[start]) // desk.image_tokens)
    return Shown(
        sort="picture",
        column=start,
        position=int(line.positions[start]),
        loss=bool(line.aimed[start]),
        slots=stop - start,
        picture=uri,
        pixelated=pixelated,
    )


def _words(desk: _Desk, line: _Line, start: int, stop: int) -> Iterator[Shown]:
    ids = line.tokens[start:stop].tolist()
    for column, (token, spelt) in enumerate(zip(ids, desk.speller.spell(ids), strict=True), start=start):
        loss, position = bool(line.aimed[column]), int(line.positions[column])
        yield Shown(sort="token", column=column, position=position, loss=loss, token=token, spelt=spelt)
        yield from _beyond(desk, line, column, column + 1)


def _beyond(desk: _Desk, line: _Line, start: int, stop: int) -> Iterator[Shown]:
    for column in (np.flatnonzero(line.beyond[start:stop]) + start).tolist():
        token = int(line.targets[column])
        [spelt] = desk.speller.spell([token])
        position = int(line.positions[column]) + 1
        yield Shown(sort="beyond", column=column, position=position, loss=True, token=token, spelt=spelt)


def _strip(line: _Line) -> Iterator[tuple[Sort, int, int]]:
    sorts: tuple[Sort, ...] = ("free", "loss", "picture", "padding")
    number = np.where(line.docs < 0, 3, np.where(line.slots >= 0, 2, line.aimed))
    for start, stop in _runs(line.docs.astype(np.int64) * 4 + number):
        yield sorts[number[start]], start, stop - start


def _runs(values: np.ndarray) -> list[tuple[int, int]]:
    """[from, to) of each stretch of equal values."""
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    return [(a, b) for a, b in pairwise(edges) if b > a]


def inlined(pixels: UInt8[np.ndarray, "S Z 3"]) -> tuple[str, bool]:
    """(a data URI, whether its pixels should stay visible) of a picture as the model gets it."""
    image, held = Image.fromarray(pixels), io.BytesIO()
    tiny = max(image.size) <= SMALL
    if not tiny:
        image.thumbnail((LARGEST, LARGEST))
    image.save(held, "PNG" if tiny else "JPEG", quality=88)
    kind = "png" if tiny else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(held.getvalue()).decode()}", tiny
