"""Public weights before they become a checkpoint: their settings, their tensors, and the checks of both."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from firstsight.errors import ModelError, QuantityError
from firstsight.limits import read_settings
from firstsight.model.tensors import ShapeAndDtype, StoredTensors, meta_init, shapes_and_dtypes, tensor_mismatches
from firstsight.model.vision import Encoder
from firstsight.model.vlm import VLM
from firstsight.recipe.model import LMSpec, VLMSpec
from firstsight.recipe.vision import PatchProjectionSpec

SupportedValues = Mapping[str, tuple[Any, ...]]
"""The values of a setting that firstsight implements; a setting that is absent is supported."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublicWeights:
    """Public weights that match their configuration; a tensor is read when it is written."""

    spec: LMSpec | VLMSpec
    tensors: Mapping[str, Tensor]
    source_names: Mapping[str, tuple[str, ...]]
    """For each tensor of the checkpoint, the tensors of the source to concatenate along the first axis."""
    stored_names: Collection[str]
    """The names of the source's tensors as its files have them."""
    files: tuple[Path, ...]
    """All files that were read."""
    tokens_seen: int | None
    """Tokens trained on; None if unknown."""
    moments: Mapping[str, Tensor] | None = None


def concat_rows(tensors: list[Tensor]) -> Tensor:
    """The rows of all tensors in one; a single tensor is not copied."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


class LazyTensors:
    """Tensors that `read` builds when they are written."""

    def __init__(self, names: Collection[str], read: Callable[[str], Tensor]) -> None:
        self.names, self.read = names, read

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __getitem__(self, name: str, /) -> Tensor:
        return self.read(name)


def hf_folder_files(folder: Path, stored: StoredTensors) -> tuple[Path, ...]:
    """config.json, the safetensors and, where there is one, their index."""
    index = folder / "model.safetensors.index.json"
    return (folder / "config.json", *stored.files, *([index] if index.is_file() else []))


def model_shapes(spec: LMSpec | VLMSpec) -> dict[str, ShapeAndDtype]:
    """Shape and dtype of all tensors of a model, with those of an external encoder under `encoder.`."""
    with meta_init():
        tensors = dict(VLM(spec).state_dict())
        if (
            isinstance(spec, VLMSpec)
            and spec.encoder == "external"
            and not isinstance(spec.vision, PatchProjectionSpec)
        ):
            tensors |= {f"encoder.{name}": tensor for name, tensor in Encoder(spec.vision).state_dict().items()}
    return shapes_and_dtypes(tensors)


def check_tensors(path: Path, expected: Mapping[str, ShapeAndDtype], actual: Mapping[str, ShapeAndDtype]) -> None:
    """ModelError that names every tensor that is missing, extra, or of another shape or dtype."""
    if mismatches := tensor_mismatches(expected, actual):
        raise ModelError(
            f"{path}: weights and configuration contradict each other. {mismatches}. Copy both from the same run."
        )


@contextmanager
def prefix_errors(path: Path) -> Iterator[None]:
    """Errors of settings and tensor names become a ModelError that begins with `path`."""
    try:
        yield
    except (ModelError, QuantityError) as error:
        message = str(error)
        raise ModelError(message if message.startswith(str(path)) else f"{path}: {message}") from error


def read_config(path: Path) -> dict[str, Any]:
    """The object in a config.json, with sizes within the limits."""
    try:
        return read_settings(path)
    except ValueError as error:
        raise ModelError(f"{path}: wanted a configuration in JSON. Got: {error}. Copy it again.") from error


def exported_tokens_seen(config: Mapping[str, Any]) -> int | None:
    """The tokens trained on that an export of firstsight records in its config.json."""
    tokens = config.get("firstsight_seen")
    return tokens if isinstance(tokens, int) else None


def unsupported_settings(settings: Mapping[str, Any], supported: SupportedValues) -> list[str]:
    """`name value` of each setting that firstsight does not implement."""
    return [f"{key} {settings[key]!r}" for key in supported if settings.get(key, ...) not in (..., *supported[key])]


def is_positive_int(value: object) -> bool:
    """Whether a setting is a whole number above zero, and not a boolean."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def positive_int_setting(settings: Mapping[str, Any], name: str, *, default: int) -> int:
    """A whole number above zero, `default` if the setting is missing or null; ModelError for anything else."""
    value = settings.get(name)
    if value is None:
        return default
    if not is_positive_int(value):
        raise ModelError(f"config.json: {name}: wanted a whole number above zero. Got {value!r}. Copy it again.")
    return value


def float_setting(settings: Mapping[str, Any], name: str, *, default: float) -> float:
    """A finite number, `default` if the setting is missing; ModelError for anything else."""
    value = settings.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ModelError(f"config.json: {name}: wanted a number. Got {value!r}. Copy it again.")
    return float(value)


def nested_settings(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The settings under a name, empty if there are none; ModelError if the value is not an object."""
    value = settings.get(name)
    if value is not None and not isinstance(value, dict):
        raise ModelError(f"config.json: {name}: wanted an object of settings. Got {value!r}. Copy it again.")
    return dict(cast(dict[str, Any], value or {}))
