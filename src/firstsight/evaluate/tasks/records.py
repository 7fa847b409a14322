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
from firstsight.evaluate.question import Question, load, take

_SHOWN = 3
_OUTSIDE = 1.0
"""Pixels that an annotated box may stick out of its picture by rounding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One record of a file, and where it stands."""

    key: str | None
    """Its id, where the file is an object whose keys are the ids."""
    number: int
    """From 0."""
    where: str
    held: dict[str, Any]


def rows(path: Path) -> list[Record]:
    """The records of a list, of JSON lines, or of an object whose keys are the ids."""
    held = load(path)
    by_id = isinstance(held, dict) and bool(held) and all(isinstance(row, dict) for row in held.values())
    pairs = list(held.items()) if by_id else [(None, row) for row in (held if isinstance(held, list) else [held])]
    for number, (_, row) in enumerate(pairs, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{path}: record {number} is no object: {str(row)[:80]}. Is this the benchmark's own file?")
    return [
        Record(key=key, number=number, where=f"{path}: record {number + 1 if key is None else key}", held=row)
        for number, (key, row) in enumerate(pairs)
    ]


def word(record: Any, key: str, where: Path | str) -> str:
    """A record's text under `key`; a finite number counts as its digits, anything else is a DataError."""
    value = take(record, key, where)
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not isinstance(value, str) and not number:
        raise DataError(f"{where}: {key} is text. Got {value!r}. Use a split whose answers are public.")
    return str(value)


def first_of(record: Any, keys: Sequence[str], where: Path | str) -> str:
    """The text under the first of `keys` that the record has: tools name the same thing differently."""
    held = next((key for key in keys if isinstance(record, dict) and key in record), keys[0])
    return word(record, held, where)


def listed(names: Sequence[str]) -> str:
    """The first few of many names, and how many there are."""
    more = f", ... ({len(names):,} in all)" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def distinct(questions: Sequence[Question], given: Sequence[Path]) -> tuple[Question, ...]:
    """The questions, where no two have one id and there is any; else a DataError that says which."""
    where = ", ".join(str(path) for path in given)
    twice = [name for name, count in Counter(question.id for question in questions).items() if count > 1]
    if twice:
        raise DataError(f"{where}: question ids are told twice: {listed(twice)}. Keep one record for each.")
    if not questions:
        raise DataError(f"{where}: wanted questions. Got none. Is the file complete?")
    return tuple(questions)


def four(box: Any, where: Path | str) -> tuple[float, float, float, float]:
    """Four finite numbers, as a list or as text of one."""
    try:
        edges = json.loads(box) if isinstance(box, str) else box
        numbers = [edge for edge in edges if isinstance(edge, (int, float)) and not isinstance(edge, bool)]
    except (TypeError, json.JSONDecodeError):
        edges, numbers = [], []
    if len(numbers) != 4 or len(edges) != 4 or not all(math.isfinite(edge) for edge in numbers):
        raise DataError(f"{where}: a box is four numbers. Got {box!r}. Is this the benchmark's original file?")
    a, b, c, d = (float(edge) for edge in numbers)
    return a, b, c, d


def shares(
    box: Sequence[float], size: tuple[Any, Any], where: Path | str, *, slack: float = _OUTSIDE
) -> tuple[float, ...]:
    """(left, top, right, bottom) in pixels as shares of a picture of `size`; a box beside or outside it is refused."""
    left, top, right, bottom = box
    width, height = four([*size, 1, 1], where)[:2]
    if not (left < right and top < bottom and width > 0 and height > 0):
        raise DataError(f"{where}: box {box} is empty in a picture of {width} x {height}. Is it in this form's order?")
    if max(-left, -top, right - width, bottom - height) > slack:
        raise DataError(
            f"{where}: box {box} leaves its picture of {width} x {height}. Is it in this form's order and size?"
        )
    return (max(left / width, 0.0), max(top / height, 0.0), min(right / width, 1.0), min(bottom / height, 1.0))


def holding(held: Mapping[Path, Any], key: str) -> Path | None:
    """The one file that is an object with `key`; None where there is none, DataError where there are several."""
    found = [path for path, content in held.items() if isinstance(content, dict) and key in content]
    if len(found) > 1:
        names = ", ".join(str(path) for path in found)
        raise DataError(f"{names}: several files of {key}. Wanted one. Keep one benchmark split to a folder.")
    return found[0] if found else None
