"""Checkpoint folders come back bit for bit, in one file or in shards, and name what is wrong with them.

Oracles: huggingface_hub's own layout of shards, safetensors' own reader, the memory that the system counts.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from firstsight.errors import ModelError
from firstsight.model import checkpoint_io
from firstsight.model import tensors as tensor_files
from firstsight.model.checkpoint_io import load, save
from firstsight.model.tensors import meta_init, read_tensors, write_tensors
from firstsight.model.vlm import VLM
from firstsight.recipe.lm import LMSpec
from firstsight.recipe.model import VLMSpec
from tests.conftest import DEVICE
from tests.model.memory import peak_bytes, reset_peak
from tests.model.tiny_models import PATCHED, PLAIN, grown


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
    monkeypatch.setattr(tensor_files, "MAX_SHARD_BYTES", bound)
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


def test_changing_a_loaded_model_leaves_the_file_alone(kept: Path) -> None:
    before = (kept / "model.safetensors").read_bytes()
    with torch.no_grad():
        for one in load(kept).model.parameters():
            one.add_(1)
    assert (kept / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_memory_holds_the_weights_once(tmp_path: Path, words: Path, kind: torch.dtype) -> None:
    """100 MB of weights: the system counts them once, and one tensor more while it is read."""
    spec = replace(PLAIN, layers=8, width=512, heads=4, kv_heads=4, head_dim=128, mlp_width=1536)
    with meta_init():
        forms = {name: one.shape for name, one in VLM(spec).state_dict().items()}
    write_tensors(tmp_path, {name: torch.ones(shape, dtype=kind) for name, shape in forms.items()})
    checkpoint_io.write_spec(tmp_path, spec, tokens_seen=0)
    before = reset_peak()
    model = load(tmp_path).model
    size = sum(one.nbytes for one in model.parameters())
    assert size > 100_000_000
    assert (peak_bytes() - before) / size < 1.6
