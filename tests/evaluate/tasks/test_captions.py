"""Captions and college questions, in the forms that their makers and users write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from firstsight.errors import DataError
from firstsight.evaluate.task import benchmark_files
from firstsight.evaluate.tasks import get_task
from tests.evaluate.tasks.task_files import lines, read, write

IMAGES = [{"id": 9, "file_name": "COCO_val2014_000000000009.jpg"}, {"id": 25, "file_name": "b.jpg"}]
SAID = [
    {"image_id": 9, "id": 1, "caption": "a cat"},
    {"image_id": 25, "caption": "b"},
    {"image_id": 9, "id": 3, "caption": "the cat 🐈"},
]
KARPATHY = [
    {"cocoid": 9, "filename": "a.jpg", "split": "test", "sentences": [{"raw": "a cat"}, {"raw": "the cat"}]},
    {"cocoid": 25, "filename": "b.jpg", "split": "restval", "sentences": [{"raw": "a dog"}]},
]


def test_all_captions_of_a_picture_are_its_truth(tmp_path: Path) -> None:
    write(tmp_path, "captions_val2014.json", {"info": {}, "images": IMAGES, "annotations": SAID})
    first, second = read("coco_captions", tmp_path)
    assert (first.id, first.image, first.truth) == ("9", IMAGES[0]["file_name"], ("a cat", "the cat 🐈"))
    assert (second.id, second.truth) == ("25", ("b",))
    assert get_task("coco_captions").prompt(first, "paper") == "\nProvide a short image description."


def test_karpathys_file_gives_its_test_split_and_a_list_its_pictures(tmp_path: Path) -> None:
    write(tmp_path / "k", "dataset_coco.json", {"images": KARPATHY})
    (only,) = read("coco_captions", tmp_path / "k")
    assert (only.id, only.image, only.truth) == ("9", "a.jpg", ("a cat", "the cat"))
    write(tmp_path / "l", "coco_karpathy_test.json", [{"image": "val2014/a.jpg", "caption": ["a cat", "the cat"]}])
    (only,) = read("coco_captions", tmp_path / "l")
    assert (only.id, only.image, only.truth) == ("val2014/a.jpg", "val2014/a.jpg", ("a cat", "the cat"))


def test_nocaps_says_its_domain(tmp_path: Path) -> None:
    images = [IMAGES[0] | {"open_images_id": "0013ea", "domain": "near-domain"}, IMAGES[1] | {"domain": "in-domain"}]
    write(tmp_path, "nocaps_val_4500_captions.json", {"images": images, "annotations": SAID})
    assert [one.tags for one in read("nocaps", tmp_path)] == [{"domain": "near-domain"}, {"domain": "in-domain"}]


@pytest.mark.parametrize(
    ("images", "said", "why"),
    [
        (IMAGES, SAID[1:2], "images without captions: 9"),
        (IMAGES[:1], SAID, "captions of images that are missing: 25"),
        (IMAGES, [*SAID[1:], {"image_id": 9, "caption": None}], "caption is text. Got None"),
        (IMAGES[:1], [{"image_id": 9, "caption": " "}], "image 9 has no captions"),
        ([*IMAGES, IMAGES[0]], SAID, "appear twice: 9"),
        ([], [], "Got none"),
        ([{"id": 9}], SAID[:1], "a record lacks 'file_name'"),
    ],
)
def test_captions_and_pictures_that_do_not_fit_are_refused(images: Any, said: Any, why: str, tmp_path: Path) -> None:
    write(tmp_path, "captions.json", {"images": images, "annotations": said})
    with pytest.raises(DataError, match=why):
        read("coco_captions", tmp_path)


MMMU: dict[str, Any] = {
    "id": "validation_Accounting_1",
    "question": "<image 1> Who is on the <image 1>?",
    "options": "['$6', \"O'Neil\", '<image 1>']",
    "answer": "B",
    "question_type": "multiple-choice",
    "image_1": "validation_Accounting_1_1.png",
    "image_2": None,
}


def test_options_are_listed_by_letter(tmp_path: Path) -> None:
    write(tmp_path, "Accounting.jsonl", lines([MMMU]))
    (only,) = read("mmmu", tmp_path)
    assert only.truth == ("B", "$6", "O'Neil", "")
    assert only.image == "validation_Accounting_1_1.png"
    assert get_task("mmmu").prompt(only, "paper") == (
        "\nWho is on the ?\nA. $6\nB. O'Neil\nC. \nAnswer with the option's letter from the given choices directly."
    )


@pytest.mark.parametrize(
    "image", [{"image": "a.png"}, {"image_1": {"path": "a.png", "bytes": None}}, {"image": ["a.png"]}]
)
def test_a_picture_goes_by_its_file(image: dict[str, Any], tmp_path: Path) -> None:
    row = {key: value for key, value in MMMU.items() if not key.startswith("image")} | {"options": ["x", "y"]}
    write(tmp_path, "q.json", [row | image])
    (only,) = read("mmmu", tmp_path)
    assert (only.image, only.truth) == ("a.png", ("B", "x", "y"))


def test_subjects_may_have_a_file_each_and_what_cannot_be_asked_is_counted(tmp_path: Path) -> None:
    several = MMMU | {"id": "2", "image_2": "b.png"}
    marked = MMMU | {"id": "3", "options": "['<image 1>', '<image 2>']"}
    unasked = MMMU | {"id": "4", "question_type": "open", "options": "[]", "answer": "7"}
    write(tmp_path, "Accounting.jsonl", lines([MMMU, several, unasked]))
    write(tmp_path, "Art.jsonl", lines([MMMU | {"id": "5"}, marked]))
    assert [one.id for one in read("mmmu", tmp_path)] == ["validation_Accounting_1", "5"]
    left_out = get_task("mmmu").count_skipped
    assert left_out is not None
    assert left_out(benchmark_files(tmp_path)) == {"about several images": 2, "without options": 1}
    write(tmp_path / "none", "Art.jsonl", lines([marked]))
    with pytest.raises(DataError, match=r"no multiple-choice question about one image.*'about several images': 1"):
        read("mmmu", tmp_path / "none")


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"answer": "D"}, "a letter, A to C. Got 'D'"),
        ({"answer": ""}, "a letter, A to C"),
        ({"answer": "AB"}, "a letter, A to C"),
        ({"options": "__import__('os').system('true')"}, "options is no list"),
        ({"options": "['a'"}, "options is no list"),
        ({"options": "{'a': 1}"}, "options is a list"),
        ({"options": [["a"], "b"]}, "options is a list"),
        ({"image_1": None}, "wanted the image's file name"),
        ({"image_1": {"bytes": "abc", "path": None}}, "wanted the image's file name"),
        ({"id": None}, "id is text"),
    ],
)
def test_broken_college_questions_are_named(row: dict[str, Any], why: str, tmp_path: Path) -> None:
    write(tmp_path, "q.jsonl", lines([MMMU | {"id": "0"}, MMMU | row]))
    with pytest.raises(DataError, match=rf"q\.jsonl: record 2: .*{why}"):
        read("mmmu", tmp_path)
