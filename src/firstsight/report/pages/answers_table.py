"""answers.jsonl as columns that fit in memory, and its lines one at a time for the few that are shown."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import polars as pl

from firstsight.errors import DataError, UnknownName

ANSWER_COLUMNS: dict[str, Any] = {
    "task": pl.String,
    "question": pl.String,
    "blind": pl.Boolean,
    "image": pl.String,
    "split": pl.String,
    "score": pl.Float64,
    "words": pl.UInt64,
    "truth": pl.UInt64,
    "file": pl.UInt32,
    "at": pl.Int64,
}
"""`words` and `truth` are digests, equal where the texts are; `file` and `at` (a byte) say where the line stands."""
QUESTION_TAGS = ("form", "combination")


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerFile:
    """One file of answers and the benchmarks' folder that its pictures lie in, if it is known."""

    path: Path
    benchmarks_dir: Path | None
    benchmarks_by_task: Mapping[str, Path] = field(default_factory=dict)
    """Of tasks that were judged on another folder."""

    def benchmarks_of(self, task: str) -> Path | None:
        """The benchmarks' folder of a task."""
        return self.benchmarks_by_task.get(task, self.benchmarks_dir)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One line of answers.jsonl; texts as they are, whoever wrote them."""

    task: str
    question: str
    image_name: str
    prompt: str
    text: str
    truth: Any
    """A text, or the four edges of a box."""
    score: float
    blind: bool
    readable: bool
    split: str
    tags: tuple[tuple[str, str], ...]


class AnswersTable:
    """All answers of one checkpoint."""

    def __init__(self, name: str, files: Sequence[AnswerFile], *, task: str = "") -> None:
        """Read the columns of every file, of one task alone where it is named.

        A task is taken from the first file that has it. Raises DataError where there is no answer, where a line is
        none, or where two answer one question in one condition; UnknownName for a task that is not there.
        """
        self.name, self.files = name, tuple(files)
        columns: dict[str, list[Any]] = {column: [] for column in ANSWER_COLUMNS}
        for file_index, file in enumerate(self.files):
            earlier_tasks = set(columns["task"])
            for offset, answer in _read_answers(file.path):
                if answer.task not in earlier_tasks:
                    for column, value in zip(ANSWER_COLUMNS, _column_values(answer, file_index, offset), strict=True):
                        columns[column].append(value)
        rows = pl.DataFrame(columns, schema=ANSWER_COLUMNS)
        if rows.is_empty():
            raise DataError(f"{self.files[0].path}: wanted answers. Got none. Judge the checkpoint first.")
        self.rows = rows.filter(pl.col("task") == task) if task else rows
        if self.rows.is_empty():
            raise UnknownName(f"task answered by {name}", task, rows.get_column("task").unique())
        self._check_unique()

    def read_answer(self, file: int, offset: int) -> Answer:
        """The line that stands at byte `at` of file number `file`."""
        path = self.files[file].path
        with path.open("rb") as handle:
            handle.seek(offset)
            return _parse_answer(handle.readline(), f"{path}: byte {offset}")

    def _check_unique(self) -> None:
        key = ["task", "question", "blind"]
        duplicates = self.rows.filter(self.rows.select(key).is_duplicated()).select(*key, "file")
        if not duplicates.is_empty():
            task, question, blind, file = duplicates.row(0)
            raise DataError(
                f"{self.files[file].path}: wanted one answer a question. Got two for {question!r} of {task} "
                f"{'without' if blind else 'with'} its picture. Keep one of them."
            )


def _read_answers(path: Path) -> Iterator[tuple[int, Answer]]:
    """Every line with the byte that it begins at."""
    offset = 0
    try:
        with path.open("rb") as handle:
            for number, line in enumerate(handle, start=1):
                if line.strip():
                    yield offset, _parse_answer(line, f"{path}:{number}")
                offset += len(line)
    except OSError as error:
        raise DataError(f"{path}: wanted a file of answers. Got: {error.strerror}. Name answers.jsonl.") from error


def _parse_answer(line: bytes, location: str) -> Answer:
    excerpt = line[:60].decode(errors="replace")
    try:
        row = json.loads(line)
        score = float(row["score"])
        answer = Answer(
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
            tags=tuple((tag, _text(row[tag])) for tag in QUESTION_TAGS if tag in row),
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"{location}: wanted an answer with task, question_id and score. Got {excerpt!r}.") from error
    if not math.isfinite(score):
        raise DataError(f"{location}: wanted a score that is a number. Got {score}. Score the answers anew.")
    return answer


def _text(value: object) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be written to any page


def _column_values(answer: Answer, file: int, offset: int) -> tuple[Any, ...]:
    digests = text_digest(answer.text), text_digest(json.dumps(answer.truth))
    return (
        answer.task,
        answer.question,
        answer.blind,
        answer.image_name,
        answer.split,
        answer.score,
        *digests,
        file,
        offset,
    )


def text_digest(text: str) -> int:
    """64 bits, the same on every machine."""
    return int.from_bytes(blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "big")
