"""COCO captions and NoCaps in all their public forms, complete and invalid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from firstsight.errors import DataError
from firstsight.evaluate.tasks import get_task
from tests.evaluate.tasks.task_files import read, write

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
