"""Whether what lies at the user's places fits: tokenizer and encoder to the models, all else to its form."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from firstsight.cli.data.content import prepared_names, tokenizer_file, weight_files
from firstsight.cli.data.naming import DATA, absent
from firstsight.cli.doctor import Finding
from firstsight.errors import DataError, FirstsightError, RequestError
from firstsight.plan.step import Step
from firstsight.recipe.lm import LMSpec
from firstsight.recipe.mix import Form, Named, Recaptioned
from firstsight.recipe.model import VLMSpec
from firstsight.recipe.scales import paper
from firstsight.recipe.scales.base import VISION_TASKS
from firstsight.recipe.stages import Finetune, Midtrain, Segment
from firstsight.recipe.vision import Siglip, Vit
from firstsight.site import Location, Site
from firstsight.units import Tokens, in_bytes

_USUAL = {"num_hidden_layers": 12, "hidden_size": 768, "image_size": 224, "patch_size": 16}
"""What a SigLIP's configuration means where it does not say, as in transformers."""
_PEEKED: tuple[Form, ...] = ("captions", "interleaved", "dialogues", "text")
"""Forms in the order in which they are tried on data whose form nobody tells."""


def check_models(steps: Iterable[Step], site: Site) -> None:
    """Raise RequestError where a named tokenizer or encoder does not fit the models that a plan trains."""
    for step in steps:
        match step.spec:
            case Segment() as segment:
                _check_tokenizer(segment.pretrain.tokenizer, segment.pretrain.model, site)
            case Midtrain() | Finetune() as stage:
                _check_tokenizer(stage.tokenizer, stage.model.lm, site)
                _check_encoder(stage.model, site)
            case _:
                pass


def _check_tokenizer(tokenizer: object, model: LMSpec, site: Site) -> None:
    if not isinstance(tokenizer, Named):
        return
    size = tokenizer_size(site.sources[tokenizer.name], tokenizer.name)
    if size > model.vocabulary:
        raise RequestError(
            f"{tokenizer.name}: wanted at most {model.vocabulary:,} tokens, the vocabulary of the model. "
            f"Got {size:,}. Give the model a larger vocabulary, or name another tokenizer."
        )


def _check_encoder(model: VLMSpec, site: Site) -> None:
    vision = model.vision
    if isinstance(vision, Siglip) and isinstance(vision.weights, Named):
        location = site.sources[vision.weights.name]
        if differs := disagreement(vision.vit, location, vision.weights.name):
            raise RequestError(
                f"{vision.weights.name}: {differs}, says {location.path}/config.json. Name the encoder that the recipe "
                "means, or give the recipe this one's shape."
            )


def tokenizer_size(location: Location, name: str) -> int:
    """Tokens of the tokenizer at a location, the marks of dialogues included."""
    from firstsight.data import tokenizer

    try:
        return tokenizer.load(tokenizer_file(location, name).parent).size
    except DataError as error:
        raise RequestError(str(error)) from error


def disagreement(vit: Vit, location: Location, name: str) -> str:
    """In what an encoder's configuration is not the tower that a recipe describes; empty where it is."""
    told = _tower(location, name)
    wanted = dict(zip(_USUAL, (vit.layers, vit.width, vit.image, vit.patch), strict=True))
    words = [f"wanted {key} {value}, got {told[key]}" for key, value in wanted.items() if told[key] != value]
    return "; ".join(words)


def _tower(location: Location, name: str) -> dict[str, Any]:
    weight_files(location, name)
    config = json.loads((Path(location.path) / "config.json").read_text())
    return {**_USUAL, **config.get("vision_config", config)}


def examine_sources(site: Site, out: Path) -> Iterator[Finding]:
    """A line for each source of the site file, and one for the room that preparing them takes."""
    done, waiting = prepared_names(out), 0
    for name, location in site.sources.items():
        if gone := absent(location):
            advice = "Mount the disk, or mend the path in the site file."
            yield Finding(what=name, found=f"nothing at {', '.join(gone)}", state="missing", advice=advice)
            continue
        try:
            finding, size = _looked(name, location, prepared=name in done)
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
    if form == "benchmarks":
        tasks = sorted(folder.name for folder in Path(location.path).iterdir() if folder.is_dir())
        return Finding(what=name, found=f"benchmarks: {', '.join(tasks)}", state="ok"), 0
    from firstsight.data.sources import shards

    found = shards(location, form)
    whole = {one.name: one.size for one in found}
    many, state = "s" * (len(whole) != 1), "" if prepared else "not "
    told = f"{form}: {len(whole):,} shard{many}, {in_bytes(sum(whole.values()))}, {state}prepared"
    advice = "" if prepared else f"firstsight prepare {name} --tokenizer ..., or leave it to run."
    stored = 0 if prepared else sum(round(size * _grows(shard, form)) for shard, size in whole.items())
    return Finding(what=name, found=told, state="ok", advice=advice), stored


def _tokenizer(name: str, location: Location) -> Finding:
    size, most = tokenizer_size(location, name), paper.paper_1b().base.pretrain.model.vocabulary
    fits = size <= most
    advice = "" if fits else f"The scales 79m to 7b have room for {most:,}: give your models a larger vocabulary."
    return Finding(what=name, found=f"tokenizer: {size:,} tokens", state="ok" if fits else "note", advice=advice)


def _encoder(name: str, location: Location) -> Finding:
    told = _tower(location, name)
    shape = f"{told['num_hidden_layers']} layers, width {told['hidden_size']}, image {told['image_size']}"
    differs = disagreement(paper.SIGLIP.vit, location, name)
    advice = f"The scales 79m to 7b: {differs}. Give your recipe a Vit of this shape." if differs else ""
    found = f"encoder: {shape}, patch {told['patch_size']}"
    return Finding(what=name, found=found, state="note" if differs else "ok", advice=advice)


def _published() -> dict[str, Form]:
    """The forms of the sources that the paper's scales name."""
    named = (one.named if isinstance(one, Recaptioned) else one for one in vars(paper).values())
    every = (*named, paper.SIGLIP.weights, paper.JUDGE.benchmarks)
    return {one.name: one.form for one in every if isinstance(one, Named)}


def recognised(name: str, location: Location) -> Form:
    """What lies at a location, by its files and its first record; RequestError where nothing reads it."""
    place = Path(location.path)
    if place.name == "tokenizer.json" or (place / "tokenizer.json").is_file():
        return "tokenizer"
    if (place / "config.json").is_file():
        return "encoder"
    if any((place / task).is_dir() for task in (*VISION_TASKS, *paper.PAPER_TEXT_TASKS)):
        return "benchmarks"
    for form in _PEEKED:
        if _reads(name, location, form):
            return form
    raise RequestError(f"Got nothing that is read as {', '.join(DATA)}, a tokenizer, an encoder or benchmarks.")


def _reads(name: str, location: Location, form: Form) -> bool:
    """Whether the first record of a location reads in that form."""
    from firstsight.data.records import Bad
    from firstsight.data.sources import Reader, shards

    source = Named(name=name, form=form, tokens=Tokens(0))
    try:
        first = next(iter(Reader(location, form, source=source).read(shards(location, form)[0])), None)
    except DataError:
        return False
    return first is not None and not isinstance(first, Bad)


def _grows(shard: str, form: Form) -> float:
    """Bytes that preparing leaves for each byte of a shard, estimated: 3 a token of 4 letters; pictures stay."""
    if form in ("captions", "dialogues"):
        return 0.05 if form == "captions" else 0.75
    return 2.25 if shard.endswith((".zst", ".gz", ".parquet")) else 0.75


def _room(wanted: int, out: Path) -> Finding:
    there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    enough = free > wanted
    found = f"about {in_bytes(wanted)} for what is not prepared, {in_bytes(free)} free"
    advice = "" if enough else "Make room, or choose another disk with --out."
    return Finding(what="token store", found=found, state="ok" if enough else "note", advice=advice)
