"""Splitting and truncating of records, on packed rows."""

from __future__ import annotations

import numpy as np
import pytest

from firstsight.data.packing import pack
from tests.data.conftest import ANSWER
from tests.data.packing.pack_data import captions, check_rows, dialogue, texts
from tests.data.reference import build_index


@pytest.mark.parametrize("length", [5, 16, 17, 64])
def test_texts_are_split_without_losing_a_target(length: int) -> None:
    lengths = [*range(3, 60), 200, length - 1, length, length + 1, 2 * length - 2, 2 * length - 1, 2 * length]
    index = texts(lengths)
    rows = pack(index, length=length, image_tokens=0, packing="best_fit")
    check_rows(rows)
    tokens_by_sample: dict[int, list[int]] = {}
    order = np.argsort(rows.segments.start, kind="stable")
    for start, count, sample, has_next_token in zip(
        rows.segments.start[order].tolist(),
        rows.segments.count[order].tolist(),
        rows.segments.sample[order].tolist(),
        rows.segments.has_next_token[order].tolist(),
        strict=True,
    ):
        tokens = tokens_by_sample.setdefault(sample, [])
        assert start == index.samples["tokens_from"][sample] + len(tokens)
        tokens += index.tokens[start : start + count].tolist()
        missing = index.samples["tokens_count"][sample] - len(tokens)
        assert has_next_token == (missing > 0)
    missing_counts = [
        int(index.samples["tokens_count"][sample]) - len(tokens) for sample, tokens in tokens_by_sample.items()
    ]
    assert len(tokens_by_sample) == len(lengths)
    assert set(missing_counts) <= {0, 1}, "only a last token that is nothing but a target has no place"
    assert rows.loss_always.sum() == (index.loss == 1).sum()
    assert rows.loss_before_finetuning.sum() == 0
    assert rows.stats.dropped_tokens == rows.stats.truncated == rows.stats.skipped == 0
    assert rows.stats.split == sum(words + 2 > length + 1 for words in lengths)


def test_a_caption_longer_than_its_row_is_truncated_and_counted() -> None:
    rows = pack(captions([20, 3]), length=16, image_tokens=4, packing="best_fit")
    assert dict(zip(rows.segments.sample.tolist(), rows.segments.count.tolist(), strict=True)) == {0: 12, 1: 4}
    assert (rows.stats.dropped_tokens, rows.stats.truncated, rows.stats.skipped) == (9, 1, 0)
    assert rows.loss_always.sum() == 13 + 4, "the last word that fits still aims at the next one"


def test_a_dialogue_longer_than_its_row_ends_with_its_last_complete_answer() -> None:
    records = [dialogue(sizes) for sizes in ([3, 2], [3, 2, 3, 2, 3, 2], [20, 2], [3, 2, 40, 1])]
    index = build_index("dialogues", records, images=1)
    rows = pack(index, length=20, image_tokens=4, packing="best_fit")
    assert dict(zip(rows.segments.sample.tolist(), rows.segments.count.tolist(), strict=True)) == {0: 7, 1: 14, 3: 7}
    assert (rows.stats.truncated, rows.stats.skipped) == (2, 1)
    assert rows.stats.dropped_tokens == 7 + 24 + 43
    ends = rows.segments.start + rows.segments.count - 1
    assert (index.tokens[ends] == ANSWER).all()
    assert not rows.segments.has_next_token.any()
    assert rows.loss_always.sum() == 3 + 6 + 3
    assert rows.loss_before_finetuning.sum() == 4 + 8 + 4
