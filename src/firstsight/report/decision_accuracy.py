"""Decision accuracy of a study with an axis of sizes: for which pairs of arms the order at a smaller size is that at
the largest one, on the stable scores and their soft forms.

Only compared arms count whose counterparts are evaluated at both sizes, and the seeds that all arms of a size have.
A task that arms answered in different versions is left out, as in differences.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import polars as pl

from firstsight.evaluate.statistics.decision_accuracy import (
    OrderedShare,
    SizeScores,
    decided_pairs,
    draw_means,
    ordered_share,
    pair_agreement,
    pair_differences,
)
from firstsight.recipe.analysis import SOFT_SUFFIX, STABLE_MEASURES, Axis, Coordinate, Measure
from firstsight.recipe.study import Study
from firstsight.report.format import format_percent
from firstsight.report.question_scores import QuestionScores, complete_table, scores_by_task
from firstsight.report.results import ArmResult, arms_with_scores, compared_arms
from firstsight.report.table import changed_tasks, measure_rows, single_task_rows

HEADER = ("measure", "size", "pairs alike", "share", "95 %", "of decided", "share", "95 %", "reversed")
EXPLANATION = (
    "Pairs alike: pairs of arms in the same order at this size and at {largest}; a tie counts one half, and a coin "
    "would get one half right.",
    "Decided: pairs whose order at {largest} is significant after Holm over all pairs. Reversed: decided at both "
    "sizes, in opposite orders.",
    "Intervals are over the seeds (as far as there are two) and the questions; pairs that the measurement cannot order "
    "pull them to one half.",
)
"""What the columns of `StudyDecisionAccuracy.table` mean."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairOrder:
    """A pair of arms at a smaller size and at the largest, on one measure; differences are of `a` less `b`."""

    a: str
    """Name of the arm at the largest size."""
    b: str
    difference: float
    """At the smaller size, in shares of 1, mean over seeds."""
    largest_difference: float
    agreement: float
    """1 for the same order, 0 for the opposite, 1/2 for a tie at either size."""
    is_decided: bool
    """At the smaller size."""
    is_decided_at_largest: bool

    @property
    def is_reversed(self) -> bool:
        """Whether both orders are significant, and opposite."""
        return self.is_decided and self.is_decided_at_largest and self.agreement == 0


@dataclass(frozen=True, kw_only=True, slots=True)
class SizeAccuracy:
    """Decision accuracy of one measure at one size."""

    measure: Measure
    kind: str
    size: Coordinate
    largest: Coordinate
    num_seeds: int
    num_seeds_at_largest: int
    pairs: tuple[PairOrder, ...]
    over_all: OrderedShare
    over_decided: OrderedShare
    """Over the pairs that are decided at the largest size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyDecisionAccuracy:
    """Decision accuracy of every measure at every smaller size."""

    axis: Axis
    sizes: tuple[SizeAccuracy, ...]
    """By measure, then from small to large; none where no two arms are evaluated at two sizes."""

    def frame(self) -> pl.DataFrame:
        """One row for each measure, size and pair, the columns of decision-accuracy.csv."""
        rows = [
            {"measure": size.measure, "kind": size.kind, "size": float(size.size), "largest": float(size.largest)}
            | {"seeds": size.num_seeds, "largest_seeds": size.num_seeds_at_largest}
            | {name: getattr(pair, name) for name in PairOrder.__dataclass_fields__}
            for size in self.sizes
            for pair in size.pairs
        ]
        return pl.DataFrame(rows, schema=FRAME_SCHEMA)

    def table(self) -> list[tuple[str, ...]]:
        """A row of text for each measure and size, with a header row."""
        return [HEADER, *((*self._names(size), *_share_texts(size)) for size in self.sizes)]

    def lines(self) -> list[str]:
        """What the columns of `table` mean, as sentences."""
        largest = self.axis.text(self.sizes[0].largest) if self.sizes else ""
        return [line.format(largest=largest) for line in EXPLANATION]

    def sentence(self) -> str:
        """The report's answer: the share of each smaller size on the first measure; there is one."""
        first = [size for size in self.sizes if size.measure == self.sizes[0].measure]
        largest = self.axis.text(first[0].largest)
        parts = []
        for size in first:
            decided = size.over_decided
            parts.append(
                f"{self.axis.text(size.size)} orders {size.over_all.num_alike:g} of {size.over_all.num_pairs} pairs of "
                f"arms as {largest} does ({_interval_text(size.over_all)}), "
                + (
                    f"and {decided.num_alike:g} of the {decided.num_pairs} that {largest} decides"
                    if decided.num_pairs
                    else f"none of which {largest} decides"
                )
            )
        return f"In {first[0].measure}, {'; '.join(parts)} ({self.axis.label})."

    def _names(self, size: SizeAccuracy) -> tuple[str, str]:
        return size.measure, self.axis.text(size.size)


FRAME_SCHEMA = {
    **dict.fromkeys(("measure", "kind"), pl.String),
    **dict.fromkeys(("size", "largest"), pl.Float64),
    **dict.fromkeys(("seeds", "largest_seeds"), pl.Int64),
    **dict.fromkeys(("a", "b"), pl.String),
    **dict.fromkeys(("difference", "largest_difference", "agreement"), pl.Float64),
    **dict.fromkeys(("is_decided", "is_decided_at_largest"), pl.Boolean),
}
"""Columns of `StudyDecisionAccuracy.frame`; those after the seeds are fields of `PairOrder`."""


def _share_texts(size: SizeAccuracy) -> tuple[str, ...]:
    """The columns after the first two of `StudyDecisionAccuracy.table`."""
    cells: list[str] = []
    for ordered in (size.over_all, size.over_decided):
        share = "" if ordered.share is None else f"{format_percent(ordered.share, 0)} %"
        cells += [f"{ordered.num_alike:g} of {ordered.num_pairs}", share, _interval_text(ordered)]
    return (*cells, str(sum(pair.is_reversed for pair in size.pairs)))


def _interval_text(ordered: OrderedShare) -> str:
    return " to ".join(f"{format_percent(end, 0)} %" for end in ordered.interval or ()) or "unknown"


Place = tuple[Coordinate, ...]
"""What an arm has in common with its counterparts at another size: its other coordinates and its group."""


def study_decision_accuracy(
    arms: Sequence[ArmResult], rows: pl.DataFrame, study: Study
) -> StudyDecisionAccuracy | None:
    """Decision accuracy from the score table of `arms`; None where the study does not state it."""
    if study.decision_accuracy is None:
        return None
    axis = study.axis(study.decision_accuracy.axis)
    compared = compared_arms(arms_with_scores(arms))
    *smaller, largest = sorted(_names_by_size(compared, study, axis).items()) or [(0.0, {})]
    answers = {"": QuestionScores(compared), SOFT_SUFFIX: QuestionScores(compared, column="soft")}
    sizes: list[SizeAccuracy] = []
    for kind in STABLE_MEASURES:
        for suffix, questions in answers.items():
            scores = _StableScores.of(rows, f"{kind}{suffix}", kind=kind)
            found = [_size_accuracy(scores, questions, small=small, large=largest) for small in smaller]
            sizes += [accuracy for accuracy in found if accuracy]
    return StudyDecisionAccuracy(axis=axis, sizes=tuple(sizes))


def _names_by_size(arms: Sequence[ArmResult], study: Study, axis: Axis) -> dict[float, dict[Place, str]]:
    """The names of the arms by size and place."""
    others = [entry.name for entry in study.axes if entry != axis]
    names: dict[float, dict[Place, str]] = {}
    for arm in arms:
        place = (*(arm.at[name] for name in others), arm.group)
        names.setdefault(float(arm.at[axis.name]), {})[place] = arm.name
    return names


@dataclass(frozen=True, kw_only=True, slots=True)
class _StableScores:
    """A stable score of all runs that have every task of it."""

    measure: Measure
    kind: str
    tasks: tuple[str, ...]
    scores: Mapping[tuple[str, int], float]
    """By arm and seed, in shares of 1."""

    @classmethod
    def of(cls, rows: pl.DataFrame, measure: Measure, *, kind: str) -> _StableScores:
        sighted = single_task_rows(measure_rows(rows, measure).filter(condition="sighted", role="compared", kind=kind))
        is_included = pl.col("baseline").is_not_null() & ~pl.col("task").is_in(changed_tasks(rows))
        gains = sighted.filter(is_included).with_columns(score=pl.col("score") - pl.col("baseline"))
        by_task = scores_by_task(gains)
        runs = [run for run in next(iter(by_task.values()), {}) if all(run in scores for scores in by_task.values())]
        means = {run: float(np.mean([scores[run] for scores in by_task.values()])) for run in runs}
        return cls(measure=measure, kind=kind, tasks=tuple(by_task), scores=means)

    def complete_table(self, names: Collection[str]) -> tuple[list[str], list[int]]:
        """The arms among `names` and the seeds of a table without gaps; both empty without any."""
        runs = [run for run in self.scores if run[0] in names]
        return complete_table(runs) if runs else ([], [])


def _size_accuracy(
    scores: _StableScores,
    questions: QuestionScores,
    *,
    small: tuple[float, Mapping[Place, str]],
    large: tuple[float, Mapping[Place, str]],
) -> SizeAccuracy | None:
    """Decision accuracy at one size, from (size, names by place) of both; None without a pair of arms at both."""
    (size, small_names), (largest, large_names) = small, large
    (small_arms, small_seeds), (large_arms, large_seeds) = (
        scores.complete_table(names.values()) for names in (small_names, large_names)
    )
    places = [place for place in large_names if large_names[place] in large_arms]
    places = [place for place in places if small_names.get(place) in small_arms]
    if len(places) < 2:
        return None
    small_runs = [(small_names[place], seed) for place in places for seed in small_seeds]
    large_runs = [(large_names[place], seed) for place in places for seed in large_seeds]
    influences = questions.influences([*small_runs, *large_runs], tasks=scores.tasks)
    parts = (None, None) if influences is None else (influences[: len(small_runs)], influences[len(small_runs) :])
    tables = [
        _size_scores([scores.scores[run] for run in runs], part, num_arms=len(places))
        for runs, part in zip((small_runs, large_runs), parts, strict=True)
    ]
    pairs = _pair_orders([large_names[place] for place in places], *tables)
    draws = draw_means(tables)
    is_decided = np.array([pair.is_decided_at_largest for pair in pairs], dtype=bool)
    return SizeAccuracy(
        measure=scores.measure,
        kind=scores.kind,
        size=size,
        largest=largest,
        num_seeds=len(small_seeds),
        num_seeds_at_largest=len(large_seeds),
        pairs=tuple(pairs),
        over_all=ordered_share(*tables, draws=draws, of=np.ones(len(pairs), dtype=bool)),
        over_decided=ordered_share(*tables, draws=draws, of=is_decided),
    )


def _size_scores(values: Sequence[float], influences: np.ndarray | None, *, num_arms: int) -> SizeScores:
    """From the values and influences of runs, arm by arm."""
    table = np.array(values).reshape(num_arms, -1)
    reshaped = None if influences is None else influences.reshape(*table.shape, -1)
    return SizeScores(scores=table, influences=reshaped)


def _pair_orders(names: Sequence[str], small: SizeScores, large: SizeScores) -> list[PairOrder]:
    columns = (
        *(pair_differences(size.means).tolist() for size in (small, large)),
        pair_agreement(small.means, large.means).tolist(),
        *(decided_pairs(size).tolist() for size in (small, large)),
    )
    return [
        PairOrder(
            a=a,
            b=b,
            difference=difference,
            largest_difference=largest_difference,
            agreement=agreement,
            is_decided=is_decided,
            is_decided_at_largest=is_decided_at_largest,
        )
        for (a, b), difference, largest_difference, agreement, is_decided, is_decided_at_largest in zip(
            combinations(names, 2), *columns, strict=True
        )
    ]
