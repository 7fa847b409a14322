"""The study `when`: six starts on one trunk, and claims about arms that exist."""

from __future__ import annotations

from dataclasses import replace

import pytest

from firstsight.recipe.analysis import Sweep
from firstsight.recipe.scales import SCALES, get_scale
from firstsight.recipe.schedule import Continue
from firstsight.recipe.stages import NEAR, Donor
from firstsight.studies.when import trunk_arm, when
from firstsight.units import Share


@pytest.mark.parametrize("scale", SCALES)
def test_arms_differ_in_start_and_schedule_only(scale: str) -> None:
    study = when(replace(get_scale(scale), seeds=1))
    trunk, *branches = study.arms
    assert [arm.at["start"] for arm in branches] == [arm.start for arm in branches]
    shares = [Share(number, 5) for number in range(6)]
    if isinstance(donor := trunk.pretrain, Donor):
        shares = [donor.nearest_share(share) if share else share for share in shares]
        assert max(abs(share - arm.start) for share, arm in zip(shares, branches, strict=True)) <= NEAR
    assert [arm.start for arm in branches] == shares
    first = branches[0]
    for arm in branches:
        midtrain, *later = arm.stages
        common = replace(midtrain, schedule=first.stages[0].schedule)
        labels = {"name": first.name, "start": first.start, "at": first.at, "group": first.group}
        assert replace(arm, stages=(common, *later), **labels) == first
        assert isinstance(midtrain.schedule, Continue) == (0 < arm.start < 1)
    assert trunk.pretrain == first.pretrain and not trunk.stages


def test_hollow_points_are_the_arms_at_both_ends() -> None:
    study = when(get_scale("smoke"))
    (group,) = {figure.hollow for figure in study.figures if isinstance(figure, Sweep)}
    hollow = {arm.name for arm in study.arms if arm.group == group}
    assert hollow == {"start-000", "start-100"}


def test_the_trunk_is_a_baseline_on_text_tasks_alone() -> None:
    scale = get_scale("1b")
    trunk = trunk_arm(scale)
    assert trunk.role == "baseline" and trunk.start == 1
    assert trunk.evaluate == replace(scale.base.evaluate, vision_tasks=())


def test_claims_name_arms_of_the_study_and_points_that_the_paper_prints() -> None:
    study = when(get_scale("smoke"))
    names = {arm.name for arm in study.arms}
    for claim in study.claims:
        for comparison in claim.compare:
            assert {*comparison.arms, *comparison.others} <= names
    (two_points,) = next(claim for claim in study.claims if claim.name == "two-points").compare
    assert two_points.published == 0.02
