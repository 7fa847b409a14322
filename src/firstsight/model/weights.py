"""Checkpoint folders: safetensors, the spec, the tokenizer and the frozen encoder, together enough to load a model."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from firstsight.errors import ModelError
from firstsight.model.vision import Encoder, load_encoder
from firstsight.model.vlm import VLM
from firstsight.recipe import canon
from firstsight.recipe.lm import LMSpec
from firstsight.recipe.model import VLMSpec
from firstsight.recipe.vision import Patches

FORMAT = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """A checkpoint in memory."""

    model: VLM
    spec: LMSpec | VLMSpec
    tokenizer: Path
    """The checkpoint's own tokenizer.json."""
    encoder: Encoder | None
    """The frozen encoder, where the model has one beside it."""
    seen: int


def save(folder: Path, model: VLM, *, seen: int, tokenizer: Path, encoders: Sequence[Path]) -> None:
    """Write weights, spec, tokenizer and the folders of a frozen encoder; the bytes depend on nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = "vlm" if isinstance(model.spec, VLMSpec) else "lm"
    write_tensors(folder / "model.safetensors", model.state_dict())
    body = {"format": FORMAT, "kind": kind, "model": canon.encode(model.spec), "seen": seen}
    (folder / "spec.json").write_text(json.dumps(body, sort_keys=True, indent=1) + "\n")
    shutil.copyfile(tokenizer / "tokenizer.json" if tokenizer.is_dir() else tokenizer, folder / "tokenizer.json")
    for number, encoder in enumerate(encoders):
        shutil.rmtree(folder / f"encoder{number}", ignore_errors=True)
        shutil.copytree(encoder, folder / f"encoder{number}", copy_function=_link)


def load(folder: Path, *, device: str = "cpu", compute: torch.dtype = torch.float32) -> Loaded:
    """The model of a checkpoint folder, in eval mode; ModelError names whatever is missing, extra or misshapen."""
    body = read_spec(folder)
    model = VLM(body["model"])
    fill(model, read_tensors(folder / "model.safetensors"), where=folder / "model.safetensors")
    model.to(device).eval().requires_grad_(False)
    model.lm.compute = compute
    encoder = _encoder(body["model"], folder)
    if encoder is not None:
        encoder.to(device)
    words = folder / "tokenizer.json"
    return Loaded(model=model, spec=body["model"], tokenizer=words, encoder=encoder, seen=body["seen"])


def _encoder(spec: LMSpec | VLMSpec, folder: Path) -> Encoder | None:
    if not isinstance(spec, VLMSpec) or spec.encoder == "trained" or isinstance(spec.vision, Patches):
        return None
    return load_encoder(spec.vision, [folder / f"encoder{number}" for number in range(len(spec.vision.towers))])


def read_spec(folder: Path) -> dict[str, Any]:
    """spec.json with its model decoded."""
    path = folder / "spec.json"
    if not path.is_file():
        raise ModelError(f"{folder}: wanted a checkpoint folder. Got no spec.json. Name what a training step left.")
    body = json.loads(path.read_text())
    if body.get("format") != FORMAT:
        raise ModelError(f"{path}: wanted format {FORMAT}. Got {body.get('format')!r}. Use the version that wrote it.")
    return {**body, "model": canon.decode(body["model"])}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file; ModelError where it is missing or damaged."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as problem:
        raise ModelError(f"{path}: wanted a whole safetensors file. Got: {problem}. Make it again.") from problem


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Tensors in name order, on the CPU and contiguous."""
    save_file({name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}, path)


def fill(model: nn.Module, tensors: Mapping[str, Tensor], *, where: Path) -> None:
    """Copy tensors into a model of exactly these names and shapes."""
    own = model.state_dict()
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    shapes = [
        f"{name} wanted {list(own[name].shape)} got {list(tensors[name].shape)}"
        for name in sorted(own.keys() & tensors.keys())
        if own[name].shape != tensors[name].shape
    ]
    if missing or extra or shapes:
        faults = (("missing", missing), ("extra", extra), ("misshapen", shapes))
        told = "; ".join(f"{what}: {', '.join(names)}" for what, names in faults if names)
        raise ModelError(f"{where}: weights and spec contradict each other. {told}. Load them with their own spec.")
    model.load_state_dict(dict(tensors))


def _link(source: str, target: str) -> None:
    """A hard link, or a copy where the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
