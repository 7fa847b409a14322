"""A user's own benchmark without code: `task.json` says how it is asked, `questions.jsonl` what."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.metrics import METRICS
from firstsight.evaluate.metrics.metric import Truth
from firstsight.evaluate.question import Question, Task, files, load, single
from firstsight.evaluate.tasks.beyond.mmmu import LETTERS, with_options
from firstsight.evaluate.tasks.records import Record, distinct, four, rows, shares, word

SAYS = "task.json"
_HEAD = ("prompt", "metric", "answered", "chance", "version")
_BASE = ("id", "question", "image", "split")
_BY_MANY = ("vqa", "vqa_strict", "vqa_paper", "textvqa", "vizwiz", "cider")
_TRUTHS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_BY_MANY, ("answers",)),
    "exact": ("answer",),
    "yes_no": ("answer",),
    "iou50": ("box", "width", "height"),
    "iou25": ("box", "width", "height"),
    "choice": ("answer", "choices"),
    "letter": ("answer", "choices"),
}
"""What a question of each metric says, beyond what every question says."""
_BY_CHOICE = ("choice", "exact", "yes_no")
_SLOT = "{question}"


def own(folder: Path) -> Task:
    """The task that a folder's task.json describes; DataError names what in it cannot be."""
    where = folder / SAYS
    held = load(where)
    _refuse_keys(held, _HEAD, str(where), needed=_HEAD)
    head = _Head(**{key: held[key] for key in ("prompt", "metric", "answered", "chance", "version")})
    head.check(where)
    given = files(folder)
    template = head.prompt.replace(_SLOT, "{q}")
    return Task(
        name=folder.name,
        kind="vision" if _looks(given, head, where) else "text",
        answered="choice" if head.answered == "choice" else "words",
        metric=METRICS[head.metric],
        chance=float(head.chance),
        baseline=None,
        read=partial(_read, head=head),
        wording={"bare": template, "paper": template},
        version=head.version,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Head:
    """What task.json says."""

    prompt: Any
    metric: Any
    answered: Any
    chance: Any
    version: Any

    def check(self, where: Path) -> None:
        """Every value can be, and metric and way of answering fit together."""
        if not isinstance(self.metric, str) or self.metric not in METRICS:
            raise DataError(f"{where}: no metric is called {self.metric!r}. Known: {', '.join(METRICS)}.")
        if not isinstance(self.prompt, str) or _SLOT not in self.prompt or "{q}" in self.prompt:
            raise DataError(f"{where}: prompt is a text that holds {_SLOT}. Got {self.prompt!r}. Say where it stands.")
        if self.answered not in ("words", "choice"):
            raise DataError(f'{where}: answered is "words" or "choice". Got {self.answered!r}. Say one.')
        fits = self.metric in _BY_CHOICE if self.answered == "choice" else self.metric != "choice"
        if not fits:
            raise DataError(f"{where}: the metric {self.metric} does not go with {self.answered!r}. Change one.")
        real = isinstance(self.chance, (int, float)) and not isinstance(self.chance, bool)
        if not real or not math.isfinite(self.chance) or not 0 <= self.chance < 1:
            raise DataError(f"{where}: chance is a share below 1. Got {self.chance!r}. Use 0 if unsure.")
        if not isinstance(self.version, int) or isinstance(self.version, bool) or self.version < 1:
            raise DataError(f"{where}: version is a whole number from 1. Got {self.version!r}. Count changes.")

    @property
    def keys(self) -> tuple[str, ...]:
        """What a question may say."""
        offered = ("choices",) if self.answered == "choice" else ()
        return tuple(dict.fromkeys((*_BASE, *_TRUTHS[self.metric], *offered)))


def _looks(given: Sequence[Path], head: _Head, where: Path) -> bool:
    """Whether its questions are about pictures; all are, or none."""
    records = rows(single(given, "questions.jsonl"))
    about = [record.held.get("image") is not None for record in records]
    if any(about) != all(about):
        bare = records[about.index(False)].where
        raise DataError(f"{bare}: has no image, and others have one. Split the benchmark into two folders.")
    if not any(about) and head.answered != "choice":
        raise DataError(f'{where}: questions without pictures are answered by choice. Got "words". Offer choices.')
    return any(about)


def _read(given: Sequence[Path], *, head: _Head) -> tuple[Question, ...]:
    return distinct([_question(record, head) for record in rows(single(given, "questions.jsonl"))], given)


def _question(record: Record, head: _Head) -> Question:
    row, where = record.held, record.where
    needed = [key for key in head.keys if key not in ("image", "split", "width", "height")]
    _refuse_keys(row, head.keys, where, needed=needed)
    choices = _texts(row["choices"], "choices", where) if "choices" in row else ()
    asked = word(row, "question", where)
    return Question(
        id=word(row, "id", where),
        text=with_options(asked, choices) if head.metric == "letter" else asked,
        truth=_truth(row, choices, head.metric, where),
        image=word(row, "image", where) if row.get("image") is not None else None,
        choices=choices if head.answered == "choice" else (),
        split=word(row, "split", where) if "split" in row else "",
        tags={},
    )


def _truth(row: Mapping[str, Any], choices: tuple[str, ...], metric: str, where: str) -> Truth:
    if metric in _BY_MANY:
        return _texts(row["answers"], "answers", where)
    if metric in ("iou50", "iou25"):
        size = (row["width"], row["height"]) if "width" in row and "height" in row else (1, 1)
        return shares(four(row["box"], where), size, where, slack=0.0)
    answer = word(row, "answer", where)
    if metric == "yes_no" and answer not in ("yes", "no"):
        raise DataError(f"{where}: the answer is yes or no. Got {answer!r}. Use the metric exact for other words.")
    if metric == "choice":
        return choices.index(_one_of(answer, choices, where))
    if metric == "letter":
        letters = LETTERS[: len(choices)]
        letter = answer if answer in list(letters) else letters[choices.index(_one_of(answer, choices, where))]
        return (letter, *choices)
    return answer


def _one_of(answer: str, choices: Sequence[str], where: str) -> str:
    if list(choices).count(answer) != 1:
        raise DataError(f"{where}: the answer is one of the choices, once: {list(choices)}. Got {answer!r}. Mend it.")
    return answer


def _texts(given: Any, what: str, where: str) -> tuple[str, ...]:
    texts = given if isinstance(given, list) else []
    if not all(isinstance(text, str) for text in texts) or not any(text.strip() for text in texts):
        raise DataError(f"{where}: {what} is a list of texts, not all empty. Got {str(given)[:80]}. Fill it.")
    if what == "choices" and not 2 <= len(texts) <= len(LETTERS):
        raise DataError(f"{where}: choices are 2 to {len(LETTERS)} texts. Got {len(texts)}. Offer more, or fewer.")
    return tuple(texts)


def _refuse_keys(held: Any, known: Sequence[str], where: str, *, needed: Sequence[str]) -> None:
    if not isinstance(held, dict):
        raise DataError(f"{where}: wanted an object with {', '.join(known)}. Got {str(held)[:80]}. Write one.")
    strange = [str(key) for key in held if key not in known]
    lacking = [key for key in needed if key not in held]
    if strange:
        raise DataError(f"{where}: unknown {', '.join(strange)}. Known: {', '.join(known)}. Drop or rename.")
    if lacking:
        raise DataError(f"{where}: lacks {', '.join(lacking)}. It needs {', '.join(needed)}. Add them.")
