"""GQA: compositional questions, one right answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from firstsight.evaluate.metrics.words import EXACT
from firstsight.evaluate.question import Published, Question, Task, single, tags
from firstsight.evaluate.tasks.records import Record, distinct, first_of, rows, word
from firstsight.evaluate.tasks.vqav2 import SHORT

_ID = ("question_id", "questionId", "id")
_PICTURE = ("imageId", "image_id", "image")


def read(given: Sequence[Path]) -> tuple[Question, ...]:
    """GQA's own file: {question id: {"imageId", "question", "answer"}}; or a list or lines that hold their ids."""
    path = single(given, "GQA's questions of one split")
    return distinct([_question(record) for record in rows(path)], given)


def _question(record: Record) -> Question:
    row, where = record.held, record.where
    return Question(
        id=first_of(row, _ID, where) if record.key is None else record.key,
        text=word(row, "question", where),
        truth=word(row, "answer", where),
        image=first_of(row, _PICTURE, where),
        choices=(),
        split="",
        tags=tags(row),
    )


GQA = Task(
    name="gqa",
    kind="vision",
    answered="words",
    metric=EXACT,
    chance=0.25,
    baseline=0.25,
    read=read,
    wording={"bare": "{q}", "paper": SHORT},
    version=1,
    published=(
        Published(name="GQA testdev_balanced", counts={"": 12578}),
        Published(name="testdev_all", counts={"": 172174}),
        Published(name="val_balanced", counts={"": 132062}),
        Published(name="train_balanced", counts={"": 943000}),
    ),
)
