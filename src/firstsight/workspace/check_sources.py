"""Whether what lies at the user's places fits: tokenizer, encoder and donor to the models, all else to its form."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from firstsight.cli.doctor import Finding
from firstsight.errors import DataError, FirstsightError, RequestError
from firstsight.plan.differences import field_differences
from firstsight.plan.step import Step
from firstsight.recipe.lm import LMSpec
from firstsight.recipe.mixture import External, ExternalForm, Recaptioned
from firstsight.recipe.model import VLMSpec
from firstsight.recipe.scales import paper
from firstsight.recipe.scales.base import VISION_TASKS
from firstsight.recipe.stages import Finetune, Midtrain, TrunkSegment
from firstsight.recipe.vision import Dinov2, TowerSpec
from firstsight.site import Location, Site
from firstsight.units import Tokens, format_bytes
from firstsight.workspace.content_digests import checkpoint_files, prepared_names, tokenizer_file, weight_files
from firstsight.workspace.source_ids import DATA, absent, on_hub

_SIGLIP = {
    "num_hidden_layers": 12,
    "hidden_size": 768,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "image_size": 224,
    "patch_size": 16,
}
_DINOV2 = {
    "num_hidden_layers": 12,
    "hidden_size": 768,
    "num_attention_heads": 12,
    "mlp_ratio": 4,
    "image_size": 224,
    "patch_size": 14,
    "use_swiglu_ffn": False,
}
_USUAL: dict[str, dict[str, Any]] = {
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "dinov2": _DINOV2,
    "dinov2_with_registers": {**_DINOV2, "patch_size": 16, "num_register_tokens": 4},
}
"""What an encoder's configuration means where it does not say, as in transformers, by its model_type."""
_SIGLIPS = ("siglip", "siglip_vision_model")
_PEEKED: tuple[ExternalForm, ...] = ("captions", "interleaved", "dialogues", "text")
"""Forms in the order in which they are tried on data whose form nobody tells."""


def check_models(steps: Iterable[Step], site: Site) -> None:
    """Raise RequestError where a named tokenizer, encoder or donor's checkpoint does not fit what a plan trains."""
    for step in steps:
        match step.spec:
            case External() as named if step.donor_model is not None:
                _check_checkpoint(named, step.donor_model, site)
            case TrunkSegment() as segment:
                _check_tokenizer(segment.pretrain.tokenizer, segment.pretrain.model, site)
            case Midtrain() | Finetune() as stage:
                _check_tokenizer(stage.tokenizer, stage.model.lm, site)
                _check_encoders(stage.model, site)
                _check_branch(step, stage, site)
            case _:
                pass


def _check_tokenizer(tokenizer: object, model: LMSpec, site: Site) -> None:
    if not isinstance(tokenizer, External):
        return
    size = tokenizer_size(site.sources[tokenizer.name], tokenizer.name)
    if size > model.vocab_size:
        raise RequestError(
            f"{tokenizer.name}: wanted at most {model.vocab_size:,} tokens, the vocabulary of the model. "
            f"Got {size:,}. Give the model a larger vocabulary, or name another tokenizer."
        )


def _check_encoders(model: VLMSpec, site: Site) -> None:
    for tower in model.vision.towers:
        if isinstance(tower.weights, External):
            location = site.sources[tower.weights.name]
            if differs := disagreement(tower, location, tower.weights.name):
                raise RequestError(
                    f"{tower.weights.name}: {differs}, says {location.path}/config.json. Name the encoder that the "
                    "recipe means, or give the recipe this one's shape."
                )


def _check_checkpoint(named: External, wanted: LMSpec, site: Site) -> None:
    """A donor's checkpoint holds the model that the donor declares."""
    location = site.sources[named.name]
    found = held(location, named.name)
    if differs := "; ".join(
        f"{one.path} wanted {one.first}, got {one.second}" for one in field_differences(wanted, found)
    ):
        raise RequestError(
            f"{named.name}: {differs}, says {location.path}/spec.json. Declare the donor's model as it is there, "
            "or name the checkpoint that the recipe means."
        )


def held(location: Location, name: str) -> LMSpec | VLMSpec:
    """The model of a checkpoint folder; RequestError where it is none, or of another version."""
    from firstsight.model.checkpoint_io import read_spec

    checkpoint_files(location, name)
    try:
        return read_spec(Path(location.path))["model"]
    except FirstsightError as error:
        raise RequestError(f"{name}: {error}") from error


def _check_branch(step: Step, stage: Midtrain | Finetune, site: Site) -> None:
    """A branch finds in its donor's checkpoint what it carries on, and reads by the donor's tokens."""
    trunk = step.parent("trunk")
    if trunk is None or trunk.donor_model is None:
        return
    name, place = trunk.spec.name, Path(site.sources[trunk.spec.name].path)
    if isinstance(stage, Midtrain) and stage.moments == "carried" and not any(place.glob("optimizer*.safetensors")):
        raise RequestError(
            f"{step.slug}: wanted optimizer.safetensors in {place}, since the branch carries its donor's moments. Got "
            f'none. Say moments="fresh" in the study, or import {name} with its optimizer file.'
        )
    if isinstance(stage.tokenizer, External):
        own = tokenizer_file(site.sources[stage.tokenizer.name], stage.tokenizer.name)
        ours, theirs = _ids(own), _ids(place / "tokenizer.json")
        moved = sorted((number, word) for word, number in theirs.items() if ours.get(word) != number)
        if moved:
            number, word = moved[0]
            raise RequestError(
                f"{stage.tokenizer.name}: wanted the tokens of {name} under their own numbers. Got {len(moved):,} of "
                f"{len(theirs):,} under others, first {word!r}: {number} there, {ours.get(word, 'none')} here. "
                "Name the donor's tokenizer, or one that only adds tokens at its end."
            )


def _ids(file: Path) -> dict[str, int]:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(file)).get_vocab(with_added_tokens=True)


def tokenizer_size(location: Location, name: str) -> int:
    """Tokens of the tokenizer at a location, the marks of dialogues included."""
    from firstsight.data import tokenizer

    try:
        return tokenizer.load_tokenizer(tokenizer_file(location, name).parent).vocab_size
    except DataError as error:
        raise RequestError(str(error)) from error


def disagreement(tower: TowerSpec, location: Location, name: str) -> str:
    """In what an encoder's configuration is not the tower that a recipe describes; empty where it is."""
    told, vit = _tower(location, name), tower.vit
    wanted: dict[str, Any] = {
        "num_hidden_layers": vit.layers,
        "hidden_size": vit.width,
        "num_attention_heads": vit.heads,
        "patch_size": vit.patch_size,
    }
    if isinstance(tower, Dinov2):
        kinds = ("dinov2_with_registers",) if tower.registers else ("dinov2",)
        wanted |= {
            "image_size": tower.position_grid_size * vit.patch_size,
            "mlp_ratio": vit.mlp_width / vit.width,
            "use_swiglu_ffn": False,
        }
        wanted |= {"num_register_tokens": tower.registers} if tower.registers else {}
    else:
        kinds = _SIGLIPS
        wanted |= {"image_size": vit.image_size, "intermediate_size": vit.mlp_width}
    if told["model_type"] not in kinds:
        return f"wanted model_type {' or '.join(kinds)}, got {told['model_type']}"
    return "; ".join(f"wanted {key} {value}, got {told[key]}" for key, value in wanted.items() if told[key] != value)


def _tower(location: Location, name: str) -> dict[str, Any]:
    """An encoder's configuration with what it leaves unsaid; SigLIP's whole model says it of its vision part."""
    weight_files(location, name)
    config = json.loads((Path(location.path) / "config.json").read_text())
    kind = str(config.get("model_type"))
    return {**_USUAL.get(kind, _SIGLIP), **config.get("vision_config", config), "model_type": kind}


def examine_sources(site: Site, out: Path) -> Iterator[Finding]:
    """A line for each source of the site file, and one for the room that preparing them takes."""
    done, waiting = prepared_names(out), 0
    for name, location in site.sources.items():
        if gone := absent(location):
            advice = "Mount the disk, or mend the path in the site file."
            yield Finding(what=name, found=f"nothing at {', '.join(gone)}", state="missing", advice=advice)
            continue
        try:
            here = _downloaded(location) if on_hub(location) else location
            finding, size = _looked(name, here, prepared=name in done) if here else (_waits(name, location), 0)
        except FirstsightError as error:
            finding, size = Finding(what=name, found=location.path, state="missing", advice=str(error)), 0
        waiting += size
        yield finding
    if waiting:
        yield _room(waiting, out)


def _looked(name: str, location: Location, *, prepared: bool) -> tuple[Finding, int]:
    """What lies at a place, and the bytes that preparing it will take."""
    form = _published().get(name) or recognised(name, location)
    if form == "tokenizer":
        return _tokenizer(name, location), 0
    if form == "encoder":
        return _encoder(name, location), 0
    if form == "checkpoint":
        return _checkpoint(name, location), 0
    if form == "benchmarks":
        tasks = sorted(folder.name for folder in Path(location.path).iterdir() if folder.is_dir())
        return Finding(what=name, found=f"benchmarks: {', '.join(tasks)}", state="ok"), 0
    from firstsight.data.readers import list_shards

    found = list_shards(location, form)
    whole = {one.name: one.size for one in found}
    many, state = "s" * (len(whole) != 1), "" if prepared else "not "
    told = f"{form}: {len(whole):,} shard{many}, {format_bytes(sum(whole.values()))}, {state}prepared"
    advice = "" if prepared else f"firstsight prepare {name} --tokenizer ..., or leave it to run."
    stored = 0 if prepared else sum(round(size * _grows(shard, form)) for shard, size in whole.items())
    return Finding(what=name, found=told, state="ok", advice=advice), stored


def _tokenizer(name: str, location: Location) -> Finding:
    size, most = tokenizer_size(location, name), paper.paper_1b().base.pretrain.model.vocab_size
    fits = size <= most
    advice = "" if fits else f"The scales 79m to 7b have room for {most:,}: give your models a larger vocabulary."
    return Finding(what=name, found=f"tokenizer: {size:,} tokens", state="ok" if fits else "note", advice=advice)


def _encoder(name: str, location: Location) -> Finding:
    told = _tower(location, name)
    shape = f"{told['num_hidden_layers']} layers, width {told['hidden_size']}, image {told['image_size']}"
    differs = disagreement(paper.PAPER_ENCODER, location, name) if told["model_type"] in _SIGLIPS else ""
    advice = f"The scales 79m to 7b: {differs}. Give your recipe a Vit of this shape." if differs else ""
    found = f"encoder: {shape}, patch {told['patch_size']}"
    return Finding(what=name, found=found, state="note" if differs else "ok", advice=advice)


def _checkpoint(name: str, location: Location) -> Finding:
    model, moments = held(location, name), any(Path(location.path).glob("optimizer*.safetensors"))
    lm = model.lm if isinstance(model, VLMSpec) else model
    shape = f"{lm.layers} layers, width {lm.width}, vocabulary {lm.vocab_size:,}"
    what = "that sees" if isinstance(model, VLMSpec) else f"{'with' if moments else 'without'} moments"
    advice = "" if moments else 'Branches from it say moments="fresh".'
    return Finding(what=name, found=f"checkpoint: {shape}, {what}", state="ok", advice=advice)


def _downloaded(location: Location) -> Location | None:
    """The local folder of a repository of the hub, if it was ever brought here; asks nobody."""
    from huggingface_hub import errors, snapshot_download

    name, _, revision = location.path.partition("://")[2].partition("@")
    try:
        return replace(location, path=snapshot_download(name, revision=revision or None, local_files_only=True))
    except errors.LocalEntryNotFoundError:
        return None
    except errors.HFValidationError as error:
        raise RequestError(f"wanted hf://OWNER/NAME or hf://OWNER/NAME@REVISION. Got {location.path}.") from error


def _waits(name: str, location: Location) -> Finding:
    advice = "The first run that needs it downloads its configuration, tokenizer and tensors. Without a network: "
    advice += "download it elsewhere, and let path name the folder."
    return Finding(what=name, found=f"{location.path}: not on this machine yet", state="ok", advice=advice)


def _published() -> dict[str, ExternalForm]:
    """The forms of the sources that the paper's scales name."""
    named = (one.external if isinstance(one, Recaptioned) else one for one in vars(paper).values())
    every = (*named, paper.PAPER_ENCODER.weights, paper.PAPER_EVALUATION.benchmarks)
    return {one.name: one.form for one in every if isinstance(one, External)}


def recognised(name: str, location: Location) -> ExternalForm:
    """What lies at a location, by its files and its first record; RequestError where nothing reads it."""
    place = Path(location.path)
    if (place / "spec.json").is_file():
        return "checkpoint"
    config = place / "config.json"
    if config.is_file() and json.loads(config.read_text()).get("model_type") in _USUAL:
        return "encoder"
    if place.name == "tokenizer.json" or (place / "tokenizer.json").is_file():
        return "tokenizer"
    if any((place / task).is_dir() for task in (*VISION_TASKS, *paper.PAPER_TEXT_TASKS)):
        return "benchmarks"
    for form in _PEEKED:
        if _reads(name, location, form):
            return form
    raise RequestError(
        f"Got nothing that is read as {', '.join(DATA)}, a tokenizer, an encoder, a checkpoint or benchmarks."
    )


def _reads(name: str, location: Location, form: ExternalForm) -> bool:
    """Whether the first record of a location reads in that form."""
    from firstsight.data.readers import RecordReader, list_shards
    from firstsight.data.records import RejectedRecord

    source = External(name=name, form=form, tokens=Tokens(0))
    try:
        first = next(iter(RecordReader(location, form, source=source).read(list_shards(location, form)[0])), None)
    except DataError:
        return False
    return first is not None and not isinstance(first, RejectedRecord)


def _grows(shard: str, form: ExternalForm) -> float:
    """Bytes that preparing leaves for each byte of a shard, estimated: 3 a token of 4 letters; pictures stay."""
    if form in ("captions", "dialogues"):
        return 0.05 if form == "captions" else 0.75
    return 2.25 if shard.endswith((".zst", ".gz", ".parquet")) else 0.75


def _room(wanted: int, out: Path) -> Finding:
    there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    enough = free > wanted
    found = f"about {format_bytes(wanted)} for what is not prepared, {format_bytes(free)} free"
    advice = "" if enough else "Make room, or choose another disk with --out."
    return Finding(what="token store", found=found, state="ok" if enough else "note", advice=advice)
