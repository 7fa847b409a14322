"""Files next to the weights: dialogues and tokens as in training, and published encoders that are refused."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer as Fast
from tokenizers import processors

import firstsight.hub.hf_classes  # noqa: F401
from firstsight.data.records import Dialogue, ImageLocation
from firstsight.data.tokenizer import load_tokenizer, tokenize_records
from firstsight.errors import ModelError
from firstsight.hub.export import export_checkpoint
from firstsight.model.checkpoint_io import save
from firstsight.model.vision import encoder_spec
from firstsight.recipe.model import VLMSpec
from tests.hub.checkpoints import (
    CHAT_TOKENS,
    FALLBACK,
    LLAVA,
    SIGLIP,
    load_processor,
    png_bytes,
    write_published_tower,
    write_tokenizer,
)
from tests.model.tiny_models import random_model


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model_type": "dinov3_convnext"}, "which is a convolutional network"),
        ({"model_type": "siglip2_vision_model"}, "whose images have any aspect ratio"),
        ({"model_type": "siglip", "vision_config": 3}, "wanted vision_config with settings. Got 3"),
        ({"patch_size": 0}, "wanted patch_size as a whole number above zero"),
        ({"num_attention_heads": 3}, "heads must divide the width"),
        ({"num_hidden_layers": 1}, "Set two"),
    ],
    ids=str,
)
def test_an_unsupported_encoder_is_named_with_file_and_reason(tmp_path: Path, change: Any, expected: str) -> None:
    write_published_tower(SIGLIP, tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ModelError) as caught:
        encoder_spec(tmp_path, "mine", "resize")
    assert str(caught.value).startswith(f"{file}: ") and expected in str(caught.value)


def test_a_siglip_2_of_a_fixed_size_is_resized_bilinearly_only(tmp_path: Path) -> None:
    """google/siglip2-base-patch16-512: model_type siglip, preprocessor_config.json with resample 2 (bilinear)."""
    write_published_tower(SIGLIP, tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({"image_processor_type": "SiglipImageProcessor", "resample": 2}))
    with pytest.raises(ModelError, match=rf"{file}: contradicts the spec: resample wanted 3 got 2"):
        encoder_spec(tmp_path, "mine", "resize")
    assert encoder_spec(tmp_path, "mine", "resize_bilinear").vit == SIGLIP.vit


@pytest.mark.parametrize("has_image", [True, False])
def test_dialogues_are_laid_out_as_training_rows(fallback_export: Path, has_image: bool) -> None:
    turns = ("what is the cat ?", "red", "where ?", "left of a dog")
    location = ImageLocation(shard="a.tar", offset=0, size=1, hash=0) if has_image else None
    tokenizer = load_tokenizer(fallback_export)
    [sample] = tokenize_records(tokenizer, [Dialogue(id="0", image=location, turns=turns)])
    image_part = [{"type": "image", "image": Image.open(io.BytesIO(png_bytes(0)))}] if has_image else []
    dialogue: list[Any] = [
        {"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(turns)
    ]
    dialogue[0]["content"] = [*image_part, {"type": "text", "text": turns[0]}]
    inputs = load_processor(fallback_export).apply_chat_template(
        dialogue, tokenize=True, return_dict=True, return_tensors="pt"
    )
    ids = inputs["input_ids"][0].tolist()
    spec = FALLBACK["letterbox"]
    assert isinstance(spec, VLMSpec)
    image_ids = [CHAT_TOKENS.index("<|img_patch|>") + 3] * spec.image_tokens if has_image else []
    assert ids == image_ids + sample.ids.tolist()


def test_dialogues_unlike_training_are_refused(fallback_export: Path) -> None:
    image_part = {"type": "image", "image": Image.open(io.BytesIO(png_bytes(0)))}
    for dialogue in (
        [{"role": "system", "content": "be kind"}],
        [{"role": "user", "content": [image_part, image_part]}],
    ):
        with pytest.raises(Exception, match=r"a dialogue (is|has)"):
            load_processor(fallback_export).apply_chat_template(dialogue)


def test_missing_chat_tokens_get_the_ids_of_training(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    bare_tokenizer = write_tokenizer(tmp_path / "bare", chat_tokens=())
    fast = Fast.from_file(str(bare_tokenizer))
    fast.post_processor = processors.TemplateProcessing(single="<|pad|> $A", special_tokens=[("<|pad|>", 1)])  # pyright: ignore
    fast.save(str(bare_tokenizer))
    save(
        tmp_path / "kept",
        random_model(LLAVA, dtype=torch.float32),
        tokens_seen=0,
        tokenizer=bare_tokenizer,
        encoders=[],
    )
    spec = replace(LLAVA, encoder="included")
    save(
        tmp_path / "kept", random_model(spec, dtype=torch.float32), tokens_seen=0, tokenizer=bare_tokenizer, encoders=[]
    )
    export_checkpoint(tmp_path / "kept", tmp_path / "out", dtype="float32")
    tokenizer, hf_tokenizer = load_tokenizer(tmp_path / "kept"), AutoTokenizer.from_pretrained(tmp_path / "out")
    assert hf_tokenizer.convert_tokens_to_ids(list(CHAT_TOKENS)) == [15, 16, 17, 18, 19]
    assert (hf_tokenizer.convert_tokens_to_ids("<|/h|>"), hf_tokenizer.eos_token_id) == (
        tokenizer.special_ids.human,
        tokenizer.special_ids.end,
    )
    text = "what is<|/h|>the cat"
    assert hf_tokenizer(text)["input_ids"] == [*tokenizer.encode(["what is"])[0], 19, *tokenizer.encode(["the cat"])[0]]
    assert hf_tokenizer.padding_side == "left"
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["image_token_index"] == 15
    stops = json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"]
    assert stops == [tokenizer.special_ids.end, tokenizer.special_ids.answer]
