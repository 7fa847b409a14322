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
from firstsight.data.tokenizer import load_tokenizer as load_tokenizer
from firstsight.errors import ModelError, RequestError
from firstsight.hub import llama, llava, model_card, sidecars
from firstsight.hub.download import wrap_disk_errors
from firstsight.model.checkpoint_io import LoadedCheckpoint, load
from firstsight.model.tensors import write_tensors
from firstsight.recipe import serialize
from firstsight.recipe.model import LMSpec, VLMSpec, decoder_spec

ExportDtype = Literal["float32", "bfloat16"]
"""What weights are written as."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportResult:
    """What was written."""

    architecture: str
    """The class that loads it."""
    fallback_reason: str
    """Why that class is firstsight's own; empty where it is transformers'."""
    parameter_count: int


def export_checkpoint(checkpoint: Path, out: Path, *, dtype: ExportDtype) -> ExportResult:
    """Write the folder `out` for transformers; an earlier export there is replaced once the new one is whole.

    Raises RequestError where `out` holds anything else, ModelError where checkpoint, spec and tokenizer disagree.
    """
    out = out.absolute()
    _check_output_folder(out)
    loaded = load(checkpoint)
    tokenizer = load_tokenizer(loaded.tokenizer)
    _check_tokenizer_size(loaded.spec, tokenizer)
    staging_folder = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        with wrap_disk_errors(out):
            staging_folder.mkdir(parents=True)
            result = _write_files(staging_folder, loaded, tokenizer, dtype=dtype)
            card_info = model_card.ModelCardInfo(
                checkpoint=checkpoint,
                tokens_seen=loaded.tokens_seen,
                parameter_count=result.parameter_count,
                architecture=result.architecture,
                fallback_reason=result.fallback_reason,
            )
            (staging_folder / "README.md").write_text(model_card.model_card(loaded.spec, card_info))
            _replace_folder(staging_folder, out)
    finally:
        shutil.rmtree(staging_folder, ignore_errors=True)
    return result


def _check_output_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise RequestError(f"{out}: wanted a folder. Got a file. Choose another --out.")
    if out.is_dir() and any(out.iterdir()) and not _is_earlier_export(out):
        raise RequestError(f"{out}: wanted a new folder, or an earlier export. Got other files. Choose another --out.")


def _is_earlier_export(folder: Path) -> bool:
    config_file = folder / "config.json"
    try:
        return config_file.is_file() and llava.SPEC_KEY in json.loads(config_file.read_text())
    except (ValueError, TypeError):
        return False


def _check_tokenizer_size(spec: LMSpec | VLMSpec, tokenizer: Tokenizer) -> None:
    vocabulary_size = decoder_spec(spec).vocab_size
    if tokenizer.vocab_size > vocabulary_size:
        raise ModelError(
            f"{tokenizer.path}: wanted at most {vocabulary_size} tokens, the rows of the model's embedding. Got {tokenizer.vocab_size}, "
            "chat marks included. Put the tokenizer there that the model was trained with."
        )


def _replace_folder(staging_folder: Path, out: Path) -> None:
    """The finished folder to its place; what stood there goes only then."""
    previous_folder = staging_folder.with_suffix(".old")
    if out.exists():
        out.rename(previous_folder)
    staging_folder.rename(out)
    shutil.rmtree(previous_folder, ignore_errors=True)


def _write_files(folder: Path, loaded: LoadedCheckpoint, tokenizer: Tokenizer, *, dtype: ExportDtype) -> ExportResult:
    """All files but the model card."""
    spec, special_tokens = loaded.spec, tokenizer.special_ids
    has_vision = isinstance(spec, VLMSpec)
    config, fallback_reason = export_config(spec)
    tensors = export_tensors(loaded, is_native=not fallback_reason)
    write_tensors(folder, _CastTensors(tensors, getattr(torch, dtype)))
    chat_token_ids = sidecars.write_tokenizer_files(folder, tokenizer, has_dialogues=has_vision)
    special_token_ids = {
        "bos_token_id": special_tokens.end,
        "eos_token_id": special_tokens.end,
        "pad_token_id": special_tokens.pad,
    }
    if has_vision:
        sidecars.write_processor_config(folder, spec, is_native=not fallback_reason)
        config["image_token_id" if fallback_reason else "image_token_index"] = chat_token_ids[sidecars.IMAGE_TOKEN]
    if "text_config" in config:
        config["text_config"] |= special_token_ids | {"dtype": dtype}
    firstsight_fields = {llava.SPEC_KEY: serialize.to_json(spec), "firstsight_seen": loaded.tokens_seen}
    sidecars.write_json(folder / "config.json", config | special_token_ids | firstsight_fields | {"dtype": dtype})
    modules = [module for module in (loaded.model, loaded.encoder) if module is not None]
    parameter_count = sum(tensor.numel() for module in modules for tensor in module.parameters())
    return ExportResult(
        architecture=config["architectures"][0], fallback_reason=fallback_reason, parameter_count=parameter_count
    )


def export_config(spec: LMSpec | VLMSpec) -> tuple[dict[str, Any], str]:
    """Of config.json what the spec says, and why the classes that it names are not transformers' own, if so."""
    if isinstance(spec, VLMSpec):
        fallback_reason = llava.llava_unsupported_reason(spec)
        native_config = {} if fallback_reason else llava.llava_config(spec)
    else:
        fallback_reason = llama.llama_unsupported_reason(spec)
        native_config = {} if fallback_reason else llama.llama_config(spec)
    if not fallback_reason:
        return native_config, ""
    class_suffix = "ForConditionalGeneration" if isinstance(spec, VLMSpec) else "ForCausalLM"
    return {
        "model_type": "firstsight",
        "architectures": [f"Firstsight{class_suffix}"],
        "tie_word_embeddings": False,
    }, fallback_reason


def export_tensors(loaded: LoadedCheckpoint, *, is_native: bool) -> dict[str, Tensor]:
    """A checkpoint's tensors under the names that its export has, a frozen encoder's among them."""
    model_tensors: dict[str, Tensor] = dict(loaded.model.state_dict())
    encoder_tensors = {} if loaded.encoder is None else loaded.encoder.state_dict()
    if not is_native:
        return model_tensors | _with_prefix(
            "encoder.", encoder_tensors
        )  # transformers puts `model.` before what is under it by itself
    if isinstance(loaded.spec, VLMSpec):
        return llava.to_llava(model_tensors | _with_prefix("encoder.", encoder_tensors), loaded.spec)
    return llama.to_llama({name.removeprefix("lm."): tensor for name, tensor in model_tensors.items()}, loaded.spec)


def _with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


class _CastTensors:
    """Tensors as numbers of another kind, each when it is written."""

    def __init__(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        self.tensors, self.dtype = tensors, dtype

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __getitem__(self, name: str, /) -> Tensor:
        return self.tensors[name].to(self.dtype)
