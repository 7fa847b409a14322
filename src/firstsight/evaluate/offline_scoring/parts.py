"""Benchmarks in several files: the questions of each part, and ids that an index gives to another benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.offline_scoring.question_index import fold_text, has_box_truth, round_box
from firstsight.evaluate.task import Question, Task, image_stem, load_json

Parts = dict[str, tuple[Question, ...]]
"""The questions of each part by its name."""
QuestionReader = Callable[[Sequence[Path]], tuple[Question, ...]]


def read_parts(groups: Mapping[str, Sequence[Path]], read_questions: QuestionReader) -> Parts:
    """The questions of files that were named one by one: one part if they are one benchmark, else a part for each name.

    In the VQA form a part is a pair of files with the same ids. Raises DataError if a file can be read neither way, and
    if two parts have the same questions.
    """
    files = [file for group in groups.values() for file in group]
    if len(groups) == 1:
        return {"": read_questions(files)}
    try:
        return {"": read_questions(files)}
    except DataError as error:
        pairs = _vqa_pairs(files) if len(groups) == len(files) else []
        names = {" + ".join(path.name for path in pair): pair for pair in pairs} or groups
        if len(names) == 1:
            raise
        try:
            parts = {name: read_questions(list(group)) for name, group in names.items()}
        except DataError as part_error:
            raise DataError(f"{part_error} The files are no single benchmark either: {error}") from error
    return _with_unique_ids(parts)


def _vqa_pairs(files: Sequence[Path]) -> list[tuple[Path, ...]]:
    """Files of questions and of annotations in pairs of equal ids; empty if the files are not in that form."""
    by_ids: dict[frozenset[str], list[Path]] = {}
    for path in files:
        content = load_json(path)
        rows = content.get("questions", content.get("annotations")) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            return []
        by_ids.setdefault(frozenset(str(row.get("question_id")) for row in rows), []).append(path)
    return [tuple(paths) for paths in by_ids.values()]


def _with_unique_ids(parts: Parts) -> Parts:
    """The parts; boxes whose ids, made of object and line, occur in several parts get another line number."""
    names: dict[str, str] = {}
    seen: set[Any] = set()
    for name, questions in parts.items():
        repeated = [question for question in questions if _content_key(question) in seen]
        if 2 * len(repeated) > len(questions):
            raise DataError(
                f"{name}: {len(repeated):,} of {len(questions):,} questions are in another file of --references too, "
                f"such as {repeated[0].id}. Give each part of the benchmark once, in one version."
            )
        seen.update(map(_content_key, questions))
    unique: Parts = {}
    for name, questions in parts.items():
        renamed = [_renamed(question, names) if has_box_truth(question) else question for question in questions]
        for question in renamed:
            if question.id in names:
                raise DataError(f"{name}: {names[question.id]} has the id {question.id} too. Give each part once.")
            names[question.id] = name
        unique[name] = tuple(renamed)
    return unique


def _content_key(question: Question) -> Any:
    truth = round_box(question.truth) if has_box_truth(question) else ""
    return question.split, fold_text(question.text), image_stem(question.image or ""), truth


def _renamed(question: Question, names: Mapping[str, str]) -> Question:
    object_id, number = question.id.rpartition("-")[0], 0
    question_id = question.id
    while question_id in names:
        question_id = f"{object_id or question.id}-{number}"
        number += 1
    return replace(question, id=question_id)


def other_set_ids(path: Path, task: Task) -> dict[str, str]:
    """Ids of an index of the paper's harness, which holds three sets, that belong to another set than the task's."""
    benchmark = getattr(task.read_questions, "keywords", {}).get("benchmark")
    content = load_json(path)
    rows = content.items() if isinstance(content, dict) and benchmark else ()
    sets = {
        str(key): str(row["refer_dataset"]) for key, row in rows if isinstance(row, dict) and "refer_dataset" in row
    }
    return {key: name for key, name in sets.items() if name != benchmark}
