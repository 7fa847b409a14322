"""What it would take to see a difference between two arms, from what the study's arms have shown so far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import polars as pl

from firstsight.errors import DataError
from firstsight.evaluate.statistics.power import (
    VarianceComponents,
    minimum_detectable_effect,
    questions_needed,
    seeds_needed,
)
from firstsight.evaluate.statistics.seeds import pool_seed_variance
from firstsight.report.compare import ArmPair, Comparison, PairedDifference
from firstsight.report.results import ArmResult, arms_with_scores, main_sweep_arms
from firstsight.report.table import STABLE

SEED_COUNTS = (2, 3, 4, 5, 8, 10, 16)


def variance_components(
    arms: Sequence[ArmResult], comparison: Comparison, *, kind: str
) -> tuple[VarianceComponents, int]:
    """The parts of a difference's variance, means over all pairs of arms on the line, and the seeds behind them.

    Raises DataError where two arms with two seeds each are not to be had: a single seed says nothing of the next.
    """
    names = list(dict.fromkeys(arm.name for arm in main_sweep_arms(arms_with_scores(arms))))
    pairs = [ArmPair(a=a, b=b, kind=kind) for a, b in combinations(names, 2)]
    differences = [
        difference
        for difference in comparison.corrected_differences(pairs)
        if difference is not None and difference.estimate is not None
    ]
    if not differences:
        raise DataError(
            f"power needs two arms judged on {kind} with the same two seeds. Got {len(names)} "
            f"judged {'arm' if len(names) == 1 else 'arms'} of {len({arm.seed for arm in arms_with_scores(arms)})} seeds. "
            "Run the study with --seeds 2 or more."
        )
    reference = max(differences, key=lambda difference: len(difference.per_seed))
    seeds = [seed for seed, _ in reference.per_seed]
    seed_scores = comparison.seed_scores(
        reference.pair, seeds=seeds, tasks=comparison.common_tasks(reference.pair, seeds)
    )
    residual = float(np.mean([_residual_variance(difference) for difference in differences]))
    question_variance = float(
        np.mean(
            [
                difference.estimate.question_variance - difference.estimate.residual_variance
                for difference in differences
                if difference.estimate
            ]
        )
    )
    variances = VarianceComponents(
        seed_variance=max(pool_seed_variance(seed_scores)[0] - residual, 0.0),
        question_variance=max(question_variance, 0.0),
        residual_variance=residual,
        num_arms=len(seed_scores),
    )
    return variances, len(seeds)


def _residual_variance(difference: PairedDifference) -> float:
    """What seeds do not share, of a single seed."""
    assert difference.estimate is not None
    return difference.estimate.residual_variance * len(difference.per_seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class PowerReport:
    """What the study would see: lines, and a table with a header."""

    lines: Sequence[str]
    table: Sequence[tuple[str, str]]


def power_report(
    arms: Sequence[ArmResult], rows: pl.DataFrame, *, effect: float, kind: str, power: float
) -> PowerReport:
    """What the study would see; `effect` is a share of 1, `wanted` the chance to see it."""
    comparison = Comparison(arms, rows)
    variances, seeds = variance_components(arms, comparison, kind=kind)
    question_count = rows.filter((pl.col("task") == STABLE) & (pl.col("kind") == kind)).get_column("n").max()
    assert isinstance(question_count, int)
    lines = [
        f"{kind}: {variances.num_arms} arms, {seeds} seeds, {question_count:,} questions. A difference between two of its arms varies by",
        f"  {_format_deviation(variances.seed_variance)} points from seed to seed (pooled over the arms),",
        f"  {_format_deviation(variances.question_variance)} points from one draw of the questions to the next, whichever seeds answer them,",
        f"  {_format_deviation(variances.residual_variance)} points more in a single seed's answers to them.",
        *_requirement_lines(variances, effect=effect, seeds=seeds, question_count=question_count, power=power),
    ]
    return PowerReport(lines=lines, table=_detectable_effects(variances, seeds=seeds, power=power))


def _detectable_effects(variances: VarianceComponents, *, seeds: int, power: float) -> list[tuple[str, str]]:
    """For each number of seeds the smallest effect that is seen with the chance `wanted`; a header first."""
    counts = sorted({*SEED_COUNTS, seeds})
    effects = [(count, minimum_detectable_effect(variances, num_seeds=count, target_power=power)) for count in counts]
    header = ("seeds", f"smallest effect seen with power {100 * power:.3g} %, points")
    return [header, *((str(count), f"{100 * effect:.1f}") for count, effect in effects if effect is not None)]


def _requirement_lines(
    variances: VarianceComponents, *, effect: float, seeds: int, question_count: int, power: float
) -> Iterator[str]:
    goal = f"To see {100 * effect:.3g} points with power {100 * power:.3g} %:"
    seed_count = seeds_needed(effect, components=variances, target_power=power)
    question_factor = questions_needed(effect, components=variances, num_seeds=seeds, target_power=power)
    if seed_count is None:
        yield f"{goal} no number of seeds will do: these questions' own spread is {_format_deviation(variances.question_variance)} points."
    else:
        yield f"{goal} at these questions {seed_count} seeds."
    if question_factor is None:
        yield f"At these {seeds} seeds no number of questions will do: the seeds' own spread is {_format_deviation(variances.seed_variance)}."
    else:
        question_note = "fewer would do" if question_factor < 1 else f"{question_factor:.2g} times as many"
        yield f"At these {seeds} seeds {max(1, round(question_factor * question_count)):,} questions ({question_note})."
    yield "For one comparison at 95 %; several that are corrected together ask for more."


def _format_deviation(variance: float) -> str:
    return f"{100 * variance**0.5:.2f}"
