"""Question scores summed by cluster (image) and cell (task and split): all that the bootstrap needs."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from firstsight.errors import DataError

_DECIMALS = 9
"""Sums are rounded, so that they do not depend on the order of summation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusteredScores:
    """Sums and counts of scores, [clusters, cells]. A cell is one split of one task."""

    sums: np.ndarray
    counts: np.ndarray
    weights: np.ndarray
    """Weights of the cells, [cells], with sum 1: equal for tasks, and within a task for its splits."""

    @property
    def num_clusters(self) -> int:
        """The number of images, and of questions without one."""
        return len(self.sums)

    @property
    def mean(self) -> float:
        """The mean over tasks of the mean over splits of the mean over questions."""
        return float(self.weights @ (self.sums.sum(0) / self.counts.sum(0)))

    def influence(self) -> np.ndarray:
        """The influence function of the mean, [clusters]: the values sum to 0, and their squares to its variance."""
        counts = self.counts.sum(0)
        return (self.sums - self.counts * (self.sums.sum(0) / counts)) @ (self.weights / counts)

    def resample_means(self, sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """The mean of each resample, [resamples], from its sums and counts [resamples, cells]; empty cells drop out."""
        has_questions = counts > 0
        means = np.divide(sums, counts, out=np.zeros_like(sums), where=has_questions)
        return (means @ self.weights) / (has_questions @ self.weights)


def cluster_scores(
    scores: Sequence[float] | np.ndarray,
    *,
    clusters: Sequence[Hashable],
    tasks: Sequence[Hashable] | None = None,
    splits: Sequence[Hashable] | None = None,
) -> ClusteredScores:
    """Clustered scores of questions, from columns of equal length; None for a single task or split.

    Raises DataError without any question.
    """
    if len(scores) == 0:
        raise DataError("a task without questions has no score. Check that the benchmark's files are complete.")
    tasks = tasks if tasks is not None else [""] * len(scores)
    splits = splits if splits is not None else [""] * len(scores)
    cluster_codes, _ = _factorise(clusters)
    cell_codes, cells = _factorise(list(zip(tasks, splits, strict=True)))
    shape = int(cluster_codes.max()) + 1, len(cells)
    codes = cluster_codes * shape[1] + cell_codes
    size = shape[0] * shape[1]
    sums = np.bincount(codes, weights=np.asarray(scores, dtype=np.float64), minlength=size).reshape(shape)
    counts = np.bincount(codes, minlength=size).astype(np.float64).reshape(shape)
    cell_tasks = [task for task, _ in cells]
    weights = np.array([1 / (len(set(cell_tasks)) * cell_tasks.count(task)) for task in cell_tasks])
    return ClusteredScores(sums=sums.round(_DECIMALS), counts=counts, weights=weights)


def _factorise(values: Sequence[Any]) -> tuple[np.ndarray, list[Any]]:
    """Integer codes of values, in order of first appearance, and the distinct values in that order."""
    codes: dict[Any, int] = {}
    encoded = np.fromiter((codes.setdefault(value, len(codes)) for value in values), dtype=np.int64, count=len(values))
    return encoded, list(codes)
