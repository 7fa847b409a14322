"""Files of a model's folder except its weights: tokenizer, processor, chat template, and encoder folders."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as HFTokenizer
from torch import Tensor

from firstsight.data.tokenizer import CHAT_TOKENS, Tokenizer
from firstsight.files import write_json
from firstsight.model.tensors import write_tensors
from firstsight.model.vision import siglip_processor_config
from firstsight.recipe.model import VLMSpec
from firstsight.recipe.vision import Dinov2, Dinov3, PatchProjectionSpec, TowerSpec, VisionSpec

ENCODER_TENSOR_NAME = re.compile(r"encoder\.towers\.(\d)\.(.+)")
"""A frozen tower's tensor among those of a whole model: the index of the tower, and the name in it."""
IMAGE_TOKEN = CHAT_TOKENS[0]
"""The placeholder of an image's tokens in a prompt."""
MAX_NEW_TOKENS = 128
"""Longest answer in tokens, as in the paper's harness."""
CHAT_TEMPLATE = """\
{%- set images = namespace(count=0) -%}
{%- for message in messages -%}
{%- if message['role'] != ['user', 'assistant'][loop.index0 % 2] -%}
{{- raise_exception('a dialogue is user, assistant, user and so on, without a system turn, as in training') -}}
{%- endif -%}
{%- if message['content'] is not string -%}
{%- for part in message['content'] if part['type'] == 'image' -%}
{%- set images.count = images.count + 1 -%}
{%- endfor -%}
{%- endif -%}
{%- endfor -%}
{%- if images.count > 1 -%}{{- raise_exception('a dialogue has at most one image') -}}{%- endif -%}
{{- 'IMAGE' if images.count else 'END' -}}
{%- for message in messages -%}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] if part['type'] == 'text' -%}{{- part['text'] -}}{%- endfor -%}
{%- endif -%}
{{- '<|/h|>' if message['role'] == 'user' else '<|/a|>' -}}
{%- endfor -%}
"""
"""Lays out a dialogue like `data.tokenizer`: the image's tokens or the end token, then the turns."""


def write_tokenizer_files(folder: Path, tokenizer: Tokenizer, *, has_dialogues: bool) -> dict[str, int]:
    """Write tokenizer.json with the chat tokens, its configuration, and the chat template; returns their ids.

    A post-processor that adds tokens to every text is removed: training rows have none of them.
    """
    text, fast = _with_chat_tokens(tokenizer)
    (folder / "tokenizer.json").write_text(text)
    vocabulary, ids = fast.get_vocab(with_added_tokens=True), tokenizer.special_ids
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokenizer.end_token,
        "eos_token": tokenizer.end_token,
        "pad_token": next(token for token, token_id in vocabulary.items() if token_id == ids.pad),
        "additional_special_tokens": list(CHAT_TOKENS),
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "left",
    }
    write_json(folder / "tokenizer_config.json", tokenizer_config, indent=2)
    generation_config = {
        "do_sample": False,
        "max_new_tokens": MAX_NEW_TOKENS,
        "bos_token_id": ids.end,
        "eos_token_id": [ids.end, ids.answer] if has_dialogues else ids.end,
        "pad_token_id": ids.pad,
    }
    write_json(folder / "generation_config.json", generation_config, indent=2)
    if has_dialogues:
        template = CHAT_TEMPLATE.replace("IMAGE", IMAGE_TOKEN).replace("END", tokenizer.end_token)
        (folder / "chat_template.jinja").write_text(template)
    return {token: vocabulary[token] for token in CHAT_TOKENS}


def _with_chat_tokens(tokenizer: Tokenizer) -> tuple[str, HFTokenizer]:
    """The content of tokenizer.json with all chat tokens, and its tokenizer; the file's own text if nothing changed."""
    source = tokenizer.path.read_text()
    fast = HFTokenizer.from_str(source)
    fast.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CHAT_TOKENS])
    fast.add_special_tokens([AddedToken(tokenizer.end_token, special=True, normalized=False)])
    body: dict[str, Any] = json.loads(fast.to_str()) | {"truncation": None, "padding": None}
    if (body.get("post_processor") or {}).get("type", "ByteLevel") != "ByteLevel":
        body["post_processor"] = None
    return source if body == json.loads(source) else json.dumps(body, ensure_ascii=False, indent=2) + "\n", fast


def write_processor_config(folder: Path, spec: VLMSpec, *, uses_hf_class: bool) -> None:
    """Write how images become pixels and how many tokens each has, for transformers' Llava or firstsight's classes."""
    vision: VisionSpec = spec.vision
    name = "LlavaProcessor" if uses_hf_class else "FirstsightProcessor"
    processor: dict[str, object] = {"processor_class": name}
    if uses_hf_class:
        images: dict[str, object] = siglip_processor_config(vision.image_size) | {"do_convert_rgb": True}
        processor |= {
            "image_token": IMAGE_TOKEN,
            "patch_size": vision.towers[0].vit.patch_size,
            "vision_feature_select_strategy": "full",
            "num_additional_image_tokens": 0,
        }
    else:
        images = {
            "image_processor_type": "FirstsightImageProcessor",
            "image_tokens": spec.image_tokens,
            "size": vision.image_size,
            "fit": vision.fit,
            "ground": list(vision.pad_color),
        }
    write_json(folder / "preprocessor_config.json", images | {"processor_class": name}, indent=2)
    write_json(folder / "processor_config.json", processor, indent=2)


def write_encoder_towers(folder: Path, spec: VLMSpec, tensors: Mapping[str, Tensor]) -> None:
    """Write each tower of an external encoder as a folder encoder0, encoder1 in the layout of published encoders."""
    towers = () if isinstance(spec.vision, PatchProjectionSpec) else spec.vision.towers
    names = [match for name in tensors if (match := ENCODER_TENSOR_NAME.fullmatch(name))]
    for number, tower in enumerate(towers):
        tower_folder = folder / f"encoder{number}"
        tower_folder.mkdir()
        write_tensors(tower_folder, {name[2]: tensors[name[0]] for name in names if int(name[1]) == number})
        write_json(tower_folder / "config.json", tower_config(tower))


def tower_config(spec: TowerSpec) -> dict[str, Any]:
    """A tower's config.json; it counts the last block, which is never run and whose weights are absent."""
    vit = spec.vit
    sizes: dict[str, Any] = {
        "num_hidden_layers": vit.layers,
        "hidden_size": vit.width,
        "num_attention_heads": vit.heads,
        "patch_size": vit.patch_size,
    }
    if not isinstance(spec, Dinov2):
        sizes |= {"intermediate_size": vit.mlp_width, "image_size": vit.image_size}
        if isinstance(spec, Dinov3):
            return sizes | {"num_register_tokens": spec.registers, "model_type": "dinov3_vit"}
        return sizes | {"model_type": f"{spec.TAG}_vision_model"}
    sizes |= {"image_size": spec.position_grid_size * vit.patch_size, "mlp_ratio": vit.mlp_width // vit.width}
    if not spec.registers:
        return sizes | {"model_type": "dinov2"}
    return sizes | {"num_register_tokens": spec.registers, "model_type": "dinov2_with_registers"}
