"""Paired differences between arms, over the same questions and the same seeds.

Two kinds of chance meet in a score: another draw of the benchmark's questions, and another run of the same recipe. An
interval here speaks for both at once (firstsight.evaluate.statistics.seeds), and comparisons that decide one thing are
corrected together (Holm).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl

from firstsight.evaluate.statistics import bootstrap
from firstsight.evaluate.statistics.bootstrap import Interval
from firstsight.evaluate.statistics.clustered_scores import ClusteredScores, cluster_scores
from firstsight.evaluate.statistics.multiple_testing import FAMILY_ALPHA, holm
from firstsight.evaluate.statistics.seeds import DifferenceEstimate, crossed_estimate
from firstsight.report.results import ArmResult, arms_with_scores, main_sweep_arms, read_answer_scores
from firstsight.report.table import STABLE, stable_gains

_QUESTION_KEY = ["task", "question"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmPair:
    """What is asked: does `a` minus `b` differ from `bar`, in one kind?"""

    a: str
    b: str
    kind: str
    threshold: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedDifference:
    """Stable score of `a` minus that of `b` in one kind, over the seeds that both have. Numbers are shares of 1."""

    pair: ArmPair
    per_seed: tuple[tuple[int, float], ...]
    estimate: DifferenceEstimate | None
    """Over seeds and questions; None with a single seed, because nothing then speaks for the next run."""
    question_interval: Interval | None
    """95 % over questions alone, where there is only one seed; None where no answers were kept either."""
    missing_tasks: tuple[str, ...]
    """Tasks that some of the compared runs were not judged on: they are left out of the difference."""
    addresses: tuple[str, ...]
    level: float = 1 - FAMILY_ALPHA
    """Of the interval: the level at which the decision fell."""
    adjusted_p: float | None = None
    """p-value after correction for the comparisons made together; None with a single seed."""
    family_size: int = 1
    """How many comparisons it was corrected for."""

    @property
    def a(self) -> str:
        """The arm whose score comes first."""
        return self.pair.a

    @property
    def b(self) -> str:
        """The arm whose score is taken away."""
        return self.pair.b

    @property
    def kind(self) -> str:
        """Vision or text."""
        return self.pair.kind

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return float(np.mean([value for _, value in self.per_seed]))

    @property
    def interval(self) -> Interval | None:
        """Over seeds and questions, at `level`, within what shares of 1 can differ by; None with a single seed."""
        if self.estimate is None:
            return None
        low, high = self.estimate.interval(self.level)
        return max(low, -1.0), min(high, 1.0)

    @property
    def display_interval(self) -> Interval | None:
        """What stands beside the difference: the interval, or with one seed what the questions alone leave open."""
        return self.interval or self.question_interval

    @property
    def sign(self) -> int:
        """1 if the difference is clear above the bar, -1 if clear below, else 0; the interval says the same."""
        if self.adjusted_p is None or self.adjusted_p > FAMILY_ALPHA:
            return 0
        return 1 if self.mean > self.pair.threshold else -1


class Comparison:
    """All arms of a study, ready to be compared; answers are read when they are first needed."""

    def __init__(self, arms: Sequence[ArmResult], rows: pl.DataFrame) -> None:
        self._arms = arms_with_scores(arms)
        self._rows = rows

    @cached_property
    def answers(self) -> dict[str, pl.DataFrame]:
        """Kept answers by label."""
        return {arm.label: read_answer_scores(arm) for arm in self._arms}

    def stable_scores(self, name: str, kind: str) -> dict[int, float]:
        """Stable scores of an arm by seed."""
        row_filter = (pl.col("arm") == name) & (pl.col("kind") == kind) & (pl.col("task") == STABLE)
        stable_rows = self._rows.filter(row_filter & (pl.col("condition") == "sighted"))
        return dict(zip(stable_rows.get_column("seed"), stable_rows.get_column("score"), strict=True))

    def corrected_differences(
        self, pairs: Sequence[ArmPair], *, candidate_count: int = 0
    ) -> list[PairedDifference | None]:
        """Differences that decide one thing together, corrected by Holm; None where two arms share no seed.

        `among` is the number of pairs that these were chosen from by looking at the scores.
        """
        differences = [self._uncorrected_difference(pair) for pair in pairs]
        tested_indices = [
            index
            for index, difference in enumerate(differences)
            if difference is not None and difference.estimate is not None
        ]
        p_values = [_p_value(differences[index]) for index in tested_indices]
        for index, decision in zip(tested_indices, holm(p_values, num_comparisons=candidate_count), strict=True):
            difference = differences[index]
            assert difference is not None
            family_size = max(len(p_values), candidate_count)
            differences[index] = replace(
                difference, level=decision.level, adjusted_p=decision.adjusted, family_size=family_size
            )
        return differences

    def paired_difference(self, pair: ArmPair) -> PairedDifference | None:
        """One comparison on its own; None where the arms share no seed."""
        return self.corrected_differences([pair])[0]

    def question_interval(self, name: str, kind: str) -> Interval | None:
        """95 % interval over questions of an arm's mean stable score over its seeds, centred on that mean."""
        scores = self.stable_scores(name, kind)
        answers = self._common_answers([name], sorted(scores), tasks=stable_gains(self._rows, name, kind).keys())
        if answers is None:
            return None
        sample = _clustered_scores(answers, answers.select(pl.mean_horizontal("^score.*$")).to_series().to_numpy())
        mean = float(np.mean(list(scores.values())))
        low, high = bootstrap.bca_interval(sample)
        return mean + low - sample.mean, mean + high - sample.mean

    def paired_samples(self, pair: ArmPair, *, seeds: Sequence[int], tasks: Sequence[str]) -> list[ClusteredScores]:
        """Paired differences over the questions that all these runs answered, one sample a seed; empty without any."""
        answers = self._common_answers([pair.a, pair.b], seeds, tasks=tasks)
        if answers is None:
            return []
        columns = [answers.get_column(f"score_{name}_{seed}").to_numpy() for name in (pair.a, pair.b) for seed in seeds]
        return [
            _clustered_scores(answers, a - b) for a, b in zip(columns[: len(seeds)], columns[len(seeds) :], strict=True)
        ]

    def _uncorrected_difference(self, pair: ArmPair) -> PairedDifference | None:
        gains_a, gains_b = (self._task_gains(name, pair.kind) for name in (pair.a, pair.b))
        seeds = sorted(gains_a.keys() & gains_b.keys())
        tasks = self.common_tasks(pair, seeds)
        if not tasks:
            return None
        values = np.array([_mean_gain(gains_a[seed], tasks) - _mean_gain(gains_b[seed], tasks) for seed in seeds])
        samples = self.paired_samples(pair, seeds=seeds, tasks=tasks)
        influences = np.stack([sample.influence() for sample in samples]) if samples else None
        return PairedDifference(
            pair=pair,
            per_seed=tuple(zip(seeds, values.tolist(), strict=True)),
            estimate=crossed_estimate(
                values, arm_scores=self.seed_scores(pair, seeds=seeds, tasks=tasks), influences=influences
            ),
            question_interval=_single_seed_interval(samples, values) if len(seeds) == 1 else None,
            missing_tasks=tuple(
                sorted({task for gains in (gains_a, gains_b) for seed in seeds for task in gains[seed]} - set(tasks))
            ),
            addresses=tuple(a.address for a in self._arms if a.name in (pair.a, pair.b) and a.seed in seeds),
        )

    def common_tasks(self, pair: ArmPair, seeds: Sequence[int]) -> list[str]:
        """The stable score's tasks that all runs of a pair were judged on."""
        runs = [self._task_gains(name, pair.kind)[seed].keys() for name in (pair.a, pair.b) for seed in seeds]
        return sorted(set.intersection(*map(set, runs))) if runs else []

    def seed_scores(self, pair: ArmPair, *, seeds: Sequence[int], tasks: Sequence[str]) -> np.ndarray:
        """Means over `tasks` [arms, seeds] of the pair, and of the arms on the line that have all seeds and tasks."""
        names = dict.fromkeys([pair.a, pair.b, *(arm.name for arm in main_sweep_arms(self._arms))])
        rows = []
        for name in names:
            gains = self._task_gains(name, pair.kind)
            if all(seed in gains and set(tasks) <= gains[seed].keys() for seed in seeds):
                rows.append([_mean_gain(gains[seed], tasks) for seed in seeds])
        return np.array(rows)

    def _task_gains(self, name: str, kind: str) -> dict[int, dict[str, float]]:
        """Score less baseline of the stable score's tasks, by seed."""
        gains_by_seed: dict[int, dict[str, float]] = {}
        for task, by_seed in stable_gains(self._rows, name, kind).items():
            for seed, gain in by_seed.items():
                gains_by_seed.setdefault(seed, {})[task] = gain
        return gains_by_seed

    def _common_answers(
        self, names: Sequence[str], seeds: Sequence[int], *, tasks: Collection[str]
    ) -> pl.DataFrame | None:
        """Questions that all these runs answered with the picture: image, split, and a score_NAME_SEED for each run."""
        row_filter = pl.col("task").is_in(list(tasks)) & ~pl.col("blind")
        answers: pl.DataFrame | None = None
        for name in names:
            for seed in seeds:
                label = next(arm.label for arm in self._arms if (arm.name, arm.seed) == (name, seed))
                arm_answers = (
                    self.answers[label].filter(row_filter).unique(_QUESTION_KEY, keep="first", maintain_order=True)
                )
                score = arm_answers.select(*_QUESTION_KEY, pl.col("score").alias(f"score_{name}_{seed}"))
                answers = arm_answers.select(*_QUESTION_KEY, "image", "split") if answers is None else answers
                answers = answers.join(score, on=_QUESTION_KEY, maintain_order="left")
        return None if answers is None or answers.is_empty() else answers


def _mean_gain(gains: Mapping[str, float], tasks: Sequence[str]) -> float:
    return float(np.mean([gains[task] for task in tasks]))


def _p_value(difference: PairedDifference | None) -> float:
    assert difference is not None
    assert difference.estimate is not None
    return difference.estimate.p_value(difference.pair.threshold)


def _single_seed_interval(samples: Sequence[ClusteredScores], values: np.ndarray) -> Interval | None:
    """For a single seed: the questions' interval, centred on the difference of the scores as judged."""
    if not samples:
        return None
    low, high = bootstrap.bca_interval(samples[0], bounds=(-1.0, 1.0))
    offset = float(values[0]) - samples[0].mean
    return low + offset, high + offset


def _clustered_scores(answers: pl.DataFrame, scores: np.ndarray) -> ClusteredScores:
    """Pictures with all their questions, in all tasks at once; a question without a picture is its own cluster."""
    question_cluster = pl.concat_str(pl.col("task"), pl.lit("\0"), pl.col("question"))
    cluster = pl.when(pl.col("image") == "").then(question_cluster).otherwise(pl.col("image"))
    clusters = answers.select(cluster.alias("c")).get_column("c").to_list()
    tasks, splits = answers.get_column("task").to_list(), answers.get_column("split").to_list()
    return cluster_scores(scores, clusters=clusters, tasks=tasks, splits=splits)
