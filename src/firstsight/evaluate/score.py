"""From one score a question to one number a task, and from tasks to the stable score; every number with its version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from firstsight.errors import DataError
from firstsight.evaluate.question import Kind, Task
from firstsight.evaluate.tasks import TASKS

VERSION = 1
"""Of how task scores, intervals and stable scores are computed; raised when a number would change."""

_RESAMPLES = 1000
_SEED = 20250307
_CELLS = 1 << 22
"""Most numbers drawn at once by the bootstrap."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """What one task's questions scored: three columns of equal length."""

    scores: Sequence[float]
    splits: Sequence[str]
    clusters: Sequence[str]
    """Questions that stand or fall together: the picture, or the question itself where there is none."""


def total(judged: Judged) -> float:
    """The task's score: the mean over splits of the mean over questions (only POPE has several splits)."""
    sums, counts, _ = _tables(judged)
    return float((sums.sum(0) / counts.sum(0)).mean())


def interval(judged: Judged) -> tuple[float, float]:
    """A 95 % bootstrap interval of `total`: percentiles over 1,000 resamples of clusters, always the same draw."""
    sums, counts, size = _tables(judged)
    draw = np.random.default_rng(_SEED)
    step = max(1, _CELLS // size)
    means: list[np.ndarray] = []
    for start in range(0, _RESAMPLES, step):
        times = draw.multinomial(size, np.full(size, 1 / size), size=min(step, _RESAMPLES - start)).astype(np.float64)
        means.append(_over_splits(times @ sums, times @ counts))
    low, high = np.percentile(np.concatenate(means), (2.5, 97.5))
    return float(low), float(high)


def _tables(judged: Judged) -> tuple[np.ndarray, np.ndarray, int]:
    """Sums and counts of scores, [clusters, splits]."""
    if not judged.scores:
        raise DataError("a task without questions has no score. Check that the benchmark's files are complete.")
    _, cluster = np.unique(np.asarray(judged.clusters), return_inverse=True)
    _, split = np.unique(np.asarray(judged.splits), return_inverse=True)
    sums = np.zeros((int(cluster.max()) + 1, int(split.max()) + 1))
    counts = np.zeros_like(sums)
    np.add.at(sums, (cluster, split), np.asarray(judged.scores, dtype=np.float64))
    np.add.at(counts, (cluster, split), 1.0)
    return sums, counts, len(sums)


def _over_splits(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean over the splits that a resample holds."""
    held = counts > 0
    means = np.divide(sums, counts, out=np.zeros_like(sums), where=held)
    return means.sum(1) / held.sum(1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Means:
    """Three means over the stable score's tasks of one kind, and which of its tasks were not there."""

    stable: float | None
    """Accuracy less the authors' baseline, not divided by what is left: the paper's number. None without a task."""
    centred: float | None
    """(accuracy - chance) / (1 - chance), as DCLM centres."""
    raw: float | None
    missing: tuple[str, ...]


def means(scores: Mapping[str, float], kind: Kind) -> Means:
    """The authors' stable score over the tasks that are there, beside the centred and the raw mean.

    Source: paper 5.1; compute_stable_score.py of the authors' open_lm, which also skips missing tasks.
    """
    wanted = [task for task in TASKS.values() if task.kind == kind and task.baseline is not None]
    there = [task for task in wanted if task.name in scores]
    return Means(
        stable=_mean([scores[task.name] - _baseline(task) for task in there]),
        centred=_mean([(scores[task.name] - task.chance) / (1 - task.chance) for task in there]),
        raw=_mean([scores[task.name] for task in there]),
        missing=tuple(task.name for task in wanted if task.name not in scores),
    )


def _baseline(task: Task) -> float:
    assert task.baseline is not None
    return task.baseline


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
