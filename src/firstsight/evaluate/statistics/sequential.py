"""The sequential rule: differences may be looked at after every added seed, without a limit, at one error rate.

The look at n seeds spends the share 6 / ((n + 4)(n + 5)) of the error rate: its p-value is divided by that share. The
shares of n = 2, 3, 4 ... sum to 1, so the probability that any look is a false decision is at most the error rate
(alpha spending with Bonferroni's inequality), whatever the number of looks, the reason to stop, and the dependence of
the looks on one another. The smallest p-value of all looks is therefore an always-valid p-value (Johari, Koomen,
Pekelis and Walsh 2022, Always Valid Inference), which can be corrected like any other (`differences.holm`).
Measured error rates and the alternatives: docs/why/differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from firstsight.evaluate.statistics.differences import NO_DIFFERENCE, DifferenceEstimate, Thresholds

DecisionRule = Literal["fixed", "sequential"]
"""How a difference is tested: once, at all of its seeds, or at every number of seeds from two on."""


def look_share(num_seeds: int) -> float:
    """The share of the error rate that the look at `num_seeds` spends; 1 - 6 / (n + 5) up to and including n seeds."""
    return 6 / ((num_seeds + 4) * (num_seeds + 5))


def sequential_p_value(
    looks: Sequence[DifferenceEstimate], thresholds: Thresholds = NO_DIFFERENCE
) -> tuple[float, int]:
    """The always-valid p-value of `thresholds`, and the number of seeds of the look that gave it.

    `looks`: the estimates at 2, 3, 4 ... seeds; at least one.
    """
    corrected = [(look.p_value(thresholds) / look_share(n), n) for n, look in enumerate(looks, start=2)]
    p_value, num_seeds = min(corrected)
    return min(p_value, 1.0), num_seeds
