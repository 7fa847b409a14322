"""Bootstrap intervals of scores over questions: whole clusters (images) are resampled, all tasks at once.

The interval is BCa (Efron 1987, Better bootstrap confidence intervals), whose bias and skewness corrections matter for
scores near 0 and 1, at levels widened to Student's t and the divisor n - 1 (Hesterberg 2015, What teachers should know
about the bootstrap, section 4), which matters for few clusters. The random seed is fixed.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import special

from firstsight.errors import DataError

Interval = tuple[float, float]

_MAX_CELLS = 1 << 18
"""Maximum numbers drawn at once."""
_MAX_WORK, _MIN_DRAWS = 200_000_000, 2_000
"""Maximum clusters drawn for an interval, and the minimum resamples: 100,000 clusters need no more."""
_FEW_COLUMNS = 4
_MAX_REMEMBERED_COUNTS = 1 << 23
"""Maximum numbers of one set of resamples that is remembered, 32 MiB."""
_MULTINOMIAL_COST = 16
"""The cost of drawing one multinomial count, in drawn clusters."""
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
    codes: dict[Any, int] = {}
    encoded = np.fromiter((codes.setdefault(value, len(codes)) for value in values), dtype=np.int64, count=len(values))
    return encoded, list(codes)


def bootstrap_means(scores: ClusteredScores, *, num_draws: int = 10_000, seed: int = 20250307) -> np.ndarray:
    """The means of `num_draws` resamples of all clusters with replacement, [num_draws] (fewer for many clusters).

    Clusters with equal sums and counts are interchangeable. Where there are few distinct ones, only how often each is
    drawn is sampled, from a multinomial, which gives the same distribution.
    """
    rows, multiplicities = np.unique(np.hstack([scores.sums, scores.counts]), axis=0, return_counts=True)
    uses_multinomial = len(rows) * _MULTINOMIAL_COST < scores.num_clusters
    if not uses_multinomial:
        rows = np.repeat(rows, multiplicities, axis=0)
        num_draws = min(num_draws, max(_MIN_DRAWS, _MAX_WORK // len(rows)))
    sizes = _batch_sizes(len(rows), num_draws)
    if uses_multinomial:
        rng, shares = np.random.default_rng(seed), multiplicities / scores.num_clusters
        totals = (rng.multinomial(scores.num_clusters, shares, size=size).astype(np.float64) @ rows for size in sizes)
    elif rows.shape[1] <= _FEW_COLUMNS:  # indexing is faster then
        rng, columns = np.random.default_rng(seed), np.ascontiguousarray(rows.T)
        indices = (rng.integers(len(rows), size=(size, len(rows))) for size in sizes)
        totals = (np.stack([column[batch].sum(1) for column in columns], axis=1) for batch in indices)
    else:
        is_small = len(rows) * num_draws <= _MAX_REMEMBERED_COUNTS
        counts = (_remembered_counts if is_small else _draw_counts)(len(rows), num_draws, seed)
        totals = (batch.astype(np.float64) @ rows for batch in counts)
    num_cells = len(scores.weights)
    return np.concatenate([scores.resample_means(total[:, :num_cells], total[:, num_cells:]) for total in totals])


def _batch_sizes(num_rows: int, num_draws: int) -> list[int]:
    """The numbers of resamples that are drawn at once."""
    size = max(1, _MAX_CELLS // num_rows)
    return [min(size, num_draws - start) for start in range(0, num_draws, size)]


def _draw_counts(num_rows: int, num_draws: int, seed: int) -> Iterator[np.ndarray]:
    """How often each row is in each resample of `num_rows` rows with replacement, [draws, rows], in batches."""
    rng = np.random.default_rng(seed)
    for size in _batch_sizes(num_rows, num_draws):
        indices = rng.integers(num_rows, size=(size, num_rows))
        indices += np.arange(0, indices.size, num_rows)[:, None]
        yield np.bincount(indices.ravel(), minlength=indices.size).reshape(indices.shape).astype(np.uint32)


@lru_cache(maxsize=4)  # the arms of a study answer the same questions
def _remembered_counts(num_rows: int, num_draws: int, seed: int) -> tuple[np.ndarray, ...]:
    return tuple(_draw_counts(num_rows, num_draws, seed))


def bca_interval(
    scores: ClusteredScores, *, level: float = 0.95, num_draws: int = 10_000, bounds: Interval = (0.0, 1.0)
) -> Interval:
    """The BCa interval of `scores.mean`. `bounds` are the least and the largest score of one question."""
    if np.allclose(scores.influence(), 0, atol=1e-12):
        return _degenerate_interval(scores, level=level, bounds=bounds)
    means = bootstrap_means(scores, num_draws=num_draws)
    values, counts = np.unique(means.round(12), return_counts=True)
    # Mid-distribution function: few clusters give few distinct means, whose plain quantiles would be too wide.
    cdf = (np.cumsum(counts) - counts / 2) / len(means)
    low, high = np.interp(_bca_levels(values, cdf, scores=scores, level=level), cdf, values)
    return float(low), float(high)


def _bca_levels(values: np.ndarray, cdf: np.ndarray, *, scores: ClusteredScores, level: float) -> np.ndarray:
    """The two quantile levels of the resampled means (`cdf` at `values`) that end the interval."""
    influence = scores.influence()
    num_clusters = len(influence)
    bias = special.ndtri(np.interp(scores.mean, values, cdf))
    acceleration = (influence**3).sum() / (6 * (influence**2).sum() ** 1.5)
    half_width = np.sqrt(num_clusters / (num_clusters - 1)) * special.stdtrit(num_clusters - 1, 0.5 + level / 2)
    z_limits = bias + np.array([-half_width, half_width])
    return special.ndtr(bias + z_limits / np.maximum(1 - acceleration * z_limits, 0.1))


def _degenerate_interval(scores: ClusteredScores, *, level: float, bounds: Interval) -> Interval:
    """The interval where all clusters score the same, from how many differing clusters may have been missed.

    If a share q of all clusters differed, none would be sampled with probability (1 - q)^n; q is where that falls to
    (1 - level) / 2, as in the exact binomial interval (Clopper and Pearson) of n out of n.
    """
    max_unseen_share = 1 - ((1 - level) / 2) ** (1 / scores.num_clusters)
    mean = scores.mean
    return mean + max_unseen_share * (bounds[0] - mean), mean + max_unseen_share * (bounds[1] - mean)
