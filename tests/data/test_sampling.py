from __future__ import annotations

import hashlib
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight.data.sampling import (
    SHUFFLE_BLOCK,
    SHUFFLE_WINDOW,
    assign_sources,
    epoch_permutation,
    grouped_permutation,
    source_counts,
    sources_at,
)
from firstsight.errors import MixError

from .reference import source_at

shares = st.fractions(min_value=0, max_value=1, max_denominator=1000)


@given(share=shares, start=st.integers(0, 10**9))
def test_every_prefix_of_n_rows_holds_the_floor_of_n_times_share(share: Fraction, start: int) -> None:
    images, texts = int(start * share), start - int(start * share)
    for row in range(start, start + 50):
        is_image, draws = source_at(row, share)
        assert draws == (images if is_image else texts)
        images, texts = images + is_image, texts + (not is_image)
        assert images == (row + 1) * share.numerator // share.denominator


@given(share=shares, start=st.integers(0, 10**6))
def test_sources_at_agrees_with_the_definition(share: Fraction, start: int) -> None:
    is_image, draws = sources_at(np.arange(start, start + 40), share)
    assert [(bool(c), int(n)) for c, n in zip(is_image, draws, strict=True)] == [
        source_at(row, share) for row in range(start, start + 40)
    ]


@pytest.mark.parametrize("share", [Fraction(0), Fraction(1)])
def test_shares_of_zero_and_one_have_one_kind_of_row(share: Fraction) -> None:
    assert {source_at(row, share) for row in range(100)} == {(bool(share), row) for row in range(100)}


@given(weights=st.lists(st.integers(0, 20), min_size=1, max_size=4).filter(any))
def test_assign_sources_numbers_the_rows_of_each_source_without_gaps(weights: list[int]) -> None:
    parts = [Fraction(weight, sum(weights)) for weight in weights]
    source_ids, draws = assign_sources(np.arange(500), parts)
    counts = Counter[int]()
    for row, (source_id, draw) in enumerate(zip(source_ids.tolist(), draws.tolist(), strict=True), start=1):
        assert draw == counts[source_id]
        counts[source_id] += 1
        assert counts[0] == row * parts[0].numerator // parts[0].denominator
        assert all(abs(counts[k] - row * share) < len(parts) for k, share in enumerate(parts))
        assert all(counts[k] == 0 for k, share in enumerate(parts) if share == 0)


def test_assign_sources_refuses_shares_that_do_not_sum_to_one() -> None:
    with pytest.raises(MixError, match="sum to 1"):
        assign_sources(np.arange(3), [Fraction(1, 2)])


@given(count=st.integers(1, 700), seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 5))
def test_every_epoch_visits_every_row_once(count: int, seed: int, epoch: int) -> None:
    epochs, rows = epoch_permutation(np.arange(epoch * count, (epoch + 1) * count), count=count, seed=seed)
    assert set(epochs.tolist()) == {epoch}
    assert sorted(rows.tolist()) == list(range(count))


@given(count=st.integers(1, 10**12), seed=st.integers(0, 99), data=st.data())
def test_a_draw_is_the_same_alone_and_among_its_neighbours(count: int, seed: int, data: st.DataObject) -> None:
    draws = data.draw(st.integers(0, count - 1))
    [alone] = epoch_permutation(draws, count=count, seed=seed)[1]
    near = np.arange(max(0, draws - 3), min(count, draws + 4))
    assert 0 <= alone < count
    assert alone == epoch_permutation(near, count=count, seed=seed)[1][near == draws]


def test_orders_differ_between_seeds_and_epochs_and_are_uncorrelated() -> None:
    count = 2000
    first, second = (epoch_permutation(np.arange(2 * count), count=count, seed=seed)[1] for seed in (1, 2))
    assert (first[:count] != first[count:]).mean() > 0.99
    assert (first[:count] != second[:count]).mean() > 0.99
    assert abs(np.corrcoef(np.arange(count), first[:count])[0, 1]) < 0.1
    fixed = [(epoch_permutation(np.arange(60), count=60, seed=seed)[1] == np.arange(60)).sum() for seed in range(2000)]
    assert abs(np.mean(fixed) - 1) < 0.1, "a random permutation has one fixed point on average"


def test_the_order_of_short_sources_is_unchanged() -> None:
    """Golden: these bytes order the rows of every run so far, up to the longest freely shuffled source."""
    assert epoch_permutation(np.arange(8), count=300, seed=7)[1].tolist() == [258, 112, 298, 199, 204, 22, 216, 134]
    actual = [
        epoch_permutation(np.arange(2 * count), count=count, seed=seed)[1].astype("<i8").tobytes()
        for count in (1, 3, 700, 65_535, 65_536)
        for seed in (0, 1, 2**64 - 1)
    ]
    digest = hashlib.sha256(b"".join(actual)).hexdigest()
    assert digest == "354faa2b69bf6153e69fe8a5fae4fe3f4c0e2db97ba1c4711aee303096b95fd2"


@settings(max_examples=12, deadline=None)
@given(
    count=st.integers(SHUFFLE_WINDOW + 1, 3 * SHUFFLE_WINDOW), seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 3)
)
def test_long_sources_visit_every_row_once_an_epoch(count: int, seed: int, epoch: int) -> None:
    epochs, rows = epoch_permutation(np.arange(epoch * count, (epoch + 1) * count), count=count, seed=seed)
    assert set(epochs.tolist()) == {epoch}
    assert (np.bincount(rows, minlength=count) == 1).all()
    assert len(rows) == count


@pytest.mark.parametrize(
    "count", [SHUFFLE_WINDOW + 1, SHUFFLE_WINDOW + SHUFFLE_BLOCK, 3 * SHUFFLE_WINDOW, 3 * SHUFFLE_WINDOW + 77, 10**7]
)
def test_a_window_of_draws_comes_from_few_blocks(count: int) -> None:
    """Window by window at most 256 blocks, so that remote files are read in long parts; any other, two windows."""
    for window in range(min(3, count // SHUFFLE_WINDOW)):
        rows = epoch_permutation(
            np.arange(window * SHUFFLE_WINDOW, (window + 1) * SHUFFLE_WINDOW), count=count, seed=5
        )[1]
        blocks = np.unique(rows // SHUFFLE_BLOCK)
        assert len(blocks) <= SHUFFLE_WINDOW // SHUFFLE_BLOCK
        crossing = epoch_permutation(
            np.arange(window * SHUFFLE_WINDOW + 999, (window + 1) * SHUFFLE_WINDOW + 999) % count, count=count, seed=5
        )
        assert len(np.unique(crossing[1] // SHUFFLE_BLOCK)) <= 2 * SHUFFLE_WINDOW // SHUFFLE_BLOCK


def test_long_orders_differ_between_seeds_and_epochs_and_are_uncorrelated() -> None:
    count = 4 * SHUFFLE_WINDOW + 100
    first, second = (epoch_permutation(np.arange(2 * count), count=count, seed=seed)[1] for seed in (1, 2))
    assert (first[:count] != first[count:]).mean() > 0.99
    assert (first[:count] != second[:count]).mean() > 0.99
    assert abs(np.corrcoef(np.arange(SHUFFLE_WINDOW), first[:SHUFFLE_WINDOW])[0, 1]) < 0.02, "rows inside a window"
    assert abs(np.corrcoef(np.arange(count), first[:count])[0, 1]) < 0.15, "windows among each other"
    assert np.abs(np.diff(first[:SHUFFLE_WINDOW])).min() >= 1
    assert (np.abs(np.diff(first[:SHUFFLE_WINDOW])) < SHUFFLE_BLOCK).mean() < 0.02, (
        "neighbours in a file are rarely drawn in a row"
    )


@given(count=st.integers(1, 300), group_size=st.integers(1, 5), seed=st.integers(0, 99))
def test_rows_of_a_group_are_drawn_one_after_the_other(count: int, group_size: int, seed: int) -> None:
    rows = epoch_permutation(np.arange(2 * count), count=count, seed=seed)[1].tolist()
    actual = grouped_permutation(
        np.arange(2 * count * group_size), count=count * group_size, group_size=group_size, seed=seed
    ).tolist()
    assert actual == [row * group_size + source_ids for row in rows for source_ids in range(group_size)]


@given(weights=st.lists(st.integers(0, 20), min_size=1, max_size=4).filter(any), rows=st.integers(0, 400))
def test_source_counts_agrees_with_assign_sources(weights: list[int], rows: int) -> None:
    parts = [Fraction(weight, sum(weights)) for weight in weights]
    assert (
        source_counts(rows, parts)
        == np.bincount(assign_sources(np.arange(rows), parts)[0], minlength=len(parts)).tolist()
    )
