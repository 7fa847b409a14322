"""The model card of an exported folder: the model, its training as far as the checkpoint records it, how to load it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstsight.model.checkpoint_io import LoadedCheckpoint
from firstsight.recipe.model import LMSpec, VLMSpec, decoder_spec
from firstsight.recipe.vision import PatchProjectionSpec

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
    achieved: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
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
    """The text on one line, with all Markdown and HTML characters escaped."""
    return re.sub(r"([\\`*_{}\[\]<>#|~!&$])", r"\\\1", " ".join(text.split()))
