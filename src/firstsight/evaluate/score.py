"""From one score a question to one number a task, and from tasks to the stable score; every number with its version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from firstsight.evaluate.statistics import bootstrap
from firstsight.evaluate.statistics.clustered_scores import ClusteredScores, cluster_scores
from firstsight.evaluate.task import Task, TaskKind
from firstsight.evaluate.tasks import TASKS

SCORES_VERSION = 2
"""Of how task scores and their intervals are computed; raised when a number would change."""

AGGREGATE_VERSIONS: dict[str, int] = {"stable": 1, "centred": 1, "raw": 1}
"""The means over tasks, each with its version."""

_DECIMALS = 9


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionScores:
    """What one task's questions scored: three columns of equal length."""

    scores: Sequence[float]
    splits: Sequence[str]
    clusters: Sequence[str]
    """Questions that stand or fall together: the picture, or the question itself where there is none."""


def task_score(question_scores: QuestionScores) -> float:
    """The task's score: the mean over splits of the mean over questions (only POPE has several splits)."""
    return _clustered(question_scores).mean


def task_score_interval(question_scores: QuestionScores, *, is_signed: bool = False) -> tuple[float, float]:
    """A 95 % interval of `total` over questions, whole pictures at a time; always the same draw.

    `signed`: the scores are paired differences, from -1 to 1, and not shares of 1.
    """
    return bootstrap.bca_interval(_clustered(question_scores), bounds=(-1.0 if is_signed else 0.0, 1.0))


def _clustered(question_scores: QuestionScores) -> ClusteredScores:
    return cluster_scores(question_scores.scores, clusters=question_scores.clusters, splits=question_scores.splits)


@dataclass(frozen=True, kw_only=True, slots=True)
class AggregateScores:
    """Three means over the stable score's tasks of one kind, and which of its tasks were not there."""

    stable: float | None
    """Accuracy less the authors' baseline, not divided by what is left: the paper's number."""
    centred: float | None
    """(accuracy - chance) / (1 - chance), as DCLM centres."""
    raw: float | None
    missing_tasks: tuple[str, ...]


def aggregate_scores(scores: Mapping[str, float], kind: TaskKind, *, is_partial: bool = False) -> AggregateScores:
    """The authors' stable score beside the centred and the raw mean; None where a task of theirs is missing.

    `partial` takes the mean over the tasks that are there, as the authors' own script does; None without any.
    Source: paper 5.1; compute_stable_score.py of the authors' open_lm.
    """
    stable_tasks = _stable_score_tasks(kind)
    present_tasks = [task for task in stable_tasks if task.name in scores]
    missing_tasks = tuple(task.name for task in stable_tasks if task.name not in scores)
    if not present_tasks or (missing_tasks and not is_partial):
        return AggregateScores(stable=None, centred=None, raw=None, missing_tasks=missing_tasks)
    return AggregateScores(
        stable=_mean([scores[task.name] - _require_baseline(task) for task in present_tasks]),
        centred=_mean([(scores[task.name] - task.chance) / (1 - task.chance) for task in present_tasks]),
        raw=_mean([scores[task.name] for task in present_tasks]),
        missing_tasks=missing_tasks,
    )


def aggregates_by_kind(scores: Mapping[str, float]) -> dict[str, Any]:
    """The means by kind over the tasks that are there, what is missing of the paper's, and what was subtracted.

    For scores.json: whoever reads it can compute every mean again from the tasks' scores and `baselines`.
    """
    kinds: tuple[TaskKind, ...] = ("vision", "text")
    aggregates = {kind: aggregate_scores(scores, kind, is_partial=True) for kind in kinds}
    present_tasks = [task for kind in kinds for task in _stable_score_tasks(kind) if task.name in scores]
    return {
        "stable": {kind: _round(aggregate.stable) for kind, aggregate in aggregates.items()},
        "centred": {kind: _round(aggregate.centred) for kind, aggregate in aggregates.items()},
        "raw": {kind: _round(aggregate.raw) for kind, aggregate in aggregates.items()},
        "missing": {kind: list(aggregate.missing_tasks) for kind, aggregate in aggregates.items()},
        "baselines": {
            "stable": {task.name: _round(task.baseline) for task in present_tasks},
            "centred": {task.name: _round(task.chance) for task in present_tasks},
        },
    }


def _stable_score_tasks(kind: TaskKind) -> list[Task]:
    """The tasks of the stable score, in their order."""
    return [task for task in TASKS.values() if task.kind == kind and task.baseline is not None]


def _require_baseline(task: Task) -> float:
    assert task.baseline is not None
    return task.baseline


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _round(value: float | None) -> float | None:
    return None if value is None else round(float(value), _DECIMALS)
