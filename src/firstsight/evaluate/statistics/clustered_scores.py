"""Scores of questions, added up by what stands or falls together: pictures against tasks and splits."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from firstsight.errors import DataError

_DECIMALS = 9
"""Sums are rounded so that equal pictures are equal whatever the order in which their questions were added."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusteredScores:
    """Sums and counts of scores, [clusters, cells]. A cell is one split of one task."""

    sums: np.ndarray
    counts: np.ndarray
    weights: np.ndarray
    """Of the cells, [cells], adding up to 1: a task's share, divided among its splits."""

    @property
    def num_clusters(self) -> int:
        """How many pictures, or questions without one."""
        return len(self.sums)

    @property
    def mean(self) -> float:
        """Mean over tasks of the mean over splits of the mean over questions."""
        return float(self.weights @ (self.sums.sum(0) / self.counts.sum(0)))

    def influence(self) -> np.ndarray:
        """By how much each cluster moves the mean, [clusters]; they add up to 0, and their squares to its variance."""
        question_counts = self.counts.sum(0)
        return (self.sums - self.counts * (self.sums.sum(0) / question_counts)) @ (self.weights / question_counts)

    def resample_means(self, sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """The mean of each resample [resamples, cells], over the cells that it holds."""
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
    """The sample of questions in columns of equal length; one task and one split where they are not given.

    Raises DataError for no question at all.
    """
    if len(scores) == 0:
        raise DataError("a task without questions has no score. Check that the benchmark's files are complete.")
    task_names = tasks if tasks is not None else [""] * len(scores)
    pairs = list(zip(task_names, splits, strict=True)) if splits is not None else [(task, "") for task in task_names]
    cluster_codes, _ = _factorise(clusters)
    cell_codes, cells = _factorise(pairs)
    shape = int(cluster_codes.max()) + 1, len(cells)
    flat_codes = cluster_codes * shape[1] + cell_codes
    size = shape[0] * shape[1]
    sums = np.bincount(flat_codes, weights=np.asarray(scores, dtype=np.float64), minlength=size).reshape(shape)
    counts = np.bincount(flat_codes, minlength=size).astype(np.float64).reshape(shape)
    cell_tasks = [task for task, _ in cells]
    weights = np.array([1 / (len(set(cell_tasks)) * cell_tasks.count(task)) for task in cell_tasks])
    return ClusteredScores(sums=sums.round(_DECIMALS), counts=counts, weights=weights)


def _factorise(values: Sequence[Any]) -> tuple[np.ndarray, list[Any]]:
    """Whole numbers for values, by first appearance, and the values in that order."""
    codes: dict[Any, int] = {}
    encoded = np.fromiter((codes.setdefault(value, len(codes)) for value in values), dtype=np.int64, count=len(values))
    return encoded, list(codes)
