"""Files that bring words and pictures to an exported model exactly as training rows had them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Fast

from firstsight.data.tokenizer import CHAT, Tokenizer
from firstsight.model.vision import siglip_processor
from firstsight.recipe.model import VLMSpec
from firstsight.recipe.vision import VisionSpec

IMAGE = CHAT[0]
"""Stands at the places of pictures."""
LIMIT = 128
"""Most tokens of an answer, as in the paper's harness."""
TEMPLATE = """\
{%- set seen = namespace(pictures=0) -%}
{%- for message in messages -%}
{%- if message['role'] != ['user', 'assistant'][loop.index0 % 2] -%}
{{- raise_exception('a dialogue is user, assistant, user and so on, with no system turn: so were training rows') -}}
{%- endif -%}
{%- if message['content'] is not string -%}
{%- for part in message['content'] if part['type'] == 'image' -%}
{%- set seen.pictures = seen.pictures + 1 -%}
{%- endfor -%}
{%- endif -%}
{%- endfor -%}
{%- if seen.pictures > 1 -%}{{- raise_exception('a dialogue is about one picture at most') -}}{%- endif -%}
{{- 'IMAGE' if seen.pictures else 'END' -}}
{%- for message in messages -%}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] if part['type'] == 'text' -%}{{- part['text'] -}}{%- endfor -%}
{%- endif -%}
{{- '<|/h|>' if message['role'] == 'user' else '<|/a|>' -}}
{%- endfor -%}
"""
"""A dialogue as `data.tokenizer` lays it out: the picture's places or the end token first, then the turns."""


def write_words(folder: Path, words: Tokenizer, *, dialogues: bool) -> dict[str, int]:
    """tokenizer.json with the chat marks added, its configuration, and the layout of dialogues; the ids of all marks.

    What a tokenizer's own file would put around every text is left out: training rows have none of it.
    """
    body, fast = _whole(words)
    (folder / "tokenizer.json").write_text(body)
    known = fast.get_vocab(with_added_tokens=True)
    end, pad = words.end, next(text for text, number in known.items() if number == words.special.pad)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": end,
        "eos_token": end,
        "pad_token": pad,
        "additional_special_tokens": list(CHAT),
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "left",
    }
    write_json(folder / "tokenizer_config.json", settings)
    stops = [words.special.end, words.special.answer] if dialogues else words.special.end
    generation = {"do_sample": False, "max_new_tokens": LIMIT, "eos_token_id": stops}
    write_json(
        folder / "generation_config.json",
        generation | {"bos_token_id": words.special.end, "pad_token_id": words.special.pad},
    )
    if dialogues:
        (folder / "chat_template.jinja").write_text(TEMPLATE.replace("IMAGE", IMAGE).replace("END", end))
    return {text: known[text] for text in CHAT}


def _whole(words: Tokenizer) -> tuple[str, Fast]:
    """The tokenizer's file with every mark in it, and the tokenizer that it is."""
    given = words.path.read_text()
    fast = Fast.from_str(given)
    fast.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in CHAT])
    fast.add_special_tokens([AddedToken(words.end, special=True, normalized=False)])
    body: dict[str, Any] = json.loads(fast.to_str())
    around = (body.get("post_processor") or {}).get("type", "ByteLevel")
    body |= {"truncation": None, "padding": None} | ({} if around == "ByteLevel" else {"post_processor": None})
    return (given if body == json.loads(given) else json.dumps(body, ensure_ascii=False, indent=2) + "\n"), fast


def write_processor(folder: Path, spec: VLMSpec, *, native: bool) -> None:
    """How pictures become pixels and how many places each takes, for transformers' Llava or for our own classes."""
    vision: VisionSpec = spec.vision
    if not native:
        whole: dict[str, object] = {"processor_class": "FirstsightProcessor"}
        measures = {"size": vision.image, "fit": vision.fit, "ground": list(vision.ground)}
        picture = {"image_processor_type": "FirstsightImageProcessor", "image_tokens": spec.image_tokens, **measures}
        write_json(folder / "preprocessor_config.json", whole | picture)
        write_json(folder / "processor_config.json", whole)
        return
    picture = siglip_processor(vision.image) | {"processor_class": "LlavaProcessor", "do_convert_rgb": True}
    write_json(folder / "preprocessor_config.json", picture)
    whole = {
        "processor_class": "LlavaProcessor",
        "image_token": IMAGE,
        "patch_size": spec.vision.towers[0].vit.patch,
        "vision_feature_select_strategy": "full",
        "num_additional_image_tokens": 0,
    }
    write_json(folder / "processor_config.json", whole)


def write_json(file: Path, body: object) -> None:
    """Plain JSON, keys in order, so that equal content has equal bytes."""
    file.write_text(json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
