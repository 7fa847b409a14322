"""Seconds of a bootstrap interval beside the plain loop in numpy and beside scipy's, in one run.

    python benchmarks/bootstrap.py --questions 20000 --resamples 10000

The plain loop draws pictures with `choice` and adds up their sums and counts, one resample after the other.
`scipy.stats.bootstrap` is given the same clusters as a vectorised ratio of sums, in batches. Both of those run fewer
resamples and are scaled up, because their time is in proportion; ours makes all of them, and its time includes adding
up the questions by picture and the interval. Kinds are the distinct (sum, count) pairs among the pictures.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import numpy as np
from scipy import stats

from firstsight.evaluate.statistics.bootstrap import ClusteredScores, bca_interval, cluster_scores
from timing import fastest


def ours_whole(scores: np.ndarray, clusters: list[int], *, resamples: int) -> object:
    """Adding up, resampling, interval."""
    return bca_interval(cluster_scores(scores, clusters=clusters), num_draws=resamples)


def plain(sample: ClusteredScores, resamples: int) -> np.ndarray:
    """Percentiles from a loop over resamples."""
    random = np.random.default_rng(0)
    sums, counts = sample.sums[:, 0], sample.counts[:, 0]
    means = np.empty(resamples)
    for place in range(resamples):
        drawn = random.choice(len(sums), size=len(sums))
        means[place] = sums[drawn].sum() / counts[drawn].sum()
    return np.percentile(means, (2.5, 97.5))


def scipys(sample: ClusteredScores, resamples: int) -> object:
    """The percentile interval of scipy over the same clusters."""

    def ratio(sums: np.ndarray, counts: np.ndarray, axis: int) -> np.ndarray:
        return sums.sum(axis) / counts.sum(axis)

    columns = (sample.sums[:, 0], sample.counts[:, 0])
    return stats.bootstrap(columns, ratio, paired=True, n_resamples=resamples, batch=100, method="percentile", rng=0)


def main() -> None:
    ask = argparse.ArgumentParser(description="Seconds of a bootstrap interval beside numpy's loop and scipy's")
    ask.add_argument("--questions", type=int, default=20_000)
    ask.add_argument("--resamples", type=int, default=10_000)
    ask.add_argument("--part", type=int, default=20, help="The others run this part of the resamples.")
    ask.add_argument("--repeats", type=int, default=2)
    asked = ask.parse_args()
    random, count = np.random.default_rng(0), asked.questions
    few = max(1, asked.resamples // asked.part)
    scale = asked.resamples / few
    cases: dict[str, tuple[np.ndarray, int]] = {
        "right or wrong, 4 a picture": ((random.random(count) < 0.4).astype(float), 4),
        "VQA scores, 4 a picture": (random.choice([0, 0.3, 0.6, 0.9, 1], count), 4),
        "VQA difference, 4 a picture": (random.choice([-1, -0.6, -0.3, 0, 0, 0, 0.3, 0.6, 1], count), 4),
        "right or wrong, alone": ((random.random(count) < 0.4).astype(float), 1),
        "any number, alone": (random.random(count), 1),
    }
    print(f"{count:,} questions, {asked.resamples:,} resamples, seconds on one core")
    print(f"{'':30}{'pictures':>9}{'kinds':>8}{'ours':>8}{'loop':>8}{'scipy':>8}{'loop/ours':>11}{'scipy/ours':>11}")
    for name, (scores, each) in cases.items():
        clusters = (np.arange(count) // each).tolist()
        sample = cluster_scores(scores, clusters=clusters)
        works: list[Callable[[], object]] = [
            partial(ours_whole, scores, clusters, resamples=asked.resamples),
            partial(plain, sample, few),
            partial(scipys, sample, few),
        ]
        ours, loop, theirs = fastest(works, asked.repeats)
        kinds = len(np.unique(np.hstack([sample.sums, sample.counts]), axis=0))
        row = f"{name:30}{sample.num_clusters:9,}{kinds:8,}{ours:8.2f}{loop * scale:8.2f}{theirs * scale:8.2f}"
        print(f"{row}{loop * scale / ours:10.1f}x{theirs * scale / ours:10.1f}x")


if __name__ == "__main__":
    main()
