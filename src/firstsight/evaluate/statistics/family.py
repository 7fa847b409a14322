"""Several comparisons at once: Holm's correction, and the level at which each decision falls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ALPHA = 0.05
"""The chance that a family may hold any false difference at all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What Holm's procedure says of one comparison."""

    adjusted: float
    """The smallest family-wise error at which the comparison would count as a difference."""
    level: float
    """Of the interval that shows the decision: it leaves the tested value out exactly where the comparison counts."""


def holm(p: Sequence[float], *, among: int = 0, alpha: float = ALPHA) -> list[Decision]:
    """Decisions on a family's p-values, in their order (Holm 1979).

    The smallest p is held against alpha / m, the next against alpha / (m - 1), until one fails; that one and all larger
    ones are no differences, and the bar that stopped them is the level of their intervals. `among` counts comparisons
    that could have been asked for, where these were chosen by looking.
    """
    found: dict[int, Decision] = {}
    adjusted, bar, stopped = 0.0, alpha, False
    for place, index in enumerate(sorted(range(len(p)), key=lambda index: p[index])):
        left = max(len(p), among) - place
        adjusted = max(adjusted, min(1.0, left * p[index]))
        bar = bar if stopped else alpha / left
        stopped = stopped or p[index] > bar
        found[index] = Decision(adjusted=adjusted, level=1 - bar)
    return [found[index] for index in range(len(p))]
