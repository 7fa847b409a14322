"""The files that determine a checkpoint's answers, in both layouts, and images that cannot be decoded."""

from __future__ import annotations

from pathlib import Path

import pytest

from firstsight.data.records import RecordError
from firstsight.errors import DataError, ModelError
from firstsight.evaluate.models.interface import image_errors, list_checkpoint_files


def test_training_files_of_a_transformers_folder_are_left_out(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "chat_template.jinja", "README.md", "optimizer.bin", "a.gguf"):
        (tmp_path / name).write_text(name)
    names = [file.name for file in list_checkpoint_files(tmp_path)]
    assert names == ["chat_template.jinja", "config.json", "model.safetensors"]


def test_a_folder_in_neither_layout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ModelError, match=r"spec\.json \(firstsight\) or config\.json \(transformers\). Got notes\.txt"):
        list_checkpoint_files(tmp_path)
    with pytest.raises(ModelError, match="Got nothing"):
        list_checkpoint_files(tmp_path / "none")


def test_an_image_that_cannot_be_decoded_is_named() -> None:
    with pytest.raises(DataError, match=r"a\.png: wanted an image\. Got 12 bytes\."), image_errors("a.png"):
        raise RecordError("no image", "12 bytes")
