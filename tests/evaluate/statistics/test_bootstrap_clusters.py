"""Means, influence functions and resample means of clustered scores, against definitions computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from firstsight.errors import DataError
from firstsight.evaluate.statistics.bootstrap import ClusteredScores, cluster_scores

RANDOM = np.random.default_rng(5)


def test_the_mean_is_over_tasks_then_splits_then_questions() -> None:
    sample = cluster_scores(
        [1.0, 0.0, 0.0, 1.0, 1.0, 0.0], clusters=list("aabbcc"), tasks=list("ppppqq"), splits=list("xxxyzz")
    )
    assert sample.mean == pytest.approx(((1 / 3 + 1) / 2 + 0.5) / 2)
    assert sample.weights.tolist() == [0.25, 0.25, 0.5]


def test_influence_is_the_derivative_by_a_clusters_weight() -> None:
    scores, images = RANDOM.random(40), RANDOM.integers(0, 9, 40).tolist()
    sample = cluster_scores(scores, clusters=images, tasks=RANDOM.integers(0, 3, 40).tolist())
    derivatives = []
    for index in range(sample.num_clusters):
        weights = np.ones((sample.num_clusters, 1))
        weights[index] += 1e-6
        changed = ClusteredScores(sums=sample.sums * weights, counts=sample.counts * weights, weights=sample.weights)
        derivatives.append((changed.mean - sample.mean) / 1e-6)
    assert sample.influence() == pytest.approx(np.array(derivatives), abs=1e-5)


def test_no_question_is_refused() -> None:
    with pytest.raises(DataError, match="without questions"):
        cluster_scores([], clusters=[])


def test_a_resample_without_a_cell_is_the_mean_over_the_cells_that_it_has() -> None:
    sample = cluster_scores([1.0, 0.0, 0.5], clusters=list("abc"), splits=list("xxy"))
    sums, counts = np.array([[2.0, 0.5], [2.0, 0.0]]), np.array([[2.0, 1.0], [2.0, 0.0]])
    assert sample.resample_means(sums, counts).tolist() == [0.75, 1.0]
