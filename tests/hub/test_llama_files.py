"""The Llama family's files: configurations mean what transformers says they mean, tensors keep every bit both ways.

Oracle: transformers' own LlamaForCausalLM, its logits in float64 and its own config and weight files.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from firstsight.errors import ModelError
from firstsight.hub.llama import from_llama, llama_config, llama_spec, llama_unsupported_reason, to_llama
from firstsight.model.tensors import meta_init
from firstsight.model.vlm import VLM
from firstsight.recipe.model import LinearRope, Llama3Rope, LMSpec, Rope, Rotary

SMALL: dict[str, Any] = {
    "vocab_size": 31,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 256,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}
PLAIN = {"model_type": "llama", **SMALL}


def seeing(spec: LMSpec, tensors: dict[str, Tensor], tokens: Tensor, dtype: torch.dtype) -> Tensor:
    """Our logits with these tensors, one row, one document."""
    with meta_init():
        model = VLM(spec)
    model.load_state_dict({f"lm.{name}": one.to(dtype) for name, one in tensors.items()}, assign=True)
    model.lm.compute_dtype = dtype
    rows = tokens[None]
    frame = model.lm.attention_inputs(torch.zeros_like(rows), torch.arange(len(tokens))[None])
    with torch.no_grad():
        return model.lm.logits(model.lm(model.lm.embed(rows), frame))[0]


@pytest.mark.parametrize(
    "settings_",
    [
        {},
        {"tie_word_embeddings": True},
        {"rope_parameters": LLAMA3},
        {"rope_parameters": LINEAR, "num_key_value_heads": 4},
        {"head_dim": 6, "num_key_value_heads": 1, "rms_norm_eps": 1e-3},
    ],
    ids=["plain", "tied", "llama3", "linear", "narrow heads"],
)
def test_a_llamas_logits_are_transformers(settings_: dict[str, Any]) -> None:
    torch.manual_seed(0)
    peer = LlamaForCausalLM(LlamaConfig(**{**SMALL, **settings_})).double().eval()
    for one in peer.parameters():
        torch.nn.init.normal_(one, std=0.3)
    tokens = torch.randint(31, (70,))
    spec = llama_spec(peer.config.to_dict())
    ours = from_llama(peer.state_dict(), spec)
    with torch.no_grad():
        theirs = peer(tokens[None]).logits[0]
        narrow = peer.float()(tokens[None]).logits[0]
    scale = theirs.abs().max()
    # transformers keeps angles, norms and softmax in float32 even in a float64 model
    assert (seeing(spec, ours, tokens, torch.float64) - theirs).abs().max() / scale < 1e-5
    assert (seeing(spec, ours, tokens, torch.float32) - narrow).abs().max() / scale < 1e-5


def test_a_mistral_without_a_window_is_a_llama() -> None:
    torch.manual_seed(0)
    peer = MistralForCausalLM(MistralConfig(**SMALL, sliding_window=None)).eval()
    tokens = torch.randint(31, (40,))
    spec = llama_spec(peer.config.to_dict())
    with torch.no_grad():
        theirs = peer(tokens[None]).logits[0]
    ours = seeing(spec, from_llama(peer.state_dict(), spec), tokens, torch.float32)
    assert (ours - theirs).abs().max() < 1e-5


def test_old_and_new_configurations_say_the_same() -> None:
    """Keys of transformers 4 (rope_theta, rope_scaling, torch_dtype) and of 5; what is left out is LlamaConfig's."""
    old = {key: told for key, told in LLAMA3.items() if key not in ("rope_theta", "rope_type")}
    before = {**PLAIN, "rope_theta": 500_000.0, "rope_scaling": {**old, "type": "llama3"}, "torch_dtype": "bfloat16"}
    assert llama_spec(before) == llama_spec({**PLAIN, "rope_parameters": LLAMA3})
    assert llama_spec({**PLAIN, "rope_theta": 1e6, "rope_scaling": None}).rope == Rope(base=1e6)
    bare = {key: told for key, told in PLAIN.items() if key not in ("num_key_value_heads", "head_dim", "rms_norm_eps")}
    usual = LlamaConfig(**{key: told for key, told in bare.items() if key != "model_type"})
    spec = llama_spec(bare)
    assert (spec.kv_heads, spec.head_dim, spec.eps) == (usual.num_key_value_heads, usual.head_dim, usual.rms_norm_eps)
    assert spec.ties_embeddings == usual.tie_word_embeddings
    assert spec.rope == Rope(base=usual.rope_parameters["rope_theta"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"attention_bias": True}, "attention_bias True"),
        ({"mlp_bias": True}, "mlp_bias True"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"model_type": "mistral", "sliding_window": 4096}, "sliding_window 4096"),
        ({"model_type": "mistral"}, "sliding_window '4096"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types 'sliding_attention'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "wanted default, linear or llama3. Got 'dynamic'"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "Got 'yarn'"),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope linear: wanted 'factor'"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}}, "partial_rotary_factor"),
        ({"model_type": "gpt_neox"}, "Got gpt_neox: gpt_neox (Pythia) is another architecture"),
        ({"model_type": "qwen3"}, "wanted llama, mistral or openlm. Got 'qwen3'"),
        ({"hidden_size": None}, "wanted whole numbers. Got none for hidden_size"),
        ({"num_key_value_heads": 3}, "kv_heads must divide heads"),
    ],
)
def test_what_we_cannot_do_the_same_is_refused_by_name(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ModelError) as caught:
        llama_spec({**PLAIN, **change})
    assert told in str(caught.value)


ROPES: list[Rotary] = [
    Rope(base=5e5),
    LinearRope(base=1e4, factor=2.0),
    Llama3Rope(base=5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=64),
]
SPECS = st.builds(
    lambda heads, shared, half, times, **given: LMSpec(
        heads=heads * shared, kv_heads=heads, head_dim=2 * half, width=heads * shared * times, norm="rms",
        qk_norm=False, token_shift=1, embedding_scale=1, **given,
    ),
    heads=st.integers(1, 3), shared=st.integers(1, 3), half=st.integers(1, 4), layers=st.integers(1, 3),
    times=st.integers(1, 3), mlp_width=st.integers(1, 9), vocab_size=st.integers(1, 9), eps=st.sampled_from([1e-5, 1e-6]),
    rope=st.sampled_from(ROPES), ties_embeddings=st.booleans(),
)  # fmt: skip


def made(spec: LMSpec) -> dict[str, Tensor]:
    """Tensors of the model's names and shapes."""
    with meta_init():
        own = VLM(spec).lm.state_dict()
    return {name: torch.randn(one.shape) for name, one in own.items()}


@settings(max_examples=25, deadline=None)
@given(spec=SPECS)
def test_there_and_back_keeps_spec_and_every_bit(spec: LMSpec) -> None:
    assert llama_unsupported_reason(spec) == ""
    config = json.loads(json.dumps(llama_config(spec)))
    assert llama_spec(config) == spec
    no_marks: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None}
    with meta_init():
        peer = LlamaForCausalLM(LlamaConfig(**config, **no_marks))
    tensors = made(spec)
    theirs = to_llama(tensors, spec)
    wanted = {
        name: one.shape for name, one in peer.state_dict().items() if not (spec.ties_embeddings and "lm_head" in name)
    }
    assert {name: one.shape for name, one in theirs.items()} == wanted
    back = from_llama(theirs, spec)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], one) for name, one in tensors.items())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"norm": "layer"}, "LayerNorm"),
        ({"qk_norm": True}, "no norm of queries and keys"),
        ({"token_shift": 3}, "token shift"),
        ({"embedding_scale": 4}, "scaled embeddings"),
        ({"width": 26}, "width that its heads do not divide"),  # transformers checks it though it has head_dim
    ],
)
def test_what_a_llama_cannot_say_has_its_reason(change: dict[str, Any], told: str) -> None:
    spec = replace(llama_spec(PLAIN), **change)
    assert told in llama_unsupported_reason(spec)
    with pytest.raises(ModelError, match=told):
        llama_config(spec)


def test_missing_and_extra_tensors_are_named() -> None:
    spec = llama_spec(PLAIN)
    tensors = made(spec)
    theirs = to_llama(tensors, spec)
    theirs["score.weight"] = theirs.pop("model.norm.weight")
    with pytest.raises(ModelError, match=r"missing: model\.norm\.weight; extra: score\.weight"):
        from_llama(theirs, spec)
    with pytest.raises(ModelError, match=r"missing: norm\.weight"):
        to_llama({name: one for name, one in tensors.items() if name != "norm.weight"}, spec)


def test_a_tied_models_second_copy_is_let_go_only_where_it_is_one() -> None:
    spec = replace(llama_spec(PLAIN), ties_embeddings=True)
    theirs = to_llama(made(spec), spec)
    theirs["lm_head.weight"] = theirs["model.embed_tokens.weight"].clone()
    theirs["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)  # early folders hold their angles
    assert "output.weight" not in from_llama(theirs, spec)
    theirs["lm_head.weight"][0, 0] = 2
    with pytest.raises(ModelError, match=r"extra: lm_head\.weight"):
        from_llama(theirs, spec)
