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
from firstsight.evaluate.given.answers import Given, content_of, refuse_foreign
from firstsight.evaluate.question import Question, Task, files
from firstsight.evaluate.tasks import TASKS

_TRUTHS = ("label", "answer", "answers", "gold", "target", "ground_truth", "bbox", "box")
_INDEX = re.compile(r'\s*\{\s*"-?\d+"\s*:\s*\{\s*"question_id"')
_INDEXED = ("question", "img_path")
_ENTRY = 2000
"""Letters in which the first entry of such an index names its keys."""
_ASKED = (("question_id",), ("image", "img_path"), ("text", "question"), ("category", "split"))
_HEAD = 1 << 16
"""Bytes read to tell what a file is; question files have one short object a line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class References:
    """A benchmark's questions, and what a model's question files say of the ids of its answers."""

    questions: tuple[Question, ...]
    named: dict[str, Given]
    files: tuple[Path, ...]
    """The benchmark's own."""


def read(paths: Sequence[Path], task: Task) -> References:
    """The references of `task`; a folder stands for its data files. DataError names a file that is neither kind."""
    every = [file for path in paths for file in (_inside(path, task) if path.is_dir() else (path,))]
    named: dict[str, Given] = {}
    own: list[Path] = []
    for path in every:
        if _is_question_file(path):
            named |= _questions(path)
        else:
            own.append(path)
    if not own:
        names = ", ".join(path.name for path in every) or "no files"
        raise DataError(
            f"{names}: wanted {task.name}'s own files, with the right answers. Got only the questions that a model was "
            "asked. Add the benchmark's files."
        )
    # What a variant adds to the prompt is not needed to score what was answered.
    plain = TASKS[task.variant] if task.variant is not None and task.answered == "words" else task
    questions = plain.read(own)
    if not questions:
        names = ", ".join(path.name for path in own)
        raise DataError(f"{names}: wanted {task.name}'s questions. Got none. Is the file complete?")
    return References(questions=questions, named=named, files=tuple(own))


def _inside(folder: Path, task: Task) -> Sequence[Path]:
    """A folder's own files; the folders in it may be of other tasks or splits."""
    deeper = sorted({path.parent for path in folder.glob("*/*.json*")})
    if deeper and not any(path.is_file() for path in folder.iterdir()):
        names = ", ".join(path.name for path in deeper)
        raise DataError(
            f"{folder}: wanted {task.name}'s own files. Got folders: {names}. Give the one that holds them."
        )
    return files(folder)


def _is_question_file(path: Path) -> bool:
    """JSON lines in LLaVA's form, an id, a picture, a text and no right answer; or the index of the paper's harness."""
    refuse_foreign(path)
    first = _first_line(path)
    if _INDEX.match(first):
        return all(f'"{key}"' in first[:_ENTRY] for key in _INDEXED)
    try:
        record = json.loads(first)
    except json.JSONDecodeError:
        return False
    return isinstance(record, dict) and {"question_id", "text"} <= record.keys() and not set(_TRUTHS) & record.keys()


def _first_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            return file.readline(_HEAD).decode("utf-8-sig", errors="replace")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: wanted a text file, plain or gzip. Got: {error}. Fetch it again.") from error


def _questions(path: Path) -> dict[str, Given]:
    """Each id with its picture, words and split; of an id that stands for several, what they have in common.

    TextVQA's ids are pictures', which have several questions: there an answer's own prompt tells them apart.
    """
    named: dict[str, Given] = {}
    content = content_of(path)
    rows = list(content.values()) if isinstance(content, dict) else content
    for number, record in enumerate(rows, start=1):
        where = f"{path.name}:{number}"
        if not isinstance(record, dict):
            raise DataError(f"{where}: wanted a question as an object. Got {json.dumps(record)[:80]}.")
        name, image, text, split = (str(_first(record, keys)) for keys in _ASKED)
        one = Given(id=name, answer="", image=image, prompt=text, split=split, box=(), file=path.name, where=where)
        named[name] = _agreed(named[name], one) if name in named else one
    return named


def _first(record: dict[str, Any], keys: Sequence[str]) -> Any:
    return next((record[key] for key in keys if key in record), "")


def _agreed(first: Given, second: Given) -> Given:
    image = first.image if first.image == second.image else ""
    prompt = first.prompt if first.prompt == second.prompt else ""
    return replace(first, image=image, prompt=prompt, split=first.split if first.split == second.split else "")
