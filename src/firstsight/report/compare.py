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
from firstsight.evaluate.statistics.family import ALPHA, holm
from firstsight.evaluate.statistics.sample import Sample, gather
from firstsight.evaluate.statistics.seeds import Estimate, crossed
from firstsight.report.results import ArmResult, judged, ordinary, read_answers
from firstsight.report.table import STABLE, counted

_ID = ["task", "question"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """What is asked: does `a` minus `b` differ from `bar`, in one kind?"""

    a: str
    b: str
    kind: str
    bar: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Stable score of `a` minus that of `b` in one kind, over the seeds that both have. Numbers are shares of 1."""

    pair: Pair
    per_seed: tuple[tuple[int, float], ...]
    estimate: Estimate | None
    """Over seeds and questions; None with a single seed, because nothing then speaks for the next run."""
    questions: Interval | None
    """95 % over questions alone, where there is only one seed; None where no answers were kept either."""
    lacking: tuple[str, ...]
    """Tasks that some of the compared runs were not judged on: they are left out of the difference."""
    addresses: tuple[str, ...]
    level: float = 1 - ALPHA
    """Of the interval: the level at which the decision fell."""
    adjusted: float | None = None
    """p-value after correction for the comparisons made together; None with a single seed."""
    family: int = 1
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
    def shown(self) -> Interval | None:
        """What stands beside the difference: the interval, or with one seed what the questions alone leave open."""
        return self.interval or self.questions

    @property
    def side(self) -> int:
        """1 if the difference is clear above the bar, -1 if clear below, else 0; the interval says the same."""
        if self.adjusted is None or self.adjusted > ALPHA:
            return 0
        return 1 if self.mean > self.pair.bar else -1


class Comparison:
    """All arms of a study, ready to be compared; answers are read when they are first needed."""

    def __init__(self, arms: Sequence[ArmResult], rows: pl.DataFrame) -> None:
        self._arms = judged(arms)
        self._rows = rows

    @cached_property
    def sheets(self) -> dict[str, pl.DataFrame]:
        """Kept answers by label."""
        return {arm.label: read_answers(arm) for arm in self._arms}

    def scores(self, name: str, kind: str) -> dict[int, float]:
        """Stable scores of an arm by seed."""
        wanted = (pl.col("arm") == name) & (pl.col("kind") == kind) & (pl.col("task") == STABLE)
        found = self._rows.filter(wanted & (pl.col("condition") == "sighted"))
        return dict(zip(found.get_column("seed"), found.get_column("score"), strict=True))

    def family(self, pairs: Sequence[Pair], *, among: int = 0) -> list[Difference | None]:
        """Differences that decide one thing together, corrected by Holm; None where two arms share no seed.

        `among` is the number of pairs that these were chosen from by looking at the scores.
        """
        found = [self._plain(pair) for pair in pairs]
        tested = [place for place, one in enumerate(found) if one is not None and one.estimate is not None]
        values = [_p(found[place]) for place in tested]
        for place, decision in zip(tested, holm(values, among=among), strict=True):
            one = found[place]
            assert one is not None
            count = max(len(values), among)
            found[place] = replace(one, level=decision.level, adjusted=decision.adjusted, family=count)
        return found

    def difference(self, pair: Pair) -> Difference | None:
        """One comparison on its own; None where the arms share no seed."""
        return self.family([pair])[0]

    def interval(self, name: str, kind: str) -> Interval | None:
        """95 % interval over questions of an arm's mean stable score over its seeds, centred on that mean."""
        scores = self.scores(name, kind)
        asked = self._asked([name], sorted(scores), tasks=counted(self._rows, name, kind).keys())
        if asked is None:
            return None
        sample = _sample(asked, asked.select(pl.mean_horizontal("^score.*$")).to_series().to_numpy())
        mean = float(np.mean(list(scores.values())))
        low, high = bootstrap.interval(sample)
        return mean + low - sample.mean, mean + high - sample.mean

    def pulls(self, pair: Pair, *, seeds: Sequence[int], tasks: Sequence[str]) -> list[Sample]:
        """Paired differences over the questions that all these runs answered, one sample a seed; empty without any."""
        asked = self._asked([pair.a, pair.b], seeds, tasks=tasks)
        if asked is None:
            return []
        columns = [asked.get_column(f"score_{name}_{seed}").to_numpy() for name in (pair.a, pair.b) for seed in seeds]
        return [_sample(asked, a - b) for a, b in zip(columns[: len(seeds)], columns[len(seeds) :], strict=True)]

    def _plain(self, pair: Pair) -> Difference | None:
        of_a, of_b = (self._gains(name, pair.kind) for name in (pair.a, pair.b))
        seeds = sorted(of_a.keys() & of_b.keys())
        tasks = self.tasks(pair, seeds)
        if not tasks:
            return None
        values = np.array([_mean(of_a[seed], tasks) - _mean(of_b[seed], tasks) for seed in seeds])
        samples = self.pulls(pair, seeds=seeds, tasks=tasks)
        pulls = np.stack([sample.influence() for sample in samples]) if samples else None
        return Difference(
            pair=pair,
            per_seed=tuple(zip(seeds, values.tolist(), strict=True)),
            estimate=crossed(values, table=self.table(pair, seeds=seeds, tasks=tasks), pulls=pulls),
            questions=_over_questions(samples, values) if len(seeds) == 1 else None,
            lacking=tuple(sorted({task for of in (of_a, of_b) for seed in seeds for task in of[seed]} - set(tasks))),
            addresses=tuple(a.address for a in self._arms if a.name in (pair.a, pair.b) and a.seed in seeds),
        )

    def tasks(self, pair: Pair, seeds: Sequence[int]) -> list[str]:
        """The stable score's tasks that all runs of a pair were judged on."""
        runs = [self._gains(name, pair.kind)[seed].keys() for name in (pair.a, pair.b) for seed in seeds]
        return sorted(set.intersection(*map(set, runs))) if runs else []

    def table(self, pair: Pair, *, seeds: Sequence[int], tasks: Sequence[str]) -> np.ndarray:
        """Means over `tasks` [arms, seeds] of the pair, and of the arms on the line that have all seeds and tasks."""
        names = dict.fromkeys([pair.a, pair.b, *(arm.name for arm in ordinary(self._arms))])
        rows = []
        for name in names:
            gains = self._gains(name, pair.kind)
            if all(seed in gains and set(tasks) <= gains[seed].keys() for seed in seeds):
                rows.append([_mean(gains[seed], tasks) for seed in seeds])
        return np.array(rows)

    def _gains(self, name: str, kind: str) -> dict[int, dict[str, float]]:
        """Score less baseline of the stable score's tasks, by seed."""
        found: dict[int, dict[str, float]] = {}
        for task, by_seed in counted(self._rows, name, kind).items():
            for seed, gain in by_seed.items():
                found.setdefault(seed, {})[task] = gain
        return found

    def _asked(self, names: Sequence[str], seeds: Sequence[int], *, tasks: Collection[str]) -> pl.DataFrame | None:
        """Questions that all these runs answered with the picture: image, split, and a score_NAME_SEED for each run."""
        wanted = pl.col("task").is_in(list(tasks)) & ~pl.col("blind")
        found: pl.DataFrame | None = None
        for name in names:
            for seed in seeds:
                label = next(arm.label for arm in self._arms if (arm.name, arm.seed) == (name, seed))
                sheet = self.sheets[label].filter(wanted).unique(_ID, keep="first", maintain_order=True)
                score = sheet.select(*_ID, pl.col("score").alias(f"score_{name}_{seed}"))
                found = sheet.select(*_ID, "image", "split") if found is None else found
                found = found.join(score, on=_ID, maintain_order="left")
        return None if found is None or found.is_empty() else found


def _mean(gains: Mapping[str, float], tasks: Sequence[str]) -> float:
    return float(np.mean([gains[task] for task in tasks]))


def _p(found: Difference | None) -> float:
    assert found is not None
    assert found.estimate is not None
    return found.estimate.p(found.pair.bar)


def _over_questions(samples: Sequence[Sample], values: np.ndarray) -> Interval | None:
    """For a single seed: the questions' interval, centred on the difference of the scores as judged."""
    if not samples:
        return None
    low, high = bootstrap.interval(samples[0], bounds=(-1.0, 1.0))
    off = float(values[0]) - samples[0].mean
    return low + off, high + off


def _sample(asked: pl.DataFrame, scores: np.ndarray) -> Sample:
    """Pictures with all their questions, in all tasks at once; a question without a picture is its own cluster."""
    own = pl.concat_str(pl.col("task"), pl.lit("\0"), pl.col("question"))
    cluster = pl.when(pl.col("image") == "").then(own).otherwise(pl.col("image"))
    clusters = asked.select(cluster.alias("c")).get_column("c").to_list()
    tasks, splits = asked.get_column("task").to_list(), asked.get_column("split").to_list()
    return gather(scores, clusters=clusters, tasks=tasks, splits=splits)
