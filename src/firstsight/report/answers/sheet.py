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

COLUMNS: dict[str, Any] = {
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
TAGS = ("form", "combination")


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """One file of answers and the benchmarks' folder that its pictures lie in, if it is known."""

    answers: Path
    benchmarks: Path | None
    by_task: Mapping[str, Path] = field(default_factory=dict)
    """Of tasks that were judged on another folder."""

    def place(self, task: str) -> Path | None:
        """The benchmarks' folder of a task."""
        return self.by_task.get(task, self.benchmarks)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One line of answers.jsonl; texts as they are, whoever wrote them."""

    task: str
    question: str
    image: str
    prompt: str
    text: str
    truth: Any
    """A text, or the four edges of a box."""
    score: float
    blind: bool
    readable: bool
    split: str
    tags: tuple[tuple[str, str], ...]


class Sheet:
    """All answers of one checkpoint."""

    def __init__(self, name: str, kept: Sequence[Kept], *, task: str = "") -> None:
        """Read the columns of every file, of one task alone where it is named.

        A task is taken from the first file that has it. Raises DataError where there is no answer, where a line is
        none, or where two answer one question in one condition; UnknownName for a task that is not there.
        """
        self.name, self.kept = name, tuple(kept)
        found: dict[str, list[Any]] = {column: [] for column in COLUMNS}
        for number, one in enumerate(self.kept):
            taken = set(found["task"])
            for at, answer in _answers(one.answers):
                if answer.task not in taken:
                    for column, value in zip(COLUMNS, _columns(answer, number, at), strict=True):
                        found[column].append(value)
        rows = pl.DataFrame(found, schema=COLUMNS)
        if rows.is_empty():
            raise DataError(f"{self.kept[0].answers}: wanted answers. Got none. Judge the checkpoint first.")
        self.rows = rows.filter(pl.col("task") == task) if task else rows
        if self.rows.is_empty():
            raise UnknownName(f"task answered by {name}", task, rows.get_column("task").unique())
        self._refuse_doubles()

    def answer(self, file: int, at: int) -> Answer:
        """The line that stands at byte `at` of file number `file`."""
        path = self.kept[file].answers
        with path.open("rb") as lines:
            lines.seek(at)
            return _parsed(lines.readline(), f"{path}: byte {at}")

    def _refuse_doubles(self) -> None:
        key = ["task", "question", "blind"]
        doubles = self.rows.filter(self.rows.select(key).is_duplicated()).select(*key, "file")
        if not doubles.is_empty():
            task, question, blind, file = doubles.row(0)
            raise DataError(
                f"{self.kept[file].answers}: wanted one answer a question. Got two for {question!r} of {task} "
                f"{'without' if blind else 'with'} its picture. Keep one of them."
            )


def _answers(path: Path) -> Iterator[tuple[int, Answer]]:
    """Every line with the byte that it begins at."""
    at = 0
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield at, _parsed(line, f"{path}:{number}")
                at += len(line)
    except OSError as error:
        raise DataError(f"{path}: wanted a file of answers. Got: {error.strerror}. Name answers.jsonl.") from error


def _parsed(line: bytes, where: str) -> Answer:
    shown = line[:60].decode(errors="replace")
    try:
        row = json.loads(line)
        score = float(row["score"])
        found = Answer(
            task=str(row["task"]),
            question=str(row["question_id"]),
            image=_text(row.get("image")),
            prompt=_text(row.get("prompt")),
            text=_text(row.get("answer")),
            truth=row.get("truth"),
            score=score,
            blind=row.get("blind", False) is True,
            readable=row.get("readable", True) is not False,
            split=_text(row.get("split")),
            tags=tuple((tag, _text(row[tag])) for tag in TAGS if tag in row),
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"{where}: wanted an answer with task, question_id and score. Got {shown!r}.") from error
    if not math.isfinite(score):
        raise DataError(f"{where}: wanted a score that is a number. Got {score}. Score the answers anew.")
    return found


def _text(value: object) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be written to any page


def _columns(answer: Answer, file: int, at: int) -> tuple[Any, ...]:
    texts = digest(answer.text), digest(json.dumps(answer.truth))
    return answer.task, answer.question, answer.blind, answer.image, answer.split, answer.score, *texts, file, at


def digest(text: str) -> int:
    """64 bits, the same on every machine."""
    return int.from_bytes(blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "big")
