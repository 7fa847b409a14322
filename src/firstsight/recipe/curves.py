"""From the schedules that a recipe states to the curves that its stages follow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from firstsight.errors import QuantityError
from firstsight.recipe.schedule import Continue, CosineFrom, CurvePoint, Matched, Rewarm, SameCurve
from firstsight.recipe.stages import Donor, Finetune, Midtrain, Pretrain
from firstsight.units import Share, Tokens

Stage = Midtrain | Finetune


def resolve_schedules(
    stages: Sequence[Stage], *, trunk: Pretrain | Donor, start: Share, location: str
) -> tuple[Stage, ...]:
    """The stages with the curves that they follow; the first branches off at `start` of the trunk.

    QuantityError, which begins with `location` and the stage, where a schedule has nothing to continue or would rise.
    """
    point = _trunk_point(trunk, start) if start else None
    resolved: list[Stage] = []
    for group in _curve_groups(stages, location):
        curve = _curve(group[0], point, trunk, f"{location}: {group[0].TAG}.schedule")
        total, at = Tokens(sum(stage.rounded_tokens for stage in group)), Tokens(0)
        for stage in group:
            schedule = curve if len(group) == 1 else CurvePoint(schedule=curve, tokens=total, at=at)
            resolved.append(replace(stage, schedule=schedule))
            at = Tokens(at + stage.rounded_tokens)
        point = CurvePoint(schedule=curve, tokens=total, at=total)
    return tuple(resolved)


def _trunk_point(trunk: Pretrain | Donor, share: Share) -> CurvePoint:
    return CurvePoint(schedule=trunk.schedule, tokens=trunk.rounded_tokens, at=trunk.tokens_at(share))


def _curve_groups(stages: Sequence[Stage], location: str) -> Iterator[list[Stage]]:
    """Consecutive stages on one curve."""
    groups: list[list[Stage]] = []
    for stage in stages:
        if not isinstance(stage.schedule, SameCurve):
            groups.append([stage])
        elif groups:
            groups[-1].append(stage)
        else:
            raise QuantityError(
                f"{location}: {stage.TAG}.schedule: SameCurve moves on along the curve of the stage before. "
                "Got the first stage. Write Continue, or Rewarm."
            )
    yield from groups


def _curve(stage: Stage, previous: CurvePoint | None, trunk: Pretrain | Donor, location: str) -> Rewarm | CosineFrom:
    schedule = stage.schedule
    match schedule:
        case Rewarm():
            return schedule
        case Matched():
            point = _trunk_point(trunk, schedule.trunk_share)
        case Continue() if previous is not None:
            point = previous
        case Continue():
            raise QuantityError(f"{location}: Continue needs a trained model. Got a start at 0 %. Write Rewarm.")
        case _:
            derived = f"Got {type(schedule).__name__}, which Arm.resolved_stages derives"
            raise QuantityError(f"{location}: wanted a schedule of a recipe. {derived}. Write Continue or Rewarm.")
    curve = CosineFrom(start=point, min_lr=schedule.min_lr)
    if not curve.start_lr >= curve.min_lr or not curve.start_lr > 0:
        raise QuantityError(
            f"{location}: {type(schedule).__name__} starts at a rate of {curve.start_lr:.3g}; wanted one above 0 and "
            f"not below min_lr={curve.min_lr:g}. Write a lower min_lr, or Rewarm."
        )
    return curve
