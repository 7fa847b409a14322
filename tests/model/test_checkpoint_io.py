"""Checkpoint folders: exact round trips in one file or shards, errors that name every fault, memory.

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
from firstsight.model.checkpoint_io import last_checkpoint, load, save, save_average
from firstsight.model.tensors import meta_init, read_tensors, write_tensors
from firstsight.model.vlm import VLM
from firstsight.recipe.model import LMSpec, VLMSpec
from tests.conftest import DEVICE
from tests.model.memory import peak_bytes, reset_peak
from tests.model.tiny_models import PATCH_VLM, PLAIN_LM, random_model


@pytest.mark.parametrize("bound", [2_000_000_000, 2000], ids=["one file", "shards"])
@pytest.mark.parametrize("spec", [PLAIN_LM, PATCH_VLM], ids=["lm", "vlm"])
def test_checkpoint_round_trip_is_exact(
    tmp_path: Path, tokenizer_file: Path, monkeypatch: pytest.MonkeyPatch, spec: LMSpec | VLMSpec, bound: int
) -> None:
    monkeypatch.setattr(tensor_files, "MAX_SHARD_BYTES", bound)
    model = random_model(spec, dtype=torch.float32)
    save(tmp_path / "kept", model, tokens_seen=7, tokenizer=tokenizer_file, encoders=[])
    assert (tmp_path / "kept" / "model.safetensors").is_file() == (bound > 2000)
    loaded = load(tmp_path / "kept", device=DEVICE)
    assert (loaded.spec, loaded.tokens_seen, loaded.tokenizer.read_text(), loaded.encoder) == (spec, 7, "{}", None)
    back = loaded.model.state_dict()
    assert all(torch.equal(value, back[name]) for name, value in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    save(tmp_path / "again", loaded.model, tokens_seen=7, tokenizer=tokenizer_file.parent, encoders=[])
    files = sorted(file.name for file in (tmp_path / "kept").iterdir())
    assert files == sorted(file.name for file in (tmp_path / "again").iterdir())
    for file in files:
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "kept" / file).read_bytes(), file


def test_error_names_every_mismatch(checkpoint: Path) -> None:
    tensors = read_tensors(checkpoint)
    del tensors["lm.norm.weight"]
    tensors["lm.ghost"] = torch.zeros(1)
    tensors["lm.output.weight"] = torch.zeros(3, 16)
    tensors["lm.layers.0.ffn_norm.weight"] = torch.ones(16, dtype=torch.int8)
    write_tensors(checkpoint, tensors)
    with pytest.raises(ModelError) as caught:
        load(checkpoint)
    message = str(caught.value)
    assert str(checkpoint) in message
    assert "missing: lm.norm.weight" in message
    assert "extra: lm.ghost" in message
    assert "lm.output.weight wanted [20, 16] got [3, 16]" in message
    assert "lm.layers.0.ffn_norm.weight wanted torch.float32 got torch.int8" in message


def test_truncated_file_and_other_folder_are_errors(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(ModelError, match=r"no spec\.json"):
        load(tmp_path)
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ModelError, match="whole safetensors"):
        load(checkpoint)
    file.unlink()
    with pytest.raises(ModelError, match="Got neither"):
        load(checkpoint)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "wanted the spec of a model"),
        ('{"format": 1}', "wanted format"),
        ('{"format": 2, "model": {"type": "LMSpec"}, "seen": 0}', "wanted the spec of a model"),
        ('{"format": 2, "model": {"type": "Ghost"}, "seen": 0}', "Ghost"),
    ],
)
def test_invalid_spec_json_is_an_error(checkpoint: Path, text: str, message: str) -> None:
    (checkpoint / "spec.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        load(checkpoint)


def test_spec_of_another_model_is_an_error(checkpoint: Path) -> None:
    body = json.loads((checkpoint / "spec.json").read_text())
    body["model"]["layers"] += 1
    (checkpoint / "spec.json").write_text(json.dumps(body))
    with pytest.raises(ModelError, match=r"missing: lm\.layers\.2\.attention\.in_proj\.weight, .*Load them with"):
        load(checkpoint)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_weights_load_as_float32(checkpoint: Path, dtype: torch.dtype) -> None:
    narrow = {name: tensor.to(dtype) for name, tensor in read_tensors(checkpoint).items()}
    write_tensors(checkpoint, narrow)
    model = load(checkpoint).model
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, narrow[name].float()), name


def test_changing_a_loaded_model_does_not_change_the_file(checkpoint: Path) -> None:
    before = (checkpoint / "model.safetensors").read_bytes()
    with torch.no_grad():
        for tensor in load(checkpoint).model.parameters():
            tensor.add_(1)
    assert (checkpoint / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_in_memory_once(tmp_path: Path, tokenizer_file: Path, dtype: torch.dtype) -> None:
    """100 MB of weights: the system counts them once, plus one tensor while it is read."""
    spec = replace(PLAIN_LM, layers=8, width=512, heads=4, kv_heads=4, head_dim=128, mlp_width=1536)
    with meta_init():
        forms = {name: tensor.shape for name, tensor in VLM(spec).state_dict().items()}
    write_tensors(tmp_path, {name: torch.ones(shape, dtype=dtype) for name, shape in forms.items()})
    checkpoint_io.write_spec(tmp_path, spec, tokens_seen=0)
    before = reset_peak()
    model = load(tmp_path).model
    size = sum(tensor.nbytes for tensor in model.parameters())
    assert size > 100_000_000
    assert (peak_bytes() - before) / size < 1.6


@pytest.mark.parametrize("bound", [2_000_000_000, 2000], ids=["one file", "shards"])
def test_an_average_is_the_mean_of_the_stored_weights_in_float32(
    tmp_path: Path, tokenizer_file: Path, monkeypatch: pytest.MonkeyPatch, bound: int
) -> None:
    monkeypatch.setattr(tensor_files, "MAX_SHARD_BYTES", bound)
    folder, models = tmp_path / "step", [random_model(PATCH_VLM, dtype=torch.float32) for _ in range(3)]
    for number, model in enumerate(models):
        for parameter in model.parameters():
            parameter.data += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
        target = last_checkpoint(folder, number)
        save(target, model, tokens_seen=7 - number, tokenizer=tokenizer_file, encoders=[])
    save_average(tmp_path / "mean", checkpoint=folder, count=3)
    stored = [read_tensors(last_checkpoint(folder, number)) for number in range(3)]
    mean, loaded = read_tensors(tmp_path / "mean"), load(tmp_path / "mean")
    assert mean.keys() == stored[0].keys() and (loaded.spec, loaded.tokens_seen) == (PATCH_VLM, 7)
    for name, tensor in mean.items():
        expected = torch.stack([tensors[name] for tensors in stored]).mean(dim=0)
        assert tensor.dtype == torch.float32 and tensor.numpy().tobytes() == expected.numpy().tobytes(), name
    save_average(tmp_path / "one", checkpoint=folder, count=1)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (folder / file.name).read_bytes(), "the mean of one is itself"


def test_an_average_of_other_tensors_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    tensors = read_tensors(checkpoint)
    earlier = last_checkpoint(checkpoint, 1)
    earlier.mkdir()
    write_tensors(earlier, {**tensors, "lm.norm.weight": torch.zeros(3)})
    with pytest.raises(ModelError, match=r"lm\.norm\.weight"):
        save_average(tmp_path / "mean", checkpoint=checkpoint, count=2)
