"""From one score a question to one number a task, and from tasks to the stable score; every number with its version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from firstsight.evaluate.question import Kind, Task
from firstsight.evaluate.statistics import bootstrap
from firstsight.evaluate.statistics.sample import Sample, gather
from firstsight.evaluate.tasks import TASKS

VERSION = 2
"""Of how task scores and their intervals are computed; raised when a number would change."""

AGGREGATES: dict[str, int] = {"stable": 1, "centred": 1, "raw": 1}
"""The means over tasks, each with its version."""

_PLACES = 9


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """What one task's questions scored: three columns of equal length."""

    scores: Sequence[float]
    splits: Sequence[str]
    clusters: Sequence[str]
    """Questions that stand or fall together: the picture, or the question itself where there is none."""


def total(judged: Judged) -> float:
    """The task's score: the mean over splits of the mean over questions (only POPE has several splits)."""
    return _sample(judged).mean


def interval(judged: Judged, *, signed: bool = False) -> tuple[float, float]:
    """A 95 % interval of `total` over questions, whole pictures at a time; always the same draw.

    `signed`: the scores are paired differences, from -1 to 1, and not shares of 1.
    """
    return bootstrap.interval(_sample(judged), bounds=(-1.0 if signed else 0.0, 1.0))


def _sample(judged: Judged) -> Sample:
    return gather(judged.scores, clusters=judged.clusters, splits=judged.splits)


@dataclass(frozen=True, kw_only=True, slots=True)
class Means:
    """Three means over the stable score's tasks of one kind, and which of its tasks were not there."""

    stable: float | None
    """Accuracy less the authors' baseline, not divided by what is left: the paper's number."""
    centred: float | None
    """(accuracy - chance) / (1 - chance), as DCLM centres."""
    raw: float | None
    missing: tuple[str, ...]


def means(scores: Mapping[str, float], kind: Kind, *, partial: bool = False) -> Means:
    """The authors' stable score beside the centred and the raw mean; None where a task of theirs is missing.

    `partial` takes the mean over the tasks that are there, as the authors' own script does; None without any.
    Source: paper 5.1; compute_stable_score.py of the authors' open_lm.
    """
    wanted = _counted(kind)
    there = [task for task in wanted if task.name in scores]
    missing = tuple(task.name for task in wanted if task.name not in scores)
    if not there or (missing and not partial):
        return Means(stable=None, centred=None, raw=None, missing=missing)
    return Means(
        stable=_mean([scores[task.name] - _baseline(task) for task in there]),
        centred=_mean([(scores[task.name] - task.chance) / (1 - task.chance) for task in there]),
        raw=_mean([scores[task.name] for task in there]),
        missing=missing,
    )


def aggregates(scores: Mapping[str, float]) -> dict[str, Any]:
    """The means by kind over the tasks that are there, what is missing of the paper's, and what was subtracted.

    For scores.json: whoever reads it can compute every mean again from the tasks' scores and `baselines`.
    """
    kinds: tuple[Kind, ...] = ("vision", "text")
    found = {kind: means(scores, kind, partial=True) for kind in kinds}
    there = [task for kind in kinds for task in _counted(kind) if task.name in scores]
    return {
        "stable": {kind: _round(mean.stable) for kind, mean in found.items()},
        "centred": {kind: _round(mean.centred) for kind, mean in found.items()},
        "raw": {kind: _round(mean.raw) for kind, mean in found.items()},
        "missing": {kind: list(mean.missing) for kind, mean in found.items()},
        "baselines": {
            "stable": {task.name: _round(task.baseline) for task in there},
            "centred": {task.name: _round(task.chance) for task in there},
        },
    }


def _counted(kind: Kind) -> list[Task]:
    """The tasks of the stable score, in their order."""
    return [task for task in TASKS.values() if task.kind == kind and task.baseline is not None]


def _baseline(task: Task) -> float:
    assert task.baseline is not None
    return task.baseline


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _round(value: float | None) -> float | None:
    return None if value is None else round(float(value), _PLACES)
