"""Scored answers against their means, and results merged task by task against one result of all tasks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from firstsight.evaluate.models.interface import GenerationRequest, RawAnswer
from firstsight.evaluate.results import add_text_only_scores, merge_result
from firstsight.plan.verification import read_evaluation_record, write_evaluation_record
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
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in expected.items()}
    tasks = {"pope": "b", "vqav2": "b", "copa": "b"}
    assert read_evaluation_record(tmp_path) == {**METADATA, "tasks": tasks, "files": digests}


def test_results_of_another_version_are_dropped(evaluate_scripted: EvaluateScripted, tmp_path: Path) -> None:
    merge_result(evaluate_scripted(ScriptedModel(), "pope"), tmp_path, METADATA)
    record, scores = read_evaluation_record(tmp_path), json.loads((tmp_path / "scores.json").read_text())
    scores["versions"]["scores"] -= 1
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    write_evaluation_record(tmp_path, record, files=tuple(record["files"]))
    merge_result(evaluate_scripted(ScriptedModel(), "copa"), tmp_path, METADATA)
    assert list(json.loads((tmp_path / "scores.json").read_text())["tasks"]) == ["copa"]
    assert {json.loads(line)["task"] for line in (tmp_path / "answers.jsonl").read_text().splitlines()} == {"copa"}


def _replace_by_folder(path: Path) -> None:
    path.unlink()
    (path / "x").mkdir(parents=True)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "edited": lambda path: path.write_text(path.read_text().replace("0", "1", 1)),
    "deleted": Path.unlink,
    "folder": _replace_by_folder,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["answers.jsonl", "scores.json", "judged.json"])
def test_damaged_results_are_named_and_never_merged(
    evaluate_scripted: EvaluateScripted, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, damage: str
) -> None:
    folder = tmp_path / "judged" / "0123456789ab"
    merge_result(evaluate_scripted(ScriptedModel(), "pope"), folder, METADATA)
    DAMAGE[damage](folder / name)
    result = evaluate_scripted(ScriptedModel(), "copa")
    assert capsys.readouterr().err == ""
    merge_result(result, folder, METADATA)
    tasks = "CHECKPOINT --out" if name == "judged.json" else f"x --tasks pope --out {tmp_path}\n"
    line = capsys.readouterr().err
    assert f"{folder / name}: not as `firstsight evaluate` wrote it" in line and f"firstsight evaluate {tasks}" in line
    expected = written_files(result, tmp_path / "complete")
    assert {name: (folder / name).read_bytes() for name in expected} == expected
    assert list(read_evaluation_record(folder)["tasks"]) == ["copa"]
