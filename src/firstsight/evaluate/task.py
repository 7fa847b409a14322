"""Questions and tasks of benchmarks, their files, and the image names that questions use."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from firstsight.data.compression import open_unpacked
from firstsight.data.file_types import (
    DATASETS_METADATA,
    FileType,
    file_type,
    is_documentation,
    known_endings,
    no_data_reason,
    uncompressed_ending,
    unread_reason,
)
from firstsight.data.records import Notices
from firstsight.errors import DataError
from firstsight.evaluate.metrics.metric import Metric, Truth
from firstsight.limits import parse_json, read_all

TaskKind = Literal["vision", "text"]
PromptStyle = Literal["bare", "paper"]
"""The prompt: the question alone (synthetic vocabularies have no other words), or worded as in the paper's harness."""
AnswerType = Literal["words", "choice"]
"""Generated text, or the likeliest of the question's choices."""

TAGS = ("combination", "domain")
"""Optional keys of a record and of an answer: the question's categories."""

QUESTION_BLIND = "question_blind.json"
"""In a task's folder: {question id: answer} of the best guesser that does not read the question."""
TASK_FILE = "task.json"
"""In the folder of a user's own task: its definition."""
_REFEXP_ADVICE = (
    "Google RefExp's tables have expressions without boxes, which are in google_refexp_val_201511_coco_aligned.json"
)
_OWN_FILES = (QUESTION_BLIND, TASK_FILE, "images.tar")
"""Files in a task's folder that are not the benchmark's questions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question of a benchmark."""

    id: str
    text: str
    truth: Truth
    image: str | None = None
    """The image's name in the benchmark's files; None for text tasks."""
    choices: tuple[str, ...] = ()
    split: str = ""
    """Scores are means over splits of means over questions; only POPE has more than one."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Categories to score apart: {"combination": "heldout"}, NoCaps' {"domain": "near-domain"}."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """File reader, prompt and metric of a benchmark; equal names and versions mean equal scores."""

    name: str
    kind: TaskKind
    answer_type: AnswerType
    metric: Metric
    chance: float
    """The score of guessing without reading the question."""
    baseline: float | None
    """What the stable score subtracts, as set by the authors; None leaves the task out of it. Source: paper 5.1."""
    read_questions: Callable[[Sequence[Path]], tuple[Question, ...]]
    """The questions in the benchmark's files, given in any order; DataError names a malformed file and record."""
    prompt_templates: Mapping[PromptStyle, str]
    """A template with {q} for the question, by style."""
    version: int
    """Increased when the same answers to the same files would get another score, or a question another prompt."""
    published: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Questions by split ("" without splits) of each published version, the preferred one first; only reported."""
    variant_of: str | None = None
    """The task whose files this one reads, unless it has a folder of its own."""
    count_skipped: Callable[[Sequence[Path]], Mapping[str, int]] | None = None
    """The number of questions that `read_questions` leaves out, by reason. None where it leaves out none."""
    reading_notes: Callable[[Sequence[Path]], Sequence[str]] | None = None
    """Lines about questions that are read otherwise than the files have them."""

    def folder(self, benchmarks_path: Path) -> Path:
        """The folder of its files: its own, or without that the one of `variant_of`. It need not exist."""
        task_folder = benchmarks_path / self.name
        return benchmarks_path / self.variant_of if self.variant_of and not task_folder.is_dir() else task_folder

    def prompt(self, question: Question, style: PromptStyle) -> str:
        """The prompt for a question."""
        return self.prompt_templates[style].replace("{q}", question.text)


def describe_version(task: Task, questions: Sequence[Question]) -> str:
    """A sentence for readers of a score: the number of questions, and which published version that is, if any."""
    split_sizes = Counter(question.split for question in questions)
    size_text = f"{len(questions):,} question{'' if len(questions) == 1 else 's'}"
    if not task.published:
        return size_text
    preferred = next(iter(task.published))
    equal_names = [name for name, sizes in task.published.items() if split_sizes == sizes]
    superset_names = [name for name, sizes in task.published.items() if split_sizes.items() < sizes.items()]
    if preferred in equal_names:
        return f"{size_text}: {preferred}"
    if equal_names:
        return f"{size_text}: {' or '.join(equal_names)}, not {preferred}"
    if superset_names:
        return f"{size_text}: only the split {' and '.join(sorted(split_sizes))} of {' or '.join(superset_names)}"
    return f"{size_text}: no published version; {preferred} has {sum(task.published[preferred].values()):,}"


def record_tags(record: Mapping[str, Any]) -> dict[str, str]:
    """The categories of a record; see Question.tags."""
    return {key: str(record[key]) for key in TAGS if key in record}


def benchmark_files(folder: Path) -> tuple[Path, ...]:
    """The benchmark's files in a task's folder: JSON or JSON lines, plain or compressed; DataError without any."""
    paths = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    data_paths = select_data_files(folder, paths, types=("json",), notices=Notices())
    if not data_paths:
        names = ", ".join(path.name for path in paths) or "none"
        if any(path.suffix in (".p", ".pkl", ".pickle") for path in paths):
            names += "; a pickle can run code and is not opened"
        names += f"; {_REFEXP_ADVICE}" if any(_is_refexp_table(path) for path in paths) else ""
        raise DataError(f"{folder}: wanted the benchmark's files ({known_endings(('json',))}). Got {names}. Add them.")
    return tuple(data_paths)


def unread_file_notes(folder: Path, *, types: Collection[FileType] = ("json",), pattern: str = "*") -> tuple[str, ...]:
    """One line with the files of a task's folder that are not read, by reason; none where all are."""
    notices = Notices()
    select_data_files(folder, [path for path in folder.glob(pattern) if path.is_file()], types=types, notices=notices)
    return (f"{folder}: not read: {notices.describe()}",) if notices.entries else ()


def select_data_files(
    folder: Path, paths: Sequence[Path], *, types: Collection[FileType], notices: Notices
) -> list[Path]:
    """Those of `paths` below `folder` that have data of `types`; others that are not firstsight's own are counted."""
    data_paths: list[Path] = []
    for path in sorted(path for path in paths if path.name not in _OWN_FILES):
        name = path.relative_to(folder).as_posix()
        reason = no_data_reason(name) or ("" if file_type(name) in types else unread_reason(name))
        reason = reason or ("documentation" if is_documentation(name) else "")
        if reason or path.name in DATASETS_METADATA:
            notices.add(reason or f"metadata {path.name}", name)
        else:
            data_paths.append(path)
    return data_paths


def single_file(paths: Sequence[Path], description: str) -> Path:
    """The file of a benchmark that has only one; DataError for none or several."""
    if len(paths) != 1:
        folder, names = paths[0].parent if paths else "the files", ", ".join(path.name for path in paths) or "none"
        raise DataError(f"{folder}: wanted one file, {description}. Got {names}. Keep one split per folder.")
    return paths[0]


def _is_refexp_table(path: Path) -> bool:
    return uncompressed_ending(path.name) in (".csv", ".tsv") and "refexp" in path.name.lower()


def load_json(path: Path) -> Any:
    """The content of a JSON file, plain or compressed; a list for a file of JSON lines."""
    if _is_refexp_table(path):
        raise DataError(f"{path}: wanted JSON. Got a table; {_REFEXP_ADVICE}.")
    return parse_json_text(read_text_file(path), path)


def parse_json_text(text: str, path: Path) -> Any:
    """The value of JSON text, a list for JSON lines; DataError names the file, and the line where there are several."""
    try:
        return parse_json(text, path)
    except json.JSONDecodeError as error:
        # JSON lines are valid JSON up to the end of the first line.
        if error.msg == "Extra data" and "\n" in text[: error.pos + 1]:
            # Not splitlines(), which also splits at characters that a string may contain.
            lines = enumerate(text.split("\n"), start=1)
            return [_parse_json_line(line, f"{path}:{number}") for number, line in lines if line.strip()]
        raise DataError(f"{path}: wanted JSON. Got: {error}. Was the file cut short?") from error


def _parse_json_line(text: str, location: str) -> Any:
    try:
        return parse_json(text, location)
    except json.JSONDecodeError as error:
        raise DataError(f"{location}: wanted a JSON object per line. Got: {error}. Was the file cut short?") from error


def load_json_records(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines (or of one JSON list, as older tools write), plain or compressed."""
    content = load_json(path)
    rows = [content] if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise DataError(f"{path}: wanted records. Got {_preview(content)}. Is this the benchmark's own file?")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(
                f"{path}: record {number} is not an object: {_preview(row)}. Is this the benchmark's own file?"
            )
    return rows


def require_key(record: Any, key: str, path: Path | str) -> Any:
    """`record[key]`, or a DataError that shows the record."""
    if not isinstance(record, dict) or key not in record:
        raise DataError(f"{path}: a record lacks {key!r}: {_preview(record)}. Is this the benchmark's original file?")
    return record[key]


def _preview(record: Any) -> str:
    return json.dumps(record, ensure_ascii=False)[:120]


def read_text_file(path: Path) -> str:
    """The text of a file, plain or compressed; LimitExceeded for a larger one than the limit `file`."""
    try:
        with open_unpacked(path) as stream:
            return read_all(stream, path, "file").decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: wanted a text file, plain or compressed. Got: {error}. Fetch it again.") from error


_SUFFIX = re.compile(r"\.(?:jpe?g|png|webp|bmp|gif|tiff?)$", re.IGNORECASE)
_ANNOTATION_NAME = re.compile(r"(COCO_\w+?_\d{12})_\d+")
"""RefCOCO's names: COCO_train2014_000000580957_4 is annotation 4 of an image."""
_COCO_NUMBER = re.compile(r"(?:.*_)?0*(\d{12})|0*(\d+)")
_NUMBERED_NAME = re.compile(r"[A-Za-z]+_[A-Za-z]+\d*_(\d{8,12})(?:_\d+)?")
"""COCO_val2014_000000310196, also with an annotation's number, and VizWiz_val_00000012."""
_SERIES_NAME = re.compile(r"(?!COCO_)([A-Za-z]+_[A-Za-z]+\d*)_\d{8,12}")
"""COCO alone numbers its images over all splits."""


def image_stem(name: str) -> str:
    """A file name without folders and image suffix."""
    return _SUFFIX.sub("", name.strip().replace("\\", "/").rpartition("/")[2])


def strip_annotation_id(name: str) -> str:
    """A RefCOCO name without its annotation's number; other names are unchanged."""
    match = _ANNOTATION_NAME.fullmatch(name)
    return match[1] if match else name


def coco_number(stem: str) -> str:
    """COCO's number, 458752 for COCO_val2014_000000458752, 000000458752 and 458752; empty for other names."""
    match = _COCO_NUMBER.fullmatch(stem)
    return (match[1] or match[2]).lstrip("0") or "0" if match else ""


def image_series(name: str) -> str:
    """The prefix of a numbered image name, such as VizWiz_val; empty without a number and for COCO."""
    match = _SERIES_NAME.fullmatch(image_stem(name))
    return match[1] if match else ""


def normalize_image_name(name: str) -> str:
    """The stem of an image's name; its number without zeros for names of COCO and VizWiz and for numbers."""
    stem = image_stem(name)
    match = _NUMBERED_NAME.fullmatch(stem)
    number = match[1] if match else stem
    return number.lstrip("0") or "0" if number.isdecimal() else number
