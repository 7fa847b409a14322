"""answers.jsonl as tables: all answers of an arm, or of a checkpoint."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import polars as pl

from firstsight.errors import DataError, UnknownName
from firstsight.evaluate.result_files import StoredAnswer, iter_answers, read_answer_at
from firstsight.evaluate.task import TAGS
from firstsight.report.results import AnswerFile

QUESTION_KEY = ["task", "question"]
"""The columns that identify a question."""

ANSWER_SCHEMA: dict[str, Any] = {
    **dict.fromkeys(("task", "question", "image", "split", "prompt", "answer", "truth"), pl.String),
    "score": pl.Float64,
    "soft": pl.Float64,
    "blind": pl.Boolean,
    "heldout": pl.Boolean,
}
"""`soft`: the soft score, null for an answer without one. `heldout`: the question has a part that was held out of
training."""

TABLE_SCHEMA: dict[str, Any] = {
    **dict.fromkeys(("task", "question", "image", "split"), pl.String),
    "blind": pl.Boolean,
    "score": pl.Float64,
    **dict.fromkeys(("answer", "truth"), pl.UInt64),
    "file": pl.UInt32,
    "offset": pl.Int64,
}
"""`answer` and `truth` are digests of the texts; `file` (an index) and `offset` (a byte) locate the line."""


_REQUIRED_KEYS = ("task", "question_id", "prompt", "answer", "truth", "score", "blind")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""Half of a surrogate pair, which polars reads as another character."""
_LINE_SCHEMA: dict[str, Any] = {
    **dict.fromkeys(("image", "split", *TAGS, *_REQUIRED_KEYS), pl.String),
    "score": pl.Float64,
    "soft": pl.Struct({"score": pl.Float64}),
    "blind": pl.Boolean,
}


def read_answers(path: Path) -> pl.DataFrame:
    """All answers of an answers.jsonl whose digest has been verified, columns ANSWER_SCHEMA.

    DataError for a line without an answer; keys that no answer has are not looked at.
    """
    lines = _parse_lines(path)
    if lines is None:
        return pl.DataFrame([_answer_row(a) for _, a in iter_answers(path)], schema=ANSWER_SCHEMA, orient="row")
    return lines.select(
        "task",
        pl.col("question_id").alias("question"),
        pl.col("image", "split").fill_null(""),
        *("prompt", "answer", "truth", "score"),
        pl.col("soft").struct.field("score").alias("soft"),
        "blind",
        pl.any_horizontal((pl.col(tag) == "heldout").fill_null(value=False) for tag in TAGS).alias("heldout"),
    )


def _parse_lines(path: Path) -> pl.DataFrame | None:
    """All lines, columns _LINE_SCHEMA, six times as fast as one after the other; None if they must be read strictly."""
    try:
        content = path.read_bytes()
        lines = pl.read_ndjson(content, schema=_LINE_SCHEMA)
    except (pl.exceptions.PolarsError, OSError):
        return None
    is_complete = not any(lines.select(_REQUIRED_KEYS).null_count().row(0))
    return lines if is_complete and not _SURROGATE.search(content) else None


def _answer_row(a: StoredAnswer) -> tuple[Any, ...]:
    soft, is_heldout = a.soft and a.soft.score, any(value == "heldout" for _, value in a.tags)
    texts = a.task, a.question, a.image_name, a.split, a.prompt, a.text, a.truth_text
    return (*texts, a.score, soft, a.blind, is_heldout)


class AnswersTable:
    """All answers of one checkpoint: `rows` with the columns TABLE_SCHEMA."""

    def __init__(self, name: str, files: Sequence[AnswerFile], *, task: str = "") -> None:
        """Read every file, or only the lines of `task`.

        A task is taken from the first file that has it. Raises DataError where there is no answer, where a line is
        invalid, or where two lines answer one question in one condition; UnknownName for a task without answers.
        """
        self.name, self.files = name, tuple(files)
        values: list[tuple[Any, ...]] = []
        for index, file in enumerate(self.files):
            earlier_tasks = {row[0] for row in values}
            answers = iter_answers(file.path)
            values += [_row(answer, index, offset) for offset, answer in answers if answer.task not in earlier_tasks]
        rows = pl.DataFrame(values, schema=TABLE_SCHEMA, orient="row")
        if rows.is_empty():
            raise DataError(f"{self.files[0].path}: wanted answers. Got none. Evaluate the checkpoint first.")
        self.rows = rows.filter(task=task) if task else rows
        if self.rows.is_empty():
            raise UnknownName(f"task answered by {name}", task, rows.get_column("task").unique())
        key = [*QUESTION_KEY, "blind"]
        duplicates = self.rows.filter(self.rows.select(key).is_duplicated()).select(*key, "file")
        if not duplicates.is_empty():
            task, question, blind, file = duplicates.row(0)
            pair = f"two for {question!r} of {task} {'without' if blind else 'with'} its image"
            raise DataError(f"{self.files[file].path}: wanted one answer per question. Got {pair}. Keep one of them.")

    def read_answer(self, file: int, offset: int) -> StoredAnswer:
        """The record at byte `offset` of file number `file`."""
        return read_answer_at(self.files[file].path, offset)


def _row(answer: StoredAnswer, file: int, offset: int) -> tuple[Any, ...]:
    digests = text_digest(answer.text), text_digest(json.dumps(answer.truth))
    texts = answer.task, answer.question, answer.image_name, answer.split
    return (*texts, answer.blind, answer.score, *digests, file, offset)


def text_digest(text: str) -> int:
    """A 64-bit hash that is the same on every machine."""
    return int.from_bytes(blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "big")
