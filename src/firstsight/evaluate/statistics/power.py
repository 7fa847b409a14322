"""Statistical power of a difference between two arms, and the seeds or questions that a smaller effect needs.

Power is the probability that the interval of `differences.DifferenceEstimate` excludes 0, averaged over the sampling
distribution of the seeds' variance. Without question variance it equals the power of the noncentral t test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import gammaincinv, ndtr

from firstsight.evaluate.statistics.differences import DifferenceEstimate, half_widths

_NUM_NODES = 96
_MAX_SEEDS = 512
_MAX_QUESTION_FACTOR = 1e6
"""Largest multiple of the present questions that is tried; then only the seeds' variance remains."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VarianceComponents:
    """The variance components of a difference between two arms."""

    seed_variance: float
    """Variance of the true difference between seeds, for infinitely many questions."""
    question_variance: float
    """Variance of the mean over the present questions, for infinitely many seeds."""
    residual_variance: float
    """Variance of one seed's mean over the present questions: the interaction of seeds and questions."""
    num_arms: int = 2
    """Number of arms whose seed variance is pooled."""


def expected_estimate(
    components: VarianceComponents, *, num_seeds: int, question_factor: float = 1.0
) -> DifferenceEstimate:
    """The expected estimate for `num_seeds` seeds and `question_factor` times the present questions, with mean 0."""
    residual_variance = components.residual_variance / question_factor / num_seeds
    return DifferenceEstimate(
        mean=0.0,
        seed_variance=components.seed_variance / num_seeds + residual_variance,
        dof=max(components.num_arms - 1, 1) * (num_seeds - 1),
        question_variance=components.question_variance / question_factor + residual_variance,
        residual_variance=residual_variance,
    )


def detection_power(
    effect: float, *, components: VarianceComponents, num_seeds: int, question_factor: float = 1.0, level: float = 0.95
) -> float:
    """The probability that the interval of a true difference `effect` is on the effect's side of 0; 0 for one seed."""
    if num_seeds < 2:
        return 0.0
    estimate = expected_estimate(components, num_seeds=num_seeds, question_factor=question_factor)
    return _detection_probability(abs(effect), estimate, _half_width_nodes(estimate, level))


def minimum_detectable_effect(
    components: VarianceComponents,
    *,
    num_seeds: int,
    question_factor: float = 1.0,
    target_power: float = 0.8,
    level: float = 0.95,
) -> float | None:
    """The smallest effect with power `target_power`; None for a single seed, which decides nothing."""
    if num_seeds < 2:
        return None
    estimate = expected_estimate(components, num_seeds=num_seeds, question_factor=question_factor)
    if estimate.standard_error == 0:
        return 0.0
    nodes = _half_width_nodes(estimate, level)
    max_effect = float(nodes.max()) + 10 * estimate.standard_error
    return _find_root(lambda effect: _detection_probability(effect, estimate, nodes) - target_power, 0.0, max_effect)


def seeds_needed(
    effect: float, *, components: VarianceComponents, target_power: float = 0.8, question_factor: float = 1.0
) -> int | None:
    """The fewest seeds with power `target_power`; None where the questions' variance alone hides the effect."""

    def is_sufficient(num_seeds: int) -> bool:
        power = detection_power(effect, components=components, num_seeds=num_seeds, question_factor=question_factor)
        return power >= target_power

    low, high = 1, 2
    while not is_sufficient(high):
        low, high = high, 2 * high
        if high > _MAX_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_sufficient(middle) else (middle, high)
    return high


def questions_needed(
    effect: float, *, components: VarianceComponents, num_seeds: int, target_power: float = 0.8
) -> float | None:
    """The multiple of the present questions with power `target_power`; None where no number of questions has it."""

    def power_gap(log_factor: float) -> float:
        ratio = float(np.exp(log_factor))
        return detection_power(effect, components=components, num_seeds=num_seeds, question_factor=ratio) - target_power

    max_log_factor = float(np.log(_MAX_QUESTION_FACTOR))
    if power_gap(max_log_factor) < 0:
        return None
    if power_gap(-max_log_factor) >= 0:
        return float(np.exp(-max_log_factor))
    return float(np.exp(_find_root(power_gap, -max_log_factor, max_log_factor)))


def _find_root(function: Callable[[float], float], low: float, high: float) -> float:
    root = brentq(function, low, high, xtol=1e-6, full_output=False)
    assert isinstance(root, float)
    return root


def _half_width_nodes(estimate: DifferenceEstimate, level: float) -> np.ndarray:
    """Half-widths of the interval at equally likely measured variances between seeds, [nodes]."""
    probabilities = (np.arange(_NUM_NODES) + 0.5) / _NUM_NODES
    chi_squared = 2 * gammaincinv(estimate.dof / 2, probabilities)
    return half_widths(estimate.seed_variance * chi_squared / estimate.dof, estimate, level=level)


def _detection_probability(effect: float, estimate: DifferenceEstimate, nodes: np.ndarray) -> float:
    """The probability that the measured mean exceeds the half-width, averaged over `nodes`."""
    standard_error = max(estimate.standard_error, 1e-300)
    return float(ndtr((effect - nodes) / standard_error).mean())
