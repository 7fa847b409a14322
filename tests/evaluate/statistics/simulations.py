"""Simulated benchmarks whose truth is known, and how often an interval holds it.

    python -m tests.evaluate.statistics.simulations

prints the table of docs/why/differences.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from firstsight.evaluate.statistics.bootstrap import bca_interval, bootstrap_means
from firstsight.evaluate.statistics.clustered_scores import ClusteredScores
from firstsight.evaluate.statistics.differences import crossed_estimate

VQA = np.minimum(np.arange(11) * 0.3, 1.0)
"""What an answer scores on which so many of ten people agree."""
METHODS = ("interval", "percentile", "t")


@dataclass(frozen=True, kw_only=True)
class Exam:
    """A benchmark: `pictures` with 1 to 2 * `each` - 1 questions, `right` of which are answered rightly."""

    pictures: int
    each: int
    right: float
    alike: float
    """Correlation of the questions to one picture."""
    scored: str = "binary"

    def ability(self, random: np.random.Generator, worlds: int) -> np.ndarray:
        """Of each picture: how likely its questions are answered rightly, [worlds, pictures]."""
        size = 1 / self.alike - 1
        return random.beta(self.right * size, (1 - self.right) * size, (worlds, self.pictures))

    def sizes(self, random: np.random.Generator, worlds: int) -> np.ndarray:
        return random.integers(1, 2 * self.each, (worlds, self.pictures))

    def truth(self) -> float:
        if self.scored == "binary":
            return self.right
        size = 1 / self.alike - 1
        law = stats.betabinom(10, self.right * size, (1 - self.right) * size)
        return float((law.pmf(np.arange(11)) * VQA).sum())

    def sums(self, random: np.random.Generator, ability: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Summed scores of each picture's questions."""
        if self.scored == "binary":
            return random.binomial(sizes, ability).astype(float)
        most = int(sizes.max())
        scores = VQA[random.binomial(10, np.broadcast_to(ability, (most, *ability.shape)))]
        return (scores * (np.arange(most)[:, None, None] < sizes)).sum(0)


def sampled(sums: np.ndarray, counts: np.ndarray) -> ClusteredScores:
    return ClusteredScores(sums=sums[:, None], counts=counts[:, None].astype(float), weights=np.ones(1))


def covers(
    sample: ClusteredScores, truth: float, *, draws: int, method: str = "interval", signed: bool = False
) -> bool:
    """Whether one 95 % interval holds the truth."""
    if method == "percentile":
        low, high = np.quantile(bootstrap_means(sample, num_draws=draws), (0.025, 0.975))
    elif method == "t":
        half = stats.t.ppf(0.975, sample.num_clusters - 1) * np.sqrt((sample.influence() ** 2).sum())
        low, high = sample.mean - half, sample.mean + half
    else:
        low, high = bca_interval(sample, num_draws=draws, bounds=(-1.0 if signed else 0.0, 1.0))
    return bool(low <= truth <= high)


def of_a_score(exam: Exam, *, worlds: int, draws: int, method: str = "interval") -> float:
    """Coverage of the interval of one score."""
    random = np.random.default_rng(1)
    ability, sizes = exam.ability(random, worlds), exam.sizes(random, worlds)
    sums, truth = exam.sums(random, ability, sizes), exam.truth()
    rows = zip(sums, sizes, strict=True)
    return float(np.mean([covers(sampled(s, n), truth, draws=draws, method=method) for s, n in rows]))


def of_a_difference(exam: Exam, *, worlds: int, draws: int, method: str = "interval") -> float:
    """Coverage of the interval of a paired difference: the second model has 0.9 of the first's ability (binary)."""
    random = np.random.default_rng(2)
    ability, sizes = exam.ability(random, worlds), exam.sizes(random, worlds)
    sums = random.binomial(sizes, ability) - random.binomial(sizes, 0.9 * ability).astype(float)
    truth = 0.1 * exam.right
    rows = zip(sums, sizes, strict=True)
    return float(np.mean([covers(sampled(s, n), truth, draws=draws, method=method, signed=True) for s, n in rows]))


@dataclass(frozen=True, kw_only=True)
class Study:
    """Arms over seeds and one exam. Numbers are standard deviations of the chance of a right answer."""

    seeds: int
    arms: int = 2
    pictures: int = 200
    each: int = 3
    spread: float = 0.02
    """Of an arm from seed to seed."""
    taste: float = 0.1
    """Of an arm's ability from picture to picture, the same for all seeds."""
    scored: str = "binary"
    unruly: float = 1.0
    """How many times more the first arm spreads from seed to seed than the others."""

    def rights(self, random: np.random.Generator, worlds: int) -> tuple[np.ndarray, np.ndarray]:
        """Summed scores [worlds, arms, seeds, pictures] and sizes [worlds, pictures]; all arms are equally able."""
        sizes = random.integers(1, 2 * self.each, (worlds, self.pictures))
        ability = random.uniform(0.3, 0.7, (worlds, 1, 1, self.pictures))
        reach = self.taste * np.sqrt(3)  # a uniform law has this half-width
        ability = ability + random.uniform(-reach, reach, (worlds, self.arms, 1, self.pictures))
        shared = random.normal(0, self.spread, (worlds, 1, self.seeds, 1))
        scale = np.where(np.arange(self.arms) == 0, self.unruly, 1.0)[:, None, None] * self.spread
        ability = ability + shared + random.normal(0, 1, (worlds, self.arms, self.seeds, 1)) * scale
        counts, chance = np.broadcast_to(sizes[:, None, None], ability.shape), ability.clip(0, 1)
        if self.scored == "binary":
            return random.binomial(counts, chance).astype(float), sizes
        most = int(sizes.max())
        sums = np.zeros(ability.shape)
        for place in range(most):
            sums += VQA[random.binomial(10, 0.3 * chance)] * (place < counts)
        return sums, sizes


def of_seeds(study: Study, *, worlds: int) -> float:
    """Coverage of the interval of a difference of 0 between the first two arms, over seeds and questions."""
    random = np.random.default_rng(3)
    held = 0
    for start in range(0, worlds, 200):
        sums, sizes = study.rights(random, min(200, worlds - start))
        for score, size in zip(sums, sizes, strict=True):
            asked = size.sum()
            each = score.sum(-1) / asked
            gaps = score[0] - score[1]
            pulls = (gaps - size * (gaps.sum(1, keepdims=True) / asked)) / asked
            found = crossed_estimate(each[0] - each[1], arm_scores=each, influences=pulls)
            assert found is not None
            held += found.p_value(0.0) > 0.05
    return held / worlds


EXAMS = [
    Exam(pictures=pictures, each=each, right=right, alike=alike, scored=scored)
    for scored in ("binary", "vqa")
    for pictures, each in ((100, 3), (300, 1), (300, 5))
    for right, alike in ((0.1, 0.1), (0.5, 0.3), (0.8, 0.3))
]
STUDIES = [
    Study(seeds=seeds, arms=arms, spread=spread, taste=taste, scored=scored)
    for arms in (2, 6)
    for seeds in (2, 3, 5, 10)
    for spread in (0.0, 0.01, 0.03, 0.1)
    for taste, scored in ((0.02, "binary"), (0.15, "binary"), (0.1, "vqa"))
]


def table(worlds: int, say: Callable[[str], None]) -> None:
    """Coverage of every exam and study, as lines."""
    say(f"{worlds} worlds; coverage of 95 % intervals in %")
    for name, measure in (("score", of_a_score), ("difference", of_a_difference)):
        for exam in EXAMS if name == "score" else [exam for exam in EXAMS if exam.scored == "binary"]:
            found = {method: measure(exam, worlds=worlds, draws=1000, method=method) for method in METHODS}
            shown = "  ".join(f"{method} {100 * value:.1f}" for method, value in found.items())
            say(
                f"{name}: {exam.scored}, {exam.pictures} x {exam.each}, right {exam.right}, alike {exam.alike}: {shown}"
            )
    for study in STUDIES:
        what = f"{study.arms} arms, {study.seeds} seeds, spread {study.spread}, taste {study.taste}, {study.scored}"
        say(f"{what}: {100 * of_seeds(study, worlds=worlds):.1f}")


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description="Coverage of firstsight's intervals in worlds of known truth")
    asked.add_argument("--worlds", type=int, default=2000)
    table(asked.parse_args().worlds, lambda line: print(line, flush=True))  # noqa: T201
