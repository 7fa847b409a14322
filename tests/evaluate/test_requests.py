"""Requests reach the model once each, with the right image, and choices as the kind of continuation that they are."""

from __future__ import annotations

import shutil
from hashlib import sha256
from pathlib import Path

import pytest

from firstsight.evaluate.benchmark_images import BenchmarkImages
from firstsight.evaluate.models.interface import ChoiceRequest
from tests.evaluate.conftest import EvaluateScripted
from tests.evaluate.scripted_model import ScriptedModel


def test_every_question_is_answered_with_its_image(evaluate_scripted: EvaluateScripted, benchmarks: Path) -> None:
    model, images = ScriptedModel(), BenchmarkImages(benchmarks)
    for answer in evaluate_scripted(model).answers:
        if answer.task.answer_type == "words":
            digest = None if answer.is_blind else sha256(images.read(str(answer.question.image))).hexdigest()
            assert answer.answer == f"{digest}|{answer.prompt}"
    assert len(model.image_names) == 6, "each image is encoded once, whatever the tasks call it"
    assert len(set(model.requests)) == len(model.requests), "equal requests are answered once"


def test_a_choice_with_an_image_is_a_chat_turn(evaluate_scripted: EvaluateScripted) -> None:
    model = ScriptedModel()
    result = evaluate_scripted(model, "pope_p", "copa")
    requests = [request for request in model.requests if isinstance(request, ChoiceRequest)]
    assert len(requests) == len(model.requests)
    expected = {(True, ("Yes", "No")), (False, ("a cat", "dog"))}
    assert {(request.is_chat_turn, request.choices) for request in requests} == expected
    assert {request.image is None for request in requests if request.is_chat_turn} == {True, False}
    splits = result.scores.tasks["pope_p"].splits
    assert set(splits) == {"random", "popular", "adversarial"}
    mean = sum(report.accuracy for report in splits.values()) / 3
    assert result.scores.tasks["pope_p"].score == pytest.approx(mean, abs=1e-8)


def test_a_tasks_own_images_come_first(evaluate_scripted: EvaluateScripted, benchmarks: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(benchmarks, tmp_path / "b"))
    (path / "pope" / "images").mkdir()
    (path / "pope" / "images" / "000001.png").write_bytes(b"another")
    answers = evaluate_scripted(ScriptedModel(), "pope", "vqav2", image_mode="seeing", benchmarks_path=path).answers
    digest = sha256(b"another").hexdigest()
    assert {answer.task.name for answer in answers if answer.answer.startswith(digest)} == {"pope"}


def test_the_model_gets_the_paths_of_images_as_names(evaluate_scripted: EvaluateScripted, benchmarks: Path) -> None:
    model = ScriptedModel()
    evaluate_scripted(model, "vqav2")
    assert set(model.image_names) == {f"{benchmarks}/images.tar/{number:06d}.png" for number in range(6)}
