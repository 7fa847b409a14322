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
from firstsight.recipe.mix import Named
from firstsight.recipe.vision import HALF, Colour, Dinov2, EncoderSpec, Fit, Patches, Siglip, TowerSpec, Vit
from firstsight.units import Tokens

Pixels = UInt8[Tensor, "N S S 3"]
Seen = Float[Tensor, "N I W"]

ATTENTION = "sdpa"
"""On one CPU core 1.04 times as fast as attention written out at base/16@224, 1.19 times at so400m/14@384."""
KINDS = {"siglip": "siglip", "siglip_vision_model": "siglip", "dinov2": "dinov2", "dinov2_with_registers": "dinov2"}
"""What config.json may call its model, and which family that is."""
FOREIGN = {
    "clip": "which normalises before its blocks and has a class token",
    "siglip2": "whose patches have any aspect",
    "dinov3": "whose positions are rotary",
}
"""Why another well-known encoder is not read, by its model_type without what follows a _."""
SETTLED: Mapping[str, Mapping[str, object]] = {
    "siglip": {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "num_channels": 3},
    "dinov2": {"hidden_act": "gelu", "layer_norm_eps": 1e-6, "num_channels": 3, "qkv_bias": True},
}
"""What every published tower of a family has in common, so that no recipe says it."""
_BEGINS = re.compile(r"^(vision_model|dinov2|dinov2_with_registers)\.")
_RENAMED = (
    ("attention.attention.query.", "attention.q_proj."),
    ("attention.attention.key.", "attention.k_proj."),
    ("attention.attention.value.", "attention.v_proj."),
    ("attention.output.dense.", "attention.o_proj."),
)
"""DINOv2's files call these otherwise than transformers' modules do."""
_LEFT_OUT = {
    "siglip": re.compile(
        r"text_model\.|logit_scale$|logit_bias$|head\.|classifier\.|post_layernorm\.|embeddings\.position_ids$"
    ),
    "dinov2": re.compile(r"layernorm\.|classifier\.|embeddings\.mask_token$"),
}
"""Tensors of published models that features do not hang on, besides the last block."""


def scaled(
    pixels: Pixels, dtype: torch.dtype = torch.float32, *, mean: Colour = HALF, deviation: Colour = HALF
) -> Float[Tensor, "N 3 S S"]:
    """Channels first, less the mean, by the deviation; SigLIP's pixels are then in -1..1."""
    x = pixels.permute(0, 3, 1, 2).to(dtype)
    wide, shift = [255 * part for part in deviation], [m / d for m, d in zip(mean, deviation, strict=True)]
    return x.div(x.new_tensor(wide)[:, None, None]).sub(x.new_tensor(shift)[:, None, None])


class PatchProjection(nn.Module):
    """One strided convolution without bias, trained with the model. Source: paper section 3."""

    def __init__(self, spec: Patches) -> None:
        super().__init__()
        self.spec = spec
        self.conv = nn.Conv2d(3, spec.width, spec.patch, stride=spec.patch, bias=False)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Normal values at fan-in scale, cut at three deviations."""
        deviation = (3 * self.spec.patch**2) ** -0.5
        nn.init.trunc_normal_(self.conv.weight, std=deviation, a=-3 * deviation, b=3 * deviation, generator=generator)

    def forward(self, pixels: Pixels) -> Seen:
        """Patches row by row of the picture."""
        spec = self.spec
        values = scaled(pixels, self.conv.weight.dtype, mean=spec.mean, deviation=spec.deviation)
        return self.conv(values).flatten(2).transpose(1, 2)


class Tower(nn.Module):
    """One encoder as transformers builds it, but for its last block, last norm and head.

    It has no buffers: built on the meta device it is whole as soon as its parameters are assigned.
    """

    def __init__(self, spec: TowerSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embeddings, self.encoder = _siglip(spec) if isinstance(spec, Siglip) else _dinov2(spec)

    def forward(self, pixels: Pixels) -> Seen:
        """Outputs of the second-to-last block, patches row by row; no class token, no registers."""
        spec, first = self.spec, next(self.parameters())
        values = scaled(pixels, first.dtype, mean=spec.mean, deviation=spec.deviation)
        if isinstance(spec, Dinov2):
            return self.encoder(self.embeddings(values)).last_hidden_state[:, 1 + spec.registers :]
        embeddings = cast(Any, self.embeddings)
        patches = embeddings.patch_embedding(values).flatten(2).transpose(1, 2)
        return self.encoder(inputs_embeds=patches + embeddings.position_embedding.weight).last_hidden_state


def _siglip(spec: Siglip) -> tuple[nn.Module, nn.Module]:
    from transformers import SiglipVisionConfig  # costs a second that text-only steps need not pay
    from transformers.models.siglip.modeling_siglip import SiglipEncoder, SiglipVisionEmbeddings

    vit = spec.vit
    config: Any = SiglipVisionConfig(
        num_hidden_layers=vit.layers - 1,
        hidden_size=vit.width,
        intermediate_size=vit.hidden,
        num_attention_heads=vit.heads,
        image_size=vit.image,
        patch_size=vit.patch,
        attention_dropout=0.0,
    )
    config._attn_implementation = ATTENTION
    embeddings = SiglipVisionEmbeddings(config)
    del embeddings.position_ids  # every position in order: the table itself
    return embeddings, SiglipEncoder(config)


def _dinov2(spec: Dinov2) -> tuple[nn.Module, nn.Module]:
    from transformers import Dinov2Config, Dinov2WithRegistersConfig  # costs a second
    from transformers.models.dinov2 import modeling_dinov2 as plain
    from transformers.models.dinov2_with_registers import modeling_dinov2_with_registers as registered

    vit, registers = spec.vit, spec.registers
    if vit.hidden % vit.width:
        raise ModelError(f"DINOv2's hidden width is a multiple of its width. Got {vit.hidden} for {vit.width}.")
    shape: dict[str, Any] = {
        "num_hidden_layers": vit.layers - 1,
        "hidden_size": vit.width,
        "mlp_ratio": vit.hidden // vit.width,
        "num_attention_heads": vit.heads,
        "image_size": spec.table * vit.patch,
        "patch_size": vit.patch,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
    }
    if registers:
        config: Any = Dinov2WithRegistersConfig(**shape, num_register_tokens=registers)
        parts = registered.Dinov2WithRegistersEmbeddings, registered.Dinov2WithRegistersEncoder
    else:
        config = Dinov2Config(**shape)
        parts = plain.Dinov2Embeddings, plain.Dinov2Encoder
    config._attn_implementation = ATTENTION
    embeddings: Any = parts[0](config)
    embeddings.mask_token = None  # of use in DINOv2's own training alone
    return embeddings, parts[1](config)


class Encoder(nn.Module):
    """The towers of a spec on the same pixels, their patch features side by side on channels, the first one first."""

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.spec = spec
        self.towers = nn.ModuleList([Tower(one) for one in spec.towers])

    def forward(self, pixels: Pixels) -> Seen:
        """Patch outputs of the second-to-last block, no head and no class token. Source: paper section 3."""
        return torch.cat([tower(pixels) for tower in self.towers], -1)


@torch.no_grad()
def features(encoder: nn.Module, pixels: Pixels) -> Seen:
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
        _compare(tower.spec, folder)
        _fill(tower, folder)
    return encoder.requires_grad_(False).eval()


def spec_of(folder: Path, name: str, fit: Fit) -> TowerSpec:
    """The tower in a folder of Hugging Face layout as a recipe says it, its weights the user's own `name`.

    A DINOv2 sees pictures of the size that it was trained on; `replace` the image of its Vit for another size.
    """
    kind, told = _config(folder)
    path, weights = folder / "config.json", Named(name=name, form="encoder", tokens=Tokens(0))
    patch, width = _whole(told, "patch_size", path), _whole(told, "hidden_size", path)
    ratio = _whole(told, "mlp_ratio", path) if KINDS[kind] == "dinov2" else 0
    try:
        vit = Vit(
            layers=_whole(told, "num_hidden_layers", path),
            width=width,
            heads=_whole(told, "num_attention_heads", path),
            hidden=ratio * width or _whole(told, "intermediate_size", path),
            image=_whole(told, "image_size", path),
            patch=patch,
        )
    except QuantityError as problem:
        raise ModelError(f"{path}: {problem}") from problem
    registers = _whole(told, "num_register_tokens", path) if kind == "dinov2_with_registers" else 0
    if KINDS[kind] == "siglip":
        found: TowerSpec = Siglip(vit=vit, fit=fit, weights=weights)
    else:
        found = Dinov2(vit=vit, fit=fit, registers=registers, table=vit.side, weights=weights)
    _check_processor(folder, found)
    return found


def reason(kind: object, reasons: Mapping[str, str]) -> str:
    """Why a model_type is not read, of `reasons` by its beginning, the longest that fits; empty where none is known."""
    found = [name for name in reasons if f"{kind}_".startswith(f"{name}_")]
    return reasons[max(found, key=len)] if found else ""


def _config(folder: Path) -> tuple[str, dict[str, Any]]:
    """What config.json calls its model, and the tower's settings with transformers' defaults for those left out."""
    from transformers import Dinov2Config, Dinov2WithRegistersConfig, SiglipVisionConfig  # costs a second

    body, path = _json(folder / "config.json"), folder / "config.json"
    kind = body.get("model_type")
    if not isinstance(kind, str) or kind not in KINDS:
        why = reason(kind, FOREIGN)
        got = f"{kind!r}, {why}" if why else repr(kind)
        raise ModelError(f"{path}: wanted model_type {', '.join(KINDS)}. Got {got}. Name a SigLIP or DINOv2.")
    whole = {
        "siglip": SiglipVisionConfig,
        "siglip_vision_model": SiglipVisionConfig,
        "dinov2": Dinov2Config,
        "dinov2_with_registers": Dinov2WithRegistersConfig,
    }[kind]()
    inner = (body.get("vision_config") or {}) if kind == "siglip" else body
    if not isinstance(inner, dict):
        raise ModelError(f"{path}: wanted vision_config with settings. Got {inner!r}. Copy it again.")
    told: dict[str, Any] = whole.to_dict() | cast(dict[str, Any], inner)
    if told.get("use_swiglu_ffn"):
        raise ModelError(f"{path}: wanted a DINOv2 with a plain MLP. Got SwiGLU (giant). Take large, base or small.")
    settled = SETTLED[KINDS[kind]]
    if wrong := [f"{key} wanted {want} got {told[key]}" for key, want in settled.items() if told[key] != want]:
        raise ModelError(f"{path}: this is not a published {KINDS[kind]}: {', '.join(wrong)}. Name another folder.")
    return kind, told


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ModelError(
            f"{path.parent}: wanted an encoder in Hugging Face layout. Got no {path.name}. Name its folder."
        )
    try:
        body = json.loads(path.read_text())
    except ValueError as problem:
        raise ModelError(f"{path}: wanted JSON. Got: {problem}. Copy it again.") from problem
    if not isinstance(body, dict):
        raise ModelError(f"{path}: wanted a JSON object. Got {type(body).__name__}. Copy it again.")
    return cast(dict[str, Any], body)


def _whole(told: Mapping[str, Any], key: str, path: Path) -> int:
    """A setting that is a whole number, or two equal ones for the sides of a square."""
    value = told.get(key)
    if isinstance(value, (list, tuple)) and len(cast(list[Any], value)) == 2 and value[0] == value[1]:
        value = cast(object, value[0])
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise ModelError(
        f"{path}: wanted {key} as a whole number above zero, sides equal. Got {value!r}. Name another folder."
    )


def siglip_processor(side: int) -> dict[str, object]:
    """preprocessor_config.json of a SigLIP that sees `side` x `side` pixels, for transformers."""
    return {
        "image_processor_type": "SiglipImageProcessor",
        "do_resize": True,
        "size": {"height": side, "width": side},
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
    told, wanted = _json(path), {"image_mean": list(spec.mean), "image_std": list(spec.deviation), "resample": 3}
    wanted |= {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    wrong = [
        f"{key} wanted {want} got {told[key]}" for key, want in wanted.items() if not _near(told.get(key, want), want)
    ]
    if wrong:
        raise ModelError(f"{path}: contradicts the spec: {'; '.join(wrong)}. Take the encoder that the recipe means.")


def _near(got: Any, wanted: Any) -> bool:
    """Equal, or numbers that differ by less than files round."""
    if isinstance(wanted, list) and isinstance(got, list):
        pairs = zip(cast(list[Any], got), cast(list[Any], wanted), strict=False)
        return len(cast(list[Any], got)) == len(cast(list[Any], wanted)) and all(_near(*pair) for pair in pairs)
    return got == wanted or (isinstance(got, float) and isinstance(wanted, float) and abs(got - wanted) < 1e-6)


def _compare(spec: TowerSpec, folder: Path) -> None:
    found = _facts(spec_of(folder, "", spec.fit))
    wanted = _facts(spec)
    if wrong := [f"{key} wanted {want} got {found.get(key)}" for key, want in wanted.items() if found.get(key) != want]:
        raise ModelError(f"{folder / 'config.json'}: contradicts the spec: {', '.join(wrong)}. Mend the recipe.")


def _facts(spec: TowerSpec) -> dict[str, object]:
    """What a folder and a recipe must agree in; a DINOv2's picture may have any size."""
    facts: dict[str, object] = {"encoder": type(spec).__name__, **asdict(spec.vit)}
    if isinstance(spec, Dinov2):
        return {key: fact for key, fact in facts.items() if key != "image"} | {
            "registers": spec.registers,
            "table": spec.table,
        }
    return facts


def _fill(tower: Tower, folder: Path) -> None:
    """Published tensors into a tower on the meta device: all that it runs, and nothing that is unknown."""
    family = "siglip" if isinstance(tower.spec, Siglip) else "dinov2"
    stored, own = _stored(folder), {_plain(name): name for name in tower.state_dict()}
    last = f"encoder.{'layers' if family == 'siglip' else 'layer'}.{tower.spec.vit.layers - 1}."
    given, extra = dict[str, str](), list[str]()
    for name in stored:
        plain = _plain(name)
        if plain in own and plain not in given:
            given[plain] = name
        elif not (_LEFT_OUT[family].match(plain) or plain.startswith(last)):
            extra.append(name)
    shapes = {name: tensor.shape for name, tensor in tower.state_dict().items()}
    misshapen = [
        f"{name} wanted {list(shapes[own[plain]])} got {list(stored.shape(name))} {stored.kind(name)}"
        for plain, name in given.items()
        if stored.shape(name) != shapes[own[plain]] or not stored.kind(name).is_floating_point
    ]
    faults = {
        "missing": sorted(own[plain] for plain in own.keys() - given.keys()),
        "extra": extra,
        "misshapen": misshapen,
    }
    if told := "; ".join(f"{what}: {', '.join(names)}" for what, names in faults.items() if names):
        raise ModelError(f"{folder}: weights and spec contradict each other. {told}. Copy the published folder again.")
    tower.load_state_dict({own[plain]: stored[name].float() for plain, name in given.items()}, assign=True)


def _stored(folder: Path) -> Any:
    from firstsight.model.weights import Stored  # it imports this module

    if not any(folder.glob("*.safetensors*")):
        pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
        held = f"{', '.join(pickles)}, which may run code when it is read" if pickles else "none"
        advice = "Convert it: transformers' save_pretrained writes safetensors" if pickles else "Copy model.safetensors"
        raise ModelError(f"{folder}: wanted weights in safetensors. Got {held}. {advice}.")
    return Stored(folder)


def _plain(name: str) -> str:
    """A tensor's name as transformers' modules have it, whatever whole it was published in."""
    name = _BEGINS.sub("", name)
    for old, new in _RENAMED:
        name = name.replace(old, new)
    return name
