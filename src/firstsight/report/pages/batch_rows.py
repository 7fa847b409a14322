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

from firstsight.data.loader import IGNORE_INDEX, Batch
from firstsight.report.pages.token_text import TokenDecoder, TokenText

StripKind = Literal["loss", "free", "picture", "padding"]
PREVIEW_LOSSLESS_SIDE, PREVIEW_IMAGE_SIDE = 96, 320
"""Sides in pixels: up to SMALL a picture is inlined to the bit; one above LARGEST is drawn smaller."""
SHORT_DOCUMENT_TOKENS = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class PreviewRecord:
    """Where a document of a row comes from."""

    record_index: int
    location: str
    """Shard and place in it, as far as the index knows them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PreviewElement:
    """A token, or a picture on its slots, at its column."""

    kind: Literal["token", "picture", "beyond"]
    """`beyond`: a target that is not the row's next token; it counts as loss here."""
    column: int
    position: int
    has_loss: bool
    token_id: int = -1
    token_text: TokenText | None = None
    slot_count: int = 0
    image_uri: str = ""
    """A data URI."""
    pixelated: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class PreviewDocument:
    """A stretch of a row that attends to nothing outside of it."""

    document_id: int
    first_column: int
    """Column."""
    first_position: int
    """Of its first token."""
    length: int
    record: PreviewRecord | None
    has_start: bool
    """With the start token or a picture; else it goes on from another row, or its template is wrong."""
    ending: Literal["closed", "goes on", "cut"]
    elements: tuple[PreviewElement, ...]

    @property
    def is_short(self) -> bool:
        """So few tokens that several such documents may stand side by side."""
        return sum(element.kind == "token" for element in self.elements) <= SHORT_DOCUMENT_TOKENS


@dataclass(frozen=True, kw_only=True, slots=True)
class PreviewRow:
    """One row of a stage."""

    row_index: int
    """Of the stage's rows, from 0."""
    source_index: int
    documents: tuple[PreviewDocument, ...]
    padding: int
    tokens: int
    """Padding not among them, slots are."""
    loss_tokens: int
    image_count: int
    strip: tuple[tuple[StripKind, int, int], ...]
    """(what, column, length) of stretches of one sort, broken at borders."""


@dataclass(frozen=True, slots=True)
class _RowArrays:
    """One row's arrays, and which of its tokens are aimed at from inside the row."""

    tokens: Int[np.ndarray, "T"]
    targets: Int[np.ndarray, "T"]
    docs: Int[np.ndarray, "T"]
    positions: Int[np.ndarray, "T"]
    slots: Int[np.ndarray, "T"]
    has_loss: Bool[np.ndarray, "T"]
    is_external: Bool[np.ndarray, "T"]


def decode_rows(
    batch: Batch,
    *,
    row_indices: Sequence[int],
    image_tokens: int,
    record_of: Callable[[int, int], PreviewRecord | None],
    decoder: TokenDecoder,
    end_ids: Sequence[int],
) -> list[PreviewRow]:
    """All rows of a batch, in order.

    `at`: their numbers; `origin(row of the batch, document)`: where it comes from; `closers`: ids that end a document.
    """
    context = _DecodeContext(
        batch=batch, image_tokens=image_tokens, record_of=record_of, decoder=decoder, end_ids=frozenset(end_ids)
    )
    return [_preview_row(context, batch_row, row_index) for batch_row, row_index in enumerate(row_indices)]


@dataclass(frozen=True, kw_only=True, slots=True)
class _DecodeContext:
    batch: Batch
    image_tokens: int
    record_of: Callable[[int, int], PreviewRecord | None]
    decoder: TokenDecoder
    end_ids: frozenset[int]

    def row_arrays(self, batch_row: int) -> _RowArrays:
        batch = self.batch
        tensors = (batch.tokens, batch.targets, batch.docs, batch.positions, batch.slots)
        tokens, targets, docs, positions, slots = (tensor[batch_row].numpy() for tensor in tensors)
        has_target = targets != IGNORE_INDEX
        is_next_token = has_target[:-1] & (docs[1:] == docs[:-1]) & (targets[:-1] == tokens[1:]) & (slots[1:] < 0)
        has_loss, is_external = np.zeros(len(tokens), dtype=bool), has_target.copy()
        has_loss[1:] = is_next_token
        is_external[:-1] &= ~is_next_token
        return _RowArrays(tokens, targets, docs, positions, slots, has_loss, is_external)

    def image_uri(self, image_index: int) -> tuple[str, bool]:
        return image_data_uri(self.batch.images[image_index].numpy())


def _preview_row(context: _DecodeContext, batch_row: int, row_index: int) -> PreviewRow:
    arrays = context.row_arrays(batch_row)
    spans = [(start, stop) for start, stop in _equal_runs(arrays.docs) if arrays.docs[start] >= 0]
    documents = tuple(_preview_document(context, arrays, batch_row, start, stop) for start, stop in spans)
    padding = int((arrays.docs < 0).sum())
    return PreviewRow(
        row_index=row_index,
        source_index=int(context.batch.source_ids[batch_row]),
        documents=documents,
        padding=padding,
        tokens=len(arrays.docs) - padding,
        loss_tokens=int((arrays.targets != IGNORE_INDEX).sum()),
        image_count=sum(element.kind == "picture" for document in documents for element in document.elements),
        strip=tuple(_strip_segments(arrays)),
    )


def _preview_document(
    context: _DecodeContext, arrays: _RowArrays, batch_row: int, start: int, stop: int
) -> PreviewDocument:
    document_id = int(arrays.docs[start])
    first_token, last_token = int(arrays.tokens[start]), int(arrays.tokens[stop - 1])
    is_closed = last_token in context.end_ids and arrays.slots[stop - 1] < 0
    continues = bool(arrays.is_external[stop - 1])
    return PreviewDocument(
        document_id=document_id,
        first_column=start,
        first_position=int(arrays.positions[start]),
        length=stop - start,
        record=context.record_of(batch_row, document_id),
        has_start=bool(arrays.slots[start] >= 0) or first_token in context.end_ids,
        ending="goes on" if continues else "closed" if is_closed else "cut",
        elements=tuple(_preview_elements(context, arrays, start, stop)),
    )


def _preview_elements(context: _DecodeContext, arrays: _RowArrays, start: int, stop: int) -> Iterator[PreviewElement]:
    """Tokens and pictures of one document in order, and targets that are nowhere in it."""
    image_indices = np.where(arrays.slots[start:stop] < 0, -1, arrays.slots[start:stop] // max(1, context.image_tokens))
    for a, b in _equal_runs(image_indices):
        if image_indices[a] >= 0:
            yield _image_element(context, arrays, start + a, start + b)
            yield from _external_targets(context, arrays, start + a, start + b)
        else:
            yield from _token_elements(context, arrays, start + a, start + b)


def _image_element(context: _DecodeContext, arrays: _RowArrays, start: int, stop: int) -> PreviewElement:
    uri, pixelated = context.image_uri(int(arrays.slots[start]) // context.image_tokens)
    return PreviewElement(
        kind="picture",
        column=start,
        position=int(arrays.positions[start]),
        has_loss=bool(arrays.has_loss[start]),
        slot_count=stop - start,
        image_uri=uri,
        pixelated=pixelated,
    )


def _token_elements(context: _DecodeContext, arrays: _RowArrays, start: int, stop: int) -> Iterator[PreviewElement]:
    ids = arrays.tokens[start:stop].tolist()
    for column, (token_id, token_text) in enumerate(
        zip(ids, context.decoder.token_texts(ids), strict=True), start=start
    ):
        has_loss, position = bool(arrays.has_loss[column]), int(arrays.positions[column])
        yield PreviewElement(
            kind="token", column=column, position=position, has_loss=has_loss, token_id=token_id, token_text=token_text
        )
        yield from _external_targets(context, arrays, column, column + 1)


def _external_targets(context: _DecodeContext, arrays: _RowArrays, start: int, stop: int) -> Iterator[PreviewElement]:
    for column in (np.flatnonzero(arrays.is_external[start:stop]) + start).tolist():
        token_id = int(arrays.targets[column])
        [token_text] = context.decoder.token_texts([token_id])
        position = int(arrays.positions[column]) + 1
        yield PreviewElement(
            kind="beyond", column=column, position=position, has_loss=True, token_id=token_id, token_text=token_text
        )


def _strip_segments(arrays: _RowArrays) -> Iterator[tuple[StripKind, int, int]]:
    kinds: tuple[StripKind, ...] = ("free", "loss", "picture", "padding")
    kind_indices = np.where(arrays.docs < 0, 3, np.where(arrays.slots >= 0, 2, arrays.has_loss))
    for start, stop in _equal_runs(arrays.docs.astype(np.int64) * 4 + kind_indices):
        yield kinds[kind_indices[start]], start, stop - start


def _equal_runs(values: np.ndarray) -> list[tuple[int, int]]:
    """[from, to) of each stretch of equal values."""
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    return [(a, b) for a, b in pairwise(edges) if b > a]


def image_data_uri(pixels: UInt8[np.ndarray, "S Z 3"]) -> tuple[str, bool]:
    """(a data URI, whether its pixels should stay visible) of a picture as the model gets it."""
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    is_lossless = max(image.size) <= PREVIEW_LOSSLESS_SIDE
    if not is_lossless:
        image.thumbnail((PREVIEW_IMAGE_SIDE, PREVIEW_IMAGE_SIDE))
    image.save(buffer, "PNG" if is_lossless else "JPEG", quality=88)
    image_format = "png" if is_lossless else "jpeg"
    return f"data:image/{image_format};base64,{base64.b64encode(buffer.getvalue()).decode()}", is_lossless
