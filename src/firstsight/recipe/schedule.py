"""Learning rates as pure functions of tokens seen since the phase began.

The rate of an update is `lr(seen)` with `seen` counting the update's own batch, so the first warm-up step
is not zero and the last step of a phase gets the floor exactly. Source: paper Figure 3, section 2 of the
specification (`lr_plot.py` of open_lm): cosine to a floor that is never zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi

from firstsight.errors import QuantityError
from firstsight.units import Tokens


def _cosine(start: float, floor: float, done: Tokens, total: Tokens) -> float:
    """From exactly `start` at 0 to exactly `floor` at `total`, and the floor ever after."""
    if done <= 0 or done >= total:
        return start if done <= 0 else floor
    return floor + 0.5 * (1 + cos(pi * done / total)) * (start - floor)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rewarm:
    """Warm up from zero to a peak, then cosine to the floor: every trunk, and the paper's 0 % and 100 % arms."""

    peak: float
    floor: float
    warmup: Tokens
    tokens: Tokens

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < self.tokens:
            raise QuantityError(f"a warm-up must end before the phase does. Got {self.warmup} of {self.tokens} tokens.")

    def lr(self, seen: Tokens) -> float:
        if seen < self.warmup:
            return self.peak * seen / self.warmup
        return _cosine(self.peak, self.floor, Tokens(seen - self.warmup), Tokens(self.tokens - self.warmup))


@dataclass(frozen=True, kw_only=True, slots=True)
class Continue:
    """Start at the trunk's rate at that very token, then cosine to the floor, no warm-up: the paper's 20-80 % arms."""

    trunk: Rewarm
    at: Tokens
    floor: float
    tokens: Tokens

    def lr(self, seen: Tokens) -> float:
        return _cosine(self.trunk.lr(self.at), self.floor, seen, self.tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class Matched:
    """Start at the rate at which another arm starts, no warm-up: the control that reviewers asked for at 100 %."""

    to: Rate
    floor: float
    tokens: Tokens

    def lr(self, seen: Tokens) -> float:
        return _cosine(self.to.lr(Tokens(0)), self.floor, seen, self.tokens)


Rate = Rewarm | Continue | Matched
