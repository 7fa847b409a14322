"""From pixels to image vectors: one or two encoder towers in Hugging Face layout, or one trained convolution.

Shapes: N images of S x S pixels (uint8, channels last), I tokens an image, W vision width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from firstsight.errors import ModelError
from firstsight.recipe.vision import Dinov2, EncoderSpec, Patches, TowerSpec

Pixels = UInt8[Tensor, "N S S 3"]
Seen = Float[Tensor, "N I W"]


def scaled(pixels: Pixels, dtype: torch.dtype = torch.float32) -> Float[Tensor, "N 3 S S"]:
    """Channels first, in -1..1: SigLIP's mean and deviation of one half."""
    return pixels.permute(0, 3, 1, 2).to(dtype).div(127.5).sub(1)


class PatchProjection(nn.Module):
    """One strided convolution without bias, trained with the model. Source: paper section 3."""

    def __init__(self, spec: Patches) -> None:
        super().__init__()
        self.spec = spec
        self.conv = nn.Conv2d(3, spec.width, spec.patch, stride=spec.patch, bias=False)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        deviation = (3 * self.spec.patch**2) ** -0.5
        nn.init.trunc_normal_(self.conv.weight, std=deviation, a=-3 * deviation, b=3 * deviation, generator=generator)

    def forward(self, pixels: Pixels) -> Seen:
        """Patches row by row of the picture."""
        return self.conv(scaled(pixels, self.conv.weight.dtype)).flatten(2).transpose(1, 2)


class Encoder(nn.Module):
    """The towers of a spec on the same pixels, their patch features side by side on channels."""

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.spec = spec
        self.towers = nn.ModuleList([_built(one) for one in spec.towers])

    def forward(self, pixels: Pixels) -> Seen:
        """Patch outputs of the second-to-last block, no head and no class token. Source: paper section 3."""
        return torch.cat(
            [_run(one, tower, pixels) for one, tower in zip(self.spec.towers, self.towers, strict=True)], -1
        )


def _built(spec: TowerSpec) -> nn.Module:
    if isinstance(spec, Dinov2):
        raise NotImplementedError
    from transformers import SiglipVisionConfig, SiglipVisionModel  # costs a second that text-only steps need not pay

    vit = spec.vit
    config = SiglipVisionConfig(
        num_hidden_layers=vit.layers,
        hidden_size=vit.width,
        intermediate_size=vit.hidden,
        num_attention_heads=vit.heads,
        image_size=vit.image,
        patch_size=vit.patch,
    )
    return SiglipVisionModel(config)


def _run(spec: TowerSpec, tower: nn.Module, pixels: Pixels) -> Seen:
    return tower(pixel_values=scaled(pixels), output_hidden_states=True).hidden_states[-2]


def load_encoder(spec: EncoderSpec, folders: Sequence[Path]) -> Encoder:
    """The towers of a spec with published weights, one folder each; frozen, in eval mode."""
    encoder = Encoder(spec)
    encoder.towers = nn.ModuleList([load_siglip(folder) for folder in folders])
    return encoder.requires_grad_(False).eval()


def load_siglip(folder: Path) -> nn.Module:
    """The frozen vision tower of a SigLIP folder in Hugging Face layout, the whole model's or the tower's own."""
    from transformers import SiglipVisionModel  # costs a second that text-only steps need not pay
    from transformers.utils import logging

    config = folder / "config.json"
    if not config.is_file():
        raise ModelError(f"{folder}: wanted a SigLIP in Hugging Face layout. Got no config.json. Name its folder.")
    kind = json.loads(config.read_text()).get("model_type")
    if kind not in ("siglip", "siglip_vision_model"):
        raise ModelError(f"{config}: wanted model_type siglip or siglip_vision_model. Got {kind!r}. Name a SigLIP.")
    loudness = logging.get_verbosity()
    logging.set_verbosity_error()  # the text tower's weights are left out on purpose: no table of them
    logging.disable_progress_bar()
    try:
        found: Any = SiglipVisionModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    finally:
        logging.set_verbosity(loudness)
        logging.enable_progress_bar()
    tower, told = found
    if told["missing_keys"]:
        raise ModelError(f"{folder}: the vision tower lacks {', '.join(sorted(told['missing_keys']))}. Copy it again.")
    return tower.requires_grad_(False).eval()


@torch.no_grad()
def features(encoder: nn.Module, pixels: Pixels) -> Seen:
    """What a frozen encoder sees."""
    return encoder(pixels)
