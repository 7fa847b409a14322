"""Benchmarks of two words, and untrained checkpoints that can read them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from firstsight.model.checkpoint_io import save
from firstsight.model.vlm import VLM
from firstsight.recipe.lm import openlm_spec
from firstsight.recipe.mixture import External
from firstsight.recipe.model import ProjectorSpec, VLMSpec
from firstsight.recipe.vision import PatchProjectionSpec, Siglip, ViTSpec
from firstsight.units import Tokens

SPECIAL = ("<|endoftext|>", "<|pad|>", "<|img_patch|>", "<|a|>", "<|/a|>", "<|h|>", "<|/h|>")
WORDS = ("what", "is", "it", "?", "there", "a", "cat", "dog", "yes", "no", "0.1", "0.9", "red", "the")
ASKED = ("answer", "question", "using", "single", "word", "or", "phrase.")
"""What the paper's wording of a question adds."""
BLIND = {"vqav2": "cat", "pope": "yes", "refcoco": "0.1 0.1 0.9 0.9"}

LM = replace(openlm_spec(layers=2, width=32, heads=2, vocab_size=32), mlp_width=64, token_shift=2, embedding_scale=4)
PATCHES = VLMSpec(
    lm=LM,
    vision=PatchProjectionSpec(image_size=16, patch_size=8, width=16, fit="resize"),
    encoder="frozen",
    projector=ProjectorSpec(kind="mlp2", pixel_shuffle=1, tokens_per_patch=1, has_position_embeddings=True),
    attention="causal",
)
VIT = ViTSpec(layers=2, width=16, heads=2, mlp_width=32, image_size=16, patch_size=8)
TOWER = External(name="tower", form="encoder", tokens=Tokens(0))
SIGLIP = VLMSpec(
    lm=LM,
    vision=Siglip(vit=VIT, fit="resize", weights=TOWER),
    encoder="frozen",
    projector=ProjectorSpec(kind="mlp2", pixel_shuffle=1, tokens_per_patch=1, has_position_embeddings=False),
    attention="causal",
)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    words = {word: number for number, word in enumerate(SPECIAL + WORDS + ASKED)}
    made = Tokenizer(models.WordLevel(words, unk_token="<|pad|>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    made.save(str(path))
    return path


@pytest.fixture(scope="session")
def checkpoint(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of an untrained "lm", "patches" or "siglip" model."""
    root = tmp_path_factory.mktemp("checkpoints")

    def make(kind: str) -> Path:
        spec = {"lm": LM, "patches": PATCHES, "siglip": SIGLIP}[kind]
        if not (root / kind).exists():
            model = VLM(spec)
            model.initialise(7)
            encoders = [_tower(root / "tower")] if kind == "siglip" else []
            save(root / kind, model, tokens_seen=0, tokenizer=tokenizer, encoders=encoders)
        return root / kind

    return make


def _tower(folder: Path) -> Path:
    import torch
    from transformers import SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(0)
    config = SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    SiglipVisionModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vqav2, pope, refcoco and copa, twelve questions each, about six pictures."""
    root = tmp_path_factory.mktemp("benchmarks")
    with tarfile.open(root / "images.tar", "w") as tar:
        for number in range(6):
            pixels = np.random.default_rng(number).integers(0, 256, (24, 20, 3)).astype(np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            info = tarfile.TarInfo(f"{number:06d}.png")
            info.size = len(file.getvalue())
            tar.addfile(info, io.BytesIO(file.getvalue()))
    _vqa(root / "vqav2")
    _pope(root / "pope")
    boxes = [
        {
            "question_id": n,
            "img_id": f"{n % 6:06d}",
            "sents": "the cat",
            "bbox": [2, 2, 16, 16],
            "width": 20,
            "height": 20,
        }
        for n in range(12)
    ]
    _put(root / "refcoco", "refcoco_val.json", boxes)
    rows = [{"query": "what is it ?", "choices": ["a cat", "dog"], "gold": n % 2} for n in range(12)]
    _put(root / "copa", "copa.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    ids = {
        "vqav2": [str(n) for n in range(12)],
        "pope": [f"{split}-{n}" for split in ("adversarial", "popular", "random") for n in range(4)],
        "refcoco": [str(n) for n in range(12)],
    }
    for name, guess in BLIND.items():
        _put(root / name, "question_blind.json", dict.fromkeys(ids[name], guess))
    return root


def _vqa(folder: Path) -> None:
    tags = [{"form": "heldout" if n % 3 == 0 else "seen", "combination": "seen"} for n in range(12)]
    questions = [{"question_id": n, "image_id": n % 6, "question": "what is it ?"} | tags[n] for n in range(12)]
    answers = [{"question_id": n, "answers": [{"answer": "cat" if n % 2 else "dog"}] * 10} for n in range(12)]
    _put(folder, "questions.json", {"questions": questions})
    _put(folder, "annotations.json", {"annotations": answers})


def _pope(folder: Path) -> None:
    for split in ("random", "popular", "adversarial"):
        rows = [
            {"question_id": n, "image": f"{n:06d}.png", "text": "is there a cat ?", "label": ("yes", "no")[n % 2]}
            for n in range(4)
        ]
        _put(folder, f"coco_pope_{split}.json", "".join(json.dumps(row) + "\n" for row in rows))


def _put(folder: Path, name: str, content: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
