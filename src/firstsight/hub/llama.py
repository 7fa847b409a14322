"""The Llama family as transformers lays it out: its configuration as our spec, its tensors as ours, and both ways back.

Source: transformers' LlamaConfig, MistralConfig and LlamaForCausalLM; what a configuration leaves out has the value
that those classes give it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from firstsight.errors import ModelError, QuantityError
from firstsight.model.vision import UNSUPPORTED_ENCODERS as ENCODERS
from firstsight.model.vision import unsupported_reason
from firstsight.recipe.model import LinearRope, Llama3Rope, LMSpec, Rope, Rotary

LLAMA_MODEL_TYPES = ("llama", "mistral")
LLAMA_SIZE_KEYS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
LLAMA_SUPPORTED_VALUES: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "hidden_act": ("silu", "swish"),
    "partial_rotary_factor": (1, None),
    "quantization_config": (None,),
    "sliding_window": (None,),
    "use_sliding_window": (False, None),
    "logit_scale": (1, None),
    "embedding_multiplier": (1, None),
}
"""What a setting must be where it is given; anything else would be another model."""
UNSUPPORTED_FAMILIES = {
    "gpt_neox": "gpt_neox (Pythia) is another architecture: parallel blocks, biases, LayerNorm with bias, GELU and "
    "partial rotary. Its weights are not read; its tokenizer is the one that OpenLM uses and is",
    "gpt2": "it adds learned positions to its words, has biases, LayerNorm with bias and a feed-forward without gate",
    "qwen2": "it has biases of queries, keys and values",
    "qwen3": "it norms queries and keys of each head by itself; OpenLM norms all heads together",
    **dict.fromkeys(
        ("gemma", "gemma2", "gemma3"),
        "it counts gains from one, scales embeddings by the root of the width and has GELU in its gate",
    ),
    "olmo": "its LayerNorm has no gains",
    "olmo2": "it norms behind attention and feed-forward instead of before",
    "smollm3": "every fourth of its layers has no rotary angles (SmolLM2 is a Llama and is read)",
    "phi3": "it keeps queries, keys and values in one tensor and looks back through a window",
    "phi": "its attention and feed-forward stand side by side, with biases",
    "cohere": "its attention and feed-forward stand side by side",
    "granite": "it scales embeddings, attention, residuals and logits by numbers of its own",
    "stablelm": "its LayerNorm has a bias, and its rotary angles turn a quarter of each head",
    **dict.fromkeys(
        ("mixtral", "olmoe", "qwen2_moe", "qwen3_moe"), "it chooses among several feed-forwards for every token"
    ),
}
"""Why a well-known family is not read, by its model_type without what follows a _."""
DONOR_ADVICE = "Take OpenLM/DCLM or a Llama-family run as the donor"
_INV_FREQ_SUFFIX = ".self_attn.rotary_emb.inv_freq"
"""Angles that early folders keep beside the weights."""


def llama_spec(config: Mapping[str, Any]) -> LMSpec:
    """The decoder that a config.json of model_type llama or mistral describes; ModelError names all that we lack."""
    if config.get("model_type") not in LLAMA_MODEL_TYPES:
        raise ModelError(unsupported_family_message(config.get("model_type")))
    if missing_keys := [name for name in LLAMA_SIZE_KEYS if not _is_positive_int(config.get(name))]:
        raise ModelError(f"config.json: wanted whole numbers. Got none for {', '.join(missing_keys)}. Copy it again.")
    if unsupported := _unsupported_settings(config):
        raise ModelError(f"config.json: wanted a plain Llama. Got {', '.join(unsupported)}. Choose a run without.")
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
            eps=_float_setting(config, "rms_norm_eps", default=1e-6),
            qk_norm=False,
            rope=_rotary_spec(config),
            ties_embeddings=bool(config.get("tie_word_embeddings", False)),
            token_shift=1,
            embedding_scale=1,
        )
    except QuantityError as error:
        raise ModelError(f"config.json: wanted the numbers of a decoder. {error}") from error


def unsupported_family_message(model_type: object) -> str:
    """What is said of a model_type that is not read: why, where that is known, and what to take instead."""
    reasons = UNSUPPORTED_FAMILIES | {
        name: f"it is an encoder, {explanation}. Take SigLIP or DINOv2" for name, explanation in ENCODERS.items()
    }
    type_text, explanation = (
        "gpt_neox" if model_type == "gpt_neox" else repr(model_type),
        unsupported_reason(model_type, reasons),
    )
    cause = f"Got {type_text}: {explanation}." if explanation else f"Got {type_text}."
    return f"model_type: wanted llama, mistral or openlm. {cause} {DONOR_ADVICE}."


def positive_int_setting(settings: Mapping[str, Any], name: str, *, default: int) -> int:
    """A whole number above zero, `usual` where none is told; ModelError for anything else."""
    value = settings.get(name)
    if value is None:
        return default
    if not _is_positive_int(value):
        raise ModelError(f"config.json: {name}: wanted a whole number above zero. Got {value!r}. Copy it again.")
    return value


def nested_settings(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The settings under a name, empty where there are none; ModelError for anything else."""
    value = settings.get(name)
    if value is not None and not isinstance(value, dict):
        raise ModelError(f"config.json: {name}: wanted settings by name. Got {value!r}. Copy it again.")
    return dict(cast(dict[str, Any], value or {}))


def _is_positive_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _float_setting(settings: Mapping[str, Any], name: str, *, default: float) -> float:
    value = settings.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ModelError(f"config.json: {name}: wanted a number. Got {value!r}. Copy it again.")
    return float(value)


def _unsupported_settings(config: Mapping[str, Any]) -> list[str]:
    """Settings under which the model is not ours, with their values."""
    settings = dict(config)
    if config["model_type"] == "mistral":
        settings.setdefault("sliding_window", "4096, as mistral has it where none is told")
    unsupported = [
        f"{key} {settings[key]!r}"
        for key, supported_values in LLAMA_SUPPORTED_VALUES.items()
        if key in settings and settings[key] not in supported_values
    ]
    layer_types = settings.get("layer_types") or []
    if not isinstance(layer_types, list):
        return [*unsupported, f"layer_types {layer_types!r}"]
    return unsupported + sorted(
        {f"layer_types {layer_type!r}" for layer_type in cast(list[Any], layer_types) if layer_type != "full_attention"}
    )


def _rotary_spec(config: Mapping[str, Any]) -> Rotary:
    """The rotary settings, in the old keys (rope_theta, rope_scaling) or the new one (rope_parameters)."""
    rope_settings = nested_settings(config, "rope_parameters") or nested_settings(config, "rope_scaling")
    base = _float_setting({"rope_theta": 10_000.0} | dict(config) | rope_settings, "rope_theta", default=10_000.0)
    rope_type = rope_settings.get("rope_type", rope_settings.get("type", "default"))
    if (rotary_factor := rope_settings.get("partial_rotary_factor", 1)) != 1:
        raise ModelError(
            f"config.json: rope: wanted a whole head turned. Got partial_rotary_factor {rotary_factor!r}. Choose another run."
        )
    try:
        match rope_type:
            case "default":
                return Rope(base=base)
            case "linear":
                return LinearRope(base=base, factor=_required_float(rope_settings, "factor"))
            case "llama3":
                return Llama3Rope(
                    base=base,
                    factor=_required_float(rope_settings, "factor"),
                    low_freq_factor=_required_float(rope_settings, "low_freq_factor"),
                    high_freq_factor=_required_float(rope_settings, "high_freq_factor"),
                    original_context=int(_required_float(rope_settings, "original_max_position_embeddings")),
                )
            case _:
                raise ModelError(
                    f"config.json: rope: wanted default, linear or llama3. Got {rope_type!r}, other angles than those. "
                    "Choose another run, or the one before its context was made longer."
                )
    except KeyError as error:
        raise ModelError(f"config.json: rope {rope_type}: wanted {error}. Got none. Copy it again.") from error


def _required_float(settings: Mapping[str, Any], name: str) -> float:
    """A number that must be told; KeyError where it is not."""
    return _float_setting({name: settings[name]}, name, default=1.0)


def llama_unsupported_reason(spec: LMSpec) -> str:
    """Why no LlamaForCausalLM says what this model says; empty where one does."""
    features = {
        "LayerNorm": spec.norm != "rms",
        "norm of queries and keys": spec.qk_norm,
        "token shift": spec.token_shift != 1,
        "scaled embeddings": spec.embedding_scale != 1,
        "width that its heads do not divide": spec.width % spec.heads != 0,
    }
    missing_features = [feature for feature, is_used in features.items() if is_used]
    return f"LlamaForCausalLM has no {', no '.join(missing_features)}" if missing_features else ""


def llama_config(spec: LMSpec) -> dict[str, Any]:
    """LlamaConfig's fields for a spec that it can say (see `why_not`); the longest row is not a matter of the spec."""
    if explanation := llama_unsupported_reason(spec):
        raise ModelError(
            f"wanted a model of the Llama family. Got another: {explanation}. Export it through our classes."
        )
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.width,
        "intermediate_size": spec.mlp_width,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": spec.eps,
        "rope_parameters": _rope_parameters(spec.rope),
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
    """Our tensors by name, each with the Llama tensors that it is made of, one below the other, and their rows."""
    query_rows, key_value_rows = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    tensor_names = {"tok_embeddings.weight": (("model.embed_tokens.weight", spec.vocab_size),)}
    for layer in range(spec.layers):
        layer_prefix, llama_prefix = f"layers.{layer}.", f"model.layers.{layer}."
        attention_prefix, mlp_prefix = f"{llama_prefix}self_attn.", f"{llama_prefix}mlp."
        tensor_names |= {
            f"{layer_prefix}attention_norm.weight": ((f"{llama_prefix}input_layernorm.weight", spec.width),),
            f"{layer_prefix}attention.in_proj.weight": (
                (f"{attention_prefix}q_proj.weight", query_rows),
                (f"{attention_prefix}k_proj.weight", key_value_rows),
                (f"{attention_prefix}v_proj.weight", key_value_rows),
            ),
            f"{layer_prefix}attention.out_proj.weight": ((f"{attention_prefix}o_proj.weight", spec.width),),
            f"{layer_prefix}ffn_norm.weight": ((f"{llama_prefix}post_attention_layernorm.weight", spec.width),),
            f"{layer_prefix}feed_forward.w12.weight": (
                (f"{mlp_prefix}gate_proj.weight", spec.mlp_width),
                (f"{mlp_prefix}up_proj.weight", spec.mlp_width),
            ),
            f"{layer_prefix}feed_forward.w3.weight": ((f"{mlp_prefix}down_proj.weight", spec.width),),
        }
    tensor_names["norm.weight"] = (("model.norm.weight", spec.width),)
    return (
        tensor_names
        if spec.ties_embeddings
        else tensor_names | {"output.weight": (("lm_head.weight", spec.vocab_size),)}
    )


def to_llama(tensors: Mapping[str, Tensor], spec: LMSpec) -> dict[str, Tensor]:
    """Our tensors (without `lm.`) under LlamaForCausalLM's names; ModelError names what is missing or extra."""
    tensor_names = llama_tensor_names(spec)
    _check_same_names(tensor_names.keys(), tensors.keys())
    return {
        name: part
        for firstsight_name, parts in tensor_names.items()
        for (name, _), part in zip(parts, tensors[firstsight_name].split([rows for _, rows in parts]), strict=True)
    }


def from_llama(tensors: Mapping[str, Tensor], spec: LMSpec) -> dict[str, Tensor]:
    """LlamaForCausalLM's tensors under our names (without `lm.`); ModelError names what is missing or extra."""
    tensor_names = llama_tensor_names(spec)
    _check_same_names(
        {name for parts in tensor_names.values() for name, _ in parts}, set(llama_weight_names(tensors, spec))
    )
    return {
        firstsight_name: concat_rows([tensors[name] for name, _ in parts])
        for firstsight_name, parts in tensor_names.items()
    }


def llama_weight_names(tensors: Mapping[str, Tensor], spec: LMSpec) -> list[str]:
    """The tensors that are the model: not the angles of early folders, not a tied model's second copy of embeddings."""
    head_name, embedding_name = "lm_head.weight", "model.embed_tokens.weight"
    has_tied_copy = (
        spec.ties_embeddings
        and head_name in tensors
        and embedding_name in tensors
        and torch.equal(tensors[head_name], tensors[embedding_name])
    )
    return [
        name for name in tensors if not name.endswith(_INV_FREQ_SUFFIX) and not (has_tied_copy and name == head_name)
    ]


def concat_rows(tensors: list[Tensor]) -> Tensor:
    """Matrices one below the other; a single one as it is."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _check_same_names(expected: Any, actual: Any) -> None:
    missing, extra = sorted(expected - actual), sorted(actual - expected)
    if missing or extra:
        differences = "; ".join(
            f"{label}: {', '.join(names)}" for label, names in (("missing", missing), ("extra", extra)) if names
        )
        raise ModelError(
            f"wanted the tensors that the configuration tells of. Got {differences}. Copy both from one run."
        )
