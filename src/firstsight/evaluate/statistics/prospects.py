"""What further seeds would show: always-valid p-values of comparisons in simulated continuations of a study.

The true differences and the seeds' variance are drawn from what the data so far say about them (the fiducial
distribution: a normal one around the means, nu s^2 / chi^2 for the variance), then the further seeds. Comparisons that
share an arm share its draws. The variance between questions stays, since the questions do. Scores and thresholds are in
shares of 1.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import gammaincinv

from firstsight.evaluate.statistics.differences import FAMILY_ALPHA, DifferenceEstimate, Thresholds
from firstsight.evaluate.statistics.sequential import look_share

NUM_DRAWS = 1000
_GRID_SIZE = 96
_MIN_P = 1e-300


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonState:
    """A comparison as the data show it."""

    arms: tuple[Hashable, Hashable]
    """The score of the first less that of the second is compared with the thresholds; an arm on one measure."""
    thresholds: Thresholds
    num_seeds: int
    estimate: DifferenceEstimate
    """At `num_seeds`."""
    p_value: float
    """The always-valid one, so far."""


@dataclass(frozen=True, slots=True)
class Continuations:
    """Always-valid p-values of comparisons and their signs, [draws, comparisons, further seeds from 0 on]."""

    p_values: np.ndarray
    signs: np.ndarray

    def select(self, further_seeds: Sequence[int]) -> np.ndarray:
        """Signs of the significant comparisons, corrected together by Holm, else 0, [draws, comparisons].

        `further_seeds`: of each comparison.
        """
        columns = np.arange(len(further_seeds))
        p, signs = self.p_values[:, columns, further_seeds], self.signs[:, columns, further_seeds]
        order = np.argsort(p, axis=1)
        remaining = len(further_seeds) - np.arange(len(further_seeds))
        adjusted = np.maximum.accumulate(np.take_along_axis(p, order, axis=1) * remaining, axis=1)
        is_significant = np.zeros(p.shape, dtype=bool)
        np.put_along_axis(is_significant, order, adjusted <= FAMILY_ALPHA, axis=1)
        return np.where(is_significant, signs, 0)


def simulate_continuations(
    states: Sequence[ComparisonState], *, max_seeds: int, num_draws: int = NUM_DRAWS
) -> Continuations:
    """What up to `max_seeds` further seeds of every arm would show; the random seed is fixed."""
    rng = np.random.default_rng(20250307)
    arms = {name: None for state in states for name in state.arms}
    deviates = {name: rng.standard_normal((num_draws, max_seeds + 1)) for name in arms}
    levels = rng.random(num_draws)
    paths = [_continue(state, deviates, levels) for state in states]
    p_values, signs = (np.stack(arrays, axis=1) for arrays in zip(*paths, strict=True))
    return Continuations(p_values, signs)


def _continue(
    state: ComparisonState, deviates: Mapping[Hashable, np.ndarray], levels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Always-valid p-values and signs of one comparison, [draws, further seeds from 0 on].

    `deviates`: of each arm, standard normal, [draws, 1 + further seeds], the first that of its true mean. `levels`:
    of the seeds' variance in its distribution, [draws].
    """
    estimate, count = state.estimate, state.num_seeds
    first, second = (deviates[name] for name in state.arms)
    variance = estimate.seed_variance * count
    true_variance = estimate.dof * variance / np.maximum(2 * gammaincinv(estimate.dof / 2, levels), _MIN_P)
    noise = np.sqrt(true_variance / 2)[:, None] * (first - second)
    truth = estimate.mean + noise[:, :1] / np.sqrt(count)
    further = np.cumsum(truth + noise[:, 1:], axis=1)
    _, sign = state.thresholds.decide(np.array([estimate.mean]))
    p_values, signs = [np.full(len(levels), state.p_value)], [np.full(len(levels), sign[0])]
    for number in range(1, further.shape[1] + 1):
        means = (count * estimate.mean + further[:, number - 1]) / (count + number)
        distances, look_signs = state.thresholds.decide(means)
        p = _look_p_values(distances, estimate, num_seeds=(count, count + number), true_variance=true_variance)
        signs.append(np.where(p < p_values[-1], look_signs, signs[-1]))
        p_values.append(np.minimum(p, p_values[-1]))
    return np.stack(p_values, axis=1), np.stack(signs, axis=1)


def _look_p_values(
    distances: np.ndarray, estimate: DifferenceEstimate, *, num_seeds: tuple[int, int], true_variance: np.ndarray
) -> np.ndarray:
    """p-values of means `distances` away from the threshold at a look with more seeds, by its share, [draws].

    The variance that this look measures is a mean of the present one and the true one, by degrees of freedom. A
    distance is divided by the root of what the measured variance is too large by, so that one table of p-values serves.
    """
    before, after = num_seeds
    variance, dof = estimate.seed_variance * before, estimate.dof * (after - 1) // (before - 1)
    residual = estimate.residual_variance * before / after
    look = replace(
        estimate,
        seed_variance=variance / after,
        dof=dof,
        residual_variance=residual,
        question_variance=estimate.question_variance - estimate.residual_variance + residual,
    )
    measured = (estimate.dof * variance + (dof - estimate.dof) * true_variance) / dof
    scaled = distances * np.sqrt(variance / measured) if variance > 0 else distances
    grid = np.linspace(0, max(float(scaled.max()), 1e-12), _GRID_SIZE)
    logs = np.log(np.maximum(look.p_values(grid), _MIN_P))
    return np.minimum(np.exp(np.interp(scaled, grid, logs)) / look_share(after), 1.0)
