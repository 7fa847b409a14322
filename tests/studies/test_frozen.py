"""The study `frozen`: arms differ only in how the encoder trains, and in the share of images."""

from __future__ import annotations

from dataclasses import replace

import pytest

from firstsight.plan.graph import build_graph
from firstsight.recipe.scales import get_scale
from firstsight.recipe.stages import Finetune
from firstsight.recipe.study import Arm
from firstsight.studies.frozen import frozen
from firstsight.studies.when import when
from firstsight.units import Share


def as_frozen(arm: Arm) -> Arm:
    """An arm without the settings that the study `frozen` varies, and without its coordinates."""
    stages = [
        replace(stage, model=replace(stage.model, encoder="external"), trains=replace(stage.trains, encoder=None))
        for stage in arm.stages
    ]
    stages[0] = replace(stages[0], mix=replace(stages[0].mix, image_share=Share(1, 10)))
    return replace(arm, name="frozen", stages=tuple(stages), at={})


@pytest.mark.parametrize(
    ("scale", "percents", "epochs"),
    [("smoke", (30, 50, 80), 1), ("cpu", (30, 50, 80), 1), ("79m", (5, 30, 50), 3), ("1b", (5, 30, 50), 3)],
)
def test_arms_differ_in_encoder_training_and_share_only(scale: str, percents: tuple[int, ...], epochs: int) -> None:
    study = frozen(get_scale(scale), lowered=Share(1, 4))
    names = [f"{kind}-{percent:03d}" for percent in percents for kind in ("frozen", "trained")]
    names.append(f"lowered-{percents[-1]:03d}")
    assert [arm.name for arm in study.arms if arm.seed == 1] == ["trunk", *names]
    plain = study.arm(f"{names[0]}.s1")
    projectors = [stage.trains.projector for stage in plain.stages]
    rates = {"frozen": 0.0, "trained": 1.0, "lowered": 0.25}
    coordinates = {"frozen": "frozen", "trained": "1", "lowered": "0.25"}
    for name in names:
        arm, (kind, percent) = study.arm(f"{name}.s1"), name.split("-")
        for stage in arm.stages:
            decoder, encoder = stage.trains.decoder, stage.trains.encoder
            assert encoder == (replace(decoder, lr_scale=rates[kind]) if rates[kind] else None)
            assert stage.model.encoder == ("included" if rates[kind] else "external")
        assert arm.stages[0].mix.image_share == Share(int(percent), 100)
        assert [stage.trains.projector for stage in arm.stages] == projectors
        assert as_frozen(arm) == as_frozen(plain)
        assert arm.at == {"image_share": Share(int(percent), 100), "lr_multiple": coordinates[kind]}
    finetune = plain.stages[1]
    assert isinstance(finetune, Finetune) and finetune.epochs == epochs


def test_in_the_built_in_world_the_largest_share_is_an_arm_of_when() -> None:
    scale = get_scale("smoke")
    ours, others = build_graph(frozen(scale)), build_graph(when(scale))
    assert ours.final_step("frozen-080.s1") == others.final_step("start-080.s1")


def test_both_readings_of_the_paper_are_claims_with_its_numbers() -> None:
    """Table 4: 68.55 - 58.71, 69.42 - 60.22 and 71.0 - 60.85 points, in favour of the row that a reading prefers."""
    text, numbers = frozen(get_scale("79m")).claims
    for claim, best in ((text, "frozen"), (numbers, "trained")):
        assert [part.published for part in claim.compare] == [0.0984, 0.092, 0.1015]
        assert {name.split("-")[0] for part in claim.compare for name in part.arms} == {best}
        assert {part.measure for part in claim.compare} == {"vqav2"}
        assert "contradicts itself" in claim.caution
    assert {part.published for claim in frozen(get_scale("cpu")).claims for part in claim.compare} == {None}
