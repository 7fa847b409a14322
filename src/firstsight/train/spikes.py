"""Which losses stop training: those that are not finite, and by a rule of the site those far above the ones before."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from statistics import fmean, stdev

from firstsight.errors import Diverged, LossSpike

SPIKE_WINDOW = 128
"""Updates whose losses a loss is compared with; there is no rule before so many."""


class LossCheck:
    """The check of each update before it is made. All ranks check the same numbers and stop together.

    A spike is a loss more than `deviations` standard deviations above the mean of the SPIKE_WINDOW updates before, as
    in OLMo 2's spike score (arXiv 2501.00656), which counts those beyond seven; 0: no rule.
    """

    def __init__(self, deviations: float, losses: Iterable[float] = ()) -> None:
        self.deviations = deviations
        self._losses = deque(losses, maxlen=SPIKE_WINDOW)

    def state_dict(self) -> list[float]:
        """The losses that the next one is compared with."""
        return list(self._losses)

    def error(self, loss: float, grad_norm: float, description: str) -> Diverged | None:
        """Diverged or LossSpike, with `description` of the update, if it must not be made; else its loss is counted."""
        if not math.isfinite(loss + grad_norm):
            return Diverged(f"a finite loss and gradient norm. Got {description}")
        if self.deviations and len(self._losses) == SPIKE_WINDOW:
            limit = fmean(self._losses) + self.deviations * stdev(self._losses)
            if loss > limit:
                return LossSpike(
                    f"a loss of at most {limit:.6g}, {self.deviations:g} standard deviations above the mean of "
                    f"{SPIKE_WINDOW} updates. Got {description}"
                )
        self._losses.append(loss)
        return None
