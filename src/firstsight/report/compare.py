"""Paired differences between arms: over the same questions, and over seeds.

Two kinds of chance meet in a score. Questions: another draw of the benchmark, answered by bootstrap over questions,
whole pictures at a time. Seeds: another run of the same recipe, answered by a t interval over paired differences.
A difference counts only if it is clear of both, so the wider interval is the one that decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from scipy import stats

from firstsight.report.results import ArmResult, asked_of_all, judged, ordinary, read_answers
from firstsight.report.table import STABLE

DRAWS = 2000
CHUNK = 100
Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Stable score of `a` minus that of `b` in one kind, over the seeds that both have. Numbers are shares of 1."""

    a: str
    b: str
    kind: str
    mean: float
    per_seed: tuple[tuple[int, float], ...]
    questions: Interval | None
    """Bootstrap over questions, clustered by picture, of the mean over seeds; None where no answers were kept."""
    seeds: Interval | None
    """t interval over paired seeds; None with a single seed."""
    level: float
    addresses: tuple[str, ...]

    @property
    def interval(self) -> Interval | None:
        """The wider of the two; None while there is only one seed, because nothing then speaks for the next run."""
        if self.seeds is None:
            return None
        both = [self.seeds] + ([self.questions] if self.questions else [])
        return min(low for low, _ in both), max(high for _, high in both)


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

    def difference(self, a: str, b: str, *, kind: str, among: int = 1) -> Difference | None:
        """`a` minus `b`; `among` comparisons share the 5 % (Bonferroni). None where they share no seed."""
        of_a, of_b = self.scores(a, kind), self.scores(b, kind)
        shared = sorted(of_a.keys() & of_b.keys())
        if not shared:
            return None
        per_seed = tuple((seed, of_a[seed] - of_b[seed]) for seed in shared)
        values = np.array([value for _, value in per_seed])
        level = 1 - 0.05 / among
        return Difference(
            a=a,
            b=b,
            kind=kind,
            mean=float(values.mean()),
            per_seed=per_seed,
            questions=self._over_questions((a, b), kind, seeds=shared, level=level),
            seeds=self._over_seeds(values, kind, level=level),
            level=level,
            addresses=tuple(arm.address for arm in self._arms if arm.name in (a, b) and arm.seed in shared),
        )

    def interval(self, name: str, kind: str) -> Interval | None:
        """95 % interval over questions of an arm's mean stable score over its seeds, centred on that mean."""
        score = self.scores(name, kind)
        asked = self._questions(name, kind, sorted(score))
        if asked.is_empty() or not score:
            return None
        mean = float(np.mean(list(score.values())))
        low, high = spread(asked, level=0.95)
        return mean + low, mean + high

    def _questions(self, name: str, kind: str, seeds: Sequence[int]) -> pl.DataFrame:
        sheets = [self.sheets[arm.label] for arm in self._arms if arm.name == name and arm.seed in seeds]
        wanted = (pl.col("kind") == kind) & pl.col("baseline").is_not_null()
        tasks = self._rows.filter(wanted).get_column("task").unique().to_list()
        return asked_of_all(sheets).filter(pl.col("task").is_in(tasks))

    def _over_questions(
        self, names: tuple[str, str], kind: str, *, seeds: Sequence[int], level: float
    ) -> Interval | None:
        a, b = (self._questions(name, kind, seeds) for name in names)
        pairs = a.join(b.select("task", "question", "score"), on=["task", "question"], suffix="_b")
        if pairs.is_empty():
            return None
        low, high = spread(pairs.with_columns(pl.col("score") - pl.col("score_b")), level=level)
        first, second = (self.scores(name, kind) for name in names)
        mean = float(np.mean([first[seed] - second[seed] for seed in seeds]))
        return mean + low, mean + high

    def _over_seeds(self, values: np.ndarray, kind: str, *, level: float) -> Interval | None:
        names = dict.fromkeys(arm.name for arm in ordinary(self._arms))
        table = [scores for name in names if (scores := self.scores(name, kind))]
        shared = sorted(set.intersection(*(set(row) for row in table))) if table else []
        return over_seeds(values, np.array([[row[seed] for seed in shared] for row in table]), level=level)


def over_seeds(values: np.ndarray, table: np.ndarray, *, level: float) -> Interval | None:
    """t interval of the mean of paired differences; None for a single one.

    `table` holds the study's scores [arms, seeds]. The spread is the pair's own or the pooled one, whichever is
    larger: two seeds alone would often look calm by luck.
    """
    if len(values) < 2:
        return None
    sd, freedom = pooled(table)
    sd, freedom = max(float(values.std(ddof=1)), sd), max(freedom, len(values) - 1)
    half = float(stats.t.ppf(0.5 + level / 2, freedom)) * sd / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def pooled(table: np.ndarray) -> tuple[float, int]:
    """Seed-to-seed sd of a difference between two arms from all arms at once [arms, seeds], and its degrees of freedom.

    A score is arm + seed + noise; the noise is what is left after both means are taken out, and a difference holds it
    twice. One pair at two seeds has a single degree of freedom, six arms at two seeds have five.
    """
    if table.ndim < 2 or min(table.shape) < 2:
        return 0.0, 0
    arms, seeds = table.shape
    rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0, keepdims=True) + table.mean()
    freedom = (arms - 1) * (seeds - 1)
    return float(np.sqrt(2 * (rest**2).sum() / freedom)), freedom


def spread(asked: pl.DataFrame, *, level: float, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Ends of a bootstrap interval, relative to the mean over tasks of the mean score of `asked`'s questions.

    Pictures are drawn with all their questions, in all tasks at once; a question without a picture is its own cluster.
    """
    own = pl.concat_str(pl.col("task"), pl.lit("\0"), pl.col("question"))
    cluster = pl.when(pl.col("image") == "").then(own).otherwise(pl.col("image"))
    coded = asked.with_columns((cluster.rank("dense") - 1).alias("c"), (pl.col("task").rank("dense") - 1).alias("t"))
    c, t = coded.get_column("c").to_numpy(), coded.get_column("t").to_numpy()
    shape = int(t.max()) + 1, int(c.max()) + 1
    flat = t.astype(np.int64) * shape[1] + c
    sums = np.bincount(flat, weights=coded.get_column("score").to_numpy(), minlength=shape[0] * shape[1])
    counts = np.bincount(flat, minlength=shape[0] * shape[1]).astype(np.float64)
    found = _bootstrap(sums.reshape(shape), counts.reshape(shape), draws=draws, seed=seed)
    centre = float(np.mean(sums.reshape(shape).sum(1) / counts.reshape(shape).sum(1)))
    low, high = np.nanquantile(found, [0.5 - level / 2, 0.5 + level / 2])
    return float(low) - centre, float(high) - centre


def _bootstrap(sums: np.ndarray, counts: np.ndarray, *, draws: int, seed: int) -> np.ndarray:
    """Mean over tasks [draws] under `draws` resamplings of the clusters; sums and counts are [tasks, clusters]."""
    random = np.random.default_rng(seed)
    clusters = sums.shape[1]
    found = []
    for _ in range(0, draws, CHUNK):
        rows = random.integers(clusters, size=(CHUNK, clusters)) + np.arange(CHUNK)[:, None] * clusters
        picks = np.bincount(rows.ravel(), minlength=CHUNK * clusters).reshape(CHUNK, clusters).astype(np.float64)
        asked = picks @ counts.T
        means = np.divide(picks @ sums.T, asked, out=np.full_like(asked, np.nan), where=asked > 0)
        found.append(np.nanmean(means, axis=1))
    return np.concatenate(found)
