"""Cards of questions: boxes, single questions in the terminal, and lines read again from their files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from firstsight.errors import RequestError
from firstsight.report.answers import AnswersTable
from firstsight.report.pages.answers_page import draw_questions
from firstsight.report.pages.question_cards import question_cards, question_lines
from firstsight.report.pages.thumbnails import Thumbnails
from firstsight.report.results import AnswerFile
from tests.report.answer_files import answers_table, line

BOXES: list[tuple[Any, str, float | None]] = [
    ([0.0, 0.0, 0.5, 0.5], "0.0 0.0 0.5 0.25", 0.5),
    ([0.0, 0.0, 0.5, 0.5], "[0.5, 0.5, 1.0, 1.0]", 0.0),
    ([0.0, 0.0, 0.5, 0.5], "somewhere", None),
    ("0.1 0.2 0.3 0.4", "0.0 0.0 0.5 0.5", None),
    ([0.5, 0.5, 0.1, 0.1], "0.0 0.0 0.5 0.5", None),
]


@pytest.mark.parametrize(("truth", "answer", "overlap"), BOXES)
def test_boxes_overlap_where_the_truth_is_a_box(truth: Any, answer: str, overlap: float | None, tmp_path: Path) -> None:
    sighted = line("1", truth=truth, answer=answer)
    table = answers_table(tmp_path, "a", [sighted, sighted | {"blind": True}])
    [card] = question_cards([table], draw_questions(table, count=1), Thumbnails())
    assert [answer.overlap for answer in card.answers] == [overlap and pytest.approx(overlap), None]


def test_one_question_is_printed(tmp_path: Path) -> None:
    lines = [
        line("7", image="p", answer="owl", score=0.3),
        line("7", blind=True, readable=False, answer="\x1b[31m?", score=0),
    ]
    first = answers_table(tmp_path, "a", [*lines, line("7", task="pope"), line("8")])
    second = answers_table(tmp_path, "b", [line("7", prompt="Which ?", answer="")])
    assert question_lines([first, second], "vqav2/7") == [
        "vqav2/7",
        "image: p",
        "prompt: what is 7 ?",
        "truth: cat",
        "a: owl  [score 0.3]",
        "a without the image: [U+001B][31m?  [score 0, unreadable]",
        "  prompt: Which ?",
        "b: (nothing)  [score 1]",
    ]
    assert [text for text in question_lines([first, second], "7") if "/" in text] == ["vqav2/7", "pope/7"]
    with pytest.raises(RequestError, match="vqav2/7"):
        question_lines([first, second], "nothing")


def test_lines_are_read_again_from_their_offsets(tmp_path: Path) -> None:
    """Characters of several bytes, blank lines and any line ending do not shift other lines."""
    path = tmp_path / "a.jsonl"
    texts = ["caf\u00e9 \U0001f642", "\u2028", "x" * 5000]
    rows = [json.dumps(line(str(n), answer=text), ensure_ascii=n % 2 == 0) for n, text in enumerate(texts)]
    path.write_bytes("\r\n\n".join(rows).encode())
    table = AnswersTable("a", [AnswerFile(path=path, benchmarks_dir=None)])
    cards = question_cards([table], draw_questions(table, count=9), Thumbnails())
    assert {card.question: card.answers[0].text for card in cards} == {str(n): text for n, text in enumerate(texts)}
