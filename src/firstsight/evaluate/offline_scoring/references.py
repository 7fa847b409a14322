"""Which of the files given as references are the benchmark's, and which are the questions a model was asked."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.offline_scoring.answer_files import AnswerRecord, check_file_format, load_answer_json
from firstsight.evaluate.task import Question, Task, benchmark_files
from firstsight.evaluate.tasks import TASKS

_TRUTH_KEYS = ("label", "answer", "answers", "gold", "target", "ground_truth", "bbox", "box")
_HARNESS_INDEX = re.compile(r'\s*\{\s*"-?\d+"\s*:\s*\{\s*"question_id"')
_HARNESS_INDEX_KEYS = ("question", "img_path")
_FIRST_ENTRY_CHARS = 2000
"""Letters in which the first entry of such an index names its keys."""
_QUESTION_KEYS = (("question_id",), ("image", "img_path"), ("text", "question"), ("category", "split"))
_MAX_HEAD_BYTES = 1 << 16
"""Bytes read to tell what a file is; question files have one short object a line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class References:
    """A benchmark's questions, and what a model's question files say of the ids of its answers."""

    questions: tuple[Question, ...]
    question_records: dict[str, AnswerRecord]
    benchmark_files: tuple[Path, ...]
    """The benchmark's own."""


def read_references(paths: Sequence[Path], task: Task) -> References:
    """The references of `task`; a folder stands for its data files. DataError names a file that is neither kind."""
    reference_files = [file for path in paths for file in (_list_files(path, task) if path.is_dir() else (path,))]
    question_records: dict[str, AnswerRecord] = {}
    benchmark_files: list[Path] = []
    for path in reference_files:
        if _is_question_file(path):
            question_records |= _read_question_file(path)
        else:
            benchmark_files.append(path)
    if not benchmark_files:
        names = ", ".join(path.name for path in reference_files) or "no files"
        raise DataError(
            f"{names}: wanted {task.name}'s own files, with the right answers. Got only the questions that a model was "
            "asked. Add the benchmark's files."
        )
    # What a variant adds to the prompt is not needed to score what was answered.
    base_task = TASKS[task.variant_of] if task.variant_of is not None and task.answer_type == "words" else task
    questions = base_task.read_questions(benchmark_files)
    if not questions:
        names = ", ".join(path.name for path in benchmark_files)
        raise DataError(f"{names}: wanted {task.name}'s questions. Got none. Is the file complete?")
    return References(questions=questions, question_records=question_records, benchmark_files=tuple(benchmark_files))


def _list_files(folder: Path, task: Task) -> Sequence[Path]:
    """A folder's own files; the folders in it may be of other tasks or splits."""
    subfolders = sorted({path.parent for path in folder.glob("*/*.json*")})
    if subfolders and not any(path.is_file() for path in folder.iterdir()):
        names = ", ".join(path.name for path in subfolders)
        raise DataError(
            f"{folder}: wanted {task.name}'s own files. Got folders: {names}. Give the one that holds them."
        )
    return benchmark_files(folder)


def _is_question_file(path: Path) -> bool:
    """JSON lines in LLaVA's form, an id, a picture, a text and no right answer; or the index of the paper's harness."""
    check_file_format(path)
    first = _first_line(path)
    if _HARNESS_INDEX.match(first):
        return all(f'"{key}"' in first[:_FIRST_ENTRY_CHARS] for key in _HARNESS_INDEX_KEYS)
    try:
        record = json.loads(first)
    except json.JSONDecodeError:
        return False
    return (
        isinstance(record, dict) and {"question_id", "text"} <= record.keys() and not set(_TRUTH_KEYS) & record.keys()
    )


def _first_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            is_gzip = file.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if is_gzip else path.open("rb") as file:
            return file.readline(_MAX_HEAD_BYTES).decode("utf-8-sig", errors="replace")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: wanted a text file, plain or gzip. Got: {error}. Fetch it again.") from error


def _read_question_file(path: Path) -> dict[str, AnswerRecord]:
    """Each id with its picture, words and split; of an id that stands for several, what they have in common.

    TextVQA's ids are pictures', which have several questions: there an answer's own prompt tells them apart.
    """
    question_records: dict[str, AnswerRecord] = {}
    content = load_answer_json(path)
    rows = list(content.values()) if isinstance(content, dict) else content
    for number, record in enumerate(rows, start=1):
        location = f"{path.name}:{number}"
        if not isinstance(record, dict):
            raise DataError(f"{location}: wanted a question as an object. Got {json.dumps(record)[:80]}.")
        question_id, image, text, split = (str(_first_value(record, keys)) for keys in _QUESTION_KEYS)
        question_record = AnswerRecord(
            id=question_id,
            answer="",
            image=image,
            prompt=text,
            split=split,
            true_box=(),
            file=path.name,
            location=location,
        )
        question_records[question_id] = (
            _common_fields(question_records[question_id], question_record)
            if question_id in question_records
            else question_record
        )
    return question_records


def _first_value(record: dict[str, Any], keys: Sequence[str]) -> Any:
    return next((record[key] for key in keys if key in record), "")


def _common_fields(first: AnswerRecord, second: AnswerRecord) -> AnswerRecord:
    image = first.image if first.image == second.image else ""
    prompt = first.prompt if first.prompt == second.prompt else ""
    return replace(first, image=image, prompt=prompt, split=first.split if first.split == second.split else "")
