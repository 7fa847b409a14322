"""A frozen encoder beside a checkpoint: each of its towers as a folder, as encoders are published."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from firstsight.model.weights import write_tensors
from firstsight.recipe.model import VLMSpec
from firstsight.recipe.vision import Patches, Siglip, TowerSpec

NAME = re.compile(r"encoder\.towers\.(\d)\.(.+)")
"""A frozen tower's tensor among those of a whole model: which tower, and its name there."""


def write(folder: Path, spec: VLMSpec, tensors: Mapping[str, Tensor]) -> None:
    """A frozen encoder's towers as folders beside the model, in the layout that encoders are published in."""
    towers = () if isinstance(spec.vision, Patches) else spec.vision.towers
    for number, tower in enumerate(towers):
        inside = folder / f"encoder{number}"
        inside.mkdir()
        found = [(match, name) for name in tensors if (match := NAME.fullmatch(name)) and int(match[1]) == number]
        write_tensors(inside, {match[2]: tensors[name] for match, name in found})
        (inside / "config.json").write_text(json.dumps(_tower(tower), sort_keys=True, indent=1) + "\n")


def _tower(spec: TowerSpec) -> dict[str, Any]:
    """A tower's config.json; its last block, which nobody runs, is counted and not there."""
    vit = spec.vit
    told: dict[str, Any] = {
        "num_hidden_layers": vit.layers,
        "hidden_size": vit.width,
        "num_attention_heads": vit.heads,
        "patch_size": vit.patch,
    }
    if isinstance(spec, Siglip):
        whole = {"model_type": "siglip_vision_model", "intermediate_size": vit.hidden, "image_size": vit.image}
        return told | whole
    registers = {"num_register_tokens": spec.registers} if spec.registers else {}
    kind = "dinov2_with_registers" if spec.registers else "dinov2"
    size = {"image_size": spec.table * vit.patch, "mlp_ratio": vit.hidden // vit.width}
    return told | registers | size | {"model_type": kind}
