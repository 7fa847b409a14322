"""From question scores to task scores, and from task scores to the stable score; each number is versioned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from firstsight.evaluate.task import TaskKind
from firstsight.evaluate.tasks import TASKS

SCORES_VERSION = 2
"""Version of task scores and their intervals; raised when a number would change."""

AGGREGATE_VERSIONS: dict[Literal["stable", "centred", "raw"], int] = {"stable": 1, "centred": 1, "raw": 1}
"""Versions of the means over tasks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AggregateScores:
    """Three means over the stable score's tasks of one kind, rounded, and the tasks among these without a score."""

    stable: float | None
    """Accuracy minus the authors' baseline, not divided by (1 - baseline): the paper's number."""
    centred: float | None
    """(accuracy - chance) / (1 - chance), as DCLM centres."""
    raw: float | None
    missing_tasks: tuple[str, ...]


def aggregate_scores(scores: Mapping[str, float], kind: TaskKind) -> AggregateScores:
    """The authors' stable score, the centred and the raw mean over those of their tasks that have a score.

    `scores` is by task; tasks outside the stable score do not count. All three are None without any task.
    Source: paper 5.1; compute_stable_score.py of the authors' open_lm, which skips missing tasks as well.
    """
    baselines = {name: task.baseline for name, task in TASKS.items() if task.kind == kind and task.baseline is not None}
    names = [name for name in baselines if name in scores]
    missing_tasks = tuple(name for name in baselines if name not in scores)
    if not names:
        return AggregateScores(stable=None, centred=None, raw=None, missing_tasks=missing_tasks)
    centred = [(scores[name] - TASKS[name].chance) / (1 - TASKS[name].chance) for name in names]
    return AggregateScores(
        stable=round_score(sum(scores[name] - baselines[name] for name in names) / len(names)),
        centred=round_score(sum(centred) / len(names)),
        raw=round_score(sum(scores[name] for name in names) / len(names)),
        missing_tasks=missing_tasks,
    )


def round_score(value: float) -> float:
    """Nine decimals, as scores are stored: the same on every machine."""
    return round(float(value), 9)
