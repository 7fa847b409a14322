"""Power analysis: the seeds or questions needed to detect a difference between arms, from the variances so far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
import polars as pl

from firstsight.errors import RequestError
from firstsight.evaluate.statistics.differences import pool_seed_variance, regular_arms
from firstsight.evaluate.statistics.power import (
    VarianceComponents,
    minimum_detectable_effect,
    questions_needed,
    seeds_needed,
)
from firstsight.recipe.scales import PlanAssumptions
from firstsight.report.compare import ArmComparison, ArmPair
from firstsight.report.results import ArmResult, arms_with_scores, compared_arms
from firstsight.report.table import STABLE

SEED_COUNTS = (2, 3, 4, 5, 8, 10, 16)


def power_report(
    arms: Sequence[ArmResult], rows: pl.DataFrame, *, effect: float, kind: str, power: float
) -> tuple[list[str], list[tuple[str, ...]]]:
    """Text lines, and a table of smallest detectable effects with a header row.

    `effect` is a share of 1, `power` the probability with which to detect it.
    """
    variances, seeds = variance_components(arms, ArmComparison(arms, rows), kind=kind)
    questions = rows.filter(task=STABLE, kind=kind).get_column("questions").max()
    assert isinstance(questions, int)
    planned = len({arm.seed for arm in arms})
    left_out = f"Of {planned} seeds that the study would have, all of the compared arms have {seeds} stored. "
    lines = [
        *[f"{left_out}The numbers below are from these."] * (seeds < planned),
        f"{kind}: {seeds} seeds, {questions:,} questions. "
        "The standard deviation of a difference between two of its arms is",
        f"  {_deviation(variances.seed_variance)} points from seed to seed "
        f"(pooled over {variances.num_arms} arms that vary alike),",
        f"  {_deviation(variances.question_variance)} points between draws of the questions, common to all seeds,",
        f"  {_deviation(variances.residual_variance)} points more in the answers of a single seed.",
        *_requirement_lines(variances, effect=effect, seeds=seeds, questions=questions, power=power),
    ]
    return lines, _effect_table(variances, seeds=seeds, power=power)


def assumed_power_report(
    assumptions: PlanAssumptions,
    questions: Mapping[str, int],
    *,
    num_arms: int,
    num_seeds: int,
    effect: float,
    power: float,
) -> tuple[list[str], list[tuple[str, ...]]]:
    """`power_report` for the vision score before two seeds are stored, from what the scale assumes of noise.

    `questions`: of each task. All seeds are taken to disagree about the same questions, the most that questions can
    matter: each task adds disagreement / questions to the variance of a sum over tasks.
    """
    variance = sum(assumptions.disagreement / count for count in questions.values()) / len(questions) ** 2
    variances = VarianceComponents(
        seed_variance=assumptions.seed_deviation**2,
        question_variance=variance,
        residual_variance=0.0,
        num_arms=num_arms,
    )
    total = sum(questions.values())
    lines = [
        f"Assumed, because no two seeds are stored: vision, {num_seeds} seeds, {total:,} questions. "
        "The standard deviation of a difference between two arms is",
        f"  {_deviation(variances.seed_variance)} points from seed to seed (of {num_arms} arms that vary alike),",
        f"  {_deviation(variance)} points between draws of the questions, if two arms score differently on "
        f"{assumptions.disagreement:.0%} of them.",
        *_requirement_lines(variances, effect=effect, seeds=num_seeds, questions=total, power=power),
        "After two seeds the same command measures both.",
    ]
    return lines, _effect_table(variances, seeds=num_seeds, power=power)


def _effect_table(variances: VarianceComponents, *, seeds: int, power: float) -> list[tuple[str, ...]]:
    """The smallest detectable effects by the number of seeds, with a header row."""
    counts = sorted({*SEED_COUNTS, seeds})
    effects = [(count, minimum_detectable_effect(variances, num_seeds=count, target_power=power)) for count in counts]
    header = ("seeds", f"smallest effect detected with power {100 * power:.3g} %, points")
    return [header, *((str(count), f"{100 * effect:.1f}") for count, effect in effects if effect is not None)]


def combined_power_report(
    parts: Mapping[str, tuple[Sequence[ArmResult], pl.DataFrame]], *, effect: float, kind: str, power: float
) -> tuple[list[str], list[tuple[str, ...]]]:
    """Why the variance of some studies is unknown, as lines; of the others a row each, with a header row.

    `parts`: the arms of each study and their score table, by its name; the rest is as for `power_report`.
    """
    target = f"with power {100 * power:.3g} %"
    rows = [("study", "seeds", f"smallest effect {target}, points", f"seeds for {100 * effect:.3g} points")]
    lines: list[str] = []
    for name, (arms, scores) in parts.items():
        try:
            variances, seeds = variance_components(arms, ArmComparison(arms, scores), kind=kind)
        except RequestError as error:
            lines.append(f"{name}: {error}")
            continue
        smallest = minimum_detectable_effect(variances, num_seeds=seeds, target_power=power)
        needed = seeds_needed(effect, components=variances, target_power=power)
        smallest_text = "unknown" if smallest is None else f"{100 * smallest:.1f}"
        rows.append((name, str(seeds), smallest_text, "no number" if needed is None else str(needed)))
    if len(rows) == 1:
        raise RequestError(f"power needs two seeds of a study. {lines[0] if lines else 'Got no study.'}")
    return lines, rows


def variance_components(
    arms: Sequence[ArmResult], comparison: ArmComparison, *, kind: str
) -> tuple[VarianceComponents, int]:
    """Variance components of a difference, means over all pairs of compared arms, and the number of seeds.

    The seeds' variance is that of arms which do not vary more than the others; `num_arms` counts these.
    Raises RequestError where there are no two arms with two seeds each: a single seed has no variance between seeds.
    """
    scored = arms_with_scores(arms)
    names = list(dict.fromkeys(arm.name for arm in compared_arms(scored)))
    pairs = [ArmPair(a=a, b=b, measure=kind) for a, b in combinations(names, 2)]
    differences = [(d, d.estimate) for d in comparison.corrected_differences(pairs) if d and d.estimate]
    if not differences:
        evaluated = f"{len(names)} evaluated {'arm' if len(names) == 1 else 'arms'}"
        seed_count = len({arm.seed for arm in scored})
        seeds = f"{seed_count} {'seed' if seed_count == 1 else 'seeds'}"
        raise RequestError(
            f"power needs two arms evaluated on {kind} with the same two seeds. Got {evaluated} of {seeds}. "
            "Run the study with --seeds 2 or more."
        )
    reference = max((difference for difference, _ in differences), key=lambda difference: len(difference.per_seed))
    seeds = [seed for seed, _ in reference.per_seed]
    tasks = comparison.shared_tasks(reference.pair, seeds)
    seed_scores = comparison.seed_scores(reference.pair, seeds=seeds, tasks=tasks)
    residual = float(np.mean([estimate.residual_variance * len(d.per_seed) for d, estimate in differences]))
    question = float(np.mean([estimate.question_variance - estimate.residual_variance for _, estimate in differences]))
    regular = seed_scores[regular_arms(seed_scores)]
    seed_variance = max(pool_seed_variance(regular)[0] - residual, 0.0)
    parts = {"seed_variance": seed_variance, "question_variance": max(question, 0.0), "residual_variance": residual}
    return VarianceComponents(num_arms=len(regular), **parts), len(seeds)


def _requirement_lines(
    variances: VarianceComponents, *, effect: float, seeds: int, questions: int, power: float
) -> Iterator[str]:
    goal = f"To detect {100 * effect:.3g} points with power {100 * power:.3g} %:"
    seed_count = seeds_needed(effect, components=variances, target_power=power)
    factor = questions_needed(effect, components=variances, num_seeds=seeds, target_power=power)
    if seed_count is None:
        deviation = _deviation(variances.question_variance)
        yield f"{goal} no number of seeds is enough: the standard deviation from these questions is {deviation} points."
    else:
        yield f"{goal} {seed_count} seeds with these questions."
    if factor is None:
        deviation = _deviation(variances.seed_variance)
        yield f"With these {seeds} seeds no number of questions is enough: the seeds' deviation is {deviation} points."
    else:
        note = "fewer are enough" if factor < 1 else f"{factor:.2g} times as many"
        yield f"With these {seeds} seeds {max(1, round(factor * questions)):,} questions ({note})."
    yield "For one comparison at 95 %; several that are corrected together need more."


def _deviation(variance: float) -> str:
    return f"{100 * variance**0.5:.2f}"
