"""Tensor folders: shards as huggingface_hub lays them out, damaged files, and models filled from tensors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from firstsight.errors import ModelError
from firstsight.model import tensors as tensor_files
from firstsight.model.tensors import StoredTensors, load_weights, meta_init, read_tensors, write_tensors
from firstsight.model.vlm import VLM
from tests.full_disk import file_size_limit
from tests.model.tiny_models import PLAIN_LM

GAINS = {f"gain{n}": torch.full((n + 1, 8), float(n)) for n in range(6)}
"""32, 64 ... 192 bytes."""


@pytest.mark.parametrize("bound", [192, 256, 400, 10_000])
def test_shards_equal_those_of_huggingface_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: int) -> None:
    """File names, shard boundaries and index are equal."""
    monkeypatch.setattr(tensor_files, "MAX_SHARD_BYTES", bound)
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    written = write_tensors(tmp_path / "ours", GAINS)
    save_torch_state_dict(GAINS, tmp_path / "theirs", max_shard_size=bound)
    assert sorted(file.name for file in written) == sorted(file.name for file in (tmp_path / "theirs").iterdir())
    for file in (tmp_path / "theirs").glob("*.safetensors"):
        actual, expected = load_file(tmp_path / "ours" / file.name), load_file(file)
        assert actual.keys() == expected.keys()
        assert all(torch.equal(actual[name], expected[name]) for name in actual)
    for index in (tmp_path / "theirs").glob("*.index.json"):
        expected = json.loads(index.read_text())
        actual = json.loads((tmp_path / "ours" / index.name).read_text())
        assert actual["weight_map"] == expected["weight_map"]
        assert actual["metadata"]["total_size"] == expected["metadata"]["total_size"]


def test_tensor_larger_than_a_shard_has_its_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_files, "MAX_SHARD_BYTES", 100)
    write_tensors(tmp_path, GAINS)
    weight_map = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    assert weight_map["gain0"] == weight_map["gain1"]
    assert len({weight_map[f"gain{n}"] for n in range(1, 6)}) == 5
    assert all(torch.equal(tensor, GAINS[name]) for name, tensor in read_tensors(tmp_path).items())


def test_files_have_the_default_mode(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    [file] = write_tensors(tmp_path, GAINS)
    assert file.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_full_disk_and_a_killed_writer_leave_the_old_file(tmp_path: Path) -> None:
    [file] = write_tensors(tmp_path, GAINS)
    before, larger = file.read_bytes(), {"large": torch.ones(10_000)}
    with file_size_limit(2 * len(before)), pytest.raises((OSError, SafetensorError), match="File too large"):
        write_tensors(tmp_path, larger)
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]
    (tmp_path / ".model.shards").mkdir()
    for name in ("0", ".tmpF3xQ1z"):
        (tmp_path / ".model.shards" / name).write_bytes(before[:100])
    assert write_tensors(tmp_path, larger) == [file]
    assert torch.equal(load_file(file)["large"], larger["large"]) and list(tmp_path.iterdir()) == [file]


def test_writing_replaces_files_of_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    ("damage", "message"),
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
def test_damaged_shards_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str, message: str) -> None:
    monkeypatch.setattr(tensor_files, "MAX_SHARD_BYTES", 256)
    write_tensors(tmp_path, GAINS)
    index = tmp_path / "model.safetensors.index.json"
    shard = tmp_path / json.loads(index.read_text())["weight_map"]["gain3"]
    match damage:
        case "shard gone":
            shard.unlink()
        case "tensor gone":
            save_file({name: tensor for name, tensor in load_file(shard).items() if name != "gain3"}, shard)
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
    with pytest.raises(ModelError, match=f"(?i){message}"):
        read_tensors(tmp_path)


def test_load_weights_copies_in_place_or_assigns_to_meta_parameters(checkpoint: Path) -> None:
    stored, model = StoredTensors(checkpoint), VLM(PLAIN_LM)
    addresses = {name: tensor.data_ptr() for name, tensor in model.named_parameters()}
    load_weights(model, stored, location=checkpoint)
    assert {name: tensor.data_ptr() for name, tensor in model.named_parameters()} == addresses
    with meta_init():
        empty = VLM(PLAIN_LM)
        table = torch.arange(3)
    assert table.tolist() == [0, 1, 2]
    assert all(tensor.is_meta for tensor in empty.parameters())
    tensors = dict(stored.items())
    load_weights(empty, tensors, location=checkpoint)
    assert {name: tensor.data_ptr() for name, tensor in empty.named_parameters()} == {
        name: tensor.data_ptr() for name, tensor in tensors.items()
    }
    assert all(tensor.requires_grad for tensor in empty.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_neither_written_nor_read(
    tmp_path: Path, value: float, dtype: torch.dtype
) -> None:
    tensor = torch.zeros(3, 5, dtype=dtype)
    tensor[1, 2] = value
    message = r"wanted finite numbers in weight\. Got NaN or infinity for 1 of 15\."
    with pytest.raises(ModelError, match=message):
        write_tensors(tmp_path, {"weight": tensor})
    assert not list(tmp_path.glob("*.safetensors"))
    save_file({"step": torch.zeros((), dtype=torch.int64), "weight": tensor}, tmp_path / "model.safetensors")
    stored = StoredTensors(tmp_path)
    assert stored["step"] == 0
    with pytest.raises(ModelError, match=message):
        stored["weight"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool])
def test_all_finite_values_are_written(tmp_path: Path, dtype: torch.dtype) -> None:
    bounds = torch.iinfo(dtype) if dtype == torch.int64 else torch.finfo(dtype) if dtype != torch.bool else None
    values = [0, 1] if bounds is None else [bounds.min, bounds.max]
    tensors = {"weight": torch.tensor(values, dtype=dtype), "empty": torch.empty(0, dtype=dtype)}
    write_tensors(tmp_path, tensors)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in read_tensors(tmp_path).items())


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module.module.", ""])
@pytest.mark.parametrize("inside", ["layers.0.", "layers.0._orig_mod.", "layers._checkpoint_wrapped_module.0."])
def test_public_tensors_are_called_without_prefixes_of_wrappers(tmp_path: Path, prefix: str, inside: str) -> None:
    weight = torch.arange(6.0).view(2, 3)
    save_file(
        {f"{prefix}{inside}weight": weight, f"{prefix}submodule.bias": torch.ones(3)}, tmp_path / "model.safetensors"
    )
    stored = StoredTensors(tmp_path, is_public=True)
    assert set(stored) == {"layers.0.weight", "submodule.bias"}
    assert torch.equal(stored["layers.0.weight"], weight)
    assert (stored.shape("submodule.bias"), stored.dtype("submodule.bias")) == (torch.Size([3]), torch.float32)
    assert set(StoredTensors(tmp_path)) == {f"{prefix}{inside}weight", f"{prefix}submodule.bias"}


def test_a_tensor_with_and_without_a_prefix_is_an_error(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1), "module.a": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="wanted each tensor once"):
        StoredTensors(tmp_path, is_public=True)
