"""Messages for files that cannot be scored; the command's exit code is 2, and computed output is still written."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tests.evaluate.offline_scoring.small_benchmarks import (
    PROMPT_SUFFIX,
    run_command,
    score,
    write_file,
    write_pope,
    write_refcoco,
    write_vqa,
)

ROWS = [{"question_id": 100 + n, "answer": f"w{n}"} for n in range(8)]


def read_stderr(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


INVALID: dict[str, tuple[str, Any, str]] = {
    "empty": ("a.json", "", "wanted answers. Got none"),
    "empty list": ("a.json", [], "wanted answers. Got none"),
    "a string": ("a.json", '"hello"', "Got a str: 'hello'"),
    "a list of strings": ("a.json", ["yes", "no"], "a.json:1: wanted an object"),
    "cut short": ("a.json", '[{"question_id": 100, "ans', "Was the file cut short?"),
    "cut short, packed": ("a.json.gz", gzip.compress(json.dumps(ROWS).encode())[:-9], "Fetch it again"),
    "a cut line": ("a.jsonl", '{"question_id": 100, "answer": "w0"}\n{"question_id": 10', "a.jsonl:2: wanted a JSON"),
    "no text": ("a.json", b"\x00\xfe\x00\x81", "wanted a text file"),
    "UTF-16": ("a.json", json.dumps(ROWS).encode("utf-16"), "is text in UTF-16. Wanted JSON or JSON lines in UTF-8"),
    "a spreadsheet": ("a.xlsx", b"PK\x03\x04\x14\x00", "is a spreadsheet or a zip archive. Wanted JSON"),
    "a table without answers": ("a.tsv", "index\tmood\n0\tfine\n", "Got only index, mood"),
    "a table cut short": ("a.csv", "question_id,answer\n100,w0\n101", "row 2 has another number of cells"),
    "a table with an open quote": ("a.csv", 'question_id,answer\n100,"w0', "row 1 is no valid row"),
    "a pickle": ("a.pkl", b"\x80\x04\x95", "is a Python pickle. Wanted JSON"),
    "the questions": ("a.json", {"info": {}, "questions": []}, "contains questions. Wanted answers"),
    "the truths": ("a.json", {"annotations": [{"question_id": 100, "answers": []}]}, "wanted an answer, under a key"),
    "a cut answer after all": ("a.jsonl", "\n".join(map(json.dumps, ROWS)) + '\n{"question_id"', "a.jsonl:9: wanted"),
    "no answers in it": ("a.json", [{"question_id": 100, "mood": "fine"}], "Got only question_id, mood"),
    "an id that is NaN": ("a.json", '[{"question_id": NaN, "answer": "x"}]', "question_id is a name or a whole number"),
    "an object as answer": ("a.json", [{"question_id": 100, "answer": {"a": 1}}], "wanted one answer"),
    "other ids": ("a.json", [{"question_id": 9, "answer": "x"}], "An answer has id '9'; a question has id '100'"),
    "another version": (
        "a.json",
        [{"question_id": 9, "answer": "x"}],
        "references are 8 questions: no published version",
    ),
    "two answers": ("a.json", [*ROWS, {"question_id": 103, "answer": "x"}], "question 103 has several answers"),
    "another's task": ("a.jsonl", [{"task": "gqa", "blind": False, "answer": "x"}], "Got gqa"),
    "a picture of two": ("a.json", [{"image": "1.jpg", "answer": "x"}], "fits 102, 103"),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_answer_files_are_refused(tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, content, message = INVALID[case]
    assert run_command("vqav2", write_file(tmp_path, name, content), write_vqa(tmp_path / "vqav2")) == 2
    assert message in read_stderr(capsys)


def test_too_many_missing_answers_are_refused_with_both_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Eight questions, five answered, four of them right."""
    rows = [*ROWS[:4], {"question_id": 104, "answer": "no"}]
    out = tmp_path / "out.json"
    answers, references = write_file(tmp_path, "a.json", rows), write_vqa(tmp_path / "vqav2")
    assert run_command("vqav2", answers, references, options=("--json", str(out))) == 2
    message = read_stderr(capsys)
    assert (
        "3 of 8 questions have no answer (37.5%); at most 5 %" in message and "50.00" in message and "80.00" in message
    )
    assert (json.loads(out.read_text())["score"], json.loads(out.read_text())["score_of_answered"]) == (0.5, 0.8)
    assert run_command("vqav2", answers, references, options=("--missing", "40%")) == 0
    assert "the answered ones alone score 80.00" in capsys.readouterr().out


def test_answers_to_unknown_questions_are_counted_and_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*ROWS, {"question_id": 7777, "answer": "w0"}]
    assert run_command("vqav2", write_file(tmp_path, "a.json", rows), write_vqa(tmp_path / "vqav2")) == 0
    message = capsys.readouterr().out
    assert "1 answer is to another question, which does not count" in message and "'7777'" in message


def test_ids_that_contradict_prompts_are_ignored(tmp_path: Path) -> None:
    """Ids of one question with prompt and image of another: prompt and image decide."""
    rows = [
        {
            "question_id": 100 + (n + 1) % 8,
            "image": f"{n // 2}.jpg",
            "prompt": f"What is thing {n}?{PROMPT_SUFFIX}",
            "text": f"w{n}",
        }
        for n in range(8)
    ]
    scored = score("vqav2", write_file(tmp_path, "a.jsonl", rows), write_vqa(tmp_path / "vqav2"))
    assert (scored.score, scored.missing_count) == (1, 0)


def test_pope_ids_alone_are_ambiguous(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"question_id": 2, "answer": "yes"}]
    assert run_command("pope", write_file(tmp_path, "a.jsonl", rows), write_pope(tmp_path / "pope")) == 2
    assert "fits adversarial-2, popular-2, random-2" in read_stderr(capsys)


def test_answers_without_box_are_counted_and_wrong(tmp_path: Path) -> None:
    references = write_refcoco(tmp_path / "refcoco", 4)
    message = ("on the left \N{CAT FACE}", "[0.0, 0.25, 0.5, 0.75]", "", "[0.5, 0.2, 0.1, 0.9]")
    names = [row["img_id"] for row in json.loads((references / "refcoco_val.json").read_text())]
    rows = [{"img_id": names[n], "sents": f"thing {n}", "answer": word} for n, word in enumerate(message)]
    scored = score("refcoco", write_file(tmp_path, "a.json", rows), references)
    assert (scored.score, scored.unreadable_count, scored.missing_count) == (0.25, 3, 0)


def test_boxes_in_unclear_units_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    references = write_refcoco(tmp_path / "refcoco", 2)
    rows = [{"sents": f"thing {n}", "answer": [100, 50, 300, 150]} for n in range(2)]
    assert run_command("refcoco", write_file(tmp_path, "a.json", rows), references) == 2
    assert "their unit is unclear" in read_stderr(capsys)
