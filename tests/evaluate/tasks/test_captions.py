"""COCO captions and NoCaps in all their public forms, complete and invalid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from firstsight.errors import DataError
from firstsight.evaluate.tasks import get_task
from tests.evaluate.tasks.task_files import read, write

IMAGES = [{"id": 9, "file_name": "COCO_val2014_000000000009.jpg"}, {"id": 25, "file_name": "b.jpg"}]
ANNOTATIONS = [
    {"image_id": 9, "id": 1, "caption": "a cat"},
    {"image_id": 25, "caption": "b"},
    {"image_id": 9, "id": 3, "caption": "the cat 🐈"},
]
KARPATHY = [
    {"cocoid": 9, "filename": "a.jpg", "split": "test", "sentences": [{"raw": "a cat"}, {"raw": "the cat"}]},
    {"cocoid": 25, "filename": "b.jpg", "split": "restval", "sentences": [{"raw": "a dog"}]},
]


def test_the_truth_is_all_captions_of_an_image(tmp_path: Path) -> None:
    write(tmp_path, "captions_val2014.json", {"info": {}, "images": IMAGES, "annotations": ANNOTATIONS})
    first, second = read("coco_captions", tmp_path)
    assert (first.id, first.image, first.truth) == ("9", IMAGES[0]["file_name"], ("a cat", "the cat 🐈"))
    assert (second.id, second.truth) == ("25", ("b",))
    assert get_task("coco_captions").prompt(first, "paper") == "\nProvide a short image description."


def test_karpathys_test_split_and_a_plain_list(tmp_path: Path) -> None:
    write(tmp_path / "k", "dataset_coco.json", {"images": KARPATHY})
    (question,) = read("coco_captions", tmp_path / "k")
    assert (question.id, question.image, question.truth) == ("9", "a.jpg", ("a cat", "the cat"))
    write(tmp_path / "l", "coco_karpathy_test.json", [{"image": "val2014/a.jpg", "caption": ["a cat", "the cat"]}])
    (question,) = read("coco_captions", tmp_path / "l")
    assert (question.id, question.image, question.truth) == ("val2014/a.jpg", "val2014/a.jpg", ("a cat", "the cat"))


def test_nocaps_has_domain_tags(tmp_path: Path) -> None:
    images = [IMAGES[0] | {"open_images_id": "0013ea", "domain": "near-domain"}, IMAGES[1] | {"domain": "in-domain"}]
    write(tmp_path, "nocaps_val_4500_captions.json", {"images": images, "annotations": ANNOTATIONS})
    assert [question.tags for question in read("nocaps", tmp_path)] == [
        {"domain": "near-domain"},
        {"domain": "in-domain"},
    ]


@pytest.mark.parametrize(
    ("images", "annotations", "message"),
    [
        (IMAGES, ANNOTATIONS[1:2], "images without captions: 9"),
        (IMAGES[:1], ANNOTATIONS, "captions of images that are missing: 25"),
        (IMAGES, [*ANNOTATIONS[1:], {"image_id": 9, "caption": None}], "caption is text. Got None"),
        (IMAGES[:1], [{"image_id": 9, "caption": " "}], "image 9 has no captions"),
        ([*IMAGES, IMAGES[0]], ANNOTATIONS, "appear twice: 9"),
        ([], [], "Got none"),
        ([{"id": 9}], ANNOTATIONS[:1], "a record lacks 'file_name'"),
    ],
)
def test_captions_and_images_without_counterpart_are_refused(
    images: Any, annotations: Any, message: str, tmp_path: Path
) -> None:
    write(tmp_path, "captions.json", {"images": images, "annotations": annotations})
    with pytest.raises(DataError, match=message):
        read("coco_captions", tmp_path)
