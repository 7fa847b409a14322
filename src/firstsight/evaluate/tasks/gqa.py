"""GQA: compositional questions, one right answer."""

from __future__ import annotations

from pathlib import Path

from firstsight.evaluate.metrics import exact
from firstsight.evaluate.question import Question, Task, find, load, tags, take
from firstsight.evaluate.tasks.vqav2 import SHORT


def read(folder: Path) -> tuple[Question, ...]:
    """GQA's own file: {question id: {"imageId", "question", "answer"}}."""
    path = find(folder, "*questions*.json*")
    return tuple(
        Question(
            id=str(key),
            text=take(row, "question", path),
            truth=str(take(row, "answer", path)),
            image=str(take(row, "imageId", path)),
            choices=(),
            split="",
            tags=tags(row),
        )
        for key, row in load(path).items()
    )


GQA = Task(
    name="gqa",
    kind="vision",
    metric="exact",
    check=exact,
    chance=0.25,
    baseline=0.25,
    read=read,
    wording={"bare": "{q}", "paper": SHORT},
    version=1,
)
