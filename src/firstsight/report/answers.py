"""answers.jsonl as typed records (in order, or at a byte offset) and as tables."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from firstsight.errors import DataError, UnknownName
from firstsight.report.results import AnswerFile, ArmResult

QUESTION_KEY = ["task", "question"]
"""The columns that identify a question."""

QUESTION_TAGS = ("form", "combination")
"""Optional fields of a line for whether a part of the question was held out of training."""

ANSWER_SCHEMA: dict[str, Any] = {
    **dict.fromkeys(("task", "question", "image", "split", "prompt", "answer", "truth"), pl.String),
    "score": pl.Float64,
    "blind": pl.Boolean,
}

TABLE_SCHEMA: dict[str, Any] = {
    **dict.fromkeys(("task", "question", "image", "split"), pl.String),
    "blind": pl.Boolean,
    "score": pl.Float64,
    **dict.fromkeys(("answer", "truth"), pl.UInt64),
    "file": pl.UInt32,
    "offset": pl.Int64,
}
"""`answer` and `truth` are digests of the texts; `file` (an index) and `offset` (a byte) locate the line."""


# Files have millions of lines, and a named tuple is made faster than a frozen dataclass.
class StoredAnswer(NamedTuple):
    """One line of answers.jsonl: one model's answer to one question in one condition. Missing texts are empty."""

    task: str
    question: str
    """The question's id."""
    image_name: str
    prompt: str
    text: str
    truth: Any
    """A text, or the four edges of a box."""
    score: float
    blind: bool
    """Answered without the image."""
    readable: bool
    """The answer has the form that the metric expects."""
    split: str
    tags: tuple[tuple[str, str], ...]
    """(name, value) of those of QUESTION_TAGS that the line has."""

    @property
    def truth_text(self) -> str:
        """The truth as text: JSON where it is no text, empty where there is none."""
        return _text(self.truth)


def iter_answers(path: Path) -> Iterator[tuple[int, StoredAnswer]]:
    """(byte offset, record) of each line that is not blank; DataError names the first line that is not an answer."""
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
    read = (a for _, a in iter_answers(arm.answers_path)) if arm.answers_path and arm.answers_path.exists() else ()
    rows = [(a.task, a.question, a.image_name, a.split, a.prompt, a.text, a.truth_text, a.score, a.blind) for a in read]
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
        wanted = "wanted an answer with task, question_id and score"
        raise DataError(f"{path}:{position}: {wanted}. Got {excerpt!r}.") from error
    if not math.isfinite(score):
        raise DataError(f"{path}:{position}: wanted a score that is a number. Got {score}. Score the answers again.")
    return record


def _text(value: object) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    # UTF-8 cannot encode half of a surrogate pair.
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


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
            found = f"two for {question!r} of {task} {'without' if blind else 'with'} its image"
            raise DataError(f"{self.files[file].path}: wanted one answer per question. Got {found}. Keep one of them.")

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
