"""The study `when-controls`: its arms are those of `when`, with another schedule or fresh moments by their name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from firstsight.plan.graph import build_graph
from firstsight.recipe.scales import get_scale
from firstsight.studies.when import when
from firstsight.studies.when_controls import SAME_SCHEDULE, when_controls
from firstsight.units import Tokens

NAMES = ["start-080", "start-080-rewarm", "start-080-fresh", "start-100", "start-100-matched", "start-100-fresh"]


@pytest.mark.parametrize("scale", ["smoke", "1b"])
def test_arms_differ_in_schedule_or_moments_only(scale: str) -> None:
    study, reference = when_controls(replace(get_scale(scale), seeds=1)), when(get_scale(scale))
    assert [arm.name for arm in study.arms] == ["trunk", *NAMES]
    for name in NAMES:
        arm, base = study.arm(name), reference.arm(name[:9])
        midtrain, *later = arm.stages
        original, *same = base.stages
        assert later == same
        changed = {field for field in ("schedule", "moments") if getattr(midtrain, field) != getattr(original, field)}
        kind = {"rewarm": {"schedule"}, "matched": {"schedule"}, "fresh": {"moments"}}
        assert changed == kind.get(name[10:], set())
        assert replace(midtrain, schedule=original.schedule, moments=original.moments) == original
        assert replace(arm, name=base.name, at=base.at, group=base.group, stages=base.stages) == base
        assert arm.at == base.at | {"schedule": arm.group}
    assert study.arm("start-100-fresh").stages[0].moments == "fresh"


def test_schedules_are_rewarmed_and_matched() -> None:
    study = when_controls(get_scale("1b"))
    first = {arm.name: arm.resolved_stages()[0] for arm in study.arms if arm.stages}
    start = {name: stage.lr(Tokens(0)) for name, stage in first.items()}
    assert start["start-100-matched"] == start["start-080"] > 0
    assert start["start-080-rewarm"] == start["start-100"] == 0
    assert study.arm("start-080-rewarm").stages[0].schedule == get_scale("1b").rewarm
    ends = {stage.lr(stage.rounded_tokens) for stage in first.values()}
    assert ends == {3e-5}


def test_both_horizons_share_the_trunk_and_the_arms_at_its_end() -> None:
    branch, full = (
        {step.address for step in build_graph(when_controls(get_scale("1b"), horizon)).steps}
        for horizon in ("branch", "full")
    )
    assert len(branch - full) == 3 * 3, "mid-training, fine-tuning and evaluation of the three arms at 80 %"


def test_the_paper_itself_has_no_control() -> None:
    assert SAME_SCHEDULE not in when(get_scale("smoke")).claims
    assert SAME_SCHEDULE in when_controls(get_scale("smoke")).claims
