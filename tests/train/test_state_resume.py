"""Resume points: a kill costs no byte, and damaged points are not used."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from firstsight.model.tensors import read_tensors, write_tensors
from firstsight.recipe.stages import Midtrain
from firstsight.resume_folder import ResumeFolder, unseal_json
from firstsight.site import Progress, Site
from firstsight.train import handlers
from firstsight.train.handlers import pretrain, train_stage
from firstsight.train.loop import StepInfo, train
from tests.damage import DAMAGES, damage_file
from tests.train import tiny_study

Inputs = dict[str, Path]
SEGMENT = tiny_study.segment_spec(10, "0", "2/5")


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
    assert tiny_study.read_files(tiny_study.remove_unfinished(out)) == unbroken


def resume_tokens(out: Path) -> int:
    file = out / "resume" / "point.json"
    return unseal_json(file.read_text())["state"]["seen"] if file.is_file() else 0


@pytest.fixture(scope="module")
def interrupted(inputs: Inputs, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a trunk's segment that was stopped after its first resume point."""
    out = tmp_path_factory.mktemp("interrupted") / "out"
    out.mkdir()

    def stop(progress: Progress) -> None:
        if (out / "resume" / "point.json").is_file():  # a slow machine reports progress before the first point
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(SEGMENT, inputs=inputs, out=out, site=replace(site, save_every=0.0), on_progress=stop)
    return out


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("name", ["point.json", "log.jsonl", "ledger.npy", "model", "optimizer"])
def test_damaged_resume_point_is_reported_and_not_used(
    inputs: Inputs, site: Site, trunk: Path, interrupted: Path, tmp_path: Path, name: str, kind: str
) -> None:
    out = Path(shutil.copytree(interrupted, tmp_path / "out"))
    [file] = (out / "resume").glob(f"*{name}*")
    damage_file(file, kind, at=0.2)
    notes: list[str] = []
    pretrain(SEGMENT, inputs=inputs, out=out, site=site, on_progress=lambda progress: notes.append(progress.note))
    lines = [line for line in notes if line]
    if kind == "deleted" and name == "point.json":
        assert not lines, "as if it had been killed before the first point"
    else:
        assert len(lines) == 1 and "starts over" in lines[0]
    assert tiny_study.read_files(tiny_study.remove_unfinished(out)) == tiny_study.read_files(trunk)


def test_an_undamaged_point_is_continued(
    inputs: Inputs, site: Site, trunk: Path, interrupted: Path, tmp_path: Path
) -> None:
    out, reports = Path(shutil.copytree(interrupted, tmp_path / "out")), list[Progress]()
    assert resume_tokens(out) >= 64
    pretrain(SEGMENT, inputs=inputs, out=out, site=site, on_progress=reports.append)
    assert not any(report.note for report in reports)
    assert tiny_study.read_files(tiny_study.remove_unfinished(out)) == tiny_study.read_files(trunk)


def test_a_point_of_other_parameters_is_set_aside(
    inputs: Inputs, site: Site, trunk: Path, interrupted: Path, tmp_path: Path
) -> None:
    """As an older firstsight would have written it."""
    out = Path(shutil.copytree(interrupted, tmp_path / "out"))
    resume = ResumeFolder(out, on_damage=pytest.fail)
    point = resume.restore()
    assert point is not None
    model, moments = (read_tensors(resume.path, f"{point['seen']:015d}-{name}") for name in ("model", "optimizer"))
    renamed = {f"old.{name}": tensor for name, tensor in model.items()}
    files = write_tensors(resume.path, renamed, name=f"{point['seen']:015d}-model")
    files += write_tensors(resume.path, moments, name=f"{point['seen']:015d}-optimizer")
    for name in ("log.jsonl", "ledger.npy"):
        resume.open_appended(name)
    resume.save(point, files)
    notes: list[str] = []
    pretrain(SEGMENT, inputs=inputs, out=out, site=site, on_progress=lambda progress: notes.append(progress.note))
    assert any("weights and spec disagree" in note for note in notes)
    assert tiny_study.read_files(tiny_study.remove_unfinished(out)) == tiny_study.read_files(trunk)
