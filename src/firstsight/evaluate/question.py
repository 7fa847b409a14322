"""What a benchmark is made of: questions, and the task that asks and checks them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from firstsight.errors import DataError

Kind = Literal["vision", "text"]
Style = Literal["bare", "paper"]
"""How a question is worded: on its own (the built-in world knows no more words), or as the paper's harness does."""
Truth = str | int | tuple[str, ...] | tuple[float, ...]
"""A word, the number of the right choice, all annotators' answers, or a box (left, top, right, bottom) in [0, 1]."""
Check = Callable[[str, Truth], float]

QUESTION_BLIND = "question_blind.json"
"""Question id to the answer of the best guesser that does not read the question; beside the benchmark's own files."""
_TAGS = ("form", "combination")


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question of a benchmark, as its own files give it."""

    id: str
    """Unique within the task."""
    text: str
    truth: Truth
    image: str | None
    """The picture's name in the benchmark's files; None for text."""
    choices: tuple[str, ...]
    split: str
    """Scores are means over splits of means over questions; only POPE has more than one."""
    tags: Mapping[str, str]
    """Held out or seen, by what: {"form": "heldout", "combination": "seen"}; empty for benchmarks that do not say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """Records + wording + answer check; equal names and versions mean equal numbers."""

    name: str
    kind: Kind
    metric: str
    check: Check
    chance: float
    """What guessing without reading the question scores."""
    baseline: float | None
    """What the stable score subtracts, as the authors set it; None keeps the task out of it. Source: paper 5.1."""
    read: Callable[[Path], tuple[Question, ...]]
    """From the task's folder; DataError names the file and record that is not in the benchmark's form."""
    wording: Mapping[Style, str]
    """A template with {q} for each style."""
    version: int

    def prompt(self, question: Question, style: Style) -> str:
        """The words that the model reads."""
        return self.wording[style].replace("{q}", question.text)


def tags(record: Mapping[str, Any]) -> dict[str, str]:
    """What a record says about being held out."""
    return {key: str(record[key]) for key in _TAGS if key in record}


def find(folder: Path, pattern: str) -> Path:
    """The one file in `folder` whose name matches, the guesser's answers aside; plain or gzip."""
    found = sorted(path for path in folder.glob(pattern) if path.is_file() and path.name != QUESTION_BLIND)
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise DataError(f"{folder}: wanted one file like {pattern}. Got {names}. Keep one benchmark split to a folder.")
    return found[0]


def load(path: Path) -> Any:
    """A JSON file, plain or gzip."""
    return _parsed(_text(path), str(path))


def lines(path: Path) -> list[dict[str, Any]]:
    """A file of one JSON object a line (or, as older tools write it, one list), plain or gzip."""
    text = _text(path)
    if text.lstrip().startswith("["):
        return _parsed(text, str(path))
    rows = enumerate(text.split("\n"), start=1)
    return [_parsed(row, f"{path}:{number}") for number, row in rows if row.strip()]


def take(record: Any, key: str, where: Path) -> Any:
    """`record[key]`, or a DataError that shows the record."""
    if not isinstance(record, dict) or key not in record:
        shown = json.dumps(record)[:120]
        raise DataError(f"{where}: a record lacks {key!r}: {shown}. Is this the benchmark's original file?")
    return record[key]


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: wanted a text file, plain or gzip. Got: {error}.") from error


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: wanted JSON. Got: {error}.") from error
