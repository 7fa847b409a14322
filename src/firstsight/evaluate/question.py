"""What a benchmark is made of: questions, and the task that asks and checks them."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from firstsight.errors import DataError
from firstsight.evaluate.metrics.metric import Metric, Truth

Kind = Literal["vision", "text"]
Style = Literal["bare", "paper"]
"""How a question is worded: on its own (the built-in world knows no more words), or as the paper's harness does."""
Answered = Literal["words", "choice"]
"""In the model's own words, or by the likeliest of the question's choices."""

QUESTION_BLIND = "question_blind.json"
"""Question id to the answer of the best guesser that does not read the question; beside the benchmark's own files."""
_TAGS = ("form", "combination", "domain")
_GZIP = b"\x1f\x8b"
_ENDINGS = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
_BESIDE = re.compile(r"\.|readme|license|(question_blind|task)\.json$", re.IGNORECASE)
"""Names of a folder's files that are none of the benchmark's."""
_PICKLES = (".p", ".pkl", ".pickle")


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
    """What sort it is of, by what: {"form": "heldout", "combination": "seen"}, NoCaps' {"domain": "near-domain"}."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A version of a benchmark that its makers gave out, known by how many questions it has."""

    name: str
    counts: Mapping[str, int]
    """Questions by split; {"": n} where there are no splits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """Records + wording + answer check; equal names and versions mean equal numbers."""

    name: str
    kind: Kind
    answered: Answered
    metric: Metric
    chance: float
    """What guessing without reading the question scores."""
    baseline: float | None
    """What the stable score subtracts, as the authors set it; None keeps the task out of it. Source: paper 5.1."""
    read: Callable[[Sequence[Path]], tuple[Question, ...]]
    """From the benchmark's own files, in any order; DataError names the file and record that is not in its form."""
    wording: Mapping[Style, str]
    """A template with {q} for each style."""
    version: int
    """Raised when the same answers to the same files would get another score, or the same question other words."""
    published: tuple[Published, ...] = ()
    """What the benchmark's files may be; the first is the one that is wanted. Never enforced: see version_of."""
    variant: str | None = None
    """The task whose files this one reads, unless its own folder is there."""
    left_out: Callable[[Sequence[Path]], Mapping[str, int]] | None = None
    """Questions of the files that `read` passes by: how many, by why. None where it reads every one."""

    def home(self, benchmarks: Path) -> Path:
        """The folder of its files: its own, or that of the task whose variant it is. It need not be there."""
        own = benchmarks / self.name
        return benchmarks / self.variant if self.variant and not own.is_dir() else own

    def prompt(self, question: Question, style: Style) -> str:
        """The words that the model reads."""
        return self.wording[style].replace("{q}", question.text)


def version_of(task: Task, questions: Sequence[Question]) -> str:
    """Which published version these questions are, or that they are none: for people, before a score is believed."""
    held = Counter(question.split for question in questions)
    size = f"{len(questions):,} question{'' if len(questions) == 1 else 's'}"
    if not task.published:
        return size
    wanted = task.published[0]
    same = [one.name for one in task.published if held == one.counts]
    part = [one.name for one in task.published if held.items() < one.counts.items()]
    if wanted.name in same:
        return f"{size}: {wanted.name}"
    if same:
        return f"{size}: {' or '.join(same)}, not {wanted.name}"
    if part:
        return f"{size}: only the split {' and '.join(sorted(held))} of {' or '.join(part)}"
    return f"{size}: no published version; {wanted.name} has {sum(wanted.counts.values()):,}"


def tags(record: Mapping[str, Any]) -> dict[str, str]:
    """What a record says about its sort."""
    return {key: str(record[key]) for key in _TAGS if key in record}


def files(folder: Path) -> tuple[Path, ...]:
    """The benchmark's own files in a task's folder: JSON or JSON lines, plain or gzip; not what lies beside them."""
    found = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    held = tuple(path for path in found if path.name.endswith(_ENDINGS) and not _BESIDE.match(path.name))
    if not held:
        there = ", ".join(path.name for path in found) or "none"
        pickles = "; a pickle can run code and is not opened" if any(path.suffix in _PICKLES for path in found) else ""
        raise DataError(
            f"{folder}: wanted the benchmark's files (.json, .jsonl, .gz of them). Got {there}{pickles}. Add them."
        )
    return held


def single(given: Sequence[Path], what: str) -> Path:
    """The one file of a benchmark that keeps everything in one."""
    if len(given) != 1:
        names = ", ".join(path.name for path in given) or "none"
        raise DataError(f"{_home(given)}: wanted one file, {what}. Got {names}. Keep one benchmark split to a folder.")
    return given[0]


def _home(given: Sequence[Path]) -> str:
    return str(given[0].parent) if given else "the files"


def load(path: Path) -> Any:
    """A JSON file, plain or gzip; a file of one JSON object a line is a list of them."""
    return parsed(text_of(path), path)


def parsed(text: str, path: Path) -> Any:
    """What the text of a file says; DataError names the file, and the line where it is one of many."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        # JSON lines are JSON up to the end of the first line, and more after it.
        if error.msg == "Extra data" and "\n" in text[: error.pos + 1]:
            return _by_line(text, path)
        raise DataError(f"{path}: wanted JSON. Got: {error}. Was the file cut short?") from error


def lines(path: Path) -> list[dict[str, Any]]:
    """A file of one JSON object a line (or, as older tools write it, one list), plain or gzip."""
    held = load(path)
    rows = [held] if isinstance(held, dict) else held
    if not isinstance(rows, list):
        raise DataError(f"{path}: wanted records. Got {_shown(held)}. Is this the benchmark's own file?")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{path}: record {number} is no object: {_shown(row)}. Is this the benchmark's own file?")
    return rows


def take(record: Any, key: str, where: Path | str) -> Any:
    """`record[key]`, or a DataError that shows the record."""
    if not isinstance(record, dict) or key not in record:
        raise DataError(f"{where}: a record lacks {key!r}: {_shown(record)}. Is this the benchmark's original file?")
    return record[key]


def _shown(record: Any) -> str:
    return json.dumps(record, ensure_ascii=False)[:120]


def _by_line(text: str, path: Path) -> list[Any]:
    # Not splitlines(): a text may hold characters that end a line elsewhere.
    return [_line(row, f"{path}:{at}") for at, row in enumerate(text.split("\n"), start=1) if row.strip()]


def _line(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: wanted one JSON object a line. Got: {error}. Was the file cut short?") from error


def text_of(path: Path) -> str:
    """The text of a file, plain or gzip."""
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if data.startswith(_GZIP) else data).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"{path}: wanted a text file, plain or gzip. Got: {error}. Fetch it again.") from error
