"""POPE: is there an X in the picture? Three splits that differ in how the absent objects were drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.metrics.exact_match import YES_NO_MATCH
from firstsight.evaluate.task import PublishedVersion, Question, Task, load_json_records, record_tags
from firstsight.evaluate.tasks.records import first_text_field, require_unique_ids, text_field
from firstsight.evaluate.tasks.vqav2 import SHORT_ANSWER_PROMPT

POPE_SPLITS = ("adversarial", "popular", "random")


def read_pope(paths: Sequence[Path]) -> tuple[Question, ...]:
    """POPE's files, one a split, or lines that say their `category`. Ids repeat over splits, so they carry theirs."""
    _check_one_file_per_split(paths)
    questions = [question for path in paths for question in _file_questions(path)]
    questions.sort(key=lambda question: POPE_SPLITS.index(question.split))
    return require_unique_ids(questions, paths)


def read_pope_choices(paths: Sequence[Path]) -> tuple[Question, ...]:
    """The same, to be answered by the likelier of "Yes" and "No"."""
    return tuple(replace(question, choices=("Yes", "No")) for question in read_pope(paths))


def _check_one_file_per_split(paths: Sequence[Path]) -> None:
    for split in POPE_SPLITS:
        split_paths = [str(path) for path in paths if _split_from_name(path) == split]
        if len(split_paths) > 1:
            raise DataError(
                f"{', '.join(split_paths)}: wanted one file of the split {split}. Keep one version to a folder."
            )


def _file_questions(path: Path) -> list[Question]:
    split = _split_from_name(path)
    return [
        _question(row, f"{path}: record {number}", split) for number, row in enumerate(load_json_records(path), start=1)
    ]


def _split_from_name(path: Path) -> str:
    """The split that a file's name tells."""
    name_splits = [split for split in POPE_SPLITS if split in path.name]
    return name_splits[0] if len(name_splits) == 1 else ""


def _question(row: dict[str, Any], location: str, file_split: str) -> Question:
    split = str(row.get("category", "")) if row.get("category") in POPE_SPLITS else file_split
    if not split:
        raise DataError(
            f"{location}: of which split? Name the file after one, or give a category: {', '.join(POPE_SPLITS)}."
        )
    label = first_text_field(row, ("label", "answer"), location)
    if label not in ("yes", "no"):
        raise DataError(f"{location}: a label is yes or no. Got {label!r}. Is this the benchmark's original file?")
    return Question(
        id=f"{split}-{text_field(row, 'question_id', location)}",
        text=first_text_field(row, ("text", "question"), location),
        truth=label,
        image=first_text_field(row, ("image", "image_source"), location),
        choices=(),
        split=split,
        tags=record_tags(row),
    )


_SPLIT_COUNTS = {"adversarial": 3000, "popular": 3000}

POPE = Task(
    name="pope",
    kind="vision",
    answer_type="words",
    metric=YES_NO_MATCH,
    chance=0.5,
    baseline=0.5,
    read_questions=read_pope,
    prompt_templates={"bare": "{q}", "paper": SHORT_ANSWER_PROMPT},
    version=1,
    published=(
        PublishedVersion(
            name="POPE on COCO, head (3,000 random questions)", split_sizes={**_SPLIT_COUNTS, "random": 3000}
        ),
        PublishedVersion(
            name="e3e3926 (2,910 random questions, LLaVA's)", split_sizes={**_SPLIT_COUNTS, "random": 2910}
        ),
    ),
)

POPE_P = replace(
    POPE, name="pope_p", answer_type="choice", baseline=None, read_questions=read_pope_choices, variant_of="pope"
)
"""P("Yes") against P("No"), as the paper's harness asks; its own task, since a model may answer neither."""
