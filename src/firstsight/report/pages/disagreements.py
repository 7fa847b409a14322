"""Which questions two checkpoints answered differently, the order of questions on the page, and statistics by task.

Questions are compared in the condition that both checkpoints have: with the image if possible, else without. Ties are
ordered by alternating tasks and, within a task, by a hash of the question, so that the page does not depend
on the order of the files, and pages of different checkpoints show the same questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from firstsight.evaluate.statistics.bootstrap import ClusteredScores, bca_interval, cluster_scores
from firstsight.report.answers import QUESTION_KEY, AnswersTable, text_digest

COMPARED_KINDS = ("score", "wording", "same")
"""Different scores; the same score with different answers; the same answer."""
DISAGREEMENT_KINDS = (*COMPARED_KINDS, "truth", "unpaired")
"""The last two cannot be compared: the truth differs between the files, or only one checkpoint has an answer."""
SINGLE_CHECKPOINT = "single"


def rank_disagreements(first: AnswersTable, second: AnswersTable) -> pl.DataFrame:
    """Every question once, in page order; columns task, question, kind, blind, difference (first minus second)."""
    columns = ["blind", "score", "answer", "truth", *QUESTION_KEY]
    a, b = (table.rows.select(columns) for table in (first, second))
    pairs = a.join(b, on=[*QUESTION_KEY, "blind"], suffix="_b").sort("blind")
    pairs = pairs.unique(QUESTION_KEY, keep="first", maintain_order=True)
    # Scores are stored to nine decimal places; smaller differences are rounding.
    pairs = pairs.with_columns(difference=(pl.col("score") - pl.col("score_b")).round(9))
    questions = pl.concat([a.select(QUESTION_KEY), b.select(QUESTION_KEY)]).unique(QUESTION_KEY, maintain_order=True)
    truth_differs, answer_differs = pl.col("truth") != pl.col("truth_b"), pl.col("answer") != pl.col("answer_b")
    kind = pl.when(truth_differs).then(pl.lit("truth")).when(pl.col("difference") != 0).then(pl.lit("score"))
    kind = kind.when(answer_differs).then(pl.lit("wording")).otherwise(pl.lit("same"))
    pairs = pairs.select(*QUESTION_KEY, "blind", "difference", kind=kind)
    ranking = _with_order(questions.join(pairs, on=QUESTION_KEY, how="left", maintain_order="left"))
    ranking = ranking.with_columns(pl.col("kind").fill_null("unpaired"), pl.col("difference").fill_null(0.0))
    ranks = {kind: rank for rank, kind in enumerate(DISAGREEMENT_KINDS)}
    ranking = ranking.with_columns(group=pl.col("kind").replace_strict(ranks), size=pl.col("difference").abs())
    ranking = ranking.with_columns(task_rank=pl.col("hash").rank("ordinal").over("group", "size", "task"))
    ranking = ranking.sort("group", "size", "task_rank", "order", descending=[False, True, False, False])
    return ranking.select(*QUESTION_KEY, "kind", "blind", "difference")


def draw_questions(table: AnswersTable, *, count: int) -> pl.DataFrame:
    """At most `count` questions of a checkpoint, drawn with alternating tasks, sorted by task; the same columns."""
    questions = table.rows.sort("blind", maintain_order=True).unique(QUESTION_KEY, keep="first", maintain_order=True)
    ranking = _with_order(questions.select(*QUESTION_KEY, "blind"))
    ranking = ranking.with_columns(task_rank=pl.col("hash").rank("ordinal").over("task"))
    drawn = ranking.sort("task_rank", "order").head(count).sort("order", "task_rank")
    return drawn.select(*QUESTION_KEY, kind=pl.lit(SINGLE_CHECKPOINT), blind="blind", difference=pl.lit(0.0))


def _with_order(rows: pl.DataFrame) -> pl.DataFrame:
    """`rows` with the hash of every question, and the position of its task in the files (`order`)."""
    tasks = rows.get_column("task").unique(maintain_order=True)
    order = pl.col("task").replace_strict(tasks, range(len(tasks)), return_dtype=pl.Int64)
    hashes = [text_digest("\0".join(key)) for key in rows.select(QUESTION_KEY).iter_rows()]
    return rows.with_columns(order=order, hash=pl.Series(hashes, dtype=pl.UInt64))


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskScore:
    """One checkpoint's score on one task."""

    questions: int
    sighted: float | None
    """With the image, or of a text task; None where there are only answers without the image."""
    blind: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskStats:
    """One task on answers.html. With one checkpoint, all but task, scores and kind_counts is None or zero."""

    task: str
    scores: tuple[TaskScore | None, ...]
    """None for a checkpoint without answers to this task."""
    compared_count: int
    difference: float | None
    """First minus second, over the questions that both answered, with the same truth and condition."""
    interval: tuple[float, float] | None
    """95 % over questions, paired; it does not cover another seed."""
    better_counts: tuple[int, int]
    """Questions on which the first, and the second, checkpoint scores more."""
    kind_counts: Mapping[str, int]


def compute_task_stats(tables: tuple[AnswersTable, ...], questions: pl.DataFrame) -> list[TaskStats]:
    """One entry for each task, in the order of the files; `questions` from rank_disagreements or draw_questions."""
    tasks = pl.concat([table.rows.get_column("task") for table in tables]).unique(maintain_order=True)
    return [_task_stats(task, tables, questions.filter(task=task)) for task in tasks]


def _task_stats(task: str, tables: tuple[AnswersTable, ...], questions: pl.DataFrame) -> TaskStats:
    compared = questions.filter(pl.col("kind").is_in(COMPARED_KINDS))
    joined = compared.join(tables[0].rows, on=[*QUESTION_KEY, "blind"], how="left", maintain_order="left")
    paired_scores = _question_scores(joined, "difference") if len(compared) else None
    differences = compared.get_column("difference")
    return TaskStats(
        task=task,
        scores=tuple(_task_score(table.rows.filter(task=task)) for table in tables),
        compared_count=len(compared),
        difference=paired_scores and paired_scores.mean,
        interval=paired_scores and bca_interval(paired_scores, bounds=(-1.0, 1.0)),
        better_counts=(int((differences > 0).sum()), int((differences < 0).sum())),
        kind_counts=Counter(questions.get_column("kind")),
    )


def _task_score(rows: pl.DataFrame) -> TaskScore | None:
    if rows.is_empty():
        return None
    parts = [rows.filter(blind=blind) for blind in (False, True)]
    sighted, blind = (None if part.is_empty() else _question_scores(part, "score").mean for part in parts)
    return TaskScore(questions=rows.select(QUESTION_KEY).n_unique(), sighted=sighted, blind=blind)


def _question_scores(rows: pl.DataFrame, column: str) -> ClusteredScores:
    clusters = rows.select(pl.when(pl.col("image") == "").then("question").otherwise("image")).to_series().to_list()
    return cluster_scores(rows[column].to_list(), clusters=clusters, splits=rows["split"].to_list())
