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

from firstsight.evaluate.statistics.seeds import Estimate, halves

_NODES = 96
_MOST_SEEDS = 512
_MOST_QUESTIONS = 1e6
"""Times the present questions; beyond it only the seeds' own spread is left."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Components:
    """Where the variance of a difference between two arms comes from."""

    seeds: float
    """Of the true difference from seed to seed, however many questions are asked."""
    questions: float
    """Of the mean over the present questions, however many seeds are run."""
    rest: float
    """Of one seed's mean over the present questions: what another seed would answer otherwise."""
    arms: int = 2
    """How many arms' seeds tell of the spread together."""


def expected(of: Components, *, seeds: int, times: float = 1.0) -> Estimate:
    """The estimate that so many seeds and `times` the present questions would give on average, about a mean of 0."""
    rest = of.rest / times / seeds
    return Estimate(
        mean=0.0,
        seeds=of.seeds / seeds + rest,
        freedom=max(of.arms - 1, 1) * (seeds - 1),
        questions=of.questions / times + rest,
        rest=rest,
    )


def power(effect: float, *, of: Components, seeds: int, times: float = 1.0, level: float = 0.95) -> float:
    """The chance that a true difference of `effect` is seen on its right side; 0 with a single seed."""
    if seeds < 2:
        return 0.0
    law = expected(of, seeds=seeds, times=times)
    return float(_seen(np.array([abs(effect)]), law, _bars(law, level))[0])


def smallest(
    of: Components, *, seeds: int, times: float = 1.0, wanted: float = 0.8, level: float = 0.95
) -> float | None:
    """The smallest effect that is seen with the chance `wanted`; None with a single seed, which decides nothing."""
    if seeds < 2:
        return None
    law = expected(of, seeds=seeds, times=times)
    bars = _bars(law, level)
    if law.error == 0:
        return 0.0
    high = float(bars.max()) + 10 * law.error
    return _root(lambda effect: float(_seen(np.array([effect]), law, bars)[0]) - wanted, 0.0, high)


def seeds_needed(effect: float, *, of: Components, wanted: float = 0.8, times: float = 1.0) -> int | None:
    """The fewest seeds that show `effect` at these questions; None where the questions' own spread hides it."""

    def enough(seeds: int) -> bool:
        return power(effect, of=of, seeds=seeds, times=times) >= wanted

    low, high = 1, 2
    while not enough(high):
        low, high = high, 2 * high
        if high > _MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def questions_needed(effect: float, *, of: Components, seeds: int, wanted: float = 0.8) -> float | None:
    """How many times the present questions show `effect` at these seeds; None where no number of them will do."""

    def short(log: float) -> float:
        return power(effect, of=of, seeds=seeds, times=float(np.exp(log))) - wanted

    most = float(np.log(_MOST_QUESTIONS))
    if short(most) < 0:
        return None
    return float(np.exp(_root(short, -most, most))) if short(-most) < 0 else float(np.exp(-most))


def _root(rising: Callable[[float], float], low: float, high: float) -> float:
    found = brentq(rising, low, high, xtol=1e-6, full_output=False)
    assert isinstance(found, float)
    return found


def _bars(law: Estimate, level: float) -> np.ndarray:
    """Half-widths that the interval may have, for equally likely variances between the seeds."""
    chance = (np.arange(_NODES) + 0.5) / _NODES
    chi = 2 * gammaincinv(law.freedom / 2, chance)
    return halves(law.seeds * chi / law.freedom, law, level=level)


def _seen(effects: np.ndarray, law: Estimate, bars: np.ndarray) -> np.ndarray:
    """Probability that the mean lies above the half-width, [effects]."""
    size = max(law.error, 1e-300)
    return stats.norm.sf((bars[None, :] - effects[:, None]) / size).mean(1)
