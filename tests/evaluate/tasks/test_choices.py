"""MMMU's questions and text tasks with choices, complete and invalid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from firstsight.errors import DataError
from firstsight.evaluate.task import benchmark_files
from firstsight.evaluate.tasks import get_task
from tests.evaluate.tasks.task_files import lines, read, write

MMMU_ROW: dict[str, Any] = {
    "id": "validation_Accounting_1",
    "question": "<image 1> Who is on the <image 1>?",
    "options": "['$6', \"O'Neil\", '<image 1>']",
    "answer": "B",
    "question_type": "multiple-choice",
    "image_1": "validation_Accounting_1_1.png",
    "image_2": None,
}


def test_options_are_listed_with_letters(tmp_path: Path) -> None:
    write(tmp_path, "Accounting.jsonl", lines([MMMU_ROW]))
    (question,) = read("mmmu", tmp_path)
    assert question.truth == ("B", "$6", "O'Neil", "")
    assert question.image == "validation_Accounting_1_1.png"
    assert get_task("mmmu").prompt(question, "paper") == (
        "\nWho is on the ?\nA. $6\nB. O'Neil\nC. \nAnswer with the option's letter from the given choices directly."
    )


@pytest.mark.parametrize(
    "image", [{"image": "a.png"}, {"image_1": {"path": "a.png", "bytes": None}}, {"image": ["a.png"]}]
)
def test_the_image_is_named_by_its_file(image: dict[str, Any], tmp_path: Path) -> None:
    row = {key: value for key, value in MMMU_ROW.items() if not key.startswith("image")} | {"options": ["x", "y"]}
    write(tmp_path, "q.json", [row | image])
    (question,) = read("mmmu", tmp_path)
    assert (question.image, question.truth) == ("a.png", ("B", "x", "y"))


def test_subjects_may_have_a_file_each_and_skipped_questions_are_counted(tmp_path: Path) -> None:
    two_images = MMMU_ROW | {"id": "2", "image_2": "b.png"}
    two_markers = MMMU_ROW | {"id": "3", "options": "['<image 1>', '<image 2>']"}
    open_question = MMMU_ROW | {"id": "4", "question_type": "open", "options": "[]", "answer": "7"}
    write(tmp_path, "Accounting.jsonl", lines([MMMU_ROW, two_images, open_question]))
    write(tmp_path, "Art.jsonl", lines([MMMU_ROW | {"id": "5"}, two_markers]))
    assert [question.id for question in read("mmmu", tmp_path)] == ["validation_Accounting_1", "5"]
    count_skipped = get_task("mmmu").count_skipped
    assert count_skipped is not None
    assert count_skipped(benchmark_files(tmp_path)) == {"about several images": 2, "without options": 1}
    write(tmp_path / "none", "Art.jsonl", lines([two_markers]))
    with pytest.raises(DataError, match=r"no multiple-choice question about one image.*'about several images': 1"):
        read("mmmu", tmp_path / "none")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "D"}, "a letter, A to C. Got 'D'"),
        ({"answer": ""}, "a letter, A to C"),
        ({"answer": "AB"}, "a letter, A to C"),
        ({"options": "__import__('os').system('true')"}, "options is not a list"),
        ({"options": "['a'"}, "options is not a list"),
        ({"options": "{'a': 1}"}, "options is a list"),
        ({"options": [["a"], "b"]}, "options is a list"),
        ({"image_1": None}, "wanted the image's file name"),
        ({"image_1": {"bytes": "abc", "path": None}}, "wanted the image's file name"),
        ({"id": None}, "id is text"),
    ],
)
def test_invalid_records_are_refused_with_their_location(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    write(tmp_path, "q.jsonl", lines([MMMU_ROW | {"id": "0"}, MMMU_ROW | row]))
    with pytest.raises(DataError, match=rf"q\.jsonl: record 2: .*{message}"):
        read("mmmu", tmp_path)
