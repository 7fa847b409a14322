"""answers.jsonl: records in order and at byte offsets, and invalid lines."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from firstsight.errors import DataError
from firstsight.report.answers import arm_answers, iter_answers, read_answer_at
from tests.report.answer_files import line, write_lines
from tests.report.study_builder import MakeArms


def test_lines_are_found_by_their_offset(tmp_path: Path) -> None:
    """Characters of several bytes, blank lines and any line ending do not shift other lines."""
    path = tmp_path / "answers.jsonl"
    texts = ["caf\u00e9 \U0001f642", "\u2028", "x" * 5000]
    rows = [json.dumps(line(str(n), answer=text), ensure_ascii=n % 2 == 0) for n, text in enumerate(texts)]
    path.write_bytes("\r\n\n".join(rows).encode())
    answers = list(iter_answers(path))
    assert [answer.text for _, answer in answers] == texts
    assert all(read_answer_at(path, offset) == answer for offset, answer in answers)


def test_missing_fields_are_empty_and_other_values_become_text(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "answers.jsonl", [{"task": "gqa", "question_id": 7, "score": 1, "answer": [1, 2]}])
    [(_, answer)] = iter_answers(path)
    assert (answer.task, answer.question, answer.text, answer.score) == ("gqa", "7", "[1, 2]", 1.0)
    assert (answer.image_name, answer.prompt, answer.truth_text, answer.split) == ("", "", "", "")
    assert (answer.blind, answer.readable, answer.tags) == (False, True, ())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{\n", "answers.jsonl:1"),
        ("[1]\n", "answers.jsonl:1"),
        ('{"task": "gqa", "question_id": 1}\n', "task, question_id and score"),
        ('{"task": "gqa", "question_id": 1, "score": NaN}\n', "Got nan"),
    ],
)
def test_invalid_line_is_refused_with_its_location(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        list(iter_answers(path))


def test_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="wanted a file of answers"):
        list(iter_answers(tmp_path / "answers.jsonl"))


def test_an_arms_answers_are_a_table(make_arms: MakeArms) -> None:
    arm = make_arms(seeds=(1,), questions=5)[0]
    answers = arm_answers(arm)
    assert len(answers) == 5 * (7 * 2 + 5)  # seven vision tasks with and without the image, five text tasks
    scores = (arm.scores or {})["tasks"]
    for task in ("gqa", "boolq"):
        sighted = answers.filter(task=task, blind=False)
        assert sighted["score"].mean() == pytest.approx(scores[task]["score"])
    assert arm_answers(replace(arm, answers_path=None)).is_empty()
