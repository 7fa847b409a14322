"""Exports a checkpoint to a folder for transformers, for its own classes where they can represent the model.

The folder's model card (README.md) says where the weights come from, and how to load them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor

from firstsight.data.tokenizer import Tokenizer, load_tokenizer
from firstsight.errors import ModelError, RequestError
from firstsight.files import read_json, staged_folder, write_json
from firstsight.hub import gpt_neox, llama, llava, sidecars
from firstsight.hub.public_weights import LazyTensors
from firstsight.model.checkpoint_io import LoadedCheckpoint, load
from firstsight.model.tensors import write_tensors
from firstsight.recipe import serialize
from firstsight.recipe.model import LMSpec, VLMSpec, decoder_spec
from firstsight.recipe.vision import PatchProjectionSpec
from firstsight.visible import visible

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
        result = _write_files(folder, loaded, tokenizer, dtype=dtype, location=checkpoint)
        (folder / "README.md").write_text(model_card(checkpoint, loaded, result))
    return result


def _is_export(folder: Path) -> bool:
    path = folder / "config.json"
    try:
        return path.is_file() and llava.SPEC_KEY in json.loads(path.read_text())
    except (ValueError, TypeError):
        return False


def _write_files(
    folder: Path, loaded: LoadedCheckpoint, tokenizer: Tokenizer, *, dtype: ExportDtype, location: Path
) -> ExportResult:
    spec, ids = loaded.spec, tokenizer.special_ids
    has_vision = isinstance(spec, VLMSpec)
    config, reason = export_config(spec)
    tensors, torch_dtype = export_tensors(loaded, uses_hf_class=not reason), getattr(torch, dtype)
    written = LazyTensors(tensors.keys(), lambda name: tensors[name].to(torch_dtype))
    write_tensors(folder, written, location=location)
    chat_ids = sidecars.write_tokenizer_files(folder, tokenizer, has_dialogues=has_vision)
    fields: dict[str, Any] = {"bos_token_id": ids.end, "eos_token_id": ids.end, "pad_token_id": ids.pad, "dtype": dtype}
    if has_vision:
        sidecars.write_processor_config(folder, spec, uses_hf_class=not reason)
        config["image_token_id" if reason else "image_token_index"] = chat_ids[sidecars.IMAGE_TOKEN]
    if "text_config" in config:
        config["text_config"] |= fields
    fields |= {llava.SPEC_KEY: serialize.to_json(spec), "firstsight_seen": loaded.tokens_seen}
    write_json(folder / "config.json", config | fields, indent=2)
    modules = [module for module in (loaded.model, loaded.encoder) if module is not None]
    count = sum(tensor.numel() for module in modules for tensor in module.parameters())
    return ExportResult(architecture=config["architectures"][0], fallback_reason=reason, parameter_count=count)


def export_config(spec: LMSpec | VLMSpec) -> tuple[dict[str, Any], str]:
    """The spec's fields of config.json, and why the class is firstsight's; empty if it is transformers' own."""
    if isinstance(spec, VLMSpec):
        reason, name = llava.llava_unsupported_reason(spec), "FirstsightForConditionalGeneration"
        config = {} if reason else llava.llava_config(spec)
    elif gpt_neox.is_gpt_neox(spec):
        return gpt_neox.gpt_neox_config(spec), ""
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
        to_hf = gpt_neox.to_gpt_neox if gpt_neox.is_gpt_neox(loaded.spec) else llama.to_llama
        return to_hf({name.removeprefix("lm."): tensor for name, tensor in tensors.items()}, loaded.spec)
    if loaded.encoder is not None:
        tensors |= {f"encoder.{name}": tensor for name, tensor in loaded.encoder.state_dict().items()}
    return llava.to_llava(tensors, loaded.spec) if uses_hf_class and isinstance(loaded.spec, VLMSpec) else tensors


VISION_USAGE = """\
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

folder = "."  # this folder
model = AutoModelForImageTextToText.from_pretrained(folder)
processor = AutoProcessor.from_pretrained(folder)
content = [{"type": "image", "image": Image.open("image.png")}, {"type": "text", "text": "what is this ?"}]
inputs = processor.apply_chat_template(
    [{"role": "user", "content": content}], tokenize=True, return_dict=True, return_tensors="pt"
)
outputs = model.generate(**inputs)
print(processor.decode(outputs[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
"""
TEXT_USAGE = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this folder
model = AutoModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
inputs = tokenizer(tokenizer.eos_token + "once upon a time", return_tensors="pt")  # documents begin with this token
print(tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True))
"""
IMPORT_CLASSES_LINE = "import firstsight.hub.hf_classes  # registers the classes; no code comes from this folder\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportResult:
    """What was written."""

    architecture: str
    """The class that loads the folder."""
    fallback_reason: str
    """Why that class is firstsight's; empty if it is transformers'."""
    parameter_count: int


def model_card(checkpoint: Path, loaded: LoadedCheckpoint, result: ExportResult) -> str:
    """The content of README.md; names that a user chose are escaped, so that they are not read as markup."""
    spec, reason = loaded.spec, result.fallback_reason
    has_vision = isinstance(spec, VLMSpec)
    pipeline = "image-text-to-text" if has_vision else "text-generation"
    description = "a vision-language model" if has_vision else "a language model"
    loading = f"with firstsight's own classes ({escape_markdown(reason)})" if reason else "natively"
    usage = (IMPORT_CLASSES_LINE if reason else "") + (VISION_USAGE if has_vision else TEXT_USAGE)
    sections = [
        f"---\nlibrary_name: transformers\npipeline_tag: {pipeline}\ntags:\n- firstsight\n---\n",
        f"# {escape_markdown(checkpoint.absolute().name)}",
        f"This is {description} with {result.parameter_count:,} parameters, exported by firstsight from a checkpoint "
        f"that was trained on {loaded.tokens_seen:,} tokens in its last stage. "
        f"`transformers` loads it as `{result.architecture}`, {loading}.",
        "## Model\n" + markdown_table(_spec_facts(spec)),
        "## Training\n" + _training_section(checkpoint),
        f"## Usage\n```python\n{usage}```",
        _chat_format_section(spec),
        "## Licence\nNot stated here: the publisher of this folder chooses it, within the licences of the data, of the "
        "encoder and of the weights that training started from.",
    ]
    return "\n\n".join(section.rstrip() for section in sections) + "\n"


def _spec_facts(spec: LMSpec | VLMSpec) -> dict[str, str]:
    lm = decoder_spec(spec)
    norm = "RMSNorm" if lm.norm == "rms" else "LayerNorm"
    facts = {
        "decoder": f"{lm.layers} layers, width {lm.width}, {lm.heads} heads ({lm.kv_heads} of keys and values), "
        f"MLP width {lm.mlp_width}, vocabulary {lm.vocab_size:,}",
        "norms": f"{norm}{', also of queries and keys' if lm.qk_norm else ''}",
        "rotary": f"{type(lm.rope).__name__}, base {lm.rope.base:g}",
    }
    if lm.token_shift > 1:
        facts["token shift"] = f"{lm.token_shift} taps"
    if not isinstance(spec, VLMSpec):
        return facts
    vision, projector = spec.vision, spec.projector
    towers = " + ".join(type(tower).__name__ for tower in vision.towers) or type(vision).__name__
    weights = {"external": "frozen in training", "included": "its weights part of the checkpoint"}[spec.encoder]
    training = "" if isinstance(vision, PatchProjectionSpec) else f", {weights}"
    return facts | {
        "vision": f"{towers}, images of {vision.image_size} x {vision.image_size} pixels, {spec.image_tokens} tokens "
        f"per image, {vision.fit}{training}",
        "projector": f"{projector.kind}, pixel shuffle {projector.pixel_shuffle}, "
        f"{projector.tokens_per_patch} tokens per patch",
        "attention": spec.attention,
    }


def _training_section(checkpoint: Path) -> str:
    path = checkpoint / "achieved.json"
    achieved = read_json(path, advice="Train the checkpoint again.") if path.is_file() else {}
    if not isinstance(rows := achieved.get("rows"), dict):
        return "The checkpoint has no record of it."
    facts = {f"rows of {name}": f"{count:,}" for name, count in rows.items()}
    facts |= {f"epochs of {name}": f"{count:.3g}" for name, count in achieved.get("epochs", {}).items()}
    facts |= {f"image share in {name}": f"{share:.2%}" for name, share in achieved.get("achieved", {}).items()}
    return "The last stage of training:\n\n" + markdown_table(facts)


def _chat_format_section(spec: LMSpec | VLMSpec) -> str:
    if not isinstance(spec, VLMSpec):
        return "It was trained on text without dialogues and has no chat template."
    return (
        "A dialogue is `[image] question <|/h|> answer <|/a|>`; without an image it begins with the end-of-text token. "
        "`chat_template.jinja` writes this form: at most one image per dialogue, no system turn."
    )


def markdown_table(facts: Mapping[str, str]) -> str:
    """A Markdown table of two columns."""
    rows = (f"| {escape_markdown(key)} | {escape_markdown(value)} |" for key, value in facts.items())
    return "\n".join(["| | |", "|---|---|", *rows])


def escape_markdown(text: str) -> str:
    """The `visible` text on one line, with all Markdown and HTML characters escaped."""
    return re.sub(r"([\\`*_{}\[\]<>#|~!&$])", r"\\\1", visible(" ".join(text.split())))
