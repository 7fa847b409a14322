"""What a branch carries, what it starts fresh, and what it refuses."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from firstsight.errors import ModelError
from firstsight.model.tensors import read_tensors, write_tensors
from firstsight.model.vlm import VLM
from firstsight.recipe.lm import LMSpec
from firstsight.recipe.model import VLMSpec
from firstsight.site import Site
from firstsight.train.handlers import pretrain
from firstsight.train.state import TrainState, branch_state, collect_moments, load_moments, untrained_state
from tests.conftest import DEVICE
from tests.model.memory import peak_bytes, reset_peak
from tests.train import tiny_study


@pytest.fixture(scope="module")
def trunk(inputs: dict[str, Path], site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_study.ran(
        pretrain, tiny_study.segment(6, "0", "1"), inputs, tmp_path_factory.mktemp("state") / "trunk", site
    )


@pytest.mark.parametrize("model", [tiny_study.SEES, tiny_study.PATCHED], ids=["features", "patches"])
def test_carried_moments_are_the_trunks_own_and_sight_starts_fresh(trunk: Path, model: VLMSpec) -> None:
    state = branch_state(trunk, model, tiny_study.ADAM, seed=1)
    load_moments(state, trunk)
    weights, moments = read_tensors(trunk), read_tensors(trunk, "optimizer")
    carried = collect_moments(state)
    assert carried.keys() == moments.keys()
    assert all(torch.equal(carried[name], moments[name]) for name in moments)
    assert {float(value) for name, value in moments.items() if name.endswith(".step")} == {6.0}
    untrained = dict(untrained_state(model, tiny_study.ADAM, seed=1).model.named_parameters())
    for name, parameter in state.model.named_parameters():
        assert torch.equal(parameter, weights.get(name, untrained[name])), name
    assert state.tokens_seen == 0


def test_fresh_moments_are_none_at_all(trunk: Path) -> None:
    assert collect_moments(branch_state(trunk, tiny_study.SEES, tiny_study.ADAM, seed=1)) == {}


def test_new_token_rows_start_fresh_behind_the_old(trunk: Path) -> None:
    wider = replace(tiny_study.LM, vocab_size=70)
    state = branch_state(trunk, wider, tiny_study.ADAM, seed=1)
    load_moments(state, trunk)
    old, moments = read_tensors(trunk), collect_moments(state)
    for name in ("lm.tok_embeddings.weight", "lm.output.weight"):
        rows = state.model.get_parameter(name)
        assert torch.equal(rows[:64], old[name])
        assert rows[64:].abs().sum() > 0
        assert not moments[f"{name}.exp_avg"][64:].any()
        assert moments[f"{name}.exp_avg"][:64].any()


def test_a_checkpoint_of_another_shape_is_refused_by_name(trunk: Path) -> None:
    with pytest.raises(ModelError, match=r"of another shape: .*lm\.layers\.0\.feed_forward\.w12\.weight"):
        branch_state(trunk, replace(tiny_study.LM, mlp_width=48), tiny_study.ADAM, seed=1)
    with pytest.raises(ModelError, match=r"not in the checkpoint: .*lm\.layers\.2\."):
        branch_state(trunk, replace(tiny_study.LM, layers=3), tiny_study.ADAM, seed=1)
    with pytest.raises(ModelError, match=r"not in the spec: .*lm\.layers\.1\."):
        branch_state(trunk, replace(tiny_study.LM, layers=1), tiny_study.ADAM, seed=1)


def test_the_decoder_starts_alike_with_and_without_eyes() -> None:
    text = untrained_state(tiny_study.LM, tiny_study.ADAM, seed=3).model.state_dict()
    seeing = untrained_state(tiny_study.SEES, tiny_study.ADAM, seed=3).model.state_dict()
    assert all(torch.equal(value, seeing[name]) for name, value in text.items())
    other = untrained_state(tiny_study.LM, tiny_study.ADAM, seed=4).model.state_dict()
    assert not torch.equal(text["lm.output.weight"], other["lm.output.weight"])


def begin(deep: LMSpec, _folder: Path) -> TrainState:
    return untrained_state(deep, tiny_study.ADAM, seed=0)


def go_on(deep: LMSpec, folder: Path) -> TrainState:
    return branch_state(folder, deep, tiny_study.ADAM, seed=0)


def grow(work: Callable[[LMSpec, Path], TrainState], deep: LMSpec, folder: Path, wire: Connection) -> None:
    """Send the bytes by which memory grows at most while the work is done."""
    begin(tiny_study.LM, folder)  # imports and pages of code that the first model brings are no weights
    before = reset_peak()
    work(deep, folder)
    wire.send(peak_bytes() - before)


@pytest.mark.skipif(DEVICE != "cpu" or sys.platform != "linux", reason="memory is read where Linux tells it")
@pytest.mark.parametrize("work", [begin, go_on])
def test_memory_holds_the_weights_once(work: Callable[[LMSpec, Path], TrainState], tmp_path: Path) -> None:
    deep = replace(tiny_study.LM, layers=16, width=256, heads=4, kv_heads=4, head_dim=64, mlp_width=1024)
    size = 4 * deep.parameters()
    assert size > 5e7, "what else a process needs does not matter"
    write_tensors(tmp_path, {name: torch.ones(*p.shape) for name, p in VLM(deep).named_parameters()})
    context = multiprocessing.get_context("spawn")  # a process of its own, without what tests before have left
    ours, theirs = context.Pipe()
    process = context.Process(target=grow, args=(work, deep, tmp_path, theirs))
    process.start()
    process.join()
    assert 0.9 * size < ours.recv() < 1.7 * size
