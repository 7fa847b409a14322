"""A checkpoint as a folder that transformers loads: natively where it has such a model, else through our classes.

The folder is written beside its place and moved there whole: what is cut off leaves nothing that looks finished.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from firstsight.data.tokenizer import Tokenizer
from firstsight.data.tokenizer import load as load_tokenizer
from firstsight.errors import ModelError, RequestError
from firstsight.hub import llama, llava
from firstsight.hub.beside import card, words
from firstsight.hub.finding import writing
from firstsight.model.weights import Loaded, load, write_tensors
from firstsight.recipe import canon
from firstsight.recipe.lm import LMSpec
from firstsight.recipe.model import VLMSpec, decoder

Number = Literal["float32", "bfloat16"]
"""What weights are written as."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What was written."""

    architecture: str
    """The class that loads it."""
    reason: str
    """Why that class is firstsight's own; empty where it is transformers'."""
    parameters: int


def export(checkpoint: Path, out: Path, *, number: Number) -> Exported:
    """Write the folder `out` for transformers; an earlier export there is replaced once the new one is whole.

    Raises RequestError where `out` holds anything else, ModelError where checkpoint, spec and tokenizer disagree.
    """
    out = out.absolute()
    _refuse_strangers(out)
    loaded = load(checkpoint)
    tokenizer = load_tokenizer(loaded.tokenizer)
    _refuse_other_words(loaded.spec, tokenizer)
    fresh = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        with writing(out):
            fresh.mkdir(parents=True)
            told = _write(fresh, loaded, tokenizer, number=number)
            about = card.About(
                checkpoint=checkpoint,
                seen=loaded.seen,
                parameters=told.parameters,
                architecture=told.architecture,
                reason=told.reason,
            )
            (fresh / "README.md").write_text(card.text(loaded.spec, about))
            _move(fresh, out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return told


def _refuse_strangers(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise RequestError(f"{out}: wanted a folder. Got a file. Choose another --out.")
    if out.is_dir() and any(out.iterdir()) and not _ours(out):
        raise RequestError(f"{out}: wanted a new folder, or an earlier export. Got other files. Choose another --out.")


def _ours(folder: Path) -> bool:
    file = folder / "config.json"
    try:
        return file.is_file() and llava.OWN in json.loads(file.read_text())
    except (ValueError, TypeError):
        return False


def _refuse_other_words(spec: LMSpec | VLMSpec, tokenizer: Tokenizer) -> None:
    rows = decoder(spec).vocabulary
    if tokenizer.size > rows:
        raise ModelError(
            f"{tokenizer.path}: wanted at most {rows} tokens, the rows of the model's embedding. Got {tokenizer.size}, "
            "chat marks included. Put the tokenizer there that the model was trained with."
        )


def _move(fresh: Path, out: Path) -> None:
    """The finished folder to its place; what stood there goes only then."""
    old = fresh.with_suffix(".old")
    if out.exists():
        out.rename(old)
    fresh.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _write(folder: Path, loaded: Loaded, tokenizer: Tokenizer, *, number: Number) -> Exported:
    """All files but the model card."""
    spec, special = loaded.spec, tokenizer.special
    sees = isinstance(spec, VLMSpec)
    config, reason = config_of(spec)
    named = tensors_of(loaded, native=not reason)
    write_tensors(folder, _Cast(named, getattr(torch, number)))
    marks = words.write_words(folder, tokenizer, dialogues=sees)
    ids = {"bos_token_id": special.end, "eos_token_id": special.end, "pad_token_id": special.pad}
    if sees:
        words.write_processor(folder, spec, native=not reason)
        config["image_token_id" if reason else "image_token_index"] = marks[words.IMAGE]
    if "text_config" in config:
        config["text_config"] |= ids | {"dtype": number}
    own = {llava.OWN: canon.encode(spec), "firstsight_seen": loaded.seen}
    words.write_json(folder / "config.json", config | ids | own | {"dtype": number})
    modules = [part for part in (loaded.model, loaded.encoder) if part is not None]
    parameters = sum(tensor.numel() for part in modules for tensor in part.parameters())
    return Exported(architecture=config["architectures"][0], reason=reason, parameters=parameters)


def config_of(spec: LMSpec | VLMSpec) -> tuple[dict[str, Any], str]:
    """Of config.json what the spec says, and why the classes that it names are not transformers' own, if so."""
    native: Any = llava if isinstance(spec, VLMSpec) else llama
    if not (reason := native.why_not(spec)):
        return native.config_of(spec), ""
    name = "ForConditionalGeneration" if isinstance(spec, VLMSpec) else "ForCausalLM"
    return {"model_type": "firstsight", "architectures": [f"Firstsight{name}"], "tie_word_embeddings": False}, reason


def tensors_of(loaded: Loaded, *, native: bool) -> dict[str, Tensor]:
    """A checkpoint's tensors under the names that its export has, a frozen encoder's among them."""
    ours: dict[str, Tensor] = dict(loaded.model.state_dict())
    beside = {} if loaded.encoder is None else loaded.encoder.state_dict()
    if not native:
        return ours | _under("encoder.", beside)  # transformers puts `model.` before what is under it by itself
    if isinstance(loaded.spec, VLMSpec):
        return llava.to_llava(ours | _under("encoder.", beside), loaded.spec)
    return llama.to_llama({name.removeprefix("lm."): tensor for name, tensor in ours.items()}, loaded.spec)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


class _Cast:
    """Tensors as numbers of another kind, each when it is written."""

    def __init__(self, tensors: Mapping[str, Tensor], kind: torch.dtype) -> None:
        self.tensors, self.kind = tensors, kind

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __getitem__(self, name: str, /) -> Tensor:
        return self.tensors[name].to(self.kind)
