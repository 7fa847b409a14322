"""What a page's table says of each task: scores, how many questions differ, and the paired difference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from firstsight.evaluate.score import QuestionScores, task_score, task_score_interval
from firstsight.report.pages.answers_table import AnswersTable
from firstsight.report.pages.disagreements import QUESTION_KEY


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskScore:
    """One checkpoint on one task."""

    questions: int
    sighted: float | None
    """With the picture, or of a text task; None where it was only asked blind."""
    blind: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskStats:
    """One task; all but the scores is None or empty where there is one checkpoint."""

    task: str
    scores: tuple[TaskScore | None, ...]
    """None for a checkpoint that was not asked."""
    compared_count: int
    difference: float | None
    """First less second over the questions that both were asked with one truth, in the condition that both share."""
    interval: tuple[float, float] | None
    """95 % over another draw of pictures, paired; says nothing of another run."""
    better_counts: tuple[int, int]
    """Questions on which the first, and the second, scores more."""
    kind_counts: Mapping[str, int]


def compute_task_stats(tables: tuple[AnswersTable, ...], pairs: pl.DataFrame) -> list[TaskStats]:
    """One entry a task, in the order of the files."""
    tasks = pl.concat([table.rows.get_column("task") for table in tables]).unique(maintain_order=True)
    return [_task_stats(task, tables, pairs.filter(pl.col("task") == task)) for task in tasks]


def _task_stats(task: str, tables: tuple[AnswersTable, ...], pairs: pl.DataFrame) -> TaskStats:
    comparisons = pairs.filter(pl.col("kind").is_in(["score", "words", "same"]))
    paired_scores = _question_scores(
        comparisons.join(tables[0].rows, on=[*QUESTION_KEY, "blind"], how="left", maintain_order="left"), "difference"
    )
    differences = comparisons.get_column("difference")
    return TaskStats(
        task=task,
        scores=tuple(_task_score(table.rows.filter(pl.col("task") == task)) for table in tables),
        compared_count=len(comparisons),
        difference=task_score(paired_scores) if len(comparisons) else None,
        interval=task_score_interval(paired_scores, is_signed=True) if len(comparisons) else None,
        better_counts=(int((differences > 0).sum()), int((differences < 0).sum())),
        kind_counts=Counter(pairs.get_column("kind")),
    )


def _task_score(rows: pl.DataFrame) -> TaskScore | None:
    if rows.is_empty():
        return None
    parts = [rows.filter(pl.col("blind") == blind) for blind in (False, True)]
    sighted, blind = (None if part.is_empty() else task_score(_question_scores(part, "score")) for part in parts)
    return TaskScore(questions=rows.select(QUESTION_KEY).n_unique(), sighted=sighted, blind=blind)


def _question_scores(rows: pl.DataFrame, column: str) -> QuestionScores:
    """Questions about one picture stand or fall together; without a picture each stands alone."""
    image = pl.when(pl.col("image") == "").then(pl.col("question")).otherwise(pl.col("image"))
    return QuestionScores(
        scores=rows.get_column(column).to_list(),
        splits=rows.get_column("split").to_list(),
        clusters=rows.select(image).to_series().to_list(),
    )
