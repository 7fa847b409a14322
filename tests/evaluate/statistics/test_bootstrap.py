"""The cluster bootstrap against scipy, against enumeration, and against properties of any bootstrap over clusters."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from firstsight.evaluate.statistics.bootstrap import ClusteredScores, bca_interval, bootstrap_means, cluster_scores

RANDOM = np.random.default_rng(5)


def unclustered(scores: np.ndarray, clusters: np.ndarray | None = None) -> ClusteredScores:
    return cluster_scores(scores, clusters=(np.arange(len(scores)) if clusters is None else clusters).tolist())


@pytest.mark.parametrize("draws", [20_000])
def test_multinomial_and_plain_draws_have_one_distribution(draws: int) -> None:
    """Three clusters, two of them equal: all resamples are enumerated."""
    sample = cluster_scores([1.0, 1.0, 0.0], clusters=["a", "b", "c"])
    exact = np.array([np.mean(resample) for resample in product([1.0, 1.0, 0.0], repeat=3)])
    many = unclustered(np.repeat([1.0, 1.0, 0.0], 100))  # few distinct clusters of many: multinomial draws
    means = bootstrap_means(sample, num_draws=draws)
    for value in np.unique(exact.round(9)):
        assert np.isclose(means, value).mean() == pytest.approx(np.isclose(exact, value).mean(), abs=0.015)
    many_means = bootstrap_means(many, num_draws=draws)
    assert (means.mean(), many_means.mean()) == pytest.approx((2 / 3, 2 / 3), abs=0.01)
    assert many_means.std() == pytest.approx(np.sqrt(2 / 9 / 300), rel=0.03)
    assert means.std() == pytest.approx(np.sqrt(2 / 9 / 3), rel=0.03)


def test_bca_is_scipys_apart_from_the_widening() -> None:
    scores = RANDOM.gamma(0.5, size=400).clip(0, 4) / 4
    reference = stats.bootstrap((scores,), np.mean, n_resamples=9999, method="BCa", rng=1).confidence_interval
    low, high = bca_interval(unclustered(scores))
    assert (low, high) == pytest.approx((reference.low, reference.high), abs=0.05 * (reference.high - reference.low))
    # Skewed scores have skewed intervals, unlike percentile or t intervals.
    assert high - scores.mean() > 1.05 * (scores.mean() - low)


def test_four_equal_questions_about_an_image_count_once() -> None:
    scores = (RANDOM.random(60) < 0.4).astype(float)
    once = bca_interval(unclustered(scores))
    four = bca_interval(unclustered(np.repeat(scores, 4), np.repeat(np.arange(60), 4)))
    independent = bca_interval(unclustered(np.repeat(scores, 4)))
    assert four == pytest.approx(once, abs=1e-9)
    assert independent[1] - independent[0] < 0.7 * (once[1] - once[0])


def test_the_order_of_questions_does_not_matter() -> None:
    scores, clusters = RANDOM.choice([0, 0.3, 0.6, 1.0], 90), RANDOM.integers(0, 25, 90)
    order = RANDOM.permutation(90)
    assert bca_interval(unclustered(scores, clusters)) == pytest.approx(
        bca_interval(unclustered(scores[order], clusters[order]))
    )


def test_scores_without_spread_are_not_certain() -> None:
    # n equal clusters: the exact binomial bound of n out of n, (alpha / 2)^(1 / n).
    low, high = bca_interval(unclustered(np.ones(20)))
    exact = stats.binomtest(20, 20).proportion_ci(0.95, method="exact")
    assert (low, high) == pytest.approx((exact.low, exact.high))
    assert bca_interval(unclustered(np.zeros(20)), bounds=(-1.0, 1.0)) == pytest.approx((exact.low - 1, 1 - exact.low))


def test_a_higher_level_is_wider() -> None:
    sample = unclustered(RANDOM.random(50))
    a, b = bca_interval(sample, level=0.9), bca_interval(sample, level=0.99)
    assert b[0] < a[0] < sample.mean < a[1] < b[1]
