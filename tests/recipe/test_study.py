"""Arms: names, seeds, and decoders that fit each other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from firstsight.errors import QuantityError, UnknownName
from firstsight.plan.graph import Graph, build_graph
from firstsight.recipe.scales import branch_at, scale_named
from firstsight.recipe.study import Arm, Study, over_seeds
from firstsight.studies.when import when
from firstsight.units import Share


def planned(arm: Arm) -> Graph:
    return build_graph(Study(name="one", scale="?", question="?", arms=over_seeds([arm], [1])))


def test_arms_with_one_name_twice_are_refused() -> None:
    study = when(scale_named("smoke"))
    with pytest.raises(QuantityError, match="different names"):
        replace(study, arms=study.arms + study.arms[:1])


def test_arms_are_found_by_label_or_name() -> None:
    study = replace(when(scale_named("smoke")), arms=over_seeds(when(scale_named("smoke")).arms[:2], [3, 5]))
    assert [arm.label for arm in study.arms] == ["trunk.s3", "start-000.s3", "trunk.s5", "start-000.s5"]
    assert study.arm("start-000.s5").seed == 5 and study.arm("start-000").seed == 3
    with pytest.raises(UnknownName, match=r"start-000\.s3"):
        study.arm("start-000.s4")


def test_a_seed_is_set_in_every_stage_and_changes_nothing_else() -> None:
    arm = scale_named("cpu").base
    other = arm.with_seed(7)
    assert {other.seed, other.pretrain.seed, *(stage.seed for stage in other.stages)} == {7}
    assert other.with_seed(0) == arm


def test_decoders_of_a_trunk_and_its_stages_must_be_equal() -> None:
    arm = branch_at(scale_named("smoke"), Share(4, 5))
    shallow = replace(arm.pretrain, model=replace(arm.pretrain.model, layers=3))
    with pytest.raises(QuantityError, match=r"start-080\.s1: midtrain: wanted the decoder .* with layers 3, not 4"):
        planned(replace(arm, pretrain=shallow))
    tune = arm.stages[1]
    other = replace(tune, model=replace(tune.model, lm=replace(tune.model.lm, layers=5)))
    with pytest.raises(QuantityError, match=r"finetune: .* with layers 4, not 5"):
        planned(replace(arm, stages=(arm.stages[0], other)))
