"""Learning rates as pure functions of tokens seen since the phase began.

The rate of an update is `lr(seen)` with `seen` counting the update's own batch, so the first warm-up step
is not zero and the last step of a phase gets the floor exactly. Source: paper Figure 3, section 2 of the
specification (`lr_plot.py` of open_lm): cosine to a floor that is never zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi
from typing import ClassVar

from firstsight.errors import QuantityError
from firstsight.units import Tokens


def _cosine(start: float, floor: float, elapsed: Tokens, total: Tokens) -> float:
    """From exactly `start` at 0 to exactly `floor` at `total`, and the floor ever after."""
    if elapsed <= 0 or elapsed >= total:
        return start if elapsed <= 0 else floor
    return floor + 0.5 * (1 + cos(pi * elapsed / total)) * (start - floor)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rewarm:
    """Warm up from zero to a peak, then cosine to the floor: every trunk, and the paper's 0 % and 100 % arms."""

    TAG: ClassVar = "rewarm"
    peak_lr: float
    min_lr: float
    warmup_tokens: Tokens
    tokens: Tokens

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_tokens < self.tokens:
            raise QuantityError(
                f"a warm-up must end before the phase does. Got {self.warmup_tokens} of {self.tokens} tokens."
            )

    def lr(self, tokens_seen: Tokens) -> float:
        if tokens_seen < self.warmup_tokens:
            return self.peak_lr * tokens_seen / self.warmup_tokens
        return _cosine(
            self.peak_lr,
            self.min_lr,
            Tokens(tokens_seen - self.warmup_tokens),
            Tokens(self.tokens - self.warmup_tokens),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Continue:
    """Start at the trunk's rate at that very token, then cosine to the floor, no warm-up: the paper's 20-80 % arms."""

    TAG: ClassVar = "continue"
    trunk: Rewarm
    branch_tokens: Tokens
    min_lr: float
    tokens: Tokens

    def lr(self, tokens_seen: Tokens) -> float:
        return _cosine(self.trunk.lr(self.branch_tokens), self.min_lr, tokens_seen, self.tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class Matched:
    """Start at the rate at which another arm starts, no warm-up: the control that reviewers asked for at 100 %."""

    TAG: ClassVar = "matched"
    reference: LRSchedule
    min_lr: float
    tokens: Tokens

    def lr(self, tokens_seen: Tokens) -> float:
        return _cosine(self.reference.lr(Tokens(0)), self.min_lr, tokens_seen, self.tokens)


LRSchedule = Rewarm | Continue | Matched
