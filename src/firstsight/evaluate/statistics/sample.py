"""Scores of questions, added up by what stands or falls together: pictures against tasks and splits."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from firstsight.errors import DataError

_PLACES = 9
"""Sums are rounded so that equal pictures are equal whatever the order in which their questions were added."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Sums and counts of scores, [clusters, cells]. A cell is one split of one task."""

    sums: np.ndarray
    counts: np.ndarray
    weights: np.ndarray
    """Of the cells, [cells], adding up to 1: a task's share, divided among its splits."""

    @property
    def clusters(self) -> int:
        """How many pictures, or questions without one."""
        return len(self.sums)

    @property
    def mean(self) -> float:
        """Mean over tasks of the mean over splits of the mean over questions."""
        return float(self.weights @ (self.sums.sum(0) / self.counts.sum(0)))

    def influence(self) -> np.ndarray:
        """By how much each cluster moves the mean, [clusters]; they add up to 0, and their squares to its variance."""
        asked = self.counts.sum(0)
        return (self.sums - self.counts * (self.sums.sum(0) / asked)) @ (self.weights / asked)

    def means(self, sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """The mean of each resample [resamples, cells], over the cells that it holds."""
        held = counts > 0
        means = np.divide(sums, counts, out=np.zeros_like(sums), where=held)
        return (means @ self.weights) / (held @ self.weights)


def gather(
    scores: Sequence[float] | np.ndarray,
    *,
    clusters: Sequence[Hashable],
    tasks: Sequence[Hashable] | None = None,
    splits: Sequence[Hashable] | None = None,
) -> Sample:
    """The sample of questions in columns of equal length; one task and one split where they are not given.

    Raises DataError for no question at all.
    """
    if len(scores) == 0:
        raise DataError("a task without questions has no score. Check that the benchmark's files are complete.")
    of_task = tasks if tasks is not None else [""] * len(scores)
    pairs = list(zip(of_task, splits, strict=True)) if splits is not None else [(task, "") for task in of_task]
    cluster, _ = _coded(clusters)
    cell, cells = _coded(pairs)
    shape = int(cluster.max()) + 1, len(cells)
    flat = cluster * shape[1] + cell
    size = shape[0] * shape[1]
    sums = np.bincount(flat, weights=np.asarray(scores, dtype=np.float64), minlength=size).reshape(shape)
    counts = np.bincount(flat, minlength=size).astype(np.float64).reshape(shape)
    held = [task for task, _ in cells]
    weights = np.array([1 / (len(set(held)) * held.count(task)) for task in held])
    return Sample(sums=sums.round(_PLACES), counts=counts, weights=weights)


def _coded(values: Sequence[Any]) -> tuple[np.ndarray, list[Any]]:
    """Whole numbers for values, by first appearance, and the values in that order."""
    codes: dict[Any, int] = {}
    found = np.fromiter((codes.setdefault(value, len(codes)) for value in values), dtype=np.int64, count=len(values))
    return found, list(codes)
