"""Reading of --references: the benchmark's own files, and the files of questions that a model was given.

Several files of one benchmark, such as its head and its tail, are parts of it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from firstsight.data.compression import open_unpacked
from firstsight.errors import DataError
from firstsight.evaluate.offline_scoring.answer_files import (
    AnswerRecord,
    check_file_format,
    load_answer_json,
    read_answer_records,
)
from firstsight.evaluate.offline_scoring.parts import other_set_ids, read_parts
from firstsight.evaluate.task import Question, Task, benchmark_files, normalize_image_name, unread_file_notes
from firstsight.evaluate.tasks import TASKS
from firstsight.limits import parse_json

_TRUTH_KEYS = ("label", "answer", "answers", "gold", "target", "ground_truth", "bbox", "box")
_HARNESS_INDEX = re.compile(r'\s*\{\s*"-?\d+"\s*:\s*\{\s*"(?:question|example)_id"')
_FIRST_ENTRY_CHARS = 2000
"""Characters at the start of such an index that contain the keys of its first entry."""
_QUESTION_KEYS = (
    *(("question_id", "example_id"), ("image", "img_path")),
    *(("text", "question", "ref_expression"), ("category", "split")),
)
_SIZED_IMAGE_KEYS = ("img_id", "image", "file_name", "scene_path")
_MAX_HEAD_BYTES = 1 << 16
"""Bytes read to recognise a question file, which has one short object per line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class References:
    """A benchmark's questions, and the entries of a model's question files by the ids of its answers."""

    questions: tuple[Question, ...]
    question_records: dict[str, AnswerRecord]
    benchmark_files: tuple[Path, ...]
    parts: Mapping[str, range]
    """Positions of the questions of each part; empty for a benchmark in one part."""
    notes: tuple[str, ...]
    """Lines about files that are not read, and about questions that are read otherwise than the files have them."""
    other_sets: Mapping[str, str]
    """Ids that the index of the paper's harness gives to another set, and that set: {"123": "RefCOCO+"}."""

    def image_sizes(self) -> Mapping[str, tuple[float, float]]:
        """Images' width and height by normalised name, if the benchmark's own files have them."""
        sizes: dict[str, tuple[float, float]] = {}
        for path in self.benchmark_files:
            content = load_answer_json(path)
            images = content.get("images") if isinstance(content, dict) else None  # COCO's and Google RefExp's forms
            rows = images.values() if isinstance(images, dict) else images
            for row in rows if rows is not None else (row for _, row in read_answer_records(path)):
                name, width, height = _first_value(row, _SIZED_IMAGE_KEYS), row.get("width"), row.get("height")
                if isinstance(name, str) and isinstance(width, int) and isinstance(height, int):
                    sizes[normalize_image_name(name)] = (float(width), float(height))
        return sizes


def read_references(paths: Sequence[Path], task: Task) -> References:
    """The references of `task`; of a folder all data files are read. DataError names files without right answers."""
    groups = {path: tuple(_list_files(path, task)) if path.is_dir() else (path,) for path in paths}
    files = [file for group in groups.values() for file in group]
    indexes = [path for path in files if _is_index(path, '"ref_expression"')]
    question_files = [path for path in files if _is_question_file(path)]
    # An index has the boxes rounded to hundredths, so that the benchmark's own files take precedence.
    question_files += indexes if len(indexes) < len(files) - len(question_files) else []
    groups = {path: tuple(file for file in group if file not in question_files) for path, group in groups.items()}
    own_files = tuple(file for group in groups.values() for file in group)
    if not own_files:
        names = ", ".join(path.name for path in files) or "no files"
        raise DataError(
            f"{names}: wanted {task.name}'s own files, with the right answers. Got only the questions that a model was "
            "given. Add the benchmark's files."
        )
    # A variant's additions to the prompt do not matter for the score of existing answers.
    base_task = TASKS[task.variant_of] if task.variant_of is not None and task.answer_type == "words" else task
    records = {key: record for path in question_files for key, record in _read_question_file(path).items()}
    names = Counter(path.name for path in groups)
    named = {path.name if names[path.name] == 1 else str(path): group for path, group in groups.items() if group}
    parts = read_parts(named, base_task.read_questions)
    ranges: dict[str, range] = {}
    for name, questions in parts.items():
        start = sum(map(len, ranges.values()))
        ranges[name] = range(start, start + len(questions))
    return References(
        questions=tuple(question for questions in parts.values() for question in questions),
        question_records=records,
        benchmark_files=own_files,
        parts=ranges if len(ranges) > 1 else {},
        notes=(
            *(note for path in paths if path.is_dir() for note in unread_file_notes(path)),
            *(base_task.reading_notes(own_files) if base_task.reading_notes else ()),
        ),
        other_sets={key: name for path in indexes for key, name in other_set_ids(path, task).items()},
    )


def _list_files(folder: Path, task: Task) -> Sequence[Path]:
    """The files directly in a folder, since its subfolders may be of other tasks or splits."""
    subfolders = sorted({path.parent.name for path in folder.glob("*/*.json*")})
    if subfolders and not any(path.is_file() for path in folder.iterdir()):
        names = ", ".join(subfolders)
        raise DataError(f"{folder}: wanted {task.name}'s own files. Got folders: {names}. Give the one that has them.")
    return benchmark_files(folder)


def _is_index(path: Path, key: str) -> bool:
    """Whether a file is an index of the paper's harness whose entries have `key`."""
    check_file_format(path)
    line = _first_line(path)
    return bool(_HARNESS_INDEX.match(line)) and all(name in line[:_FIRST_ENTRY_CHARS] for name in (key, '"img_path"'))


def _is_question_file(path: Path) -> bool:
    """Whether a file is LLaVA's JSON lines of id, image and text without a truth, or an index of questions."""
    if _is_index(path, '"question"'):
        return True
    try:
        record = parse_json(_first_line(path), path)
    except json.JSONDecodeError:
        return False
    return isinstance(record, dict) and {"question_id", "text"} <= record.keys() and not record.keys() & _TRUTH_KEYS


def _first_line(path: Path) -> str:
    try:
        with open_unpacked(path) as stream:
            return stream.readline(_MAX_HEAD_BYTES).decode("utf-8-sig", errors="replace")
    except OSError as error:
        raise DataError(f"{path}: wanted a text file, plain or compressed. Got: {error}. Fetch it again.") from error


def _read_question_file(path: Path) -> dict[str, AnswerRecord]:
    """Image, text and split by id; for an id with several questions, the fields that are equal in all of them.

    TextVQA's ids are those of images, which have several questions, so an answer's own prompt must identify them.
    """
    records: dict[str, AnswerRecord] = {}
    content = load_answer_json(path)
    for number, row in enumerate(content.values() if isinstance(content, dict) else content, start=1):
        location = f"{path.name}:{number}"
        if not isinstance(row, dict):
            raise DataError(f"{location}: wanted a question as an object. Got {json.dumps(row)[:80]}.")
        question_id, image, text, split = (str(_first_value(row, keys)) for keys in _QUESTION_KEYS)
        record = AnswerRecord(id=question_id, image=image, prompt=text, split=split, file=path.name, location=location)
        first = records.get(question_id, record)
        different = [key for key in ("image", "prompt", "split") if getattr(first, key) != getattr(record, key)]
        records[question_id] = replace(first, **dict.fromkeys(different, ""))
    return records


def _first_value(row: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((row[key] for key in keys if key in row), "")
