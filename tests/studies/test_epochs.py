"""The study `epochs`: fine-tunings of one to four epochs on two branches of `when`, each with its own schedule."""

from __future__ import annotations

from dataclasses import replace

import pytest

from firstsight.plan.graph import build_graph
from firstsight.recipe.analysis import Sweep
from firstsight.recipe.scales import SCALES, get_scale
from firstsight.recipe.stages import Finetune
from firstsight.studies.epochs import epochs
from firstsight.studies.when import when
from firstsight.units import Tokens


@pytest.mark.parametrize("name", SCALES)
def test_arms_are_branches_of_when_with_other_epochs(name: str) -> None:
    scale = replace(get_scale(name), seeds=1)
    study, reference = epochs(scale), when(scale)
    own = []
    for arm in study.arms:
        if arm.stages:
            branch = reference.arm(arm.name[: len("start-080")])
            *before, finetune = arm.stages
            tuned = branch.stages[-1]
            assert isinstance(finetune, Finetune) and isinstance(tuned, Finetune)
            assert finetune.epochs == arm.at["epochs"] and arm.at["start"] == branch.start
            assert (*before, replace(finetune, epochs=tuned.epochs)) == branch.stages
            own += [arm.name] * (arm.stages == branch.stages)
    assert len(study.arms) == 1 + 2 * 4
    count = 1 if name in ("smoke", "cpu", "hour") else 2
    assert own == [f"start-080-epochs-{count}", f"start-000-epochs-{count}"]
    assert study.figures == (Sweep(x="epochs", lines="start"),)


def test_every_number_of_epochs_has_a_schedule_of_its_own() -> None:
    """Linear over 3 % of all its tokens, then cosine to 0 at their end."""
    for arm in epochs(get_scale("1b")).arms:
        if arm.stages:
            finetune = arm.resolved_stages()[-1]
            total = finetune.rounded_tokens
            assert total == int(arm.at["epochs"]) * 4_879 * 128 * 1_024  # type: ignore[arg-type]
            assert finetune.lr(total) == 0 and finetune.lr(Tokens(total * 3 // 100)) == pytest.approx(2e-5, rel=1e-3)


def test_branches_share_their_mid_training() -> None:
    graph = build_graph(epochs(get_scale("1b")))
    counts = [[step.kind for step in graph.steps].count(kind) for kind in ("midtrain", "finetune", "evaluate")]
    assert counts == [2, 8, 9]
