"""What a branch carries, what it starts fresh, and what it refuses."""

from __future__ import annotations

import ctypes
import multiprocessing
import resource
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from firstsight.errors import ModelError
from firstsight.model.vlm import VLM
from firstsight.model.weights import read_tensors, write_tensors
from firstsight.recipe.model import VLMSpec
from firstsight.site import Site
from firstsight.train.run import pretrain
from firstsight.train.state import branch, carry, fresh, take_moments
from tests.train import small


@pytest.fixture(scope="module")
def trunk(inputs: dict[str, Path], site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.ran(pretrain, small.segment(6, "0", "1"), inputs, tmp_path_factory.mktemp("state") / "trunk", site)


@pytest.mark.parametrize("model", [small.SEES, small.PATCHED], ids=["features", "patches"])
def test_carried_moments_are_the_trunks_own_and_sight_starts_fresh(trunk: Path, model: VLMSpec) -> None:
    state = branch(trunk, model, small.ADAM, seed=1)
    carry(state, trunk)
    weights, moments = read_tensors(trunk), read_tensors(trunk, "optimizer")
    carried = take_moments(state)
    assert carried.keys() == moments.keys()
    assert all(torch.equal(carried[name], moments[name]) for name in moments)
    assert {float(value) for name, value in moments.items() if name.endswith(".step")} == {6.0}
    untrained = dict(fresh(model, small.ADAM, seed=1).model.named_parameters())
    for name, parameter in state.model.named_parameters():
        assert torch.equal(parameter, weights.get(name, untrained[name])), name
    assert state.seen == 0


def test_fresh_moments_are_none_at_all(trunk: Path) -> None:
    assert take_moments(branch(trunk, small.SEES, small.ADAM, seed=1)) == {}


def test_new_token_rows_start_fresh_behind_the_old(trunk: Path) -> None:
    wider = replace(small.LM, vocabulary=70)
    state = branch(trunk, wider, small.ADAM, seed=1)
    carry(state, trunk)
    old, moments = read_tensors(trunk), take_moments(state)
    for name in ("lm.tok_embeddings.weight", "lm.output.weight"):
        rows = state.model.get_parameter(name)
        assert torch.equal(rows[:64], old[name])
        assert rows[64:].abs().sum() > 0
        assert not moments[f"{name}.exp_avg"][64:].any()
        assert moments[f"{name}.exp_avg"][:64].any()


def test_a_checkpoint_of_another_shape_is_refused_by_name(trunk: Path) -> None:
    with pytest.raises(ModelError, match=r"of another shape: .*lm\.layers\.0\.feed_forward\.w12\.weight"):
        branch(trunk, replace(small.LM, hidden=48), small.ADAM, seed=1)
    with pytest.raises(ModelError, match=r"not in the checkpoint: .*lm\.layers\.2\."):
        branch(trunk, replace(small.LM, layers=3), small.ADAM, seed=1)
    with pytest.raises(ModelError, match=r"not in the spec: .*lm\.layers\.1\."):
        branch(trunk, replace(small.LM, layers=1), small.ADAM, seed=1)


def test_the_decoder_starts_alike_with_and_without_eyes() -> None:
    text = fresh(small.LM, small.ADAM, seed=3).model.state_dict()
    seeing = fresh(small.SEES, small.ADAM, seed=3).model.state_dict()
    assert all(torch.equal(value, seeing[name]) for name, value in text.items())
    other = fresh(small.LM, small.ADAM, seed=4).model.state_dict()
    assert not torch.equal(text["lm.output.weight"], other["lm.output.weight"])


def grown(work: Callable[[], object]) -> int:
    """Bytes by which memory grows at most while a process of its own does the work."""
    context = multiprocessing.get_context("fork")  # a child that need not import torch
    ours, theirs = context.Pipe()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # else it lives on what tests before have left

    def child() -> None:
        fresh(small.LM, small.ADAM, seed=0)  # imports and pages of code that the first model brings are no weights
        before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        work()
        theirs.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)

    process = context.Process(target=child)
    process.start()
    process.join()
    return ours.recv()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_holds_the_weights_once(tmp_path: Path) -> None:
    deep = replace(small.LM, layers=16, width=256, heads=4, kv_heads=4, head=64, hidden=1024)
    size = 4 * deep.parameters()
    assert size > 5e7, "what else a process needs does not matter"
    write_tensors(tmp_path, {name: torch.ones(*p.shape) for name, p in VLM(deep).named_parameters()})
    for work in (lambda: fresh(deep, small.ADAM, seed=0), lambda: branch(tmp_path, deep, small.ADAM, seed=0)):
        assert 0.9 * size < grown(work) < 1.7 * size
