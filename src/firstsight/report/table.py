"""Scores as tidy rows: one row for one arm, task and condition, each with the address it came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from firstsight.errors import DataError
from firstsight.report.results import ArmResult, judged, ordinary

Row = dict[str, Any]

SCHEMA: dict[str, Any] = {
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

AGGREGATES = (STABLE, "centred", "raw")
"""Means over the stable score's tasks: as the authors computed it, divided by what chance leaves, and as it is."""

CONDITIONS = ("sighted", "blind", "question_blind", "heldout")


def tidy(arms: Sequence[ArmResult]) -> pl.DataFrame:
    """All scores of all judged arms, single tasks first, then the stable scores; raises DataError on a bad file."""
    rows: list[Row] = []
    line = {arm.label for arm in ordinary(arms)}
    for arm in judged(arms):
        try:
            rows += [row | {"ordinary": arm.label in line} for row in _rows(arm)]
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            raise DataError(
                f"{arm.label} ({arm.address}): its scores.json is not in this version's form. "
                f"Wanted tasks with kind, score, n and interval. Got {type(problem).__name__}: {problem}. "
                "Judge the checkpoint again."
            ) from problem
    return pl.DataFrame(rows, schema=SCHEMA)


def _rows(arm: ArmResult) -> Iterable[Row]:
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
        yield from _conditions(base, facts)
        yield from _parts(base, facts)
    for name in AGGREGATES:
        for kind, value in scores.get(name, {}).items():
            yield from _mean(common | {"version": str(versions.get(name, ""))}, name, kind, value, scores["tasks"])


def _conditions(base: Row, facts: Mapping[str, Any]) -> Iterable[Row]:
    lo, hi = facts["interval"] or (None, None)
    for condition, name in zip(CONDITIONS, ("score", "blind", "question_blind", "heldout"), strict=True):
        if facts.get(name) is not None:
            over = facts.get("over", {}).get(condition, {}).get("interval") or (None, None)
            ends = {"lo": lo, "hi": hi} if condition == "sighted" else {"over_lo": over[0], "over_hi": over[1]}
            yield base | {"condition": condition, "score": facts[name]} | ends


def _parts(base: Row, facts: Mapping[str, Any]) -> Iterable[Row]:
    """Scores of some of the questions: by tag (held out or seen) and by split."""
    for tag, values in facts.get("by", {}).items():
        for value, part in values.items():
            if part["score"] is not None:
                yield base | {"condition": f"{tag}: {value}", "score": part["score"], "n": part["n"]}
    for split, part in facts.get("splits", {}).items():
        yield base | {"condition": f"split: {split}", "score": part["accuracy"], "n": part["n"]}


def _mean(base: Row, name: str, kind: str, value: float | None, tasks: Mapping[str, Any]) -> Iterable[Row]:
    """A mean over tasks as judged; for the stable score also what the two guessers get by the same formula."""
    counted = [facts for facts in tasks.values() if facts["kind"] == kind and facts.get("stable", True)]
    row = base | {"task": name, "kind": kind, "metric": f"{name} mean over tasks", "n": sum(f["n"] for f in counted)}
    if value is not None:
        yield row | {"condition": "sighted", "score": value}
    for condition in ("blind", "question_blind"):
        values = [facts.get(condition) for facts in counted]
        if name == STABLE and counted and all(value is not None for value in values):
            gains = sum(facts[condition] - facts["chance"] for facts in counted)
            yield row | {"condition": condition, "score": gains / len(counted)}


def means(rows: pl.DataFrame, *, also: Sequence[str] = ()) -> pl.DataFrame:
    """Mean over seeds of every arm, task and condition, with the seeds' range and all their addresses.

    `also` names further columns that are the same for all seeds of an arm.
    """
    keys = ["arm", "start", "schedule", "ordinary", "task", "kind", "condition", *also]
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


def margins(rows: pl.DataFrame) -> pl.DataFrame:
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
    alone = pl.col("guessed").is_null()
    ends = [
        pl.when(alone).then(pl.col(end) - pl.col("chance")).otherwise(pl.col(f"margin_{end}")).alias(f"margin_{end}")
        for end in ("lo", "hi")
    ]
    filled = [pl.col("guessed").fill_null(pl.col("chance")), pl.col("better").fill_null("chance")]
    return sighted.with_columns(*ends, *filled).with_columns((pl.col("score") - pl.col("guessed")).alias("margin"))


def counted(rows: pl.DataFrame, arm: str, kind: str) -> dict[str, dict[int, float]]:
    """Score less baseline of an arm on each task that the stable score counts, by task and seed."""
    wanted = (pl.col("arm") == arm) & (pl.col("kind") == kind) & (pl.col("condition") == "sighted")
    some = single(rows.filter(wanted & pl.col("baseline").is_not_null()))
    found: dict[str, dict[int, float]] = {}
    for task, seed, gain in some.select("task", "seed", pl.col("score") - pl.col("baseline")).iter_rows():
        found.setdefault(task, {})[seed] = gain
    return found


def single(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows of single tasks, without the means over them."""
    return rows.filter(~pl.col("task").is_in(AGGREGATES))


def varied(rows: pl.DataFrame) -> bool:
    """Whether the arms on the line differ in where images enter, so that starts can be an axis."""
    line = rows.filter(pl.col("ordinary"))
    return 1 < line.get_column("start").n_unique() == line.get_column("arm").n_unique()


def tasks_of(rows: pl.DataFrame, kind: str) -> list[str]:
    """Single tasks of a kind in the order in which they were judged."""
    wanted = (pl.col("kind") == kind) & ~pl.col("task").is_in(AGGREGATES)
    return rows.filter(wanted).get_column("task").unique(maintain_order=True).to_list()


def disagreements(arms: Sequence[ArmResult], rows: pl.DataFrame) -> list[str]:
    """Arms whose judged stable score is not the mean over the tasks that the page shows; empty when all is well."""
    found = []
    for arm in judged(arms):
        for kind, stable in (arm.scores or {}).get("stable", {}).items():
            shown = rows.filter((pl.col("label") == arm.label) & (pl.col("kind") == kind))
            single = shown.filter((pl.col("condition") == "sighted") & ~pl.col("task").is_in(AGGREGATES))
            mean = single.select((pl.col("score") - pl.col("baseline")).mean()).item()
            if stable is not None and mean is not None and abs(mean - stable) > 1e-6:
                found.append(f"{arm.label}: {kind} was judged {stable:.4f}, but the tasks shown give {mean:.4f}")
    return found


def overview(rows: pl.DataFrame) -> list[Row]:
    """One row a task: its best arm beside both guessers and chance, means over seeds; vision first."""
    found = []
    for kind in ("vision", "text"):
        for task in tasks_of(rows, kind):
            here = rows.filter((pl.col("task") == task) & (pl.col("kind") == kind))
            mean = means(here)
            best = mean.filter(pl.col("condition") == "sighted").sort("score", descending=True).to_dicts()[0]
            of_best = mean.filter(pl.col("arm") == best["arm"])
            beside = dict(of_best.select("condition", "score").iter_rows())
            found.append(
                best
                | {name: beside.get(name) for name in CONDITIONS}
                | {"metric": here.get_column("metric")[0], "stable": task_counts(here)}
                | _margin(here.filter(pl.col("arm") == best["arm"]))
            )
    return found


def _margin(rows: pl.DataFrame) -> Row:
    """One arm's margin in one task, mean over seeds, over the guesser that is better on that mean, and its interval.

    The ends are means over seeds too: all seeds answer the same questions, so the mean is at least that sure.
    """
    score = (
        rows.filter(pl.col("condition") == "sighted").select(pl.col("score", "lo", "hi", "chance").mean()).to_dicts()[0]
    )
    guessers = means(rows.filter(pl.col("condition").is_in(["blind", "question_blind"]))).sort("score", descending=True)
    if guessers.is_empty():
        return {
            "margin": score["score"] - score["chance"],
            "margin_ends": _ends(score["lo"], score["hi"], score["chance"]),
        }
    better = guessers.row(0, named=True)
    over = rows.filter(pl.col("condition") == better["condition"]).select(pl.col("over_lo", "over_hi").mean()).row(0)
    return {"margin": score["score"] - better["score"], "margin_ends": _ends(over[0], over[1], 0.0)}


def _ends(low: float | None, high: float | None, off: float) -> tuple[float, float] | None:
    return None if low is None or high is None else (low - off, high - off)


def task_counts(rows: pl.DataFrame) -> bool:
    """Whether the stable score includes this task."""
    return rows.get_column("baseline").is_not_null().any()
