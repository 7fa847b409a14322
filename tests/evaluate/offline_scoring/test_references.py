"""Reference files: the benchmark's own, a model's question file, and files that are neither."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from firstsight.evaluate.offline_scoring.references import read_references
from firstsight.evaluate.tasks import get_task
from tests.evaluate.offline_scoring.small_benchmarks import ASKED, pope, put, refcoco, said, vqa

WHOLE = [{"question_id": 100 + n, "answer": f"w{n}"} for n in range(8)]


def _told(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("content", ["", "[]", "{}", '"x"', "[1, 2]"])
def test_references_that_hold_nothing(tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    references = put(tmp_path / "gqa", "questions.json", content)
    assert said("gqa", put(tmp_path, "a.json", WHOLE), references) == 2
    assert "questions.json" in _told(capsys)


def test_a_question_file_alone_holds_no_truths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    references = put(tmp_path, "llava.jsonl", [{"question_id": 1, "image": "1.jpg", "text": "What?"}])
    assert said("gqa", put(tmp_path, "a.json", WHOLE), references) == 2
    assert "with the right answers" in _told(capsys)


def test_a_question_file_of_other_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = [{"question_id": n, "prompt": f"What is thing {n}?{ASKED}", "text": f"w{n}"} for n in range(8)]
    asked = [{"question_id": n, "image": f"{n // 2}.jpg", "text": f"What is thing {n + 1}?{ASKED}"} for n in range(8)]
    question_file = put(tmp_path, "llava.jsonl", asked)
    assert said("vqav2", put(tmp_path, "a.jsonl", answers), vqa(tmp_path / "vqav2"), question_file) == 2
    assert "llava.jsonl: is not the question file of these answers" in _told(capsys)


def test_a_folder_above_the_references(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pope(tmp_path / "pope" / "coco")
    answers = put(tmp_path, "a.json", [{"question_id": 1, "answer": "yes"}])
    assert said("pope", answers, tmp_path / "pope") == 2
    assert "Got folders: coco. Give the one that has them" in " ".join(capsys.readouterr().err.split())


def test_a_question_file_is_separated_and_its_ambiguous_fields_are_empty(tmp_path: Path) -> None:
    """TextVQA's ids are images', so an id with two questions has no text; equal fields remain."""
    rows = [{"question_id": 100, "image": "1.jpg", "text": f"What is thing {n}?", "category": "x"} for n in range(2)]
    references = read_references([vqa(tmp_path / "vqav2", 4), put(tmp_path, "llava.jsonl", rows)], get_task("vqav2"))
    assert len(references.questions) == 4
    [record] = references.question_records.values()
    assert (record.id, record.image, record.prompt, record.split) == ("100", "1.jpg", "", "x")


def test_image_sizes_are_read_from_the_benchmarks_files(tmp_path: Path) -> None:
    references = read_references([refcoco(tmp_path / "refcoco", 5)], get_task("refcoco"))
    names = {row["img_id"] for row in json.loads((tmp_path / "refcoco" / "refcoco_val.json").read_text())}
    assert len(names) == 3
    assert references.image_sizes() == {"0": (400.0, 200.0), "1": (400.0, 200.0)}
