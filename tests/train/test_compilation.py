"""Compiled blocks: many shapes in one process; on a GPU equal bytes and one compilation for all steps."""

from __future__ import annotations

import json
import os
import platform
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
from firstsight.train import compilation, resume
from firstsight.train.compilation import compile_decoder, release_free_memory
from firstsight.train.handlers import pretrain, train_stage
from tests.train import tiny_study

Inputs = dict[str, Path]


@pytest.fixture(autouse=True)
def compiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compile for any number of steps, without type checks, which torch cannot compile."""
    monkeypatch.setattr(compilation, "MIN_COMPILE_STEPS", 1)
    config.update("jaxtyping_disable", True)
    counters.clear()
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture
def eager_backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks are traced but not compiled."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    compilation._compiled_block.cache_clear()
    torch._dynamo.reset()
    yield
    compilation._compiled_block.cache_clear()


@pytest.mark.usefixtures("eager_backend")
def test_process_compiles_for_every_shape() -> None:
    model = VLM(tiny_study.LM)
    model.initialise(0)
    compile_decoder(model.lm, Site(), steps=1)
    shapes = [(1, length) for length in range(4, 15)]
    for shape in shapes:
        tokens, positions = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int32)
        model.lm(model.lm.embed(tokens), model.lm.attention_inputs(positions, positions))
    assert counters["stats"]["unique_graphs"] >= len(shapes)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed memory")
def test_freed_memory_between_used_memory_goes_back() -> None:
    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    blocks = [bytearray(2**16) for _ in range(2048)]  # below the size that glibc maps on its own
    del blocks[: len(blocks) - 1]  # the last one keeps the others' place from the top of the heap
    before = resident_bytes()
    release_free_memory()
    assert before - resident_bytes() > 1024 * 2**16


def test_resume_points_release_memory(
    inputs: Inputs, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    releases: list[None] = []
    monkeypatch.setattr(resume, "release_free_memory", lambda: releases.append(None))
    spec = tiny_study.segment_spec(10, "0", "1/5")
    tiny_study.run_handler(pretrain, spec, inputs, tmp_path / "out", replace(site, save_every=0.0))
    steps = spec.pretrain.row_shape.steps(spec.pretrain.tokens_at(spec.end))
    assert len(releases) == steps > 1


@pytest.fixture
def gpu(tmp_path: Path) -> Site:
    return Site(device="cuda", cache=tmp_path / "cache")


@pytest.mark.gpu
def test_gpu_reruns_leave_equal_bytes_and_each_stage_compiles_once(inputs: Inputs, gpu: Site, tmp_path: Path) -> None:
    spec = tiny_study.segment_spec(10, "0", "1")
    torch._dynamo.reset()
    first_run = tiny_study.run_handler(pretrain, spec, inputs, tmp_path / "one", gpu)
    assert counters["stats"]["unique_graphs"] <= 2, "the block's, and the loss's"
    second_run = tiny_study.run_handler(pretrain, spec, inputs, tmp_path / "two", replace(gpu, save_every=0.0))
    assert tiny_study.read_files(first_run) == tiny_study.read_files(second_run)
    for name, model in (("features", tiny_study.FEATURE_VLM), ("patches", tiny_study.PATCH_VLM)):
        stage, stage_inputs = tiny_study.midtrain_spec(model, 8, "1/2"), {**inputs, "trunk": first_run}
        if name == "patches":
            del stage_inputs["image0.features"]
        first = tiny_study.read_files(tiny_study.run_handler(train_stage, stage, stage_inputs, tmp_path / name, gpu))
        often = replace(gpu, save_every=0.0)
        assert first == tiny_study.read_files(
            tiny_study.run_handler(train_stage, stage, stage_inputs, tmp_path / f"{name}-again", often)
        )


@pytest.mark.gpu
def test_compiled_losses_match_uncompiled_ones(inputs: Inputs, gpu: Site, tmp_path: Path) -> None:
    spec = tiny_study.segment_spec(10, "0", "1")
    slow, fast = (
        losses(tiny_study.run_handler(pretrain, spec, inputs, tmp_path / str(fast), replace(gpu, compile=fast)))
        for fast in (False, True)
    )
    assert slow[-1] < 0.9 * slow[0]
    assert fast == pytest.approx(slow, rel=0.01)


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]
