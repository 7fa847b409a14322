"""Published decoders as specs: the paper's OpenLM sizes, and Llama-family models whose checkpoints make donors.

Source: open_lm's and DCLM's model configurations (paper section 1.1); each checkpoint's config.json on Hugging Face.
"""

from __future__ import annotations

from dataclasses import replace

from firstsight.recipe.lm import Llama3Rope, LMSpec, Rope, llama, openlm

NEOX_ROWS = 50_432
"""Rows of the paper's text embeddings: the GPT-NeoX tokenizer's ids, rounded up."""
SMOLLM2_ROWS = 49_152


def openlm_79m(vocabulary: int = NEOX_ROWS) -> LMSpec:
    """The paper's small model."""
    return openlm(layers=8, width=512, heads=4, vocabulary=vocabulary)


def openlm_154m(vocabulary: int = NEOX_ROWS) -> LMSpec:
    """A size that the authors ran outside the paper's tables."""
    return openlm(layers=24, width=576, heads=8, vocabulary=vocabulary)


def openlm_411m(vocabulary: int = NEOX_ROWS) -> LMSpec:
    """A size that the authors ran outside the paper's tables."""
    return openlm(layers=24, width=1024, heads=8, vocabulary=vocabulary)


def openlm_1b(vocabulary: int = NEOX_ROWS) -> LMSpec:
    """The paper's main model: 1,439,795,200 parameters beside the gains of QK-norm."""
    return openlm(layers=24, width=2048, heads=16, vocabulary=vocabulary)


def openlm_7b(vocabulary: int = NEOX_ROWS) -> LMSpec:
    """The paper's large model: 6,889,410,560 parameters beside the gains of QK-norm."""
    return openlm(layers=32, width=4096, heads=32, vocabulary=vocabulary)


def smollm2_135m() -> LMSpec:
    """HuggingFaceTB/SmolLM2-135M."""
    plain = llama(layers=30, width=576, heads=9, kv_heads=3, hidden=1536, vocabulary=SMOLLM2_ROWS)
    return replace(plain, rope=Rope(base=100_000.0), tied=True)


def smollm2_360m() -> LMSpec:
    """HuggingFaceTB/SmolLM2-360M."""
    plain = llama(layers=32, width=960, heads=15, kv_heads=5, hidden=2560, vocabulary=SMOLLM2_ROWS)
    return replace(plain, rope=Rope(base=100_000.0), tied=True)


def smollm2_1b() -> LMSpec:
    """HuggingFaceTB/SmolLM2-1.7B, which publishes checkpoints from the midst of its training too."""
    plain = llama(layers=24, width=2048, heads=32, kv_heads=32, hidden=8192, vocabulary=SMOLLM2_ROWS)
    return replace(plain, rope=Rope(base=130_000.0), tied=True)


def tinyllama_1b() -> LMSpec:
    """TinyLlama-1.1B, which publishes checkpoints from the midst of its training too."""
    return llama(layers=22, width=2048, heads=32, kv_heads=4, hidden=5632, vocabulary=32_000)


def amber_7b() -> LMSpec:
    """LLM360/Amber, which publishes 360 checkpoints of its training."""
    plain = llama(layers=32, width=4096, heads=32, kv_heads=32, hidden=11_008, vocabulary=32_000)
    return replace(plain, eps=1e-6)


def llama32_1b() -> LMSpec:
    """meta-llama/Llama-3.2-1B: rotary angles stretched from 8,192 tokens by 32."""
    plain = llama(layers=16, width=2048, heads=32, kv_heads=8, hidden=8192, vocabulary=128_256)
    rope = Llama3Rope(base=500_000.0, factor=32.0, low=1.0, high=4.0, context=8192)
    return replace(plain, rope=rope, tied=True)
