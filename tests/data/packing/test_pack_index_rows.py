"""Rows split into shorter rows: the same tokens and the same targets."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight.data.loader import LoaderSource
from firstsight.data.packing import pack
from firstsight.errors import QuantityError
from firstsight.recipe.stages import IGNORE_INDEX
from tests.data.loader.row_data import batch_of
from tests.data.packing.pack_data import captions, texts
from tests.data.reference import RawRecord, build_index


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 70), min_size=1, max_size=12),
    shape=st.sampled_from([(4, 1), (8, 2), (12, 3), (16, 16), (24, 4)]),
)
def test_split_rows_have_the_same_tokens_and_targets(counts: list[int], shape: tuple[int, int]) -> None:
    length, parts = shape
    records = [RawRecord([10 + word % 50 for word in range(count)], [0, 1, 2, 1][:1] * count, []) for count in counts]
    records = [
        RawRecord(record.tokens, [(word * 7 + len(record.loss)) % 3 for word in range(len(record.loss))], [])
        for record in records
    ]
    index = build_index("text", records)
    rows = pack(index, length=length, image_tokens=0, packing="best_fit")
    split = rows.split_rows(parts)
    long_batch, short_batch = (
        batch_of(LoaderSource(name="t", index=index, packed_rows=packed_rows, images=None, answers_only=False))
        for packed_rows in (rows, split)
    )
    for name in ("tokens", "targets"):
        assert torch.equal(
            getattr(long_batch, name), getattr(short_batch, name).reshape(getattr(long_batch, name).shape)
        ), name
    assert torch.equal(long_batch.docs >= 0, short_batch.docs.reshape(long_batch.docs.shape) >= 0)
    assert ((short_batch.positions == 0) | (short_batch.docs >= 0)).all()
    assert split.row_count == rows.row_count * parts
    assert (split.loss_always + split.loss_before_finetuning).tolist() == (short_batch.targets != IGNORE_INDEX).sum(
        dim=1
    ).tolist()
    assert split.filled.tolist() == (short_batch.docs >= 0).sum(dim=1).tolist()
    assert split.stats.loss_targets == rows.stats.loss_targets
    assert split.stats.rows * split.stats.length == rows.stats.rows * rows.stats.length


def test_only_text_is_split_and_into_equal_parts() -> None:
    rows = pack(texts([40, 3]), length=16, image_tokens=0, packing="best_fit")
    assert rows.split_rows(1) is rows
    with pytest.raises(QuantityError, match="3 parts of 16"):
        rows.split_rows(3)
    with pytest.raises(QuantityError, match="rows with images"):
        pack(captions([3]), length=16, image_tokens=4, packing="best_fit").split_rows(2)
