"""The answer in one sentence, and what the study can and cannot show, both drawn from the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from firstsight.report.claims import points, span
from firstsight.report.compare import Comparison, Difference, Pair
from firstsight.report.results import ArmResult, StudyFacts, judged, ordinary
from firstsight.report.table import STABLE, disagreements, margins, means, single, varied
from firstsight.units import short

Row = dict[str, Any]


def answer(arms: Sequence[ArmResult], rows: pl.DataFrame, comparison: Comparison) -> str:
    """Which arm did best in vision, by how much, over how many seeds, and whether that separates it from the others."""
    wanted = (pl.col("task") == STABLE) & (pl.col("kind") == "vision") & (pl.col("condition") == "sighted")
    ranked = means(rows.filter(wanted & pl.col("ordinary"))).sort("score", descending=True).to_dicts()
    if not ranked:
        return f"No answer yet: no arm has been judged on vision ({len(judged(arms))} of {len(arms)} have scores)."
    best, *others = ranked
    by_start = varied(rows)
    guessed = _guessed(best["arm"], rows)
    if guessed is not None and best["score"] <= guessed:
        return (
            f"No answer: even the best arm ({_short(best, by_start)}) scores {100 * best['score']:.1f} points above "
            f"chance in vision, and a guesser that lacks the picture or the question {100 * guessed:.1f}, so the order "
            "of the arms means nothing."
        )
    where = (
        f"when images entered at {_short(best, by_start)} of the text training" if by_start else f"with {best['arm']}"
    )
    over = f"mean of {best['seeds']} seeds" if best["seeds"] > 1 else "one seed"
    opening = f"Vision came out best {where}: {100 * best['score']:.1f} points above chance ({over})"
    if not others:
        return f"{opening}; no other arm has been judged."
    # The best arm was picked by looking, so it is corrected as if every pair had been compared.
    pairs = [Pair(a=best["arm"], b=row["arm"], kind="vision") for row in others]
    found = comparison.family(pairs, among=len(ranked) * len(others) // 2)
    return opening + _apart(list(zip(others, found, strict=True)), by_start, single=best["seeds"] == 1)


def _apart(others: list[tuple[Row, Difference | None]], by_start: bool, *, single: bool) -> str:
    """Whether the best arm is clear of the rest, whose nearest comes first."""
    runner, nearest = others[0]
    next_one = f"{_short(runner, by_start)} is next{_behind(nearest)}"
    if single:
        return f"; {next_one}, but one seed cannot tell an effect from a lucky run."
    close = [row for row, found in others if found is None or found.side <= 0]
    if close:
        names = _listed([_short(row, by_start) for row in close])
        return f"; {next_one}. These seeds and questions cannot tell it from {names}."
    return f", clear of every other arm; {next_one}."


def _behind(nearest: Difference | None) -> str:
    """By how much, with its interval; over questions alone where there is one seed."""
    if nearest is None or nearest.shown is None:
        return ""
    alone = " over questions alone" if nearest.interval is None else ""
    ends = f"{100 * nearest.level:.3g} % interval{alone} {span(nearest.shown)}"
    return f", {points(nearest.mean).lstrip('+')} points behind ({ends})"


def _guessed(arm: str, rows: pl.DataFrame) -> float | None:
    """The better stable score of those who lack the picture or the question; None where nobody guessed."""
    wanted = (pl.col("arm") == arm) & (pl.col("task") == STABLE) & (pl.col("kind") == "vision")
    scores = means(rows.filter(wanted & pl.col("condition").is_in(["blind", "question_blind"]))).get_column("score")
    return max(scores.to_list(), default=None)


def _short(row: Row, by_start: bool) -> str:
    return f"{100 * row['start']:.3g} %" if by_start else str(row["arm"])


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def limits(
    arms: Sequence[ArmResult], rows: pl.DataFrame, study: StudyFacts, *, tokens: Mapping[str, float]
) -> tuple[list[str], list[str]]:
    """What this study can show, and what it cannot, as sentences that follow from its own numbers."""
    cannot = [_toy(study)] if study.toy else []
    cannot += _few_seeds(arms) + _schedules(arms) + _budgets(tokens, by_start=varied(rows)) + _lacking(arms)
    cannot += [f"{line}. Trust the single tasks until this is explained." for line in disagreements(arms, rows)]
    return _can(arms, rows), cannot


def _can(arms: Sequence[ArmResult], rows: pl.DataFrame) -> list[str]:
    done = judged(arms)
    names, seeds = len({arm.name for arm in done}), len({arm.seed for arm in done})
    if names < 2:
        return ["What is planned, what it costs, and what has trained so far."]
    marks = f"each of {seeds} seeds is a mark of its own" if seeds > 1 else "one seed of each"
    return [
        f"How {names} arms compare when they are asked the same questions: {marks}, and differences are taken "
        "question by question.",
        *_sights(rows),
    ]


def _sights(rows: pl.DataFrame) -> list[str]:
    vision = margins(single(rows).filter(pl.col("kind") == "vision"))
    cells = vision.group_by("arm", "task", maintain_order=True).agg(pl.col("margin").mean())
    above = cells.filter(pl.col("margin") > 0).height
    return [
        f"Where sight adds something: {above} of {cells.height} vision scores (arms × tasks) stand above both "
        "guessers, the model without its picture and the best answer without the question."
    ] * (cells.height > 0)


def _toy(study: StudyFacts) -> str:
    return (
        f"What happens in models that people use. At {study.scale} scale the order of the arms can change with the "
        "budget, so no verdict here confirms or refutes the paper."
    )


def _few_seeds(arms: Sequence[ArmResult]) -> list[str]:
    seeds = len({arm.seed for arm in judged(arms)})
    if not seeds or seeds > 2:
        return []
    leave = "one seed leaves no interval at all" if seeds == 1 else f"{seeds} seeds leave wide intervals"
    return [f"How the next seed would come out: {leave}. More seeds tell more."]


def _schedules(arms: Sequence[ArmResult]) -> list[str]:
    ends = sorted({f"{100 * float(arm.start):.0f} %" for arm in ordinary(arms) if arm.schedule == "Rewarm"})
    inner = any(arm.schedule == "Continue" for arm in arms)
    if not ends or not inner:
        return []
    return [
        f"The moment alone at {' and '.join(ends)}: there the learning rate is warmed up again, elsewhere it goes "
        "on. Hollow points and dashed lines say so."
    ]


def _budgets(tokens: Mapping[str, float], *, by_start: bool) -> list[str]:
    if not tokens or max(tokens.values()) <= 1.02 * min(tokens.values()):
        return []
    low, high = short(int(min(tokens.values()))), short(int(max(tokens.values())))
    if not by_start:
        return [f"The arms at an equal budget: in all they have seen from {low} to {high} tokens."]
    return [
        "The moment at an equal budget: each arm trains a fixed number of tokens after its branch, so the earliest "
        f"start has seen {low} tokens in all and the latest {high}."
    ]


def _lacking(arms: Sequence[ArmResult]) -> list[str]:
    lacking: dict[str, list[str]] = {}
    for arm in judged(arms):
        if arm.schedule != "trunk":
            lacking |= (arm.scores or {}).get("missing", {})
    return [
        f"The paper's {kind} score itself: the mean here lacks {', '.join(tasks)}, which were not judged."
        for kind, tasks in lacking.items()
        if tasks
    ]
