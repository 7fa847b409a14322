"""Differences over seeds and questions against the t test, the analysis of variance, and limiting cases."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from firstsight.evaluate.statistics.differences import (
    DifferenceEstimate,
    Thresholds,
    crossed_estimate,
    estimate_question_variance,
    estimate_seed_variance,
    pool_seed_variance,
    regular_arms,
)

RANDOM = np.random.default_rng(11)


def test_without_question_variance_it_is_the_paired_t_test() -> None:
    a, b = RANDOM.normal(size=(2, 5))
    reference = stats.ttest_rel(a, b)
    estimate = crossed_estimate(a - b)
    assert estimate is not None
    assert estimate.interval(0.9) == pytest.approx(tuple(reference.confidence_interval(0.9)), rel=2e-3)
    assert estimate.p_value() == pytest.approx(reference.pvalue, rel=5e-3)


def test_without_seed_variance_it_is_normal() -> None:
    estimate = DifferenceEstimate(
        mean=0.1, seed_variance=1e-12, dof=30, question_variance=0.04, residual_variance=1e-12
    )
    assert estimate.interval(0.95) == pytest.approx((0.1 - 1.96 * 0.2, 0.1 + 1.96 * 0.2), rel=1e-3)


def test_a_single_seed_has_no_estimate() -> None:
    assert crossed_estimate(np.array([0.3])) is None


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_p_value_and_interval_agree(level: float) -> None:
    estimate = DifferenceEstimate(mean=0.02, seed_variance=1e-4, dof=2, question_variance=2e-4, residual_variance=5e-5)
    low, high = estimate.interval(level)
    assert estimate.p_value(Thresholds(low, low)) == pytest.approx(1 - level, rel=1e-3)
    assert estimate.p_value(Thresholds(high, high)) == pytest.approx(1 - level, rel=1e-3)
    assert estimate.p_value(Thresholds(0.02, 0.02)) == pytest.approx(1)


def test_variances_are_those_of_the_two_way_analysis() -> None:
    """Balanced, one question per image: mean squares of seeds, questions and residuals, over seeds x questions."""
    d = RANDOM.normal(size=(4, 30)) + RANDOM.normal(size=(4, 1)) + RANDOM.normal(size=(1, 30))
    rows, columns = d.mean(1, keepdims=True), d.mean(0, keepdims=True)
    seed_squares = 30 * ((rows - d.mean()) ** 2).sum() / 3
    question_squares = 4 * ((columns - d.mean()) ** 2).sum() / 29
    residual_squares = ((d - rows - columns + d.mean()) ** 2).sum() / (3 * 29)
    estimate = crossed_estimate(d.mean(1), influences=(d - rows) / 30)
    assert estimate is not None
    assert estimate.seed_variance == pytest.approx(seed_squares / 120)
    assert estimate.question_variance == pytest.approx(question_squares / 120)
    assert estimate.residual_variance == pytest.approx(residual_squares / 120)
    assert estimate.standard_error**2 == pytest.approx((seed_squares + question_squares - residual_squares) / 120)


def test_question_variance_shared_by_all_seeds_remains() -> None:
    """Identical seeds: the t interval over seeds has width 0, yet another sample of questions would differ."""
    d = np.tile(RANDOM.normal(size=50), (10, 1))
    estimate = crossed_estimate(d.mean(1), influences=(d - d.mean(1, keepdims=True)) / 50)
    assert estimate is not None
    low, high = estimate.interval()
    assert high - low == pytest.approx(2 * 1.96 * d[0].std(ddof=1) / np.sqrt(50), rel=0.01)


def test_pooled_variance_is_the_mean_over_all_pairs() -> None:
    y = RANDOM.normal(size=(6, 3))
    variance, dof = pool_seed_variance(y)
    assert variance == pytest.approx(np.mean([(y[a] - y[b]).var(ddof=1) for a, b in combinations(range(6), 2)]))
    assert dof == 10


def test_an_outlier_pair_is_not_pooled() -> None:
    y = RANDOM.normal(size=(6, 4))
    assert estimate_seed_variance(y[0] - y[1], y) == pool_seed_variance(y)
    y[0] *= 50
    assert estimate_seed_variance(y[0] - y[1], y) == (pytest.approx((y[0] - y[1]).var(ddof=1)), 3)
    assert estimate_seed_variance(y[0] - y[1], y[:2]) == (pytest.approx((y[0] - y[1]).var(ddof=1)), 3)


def test_an_arm_that_varies_more_is_left_out_of_the_pool_of_the_others() -> None:
    y = np.random.default_rng(4).normal(size=(6, 6))
    assert regular_arms(y) == list(range(6))
    y[2] *= 20
    assert regular_arms(y) == [0, 1, 3, 4, 5]
    assert estimate_seed_variance(y[0] - y[1], y) == pool_seed_variance(y[[0, 1, 3, 4, 5]])
    swapped = y[[2, 0, 1, 3, 4, 5]]
    assert estimate_seed_variance(y[2] - y[0], swapped) == (pytest.approx((y[2] - y[0]).var(ddof=1)), 5)


def test_alike_arms_are_all_pooled_in_95_of_100_studies() -> None:
    """The level is that of the whole procedure: over all arms, whatever the common effect of the seeds."""
    rng = np.random.default_rng(5)
    studies = rng.normal(size=(1000, 5, 4)) + 9 * rng.normal(size=(1000, 1, 4))
    share = np.mean([len(regular_arms(y)) == 5 for y in studies])
    assert 0.93 <= share <= 0.975  # three standard errors around 95.2 %


@pytest.mark.parametrize(
    ("mean", "margin", "smallest", "distance", "sign"),
    [(3, 0, 0, 3, 1), (-3, 0, 0, 3, -1), (3, 0, 2, 3, 1), (0.5, 0, 2, 1.5, -1), (-3, 0, -2, 3, -1), (1, 0, -2, 3, 1)],
)
def test_a_mean_decides_beyond_the_margin_or_short_of_the_smallest_difference(
    mean: float, margin: float, smallest: float, distance: float, sign: int
) -> None:
    distances, signs = Thresholds(margin, smallest).decide(np.array([mean]))
    assert (distances[0], signs[0]) == (distance, sign)


@pytest.mark.parametrize("truth", [0.0, 0.3, 1.0], ids=["at the margin", "between", "smallest"])
def test_two_thresholds_decide_wrongly_in_at_most_5_of_100_studies(truth: float) -> None:
    rng, thresholds, num_wrong = np.random.default_rng(6), Thresholds(0.0, 1.0), 0
    for _ in range(2000):
        estimate = crossed_estimate(truth + rng.normal(size=8))
        assert estimate is not None
        _, signs = thresholds.decide(np.array([estimate.mean]))
        is_wrong = (signs[0] > 0 and truth <= 0) or (signs[0] < 0 and truth >= 1)
        num_wrong += is_wrong and estimate.p_value(thresholds) <= 0.05
    assert num_wrong / 2000 <= 0.036  # one side at 2.5 %, and three standard errors


def test_a_single_cluster_has_no_question_variance() -> None:
    assert estimate_question_variance(np.zeros((3, 1))) == (0.0, 0.0)


def test_equal_scores_have_an_interval_of_width_zero() -> None:
    estimate = crossed_estimate(np.zeros(2), influences=np.zeros((2, 10)))
    assert estimate is not None
    assert estimate.p_value() == pytest.approx(1)
    assert estimate.interval() == pytest.approx((0, 0))
