"""VizWiz: questions of blind people, many of them unanswerable; judged, but outside the stable score."""

from __future__ import annotations

from pathlib import Path

from firstsight.evaluate.metrics import vqa
from firstsight.evaluate.question import Question, Task, find, load, tags, take
from firstsight.evaluate.tasks.vqav2 import answers, read_vqa

_SHORT = (
    "\n{q}\nWhen the provided information is insufficient, respond with 'Unanswerable'."
    "\nAnswer the question using a single word or phrase."
)


def read(folder: Path) -> tuple[Question, ...]:
    """The VQA form, or VizWiz's own list, whose items are known by their picture."""
    if any(folder.glob("*annotations*.json*")):
        return read_vqa(folder)
    path = find(folder, "*.json*")
    return tuple(
        Question(
            id=str(row.get("question_id", take(row, "image", path))),
            text=take(row, "question", path),
            truth=answers(take(row, "answers", path), path),
            image=str(take(row, "image", path)),
            choices=(),
            split="",
            tags=tags(row),
        )
        for row in load(path)
    )


VIZWIZ = Task(
    name="vizwiz",
    kind="vision",
    metric="vqa",
    check=vqa,
    chance=0.0,
    baseline=None,
    read=read,
    wording={"bare": "{q}", "paper": _SHORT},
    version=1,
)
