"""Differences between two arms over seeds and questions, and Holm's correction for several differences.

Seeds and questions are crossed: every seed answers the same questions. The model is
d[s, q] = difference + seed[s] + question[q] + residual[s, q]. More seeds reduce the seeds' part of the mean's variance,
more questions the questions' part, and both the residual. The variance of per-seed differences contains the seeds'
part and the residual, that of per-question differences the questions' part and the residual. The mean's variance is
the sum of both minus the residual, which would be counted twice.

The seeds' variance comes from two or three numbers, so its uncertainty matters more than its size. A t interval with
Satterthwaite's degrees of freedom trusts an estimate that happens to be small, and covers too rarely. Here the seeds'
variance has its fiducial distribution, nu s^2 / chi^2, and the normal distribution of the mean is averaged over it.
This is Student's t where the questions' variance is 0, the normal distribution where the seeds' variance is 0, and the
Behrens-Fisher distribution in between. That distribution is too wide; `_WEIGHT_EXPONENT` undoes about half of that.
Measured coverage: docs/why/differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.special import fdtri, gammaincinv, ndtr

from firstsight.evaluate.statistics.bootstrap import Interval

FAMILY_ALPHA = 0.05
"""The family-wise error rate: the probability of any false difference among several comparisons."""
_NUM_NODES = 128
_GRID = (np.arange(_NUM_NODES) + 0.5) / _NUM_NODES
_WEIGHT_EXPONENT = 1 / 3
_OUTLIER_LEVEL = 0.05
"""Level of the F tests by which arms, or a pair of them, that vary more over seeds than the others are not pooled."""


class Thresholds(NamedTuple):
    """What a difference is tested against. Two equal numbers are one two-sided test.

    Otherwise `smallest` lies beyond `margin`: the difference is decided beyond `margin` and, the other way, short of
    `smallest`. A true difference makes at most one of these two one-sided tests decide wrongly, so each has half the
    error rate, like a side of the two-sided test.
    """

    margin: float
    smallest: float

    def decide(self, means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The distances of means from the threshold that they contradict more, and the signs of these distances."""
        direction = -1.0 if self.smallest < self.margin else 1.0
        beyond, short = direction * (means - self.margin), direction * (self.smallest - means)
        return np.maximum(beyond, short), direction * np.where(beyond >= short, 1, -1)


NO_DIFFERENCE = Thresholds(0.0, 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class DifferenceEstimate:
    """A mean over seeds and questions, with three variances of that mean."""

    mean: float
    seed_variance: float
    """Measured between seeds; contains the residual variance."""
    dof: int
    """Degrees of freedom of `seed_variance`."""
    question_variance: float
    """Measured between questions; contains the residual variance. 0 without stored answers."""
    residual_variance: float
    """The part that both contain."""

    @property
    def standard_error(self) -> float:
        """The standard error of the mean."""
        return float(np.sqrt(max(self.seed_variance - self.residual_variance, 0.0) + self.question_variance))

    def interval(self, level: float = 0.95) -> Interval:
        """The confidence interval of the difference."""
        half_width = float(half_widths(np.array([self.seed_variance]), self, level=level)[0])
        return self.mean - half_width, self.mean + half_width

    def p_value(self, thresholds: Thresholds = NO_DIFFERENCE) -> float:
        """The two-sided p-value of the threshold that the mean contradicts more.

        Below 1 - level exactly where the interval excludes that threshold.
        """
        return float(self.p_values(thresholds.decide(np.array([self.mean]))[0])[0])

    def p_values(self, distances: np.ndarray) -> np.ndarray:
        """The two-sided p-values of means that are `distances` [cases] away from the null value."""
        distribution = _variance_distribution(np.array([self.seed_variance]), self)
        return np.minimum(1.0, 2 * _tail_probability(distances, *distribution))


def _variance_distribution(seed_variances: np.ndarray, estimate: DifferenceEstimate) -> tuple[np.ndarray, np.ndarray]:
    """Variances of the mean and their weights, [cases, nodes], for each measured variance between seeds [cases]."""
    sampled = np.maximum(estimate.dof * seed_variances[:, None] / _chi_squared_nodes(estimate.dof), 1e-300)
    weights = _GRID**2 * ((sampled + estimate.question_variance) / sampled) ** _WEIGHT_EXPONENT
    variances = np.maximum(sampled - estimate.residual_variance, 0) + estimate.question_variance
    return variances, weights / weights.sum(1, keepdims=True)


@cache
def _chi_squared_nodes(dof: int) -> np.ndarray:
    """Quantiles of chi squared at the levels of `_GRID` cubed: denser where the seeds' variance is large."""
    return 2 * gammaincinv(dof / 2, _GRID**3)


def _tail_probability(distances: np.ndarray, variances: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The probability of a value more than `distances` [cases] above the mean."""
    standard_errors = np.sqrt(np.maximum(variances, 1e-300))
    return (ndtr(-distances[:, None] / standard_errors) * weights).sum(1)


def half_widths(seed_variances: np.ndarray, estimate: DifferenceEstimate, *, level: float) -> np.ndarray:
    """Half-widths of the interval of `estimate` for each measured variance between seeds, by bisection, [cases]."""
    distribution = _variance_distribution(seed_variances, estimate)
    low, high = np.zeros(len(seed_variances)), np.sqrt(distribution[0].max(1)) * 40
    for _ in range(60):
        middle = (low + high) / 2
        is_too_narrow = _tail_probability(middle, *distribution) > (1 - level) / 2
        low, high = np.where(is_too_narrow, middle, low), np.where(is_too_narrow, high, middle)
    return (low + high) / 2


def crossed_estimate(
    seed_differences: np.ndarray, *, arm_scores: np.ndarray | None = None, influences: np.ndarray | None = None
) -> DifferenceEstimate | None:
    """The estimate from paired differences per seed, [seeds]; None for a single seed, which has no variance.

    `arm_scores` are scores of all comparable arms at the same seeds [arms, seeds], the pair first, to pool the seed
    variance. `influences` are the influences of each cluster on each seed's difference [seeds, clusters].
    """
    num_seeds = len(seed_differences)
    if num_seeds < 2:
        return None
    variance, dof = estimate_seed_variance(seed_differences, arm_scores)
    question, residual = estimate_question_variance(influences) if influences is not None else (0.0, 0.0)
    return DifferenceEstimate(
        mean=float(seed_differences.mean()),
        seed_variance=variance / num_seeds,
        dof=dof,
        question_variance=max(question, residual),
        residual_variance=residual,
    )


def estimate_seed_variance(seed_differences: np.ndarray, arm_scores: np.ndarray | None) -> tuple[float, int]:
    """The variance of a difference over seeds, and its degrees of freedom: the pair's own, or pooled over the arms.

    One pair at two seeds has a single degree of freedom, six arms have five. Pooling assumes equal variances: arms
    that vary more than the others are left out, and a pair with one of them, or that itself varies more than the
    others, keeps its own variance. `arm_scores` [arms, seeds] begins with the pair.
    """
    pair_variance, pair_dof = float(seed_differences.var(ddof=1)), len(seed_differences) - 1
    regular = regular_arms(arm_scores) if arm_scores is not None else []
    if arm_scores is None or regular[:2] != [0, 1]:
        return pair_variance, pair_dof
    variance, dof = pool_seed_variance(arm_scores[regular])
    rest_dof = dof - pair_dof
    if rest_dof < 1:
        return pair_variance, pair_dof
    rest_variance = max((dof * variance - pair_dof * pair_variance) / rest_dof, 0.0)
    is_outlier = pair_variance > rest_variance * fdtri(pair_dof, rest_dof, 1 - _OUTLIER_LEVEL)
    return (pair_variance, pair_dof) if is_outlier else (variance, dof)


def regular_arms(arm_scores: np.ndarray) -> list[int]:
    """The indices of the arms that do not vary more over seeds than the others, from [arms, seeds].

    One arm at a time is left out, while an F test of the residuals that leave with it against those that stay is
    significant, at a level divided by the number of arms (Cochran 1941 is the test for equal groups without a common
    effect of the seeds). Two arms always stay.
    """
    regular, per_arm = list(range(len(arm_scores))), arm_scores.shape[1] - 1
    while len(regular) > 2 and per_arm:
        squares = (_residuals(arm_scores[regular]) ** 2).sum(axis=1)
        largest = int(squares.argmax())
        removed = squares[largest] * len(regular) / (len(regular) - 1)  # its own, and its part in the seeds' means
        rest, dof = max(squares.sum() - removed, 0.0), (len(regular) - 2) * per_arm
        limit = fdtri(per_arm, dof, 1 - _OUTLIER_LEVEL / len(arm_scores)) * rest / dof
        if removed / per_arm <= limit:
            break
        del regular[largest]
    return regular


def _residuals(arm_scores: np.ndarray) -> np.ndarray:
    """Residuals of score = arm + seed + noise, [arms, seeds]."""
    arm_means, seed_means = arm_scores.mean(axis=1, keepdims=True), arm_scores.mean(axis=0, keepdims=True)
    return arm_scores - arm_means - seed_means + arm_scores.mean()


def pool_seed_variance(arm_scores: np.ndarray) -> tuple[float, int]:
    """The variance between seeds of a difference between two arms, and its degrees of freedom, from [arms, seeds].

    A score is arm + seed + noise (two-way analysis of variance); a difference contains the noise twice. (0, 0) for
    fewer than two arms or seeds.
    """
    if arm_scores.ndim < 2 or min(arm_scores.shape) < 2:
        return 0.0, 0
    dof = (arm_scores.shape[0] - 1) * (arm_scores.shape[1] - 1)
    return float(2 * (_residuals(arm_scores) ** 2).sum() / dof), dof


def estimate_question_variance(influences: np.ndarray) -> tuple[float, float]:
    """Question and residual variance of the mean, from influences [seeds, clusters]; 0 for a single cluster."""
    num_seeds, num_clusters = influences.shape
    if num_clusters < 2:
        return 0.0, 0.0
    mean = influences.mean(0)
    scale = num_clusters / (num_clusters - 1)
    question_variance = scale * float((mean**2).sum())
    if num_seeds < 2:
        return question_variance, 0.0
    return question_variance, scale * float(((influences - mean) ** 2).sum()) / (num_seeds * (num_seeds - 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class HolmDecision:
    """The result of Holm's procedure for one comparison."""

    adjusted: float
    """The adjusted p-value: the smallest family-wise error rate at which the comparison is significant."""
    level: float
    """The level of the interval that excludes the null value exactly where the comparison is significant."""


def holm(p_values: Sequence[float], *, num_comparisons: int = 0, alpha: float = FAMILY_ALPHA) -> list[HolmDecision]:
    """Decisions for p-values, in their order (Holm 1979, A simple sequentially rejective multiple test procedure).

    The smallest p is compared with alpha / m, the next with alpha / (m - 1), until one fails; that one and all larger
    ones are not significant, and the threshold at which it failed is the level of their intervals. `num_comparisons` is
    m where the comparisons were selected from more by their results.
    """
    decisions: dict[int, HolmDecision] = {}
    adjusted, threshold, is_stopped = 0.0, alpha, False
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        num_remaining = max(len(p_values), num_comparisons) - rank
        adjusted = max(adjusted, min(1.0, num_remaining * p_values[index]))
        threshold = threshold if is_stopped else alpha / num_remaining
        is_stopped = is_stopped or p_values[index] > threshold
        decisions[index] = HolmDecision(adjusted=adjusted, level=1 - threshold)
    return [decisions[index] for index in range(len(p_values))]
