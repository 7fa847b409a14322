"""The report's first sentence, and what the study can and cannot show: text generated from the score table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from firstsight.report.compare import ArmPair, Comparison, PairedDifference
from firstsight.report.format import format_interval, format_points, join_names
from firstsight.report.results import ArmResult, StudyFacts, arms_with_scores, main_sweep_arms
from firstsight.report.table import (
    GUESSERS,
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
    """Which arm is best in vision, by how much, over how many seeds, and whether that separates it from the others."""
    stable = rows.filter(pl.col("in_sweep"), task=STABLE, kind="vision", condition="sighted")
    ranked = mean_over_seeds(stable).sort("score", descending=True).to_dicts()
    if not ranked:
        scored = len(arms_with_scores(arms))
        return f"No answer yet: no arm has been evaluated on vision ({scored} of {len(arms)} have scores)."
    best, *others = ranked
    by_start = has_varied_starts(rows)
    score, guesser_score = f"{100 * best['score']:.1f} points above chance", _best_guesser_score(best["arm"], rows)
    if guesser_score is not None and best["score"] <= guesser_score:
        return (
            f"No answer: even the best arm ({_arm_text(best, by_start)}) scores {score} in vision, and a guesser "
            f"without the image or the question {100 * guesser_score:.1f}, so the order of the arms means nothing."
        )
    condition = f"when images enter at {_arm_text(best, by_start)} of the text training"
    seeds = f"mean of {best['seeds']} seeds" if best["seeds"] > 1 else "one seed"
    opening = f"Vision is best {condition if by_start else 'with ' + best['arm']}: {score} ({seeds})"
    if not others:
        return f"{opening}; no other arm has been evaluated."
    # The best arm was selected by its score, so it is corrected as if every pair had been compared.
    pairs = [ArmPair(a=best["arm"], b=row["arm"], kind="vision") for row in others]
    differences = comparison.corrected_differences(pairs, candidate_count=len(ranked) * len(others) // 2)
    separation = _separation_text(
        list(zip(others, differences, strict=True)), by_start, has_one_seed=best["seeds"] == 1
    )
    return opening + separation


def _separation_text(
    differences: list[tuple[ArmRow, PairedDifference | None]], by_start: bool, *, has_one_seed: bool
) -> str:
    """Whether the best arm is significantly better than the others, which are sorted by score."""
    runner_up, nearest = differences[0]
    next_text = f"{_arm_text(runner_up, by_start)} is next{_gap_text(nearest)}"
    if has_one_seed:
        return f"; {next_text}, but one seed cannot distinguish an effect from a lucky run."
    undecided = [_arm_text(row, by_start) for row, difference in differences if not difference or difference.sign <= 0]
    if undecided:
        return f"; {next_text}. These seeds and questions cannot distinguish it from {join_names(undecided)}."
    return f", significantly better than every other arm; {next_text}."


def _gap_text(difference: PairedDifference | None) -> str:
    """The difference to the best arm with its interval, which is over questions alone where there is one seed."""
    if difference is None or difference.display_interval is None:
        return ""
    scope = " over questions alone" if difference.interval is None else ""
    interval = f"{100 * difference.level:.3g} % interval{scope} {format_interval(difference.display_interval)}"
    return f", {format_points(difference.mean).lstrip('+')} points behind ({interval})"


def _best_guesser_score(arm: str, rows: pl.DataFrame) -> float | None:
    """The higher stable score of both guessers in vision; None without any."""
    guessers = rows.filter(pl.col("condition").is_in(GUESSERS), arm=arm, task=STABLE, kind="vision")
    return max(mean_over_seeds(guessers).get_column("score").to_list(), default=None)


def _arm_text(row: ArmRow, by_start: bool) -> str:
    return f"{100 * row['start']:.3g} %" if by_start else str(row["arm"])


def study_limits(
    arms: Sequence[ArmResult], rows: pl.DataFrame, study: StudyFacts, *, tokens: Mapping[str, float]
) -> tuple[list[str], list[str]]:
    """What this study can show, and what it cannot, as sentences; `tokens` is the training tokens of each arm."""
    mismatches = stable_score_mismatches(arms, rows)
    return _supported_findings(arms, rows), [
        *_scale_limit(study),
        *_seed_limit(arms),
        *_schedule_limit(arms),
        *_budget_limit(tokens, by_start=has_varied_starts(rows)),
        *_missing_task_limit(arms),
        *(f"{mismatch}. Rely on the single tasks until this is explained." for mismatch in mismatches),
    ]


def _supported_findings(arms: Sequence[ArmResult], rows: pl.DataFrame) -> list[str]:
    scored = arms_with_scores(arms)
    names, seeds = len({arm.name for arm in scored}), len({arm.seed for arm in scored})
    if names < 2:
        return ["What is planned, what it costs, and what has trained so far."]
    marks = f"each of {seeds} seeds is a separate mark" if seeds > 1 else "one seed of each"
    findings = [
        f"How {names} arms compare on the same questions: {marks}, and differences are paired question by question."
    ]
    vision = guesser_margins(single_task_rows(rows.filter(kind="vision")))
    margins = vision.group_by("arm", "task").agg(pl.col("margin").mean()).get_column("margin")
    if len(margins):
        findings.append(
            f"Where the image helps: {int((margins > 0).sum())} of {len(margins)} vision scores (arms × tasks) are "
            "above both guessers, the model without the image and the best answer without the question."
        )
    return findings


def _scale_limit(study: StudyFacts) -> list[str]:
    if not study.is_builtin_scale:
        return []
    return [
        f"What happens in large models. At {study.scale} scale the order of the arms can change with the budget, so no "
        "result here confirms or refutes the paper."
    ]


def _seed_limit(arms: Sequence[ArmResult]) -> list[str]:
    seeds = len({arm.seed for arm in arms_with_scores(arms)})
    if not seeds or seeds > 2:
        return []
    consequence = "one seed gives no interval at all" if seeds == 1 else f"{seeds} seeds give wide intervals"
    return [f"The result of another seed: {consequence}. More seeds narrow it down."]


def _schedule_limit(arms: Sequence[ArmResult]) -> list[str]:
    rewarmed = {f"{100 * float(arm.start):.0f} %" for arm in main_sweep_arms(arms) if arm.schedule == "rewarm"}
    if not rewarmed or not any(arm.schedule == "continue" for arm in arms):
        return []
    return [
        f"The start alone at {' and '.join(sorted(rewarmed))}: there the learning rate is warmed up again, elsewhere "
        "it continues. Hollow points and dashed lines mark this."
    ]


def _budget_limit(tokens: Mapping[str, float], *, by_start: bool) -> list[str]:
    if not tokens or max(tokens.values()) <= 1.02 * min(tokens.values()):
        return []
    low, high = format_count(int(min(tokens.values()))), format_count(int(max(tokens.values())))
    if not by_start:
        return [f"The arms at an equal budget: they are trained on {low} to {high} tokens in all."]
    return [
        "The start at an equal budget: each arm trains a fixed number of tokens after its branch, so the earliest "
        f"start is trained on {low} tokens in all and the latest on {high}."
    ]


def _missing_task_limit(arms: Sequence[ArmResult]) -> list[str]:
    missing: dict[str, list[str]] = {}
    for arm in arms_with_scores(arms):
        if arm.schedule != "trunk":
            missing |= (arm.scores or {}).get("missing", {})
    return [
        f"The paper's {kind} score itself: this mean lacks {', '.join(tasks)}, which were not evaluated."
        for kind, tasks in missing.items()
        if tasks
    ]
