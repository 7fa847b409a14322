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
from firstsight.train.handlers import midtrain, pretrain
from firstsight.train.loop import StepInfo, train
from tests.train import tiny_study

Inputs = dict[str, Path]


@pytest.fixture(scope="module")
def trunk(inputs: dict[str, Path], site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_study.ran(
        pretrain, tiny_study.segment(10, "0", "2/5"), inputs, tmp_path_factory.mktemp("run") / "trunk", site
    )


def work(spec: Midtrain, inputs: Mapping[str, Path], out: Path, site: Site, pause: float) -> None:
    """One attempt at a step, with a resume point and a pause after every update."""

    def slowly(*given: Any) -> Iterator[StepInfo]:
        for info in train(*given):
            time.sleep(pause)
            yield info

    handlers.train = slowly  # only in the child process that this runs in
    midtrain(spec, inputs=inputs, out=out, site=replace(site, save_every=0.0), on_progress=tiny_study.told)


def test_killed_at_any_time_and_run_again_leaves_the_same_bytes(
    inputs: Inputs, site: Site, trunk: Path, tmp_path: Path
) -> None:
    spec, reads, out = tiny_study.midtraining(tiny_study.SEES, 40, "1/2"), {**inputs, "trunk": trunk}, tmp_path / "out"
    unbroken = tiny_study.contents(tiny_study.ran(midtrain, spec, reads, tmp_path / "unbroken", site))
    out.mkdir()
    way = "fork" if site.device == "cpu" else "spawn"  # a forked child need not import torch; a GPU wants a new process
    draw, seen, context = random.Random(0), 0, multiprocessing.get_context(way)
    for pause in (0.08, 0.08, 0.08, 0.0):
        child = context.Process(target=work, args=(spec, reads, out, site, pause))
        child.start()
        while pause and child.is_alive() and point(out) <= seen:
            time.sleep(0.005)
        if pause:
            time.sleep(draw.uniform(0, 0.3))
            child.kill()
        child.join()
        assert child.exitcode == (-signal.SIGKILL if pause else 0), "killed too late: this run proves nothing"
        seen = point(out)
    assert tiny_study.contents(out) == unbroken


def point(out: Path) -> int:
    file = out / "resume" / "point.json"
    return json.loads(file.read_text())["seen"] if file.is_file() else 0


@pytest.mark.parametrize("kind", ["weights", "moments"])
@pytest.mark.parametrize("harm", ["cut", "flipped", "gone", "nonsense"])
def test_a_damaged_resume_point_is_refused_aloud_and_the_bytes_are_right(
    inputs: Inputs, site: Site, trunk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: str, kind: str
) -> None:
    spec, reads, out = tiny_study.segment(10, "0", "2/5"), dict(inputs), tmp_path / "out"

    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    out.mkdir()
    with pytest.raises(KeyboardInterrupt):
        pretrain(spec, inputs=reads, out=out, site=replace(site, save_every=0.0), on_progress=stop)
    tensors = sorted((out / "resume").glob("*.safetensors"))[kind == "moments"]
    data = tensors.read_bytes()
    match harm:
        case "cut":
            tensors.write_bytes(data[: len(data) // 2])
        case "flipped":
            tensors.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        case "gone":
            tensors.unlink()
        case _:
            (out / "resume" / "point.json").write_text("{")
    tiny_study.ran(pretrain, spec, reads, out, site)
    assert "damaged" in capsys.readouterr().err
    assert tiny_study.contents(out) == tiny_study.contents(trunk)
