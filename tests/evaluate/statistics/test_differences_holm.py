"""Holm's correction against a worked example, its properties, and simulated null hypotheses."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.evaluate.statistics.differences import holm

FAMILIES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def test_a_worked_example() -> None:
    # By hand: .005 <= .05/4; .01 <= .05/3; .03 > .05/2 stops; so .04 is not significant either.
    decisions = holm([0.01, 0.04, 0.03, 0.005])
    assert [decision.adjusted for decision in decisions] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [decision.level for decision in decisions] == pytest.approx([1 - 0.05 / 3, 0.975, 0.975, 1 - 0.05 / 4])


def test_one_comparison_needs_no_correction() -> None:
    assert (holm([0.03])[0].adjusted, holm([0.03])[0].level) == (0.03, 0.95)
    assert holm([]) == []


def test_selected_comparisons_are_corrected_for_all_candidates() -> None:
    assert holm([0.01, 0.02], num_comparisons=6)[0].adjusted == pytest.approx(0.06)
    assert holm([0.01, 0.02], num_comparisons=2) == holm([0.01, 0.02])


@given(FAMILIES)
def test_holm_rejects_whatever_bonferroni_rejects(p: list[float]) -> None:
    decisions = holm(p)
    assert all(
        decision.adjusted <= 0.05 for decision, value in zip(decisions, p, strict=True) if value <= 0.05 / len(p)
    )
    assert all(
        value <= decision.adjusted <= min(1.0, len(p) * value) for decision, value in zip(decisions, p, strict=True)
    )


@given(FAMILIES)
def test_the_intervals_level_agrees_with_the_decision(p: list[float]) -> None:
    for value, decision in zip(p, holm(p), strict=True):
        is_border = abs(decision.adjusted - 0.05) < 1e-9
        assert is_border or (value <= 1 - decision.level) == (decision.adjusted <= 0.05)


@given(FAMILIES)
def test_a_smaller_p_never_has_a_larger_adjusted_p(p: list[float]) -> None:
    ranked = sorted(zip(p, (decision.adjusted for decision in holm(p)), strict=True))
    assert all(a[1] <= b[1] for a, b in pairwise(ranked))


def test_the_family_wise_error_rate() -> None:
    trials = np.random.default_rng(0).random((4000, 5))
    error_rate = np.mean([min(decision.adjusted for decision in holm(p)) <= 0.05 for p in trials.tolist()])
    assert 0.04 < error_rate < 0.058  # 5 % by theory; three standard errors above
