"""Answers that are kept as they come, so that a killed judging goes on and a second one asks nothing.

judged/digests.json             what files are known by, so that weights are read once
judged/<checkpoint>/            12 digits of a checkpoint's content
    judged.json, answers.jsonl, scores.json     all tasks judged so far
    sheets/<task>-v<version>-<style>-<questions>.jsonl   raw answers; a line each, after one that says what was asked
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from firstsight.errors import DataError, RequestError
from firstsight.evaluate.models.interface import list_checkpoint_files
from firstsight.files import FileDigests, write_atomic

EVALUATIONS_FOLDER = "judged"
_DIGITS = 12
AnswerKey = tuple[str, bool]
"""A question's id, and whether it was asked blind."""


def evaluation_folder(output_path: Path, checkpoint: Path) -> Path:
    """The folder under `out` of everything that was judged of a checkpoint; it need not be there yet."""
    return (
        output_path
        / EVALUATIONS_FOLDER
        / checkpoint_digest(checkpoint, digests_folder=output_path / EVALUATIONS_FOLDER)[:_DIGITS]
    )


def checkpoint_digest(checkpoint: Path, *, digests_folder: Path) -> str:
    """sha256 over the names and bytes of the files that a checkpoint's answers hang on; ModelError where it is none.

    What a file's bytes come to is remembered in `memory` by place, size and time of change.
    """
    digests = FileDigests(digests_folder)
    digest = digests.combined_digest(checkpoint, list_checkpoint_files(checkpoint))
    digests.save()
    return digest


@contextmanager
def file_lock(lock_path: Path, *, is_blocking: bool) -> Generator[None, None, None]:
    """Hold the right to write what `file` stands for; RequestError if somebody else does and nobody is to wait."""
    lock_path.parent.mkdir(parents=True, exist_ok=True)
    with lock_path.open("a") as lock_file:
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX if is_blocking else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RequestError(
                f"{lock_path}: another run is asking these questions. Wait for it, then try again."
            ) from None
        yield


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerCache:
    """One checkpoint's raw answers to one task's questions in one wording; None keeps nothing."""

    folder: Path | None
    header: Mapping[str, Any]
    """What was asked: `task`, `version`, `style`, and `questions`, their digest."""

    @property
    def file(self) -> Path | None:
        """Named after all that an answer hangs on beside the checkpoint."""
        if self.folder is None:
            return None
        header = self.header
        return (
            self.folder
            / f"{header['task']}-v{header['version']}-{header['style']}-{header['questions'][:_DIGITS]}.jsonl"
        )

    def read(self) -> dict[AnswerKey, str]:
        """Every answer that is kept; a last line that a kill cut short is none. DataError for a line that is none."""
        if self.file is None or not self.file.is_file():
            return {}
        raw_lines = self.file.read_bytes().rpartition(b"\n")[0].split(b"\n")
        rows = [_parse_row(line, f"{self.file}:{number}") for number, line in enumerate(raw_lines, start=1) if line]
        if rows and rows[0] != dict(self.header):
            raise DataError(f"{self.file}: wanted answers to {dict(self.header)}. Got {rows[0]}. Delete the file.")
        if any(row.keys() != {"id", "blind", "answer"} for row in rows[1:]):
            raise DataError(f"{self.file}: a line is no kept answer. Delete the file to ask anew.")
        return {(row["id"], row["blind"]): row["answer"] for row in rows[1:]}

    def write(self, answers: Mapping[AnswerKey, str]) -> None:
        """All answers at once, in place of those that were there."""
        if self.file is not None:
            rows = [
                {"id": question_id, "blind": is_blind, "answer": answer}
                for (question_id, is_blind), answer in answers.items()
            ]
            write_atomic(self.file, "".join(json.dumps(row) + "\n" for row in (dict(self.header), *rows)))

    @contextmanager
    def appender(self) -> Generator[Callable[[AnswerKey, str], None], None, None]:
        """Gives what appends an answer, each at once; what a kill cut short is taken away first."""
        if self.file is None:
            yield lambda key, answer: None
            return
        with file_lock(self.file, is_blocking=False):
            complete_part = self.file.read_bytes().rpartition(b"\n")
            with self.file.open("r+b") as answers_file:
                answers_file.truncate(len(complete_part[0]) + len(complete_part[1]))
            with self.file.open("a", encoding="utf-8", buffering=1) as answers_stream:
                if not complete_part[0]:
                    answers_stream.write(json.dumps(dict(self.header)) + "\n")
                yield lambda key, answer: _append_answer(answers_stream, key, answer)


def _append_answer(answers_stream: Any, key: AnswerKey, answer: str) -> None:
    answers_stream.write(json.dumps({"id": key[0], "blind": key[1], "answer": answer}) + "\n")


def _parse_row(line: bytes, location: str) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except (ValueError, TypeError) as error:
        raise DataError(f"{location}: wanted a kept answer. Got {error}. Delete the file to ask anew.") from error


def questions_digest(values: Iterable[Any]) -> str:
    """sha256 over whatever was asked, in order; values that JSON can hold."""
    hasher = sha256()
    for value in values:
        hasher.update(json.dumps(value).encode() + b"\n")
    return hasher.hexdigest()
