"""Scores as tidy rows: one row for one arm, task and condition, each with the address it came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from firstsight.errors import DataError
from firstsight.report.results import ArmResult, arms_with_scores, main_sweep_arms

ScoreRow = dict[str, Any]

SCORE_SCHEMA: dict[str, Any] = {
    "arm": pl.String,
    "label": pl.String,
    "seed": pl.Int64,
    "start": pl.Float64,
    "schedule": pl.String,
    "ordinary": pl.Boolean,
    "task": pl.String,
    "kind": pl.String,
    "condition": pl.String,
    "score": pl.Float64,
    "lo": pl.Float64,
    "hi": pl.Float64,
    "over_lo": pl.Float64,
    "over_hi": pl.Float64,
    "chance": pl.Float64,
    "baseline": pl.Float64,
    "n": pl.Int64,
    "metric": pl.String,
    "address": pl.String,
    "version": pl.String,
}
"""Columns of `tidy`. Scores and intervals are shares of 1. `condition` is sighted, blind, question_blind, heldout, or a
part of the questions such as "split: popular". `over_lo` and `over_hi` end the 95 % interval, over questions, of the
sighted score less this row's, question by question; null where it was not taken. `chance` is what guessing scores,
`baseline` what the stable score subtracts, null where a task stays out of it."""

STABLE = "stable"
"""The task name under which a kind's mean of (score - baseline) is listed."""

AGGREGATE_NAMES = (STABLE, "centred", "raw")
"""Means over the stable score's tasks: as the authors computed it, divided by what chance leaves, and as it is."""

CONDITIONS = ("sighted", "blind", "question_blind", "heldout")


def score_table(arms: Sequence[ArmResult]) -> pl.DataFrame:
    """All scores of all judged arms, single tasks first, then the stable scores; raises DataError on a bad file."""
    rows: list[ScoreRow] = []
    sweep_labels = {arm.label for arm in main_sweep_arms(arms)}
    for arm in arms_with_scores(arms):
        try:
            rows += [row | {"ordinary": arm.label in sweep_labels} for row in _arm_rows(arm)]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{arm.label} ({arm.address}): its scores.json is not in this version's form. "
                f"Wanted tasks with kind, score, n and interval. Got {type(error).__name__}: {error}. "
                "Judge the checkpoint again."
            ) from error
    return pl.DataFrame(rows, schema=SCORE_SCHEMA)


def _arm_rows(arm: ArmResult) -> Iterable[ScoreRow]:
    scores = arm.scores or {}
    common = {
        "arm": arm.name,
        "label": arm.label,
        "seed": arm.seed,
        "start": float(arm.start),
        "schedule": arm.schedule,
        "address": arm.address,
    }
    versions = scores["versions"]
    for task, facts in scores["tasks"].items():
        base = common | {
            "task": task,
            "kind": facts["kind"],
            "chance": facts.get("guess", facts["chance"]),
            "baseline": facts["chance"] if facts.get("stable", True) else None,
            "n": facts["n"],
            "metric": facts["metric"],
            "version": str(versions.get(task, versions.get("scores", ""))),
        }
        yield from _condition_rows(base, facts)
        yield from _subset_rows(base, facts)
    for name in AGGREGATE_NAMES:
        for kind, value in scores.get(name, {}).items():
            yield from _aggregate_rows(
                common | {"version": str(versions.get(name, ""))}, name, kind, value, scores["tasks"]
            )


def _condition_rows(base: ScoreRow, facts: Mapping[str, Any]) -> Iterable[ScoreRow]:
    lo, hi = facts["interval"] or (None, None)
    for condition, name in zip(CONDITIONS, ("score", "blind", "question_blind", "heldout"), strict=True):
        if facts.get(name) is not None:
            margin_interval = facts.get("over", {}).get(condition, {}).get("interval") or (None, None)
            bounds = (
                {"lo": lo, "hi": hi}
                if condition == "sighted"
                else {"over_lo": margin_interval[0], "over_hi": margin_interval[1]}
            )
            yield base | {"condition": condition, "score": facts[name]} | bounds


def _subset_rows(base: ScoreRow, facts: Mapping[str, Any]) -> Iterable[ScoreRow]:
    """Scores of some of the questions: by tag (held out or seen) and by split."""
    for tag, values in facts.get("by", {}).items():
        for value, subset in values.items():
            if subset["score"] is not None:
                yield base | {"condition": f"{tag}: {value}", "score": subset["score"], "n": subset["n"]}
    for split, subset in facts.get("splits", {}).items():
        yield base | {"condition": f"split: {split}", "score": subset["accuracy"], "n": subset["n"]}


def _aggregate_rows(
    base: ScoreRow, name: str, kind: str, value: float | None, tasks: Mapping[str, Any]
) -> Iterable[ScoreRow]:
    """A mean over tasks as judged; for the stable score also what the two guessers get by the same formula."""
    stable_tasks = [facts for facts in tasks.values() if facts["kind"] == kind and facts.get("stable", True)]
    row = base | {
        "task": name,
        "kind": kind,
        "metric": f"{name} mean over tasks",
        "n": sum(task_facts["n"] for task_facts in stable_tasks),
    }
    if value is not None:
        yield row | {"condition": "sighted", "score": value}
    for condition in ("blind", "question_blind"):
        values = [facts.get(condition) for facts in stable_tasks]
        if name == STABLE and stable_tasks and all(value is not None for value in values):
            total_gain = sum(facts[condition] - facts["chance"] for facts in stable_tasks)
            yield row | {"condition": condition, "score": total_gain / len(stable_tasks)}


def mean_over_seeds(rows: pl.DataFrame, *, extra_keys: Sequence[str] = ()) -> pl.DataFrame:
    """Mean over seeds of every arm, task and condition, with the seeds' range and all their addresses.

    `also` names further columns that are the same for all seeds of an arm.
    """
    keys = ["arm", "start", "schedule", "ordinary", "task", "kind", "condition", *extra_keys]
    return (
        rows.group_by(keys, maintain_order=True)
        .agg(
            pl.col("score").mean(),
            pl.col("score").min().alias("least"),
            pl.col("score").max().alias("most"),
            pl.col("chance").first(),
            pl.col("n").first(),
            pl.len().alias("seeds"),
            pl.col("address").unique(maintain_order=True).str.join(", ").alias("address"),
        )
        .sort("start", "arm", maintain_order=True)
    )


def guesser_margins(rows: pl.DataFrame) -> pl.DataFrame:
    """How far each sighted score stands above the better guesser that sees only half of the question.

    Where a task has no guesser, chance stands in. Columns: the sighted row's, `guessed`, `better` (which), `margin` and
    its interval over questions, `margin_lo` and `margin_hi` (chance is a fixed number, so there it is the score's own).
    """
    keys = ["label", "task", "kind"]
    guessers = (
        rows.filter(pl.col("condition").is_in(["blind", "question_blind"]))
        .sort("score", descending=True)
        .group_by(keys, maintain_order=True)
        .agg(
            pl.col("score").first().alias("guessed"),
            pl.col("condition").first().alias("better"),
            pl.col("over_lo", "over_hi").first().name.replace("over", "margin"),
        )
    )
    sighted = rows.filter(pl.col("condition") == "sighted").join(guessers, on=keys, how="left", maintain_order="left")
    has_no_guesser = pl.col("guessed").is_null()
    margin_ends = [
        pl.when(has_no_guesser)
        .then(pl.col(bound) - pl.col("chance"))
        .otherwise(pl.col(f"margin_{bound}"))
        .alias(f"margin_{bound}")
        for bound in ("lo", "hi")
    ]
    fallbacks = [pl.col("guessed").fill_null(pl.col("chance")), pl.col("better").fill_null("chance")]
    return sighted.with_columns(*margin_ends, *fallbacks).with_columns(
        (pl.col("score") - pl.col("guessed")).alias("margin")
    )


def stable_gains(rows: pl.DataFrame, arm: str, kind: str) -> dict[str, dict[int, float]]:
    """Score less baseline of an arm on each task that the stable score counts, by task and seed."""
    row_filter = (pl.col("arm") == arm) & (pl.col("kind") == kind) & (pl.col("condition") == "sighted")
    stable_rows = single_task_rows(rows.filter(row_filter & pl.col("baseline").is_not_null()))
    gains: dict[str, dict[int, float]] = {}
    for task, seed, gain in stable_rows.select("task", "seed", pl.col("score") - pl.col("baseline")).iter_rows():
        gains.setdefault(task, {})[seed] = gain
    return gains


def single_task_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows of single tasks, without the means over them."""
    return rows.filter(~pl.col("task").is_in(AGGREGATE_NAMES))


def has_varied_starts(rows: pl.DataFrame) -> bool:
    """Whether the arms on the line differ in where images enter, so that starts can be an axis."""
    sweep_rows = rows.filter(pl.col("ordinary"))
    return 1 < sweep_rows.get_column("start").n_unique() == sweep_rows.get_column("arm").n_unique()


def single_task_names(rows: pl.DataFrame, kind: str) -> list[str]:
    """Single tasks of a kind in the order in which they were judged."""
    row_filter = (pl.col("kind") == kind) & ~pl.col("task").is_in(AGGREGATE_NAMES)
    return rows.filter(row_filter).get_column("task").unique(maintain_order=True).to_list()


def stable_score_mismatches(arms: Sequence[ArmResult], rows: pl.DataFrame) -> list[str]:
    """Arms whose judged stable score is not the mean over the tasks that the page shows; empty when all is well."""
    mismatches = []
    for arm in arms_with_scores(arms):
        for kind, stable in (arm.scores or {}).get("stable", {}).items():
            arm_rows = rows.filter((pl.col("label") == arm.label) & (pl.col("kind") == kind))
            sighted_rows = arm_rows.filter((pl.col("condition") == "sighted") & ~pl.col("task").is_in(AGGREGATE_NAMES))
            mean = sighted_rows.select((pl.col("score") - pl.col("baseline")).mean()).item()
            if stable is not None and mean is not None and abs(mean - stable) > 1e-6:
                mismatches.append(f"{arm.label}: {kind} was judged {stable:.4f}, but the tasks shown give {mean:.4f}")
    return mismatches


def task_overview(rows: pl.DataFrame) -> list[ScoreRow]:
    """One row a task: its best arm beside both guessers and chance, means over seeds; vision first."""
    overview_rows = []
    for kind in ("vision", "text"):
        for task in single_task_names(rows, kind):
            task_rows = rows.filter((pl.col("task") == task) & (pl.col("kind") == kind))
            task_means = mean_over_seeds(task_rows)
            best = task_means.filter(pl.col("condition") == "sighted").sort("score", descending=True).to_dicts()[0]
            best_rows = task_means.filter(pl.col("arm") == best["arm"])
            score_by_condition = dict(best_rows.select("condition", "score").iter_rows())
            overview_rows.append(
                best
                | {name: score_by_condition.get(name) for name in CONDITIONS}
                | {"metric": task_rows.get_column("metric")[0], "stable": is_in_stable_score(task_rows)}
                | _mean_margin(task_rows.filter(pl.col("arm") == best["arm"]))
            )
    return overview_rows


def _mean_margin(rows: pl.DataFrame) -> ScoreRow:
    """One arm's margin in one task, mean over seeds, over the guesser that is better on that mean, and its interval.

    The ends are means over seeds too: all seeds answer the same questions, so the mean is at least that sure.
    """
    sighted_means = (
        rows.filter(pl.col("condition") == "sighted").select(pl.col("score", "lo", "hi", "chance").mean()).to_dicts()[0]
    )
    guessers = mean_over_seeds(rows.filter(pl.col("condition").is_in(["blind", "question_blind"]))).sort(
        "score", descending=True
    )
    if guessers.is_empty():
        return {
            "margin": sighted_means["score"] - sighted_means["chance"],
            "margin_ends": _shift_interval(sighted_means["lo"], sighted_means["hi"], sighted_means["chance"]),
        }
    best_guesser = guessers.row(0, named=True)
    margin_bounds = (
        rows.filter(pl.col("condition") == best_guesser["condition"]).select(pl.col("over_lo", "over_hi").mean()).row(0)
    )
    return {
        "margin": sighted_means["score"] - best_guesser["score"],
        "margin_ends": _shift_interval(margin_bounds[0], margin_bounds[1], 0.0),
    }


def _shift_interval(low: float | None, high: float | None, offset: float) -> tuple[float, float] | None:
    return None if low is None or high is None else (low - offset, high - offset)


def is_in_stable_score(rows: pl.DataFrame) -> bool:
    """Whether the stable score includes this task."""
    return rows.get_column("baseline").is_not_null().any()
