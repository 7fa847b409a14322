"""The Llama family's files: configurations mean what transformers says they mean, tensors keep every bit both ways.

Oracle: transformers' own LlamaForCausalLM, its logits in float64 and its own config and weight files.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from firstsight.cli.app import command
from firstsight.errors import ModelError
from firstsight.hub import llama
from firstsight.hub.llama import from_llama, llama_config, llama_spec, llama_unsupported_reason, to_llama
from firstsight.model.tensors import meta_init
from firstsight.model.vlm import VLM
from firstsight.recipe.model import LinearRope, Llama3Rope, LMSpec, Rope, Rotary
from tests.hub.checkpoints import LLAMA, import_weights

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


CONFIG = {"model_type": "llama", **SMALL}


def firstsight_logits(spec: LMSpec, tensors: dict[str, Tensor], tokens: Tensor, dtype: torch.dtype) -> Tensor:
    """Our logits with these tensors, one row, one document."""
    with meta_init():
        model = VLM(spec)
    model.load_state_dict({f"lm.{name}": tensor.to(dtype) for name, tensor in tensors.items()}, assign=True)
    model.lm.compute_dtype = dtype
    rows = tokens[None]
    attention_inputs = model.lm.attention_inputs(torch.zeros_like(rows), torch.arange(len(tokens))[None])
    with torch.no_grad():
        return model.lm.logits(model.lm(model.lm.embed(rows), attention_inputs))[0]


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
    hf_model = LlamaForCausalLM(LlamaConfig(**{**SMALL, **settings_})).double().eval()
    for tensor in hf_model.parameters():
        torch.nn.init.normal_(tensor, std=0.3)
    tokens = torch.randint(31, (70,))
    spec = llama_spec(hf_model.config.to_dict())
    weights = from_llama(hf_model.state_dict(), spec)
    with torch.no_grad():
        reference = hf_model(tokens[None]).logits[0]
        float32_logits = hf_model.float()(tokens[None]).logits[0]
    scale = reference.abs().max()
    # transformers keeps angles, norms and softmax in float32 even in a float64 model
    assert (firstsight_logits(spec, weights, tokens, torch.float64) - reference).abs().max() / scale < 1e-5
    assert (firstsight_logits(spec, weights, tokens, torch.float32) - float32_logits).abs().max() / scale < 1e-5


def test_a_mistral_without_a_window_is_a_llama() -> None:
    torch.manual_seed(0)
    hf_model = MistralForCausalLM(MistralConfig(**SMALL, sliding_window=None)).eval()
    tokens = torch.randint(31, (40,))
    spec = llama_spec(hf_model.config.to_dict())
    with torch.no_grad():
        reference = hf_model(tokens[None]).logits[0]
    weights = firstsight_logits(spec, from_llama(hf_model.state_dict(), spec), tokens, torch.float32)
    assert (weights - reference).abs().max() < 1e-5


def test_old_and_new_configurations_are_equivalent() -> None:
    """Keys of transformers 4 (rope_theta, rope_scaling, torch_dtype) and of 5; what is left out is LlamaConfig's."""
    old = {key: expected for key, expected in LLAMA3.items() if key not in ("rope_theta", "rope_type")}
    old_config = {
        **CONFIG,
        "rope_theta": 500_000.0,
        "rope_scaling": {**old, "type": "llama3"},
        "torch_dtype": "bfloat16",
    }
    assert llama_spec(old_config) == llama_spec({**CONFIG, "rope_parameters": LLAMA3})
    assert llama_spec({**CONFIG, "rope_theta": 1e6, "rope_scaling": None}).rope == Rope(base=1e6)
    bare = {
        key: expected
        for key, expected in CONFIG.items()
        if key not in ("num_key_value_heads", "head_dim", "rms_norm_eps")
    }
    defaults = LlamaConfig(**{key: expected for key, expected in bare.items() if key != "model_type"})
    spec = llama_spec(bare)
    assert (spec.kv_heads, spec.head_dim, spec.eps) == (
        defaults.num_key_value_heads,
        defaults.head_dim,
        defaults.rms_norm_eps,
    )
    assert spec.ties_embeddings == defaults.tie_word_embeddings
    assert spec.rope == Rope(base=defaults.rope_parameters["rope_theta"])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"attention_bias": True}, "attention_bias True"),
        ({"mlp_bias": True}, "mlp_bias True"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"sliding_window": 4096}, "sliding_window 4096"),
        ({"model_type": "mistral", "sliding_window": "wide"}, "sliding_window: wanted a whole number"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types 'sliding_attention'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "wanted default, linear or llama3. Got 'dynamic'"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "Got 'yarn'"),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope linear: wanted 'factor'"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}}, "partial_rotary_factor"),
        ({"model_type": "qwen2"}, "smollm3, gpt_neox or openlm. Got 'qwen2'"),
        ({"hidden_size": None}, "wanted whole numbers. Got none for hidden_size"),
        ({"num_key_value_heads": 3}, "kv_heads must divide heads"),
    ],
)
def test_unsupported_settings_are_named(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(ModelError) as caught:
        llama_spec({**CONFIG, **change})
    assert expected in str(caught.value)


ROPES: list[Rotary] = [
    Rope(base=5e5),
    LinearRope(base=1e4, factor=2.0),
    Llama3Rope(base=5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=64),
]


SPECS = st.builds(
    lambda heads, group_size, half_head_dim, width_factor, **given: LMSpec(
        heads=heads * group_size, kv_heads=heads, head_dim=2 * half_head_dim, width=heads * group_size * width_factor,
        norm="rms", qk_norm=False, token_shift=1, embedding_scale=1, **given,
    ),
    heads=st.integers(1, 3), group_size=st.integers(1, 3), half_head_dim=st.integers(1, 4), layers=st.integers(1, 3),
    width_factor=st.integers(1, 3), mlp_width=st.integers(1, 9), vocab_size=st.integers(1, 9),
    eps=st.sampled_from([1e-5, 1e-6]), rope=st.sampled_from(ROPES), ties_embeddings=st.booleans(),
)  # fmt: skip


def random_tensors(spec: LMSpec) -> dict[str, Tensor]:
    """Tensors of the model's names and shapes."""
    with meta_init():
        weights = VLM(spec).lm.state_dict()
    return {name: torch.randn(tensor.shape) for name, tensor in weights.items()}


@settings(max_examples=25, deadline=None)
@given(spec=SPECS)
def test_export_and_import_keep_spec_and_every_bit(spec: LMSpec) -> None:
    assert llama_unsupported_reason(spec) == ""
    config = json.loads(json.dumps(llama_config(spec)))
    assert llama_spec(config) == spec
    no_special_tokens: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None}
    with meta_init():
        hf_model = LlamaForCausalLM(LlamaConfig(**config, **no_special_tokens))
    tensors = random_tensors(spec)
    reference = to_llama(tensors, spec)
    expected = {
        name: tensor.shape
        for name, tensor in hf_model.state_dict().items()
        if not (spec.ties_embeddings and "lm_head" in name)
    }
    assert {name: tensor.shape for name, tensor in reference.items()} == expected
    back = from_llama(reference, spec)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"norm": "layer"}, "LayerNorm"),
        ({"qk_norm": True}, "no norm of queries and keys"),
        ({"token_shift": 3}, "token shift"),
        ({"embedding_scale": 4}, "scaled embeddings"),
        ({"width": 26}, "width that is not a multiple of its heads"),  # transformers checks it though it has head_dim
    ],
)
def test_models_that_llama_cannot_represent_have_a_reason(change: dict[str, Any], expected: str) -> None:
    spec = replace(llama_spec(CONFIG), **change)
    assert expected in llama_unsupported_reason(spec)
    with pytest.raises(ModelError, match=expected):
        llama_config(spec)


def test_missing_and_extra_tensors_are_named() -> None:
    spec = llama_spec(CONFIG)
    tensors = random_tensors(spec)
    reference = to_llama(tensors, spec)
    reference["score.weight"] = reference.pop("model.norm.weight")
    with pytest.raises(ModelError, match=r"missing: model\.norm\.weight; extra: score\.weight"):
        from_llama(reference, spec)
    with pytest.raises(ModelError, match=r"missing: norm\.weight"):
        to_llama({name: tensor for name, tensor in tensors.items() if name != "norm.weight"}, spec)


def test_a_tied_models_second_copy_is_dropped_only_if_it_is_equal() -> None:
    spec = replace(llama_spec(CONFIG), ties_embeddings=True)
    reference = to_llama(random_tensors(spec), spec)
    reference["lm_head.weight"] = reference["model.embed_tokens.weight"].clone()
    reference["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)  # early folders hold their angles
    assert "output.weight" not in from_llama(reference, spec)
    reference["lm_head.weight"][0, 0] = 2
    with pytest.raises(ModelError, match=r"extra: lm_head\.weight"):
        from_llama(reference, spec)


LLAMA_CONFIG: dict[str, Any] = llama.llama_config(LLAMA)


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("qwen2", "biases of queries, keys and values"),
        ("qwen2_vl", "biases of queries, keys and values"),
        ("qwen3_moe", "mixture of experts"),
        ("gemma3_text", "offsets from one"),
        ("olmo", "no weights"),
        ("olmoe", "mixture of experts"),
        ("gpt2", "learned position embeddings"),
        ("siglip2", "images have any aspect ratio"),
    ],
)
def test_a_known_family_is_refused_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], model_type: str, reason: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA_CONFIG, "model_type": model_type}))
    assert command(["import", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert f"{tmp_path}: model_type: wanted llama, mistral, olmo2, olmo3, qwen3, smollm3, gpt_neox or openlm" in message
    assert reason in message and "Use a run of one of these as the donor" in message


def test_an_encoder_needs_no_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA_CONFIG, "model_type": "clip_vision_model"}))
    assert command(["import", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "wanted a language model. Got clip_vision_model" in message and "need no import" in message


def test_an_unknown_family_is_refused_without_a_reason() -> None:
    with pytest.raises(ModelError, match=r"Got 'phimoe'\. Use a run"):
        llama.llama_spec({"model_type": "phimoe"})


WRONG: list[Any] = ["x", [3], {"a": 1}, True, -1, float("nan")]


@pytest.mark.parametrize("value", WRONG, ids=repr)
@pytest.mark.parametrize(
    "name",
    ["hidden_size", "head_dim", "num_key_value_heads", "rms_norm_eps", "rope_parameters", "layer_types", "vocab_size"],
)
def test_settings_of_the_wrong_kind_are_named(name: str, value: Any) -> None:
    if name == "rope_parameters" and isinstance(value, dict):
        value = {"rope_theta": "x"}
    with pytest.raises(ModelError, match={"rope_parameters": "rope", "rms_norm_eps": "eps"}.get(name, name)):
        llama.llama_spec({**LLAMA_CONFIG, name: value})


@pytest.mark.parametrize("value", WRONG, ids=repr)
@pytest.mark.parametrize("name", ["factor", "low_freq_factor", "original_max_position_embeddings", "rope_theta"])
def test_rotary_settings_of_the_wrong_kind_are_refused(name: str, value: Any) -> None:
    expected = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    rope = {"rope_type": "llama3", "rope_theta": 5e5, **expected, name: value}
    with pytest.raises(ModelError, match=r"config\.json"):
        llama.llama_spec({**LLAMA_CONFIG, "rope_parameters": rope})


def test_a_model_without_language_head_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA_CONFIG, "architectures": ["LlamaModel"]}))
    with pytest.raises(ModelError, match=r"wanted a language model .* Got LlamaModel"):
        import_weights(tmp_path, tmp_path / "out")
