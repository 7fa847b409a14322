"""The study `epochs`: fine-tunings of one to four epochs on two branches of `when`, each with its own schedule."""

from __future__ import annotations

from dataclasses import replace
from math import cos, pi

import pytest

from firstsight.plan.graph import build_graph
from firstsight.plan.schedules import early_evaluation, training_lines
from firstsight.recipe.analysis import Sweep
from firstsight.recipe.scales import PAPER_SIZES, SCALES, get_scale
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
    count = 2 if name in PAPER_SIZES else 1
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


@pytest.mark.parametrize("name", SCALES)
def test_one_run_publishes_a_checkpoint_after_every_epoch(name: str) -> None:
    scale = replace(get_scale(name), seeds=1)
    study = epochs(scale, runs="one")
    counts = [[step.kind for step in build_graph(study).steps].count(kind) for kind in ("finetune", "evaluate")]
    assert counts == [2, 9]
    assert [arm.name for arm in study.arms] == [arm.name for arm in epochs(scale).arms]
    for arm in study.arms:
        if arm.stages:
            finetune = arm.stages[-1]
            assert isinstance(finetune, Finetune) and isinstance(arm.at["epochs"], int)
            tokens = finetune.checkpoint_tokens[arm.evaluate.checkpoint]
            step = finetune.row_shape.tokens_per_step
            assert abs(tokens - arm.at["epochs"] * finetune.epoch_tokens) < 4 * step


def test_the_plan_says_how_one_run_differs_from_runs_of_their_own() -> None:
    """After two of four epochs: 3 % warm-up, then half of a cosine from 2e-5, at (2 - .12) / (4 - .12) of it."""
    study = epochs(replace(get_scale("1b"), seeds=1), runs="one")
    texts = {arm.name: early_evaluation(arm) for arm in study.arms}
    rate = 1e-5 * (1 + cos(pi * (2 - 0.12) / (4 - 0.12)))
    assert texts["start-080-epochs-4"] == texts["trunk"] == ""
    assert texts["start-080-epochs-2"] == (
        f"evaluated after 1,279,000,576 of the 2,558,001,152 tokens of finetune, at a learning rate of {rate:.4g}; "
        "a run of its own of that length would have ended at 0"
    )
    assert f"start-080-epochs-2: {texts['start-080-epochs-2']}" in training_lines(study)


def test_branches_share_their_mid_training() -> None:
    graph = build_graph(epochs(get_scale("1b")))
    counts = [[step.kind for step in graph.steps].count(kind) for kind in ("midtrain", "finetune", "evaluate")]
    assert counts == [2, 8, 9]
