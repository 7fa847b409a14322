"""The model card of an exported folder: what it is, how it was trained as far as its folder tells, how to load it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstsight.recipe.model import LMSpec, VLMSpec, decoder_spec
from firstsight.recipe.vision import PatchProjectionSpec

VISION_USAGE = """\
```python
{ours}from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

place = "."  # this folder
model = AutoModelForImageTextToText.from_pretrained(place)
processor = AutoProcessor.from_pretrained(place)
content = [{{"type": "image", "image": Image.open("picture.png")}}, {{"type": "text", "text": "what is this ?"}}]
inputs = processor.apply_chat_template(
    [{{"role": "user", "content": content}}], tokenize=True, return_dict=True, return_tensors="pt"
)
found = model.generate(**inputs)
print(processor.decode(found[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```
"""
TEXT_USAGE = """\
```python
{ours}from transformers import AutoModelForCausalLM, AutoTokenizer

place = "."  # this folder
model = AutoModelForCausalLM.from_pretrained(place)
tokenizer = AutoTokenizer.from_pretrained(place)
inputs = tokenizer(tokenizer.eos_token + "once upon a time", return_tensors="pt")  # documents begin with this mark
print(tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True))
```
"""
IMPORT_CLASSES_LINE = (
    "import firstsight.hub.hf_classes  # makes the model known to transformers; no code comes from this folder\n"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCardInfo:
    """What the card tells of a model beyond its spec."""

    checkpoint: Path
    tokens_seen: int
    parameter_count: int
    architecture: str
    fallback_reason: str
    """Why the architecture is firstsight's own; empty where it is transformers'."""


def model_card(spec: LMSpec | VLMSpec, card_info: ModelCardInfo) -> str:
    """The whole README.md; words that somebody chose are quoted so that they cannot be markup."""
    has_vision = isinstance(spec, VLMSpec)
    pipeline = "image-text-to-text" if has_vision else "text-generation"
    front_matter = f"---\nlibrary_name: transformers\npipeline_tag: {pipeline}\ntags:\n- firstsight\n---\n"
    description = "a language model that sees" if has_vision else "a language model"
    loading = (
        "natively"
        if not card_info.fallback_reason
        else f"through firstsight's own classes ({escape_markdown(card_info.fallback_reason)})"
    )
    import_line = IMPORT_CLASSES_LINE if card_info.fallback_reason else ""
    sections = [
        f"{front_matter}\n# {escape_markdown(card_info.checkpoint.absolute().name)}",
        f"This is {description}, with {card_info.parameter_count:,} parameters, exported by firstsight from a checkpoint that had seen "
        f"{card_info.tokens_seen:,} tokens in the stage that left it. "
        f"`transformers` loads it as `{card_info.architecture}`, {loading}.",
        "## What it is\n" + markdown_table(_spec_facts(spec)),
        "## How it was trained\n" + _training_section(card_info.checkpoint),
        "## How to load it\n" + (VISION_USAGE if has_vision else TEXT_USAGE).format(ours=import_line),
        _chat_format_section(spec),
        "## Licence\nNot said here: whoever publishes this folder chooses it, within the licences of the data, of the "
        "encoder and of what training began with.",
    ]
    return "\n\n".join(section.rstrip() for section in sections) + "\n"


def _spec_facts(spec: LMSpec | VLMSpec) -> dict[str, str]:
    lm = decoder_spec(spec)
    norm = "RMSNorm" if lm.norm == "rms" else "LayerNorm"
    facts = {
        "decoder": f"{lm.layers} layers, width {lm.width}, {lm.heads} heads ({lm.kv_heads} of keys and values), "
        f"hidden {lm.mlp_width}, vocabulary {lm.vocab_size:,}",
        "norms": f"{norm}{', also of queries and keys' if lm.qk_norm else ''}",
        "rotary": f"{type(lm.rope).__name__}, base {lm.rope.base:g}",
    }
    if lm.token_shift > 1:
        facts["token shift"] = f"{lm.token_shift} taps"
    if not isinstance(spec, VLMSpec):
        return facts
    vision = spec.vision
    tower_names = " + ".join(type(tower).__name__ for tower in vision.towers) or type(vision).__name__
    training_note = "" if isinstance(vision, PatchProjectionSpec) else f", {spec.encoder} in training"
    return facts | {
        "vision": f"{tower_names}, {vision.image_size} pixels a side, {spec.image_tokens} tokens a picture, {vision.fit}{training_note}",
        "projector": f"{spec.projector.kind}, pixel shuffle {spec.projector.pixel_shuffle}, spread {spec.projector.tokens_per_patch}",
        "attention": spec.attention,
    }


def _training_section(checkpoint: Path) -> str:
    """The last stage as achieved.json in the checkpoint's folder tells it."""
    achieved_file = checkpoint / "achieved.json"
    achieved_mix: dict[str, Any] = json.loads(achieved_file.read_text()) if achieved_file.is_file() else {}
    row_counts = achieved_mix.get("rows")
    if not isinstance(row_counts, dict):
        return "The checkpoint's folder did not say."
    facts = {f"rows of {name}": f"{count:,}" for name, count in row_counts.items()}
    facts |= {f"epochs of {name}": f"{count:.3g}" for name, count in achieved_mix.get("epochs", {}).items()}
    facts |= {f"image share in {name}": f"{share:.2%}" for name, share in achieved_mix.get("achieved", {}).items()}
    return "Its last stage of training:\n\n" + markdown_table(facts)


def _chat_format_section(spec: LMSpec | VLMSpec) -> str:
    if not isinstance(spec, VLMSpec):
        return "It was trained on text, not on dialogues, and has no chat template."
    return (
        "A dialogue is `[picture] question <|/h|> answer <|/a|>`; without a picture the end-of-text token stands "
        "there. `chat_template.jinja` writes it so: one picture a dialogue at most, no system turn."
    )


def markdown_table(facts: Mapping[str, str]) -> str:
    """Two columns of Markdown."""
    return "\n".join(
        [
            "| | |",
            "|---|---|",
            *(f"| {escape_markdown(key)} | {escape_markdown(value)} |" for key, value in facts.items()),
        ]
    )


def escape_markdown(text: str) -> str:
    """Words as words: nothing in them is Markdown or HTML, and they are one line."""
    line = " ".join(text.split())
    return re.sub(r"([\\`*_{}\[\]<>#|~!&$])", r"\\\1", line)
