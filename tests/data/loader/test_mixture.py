"""Mixtures of sources: order, counts and units against plain counting."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from firstsight.data.loader import LoaderSource
from firstsight.data.loader.mixture import MixtureSampler
from firstsight.errors import MixError
from firstsight.recipe.mixture import ShareUnit
from tests.data.streams import make_mixture

SHARES = (Fraction(1, 4), Fraction(3, 4))


@pytest.mark.parametrize("counted_in", ["rows", "tokens", "loss_tokens"])
def test_each_source_is_read_pass_by_pass_and_counted(
    captions: LoaderSource, dialogues: LoaderSource, counted_in: ShareUnit
) -> None:
    mixture = make_mixture((captions, SHARES[0]), (dialogues, SHARES[1]), counted_in=counted_in)
    sampler = MixtureSampler(mixture, seeds=[1, 2], rows=200)
    source_ids, rows = sampler.rows_at(np.arange(200))
    for source_id, source in enumerate(mixture.sources):
        source_rows, size = rows[source_ids == source_id].tolist(), source.packed_rows.row_count
        for start in range(0, len(source_rows) - size + 1, size):
            assert sorted(source_rows[start : start + size]) == list(range(size)), "a pass has every row once"
    for count in (0, 1, 7, 100, 200):
        counts = Counter(source_ids[:count].tolist())
        assert sampler.draw_counts(count) == [counts[0], counts[1]]
    units = [int(mixture.sources[s].units(np.array([r]), counted_in)[0]) for s, r in zip(source_ids, rows, strict=True)]
    assert sampler.units_at(np.arange(200), counted_in).tolist() == units
    slack = sum(source.max_units(counted_in) for source in mixture.sources)
    for count in range(1, 201):
        first = sum(unit for unit, source_id in zip(units[:count], source_ids[:count], strict=True) if source_id == 0)
        assert abs(first - SHARES[0] * sum(units[:count])) < slack


@pytest.mark.parametrize("counted_in", ["rows", "tokens"])
def test_parts_of_a_split_row_are_drawn_together(text: LoaderSource, counted_in: ShareUnit) -> None:
    halves = replace(text, packed_rows=text.packed_rows.split_rows(2), group_size=2)
    mixture = make_mixture((halves, SHARES[0]), (replace(halves, name="second"), SHARES[1]), counted_in=counted_in)
    sampler = MixtureSampler(mixture, seeds=[1, 2], rows=61)
    source_ids, rows = sampler.rows_at(np.arange(61))
    assert (source_ids[0:60:2] == source_ids[1:60:2]).all()
    assert (rows[0:60:2] % 2 == 0).all() and (rows[1:60:2] == rows[0:60:2] + 1).all()
    for count in range(62):
        assert sampler.draw_counts(count) == np.bincount(source_ids[:count], minlength=2).tolist()


def test_shares_and_groups_of_a_mixture_are_checked(text: LoaderSource, captions: LoaderSource) -> None:
    with pytest.raises(MixError, match="shares of a mixture must sum to 1"):
        MixtureSampler(make_mixture((captions, Fraction(1, 2))), seeds=[1], rows=9)
    halves = replace(text, name="halves", packed_rows=text.packed_rows.split_rows(2), group_size=2)
    with pytest.raises(MixError, match="rows of one mixture have the same group size"):
        MixtureSampler(make_mixture((text, SHARES[0]), (halves, SHARES[1])), seeds=[1, 2], rows=9)
