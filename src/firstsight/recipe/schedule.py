"""Learning rates as pure functions of the tokens seen since the phase began.

The rate of an update is `lr(tokens_seen)`, where `tokens_seen` includes the update's own batch: the first warm-up step
is not zero, and the last step of a phase has exactly the minimum. Source: paper Figure 3 and section 2; `lr_plot.py` of
open_lm: cosine to a minimum that is never zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi
from typing import ClassVar

from firstsight.errors import QuantityError
from firstsight.units import Tokens


def _cosine(start: float, end: float, elapsed: int, total: int) -> float:
    """From exactly `start` at 0 to exactly `end` at `total`, constant before and after."""
    if elapsed <= 0 or elapsed >= total:
        return start if elapsed <= 0 else end
    return end + 0.5 * (1 + cos(pi * elapsed / total)) * (start - end)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rewarm:
    """Warm up from zero to a peak, then cosine: every trunk, and the paper's 0 % and 100 % arms."""

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
        warmup = self.warmup_tokens
        if tokens_seen < warmup:
            return self.peak_lr * tokens_seen / warmup
        return _cosine(self.peak_lr, self.min_lr, tokens_seen - warmup, self.tokens - warmup)


@dataclass(frozen=True, kw_only=True, slots=True)
class Continue:
    """Start at the trunk's rate at the branch, then cosine, no warm-up: the paper's 20-80 % arms."""

    TAG: ClassVar = "continue"
    trunk: Rewarm
    branch_tokens: Tokens
    """Trunk tokens before the branch."""
    min_lr: float
    tokens: Tokens

    def lr(self, tokens_seen: Tokens) -> float:
        return _cosine(self.trunk.lr(self.branch_tokens), self.min_lr, tokens_seen, self.tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class Matched:
    """Start at the rate at which another arm starts, no warm-up: the control that reviewers asked for at 100 %."""

    TAG: ClassVar = "matched"
    reference: LRSchedule
    """The other arm's schedule."""
    min_lr: float
    tokens: Tokens

    def lr(self, tokens_seen: Tokens) -> float:
        return _cosine(self.reference.lr(Tokens(0)), self.min_lr, tokens_seen, self.tokens)


LRSchedule = Rewarm | Continue | Matched
