"""Exported folders, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from firstsight.hub.export import export_checkpoint
from tests.hub.checkpoints import FALLBACK, LLAVA, write_checkpoint


@pytest.fixture(scope="session")
def letterbox_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with letterboxed images, whose name is valid Markdown and HTML."""
    folder = tmp_path_factory.mktemp("letterbox") / "start-080 <b>*bold*"
    return write_checkpoint(folder, FALLBACK["letterbox"])


@pytest.fixture(scope="session")
def fallback_export(letterbox_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of `letterbox_checkpoint`, loaded by firstsight's classes."""
    out = tmp_path_factory.mktemp("fallback") / "out"
    export_checkpoint(letterbox_checkpoint, out, dtype="float32")
    return out


@pytest.fixture(scope="session")
def native_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export that transformers' Llava loads."""
    folder = tmp_path_factory.mktemp("native")
    export_checkpoint(write_checkpoint(folder / "checkpoint", LLAVA), folder / "out", dtype="float32")
    return folder / "out"
