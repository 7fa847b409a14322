"""open_lm's own files: settings, `.pt` checkpoints and optimizers, laid out as its main.py and model.py write them.

Oracle: a run made here by torch alone under open_lm's names; the formulas of the paper's model in float64.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from firstsight.errors import ModelError
from firstsight.hub import openlm
from firstsight.hub.import_ import ImportResult
from firstsight.model.checkpoint_io import load
from firstsight.model.tensors import read_tensors
from firstsight.recipe.model import LMSpec, Rope
from firstsight.recipe.scales.base import adamw, trains_decoder
from firstsight.train import state
from tests.hub.checkpoints import import_weights, write_tokenizer
from tests.model.test_layers import transcription

CONFIG: dict[str, Any] = {
    "hidden_dim": 16, "n_layers": 2, "n_heads": 2, "seq_len": 32, "vocab_size": 40, "post_embed_norm": False,
    "weight_tying": False, "ffn_type": "swiglu_torch",
}  # fmt: skip


ARGS = {
    "model": "tiny", "model_norm": "gain_only_lp_layer_norm", "qk_norm": True, "positional_embedding_type": "rotary",
    "ffn_type": "swiglu", "moe_freq": 0, "lr": 0.003, "resume": None, "attn_name": "auto",
}  # fmt: skip


SPEC = LMSpec(
    layers=2, width=16, heads=2, kv_heads=2, head_dim=8, mlp_width=256, vocab_size=40, norm="layer", eps=1e-5,
    qk_norm=True, rope=Rope(base=10_000.0), ties_embeddings=False, token_shift=1, embedding_scale=1,
)  # fmt: skip


class Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width))


class Rotary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 1.0 / (10_000 ** (torch.arange(0, 8, 2).float() / 8)))


def linear(a: int, b: int) -> nn.Linear:
    return nn.Linear(a, b, bias=False)


class Run(nn.Module):
    """The modules of open_lm's Transformer in its order, which numbers the optimizer's parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(40, 16)
        self.layers = nn.ModuleList()
        for _ in range(2):
            attention = nn.ModuleDict()
            attention["in_proj"], attention["out_proj"] = linear(16, 48), linear(16, 16)
            attention["pos_embed"], attention["q_norm"], attention["k_norm"] = Rotary(), Norm(16), Norm(16)
            feed = nn.ModuleDict({"w12": linear(16, 512), "w3": linear(256, 16)})
            parts = {"attention": attention, "feed_forward": feed, "attention_norm": Norm(16), "ffn_norm": Norm(16)}
            self.layers.append(nn.ModuleDict(parts))
        self.norm, self.output = Norm(16), linear(16, 40)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder: params.txt, its model config, and one checkpoint with the optimizer's state of two steps."""
    torch.manual_seed(0)
    model = Run()
    trained = torch.optim.AdamW([{"params": [], "weight_decay": 0.0}, {"params": list(model.parameters())}], lr=1e-2)
    for _ in range(2):
        sum(((tensor - 1) ** 2).sum() for tensor in model.parameters()).backward()  # type: ignore[union-attr]
        trained.step()
        trained.zero_grad()
    tensors = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    folder = tmp_path / "logs" / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "params.txt").write_text("".join(f"{name}: {ARGS[name]}\n" for name in sorted(ARGS)))
    (folder / "tiny.json").write_text(json.dumps(CONFIG))
    expected = {"epoch": 3, "name": "run", "evaluation_metrics": [{"loss": 1.0}], "samples_seen": 1000, "step": 2}
    torch.save({**expected, "state_dict": tensors}, folder / "checkpoints" / "epoch_3.pt")
    torch.save({**expected, "optimizer": trained.state_dict()}, folder / "checkpoints" / "optimizer_3.pt")
    write_tokenizer(tmp_path / "words")
    return folder


def import_run(run: Path, out: Path, **changes: Any) -> ImportResult:
    options = {"config_path": run / "tiny.json", "tokenizer": str(run.parents[1] / "words")}
    return import_weights(run / "checkpoints" / "epoch_3.pt", out, **(options | changes))


def test_logits_equal_the_formulas_of_the_paper(run: Path, tmp_path: Path) -> None:
    result = import_run(run, tmp_path / "out")
    assert (result.spec, result.tokens_seen, result.has_moments) == (SPEC, 32 * 1000, True)
    body = torch.load(run / "checkpoints" / "epoch_3.pt", weights_only=True)["state_dict"]
    weights = {name.removeprefix("module."): tensor.double() for name, tensor in body.items()}
    expected = transcription(SimpleNamespace(spec=SPEC, named_parameters=lambda: weights.items()), [3, 1, 4, 1, 5])  # type: ignore[arg-type]
    loaded = load(tmp_path / "out", compute_dtype=torch.float64)
    lm, ids = loaded.model.double().lm, torch.tensor([[3, 1, 4, 1, 5]])
    with torch.no_grad():
        output = lm.logits(lm(lm.embed(ids), lm.attention_inputs(torch.zeros_like(ids), torch.arange(5)[None])))[0]
    assert (output - expected).abs().max() < 1e-10
    assert loaded.tokens_seen == 32_000


def test_a_dclm_folder_is_the_checkpoint_that_it_was_made_of(run: Path, tmp_path: Path) -> None:
    """As open_lm's hf_model keeps it: names behind `model.`, settings in two places, angles too."""
    body = torch.load(run / "checkpoints" / "epoch_3.pt", weights_only=True)["state_dict"]
    folder = tmp_path / "dclm"
    write_tokenizer(folder)
    save_file(
        {name.replace("module.", "model."): tensor for name, tensor in body.items()}, folder / "model.safetensors"
    )
    config = {"architectures": ["OpenLMModel"], "model_type": "openlm", "params": None, "params_args_dict": ARGS}
    (folder / "config.json").write_text(json.dumps({**config, **CONFIG}))
    result = import_weights(folder, tmp_path / "one")
    assert (result.spec, result.tokens_seen, result.has_moments) == (SPEC, None, False)
    import_run(run, tmp_path / "two")
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == (
        tmp_path / "two" / "model.safetensors"
    ).read_bytes()


def test_a_tied_run_keeps_one_copy_and_its_moments(run: Path, tmp_path: Path) -> None:
    """open_lm ties the two matrices but stores both; its optimizer counts one."""
    (run / "tiny.json").write_text(json.dumps({**CONFIG, "weight_tying": True}))
    for name in ("epoch_3.pt", "optimizer_3.pt"):
        file = run / "checkpoints" / name
        body = torch.load(file, weights_only=True)
        if name == "epoch_3.pt":
            body["state_dict"]["module.output.weight"] = body["state_dict"]["module.tok_embeddings.weight"]
        else:
            last = body["optimizer"]["param_groups"][1]["params"].pop()
            del body["optimizer"]["state"][last]
        torch.save(body, file)
    result = import_run(run, tmp_path / "out")
    assert result.spec.ties_embeddings
    assert result.has_moments
    assert "lm.output.weight" not in read_tensors(tmp_path / "out")


@pytest.mark.parametrize("fsdp", [False, True])
def test_moments_are_carried_into_training(run: Path, tmp_path: Path, fsdp: bool) -> None:
    """FSDP keeps names where a plain optimizer keeps numbers; both reach every parameter of a branch."""
    model = torch.load(run / "checkpoints" / "epoch_3.pt", weights_only=True)["state_dict"]
    parameters = [name.removeprefix("module.") for name in model if "inv_freq" not in name]
    file = run / "checkpoints" / "optimizer_3.pt"
    body = torch.load(file, weights_only=True)
    states = {parameters[number]: tensor for number, tensor in body["optimizer"]["state"].items()}
    if fsdp:
        torch.save({**body, "optimizer": {"state": states, "param_groups": []}}, file)
    import_run(run, tmp_path / "out")
    moments = read_tensors(tmp_path / "out", "optimizer")
    assert len(moments) == 3 * len(parameters)
    branch = state.branch_state(tmp_path / "out", SPEC, adamw(z_loss=0.0), trains=trains_decoder(0.1), seed=0)
    state.load_moments(branch, tmp_path / "out")
    for name, parameter in branch.model.named_parameters():
        state_, expected = branch.optimizer.state[parameter], states[name.removeprefix("lm.")]
        assert torch.equal(parameter, model[f"module.{name.removeprefix('lm.')}"]), name
        assert all(torch.equal(state_[key], expected[key]) for key in ("exp_avg", "exp_avg_sq", "step")), name
        assert state_["step"] == 2


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ("one gone", "norm.weight (missing)"),
        ("one more", "ghost (not in the model)"),
        ("misshapen", "norm.weight (another shape)"),
        ("sgd", "norm.weight (momentum_buffer)"),
        ("numbers", "in another order"),
        ("nothing", "wanted an optimizer's state"),
    ],
)
def test_moments_of_another_model_are_refused(run: Path, tmp_path: Path, damage: str, expected: str) -> None:
    model = torch.load(run / "checkpoints" / "epoch_3.pt", weights_only=True)["state_dict"]
    names = [name.removeprefix("module.") for name in model if "inv_freq" not in name]
    file = run / "checkpoints" / "optimizer_3.pt"
    body = torch.load(file, weights_only=True)
    output = {names[number]: tensor for number, tensor in body["optimizer"]["state"].items()}
    match damage:
        case "one gone":
            del output["norm.weight"]
        case "one more":
            output["ghost"] = output["norm.weight"]
        case "misshapen":
            output["norm.weight"]["exp_avg"] = torch.ones(3)
        case "sgd":
            output["norm.weight"] = {"momentum_buffer": torch.ones(16)}
        case "numbers":
            body["optimizer"]["param_groups"][1]["params"].reverse()
        case _:
            body["optimizer"] = None
    if damage not in ("numbers", "nothing"):
        body["optimizer"]["state"] = output
    torch.save(body, file)
    with pytest.raises(ModelError) as caught:
        import_run(run, tmp_path / "out")
    assert str(caught.value).startswith(str(file))
    assert expected in str(caught.value)
    assert not (tmp_path / "out").exists()


class Harm:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.file}",)


def test_a_pickle_that_would_run_something_is_refused(run: Path, tmp_path: Path) -> None:
    file, trace = run / "checkpoints" / "epoch_3.pt", tmp_path / "ran"
    torch.save({"epoch": 1, "state_dict": {"one": torch.ones(1)}, "damage": Harm(trace)}, file)
    torch.load(file, weights_only=False)
    assert trace.exists(), "this pickle is harmless: the test proves nothing"
    trace.unlink()
    with pytest.raises(ModelError) as caught:
        import_run(run, tmp_path / "out")
    assert not trace.exists()
    assert str(caught.value).startswith(f"{file}: wanted only tensors and plain values. Got a pickle that calls ")
    assert "posix.system; nothing was executed. Do not trust this file" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("body", [b"", b"nothing", b"PK\x03\x04cut"])
def test_a_file_that_is_no_pt_file_is_refused(run: Path, tmp_path: Path, body: bytes) -> None:
    (run / "checkpoints" / "epoch_3.pt").write_bytes(body)
    with pytest.raises(ModelError, match=r"epoch_3\.pt: wanted"):
        import_run(run, tmp_path / "out")


def test_half_a_pt_file_and_one_without_a_model_are_refused(run: Path, tmp_path: Path) -> None:
    file = run / "checkpoints" / "epoch_3.pt"
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match=r"wanted a whole \.pt file"):
        import_run(run, tmp_path / "out")
    torch.save({"epoch": 3, "is_final_checkpoint": True}, file)
    with pytest.raises(ModelError, match=r"wanted a model's state_dict\. Got epoch, is_final_checkpoint"):
        import_run(run, tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({**CONFIG, **ARGS}, SPEC),
        ({**ARGS, "dim": 16, "n_layers": 2, "n_heads": 2, "vocab_size": 40}, SPEC),
        (
            {**CONFIG, "norm_type": "gain_only_layer_norm", "apply_qk_norm": True, "params": None}
            | {"positional_embedding_type": "rotary"},
            SPEC,
        ),
    ],
    ids=["model config and params", "Params", "Params' other names"],
)  # fmt: skip
def test_settings_are_read_under_all_their_names(settings: dict[str, Any], expected: LMSpec) -> None:
    assert openlm.openlm_spec_from_settings(settings) == expected


def test_a_model_config_goes_before_the_arguments(run: Path) -> None:
    """As in open_lm's create_params."""
    params = openlm.read_openlm_settings(run / "params.txt")
    assert (params["qk_norm"], params["moe_freq"], params["lr"], params["resume"]) == (True, 0, 0.003, None)
    assert openlm.openlm_spec_from_settings({**CONFIG, "qk_norm": False}, params).qk_norm is False
    assert openlm.openlm_spec_from_settings({**CONFIG, "model_norm": "rms_norm"}, params).norm == "rms"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model_norm": "lp_layer_norm"}, "model_norm 'lp_layer_norm'"),
        ({"positional_embedding_type": "head_rotary"}, "positional_embedding_type 'head_rotary'"),
        ({"ffn_type": "gemma_geglu"}, "ffn_type 'gemma_geglu'"),
        ({"post_embed_norm": True}, "post_embed_norm True"),
        ({"moe_freq": 2}, "moe_freq 2"),
        ({"attn_name": "custom_attn"}, "attn_name 'custom_attn'"),
        ({"n_heads": 3}, "heads must divide width"),
        ({"n_heads": None}, "Got none. Give --config"),
        ({"model_norm": None}, "wanted model_norm"),
    ],
)
def test_unsupported_settings_are_named(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(ModelError) as caught:
        openlm.openlm_spec_from_settings({**CONFIG, **ARGS, **change})
    assert expected in str(caught.value)


@pytest.mark.parametrize("name", ["module.norm.weight", "module.layers.0.attention.pos_embed.inv_freq"])
def test_tensors_that_contradict_the_settings_are_named(run: Path, tmp_path: Path, name: str) -> None:
    file = run / "checkpoints" / "epoch_3.pt"
    body = torch.load(file, weights_only=True)
    tensors: dict[str, Tensor] = body["state_dict"]
    tensors[name] = tensors[name][:2].clone()
    tensors["module.ghost"] = tensors.pop("module.output.weight")
    torch.save(body, file)
    with pytest.raises(ModelError) as caught:
        import_run(run, tmp_path / "out")
    if "inv_freq" in name:
        assert "wanted the rotary frequencies of base 10000 for heads of 8" in str(caught.value)
    else:
        expected = str(caught.value)
        assert (
            "missing: output.weight; extra: module.ghost; of another shape: module.norm.weight wanted [16] got [2]"
            in expected
        )


def test_numpy_scalars_in_a_checkpoint_are_read_and_other_objects_are_not(tmp_path: Path) -> None:
    """open_lm's --val-seq-ci leaves np.percentile's numbers among the metrics."""
    body = {"state_dict": {"one": torch.ones(2)}, "samples_seen": np.int64(7)}
    low, high = np.percentile(np.arange(5.0), [5, 95])
    torch.save({**body, "evaluation_metrics": [{"low": low, "high": np.float32(high)}]}, tmp_path / "one.pt")
    tensors, rows_seen = openlm.read_openlm_checkpoint(tmp_path / "one.pt")
    assert rows_seen == 7 and torch.equal(tensors["one"], torch.ones(2))
    torch.save({**body, "args": argparse.Namespace(lr=1)}, tmp_path / "two.pt")
    with pytest.raises(ModelError, match=r"calls argparse\.Namespace; nothing was executed.*its state_dict alone"):
        openlm.read_openlm_checkpoint(tmp_path / "two.pt")


@pytest.mark.parametrize("file", ["epoch_3.pt", "optimizer_3.pt"])
def test_weights_and_moments_that_are_not_finite_are_refused(run: Path, tmp_path: Path, file: str) -> None:
    body = torch.load(run / "checkpoints" / file)
    if file.startswith("epoch"):
        body["state_dict"]["module.norm.weight"][0] = float("nan")
    else:
        body["optimizer"]["state"][0]["exp_avg_sq"][0] = float("inf")
    torch.save(body, run / "checkpoints" / file)
    with pytest.raises(ModelError, match=r"epoch_3\.pt: wanted finite numbers in lm\..*Got NaN or infinity for \d+ of"):
        import_run(run, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))
