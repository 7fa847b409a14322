"""FLOPs of training by formula, and the peaks of devices: what plans estimate with and logs are compared with.

In training a module costs its forward pass, as much again for the gradients of its activations if it or a module
before it trains, and as much again for those of its weights if it trains.
"""

from __future__ import annotations

import re

from firstsight.recipe.model import decoder_spec
from firstsight.recipe.stages import Donor, Finetune, Midtrain, Pretrain
from firstsight.recipe.vision import PatchProjectionSpec

PEAK_FLOPS: dict[str, float] = {
    "h100": 989e12,
    "h200": 989e12,
    "a100": 312e12,
    "b200": 2250e12,
    "l40s": 362e12,
    "rtx4090": 165e12,
    "cpu": 0.35e12,
}
"""Dense bf16 FLOPs per second, from the vendors' data sheets; cpu is one core."""


def device_peak_flops(device_name: str) -> float | None:
    """The peak of a GPU by the name that its driver reports, such as NVIDIA H100 80GB HBM3.

    None for any other, and for the slower PCIe and NVL cards of Hopper.
    """
    words = re.sub(r"rtx\s+", "rtx", device_name.lower())
    name = next((name for name in PEAK_FLOPS if name != "cpu" and re.search(rf"\b{name}\b", words)), None)
    if name is None or (name in ("h100", "h200") and re.search(r"\b(pcie|nvl)\b", words)):
        return None
    return PEAK_FLOPS[name]


def token_flops(run: Pretrain | Donor | Midtrain | Finetune) -> int:
    """FLOPs of one token in the decoder; a frozen one has the gradients of its activations, not of its weights."""
    lm, length = decoder_spec(run.model), run.row_shape.length
    if isinstance(run, Donor) or run.trains.decoder:
        return 3 * lm.flops(length)
    return 2 * lm.flops(length) + lm.attention_flops(length)  # attention has two activations for each product


def image_flops(stage: Midtrain | Finetune, *, stored_features: bool) -> int:
    """FLOPs of one image before the decoder; none in an encoder whose features are stored."""
    model, trains, vision = stage.model, stage.trains, stage.model.vision
    is_patch_projection = isinstance(vision, PatchProjectionSpec)
    projector_passes = 3 if trains.projector else 2 if trains.encoder else 1
    vision_passes = 3 if (trains.projector if is_patch_projection else trains.encoder) else 1
    if stored_features:
        vision_passes = 0
    return projector_passes * model.projector.flops(vision, model.lm) + vision_passes * vision.flops()
