"""POPE: is there an X in the picture? Three splits that differ in how the absent objects were drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.metrics.words import YES_NO
from firstsight.evaluate.question import Published, Question, Task, lines, tags
from firstsight.evaluate.tasks.records import distinct, first_of, word
from firstsight.evaluate.tasks.vqav2 import SHORT

SPLITS = ("adversarial", "popular", "random")


def read(given: Sequence[Path]) -> tuple[Question, ...]:
    """POPE's files, one a split, or lines that say their `category`. Ids repeat over splits, so they carry theirs."""
    _refuse_twice(given)
    found = [question for path in given for question in _questions(path)]
    found.sort(key=lambda question: SPLITS.index(question.split))
    return distinct(found, given)


def read_choices(given: Sequence[Path]) -> tuple[Question, ...]:
    """The same, to be answered by the likelier of "Yes" and "No"."""
    return tuple(replace(question, choices=("Yes", "No")) for question in read(given))


def _refuse_twice(given: Sequence[Path]) -> None:
    for split in SPLITS:
        named = [str(path) for path in given if _named(path) == split]
        if len(named) > 1:
            raise DataError(f"{', '.join(named)}: wanted one file of the split {split}. Keep one version to a folder.")


def _questions(path: Path) -> list[Question]:
    split = _named(path)
    return [_question(row, f"{path}: record {at}", split) for at, row in enumerate(lines(path), start=1)]


def _named(path: Path) -> str:
    """The split that a file's name tells."""
    told = [split for split in SPLITS if split in path.name]
    return told[0] if len(told) == 1 else ""


def _question(row: dict[str, Any], where: str, named: str) -> Question:
    split = str(row.get("category", "")) if row.get("category") in SPLITS else named
    if not split:
        raise DataError(f"{where}: of which split? Name the file after one, or give a category: {', '.join(SPLITS)}.")
    label = first_of(row, ("label", "answer"), where)
    if label not in ("yes", "no"):
        raise DataError(f"{where}: a label is yes or no. Got {label!r}. Is this the benchmark's original file?")
    return Question(
        id=f"{split}-{word(row, 'question_id', where)}",
        text=first_of(row, ("text", "question"), where),
        truth=label,
        image=first_of(row, ("image", "image_source"), where),
        choices=(),
        split=split,
        tags=tags(row),
    )


_EACH = {"adversarial": 3000, "popular": 3000}

POPE = Task(
    name="pope",
    kind="vision",
    answered="words",
    metric=YES_NO,
    chance=0.5,
    baseline=0.5,
    read=read,
    wording={"bare": "{q}", "paper": SHORT},
    version=1,
    published=(
        Published(name="POPE on COCO, head (3,000 random questions)", counts={**_EACH, "random": 3000}),
        Published(name="e3e3926 (2,910 random questions, LLaVA's)", counts={**_EACH, "random": 2910}),
    ),
)

POPE_P = replace(POPE, name="pope_p", answered="choice", baseline=None, read=read_choices, variant="pope")
"""P("Yes") against P("No"), as the paper's harness asks; its own task, since a model may answer neither."""
