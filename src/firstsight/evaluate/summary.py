"""Kept rows, and the scores.json that they add up to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from firstsight.evaluate.metrics.words import presence
from firstsight.evaluate.question import Question, Task, version_of
from firstsight.evaluate.score import AGGREGATES, VERSION, Judged, aggregates, interval, total

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
    readable: bool = True
    """Whether the answer has the form that the metric wants."""

    def line(self) -> dict[str, Any]:
        """As answers.jsonl keeps it; of several annotators' answers the most frequent one stands for the truth."""
        asked = self.question
        split = {"split": asked.split} if asked.split else {}
        unread = {} if self.readable else {"readable": False}
        return {
            "task": self.task.name,
            "question_id": asked.id,
            "image": asked.image,
            "prompt": self.prompt,
            "answer": self.answer,
            "truth": _shown(asked),
            "score": _round(self.score),
            "blind": self.blind,
            **unread,
            **split,
            **asked.tags,
        }


def checked(
    task: Task, questions: Sequence[Question], answers: Sequence[str], *, prompts: Sequence[str], blind: bool
) -> list[Row]:
    """Checked answers to one task; a choice is answered by its number and kept in words."""
    words = [
        question.choices[int(answer)] if task.answered == "choice" else answer
        for question, answer in zip(questions, answers, strict=True)
    ]
    # The right choice is known by its number or by its words.
    meant = [a if isinstance(q.truth, int) else w for q, a, w in zip(questions, answers, words, strict=True)]
    scores = task.metric.marks(meant, [question.truth for question in questions])
    return [
        Row(
            task=task,
            question=question,
            prompt=prompt,
            answer=word,
            score=float(score),
            blind=blind,
            readable=task.metric.readable(said),
        )
        for question, prompt, word, said, score in zip(questions, prompts, words, meant, scores, strict=True)
    ]


def _shown(question: Question) -> Any:
    truth = question.truth
    if question.choices and isinstance(truth, int):
        return question.choices[truth]
    if isinstance(truth, tuple):
        most = Counter(truth).most_common(1)[0][0]
        return most if isinstance(most, str) else [_round(float(edge)) for edge in truth]
    return truth


def summarise(rows: Sequence[Row], guesses: Guesses) -> dict[str, Any]:
    """Scores by task, and the stable, centred and raw means by kind, to nine places."""
    names = list(dict.fromkeys(row.task.name for row in rows))
    tasks = {name: _facts([row for row in rows if row.task.name == name], guesses.get(name)) for name in names}
    return summed(tasks, {row.task.name: row.task.version for row in rows})


def summed(tasks: Mapping[str, Mapping[str, Any]], versions: Mapping[str, int]) -> dict[str, Any]:
    """scores.json of these tasks' scores and versions."""
    seeing = {name: facts["score"] for name, facts in tasks.items() if facts["score"] is not None}
    return {
        "tasks": dict(tasks),
        **aggregates(seeing),
        "versions": {"scores": VERSION, **AGGREGATES, **versions},
    }


def _facts(rows: Sequence[Row], guesses: Mapping[str, str] | None) -> dict[str, Any]:
    task = rows[0].task
    seeing, blind = ([row for row in rows if row.blind is which] for which in (False, True))
    asked = seeing or blind
    guessed = _guessed(asked, guesses) if guesses else []
    below = {"blind": blind, "question_blind": guessed}
    return {
        "kind": task.kind,
        "metric": task.metric.name,
        "n": len(asked),
        "asked": version_of(task, [row.question for row in asked]),
        "unreadable": sum(not row.readable for row in asked),
        "score": _score(seeing),
        "interval": [_round(end) for end in interval(judged(seeing))] if seeing else None,
        # What the stable score subtracts; beside it what guessing really scores, which centring uses.
        "chance": _round(task.baseline if task.baseline is not None else task.chance),
        "guess": _round(task.chance),
        "stable": task.baseline is not None,
        "blind": _score(blind),
        "text_only": None,
        "over": {name: _over(seeing, rest) for name, rest in below.items() if seeing and rest},
        "question_blind": _score(guessed),
        "heldout": _score([row for row in seeing if "heldout" in row.question.tags.values()]),
        "by": _by_tag(seeing),
        "splits": _splits(seeing),
    }


def beside(scores: Mapping[str, Any], rows: Sequence[Row], *, text_only: Sequence[Row]) -> dict[str, Any]:
    """The scores with those of the text model that the checkpoint came from, asked the same questions blind."""
    tasks = dict(scores["tasks"])
    for name in dict.fromkeys(row.task.name for row in text_only):
        theirs = [row for row in text_only if row.task.name == name]
        ours = [row for row in rows if row.task.name == name and not row.blind]
        over = {"text_only": _over(ours, theirs)} if ours else {}
        tasks[name] = {**tasks[name], "text_only": _score(theirs), "over": {**tasks[name]["over"], **over}}
    return {**scores, "tasks": tasks}


def _over(rows: Sequence[Row], below: Sequence[Row]) -> dict[str, Any]:
    """How far a score stands over another to the same questions, with the interval of the paired difference."""
    under = {row.question.id: row.score for row in below}
    gap = replace(judged(rows), scores=[row.score - under[row.question.id] for row in rows])
    return {"difference": _round(total(gap)), "interval": [_round(end) for end in interval(gap, signed=True)]}


def _guessed(rows: Sequence[Row], guesses: Mapping[str, str]) -> list[Row]:
    questions = [row.question for row in rows]
    answers = [guesses[question.id] for question in questions]
    if rows[0].task.answered == "choice":
        answers = [_numbered(question, answer) for question, answer in zip(questions, answers, strict=True)]
    return checked(rows[0].task, questions, answers, prompts=[""] * len(rows), blind=False)


def _numbered(question: Question, answer: str) -> str:
    """The number of the choice that a guess means."""
    return str([choice.lower() for choice in question.choices].index(answer.lower()))


def judged(rows: Sequence[Row]) -> Judged:
    """The rows' scores; questions about one picture stand or fall together, the others alone."""
    return Judged(
        scores=[row.score for row in rows],
        splits=[row.question.split for row in rows],
        clusters=[row.question.image or row.question.id for row in rows],
    )


def _score(rows: Sequence[Row]) -> float | None:
    return _round(total(judged(rows))) if rows else None


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
