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
from firstsight.recipe.mixture import External
from firstsight.recipe.vision import (
    SIGLIP_MEAN_STD,
    Dinov2,
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

ATTENTION_IMPLEMENTATION = "sdpa"
"""On one CPU core 1.04 times as fast as eager attention at base/16@224, 1.19 times at so400m/14@384."""
ENCODER_FAMILIES = {n: n.split("_")[0] for n in ("siglip", "siglip_vision_model", "dinov2", "dinov2_with_registers")}
"""The family of each supported model_type of config.json."""
UNSUPPORTED_ENCODERS = {
    "clip": "which normalises before its blocks and has a class token",
    "siglip2": "whose images have any aspect ratio",
    "dinov3": "whose positions are rotary",
}
"""Why other well-known encoders are not supported, by the beginning of their model_type."""
FAMILY_SETTINGS: Mapping[str, Mapping[str, object]] = {
    "siglip": {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "num_channels": 3},
    "dinov2": {"hidden_act": "gelu", "layer_norm_eps": 1e-6, "num_channels": 3, "qkv_bias": True},
}
"""Settings that all published towers of a family share; recipes do not contain them."""
_MODEL_PREFIX = re.compile(r"^(vision_model|dinov2|dinov2_with_registers)\.")
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
        self.embeddings, self.encoder = _siglip_modules(spec) if isinstance(spec, Siglip) else _dinov2_modules(spec)

    def forward(self, pixels: PixelBatch) -> ImageFeatures:
        """Outputs of the second-to-last block, patches row by row; no class token, no registers."""
        spec, dtype = self.spec, next(self.parameters()).dtype
        x = normalize_pixels(pixels, dtype, mean=spec.mean, std=spec.std)
        if isinstance(spec, Dinov2):
            return self.encoder(self.embeddings(x)).last_hidden_state[:, 1 + spec.registers :]
        embeddings = cast(Any, self.embeddings)
        patches = embeddings.patch_embedding(x).flatten(2).transpose(1, 2)
        return self.encoder(inputs_embeds=patches + embeddings.position_embedding.weight).last_hidden_state


def siglip_vision_settings(vit: ViTSpec, *, layers: int) -> dict[str, Any]:
    """Arguments of transformers' SiglipVisionConfig for the first `layers` blocks of a tower."""
    return {
        "num_hidden_layers": layers,
        "hidden_size": vit.width,
        "intermediate_size": vit.mlp_width,
        "num_attention_heads": vit.heads,
        "image_size": vit.image_size,
        "patch_size": vit.patch_size,
    }


def _siglip_modules(spec: Siglip) -> tuple[nn.Module, nn.Module]:
    from transformers import SiglipVisionConfig  # takes a second, which text-only steps save
    from transformers.models.siglip.modeling_siglip import SiglipEncoder, SiglipVisionEmbeddings

    settings = siglip_vision_settings(spec.vit, layers=spec.vit.layers - 1)
    config: Any = SiglipVisionConfig(**settings, attention_dropout=0.0)
    config._attn_implementation = ATTENTION_IMPLEMENTATION
    embeddings = SiglipVisionEmbeddings(config)
    del embeddings.position_ids  # 0, 1, 2 ...: `Tower.forward` adds the whole position embedding
    return embeddings, SiglipEncoder(config)


def _dinov2_modules(spec: Dinov2) -> tuple[nn.Module, nn.Module]:
    from transformers import Dinov2Config, Dinov2WithRegistersConfig  # takes a second
    from transformers.models.dinov2 import modeling_dinov2 as plain
    from transformers.models.dinov2_with_registers import modeling_dinov2_with_registers as registered

    vit, registers = spec.vit, spec.registers
    if vit.mlp_width % vit.width:
        raise ModelError(f"DINOv2's MLP width is a multiple of its width. Got {vit.mlp_width} for {vit.width}.")
    settings: dict[str, Any] = {
        "num_hidden_layers": vit.layers - 1,
        "hidden_size": vit.width,
        "mlp_ratio": vit.mlp_width // vit.width,
        "num_attention_heads": vit.heads,
        "image_size": spec.position_grid_size * vit.patch_size,
        "patch_size": vit.patch_size,
        **dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate"), 0.0),
    }
    config: Any = Dinov2Config(**settings)
    classes: Any = plain.Dinov2Embeddings, plain.Dinov2Encoder
    if registers:
        config = Dinov2WithRegistersConfig(**settings, num_register_tokens=registers)
        classes = registered.Dinov2WithRegistersEmbeddings, registered.Dinov2WithRegistersEncoder
    config._attn_implementation = ATTENTION_IMPLEMENTATION
    embeddings: Any = classes[0](config)
    embeddings.mask_token = None  # only used in DINOv2's own training
    return embeddings, classes[1](config)


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

    The image size of a DINOv2 is the one that it was trained on; change `vit.image_size` for another size.
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
    if family == "siglip":
        tower: TowerSpec = Siglip(vit=vit, fit=fit, weights=weights)
    else:
        registers = setting("num_register_tokens") if model_type == "dinov2_with_registers" else 0
        tower = Dinov2(vit=vit, fit=fit, registers=registers, position_grid_size=vit.grid_size, weights=weights)
    _check_processor(folder, tower)
    return tower


def unsupported_reason(model_type: object, reasons: Mapping[str, str]) -> str:
    """The reason for the longest key of `reasons` that `model_type` begins with; empty if there is none."""
    matches = [name for name in reasons if f"{model_type}_".startswith(f"{name}_")]
    return reasons[max(matches, key=len)] if matches else ""


def _read_config(folder: Path) -> tuple[str, dict[str, Any]]:
    """The model_type in config.json, and the tower's settings, with transformers' defaults for missing ones."""
    from transformers import Dinov2Config, Dinov2WithRegistersConfig, SiglipVisionConfig  # takes a second

    config, path = _read_json(folder / "config.json"), folder / "config.json"
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in ENCODER_FAMILIES:
        reason = unsupported_reason(model_type, UNSUPPORTED_ENCODERS)
        names, actual = ", ".join(ENCODER_FAMILIES), f"{model_type!r}, {reason}" if reason else repr(model_type)
        raise ModelError(f"{path}: wanted model_type {names}. Got {actual}. Name a SigLIP or DINOv2.")
    family = ENCODER_FAMILIES[model_type]
    dino_config = Dinov2WithRegistersConfig if model_type == "dinov2_with_registers" else Dinov2Config
    defaults = SiglipVisionConfig if family == "siglip" else dino_config
    tower = (config.get("vision_config") or {}) if model_type == "siglip" else config
    if not isinstance(tower, dict):
        raise ModelError(f"{path}: wanted vision_config with settings. Got {tower!r}. Copy it again.")
    settings: dict[str, Any] = defaults().to_dict() | cast(dict[str, Any], tower)
    if settings.get("use_swiglu_ffn"):
        raise ModelError(f"{path}: wanted a DINOv2 with a plain MLP. Got SwiGLU (giant). Use large, base or small.")
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
    expected = {"image_mean": list(spec.mean), "image_std": list(spec.std), **_PROCESSOR_STEPS}
    if mismatches := _mismatches(expected, expected | _read_json(path), _nearly_equal):
        raise ModelError(f"{path}: contradicts the spec: {'; '.join(mismatches)}. Use the encoder of the recipe.")


def _check_config(spec: TowerSpec, folder: Path) -> None:
    actual = _comparable_settings(encoder_spec(folder, "", spec.fit))
    expected = _comparable_settings(spec)
    if mismatches := _mismatches(expected, actual):
        raise ModelError(f"{folder / 'config.json'}: contradicts the spec: {', '.join(mismatches)}. Change the recipe.")


def _comparable_settings(spec: TowerSpec) -> dict[str, object]:
    settings: dict[str, object] = {"encoder": spec.TAG, **asdict(spec.vit)}
    if isinstance(spec, Dinov2):
        del settings["image_size"]
        settings |= {"registers": spec.registers, "table": spec.position_grid_size}
    return settings


def _load_tower_weights(tower: Tower, folder: Path) -> None:
    """Assign published tensors to a tower on the meta device; all that it needs, and no unknown ones."""
    family = "siglip" if isinstance(tower.spec, Siglip) else "dinov2"
    stored, parameters = _open_tensors(folder), tower.state_dict()
    targets = {_canonical_name(name): name for name in parameters}
    last_block = f"encoder.{'layers' if family == 'siglip' else 'layer'}.{tower.spec.vit.layers - 1}."
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
    name = _MODEL_PREFIX.sub("", name)
    for old, new in _DINOV2_RENAMES:
        name = name.replace(old, new)
    return name
