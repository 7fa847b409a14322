"""The study `instruct`: dialogues in the place of captions, in exact shares of the image rows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from firstsight.recipe.mixture import External
from firstsight.recipe.scales import SCALES, get_scale
from firstsight.studies.instruct import DIALOGUE_PASSES, instruct
from firstsight.studies.when import when
from firstsight.units import Share


@pytest.mark.parametrize("name", SCALES)
def test_arms_differ_in_the_images_of_mid_training_only(name: str) -> None:
    scale = replace(get_scale(name), seeds=1)
    reference = when(scale).arm("start-080")
    captions, dialogues = (stage.mix.images.components for stage in reference.stages)
    arms = [arm for arm in instruct(scale).arms if arm.stages]
    assert [arm.name for arm in arms] == ["instruct-000", "instruct-020", "instruct-050", "instruct-100"]
    assert arms[0].stages == reference.stages, "a step of `when`"
    for arm, share in zip(arms, (Share(0), Share(1, 5), Share(1, 2), Share(1)), strict=True):
        midtrain, finetune = arm.stages
        assert finetune == reference.stages[1] and arm.at == {"instruct_share": share}
        mix = replace(midtrain.mix, images=reference.stages[0].mix.images)
        assert replace(midtrain, mix=mix) == reference.stages[0]
        shares = {component.source: component.share for component in midtrain.mix.images.components}
        expected = {captions[0].source: 1 - share, dialogues[0].source: share}
        assert shares == {source: value for source, value in expected.items() if value}


def test_passes_through_the_papers_dialogues_are_allowed_and_needed() -> None:
    """At 1b a tenth of 109,848 steps of 256 rows is 4.5 times the 624,610 dialogues."""
    midtrain = instruct(get_scale("1b")).arm("instruct-100").stages[0]
    (component,) = midtrain.mix.images.components
    assert isinstance(component.source, External)
    passes = midtrain.mix.image_rows(109_848 * 256) / component.source.records
    assert DIALOGUE_PASSES - 1 < passes < component.max_epochs == DIALOGUE_PASSES
    assert passes == pytest.approx(4.5, abs=0.01)
