"""How large a difference would be seen, and how many seeds or questions it would take to see a smaller one.

The power is that of the very interval that decides (`seeds.Estimate`): the chance that it leaves 0 out, averaged over
what the seeds' variance may look like. Where seeds are all that matters it is the noncentral t test's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.optimize import brentq
from scipy.special import gammaincinv

from firstsight.evaluate.statistics.seeds import DifferenceEstimate, half_widths

_NUM_NODES = 96
_MAX_SEEDS = 512
_MAX_QUESTION_FACTOR = 1e6
"""Times the present questions; beyond it only the seeds' own spread is left."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VarianceComponents:
    """Where the variance of a difference between two arms comes from."""

    seed_variance: float
    """Of the true difference from seed to seed, however many questions are asked."""
    question_variance: float
    """Of the mean over the present questions, however many seeds are run."""
    residual_variance: float
    """Of one seed's mean over the present questions: what another seed would answer otherwise."""
    num_arms: int = 2
    """How many arms' seeds tell of the spread together."""


def expected_estimate(
    components: VarianceComponents, *, num_seeds: int, question_factor: float = 1.0
) -> DifferenceEstimate:
    """The estimate that so many seeds and `times` the present questions would give on average, about a mean of 0."""
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
    """The chance that a true difference of `effect` is seen on its right side; 0 with a single seed."""
    if num_seeds < 2:
        return 0.0
    estimate = expected_estimate(components, num_seeds=num_seeds, question_factor=question_factor)
    return float(_detection_probability(np.array([abs(effect)]), estimate, _half_width_nodes(estimate, level))[0])


def minimum_detectable_effect(
    components: VarianceComponents,
    *,
    num_seeds: int,
    question_factor: float = 1.0,
    target_power: float = 0.8,
    level: float = 0.95,
) -> float | None:
    """The smallest effect that is seen with the chance `wanted`; None with a single seed, which decides nothing."""
    if num_seeds < 2:
        return None
    estimate = expected_estimate(components, num_seeds=num_seeds, question_factor=question_factor)
    half_widths = _half_width_nodes(estimate, level)
    if estimate.standard_error == 0:
        return 0.0
    high = float(half_widths.max()) + 10 * estimate.standard_error
    return _find_root(
        lambda effect: float(_detection_probability(np.array([effect]), estimate, half_widths)[0]) - target_power,
        0.0,
        high,
    )


def seeds_needed(
    effect: float, *, components: VarianceComponents, target_power: float = 0.8, question_factor: float = 1.0
) -> int | None:
    """The fewest seeds that show `effect` at these questions; None where the questions' own spread hides it."""

    def is_sufficient(num_seeds: int) -> bool:
        return (
            detection_power(effect, components=components, num_seeds=num_seeds, question_factor=question_factor)
            >= target_power
        )

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
    """How many times the present questions show `effect` at these seeds; None where no number of them will do."""

    def power_gap(log_factor: float) -> float:
        return (
            detection_power(
                effect, components=components, num_seeds=num_seeds, question_factor=float(np.exp(log_factor))
            )
            - target_power
        )

    max_log_factor = float(np.log(_MAX_QUESTION_FACTOR))
    if power_gap(max_log_factor) < 0:
        return None
    return (
        float(np.exp(_find_root(power_gap, -max_log_factor, max_log_factor)))
        if power_gap(-max_log_factor) < 0
        else float(np.exp(-max_log_factor))
    )


def _find_root(function: Callable[[float], float], low: float, high: float) -> float:
    root = brentq(function, low, high, xtol=1e-6, full_output=False)
    assert isinstance(root, float)
    return root


def _half_width_nodes(estimate: DifferenceEstimate, level: float) -> np.ndarray:
    """Half-widths that the interval may have, for equally likely variances between the seeds."""
    probabilities = (np.arange(_NUM_NODES) + 0.5) / _NUM_NODES
    chi_squared = 2 * gammaincinv(estimate.dof / 2, probabilities)
    return half_widths(estimate.seed_variance * chi_squared / estimate.dof, estimate, level=level)


def _detection_probability(effects: np.ndarray, estimate: DifferenceEstimate, half_widths: np.ndarray) -> np.ndarray:
    """Probability that the mean lies above the half-width, [effects]."""
    standard_error = max(estimate.standard_error, 1e-300)
    return stats.norm.sf((half_widths[None, :] - effects[:, None]) / standard_error).mean(1)
