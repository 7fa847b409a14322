"""The Llama settings against transformers' LlamaForCausalLM on the same random weights: logits, loss and gradients.

transformers uses float32 in its norms, angles and loss even in a float64 model; `wide` replaces that by float64.
Correct implementations then differ by rounding, 1.6e-14 in logits up to 9.5 and 2e-15 in gradients: the tolerance of
1e-12 separates an error from rounding. In float32 the same models differ by 1.2e-5, as much as from an eps with an
error of one percent: the tolerance of 5e-5 tests float32 arithmetic, not the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, modeling_rope_utils
from transformers.models.llama import modeling_llama

from firstsight.model import layers
from firstsight.model.vlm import VLM
from firstsight.recipe.model import LinearRope, Llama3Rope, LMSpec, Rope, Rotary, llama_family_spec
from firstsight.recipe.scales.models import llama32_1b
from tests.conftest import DEVICE
from tests.model.tiny_models import pack_rows, random_model

GROUPED = llama_family_spec(layers=2, width=32, heads=4, kv_heads=2, mlp_width=48, vocab_size=40)
LLAMA3 = Llama3Rope(base=100.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=32)
SPECS = {
    "untied, grouped": GROUPED,
    "tied, a key to each query": replace(GROUPED, kv_heads=4, ties_embeddings=True),
    "tied, one key, eps 1e-3": replace(GROUPED, kv_heads=1, ties_embeddings=True, eps=1e-3),
    "heads wider than their share": replace(GROUPED, head_dim=12),
    "heads narrower than their share": replace(GROUPED, head_dim=6, ties_embeddings=True),
    "base 500,000": replace(GROUPED, rope=Rope(base=500_000.0)),
    "linear scaling": replace(GROUPED, rope=LinearRope(base=10_000.0, factor=3.0)),
    "llama3 scaling": replace(GROUPED, rope=LLAMA3, head_dim=16),
}
LENGTH = 48
"""Longer than the original context of LLAMA3, 32 tokens."""
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-5}


def assert_near(actual: Tensor, expected: Tensor, *, label: str = "") -> None:
    bound = TOLERANCE[expected.dtype]
    torch.testing.assert_close(actual, expected, rtol=bound, atol=bound, msg=lambda message: f"{label} {message}")


class _Wide(ModuleType):
    """torch with float32 replaced by float64."""

    float = float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@contextmanager
def wide(dtype: torch.dtype) -> Iterator[None]:
    """Run transformers' code in float32, or in float64 with every explicit float32 replaced."""
    with pytest.MonkeyPatch.context() as patch:
        if dtype == torch.float64:
            for module in (modeling_llama, modeling_rope_utils):
                patch.setattr(module, "torch", _Wide("torch"))
            patch.setattr(Tensor, "float", Tensor.double)
        yield


def angles(rope: Rotary) -> dict[str, Any]:
    match rope:
        case LinearRope():
            return {"rope_type": "linear", "rope_theta": rope.base, "factor": rope.factor}
        case Llama3Rope():
            return {
                "rope_type": "llama3",
                "rope_theta": rope.base,
                "factor": rope.factor,
                "low_freq_factor": rope.low_freq_factor,
                "high_freq_factor": rope.high_freq_factor,
                "original_max_position_embeddings": rope.original_context,
            }
        case Rope():
            return {"rope_type": "default", "rope_theta": rope.base}


def config(spec: LMSpec) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=spec.vocab_size,
        hidden_size=spec.width,
        intermediate_size=spec.mlp_width,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        rms_norm_eps=spec.eps,
        tie_word_embeddings=spec.ties_embeddings,
        rope_parameters=angles(spec.rope),
        attn_implementation="eager",
    )


def to_transformers_names(lm_tensors: Mapping[str, Tensor], spec: LMSpec) -> dict[str, Tensor]:
    """Tensors of `LM` (weights or gradients) under transformers' names."""
    reference = {
        "model.embed_tokens.weight": lm_tensors["tok_embeddings.weight"],
        "model.norm.weight": lm_tensors["norm.weight"],
    }
    if not spec.ties_embeddings:
        reference["lm_head.weight"] = lm_tensors["output.weight"]
    for n in range(spec.layers):
        lm_prefix, prefix = f"layers.{n}.", f"model.layers.{n}."
        q_width, kv_width = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
        queries, keys, values = lm_tensors[f"{lm_prefix}attention.in_proj.weight"].split([q_width, kv_width, kv_width])
        gate, up = lm_tensors[f"{lm_prefix}feed_forward.w12.weight"].chunk(2)
        reference |= {
            f"{prefix}input_layernorm.weight": lm_tensors[f"{lm_prefix}attention_norm.weight"],
            f"{prefix}self_attn.q_proj.weight": queries,
            f"{prefix}self_attn.k_proj.weight": keys,
            f"{prefix}self_attn.v_proj.weight": values,
            f"{prefix}self_attn.o_proj.weight": lm_tensors[f"{lm_prefix}attention.out_proj.weight"],
            f"{prefix}post_attention_layernorm.weight": lm_tensors[f"{lm_prefix}ffn_norm.weight"],
            f"{prefix}mlp.gate_proj.weight": gate,
            f"{prefix}mlp.up_proj.weight": up,
            f"{prefix}mlp.down_proj.weight": lm_tensors[f"{lm_prefix}feed_forward.w3.weight"],
        }
    return reference


def model_pair(spec: LMSpec, dtype: torch.dtype) -> tuple[VLM, LlamaForCausalLM]:
    """Both models with the same weights; call it within `wide`."""
    model, peer = random_model(spec, dtype=dtype), LlamaForCausalLM(config(spec)).to(DEVICE, dtype)
    loading = peer.load_state_dict(to_transformers_names(model.lm.state_dict(), spec), strict=False)
    assert not loading.unexpected_keys
    assert set(loading.missing_keys) <= ({"lm_head.weight"} if spec.ties_embeddings else set()), (
        "every weight must be loaded"
    )
    return model, peer


def sentences(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(40, (length,), generator=generator).tolist() for length in lengths]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float64", "float32"])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_logits_loss_and_gradients_match_transformers(spec: LMSpec, dtype: torch.dtype) -> None:
    texts = sentences(LENGTH, LENGTH - 7)
    rows = pack_rows([[text] for text in texts], length=LENGTH)
    real = rows.docs >= 0
    targets = rows.tokens.masked_fill(~real, -100)
    with wide(dtype):
        model, peer = model_pair(spec, dtype)
        output = peer(input_ids=rows.tokens, attention_mask=real.long(), labels=targets)
        output.loss.backward()
    logits = model.lm.logits(model(rows))
    assert logits.dtype == dtype
    assert_near(logits[real], output.logits[real])
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten())
    assert_near(loss, output.loss)
    loss.backward()
    peer_gradients = {name: p.grad for name, p in peer.named_parameters()}
    lm_gradients = to_transformers_names(
        {name: p.grad for name, p in model.lm.named_parameters() if p.grad is not None}, spec
    )
    assert peer_gradients.keys() == lm_gradients.keys()
    for name, gradient in lm_gradients.items():
        assert_near(gradient, peer_gradients[name], label=name)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_right_padded_rows_match_left_padded_prompts_of_transformers(spec: LMSpec) -> None:
    """Padding is at the end here; transformers generates from left-padded prompts."""
    texts = sentences(LENGTH, 5, 11)
    rows = pack_rows([[text] for text in texts], length=LENGTH)
    paddings = [LENGTH - len(text) for text in texts]
    positions = torch.arange(LENGTH, device=DEVICE) - torch.tensor(paddings, device=DEVICE)[:, None]
    padded = torch.tensor([[0] * padding + text for padding, text in zip(paddings, texts, strict=True)], device=DEVICE)
    with wide(torch.float64), torch.no_grad():
        model, peer = model_pair(spec, torch.float64)
        attention_mask = (positions >= 0).long()
        reference = peer(input_ids=padded, attention_mask=attention_mask, position_ids=positions.clamp(min=0)).logits
        logits = model.lm.logits(model(rows))
    assert_near(logits[rows.docs >= 0], reference[positions >= 0])


def test_packed_documents_match_single_documents_of_transformers() -> None:
    spec, texts = SPECS["llama3 scaling"], sentences(40, 5)
    with wide(torch.float64), torch.no_grad():
        model, peer = model_pair(spec, torch.float64)
        alone = [peer(input_ids=torch.tensor([text], device=DEVICE)).logits[0] for text in texts]
    with torch.no_grad():
        together = model.lm.logits(model(pack_rows([texts], length=LENGTH)))[0, : sum(map(len, texts))]
    assert_near(together, torch.cat(alone))


@pytest.mark.parametrize("rope", [llama32_1b().rope, Rope(base=130_000.0), LinearRope(base=10_000.0, factor=8.0)])
def test_angles_match_transformers_beyond_the_original_context(rope: Rotary) -> None:
    positions = torch.tensor([[0, 1, 17, 8191, 8192, 8193, 50_000, 131_071]], device=DEVICE)
    spec = replace(llama32_1b(), rope=rope)
    with wide(torch.float64):
        peer = modeling_llama.LlamaRotaryEmbedding(config(spec)).to(DEVICE)
        cos, sin = peer(torch.zeros((), dtype=torch.float64, device=DEVICE), positions)
    tables = layers.rotary_cos_sin(positions, rope, head_dim=spec.head_dim, dtype=torch.float64)
    for actual, expected in zip(tables, (cos, sin), strict=True):
        # an angle of 131,071 radians is itself only known to 1.5e-11
        torch.testing.assert_close(actual[:, 0], expected[..., : spec.head_dim // 2], rtol=0, atol=1e-9)


def test_llama3_scaling_covers_slow_fast_and_interpolated_frequencies() -> None:
    """All three cases of the scaling rule must occur in the comparison above."""
    for rope, head in ((LLAMA3, 16), (llama32_1b().rope, 64)):
        assert isinstance(rope, Llama3Rope)
        scaled = layers.rotary_frequencies(rope, head, device=torch.device("cpu"), dtype=torch.float64)
        plain = layers.rotary_frequencies(Rope(base=rope.base), head, device=torch.device("cpu"), dtype=torch.float64)
        ratios = (plain / scaled).tolist()
        is_unscaled, is_scaled = math.isclose(ratios[0], 1.0), math.isclose(ratios[-1], rope.factor)
        between = [ratio for ratio in ratios if 1.01 < ratio < 0.99 * rope.factor]
        assert is_unscaled and is_scaled and between
