"""Holm's correction against a worked example, against laws, and against a null that is known."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.evaluate.statistics.differences import holm

FAMILIES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def test_a_worked_example() -> None:
    # By hand: .005 <= .05/4; .01 <= .05/3; .03 > .05/2 stops; so .04 is no difference either.
    found = holm([0.01, 0.04, 0.03, 0.005])
    assert [one.adjusted for one in found] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [one.level for one in found] == pytest.approx([1 - 0.05 / 3, 0.975, 0.975, 1 - 0.05 / 4])


def test_one_comparison_needs_no_correction() -> None:
    assert (holm([0.03])[0].adjusted, holm([0.03])[0].level) == (0.03, 0.95)
    assert holm([]) == []


def test_pairs_that_were_chosen_by_looking_count_with_those_passed_over() -> None:
    assert holm([0.01, 0.02], num_comparisons=6)[0].adjusted == pytest.approx(0.06)
    assert holm([0.01, 0.02], num_comparisons=2) == holm([0.01, 0.02])


@given(FAMILIES)
def test_whatever_bonferroni_counts_holm_counts(p: list[float]) -> None:
    found = holm(p)
    assert all(one.adjusted <= 0.05 for one, value in zip(found, p, strict=True) if value <= 0.05 / len(p))
    assert all(value <= one.adjusted <= min(1.0, len(p) * value) for one, value in zip(found, p, strict=True))


@given(FAMILIES)
def test_the_level_shown_is_the_decision(p: list[float]) -> None:
    for value, one in zip(p, holm(p), strict=True):
        edge = abs(one.adjusted - 0.05) < 1e-9
        assert edge or (value <= 1 - one.level) == (one.adjusted <= 0.05)


@given(FAMILIES)
def test_a_smaller_p_is_never_worse_off(p: list[float]) -> None:
    ranked = sorted(zip(p, (one.adjusted for one in holm(p)), strict=True))
    assert all(a[1] <= b[1] for a, b in pairwise(ranked))


def test_where_nothing_differs_a_family_rarely_says_so() -> None:
    worlds = np.random.default_rng(0).random((4000, 5))
    wrong = np.mean([min(one.adjusted for one in holm(p)) <= 0.05 for p in worlds.tolist()])
    assert 0.04 < wrong < 0.058  # 5 % by theory; three standard errors above
