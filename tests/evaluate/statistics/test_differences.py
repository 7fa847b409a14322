"""A difference over seeds and questions against the t test, analysis of variance, and its own limits."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from firstsight.evaluate.statistics.differences import (
    DifferenceEstimate,
    crossed_estimate,
    estimate_question_variance,
    estimate_seed_variance,
    pool_seed_variance,
)

RANDOM = np.random.default_rng(11)


def test_where_only_seeds_matter_it_is_the_paired_t_test() -> None:
    a, b = RANDOM.normal(size=(2, 5))
    known = stats.ttest_rel(a, b)
    found = crossed_estimate(a - b)
    assert found is not None
    assert found.interval(0.9) == pytest.approx(tuple(known.confidence_interval(0.9)), rel=2e-3)
    assert found.p_value() == pytest.approx(known.pvalue, rel=5e-3)


def test_where_only_questions_matter_it_is_the_normal_law() -> None:
    found = DifferenceEstimate(mean=0.1, seed_variance=1e-12, dof=30, question_variance=0.04, residual_variance=1e-12)
    assert found.interval(0.95) == pytest.approx((0.1 - 1.96 * 0.2, 0.1 + 1.96 * 0.2), rel=1e-3)


def test_one_seed_says_nothing_of_the_next() -> None:
    assert crossed_estimate(np.array([0.3])) is None


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_p_and_interval_are_one(level: float) -> None:
    found = DifferenceEstimate(mean=0.02, seed_variance=1e-4, dof=2, question_variance=2e-4, residual_variance=5e-5)
    low, high = found.interval(level)
    assert found.p_value(low) == pytest.approx(1 - level, rel=1e-3)
    assert found.p_value(high) == pytest.approx(1 - level, rel=1e-3)
    assert found.p_value(0.02) == pytest.approx(1)


def test_variances_are_those_of_two_way_analysis() -> None:
    """Balanced, one question a picture: mean squares of seeds, questions and residue, each over seeds x questions."""
    d = RANDOM.normal(size=(4, 30)) + RANDOM.normal(size=(4, 1)) + RANDOM.normal(size=(1, 30))
    rows, columns = d.mean(1, keepdims=True), d.mean(0, keepdims=True)
    of_seeds = 30 * ((rows - d.mean()) ** 2).sum() / 3
    of_questions = 4 * ((columns - d.mean()) ** 2).sum() / 29
    of_rest = ((d - rows - columns + d.mean()) ** 2).sum() / (3 * 29)
    found = crossed_estimate(d.mean(1), influences=(d - rows) / 30)
    assert found is not None
    assert found.seed_variance == pytest.approx(of_seeds / 120)
    assert found.question_variance == pytest.approx(of_questions / 120)
    assert found.residual_variance == pytest.approx(of_rest / 120)
    assert found.standard_error**2 == pytest.approx((of_seeds + of_questions - of_rest) / 120)


def test_questions_that_all_seeds_share_are_not_averaged_away() -> None:
    """Many seeds of one deterministic recipe: their t interval has no width, yet another benchmark would differ."""
    d = np.tile(RANDOM.normal(size=50), (10, 1))
    found = crossed_estimate(d.mean(1), influences=(d - d.mean(1, keepdims=True)) / 50)
    assert found is not None
    low, high = found.interval()
    assert high - low == pytest.approx(2 * 1.96 * d[0].std(ddof=1) / np.sqrt(50), rel=0.01)


def test_pooled_variance_is_the_mean_over_all_pairs() -> None:
    y = RANDOM.normal(size=(6, 3))
    variance, freedom = pool_seed_variance(y)
    assert variance == pytest.approx(np.mean([(y[a] - y[b]).var(ddof=1) for a, b in combinations(range(6), 2)]))
    assert freedom == 10


def test_a_pair_like_the_others_borrows_from_them_and_an_unruly_one_does_not() -> None:
    y = RANDOM.normal(size=(6, 4))
    assert estimate_seed_variance(y[0] - y[1], y) == pool_seed_variance(y)
    y[0] *= 50
    assert estimate_seed_variance(y[0] - y[1], y) == (pytest.approx((y[0] - y[1]).var(ddof=1)), 3)
    assert estimate_seed_variance(y[0] - y[1], y[:2]) == (pytest.approx((y[0] - y[1]).var(ddof=1)), 3)


def test_too_little_to_speak_of_questions() -> None:
    assert estimate_question_variance(np.zeros((3, 1))) == (0.0, 0.0)


def test_nothing_moves_means_no_doubt_and_no_difference() -> None:
    found = crossed_estimate(np.zeros(2), influences=np.zeros((2, 10)))
    assert found is not None
    assert found.p_value() == pytest.approx(1)
    assert found.interval() == pytest.approx((0, 0))
