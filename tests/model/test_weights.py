"""Checkpoint folders come back bit for bit, and name what is wrong with them when they do not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from firstsight.errors import ModelError
from firstsight.model.weights import load, read_tensors, save, write_tensors
from firstsight.recipe.lm import LMSpec
from firstsight.recipe.model import VLMSpec
from tests.model.rows import PATCHED, PLAIN, grown


@pytest.fixture
def words(tmp_path: Path) -> Path:
    file = tmp_path / "words" / "tokenizer.json"
    file.parent.mkdir()
    file.write_text("{}")
    return file


@pytest.mark.parametrize("spec", [PLAIN, PATCHED], ids=["lm", "vlm"])
def test_a_checkpoint_comes_back_bit_for_bit(tmp_path: Path, words: Path, spec: LMSpec | VLMSpec) -> None:
    model = grown(spec, dtype=torch.float32)
    save(tmp_path / "kept", model, seen=7, tokenizer=words, encoders=[])
    loaded = load(tmp_path / "kept")
    assert (loaded.spec, loaded.seen, loaded.tokenizer.read_text(), loaded.encoder) == (spec, 7, "{}", None)
    back = loaded.model.state_dict()
    assert all(torch.equal(value, back[name]) for name, value in model.state_dict().items())
    save(tmp_path / "again", loaded.model, seen=7, tokenizer=words.parent, encoders=[])
    for file in (tmp_path / "kept").iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name


def test_every_fault_is_named(tmp_path: Path, words: Path) -> None:
    save(tmp_path / "kept", grown(PLAIN, dtype=torch.float32), seen=0, tokenizer=words, encoders=[])
    file = tmp_path / "kept" / "model.safetensors"
    tensors = read_tensors(file)
    del tensors["lm.norm.weight"]
    tensors["lm.ghost"] = torch.zeros(1)
    tensors["lm.output.weight"] = torch.zeros(3, 16)
    write_tensors(file, tensors)
    with pytest.raises(ModelError) as caught:
        load(tmp_path / "kept")
    told = str(caught.value)
    assert "missing: lm.norm.weight" in told
    assert "extra: lm.ghost" in told
    assert "lm.output.weight wanted [20, 16] got [3, 16]" in told


def test_half_a_file_and_a_strange_folder_are_refused(tmp_path: Path, words: Path) -> None:
    with pytest.raises(ModelError, match=r"no spec\.json"):
        load(tmp_path)
    save(tmp_path / "kept", grown(PLAIN, dtype=torch.float32), seen=0, tokenizer=words, encoders=[])
    file = tmp_path / "kept" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ModelError, match="whole safetensors"):
        load(tmp_path / "kept")
