"""`firstsight answers`: the stored questions, answers and scores of one checkpoint, or of two side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from firstsight.cli import terminal
from firstsight.cli.study_options import RUNS, OutOption
from firstsight.recipe.study import Study
from firstsight.workspace.workspace import Workspace


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
    workspace = Workspace(out)
    if not question:
        page = workspace.answers(study, checkpoint, other=other, task=task, rows=rows, benchmarks=benchmarks)
        terminal.print_lines([f"answers: {page}"])
        return
    from firstsight.workspace.answers import StoredAnswers

    stored = workspace.stored(study)
    terminal.print_lines(
        StoredAnswers(stored, checkpoint, other=other, task=task, benchmarks=benchmarks).lines(question)
    )
