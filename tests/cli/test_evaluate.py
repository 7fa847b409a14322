"""`firstsight evaluate` as it is typed: arms of a stored study and folders, from the command line to what is kept."""

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
from firstsight.plan.store import Store
from firstsight.workspace.study_functions import find_study_function

Checkpoint = Callable[[str], Path]
Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Say:
    """(exit code, stdout, stderr) of a command, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def saying(*words: object) -> tuple[int, str, str]:
        code = command([str(word) for word in words])
        told = capsys.readouterr()
        return code, told.out, " ".join(told.err.split())

    return saying


@pytest.fixture(scope="session")
def stored(checkpoint: Checkpoint, benchmarks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which one arm of `when` was trained: untrained models stand for what its steps would leave."""
    store = Store(tmp_path_factory.mktemp("stored") / "runs")
    steps = build_graph(find_study_function("when").build("smoke", seeds=1, options={}))
    label = next(label for label in steps.arms if label.startswith("start-080"))
    for step in steps.arms[label]:
        made = _left(step, checkpoint, benchmarks)
        if made is not None:
            store.adopt(step, made)
    return store.root


def _left(step: Step, checkpoint: Checkpoint, benchmarks: Path) -> Path | None:
    """What a step of that kind might leave; None for data, which nobody reads again."""
    kinds = {"pretrain": "lm", "midtrain": "patches", "finetune": "patches"}
    return benchmarks if step.kind == "benchmarks" else checkpoint(kinds[step.kind]) if step.kind in kinds else None


@pytest.fixture
def runs(stored: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stored, tmp_path / "runs"))


def arm() -> str:
    return next(
        one for one in build_graph(find_study_function("when").build("smoke", seeds=1, options={})).arms if "080" in one
    )


def kept(runs: Path, folder: Path) -> dict[str, Any]:
    return json.loads((evaluation_folder(runs, folder) / "scores.json").read_text())["tasks"]


def test_an_arm_beside_blindness_and_its_text_model(say: Say, runs: Path, checkpoint: Checkpoint) -> None:
    smoke = ("--scale", "smoke", "--seeds", 1, "--out", runs)
    code, out, err = say("evaluate", arm(), "--tasks", "vqav2,copa", "--text-only", *smoke)
    assert code == 0, err
    for word in ("unreadable", "blind", "text only", "above it", "INCOMPLETE, without gqa"):
        assert word in out
    facts = kept(runs, checkpoint("patches"))
    theirs = kept(runs, checkpoint("lm"))
    # The text model's own blind answers are what the column shows.
    assert facts["vqav2"]["text_only"] == theirs["vqav2"]["blind"]
    assert facts["copa"]["text_only"] == theirs["copa"]["score"]
    assert theirs["vqav2"]["score"] is None
    gap = facts["copa"]["score"] - theirs["copa"]["score"]
    assert facts["copa"]["over"]["text_only"]["difference"] == pytest.approx(gap, abs=1e-8)


def test_text_tasks_alone(say: Say, runs: Path) -> None:
    code, out, err = say("evaluate", arm(), "--tasks", "copa", "--scale", "smoke", "--seeds", 1, "--out", runs)
    assert code == 0, err
    assert "copa" in out
    assert "INCOMPLETE" in out


def test_a_second_time_nothing_is_loaded(say: Say, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("evaluate", arm(), "--tasks", "pope", "--scale", "smoke", "--seeds", 1, "--out", runs)
    code, first, _ = say(*words)
    assert code == 0

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(harness, "load_eval_model", refuse)
    assert say(*words) == (0, first, "")


def test_a_folder_on_benchmarks_of_ones_own(say: Say, checkpoint: Checkpoint, benchmarks: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    for name in ("vqav2", "pope"):
        shutil.copytree(benchmarks / name, own / name)
    shutil.copy(benchmarks / "images.tar", own)
    code, out, err = say("evaluate", checkpoint("patches"), "--benchmarks", own, "--out", tmp_path / "runs")
    assert code == 0, err
    assert "vqav2" in out and "pope" in out
    folder = evaluation_folder(tmp_path / "runs", checkpoint("patches"))
    assert {file.name for file in folder.iterdir()} == {"answers.jsonl", "judged.json", "lock", "scores.json", "sheets"}
    lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert {line["prompt"].splitlines()[-1] for line in lines} == {"Answer the question using a single word or phrase."}
    assert json.loads((folder / "judged.json").read_text())["benchmarks"] == str(own)
    code, _, err = say("run", "when", "--scale", "none", "--out", tmp_path / "runs")
    assert "not a firstsight store" not in err


def test_a_hub_name_is_fetched_and_a_mistyped_folder_is_told(
    say: Say, checkpoint: Checkpoint, benchmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(benchmarks / "vqav2", tmp_path / "own" / "vqav2")
    where = ("--blind", "--benchmarks", tmp_path / "own", "--out", tmp_path / "runs")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(checkpoint("patches")))
    code, _, err = say("evaluate", "someone/patches", *where)
    assert code == 0, err
    assert kept(tmp_path / "runs", checkpoint("patches"))["vqav2"]["n"] > 0
    code, _, err = say("evaluate", "runs/steps/none", *where)
    assert code == 2 and "wanted a folder, a file or a hub name" in err


def test_blind_asks_for_no_pictures(say: Say, checkpoint: Checkpoint, benchmarks: Path, tmp_path: Path) -> None:
    shutil.copytree(benchmarks / "vqav2", tmp_path / "own" / "vqav2")
    where = ("--benchmarks", tmp_path / "own", "--out", tmp_path / "runs")
    code, _, err = say("evaluate", checkpoint("lm"), "--blind", *where)
    assert code == 0, err
    facts = kept(tmp_path / "runs", checkpoint("lm"))["vqav2"]
    assert facts["score"] is None and facts["blind"] is not None
    code, _, err = say("evaluate", checkpoint("patches"), *where)
    assert code == 2 and "wanted the images" in err
    code, _, err = say("evaluate", checkpoint("lm"), "--tasks", "vqav2", *where)
    assert code == 2


def test_a_variant_of_a_task_that_is_there_is_asked_where_it_is_named(
    say: Say, checkpoint: Checkpoint, benchmarks: Path, tmp_path: Path
) -> None:
    shutil.copytree(benchmarks / "pope", tmp_path / "own" / "pope")
    shutil.copy(benchmarks / "images.tar", tmp_path / "own")
    words = ("evaluate", checkpoint("patches"), "--benchmarks", tmp_path / "own", "--out", tmp_path / "runs")
    code, _, err = say(*words)
    assert code == 0, err
    assert list(kept(tmp_path / "runs", checkpoint("patches"))) == ["pope"]
    code, _, err = say(*words, "--tasks", "pope_p")
    assert code == 0, err
    assert list(kept(tmp_path / "runs", checkpoint("patches"))) == ["pope", "pope_p"]
    lines = (evaluation_folder(tmp_path / "runs", checkpoint("patches")) / "answers.jsonl").read_text().splitlines()
    said = {row["answer"] for row in map(json.loads, lines) if row["task"] == "pope_p"}
    assert said <= {"Yes", "No"}
    code, _, err = say(*words, "--tasks", "textvqa_ocr")
    assert code == 2 and "available there: pope, pope_p" in err


def test_what_cannot_be_is_refused_before_anything_is_asked(
    say: Say, runs: Path, checkpoint: Checkpoint, benchmarks: Path, tmp_path: Path
) -> None:
    smoke = ("--scale", "smoke", "--seeds", 1, "--out", runs)
    patches = checkpoint("patches")
    (tmp_path / "empty").mkdir()
    refused = {
        (arm(), "--tasks", "pop"): "Nearest: pope",
        (arm(), "--tasks", "nocaps"): "wanted a folder nocaps of its files",
        (tmp_path / "empty",): "spec.json (firstsight) or config.json (transformers)",
        (patches, "--benchmarks", tmp_path / "none"): "wanted a folder with one for each task",
        (patches, "--benchmarks", tmp_path / "empty"): "wanted folders called vqav2",
        (patches, "--text-only", "--tasks", "vqav2"): "Name it with --text-model",
        (patches, "--text-model", patches, "--tasks", "vqav2"): "wanted a text model. Got a vision-language model",
    }
    for words, told in refused.items():
        code, out, err = say("evaluate", *words, *smoke)
        assert (code, out) == (2, "") and told in err, (words, err)
    assert not list((runs / "judged").glob("*/sheets/*"))


@pytest.mark.parametrize("name", ["spec.json", "config.json"])
@pytest.mark.parametrize("content", ["{", "[]", "\x00"])
def test_a_damaged_description_of_a_checkpoint_is_named(
    name: str, content: str, say: Say, benchmarks: Path, tmp_path: Path
) -> None:
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / name).write_text(content)
    code, _, err = say("evaluate", tmp_path / "damaged", "--benchmarks", benchmarks, "--out", tmp_path / "runs")
    assert code == 2 and f"damaged/{name}: wanted" in err, err


def test_a_model_that_saw_from_the_beginning_has_no_text_model(say: Say, runs: Path, checkpoint: Checkpoint) -> None:
    steps = build_graph(find_study_function("when").build("smoke", seeds=1, options={}))
    label = next(label for label in steps.arms if label.startswith("start-000"))
    for step in steps.arms[label]:
        if step.kind in ("midtrain", "finetune"):
            Store(runs).adopt(step, checkpoint("patches"))
    words = ("evaluate", label, "--tasks", "vqav2", "--text-only", "--scale", "smoke", "--seeds", 1, "--out", runs)
    code, _, err = say(*words)
    assert code == 2 and "was trained on images from the beginning" in err
