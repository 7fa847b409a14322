"""The user's external sources: the site file, paths on this machine, hub downloads, content digests."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from errno import EACCES
from importlib.metadata import version
from pathlib import Path

from firstsight.errors import DataError, ModelError, RequestError
from firstsight.files import FileDigests
from firstsight.hub.download import resolve_hub_path
from firstsight.limits import apply_limits
from firstsight.plan.graph import Graph
from firstsight.plan.scheduler import EXTERNAL_KIND
from firstsight.recipe.mixture import External, ExternalForm
from firstsight.site import Location, Site
from firstsight.site_file import read_site, source_entries_template

SITE_VARIABLE = "FIRSTSIGHT_SITE"
"""The environment variable with the path of the site file."""
RECORD_FORMS: tuple[ExternalForm, ...] = ("text", "captions", "interleaved", "dialogues")
"""Forms of sources that consist of records and are prepared."""
HUB_FORMS = ("tokenizer", "encoder", "checkpoint", "model")
"""Forms that may be a model repository on the Hugging Face hub: `path = "hf://owner/name"`."""
TOKENIZER_SUFFIXES = (".model", ".txt", ".jinja")
"""Suffixes of the files of a model in transformers' layout, besides JSON, that decide which tokens it reads."""
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
"""Suffixes of weight files; the digest of an encoder covers these and the JSON files next to them."""


def current_site(file: Path | None = None) -> Site:
    """This machine's settings: the site file's, over `cuda` where driver and torch support it, else `cpu`.

    `file` is a site file; by default the one of `find_site_file`, if there is one. Its limits apply from now on.
    """
    has_gpu = Path("/dev/nvidiactl").exists() and not version("torch").endswith("+cpu")
    defaults = Site(device="cuda" if has_gpu else "cpu")
    path = file or find_site_file()
    site = defaults if path is None else read_site(path, defaults=defaults)
    apply_limits(site.limits)
    return site


def find_site_file() -> Path | None:
    """$FIRSTSIGHT_SITE, else ./site.toml, else ~/.config/firstsight/site.toml; None where none of them exists."""
    if os.environ.get(SITE_VARIABLE):
        return Path(os.path.expanduser(os.environ[SITE_VARIABLE]))  # noqa: PTH111 - Path fails where there is no home
    paths = ("site.toml", os.path.expanduser("~/.config/firstsight/site.toml"))  # noqa: PTH111
    return next((Path(path) for path in paths if os.path.isfile(path)), None)  # noqa: PTH113 - also without permission


def check_machine(site: Site) -> None:
    """Raise RequestError for a device or a cache of the site file with which no step could run here."""
    torch = version("torch")
    if site.device != "cpu" and torch.endswith("+cpu"):
        advice = 'Install a torch with CUDA, or write device = "cpu" under [machine] in the site file.'
        raise RequestError(f'device = "{site.device}": wanted a torch with GPU support. Got {torch}. {advice}')
    try:
        site.cache.mkdir(parents=True, exist_ok=True)
        if not os.access(site.cache, os.W_OK | os.X_OK):
            raise PermissionError(EACCES, os.strerror(EACCES))
    except OSError as error:
        raise RequestError(
            f"{site.cache}: wanted a folder for the cache that this user can write. Got {error.strerror}. "
            'Write cache = "/another/folder" under [machine] in the site file.'
        ) from error


def external_sources(graph: Graph) -> tuple[External, ...]:
    """Every external source that a graph reads, once each, in the order of its steps."""
    return tuple(dict.fromkeys(step.spec for step in graph.steps if step.kind == EXTERNAL_KIND))


def check_locations(sources: Iterable[External], site: Site) -> None:
    """Raise RequestError with every source that the site file does not list, or whose local path does not exist."""
    forms = {source.name: source.form for source in sources}
    unlisted = {name: form for name, form in forms.items() if name not in site.sources}
    if unlisted:
        raise RequestError(
            f"{', '.join(unlisted)}: wanted a path on this machine for each of these names, got none. "
            f"Nothing was run. Add their paths to the site file:\n\n{source_entries_template(unlisted)}\n\n"
            "or choose a scale with built-in data (smoke, cpu)."
        )
    missing = [f"{name}: {path} does not exist." for name in forms for path in missing_paths(site.sources[name])]
    if missing:
        raise RequestError("\n".join([*missing, "Nothing was run. Correct the site file, or mount the disk."]))


def missing_paths(location: Location) -> list[str]:
    """The local paths of a location that do not exist; of a pattern, the folder before its first wildcard counts."""
    paths = [path for path in (location.path, location.pictures, location.captions) if path and "://" not in path]
    return [path for path in paths if not _without_wildcards(path).exists()]


def _without_wildcards(pattern: str) -> Path:
    return next(path for path in (Path(pattern), *Path(pattern).parents) if not re.search(r"[*?\[{]", str(path)))


def is_hub_model(location: Location) -> bool:
    """Whether a location is a model repository on the Hugging Face hub; hf://datasets/... is read like other URLs."""
    scheme, _, repository = location.path.partition("://")
    return scheme == "hf" and repository.partition("/")[0] not in ("datasets", "spaces", "buckets")


def download_models(sources: Iterable[External], site: Site) -> Site:
    """The site with every tokenizer, encoder and checkpoint among `sources` at a local path, downloaded if necessary.

    Raises RequestError where the hub cannot be reached, a download is not complete, or a data source is located in a
    model repository.
    """
    locations = dict(site.sources)
    for source in sources:
        location = locations.get(source.name)
        if location is None:
            continue
        if source.form in HUB_FORMS:
            path = local_model_path(location.path, needs_weights=source.form != "tokenizer")
            locations[source.name] = replace(location, path=str(path))
        elif is_hub_model(location):
            advice = "Data sets are at hf://datasets/OWNER/NAME; or download it and write its folder in the site file."
            raise RequestError(f"{source.name}: wanted {source.form} at {location.path}. Got a model. {advice}")
    return replace(site, sources=locations)


def local_model_path(location: str, *, needs_weights: bool = True) -> Path:
    """The local path of a tokenizer, an encoder or a checkpoint, downloaded if it is a hub name; else RequestError."""
    with as_request_error():
        return resolve_hub_path(location, needs_weights=needs_weights)


@contextmanager
def as_request_error() -> Iterator[None]:
    """Turn DataError and ModelError into RequestError: what the user named is unusable, and no step has failed."""
    try:
        yield
    except (DataError, ModelError) as error:
        raise RequestError(str(error)) from error


def local_path(source: External, site: Site) -> Path:
    """Where a source is on this machine; a model is downloaded if necessary. RequestError if the site has no path."""
    check_locations([source], site)
    return Path(download_models([source], site).sources[source.name].path)


def tokenizer_file(location: Location, name: str) -> Path:
    """The tokenizer.json of a source: the file itself or in its folder; RequestError where there is none."""
    path = Path(location.path)
    file = path / "tokenizer.json" if path.is_dir() else path
    if file.name != "tokenizer.json" or not file.is_file():
        raise RequestError(f"{name}: wanted a tokenizer.json at {path}. Got none. Write its folder in the site file.")
    return file


def encoder_files(location: Location, name: str) -> list[Path]:
    """Configurations and weights of a folder in Hugging Face layout; RequestError where either is missing."""
    folder = Path(location.path)
    files = [file for file in folder.glob("*") if file.suffix in WEIGHT_SUFFIXES or file.suffix == ".json"]
    if not (folder / "config.json").is_file() or not any(file.suffix in WEIGHT_SUFFIXES for file in files):
        present = f"Got {', '.join(sorted(file.name for file in files)) or 'neither'}. Download the model there."
        raise RequestError(f"{name}: wanted a folder with config.json and weights at {folder}. {present}")
    return files


def checkpoint_files(location: Location, name: str) -> list[Path]:
    """Spec, tokenizer, weights and any optimizer moments of a checkpoint folder; RequestError where it is none."""
    folder = Path(location.path)
    tensors = [*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")]
    configs = [file for file in (folder / "spec.json", folder / "tokenizer.json") if file.is_file()]
    if len(configs) < 2 or not any(file.name.startswith("model") for file in tensors):
        present = ", ".join(sorted(file.name for file in (*configs, *tensors))) or "none of them"
        expected = f"wanted a checkpoint folder with spec.json, tokenizer.json and model.safetensors at {folder}"
        advice = "Write one from public weights with firstsight import."
        raise RequestError(f"{name}: {expected}. Got {present}. {advice}")
    return [*configs, *tensors]


def content_digest(source: External, site: Site, digests: FileDigests) -> str:
    """The digest of a tokenizer, encoder, checkpoint, model or benchmarks folder; RequestError where it is not one.

    Those of models cover weights and the files that configure them, that of a benchmarks folder all files.
    """
    name, location = source.name, site.sources[source.name]
    if source.form == "tokenizer":
        return digests.digest(tokenizer_file(location, name))
    folder = Path(location.path)
    if source.form == "benchmarks":
        files = [file for file in folder.rglob("*") if file.is_file()]
        if not files:
            raise RequestError(f"{name}: wanted a folder with one folder for each task at {folder}. Got no file.")
    else:
        files = (checkpoint_files if source.form == "checkpoint" else encoder_files)(location, name)
    if source.form == "model":
        files += [file for file in folder.glob("*") if file.suffix in TOKENIZER_SUFFIXES]
    return digests.combined_digest(folder, files)
