"""Shares of rows and tokens: the properties of merging, against a plain implementation of its definition."""

from __future__ import annotations

from fractions import Fraction
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight.data.loader.mixture import RowMixing, SourceSequence, UnitCounter, merge_by_units, merge_spans
from firstsight.errors import MixError
from tests.data.reference import source_at

weights = st.lists(st.integers(0, 50), min_size=1, max_size=4).filter(any)

sizes = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any), min_size=4, max_size=4)


def shares_of(merged: list[int]) -> list[Fraction]:
    return [Fraction(weight, sum(merged)) for weight in merged]


def cyclic_units(units: list[int]) -> UnitCounter:
    """A source that starts again after its last row."""
    return lambda positions: np.array(units, dtype=np.int64)[positions % len(units)]


def merge_by_definition(sources: list[list[int]], shares: list[Fraction], rows: int) -> list[int]:
    """Always the source whose next row has the smallest key, in exact fractions."""
    positions, totals, merged = [0] * len(shares), [0] * len(shares), list[int]()
    for _ in range(rows):
        keys = [
            ((totals[i] + sources[i][positions[i] % len(sources[i])]) / share, i)
            for i, share in enumerate(shares)
            if share
        ]
        chosen = min(keys)[1]
        totals[chosen] += sources[chosen][positions[chosen] % len(sources[chosen])]
        positions[chosen] += 1
        merged.append(chosen)
    return merged


@given(weights=weights, sizes=sizes, rows=st.integers(1, 120))
def test_merging_equals_its_definition(weights: list[int], sizes: list[list[int]], rows: int) -> None:
    shares = shares_of(weights)
    merged = merge_by_units([cyclic_units(units) for units in sizes[: len(shares)]], shares, rows)
    assert merged.tolist() == merge_by_definition(sizes, shares, rows)


@given(weights=weights, sizes=sizes, rows=st.integers(1, 200))
def test_on_every_prefix_each_share_is_off_by_less_than_a_row_of_each_source(
    weights: list[int], sizes: list[list[int]], rows: int
) -> None:
    shares = shares_of(weights)
    merged = merge_by_units([cyclic_units(units) for units in sizes[: len(shares)]], shares, rows).tolist()
    slack = sum(max(units) for units, share in zip(sizes, shares, strict=False) if share)
    units, positions = [0] * len(shares), [0] * len(shares)
    for source_id in merged:
        units[source_id] += sizes[source_id][positions[source_id] % len(sizes[source_id])]
        positions[source_id] += 1
        for unit, share in zip(units, shares, strict=True):
            assert abs(unit - share * sum(units)) < slack


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), top=st.integers(1, 9999))
def test_long_merges_are_exact(seed: int, top: int) -> None:
    """Many chunks, rows of 10^8 tokens, denominators of 10^4: sums near 10^13, and no bit is lost."""
    rows, share = 150_000, Fraction(top, 10_000)
    units = [np.random.default_rng([seed, source_id]).integers(0, 10**8, rows) for source_id in range(2)]
    merged = merge_by_units([units[0].__getitem__, units[1].__getitem__], [1 - share, share], rows)
    image_counts = np.cumsum(merged, dtype=np.int64)
    sums = [np.concatenate([[0], np.cumsum(array)]) for array in units]
    for row in (1, 17, 65_535, 65_536, 65_537, 131_072, rows):
        images, text = int(sums[1][image_counts[row - 1]]), int(sums[0][row - image_counts[row - 1]])
        assert abs(images - share * (images + text)) < 2 * 10**8
    keys = [sums[0][1:] / float(1 - share), sums[1][1:] / float(share)]
    positions = [np.cumsum(merged == source_id) - 1 for source_id in range(2)]
    keys_in_order = np.where(merged == 0, keys[0][positions[0]], keys[1][positions[1]])
    assert (np.diff(keys_in_order) >= -1e-3).all(), "keys never fall"


def test_rows_without_units_neither_delay_nor_displace_other_sources() -> None:
    sparse = [0] * 99 + [10]
    merged = merge_by_units([cyclic_units(sparse), cyclic_units([1])], [Fraction(1, 2), Fraction(1, 2)], 2200).tolist()
    assert merged == merge_by_definition([sparse, [1]], [Fraction(1, 2), Fraction(1, 2)], 2200)
    assert 190 < merged.count(1) < 210
    assert merged[:99] == [0] * 99, "they have the key of what came before them, here the beginning"


def test_shares_with_large_denominators_are_refused() -> None:
    with pytest.raises(MixError, match="denominators of at most"):
        merge_by_units([cyclic_units([1])] * 2, [Fraction(1, 10**9), 1 - Fraction(1, 10**9)], 4)


@given(source_ids=st.lists(st.integers(0, 2), max_size=40), repeat=st.integers(1, 400), data=st.data())
def test_a_sequence_finds_any_row_and_counts_any_prefix(
    source_ids: list[int], repeat: int, data: st.DataObject
) -> None:
    all_ids = np.array(source_ids * repeat, dtype=np.uint8)
    units, rows = SourceSequence(all_ids, source_count=3), data.draw(st.integers(0, len(all_ids)))
    assert units.draw_counts(rows) == np.bincount(all_ids[:rows], minlength=3).tolist()
    positions = np.arange(data.draw(st.integers(0, rows)), rows)[::-1]
    source_id, draws = units.source_draws(positions)
    assert source_id.tolist() == all_ids[positions].tolist()
    assert [int((all_ids[:n] == all_ids[n]).sum()) for n in positions[:20]] == draws.tolist()[:20]


spans = st.lists(st.tuples(st.integers(0, 60), st.fractions(0, 1, max_denominator=20)), min_size=1, max_size=4).filter(
    lambda merged: sum(rows for rows, _ in merged) > 0
)


@given(spans=spans)
def test_every_span_starts_its_own_share(spans: list[tuple[int, Fraction]]) -> None:
    total, mixing = sum(rows for rows, _ in spans), RowMixing(spans)
    is_image, positions = mixing.source_draws(np.arange(total))
    expected = [source_at(row, share)[0] for rows, share in spans for row in range(rows)]
    assert is_image.tolist() == expected
    for flag in (False, True):
        assert positions[is_image == flag].tolist() == list(range(expected.count(flag)))
    prefix = [[rows - images, images] for rows, images in enumerate(accumulate(expected, initial=0))]
    assert [mixing.draw_counts(rows) for rows in range(total + 1)] == prefix


@given(spans=spans, sizes=sizes)
def test_spans_of_tokens_have_their_share_and_continue_each_source(
    spans: list[tuple[int, Fraction]], sizes: list[list[int]]
) -> None:
    text, images = (sizes[source_id] for source_id in range(2))
    mixing, total = merge_spans(spans, cyclic_units(text), cyclic_units(images)), sum(rows for rows, _ in spans)
    kinds, positions = mixing.source_draws(np.arange(total))
    is_image = kinds == 1
    for flag in (False, True):
        assert positions[is_image == flag].tolist() == list(range(int((is_image == flag).sum())))
    units = np.where(is_image, cyclic_units(images)(positions), cyclic_units(text)(positions))
    start = 0
    for rows, share in spans:
        for stop in range(start + 1, start + rows + 1):
            total_units, image_units = int(units[start:stop].sum()), int(units[start:stop][is_image[start:stop]].sum())
            assert abs(image_units - share * total_units) < max(text) + max(images)
        start += rows
