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

from firstsight.data.loader.sources import ImageInputs, LoaderSource
from firstsight.data.packing import Segments
from firstsight.data.tokenizer import LOSS_ALWAYS, LOSS_NEVER

IGNORE_INDEX = -100


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
    source_ids: Int8[Tensor, "B"]
    """0 text, 1 and up the image sources in the order of the mix."""


class FlatRows(NamedTuple):
    """Where a feed's rows lie when they stand one behind the other, from place 0 on."""

    segments: Segments
    segment_numbers: Int64[np.ndarray, "P"]
    """Of its row."""
    segment_starts: Int64[np.ndarray, "P"]
    segment_ends: Int64[np.ndarray, "P"]
    padding_starts: Int64[np.ndarray, "n"]
    """Where the padding of each row begins."""
    image_refs: Int64[np.ndarray, "K"]
    """Into the index's `shown`."""
    slot_starts: Int64[np.ndarray, "K"]
    """Where each picture's slots begin."""
    next_tokens: Int64[np.ndarray, "K"]
    """The token behind each picture, by its place in the index."""
    image_segments: Int64[np.ndarray, "K"]
    """Which of the pieces holds each picture."""


class BatchBuilder:
    """A batch while it is filled."""

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

    def add_rows(
        self, source: LoaderSource, source_id: int, *, batch_rows: Int64[np.ndarray, "n"], rows: Int64[np.ndarray, "n"]
    ) -> None:
        """Write `rows` of a feed's table into the batch's rows `places`."""
        if not len(rows):
            return
        flat_rows = _flatten_rows(source, rows)
        self.source_ids[batch_rows] = source_id
        self._fill_tokens(source, flat_rows, batch_rows)
        if source.images is not None and len(flat_rows.image_refs) and source.packed_rows.image_tokens:
            self._fill_images(source, source.images, flat_rows, batch_rows)

    def _fill_tokens(self, source: LoaderSource, flat_rows: FlatRows, batch_rows: Int64[np.ndarray, "n"]) -> None:
        """Tokens, and one place to their left the targets; a piece that goes on also aims at the token behind it."""
        shape, image_tokens = (len(batch_rows), self.tokens.shape[1]), source.packed_rows.image_tokens
        owners, origins, lengths = _token_runs(flat_rows, image_tokens, shape)
        flat_positions = np.arange(shape[0] * shape[1])
        token_indices = flat_positions + np.repeat(origins, lengths)
        docs = np.repeat(np.append(flat_rows.segment_numbers, -1)[owners].astype(np.int32), lengths)
        tokens = source.index.tokens.take(token_indices, mode="clip").astype(np.int64)
        loss = source.index.loss.take(token_indices, mode="clip")
        positions = flat_positions.astype(np.int32) - np.repeat(
            np.append(flat_rows.segment_starts, 0)[owners].astype(np.int32), lengths
        )
        slots = (flat_rows.slot_starts[:, None] + np.arange(image_tokens)).ravel()
        padding = np.flatnonzero(docs < 0)
        tokens[padding], positions[padding], tokens[slots] = self.pad_id, 0, self.pad_id
        has_loss = loss == LOSS_ALWAYS if source.answers_only else loss != LOSS_NEVER
        has_loss[padding] = has_loss[slots] = has_loss[
            flat_rows.segment_starts[flat_rows.segment_ends > flat_rows.segment_starts]
        ] = False
        targets = np.append(tokens[1:], IGNORE_INDEX)
        targets[np.flatnonzero(~has_loss[1:])] = IGNORE_INDEX
        _set_continuation_targets(source, flat_rows, targets)
        for name, values in (("tokens", tokens), ("targets", targets), ("docs", docs), ("positions", positions)):
            if shape == self.tokens.shape:  # one feed fills the batch, and its rows come in order
                setattr(self, name, values.reshape(shape))
            else:
                getattr(self, name)[batch_rows] = values.reshape(shape)

    def _fill_images(
        self, source: LoaderSource, image_inputs: ImageInputs, flat_rows: FlatRows, batch_rows: Int64[np.ndarray, "n"]
    ) -> None:
        length, image_tokens = self.tokens.shape[1], source.packed_rows.image_tokens
        first_feature_row = sum(len(array) for array in self.images) * image_tokens
        slot_positions = batch_rows[flat_rows.slot_starts // length] * length + flat_rows.slot_starts % length
        feature_rows = first_feature_row + np.arange(len(slot_positions) * image_tokens).reshape(-1, image_tokens)
        self.slots.reshape(-1)[slot_positions[:, None] + np.arange(image_tokens)] = feature_rows
        self.images.append(image_inputs.take(source.index.image_refs["picture"][flat_rows.image_refs].astype(np.int64)))

    def build(self, image_inputs: ImageInputs | None) -> Batch:
        if image_inputs is None:
            images = np.zeros((0, 0, 0), dtype=np.float16)
        elif self.images:
            images = self.images[0] if len(self.images) == 1 else np.concatenate(self.images)
        else:
            images = image_inputs.take(np.zeros(0, dtype=np.int64))
        return Batch(
            tokens=torch.from_numpy(self.tokens),
            targets=torch.from_numpy(self.targets),
            docs=torch.from_numpy(self.docs),
            positions=torch.from_numpy(self.positions),
            slots=torch.from_numpy(self.slots),
            images=torch.from_numpy(images),
            source_ids=torch.from_numpy(self.source_ids),
        )


def _flatten_rows(source: LoaderSource, rows: Int64[np.ndarray, "n"]) -> FlatRows:
    packed_rows = source.packed_rows
    segment_ids, segment_numbers, row_ids = _expand_ranges(
        packed_rows.segment_offsets[rows], packed_rows.segment_offsets[rows + 1]
    )
    segments, row_starts = packed_rows.segments.select(segment_ids), np.arange(len(rows)) * packed_rows.length
    segment_starts = row_starts[row_ids] + packed_rows.column[segment_ids]
    image_refs, image_numbers, image_segments = _expand_ranges(
        segments.image_start, segments.image_start + segments.image_count
    )
    sample_starts = source.index.samples["tokens_from"][segments.sample[image_segments]]
    next_tokens = sample_starts + source.index.image_refs["at"][image_refs]
    return FlatRows(
        segments=segments,
        segment_numbers=segment_numbers,
        segment_starts=segment_starts,
        segment_ends=segment_starts + segments.count + segments.image_count * packed_rows.image_tokens,
        padding_starts=row_starts + packed_rows.filled[rows],
        image_refs=image_refs,
        slot_starts=segment_starts[image_segments]
        + next_tokens
        - segments.start[image_segments]
        + image_numbers * packed_rows.image_tokens,
        next_tokens=next_tokens,
        image_segments=image_segments,
    )


def _token_runs(
    flat_rows: FlatRows, image_tokens: int, shape: tuple[int, int]
) -> tuple[Int64[np.ndarray, "s"], Int64[np.ndarray, "s"], Int64[np.ndarray, "s"]]:
    """All places as stretches: whose piece (-1 is padding), which token would stand at place 0, how long.

    A stretch is a row's padding, a piece's tokens before its first picture, or a picture's slots and the tokens behind.
    """
    segment_count = len(flat_rows.segment_starts)
    owners = np.concatenate(
        [np.full(len(flat_rows.padding_starts), -1), np.arange(segment_count), flat_rows.image_segments]
    )
    starts = np.concatenate([flat_rows.padding_starts, flat_rows.segment_starts, flat_rows.slot_starts])
    origins = np.concatenate(
        [
            np.zeros_like(flat_rows.padding_starts),
            flat_rows.segments.start - flat_rows.segment_starts,
            flat_rows.next_tokens - flat_rows.slot_starts - image_tokens,
        ]
    )
    order = np.argsort(starts, kind="stable")  # padding ends a row before the next begins, words stand before pictures
    return owners[order], origins[order], np.diff(starts[order], append=shape[0] * shape[1])


def _set_continuation_targets(source: LoaderSource, flat_rows: FlatRows, targets: Int64[np.ndarray, "places"]) -> None:
    """The last position of a piece that goes on aims at the token behind the piece."""
    has_next_token = flat_rows.segments.has_next_token
    next_tokens, last_positions = (
        (flat_rows.segments.start + flat_rows.segments.count)[has_next_token],
        flat_rows.segment_ends[has_next_token] - 1,
    )
    loss = source.index.loss[next_tokens]
    has_loss = loss == LOSS_ALWAYS if source.answers_only else loss != LOSS_NEVER
    targets[last_positions[has_loss]] = source.index.tokens[next_tokens[has_loss]]


def _expand_ranges(start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The numbers of all ranges [start, stop) in a row, each one's place inside its range, and which range that is."""
    counts = stop - start
    range_ids = np.repeat(np.arange(len(counts)), counts)
    offsets = np.arange(len(range_ids)) - np.repeat(np.cumsum(counts) - counts, counts)
    return start[range_ids] + offsets, offsets, range_ids
