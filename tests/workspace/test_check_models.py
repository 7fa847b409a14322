"""transformers' own encoder configurations against the towers that recipes describe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    DINOv3ViTConfig,
    SiglipConfig,
    SiglipVisionConfig,
)

from firstsight.errors import RequestError
from firstsight.plan.step import Step
from firstsight.recipe.mixture import External
from firstsight.recipe.scales import get_scale
from firstsight.recipe.scales.models import dinov2_large_reg_384, siglip_base_224, siglip_dinov2_384
from firstsight.recipe.stages import Evaluate
from firstsight.recipe.vision import Clip, Dinov2, Dinov3, ViTSpec
from firstsight.site import Location, Site
from firstsight.units import Tokens
from firstsight.workspace.check_models import check_models, encoder_mismatch

ONE, TWO = (External(name=name, form="encoder", tokens=Tokens(0)) for name in ("one", "two"))
SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 518, "patch_size": 14}
"""The configurations of google/siglip-so400m-patch14-384 and facebook/dinov2-with-registers-large."""


def encoder_folder(folder: Path, config: Any) -> Location:
    """A folder as transformers writes it, with empty weights: only the configuration is read."""
    config.save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"")
    return Location(path=str(folder))


def test_missing_fields_have_the_defaults_of_transformers(tmp_path: Path) -> None:
    """Newer versions write only what differs from their defaults: an empty configuration equals a full one."""
    plain = ViTSpec(layers=12, width=768, heads=12, mlp_width=3072, image_size=224, patch_size=14)
    small = replace(plain, width=384, heads=6, mlp_width=1536, patch_size=16)
    for config, tower in (
        (SiglipVisionConfig(), siglip_base_224(ONE)),
        (CLIPVisionConfig(), Clip(vit=replace(plain, patch_size=32), fit="resize", weights=ONE)),
        (DINOv3ViTConfig(), Dinov3(vit=small, fit="resize_bilinear", registers=0, weights=ONE)),
        (Dinov2Config(), Dinov2(vit=plain, fit="resize", registers=0, position_grid_size=16, weights=ONE)),
        (
            Dinov2WithRegistersConfig(),
            Dinov2(vit=replace(plain, patch_size=16), fit="resize", registers=4, position_grid_size=14, weights=ONE),
        ),
    ):
        for body in (config.to_json_string(use_diff=False), f'{{"model_type": "{config.model_type}"}}'):
            location = encoder_folder(tmp_path / config.model_type, config)
            (tmp_path / config.model_type / "config.json").write_text(body)
            assert encoder_mismatch(tower, location, "one") == ""


def test_a_siglip_model_and_its_vision_tower_are_the_same_encoder(tmp_path: Path) -> None:
    model = encoder_folder(tmp_path / "whole", SiglipConfig(vision_config=SO400M))
    tower_folder = encoder_folder(tmp_path / "alone", SiglipVisionConfig(**SO400M))
    tower = get_scale("1b").base.stages[0].model.vision.towers[0]
    assert encoder_mismatch(tower, model, "one") == encoder_mismatch(tower, tower_folder, "one") == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_register_tokens": 8}, "wanted num_register_tokens 4, got 8"),
        ({"image_size": 224}, "wanted image_size 518, got 224"),
        ({"num_attention_heads": 8}, "wanted num_attention_heads 16, got 8"),
        ({"mlp_ratio": 2}, "wanted mlp_ratio 4.0, got 2"),
        ({"use_swiglu_ffn": True}, "wanted use_swiglu_ffn False, got True"),
    ],
)
def test_a_dinov2_of_another_shape_is_reported_by_its_fields(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    location = encoder_folder(tmp_path, Dinov2WithRegistersConfig(**{**LARGE, **change}))
    assert encoder_mismatch(dinov2_large_reg_384(ONE), location, "one") == message


@pytest.mark.parametrize("encoder", ["external", "included"])
def test_each_tower_of_a_pair_is_checked(tmp_path: Path, encoder: Any) -> None:
    base = get_scale("1b").base.stages[0]
    stage = replace(base, model=replace(base.model, vision=siglip_dinov2_384(ONE, TWO), encoder=encoder))
    stage = replace(stage, tokenizer=get_scale("smoke").base.pretrain.tokenizer)
    step = Step(kind="midtrain", spec=stage, version=1)
    first = encoder_folder(tmp_path / "one", SiglipConfig(vision_config=SO400M))
    second = encoder_folder(tmp_path / "two", Dinov2WithRegistersConfig(**LARGE))
    check_models([step], Site(sources={"one": first, "two": second}))
    with pytest.raises(RequestError, match=r"one: wanted model_type siglip or siglip_vision_model, got dinov2_with"):
        check_models([step], Site(sources={"one": second, "two": second}))
    small = encoder_folder(tmp_path / "small", Dinov2WithRegistersConfig(**{**LARGE, "hidden_size": 768}))
    with pytest.raises(RequestError, match=r"two: wanted hidden_size 1024, got 768 in .*small/config\.json\. Name"):
        check_models([step], Site(sources={"one": first, "two": small}))


def test_tasks_are_built_in_or_the_user_s_own(tmp_path: Path) -> None:
    """As the harness finds them in the folder of benchmarks, but before anything runs."""
    benchmarks = External(name="mine", form="benchmarks", tokens=Tokens(0))
    spec = Evaluate(benchmarks=benchmarks, vision_tasks=("gqa",), text_tasks=("copa",))
    site = Site(sources={"mine": Location(path=str(tmp_path))})
    check_models([Step(kind="evaluate", spec=spec, version=1)], site)
    wrong = Step(kind="evaluate", spec=replace(spec, vision_tasks=("gqa2",)), version=1)
    with pytest.raises(RequestError, match=r"no task is called 'gqa2'\. Nearest: gqa"):
        check_models([wrong], site)
