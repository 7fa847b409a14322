"""Resume points: a kill costs no byte, and damaged points are not used."""

from __future__ import annotations

import json
import multiprocessing
import random
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from firstsight.recipe.stages import Midtrain
from firstsight.site import Progress, Site
from firstsight.train import handlers
from firstsight.train.handlers import pretrain, train_stage
from firstsight.train.loop import StepInfo, train
from tests.train import tiny_study

Inputs = dict[str, Path]


def midtrain_slowly(spec: Midtrain, inputs: Mapping[str, Path], out: Path, site: Site, pause: float) -> None:
    """Run the step with a resume point and a pause after every update."""

    def slowly(*arguments: Any) -> Iterator[StepInfo]:
        for info in train(*arguments):
            time.sleep(pause)
            yield info

    handlers.train = slowly  # only in the child process that this runs in
    train_stage(
        spec, inputs=inputs, out=out, site=replace(site, save_every=0.0), on_progress=tiny_study.ignore_progress
    )


def test_reruns_after_kills_at_any_time_leave_the_same_bytes(
    inputs: Inputs, site: Site, trunk: Path, tmp_path: Path
) -> None:
    spec, stage_inputs, out = (
        tiny_study.midtrain_spec(tiny_study.FEATURE_VLM, 40, "1/2"),
        {**inputs, "trunk": trunk},
        tmp_path / "out",
    )
    unbroken = tiny_study.read_files(
        tiny_study.run_handler(train_stage, spec, stage_inputs, tmp_path / "unbroken", site)
    )
    out.mkdir()
    # children of a server without autograd's threads: torch refuses to train in a fork of a process that has them
    rng, tokens_seen, context = random.Random(0), 0, multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    for pause in (0.08, 0.08, 0.08, 0.0):
        child = context.Process(target=midtrain_slowly, args=(spec, stage_inputs, out, site, pause))
        child.start()
        while pause and child.is_alive() and resume_tokens(out) <= tokens_seen:
            time.sleep(0.005)
        if pause:
            time.sleep(rng.uniform(0, 0.3))
            child.kill()
        child.join()
        assert child.exitcode == (-signal.SIGKILL if pause else 0), "killed too late: the run proves nothing"
        tokens_seen = resume_tokens(out)
    assert tiny_study.read_files(out) == unbroken


def resume_tokens(out: Path) -> int:
    file = out / "resume" / "point.json"
    return json.loads(file.read_text())["seen"] if file.is_file() else 0


@pytest.mark.parametrize("kind", ["weights", "moments"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "nonsense"])
def test_damaged_resume_point_is_reported_and_not_used(
    inputs: Inputs, site: Site, trunk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str, kind: str
) -> None:
    spec, stage_inputs, out = tiny_study.segment_spec(10, "0", "2/5"), dict(inputs), tmp_path / "out"

    def stop(progress: Progress) -> None:
        if (out / "resume" / "point.json").is_file():  # a slow machine reports progress before the first point
            raise KeyboardInterrupt

    out.mkdir()
    with pytest.raises(KeyboardInterrupt):
        pretrain(spec, inputs=stage_inputs, out=out, site=replace(site, save_every=0.0), on_progress=stop)
    tensors = sorted((out / "resume").glob("*.safetensors"))[kind == "moments"]
    data = tensors.read_bytes()
    match damage:
        case "cut":
            tensors.write_bytes(data[: len(data) // 2])
        case "flipped":
            tensors.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        case "gone":
            tensors.unlink()
        case _:
            (out / "resume" / "point.json").write_text("{")
    tiny_study.run_handler(pretrain, spec, stage_inputs, out, site)
    assert "damaged" in capsys.readouterr().err
    assert tiny_study.read_files(out) == tiny_study.read_files(trunk)
