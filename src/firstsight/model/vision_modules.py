"""Embeddings and blocks of each family of vision towers: transformers' modules, without the last block.

They are built without buffers, so that parameters assigned to a module on the meta device complete it.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from firstsight.errors import ModelError
from firstsight.recipe.vision import Clip, Dinov2, Dinov3, Siglip, ViTSpec

ATTENTION_IMPLEMENTATION = "sdpa"
"""On one CPU core 1.04 times as fast as eager attention at base/16@224, 1.19 times at so400m/14@384."""


def siglip_vision_settings(vit: ViTSpec, *, layers: int) -> dict[str, Any]:
    """Arguments of transformers' SiglipVisionConfig for the first `layers` blocks of a tower."""
    return {
        "num_hidden_layers": layers,
        "hidden_size": vit.width,
        "intermediate_size": vit.mlp_width,
        "num_attention_heads": vit.heads,
        "image_size": vit.image_size,
        "patch_size": vit.patch_size,
    }


def siglip_modules(spec: Siglip) -> tuple[nn.Module, nn.Module]:
    """Embeddings and blocks of a SigLIP."""
    from transformers import SiglipVisionConfig  # takes a second, which text-only steps save
    from transformers.models.siglip.modeling_siglip import SiglipEncoder, SiglipVisionEmbeddings

    settings = siglip_vision_settings(spec.vit, layers=spec.vit.layers - 1)
    config: Any = SiglipVisionConfig(**settings, attention_dropout=0.0)
    config._attn_implementation = ATTENTION_IMPLEMENTATION
    embeddings = SiglipVisionEmbeddings(config)
    del embeddings.position_ids  # 0, 1, 2 ...: `Tower.forward` adds the whole position embedding
    return embeddings, SiglipEncoder(config)


def dinov2_modules(spec: Dinov2) -> tuple[nn.Module, nn.Module]:
    """Embeddings and blocks of a DINOv2 with or without registers."""
    from transformers import Dinov2Config, Dinov2WithRegistersConfig  # takes a second
    from transformers.models.dinov2 import modeling_dinov2 as plain
    from transformers.models.dinov2_with_registers import modeling_dinov2_with_registers as registered

    vit, registers = spec.vit, spec.registers
    if vit.mlp_width % vit.width:
        raise ModelError(f"DINOv2's MLP width is a multiple of its width. Got {vit.mlp_width} for {vit.width}.")
    settings: dict[str, Any] = {
        "num_hidden_layers": vit.layers - 1,
        "hidden_size": vit.width,
        "mlp_ratio": vit.mlp_width // vit.width,
        "num_attention_heads": vit.heads,
        "image_size": spec.position_grid_size * vit.patch_size,
        "patch_size": vit.patch_size,
        **dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate"), 0.0),
    }
    config: Any = Dinov2Config(**settings)
    classes: Any = plain.Dinov2Embeddings, plain.Dinov2Encoder
    if registers:
        config = Dinov2WithRegistersConfig(**settings, num_register_tokens=registers)
        classes = registered.Dinov2WithRegistersEmbeddings, registered.Dinov2WithRegistersEncoder
    config._attn_implementation = ATTENTION_IMPLEMENTATION
    embeddings: Any = classes[0](config)
    embeddings.mask_token = None  # only used in DINOv2's own training
    return embeddings, classes[1](config)


def clip_modules(spec: Clip) -> tuple[nn.Module, nn.Module]:
    """Embeddings and blocks of a CLIP; the norm between them is the tower's."""
    from transformers import CLIPVisionConfig  # takes a second
    from transformers.models.clip.modeling_clip import CLIPEncoder, CLIPVisionEmbeddings

    settings = siglip_vision_settings(spec.vit, layers=spec.vit.layers - 1)
    config: Any = CLIPVisionConfig(**settings, attention_dropout=0.0)
    config._attn_implementation = ATTENTION_IMPLEMENTATION
    embeddings = CLIPVisionEmbeddings(config)
    del embeddings.position_ids  # 0, 1, 2 ...: the whole position embedding is added
    return embeddings, CLIPEncoder(config)


def embed_clip(embeddings: Any, x: Float[Tensor, "N 3 S S"]) -> Float[Tensor, "N tokens W"]:
    """The class token, then the patches, with their position embeddings."""
    patches = embeddings.patch_embedding(x).flatten(2).transpose(1, 2)
    tokens = torch.cat((embeddings.class_embedding.expand(len(x), 1, -1), patches), 1)
    return tokens + embeddings.position_embedding.weight


def dinov3_modules(spec: Dinov3) -> tuple[nn.Module, nn.Module]:
    """Embeddings and blocks of a DINOv3."""
    from transformers import DINOv3ViTConfig  # takes a second
    from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTEmbeddings, DINOv3ViTEncoder

    settings = siglip_vision_settings(spec.vit, layers=spec.vit.layers - 1)
    config: Any = DINOv3ViTConfig(**settings, num_register_tokens=spec.registers, pos_embed_rescale=None)
    config._attn_implementation = ATTENTION_IMPLEMENTATION
    embeddings: Any = DINOv3ViTEmbeddings(config)
    embeddings.mask_token = None  # only used in DINOv3's own training
    return embeddings, DINOv3ViTEncoder(config)


def dinov3_rotary(encoder: Any, x: Float[Tensor, "N 3 S S"]) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the patches' positions, of shape (I, W / heads)."""
    from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTRopePositionEmbedding

    with torch.device(x.device):
        return cast(Any, DINOv3ViTRopePositionEmbedding(encoder.config))(x)
