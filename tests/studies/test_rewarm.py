"""The study `rewarm`: its arms are those of `when`, with another schedule where the name says so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from firstsight.recipe.scales import get_scale
from firstsight.studies.rewarm import rewarm
from firstsight.studies.when import when
from firstsight.units import Tokens


@pytest.mark.parametrize("scale", ["smoke", "1b"])
def test_arms_differ_in_the_schedule_only(scale: str) -> None:
    study, reference = rewarm(get_scale(scale)), when(get_scale(scale))
    names = {arm.name for arm in study.arms}
    assert names == {"trunk", "start-080", "start-080-rewarm", "start-100", "start-100-matched"}
    for name in names:
        arm, base = study.arm(name), reference.arm("-".join(name.split("-")[:2]))
        stages = tuple(
            replace(stage, schedule=other.schedule) for stage, other in zip(arm.stages, base.stages, strict=True)
        )
        labels = {"name": base.name, "at": base.at, "group": base.group}
        assert replace(arm, stages=stages, **labels) == base
        assert (replace(arm, at=base.at) == base) == (not name.endswith(("rewarm", "matched")))
        assert arm.at == (base.at | {"schedule": arm.group} if arm.stages else {})


def test_schedules_are_rewarmed_and_matched() -> None:
    study = rewarm(get_scale("1b"))
    first = {arm.name: arm.resolved_stages()[0] for arm in study.arms if arm.stages}
    start = {name: stage.lr(Tokens(0)) for name, stage in first.items()}
    assert start["start-100-matched"] == start["start-080"] > 0
    assert start["start-080-rewarm"] == start["start-100"] == 0
    assert study.arm("start-080-rewarm").stages[0].schedule == get_scale("1b").rewarm
    ends = {stage.lr(stage.rounded_tokens) for stage in first.values()}
    assert ends == {3e-5}
