"""What all benchmarks' records have in common: words, boxes, and questions that are told apart."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.task import Question, load_json, require_key

_MAX_NAMES = 3
_PIXEL_TOLERANCE = 1.0
"""Pixels that an annotated box may stick out of its picture by rounding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkRecord:
    """One record of a file, and where it stands."""

    key: str | None
    """Its id, where the file is an object whose keys are the ids."""
    index: int
    """From 0."""
    location: str
    fields: dict[str, Any]


def read_benchmark_records(path: Path) -> list[BenchmarkRecord]:
    """The records of a list, of JSON lines, or of an object whose keys are the ids."""
    content = load_json(path)
    is_keyed_by_id = (
        isinstance(content, dict) and bool(content) and all(isinstance(row, dict) for row in content.values())
    )
    pairs = (
        list(content.items())
        if is_keyed_by_id
        else [(None, row) for row in (content if isinstance(content, list) else [content])]
    )
    for number, (_, row) in enumerate(pairs, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{path}: record {number} is no object: {str(row)[:80]}. Is this the benchmark's own file?")
    return [
        BenchmarkRecord(
            key=key, index=number, location=f"{path}: record {number + 1 if key is None else key}", fields=row
        )
        for number, (key, row) in enumerate(pairs)
    ]


def text_field(record: Any, key: str, location: Path | str) -> str:
    """A record's text under `key`; a finite number counts as its digits, anything else is a DataError."""
    value = require_key(record, key, location)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not isinstance(value, str) and not is_number:
        raise DataError(f"{location}: {key} is text. Got {value!r}. Use a split whose answers are public.")
    return str(value)


def first_text_field(record: Any, keys: Sequence[str], location: Path | str) -> str:
    """The text under the first of `keys` that the record has: tools name the same thing differently."""
    present_key = next((key for key in keys if isinstance(record, dict) and key in record), keys[0])
    return text_field(record, present_key, location)


def abbreviate_names(names: Sequence[str]) -> str:
    """The first few of many names, and how many there are."""
    suffix = f", ... ({len(names):,} in all)" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + suffix


def require_unique_ids(questions: Sequence[Question], paths: Sequence[Path]) -> tuple[Question, ...]:
    """The questions, where no two have one id and there is any; else a DataError that says which."""
    location = ", ".join(str(path) for path in paths)
    duplicate_ids = [
        question_id for question_id, count in Counter(question.id for question in questions).items() if count > 1
    ]
    if duplicate_ids:
        raise DataError(
            f"{location}: question ids are told twice: {abbreviate_names(duplicate_ids)}. Keep one record for each."
        )
    if not questions:
        raise DataError(f"{location}: wanted questions. Got none. Is the file complete?")
    return tuple(questions)


def parse_four_floats(box: Any, location: Path | str) -> tuple[float, float, float, float]:
    """Four finite numbers, as a list or as text of one."""
    try:
        edges = json.loads(box) if isinstance(box, str) else box
        numbers = [edge for edge in edges if isinstance(edge, (int, float)) and not isinstance(edge, bool)]
    except (TypeError, json.JSONDecodeError):
        edges, numbers = [], []
    if len(numbers) != 4 or len(edges) != 4 or not all(math.isfinite(edge) for edge in numbers):
        raise DataError(f"{location}: a box is four numbers. Got {box!r}. Is this the benchmark's original file?")
    a, b, c, d = (float(edge) for edge in numbers)
    return a, b, c, d


def normalize_box(
    box: Sequence[float], size: tuple[Any, Any], location: Path | str, *, tolerance: float = _PIXEL_TOLERANCE
) -> tuple[float, ...]:
    """(left, top, right, bottom) in pixels as shares of a picture of `size`; a box beside or outside it is refused."""
    left, top, right, bottom = box
    width, height = parse_four_floats([*size, 1, 1], location)[:2]
    if not (left < right and top < bottom and width > 0 and height > 0):
        raise DataError(
            f"{location}: box {box} is empty in a picture of {width} x {height}. Is it in this form's order?"
        )
    if max(-left, -top, right - width, bottom - height) > tolerance:
        raise DataError(
            f"{location}: box {box} leaves its picture of {width} x {height}. Is it in this form's order and size?"
        )
    return (max(left / width, 0.0), max(top / height, 0.0), min(right / width, 1.0), min(bottom / height, 1.0))


def find_file_with_key(contents: Mapping[Path, Any], key: str) -> Path | None:
    """The one file that is an object with `key`; None where there is none, DataError where there are several."""
    matching_paths = [path for path, content in contents.items() if isinstance(content, dict) and key in content]
    if len(matching_paths) > 1:
        names = ", ".join(str(path) for path in matching_paths)
        raise DataError(f"{names}: several files of {key}. Wanted one. Keep one benchmark split to a folder.")
    return matching_paths[0] if matching_paths else None
