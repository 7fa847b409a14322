"""Published encoders as recipes: the paper's facts, transformers' own models, timm's published counts."""

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

ONE, OTHER = (External(name=name, form="encoder", tokens=Tokens(0)) for name in ("one", "other"))
SO400M, BASE, LARGE = siglip_so400m_384(ONE), siglip_base_224(ONE), dinov2_large_reg_384(OTHER)
PAIR = siglip_dinov2_384(ONE, OTHER)


def theirs(spec: Siglip | Dinov2) -> nn.Module:
    """transformers' whole model of the shape, without memory."""
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


def count(module: nn.Module, *without: str) -> int:
    return sum(one.numel() for name, one in module.named_parameters() if not any(mark in name for mark in without))


@pytest.mark.parametrize(
    ("spec", "tokens", "width"),
    [(SO400M, 729, 1152), (BASE, 196, 768), (LARGE, 729, 1024), (PAIR, 729, 2176), (patches_14_384(2048), 729, 2048)],
    ids=["so400m", "base", "dinov2", "pair", "patches"],
)
def test_tokens_and_widths_are_the_papers(spec: Any, tokens: int, width: int) -> None:
    """Oracle: paper section 3; base/16@224 has 14 x 14 patches of width 768."""
    assert (spec.tokens, spec.width, spec.fit) == (tokens, width, "resize")
    assert spec.grid_size**2 == tokens


@pytest.mark.parametrize(
    ("spec", "millions"), [(SO400M, 428.23), (BASE, 92.88), (LARGE, 304.37)], ids=["so400m", "base", "dinov2"]
)
def test_shapes_are_those_that_were_published(spec: Siglip | Dinov2, millions: float) -> None:
    """Oracle: parameters that timm's results/benchmark-infer tables list for these three models."""
    whole = theirs(spec)
    assert round(count(whole, "mask_token") / 1e6, 2) == millions
    last = f".{spec.vit.layers - 1}."
    assert spec.parameters() == count(whole, last, "head.", "post_layernorm", "layernorm.", "mask_token")
    if isinstance(spec, Siglip):
        assert spec.vit.parameters() == count(whole, "head.")


@pytest.mark.parametrize(("spec", "giga"), [(SO400M, 335.4), (BASE, 17.73)], ids=["so400m", "base"])
def test_flops_are_those_that_were_published(spec: Siglip, giga: float) -> None:
    """Oracle: multiply-adds of the whole tower in the same tables; its pooling head makes up to two percent of them."""
    all_blocks = replace(spec.vit, layers=spec.vit.layers + 1).flops() / 2e9
    assert 0.98 * giga < all_blocks < giga


@pytest.mark.parametrize("spec", [SO400M, BASE, LARGE, PAIR], ids=["so400m", "base", "dinov2", "pair"])
def test_built_encoders_have_as_many_weights_as_their_recipes_say(spec: Any) -> None:
    with torch.device("meta"):
        built = Encoder(spec)
    assert count(built) == spec.parameters()
    assert not list(built.buffers())


def test_the_pairs_towers_are_the_two_alone() -> None:
    assert PAIR.towers == (SO400M, LARGE), "the paper's order: SigLIP first"
    assert PAIR.parameters() == SO400M.parameters() + LARGE.parameters()
    assert PAIR.flops() == SO400M.flops() + LARGE.flops()


def test_the_papers_patch_projection() -> None:
    """Oracle: paper section 3: a convolution of 3 to 2048 channels, kernel and stride 14, no bias."""
    spec = patches_14_384(2048)
    with torch.device("meta"):
        conv = PatchProjection(spec).conv
    assert (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride) == (3, 2048, (14, 14), (14, 14))
    assert conv.bias is None and conv.weight.numel() == spec.parameters()
