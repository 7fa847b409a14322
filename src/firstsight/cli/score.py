"""`firstsight score`: answers that exist already, scored without a model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from firstsight.evaluate.offline_scoring.scoring import ScoredAnswers

_POPE = ("accuracy", "precision", "recall", "f1", "yes")


def score(
    task: Annotated[str, typer.Argument(metavar="TASK", help="vqav2, gqa, vizwiz, textvqa, refcoco, pope ...")],
    *,
    answers: Annotated[
        list[Path], typer.Option(metavar="FILE", help="The model's answers; a folder, or several times, for parts.")
    ],
    references: Annotated[
        list[Path],
        typer.Option(metavar="FILE", help="The benchmark's own files, several times; also the model's question file."),
    ],
    missing: Annotated[
        str, typer.Option(metavar="SHARE", help="Most questions without an answer; beyond it, refused.")
    ] = "5%",
    out_json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
    rows: Annotated[Path | None, typer.Option(metavar="FILE", help="Write each question's score here.")] = None,
) -> None:
    """Score answers that a model gave elsewhere; answers find their questions by what they say, in any order.

    Example: firstsight score pope --answers llava.jsonl --references coco_pope/ --references llava_pope_test.jsonl
    """
    from firstsight.cli import terminal
    from firstsight.errors import DataError, RequestError
    from firstsight.evaluate import tasks
    from firstsight.evaluate.offline_scoring import scoring
    from firstsight.units import parse_share

    _refuse_places([out for out in (out_json, rows) if out])
    allowed = parse_share(missing)
    home = references[0] if references[0].is_dir() else references[0].parent
    wanted = tasks.get_task(task, home.resolve().parent)
    try:
        scored = scoring.score_answer_files(wanted, answers, references)
    except DataError as error:
        raise RequestError(str(error)) from error
    if out_json:
        out_json.write_text(json.dumps(scoring.score_summary(scored), indent=1) + "\n", encoding="utf-8")
    if rows:
        rows.write_text(scoring.answers_jsonl(scored), encoding="utf-8")
    if scored.missing_count > allowed * len(scored.rows):
        raise RequestError("\n".join([_refusal(scored, str(allowed)), *_counts(scored)]))
    terminal.table(_table(scored))
    if scored.splits:
        terminal.lines([""])
        terminal.table(_splits(scored))
    terminal.lines(["", *_counts(scored)])


def _refuse_places(wanted: Sequence[Path]) -> None:
    """Before anything is computed, which could then not be kept."""
    from firstsight.errors import RequestError

    for out in wanted:
        if not out.parent.is_dir():
            raise RequestError(f"{out}: there is no folder {out.parent}. Make it, or write elsewhere.")


def _table(scored: ScoredAnswers) -> list[tuple[str, ...]]:
    low, high = scored.interval
    head = ("task", "metric", "score", "95 % interval", "questions", "missing", "unreadable", "others", "duplicates")
    joined = scored.joined_answers
    counts = (len(scored.rows), scored.missing_count, scored.unreadable_count, len(joined.unmatched), joined.duplicates)
    number = (_points(scored.score), f"{_points(low)} to {_points(high)}")
    return [head, (scored.task.name, scored.task.metric.name, *number, *(f"{count:,}" for count in counts))]


def _splits(scored: ScoredAnswers) -> list[tuple[str, ...]]:
    rows = [(split, *(_points(held[key]) for key in _POPE)) for split, held in scored.splits.items()]
    return [("split", "accuracy", "precision", "recall", "F1", "yes"), *rows]


def _counts(scored: ScoredAnswers) -> Iterator[str]:
    """What stands behind the number, a line each."""
    from firstsight.evaluate.offline_scoring import scoring

    joined = scored.joined_answers
    unit = "CIDEr x 100" if scored.task.metric.name == "cider" else "percent"
    yield f"scores are {unit}; references: {scored.benchmark_version}"
    yield "joined by " + ", ".join(f"{way} ({count:,})" for way, count in joined.method_counts.items())
    yield from scored.notes
    if scored.missing_count and scored.answered_score is not None:
        only = _points(scored.answered_score)
        lacking = _many(scored.missing_count, "question has", "questions have")
        yield f"{lacking} no answer, which counts as wrong; the answered ones alone score {only}"
    if joined.contested_positions:
        asked = ", ".join(scored.rows[at].question.id for at in joined.contested_positions[:4])
        yield (
            f"{len(joined.contested_positions):,} of these got several answers that name no more than picture and words, which "
            f"another question with another truth shares: {asked}"
        )
    if joined.shared_across_splits:
        answered = _many(joined.shared_across_splits, "question is", "questions are")
        yield f"{answered} answered by another split's answer to the same words and picture"
    if joined.unmatched:
        others = _many(len(joined.unmatched), "answer is to another question", "answers are to other questions")
        yield f"{others}, which does not count: {scoring.describe_unmatched_answers(scored)}"
    if joined.unmatched and scored.missing_count:
        known = "; ".join(one.name for one in scored.task.published) or "none is known"
        yield f"both at once often mean that the model was asked another version of the benchmark (known: {known})"


def _many(count: int, one: str, more: str) -> str:
    return f"{count:,} {one if count == 1 else more}"


def _refusal(scored: ScoredAnswers, allowed: str) -> str:
    share = scored.missing_count / len(scored.rows)
    return (
        f"{scored.missing_count:,} of {len(scored.rows):,} questions have no answer ({share:.1%}); at most {allowed} may "
        f"lack one. Counted as wrong, the score is {_points(scored.score)}; over the answered ones alone it is "
        f"{_points(scored.answered_score or 0.0)}. Give the other answers or the model's question file too, or allow more "
        "with --missing."
    )


def _points(value: float) -> str:
    return f"{100 * value:.2f}"
