"""Checkpoint folders come back bit for bit, in one file or in shards, and name what is wrong with them.

Oracles: huggingface_hub's own layout of shards, safetensors' own reader, the memory that the system counts.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file, save_file

from firstsight.errors import ModelError
from firstsight.model import checkpoint_io
from firstsight.model.checkpoint_io import (
    StoredTensors,
    load,
    load_weights,
    meta_init,
    read_tensors,
    save,
    write_tensors,
)
from firstsight.model.vlm import VLM
from firstsight.recipe.lm import LMSpec
from firstsight.recipe.model import VLMSpec
from tests.conftest import DEVICE
from tests.model.rows import PATCHED, PLAIN, grown

GAINS = {f"gain{n}": torch.full((n + 1, 8), float(n)) for n in range(6)}
"""32, 64 ... 192 bytes."""
STATUS = Path("/proc/self/status")


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


@pytest.mark.parametrize("bound", [2_000_000_000, 2000], ids=["one file", "shards"])
@pytest.mark.parametrize("spec", [PLAIN, PATCHED], ids=["lm", "vlm"])
def test_a_checkpoint_comes_back_bit_for_bit(
    tmp_path: Path, words: Path, monkeypatch: pytest.MonkeyPatch, spec: LMSpec | VLMSpec, bound: int
) -> None:
    monkeypatch.setattr(checkpoint_io, "MAX_SHARD_BYTES", bound)
    model = grown(spec, dtype=torch.float32)
    save(tmp_path / "kept", model, tokens_seen=7, tokenizer=words, encoders=[])
    assert (tmp_path / "kept" / "model.safetensors").is_file() == (bound > 2000)
    loaded = load(tmp_path / "kept", device=DEVICE)
    assert (loaded.spec, loaded.tokens_seen, loaded.tokenizer.read_text(), loaded.encoder) == (spec, 7, "{}", None)
    back = loaded.model.state_dict()
    assert all(torch.equal(value, back[name]) for name, value in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    save(tmp_path / "again", loaded.model, tokens_seen=7, tokenizer=words.parent, encoders=[])
    files = sorted(file.name for file in (tmp_path / "kept").iterdir())
    assert files == sorted(file.name for file in (tmp_path / "again").iterdir())
    for file in files:
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "kept" / file).read_bytes(), file


@pytest.mark.parametrize("bound", [192, 256, 400, 10_000])
def test_shards_are_laid_out_as_huggingface_hub_lays_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: int
) -> None:
    """The hub counts a tensor's storage as we count its bytes; names, cuts and index are equal."""
    monkeypatch.setattr(checkpoint_io, "MAX_SHARD_BYTES", bound)
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
    monkeypatch.setattr(checkpoint_io, "MAX_SHARD_BYTES", 100)
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
    monkeypatch.setattr(checkpoint_io, "MAX_SHARD_BYTES", 256)
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
        ("shard gone", r"got none of model-00002-of-000\d+\.safetensors"),
        ("tensor gone", "named but in no shard: gain3"),
        ("tensor more", "in a shard but not named: ghost"),
        ("shard cut", "wanted a whole safetensors file"),
        ("index cut", "wanted an index"),
        ("index of nothing", "wanted an index with a weight_map"),
        ("index of elsewhere", "wanted shards beside it"),
        ("both", "Got model.safetensors as well"),
    ],
)
def test_damaged_shards_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str, told: str) -> None:
    monkeypatch.setattr(checkpoint_io, "MAX_SHARD_BYTES", 256)
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


def test_every_fault_is_named(kept: Path) -> None:
    tensors = read_tensors(kept)
    del tensors["lm.norm.weight"]
    tensors["lm.ghost"] = torch.zeros(1)
    tensors["lm.output.weight"] = torch.zeros(3, 16)
    tensors["lm.layers.0.ffn_norm.weight"] = torch.ones(16, dtype=torch.int8)
    write_tensors(kept, tensors)
    with pytest.raises(ModelError) as caught:
        load(kept)
    told = str(caught.value)
    assert str(kept) in told
    assert "missing: lm.norm.weight" in told
    assert "extra: lm.ghost" in told
    assert "lm.output.weight wanted [20, 16] got [3, 16]" in told
    assert "lm.layers.0.ffn_norm.weight wanted torch.float32 got torch.int8" in told


def test_half_a_file_and_a_strange_folder_are_refused(tmp_path: Path, kept: Path) -> None:
    with pytest.raises(ModelError, match=r"no spec\.json"):
        load(tmp_path)
    file = kept / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ModelError, match="whole safetensors"):
        load(kept)
    file.unlink()
    with pytest.raises(ModelError, match="Got neither"):
        load(kept)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "wanted the spec of a model"),
        ('{"format": 1}', "wanted format"),
        ('{"format": 2, "model": {"type": "LMSpec"}, "seen": 0}', "wanted the spec of a model"),
        ('{"format": 2, "model": {"type": "Ghost"}, "seen": 0}', "Ghost"),
    ],
)
def test_a_spec_that_is_none_is_refused(kept: Path, text: str, told: str) -> None:
    (kept / "spec.json").write_text(text)
    with pytest.raises(ModelError, match=told):
        load(kept)


def test_a_spec_of_another_model_is_refused(kept: Path) -> None:
    body = json.loads((kept / "spec.json").read_text())
    body["model"]["layers"] += 1
    (kept / "spec.json").write_text(json.dumps(body))
    with pytest.raises(ModelError, match=r"missing: lm\.layers\.2\.attention\.in_proj\.weight, .*Load them with"):
        load(kept)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_narrow_numbers_are_kept_narrow_and_loaded_wide(kept: Path, kind: torch.dtype) -> None:
    narrow = {name: one.to(kind) for name, one in read_tensors(kept).items()}
    write_tensors(kept, narrow)
    model = load(kept).model
    for name, one in model.state_dict().items():
        assert one.dtype == torch.float32
        assert torch.equal(one, narrow[name].float()), name


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


def test_changing_a_loaded_model_leaves_the_file_alone(kept: Path) -> None:
    before = (kept / "model.safetensors").read_bytes()
    with torch.no_grad():
        for one in load(kept).model.parameters():
            one.add_(1)
    assert (kept / "model.safetensors").read_bytes() == before


def peak() -> int:
    """Most bytes that this process had in memory since the peak was last forgotten."""
    return 1024 * next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_memory_holds_the_weights_once(tmp_path: Path, words: Path, kind: torch.dtype) -> None:
    """100 MB of weights: the system counts them once, and one tensor more while it is read."""
    spec = replace(PLAIN, layers=8, width=512, heads=4, kv_heads=4, head_dim=128, mlp_width=1536)
    with meta_init():
        forms = {name: one.shape for name, one in VLM(spec).state_dict().items()}
    write_tensors(tmp_path, {name: torch.ones(shape, dtype=kind) for name, shape in forms.items()})
    checkpoint_io.write_spec(tmp_path, spec, tokens_seen=0)
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    model = load(tmp_path).model
    size = sum(one.nbytes for one in model.parameters())
    assert size > 100_000_000
    assert (peak() - before) / size < 1.6
