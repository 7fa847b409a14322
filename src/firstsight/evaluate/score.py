"""From question scores to task scores, and from task scores to the stable score; each number is versioned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from firstsight.evaluate.task import TaskKind
from firstsight.evaluate.tasks import TASKS

SCORES_VERSION = 2
"""Version of task scores and their intervals; raised when a number would change."""

AGGREGATE_VERSIONS: dict[str, int] = {"stable": 1, "centred": 1, "raw": 1}
"""Versions of the means over tasks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AggregateScores:
    """Three means over the stable score's tasks of one kind, and the tasks among these without a score."""

    stable: float | None
    """Accuracy minus the authors' baseline, not divided by (1 - baseline): the paper's number."""
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
        stable=sum(scores[name] - baselines[name] for name in names) / len(names),
        centred=sum((scores[name] - TASKS[name].chance) / (1 - TASKS[name].chance) for name in names) / len(names),
        raw=sum(scores[name] for name in names) / len(names),
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
        **{name: {kind: round_score(getattr(aggregates[kind], name)) for kind in kinds} for name in AGGREGATE_VERSIONS},
        "missing": {kind: list(aggregate.missing_tasks) for kind, aggregate in aggregates.items()},
        "baselines": {
            "stable": {name: round_score(value) for name, value in baselines.items()},
            "centred": {name: round_score(TASKS[name].chance) for name in baselines},
        },
    }


def _stable_baselines(kind: TaskKind) -> dict[str, float]:
    return {name: task.baseline for name, task in TASKS.items() if task.kind == kind and task.baseline is not None}


def round_score(value: float | None) -> float | None:
    """Nine decimals, as scores are stored: the same on every machine."""
    return None if value is None else round(float(value), 9)
