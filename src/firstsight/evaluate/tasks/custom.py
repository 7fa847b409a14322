"""A user's own benchmark without code: `task.json` says how it is asked, `questions.jsonl` what."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.metrics import METRICS
from firstsight.evaluate.metrics.metric import Truth
from firstsight.evaluate.task import Question, Task, benchmark_files, load_json, single_file
from firstsight.evaluate.tasks.mmmu import OPTION_LETTERS, question_with_options
from firstsight.evaluate.tasks.records import (
    BenchmarkRecord,
    normalize_box,
    parse_four_floats,
    read_benchmark_records,
    require_unique_ids,
    text_field,
)

TASK_FILE = "task.json"
_TASK_KEYS = ("prompt", "metric", "answered", "chance", "version")
_QUESTION_KEYS = ("id", "question", "image", "split")
_MULTI_ANSWER_METRICS = ("vqa", "vqa_strict", "vqa_paper", "textvqa", "vizwiz", "cider")
_TRUTH_KEYS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_MULTI_ANSWER_METRICS, ("answers",)),
    "exact": ("answer",),
    "yes_no": ("answer",),
    "iou50": ("box", "width", "height"),
    "iou25": ("box", "width", "height"),
    "choice": ("answer", "choices"),
    "letter": ("answer", "choices"),
}
"""What a question of each metric says, beyond what every question says."""
_CHOICE_METRICS = ("choice", "exact", "yes_no")
_PLACEHOLDER = "{question}"


def load_custom_task(folder: Path) -> Task:
    """The task that a folder's task.json describes; DataError names what in it cannot be."""
    task_path = folder / TASK_FILE
    content = load_json(task_path)
    _check_keys(content, _TASK_KEYS, str(task_path), required_keys=_TASK_KEYS)
    config = _TaskConfig(**{key: content[key] for key in ("prompt", "metric", "answered", "chance", "version")})
    config.check(task_path)
    paths = benchmark_files(folder)
    template = config.prompt.replace(_PLACEHOLDER, "{q}")
    return Task(
        name=folder.name,
        kind="vision" if _has_images(paths, config, task_path) else "text",
        answer_type="choice" if config.answered == "choice" else "words",
        metric=METRICS[config.metric],
        chance=float(config.chance),
        baseline=None,
        read_questions=partial(_read_questions, config=config),
        prompt_templates={"bare": template, "paper": template},
        version=config.version,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _TaskConfig:
    """What task.json says."""

    prompt: Any
    metric: Any
    answered: Any
    chance: Any
    version: Any

    def check(self, path: Path) -> None:
        """Every value can be, and metric and way of answering fit together."""
        if not isinstance(self.metric, str) or self.metric not in METRICS:
            raise DataError(f"{path}: no metric is called {self.metric!r}. Known: {', '.join(METRICS)}.")
        if not isinstance(self.prompt, str) or _PLACEHOLDER not in self.prompt or "{q}" in self.prompt:
            raise DataError(
                f"{path}: prompt is a text that holds {_PLACEHOLDER}. Got {self.prompt!r}. Say where it stands."
            )
        if self.answered not in ("words", "choice"):
            raise DataError(f'{path}: answered is "words" or "choice". Got {self.answered!r}. Say one.')
        is_compatible = self.metric in _CHOICE_METRICS if self.answered == "choice" else self.metric != "choice"
        if not is_compatible:
            raise DataError(f"{path}: the metric {self.metric} does not go with {self.answered!r}. Change one.")
        is_number = isinstance(self.chance, (int, float)) and not isinstance(self.chance, bool)
        if not is_number or not math.isfinite(self.chance) or not 0 <= self.chance < 1:
            raise DataError(f"{path}: chance is a share below 1. Got {self.chance!r}. Use 0 if unsure.")
        if not isinstance(self.version, int) or isinstance(self.version, bool) or self.version < 1:
            raise DataError(f"{path}: version is a whole number from 1. Got {self.version!r}. Count changes.")

    @property
    def allowed_keys(self) -> tuple[str, ...]:
        """What a question may say."""
        choice_keys = ("choices",) if self.answered == "choice" else ()
        return tuple(dict.fromkeys((*_QUESTION_KEYS, *_TRUTH_KEYS[self.metric], *choice_keys)))


def _has_images(paths: Sequence[Path], config: _TaskConfig, task_path: Path) -> bool:
    """Whether its questions are about pictures; all are, or none."""
    records = read_benchmark_records(single_file(paths, "questions.jsonl"))
    image_flags = [record.fields.get("image") is not None for record in records]
    if any(image_flags) != all(image_flags):
        location = records[image_flags.index(False)].location
        raise DataError(f"{location}: has no image, and others have one. Split the benchmark into two folders.")
    if not any(image_flags) and config.answered != "choice":
        raise DataError(f'{task_path}: questions without pictures are answered by choice. Got "words". Offer choices.')
    return any(image_flags)


def _read_questions(paths: Sequence[Path], *, config: _TaskConfig) -> tuple[Question, ...]:
    return require_unique_ids(
        [_question(record, config) for record in read_benchmark_records(single_file(paths, "questions.jsonl"))], paths
    )


def _question(record: BenchmarkRecord, config: _TaskConfig) -> Question:
    row, location = record.fields, record.location
    required_keys = [key for key in config.allowed_keys if key not in ("image", "split", "width", "height")]
    _check_keys(row, config.allowed_keys, location, required_keys=required_keys)
    choices = _require_texts(row["choices"], "choices", location) if "choices" in row else ()
    question_text = text_field(row, "question", location)
    return Question(
        id=text_field(row, "id", location),
        text=question_with_options(question_text, choices) if config.metric == "letter" else question_text,
        truth=_parse_truth(row, choices, config.metric, location),
        image=text_field(row, "image", location) if row.get("image") is not None else None,
        choices=choices if config.answered == "choice" else (),
        split=text_field(row, "split", location) if "split" in row else "",
        tags={},
    )


def _parse_truth(row: Mapping[str, Any], choices: tuple[str, ...], metric: str, location: str) -> Truth:
    if metric in _MULTI_ANSWER_METRICS:
        return _require_texts(row["answers"], "answers", location)
    if metric in ("iou50", "iou25"):
        size = (row["width"], row["height"]) if "width" in row and "height" in row else (1, 1)
        return normalize_box(parse_four_floats(row["box"], location), size, location, tolerance=0.0)
    answer = text_field(row, "answer", location)
    if metric == "yes_no" and answer not in ("yes", "no"):
        raise DataError(f"{location}: the answer is yes or no. Got {answer!r}. Use the metric exact for other words.")
    if metric == "choice":
        return choices.index(_require_choice(answer, choices, location))
    if metric == "letter":
        letters = OPTION_LETTERS[: len(choices)]
        letter = (
            answer if answer in list(letters) else letters[choices.index(_require_choice(answer, choices, location))]
        )
        return (letter, *choices)
    return answer


def _require_choice(answer: str, choices: Sequence[str], location: str) -> str:
    if list(choices).count(answer) != 1:
        raise DataError(
            f"{location}: the answer is one of the choices, once: {list(choices)}. Got {answer!r}. Mend it."
        )
    return answer


def _require_texts(value: Any, field_name: str, location: str) -> tuple[str, ...]:
    texts = value if isinstance(value, list) else []
    if not all(isinstance(text, str) for text in texts) or not any(text.strip() for text in texts):
        raise DataError(f"{location}: {field_name} is a list of texts, not all empty. Got {str(value)[:80]}. Fill it.")
    if field_name == "choices" and not 2 <= len(texts) <= len(OPTION_LETTERS):
        raise DataError(
            f"{location}: choices are 2 to {len(OPTION_LETTERS)} texts. Got {len(texts)}. Offer more, or fewer."
        )
    return tuple(texts)


def _check_keys(record: Any, allowed_keys: Sequence[str], location: str, *, required_keys: Sequence[str]) -> None:
    if not isinstance(record, dict):
        raise DataError(
            f"{location}: wanted an object with {', '.join(allowed_keys)}. Got {str(record)[:80]}. Write one."
        )
    unknown_keys = [str(key) for key in record if key not in allowed_keys]
    missing_keys = [key for key in required_keys if key not in record]
    if unknown_keys:
        raise DataError(
            f"{location}: unknown {', '.join(unknown_keys)}. Known: {', '.join(allowed_keys)}. Drop or rename."
        )
    if missing_keys:
        raise DataError(f"{location}: lacks {', '.join(missing_keys)}. It needs {', '.join(required_keys)}. Add them.")
