"""Random records of each form, sources of them, and a comparison of their batches with reference rows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from hypothesis import strategies as st

from firstsight.data.loader import Batch, LoaderSource, PrecomputedFeatures
from firstsight.data.loader.collate import BatchBuilder
from firstsight.data.packing import PackedRows, pack
from firstsight.recipe.mixture import ExternalForm, PackingMode
from firstsight.recipe.stages import IGNORE_INDEX
from tests.data.conftest import ANSWER, END, HUMAN, PAD
from tests.data.reference import RawRecord, RowPart, build_index, reference_rows

IMAGES = 9

PACKINGS: list[PackingMode] = ["best_fit", "one_image_per_row"]


@st.composite
def documents(draw: st.DrawFn) -> RawRecord:
    """An interleaved document: an end token, words, and images anywhere, also several at one position."""
    words = draw(st.integers(1, 60))
    at = sorted(draw(st.lists(st.integers(0, words - 1), max_size=7)))
    tokens = [END, *range(10, 10 + words - 1)]
    loss = [0, *draw(st.lists(st.sampled_from([0, 1, 1, 2]), min_size=words - 1, max_size=words - 1))]
    return RawRecord(tokens, loss, [(position, draw(st.integers(0, IMAGES - 1))) for position in at])


@st.composite
def dialogue_records(draw: st.DrawFn) -> RawRecord:
    """Turns in pairs, with an image at the start or an end token instead of it."""
    has_image = draw(st.booleans())
    tokens, loss = ([], []) if has_image else ([END], [0])
    for question, answer in draw(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4)):
        tokens += [*range(20, 20 + question), HUMAN, *range(40, 40 + answer), ANSWER]
        loss += [2] * (question + 1) + [1] * (answer + 1)
    return RawRecord(tokens, loss, [(0, draw(st.integers(0, IMAGES - 1)))] if has_image else [])


@st.composite
def caption_records(draw: st.DrawFn) -> RawRecord:
    words = draw(st.integers(1, 50))
    return RawRecord([*range(10, 10 + words), END], [1] * (words + 1), [(0, draw(st.integers(0, IMAGES - 1)))])


def source_of(
    form: ExternalForm, records: list[RawRecord], *, length: int, image_tokens: int, packing: PackingMode
) -> LoaderSource:
    """A source with features n of image n, so that an image in the wrong position is detected."""
    index = build_index(form, records, images=IMAGES)
    numbers = np.arange(IMAGES, dtype=np.float16)
    images = PrecomputedFeatures(arrays=(np.broadcast_to(numbers[:, None, None], (IMAGES, image_tokens, 3)).copy(),))
    rows = pack(index, length=length, image_tokens=image_tokens, packing=packing)
    return LoaderSource(name=form, index=index, packed_rows=rows, images=images, answers_only=False)


def batch_of(source: LoaderSource) -> Batch:
    """All rows of a source, in order."""
    builder, rows = (
        BatchBuilder(source.packed_rows.row_count, source.packed_rows.length, PAD),
        np.arange(source.packed_rows.row_count),
    )
    builder.add_rows(source, 1, batch_rows=rows, rows=rows)
    return builder.build(source.images)


def row_parts(rows: PackedRows, records: list[RawRecord]) -> list[list[RowPart]]:
    """The parts in each row, with tokens and images numbered within their record."""
    tokens = np.cumsum([0] + [len(record.tokens) for record in records]).tolist()
    image_offsets = np.cumsum([0] + [len(record.images) for record in records]).tolist()
    segments = rows.segments
    columns = (
        segments.sample,
        segments.start,
        segments.count,
        segments.image_start,
        segments.image_count,
        segments.has_next_token,
    )
    parts: list[RowPart] = []
    for sample, start, count, start_image, images, has_next in zip(
        *(column.tolist() for column in columns), strict=True
    ):
        begin, first_image = start - tokens[sample], start_image - image_offsets[sample] if images else 0
        parts.append(RowPart(sample, begin, begin + count, first_image, first_image + images, has_next))
    return [parts[start_image:stop] for start_image, stop in pairwise(rows.segment_offsets.tolist())]


def part_key(part: RowPart) -> tuple[int, ...]:
    """A part to compare; the numbers of its images only if it has any."""
    images = (part.first_image, part.last_image) if part.last_image > part.first_image else (0, 0)
    return (part.record, part.begin, part.stop, *images, part.has_next)


def check_batch(source: LoaderSource, records: list[RawRecord]) -> None:
    """Assert that all rows equal those of plain loops."""
    batch, rows = batch_of(source), source.packed_rows
    parts = row_parts(rows, records)
    expected = reference_rows(
        parts, records, length=rows.length, image_tokens=rows.image_tokens, answers_only=source.answers_only
    )
    for name in ("tokens", "targets", "docs", "positions"):
        assert getattr(batch, name).tolist() == expected[name], name
    flat = batch.images.reshape(-1, 3)[:, 0]
    if len(flat):
        actual = torch.where(batch.slots >= 0, flat[batch.slots.clamp(min=0)], -1.0)
        assert actual.tolist() == expected["picture"]
    assert sorted(batch.slots[batch.slots >= 0].tolist()) == list(range(len(flat))), "every vector is used once"
    assert (rows.loss_always + rows.loss_before_finetuning).tolist() == (batch.targets != IGNORE_INDEX).sum(
        dim=1
    ).tolist()
    assert rows.filled.tolist() == (batch.docs >= 0).sum(dim=1).tolist()
