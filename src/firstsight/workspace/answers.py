"""The stored questions, answers and scores of one checkpoint, or of two side by side: as a page, or as text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

from firstsight.errors import QuantityError, RequestError
from firstsight.files import file_name_part
from firstsight.plan.store import Store
from firstsight.report.answers import AnswersTable
from firstsight.report.pages.answers_page import render_answers
from firstsight.report.pages.question_cards import question_lines
from firstsight.report.results import AnswerFile
from firstsight.workspace.evaluation import find_answers
from firstsight.workspace.sources import as_request_error
from firstsight.workspace.study_graph import StoredStudy


@dataclass(frozen=True)
class StoredAnswers:
    """The answers of a checkpoint; with `other`, of two. With `task` only those to its questions."""

    stored: StoredStudy
    checkpoint: str
    other: str = ""
    task: str = ""
    benchmarks: Path | None = None
    """The folder of the images, if it was moved."""

    def __post_init__(self) -> None:
        if self.other == self.checkpoint:
            raise RequestError(f"{self.other}: wanted another checkpoint than the first. Got it twice. Name it once.")

    def lines(self, question: str) -> list[str]:
        """One question (12, or pope/12) as text."""
        with as_request_error():
            return list(question_lines(self._tables, question))

    def write(self, max_questions: int) -> Path:
        """Write a page of at most that many questions, those on which two checkpoints differ first; its path."""
        if max_questions < 1:
            raise QuantityError(f"--rows: wanted at least 1. Got {max_questions}.")
        with as_request_error():
            is_builtin = _has_builtin_images(chain(*self._files))
            tables = self._tables
            html = render_answers(tables, max_questions=max_questions, task=self.task, credit_openmoji=is_builtin)
        name = "-against-".join(self._names)
        name_parts = [file_name_part(part)[-90:] for part in (name, self.task)]
        page = self.stored.root / "answers" / f"{'-'.join(filter(None, name_parts)) or 'answers'}.html"
        Store(self.stored.root)  # the folder must be a store, so that a later run may use it
        page.parent.mkdir(exist_ok=True)
        page.write_text(html, encoding="utf-8")
        return page

    @property
    def _checkpoints(self) -> list[str]:
        return [self.checkpoint, self.other] if self.other else [self.checkpoint]

    @property
    def _names(self) -> list[str]:
        short = [_short_name(name) for name in self._checkpoints]
        return short if len(set(short)) == len(short) else self._checkpoints

    @cached_property
    def _files(self) -> list[list[AnswerFile]]:
        return [find_answers(name, self.stored, benchmarks=self.benchmarks) for name in self._checkpoints]

    @cached_property
    def _tables(self) -> list[AnswersTable]:
        return [AnswersTable(name, part, task=self.task) for name, part in zip(self._names, self._files, strict=True)]


def _short_name(name: str) -> str:
    if not Path(name).exists():
        return name
    path = Path(name).resolve()
    path = path.parent if path.name == "answers.jsonl" else path
    return path.stem if path.is_file() else path.name


def _has_builtin_images(files: Iterable[AnswerFile]) -> bool:
    folders = (folder for file in files for folder in (file.benchmarks_dir, *file.benchmarks_by_task.values()))
    return any(folder is not None and folder.name.startswith("benchmarks-") for folder in folders)
