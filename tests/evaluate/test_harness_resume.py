"""An evaluation interrupted anywhere resumes from its stored answers, to the same bytes; changed questions do not."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firstsight.errors import DataError, ModelError, RequestError
from firstsight.evaluate import harness, tasks
from firstsight.evaluate.harness import evaluate
from firstsight.evaluate.models.interface import GenerationRequest
from firstsight.model.checkpoint_io import last_checkpoint, save, save_average
from firstsight.model.vlm import VLM
from firstsight.recipe.mixture import SyntheticBenchmarks, SyntheticWorld
from firstsight.recipe.stages import Evaluate
from firstsight.site import Progress, ProgressCallback, Site
from firstsight.workspace.execute import HANDLERS
from tests.damage import DAMAGES, damage_file
from tests.evaluate.conftest import PATCHES, EvaluateScripted, MakeCheckpoint, written_files
from tests.evaluate.scripted_model import ScriptedModel

WORLD = SyntheticWorld(objects=8, kinds=2, image_size=16, max_objects=4, seed=0)
PLAIN = Evaluate(
    benchmarks=SyntheticBenchmarks(world=WORLD, questions=12), vision_tasks=("vqav2", "pope"), text_tasks=("copa",)
)


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kills=st.lists(st.integers(0, 20), max_size=4))
def test_killed_anywhere_it_resumes_to_the_same_bytes(
    kills: list[int], evaluate_scripted: EvaluateScripted, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("killed")
    complete = ScriptedModel()
    names = ("vqav2", "pope_p", "copa")
    expected = written_files(evaluate_scripted(complete, *names), root / "complete")
    num_answers = 0
    for fail_at in kills:
        model = ScriptedModel(fail_at=fail_at)
        try:
            evaluate_scripted(model, *names, answers_folder=root / "sheets")
        except ModelError as error:
            assert ("are stored" in str(error)) is (fail_at > 0)
        num_answers += model.num_answers
    last = ScriptedModel()
    result = evaluate_scripted(last, *names, answers_folder=root / "sheets")
    assert written_files(result, root / "resumed") == expected
    # An answer shared by several questions may have been stored for only some of them.
    assert complete.num_answers <= num_answers + last.num_answers <= complete.num_answers + len(kills)


def test_answers_before_ctrl_c_are_stored(
    evaluate_scripted: EvaluateScripted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(harness, "_PROGRESS_INTERVAL", 10)

    def stop(progress: Progress) -> None:
        assert progress.total == 108
        if progress.done == 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_scripted(ScriptedModel(), answers_folder=tmp_path, on_progress=stop)
    lines = [json.loads(line) for file in tmp_path.iterdir() for line in file.read_text().splitlines()]
    assert sum("answer" in line for line in lines) == 50
    reports: list[Progress] = []
    evaluate_scripted(ScriptedModel(), answers_folder=tmp_path, on_progress=reports.append)
    assert (reports[0].done, reports[-1].done) == (60, 108)


def test_a_killed_step_of_a_study_resumes(benchmarks: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    inputs, complete = {"checkpoint": tmp_path, "benchmarks": benchmarks}, ScriptedModel()

    def step(model: ScriptedModel, name: str) -> dict[str, bytes]:
        monkeypatch.setattr(harness, "load_eval_model", lambda *_, **__: model)
        evaluate(PLAIN, inputs=inputs, out=tmp_path / name, site=Site(), on_progress=lambda progress: None)
        return {file.name: file.read_bytes() for file in (tmp_path / name).iterdir() if file.is_file()}

    expected = step(complete, "complete")
    assert set(expected) == {"answers.jsonl", "scores.json"}
    with pytest.raises(ModelError):
        step(ScriptedModel(fail_at=9), "killed")
    last = ScriptedModel()
    assert step(last, "killed") == expected
    assert last.num_answers == complete.num_answers - 9


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("task", ["vqav2", "pope", "sheets"])
def test_damaged_answers_of_a_killed_step_are_not_used(
    benchmarks: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, task: str, kind: str
) -> None:
    world = SyntheticWorld(objects=8, kinds=2, image_size=16, max_objects=4, seed=0)
    spec = Evaluate(
        benchmarks=SyntheticBenchmarks(world=world, questions=12), vision_tasks=("vqav2", "pope"), text_tasks=("copa",)
    )
    notes: list[str] = []

    def step(model: ScriptedModel, name: str) -> dict[str, bytes]:
        out = tmp_path / "work" / name
        monkeypatch.setattr(harness, "load_eval_model", lambda *_, **__: model)
        inputs = {"checkpoint": tmp_path, "benchmarks": benchmarks}
        evaluate(spec, inputs=inputs, out=out, site=Site(), on_progress=lambda progress: notes.append(progress.note))
        return {name: (out / name).read_bytes() for name in ("answers.jsonl", "scores.json")}

    expected = step(ScriptedModel(), "complete")
    with pytest.raises(ModelError):
        step(ScriptedModel(fail_at=9), "killed")
    sheets = tmp_path / "work" / "killed" / "sheets"
    if task == "sheets":  # something else in place of the folder
        sheets.rename(tmp_path / "moved")
        if kind == "link":
            sheets.symlink_to(tmp_path / "moved")
        elif kind != "folder":
            sheets.write_text(kind)
    else:
        [file] = sheets.glob(f"{task}-*")
        damage_file(file, kind, at=0.3)
    elsewhere = {path: path.read_bytes() for path in (*tmp_path.rglob("*.elsewhere"), *(tmp_path / "moved").glob("*"))}
    assert step(ScriptedModel(), "killed") == expected
    assert {path: path.read_bytes() for path in elsewhere} == elsewhere
    lines = [line for line in notes if line]
    if kind in ("emptied", "deleted", "cut", "padded") or (task, kind) == ("sheets", "folder"):
        assert not lines or task == "sheets", "whole lines are left, as of a process that was killed"
    else:
        assert len(lines) == 1 and "the questions are answered again" in lines[0] and "sheets.damaged-1" in lines[0]


def test_a_second_evaluation_generates_nothing_and_loads_nothing(
    evaluate_scripted: EvaluateScripted, tmp_path: Path
) -> None:
    first = evaluate_scripted(ScriptedModel(), answers_folder=tmp_path)
    second = evaluate_scripted(None, answers_folder=tmp_path)
    assert written_files(second, tmp_path / "b") == written_files(first, tmp_path / "a")
    # The answers with images are complete too, so they are part of the result.
    blind = evaluate_scripted(None, "pope", image_mode="blind", answers_folder=tmp_path)
    assert blind.scores.tasks["pope"].score is not None


def test_only_changed_questions_are_asked_again(
    evaluate_scripted: EvaluateScripted, benchmarks: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answers_folder, path = tmp_path / "sheets", Path(shutil.copytree(benchmarks, tmp_path / "b"))
    evaluate_scripted(ScriptedModel(), benchmarks_path=path, answers_folder=answers_folder)
    monkeypatch.setitem(tasks.TASKS, "vqav2", replace(tasks.TASKS["vqav2"], version=99))
    model = ScriptedModel()
    evaluate_scripted(model, benchmarks_path=path, answers_folder=answers_folder)
    assert {request.text for request in model.requests} == {"what is it ?"}
    file = path / "pope" / "coco_pope_random.json"
    file.write_text(file.read_text().replace("a cat ?", "a dog ?"))
    model = ScriptedModel()
    evaluate_scripted(model, "pope", benchmarks_path=path, answers_folder=answers_folder)
    assert "is there a dog ?" in {request.text for request in model.requests}
    model = ScriptedModel()
    evaluate_scripted(model, "pope", style="paper", benchmarks_path=path, answers_folder=answers_folder)
    assert len(model.requests) > 0


def test_missing_images_are_counted_before_anything_is_generated(
    evaluate_scripted: EvaluateScripted, benchmarks: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(benchmarks, tmp_path / "b"))
    (path / "images.tar").unlink()
    (path / "images").mkdir()
    (path / "images" / "000001.png").write_bytes(b"one of six")
    model = ScriptedModel()
    with pytest.raises(DataError, match="5 of 6 images are missing"):
        evaluate_scripted(model, "copa", "vqav2", benchmarks_path=path)
    assert not model.requests
    result = evaluate_scripted(model, "vqav2", benchmarks_path=path, image_mode="blind")
    assert result.scores.tasks["vqav2"].n == 12


def test_answers_before_a_broken_image_are_stored(evaluate_scripted: EvaluateScripted, tmp_path: Path) -> None:
    class FailsAtSecondBatch(ScriptedModel):
        def encode_images(self, named_images: Sequence[tuple[str, bytes]]) -> list[object]:
            if self.image_names:
                raise DataError("000003.png: wanted an image. Got a text. Mend it.")
            return super().encode_images(named_images)

    with pytest.raises(DataError, match=r"Mend it\. \d+ of 108 answers are stored"):
        evaluate_scripted(FailsAtSecondBatch(), answers_folder=tmp_path)


def test_transformers_models_are_referred_to_lm_eval_for_text(evaluate_scripted: EvaluateScripted) -> None:
    pytest.importorskip("lm_eval")
    with pytest.raises(RequestError, match="lm_eval --model hf"):
        evaluate_scripted(ScriptedModel(), "copa", style="paper")


def unpack_images(path: Path, benchmarks: Path) -> Path:
    """Copy the benchmarks to `path` with their images in a folder, which is returned."""
    shutil.copytree(benchmarks, path)
    with tarfile.open(path / "images.tar") as tar:
        tar.extractall(path / "images", filter="data")
    (path / "images.tar").unlink()
    return path / "images"


@pytest.mark.parametrize("is_packed", [False, True])
def test_questions_about_changed_images_are_asked_again(
    evaluate_scripted: EvaluateScripted, benchmarks: Path, tmp_path: Path, is_packed: bool
) -> None:
    path, answers_folder = tmp_path / "own", tmp_path / "sheets"
    images = unpack_images(path, benchmarks)
    if is_packed:
        shutil.rmtree(images)
        shutil.copy2(benchmarks / "images.tar", path)
    first = evaluate_scripted(ScriptedModel(), "vqav2", "copa", benchmarks_path=path, answers_folder=answers_folder)
    second = evaluate_scripted(None, "vqav2", "copa", benchmarks_path=path, answers_folder=answers_folder)
    assert second.scores == first.scores
    with (path / "images.tar" if is_packed else images / "000003.png").open("ab") as file:
        file.write(b"\0" * 512)
    model = ScriptedModel()
    third = evaluate_scripted(model, "vqav2", "copa", benchmarks_path=path, answers_folder=answers_folder)
    assert {type(request) for request in model.requests} == {GenerationRequest}, "text tasks have no images"
    changed = {
        old.question.image for old, new in zip(first.answers, third.answers, strict=True) if old.answer != new.answer
    }
    assert changed == (set() if is_packed else {"3"})


def test_additional_images_change_nothing(
    evaluate_scripted: EvaluateScripted, benchmarks: Path, tmp_path: Path
) -> None:
    path, answers_folder = tmp_path / "own", tmp_path / "sheets"
    images = unpack_images(path, benchmarks)
    evaluate_scripted(ScriptedModel(), "vqav2", benchmarks_path=path, answers_folder=answers_folder)
    (images / "another.png").write_bytes(b"")
    evaluate_scripted(None, "vqav2", benchmarks_path=path, answers_folder=answers_folder)


@pytest.fixture
def training_step(checkpoint: MakeCheckpoint, tokenizer: Path, tmp_path: Path) -> Path:
    """A checkpoint with two earlier ones, of three different models."""
    step = Path(shutil.copytree(checkpoint("patches"), tmp_path / "step"))
    for number in (1, 2):
        model = VLM(PATCHES)
        model.initialise(number)
        save(last_checkpoint(step, number), model, tokens_seen=0, tokenizer=tokenizer, encoders=[])
    return step


@pytest.mark.parametrize(("average", "each"), [(1, 0), (1, 3), (3, 0), (2, 3)])
def test_averages_and_last_checkpoints_score_as_their_own_folders(
    benchmarks: Path, training_step: Path, tmp_path: Path, average: int, each: int
) -> None:
    """The published files are those of plain evaluations, also after a stop in every part; `copa` is text only."""

    def written(spec: Evaluate, checkpoint: Path, out: Path, on_progress: ProgressCallback) -> dict[str, bytes]:
        out.mkdir(exist_ok=True)
        inputs = {"checkpoint": checkpoint, "benchmarks": benchmarks}
        evaluate(spec, inputs=inputs, out=out, site=Site(), on_progress=on_progress)
        handler = HANDLERS["evaluate"]
        handler.check(out)
        return {name: (out / name).read_bytes() for name in handler.published_files(out)}

    reports: list[Progress] = []
    folders = [last_checkpoint(training_step, number) for number in range(each)]
    save_average(tmp_path / "mean", checkpoint=training_step, count=average)
    expected = written(PLAIN, tmp_path / "mean", tmp_path / "plain", reports.append)
    num_answers = reports[-1].total
    for number, folder in enumerate(folders):
        plain = written(PLAIN, folder, tmp_path / f"plain-{number}", reports.append)
        expected[f"last-{number}/scores.json"] = plain["scores.json"]
        earlier = replace(PLAIN, checkpoint=number)
        assert written(earlier, training_step, tmp_path / f"earlier-{number}", reports.append) == plain
    spec, out = replace(PLAIN, average=average, each_of_last=each), tmp_path / "out"
    reports.clear()
    for stop in range(1, spec.evaluated_models):

        def stopped(progress: Progress, stop: int = stop) -> None:
            if progress.done >= stop * num_answers:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            written(spec, training_step, out, stopped)
        HANDLERS["evaluate"].clear(out)
    assert written(spec, training_step, out, reports.append) == expected
    assert len({content for name, content in expected.items() if name.startswith("last-")}) == each
    assert {report.total for report in reports} == {spec.evaluated_models * num_answers}
    assert [report.done for report in reports] == sorted(report.done for report in reports)
