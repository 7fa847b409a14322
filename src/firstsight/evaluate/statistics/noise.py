"""Signal and noise of a score over the arms of a study: what of the spread between arms is not explained by chance.

A score is y[arm, seed] = arm + seed + arm x seed + questions. The spread of the arms' means over the seeds contains
noise in two parts: the interaction of arms and seeds, and the interaction of arms and questions. What a seed or a
question does to all arms alike moves no difference and is no noise here. The noise is that of
`differences.DifferenceEstimate`, averaged over all pairs of arms and divided by the square root of 2, as an arm's mean
has half of the variance of a difference between two.

Signal and ratio are after Heineman et al. 2025, Signal and Noise (arXiv 2508.13144), who relate the spread of models to
the spread of one model over its last checkpoints. Here the spread is a standard deviation in shares of 1, from which
the noise is subtracted, and the noise is that of seeds and questions. The share of pairs in the right order is the
decision accuracy of DataDecide (Magnusson et al. 2025, arXiv 2504.11393), computed from the ratio.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import fdtrc

from firstsight.evaluate.statistics.differences import FAMILY_ALPHA, pool_seed_variance

DECIDING_SHARE = 0.8
"""The share of pairs in the right order from which a task decides: what DataDecide measured for its 150M models."""

_MIN_VARIANCE = 1e-18
"""Scores are stored with nine decimals: a smaller variance is rounding."""

Verdict = Literal["decides", "weak", "noise only", "unknown"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SignalAndNoise:
    """The spread of arms and the noise of their scores as standard deviations, in shares of 1; None is unknown."""

    num_arms: int
    num_seeds: int
    arm_range: float | None
    """The largest mean of an arm over the seeds minus the smallest; contains noise. None for a single arm."""
    arm_deviation: float | None
    """Between the arms' means over the seeds; contains noise. None for a single arm."""
    seed_deviation: float | None
    """Between the seeds of one arm, pooled over the arms. None for a single seed."""
    paired_seed_deviation: float | None
    """Between the seeds of a difference of two arms. None for a single seed or arm."""
    question_error: float | None
    """Over the questions, of one arm's score at one seed. None without answers to two images or more."""
    paired_question_error: float | None
    """Over the questions, of a difference of two arms' means over the seeds."""
    noise: float | None
    """Of an arm's mean over the seeds, as far as it differs from arm to arm."""
    checkpoint_deviation: float | None = None
    """Between the last checkpoints of one run, pooled over the runs; no part of `noise`. None for fewer than two."""

    @property
    def signal(self) -> float | None:
        """Between the arms at infinitely many seeds and questions: the spread less the noise, at least 0."""
        if self.arm_deviation is None or self.noise is None:
            return None
        return math.sqrt(max(self.arm_deviation**2 - self.noise**2, 0.0))

    @property
    def ratio(self) -> float | None:
        """Signal to noise, infinite without noise; 0 without signal."""
        if self.signal is None or self.noise is None:
            return None
        if self.noise == 0:
            return math.inf if self.signal > 0 else 0.0
        return self.signal / self.noise

    @property
    def ordered_share(self) -> float | None:
        """The expected share of pairs of arms that are in the order of infinitely many seeds and questions.

        Of a true difference and its error, both normally distributed, the signs of truth and measurement agree with
        probability 1/2 + arctan(ratio) / pi.
        """
        return None if self.ratio is None else 0.5 + math.atan(self.ratio) / math.pi

    @property
    def p_value(self) -> float | None:
        """Of an F test that all arms are equal; conservative, as the questions' variance counts as few seeds'."""
        if self.arm_deviation is None or self.noise is None:
            return None
        if self.noise == 0:
            return 0.0 if self.arm_deviation > 0 else 1.0
        dof = self.num_arms - 1, (self.num_arms - 1) * (self.num_seeds - 1)
        return float(fdtrc(*dof, (self.arm_deviation / self.noise) ** 2))

    @property
    def verdict(self) -> Verdict:
        """noise only: equal arms would explain the spread (p above 0.05). decides: they do not, and at least
        `DECIDING_SHARE` of the pairs are expected to be in the right order. weak: fewer are."""
        if self.p_value is None or self.ordered_share is None:
            return "unknown"
        if self.p_value > FAMILY_ALPHA:
            return "noise only"
        return "decides" if self.ordered_share >= DECIDING_SHARE else "weak"


def signal_and_noise(
    scores: np.ndarray, influences: np.ndarray | None = None, last_scores: np.ndarray | None = None
) -> SignalAndNoise:
    """Signal and noise of a score from [arms, seeds], of which none is missing.

    `influences` are those of each cluster of questions on each score [arms, seeds, clusters]
    (`question_influences`); None where there are no answers. `last_scores` are those of the last checkpoints of each
    run, [runs, checkpoints].
    """
    num_arms, num_seeds = scores.shape
    has_arms, has_seeds = num_arms > 1, num_seeds > 1
    has_questions = influences is not None and influences.shape[-1] > 1
    means = scores.mean(1)
    difference_variance, _ = pool_seed_variance(scores)
    score_variance = shared_variance = residual_variance = 0.0
    if influences is not None and has_questions:
        scale = influences.shape[-1] / (influences.shape[-1] - 1)
        score_variance = scale * float((influences**2).sum(-1).mean())
        if has_arms:
            shared_variance, residual_variance = paired_question_variances(influences)
    seed_variance = max(difference_variance / 2 / num_seeds - residual_variance, 0.0)
    question_variance = max(shared_variance, residual_variance)
    is_known = has_arms and has_seeds and has_questions
    return SignalAndNoise(
        num_arms=num_arms,
        num_seeds=num_seeds,
        arm_range=float(np.ptp(means)) if has_arms else None,
        arm_deviation=_zero_rounding(float(means.var(ddof=1))) if has_arms else None,
        seed_deviation=_zero_rounding(float(scores.var(axis=1, ddof=1).mean())) if has_seeds else None,
        paired_seed_deviation=_zero_rounding(difference_variance) if has_arms and has_seeds else None,
        question_error=_zero_rounding(score_variance) if has_questions else None,
        paired_question_error=_zero_rounding(2 * question_variance) if has_questions and has_arms else None,
        noise=_zero_rounding(seed_variance + question_variance) if is_known else None,
        checkpoint_deviation=None if last_scores is None else _zero_rounding(float(last_scores.var(1, ddof=1).mean())),
    )


def _zero_rounding(variance: float) -> float:
    """The standard deviation; 0 where the variance is only that of rounding."""
    return math.sqrt(variance) if variance > _MIN_VARIANCE else 0.0


def paired_question_variances(influences: np.ndarray) -> tuple[float, float]:
    """Question and residual variance of an arm's mean over the seeds, as `differences.estimate_question_variance`
    estimates them for a difference: half of its mean over all pairs of arms; 0 for a single cluster.

    `influences` are those of each cluster of questions on each score [arms, seeds, clusters]."""
    num_seeds, num_clusters = influences.shape[1:]
    if num_clusters < 2:
        return 0.0, 0.0
    scale = num_clusters / (num_clusters - 1)
    means = influences.mean(1)
    shared_variance = scale * float(means.var(axis=0, ddof=1).sum())
    if num_seeds < 2:
        return shared_variance, 0.0
    residuals = influences - means[:, None]
    residual_variance = scale * float(residuals.var(axis=0, ddof=1).sum()) / (num_seeds * (num_seeds - 1))
    return shared_variance, residual_variance


def question_influences(
    scores: np.ndarray, *, clusters: Sequence[Hashable], tasks: Sequence[Hashable], splits: Sequence[Hashable]
) -> np.ndarray:
    """`bootstrap.ClusteredScores.influence` of many runs that answered the same questions, [runs, clusters].

    `scores` is [runs, questions]; clusters, tasks and splits are those of each question.
    """
    cells: dict[tuple[Hashable, Hashable], list[int]] = {}
    for index, cell in enumerate(zip(tasks, splits, strict=True)):
        cells.setdefault(cell, []).append(index)
    cell_tasks = [task for task, _ in cells]
    weighted = np.empty_like(scores)
    for (task, _), indices in cells.items():
        weight = 1 / (len(set(cell_tasks)) * cell_tasks.count(task) * len(indices))
        weighted[:, indices] = weight * (scores[:, indices] - scores[:, indices].mean(1, keepdims=True))
    codes: dict[Hashable, int] = {}
    cluster_codes = np.array([codes.setdefault(cluster, len(codes)) for cluster in clusters])
    order = np.argsort(cluster_codes, kind="stable")
    starts = np.searchsorted(cluster_codes[order], np.arange(len(codes)))
    return np.add.reduceat(weighted[:, order], starts, axis=1)
