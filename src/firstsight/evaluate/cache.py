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

from firstsight.data.digests import Digests, write_whole
from firstsight.errors import DataError, ModelError, RequestError

FOLDER = "judged"
_DIGITS = 12
_READ = (".safetensors", ".bin", ".json", ".jinja", ".txt", ".model", ".py")
"""Endings of what a transformers folder is made of."""
_BESIDE = ("optimizer", "training_args", "trainer_state", "scheduler")
"""What training leaves beside a model; no answer hangs on it."""

Key = tuple[str, bool]
"""A question's id, and whether it was asked blind."""


def home(out: Path, checkpoint: Path) -> Path:
    """The folder under `out` of everything that was judged of a checkpoint; it need not be there yet."""
    return out / FOLDER / digest(checkpoint, memory=out / FOLDER)[:_DIGITS]


def digest(checkpoint: Path, *, memory: Path) -> str:
    """sha256 over the names and bytes of the files that a checkpoint's answers hang on; ModelError where it is none.

    What a file's bytes come to is remembered in `memory` by place, size and time of change.
    """
    known = Digests(memory)
    found = known.of_all(checkpoint, content(checkpoint))
    known.keep()
    return found


def content(checkpoint: Path) -> list[Path]:
    """The files that a checkpoint's answers hang on, by name: of firstsight (spec.json) or transformers (config.json).

    Optimizer states, logs and ledgers are left out. Raises ModelError for a folder that is neither.
    """
    if (checkpoint / "spec.json").is_file():
        told = [checkpoint / "spec.json", checkpoint / "tokenizer.json", *checkpoint.glob("model*.safetensors*")]
        return sorted(file for file in (*told, *checkpoint.glob("encoder[0-9]*/*")) if file.is_file())
    if (checkpoint / "config.json").is_file():
        held = (file for file in checkpoint.iterdir() if file.suffix in _READ and file.is_file())
        return sorted(file for file in held if not file.name.startswith(_BESIDE))
    there = sorted(path.name for path in checkpoint.iterdir())[:5] if checkpoint.is_dir() else []
    raise ModelError(
        f"{checkpoint}: wanted a checkpoint: a folder with spec.json (firstsight) or config.json (transformers). "
        f"Got {', '.join(there) or 'nothing'}. Name what a training step left, or a downloaded model's folder."
    )


@contextmanager
def held(file: Path, *, wait: bool) -> Generator[None, None, None]:
    """Hold the right to write what `file` stands for; RequestError if somebody else does and nobody is to wait."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RequestError(f"{file}: another run is asking these questions. Wait for it, then try again.") from None
        yield


@dataclass(frozen=True, kw_only=True, slots=True)
class Sheet:
    """One checkpoint's raw answers to one task's questions in one wording; None keeps nothing."""

    folder: Path | None
    head: Mapping[str, Any]
    """What was asked: `task`, `version`, `style`, and `questions`, their digest."""

    @property
    def file(self) -> Path | None:
        """Named after all that an answer hangs on beside the checkpoint."""
        if self.folder is None:
            return None
        head = self.head
        return self.folder / f"{head['task']}-v{head['version']}-{head['style']}-{head['questions'][:_DIGITS]}.jsonl"

    def read(self) -> dict[Key, str]:
        """Every answer that is kept; a last line that a kill cut short is none. DataError for a line that is none."""
        if self.file is None or not self.file.is_file():
            return {}
        whole = self.file.read_bytes().rpartition(b"\n")[0].split(b"\n")
        rows = [_row(line, f"{self.file}:{number}") for number, line in enumerate(whole, start=1) if line]
        if rows and rows[0] != dict(self.head):
            raise DataError(f"{self.file}: wanted answers to {dict(self.head)}. Got {rows[0]}. Delete the file.")
        if any(row.keys() != {"id", "blind", "answer"} for row in rows[1:]):
            raise DataError(f"{self.file}: a line is no kept answer. Delete the file to ask anew.")
        return {(row["id"], row["blind"]): row["answer"] for row in rows[1:]}

    def put(self, answers: Mapping[Key, str]) -> None:
        """All answers at once, in place of those that were there."""
        if self.file is not None:
            told = [{"id": name, "blind": blind, "answer": answer} for (name, blind), answer in answers.items()]
            write_whole(self.file, "".join(json.dumps(row) + "\n" for row in (dict(self.head), *told)))

    @contextmanager
    def writing(self) -> Generator[Callable[[Key, str], None], None, None]:
        """Gives what appends an answer, each at once; what a kill cut short is taken away first."""
        if self.file is None:
            yield lambda key, answer: None
            return
        with held(self.file, wait=False):
            whole = self.file.read_bytes().rpartition(b"\n")
            with self.file.open("r+b") as old:
                old.truncate(len(whole[0]) + len(whole[1]))
            with self.file.open("a", encoding="utf-8", buffering=1) as lines:
                if not whole[0]:
                    lines.write(json.dumps(dict(self.head)) + "\n")
                yield lambda key, answer: _append(lines, key, answer)


def _append(lines: Any, key: Key, answer: str) -> None:
    lines.write(json.dumps({"id": key[0], "blind": key[1], "answer": answer}) + "\n")


def _row(line: bytes, where: str) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: wanted a kept answer. Got {error}. Delete the file to ask anew.") from error


def questions_digest(asked: Iterable[Any]) -> str:
    """sha256 over whatever was asked, in order; values that JSON can hold."""
    found = sha256()
    for one in asked:
        found.update(json.dumps(one).encode() + b"\n")
    return found.hexdigest()
