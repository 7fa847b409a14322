"""Specs of tiny encoder towers, and transformers' models of the same shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from firstsight.recipe.mixture import External
from firstsight.recipe.vision import Clip, Dinov2, Dinov3, Siglip, TowerSpec, ViTSpec
from firstsight.units import Tokens

EXTERNAL = External(name="tower", form="encoder", tokens=Tokens(0))
VIT = ViTSpec(layers=3, width=16, heads=2, mlp_width=32, image_size=16, patch_size=4)
SIGLIP = Siglip(vit=VIT, fit="resize", weights=EXTERNAL)
DINOV2_VIT = ViTSpec(layers=3, width=24, heads=3, mlp_width=96, image_size=16, patch_size=4)
DINOV2 = Dinov2(vit=DINOV2_VIT, fit="resize", registers=0, position_grid_size=5, weights=EXTERNAL)
DINOV2_REGISTERS = Dinov2(vit=DINOV2_VIT, fit="resize", registers=2, position_grid_size=7, weights=EXTERNAL)
DINOV3 = Dinov3(vit=replace(DINOV2_VIT, mlp_width=48), fit="resize_bilinear", registers=2, weights=EXTERNAL)
CLIP = Clip(vit=VIT, fit="resize", weights=EXTERNAL)
WEIGHT_STD = 0.4
"""Standard deviation of random weights, large enough that every part affects the features."""


def _vision_settings(vit: ViTSpec) -> dict[str, Any]:
    return {
        "hidden_size": vit.width,
        "intermediate_size": vit.mlp_width,
        "num_hidden_layers": vit.layers,
        "num_attention_heads": vit.heads,
        "image_size": vit.image_size,
        "patch_size": vit.patch_size,
    }


def _randomize(model: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, WEIGHT_STD, generator=generator)
    return model


def siglip_model() -> Any:
    """SigLIP with its text tower."""
    from transformers import SiglipConfig, SiglipModel

    text = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 8,
        "max_position_embeddings": 4,
        "projection_size": 16,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    return _randomize(SiglipModel(SiglipConfig(text_config=text, vision_config=_vision_settings(VIT))))


def siglip_vision_model() -> Any:
    """SigLIP's vision tower with its head."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    return _randomize(SiglipVisionModel(SiglipVisionConfig(**_vision_settings(VIT))))


def _dinov2_shape(spec: Dinov2) -> dict[str, Any]:
    shape = _vision_settings(spec.vit) | {
        "mlp_ratio": spec.vit.mlp_width // spec.vit.width,
        "image_size": spec.position_grid_size * 4,
    }
    del shape["intermediate_size"]
    return shape


def dinov2_model() -> Any:
    """DINOv2 with its mask token."""
    from transformers import Dinov2Config, Dinov2Model

    return _randomize(Dinov2Model(Dinov2Config(**_dinov2_shape(DINOV2))))


def dinov2_registers_model() -> Any:
    """DINOv2 with registers."""
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    shape = _dinov2_shape(DINOV2_REGISTERS)
    return _randomize(Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**shape, num_register_tokens=2)))


def dinov3_model() -> Any:
    """DINOv3 with registers and its mask token."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    return _randomize(DINOv3ViTModel(DINOv3ViTConfig(**_vision_settings(DINOV3.vit), num_register_tokens=2)))


def clip_model() -> Any:
    """CLIP with its text tower and projections."""
    from transformers import CLIPConfig, CLIPModel

    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"vocab_size": 8, "max_position_embeddings": 4, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    return _randomize(CLIPModel(CLIPConfig(text_config=text, vision_config=_vision_settings(VIT))))


def clip_vision_model() -> Any:
    """CLIP's vision tower alone."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    return _randomize(CLIPVisionModel(CLIPVisionConfig(**_vision_settings(VIT))))


TOWERS: dict[str, tuple[TowerSpec, Callable[[], Any]]] = {
    "siglip, whole": (SIGLIP, siglip_model),
    "siglip, tower": (SIGLIP, siglip_vision_model),
    "dinov2": (DINOV2, dinov2_model),
    "dinov2 with registers": (DINOV2_REGISTERS, dinov2_registers_model),
    "dinov3": (DINOV3, dinov3_model),
    "clip, whole": (CLIP, clip_model),
    "clip, tower": (CLIP, clip_vision_model),
}


def vision_tower(model: Any) -> Any:
    """The vision tower of a model with or without a text tower."""
    return model.vision_model if type(model).__name__ in ("SiglipModel", "CLIPModel") else model
