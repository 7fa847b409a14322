"""Published decoders as specs: the paper's OpenLM sizes, and Llama-family models whose checkpoints make donors.

Source: open_lm's and DCLM's model configurations (paper section 1.1); each checkpoint's config.json on Hugging Face.
"""

from __future__ import annotations

from dataclasses import replace

from firstsight.recipe.lm import Llama3Rope, LMSpec, Rope, llama_family_spec, openlm_spec

NEOX_VOCAB_SIZE = 50_432
"""Rows of the paper's text embeddings: the GPT-NeoX tokenizer's ids, rounded up."""
SMOLLM2_VOCAB_SIZE = 49_152


def openlm_79m(vocab_size: int = NEOX_VOCAB_SIZE) -> LMSpec:
    """The paper's small model."""
    return openlm_spec(layers=8, width=512, heads=4, vocab_size=vocab_size)


def openlm_154m(vocab_size: int = NEOX_VOCAB_SIZE) -> LMSpec:
    """A size that the authors ran outside the paper's tables."""
    return openlm_spec(layers=24, width=576, heads=8, vocab_size=vocab_size)


def openlm_411m(vocab_size: int = NEOX_VOCAB_SIZE) -> LMSpec:
    """A size that the authors ran outside the paper's tables."""
    return openlm_spec(layers=24, width=1024, heads=8, vocab_size=vocab_size)


def openlm_1b(vocab_size: int = NEOX_VOCAB_SIZE) -> LMSpec:
    """The paper's main model: 1,439,795,200 parameters beside the gains of QK-norm."""
    return openlm_spec(layers=24, width=2048, heads=16, vocab_size=vocab_size)


def openlm_7b(vocab_size: int = NEOX_VOCAB_SIZE) -> LMSpec:
    """The paper's large model: 6,889,410,560 parameters beside the gains of QK-norm."""
    return openlm_spec(layers=32, width=4096, heads=32, vocab_size=vocab_size)


def smollm2_135m() -> LMSpec:
    """HuggingFaceTB/SmolLM2-135M."""
    llama_base = llama_family_spec(
        layers=30, width=576, heads=9, kv_heads=3, mlp_width=1536, vocab_size=SMOLLM2_VOCAB_SIZE
    )
    return replace(llama_base, rope=Rope(base=100_000.0), ties_embeddings=True)


def smollm2_360m() -> LMSpec:
    """HuggingFaceTB/SmolLM2-360M."""
    llama_base = llama_family_spec(
        layers=32, width=960, heads=15, kv_heads=5, mlp_width=2560, vocab_size=SMOLLM2_VOCAB_SIZE
    )
    return replace(llama_base, rope=Rope(base=100_000.0), ties_embeddings=True)


def smollm2_1b() -> LMSpec:
    """HuggingFaceTB/SmolLM2-1.7B, which publishes checkpoints from the midst of its training too."""
    llama_base = llama_family_spec(
        layers=24, width=2048, heads=32, kv_heads=32, mlp_width=8192, vocab_size=SMOLLM2_VOCAB_SIZE
    )
    return replace(llama_base, rope=Rope(base=130_000.0), ties_embeddings=True)


def tinyllama_1b() -> LMSpec:
    """TinyLlama-1.1B, which publishes checkpoints from the midst of its training too."""
    return llama_family_spec(layers=22, width=2048, heads=32, kv_heads=4, mlp_width=5632, vocab_size=32_000)


def amber_7b() -> LMSpec:
    """LLM360/Amber, which publishes 360 checkpoints of its training."""
    llama_base = llama_family_spec(layers=32, width=4096, heads=32, kv_heads=32, mlp_width=11_008, vocab_size=32_000)
    return replace(llama_base, eps=1e-6)


def llama32_1b() -> LMSpec:
    """meta-llama/Llama-3.2-1B: rotary angles stretched from 8,192 tokens by 32."""
    llama_base = llama_family_spec(layers=16, width=2048, heads=32, kv_heads=8, mlp_width=8192, vocab_size=128_256)
    rope = Llama3Rope(base=500_000.0, factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192)
    return replace(llama_base, rope=rope, ties_embeddings=True)
