"""VizWiz: questions of blind people, many of them unanswerable; judged, but outside the stable score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from firstsight.evaluate.metrics.vqa import VIZWIZ as ITS_OWN
from firstsight.evaluate.question import Published, Question, Task, lines, load, single, tags, take
from firstsight.evaluate.tasks.records import distinct, holding, word
from firstsight.evaluate.tasks.vqav2 import answers, joined

_SHORT = (
    "\n{q}\nWhen the provided information is insufficient, respond with 'Unanswerable'."
    "\nAnswer the question using a single word or phrase."
)


def read(given: Sequence[Path]) -> tuple[Question, ...]:
    """The VQA form, or VizWiz's own list, whose items are known by their picture."""
    held = {path: load(path) for path in given}
    if holding(held, "questions") or holding(held, "annotations"):
        return joined(held)
    path = single(given, "VizWiz's list of one split")
    found: list[Question] = []
    for number, row in enumerate(lines(path), start=1):
        where = f"{path}: record {number}"
        picture = word(row, "image", where)
        found.append(
            Question(
                id=word(row, "question_id", where) if "question_id" in row else picture,
                text=word(row, "question", where),
                truth=answers(take(row, "answers", where), path),
                image=picture,
                choices=(),
                split="",
                tags=tags(row),
            )
        )
    return distinct(found, given)


VIZWIZ = Task(
    name="vizwiz",
    kind="vision",
    answered="words",
    metric=ITS_OWN,
    chance=0.0,
    baseline=None,
    read=read,
    wording={"bare": "{q}", "paper": _SHORT},
    version=2,
    published=(Published(name="VizWiz val", counts={"": 4319}), Published(name="train", counts={"": 20523})),
)
