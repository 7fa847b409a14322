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
from firstsight.model.vision import FOREIGN as ENCODERS
from firstsight.model.vision import reason
from firstsight.recipe.lm import LinearRope, Llama3Rope, LMSpec, Rope, Rotary

KINDS = ("llama", "mistral")
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
PLAIN: dict[str, tuple[Any, ...]] = {
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
FOREIGN = {
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
DONORS = "Take OpenLM/DCLM or a Llama-family run as the donor"
_OLD = ".self_attn.rotary_emb.inv_freq"
"""Angles that early folders keep beside the weights."""


def spec_of(config: Mapping[str, Any]) -> LMSpec:
    """The decoder that a config.json of model_type llama or mistral describes; ModelError names all that we lack."""
    if config.get("model_type") not in KINDS:
        raise ModelError(refusal(config.get("model_type")))
    if lacking := [name for name in SIZES if not _is_count(config.get(name))]:
        raise ModelError(f"config.json: wanted whole numbers. Got none for {', '.join(lacking)}. Copy it again.")
    if foreign := _foreign(config):
        raise ModelError(f"config.json: wanted a plain Llama. Got {', '.join(foreign)}. Choose a run without.")
    heads: int = config["num_attention_heads"]
    try:
        return LMSpec(
            layers=config["num_hidden_layers"],
            width=config["hidden_size"],
            heads=heads,
            kv_heads=count(config, "num_key_value_heads", usual=heads),
            head=count(config, "head_dim", usual=config["hidden_size"] // heads),
            hidden=config["intermediate_size"],
            vocabulary=config["vocab_size"],
            norm="rms",
            eps=_number(config, "rms_norm_eps", usual=1e-6),
            qk_norm=False,
            rope=_rope(config),
            tied=bool(config.get("tie_word_embeddings", False)),
            token_shift=1,
            embedding_scale=1,
        )
    except QuantityError as problem:
        raise ModelError(f"config.json: wanted the numbers of a decoder. {problem}") from problem


def refusal(kind: object) -> str:
    """What is said of a model_type that is not read: why, where that is known, and what to take instead."""
    reasons = FOREIGN | {name: f"it is an encoder, {told}. Take SigLIP or DINOv2" for name, told in ENCODERS.items()}
    shown, told = "gpt_neox" if kind == "gpt_neox" else repr(kind), reason(kind, reasons)
    why = f"Got {shown}: {told}." if told else f"Got {shown}."
    return f"model_type: wanted llama, mistral or openlm. {why} {DONORS}."


def count(told: Mapping[str, Any], name: str, *, usual: int) -> int:
    """A whole number above zero, `usual` where none is told; ModelError for anything else."""
    value = told.get(name)
    if value is None:
        return usual
    if not _is_count(value):
        raise ModelError(f"config.json: {name}: wanted a whole number above zero. Got {value!r}. Copy it again.")
    return value


def table(told: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The settings under a name, empty where there are none; ModelError for anything else."""
    value = told.get(name)
    if value is not None and not isinstance(value, dict):
        raise ModelError(f"config.json: {name}: wanted settings by name. Got {value!r}. Copy it again.")
    return dict(cast(dict[str, Any], value or {}))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _number(told: Mapping[str, Any], name: str, *, usual: float) -> float:
    value = told.get(name, usual)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ModelError(f"config.json: {name}: wanted a number. Got {value!r}. Copy it again.")
    return float(value)


def _foreign(config: Mapping[str, Any]) -> list[str]:
    """Settings under which the model is not ours, with their values."""
    given = dict(config)
    if config["model_type"] == "mistral":
        given.setdefault("sliding_window", "4096, as mistral has it where none is told")
    found = [f"{key} {given[key]!r}" for key, good in PLAIN.items() if key in given and given[key] not in good]
    layers = given.get("layer_types") or []
    if not isinstance(layers, list):
        return [*found, f"layer_types {layers!r}"]
    return found + sorted({f"layer_types {one!r}" for one in cast(list[Any], layers) if one != "full_attention"})


def _rope(config: Mapping[str, Any]) -> Rotary:
    """The rotary settings, in the old keys (rope_theta, rope_scaling) or the new one (rope_parameters)."""
    told = table(config, "rope_parameters") or table(config, "rope_scaling")
    base = _number({"rope_theta": 10_000.0} | dict(config) | told, "rope_theta", usual=10_000.0)
    kind = told.get("rope_type", told.get("type", "default"))
    if (part := told.get("partial_rotary_factor", 1)) != 1:
        raise ModelError(
            f"config.json: rope: wanted a whole head turned. Got partial_rotary_factor {part!r}. Choose another run."
        )
    try:
        match kind:
            case "default":
                return Rope(base=base)
            case "linear":
                return LinearRope(base=base, factor=_needed(told, "factor"))
            case "llama3":
                return Llama3Rope(
                    base=base,
                    factor=_needed(told, "factor"),
                    low=_needed(told, "low_freq_factor"),
                    high=_needed(told, "high_freq_factor"),
                    context=int(_needed(told, "original_max_position_embeddings")),
                )
            case _:
                raise ModelError(
                    f"config.json: rope: wanted default, linear or llama3. Got {kind!r}, other angles than those. "
                    "Choose another run, or the one before its context was made longer."
                )
    except KeyError as problem:
        raise ModelError(f"config.json: rope {kind}: wanted {problem}. Got none. Copy it again.") from problem


def _needed(told: Mapping[str, Any], name: str) -> float:
    """A number that must be told; KeyError where it is not."""
    return _number({name: told[name]}, name, usual=1.0)


def why_not(spec: LMSpec) -> str:
    """Why no LlamaForCausalLM says what this model says; empty where one does."""
    reasons = {
        "LayerNorm": spec.norm != "rms",
        "norm of queries and keys": spec.qk_norm,
        "token shift": spec.token_shift != 1,
        "scaled embeddings": spec.embedding_scale != 1,
        "width that its heads do not divide": spec.width % spec.heads != 0,
    }
    found = [reason for reason, holds in reasons.items() if holds]
    return f"LlamaForCausalLM has no {', no '.join(found)}" if found else ""


def config_of(spec: LMSpec) -> dict[str, Any]:
    """LlamaConfig's fields for a spec that it can say (see `why_not`); the longest row is not a matter of the spec."""
    if reason := why_not(spec):
        raise ModelError(f"wanted a model of the Llama family. Got another: {reason}. Export it through our classes.")
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": spec.vocabulary,
        "hidden_size": spec.width,
        "intermediate_size": spec.hidden,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head,
        "hidden_act": "silu",
        "rms_norm_eps": spec.eps,
        "rope_parameters": _told(spec.rope),
        "tie_word_embeddings": spec.tied,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
    }


def _told(rope: Rotary) -> dict[str, Any]:
    match rope:
        case LinearRope():
            return {"rope_type": "linear", "rope_theta": rope.base, "factor": rope.factor}
        case Llama3Rope():
            return {
                "rope_type": "llama3",
                "rope_theta": rope.base,
                "factor": rope.factor,
                "low_freq_factor": rope.low,
                "high_freq_factor": rope.high,
                "original_max_position_embeddings": rope.context,
            }
        case Rope():
            return {"rope_type": "default", "rope_theta": rope.base}


def pieces(spec: LMSpec) -> dict[str, tuple[tuple[str, int], ...]]:
    """Our tensors by name, each with the Llama tensors that it is made of, one below the other, and their rows."""
    asked, kept = spec.heads * spec.head, spec.kv_heads * spec.head
    found = {"tok_embeddings.weight": (("model.embed_tokens.weight", spec.vocabulary),)}
    for number in range(spec.layers):
        ours, theirs = f"layers.{number}.", f"model.layers.{number}."
        attention, feed = f"{theirs}self_attn.", f"{theirs}mlp."
        found |= {
            f"{ours}attention_norm.weight": ((f"{theirs}input_layernorm.weight", spec.width),),
            f"{ours}attention.in_proj.weight": (
                (f"{attention}q_proj.weight", asked),
                (f"{attention}k_proj.weight", kept),
                (f"{attention}v_proj.weight", kept),
            ),
            f"{ours}attention.out_proj.weight": ((f"{attention}o_proj.weight", spec.width),),
            f"{ours}ffn_norm.weight": ((f"{theirs}post_attention_layernorm.weight", spec.width),),
            f"{ours}feed_forward.w12.weight": (
                (f"{feed}gate_proj.weight", spec.hidden),
                (f"{feed}up_proj.weight", spec.hidden),
            ),
            f"{ours}feed_forward.w3.weight": ((f"{feed}down_proj.weight", spec.width),),
        }
    found["norm.weight"] = (("model.norm.weight", spec.width),)
    return found if spec.tied else found | {"output.weight": (("lm_head.weight", spec.vocabulary),)}


def to_llama(tensors: Mapping[str, Tensor], spec: LMSpec) -> dict[str, Tensor]:
    """Our tensors (without `lm.`) under LlamaForCausalLM's names; ModelError names what is missing or extra."""
    made = pieces(spec)
    _same(made.keys(), tensors.keys())
    return {
        name: part
        for ours, parts in made.items()
        for (name, _), part in zip(parts, tensors[ours].split([rows for _, rows in parts]), strict=True)
    }


def from_llama(tensors: Mapping[str, Tensor], spec: LMSpec) -> dict[str, Tensor]:
    """LlamaForCausalLM's tensors under our names (without `lm.`); ModelError names what is missing or extra."""
    made = pieces(spec)
    _same({name for parts in made.values() for name, _ in parts}, set(counted(tensors, spec)))
    return {ours: joined([tensors[name] for name, _ in parts]) for ours, parts in made.items()}


def counted(tensors: Mapping[str, Tensor], spec: LMSpec) -> list[str]:
    """The tensors that are the model: not the angles of early folders, not a tied model's second copy of embeddings."""
    head, words = "lm_head.weight", "model.embed_tokens.weight"
    double = spec.tied and head in tensors and words in tensors and torch.equal(tensors[head], tensors[words])
    return [name for name in tensors if not name.endswith(_OLD) and not (double and name == head)]


def joined(parts: list[Tensor]) -> Tensor:
    """Matrices one below the other; a single one as it is."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _same(wanted: Any, given: Any) -> None:
    missing, extra = sorted(wanted - given), sorted(given - wanted)
    if missing or extra:
        told = "; ".join(f"{what}: {', '.join(n)}" for what, n in (("missing", missing), ("extra", extra)) if n)
        raise ModelError(f"wanted the tensors that the configuration tells of. Got {told}. Copy both from one run.")
