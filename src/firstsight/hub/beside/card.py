"""The model card of an exported folder: what it is, how it was trained as far as its folder tells, how to load it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstsight.recipe.lm import LMSpec
from firstsight.recipe.model import VLMSpec, decoder
from firstsight.recipe.vision import Patches

SEEING = """\
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
READING = """\
```python
{ours}from transformers import AutoModelForCausalLM, AutoTokenizer

place = "."  # this folder
model = AutoModelForCausalLM.from_pretrained(place)
tokenizer = AutoTokenizer.from_pretrained(place)
inputs = tokenizer(tokenizer.eos_token + "once upon a time", return_tensors="pt")  # documents begin with this mark
print(tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True))
```
"""
OURS = "import firstsight.hub.classes  # makes the model known to transformers; no code comes from this folder\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """What the card tells of a model beyond its spec."""

    checkpoint: Path
    seen: int
    parameters: int
    architecture: str
    reason: str
    """Why the architecture is firstsight's own; empty where it is transformers'."""


def text(spec: LMSpec | VLMSpec, about: About) -> str:
    """The whole README.md; words that somebody chose are quoted so that they cannot be markup."""
    sees = isinstance(spec, VLMSpec)
    pipeline = "image-text-to-text" if sees else "text-generation"
    head = f"---\nlibrary_name: transformers\npipeline_tag: {pipeline}\ntags:\n- firstsight\n---\n"
    kind = "a language model that sees" if sees else "a language model"
    how = "natively" if not about.reason else f"through firstsight's own classes ({plain(about.reason)})"
    ours = OURS if about.reason else ""
    parts = [
        f"{head}\n# {plain(about.checkpoint.absolute().name)}",
        f"This is {kind}, with {about.parameters:,} parameters, exported by firstsight from a checkpoint that had seen "
        f"{about.seen:,} tokens in the stage that left it. "
        f"`transformers` loads it as `{about.architecture}`, {how}.",
        "## What it is\n" + table(_facts(spec)),
        "## How it was trained\n" + _training(about.checkpoint),
        "## How to load it\n" + (SEEING if sees else READING).format(ours=ours),
        _layout(spec),
        "## Licence\nNot said here: whoever publishes this folder chooses it, within the licences of the data, of the "
        "encoder and of what training began with.",
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _facts(spec: LMSpec | VLMSpec) -> dict[str, str]:
    lm = decoder(spec)
    norm = "RMSNorm" if lm.norm == "rms" else "LayerNorm"
    found = {
        "decoder": f"{lm.layers} layers, width {lm.width}, {lm.heads} heads ({lm.kv_heads} of keys and values), "
        f"hidden {lm.hidden}, vocabulary {lm.vocabulary:,}",
        "norms": f"{norm}{', also of queries and keys' if lm.qk_norm else ''}",
        "rotary": f"{type(lm.rope).__name__}, base {lm.rope.base:g}",
    }
    if lm.token_shift > 1:
        found["token shift"] = f"{lm.token_shift} taps"
    if not isinstance(spec, VLMSpec):
        return found
    vision = spec.vision
    names = " + ".join(type(one).__name__ for one in vision.towers) or type(vision).__name__
    state = "" if isinstance(vision, Patches) else f", {spec.encoder} in training"
    return found | {
        "vision": f"{names}, {vision.image} pixels a side, {spec.image_tokens} tokens a picture, {vision.fit}{state}",
        "projector": f"{spec.projector.kind}, pixel shuffle {spec.projector.shuffle}, spread {spec.projector.spread}",
        "attention": spec.attention,
    }


def _training(checkpoint: Path) -> str:
    """The last stage as achieved.json in the checkpoint's folder tells it."""
    file = checkpoint / "achieved.json"
    told: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    rows = told.get("rows")
    if not isinstance(rows, dict):
        return "The checkpoint's folder did not say."
    facts = {f"rows of {name}": f"{count:,}" for name, count in rows.items()}
    facts |= {f"epochs of {name}": f"{count:.3g}" for name, count in told.get("epochs", {}).items()}
    facts |= {f"image share in {name}": f"{part:.2%}" for name, part in told.get("achieved", {}).items()}
    return "Its last stage of training:\n\n" + table(facts)


def _layout(spec: LMSpec | VLMSpec) -> str:
    if not isinstance(spec, VLMSpec):
        return "It was trained on text, not on dialogues, and has no chat template."
    return (
        "A dialogue is `[picture] question <|/h|> answer <|/a|>`; without a picture the end-of-text token stands "
        "there. `chat_template.jinja` writes it so: one picture a dialogue at most, no system turn."
    )


def table(facts: Mapping[str, str]) -> str:
    """Two columns of Markdown."""
    return "\n".join(["| | |", "|---|---|", *(f"| {plain(key)} | {plain(value)} |" for key, value in facts.items())])


def plain(words: str) -> str:
    """Words as words: nothing in them is Markdown or HTML, and they are one line."""
    flat = " ".join(words.split())
    return re.sub(r"([\\`*_{}\[\]<>#|~!&$])", r"\\\1", flat)
