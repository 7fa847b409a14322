"""What a page's table says of each task: scores, how many questions differ, and the paired difference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from firstsight.evaluate.score import Judged, interval, total
from firstsight.report.answers.pairing import KEY
from firstsight.report.answers.sheet import Sheet


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One checkpoint on one task."""

    questions: int
    seeing: float | None
    """With the picture, or of a text task; None where it was only asked blind."""
    blind: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """One task; all but the scores is None or empty where there is one checkpoint."""

    task: str
    scores: tuple[Score | None, ...]
    """None for a checkpoint that was not asked."""
    compared: int
    difference: float | None
    """First less second over the questions that both were asked with one truth, in the condition that both share."""
    interval: tuple[float, float] | None
    """95 % over another draw of pictures, paired; says nothing of another run."""
    better: tuple[int, int]
    """Questions on which the first, and the second, scores more."""
    kinds: Mapping[str, int]


def tallies(sheets: tuple[Sheet, ...], pairs: pl.DataFrame) -> list[Tally]:
    """One entry a task, in the order of the files."""
    every = pl.concat([sheet.rows.get_column("task") for sheet in sheets]).unique(maintain_order=True)
    return [_tally(task, sheets, pairs.filter(pl.col("task") == task)) for task in every]


def _tally(task: str, sheets: tuple[Sheet, ...], pairs: pl.DataFrame) -> Tally:
    compared = pairs.filter(pl.col("kind").is_in(["score", "words", "same"]))
    paired = _judged(compared.join(sheets[0].rows, on=[*KEY, "blind"], how="left", maintain_order="left"), "difference")
    differences = compared.get_column("difference")
    return Tally(
        task=task,
        scores=tuple(_score(sheet.rows.filter(pl.col("task") == task)) for sheet in sheets),
        compared=len(compared),
        difference=total(paired) if len(compared) else None,
        interval=interval(paired, signed=True) if len(compared) else None,
        better=(int((differences > 0).sum()), int((differences < 0).sum())),
        kinds=Counter(pairs.get_column("kind")),
    )


def _score(rows: pl.DataFrame) -> Score | None:
    if rows.is_empty():
        return None
    parts = [rows.filter(pl.col("blind") == blind) for blind in (False, True)]
    seeing, blind = (None if part.is_empty() else total(_judged(part, "score")) for part in parts)
    return Score(questions=rows.select(KEY).n_unique(), seeing=seeing, blind=blind)


def _judged(rows: pl.DataFrame, column: str) -> Judged:
    """Questions about one picture stand or fall together; without a picture each stands alone."""
    image = pl.when(pl.col("image") == "").then(pl.col("question")).otherwise(pl.col("image"))
    return Judged(
        scores=rows.get_column(column).to_list(),
        splits=rows.get_column("split").to_list(),
        clusters=rows.select(image).to_series().to_list(),
    )
