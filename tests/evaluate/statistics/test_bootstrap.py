"""Resampling against scipy, against enumeration, and against laws of any bootstrap over clusters."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from firstsight.evaluate.statistics.bootstrap import bca_interval, bootstrap_means
from firstsight.evaluate.statistics.clustered_scores import ClusteredScores, cluster_scores

RANDOM = np.random.default_rng(5)


def plain(scores: np.ndarray, clusters: np.ndarray | None = None) -> ClusteredScores:
    return cluster_scores(scores, clusters=(np.arange(len(scores)) if clusters is None else clusters).tolist())


@pytest.mark.parametrize("draws", [20_000])
def test_drawing_kinds_is_drawing_pictures(draws: int) -> None:
    """Three pictures, two of a kind: every resample can be written down."""
    sample = cluster_scores([1.0, 1.0, 0.0], clusters=["a", "b", "c"])
    exact = np.array([np.mean(drawn) for drawn in product([1.0, 1.0, 0.0], repeat=3)])
    many = plain(np.repeat([1.0, 1.0, 0.0], 100))  # few kinds of many pictures: the other way of drawing
    found = bootstrap_means(sample, num_draws=draws)
    for value in np.unique(exact.round(9)):
        assert np.isclose(found, value).mean() == pytest.approx(np.isclose(exact, value).mean(), abs=0.015)
    other = bootstrap_means(many, num_draws=draws)
    assert (found.mean(), other.mean()) == pytest.approx((2 / 3, 2 / 3), abs=0.01)
    assert other.std() == pytest.approx(np.sqrt(2 / 9 / 300), rel=0.03)
    assert found.std() == pytest.approx(np.sqrt(2 / 9 / 3), rel=0.03)


def test_bca_is_scipys_up_to_the_widening() -> None:
    scores = RANDOM.gamma(0.5, size=400).clip(0, 4) / 4
    known = stats.bootstrap((scores,), np.mean, n_resamples=9999, method="BCa", rng=1).confidence_interval
    low, high = bca_interval(plain(scores))
    assert (low, high) == pytest.approx((known.low, known.high), abs=0.05 * (known.high - known.low))
    # Skewed scores have skewed intervals, which percentiles or a t interval would not give.
    assert high - scores.mean() > 1.05 * (scores.mean() - low)


def test_four_equal_questions_to_a_picture_count_once() -> None:
    scores = (RANDOM.random(60) < 0.4).astype(float)
    once = bca_interval(plain(scores))
    four = bca_interval(plain(np.repeat(scores, 4), np.repeat(np.arange(60), 4)))
    loose = bca_interval(plain(np.repeat(scores, 4)))
    assert four == pytest.approx(once, abs=1e-9)
    assert loose[1] - loose[0] < 0.7 * (once[1] - once[0])


def test_the_order_of_questions_changes_nothing() -> None:
    scores, pictures = RANDOM.choice([0, 0.3, 0.6, 1.0], 90), RANDOM.integers(0, 25, 90)
    order = RANDOM.permutation(90)
    assert bca_interval(plain(scores, pictures)) == pytest.approx(bca_interval(plain(scores[order], pictures[order])))


def test_scores_without_spread_are_not_certain() -> None:
    # Nothing else was seen in n pictures: the exact binomial bound of n out of n, (alpha / 2)^(1 / n).
    low, high = bca_interval(plain(np.ones(20)))
    exact = stats.binomtest(20, 20).proportion_ci(0.95, method="exact")
    assert (low, high) == pytest.approx((exact.low, exact.high))
    assert bca_interval(plain(np.zeros(20)), bounds=(-1.0, 1.0)) == pytest.approx((exact.low - 1, 1 - exact.low))


def test_a_higher_level_is_wider() -> None:
    sample = plain(RANDOM.random(50))
    a, b = bca_interval(sample, level=0.9), bca_interval(sample, level=0.99)
    assert b[0] < a[0] < sample.mean < a[1] < b[1]
