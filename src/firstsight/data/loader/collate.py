"""Packed rows to the tensors of a batch.

Shapes: B rows of T tokens, n of them from one source; N images in the batch (varies, may be 0) of I tokens of width W,
or of S x S pixels; P segments and K images of a source in the batch. The n rows of a source are computed as one flat
array of n * T positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float16, Int8, Int32, Int64, UInt8
from torch import Tensor

from firstsight.data.index import ragged_ranges
from firstsight.data.loader.mixture import ImageInputs, LoaderSource
from firstsight.data.sampling import Indices
from firstsight.data.tokenizer import LOSS_ALWAYS, LOSS_NEVER
from firstsight.recipe.stages import IGNORE_INDEX

RunArray = Int64[np.ndarray, "s"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """B rows of T tokens; positions that are no token (image slots, padding) have the pad id."""

    tokens: Int64[Tensor, "B T"]
    targets: Int64[Tensor, "B T"]
    """The next token if it carries loss, else IGNORE_INDEX."""
    docs: Int32[Tensor, "B T"]
    """Number of the document in its row, -1 for padding."""
    positions: Int32[Tensor, "B T"]
    slots: Int64[Tensor, "B T"]
    """Row of `images`, flattened to [N*I, W], at this position; -1 if it is not an image slot."""
    images: Float16[Tensor, "N I W"] | UInt8[Tensor, "N S S 3"]
    source_ids: Int8[Tensor, "B"]
    """Number of the source in `BatchStream.sources`."""


class _FlatRows:
    """Where segments, images and padding are in the flat array of a source's rows."""

    def __init__(self, source: LoaderSource, rows: Indices) -> None:
        index, packed, offsets = source.index, source.packed_rows, source.packed_rows.segment_offsets
        ids, row_ids, self.segment_numbers = ragged_ranges(offsets[rows], offsets[rows + 1] - offsets[rows])
        self.segments = segments = packed.segments.select(ids)
        self.image_refs, self.image_segments, numbers = ragged_ranges(segments.image_start, segments.image_count)
        row_starts, owners = np.arange(len(rows)) * packed.length, self.image_segments
        self.padding_starts = row_starts + packed.filled[rows]
        self.segment_starts = row_starts[row_ids] + packed.column[ids]
        self.segment_ends = self.segment_starts + segments.count + segments.image_count * packed.image_tokens
        sample_starts = index.samples["tokens_from"][segments.sample[owners]]
        self.next_tokens = sample_starts + index.image_refs["at"][self.image_refs]
        """The token after each image, an index into the index's `tokens`."""
        tokens_before = self.next_tokens - segments.start[owners]
        self.slot_starts = self.segment_starts[owners] + tokens_before + numbers * packed.image_tokens
        """First slot of each image."""

    def token_runs(self, image_tokens: int, size: int) -> tuple[RunArray, RunArray, RunArray]:
        """All `size` positions as s runs: (segment or -1 for padding, token index minus position, length).

        A run is the padding of a row, the tokens of a segment before its first image, or an image's slots and the
        tokens after them.
        """
        segment_ids = np.arange(len(self.segment_starts))
        owners = np.concatenate([np.full(len(self.padding_starts), -1), segment_ids, self.image_segments])
        starts = np.concatenate([self.padding_starts, self.segment_starts, self.slot_starts])
        segment_origins = self.segments.start - self.segment_starts
        image_origins = self.next_tokens - self.slot_starts - image_tokens
        origins = np.concatenate([np.zeros_like(self.padding_starts), segment_origins, image_origins])
        # At equal starts the run that comes first is empty: padding of a full row, a segment that starts with an image.
        order = np.argsort(starts, kind="stable")
        return owners[order], origins[order], np.diff(starts[order], append=size)


class BatchBuilder:
    """A batch that is filled source by source."""

    def __init__(self, batch_size: int, length: int, pad_id: int) -> None:
        shape = (batch_size, length)
        self.pad_id = pad_id
        self.tokens = np.full(shape, pad_id, dtype=np.int64)
        self.targets = np.full(shape, IGNORE_INDEX, dtype=np.int64)
        self.docs = np.full(shape, -1, dtype=np.int32)
        self.positions = np.zeros(shape, dtype=np.int32)
        self.slots = np.full(shape, -1, dtype=np.int64)
        self.source_ids = np.zeros(batch_size, dtype=np.int8)
        self.images: list[np.ndarray] = []

    def add_rows(self, source: LoaderSource, source_id: int, *, batch_rows: Indices, rows: Indices) -> None:
        """Write `rows` of a source to the rows `batch_rows` of the batch."""
        if not len(rows):
            return
        flat = _FlatRows(source, rows)
        self.source_ids[batch_rows] = source_id
        self._fill_tokens(source, flat, batch_rows)
        if source.images is not None and len(flat.image_refs) and source.packed_rows.image_tokens:
            self._fill_images(source, source.images, flat, batch_rows)

    def _fill_tokens(self, source: LoaderSource, flat: _FlatRows, batch_rows: Indices) -> None:
        """Write tokens, and as targets the tokens shifted by one, also where a document continues elsewhere."""
        shape, image_tokens = (len(batch_rows), self.tokens.shape[1]), source.packed_rows.image_tokens
        owners, origins, lengths = flat.token_runs(image_tokens, shape[0] * shape[1])
        flat_positions = np.arange(shape[0] * shape[1])
        token_indices = flat_positions + np.repeat(origins, lengths)
        docs = np.repeat(np.append(flat.segment_numbers, -1)[owners].astype(np.int32), lengths)
        tokens = source.index.tokens.take(token_indices, mode="clip").astype(np.int64)
        starts = np.append(flat.segment_starts, 0)[owners].astype(np.int32)
        positions = flat_positions.astype(np.int32) - np.repeat(starts, lengths)
        slots = (flat.slot_starts[:, None] + np.arange(image_tokens)).ravel()
        padding = np.flatnonzero(docs < 0)
        tokens[padding], positions[padding], tokens[slots] = self.pad_id, 0, self.pad_id
        has_loss = _has_loss(source, source.index.loss.take(token_indices, mode="clip"))
        first_positions = flat.segment_starts[flat.segment_ends > flat.segment_starts]
        has_loss[padding] = has_loss[slots] = has_loss[first_positions] = False
        targets = np.append(tokens[1:], IGNORE_INDEX)
        targets[np.flatnonzero(~has_loss[1:])] = IGNORE_INDEX
        _set_continuation_targets(source, flat, targets)
        for name, values in (("tokens", tokens), ("targets", targets), ("docs", docs), ("positions", positions)):
            if shape == self.tokens.shape:  # a single source fills the batch, and its rows come in order
                setattr(self, name, values.reshape(shape))
            else:
                getattr(self, name)[batch_rows] = values.reshape(shape)

    def _fill_images(self, source: LoaderSource, inputs: ImageInputs, flat: _FlatRows, batch_rows: Indices) -> None:
        length, image_tokens = self.tokens.shape[1], source.packed_rows.image_tokens
        first = sum(len(array) for array in self.images) * image_tokens
        positions = batch_rows[flat.slot_starts // length] * length + flat.slot_starts % length
        feature_rows = first + np.arange(len(positions) * image_tokens).reshape(-1, image_tokens)
        self.slots.reshape(-1)[positions[:, None] + np.arange(image_tokens)] = feature_rows
        self.images.append(inputs.take(source.index.image_refs["picture"][flat.image_refs].astype(np.int64)))

    def build(self, inputs: ImageInputs | None) -> Batch:
        """The tensors; without an image in the batch, `inputs` (None: text only) gives the shape of `images`."""
        if self.images:
            images = self.images[0] if len(self.images) == 1 else np.concatenate(self.images)
        elif inputs is not None:
            images = inputs.take(np.zeros(0, dtype=np.int64))
        else:
            images = np.zeros((0, 0, 0), dtype=np.float16)
        names = ("tokens", "targets", "docs", "positions", "slots", "source_ids")
        return Batch(images=torch.from_numpy(images), **{name: torch.from_numpy(getattr(self, name)) for name in names})


def _set_continuation_targets(source: LoaderSource, flat: _FlatRows, targets: Int64[np.ndarray, "positions"]) -> None:
    """Set the target of a segment's last position to the document's next token, if there is one."""
    segments, has_next = flat.segments, flat.segments.has_next_token
    tokens, positions = (segments.start + segments.count)[has_next], flat.segment_ends[has_next] - 1
    has_loss = _has_loss(source, source.index.loss[tokens])
    targets[positions[has_loss]] = source.index.tokens[tokens[has_loss]]


def _has_loss(source: LoaderSource, flags: UInt8[np.ndarray, "m"]) -> Bool[np.ndarray, "m"]:
    return flags == LOSS_ALWAYS if source.answers_only else flags != LOSS_NEVER
