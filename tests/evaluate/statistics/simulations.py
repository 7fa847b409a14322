"""Coverage of the intervals on simulated benchmarks and studies with known true values.

    python -m tests.evaluate.statistics.simulations

prints the table of docs/why/differences.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from firstsight.evaluate.statistics.bootstrap import ClusteredScores, bca_interval, bootstrap_means
from firstsight.evaluate.statistics.differences import crossed_estimate

VQA = np.minimum(np.arange(11) * 0.3, 1.0)
"""The score of an answer by the number of ten annotators who agree."""
METHODS = ("interval", "percentile", "t")


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark: images with 1 to 2 * `questions_per_image` - 1 questions, and the accuracy of the answers."""

    images: int
    questions_per_image: int
    accuracy: float
    correlation: float
    """Correlation of the scores of the questions about one image."""
    scored: str = "binary"

    @property
    def label(self) -> str:
        size = f"{self.images} x {self.questions_per_image}"
        return f"{self.scored}, {size}, accuracy {self.accuracy}, correlation {self.correlation}"

    def ability(self, rng: np.random.Generator, trials: int) -> np.ndarray:
        """The probability of a right answer for each image, [trials, images]."""
        size = 1 / self.correlation - 1
        return rng.beta(self.accuracy * size, (1 - self.accuracy) * size, (trials, self.images))

    def sizes(self, rng: np.random.Generator, trials: int) -> np.ndarray:
        return rng.integers(1, 2 * self.questions_per_image, (trials, self.images))

    def truth(self) -> float:
        if self.scored == "binary":
            return self.accuracy
        size = 1 / self.correlation - 1
        distribution = stats.betabinom(10, self.accuracy * size, (1 - self.accuracy) * size)
        return float((distribution.pmf(np.arange(11)) * VQA).sum())

    def sums(self, rng: np.random.Generator, ability: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """The sum of scores for each image, [trials, images]."""
        if self.scored == "binary":
            return rng.binomial(sizes, ability).astype(float)
        max_size = int(sizes.max())
        scores = VQA[rng.binomial(10, np.broadcast_to(ability, (max_size, *ability.shape)))]
        return (scores * (np.arange(max_size)[:, None, None] < sizes)).sum(0)


def clustered(sums: np.ndarray, counts: np.ndarray) -> ClusteredScores:
    return ClusteredScores(sums=sums[:, None], counts=counts[:, None].astype(float), weights=np.ones(1))


def covers(
    scores: ClusteredScores, truth: float, *, draws: int, method: str = "interval", signed: bool = False
) -> bool:
    """Whether one 95 % interval contains the true value."""
    if method == "percentile":
        low, high = np.quantile(bootstrap_means(scores, num_draws=draws), (0.025, 0.975))
    elif method == "t":
        half = stats.t.ppf(0.975, scores.num_clusters - 1) * np.sqrt((scores.influence() ** 2).sum())
        low, high = scores.mean - half, scores.mean + half
    else:
        low, high = bca_interval(scores, num_draws=draws, bounds=(-1.0 if signed else 0.0, 1.0))
    return bool(low <= truth <= high)


def score_coverage(benchmark: Benchmark, *, trials: int, draws: int, method: str = "interval") -> float:
    """Coverage of the interval of one score."""
    rng = np.random.default_rng(1)
    ability, sizes = benchmark.ability(rng, trials), benchmark.sizes(rng, trials)
    sums, truth = benchmark.sums(rng, ability, sizes), benchmark.truth()
    rows = zip(sums, sizes, strict=True)
    return float(np.mean([covers(clustered(s, n), truth, draws=draws, method=method) for s, n in rows]))


def difference_coverage(benchmark: Benchmark, *, trials: int, draws: int, method: str = "interval") -> float:
    """Coverage of the interval of a paired difference; the second model has 0.9 of the first's ability (binary)."""
    rng = np.random.default_rng(2)
    ability, sizes = benchmark.ability(rng, trials), benchmark.sizes(rng, trials)
    sums = rng.binomial(sizes, ability) - rng.binomial(sizes, 0.9 * ability).astype(float)
    truth = 0.1 * benchmark.accuracy
    rows = zip(sums, sizes, strict=True)
    return float(np.mean([covers(clustered(s, n), truth, draws=draws, method=method, signed=True) for s, n in rows]))


@dataclass(frozen=True, kw_only=True)
class Study:
    """Arms over seeds and one benchmark. Spreads are standard deviations of the probability of a right answer."""

    seeds: int
    arms: int = 2
    images: int = 200
    questions_per_image: int = 3
    seed_spread: float = 0.02
    """Of an arm between seeds."""
    image_spread: float = 0.1
    """Of an arm's ability between images, the same for all seeds."""
    scored: str = "binary"
    outlier_factor: float = 1.0
    """Factor of the first arm's seed spread compared with the other arms'."""

    def scores(self, rng: np.random.Generator, trials: int) -> tuple[np.ndarray, np.ndarray]:
        """Sums of scores [trials, arms, seeds, images] and sizes [trials, images]; all arms are equally able."""
        sizes = rng.integers(1, 2 * self.questions_per_image, (trials, self.images))
        ability = rng.uniform(0.3, 0.7, (trials, 1, 1, self.images))
        half_width = self.image_spread * np.sqrt(3)  # the half-width of a uniform distribution
        ability = ability + rng.uniform(-half_width, half_width, (trials, self.arms, 1, self.images))
        shared = rng.normal(0, self.seed_spread, (trials, 1, self.seeds, 1))
        scale = np.where(np.arange(self.arms) == 0, self.outlier_factor, 1.0)[:, None, None] * self.seed_spread
        ability = ability + shared + rng.normal(0, 1, (trials, self.arms, self.seeds, 1)) * scale
        counts, chance = np.broadcast_to(sizes[:, None, None], ability.shape), ability.clip(0, 1)
        if self.scored == "binary":
            return rng.binomial(counts, chance).astype(float), sizes
        max_size = int(sizes.max())
        sums = np.zeros(ability.shape)
        for index in range(max_size):
            sums += VQA[rng.binomial(10, 0.3 * chance)] * (index < counts)
        return sums, sizes


def study_coverage(study: Study, *, trials: int) -> float:
    """Coverage of the interval of a difference of 0 between the first two arms, over seeds and questions."""
    rng = np.random.default_rng(3)
    num_covered = 0
    for start in range(0, trials, 200):
        sums, sizes = study.scores(rng, min(200, trials - start))
        for score, size in zip(sums, sizes, strict=True):
            num_questions = size.sum()
            arm_scores = score.sum(-1) / num_questions
            gaps = score[0] - score[1]
            influences = (gaps - size * (gaps.sum(1, keepdims=True) / num_questions)) / num_questions
            estimate = crossed_estimate(arm_scores[0] - arm_scores[1], arm_scores=arm_scores, influences=influences)
            assert estimate is not None
            num_covered += estimate.p_value() > 0.05
    return num_covered / trials


BENCHMARKS = [
    Benchmark(
        images=images,
        questions_per_image=questions_per_image,
        accuracy=accuracy,
        correlation=correlation,
        scored=scored,
    )
    for scored in ("binary", "vqa")
    for images, questions_per_image in ((100, 3), (300, 1), (300, 5))
    for accuracy, correlation in ((0.1, 0.1), (0.5, 0.3), (0.8, 0.3))
]
STUDIES = [
    Study(seeds=seeds, arms=arms, seed_spread=seed_spread, image_spread=image_spread, scored=scored)
    for arms in (2, 6)
    for seeds in (2, 3, 5, 10)
    for seed_spread in (0.0, 0.01, 0.03, 0.1)
    for image_spread, scored in ((0.02, "binary"), (0.15, "binary"), (0.1, "vqa"))
]


def print_table(trials: int, write_line: Callable[[str], None]) -> None:
    """Coverage on every benchmark and study, as lines."""
    write_line(f"{trials} trials; coverage of 95 % intervals in %")
    for name, measure in (("score", score_coverage), ("difference", difference_coverage)):
        for benchmark in BENCHMARKS if name == "score" else [b for b in BENCHMARKS if b.scored == "binary"]:
            coverage = {method: measure(benchmark, trials=trials, draws=1000, method=method) for method in METHODS}
            columns = "  ".join(f"{method} {100 * value:.1f}" for method, value in coverage.items())
            write_line(f"{name}: {benchmark.label}: {columns}")
    for study in STUDIES:
        spreads = f"spread over seeds {study.seed_spread}, over images {study.image_spread}"
        label = f"{study.arms} arms, {study.seeds} seeds, {spreads}, {study.scored}"
        write_line(f"{label}: {100 * study_coverage(study, trials=trials):.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Coverage of firstsight's intervals in simulations with known true values"
    )
    parser.add_argument("--trials", type=int, default=2000)
    print_table(parser.parse_args().trials, lambda line: print(line, flush=True))  # noqa: T201
