"""Published encoders: the paper's numbers, transformers' models, timm's published counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from firstsight.model.vision import Encoder, PatchProjection
from firstsight.recipe.mixture import External
from firstsight.recipe.scales.models import (
    dinov2_large_reg_384,
    patches_14_384,
    siglip_base_224,
    siglip_dinov2_384,
    siglip_so400m_384,
)
from firstsight.recipe.vision import Dinov2, Siglip
from firstsight.units import Tokens

FIRST_WEIGHTS, SECOND_WEIGHTS = (External(name=name, form="encoder", tokens=Tokens(0)) for name in ("one", "other"))
SO400M, BASE, LARGE = (
    siglip_so400m_384(FIRST_WEIGHTS),
    siglip_base_224(FIRST_WEIGHTS),
    dinov2_large_reg_384(SECOND_WEIGHTS),
)
PAIR = siglip_dinov2_384(FIRST_WEIGHTS, SECOND_WEIGHTS)


def transformers_model(spec: Siglip | Dinov2) -> nn.Module:
    """transformers' whole model of this shape on the meta device."""
    from transformers import (
        Dinov2WithRegistersConfig,
        Dinov2WithRegistersModel,
        SiglipVisionConfig,
        SiglipVisionModel,
    )

    vit = spec.vit
    shape: dict[str, Any] = {
        "num_hidden_layers": vit.layers,
        "hidden_size": vit.width,
        "num_attention_heads": vit.heads,
        "patch_size": vit.patch_size,
    }
    with torch.device("meta"):
        if isinstance(spec, Siglip):
            whole = SiglipVisionConfig(**shape, intermediate_size=vit.mlp_width, image_size=vit.image_size)
            return SiglipVisionModel(whole)
        return Dinov2WithRegistersModel(
            Dinov2WithRegistersConfig(
                **shape, image_size=spec.position_grid_size * vit.patch_size, num_register_tokens=spec.registers
            )
        )


def count_parameters(module: nn.Module, *excluded: str) -> int:
    return sum(
        parameter.numel() for name, parameter in module.named_parameters() if not any(mark in name for mark in excluded)
    )


@pytest.mark.parametrize(
    ("spec", "tokens", "width"),
    [(SO400M, 729, 1152), (BASE, 196, 768), (LARGE, 729, 1024), (PAIR, 729, 2176), (patches_14_384(2048), 729, 2048)],
    ids=["so400m", "base", "dinov2", "pair", "patches"],
)
def test_tokens_and_widths_match_the_paper(spec: Any, tokens: int, width: int) -> None:
    """Oracle: paper section 3; base/16@224 has 14 x 14 patches of width 768."""
    assert (spec.tokens, spec.width, spec.fit) == (tokens, width, "resize")
    assert spec.grid_size**2 == tokens


@pytest.mark.parametrize(
    ("spec", "millions"), [(SO400M, 428.23), (BASE, 92.88), (LARGE, 304.37)], ids=["so400m", "base", "dinov2"]
)
def test_parameter_counts_match_published_ones(spec: Siglip | Dinov2, millions: float) -> None:
    """Oracle: parameters that timm's results/benchmark-infer tables list for these three models."""
    whole = transformers_model(spec)
    assert round(count_parameters(whole, "mask_token") / 1e6, 2) == millions
    last = f".{spec.vit.layers - 1}."
    assert spec.parameters() == count_parameters(whole, last, "head.", "post_layernorm", "layernorm.", "mask_token")
    if isinstance(spec, Siglip):
        assert spec.vit.parameters() == count_parameters(whole, "head.")


@pytest.mark.parametrize(("spec", "giga"), [(SO400M, 335.4), (BASE, 17.73)], ids=["so400m", "base"])
def test_flops_match_published_ones(spec: Siglip, giga: float) -> None:
    """Oracle: multiply-adds of the whole tower in the same tables; its pooling head makes up to two percent of them."""
    all_blocks = replace(spec.vit, layers=spec.vit.layers + 1).flops() / 2e9
    assert 0.98 * giga < all_blocks < giga


@pytest.mark.parametrize("spec", [SO400M, BASE, LARGE, PAIR], ids=["so400m", "base", "dinov2", "pair"])
def test_parameter_counts_match_built_encoders(spec: Any) -> None:
    with torch.device("meta"):
        built = Encoder(spec)
    assert count_parameters(built) == spec.parameters()
    assert not list(built.buffers())


def test_fused_encoder_consists_of_both_towers() -> None:
    assert PAIR.towers == (SO400M, LARGE), "the paper's order: SigLIP first"
    assert PAIR.parameters() == SO400M.parameters() + LARGE.parameters()
    assert PAIR.flops() == SO400M.flops() + LARGE.flops()


def test_patch_projection_matches_the_paper() -> None:
    """Oracle: paper section 3: a convolution of 3 to 2048 channels, kernel and stride 14, no bias."""
    spec = patches_14_384(2048)
    with torch.device("meta"):
        conv = PatchProjection(spec).conv
    assert (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride) == (3, 2048, (14, 14), (14, 14))
    assert conv.bias is None and conv.weight.numel() == spec.parameters()
