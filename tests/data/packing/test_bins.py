"""Bin packing against a plain search and against all combinations."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.data.packing import best_fit, bins, pack
from tests.data.packing.pack_data import texts


@given(sizes=st.lists(st.integers(1, 64), max_size=300))
def test_best_fit_overfills_no_row_and_leaves_at_most_one_half_empty(sizes: list[int]) -> None:
    row_ids, rows = best_fit(np.array(sizes, dtype=np.int32), 64)
    filled = np.bincount(row_ids, weights=sizes, minlength=rows)
    assert len(filled) == rows
    assert (filled <= 64).all()
    assert (filled <= 32).sum() <= 1


def test_best_fit_equals_a_plain_search_for_the_fullest_row() -> None:
    sizes = np.random.default_rng(1).integers(1, 33, 400).astype(np.int32)
    rooms: list[int] = []
    for size in sorted(sizes.tolist(), reverse=True):
        fitting = [room for room in rooms if room >= size]
        if fitting:
            rooms[rooms.index(min(fitting))] -= size
        else:
            rooms.append(32 - size)
    row_ids, rows = best_fit(sizes, 32)
    filled = np.bincount(row_ids, weights=sizes, minlength=rows)
    assert sorted((32 - filled).tolist()) == sorted(rooms)


@given(sizes=st.lists(st.integers(3, 40), min_size=1, max_size=9), length=st.integers(40, 90))
def test_the_fullest_row_is_the_fullest_of_all_combinations(sizes: list[int], length: int) -> None:
    sizes.sort(reverse=True)
    row_ids, rows = bins._fullest_rows_first(sizes, length, 0)
    filled = [sum(size for size, row in zip(sizes, row_ids, strict=True) if row == row_id) for row_id in range(rows)]
    totals = [sum(subset) for count in range(len(sizes)) for subset in combinations(sizes[1:], count)]
    assert filled[0] == sizes[0] + max(total for total in totals if sizes[0] + total <= length)
    assert max(filled) <= length
    assert sorted(set(row_ids)) == list(range(rows))


def test_rows_of_images_need_few_rows_more_than_the_lower_bound() -> None:
    common_counts = [
        7,
        8,
        8,
        9,
        9,
        10,
        10,
        10,
        11,
        11,
        11,
        12,
        12,
        13,
        13,
        13,
        14,
        14,
        15,
        16,
        17,
        19,
        22,
        23,
        27,
        34,
        43,
        71,
    ]
    word_counts = np.random.default_rng(2).choice(common_counts, 20_000)
    for image_tokens, length in ((64, 256), (64, 1024), (144, 1024)):
        sizes = (image_tokens + word_counts).astype(np.int32)
        row_ids, rows = best_fit(sizes, length)
        filled = np.bincount(row_ids, weights=sizes, minlength=rows)
        assert len(filled) == rows
        assert filled.max() <= length
        lower_bound = max(int(sizes.sum()) / length, len(sizes) / (length // int(sizes.min())))
        assert rows <= lower_bound * 1.04


def test_rows_never_mix_segments_of_two_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    index = texts([5 + number % 11 for number in range(300)])
    monkeypatch.setattr("firstsight.data.packing.bins.FIT_WINDOW", 30)
    rows = pack(index, length=32, image_tokens=0, packing="best_fit")
    for row in range(rows.row_count):
        samples = rows.segments.sample[rows.segment_offsets[row] : rows.segment_offsets[row + 1]]
        assert len(set((samples // 30).tolist())) == 1
