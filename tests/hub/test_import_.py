"""`firstsight import` as a command: what it writes and prints, and its errors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM

from firstsight.cli.app import command
from firstsight.data import tokenizer
from firstsight.errors import DataError, ModelError
from firstsight.files import file_sha256
from firstsight.hub import import_
from firstsight.model import tensors as tensor_files
from firstsight.model.checkpoint_io import load
from firstsight.model.tensors import read_tensors
from firstsight.site import Progress
from tests.hub.checkpoints import import_weights, write_tokenizer
from tests.hub.test_llama import LLAMA3, SMALL, firstsight_logits


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A Llama with grouped keys, a tied head and scaled angles, in bf16 shards, as transformers saves it."""
    torch.manual_seed(0)
    config = LlamaConfig(**SMALL, rope_parameters=LLAMA3, tie_word_embeddings=True)
    LlamaForCausalLM(config).bfloat16().save_pretrained(tmp_path / "llama", max_shard_size=4000)
    write_tokenizer(tmp_path / "llama")
    return tmp_path / "llama"


def change_config(source: Path, **settings: Any) -> None:
    file = source / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def rewrite_weights(source: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """The source's weights as one file."""
    for file in source.glob("model*.safetensors*"):
        file.unlink()
    save_file(dict(tensors), source / "model.safetensors")


def test_sharded_bf16_llama_becomes_a_checkpoint(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(list(source.glob("model-*.safetensors"))) > 2
    monkeypatch.setattr(tensor_files, "MAX_SHARD_BYTES", 5000)
    out = tmp_path / "donor"
    assert command(["import", str(source), "--out", str(out), "--seen", "2.5T"]) == 0
    expected = capsys.readouterr().out
    assert "tokens seen: 2,500,000,000,000" in expected
    assert "moments: none" in expected
    assert f"folder: {out}" in expected
    hf_model, tokens = LlamaForCausalLM.from_pretrained(source).float().eval(), torch.randint(31, (90,))
    loaded = load(out)
    assert loaded.tokens_seen == 2_500_000_000_000
    assert {tensor.dtype for tensor in loaded.model.parameters()} == {torch.float32}
    with torch.no_grad():
        reference = hf_model(tokens[None]).logits[0]
    weights = {name.removeprefix("lm."): tensor for name, tensor in loaded.model.state_dict().items()}
    assert (firstsight_logits(loaded.spec, weights, tokens, torch.float32) - reference).abs().max() < 1e-5
    stored = read_tensors(out)
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}, (
        "kept as published: half the bytes, the same bits"
    )
    assert (out / "model.safetensors.index.json").is_file()


def test_the_import_record_has_digests_and_no_date_or_path(source: Path, tmp_path: Path) -> None:
    reports: list[Progress] = []
    import_weights(source, tmp_path / "one", on_progress=reports.append)
    import_weights(source, tmp_path / "two")
    for file in sorted((tmp_path / "one").iterdir()):
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name
    record = json.loads((tmp_path / "one" / "imported.json").read_text())
    files = [*source.glob("model*"), source / "config.json", source / "tokenizer.json"]
    assert record["files"] == {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    assert (record["source"], record["revision"], record["moments"]) == ("llama", None, False)
    result = [progress.done for progress in reports]
    assert result == sorted(result)
    assert all(progress.done <= progress.total for progress in reports)


def test_a_revision_from_the_cache_is_recorded_by_its_commit(source: Path, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "cache" / "models--owner--run"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "step-1000").write_text(commit)
    (repository / "snapshots").mkdir()
    source.rename(repository / "snapshots" / commit)
    import_weights("owner/run", tmp_path / "out", revision="step-1000")
    record = json.loads((tmp_path / "out" / "imported.json").read_text())
    assert (record["source"], record["revision"]) == ("owner/run", commit)


def write_sized_tokenizer(file: Path, count: int) -> None:
    """A tokenizer of so many words."""
    vocab_size = {"<|endoftext|>": 0, **{f"w{n}": n for n in range(1, count)}}
    Tokenizer(models.WordLevel(vocab_size, unk_token="w1")).save(str(file))


@pytest.mark.parametrize(
    ("vocab_size", "line"), [(26, ""), (27, "32 embedding rows, the model has 31; set vocab_size=32")]
)
def test_the_rows_that_chat_tokens_need_are_reported(source: Path, tmp_path: Path, vocab_size: int, line: str) -> None:
    write_sized_tokenizer(source / "tokenizer.json", vocab_size)
    result = import_weights(source, tmp_path / "out")
    assert result.min_vocabulary == vocab_size + 5 == tokenizer.load_tokenizer(tmp_path / "out").vocab_size
    assert ("chat tokens" in "".join(result.lines())) == bool(line)
    assert line in "".join(result.lines())


@pytest.mark.parametrize(
    ("damage", "expected", "code"),
    [
        ("shard gone", ["llama: wanted all of its weights. Got no model-00002-of-", "Download it again completely"], 2),
        ("tensor gone", ["llama: weights and", "missing: model.norm.weight", "Copy both from the same run"], 2),
        ("tensor more", ["llama: weights and", "extra: ghost", "Copy both"], 2),
        ("misshapen", ["of another shape: model.layers.1.self_attn.q_proj.weight wanted [32, 24] got [16, 24]"], 2),
        ("another kind", ["model.norm.weight wanted torch.float32 got torch.int8"], 2),
        ("layers", ["missing: model.layers.2.input_layernorm.weight, model.layers.2.mlp.down_proj.weight"], 2),
        ("bias", ["llama: config.json: wanted a plain Llama. Got attention_bias True. Choose"], 2),
        (
            "gpt2",
            [
                "llama: model_type: wanted llama",
                "learned position embeddings",
                "Use a run of one of these as the donor",
            ],
            2,
        ),
        ("vision", ["llama: wanted a language model. Got siglip: vision weights", "need no import", "site file"], 2),
        ("no config", ["llama: wanted config.json in a folder of weights. Got none. Name the folder"], 2),
        ("config cut", ["config.json: wanted a configuration in JSON"], 2),
        ("pickles", ["llama: wanted safetensors. Got pytorch_model.bin, pickles", "save_pretrained"], 2),
        ("no words", ["llama: wanted a tokenizer.json next to the weights. Got none. Give --tokenizer"], 2),
        ("large words", ["tokenizer.json: wanted the tokenizer of a model with 31 embedding rows. Got one with 45"], 2),
        ("endless words", ["tokenizer.json: wanted a tokenizer with one of <|endoftext|>", "Add"], 2),
        ("ours", ["this is a checkpoint folder of firstsight already"], 2),
    ],
)
def test_bad_input_is_named_with_its_location_and_advice(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str, expected: list[str], code: int
) -> None:
    tensors = {name: tensor for file in source.glob("model-*.safetensors") for name, tensor in load_file(file).items()}
    norm, query = tensors["model.norm.weight"], "model.layers.1.self_attn.q_proj.weight"
    match damage:
        case "shard gone":
            next(source.glob("model-00002-of-*")).unlink()
        case "tensor gone":
            rewrite_weights(source, {name: tensor for name, tensor in tensors.items() if tensor is not norm})
        case "tensor more":
            rewrite_weights(source, {**tensors, "ghost": torch.ones(1)})
        case "misshapen":
            rewrite_weights(source, {**tensors, query: tensors[query][:16].clone()})
        case "another kind":
            rewrite_weights(source, {**tensors, "model.norm.weight": norm.to(torch.int8)})
        case "layers":
            change_config(source, num_hidden_layers=3)
        case "bias":
            change_config(source, attention_bias=True)
        case "gpt2":
            change_config(source, model_type="gpt2")
        case "vision":
            change_config(source, model_type="siglip")
        case "no config":
            (source / "config.json").unlink()
        case "config cut":
            (source / "config.json").write_text('{"model_type":')
        case "pickles":
            for file in source.glob("model*"):
                file.unlink()
            torch.save(tensors, source / "pytorch_model.bin")
        case "no words":
            (source / "tokenizer.json").unlink()
        case "large words":
            write_sized_tokenizer(source / "tokenizer.json", 45)
        case "endless words":
            Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(source / "tokenizer.json"))
        case _:
            (source / "spec.json").write_text("{}")
    assert command(["import", str(source), "--out", str(tmp_path / "out")]) == code
    message = " ".join(capsys.readouterr().err.split())
    assert str(source) in message
    assert all(part in message for part in expected), message
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*")), "nothing half is left"


def test_a_much_smaller_tokenizer_is_refused_if_none_is_beside_the_weights(source: Path, tmp_path: Path) -> None:
    (source / "tokenizer.json").unlink()
    write_sized_tokenizer(tmp_path / "small.json", 15)
    with pytest.raises(ModelError, match=r"small\.json: wanted .* a model with 31 embedding rows\. Got one with 15"):
        import_weights(source, tmp_path / "out", tokenizer=str(tmp_path / "small.json"))
    write_sized_tokenizer(tmp_path / "small.json", 16)
    import_weights(source, tmp_path / "out", tokenizer=str(tmp_path / "small.json"))


def test_another_tokenizer_than_the_folders_own_is_refused(source: Path, tmp_path: Path) -> None:
    other = json.loads((source / "tokenizer.json").read_text())
    vocabulary: dict[str, int] = other["model"]["vocab"]
    first, second = list(vocabulary)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(ModelError, match=r"other\.json: wanted the vocabulary of .*tokenizer\.json\. Got 4 other"):
        import_weights(source, tmp_path / "out", tokenizer=str(tmp_path / "other.json"))


def test_a_name_without_network_ends_with_one_and_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["import", "owner/run", "--revision", "step-9", "--out", str(tmp_path / "out")]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "owner/run@step-9: wanted a hub folder. Got no network" in message
    assert "hf download owner/run --revision step-9 --local-dir FOLDER; then name that folder here" in message


def test_an_occupied_folder_and_wrong_options_are_refused(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("")
    for options, expected in (
        (["--out", str(tmp_path / "taken")], "taken: wanted a new folder"),
        (["--out", str(tmp_path / "out"), "--config", str(source / "config.json")], "--config: is for OpenLM"),
        (["--out", str(tmp_path / "out"), "--seen", "many"], "wanted a number of tokens"),
    ):
        assert command(["import", str(source), *options]) == 2
        assert expected in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("step", ["write_tensors", "write_spec", "_write_import_record"])
def test_a_killed_import_leaves_no_checkpoint(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Killed before any of its steps: Ctrl-C tidies up; what a harder end leaves is swept by the next import."""
    out, staging = tmp_path / "out", tmp_path / ".out.partial"

    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(import_, step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            import_weights(source, out)
    assert not out.exists()
    assert not staging.exists()
    staging.mkdir()
    (staging / "model.safetensors").write_text("half")
    import_weights(source, out)
    assert not staging.exists()
    load(out)


@pytest.mark.parametrize(
    ("special_tokens", "expected"),
    [
        (["</s>", "<s>", "<eos>"], "</s>"),
        (["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"], "<|end_of_text|>"),
        (["<bos>", "<eos>", "<pad>"], "<eos>"),
        (["</s>", "<|endoftext|>"], "<|endoftext|>"),
    ],
)
def test_every_family_has_its_end_token(tmp_path: Path, special_tokens: list[str], expected: str) -> None:
    fast = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    fast.add_special_tokens([AddedToken(tensor, special=True) for tensor in special_tokens])
    fast.save(str(tmp_path / "tokenizer.json"))
    vocab_size = tokenizer.load_tokenizer(tmp_path)
    assert vocab_size.end_token == expected
    assert vocab_size.special_ids.end == fast.token_to_id(expected) == vocab_size.special_ids.pad


def test_a_tokenizer_without_end_token_is_a_data_error(tmp_path: Path) -> None:
    Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match=r"<\|end_of_text\|>"):
        tokenizer.load_tokenizer(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(source: Path, tmp_path: Path, value: float) -> None:
    tensors = {name: tensor for file in source.glob("*.safetensors") for name, tensor in load_file(file).items()}
    tensors["model.norm.weight"][1] = value
    rewrite_weights(source, tensors)
    with pytest.raises(ModelError, match=r"model\.safetensors: wanted finite numbers in model\.norm\.weight\. Got NaN"):
        import_weights(source, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


@pytest.fixture
def hub_cache(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The snapshot of `owner/tiny` at the revision step29000, in the layout of the hub's cache; no network."""
    repository, commit = tmp_path / "hub" / "models--owner--tiny", "a" * 40
    snapshot = repository / "snapshots" / commit
    for folder in (snapshot, repository / "blobs", repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "refs" / "step29000").write_text(commit)
    for file in source.iterdir():
        blob = repository / "blobs" / (file_sha256(file) if file.suffix == ".safetensors" else f"{file.name:0>40}")
        blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return snapshot


def test_a_revision_in_the_hubs_cache_is_imported_with_its_commit_and_digests(hub_cache: Path, tmp_path: Path) -> None:
    import_weights("owner/tiny", tmp_path / "out", revision="step29000")
    record = json.loads((tmp_path / "out" / "imported.json").read_text())
    assert (record["source"], record["revision"]) == ("owner/tiny", "a" * 40)
    for file in hub_cache.glob("*.safetensors"):
        assert record["files"][file.name] == file.resolve().name


def test_a_damaged_file_of_the_hubs_cache_is_refused(hub_cache: Path, tmp_path: Path) -> None:
    blob = next(hub_cache.glob("*.safetensors")).resolve()
    body = bytearray(blob.read_bytes())
    body[-1] ^= 1
    blob.write_bytes(body)
    with pytest.raises(ModelError, match="wanted the bytes with the hub's SHA-256"):
        import_weights("owner/tiny", tmp_path / "out", revision="step29000")
    assert not (tmp_path / "out").exists()
