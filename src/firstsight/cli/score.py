"""`firstsight score`: score answers that were written by other programs; no model is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from firstsight.cli import terminal
from firstsight.errors import RequestError
from firstsight.evaluate.offline_scoring import Rules
from firstsight.files import write_atomic
from firstsight.plan.verification import check_stored_folder
from firstsight.units import parse_share

if TYPE_CHECKING:
    from firstsight.evaluate.offline_scoring.scoring import PartScore, ScoredAnswers


def score(
    task: Annotated[str, typer.Argument(metavar="TASK", help="vqav2, gqa, vizwiz, textvqa, refcoco, pope ...")],
    *,
    answers: Annotated[list[Path], typer.Option(help="The model's answers; a folder, or several times, for parts.")],
    references: Annotated[
        list[Path] | None, typer.Option(help="The benchmark's files, or parts; the model's question file.")
    ] = None,
    rules: Annotated[Rules, typer.Option("--as", help="Rules: ours, or the paper's harness, of raw answers.")] = "own",
    missing: Annotated[str, typer.Option(metavar="SHARE", help="Largest share without an answer.")] = "5%",
    out_json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the scores here.")] = None,
    rows: Annotated[Path | None, typer.Option(metavar="FILE", help="Write each question's score here.")] = None,
) -> None:
    """Score the answers of any model; answers are matched to questions by their content, in any order.

    The task dclm has no references: it aggregates accuracies, DCLM's results, to Core and Extended.
    Example: firstsight score pope --answers llava.jsonl --references coco_pope/ --references llava_pope_test.jsonl
    """
    from firstsight.evaluate.offline_scoring import scoring
    from firstsight.evaluate.tasks import get_task
    from firstsight.workspace.sources import as_request_error, current_site

    for path in filter(None, (out_json, rows)):
        if not path.parent.is_dir():
            raise RequestError(f"{path}: there is no folder {path.parent}. Make it, or write elsewhere.")
    if task == "dclm" and not references:
        with as_request_error():
            _score_dclm(answers, out_json)
        return
    if not references:
        raise RequestError("--references: wanted the benchmark's own files. Only the task dclm has none.")
    allowed = parse_share(missing)
    current_site()  # its limits
    for path in answers:
        check_stored_folder(path if path.is_dir() else path.parent)
    folder = references[0] if references[0].is_dir() else references[0].parent
    definition = get_task(task, folder.resolve().parent)
    with as_request_error():
        scored = scoring.score_answer_files(definition, answers, references, rules=rules)
    if out_json:
        _write(out_json, json.dumps(scoring.score_summary(scored), indent=1) + "\n")
    if rows:
        _write(rows, scoring.answers_jsonl(scored))
    details = list(_detail_lines(scored))
    if scored.missing_count > allowed * len(scored.rows):
        raise RequestError("\n".join([_too_few_answers(scored, str(allowed)), *details]))
    terminal.print_table(_score_table(scored))
    if scored.parts:
        terminal.print_table(_part_table(scored.parts), title="")
    if scored.splits:
        terminal.print_table(_split_table(scored.splits), title="")
    terminal.print_lines(["", *details])


def _score_dclm(paths: Sequence[Path], out_json: Path | None) -> None:
    """Print DCLM's aggregates of accuracies by task, beside the paper's stable score over the same accuracies."""
    from firstsight.evaluate.dclm import BASELINES, CORE_TASKS, dclm_scores, read_accuracies
    from firstsight.evaluate.result_files import aggregate_scores
    from firstsight.evaluate.tasks import TASKS

    accuracies = {name: accuracy for path in paths for name, accuracy in read_accuracies(path).items()}
    scores, stable = dclm_scores(accuracies), aggregate_scores(accuracies, "text")
    num_stable = sum(task.kind == "text" and task.baseline is not None for task in TASKS.values())
    if out_json:
        _write(out_json, json.dumps({**asdict(scores), "stable": stable.stable}, indent=1) + "\n")
    rows = [
        ("Core", scores.core, len(CORE_TASKS), scores.missing_core),
        ("Extended", scores.extended, len(BASELINES), scores.missing_extended),
        ("stable (the paper's)", stable.stable, num_stable, stable.missing_tasks),
    ]
    header = ("aggregate", "score", "tasks", "missing")
    cells = [(name, "n/a" if x is None else _percent(x), str(count), str(len(gone))) for name, x, count, gone in rows]
    terminal.print_table(iter([header, *cells]))
    categories = [(name, _percent(score)) for name, score in scores.categories.items()]
    if categories:
        terminal.print_table(iter([("category", "centred"), *categories]), title="")
    terminal.print_lines(["", *(f"{name} lacks {', '.join(gone)}" for name, _, _, gone in rows if gone)])
    if scores.unknown:
        terminal.print_lines([f"no tasks of DCLM: {', '.join(scores.unknown)}"])


def _write(path: Path, text: str) -> None:
    if path.is_symlink() or (path.exists() and not path.is_file()):  # /dev/stdout, a pipe: nothing to replace
        path.write_text(text, encoding="utf-8")
    else:
        write_atomic(path, text)


def _score_table(scored: ScoredAnswers) -> Iterator[tuple[str, ...]]:
    yield ("task", "metric", "score", "95 % interval", "questions", "missing", "unreadable", "others", "duplicates")
    joined, name = scored.joined_answers, (scored.task.name, scored.task.metric.name)
    counts = (len(scored.rows), scored.missing_count, scored.unreadable_count, len(joined.unmatched), joined.duplicates)
    interval = " to ".join(map(_percent, scored.interval))
    yield (*name, _percent(scored.score), interval, *(f"{count:,}" for count in counts))


def _part_table(parts: Mapping[str, PartScore]) -> Iterator[tuple[str, ...]]:
    yield ("part", "score", "95 % interval", "questions", "missing")
    for name, part in parts.items():
        interval = " to ".join(map(_percent, part.interval))
        yield (name, _percent(part.score), interval, f"{part.num_questions:,}", f"{part.missing_count:,}")


def _split_table(splits: Mapping[str, Mapping[str, float]]) -> Iterator[tuple[str, ...]]:
    yield ("split", "accuracy", "precision", "recall", "F1", "yes")
    for name, scores in splits.items():
        yield (name, *(_percent(scores[key]) for key in ("accuracy", "precision", "recall", "f1", "yes")))


def _detail_lines(scored: ScoredAnswers) -> Iterator[str]:
    """How the answers were matched to the questions, and what is missing or surplus, one line each."""
    joined = scored.joined_answers
    unit = "CIDEr x 100" if scored.task.metric.name == "cider" else "percent"
    yield f"scores are {unit}; references: {scored.benchmark_version}"
    yield "joined by " + ", ".join(f"{method} ({count:,})" for method, count in joined.method_counts.items())
    yield from scored.notes
    if scored.missing_count and scored.answered_score is not None:
        questions = _counted(scored.missing_count, "question has", "questions have")
        answered = _percent(scored.answered_score)
        if scored.rules == "paper":
            yield f"{questions} no answer, which does not count in the paper's harness"
        else:
            yield f"{questions} no answer, which counts as wrong; the answered ones alone score {answered}"
    if joined.contested_positions:
        ids = ", ".join(scored.rows[position].question.id for position in joined.contested_positions[:4])
        answers = f"{len(joined.contested_positions):,} of these got several answers that give only image and question"
        yield f"{answers} text, which another question with another reference shares: {ids}"
    if joined.shared_across_splits:
        questions = _counted(joined.shared_across_splits, "question is", "questions are")
        yield f"{questions} answered by another split's answer to the same question text and image"
    if joined.unmatched:
        from firstsight.evaluate.offline_scoring.joining import describe_unmatched_answers

        answers = _counted(len(joined.unmatched), "answer is to another question", "answers are to other questions")
        examples = describe_unmatched_answers(joined.unmatched, scored.rows[0].question)
        yield f"{answers}, which does not count: {examples}"
        if scored.missing_count:
            versions = "; ".join(scored.task.published) or "none is known"
            yield f"both at once often mean that the model was given another benchmark version (known: {versions})"


def _counted(count: int, singular: str, plural: str) -> str:
    return f"{count:,} {singular if count == 1 else plural}"


def _too_few_answers(scored: ScoredAnswers, allowed: str) -> str:
    missing, total = scored.missing_count, len(scored.rows)
    return (
        f"{missing:,} of {total:,} questions have no answer ({missing / total:.1%}); at most {allowed} may lack one. "
        f"Counted as wrong, the score is {_percent(scored.score)}; over the answered ones alone it is "
        f"{_percent(scored.answered_score or 0.0)}. Give the other answers or the model's question file too, or allow "
        "more with --missing."
    )


def _percent(score: float) -> str:
    return f"{100 * score:.2f}"
