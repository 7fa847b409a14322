"""`firstsight answers`: what was asked, said and scored, question by question, of one checkpoint or of two."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from firstsight.cli.study_options import ask_for
from firstsight.errors import QuantityError, RequestError
from firstsight.plan.store import Store
from firstsight.recipe.study import Study

if TYPE_CHECKING:
    from firstsight.report.pages.answers_table import AnswerFile


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A request as it was typed; a field here is an option there."""

    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT",
            help="An arm: start-080.s1; an address under --out; a folder that was judged; or answers.jsonl.",
        ),
    ]
    other: Annotated[str, typer.Argument(metavar="OTHER", help="A second one, to see where they differ.")] = ""
    task: Annotated[str, typer.Option(metavar="TASK", help="This task alone.")] = ""
    question: Annotated[
        str, typer.Option(metavar="ID", help="Print this question instead of a page: 12, or pope/12.")
    ] = ""
    rows: Annotated[int, typer.Option(metavar="N", help="Most questions on the page.")] = 400
    benchmarks: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the pictures lie, if they are not where they were.")
    ] = None
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where results lie; made if it is not there.")] = (
        Path("runs")
    )


def answers(study: Study, **given: Any) -> None:
    """A page of pictures, prompts, answers, truths and scores; of two checkpoints, with their differences on top.

    Example: firstsight answers start-000.s1 start-080.s1 --task refcoco
    """
    show_answers(study, Wanted(**given))


ask_for(Wanted, answers, about=True)


def show_answers(study: Study, wanted: Wanted) -> None:
    """Write the page, or print one question; RequestError for what was not judged, asked or found."""
    from firstsight.cli import terminal
    from firstsight.workspace.resolve import as_request
    from firstsight.workspace.stored_answers import found

    if wanted.rows < 1:
        raise QuantityError(f"--rows: wanted at least 1. Got {wanted.rows}.")
    if wanted.other == wanted.checkpoint:
        raise RequestError(f"{wanted.other}: wanted another checkpoint than the first. Got it twice. Name it once.")
    words = [word for word in (wanted.checkpoint, wanted.other) if word]
    judged = [found(word, study=study, benchmarks=wanted.benchmarks, out=wanted.out) for word in words]
    from firstsight.report.pages.answers_page import render_answers
    from firstsight.report.pages.answers_table import AnswersTable
    from firstsight.report.pages.question_cards import question_lines

    with as_request():
        names = _names(words)
        sheets = [AnswersTable(name, kept, task=wanted.task) for name, kept in zip(names, judged, strict=True)]
        if wanted.question:
            terminal.lines(question_lines(sheets, wanted.question))
            return
        text = render_answers(sheets, max_questions=wanted.rows, task=wanted.task, credit_openmoji=_drawn(judged))
    page = wanted.out / "answers" / f"{_slug('-against-'.join(names), wanted.task)}.html"
    Store(wanted.out)  # a folder that holds our pages is a store, and a later run may go there
    page.parent.mkdir(exist_ok=True)
    page.write_text(text, encoding="utf-8")
    terminal.lines([f"answers: {page}"])


def _names(words: list[str]) -> list[str]:
    """Arms and addresses as they were typed; of a place its last part, unless both end alike."""
    short = [_short(Path(word)) for word in words]
    return short if len(set(short)) == len(short) else words


def _short(place: Path) -> str:
    if not place.exists():
        return str(place)
    own = place.resolve()
    return own.parent.name if own.name == "answers.jsonl" else own.stem if own.is_file() else own.name


def _slug(name: str, task: str) -> str:
    """A name as a file's name."""
    told = [re.sub(r"[^\w.-]+", "-", part).strip("-.")[-90:] for part in (name, task)]
    return "-".join(part for part in told if part) or "answers"


def _drawn(judged: list[list[AnswerFile]]) -> bool:
    """Whether pictures are of the built-in world, whose drawings must be credited: its step's address says so."""
    places = [
        place for kept in judged for one in kept for place in (one.benchmarks_dir, *one.benchmarks_by_task.values())
    ]
    return any(place is not None and place.name.startswith("benchmarks-") for place in places)
