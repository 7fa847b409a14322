"""Fixtures of the commands: a study file, checkpoints and benchmarks, and a folder with data to prepare."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.command_line import STUDY_FILE
from tests.data.conftest import workshop
from tests.evaluate.conftest import benchmarks, checkpoint, tokenizer

__all__ = ["benchmarks", "checkpoint", "tokenizer", "workshop"]


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    """A file with the study function `late`."""
    path = tmp_path / "mine.py"
    path.write_text(STUDY_FILE)
    return path
