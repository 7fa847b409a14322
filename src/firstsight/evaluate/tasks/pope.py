"""POPE: whether an object is in an image; three splits, which differ in how the absent objects were sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.metrics.exact_match import YES_NO_MATCH
from firstsight.evaluate.task import PublishedVersion, Question, load_json_records
from firstsight.evaluate.tasks.records import (
    SHORT_ANSWER_PROMPT,
    first_text_field,
    image_question,
    require_unique_ids,
    text_field,
    vision_task,
)

POPE_SPLITS = ("adversarial", "popular", "random")


def read_pope(paths: Sequence[Path]) -> tuple[Question, ...]:
    """POPE's files, one per split, or lines with a `category`. Ids repeat in the splits, so they get its name."""
    for split in POPE_SPLITS:
        names = [str(path) for path in paths if _split_from_name(path) == split]
        if len(names) > 1:
            raise DataError(f"{', '.join(names)}: wanted one file of the split {split}. Keep one version to a folder.")
    questions = [
        _question(row, f"{path}: record {number}", _split_from_name(path))
        for path in paths
        for number, row in enumerate(load_json_records(path), start=1)
    ]
    questions.sort(key=lambda question: POPE_SPLITS.index(question.split))
    return require_unique_ids(questions, paths)


def read_pope_choices(paths: Sequence[Path]) -> tuple[Question, ...]:
    """The same questions with the choices "Yes" and "No"."""
    return tuple(replace(question, choices=("Yes", "No")) for question in read_pope(paths))


def _split_from_name(path: Path) -> str:
    splits = [split for split in POPE_SPLITS if split in path.name]
    return splits[0] if len(splits) == 1 else ""


def _question(row: Mapping[str, Any], location: str, file_split: str) -> Question:
    split = str(row["category"]) if row.get("category") in POPE_SPLITS else file_split
    if not split:
        raise DataError(
            f"{location}: of which split? Name the file after one, or give a category: {', '.join(POPE_SPLITS)}."
        )
    label = first_text_field(row, ("label", "answer"), location)
    if label not in ("yes", "no"):
        raise DataError(f"{location}: a label is yes or no. Got {label!r}. Is this the benchmark's original file?")
    question = image_question(
        row,
        question_id=f"{split}-{text_field(row, 'question_id', location)}",
        text=first_text_field(row, ("text", "question"), location),
        truth=label,
        image=first_text_field(row, ("image", "image_source"), location),
    )
    return replace(question, split=split)


_SPLIT_COUNTS = {"adversarial": 3000, "popular": 3000}

POPE = replace(
    vision_task("pope", YES_NO_MATCH, read_pope, prompt=SHORT_ANSWER_PROMPT, version=1, chance=0.5, baseline=0.5),
    published=tuple(
        PublishedVersion(name=name, split_sizes={**_SPLIT_COUNTS, "random": count})
        for name, count in (
            ("POPE on COCO, head (3,000 random questions)", 3000),
            ("e3e3926 (2,910 random questions, LLaVA's)", 2910),
        )
    ),
)

POPE_P = replace(
    POPE, name="pope_p", answer_type="choice", baseline=None, read_questions=read_pope_choices, variant_of="pope"
)
"""P("Yes") against P("No"), as in the paper's harness; a task of its own, since generated answers may be neither."""
