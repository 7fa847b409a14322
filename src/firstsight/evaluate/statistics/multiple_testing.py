"""Several comparisons at once: Holm's correction, and the level at which each decision falls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FAMILY_ALPHA = 0.05
"""The chance that a family may hold any false difference at all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HolmDecision:
    """What Holm's procedure says of one comparison."""

    adjusted: float
    """The smallest family-wise error at which the comparison would count as a difference."""
    level: float
    """Of the interval that shows the decision: it leaves the tested value out exactly where the comparison counts."""


def holm(p_values: Sequence[float], *, num_comparisons: int = 0, alpha: float = FAMILY_ALPHA) -> list[HolmDecision]:
    """Decisions on a family's p-values, in their order (Holm 1979).

    The smallest p is held against alpha / m, the next against alpha / (m - 1), until one fails; that one and all larger
    ones are no differences, and the bar that stopped them is the level of their intervals. `among` counts comparisons
    that could have been asked for, where these were chosen by looking.
    """
    decisions: dict[int, HolmDecision] = {}
    adjusted, threshold, is_stopped = 0.0, alpha, False
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        num_remaining = max(len(p_values), num_comparisons) - rank
        adjusted = max(adjusted, min(1.0, num_remaining * p_values[index]))
        threshold = threshold if is_stopped else alpha / num_remaining
        is_stopped = is_stopped or p_values[index] > threshold
        decisions[index] = HolmDecision(adjusted=adjusted, level=1 - threshold)
    return [decisions[index] for index in range(len(p_values))]
