"""Untrained checkpoints evaluated from files to files: the stored answers add up to the scores, the same every time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from firstsight.errors import DataError, ModelError, RequestError, UnknownName
from firstsight.evaluate.harness import EvalConfig, answer_question, evaluate, evaluate_checkpoint
from firstsight.evaluate.requests import ImageMode
from firstsight.evaluate.results import EvalResult
from firstsight.recipe.mixture import SyntheticBenchmarks, SyntheticWorld
from firstsight.recipe.stages import Evaluate
from firstsight.site import Progress, ProgressCallback, Site
from tests.evaluate.conftest import MakeCheckpoint, random_png

Stored = tuple[list[dict[str, Any]], dict[str, Any]]
"""The lines of answers.jsonl, and scores.json."""
WORLD = SyntheticWorld(objects=8, kinds=2, image_size=16, max_objects=4, seed=0)
SPEC = Evaluate(
    benchmarks=SyntheticBenchmarks(world=WORLD, questions=12),
    vision_tasks=("vqav2", "pope", "refcoco"),
    text_tasks=("copa",),
)


def ignore(progress: Progress) -> None:
    """A progress callback that does nothing."""


def run(
    checkpoint: Path,
    benchmarks: Path,
    *tasks: str,
    image_mode: ImageMode = "both",
    on_progress: ProgressCallback = ignore,
) -> EvalResult:
    config = EvalConfig(tasks=tasks, image_mode=image_mode, prompt_style="bare")
    return evaluate_checkpoint(checkpoint, benchmarks, config=config, site=Site(), on_progress=on_progress)


@pytest.fixture(params=["patches", "siglip"])
def stored(request: pytest.FixtureRequest, checkpoint: MakeCheckpoint, benchmarks: Path, tmp_path: Path) -> Stored:
    inputs = {"checkpoint": checkpoint(request.param), "benchmarks": benchmarks}
    evaluate(SPEC, inputs=inputs, out=tmp_path, site=Site(), on_progress=ignore)
    lines = (tmp_path / "answers.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], json.loads((tmp_path / "scores.json").read_text())


def test_every_question_is_stored_once_per_condition(stored: Stored) -> None:
    rows, scores = stored
    keys = [(row["task"], row["question_id"], row["blind"]) for row in rows]
    assert len(set(keys)) == len(keys) == 3 * 12 * 2 + 12
    assert list(scores["tasks"]) == ["vqav2", "pope", "refcoco", "copa"]
    assert {"task", "question_id", "image", "prompt", "answer", "truth", "score", "blind"} <= rows[0].keys()


def test_scores_are_the_means_of_the_stored_answers(stored: Stored) -> None:
    rows, scores = stored
    for name, summary in scores["tasks"].items():
        assert summary["n"] == 12
        for key, is_blind in (("score", False), ("blind", True)):
            values = [row["score"] for row in rows if row["task"] == name and row["blind"] is is_blind]
            # All splits of these benchmarks have the same size, so the mean over splits is the mean.
            assert summary[key] == (pytest.approx(sum(values) / len(values), abs=1e-8) if values else None)
        low, high = summary["interval"]
        assert low <= summary["score"] <= high
    gains = [
        summary["score"] - summary["chance"] for summary in scores["tasks"].values() if summary["kind"] == "vision"
    ]
    assert scores["stable"]["vision"] == pytest.approx(sum(gains) / 3, abs=1e-8)
    assert scores["missing"]["vision"] == ["gqa", "textvqa", "ocid_ref"]


def test_the_question_blind_guesser_is_scored_by_the_same_metric(stored: Stored) -> None:
    tasks = stored[1]["tasks"]
    # "cat" is right for half of the questions, "yes" for half, and the guessed box is the true one.
    assert [tasks[name]["question_blind"] for name in ("vqav2", "pope", "refcoco", "copa")] == [0.5, 0.5, 1.0, None]


def test_held_out_questions_are_scored_apart(stored: Stored) -> None:
    summary = stored[1]["tasks"]["vqav2"]
    assert {value: scores["n"] for value, scores in summary["by"]["combination"].items()} == {"heldout": 4, "seen": 8}
    assert summary["heldout"] == summary["by"]["combination"]["heldout"]["score"]
    assert stored[1]["tasks"]["pope"]["heldout"] is None
    assert {report["n"] for report in stored[1]["tasks"]["pope"]["splits"].values()} == {4}


def test_a_second_evaluation_writes_the_same_bytes(
    checkpoint: MakeCheckpoint, benchmarks: Path, tmp_path: Path
) -> None:
    inputs = {"checkpoint": checkpoint("siglip"), "benchmarks": benchmarks}
    for name in ("a", "b"):
        evaluate(SPEC, inputs=inputs, out=tmp_path / name, site=Site(), on_progress=ignore)
    first, second = (
        {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
        for out in (tmp_path / "a", tmp_path / "b")
    )
    assert first == second
    assert {name for name in first if not name.startswith("sheets/")} == {"answers.jsonl", "scores.json"}


def test_answers_do_not_depend_on_the_other_tasks(checkpoint: MakeCheckpoint, benchmarks: Path) -> None:
    first, second = (
        [
            answer.stored()
            for answer in run(checkpoint("siglip"), benchmarks, *tasks).answers
            if answer.task.name == "vqav2"
        ]
        for tasks in (("vqav2",), ("copa", "refcoco", "pope", "vqav2"))
    )
    assert first == second


def test_progress_ends_at_its_total(checkpoint: MakeCheckpoint, benchmarks: Path) -> None:
    reports: list[Progress] = []
    run(checkpoint("patches"), benchmarks, "pope", on_progress=reports.append)
    assert reports[-1].done == reports[-1].total == 24


def test_a_text_model_is_evaluated_on_text_and_blind_only(checkpoint: MakeCheckpoint, benchmarks: Path) -> None:
    assert run(checkpoint("lm"), benchmarks, "copa").scores.tasks["copa"].score is not None
    blind = run(checkpoint("lm"), benchmarks, "pope", "copa", image_mode="blind").scores.tasks
    assert blind["pope"].score is None
    assert blind["pope"].blind is not None
    with pytest.raises(ModelError, match="text-only model"):
        run(checkpoint("lm"), benchmarks, "copa", "pope")


def test_one_question_about_one_image(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    image = tmp_path / "x.png"
    image.write_bytes(random_png(1))
    assert isinstance(answer_question(checkpoint("siglip"), image, "What is it ?", site=Site()), str)
    with pytest.raises(RequestError, match="'zebra'"):
        answer_question(checkpoint("siglip"), image, "is it a zebra ?", site=Site())
    image.write_text("no image")
    with pytest.raises(DataError, match=r"x\.png: wanted an image"):
        answer_question(checkpoint("siglip"), image, "what is it ?", site=Site())
    with pytest.raises(DataError, match="wanted an image"):
        answer_question(checkpoint("siglip"), tmp_path / "none.png", "what is it ?", site=Site())
    image.write_bytes(random_png(1))
    with pytest.raises(ModelError, match="text model"):
        answer_question(checkpoint("lm"), image, "what is it ?", site=Site())


def test_unknown_tasks_and_missing_folders_are_named(checkpoint: MakeCheckpoint, benchmarks: Path) -> None:
    with pytest.raises(UnknownName, match="pope"):
        run(checkpoint("patches"), benchmarks, "pop")
    with pytest.raises(DataError, match="wanted a folder gqa"):
        run(checkpoint("patches"), benchmarks, "gqa")
