"""All scores as one polars table: one row for one arm, task and condition, with the address of its evaluate step.

A guesser is a baseline that ignores a part of the input: the same model without the image (`blind`), or the best
answers that do not depend on the question (`question_blind`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from firstsight.evaluate.result_files import Scores, TaskScores, aggregate_scores
from firstsight.recipe.analysis import STABLE_MEASURES, Axis, Coordinate, Measure, split_measure
from firstsight.report.format import format_percent
from firstsight.report.results import ArmResult, arms_with_scores

ScoreRow = dict[str, Any]

INTERVAL, MARGIN_INTERVAL = ("interval_low", "interval_high"), ("margin_low", "margin_high")
SCORE_SCHEMA: dict[str, Any] = {
    **dict.fromkeys(("arm", "label"), pl.String),
    "seed": pl.Int64,
    **dict.fromkeys(("group", "role", "task", "kind", "condition"), pl.String),
    **dict.fromkeys(("score", *INTERVAL, *MARGIN_INTERVAL, "chance", "baseline"), pl.Float64),
    "questions": pl.Int64,
    **dict.fromkeys(("metric", "address", "version"), pl.String),
}
"""Columns of `score_table`, also of scores.csv and scores.parquet, which have one more for each axis after `seed`: the
arms' coordinates, percents as shares of 1. Scores and intervals are shares of 1.

group, role: those of the arm. condition: sighted, blind, question_blind, heldout, a subset of the questions such as
"split: popular", or, for the soft score, soft (with the image) and soft_blind. interval_*: 95 % over questions of a
sighted or soft score. margin_*: 95 % over questions of the paired difference between the sighted score and this row's;
null where it was not computed. chance: the score of random guesses. baseline: the value that the stable score
subtracts, null for a task that it leaves out. questions: how many the row's score is of, null where that is not
known."""

STABLE = "stable"
"""Task name of the rows with a kind's mean of (score - baseline)."""

AGGREGATE_NAMES = (STABLE, "centred", "raw")
"""Means over the stable score's tasks: of score - baseline, of (score - chance) / (1 - chance), and of the score."""

SOFT_CONDITIONS = {"soft": "sighted", "soft_blind": "blind"}
"""The conditions of soft scores, and the condition under which the questions were answered."""

GUESSERS = ("blind", "question_blind")
CONDITIONS = ("sighted", *GUESSERS, "heldout")


def score_table(arms: Sequence[ArmResult], axes: Sequence[Axis] = ()) -> pl.DataFrame:
    """All scores of all evaluated arms; each arm's tasks first, then its aggregates."""
    rows: list[ScoreRow] = []
    for arm in arms_with_scores(arms):
        place = {axis.name: _axis_value(arm.at[axis.name]) for axis in axes if axis.name in arm.at}
        rows += [row | place for row in _arm_rows(arm, arm.scores)] if arm.scores else []
    columns = [(axis.name, _axis_type(axis, arms)) for axis in axes]
    names = list(SCORE_SCHEMA.items())
    end = list(SCORE_SCHEMA).index("seed") + 1
    return pl.DataFrame(rows, schema=dict([*names[:end], *columns, *names[end:]]))


def _axis_value(coordinate: Coordinate) -> int | float | str:
    return coordinate if isinstance(coordinate, (int, str)) else float(coordinate)


def _axis_type(axis: Axis, arms: Sequence[ArmResult]) -> Any:
    is_whole = all(isinstance(arm.at.get(axis.name, 0), int) for arm in arms)
    return pl.String if not axis.is_numeric else pl.Int64 if is_whole and axis.unit != "percent" else pl.Float64


def _arm_rows(arm: ArmResult, scores: Scores) -> Iterable[ScoreRow]:
    columns = {name: getattr(arm, name) for name in ("label", "seed", "group", "role", "address")}
    columns |= {"arm": arm.name}
    for name, task in scores.tasks.items():
        row = columns | {
            "task": name,
            "kind": task.kind,
            "chance": task.guess,
            "baseline": task.chance if task.stable else None,
            "questions": task.n,
            "metric": task.metric,
            "version": str(task.version),
        }
        yield from _condition_rows(row, task, arm.heldout_questions.get(name))
        yield from _subset_rows(row, task)
    for name in AGGREGATE_NAMES:
        for kind, value in getattr(scores, name).items():
            row = columns | {"task": name, "kind": kind, "version": str(scores.versions[name])}
            yield from _aggregate_rows(row, value, scores.tasks)
    for kind, value in scores.soft.items():
        row = columns | {"task": STABLE, "kind": kind, "version": str(scores.versions["soft"])}
        yield from _soft_aggregate_rows(row, value, scores.tasks)


def _condition_rows(row: ScoreRow, task: TaskScores, heldout_questions: int | None) -> Iterable[ScoreRow]:
    if task.score is not None:
        low, high = task.interval or (None, None)
        yield row | {"condition": "sighted", "score": task.score, "interval_low": low, "interval_high": high}
    for condition in GUESSERS:
        score = getattr(task, condition)
        if score is not None:
            low, high = task.over[condition].interval if condition in task.over else (None, None)
            yield row | {"condition": condition, "score": score, "margin_low": low, "margin_high": high}
    if task.soft is not None:
        row_soft = row | {"metric": f"soft {task.metric}", "questions": task.soft.n}
        low, high = task.soft.interval or (None, None)
        sighted = {"condition": "soft", "score": task.soft.score, "interval_low": low, "interval_high": high}
        yield from [row_soft | sighted] * (task.soft.score is not None)
        yield from [row_soft | {"condition": "soft_blind", "score": task.soft.blind}] * (task.soft.blind is not None)
    if task.heldout is not None:
        yield row | {"condition": "heldout", "score": task.heldout, "questions": heldout_questions}


def _subset_rows(row: ScoreRow, task: TaskScores) -> Iterable[ScoreRow]:
    for tag, values in task.by.items():
        for value, subset in values.items():
            yield row | {"condition": f"{tag}: {value}", "score": subset.score, "questions": subset.n}
    for split, metrics in task.splits.items():
        yield row | {"condition": f"split: {split}", "score": metrics.accuracy, "questions": metrics.n}


def _aggregate_rows(row: ScoreRow, value: float | None, tasks: Mapping[str, TaskScores]) -> Iterable[ScoreRow]:
    """A mean over tasks from scores.json; the stable score also of each guesser that has a score of all its tasks."""
    name, kind = row["task"], row["kind"]
    stable_tasks = _stable_tasks(tasks, kind)
    row = row | {"metric": f"{name} mean over tasks", "questions": sum(scores.n for scores in stable_tasks.values())}
    if value is not None:
        yield row | {"condition": "sighted", "score": value}
    for condition in GUESSERS if name == STABLE else ():
        guesses = {task: getattr(scores, condition) for task, scores in stable_tasks.items()}
        if guesses and None not in guesses.values():
            yield row | {"condition": condition, "score": aggregate_scores(guesses, kind).stable}


def _soft_aggregate_rows(row: ScoreRow, value: float | None, tasks: Mapping[str, TaskScores]) -> Iterable[ScoreRow]:
    """The soft stable score of a kind, also without the images where all its tasks have a soft score without them."""
    soft = {name: task.soft for name, task in _stable_tasks(tasks, row["kind"]).items() if task.soft}
    row = row | {"metric": "soft stable mean over tasks", "questions": sum(scores.n for scores in soft.values())}
    yield from [row | {"condition": "soft", "score": value}] * (value is not None)
    blind = {name: scores.blind for name, scores in soft.items() if scores.blind is not None}
    if blind and len(blind) == len(soft):
        yield row | {"condition": "soft_blind", "score": aggregate_scores(blind, row["kind"]).stable}


def _stable_tasks(tasks: Mapping[str, TaskScores], kind: str) -> dict[str, TaskScores]:
    return {name: scores for name, scores in tasks.items() if scores.kind == kind and scores.stable}


def soft_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows of soft scores alone, with the condition under which the questions were answered."""
    soft = rows.filter(pl.col("condition").is_in(list(SOFT_CONDITIONS)))
    return soft.with_columns(pl.col("condition").replace_strict(SOFT_CONDITIONS))


def measure_rows(rows: pl.DataFrame, measure: Measure) -> pl.DataFrame:
    """The rows of a measure's kind of score, which is the soft one or not, of all tasks and means over them."""
    return soft_rows(rows) if split_measure(measure)[1] else rows


def measure_scores(rows: pl.DataFrame, measure: Measure) -> pl.DataFrame:
    """The rows of a measure itself, with the image: the stable score of a kind, or the score of a single task."""
    name, _ = split_measure(measure)
    sighted = measure_rows(rows, measure).filter(condition="sighted")
    return sighted.filter(task=STABLE, kind=name) if name in STABLE_MEASURES else sighted.filter(task=name)


def mean_over_seeds(rows: pl.DataFrame, *, extra_keys: Sequence[str] = ()) -> pl.DataFrame:
    """Mean over seeds of every arm, task and condition (and `extra_keys`), with the seeds' range and addresses."""
    keys = ["arm", "group", "role", "task", "kind", "condition", *extra_keys]
    return rows.group_by(keys, maintain_order=True).agg(
        pl.col("score").mean(),
        pl.col("score").min().alias("min_score"),
        pl.col("score").max().alias("max_score"),
        pl.col("chance", "questions").first(),
        pl.len().alias("seeds"),
        pl.col("address").unique(maintain_order=True).str.join(", "),
    )


def guesser_margins(rows: pl.DataFrame) -> pl.DataFrame:
    """The sighted rows with their margin over the guesser that scores more, or over chance where a task has none.

    New columns: `guesser` (its condition, or "chance"), `guesser_score` and `margin`. margin_low and margin_high become
    the margin's interval (over chance, which is a fixed number: the score's interval less chance).
    """
    keys = ["label", "task", "kind"]
    columns = {"guesser_score": "score", "guesser": "condition"}
    guessers = rows.filter(pl.col("condition").is_in(GUESSERS)).sort("score", descending=True)
    guessers = guessers.unique(keys, keep="first", maintain_order=True).select(*keys, *MARGIN_INTERVAL, **columns)
    sighted = rows.filter(condition="sighted").drop(MARGIN_INTERVAL)
    ends = [
        pl.when(pl.col("guesser").is_not_null()).then(margin).otherwise(pl.col(end) - pl.col("chance")).alias(margin)
        for end, margin in zip(INTERVAL, MARGIN_INTERVAL, strict=True)
    ]
    guesser = pl.col("guesser_score").fill_null(pl.col("chance")), pl.col("guesser").fill_null("chance")
    joined = sighted.join(guessers, on=keys, how="left", maintain_order="left").with_columns(*ends, *guesser)
    return joined.with_columns(margin=pl.col("score") - pl.col("guesser_score"))


def task_gains(rows: pl.DataFrame, arm: str, measure: Measure) -> dict[int, dict[str, float]]:
    """Score less baseline of each task of a measure, by seed and task: of those in a stable score, or of a single one.

    A task that the stable score leaves out has no baseline: its gain is its score.
    """
    name, _ = split_measure(measure)
    sighted = single_task_rows(measure_rows(rows, measure).filter(arm=arm, condition="sighted"))
    is_stable = pl.col("baseline").is_not_null() & (pl.col("kind") == name)
    included = sighted.filter(is_stable if name in STABLE_MEASURES else pl.col("task") == name)
    gain = pl.col("score") - pl.col("baseline").fill_null(0.0)
    gains: dict[int, dict[str, float]] = {}
    for seed, task, value in included.select("seed", "task", gain).iter_rows():
        gains.setdefault(seed, {})[task] = value
    return gains


def changed_tasks(rows: pl.DataFrame) -> list[str]:
    """Tasks that the arms did not answer in one version, by one metric and on as many questions: not comparable."""
    definitions = single_task_rows(rows.filter(condition="sighted")).select("task", "version", "metric", "questions")
    counts = definitions.unique().group_by("task", maintain_order=True).len().filter(pl.col("len") > 1)
    return sorted(counts.get_column("task"))


def single_task_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows of single tasks, without the means over them."""
    return rows.filter(~pl.col("task").is_in(AGGREGATE_NAMES))


def single_task_names(rows: pl.DataFrame, kind: str) -> list[str]:
    """Single tasks of a kind in the order of scores.json."""
    return single_task_rows(rows.filter(kind=kind)).get_column("task").unique(maintain_order=True).to_list()


def task_overview(rows: pl.DataFrame) -> list[ScoreRow]:
    """One row for each task: scores of its best arm, both guessers and chance, means over seeds; vision first."""
    overview = []
    tasks = [(kind, task) for kind in ("vision", "text") for task in single_task_names(rows, kind)]
    for kind, task in tasks:
        task_rows = rows.filter(task=task, kind=kind)
        means, margins = mean_over_seeds(task_rows), _mean_margins(task_rows)
        best = means.filter(condition="sighted").sort("score", descending=True).row(0, named=True)
        scores = dict(means.filter(arm=best["arm"]).select("condition", "score").iter_rows())
        margin, *ends = margins.filter(arm=best["arm"]).select("margin", *MARGIN_INTERVAL).row(0)
        best |= {name: scores.get(name) for name in CONDITIONS}
        best |= {"metric": task_rows["metric"][0], "stable": task_rows["baseline"].is_not_null().any()}
        overview.append(best | {"margin": margin, "margin_interval": None if None in ends else tuple(ends)})
    return overview


def _mean_margins(rows: pl.DataFrame) -> pl.DataFrame:
    """`guesser_margins` of each arm's means over seeds.

    The interval's ends are means over seeds: all seeds answer the same questions, so the mean is at least that precise.
    """
    columns = ("score", *INTERVAL, *MARGIN_INTERVAL, "chance")
    means = rows.group_by("arm", "task", "kind", "condition", maintain_order=True).agg(pl.col(columns).mean())
    return guesser_margins(means.with_columns(pl.col("arm").alias("label")))


def models_table(arms: Sequence[ArmResult], rows: pl.DataFrame) -> list[tuple[str, ...]]:
    """Models that were not trained here beside the arms that were: a column for each, a row for each stable score and
    task, in percent, and a header row; means over seeds. Empty where all or none were trained here."""
    is_trained = {arm.name: bool(arm.stages) for arm in arms_with_scores(arms) if arm.role == "compared"}
    if len(set(is_trained.values())) < 2:
        return []
    means = mean_over_seeds(rows.filter(condition="sighted", role="compared"))
    scores = {(arm, task, kind): score for arm, task, kind, score in means["arm", "task", "kind", "score"].iter_rows()}
    places = [(STABLE, kind) for kind in STABLE_MEASURES]
    places += [(task, kind) for kind in STABLE_MEASURES for task in single_task_names(rows, kind)]
    return [
        ("score, %", *(name if trained else f"{name} (not trained here)" for name, trained in is_trained.items())),
        *(
            (
                f"{kind}: stable score" if task == STABLE else task,
                *(format_percent(scores.get((name, task, kind))) or "–" for name in is_trained),
            )
            for task, kind in places
        ),
    ]
