"""`firstsight evaluate`: arms of a stored study and folders, from the command line to what is stored."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from firstsight.cli.app import command
from firstsight.evaluate import harness
from firstsight.evaluate.answer_cache import evaluation_folder
from firstsight.plan.graph import build_graph
from firstsight.plan.step import Step
from firstsight.plan.step_handler import StepHandler
from firstsight.plan.store import Store
from firstsight.plan.verification import read_evaluation_record
from firstsight.workspace.study_functions import find_study_function

Checkpoint = Callable[[str], Path]
Run = Callable[..., tuple[int, str, str]]
ANY_FILES = StepHandler(function="", outputs=("**",))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """(exit code, stdout, stderr) of a command, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run_command(*words: object) -> tuple[int, str, str]:
        code = command([str(word) for word in words])
        output = capsys.readouterr()
        return code, output.out, " ".join(output.err.split())

    return run_command


@pytest.fixture(scope="session")
def stored(checkpoint: Checkpoint, benchmarks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which one arm of `when` was trained: untrained models stand for what its steps would leave."""
    store = Store(tmp_path_factory.mktemp("stored") / "runs")
    steps = build_graph(find_study_function("when").build("smoke", seeds=1, options={}))
    label = next(label for label in steps.arms if label.startswith("start-080"))
    for step in steps.arms[label]:
        folder = _result(step, checkpoint, benchmarks)
        if folder is not None:
            store.adopt(step, folder, ANY_FILES)
    return store.root


def _result(step: Step, checkpoint: Checkpoint, benchmarks: Path) -> Path | None:
    """What a step of that kind might leave; None for data, which is not read again."""
    kinds = {"pretrain": "lm", "midtrain": "patches", "finetune": "patches"}
    return benchmarks if step.kind == "benchmarks" else checkpoint(kinds[step.kind]) if step.kind in kinds else None


@pytest.fixture
def runs(stored: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stored, tmp_path / "runs"))


def arm() -> str:
    return next(
        label
        for label in build_graph(find_study_function("when").build("smoke", seeds=1, options={})).arms
        if "080" in label
    )


def stored_scores(runs: Path, folder: Path) -> dict[str, Any]:
    return json.loads((evaluation_folder(runs, folder) / "scores.json").read_text())["tasks"]


def test_an_arm_is_compared_with_blind_and_text_only_answers(run: Run, runs: Path, checkpoint: Checkpoint) -> None:
    smoke = ("--scale", "smoke", "--seeds", 1, "--out", runs)
    code, out, err = run("evaluate", arm(), "--tasks", "vqav2,copa", "--text-only", *smoke)
    assert code == 0, err
    for word in ("unreadable", "blind", "text only", "difference", "INCOMPLETE, without gqa"):
        assert word in out
    facts = stored_scores(runs, checkpoint("patches"))
    text_facts = stored_scores(runs, checkpoint("lm"))
    # The text model's own blind answers are what the column shows.
    assert facts["vqav2"]["text_only"] == text_facts["vqav2"]["blind"]
    assert facts["copa"]["text_only"] == text_facts["copa"]["score"]
    assert text_facts["vqav2"]["score"] is None
    gap = facts["copa"]["score"] - text_facts["copa"]["score"]
    assert facts["copa"]["over"]["text_only"]["difference"] == pytest.approx(gap, abs=1e-8)


def test_only_text_tasks(run: Run, runs: Path) -> None:
    code, out, err = run("evaluate", arm(), "--tasks", "copa", "--scale", "smoke", "--seeds", 1, "--out", runs)
    assert code == 0, err
    assert "copa" in out
    assert "INCOMPLETE" in out


def test_stored_answers_need_no_model(run: Run, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("evaluate", arm(), "--tasks", "pope", "--scale", "smoke", "--seeds", 1, "--out", runs)
    code, first, _ = run(*words)
    assert code == 0

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(harness, "load_eval_model", refuse)
    assert run(*words) == (0, first, "")


def test_a_folder_is_evaluated_on_own_benchmarks(
    run: Run, checkpoint: Checkpoint, benchmarks: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    for name in ("vqav2", "pope"):
        shutil.copytree(benchmarks / name, own / name)
    shutil.copy(benchmarks / "images.tar", own)
    code, out, err = run("evaluate", checkpoint("patches"), "--benchmarks", own, "--out", tmp_path / "runs")
    assert code == 0, err
    assert "vqav2" in out and "pope" in out
    folder = evaluation_folder(tmp_path / "runs", checkpoint("patches"))
    assert {file.name for file in folder.iterdir()} == {"answers.jsonl", "judged.json", "lock", "scores.json", "sheets"}
    lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert {line["prompt"].splitlines()[-1] for line in lines} == {"Answer the question using a single word or phrase."}
    assert read_evaluation_record(folder)["benchmarks"] == str(own)
    code, _, err = run("run", "when", "--scale", "none", "--out", tmp_path / "runs")
    assert "not a firstsight store" not in err


def test_a_hub_name_is_downloaded_and_a_mistyped_folder_refused(
    run: Run, checkpoint: Checkpoint, benchmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(benchmarks / "vqav2", tmp_path / "own" / "vqav2")
    where = ("--blind", "--benchmarks", tmp_path / "own", "--out", tmp_path / "runs")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(checkpoint("patches")))
    code, _, err = run("evaluate", "someone/patches", *where)
    assert code == 0, err
    assert stored_scores(tmp_path / "runs", checkpoint("patches"))["vqav2"]["n"] > 0
    code, _, err = run("evaluate", "runs/steps/none", *where)
    assert code == 2 and "wanted a folder, a file or a hub name" in err


def test_a_blind_evaluation_needs_no_images(run: Run, checkpoint: Checkpoint, benchmarks: Path, tmp_path: Path) -> None:
    shutil.copytree(benchmarks / "vqav2", tmp_path / "own" / "vqav2")
    where = ("--benchmarks", tmp_path / "own", "--out", tmp_path / "runs")
    code, _, err = run("evaluate", checkpoint("lm"), "--blind", *where)
    assert code == 0, err
    facts = stored_scores(tmp_path / "runs", checkpoint("lm"))["vqav2"]
    assert facts["score"] is None and facts["blind"] is not None
    code, _, err = run("evaluate", checkpoint("patches"), *where)
    assert code == 2 and "wanted the images" in err
    code, _, err = run("evaluate", checkpoint("lm"), "--tasks", "vqav2", *where)
    assert code == 2


def test_a_variant_of_a_task_is_evaluated_only_by_name(
    run: Run, checkpoint: Checkpoint, benchmarks: Path, tmp_path: Path
) -> None:
    shutil.copytree(benchmarks / "pope", tmp_path / "own" / "pope")
    shutil.copy(benchmarks / "images.tar", tmp_path / "own")
    words = ("evaluate", checkpoint("patches"), "--benchmarks", tmp_path / "own", "--out", tmp_path / "runs")
    code, _, err = run(*words)
    assert code == 0, err
    assert list(stored_scores(tmp_path / "runs", checkpoint("patches"))) == ["pope"]
    code, _, err = run(*words, "--tasks", "pope_p")
    assert code == 0, err
    assert list(stored_scores(tmp_path / "runs", checkpoint("patches"))) == ["pope", "pope_p"]
    lines = (evaluation_folder(tmp_path / "runs", checkpoint("patches")) / "answers.jsonl").read_text().splitlines()
    answers = {row["answer"] for row in map(json.loads, lines) if row["task"] == "pope_p"}
    assert answers <= {"Yes", "No"}
    code, _, err = run(*words, "--tasks", "textvqa_ocr")
    assert code == 2 and "available there: pope, pope_p" in err


def test_wrong_requests_are_refused_before_anything_is_evaluated(
    run: Run, runs: Path, checkpoint: Checkpoint, benchmarks: Path, tmp_path: Path
) -> None:
    smoke = ("--scale", "smoke", "--seeds", 1, "--out", runs)
    patches = checkpoint("patches")
    (tmp_path / "empty").mkdir()
    refused = {
        (arm(), "--tasks", "pop"): "Nearest: pope",
        (arm(), "--tasks", "nocaps"): "wanted a folder nocaps in",
        (tmp_path / "empty",): "spec.json (firstsight) or config.json (transformers)",
        (patches, "--benchmarks", tmp_path / "none"): "wanted a folder with one for each task",
        (patches, "--benchmarks", tmp_path / "empty"): "wanted folders called vqav2",
        (patches, "--text-only", "--tasks", "vqav2"): "Name it with --text-model",
        (patches, "--text-model", patches, "--tasks", "vqav2"): "wanted a text model. Got a vision-language model",
    }
    for words, message in refused.items():
        code, out, err = run("evaluate", *words, *smoke)
        assert (code, out) == (2, "") and message in err, (words, err)
    assert not list((runs / "judged").glob("*/sheets/*"))


@pytest.mark.parametrize("name", ["spec.json", "config.json"])
@pytest.mark.parametrize("content", ["{", "[]", "\x00"])
def test_a_damaged_checkpoint_description_is_refused(
    name: str, content: str, run: Run, benchmarks: Path, tmp_path: Path
) -> None:
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / name).write_text(content)
    code, _, err = run("evaluate", tmp_path / "damaged", "--benchmarks", benchmarks, "--out", tmp_path / "runs")
    assert code == 2 and f"damaged/{name}: wanted" in err, err


def test_a_model_trained_on_images_from_the_beginning_has_no_text_model(
    run: Run, runs: Path, checkpoint: Checkpoint
) -> None:
    steps = build_graph(find_study_function("when").build("smoke", seeds=1, options={}))
    label = next(label for label in steps.arms if label.startswith("start-000"))
    for step in steps.arms[label]:
        if step.kind in ("midtrain", "finetune"):
            Store(runs).adopt(step, checkpoint("patches"), ANY_FILES)
    words = ("evaluate", label, "--tasks", "vqav2", "--text-only", "--scale", "smoke", "--seeds", 1, "--out", runs)
    code, _, err = run(*words)
    assert code == 2 and "was trained on images from the beginning" in err
