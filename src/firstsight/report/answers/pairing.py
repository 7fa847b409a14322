"""Which questions two checkpoints answered differently, and in which order questions are shown.

Questions are compared as both saw them: with the picture where both were asked so, else without. Ties are ordered by
tasks taking turns and, within a task, by a hash of the question, so that equal answers give equal pages whatever the
order of the files, and pages of different checkpoints show the same questions.
"""

from __future__ import annotations

import polars as pl

from firstsight.report.answers.sheet import Sheet, digest

KEY = ["task", "question"]
KINDS = ("score", "words", "same", "unlike", "one")
"""Other score, same score in other words, same answer; then what cannot be compared: the truth differs between the
two files, or only one checkpoint was asked in that condition."""
ALONE = "alone"
"""The kind of every question where there is one checkpoint."""
_DIGITS = 9
"""Scores are kept to nine places; what differs beyond them is rounding."""


def paired(first: Sheet, second: Sheet) -> pl.DataFrame:
    """Every question once, in the order of the page; columns task, question, kind, difference (first less second)."""
    columns = ["blind", "score", "words", "truth", *KEY]
    a, b = (sheet.rows.select(columns) for sheet in (first, second))
    both = a.join(b, on=[*KEY, "blind"], suffix="_b").sort("blind").unique(KEY, keep="first", maintain_order=True)
    difference = (pl.col("score") - pl.col("score_b")).round(_DIGITS)
    told = both.with_columns(difference.alias("difference")).with_columns(_kind())
    every = pl.concat([a.select(KEY), b.select(KEY)]).unique(KEY, maintain_order=True)
    found = every.join(told.select(*KEY, "blind", "kind", "difference"), on=KEY, how="left", maintain_order="left")
    found = found.with_columns(pl.col("kind").fill_null("one"), pl.col("difference").fill_null(0.0))
    ranked = _ranked(found).with_columns(
        pl.col("kind").replace_strict({kind: place for place, kind in enumerate(KINDS)}).alias("group"),
        pl.col("difference").abs().alias("size"),
    )
    turn = pl.col("hash").rank("ordinal").over("group", "size", "task")
    ordered = ranked.with_columns(turn.alias("turn")).sort("group", "size", "turn", "order", descending=_LARGEST)
    return ordered.select(*KEY, "kind", "blind", "difference")


_LARGEST = [False, True, False, False]


def _kind() -> pl.Expr:
    unlike, score, words = (
        pl.col("truth") != pl.col("truth_b"),
        pl.col("difference") != 0,
        pl.col("words") != pl.col("words_b"),
    )
    other = pl.when(score).then(pl.lit("score")).when(words).then(pl.lit("words")).otherwise(pl.lit("same"))
    return pl.when(unlike).then(pl.lit("unlike")).otherwise(other).alias("kind")


def alone(sheet: Sheet, *, count: int) -> pl.DataFrame:
    """At most `count` of a checkpoint's questions, tasks taking turns, in the order of its tasks; columns as paired."""
    every = sheet.rows.sort("blind", maintain_order=True).unique(KEY, keep="first", maintain_order=True)
    ranked = _ranked(every.select(*KEY, "blind"))
    turn = pl.col("hash").rank("ordinal").over("task")
    drawn = ranked.with_columns(turn.alias("turn")).sort("turn", "order").head(count).sort("order", "turn")
    told = drawn.with_columns(pl.lit(ALONE).alias("kind"), pl.lit(0.0).alias("difference"))
    return told.select(*KEY, "kind", "blind", "difference")


def _ranked(rows: pl.DataFrame) -> pl.DataFrame:
    """With the hash of every question, and the place of its task in the files."""
    tasks = {task: place for place, task in enumerate(rows.get_column("task").unique(maintain_order=True))}
    order = [tasks[task] for task in rows.get_column("task")]
    hashes = [digest(f"{task}\0{question}") for task, question in rows.select(KEY).iter_rows()]
    return rows.with_columns(pl.Series("order", order, pl.Int64), pl.Series("hash", hashes, pl.UInt64))
