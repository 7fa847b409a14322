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

TaskKind = Literal["vision", "text"]
PromptStyle = Literal["bare", "paper"]
"""How a question is worded: on its own (the built-in world knows no more words), or as the paper's harness does."""
AnswerType = Literal["words", "choice"]
"""In the model's own words, or by the likeliest of the question's choices."""

QUESTION_BLIND = "question_blind.json"
"""Question id to the answer of the best guesser that does not read the question; beside the benchmark's own files."""
_TAG_NAMES = ("form", "combination", "domain")
_GZIP = b"\x1f\x8b"
_DATA_SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
_UNRELATED_FILE = re.compile(r"\.|readme|license|(question_blind|task)\.json$", re.IGNORECASE)
"""Names of a folder's files that are none of the benchmark's."""
_PICKLE_SUFFIXES = (".p", ".pkl", ".pickle")


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
class PublishedVersion:
    """A version of a benchmark that its makers gave out, known by how many questions it has."""

    name: str
    split_sizes: Mapping[str, int]
    """Questions by split; {"": n} where there are no splits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """Records + wording + answer check; equal names and versions mean equal numbers."""

    name: str
    kind: TaskKind
    answer_type: AnswerType
    metric: Metric
    chance: float
    """What guessing without reading the question scores."""
    baseline: float | None
    """What the stable score subtracts, as the authors set it; None keeps the task out of it. Source: paper 5.1."""
    read_questions: Callable[[Sequence[Path]], tuple[Question, ...]]
    """From the benchmark's own files, in any order; DataError names the file and record that is not in its form."""
    prompt_templates: Mapping[PromptStyle, str]
    """A template with {q} for each style."""
    version: int
    """Raised when the same answers to the same files would get another score, or the same question other words."""
    published: tuple[PublishedVersion, ...] = ()
    """What the benchmark's files may be; the first is the one that is wanted. Never enforced: see version_of."""
    variant_of: str | None = None
    """The task whose files this one reads, unless its own folder is there."""
    count_skipped: Callable[[Sequence[Path]], Mapping[str, int]] | None = None
    """Questions of the files that `read` passes by: how many, by why. None where it reads every one."""

    def folder(self, benchmarks_path: Path) -> Path:
        """The folder of its files: its own, or that of the task whose variant it is. It need not be there."""
        task_folder = benchmarks_path / self.name
        return benchmarks_path / self.variant_of if self.variant_of and not task_folder.is_dir() else task_folder

    def prompt(self, question: Question, style: PromptStyle) -> str:
        """The words that the model reads."""
        return self.prompt_templates[style].replace("{q}", question.text)


def describe_version(task: Task, questions: Sequence[Question]) -> str:
    """Which published version these questions are, or that they are none: for people, before a score is believed."""
    split_sizes = Counter(question.split for question in questions)
    size_text = f"{len(questions):,} question{'' if len(questions) == 1 else 's'}"
    if not task.published:
        return size_text
    preferred = task.published[0]
    equal_names = [version.name for version in task.published if split_sizes == version.split_sizes]
    superset_names = [version.name for version in task.published if split_sizes.items() < version.split_sizes.items()]
    if preferred.name in equal_names:
        return f"{size_text}: {preferred.name}"
    if equal_names:
        return f"{size_text}: {' or '.join(equal_names)}, not {preferred.name}"
    if superset_names:
        return f"{size_text}: only the split {' and '.join(sorted(split_sizes))} of {' or '.join(superset_names)}"
    return f"{size_text}: no published version; {preferred.name} has {sum(preferred.split_sizes.values()):,}"


def record_tags(record: Mapping[str, Any]) -> dict[str, str]:
    """What a record says about its sort."""
    return {key: str(record[key]) for key in _TAG_NAMES if key in record}


def benchmark_files(folder: Path) -> tuple[Path, ...]:
    """The benchmark's own files in a task's folder: JSON or JSON lines, plain or gzip; not what lies beside them."""
    paths = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    data_paths = tuple(
        path for path in paths if path.name.endswith(_DATA_SUFFIXES) and not _UNRELATED_FILE.match(path.name)
    )
    if not data_paths:
        file_names = ", ".join(path.name for path in paths) or "none"
        pickle_note = (
            "; a pickle can run code and is not opened"
            if any(path.suffix in _PICKLE_SUFFIXES for path in paths)
            else ""
        )
        raise DataError(
            f"{folder}: wanted the benchmark's files (.json, .jsonl, .gz of them). Got {file_names}{pickle_note}. Add them."
        )
    return data_paths


def single_file(paths: Sequence[Path], description: str) -> Path:
    """The one file of a benchmark that keeps everything in one."""
    if len(paths) != 1:
        names = ", ".join(path.name for path in paths) or "none"
        raise DataError(
            f"{_folder_name(paths)}: wanted one file, {description}. Got {names}. Keep one benchmark split to a folder."
        )
    return paths[0]


def _folder_name(paths: Sequence[Path]) -> str:
    return str(paths[0].parent) if paths else "the files"


def load_json(path: Path) -> Any:
    """A JSON file, plain or gzip; a file of one JSON object a line is a list of them."""
    return parse_json_text(read_text_file(path), path)


def parse_json_text(text: str, path: Path) -> Any:
    """What the text of a file says; DataError names the file, and the line where it is one of many."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        # JSON lines are JSON up to the end of the first line, and more after it.
        if error.msg == "Extra data" and "\n" in text[: error.pos + 1]:
            return _parse_json_lines(text, path)
        raise DataError(f"{path}: wanted JSON. Got: {error}. Was the file cut short?") from error


def load_json_records(path: Path) -> list[dict[str, Any]]:
    """A file of one JSON object a line (or, as older tools write it, one list), plain or gzip."""
    content = load_json(path)
    rows = [content] if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise DataError(f"{path}: wanted records. Got {_preview(content)}. Is this the benchmark's own file?")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{path}: record {number} is no object: {_preview(row)}. Is this the benchmark's own file?")
    return rows


def require_key(record: Any, key: str, location: Path | str) -> Any:
    """`record[key]`, or a DataError that shows the record."""
    if not isinstance(record, dict) or key not in record:
        raise DataError(
            f"{location}: a record lacks {key!r}: {_preview(record)}. Is this the benchmark's original file?"
        )
    return record[key]


def _preview(record: Any) -> str:
    return json.dumps(record, ensure_ascii=False)[:120]


def _parse_json_lines(text: str, path: Path) -> list[Any]:
    # Not splitlines(): a text may hold characters that end a line elsewhere.
    return [
        _parse_json_line(row, f"{path}:{line_number}")
        for line_number, row in enumerate(text.split("\n"), start=1)
        if row.strip()
    ]


def _parse_json_line(text: str, location: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{location}: wanted one JSON object a line. Got: {error}. Was the file cut short?") from error


def read_text_file(path: Path) -> str:
    """The text of a file, plain or gzip."""
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if data.startswith(_GZIP) else data).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"{path}: wanted a text file, plain or gzip. Got: {error}. Fetch it again.") from error
