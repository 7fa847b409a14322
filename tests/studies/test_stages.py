"""The study `stages`: checkpoints of one run."""

from __future__ import annotations

import pytest

from firstsight.plan.graph import build_graph
from firstsight.recipe.scales import get_scale
from firstsight.studies.stages import stages
from firstsight.studies.when import when


@pytest.mark.parametrize("name", ["smoke", "cpu", "1b"])
def test_it_adds_two_evaluations_a_seed_to_when(name: str) -> None:
    scale = get_scale(name)
    ours, others = (
        {step.address: step.kind for step in build_graph(study).steps} for study in (stages(scale), when(scale))
    )
    added = [kind for address, kind in ours.items() if address not in others]
    assert added == ["evaluate"] * 2 * scale.seeds


def test_each_arm_is_evaluated_after_the_stage_of_its_name() -> None:
    graph = build_graph(stages(get_scale("smoke")))
    last = {label: dict(steps[-1].needs)["checkpoint"] for label, steps in graph.arms.items()}
    assert {label: step.kind for label, step in last.items()} == {
        "trunk.s1": "pretrain",
        "start-080-text.s1": "pretrain",
        "start-080-midtrain.s1": "midtrain",
        "start-080.s1": "finetune",
    }
    assert dict(last["start-080.s1"].needs)["previous"] == last["start-080-midtrain.s1"]
    assert dict(last["start-080-midtrain.s1"].needs)["trunk"] == last["start-080-text.s1"]
