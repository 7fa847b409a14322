"""Published encoders by name, as functions of the user's own name for their weights; and the paper's patch projection.

Shapes from the published configurations in Hugging Face layout. Source: paper section 3.
"""

from __future__ import annotations

from firstsight.recipe.mixture import External
from firstsight.recipe.vision import Dinov2, FusedEncoders, PatchProjectionSpec, Siglip, ViTSpec


def siglip_so400m_384(weights: External) -> Siglip:
    """The paper's encoder, google/siglip-so400m-patch14-384: 729 tokens a picture, width 1152."""
    vit = ViTSpec(layers=27, width=1152, heads=16, mlp_width=4304, image_size=384, patch_size=14)
    return Siglip(vit=vit, fit="resize", weights=weights)


def siglip_base_224(weights: External) -> Siglip:
    """google/siglip-base-patch16-224: 196 tokens a picture, width 768."""
    vit = ViTSpec(layers=12, width=768, heads=12, mlp_width=3072, image_size=224, patch_size=16)
    return Siglip(vit=vit, fit="resize", weights=weights)


def dinov2_large_reg_384(weights: External) -> Dinov2:
    """facebook/dinov2-with-registers-large shown pictures of 384 pixels: 729 tokens, width 1024.

    Its table of positions was trained at 518 pixels, 37 patches a side.
    """
    vit = ViTSpec(layers=24, width=1024, heads=16, mlp_width=4096, image_size=384, patch_size=14)
    return Dinov2(vit=vit, fit="resize", registers=4, position_grid_size=37, weights=weights)


def siglip_dinov2_384(first: External, second: External) -> FusedEncoders:
    """The paper's pair, SigLIP first: 729 tokens a picture, width 2176."""
    return FusedEncoders(first=siglip_so400m_384(first), second=dinov2_large_reg_384(second))


def patches_14_384(width: int) -> PatchProjectionSpec:
    """The paper's patch projection, as many channels as the decoder is wide: 729 tokens a picture."""
    return PatchProjectionSpec(image_size=384, patch_size=14, width=width, fit="resize")
