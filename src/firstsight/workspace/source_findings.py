"""What `doctor` reports about each source of the site file: its form, its size, and what is missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from firstsight.errors import DataError, FirstsightError, RequestError
from firstsight.recipe.mixture import External, ExternalForm, Recaptioned
from firstsight.recipe.model import VLMSpec
from firstsight.recipe.scales import paper
from firstsight.recipe.scales.base import VISION_TASKS
from firstsight.recipe.serialize import from_json
from firstsight.site import Location, Site
from firstsight.units import Tokens, format_bytes
from firstsight.workspace.check_models import (
    ENCODER_DEFAULTS,
    SIGLIP_TYPES,
    checkpoint_model,
    encoder_config,
    encoder_mismatch,
    tokenizer_size,
)
from firstsight.workspace.prepare import published_sources
from firstsight.workspace.sources import RECORD_FORMS, is_hub_model, missing_paths

FindingState = Literal["ok", "note", "missing"]

FORMS_TO_TRY: tuple[ExternalForm, ...] = ("captions", "interleaved", "dialogues", "text")
"""The order in which forms are tried on data whose form is not declared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was checked on this machine."""

    topic: str
    value: str
    state: FindingState
    """`note`: works, with restrictions; `missing`: firstsight cannot run without it."""
    advice: str = ""


def check_finding(topic: str, value: str, *, ok: bool, advice: str, otherwise: FindingState = "note") -> Finding:
    """`ok` where a condition is met; else another state, with advice."""
    return Finding(topic=topic, value=value, state="ok" if ok else otherwise, advice="" if ok else advice)


def source_findings(site: Site, out: Path) -> Iterator[Finding]:
    """A finding for each source of the site file, and one for the disk space that preparing them takes."""
    prepared, unprepared_bytes = prepared_names(out), 0
    for name, location in site.sources.items():
        if paths := missing_paths(location):
            advice = "Mount the disk, or correct the path in the site file."
            yield Finding(topic=name, value=f"nothing at {', '.join(paths)}", state="missing", advice=advice)
            continue
        try:
            local = _downloaded(location) if is_hub_model(location) else location
            if local is None:
                yield _not_downloaded(name, location)
                continue
            finding, size = _source_finding(name, local, is_prepared=name in prepared)
            unprepared_bytes += size
            yield finding
        except FirstsightError as error:
            yield Finding(topic=name, value=location.path, state="missing", advice=str(error))
    if unprepared_bytes:
        yield _disk_space(unprepared_bytes, out)


def prepared_names(out: Path) -> set[str]:
    """The names of the sources that are prepared under `out`."""
    names: set[str] = set()
    for record in (out / "sources").glob("*/read.json"):
        if (record.parent / "manifest.json").is_file():
            source = from_json(json.loads(record.read_text())["source"])
            names.add(source.external.name if isinstance(source, Recaptioned) else source.name)
    return names


def _source_finding(name: str, location: Location, *, is_prepared: bool) -> tuple[Finding, int]:
    """What is at a location, and the bytes that preparing it will take."""
    forms: dict[str, ExternalForm] = {source.name: source.form for source in published_sources()}
    form = forms.get(name) or detect_form(name, location)
    match form:
        case "tokenizer":
            return _tokenizer(name, location), 0
        case "encoder":
            return _encoder(name, location), 0
        case "checkpoint":
            return _checkpoint(name, location), 0
        case "benchmarks":
            tasks = sorted(folder.name for folder in Path(location.path).iterdir() if folder.is_dir())
            return Finding(topic=name, value=f"benchmarks: {', '.join(tasks)}", state="ok"), 0
        case _:
            return _records(name, location, form, is_prepared=is_prepared)


def _records(name: str, location: Location, form: ExternalForm, *, is_prepared: bool) -> tuple[Finding, int]:
    from firstsight.data.readers import list_shards

    sizes = {shard.name: shard.size for shard in list_shards(location, form)}
    shards = f"{len(sizes):,} shard{'s' * (len(sizes) != 1)}, {format_bytes(sum(sizes.values()))}"
    value = f"{form}: {shards}, {'' if is_prepared else 'not '}prepared"
    if is_prepared:
        return Finding(topic=name, value=value, state="ok"), 0
    advice = f"firstsight prepare {name} --tokenizer ..., or leave it to run."
    needed = sum(round(size * _prepared_fraction(shard, form)) for shard, size in sizes.items())
    return Finding(topic=name, value=value, state="ok", advice=advice), needed


def _tokenizer(name: str, location: Location) -> Finding:
    size, vocab_size = tokenizer_size(location, name), paper.paper_1b().base.pretrain.model.vocab_size
    advice = f"The scales 79m to 7b have room for {vocab_size:,}: give your models a larger vocabulary."
    return check_finding(name, f"tokenizer: {size:,} tokens", ok=size <= vocab_size, advice=advice)


def _encoder(name: str, location: Location) -> Finding:
    config = encoder_config(location, name)
    shape = f"{config['num_hidden_layers']} layers, width {config['hidden_size']}, image {config['image_size']}"
    is_siglip = config["model_type"] in SIGLIP_TYPES
    mismatch = encoder_mismatch(paper.PAPER_ENCODER, location, name) if is_siglip else ""
    advice = f"The scales 79m to 7b: {mismatch}. Give your recipe a Vit of this shape."
    return check_finding(name, f"encoder: {shape}, patch {config['patch_size']}", ok=not mismatch, advice=advice)


def _checkpoint(name: str, location: Location) -> Finding:
    model, has_moments = checkpoint_model(location, name), any(Path(location.path).glob("optimizer*.safetensors"))
    lm = model.lm if isinstance(model, VLMSpec) else model
    moments = "with moments" if has_moments else "without moments"
    kind = "a vision-language model" if isinstance(model, VLMSpec) else moments
    value = f"checkpoint: {lm.layers} layers, width {lm.width}, vocabulary {lm.vocab_size:,}, {kind}"
    advice = "" if has_moments else 'Branches from it need moments="fresh".'
    return Finding(topic=name, value=value, state="ok", advice=advice)


def _downloaded(location: Location) -> Location | None:
    """The local folder of a hub repository, None if it was never downloaded; uses no network."""
    from huggingface_hub import errors, snapshot_download

    name, _, revision = location.path.partition("://")[2].partition("@")
    try:
        return replace(location, path=snapshot_download(name, revision=revision or None, local_files_only=True))
    except errors.LocalEntryNotFoundError:
        return None
    except errors.HFValidationError as error:
        raise RequestError(f"wanted hf://OWNER/NAME or hf://OWNER/NAME@REVISION. Got {location.path}.") from error


def _not_downloaded(name: str, location: Location) -> Finding:
    advice = (
        "The first run that needs it downloads its configuration, tokenizer and tensors. Without a network: "
        "download it elsewhere, and let path name the folder."
    )
    return Finding(topic=name, value=f"{location.path}: not on this machine yet", state="ok", advice=advice)


def detect_form(name: str, location: Location) -> ExternalForm:
    """The form of a source, from its files and its first record; RequestError where no reader reads it."""
    path = Path(location.path)
    config = path / "config.json"
    if (path / "spec.json").is_file():
        return "checkpoint"
    if config.is_file() and json.loads(config.read_text()).get("model_type") in ENCODER_DEFAULTS:
        return "encoder"
    if path.name == "tokenizer.json" or (path / "tokenizer.json").is_file():
        return "tokenizer"
    if any((path / task).is_dir() for task in (*VISION_TASKS, *paper.PAPER_TEXT_TASKS)):
        return "benchmarks"
    for form in FORMS_TO_TRY:
        if _has_form(name, location, form):
            return form
    raise RequestError(
        f"Got nothing that is read as {', '.join(RECORD_FORMS)}, a tokenizer, an encoder, a checkpoint or benchmarks."
    )


def _has_form(name: str, location: Location, form: ExternalForm) -> bool:
    """Whether the first record at a location is read in that form."""
    from firstsight.data.readers import RecordReader, list_shards
    from firstsight.data.records import RejectedRecord

    source = External(name=name, form=form, tokens=Tokens(0))
    try:
        reader = RecordReader(location, form, source=source)
        record = next(iter(reader.read(list_shards(location, form)[0])), None)
    except DataError:
        return False
    return record is not None and not isinstance(record, RejectedRecord)


def _prepared_fraction(shard: str, form: ExternalForm) -> float:
    """Estimated bytes of a prepared index for each byte of a shard: 3 a token of 4 letters; images are not copied."""
    if form in ("captions", "dialogues"):
        return 0.05 if form == "captions" else 0.75
    return 2.25 if shard.endswith((".zst", ".gz", ".parquet")) else 0.75


def existing_parent(path: Path) -> Path:
    """The path itself, or its nearest parent that exists."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


def _disk_space(needed: int, out: Path) -> Finding:
    free = shutil.disk_usage(existing_parent(out)).free
    value = f"about {format_bytes(needed)} for what is not prepared, {format_bytes(free)} free"
    advice = "Make room, or choose another disk with --out."
    return check_finding("token store", value, ok=free > needed, advice=advice)
