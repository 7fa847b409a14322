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
from threading import Event
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from firstsight.model.checkpoint_io import last_checkpoint, load
from firstsight.model.tensors import read_tensors
from firstsight.recipe.stages import LastCheckpoints, Midtrain
from firstsight.resume_folder import ResumeFolder, unseal_json
from firstsight.site import Progress, Site
from firstsight.train import handlers
from firstsight.train import resume as resume_module
from firstsight.train.handlers import pretrain, train_stage
from firstsight.train.loop import StepInfo, train
from firstsight.train.resume import LastWeights
from firstsight.train.state import TrainState
from firstsight.units import Share
from firstsight.workspace.execute import HANDLERS
from tests.damage import DAMAGES, damage_file
from tests.train import tiny_study

Inputs = dict[str, Path]
SEGMENT = tiny_study.segment_spec(10, "0", "2/5")


def midtrain_slowly(spec: Midtrain, inputs: Mapping[str, Path], out: Path, site: Site, pause: float) -> None:
    """Run the step with a resume point and a pause after every update."""

    def slowly(*arguments: Any, **options: Any) -> Iterator[StepInfo]:
        for info in train(*arguments, **options):
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
@pytest.mark.parametrize("name", ["point.json", "log.jsonl", "ledger.npy", "shard"])
def test_damaged_resume_point_is_reported_and_not_used(
    inputs: Inputs, site: Site, trunk: Path, interrupted: Path, tmp_path: Path, name: str, kind: str
) -> None:
    out = Path(shutil.copytree(interrupted, tmp_path / "out"))
    [file] = (out / "resume").rglob(f"*{name}*")
    damage_file(file, kind, at=0.2, elsewhere=tmp_path)
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
    [file] = (resume.path / f"{point['seen']:015d}").iterdir()
    save_file({f"old.{name}": tensor for name, tensor in load_file(file).items()}, file)
    for name in ("log.jsonl", "ledger.npy"):
        resume.open_appended(name)
    resume.save(point, resume.record_files([file]))
    notes: list[str] = []
    pretrain(SEGMENT, inputs=inputs, out=out, site=site, on_progress=lambda progress: notes.append(progress.note))
    assert any("weights and spec disagree" in note for note in notes)
    assert tiny_study.read_files(tiny_study.remove_unfinished(out)) == tiny_study.read_files(trunk)


@pytest.fixture
def published_stage() -> Midtrain:
    """Forty steps that publish their last three checkpoints, four steps apart."""
    last = LastCheckpoints(count=3, every=Share(1, 10))
    return replace(tiny_study.midtrain_spec(tiny_study.FEATURE_VLM, 40, "1/2"), last_checkpoints=last)


def test_published_checkpoints_are_the_weights_of_their_step(
    inputs: Inputs, site: Site, trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published_stage: Midtrain
) -> None:
    weights: dict[int, dict[str, Any]] = {}

    def recorded(state: Any, *arguments: Any, **options: Any) -> Iterator[StepInfo]:
        for info in train(state, *arguments, **options):
            weights[info.step] = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
            yield info

    monkeypatch.setattr(handlers, "train", recorded)
    stage_inputs = {**inputs, "trunk": trunk}
    out = tiny_study.run_handler(train_stage, published_stage, stage_inputs, tmp_path / "out", site)
    for number, step in enumerate((40, 36, 32)):
        folder = last_checkpoint(out, number)
        stored = read_tensors(folder)
        assert stored.keys() == weights[step].keys()
        assert all(stored[name].equal(tensor) for name, tensor in weights[step].items()), step
        assert load(folder).tokens_seen == step * tiny_study.ROW_SHAPE.tokens_per_step
    monkeypatch.undo()
    plain = tiny_study.run_handler(
        train_stage, replace(published_stage, last_checkpoints=None), stage_inputs, tmp_path / "plain", site
    )
    files = tiny_study.read_files(out)
    assert tiny_study.read_files(plain) == {name: data for name, data in files.items() if not name.startswith("last-")}


@pytest.mark.parametrize("step", [31, 32, 33, 36, 39])
@pytest.mark.parametrize("save_every", [0.0, 1e9])
def test_a_rerun_after_a_stop_near_a_published_checkpoint_leaves_the_same_bytes(
    inputs: Inputs,
    site: Site,
    trunk: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    published_stage: Midtrain,
    step: int,
    save_every: float,
) -> None:
    """Stopped after `step`, when its weights are written but no resume point names them; with a point at every step, or
    only those that the published checkpoints make."""
    tokens = step * tiny_study.ROW_SHAPE.tokens_per_step

    def stopped(self: LastWeights, state: TrainState) -> bool:
        is_due = write_due(self, state)
        if state.tokens_seen == tokens:
            raise KeyboardInterrupt
        return is_due

    write_due, stage_inputs, out = LastWeights.write_due, {**inputs, "trunk": trunk}, tmp_path / "out"
    site = replace(site, save_every=save_every)
    unbroken = tiny_study.read_files(
        tiny_study.run_handler(train_stage, published_stage, stage_inputs, tmp_path / "unbroken", site)
    )
    assert {"last-1/model.safetensors", "last-2/spec.json"} <= unbroken.keys()
    monkeypatch.setattr(LastWeights, "write_due", stopped)
    with pytest.raises(KeyboardInterrupt):
        tiny_study.run_handler(train_stage, published_stage, stage_inputs, out, site)
    monkeypatch.undo()
    HANDLERS["midtrain"].clear(out)
    expected = step - 1 if save_every == 0 else 0 if step <= 32 else 32 if step <= 36 else 36
    assert resume_tokens(out) == expected * tiny_study.ROW_SHAPE.tokens_per_step
    rerun = tiny_study.run_handler(train_stage, published_stage, stage_inputs, out, site)
    assert tiny_study.read_files(rerun) == unbroken
    HANDLERS["midtrain"].check(out)


def test_a_damaged_published_checkpoint_is_not_continued_from(
    inputs: Inputs, site: Site, trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published_stage: Midtrain
) -> None:
    def stopped(*arguments: Any, **options: Any) -> Iterator[StepInfo]:
        for info in train(*arguments, **options):
            yield info
            if info.step == 33:
                raise KeyboardInterrupt

    stage_inputs, out, notes = {**inputs, "trunk": trunk}, tmp_path / "out", list[str]()
    out.mkdir()
    monkeypatch.setattr(handlers, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        train_stage(published_stage, inputs=stage_inputs, out=out, site=site, on_progress=tiny_study.ignore_progress)
    monkeypatch.undo()
    damage_file(out / "resume" / "last-2-model.safetensors", "flipped", at=0.5)
    train_stage(
        published_stage, inputs=stage_inputs, out=out, site=site, on_progress=lambda report: notes.append(report.note)
    )
    [note] = filter(None, notes)
    assert "last-2-model.safetensors" in note and "starts over" in note


def test_training_goes_on_while_a_point_is_written(
    inputs: Inputs, site: Site, trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published_stage: Midtrain
) -> None:
    """A point begun after step 32 is written after step 35, from the state and the log of step 32."""
    stage_inputs, out, may_write = {**inputs, "trunk": trunk}, tmp_path / "out", Event()
    write, unbroken = resume_module._save_tensors, tmp_path / "unbroken"
    tiny_study.run_handler(train_stage, published_stage, stage_inputs, unbroken, site)

    def delayed(*arguments: Any) -> list[Path]:
        may_write.wait()
        return write(*arguments)

    def stopped(*arguments: Any, **options: Any) -> Iterator[StepInfo]:
        for info in train(*arguments, **options):
            yield info
            if info.step == 35:
                assert resume_tokens(out) == 0
                may_write.set()
                raise KeyboardInterrupt

    monkeypatch.setattr(resume_module, "_save_tensors", delayed)
    monkeypatch.setattr(handlers, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        tiny_study.run_handler(train_stage, published_stage, stage_inputs, out, site)
    monkeypatch.undo()
    assert resume_tokens(out) == 32 * tiny_study.ROW_SHAPE.tokens_per_step
    rerun = tiny_study.run_handler(train_stage, published_stage, stage_inputs, out, site)
    assert tiny_study.read_files(rerun) == tiny_study.read_files(unbroken)


def test_a_point_that_cannot_be_written_fails_the_step_and_the_one_before_stays(
    inputs: Inputs, site: Site, trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, out, sizes = resume_module._save_tensors, tmp_path / "out", list[int]()

    def full(*arguments: Any) -> list[Path]:
        sizes.append(resume_tokens(out))
        if len(sizes) == 3:
            raise OSError(28, "No space left on device")
        return write(*arguments)

    monkeypatch.setattr(resume_module, "_save_tensors", full)
    with pytest.raises(OSError, match="No space left"):
        tiny_study.run_handler(pretrain, SEGMENT, inputs, out, replace(site, save_every=0.0))
    monkeypatch.undo()
    assert sizes == [step * tiny_study.ROW_SHAPE.tokens_per_step for step in range(3)]
    assert resume_tokens(out) == sizes[-1]
    rerun = tiny_study.run_handler(pretrain, SEGMENT, inputs, out, site)
    assert tiny_study.read_files(rerun) == tiny_study.read_files(trunk)
