"""Folders of tiny transformers models, and images of several shapes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.evaluate.conftest import random_png
from tests.evaluate.models import tiny_hf_models

MakeFolder = Callable[[str], Path]
"""The fixture `hf_folder`: from "llava", "paligemma", "idefics3" or "qwen2_vl" to a folder."""
NAMED_IMAGES = [
    ("a.png", random_png(1, width=40, height=30)),
    ("b.png", random_png(2, width=100, height=20)),
    ("c.png", random_png(3, width=64, height=90)),
]


@pytest.fixture(scope="session")
def hf_folder(tmp_path_factory: pytest.TempPathFactory) -> MakeFolder:
    """The folder of a tiny model with random weights."""
    root = tmp_path_factory.mktemp("transformers")
    return cache(lambda kind: getattr(tiny_hf_models, kind)(root / kind))
