"""What a scale is, and how an arm enters it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from firstsight.errors import QuantityError
from firstsight.recipe.schedule import Continue, Rewarm
from firstsight.recipe.stages import Midtrain
from firstsight.recipe.study import Arm
from firstsight.units import Share

VISION_TASKS = ("vqav2", "gqa", "vizwiz", "textvqa", "refcoco", "ocid_ref", "pope")


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """A size of the study: the arm that studies vary, and what the paper does at 0 % and 100 %."""

    name: str
    base: Arm
    """Branches at 80 % and continues the trunk's rate."""
    rewarm: Rewarm
    """The schedule where the trunk's own rate would be too low: 0 % and 100 %."""
    seeds: int
    """How many seeds a study runs unless asked otherwise."""


def branch_at(scale: Scale, start: Share) -> Arm:
    """The base arm with images entering at `start`: `Continue` inside the trunk, `Rewarm` at its two ends."""
    base = scale.base
    midtrain, *later_stages = base.stages
    if not isinstance(midtrain, Midtrain):
        raise QuantityError(
            f"images enter in mid-training. Got a base arm of {scale.name} that begins with fine-tuning."
        )
    branch_tokens = base.pretrain.tokens_at(start)
    is_inside_trunk = 0 < start < 1
    schedule = (
        Continue(
            trunk=base.pretrain.schedule,
            branch_tokens=branch_tokens,
            min_lr=scale.rewarm.min_lr,
            tokens=midtrain.tokens,
        )
        if is_inside_trunk
        else scale.rewarm
    )
    percent = start.numerator * 100 / start.denominator
    return replace(
        base, name=f"start-{percent:03.0f}", start=start, stages=(replace(midtrain, schedule=schedule), *later_stages)
    )
