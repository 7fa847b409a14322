"""Learning-rate schedules as a recipe states them, and the curves that training follows.

A schedule has no length: its curve spans the stage that has it, in whole steps. The rate of an update is
`lr(tokens_seen, total)`, where `tokens_seen` counts from the start of the stage and includes the update's own batch. So
the first warm-up step is not zero, and the last step of a stage has exactly the minimum.
`Continue`, `Matched` and `SameCurve` depend on the stages before: `Arm.resolved_stages` replaces them by `CosineFrom`
and `CurvePoint`. Source: paper Figure 3 and section 2; open_lm's `lr_plot.py`.
"""

from __future__ import annotations

from math import cos, floor, pi
from typing import ClassVar

from firstsight.errors import QuantityError
from firstsight.recipe.spec import spec
from firstsight.units import Share, Tokens


def _cosine(start: float, end: float, elapsed: int, total: int) -> float:
    if elapsed <= 0 or elapsed >= total:
        return start if elapsed <= 0 else end
    return end + 0.5 * (1 + cos(pi * elapsed / total)) * (start - end)


@spec
class Rewarm:
    """Warm up from zero to a peak, then cosine: every trunk, and the paper's 0 % and 100 % arms."""

    TAG: ClassVar = "rewarm"
    peak_lr: float
    min_lr: float
    warmup: Share
    """The share of the stage's tokens in which the rate rises; 0: none."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_lr <= self.peak_lr or not self.peak_lr > 0:
            wanted = "Rewarm: wanted peak_lr above 0 and min_lr from 0 to peak_lr"
            raise QuantityError(f"{wanted}. Got peak_lr={self.peak_lr:g} and min_lr={self.min_lr:g}.")
        if self.warmup == 1:
            raise QuantityError(f"Rewarm: a warm-up must end before its stage does. Got {self.warmup} of the stage.")

    def warmup_tokens(self, total: Tokens) -> Tokens:
        """Tokens of the warm-up in a stage of `total` tokens, rounded down."""
        return Tokens(floor(total * self.warmup))

    def lr(self, tokens_seen: Tokens, total: Tokens) -> float:
        """The learning rate of the update that reaches `tokens_seen` of `total`."""
        warmup = self.warmup_tokens(total)
        if tokens_seen < warmup:
            return self.peak_lr * tokens_seen / warmup
        return _cosine(self.peak_lr, self.min_lr, tokens_seen - warmup, total - warmup)


@spec
class Continue:
    """Cosine from the rate that the previous stage ends with, or the trunk has at the branch: the 20-80 % arms."""

    TAG: ClassVar = "continue"
    min_lr: float

    def __post_init__(self) -> None:
        _check_min_lr(self)


@spec
class Matched:
    """Cosine from the rate that the trunk has at another share: the reviewers' control arm at 100 %."""

    TAG: ClassVar = "matched"
    trunk_share: Share
    min_lr: float

    def __post_init__(self) -> None:
        _check_min_lr(self)


@spec
class SameCurve:
    """Move on along the previous stage's curve, which then spans both stages, as PaliGemma's does."""

    TAG: ClassVar = "same_curve"


@spec
class CurvePoint:
    """A position on a curve; as the schedule of a stage, the part of the curve from there on."""

    TAG: ClassVar = "curve_point"
    schedule: Rewarm | CosineFrom
    tokens: Tokens
    """Length of the whole curve."""
    at: Tokens
    """Tokens of the curve before this position."""

    def lr(self, tokens_seen: Tokens, total: Tokens) -> float:
        """The rate `tokens_seen` tokens further along the curve; `total`, the stage's part of it, is without effect."""
        return self.schedule.lr(Tokens(self.at + tokens_seen), self.tokens)


@spec
class CosineFrom:
    """Cosine from the rate at a position on another curve, without warm-up: a resolved Continue or Matched."""

    TAG: ClassVar = "cosine_from"
    start: CurvePoint
    min_lr: float

    @property
    def start_lr(self) -> float:
        """The rate at the start of the stage."""
        return self.start.lr(Tokens(0), self.start.tokens)

    def lr(self, tokens_seen: Tokens, total: Tokens) -> float:
        """The learning rate of the update that reaches `tokens_seen` of `total`."""
        return _cosine(self.start_lr, self.min_lr, tokens_seen, total)


LRSchedule = Rewarm | Continue | Matched | SameCurve
"""What a recipe states."""
ResolvedSchedule = Rewarm | CosineFrom | CurvePoint
"""What training follows."""


def _check_min_lr(schedule: Continue | Matched) -> None:
    if not schedule.min_lr >= 0:
        raise QuantityError(f"{type(schedule).__name__}.min_lr: wanted 0 or above. Got {schedule.min_lr:g}.")


def schedule_text(stated: LRSchedule, resolved: ResolvedSchedule, total: Tokens) -> str:
    """A schedule as a recipe states it, with the rates of its stage of `total` tokens: continued from 0.3 to 0.1."""
    first, last = (f"{resolved.lr(Tokens(tokens), total):.3g}" for tokens in (0, total))
    match stated:
        case Rewarm():
            rise = f"warm-up over {stated.warmup} of the stage to" if stated.warmup else "from"
            return f"{rise} {stated.peak_lr:.3g}, then to {last}"
        case Matched():
            return f"from {first}, the trunk's rate at {stated.trunk_share}, to {last}"
        case SameCurve():
            return f"on the curve of the stage before from {first} to {last}"
        case Continue():
            return f"continued from {first} to {last}"
