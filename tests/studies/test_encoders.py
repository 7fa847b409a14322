"""Studies of encoders: arms differ only in the studied setting."""

from __future__ import annotations

from dataclasses import replace

import pytest

from firstsight.errors import QuantityError
from firstsight.recipe.scales import branch_at, get_scale
from firstsight.recipe.vision import FusedEncoders, PatchProjectionSpec
from firstsight.studies.encoders import encoder_variants, encoders
from firstsight.studies.when import when
from firstsight.units import Share


@pytest.mark.parametrize(
    ("scale", "tokens"),
    [
        ("smoke", {"siglip": 12, "patches": 12, "shuffle-2": 3, "prefix": 12}),
        (
            "1b",
            {"siglip": 729, "siglip-dinov2": 729, "patches": 729, "shuffle-2": 196, "shuffle-3": 81, "prefix": 729},
        ),
    ],
)
def test_arms_of_encoders_have_the_expected_image_tokens(scale: str, tokens: dict[str, int]) -> None:
    study = encoders(get_scale(scale))
    sighted = {arm.name: arm.stages for arm in study.arms if arm.stages and arm.seed == 1}
    assert {name: stages[0].model.image_tokens for name, stages in sighted.items()} == tokens
    assert all(len({stage.model for stage in stages}) == 1 for stages in sighted.values())
    assert sighted["siglip"] == when(get_scale(scale)).arm("start-080.s1").stages
    patches = sighted["patches"][0].model
    assert isinstance(patches.vision, PatchProjectionSpec)
    assert patches.vision.width == patches.lm.width
    if scale == "1b":
        assert patches.vision.width == 2048, "the width that the authors' code gives it"
        fused = sighted["siglip-dinov2"][0].model.vision
        assert isinstance(fused, FusedEncoders)
        assert (fused.width, fused.first) == (1152 + 1024, sighted["siglip"][0].model.vision)


def test_scale_without_siglip_is_an_error() -> None:
    model = branch_at(get_scale("smoke"), Share(4, 5)).stages[0].model
    with pytest.raises(QuantityError, match="SigLIP"):
        list(
            encoder_variants(
                replace(model, vision=PatchProjectionSpec(image_size=8, patch_size=4, width=8, fit="resize"))
            )
        )
