"""The study `from_scratch`: the shares of `how_much` without a trunk."""

from __future__ import annotations

from dataclasses import replace

import pytest

from firstsight.plan.graph import build_graph
from firstsight.recipe.scales import SCALES, get_scale
from firstsight.studies.from_scratch import FROM_SCRATCH, from_scratch
from firstsight.studies.how_much import how_much
from firstsight.studies.when import when


@pytest.mark.parametrize("name", SCALES)
def test_arms_are_those_of_how_much_from_an_untrained_model(name: str) -> None:
    scale = replace(get_scale(name), seeds=1)
    study, reference = from_scratch(scale), when(scale).arm("start-000")
    late = [arm for arm in how_much(scale).arms if arm.stages]
    assert [arm.name for arm in study.arms] == [arm.name for arm in late]
    for arm, other in zip(study.arms, late, strict=True):
        assert arm.start == 0 and arm.stages[0].schedule == scale.rewarm
        assert replace(arm.stages[0], schedule=other.stages[0].schedule) == other.stages[0]
        assert arm.stages[1:] == other.stages[1:] == reference.stages[1:]
    assert [arm.stages for arm in study.arms].count(reference.stages) == 1
    assert not [step for step in build_graph(study).steps if step.kind == "pretrain"]


def test_the_claim_compares_with_the_arm_without_images() -> None:
    pairs = {(part.measure, part.expect, part.others) for part in FROM_SCRATCH.compare}
    assert pairs == {("vision", "less", ("share-000",)), ("text", "less", ("share-000",))}
    assert "2602.02276" in FROM_SCRATCH.dissent and "2504.07951" in FROM_SCRATCH.dissent
    assert "2603.03276" in FROM_SCRATCH.dissent
