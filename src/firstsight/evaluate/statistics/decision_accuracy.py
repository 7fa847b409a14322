"""Decision accuracy: the share of pairs of arms whose order at a small size is that at a large one.

Source: Magnusson et al. 2025, DataDecide (arXiv 2504.11393). The order is that of means over seeds. A tie at either
size counts one half, as a coin would decide it, so that the share is (1 + Kendall's tau) / 2.

Its interval is over seeds and questions, by draws of the means that the measured ones may stand for: the variance of an
arm's mean is that of `noise`, half of the variance of a difference in `differences`. The part from the seeds has its
fiducial distribution nu s^2 / chi^2, pooled over the arms. The part from the questions has the covariance of their
influences on all arms of both sizes, which answer the same questions. A pair that the measurement cannot order is in
either order in such draws, so that their shares tend to one half; the interval is extended to the measured share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from firstsight.evaluate.statistics.bootstrap import Interval
from firstsight.evaluate.statistics.differences import FAMILY_ALPHA, crossed_estimate, holm, pool_seed_variance
from firstsight.evaluate.statistics.noise import paired_question_variances

NUM_DRAWS = 4_000
_DECIMALS = 9
"""Of stored scores: a smaller difference is rounding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SizeScores:
    """Scores of the arms at one size."""

    scores: np.ndarray
    """[arms, seeds]."""
    influences: np.ndarray | None
    """Of each cluster of questions on each score, [arms, seeds, clusters]; clusters are the same at all sizes."""

    @property
    def means(self) -> np.ndarray:
        """Means over the seeds, [arms]."""
        return self.scores.mean(1)


@dataclass(frozen=True, kw_only=True, slots=True)
class OrderedShare:
    """A share of pairs in the same order at two sizes."""

    num_pairs: int
    num_alike: float
    """A tie counts one half."""
    interval: Interval | None
    """95 %, over seeds (as far as there are two) and questions; None without both, and without pairs."""

    @property
    def share(self) -> float | None:
        """The decision accuracy; None without pairs."""
        return self.num_alike / self.num_pairs if self.num_pairs else None


def pair_differences(means: np.ndarray) -> np.ndarray:
    """Differences of each arm to each later one [..., pairs] of means [..., arms]."""
    first, second = np.triu_indices(means.shape[-1], k=1)
    return np.round(means[..., first] - means[..., second], _DECIMALS)


def pair_agreement(small: np.ndarray, large: np.ndarray) -> np.ndarray:
    """1 for a pair in the same order, 0 for the opposite and 1/2 for a tie [..., pairs], from means [..., arms]."""
    return (1 + np.sign(pair_differences(small)) * np.sign(pair_differences(large))) / 2


def decided_pairs(size: SizeScores) -> np.ndarray:
    """Whether the order of each pair is significant [pairs], corrected by Holm for all pairs; False for one seed."""
    first, second = np.triu_indices(len(size.scores), k=1)
    estimates = [
        crossed_estimate(
            size.scores[a] - size.scores[b],
            arm_scores=size.scores,
            influences=None if size.influences is None else size.influences[a] - size.influences[b],
        )
        for a, b in zip(first, second, strict=True)
    ]
    p_values = [1.0 if estimate is None else estimate.p_value() for estimate in estimates]
    return np.array([decision.adjusted <= FAMILY_ALPHA for decision in holm(p_values)], dtype=bool)


def draw_means(sizes: Sequence[SizeScores], *, num_draws: int = NUM_DRAWS, seed: int = 20250411) -> list[np.ndarray]:
    """Means that the measured ones may stand for, [draws, arms] for each size."""
    rng = np.random.default_rng(seed)
    ends = np.cumsum([len(size.scores) for size in sizes])[:-1]
    question_errors = np.split(_question_errors(sizes, rng, num_draws), ends, axis=1)
    draws: list[np.ndarray] = []
    for size, errors in zip(sizes, question_errors, strict=True):
        variance, dof = pool_seed_variance(size.scores)
        residual = 0.0 if size.influences is None else paired_question_variances(size.influences)[1]
        drawn = variance / 2 / size.scores.shape[1] * dof / rng.chisquare(max(dof, 1), num_draws)
        deviations = np.sqrt(np.maximum(drawn - residual, 0.0))
        draws.append(size.means + errors + deviations[:, None] * rng.standard_normal((num_draws, len(size.scores))))
    return draws


def _question_errors(sizes: Sequence[SizeScores], rng: np.random.Generator, num_draws: int) -> np.ndarray:
    """Errors by the draw of the questions, common to all sizes, [draws, arms of all sizes]; 0 without answers."""
    influences = [size.influences.mean(1) for size in sizes if size.influences is not None]
    num_arms = sum(len(size.scores) for size in sizes)
    if len(influences) < len(sizes) or influences[0].shape[1] < 2:
        return np.zeros((num_draws, num_arms))
    stacked = np.concatenate(influences)
    num_clusters = stacked.shape[1]
    covariance = num_clusters / (num_clusters - 1) * stacked @ stacked.T
    return rng.multivariate_normal(np.zeros(num_arms), covariance, num_draws, method="eigh")


def ordered_share(small: SizeScores, large: SizeScores, *, draws: Sequence[np.ndarray], of: np.ndarray) -> OrderedShare:
    """The decision accuracy over the pairs `of` [pairs] (booleans), with `draws` of the means of both sizes."""
    alike = pair_agreement(small.means, large.means)[of]
    num_pairs, num_alike = int(of.sum()), float(alike.sum())
    has_noise = any(size.influences is not None or size.scores.shape[1] > 1 for size in (small, large))
    if not num_pairs or not has_noise:
        return OrderedShare(num_pairs=num_pairs, num_alike=num_alike, interval=None)
    shares = pair_agreement(*draws)[:, of].mean(1)
    low, high = np.quantile(shares, [0.025, 0.975])
    measured = num_alike / num_pairs
    return OrderedShare(
        num_pairs=num_pairs, num_alike=num_alike, interval=(min(float(low), measured), max(float(high), measured))
    )
