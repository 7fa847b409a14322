"""Names of one image in different tools and benchmarks become equal, names of different images do not."""

from __future__ import annotations

import pytest

from firstsight.evaluate.task import (
    coco_number,
    image_series,
    image_stem,
    normalize_image_name,
    strip_annotation_id,
)


def test_all_names_of_an_image_become_its_number() -> None:
    names = ("COCO_val2014_000000000042.jpg", "val2014/COCO_val2014_000000000042.png", "42", "000000000042.jpg")
    assert {normalize_image_name(name) for name in (*names, "COCO_val2014_000000000042_1733")} == {"42"}
    assert normalize_image_name("images/VizWiz_val_00000007.jpg") == "7"
    assert normalize_image_name("n123.jpg") == "n123"
    assert normalize_image_name("0") == "0"


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a/b.JPEG", "b"), ("a\\b.tif", "b"), (" b.webp ", "b"), ("b.tar", "b.tar"), ("a/", ""), ("b.c.png", "b.c")],
)
def test_a_stem_has_neither_folders_nor_image_suffix(name: str, stem: str) -> None:
    assert image_stem(name) == stem


@pytest.mark.parametrize(
    ("stem", "number"),
    [
        ("COCO_val2014_000000458752", "458752"),
        ("000000458752", "458752"),
        ("458752", "458752"),
        ("000000000000", "0"),
        ("n578564", ""),
        ("VizWiz_val_00000012", ""),
    ],
)
def test_coco_numbers_have_twelve_digits_or_nothing_else(stem: str, number: str) -> None:
    assert coco_number(stem) == number


def test_only_coco_numbers_its_images_over_all_splits() -> None:
    assert image_series("x/VizWiz_val_00000012.jpg") == "VizWiz_val"
    assert image_series("COCO_val2014_000000000042.jpg") == image_series("n123.jpg") == ""


def test_refcoco_names_end_with_an_annotation_number() -> None:
    assert strip_annotation_id("COCO_train2014_000000580957_4") == "COCO_train2014_000000580957"
    assert strip_annotation_id("COCO_train2014_000000580957") == "COCO_train2014_000000580957"
    assert strip_annotation_id("COCO_train2014_000000580957.jpg") == "COCO_train2014_000000580957.jpg"
