"""Fixtures of checkpoint folders: a tokenizer file and the checkpoint of a small text model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from firstsight.model.checkpoint_io import save
from tests.model.tiny_models import PLAIN_LM, random_model


@pytest.fixture
def tokenizer_file(tmp_path: Path) -> Path:
    """A file in the place of a tokenizer; its content is never read."""
    file = tmp_path / "words" / "tokenizer.json"
    file.parent.mkdir()
    file.write_text("{}")
    return file


@pytest.fixture
def checkpoint(tmp_path: Path, tokenizer_file: Path) -> Path:
    """The folder of a text model with random weights."""
    folder = tmp_path / "kept"
    model = random_model(PLAIN_LM, dtype=torch.float32)
    save(folder, model, tokens_seen=0, tokenizer=tokenizer_file, encoders=[])
    return folder
