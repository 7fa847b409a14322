"""Answers and references in, one score with everything that stands behind it out; loads no model."""

from __future__ import annotations

import gc
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.given import refusing
from firstsight.evaluate.given.answers import Given, read
from firstsight.evaluate.given.joining import Joined, join
from firstsight.evaluate.given.known import is_box
from firstsight.evaluate.given.references import References
from firstsight.evaluate.given.references import read as read_references
from firstsight.evaluate.given.units import in_shares
from firstsight.evaluate.metrics.words import YES_NO, presence, says_yes
from firstsight.evaluate.question import Question, Task, version_of
from firstsight.evaluate.score import VERSION, Judged, interval, total
from firstsight.evaluate.summary import Row, judged

_PLACES = 9
_NO = re.compile(r"\W*(?:no|not)\b", re.IGNORECASE)
_OCR = "OCR token"
"""In LLaVA's prompts, the older ones too."""
_CHOICE = re.compile(r"\(?([A-Z])(?:\)|\.|:|$)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """A task's score over given answers."""

    task: Task
    rows: tuple[Row, ...]
    """In the order of the questions; a question that nothing answered scores 0."""
    missing: tuple[bool, ...]
    score: float
    """Missing answers counted wrong; a share of 1, and of CIDEr the score itself."""
    interval: tuple[float, float]
    answered: float | None
    """The score over the answered questions alone; None where every question is answered."""
    splits: Mapping[str, Mapping[str, float]]
    """Of yes-no questions accuracy, precision, recall, f1 and share of yes by split, and their `mean`."""
    joined: Joined
    version: str
    """Which published version of the benchmark the references are."""
    notes: tuple[str, ...]

    @property
    def lacking(self) -> int:
        """How many questions have no answer."""
        return sum(self.missing)

    @property
    def unreadable(self) -> int:
        """How many answers have not the form that the metric wants."""
        return sum(not row.readable for row, gone in zip(self.rows, self.missing, strict=True) if not gone)


def score(task: Task, answers: Sequence[Path], references: Sequence[Path]) -> Scored:
    """Read, join and score. DataError says which file or record cannot be used, and what to do."""
    with _undisturbed():
        return _score(task, answers, references)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Millions of small records live until the end: looking for garbage among them takes half of all time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _score(task: Task, answers: Sequence[Path], references: Sequence[Path]) -> Scored:
    asked = read_references(references, task)
    version = version_of(task, asked.questions)
    given = read(answers, task.name)
    try:
        joined = join(given, asked.questions, asked.named)
    except DataError as error:
        raise DataError(f"{error} The references are {version}.") from error
    words, units = _words(joined.answers, asked)
    missing = tuple(one is None for one in joined.answers)
    rows = _rows(task, asked.questions, joined.answers, words)
    left = task.left_out(asked.files) if task.left_out else {}
    notes = [f"{count:,} questions {why} are left out" for why, count in left.items()]
    notes += _warnings(task, [one for one in joined.answers if one])
    return Scored(
        task=task,
        rows=rows,
        missing=missing,
        score=total(judged(rows)),
        interval=interval(judged(rows)),
        answered=_answered(task, rows, missing),
        splits=_splits(task, rows, missing),
        joined=joined,
        version=version,
        notes=(*units, *notes),
    )


def _warnings(task: Task, answers: Sequence[Given]) -> list[str]:
    """What makes a score another thing than its name says."""
    found: list[str] = []
    helped = sum(_OCR in one.prompt for one in answers) if task.name == "textvqa" else 0
    if helped:
        found.append(f"{helped:,} prompts hold OCR tokens: this is no score of textvqa, but of textvqa_ocr")
    turned = [one.answer for one in answers if _NO.match(one.answer) and says_yes(one.answer)]
    if turned and task.metric is YES_NO:
        found.append(
            f"{len(turned):,} answers such as {turned[0][:20]!r} count as yes, as POPE's script has it, which knows "
            "No, no and not between spaces; clean the answers if they mean no"
        )
    return found


def _words(answers: Sequence[Given | None], asked: References) -> tuple[list[str], tuple[str, ...]]:
    words = [one.answer if one else "" for one in answers]
    if not is_box(asked.questions[0]):
        return words, ()
    said = [at for at, one in enumerate(answers) if one]
    boxes, notes = in_shares([words[at] for at in said], [asked.questions[at] for at in said], asked.files)
    for at, box in zip(said, boxes, strict=True):
        words[at] = box
    return words, notes


def _rows(
    task: Task, questions: Sequence[Question], answers: Sequence[Given | None], words: Sequence[str]
) -> tuple[Row, ...]:
    """Every question's score; what is missing scores 0, whatever the metric makes of silence."""
    meant = _meant(task, words, questions)
    marks = task.metric.marks(meant, [question.truth for question in questions])
    return tuple(
        Row(
            task=task,
            question=question,
            prompt=given.prompt if given else "",
            answer=word,
            score=float(mark) if given else 0.0,
            blind=False,
            readable=given is not None and task.metric.readable(said),
        )
        for question, given, word, said, mark in zip(questions, answers, words, meant, marks, strict=True)
    )


def _meant(task: Task, words: Sequence[str], questions: Sequence[Question]) -> list[str]:
    """What a metric compares: words as they are, and choices by number or words, as the truth is told."""
    if task.answered != "choice":
        return list(words)
    return [_chosen(word, question) for word, question in zip(words, questions, strict=True)]


def _chosen(answer: str, question: Question) -> str:
    """A choice told by its words, its number from 0, or its letter; empty, or the words, where it tells none."""
    place = _place(answer.strip(), question.choices)
    if not isinstance(question.truth, int):
        return answer if place is None else question.choices[place]
    return "" if place is None else str(place)


def _place(answer: str, choices: Sequence[str]) -> int | None:
    plain = [choice.strip().lower() for choice in choices]
    if answer.lower() in plain:
        return plain.index(answer.lower())
    lettered = _CHOICE.match(answer)
    place = int(answer) if answer.isdecimal() else ord(lettered[1].upper()) - ord("A") if lettered else -1
    return place if 0 <= place < len(choices) else None


def _answered(task: Task, rows: Sequence[Row], missing: Sequence[bool]) -> float | None:
    """The other reading: a corpus metric such as CIDEr weighs words by the questions that are there."""
    if not any(missing):
        return None
    there = [row for row, gone in zip(rows, missing, strict=True) if not gone]
    questions = [row.question for row in there]
    meant = _meant(task, [row.answer for row in there], questions)
    marks = task.metric.marks(meant, [question.truth for question in questions])
    told = judged(there)
    return total(Judged(scores=list(map(float, marks)), splits=told.splits, clusters=told.clusters))


def _splits(task: Task, rows: Sequence[Row], missing: Sequence[bool]) -> dict[str, dict[str, float]]:
    """POPE's numbers; a missing answer counts as the wrong side, not as the yes that silence is read as."""
    if task.metric is not YES_NO:
        return {}
    said = [_wrong(row) if gone else row.answer for row, gone in zip(rows, missing, strict=True)]
    found: dict[str, dict[str, float]] = {}
    for split in sorted({row.question.split for row in rows}):
        places = [at for at, row in enumerate(rows) if row.question.split == split]
        report = presence([said[at] for at in places], [str(rows[at].question.truth) for at in places])
        found[split or "all"] = {
            "n": float(len(places)),
            "accuracy": report.accuracy,
            "precision": report.precision,
            "recall": report.recall,
            "f1": report.f1,
            "yes": report.yes,
        }
    if len(found) > 1:
        parts = list(found.values())
        found["mean"] = {key: math.fsum(part[key] for part in parts) / len(parts) for key in parts[0] if key != "n"}
    return found


def _wrong(row: Row) -> str:
    return "yes" if str(row.question.truth) == "no" else "no"


def facts(scored: Scored) -> dict[str, Any]:
    """For machines: shares of 1 (CIDEr: the score itself) to nine places, and counts."""
    joined, task = scored.joined, scored.task
    return {
        "task": task.name,
        "metric": task.metric.name,
        "score": _round(scored.score),
        "points": _round(100 * scored.score),
        "interval": [_round(end) for end in scored.interval],
        "n": len(scored.rows),
        "answered": len(scored.rows) - scored.lacking,
        "missing": scored.lacking,
        "score_of_answered": _round(scored.score if scored.answered is None else scored.answered),
        "unreadable": scored.unreadable,
        "others": len(joined.others),
        "duplicates": joined.duplicates,
        "shared": joined.shared,
        "contested": [scored.rows[at].question.id for at in joined.contested],
        "joined_by": dict(joined.ways),
        "splits": {name: {key: _round(value) for key, value in held.items()} for name, held in scored.splits.items()},
        "benchmark": scored.version,
        "notes": list(scored.notes),
        "versions": {"scores": VERSION, "task": task.version},
    }


def lines(scored: Scored) -> str:
    """Every question as answers.jsonl keeps it; what nothing answered is marked as missing."""
    kept = [
        row.line() | ({"missing": True} if gone else {}) for row, gone in zip(scored.rows, scored.missing, strict=True)
    ]
    return "".join(_written(line) + "\n" for line in kept)


def _written(line: Mapping[str, Any]) -> str:
    """JSON with its letters as they are, save half letters, which a cut answer may end with and no file can hold."""
    text = json.dumps(line, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(line)
    return text


def others(scored: Scored) -> str:
    """The first few answers to questions that the references do not hold, beside what a question looks like."""
    return refusing.strangers(scored.joined.others, [row.question for row in scored.rows])


def _round(value: float) -> float:
    return round(float(value), _PLACES)
