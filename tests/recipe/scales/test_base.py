"""Branches of a scale's base arm."""

from __future__ import annotations

from dataclasses import replace

import pytest

from firstsight.errors import QuantityError
from firstsight.recipe.scales import branch_at, get_scale
from firstsight.recipe.schedule import Continue, CosineFrom, CurvePoint
from firstsight.units import Share


def test_arms_differ_in_start_and_schedule_only() -> None:
    """No stage contains the start: the position in the text comes from the checkpoint."""
    scale = get_scale("cpu")
    base = branch_at(scale, Share(4, 5))
    for percent in range(0, 101, 20):
        arm = branch_at(scale, Share(percent, 100))
        first, *later = arm.stages
        assert arm.pretrain == base.pretrain and tuple(later) == base.stages[1:]
        assert replace(first, schedule=base.stages[0].schedule) == base.stages[0]


@pytest.mark.parametrize("percent", [0, 20, 80, 100])
def test_names_and_schedules_of_branches(percent: int) -> None:
    scale = get_scale("1b")
    arm = branch_at(scale, Share(percent, 100))
    assert arm.name == f"start-{percent:03d}"
    schedule = arm.stages[0].schedule
    if percent in (0, 100):
        assert schedule == scale.rewarm
    else:
        assert schedule == Continue(min_lr=3e-5)
        trunk = scale.base.pretrain
        point = CurvePoint(schedule=trunk.schedule, tokens=trunk.rounded_tokens, at=trunk.tokens_at(arm.start))
        assert arm.resolved_stages()[0].schedule == CosineFrom(start=point, min_lr=3e-5)


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (Share(1, 5), "start-020"),
        (Share(197, 1000), "start-019.7"),
        (Share(2001, 10_000), "start-020.01"),
        (Share(200_001, 1_000_000), "start-020.0"),
        (Share(1, 3), "start-033.33"),
        (Share(5, 1000), "start-000.5"),
    ],
)
def test_only_an_exact_percent_has_its_short_name(start: Share, name: str) -> None:
    assert branch_at(get_scale("smoke"), start).name == name


def test_a_base_arm_without_mid_training_has_no_branches() -> None:
    scale = get_scale("smoke")
    with pytest.raises(QuantityError, match="images enter in mid-training"):
        branch_at(replace(scale, base=replace(scale.base, stages=scale.base.stages[1:])), Share(4, 5))
