"""The study `how_much`: arms that differ in their share of images alone, and the scale's own one as in `when`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from firstsight.plan.graph import build_graph
from firstsight.recipe.analysis import Sweep
from firstsight.recipe.scales import SCALES, branch_at, get_scale
from firstsight.studies.how_much import how_much, share_arms
from firstsight.studies.when import when
from firstsight.units import Share

PAPER_PERCENTS = [0, 1, 5, 10, 20, 50, 100]


@pytest.mark.parametrize("name", SCALES)
def test_arms_are_the_papers_shares_and_the_scales_own(name: str) -> None:
    scale = replace(get_scale(name), seeds=1)
    study, reference = how_much(scale), when(scale).arm("start-080")
    trunk, *arms = study.arms
    own = reference.stages[0].mix.image_share
    assert isinstance(own, Share)
    assert trunk == when(scale).arm("trunk")
    percents = [int(100 * arm.at["image_share"]) for arm in arms]  # type: ignore[operator]
    assert percents == sorted({*PAPER_PERCENTS, int(100 * own)})
    for arm in arms:
        midtrain, *later = arm.stages
        stages = (replace(midtrain, mix=replace(midtrain.mix, image_share=own)), *later)
        assert replace(arm, name=reference.name, at=reference.at, stages=stages) == reference
        assert midtrain.mix.image_share == arm.at["image_share"]
    assert study.figures == (Sweep(x="image_share"),)


def test_image_rows_of_the_paper_by_hand() -> None:
    """109,848 steps of 256 rows at 1b."""
    rows = [arm.stages[0].mix.image_rows(109_848 * 256) for arm in how_much(get_scale("1b")).arms if arm.stages]
    assert rows == [0, 281_210, 1_406_054, 2_812_108, 5_624_217, 14_060_544, 28_121_088]


@pytest.mark.parametrize("name", ["smoke", "cpu", "1b"])
def test_only_branches_with_other_shares_are_new_after_when(name: str) -> None:
    """Per seed and share three steps; at smoke and cpu the captions of the largest share, indexed and encoded."""
    scale = get_scale(name)
    own = {step.address for step in build_graph(when(scale)).steps}
    new = [step for step in build_graph(how_much(scale)).steps if step.address not in own]
    data = {step.kind for step in new} - {"midtrain", "finetune", "evaluate"}
    assert data == (set() if name == "1b" else {"captions", "prepare", "encode"})
    shares = len(share_arms(branch_at(scale, Share(4, 5)), ())) + (6 if name == "1b" else 7) - 1
    assert len(new) - len(data) == 3 * shares * scale.seeds


def test_a_mix_with_several_shares_has_no_own_one() -> None:
    arm = get_scale("smoke").base
    spans = branch_at(get_scale("smoke"), Share(4, 5)).stages[0].mix
    assert [each.name for each in share_arms(arm, (Share(1, 2), Share(0)))] == ["share-000", "share-050", "share-080"]
    assert spans.image_share == Share(4, 5)
