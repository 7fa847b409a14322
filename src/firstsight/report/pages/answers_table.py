"""All answers of one checkpoint as columns that fit in memory; the texts of the few on a page are read again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import polars as pl

from firstsight.errors import DataError, UnknownName
from firstsight.report.answers import QUESTION_KEY, StoredAnswer, iter_answers, read_answer_at
from firstsight.report.results import AnswerFile

TABLE_SCHEMA: dict[str, Any] = {
    "task": pl.String,
    "question": pl.String,
    "blind": pl.Boolean,
    "image": pl.String,
    "split": pl.String,
    "score": pl.Float64,
    "answer": pl.UInt64,
    "truth": pl.UInt64,
    "file": pl.UInt32,
    "offset": pl.Int64,
}
"""`answer` and `truth` are digests of the texts; `file` (an index) and `offset` (a byte) locate the line."""


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
        self._check_unique()

    def read_answer(self, file: int, offset: int) -> StoredAnswer:
        """The record at byte `offset` of file number `file`."""
        return read_answer_at(self.files[file].path, offset)

    def _check_unique(self) -> None:
        key = [*QUESTION_KEY, "blind"]
        duplicates = self.rows.filter(self.rows.select(key).is_duplicated()).select(*key, "file")
        if not duplicates.is_empty():
            task, question, blind, file = duplicates.row(0)
            raise DataError(
                f"{self.files[file].path}: wanted one answer a question. Got two for {question!r} of {task} "
                f"{'without' if blind else 'with'} its image. Keep one of them."
            )


def _row(answer: StoredAnswer, file: int, offset: int) -> tuple[Any, ...]:
    digests = text_digest(answer.text), text_digest(json.dumps(answer.truth))
    texts = answer.task, answer.question, answer.blind, answer.image_name, answer.split
    return (*texts, answer.score, *digests, file, offset)


def text_digest(text: str) -> int:
    """64 bits, the same on every machine."""
    return int.from_bytes(blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "big")
