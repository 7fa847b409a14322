"""Whether the user's tokenizers, encoders, donor checkpoints and benchmarks fit what a study trains and evaluates."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from firstsight.errors import FirstsightError, LimitExceeded, RequestError
from firstsight.limits import check_file_size, read_settings
from firstsight.plan.step import Step, field_differences
from firstsight.recipe.mixture import External
from firstsight.recipe.model import LMSpec, VLMSpec
from firstsight.recipe.stages import Evaluate, Finetune, Midtrain, TrunkSegment
from firstsight.recipe.vision import Clip, Dinov2, Dinov3, TowerSpec
from firstsight.site import Location, Site
from firstsight.workspace.sources import as_request_error, checkpoint_files, encoder_files, tokenizer_file

_VIT = {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "image_size": 224}
_SIGLIP = {**_VIT, "intermediate_size": 3072, "patch_size": 16}
_DINOV2 = {**_VIT, "mlp_ratio": 4, "patch_size": 14, "use_swiglu_ffn": False}
_REGISTERS = {**_DINOV2, "patch_size": 16, "num_register_tokens": 4}
_DINOV3 = {**_SIGLIP, "hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
_CLIP = {**_SIGLIP, "patch_size": 32}
_DINOV3 |= {"num_register_tokens": 0, "use_gated_mlp": False}
SIGLIP_TYPES, CLIP_TYPES = ("siglip", "siglip_vision_model"), ("clip", "clip_vision_model")
ENCODER_DEFAULTS = {
    **dict.fromkeys(SIGLIP_TYPES, _SIGLIP),
    **dict.fromkeys(CLIP_TYPES, _CLIP),
    "dinov2": _DINOV2,
    "dinov2_with_registers": _REGISTERS,
    "dinov3_vit": _DINOV3,
}
"""transformers' default of each configuration field, by model_type: config.json lists only what differs from it."""


def check_models(steps: Iterable[Step], site: Site) -> None:
    """Raise RequestError where a tokenizer, encoder, task or donor's checkpoint does not fit what the steps do."""
    for step in steps:
        match step.spec:
            case External() as source if step.donor_model is not None:
                _check_donor(source, step.donor_model, site)
            case TrunkSegment() as segment:
                _check_tokenizer(segment.pretrain.tokenizer, segment.pretrain.model, site)
            case Midtrain() | Finetune() as stage:
                _check_tokenizer(stage.tokenizer, stage.model.lm, site)
                _check_encoders(stage.model, site)
                _check_branch(step, stage, site)
            case Evaluate(benchmarks=External() as benchmarks) as evaluation:
                _check_tasks(evaluation, benchmarks, site)


def _check_tokenizer(tokenizer: object, model: LMSpec, site: Site) -> None:
    if not isinstance(tokenizer, External):
        return
    size = tokenizer_size(site.sources[tokenizer.name], tokenizer.name)
    if size > model.vocab_size:
        limit = f"wanted at most {model.vocab_size:,} tokens, the vocabulary of the model"
        advice = "Give the model a larger vocabulary, or name another tokenizer."
        raise RequestError(f"{tokenizer.name}: {limit}. Got {size:,}. {advice}")


def _check_encoders(model: VLMSpec, site: Site) -> None:
    for tower in model.vision.towers:
        if not isinstance(tower.weights, External):
            continue
        name, location = tower.weights.name, site.sources[tower.weights.name]
        if mismatch := encoder_mismatch(tower, location, name):
            advice = "Name the encoder that the recipe means, or give the recipe this one's shape."
            raise RequestError(f"{name}: {mismatch} in {location.path}/config.json. {advice}")


def _check_donor(source: External, declared: LMSpec, site: Site) -> None:
    location = site.sources[source.name]
    if differences := field_differences(declared, checkpoint_model(location, source.name)):
        mismatch = "; ".join(f"{field.path} wanted {field.first}, got {field.second}" for field in differences)
        advice = "Declare the donor's model as in that file, or name the checkpoint that the recipe means."
        raise RequestError(f"{source.name}: {mismatch} in {location.path}/spec.json. {advice}")


def checkpoint_model(location: Location, name: str) -> LMSpec | VLMSpec:
    """The model of a checkpoint folder; RequestError where it is not one, or one of another version."""
    from firstsight.model.checkpoint_io import read_spec

    checkpoint_files(location, name)
    try:
        return read_spec(Path(location.path))["model"]
    except FirstsightError as error:
        raise RequestError(f"{name}: {error}") from error


def _check_branch(step: Step, stage: Midtrain | Finetune, site: Site) -> None:
    """Whether a donor's checkpoint has the moments that a branch continues with, and the token ids of its tokenizer."""
    trunk = step.parent("trunk")
    if trunk is None or trunk.donor_model is None:
        return
    name, folder = trunk.spec.name, Path(site.sources[trunk.spec.name].path)
    if stage.moments == "carried" and not any(folder.glob("optimizer*.safetensors")):
        raise RequestError(
            f"{step.slug}: wanted optimizer.safetensors in {folder}, since the branch continues its donor's moments. "
            f'Got none. Set moments="fresh" in the study, or import {name} with its optimizer file.'
        )
    if isinstance(stage.tokenizer, External):
        from tokenizers import Tokenizer

        files = (tokenizer_file(site.sources[stage.tokenizer.name], stage.tokenizer.name), folder / "tokenizer.json")
        for file in files:
            check_file_size(file, "tokenizer")
        ids, donor_ids = (Tokenizer.from_file(str(file)).get_vocab(with_added_tokens=True) for file in files)
        moved = sorted((number, token) for token, number in donor_ids.items() if ids.get(token) != number)
        if moved:
            number, token = moved[0]
            raise RequestError(
                f"{stage.tokenizer.name}: wanted the tokens of {name} under their own numbers. Got {len(moved):,} of "
                f"{len(donor_ids):,} under others, first {token!r}: {number} there, {ids.get(token, 'none')} here. "
                "Name the donor's tokenizer, or one that only adds tokens at its end."
            )


def _check_tasks(evaluation: Evaluate, benchmarks: External, site: Site) -> None:
    """Whether the tasks are built-in ones, or the user's own in the folder of benchmarks."""
    from firstsight.evaluate.tasks import get_task

    folder = Path(site.sources[benchmarks.name].path)
    with as_request_error():
        for name in (*evaluation.vision_tasks, *evaluation.text_tasks):
            get_task(name, folder)


def tokenizer_size(location: Location, name: str) -> int:
    """The number of tokens of the tokenizer at a location, with the tokens that mark the turns of dialogues."""
    from firstsight.data import tokenizer

    with as_request_error():
        return tokenizer.load_tokenizer(tokenizer_file(location, name).parent).vocab_size


def encoder_mismatch(tower: TowerSpec, location: Location, name: str) -> str:
    """The fields in which an encoder's configuration differs from a recipe's tower; empty where none does."""
    config, vit, patch = encoder_config(location, name), tower.vit, tower.vit.patch_size
    shape: dict[str, Any] = {"num_hidden_layers": vit.layers, "hidden_size": vit.width}
    shape |= {"num_attention_heads": vit.heads, "patch_size": patch}
    if isinstance(tower, Dinov2):
        types = ("dinov2_with_registers",) if tower.registers else ("dinov2",)
        shape |= {"image_size": tower.position_grid_size * patch, "mlp_ratio": vit.mlp_width / vit.width}
        shape |= {"use_swiglu_ffn": False} | ({"num_register_tokens": tower.registers} if tower.registers else {})
    elif isinstance(tower, Dinov3):
        types = ("dinov3_vit",)
        shape |= {"intermediate_size": vit.mlp_width, "use_gated_mlp": False, "num_register_tokens": tower.registers}
    else:
        types = CLIP_TYPES if isinstance(tower, Clip) else SIGLIP_TYPES
        shape |= {"image_size": vit.image_size, "intermediate_size": vit.mlp_width}
    if config["model_type"] not in types:
        return f"wanted model_type {' or '.join(types)}, got {config['model_type']}"
    return "; ".join(f"wanted {key} {value}, got {config[key]}" for key, value in shape.items() if config[key] != value)


def encoder_config(location: Location, name: str) -> dict[str, Any]:
    """The configuration of an encoder with transformers' defaults; of a whole SigLIP or CLIP its vision tower's."""
    encoder_files(location, name)
    path = Path(location.path) / "config.json"
    try:
        config = read_settings(path)
    except (ValueError, LimitExceeded) as error:
        raise RequestError(f"{path}: wanted the settings of an encoder. Got {error}. Copy it again.") from error
    model_type = str(config.get("model_type"))
    defaults = ENCODER_DEFAULTS.get(model_type, _SIGLIP)
    return {**defaults, **config.get("vision_config", config), "model_type": model_type}
