"""Exports a checkpoint to a folder for transformers, for its own classes where they can represent the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor

from firstsight.data.tokenizer import Tokenizer, load_tokenizer
from firstsight.errors import ModelError, RequestError
from firstsight.files import staged_folder
from firstsight.hub import llama, llava, model_card, sidecars
from firstsight.hub.model_card import ExportResult
from firstsight.hub.public_weights import LazyTensors
from firstsight.model.checkpoint_io import LoadedCheckpoint, load
from firstsight.model.tensors import write_tensors
from firstsight.recipe import serialize
from firstsight.recipe.model import LMSpec, VLMSpec, decoder_spec

ExportDtype = Literal["float32", "bfloat16"]
"""The dtype that weights are written in."""


def export_checkpoint(checkpoint: Path, out: Path, *, dtype: ExportDtype) -> ExportResult:
    """Write the folder `out` for transformers; it replaces an earlier export there once it is complete.

    Raises RequestError if `out` contains other files, ModelError if checkpoint, spec and tokenizer disagree.
    """
    if out.exists() and not out.is_dir():
        raise RequestError(f"{out}: wanted a folder. Got a file. Choose another --out.")
    if out.is_dir() and any(out.iterdir()) and not _is_export(out):
        raise RequestError(f"{out}: wanted a new folder, or an earlier export. Got other files. Choose another --out.")
    loaded = load(checkpoint)
    tokenizer, vocab_size = load_tokenizer(loaded.tokenizer), decoder_spec(loaded.spec).vocab_size
    if tokenizer.vocab_size > vocab_size:
        raise ModelError(
            f"{tokenizer.path}: wanted at most {vocab_size} tokens, the rows of the model's embedding. Got "
            f"{tokenizer.vocab_size} with the chat tokens. Use the tokenizer that the model was trained with."
        )
    with staged_folder(out, errors=(SafetensorError,)) as folder:
        result = _write_files(folder, loaded, tokenizer, dtype=dtype)
        (folder / "README.md").write_text(model_card.model_card(checkpoint, loaded, result))
    return result


def _is_export(folder: Path) -> bool:
    path = folder / "config.json"
    try:
        return path.is_file() and llava.SPEC_KEY in json.loads(path.read_text())
    except (ValueError, TypeError):
        return False


def _write_files(folder: Path, loaded: LoadedCheckpoint, tokenizer: Tokenizer, *, dtype: ExportDtype) -> ExportResult:
    spec, ids = loaded.spec, tokenizer.special_ids
    has_vision = isinstance(spec, VLMSpec)
    config, reason = export_config(spec)
    tensors, torch_dtype = export_tensors(loaded, uses_hf_class=not reason), getattr(torch, dtype)
    write_tensors(folder, LazyTensors(tensors.keys(), lambda name: tensors[name].to(torch_dtype)))
    chat_ids = sidecars.write_tokenizer_files(folder, tokenizer, has_dialogues=has_vision)
    fields: dict[str, Any] = {"bos_token_id": ids.end, "eos_token_id": ids.end, "pad_token_id": ids.pad, "dtype": dtype}
    if has_vision:
        sidecars.write_processor_config(folder, spec, uses_hf_class=not reason)
        config["image_token_id" if reason else "image_token_index"] = chat_ids[sidecars.IMAGE_TOKEN]
    if "text_config" in config:
        config["text_config"] |= fields
    fields |= {llava.SPEC_KEY: serialize.to_json(spec), "firstsight_seen": loaded.tokens_seen}
    sidecars.write_json(folder / "config.json", config | fields)
    modules = [module for module in (loaded.model, loaded.encoder) if module is not None]
    count = sum(tensor.numel() for module in modules for tensor in module.parameters())
    return ExportResult(architecture=config["architectures"][0], fallback_reason=reason, parameter_count=count)


def export_config(spec: LMSpec | VLMSpec) -> tuple[dict[str, Any], str]:
    """The spec's fields of config.json, and why the class is firstsight's; empty if it is transformers' own."""
    if isinstance(spec, VLMSpec):
        reason, name = llava.llava_unsupported_reason(spec), "FirstsightForConditionalGeneration"
        config = {} if reason else llava.llava_config(spec)
    else:
        reason, name = llama.llama_unsupported_reason(spec), "FirstsightForCausalLM"
        config = {} if reason else llama.llama_config(spec)
    if reason:
        config = {"model_type": "firstsight", "architectures": [name], "tie_word_embeddings": False}
    return config, reason


def export_tensors(loaded: LoadedCheckpoint, *, uses_hf_class: bool) -> dict[str, Tensor]:
    """A checkpoint's tensors and its external encoder's, under the names of the exported files."""
    tensors: dict[str, Tensor] = dict(loaded.model.state_dict())
    if uses_hf_class and not isinstance(loaded.spec, VLMSpec):
        return llama.to_llama({name.removeprefix("lm."): tensor for name, tensor in tensors.items()}, loaded.spec)
    if loaded.encoder is not None:
        tensors |= {f"encoder.{name}": tensor for name, tensor in loaded.encoder.state_dict().items()}
    return llava.to_llava(tensors, loaded.spec) if uses_hf_class and isinstance(loaded.spec, VLMSpec) else tensors
