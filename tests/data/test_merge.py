"""Shares of tokens: laws of the merge, against a plain reading of its definition."""

from __future__ import annotations

from fractions import Fraction
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight.data.loader.mixing import RowMixing, SourceSequence, TokenMixing, UnitCounter, merge_by_units
from firstsight.errors import MixError

from .reference import source_at

weights = st.lists(st.integers(0, 50), min_size=1, max_size=4).filter(any)
sizes = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any), min_size=4, max_size=4)


def shares_of(found: list[int]) -> list[Fraction]:
    return [Fraction(weight, sum(found)) for weight in found]


def round_and_round(held: list[int]) -> UnitCounter:
    """A source that begins anew after its last row."""
    return lambda nth: np.array(held, dtype=np.int64)[nth % len(held)]


def by_definition(sources: list[list[int]], shares: list[Fraction], rows: int) -> list[int]:
    """Always the source whose next row has the smallest key, with exact fractions."""
    places, totals, found = [0] * len(shares), [0] * len(shares), list[int]()
    for _ in range(rows):
        keys = [
            ((totals[i] + sources[i][places[i] % len(sources[i])]) / share, i)
            for i, share in enumerate(shares)
            if share
        ]
        chosen = min(keys)[1]
        totals[chosen] += sources[chosen][places[chosen] % len(sources[chosen])]
        places[chosen] += 1
        found.append(chosen)
    return found


@given(weights=weights, sizes=sizes, rows=st.integers(1, 120))
def test_the_merge_is_its_definition(weights: list[int], sizes: list[list[int]], rows: int) -> None:
    shares = shares_of(weights)
    found = merge_by_units([round_and_round(held) for held in sizes[: len(shares)]], shares, rows)
    assert found.tolist() == by_definition(sizes, shares, rows)


@given(weights=weights, sizes=sizes, rows=st.integers(1, 200))
def test_on_every_prefix_each_share_is_off_by_less_than_one_row_of_each(
    weights: list[int], sizes: list[list[int]], rows: int
) -> None:
    shares = shares_of(weights)
    found = merge_by_units([round_and_round(held) for held in sizes[: len(shares)]], shares, rows).tolist()
    slack = sum(max(held) for held, share in zip(sizes, shares, strict=False) if share)
    units, places = [0] * len(shares), [0] * len(shares)
    for part in found:
        units[part] += sizes[part][places[part] % len(sizes[part])]
        places[part] += 1
        for unit, share in zip(units, shares, strict=True):
            assert abs(unit - share * sum(units)) < slack


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), top=st.integers(1, 9999))
def test_long_merges_are_as_exact_as_short_ones(seed: int, top: int) -> None:
    """Many chunks, rows of 10^8 tokens, denominators of 10^4: sums near 10^13, and no bit is lost."""
    rows, share = 150_000, Fraction(top, 10_000)
    held = [np.random.default_rng([seed, part]).integers(0, 10**8, rows) for part in range(2)]
    found = merge_by_units([held[0].__getitem__, held[1].__getitem__], [1 - share, share], rows)
    ones = np.cumsum(found, dtype=np.int64)
    sums = [np.concatenate([[0], np.cumsum(one)]) for one in held]
    for row in (1, 17, 65_535, 65_536, 65_537, 131_072, rows):
        images, text = int(sums[1][ones[row - 1]]), int(sums[0][row - ones[row - 1]])
        assert abs(images - share * (images + text)) < 2 * 10**8
    keys = [sums[0][1:] / float(1 - share), sums[1][1:] / float(share)]
    places = [np.cumsum(found == part) - 1 for part in range(2)]
    took = np.where(found == 0, keys[0][places[0]], keys[1][places[1]])
    assert (np.diff(took) >= -1e-3).all(), "keys never fall"


def test_rows_without_units_hold_nobody_up_and_starve_nobody() -> None:
    sparse = [0] * 99 + [10]
    found = merge_by_units(
        [round_and_round(sparse), round_and_round([1])], [Fraction(1, 2), Fraction(1, 2)], 2200
    ).tolist()
    assert found == by_definition([sparse, [1]], [Fraction(1, 2), Fraction(1, 2)], 2200)
    assert 190 < found.count(1) < 210
    assert found[:99] == [0] * 99, "they have the key of what came before them, here the beginning"


def test_shares_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(MixError, match="denominators of at most"):
        merge_by_units([round_and_round([1])] * 2, [Fraction(1, 10**9), 1 - Fraction(1, 10**9)], 4)


@given(kinds=st.lists(st.integers(0, 2), max_size=40), repeat=st.integers(1, 400), data=st.data())
def test_kinds_find_any_row_and_count_any_prefix(kinds: list[int], repeat: int, data: st.DataObject) -> None:
    every = np.array(kinds * repeat, dtype=np.uint8)
    held, rows = SourceSequence.from_source_ids(every, source_count=3), data.draw(st.integers(0, len(every)))
    assert held.draw_counts(rows) == np.bincount(every[:rows], minlength=3).tolist()
    nth = np.arange(data.draw(st.integers(0, rows)), rows)[::-1]
    part, place = held.source_draws(nth)
    assert part.tolist() == every[nth].tolist()
    assert [int((every[:n] == every[n]).sum()) for n in nth[:20]] == place.tolist()[:20]


spans = st.lists(st.tuples(st.integers(0, 60), st.fractions(0, 1, max_denominator=20)), min_size=1, max_size=4).filter(
    lambda found: sum(rows for rows, _ in found) > 0
)


@given(spans=spans)
def test_every_span_begins_its_share_anew(spans: list[tuple[int, Fraction]]) -> None:
    total, course = sum(rows for rows, _ in spans), RowMixing(spans)
    pictured, nth = course.draws_at(np.arange(total))
    wanted = [source_at(row, share)[0] for rows, share in spans for row in range(rows)]
    assert pictured.tolist() == wanted
    for kind in (False, True):
        assert nth[pictured == kind].tolist() == list(range(wanted.count(kind)))
    prefix = [(rows - images, images) for rows, images in enumerate(accumulate(wanted, initial=0))]
    assert [course.text_image_counts(rows) for rows in range(total + 1)] == prefix


@given(spans=spans, sizes=sizes)
def test_spans_of_tokens_keep_their_share_and_go_on_in_each_source(
    spans: list[tuple[int, Fraction]], sizes: list[list[int]]
) -> None:
    text, images = (sizes[part] for part in range(2))
    course, total = TokenMixing(spans, round_and_round(text), round_and_round(images)), sum(rows for rows, _ in spans)
    pictured, nth = course.draws_at(np.arange(total))
    for kind in (False, True):
        assert nth[pictured == kind].tolist() == list(range(int((pictured == kind).sum())))
    held = np.where(pictured, round_and_round(images)(nth), round_and_round(text)(nth))
    start = 0
    for rows, share in spans:
        for stop in range(start + 1, start + rows + 1):
            whole, seen = int(held[start:stop].sum()), int(held[start:stop][pictured[start:stop]].sum())
            assert abs(seen - share * whole) < max(text) + max(images)
        start += rows
