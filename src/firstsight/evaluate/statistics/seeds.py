"""A difference over seeds and questions, which are crossed: every seed answers the same questions.

d[s, q] = difference + seed[s] + question[q] + rest[s, q]. The variance of the mean has a part that only more seeds
lessen, a part that only more questions lessen, and a rest that both do. Per-seed differences spread by the first and
the rest; per-question differences by the second and the rest; so the variance is their sum less the rest, which would
be counted twice.

The seeds' part comes from two or three numbers, so how uncertain it is matters more than its size. A t interval with
Satterthwaite's degrees of freedom does as if the estimate could be trusted where it happens to be small, and misses
too often. Here the seeds' variance is itself spread over what the seeds seen allow (the fiducial law of a variance,
nu s^2 / chi^2) and the normal law is averaged over it: Student's t where seeds are all that matters, the normal law
where questions are, Behrens and Fisher's law between them. That law errs on the wide side; `_TEMPER` takes back about
half of it. Measured coverage: docs/why/differences.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.special import gammaincinv, ndtr

from firstsight.evaluate.statistics.bootstrap import Interval

_NUM_NODES = 128
_WEIGHT_EXPONENT = 1 / 3
_OUTLIER_LEVEL = 0.05
"""A pair whose seeds spread more than the other arms' at this level speaks for itself alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DifferenceEstimate:
    """A mean over seeds and questions, with the three variances of that mean."""

    mean: float
    seed_variance: float
    """As seen between seeds; holds the rest too."""
    dof: int
    """Degrees of freedom behind `seeds`."""
    question_variance: float
    """As seen between questions; holds the rest too. 0 where no answers were kept."""
    residual_variance: float
    """What both hold."""

    @property
    def standard_error(self) -> float:
        """Standard error of the mean."""
        return float(np.sqrt(max(self.seed_variance - self.residual_variance, 0.0) + self.question_variance))

    def interval(self, level: float = 0.95) -> Interval:
        """The values that are not refuted at 1 - level."""
        half_width = float(half_widths(np.array([self.seed_variance]), self, level=level)[0])
        return self.mean - half_width, self.mean + half_width

    def p_value(self, null_value: float = 0.0) -> float:
        """Two-sided p-value of `against`; it is below 1 - level exactly where the interval leaves `against` out."""
        distance = abs(self.mean - null_value)
        return float(
            min(
                1.0,
                2
                * _tail_probability(
                    np.array([distance]), *_variance_distribution(np.array([self.seed_variance]), self)
                )[0],
            )
        )


def _variance_distribution(seed_variances: np.ndarray, estimate: DifferenceEstimate) -> tuple[np.ndarray, np.ndarray]:
    """Variances of the mean and their weights, [cases, nodes], for cases of the variance seen between seeds."""
    grid = (np.arange(_NUM_NODES) + 0.5) / _NUM_NODES
    chi_squared = 2 * gammaincinv(estimate.dof / 2, grid**3)  # denser where the seeds' variance would be large
    sampled_variances = np.maximum(estimate.dof * seed_variances[:, None] / chi_squared, 1e-300)
    weights = grid**2 * ((sampled_variances + estimate.question_variance) / sampled_variances) ** _WEIGHT_EXPONENT
    return np.maximum(
        sampled_variances - estimate.residual_variance, 0
    ) + estimate.question_variance, weights / weights.sum(1, keepdims=True)


def _tail_probability(distances: np.ndarray, variances: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Probability of more than `off` [cases] above the mean."""
    standard_errors = np.sqrt(np.maximum(variances, 1e-300))
    return (ndtr(-distances[:, None] / standard_errors) * weights).sum(1)


def half_widths(seed_variances: np.ndarray, estimate: DifferenceEstimate, *, level: float) -> np.ndarray:
    """Half-widths of `found`'s interval had the variance between seeds been each of `seeds`, by bisection."""
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
    """The mean of paired differences `per_seed` [seeds]; None for a single seed, which says nothing of the next.

    `table` holds scores of all comparable arms over the same seeds [arms, seeds], the pair among them: their seeds
    tell of the spread too. `pulls` are the influences of each cluster on each seed's difference [seeds, clusters].
    """
    num_seeds = len(seed_differences)
    if num_seeds < 2:
        return None
    variance, dof = estimate_seed_variance(seed_differences, arm_scores)
    question_variance, residual_variance = (
        estimate_question_variance(influences) if influences is not None else (0.0, 0.0)
    )
    return DifferenceEstimate(
        mean=float(seed_differences.mean()),
        seed_variance=variance / num_seeds,
        dof=dof,
        question_variance=max(question_variance, residual_variance),
        residual_variance=residual_variance,
    )


def estimate_seed_variance(seed_differences: np.ndarray, arm_scores: np.ndarray | None) -> tuple[float, int]:
    """Seed-to-seed variance of a difference, and its degrees of freedom: the pair's own, or pooled over all arms.

    One pair at two seeds has a single degree of freedom, six arms have five. Pooling takes it that arms spread alike;
    a pair that spreads more than the others by an F test keeps its own variance.
    """
    pair_variance, pair_dof = float(seed_differences.var(ddof=1)), len(seed_differences) - 1
    variance, dof = pool_seed_variance(arm_scores) if arm_scores is not None else (pair_variance, pair_dof)
    other_dof = dof - pair_dof
    if other_dof < 1:
        return pair_variance, pair_dof
    other_variance = max((dof * variance - pair_dof * pair_variance) / other_dof, 0.0)
    is_outlier = pair_variance > other_variance * float(stats.f.isf(_OUTLIER_LEVEL, pair_dof, other_dof))
    return (pair_variance, pair_dof) if is_outlier else (variance, dof)


def pool_seed_variance(arm_scores: np.ndarray) -> tuple[float, int]:
    """Seed-to-seed variance of a difference between two arms, from all arms at once [arms, seeds].

    A score is arm + seed + noise; the noise is what is left after both means are taken out, and a difference holds it
    twice. (0, 0) for fewer than two arms or seeds.
    """
    if arm_scores.ndim < 2 or min(arm_scores.shape) < 2:
        return 0.0, 0
    residuals = (
        arm_scores - arm_scores.mean(axis=1, keepdims=True) - arm_scores.mean(axis=0, keepdims=True) + arm_scores.mean()
    )
    dof = (arm_scores.shape[0] - 1) * (arm_scores.shape[1] - 1)
    return float(2 * (residuals**2).sum() / dof), dof


def estimate_question_variance(influences: np.ndarray) -> tuple[float, float]:
    """Variances of the mean from influences [seeds, clusters]: seen between clusters, and what seeds do not share."""
    num_seeds, num_clusters = influences.shape
    if num_clusters < 2:
        return 0.0, 0.0
    mean = influences.mean(0)
    scale = num_clusters / (num_clusters - 1)
    question_variance = scale * float((mean**2).sum())
    if num_seeds < 2:
        return question_variance, 0.0
    return question_variance, scale * float(((influences - mean) ** 2).sum()) / (num_seeds * (num_seeds - 1))
