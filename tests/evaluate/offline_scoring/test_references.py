"""Reference files: the benchmark's own, a model's question file, and files that are neither."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from firstsight.evaluate.offline_scoring.references import read_references
from firstsight.evaluate.tasks import get_task
from tests.evaluate.offline_scoring.small_benchmarks import (
    PROMPT_SUFFIX,
    run_command,
    write_file,
    write_pope,
    write_refcoco,
    write_vqa,
)

ROWS = [{"question_id": 100 + n, "answer": f"w{n}"} for n in range(8)]


def read_stderr(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("content", ["", "[]", "{}", '"x"', "[1, 2]"])
def test_empty_references_are_refused(tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    references = write_file(tmp_path / "gqa", "questions.json", content)
    assert run_command("gqa", write_file(tmp_path, "a.json", ROWS), references) == 2
    assert "questions.json" in read_stderr(capsys)


def test_a_question_file_alone_has_no_truths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    references = write_file(tmp_path, "llava.jsonl", [{"question_id": 1, "image": "1.jpg", "text": "What?"}])
    assert run_command("gqa", write_file(tmp_path, "a.json", ROWS), references) == 2
    assert "with the right answers" in read_stderr(capsys)


def test_a_question_file_of_other_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = [{"question_id": n, "prompt": f"What is thing {n}?{PROMPT_SUFFIX}", "text": f"w{n}"} for n in range(8)]
    questions = [
        {"question_id": n, "image": f"{n // 2}.jpg", "text": f"What is thing {n + 1}?{PROMPT_SUFFIX}"} for n in range(8)
    ]
    question_file = write_file(tmp_path, "llava.jsonl", questions)
    assert (
        run_command("vqav2", write_file(tmp_path, "a.jsonl", answers), write_vqa(tmp_path / "vqav2"), question_file)
        == 2
    )
    assert "llava.jsonl: is not the question file of these answers" in read_stderr(capsys)


def test_a_folder_above_the_references(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pope(tmp_path / "pope" / "coco")
    answers = write_file(tmp_path, "a.json", [{"question_id": 1, "answer": "yes"}])
    assert run_command("pope", answers, tmp_path / "pope") == 2
    assert "Got folders: coco. Give the one that has them" in " ".join(capsys.readouterr().err.split())


def test_a_question_file_is_separated_and_its_ambiguous_fields_are_empty(tmp_path: Path) -> None:
    """TextVQA's ids are images', so an id with two questions has no text; equal fields remain."""
    rows = [{"question_id": 100, "image": "1.jpg", "text": f"What is thing {n}?", "category": "x"} for n in range(2)]
    references = read_references(
        [write_vqa(tmp_path / "vqav2", 4), write_file(tmp_path, "llava.jsonl", rows)], get_task("vqav2")
    )
    assert len(references.questions) == 4
    [record] = references.question_records.values()
    assert (record.id, record.image, record.prompt, record.split) == ("100", "1.jpg", "", "x")


def test_image_sizes_are_read_from_the_benchmarks_files(tmp_path: Path) -> None:
    references = read_references([write_refcoco(tmp_path / "refcoco", 5)], get_task("refcoco"))
    names = {row["img_id"] for row in json.loads((tmp_path / "refcoco" / "refcoco_val.json").read_text())}
    assert len(names) == 3
    assert references.image_sizes() == {"0": (400.0, 200.0), "1": (400.0, 200.0)}
