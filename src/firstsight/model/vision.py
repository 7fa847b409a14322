"""From pixels to image vectors: one or two encoder towers in Hugging Face layout, or one trained convolution.

The towers' blocks are transformers' own; what lies behind the second-to-last block is neither built, read nor run.
Shapes: N images of S x S pixels (uint8, channels last), I tokens an image, W vision width.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from firstsight.errors import ModelError, QuantityError
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
"""On one CPU core 1.04 times as fast as attention written out at base/16@224, 1.19 times at so400m/14@384."""
ENCODER_FAMILIES = {
    "siglip": "siglip",
    "siglip_vision_model": "siglip",
    "dinov2": "dinov2",
    "dinov2_with_registers": "dinov2",
}
"""What config.json may call its model, and which family that is."""
UNSUPPORTED_ENCODERS = {
    "clip": "which normalises before its blocks and has a class token",
    "siglip2": "whose patches have any aspect",
    "dinov3": "whose positions are rotary",
}
"""Why another well-known encoder is not read, by its model_type without what follows a _."""
FAMILY_SETTINGS: Mapping[str, Mapping[str, object]] = {
    "siglip": {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "num_channels": 3},
    "dinov2": {"hidden_act": "gelu", "layer_norm_eps": 1e-6, "num_channels": 3, "qkv_bias": True},
}
"""What every published tower of a family has in common, so that no recipe says it."""
_MODEL_PREFIX = re.compile(r"^(vision_model|dinov2|dinov2_with_registers)\.")
_DINOV2_RENAMES = (
    ("attention.attention.query.", "attention.q_proj."),
    ("attention.attention.key.", "attention.k_proj."),
    ("attention.attention.value.", "attention.v_proj."),
    ("attention.output.dense.", "attention.o_proj."),
)
"""DINOv2's files call these otherwise than transformers' modules do."""
_UNUSED_TENSORS = {
    "siglip": re.compile(
        r"text_model\.|logit_scale$|logit_bias$|head\.|classifier\.|post_layernorm\.|embeddings\.position_ids$"
    ),
    "dinov2": re.compile(r"layernorm\.|classifier\.|embeddings\.mask_token$"),
}
"""Tensors of published models that features do not hang on, besides the last block."""


def normalize_pixels(
    pixels: PixelBatch,
    dtype: torch.dtype = torch.float32,
    *,
    mean: RGBFloat = SIGLIP_MEAN_STD,
    std: RGBFloat = SIGLIP_MEAN_STD,
) -> Float[Tensor, "N 3 S S"]:
    """Channels first, less the mean, by the deviation; SigLIP's pixels are then in -1..1."""
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
        """Normal values at fan-in scale, cut at three deviations."""
        std = (3 * self.spec.patch_size**2) ** -0.5
        nn.init.trunc_normal_(self.conv.weight, std=std, a=-3 * std, b=3 * std, generator=generator)

    def forward(self, pixels: PixelBatch) -> ImageFeatures:
        """Patches row by row of the picture."""
        spec = self.spec
        pixel_values = normalize_pixels(pixels, self.conv.weight.dtype, mean=spec.mean, std=spec.std)
        return self.conv(pixel_values).flatten(2).transpose(1, 2)


class Tower(nn.Module):
    """One encoder as transformers builds it, but for its last block, last norm and head.

    It has no buffers: built on the meta device it is whole as soon as its parameters are assigned.
    """

    def __init__(self, spec: TowerSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embeddings, self.encoder = _siglip_modules(spec) if isinstance(spec, Siglip) else _dinov2_modules(spec)

    def forward(self, pixels: PixelBatch) -> ImageFeatures:
        """Outputs of the second-to-last block, patches row by row; no class token, no registers."""
        spec, parameter = self.spec, next(self.parameters())
        pixel_values = normalize_pixels(pixels, parameter.dtype, mean=spec.mean, std=spec.std)
        if isinstance(spec, Dinov2):
            return self.encoder(self.embeddings(pixel_values)).last_hidden_state[:, 1 + spec.registers :]
        embeddings = cast(Any, self.embeddings)
        patches = embeddings.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        return self.encoder(inputs_embeds=patches + embeddings.position_embedding.weight).last_hidden_state


def _siglip_modules(spec: Siglip) -> tuple[nn.Module, nn.Module]:
    from transformers import SiglipVisionConfig  # costs a second that text-only steps need not pay
    from transformers.models.siglip.modeling_siglip import SiglipEncoder, SiglipVisionEmbeddings

    vit = spec.vit
    config: Any = SiglipVisionConfig(
        num_hidden_layers=vit.layers - 1,
        hidden_size=vit.width,
        intermediate_size=vit.mlp_width,
        num_attention_heads=vit.heads,
        image_size=vit.image_size,
        patch_size=vit.patch_size,
        attention_dropout=0.0,
    )
    config._attn_implementation = ATTENTION_IMPLEMENTATION
    embeddings = SiglipVisionEmbeddings(config)
    del embeddings.position_ids  # every position in order: the table itself
    return embeddings, SiglipEncoder(config)


def _dinov2_modules(spec: Dinov2) -> tuple[nn.Module, nn.Module]:
    from transformers import Dinov2Config, Dinov2WithRegistersConfig  # costs a second
    from transformers.models.dinov2 import modeling_dinov2 as plain
    from transformers.models.dinov2_with_registers import modeling_dinov2_with_registers as registered

    vit, registers = spec.vit, spec.registers
    if vit.mlp_width % vit.width:
        raise ModelError(f"DINOv2's hidden width is a multiple of its width. Got {vit.mlp_width} for {vit.width}.")
    settings: dict[str, Any] = {
        "num_hidden_layers": vit.layers - 1,
        "hidden_size": vit.width,
        "mlp_ratio": vit.mlp_width // vit.width,
        "num_attention_heads": vit.heads,
        "image_size": spec.position_grid_size * vit.patch_size,
        "patch_size": vit.patch_size,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
    }
    if registers:
        config: Any = Dinov2WithRegistersConfig(**settings, num_register_tokens=registers)
        module_classes = registered.Dinov2WithRegistersEmbeddings, registered.Dinov2WithRegistersEncoder
    else:
        config = Dinov2Config(**settings)
        module_classes = plain.Dinov2Embeddings, plain.Dinov2Encoder
    config._attn_implementation = ATTENTION_IMPLEMENTATION
    embeddings: Any = module_classes[0](config)
    embeddings.mask_token = None  # of use in DINOv2's own training alone
    return embeddings, module_classes[1](config)


class Encoder(nn.Module):
    """The towers of a spec on the same pixels, their patch features side by side on channels, the first one first."""

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.spec = spec
        self.towers = nn.ModuleList([Tower(tower_spec) for tower_spec in spec.towers])

    def forward(self, pixels: PixelBatch) -> ImageFeatures:
        """Patch outputs of the second-to-last block, no head and no class token. Source: paper section 3."""
        return torch.cat([tower(pixels) for tower in self.towers], -1)


@torch.no_grad()
def extract_features(encoder: nn.Module, pixels: PixelBatch) -> ImageFeatures:
    """What a frozen encoder sees."""
    return encoder(pixels)


def load_encoder(spec: EncoderSpec, folders: Sequence[Path]) -> Encoder:
    """The towers of a spec with published weights, one folder each: float32, frozen, in eval mode.

    Raises ModelError that names every setting of config.json and every tensor that contradicts the spec, a file that
    is missing or damaged, and weights that are a pickle.
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
    """The tower in a folder of Hugging Face layout as a recipe says it, its weights the user's own `name`.

    A DINOv2 sees pictures of the size that it was trained on; `replace` the image of its Vit for another size.
    """
    model_type, settings = _read_config(folder)
    path, weights = folder / "config.json", External(name=name, form="encoder", tokens=Tokens(0))
    patch, width = _positive_int(settings, "patch_size", path), _positive_int(settings, "hidden_size", path)
    mlp_ratio = _positive_int(settings, "mlp_ratio", path) if ENCODER_FAMILIES[model_type] == "dinov2" else 0
    try:
        vit = ViTSpec(
            layers=_positive_int(settings, "num_hidden_layers", path),
            width=width,
            heads=_positive_int(settings, "num_attention_heads", path),
            mlp_width=mlp_ratio * width or _positive_int(settings, "intermediate_size", path),
            image_size=_positive_int(settings, "image_size", path),
            patch_size=patch,
        )
    except QuantityError as error:
        raise ModelError(f"{path}: {error}") from error
    registers = _positive_int(settings, "num_register_tokens", path) if model_type == "dinov2_with_registers" else 0
    if ENCODER_FAMILIES[model_type] == "siglip":
        tower: TowerSpec = Siglip(vit=vit, fit=fit, weights=weights)
    else:
        tower = Dinov2(vit=vit, fit=fit, registers=registers, position_grid_size=vit.grid_size, weights=weights)
    _check_processor(folder, tower)
    return tower


def unsupported_reason(model_type: object, reasons: Mapping[str, str]) -> str:
    """Why a model_type is not read, of `reasons` by its beginning, the longest that fits; empty where none is known."""
    matches = [name for name in reasons if f"{model_type}_".startswith(f"{name}_")]
    return reasons[max(matches, key=len)] if matches else ""


def _read_config(folder: Path) -> tuple[str, dict[str, Any]]:
    """What config.json calls its model, and the tower's settings with transformers' defaults for those left out."""
    from transformers import Dinov2Config, Dinov2WithRegistersConfig, SiglipVisionConfig  # costs a second

    model_config, path = _read_json(folder / "config.json"), folder / "config.json"
    model_type = model_config.get("model_type")
    if not isinstance(model_type, str) or model_type not in ENCODER_FAMILIES:
        explanation = unsupported_reason(model_type, UNSUPPORTED_ENCODERS)
        actual = f"{model_type!r}, {explanation}" if explanation else repr(model_type)
        raise ModelError(
            f"{path}: wanted model_type {', '.join(ENCODER_FAMILIES)}. Got {actual}. Name a SigLIP or DINOv2."
        )
    defaults = {
        "siglip": SiglipVisionConfig,
        "siglip_vision_model": SiglipVisionConfig,
        "dinov2": Dinov2Config,
        "dinov2_with_registers": Dinov2WithRegistersConfig,
    }[model_type]()
    tower_config = (model_config.get("vision_config") or {}) if model_type == "siglip" else model_config
    if not isinstance(tower_config, dict):
        raise ModelError(f"{path}: wanted vision_config with settings. Got {tower_config!r}. Copy it again.")
    settings: dict[str, Any] = defaults.to_dict() | cast(dict[str, Any], tower_config)
    if settings.get("use_swiglu_ffn"):
        raise ModelError(f"{path}: wanted a DINOv2 with a plain MLP. Got SwiGLU (giant). Take large, base or small.")
    family_settings = FAMILY_SETTINGS[ENCODER_FAMILIES[model_type]]
    if mismatches := [
        f"{key} wanted {expected} got {settings[key]}"
        for key, expected in family_settings.items()
        if settings[key] != expected
    ]:
        raise ModelError(
            f"{path}: this is not a published {ENCODER_FAMILIES[model_type]}: {', '.join(mismatches)}. Name another folder."
        )
    return model_type, settings


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ModelError(
            f"{path.parent}: wanted an encoder in Hugging Face layout. Got no {path.name}. Name its folder."
        )
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ModelError(f"{path}: wanted JSON. Got: {error}. Copy it again.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: wanted a JSON object. Got {type(content).__name__}. Copy it again.")
    return cast(dict[str, Any], content)


def _positive_int(settings: Mapping[str, Any], key: str, path: Path) -> int:
    """A setting that is a whole number, or two equal ones for the sides of a square."""
    value = settings.get(key)
    if isinstance(value, (list, tuple)) and len(cast(list[Any], value)) == 2 and value[0] == value[1]:
        value = cast(object, value[0])
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise ModelError(
        f"{path}: wanted {key} as a whole number above zero, sides equal. Got {value!r}. Name another folder."
    )


def siglip_processor_config(image_size: int) -> dict[str, object]:
    """preprocessor_config.json of a SigLIP that sees `side` x `side` pixels, for transformers."""
    return {
        "image_processor_type": "SiglipImageProcessor",
        "do_resize": True,
        "size": {"height": image_size, "width": image_size},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }


def _check_processor(folder: Path, spec: TowerSpec) -> None:
    """That preprocessor_config.json, where there is one, prepares pixels as `pictures.decode` and `scaled` do."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return
    settings, expected = _read_json(path), {"image_mean": list(spec.mean), "image_std": list(spec.std), "resample": 3}
    expected |= {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    mismatches = [
        f"{key} wanted {expected_value} got {settings[key]}"
        for key, expected_value in expected.items()
        if not _nearly_equal(settings.get(key, expected_value), expected_value)
    ]
    if mismatches:
        raise ModelError(
            f"{path}: contradicts the spec: {'; '.join(mismatches)}. Take the encoder that the recipe means."
        )


def _nearly_equal(actual: Any, expected: Any) -> bool:
    """Equal, or numbers that differ by less than files round."""
    if isinstance(expected, list) and isinstance(actual, list):
        pairs = zip(cast(list[Any], actual), cast(list[Any], expected), strict=False)
        return len(cast(list[Any], actual)) == len(cast(list[Any], expected)) and all(
            _nearly_equal(*pair) for pair in pairs
        )
    return actual == expected or (
        isinstance(actual, float) and isinstance(expected, float) and abs(actual - expected) < 1e-6
    )


def _check_config(spec: TowerSpec, folder: Path) -> None:
    actual = _comparable_settings(encoder_spec(folder, "", spec.fit))
    expected = _comparable_settings(spec)
    if mismatches := [
        f"{key} wanted {expected_value} got {actual.get(key)}"
        for key, expected_value in expected.items()
        if actual.get(key) != expected_value
    ]:
        raise ModelError(f"{folder / 'config.json'}: contradicts the spec: {', '.join(mismatches)}. Mend the recipe.")


def _comparable_settings(spec: TowerSpec) -> dict[str, object]:
    """What a folder and a recipe must agree in; a DINOv2's picture may have any size."""
    settings: dict[str, object] = {"encoder": spec.TAG, **asdict(spec.vit)}
    if isinstance(spec, Dinov2):
        return {key: value for key, value in settings.items() if key != "image_size"} | {
            "registers": spec.registers,
            "table": spec.position_grid_size,
        }
    return settings


def _load_tower_weights(tower: Tower, folder: Path) -> None:
    """Published tensors into a tower on the meta device: all that it runs, and nothing that is unknown."""
    family = "siglip" if isinstance(tower.spec, Siglip) else "dinov2"
    stored, parameter_names = _open_tensors(folder), {_canonical_name(name): name for name in tower.state_dict()}
    last_block_prefix = f"encoder.{'layers' if family == 'siglip' else 'layer'}.{tower.spec.vit.layers - 1}."
    stored_names, extra = dict[str, str](), list[str]()
    for name in stored:
        canonical = _canonical_name(name)
        if canonical in parameter_names and canonical not in stored_names:
            stored_names[canonical] = name
        elif not (_UNUSED_TENSORS[family].match(canonical) or canonical.startswith(last_block_prefix)):
            extra.append(name)
    shapes = {name: tensor.shape for name, tensor in tower.state_dict().items()}
    misshapen = [
        f"{name} wanted {list(shapes[parameter_names[canonical]])} got {list(stored.shape(name))} {stored.dtype(name)}"
        for canonical, name in stored_names.items()
        if stored.shape(name) != shapes[parameter_names[canonical]] or not stored.dtype(name).is_floating_point
    ]
    faults = {
        "missing": sorted(parameter_names[canonical] for canonical in parameter_names.keys() - stored_names.keys()),
        "extra": extra,
        "misshapen": misshapen,
    }
    if message := "; ".join(f"{fault}: {', '.join(names)}" for fault, names in faults.items() if names):
        raise ModelError(
            f"{folder}: weights and spec contradict each other. {message}. Copy the published folder again."
        )
    tower.load_state_dict(
        {parameter_names[canonical]: stored[name].float() for canonical, name in stored_names.items()}, assign=True
    )


def _open_tensors(folder: Path) -> Any:
    from firstsight.model.checkpoint_io import StoredTensors  # it imports this module

    if not any(folder.glob("*.safetensors*")):
        pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
        description = f"{', '.join(pickles)}, which may run code when it is read" if pickles else "none"
        advice = "Convert it: transformers' save_pretrained writes safetensors" if pickles else "Copy model.safetensors"
        raise ModelError(f"{folder}: wanted weights in safetensors. Got {description}. {advice}.")
    return StoredTensors(folder)


def _canonical_name(name: str) -> str:
    """A tensor's name as transformers' modules have it, whatever whole it was published in."""
    name = _MODEL_PREFIX.sub("", name)
    for old, new in _DINOV2_RENAMES:
        name = name.replace(old, new)
    return name
