"""Published models as specs: the paper's decoders and encoders, and Llama-family models with public checkpoints.

Source: open_lm's and DCLM's configurations (paper sections 1.1 and 3); each checkpoint's config.json on Hugging Face.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from firstsight.recipe.mixture import External
from firstsight.recipe.model import Llama3Rope, LMSpec, Rope, llama_family_spec, openlm_spec
from firstsight.recipe.vision import Clip, Dinov2, Dinov3, FusedEncoders, PatchProjectionSpec, Siglip, ViTSpec

NEOX_VOCAB_SIZE = 50_432
"""The paper's text embeddings: the GPT-NeoX tokenizer's vocabulary, rounded up."""

_openlm = partial(openlm_spec, vocab_size=NEOX_VOCAB_SIZE)

openlm_79m = partial(_openlm, layers=8, width=512, heads=4)
openlm_154m = partial(_openlm, layers=24, width=576, heads=8)
openlm_411m = partial(_openlm, layers=24, width=1024, heads=8)
"""Run by the authors, like `openlm_154m`, but not in the paper's tables."""
openlm_1b = partial(_openlm, layers=24, width=2048, heads=16)
"""The paper's main model: 1,439,795,200 parameters without the weights of QK-norm."""
openlm_7b = partial(_openlm, layers=32, width=4096, heads=32)
"""The paper's large model: 6,889,410,560 parameters without the weights of QK-norm."""


def smollm2_135m() -> LMSpec:
    """HuggingFaceTB/SmolLM2-135M."""
    llama = llama_family_spec(layers=30, width=576, heads=9, kv_heads=3, mlp_width=1536, vocab_size=49_152)
    return replace(llama, rope=Rope(base=100_000.0), ties_embeddings=True)


def smollm2_360m() -> LMSpec:
    """HuggingFaceTB/SmolLM2-360M."""
    llama = llama_family_spec(layers=32, width=960, heads=15, kv_heads=5, mlp_width=2560, vocab_size=49_152)
    return replace(llama, rope=Rope(base=100_000.0), ties_embeddings=True)


def smollm2_1b() -> LMSpec:
    """HuggingFaceTB/SmolLM2-1.7B, with public intermediate checkpoints."""
    llama = llama_family_spec(layers=24, width=2048, heads=32, kv_heads=32, mlp_width=8192, vocab_size=49_152)
    return replace(llama, rope=Rope(base=130_000.0), ties_embeddings=True)


def tinyllama_1b() -> LMSpec:
    """TinyLlama-1.1B, with public intermediate checkpoints."""
    return llama_family_spec(layers=22, width=2048, heads=32, kv_heads=4, mlp_width=5632, vocab_size=32_000)


def amber_7b() -> LMSpec:
    """LLM360/Amber, with 360 public intermediate checkpoints."""
    llama = llama_family_spec(layers=32, width=4096, heads=32, kv_heads=32, mlp_width=11_008, vocab_size=32_000)
    return replace(llama, eps=1e-6)


def llama32_1b() -> LMSpec:
    """meta-llama/Llama-3.2-1B: its context of 8,192 tokens was extended by a factor of 32."""
    llama = llama_family_spec(layers=16, width=2048, heads=32, kv_heads=8, mlp_width=8192, vocab_size=128_256)
    rope = Llama3Rope(base=500_000.0, factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192)
    return replace(llama, rope=rope, ties_embeddings=True)


def siglip_so400m_384(weights: External) -> Siglip:
    """The paper's encoder, google/siglip-so400m-patch14-384: 729 tokens per image, width 1152."""
    vit = ViTSpec(layers=27, width=1152, heads=16, mlp_width=4304, image_size=384, patch_size=14)
    return Siglip(vit=vit, fit="resize", weights=weights)


def siglip_base_224(weights: External) -> Siglip:
    """google/siglip-base-patch16-224: 196 tokens per image, width 768."""
    vit = ViTSpec(layers=12, width=768, heads=12, mlp_width=3072, image_size=224, patch_size=16)
    return Siglip(vit=vit, fit="resize", weights=weights)


def dinov2_large_reg_384(weights: External) -> Dinov2:
    """facebook/dinov2-with-registers-large on images of 384 pixels: 729 tokens, width 1024.

    Its position embeddings were trained at 518 pixels, 37 patches per side.
    """
    vit = ViTSpec(layers=24, width=1024, heads=16, mlp_width=4096, image_size=384, patch_size=14)
    return Dinov2(vit=vit, fit="resize", registers=4, position_grid_size=37, weights=weights)


def siglip2_so400m_384(weights: External) -> Siglip:
    """google/siglip2-so400m-patch14-384: 729 tokens per image, width 1152."""
    return replace(siglip_so400m_384(weights), fit="resize_bilinear")


def clip_large_336(weights: External) -> Clip:
    """openai/clip-vit-large-patch14-336, LLaVA-1.5's encoder: 576 tokens per image, width 1024."""
    vit = ViTSpec(layers=24, width=1024, heads=16, mlp_width=4096, image_size=336, patch_size=14)
    return Clip(vit=vit, fit="resize", weights=weights)


def dinov3_large_384(weights: External) -> Dinov3:
    """facebook/dinov3-vitl16-pretrain-lvd1689m on images of 384 pixels: 576 tokens, width 1024."""
    vit = ViTSpec(layers=24, width=1024, heads=16, mlp_width=4096, image_size=384, patch_size=16)
    return Dinov3(vit=vit, fit="resize_bilinear", registers=4, weights=weights)


def siglip_dinov2_384(first: External, second: External) -> FusedEncoders:
    """The paper's pair, SigLIP first: 729 tokens per image, width 2176."""
    return FusedEncoders(first=siglip_so400m_384(first), second=dinov2_large_reg_384(second))


def patches_14_384(width: int) -> PatchProjectionSpec:
    """The paper's patch projection, as wide as the decoder: 729 tokens per image."""
    return PatchProjectionSpec(image_size=384, patch_size=14, width=width, fit="resize")
