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
from firstsight.recipe import canon
from firstsight.recipe.lm import LMSpec
from firstsight.recipe.mix import Named
from firstsight.recipe.model import ProjectorSpec, VLMSpec
from firstsight.recipe.vision import Siglip, Vit
from firstsight.units import Tokens

OWN = "firstsight"
"""Key of a folder's config.json under which the whole spec stands, so that an import loses nothing."""
OURS, TOWER = "vision.towers.0.", "vision_tower.vision_model."
BESIDE = "encoder.towers.0."
"""Names of a frozen tower, which is no part of the model."""
USUAL = {
    "num_hidden_layers": 12,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
}
"""A SigLIP tower's sizes where its settings leave one out, as transformers has it."""
PROJECTOR = {f"projector.linears.{n}.{part}": f"multi_modal_projector.linear_{n + 1}.{part}"
             for n in (0, 1) for part in ("weight", "bias")}  # fmt: skip


def why_not(spec: VLMSpec) -> str:
    """What keeps a Llava of transformers from saying the same; empty where one does."""
    projector, vision = spec.projector, spec.vision
    reasons = [
        (llama.why_not(spec.lm), f"its decoder: {llama.why_not(spec.lm)}"),
        (not isinstance(vision, Siglip), f"Llava reads one SigLIP tower here, not {type(vision).__name__}"),
        (vision.fit != "resize", "no processor of transformers letterboxes pictures to the same pixels"),
        (projector.kind != "mlp2", f"Llava's projector is mlp2, not {projector.kind}"),
        (projector.shuffle != 1, f"Llava has no pixel shuffle; shuffle is {projector.shuffle}"),
        (projector.spread != 1, f"Llava makes one image token of each vision token; spread is {projector.spread}"),
        (projector.positions, "Llava adds no learned positions to image tokens"),
        (spec.attention != "causal", f"Llava's attention is causal, not {spec.attention}"),
    ]
    return "; ".join(told for wrong, told in reasons if wrong)


def config_of(spec: VLMSpec) -> dict[str, Any]:
    """LlavaConfig's fields but for the tokenizer's ids; ModelError where `why_not` has a reason."""
    if (reason := why_not(spec)) or not isinstance(spec.vision, Siglip):
        raise ModelError(f"wanted a model that Llava can say. Got: {reason}. Use firstsight's own classes.")
    vit = spec.vision.vit
    return {
        "model_type": "llava",
        "architectures": ["LlavaForConditionalGeneration"],
        "text_config": llama.config_of(spec.lm),
        "vision_config": {
            "model_type": "siglip_vision_model",
            "num_hidden_layers": vit.layers - 1,
            "hidden_size": vit.width,
            "intermediate_size": vit.hidden,
            "num_attention_heads": vit.heads,
            "image_size": vit.image,
            "patch_size": vit.patch,
            "vision_use_head": False,
        },
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "image_seq_length": spec.image_tokens,
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
        "tie_word_embeddings": spec.lm.tied,
    }


def spec_of(config: Mapping[str, Any]) -> VLMSpec:
    """The model that a Llava's config.json describes: what firstsight wrote in it, or one with a tower of its own.

    Raises ModelError that names the first thing firstsight cannot do the same.
    """
    if OWN in config and isinstance(spec := written(config), VLMSpec):
        return spec
    seen, layer = _seen(config), config.get("vision_feature_layer", -2)
    wanted = {
        "vision_feature_select_strategy": ("full", config.get("vision_feature_select_strategy", "default")),
        "projector_hidden_act": ("gelu", config.get("projector_hidden_act", "gelu")),
        "multimodal_projector_bias": (True, config.get("multimodal_projector_bias", True)),
        "vision_config.hidden_act": ("gelu_pytorch_tanh", seen.get("hidden_act", "gelu_pytorch_tanh")),
        "vision_config.layer_norm_eps": (1e-6, seen.get("layer_norm_eps", 1e-6)),
    }
    for name, (want, got) in wanted.items():
        if want != got:
            raise ModelError(f"{name}: wanted {want!r}. Got {got!r}, which firstsight does not do. Take another Llava.")
    sizes = {name: llama.count(seen, name, usual=usual) for name, usual in USUAL.items()}
    if not isinstance(layer, int) or not -sizes["num_hidden_layers"] <= layer < 0:
        raise ModelError(f"vision_feature_layer: wanted one negative number. Got {layer!r}. Take another Llava.")
    vit = Vit(
        layers=sizes["num_hidden_layers"] + layer + 2,
        width=sizes["hidden_size"],
        heads=sizes["num_attention_heads"],
        hidden=sizes["intermediate_size"],
        image=sizes["image_size"],
        patch=sizes["patch_size"],
    )
    lm = llama.spec_of(llama.table(config, "text_config"))
    return VLMSpec(
        lm=lm if lm.tied or not config.get("tie_word_embeddings", False) else replace(lm, tied=True),
        vision=Siglip(vit=vit, fit="resize", weights=Named(name="llava", form="encoder", tokens=Tokens(0))),
        encoder="trained",
        projector=ProjectorSpec(kind="mlp2", shuffle=1, spread=1, positions=False),
        attention="causal",
    )


def written(config: Mapping[str, Any]) -> LMSpec | VLMSpec:
    """The spec that firstsight wrote into a config.json; ModelError where it is none."""
    try:
        if isinstance(spec := canon.decode(llama.table(config, OWN)), LMSpec | VLMSpec):
            return spec
        raise TypeError(type(spec).__name__)
    except (FirstsightError, KeyError, TypeError, ValueError, AttributeError) as problem:
        raise ModelError(f"config.json: {OWN}: wanted a spec. Got: {problem}. Export the model again.") from problem


def _seen(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the tower as they are written."""
    told = llama.table(config, "vision_config") or {"model_type": "clip_vision_model"}
    if told.get("model_type") != "siglip_vision_model":
        raise ModelError(
            f"vision_config: wanted siglip_vision_model. Got {told.get('model_type')!r}, which firstsight does not "
            "read. Take a Llava with SigLIP, or its language model alone."
        )
    return told


def to_llava(tensors: Mapping[str, Tensor], spec: VLMSpec) -> dict[str, Tensor]:
    """Tensors of a model with its tower, trained (`vision.`) or frozen (`encoder.`), under the names of Llava's files.

    The tower's last norm, which Llava loads but never runs, is written as one that changes nothing.
    """
    tower = _prefix(spec)
    lm = {name.removeprefix("lm."): tensor for name, tensor in tensors.items() if name.startswith("lm.")}
    named = {f"language_model.{name}": tensor for name, tensor in llama.to_llama(lm, spec.lm).items()}
    named |= {theirs: tensors[ours] for ours, theirs in PROJECTOR.items()}
    named |= {TOWER + name.removeprefix(tower): tensors[name] for name in tensors if name.startswith(tower)}
    gain = tensors["projector.linears.0.weight"].new_ones(spec.vision.width)
    return named | {f"{TOWER}post_layernorm.weight": gain, f"{TOWER}post_layernorm.bias": torch.zeros_like(gain)}


def from_llava(tensors: Mapping[str, Tensor], spec: VLMSpec) -> dict[str, Tensor]:
    """The inverse of `to_llava`; also reads whole towers, of which the unused end is left out.

    Names are those of Llava's files, with or without `model.` and `vision_model.` as transformers' versions differ.
    Raises ModelError that names what is not a Llava's.
    """
    tower, back = _prefix(spec), {theirs: ours for ours, theirs in PROJECTOR.items()}
    found: dict[str, Tensor] = {}
    lm: dict[str, Tensor] = {}
    strange: list[str] = []
    for told, tensor in tensors.items():
        name = _usual(told)
        if name.startswith("language_model."):
            lm[name.removeprefix("language_model.")] = tensor
        elif name in back:
            found[back[name]] = tensor
        elif not name.startswith(TOWER):
            strange.append(told)
        elif not _unused(name.removeprefix(TOWER), spec):
            found[tower + name.removeprefix(TOWER)] = tensor
    if strange:
        raise ModelError(f"a Llava has no tensors {', '.join(sorted(strange))}. Take a folder with Llava's own alone.")
    return {f"lm.{name}": tensor for name, tensor in llama.from_llama(lm, spec.lm).items()} | found


def _prefix(spec: VLMSpec) -> str:
    return OURS if spec.encoder == "trained" else BESIDE


def _usual(name: str) -> str:
    """A tensor's name as files had it before transformers 4.52 and again since 5."""
    name = name.removeprefix("model.")
    if name.startswith("lm_head."):
        return f"language_model.{name}"
    if name.startswith("language_model.") and not name.startswith(("language_model.model.", "language_model.lm_head.")):
        return name.replace("language_model.", "language_model.model.", 1)
    if name.startswith("vision_tower.") and not name.startswith(TOWER):
        return name.replace("vision_tower.", TOWER, 1)
    return name


def _unused(name: str, spec: VLMSpec) -> bool:
    """Whether a tensor of a tower belongs to what comes behind its second-to-last block."""
    parts = name.split(".")
    if parts[:2] == ["encoder", "layers"]:
        assert isinstance(spec.vision, Siglip)
        return int(parts[2]) >= spec.vision.vit.layers - 1
    return parts[0] in ("post_layernorm", "head")
