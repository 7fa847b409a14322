"""Encoders: parameters against transformers' own modules, colours and grids against their definitions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel, SiglipVisionConfig, SiglipVisionModel

from firstsight.errors import FieldError, QuantityError
from firstsight.recipe.mixture import External
from firstsight.recipe.scales import get_scale
from firstsight.recipe.scales.models import (
    dinov2_large_reg_384,
    patches_14_384,
    siglip_base_224,
    siglip_dinov2_384,
    siglip_so400m_384,
)
from firstsight.recipe.vision import ContrastiveTraining, Siglip, ViTSpec, mean_color_bytes
from firstsight.units import Tokens

FIRST, SECOND = (External(name=name, form="encoder", tokens=Tokens(0)) for name in ("first", "second"))


def parameter_count(model_class: Any, config: Any, *, left_out: tuple[str, ...]) -> int:
    """Parameters of a transformers model on the meta device, without those whose name contains one of `left_out`."""
    with torch.device("meta"):
        model = model_class(config)
    return sum(
        parameter.numel() for name, parameter in model.named_parameters() if not any(part in name for part in left_out)
    )


def vision_config(vit: ViTSpec) -> dict[str, int]:
    return {
        "hidden_size": vit.width,
        "num_hidden_layers": vit.layers,
        "num_attention_heads": vit.heads,
        "image_size": vit.image_size,
        "patch_size": vit.patch_size,
    }


@pytest.mark.parametrize("tower", [siglip_so400m_384(FIRST), siglip_base_224(FIRST)])
def test_siglip_has_the_parameters_of_transformers(tower: Any) -> None:
    config = SiglipVisionConfig(**vision_config(tower.vit), intermediate_size=tower.vit.mlp_width)
    left_out = ("head.", f"layers.{tower.vit.layers - 1}.", "post_layernorm")
    assert tower.parameters() == parameter_count(SiglipVisionModel, config, left_out=left_out)
    assert tower.vit.parameters() == parameter_count(SiglipVisionModel, config, left_out=("head.",))


def test_dinov2_has_the_parameters_of_transformers() -> None:
    tower = dinov2_large_reg_384(FIRST)
    config = Dinov2WithRegistersConfig(**{**vision_config(tower.vit), "image_size": 518}, num_register_tokens=4)
    left_out = (f"layer.{tower.vit.layers - 1}.", "layernorm.", "mask_token")
    assert tower.parameters() == parameter_count(Dinov2WithRegistersModel, config, left_out=left_out)


def test_a_fused_pair_adds_widths_and_costs() -> None:
    pair = siglip_dinov2_384(FIRST, SECOND)
    first, second = pair.towers
    assert (pair.tokens, pair.width, pair.grid_size) == (729, 1152 + 1024, 27)
    assert pair.flops() == first.flops() + second.flops()
    assert pair.parameters() == first.parameters() + second.parameters()
    with pytest.raises(QuantityError, match=r"fused encoders have the same image size .* Got \(384, 27, 'resize'\)"):
        replace(pair, second=replace(pair.second, fit="letterbox"))


def test_padding_is_the_mean_colour() -> None:
    assert siglip_so400m_384(FIRST).pad_color == patches_14_384(8).pad_color == (128, 128, 128)
    assert dinov2_large_reg_384(FIRST).pad_color == (124, 116, 104)
    assert siglip_dinov2_384(FIRST, SECOND).pad_color == (128, 128, 128)
    assert mean_color_bytes((0.0, 1.0, 0.5 / 255)) == (0, 255, 1)


def test_a_patch_projection_is_one_matrix() -> None:
    patches = patches_14_384(2048)
    assert (patches.tokens, patches.width) == (27**2, 2048)
    assert patches.parameters() == 3 * 14 * 14 * 2048 and patches.flops() == 2 * 729 * patches.parameters()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layers": 1}, "second-to-last block. Got 1"),
        ({"heads": 5}, "heads must divide the width. Got 5"),
        ({"patch_size": 500}, "at least one patch. Got 384 pixels"),
    ],
)
def test_impossible_shapes_are_refused(change: dict[str, int], words: str) -> None:
    with pytest.raises(QuantityError, match=words):
        replace(siglip_so400m_384(FIRST).vit, **change)


@pytest.mark.parametrize("field", ["text_layers", "text_width", "steps", "batch_size"])
def test_training_of_an_encoder_has_at_least_one_of_everything(field: str) -> None:
    vision = get_scale("smoke").base.stages[0].model.vision
    assert isinstance(vision, Siglip) and isinstance(vision.weights, ContrastiveTraining)
    with pytest.raises(FieldError, match=rf"ContrastiveTraining\.{field}: wanted at least 1\. Got 0\."):
        replace(vision.weights, **{field: 0})
