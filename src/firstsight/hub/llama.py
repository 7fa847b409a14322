"""The Llama family and its relatives in transformers' layout: configurations to specs, tensors to names, both ways.

The relatives differ from a Llama in settings of the decoder and have its tensor names: Mistral, OLMo 2 and 3, Qwen3,
SmolLM3. Source: transformers' configurations and classes; a missing setting has their default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from firstsight.errors import ModelError, QuantityError
from firstsight.hub.public_weights import (
    PublicWeights,
    SupportedValues,
    check_tensors,
    concat_rows,
    exported_tokens_seen,
    float_setting,
    hf_folder_files,
    is_positive_int,
    model_shapes,
    nested_settings,
    positive_int_setting,
    prefix_errors,
    unsupported_settings,
)
from firstsight.model.tensors import ShapeAndDtype, StoredTensors, format_faults, shapes_and_dtypes
from firstsight.model.vision import UNSUPPORTED_ENCODERS, unsupported_reason
from firstsight.recipe.model import LinearRope, Llama3Rope, LMSpec, Rope, Rotary

FAMILY_SPECS: Mapping[str, Mapping[str, Any]] = {
    "llama": {},
    "mistral": {},
    "olmo2": {"block": "post_norm", "qk_norm": True},
    "olmo3": {"block": "post_norm", "qk_norm": True},
    "qwen3": {"qk_norm": True, "qk_norm_width": "head"},
    "smollm3": {},
}
"""Fields of LMSpec in which a family, by its model_type, differs from a Llama; windows and periods come on top."""
FAMILY_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "mistral": {"sliding_window": 4096},
    "olmo2": {"rms_norm_eps": 1e-5},
    "olmo3": {"rms_norm_eps": 1e-5, "sliding_window": 4096, "rope_theta": 500_000.0},
    "qwen3": {"head_dim": 128, "num_key_value_heads": 32},
    "smollm3": {"num_key_value_heads": 4, "tie_word_embeddings": True, "rope_theta": 2_000_000.0},
}
"""Values of settings that a config.json may leave out, where they are not LlamaConfig's."""
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "olmo3": "Olmo3ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
}
WINDOWED_TYPES = ("mistral", "olmo3")
LLAMA_SIZE_KEYS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
LLAMA_SUPPORTED_VALUES: SupportedValues = {
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "hidden_act": ("silu", "swish"),
    "partial_rotary_factor": (1, None),
    "quantization_config": (None,),
    "use_sliding_window": (False, None),
    "logit_scale": (1, None),
    "embedding_multiplier": (1, None),
}
UNSUPPORTED_FAMILIES = {
    "gpt2": "it has learned position embeddings, biases, LayerNorm with bias and a feed-forward without gate",
    "qwen2": "it has biases of queries, keys and values",
    **dict.fromkeys(
        ("gemma", "gemma2", "gemma3"),
        "its norm weights are offsets from one, its embeddings are scaled by the root of the width, its gate is GELU",
    ),
    "olmo": "its LayerNorm has no weights",
    "phi3": "it has queries, keys and values in one tensor and a sliding window",
    "phi": "its attention and feed-forward are parallel, with biases",
    "cohere": "its attention and feed-forward are parallel",
    "granite": "it scales embeddings, attention, residuals and logits by constants of its configuration",
    "stablelm": "its LayerNorm has a bias, and its rotary embedding is applied to a quarter of each head",
    **dict.fromkeys(("mixtral", "olmoe", "qwen2_moe", "qwen3_moe"), "it is a mixture of experts"),
}
"""Why a well-known family is not supported, by the beginning of its model_type."""
_INV_FREQ_SUFFIX = ".self_attn.rotary_emb.inv_freq"
"""The end of the names of rotary frequencies, which early folders store as tensors."""


def read_llama_weights(path: Path, config: Mapping[str, Any]) -> PublicWeights:
    """The weights of a folder of these families; ModelError if the family or a setting is not supported."""
    with prefix_errors(path):
        spec = llama_spec(config)
        check_architecture(config)
    stored, shapes, parts = StoredTensors(path, is_public=True), model_shapes(spec), llama_tensor_names(spec)
    expected: dict[str, ShapeAndDtype] = {}
    for name, sources in parts.items():
        shape, dtype = shapes[f"lm.{name}"]
        expected |= {source: (torch.Size((rows, *shape[1:])), dtype) for source, rows in sources}
    actual = shapes_and_dtypes(stored)
    check_tensors(path, expected, {name: actual[name] for name in llama_weight_names(stored, spec)})
    return PublicWeights(
        spec=spec,
        tensors=stored,
        source_names={f"lm.{name}": tuple(source for source, _ in sources) for name, sources in parts.items()},
        stored_names=stored.stored_names,
        files=hf_folder_files(path, stored),
        tokens_seen=exported_tokens_seen(config),
    )


def llama_spec(config: Mapping[str, Any]) -> LMSpec:
    """The decoder of a config.json of one of FAMILY_SPECS; ModelError names all unsupported settings."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILY_SPECS:
        raise ModelError(unsupported_family_message(model_type))
    config = {**FAMILY_DEFAULTS.get(model_type, {}), **config}
    if missing := [name for name in LLAMA_SIZE_KEYS if not is_positive_int(config.get(name))]:
        raise ModelError(f"config.json: wanted whole numbers. Got none for {', '.join(missing)}. Copy it again.")
    if unsupported := _unsupported_settings(config):
        raise ModelError(f"config.json: wanted a plain Llama. Got {', '.join(unsupported)}. Choose another run.")
    heads: int = config["num_attention_heads"]
    try:
        return LMSpec(
            layers=config["num_hidden_layers"],
            width=config["hidden_size"],
            heads=heads,
            kv_heads=positive_int_setting(config, "num_key_value_heads", default=heads),
            head_dim=positive_int_setting(config, "head_dim", default=config["hidden_size"] // heads),
            mlp_width=config["intermediate_size"],
            vocab_size=config["vocab_size"],
            norm="rms",
            eps=float_setting(config, "rms_norm_eps", default=1e-6),
            rope=_rotary_spec(config),
            ties_embeddings=bool(config.get("tie_word_embeddings", False)),
            token_shift=1,
            embedding_scale=1,
            **{"qk_norm": False, **FAMILY_SPECS[model_type], **_layer_settings(config)},
        )
    except QuantityError as error:
        raise ModelError(f"config.json: wanted valid sizes of a decoder. {error}") from error


def unsupported_family_message(model_type: object) -> str:
    """The message for a model_type that is not supported: the reason, if it is a known one, and alternatives."""
    encoders = {x: f"it is an encoder, {why}. Use SigLIP, CLIP or DINO" for x, why in UNSUPPORTED_ENCODERS.items()}
    reason = unsupported_reason(model_type, UNSUPPORTED_FAMILIES | encoders)
    names = ", ".join((*FAMILY_SPECS, "gpt_neox"))
    return (
        f"model_type: wanted {names} or openlm. Got {model_type!r}{f': {reason}' if reason else ''}. "
        "Use a run of one of these as the donor: firstsight donors lists those with public checkpoints."
    )


def check_architecture(config: Mapping[str, Any]) -> None:
    """ModelError if a config.json names a class without a language model's head."""
    architectures = config.get("architectures")
    if isinstance(architectures, list) and architectures and not str(architectures[0]).endswith("ForCausalLM"):
        raise ModelError(
            f"config.json: architectures: wanted a language model (...ForCausalLM). Got {architectures[0]}, with "
            "another output head or none. Use the language model that it was made from."
        )


def _unsupported_settings(config: Mapping[str, Any]) -> list[str]:
    unsupported = unsupported_settings(config, LLAMA_SUPPORTED_VALUES)
    types = config.get("layer_types") or []
    if not isinstance(types, list):
        return [*unsupported, f"layer_types {types!r}"]
    supported = ["full_attention", *(["sliding_attention"] if config["model_type"] in WINDOWED_TYPES else [])]
    others = {f"layer_types {kind!r}" for kind in cast(list[Any], types) if kind not in supported}
    if config["model_type"] == "llama" and config.get("sliding_window") is not None:
        others.add(f"sliding_window {config['sliding_window']!r}")
    return unsupported + sorted(others)


def _layer_settings(config: Mapping[str, Any]) -> dict[str, int]:
    """The fields of LMSpec about layers that differ from the others: windows, and layers without rotary."""
    layers, model_type = config["num_hidden_layers"], config["model_type"]
    if model_type == "smollm3":
        has_rotary = config.get("no_rope_layers")
        if has_rotary is None:
            return {"rotary_period": positive_int_setting(config, "no_rope_layer_interval", default=4)}
        return {"rotary_period": _period("no_rope_layers", [not x for x in _layer_list(has_rotary, layers)])}
    if model_type not in WINDOWED_TYPES or config.get("sliding_window") is None:
        return {}
    pattern = ["full_attention" if (i + 1) % 4 == 0 else "sliding_attention" for i in range(layers)]
    default = pattern if model_type == "olmo3" else ["sliding_attention"] * layers
    is_full = [kind == "full_attention" for kind in _layer_list(config.get("layer_types") or default, layers)]
    window = {"window": positive_int_setting(config, "sliding_window", default=0)}
    return {} if all(is_full) else {**window, "window_period": _period("layer_types", is_full)}


def _layer_list(values: object, layers: int) -> list[Any]:
    if isinstance(values, list) and len(cast(list[Any], values)) >= layers:
        return cast(list[Any], values)[:layers]
    raise ModelError(f"config.json: wanted a value for each of {layers} layers. Got {values!r}. Copy it again.")


def _period(name: str, is_exception: Sequence[bool]) -> int:
    """n if exactly every n-th layer is an exception, 0 if none is; ModelError for any other pattern."""
    if not any(is_exception):
        return 0
    period = is_exception.index(True) + 1
    if list(is_exception) == [(layer + 1) % period == 0 for layer in range(len(is_exception))]:
        return period
    raise ModelError(
        f"config.json: {name}: wanted every n-th layer to differ. Got another pattern. Choose another run."
    )


def _rotary_spec(config: Mapping[str, Any]) -> Rotary:
    """The rotary embedding, from the old keys (rope_theta, rope_scaling) or the new one (rope_parameters)."""
    rope = nested_settings(config, "rope_parameters") or nested_settings(config, "rope_scaling")
    if by_layer_type := [
        nested_settings(rope, kind) for kind in ("full_attention", "sliding_attention") if kind in rope
    ]:
        if by_layer_type[0] != by_layer_type[-1]:
            raise ModelError(
                "config.json: rope: wanted the same for all layers. Got two. Choose an earlier checkpoint."
            )
        rope = by_layer_type[0]
    base = float_setting({"rope_theta": 10_000.0} | dict(config) | rope, "rope_theta", default=10_000.0)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if (fraction := rope.get("partial_rotary_factor", 1)) != 1:
        raise ModelError(
            f"config.json: rope: wanted rotation of whole heads. Got partial_rotary_factor {fraction!r}. "
            "Choose another run."
        )

    def number(name: str) -> float:
        return float_setting({name: rope[name]}, name, default=1.0)

    try:
        match kind:
            case "default":
                return Rope(base=base)
            case "linear":
                return LinearRope(base=base, factor=number("factor"))
            case "llama3":
                return Llama3Rope(
                    base=base,
                    factor=number("factor"),
                    low_freq_factor=number("low_freq_factor"),
                    high_freq_factor=number("high_freq_factor"),
                    original_context=int(number("original_max_position_embeddings")),
                )
            case _:
                raise ModelError(
                    f"config.json: rope: wanted default, linear or llama3. Got {kind!r}. "
                    "Choose another run, or the one before its context was extended."
                )
    except KeyError as error:
        raise ModelError(f"config.json: rope {kind}: wanted {error}. Got none. Copy it again.") from error


def llama_unsupported_reason(spec: LMSpec) -> str:
    """Why neither LlamaForCausalLM nor a relative can represent a model; empty if one can."""
    features = {
        "LayerNorm": spec.norm != "rms",
        "norm of queries and keys": spec.qk_norm and (spec.block, spec.qk_norm_width) == ("pre_norm", "full"),
        "token shift": spec.token_shift != 1,
        "scaled embeddings": spec.embedding_scale != 1,
        "parallel blocks": spec.block == "parallel",
        "MLP without a gate": spec.mlp != "swiglu",
        "biases": spec.has_biases,
        "partial rotary": isinstance(spec.rope, Rope) and spec.rope.fraction != 1,
        "width that is not a multiple of its heads": spec.width % spec.heads != 0,
    }
    used = [feature for feature, is_used in features.items() if is_used]
    if not used and not _model_type(spec):
        return "no class has this combination of norms, windows and layers without rotary"
    return f"LlamaForCausalLM has no {', no '.join(used)}" if used else ""


def _model_type(spec: LMSpec) -> str:
    """The family of a decoder without features that none of them has; empty where no family combines its settings."""
    norms = {"block": spec.block, "qk_norm": spec.qk_norm, "qk_norm_width": spec.qk_norm_width}
    layers = spec.window > 0, spec.window_period > 0, spec.rotary_period > 0
    kinds = {
        "llama": (False, False, False),
        "mistral": (True, False, False),
        "smollm3": (False, False, True),
        "olmo2": (False, False, False),
        "olmo3": (True, True, False),
        "qwen3": (False, False, False),
    }
    plain = {"block": "pre_norm", "qk_norm": False, "qk_norm_width": "full"}
    matching = (name for name in kinds if kinds[name] == layers and {**plain, **FAMILY_SPECS[name]} == norms)
    return next(matching, "")


def llama_config(spec: LMSpec) -> dict[str, Any]:
    """The fields of config.json, without the longest context; ModelError if `llama_unsupported_reason` has one."""
    if reason := llama_unsupported_reason(spec):
        raise ModelError(f"wanted a model of the Llama family. Got: {reason}. Export it with firstsight's classes.")
    model_type, rope = _model_type(spec), _rope_parameters(spec.rope)
    extra: dict[str, Any] = {}
    if spec.window:
        extra = {"sliding_window": spec.window}
    elif spec.rotary_period:
        extra = {"no_rope_layers": [int(spec.has_rotary(layer)) for layer in range(spec.layers)]}
        extra["no_rope_layer_interval"] = spec.rotary_period
    if model_type == "olmo3":
        is_windowed = [spec.is_windowed(layer) for layer in range(spec.layers)]
        extra["layer_types"] = ["sliding_attention" if windowed else "full_attention" for windowed in is_windowed]
        rope = dict.fromkeys(("full_attention", "sliding_attention"), rope)
    return extra | {
        "model_type": model_type,
        "architectures": [ARCHITECTURES[model_type]],
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.width,
        "intermediate_size": spec.mlp_width,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": spec.eps,
        "rope_parameters": rope,
        "tie_word_embeddings": spec.ties_embeddings,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
    }


def _rope_parameters(rope: Rotary) -> dict[str, Any]:
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


def llama_tensor_names(spec: LMSpec) -> dict[str, tuple[tuple[str, int], ...]]:
    """For each tensor of a decoder (without `lm.`): name and rows of the Llama tensors that are concatenated to it."""
    q, kv, width, hidden = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim, spec.width, spec.mlp_width
    norms = ["input_layernorm", "post_attention_layernorm"]
    if spec.block == "post_norm":
        norms = ["post_attention_layernorm", "post_feedforward_layernorm"]
    qk_norms = dict(zip("qk", (spec.head_dim,) * 2 if spec.qk_norm_width == "head" else (q, kv), strict=True))
    parts = {"tok_embeddings.weight": (("model.embed_tokens.weight", spec.vocab_size),)}
    for layer in range(spec.layers):
        block = f"model.layers.{layer}"
        attention, mlp = f"{block}.self_attn", f"{block}.mlp"
        parts |= {
            f"layers.{layer}.{name}.weight": tuple((f"{source}.weight", rows) for source, rows in sources)
            for name, sources in (
                ("attention_norm", [(f"{block}.{norms[0]}", width)]),
                ("attention.in_proj", [(f"{attention}.{x}_proj", q if x == "q" else kv) for x in "qkv"]),
                ("attention.out_proj", [(f"{attention}.o_proj", width)]),
                ("ffn_norm", [(f"{block}.{norms[1]}", width)]),
                ("feed_forward.w12", [(f"{mlp}.gate_proj", hidden), (f"{mlp}.up_proj", hidden)]),
                ("feed_forward.w3", [(f"{mlp}.down_proj", width)]),
                *((f"attention.{x}_norm", [(f"{attention}.{x}_norm", qk_norms[x])]) for x in "qk" if spec.qk_norm),
            )
        }
    parts["norm.weight"] = (("model.norm.weight", width),)
    return parts if spec.ties_embeddings else parts | {"output.weight": (("lm_head.weight", spec.vocab_size),)}


def to_llama(tensors: Mapping[str, Tensor], spec: LMSpec) -> dict[str, Tensor]:
    """A decoder's tensors (without `lm.`) under LlamaForCausalLM's names; ModelError names missing and extra ones."""
    parts = llama_tensor_names(spec)
    _check_names(parts.keys(), tensors.keys())
    return {
        source: rows
        for name, sources in parts.items()
        for (source, _), rows in zip(sources, tensors[name].split([count for _, count in sources]), strict=True)
    }


def from_llama(tensors: Mapping[str, Tensor], spec: LMSpec) -> dict[str, Tensor]:
    """The inverse of `to_llama`."""
    parts = llama_tensor_names(spec)
    _check_names({name for names in parts.values() for name, _ in names}, set(llama_weight_names(tensors, spec)))
    return {name: concat_rows([tensors[source] for source, _ in sources]) for name, sources in parts.items()}


def llama_weight_names(tensors: Mapping[str, Tensor], spec: LMSpec) -> list[str]:
    """Names of the weights, without rotary frequencies and without a tied model's second copy of the embeddings."""
    head, embeddings = "lm_head.weight", "model.embed_tokens.weight"
    has_copy = spec.ties_embeddings and {head, embeddings} <= tensors.keys()
    has_copy = has_copy and torch.equal(tensors[head], tensors[embeddings])
    return [name for name in tensors if not name.endswith(_INV_FREQ_SUFFIX) and not (has_copy and name == head)]


def _check_names(expected: Set[str], actual: Set[str]) -> None:
    faults = format_faults({"missing": sorted(expected - actual), "extra": sorted(actual - expected)})
    if faults:
        raise ModelError(f"wanted the tensors of the configuration. Got {faults}. Copy both from the same run.")
