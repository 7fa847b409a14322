"""The answer in one sentence, and what the study can and cannot show, both drawn from the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from firstsight.report.claims import format_interval, format_points
from firstsight.report.compare import ArmPair, Comparison, PairedDifference
from firstsight.report.results import ArmResult, StudyFacts, arms_with_scores, main_sweep_arms
from firstsight.report.table import (
    STABLE,
    guesser_margins,
    has_varied_starts,
    mean_over_seeds,
    single_task_rows,
    stable_score_mismatches,
)
from firstsight.units import format_count

ArmRow = dict[str, Any]


def answer_sentence(arms: Sequence[ArmResult], rows: pl.DataFrame, comparison: Comparison) -> str:
    """Which arm did best in vision, by how much, over how many seeds, and whether that separates it from the others."""
    row_filter = (pl.col("task") == STABLE) & (pl.col("kind") == "vision") & (pl.col("condition") == "sighted")
    ranked = mean_over_seeds(rows.filter(row_filter & pl.col("ordinary"))).sort("score", descending=True).to_dicts()
    if not ranked:
        return f"No answer yet: no arm has been judged on vision ({len(arms_with_scores(arms))} of {len(arms)} have scores)."
    best, *other_rows = ranked
    by_start = has_varied_starts(rows)
    guesser_score = _best_guesser_score(best["arm"], rows)
    if guesser_score is not None and best["score"] <= guesser_score:
        return (
            f"No answer: even the best arm ({_arm_text(best, by_start)}) scores {100 * best['score']:.1f} points above "
            f"chance in vision, and a guesser that lacks the picture or the question {100 * guesser_score:.1f}, so the order "
            "of the arms means nothing."
        )
    best_condition = (
        f"when images entered at {_arm_text(best, by_start)} of the text training"
        if by_start
        else f"with {best['arm']}"
    )
    seeds_text = f"mean of {best['seeds']} seeds" if best["seeds"] > 1 else "one seed"
    opening = f"Vision came out best {best_condition}: {100 * best['score']:.1f} points above chance ({seeds_text})"
    if not other_rows:
        return f"{opening}; no other arm has been judged."
    # The best arm was picked by looking, so it is corrected as if every pair had been compared.
    pairs = [ArmPair(a=best["arm"], b=row["arm"], kind="vision") for row in other_rows]
    differences = comparison.corrected_differences(pairs, candidate_count=len(ranked) * len(other_rows) // 2)
    return opening + _separation_text(
        list(zip(other_rows, differences, strict=True)), by_start, is_single_seed=best["seeds"] == 1
    )


def _separation_text(
    row_differences: list[tuple[ArmRow, PairedDifference | None]], by_start: bool, *, is_single_seed: bool
) -> str:
    """Whether the best arm is clear of the rest, whose nearest comes first."""
    runner_up, nearest_difference = row_differences[0]
    runner_up_text = f"{_arm_text(runner_up, by_start)} is next{_gap_text(nearest_difference)}"
    if is_single_seed:
        return f"; {runner_up_text}, but one seed cannot tell an effect from a lucky run."
    undecided_rows = [row for row, difference in row_differences if difference is None or difference.sign <= 0]
    if undecided_rows:
        names = _join_names([_arm_text(row, by_start) for row in undecided_rows])
        return f"; {runner_up_text}. These seeds and questions cannot tell it from {names}."
    return f", clear of every other arm; {runner_up_text}."


def _gap_text(difference: PairedDifference | None) -> str:
    """By how much, with its interval; over questions alone where there is one seed."""
    if difference is None or difference.display_interval is None:
        return ""
    scope_text = " over questions alone" if difference.interval is None else ""
    interval_text = (
        f"{100 * difference.level:.3g} % interval{scope_text} {format_interval(difference.display_interval)}"
    )
    return f", {format_points(difference.mean).lstrip('+')} points behind ({interval_text})"


def _best_guesser_score(arm: str, rows: pl.DataFrame) -> float | None:
    """The better stable score of those who lack the picture or the question; None where nobody guessed."""
    row_filter = (pl.col("arm") == arm) & (pl.col("task") == STABLE) & (pl.col("kind") == "vision")
    scores = mean_over_seeds(
        rows.filter(row_filter & pl.col("condition").is_in(["blind", "question_blind"]))
    ).get_column("score")
    return max(scores.to_list(), default=None)


def _arm_text(row: ArmRow, by_start: bool) -> str:
    return f"{100 * row['start']:.3g} %" if by_start else str(row["arm"])


def _join_names(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def study_limits(
    arms: Sequence[ArmResult], rows: pl.DataFrame, study: StudyFacts, *, tokens: Mapping[str, float]
) -> tuple[list[str], list[str]]:
    """What this study can show, and what it cannot, as sentences that follow from its own numbers."""
    limitations = [_small_scale_limit(study)] if study.is_builtin_scale else []
    limitations += (
        _seed_limit(arms)
        + _schedule_limit(arms)
        + _budget_limit(tokens, by_start=has_varied_starts(rows))
        + _missing_task_limit(arms)
    )
    limitations += [
        f"{mismatch}. Trust the single tasks until this is explained."
        for mismatch in stable_score_mismatches(arms, rows)
    ]
    return _supported_findings(arms, rows), limitations


def _supported_findings(arms: Sequence[ArmResult], rows: pl.DataFrame) -> list[str]:
    scored_arms = arms_with_scores(arms)
    names, seeds = len({arm.name for arm in scored_arms}), len({arm.seed for arm in scored_arms})
    if names < 2:
        return ["What is planned, what it costs, and what has trained so far."]
    marks_text = f"each of {seeds} seeds is a mark of its own" if seeds > 1 else "one seed of each"
    return [
        f"How {names} arms compare when they are asked the same questions: {marks_text}, and differences are taken "
        "question by question.",
        *_image_benefit(rows),
    ]


def _image_benefit(rows: pl.DataFrame) -> list[str]:
    vision = guesser_margins(single_task_rows(rows).filter(pl.col("kind") == "vision"))
    cells = vision.group_by("arm", "task", maintain_order=True).agg(pl.col("margin").mean())
    above_count = cells.filter(pl.col("margin") > 0).height
    return [
        f"Where sight adds something: {above_count} of {cells.height} vision scores (arms × tasks) stand above both "
        "guessers, the model without its picture and the best answer without the question."
    ] * (cells.height > 0)


def _small_scale_limit(study: StudyFacts) -> str:
    return (
        f"What happens in models that people use. At {study.scale} scale the order of the arms can change with the "
        "budget, so no verdict here confirms or refutes the paper."
    )


def _seed_limit(arms: Sequence[ArmResult]) -> list[str]:
    seeds = len({arm.seed for arm in arms_with_scores(arms)})
    if not seeds or seeds > 2:
        return []
    consequence = "one seed leaves no interval at all" if seeds == 1 else f"{seeds} seeds leave wide intervals"
    return [f"How the next seed would come out: {consequence}. More seeds tell more."]


def _schedule_limit(arms: Sequence[ArmResult]) -> list[str]:
    rewarm_starts = sorted(
        {f"{100 * float(arm.start):.0f} %" for arm in main_sweep_arms(arms) if arm.schedule == "rewarm"}
    )
    has_continued_arm = any(arm.schedule == "continue" for arm in arms)
    if not rewarm_starts or not has_continued_arm:
        return []
    return [
        f"The moment alone at {' and '.join(rewarm_starts)}: there the learning rate is warmed up again, elsewhere it goes "
        "on. Hollow points and dashed lines say so."
    ]


def _budget_limit(tokens: Mapping[str, float], *, by_start: bool) -> list[str]:
    if not tokens or max(tokens.values()) <= 1.02 * min(tokens.values()):
        return []
    low, high = format_count(int(min(tokens.values()))), format_count(int(max(tokens.values())))
    if not by_start:
        return [f"The arms at an equal budget: in all they have seen from {low} to {high} tokens."]
    return [
        "The moment at an equal budget: each arm trains a fixed number of tokens after its branch, so the earliest "
        f"start has seen {low} tokens in all and the latest {high}."
    ]


def _missing_task_limit(arms: Sequence[ArmResult]) -> list[str]:
    missing_tasks: dict[str, list[str]] = {}
    for arm in arms_with_scores(arms):
        if arm.schedule != "trunk":
            missing_tasks |= (arm.scores or {}).get("missing", {})
    return [
        f"The paper's {kind} score itself: the mean here lacks {', '.join(tasks)}, which were not judged."
        for kind, tasks in missing_tasks.items()
        if tasks
    ]
