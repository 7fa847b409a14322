"""What it would take to see a difference between two arms, from what the study's arms have shown so far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import polars as pl

from firstsight.errors import DataError
from firstsight.evaluate.statistics.power import Components, questions_needed, seeds_needed, smallest
from firstsight.evaluate.statistics.seeds import pooled
from firstsight.report.compare import Comparison, Difference, Pair
from firstsight.report.results import ArmResult, judged, ordinary
from firstsight.report.table import STABLE

COUNTS = (2, 3, 4, 5, 8, 10, 16)


def components(arms: Sequence[ArmResult], comparison: Comparison, *, kind: str) -> tuple[Components, int]:
    """The parts of a difference's variance, means over all pairs of arms on the line, and the seeds behind them.

    Raises DataError where two arms with two seeds each are not to be had: a single seed says nothing of the next.
    """
    names = list(dict.fromkeys(arm.name for arm in ordinary(judged(arms))))
    pairs = [Pair(a=a, b=b, kind=kind) for a, b in combinations(names, 2)]
    found = [d for d in comparison.family(pairs) if d is not None and d.estimate is not None]
    if not found:
        raise DataError(
            f"power needs two arms judged on {kind} with the same two seeds. Got {len(names)} "
            f"judged {'arm' if len(names) == 1 else 'arms'} of {len({arm.seed for arm in judged(arms)})} seeds. "
            "Run the study with --seeds 2 or more."
        )
    first = max(found, key=lambda d: len(d.per_seed))
    seeds = [seed for seed, _ in first.per_seed]
    table = comparison.table(first.pair, seeds=seeds, tasks=comparison.tasks(first.pair, seeds))
    rest = float(np.mean([_rest(d) for d in found]))
    questions = float(np.mean([d.estimate.questions - d.estimate.rest for d in found if d.estimate]))
    parts = Components(
        seeds=max(pooled(table)[0] - rest, 0.0), questions=max(questions, 0.0), rest=rest, arms=len(table)
    )
    return parts, len(seeds)


def _rest(found: Difference) -> float:
    """What seeds do not share, of a single seed."""
    assert found.estimate is not None
    return found.estimate.rest * len(found.per_seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What the study would see: lines, and a table with a header."""

    lines: Sequence[str]
    table: Sequence[tuple[str, str]]


def told(arms: Sequence[ArmResult], rows: pl.DataFrame, *, effect: float, kind: str, wanted: float) -> Told:
    """What the study would see; `effect` is a share of 1, `wanted` the chance to see it."""
    comparison = Comparison(arms, rows)
    of, seeds = components(arms, comparison, kind=kind)
    asked = rows.filter((pl.col("task") == STABLE) & (pl.col("kind") == kind)).get_column("n").max()
    assert isinstance(asked, int)
    lines = [
        f"{kind}: {of.arms} arms, {seeds} seeds, {asked:,} questions. A difference between two of its arms varies by",
        f"  {_points(of.seeds)} points from seed to seed (pooled over the arms),",
        f"  {_points(of.questions)} points from one draw of the questions to the next, whichever seeds answer them,",
        f"  {_points(of.rest)} points more in a single seed's answers to them.",
        *_needs(of, effect=effect, seeds=seeds, asked=asked, wanted=wanted),
    ]
    return Told(lines=lines, table=_reach(of, seeds=seeds, wanted=wanted))


def _reach(of: Components, *, seeds: int, wanted: float) -> list[tuple[str, str]]:
    """For each number of seeds the smallest effect that is seen with the chance `wanted`; a header first."""
    counts = sorted({*COUNTS, seeds})
    found = [(count, smallest(of, seeds=count, wanted=wanted)) for count in counts]
    head = ("seeds", f"smallest effect seen with power {100 * wanted:.3g} %, points")
    return [head, *((str(count), f"{100 * size:.1f}") for count, size in found if size is not None)]


def _needs(of: Components, *, effect: float, seeds: int, asked: int, wanted: float) -> Iterator[str]:
    goal = f"To see {100 * effect:.3g} points with power {100 * wanted:.3g} %:"
    runs = seeds_needed(effect, of=of, wanted=wanted)
    times = questions_needed(effect, of=of, seeds=seeds, wanted=wanted)
    if runs is None:
        yield f"{goal} no number of seeds will do: these questions' own spread is {_points(of.questions)} points."
    else:
        yield f"{goal} at these questions {runs} seeds."
    if times is None:
        yield f"At these {seeds} seeds no number of questions will do: the seeds' own spread is {_points(of.seeds)}."
    else:
        enough = "fewer would do" if times < 1 else f"{times:.2g} times as many"
        yield f"At these {seeds} seeds {max(1, round(times * asked)):,} questions ({enough})."
    yield "For one comparison at 95 %; several that are corrected together ask for more."


def _points(variance: float) -> str:
    return f"{100 * variance**0.5:.2f}"
