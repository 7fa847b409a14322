"""Normalisation of image names: benchmarks, tools and image folders name the same image in different ways.

Kept apart from both users, the benchmarks' image folders and the joining of answer files, which loads no image code.
"""

from __future__ import annotations

import re

_SUFFIX = re.compile(r"\.(?:jpe?g|png|webp|bmp|gif|tiff?)$", re.IGNORECASE)
_ANNOTATION_NAME = re.compile(r"(COCO_\w+?_\d{12})_\d+")
"""RefCOCO's names: COCO_train2014_000000580957_4 is annotation 4 of an image."""
_COCO_NUMBER = re.compile(r"(?:.*_)?0*(\d{12})|0*(\d+)")
_NUMBERED_NAME = re.compile(r"[A-Za-z]+_[A-Za-z]+\d*_(\d{8,12})(?:_\d+)?")
"""COCO_val2014_000000310196, also with an annotation's number, and VizWiz_val_00000012."""
_SERIES_NAME = re.compile(r"(?!COCO_)([A-Za-z]+_[A-Za-z]+\d*)_\d{8,12}")
"""COCO alone numbers its images over all splits."""


def image_stem(name: str) -> str:
    """A file name without folders and image suffix."""
    return _SUFFIX.sub("", name.strip().replace("\\", "/").rpartition("/")[2])


def strip_annotation_id(name: str) -> str:
    """The image's name in a RefCOCO name; other names are unchanged."""
    match = _ANNOTATION_NAME.fullmatch(name)
    return match[1] if match else name


def coco_number(stem: str) -> str:
    """COCO's number without zeros: COCO_val2014_000000458752, 000000458752 and 458752 are equal. Else empty."""
    match = _COCO_NUMBER.fullmatch(stem)
    return (match[1] or match[2]).lstrip("0") or "0" if match else ""


def image_series(name: str) -> str:
    """The series in which an image is numbered, as VizWiz_val; empty without a number and for COCO."""
    match = _SERIES_NAME.fullmatch(image_stem(name))
    return match[1] if match else ""


def normalize_image_name(name: str) -> str:
    """The stem of an image's name; its number without zeros for names of COCO and VizWiz and for numbers."""
    stem = image_stem(name)
    match = _NUMBERED_NAME.fullmatch(stem)
    number = match[1] if match else stem
    return number.lstrip("0") or "0" if number.isdecimal() else number
