"""Kept rows, and the scores.json that they add up to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from firstsight.evaluate.metrics import presence
from firstsight.evaluate.question import Question, Task
from firstsight.evaluate.score import VERSION, Judged, interval, means, total

Guesses = Mapping[str, Mapping[str, str]]
"""Task and question id to the answer of the best guesser that ignores the question."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One answer to one question."""

    task: Task
    question: Question
    prompt: str
    answer: str
    score: float
    blind: bool

    def line(self) -> dict[str, Any]:
        """As answers.jsonl keeps it; of several annotators' answers the most frequent one stands for the truth."""
        asked = self.question
        split = {"split": asked.split} if asked.split else {}
        return {
            "task": self.task.name,
            "question_id": asked.id,
            "image": asked.image,
            "prompt": self.prompt,
            "answer": self.answer,
            "truth": _shown(asked),
            "score": _round(self.score),
            "blind": self.blind,
            **split,
            **asked.tags,
        }


def row(task: Task, question: Question, *, prompt: str, answer: str, blind: bool) -> Row:
    """A checked answer; a choice is answered by its number and kept in words."""
    score = task.check(answer, question.truth)
    words = question.choices[int(answer)] if question.choices else answer
    return Row(task=task, question=question, prompt=prompt, answer=words, score=score, blind=blind)


def _shown(question: Question) -> Any:
    truth = question.truth
    if question.choices and isinstance(truth, int):
        return question.choices[truth]
    if isinstance(truth, tuple):
        most = Counter(truth).most_common(1)[0][0]
        return most if isinstance(most, str) else [_round(float(edge)) for edge in truth]
    return truth


def summarise(rows: Sequence[Row], guesses: Guesses) -> dict[str, Any]:
    """Scores by task, and the stable, centred and raw means by kind. All numbers lie in 0..1, to nine places."""
    names = list(dict.fromkeys(row.task.name for row in rows))
    tasks = {name: _facts([row for row in rows if row.task.name == name], guesses.get(name)) for name in names}
    seeing = {name: facts["score"] for name, facts in tasks.items() if facts["score"] is not None}
    found = {kind: means(seeing, kind) for kind in ("vision", "text")}
    versions = {name: row.task.version for name in names for row in rows if row.task.name == name}
    return {
        "tasks": tasks,
        "stable": {kind: _round(mean.stable) for kind, mean in found.items()},
        "centred": {kind: _round(mean.centred) for kind, mean in found.items()},
        "raw": {kind: _round(mean.raw) for kind, mean in found.items()},
        "missing": {kind: list(mean.missing) for kind, mean in found.items()},
        "versions": {"scores": VERSION, "stable": VERSION, **versions},
    }


def _facts(rows: Sequence[Row], guesses: Mapping[str, str] | None) -> dict[str, Any]:
    task = rows[0].task
    seeing, blind = ([row for row in rows if row.blind is which] for which in (False, True))
    asked = seeing or blind
    guessed = [_guess(row, guesses[row.question.id]) for row in asked] if guesses else []
    return {
        "kind": task.kind,
        "metric": task.metric,
        "n": len(asked),
        "score": _score(seeing),
        "interval": [_round(end) for end in interval(_judged(seeing))] if seeing else None,
        # What the stable score subtracts; beside it what guessing really scores, which centring uses.
        "chance": _round(task.baseline if task.baseline is not None else task.chance),
        "guess": _round(task.chance),
        "stable": task.baseline is not None,
        "blind": _score(blind),
        "question_blind": _score(guessed),
        "heldout": _score([row for row in seeing if "heldout" in row.question.tags.values()]),
        "by": _by_tag(seeing),
        "splits": _splits(seeing),
    }


def _guess(given: Row, answer: str) -> Row:
    return row(given.task, given.question, prompt="", answer=answer, blind=False)


def _judged(rows: Sequence[Row]) -> Judged:
    return Judged(
        scores=[row.score for row in rows],
        splits=[row.question.split for row in rows],
        clusters=[row.question.image or row.question.id for row in rows],
    )


def _score(rows: Sequence[Row]) -> float | None:
    return _round(total(_judged(rows))) if rows else None


def _by_tag(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, Any]]]:
    """Score and count for each value of each tag: {"form": {"heldout": {"n", "score"}, "seen": ...}}."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for tag, value in sorted({pair for row in rows for pair in row.question.tags.items()}):
        some = [row for row in rows if row.question.tags.get(tag) == value]
        found.setdefault(tag, {})[value] = {"n": len(some), "score": _score(some)}
    return found


def _splits(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """POPE's own numbers for each of its splits."""
    found: dict[str, dict[str, Any]] = {}
    for split in sorted({row.question.split for row in rows} - {""}):
        some = [row for row in rows if row.question.split == split]
        report = presence([row.answer for row in some], [str(row.question.truth) for row in some])
        found[split] = {"n": len(some), "accuracy": _round(report.accuracy), "f1": _round(report.f1)}
        found[split] |= {"precision": _round(report.precision), "recall": _round(report.recall)}
        found[split] |= {"yes": _round(report.yes)}
    return found


def _round(value: float | None) -> float | None:
    """Nine places: enough for every use, and the same on every machine."""
    return None if value is None else round(float(value), 9)
