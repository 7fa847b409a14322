"""Files that bring words and pictures to an exported model exactly as training rows had them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Fast

from firstsight.data.tokenizer import CHAT_TOKENS, Tokenizer
from firstsight.model.vision import siglip_processor_config
from firstsight.recipe.model import VLMSpec
from firstsight.recipe.vision import VisionSpec

IMAGE_TOKEN = CHAT_TOKENS[0]
"""Stands at the places of pictures."""
MAX_NEW_TOKENS = 128
"""Most tokens of an answer, as in the paper's harness."""
CHAT_TEMPLATE = """\
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


def write_tokenizer_files(folder: Path, tokenizer: Tokenizer, *, has_dialogues: bool) -> dict[str, int]:
    """tokenizer.json with the chat marks added, its configuration, and the layout of dialogues; the ids of all marks.

    What a tokenizer's own file would put around every text is left out: training rows have none of it.
    """
    tokenizer_json, fast_tokenizer = _with_chat_tokens(tokenizer)
    (folder / "tokenizer.json").write_text(tokenizer_json)
    vocab = fast_tokenizer.get_vocab(with_added_tokens=True)
    end_token, pad_token = (
        tokenizer.end_token,
        next(token for token, token_id in vocab.items() if token_id == tokenizer.special_ids.pad),
    )
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": end_token,
        "eos_token": end_token,
        "pad_token": pad_token,
        "additional_special_tokens": list(CHAT_TOKENS),
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "left",
    }
    write_json(folder / "tokenizer_config.json", tokenizer_config)
    stop_ids = [tokenizer.special_ids.end, tokenizer.special_ids.answer] if has_dialogues else tokenizer.special_ids.end
    generation_config = {"do_sample": False, "max_new_tokens": MAX_NEW_TOKENS, "eos_token_id": stop_ids}
    write_json(
        folder / "generation_config.json",
        generation_config | {"bos_token_id": tokenizer.special_ids.end, "pad_token_id": tokenizer.special_ids.pad},
    )
    if has_dialogues:
        (folder / "chat_template.jinja").write_text(
            CHAT_TEMPLATE.replace("IMAGE", IMAGE_TOKEN).replace("END", end_token)
        )
    return {token: vocab[token] for token in CHAT_TOKENS}


def _with_chat_tokens(tokenizer: Tokenizer) -> tuple[str, Fast]:
    """The tokenizer's file with every mark in it, and the tokenizer that it is."""
    source_json = tokenizer.path.read_text()
    fast_tokenizer = Fast.from_str(source_json)
    fast_tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CHAT_TOKENS])
    fast_tokenizer.add_special_tokens([AddedToken(tokenizer.end_token, special=True, normalized=False)])
    body: dict[str, Any] = json.loads(fast_tokenizer.to_str())
    post_processor_type = (body.get("post_processor") or {}).get("type", "ByteLevel")
    body |= {"truncation": None, "padding": None} | (
        {} if post_processor_type == "ByteLevel" else {"post_processor": None}
    )
    return (
        source_json if body == json.loads(source_json) else json.dumps(body, ensure_ascii=False, indent=2) + "\n"
    ), fast_tokenizer


def write_processor_config(folder: Path, spec: VLMSpec, *, is_native: bool) -> None:
    """How pictures become pixels and how many places each takes, for transformers' Llava or for our own classes."""
    vision: VisionSpec = spec.vision
    if not is_native:
        processor_config: dict[str, object] = {"processor_class": "FirstsightProcessor"}
        image_settings = {"size": vision.image_size, "fit": vision.fit, "ground": list(vision.pad_color)}
        image_config = {
            "image_processor_type": "FirstsightImageProcessor",
            "image_tokens": spec.image_tokens,
            **image_settings,
        }
        write_json(folder / "preprocessor_config.json", processor_config | image_config)
        write_json(folder / "processor_config.json", processor_config)
        return
    image_config = siglip_processor_config(vision.image_size) | {
        "processor_class": "LlavaProcessor",
        "do_convert_rgb": True,
    }
    write_json(folder / "preprocessor_config.json", image_config)
    processor_config = {
        "processor_class": "LlavaProcessor",
        "image_token": IMAGE_TOKEN,
        "patch_size": spec.vision.towers[0].vit.patch_size,
        "vision_feature_select_strategy": "full",
        "num_additional_image_tokens": 0,
    }
    write_json(folder / "processor_config.json", processor_config)


def write_json(path: Path, body: object) -> None:
    """Plain JSON, keys in order, so that equal content has equal bytes."""
    path.write_text(json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
