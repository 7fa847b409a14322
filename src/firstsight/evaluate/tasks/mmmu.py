"""MMMU and benchmarks in its form: college questions about one image, answered by an option's letter."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.metrics.multiple_choice import LETTER_MATCH
from firstsight.evaluate.task import Question, require_key
from firstsight.evaluate.tasks.records import (
    BenchmarkRecord,
    abbreviate_names,
    first_text_field,
    image_question,
    join_paths,
    read_benchmark_records,
    require_unique_ids,
    text_field,
    vision_task,
)

OPTION_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_IMAGE_MARKER = re.compile(r"\s*<image[ _](\d+)>\s*")
_NUMBERED_IMAGE_KEY = re.compile(r"image_\d+")
_IMAGE_KEYS = ("image", "image_1")
_ID_KEYS = ("id", "question_id")
_PROMPT = "\n{q}\nAnswer with the option's letter from the given choices directly."


def read_mmmu(paths: Sequence[Path]) -> tuple[Question, ...]:
    """{"id", "question", "options", "answer", "image" or "image_1"}: a list or lines, in one file or one per subject.

    Questions about several images and questions without options are skipped; `count_skipped_questions` counts them.
    """
    records = [record for path in paths for record in read_benchmark_records(path) if not _skip_reason(record)]
    if not records:
        raise DataError(
            f"{join_paths(paths)}: no multiple-choice question about one image. "
            f"Left out: {dict(count_skipped_questions(paths))}. Add the questions with options."
        )
    return require_unique_ids([_question(record) for record in records], paths)


def count_skipped_questions(paths: Sequence[Path]) -> Mapping[str, int]:
    """The number of skipped questions by reason."""
    reasons = (_skip_reason(record) for path in paths for record in read_benchmark_records(path))
    return dict(Counter(filter(None, reasons)))


def _skip_reason(record: BenchmarkRecord) -> str:
    row, location = record.fields, record.location
    if row.get("question_type") == "open" or not parse_options(require_key(row, "options", location), location):
        return "without options"
    image_keys = [key for key in row if _NUMBERED_IMAGE_KEY.fullmatch(key) and row[key] is not None]
    markers = set(_IMAGE_MARKER.findall(str(row.get("question", "")) + str(row["options"])))
    has_image_list = isinstance(row.get("image"), list) and len(row["image"]) > 1
    return "about several images" if len(image_keys) > 1 or len(markers) > 1 or has_image_list else ""


def parse_options(value: Any, location: str) -> tuple[str, ...]:
    """Options from a list of texts or its Python literal, of which nothing is executed."""
    try:
        options = ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise DataError(f"{location}: options is no list: {value[:80]!r}. Write it as a list of texts.") from error
    is_list = isinstance(options, list) and all(isinstance(option, (str, int, float)) for option in options)
    if not is_list or len(options) > len(OPTION_LETTERS):
        raise DataError(f"{location}: options is a list of at most 26 texts. Got {str(value)[:80]!r}. Write it as one.")
    return tuple(map(str, options))


def _question(record: BenchmarkRecord) -> Question:
    row, location = record.fields, record.location
    options = tuple(_strip_image_markers(option) for option in parse_options(row["options"], location))
    letter = text_field(row, "answer", location).strip()
    if letter not in list(OPTION_LETTERS[: len(options)]):
        raise DataError(f"{location}: the answer is a letter, A to {OPTION_LETTERS[len(options) - 1]}. Got {letter!r}.")
    return image_question(
        row,
        question_id=first_text_field(row, _ID_KEYS, location),
        text=question_with_options(_strip_image_markers(text_field(row, "question", location)), options),
        truth=(letter, *options),
        image=_image_name(row, location),
    )


def question_with_options(question: str, options: Sequence[str]) -> str:
    """The question and one line per option, as LLaVA and the paper's harness write them."""
    lines = (f"{letter}. {option}" for letter, option in zip(OPTION_LETTERS, options, strict=False))
    return "\n".join([question, *lines])


def _strip_image_markers(text: str) -> str:
    """Text without MMMU's image markers, since the image comes first in every prompt."""
    return _IMAGE_MARKER.sub(" ", text).strip()


def _image_name(row: Mapping[str, Any], location: str) -> str:
    """The image's name, also from a tool's object of path and bytes."""
    value = next((row[key] for key in _IMAGE_KEYS if row.get(key) is not None), None)
    if isinstance(value, list) and value:
        value = value[0]
    name = value.get("path") if isinstance(value, dict) else value
    if not isinstance(name, str) or not name:
        raise DataError(
            f"{location}: wanted the image's file name under {abbreviate_names(_IMAGE_KEYS)}. Got {str(value)[:60]!r}."
        )
    return name


MMMU = replace(
    vision_task("mmmu", LETTER_MATCH, read_mmmu, prompt=_PROMPT, version=1, chance=0.25),
    count_skipped=count_skipped_questions,
)
"""Most questions have four options; the exact chance depends on which questions remain."""
