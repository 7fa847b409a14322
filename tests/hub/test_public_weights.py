"""Public weights: folders that transformers saved again, missing tensors, a full disk."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from firstsight.errors import ModelError, StoreError
from firstsight.hub import export, import_
from firstsight.hub.export import export_checkpoint
from firstsight.model.checkpoint_io import read_spec
from firstsight.model.tensors import read_tensors
from tests.hub.checkpoints import (
    FALLBACK,
    LLAMA,
    import_weights,
    write_checkpoint,
    write_tokenizer,
)


@pytest.mark.parametrize("name", ["vision", "fused", "shifted"])
def test_a_folder_saved_again_by_transformers_is_imported(tmp_path: Path, name: str) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    import firstsight.hub.hf_classes  # noqa: F401  # pyright: ignore[reportUnusedImport]

    first = write_checkpoint(tmp_path / "first", FALLBACK[name])
    export_checkpoint(first, tmp_path / "out", dtype="float32")
    auto = AutoModelForCausalLM if name == "shifted" else AutoModelForImageTextToText
    auto.from_pretrained(tmp_path / "out").save_pretrained(tmp_path / "again")
    write_tokenizer(tmp_path / "again")
    import_weights(tmp_path / "again", tmp_path / "back")
    original, imported = read_tensors(first), read_tensors(tmp_path / "back")
    assert original.keys() == imported.keys()
    assert all(torch.equal(imported[name], tensor) for name, tensor in original.items())


def test_tokens_seen_of_an_exported_text_model_are_imported(tmp_path: Path) -> None:
    first = write_checkpoint(tmp_path / "first", LLAMA)
    export_checkpoint(first, tmp_path / "out", dtype="float32")
    import_weights(tmp_path / "out", tmp_path / "back")
    assert read_spec(tmp_path / "back") == read_spec(first)


def test_a_frozen_encoders_missing_tensor_is_named_at_import(tmp_path: Path) -> None:
    export_checkpoint(write_checkpoint(tmp_path / "first", FALLBACK["fused"]), tmp_path / "out", dtype="float32")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    missing = "encoder.towers.1.embeddings.cls_token"
    del tensors[missing]
    save_file(tensors, tmp_path / "out" / "model.safetensors")
    with pytest.raises(ModelError, match=rf"contradict each other\. missing: {missing}\. Copy"):
        import_weights(tmp_path / "out", tmp_path / "back")
    assert not (tmp_path / "back").exists()


DISK_ERRORS = (OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: No space left on device"))


@pytest.mark.parametrize("error", DISK_ERRORS, ids=["python", "safetensors"])
def test_a_full_disk_is_an_error_that_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def raise_full(folder: Path, *_: Any, **__: Any) -> None:
        (folder / "model.safetensors.0.new").write_bytes(b"half")
        raise error

    first = write_checkpoint(tmp_path / "first", LLAMA)
    export_checkpoint(first, tmp_path / "out", dtype="float32")
    before = set(tmp_path.iterdir())
    monkeypatch.setattr(import_, "write_tensors", raise_full)
    monkeypatch.setattr(export, "write_tensors", raise_full)
    with pytest.raises(StoreError, match=r"back: wanted .* No space left on device\. Nothing was left there"):
        import_weights(tmp_path / "out", tmp_path / "back")
    with pytest.raises(StoreError, match=r"other: wanted .* No space left on device\. Nothing was left there"):
        export_checkpoint(first, tmp_path / "other", dtype="float32")
    assert set(tmp_path.iterdir()) == before
