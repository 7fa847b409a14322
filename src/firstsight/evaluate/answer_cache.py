"""Raw answers of a checkpoint, stored as they are generated, so that an interrupted evaluation resumes.

judged/digests.json             sha256 of files by path, size and modification time, so that weights are read once
judged/<checkpoint>/            the first 12 digits of the checkpoint's digest
    answers.jsonl, scores.json  results of all tasks evaluated so far
    judged.json                 what was evaluated, with digests of these files and of itself
    sheets/<task>-v<version>-<style>-<questions>.jsonl   raw answers: a header, then a line per answer with its digest

The name of a file with raw answers depends on CACHE_FORMAT, so that answers in an older format are not read: the
questions are answered again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from firstsight.errors import DataError, RequestError
from firstsight.evaluate.models.interface import RawAnswer, list_checkpoint_files
from firstsight.files import FileDigests, file_lock, write_atomic
from firstsight.plan.verification import EVALUATIONS_FOLDER
from firstsight.resume_folder import check_regular

CACHE_FORMAT = 2
"""Version of what is stored of an answer; raised when it changes. 2: log-likelihoods and samples."""
_ROW_KEYS = {"id", "blind", "answer", "log_likelihoods", "samples", "sha256"}

AnswerKey = tuple[str, bool]
"""A question's id, and whether it was evaluated without its image."""


class DamagedAnswers(DataError):
    """A file of stored answers has changed since it was written."""


def evaluation_folder(output_path: Path, checkpoint: Path) -> Path:
    """The folder under `output_path` with all evaluation results of a checkpoint; it need not exist yet."""
    root = output_path / EVALUATIONS_FOLDER
    return root / checkpoint_digest(checkpoint, digests_folder=root)[:12]


def checkpoint_digest(checkpoint: Path, *, digests_folder: Path) -> str:
    """sha256 over the names and bytes of the files that determine a checkpoint's answers; ModelError for other folders.

    File digests are cached in `digests_folder` by path, size and modification time.
    """
    digests = FileDigests(digests_folder)
    digest = digests.combined_digest(checkpoint, list_checkpoint_files(checkpoint))
    digests.save()
    return digest


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerCache:
    """One checkpoint's raw answers to one task's questions in one wording."""

    folder: Path | None
    """None stores nothing."""
    header: Mapping[str, Any]
    """The file's first line: `task`, `version`, `style`, and `questions`, the digest of the questions."""

    @property
    def file(self) -> Path | None:
        """The file, named after everything that the answers depend on except the checkpoint; None if none is stored."""
        name = "{task}-v{version}-{style}-{questions:.12}.jsonl".format_map(self.header)
        return self.folder and self.folder / name

    def read(self) -> dict[AnswerKey, RawAnswer]:
        """All stored answers, without an incomplete last line of a killed process; DamagedAnswers for other damage."""
        if self.file is None or not os.path.lexists(self.file):
            return {}
        try:
            check_regular(self.file)
        except DataError as error:
            raise DamagedAnswers(f"{self.file}: wanted stored answers. {error} Delete it to evaluate again.") from error
        lines = self.file.read_bytes().split(b"\n")[:-1]
        rows = [_parse_row(line, f"{self.file}:{number}") for number, line in enumerate(lines, start=1) if line]
        if rows and rows[0] != dict(self.header):
            raise DamagedAnswers(f"{self.file}: wanted answers to {dict(self.header)}. Got {rows[0]}. Delete the file.")
        answers = dict[AnswerKey, RawAnswer]()
        for row in rows[1:]:
            if row.keys() != _ROW_KEYS or row["sha256"] != self._digest(row):
                raise DamagedAnswers(
                    f"{self.file}: a line is not as it was stored: {str(row)[:80]}. Delete the file to evaluate again."
                )
            raw = RawAnswer(row["answer"], tuple(row["log_likelihoods"]), tuple(row["samples"]))
            answers[row["id"], row["blind"]] = raw
        return answers

    def _digest(self, row: Mapping[str, Any]) -> str:
        """The digest of an answer and of what it answers, in 16 hexadecimal digits."""
        content = [dict(self.header), {key: value for key, value in row.items() if key != "sha256"}]
        return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def _answer_line(self, key: AnswerKey, answer: RawAnswer) -> str:
        likelihoods, samples = answer.log_likelihoods, answer.samples
        row = {"id": key[0], "blind": key[1], "answer": answer.text, "log_likelihoods": likelihoods, "samples": samples}
        return _json_line(row | {"sha256": self._digest(row)})

    def write(self, answers: Mapping[AnswerKey, RawAnswer]) -> None:
        """Replace the file by these answers."""
        if self.file is not None:
            lines = [_json_line(self.header), *(self._answer_line(key, answer) for key, answer in answers.items())]
            write_atomic(self.file, "".join(lines))

    @contextmanager
    def appender(self) -> Iterator[Callable[[AnswerKey, RawAnswer], object]]:
        """A function that appends an answer and flushes it; an incomplete last line is removed first.

        RequestError while another process appends to the same file.
        """
        if self.file is None:
            yield lambda key, answer: None
            return
        with file_lock(self.file, is_blocking=False) as is_locked:
            if not is_locked:
                raise RequestError(f"{self.file}: another run is answering the questions. Wait for it, then try again.")
            size = self.file.read_bytes().rfind(b"\n") + 1
            with self.file.open("a", encoding="utf-8", buffering=1) as stream:
                stream.truncate(size)
                if not size:
                    stream.write(_json_line(self.header))
                yield lambda key, answer: stream.write(self._answer_line(key, answer))


def _json_line(values: Mapping[str, Any]) -> str:
    return json.dumps(dict(values)) + "\n"


def _parse_row(line: bytes, path: str) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except (ValueError, TypeError) as error:
        raise DamagedAnswers(
            f"{path}: wanted a stored answer. Got {error}. Delete the file to evaluate again."
        ) from error


def questions_digest(values: Iterable[Any]) -> str:
    """sha256 over CACHE_FORMAT and JSON values, in order: all that a file depends on except the checkpoint."""
    hasher = sha256(f"{CACHE_FORMAT}\n".encode())
    for value in values:
        hasher.update(json.dumps(value).encode() + b"\n")
    return hasher.hexdigest()
