"""What the user's files are known by: digests of their bytes, kept so that nothing is read twice for them."""

from __future__ import annotations

import json
from pathlib import Path

from firstsight.errors import RequestError
from firstsight.files import FileDigests
from firstsight.recipe.mixture import ExternalForm, Recaptioned
from firstsight.recipe.serialize import from_json
from firstsight.site import Location

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
"""Endings of weight files; of a folder of weights these and the configurations in JSON make the content."""


def tokenizer_file(location: Location, name: str) -> Path:
    """The tokenizer.json that a location means, itself or in its folder; RequestError where there is none."""
    place = Path(location.path)
    file = place / "tokenizer.json" if place.is_dir() else place
    if file.name != "tokenizer.json" or not file.is_file():
        raise RequestError(f"{name}: wanted a tokenizer.json at {place}. Got none. Name its folder in the site file.")
    return file


def weight_files(location: Location, name: str) -> list[Path]:
    """Configurations and weights of a folder in Hugging Face layout; RequestError where one of them is missing."""
    place = Path(location.path)
    files = [file for file in place.glob("*") if file.suffix in WEIGHTS or file.suffix == ".json"]
    if not (place / "config.json").is_file() or not any(file.suffix in WEIGHTS for file in files):
        raise RequestError(
            f"{name}: wanted a folder with config.json and weights at {place}. "
            f"Got {', '.join(sorted(file.name for file in files)) or 'neither'}. Download the model there."
        )
    return files


def checkpoint_files(location: Location, name: str) -> list[Path]:
    """Spec, tokenizer, weights and, where it has them, moments of a checkpoint; RequestError where it is none."""
    place = Path(location.path)
    tensors = [*place.glob("*.safetensors"), *place.glob("*.safetensors.index.json")]
    told = [file for file in (place / "spec.json", place / "tokenizer.json") if file.is_file()]
    if len(told) < 2 or not any(file.name.startswith("model") for file in tensors):
        held = ", ".join(sorted(file.name for file in (*told, *tensors))) or "none of them"
        raise RequestError(
            f"{name}: wanted a checkpoint folder with spec.json, tokenizer.json and model.safetensors at {place}. "
            f"Got {held}. Write one from public weights with firstsight import."
        )
    return [*told, *tensors]


def digest(name: str, form: ExternalForm, *, location: Location, digests: FileDigests) -> str:
    """What a tokenizer, an encoder, a checkpoint or a folder of benchmarks is known by; RequestError where it is none.

    A folder of weights is known by their bytes and those of the files that say how to read them, by nothing beside.
    """
    if form == "tokenizer":
        return digests.digest(tokenizer_file(location, name))
    place = Path(location.path)
    if form == "encoder":
        return digests.combined_digest(place, weight_files(location, name))
    if form == "checkpoint":
        return digests.combined_digest(place, checkpoint_files(location, name))
    files = [file for file in place.rglob("*") if file.is_file()]
    if not files:
        raise RequestError(f"{name}: wanted a folder with one folder for each task at {place}. Got no file.")
    return digests.combined_digest(place, files)


def prepared_names(out: Path) -> set[str]:
    """The names of the sources that lie prepared under `out`."""
    found: set[str] = set()
    for note in (out / "sources").glob("*/read.json"):
        if (note.parent / "manifest.json").is_file():
            source = from_json(json.loads(note.read_text())["source"])
            found.add(source.external.name if isinstance(source, Recaptioned) else source.name)
    return found
