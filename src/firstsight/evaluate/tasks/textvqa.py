"""TextVQA: read what is written in the picture, without OCR tokens in the prompt."""

from __future__ import annotations

from pathlib import Path

from firstsight.evaluate.metrics import vqa
from firstsight.evaluate.question import Question, Task, find, load, tags, take
from firstsight.evaluate.tasks.vqav2 import SHORT, answers, read_vqa


def read(folder: Path) -> tuple[Question, ...]:
    """The VQA form, or TextVQA's own file ({"data": [...]} with ten strings an item)."""
    if any(folder.glob("*annotations*.json*")):
        return read_vqa(folder)
    path = find(folder, "*TextVQA*.json*")
    return tuple(
        Question(
            id=str(take(row, "question_id", path)),
            text=take(row, "question", path),
            truth=answers(take(row, "answers", path), path),
            image=str(take(row, "image_id", path)),
            choices=(),
            split="",
            tags=tags(row),
        )
        for row in take(load(path), "data", path)
    )


TEXTVQA = Task(
    name="textvqa",
    kind="vision",
    metric="vqa",
    check=vqa,
    chance=0.0,
    baseline=0.0,
    read=read,
    wording={"bare": "{q}", "paper": SHORT},
    version=1,
)
