"""Which questions two checkpoints answered differently, and in which order questions are shown.

Questions are compared as both saw them: with the picture where both were asked so, else without. Ties are ordered by
tasks taking turns and, within a task, by a hash of the question, so that equal answers give equal pages whatever the
order of the files, and pages of different checkpoints show the same questions.
"""

from __future__ import annotations

import polars as pl

from firstsight.report.pages.answers_table import AnswersTable, text_digest

QUESTION_KEY = ["task", "question"]
DISAGREEMENT_KINDS = ("score", "words", "same", "unlike", "one")
"""Other score, same score in other words, same answer; then what cannot be compared: the truth differs between the
two files, or only one checkpoint was asked in that condition."""
SINGLE_CHECKPOINT = "alone"
"""The kind of every question where there is one checkpoint."""
_DIGITS = 9
"""Scores are kept to nine places; what differs beyond them is rounding."""


def rank_disagreements(first: AnswersTable, second: AnswersTable) -> pl.DataFrame:
    """Every question once, in the order of the page; columns task, question, kind, difference (first less second)."""
    columns = ["blind", "score", "words", "truth", *QUESTION_KEY]
    a, b = (table.rows.select(columns) for table in (first, second))
    shared = (
        a.join(b, on=[*QUESTION_KEY, "blind"], suffix="_b")
        .sort("blind")
        .unique(QUESTION_KEY, keep="first", maintain_order=True)
    )
    difference = (pl.col("score") - pl.col("score_b")).round(_DIGITS)
    comparisons = shared.with_columns(difference.alias("difference")).with_columns(_disagreement_kind())
    questions = pl.concat([a.select(QUESTION_KEY), b.select(QUESTION_KEY)]).unique(QUESTION_KEY, maintain_order=True)
    question_kinds = questions.join(
        comparisons.select(*QUESTION_KEY, "blind", "kind", "difference"),
        on=QUESTION_KEY,
        how="left",
        maintain_order="left",
    )
    question_kinds = question_kinds.with_columns(pl.col("kind").fill_null("one"), pl.col("difference").fill_null(0.0))
    ranking = _with_order(question_kinds).with_columns(
        pl.col("kind").replace_strict({kind: rank for rank, kind in enumerate(DISAGREEMENT_KINDS)}).alias("group"),
        pl.col("difference").abs().alias("size"),
    )
    turn = pl.col("hash").rank("ordinal").over("group", "size", "task")
    page_order = ranking.with_columns(turn.alias("turn")).sort("group", "size", "turn", "order", descending=_DESCENDING)
    return page_order.select(*QUESTION_KEY, "kind", "blind", "difference")


_DESCENDING = [False, True, False, False]


def _disagreement_kind() -> pl.Expr:
    truth_differs, score_differs, words_differ = (
        pl.col("truth") != pl.col("truth_b"),
        pl.col("difference") != 0,
        pl.col("words") != pl.col("words_b"),
    )
    same_truth_kind = (
        pl.when(score_differs).then(pl.lit("score")).when(words_differ).then(pl.lit("words")).otherwise(pl.lit("same"))
    )
    return pl.when(truth_differs).then(pl.lit("unlike")).otherwise(same_truth_kind).alias("kind")


def draw_questions(table: AnswersTable, *, count: int) -> pl.DataFrame:
    """At most `count` of a checkpoint's questions, tasks taking turns, in the order of its tasks; columns as paired."""
    questions = table.rows.sort("blind", maintain_order=True).unique(QUESTION_KEY, keep="first", maintain_order=True)
    ranking = _with_order(questions.select(*QUESTION_KEY, "blind"))
    turn = pl.col("hash").rank("ordinal").over("task")
    selection = ranking.with_columns(turn.alias("turn")).sort("turn", "order").head(count).sort("order", "turn")
    page_rows = selection.with_columns(pl.lit(SINGLE_CHECKPOINT).alias("kind"), pl.lit(0.0).alias("difference"))
    return page_rows.select(*QUESTION_KEY, "kind", "blind", "difference")


def _with_order(rows: pl.DataFrame) -> pl.DataFrame:
    """With the hash of every question, and the place of its task in the files."""
    tasks = {task: index for index, task in enumerate(rows.get_column("task").unique(maintain_order=True))}
    order = [tasks[task] for task in rows.get_column("task")]
    hashes = [text_digest(f"{task}\0{question}") for task, question in rows.select(QUESTION_KEY).iter_rows()]
    return rows.with_columns(pl.Series("order", order, pl.Int64), pl.Series("hash", hashes, pl.UInt64))
