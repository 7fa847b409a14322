"""From pixels to image features: one or two encoder towers in Hugging Face layout, or one trained convolution.

The towers consist of transformers' modules; blocks after the second-to-last are neither built, nor loaded, nor run.
Shapes: N images of S x S pixels (uint8, channels last), I tokens per image, W vision width.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from firstsight.errors import ModelError, QuantityError
from firstsight.limits import read_settings
from firstsight.model.tensors import StoredTensors, format_faults
from firstsight.model.vision_modules import (
    clip_modules,
    dinov2_modules,
    dinov3_modules,
    dinov3_rotary,
    embed_clip,
    siglip_modules,
)
from firstsight.recipe.mixture import External
from firstsight.recipe.vision import (
    SIGLIP_MEAN_STD,
    Clip,
    Dinov2,
    Dinov3,
    EncoderSpec,
    ImageFit,
    PatchProjectionSpec,
    RGBFloat,
    Siglip,
    TowerSpec,
    ViTSpec,
)
from firstsight.units import Tokens

PixelBatch = UInt8[Tensor, "N S S 3"]
ImageFeatures = Float[Tensor, "N I W"]

ENCODER_FAMILIES = {
    name: name.split("_")[0]
    for name in (
        *("siglip", "siglip_vision_model", "dinov2", "dinov2_with_registers"),
        *("dinov3_vit", "clip", "clip_vision_model"),
    )
}
"""The family of each supported model_type of config.json."""
UNSUPPORTED_ENCODERS = {
    "siglip2": "whose images have any aspect ratio (its models of one image size have the model_type siglip)",
    "dinov3_convnext": "which is a convolutional network",
}
"""Why other well-known encoders are not supported, by the beginning of their model_type."""
FAMILY_SETTINGS: Mapping[str, Mapping[str, object]] = {
    "siglip": {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "num_channels": 3},
    "dinov2": {"hidden_act": "gelu", "layer_norm_eps": 1e-6, "num_channels": 3, "qkv_bias": True},
    "dinov3": {
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "num_channels": 3,
        "rope_theta": 100.0,
        "query_bias": True,
        "key_bias": False,
        "value_bias": True,
        "proj_bias": True,
        "mlp_bias": True,
    },
    "clip": {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "num_channels": 3},
}
"""Settings that all published towers of a family share; recipes do not contain them."""
_MODEL_PREFIX = re.compile(r"^(vision_model|dinov2|dinov2_with_registers)\.")
_DINOV3_LAYER_PREFIX = re.compile(r"^(model\.)?layer\.")
_DINOV2_RENAMES = (
    ("attention.attention.query.", "attention.q_proj."),
    ("attention.attention.key.", "attention.k_proj."),
    ("attention.attention.value.", "attention.v_proj."),
    ("attention.output.dense.", "attention.o_proj."),
)
"""Names in DINOv2's files, and the names of transformers' modules."""
_UNUSED_TENSORS = {
    "siglip": re.compile(
        r"text_model\.|logit_scale$|logit_bias$|head\.|classifier\.|post_layernorm\.|embeddings\.position_ids$"
    ),
    "dinov2": re.compile(r"layernorm\.|classifier\.|embeddings\.mask_token$"),
    "dinov3": re.compile(r"norm\.|embeddings\.mask_token$|rope_embeddings\."),
    "clip": re.compile(
        r"text_model\.|logit_scale$|(text|visual)_projection\.|post_layernorm\.|(\w+\.)*embeddings\.position_ids$"
    ),
}
"""Tensors of published models that the features do not depend on, in addition to the last block."""


def normalize_pixels(
    pixels: PixelBatch,
    dtype: torch.dtype = torch.float32,
    *,
    mean: RGBFloat = SIGLIP_MEAN_STD,
    std: RGBFloat = SIGLIP_MEAN_STD,
) -> Float[Tensor, "N 3 S S"]:
    """(pixels / 255 - mean) / std, channels first; with SigLIP's constants the values are in -1..1."""
    x = pixels.permute(0, 3, 1, 2).to(dtype)
    scale, offset = [255 * channel_std for channel_std in std], [m / d for m, d in zip(mean, std, strict=True)]
    return x.div(x.new_tensor(scale)[:, None, None]).sub(x.new_tensor(offset)[:, None, None])


class PatchProjection(nn.Module):
    """One strided convolution without bias, trained with the model. Source: paper section 3."""

    def __init__(self, spec: PatchProjectionSpec) -> None:
        super().__init__()
        self.spec = spec
        self.conv = nn.Conv2d(3, spec.width, spec.patch_size, stride=spec.patch_size, bias=False)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Normal values of std fan-in ** -0.5, truncated at three standard deviations."""
        std = (3 * self.spec.patch_size**2) ** -0.5
        nn.init.trunc_normal_(self.conv.weight, std=std, a=-3 * std, b=3 * std, generator=generator)

    def forward(self, pixels: PixelBatch) -> ImageFeatures:
        """One feature vector a patch, patches row by row."""
        x = normalize_pixels(pixels, self.conv.weight.dtype, mean=self.spec.mean, std=self.spec.std)
        return self.conv(x).flatten(2).transpose(1, 2)


class Tower(nn.Module):
    """One encoder as transformers builds it, without its last block, last norm and head.

    It has no buffers: built on the meta device, assigning its parameters completes it.
    """

    def __init__(self, spec: TowerSpec) -> None:
        super().__init__()
        self.spec = spec
        match spec:
            case Siglip():
                self.embeddings, self.encoder = siglip_modules(spec)
            case Dinov2():
                self.embeddings, self.encoder = dinov2_modules(spec)
            case Dinov3():
                self.embeddings, self.encoder = dinov3_modules(spec)
            case Clip():
                self.embeddings, self.encoder = clip_modules(spec)
                self.pre_layrnorm = nn.LayerNorm(spec.vit.width, eps=1e-5)  # spelled as in the files

    def forward(self, pixels: PixelBatch) -> ImageFeatures:
        """Outputs of the second-to-last block, patches row by row; no class token, no registers."""
        spec, dtype = self.spec, next(self.parameters()).dtype
        x = normalize_pixels(pixels, dtype, mean=spec.mean, std=spec.std)
        if isinstance(spec, Dinov2):
            return self.encoder(self.embeddings(x)).last_hidden_state[:, 1 + spec.registers :]
        if isinstance(spec, Dinov3):
            rotary = dinov3_rotary(self.encoder, x)
            hidden = self.encoder(self.embeddings(x), position_embeddings=rotary).last_hidden_state
            return hidden[:, 1 + spec.registers :]
        if isinstance(spec, Clip):
            x = self.pre_layrnorm(embed_clip(self.embeddings, x))
            return self.encoder(inputs_embeds=x).last_hidden_state[:, 1:]
        embeddings = cast(Any, self.embeddings)
        patches = embeddings.patch_embedding(x).flatten(2).transpose(1, 2)
        return self.encoder(inputs_embeds=patches + embeddings.position_embedding.weight).last_hidden_state


class Encoder(nn.Module):
    """The towers of a spec on the same pixels, their features concatenated on channels in the spec's order."""

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.spec = spec
        self.towers = nn.ModuleList([Tower(tower_spec) for tower_spec in spec.towers])

    def forward(self, pixels: PixelBatch) -> ImageFeatures:
        """Patch outputs of the second-to-last blocks, without head and class token. Source: paper section 3."""
        return torch.cat([tower(pixels) for tower in self.towers], -1)


@torch.no_grad()
def extract_features(encoder: nn.Module, pixels: PixelBatch) -> ImageFeatures:
    """Features without gradients."""
    return encoder(pixels)


FIXED_BATCH = 8
"""Images of a batch of `extract_fixed`."""


@torch.no_grad()
def extract_fixed(encoder: nn.Module, pixels: PixelBatch) -> ImageFeatures:
    """Features without gradients, from batches of FIXED_BATCH images, the last one filled up with black ones.

    All products have one shape, so an image has the same features, to the bit, whichever images are with it; on one
    machine with one version of torch and one number of threads.
    """
    batches = [(batch, FIXED_BATCH - len(batch)) for batch in pixels.split(FIXED_BATCH)]
    return torch.cat([encoder(F.pad(batch, (0,) * 7 + (missing,)))[: len(batch)] for batch, missing in batches])


def load_encoder(spec: EncoderSpec, folders: Sequence[Path]) -> Encoder:
    """The towers of a spec with published weights, one folder each: float32, frozen, in eval mode.

    Raises ModelError that names every setting of config.json and every tensor that contradicts the spec, a file that
    is missing or damaged, and weights that are pickled.
    """
    if len(folders) != len(spec.towers):
        raise ModelError(f"wanted a folder for each of {len(spec.towers)} towers. Got {len(folders)}. Name them all.")
    with torch.device("meta"):
        encoder = Encoder(spec)
    for tower, folder in zip(encoder.towers, folders, strict=True):
        assert isinstance(tower, Tower)
        _check_config(tower.spec, folder)
        _load_tower_weights(tower, folder)
    return encoder.requires_grad_(False).eval()


def encoder_spec(folder: Path, name: str, fit: ImageFit) -> TowerSpec:
    """The spec of the tower in a folder of Hugging Face layout, its weights called `name`.

    The image size of a DINOv2 or DINOv3 is that of its configuration; change `vit.image_size` for another size.
    """
    model_type, settings = _read_config(folder)
    family, path = ENCODER_FAMILIES[model_type], folder / "config.json"

    def setting(key: str) -> int:
        """A positive integer, or two equal ones for the sides of a square."""
        value = settings.get(key)
        if isinstance(value, (list, tuple)) and len(cast(list[Any], value)) == 2 and value[0] == value[1]:
            value = cast(object, value[0])
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        raise ModelError(f"{path}: wanted {key} as a whole number above zero, sides equal. Got {value!r}.")

    weights, width = External(name=name, form="encoder", tokens=Tokens(0)), setting("hidden_size")
    mlp_width = setting("mlp_ratio") * width if family == "dinov2" else setting("intermediate_size")
    try:
        vit = ViTSpec(
            layers=setting("num_hidden_layers"),
            width=width,
            heads=setting("num_attention_heads"),
            mlp_width=mlp_width,
            image_size=setting("image_size"),
            patch_size=setting("patch_size"),
        )
    except QuantityError as error:
        raise ModelError(f"{path}: {error}") from error
    registers = setting("num_register_tokens") if settings.get("num_register_tokens") else 0
    match family:
        case "siglip":
            tower: TowerSpec = Siglip(vit=vit, fit=fit, weights=weights)
        case "clip":
            tower = Clip(vit=vit, fit=fit, weights=weights)
        case "dinov3":
            tower = Dinov3(vit=vit, fit=fit, registers=registers, weights=weights)
        case _:
            tower = Dinov2(vit=vit, fit=fit, registers=registers, position_grid_size=vit.grid_size, weights=weights)
    _check_processor(folder, tower)
    return tower


def unsupported_reason(model_type: object, reasons: Mapping[str, str]) -> str:
    """The reason for the longest key of `reasons` that `model_type` begins with; empty if there is none."""
    matches = [name for name in reasons if f"{model_type}_".startswith(f"{name}_")]
    return reasons[max(matches, key=len)] if matches else ""


def _read_config(folder: Path) -> tuple[str, dict[str, Any]]:
    """The model_type in config.json, and the tower's settings, with transformers' defaults for missing ones."""
    from transformers import AutoConfig  # takes a second

    config, path = _read_json(folder / "config.json"), folder / "config.json"
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in ENCODER_FAMILIES:
        reason = unsupported_reason(model_type, UNSUPPORTED_ENCODERS)
        names, actual = ", ".join(ENCODER_FAMILIES), f"{model_type!r}, {reason}" if reason else repr(model_type)
        raise ModelError(f"{path}: wanted model_type {names}. Got {actual}. Name a SigLIP, CLIP or DINO.")
    family = ENCODER_FAMILIES[model_type]
    is_whole = model_type in ("siglip", "clip")
    defaults = AutoConfig.for_model(f"{model_type}_vision_model" if is_whole else model_type)
    tower = (config.get("vision_config") or {}) if is_whole else config
    if not isinstance(tower, dict):
        raise ModelError(f"{path}: wanted vision_config with settings. Got {tower!r}. Copy it again.")
    settings: dict[str, Any] = defaults.to_dict() | cast(dict[str, Any], tower)
    if settings.get("use_swiglu_ffn") or settings.get("use_gated_mlp"):
        raise ModelError(f"{path}: wanted a DINO with a plain MLP. Got SwiGLU (giant, huge). Use large, base or small.")
    if mismatches := _mismatches(FAMILY_SETTINGS[family], settings):
        raise ModelError(f"{path}: this is not a published {family}: {', '.join(mismatches)}. Name another folder.")
    return model_type, settings


def _mismatches(
    expected: Mapping[str, object], actual: Mapping[str, Any], is_equal: Callable[[Any, Any], bool] = operator.eq
) -> list[str]:
    settings = [(key, actual.get(key), value) for key, value in expected.items()]
    return [f"{key} wanted {value} got {setting}" for key, setting, value in settings if not is_equal(setting, value)]


def _nearly_equal(actual: Any, expected: Any) -> bool:
    """Equal, or floats that differ by no more than files round."""
    if isinstance(expected, list) and isinstance(actual, list):
        pairs = list(zip(cast(list[Any], actual), cast(list[Any], expected), strict=False))
        return len(cast(list[Any], actual)) == len(cast(list[Any], expected)) and all(_nearly_equal(*p) for p in pairs)
    if isinstance(actual, float) and isinstance(expected, float):
        return abs(actual - expected) < 1e-6
    return actual == expected


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ModelError(f"{path.parent}: wanted a Hugging Face encoder. Got no {path.name}. Name its folder.")
    try:
        return read_settings(path)
    except ValueError as error:
        raise ModelError(f"{path}: wanted JSON. Got: {error}. Copy it again.") from error


_PROCESSOR_STEPS = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "resample": 3}


def siglip_processor_config(image_size: int) -> dict[str, object]:
    """The content of preprocessor_config.json for a SigLIP with images of `image_size` x `image_size` pixels."""
    return {
        "image_processor_type": "SiglipImageProcessor",
        "do_resize": True,
        "size": {"height": image_size, "width": image_size},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        **_PROCESSOR_STEPS,
    }


def _check_processor(folder: Path, spec: TowerSpec) -> None:
    """Check that preprocessor_config.json, if there is one, agrees with `data.images` and `normalize_pixels`."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return
    resample = 2 if spec.fit == "resize_bilinear" else 3
    expected = {"image_mean": list(spec.mean), "image_std": list(spec.std), **_PROCESSOR_STEPS, "resample": resample}
    if mismatches := _mismatches(expected, expected | _read_json(path), _nearly_equal):
        raise ModelError(f"{path}: contradicts the spec: {'; '.join(mismatches)}. Use the encoder of the recipe.")


def _check_config(spec: TowerSpec, folder: Path) -> None:
    actual = _comparable_settings(encoder_spec(folder, "", spec.fit))
    expected = _comparable_settings(spec)
    if mismatches := _mismatches(expected, actual):
        raise ModelError(f"{folder / 'config.json'}: contradicts the spec: {', '.join(mismatches)}. Change the recipe.")


def _comparable_settings(spec: TowerSpec) -> dict[str, object]:
    settings: dict[str, object] = {"encoder": spec.TAG, **asdict(spec.vit)}
    if isinstance(spec, (Dinov2, Dinov3)):
        del settings["image_size"]
        settings["registers"] = spec.registers
    if isinstance(spec, Dinov2):
        settings["table"] = spec.position_grid_size
    return settings


def _load_tower_weights(tower: Tower, folder: Path) -> None:
    """Assign published tensors to a tower on the meta device; all that it needs, and no unknown ones."""
    family = tower.spec.TAG
    stored, parameters = _open_tensors(folder), tower.state_dict()
    targets = {_canonical_name(name): name for name in parameters}
    last_block = f"encoder.{'layers' if family in ('siglip', 'clip') else 'layer'}.{tower.spec.vit.layers - 1}."
    sources, extra = dict[str, str](), list[str]()
    for name in stored:
        canonical = _canonical_name(name)
        if canonical in targets and targets[canonical] not in sources:
            sources[targets[canonical]] = name
        elif not (_UNUSED_TENSORS[family].match(canonical) or canonical.startswith(last_block)):
            extra.append(name)
    wrong_shape = [
        f"{name} wanted {list(parameters[target].shape)} got {list(stored.shape(name))} {stored.dtype(name)}"
        for target, name in sources.items()
        if stored.shape(name) != parameters[target].shape or not stored.dtype(name).is_floating_point
    ]
    faults = {"missing": sorted(parameters.keys() - sources.keys()), "extra": extra, "of another shape": wrong_shape}
    if message := format_faults(faults):
        raise ModelError(f"{folder}: weights and spec contradict each other. {message}. Copy the folder again.")
    tower.load_state_dict({target: stored[name].float() for target, name in sources.items()}, assign=True)


def _open_tensors(folder: Path) -> StoredTensors:
    if any(folder.glob("*.safetensors*")):
        return StoredTensors(folder, is_public=True)
    if pickles := sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern)):
        problem = f"{', '.join(pickles)}, which may run code when it is read"
        advice = "Convert it: transformers' save_pretrained writes safetensors"
    else:
        problem, advice = "none", "Copy model.safetensors"
    raise ModelError(f"{folder}: wanted weights in safetensors. Got {problem}. {advice}.")


def _canonical_name(name: str) -> str:
    """The name in transformers' modules of a tensor of a published model, for any class it was saved from."""
    name = _DINOV3_LAYER_PREFIX.sub("encoder.layer.", _MODEL_PREFIX.sub("", name))
    for old, new in _DINOV2_RENAMES:
        name = name.replace(old, new)
    return name
