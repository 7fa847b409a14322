"""The study `multipliers`: mid-training of one, two and four times the tokens, each with its own schedule."""

from __future__ import annotations

from dataclasses import replace

import pytest

from firstsight.recipe.scales import SCALES, get_scale
from firstsight.recipe.stages import Midtrain
from firstsight.studies.multipliers import multipliers
from firstsight.studies.when import when


@pytest.mark.parametrize("name", SCALES)
def test_arms_differ_in_the_tokens_of_mid_training_only(name: str) -> None:
    scale = replace(get_scale(name), seeds=1)
    reference = when(scale).arm("start-080")
    arms = [arm for arm in multipliers(scale).arms if arm.stages]
    assert arms[0].stages == reference.stages
    for arm, factor in zip(arms, (1, 2, 4), strict=True):
        midtrain, *later = arm.stages
        assert isinstance(midtrain, Midtrain)
        base = reference.stages[0]
        assert isinstance(base, Midtrain)
        assert midtrain.tokens == factor * base.tokens and arm.at == {"multiplier": factor}
        assert (replace(midtrain, tokens=base.tokens), *later) == reference.stages
        resolved = arm.resolved_stages()[0]
        assert resolved.lr(resolved.rounded_tokens) == scale.rewarm.min_lr, "the schedule ends where the stage does"


def test_multiples_of_the_papers_79m_are_of_20_tokens_a_parameter() -> None:
    arms = [arm for arm in multipliers(get_scale("79m")).arms if arm.stages]
    parameters = arms[0].stages[0].model.lm.parameters()
    ratios = [arm.stages[0].rounded_tokens / parameters for arm in arms]
    assert ratios == pytest.approx([20, 40, 80], rel=0.01)
