"""answers.jsonl as typed records: all lines in order, or the line at a byte offset."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from firstsight.errors import DataError
from firstsight.report.results import ArmResult

QUESTION_KEY = ["task", "question"]
"""The columns that identify a question."""

QUESTION_TAGS = ("form", "combination")
"""Optional fields of a line that say whether a part of the question was held out of training."""

ANSWER_SCHEMA: dict[str, Any] = {
    **dict.fromkeys(("task", "question", "image", "split", "prompt", "answer", "truth"), pl.String),
    "score": pl.Float64,
    "blind": pl.Boolean,
}


class StoredAnswer(NamedTuple):
    """One line of answers.jsonl: one model's answer to one question in one condition. Missing texts are empty.

    A named tuple, because files have millions of lines and it is made faster than a frozen dataclass.
    """

    task: str
    question: str
    """The question's id."""
    image_name: str
    prompt: str
    text: str
    """The answer."""
    truth: Any
    """A text, or the four edges of a box."""
    score: float
    blind: bool
    """Answered without the image."""
    readable: bool
    """Whether the answer has the form that the metric expects."""
    split: str
    tags: tuple[tuple[str, str], ...]
    """(name, value) of those of QUESTION_TAGS that the line has."""

    @property
    def truth_text(self) -> str:
        """The truth as text: JSON where it is no text, empty where there is none."""
        return _text(self.truth)


def iter_answers(path: Path) -> Iterator[tuple[int, StoredAnswer]]:
    """(byte offset, record) of each line that is not blank; DataError names the first line that is no answer."""
    offset = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield offset, _parse_answer(line, path, number)
                offset += len(line)
    except OSError as error:
        raise DataError(f"{path}: wanted a file of answers. Got: {error.strerror}. Name answers.jsonl.") from error


def read_answer_at(path: Path, offset: int) -> StoredAnswer:
    """The record whose line starts at byte `offset`."""
    with path.open("rb") as file:
        file.seek(offset)
        return _parse_answer(file.readline(), path, f" byte {offset}")


def arm_answers(arm: ArmResult) -> pl.DataFrame:
    """All answers of one arm, columns ANSWER_SCHEMA; empty where it has no answers.jsonl."""
    records = iter_answers(arm.answers_path) if arm.answers_path and arm.answers_path.exists() else ()
    rows = [
        (r.task, r.question, r.image_name, r.split, r.prompt, r.text, r.truth_text, r.score, r.blind)
        for _, r in records
    ]
    return pl.DataFrame(rows, schema=ANSWER_SCHEMA, orient="row")


def _parse_answer(line: bytes, path: Path, position: int | str) -> StoredAnswer:
    try:
        row = json.loads(line.decode())
        score = float(row["score"])
        record = StoredAnswer(
            task=str(row["task"]),
            question=str(row["question_id"]),
            image_name=_text(row.get("image")),
            prompt=_text(row.get("prompt")),
            text=_text(row.get("answer")),
            truth=row.get("truth"),
            score=score,
            blind=row.get("blind", False) is True,
            readable=row.get("readable", True) is not False,
            split=_text(row.get("split")),
            tags=tuple([(tag, _text(row[tag])) for tag in QUESTION_TAGS if tag in row]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        excerpt = line[:60].decode(errors="replace")
        raise DataError(
            f"{path}:{position}: wanted an answer with task, question_id and score. Got {excerpt!r}."
        ) from error
    if not math.isfinite(score):
        raise DataError(f"{path}:{position}: wanted a score that is a number. Got {score}. Score the answers again.")
    return record


def _text(value: object) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    # UTF-8 cannot encode half of a surrogate pair.
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
