"""A user's own benchmark without code: `task.json` has the prompt and the metric, `questions.jsonl` the questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.metrics import METRICS
from firstsight.evaluate.metrics.metric import Truth
from firstsight.evaluate.metrics.vqa import foreign_vizwiz_note, normalise_vizwiz_annotations
from firstsight.evaluate.task import TASK_FILE, Question, Task, benchmark_files, load_json, single_file
from firstsight.evaluate.tasks import records
from firstsight.evaluate.tasks.choices import OPTION_LETTERS, question_with_options
from firstsight.evaluate.tasks.records import BenchmarkRecord

_TASK_KEYS = ("prompt", "metric", "answered", "chance", "version")
_QUESTION_KEYS = ("id", "question", "image", "split")
_OPTIONAL_KEYS = ("image", "split", "width", "height")
_MULTI_ANSWER_METRICS = ("vqa", "vqa_strict", "vqa_paper", "textvqa", "vizwiz", "cider")
_TRUTH_KEYS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_MULTI_ANSWER_METRICS, ("answers",)),
    **dict.fromkeys(("exact", "yes_no"), ("answer",)),
    **dict.fromkeys(("iou50", "iou25"), ("box", "width", "height")),
    **dict.fromkeys(("choice", "letter"), ("answer", "choices")),
}
"""Keys of a question by metric, in addition to _QUESTION_KEYS and, if it is answered by choice, `choices`."""
_PLACEHOLDER = "{question}"


def load_custom_task(folder: Path) -> Task:
    """The task that a folder's task.json defines; DataError names an invalid value."""
    path = folder / TASK_FILE
    content = load_json(path)
    _check_keys(content, _TASK_KEYS, str(path), required=_TASK_KEYS)
    _check_values(path, **content)
    metric, is_choice = content["metric"], content["answered"] == "choice"
    template = content["prompt"].replace(_PLACEHOLDER, "{q}")
    return Task(
        name=folder.name,
        kind="vision" if _has_images(benchmark_files(folder), is_choice, path) else "text",
        answer_type="choice" if is_choice else "words",
        metric=METRICS[metric],
        chance=float(content["chance"]),
        baseline=None,
        read_questions=partial(_read_questions, metric=metric, is_choice=is_choice),
        prompt_templates={"bare": template, "paper": template},
        version=content["version"],
        reading_notes=_vizwiz_notes if metric == "vizwiz" else None,
    )


def _check_values(path: Path, *, prompt: Any, metric: Any, answered: Any, chance: Any, version: Any) -> None:
    """DataError for the first invalid value of task.json, and for a metric that does not fit the way of answering."""
    is_metric = isinstance(metric, str) and metric in METRICS
    is_template = isinstance(prompt, str) and _PLACEHOLDER in prompt and "{q}" not in prompt
    fits = metric in ("choice", "exact", "yes_no") if answered == "choice" else metric != "choice"
    is_chance = type(chance) in (int, float) and 0 <= chance < 1
    is_version = type(version) is int and version >= 1
    checks = (
        (is_metric, f"no metric is called {metric!r}. Known: {', '.join(METRICS)}."),
        (is_template, f"prompt is a text that contains {_PLACEHOLDER}. Got {prompt!r}. Add it."),
        (answered in ("words", "choice"), f'answered is "words" or "choice". Got {answered!r}. Use one of them.'),
        (fits, f"the metric {metric} does not go with {answered!r}. Change one."),
        (is_chance, f"chance is a share below 1. Got {chance!r}. Use 0 if unsure."),
        (is_version, f"version is a whole number from 1. Got {version!r}. Add 1 for each change."),
    )
    for is_valid, problem in checks:
        if not is_valid:
            raise DataError(f"{path}: {problem}")


def _has_images(paths: Sequence[Path], is_choice: bool, task_path: Path) -> bool:
    rows = records.read_records(single_file(paths, "questions.jsonl"))
    without_images = [row for row in rows if row.fields.get("image") is None]
    if 0 < len(without_images) < len(rows):
        raise without_images[0].error("has no image, and others have one. Split the benchmark into two folders.")
    if len(without_images) == len(rows) and not is_choice:
        raise DataError(f'{task_path}: questions without images are answered by choice. Got "words". Add choices.')
    return len(without_images) < len(rows)


def _read_questions(paths: Sequence[Path], *, metric: str, is_choice: bool) -> tuple[Question, ...]:
    rows = records.read_records(single_file(paths, "questions.jsonl"))
    questions = [_question(row, metric, is_choice=is_choice) for row in rows]
    if metric == "vizwiz":
        truths = normalise_vizwiz_annotations([question.truth for question in questions])
        questions = [replace(question, truth=truth) for question, truth in zip(questions, truths, strict=True)]
    return records.require_unique_ids(questions, paths)


def _vizwiz_notes(paths: Sequence[Path]) -> list[str]:
    path = single_file(paths, "questions.jsonl")
    note = foreign_vizwiz_note([_texts(row, "answers") for row in records.read_records(path)])
    return [f"{path}: {note}"] if note else []


def _question(record: BenchmarkRecord, metric: str, *, is_choice: bool) -> Question:
    row = record.fields
    keys = tuple(dict.fromkeys((*_QUESTION_KEYS, *_TRUTH_KEYS[metric], *(("choices",) if is_choice else ()))))
    _check_keys(row, keys, record.location, required=[key for key in keys if key not in _OPTIONAL_KEYS])
    choices = _texts(record, "choices") if "choices" in row else ()
    text = record.text("question")
    return Question(
        id=record.text("id"),
        text=question_with_options(text, choices) if metric == "letter" else text,
        truth=_parse_truth(record, choices, metric),
        image=record.text("image") if row.get("image") is not None else None,
        choices=choices if is_choice else (),
        split=record.text("split") if "split" in row else "",
    )


def _parse_truth(record: BenchmarkRecord, choices: tuple[str, ...], metric: str) -> Truth:
    row, location = record.fields, record.location
    if metric in _MULTI_ANSWER_METRICS:
        return _texts(record, "answers")
    if metric in ("iou50", "iou25"):
        size = (row["width"], row["height"]) if "width" in row and "height" in row else (1, 1)
        return records.normalize_box(records.parse_four_floats(row["box"], location), size, location, tolerance=0.0)
    answer = record.text("answer")
    letters = OPTION_LETTERS[: len(choices)]
    if metric == "letter" and answer in list(letters):
        return answer, *choices
    if metric in ("choice", "letter"):
        if choices.count(answer) != 1:
            raise record.error(f"the answer is one of the choices, once: {list(choices)}. Got {answer!r}. Correct it.")
        index = choices.index(answer)
        return index if metric == "choice" else (letters[index], *choices)
    if metric == "yes_no" and answer not in ("yes", "no"):
        raise record.error(f"the answer is yes or no. Got {answer!r}. Use the metric exact for other words.")
    return answer


def _texts(record: BenchmarkRecord, key: str) -> tuple[str, ...]:
    texts = record.fields[key]
    if not records.is_text_list(texts) or not any(text.strip() for text in texts):
        raise record.error(f"{key} is a list of texts, not all empty. Got {str(texts)[:80]}. Fill it.")
    if key == "choices" and not 2 <= len(texts) <= len(OPTION_LETTERS):
        raise record.error(f"choices are 2 to {len(OPTION_LETTERS)} texts. Got {len(texts)}. Change them.")
    return tuple(texts)


def _check_keys(record: Any, allowed: Sequence[str], location: str, *, required: Sequence[str]) -> None:
    known = ", ".join(allowed)
    if not isinstance(record, dict):
        raise DataError(f"{location}: wanted an object with {known}. Got {str(record)[:80]}. Write one.")
    unknown = [str(key) for key in record if key not in allowed]
    missing = [key for key in required if key not in record]
    if unknown:
        raise DataError(f"{location}: unknown {', '.join(unknown)}. Known: {known}. Drop or rename.")
    if missing:
        raise DataError(f"{location}: lacks {', '.join(missing)}. It needs {', '.join(required)}. Add them.")
