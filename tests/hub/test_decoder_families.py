"""Families beside the Llama, as settings of the one decoder: their logits and files are transformers', both ways.

Oracle: transformers' own classes on tiny random configurations, in float32.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    MistralConfig,
    Olmo2Config,
    Olmo3Config,
    Qwen3Config,
    SmolLM3Config,
)

from firstsight.errors import ModelError
from firstsight.hub.export import export_checkpoint
from firstsight.hub.gpt_neox import gpt_neox_config, gpt_neox_spec, is_gpt_neox
from firstsight.hub.llama import llama_config, llama_spec
from firstsight.model.checkpoint_io import load
from firstsight.model.generate import continuation_likelihoods, generate
from firstsight.model.tensors import meta_init, read_tensors
from firstsight.model.vlm import VLM
from firstsight.recipe.model import LMSpec, Rope
from firstsight.units import Share
from tests.hub.checkpoints import import_weights, write_tokenizer

SIZES: dict[str, Any] = {
    "vocab_size": 24,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
ROTARY = {"rope_type": "default", "rope_theta": 10_000.0}
CONFIGS: dict[str, Any] = {
    "pythia": GPTNeoXConfig(**SIZES, rope_parameters={**ROTARY, "partial_rotary_factor": 0.25}),
    "pythia, odd quarter": GPTNeoXConfig(
        **{**SIZES, "hidden_size": 80}, rope_parameters={**ROTARY, "partial_rotary_factor": 0.3}
    ),
    "sequential, whole heads": GPTNeoXConfig(**SIZES, use_parallel_residual=False, layer_norm_eps=1e-3),
    "olmo2": Olmo2Config(**GROUPED),
    "olmo3": Olmo3Config(**SIZES, sliding_window=6),
    "qwen3": Qwen3Config(**GROUPED, head_dim=12, tie_word_embeddings=True),
    "smollm3": SmolLM3Config(**GROUPED),
    "mistral": MistralConfig(**GROUPED, sliding_window=6),
}
TOKENS = 20
"""More than three windows."""


@dataclass(frozen=True)
class Peer:
    """A random model of transformers, the folder that it saved, and its logits of random tokens."""

    model: Any
    folder: Path
    tokens: Tensor
    logits: Tensor


@pytest.fixture(scope="module", params=CONFIGS)
def peer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Peer:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[request.param], attn_implementation="eager").eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=0.1, std=0.3)
    folder = tmp_path_factory.mktemp("peer")
    model.save_pretrained(folder)
    write_tokenizer(folder)
    tokens = torch.randint(24, (2, TOKENS))
    with torch.no_grad():
        return Peer(model, folder, tokens, model(tokens).logits)


def logits_of(model: VLM, tokens: Tensor) -> Tensor:
    positions = torch.arange(tokens.shape[1]).expand_as(tokens)
    with torch.no_grad():
        inputs = model.lm.attention_inputs(torch.zeros_like(tokens), positions)
        return model.lm.logits(model.lm(model.lm.embed(tokens), inputs))


def assert_near(actual: Tensor, expected: Tensor) -> None:
    assert (actual - expected).abs().max() < 1e-5 * expected.abs().max()


def test_imported_models_have_the_logits_of_transformers(peer: Peer, tmp_path: Path) -> None:
    result = import_weights(peer.folder, tmp_path / "own")
    assert isinstance(result.spec, LMSpec)
    model = load(tmp_path / "own").model
    assert_near(logits_of(model, peer.tokens), peer.logits)
    assert result.spec.parameters() == sum(weight.numel() for weight in peer.model.parameters())


def test_answers_with_a_cache_are_those_of_transformers(peer: Peer, tmp_path: Path) -> None:
    """Ragged prompts, shorter and longer than a window, so that rows have padding between their tokens."""
    import_weights(peer.folder, tmp_path / "own")
    model = load(tmp_path / "own").model
    prompts = [peer.tokens[0, :3].tolist(), peer.tokens[1, :11].tolist(), peer.tokens[0, :7].tolist()]
    answers = generate(model, prompts, [None] * 3, stop=set(), max_new_tokens=9)
    for prompt, answer in zip(prompts, answers, strict=True):
        expected = peer.model.generate(torch.tensor([prompt]), max_new_tokens=9, do_sample=False)
        assert answer == expected[0, len(prompt) :].tolist()
    continuation = peer.tokens[1, :9].tolist()
    likelihoods = continuation_likelihoods(model, prompts, [continuation] * 3)
    for prompt, likelihood in zip(prompts, likelihoods, strict=True):
        row = torch.tensor([prompt + continuation])
        with torch.no_grad():
            logits = peer.model(row).logits[0].log_softmax(-1)
        expected = logits[len(prompt) - 1 : -1].gather(1, row[0, len(prompt) :, None]).sum()
        assert likelihood.log_likelihood == pytest.approx(float(expected), rel=1e-4)


def test_exports_are_models_of_transformers_with_every_bit(peer: Peer, tmp_path: Path) -> None:
    import_weights(peer.folder, tmp_path / "own")
    export_checkpoint(tmp_path / "own", tmp_path / "out", dtype="float32")
    loading: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    exported, info = loading
    assert type(exported) is type(peer.model) and not any(info.values()), info
    with torch.no_grad():
        assert_near(exported.eval()(peer.tokens).logits, peer.logits)
    expected, actual = peer.model.state_dict(), exported.state_dict()
    assert expected.keys() == actual.keys() and all(torch.equal(actual[name], expected[name]) for name in expected)
    import_weights(tmp_path / "out", tmp_path / "again")
    first, second = (read_tensors(tmp_path / name) for name in ("own", "again"))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert load(tmp_path / "own").spec == load(tmp_path / "again").spec


def test_firstsights_class_has_the_same_logits_with_padding_and_cache(peer: Peer, tmp_path: Path) -> None:
    """The class of exports that transformers cannot represent, here with weights that it can."""
    from firstsight.hub.hf_classes import FirstsightConfig, FirstsightForCausalLM
    from firstsight.recipe.serialize import to_json

    result = import_weights(peer.folder, tmp_path / "own")
    own: Any = FirstsightForCausalLM(FirstsightConfig(firstsight=to_json(result.spec))).eval()
    own.model.load_state_dict(load(tmp_path / "own").model.state_dict())
    prompt = peer.tokens[:1, :12]
    padded = torch.cat((torch.zeros(1, 4, dtype=torch.long), prompt), dim=1)
    mask = torch.cat((torch.zeros(1, 4, dtype=torch.long), torch.ones_like(prompt)), dim=1)
    options: dict[str, Any] = {"max_new_tokens": 9, "do_sample": False, "pad_token_id": 0}
    expected = peer.model.generate(prompt, **options)[0, 12:]
    assert torch.equal(own.generate(padded, attention_mask=mask, **options)[0, 16:], expected)


def test_old_keys_of_pythias_files_mean_the_new_ones() -> None:
    """The published files have rotary_pct and rotary_emb_base, and masks among their tensors."""
    old = {
        "model_type": "gpt_neox",
        "hidden_act": "gelu",
        "hidden_size": 512,
        "intermediate_size": 2048,
        "layer_norm_eps": 1e-05,
        "num_attention_heads": 8,
        "num_hidden_layers": 6,
        "rotary_emb_base": 10000,
        "rotary_pct": 0.25,
        "tie_word_embeddings": False,
        "use_parallel_residual": True,
        "vocab_size": 50304,
    }
    spec = gpt_neox_spec(old)
    assert spec.rope == Rope(base=10_000.0, fraction=Share(1, 4)) and is_gpt_neox(spec)
    assert spec.parameters() == 70_426_624  # of pythia-70m, 18,915,328 without embeddings
    assert gpt_neox_spec(json.loads(json.dumps(gpt_neox_config(spec)))) == spec


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"hidden_act": "gelu_new"}, "hidden_act 'gelu_new'"),
        ({"attention_bias": False}, "attention_bias False"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "Got 'yarn'"),
        ({"hidden_size": 30}, "heads must divide the width"),
        ({"vocab_size": None}, "Got none for vocab_size"),
    ],
)
def test_unsupported_settings_of_gpt_neox_are_named(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(ModelError, match=expected):
        gpt_neox_spec({**CONFIGS["pythia"].to_dict(), **change})


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        (
            "olmo3",
            {"layer_types": ["full_attention", "sliding_attention", "sliding_attention"] * 2},
            "every n-th layer",
        ),
        ("olmo3", {"layer_types": ["sliding_attention"]}, "a value for each of 5 layers"),
        ("smollm3", {"no_rope_layers": [1, 0, 0, 1, 1]}, "every n-th layer"),
        ("qwen3", {"use_sliding_window": True}, "use_sliding_window True"),
        ("olmo3", {"rope_scaling": {"type": "yarn", "factor": 8.0}, "rope_parameters": None}, "Got 'yarn'"),
    ],
)
def test_unsupported_layers_are_named(name: str, change: dict[str, Any], expected: str) -> None:
    with pytest.raises(ModelError, match=expected):
        llama_spec({**CONFIGS[name].to_dict(), **change})


def test_a_combination_that_no_family_has_is_exported_with_firstsights_class() -> None:
    spec = replace(llama_spec(CONFIGS["olmo3"].to_dict()), rotary_period=2)
    with pytest.raises(ModelError, match="no class has this combination"):
        llama_config(spec)
    with meta_init():
        model = VLM(spec)
    assert spec.parameters() == sum(weight.numel() for weight in model.parameters())
