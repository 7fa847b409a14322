"""MMMU-style multiple choice: a college question about one picture, answered by an option's letter."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.metrics.multiple_choice import LETTER_MATCH
from firstsight.evaluate.task import Question, Task, record_tags, require_key
from firstsight.evaluate.tasks.records import (
    BenchmarkRecord,
    abbreviate_names,
    first_text_field,
    read_benchmark_records,
    require_unique_ids,
    text_field,
)

OPTION_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_IMAGE_MARKER = re.compile(r"\s*<image[ _](\d+)>\s*")
_NUMBERED_IMAGE_KEY = re.compile(r"image_\d+")
_IMAGE_KEYS = ("image", "image_1")
_ID_KEYS = ("id", "question_id")


def read_mmmu(paths: Sequence[Path]) -> tuple[Question, ...]:
    """{"id", "question", "options", "answer", "image" or "image_1"}: a list or lines, in one file or one a subject.

    Questions over several pictures and questions without options cannot be asked this way; `left_out` counts them.
    """
    records = [record for path in paths for record in read_benchmark_records(path) if not _skip_reason(record)]
    if not records:
        raise DataError(
            f"{', '.join(str(path) for path in paths)}: no multiple-choice question about one picture. "
            f"Left out: {dict(count_skipped_questions(paths))}. Add the questions with options."
        )
    return require_unique_ids([_question(record) for record in records], paths)


def count_skipped_questions(paths: Sequence[Path]) -> Mapping[str, int]:
    """How many questions are passed by, by why."""
    return dict(
        Counter(reason for path in paths for record in read_benchmark_records(path) if (reason := _skip_reason(record)))
    )


def _skip_reason(record: BenchmarkRecord) -> str:
    row = record.fields
    if row.get("question_type") == "open" or not parse_options(
        require_key(row, "options", record.location), record.location
    ):
        return "without options"
    image_keys = [key for key in row if _NUMBERED_IMAGE_KEY.fullmatch(key) and row[key] is not None]
    marker_numbers = {
        marker[1] for marker in _IMAGE_MARKER.finditer(str(row.get("question", "")) + str(row["options"]))
    }
    has_several_images = (
        len(image_keys) > 1 or len(marker_numbers) > 1 or (isinstance(row.get("image"), list) and len(row["image"]) > 1)
    )
    return "over several pictures" if has_several_images else ""


def parse_options(value: Any, location: str) -> tuple[str, ...]:
    """A list of texts, or the text of one as Python writes it; nothing in that text is run."""
    try:
        parsed_value = ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise DataError(f"{location}: options is no list: {value[:80]!r}. Write it as a list of texts.") from error
    texts = [str(option) for option in parsed_value] if isinstance(parsed_value, list) else None
    if (
        texts is None
        or not all(isinstance(option, (str, int, float)) for option in parsed_value)
        or len(texts) > len(OPTION_LETTERS)
    ):
        raise DataError(f"{location}: options is a list of at most 26 texts. Got {str(value)[:80]!r}. Write it as one.")
    return tuple(texts)


def _question(record: BenchmarkRecord) -> Question:
    row, location = record.fields, record.location
    option_texts = tuple(_strip_image_markers(option) for option in parse_options(row["options"], location))
    letter = text_field(row, "answer", location).strip()
    if letter not in list(OPTION_LETTERS[: len(option_texts)]):
        raise DataError(
            f"{location}: the answer is a letter, A to {OPTION_LETTERS[len(option_texts) - 1]}. Got {letter!r}."
        )
    return Question(
        id=first_text_field(row, _ID_KEYS, location),
        text=question_with_options(_strip_image_markers(text_field(row, "question", location)), option_texts),
        truth=(letter, *option_texts),
        image=_image_name(row, location),
        choices=(),
        split="",
        tags=record_tags(row),
    )


def question_with_options(question: str, option_texts: Sequence[str]) -> str:
    """The question with an option a line, as LLaVA and the paper's harness list them."""
    return "\n".join(
        [question, *(f"{letter}. {option}" for letter, option in zip(OPTION_LETTERS, option_texts, strict=False))]
    )


def _strip_image_markers(text: str) -> str:
    """Without MMMU's mark for the picture: here it comes before all words."""
    return _IMAGE_MARKER.sub(" ", text).strip()


def _image_name(row: Mapping[str, Any], location: str) -> str:
    """The name of the picture, also where a tool wrote the file's name beside its bytes."""
    value = next((row[key] for key in _IMAGE_KEYS if row.get(key) is not None), None)
    if isinstance(value, list) and value:
        value = value[0]
    name = value.get("path") if isinstance(value, dict) else value
    if not isinstance(name, str) or not name:
        raise DataError(
            f"{location}: wanted the picture's file name under {abbreviate_names(_IMAGE_KEYS)}. Got {str(value)[:60]!r}."
        )
    return name


MMMU = Task(
    name="mmmu",
    kind="vision",
    answer_type="words",
    metric=LETTER_MATCH,
    chance=0.25,
    baseline=None,
    read_questions=read_mmmu,
    prompt_templates={
        "bare": "{q}",
        "paper": "\n{q}\nAnswer with the option's letter from the given choices directly.",
    },
    version=1,
    count_skipped=count_skipped_questions,
)
"""Most questions have four options; the exact chance hangs on which are kept."""
