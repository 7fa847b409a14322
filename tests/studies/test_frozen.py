"""The study `frozen`: arms differ only in how the encoder trains."""

from __future__ import annotations

from dataclasses import replace

import pytest

from firstsight.recipe.scales import get_scale
from firstsight.recipe.study import Arm
from firstsight.studies.frozen import frozen
from firstsight.studies.when import when
from firstsight.units import Share


def as_frozen(arm: Arm) -> Arm:
    """An arm without the settings that the study `frozen` varies, and without its coordinate."""
    stages = (
        replace(
            stage,
            model=replace(stage.model, encoder="external"),
            trains=replace(stage.trains, encoder=None),
        )
        for stage in arm.stages
    )
    return replace(arm, name="frozen", stages=tuple(stages), at={})


@pytest.mark.parametrize("scale", ["smoke", "cpu", "79m", "1b"])
def test_arms_of_frozen_differ_in_encoder_training_only(scale: str) -> None:
    study = frozen(get_scale(scale), lowered=Share(1, 4))
    plain = study.arm("frozen.s1")
    projectors = [stage.trains.projector for stage in plain.stages]
    for name, rate in (("frozen", 0.0), ("trained", 1.0), ("lowered", 0.25)):
        arm = study.arm(f"{name}.s1")
        for stage in arm.stages:
            decoder, encoder = stage.trains.decoder, stage.trains.encoder
            assert encoder == (replace(decoder, lr_scale=rate) if rate else None)
            assert stage.model.encoder == ("included" if rate else "external")
        assert [stage.trains.projector for stage in arm.stages] == projectors
        assert as_frozen(arm) == as_frozen(plain)
    assert plain == replace(when(get_scale(scale)).arm("start-080.s1"), name="frozen", at=plain.at)
    coordinates = {arm.name: arm.at["lr_multiple"] for arm in study.arms if arm.at}
    assert coordinates == {"frozen": "frozen", "trained": "1", "lowered": "0.25"}
