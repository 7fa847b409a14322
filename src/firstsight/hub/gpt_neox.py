"""GPT-NeoX, the architecture of Pythia, in transformers' layout: configurations and tensors, both ways.

transformers stores queries, keys and values head by head in one tensor, and rotates the first part of each head; here
they follow each other, and the rotated numbers are the first ones of both halves of a head (`Rope.fraction`). Both
orders have the same products. Source: transformers' GPTNeoXConfig and GPTNeoXForCausalLM.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from firstsight.errors import ModelError, QuantityError
from firstsight.hub.llama import check_architecture
from firstsight.hub.public_weights import (
    PublicWeights,
    SupportedValues,
    check_tensors,
    exported_tokens_seen,
    float_setting,
    hf_folder_files,
    is_positive_int,
    model_shapes,
    nested_settings,
    prefix_errors,
    unsupported_settings,
)
from firstsight.model.tensors import StoredTensors, format_faults, shapes_and_dtypes
from firstsight.recipe.model import LMSpec, Rope, openlm_spec
from firstsight.units import Share

MODEL_TYPE = "gpt_neox"
SIZE_KEYS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
SUPPORTED_VALUES: SupportedValues = {
    "hidden_act": ("gelu",),
    "attention_bias": (True, None),
    "quantization_config": (None,),
    "rope_scaling": (None,),
}
BUFFERS = re.compile(r".*\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)")
"""Masks and frequencies that earlier versions of transformers stored with the weights."""
MODULE_NAMES = {
    "attention_norm": "input_layernorm",
    "attention.in_proj": "attention.query_key_value",
    "attention.out_proj": "attention.dense",
    "ffn_norm": "post_attention_layernorm",
    "feed_forward.w12": "mlp.dense_h_to_4h",
    "feed_forward.w3": "mlp.dense_4h_to_h",
}
"""Names of a block's modules here and in transformers."""


class _ReorderedTensors(Mapping[str, Tensor]):
    """Stored tensors; those of queries, keys and values in firstsight's order of rows."""

    def __init__(self, stored: Mapping[str, Tensor], row_order: Int[Tensor, " rows"]) -> None:
        self.stored, self.row_order = stored, row_order

    def __getitem__(self, name: str, /) -> Tensor:
        tensor = self.stored[name]
        return tensor[self.row_order] if ".query_key_value." in name else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)


def read_gpt_neox_weights(path: Path, config: Mapping[str, Any]) -> PublicWeights:
    """The weights of a folder; ModelError if a setting is not supported or a tensor contradicts the configuration."""
    with prefix_errors(path):
        spec = gpt_neox_spec(config)
        check_architecture(config)
    stored, shapes, names = StoredTensors(path, is_public=True), model_shapes(spec), gpt_neox_tensor_names(spec)
    actual = {name: value for name, value in shapes_and_dtypes(stored).items() if not BUFFERS.fullmatch(name)}
    check_tensors(path, {source: shapes[f"lm.{name}"] for name, source in names.items()}, actual)
    return PublicWeights(
        spec=spec,
        tensors=_ReorderedTensors(stored, qkv_row_order(spec)),
        source_names={f"lm.{name}": (source,) for name, source in names.items()},
        stored_names=stored.stored_names,
        files=hf_folder_files(path, stored),
        tokens_seen=exported_tokens_seen(config),
    )


def gpt_neox_spec(config: Mapping[str, Any]) -> LMSpec:
    """The decoder of a config.json of model_type gpt_neox; ModelError names all unsupported settings."""
    if missing := [name for name in SIZE_KEYS if not is_positive_int(config.get(name))]:
        raise ModelError(f"config.json: wanted whole numbers. Got none for {', '.join(missing)}. Copy it again.")
    if unsupported := unsupported_settings(config, SUPPORTED_VALUES):
        raise ModelError(f"config.json: wanted a plain GPT-NeoX. Got {', '.join(unsupported)}. Choose another run.")
    heads, width = config["num_attention_heads"], config["hidden_size"]
    if width % heads:
        raise ModelError(f"config.json: heads must divide the width. Got {heads} for {width}. Copy it again.")
    try:
        spec = _plain_spec(layers=config["num_hidden_layers"], width=width, heads=heads, vocab=config["vocab_size"])
        return replace(
            spec,
            mlp_width=config["intermediate_size"],
            eps=float_setting(config, "layer_norm_eps", default=1e-5),
            rope=_rotary_spec(config, head_dim=width // heads),
            ties_embeddings=bool(config.get("tie_word_embeddings", False)),
            block="parallel" if config.get("use_parallel_residual", True) else "pre_norm",
        )
    except QuantityError as error:
        raise ModelError(f"config.json: wanted valid sizes of a decoder. {error}") from error


def _plain_spec(*, layers: int, width: int, heads: int, vocab: int) -> LMSpec:
    """The settings that all GPT-NeoX models share, at these sizes."""
    openlm = openlm_spec(layers=layers, width=width, heads=heads, vocab_size=vocab)
    return replace(openlm, mlp_width=4 * width, qk_norm=False, block="parallel", mlp="gelu", has_biases=True)


def _rotary_spec(config: Mapping[str, Any], *, head_dim: int) -> Rope:
    """The rotary embedding, from the old keys (rotary_pct, rotary_emb_base) or the new one (rope_parameters)."""
    old = {
        "rope_theta": config.get("rotary_emb_base", 10_000.0),
        "partial_rotary_factor": config.get("rotary_pct", 1.0),
    }
    rope = old | nested_settings(config, "rope_parameters")
    if (kind := rope.get("rope_type", "default")) != "default":
        raise ModelError(f"config.json: rope: wanted default. Got {kind!r}. Choose another run.")
    part = int(head_dim * float_setting(rope, "partial_rotary_factor", default=1.0))
    return Rope(base=float_setting(rope, "rope_theta", default=10_000.0), fraction=Share(part, head_dim))


def is_gpt_neox(spec: LMSpec) -> bool:
    """Whether GPTNeoXForCausalLM can represent a model."""
    plain = _plain_spec(layers=spec.layers, width=spec.width, heads=1, vocab=spec.vocab_size)
    sizes = {name: getattr(spec, name) for name in ("heads", "mlp_width", "eps", "rope", "ties_embeddings")}
    order = spec.block if spec.block != "post_norm" else plain.block
    has_whole_heads = spec.width == spec.heads * spec.head_dim
    plain = replace(plain, kv_heads=spec.heads, head_dim=spec.head_dim, block=order, **sizes)
    return has_whole_heads and isinstance(spec.rope, Rope) and plain == spec


def gpt_neox_config(spec: LMSpec) -> dict[str, Any]:
    """GPTNeoXConfig's fields, without the longest context, of a model that it can represent."""
    assert isinstance(spec.rope, Rope)
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["GPTNeoXForCausalLM"],
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.width,
        "intermediate_size": spec.mlp_width,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "hidden_act": "gelu",
        "layer_norm_eps": spec.eps,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": spec.rope.base,
            "partial_rotary_factor": float(spec.rope.fraction),
        },
        "tie_word_embeddings": spec.ties_embeddings,
        "use_parallel_residual": spec.block == "parallel",
        "attention_bias": True,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
    }


def gpt_neox_tensor_names(spec: LMSpec) -> dict[str, str]:
    """transformers' name of each tensor of a decoder (without `lm.`)."""
    modules = {"norm": "gpt_neox.final_layer_norm"}
    for layer in range(spec.layers):
        modules |= {f"layers.{layer}.{name}": f"gpt_neox.layers.{layer}.{x}" for name, x in MODULE_NAMES.items()}
    names = {f"{name}.{part}": f"{x}.{part}" for name, x in modules.items() for part in ("weight", "bias")}
    head = {} if spec.ties_embeddings else {"output.weight": "embed_out.weight"}
    return {"tok_embeddings.weight": "gpt_neox.embed_in.weight", **names, **head}


def qkv_row_order(spec: LMSpec) -> Int[Tensor, " rows"]:
    """The row in transformers' tensor of each row of `in_proj`: queries, keys, then values."""
    assert isinstance(spec.rope, Rope)
    rotated = int(Fraction(spec.head_dim) * spec.rope.fraction)
    first, second, rest = torch.arange(spec.head_dim).tensor_split((rotated // 2, rotated))
    rest = rest.chunk(2) if len(rest) else (rest, rest)
    head_order = torch.cat((first, rest[0], second, rest[1]))
    rows = torch.arange(3 * spec.heads * spec.head_dim).view(spec.heads, 3, spec.head_dim)
    return torch.cat((rows[:, 0, head_order].flatten(), rows[:, 1, head_order].flatten(), rows[:, 2].flatten()))


def to_gpt_neox(tensors: Mapping[str, Tensor], spec: LMSpec) -> dict[str, Tensor]:
    """A decoder's tensors (without `lm.`) under GPTNeoXForCausalLM's names; ModelError names missing and extra ones."""
    names, order = gpt_neox_tensor_names(spec), qkv_row_order(spec).argsort()
    faults = {"missing": sorted(names.keys() - tensors.keys()), "extra": sorted(tensors.keys() - names.keys())}
    if message := format_faults(faults):
        raise ModelError(f"wanted the tensors of the configuration. Got {message}. Copy both from the same run.")
    return {source: tensors[name][order] if ".in_proj." in name else tensors[name] for name, source in names.items()}
