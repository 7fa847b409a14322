"""Reading of benchmark records: text fields, boxes and question ids, and the parts that all vision tasks share."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.metrics.metric import Metric, Truth
from firstsight.evaluate.task import Question, Task, load_json, record_tags, require_key

SHORT_ANSWER_PROMPT = "\n{q}\nAnswer the question using a single word or phrase."
"""The paper's prompt. Source: paper 5.2."""
_MAX_NAMES = 3
_PIXEL_TOLERANCE = 1.0
"""Pixels by which an annotated box may exceed its image because of rounding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkRecord:
    """One record of a benchmark file."""

    key: str | None
    """The record's id, if the file is an object keyed by ids."""
    index: int
    """From 0."""
    location: str
    fields: dict[str, Any]

    def error(self, problem: str) -> DataError:
        """The error for an invalid record."""
        return DataError(f"{self.location}: {problem}")

    def value(self, key: str) -> Any:
        """The value under `key`; DataError without it."""
        return require_key(self.fields, key, self.location)

    def text(self, *keys: str) -> str:
        """The text under the first of `keys` that the record has, since tools use different keys; see `text_field`."""
        return text_field(self.fields, next((key for key in keys if key in self.fields), keys[0]), self.location)

    def question(self, *, question_id: str, text: str, truth: Truth, image: str, split: str = "") -> Question:
        """A question about an image without choices; its tags are the record's."""
        tags = record_tags(self.fields)
        return Question(id=question_id, text=text, truth=truth, image=image, split=split, tags=tags)


def vision_task(
    name: str,
    metric: Metric,
    read_questions: Callable[[Sequence[Path]], tuple[Question, ...]],
    *,
    version: int,
    prompt: str = SHORT_ANSWER_PROMPT,
    chance: float = 0.0,
    baseline: float | None = None,
    published: Mapping[str, int] | None = None,
) -> Task:
    """A vision task with free-text answers; `prompt` is the paper's template, `published` maps versions to counts."""
    return Task(
        name=name,
        kind="vision",
        answer_type="words",
        metric=metric,
        chance=chance,
        baseline=baseline,
        read_questions=read_questions,
        prompt_templates={"bare": "{q}", "paper": prompt},
        version=version,
        published={edition: {"": count} for edition, count in (published or {}).items()},
    )


def read_records(path: Path) -> list[BenchmarkRecord]:
    """The records of a list, of JSON lines, or of an object keyed by ids."""
    content = load_json(path)
    if isinstance(content, dict) and content and all(isinstance(row, dict) for row in content.values()):
        return list_records(list(content.values()), path, keys=list(content))
    return list_records(content if isinstance(content, list) else [content], path)


def list_records(rows: Sequence[Any], path: Path, *, keys: Sequence[str | None] | None = None) -> list[BenchmarkRecord]:
    """The records of a list in a file, with their ids if they have any; DataError for one that is not an object."""
    records: list[BenchmarkRecord] = []
    for index, (row, key) in enumerate(zip(rows, keys or [None] * len(rows), strict=True)):
        location = f"{path}: record {index + 1 if key is None else key}"
        if not isinstance(row, dict):
            raise DataError(f"{location} is not an object: {str(row)[:80]}. Is this the benchmark's own file?")
        records.append(BenchmarkRecord(key=key, index=index, location=location, fields=row))
    return records


def text_field(record: Any, key: str, location: Path | str) -> str:
    """A record's text under `key`; a finite number becomes its digits, any other value raises DataError."""
    value = require_key(record, key, location)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not isinstance(value, str) and not is_number:
        raise DataError(f"{location}: {key} is text. Got {value!r}. Use a split whose answers are public.")
    return str(value)


def is_text_list(value: Any) -> bool:
    """Whether a JSON value is a list of strings."""
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def abbreviate_names(names: Sequence[str]) -> str:
    """The first few of many names, and their number."""
    suffix = f", ... ({len(names):,} in all)" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + suffix


def join_paths(paths: Iterable[Path]) -> str:
    """Paths as messages list them."""
    return ", ".join(map(str, paths))


def check_unique_ids(ids: Iterable[str], location: Path | str) -> None:
    """DataError that names the question ids that occur several times."""
    duplicates = [question_id for question_id, count in Counter(ids).items() if count > 1]
    if duplicates:
        names = abbreviate_names(duplicates)
        raise DataError(f"{location}: question ids appear twice: {names}. Keep one record for each.")


def require_unique_ids(questions: Sequence[Question], paths: Sequence[Path]) -> tuple[Question, ...]:
    """The questions; DataError if there are none or two have the same id."""
    check_unique_ids((question.id for question in questions), join_paths(paths))
    if not questions:
        raise DataError(f"{join_paths(paths)}: wanted questions. Got none. Is the file complete?")
    return tuple(questions)


def parse_four_floats(box: Any, location: Path | str) -> tuple[float, float, float, float]:
    """Four finite numbers, as a list or as the JSON text of a list."""
    try:
        edges = json.loads(box) if isinstance(box, str) else box
        numbers = [edge for edge in edges if isinstance(edge, (int, float)) and not isinstance(edge, bool)]
    except (TypeError, json.JSONDecodeError):
        edges, numbers = [], []
    if len(numbers) != 4 or len(edges) != 4 or not all(map(math.isfinite, numbers)):
        raise DataError(f"{location}: a box is four numbers. Got {box!r}. Is this the benchmark's original file?")
    a, b, c, d = map(float, numbers)
    return a, b, c, d


def normalize_box(
    box: Sequence[float], size: Sequence[Any], location: Path | str, *, tolerance: float = _PIXEL_TOLERANCE
) -> tuple[float, ...]:
    """(left, top, right, bottom) in pixels as shares of an image of `size`; DataError if empty or outside of it."""
    left, top, right, bottom = box
    width, height = parse_four_floats([*size, 1, 1], location)[:2]
    area = f"image of {width} x {height}"
    if not (left < right and top < bottom and width > 0 and height > 0):
        raise DataError(f"{location}: box {box} is empty in an {area}. Are its edges in this format's order?")
    if max(-left, -top, right - width, bottom - height) > tolerance:
        raise DataError(f"{location}: box {box} exceeds its {area}. Are its edges in this format's order and unit?")
    return (max(left / width, 0.0), max(top / height, 0.0), min(right / width, 1.0), min(bottom / height, 1.0))


def file_with_key(contents: Mapping[Path, Any], key: str) -> Path | None:
    """The one file that is an object with `key`; None if there is none, DataError if there are several."""
    paths = [path for path, content in contents.items() if isinstance(content, dict) and key in content]
    if len(paths) > 1:
        names = join_paths(paths)
        raise DataError(f"{names}: several files of {key}. Wanted one. Keep one split per folder.")
    return paths[0] if paths else None
