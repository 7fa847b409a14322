"""Branching: carried and new weights and moments, and checkpoints that do not fit."""

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
from firstsight.recipe.model import LMSpec, VLMSpec
from firstsight.site import Site
from firstsight.train.handlers import pretrain
from firstsight.train.state import TrainState, branch_state, collect_moments, load_moments, untrained_state
from tests.conftest import DEVICE
from tests.model.memory import peak_bytes, reset_peak
from tests.train import tiny_study


@pytest.fixture(scope="module")
def trunk(inputs: dict[str, Path], site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_study.run_handler(
        pretrain, tiny_study.segment_spec(6, "0", "1"), inputs, tmp_path_factory.mktemp("state") / "trunk", site
    )


@pytest.mark.parametrize("model", [tiny_study.FEATURE_VLM, tiny_study.PATCH_VLM], ids=["features", "patches"])
def test_carried_moments_equal_the_trunks_and_vision_starts_untrained(trunk: Path, model: VLMSpec) -> None:
    state = branch_state(trunk, model, tiny_study.OPTIM, trains=tiny_study.TRAINS, seed=1)
    load_moments(state, trunk)
    weights, moments = read_tensors(trunk), read_tensors(trunk, "optimizer")
    carried = collect_moments(state)
    assert carried.keys() == moments.keys()
    assert all(torch.equal(carried[name], moments[name]) for name in moments)
    assert {float(value) for name, value in moments.items() if name.endswith(".step")} == {6.0}
    untrained = dict(
        untrained_state(model, tiny_study.OPTIM, trains=tiny_study.TRAINS, seed=1).model.named_parameters()
    )
    for name, parameter in state.model.named_parameters():
        assert torch.equal(parameter, weights.get(name, untrained[name])), name
    assert state.tokens_seen == 0


def test_fresh_moments_are_empty(trunk: Path) -> None:
    assert (
        collect_moments(branch_state(trunk, tiny_study.FEATURE_VLM, tiny_study.OPTIM, trains=tiny_study.TRAINS, seed=1))
        == {}
    )


def test_appended_embedding_rows_have_zero_moments(trunk: Path) -> None:
    wider_spec = replace(tiny_study.LM, vocab_size=70)
    state = branch_state(trunk, wider_spec, tiny_study.OPTIM, trains=tiny_study.TEXT_TRAINS, seed=1)
    load_moments(state, trunk)
    old, moments = read_tensors(trunk), collect_moments(state)
    for name in ("lm.tok_embeddings.weight", "lm.output.weight"):
        rows = state.model.get_parameter(name)
        assert torch.equal(rows[:64], old[name])
        assert rows[64:].abs().sum() > 0
        assert not moments[f"{name}.exp_avg"][64:].any()
        assert moments[f"{name}.exp_avg"][:64].any()


def test_error_names_tensors_that_do_not_fit(trunk: Path) -> None:
    with pytest.raises(ModelError, match=r"of another shape: .*lm\.layers\.0\.feed_forward\.w12\.weight"):
        branch_state(
            trunk, replace(tiny_study.LM, mlp_width=48), tiny_study.OPTIM, trains=tiny_study.TEXT_TRAINS, seed=1
        )
    with pytest.raises(ModelError, match=r"not in the checkpoint: .*lm\.layers\.2\."):
        branch_state(trunk, replace(tiny_study.LM, layers=3), tiny_study.OPTIM, trains=tiny_study.TEXT_TRAINS, seed=1)
    with pytest.raises(ModelError, match=r"not in the spec: .*lm\.layers\.1\."):
        branch_state(trunk, replace(tiny_study.LM, layers=1), tiny_study.OPTIM, trains=tiny_study.TEXT_TRAINS, seed=1)


def test_decoder_initialisation_does_not_depend_on_vision() -> None:
    text = untrained_state(tiny_study.LM, tiny_study.OPTIM, trains=tiny_study.TEXT_TRAINS, seed=3).model.state_dict()
    with_vision = untrained_state(
        tiny_study.FEATURE_VLM, tiny_study.OPTIM, trains=tiny_study.TRAINS, seed=3
    ).model.state_dict()
    assert all(torch.equal(value, with_vision[name]) for name, value in text.items())
    reseeded = untrained_state(
        tiny_study.LM, tiny_study.OPTIM, trains=tiny_study.TEXT_TRAINS, seed=4
    ).model.state_dict()
    assert not torch.equal(text["lm.output.weight"], reseeded["lm.output.weight"])


def start_untrained(deep_spec: LMSpec, _folder: Path) -> TrainState:
    return untrained_state(deep_spec, tiny_study.OPTIM, trains=tiny_study.TEXT_TRAINS, seed=0)


def branch_from_folder(deep_spec: LMSpec, folder: Path) -> TrainState:
    return branch_state(folder, deep_spec, tiny_study.OPTIM, trains=tiny_study.TEXT_TRAINS, seed=0)


def send_memory_growth(
    build: Callable[[LMSpec, Path], TrainState], deep_spec: LMSpec, folder: Path, pipe: Connection
) -> None:
    """Send the growth of the peak memory during `build`."""
    start_untrained(tiny_study.LM, folder)  # exclude imports and code pages
    before = reset_peak()
    build(deep_spec, folder)
    pipe.send(peak_bytes() - before)


@pytest.mark.skipif(DEVICE != "cpu" or sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("build", [start_untrained, branch_from_folder])
def test_weights_are_in_memory_once(build: Callable[[LMSpec, Path], TrainState], tmp_path: Path) -> None:
    deep_spec = replace(tiny_study.LM, layers=16, width=256, heads=4, kv_heads=4, head_dim=64, mlp_width=1024)
    size = 4 * deep_spec.parameters()
    assert size > 5e7, "other memory must be negligible"
    write_tensors(tmp_path, {name: torch.ones(*p.shape) for name, p in VLM(deep_spec).named_parameters()})
    context = multiprocessing.get_context("spawn")  # a process of its own, without what tests before have left
    receiver, sender = context.Pipe()
    process = context.Process(target=send_memory_growth, args=(build, deep_spec, tmp_path, sender))
    process.start()
    process.join()
    assert 0.9 * size < receiver.recv() < 1.7 * size
