"""Compiled blocks: many shapes in one process; on a GPU the laws of training, one compilation for all steps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from jaxtyping import config
from torch._dynamo.utils import counters

from firstsight.model.vlm import VLM
from firstsight.site import Site
from firstsight.train import compilation
from firstsight.train.compilation import compile_decoder
from firstsight.train.handlers import midtrain, pretrain
from tests.train import tiny_study

Inputs = dict[str, Path]


@pytest.fixture(autouse=True)
def compiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every run is worth compiling, and type checks, which torch cannot compile, are off."""
    monkeypatch.setattr(compilation, "MIN_COMPILE_STEPS", 1)
    config.update("jaxtyping_disable", True)
    counters.clear()
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks are traced as for the compiler, which then does nothing with them."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    compilation._compiled_block.cache_clear()
    torch._dynamo.reset()
    yield
    compilation._compiled_block.cache_clear()


@pytest.mark.usefixtures("traced")
def test_a_process_compiles_for_as_many_shapes_as_it_meets() -> None:
    model = VLM(tiny_study.LM)
    model.initialise(0)
    compile_decoder(model.lm, Site(), steps=1)
    shapes = [(1, length) for length in range(4, 15)]
    for shape in shapes:
        tokens, positions = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int32)
        model.lm(model.lm.embed(tokens), model.lm.attention_inputs(positions, positions))
    assert counters["stats"]["unique_graphs"] >= len(shapes)


@pytest.fixture
def gpu(tmp_path: Path) -> Site:
    return Site(device="cuda", cache=tmp_path / "cache")


@pytest.mark.gpu
def test_reruns_leave_equal_bytes_and_each_stage_compiles_once(inputs: Inputs, gpu: Site, tmp_path: Path) -> None:
    spec = tiny_study.segment(10, "0", "1")
    torch._dynamo.reset()
    one = tiny_study.ran(pretrain, spec, inputs, tmp_path / "one", gpu)
    assert counters["stats"]["unique_graphs"] <= 2, "the block's, and the loss's"
    two = tiny_study.ran(pretrain, spec, inputs, tmp_path / "two", replace(gpu, save_every=0.0))
    assert tiny_study.contents(one) == tiny_study.contents(two)
    for name, model in (("sees", tiny_study.SEES), ("patched", tiny_study.PATCHED)):
        stage, reads = tiny_study.midtraining(model, 8, "1/2"), {**inputs, "trunk": one}
        if name == "patched":
            del reads["image0.features"]
        first = tiny_study.contents(tiny_study.ran(midtrain, stage, reads, tmp_path / name, gpu))
        often = replace(gpu, save_every=0.0)
        assert first == tiny_study.contents(tiny_study.ran(midtrain, stage, reads, tmp_path / f"{name}-again", often))


@pytest.mark.gpu
def test_compiled_it_learns_what_it_learns_uncompiled(inputs: Inputs, gpu: Site, tmp_path: Path) -> None:
    spec = tiny_study.segment(10, "0", "1")
    slow, fast = (
        losses(tiny_study.ran(pretrain, spec, inputs, tmp_path / str(fast), replace(gpu, compile=fast)))
        for fast in (False, True)
    )
    assert slow[-1] < 0.9 * slow[0]
    assert fast == pytest.approx(slow, rel=0.01)


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]
