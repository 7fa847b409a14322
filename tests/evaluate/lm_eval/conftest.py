"""Untrained text checkpoints with a small byte-level tokenizer, whose tokens include the space before a word."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from firstsight.evaluate.models.native import NativeModel, load_native_model
from firstsight.model.checkpoint_io import save
from firstsight.recipe.model import LMSpec, llama_family_spec, openlm_spec
from firstsight.site import Site
from tests.model.tiny_models import random_model

MARKS = ("<|endoftext|>", "<|pad|>", "<|img_patch|>", "<|a|>", "<|/a|>", "<|h|>", "<|/h|>")
TEXTS = ["Question: what is the cat\nAnswer: the cat is red. No, it is not  there?  yes", "a man, a plan; the end."] * 8
VOCAB_SIZE = 320
LLAMA = llama_family_spec(layers=2, width=32, heads=4, kv_heads=2, mlp_width=48, vocab_size=VOCAB_SIZE)
OPENLM = replace(openlm_spec(layers=2, width=32, heads=2, vocab_size=VOCAB_SIZE), mlp_width=64)
SPECS: dict[str, LMSpec] = {"llama": LLAMA, "openlm": OPENLM}


@pytest.fixture(scope="session")
def byte_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("byte_tokenizer") / "tokenizer.json"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    vocab_size = VOCAB_SIZE - len(MARKS)
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in MARKS])
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="session")
def checkpoint_folder(byte_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a randomly initialised "llama" or "openlm"."""
    root = tmp_path_factory.mktemp("text")

    def make(family: str) -> Path:
        if not (root / family).exists():
            model = random_model(SPECS[family], dtype=torch.float32)
            save(root / family, model, tokens_seen=0, tokenizer=byte_tokenizer, encoders=[])
        return root / family

    return make


@pytest.fixture
def model(checkpoint_folder: Callable[[str], Path]) -> NativeModel:
    return native_model(checkpoint_folder("openlm"))


def native_model(checkpoint: Path) -> NativeModel:
    """The checkpoint of a folder, in float32."""
    model = load_native_model(checkpoint, site=Site())
    model.checkpoint.model.lm.compute_dtype = torch.float32
    return model
