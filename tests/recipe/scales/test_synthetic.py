"""The synthetic scales have enough data for their stages."""

from __future__ import annotations

from math import floor

import pytest

from firstsight.plan.graph import build_graph
from firstsight.recipe.mixture import SyntheticCaptions, SyntheticDialogues, SyntheticTexts
from firstsight.recipe.scales import Scale, get_scale
from firstsight.recipe.stages import Pretrain
from firstsight.studies.when import when


@pytest.mark.parametrize("name", ["smoke", "cpu", "hour"])
def test_sources_have_more_items_than_rows(name: str) -> None:
    """At least two documents for each text row, 2.5 captioned images and 2.2 dialogues for each image row."""
    arm = get_scale(name).base
    midtrain, finetune = arm.stages
    assert isinstance(arm.pretrain, Pretrain)
    rows = [stage.row_shape.rows(stage.tokens) for stage in (arm.pretrain, midtrain, finetune)]
    images = [floor(rows[1] * 4 / 5), floor(rows[2] * 7 / 8)]
    text = arm.pretrain.text.sources[0]
    assert isinstance(text, SyntheticTexts) and text.documents >= 2 * (sum(rows) - sum(images))
    captions, dialogues = (stage.mix.images.sources[0] for stage in (midtrain, finetune))
    assert isinstance(captions, SyntheticCaptions) and 2.5 * images[0] <= captions.images < 2.5 * images[0] + 3
    assert isinstance(dialogues, SyntheticDialogues) and 2.2 * images[1] <= dialogues.images < 2.2 * images[1] + 3
    assert text == midtrain.mix.text.sources[0] == finetune.mix.text.sources[0]


@pytest.mark.parametrize("name", ["smoke", "cpu", "hour"])
def test_an_image_and_its_text_fit_a_row(name: str) -> None:
    for stage in get_scale(name).base.stages:
        assert stage.model.image_tokens == 12 < stage.row_shape.length // 2
        assert stage.model.lm == get_scale(name).base.pretrain.model


def training_steps(scale: Scale) -> list[int]:
    """Steps of the trunk, the branch and the fine-tuning."""
    return [stage.row_shape.steps(stage.tokens) for stage in (scale.base.pretrain, *scale.base.stages)]


def test_hour_is_cpu_with_longer_training_and_more_seeds() -> None:
    cpu, hour = get_scale("cpu"), get_scale("hour")
    pairs = zip(cpu.base.stages, hour.base.stages, strict=True)
    for short, long in ((cpu.base.pretrain, hour.base.pretrain), *pairs):
        assert long.model == short.model and long.row_shape == short.row_shape and long.optim == short.optim
    assert training_steps(cpu) == [2400, 720, 1080] and training_steps(hour) == [4800, 720, 2160]
    assert (cpu.seeds, hour.seeds) == (2, 6)


def test_hour_shares_the_encoder_and_the_benchmarks_of_cpu() -> None:
    cpu, hour = ({step.address for step in build_graph(when(get_scale(name))).steps} for name in ("cpu", "hour"))
    shared = {address.rsplit("-", 1)[0] for address in map(str, cpu & hour)}
    assert {"vocabulary", "contrast", "benchmarks", "captions-rich"} <= shared
    assert not any(name.startswith(("pretrain", "midtrain", "finetune")) for name in shared)
