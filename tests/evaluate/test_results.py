"""Scored answers against their means, and results merged task by task against one result of all tasks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from firstsight.evaluate.models.interface import GenerationRequest, RawAnswer
from firstsight.evaluate.results import add_text_only_scores, merge_result
from tests.evaluate.conftest import EvaluateScripted, written_files
from tests.evaluate.scripted_model import ScriptedModel

METADATA = {"checkpoint": "x", "word": "x", "benchmarks": "b"}


def test_unreadable_answers_are_counted(evaluate_scripted: EvaluateScripted) -> None:
    result = evaluate_scripted(ScriptedModel(), "refcoco", "vqav2")
    assert [result.scores.tasks[name].unreadable for name in ("refcoco", "vqav2")] == [12, 0]
    assert [answer.stored().readable for answer in result.answers].count(False) == 24


def test_the_difference_from_blind_is_the_mean_of_paired_differences(evaluate_scripted: EvaluateScripted) -> None:
    class AnswersCat(ScriptedModel):
        """Right for half of the questions with an image, and for none without."""

        def generate(self, requests: Sequence[GenerationRequest], *, max_new_tokens: int) -> Iterator[RawAnswer]:
            yield from (RawAnswer("cat" if request.image else "red") for request in requests)

    result = evaluate_scripted(AnswersCat(), "vqav2")
    summary = result.scores.tasks["vqav2"]
    assert (summary.score, summary.blind, summary.over["blind"].difference) == (0.5, 0.0, 0.5)
    low, high = summary.over["blind"].interval
    assert 0 <= low < 0.5 < high <= 1
    text_only = evaluate_scripted(AnswersCat(has_vision=False), "vqav2", image_mode="blind")
    assert text_only.scores.tasks["vqav2"].over == {}
    scores = add_text_only_scores(result.scores, result.answers, text_only=text_only.answers).tasks["vqav2"]
    assert scores.text_only == 0.0
    assert scores.over["text_only"] == scores.over["blind"] == summary.over["blind"]


def test_merged_results_equal_one_result_of_all_tasks(evaluate_scripted: EvaluateScripted, tmp_path: Path) -> None:
    for names in (("pope",), ("vqav2", "copa"), ("pope",)):
        merge_result(evaluate_scripted(ScriptedModel(), *names), tmp_path, METADATA)
    expected = written_files(evaluate_scripted(ScriptedModel(), "pope", "vqav2", "copa"), tmp_path / "complete")
    assert {name: (tmp_path / name).read_bytes() for name in expected} == expected
    metadata = json.loads((tmp_path / "judged.json").read_text())
    assert metadata == {**METADATA, "tasks": {"pope": "b", "vqav2": "b", "copa": "b"}}


def test_results_of_another_version_are_dropped(evaluate_scripted: EvaluateScripted, tmp_path: Path) -> None:
    merge_result(evaluate_scripted(ScriptedModel(), "pope"), tmp_path, METADATA)
    scores = json.loads((tmp_path / "scores.json").read_text())
    scores["versions"]["scores"] -= 1
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    merge_result(evaluate_scripted(ScriptedModel(), "copa"), tmp_path, METADATA)
    assert list(json.loads((tmp_path / "scores.json").read_text())["tasks"]) == ["copa"]
    assert {json.loads(line)["task"] for line in (tmp_path / "answers.jsonl").read_text().splitlines()} == {"copa"}
