"""`firstsight evaluate`: the scores of a checkpoint with its baselines; `firstsight answers`: the stored answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from firstsight.cli import terminal
from firstsight.cli.study_options import RUNS, OutOption, StoreOption
from firstsight.cli.terminal import TerminalProgress
from firstsight.recipe.study import Study
from firstsight.workspace.workspace import Workspace

if TYPE_CHECKING:
    from firstsight.evaluate.result_files import Scores, TaskScores


BASELINE_LABELS = {"blind": "blind", "text_only": "text only", "question_blind": "question-blind"}


def evaluate(
    study: Study,
    *,
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="start-080.s1, an address or a folder.")],
    benchmarks: Annotated[Path | None, typer.Option(help="A folder for each task; default: the study's.")] = None,
    tasks: Annotated[str, typer.Option(metavar="TASK,…", help="Which tasks; default: all that are available.")] = "",
    blind: Annotated[bool, typer.Option("--blind", help="Evaluate only without the images.")] = False,
    text_only: Annotated[bool, typer.Option("--text-only", help="Evaluate its text-only parent too.")] = False,
    text_model: Annotated[str, typer.Option(help="The text-only parent, if no study records it.")] = "",
    out: OutOption = RUNS,
) -> None:
    """Evaluate a checkpoint on tasks, with the images and without.

    Each answer is stored at once: after a stop, the same command resumes and reuses the stored answers.
    Example: firstsight evaluate start-080.s1 --tasks pope,vqav2
    """
    evaluation = Workspace(out).evaluate(
        study,
        checkpoint,
        benchmarks=benchmarks,
        tasks=tasks,
        blind=blind,
        text_model=text_model or text_only,
        on_progress=TerminalProgress(),
    )
    task_scores = evaluation.scores.tasks
    terminal.print_table(_score_table(task_scores))
    present = [key for key in BASELINE_LABELS if any(getattr(task, key) is not None for task in task_scores.values())]
    if present:
        terminal.print_table(_baseline_table(task_scores, present), title="")
    versions = _version_lines(task_scores) if evaluation.has_paper_prompts else ()
    terminal.print_lines(["", *versions, *_mean_lines(evaluation.scores), f"stored: {evaluation.folder}"])


def _score_table(tasks: Mapping[str, TaskScores]) -> Iterator[tuple[str, ...]]:
    soft_columns = ("soft", "soft blind", "bits per byte")
    yield ("task", "metric", "questions", "unreadable", "score", "95 % interval", "chance", *soft_columns)
    for name, task in tasks.items():
        counts = (f"{task.n:,}", f"{task.unreadable:,}")
        score, interval, soft = _format_score(task.score), _format_interval(task.interval), task.soft
        soft_cells = map(_format_score, (soft.score, soft.blind, soft.bits_per_byte) if soft else (None,) * 3)
        yield (name, task.metric, *counts, score, interval, _format_score(task.chance), *soft_cells)


def _baseline_table(tasks: Mapping[str, TaskScores], keys: Sequence[str]) -> Iterator[tuple[str, ...]]:
    yield ("task", *(cell for key in keys for cell in (BASELINE_LABELS[key], "difference", "95 % interval")))
    for name, task in tasks.items():
        yield (name, *(cell for key in keys for cell in _baseline_cells(task, key)))


def _baseline_cells(task: TaskScores, key: str) -> tuple[str, str, str]:
    score = _format_score(getattr(task, key))
    if key not in task.over:
        return score, "", ""
    return score, f"{task.over[key].difference:+.3f}", _format_interval(task.over[key].interval)


def _version_lines(tasks: Mapping[str, TaskScores]) -> Iterator[str]:
    """A line for each task: the version of its questions, how many were left out, and the unit of boxes."""
    for name, scores in tasks.items():
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in scores.left_out.items())
        parts = (scores.benchmark, f"left out: {left_out}" if left_out else "", scores.boxes)
        yield f"{name}: {'; '.join(filter(None, parts))}"


def _mean_lines(scores: Scores) -> Iterator[str]:
    for kind in scores.stable:
        if scores.stable[kind] is None:
            continue
        means = {"stable": scores.stable[kind], "centred": scores.centred[kind], "raw": scores.raw[kind]}
        missing = f"; INCOMPLETE, without {', '.join(scores.missing[kind])}" if scores.missing[kind] else ""
        yield f"{kind}: {', '.join(f'{name} {value:.4f}' for name, value in means.items())}{missing}"
        if (soft := scores.soft[kind]) is not None:
            unscored = ", ".join(task for task in scores.missing_soft[kind] if task not in scores.missing[kind])
            yield f"{kind}: soft stable {soft:.4f}{f'; without {unscored}' if unscored else ''}"


def _format_interval(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def _format_score(score: float | None) -> str:
    return "" if score is None else f"{score:.3f}"


def answers(
    study: Study,
    *,
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="An arm, an address, a folder.")],
    other: Annotated[str, typer.Argument(metavar="OTHER", help="A second checkpoint, to compare with.")] = "",
    task: Annotated[str, typer.Option(metavar="TASK", help="Only this task.")] = "",
    question: Annotated[str, typer.Option(metavar="ID", help="Print only this question: 12, or pope/12.")] = "",
    rows: Annotated[int, typer.Option(metavar="N", help="Maximum number of questions on the page.")] = 400,
    benchmarks: Annotated[Path | None, typer.Option(help="The folder of the images, if it was moved.")] = None,
    out: StoreOption = RUNS,
) -> None:
    """Write a page of images, prompts, answers, references and scores; of two checkpoints, their differences first.

    Example: firstsight answers start-000.s1 start-080.s1 --task refcoco
    """
    workspace = Workspace(out)
    if not question:
        page = workspace.answers(study, checkpoint, other=other, task=task, rows=rows, benchmarks=benchmarks)
        terminal.print_lines([f"answers: {page}"])
        return
    from firstsight.workspace.evaluation import StoredAnswers

    stored = workspace.stored(study)
    terminal.print_lines(
        StoredAnswers(stored, checkpoint, other=other, task=task, benchmarks=benchmarks).lines(question)
    )
