"""Paired differences between arms, over the same questions and the same seeds.

A score varies with the draw of the benchmark's questions and with the seed of the run. Intervals here cover both
(firstsight.evaluate.statistics.differences), and comparisons that decide one thing are corrected together (Holm).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from firstsight.evaluate.statistics import bootstrap
from firstsight.evaluate.statistics.bootstrap import ClusteredScores, Interval
from firstsight.evaluate.statistics.differences import (
    FAMILY_ALPHA,
    NO_DIFFERENCE,
    DifferenceEstimate,
    HolmDecision,
    Thresholds,
    crossed_estimate,
    holm,
)
from firstsight.evaluate.statistics.sequential import DecisionRule, look_share, sequential_p_value
from firstsight.recipe.analysis import STABLE_MEASURES, Measure, split_measure
from firstsight.report.question_scores import QuestionScores, SharedAnswers
from firstsight.report.results import ArmResult, arms_with_scores, compared_arms
from firstsight.report.table import changed_tasks, measure_scores, task_gains


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmPair:
    """A comparison: does the score of arm `a` minus that of arm `b` differ from `thresholds`, on one measure?"""

    a: str
    b: str
    measure: Measure
    thresholds: Thresholds = NO_DIFFERENCE


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedDifference:
    """Score of `pair.a` minus that of `pair.b`, over the seeds that both have, in shares of 1."""

    pair: ArmPair
    kind: str
    """The kind of the measure: vision or text."""
    per_seed: tuple[tuple[int, float], ...]
    """(seed, difference)."""
    estimate: DifferenceEstimate | None
    """The estimate over seeds and questions; None with a single seed."""
    question_interval: Interval | None
    """The 95 % interval over questions, for a single seed; None where there are no answers."""
    missing_tasks: tuple[str, ...]
    """Tasks of the stable score on which not all of these runs were evaluated alike, left out of the difference."""
    addresses: tuple[str, ...]
    looks: tuple[DifferenceEstimate, ...] = ()
    """With the sequential rule, the estimates at 2, 3, 4 ... of all seeds; `per_seed` ends at the look that decided."""
    level: float = 1 - FAMILY_ALPHA
    """Confidence level of the interval: the one at which Holm's procedure decided this comparison."""
    adjusted_p: float | None = None
    """p-value corrected for the comparisons made together and for the looks; None with a single seed."""
    family_size: int = 1
    """The number of comparisons made together."""

    @property
    def mean(self) -> float:
        return float(np.mean([value for _, value in self.per_seed]))

    @property
    def interval(self) -> Interval | None:
        """The interval over seeds and questions at `level`, cut to [-1, 1]; None with a single seed.

        With the sequential rule, intervals of all looks contain the true difference with the probability `level`.
        """
        if self.estimate is None:
            return None
        share = look_share(len(self.per_seed)) if self.looks else 1.0
        low, high = self.estimate.interval(1 - (1 - self.level) * share)
        return max(low, -1.0), min(high, 1.0)

    @property
    def display_interval(self) -> Interval | None:
        """The interval, or with a single seed that over questions."""
        return self.interval or self.question_interval

    @property
    def sign(self) -> int:
        """1 where the difference is significantly above the threshold that it contradicts more, -1 below, else 0."""
        if self.adjusted_p is None or self.adjusted_p > FAMILY_ALPHA:
            return 0
        _, signs = self.pair.thresholds.decide(np.array([self.mean]))
        return int(signs[0])

    def p_value(self) -> float | None:
        """The p-value of the thresholds before `corrected`, with the sequential rule the always-valid one."""
        if self.looks:
            return sequential_p_value(self.looks, self.pair.thresholds)[0]
        return self.estimate.p_value(self.pair.thresholds) if self.estimate else None

    def corrected(self, decision: HolmDecision, *, family_size: int) -> PairedDifference:
        """This difference with the result of Holm's procedure; a significant one as it was at the look that decided."""
        fields = {"level": decision.level, "adjusted_p": decision.adjusted, "family_size": family_size}
        if not self.looks or decision.adjusted > FAMILY_ALPHA:
            return replace(self, **fields)
        _, num_seeds = sequential_p_value(self.looks, self.pair.thresholds)
        return replace(self, per_seed=self.per_seed[:num_seeds], estimate=self.looks[num_seeds - 2], **fields)


class ArmComparison:
    """Differences between the arms of a study."""

    def __init__(self, arms: Sequence[ArmResult], rows: pl.DataFrame, *, rule: DecisionRule = "fixed") -> None:
        """`rows` is the score table of `arms`; `rule` is how their differences are tested."""
        self._arms, self._rows, self._changed_tasks = arms_with_scores(arms), rows, changed_tasks(rows)
        self.rule: DecisionRule = rule
        self._gains: dict[tuple[str, Measure], dict[int, dict[str, float]]] = {}
        self._intervals: dict[tuple[str, Measure], Interval | None] = {}
        self._questions: dict[bool, QuestionScores] = {}

    def without_tasks(self, tasks: Sequence[str]) -> ArmComparison:
        """The same comparison as if these tasks had not been evaluated."""
        return self._same_arms(self._rows.filter(~pl.col("task").is_in(list(tasks))), rule=self.rule)

    def with_rule(self, rule: DecisionRule) -> ArmComparison:
        """The same comparison, tested by another rule."""
        return self if rule == self.rule else self._same_arms(self._rows, rule=rule)

    def _same_arms(self, rows: pl.DataFrame, *, rule: DecisionRule) -> ArmComparison:
        """A comparison of the same arms, with the tables of question scores of this one."""
        comparison = ArmComparison(self._arms, rows, rule=rule)
        comparison._questions = self._questions
        return comparison

    def question_scores(self, *, is_soft: bool = False) -> QuestionScores:
        """The scores of all questions by all arms, or their soft scores."""
        if is_soft not in self._questions:
            self._questions[is_soft] = QuestionScores(self._arms, column="soft" if is_soft else "score")
        return self._questions[is_soft]

    def corrected_differences(self, pairs: Sequence[ArmPair], *, candidates: int = 0) -> list[PairedDifference | None]:
        """Differences that decide one thing together, corrected by Holm; None where two arms share no seed.

        `candidates` is the number of pairs from which these were selected by their scores.
        """
        differences = [self._uncorrected_difference(pair) for pair in pairs]
        p_values = {i: p for i, d in enumerate(differences) if d and (p := d.p_value()) is not None}
        decisions = holm(list(p_values.values()), num_comparisons=candidates)
        for i, decision in zip(p_values, decisions, strict=True):
            if difference := differences[i]:
                differences[i] = difference.corrected(decision, family_size=max(len(p_values), candidates))
        return differences

    def question_interval(self, name: str, measure: Measure) -> Interval | None:
        """95 % interval over questions of the mean of an arm's scores over its seeds, centred on that mean."""
        if (name, measure) not in self._intervals:
            self._intervals[name, measure] = self._question_interval(name, measure)
        return self._intervals[name, measure]

    def _question_interval(self, name: str, measure: Measure) -> Interval | None:
        _, is_soft = split_measure(measure)
        arm_rows = measure_scores(self._rows.filter(arm=name), measure)
        scores = dict(arm_rows.select("seed", "score").iter_rows())
        tasks = {task for gains in self._task_gains(name, measure).values() for task in gains}
        runs = [(name, seed) for seed in sorted(scores)]
        answers = self.question_scores(is_soft=is_soft).shared(runs, tasks=tasks)
        return None if answers is None else _centred_interval(answers.sample(), float(np.mean(list(scores.values()))))

    def _paired_answers(self, pair: ArmPair, *, seeds: Sequence[int], tasks: Sequence[str]) -> SharedAnswers | None:
        """The paired differences, [seeds, questions], over the questions that all these runs answered."""
        _, is_soft = split_measure(pair.measure)
        runs = [(name, seed) for name in (pair.a, pair.b) for seed in seeds]
        answers = self.question_scores(is_soft=is_soft).shared(runs, tasks=tasks)
        return answers and answers._replace(scores=answers.scores[: len(seeds)] - answers.scores[len(seeds) :])

    def shared_tasks(self, pair: ArmPair, seeds: Sequence[int]) -> list[str]:
        """The measure's tasks that all runs of a pair have, in the same version."""
        gains = [self._task_gains(name, pair.measure) for name in (pair.a, pair.b)]
        runs = [set(by_seed[seed]) for by_seed in gains for seed in seeds]
        return sorted(set.intersection(*runs).difference(self._changed_tasks)) if runs else []

    def seed_scores(self, pair: ArmPair, *, seeds: Sequence[int], tasks: Sequence[str]) -> np.ndarray:
        """Means over `tasks` [arms, seeds] of the pair, and of the compared arms that have all seeds and tasks."""
        names = dict.fromkeys([pair.a, pair.b, *(arm.name for arm in compared_arms(self._arms))])
        gains = [self._task_gains(name, pair.measure) for name in names]
        complete = [g for g in gains if all(seed in g and set(tasks) <= g[seed].keys() for seed in seeds)]
        return np.array([[np.mean([g[seed][task] for task in tasks]) for seed in seeds] for g in complete])

    def _uncorrected_difference(self, pair: ArmPair) -> PairedDifference | None:
        gains_a, gains_b = (self._task_gains(name, pair.measure) for name in (pair.a, pair.b))
        seeds = sorted(gains_a.keys() & gains_b.keys())
        tasks = self.shared_tasks(pair, seeds)
        if not tasks:
            return None
        arm_scores = self.seed_scores(pair, seeds=seeds, tasks=tasks)
        values = arm_scores[0] - arm_scores[1]
        gaps = self._paired_answers(pair, seeds=seeds, tasks=tasks)
        influences = None if gaps is None else gaps.influences()
        interval = None
        if gaps is not None and len(seeds) == 1:
            interval = _centred_interval(gaps.sample(), float(values[0]), bounds=(-1.0, 1.0))
        all_tasks = {task for gains in (gains_a, gains_b) for seed in seeds for task in gains[seed]}
        name, _ = split_measure(pair.measure)
        return PairedDifference(
            pair=pair,
            kind=name if name in STABLE_MEASURES else self._rows.filter(task=name).item(0, "kind"),
            per_seed=tuple(zip(seeds, values.tolist(), strict=True)),
            estimate=crossed_estimate(values, arm_scores=arm_scores, influences=influences),
            looks=self._looks(pair, seeds, tasks=tasks, influences=influences) if self.rule == "sequential" else (),
            question_interval=interval,
            missing_tasks=tuple(sorted(all_tasks - set(tasks))),
            addresses=tuple(a.address for a in self._arms if a.name in (pair.a, pair.b) and a.seed in seeds),
        )

    def _task_gains(self, name: str, measure: Measure) -> dict[int, dict[str, float]]:
        """`report.table.task_gains`, computed once: every look at a pair reads those of all arms."""
        if (name, measure) not in self._gains:
            self._gains[name, measure] = task_gains(self._rows, name, measure)
        return self._gains[name, measure]

    def _looks(
        self, pair: ArmPair, seeds: Sequence[int], *, tasks: Sequence[str], influences: np.ndarray | None
    ) -> tuple[DifferenceEstimate, ...]:
        """The estimates over the first 2, 3, 4 ... of the seeds; `influences` are those of all seeds."""
        looks: list[DifferenceEstimate] = []
        for number in range(2, len(seeds) + 1):
            scores = self.seed_scores(pair, seeds=seeds[:number], tasks=tasks)
            first = None if influences is None else influences[:number]
            estimate = crossed_estimate(scores[0] - scores[1], arm_scores=scores, influences=first)
            assert estimate is not None  # at least two seeds
            looks.append(estimate)
        return tuple(looks)


def _centred_interval(sample: ClusteredScores, centre: float, *, bounds: Interval = (0.0, 1.0)) -> Interval:
    """95 % over questions, moved so that `centre` takes the place of the sample's mean."""
    low, high = bootstrap.bca_interval(sample, bounds=bounds)
    offset = centre - sample.mean
    return low + offset, high + offset
