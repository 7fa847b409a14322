"""The report's first sentence, and what the study can and cannot show: text generated from the score table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from firstsight.report.compare import ArmPair, Comparison, PairedDifference
from firstsight.report.format import format_interval, format_points, join_names
from firstsight.report.results import ArmResult, StudyInfo, arms_with_scores, main_sweep_arms
from firstsight.report.table import (
    GUESSERS,
    STABLE,
    guesser_margins,
    has_varied_starts,
    mean_over_seeds,
    single_task_rows,
)
from firstsight.units import format_count


def answer_sentence(arms: Sequence[ArmResult], rows: pl.DataFrame, comparison: Comparison) -> str:
    """Which arm is best in vision, by how much, over how many seeds, and whether the difference is significant."""
    stable = rows.filter(pl.col("in_sweep"), task=STABLE, kind="vision", condition="sighted")
    ranked = mean_over_seeds(stable).sort("score", descending=True).to_dicts()
    if not ranked:
        scored = len(arms_with_scores(arms))
        return f"No answer yet: no arm has been evaluated on vision ({scored} of {len(arms)} have scores)."
    best, *others = ranked
    by_start = has_varied_starts(rows)
    # The higher stable score of both guessers in vision.
    guessers = rows.filter(pl.col("condition").is_in(GUESSERS), arm=best["arm"], task=STABLE, kind="vision")
    guesser_score = max(mean_over_seeds(guessers).get_column("score").to_list(), default=None)
    score = f"{100 * best['score']:.1f} points above chance"
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
    differences = comparison.corrected_differences(pairs, candidates=len(ranked) * len(others) // 2)
    runner_up = f"{_arm_text(others[0], by_start)} is next{_gap_text(differences[0])}"
    if best["seeds"] == 1:
        return f"{opening}; {runner_up}, but one seed cannot distinguish an effect from a lucky run."
    undecided = [_arm_text(row, by_start) for row, d in zip(others, differences, strict=True) if not d or d.sign <= 0]
    if undecided:
        names = join_names(undecided)
        return f"{opening}; {runner_up}. These seeds and questions cannot distinguish it from {names}."
    return f"{opening}, significantly better than every other arm; {runner_up}."


def _gap_text(difference: PairedDifference | None) -> str:
    """The difference to the best arm with its interval, which is over questions alone where there is one seed."""
    if difference is None or difference.display_interval is None:
        return ""
    scope = " over questions alone" if difference.interval is None else ""
    interval = f"{100 * difference.level:.3g} % interval{scope} {format_interval(difference.display_interval)}"
    return f", {format_points(difference.mean).lstrip('+')} points behind ({interval})"


def _arm_text(row: Mapping[str, Any], by_start: bool) -> str:
    return f"{100 * row['start']:.3g} %" if by_start else str(row["arm"])


def study_limits(
    arms: Sequence[ArmResult], rows: pl.DataFrame, study: StudyInfo, *, tokens: Mapping[str, float]
) -> tuple[list[str], list[str]]:
    """What this study can show, and what it cannot, as sentences; `tokens` is the training tokens of each arm."""
    limits = [
        _scale_limit(study),
        _seed_limit(arms),
        _schedule_limit(arms),
        _budget_limit(tokens, by_start=has_varied_starts(rows)),
        *_missing_task_limits(arms),
    ]
    return _supported_findings(arms, rows), list(filter(None, limits))


def _supported_findings(arms: Sequence[ArmResult], rows: pl.DataFrame) -> list[str]:
    scored = arms_with_scores(arms)
    names, seeds = len({arm.name for arm in scored}), len({arm.seed for arm in scored})
    if names < 2:
        return ["What is planned, what it costs, and what has trained so far."]
    marks = f"each of {seeds} seeds is a separate mark" if seeds > 1 else "one seed of each"
    text = f"How {names} arms compare on the same questions: {marks}, and differences are paired question by question."
    vision = guesser_margins(single_task_rows(rows.filter(kind="vision")))
    margins = vision.group_by("arm", "task").agg(pl.col("margin").mean()).get_column("margin")
    helpful = f"{int((margins > 0).sum())} of {len(margins)} vision scores (arms × tasks) are above both guessers"
    guessers = "the model without the image and the best answer without the question"
    return [text, *[f"Where the image helps: {helpful}, {guessers}."] * bool(len(margins))]


def _scale_limit(study: StudyInfo) -> str:
    limit = f"At {study.scale} scale the order of the arms can change with the budget"
    text = f"What happens in large models. {limit}, so no result here confirms or refutes the paper."
    return text if study.is_builtin_scale else ""


def _seed_limit(arms: Sequence[ArmResult]) -> str:
    seeds = len({arm.seed for arm in arms_with_scores(arms)})
    effects = {1: "one seed gives no interval at all", 2: "2 seeds give wide intervals"}
    return f"The result of another seed: {effects[seeds]}. More seeds narrow it down." if seeds in effects else ""


def _schedule_limit(arms: Sequence[ArmResult]) -> str:
    rewarmed = {f"{100 * float(arm.start):.0f} %" for arm in main_sweep_arms(arms) if arm.schedule == "rewarm"}
    if not rewarmed or not any(arm.schedule == "continue" for arm in arms):
        return ""
    return (
        f"The start alone at {' and '.join(sorted(rewarmed))}: there the learning rate is warmed up again, elsewhere "
        "it continues. Hollow points and dashed lines mark this."
    )


def _budget_limit(tokens: Mapping[str, float], *, by_start: bool) -> str:
    low, high = min(tokens.values(), default=0), max(tokens.values(), default=0)
    if high <= 1.02 * low:
        return ""
    fewest, most = format_count(int(low)), format_count(int(high))
    if not by_start:
        return f"The arms at an equal budget: they are trained on {fewest} to {most} tokens in all."
    return (
        "The start at an equal budget: each arm trains a fixed number of tokens after its branch, so the earliest "
        f"start is trained on {fewest} tokens in all and the latest on {most}."
    )


def _missing_task_limits(arms: Sequence[ArmResult]) -> list[str]:
    scores = [arm.scores for arm in arms_with_scores(arms) if arm.scores and arm.schedule != "trunk"]
    missing = {kind: tasks for entry in scores for kind, tasks in entry.missing.items()}
    names = {kind: ", ".join(tasks) for kind, tasks in missing.items() if tasks}
    text = "The paper's {} score itself: this mean lacks {}, which were not evaluated."
    return [text.format(kind, tasks) for kind, tasks in names.items()]
