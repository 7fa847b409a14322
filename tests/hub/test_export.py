"""Exported folders: unsupported models, other files in the folder, killed exports, the how-to and the command."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import firstsight.hub.hf_classes  # noqa: F401
from firstsight.cli.app import command
from firstsight.errors import ModelError, RequestError
from firstsight.hub import export, llama, llava
from firstsight.hub.export import export_checkpoint
from firstsight.model.checkpoint_io import save
from firstsight.model.tensors import read_tensors
from firstsight.recipe.model import VLMSpec
from tests.hub.checkpoints import (
    FALLBACK,
    NATIVE,
    OPENLM,
    png_bytes,
    write_tokenizer,
)
from tests.model.tiny_models import random_model


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    small = replace(OPENLM, vocab_size=19)
    model = random_model(small, dtype=torch.float32)
    save(tmp_path / "kept", model, tokens_seen=0, tokenizer=write_tokenizer(tmp_path / "words"), encoders=[])
    with pytest.raises(ModelError, match=r"wanted at most 19 tokens.*Got 20"):
        export_checkpoint(tmp_path / "kept", tmp_path / "out", dtype="float32")
    assert not (tmp_path / "out").exists()


def test_other_files_are_not_replaced(letterbox_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years")
    with pytest.raises(RequestError, match="Got other files"):
        export_checkpoint(letterbox_checkpoint, tmp_path / "out", dtype="float32")
    with pytest.raises(RequestError, match="Got a file"):
        export_checkpoint(letterbox_checkpoint, tmp_path / "out" / "thesis.txt", dtype="float32")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_a_killed_export_leaves_nothing_and_a_new_one_replaces(
    letterbox_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_checkpoint(letterbox_checkpoint, tmp_path / "out", dtype="float32")
    before = (tmp_path / "out" / "model.safetensors").read_bytes()

    def killed(*_: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(export, "model_card", killed)
        for name in ("out", "new"):
            with pytest.raises(KeyboardInterrupt):
                export_checkpoint(letterbox_checkpoint, tmp_path / name, dtype="bfloat16")
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
    export_checkpoint(letterbox_checkpoint, tmp_path / "out", dtype="bfloat16")
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    output = read_tensors(tmp_path / "out")
    assert {tensor.dtype for tensor in output.values()} == {torch.bfloat16}
    assert torch.equal(output["lm.norm.weight"], read_tensors(letterbox_checkpoint)["lm.norm.weight"].bfloat16())


def test_the_unsupported_reason_is_empty_for_native_models() -> None:
    for name, spec in (NATIVE | FALLBACK).items():
        has_vision = isinstance(spec, VLMSpec)
        reason = llava.llava_unsupported_reason(spec) if has_vision else llama.llama_unsupported_reason(spec)
        assert (reason == "") == (name in NATIVE)
        if name in FALLBACK:
            with pytest.raises(ModelError):
                _ = llava.llava_config(spec) if has_vision else llama.llama_config(spec)


def test_the_how_to_runs(
    fallback_export: Path, native_export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Path(__file__).parents[2] / "docs" / "howto" / "transformers.md"
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "image.png").write_bytes(png_bytes(0))
    for folder in (fallback_export, native_export):
        (tmp_path / "exported").unlink(missing_ok=True)
        (tmp_path / "exported").symlink_to(folder)
        namespace: dict[str, Any] = {}
        for block in blocks:
            exec(compile(block, str(page), "exec"), namespace)
        assert isinstance(namespace["answer"], str) and len(namespace["answers"]) == 2
    assert len(blocks) == 3


def test_the_command(letterbox_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    location = ["--out", str(tmp_path / "out")]
    assert command(["export", str(letterbox_checkpoint), "--to", "gguf", *location]) == 2
    assert "no form is called 'gguf'" in capsys.readouterr().err
    assert command(["export", str(tmp_path), *location]) == 2
    assert "wanted a checkpoint folder" in capsys.readouterr().err
    assert command(["export", str(letterbox_checkpoint), "--to", "hf", *location, "--dtype", "bfloat16"]) == 0
    assert "FirstsightForConditionalGeneration" in capsys.readouterr().out


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = random_model(OPENLM, dtype=torch.float32)
    save(tmp_path / "kept", model, tokens_seen=0, tokenizer=write_tokenizer(tmp_path / "words"), encoders=[])
    tensors = read_tensors(tmp_path / "kept")
    tensors["lm.norm.weight"][0] = 3.4e38  # finite in float32, beyond bfloat16
    save_file(tensors, tmp_path / "kept" / "model.safetensors", metadata={"format": "pt"})
    export_checkpoint(tmp_path / "kept", tmp_path / "wide", dtype="float32")
    with pytest.raises(ModelError, match=r"kept: wanted finite numbers in \S*norm\.weight"):
        export_checkpoint(tmp_path / "kept", tmp_path / "narrow", dtype="bfloat16")
    tensors["lm.norm.weight"][0] = float("nan")
    save_file(tensors, tmp_path / "kept" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"kept/model\.safetensors: wanted finite numbers in lm\.norm\.weight"):
        export_checkpoint(tmp_path / "kept", tmp_path / "narrow", dtype="float32")
    assert not list(tmp_path.glob("*narrow*"))
