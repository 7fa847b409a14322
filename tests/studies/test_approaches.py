"""The study `approaches`: recipes as published, at equal budgets, that differ in nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from firstsight.recipe.mixture import source_label
from firstsight.recipe.scales import SCALES, get_scale
from firstsight.recipe.stages import Finetune, Midtrain
from firstsight.recipe.study import Arm
from firstsight.studies.approaches import APPROACHES, approaches
from firstsight.studies.when import when
from firstsight.units import Share, Tokens

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "approaches.md"
FROZEN_ENCODER = {"paper", "blip3", "flamingo", "prismatic"}
"""Their encoder trains in no stage."""


def stages(arm: Arm) -> list[Midtrain]:
    return [stage for stage in arm.stages if isinstance(stage, Midtrain)]


def trained(stage: Midtrain | Finetune) -> str:
    """The initials of the modules that train."""
    return "".join(name[0] for name in ("decoder", "projector", "encoder") if getattr(stage.trains, name))


@pytest.mark.parametrize("name", SCALES)
def test_all_recipes_have_the_same_budget_and_models(name: str) -> None:
    scale = replace(get_scale(name), seeds=1)
    study, (midtrain, finetune) = approaches(scale), scale.base.stages
    own = when(scale).arm("start-080.s1")
    assert study.arm("paper") == replace(own, name="paper", at={"approach": "paper"}, group="")
    for arm in study.arms[1:]:
        *parts, tuned = arm.stages
        assert sum(stage.tokens for stage in parts) == midtrain.tokens
        for stage in parts:
            assert stage.tokens > 0
            shared = midtrain.model
            model = replace(
                stage.model, encoder=shared.encoder, attention="causal", stores_features=shared.stores_features
            )
            assert replace(
                stage, model=model, tokens=midtrain.tokens, mix=midtrain.mix, schedule=midtrain.schedule,
                trains=midtrain.trains, seed=0,
            ) == midtrain  # fmt: skip
            assert stage.mix.text == midtrain.mix.text
        assert all(stage.tokens % stage.row_shape.tokens_per_step == 0 for stage in parts[:-1])
        assert replace(tuned, model=finetune.model, trains=finetune.trains, seed=0) == finetune
        assert {stage.model.encoder for stage in arm.stages} == {
            scale.base.stages[0].model.encoder if arm.name in FROZEN_ENCODER else "included"
        }
    totals = {arm.total_tokens() for arm in approaches(scale, horizon="full").arms if arm.stages}
    assert len(totals) == 1


@pytest.mark.parametrize("scale", ["smoke", "1b"])
def test_what_the_publications_state(scale: str) -> None:
    """Image shares, what trains, and the start; by hand, from the publications that the reference page names."""
    arms = {arm.name: arm for arm in approaches(replace(get_scale(scale), seeds=1)).arms if arm.stages}
    late = {name for name, arm in arms.items() if arm.start != 1}
    assert late == {"paper", "deepseek-vl"} and {arms[name].start for name in late} == {Share(4, 5)}
    shares = {name: [stage.mix.image_share for stage in stages(arm)] for name, arm in arms.items()}
    percents = {name: [100 * share for share in values] for name, values in shares.items()}
    del percents["paper"]
    assert percents == {
        "blip3": [100], "flamingo": [100], "idefics": [100], "prismatic": [0], "paligemma": [100, 100],
        "mm1-100": [100], "mm1-091": [91], "mm1-086": [86], "mm1-066": [66],
        "deepseek-vl": [100, 30], "deepseek-vl2": [100, 70], "janus": [100, 40], "qwen-vl": [100, 90],
    }  # fmt: skip
    assert {name: " ".join(map(trained, arm.stages)) for name, arm in arms.items()} == {
        "paper": "dp dp", "blip3": "dp dp", "prismatic": "d dp", "flamingo": "p p", "idefics": "p dpe",
        **dict.fromkeys(("mm1-100", "mm1-091", "mm1-086", "mm1-066"), "dpe dpe"), "deepseek-vl": "p dp dpe",
        "deepseek-vl2": "pe dpe dpe", "qwen-vl": "pe dpe dp", "paligemma": "dpe dpe dpe", "janus": "p dp dpe",
    }  # fmt: skip
    flamingo = stages(arms["flamingo"])[0].mix.images.components
    assert [component.share for component in flamingo] == [Share(10, 14), Share(4, 14)], "1.0 to .2 and .2"
    idefics = stages(arms["idefics"])[0].mix.images.components
    assert [round(100 * float(component.share)) for component in idefics] == [round(73.85 + 6.15), round(17.18 + 2.82)]
    first, second = stages(arms["paligemma"])
    assert first.model.attention == "prefix"
    resolved = arms["paligemma"].resolved_stages()
    assert resolved[0].lr(first.rounded_tokens) == resolved[1].lr(Tokens(0)) > scale_floor(scale)
    if scale == "smoke":
        (reading,) = second.mix.images.sources
        assert source_label(reading) == "multitask (12.5 % captions, 37.5 % words, 37.5 % boxes, 12.5 % dialogues)"


def scale_floor(scale: str) -> float:
    return get_scale(scale).rewarm.min_lr


def test_every_arm_is_explained() -> None:
    page = PAGE.read_text()
    assert all(f"`{name}`" in page for name in ("paper", *APPROACHES))
