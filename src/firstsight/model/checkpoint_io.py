"""Checkpoint folders: weights, spec.json, tokenizer.json and an external encoder's folders, enough to load a model."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from firstsight.errors import FirstsightError, LimitExceeded, ModelError
from firstsight.files import link_or_copy, write_atomic, write_json
from firstsight.limits import read_settings
from firstsight.model.tensors import MeanTensors, NamedTensors, StoredTensors, load_weights, meta_init, write_tensors
from firstsight.model.vision import Encoder, load_encoder
from firstsight.model.vlm import VLM
from firstsight.recipe import serialize
from firstsight.recipe.model import LMSpec, VLMSpec
from firstsight.recipe.vision import PatchProjectionSpec

FORMAT_VERSION = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedCheckpoint:
    """A checkpoint in memory."""

    model: VLM
    spec: LMSpec | VLMSpec
    tokenizer: Path
    encoder: Encoder | None
    """The external encoder; None if the encoder is part of the model or there is none."""
    tokens_seen: int


def save(
    folder: Path,
    model: VLM,
    *,
    tokens_seen: int,
    tokenizer: Path,
    encoders: Sequence[Path],
    weights: NamedTensors | None = None,
) -> None:
    """Write weights, spec, tokenizer and the folders of an external encoder; equal arguments give equal bytes.

    `weights`: the model's, where they have to be gathered from several processes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder, model.state_dict() if weights is None else weights)
    _write_other_files(folder, model.spec, tokens_seen=tokens_seen, tokenizer=tokenizer, encoders=encoders)


def save_with_weights(folder: Path, tensors: NamedTensors, *, checkpoint: Path, tokens_seen: int) -> None:
    """Write the model of another checkpoint folder with other weights."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder, tensors)
    spec, encoders = read_spec(checkpoint)["model"], sorted(checkpoint.glob("encoder[0-9]*"))
    tokenizer = checkpoint / "tokenizer.json"
    _write_other_files(folder, spec, tokens_seen=tokens_seen, tokenizer=tokenizer, encoders=encoders)


def _write_other_files(
    folder: Path, spec: LMSpec | VLMSpec, *, tokens_seen: int, tokenizer: Path, encoders: Sequence[Path]
) -> None:
    write_spec(folder, spec, tokens_seen=tokens_seen)
    write_atomic(
        folder / "tokenizer.json", (tokenizer / "tokenizer.json" if tokenizer.is_dir() else tokenizer).read_bytes()
    )
    for number, encoder in enumerate(encoders):
        shutil.rmtree(folder / f"encoder{number}", ignore_errors=True)
        ignore_hidden = shutil.ignore_patterns(".*")  # of git and of downloads
        shutil.copytree(encoder, folder / f"encoder{number}", ignore=ignore_hidden, copy_function=link_or_copy)


def last_checkpoint(folder: Path, number: int) -> Path:
    """The folder of one of the last checkpoints of a training step: 0 is the one at the end, `folder` itself."""
    return folder / f"last-{number}" if number else folder


def save_average(folder: Path, *, checkpoint: Path, count: int) -> None:
    """Write the checkpoint whose weights are the mean of those of the `count` last checkpoints of a training step."""
    weights = MeanTensors([StoredTensors(last_checkpoint(checkpoint, number)) for number in range(count)])
    save_with_weights(folder, weights, checkpoint=checkpoint, tokens_seen=read_spec(checkpoint)["seen"])


def write_spec(folder: Path, spec: LMSpec | VLMSpec, *, tokens_seen: int) -> None:
    """Write spec.json: the model's spec and the tokens that it was trained on."""
    kind = "vlm" if isinstance(spec, VLMSpec) else "lm"
    body = {"format": FORMAT_VERSION, "kind": kind, "model": serialize.to_json(spec), "seen": tokens_seen}
    write_json(folder / "spec.json", body)


def read_spec(folder: Path) -> dict[str, Any]:
    """The content of spec.json, with the spec of the model as an object under "model"."""
    path = folder / "spec.json"
    if not path.is_file():
        raise ModelError(f"{folder}: wanted a checkpoint folder. Got no spec.json. Name the output of a training step.")
    try:
        body = read_settings(path)
        if (version := body.get("format")) != FORMAT_VERSION:
            raise ModelError(f"{path}: wanted format {FORMAT_VERSION}. Got {version!r}. Use the version that wrote it.")
        return {**body, "model": serialize.from_json(body["model"]), "seen": int(body["seen"])}
    except (ModelError, LimitExceeded):
        raise
    except (ValueError, KeyError, TypeError, AttributeError, FirstsightError) as error:
        raise ModelError(f"{path}: wanted the spec of a model. Got: {error}. Write it again.") from error


def load(folder: Path, *, device: str = "cpu", compute_dtype: torch.dtype = torch.float32) -> LoadedCheckpoint:
    """Load a checkpoint folder: float32 weights, in eval mode, held in memory once.

    ModelError names all tensors that are missing, extra, or of another shape or dtype.
    """
    body = read_spec(folder)
    spec = body["model"]
    with meta_init():
        model = VLM(spec)
    load_weights(model, StoredTensors(folder), location=folder)
    model.to(device).eval().requires_grad_(False)
    model.lm.compute_dtype = compute_dtype
    encoder, tokenizer = None, folder / "tokenizer.json"
    if isinstance(spec, VLMSpec) and spec.encoder == "external" and not isinstance(spec.vision, PatchProjectionSpec):
        folders = [folder / f"encoder{number}" for number in range(len(spec.vision.towers))]
        encoder = load_encoder(spec.vision, folders).to(device)
    return LoadedCheckpoint(model=model, spec=spec, tokenizer=tokenizer, encoder=encoder, tokens_seen=body["seen"])
