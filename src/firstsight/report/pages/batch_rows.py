"""Rows of a batch decoded from its tensors: documents, tokens with or without loss, images, padding.

The model is trained on these tensors, so the page shows any mistake in them. Shapes: T positions of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int
from PIL import Image

from firstsight.data.loader import Batch
from firstsight.recipe.stages import IGNORE_INDEX
from firstsight.report.pages.thumbnails import Thumbnail, make_thumbnail
from firstsight.report.pages.token_text import TokenDecoder, TokenText

StripKind = Literal["loss", "no_loss", "image", "padding"]


class PreviewRecord(NamedTuple):
    """The record that a document was made from."""

    record_index: int
    location: str
    """Shard and position in it; empty where the index does not have them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PreviewElement:
    """A token, or an image with all its slots."""

    kind: Literal["token", "image", "external_target"]
    """external_target: a target that is not the row's next token; it counts as loss here."""
    column: int
    position: int
    has_loss: bool
    token_id: int = -1
    token_text: TokenText | None = None
    slot_count: int = 0
    thumbnail: Thumbnail | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PreviewDocument:
    """A span of a row that attends only to itself."""

    document_id: int
    first_column: int
    first_position: int
    length: int
    record: PreviewRecord | None
    has_start: bool
    """Starts with the start token or an image; else it continues another row, or its template is wrong."""
    ending: Literal["end_token", "continues", "no_end_token"]
    elements: tuple[PreviewElement, ...]

    @property
    def is_short(self) -> bool:
        """Whether the document is so short that the page puts several in one line."""
        return sum(element.kind == "token" for element in self.elements) <= 60


@dataclass(frozen=True, kw_only=True, slots=True)
class PreviewRow:
    """One row of a stage."""

    row_index: int
    """Index among the stage's rows, from 0."""
    source_index: int
    documents: tuple[PreviewDocument, ...]
    padding: int
    tokens: int
    """Positions without padding, image slots included."""
    loss_tokens: int
    image_count: int
    strip: tuple[tuple[StripKind, int, int], ...]
    """(kind, column, length) of the spans of the coloured strip above the row, split at document borders."""


@dataclass(frozen=True, slots=True)
class _RowArrays:
    tokens: Int[np.ndarray, "T"]
    targets: Int[np.ndarray, "T"]
    docs: Int[np.ndarray, "T"]
    positions: Int[np.ndarray, "T"]
    slots: Int[np.ndarray, "T"]
    has_loss: Bool[np.ndarray, "T"]
    """The token is the target of the position before it."""
    is_external: Bool[np.ndarray, "T"]
    """The position's target is not the row's next token."""

    def element_fields(self, column: int) -> dict[str, Any]:
        """Fields of the element at a column."""
        return {"column": column, "position": int(self.positions[column]), "has_loss": bool(self.has_loss[column])}


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchDecoder:
    """Decodes the rows of one batch."""

    batch: Batch
    image_tokens: int
    """Number of slots of an image."""
    record_of: Callable[[int, int], PreviewRecord | None]
    """The record of a document, by row of the batch and document id."""
    decoder: TokenDecoder
    end_ids: Collection[int]
    """Ids of the tokens that end a document."""

    def _row_arrays(self, batch_row: int) -> _RowArrays:
        batch = self.batch
        tensors = (batch.tokens, batch.targets, batch.docs, batch.positions, batch.slots)
        tokens, targets, docs, positions, slots = (tensor[batch_row].numpy() for tensor in tensors)
        has_target = targets != IGNORE_INDEX
        is_next_token = has_target[:-1] & (docs[1:] == docs[:-1]) & (targets[:-1] == tokens[1:]) & (slots[1:] < 0)
        has_loss, is_external = np.zeros(len(tokens), dtype=bool), has_target.copy()
        has_loss[1:] = is_next_token
        is_external[:-1] &= ~is_next_token
        return _RowArrays(tokens, targets, docs, positions, slots, has_loss, is_external)

    def row(self, batch_row: int, row_index: int) -> PreviewRow:
        """Row `batch_row` of the batch, which is row `row_index` of the stage."""
        arrays = self._row_arrays(batch_row)
        runs = _equal_runs(arrays.docs)
        documents = tuple(self._document(arrays, batch_row, start=a, stop=b) for a, b in runs if arrays.docs[a] >= 0)
        padding = int((arrays.docs < 0).sum())
        kinds: tuple[StripKind, ...] = ("no_loss", "loss", "image", "padding")
        kind_indices = np.where(arrays.docs < 0, 3, np.where(arrays.slots >= 0, 2, arrays.has_loss))
        kind_runs = _equal_runs(arrays.docs.astype(np.int64) * 4 + kind_indices)
        return PreviewRow(
            row_index=row_index,
            source_index=int(self.batch.source_ids[batch_row]),
            documents=documents,
            padding=padding,
            tokens=len(arrays.docs) - padding,
            loss_tokens=int((arrays.targets != IGNORE_INDEX).sum()),
            image_count=sum(element.kind == "image" for document in documents for element in document.elements),
            strip=tuple((kinds[kind_indices[a]], a, b - a) for a, b in kind_runs),
        )

    def _document(self, arrays: _RowArrays, batch_row: int, *, start: int, stop: int) -> PreviewDocument:
        document_id, last = int(arrays.docs[start]), stop - 1
        has_end = int(arrays.tokens[last]) in self.end_ids and arrays.slots[last] < 0
        return PreviewDocument(
            document_id=document_id,
            first_column=start,
            first_position=int(arrays.positions[start]),
            length=stop - start,
            record=self.record_of(batch_row, document_id),
            has_start=bool(arrays.slots[start] >= 0) or int(arrays.tokens[start]) in self.end_ids,
            ending="continues" if arrays.is_external[last] else "end_token" if has_end else "no_end_token",
            elements=tuple(self._elements(arrays, start, stop)),
        )

    def _elements(self, arrays: _RowArrays, start: int, stop: int) -> Iterator[PreviewElement]:
        slots = arrays.slots[start:stop]
        image_indices = np.where(slots < 0, -1, slots // max(1, self.image_tokens))
        for a, b in _equal_runs(image_indices):
            decode_run = self._tokens if image_indices[a] < 0 else self._image
            yield from decode_run(arrays, start + a, start + b)

    def _image(self, arrays: _RowArrays, start: int, stop: int) -> Iterator[PreviewElement]:
        pixels = self.batch.images[int(arrays.slots[start]) // self.image_tokens].numpy()
        thumbnail = make_thumbnail(Image.fromarray(pixels))
        yield PreviewElement(kind="image", slot_count=stop - start, thumbnail=thumbnail, **arrays.element_fields(start))
        yield from self._external_targets(arrays, start, stop)

    def _tokens(self, arrays: _RowArrays, start: int, stop: int) -> Iterator[PreviewElement]:
        ids = arrays.tokens[start:stop].tolist()
        for column, token_id, text in zip(range(start, stop), ids, self.decoder.token_texts(ids), strict=True):
            yield PreviewElement(kind="token", token_id=token_id, token_text=text, **arrays.element_fields(column))
            yield from self._external_targets(arrays, column, column + 1)

    def _external_targets(self, arrays: _RowArrays, start: int, stop: int) -> Iterator[PreviewElement]:
        for column in (np.flatnonzero(arrays.is_external[start:stop]) + start).tolist():
            token_id = int(arrays.targets[column])
            [text] = self.decoder.token_texts([token_id])
            values = arrays.element_fields(column) | {"position": int(arrays.positions[column]) + 1, "has_loss": True}
            yield PreviewElement(kind="external_target", token_id=token_id, token_text=text, **values)


def _equal_runs(values: np.ndarray) -> list[tuple[int, int]]:
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    return [(a, b) for a, b in pairwise(edges) if b > a]
