"""The Llama settings against transformers' LlamaForCausalLM on the same random weights: logits, loss and gradients.

transformers names float32 inside its norms, its angles and its loss, so that its float64 model is a float32 one in
places. `wide` lets its own code read float64 wherever it says float32. Two right programs then differ by rounding,
logits up to 9.5 by 1.6e-14 and gradients by 2e-15: the bound of 1e-12 separates a bug from rounding. In float32 the
same models differ by 1.2e-5, as much as an eps does that is wrong by one part in a hundred: the bound of 5e-5 says that
float32 is sound, not that the formulas are the same.
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
from firstsight.recipe.lm import LinearRope, Llama3Rope, LMSpec, Rope, Rotary, llama_family_spec
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
"""Longer than the 32 tokens of the context that the llama3 angles are stretched from."""
NEAR = {torch.float64: 1e-12, torch.float32: 5e-5}


def near(ours: Tensor, theirs: Tensor, *, where: str = "") -> None:
    bound = NEAR[theirs.dtype]
    torch.testing.assert_close(ours, theirs, rtol=bound, atol=bound, msg=lambda message: f"{where} {message}")


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


def renamed(ours: Mapping[str, Tensor], spec: LMSpec) -> dict[str, Tensor]:
    """Tensors of `LM` (weights or gradients) under transformers' names."""
    theirs = {"model.embed_tokens.weight": ours["tok_embeddings.weight"], "model.norm.weight": ours["norm.weight"]}
    if not spec.ties_embeddings:
        theirs["lm_head.weight"] = ours["output.weight"]
    for n in range(spec.layers):
        mine, its = f"layers.{n}.", f"model.layers.{n}."
        asked, kept = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
        queries, keys, values = ours[f"{mine}attention.in_proj.weight"].split([asked, kept, kept])
        gate, up = ours[f"{mine}feed_forward.w12.weight"].chunk(2)
        theirs |= {
            f"{its}input_layernorm.weight": ours[f"{mine}attention_norm.weight"],
            f"{its}self_attn.q_proj.weight": queries,
            f"{its}self_attn.k_proj.weight": keys,
            f"{its}self_attn.v_proj.weight": values,
            f"{its}self_attn.o_proj.weight": ours[f"{mine}attention.out_proj.weight"],
            f"{its}post_attention_layernorm.weight": ours[f"{mine}ffn_norm.weight"],
            f"{its}mlp.gate_proj.weight": gate,
            f"{its}mlp.up_proj.weight": up,
            f"{its}mlp.down_proj.weight": ours[f"{mine}feed_forward.w3.weight"],
        }
    return theirs


def pair(spec: LMSpec, dtype: torch.dtype) -> tuple[VLM, LlamaForCausalLM]:
    """Both models with the same weights; call it within `wide`."""
    model, peer = random_model(spec, dtype=dtype), LlamaForCausalLM(config(spec)).to(DEVICE, dtype)
    message = peer.load_state_dict(renamed(model.lm.state_dict(), spec), strict=False)
    assert not message.unexpected_keys
    assert set(message.missing_keys) <= ({"lm_head.weight"} if spec.ties_embeddings else set()), (
        "every weight has its place"
    )
    return model, peer


def sentences(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(40, (length,), generator=generator).tolist() for length in lengths]


@pytest.mark.parametrize("dtype", NEAR, ids=["float64", "float32"])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_logits_loss_and_gradients_match_transformers(spec: LMSpec, dtype: torch.dtype) -> None:
    texts = sentences(LENGTH, LENGTH - 7)
    rows = pack_rows([[text] for text in texts], length=LENGTH)
    real = rows.docs >= 0
    targets = rows.tokens.masked_fill(~real, -100)
    with wide(dtype):
        model, peer = pair(spec, dtype)
        theirs = peer(input_ids=rows.tokens, attention_mask=real.long(), labels=targets)
        theirs.loss.backward()
    logits = model.lm.logits(model(rows))
    assert logits.dtype == dtype
    near(logits[real], theirs.logits[real])
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten())
    near(loss, theirs.loss)
    loss.backward()
    actual = {name: p.grad for name, p in peer.named_parameters()}
    mine = renamed({name: p.grad for name, p in model.lm.named_parameters() if p.grad is not None}, spec)
    assert actual.keys() == mine.keys()
    for name, gradient in mine.items():
        near(gradient, actual[name], where=name)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_right_padded_rows_match_left_padded_prompts_of_transformers(spec: LMSpec) -> None:
    """Padding is at the end here; transformers generates from left-padded prompts."""
    texts = sentences(LENGTH, 5, 11)
    rows = pack_rows([[text] for text in texts], length=LENGTH)
    lacks = [LENGTH - len(text) for text in texts]
    positions = torch.arange(LENGTH, device=DEVICE) - torch.tensor(lacks, device=DEVICE)[:, None]
    padded = torch.tensor([[0] * lack + text for lack, text in zip(lacks, texts, strict=True)], device=DEVICE)
    with wide(torch.float64), torch.no_grad():
        model, peer = pair(spec, torch.float64)
        inputs = (positions >= 0).long()
        theirs = peer(input_ids=padded, attention_mask=inputs, position_ids=positions.clamp(min=0)).logits
        ours = model.lm.logits(model(rows))
    near(ours[rows.docs >= 0], theirs[positions >= 0])


def test_packed_documents_match_single_documents_of_transformers() -> None:
    spec, texts = SPECS["llama3 scaling"], sentences(40, 5)
    with wide(torch.float64), torch.no_grad():
        model, peer = pair(spec, torch.float64)
        alone = [peer(input_ids=torch.tensor([text], device=DEVICE)).logits[0] for text in texts]
    with torch.no_grad():
        together = model.lm.logits(model(pack_rows([texts], length=LENGTH)))[0, : sum(map(len, texts))]
    near(together, torch.cat(alone))


@pytest.mark.parametrize("rope", [llama32_1b().rope, Rope(base=130_000.0), LinearRope(base=10_000.0, factor=8.0)])
def test_angles_match_transformers_beyond_the_original_context(rope: Rotary) -> None:
    positions = torch.tensor([[0, 1, 17, 8191, 8192, 8193, 50_000, 131_071]], device=DEVICE)
    spec = replace(llama32_1b(), rope=rope)
    with wide(torch.float64):
        peer = modeling_llama.LlamaRotaryEmbedding(config(spec)).to(DEVICE)
        cos, sin = peer(torch.zeros((), dtype=torch.float64, device=DEVICE), positions)
    mine = layers.rotary_cos_sin(positions, rope, head_dim=spec.head_dim, dtype=torch.float64)
    for ours, theirs in zip(mine, (cos, sin), strict=True):
        # an angle of 131,071 radians is itself only known to 1.5e-11
        torch.testing.assert_close(ours[:, 0], theirs[..., : spec.head_dim // 2], rtol=0, atol=1e-9)


def test_llama3_scaling_covers_slow_fast_and_interpolated_frequencies() -> None:
    """All three cases of the scaling rule must occur in the comparison above."""
    for rope, head in ((LLAMA3, 16), (llama32_1b().rope, 64)):
        assert isinstance(rope, Llama3Rope)
        ours = layers.rotary_frequencies(rope, head, device=torch.device("cpu"), dtype=torch.float64)
        plain = layers.rotary_frequencies(Rope(base=rope.base), head, device=torch.device("cpu"), dtype=torch.float64)
        ratios = (plain / ours).tolist()
        kept, stretched = math.isclose(ratios[0], 1.0), math.isclose(ratios[-1], rope.factor)
        between = [ratio for ratio in ratios if 1.01 < ratio < 0.99 * rope.factor]
        assert kept and stretched and between
