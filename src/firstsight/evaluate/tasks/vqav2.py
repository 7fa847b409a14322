"""VQAv2: open questions, ten answers each; and `kinds`, the built-in world's diagnostic in the same form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.metrics.vqa import VQA
from firstsight.evaluate.question import Published, Question, Task, load, tags, take
from firstsight.evaluate.tasks.records import distinct, holding, listed, word

SHORT = "\n{q}\nAnswer the question using a single word or phrase."
"""The paper's wording. Source: paper 5.2."""


def read_vqa(given: Sequence[Path]) -> tuple[Question, ...]:
    """The challenge's two files, questions and annotations, in any order, joined by question id."""
    return joined({path: load(path) for path in given})


def joined(held: Mapping[Path, Any]) -> tuple[Question, ...]:
    """The VQA form out of files that are loaded; DataError where a question or an annotation stands alone."""
    asked, answered = holding(held, "questions"), holding(held, "annotations")
    strange = [path.name for path in held if path not in (asked, answered)]
    if asked is None or answered is None or strange:
        names, got = ", ".join(str(path) for path in held), _holds(asked, answered, strange)
        raise DataError(
            f"{names}: wanted a file with questions and one with annotations. Got {got}. "
            "Keep both files of one split, and nothing else, in the folder."
        )
    truths = _by_id(held[answered]["annotations"], answered)
    rows = _by_id(held[asked]["questions"], asked)
    _refuse_alone(sorted(rows.keys() - truths.keys()), "questions have no annotation", asked, answered)
    _refuse_alone(sorted(truths.keys() - rows.keys()), "annotations have no question", answered, asked)
    return distinct([_question(key, row, truths[key], asked, answered) for key, row in rows.items()], list(held))


def _holds(asked: Path | None, answered: Path | None, strange: Sequence[str]) -> str:
    lacking = [what for what, path in (("questions", asked), ("annotations", answered)) if path is None]
    return " and ".join([f"no {what}" for what in lacking] + [f"{name} beside them" for name in strange])


def _by_id(given: Any, where: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    twice: list[str] = []
    for row in given:
        key = word(row, "question_id", where)
        twice += [key] if key in found else []
        found[key] = row
    if twice:
        raise DataError(f"{where}: question ids are told twice: {listed(twice)}. Keep one record for each.")
    return found


def _refuse_alone(keys: Sequence[str], what: str, where: Path, other: Path) -> None:
    if keys:
        raise DataError(f"{where}: {len(keys):,} {what} in {other.name}: {listed(keys)}. Are both files of one split?")


def _question(key: str, row: dict[str, Any], truth: dict[str, Any], asked: Path, answered: Path) -> Question:
    return Question(
        id=key,
        text=word(row, "question", asked),
        truth=answers(take(truth, "answers", answered), answered),
        image=word(row, "image_id", asked),
        choices=(),
        split="",
        tags=tags(truth) | tags(row),
    )


def answers(given: Any, where: Path) -> tuple[str, ...]:
    """Every annotator's answer, kept in order: as strings, or as records with an `answer`."""
    if not isinstance(given, list) or not given:
        raise DataError(f"{where}: a question without answers cannot be scored. Use a split with public answers.")
    # Two million of them in VQAv2, so what is as it should be is not looked at twice.
    said: list[Any] = [one.get("answer") if isinstance(one, dict) else one for one in given]
    if not all(isinstance(answer, str) for answer in said):
        said = [answer if isinstance(answer, str) else word(answer, "answer", where) for answer in given]
    return tuple(said)


VQAV2 = Task(
    name="vqav2",
    kind="vision",
    answered="words",
    metric=VQA,
    chance=0.25,
    baseline=0.25,
    read=read_vqa,
    wording={"bare": "{q}", "paper": SHORT},
    version=2,
    published=(Published(name="VQAv2 val2014", counts={"": 214354}), Published(name="train2014", counts={"": 443757})),
)
"""The baseline is what "yes" to everything scores."""

KINDS = Task(
    name="kinds",
    kind="vision",
    answered="words",
    metric=VQA,
    chance=0.0,
    baseline=None,
    read=read_vqa,
    wording={"bare": "{q}", "paper": SHORT},
    version=2,
)
"""Knowledge told only in text, applied to sight; reported apart, in no mean."""
