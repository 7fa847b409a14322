"""A frozen encoder beside a checkpoint: each of its towers as a folder, as encoders are published."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from firstsight.model.tensors import write_tensors
from firstsight.recipe.model import VLMSpec
from firstsight.recipe.vision import PatchProjectionSpec, Siglip, TowerSpec

ENCODER_TENSOR_NAME = re.compile(r"encoder\.towers\.(\d)\.(.+)")
"""A frozen tower's tensor among those of a whole model: which tower, and its name there."""


def write_encoder_towers(folder: Path, spec: VLMSpec, tensors: Mapping[str, Tensor]) -> None:
    """A frozen encoder's towers as folders beside the model, in the layout that encoders are published in."""
    towers = () if isinstance(spec.vision, PatchProjectionSpec) else spec.vision.towers
    for tower_index, tower in enumerate(towers):
        tower_folder = folder / f"encoder{tower_index}"
        tower_folder.mkdir()
        matches = [
            (match, name)
            for name in tensors
            if (match := ENCODER_TENSOR_NAME.fullmatch(name)) and int(match[1]) == tower_index
        ]
        write_tensors(tower_folder, {match[2]: tensors[name] for match, name in matches})
        (tower_folder / "config.json").write_text(json.dumps(_tower_config(tower), sort_keys=True, indent=1) + "\n")


def _tower_config(spec: TowerSpec) -> dict[str, Any]:
    """A tower's config.json; its last block, which nobody runs, is counted and not there."""
    vit = spec.vit
    sizes: dict[str, Any] = {
        "num_hidden_layers": vit.layers,
        "hidden_size": vit.width,
        "num_attention_heads": vit.heads,
        "patch_size": vit.patch_size,
    }
    if isinstance(spec, Siglip):
        siglip_fields = {
            "model_type": "siglip_vision_model",
            "intermediate_size": vit.mlp_width,
            "image_size": vit.image_size,
        }
        return sizes | siglip_fields
    registers = {"num_register_tokens": spec.registers} if spec.registers else {}
    model_type = "dinov2_with_registers" if spec.registers else "dinov2"
    dinov2_sizes = {"image_size": spec.position_grid_size * vit.patch_size, "mlp_ratio": vit.mlp_width // vit.width}
    return sizes | registers | dinov2_sizes | {"model_type": model_type}
