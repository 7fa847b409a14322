"""Folders and files as strangers bring them: other families, settings of the wrong kind, halves, links to nothing.

Oracle: what the families' own papers and configurations say; whatever is wrong is named, with its place, and code 2.
"""

from __future__ import annotations

import argparse
import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from firstsight.cli import command
from firstsight.errors import ModelError, StoreError
from firstsight.hub import export, import_, llama, llava, openlm
from firstsight.hub.download import resolve_hub_path
from firstsight.hub.export import export_checkpoint
from firstsight.hub.import_ import ImportRequest, import_checkpoint
from firstsight.model.checkpoint_io import read_spec
from firstsight.model.tensors import read_tensors
from firstsight.model.vision import encoder_spec
from tests.hub.made import LLAMA, LLAVA, OURS, SIGLIP, checkpoint, published, words

LLAMA_CONFIG: dict[str, Any] = llama.llama_config(LLAMA)


def asked(place: Path) -> ImportRequest:
    return ImportRequest(location=str(place), revision=None, tokenizer="", config_path=None, tokens_seen=None)


def silent(_: object) -> None:
    """Hears how far it is."""


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("qwen2", "biases of queries, keys and values"),
        ("qwen2_vl", "biases of queries, keys and values"),
        ("qwen3", "normalizes queries and keys per head"),
        ("qwen3_moe", "mixture of experts"),
        ("gemma3_text", "offsets from one"),
        ("olmo", "no weights"),
        ("olmo2", "after attention and feed-forward"),
        ("olmoe", "mixture of experts"),
        ("smollm3", "no rotary embedding"),
        ("gpt_neox", "Pythia"),
        ("clip_vision_model", "it is an encoder"),
        ("siglip2", "patches have any aspect"),
    ],
)
def test_a_known_family_is_refused_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, why: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA_CONFIG, "model_type": kind}))
    assert command(["import", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"{tmp_path}: model_type: wanted llama, mistral or openlm. Got" in said
    assert why in said and "Use OpenLM/DCLM or a Llama-family run" in said


def test_a_family_that_nobody_heard_of_is_refused_without_a_guess() -> None:
    with pytest.raises(ModelError, match=r"Got 'phimoe'\. Use OpenLM"):
        llama.llama_spec({"model_type": "phimoe"})


WRONG: list[Any] = ["x", [3], {"a": 1}, True, -1, float("nan")]


@pytest.mark.parametrize("value", WRONG, ids=repr)
@pytest.mark.parametrize(
    "name",
    ["hidden_size", "head_dim", "num_key_value_heads", "rms_norm_eps", "rope_parameters", "layer_types", "vocab_size"],
)
def test_settings_of_the_wrong_kind_are_named(name: str, value: Any) -> None:
    if name == "rope_parameters" and isinstance(value, dict):
        value = {"rope_theta": "x"}
    with pytest.raises(ModelError, match={"rope_parameters": "rope", "rms_norm_eps": "eps"}.get(name, name)):
        llama.llama_spec({**LLAMA_CONFIG, name: value})


@pytest.mark.parametrize("value", WRONG, ids=repr)
@pytest.mark.parametrize("name", ["factor", "low_freq_factor", "original_max_position_embeddings", "rope_theta"])
def test_rotary_settings_of_the_wrong_kind_are_refused(name: str, value: Any) -> None:
    told = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    rope = {"rope_type": "llama3", "rope_theta": 5e5, **told, name: value}
    with pytest.raises(ModelError, match=r"config\.json"):
        llama.llama_spec({**LLAMA_CONFIG, "rope_parameters": rope})


@pytest.mark.parametrize("value", ["x", [3], True, 0, -1], ids=repr)
@pytest.mark.parametrize("name", ["text_config", "vision_config", "hidden_size", "patch_size", "num_attention_heads"])
def test_a_llavas_settings_of_the_wrong_kind_are_refused(name: str, value: Any) -> None:
    told = llava.llava_config(LLAVA)
    inner = {"vision_config": told["vision_config"] | {name: value}}
    if name.endswith("config"):
        inner = {name: value}
    if value == 0 and name == "text_config":
        return  # nothing told: the sizes are missing, as another test says
    with pytest.raises(ModelError):
        llava.llava_spec(told | inner)


@pytest.mark.parametrize("told", [{}, {"type": "x"}, {"type": "Rope", "base": 1.0}, {"type": "LMSpec"}, 3], ids=repr)
def test_an_export_without_a_spec_says_so(tmp_path: Path, told: Any) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": llava.SPEC_KEY, llava.SPEC_KEY: told}))
    save_file({"one": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=rf"{tmp_path}: config\.json: firstsight: wanted"):
        import_checkpoint(asked(tmp_path), tmp_path / "out", on_progress=silent)


def test_a_model_without_its_head_says_whose_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA_CONFIG, "architectures": ["LlamaModel"]}))
    with pytest.raises(ModelError, match=r"wanted a language model .* Got LlamaModel"):
        import_checkpoint(asked(tmp_path), tmp_path / "out", on_progress=silent)


def test_numpys_numbers_in_a_checkpoint_are_read_and_other_things_are_not(tmp_path: Path) -> None:
    """open_lm's --val-seq-ci leaves np.percentile's numbers among the metrics."""
    body = {"state_dict": {"one": torch.ones(2)}, "samples_seen": np.int64(7)}
    low, high = np.percentile(np.arange(5.0), [5, 95])
    torch.save({**body, "evaluation_metrics": [{"low": low, "high": np.float32(high)}]}, tmp_path / "one.pt")
    found = openlm.read_openlm_checkpoint(tmp_path / "one.pt")
    assert found.samples_seen == 7 and torch.equal(found.tensors["one"], torch.ones(2))
    torch.save({**body, "args": argparse.Namespace(lr=1)}, tmp_path / "two.pt")
    with pytest.raises(ModelError, match=r"calls argparse\.Namespace; nothing was executed.*its state_dict alone"):
        openlm.read_openlm_checkpoint(tmp_path / "two.pt")


@pytest.mark.parametrize("name", ["seeing", "fused", "shifted"])
def test_what_transformers_saves_again_of_our_classes_comes_back(tmp_path: Path, name: str) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    import firstsight.hub.hf_classes  # noqa: F401  # pyright: ignore[reportUnusedImport]

    first = checkpoint(tmp_path / "first", OURS[name])
    export_checkpoint(first, tmp_path / "out", dtype="float32")
    auto = AutoModelForCausalLM if name == "shifted" else AutoModelForImageTextToText
    auto.from_pretrained(tmp_path / "out").save_pretrained(tmp_path / "again")
    words(tmp_path / "again")
    import_checkpoint(asked(tmp_path / "again"), tmp_path / "back", on_progress=silent)
    ours, back = read_tensors(first), read_tensors(tmp_path / "back")
    assert ours.keys() == back.keys()
    assert all(torch.equal(back[one], tensor) for one, tensor in ours.items())


def test_tokens_seen_come_back_of_a_text_model_too(tmp_path: Path) -> None:
    first = checkpoint(tmp_path / "first", LLAMA)
    export_checkpoint(first, tmp_path / "out", dtype="float32")
    import_checkpoint(asked(tmp_path / "out"), tmp_path / "back", on_progress=silent)
    assert read_spec(tmp_path / "back") == read_spec(first)


def test_a_frozen_encoders_missing_tensor_is_named_at_import(tmp_path: Path) -> None:
    export_checkpoint(checkpoint(tmp_path / "first", OURS["fused"]), tmp_path / "out", dtype="float32")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    gone = "encoder.towers.1.embeddings.cls_token"
    del tensors[gone]
    save_file(tensors, tmp_path / "out" / "model.safetensors")
    with pytest.raises(ModelError, match=rf"contradict each other\. missing: {gone}\. Copy"):
        import_checkpoint(asked(tmp_path / "out"), tmp_path / "back", on_progress=silent)
    assert not (tmp_path / "back").exists()


def test_links_to_nothing_shards_without_index_and_pointers_are_named(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.symlink_to(tmp_path / "blobs" / "gone")
    with pytest.raises(ModelError, match=r"Got no model\.safetensors \(a broken link\)"):
        resolve_hub_path(str(tmp_path))
    weights.unlink()
    save_file({"one": torch.ones(1)}, tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(ModelError, match=r"Got no model\.safetensors\.index\.json \(its shards are present\)"):
        resolve_hub_path(str(tmp_path))
    (tmp_path / "model-00001-of-00002.safetensors").rename(weights)
    (tmp_path / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(ModelError, match=r"a Git LFS pointer in place of tokenizer\.json"):
        resolve_hub_path(str(tmp_path))


FULL = (OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: No space left on device"))


@pytest.mark.parametrize("problem", FULL, ids=["python", "safetensors"])
def test_a_full_disk_leaves_nothing_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    def full(folder: Path, *_: Any, **__: Any) -> None:
        (folder / "model.safetensors.0.new").write_bytes(b"half")
        raise problem

    first = checkpoint(tmp_path / "first", LLAMA)
    export_checkpoint(first, tmp_path / "out", dtype="float32")
    before = set(tmp_path.iterdir())
    monkeypatch.setattr(import_, "write_tensors", full)
    monkeypatch.setattr(export, "write_tensors", full)
    with pytest.raises(StoreError, match=r"back: wanted .* No space left on device\. Nothing was left there"):
        import_checkpoint(asked(tmp_path / "out"), tmp_path / "back", on_progress=silent)
    with pytest.raises(StoreError, match=r"other: wanted .* No space left on device\. Nothing was left there"):
        export_checkpoint(first, tmp_path / "other", dtype="float32")
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model_type": "clip_vision_model"}, "which normalises before its blocks"),
        ({"model_type": "siglip2_vision_model"}, "whose patches have any aspect"),
        ({"model_type": "siglip", "vision_config": 3}, "wanted vision_config with settings. Got 3"),
        ({"patch_size": 0}, "wanted patch_size as a whole number above zero"),
        ({"num_attention_heads": 3}, "heads must divide the width"),
        ({"num_hidden_layers": 1}, "Give two"),
    ],
    ids=str,
)
def test_an_encoder_that_is_none_of_ours_says_where_and_why(tmp_path: Path, change: Any, told: str) -> None:
    published(SIGLIP, tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ModelError) as caught:
        encoder_spec(tmp_path, "mine", "resize")
    assert str(caught.value).startswith(f"{file}: ") and told in str(caught.value)


def test_a_siglip_2_of_a_fixed_size_is_refused_for_how_it_squeezes(tmp_path: Path) -> None:
    """google/siglip2-base-patch16-512: model_type siglip, preprocessor_config.json with resample 2 (bilinear)."""
    published(SIGLIP, tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({"image_processor_type": "SiglipImageProcessor", "resample": 2}))
    with pytest.raises(ModelError, match=rf"{file}: contradicts the spec: resample wanted 3 got 2"):
        encoder_spec(tmp_path, "mine", "resize")
