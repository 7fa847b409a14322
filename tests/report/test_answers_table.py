"""Answers of one checkpoint from several files, and files that are refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from firstsight.errors import DataError, UnknownName
from firstsight.report.answers import AnswersTable, text_digest
from firstsight.report.pages.answers_page import draw_questions
from firstsight.report.pages.question_cards import question_cards
from firstsight.report.pages.thumbnails import Thumbnails
from firstsight.report.results import AnswerFile
from tests.report.answer_files import line, write_lines


def test_each_task_is_from_the_first_file_that_has_it(tmp_path: Path) -> None:
    first = write_lines(tmp_path / "first.jsonl", [line("1", answer="first")])
    lines = [line("1", answer="second"), line("2", task="mmmu", answer="second")]
    second = write_lines(tmp_path / "second.jsonl", lines)
    table = AnswersTable("a", [AnswerFile(path=path, benchmarks_dir=None) for path in (first, second)])
    cards = list(question_cards([table], draw_questions(table, count=9), Thumbnails()))
    assert [(card.task, card.answers[0].text) for card in cards] == [("vqav2", "first"), ("mmmu", "second")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Got none"),
        ("{\n", "answers.jsonl:1"),
        ("[1]\n", "answers.jsonl:1"),
        ("1\n", "answers.jsonl:1"),
        ('{"task": "gqa", "question_id": "1"}\n', "answers.jsonl:1: image: wanted this key"),
        (json.dumps(line("1", score=math.nan)) + "\n", "answers.jsonl:1: score: wanted a finite number. Got NaN"),
        (json.dumps(line("1", score=math.inf)) + "\n", "answers.jsonl:1: score: wanted a finite number. Got Infinity"),
        (json.dumps(line("1", score=None)) + "\n", "answers.jsonl:1: score: wanted a finite number. Got null"),
        ("\n" + 2 * f"{json.dumps(line('1', task='gqa'))}\n", "two for '1' of gqa with its image"),
    ],
)
def test_invalid_file_is_refused_with_its_location(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        AnswersTable("a", [AnswerFile(path=path, benchmarks_dir=None)])


def test_task_without_answers_is_refused_with_the_others(tmp_path: Path) -> None:
    file = AnswerFile(path=write_lines(tmp_path / "a.jsonl", [line("1"), line("1", task="pope")]), benchmarks_dir=None)
    with pytest.raises(UnknownName, match="pope"):
        AnswersTable("a", [file], task="popo")
    assert AnswersTable("a", [file], task="pope").rows.get_column("task").to_list() == ["pope"]


def test_digests_are_stable() -> None:
    assert text_digest("cat") == 0x3327DD2C7B9D982F != text_digest("dog")
