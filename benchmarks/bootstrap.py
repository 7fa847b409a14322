"""Time of a bootstrap interval, compared with a NumPy loop and `scipy.stats.bootstrap`.

    python benchmarks/bootstrap.py --questions 20000 --resamples 10000

The NumPy loop resamples images with `choice` and sums their scores and counts. `scipy.stats.bootstrap` gets the same
clusters as a vectorised ratio of sums, in batches. Both baselines run fewer resamples; their times are extrapolated
linearly. firstsight runs all resamples, including clustering by image and the interval. "distinct" counts the distinct
(sum, count) pairs of the images.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import numpy as np
from scipy import stats

from firstsight.evaluate.statistics.bootstrap import ClusteredScores, bca_interval, cluster_scores
from timing import min_seconds


def firstsight_interval(scores: np.ndarray, clusters: list[int], *, resamples: int) -> object:
    """Clusters, resamples and the BCa interval."""
    return bca_interval(cluster_scores(scores, clusters=clusters), num_draws=resamples)


def numpy_interval(sample: ClusteredScores, resamples: int) -> np.ndarray:
    """The percentile interval from a loop over resamples."""
    rng = np.random.default_rng(0)
    sums, counts = sample.sums[:, 0], sample.counts[:, 0]
    means = np.empty(resamples)
    for resample in range(resamples):
        indices = rng.choice(len(sums), size=len(sums))
        means[resample] = sums[indices].sum() / counts[indices].sum()
    return np.percentile(means, (2.5, 97.5))


def scipy_interval(sample: ClusteredScores, resamples: int) -> object:
    """The percentile interval from `scipy.stats.bootstrap`."""

    def ratio(sums: np.ndarray, counts: np.ndarray, axis: int) -> np.ndarray:
        return sums.sum(axis) / counts.sum(axis)

    columns = (sample.sums[:, 0], sample.counts[:, 0])
    return stats.bootstrap(columns, ratio, paired=True, n_resamples=resamples, batch=100, method="percentile", rng=0)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time of a bootstrap interval, compared with NumPy and SciPy")
    parser.add_argument("--questions", type=int, default=20_000)
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--part", type=int, default=20, help="baselines run 1/PART of the resamples")
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    rng, count = np.random.default_rng(0), args.questions
    num_baseline_resamples = max(1, args.resamples // args.part)
    scale = args.resamples / num_baseline_resamples
    cases: dict[str, tuple[np.ndarray, int]] = {
        "binary, 4 per image": ((rng.random(count) < 0.4).astype(float), 4),
        "VQA scores, 4 per image": (rng.choice([0, 0.3, 0.6, 0.9, 1], count), 4),
        "VQA differences, 4 per image": (rng.choice([-1, -0.6, -0.3, 0, 0, 0, 0.3, 0.6, 1], count), 4),
        "binary, 1 per image": ((rng.random(count) < 0.4).astype(float), 1),
        "continuous, 1 per image": (rng.random(count), 1),
    }
    print(f"{count:,} questions, {args.resamples:,} resamples, seconds on 1 core")
    print(f"{'':30}{'images':>9}{'distinct':>9}{'this':>8}{'NumPy':>8}{'SciPy':>8}{'NumPy/this':>11}{'SciPy/this':>11}")
    for name, (scores, per_image) in cases.items():
        clusters = (np.arange(count) // per_image).tolist()
        sample = cluster_scores(scores, clusters=clusters)
        functions: list[Callable[[], object]] = [
            partial(firstsight_interval, scores, clusters, resamples=args.resamples),
            partial(numpy_interval, sample, num_baseline_resamples),
            partial(scipy_interval, sample, num_baseline_resamples),
        ]
        seconds, numpy_seconds, scipy_seconds = min_seconds(functions, args.repeats)
        numpy_seconds, scipy_seconds = numpy_seconds * scale, scipy_seconds * scale
        num_distinct = len(np.unique(np.hstack([sample.sums, sample.counts]), axis=0))
        row = (
            f"{name:30}{sample.num_clusters:9,}{num_distinct:9,}{seconds:8.2f}{numpy_seconds:8.2f}{scipy_seconds:8.2f}"
        )
        print(f"{row}{numpy_seconds / seconds:10.1f}x{scipy_seconds / seconds:10.1f}x")


if __name__ == "__main__":
    main()
