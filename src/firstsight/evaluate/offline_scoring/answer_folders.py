"""Which files of a folder are answers to a task; the others are passed over, and named.

Harnesses write summaries, logs and the answers to several tasks into one folder.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from firstsight.data.file_types import file_type, no_data_reason, uncompressed_ending

TABLE_SEPARATORS = {".csv": ",", ".tsv": "\t"}
"""Endings of tables, and their separators."""
_SAMPLES = re.compile(
    r"(?:^|_)samples_(?P<task>.+?)(?:_\d{4}-?\d{2}-?\d{2}T?[\d:.-]*)?\.jsonl?(?:\.\w+)?$", re.IGNORECASE
)
"""20240601_120000_samples_vqav2_val.jsonl of lmms-eval, samples_arc_easy_2024-06-01T12-00-00.123.jsonl of lm-eval."""
_SAMPLE_PREFIXES = {
    "refcoco": ("refcoco_", "refcoco-"),
    "refcoco_plus": ("refcoco+", "refcoco_plus", "refcocoplus"),
    "refcocog": ("refcocog",),
    "coco_captions": ("coco",),
    "textvqa_ocr": ("textvqa",),
    "pope_p": ("pope",),
}
"""What the names of a task's samples begin with, where it is not the task's own name."""
_COPIES = re.compile(r".*-formatted-predictions.*\.json")
"""The paper's harness writes its answers again for the official scripts, without punctuation."""
_ANSWERS, _SCORES = "answers.jsonl", "scores.json"
"""What `firstsight evaluate` writes; beside them are its raw answers and its record."""
_MAX_NAMES = 3


class AnswerFile(NamedTuple):
    """A file that may contain answers."""

    path: Path
    name: str
    """Relative to the folder that was given."""
    is_in_folder: bool
    """Whether a folder was given, whose other files are passed over, and not this file."""


@dataclass(kw_only=True, slots=True)
class PassedOver:
    """Names of files that were passed over, by reason."""

    names: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, reason: str, *names: str) -> None:
        """Record files of one reason."""
        if names:
            self.names[reason] += names

    def notes(self) -> list[str]:
        """A line for each reason."""
        return [f"{_count(names)} passed over, {reason}: {_some(names)}" for reason, names in self.names.items()]


def list_answer_files(paths: Sequence[Path], task: str, passed_over: PassedOver) -> list[AnswerFile]:
    """The files that may contain answers to `task`, of folders with their subfolders, sorted by name."""
    files: list[AnswerFile] = []
    for path in paths:
        if path.is_dir():
            files += _folder_files(path, task, passed_over)
        else:
            files.append(AnswerFile(path, path.name, is_in_folder=False))
    return files


def _folder_files(folder: Path, task: str, passed_over: PassedOver) -> list[AnswerFile]:
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    hidden = [name for name in names if no_data_reason(name)]
    others = [name for name in names if name not in set(hidden) and not _has_answer_ending(name)]
    passed_over.add("hidden", *hidden)
    passed_over.add("no JSON, JSON lines or table", *others)
    names = _drop(names, {*hidden, *others})
    evaluated = [name.removesuffix(_ANSWERS) for name in names if f"/{name}".endswith(f"/{_ANSWERS}")]
    evaluated = [parent for parent in evaluated if f"{parent}{_SCORES}" in names]
    beside = [
        name for name in names if any(name.startswith(parent) and name != f"{parent}{_ANSWERS}" for parent in evaluated)
    ]
    passed_over.add(f"beside the {_ANSWERS} of an evaluation", *beside)
    names = _drop(names, beside)
    copies = [name for name in names if _COPIES.fullmatch(Path(name).name)]
    if len(copies) < len(names):
        passed_over.add("copies of answers for official scripts", *copies)
        names = _drop(names, copies)
    foreign = _samples_of_other_tasks(names, task)
    passed_over.add("samples of other tasks", *foreign)
    return [AnswerFile(folder / name, name, is_in_folder=True) for name in _drop(names, foreign)]


def _has_answer_ending(name: str) -> bool:
    return file_type(name) == "json" or uncompressed_ending(name) in TABLE_SEPARATORS


def _samples_of_other_tasks(names: Sequence[str], task: str) -> list[str]:
    """Samples whose names are of other tasks, if some are of `task`; of its boxes, the samples of captions too."""
    samples = {name: match["task"].lower() for name in names if (match := _SAMPLES.search(Path(name).name))}
    prefixes = _SAMPLE_PREFIXES.get(task, (task,))
    own = {name for name, sample in samples.items() if sample == task or sample.startswith(prefixes)}
    comprehension = {name for name in own if "_rec" in samples[name]}
    own = comprehension or own
    return [name for name in samples if name not in own] if own else []


def _drop(names: Sequence[str], dropped: Iterable[str]) -> list[str]:
    without = set(dropped)
    return [name for name in names if name not in without]


def _count(names: Sequence[str]) -> str:
    return f"{len(names):,} file{'' if len(names) == 1 else 's'}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES:,} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more
