"""What `doctor` reports: the state of this machine and of each source, what is missing, and what to do."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from firstsight.errors import DataError, FirstsightError, MissingPackage, RequestError, describe_error
from firstsight.limits import read_settings
from firstsight.recipe.mixture import External, ExternalForm, Recaptioned, base_source
from firstsight.recipe.model import VLMSpec
from firstsight.recipe.scales import paper
from firstsight.recipe.scales.base import VISION_TASKS
from firstsight.recipe.serialize import from_json
from firstsight.site import Location, Site
from firstsight.units import Tokens, format_bytes
from firstsight.workspace import check_models
from firstsight.workspace.prepare import published_sources
from firstsight.workspace.sources import RECORD_FORMS, current_site, find_site_file, is_hub_model, missing_paths

FindingState = Literal["ok", "note", "missing"]

GB = 10**9
EXTRAS = {
    "lm_eval": ("eval", "text tasks at the paper's scale"),
    "s3fs": ("s3", "data on s3://"),
    "submitit": ("slurm", "steps as jobs of SLURM"),
    "ray": ("ray", "steps on a Ray cluster"),
}
"""Optional modules: the extra that installs each, and what it is for."""
FORMS_TO_TRY: tuple[ExternalForm, ...] = ("captions", "interleaved", "dialogues", "text")
"""The order in which forms are tried on data whose form is not declared."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked on this machine."""

    topic: str
    value: str
    state: FindingState = "ok"
    """`note`: works, with restrictions; `missing`: firstsight cannot run without it."""
    advice: str = ""


def check_finding(topic: str, value: str, *, ok: bool, advice: str, otherwise: FindingState = "note") -> Finding:
    """`ok` where a condition is met; else another state, with advice."""
    return Finding(topic, value) if ok else Finding(topic, value, otherwise, advice)


def missing_package(error: ModuleNotFoundError) -> MissingPackage | None:
    """The error that names the extra to install; None where the module belongs to none."""
    module = (error.name or "").partition(".")[0]
    if module not in EXTRAS:
        return None
    extra, use = EXTRAS[module]
    return MissingPackage(f"{module} is not installed; it is for {use}. Install it: pip install 'firstsight[{extra}]'")


def machine_findings(out: Path) -> Iterator[Finding]:
    """A finding for everything that a run with results under `out` depends on."""
    yield from _packages()
    yield from _hardware()
    yield Finding("OMP_WAIT_POLICY", os.environ.get("OMP_WAIT_POLICY", "unset"), advice="Workers get PASSIVE.")
    yield _disk(out)
    yield from _site_findings(out)
    for module, (extra, use) in EXTRAS.items():
        is_installed = find_spec(module) is not None
        advice = f"For {use}." if is_installed else f"For {use}: pip install 'firstsight[{extra}]'"
        yield Finding(f"[{extra}]", module if is_installed else "not installed", advice=advice)


def _packages() -> Iterator[Finding]:
    advice, is_supported = "Install Python 3.11 or newer and create the environment again.", sys.version_info >= (3, 11)
    yield check_finding("Python", platform.python_version(), ok=is_supported, advice=advice, otherwise="missing")
    requirements = requires("firstsight") or [] if _version("firstsight") else []
    names = [re.split(r"[<>=!~;\[ ]", line)[0] for line in requirements if "extra ==" not in line]
    absent = [name for name in names if _version(name) is None]
    value = f"{len(names) - len(absent)} of {len(names)}" + (f", without {', '.join(absent)}" if absent else "")
    yield check_finding("packages", value, ok=not absent, advice=f"pip install {' '.join(absent)}", otherwise="missing")
    torch, advice = _version("torch"), "pip install 'torch>=2.9,<2.14'"
    yield check_finding("torch", torch or "none", ok=torch is not None, advice=advice, otherwise="missing")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _hardware() -> Iterator[Finding]:
    if find_spec("torch") is None:
        yield Finding("device", "unknown without torch", "note")
    else:
        import torch

        if torch.cuda.is_available():
            yield Finding("device", f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}")
        else:
            yield Finding("device", "cpu", advice="Enough for the scales smoke and cpu.")
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    advice = "apt-get install g++. Without it blocks are not compiled and training is slower."
    yield check_finding("C++ compiler", compiler or "none", ok=compiler is not None, advice=advice)
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    advice = "apt-get install python3-dev. torch.compile needs it; without it training is slower."
    yield check_finding("Python.h", str(header) if header.is_file() else "none", ok=header.is_file(), advice=advice)
    cores = len(os.sched_getaffinity(0))
    yield check_finding("cores", str(cores), ok=cores > 1, advice="Steps run one after the other.")
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    advice = f"A worker takes up to 2 GB: use --jobs {max(1, size // (2 * GB))}."
    yield check_finding("memory", f"{size / GB:.1f} GB", ok=size >= 2 * GB * cores, advice=advice)


def _disk(out: Path) -> Finding:
    folder = _existing_parent(out)
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return Finding("disk", f"{out} cannot be written", "missing", "Choose another folder with --out.")
    free = shutil.disk_usage(folder).free
    advice = "The study at cpu scale stores up to 2 GB."
    return check_finding("disk", f"{free / GB:.0f} GB free at {folder}", ok=free > 2 * GB, advice=advice)


def _existing_parent(path: Path) -> Path:
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


def _site_findings(out: Path) -> Iterator[Finding]:
    path = find_site_file()
    if path is None:
        advice = "Only for data of your own: see 'Use your own data' in the documentation."
        yield Finding("site file", "none", advice=advice)
        return
    try:
        site = current_site()
    except RequestError as error:
        yield Finding("site file", str(path), "missing", str(error))
        return
    yield Finding("site file", f"{path}: {len(site.sources)} sources")
    yield from _source_findings(site, out)


def _source_findings(site: Site, out: Path) -> Iterator[Finding]:
    """A finding for each source of the site file, and one for the disk space needed to prepare them."""
    prepared, needed = prepared_names(out), 0
    for name, location in site.sources.items():
        try:
            if paths := missing_paths(location):
                advice = "Mount the disk, or correct the path in the site file."
                yield Finding(name, f"nothing at {', '.join(paths)}", "missing", advice)
                continue
            finding, size = _source_finding(name, location, is_prepared=name in prepared)
            needed += size
            yield finding
        except (FirstsightError, OSError) as error:
            yield Finding(name, location.path, "missing", describe_error(error))
    if needed:
        free = shutil.disk_usage(_existing_parent(out)).free
        value = f"about {format_bytes(needed)} for sources not yet prepared, {format_bytes(free)} free"
        advice = "Free disk space, or choose another disk with --out."
        yield check_finding("token store", value, ok=free > needed, advice=advice)


def prepared_names(out: Path) -> set[str]:
    """The names of the sources that are prepared under `out`."""
    records = [file for file in (out / "sources").glob("*/read.json") if (file.parent / "manifest.json").is_file()]
    sources: list[External | Recaptioned] = [from_json(json.loads(file.read_text())["source"]) for file in records]
    return {base_source(source).name for source in sources}


def _source_finding(name: str, location: Location, *, is_prepared: bool) -> tuple[Finding, int]:
    local = _downloaded(location)
    if local is None:
        advice = "A run that needs it downloads it. Without a network: download it elsewhere, set path to that folder."
        return Finding(name, f"{location.path}: not on this machine yet", advice=advice), 0
    form = {source.name: source.form for source in published_sources()}.get(name) or detect_form(name, local)
    if form == "benchmarks":
        tasks = sorted(folder.name for folder in Path(local.path).iterdir() if folder.is_dir())
        return Finding(name, f"benchmarks: {', '.join(tasks)}"), 0
    if form in RECORD_FORMS:
        return _records(name, local, form, is_prepared=is_prepared)
    finders = {"tokenizer": _tokenizer, "encoder": _encoder, "checkpoint": _checkpoint, "model": _model}
    return finders[form](name, local), 0


def _records(name: str, location: Location, form: ExternalForm, *, is_prepared: bool) -> tuple[Finding, int]:
    from firstsight.data.readers import list_source

    listing = list_source(location, form)
    sizes = {shard.name: shard.size for shard in listing.shards}
    unread = [f"{count:,} not read ({reason})" for reason, (count, _) in listing.notices.entries.items()]
    value = f"{form}: {len(sizes):,} shard{'s' * (len(sizes) != 1)}, {format_bytes(sum(sizes.values()))}"
    value = ", ".join([value, *unread])
    if is_prepared:
        return Finding(name, f"{value}, prepared"), 0
    advice = f"firstsight prepare {name} --tokenizer ..., or leave it to run."
    needed = sum(round(size * _prepared_fraction(shard, form)) for shard, size in sizes.items())
    return Finding(name, f"{value}, not prepared", advice=advice), needed


def _tokenizer(name: str, location: Location) -> Finding:
    size = check_models.tokenizer_size(location, name)
    vocab_size = paper.paper_scale("1b").base.stages[0].model.lm.vocab_size
    advice = f"The scales 79m to 7b have room for {vocab_size:,}: give your models a larger vocabulary."
    return check_finding(name, f"tokenizer: {size:,} tokens", ok=size <= vocab_size, advice=advice)


def _encoder(name: str, location: Location) -> Finding:
    config, mismatch = check_models.encoder_config(location, name), ""
    shape = f"{config['num_hidden_layers']} layers, width {config['hidden_size']}, image {config['image_size']}"
    if config["model_type"] in check_models.SIGLIP_TYPES:
        mismatch = check_models.encoder_mismatch(paper.PAPER_ENCODER, location, name)
    advice = f"The scales 79m to 7b: {mismatch}. Use a ViTSpec of this shape in the recipe."
    return check_finding(name, f"encoder: {shape}, patch {config['patch_size']}", ok=not mismatch, advice=advice)


def _checkpoint(name: str, location: Location) -> Finding:
    model = check_models.checkpoint_model(location, name)
    has_moments = any(Path(location.path).glob("optimizer*.safetensors"))
    moments = "with moments" if has_moments else "without moments"
    lm, kind = (model.lm, "a vision-language model") if isinstance(model, VLMSpec) else (model, moments)
    value = f"checkpoint: {lm.layers} layers, width {lm.width}, vocabulary {lm.vocab_size:,}, {kind}"
    return Finding(name, value, advice="" if has_moments else 'Branches from it need moments="fresh".')


def _model(name: str, location: Location) -> Finding:
    return Finding(name, f"model of others: {read_settings(Path(location.path) / 'config.json').get('model_type')}")


def _downloaded(location: Location) -> Location | None:
    """A location, of a hub repository its local folder, None if it was never downloaded; uses no network."""
    if not is_hub_model(location):
        return location
    from huggingface_hub import errors, snapshot_download

    name, _, revision = location.path.partition("://")[2].partition("@")
    try:
        return replace(location, path=snapshot_download(name, revision=revision or None, local_files_only=True))
    except errors.LocalEntryNotFoundError:
        return None
    except errors.HFValidationError as error:
        raise RequestError(f"wanted hf://OWNER/NAME or hf://OWNER/NAME@REVISION. Got {location.path}.") from error


def detect_form(name: str, location: Location) -> ExternalForm:
    """The form of a source, from its files and its first record; RequestError where no reader reads it."""
    path = Path(location.path)
    config = path / "config.json"
    if (path / "spec.json").is_file():
        return "checkpoint"
    if config.is_file() and read_settings(config).get("model_type") in check_models.ENCODER_DEFAULTS:
        return "encoder"
    if config.is_file() and any(path.glob("*.safetensors")):
        return "model"
    if path.name == "tokenizer.json" or (path / "tokenizer.json").is_file():
        return "tokenizer"
    if any((path / task).is_dir() for task in (*VISION_TASKS, *paper.PAPER_TEXT_TASKS)):
        return "benchmarks"
    from firstsight.data.readers import RecordReader, list_shards
    from firstsight.data.records import RejectedRecord

    for form in FORMS_TO_TRY:
        with suppress(DataError):
            reader = RecordReader(location, form, source=External(name=name, form=form, tokens=Tokens(0)))
            record = next(iter(reader.read(list_shards(location, form)[0])), None)
            if record is not None and not isinstance(record, RejectedRecord):
                return form
    forms = ", ".join(RECORD_FORMS)
    raise RequestError(f"Got nothing that is read as {forms}, a tokenizer, an encoder, a checkpoint or benchmarks.")


def _prepared_fraction(shard: str, form: ExternalForm) -> float:
    """Estimated bytes of a prepared index per byte of a shard: 3 per token of 4 characters; images are not copied."""
    if form == "captions":
        return 0.05
    return 2.25 if form != "dialogues" and shard.endswith((".zst", ".gz", ".parquet")) else 0.75
