"""Digests of the user's own files, which replace the sources' names in addresses, and the files that they cover."""

from __future__ import annotations

import json
from pathlib import Path

from firstsight.errors import RequestError
from firstsight.files import FileDigests
from firstsight.recipe.mixture import ExternalForm, Recaptioned
from firstsight.recipe.serialize import from_json
from firstsight.site import Location

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
"""Suffixes of weight files; the digest of an encoder covers these and the JSON files beside them."""


def tokenizer_file(location: Location, name: str) -> Path:
    """The tokenizer.json of a source: the file itself or in its folder; RequestError where there is none."""
    path = Path(location.path)
    file = path / "tokenizer.json" if path.is_dir() else path
    if file.name != "tokenizer.json" or not file.is_file():
        raise RequestError(f"{name}: wanted a tokenizer.json at {path}. Got none. Write its folder in the site file.")
    return file


def weight_files(location: Location, name: str) -> list[Path]:
    """Configurations and weights of a folder in Hugging Face layout; RequestError where either is missing."""
    folder = Path(location.path)
    files = [file for file in folder.glob("*") if file.suffix in WEIGHT_SUFFIXES or file.suffix == ".json"]
    if not (folder / "config.json").is_file() or not any(file.suffix in WEIGHT_SUFFIXES for file in files):
        raise RequestError(
            f"{name}: wanted a folder with config.json and weights at {folder}. "
            f"Got {', '.join(sorted(file.name for file in files)) or 'neither'}. Download the model there."
        )
    return files


def checkpoint_files(location: Location, name: str) -> list[Path]:
    """Spec, tokenizer, weights and any optimizer moments of a checkpoint folder; RequestError where it is none."""
    folder = Path(location.path)
    tensors = [*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")]
    configs = [file for file in (folder / "spec.json", folder / "tokenizer.json") if file.is_file()]
    if len(configs) < 2 or not any(file.name.startswith("model") for file in tensors):
        present = ", ".join(sorted(file.name for file in (*configs, *tensors))) or "none of them"
        raise RequestError(
            f"{name}: wanted a checkpoint folder with spec.json, tokenizer.json and model.safetensors at {folder}. "
            f"Got {present}. Write one from public weights with firstsight import."
        )
    return [*configs, *tensors]


def content_digest(name: str, form: ExternalForm, *, location: Location, digests: FileDigests) -> str:
    """The digest of a tokenizer, encoder, checkpoint or benchmarks folder; RequestError where it is not one.

    An encoder's or checkpoint's covers its weights and the files that configure them, a benchmarks folder's all files.
    """
    if form == "tokenizer":
        return digests.digest(tokenizer_file(location, name))
    folder = Path(location.path)
    if form == "encoder":
        return digests.combined_digest(folder, weight_files(location, name))
    if form == "checkpoint":
        return digests.combined_digest(folder, checkpoint_files(location, name))
    files = [file for file in folder.rglob("*") if file.is_file()]
    if not files:
        raise RequestError(f"{name}: wanted a folder with one folder for each task at {folder}. Got no file.")
    return digests.combined_digest(folder, files)


def prepared_names(out: Path) -> set[str]:
    """The names of the sources that are prepared under `out`."""
    names: set[str] = set()
    for record in (out / "sources").glob("*/read.json"):
        if (record.parent / "manifest.json").is_file():
            source = from_json(json.loads(record.read_text())["source"])
            names.add(source.external.name if isinstance(source, Recaptioned) else source.name)
    return names
