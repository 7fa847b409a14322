"""Indexes of texts, captions, dialogues and interleaved documents to pack, and checks of packed rows."""

from __future__ import annotations

import random

import numpy as np
import pytest

from firstsight.data.index import Index
from firstsight.data.packing import PackedRows, Segments
from tests.data.conftest import ANSWER, END, HUMAN, WORDS
from tests.data.reference import RawRecord, build_index


def texts(lengths: list[int]) -> Index:
    """Documents of that many words between end tokens; in each third one the first word carries no loss."""
    rng, records = random.Random(3), list[RawRecord]()
    for length in lengths:
        words = [WORDS + rng.randrange(200) for _ in range(length)]
        records.append(RawRecord([END, *words, END], [0, int(length % 3 > 0), *[1] * length], []))
    return build_index("text", records)


def captions(lengths: list[int]) -> Index:
    """Record n has image n."""
    records = [RawRecord([*range(WORDS, WORDS + n), END], [1] * (n + 1), [(0, at)]) for at, n in enumerate(lengths)]
    return build_index("captions", records, images=len(records))


def dialogue(sizes: list[int], *, has_image: bool = True) -> RawRecord:
    """Turns of that many words, human and answer in turn."""
    tokens, loss = ([], []) if has_image else ([END], [0])
    for number, size in enumerate(sizes):
        tokens += [*range(WORDS, WORDS + size), (HUMAN, ANSWER)[number % 2]]
        loss += [(2, 1)[number % 2]] * (size + 1)
    return RawRecord(tokens, loss, [(0, 0)] if has_image else [])


def check_rows(rows: PackedRows) -> None:
    """Assert that segments follow each other without gaps and that `filled` is their total size."""
    sizes = rows.segments.count + rows.segments.image_count * rows.image_tokens
    for row in range(rows.row_count):
        part = slice(rows.segment_offsets[row], rows.segment_offsets[row + 1])
        assert rows.column[part].tolist() == (np.cumsum(sizes[part]) - sizes[part]).tolist()
        assert rows.filled[row] == sizes[part].sum() <= rows.length
    assert rows.segment_offsets[-1] == len(rows.column)
    assert rows.stats.padding == pytest.approx(1 - sizes.sum() / (rows.row_count * rows.length))


def mapped_arrays(rows: PackedRows) -> dict[str, list[int]]:
    segments = {name: getattr(rows.segments, name).tolist() for name in Segments.__dataclass_fields__}
    return segments | {
        name: getattr(rows, name).tolist()
        for name in ("segment_offsets", "column", "filled", "loss_always", "loss_before_finetuning")
    }


def interleaved(count: int) -> Index:
    """Interleaved documents with up to three images each, some of several rows."""
    rng, records = random.Random(7), list[RawRecord]()
    for _ in range(count):
        words = rng.randint(2, 40)
        images = sorted(rng.randrange(words) for _ in range(rng.randint(0, 3)))
        records.append(RawRecord([END] * words, [1] * words, [(at, rng.randrange(5)) for at in images]))
    return build_index("interleaved", records, images=5)
