"""`firstsight answers`: the stored questions, answers and scores of one checkpoint, or of two side by side."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from firstsight.cli import terminal
from firstsight.cli.study_options import RUNS, OutOption
from firstsight.errors import QuantityError, RequestError
from firstsight.files import file_name_part
from firstsight.plan.store import Store
from firstsight.recipe.study import Study

if TYPE_CHECKING:
    from firstsight.report.results import AnswerFile


def answers(
    study: Study,
    *,
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="An arm, an address, a folder.")],
    other: Annotated[str, typer.Argument(metavar="OTHER", help="A second checkpoint, to compare with.")] = "",
    task: Annotated[str, typer.Option(metavar="TASK", help="Only this task.")] = "",
    question: Annotated[str, typer.Option(metavar="ID", help="Print only this question: 12, or pope/12.")] = "",
    rows: Annotated[int, typer.Option(metavar="N", help="Maximum number of questions on the page.")] = 400,
    benchmarks: Annotated[Path | None, typer.Option(help="The folder of the images, if it was moved.")] = None,
    out: OutOption = RUNS,
) -> None:
    """Write a page of images, prompts, answers, references and scores; of two checkpoints, their differences first.

    Example: firstsight answers start-000.s1 start-080.s1 --task refcoco
    """
    if rows < 1:
        raise QuantityError(f"--rows: wanted at least 1. Got {rows}.")
    if other == checkpoint:
        raise RequestError(f"{other}: wanted another checkpoint than the first. Got it twice. Name it once.")
    from firstsight.report.answers import AnswersTable
    from firstsight.report.pages.answers_page import render_answers
    from firstsight.report.pages.question_cards import question_lines
    from firstsight.workspace.evaluation import find_answers
    from firstsight.workspace.sources import as_request_error

    checkpoints = [checkpoint, other] if other else [checkpoint]
    files = [find_answers(name, study=study, benchmarks=benchmarks, out=out) for name in checkpoints]
    with as_request_error():
        short = [_short_name(name) for name in checkpoints]
        names = short if len(set(short)) == len(short) else checkpoints
        tables = [AnswersTable(name, part, task=task) for name, part in zip(names, files, strict=True)]
        if question:
            terminal.print_lines(question_lines(tables, question))
            return
        is_builtin = _has_builtin_images(chain(*files))
        html = render_answers(tables, max_questions=rows, task=task, credit_openmoji=is_builtin)
    name_parts = [file_name_part(part)[-90:] for part in ("-against-".join(names), task)]
    page = out / "answers" / f"{'-'.join(filter(None, name_parts)) or 'answers'}.html"
    Store(out)  # the folder must be a store, so that a later run may use it
    page.parent.mkdir(exist_ok=True)
    page.write_text(html, encoding="utf-8")
    terminal.print_lines([f"answers: {page}"])


def _short_name(name: str) -> str:
    if not Path(name).exists():
        return name
    path = Path(name).resolve()
    path = path.parent if path.name == "answers.jsonl" else path
    return path.stem if path.is_file() else path.name


def _has_builtin_images(files: Iterable[AnswerFile]) -> bool:
    folders = (folder for file in files for folder in (file.benchmarks_dir, *file.benchmarks_by_task.values()))
    return any(folder is not None and folder.name.startswith("benchmarks-") for folder in folders)
