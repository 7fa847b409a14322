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

_NODES = 128
_TEMPER = 1 / 3
_UNLIKE = 0.05
"""A pair whose seeds spread more than the other arms' at this level speaks for itself alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean over seeds and questions, with the three variances of that mean."""

    mean: float
    seeds: float
    """As seen between seeds; holds the rest too."""
    freedom: int
    """Degrees of freedom behind `seeds`."""
    questions: float
    """As seen between questions; holds the rest too. 0 where no answers were kept."""
    rest: float
    """What both hold."""

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return float(np.sqrt(max(self.seeds - self.rest, 0.0) + self.questions))

    def interval(self, level: float = 0.95) -> Interval:
        """The values that are not refuted at 1 - level."""
        half = float(halves(np.array([self.seeds]), self, level=level)[0])
        return self.mean - half, self.mean + half

    def p(self, against: float = 0.0) -> float:
        """Two-sided p-value of `against`; it is below 1 - level exactly where the interval leaves `against` out."""
        off = abs(self.mean - against)
        return float(min(1.0, 2 * _tail(np.array([off]), *_law(np.array([self.seeds]), self))[0]))


def _law(seeds: np.ndarray, found: Estimate) -> tuple[np.ndarray, np.ndarray]:
    """Variances of the mean and their weights, [cases, nodes], for cases of the variance seen between seeds."""
    grid = (np.arange(_NODES) + 0.5) / _NODES
    chi = 2 * gammaincinv(found.freedom / 2, grid**3)  # denser where the seeds' variance would be large
    drawn = np.maximum(found.freedom * seeds[:, None] / chi, 1e-300)
    weights = grid**2 * ((drawn + found.questions) / drawn) ** _TEMPER
    return np.maximum(drawn - found.rest, 0) + found.questions, weights / weights.sum(1, keepdims=True)


def _tail(off: np.ndarray, variances: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Probability of more than `off` [cases] above the mean."""
    sizes = np.sqrt(np.maximum(variances, 1e-300))
    return (ndtr(-off[:, None] / sizes) * weights).sum(1)


def halves(seeds: np.ndarray, found: Estimate, *, level: float) -> np.ndarray:
    """Half-widths of `found`'s interval had the variance between seeds been each of `seeds`, by bisection."""
    law = _law(seeds, found)
    low, high = np.zeros(len(seeds)), np.sqrt(law[0].max(1)) * 40
    for _ in range(60):
        middle = (low + high) / 2
        short = _tail(middle, *law) > (1 - level) / 2
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    return (low + high) / 2


def crossed(
    per_seed: np.ndarray, *, table: np.ndarray | None = None, pulls: np.ndarray | None = None
) -> Estimate | None:
    """The mean of paired differences `per_seed` [seeds]; None for a single seed, which says nothing of the next.

    `table` holds scores of all comparable arms over the same seeds [arms, seeds], the pair among them: their seeds
    tell of the spread too. `pulls` are the influences of each cluster on each seed's difference [seeds, clusters].
    """
    count = len(per_seed)
    if count < 2:
        return None
    variance, freedom = between(per_seed, table)
    questions, rest = within(pulls) if pulls is not None else (0.0, 0.0)
    return Estimate(
        mean=float(per_seed.mean()), seeds=variance / count, freedom=freedom, questions=max(questions, rest), rest=rest
    )


def between(per_seed: np.ndarray, table: np.ndarray | None) -> tuple[float, int]:
    """Seed-to-seed variance of a difference, and its degrees of freedom: the pair's own, or pooled over all arms.

    One pair at two seeds has a single degree of freedom, six arms have five. Pooling takes it that arms spread alike;
    a pair that spreads more than the others by an F test keeps its own variance.
    """
    own, of_own = float(per_seed.var(ddof=1)), len(per_seed) - 1
    variance, freedom = pooled(table) if table is not None else (own, of_own)
    others = freedom - of_own
    if others < 1:
        return own, of_own
    rest = max((freedom * variance - of_own * own) / others, 0.0)
    unlike = own > rest * float(stats.f.isf(_UNLIKE, of_own, others))
    return (own, of_own) if unlike else (variance, freedom)


def pooled(table: np.ndarray) -> tuple[float, int]:
    """Seed-to-seed variance of a difference between two arms, from all arms at once [arms, seeds].

    A score is arm + seed + noise; the noise is what is left after both means are taken out, and a difference holds it
    twice. (0, 0) for fewer than two arms or seeds.
    """
    if table.ndim < 2 or min(table.shape) < 2:
        return 0.0, 0
    rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0, keepdims=True) + table.mean()
    freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
    return float(2 * (rest**2).sum() / freedom), freedom


def within(pulls: np.ndarray) -> tuple[float, float]:
    """Variances of the mean from influences [seeds, clusters]: seen between clusters, and what seeds do not share."""
    seeds, clusters = pulls.shape
    if clusters < 2:
        return 0.0, 0.0
    mean = pulls.mean(0)
    scale = clusters / (clusters - 1)
    questions = scale * float((mean**2).sum())
    if seeds < 2:
        return questions, 0.0
    return questions, scale * float(((pulls - mean) ** 2).sum()) / (seeds * (seeds - 1))
