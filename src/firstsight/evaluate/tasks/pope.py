"""POPE: is there an X in the picture? Three splits that differ in how the absent objects were drawn."""

from __future__ import annotations

from pathlib import Path

from firstsight.errors import DataError
from firstsight.evaluate.metrics import yes_no
from firstsight.evaluate.question import Question, Task, find, lines, tags, take
from firstsight.evaluate.tasks.vqav2 import SHORT

SPLITS = ("adversarial", "popular", "random")


def read(folder: Path) -> tuple[Question, ...]:
    """All three of POPE's files. Question ids repeat over splits, so they carry their split."""
    return tuple(question for split in SPLITS for question in read_split(find(folder, f"*{split}.json*"), split))


def read_split(path: Path, split: str) -> tuple[Question, ...]:
    """One split's file: a JSON object a line."""
    return tuple(
        Question(
            id=f"{split}-{take(row, 'question_id', path)}",
            text=take(row, "text", path),
            truth=_label(take(row, "label", path), path),
            image=str(take(row, "image", path)),
            choices=(),
            split=split,
            tags=tags(row),
        )
        for row in lines(path)
    )


def _label(label: str, path: Path) -> str:
    if label not in ("yes", "no"):
        raise DataError(f"{path}: a label is yes or no. Got {label!r}. Is this the benchmark's original file?")
    return label


POPE = Task(
    name="pope",
    kind="vision",
    metric="yes_no",
    check=yes_no,
    chance=0.5,
    baseline=0.5,
    read=read,
    wording={"bare": "{q}", "paper": SHORT},
    version=1,
)
