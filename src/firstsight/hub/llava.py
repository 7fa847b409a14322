"""Models that see as transformers' LlavaForConditionalGeneration: what fits there, its settings and its names.

The tower is written up to its second-to-last block, the last that is run, and read at its end: the same features with
nothing left over. Source: transformers, models/llava and models/siglip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from firstsight.errors import FirstsightError, ModelError
from firstsight.hub import llama
from firstsight.recipe import serialize
from firstsight.recipe.mixture import External
from firstsight.recipe.model import LMSpec, ProjectorSpec, VLMSpec
from firstsight.recipe.vision import Siglip, ViTSpec
from firstsight.units import Tokens

SPEC_KEY = "firstsight"
"""Key of a folder's config.json under which the whole spec stands, so that an import loses nothing."""
TRAINED_TOWER_PREFIX, LLAVA_TOWER_PREFIX = "vision.towers.0.", "vision_tower.vision_model."
FROZEN_TOWER_PREFIX = "encoder.towers.0."
"""Names of a frozen tower, which is no part of the model."""
SIGLIP_DEFAULT_SIZES = {
    "num_hidden_layers": 12,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
}
"""A SigLIP tower's sizes where its settings leave one out, as transformers has it."""
PROJECTOR_NAMES = {f"projector.linears.{n}.{part}": f"multi_modal_projector.linear_{n + 1}.{part}"
             for n in (0, 1) for part in ("weight", "bias")}  # fmt: skip


def llava_unsupported_reason(spec: VLMSpec) -> str:
    """What keeps a Llava of transformers from saying the same; empty where one does."""
    projector, vision = spec.projector, spec.vision
    reasons = [
        (llama.llama_unsupported_reason(spec.lm), f"its decoder: {llama.llama_unsupported_reason(spec.lm)}"),
        (not isinstance(vision, Siglip), f"Llava reads one SigLIP tower here, not {type(vision).__name__}"),
        (vision.fit != "resize", "no processor of transformers letterboxes pictures to the same pixels"),
        (projector.kind != "mlp2", f"Llava's projector is mlp2, not {projector.kind}"),
        (projector.pixel_shuffle != 1, f"Llava has no pixel shuffle; shuffle is {projector.pixel_shuffle}"),
        (
            projector.tokens_per_patch != 1,
            f"Llava makes one image token of each vision token; spread is {projector.tokens_per_patch}",
        ),
        (projector.has_position_embeddings, "Llava adds no learned positions to image tokens"),
        (spec.attention != "causal", f"Llava's attention is causal, not {spec.attention}"),
    ]
    return "; ".join(explanation for is_unsupported, explanation in reasons if is_unsupported)


def llava_config(spec: VLMSpec) -> dict[str, Any]:
    """LlavaConfig's fields but for the tokenizer's ids; ModelError where `why_not` has a reason."""
    if (explanation := llava_unsupported_reason(spec)) or not isinstance(spec.vision, Siglip):
        raise ModelError(f"wanted a model that Llava can say. Got: {explanation}. Use firstsight's own classes.")
    vit = spec.vision.vit
    return {
        "model_type": "llava",
        "architectures": ["LlavaForConditionalGeneration"],
        "text_config": llama.llama_config(spec.lm),
        "vision_config": {
            "model_type": "siglip_vision_model",
            "num_hidden_layers": vit.layers - 1,
            "hidden_size": vit.width,
            "intermediate_size": vit.mlp_width,
            "num_attention_heads": vit.heads,
            "image_size": vit.image_size,
            "patch_size": vit.patch_size,
            "vision_use_head": False,
        },
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "image_seq_length": spec.image_tokens,
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
        "tie_word_embeddings": spec.lm.ties_embeddings,
    }


def llava_spec(config: Mapping[str, Any]) -> VLMSpec:
    """The model that a Llava's config.json describes: what firstsight wrote in it, or one with a tower of its own.

    Raises ModelError that names the first thing firstsight cannot do the same.
    """
    if SPEC_KEY in config and isinstance(spec := embedded_spec(config), VLMSpec):
        return spec
    vision_config, feature_layer = _siglip_config(config), config.get("vision_feature_layer", -2)
    required_values = {
        "vision_feature_select_strategy": ("full", config.get("vision_feature_select_strategy", "default")),
        "projector_hidden_act": ("gelu", config.get("projector_hidden_act", "gelu")),
        "multimodal_projector_bias": (True, config.get("multimodal_projector_bias", True)),
        "vision_config.hidden_act": ("gelu_pytorch_tanh", vision_config.get("hidden_act", "gelu_pytorch_tanh")),
        "vision_config.layer_norm_eps": (1e-6, vision_config.get("layer_norm_eps", 1e-6)),
    }
    for name, (expected, value) in required_values.items():
        if expected != value:
            raise ModelError(
                f"{name}: wanted {expected!r}. Got {value!r}, which firstsight does not do. Take another Llava."
            )
    sizes = {
        name: llama.positive_int_setting(vision_config, name, default=default)
        for name, default in SIGLIP_DEFAULT_SIZES.items()
    }
    if not isinstance(feature_layer, int) or not -sizes["num_hidden_layers"] <= feature_layer < 0:
        raise ModelError(
            f"vision_feature_layer: wanted one negative number. Got {feature_layer!r}. Take another Llava."
        )
    vit = ViTSpec(
        layers=sizes["num_hidden_layers"] + feature_layer + 2,
        width=sizes["hidden_size"],
        heads=sizes["num_attention_heads"],
        mlp_width=sizes["intermediate_size"],
        image_size=sizes["image_size"],
        patch_size=sizes["patch_size"],
    )
    lm = llama.llama_spec(llama.nested_settings(config, "text_config"))
    return VLMSpec(
        lm=lm
        if lm.ties_embeddings or not config.get("tie_word_embeddings", False)
        else replace(lm, ties_embeddings=True),
        vision=Siglip(vit=vit, fit="resize", weights=External(name="llava", form="encoder", tokens=Tokens(0))),
        encoder="trained",
        projector=ProjectorSpec(kind="mlp2", pixel_shuffle=1, tokens_per_patch=1, has_position_embeddings=False),
        attention="causal",
    )


def embedded_spec(config: Mapping[str, Any]) -> LMSpec | VLMSpec:
    """The spec that firstsight wrote into a config.json; ModelError where it is none."""
    try:
        if isinstance(spec := serialize.from_json(llama.nested_settings(config, SPEC_KEY)), LMSpec | VLMSpec):
            return spec
        raise TypeError(type(spec).__name__)
    except (FirstsightError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"config.json: {SPEC_KEY}: wanted a spec. Got: {error}. Export the model again.") from error


def _siglip_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the tower as they are written."""
    vision_config = llama.nested_settings(config, "vision_config") or {"model_type": "clip_vision_model"}
    if vision_config.get("model_type") != "siglip_vision_model":
        raise ModelError(
            f"vision_config: wanted siglip_vision_model. Got {vision_config.get('model_type')!r}, which firstsight does not "
            "read. Take a Llava with SigLIP, or its language model alone."
        )
    return vision_config


def to_llava(tensors: Mapping[str, Tensor], spec: VLMSpec) -> dict[str, Tensor]:
    """Tensors of a model with its tower, trained (`vision.`) or frozen (`encoder.`), under the names of Llava's files.

    The tower's last norm, which Llava loads but never runs, is written as one that changes nothing.
    """
    tower_prefix = _tower_prefix(spec)
    lm_tensors = {name.removeprefix("lm."): tensor for name, tensor in tensors.items() if name.startswith("lm.")}
    llava_tensors = {f"language_model.{name}": tensor for name, tensor in llama.to_llama(lm_tensors, spec.lm).items()}
    llava_tensors |= {llava_name: tensors[firstsight_name] for firstsight_name, llava_name in PROJECTOR_NAMES.items()}
    llava_tensors |= {
        LLAVA_TOWER_PREFIX + name.removeprefix(tower_prefix): tensors[name]
        for name in tensors
        if name.startswith(tower_prefix)
    }
    norm_weight = tensors["projector.linears.0.weight"].new_ones(spec.vision.width)
    return llava_tensors | {
        f"{LLAVA_TOWER_PREFIX}post_layernorm.weight": norm_weight,
        f"{LLAVA_TOWER_PREFIX}post_layernorm.bias": torch.zeros_like(norm_weight),
    }


def from_llava(tensors: Mapping[str, Tensor], spec: VLMSpec) -> dict[str, Tensor]:
    """The inverse of `to_llava`; also reads whole towers, of which the unused end is left out.

    Names are those of Llava's files, with or without `model.` and `vision_model.` as transformers' versions differ.
    Raises ModelError that names what is not a Llava's.
    """
    tower_prefix, projector_names = (
        _tower_prefix(spec),
        {llava_name: firstsight_name for firstsight_name, llava_name in PROJECTOR_NAMES.items()},
    )
    vision_tensors: dict[str, Tensor] = {}
    lm_tensors: dict[str, Tensor] = {}
    unknown_names: list[str] = []
    for stored_name, tensor in tensors.items():
        name = _normalize_name(stored_name)
        if name.startswith("language_model."):
            lm_tensors[name.removeprefix("language_model.")] = tensor
        elif name in projector_names:
            vision_tensors[projector_names[name]] = tensor
        elif not name.startswith(LLAVA_TOWER_PREFIX):
            unknown_names.append(stored_name)
        elif not _is_unused(name.removeprefix(LLAVA_TOWER_PREFIX), spec):
            vision_tensors[tower_prefix + name.removeprefix(LLAVA_TOWER_PREFIX)] = tensor
    if unknown_names:
        raise ModelError(
            f"a Llava has no tensors {', '.join(sorted(unknown_names))}. Take a folder with Llava's own alone."
        )
    return {f"lm.{name}": tensor for name, tensor in llama.from_llama(lm_tensors, spec.lm).items()} | vision_tensors


def _tower_prefix(spec: VLMSpec) -> str:
    return TRAINED_TOWER_PREFIX if spec.encoder == "trained" else FROZEN_TOWER_PREFIX


def _normalize_name(name: str) -> str:
    """A tensor's name as files had it before transformers 4.52 and again since 5."""
    name = name.removeprefix("model.")
    if name.startswith("lm_head."):
        return f"language_model.{name}"
    if name.startswith("language_model.") and not name.startswith(("language_model.model.", "language_model.lm_head.")):
        return name.replace("language_model.", "language_model.model.", 1)
    if name.startswith("vision_tower.") and not name.startswith(LLAVA_TOWER_PREFIX):
        return name.replace("vision_tower.", LLAVA_TOWER_PREFIX, 1)
    return name


def _is_unused(name: str, spec: VLMSpec) -> bool:
    """Whether a tensor of a tower belongs to what comes behind its second-to-last block."""
    name_parts = name.split(".")
    if name_parts[:2] == ["encoder", "layers"]:
        assert isinstance(spec.vision, Siglip)
        return int(name_parts[2]) >= spec.vision.vit.layers - 1
    return name_parts[0] in ("post_layernorm", "head")
