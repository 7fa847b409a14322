"""Tensor folders: shards as huggingface_hub lays them out, damaged files, and models filled from tensors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file, save_file

from firstsight.errors import ModelError
from firstsight.model import tensors as tensor_files
from firstsight.model.checkpoint_io import save
from firstsight.model.tensors import StoredTensors, load_weights, meta_init, read_tensors, write_tensors
from firstsight.model.vlm import VLM
from tests.model.tiny_models import PLAIN, grown

GAINS = {f"gain{n}": torch.full((n + 1, 8), float(n)) for n in range(6)}
"""32, 64 ... 192 bytes."""


@pytest.fixture
def words(tmp_path: Path) -> Path:
    file = tmp_path / "words" / "tokenizer.json"
    file.parent.mkdir()
    file.write_text("{}")
    return file


@pytest.fixture
def kept(tmp_path: Path, words: Path) -> Path:
    save(tmp_path / "kept", grown(PLAIN, dtype=torch.float32), tokens_seen=0, tokenizer=words, encoders=[])
    return tmp_path / "kept"


@pytest.mark.parametrize("bound", [192, 256, 400, 10_000])
def test_shards_are_laid_out_as_huggingface_hub_lays_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: int
) -> None:
    """The hub counts a tensor's storage as we count its bytes; names, cuts and index are equal."""
    monkeypatch.setattr(tensor_files, "MAX_SHARD_BYTES", bound)
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    written = write_tensors(tmp_path / "ours", GAINS)
    save_torch_state_dict(GAINS, tmp_path / "theirs", max_shard_size=bound)
    assert sorted(file.name for file in written) == sorted(file.name for file in (tmp_path / "theirs").iterdir())
    for file in (tmp_path / "theirs").glob("*.safetensors"):
        ours, theirs = load_file(tmp_path / "ours" / file.name), load_file(file)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for index in (tmp_path / "theirs").glob("*.index.json"):
        theirs = json.loads(index.read_text())
        ours = json.loads((tmp_path / "ours" / index.name).read_text())
        assert ours["weight_map"] == theirs["weight_map"]
        assert ours["metadata"]["total_size"] == theirs["metadata"]["total_size"]


def test_a_tensor_larger_than_a_shard_has_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_files, "MAX_SHARD_BYTES", 100)
    write_tensors(tmp_path, GAINS)
    placed = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    assert placed["gain0"] == placed["gain1"]
    assert len({placed[f"gain{n}"] for n in range(1, 6)}) == 5
    assert all(torch.equal(one, GAINS[name]) for name, one in read_tensors(tmp_path).items())


def test_weights_are_as_readable_as_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    [file] = write_tensors(tmp_path, GAINS)
    assert file.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_was_written_under_the_name_before_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tensors(tmp_path, GAINS)
    write_tensors(tmp_path, {"step": torch.ones(())}, name="optimizer")
    monkeypatch.setattr(tensor_files, "MAX_SHARD_BYTES", 256)
    write_tensors(tmp_path, GAINS)
    assert not (tmp_path / "model.safetensors").exists()
    assert (tmp_path / "optimizer.safetensors").exists()
    few = {"gain0": GAINS["gain0"]}
    assert write_tensors(tmp_path, few) == [tmp_path / "model.safetensors"]
    assert read_tensors(tmp_path).keys() == few.keys()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.safetensors", "optimizer.safetensors"]


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        ("shard gone", r"Missing: model-00002-of-000\d+\.safetensors"),
        ("tensor gone", "named but in no shard: gain3"),
        ("tensor more", "in a shard but not named: ghost"),
        ("shard cut", "wanted a whole safetensors file"),
        ("index cut", "wanted an index"),
        ("index of nothing", "wanted an index with a weight_map"),
        ("index of elsewhere", "wanted shards in its folder"),
        ("both", "Got model.safetensors as well"),
    ],
)
def test_damaged_shards_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str, told: str) -> None:
    monkeypatch.setattr(tensor_files, "MAX_SHARD_BYTES", 256)
    write_tensors(tmp_path, GAINS)
    index = tmp_path / "model.safetensors.index.json"
    shard = tmp_path / json.loads(index.read_text())["weight_map"]["gain3"]
    match harm:
        case "shard gone":
            shard.unlink()
        case "tensor gone":
            save_file({name: one for name, one in load_file(shard).items() if name != "gain3"}, shard)
        case "tensor more":
            save_file({**load_file(shard), "ghost": torch.ones(1)}, shard)
        case "shard cut":
            shard.write_bytes(shard.read_bytes()[:-4])
        case "index cut":
            index.write_text(index.read_text()[:20])
        case "index of nothing":
            index.write_text("[]")
        case "index of elsewhere":
            index.write_text(index.read_text().replace(shard.name, f"../{tmp_path.name}/{shard.name}"))
        case _:
            save_file(GAINS, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=f"(?i){told}"):
        read_tensors(tmp_path)


def test_a_model_with_memory_is_filled_in_place_and_a_hollow_one_takes_the_tensors(kept: Path) -> None:
    stored, model = StoredTensors(kept), VLM(PLAIN)
    addresses = {name: one.data_ptr() for name, one in model.named_parameters()}
    load_weights(model, stored, location=kept)
    assert {name: one.data_ptr() for name, one in model.named_parameters()} == addresses
    with meta_init():
        empty = VLM(PLAIN)
        table = torch.arange(3)
    assert table.tolist() == [0, 1, 2]
    assert all(one.is_meta for one in empty.parameters())
    tensors = dict(stored.items())
    load_weights(empty, tensors, location=kept)
    assert {name: one.data_ptr() for name, one in empty.named_parameters()} == {
        name: one.data_ptr() for name, one in tensors.items()
    }
    assert all(one.requires_grad for one in empty.parameters())
