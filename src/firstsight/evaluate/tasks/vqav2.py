"""VQAv2: open questions, ten answers each; and `kinds`, the built-in world's diagnostic in the same form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.metrics import vqa
from firstsight.evaluate.question import Question, Task, find, load, tags, take

SHORT = "\n{q}\nAnswer the question using a single word or phrase."
"""The paper's wording. Source: paper 5.2."""


def read_vqa(folder: Path) -> tuple[Question, ...]:
    """The challenge's two files, questions and annotations, joined by question id."""
    asked, answered = find(folder, "*questions*.json*"), find(folder, "*annotations*.json*")
    truths = {take(row, "question_id", answered): row for row in take(load(answered), "annotations", answered)}
    rows = take(load(asked), "questions", asked)
    return tuple(_question(row, truths.get(take(row, "question_id", asked)), asked) for row in rows)


def _question(row: dict[str, Any], truth: dict[str, Any] | None, where: Path) -> Question:
    if truth is None:
        raise DataError(f"{where}: question {row['question_id']} has no annotation. Are both files of one split?")
    return Question(
        id=str(row["question_id"]),
        text=take(row, "question", where),
        truth=answers(take(truth, "answers", where), where),
        image=str(take(row, "image_id", where)),
        choices=(),
        split="",
        tags=tags(truth) | tags(row),
    )


def answers(given: list[Any], where: Path) -> tuple[str, ...]:
    """Every annotator's answer, kept in order: as strings, or as records with an `answer`."""
    if not given:
        raise DataError(f"{where}: a question without answers cannot be scored. Use a split with public answers.")
    return tuple(answer if isinstance(answer, str) else str(take(answer, "answer", where)) for answer in given)


VQAV2 = Task(
    name="vqav2",
    kind="vision",
    metric="vqa",
    check=vqa,
    chance=0.25,
    baseline=0.25,
    read=read_vqa,
    wording={"bare": "{q}", "paper": SHORT},
    version=1,
)
"""The baseline is what "yes" to everything scores."""

KINDS = Task(
    name="kinds",
    kind="vision",
    metric="vqa",
    check=vqa,
    chance=0.0,
    baseline=None,
    read=read_vqa,
    wording={"bare": "{q}", "paper": SHORT},
    version=1,
)
"""Knowledge told only in text, applied to sight; reported apart, in no mean."""
