"""Intervals over questions: whole pictures drawn again, all tasks at once.

Interval: BCa (Efron 1987), whose bias and skewness corrections matter for scores near 0 and 1, at levels widened to
what Student's t and the divisor n - 1 ask for (Hesterberg 2015), which matter where pictures are few. The draw is the
same every time.
"""

from __future__ import annotations

import numpy as np
from scipy import special

from firstsight.evaluate.statistics.sample import Sample

DRAWS = 10_000
SEED = 20250307
Interval = tuple[float, float]

_HELD = 1 << 18
"""Most numbers drawn at once."""
_WORK, _LEAST = 200_000_000, 2_000
"""Most pictures drawn one by one for an interval, and the fewest draws: a hundred thousand pictures need no more."""
_FEW_COLUMNS = 4
_DEAR = 16
"""One binomial costs about as much as this many drawn pictures."""


def resampled(sample: Sample, *, draws: int = DRAWS, seed: int = SEED) -> np.ndarray:
    """The mean under `draws` draws of as many clusters as there are, with replacement, [draws].

    Clusters with equal sums and counts are interchangeable. Where there are few kinds of them only the number drawn of
    each kind is drawn, which has the same distribution.
    """
    random = np.random.default_rng(seed)
    rows, times = np.unique(np.hstack([sample.sums, sample.counts]), axis=0, return_counts=True)
    few = len(rows) * _DEAR < sample.clusters
    rows = rows if few else np.repeat(rows, times, axis=0)
    draws = draws if few else min(draws, max(_LEAST, _WORK // len(rows)))
    step = max(1, _HELD // len(rows))
    found = []
    for start in range(0, draws, step):
        size = min(step, draws - start)
        if few:
            totals = random.multinomial(sample.clusters, times / sample.clusters, size=size).astype(np.float64) @ rows
        else:
            totals = _one_by_one(random, rows, size)
        cells = len(sample.weights)
        found.append(sample.means(totals[:, :cells], totals[:, cells:]))
    return np.concatenate(found)


def _one_by_one(random: np.random.Generator, rows: np.ndarray, draws: int) -> np.ndarray:
    """Sums over as many drawn rows as there are, [draws, columns]; few columns are gathered, many multiplied."""
    count = len(rows)
    drawn = random.integers(count, size=(draws, count))
    if rows.shape[1] <= _FEW_COLUMNS:
        return np.stack([column[drawn].sum(1) for column in np.ascontiguousarray(rows.T)], axis=1)
    drawn += np.arange(0, draws * count, count)[:, None]
    return np.bincount(drawn.ravel(), minlength=draws * count).reshape(draws, count).astype(np.float64) @ rows


def interval(sample: Sample, *, level: float = 0.95, draws: int = DRAWS, bounds: Interval = (0.0, 1.0)) -> Interval:
    """Ends of the interval of the sample's mean. `bounds` are the least and most that one question can score."""
    if np.allclose(sample.influence(), 0, atol=1e-12):
        return _unmoved(sample, level=level, bounds=bounds)
    found = resampled(sample, draws=draws)
    values, times = np.unique(found.round(12), return_counts=True)
    # Half of each value's share lies below it: few pictures give few values, and a plain quantile would round outwards.
    below = (np.cumsum(times) - times / 2) / len(found)
    low, high = np.interp(_levels(values, below, sample=sample, level=level), below, values)
    return float(low), float(high)


def _levels(values: np.ndarray, below: np.ndarray, *, sample: Sample, level: float) -> np.ndarray:
    """The two quantiles of the resampled means (`below` is the share under each value) that end the interval."""
    pull = sample.influence()
    size = len(pull)
    bias = special.ndtri(np.interp(sample.mean, values, below))
    skew = (pull**3).sum() / (6 * (pull**2).sum() ** 1.5)
    wide = np.sqrt(size / (size - 1)) * special.stdtrit(size - 1, 0.5 + level / 2)
    ends = bias + np.array([-wide, wide])
    return special.ndtr(bias + ends / np.maximum(1 - skew * ends, 0.1))


def _unmoved(sample: Sample, *, level: float, bounds: Interval) -> Interval:
    """Where all clusters agree nothing can be resampled: the most that clusters of another kind could pull, unseen.

    If a share q of all clusters were unlike these, none would be seen with probability (1 - q)^n; q is where that falls
    to (1 - level) / 2, as in an exact binomial interval of n out of n.
    """
    unseen = 1 - ((1 - level) / 2) ** (1 / sample.clusters)
    mean = sample.mean
    return mean + unseen * (bounds[0] - mean), mean + unseen * (bounds[1] - mean)
