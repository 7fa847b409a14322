"""From question scores to task scores, and from task scores to the stable score; each number is versioned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from firstsight.evaluate.statistics import bootstrap
from firstsight.evaluate.statistics.bootstrap import ClusteredScores, cluster_scores
from firstsight.evaluate.task import TaskKind
from firstsight.evaluate.tasks import TASKS

SCORES_VERSION = 2
"""Version of task scores and their intervals; raised when a number would change."""

AGGREGATE_VERSIONS: dict[str, int] = {"stable": 1, "centred": 1, "raw": 1}
"""Versions of the means over tasks."""

_DECIMALS = 9


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionScores:
    """The question scores of one task: three columns of equal length."""

    scores: Sequence[float]
    splits: Sequence[str]
    clusters: Sequence[str]
    """What is resampled together: a question's image, or its id where it has none."""


def task_score(question_scores: QuestionScores) -> float:
    """The mean over splits of the mean over questions (only POPE has several splits)."""
    return _clustered(question_scores).mean


def task_score_interval(question_scores: QuestionScores, *, is_signed: bool = False) -> tuple[float, float]:
    """The 95 % BCa bootstrap interval of `task_score` over clusters, with a fixed seed.

    `is_signed`: the scores are paired differences between -1 and 1, not between 0 and 1.
    """
    return bootstrap.bca_interval(_clustered(question_scores), bounds=(-1.0 if is_signed else 0.0, 1.0))


def _clustered(question_scores: QuestionScores) -> ClusteredScores:
    return cluster_scores(question_scores.scores, clusters=question_scores.clusters, splits=question_scores.splits)


@dataclass(frozen=True, kw_only=True, slots=True)
class AggregateScores:
    """Three means over the stable score's tasks of one kind, and the tasks among these without a score."""

    stable: float | None
    """Accuracy minus the authors' baseline, not divided by what is left: the paper's number."""
    centred: float | None
    """(accuracy - chance) / (1 - chance), as DCLM centres."""
    raw: float | None
    missing_tasks: tuple[str, ...]


def aggregate_scores(scores: Mapping[str, float], kind: TaskKind, *, is_partial: bool = False) -> AggregateScores:
    """The authors' stable score, the centred and the raw mean; None where one of their tasks has no score.

    `is_partial` takes the means over the tasks with a score, as the authors' script does; None without any.
    Source: paper 5.1; compute_stable_score.py of the authors' open_lm.
    """
    baselines = _stable_baselines(kind)
    names = [name for name in baselines if name in scores]
    missing_tasks = tuple(name for name in baselines if name not in scores)
    if not names or (missing_tasks and not is_partial):
        return AggregateScores(stable=None, centred=None, raw=None, missing_tasks=missing_tasks)
    return AggregateScores(
        stable=_mean([scores[name] - baselines[name] for name in names]),
        centred=_mean([(scores[name] - TASKS[name].chance) / (1 - TASKS[name].chance) for name in names]),
        raw=_mean([scores[name] for name in names]),
        missing_tasks=missing_tasks,
    )


def aggregates_by_kind(scores: Mapping[str, float]) -> dict[str, Any]:
    """The part of scores.json over several tasks: means by kind, missing tasks, and the baselines subtracted.

    A reader can recompute every mean from the tasks' scores and `baselines`.
    """
    kinds: tuple[TaskKind, ...] = ("vision", "text")
    aggregates = {kind: aggregate_scores(scores, kind, is_partial=True) for kind in kinds}
    baselines = {name: value for kind in kinds for name, value in _stable_baselines(kind).items() if name in scores}
    return {
        "stable": {kind: round_score(aggregate.stable) for kind, aggregate in aggregates.items()},
        "centred": {kind: round_score(aggregate.centred) for kind, aggregate in aggregates.items()},
        "raw": {kind: round_score(aggregate.raw) for kind, aggregate in aggregates.items()},
        "missing": {kind: list(aggregate.missing_tasks) for kind, aggregate in aggregates.items()},
        "baselines": {
            "stable": {name: round_score(value) for name, value in baselines.items()},
            "centred": {name: round_score(TASKS[name].chance) for name in baselines},
        },
    }


def _stable_baselines(kind: TaskKind) -> dict[str, float]:
    """The tasks of the stable score, in table order, and what it subtracts from their scores."""
    return {name: task.baseline for name, task in TASKS.items() if task.kind == kind and task.baseline is not None}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def round_score(value: float | None) -> float | None:
    """Nine decimals, as scores are stored: the same on every machine."""
    return None if value is None else round(float(value), _DECIMALS)
