"""Intervals over questions: whole pictures drawn again, all tasks at once.

Interval: BCa (Efron 1987), whose bias and skewness corrections matter for scores near 0 and 1, at levels widened to
what Student's t and the divisor n - 1 ask for (Hesterberg 2015), which matter where pictures are few. The draw is the
same every time.
"""

from __future__ import annotations

import numpy as np
from scipy import special

from firstsight.evaluate.statistics.clustered_scores import ClusteredScores

BOOTSTRAP_DRAWS = 10_000
BOOTSTRAP_SEED = 20250307
Interval = tuple[float, float]

_MAX_CELLS = 1 << 18
"""Most numbers drawn at once."""
_MAX_WORK, _MIN_DRAWS = 200_000_000, 2_000
"""Most pictures drawn one by one for an interval, and the fewest draws: a hundred thousand pictures need no more."""
_FEW_COLUMNS = 4
_BINOMIAL_COST = 16
"""One binomial costs about as much as this many drawn pictures."""


def bootstrap_means(
    scores: ClusteredScores, *, num_draws: int = BOOTSTRAP_DRAWS, seed: int = BOOTSTRAP_SEED
) -> np.ndarray:
    """The mean under `draws` draws of as many clusters as there are, with replacement, [draws].

    Clusters with equal sums and counts are interchangeable. Where there are few kinds of them only the number drawn of
    each kind is drawn, which has the same distribution.
    """
    rng = np.random.default_rng(seed)
    cluster_rows, multiplicities = np.unique(np.hstack([scores.sums, scores.counts]), axis=0, return_counts=True)
    uses_multinomial = len(cluster_rows) * _BINOMIAL_COST < scores.num_clusters
    cluster_rows = cluster_rows if uses_multinomial else np.repeat(cluster_rows, multiplicities, axis=0)
    num_draws = num_draws if uses_multinomial else min(num_draws, max(_MIN_DRAWS, _MAX_WORK // len(cluster_rows)))
    batch_size = max(1, _MAX_CELLS // len(cluster_rows))
    mean_batches = []
    for start in range(0, num_draws, batch_size):
        num_batch_draws = min(batch_size, num_draws - start)
        if uses_multinomial:
            totals = (
                rng.multinomial(scores.num_clusters, multiplicities / scores.num_clusters, size=num_batch_draws).astype(
                    np.float64
                )
                @ cluster_rows
            )
        else:
            totals = _sample_sums(rng, cluster_rows, num_batch_draws)
        num_cells = len(scores.weights)
        mean_batches.append(scores.resample_means(totals[:, :num_cells], totals[:, num_cells:]))
    return np.concatenate(mean_batches)


def _sample_sums(rng: np.random.Generator, cluster_rows: np.ndarray, num_draws: int) -> np.ndarray:
    """Sums over as many drawn rows as there are, [draws, columns]; few columns are gathered, many multiplied."""
    num_rows = len(cluster_rows)
    row_indices = rng.integers(num_rows, size=(num_draws, num_rows))
    if cluster_rows.shape[1] <= _FEW_COLUMNS:
        return np.stack([column[row_indices].sum(1) for column in np.ascontiguousarray(cluster_rows.T)], axis=1)
    row_indices += np.arange(0, num_draws * num_rows, num_rows)[:, None]
    return (
        np.bincount(row_indices.ravel(), minlength=num_draws * num_rows).reshape(num_draws, num_rows).astype(np.float64)
        @ cluster_rows
    )


def bca_interval(
    scores: ClusteredScores, *, level: float = 0.95, num_draws: int = BOOTSTRAP_DRAWS, bounds: Interval = (0.0, 1.0)
) -> Interval:
    """Ends of the interval of the sample's mean. `bounds` are the least and most that one question can score."""
    if np.allclose(scores.influence(), 0, atol=1e-12):
        return _degenerate_interval(scores, level=level, bounds=bounds)
    means = bootstrap_means(scores, num_draws=num_draws)
    values, counts = np.unique(means.round(12), return_counts=True)
    # Half of each value's share lies below it: few pictures give few values, and a plain quantile would round outwards.
    cdf = (np.cumsum(counts) - counts / 2) / len(means)
    low, high = np.interp(_bca_levels(values, cdf, scores=scores, level=level), cdf, values)
    return float(low), float(high)


def _bca_levels(values: np.ndarray, cdf: np.ndarray, *, scores: ClusteredScores, level: float) -> np.ndarray:
    """The two quantiles of the resampled means (`below` is the share under each value) that end the interval."""
    influence = scores.influence()
    num_clusters = len(influence)
    bias = special.ndtri(np.interp(scores.mean, values, cdf))
    acceleration = (influence**3).sum() / (6 * (influence**2).sum() ** 1.5)
    half_width = np.sqrt(num_clusters / (num_clusters - 1)) * special.stdtrit(num_clusters - 1, 0.5 + level / 2)
    z_limits = bias + np.array([-half_width, half_width])
    return special.ndtr(bias + z_limits / np.maximum(1 - acceleration * z_limits, 0.1))


def _degenerate_interval(scores: ClusteredScores, *, level: float, bounds: Interval) -> Interval:
    """Where all clusters agree nothing can be resampled: the most that clusters of another kind could pull, unseen.

    If a share q of all clusters were unlike these, none would be seen with probability (1 - q)^n; q is where that falls
    to (1 - level) / 2, as in an exact binomial interval of n out of n.
    """
    max_unseen_share = 1 - ((1 - level) / 2) ** (1 / scores.num_clusters)
    mean = scores.mean
    return mean + max_unseen_share * (bounds[0] - mean), mean + max_unseen_share * (bounds[1] - mean)
