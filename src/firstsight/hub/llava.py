"""Vision-language models as transformers' LlavaForConditionalGeneration: support, configuration and tensor names.

A tower is written without its last block, which firstsight never runs: the features of the second-to-last block are
then the tower's output, with the same values. Source: transformers, models/llava and models/siglip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from firstsight.errors import FirstsightError, ModelError
from firstsight.hub import llama
from firstsight.hub.public_weights import (
    PublicWeights,
    check_tensors,
    exported_tokens_seen,
    hf_folder_files,
    model_shapes,
    nested_settings,
    positive_int_setting,
    prefix_errors,
)
from firstsight.hub.sidecars import tower_config
from firstsight.model.tensors import StoredTensors, shapes_and_dtypes
from firstsight.recipe import serialize
from firstsight.recipe.mixture import External
from firstsight.recipe.model import LMSpec, ProjectorSpec, VLMSpec
from firstsight.recipe.vision import Siglip, ViTSpec
from firstsight.units import Tokens

SPEC_KEY = "firstsight"
"""Key of config.json whose value is the whole spec, so that an import loses nothing."""
INCLUDED_TOWER_PREFIX, LLAVA_TOWER_PREFIX = "vision.towers.0.", "vision_tower.vision_model."
EXTERNAL_TOWER_PREFIX = "encoder.towers.0."
"""Prefix of a frozen tower's tensors, which are not part of the model."""
SIGLIP_DEFAULT_SIZES = {
    "num_hidden_layers": 12,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
}
"""Sizes of transformers' SiglipVisionConfig that a configuration may leave out."""
PROJECTOR_NAMES = {f"projector.linears.{n}.{part}": f"multi_modal_projector.linear_{n + 1}.{part}"
             for n in (0, 1) for part in ("weight", "bias")}  # fmt: skip


def read_vision_language_weights(path: Path, config: Mapping[str, Any]) -> PublicWeights:
    """The weights of a Llava or an exported folder, with those of its external encoder."""
    stored = StoredTensors(path, is_public=True)
    with prefix_errors(path):
        if config.get("model_type") == SPEC_KEY:
            spec: LMSpec | VLMSpec = embedded_spec(config)
            tensors = {name.removeprefix("model."): tensor for name, tensor in stored.items()}
        else:
            spec = llava_spec(config)
            tensors = from_llava(stored, spec)
    check_tensors(path, model_shapes(spec), shapes_and_dtypes(tensors))
    return PublicWeights(
        spec=spec,
        tensors=tensors,
        source_names={name: (name,) for name in tensors},
        stored_names=stored.stored_names,
        files=hf_folder_files(path, stored),
        tokens_seen=exported_tokens_seen(config),
    )


def llava_unsupported_reason(spec: VLMSpec) -> str:
    """Why transformers' Llava cannot represent a model; empty if it can."""
    projector, vision, decoder = spec.projector, spec.vision, llama.llama_unsupported_reason(spec.lm)
    reasons = [
        (decoder, f"its decoder: {decoder}"),
        (not isinstance(vision, Siglip), f"Llava is exported with one SigLIP tower, not {type(vision).__name__}"),
        (vision.fit != "resize", f"the exported processor resizes images bicubically to a square, not by {vision.fit}"),
        (projector.kind != "mlp2", f"Llava's projector is mlp2, not {projector.kind}"),
        (projector.pixel_shuffle != 1, f"Llava has no pixel shuffle; this model's is {projector.pixel_shuffle}"),
        (
            projector.tokens_per_patch != 1,
            f"Llava makes one image token per patch; this model makes {projector.tokens_per_patch}",
        ),
        (projector.has_position_embeddings, "Llava adds no position embeddings to image tokens"),
        (spec.attention != "causal", f"Llava's attention is causal, not {spec.attention}"),
    ]
    return "; ".join(reason for is_unsupported, reason in reasons if is_unsupported)


def llava_config(spec: VLMSpec) -> dict[str, Any]:
    """LlavaConfig's fields, without token ids; ModelError if `llava_unsupported_reason` has a reason."""
    if (reason := llava_unsupported_reason(spec)) or not isinstance(spec.vision, Siglip):
        raise ModelError(f"wanted a model that Llava can represent. Got: {reason}. Use firstsight's own classes.")
    return {
        "model_type": "llava",
        "architectures": ["LlavaForConditionalGeneration"],
        "text_config": llama.llama_config(spec.lm),
        "vision_config": tower_config(spec.vision)
        | {"num_hidden_layers": spec.vision.vit.layers - 1, "vision_use_head": False},
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "image_seq_length": spec.image_tokens,
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
        "tie_word_embeddings": spec.lm.ties_embeddings,
    }


def llava_spec(config: Mapping[str, Any]) -> VLMSpec:
    """The model of a Llava's config.json: the spec that an export wrote there, else one with a trained tower.

    Raises ModelError that names the first setting that is not supported.
    """
    if SPEC_KEY in config and isinstance(spec := embedded_spec(config), VLMSpec):
        return spec
    vision = nested_settings(config, "vision_config") or {"model_type": "clip_vision_model"}
    if (kind := vision.get("model_type")) != "siglip_vision_model":
        raise ModelError(
            f"vision_config: wanted siglip_vision_model. Got {kind!r}, which is not supported. "
            "Use a Llava with SigLIP, or only its language model."
        )
    required_values = {
        "vision_feature_select_strategy": ("full", config.get("vision_feature_select_strategy", "default")),
        "projector_hidden_act": ("gelu", config.get("projector_hidden_act", "gelu")),
        "multimodal_projector_bias": (True, config.get("multimodal_projector_bias", True)),
        "vision_config.hidden_act": ("gelu_pytorch_tanh", vision.get("hidden_act", "gelu_pytorch_tanh")),
        "vision_config.layer_norm_eps": (1e-6, vision.get("layer_norm_eps", 1e-6)),
    }
    for name, (expected, value) in required_values.items():
        if expected != value:
            raise ModelError(f"{name}: wanted {expected!r}. Got {value!r}, which is not supported. Use another Llava.")
    sizes = {name: positive_int_setting(vision, name, default=size) for name, size in SIGLIP_DEFAULT_SIZES.items()}
    layer = config.get("vision_feature_layer", -2)
    if not isinstance(layer, int) or not -sizes["num_hidden_layers"] <= layer < 0:
        raise ModelError(f"vision_feature_layer: wanted one negative number. Got {layer!r}. Use another Llava.")
    vit = ViTSpec(
        layers=sizes["num_hidden_layers"] + layer + 2,
        width=sizes["hidden_size"],
        heads=sizes["num_attention_heads"],
        mlp_width=sizes["intermediate_size"],
        image_size=sizes["image_size"],
        patch_size=sizes["patch_size"],
    )
    lm = llama.llama_spec(nested_settings(config, "text_config"))
    return VLMSpec(
        lm=replace(lm, ties_embeddings=lm.ties_embeddings or bool(config.get("tie_word_embeddings", False))),
        vision=Siglip(vit=vit, fit="resize", weights=External(name="llava", form="encoder", tokens=Tokens(0))),
        encoder="included",
        projector=ProjectorSpec(kind="mlp2", pixel_shuffle=1, tokens_per_patch=1, has_position_embeddings=False),
        attention="causal",
    )


def embedded_spec(config: Mapping[str, Any]) -> LMSpec | VLMSpec:
    """The spec that an export wrote into its config.json; ModelError if there is none."""
    try:
        if isinstance(spec := serialize.from_json(nested_settings(config, SPEC_KEY)), LMSpec | VLMSpec):
            return spec
        raise TypeError(type(spec).__name__)
    except (FirstsightError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"config.json: {SPEC_KEY}: wanted a spec. Got: {error}. Export the model again.") from error


def to_llava(tensors: Mapping[str, Tensor], spec: VLMSpec) -> dict[str, Tensor]:
    """A model's tensors and those of its tower (`vision.` or, frozen, `encoder.`) under Llava's names.

    The tower's last norm, which Llava loads but never runs, is written as the identity.
    """
    prefix = _tower_prefix(spec)
    lm = {name.removeprefix("lm."): tensor for name, tensor in tensors.items() if name.startswith("lm.")}
    norm = tensors["projector.linears.0.weight"].new_ones(spec.vision.width)
    return {
        **{f"language_model.{name}": tensor for name, tensor in llama.to_llama(lm, spec.lm).items()},
        **{llava_name: tensors[name] for name, llava_name in PROJECTOR_NAMES.items()},
        **{LLAVA_TOWER_PREFIX + x.removeprefix(prefix): tensors[x] for x in tensors if x.startswith(prefix)},
        f"{LLAVA_TOWER_PREFIX}post_layernorm.weight": norm,
        f"{LLAVA_TOWER_PREFIX}post_layernorm.bias": torch.zeros_like(norm),
    }


def from_llava(tensors: Mapping[str, Tensor], spec: VLMSpec) -> dict[str, Tensor]:
    """The inverse of `to_llava`; weights of a tower that are never used are left out.

    Accepts the names of all versions of transformers, with or without `model.` and `vision_model.`.
    Raises ModelError that names tensors that no Llava has.
    """
    prefix, projector = _tower_prefix(spec), {llava_name: name for name, llava_name in PROJECTOR_NAMES.items()}
    vision, lm, unknown = dict[str, Tensor](), dict[str, Tensor](), list[str]()
    for stored_name, tensor in tensors.items():
        name = _normalize_name(stored_name)
        tower_name = name.removeprefix(LLAVA_TOWER_PREFIX)
        if name.startswith("language_model."):
            lm[name.removeprefix("language_model.")] = tensor
        elif name in projector:
            vision[projector[name]] = tensor
        elif tower_name == name:
            unknown.append(stored_name)
        elif not _is_unused(tower_name, spec):
            vision[prefix + tower_name] = tensor
    if unknown:
        raise ModelError(f"a Llava has no tensors {', '.join(sorted(unknown))}. Use one with only Llava's tensors.")
    return {f"lm.{name}": tensor for name, tensor in llama.from_llama(lm, spec.lm).items()} | vision


def _tower_prefix(spec: VLMSpec) -> str:
    return INCLUDED_TOWER_PREFIX if spec.encoder == "included" else EXTERNAL_TOWER_PREFIX


def _normalize_name(name: str) -> str:
    name = name.removeprefix("model.")
    if name.startswith("lm_head."):
        return f"language_model.{name}"
    if name.startswith("language_model.") and not name.startswith(("language_model.model.", "language_model.lm_head.")):
        return name.replace("language_model.", "language_model.model.", 1)
    if name.startswith("vision_tower.") and not name.startswith(LLAVA_TOWER_PREFIX):
        return name.replace("vision_tower.", LLAVA_TOWER_PREFIX, 1)
    return name


def _is_unused(name: str, spec: VLMSpec) -> bool:
    parts = name.split(".")
    if parts[:2] == ["encoder", "layers"]:
        assert isinstance(spec.vision, Siglip)
        return int(parts[2]) >= spec.vision.vit.layers - 1
    return parts[0] in ("post_layernorm", "head")
